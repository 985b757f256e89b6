"""Snapshots made by hand, for tests of what is drawn from them, and a stream to draw on."""

import io

from vpdist.monitoring.counters import COUNTERS, RankRow, Snapshot


def row(rank: int = 0, state: str = "running", stage: str = "embed", **fields: object) -> RankRow:
    """A rank's row; counters by name, other fields of RankRow by name, the rest zero."""
    counters = tuple(int(str(fields.pop(name, 0))) for name in COUNTERS)
    base = fields.pop("base", {})
    assert isinstance(base, dict)
    defaults: dict[str, object] = {
        "silent_s": 0.0,
        "planned_tokens": 0,
        "planned_units": 0,
        "shared": False,
        "memory_bytes": 0,
        "utilisation": -1,
    }
    return RankRow(  # type: ignore[arg-type]
        rank=rank,
        state=state,
        stage=stage,
        counters=counters,
        base=tuple(base.get(name, 0) for name in COUNTERS),
        **{**defaults, **fields},
    )


def snapshot(elapsed: float, *rows: RankRow, ended: str | None = None) -> Snapshot:
    """All ranks, `elapsed` seconds after a run began at Unix time 1e9."""
    return Snapshot(1e9 + elapsed, elapsed, "round", rows, ended)


class Stream(io.StringIO):
    """A text stream in memory, terminal or not."""

    encoding = "utf-8"

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal
