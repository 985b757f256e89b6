"""What the documents tell readers to type: calls of vpdist in their bash blocks, as lists of arguments."""

import re
import shlex
from collections.abc import Iterator

SEPARATORS = "|&;<>()"
PLACEHOLDER = "..."
"""Stands for what a reader adds; it stays in the arguments."""


def bash_blocks(text: str) -> list[str]:
    """The blocks of a document that are bash, without their fences."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def calls(text: str) -> Iterator[list[str]]:
    """The arguments of each call of vpdist in the bash blocks of a document, under a launcher or not."""
    for block in bash_blocks(text):
        for line in _whole_lines(block):
            yield from _calls(line)


def _whole_lines(block: str) -> Iterator[str]:
    """Lines with what they are continued by: after a backslash, and up to the closing quote."""
    begun = ""
    for line in block.replace("\\\n", " ").splitlines():
        begun += line
        try:
            _tokens(begun)
        except ValueError:  # a quote is open
            begun += "\n"
            continue
        yield begun
        begun = ""
    if begun:
        raise ValueError(f"no closing quote: {begun}")


def _tokens(line: str) -> list[str]:
    without_streams = re.sub(r"(?<=\s)\d(?=[<>])", "", line)  # 2> as >
    lexer = shlex.shlex(without_streams, posix=True, punctuation_chars=SEPARATORS)
    lexer.whitespace_split = True
    return list(lexer)


def _calls(line: str) -> Iterator[list[str]]:
    segment: list[str] = []
    for token in [*_tokens(line), ";"]:
        if set(token) <= set(SEPARATORS):
            if "vpdist" in segment and (arguments := segment[segment.index("vpdist") + 1 :]):
                yield arguments
            segment = []
        elif re.search(r"\bvpdist [a-z-]", token):  # bash -c 'vpdist ...'
            yield from _calls(token)
        else:
            segment.append(token)
