"""Signals: a request to stop with the right code; a second one stops immediately."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from tests.launched import PATIENCE_S
from vpdist.distributed.runtime import alone
from vpdist.environment import LaunchContext
from vpdist.errors import Interrupted
from vpdist.session.coordination import Control
from vpdist.session.signals import StopRequest, stopping_signals
from vpdist.storage.object_stores import beside

PROGRAM = """
    import os, signal, sys, threading
    from vpdist.session import signals
    LONG, PAST = 3600.0, -1.0

    def on_second_signal(stopped):
        print("restored", stopped, stopped.exit_code, flush=True)
        signals.SECOND_SIGNAL_AFTER_S = LONG
        os.kill(os.getpid(), signal.SIGTERM)
        if sys.argv[1:] == ["hangs"]:
            signals.SECOND_SIGNAL_AFTER_S = PAST
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()
        return 5

    stop = signals.StopRequest(on_second_signal)
    signals.SECOND_SIGNAL_AFTER_S = LONG
    with stop.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        print("a launcher's echo does not count", flush=True)
        signals.SECOND_SIGNAL_AFTER_S = PAST
        os.kill(os.getpid(), signal.SIGINT)
        print("never reached", flush=True)
"""


@pytest.fixture(autouse=True)
def hangup_by_default() -> Iterator[None]:
    """Also where the tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGHUP, 143)],
    ids=lambda value: str(value),
)
def test_a_signal_asks_to_stop_with_its_code(number: signal.Signals, code: int) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)}
    stop = StopRequest(on_second_signal=lambda stopped: stopped.exit_code)
    with stop.installed():
        stop.raise_if_requested()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=number.name) as caught:
            stop.raise_if_requested()
    assert caught.value.exit_code == code
    assert before == {each: signal.getsignal(each) for each in before}


@pytest.mark.parametrize(("how", "code"), [([], 5), (["hangs"], 143)], ids=["", "a third does not wait"])
def test_a_second_signal_stops_immediately_after_restoring_the_terminal(how: list[str], code: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout.splitlines() == [
        "a launcher's echo does not count",
        "restored stopped by a second signal, SIGINT 130",
    ]
    assert ended.returncode == code


@pytest.mark.parametrize(
    ("handler", "handled_by_launcher", "is_rank", "stops"),
    [
        (signal.SIG_DFL, "", False, True),
        (signal.SIG_IGN, "", False, False),
        (signal.SIG_IGN, "SIGTERM,SIGINT,SIGUSR1", True, False),
        (signal.SIG_IGN, "SIGTERM,SIGINT,SIGHUP,SIGQUIT", True, True),
        (signal.SIG_IGN, "SIGTERM,SIGINT,SIGHUP,SIGQUIT", False, False),
    ],
    ids=["a terminal", "nohup", "nohup vpdist --nproc", "nohup torchrun, which ends by it", "nohup, after a launcher"],
)
def test_a_hangup_stops_unless_it_is_ignored(
    handler: signal.Handlers, handled_by_launcher: str, is_rank: bool, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", handled_by_launcher)
    monkeypatch.setenv("RANK", "0")
    if not is_rank:
        monkeypatch.delenv("RANK")
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in stopping_signals()) == stops
        stop = StopRequest(on_second_signal=lambda stopped: stopped.exit_code)
        with stop.installed():
            assert (signal.getsignal(signal.SIGHUP) is handler) != stops
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_waiting_for_a_store_ends_when_the_command_must_end() -> None:
    stop = StopRequest(on_second_signal=lambda stopped: stopped.exit_code)
    control = Control(alone(LaunchContext(), "cpu"), stop)
    answered = threading.Event()
    assert beside(lambda retries: "answer", control.retries) == "answer"
    with stop.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            beside(lambda retries: answered.wait(600.0), control.retries)
    answered.set()
