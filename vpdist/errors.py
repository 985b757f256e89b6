"""The errors with which vpdist ends, each with its exit code.

Exit codes are a contract: 0 done; 1 a bug; 2 usage, or the run folder is in use or belongs to another
configuration; 3 input; 4 weights missing or refused; 5 finished with failures listed; 6 disk or permission, or another
run has taken the run folder over; 130/143 interrupted, resumable.
"""

from __future__ import annotations

import errno

from vpdist.text import NAME_LETTERS, shortened

EXIT_OK = 0
EXIT_BUG = 1
EXIT_FAILURES_LISTED = 5


class VpdistError(Exception):
    """Base of every error that is reported to the user; its text is the whole message."""

    exit_code = EXIT_BUG


class UsageError(VpdistError):
    """A wrong option, or a run folder that belongs to another configuration."""

    exit_code = 2


class InputError(VpdistError):
    """The input cannot be read as sequences. It names the file and, where known, the record and the position."""

    exit_code = 3

    def __init__(self, reason: str, *, path: str, record: str | None = None, position: str | None = None) -> None:
        location = (path, None if record is None else f"record {shortened(record, NAME_LETTERS)}", position)
        super().__init__(f"{', '.join(part for part in location if part is not None)}: {reason}")
        self.path, self.record, self.position, self.reason = path, record, position, reason


class WeightsError(VpdistError):
    """A model, tokenizer or classifier is missing, does not fit, or was refused."""

    exit_code = 4


class StorageError(VpdistError):
    """The disk is full, a folder cannot be written or was taken over, or a file of a run is damaged."""

    exit_code = 6


class Interrupted(VpdistError):  # noqa: N818 - the standard term
    """The run was asked to stop and can be resumed with the same command."""

    exit_code = 143

    def __init__(self, message: str, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PeerLost(Interrupted):
    """Another rank was lost before it was done: a fault of the run, resumable with the same command."""

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

    def reporting_rank(self, world_size: int) -> int:
        """The lowest rank that is left: it reports to the user and writes status.json."""
        return next(rank for rank in range(world_size + 1) if rank not in self.ranks)


NO_THREAD = ("can't start new thread", "Resource temporarily unavailable")
"""What Python and C++ say where no thread can be started."""
NO_MEMORY_FOR_A_LIBRARY = ("failed to map segment from shared object", "annot allocate memory")


def limit_reached(error: BaseException) -> StorageError | None:
    """What to tell where an error means that this process may not have more memory or threads: no bug; None if not."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU; elsewhere than for a batch, which is halved
        told = str(error).partition(" Of the allocated memory")[0] or "CUDA out of memory"
        return StorageError(f"{told.rstrip('.')}; free memory of the GPU, start fewer ranks on it, or use --device cpu")
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return StorageError(f"out of memory ({str(error) or type(error).__name__}); allow more, or start fewer ranks")
    if isinstance(error, ImportError) and any(text in str(error) for text in NO_MEMORY_FOR_A_LIBRARY):
        return StorageError(f"out of memory for a library ({error}); allow more (ulimit -v)")
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN) and error.filename is None:
        return StorageError(f"out of memory or processes ({error.strerror}); allow more, or start fewer ranks")
    if isinstance(error, RuntimeError) and any(text in str(error) for text in NO_THREAD):
        return StorageError("no more threads can be started; raise the limit (ulimit -u), or lower --threads")
    return None
