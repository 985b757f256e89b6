"""Text for users, safe and short: no control characters; counts, bytes and times in a few characters."""

from __future__ import annotations

import textwrap

NAME_LETTERS = 100
"""Letters of a sequence's name in a message at most; a file's may have a million."""
MESSAGE_LETTERS = 4000
"""Letters of a line for users at most; the log files have the whole."""


def printable(text: str) -> str:
    """`text` on one line and without control characters, which names, paths and untrusted files may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def shortened(text: str, most: int) -> str:
    """`text`, or its beginning and end where it has more than `most` letters: names in files may have a million."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}[... {len(text) - 2 * half:,} letters ...]{text[-half:]}"


def without_open_quotes(text: str) -> str:
    """`text` with `\x22` for each quote, where a reader of tables could take one for the beginning of a quoted cell.

    Readers that know quoted cells (pandas and R by default) look for its end in the rows that follow.
    """
    return text.replace('"', "\\x22") if text.startswith('"') or text.count('"') % 2 else text


def printable_lines(text: str) -> str:
    """`printable` of each line."""
    return "\n".join(map(printable, text.split("\n")))


def wrapped(text: str, columns: int) -> str:
    """`text` with lines of more letters than a terminal has columns broken at spaces, as the terminal breaks words;
    what goes on is indented. A word that is longer stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        parts = textwrap.wrap(
            line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False, tabsize=1
        )
        lines += parts if len(line) > columns and parts else [line]
    return "\n".join(lines)


def number_of(count: int, what: str) -> str:
    """1 rank, 2 ranks, 1,024 ranks."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def count_text(number: float) -> str:
    """At most five characters: 999, 1.23k, 45.6M, 789G."""
    if number < 999.5:
        decimals = 0 if number >= 99.5 or number == int(number) else 1 if number >= 9.95 else 2
        return f"{number:.{decimals}f}"
    for unit in "kMGTP":
        number /= 1000
        if number < 999.5 or unit == "P":
            break
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f}{unit}"


def bytes_text(number: int) -> str:
    """At most eight characters: 512 KiB, 12.3 GiB."""
    size = number / 1024
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        if size < 999.5 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.{0 if size >= 99.95 or unit == 'KiB' else 1}f} {unit}"


def clock_text(seconds: float) -> str:
    """0:07, 12:41, 3:12:41, 2d 03:12."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def span_text(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
