"""Verdicts of the checks on a GPU, and the table that they make.

yield bounded("ESM-2 33x1280, share of the products' rate", 0.47, at_least=0.45)
yield held("two ranks, tables byte for byte", mine == theirs)
yield skipped("bfloat16", "this card has no bfloat16 products")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PASSED, FAILED, SKIPPED, FIGURE = "passed", "failed", "skipped", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was looked at, what was found, and whether that is as it must be."""

    what: str
    value: str = ""
    goal: str = ""
    outcome: str
    """PASSED, FAILED, SKIPPED, or FIGURE for a value without a goal."""
    note: str = ""
    """Of SKIPPED and FAILED the reason."""
    details: str = ""
    """Lines that are printed below the table under `what`, such as the names of kernels."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdicts of one check."""

    name: str
    verdicts: Sequence[Verdict]
    seconds: float


def bounded(
    what: str,
    value: float,
    unit: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Verdict:
    """Of a number: passed where it keeps its bounds (NaN keeps none), a mere figure where it has none."""
    bounds = ((">=", at_least), ("<=", at_most))
    goal = " ".join(f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None)
    low, high = at_least is None or value >= at_least, at_most is None or value <= at_most
    outcome = (PASSED if low and high else FAILED) if goal else FIGURE
    return Verdict(what=what, value=f"{_number(value)} {unit}".rstrip(), goal=goal, outcome=outcome, note=note)


def held(what: str, holds: bool, value: str = "", goal: str = "", note: str = "", details: str = "") -> Verdict:
    """Of a statement."""
    outcome = PASSED if holds else FAILED
    return Verdict(what=what, value=value, goal=goal, outcome=outcome, note=note, details=details)


def skipped(what: str, reason: str) -> Verdict:
    """Of what could not be looked at here."""
    return Verdict(what=what, outcome=SKIPPED, note=reason)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def any_failed(checks: Iterable[Checked]) -> bool:
    return any(verdict.outcome == FAILED for each in checks for verdict in each.verdicts)


def summary(checks: Sequence[Checked]) -> str:
    """How many verdicts there are of each outcome, and the time of all."""
    outcomes = [verdict.outcome for each in checks for verdict in each.verdicts]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in (PASSED, FAILED, SKIPPED))
    return f"{counts}; {sum(each.seconds for each in checks):.0f} s"


def table(checks: Iterable[Checked]) -> str:
    """All verdicts as a Markdown table; the first of every check has the check's name and time."""
    lines = ["| check | what | value | goal | verdict | s | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for each in checks:
        for number, verdict in enumerate(each.verdicts):
            name, seconds = (each.name, f"{each.seconds:.0f}") if number == 0 else ("", "")
            texts = (name, verdict.what, verdict.value, verdict.goal, verdict.outcome, seconds, verdict.note)
            cells = (" ".join(text.replace("|", "\\|").split()) for text in texts)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def details(checks: Iterable[Checked]) -> str:
    """The details of all verdicts that have any, each under its name."""
    found = [verdict for each in checks for verdict in each.verdicts if verdict.details]
    return "\n\n".join(f"{verdict.what}:\n\n```\n{verdict.details}\n```" for verdict in found)
