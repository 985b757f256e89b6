"""The fit: its gradients are torch's, a batch may be computed in any number of shares, and an ended fit goes on."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from vpdist.distributed.runtime import alone
from vpdist.distributed.sums import Sums
from vpdist.environment import LaunchContext
from vpdist.errors import UsageError
from vpdist.session.coordination import Control
from vpdist.session.signals import StopRequest
from vpdist.train_settings import TrainSettings
from vpdist.training import fit_state
from vpdist.training.fit import Examples, Fit
from vpdist.training.network import Network, dropout_factors, slices_of
from vpdist.training.rows import Rows

WIDTH = 20


def data(n: int = 700, seed: int = 3) -> tuple[Rows, Examples, Examples]:
    """Rows of two encoders in which viruses differ in the mean; two sides."""
    rng = np.random.default_rng(seed)
    virus = rng.random(n) < 0.3
    matrix = rng.normal(0, 1, (n, WIDTH)).astype(np.float16)
    matrix[virus, :3] += np.float16(1)
    rows, cut = np.arange(n), n * 3 // 4
    return Rows(matrix, (8, 12)), Examples(rows[:cut], virus[:cut]), Examples(rows[cut:], virus[cut:])


def fit_in(folder: Path, settings: TrainSettings, key: str = "k") -> Fit:
    control = Control(alone(LaunchContext(), "cpu"), StopRequest(on_second_signal=lambda stopped: stopped.exit_code))
    sums = Sums(control.runtime, 60.0, control.raise_if_ending)
    return Fit(control, sums, *data(), settings, folder / "fit" / "state.safetensors", key)


def parameters(fit: Fit) -> dict[str, torch.Tensor]:
    return fit.network.classifier.state_dict()


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 2.5)])
@pytest.mark.parametrize("batch", [200, 1024])
def test_a_step_has_the_loss_gradients_and_statistics_that_torch_computes(
    weights: tuple[float, float], batch: int
) -> None:
    settings = TrainSettings(hidden=24, dropout=0.3, batch_size=batch)
    network, reference = Network(WIDTH, settings), Network(WIDTH, settings).classifier.double()
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(batch, WIDTH)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 2, batch))
    class_weights = torch.tensor(weights, dtype=torch.float64)
    reference.train()
    factors = dropout_factors(settings.seed, 5, range(batch), 24, 0.3).double()
    normed = reference.bn1(reference.hidden_layer(x.double())).relu() * factors
    loss = cross_entropy(reference.output_layer(normed), labels, class_weights)
    loss.backward()
    cut = [(rows, x[rows.start : rows.stop], labels[rows.start : rows.stop]) for rows in slices_of(batch, batch)]
    assert len(cut) > 1
    total = float(class_weights[labels].sum())
    found = network.step(iter(cut), batch, class_weights, total, 5, lambda tensor: tensor)
    assert found == pytest.approx(loss.item(), rel=1e-6)
    for (name, mine), theirs in zip(network.classifier.named_parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(network.classifier.bn1, name).double(), getattr(reference.bn1, name), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("width", [16, 50])
def test_dropout_of_some_rows_is_that_of_the_whole_batch(width: int) -> None:
    whole = dropout_factors(9, 3, range(100), width, 0.5)
    assert torch.equal(dropout_factors(9, 3, range(37, 62), width, 0.5), whole[37:62])
    assert not torch.equal(dropout_factors(9, 4, range(100), width, 0.5), whole)
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert float((whole > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert set(dropout_factors(9, 3, range(9), width, 0.0).unique().tolist()) == {1.0}


@pytest.mark.parametrize(("n", "batch_size"), [(32, 32), (127, 127), (500, 512), (3000, 4096), (2, 4096)])
def test_slices_cover_a_batch_once_and_depend_on_its_size_alone(n: int, batch_size: int) -> None:
    cut = slices_of(n, batch_size)
    assert [row for rows in cut for row in rows] == list(range(n))
    assert len(cut) == (1 if batch_size < 128 else min(8, batch_size // 64, n))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fit_learns_and_keeps_the_epoch_with_the_lowest_validation_loss(tmp_path: Path, optimizer: str) -> None:
    settings = TrainSettings(hidden=16, optimizer=optimizer, learning_rate=0.02, epochs=12, batch_size=64)
    fit = fit_in(tmp_path, settings)
    fit.run()
    lines = history(tmp_path)
    losses = [line["validation_loss"] for line in lines]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert min(losses) < 0.9 * losses[0]
    assert fit.reached.best_epoch == int(np.argmin(losses)) + 1
    margins = fit.network.margins(torch.from_numpy(data()[0].matrix[data()[2].row].astype(np.float32))).numpy()
    virus = data()[2].virus
    assert np.logaddexp(0, np.where(virus, -margins, margins)).mean() == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize(("fragments", "batch_size"), [(5, 1024), (5, 2), (1, 2), (130, 128)])
def test_few_fragments_give_slices_that_hold_some_and_finite_statistics(fragments: int, batch_size: int) -> None:
    cut = slices_of(fragments, batch_size)
    assert all(len(rows) for rows in cut)
    assert [row for rows in cut for row in rows] == list(range(fragments))
    network = Network(6, TrainSettings(hidden=4, batch_size=batch_size))
    x_BD, labels = torch.randn(fragments, 6), torch.zeros(fragments, dtype=torch.int64)
    slices = [(rows, x_BD[rows.start : rows.stop], labels[rows.start : rows.stop]) for rows in cut]
    network.step(slices, fragments, torch.ones(2), float(fragments), 0, lambda summed: summed)
    assert all(value.isfinite().all() for value in network.classifier.state_dict().values())


def test_the_last_epoch_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    losses = {}
    for keep in ("best", "last"):
        settings = TrainSettings(hidden=32, epochs=30, patience=30, keep=keep, optimizer="adamw", learning_rate=0.05)
        fit = fit_in(tmp_path / keep, settings)
        fit.run()
        margins = fit.network.margins(torch.from_numpy(data()[0].matrix[data()[2].row].astype(np.float32))).numpy()
        losses[keep] = np.logaddexp(0, np.where(data()[2].virus, -margins, margins)).mean()
    found = [line["validation_loss"] for line in history(tmp_path / "last")]
    assert min(found) < found[-1]
    assert losses == pytest.approx({"best": min(found), "last": found[-1]}, abs=1e-6)


def test_the_learning_rate_falls_in_steps(tmp_path: Path) -> None:
    fit_in(tmp_path, TrainSettings(hidden=4, epochs=5, patience=9, decay_every=2, decay=0.5, learning_rate=0.01)).run()
    assert [line["learning_rate"] for line in history(tmp_path)] == [0.01, 0.01, 0.005, 0.005, 0.0025]


def test_the_learning_rate_falls_to_zero_along_half_a_cosine_and_goes_on_there(tmp_path: Path) -> None:
    settings = TrainSettings(hidden=4, epochs=4, patience=9, learning_rate_schedule="cosine", learning_rate=0.01)
    fit = fit_in(tmp_path, settings)
    fit.run()
    rates = [line["learning_rate"] for line in history(tmp_path)]
    per_epoch = fit.reached.steps // 4
    last_steps = [(1 + epoch) * per_epoch - 1 for epoch in range(4)]
    expected = [0.01 * (1 + math.cos(math.pi * step / fit.reached.steps)) / 2 for step in last_steps]
    assert rates == pytest.approx(expected)
    assert 0 < rates[-1] < rates[0] < 0.01


def test_a_fit_ends_after_so_many_epochs_without_a_lower_validation_loss(tmp_path: Path) -> None:
    settings = TrainSettings(hidden=32, epochs=400, patience=3, optimizer="adamw", learning_rate=0.05, batch_size=64)
    fit = fit_in(tmp_path, settings)
    fit.run()
    assert fit.reached.epoch == fit.reached.best_epoch + 3 < 400


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The fit ends right after the state of an epoch in this list is written."""
    epochs: list[int] = []
    write = fit_state.write

    def write_and_end(path, key, reached, *rest) -> None:  # type: ignore[no-untyped-def]
        write(path, key, reached, *rest)
        if reached.epoch in epochs:
            epochs.remove(reached.epoch)
            raise Killed

    monkeypatch.setattr(fit_state, "write", write_and_end)
    return iter([epochs])  # type: ignore[return-value]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fit_that_was_killed_at_every_epoch_gives_the_same_bits(
    tmp_path: Path, optimizer: str, kill_after: Iterator[list[int]]
) -> None:
    settings = TrainSettings(hidden=16, optimizer=optimizer, learning_rate=0.02, epochs=6, patience=6, batch_size=200)
    undisturbed = fit_in(tmp_path / "a", settings)
    undisturbed.run()
    next(kill_after).extend(range(1, 7))
    ended = 0
    for _ in range(7):
        fit = fit_in(tmp_path / "b", settings)
        try:
            fit.run()
        except Killed:
            ended += 1
    assert ended == 6
    assert fit.reached == undisturbed.reached
    assert all(torch.equal(value, parameters(fit)[name]) for name, value in parameters(undisturbed).items())
    assert (tmp_path / "a/history.jsonl").read_bytes() == (tmp_path / "b/history.jsonl").read_bytes()


