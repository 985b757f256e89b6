"""The report of a run whose tables have been written again: it is written again, too, or is no longer in its place.

Enters: a run folder, after a command that replaces tables, by which a report lost its place
(`run_folder.set_report_aside`). Leaves: no report.html, report.png or vpdist_mqc.json that speaks of earlier tables,
whatever ends this process meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from vpdist.errors import VpdistError
from vpdist.report.page import write_report
from vpdist.storage.run_folder import REPORT, WITH_REPORT, earlier_name, has_report, set_report_aside
from vpdist.text import printable


def renew_report(run: Path) -> list[str]:
    """Write the report in RUN again, with the files that were written with it; returns what people are told. Does
    nothing where there is none."""
    if not has_report(run):
        return []
    try:
        set_report_aside(run)
        aside = [path for name in (REPORT, *WITH_REPORT) if (path := run / earlier_name(name)).is_file()]
        png, multiqc = (run / earlier_name(name) in aside for name in WITH_REPORT)
        written = write_report(run, png=png, multiqc=multiqc)
        for path in aside:
            path.unlink(missing_ok=True)
    except (VpdistError, OSError) as error:
        names = ", ".join(name for name in map(earlier_name, (REPORT, *WITH_REPORT)) if (run / name).is_file())
        return [
            f"warning: the report in {printable(str(run))} is of earlier calls and now named {names}, as it cannot be "
            f"written again: {printable(str(error))}"
        ]
    return [f"{printable(str(path))}: written again, for the new tables" for path, _ in written]
