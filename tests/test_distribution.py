"""The source distribution: with it alone, everything that the Makefile and the documents name can be done."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "scripts", "tests", "vpdist", "workflows")
FILES = (
    "Makefile",
    ".dockerignore",
    "LICENSE",
    "CITATION.cff",
    "mkdocs.yml",
    "MANIFEST.in",
    "pyproject.toml",
    "constraints.txt",
    "constraints-hashes.txt",
)
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths in a source distribution that the installed setuptools builds, without the network, from a copy."""
    pytest.importorskip("setuptools", minversion="77")
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=MADE)
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / name for name in FILES)):
        shutil.copy(path, copy)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (archive,) = built.iterdir()
    with tarfile.open(archive) as file:
        return {name.partition("/")[2] for name in file.getnames()}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_source_distribution_has_every_file_of_a_folder(distributed: set[str], folder: str) -> None:
    there = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(there) > 3
    assert there <= distributed


def test_a_source_distribution_has_what_lies_beside_the_folders_and_nothing_made(distributed: set[str]) -> None:
    assert {*FILES, *(path.name for path in REPOSITORY.glob("*.md"))} <= distributed
    assert not [name for name in distributed if name.endswith(".pyc") or "__pycache__" in name]