@pytest.mark.parametrize("change", ["other key", "flipped byte", "flipped number", "cut"])
def test_a_state_of_another_fit_or_a_damaged_one_begins_anew(tmp_path: Path, change: str) -> None:
    settings = TrainSettings(hidden=8, epochs=2)
    first = fit_in(tmp_path, settings)
    first.run()
    state = tmp_path / "fit" / "state.safetensors"
    content = bytearray(state.read_bytes())
    assert fit_state.read(state, "k") == content
    if change == "flipped byte":
        content[3] ^= 64
        state.write_bytes(content)
    elif change == "flipped number":
        content[-40] ^= 1
        state.write_bytes(content)
    elif change == "cut":
        state.write_bytes(content[:-5])
    key = "another" if change == "other key" else "k"
    assert fit_state.read(state, key) == b""
    again = fit_in(tmp_path, settings, key)
    again.run()
    assert all(torch.equal(value, parameters(again)[name]) for name, value in parameters(first).items())


def test_a_fit_that_diverges_is_ended_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the loss is no number any more; lower --learning-rate"):
        fit_in(tmp_path, TrainSettings(hidden=8, learning_rate=1e38, epochs=3)).run()


def test_balanced_classes_weigh_the_same(tmp_path: Path) -> None:
    virus = data()[1].virus
    other_weight, virus_weight = fit_in(tmp_path, TrainSettings(hidden=8, class_weights="balanced")).weights.tolist()
    assert other_weight * (~virus).sum() == pytest.approx(virus_weight * virus.sum())
    assert other_weight * (~virus).sum() + virus_weight * virus.sum() == pytest.approx(len(virus))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"momentum": -0.1}, "--momentum -0.1"),
        ({"decay": 0.0}, "--decay 0.0"),
        ({"test_share": 0.6}, "--test-share 0.6"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"optimizer": "adam"}, "--optimizer adam"),
        ({"licence": "MIT licence"}, "--licence MIT licence"),
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        TrainSettings(**wrong)  # type: ignore[arg-type]


def test_examples_with_other_labels_are_not_those_of_a_finished_fit() -> None:
    rows, virus = np.arange(4), np.array([True, False, True, False])
    assert Examples(rows, virus).digest() == Examples(rows.copy(), virus.copy()).digest()
    assert (
        len({Examples(rows, virus).digest(), Examples(rows, ~virus).digest(), Examples(rows[::-1], virus).digest()})
        == 3
    )
