"""`export`: names, order and embeddings in other formats, read back by the programs that people read them with."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

from tests.sample import write_contigs
from tests.test_cli import run_main
from tests.test_documents import REPOSITORY, blocks
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels
from vpdist.commands.export_run import export_path, export_run
from vpdist.commands.predict import predict
from vpdist.errors import StorageError, UsageError
from vpdist.results import exported, gathered, parts, table_files
from vpdist.storage.atomic_files import DamagedFile

PER = ("sequence", "fragment")
KINDS = {"nucleotide": NUCLEOTIDE_WIDTH, "protein": PROTEIN_WIDTH}

Matrices = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def done(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    contigs = write_contigs(folder / "contigs.fa", n=20)
    contigs.write_text(contigs.read_text() + ">NA short\nAC\n>\xe4 umlaut\n" + "ATGGCTGCT" * 20 + "\n")
    assert predict(models.settings(contigs, folder / "run", token_budget=600)) == 0
    assert len(list((folder / "run" / "parts").iterdir())) > 3
    return folder / "run"


@pytest.fixture(params=["all fragments", "some failed"])
def run(request: pytest.FixtureRequest, done: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run; as if every fifth row of each of its parts had no usable embedding."""
    if request.param == "some failed":
        monkeypatch.setattr(gathered.parts, "read", with_failures)
    return done


def with_failures(folder: Path, unit: int, names: tuple[str, ...], read=parts.read) -> Matrices:  # type: ignore[no-untyped-def]
    part = read(folder, unit, names)
    if "failed" in part:
        part["failed"][::5] = 1
    return part


