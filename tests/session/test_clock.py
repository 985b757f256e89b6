"""A run under a clock that is wrong, on files that are older than the clock's zero."""

import io
import json
import os
import time
from pathlib import Path

import pytest

from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.display.watch import watch


def tables(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.glob("*.tsv"))]


def test_a_clock_before_1970_stops_nobody(models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = write_contigs(tmp_path / "contigs.fa", n=4), tmp_path / "run"
    long_ago = (-(10**18), -(10**18))  # 1938
    clock, clock_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: clock() - 3e9)
    monkeypatch.setattr(time, "time_ns", lambda: clock_ns() - 3 * 10**18)
    os.utime(source, ns=long_ago)
    settings = models.settings(source, output)
    assert predict(settings) == 0
    before = tables(output)
    (output / "lock").write_text("{}")  # of a process that was killed
    for path in output.rglob("*"):
        os.utime(path, ns=long_ago)
    monkeypatch.setattr("vpdist.storage.run_lock.STALE_AFTER_S", 0.5)
    monkeypatch.setattr("vpdist.storage.run_lock.HEARTBEAT_S", 0.1)
    assert predict(settings) == 0
    assert tables(output) == before
    assert verify(output) == []
    shown = io.StringIO()
    watch(output, shown, follow=False)
    assert json.loads((output / "progress.jsonl").read_text().splitlines()[-1])["time"] < 0
    assert "rank=0 state=done" in shown.getvalue()
