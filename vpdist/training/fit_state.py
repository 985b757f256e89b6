"""The state of a fit after an epoch, in one file: parameters, those of the best epoch, the optimiser's, the history."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError

from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import read_error, read_limited, storage_error, write_file
from vpdist.train_settings import TrainSettings
from vpdist.training.network import Network

logger = logging.getLogger(__name__)

STATE_LIMIT = 1 << 32
"""Bytes of a state at most."""
NOW, BEST, OPTIMIZER = "now.", "best.", "optimizer."


@dataclass(slots=True)
class Reached:
    """Where a fit is after an epoch."""

    epoch: int = 0
    """Epochs done."""
    steps: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    def ended(self, settings: TrainSettings) -> bool:
        return self.epoch >= settings.epochs or self.epoch - self.best_epoch >= settings.patience


def copied(network: Network) -> dict[str, torch.Tensor]:
    """The parameters and running statistics as they are now."""
    return {name: tensor.detach().clone() for name, tensor in network.classifier.state_dict().items()}


def write(
    path: Path,
    key: str,
    reached: Reached,
    network: Network,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
) -> None:
    """Write the state, and the history as JSON lines. Raises StorageError."""
    tensors = {NOW + name: tensor for name, tensor in copied(network).items()}
    tensors |= {BEST + name: tensor for name, tensor in best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{number}.{name}": torch.as_tensor(value).clone() for name, value in state.items()}
    described = {"key": key, "reached": json.dumps(asdict(reached)), "digest": _digest(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    write_file(path, safetensors.torch.save(tensors, described))
    lines = "".join(json.dumps(line) + "\n" for line in reached.history)
    write_file(history_path(path), lines.encode())


def history_path(state: Path) -> Path:
    """The history's file, in the model's folder."""
    return state.parent.parent / "history.jsonl"


def read(path: Path, key: str) -> bytes:
    """The content of a state with this key, b'' where there is none. Raises StorageError where it cannot be read."""
    try:
        content = read_limited(path, STATE_LIMIT)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise read_error(path, error) from error
    try:
        described = _described(content)
        if described["key"] != key:
            logger.info("%s is of a fit with other data or settings", path)
        elif _digest(safetensors.torch.load(content)) == described["digest"]:
            return content
        else:
            logger.warning("%s is damaged, the fit begins anew: its digest does not match its content", path)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged, the fit begins anew: %s", path, error)
    return b""


def restore(
    content: bytes, network: Network, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Set network and optimiser to a state from `read`; returns the fields of `Reached`, and the best parameters."""
    tensors = safetensors.torch.load(content)
    network.classifier.load_state_dict(_with_prefix(tensors, NOW))
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _with_prefix(tensors, OPTIMIZER).items():
        number, _, field = name.partition(".")
        states.setdefault(int(number), {})[field] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(_described(content)["reached"]), _with_prefix(tensors, BEST)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """xxh3_128 (hex) of all tensors with their names."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {hdf5_files.array_digest(tensors[name].numpy())}\n".encode())
    return digest.hexdigest()


def _described(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
