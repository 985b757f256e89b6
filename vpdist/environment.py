"""The one module that reads the process's environment.

torchrun and `accelerate launch` describe a worker's place through variables; here they become a frozen `Place`.
No variable changes a number that vpdist computes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from vpdist.errors import UsageError

PARENT = os.getppid()
"""This process's parent, noted before the slow imports: a launcher that ends during them is missed all the same."""

LAUNCHER_GONE = "the launcher is gone"

KEPT_KERNELS = 16
"""Kernels in either cache: an encoder's products are of four shapes per batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """Where a launcher put this process."""

    rank: int = 0
    """Number of this process among all, from 0."""
    world_size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its node."""
    local_world_size: int = 1
    """Number of processes on this node."""
    node: int = 0
    """Number of the node."""
    restart: int = 0
    """How often this worker's own agent has started its workers anew. Agents differ: see attempt.py."""
    launched: bool = False
    """Whether a launcher started this process; only then is its parent expected to outlive it."""
    agent_store: bool = False
    """Whether the launcher's agent hosts the rendezvous store."""
    master_address: str = ""
    """Host of the rendezvous store."""
    master_port: int = 0
    """Port of the rendezvous store."""

    @property
    def on_loopback(self) -> bool:
        """Whether ranks meet at an address that only this machine can reach."""
        return self.master_address in ("localhost", "::1") or self.master_address.startswith("127.")

    @property
    def orphaned(self) -> bool:
        """Whether the launcher that started this process is gone, so that this process must end by itself.

        To be asked again and again. The kernel could signal it instead (PR_SET_PDEATHSIG), and does under torchrun and
        `accelerate launch`, restarts included. But Python's handler waits for the main thread: a single rank whose
        agent was killed during a batch of 30 s was there for 30 s more, where a thread that asks ends it after 4 s. And
        the signal comes when the thread ends that started this process, even if its launcher lives on.
        """
        return self.launched and os.getppid() != PARENT


def launch_context() -> LaunchContext:
    """This process's context, from the variables torchrun and `accelerate launch` set; a plain process is rank 0 of 1.

    Raises UsageError when the variables contradict each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return LaunchContext()
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        local_rank = int(os.environ.get("LOCAL_RANK", rank % local_world_size))
        node = int(os.environ.get("GROUP_RANK", rank // local_world_size))
        restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        port = int(os.environ.get("MASTER_PORT", "0"))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"the launcher's variables (RANK, WORLD_SIZE, ...) are not usable: {error}") from error
    address = os.environ.get("MASTER_ADDR", "")
    if not (0 <= rank < world_size and 0 <= local_rank < local_world_size <= world_size):
        raise UsageError(
            f"the launcher's variables contradict each other: RANK={rank} WORLD_SIZE={world_size} "
            f"LOCAL_RANK={local_rank} LOCAL_WORLD_SIZE={local_world_size}"
        )
    if world_size > 1 and not (address and port):
        raise UsageError("RANK and WORLD_SIZE are set but MASTER_ADDR or MASTER_PORT is not: start through torchrun")
    return LaunchContext(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        node=node,
        restart=restart,
        launched=True,
        agent_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        master_address=address,
        master_port=port,
    )


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """For slow imports, during which nobody else looks: end this process soon after the launcher that started it."""
    here = launch_context()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if here.orphaned:
                if here.rank == 0:
                    with suppress(OSError):  # the launcher may have been the one to read it
                        os.write(2, f"vpdist: {LAUNCHER_GONE}; the same command again resumes\n".encode())
                os._exit(128 + signal.SIGTERM)

    if here.launched:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def limit_library_threads(threads: int) -> None:
    """Tell the tokenizer library's pool how many threads it may use; call before its first use."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def bound_kernel_caches() -> None:
    """Have torch and oneDNN keep the compiled kernels of a few batch shapes only; call before the first product.

    Either would keep 1,024, half a megabyte each: where lengths vary every batch has a shape of its own, and memory
    would grow for hours. Compiling one takes 0.4 ms.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(KEPT_KERNELS))


def keep_connections_on_loopback() -> None:
    """Have gloo listen on the loopback interface, whatever the machine's name resolves to or a cluster's profile says;
    call before the process group is made. For ranks that all meet on this machine."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"


def available_cores() -> int:
    """Cores this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0))


def draws_bars(stream: TextIO) -> bool:
    """Whether live bars suit `stream`: a terminal that can move its cursor, not under continuous integration."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")
