"""What tests of several commands count."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many sequences of tokens have gone through encoders since this was called last."""
    from vpdist.encoders.encoder import Encoder  # imports torch, which other tests do without
    from vpdist.ragged import Ragged

    embed = Encoder.embed
    counted = 0

    def counting(encoder: Encoder, tokens: Ragged) -> object:
        nonlocal counted
        counted += len(tokens)
        return embed(encoder, tokens)

    monkeypatch.setattr(Encoder, "embed", counting)

    def since() -> int:
        nonlocal counted
        found, counted = counted, 0
        return found

    return since
