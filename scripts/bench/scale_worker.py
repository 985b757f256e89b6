"""`python -m scripts.bench.scale_worker plan|ingest|start RESULT ARGUMENT...`: a job of scale.py in its own process.

plan RUN MODELS: gathers the keys of a token store, plans, writes the plan. ingest INPUT MODELS RUN: fills a token
store; rank 0 plans. start INPUT MODELS CLASSIFIER RUN: `predict`, timed from the end of the imports to the first batch.
Every rank, alone or under torchrun, writes seconds, counts and memory (peak of anonymous bytes beyond those after the
imports) to RESULT.rank.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vpdist.commands.predict
from scripts.bench.balance import GPU_LIMITS
from scripts.bench.memory import Peak
from vpdist import environment
from vpdist.commands.resolve_config import cost_of
from vpdist.config import Settings
from vpdist.distributed import runtime
from vpdist.encoders.shape import encoder_shape
from vpdist.planning import fragment_keys, plan_file
from vpdist.planning.plan import build
from vpdist.sequences import ingest, store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress
from vpdist.session.signals import StopRequest
from vpdist.storage.run_folder import RunFolder  # every import that a run makes


def make_plan(folder: RunFolder, summary: StoreSummary, models: Path) -> int:
    """Gather, plan and write as `predict` does; returns the number of units."""
    shapes = [encoder_shape(models / name) for name in ("dnabert-s", "esm-2")]
    costs = {shape.kind: cost_of(shape) for shape in shapes}
    plan = build(fragment_keys.fragment_keys(folder, summary), GPU_LIMITS, costs)
    plan_file.write_plan(folder.plan, plan, "benchmark")
    return plan_file.map_plan(folder.plan, "benchmark")[0].n_units


def plan_job(run: str, models: str) -> dict[str, Any]:
    folder = RunFolder(Path(run))
    summary = store_summary.load_summary(folder)
    assert summary is not None
    with Peak() as peak:
        started = time.perf_counter()
        n_units = make_plan(folder, summary, Path(models))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "units": n_units, "fragments": summary.n_fragments, "bytes": peak.bytes}


def ingest_job(source: str, models: str, run: str) -> dict[str, Any]:
    folder = RunFolder(Path(run))
    control = Control(
        runtime.start(environment.launch_context()),
        StopRequest(on_second_signal=lambda stopped: stopped.exit_code),
    )
    environment.limit_library_threads(1)
    if control.is_first:
        folder.prepare(restart=False)
    control.barrier("prepared")
    folders = {"nucleotide": Path(models) / "dnabert-s", "protein": Path(models) / "esm-2"}
    tokenizers = {kind: load_tokenizer(kind, path) for kind, path in folders.items()}
    with Peak() as peak:
        started = time.perf_counter()
        summary = ingest.ingest(
            control,
            folder,
            [Path(source)],
            "benchmark",
            chunk_length=500,
            min_length=0,
            tokenizers=tokenizers,
        )
        seconds = time.perf_counter() - started
        ingest_bytes = peak.bytes
        if control.is_first:
            make_plan(folder, summary, Path(models))
    control.barrier("planned")
    runtime.stop()
    return {
        "seconds": seconds,
        "records": summary.n_records,
        "chunks": summary.n_chunks,
        "fragments": summary.n_fragments,
        "ingest_bytes": ingest_bytes,
        "bytes": peak.bytes,
    }


def start_job(source: str, models: str, classifier: str, run: str) -> dict[str, Any]:
    began = time.perf_counter()
    first: list[float] = []
    add = Progress.add

    def noting(self: Progress, **counters: int) -> None:
        if not first and counters.get("batches"):
            first.append(time.perf_counter() - began)
        add(self, **counters)

    Progress.add = noting  # type: ignore[method-assign]
    code = vpdist.commands.predict.predict(
        Settings(
            inputs=(source,),
            output=Path(run),
            nucleotide_model=str(Path(models) / "dnabert-s"),
            protein_model=str(Path(models) / "esm-2"),
            classifier=Path(classifier),
            threads=1,
            device="cpu",
            progress="none",
        )
    )
    assert code == 0, code
    return {"seconds": first[0]}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"plan": plan_job, "ingest": ingest_job, "start": start_job}


def main() -> None:
    job, result, *arguments = sys.argv[1:]
    measured = JOBS[job](*arguments)
    Path(f"{result}.{environment.launch_context().rank}.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
