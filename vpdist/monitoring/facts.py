"""What does not change, or seldom: of each rank its host, process and device; of the run its names and stages.

Ranks publish theirs once in the key store; rank 0 reads those that it lacks, some at a time. Snapshots carry both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any

from vpdist.text import printable, shortened

LONGEST_S = 1e11
"""Seconds that a run lasts, at most."""
LONGEST_TEXT = 200
"""Letters of a text that another process has sent, at most."""
READ_AT_ONCE, READS = 16, 100
"""Ranks whose facts are read at a time, and how often each is read: it tells its device's limit when that is known."""


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What is known of one rank."""

    host: str = ""
    pid: int = 0
    device: str = ""
    """`cpu`, or the GPU's model."""
    index: int = 0
    """Number of its device on its host."""
    memory_bytes: int = 0
    """That the device has, or the machine; 0 where that is not known."""
    limit_mflops: int = 0
    """Operations per second of plain products of matrices on it, in millions; 0 until that is measured."""

    def is_sound(self) -> bool:
        """Whether all values have the types and ranges that a rank's have."""
        numbers = (self.pid, self.index, self.memory_bytes, self.limit_mflops)
        return (
            type(self.host) is str
            and type(self.device) is str
            and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
        )

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> RankFacts:
        """Of the fields' values in their order; those of a later version follow. Raises ValueError or TypeError."""
        made = cls(*list(values)[: len(fields(cls))])
        if not made.is_sound():
            raise ValueError("not the facts of a rank")
        texts = {name: shortened(printable(getattr(made, name)), LONGEST_TEXT) for name in ("host", "device")}
        return replace(made, **texts)  # type: ignore[arg-type]


def facts_json(facts: Sequence[RankFacts]) -> dict[str, object]:
    """As JSON: names of hosts and devices once each; of a rank's values the first and third are numbers of these."""
    hosts = list(dict.fromkeys(each.host for each in facts))
    devices = list(dict.fromkeys(each.device for each in facts))
    places = ({name: at for at, name in enumerate(names)} for names in (hosts, devices))
    host_at, device_at = places
    rows = [[host_at[each.host], each.pid, device_at[each.device], *astuple(each)[3:]] for each in facts]
    return {"hosts": hosts, "devices": devices, "ranks": rows}


def facts_from_json(found: dict[str, Any]) -> tuple[RankFacts, ...]:
    """Raises KeyError, IndexError, TypeError or ValueError for what is not the facts of all ranks."""
    return tuple(
        RankFacts.from_values((found["hosts"][host], pid, found["devices"][device], *rest))
        for host, pid, device, *rest in found["ranks"]
    )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What rank 0 knows of the run."""

    command: str = ""
    """predict, embed, classify or train."""
    inputs: tuple[str, ...] = ()
    """Names of input files: the first ones."""
    n_inputs: int = 0
    output: str = ""
    """The run folder as it was given."""
    told: tuple[str, ...] = ()
    """Facts in words: number format, what was resumed."""
    stages: tuple[tuple[str, float], ...] = ()
    """The stages begun so far, and when: seconds since the run began."""
    coming: tuple[str, ...] = ()
    """Stages that will follow."""
    n_units: int = 0
    kept_units: int = 0
    """Units of an earlier command that need not be computed again."""
    n_fragments: int = 0
    stall_timeout_s: float = 0.0
    """After which a silent rank ends the run; 0 where that is not known."""
    deduplicated: int = 0
    """Fragments that equal another one, whose embedding they share."""
    recomputed_units: int = 0
    """Units computed again: a part failed its digests or was of other work, or a process ended within the unit."""

    def to_fields(self) -> dict[str, Any]:
        """As an object of progress.jsonl."""
        return asdict(self)

    @classmethod
    def from_fields(cls, found: dict[str, Any]) -> RunFacts:
        """Of an object of progress.jsonl; fields of other versions are left out. Raises TypeError or ValueError."""
        known = {each.name: found[each.name] for each in fields(cls) if each.name in found}
        for name in ("inputs", "told", "coming"):
            known[name] = tuple(_text(text) for text in known.get(name, ()))
        known["stages"] = tuple((_text(name), began) for name, began in known.get("stages", ()))
        for name in ("command", "output"):
            known[name] = _text(known.get(name, ""))
        made = cls(**known)
        counts = (
            made.n_inputs,
            made.n_units,
            made.kept_units,
            made.n_fragments,
            made.deduplicated,
            made.recomputed_units,
        )
        seconds = (made.stall_timeout_s, *(began for _, began in made.stages))
        if not (
            all(type(number) is int and 0 <= number < 1 << 63 for number in counts)
            and all(type(number) in (int, float) and 0 <= number < LONGEST_S for number in seconds)
        ):
            raise ValueError("not the facts of a run")
        return made


def _text(found: object) -> str:
    if type(found) is not str:
        raise TypeError("a text is missing")
    return shortened(printable(found), LONGEST_TEXT)


class FactsOfAll:
    """Every rank's facts as rank 0 knows them, and this rank's own as the others may read them."""

    def __init__(
        self,
        ranks: int,
        rank: int,
        get: Callable[[str], bytes | None],
        put: Callable[[str, str], None],
        prefix: str,
    ) -> None:
        """`get`, `put`: read and set a key, whose name begins with `prefix`."""
        self._ranks, self._rank, self._get, self._put, self._prefix = ranks, rank, get, put, prefix
        self._known: dict[int, RankFacts] = {}
        self._own = RankFacts()
        self._published = RankFacts()
        self._next, self._left = 0, READS * (ranks - 1)
        self.all: tuple[RankFacts, ...] = ()
        """One per rank; empty while none is known."""

    def tell(self, own: RankFacts) -> None:
        """This rank's facts, from now on. May be called from any thread."""
        self._own = own

    def exchange(self) -> None:
        """Publish what has changed; on rank 0 read what others have told. On the communicating thread."""
        own = self._own
        if own != self._published:
            self._published, self._left = own, READS * (self._ranks - 1)
            if self._ranks > 1:
                self._put(f"{self._prefix}/facts/{self._rank}", json.dumps(astuple(own)))
        if self._rank != 0:
            return
        before = dict(self._known)
        self._known[0] = own
        for _ in range(min(READ_AT_ONCE, self._ranks - 1, self._left)):
            self._next, self._left = self._next % (self._ranks - 1) + 1, self._left - 1
            self._read(self._next)
        if self._known != before:
            self.all = tuple(self._known.get(rank, RankFacts()) for rank in range(self._ranks))

    def _read(self, rank: int) -> None:
        told = self._get(f"{self._prefix}/facts/{rank}")
        if told is None:
            return
        try:
            self._known[rank] = RankFacts.from_values(json.loads(told))
        except (ValueError, TypeError):  # set by somebody else: the display does without
            self._known[rank] = RankFacts()
