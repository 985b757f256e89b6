"""Parts: one unit, one file; damage of any kind is found, and only what is missing is left to do."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vpdist.encoder_kinds import KINDS
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Limits, Plan, build
from vpdist.results import parts
from vpdist.results.parts import PartHeader
from vpdist.storage.hdf5_files import DamagedFile

HEADER = PartHeader(
    plan="",
    dtype="float32",
    embedding_dtype="float32",
    threads=1,
    models={"nucleotide": "n" * 8, "protein": "p" * 8},
    classifier="c" * 8,
    embeddings=True,
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    rng = np.random.default_rng(0)
    residues = rng.integers(20, 60, 90)
    keys = FragmentKeys(
        residues=residues,
        tokens={"nucleotide": residues // 2 + 2, "protein": residues + 2},
        nucleotide_hash=rng.integers(0, 2, 90, dtype=np.uint64),
        protein_hash=np.zeros(90, np.uint64),
    )
    cost = EncoderCost(linear=10**6, attention=10**3)
    return build(keys, Limits(token_budget=300, unit_cost=10**9, unit_rows=1000), {"nucleotide": cost, "protein": cost})


@pytest.fixture(scope="module")
def header(plan: Plan) -> PartHeader:
    return replace(HEADER, plan=plan.digest())


@pytest.fixture(scope="module")
def written(plan: Plan, header: PartHeader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(1)
    for unit in range(plan.n_units):
        rows = len(plan.rows(unit))
        results = {
            "logits": rng.normal(size=(rows, 2)).astype(np.float32),
            "nucleotide": rng.normal(size=(rows, 6)).astype(np.float32),
            "protein": rng.normal(size=(rows, 4)).astype(np.float32),
        }
        parts.write(folder, unit, plan, header, np.zeros(rows, bool), results)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "parts"))


def test_all_fragments_are_in_the_parts_exactly_once(plan: Plan, header: PartHeader, written: Path) -> None:
    assert plan.n_units > 3
    assert plan.n_rows < 90  # the hashes make some fragments equal
    fragments = [parts.read(written, unit, ["fragment"])["fragment"] for unit in range(plan.n_units)]
    assert sorted(np.concatenate(fragments).tolist()) == list(range(90))
    assert parts.remaining(written, plan, header) == []
    assert parts.damaged(written, range(plan.n_units), plan, header, full=True) == {}


def test_equal_fragments_share_a_row(plan: Plan, written: Path) -> None:
    for unit in range(plan.n_units):
        part = parts.read(written, unit, ["fragment", "row"])
        for row, fragments in enumerate(np.split(part["fragment"], np.flatnonzero(np.diff(part["row"])) + 1)):
            start = plan.rows(unit).start + row
            assert fragments.tolist() == plan.fragment[plan.row_start[start] : plan.row_start[start + 1]].tolist()


def test_an_absent_part_is_left_to_do(plan: Plan, header: PartHeader, folder: Path) -> None:
    parts.part_path(folder, 2).unlink()
    assert parts.remaining(folder, plan, header) == [2]


def test_a_truncated_part_is_left_to_do(plan: Plan, header: PartHeader, folder: Path) -> None:
    path = parts.part_path(folder, 1)
    path.write_bytes(path.read_bytes()[:700])
    assert parts.remaining(folder, plan, header) == [1]


@pytest.mark.parametrize("name", ["nucleotide", "protein", "logits", "fragment", "row"])
def test_a_flipped_bit_in_any_dataset_is_found(plan: Plan, header: PartHeader, folder: Path, name: str) -> None:
    path = parts.part_path(folder, 0)
    array = parts.read(folder, 0, [name])[name]
    content = bytearray(path.read_bytes())
    content[content.index(array.tobytes()) + array.nbytes // 2] ^= 0x10
    path.write_bytes(content)
    assert list(parts.damaged(folder, range(plan.n_units), plan, header, full=True)) == [0]


@pytest.mark.parametrize("field", ["plan", "dtype", "embedding_dtype", "classifier"])
def test_a_part_of_another_run_is_refused_by_the_name_of_the_field(
    plan: Plan, header: PartHeader, written: Path, field: str
) -> None:
    with pytest.raises(DamagedFile, match=f"{field} is '"):
        parts.check(written, 0, plan, replace(header, **{field: "other"}), full=False)


@pytest.mark.parametrize("kind", ["nucleotide", "protein"])
def test_a_part_of_another_encoder_is_refused_by_its_kind(
    plan: Plan, header: PartHeader, written: Path, kind: str
) -> None:
    for models in (dict(header.models) | {kind: "other"}, {other: header.models[other] for other in {*KINDS} - {kind}}):
        with pytest.raises(DamagedFile, match=f"{kind}_model is '"):
            parts.check(written, 0, plan, replace(header, models=models), full=False)


def test_a_part_under_another_units_name_is_refused(plan: Plan, header: PartHeader, folder: Path) -> None:
    shutil.copy(parts.part_path(folder, 0), parts.part_path(folder, 1))
    with pytest.raises(DamagedFile, match="unit is 0, this run's is 1"):
        parts.check(folder, 1, plan, header, full=False)


def test_results_that_the_header_does_not_announce_are_a_bug(plan: Plan, header: PartHeader, tmp_path: Path) -> None:
    rows = len(plan.rows(0))
    with pytest.raises(ValueError, match="nucleotide"):
        parts.write(tmp_path, 0, plan, header, np.zeros(rows, bool), {"logits": np.zeros((rows, 2), np.float32)})


@pytest.mark.parametrize("embedding_dtype", ["float16", "float32"])
@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("classifier", ["c", ""])
def test_the_bytes_counted_for_a_unit_are_those_its_datasets_hold(
    plan: Plan, header: PartHeader, tmp_path: Path, embedding_dtype: str, embeddings: bool, classifier: str
) -> None:
    told = replace(header, embedding_dtype=embedding_dtype, embeddings=embeddings, classifier=classifier)
    rows = len(plan.rows(0))
    made = {
        "logits": np.zeros((rows, 2), np.float32),
        "nucleotide": np.zeros((rows, 6), embedding_dtype),
        "protein": np.zeros((rows, 4), embedding_dtype),
    }
    parts.write(
        tmp_path, 0, plan, told, np.zeros(rows, bool), {name: made[name] for name in made if name in told.datasets()}
    )
    held = sum(array.nbytes for array in parts.read(tmp_path, 0, told.datasets()).values())
    assert held == told.data_bytes(rows, len(plan.fragments(0).flat), width=10)
    assert len(plan.fragments(0).flat) > rows  # some share one


def test_a_units_fragments_are_those_of_its_rows(plan: Plan) -> None:
    rows = [plan.fragment[plan.row_start[row] : plan.row_start[row + 1]].tolist() for row in range(plan.n_rows)]
    found = [plan.fragments(unit) for unit in range(plan.n_units)]
    assert [each[i].tolist() for each in found for i in range(len(each))] == rows
    assert [row for unit in range(plan.n_units) for row in plan.rows(unit)] == list(range(plan.n_rows))


def test_a_part_without_embeddings_holds_calls_only(plan: Plan, header: PartHeader, tmp_path: Path) -> None:
    bare = replace(header, embeddings=False)
    rows = len(plan.rows(0))
    parts.write(tmp_path, 0, plan, bare, np.zeros(rows, bool), {"logits": np.zeros((rows, 2), np.float32)})
    parts.check(tmp_path, 0, plan, bare, full=True)
    with pytest.raises(DamagedFile, match="nucleotide"):
        parts.read(tmp_path, 0, ["nucleotide"])
