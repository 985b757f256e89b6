"""Files that appear complete or not at all: temporary name, flush, fsync, rename.

Files that are read or appended to may be untrusted: only regular files are opened, so that no pipe blocks and no
symbolic link leads out of a run folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vpdist.errors import StorageError

ABSENT_OR_OTHER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.EFBIG)
"""Errors of `open_regular` and `read_limited` that say what lies at a path, rather than that it cannot be read now."""
JSON_LIMIT = 1 << 26
"""Bytes of a JSON file of others at most."""
RECORD_LIMIT = 1 << 27
"""Bytes of a JSON file of a run folder at most: run.json names every input."""
UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)
"""The errors, besides UnpicklingError, that reading a malformed pickle can raise."""


class DamagedFile(StorageError):  # noqa: N818 - a state of the file
    """A file of the run is absent, or does not hold what vpdist has written there."""


def storage_error(path: Path, error: OSError, action: str = "written") -> StorageError:
    """The StorageError that names the path and the system's reason."""
    return StorageError(f"{path}: cannot be {action}: {error.strerror or error}")


def read_error(path: Path, error: OSError) -> StorageError:
    """The StorageError for a file that cannot be read; a DamagedFile only where the file is absent or of another kind.

    After anything else (too many open files, a stale handle, no permission, a failing disk) the file may be whole: it
    must not be replaced.
    """
    told = storage_error(path, error, "read")
    return DamagedFile(str(told)) if error.errno in ABSENT_OR_OTHER else told


def temporary_beside(path: Path, suffix: str = "tmp") -> Path:
    """A name next to `path` that nobody can foresee, say to plant a symbolic link under it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{suffix}")


def create_exclusively(path: Path) -> BinaryIO:
    """A new file to write to. Raises FileExistsError where anything has this name, a symbolic link included."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write to that takes the name `path` when the block ends, and never exists half-written.

    Without `durable` a power cut may leave it empty: for files that don't outlive the command.

    Raises StorageError naming the path and the reason (disk full, read-only folder, ...).
    """
    temporary = temporary_beside(path)
    try:
        with create_exclusively(temporary) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses even where the file is absent
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_by_name(path: Path) -> Iterator[Path]:
    """As `replacing`, for a library that writes to a name: that of a new and empty file beside `path`.

    Raises StorageError naming the path and the reason.
    """
    temporary = temporary_beside(path)
    try:
        create_exclusively(temporary).close()
        yield temporary
        with open_regular(temporary, append=True) as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_regular(path: Path, *, append: bool = False, follow: bool = False) -> BinaryIO:
    """A regular file, opened for reading or appending. `follow` allows a symbolic link to one.

    Raises OSError for anything else; never blocks, as a pipe would.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    flags |= os.O_RDWR | os.O_APPEND | os.O_CREAT if append else os.O_RDONLY
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return os.fdopen(descriptor, "ab" if append else "rb")


def read_limited(path: Path, limit: int, *, follow: bool = False, cut: bool = False) -> bytes:
    """The content of an untrusted regular file (see `open_regular`), of at most `limit` bytes.

    With `cut` it returns the beginning of a longer file; without, it raises OSError (EFBIG) for one.
    """
    with open_regular(path, follow=follow) as file:
        content = file.read(limit + 1)
    if len(content) > limit and not cut:
        raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes, the limit for such a file", str(path))
    return content[:limit]


def write_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path` (see `replacing`). Raises StorageError."""
    with replacing(path, durable=durable) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, except on network file systems that refuse to sync a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON. Raises StorageError, also for more than `read_json` reads: then the file stays
    as it was."""
    text = (json.dumps(content, indent=2) + "\n").encode()
    if len(text) > RECORD_LIMIT:
        raise StorageError(
            f"{path}: would have {len(text):,} bytes, more than {RECORD_LIMIT:,}, the limit for such a file; give the "
            f"input to more jobs (--manifest with --shard)"
        )
    write_file(path, text)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file. Raises DamagedFile for another content,
    StorageError where it cannot be read."""
    try:
        text = read_limited(path, RECORD_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(path, error) from error
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: does not hold a JSON object")
    return content
