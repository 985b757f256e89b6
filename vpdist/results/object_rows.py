"""The columns that summary.tsv has for the objects of a manifest, beside those of every input."""

from __future__ import annotations

from dataclasses import dataclass

from vpdist.results.table_files import NA
from vpdist.text import printable, without_open_quotes

OBJECT_COLUMNS = ("sample", "status", "reason")


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object."""

    sample: str
    """'' where none is declared."""
    reason: str | None
    """Why it failed; None where it was read."""

    def cells(self) -> tuple[str, str, str]:
        """OBJECT_COLUMNS: NA where nothing is declared; done or failed; the reason, NA where there is none."""
        sample = without_open_quotes(printable(self.sample)) or NA
        if self.reason is None:
            return sample, "done", NA
        return sample, "failed", without_open_quotes(printable(self.reason))
