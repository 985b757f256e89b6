"""`vpdist check`: each verdict follows from what was tried, one failure keeps no other check from being tried."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.launched import PATIENCE_S, environment
from vpdist.commands import check_installation
from vpdist.commands.check import VPDIST, CheckRequest, compare
from vpdist.commands.check_installation import Connections, as_json, exit_code, verdicts
from vpdist.errors import UsageError, VpdistError, WeightsError
from vpdist.models.catalogue import BUILT_IN
from vpdist.models.find import find_model
from vpdist.models.golden_scores import golden_path

REQUEST = CheckRequest(model=BUILT_IN, dtype="float32", device="cpu", threads=None, offline=True, write=False)
NAMES = ["devices", "disk", "golden", "ranks", "torchrun", "network", "offline"]


@pytest.fixture
def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that nothing is computed in, and golden scores that differ."""

    def compared(request: CheckRequest, path: Path, *, watch: object = None, **_: object) -> str:
        if callable(watch):
            watch(os.getpid())
        return "compared"

    def differs(*_: object) -> str:
        raise WeightsError("mini: gives other scores:\nrandom_150: virus_score is 0.1, it was 0.2")

    monkeypatch.setattr(check_installation, "compare", compared)
    monkeypatch.setattr(check_installation, "check", differs)


@pytest.mark.launcher
def test_the_command_tries_everything_here_and_ends_with_0(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vpdist", "check", "--json", "--folder", str(tmp_path), "--device", "cpu"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    told = json.loads(ended.stdout)
    assert [(each["name"], each["ok"], each["exit_code"]) for each in told["checks"]] == [(n, True, 0) for n in NAMES]
    assert (ended.returncode, told["ok"], told["exit_code"]) == (0, True, 0)
    assert "2 ranks listened at 127.0.0.1" in told["checks"][NAMES.index("network")]["told"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_runs")
def test_one_failure_is_told_with_its_code_and_the_others_are_tried(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)):
        found = list(verdicts(REQUEST, tmp_path))
    assert [(each.name, each.exit_code) for each in found] == [(n, 4 if n == "golden" else 0) for n in NAMES]
    assert exit_code(found) == 4
    assert found[2].line().startswith("golden    FAILED mini: gives other scores:\nrandom_150: ")
    assert not as_json(found)["ok"]
    assert exit_code([each for each in found if each.ok]) == 0


@pytest.mark.usefixtures("without_runs")
def test_a_folder_that_cannot_be_written_fails_the_disk(tmp_path: Path) -> None:
    disk = next(each for each in verdicts(REQUEST, tmp_path / "absent") if each.name == "disk")
    assert (disk.ok, disk.exit_code) == (False, 6)
    assert str(tmp_path / "absent") in disk.told


@pytest.mark.usefixtures("without_runs")
def test_a_device_that_is_not_there_fails_the_devices() -> None:
    devices = next(verdicts(replace(REQUEST, device="cuda")))
    assert (devices.name, devices.ok, devices.exit_code) == ("devices", False, UsageError.exit_code)


def test_listening_beyond_loopback_fails_and_so_does_seeing_nothing() -> None:
    connections = Connections()
    with pytest.raises(VpdistError, match="no connection of the 2 ranks was seen"):
        connections.told()
    with socket.create_server(("127.0.0.1", 0)):
        connections.look(os.getpid())
        assert "127.0.0.1" in connections.listening
    connections.listening, connections.connected = {"127.0.0.1"}, {"::1"}  # other tests of this process may have more
    assert "2 ranks listened at 127.0.0.1 and were connected to nothing else" in connections.told()
    with socket.create_server(("0.0.0.0", 0)):
        connections.look(os.getpid())
    with pytest.raises(VpdistError, match=r"listen at or are connected to 0\.0\.0\.0"):
        connections.told()


def test_a_look_at_a_process_that_has_ended_finds_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(PATIENCE_S)
    connections = Connections()
    connections.look(process.pid)
    assert connections.listening | connections.connected == set()


def test_asking_the_network_with_offline_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def asks(name: str, *, offline: bool) -> None:
        assert offline
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            raise WeightsError(f"{name} is not here")

    assert "nobody was asked" in check_installation._offline()
    monkeypatch.setattr(check_installation, "find_model", asks)
    with pytest.raises(VpdistError, match=r"asked the network \(.*socket\.connect"):
        check_installation._offline()
    monkeypatch.setattr(check_installation, "find_model", lambda name, offline: None)
    with pytest.raises(VpdistError, match="which is not here, was found"):
        check_installation._offline()


def test_the_code_of_a_launcher_gives_way_to_that_of_the_run() -> None:
    """As torchrun ends with 1 whatever went wrong; here a program stands for it that leaves a status.json."""
    program = "import sys, pathlib; run = pathlib.Path(sys.argv[sys.argv.index('-o') + 1]); run.mkdir()\n"
    program += "(run / 'status.json').write_text('{\"exit_code\": 6}')\n"
    program += "print('vpdist: the disk is full\\nagent: failed', file=sys.stderr); sys.exit(1)"
    path = golden_path(find_model(BUILT_IN, offline=True), BUILT_IN)
    with pytest.raises(VpdistError, match="vpdist predict ended with 6: vpdist: the disk is full") as caught:
        compare(REQUEST, path, launcher=(sys.executable, "-c", program))
    assert caught.value.exit_code == 6
    assert VPDIST[-1] == "vpdist"
