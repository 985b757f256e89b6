"""The built-in launch: addresses on which its processes listen, and pickles that its ranks read."""

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
from scripts.faults.launched_runs import Job
from tests.launched import PATIENCE_S, wait_until
from tests.sample import write_contigs
from tests.tiny_models import TinyModels

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

def report():
    with open(os.path.join(os.environ["COUNTS"], str(os.getpid())), "w") as file:
        json.dump({"rank": os.environ.get("RANK"), "loads": n_loads}, file)

atexit.register(report)
"""
"""A sitecustomize.py: each Python process of a launch writes at its end how many pickles it has read."""
ALSO_HELD = f"""
import importlib.util

spec = importlib.util.spec_from_file_location("faulty", {str(bad_records.FAULTY / "sitecustomize.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
"""For the same file: ranks are held at a gate, too."""


@dataclass
class Observed:
    """Observations of a launch."""

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
def observed(models: TinyModels, tmp_path_factory: pytest.TempPathFactory, other_interface: str) -> Observed:
    """The built-in launch on two ranks, in a shell whose profile sends gloo to another interface."""
    folder = tmp_path_factory.mktemp("ports")
    source = write_contigs(folder / "contigs.fa", n=60)
    options = ("--threads", "1", "--dtype", "float32", "--nproc", "2")
    job = Job(source, models.nucleotide, models.protein, models.classifier, options)
    hook, counts = folder / "hook", folder / "counts"
    hook.mkdir()
    counts.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH_PICKLES + ALSO_HELD)
    gate = Gate(folder / "gate")
    variables = bad_records.fault_environment(hold=gate.rule()) | {
        "PYTHONPATH": str(hook),
        "COUNTS": str(counts),
        "GLOO_SOCKET_IFNAME": other_interface,
    }
    agent = subprocess.Popen(
        [sys.executable, *job.arguments(folder / "run")],
        env=os.environ | variables,
        stderr=subprocess.DEVNULL,
    )
    addresses: dict[str, set[str]] = {"agent": set(), "rank": set()}
    try:
        tree = psutil.Process(agent.pid)

        def look() -> bool:
            """Collect addresses; returns whether both ranks were held before."""
            held = len(gate.held()) == 2
            addresses["agent"] |= listening(tree)
            for child in tree.children(recursive=True):
                addresses["rank"] |= listening(child)
            return held or agent.poll() is not None

        wait_until(look, "both ranks between batches")
        gate.open()
        agent.wait(PATIENCE_S)
    finally:
        agent.kill()
        code = agent.wait()
    ranks = [json.loads(path.read_text()) for path in counts.iterdir()]
    return Observed(code, addresses, {each["rank"]: each["loads"] for each in ranks if each["rank"] is not None})


def test_nothing_listens_but_on_loopback(observed: Observed) -> None:
    assert observed.code == 0
    assert all(observed.listening.values())  # the store of the agent, the connections of the ranks
    addresses = set.union(*observed.listening.values())
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), observed.listening


def test_ranks_unpickle_nothing(observed: Observed) -> None:
    assert observed.loads == {"0": 1, "1": 1}  # by the hook itself, to show that it counts
