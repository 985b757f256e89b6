"""The fit: epochs of steps until the validation loss no longer falls, with a state on disk after each.

Enters: rows, labels and sides of fragments. Leaves: the parameters of the epoch with the lowest validation loss, and
the history. A fit that was ended goes on after its last epoch, on any number of ranks, as if it had not been ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from vpdist.distributed.sums import Sums
from vpdist.errors import UsageError
from vpdist.session.coordination import Control
from vpdist.train_settings import TrainSettings
from vpdist.training import fit_state
from vpdist.training.fit_state import Reached
from vpdist.training.metrics import auroc
from vpdist.training.network import Network, slices_of
from vpdist.training.rows import Rows

JUDGED_AT_ONCE = 1024
"""Fragments of validation that a rank computes at once, whatever the number of ranks."""
DIGITS = 9
"""Of what the history holds: sums over ranks in float64 differ in later ones."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n fragments of one side."""

    row: np.ndarray
    """(n,) int64, row of the plan."""
    virus: np.ndarray
    """(n,) bool."""

    def __len__(self) -> int:
        return len(self.row)

    def digest(self) -> str:
        """xxh3_128 (hex) of rows and labels."""
        digest = xxhash.xxh3_128(self.row.astype("<i8").tobytes())
        digest.update(self.virus.tobytes())
        return digest.hexdigest()


