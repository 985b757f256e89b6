"""The times of files, which the kernel takes from a clock that ticks every few milliseconds."""

from pathlib import Path

from tests.launched import wait_until


def let_the_clock_tick(folder: Path) -> None:
    """Return once a change of any file in `folder` gets another time than those that have been made."""
    newest = max(path.stat().st_ctime_ns for path in folder.iterdir())
    probe = folder.parent / f"{folder.name}.tick"

    def has_ticked() -> bool:
        probe.write_bytes(b"")
        return probe.stat().st_ctime_ns > newest

    wait_until(has_ticked, "the clock of files has ticked")
    probe.unlink()
