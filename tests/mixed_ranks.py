"""One rank of `vpdist`, for tests: `mixed_ranks.py DIFFERENCE ARGUMENT...`, where rank 0 and the others are not alike.

DIFFERENCE: `decisions` (rank 0 decides as if it had a GPU), `driver` (the other ranks see GPUs that torch cannot use), or
a field of Platform in which the other ranks differ.
"""

import os
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import fake_gpus
from vpdist import cli
from vpdist.commands import recorded_by_rank_0, resolve_config
from vpdist.commands.platforms import Platform, platform_here


def main() -> None:
    difference = sys.argv.pop(1)
    first = os.environ["RANK"] == "0"
    resolve = resolve_config.resolve_config

    def as_on_a_gpu(*arguments: Any) -> Any:
        return replace(resolve(*arguments), device="cuda", dtype="float16")

    def other(device: Any) -> Platform:
        return replace(platform_here(device), **{difference: "another"})

    with pytest.MonkeyPatch.context() as monkeypatch:
        if difference == "decisions" and first:
            monkeypatch.setattr(resolve_config, "resolve_config", as_on_a_gpu)
        elif difference == "driver" and not first:
            fake_gpus.fake_gpus(monkeypatch)
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        elif difference not in ("decisions", "driver") and not first:
            monkeypatch.setattr(recorded_by_rank_0, "platform_here", other)
        cli.main()


if __name__ == "__main__":
    main()
