"""The report of a run whose tables have been written again: it is written again, too, or is no longer in its place.

Enters: a run folder, after a command that replaces tables. Leaves: no report.html, report.png or vpdist_mqc.json that
speaks of earlier tables, whatever ends this process meanwhile: those that are there are renamed before all else.
"""

from __future__ import annotations

import os
from pathlib import Path

from vpdist.errors import VpdistError
from vpdist.report.page import write_report
from vpdist.storage.run_folder import REPORT, WITH_REPORT, is_report
from vpdist.text import printable


def renew_report(run: Path) -> list[str]:
    """Write the report in RUN again, with the files that were written with it; returns what people are told. Does
    nothing where there is none."""
    if not is_report(run / REPORT):
        return []
    old = [run / name for name in (REPORT, *WITH_REPORT) if (run / name).is_file()]
    png, multiqc = (run / name in old for name in WITH_REPORT)
    aside = [path.with_name(earlier_name(path)) for path in old]
    try:
        for path, kept in zip(old, aside, strict=True):
            os.replace(path, kept)
        written = write_report(run, png=png, multiqc=multiqc)
        for kept in aside:
            kept.unlink(missing_ok=True)
    except (VpdistError, OSError) as error:
        names = ", ".join(kept.name for kept in aside)
        return [
            f"warning: the report in {printable(str(run))} is of earlier calls and now named {names}, as it cannot be "
            f"written again: {printable(str(error))}"
        ]
    return [f"{printable(str(path))}: written again, for the new tables" for path, _ in written]


def earlier_name(path: Path) -> str:
    """report.html -> report.earlier.html; MultiQC finds vpdist_mqc.earlier.json no more."""
    return f"{path.stem}.earlier{path.suffix}"
