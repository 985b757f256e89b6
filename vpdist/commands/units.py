"""The units of a run, computed until every part is there and whole: dealt, isolated where they crash, checked.

What is left is judged from files, by rank 0, which tells the others.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vpdist.commands import told_to_displays
from vpdist.config import Settings
from vpdist.distributed.device import return_free_memory
from vpdist.embedding.encoder_process import EncoderProcess
from vpdist.embedding.isolated_encoder import isolated_work
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.embedding.units_in_progress import UnitsInProgress, count_crashes, two_lists_of_units
from vpdist.errors import StorageError
from vpdist.planning.plan import COSTS_PER_MFLOP, longest_first
from vpdist.planning.sampler import TokenWeightedDistributedSampler
from vpdist.results import parts
from vpdist.session.coordination import Control
from vpdist.session.session import Session
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that parts are computed which are found damaged when they are checked."""
CRASHES_UNTIL_ISOLATED = 2
"""A unit during which processes crashed this often is computed in isolation."""


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one run on one rank."""

    settings: Settings
    session: Session
    work: UnitWork
    stage: Callable[..., AbstractContextManager[None]]
    """Begins a stage of the run, with the arguments of `Progress.stage`, and times it."""

    @property
    def control(self) -> Control:
        return self.session.control

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    def compute(self, begin: Callable[[bool], None]) -> None:
        """Compute missing parts and check all, until none is missing or damaged. `begin` is called on rank 0 with
        whether any are computed, before they are. Raises StorageError."""
        for attempt in range(ATTEMPTS):
            todo, crashing = self._remaining(attempt)
            if attempt == 0 and self.control.is_first:
                begin(bool(todo or crashing))
            if todo:
                self._embed(todo, attempt)
            if crashing:
                self._embed_isolated(crashing, attempt)
            if not self._check(attempt):
                return
        raise StorageError(f"{self.folder.parts}: parts were damaged {ATTEMPTS} times in a row; check the disk")

    def _remaining(self, attempt: int) -> tuple[list[int], list[int]]:
        """Units without a valid part, in two lists: those to compute as usual, and those to compute in isolation.

        Rank 0 lists the folder, before any rank computes, and publishes both.
        """

        def make() -> str:
            crashes = count_crashes(self.folder)
            missing = parts.remaining(self.folder.parts, self.work.plan, self.work.header)
            left = {*missing, *self._found_damaged(attempt - 1)}
            told_to_displays.describe_work(self.session, self.work, left, crashes, attempt)
            crashing = [unit for unit in sorted(left) if crashes.get(unit, 0) >= CRASHES_UNTIL_ISOLATED]
            return json.dumps([sorted(left - set(crashing)), crashing])

        return two_lists_of_units(self.control.broadcast_from_rank_0(f"todo/{attempt}", make), self.work.plan.n_units)

    def _embed(self, todo: list[int], attempt: int) -> None:
        """Compute the units of `todo`, dealt by cost beforehand or taken one by one."""
        costs = self.work.unit_cost[todo]
        runtime = self.control.runtime
        if dynamic := self.settings.schedule == "dynamic":
            tokens, cost = (
                int(of[todo].sum()) // runtime.world_size for of in (self.work.unit_tokens, self.work.unit_cost)
            )
            order = [todo[i] for i in longest_first(costs).tolist()]
            positions = iter(lambda: min(self.control.next_index(f"embed/{attempt}"), len(todo)), len(todo))
            units: Iterator[int] = (order[position] for position in positions)
            n_units = len(todo) // runtime.world_size
        else:
            sampler = TokenWeightedDistributedSampler(todo, costs.tolist(), runtime.world_size, runtime.rank)
            tokens, cost = (int(of[sampler.mine].sum()) for of in (self.work.unit_tokens, self.work.unit_cost))
            n_units = len(sampler)
            units = iter(sampler)
        with self.stage("embed", tokens, n_units, planned_work=cost // COSTS_PER_MFLOP, shared=dynamic):
            most = 2 if runtime.device.type == "cuda" else 1
            with (
                UnitsInProgress(self.folder, runtime.rank, most) as in_progress,
                Pipeline(self.work, self._report) as pipeline,
            ):
                for unit in units:
                    logger.info("unit %d", unit)
                    in_progress.begin(unit)
                    pipeline.run(unit)
            self.control.barrier(f"embed/{attempt}")

    def _embed_isolated(self, crashing: list[int], attempt: int) -> None:
        """Compute units that may crash their process in a child process: only rows that crash it fail."""
        runtime = self.control.runtime
        share = len(crashing) / runtime.world_size
        tokens = int(self.work.unit_tokens[crashing].sum() / runtime.world_size)
        if self.control.is_first:
            self.session.progress.message(
                f"{len(crashing)} units during which {CRASHES_UNTIL_ISOLATED} processes crashed are computed in a "
                f"child process"
            )
        return_free_memory(runtime.device)  # for the child
        limits = (self.work.header.threads, self.control.raise_if_ending, self.settings.stall_timeout)

        def read(kind: str, load: Callable[[], None]) -> None:
            self.work.files[kind].read(load)

        with EncoderProcess(runtime.device, *limits, read) as process:
            isolated = isolated_work(self.work, process)

            def run(position: int) -> None:
                unit = crashing[position]
                logger.info("unit %d, isolated", unit)
                with Pipeline(isolated, self._report) as pipeline:
                    pipeline.run(unit)
                logger.info("unit %d, isolated: %d rows failed", unit, pipeline.failures)

            with self.stage("embed", tokens, math.ceil(share), shared=True):
                self.control.share_dynamically(f"isolated/{attempt}", len(crashing), run)

    def _report(self, **counters: int) -> None:
        self.session.progress.add(**counters)
        self.control.raise_if_ending()

    def _check(self, attempt: int) -> int:
        """Check the digests of every part, each rank its share; returns the number of those damaged, which stay in
        their place until `_embed` replaces them."""
        work, keys, bad = self.work, self.control.runtime.keys, f"bad/{attempt}"

        def check(unit: int) -> None:
            for reason in parts.damaged(
                self.folder.parts, [unit], self.work.plan, self.work.header, full=True
            ).values():
                logger.warning("redone: %s", reason)
                self.control.publish(f"{bad}/{keys.add(bad)}", str(unit))
            self.session.progress.add(steps=1)

        with self.stage("check", planned_steps=-(-work.plan.n_units // self.control.runtime.world_size), shared=True):
            self.control.share_dynamically(f"check/{attempt}", work.plan.n_units, check)
        return keys.add(bad, 0)

    def _found_damaged(self, attempt: int) -> list[int]:
        """Units whose parts `_check` has found damaged in this attempt."""
        bad = f"bad/{attempt}"
        n = self.control.runtime.keys.add(bad, 0)
        return [int(self.control.wait_for(f"{bad}/{number}")) for number in range(1, n + 1)]
