"""Every call of vpdist that the documents show is one that the command line takes, and the tutorial's do what it says."""

import csv
import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from scripts.demo.make_sample import main as make_sample
from tests.conftest import SHARED
from tests.documented_commands import PLACEHOLDER, bash_blocks, calls
from tests.launched import PATIENCE_S, environment
from vpdist import cli
from vpdist.config import Settings
from vpdist.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
CALLS = {name: list(calls(text)) for name, text in TEXTS.items()}
WITH_CALLS = [name for name, found in CALLS.items() if found]
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
NEEDS_THE_NETWORK = ("git clone", "vpdist download")
VARIABLE = re.compile(r"\$\w+")
GROUP = typer.main.get_command(cli.app)


def taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings | None:
    """Parse one call, and check its settings where it starts a run; nothing is run. Raises for what is not taken."""
    made: list[Settings] = []
    monkeypatch.setattr(cli, "_run", lambda settings, nproc, *run: made.append(settings))
    name, *rest = arguments
    if name.startswith("-"):
        assert [name, *rest] in [[option] for parameter in GROUP.params for option in parameter.opts]
        return None
    if PLACEHOLDER in rest:
        rest = [argument for argument in rest if argument != PLACEHOLDER]
        rest += [] if "-o" in rest else ["reads.fa", "-o", "RUN"]
    command = GROUP.commands[name]  # type: ignore[attr-defined]  # it is a group
    if rest in (["-h"], ["--help"]):
        return None
    context = command.make_context(name, rest, parent=GROUP.make_context("vpdist", [], resilient_parsing=True))
    if name in ("predict", "embed"):
        command.invoke(context)
    return made[0] if made else None


@pytest.mark.parametrize("document", WITH_CALLS)
def test_every_call_that_is_shown_is_taken(document: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for shown in re.findall(r"^```toml\n(.*?)^```$", TEXTS[document], re.MULTILINE | re.DOTALL):
        (tmp_path / "run.toml").write_text(shown)
    for arguments in CALLS[document]:
        taken([VARIABLE.sub("1", argument) for argument in arguments], monkeypatch)


def test_calls_are_found_where_people_write_them() -> None:
    assert {"README.md", "index.md", "tutorial.md", "tuning.md", "models.md", "training.md", "slurm.md"} <= set(
        WITH_CALLS
    )
    assert len(CALLS["README.md"] + CALLS["models.md"]) >= 10
    block = (
        "srun torchrun --nnodes=2 -m vpdist predict a.fa -o 'RUN 1' ... 2> log | tail -1 # vpdist nothing\n"
        "vpdist verify \"$run\" && bash -c 'vpdist watch RUN'; echo vpdist\npip install vpdist\n"
        "x='\n'; vpdist plan \\\n  a.fa\n"
    )
    assert list(calls(f"```bash\n{block}```\n")) == [
        ["predict", "a.fa", "-o", "RUN 1", "..."],
        ["verify", "$run"],
        ["watch", "RUN"],
        ["plan", "a.fa"],
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ["predict", "a.fa", "-o", "RUN", "--modell", "mini"],
        ["predict", "a.fa"],
        ["predict", "a.fa", "-o", "RUN", "--dtype", "int8"],
        ["predict", "a.fa", "-o", "RUN", "--chunk-length", "many"],
        ["verify"],
        ["--versions"],
    ],
    ids=" ".join,
)
def test_a_call_with_a_mistake_would_be_seen(wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((typer.BadParameter.__base__, UsageError, AssertionError)):
        taken(wrong, monkeypatch)


# The tutorial


def records(path: Path) -> Iterator[tuple[str, str]]:
    """Names and bases of a FASTA file, plain or gz."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for record in text.decode().split(">")[1:]:
        name, _, bases = record.partition("\n")
        yield name.split()[0], bases.replace("\n", "")


@pytest.fixture
def cloned(tmp_path: Path) -> Path:
    """A folder in which DeepVirFinder's example lies as in its repository; invented contigs where there are no real."""
    example = tmp_path / "DeepVirFinder" / "train_example" / "tr"
    example.mkdir(parents=True)
    real = SHARED / "data"
    if real.is_dir():
        found = {"virus": records(real / "virus.fa.gz"), "host": records(real / "host.fa.gz")}
    else:
        make_sample(tmp_path / "sample")
        found = {"virus": records(tmp_path / "sample" / "virus.fa"), "host": records(tmp_path / "sample" / "other.fa")}
    for name, contigs in found.items():
        (example / f"{name}_tr.fa").write_text("".join(f">{contig}\n{bases[:3000]}\n" for contig, bases in contigs))
    return tmp_path


@pytest.mark.launcher
@pytest.mark.slow
def test_the_tutorial_does_what_it_says(cloned: Path) -> None:
    blocks = [block for block in bash_blocks(TUTORIAL.read_text()) if not block.startswith(NEEDS_THE_NETWORK)]
    program = f'vpdist() {{ "{sys.executable}" -m vpdist "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    script = "set -euo pipefail\n" + program + "\n".join(blocks)
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=cloned,
        env=environment() | {"CUDA_VISIBLE_DEVICES": "", "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    with (cloned / "RUN" / "sequences.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    named = (cloned / "names.txt").read_text().split()
    assert 0 < len(named) < len(rows)
    assert sorted(name for name, _ in records(cloned / "candidates.fa")) == sorted(named)
    assert "RUN: complete and undamaged" in ended.stdout
    counted = re.search(r"^chunks .*open frame$", TUTORIAL.read_text(), re.MULTILINE)
    assert counted is not None
    assert (counted.group() in ended.stdout) == (SHARED / "data").is_dir()
