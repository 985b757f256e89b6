"""`import vpdist`: sequences in, tables and embeddings out, errors as exceptions, documents that run."""

from __future__ import annotations

import builtins
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest

import vpdist
from tests.sample import write_contigs
from tests.test_documents import REPOSITORY, blocks
from tests.tiny_models import TinyModels
from vpdist import api
from vpdist.commands.predict import predict
from vpdist.errors import InputError, Interrupted, StorageError, UsageError, VpdistError, WeightsError
from vpdist.results import parts
from vpdist.storage.atomic_files import DamagedFile

PROGRAMS = blocks((REPOSITORY / "docs" / "python.md").read_text(), "python")


@pytest.fixture(scope="module")
def done(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, with names that readers take for other things."""
    folder = tmp_path_factory.mktemp("api")
    contigs = write_contigs(folder / "contigs.fa", n=20)
    contigs.write_text(contigs.read_text() + ">NA 007\nAC\n>007 nan\n" + "ATGGCTGCT" * 20 + "\n")
    assert predict(models.settings(contigs, folder / "run", token_budget=600)) == 0
    return folder / "run"


@pytest.fixture
def run(done: Path) -> vpdist.Run:
    return vpdist.open_run(done)


def test_tables_are_data_frames_with_numbers_and_names_as_they_are(run: vpdist.Run, done: Path) -> None:
    for name in ("sequences", "chunks", "fragments"):
        frame, lines = getattr(run, name), (done / f"{name}.tsv").read_text().splitlines()
        assert isinstance(frame, pandas.DataFrame)
        assert frame.columns.tolist() == lines[0].split("\t")
        assert len(frame) == len(lines) - 1
    frame = run.sequences
    assert frame["seq_name"].tolist()[-2:] == ["NA", "007"]
    assert frame["description"].tolist()[-2:] == ["007", "nan"]
    assert frame["length"].dtype == np.int64
    assert frame["virus_score"].isna().tolist() == (frame["n_scored_chunks"] == 0).tolist()
    assert frame["prediction"].isna().tolist() == frame["virus_score"].isna().tolist()
    assert {type(call) for call in frame["prediction"][frame["prediction"].isna()]} == {float}  # NaN, not None
    assert run.sequences is frame


def test_without_pandas_tables_are_structured_arrays(
    run: vpdist.Run, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vpdist.open_run(done).sequences
    real = builtins.__import__

    def no_pandas(name: str, *rest: object, **named: object) -> object:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_pandas)
    array = run.sequences
    assert isinstance(array, np.ndarray)
    assert array.dtype.names == tuple(expected.columns)
    assert array["seq_name"].tolist() == expected["seq_name"].tolist()
    np.testing.assert_array_equal(array["virus_score"], expected["virus_score"])
    assert array["length"].tolist() == expected["length"].tolist()


def test_embeddings_of_a_sequence_are_those_of_its_fragments_and_read_only_its_parts(
    run: vpdist.Run, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = range(len(list((done / "parts").iterdir())))
    assert len(units) > 5
    fragments = run.fragments
    expected = {
        kind: np.zeros((len(fragments), width), np.float32) for kind, width in (("nucleotide", 48), ("protein", 32))
    }
    holders: dict[int, int] = {}
    for unit in units:
        part = parts.read(done / "parts", unit, ("fragment", "row", *expected))
        for kind, array in expected.items():
            array[part["fragment"]] = part[kind][part["row"]]
        holders |= dict.fromkeys(part["fragment"].tolist(), unit)
    read: list[int] = []
    true_read = parts.read

    def noted(folder: Path, unit: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        read.append(unit)
        return true_read(folder, unit, names)

    monkeypatch.setattr(parts, "read", noted)
    run.embeddings("NA")  # opens the run
    for name in run.sequences["seq_name"]:
        mine = np.flatnonzero(fragments["seq_name"] == name)
        run._parts.clear()
        read.clear()
        for kind, array in run.embeddings(name).items():
            np.testing.assert_array_equal(array, expected[kind][mine])
        assert sorted(read) == sorted({holders[fragment] for fragment in mine.tolist()})
    with pytest.raises(KeyError, match="nobody"):
        run.embeddings("nobody")


def test_failed_fragments_are_nan(run: vpdist.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true_read = parts.read

    def failed(folder: Path, unit: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        part = true_read(folder, unit, names)
        if "failed" in part:
            part["failed"][:] = 1
        return part

    monkeypatch.setattr(parts, "read", failed)
    assert all(np.isnan(array).all() for array in run.embeddings("contig0").values())


def test_what_cannot_be_opened_is_told(done: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        vpdist.open_run(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    broken = vpdist.open_run(tmp_path)
    with pytest.raises(StorageError, match="cannot be read"):
        broken.embeddings("a")
    with pytest.raises(DamagedFile, match=r"sequences\.tsv"):
        _ = broken.sequences
    (tmp_path / "sequences.tsv").write_text("seq_name\tlength\na\tmany\n")
    with pytest.raises(DamagedFile, match=r"sequences\.tsv: is not a table"):
        _ = broken.sequences


@pytest.mark.parametrize(
    ("sequences", "paths", "records"),
    [
        ("a.fa", ["a.fa"], None),
        (Path("a.fa"), ["a.fa"], None),
        (["a.fa", Path("b.fa")], ["a.fa", "b.fa"], None),
        ({"a": "ACGT", "b c": b"AC"}, ["-"], [("a", "ACGT"), ("b c", "AC")]),
        ([("a", "ACGT")], ["-"], [("a", "ACGT")]),
        (iter([["a", "ACGT"]]), ["-"], [("a", "ACGT")]),
        ({}, ["-"], []),
    ],
)
def test_sequences_are_paths_or_names_with_letters(sequences: object, paths: list[str], records: object) -> None:
    assert api._inputs(sequences) == (paths, records)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([1], UsageError, "sequence 1: give paths"),
        ([("a", "A", "B")], UsageError, "sequence 1: give paths"),
        ([("a", "A"), "ACGT"], UsageError, "sequence 2: give paths"),
        ({1: "A"}, UsageError, "sequence 1: its name is 1"),
        ("a\0b", UsageError, r"'a\\x00b' holds a NUL"),
        ("-", UsageError, "standard input is not read here"),
        (["a.fa", Path("-")], UsageError, "standard input is not read here"),
        ({"a\n>b": "A"}, InputError, "its name holds a line break"),
        ({"a": "AC\n>b\nAC"}, InputError, "its letters hold a line break"),
    ],
)
def test_what_is_no_sequence_is_named(sequences: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vpdist.predict(sequences)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"output": "a\0b"}, {"model": "a\0b"}, {"consensus": "a\0b"}])
def test_an_option_with_a_nul_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="holds a NUL"):
        vpdist.predict("a.fa", **options)  # type: ignore[arg-type]


def test_options_are_those_of_the_command() -> None:
    assert list(
        api._flags({"consensus": "max", "embeddings": False, "offline": True, "nproc": 2, "threads": None})
    ) == [
        *("--consensus", "max"),
        "--no-embeddings",
        "--offline",
        *("--nproc", "2"),
    ]
    assert list(api._flags({"embeddings": True, "offline": False})) == []
    for wrong in ({"consensous": "max"}, {"output": "x"}, {"offline": "yes"}):
        with pytest.raises(UsageError):
            list(api._flags(wrong))


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of the documents' programs."""
    folder, before = tmp_path_factory.mktemp("cwd"), Path.cwd()
    write_contigs(folder / "reads.fa", n=10)
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.launcher
def test_the_programs_of_the_documents_run(cwd: Path) -> None:
    found: dict[str, object] = {}
    for program in PROGRAMS:
        exec(program.replace('model="mini")', 'model="mini", nproc=1)'), found)
        if "reads.fa" in program:
            result, virus = found["result"], found["virus"]
            assert isinstance(result, vpdist.Result)
            temporary = result.path
            assert temporary.exists()
            assert f"{len(virus)} virus at q <= 0.05 (balanced)" in result.message  # type: ignore[arg-type]
            assert not result.failures
            del result
    gc.collect()
    assert not temporary.exists()  # another result has taken its name
    assert len(found["mine"]) == len(found["protein"])  # type: ignore[arg-type]
    assert found["pooled"].shape == found["by_kind"]["protein"].shape[1:]  # type: ignore[attr-defined, index]
    assert "record a, letter 5: unexpected letter 'O'" in str(found["reason"])
    run = vpdist.open_run("RUN")
    assert run.sequences["seq_name"].tolist() == ["contig_1", "contig_2"]
    assert run.sequences["description"].tolist() == ["", "from a pool"]
    assert run.info["settings"]["consensus"] == "max"


@pytest.mark.launcher
def test_errors_of_the_command_are_raised_with_its_words(cwd: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.fa: cannot be read"):
        vpdist.predict("absent.fa", nproc=1)
    with pytest.raises(WeightsError, match="nothing"):
        vpdist.predict("reads.fa", model="./nothing", nproc=1)
    with pytest.raises(UsageError, match="choose one of"):
        vpdist.predict("reads.fa", consensus="median", nproc=1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((1, VpdistError), (2, UsageError), (3, InputError), (4, WeightsError), (6, StorageError)),
        *((130, Interrupted), (143, Interrupted)),
    ],
)
def test_every_exit_code_is_an_error(code: int, kind: type[Exception]) -> None:
    launcher = "W1126 07:28:10.919000 18359 api.py:1028] Sending\nTraceback (most recent call last):\n  ..."
    error = api._error(code, f"warning: first\nvpdist: why\n{launcher}")
    assert type(error) is kind
    assert str(error) == "why"
    assert error.exit_code == code


def test_an_interrupt_reaches_the_command_and_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program writes that it runs, and then waits for the signal."""
    program = (
        "import signal, sys, time; from pathlib import Path\n"
        "def stop(*_): Path(sys.argv[1], 'stopped').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop); Path(sys.argv[1], 'runs').touch()\n"
        "while True: time.sleep(0.01)"
    )
    monkeypatch.setattr(api, "PROGRAM", program)
    true_wait = subprocess.Popen.wait
    interrupted = []

    def wait(process, *arguments):  # type: ignore[no-untyped-def]
        if not interrupted:
            while not (tmp_path / "runs").exists():
                time.sleep(0.01)
            interrupted.append(True)
            raise KeyboardInterrupt
        return true_wait(process, *arguments)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        api._ended([str(tmp_path)], None, None)
    assert (tmp_path / "stopped").exists()


def test_a_run_stops_when_the_process_that_called_is_gone(tmp_path: Path) -> None:
    """The child waits for its end in place of the command line."""
    child = (
        "import time; from pathlib import Path; import vpdist.started_by_api as started, vpdist.cli as cli, signal, sys\n"
        "started.POLL_S = 0.01\n"
        "def stop(*_): Path('stopped').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "def wait():\n    Path('runs').touch()\n    while True: time.sleep(0.01)\n"
        "cli.main = wait; started.main()"
    )
    parent = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
        "while not Path('runs').exists(): time.sleep(0.01)"
    )
    subprocess.run([sys.executable, "-c", parent, child], cwd=tmp_path, check=True, timeout=600)
    until = time.monotonic() + 300
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < until, "the child was not stopped"
        time.sleep(0.05)


def test_importing_the_package_imports_little() -> None:
    program = "import sys, vpdist; dir(vpdist); print(*sys.modules); vpdist.predict; vpdist.open_run; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    first, second = told.stdout.splitlines()
    assert not {"numpy", "torch", "typer", "vpdist.api"} & set(first.split())
    assert second == "False"


def test_the_package_has_the_names_that_it_says_and_their_types() -> None:
    stub = (REPOSITORY / "vpdist" / "__init__.pyi").read_text()
    for name in vpdist.__all__:
        assert getattr(vpdist, name)
        assert name in dir(vpdist)
        assert f"{name} as {name}" in stub or f"{name}:" in stub
    with pytest.raises(AttributeError, match="nothing"):
        vpdist.nothing  # noqa: B018
    assert (REPOSITORY / "vpdist" / "py.typed").exists()


@pytest.mark.parametrize("under", ["torchrun"])
def test_under_a_launcher_it_says_what_to_do(under: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UsageError, match=under):
        vpdist.predict("a.fa")
