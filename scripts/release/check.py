"""`python -m scripts.release.check`: whether a release can be made of this tree (make release-check).

    python -m scripts.release.check --final --python /opt/python3.13/bin/python3

Builds the distributions from what git has, compares their files with the tree's, and installs the wheel into a new
environment of each Python that is found, where `vpdist check` has to hold: golden scores are compared each time. A line
with a verdict for each; exits with 1 if one has failed. The distributions stay in build/release.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import vpdist
from scripts.release.contents import build, copy_of, differences, files_below

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = REPOSITORY / "build" / "release"
VERSIONS = ("3.11", "3.12", "3.13")
PLACES = (".pyenv/versions/{}.*/bin/python3", ".local/share/uv/python/cpython-{}.*/bin/python3")
"""Where Pythons lie that are not on PATH, in the home folder."""
NEWEST = re.compile(r"^## \[([^\]]+)\] - (\S+)", re.MULTILINE)


class FailedError(Exception):
    """A check that has failed; its text says why."""


def interpreters(named: list[Path]) -> dict[str, Path]:
    """A Python by its version, of those that are named, else on PATH or in PLACES."""
    found: dict[str, Path] = {}
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        elsewhere = [path for place in PLACES for path in sorted(Path.home().glob(place.format(version)))]
        for path in [*named, *([Path(on_path)] if on_path else []), *elsewhere]:
            program = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
            ended = subprocess.run([path, "-c", program], capture_output=True, text=True, check=False)
            if ended.stdout.strip() == version:
                found[version] = path
                break
    return found


def versions_agree(tree: Path, *, final: bool) -> str:
    """The version in the package's files; `final`: CHANGELOG.md has its date. Raises FailedError."""
    changelog = NEWEST.search((tree / "CHANGELOG.md").read_text())
    if changelog is None:
        raise FailedError("CHANGELOG.md: has no section such as ## [1.0.0] - 2026-01-31")
    told = {
        "vpdist/__init__.py": re.findall(r'^__version__ = "(.+)"', (tree / "vpdist/__init__.py").read_text(), re.M),
        "pyproject.toml": re.findall(r'^version = "(.+)"', (tree / "pyproject.toml").read_text(), re.M),
        "CITATION.cff": re.findall(r"^version: (.+)", (tree / "CITATION.cff").read_text(), re.M),
        "CHANGELOG.md": [changelog[1]],
    }
    if len({tuple(found) for found in told.values()}) != 1:
        raise FailedError("; ".join(f"{path} says {', '.join(found) or 'none'}" for path, found in told.items()))
    if final and changelog[2] == "unreleased":
        raise FailedError(f"CHANGELOG.md: {changelog[1]} is unreleased; give it a date")
    return f"{changelog[1]}, {changelog[2]}"


def distributions(tree: Path, target: Path) -> tuple[Path, str]:
    """Build both; the wheel, and what they hold. Raises FailedError."""
    wanted = files_below(tree)  # before the build adds its own
    sdist, wheel = build(tree, target)
    wrong = differences(sdist, wheel, wanted)
    if wrong:
        raise FailedError("\n".join(wrong))
    sums = [f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in (sdist, wheel)]
    return wheel, "all files and nothing more; " + ", ".join(sums)


def installed(python: Path, wheel: Path, tree: Path) -> str:
    """Install the wheel in a new environment and let it check itself. Raises FailedError."""
    with tempfile.TemporaryDirectory(prefix="vpdist-release-") as name:
        folder = Path(name)
        _call([python, "-m", "venv", folder / "venv"], folder)
        pip: list[str | Path] = [
            folder / "venv" / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--no-cache-dir",
            "--quiet",
        ]
        _call([*pip, "-c", tree / "constraints.txt", wheel], folder)
        told = _call([folder / "venv" / "bin" / "vpdist", "check", "--json", "--device", "cpu"], folder)
        checks = json.loads(told)["checks"]
        golden = next(each["told"] for each in checks if each["name"] == "golden")
        versions = _call([folder / "venv" / "bin" / "vpdist", "--version"], folder).split("\n")
        if versions[0] != f"vpdist {vpdist.__version__}":
            raise FailedError(f"is {versions[0]}")
        return f"{versions[1]}; vpdist check: {', '.join(each['name'] for each in checks)} ok; {golden}"


def _call(command: list[str | Path], folder: Path) -> str:
    """What a command told, run where no vpdist lies. Raises FailedError with the end of that."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-12:]
        raise FailedError(
            f"{' '.join(str(word) for word in command[:5])} ended with {ended.returncode}:\n" + "\n".join(last)
        )
    return ended.stdout


def clean_tree(folder: Path) -> None:
    """What git has at HEAD, as far as it belongs to a release. Raises FailedError outside of a repository, or where
    something is not committed."""
    if _call(["git", "status", "--porcelain"], REPOSITORY).strip():
        raise FailedError("something is not committed: git status")
    archive = folder / "head.tar"
    _call(["git", "archive", "--output", archive, "HEAD"], REPOSITORY)
    with tarfile.open(archive) as file:
        file.extractall(folder / "head", filter="data")
    (folder / "tree").mkdir()
    copy_of(folder / "head", folder / "tree")


def main(
    python: Annotated[list[Path] | None, typer.Option(help="A further Python; for several, more than once.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Try these versions of Python only.")] = None,
    final: Annotated[bool, typer.Option(help="Of a release: CHANGELOG.md has its date, no Python is missing.")] = False,
) -> None:
    """Whether a release can be made of this tree."""
    failed = False

    def tell(name: str, ok: bool, told: str) -> None:
        nonlocal failed
        failed |= not ok
        print(f"{name:<14} {'ok' if ok else 'FAILED':<6} {told}", flush=True)

    wanted = only or VERSIONS
    with tempfile.TemporaryDirectory(prefix="vpdist-release-") as name:
        folder = Path(name)
        try:
            clean_tree(folder)
            tell("version", True, versions_agree(folder / "tree", final=final))
            shutil.rmtree(TARGET, ignore_errors=True)
            wheel, told = distributions(folder / "tree", TARGET)
            tell("distributions", True, told)
        except FailedError as error:
            tell("distributions", False, str(error))
            raise typer.Exit(1) from None
        found = interpreters(python or [])
        for version in wanted:
            if version not in found:
                print(f"Python {version:<7} {'FAILED' if final else 'not tried'}: there is none here", flush=True)
                failed |= final
                continue
            try:
                tell(f"Python {version}", True, installed(found[version], wheel, folder / "tree"))
            except FailedError as error:
                tell(f"Python {version}", False, str(error))
    raise typer.Exit(int(failed))


if __name__ == "__main__":
    typer.run(main)
