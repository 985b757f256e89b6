"""What rank 0 has recorded in run.json, as every other rank finds it: the resolved configuration and its platform.

The key store is not believed: others on this machine or network may have set a key (SECURITY.md). It says only which
run.json to wait for, as a network file system may show an older one for a while.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from typing import Any

from vpdist.commands.platforms import Platform, platform_here, refuse_other_platform
from vpdist.config import ResolvedConfig
from vpdist.errors import UsageError, WeightsError
from vpdist.session.coordination import VISIBLE_WITHIN_S, Control
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json

logger = logging.getLogger(__name__)

DECISIONS, PLATFORM = "decisions", "platform"
"""Keys, and fields of run.json: the resolved configuration, and with what rank 0 computes."""


def publish_recorded(control: Control, resolved: ResolvedConfig, mine: Platform) -> None:
    """On rank 0, once both are in run.json."""
    control.publish(PLATFORM, json.dumps(mine.to_dict()))
    control.publish(DECISIONS, resolved.to_json())


def recorded_by_rank_0(session: Session) -> ResolvedConfig:
    """On the other ranks: the resolved configuration in run.json, once the key store says that it is there.

    Raises WeightsError where store and file still differ after a minute, UsageError where this rank computes with
    something else than rank 0.
    """
    control, run = session.control, session.folder.run
    published_at: float | None = None
    recorded: dict[str, Any] = {}

    def agrees() -> bool:
        nonlocal published_at, recorded
        published = [control.runtime.keys.get(key) for key in (DECISIONS, PLATFORM)]  # set in the other order
        if published[0] is None:
            return False
        published_at = published_at or time.monotonic()
        recorded = read_json(run) or {}
        if [json.dumps(recorded.get(key)).encode() for key in (DECISIONS, PLATFORM)] == published:
            return True
        if time.monotonic() > published_at + VISIBLE_WITHIN_S:
            raise WeightsError(
                f"{rank_named(control)}: the configuration in {run} is another one than the ranks' key store says; "
                f"somebody else has set it"
            )
        return False

    control.wait_until(agrees)
    if not isinstance(recorded[DECISIONS], dict):
        raise WeightsError(f"{rank_named(control)}: {run} has no resolved configuration")
    resolved, rank_0 = ResolvedConfig.from_dict(recorded[DECISIONS]), Platform.from_dict(recorded[PLATFORM])
    mine = platform_here(control.runtime.device)
    if mine.device != resolved.device:
        raise UsageError(f"{rank_named(control)}: has the device {mine.device}, the run is one on {resolved.device}")
    refuse_other_platform(mine, rank_0, rank_named(control))
    if mine.name != rank_0.name:
        logger.warning(
            "this rank's processor is %s, that of rank 0 is %s: last digits may differ", mine.name, rank_0.name
        )
    return resolved


def rank_named(control: Control) -> str:
    """This rank and its host, for messages."""
    return f"{platform.node()}, rank {control.runtime.rank}"
