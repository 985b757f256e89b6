"""`vpdist classify`: new calls from the embeddings of a complete run, without embedding again.

Logits are computed unit by unit from the embeddings as stored, as `predict` does, so equal classifiers give equal bits.
Parts do not change; tables are replaced, and run.json records the classifier they come from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdist.calibration.judgement import Choice
from vpdist.commands import further_files, resolve_config, told_to_displays
from vpdist.commands.new_scores import scores_under
from vpdist.commands.run_calibration import judged_anew, judging_of
from vpdist.commands.run_inputs import Waiting
from vpdist.commands.run_record import runs_with, this_run
from vpdist.commands.short_sequences import refuse_mostly_short
from vpdist.commands.threads import use_threads
from vpdist.config import CONSENSUS, ResolvedConfig, one_of, within
from vpdist.errors import UsageError, WeightsError
from vpdist.models import choose
from vpdist.models.bundle import Bundle
from vpdist.models.find import find_model
from vpdist.models.load_heads import load_heads
from vpdist.planning import plan_file
from vpdist.planning.plan import Plan
from vpdist.results import parts
from vpdist.results.heads import Heads
from vpdist.results.parts import part_header
from vpdist.results.write_results import checked_scores, summary_text, write_tables
from vpdist.sequences import store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.run_session import run_session
from vpdist.session.session import Outcome, Session
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import TablesOrigin


def classify(
    output: Path,
    classifier: Path | None,
    *,
    model: str | None = None,
    offline: bool = False,
    consensus: str | None,
    legacy_output: bool,
    min_score: float = 0.0,
    gzip_tables: bool = False,
    progress: str,
    choice: Choice | None = None,
) -> int:
    """Run `vpdist classify` on this rank; returns the exit code.

    Args:
        output: a run folder with complete parts that keep their embeddings.
        classifier: a classifier file, or None where a model is named.
        model: a model (`models.find`) whose encoders are those of the run.
        offline: ask nobody for the model, and read no inputs in the network again.
        consensus: mean, max or fraction; None: that of the run.
        legacy_output: also write the original method's two files.
        min_score: least virus score of what virus.fna.gz, virus.tsv and the regions hold, from 0 to 1.
        gzip_tables: write the three tables as .tsv.gz.
        progress: auto, bars, log or none.
        choice: how a model's calibration judges the scores; None: by default.
    """
    if consensus is not None:
        one_of("consensus", consensus, CONSENSUS)
    within("min-score", min_score, least=0, most=1)

    def body(session: Session) -> Outcome:
        outcome = Outcome("")

        def make() -> str:
            nonlocal outcome
            bundle = None if model is None else find_model(model, offline=offline, listener=Waiting(session.control))
            kept = Kept(legacy_output, min_score, gzip_tables, offline)
            outcome = _new_calls(session, classifier, bundle, consensus, choice or Choice(), kept)
            return "1"

        session.control.broadcast_from_rank_0("classified", make)
        return outcome

    return run_session(RunFolder(output), body, device="cpu", progress=progress, stall_timeout=1800.0, must_exist=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """Which files are written beside the tables, see `classify`."""

    legacy_output: bool
    min_score: float
    gzip_tables: bool
    offline: bool
    """Whether inputs in the network are not read again, for virus.fna.gz."""


def _new_calls(
    session: Session,
    given: Path | None,
    bundle: Bundle | None,
    consensus: str | None,
    choice: Choice,
    kept: Kept,
) -> Outcome:
    """All of `vpdist classify`, on rank 0. Raises UsageError, WeightsError, StorageError."""
    started = time.monotonic()
    folder = session.folder
    recorded, summary = _recorded(folder)
    run = read_json(folder.run) or {}
    path = _fitting(recorded, given, bundle, folder)
    classifier = load_heads(path, bundle)
    if missing_kinds := [kind for kind in classifier.kinds if kind not in recorded.models]:
        raise UsageError(
            f"{folder.path}: {path} needs {' and '.join(classifier.kinds)} embeddings, but the run has no "
            f"{' nor '.join(missing_kinds)} ones"
        )
    use_threads(recorded.threads)
    plan, plan_id = _complete_plan(folder, recorded, summary, classifier, path)
    chosen = consensus or _recorded_consensus(run)
    judging = judging_of(bundle, choice, chosen)
    session.begin()
    told = None if bundle is None else choose.named(bundle)
    folder.update_run(runs=runs_with(run, this_run(session.control.runtime)), tables_model=told)
    told_to_displays.describe_classify(session.progress, folder.path, recorded, plan)
    session.progress.stage("classify", planned_units=plan.n_units)
    scores = checked_scores(scores_under(session, classifier, plan, plan_id, summary))
    session.progress.stage("tables")
    sources = recorded.input_names
    origin = TablesOrigin(
        command="classify",
        classifier=classifier.fingerprint,
        consensus=chosen,
        plan=plan_id,
        shortest_chunk=choose.shortest_judged(bundle),
        summary=classifier.summary.fingerprint if classifier.summary is not None else "",
        min_score=kept.min_score,
    )
    further = further_files.of_classify(
        session, summary, recorded, kept.min_score, gzip_tables=kept.gzip_tables, offline=kept.offline
    )
    steps = told_to_displays.TableSteps(session.control, summary, 0, files=further.passes)
    further.file_done = steps.file
    written = (folder, summary, scores, sources, origin, session.control.raise_if_ending)
    legacy, anew = kept.legacy_output, judged_anew(folder, judging)
    totals = write_tables(*written, legacy=legacy, judging=judging, further=further, block_done=steps.block)
    steps.end()
    warnings = summary.warnings(sources, recorded.min_length)
    if bundle is not None:
        shortest = origin.shortest_chunk
        warnings += refuse_mostly_short(folder, summary, bundle.model.name, shortest, allowed=True)
    warnings += resolve_config.unknown_chunk_length(classifier, str(path), recorded.chunk_length)
    text = summary_text(folder, totals, time.monotonic() - started, called=True)
    return Outcome("\n".join([*warnings, text, *anew, *further.told, *choose.told(bundle)]), totals.failures)


def _recorded(folder: RunFolder) -> tuple[ResolvedConfig, StoreSummary]:
    """What a run with embeddings has recorded. Raises UsageError, StorageError."""
    recorded, summary = resolve_config.recorded_config(folder), store_summary.load_summary(folder)
    if recorded is None or summary is None:
        raise UsageError(f"{folder.path}: the run is not complete; resume it with the same command first")
    if not recorded.embeddings:
        raise UsageError(f"{folder.path}: the run has no embeddings (--no-embeddings)")
    return recorded, summary


def _complete_plan(
    folder: RunFolder, recorded: ResolvedConfig, summary: StoreSummary, classifier: Heads, path: Path
) -> tuple[Plan, str]:
    """The plan of a run of which no unit is missing, and its identity; the classifier, from `path`, is compared with
    the widths of its embeddings. Raises UsageError, WeightsError, StorageError."""
    store_summary.check_digest(folder, summary)
    plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments, store=summary.digest)
    header = part_header(plan_id, recorded)
    missing = parts.remaining(folder.parts, plan, header)
    if missing:
        raise UsageError(
            f"{folder.path}: {len(missing)} of {plan.n_units} units are missing; resume it with the same command first"
        )
    if plan.n_units:
        first = parts.read(folder.parts, 0, classifier.kinds)
        widths = [array.shape[1] for array in first.values()]
        resolve_config.check_classifier(classifier, str(path), widths, recorded.chunk_length)
    return plan, plan_id


def _fitting(recorded: ResolvedConfig, given: Path | None, bundle: Bundle | None, folder: RunFolder) -> Path:
    """The classifier's file; that of a model only where the run has the model's encoders and chunk length.

    Raises WeightsError naming both sides.
    """
    if bundle is None:
        return Path(str(given))
    model = bundle.model
    if recorded.chunk_length != model.chunk_length:
        raise WeightsError(
            f"model {model.name}: was trained on chunks of {model.chunk_length} bases, but those of {folder.path} have "
            f"{recorded.chunk_length}"
        )
    if recorded.models.keys() != model.encoders.keys():
        raise WeightsError(
            f"model {model.name}: has encoders for {' and '.join(model.encoders)}, but {folder.path} embeddings of "
            f"{' and '.join(recorded.models)}"
        )
    choose.refuse_other_fingerprints(bundle, recorded.models, dict.fromkeys(recorded.models, str(folder.path)))
    bundle.check_classifier()
    return bundle.classifier


def _recorded_consensus(run: dict[str, Any]) -> str:
    """The run's own consensus. Raises UsageError where run.json has an unknown one."""
    settings = run.get("settings")
    chosen = settings.get("consensus", CONSENSUS[0]) if isinstance(settings, dict) else CONSENSUS[0]
    one_of("consensus", chosen, CONSENSUS)
    return str(chosen)
