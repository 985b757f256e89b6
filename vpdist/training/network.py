"""The classifier while it is fitted: one step on a global batch, of which every rank computes its slices.

A step gives the same numbers for any number of ranks: a batch is cut into slices by its size alone, a slice is
computed whole on one rank and one thread, in float32, and what is summed over slices is summed in float64.

B a slice's fragments, D the embeddings' width, H the hidden width; two classes, 1 is virus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from vpdist.results.classifier import CLASSES, Classifier
from vpdist.train_settings import TrainSettings

LEAST_SLICE, MOST_SLICES = 64, 8
"""Fragments of a slice at least, and slices of a batch at most. A batch of fewer than two slices is computed by every
rank: sums over ranks would take longer than the batch."""
BATCH_NORM_MOMENTUM = 0.1
"""Share of a batch in the running statistics (torch.nn.BatchNorm1d's default, as the original)."""
Sum = Callable[[torch.Tensor], torch.Tensor]


def slices_of(n: int, batch_size: int) -> list[range]:
    """How a batch of n fragments is cut."""
    count = max(1, min(MOST_SLICES, batch_size // LEAST_SLICE, n))
    return [range(n * i // count, n * (i + 1) // count) for i in range(count)]


def dropout_factors(seed: int, step: int, rows: range, width: int, dropout: float) -> torch.Tensor:
    """(B, width) float32 of some rows of the batch of a step: 0 for units left out, else 1 / (1 - dropout).

    Drawn by a counter (Philox, Salmon et al. 2011): a rank draws its rows without those before them.
    """
    per_row = -(-width // 16)  # a count of the counter gives 256 bits, 16 numbers
    bits = np.random.Philox(key=[seed, step], counter=[rows.start * per_row, 0, 0, 0])
    drawn = bits.random_raw(len(rows) * per_row * 4).view(np.uint16).reshape(len(rows), -1)[:, :width]
    kept = torch.from_numpy(drawn >= round(dropout * 65536))
    return kept.to(torch.float32) / (1 - dropout)


class Network:
    """Parameters of a Classifier, and the sums and gradients of a step."""

    def __init__(self, input_width: int, settings: TrainSettings) -> None:
        """Weights are drawn as the original draws them: Glorot and Bengio (2010), uniform."""
        self.settings = settings
        self.classifier = Classifier(input_width, settings.hidden, dropout=settings.dropout)
        draw = torch.Generator().manual_seed(settings.seed)
        with torch.no_grad():
            for layer in (self.classifier.hidden_layer, self.classifier.output_layer):
                torch.nn.init.xavier_uniform_(layer.weight, generator=draw)
                bound = 1 / math.sqrt(layer.in_features)
                layer.bias.uniform_(-bound, bound, generator=draw)
        self.parameters = list(self.classifier.parameters())

    def step(
        self,
        slices: Iterator[tuple[range, torch.Tensor, torch.Tensor]],
        n: int,
        weights: torch.Tensor,
        total_weight: float,
        number: int,
        add: Sum,
    ) -> float:
        """Set the gradients of all parameters for the batch number `number`, and update the running statistics.

        Args:
            slices: of this rank: rows of the batch, embeddings (B, D) float32, labels (B,) int64.
            n: fragments of the batch.
            weights: (2,) float64, weight of a fragment of each class in the loss.
            total_weight: of all fragments of the batch.
            number: of the step, from 0; decides on dropout.
            add: returns the sum of a tensor over all ranks.

        Returns the loss: the weighted mean of the cross-entropies.
        """
        with torch.no_grad():
            return self._step(list(slices), n, weights, total_weight, number, add)

    def _step(
        self,
        slices: list[tuple[range, torch.Tensor, torch.Tensor]],
        n: int,
        weights: torch.Tensor,
        total_weight: float,
        number: int,
        add: Sum,
    ) -> float:
        hidden, norm, output = self.classifier.hidden_layer, self.classifier.bn1, self.classifier.output_layer
        width = self.settings.hidden
        before_BH = [torch.addmm(hidden.bias, x_BD, hidden.weight.T) for _, x_BD, _ in slices]
        sums = torch.zeros(2, width, dtype=torch.float64)
        for h_BH in before_BH:
            exact = h_BH.double()
            sums[0] += exact.sum(0)
            sums[1] += (exact * exact).sum(0)
        mean, square = add(sums) / n
        variance = (square - mean * mean).clamp(min=0)
        self._update_statistics(mean, variance, n)
        scale, mean32 = (variance + norm.eps).rsqrt().float(), mean.float()
        # Output layer and below: gradients of output weight, output bias, norm's weight and bias; the loss.
        upper = torch.zeros(CLASSES * width + CLASSES + 2 * width + 1, dtype=torch.float64)
        d_weight, d_bias, d_norm, loss = upper.split([CLASSES * width, CLASSES, 2 * width, 1])
        normed_BH, d_normed_BH = [], []
        for (rows, _, labels), h_BH in zip(slices, before_BH, strict=True):
            x_BH = h_BH.sub_(mean32).mul_(scale)
            factors = dropout_factors(self.settings.seed, number, rows, width, self.settings.dropout)
            y_BH = torch.addcmul(norm.bias, x_BH, norm.weight)
            factors *= y_BH > 0
            active_BH = y_BH * factors
            logits = torch.addmm(output.bias, active_BH, output.weight.T).double()
            log_share = logits.log_softmax(1)
            weight = weights[labels] / total_weight
            loss -= (log_share.gather(1, labels[:, None])[:, 0] * weight).sum()
            d_logits = log_share.exp()
            d_logits[torch.arange(len(labels)), labels] -= 1
            d_logits *= weight[:, None]
            d_y_BH = (d_logits.float() @ output.weight).mul_(factors)
            d_weight += (d_logits.float().T @ active_BH).double().flatten()
            d_bias += d_logits.sum(0)
            d_norm[:width] += (d_y_BH * x_BH).double().sum(0)
            d_norm[width:] += d_y_BH.double().sum(0)
            normed_BH.append(x_BH)
            d_normed_BH.append(d_y_BH)
        add(upper)
        # Through the norm, whose statistics are those of the whole batch (Ioffe and Szegedy 2015), to the first layer.
        d_scale, d_shift = (d_norm.view(2, width) / n).float()
        lower = torch.zeros(width, self.classifier.input_width, dtype=torch.float64)
        for (_, x_BD, _), x_BH, d_y_BH in zip(slices, normed_BH, d_normed_BH, strict=True):
            d_BH = (d_y_BH - d_shift - x_BH * d_scale).mul_(norm.weight * scale)
            lower += d_BH.T @ x_BD
        add(lower)
        hidden.weight.grad, hidden.bias.grad = lower.float(), torch.zeros(width)  # the norm removes that bias
        norm.weight.grad, norm.bias.grad = d_norm[:width].float(), d_norm[width:].float()
        output.weight.grad, output.bias.grad = d_weight.view(CLASSES, width).float(), d_bias.float()
        return float(loss)

    def _update_statistics(self, mean: torch.Tensor, variance: torch.Tensor, n: int) -> None:
        norm = self.classifier.bn1
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean.float(), BATCH_NORM_MOMENTUM)
        norm.running_var.lerp_((variance * n / max(1, n - 1)).float(), BATCH_NORM_MOMENTUM)

    def margins(self, x_BD: torch.Tensor) -> torch.Tensor:
        """(B,) float64, the virus logit less the other one, without dropout and with the running statistics."""
        self.classifier.eval()
        with torch.inference_mode():
            logits = self.classifier(x_BD).double()
        return logits[:, 1] - logits[:, 0]
