"""The encoder of docs/encoders.md, installed as a package: found, checked, recorded, imported only where it is needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.launched import environment
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.encoders import family
from vpdist.encoders.family import ESM2, NATIVE, family_named, family_of, plugged_in
from vpdist.errors import WeightsError

DOCUMENT = Path(__file__).parents[2] / "docs" / "encoders.md"
MOST_LINES = 60


def block(language: str, beginning: str) -> str:
    """The one block of the document that begins so."""
    found = re.findall(rf"```{language}\n({re.escape(beginning)}.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the package of the document is installed; no network is asked."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "pyproject.toml").write_text(block("toml", "[build-system]"))
    program = block("python", '"""Mean hydropathy')
    assert len(program.splitlines()) <= MOST_LINES
    (source / "protein_properties.py").write_text(program)
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=600, env=environment())
    return {**environment(), "PYTHONPATH": os.pathsep.join((environment()["PYTHONPATH"], str(target)))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "properties"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "protein-properties"}))
    return folder


def run(installed: dict[str, str], *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=installed, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def embed(installed: dict[str, str], folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    options = ("--threads", "1", "--dtype", "float32", "--progress", "none")
    command = ("-m", "vpdist", "embed", source, "-o", "run", "--protein-model", folder, *options)
    return run(installed, *command, cwd=folder.parent)


def test_the_document_s_encoder_is_checked_and_embeds(installed: dict[str, str], folder: Path) -> None:
    checked = run(installed, "-c", block("python", "from vpdist.testing"), cwd=folder.parent)
    assert checked.returncode == 0, checked.stderr
    source = write_contigs(folder.parent / "contigs.fa")
    done = embed(installed, folder, source)
    assert done.returncode == 0, done.stderr
    recorded = json.loads((folder.parent / "run" / "run.json").read_text())
    assert recorded["plugins"] == {"protein": "protein-properties 1.0"}
    assert recorded["decisions"]["protein_pooling"] == "mean over all tokens"
    verified = run(environment(), "-m", "vpdist", "verify", "run", cwd=folder.parent)
    assert verified.returncode == 0, verified.stderr  # the plug-in is not needed for it
    without = embed(environment(), folder, source)
    assert without.returncode == WeightsError.exit_code
    assert "model_type is 'protein-properties'" in without.stderr


def test_plug_ins_are_imported_only_for_a_folder_that_needs_them(
    installed: dict[str, str], folder: Path, models: TinyModels
) -> None:
    program = (
        "import sys, pathlib; from vpdist.encoders.shape import encoder_shape; "
        "encoder_shape(pathlib.Path(sys.argv[1])); print('protein_properties' in sys.modules)"
    )
    for path, expected in ((models.protein, "False"), (folder, "True")):
        assert run(installed, "-c", program, path, cwd=folder).stdout.strip() == expected
    told = run(installed, "-X", "importtime", "-m", "vpdist", "--help", cwd=folder)
    assert told.returncode == 0
    assert "protein_properties" not in told.stderr


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """What packages plug in meanwhile."""
    found: list[EntryPoint] = []
    monkeypatch.setattr(family, "entry_points", lambda group: [each for each in found if each.group == group])
    plugged_in.cache_clear()
    yield found
    plugged_in.cache_clear()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("no_such_module:ENCODER", r"cannot be loaded: ModuleNotFoundError"),
        ("json:no_such_name", r"cannot be loaded: AttributeError"),
        ("json:dumps", r"is no vpdist\.encoders\.family\.EncoderFamily"),
        ("vpdist.encoders.family:ESM2", r"there is another encoder of the name 'ESM-2'"),
        ("vpdist.encoders.family:NATIVE", r"there is another encoder of the name 'transformers'"),
    ],
)
def test_a_plug_in_that_is_none_is_named(value: str, told: str, entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("mine", value, family.GROUP))
    with pytest.raises(WeightsError, match=rf"the plug-in mine = {re.escape(value)} of a package: {told}"):
        family_of(Path("config.json"), {"model_type": "mine"})
    assert family_of(Path("config.json"), {"model_type": "esm"}) is ESM2


def test_a_plug_in_is_asked_before_the_library(entries: list[EntryPoint]) -> None:
    assert family_of(Path("config.json"), {"model_type": "bert"}) is NATIVE
    plugged_in.cache_clear()
    entries.append(EntryPoint("mine", "tests.encoders.test_plugins:OWN_BERT", family.GROUP))
    found = family_of(Path("config.json"), {"model_type": "bert"})
    assert (found.name, found.plugin, found.fingerprint) == ("own BERT", "a package", "a package")
    assert family_named("own BERT") is found


OWN_BERT = family.EncoderFamily(
    name="own BERT",
    kinds=("protein",),
    matches=family.has_type("bert"),
    recognised_by="model_type 'bert'",
    tokenizer="none:none",
    loader="none:none",
)
