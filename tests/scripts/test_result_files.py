"""The figures of the files that rank 0 writes alone, in their shortest form."""

from __future__ import annotations

from scripts.bench import result_files


def test_tables_and_what_is_made_from_them_are_timed_apart() -> None:
    found = list(result_files.rows(n=40, times=2))
    assert [row.what for row in found if row.what.startswith("tables")] == ["tables of reads", "tables of contigs"]
    assert len({row.what for row in found}) == 2 + 1 + 6
    assert all(row.figure is not None and row.figure > 0 for row in found if not row.what.startswith("- "))
    assert found[0].note.startswith("40 reads, ")
    for first in (0, len(found) // 2):
        _, further, *each = found[first : first + len(found) // 2]
        assert further.figure is not None
        assert max(row.figure or 0.0 for row in each if row.what != "- virus.fna.gz") <= further.figure
