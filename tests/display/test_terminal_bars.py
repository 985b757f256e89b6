"""Displays on real pseudo-terminals, read back through a terminal emulator; the last ones under torchrun."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pyte
import pytest

from tests.launched import PATIENCE_S, environment, report_of, torchrun
from tests.snapshots import row, snapshot
from vpdist.display.terminal_bars import POP_TITLE, PUSH_TITLE, Bars
from vpdist.text import wrapped

BAR = re.compile(r"[ !] *(\d+)( cpu)? +(\d+\.\d)%  [━╸─]+( .*)?")
"""The line of a rank."""
SHARE = re.compile(r"▶ embed (\d+\.\d) %")
"""In the line of stages: that of all ranks."""


class Terminal:
    """A pseudo-terminal with a screen that can be read."""

    def __init__(self, columns: int = 80, lines: int = 24, encoding: str = "utf-8") -> None:
        self._master, slave = pty.openpty()
        self.stream = open(slave, "w", encoding=encoding)  # noqa: SIM115 - closed below
        self.screen = pyte.Screen(columns, lines)
        self._emulator = pyte.ByteStream(self.screen)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def write(self, text: str) -> None:
        """What somebody else writes."""
        self.stream.write(text)
        self.stream.flush()

    def read(self) -> list[str]:
        """The lines on the screen, without trailing blanks."""
        os.set_blocking(self._master, False)
        while True:
            try:
                self._emulator.feed(os.read(self._master, 65536))
            except BlockingIOError:
                return [line.rstrip() for line in self.screen.display]

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def show(bars: Bars, elapsed: int, ranks: int = 2) -> None:
    made = snapshot(
        elapsed, *(row(rank, nucleotide_tokens=1000 * elapsed, planned_tokens=100_000) for rank in range(ranks))
    )
    bars.show(made)
    bars.tick(made.time)


def assert_clean(terminal: Terminal, *lines: str) -> None:
    """Nothing but `lines` is on the screen, the cursor is visible and below them, the whole screen scrolls."""
    assert [line for line in terminal.read() if line] == list(lines)
    assert not terminal.screen.cursor.hidden
    assert (terminal.screen.cursor.y, terminal.screen.cursor.x) == (len(lines), 0)
    assert terminal.screen.margins is None


def test_bars_stand_below_what_was_there_and_leave_it_alone(terminal: Terminal) -> None:
    terminal.write("$ vpdist predict\n")
    bars = Bars(terminal.stream)
    show(bars, 50)
    lines = terminal.read()
    assert lines[0] == "$ vpdist predict"
    assert lines[-6].startswith("▶ embed 50.0 %")
    assert lines[-4].startswith("100k of 200k tokens")
    assert [BAR.fullmatch(line) is not None for line in lines[-2:]] == [True] * 2
    bars.close()
    assert_clean(terminal, "$ vpdist predict")


def test_lines_of_others_scroll_above_the_bars_and_break_none(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    for second in range(60):
        show(bars, second)
        terminal.write(f"somebody else's line {second}\n")
        lines = terminal.read()
        assert [BAR.fullmatch(line) is not None for line in lines[-2:]] == [True] * 2
    assert "somebody else's line 59" in lines[-9:-7]
    bars.close()
    lines = [line for line in terminal.read() if line]
    assert lines == [f"somebody else's line {second}" for second in range(60 - len(lines), 60)]


def test_messages_stand_above_the_bars_without_control_characters(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    bars.message("two \x1b[2J lines\nin one")
    show(bars, 1)
    assert terminal.read()[0] == "two  [2J lines in one"
    bars.message("the last message")
    bars.close()
    assert_clean(terminal, "two  [2J lines in one", "the last message")


def test_long_messages_break_between_words(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    name = "n" * 90
    bars.message(f"{'word ' * 15}half-way  and {name}")
    show(bars, 1)
    bars.close()
    assert_clean(terminal, f"{'word ' * 15}".rstrip(), "  half-way  and", f"  {name[:78]}", name[78:])


def test_only_lines_that_are_too_long_are_broken() -> None:
    told = f"virus      1,740  31.6 % ####\n\n{'a' * 50} {'b' * 50}"
    assert wrapped(told, 80) == f"virus      1,740  31.6 % ####\n\n{'a' * 50}\n  {'b' * 50}"
    assert wrapped(told, 101) == told


def test_bars_begin_where_the_screen_is_full(terminal: Terminal) -> None:
    terminal.write("".join(f"line {number}\n" for number in range(40)))
    bars = Bars(terminal.stream)
    show(bars, 1)
    assert terminal.read()[:16] == [f"line {number}" for number in range(24, 40)]
    bars.close()
    assert_clean(terminal, *(f"line {number}" for number in range(24, 40)))


def test_bars_follow_the_number_of_ranks_and_the_size_of_the_terminal(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    for ranks, columns, height in ((2, 80, 24), (8, 80, 24), (8, 120, 40), (3, 60, 10), (3, 80, 24)):
        terminal.resize(columns, height)
        show(bars, 50, ranks)
        lines = terminal.read()
        drawn = [line for line in lines if line]
        shown = [line for line in drawn if BAR.fullmatch(line)]
        assert len(shown) == (ranks if height > 10 else 0)  # six lines hold the figures only
        assert len(drawn) == (ranks + 5 if height > 10 else 5)
    bars.close()
    assert_clean(terminal)


def test_the_title_tells_the_share_and_the_terminal_gets_its_own_back(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    bars = Bars(terminal.stream)
    written: list[str] = []
    monkeypatch.setattr("vpdist.display.terminal_bars.write_text", lambda stream, text: written.append(text))
    for second in (10, 10, 50):
        show(bars, second)
    bars.close()
    titles = re.findall(r"\x1b\]2;(.*?)\x07", "".join(written))
    assert titles == ["embed 10 %", "embed 50 %"]
    assert written[0].count(PUSH_TITLE) == 1
    assert written[-1].count(POP_TITLE) == 1
    assert "\x1b]9;" not in "".join(written), "a notification on terminals that do not know it"


def test_progress_in_the_task_bar_is_told_where_it_is_known_to_work(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WT_SESSION", "1")
    monkeypatch.delenv("TMUX", raising=False)
    bars = Bars(terminal.stream)
    written: list[str] = []
    monkeypatch.setattr("vpdist.display.terminal_bars.write_text", lambda stream, text: written.append(text))
    show(bars, 30)
    bars.close()
    assert re.findall(r"\x1b\]9;4;(.*?)\x1b", "".join(written)) == ["1;30", "0"]


def test_a_narrower_terminal_has_no_ghosts_of_wider_lines(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    for columns, height in ((160, 30), (70, 30), (70, 20), (50, 24)):
        terminal.resize(columns, height)
        show(bars, 50)
        lines = terminal.read()
        assert sum(line.startswith("vpdist") for line in lines) == 1
        assert sum("▶ embed" in line for line in lines) == 1
        assert len([line for line in lines if line]) == 7
    bars.close()
    assert_clean(terminal)


def test_a_stopped_terminal_delays_nothing(terminal: Terminal) -> None:
    bars = Bars(terminal.stream)
    show(bars, 1)
    terminal.read()
    termios.tcflow(terminal.stream.fileno(), termios.TCOOFF)  # Ctrl-S
    held = threading.Thread(target=lambda: [show(bars, second) for second in range(2, 500)], daemon=True)
    held.start()
    held.join(PATIENCE_S)
    assert not held.is_alive(), "the display waits for the terminal"
    termios.tcflow(terminal.stream.fileno(), termios.TCOON)
    show(bars, 60)
    assert "60.0%" in terminal.read()[-1]


def test_bars_on_an_ascii_terminal_are_ascii() -> None:
    terminal = Terminal(encoding="ascii")
    bars = Bars(terminal.stream)
    bars.message("Mosa\u00efque")
    show(bars, 50)
    lines = terminal.read()
    assert lines[0] == r"Mosa\xefque"
    assert re.match(r" 1 +50.0%  #+-+", lines[-1])
    bars.close()
    terminal.close()


class Session:
    """torchrun with two ranks on a terminal of 80 x 24."""

    def __init__(self, folder: Path, scenario: str) -> None:
        command, *arguments = torchrun(folder, scenario, options=("--standalone", "--nproc-per-node=2"))
        self.screen = pyte.Screen(80, 24)
        self._emulator = pyte.Stream(self.screen)
        self.process = pexpect.spawn(
            command, arguments, env=environment(), dimensions=(24, 80), encoding="utf-8", codec_errors="replace"
        )
        self.modes = termios.tcgetattr(self.process.child_fd)
        self.output = ""
        self._folder, self._scenario = folder, scenario
        self._shown: dict[str, float] = {}
        self._opened = 0

    def lines(self) -> Iterator[list[str]]:
        """The screen's lines, again and again until the command has ended."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                text = self.process.read_nonblocking(65536, timeout=0.2)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                self.process.wait()  # `close` kills what has not ended half a second later
                return
            self.output += text
            self._emulator.feed(text)
            yield [line.rstrip() for line in self.screen.display]
        raise AssertionError(f"the command did not end within {PATIENCE_S:.0f} s: {self.output[-2000:]}")

    def go_on(self, lines: list[str]) -> None:
        """Open the next gate for the ranks once all bars have advanced since the last one."""
        if any("▶ ingest" in line for line in lines) and any("sequence" in line for line in lines):
            self._open("ingest")
        percent = shares(lines)
        if len(percent) == 3 and all(share > self._shown.get(name, 0.0) for name, share in percent.items()):
            self._shown = percent
            self._open(str(self._opened))
            self._opened += 1

    def _open(self, gate: str) -> None:
        (self._folder / f"{self._scenario}.{gate}").touch()

    def assert_clean(self) -> None:
        assert not self.screen.cursor.hidden
        assert self.screen.margins is None
        assert termios.tcgetattr(self.process.child_fd) == self.modes
        assert not any(BAR.search(line) for line in self.screen.display)
        below = self.screen.display[self.screen.cursor.y + 1 :]
        assert not any(line.strip() for line in below), "bars were left below the cursor"


