"""`--config FILE`: options of a command from a TOML file, as if they had been typed before those on the command line.

Enters: a file whose keys are options without their dashes, at the top for every command, in a table such as [predict]
for one. Leaves: values for the parser, which reads them as it reads what is typed. A key that is no option is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from vpdist.errors import UsageError

OPTION = "config"
MOST_BYTES = 1 << 20


def take_from(context: typer.Context, path: Path | None) -> Path | None:
    """The parser's callback of --config: what is not typed is taken from the file at `path`. Raises UsageError."""
    if path is not None and not context.resilient_parsing:
        context.default_map = {**(context.default_map or {}), **dict(_values(path, context))}
    return path


def _values(path: Path, context: typer.Context) -> Iterator[tuple[str, Any]]:
    """Parameters by their names with values as text, or as lists of texts, flags as True."""
    content, command = _content(path), str(context.info_name)
    commands = getattr(context.parent.command, "commands", {}) if context.parent else {command: context.command}
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    for name in tables:
        if name not in commands:
            raise UsageError(f"{path}: [{name}] is no command{_meant(name, commands)}")
    given = {key: value for key, value in content.items() if key not in tables} | tables.get(command, {})
    known = _by_key(context)
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: {key} is no option of {command} for a file{_meant(key, known)}")
        parameter = known[key]
        if getattr(parameter, "is_flag", False):
            if not isinstance(value, bool):
                raise UsageError(f"{path}: {key} is a flag: true or false")
            if value:
                yield parameter.name, True
        elif parameter.nargs == -1 or getattr(parameter, "multiple", False):
            several = value if isinstance(value, list) else [value]
            yield parameter.name, [_text(path, key, one) for one in several]
        else:
            yield parameter.name, _text(path, key, value)


def _content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--{OPTION} {path}: cannot be read: {error.strerror}") from error
    if len(raw) > MOST_BYTES:
        raise UsageError(f"--{OPTION} {path}: has more than {MOST_BYTES:,} bytes, which is no list of options")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--{OPTION} {path}: is no TOML: {error}") from error


def _by_key(context: typer.Context) -> dict[str, Any]:
    """The command's parameters by what they are called in a file; those that only ask for something are left out."""
    left_out = {OPTION, "help", "help-all"}
    found: dict[str, Any] = {}
    for parameter in context.command.params:
        flags = [flag.removeprefix("--") for flag in parameter.opts if flag.startswith("--")]
        found |= dict.fromkeys(flags or [str(parameter.name)], parameter)
    return {key: parameter for key, parameter in found.items() if key not in left_out}


def _text(path: Path, key: str, value: Any) -> str:
    """As it would be typed."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{path}: {key} is {value!r}, which is neither a text nor a number")
    if value == "":
        raise UsageError(f"{path}: {key} is empty")
    if isinstance(value, str) and "\0" in value:
        raise UsageError(f"{path}: {key} is {value!r}, with a NUL, which no option can hold")
    return str(value)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; {near[0]}?" if near else ""
