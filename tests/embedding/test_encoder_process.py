"""The child process that computes isolated units: what passes between it and its rank, its death, its silence."""

import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from multiprocessing.connection import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.fake_gpus import fake_gpus
from tests.launched import PATIENCE_S
from tests.tiny_models import write_esm2, write_models
from vpdist.embedding import encoder_process
from vpdist.embedding.encoder_process import ChildDied, ChildHung, EncoderProcess, packed, unpacked
from vpdist.encoders.model_files import fingerprinted
from vpdist.errors import Interrupted, VpdistError, WeightsError
from vpdist.ragged import Ragged


def test_messages_arrive_as_they_were_sent() -> None:
    sent = (np.arange(5, dtype=np.uint8), np.array([0, 5]), np.ones((2, 3), dtype=np.float32), np.empty(0, np.uint16))
    words, arrays = unpacked(packed({"why": "two\nlines"}, *sent))
    assert words == {"why": "two\nlines"}
    assert [(each.dtype, each.shape, each.tobytes()) for each in arrays] == [
        (each.dtype, each.shape, each.tobytes()) for each in sent
    ]
    assert unpacked(packed({})) == ({}, [])


def test_nothing_is_pickled_nor_unpickled(tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle"):
        packed({}, objects)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        unpacked(b"{}\n" + (tmp_path / "objects.npy").read_bytes())


@pytest.mark.launcher
def test_the_child_ends_with_its_parents_interest_in_it() -> None:
    def stop() -> None:
        raise Interrupted("stopped by SIGTERM")

    batch = Ragged.from_lengths(np.zeros(3), [3])
    with EncoderProcess(torch.device("cpu"), 1, stop, timeout_s=PATIENCE_S) as process:
        with pytest.raises(Interrupted):
            process.embed("protein", "float32", Path("nowhere"), batch)
        child = process._process
        assert child is not None
        assert child.poll() is None
    assert child.poll() is not None


@pytest.mark.launcher
def test_a_child_that_does_not_reply_is_ended(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    batch = Ragged.from_lengths(np.array([0, 5, 5, 2]), [4])
    with EncoderProcess(torch.device("cpu"), 1, lambda: None, timeout_s=PATIENCE_S) as process:
        process.load("protein", "float32", models.protein)
        child = process._process
        assert child is not None
        child.send_signal(signal.SIGSTOP)
        process._timeout_s = 0.5
        with pytest.raises(ChildHung, match="did not reply"):
            process._request({"kind": "protein", "dtype": "float32", "folder": str(models.protein)})
        assert child.poll() == -9
        process._timeout_s = PATIENCE_S
        assert np.isfinite(process.embed("protein", "float32", models.protein, batch)).all()


@pytest.mark.launcher
def test_a_child_that_stops_in_the_middle_of_its_reply_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpdist.embedding.encoder_process.WHOLE_REPLY_S", 0.2)
    half = "import os, sys, time; os.write(int(sys.argv[1]), (100).to_bytes(4, 'big') + b'{'); time.sleep(600)"
    with EncoderProcess(torch.device("cpu"), 1, lambda: None, timeout_s=PATIENCE_S) as process:
        process._channel, theirs = Pipe()
        command = [sys.executable, "-c", half, str(theirs.fileno())]
        process._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        with pytest.raises(ChildDied, match="ended with status -9"):
            process._request({})


@pytest.mark.launcher
def test_a_child_that_is_killed_is_recognised_and_another_one_takes_its_place(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    batch = Ragged.from_lengths(np.array([0, 5, 5, 2]), [4])
    with EncoderProcess(torch.device("cpu"), 1, lambda: None, timeout_s=PATIENCE_S) as process:
        before = process.embed("protein", "float32", models.protein, batch)
        child = process._process
        assert child is not None
        child.kill()
        with pytest.raises(ChildDied, match="ended with status -9"):
            process._request(
                {"kind": "protein", "dtype": "float32", "folder": str(models.protein)}, batch.flat, batch.offsets
            )
        after = process.embed("protein", "float32", models.protein, batch)
    assert before.tobytes() == after.tobytes()


def test_no_memory_for_a_second_copy_condemns_no_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*request: object) -> None:
        raise torch.OutOfMemoryError

    process = EncoderProcess(torch.device("cpu"), 1, lambda: None, timeout_s=PATIENCE_S)
    monkeypatch.setattr(process, "_request", out_of_memory)
    with pytest.raises(VpdistError, match="no memory for a second copy of esm2"):
        process.embed("protein", "float16", Path("esm2"), Ragged.from_lengths(np.zeros(3), [3]))
    with pytest.raises(torch.OutOfMemoryError):
        process.load("protein", "float32", Path("esm2"))


@pytest.mark.launcher
def test_the_child_loads_no_other_files_than_its_rank_has_loaded(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    known = fingerprinted(models.protein)
    shutil.copy(write_esm2(tmp_path / "other", seed=9) / "model.safetensors", models.protein)

    def read(kind: str, load: Callable[[], None]) -> None:
        known.read(load)

    with (
        EncoderProcess(torch.device("cpu"), 1, lambda: None, PATIENCE_S, read) as process,
        pytest.raises(WeightsError, match="have changed during the run"),
    ):
        process.load("protein", "float32", models.protein)


def test_the_child_makes_the_gpu_of_its_rank_current_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    current = fake_gpus(monkeypatch)
    served: list[tuple[torch.device, list[torch.device]]] = []
    monkeypatch.setattr(encoder_process, "serve", lambda channel, device: served.append((device, current.copy())))
    monkeypatch.setattr(encoder_process.faulthandler, "enable", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    ours, theirs = Pipe()
    monkeypatch.setattr(sys, "argv", ["encoder_process", str(os.dup(theirs.fileno())), "cuda:1", "1"])
    with ours, theirs:
        encoder_process.main()
    mine = torch.device("cuda", 1)
    assert served == [(mine, [mine])]


@pytest.mark.launcher
def test_the_child_gives_an_encoder_back_and_loads_it_again(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    batch = Ragged.from_lengths(np.array([0, 5, 5, 2]), [4])
    read: list[str] = []

    def count(kind: str, load: Callable[[], None]) -> None:
        read.append(kind)
        load()

    with EncoderProcess(torch.device("cpu"), 1, lambda: None, PATIENCE_S, count) as process:
        process.release("protein", "float32")  # starts no child
        assert process._process is None
        before = process.embed("protein", "float32", models.protein, batch)
        process.release("protein", "float32")
        after = process.embed("protein", "float32", models.protein, batch)
        assert read == ["protein", "protein"]
        process.load("protein", "float32", models.protein)
        assert process._process is not None
        process._process.kill()
        process.release("protein", "float32")
        assert process._process is None
    assert before.tobytes() == after.tobytes()


def test_the_child_holds_no_encoder_that_was_given_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held: list[weakref.ref[object]] = []

    class Loaded:
        pass

    def load(*arguments: object) -> Loaded:
        loaded = Loaded()
        held.append(weakref.ref(loaded))
        return loaded

    class NoRequestLeft(Exception):  # noqa: N818 - an end, no error
        pass

    requests = [{"release": True}, {"release": False}]
    alive: list[bool] = []

    class Requests:
        def get(self) -> bytes:
            alive.extend(reference() is not None for reference in held)
            if not requests:
                raise NoRequestLeft
            request = {"kind": "protein", "dtype": "float32", "folder": str(tmp_path)} | requests.pop()
            return packed(request)

    listener = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(encoder_process, "load_encoder", load)
    monkeypatch.setattr(encoder_process, "queue", SimpleNamespace(SimpleQueue=Requests))
    monkeypatch.setattr(encoder_process, "threading", SimpleNamespace(Thread=lambda **_: listener))
    ours, theirs = Pipe()
    with ours, theirs, pytest.raises(NoRequestLeft):
        encoder_process.serve(theirs, torch.device("cpu"))
    assert alive == [True, False]
