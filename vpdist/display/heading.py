"""The upper lines of the picture: what runs, its stages, how far it is, how long it takes, what it does a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from vpdist.display.letters import Letters, bar, curve, duration_text, end_text, levels, power_text, range_text
from vpdist.display.rates import Line, Rates, score_counts
from vpdist.monitoring.counters import Snapshot
from vpdist.text import bytes_text, clock_text, count_text, printable

QUIET_S = 10.0
"""From this age of the newest snapshot on, the picture tells it."""
SHORT_STAGE_S = 1.0
"""A stage that took less is left out where there is no room."""
CURVE_CELLS = 11
WIDE = 100
"""Cells of a terminal from which on words are written out."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a picture is drawn: `now` (Unix seconds), and the age of the newest snapshot."""

    now: float
    age_s: float


def aligned(left: Text, right: str | Text, width: int) -> Text:
    """One line: `left` and, at its end, `right`, which is left out where it does not fit."""
    if not right or left.cell_len + 2 + len(right) > width:
        left.truncate(width, overflow="ellipsis" if left.cell_len > width else None)
        return left
    left.append(" " * (width - left.cell_len - len(right)))
    return left.append(right)


def fitting(facts: Sequence[str], width: int, separator: str) -> str:
    """As many of the first facts as fit, so that no word is cut."""
    text = ""
    for fact in facts:
        longer = f"{text}{separator}{fact}" if text else fact
        if len(longer) <= width:
            text = longer
    return text


def counted(number: int, what: str) -> str:
    """1 unit, 2 units, 1.23k units."""
    return f"{count_text(number)} {what if number != 1 else what.removesuffix('s')}"


def heading(rates: Rates, snapshot: Snapshot, width: int, moment: Moment, letters: Letters) -> list[Text]:
    """Four lines: names and numbers of ranks; stages; a bar; figures."""
    return [
        _title(snapshot, width, letters),
        _stages(rates, snapshot, width, moment, letters),
        _bar(rates, snapshot, width, moment, letters),
        _figures(rates, snapshot, width, moment, letters),
    ]


def run_title(snapshot: Snapshot, letters: Letters) -> str:
    """reads.fa.gz -> RUN."""
    run = snapshot.run
    names = ", ".join(run.inputs)
    if run.n_inputs > len(run.inputs) > 0:
        names = f"{run.inputs[0]} and {run.n_inputs - 1:,} more"
    return printable(f"{names} {letters.right} {run.output}" if names else run.output)


def _title(snapshot: Snapshot, width: int, letters: Letters) -> Text:
    run, dot = snapshot.run, f" {letters.dot} "
    left = Text().append("vpdist", style="bold")
    if title := run_title(snapshot, letters):
        left.append(f"{dot}{title}")
    hosts = len({facts.host for facts in snapshot.facts if facts.host})
    ranks = f"{len(snapshot.rows):,} {'rank' if len(snapshot.rows) == 1 else 'ranks'}"
    ranks += f", {hosts} nodes" if hosts > 1 else ""
    return aligned(left, fitting([ranks, *run.told], max(0, width - left.cell_len - 2), dot), width)


def _stages(rates: Rates, snapshot: Snapshot, width: int, moment: Moment, letters: Letters) -> Text:
    run, total = snapshot.run, rates.total
    elapsed = snapshot.elapsed + (moment.age_s if snapshot.ended is None else 0)
    right = f"{clock_text(elapsed)} gone"
    ended = [*(began for _, began in run.stages[1:]), snapshot.elapsed]
    before: dict[str, float] = {}  # a stage that has come more than once is told once
    for (name, began), end in zip(run.stages, ended, strict=False):
        if name not in (total.stage, "start"):
            before[name] = before.get(name, 0.0) + end - began
    done = [f"{letters.done} {name} {clock_text(took)}" for name, took in before.items()]
    brief = [f"{letters.done} {name}" for name, took in before.items() if took >= SHORT_STAGE_S]
    share = f" {100 * total.fraction:.1f} %" if total.fraction is not None and total.planned else ""
    here = f"{letters.now} {total.stage}{share}"
    coming = [f"{letters.coming} {name}" for name in run.coming]
    room = width - len(right) - 2
    names = [f"{letters.done} {name}" for name in before]
    for earlier in (done, names, brief, []):
        if len("  ".join([*earlier, here, *coming])) <= room:
            break
    else:
        coming = []
    text = Text("  ".join(earlier) + ("  " if earlier else ""))
    text.append(here, style="bold")
    if coming:
        text.append("  " + "  ".join(coming))
    return aligned(text, right, width)


