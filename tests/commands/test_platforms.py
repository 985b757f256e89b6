"""What numbers are computed with: the same on all ranks, recorded, and told where a run has several."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.faults.launched_runs import TORCHRUN
from tests import fake_gpus, mixed_ranks
from tests.launched import PATIENCE_S, environment
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.commands import platforms
from vpdist.commands.platforms import Platform, embedded_with, platform_here, refuse_other_platform
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.errors import UsageError
from vpdist.results import parts
from vpdist.storage.run_folder import RunFolder

GPU = Platform(device="cuda", name="NVIDIA A100", torch="2.13.0", cuda="13.0", driver="580.1")
PROCESSOR = Platform(device="cpu", name="AMD EPYC, AVX512", torch="2.13.0", cuda=None, driver=None)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "cpu"}, "the device is cpu, that of rank 0 is cuda"),
        ({"name": "NVIDIA T4"}, "the GPU is NVIDIA T4, that of rank 0 is NVIDIA A100"),
        ({"torch": "2.14.0"}, "torch is 2.14.0, that of rank 0 is 2.13.0"),
        ({"cuda": "12.6"}, "torch's CUDA is 12.6, that of rank 0 is 13.0"),
        ({"cuda": None}, "torch's CUDA is None, that of rank 0 is 13.0"),
    ],
)
def test_a_rank_unlike_rank_0_is_refused_with_both_values(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=f"host, rank 3: {re.escape(told)}"):
        refuse_other_platform(replace(GPU, **change), GPU, "host, rank 3")


def test_drivers_and_processors_may_differ() -> None:
    refuse_other_platform(replace(GPU, driver="550.54"), GPU, "host, rank 3")
    refuse_other_platform(replace(PROCESSOR, name="Intel"), PROCESSOR, "host, rank 3")


def run_of_mixed_ranks(
    difference: str, models: TinyModels, folder: Path
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Two ranks that are not alike, under torchrun; and their run folder."""
    contigs, run = write_contigs(folder / "contigs.fa", n=12), folder / "run"
    command = [
        *(*TORCHRUN, "--standalone", "--nproc-per-node=2", mixed_ranks.__file__, difference, "predict", str(contigs)),
        *("-o", str(run), "--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)),
        *("--classifier", str(models.classifier), "--threads", "1", "--progress", "none"),
    ]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return ended, run


@pytest.mark.launcher
def test_one_rank_whose_gpus_cannot_be_used_ends_the_run_and_is_told_once(models: TinyModels, tmp_path: Path) -> None:
    ended, run = run_of_mixed_ranks("driver", models, tmp_path)
    assert ended.returncode != 0
    (told,) = re.findall(r"vpdist: .*", ended.stderr)
    assert re.match(r"vpdist: rank 1: .* cannot use the 2 GPU\(s\) of this machine", told)
    assert not (run / "run.json").exists()


@pytest.mark.launcher
@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ("decisions", "has the device cpu, the run is one on cuda"),
        ("torch", "torch is another, that of rank 0 is "),
    ],
)
def test_a_rank_that_would_compute_other_numbers_ends_the_run(
    difference: str, told: str, models: TinyModels, tmp_path: Path
) -> None:
    ended, run = run_of_mixed_ranks(difference, models, tmp_path)
    assert ended.returncode != 0
    status = json.loads((run / "status.json").read_text())
    assert (status["exit_code"], status["failing_rank"]) == (2, 1), ended.stderr
    assert re.match(rf"rank 1: .*, rank 1: {told}", status["message"])
    assert ended.stderr.count("vpdist: ") == 1
    assert not (run / "sequences.tsv").exists()


@pytest.fixture
def settings(models: TinyModels, tmp_path: Path) -> Settings:
    return models.settings(write_contigs(tmp_path / "contigs.fa", n=12), tmp_path / "run")


def recorded(settings: Settings) -> dict[str, Any]:
    return dict(json.loads((settings.output / "run.json").read_text()))


def test_a_run_records_with_what_it_was_computed_and_warns_of_nothing(settings: Settings) -> None:
    for _ in range(2):
        assert predict(settings) == 0
        run = recorded(settings)
        assert run["platform"] == platform_here(CPU).to_dict()
        assert run["platforms"] == [run["platform"]]
        assert run["platform"]["torch"] == torch.__version__
        assert not any("devices or versions" in warning for warning in run["warnings"])


def computing_with(monkeypatch: pytest.MonkeyPatch, other: Platform) -> None:
    monkeypatch.setattr(platforms, "platform_here", lambda device: other)


def test_a_run_that_is_resumed_with_another_torch_says_so_from_then_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings) == 0
    computing_with(monkeypatch, replace(platform_here(CPU), torch="9.9"))
    assert predict(settings) == 0  # computes nothing
    assert len(recorded(settings)["platforms"]) == 1
    capfd.readouterr()
    parts.part_path(RunFolder(settings.output).parts, 0).unlink()
    for _ in range(2):
        assert predict(settings) == 0
        run = recorded(settings)
        assert [each["torch"] for each in run["platforms"]] == [torch.__version__, "9.9"]
        (told,) = (warning for warning in run["warnings"] if "2 devices or versions" in warning)
        assert told in capfd.readouterr().err
        assert "(torch 9.9)" in told


def test_embeddings_taken_over_from_another_device_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert predict(settings) == 0
    other = replace(platform_here(CPU), name="another processor")
    computing_with(monkeypatch, other)
    more = write_contigs(tmp_path / "more.fa", n=20)
    new = replace(settings, inputs=(str(more),), output=tmp_path / "new", reuse=settings.output)
    assert predict(new) == 0
    assert embedded_with(RunFolder(new.output)) == [platform_here(CPU), other]
    assert any("another processor" in warning for warning in recorded(new)["warnings"])


@pytest.mark.parametrize("platform", [5, {}, {"device": "cpu"}, GPU.to_dict() | {"name": None}])
def test_a_run_json_with_another_platform_is_refused(platform: object, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.run.write_text(json.dumps({"platforms": [platform]}))
    with pytest.raises(UsageError, match="another version"):
        embedded_with(folder)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (archive@host)",
    ],
)
def test_a_gpu_is_described_with_its_driver(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_gpus.fake_gpus(monkeypatch)
    monkeypatch.setattr(platforms, "DRIVER_VERSION", tmp_path / "version")
    found = platform_here(torch.device("cuda", 1))
    assert (found.device, found.name, found.driver) == ("cuda", fake_gpus.GPU, None)
    (tmp_path / "version").write_text(f"{line}\nGCC version: 12.2.0\n")
    assert platform_here(torch.device("cuda", 1)).driver == "550.54.15"
