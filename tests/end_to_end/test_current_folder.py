"""No process of a command imports what lies in the folder in which it was started."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vpdist
from tests.launched import PATIENCE_S
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.embedding.encoder_process import EncoderProcess

pytestmark = pytest.mark.launcher
VPDIST = Path(sys.executable).with_name("vpdist")
NOT_INHERITED = ("PYTHONPATH", "PYTHONSAFEPATH", "RANK", "WORLD_SIZE")
PLANTED = ("psutil", "torch", "numpy", "multiprocessing", "vpdist")
MARK = "import os, pathlib; pathlib.Path(__file__).with_name(f'ran-{os.getpid()}').touch()\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: with modules that leave a mark where one of them is imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(MARK)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    return folder


def marks(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("ran-*")]


def started(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command; nothing but its own installation makes the package importable."""
    if not VPDIST.exists():
        pytest.skip("vpdist is not installed beside this interpreter")
    variables = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    command = [str(VPDIST), *map(str, arguments)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def options(models: TinyModels, source: Path) -> list[object]:
    encoders = ["--nucleotide-model", models.nucleotide, "--protein-model", models.protein]
    return [source, *encoders, "--classifier", models.classifier, "--threads", 1, "--dtype", "float32"]


@pytest.mark.parametrize("name", PLANTED)
def test_a_module_that_is_planted_leaves_a_mark_where_it_is_imported(here: Path, name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sys; sys.modules.pop({name!r}, None); import {name}"], check=False)
    assert len(marks(here)) == 1


def test_ranks_of_the_built_in_launch_import_nothing_from_it(here: Path, models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=12)
    ended = started("predict", *options(models, source), "-o", tmp_path / "run", "--nproc", 2, "--progress", "none")
    assert ended.returncode == 0, ended.stderr
    assert marks(here) == []
    assert len(list((tmp_path / "run" / "logs").glob("rank*.log"))) == 2


def test_processes_of_a_dry_run_import_nothing_from_it(here: Path, models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=12)
    ended = started("plan", *options(models, source), "--ranks", 2, "--json", "--progress", "none")
    assert ended.returncode == 0, ended.stderr
    assert '"timed_at_once"' in ended.stdout
    assert marks(here) == []


def test_the_child_for_isolated_units_imports_nothing_from_it(here: Path, models: TinyModels) -> None:
    with EncoderProcess(torch.device("cpu"), 1, lambda: None, PATIENCE_S) as process:
        process.load("protein", "float32", models.protein)
    assert marks(here) == []


def test_a_checkout_that_is_not_installed_starts_ranks_of_its_own_code(models: TinyModels, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(Path(vpdist.__file__).parent, checkout / "vpdist")
    (checkout / "vpdist" / "__init__.py").write_text('__version__ = "not installed"\n')
    source, run = write_contigs(tmp_path / "contigs.fa", n=12), tmp_path / "run"
    arguments = [*options(models, source), "-o", run, "--nproc", 2, "--progress", "none"]
    variables = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    command = [sys.executable, "-m", "vpdist", "predict", *map(str, arguments)]
    subprocess.run(command, env=variables, cwd=checkout, check=True, timeout=PATIENCE_S)
    assert json.loads((run / "run.json").read_text())["versions"]["vpdist"] == "not installed"
