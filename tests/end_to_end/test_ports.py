"""Who listens where while the built-in launch runs, and what passes between its ranks."""

import ipaddress
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

import psutil
import pytest

from scripts.faults import bad_records
from scripts.faults.gate import Gate
from tests.launched import PATIENCE_S, wait_until
from tests.sample import write_contigs
from tests.tiny_models import write_models

pytestmark = pytest.mark.launcher
WATCH_PICKLES = """
import atexit, json, os, pickle

n_loads = 0

class Counted(pickle.Unpickler):
    def load(self):
        global n_loads
        n_loads += 1
        return super().load()

def loads(content, **options):
    import io
    return Counted(io.BytesIO(content), **options).load()

pickle.Unpickler, pickle.loads, pickle.load = Counted, loads, lambda file, **options: Counted(file, **options).load()
ADDED = len(pickle.loads(pickle.dumps([1, 2])))

def tell():
    with open(os.path.join(os.environ["TOLD_IN"], str(os.getpid())), "w") as file:
        json.dump({"rank": os.environ.get("RANK"), "loads": n_loads}, file)

atexit.register(tell)
"""
"""A sitecustomize.py: every Python process of a launch tells at its end how often it has unpickled anything."""
ALSO_HELD = f"""
import importlib.util

spec = importlib.util.spec_from_file_location("faulty", {str(bad_records.FAULTY / "sitecustomize.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
"""For the same file: ranks are held at a gate as well."""


@dataclass
class Seen:
    """What a launch did."""

    code: int
    listening: dict[str, set[str]] = field(default_factory=dict)
    """Addresses by the role of the process: agent, rank."""
    loads: dict[str, int] = field(default_factory=dict)
    """Pickles read, by rank."""


def listening(process: psutil.Process) -> set[str]:
    try:
        return {connection.laddr.ip for connection in process.net_connections() if connection.status == "LISTEN"}
    except psutil.Error:
        return set()


@pytest.fixture(scope="module")
def other_interface() -> str:
    """An interface that is not loopback, by name."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family.name == "AF_INET" and not address.address.startswith("127.") for address in addresses):
            return name
    pytest.skip("this machine has no interface but loopback")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, other_interface: str) -> Seen:
    """The built-in launch on two ranks, in a shell whose profile sends gloo to another interface."""
    folder = tmp_path_factory.mktemp("ports")
    models, source = write_models(folder / "models"), write_contigs(folder / "contigs.fa", n=60)
    hook, told = folder / "hook", folder / "told"
    hook.mkdir()
    told.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH_PICKLES + ALSO_HELD)
    gate = Gate(folder / "gate")
    variables = bad_records.fault_environment(hold=gate.rule()) | {
        "PYTHONPATH": str(hook),
        "TOLD_IN": str(told),
        "GLOO_SOCKET_IFNAME": other_interface,
    }
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "vpdist", "predict", str(source), "-o", str(folder / "run"), "--nproc", "2"),
            *("--nucleotide-model", str(models.nucleotide), "--protein-model", str(models.protein)),
            *("--classifier", str(models.classifier), "--threads", "1", "--dtype", "float32"),
        ],
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
    )
    found: dict[str, set[str]] = {"agent": set(), "rank": set()}
    try:
        tree = psutil.Process(agent.pid)

        def look() -> bool:
            """Whether both ranks are at work; looks once more when they are."""
            at_work = len(gate.held()) == 2
            found["agent"] |= listening(tree)
            for child in tree.children(recursive=True):
                found["rank"] |= listening(child)
            return at_work or agent.poll() is not None

        wait_until(look, "both ranks at work")
        gate.open()
        agent.wait(PATIENCE_S)
    finally:
        agent.kill()
        code = agent.wait()
    ranks = [json.loads(path.read_text()) for path in told.iterdir()]
    return Seen(code, found, {each["rank"]: each["loads"] for each in ranks if each["rank"] is not None})


def test_nothing_listens_but_on_loopback(seen: Seen) -> None:
    assert seen.code == 0
    assert all(seen.listening.values())  # the store of the agent, the connections of the ranks
    addresses = set.union(*seen.listening.values())
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), seen.listening


def test_ranks_unpickle_nothing(seen: Seen) -> None:
    assert seen.loads == {"0": 1, "1": 1}  # the one that shows that the hook counts
