"""How many ranks a command starts on a CPU by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from tests.tiny_models import TinyModels
from vpdist import cli
from vpdist.commands import cpu_ranks as cpu_ranks_module
from vpdist.commands.cpu_ranks import cpu_ranks, weight_bytes
from vpdist.config import Settings
from vpdist.distributed import launch
from vpdist.encoders.shape import encoder_shape

CORES = 8


@pytest.fixture
def settings(models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run that is worth several ranks on a machine with eight cores and plenty of memory."""
    monkeypatch.setattr(cpu_ranks_module, "available_cores", lambda: CORES)
    monkeypatch.setattr(cpu_ranks_module, "WORTH_S", 0.0)
    set_free_memory(monkeypatch, 1 << 40)
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    return models.settings(tmp_path / "in.fa", tmp_path / "run", threads=None)


def set_free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))


def test_a_rank_is_started_for_each_core(settings: Settings) -> None:
    assert cpu_ranks(settings) == CORES


def test_ranks_take_half_of_the_free_memory_at_most(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {kind: encoder_shape(Path(model)) for kind, model in settings.models.items()}
    rank = cpu_ranks_module.RANK_BYTES + weight_bytes(shapes)
    for free, expected in ((2 * rank * 3, 3), (2 * rank * 3 - 2, 2), (rank, 1), (0, 1)):
        set_free_memory(monkeypatch, free)
        assert cpu_ranks(settings) == expected


def test_weights_take_what_their_numbers_say(models: TinyModels) -> None:
    from safetensors.torch import load_file

    stored = sum(tensor.numel() * 4 for tensor in load_file(models.protein / "model.safetensors").values())
    shape = encoder_shape(models.protein)
    assert weight_bytes({shape.kind: shape}) == pytest.approx(stored, rel=0.25)  # biases and norms are left out


def test_little_work_is_done_by_one_rank(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_ranks_module, "WORTH_S", 1.0)
    assert cpu_ranks(settings) == 1
    source = Path(settings.inputs[0])
    with open(source, "r+b") as file:
        file.truncate(1 << 40)  # a hole; it is not read
    assert cpu_ranks(settings) == CORES
    assert cpu_ranks(replace(settings, inputs=("-",))) == CORES
    assert cpu_ranks(replace(settings, inputs=(), files_from="list")) == CORES


def test_who_names_threads_or_a_model_that_is_not_here_gets_one_rank(settings: Settings) -> None:
    assert cpu_ranks(replace(settings, threads=2)) == 1
    assert cpu_ranks(replace(settings, protein_model="facebook/esm2_t36_3B_UR50D")) == 1
    without = replace(settings, nucleotide_model=None, protein_model=None, classifier=None, dry_run=True)
    assert cpu_ranks(without) == 1


def test_a_resumed_run_keeps_its_threads_per_rank(settings: Settings) -> None:
    settings.output.mkdir()
    for threads, ranks in ((1, CORES), (2, 4), (3, 2), (16, 1)):
        (settings.output / "run.json").write_text(json.dumps({"decisions": {"threads": threads}}))
        assert cpu_ranks(settings) == ranks
        assert cpu_ranks(replace(settings, dry_run=True)) == CORES
    for decisions in ({"threads": 0}, {"threads": "2"}, {}, []):
        (settings.output / "run.json").write_text(json.dumps({"decisions": decisions}))
        assert cpu_ranks(settings) == CORES


def test_predict_starts_as_many(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(launch, "launch", lambda arguments, ranks, folder: started.append(ranks) or 0)
    options = ["--nucleotide-model", settings.nucleotide_model, "--protein-model", settings.protein_model]
    options += ["-o", str(settings.output), "--device", "cpu"]
    given = ["embed", *settings.inputs, *map(str, options)]
    assert CliRunner().invoke(cli.app, given).exit_code == 0
    assert CliRunner().invoke(cli.app, [*given, "--nproc", "3"]).exit_code == 0
    assert started == [CORES, 3]
