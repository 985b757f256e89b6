"""The commands about models that documents show can be typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer.main

from tests.test_documents import blocks
from vpdist import cli

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = [
    line
    for document in ("README.md", "docs/models.md")
    for block in blocks((REPOSITORY / document).read_text(), "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("vpdist ")
]


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_is_shown_is_understood(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, arguments).params
