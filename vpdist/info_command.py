"""What is told about the installation: `vpdist info`, and the versions of `vpdist --version`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import vpdist
from vpdist.text import printable_lines


def add_to(app: typer.Typer) -> None:
    """Make `info` a command of `app`."""
    app.command()(info)


def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Tell what vpdist finds here: versions, processor, GPUs, models, limits, folders, environment variables.

    Put its output into a report of a problem: it has no secrets.
    """
    from vpdist.commands.info import gathered, lines

    found = gathered()
    typer.echo(json.dumps(found, indent=2) if as_json else printable_lines("\n".join(lines(found))))


def versions_text() -> str:
    """vpdist and its version on a line of their own, then the versions that its numbers depend on."""
    from vpdist.commands.info import versions

    found = versions() | {"vpdist": vpdist.__version__}
    return "\n".join(f"{name} {version}" for name, version in found.items() if version is not None)