class Fit:
    """A fit on one rank."""

    def __init__(
        self,
        control: Control,
        sums: Sums,
        rows: Rows,
        training: Examples,
        validation: Examples,
        settings: TrainSettings,
        state: Path,
        key: str,
    ) -> None:
        """`state`: the file of the state, valid for the provenance key `key` alone."""
        self._control, self._sums, self._rows = control, sums, rows
        self._training, self._validation, self._settings = training, validation, settings
        self._state, self._key = state, key
        self.network = Network(sum(rows.widths), settings)
        self.optimizer = _optimizer(self.network, settings)
        self.reached = Reached()
        self.best = fit_state.copied(self.network)
        share = training.virus.mean()
        balanced = settings.class_weights == "balanced"
        self.weights = torch.tensor([0.5 / (1 - share), 0.5 / share] if balanced else [1.0, 1.0], dtype=torch.float64)
        self._batches = -(-len(training) // settings.batch_size)

    def run(self) -> None:
        """Fit to the end. Raises what `Control.raise_if_ending` raises, StorageError."""
        self._resume()
        left = self._settings.epochs - self.reached.epoch
        progress = self._control.progress
        if progress is not None:
            progress.stage("fit", planned_units=left * self._batches)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums depend on the number of threads
        try:
            while not self.reached.ended(self._settings):
                loss = self._epoch()
                self._judge(loss)
        finally:
            torch.set_num_threads(threads)
        if self._settings.keep == "best":
            self.network.classifier.load_state_dict(self.best)

    def _resume(self) -> None:
        """Take over the state on disk; rank 0 reads it, the others get its bytes."""
        control = self._control
        content = fit_state.read(self._state, self._key) if control.is_first else b""
        size = int(control.broadcast_from_rank_0("fit/state", lambda: str(len(content))))
        if not size:
            return
        shared = torch.zeros(size, dtype=torch.uint8)
        if control.is_first:
            shared.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        state, self.best = fit_state.restore(bytes(self._sums.add(shared).numpy()), self.network, self.optimizer)
        self.reached = Reached(**state)
        if control.is_first and control.progress is not None:
            control.progress.message(f"the fit goes on after epoch {self.reached.epoch}")

    def _epoch(self) -> float:
        """All steps of an epoch; returns the training loss."""
        settings, n = self._settings, len(self._training)
        order = np.random.default_rng([settings.seed, self.reached.epoch]).permutation(n)
        total = sum_weight = 0.0
        for chosen in np.array_split(order, self._batches):
            self._set_rate()
            labels = torch.from_numpy(self._training.virus[chosen].astype(np.int64))
            weight = float(self.weights[labels].sum())
            cut = slices_of(len(chosen), settings.batch_size)
            add = self._sums.add if len(cut) > 1 else _same
            mine = self._mine(cut)
            loss = self.network.step(
                self._slices(mine, chosen, labels), len(chosen), self.weights, weight, self.reached.steps, add
            )
            self.optimizer.step()
            self.reached.steps += 1
            total, sum_weight = total + loss * weight, sum_weight + weight
            self._report(units=1, fragments=sum(map(len, mine)))
        return total / sum_weight

    def _set_rate(self) -> None:
        """The learning rate of the next step: by epochs, or half a cosine over all steps (Loshchilov & Hutter 2017)."""
        settings = self._settings
        if settings.learning_rate_schedule == "cosine":
            done = self.reached.steps / (settings.epochs * self._batches)
            factor = (1 + math.cos(math.pi * done)) / 2
        else:
            factor = settings.decay ** (self.reached.epoch // settings.decay_every)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor

    def _mine(self, cut: list[range]) -> list[range]:
        runtime = self._control.runtime
        return cut if len(cut) == 1 else cut[runtime.rank :: runtime.world_size]

    def _slices(
        self, mine: list[range], chosen: np.ndarray, labels: torch.Tensor
    ) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        for rows in mine:
            which = slice(rows.start, rows.stop)
            yield rows, self._embeddings(self._training.row[chosen[which]]), labels[which]

    def _embeddings(self, rows: np.ndarray) -> torch.Tensor:
        """(B, D) float32, aligned as torch aligns: the bits of a product may depend on that."""
        embeddings = torch.empty(len(rows), sum(self._rows.widths))
        embeddings.numpy()[:] = self._rows.matrix[rows]
        return embeddings

    def _margins(self) -> np.ndarray:
        """(n,) float64 margins of the validation fragments, the same on every rank."""
        margins = torch.zeros(len(self._validation), dtype=torch.float64)
        runtime = self._control.runtime
        pieces = range(0, len(self._validation), JUDGED_AT_ONCE)
        for start in pieces[runtime.rank :: runtime.world_size]:
            end = start + JUDGED_AT_ONCE
            margins[start:end] = self.network.margins(self._embeddings(self._validation.row[start:end]))
            self._control.raise_if_ending()
        return self._sums.add(margins).numpy()

    def _judge(self, loss: float) -> None:
        """Compare the validation loss with the best one; rank 0 saves the state and tells the others."""
        self.reached.epoch += 1
        margins, virus = self._margins(), self._validation.virus
        with np.errstate(invalid="ignore"):  # told below
            cross_entropy = np.logaddexp(0.0, np.where(virus, -margins, margins))
        weight = self.weights.numpy()[virus.astype(np.int64)]
        validation = float((cross_entropy * weight).sum() / weight.sum())
        line = {
            "epoch": self.reached.epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": round(loss, DIGITS),
            "validation_loss": round(validation, DIGITS),
            "validation_auroc": round(auroc(virus, margins), DIGITS),
            "validation_accuracy": round(float(((margins >= 0) == virus).mean()), DIGITS),
        }
        verdict = self._control.broadcast_from_rank_0(f"fit/{self.reached.epoch}", lambda: self._save(line))
        if not self._control.is_first:
            self._take_over(json.loads(verdict))

    def _take_over(self, line: dict[str, Any]) -> None:
        """Count the epoch as rank 0 has judged it."""
        self.reached.history.append(line)
        if line["validation_loss"] < self.reached.best_loss:
            self.reached.best_loss, self.reached.best_epoch = line["validation_loss"], line["epoch"]
            self.best = fit_state.copied(self.network)

    def _save(self, line: dict[str, Any]) -> str:
        if not math.isfinite(line["loss"] + line["validation_loss"]):
            raise UsageError(f"epoch {line['epoch']}: the loss is no number any more; lower --learning-rate")
        self._take_over(line)
        fit_state.write(self._state, self._key, self.reached, self.network, self.optimizer, self.best)
        if self._control.progress is not None:
            self._control.progress.note(
                f"epoch {line['epoch']}/{self._settings.epochs}, loss {line['loss']:.4f}, validation "
                f"{line['validation_loss']:.4f}, AUROC {line['validation_auroc']:.4f}, "
                f"best {self.reached.best_loss:.4f} at {self.reached.best_epoch}"
            )
        return json.dumps(line)

    def _report(self, **counters: int) -> None:
        if self._control.progress is not None:
            self._control.progress.add(**counters)
        self._control.raise_if_ending()


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _optimizer(network: Network, settings: TrainSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(network.parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    return torch.optim.AdamW(network.parameters, lr=rate, weight_decay=decay)
