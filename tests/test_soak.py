"""The script that watches a long run, on a short one."""

import sys
from pathlib import Path

import pytest
import soak


def test_a_short_run_is_watched_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "SECONDS_BETWEEN", 0.05)
    options = "--fragments 20000 --minutes 0.05 --ranks 1 --nucleotide 2x48 --protein 2x32"
    monkeypatch.setattr(sys, "argv", ["soak.py", "--work", str(tmp_path / "soak"), *options.split()])
    with pytest.raises(SystemExit):  # its code judges the rate, which says nothing after three seconds
        soak.main()
    verdicts = {
        line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    }
    for what in ("descriptors", "threads", "files"):
        assert "| reached |" in verdicts[f"{what}, last tenth / second"]
    assert "tokens/s, last tenth / first" in verdicts


def test_a_leak_and_a_slow_end_are_missed_goals() -> None:
    samples = [soak.Sample(float(t), 1000 + t, 10 + t // 50, 3, 5) for t in range(100)]
    progress = [(float(t), 100 * t if t < 90 else 9000 + 80 * (t - 90)) for t in range(100)]
    missed = {row.what for row in soak.judge(samples, progress) if row.verdict == "missed"}
    assert missed == {
        "memory, last tenth / second",
        "descriptors, last tenth / second",
        "tokens/s, last tenth / first",
    }
