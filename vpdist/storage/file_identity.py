"""Whether a file is still the one that was read before: what the system knows of it changes with its content.

Enters: a path. Leaves: device, inode, size and times. A change of content changes the time of the last change of state,
which no user can set; a file that takes the path's place has another inode.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A file's state at one moment."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Of the file at `path`, which is opened: a network file system then asks its server. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return cls.of_open(descriptor)
        finally:
            os.close(descriptor)

    @classmethod
    def of_open(cls, descriptor: int) -> FileIdentity:
        """Of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
