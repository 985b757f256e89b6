"""What the distributions of a tree hold, and what they should hold: everything that belongs there, and nothing more.

Enters: the folder of a tree without what has been made in it, as git has it. Leaves: distributions, lists of files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

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
"""Beside the folders and the documents (*.md)."""
MADE = ("PKG-INFO", "setup.cfg", "vpdist.egg-info/")
"""What setuptools adds to a source distribution; a name that ends with / is a folder."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.egg-info")


def copy_of(tree: Path, copy: Path) -> None:
    """Copy what a source distribution is made of, without what has been made in it, into the folder `copy`."""
    for name in FOLDERS:
        shutil.copytree(tree / name, copy / name, ignore=LEFT_OUT)
    for path in (*tree.glob("*.md"), *(tree / name for name in FILES)):
        shutil.copy(path, copy)


def build(tree: Path, target: Path) -> tuple[Path, Path]:
    """Build the source distribution of a tree, and of that the wheel, as `pip` would; returns both paths.

    With the installed setuptools, without the network. Raises CalledProcessError.
    """
    target.mkdir(parents=True, exist_ok=True)
    sdist = target / _built("build_sdist", tree, target)
    unpacked = target / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    wheel = target / _built("build_wheel", source, target)
    shutil.rmtree(unpacked)
    return sdist, wheel


def _built(hook: str, tree: Path, target: Path) -> str:
    """The name of the file that a hook of PEP 517 makes."""
    program = f"from setuptools.build_meta import {hook}; print('made:', {hook}({str(target)!r}), sep='\\n')"
    ended = subprocess.run([sys.executable, "-c", program], cwd=tree, check=True, capture_output=True, text=True)
    return ended.stdout.splitlines()[-1]


def files_of(distribution: Path) -> set[str]:
    """Paths of the files in a distribution, below its top folder in a source distribution."""
    if distribution.suffix == ".whl":
        with zipfile.ZipFile(distribution) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(distribution) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def files_below(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}


def differences(sdist: Path, wheel: Path, wanted: set[str]) -> list[str]:
    """A line for each file that a distribution lacks or has too many; `wanted`: the files of the tree."""
    made = tuple(name for name in MADE if name.endswith("/"))
    in_sdist = {name for name in files_of(sdist) if name not in MADE and not name.startswith(made)}
    in_wheel = {name for name in files_of(wheel) if not name.partition("/")[0].endswith(".dist-info")}
    package = {name for name in wanted if name.startswith("vpdist/")}
    return [
        f"{distribution.name}: {'lacks' if name in should else 'has'} {name}"
        for distribution, there, should in ((sdist, in_sdist, wanted), (wheel, in_wheel, package))
        for name in sorted(there ^ should)
    ]
