"""The one module that reads the process's environment.

torchrun and `accelerate launch` describe a worker through variables, of which a frozen `LaunchContext` is made.
No variable changes a number that vpdist computes.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from vpdist.changed_variables import changed
from vpdist.errors import UsageError
from vpdist.local_rank import local_variables
from vpdist.slurm_step import launch_variables
from vpdist.terminal_features import TerminalFeatures, features
from vpdist.told_variables import not_used, shown

PARENT = os.getppid()
"""This process's parent, read before the slow imports, so that a launcher that ends during them is noticed."""

STORE_SECRET = "VPDIST_STORE_SECRET"
"""See signed_store.py."""
LAUNCHER_ENDED = "the launcher has ended"
RESUMABLE = "run the same command again to resume"

FOREIGN = ("PMI_", "OMPI_", "MV2_", "MPI_LOCAL", "ACCELERATE_", "FORK_LAUNCHED")
"""Beginnings of variables by which accelerate finds other launchers than those that vpdist knows."""

SPIN_COUNT = "1000"
"""Rounds of a waiting thread. Two threads on two cores beside two busy processes: 9.6 times one thread's time without a
bound, 1.2 with this one, 1.3 with 30,000 (`python -m scripts.bench.spinning`)."""
KEPT_KERNELS = {"LRU_CACHE_CAPACITY": 16, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": 64}
"""Kernels in each cache. In oneDNN's an encoder's linear layers need four per batch, its attention two for each length;
with 16 a layer compiled them again, and batches of six lengths took a quarter longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """How a launcher started this process."""

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
    placed: bool = True
    """Whether it is known which process of its node this is, and not guessed from the rank."""
    restart: int = 0
    """How often this worker's own agent has restarted its workers. Agents differ: see attempt.py."""
    by_srun: bool = False
    """Whether that launcher is Slurm's `srun`, without torchrun."""
    launched: bool = False
    """Whether a launcher started this process; only then is its parent expected to outlive it."""
    agent_store: bool = False
    """Whether the launcher's agent hosts the rendezvous store."""
    master_address: str = ""
    """Host of the rendezvous store."""
    master_port: int = 0
    """Port of the rendezvous store."""
    store_secret: str = field(default="", repr=False)
    """What signs values in it; '': nothing does."""

    @property
    def on_loopback(self) -> bool:
        """Whether the rendezvous store has an address that only this machine can reach."""
        return self.master_address in ("localhost", "::1") or self.master_address.startswith("127.")

    @property
    def orphaned(self) -> bool:
        """Whether the launcher that started this process has ended, so that this process must end by itself.

        Polled by a thread, since the kernel's signal (PR_SET_PDEATHSIG) waits for Python's main thread: a rank whose
        agent was killed during a batch of 30 s ran 30 s more, with the thread 4 s. The signal also comes when only the
        thread ends that started this process.
        """
        return self.launched and os.getppid() != PARENT


def launch_context() -> LaunchContext:
    """This process's context, from the variables that torchrun, `accelerate launch` or `srun` set.

    Without RANK and WORLD_SIZE a process is rank 0 of 1, unless `srun` has started it with others. Raises UsageError
    when the variables contradict each other.
    """
    variables: Mapping[str, str] = os.environ
    by_srun: dict[str, str] = {}
    if "RANK" not in variables or "WORLD_SIZE" not in variables:
        by_srun = launch_variables(variables, by_hand=_by_hand(variables.get("SLURM_TASK_PID", "")))
        if not by_srun:
            return LaunchContext()
        variables = by_srun
    try:
        if not variables.keys() & {"LOCAL_RANK", "LOCAL_WORLD_SIZE"}:
            variables = {**variables, **local_variables(variables)}
        rank, world_size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
        local_world_size = int(variables.get("LOCAL_WORLD_SIZE", world_size))
        local_rank = int(variables.get("LOCAL_RANK", rank % local_world_size))
        node = int(variables.get("GROUP_RANK", rank // local_world_size))
        restart = int(variables.get("TORCHELASTIC_RESTART_COUNT", "0"))
        port = int(variables.get("MASTER_PORT", "0"))
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise UsageError(f"the launcher's variables (RANK, WORLD_SIZE, ...) are not valid: {error}") from error
    address = variables.get("MASTER_ADDR", "")
    if not (0 <= rank < world_size and 0 <= local_rank < local_world_size <= world_size):
        raise UsageError(
            f"the launcher's variables contradict each other: RANK={rank} WORLD_SIZE={world_size} "
            f"LOCAL_RANK={local_rank} LOCAL_WORLD_SIZE={local_world_size}"
        )
    if world_size > 1 and not (address and port):
        raise UsageError("RANK and WORLD_SIZE are set but MASTER_ADDR or MASTER_PORT is not: start through torchrun")
    context = LaunchContext(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        node=node,
        restart=restart,
        by_srun=bool(by_srun),
        launched=True,
        agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        master_address=address,
        master_port=port,
        store_secret=variables.get(STORE_SECRET, ""),
    )
    told = bool(variables.keys() & {"LOCAL_RANK", "LOCAL_WORLD_SIZE"})
    return replace(context, placed=told or world_size == 1 or context.on_loopback)


def _by_hand(task: str) -> bool:
    """Whether this process was started by an interactive shell inside Slurm's task of the process number `task`.

    Such a shell has a terminal and gives each command a process group of its own; a script leaves it in the task's.
    """
    try:
        other_group = os.getpgid(int(task)) != os.getpgrp()
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except (ValueError, OSError):  # not below a task that lives here, or without a terminal
        return False
    return other_group


def unused_launcher() -> str:
    """What to tell the user where a launcher's variables promise several processes, but this one is alone."""
    return "" if launch_context().launched else not_used(os.environ)


def variables_told() -> dict[str, str]:
    """The variables that change what vpdist does, without secrets; those that this process has set are among them."""
    return shown(os.environ)


def launcher_passes_on(number: signal.Signals) -> bool:
    """Whether the agent that started this rank ends by this signal, and then sends it to its ranks."""
    return "RANK" in os.environ and number.name in os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "").split(",")


@contextmanager
def described_to_accelerate(context: LaunchContext) -> Iterator[None]:
    """While accelerate reads the environment: this context and no other launcher's, whatever the variables are.

    By itself accelerate also believes WORLD_SIZE or LOCAL_RANK alone and those of MPI, and waits for processes that
    nobody has started. What it sets is undone: threads are chosen later, per rank.
    """
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    places = (context.rank, context.world_size, context.local_rank, context.local_world_size)
    told = {"OMP_NUM_THREADS": "1"}
    if context.world_size > 1:
        told |= zip(own, map(str, (*places, context.master_address, context.master_port)), strict=False)
    kept = {name: value for name, value in os.environ.items() if name in own or name.startswith(FOREIGN)}
    for name in kept:
        del os.environ[name]
    os.environ.update(told)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)
        os.environ.update(kept)


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """Around slow imports: a thread ends this process soon after the launcher that started it."""
    context = launch_context()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            if context.orphaned:
                if context.rank == 0:
                    with suppress(OSError):  # the launcher may have been its reader
                        os.write(2, f"vpdist: {LAUNCHER_ENDED}; {RESUMABLE}\n".encode())
                os._exit(128 + signal.SIGTERM)

    if context.launched:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def bound_spinning() -> None:
    """Let threads that wait for each other spin for microseconds; call before torch. What the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def limit_library_threads(threads: int) -> None:
    """Limit the threads of the tokenizer library's pool; call before its first use."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


@contextmanager
def with_store_secret() -> Iterator[None]:
    """Processes started meanwhile share a secret that signs values in the key store; only this user can read it."""
    with changed(os.environ, {STORE_SECRET: os.environ.get(STORE_SECRET) or secrets.token_hex(32)}):
        yield


@contextmanager
def current_folder_off_path() -> Iterator[None]:
    """Python processes started meanwhile do not import what lies in the current folder, as `python -m` and `python -c`
    would: sequences come from elsewhere, and so may a `psutil.py` beside them.

    PYTHONPATH stays in force. Where this process has found vpdist itself in the current folder (a checkout that is not
    installed), it is found there again.
    """
    told = {"PYTHONSAFEPATH": "1"}
    root = str(Path(__file__).resolve().parents[1])
    if not sys.flags.safe_path and sys.path[:1] == [root]:
        told["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))
    with changed(os.environ, told):
        yield


def agent_error_file() -> Path | None:
    """Where the agent that started this rank looks for why it has ended."""
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(name) if name and "RANK" in os.environ else None


def bound_kernel_caches() -> None:
    """Make torch and oneDNN keep the compiled kernels of a few batch shapes only; call before the first product.

    By default each keeps 1,024 of half a megabyte: as nearly every batch has a shape of its own, a rank's memory grew
    by 660 MB, now by some 150 MB. Compiling one takes 0.4 ms.
    """
    for cache, kept in KEPT_KERNELS.items():
        os.environ.setdefault(cache, str(kept))


def keep_connections_on_loopback() -> None:
    """Make gloo listen on loopback, whatever the host name resolves to, for ranks that are all on this machine."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"


def draws_bars(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that can move its cursor, not under continuous integration."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI")


def terminal() -> TerminalFeatures:
    """What the terminal can show beside text."""
    return features(os.environ)


def github_endpoint() -> str:
    """Where files of GitHub's repositories are fetched from; like HF_ENDPOINT, a variable can name a mirror."""
    return os.environ.get("VPDIST_GITHUB_ENDPOINT", "https://raw.githubusercontent.com").rstrip("/")
