"""Files that appear complete or not at all: temporary name, flush, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vpdist.errors import StorageError


def storage_error(path: Path, error: OSError, action: str = "written") -> StorageError:
    """The StorageError that names the path and the system's reason."""
    return StorageError(f"{path}: cannot be {action}: {error.strerror or error}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to that takes the name `path` when the block ends, and never exists half-written.

    Raises StorageError naming the path and the reason (disk full, read-only folder, ...).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only file system says so even of an absent file
            temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`. Raises StorageError."""
    with replacing(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut. Some network file systems refuse to sync a folder: then nothing
    more can be done."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON. Raises StorageError."""
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file. Raises StorageError for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, error, "read") from error
    except ValueError as error:
        raise StorageError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise StorageError(f"{path}: holds no JSON object")
    return content
