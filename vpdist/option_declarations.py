"""What the command line says of an option, and the checks of what is typed; `Settings` is declared with these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vpdist.errors import UsageError

MOST_SHARDS = 1 << 20
LONGEST_NUMBER = 18
"""Digits; Python refuses to read far longer numbers."""


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UsageError unless `value` is one of `choices`."""
    if value not in choices:
        raise UsageError(f"--{option} {value}: choose one of {', '.join(choices)}")


def parsed_budget(text: str) -> int | None:
    """A --token-budget: a number, or None for auto. Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER):
        raise UsageError(f"--token-budget {text}: give auto or a number of tokens")
    return int(text)


def parsed_shard(text: str) -> tuple[int, int]:
    """Number and count of a `--shard i/n`. Raises UsageError."""
    number, slash, count = text.partition("/")
    digits = all(each.isascii() and each.isdigit() and len(each) <= LONGEST_NUMBER for each in (number, count))
    if not (slash and digits and 1 <= int(number) <= int(count) <= MOST_SHARDS):
        raise UsageError(f"--shard {text}: give i/n, the number of a job from 1 and of all jobs, as 3/7")
    return int(number), int(count)


def checked_shard(text: str | None) -> str | None:
    """A --shard, if one is given. Raises UsageError."""
    if text is not None:
        parsed_shard(text)
    return text


def within(option: str, value: float | None, least: float, most: float | None = None) -> None:
    """Raises UsageError when `value` is given and not (as NaN is not) at least `least` and at most `most`."""
    if value is not None and not (least <= value and (most is None or value <= most)):
        bounds = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise UsageError(f"--{option} {value}: must be {bounds}")


def between_0_and_1(option: str, value: float | None) -> None:
    """Raises UsageError when `value` is given and not (as NaN is not) between 0 and 1, neither of them."""
    if value is not None and not 0 < value < 1:
        raise UsageError(f"--{option} {value}: must be between 0 and 1")


PRESET_NAMES = ("sensitive", "balanced", "strict")


def preset_of(sensitive: bool, balanced: bool, strict: bool) -> str:
    """The preset for calls, balanced where none is given. Raises UsageError where several are."""
    given = [name for name, chosen in zip(PRESET_NAMES, (sensitive, balanced, strict), strict=True) if chosen]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]}: choose one")
    return given[0] if given else "balanced"


def encodable(option: str, *names: object) -> None:
    """Raises UsageError for a name that is not UTF-8: run.json, tables and messages between ranks are."""
    for name in map(str, names):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="backslashreplace").decode()
            raise UsageError(f"{option} {shown}: the name is not UTF-8; rename it, or link to it") from None


@dataclass(frozen=True, slots=True)
class Option:
    """What the command line says of a field of `Settings`, and which values the field may have.

    Its name, type and default are the field's own unless stated; `parse` makes the field's value of what is given.
    """

    help: str
    """{choices} in it becomes their list."""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    flags: tuple[str, ...] = ()
    """The last one is the long form."""
    metavar: str | None = None
    typed: Any = None
    default: Any = None
    parse: Callable[[Any], Any] = lambda given: given

    def flags_of(self, name: str) -> tuple[str, ...]:
        return self.flags or (f"--{name.replace('_', '-')}",)

    def check(self, name: str, value: Any) -> None:
        """Raises UsageError unless field `name` may be `value`."""
        if self.choices:
            one_of(name.replace("_", "-"), value, self.choices)
        if self.least is not None:
            within(name.replace("_", "-"), value, self.least, self.most)
