"""Encoders in wider number formats than the run's, for rows that overflow it: loaded when a row first needs one.

float16 ends at 65,504. bfloat16 reaches as far as float32 in half its memory, so it comes first where the device
multiplies it. Its weights stay loaded, as other units will need them; float32's, twice as large, are released after
each unit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from vpdist.distributed.device import multiplies_bfloat16
from vpdist.encoders.encoder import Encoder


def wider_formats(dtype: torch.dtype, device: torch.device) -> tuple[torch.dtype, ...]:
    """The formats in which rows that overflow `dtype` are computed again, one after the other."""
    if dtype == torch.float32:
        return ()
    if dtype == torch.float16 and multiplies_bfloat16(device):
        return torch.bfloat16, torch.float32
    return (torch.float32,)


def dtype_name(dtype: torch.dtype) -> str:
    """As in encoder.DTYPES."""
    return str(dtype).removeprefix("torch.")


class WiderEncoders:
    """The encoders of a run in wider formats."""

    def __init__(
        self,
        formats: tuple[torch.dtype, ...],
        load: Callable[[str, torch.dtype], Encoder],
        release: Callable[[str, torch.dtype], None],
    ) -> None:
        """`load` gives the encoder of a kind in a format; `release` is called once it is no longer kept here."""
        self.formats = formats
        self._load, self._release = load, release
        self._kept: dict[tuple[str, torch.dtype], Encoder] = {}

    def encoder(self, kind: str, dtype: torch.dtype) -> Encoder:
        """The encoder of a kind in one of `formats`. Raises torch.OutOfMemoryError, WeightsError."""
        if (kind, dtype) not in self._kept:
            self._kept[kind, dtype] = self._load(kind, dtype)
        return self._kept[kind, dtype]

    def end_of_unit(self) -> None:
        """Release what only this unit needed; nobody else may hold an encoder any longer."""
        for kind, dtype in list(self._kept):
            if dtype == torch.float32:
                self._drop(kind, dtype)

    def release(self) -> None:
        """Release what is kept: its memory is needed."""
        for kind, dtype in list(self._kept):
            self._drop(kind, dtype)

    def _drop(self, kind: str, dtype: torch.dtype) -> None:
        del self._kept[kind, dtype]
        self._release(kind, dtype)
