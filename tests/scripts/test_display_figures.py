"""The figures of what people look at, in their shortest form: each comes from the program itself, and a wrong one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from scripts.bench import first_sign, progress_cost, progress_size, report_size
from scripts.bench.simulated_ranks import Simulated, interval_s, snapshots
from scripts.checks import browser, recorded_runs, time_left
from scripts.demo import make_models
from scripts.faults import bad_records
from scripts.faults.gate import Gate
from tests.sample import write_contigs
from vpdist.monitoring.counters import COUNTERS, Snapshot


@pytest.mark.launcher
def test_the_first_line_of_a_command_and_its_answers_are_timed(tmp_path: Path) -> None:
    assert first_sign.first_line_s(tmp_path) > 0
    assert (tmp_path / "RUN" / "sequences.tsv").exists()
    for _, arguments, code, _ in first_sign.ANSWERS:
        assert first_sign.answer_s(tmp_path, arguments, code) > 0
    with pytest.raises(RuntimeError, match=r"ended with 3, not 0: vpdist: missing\.fa: cannot be read"):
        first_sign.answer_s(tmp_path, first_sign.ANSWERS[0][1], 0)


@pytest.mark.launcher
def test_a_report_is_measured_on_a_run_of_its_own() -> None:
    size, usable = report_size.rows((30,))
    assert size.figure is not None
    assert 0.01 < size.figure < 1
    assert (usable.figure is None) == (browser.found() is None)


def test_contigs_of_the_report_are_the_same_each_time_and_differ_from_each_other(tmp_path: Path) -> None:
    first, again = (report_size.write_contigs(tmp_path / name, 20).read_text() for name in ("a", "b"))
    assert first == again
    bases = [record.partition("\n")[2] for record in first.split(">")[1:]]
    assert len(set(bases)) == 20
    shares = [(each.count("G") + each.count("C")) / len(each) for each in bases]
    assert max(shares) - min(shares) > 0.2


@pytest.mark.parametrize("ranks", [2, 12])
def test_made_up_snapshots_are_those_of_a_run_that_computes(ranks: int) -> None:
    made = list(snapshots(ranks, 0.01))
    assert [each.elapsed for each in made] == pytest.approx([interval_s(ranks) * k for k in range(1, len(made) + 1)])
    assert all(row.state == "running" for row in made[-1].rows)
    for before, after in pairwise(made):
        assert all(
            b <= a
            for x, y in zip(before.rows, after.rows, strict=True)
            for b, a in zip(x.counters, y.counters, strict=True)
        )
    assert Snapshot.from_json(made[-1].to_json()).rows == made[-1].rows
    moved = {name for name in COUNTERS if made[-1].totals[name]}
    assert moved == set(COUNTERS) - {"records", "failures", "steps", "units"}  # a unit takes a minute


def test_a_day_of_the_file_is_its_hours_and_the_rest_at_the_rate_of_their_second_half() -> None:
    (row,) = progress_size.rows((2,), 0.05)
    (longer,) = progress_size.rows((2,), 0.1)
    assert row.figure is not None
    assert longer.figure is not None
    assert longer.figure == pytest.approx(row.figure, rel=0.3)  # both are lines of one second
    assert "181 lines in 0.05 h" in row.note or "180 lines in 0.05 h" in row.note


def test_what_snapshots_of_many_ranks_cost_is_told_as_a_share_of_the_time_between_them() -> None:
    row = progress_cost.simulated_row(16, steps=2)
    assert row.figure is not None
    assert row.figure > 0
    assert row.note.endswith("ms each 1 s")
    assert Simulated(512).advance().shape[0] == 512


@pytest.mark.launcher
def test_the_cost_of_progress_is_that_which_the_run_counts(tmp_path: Path) -> None:
    make_models.main(tmp_path / "models", nucleotide="1x24", protein="1x16")
    classifier = make_models.make_classifier(tmp_path / "classifier.safetensors", tmp_path / "models", hidden=8)
    contigs = write_contigs(tmp_path / "contigs.fa", n=60)
    options = make_models.model_options(tmp_path / "models", classifier)
    used = progress_cost.launched(contigs, tmp_path / "bars", options, "bars")
    assert min(used.progress_s, used.cpu_s, used.wall_s) > 0
    with pytest.raises(RuntimeError, match="ended with"):
        progress_cost.launched(tmp_path / "missing.fa", tmp_path / "missing", options, "none")


def test_a_terminal_of_the_measurement_is_one_and_nothing_waits_for_it() -> None:
    with progress_cost.terminal() as descriptor:
        assert os.isatty(descriptor)
        assert os.get_terminal_size(descriptor) == (120, 40)
        for _ in range(64):
            os.write(descriptor, b"x" * 4096)  # more than a pseudo-terminal keeps


@pytest.mark.launcher
def test_a_recorded_run_has_its_slow_rank_stopped_and_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranks wait after two batches until both are there and the slow one has been stopped three times."""
    gate, stops, stop = Gate(tmp_path / "gate"), [], recorded_runs._stopped_for_a_while
    for variable, value in bad_records.fault_environment(hold=gate.rule(free_batches=2)).items():
        monkeypatch.setenv(variable, value)

    def stop_and_open(rank: psutil.Process) -> bool:
        stopped = stop(rank)
        stops.append(rank.pid)
        if len(stops) >= 3 and len(gate.held()) == 2:
            gate.open()
        return stopped

    monkeypatch.setattr(recorded_runs, "_stopped_for_a_while", stop_and_open)
    ((name, run),) = recorded_runs.record(tmp_path, contigs=30, cases=[("dynamic", True)])
    assert name == "dynamic, one slow rank"
    assert set(stops) < gate.held()
    row = time_left.recorded_row(name, run)
    assert row.what == "time left holds the end, dynamic, one slow rank"
    assert "snapshots" in row.note


def test_a_run_whose_rank_was_never_stopped_is_no_recording(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no run')"]
    with pytest.raises(RuntimeError, match="the slow rank was stopped 0 times"):
        recorded_runs.launch(command, tmp_path / "run", slow=True)
    assert recorded_runs.launch(command, tmp_path / "run", slow=False) == 0
    with pytest.raises(RuntimeError, match="the run ended with 1"):
        recorded_runs.launch([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "run", slow=False)


def test_only_ranks_that_the_launcher_started_are_stopped(tmp_path: Path) -> None:
    made = next(iter(snapshots(2, 1)))
    (tmp_path / "progress.jsonl").write_text(made.to_json() + "\n")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert recorded_runs._rank_of(tmp_path, os.getpid()) is None  # the run tells another process
        told = made.to_json().replace("40001", str(child.pid))
        (tmp_path / "progress.jsonl").write_text(told + "\n")
        found = recorded_runs._rank_of(tmp_path, os.getpid())
        assert found is not None
        assert found.pid == child.pid
    finally:
        child.communicate(b"\n")
