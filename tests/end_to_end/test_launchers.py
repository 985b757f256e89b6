"""The program under its real launchers: the same bytes on any number of ranks, failures reported once, live bars."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pexpect
import pyte
import pytest

from scripts.faults import bad_records
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import TORCHRUN, Job, Launch, standalone, status, tables
from scripts.faults.two_nodes import free_port
from tests.launched import PATIENCE_S
from tests.sample import write_contigs
from tests.tiny_models import TinyModels

pytestmark = pytest.mark.launcher

OPTIONS = ("--threads", "1", "--dtype", "float32")
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]
PLAIN = [sys.executable]


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa", n=60)


def command(launcher: Sequence[str], models: TinyModels, source: Path, output: Path, *options: str) -> list[str]:
    job = Job(source, models.nucleotide, models.protein, models.classifier, (*OPTIONS, *options))
    return [*launcher, *job.arguments(output)]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "OMP_NUM_THREADS")}
    return kept | changes


def run(arguments: Sequence[str], code: int = 0) -> str:
    ended = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(), check=False
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def plain(models: TinyModels, contigs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plain") / "run"
    run(command(PLAIN, models, contigs, output))
    return output


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        (standalone(2), ["--progress", "log"]),
        (ACCELERATE, ["--schedule", "dynamic"]),
        (standalone(3), ["--schedule", "dynamic"]),
        (standalone(5), []),
        (PLAIN, ["--nproc", "2"]),
    ],
    ids=["torchrun-2", "accelerate-2-dynamic", "torchrun-3-dynamic", "torchrun-5", "built-in-2"],
)
def test_tables_are_the_same_bytes_under_every_launcher_and_world_size(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path, launcher: Sequence[str], options: list[str]
) -> None:
    stderr = run(command(launcher, models, contigs, tmp_path / "run", *options))
    assert tables(tmp_path / "run") == tables(plain)
    world_size = json.loads((tmp_path / "run" / "run.json").read_text())["world_size"]
    assert world_size > 1
    assert len(list((tmp_path / "run" / "logs").iterdir())) == world_size
    assert stderr.count("sequences called virus") == 1
    last = json.loads((tmp_path / "run" / "progress.jsonl").read_text().splitlines()[-1])
    assert last["totals"]["fragments"] == len((plain / "fragments.tsv").read_text().splitlines()) - 1
    assert last["totals"]["units"] == len(list((tmp_path / "run" / "parts").iterdir()))
    if "log" in options:
        assert re.search(r"rank=1 ", stderr)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stderr)


def test_the_built_in_launch_leaves_nothing_of_its_own_in_the_temporary_folder(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    subprocess.run(
        command(PLAIN, models, contigs, tmp_path / "run", "--nproc", "2"),
        env=environment(TMPDIR=str(temporary)),
        check=True,
        timeout=PATIENCE_S,
        capture_output=True,
    )
    assert tables(tmp_path / "run") == tables(plain)
    assert {path.name.split("_")[0] for path in temporary.iterdir()} <= {"torchinductor"}  # torch's cache, of all users


@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_two_agents_on_loopback_are_one_run(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path, rendezvous: str
) -> None:
    port = free_port()
    agents = []
    for node in range(2):
        launcher = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"]
        if rendezvous == "c10d":
            launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
        else:
            launcher += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        arguments = command(launcher, models, contigs, tmp_path / "run")
        agents.append(
            subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    stderr = [agent.communicate(timeout=PATIENCE_S)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], stderr
    assert tables(tmp_path / "run") == tables(plain)


def test_standard_input_that_only_one_worker_is_given_is_read_whole(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    arguments = command(standalone(2), models, Path("-"), tmp_path / "run")
    with open(contigs, "rb") as source:
        subprocess.run(arguments, stdin=source, env=environment(), check=True, timeout=PATIENCE_S, capture_output=True)
    assert tables(tmp_path / "run")[1:] == tables(plain)[1:]
    again = command(PLAIN, models, Path("-"), tmp_path / "run")
    for sent, code, message in ((b"", 0, "standard input is empty"), (b">x\nACGTACGT\n", 2, "standard input differs")):
        ended = subprocess.run(
            again, input=sent, env=environment(), check=False, timeout=PATIENCE_S, capture_output=True
        )
        assert (ended.returncode, message in ended.stderr.decode()) == (code, True), ended.stderr
    assert tables(tmp_path / "run")[1:] == tables(plain)[1:]


def test_a_failure_is_told_once_with_its_code_in_the_status(models: TinyModels, contigs: Path, tmp_path: Path) -> None:
    source = tmp_path / "broken.fa"
    source.write_text(contigs.read_text() + ">prot\nMKLVEFPQ\n")
    stderr = run(command(standalone(2), models, source, tmp_path / "run"), code=1)
    assert stderr.count("vpdist: ") == 1
    assert re.search(r"vpdist: .*broken\.fa.*record prot", stderr)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["failing_rank"]) == ("failed", 3, 0)


def test_the_built_in_launch_returns_the_true_code(models: TinyModels, tmp_path: Path) -> None:
    source = tmp_path / "broken.fa"
    source.write_text(">prot\nMKLVEFPQ\n")
    assert "record prot" in run(command(PLAIN, models, source, tmp_path / "run", "--nproc", "2"), code=3)


@pytest.mark.parametrize(("closed", "options"), [("<&- >&- 2>&-", ()), (">&-", ("--nproc", "2"))])
def test_a_run_needs_no_standard_streams(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path, closed: str, options: tuple[str, ...]
) -> None:
    arguments = command(PLAIN, models, contigs, tmp_path / "run", *options)
    run(["sh", "-c", f'exec "$@" {closed}', "sh", *arguments])
    assert tables(tmp_path / "run") == tables(plain)


@pytest.mark.parametrize("ignored", [True, False], ids=["nohup", "a terminal that closes"])
def test_a_hangup_stops_all_ranks_unless_it_is_ignored(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path, ignored: bool
) -> None:
    gate = Gate(tmp_path / "gate")
    job = Job(contigs, models.nucleotide, models.protein, models.classifier, (*OPTIONS, "--nproc", "2"))
    how = "SIG_IGN" if ignored else "SIG_DFL"  # said by the test, which may itself be started by nohup
    program = f"import os, signal, sys; signal.signal(signal.SIGHUP, signal.{how}); os.execv(sys.argv[1], sys.argv[1:])"
    prefix = (sys.executable, "-c", program, sys.executable)
    with Launch(job, tmp_path / "run", prefix, bad_records.fault_environment(hold=gate.rule())) as launch:
        assert launch.wait_until(lambda: gate.holds(launch, 2), "two ranks at the gate")
        for pid in launch.processes():
            launch.signal(pid, signal.SIGHUP)
        if ignored:
            gate.open()
        launch.end()
    ended = status(tmp_path / "run")
    assert (launch.agent.returncode, ended["exit_code"]) == ((0, 0) if ignored else (143, 143))
    assert ended["state"] == ("done" if ignored else "interrupted")
    assert not ignored or tables(tmp_path / "run") == tables(plain)


class Terminal:
    """A pseudo-terminal with a terminal emulator for its screen."""

    def __init__(
        self, arguments: Sequence[str], variables: Mapping[str, str], columns: int = 100, lines: int = 30
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.Stream(self.screen)
        self.transcript = ""
        self.child = pexpect.spawn(
            arguments[0], list(arguments[1:]), dimensions=(lines, columns), encoding="utf-8",
            env=environment(TERM="xterm-256color", **variables),
        )  # fmt: skip

    def read(self) -> bool:
        """Feed the next output to the emulator; returns False once the program has ended."""
        try:
            text = self.child.read_nonblocking(65536, timeout=PATIENCE_S)
        except pexpect.EOF:
            return False
        self.transcript += text
        self.stream.feed(text)
        return True

    def read_to_the_end(self) -> None:
        while self.read():
            pass
        self.child.wait()  # `close` kills what has not ended half a second later
        self.child.close()

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "0"},
        {"PMI_SIZE": "4", "PMI_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "1", "PMI_SIZE": "4", "PMI_RANK": "0"},
    ],
    ids=["no rank", "MPI", "a launch of one rank under MPI"],
)
def test_variables_of_other_launchers_leave_one_process_alone(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    arguments = command(PLAIN, models, contigs, tmp_path / "run")
    alone = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, env=environment(**variables), check=False
    )
    assert alone.returncode == 0, alone.stderr
    assert tables(tmp_path / "run") == tables(plain)


def start_tasks(commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """The exit code and standard error of each task of a job step, as `srun` describes it."""
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(len(commands))}
    step["MASTER_PORT"] = str(free_port())  # other tests may run beside this one
    tasks = [
        subprocess.Popen(
            each,
            env=environment(**step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, each in enumerate(commands)
    ]
    texts = [task.communicate(timeout=PATIENCE_S)[1] for task in tasks]
    return [(task.returncode, text) for task, text in zip(tasks, texts, strict=True)]


def test_the_tasks_of_one_srun_are_ranks_of_one_run(
    plain: Path, models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    ended = start_tasks([command(PLAIN, models, contigs, tmp_path / "run")] * 2)
    assert [code for code, _ in ended] == [0, 0], ended
    assert tables(tmp_path / "run") == tables(plain)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2


def test_tasks_of_one_srun_with_different_commands_are_told_so(
    models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    ended = start_tasks([command(PLAIN, models, contigs, tmp_path / name) for name in ("run-0", "run-1")])
    assert [code for code, _ in ended] == [2, 2], ended
    assert "put SLURM_STEP_NUM_TASKS=1 before the command" in ended[0][1]


def shares(lines: Sequence[str]) -> dict[str, float]:
    """Percent done of all ranks and of each on the screen while they embed."""
    percent = {}
    for line in lines:
        if of_all := re.search(r"\u25b6 embed (\d+\.\d) %", line):
            percent["all"] = float(of_all[1])
        if "all" in percent and (bar := re.match(r"[ !] ?([01]) cpu +(\d+\.\d)%", line)):
            percent[f"rank {bar[1]}"] = float(bar[2])
    return percent


def start_on_terminal(models: TinyModels, contigs: Path, folder: Path, gate: Gate) -> Terminal:
    """Start two ranks with bars on a terminal, held between batches."""
    arguments = command(standalone(2), models, contigs, folder, "--token-budget", "400")
    return Terminal(arguments, bad_records.fault_environment(hold=gate.rule()))


def test_bars_of_both_ranks_move_on_a_terminal_and_leave_it_clean(
    models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    terminal = start_on_terminal(models, contigs, tmp_path / "run", gate)
    shown: dict[str, float] = {}
    for free_batches in (5, 15, 25, None):
        before = dict.fromkeys(("rank 0", "rank 1", "all"), 0.0) | shown
        gate.open(free_batches)
        while free_batches is not None and not all(shown.get(bar, 0.0) > share for bar, share in before.items()):
            assert terminal.read(), terminal.transcript
            shown = shares(terminal.lines()) or shown
    terminal.read_to_the_end()
    assert terminal.child.exitstatus == 0
    assert not terminal.screen.cursor.hidden
    assert "sequences called virus" in "\n".join(terminal.lines())


def test_ctrl_c_leaves_the_terminal_clean_and_says_how_to_go_on(
    models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    terminal = start_on_terminal(models, contigs, tmp_path / "run", gate)
    while len(gate.held()) < 2 or len(shares(terminal.lines())) < 3:
        assert terminal.read(), terminal.transcript
    terminal.child.sendintr()
    terminal.read_to_the_end()
    assert not terminal.screen.cursor.hidden
    assert "run the same command again to resume" in terminal.transcript
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 130)
