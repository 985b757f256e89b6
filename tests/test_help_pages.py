"""The help of a command: every option under a heading, few lines, and an example that the command line takes."""

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from tests.test_cli import COMMANDS
from tests.test_document_commands import taken
from vpdist.cli import app
from vpdist.help_pages import ALL, EXAMPLES, OTHERS, PANELS, SELDOM

GROUP: Any = typer.main.get_command(app)


def page(command: str, columns: int = 80, option: str = "-h") -> list[str]:
    ended = CliRunner().invoke(app, [command, option], env={"COLUMNS": str(columns), "TERM": "dumb"})
    assert ended.exit_code == 0
    return ended.stdout.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_under_a_heading_with_its_text(command: str) -> None:
    context = GROUP.commands[command].make_context(command, [], resilient_parsing=True)
    headings = dict(context.command.under_headings(context))
    assert OTHERS not in headings, f"give these a heading in help_pages.py: {[p.name for p in headings[OTHERS]]}"
    assert set(headings) <= {ALL, *PANELS}
    text = "\n".join(page(command))
    whole = "\n".join(page(command, option="--help-all" if "--help-all" in text else "-h"))
    for parameter in context.command.params:
        assert parameter.help
        named = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar
        assert named is None or (named in text and f"\n  {named}" in whole.replace("-o, ", ""))


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_no_option_stands_under_two_headings() -> None:
    names = [name for listed in PANELS.values() for name in listed.split()]
    assert len(names) == len(set(names))


def test_the_longest_help_that_most_users_read_fits_on_a_screen() -> None:
    lines = page("predict")
    assert len(lines) <= 45
    assert all(flag_of(name) in "".join(lines) for name in SELDOM)
    assert len(page("predict", option="--help-all")) > len(lines)
    assert [line.split("  ")[0].strip() for line in lines if line.split("  ")[0].strip() in PANELS] == [
        "Input",
        "Models",
        "Calls",
        "Output",
        "Numbers",
        "Launch",
        "Display",
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_of_options_is_wider_than_the_terminal(columns: int) -> None:
    lines = page("predict", columns)
    assert max(len(line.rstrip()) for line in lines if not line.startswith(("Example", "Usage"))) <= columns


def test_defaults_and_choices_are_shown() -> None:
    text = " ".join(" ".join(page("predict", 200)).split())
    assert "mean, max or fraction. [mean]" in text
    assert "--output RUN The run folder. [required]" in text
    assert "[default:" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_is_taken(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = EXAMPLES[command].split()
    assert (program, arguments[0]) == ("vpdist", command)
    taken(arguments, monkeypatch)
    assert f"Example: {EXAMPLES[command]}" in page(command)


def test_what_most_users_need_is_listed_first() -> None:
    assert list(GROUP.commands) == [*EXAMPLES, *(name for name in GROUP.commands if name not in EXAMPLES)]
    assert next(iter(EXAMPLES)) == "predict"
