"""`vpdist status`: one line about a run, or the same as JSON, from status.json, the lock and the newest snapshot."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpdist.display.history import History
from vpdist.display.last_command import is_of_last_command
from vpdist.display.letters import ASCII, end_text, range_text
from vpdist.display.picture import Scene
from vpdist.display.time_left import Span
from vpdist.monitoring.counters import Snapshot
from vpdist.storage.atomic_files import open_regular
from vpdist.storage.run_state import RunState, run_state
from vpdist.text import clock_text, count_text, number_of, printable, shortened

RUNNING, DEAD = 75, 137
"""What `vpdist status` exits with while a run has no code yet: sysexits.h's code of what can be tried again later. And
what `vpdist status` exits with where processes are gone without a word: a shell's code of what was killed."""
WARNING = "warning: "
"""So begins a line of a message that its reader has to know."""
WARNING_LETTERS = 200
OF_RUN = ("n_units", "kept_units", "recomputed_units", "n_fragments", "deduplicated")
"""Fields of RunFacts that are told as they are."""


def status(run_folder: Path) -> dict[str, Any]:
    """What is known of a run. Raises StorageError where there is none.

    `state`, `exit_code` (null while it runs, or where it ended without a word), `message`, `failing_rank`, `updated`,
    `alive`, `host` and `pid` are those of `RunState`; `stage`, `elapsed_s`, `ranks`, `done_percent`, `tokens_per_s`,
    `left_s` ([least, most]), `silent_ranks`, `lost_ranks`, `coming` (the stages that will follow), `n_units`,
    `kept_units`, `recomputed_units`, `n_fragments`, `deduplicated` and `report_age_s` (seconds since the newest
    snapshot of a run that goes on) are null or empty where they are not known, as while all that is recorded is of an
    earlier command.
    """
    found = run_state(run_folder)
    scene = _scene(run_folder / "progress.jsonl")
    if scene.snapshot is not None and not is_of_last_command(scene.snapshot, found):
        scene = Scene()
    return asdict(found) | _progress(scene, found)


def _scene(path: Path) -> Scene:
    scene = Scene()
    try:
        with open_regular(path) as file:
            for snapshot in History(file).tail():
                scene.observe(snapshot)
    except OSError:  # a run that was stopped before it began has none
        pass
    return scene


def _progress(scene: Scene, found: RunState) -> dict[str, Any]:
    snapshot, rates = scene.snapshot, scene.rates
    if snapshot is None:
        names = ("stage", "elapsed_s", "ranks", "done_percent", "tokens_per_s", "left_s", "report_age_s", *OF_RUN)
        return dict.fromkeys(names) | {"silent_ranks": [], "lost_ranks": [], "coming": []}
    running = found.state == "running"
    left = rates.run_left if running else None
    share = rates.total.fraction
    states = {row.rank: row.state for row in snapshot.rows}
    return {
        "stage": rates.total.stage,
        "elapsed_s": round(snapshot.elapsed, 1),
        "ranks": len(snapshot.rows),
        "done_percent": None if share is None else round(100 * share, 1),
        "tokens_per_s": round(rates.total.tokens_per_s) if running and rates.total.tokens_per_s else None,
        "left_s": None if left is None else [round(left.least), round(left.most)],
        "silent_ranks": [rank for rank, state in states.items() if state == "stalled"],
        "lost_ranks": [rank for rank, state in states.items() if state == "lost"],
        "coming": list(snapshot.run.coming) if running else [],
        **{name: getattr(snapshot.run, name) for name in OF_RUN},
    } | _age(snapshot, running=running)


def _age(snapshot: Snapshot, *, running: bool) -> dict[str, Any]:
    return {"report_age_s": round(max(0.0, time.time() - snapshot.time), 1) if running else None}


def status_line(run_folder: Path, told: dict[str, Any]) -> str:
    """The same in a line."""
    facts = [told["state"].replace("_", " ")]
    if told["exit_code"] is not None:
        facts.append(f"exit code {told['exit_code']}")
    if told["state"] in ("running", "dead") and told["stage"]:
        share = "" if told["done_percent"] is None else f" {told['done_percent']} %"
        facts.append(f"{told['stage']}{share}")
    if told["left_s"] is not None:
        now, (least, most) = time.time(), told["left_s"]
        facts.append(f"{range_text(Span(least, most), ASCII)} left, ends {end_text(now + (least + most) / 2, now)}")
    if told["tokens_per_s"]:
        facts.append(f"{count_text(told['tokens_per_s'])} tokens/s")
    if told["elapsed_s"] is not None:
        facts.append(f"{told['ranks']} {'rank' if told['ranks'] == 1 else 'ranks'} for {clock_text(told['elapsed_s'])}")
    for name, what in (("kept_units", "kept"), ("recomputed_units", "recomputed")):
        if told[name]:
            facts.append(f"{number_of(told[name], 'unit')} {what}")
    for state in ("silent", "lost"):
        if told["state"] == "running" and (ranks := told[f"{state}_ranks"]):
            facts.append(f"{len(ranks)} {state}")
    if told["pid"] and told["state"] in ("running", "dead"):
        how = {True: "is at work", False: "is gone", None: "cannot be seen from here"}[told["alive"]]
        facts.append(f"process {told['pid']} on {told['host']} {how}")
    lines = told["message"].splitlines() if told["message"] else []
    warnings = [line.removeprefix(WARNING) for line in lines if line.startswith(WARNING)]
    if lines and told["state"] != "done":
        facts.append(next((line for line in lines if not line.startswith(WARNING)), lines[0]))
    if warnings and told["state"] in ("done", "done_with_failures"):
        facts.append(f"{number_of(len(warnings), 'warning')}: {shortened(warnings[0].split('. ')[0], WARNING_LETTERS)}")
    return printable(f"{run_folder}: {', '.join(facts)}")


def exit_code(told: dict[str, Any]) -> int:
    """The run's own; RUNNING while it runs; DEAD where it ended without a word."""
    if told["exit_code"] is not None:
        return int(told["exit_code"])
    return DEAD if told["state"] == "dead" else RUNNING


def as_json(told: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(told)
