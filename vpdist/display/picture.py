"""The picture of a run: what runs, its stages, how far it is and how long it takes, nodes and ranks, the last events.

Enters: what `Scene` has taken from snapshots. Leaves: lines of styled text that fit a terminal. Bars and `vpdist watch`
draw the same picture.
"""

from __future__ import annotations

import io

from rich.console import Console
from rich.text import Text

from vpdist.display.events import Event, Events
from vpdist.display.heading import Moment, heading
from vpdist.display.letters import Letters, duration_text
from vpdist.display.rank_columns import device_text, label_text
from vpdist.display.rank_table import View, rank_table
from vpdist.display.rates import Rates
from vpdist.monitoring.counters import Snapshot
from vpdist.text import printable, shortened

HEIGHT_SHARE = 0.6
"""Of the terminal's lines, that the picture takes at most."""
LEAST_LINES = 4
EVENT_AGE_S = 3600.0
"""Older events are not shown, unless a rank is still silent."""


class Scene:
    """Everything that a picture is drawn from; snapshots enter, the older first."""

    def __init__(self) -> None:
        self.rates, self.events = Rates(), Events()
        self.snapshot: Snapshot | None = None

    def observe(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""
        if self.snapshot is not None and snapshot.elapsed < self.snapshot.elapsed:
            self.rates, self.events = Rates(), Events()  # another command has begun
        self.snapshot = snapshot
        self.rates.observe(snapshot)
        self.events.observe(snapshot)


def picture_height(lines: int) -> int:
    """Lines that a picture may take of a terminal with so many."""
    return max(LEAST_LINES, int(HEIGHT_SHARE * lines))


def picture(
    scene: Scene, width: int, height: int, now: float, letters: Letters, view: View | None = None
) -> list[Text]:
    """At most `height` lines of at most `width` cells at time `now` (Unix seconds)."""
    snapshot, view = scene.snapshot, view or View()
    if snapshot is None:
        return []
    moment = Moment(now, max(0.0, now - snapshot.time) if snapshot.ended is None else 0.0)
    drawn = heading(scene.rates, snapshot, width, moment, letters)
    if height < 7:  # too few lines for ranks: figures are worth more than names
        drawn = drawn[1:]
    if view.rank is not None and view.rank < len(scene.rates.lines):
        drawn += _one_rank(scene, view, width, height - len(drawn), moment, letters)
    else:
        told = _events(scene, width, max(0, min(3, (height - 6) // 5)), moment, letters)
        drawn += rank_table(scene.rates, view, width, height - len(drawn) - len(told), moment.age_s, letters) + told
    for text in drawn:
        text.truncate(width)
    return drawn[:height]


def _events(scene: Scene, width: int, room: int, moment: Moment, letters: Letters) -> list[Text]:
    """The newest events, the oldest of them first, with their age."""
    assert scene.snapshot is not None
    stalled = any(line.state == "stalled" for line in scene.rates.lines)
    recent = [event for event in scene.events.last if stalled or moment.now - event.time < EVENT_AGE_S]
    return [_event(scene, event, width, moment, letters) for event in recent[-room:]] if room else []


def _event(scene: Scene, event: Event, width: int, moment: Moment, letters: Letters) -> Text:
    age = max(0.0, moment.now - event.time)
    text = f" {duration_text(age)} ago: {event.text}"
    silent = max((line.silent_s for line in scene.rates.lines if line.state == "stalled"), default=0.0)
    assert scene.snapshot is not None
    timeout_s = scene.snapshot.run.stall_timeout_s
    if event.text.endswith("silent") and silent and timeout_s:
        left = duration_text(max(0.0, timeout_s - silent - moment.age_s))
        more = f" {letters.dot} ends the run in {left} if it stays so"
        text += more if len(text) + len(more) <= width else ""
    return Text(text if len(text) <= width else shortened(text, max(8, width - 24)))


def _one_rank(scene: Scene, view: View, width: int, height: int, moment: Moment, letters: Letters) -> list[Text]:
    """One rank: its line, its figures, and the end of its log."""
    assert view.rank is not None
    line = scene.rates.lines[view.rank]
    drawn = rank_table(scene.rates, View(sort="slowest", filter="all"), width, 0, moment.age_s, letters)
    model = device_text(line) if line.facts.device != "cpu" else ""
    facts = [f"rank {label_text(line)}", model, f"{line.facts.host}, process {line.facts.pid}", line.state]
    if line.shares is not None:
        shares = line.shares
        facts.append(
            f"computing {100 * shares.compute:.0f} %, waiting {100 * shares.wait:.0f} %, "
            f"writing {100 * shares.write:.0f} %"
        )
    if line.left_s is not None:
        facts.append(f"{duration_text(line.left_s)} left")
    drawn.append(Text(" " + f" {letters.dot} ".join(fact for fact in facts if fact)))
    one = Rates()
    one.lines, one.total, one.last = [line], scene.rates.total, scene.rates.last
    drawn += rank_table(one, View(), width, 2, moment.age_s, letters)
    room = max(0, height - len(drawn))
    return drawn + [Text(f" {printable(text)}") for text in view.log[-room:]] if room else drawn


class Painter:
    """Makes a terminal's text of a line of the picture."""

    def __init__(self) -> None:
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer, width=1000, force_terminal=True, highlight=False, color_system="standard"
        )

    def paint(self, line: Text) -> str:
        """The line with the terminal's colours."""
        self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text
