"""Golden scores: the built-in model still gives its own, another answer is told by name, damage is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vpdist.commands.check import CheckRequest, check
from vpdist.errors import UsageError, VpdistError, WeightsError
from vpdist.models import golden_scores
from vpdist.models.bundle import is_model
from vpdist.models.catalogue import BUILT_IN, PRESETS, packaged
from vpdist.models.find import find_model
from vpdist.models.golden_scores import Golden, differences, golden_path, read_golden, synthetic_sequences, write_golden

NAN = float("nan")
ROWS = [Golden("a", "ACG", 1, 0.25, 0.75), Golden("b", "AC", 0, NAN, NAN)]
REQUEST = CheckRequest(model=BUILT_IN, dtype="float32", device="cpu", threads=None, offline=True, write=False)


@pytest.mark.parametrize("name", sorted(packaged()))
def test_each_model_of_the_package_gives_its_golden_scores(name: str) -> None:
    told = check(replace(REQUEST, model=name))
    assert f"{len(synthetic_sequences())} sequences have their golden scores" in told


def test_scores_of_another_classifier_end_with_4_and_are_told_by_name(tmp_path: Path) -> None:
    shutil.copytree(packaged()[BUILT_IN], tmp_path / "copy")
    path = tmp_path / "copy" / golden_scores.GOLDEN_FILE
    rows = read_golden(path)
    changed = next(number for number, row in enumerate(rows) if row.scored_chunks)
    rows[changed] = replace(rows[changed], virus=1 - rows[changed].virus)
    write_golden(path, rows)
    with pytest.raises(WeightsError, match=rf"(?s)other scores.*\n{rows[changed].name}: virus_score is"):
        check(replace(REQUEST, model=str(tmp_path / "copy")))


def test_written_scores_are_read_back(tmp_path: Path) -> None:
    write_golden(tmp_path / "golden.tsv", ROWS)
    read = read_golden(tmp_path / "golden.tsv")
    assert differences(ROWS, read, 0.0) == (0.0, [])
    assert [(row.name, row.sequence, row.scored_chunks) for row in read] == [("a", "ACG", 1), ("b", "AC", 0)]


def test_write_makes_those_of_a_model_that_has_none(tmp_path: Path) -> None:
    shutil.copytree(packaged()[BUILT_IN], tmp_path / "copy")
    (tmp_path / "copy" / golden_scores.GOLDEN_FILE).unlink()
    request = replace(REQUEST, model=str(tmp_path / "copy"))
    with pytest.raises(UsageError, match="has no golden scores"):
        check(request)
    check(replace(request, write=True))
    ours, written = (folder / golden_scores.GOLDEN_FILE for folder in (packaged()[BUILT_IN], tmp_path / "copy"))
    assert differences(read_golden(ours), read_golden(written), 1e-4)[1] == []
    with pytest.raises(UsageError, match="in float32, not in bfloat16"):
        check(replace(request, write=True, dtype="bfloat16"))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (Golden("a", "ACG", 1, 0.2504, 0.75), "a: virus_score is 0.2504, it was 0.25"),
        (Golden("a", "ACG", 1, 0.25, NAN), "a: nonvirus_score is nan, it was 0.75"),
        (Golden("a", "ACG", 2, 0.25, 0.75), "a: 2 chunks have a score, 1 had"),
    ],
)
def test_a_difference_beyond_the_tolerance_is_told(now: Golden, told: str) -> None:
    assert differences(ROWS[:1], [now], 1e-4)[1] == [told]
    assert differences(ROWS[:1], [replace(ROWS[0], virus=0.25005)], 1e-4)[1] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no table of golden scores"),
        (b"a\tb\n", "is no table of golden scores"),
        ("\t".join(golden_scores.COLUMNS).encode(), "is no table of golden scores"),
        ("\t".join(golden_scores.COLUMNS).encode() + b"\na\tACG\t1\t0.5\tx\n", "line 2: is not a row"),
        ("\t".join(golden_scores.COLUMNS).encode() + b"\na\tACG\t1\t0.5\n", "line 2: is not a row"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "golden.tsv").write_bytes(content)
    with pytest.raises(WeightsError, match=told):
        read_golden(tmp_path / "golden.tsv")


def test_what_predict_ends_with_is_told(tmp_path: Path) -> None:
    shutil.copytree(packaged()[BUILT_IN], tmp_path / "copy")
    (tmp_path / "copy" / "encoders" / "protein" / "config.json").write_text("{}")
    with pytest.raises(VpdistError, match="vpdist predict ended with 4") as caught:
        check(replace(REQUEST, model=str(tmp_path / "copy")))
    assert caught.value.exit_code == WeightsError.exit_code


def test_golden_scores_lie_in_the_model_or_of_a_preset_in_the_package() -> None:
    bundle = find_model(BUILT_IN, offline=True)
    assert golden_path(bundle, BUILT_IN) == bundle.folder / golden_scores.GOLDEN_FILE
    assert is_model(golden_path(bundle, "elsewhere").parent)
    preset = next(iter(PRESETS))
    assert golden_path(bundle, preset) == Path(golden_scores.__file__).parent / "golden" / f"{preset}.tsv"