def rows(run: Path, per: str) -> list[dict[str, str]]:
    with open(run / f"{per}s.tsv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def by_hand(run: Path, per: str) -> Matrices:
    """Embeddings in the order of the table, put together one by one."""
    fragments = rows(run, "fragment")
    found = {kind: np.full((len(fragments), width), np.nan) for kind, width in KINDS.items()}
    for unit in range(len(list((run / "parts").iterdir()))):
        part = gathered.parts.read(run / "parts", unit, ("failed", "fragment", "row", *KINDS))
        for number, row in zip(part["fragment"], part["row"], strict=True):
            for kind in KINDS:
                if not part["failed"][row]:
                    found[kind][number] = part[kind][row]
    if per == "fragment":
        return found
    names = np.array([row["seq_name"] for row in fragments])
    means = {}
    for kind in KINDS:
        of = [found[kind][names == row["seq_name"]] for row in rows(run, "sequence")]
        sound = [each[~np.isnan(each[:, 0])] for each in of]
        means[kind] = np.array([each.mean(0) if len(each) else np.full(KINDS[kind], np.nan) for each in sound])
    return means


def assert_embeddings(found: Matrices, run: Path, per: str) -> None:
    for kind, expected in by_hand(run, per).items():
        assert np.isnan(expected[:, 0]).any() == (per == "sequence" or gathered.parts.read is with_failures)
        np.testing.assert_allclose(found[kind], expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("per", PER)
def test_h5_has_names_columns_and_embeddings_in_the_order_of_the_table(run: Path, per: str, tmp_path: Path) -> None:
    path, n = export_run(run, "h5", per, tmp_path / "out.h5")
    table = rows(run, per)
    with h5py.File(path) as file:
        assert list(file["name"].asstr()) == [row["seq_name" if per == "sequence" else "fragment_id"] for row in table]
        assert n == len(table)
        assert list(file["columns/prediction"].asstr()) == [row["prediction"] for row in table]
        scores = file["columns/virus_score"][:]
        assert [f"{score:.6g}" if score == score else "NA" for score in scores] == [row["virus_score"] for row in table]
        assert_embeddings({kind: file[kind][:] for kind in KINDS}, run, per)
        assert (file["columns/n_embedded"][:] > 0).tolist() == (~np.isnan(file["protein"][:, 0])).tolist()
        assert file["protein"].dtype == np.float32
        assert file.attrs["per"] == per
        assert "mean over residues" in file.attrs["pooling"]


@pytest.mark.parametrize("per", PER)
def test_npz_is_read_by_numpy_without_pickles(run: Path, per: str, tmp_path: Path) -> None:
    path, n = export_run(run, "npz", per, tmp_path / "out.npz")
    table = rows(run, per)
    with np.load(path, allow_pickle=False) as file:
        assert file["name"].tolist() == [row["seq_name" if per == "sequence" else "fragment_id"] for row in table]
        assert len(file["virus_score"]) == n
        assert file["prediction"].tolist() == [row["prediction"] for row in table]
        assert ("call" in file) == (per == "sequence")
        if per == "sequence":
            assert file["call"].tolist() == [row["call"] for row in table]
        assert_embeddings({kind: file[kind] for kind in KINDS}, run, per)
    again, _ = export_run(run, "npz", per, tmp_path / "again.npz")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("per", PER)
def test_parquet_is_read_by_pandas(run: Path, per: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path, _ = export_run(run, "parquet", per, tmp_path / "out.parquet")
    frame, table = pandas.read_parquet(path), rows(run, per)
    for name in table[0]:
        if name not in table_files.FLOATS:
            assert frame[name].astype(str).tolist() == [row[name] for row in table]
    assert frame["virus_score"].isna().tolist() == [row["virus_score"] == "NA" for row in table]
    assert_embeddings({kind: np.stack(frame[kind].to_numpy()) for kind in KINDS}, run, per)


@pytest.mark.parametrize("per", PER)
@pytest.mark.filterwarnings("ignore")
def test_h5ad_is_read_by_anndata(run: Path, per: str, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed")
    path, _ = export_run(run, "h5ad", per, tmp_path / "out.h5ad")
    found, table = anndata.read_h5ad(path), rows(run, per)
    first = "seq_name" if per == "sequence" else "fragment_id"
    assert found.obs_names.tolist() == [row[first] for row in table]
    assert found.obs["prediction"].astype(str).tolist() == [row["prediction"] for row in table]
    assert_embeddings({kind: found.X[:, found.var["kind"] == kind] for kind in KINDS}, run, per)
    assert found.var_names[:2].tolist() == ["nucleotide_0", "nucleotide_1"]
    assert found.uns["vpdist"]["per"] == per
    usable = found[found.obs["n_embedded"] > 0]
    assert not np.isnan(usable.X).any()
    assert 0 < usable.n_obs < found.n_obs or per == "fragment"


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_the_documents_run(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done, "RUN")
    programs = blocks((REPOSITORY / "docs" / "export.md").read_text(), "python")
    assert len(programs) == 4
    for form, program in zip(exported.FORMATS, programs, strict=True):
        for library in ("pyarrow", "anndata"):
            if library in program or form == {"pyarrow": "parquet", "anndata": "h5ad"}[library]:
                pytest.importorskip(library, reason=f"{library} is not installed")
        export_run(Path("RUN"), form)
        found: dict[str, object] = {}
        exec(program, found)
        assert {"names", "frame", "run"} & found.keys()


def test_blocks_of_one_row_give_the_same_file(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = export_run(done, "npz", "sequence", tmp_path / "whole.npz")
    monkeypatch.setattr(exported, "BLOCK_BYTES", 1)
    monkeypatch.setattr(gathered, "ROWS", 1)
    again, _ = export_run(done, "npz", "sequence", tmp_path / "rows.npz")
    assert again.read_bytes() == path.read_bytes()


def test_a_file_beside_the_run_is_the_default_and_none_is_overwritten(done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    path, _ = export_run(run, "h5")
    assert path == tmp_path / "run-sequences.h5" == export_path(run, "h5", "sequence")
    with pytest.raises(UsageError, match="is there already"):
        export_run(run, "h5")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", "run-sequences.h5"]


def test_what_cannot_be_exported_is_told(done: Path, models: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--to csv: choose one of h5, npz, parquet, h5ad"):
        export_run(done, "csv")
    with pytest.raises(UsageError, match="--per read: choose one of sequence, fragment"):
        export_run(done, "h5", "read")
    with pytest.raises(UsageError, match="holds no run"):
        export_run(tmp_path, "h5")
    run = Path(shutil.copytree(done, tmp_path / "run"))
    table = run / "sequences.tsv"
    whole = table.read_text()
    table.write_text(whole.rpartition("\n")[0].rpartition("\n")[0] + "\n")
    with pytest.raises(DamagedFile, match="does not have the 23 rows of the run"):
        export_run(run, "h5")
    table.write_text(whole)
    (run / "parts" / "unit-000001.h5").unlink()
    with pytest.raises(UsageError, match=r"1 of \d+ units are missing"):
        export_run(run, "h5")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"]


def test_a_disk_without_room_is_told_before_anything_is_written(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="do not fit"):
        export_run(done, "h5", "sequence", tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_fragment_gives_rows_without_embeddings(models: TinyModels, tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nAC\n>b\nTTAATTAATTAG\n")
    assert predict(models.settings(tmp_path / "in.fa", tmp_path / "run")) == 0
    for form in ("h5", "npz", "h5ad", "parquet"):
        if form == "parquet":
            pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        assert export_run(tmp_path / "run", form)[1] == 2
        assert export_run(tmp_path / "run", form, "fragment")[1] == 0
    with np.load(tmp_path / "run-sequences.npz") as file:
        assert (file["name"].tolist(), file["protein"].shape) == (["a", "b"], (2, 0))


def test_the_command_tells_what_it_has_written(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "export", done, "--to", "h5", "-o", tmp_path / "out.h5") == 0
    assert capfd.readouterr().out == f"{tmp_path / 'out.h5'}: written, 23 sequences\n"
    assert run_main(monkeypatch, "export", done, "--to", "h5", "-o", tmp_path / "out.h5") == 2
