"""`verify`: nothing to say of a whole run, every kind of damage named by file and row, nothing changed."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_classifier
from vpdist.cli import app
from vpdist.commands.classify import classify
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.errors import UsageError
from vpdist.results.tables import COLUMNS, FIRST_COLUMNS
from vpdist.storage import atomic_files
from vpdist.storage.run_folder import CALL_FILES, LEGACY, TABLES

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def settings(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("verify")
    return models.settings(write_contigs(folder / "contigs.fa", n=12), folder / "run", legacy_output=True)


@pytest.fixture(scope="module")
def done(settings: Settings) -> Path:
    assert predict(settings) == 0
    return settings.output


@pytest.fixture(scope="module")
def other(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another sample of the same size, with the same models."""
    folder = tmp_path_factory.mktemp("other")
    contigs = write_contigs(folder / "contigs.fa", n=12)
    contigs.write_text(contigs.read_text().replace(">contig", ">other").replace("TTAATTAATTAG", "TTAACTAATTAG"))
    assert predict(models.settings(contigs, folder / "run", legacy_output=True)) == 0
    return folder / "run"


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


@pytest.fixture(params=["this version", "an earlier version"])
def any_version(request: pytest.FixtureRequest, copy: Path) -> Path:
    """A finished run, also as versions left one that recorded no digests of tables."""
    if request.param == "an earlier version":
        run = json.loads((copy / "run.json").read_text())
        del run["tables"], run["tables_from"]["consensus"]
        (copy / "run.json").write_text(json.dumps(run))
        for name, n in FIRST_COLUMNS.items():
            rows = [line.split("\t") for line in (copy / f"{name}.tsv").read_text().splitlines()]
            assert all(len(row) == len(COLUMNS[name]) for row in rows)
            (copy / f"{name}.tsv").write_text("".join("\t".join(row[:n]) + "\n" for row in rows))
    return copy


def flip_a_bit(dataset: str) -> Damage:
    def flip(path: Path) -> None:
        with h5py.File(path) as file:
            position = file[dataset].id.get_offset()
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return flip


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def changed(row: int, column: int, change: Callable[[str], str]) -> Damage:
    """Change one value of a table; the header is row 0."""

    def edit(path: Path) -> None:
        lines = path.read_text().split("\n")
        values = lines[row].split("\t")
        before, values[column] = values[column], change(values[column])
        assert before != values[column]
        lines[row] = "\t".join(values)
        path.write_text("\n".join(lines))

    return edit


def without_row(row: int) -> Damage:
    def edit(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:row] + lines[row + 1 :]))

    return edit


def flipped(call: str) -> str:
    return {"virus": "non-virus", "non-virus": "virus"}[call]


def verified(folder: Path) -> tuple[int, str]:
    """Exit code and output; the folder stays as it is."""

    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}

    before = state()
    told = CliRunner().invoke(app, ["verify", str(folder)])
    assert state() == before
    return told.exit_code, told.output


def test_a_whole_run_verifies(any_version: Path) -> None:
    assert verify(any_version) == []
    code, output = verified(any_version)
    assert (code, "complete and undamaged" in output) == (0, True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("parts/unit-000000.h5", Path.unlink),
        ("parts/unit-000000.h5", lambda path: path.write_bytes(path.read_bytes()[:2000])),
        ("tokens/block-000000.h5", flip_a_bit("protein_tokens")),
        ("tokens/block-000000.h5", Path.unlink),
        ("tokens/names.h5", Path.unlink),
        ("tokens/plan.h5", flip_a_bit("unit_cost")),
        ("tokens/store.json", Path.unlink),
        ("status.json", Path.unlink),
        ("fragments.tsv", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("sequences.tsv", Path.unlink),
        *((name, cut) for name in (*TABLES, *LEGACY)),
    ],
)
def test_damage_is_named_by_file_and_exits_with_6(any_version: Path, name: str, damage: Damage) -> None:
    damage(any_version / name)
    code, output = verified(any_version)
    assert code == 6
    assert name in output


