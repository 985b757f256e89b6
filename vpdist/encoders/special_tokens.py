"""The special tokens that a tokenizer.json puts before and after a sequence.

Enters: a model folder. Leaves: the tokenizer, and the ids at either end. What it may do is limited by tokenizer_json.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from vpdist.encoders.tokenizer_json import checked
from vpdist.errors import WeightsError
from vpdist.storage.atomic_files import JSON_LIMIT
from vpdist.storage.lfs_pointer import model_content

SOME_LETTERS = "ACGT"
"""Letters of both alphabets."""
MOST_SPECIAL = 8
"""Special tokens at either end at most."""


@dataclass(frozen=True, slots=True)
class EndTokens:
    """A folder's tokenizer, without truncation and padding."""

    path: Path
    content: bytes
    tokenizer: Tokenizer
    first: tuple[int, ...]
    """Ids before every sequence."""
    last: tuple[int, ...]
    """Ids after every sequence."""


def end_tokens(folder: Path) -> EndTokens:
    """The tokenizer of a folder. Raises WeightsError where it has no usable tokenizer.json, or one whose special tokens
    depend on the sequence."""
    path = folder / "tokenizer.json"
    content = model_content(path, JSON_LIMIT)
    description = checked(path, content)
    with usable(path):
        tokenizer = Tokenizer.from_str(description)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        found = {letters: _ends(tokenizer, letters) for letters in (SOME_LETTERS, SOME_LETTERS[::-1] * 3)}
    ends = set(found.values())
    if len(ends) != 1 or None in ends:
        raise WeightsError(f"{path}: does not put the same special tokens before and after every sequence")
    first, last = next(each for each in ends if each is not None)
    if max(len(first), len(last)) > MOST_SPECIAL:
        raise WeightsError(f"{path}: puts more than {MOST_SPECIAL} special tokens at an end")
    return EndTokens(path, content, tokenizer, first, last)


def _ends(tokenizer: Tokenizer, letters: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The ids before and after those of some letters, None where the letters' own are not among them in one piece."""
    bare, full = (tokenizer.encode(letters, add_special_tokens=special).ids for special in (False, True))
    for start in range(len(full) - len(bare) + 1):
        if bare and full[start : start + len(bare)] == bare:
            return tuple(full[:start]), tuple(full[start + len(bare) :])
    return None


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Raises WeightsError for what the library raises: Exceptions and panics, which are BaseExceptions."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise WeightsError(f"{path}: is not a tokenizer that the tokenizers library reads: {error}") from error
        raise
