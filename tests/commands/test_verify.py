"""`verify`: nothing to say of a whole run, every kind of damage named, nothing changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.cli import app
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.errors import UsageError


@pytest.fixture(scope="module")
def done(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    assert predict(models.settings(write_contigs(folder / "contigs.fa", n=12), folder / "run")) == 0
    return folder / "run"


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


def flip_a_bit(dataset: str) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        with h5py.File(path) as file:
            position = file[dataset].id.get_offset()
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return flip


def test_a_whole_run_verifies(done: Path) -> None:
    assert verify(done) == []
    told = CliRunner().invoke(app, ["verify", str(done)])
    assert (told.exit_code, "complete and undamaged" in told.output) == (0, True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("parts/unit-000000.h5", Path.unlink),
        ("parts/unit-000000.h5", lambda path: path.write_bytes(path.read_bytes()[:2000])),
        ("tokens/block-000000.h5", flip_a_bit("protein_tokens")),
        ("tokens/plan.h5", flip_a_bit("unit_cost")),
        ("tokens/store.json", Path.unlink),
        ("fragments.tsv", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("sequences.tsv", Path.unlink),
    ],
)
def test_damage_is_named_by_file_and_exits_with_6(copy: Path, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    damage(copy / name)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    told = CliRunner().invoke(app, ["verify", str(copy)])
    assert told.exit_code == 6
    assert name in told.output
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        verify(tmp_path)
