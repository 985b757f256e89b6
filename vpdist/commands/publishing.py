"""`--publish URL`: a run's finished parts go to a store of objects, and a new machine goes on from them.

Enters: the run's plan. Leaves: before anything is computed, the parts that are published and missing here; at the end,
all parts published, or the units that could not be. Without the option nothing happens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vpdist.commands.compare_configs import refuse_other_configuration, same_samples
from vpdist.config import ResolvedConfig
from vpdist.embedding.unit_pipeline import UnitWork
from vpdist.embedding.units_in_progress import two_lists_of_units
from vpdist.errors import StorageError, UsageError
from vpdist.results import parts
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json, write_file, write_json
from vpdist.storage.published import PublishedRun
from vpdist.storage.publisher import Publisher
from vpdist.text import number_of

logger = logging.getLogger(__name__)

RECORDED = ("versions", "decisions", "platform", "platforms")
"""Of run.json: by what another machine computes the same numbers."""


@dataclass(slots=True)
class Publishing:
    """What `--publish` does on one rank."""

    address: str | None
    session: Session
    failed: int = 0
    """Units of all ranks that are not published at the end; on rank 0."""
    told: list[str] = field(default_factory=list)
    """On rank 0, for the end of the run."""

    @classmethod
    def begun(cls, address: str | None, session: Session) -> Publishing:
        """Raises StorageError, UsageError."""
        publishing = cls(address, session)
        publishing._take_up()
        return publishing

    def _take_up(self) -> None:
        """On rank 0, before the configuration is resolved: an empty run folder takes that of the published run.

        Raises StorageError, UsageError.
        """
        folder = self.session.folder
        if self.address is None or not self.session.control.is_first:
            return
        here = read_json(folder.run) or {}
        published = PublishedRun(self.address, self.session.control.retries)
        record = published.record()
        if "decisions" in here or record is None:
            return
        write_json(folder.run, here | {name: record[name] for name in RECORDED if name in record})
        self.session.progress.message(f"going on from {published.url}")

    def fetch(self, work: UnitWork) -> None:
        """Publish the run's record, or compare it with the published one; then fetch the parts that are missing here,
        each rank its share. Raises StorageError, UsageError where another run is published there."""
        if self.address is None:
            return
        control, folder, plan_id = self.session.control, self.session.folder, work.header.plan
        published = PublishedRun(self.address, control.retries)
        patient = PublishedRun(self.address, control.retries.patient())

        def missing() -> str:
            self._record(published, plan_id)
            there = published.units()
            left = [unit for unit in parts.remaining(folder.parts, work.plan, work.header) if unit in there]
            return json.dumps([left, []])

        units, _ = two_lists_of_units(control.broadcast_from_rank_0("published", missing), work.plan.n_units)

        def fetch(position: int) -> None:
            content = patient.part(units[position], plan_id)
            if content is None:
                logger.warning("unit %d: what is published is not whole, or of another run", units[position])
            else:
                write_file(parts.part_path(folder.parts, units[position]), content)

        control.share_dynamically("fetch", len(units), fetch)
        if control.is_first and units:
            self.session.progress.message(f"{number_of(len(units), 'part')} fetched from {published.url}")

    def _record(self, published: PublishedRun, plan_id: str) -> None:
        """On rank 0. Raises UsageError where another run is published there, StorageError."""
        there, here = published.record(), read_json(self.session.folder.run) or {}
        if there is None:
            published.write_record({name: here[name] for name in RECORDED if name in here} | {"plan": plan_id})
            return
        try:
            before, now = (ResolvedConfig.from_dict(each["decisions"]) for each in (there, here))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{published.url}/run.json: is not the record of a run: {error}") from error
        same = replace(now, input=before.input) if same_samples(before.input, now.input) else now
        refuse_other_configuration(before, same, published.url)
        if there.get("plan") != plan_id:
            raise UsageError(f"--publish {published.url}: holds the parts of another run; use another address")

    @contextmanager
    def beside(self, work: UnitWork) -> Iterator[UnitWork]:
        """While units are computed: parts are published as they are written. At the end of the context all are, or
        `failed` counts those that are not."""
        if self.address is None:
            yield work
            return
        control = self.session.control

        def read(unit: int) -> bytes:
            return parts.part_path(work.folder, unit).read_bytes()

        with Publisher(self.address, work.header.plan, read, control.retries) as publisher:
            yield replace(work, written=publisher.add)
            away = publisher.last_tries()
            if control.is_first and away:
                self.session.progress.message(f"waiting for the store, to publish what is left: {away}")
            control.wait_until(lambda: publisher.idle)
            control.barrier("published")
            self._finish(publisher, work)

    def _finish(self, publisher: Publisher, work: UnitWork) -> None:
        """Publish what is not published yet, each rank its share; count what cannot be."""
        control, everything = self.session.control, range(work.plan.n_units)

        def missing() -> str:
            return json.dumps([sorted(set(everything) - publisher.published()), []])

        left, _ = two_lists_of_units(control.broadcast_from_rank_0("unpublished", missing), len(everything))
        publisher.failed.clear()  # whoever tries a unit again counts it, which may be another rank
        for unit in left[control.runtime.rank :: control.runtime.world_size]:
            publisher.add(unit)
        control.wait_until(lambda: publisher.idle)
        control.runtime.keys.add("publish/failed", len(publisher.failed))
        control.barrier("publish/failed")
        self.failed = control.runtime.keys.add("publish/failed", 0)
        if self.failed:
            reason = next(iter(publisher.failed.values()), "the ranks' logs say why")
            self.told.append(
                f"{number_of(self.failed, 'part')} could not be published, the run itself is whole: {reason}; give the "
                f"same command again"
            )
