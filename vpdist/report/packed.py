"""Columns in a page: one block of bytes, compressed, as text.

Enter: texts, arrays of numbers and a JSON object. Leaves: base64 of gzip of the header's length (4 bytes, little
endian), the header as JSON, and the columns one after the other. report.js reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TYPES = ("u1", "u2", "u4", "f4")
NA = 65535
SCALE = 65534
"""A score from 0 to 1 is a uint16 from 0 to SCALE; NA is none."""

Column = np.ndarray | Sequence[str]


def packed(columns: Mapping[str, Column], meta: Mapping[str, Any]) -> str:
    """The text of columns (uint8, uint16, uint32 or float32 arrays; texts without line breaks) and `meta`."""
    arrays: dict[str, tuple[str, int, int]] = {}
    pieces: list[bytes] = []
    offset = 0
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            kind = column.dtype.str[1:]
            if kind not in TYPES:
                raise ValueError(f"{name}: {column.dtype} is no number format of a column")
            piece = np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()
        else:
            kind, piece = "text", "\n".join(column).encode()
        arrays[name] = (kind, offset, len(piece))
        pieces.append(piece)
        offset += len(piece)
    header = json.dumps({"arrays": arrays, "meta": meta}, separators=(",", ":"), allow_nan=False).encode()
    content = b"".join([len(header).to_bytes(4, "little"), header, *pieces])
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def scores(values: np.ndarray) -> np.ndarray:
    """(n,) uint16 of scores from 0 to 1, NA for NaN."""
    scaled = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0, 1) * SCALE)
    return np.where(np.isnan(values), NA, scaled).astype(np.uint16)
