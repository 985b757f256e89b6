"""The ranks in as many lines as there are: all of them below their nodes, else odd ones and the rest in little.

Where not every rank has a line, every node has one; where not every node has one either, odd ranks do, and all others
are a row of letters, each of which stands for one rank, a node or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from statistics import median

from rich.text import Text

from vpdist.display.letters import Letters
from vpdist.display.rank_columns import Layout, is_odd
from vpdist.display.rates import Line, Rates
from vpdist.text import count_text, printable, shortened

SORTS = ("rank", "slowest", "done")
FILTERS = ("all", "odd", "running")
WORST_FIRST = ("lost", "stalled", "running", "waiting", "done")
LEAST_ODD = 2
"""Odd ranks for which there must be room beside a line for every node."""
STATE_LETTERS = {"lost": "x", "stalled": "!"}
NODE_LETTERS = 24
"""Of a host's name."""


@dataclass(frozen=True, slots=True)
class View:
    """What somebody wants to see of the ranks."""

    sort: str = "rank"
    filter: str = "all"
    rank: int | None = None
    """One rank alone."""
    log: tuple[str, ...] = ()
    """The end of its log."""

    def of(self, lines: Sequence[Line]) -> list[Line]:
        """The lines that are wanted, in the order that is wanted."""
        kept = [
            line
            for line in lines
            if self.filter == "all" or (is_odd(line) if self.filter == "odd" else line.state == self.filter)
        ]
        if self.sort == "slowest":
            return sorted(kept, key=severity)
        return sorted(kept, key=lambda line: line.fraction or 0.0) if self.sort == "done" else kept


def severity(line: Line) -> tuple[int, bool, bool, float, float]:
    """Sorts ranks, the one that holds up the run first."""
    place = WORST_FIRST.index(line.state)
    return place, not line.straggles, not is_odd(line), line.fraction or 0.0, line.tokens_per_s or 0.0


