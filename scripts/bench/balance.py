"""`python -m scripts.bench.balance [--ranks 8] [--sequences 200] [--seed 3]`: balance of token cost over ranks.

Compares vpdist's plan and sampler with dealing sequences by count. Sequences have log-normal lengths (sigma 1, median
3,000 bases); a third of the frames of their 500-base chunks are open. Costs are those of DNABERT-S and ESM-2 3B. Prints
the cost of the busiest rank over the mean, for both.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import replace

import numpy as np

from scripts.bench.goals import Row
from scripts.bench.large_inputs import fragment_keys
from vpdist.commands.resolve_config import CPU_TOKEN_BUDGET, CUDA_TOKEN_BUDGET, UNIT_OPERATIONS, cost_of
from vpdist.encoders import family
from vpdist.encoders.shape import EncoderShape
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import COST_SCALE, Limits, Plan, build, longest_first
from vpdist.planning.sampler import TokenWeightedDistributedSampler
from vpdist.sequences.six_frames import chunk_bounds

DNABERT_S = EncoderShape(
    family=family.DNABERT_S, layers=12, width=768, heads=12, intermediate=3072, gated=True, vocabulary=4096
)
ESM2_3B = EncoderShape(
    family=family.ESM2, layers=36, width=2560, heads=40, intermediate=10240, gated=False, vocabulary=33
)
COSTS = {shape.kind: cost_of(shape) for shape in (DNABERT_S, ESM2_3B)}
GPU_LIMITS = Limits(token_budget=CUDA_TOKEN_BUDGET, unit_cost=UNIT_OPERATIONS["cuda"] // COST_SCALE, unit_rows=10_000)
"""As `vpdist predict` plans for GPUs."""
OPEN_FRAMES = 1 / 3


def sample(n_sequences: int, seed: int) -> tuple[FragmentKeys, np.ndarray]:
    """Keys of all fragments, and the index of each one's sequence."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(3, rng.lognormal(np.log(3000), 1.0, n_sequences)).astype(np.int64)
    bases, owner = [], []
    for sequence, length in enumerate(lengths.tolist()):
        starts, ends = chunk_bounds(length, 500)
        for chunk_bases in (ends - starts).tolist():
            n_open = rng.binomial(6, OPEN_FRAMES)
            bases += [chunk_bases] * n_open
            owner += [sequence] * n_open
    residues = np.maximum(1, np.array(bases) // 3)
    n = len(residues)
    return FragmentKeys(
        residues=residues,
        tokens={
            "nucleotide": 2 + np.maximum(1, rng.normal(residues * 0.63, 6).astype(np.int64)),
            "protein": residues + 2,
        },
        nucleotide_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
        protein_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
    ), np.array(owner)


def balance(n_ranks: int, n_sequences: int, seed: int) -> tuple[float, float, int, int]:
    """Cost of the busiest rank over the mean, by count and by cost; numbers of fragments and units."""
    keys, owner = sample(n_sequences, seed)
    cost = np.sum([COSTS[kind].of(tokens) for kind, tokens in keys.tokens.items()], axis=0)
    by_count = np.bincount(owner % n_ranks, weights=cost, minlength=n_ranks)
    plan = build(keys, replace(GPU_LIMITS, token_budget=CPU_TOKEN_BUDGET), COSTS)
    return by_count.max() / by_count.mean(), busiest_over_mean(plan, n_ranks), len(cost), plan.n_units


def busiest_over_mean(plan: Plan, n_ranks: int) -> float:
    """Cost of the busiest rank over the mean, units dealt by the sampler."""
    units, costs = list(range(plan.n_units)), plan.unit_cost.tolist()
    loads = [
        sum(costs[unit] for unit in TokenWeightedDistributedSampler(units, costs, n_ranks, rank))
        for rank in range(n_ranks)
    ]
    return max(loads) * n_ranks / sum(loads)


def end_over_ideal(plan: Plan, speeds: np.ndarray) -> float:
    """Time of the last rank over total work / total speed; each free rank takes the longest unit left (`--schedule
    dynamic`)."""
    free_at = [(0.0, rank) for rank in range(len(speeds))]
    end = 0.0
    for unit in longest_first(plan.unit_cost).tolist():
        time, rank = heapq.heappop(free_at)
        time += float(plan.unit_cost[unit] / speeds[rank])
        end = max(end, time)
        heapq.heappush(free_at, (time, rank))
    return float(end / (plan.unit_cost.sum() / speeds.sum()))


def rows(n_ranks: int = 1024, n_fragments: int = 10_000_000) -> list[Row]:
    """Balance at scale, simulated with the real plan and sampler, and the order in which `--schedule dynamic` deals."""
    plan = build(fragment_keys(n_fragments, np.random.default_rng(1)), GPU_LIMITS, COSTS)
    speeds = np.ones(n_ranks)
    speeds[np.random.default_rng(0).permutation(n_ranks)[: round(0.3 * n_ranks)]] = 0.5
    of = f"{n_fragments / 1e6:g} million fragments on {n_ranks:,} ranks (simulated)"
    note = f"{plan.n_units:,} units"
    return [
        Row(f"busiest rank over mean, {of}", busiest_over_mean(plan, n_ranks), "", at_most=1.01, note=note),
        Row(
            f"end over ideal, --schedule dynamic, 30 % at half speed, {of}",
            *(end_over_ideal(plan, speeds), ""),
            at_most=1.03,
            note=note,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    by_count, by_cost, n_fragments, n_units = balance(arguments.ranks, arguments.sequences, arguments.seed)
    print(f"{arguments.sequences} sequences, {n_fragments:,} fragments, {n_units:,} units, {arguments.ranks} ranks")
    print(f"busiest rank / mean, sequences dealt by count: {by_count:.4f}")
    print(f"busiest rank / mean, units dealt by token cost: {by_cost:.4f}")


if __name__ == "__main__":
    main()
