"""A run goes on with the same content under other names and times, and with nothing else."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands import input_identity
from vpdist.commands.input_identity import SAMPLE_BYTES, SAMPLES
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.results.classifier import load_classifier, save_classifier
from vpdist.sequences import token_store


@pytest.fixture(scope="module")
def made(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and the finished run on it, named relative to that folder."""
    folder = tmp_path_factory.mktemp("made")
    write_contigs(folder / "in.fa", n=8)
    write_contigs(folder / "more.fa", n=4, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert predict(settings_for(models, "in.fa", "more.fa")) == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with the same times, as the current folder."""
    copy = Path(shutil.copytree(made, tmp_path / "here"))
    monkeypatch.chdir(copy)
    return copy


def settings_for(models: TinyModels, *inputs: str, output: str = "run") -> Settings:
    return models.settings(Path(inputs[0]), Path(output), inputs=inputs)


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "run" / "parts").iterdir()}


def tables(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "run").glob("*.tsv"))]


def make_newer(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.fixture
def times_read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Gets an entry whenever the input is read."""
    calls: list[object] = []
    real = token_store.read_blocks
    monkeypatch.setattr(
        token_store, "read_blocks", lambda *given, **rules: calls.append(given) or real(*given, **rules)
    )
    return calls


def test_a_touched_input_is_compared_once_and_continues_the_run(
    here: Path, models: TinyModels, times_read: list[object]
) -> None:
    before, parts = tables(here), written(here)
    make_newer(here / "in.fa")
    for _ in range(2):
        assert predict(settings_for(models, "in.fa", "more.fa")) == 0
        assert (tables(here), written(here)) == (before, parts)
        assert len(times_read) == 1
    make_newer(here / "in.fa")
    assert predict(settings_for(models, "in.fa", "more.fa")) == 0
    assert len(times_read) == 2


@pytest.mark.parametrize("spelling", ["./in.fa", "{here}/in.fa", "{here}/../here/in.fa", "elsewhere/reads.fasta"])
def test_another_spelling_or_place_continues_the_run_and_keeps_the_first_one_in_the_table(
    here: Path, models: TinyModels, spelling: str
) -> None:
    (here / "elsewhere").mkdir()
    shutil.copy(here / "in.fa", here / "elsewhere" / "reads.fasta")
    before, parts = tables(here), written(here)
    assert predict(settings_for(models, spelling.format(here=here), "more.fa")) == 0
    assert (tables(here), written(here)) == (before, parts)
    assert "\tin.fa\t" in (here / "run" / "sequences.tsv").read_text()


def test_a_touched_input_of_a_run_that_was_stopped_early_is_read_and_keeps_the_parts_there_are(
    here: Path, models: TinyModels
) -> None:
    before, parts = tables(here), written(here)
    (here / "run" / "tokens" / "store.json").unlink()
    (here / "run" / "parts" / "unit-000000.h5").unlink()
    make_newer(here / "in.fa")
    assert predict(settings_for(models, "in.fa", "more.fa")) == 0
    assert tables(here) == before
    assert {name for name, when in written(here).items() if when != parts.get(name)} == {"unit-000000.h5"}


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (("more.fa", "in.fa"), "input was in.fa, is now more.fa"),
        (("in.fa",), "the number of inputs was 2, is now 1"),
    ],
)
def test_another_order_or_number_of_inputs_is_refused(
    here: Path, models: TinyModels, inputs: tuple[str, ...], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings_for(models, *inputs)) == 2
    assert told in capfd.readouterr().err


def write_large(path: Path, changed: bool) -> None:
    """A file in which, if `changed`, a letter differs that no sample holds."""
    contig = write_contigs(path, n=1).read_text()
    content = bytearray((contig + "".join(f">r{number:06d}\nACGTACGTAC\n" for number in range(90_000))).encode())
    step = len(content) // SAMPLES
    assert step > SAMPLE_BYTES + 100
    if changed:
        content[content.index(b">r", 3 * step + SAMPLE_BYTES) + 7] = ord("x")
    path.write_bytes(content)


def test_other_content_that_samples_do_not_show_is_found_where_the_time_differs_and_costs_no_part(
    models: TinyModels, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "large.fa", tmp_path / "run"
    write_large(path, changed=False)
    settings = replace(models.settings(path, run), min_length=20)
    assert predict(settings) == 0
    before = written(tmp_path)
    samples = input_identity.input_identity([str(path)], [path])[0][3]
    write_large(path, changed=True)
    make_newer(path)
    assert input_identity.input_identity([str(path)], [path])[0][3] == samples
    assert predict(settings) == 2
    assert "the input's sequences differ from those read before" in capfd.readouterr().err
    assert written(tmp_path) == before
    assert json.loads((run / "status.json").read_text())["state"] == "done"


def test_models_that_moved_and_were_touched_continue_the_run(here: Path, models: TinyModels, tmp_path: Path) -> None:
    before, parts = tables(here), written(here)
    folders = [shutil.copytree(each, tmp_path / each.name) for each in (models.nucleotide, models.protein)]
    for path in (path for folder in folders for path in folder.iterdir()):
        make_newer(path)
    classifier = tmp_path / "again.safetensors"
    loaded = load_classifier(models.classifier)
    save_classifier(loaded, classifier, {})
    moved = replace(
        settings_for(models, "in.fa", "more.fa"),
        nucleotide_model=str(folders[0]),
        protein_model=str(folders[1]),
        classifier=classifier,
    )
    assert predict(moved) == 0
    assert (tables(here), written(here)) == (before, parts)