def blank(path: Path) -> None:
    path.write_bytes(b"\n" * path.read_bytes().count(b"\n"))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("sequences.tsv", blank, "sequences.tsv: its header"),
        ("sequences.tsv", changed(3, 9, flipped), r"row 3 \('contig2'\): prediction is '(non-)?virus', must be"),
        ("chunks.tsv", changed(2, 7, flipped), r"row 2 \('contig\d'\): prediction is"),
        ("fragments.tsv", changed(1, 9, flipped), r"row 1 \('contig0_chunk_1\w\d'\): prediction is"),
        ("fragments.tsv", changed(1, 7, lambda score: score[:-1] + str(9 - int(score[-1]))), r"row 1 .*virus_score is"),
        ("sequences.tsv", changed(13, 0, lambda name: "foreign"), r"row 13 \('contig0__2'\): seq_name is 'foreign'"),
        ("chunks.tsv", changed(1, 0, lambda name: ""), r"row 1 .*seq_name is '', must be 'contig0'"),
        ("sequences.tsv", without_row(5), r"row 5 \('contig4'\): seq_name is 'contig5', must be 'contig4'"),
        ("fragments.tsv", lambda path: path.write_bytes(path.read_bytes() + b"x\n"), "has more rows than the"),
        ("prediction_results.txt", changed(1, 1, lambda call: call + "s"), r"row 1 .*Prediction is"),
        ("prediction_results_highestscore.csv", without_row(1), r"row 1 .*Modified_ID is"),
    ],
)
def test_the_first_wrong_row_of_a_table_is_named(any_version: Path, name: str, damage: Damage, told: str) -> None:
    damage(any_version / name)
    code, output = verified(any_version)
    assert code == 6
    assert [line.count(name) for line in output.splitlines()] == [1]
    assert re.search(told, output), output


def test_tables_of_an_earlier_versions_classify_are_checked_but_for_its_scores(copy: Path, tmp_path: Path) -> None:
    unknown = write_classifier(tmp_path / "other.safetensors", seed=7)
    assert classify(copy, unknown, consensus="max", legacy_output=True, progress="none") == 0
    run = json.loads((copy / "run.json").read_text())
    del run["tables"]
    (copy / "run.json").write_text(json.dumps(run))
    assert verify(copy) == []
    for name, damage, told in [
        ("sequences.tsv", changed(3, 9, flipped), "'contig2'): is not called by its scores"),
        ("chunks.tsv", changed(1, 2, lambda start: start + "0"), "'contig0'): start is '10', must be '1'"),
        ("fragments.tsv", changed(1, 7, lambda score: "NA"), "virus_score is 'NA', must not be NA"),
        ("prediction_results.txt", cut, "must be"),
        ("prediction_results_highestscore.csv", without_row(1), "Modified_ID is"),
    ]:
        whole = (copy / name).read_bytes()
        damage(copy / name)
        (problem,) = verify(copy)
        assert name in problem
        assert told in problem
        (copy / name).write_bytes(whole)


@pytest.mark.parametrize("name", LEGACY)
def test_a_file_that_the_tables_do_not_have_is_told(copy: Path, models: TinyModels, name: str) -> None:
    old = (copy / name).read_bytes()
    assert classify(copy, models.classifier, consensus=None, legacy_output=False, progress="none") == 0
    assert verify(copy) == []
    (copy / name).write_bytes(old)
    assert verify(copy) != []


@pytest.mark.parametrize("state", ["running", "failed", "interrupted", 7, None])
def test_a_run_that_has_not_ended_well_is_not_complete(any_version: Path, state: object) -> None:
    status = json.loads((any_version / "status.json").read_text()) | {"state": state}
    (any_version / "status.json").write_text(json.dumps(status))
    (problem,) = verify(any_version)
    assert f"status.json: the state is {state!r}" in problem


def test_a_run_with_failures_listed_is_complete(any_version: Path) -> None:
    status = json.loads((any_version / "status.json").read_text()) | {"state": "done_with_failures", "exit_code": 5}
    (any_version / "status.json").write_text(json.dumps(status))
    assert verify(any_version) == []


OF_ANOTHER_RUN = ("block-000000.h5", "names.h5", "plan.h5", "shard-00000.h5", "store.json")


@pytest.mark.parametrize("name", OF_ANOTHER_RUN)
def test_a_file_of_another_run_is_named(any_version: Path, other: Path, name: str) -> None:
    shutil.copy(other / "tokens" / name, any_version / "tokens" / name)
    code, output = verified(any_version)
    assert code == 6
    assert name in output


@pytest.mark.parametrize("name", OF_ANOTHER_RUN)
def test_the_same_command_again_takes_nothing_of_another_run(
    copy: Path, other: Path, settings: Settings, name: str
) -> None:
    before = [(copy / table).read_bytes() for table in (*TABLES, *LEGACY)]
    shutil.copy(other / "tokens" / name, copy / "tokens" / name)
    assert predict(replace(settings, output=copy)) == 0
    assert [(copy / table).read_bytes() for table in (*TABLES, *LEGACY)] == before
    assert verify(copy) == []


@pytest.mark.parametrize("folder", ["parts", "tokens"])
def test_classify_takes_no_folder_of_another_run(copy: Path, other: Path, models: TinyModels, folder: str) -> None:
    before = (copy / "sequences.tsv").read_bytes()
    shutil.rmtree(copy / folder)
    shutil.copytree(other / folder, copy / folder)
    assert verify(copy) != []
    assert classify(copy, models.classifier, consensus=None, legacy_output=True, progress="none") in (2, 6)
    assert (copy / "sequences.tsv").read_bytes() == before


