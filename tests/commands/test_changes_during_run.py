"""Files that change while a run reads them: it ends with the code of their kind, and keeps nothing made from them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.file_times import let_the_clock_tick
from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_classifier, write_dnabert_s, write_esm2
from vpdist.commands import prepare
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.sequences import token_store
from vpdist.sequences.blocks import RawBlock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a run whose files may all be changed."""
    models = TinyModels(
        nucleotide=write_dnabert_s(tmp_path / "dnabert_s"),
        protein=write_esm2(tmp_path / "esm2"),
        classifier=write_classifier(tmp_path / "classifier.safetensors"),
    )
    folder = tmp_path / "input"
    folder.mkdir()
    return models.settings(write_contigs(folder / "contigs.fa", n=12), tmp_path / "run")


def after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, change: Callable[[], object]) -> None:
    """Have `change` happen at the end of a function."""
    function = getattr(module, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        change()
        return result

    monkeypatch.setattr(module, name, wrapped)


def test_an_input_that_changes_while_it_is_read_ends_with_code_3(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = Path(settings.inputs[0])
    before = source.read_bytes()
    read_blocks = token_store.read_blocks

    def read_and_change(paths: Sequence[Path], *rules: Any, **others: Any) -> Iterator[RawBlock]:
        for block in read_blocks(paths, *rules, **others):
            let_the_clock_tick(source.parent)
            source.write_bytes(before.replace(b"A", b"C"))
            yield block

    monkeypatch.setattr(token_store, "read_blocks", read_and_change)
    assert predict(settings) == 3
    assert f"{source}: has changed since the run began" in capfd.readouterr().err
    assert not (settings.output / "tokens" / "store.json").exists()
    assert not (settings.output / "sequences.tsv").exists()


@pytest.mark.parametrize("stage", ["token_store", "make_plan", "lay_out_tokens"])
def test_a_model_that_changes_before_it_is_loaded_ends_with_code_4(
    settings: Settings, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = Path(str(settings.nucleotide_model))
    other = write_dnabert_s(tmp_path / "other", seed=9)
    after(monkeypatch, prepare, stage, lambda: shutil.copy(other / "pytorch_model.bin", model))
    assert predict(settings) == 4
    assert f"{model}: the model's files have changed during the run" in capfd.readouterr().err
    assert list((settings.output / "parts").iterdir()) == []


def test_a_model_that_changes_while_it_is_loaded_ends_with_code_4(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_esm2(tmp_path / "other", seed=9)
    after(
        monkeypatch,
        prepare,
        "load_encoder",
        lambda: shutil.copy(other / "model.safetensors", Path(str(settings.protein_model))),
    )
    assert predict(settings) == 4
    assert list((settings.output / "parts").iterdir()) == []


def test_a_model_that_is_only_touched_is_used(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    after(monkeypatch, prepare, "lay_out_tokens", (Path(str(settings.protein_model)) / "config.json").touch)
    assert predict(settings) == 0
