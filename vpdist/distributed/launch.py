"""The built-in launch: one rank per visible GPU through torch's own elastic launch API.

It listens on loopback only: the key store is bound to it (loopback_rendezvous.py), and so are gloo's connections
(runtime.py). The ranks share a secret, so that nobody else on this machine sets a value in the store (signed_store.py).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence

from vpdist import environment
from vpdist.config import MOST_RANKS_HERE, within
from vpdist.errors import EXIT_BUG, EXIT_FAILURES_LISTED, InputError, StorageError, UsageError, WeightsError
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder

TOLD_BY_RANKS = {
    EXIT_FAILURES_LISTED,
    *(kind.exit_code for kind in (UsageError, InputError, WeightsError, StorageError)),
}
"""Exit codes with which a rank ends once the run has said why."""
AGENT_LOGGERS = ("torch.distributed.elastic.agent.server.api", "torch.distributed.elastic.multiprocessing.api")
SIGNAL_PASSED_ON = ("Sending process %s closing signal", "Received %s death signal")
RANK_FAILED = "failed (exitcode: %s)"
"""Beginnings of what torch's agent logs."""


def is_news(record: logging.LogRecord) -> bool:
    """Whether torch's agent logs what the run does not tell by itself: below the sentence by which it ends, such lines
    look like a failure of their own. A rank that was killed has told nothing."""
    text, told = str(record.msg), record.args
    if text.startswith(RANK_FAILED) and isinstance(told, tuple):
        return told[0] not in TOLD_BY_RANKS
    return not text.startswith(SIGNAL_PASSED_ON)


def ranks_to_start(nproc: int | None, device: str, on_cpu: Callable[[], int]) -> int:
    """Number of ranks a command starts: `nproc`, else one per visible GPU, else `on_cpu()`. 1 means this process.

    Under a launcher always 1. Raises UsageError for nproc < 1, and where the GPUs that are visible cannot be used.
    """
    within("nproc", nproc, least=1, most=MOST_RANKS_HERE)
    if environment.launch_context().launched:
        return 1
    if nproc is not None:
        return nproc
    if device == "cpu":
        return on_cpu()
    import torch  # takes seconds, so only if needed

    from vpdist.distributed.device import uses_cuda

    return torch.cuda.device_count() if uses_cuda(device) else on_cpu()


def launch(arguments: Sequence[str], nproc: int, folder: RunFolder) -> int:
    """Run `vpdist` with `arguments` on `nproc` ranks and return the run's exit code.

    torch reports only that a worker failed; the run's exit code is in the status.json of `folder`.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from vpdist.distributed.loopback_rendezvous import LOOPBACK, LoopbackRendezvous

    rendezvous_handler_registry.register(LOOPBACK, LoopbackRendezvous)
    for name in AGENT_LOGGERS:
        logging.getLogger(name).addFilter(is_news)
    modified = folder.status_time()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend=LOOPBACK,
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=",".join(_handled_signals()),
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # else it leaves folders in the temporary one, which it needs
    )
    try:
        with environment.current_folder_off_path(), environment.with_store_secret():
            elastic_launch(config, sys.executable)("-m", "vpdist", *arguments)
    except SignalException as error:
        return 128 + (signal.SIGINT if error.sigval == signal.SIGINT else signal.SIGTERM)
    except ChildFailedError as error:
        if folder.status_time() != modified:
            code = (read_json(folder.status) or {}).get("exit_code")
            if isinstance(code, int) and code != 0:
                return code
        code = error.get_first_failure()[1].exitcode  # the others were terminated
        return code if code > 0 else 128 - code if code < 0 else EXIT_BUG
    return 0


def _handled_signals() -> list[str]:
    """The signals by which the agent ends, having passed them on. torch would also handle those that were inherited as
    ignored, as they are under `nohup` and in the background of a script."""
    inherited = (name for name in ("SIGHUP", "SIGQUIT") if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN)
    return ["SIGTERM", "SIGINT", "SIGUSR1", *inherited]
