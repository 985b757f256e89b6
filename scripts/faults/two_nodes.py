"""Two nodes on one machine, of which one is lost: two torchrun agents with a c10d rendezvous.

Each agent has a network namespace, which needs root; elsewhere both use the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.faults.bad_records import with_faults
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import TORCHRUN, Job, Launch, part_paths, standalone
from scripts.faults.report import Row, judged

ACROSS_NODES_S = 30.0
"""Seconds within which all processes must have ended."""
FREE_BATCHES = 10
"""Batches of each rank before it is held: enough for some parts."""
FIRST, SECOND = "10.213.77.1", "10.213.77.2"
PORTS = range(10_000, 15_000)
"""Below those that the kernel gives to programs which ask for any: nobody is given one before it is used."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """How to start each node's agent."""

    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    """Of each node's command: enters its namespace."""
    addresses: tuple[str, str]
    port: int
    namespaces: bool

    def launcher(self, node: int, *options: str, host: int) -> tuple[str, ...]:
        """The agent of a node. The rendezvous is on node `host`, and drops a node after 15 s without keep-alive."""
        conf = "keep_alive_interval=5,keep_alive_max_attempt=3"
        if self.namespaces:  # torch would look the host up by the machine's name, which is another address
            conf += f",is_host={int(node == host)}"
        return (
            *self.prefixes[node],
            *(*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=two"),
            *(f"--rdzv-endpoint={self.addresses[host]}:{self.port}", f"--local-addr={self.addresses[node]}"),
            *(f"--rdzv-conf={conf}", *options),
        )

    def environment(self, node: int) -> dict[str, str]:
        """By default gloo uses the address of the machine's name, which a namespace cannot reach."""
        return {"GLOO_SOCKET_IFNAME": f"vpdist{node}"} if self.namespaces else {}


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Two namespaces joined by a virtual cable, removed at the end; or the loopback."""
    mark = uuid.uuid4().hex[:8]
    names = (f"vpdist-{mark}-0", f"vpdist-{mark}-1")
    try:
        _ip(f"netns add {names[0]}")
    except (OSError, subprocess.CalledProcessError):
        yield Nodes(((), ()), ("127.0.0.1", "127.0.0.1"), free_port(), namespaces=False)
        return
    try:
        _ip(f"netns add {names[1]}")
        _ip(f"link add vpdist0 netns {names[0]} type veth peer name vpdist1 netns {names[1]}")
        for node, (name, address) in enumerate(zip(names, (FIRST, SECOND), strict=True)):
            _ip(f"-n {name} addr add {address}/24 dev vpdist{node}")
            for device in ("lo", f"vpdist{node}"):
                _ip(f"-n {name} link set {device} up")
        prefixes = tuple(("ip", "netns", "exec", name) for name in names)
        yield Nodes((prefixes[0], prefixes[1]), (FIRST, SECOND), 29500, namespaces=True)
    finally:
        for name in names:
            with contextlib.suppress(subprocess.CalledProcessError):  # the second may not exist
                _ip(f"netns del {name}")


def disconnect(two: Nodes, node: int) -> None:
    """Cut a node's network connection."""
    _ip(f"-n {two.prefixes[node][-1]} link set vpdist{node} down")


def free_port() -> int:
    """One of PORTS at which nothing listens; at random, since others may be looking for one at the same moment."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):  # in use
            probe.bind(("", port))
            return port


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def node_lost(job: Job, folder: Path, undisturbed: list[bytes], *, killed: int = 1, restarts: int = 3) -> Row:
    """Two nodes; the agent without the rendezvous is killed and started again, and the run finishes by itself.

    Both ranks are held between batches until both have ended. torch 2.13 must not share its store with the ranks: it
    announces a shared store in the first round only, so that a later agent would wait for it in vain.
    """
    unshared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    gate, job = _gated(job, folder)
    with nodes() as two:

        def start(node: int) -> Launch:
            launcher = two.launcher(node, f"--max-restarts={restarts}", host=1 - killed)
            return Launch(job, folder, launcher, two.environment(node) | unshared)

        agents = [start(0), start(1)]
        with agents[0], agents[1]:
            survivor = agents[1 - killed]
            problems = _wait_for_ranks(agents, gate, folder)
            held = set(survivor.ranks().values())
            lost_at = time.monotonic()
            agents[killed].agent.kill()
            stop_s = agents[killed].end()
            if not survivor.wait_until(lambda: held.isdisjoint(survivor.processes()), "the end of the other rank"):
                problems.append(f"the other agent ended: {survivor.console_text()[-2000:]}")
            gate.open()
            with start(killed) as again:
                for each in (survivor, again):
                    each.end()
                    if each.agent.returncode != 0:
                        problems.append(f"an agent ended with {each.agent.returncode}: {each.console_text()[-3000:]}")
        seconds = time.monotonic() - lost_at
        network = "own networks" if two.namespaces else "loopback"
    name = f"one of two agents killed, comes back (rank {killed}; {network})"
    return judged(name, folder, undisturbed, (stop_s,), (seconds,), problems)


def node_silent(job: Job, folder: Path, undisturbed: list[bytes]) -> Row:
    """Two nodes; one falls silent as without power: no connection is closed. The other stops, and the same command
    finishes the run. Needs network namespaces."""

    def fail(two: Nodes, agents: list[Launch]) -> None:
        if not two.namespaces:
            raise RuntimeError("a silent node needs network namespaces, which need root")
        disconnect(two, 1)
        for process in agents[1].processes():
            os.kill(process, signal.SIGKILL)

    return _stop_and_resume("one of two nodes falls silent", job, folder, undisturbed, fail)


def rendezvous_lost(job: Job, folder: Path, undisturbed: list[bytes]) -> Row:
    """Two nodes; the agent with the rendezvous is killed, the other stops, and the same command finishes the run."""

    def fail(two: Nodes, agents: list[Launch]) -> None:
        agents[0].agent.kill()

    return _stop_and_resume("the agent of two killed that holds the rendezvous", job, folder, undisturbed, fail)


def _stop_and_resume(
    name: str, job: Job, folder: Path, undisturbed: list[bytes], fail: Callable[[Nodes, list[Launch]], None]
) -> Row:
    """Two nodes, of which `fail` ends one: both stop, and the same command finishes the run."""
    gate, gated = _gated(job, folder)
    with nodes() as two:
        agents = [Launch(gated, folder, two.launcher(node, host=0), two.environment(node)) for node in range(2)]
        with agents[0], agents[1]:
            problems = _wait_for_ranks(agents, gate, folder)
            lost_at = time.monotonic()
            fail(two, agents)
            for each in agents:
                each.end()
            stop_s = time.monotonic() - lost_at
    started = time.monotonic()
    with Launch(job, folder, standalone(2)) as launch:
        launch.end()
    seconds = time.monotonic() - started
    return judged(name, folder, undisturbed, (stop_s,), (seconds,), problems, within_s=ACROSS_NODES_S)


def _gated(job: Job, folder: Path) -> tuple[Gate, Job]:
    """A gate, and the job with each rank held at it after some batches."""
    gate = Gate(folder.with_name(f"{folder.name}.gate"))
    return gate, with_faults(job, hold=gate.rule(free_batches=FREE_BATCHES))


def _wait_for_ranks(agents: list[Launch], gate: Gate, folder: Path) -> list[str]:
    """Wait until both nodes' ranks are held at the gate; returns the problems, if any."""
    for each in agents:
        if not each.wait_until(partial(gate.holds, each, 1), "a rank between batches"):
            return [f"the run did not begin: {each.console_text()[-2000:]}"]
    return [] if part_paths(folder) else ["no part was written before the loss"]
