"""Rounds of all_gather of the ranks' counters, which never block the calling thread.

Enters: a rank's vector. Leaves: the matrix of all ranks. No other module uses torch.distributed's collectives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from datetime import timedelta

import torch
import torch.distributed as dist

from vpdist.distributed.runtime import Runtime
from vpdist.monitoring.counters import WIDTH

Steps = Generator[dist.Work, None, torch.Tensor]
"""A round: yields the collective it waits for, returns all ranks' vectors (ranks, WIDTH)."""


class Gather:
    """Rounds of all_gather. With several nodes: within each node, among the nodes' first ranks, and back.

    To be made by all ranks together, on the main thread.
    """

    def __init__(self, runtime: Runtime, timeout_s: float) -> None:
        self._world_size = runtime.world_size
        self._groups: list[dist.ProcessGroup] = []
        if self._world_size == 1:
            return
        timeout = timedelta(seconds=timeout_s)
        nodes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        dist.all_gather(nodes, torch.tensor([runtime.context.node]))
        ranks_of: dict[int, list[int]] = {}
        for rank, node in enumerate(nodes):
            ranks_of.setdefault(int(node), []).append(rank)
        if len(ranks_of) == 1:  # no further group: every group's thread wakes a hundred times a second
            world = dist.group.WORLD
            assert world is not None
            world.set_timeout(timeout)
            self._groups.append(world)
            return
        same_node = ranks_of[runtime.context.node]
        self._leader, self._is_leader = same_node[0], same_node[0] == runtime.rank
        self._rows_per_node = max(map(len, ranks_of.values()))
        members = list(ranks_of.values())
        self._members = [ranks + [-1] * (self._rows_per_node - len(ranks)) for ranks in members]
        # torch numbers a process's groups, and members must agree on the number: so every rank makes two.
        leaders = [ranks[0] for ranks in members] if self._is_leader else [runtime.rank]
        for ranks in (same_node, leaders):
            self._groups.append(dist.new_group(ranks, timeout=timeout, backend="gloo", use_local_synchronization=True))

    def steps(self, vector: torch.Tensor) -> Steps:
        """One round, to which this rank contributes `vector` (WIDTH,). Raises RuntimeError when a rank is lost."""
        if not self._groups:
            return vector.reshape(1, -1)
        if self._world_size == self._groups[0].size():
            return (yield from _all_gather(vector, self._groups[0]))
        node_RW = yield from _all_gather(vector, self._groups[0])
        padded_RW = torch.zeros((self._rows_per_node, WIDTH), dtype=torch.int64)
        padded_RW[: len(node_RW)] = node_RW
        if self._is_leader:
            nodes_NRW = yield from _all_gather(padded_RW, self._groups[1])
            all_AW = torch.zeros((self._world_size, WIDTH), dtype=torch.int64)
            for ranks, rows_RW in zip(self._members, nodes_NRW, strict=True):
                present = [rank for rank in ranks if rank >= 0]
                all_AW[present] = rows_RW[: len(present)]
        else:
            all_AW = torch.empty((self._world_size, WIDTH), dtype=torch.int64)
        yield dist.broadcast(all_AW, src=self._leader, group=self._groups[0], async_op=True)
        return all_AW

    def abandon(self) -> None:
        """Give up the current round: keep the groups from being destroyed, which would wait for the lost rank."""
        for group in self._groups:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _all_gather(part: torch.Tensor, group: dist.ProcessGroup) -> Steps:
    whole = torch.empty((group.size(), *part.shape), dtype=torch.int64)
    yield dist.all_gather(list(whole), part, group=group, async_op=True)
    return whole
