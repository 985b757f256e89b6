"""Balance of token cost over ranks: vpdist's plan and sampler against dealing sequences out by count.

    python scripts/balance.py [--ranks 8] [--sequences 200] [--seed 3]

Sequences have log-normal lengths (sigma 1, median 3,000 bases); a third of the frames of their 500-base chunks are
open. Costs are those of DNABERT-S and ESM-2 3B. Prints the cost of the busiest rank over the mean, both ways.
"""

from __future__ import annotations

import argparse

import numpy as np

from vpdist.decide import CPU_TOKEN_BUDGET, UNIT_OPERATIONS
from vpdist.fragments import chunk_bounds
from vpdist.plan import COST_SCALE, EncoderCost, FragmentKeys, Limits, build
from vpdist.sampler import TokenWeightedDistributedSampler
from vpdist.weights import EncoderShape

DNABERT_S = EncoderShape(
    kind="nucleotide", layers=12, width=768, heads=12, intermediate=3072, gated=True, vocabulary=4096
)
ESM2_3B = EncoderShape(kind="protein", layers=36, width=2560, heads=40, intermediate=10240, gated=False, vocabulary=33)
OPEN_FRAMES = 1 / 3


def cost_of(shape: EncoderShape) -> EncoderCost:
    return EncoderCost(linear=shape.linear_flops_per_token, attention=shape.attention_flops_per_token_pair)


def sample(n_sequences: int, seed: int) -> tuple[FragmentKeys, np.ndarray]:
    """Keys of all fragments, and the sequence each belongs to."""
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
        nucleotide_tokens=2 + np.maximum(1, rng.normal(residues * 0.63, 6).astype(np.int64)),
        protein_tokens=residues + 2,
        nucleotide_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
        protein_hash=rng.integers(0, 2**63, n, dtype=np.uint64),
    ), np.array(owner)


def balance(n_ranks: int, n_sequences: int, seed: int) -> tuple[float, float, int, int]:
    """Cost of the busiest rank over the mean, sequences dealt by count and units dealt by cost; fragments; units."""
    keys, owner = sample(n_sequences, seed)
    nucleotide, protein = cost_of(DNABERT_S), cost_of(ESM2_3B)
    cost = nucleotide.of(keys.nucleotide_tokens) + protein.of(keys.protein_tokens)
    by_count = np.bincount(owner % n_ranks, weights=cost, minlength=n_ranks)
    limits = Limits(token_budget=CPU_TOKEN_BUDGET, unit_cost=UNIT_OPERATIONS["cuda"] // COST_SCALE, unit_rows=10_000)
    plan = build(keys, limits, nucleotide, protein)
    units, costs = list(range(plan.n_units)), plan.unit_cost.tolist()
    samplers = [TokenWeightedDistributedSampler(units, costs, n_ranks, rank) for rank in range(n_ranks)]
    by_cost = np.array([sum(costs[unit] for unit in sampler) for sampler in samplers])
    return by_count.max() / by_count.mean(), by_cost.max() / by_cost.mean(), len(cost), plan.n_units


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
