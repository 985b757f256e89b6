"""A DistributedSampler that deals units by token cost instead of by count, repeating and dropping none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, DistributedSampler

from vpdist.planning.plan import deal


class _Units(Dataset[int]):
    """The unit numbers as a map-style dataset, which is what a DistributedSampler samples from."""

    def __init__(self, units: Sequence[int]) -> None:
        self.units = units

    def __getitem__(self, index: int) -> int:
        return self.units[index]

    def __len__(self) -> int:
        return len(self.units)


class TokenWeightedDistributedSampler(DistributedSampler[int]):
    """Gives each rank units of about equal total token cost, the longest first.

    Unlike the stock sampler it neither repeats items to make the ranks' counts equal nor drops any: ranks may have
    different numbers of units, also none.

    Args:
        units: unit numbers still to be done, the same on every rank.
        costs: token cost (linear and attention operations) of each of `units`.
        num_replicas: world size.
        rank: this rank.

    Raises:
        ValueError: when `units` and `costs` differ in length or `rank` is not below `num_replicas`.
    """

    def __init__(self, units: Sequence[int], costs: Sequence[int], num_replicas: int, rank: int) -> None:
        if len(units) != len(costs):
            raise ValueError(f"{len(units)} units but {len(costs)} costs")
        super().__init__(_Units(units), num_replicas=num_replicas, rank=rank, shuffle=False, drop_last=False)
        self.mine = [units[position] for position in deal(costs, num_replicas)[rank]]
        self.num_samples = len(self.mine)
        self.total_size = len(units)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine)
