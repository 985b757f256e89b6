"""The fields of an untrusted JSON object, read strictly: known names only, each of its type and within its limits."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdist.errors import WeightsError
from vpdist.text import printable, shortened

SHOWN_LETTERS = 80
"""Of a value that is refused, in the message."""
WIDTH = 120
"""Letters of a line of numbers."""
NUMBERS = re.compile(r"\[(\n +)((?:-?\d[^\s,]*,\s+)*-?\d[^\s,]*)(\n +)\]")
"""An indented list of numbers, one a line."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a JSON file. Every method raises WeightsError that names the file and the field."""

    path: Path
    where: str
    """The object's place in the file, such as `training.data[2]`; '' for the whole."""
    content: Mapping[str, Any]

    @classmethod
    def of(
        cls, path: Path, where: str, content: object, required: Iterable[str], optional: Iterable[str] = ()
    ) -> Fields:
        """The object `content`, which has all `required` fields and beside them only `optional` ones."""
        if not isinstance(content, dict):
            raise WeightsError(f"{path}: {where or 'its content'} is not a JSON object")
        fields, needed = cls(path, where, content), set(required)
        for name in sorted(needed - content.keys()):
            raise fields.wrong(name, "is missing")
        for name in sorted(content.keys() - needed - set(optional)):
            raise fields.wrong(name, "is not known; was it written by a newer version of vpdist?")
        return fields

    def name_of(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def wrong(self, name: str, reason: str) -> WeightsError:
        """The error that says what is wrong with a field."""
        return WeightsError(f"{self.path}: {shown(self.name_of(name))} {reason}")

    def text(self, name: str, most: int, pattern: re.Pattern[str] | None = None, what: str = "") -> str:
        """A text of at most `most` letters without control characters; all of it matches `pattern`, which is `what`."""
        value = self.content[name]
        if type(value) is not str or len(value) > most or printable(value) != value:
            raise self.wrong(name, f"must be a text of at most {most:,} letters in one line, not {shown(value)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.wrong(name, f"must be {what}, not {shown(value)}")
        return value

    def text_or_none(self, name: str, most: int, pattern: re.Pattern[str] | None = None, what: str = "") -> str | None:
        """As `text`; None for null and for a field that is absent."""
        return None if self.content.get(name) is None else self.text(name, most, pattern, what)

    def whole(self, name: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.content[name]
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, f"must be a whole number from {least:,} to {most:,}, not {shown(value)}")
        return value

    def whole_or_none(self, name: str, least: int, most: int) -> int | None:
        """As `whole`; None for null and for a field that is absent."""
        return None if self.content.get(name) is None else self.whole(name, least, most)

    def real(self, name: str) -> float:
        """A finite number."""
        value = self.content[name]
        try:
            finite = type(value) in (int, float) and math.isfinite(value)
        except OverflowError:  # a whole number that is too large
            finite = False
        if not finite:
            raise self.wrong(name, f"must be a finite number, not {shown(value)}")
        return float(value)

    def real_or_none(self, name: str) -> float | None:
        """As `real`; None for null and for a field that is absent."""
        return None if self.content.get(name) is None else self.real(name)

    def items(self, name: str, most: int) -> Sequence[Any]:
        """A list of at most `most` items."""
        value = self.content[name]
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name, f"must be a list of at most {most:,} items, not {shown(value)}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object whose content is not looked into."""
        value = self.content[name]
        if not isinstance(value, dict):
            raise self.wrong(name, f"must be an object, not {shown(value)}")
        return value


def shown(value: object) -> str:
    """A value for a message: short, in one line, without control characters."""
    return shortened(printable(value if isinstance(value, str) else repr(value)), SHOWN_LETTERS)


def json_text(content: dict[str, Any]) -> str:
    """Indented JSON whose lists of numbers, as null scores, fill lines instead of having one per number. Raises
    ValueError for numbers that JSON has not, as NaN."""

    def filled(found: re.Match[str]) -> str:
        before, numbers, after = found.groups()
        return (
            f"[{before}{before.join(textwrap.wrap(' '.join(numbers.split()), WIDTH, break_on_hyphens=False))}{after}]"
        )

    return NUMBERS.sub(filled, json.dumps(content, indent=2, allow_nan=False)) + "\n"
