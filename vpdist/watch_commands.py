"""The commands that look at a run folder and leave it as it is: watch, status. Neither imports torch."""

from __future__ import annotations

import sys
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from vpdist.config import within
from vpdist.help_pages import ArrangedCommand

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
REPLAY, REPLAY_SPEED, MOST_SPEED = "--replay", 60.0, 1e6


class OptionalSpeed(ArrangedCommand):
    """A command whose --replay may be followed by a number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        written: list[str] = []
        for argument, following in zip_longest(args, args[1:], fillvalue=""):
            written.append(argument)
            if argument == REPLAY and not _is_number(following):
                written.append(str(REPLAY_SPEED))
        return super().parse_args(ctx, written)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(cls=OptionalSpeed)(watch)
    app.command()(status)


def watch(
    run: RunArgument,
    replay: Annotated[
        float | None, typer.Option(REPLAY, metavar="[SPEED]", help="From its beginning, by default 60 times as fast.")
    ] = None,
) -> None:
    """Draw a run's live picture in this terminal, or that of its end; s sorts, f filters, NUMBER Enter shows a rank."""
    from vpdist.display import watch as watching

    within("replay", replay, least=0.01, most=MOST_SPEED)
    try:
        if replay is None:
            watching.watch(run, sys.stderr, keys=watching.keyboard())
        else:
            watching.replay(run, sys.stderr, replay, keys=watching.keyboard())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def status(
    run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """One line about a run: its state, whether it is alive, how far it is; exits with the run's own code.

    While it runs the code is 75; 137 where its processes are gone without a word.
    """
    from vpdist.display import status as telling

    told = telling.status(run)
    typer.echo(telling.as_json(told) if as_json else telling.status_line(run, told))
    raise typer.Exit(telling.exit_code(told))