def by_node(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Ranks by their host."""
    nodes: dict[str, list[Line]] = {}
    for line in lines:
        nodes.setdefault(line.facts.host, []).append(line)
    return nodes


def rank_table(rates: Rates, view: View, width: int, height: int, age_s: float, letters: Letters) -> list[Text]:
    """At most `height` lines of at most `width` cells."""
    lines = view.of(rates.lines)
    if height < 2 or not lines:
        return []
    layout, nodes = Layout.of(lines, width, letters), by_node(lines)
    draw = _Drawing(rates, layout, width, age_s, letters)
    several = len(nodes) > 1 and view.sort == "rank"
    if len(lines) + (len(nodes) if several else 1) <= height:
        if not several:
            return [draw.titles(nodes), *(draw.row(line) for line in lines)]
        return draw.unfolded(nodes)
    n_odd = sum(map(is_odd, lines))
    if several and len(nodes) + (1 + min(n_odd, LEAST_ODD) if n_odd else 0) <= height:
        return draw.folded(nodes, height)
    return draw.overview(lines, nodes, height, in_order=view.sort != "rank")


@dataclass(frozen=True, slots=True)
class _Drawing:
    rates: Rates
    layout: Layout
    width: int
    age_s: float
    letters: Letters

    def titles(self, nodes: dict[str, list[Line]]) -> Text:
        return self.layout.titles(_node_name(next(iter(nodes))) if len(nodes) == 1 else "rank", self.letters)

    def row(self, line: Line) -> Text:
        return self.layout.row(line, self.rates, self.age_s, self.letters)

    def unfolded(self, nodes: dict[str, list[Line]]) -> list[Text]:
        """Every rank below its node."""
        drawn = []
        for number, (name, lines) in enumerate(nodes.items()):
            if number == 0:
                drawn.append(self.layout.titles(_node_name(name), self.letters))
            else:
                drawn.append(self.node(name, lines))
            drawn += [self.row(line) for line in lines]
        return drawn

    def folded(self, nodes: dict[str, list[Line]], height: int) -> list[Text]:
        """Every node in a line, and below it those of its odd ranks for which there is room."""
        room = height - len(nodes) - 1
        odd = sorted((line for lines in nodes.values() for line in lines if is_odd(line)), key=severity)[:room]
        names = {line.label for line in odd}
        drawn = [self.layout.titles("", self.letters)] if odd else []
        for name, lines in nodes.items():
            drawn.append(self.node(name, lines))
            drawn += [self.row(line) for line in lines if line.label in names]
        return drawn

    def overview(self, lines: list[Line], nodes: dict[str, list[Line]], height: int, *, in_order: bool) -> list[Text]:
        """The ranks that hold the run up, and all others as letters."""
        heat_lines = 1 if height < 6 else 2
        room = height - 2 - heat_lines
        worst = lines[: max(0, room)] if in_order else nsmallest(room, filter(is_odd, lines), severity)
        if not in_order:
            worst = worst or nsmallest(min(room, 3), lines, severity)
            worst.sort(key=lambda line: int(line.label.removeprefix("rank ")))
        shown = {line.label for line in worst}
        rest = [line for line in lines if line.label not in shown]
        drawn = [self.titles(nodes), *map(self.row, worst)] if worst else []
        heat = self.heat(rest, (self.width - 1) * heat_lines)
        size = -(-len(rest) // max(1, len(heat)))
        every = "" if size == 1 else f", a letter for {size}"
        drawn.append(self.summary(f"{len(rest):,} others", rest, every))
        width = self.width - 1
        return [*drawn, *(Text(f" {heat[at : at + width]}") for at in range(0, len(heat), width))]

    def node(self, name: str, lines: list[Line]) -> Text:
        """A node in a line, with a letter for each of its ranks."""
        text = self.summary(f"{_node_name(name):<{self.layout.label}}", lines)
        heat = self.heat(lines, max(4, self.width - text.cell_len - 3))
        if text.cell_len + 2 + len(heat) <= self.width:
            text.append(f"  {heat}")
        return text

    def summary(self, name: str, lines: list[Line], more: str = "") -> Text:
        states = [line.state for line in lines]
        facts = [f"{states.count(state):,} {state}" for state in WORST_FIRST if state in states]
        if len(facts) == 1 and name.endswith("others"):
            name, facts = f"{name} {states[0]}", []
        fractions = [100 * line.fraction for line in lines if line.fraction is not None]
        if fractions:
            low, high = f"{min(fractions):.1f}", f"{max(fractions):.1f}"
            facts.append(f"{low} %" if low == high else f"{low}{self.letters.to}{high} %")
        if rate := sum(line.tokens_per_s or 0.0 for line in lines):
            facts.append(f"{count_text(rate)} tok/s")
        readings = [line.utilisation for line in lines if line.utilisation >= 0]
        if readings:
            facts.append(f"GPU {median(readings):.0f} %")
        alarm = any(state in states for state in STATE_LETTERS)
        made = Text(f" {name}  {', '.join(facts)}{more}", style="bold" if alarm else "")
        made.truncate(self.width)
        return made

    def heat(self, lines: Sequence[Line], cells: int) -> str:
        """A letter for each rank, or for each group of neighbours that the worst of them names: its pace against the
        fastest rank's, x lost, ! silent, a tick where it is done, a dot where it waits."""
        top = max((line.tokens_per_s or 0.0 for line in lines), default=0.0)
        size = max(1, -(-len(lines) // max(1, cells)))
        return "".join(self._letter(lines[at : at + size], top) for at in range(0, len(lines), size))

    def _letter(self, group: Sequence[Line], top: float) -> str:
        worst = min(group, key=severity)
        if worst.state in STATE_LETTERS:
            return STATE_LETTERS[worst.state]
        if worst.state == "done":
            return self.letters.done
        slowest = min(line.tokens_per_s or 0.0 for line in group)
        if worst.state == "waiting" or not top or not slowest:
            return self.letters.idle
        last = len(self.letters.levels) // 2  # a row of full letters would look like a bar
        return self.letters.levels[max(0, min(last, round(last * slowest / top)))]


def _node_name(host: str) -> str:
    return shortened(printable(host).partition(".")[0], NODE_LETTERS) if host else "rank"
