"""Two nodes on one machine: two agents that meet by c10d, each in a network of its own where that is allowed.

Network namespaces need root; elsewhere both agents use the loopback. One of the agents is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.faults.bad_records import sabotaged
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import TORCHRUN, Job, Launch, part_paths, standalone
from scripts.faults.report import Row, judged

ACROSS_NODES_S = 30.0
"""What is promised: all processes are gone by then."""
FREE_BATCHES = 10
"""What each rank may compute before it is held: some parts are there by then."""
FIRST, SECOND = "10.213.77.1", "10.213.77.2"


@dataclass(frozen=True, slots=True)
class Nodes:
    """How to start each node's agent."""

    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    """What precedes the command."""
    addresses: tuple[str, str]
    port: int
    namespaces: bool

    def launcher(self, node: int, *options: str, host: int) -> tuple[str, ...]:
        """The agent of a node; the rendezvous lives on node `host`, and takes a node for dead after 15 s without a sign
        of life."""
        conf = "keep_alive_interval=5,keep_alive_max_attempt=3"
        if self.namespaces:  # torch knows its host by the machine's name, which means another address here
            conf += f",is_host={int(node == host)}"
        return (
            *self.prefixes[node],
            *(*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=two"),
            *(f"--rdzv-endpoint={self.addresses[host]}:{self.port}", f"--local-addr={self.addresses[node]}"),
            *(f"--rdzv-conf={conf}", *options),
        )

    def environment(self, node: int) -> dict[str, str]:
        """gloo takes the address of the machine's name unless told; in a namespace that one leads nowhere."""
        return {"GLOO_SOCKET_IFNAME": f"vpdist{node}"} if self.namespaces else {}


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Two namespaces joined by a cable, removed at the end; or the loopback."""
    names = (f"vpdist-{free_port()}-0", f"vpdist-{free_port()}-1")
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


def cut(two: Nodes, node: int) -> None:
    """Unplug a node's cable."""
    _ip(f"-n {two.prefixes[node][-1]} link set vpdist{node} down")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def node_lost(job: Job, folder: Path, undisturbed: list[bytes], *, killed: int = 1, restarts: int = 3) -> Row:
    """Two nodes; the agent that does not hold the rendezvous is killed and started again; the run finishes by itself.

    Both ranks are held among their batches until all of them have ended.

    torch 2.13 must be told not to share its store with the ranks: it announces a shared one in the first round only, so
    that an agent which comes later waits for it in vain.
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
            problems = _began(agents, gate, folder)
            held = set(survivor.ranks().values())
            lost_at = time.monotonic()
            agents[killed].agent.kill()
            stop_s = agents[killed].end()
            if not survivor.wait_until(lambda: held.isdisjoint(survivor.processes()), "the end of the other rank"):
                problems.append(f"the other agent ended: {survivor.told()[-2000:]}")
            gate.open()
            with start(killed) as again:
                for each in (survivor, again):
                    each.end()
                    if each.agent.returncode != 0:
                        problems.append(f"an agent ended with {each.agent.returncode}: {each.told()[-3000:]}")
        seconds = time.monotonic() - lost_at
        where = "own networks" if two.namespaces else "loopback"
    name = f"one of two agents killed, comes back (rank {killed}; {where})"
    return judged(name, folder, undisturbed, (stop_s,), (seconds,), problems)


def node_silent(job: Job, folder: Path, undisturbed: list[bytes]) -> Row:
    """Two nodes; one falls silent, as when it loses power: no connection is closed. The other stops; the command again
    finishes. Needs network namespaces."""

    def lose(two: Nodes, agents: list[Launch]) -> None:
        if not two.namespaces:
            raise RuntimeError("no network namespaces here, and the loopback has no cable")
        cut(two, 1)
        for process in agents[1].processes():
            os.kill(process, signal.SIGKILL)

    return _stopped("one of two nodes falls silent", job, folder, undisturbed, lose)


def rendezvous_lost(job: Job, folder: Path, undisturbed: list[bytes]) -> Row:
    """Two nodes; the agent that holds the rendezvous is killed. The other stops too; the command again finishes."""

    def lose(two: Nodes, agents: list[Launch]) -> None:
        agents[0].agent.kill()

    return _stopped("the agent of two killed that holds the rendezvous", job, folder, undisturbed, lose)


def _stopped(
    name: str, job: Job, folder: Path, undisturbed: list[bytes], lose: Callable[[Nodes, list[Launch]], None]
) -> Row:
    """Two nodes, of which `lose` loses one: both stop, and the command again finishes."""
    gate, gated = _gated(job, folder)
    with nodes() as two:
        agents = [Launch(gated, folder, two.launcher(node, host=0), two.environment(node)) for node in range(2)]
        with agents[0], agents[1]:
            problems = _began(agents, gate, folder)
            lost_at = time.monotonic()
            lose(two, agents)
            for each in agents:
                each.end()
            stop_s = time.monotonic() - lost_at
    started = time.monotonic()
    with Launch(job, folder, standalone(2)) as launch:
        launch.end()
    seconds = time.monotonic() - started
    return judged(name, folder, undisturbed, (stop_s,), (seconds,), problems, within_s=ACROSS_NODES_S)


def _gated(job: Job, folder: Path) -> tuple[Gate, Job]:
    """The job, each of its ranks held after some batches, and the gate that holds them."""
    gate = Gate(folder.with_name(f"{folder.name}.gate"))
    return gate, sabotaged(job, hold=gate.rule(free_batches=FREE_BATCHES))


def _began(agents: list[Launch], gate: Gate, folder: Path) -> list[str]:
    """Wait until both nodes' ranks are in the middle of the run; what is wrong if they don't come there."""
    for each in agents:
        if not each.wait_until(partial(gate.holds, each, 1), "a rank in the middle of its work"):
            return [f"did not begin: {each.told()[-2000:]}"]
    return [] if part_paths(folder) else ["no part was written before the loss"]