def test_all_files_but_run_json_of_another_run_are_noticed(copy: Path, other: Path) -> None:
    run = (copy / "run.json").read_bytes()
    shutil.rmtree(copy)
    shutil.copytree(other, copy)
    (copy / "run.json").write_bytes(run)
    assert "run.json: the tables come from another plan" in "\n".join(verify(copy))


@pytest.mark.parametrize("folder", ["parts", "tokens", "logs", "at_work"])
def test_a_folder_that_is_a_link_is_not_followed(copy: Path, tmp_path: Path, folder: str) -> None:
    shutil.move(copy / folder, tmp_path / "elsewhere")
    (copy / folder).symlink_to(tmp_path / "elsewhere")
    code, output = verified(copy)
    assert code == 6
    assert f"{folder}: is a symbolic link" in output


class FailingRename:
    """`os.replace` that fails once, after `left` renames of other files than status.json."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, source: Path, target: Path) -> None:
        if Path(target).name != "status.json":
            self.left -= 1
            if self.left == -1:
                raise OSError(5, "Input/output error")
        os.rename(source, target)


def test_a_switch_of_tables_that_failed_anywhere_is_told_and_finished(
    done: Path, settings: Settings, tmp_path: Path
) -> None:
    """Every rename of `classify` fails once. Then another command that is refused finishes what can be finished."""
    unknown = write_classifier(tmp_path / "other.safetensors", seed=7)

    def classified(folder: Path) -> int:
        return classify(folder, unknown, consensus=None, legacy_output=False, progress="none")

    def content(folder: Path) -> list[bytes | None]:
        return [path.read_bytes() if (path := folder / name).exists() else None for name in (*TABLES, *LEGACY)]

    whole = Path(shutil.copytree(done, tmp_path / "whole"))
    assert classified(whole) == 0
    old, new = content(done), content(whole)
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 5
    outcomes, mixed = [], 0
    for n in range(100):
        folder = Path(shutil.copytree(done, tmp_path / f"run{n}"))
        rename = FailingRename(n)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic_files.os, "replace", rename)
            code = classified(folder)
        if rename.left >= 0:
            assert code == 0
            break
        assert code == 6
        if content(folder) not in (old, new):
            mixed += 1
            assert "replaced the tables" in "\n".join(verify(folder))
        assert predict(replace(settings, output=folder, chunk_length=300, classifier=None, legacy_output=False)) == 2
        assert content(folder) in (old, new)
        assert [problem for problem in verify(folder) if "status.json: the state is 'failed'" not in problem] == []
        outcomes.append(content(folder) == new)
        assert classified(folder) == 0
        assert content(folder) == new
        assert verify(folder) == []
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {True, False}
    assert mixed == len(TABLES) - 1 + len(CALL_FILES)  # after each of the renames but the last


def test_a_message_about_a_long_name_is_short(models: TinyModels, tmp_path: Path) -> None:
    contigs = tmp_path / "contigs.fa"
    contigs.write_text(f">{'n' * 900_000}\nATGGCTGCTGCA\n")
    assert predict(models.settings(contigs, tmp_path / "run")) == 0
    changed(1, 0, lambda name: name[1:])(tmp_path / "run" / "sequences.tsv")
    code, output = verified(tmp_path / "run")
    assert code == 6
    assert len(output) < 1000


def test_a_part_with_a_hole_takes_no_memory(copy: Path) -> None:
    path = copy / "parts" / "unit-000000.h5"
    rows = len(h5py.File(path)["failed"])
    with h5py.File(path, "a", libver="latest") as file:
        del file["nucleotide"]
        wide = file.create_dataset("nucleotide", (rows, (1 << 32) // rows), "f4")
        wide[-1, -1] = 1.0
    assert path.stat().st_size > 1 << 34
    assert path.stat().st_blocks * 512 < 1 << 24
    (problem,) = verify(copy)
    assert "unit-000000.h5: nucleotide is float32" in problem


def test_a_store_of_millions_of_blocks_is_one_line(copy: Path) -> None:
    store = json.loads((copy / "tokens" / "store.json").read_text())
    store["fragments_per_block"] += [0] * 2_500_000
    (copy / "tokens" / "store.json").write_text(json.dumps(store))
    problems = verify(copy)
    assert len(problems) < 5
    assert "block-000001.h5: is missing, and at least 2,499,999 other blocks are" in problems[0]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        verify(tmp_path)


def test_numbers_of_a_message_are_those_of_the_files(copy: Path) -> None:
    path = copy / "chunks.tsv"
    size = path.stat().st_size
    run = json.loads((copy / "run.json").read_text())
    run["tables"]["files"]["chunks.tsv"]["xxh3_128"] = "0" * 32
    (copy / "run.json").write_text(json.dumps(run))
    (problem,) = verify(copy)
    assert f"chunks.tsv: is not the file that was written: {size:,} bytes" in problem
    assert np.count_nonzero([name in problem for name in TABLES]) == 1