def shares(lines: list[str]) -> dict[str, float]:
    """Percent done by bar, of the bars on the screen; every line that begins like a bar must be whole."""
    percent = {}
    for line in lines:
        if re.match(r"[ !] *\d+( cpu)? +[\d.]+%.*[━─]", line):
            bar = BAR.fullmatch(line)
            assert bar is not None, f"a broken line: {line!r}"
            percent[f"rank {bar[1]}"] = float(bar[3])
        if percent_of_all := SHARE.search(line):
            percent["all"] = float(percent_of_all[1])
    return percent if len(percent) == 3 else {}


@pytest.mark.launcher
def test_bars_of_both_ranks_advance_under_torchrun_and_leave_the_terminal_clean(tmp_path: Path) -> None:
    session = Session(tmp_path, "bars")
    seen: dict[str, list[float]] = {"rank 0": [], "rank 1": [], "all": []}
    counted = False
    for lines in session.lines():
        percent = shares(lines)
        counted = counted or (any("▶ ingest" in line for line in lines) and any("sequence" in line for line in lines))
        assert len(percent) in (0, 3)
        session.go_on(lines)
        if "message above  [2J the bars" in lines:
            first_bar = next((at for at, line in enumerate(lines) if BAR.fullmatch(line)), 24)
            assert lines.index("message above  [2J the bars") < first_bar
        for name, share in percent.items():
            if not seen[name] or share != seen[name][-1]:
                seen[name].append(share)
    assert counted
    for name, values in seen.items():
        assert len(values) >= 3, f"{name} did not advance: {values}"
        assert values == sorted(values)
    left = [line.rstrip() for line in session.screen.display]
    assert "message above  [2J the bars" in left
    assert "a line that somebody else writes" in left
    session.process.close()
    assert session.process.exitstatus == 0
    assert [report_of(tmp_path, f"bars.{rank}")["batches"] for rank in (0, 1)] == [[50, 100]] * 2


@pytest.mark.parametrize("scenario", ["bars_failing", "bars_interrupted"], ids=["a failure", "Ctrl-C"])
@pytest.mark.launcher
def test_the_terminal_is_clean_after(tmp_path: Path, scenario: str) -> None:
    session = Session(tmp_path, scenario)
    interrupted = False
    drawn = False
    for lines in session.lines():
        percent = shares(lines)
        drawn = drawn or len(percent) == 3
        if scenario == "bars_failing" or not drawn:
            session.go_on(lines)
        elif not interrupted:
            session.process.sendintr()
            interrupted = True
    assert drawn
    session.assert_clean()
    assert "ended: " in session.output
    session.process.close()
    assert session.process.exitstatus == 1, "what torchrun answers to every failure"
