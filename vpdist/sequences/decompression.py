"""The bytes of a file, decompressed where it is gz, bz2, xz or zst, recognised by content.

Streaming, in this process, so that damage raises here; memory is limited, whatever a header asks for.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import xopen

BUFFER_BYTES = 1 << 17
WINDOW_BITS = 29
"""Half a GiB for the window of xz or zst: eight times that of xz's strongest preset, four times that of zst's. A header
may ask for 4 GiB."""

MAGIC = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\x50\x2a\x4d\x18": "zst",
}
"""The last one begins a frame without data, in which pzstd writes how long the next frame is."""

_BGZIP_BLOCK = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\0BC\x02\0(..)", re.DOTALL)
_BGZIP_BLOCK_BYTES = 1 << 16
_PZSTD_FRAME = re.compile(rb"\x50\x2a\x4d\x18\x04\0\0\0.{4}", re.DOTALL)

# xopen uses isal or zlib-ng where they are installed, zlib, bz2, lzma, zstd.
DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    xopen.zstd.ZstdError,
    *(module.error for module in (xopen.isal_zlib, xopen.zlib_ng) if module is not None),
)


class _Streams(io.RawIOBase):
    """Decompresses the bz2 or xz streams of a file, one after the other.

    The standard library's file objects end silently at a damaged stream that is not the first; files from parallel
    compressors have one stream per block, and would lose all that follows.
    """

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._file, self._new, self._stream = file, decompressor, decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            compressed = b""
            if self._stream.eof:
                compressed = self._stream.unused_data.lstrip(b"\0")  # xz pads streams with zeros
                while not compressed:
                    block = self._file.read(BUFFER_BYTES)
                    if not block:
                        return 0
                    compressed = block.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input:
                compressed = self._file.read(BUFFER_BYTES)
                if not compressed:
                    raise EOFError
            data = self._stream.decompress(compressed, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def find_compression(file: io.BufferedReader) -> str | None:
    """The compression of a file by its first bytes: gz, bz2, xz, zst or None."""
    start = file.peek(6)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def decompressed(file: io.BufferedReader, compression: str | None) -> io.BufferedReader:
    """The content of a file. Reading it raises one of DECOMPRESSION_ERRORS where it is damaged."""
    if compression is None:
        return file
    if compression == "bz2":
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), BUFFER_BYTES)
    if compression == "xz":
        new = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=1 << WINDOW_BITS)
        return io.BufferedReader(_Streams(file, new), BUFFER_BYTES)
    if compression == "zst":
        options = {xopen.zstd.DecompressionParameter.window_log_max: WINDOW_BITS}
        return io.BufferedReader(xopen.zstd.open(file, "rb", options=options), BUFFER_BYTES)
    opened: io.BufferedReader = xopen.xopen(file, "rb", threads=0, format=compression)
    return opened


def missing_end(file: io.BufferedReader, compression: str | None) -> str | None:
    """What a compressed file lacks at its end although its data are whole: then it was cut off between two blocks.

    Other damage raises while the file is read: gz members, bz2 and xz streams and zst frames end with a mark of their
    own. What comes after the last of them can only be missed where something announces it: bgzip ends a file with a
    block without data, pzstd announces each frame. `file` is then at its beginning.
    """
    if compression not in ("gz", "zst") or not file.seekable():
        return None
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _BGZIP_BLOCK_BYTES))
    tail = file.read()
    file.seek(0)
    if compression == "zst":
        return "frame after the last one that pzstd announces" if _PZSTD_FRAME.fullmatch(tail[-12:]) else None
    ends = [block.start() + int.from_bytes(block[1], "little") + 1 for block in _BGZIP_BLOCK.finditer(tail)]
    holds_data = tail[-4:] != bytes(4)  # a member ends with the number of its bytes
    return "end marker of bgzip" if len(tail) in ends and holds_data else None


def describe_damage(error: Exception, compression: str | None) -> str:
    """The reason of an InputError, from one of DECOMPRESSION_ERRORS."""
    if compression is None:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if isinstance(error, EOFError):
        return f"the {compression} data end too early: the file is truncated or damaged"
    if "memory" in str(error).lower():  # as liblzma and zstd report a window that is too large
        return f"decompressing the {compression} data takes too much memory: {error}"
    return f"the {compression} data are damaged: {error}"
