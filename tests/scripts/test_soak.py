"""The script that observes a long run, on a short one."""

import json
import sys
from pathlib import Path

import pytest

from scripts.faults import bad_records, soak
from scripts.faults.gate import Gate

GOALS = {f"{what}, last tenth / second" for what in ("memory", "descriptors", "threads", "files")}


@pytest.mark.launcher
def test_a_run_is_watched_while_it_embeds_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, gate = tmp_path / "soak" / "run", Gate(tmp_path / "gate")
    for name, value in bad_records.fault_environment(hold=gate.rule(free_batches=3)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(soak, "SECONDS_BETWEEN", 0.05)
    monkeypatch.setattr(
        soak, "long_enough", lambda measurements, minutes: len(measurements) > 20 and len(soak.embedding(run)) > 2
    )
    options = "--fragments 2000 --ranks 1 --nucleotide 2x48 --protein 2x32"
    monkeypatch.setattr(sys, "argv", ["soak.py", "--work", str(tmp_path / "soak"), *options.split()])
    with pytest.raises(SystemExit):  # goals mean nothing after so short a time
        soak.main()
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert GOALS | {"tokens/s, last tenth / first"} <= set(lines)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 143)
    assert not (run / "sequences.tsv").exists()


def test_what_stays_flat_reaches_its_goals() -> None:
    measurements = [soak.Measurement(float(t), 1000, 10 + (t == 50), 3, 5) for t in range(100)]
    verdicts = {row.what: row.verdict for row in soak.judge(measurements, [(float(t), 100 * t) for t in range(100)])}
    assert {verdicts[goal] for goal in (*GOALS, "tokens/s, last tenth / first")} == {"reached"}


def test_a_leak_and_a_slow_end_are_missed_goals() -> None:
    measurements = [soak.Measurement(float(t), 1000 + t, 10 + t // 50, 3, 5) for t in range(100)]
    progress = [(float(t), 100 * t if t < 90 else 9000 + 80 * (t - 90)) for t in range(100)]
    missed = {row.what for row in soak.judge(measurements, progress) if row.verdict == "missed"}
    assert missed == {
        "memory, last tenth / second",
        "descriptors, last tenth / second",
        "tokens/s, last tenth / first",
    }
