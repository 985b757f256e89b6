"""`vpdist plan`: what its options mean, and its output. Rank 0 does it for all; torch is imported late."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from vpdist.config import MOST_RANKS, Settings, within
from vpdist.environment import launch_context
from vpdist.errors import UsageError
from vpdist.option_declarations import parsed_shard
from vpdist.text import printable_lines

LEAST = 1e-9
"""Of a price or a rate: more than nothing."""
MOST_SAMPLED, MOST_SEED = 100_000, 1 << 32


def plan_inputs(settings: Settings, ranks: int | None, folder: Path | None, *, as_json: bool) -> None:
    """Print the forecast of a run of these inputs. Raises VpdistError."""
    within("ranks", ranks, least=1, most=MOST_RANKS)
    if launch_context().rank != 0:
        return
    settings = _checked(settings)
    ranks = _ranks(settings, ranks)
    from vpdist.estimate.dry_run import forecast  # imports torch

    planned = forecast(settings, ranks, folder)
    _print(planned.to_json() if as_json else planned.lines())


def plan_manifest(
    settings: Settings,
    ranks: int | None,
    price: float | None,
    rate: float | None,
    sample: int,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Print the cost of all objects of the manifest, or of a shard. Raises VpdistError."""
    within("ranks", ranks, least=1, most=MOST_RANKS)
    within("price", price, least=0)
    within("rate", rate, least=LEAST)
    within("sample", sample, least=2, most=MOST_SAMPLED)
    within("seed", seed, least=0, most=MOST_SEED)
    if launch_context().rank != 0:
        return
    from vpdist.sequences.manifest import read_manifest, shard_of

    assert settings.manifest is not None
    read = read_manifest(settings.manifest)
    if settings.shard is not None:
        read = shard_of(read, *parsed_shard(settings.shard))
    settings = _checked(
        replace(settings, manifest=None, shard=None, inputs=("-",))
    )  # much to do; the objects are drawn later
    if (price is not None or rate is not None) and not settings.models:
        raise UsageError("--price and --rate need models, as --model: device hours depend on them")
    ranks = _ranks(settings, ranks)
    from vpdist.estimate.cost import CostRequest, estimate  # imports torch

    cost = estimate(settings, ranks, CostRequest(manifest=read, price=price, rate=rate, sample=sample, seed=seed))
    _print(cost.to_json() if as_json else cost.lines())


def _checked(settings: Settings) -> Settings:
    """The settings with what the model says, paths checked."""
    from vpdist.commands.early_checks import check_paths
    from vpdist.models.choose import applied
    from vpdist.models.download_display import shown_on

    check_paths(settings)
    settings = applied(settings, shown_on(sys.stderr))
    check_paths(settings)  # of the model, too
    return settings


def _ranks(settings: Settings, ranks: int | None) -> int:
    """The ranks that are asked for, or those that `predict` would start."""
    from vpdist.commands.cpu_ranks import cpu_ranks
    from vpdist.distributed.launch import ranks_to_start

    context = launch_context()
    if ranks is not None:
        return ranks
    return (
        context.world_size if context.launched else ranks_to_start(None, settings.device, lambda: cpu_ranks(settings))
    )


def _print(text: str | Sequence[str]) -> None:
    typer.echo(text if isinstance(text, str) else printable_lines("\n".join(text)))
