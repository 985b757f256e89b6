"""The distributions: with the source alone, everything that the Makefile and the documents name can be done; the wheel is
the package. Both have every file that belongs there, and nothing more."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts.release import contents
from scripts.release.check import FailedError, interpreters, versions_agree
from scripts.release.contents import FILES, FOLDERS, build, copy_of, differences, files_below, files_of
from vpdist import __version__

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without what has been made in it."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("copy")
    copy_of(REPOSITORY, copy)
    return copy


@pytest.fixture(scope="module")
def distributed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """Source distribution and wheel that the installed setuptools builds, without the network, and the tree's files."""
    wanted = files_below(tree)  # before the build adds its own
    return *build(tree, tmp_path_factory.mktemp("built")), wanted


def test_both_have_every_file_and_nothing_more(distributed: tuple[Path, Path, set[str]]) -> None:
    sdist, wheel, wanted = distributed
    assert differences(sdist, wheel, wanted) == []
    assert {"vpdist/models/mini/model.json", "vpdist/report/report.css", "vpdist/py.typed"} <= files_of(wheel)
    assert {*FILES, "README.md", "workflows/container/Dockerfile"} <= files_of(sdist)
    for folder in FOLDERS:
        assert sum(name.startswith(f"{folder}/") for name in files_of(sdist)) > 3
    metadata = {name for name in files_of(wheel) if not name.startswith("vpdist/")}
    assert {name.partition("/")[0] for name in metadata} == {f"vpdist-{__version__}.dist-info"}


def test_a_file_too_few_or_too_many_is_told(distributed: tuple[Path, Path, set[str]], tmp_path: Path) -> None:
    sdist, wheel, wanted = distributed
    assert differences(sdist, wheel, wanted - {"vpdist/cli.py"}) == [
        f"{sdist.name}: has vpdist/cli.py",
        f"{wheel.name}: has vpdist/cli.py",
    ]
    assert differences(sdist, wheel, wanted | {"docs/absent.md"}) == [f"{sdist.name}: lacks docs/absent.md"]
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(tmp_path / wheel.name, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"")
        new.writestr("tests/left_over.py", b"")
    assert differences(sdist, tmp_path / wheel.name, wanted) == [f"{wheel.name}: has tests/left_over.py"]


def test_nothing_that_was_made_is_copied(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / "tree" / name / "__pycache__").mkdir(parents=True)
        (tmp_path / "tree" / name / "__pycache__" / "a.pyc").touch()
        (tmp_path / "tree" / name / "a.txt").touch()
    for name in FILES:
        (tmp_path / "tree" / name).touch()
    (tmp_path / "copy").mkdir()
    copy_of(tmp_path / "tree", tmp_path / "copy")
    assert files_below(tmp_path / "copy") == {*FILES, *(f"{name}/a.txt" for name in FOLDERS)}


def test_the_top_of_a_source_distribution_is_one_folder(distributed: tuple[Path, Path, set[str]]) -> None:
    with tarfile.open(distributed[0]) as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {f"vpdist-{__version__}"}
    assert "PKG-INFO" in files_of(distributed[0])
    assert "PKG-INFO" in contents.MADE


def test_versions_agree_and_a_final_release_has_a_date(tree: Path, tmp_path: Path) -> None:
    assert versions_agree(tree, final=False).startswith(f"{__version__}, ")
    (tmp_path / "vpdist").mkdir()
    for name in ("vpdist/__init__.py", "pyproject.toml", "CITATION.cff"):
        (tmp_path / name).write_bytes((tree / name).read_bytes())
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(f"# Changes\n\n## [{__version__}] - unreleased\n")
    with pytest.raises(FailedError, match="is unreleased; give it a date"):
        versions_agree(tmp_path, final=True)
    changelog.write_text(f"# Changes\n\n## [{__version__}] - 2026-12-24\n\n## [0.0.1] - 2026-01-01\n")
    assert versions_agree(tmp_path, final=True) == f"{__version__}, 2026-12-24"
    changelog.write_text("# Changes\n\n## [99.0.0] - 2026-12-24\n")
    with pytest.raises(FailedError, match=r"CHANGELOG.md says 99\.0\.0"):
        versions_agree(tmp_path, final=False)
    changelog.write_text("# Changes\n")
    with pytest.raises(FailedError, match="has no section"):
        versions_agree(tmp_path, final=False)


def test_a_python_that_is_named_counts_by_what_it_says(tmp_path: Path) -> None:
    named = tmp_path / "python"
    named.write_text("#!/bin/sh\necho 3.12\n")
    named.chmod(0o755)
    assert interpreters([named])["3.12"] == named