def _left(rates: Rates, snapshot: Snapshot, moment: Moment, letters: Letters) -> str:
    if snapshot.ended is not None:
        return "done" if snapshot.ended == "" else "ended"
    if moment.age_s > QUIET_S:
        return f"no report for {duration_text(moment.age_s)}"
    if rates.run_left is not None:
        return f"{range_text(rates.run_left, letters)} left"
    if rates.stage_left is not None:
        return f"{range_text(rates.stage_left, letters)} left of {rates.total.stage}"
    return ""


def _bar(rates: Rates, snapshot: Snapshot, width: int, moment: Moment, letters: Letters) -> Text:
    right = _left(rates, snapshot, moment, letters)
    if len(right) > width // 2:
        right = right.rpartition(" left")[0]
    room = width - (len(right) + 3 if right else 0)
    text = bar(rates.total.fraction, max(4, room), letters, "bold")
    if right:
        text.append("   ").append(right, style="bold")
    text.truncate(width)
    return text


def _done(total: Line) -> list[str]:
    """How much of the stage is done, in its own measure."""
    if not total.planned:
        counts = [
            counted(total.counts[name], {"records": "sequences"}.get(name, name)) for name in ("records", "bases")
        ]
        return [text for text, name in zip(counts, ("records", "bases"), strict=True) if total.counts[name]]
    if total.stage == "ingest":
        read = [f"{bytes_text(total.done)} of {bytes_text(total.planned)} read"]
        return [*read, *(counted(total.counts["records"], "sequences") for _ in range(total.counts["records"] > 0))]
    if total.stage in ("check", "tables"):
        what = {"check": "parts checked", "tables": "steps"}[total.stage]
        return [f"{count_text(total.done)} of {count_text(total.planned)} {what}"]
    if total.counts["tokens"]:
        return [f"{count_text(total.done)} of {count_text(total.planned)} tokens"]
    return [f"{count_text(total.done)} of {counted(total.planned, 'steps' if total.stage == 'fit' else 'units')}"]


def _figures(rates: Rates, snapshot: Snapshot, width: int, moment: Moment, letters: Letters) -> Text:
    total, dot = rates.total, f" {letters.dot} "
    facts = [*_done(total)]
    if snapshot.note:
        facts = [*printable(snapshot.note).split(", "), *facts]
    states = [line.state for line in rates.lines]
    alarms = [f"{states.count(state)} {state}" for state in ("lost", "stalled") if state in states]
    if total.counts["failures"]:
        alarms.append(f"{count_text(total.counts['failures'])} failed")
    if total.tokens_per_s is not None and total.stage == "embed":
        cells = CURVE_CELLS if width >= WIDE else CURVE_CELLS // 2
        facts.append(f"{count_text(total.tokens_per_s)} tok/s {curve(rates.curve, cells, letters)}".rstrip())
    if total.limit_share is not None:
        whose = "the hardware's limit" if width >= WIDE else "limit"
        facts.append(f"{100 * total.limit_share:.0f} % of {whose}")
    scores = score_counts(snapshot)
    if sum(scores):
        facts.append(f"virus {100 * sum(scores[4:]) / sum(scores):.0f} % {levels(scores, letters)}")
    if rates.ends_within_s >= 60 and total.stage == "embed":
        facts.append(f"ranks end within {duration_text(rates.ends_within_s)}")
    if total.power_w is not None:
        facts.append(power_text(total.power_w))
    right = ""
    if rates.run_left is not None and snapshot.ended is None and not alarms and moment.age_s <= QUIET_S:
        right = f"ends {end_text(moment.now + rates.run_left.middle, moment.now)}"
    text = Text(fitting([*alarms, *facts], width - (len(right) + 2 if right else 0), dot))
    if alarms:
        text.stylize("bold", 0, len(fitting(alarms, width, dot)))
    return aligned(text, right, width)
