"""The documents against the repository: links, commands, files, tests and columns that they name are there."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest
import typer.main

from vpdist.cli import app
from vpdist.results import tables

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
COLUMNS = {
    "sequences": tables.SEQUENCE_COLUMNS,
    "chunks": tables.CHUNK_COLUMNS,
    "fragments": tables.FRAGMENT_COLUMNS,
}

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
every_table = pytest.mark.parametrize(("table", "columns"), COLUMNS.items(), ids=COLUMNS)


def blocks(text: str, language: str | None = None) -> list[str]:
    """What stands between fences, of one language or of any."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in found if language is None or named == language]


def spans(text: str) -> list[str]:
    """What stands between single backticks outside of blocks, each on one line."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def code(text: str) -> list[str]:
    """Lines of blocks, continued ones joined, and spans."""
    lines = "\n".join(blocks(text)).replace("\\\n", " ").splitlines()
    return [*(" ".join(line.split()) for line in lines), *spans(text)]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, its two first lines left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def files_of_the_repository() -> set[str]:
    """Paths as the documents may name them: whole, or any end of them that begins at a folder or at the file's name."""
    folders = ("vpdist", "tests", "scripts", "docs")
    paths = [*REPOSITORY.glob("*.*"), *(path for folder in folders for path in (REPOSITORY / folder).rglob("*.*"))]
    parts = [path.relative_to(REPOSITORY).parts for path in paths]
    return {"/".join(whole[start:]) for whole in parts for start in range(len(whole))}


def names_of_tests() -> set[str]:
    texts = [path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")]
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_has_a_row_for_every_folder_of_the_package_and_no_other() -> None:
    folders = {path.parent.name for path in (REPOSITORY / "vpdist").glob("*/__init__.py")}
    named = [row[0] for row in rows(section(README.read_text(), "How it is built"))]
    assert named[0] == "`vpdist/`"
    assert sorted(named[1:]) == sorted(f"`vpdist/{folder}/`" for folder in folders)


@every_table
def test_the_readme_shows_three_rows_of_every_table_under_its_columns(table: str, columns: list[str]) -> None:
    lines = "\n".join(blocks(section(README.read_text(), "What comes out"))).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{table}.tsv"))
    header, *shown = (line.split() for line in lines[start : start + 4])
    assert header[1:] == [column for column in columns if column in header]
    assert [len(row) for row in shown] == [len(header) - 1] * 3


@every_table
def test_every_column_of_a_table_is_described_in_its_order(table: str, columns: list[str]) -> None:
    described = rows(section((REPOSITORY / "docs" / "run-folder.md").read_text(), f"{table}.tsv"))
    assert [name for row in described for name in spans(row[0])] == columns


@every_document
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", document.read_text())
    relative = [link.split("#")[0] for link in links if "://" not in link]
    assert [link for link in relative if not (document.parent / link).is_file()] == []


@every_document
def test_every_script_that_is_named_is_a_module(document: Path) -> None:
    named = {name for line in code(document.read_text()) for name in re.findall(r"python -m (scripts[\w.]*)", line)}
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


@every_document
def test_every_command_that_is_named_is_one(document: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # it is a group
    calls = [re.search(r"(?:^|-m )vpdist ([a-z][a-z-]*)", line) for line in code(document.read_text())]
    assert {call.group(1) for call in calls if call} <= known


@every_document
def test_every_verb_of_make_that_is_named_is_one(document: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = {verb for line in code(document.read_text()) for verb in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= verbs


@every_document
def test_every_file_and_test_that_is_named_is_there(document: Path) -> None:
    there, tests = files_of_the_repository(), names_of_tests()
    named = [span.split("::")[0] for span in spans(document.read_text())]
    files = {name for name in named if re.fullmatch(r"[\w./-]+\.(?:py|sh|md)", name)}
    assert sorted(files - there) == []
    assert sorted({name for name in named if re.fullmatch(r"test_\w+", name)} - tests) == []


def test_every_change_is_made_in_at_most_four_files() -> None:
    changes = rows(section((REPOSITORY / "CONTRIBUTING.md").read_text(), "To change X, open these files"))
    assert [row[0] for row in changes] == [
        "the pooling",
        "a column of `sequences.tsv`",
        "what a bar shows",
        "how units are dealt",
        "a new command",
        "a further encoder",
        "a third kind of encoder",
    ]
    assert all(len(row[1].split(",")) <= 4 for row in changes)


def test_every_part_written_by_hand_says_how_to_measure_again() -> None:
    text = (REPOSITORY / "docs" / "design.md").read_text()
    chapter = text.split("## What is written by hand, and why\n", 1)[1].split("\n## ", 1)[0]
    parts = [paragraph for paragraph in chapter.split("\n\n") if paragraph.startswith("**")]
    assert len(parts) >= 20
    assert [part for part in parts if "*Again:*" not in part] == []


@every_document
def test_programs_in_documents_are_python(document: Path) -> None:
    for program in blocks(document.read_text(), "python"):
        ast.parse(program)


def keys_of_the_store() -> set[str]:
    """The beginning of every key that the package names where it shares something through the key store."""
    sharing = {"broadcast_from_rank_0", "wait_for", "publish", "next_index", "barrier", "share_dynamically"}
    found = set()
    for path in (REPOSITORY / "vpdist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in sharing):
                continue
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            if isinstance(first, ast.Constant):
                found.add(str(first.value).rstrip("/"))
    return found


def test_every_key_of_the_store_is_listed_with_what_checks_it() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text()
    table = rows(text.split("**The ranks' key store.**")[1].split("\n\n")[1])
    listed = {name.split("/")[-1] for row in table for name in spans(row[0])} | {
        name.split("/")[0] for row in table for name in spans(row[0])
    }
    keys = keys_of_the_store()
    assert {"folder", "todo", "check", "opened"} <= keys
    assert {key for key in keys if not {key, key.split("/")[0]} & listed} == set()
    assert all(len(row) == 4 and all(row) for row in table)


def test_figures_of_the_built_in_model_are_those_of_the_model_that_is_here() -> None:
    folder = REPOSITORY / "vpdist" / "models" / "mini"
    told = json.loads((folder / "model.json").read_text())["accuracy"]
    figure = re.match(r"AUROC [0-9.]+ \(.*?\)", told)
    assert figure is not None
    size = f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB"
    method, models = ((REPOSITORY / "docs" / name).read_text() for name in ("method.md", "models.md"))
    assert f"| {figure[0]} per sequence on its test side |" in method
    assert f"| {size}, part of the package |" in method
    assert f"{size} in all" in models
