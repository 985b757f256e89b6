"""A model of the hub under real launchers: fetched once per node, and the same tables on one rank and on two."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fake_hub
from tests.launched import PATIENCE_S, environment, wait_until
from tests.models.conftest import COMMITS, Published
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.models.bundle import encoder_entry, write_model
from vpdist.results.classifier import load_classifier

COMMIT = "e" * 40
MODEL = f"owner/model@{COMMIT}"
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")

pytestmark = pytest.mark.launcher


@pytest.fixture
def variables(published: Published, models: TinyModels, tmp_path: Path) -> dict[str, str]:
    """A model with one encoder of its own and one of another repository on the server; the environment to reach it."""
    entries = {
        "nucleotide": encoder_entry(models.nucleotide, "nucleotide"),
        "protein": encoder_entry(models.protein, "protein", hub="owner/protein", revision=COMMITS["protein"]),
    }
    model = replace(published.preset.model, name="of-the-hub", encoders=entries)
    classifier = load_classifier(models.classifier)
    written = write_model(tmp_path / "written", model, classifier, encoders={"nucleotide": models.nucleotide})
    published.hub.add("owner/model", COMMIT, written.folder)
    return environment() | {"HF_ENDPOINT": published.hub.endpoint, "HF_HOME": str(published.home)}


def run(variables: dict[str, str], *command: object) -> str:
    """The command's output; the test fails with it where its code is not 0."""
    text = [str(word) for word in command]
    ended = subprocess.run(
        text,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def fetched(published: Published, name: str) -> int:
    return sum("/resolve/" in line and "/cdn/" not in line and line.endswith(name) for line in published.hub.asked)


def test_ranks_fetch_a_model_once_and_agree_with_a_single_process(
    published: Published, variables: dict[str, str], tmp_path: Path
) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=8)
    options = ("--model", MODEL, "--threads", 1, "--dtype", "float32", "--device", "cpu", "--progress", "log")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    told = run(variables, *torchrun, "-m", "vpdist", "predict", source, "-o", tmp_path / "two", *options)
    assert "downloading" in told
    assert fetched(published, "model.json") == fetched(published, "classifier.safetensors") == 1
    assert fetched(published, "owner/protein/resolve/" + COMMITS["protein"] + "/model.safetensors") == 1
    asked = len(published.hub.asked)
    alone = (sys.executable, "-m", "vpdist", "predict", source, "-o", tmp_path / "one", *options, "--offline")
    run(variables, *alone)
    assert len(published.hub.asked) == asked
    assert [(tmp_path / "one" / name).read_bytes() for name in TABLES] == [
        (tmp_path / "two" / name).read_bytes() for name in TABLES
    ]
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert runs[0]["model"] == runs[1]["model"]
    assert runs[0]["model"]["from"] == MODEL


def test_a_download_that_is_killed_goes_on(published: Published, variables: dict[str, str], tmp_path: Path) -> None:
    files = published.hub.repositories["owner/model", COMMIT]
    (weights,) = (content for path, content in files.items() if path.endswith("nucleotide/pytorch_model.bin"))
    published.hub.faults["nucleotide/pytorch_model.bin"] = [fake_hub.SILENT] * 1000  # however often it is asked again
    command = [sys.executable, "-m", "vpdist", "download", MODEL]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        beginning = f".{hashlib.sha256(weights).hexdigest()}.part"
        wait_until(
            lambda: (
                any(path.stat().st_size > 1000 for path in published.home.rglob(beginning))
                or process.poll() is not None
            ),
            "half of the weights",
        )
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    published.hub.faults.clear()
    told = run(variables, *command)
    assert f"{MODEL}: " in told
    assert any("nucleotide/pytorch_model.bin bytes=" in line for line in published.hub.asked)
    assert not list(published.home.rglob(".*.part"))


def test_a_download_is_drawn_on_a_terminal(variables: dict[str, str]) -> None:
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vpdist", "download", MODEL], env=variables, stdout=inside, stderr=inside, stdin=inside
    )
    os.close(inside)
    shown = b""
    while True:
        try:
            more = os.read(terminal, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not more:
            break
        shown += more
    os.close(terminal)
    assert process.wait(PATIENCE_S) == 0, shown
    assert b"owner/model@" in shown
    assert b"\x1b[" in shown
    assert "━".encode() in shown
