"""The command that makes new calls of a run that is complete. It imports what it alone needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpdist.config import between_0_and_1, preset_of
from vpdist.environment import ending_with_launcher, launch_context
from vpdist.errors import UsageError
from vpdist.options import option


def add_to(app: typer.Typer) -> None:
    """Make the function below a command of `app`."""
    app.command()(classify)


def classify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A complete run folder that keeps its embeddings.")],
    model: Annotated[str | None, option("model")] = None,
    classifier: Annotated[Path | None, option("classifier")] = None,
    consensus: Annotated[str | None, option("consensus", default="as in the run")] = None,
    prevalence: Annotated[float | None, option("prevalence")] = None,
    sensitive: Annotated[bool, option("sensitive")] = False,
    balanced: Annotated[bool, option("balanced")] = False,
    strict: Annotated[bool, option("strict")] = False,
    max_fdr: Annotated[float | None, option("max_fdr")] = None,
    progress: Annotated[str, option("progress")] = "auto",
    offline: Annotated[bool, option("offline")] = False,
    legacy_output: Annotated[bool, option("legacy_output")] = False,
) -> None:
    """Make new calls from a run's embeddings, in seconds."""
    from vpdist.commands.early_checks import check_classifier_file
    from vpdist.models.download_display import shown_on
    from vpdist.models.find import find_model
    from vpdist.storage.run_folder import RunFolder

    if (model is None) == (classifier is None):
        raise UsageError("name a --model or a --classifier, one of both")
    between_0_and_1("prevalence", prevalence)
    between_0_and_1("max-fdr", max_fdr)
    preset = preset_of(sensitive, balanced, strict)
    if launch_context().rank == 0:
        RunFolder(run).check_holds_run()
        if classifier is not None:
            check_classifier_file(classifier)
        if model is not None:
            find_model(model, offline=offline, listener=shown_on(sys.stderr))
    with ending_with_launcher():
        from vpdist.calibration.judgement import Choice
        from vpdist.commands.classify import classify as new_calls

    code = new_calls(
        run,
        classifier,
        model=model,
        offline=offline,
        consensus=consensus,
        legacy_output=legacy_output,
        progress=progress,
        choice=Choice(preset=preset, max_fdr=max_fdr, prevalence=prevalence),
    )
    raise typer.Exit(code)
