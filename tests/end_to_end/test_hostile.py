"""Untrusted files: whatever they hold, no crash, no hang, no code executed, and a documented exit code."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.checks.fuzz_targets import AuditHook, CodeExecuted, Seeds, Target, targets
from tests.results.test_pickled_classifier import MLPClassifier, Payload
from tests.sample import write_contigs
from tests.tiny_models import TinyModels, tiny_classifier
from vpdist import cli
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.display.watch import watch
from vpdist.errors import InputError, UsageError
from vpdist.planning import plan_file
from vpdist.results import parts
from vpdist.sequences import fastq, records, token_store
from vpdist.sequences.decompression import WINDOW_BITS
from vpdist.sequences.records import read_records
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile

DOCUMENTED = {0, 2, 3, 4, 5, 6}
"""Exit codes except 1, a bug, and those of signals."""
ESCAPE = "\x1b]0;owned\x07\x9b2J"


@pytest.fixture(scope="module")
def seeds(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Seeds:
    folder = tmp_path_factory.mktemp("seeds")
    tiny = tiny_classifier()
    original = MLPClassifier(tiny.input_width, tiny.hidden_width)
    original.load_state_dict(tiny.state_dict())
    module = MLPClassifier.__module__
    try:
        MLPClassifier.__module__ = "__main__"
        sys.modules["__main__"].MLPClassifier = MLPClassifier  # type: ignore[attr-defined]
        torch.save(original, folder / "classifier.pth")
    finally:
        MLPClassifier.__module__ = module
        del sys.modules["__main__"].MLPClassifier  # type: ignore[attr-defined]
    assert predict(models.settings(write_contigs(folder / "contigs.fa", n=12), folder / "run")) == 0
    return Seeds(
        nucleotide=models.nucleotide,
        protein=models.protein,
        classifier=models.classifier,
        pickled=folder / "classifier.pth",
        run=folder / "run",
    )


@pytest.fixture(scope="module")
def readers(seeds: Seeds) -> dict[str, Target]:
    return targets(seeds)


@pytest.fixture(scope="module")
def audit() -> AuditHook:
    return AuditHook()


@pytest.fixture
def copy(seeds: Seeds, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seeds.run, tmp_path / "run"))


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["vpdist", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# Bytes changed at random


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


def edited(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, position, text in changes:
        at = int(position * len(content))
        if kind == "flip":
            content = content[:at] + text + content[at + len(text) :]
        elif kind == "cut":
            content = content[:at] + content[at + 37 * len(text) :]
        elif kind == "insert":
            content = content[:at] + text + content[at:]
        else:
            content = content[: at + 50] + content[at:]
    return content


NAMES = (
    *("records", "pickle", "classifier", "summary", "config", "tokenizer"),
    *("vocabulary", "weights"),
    *("part", "block", "plan", "run_json", "store_json", "progress"),
)


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(readers: dict[str, Target], name: str, tmp_path: Path) -> None:
    assert readers.keys() == set(NAMES)
    for seed in readers[name].seeds:
        readers[name].run(seed, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_changed_files_end_as_documented(
    readers: dict[str, Target], audit: AuditHook, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, folder = readers[name], tmp_path_factory.mktemp(name)

    @given(st.sampled_from(range(len(target.seeds))), edits)
    @settings(max_examples=120, derandomize=True)
    def each(number: int, changes: list[tuple[str, float, bytes]]) -> None:
        target(edited(target.seeds[number], changes), folder, audit)

    each()


def values() -> st.SearchStrategy[object]:
    """Any JSON, with numbers and texts at the limits."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from([ESCAPE, "cpu", "float32", 0, -1, 2**63]),
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )


def replaced(content: object, path: list[int], value: object) -> object:
    """`content` with one value somewhere inside it replaced."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[path[0] % len(keys)]
    changed = content.copy()
    changed[key] = replaced(content[key], path[1:], value)  # type: ignore[index, call-overload]
    return changed


@pytest.mark.parametrize("name", ["config", "run_json", "store_json", "progress", "tokenizer"])
def test_json_of_other_values_ends_as_documented(
    readers: dict[str, Target], audit: AuditHook, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target, folder = readers[name], tmp_path_factory.mktemp(name)
    valid = json.loads(target.seeds[0])

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=4), values())
    @settings(max_examples=150, derandomize=True)
    def each(path: list[int], value: object) -> None:
        target(json.dumps(replaced(valid, path, value)).encode(), folder, audit)

    each()


@pytest.mark.parametrize("name", ["config", "run_json", "store_json", "progress", "tokenizer"])
def test_json_of_great_depth_ends_as_documented(
    readers: dict[str, Target], audit: AuditHook, name: str, tmp_path: Path
) -> None:
    for content in (b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b'{"a":1e999}'):
        readers[name](content, tmp_path, audit)


# Untrusted run folders


def test_a_file_of_a_run_that_holds_anything_gives_a_documented_code(
    seeds: Seeds, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("anything") / "run"
    names = sorted(
        str(path.relative_to(seeds.run)) for path in seeds.run.rglob("*") if path.is_file() and path.suffix != ".log"
    )
    assert len(names) > 10
    codes = set()

    @given(st.sampled_from(names), edits)
    @settings(max_examples=25, derandomize=True)
    def each(name: str, changes: list[tuple[str, float, bytes]]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seeds.run, folder)
        (folder / name).write_bytes(edited((folder / name).read_bytes(), changes))
        found = [
            exit_code(monkeypatch, "verify", folder),
            exit_code(monkeypatch, "classify", folder, "--classifier", seeds.classifier, "--progress", "none"),
        ]
        assert set(found) <= DOCUMENTED, (name, found)
        codes.update(found)

    each()
    assert len(codes) > 1


@pytest.fixture(scope="module")
def classified(seeds: Seeds) -> Callable[[Path], int]:
    """Run `vpdist verify`, then `classify`; returns the larger exit code."""

    def run(folder: Path) -> int:
        with pytest.MonkeyPatch.context() as patch:
            codes = [
                exit_code(patch, "verify", folder),
                exit_code(patch, "classify", folder, "--classifier", seeds.classifier, "--progress", "none"),
            ]
        assert set(codes) <= DOCUMENTED, codes
        return max(codes)

    return run


def rewritten(path: Path, **changes: np.ndarray) -> None:
    """Replace some datasets, with digests that agree."""
    with hdf5_files.opened(path) as file:
        datasets = {name: hdf5_files.read(file, name) for name in file} | changes
        described = {key: value for key, value in hdf5_files.attributes(file).items() if key != "format_version"}
    hdf5_files.write_atomic(path, datasets, {key: value for key, value in described.items() if value is not None})


def hostile_plan(run: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a plan, with a digest that agrees."""
    plan, _ = plan_file.map_plan(run / "tokens" / "plan.h5")
    arrays = {name: np.array(getattr(plan, name)) for name in plan.__dataclass_fields__}
    change(arrays)
    with hdf5_files.opened(run / "tokens" / "plan.h5") as file:
        provenance_key = str(hdf5_files.attributes(file)["basis"])
    plan_file.write_plan(run / "tokens" / "plan.h5", type(plan)(**arrays), provenance_key)


PLANS = {
    "fragment beyond the last": lambda plan: plan["fragment"].__setitem__(0, 1 << 40),
    "negative fragment": lambda plan: plan["fragment"].__setitem__(0, -1),
    "fragment twice": lambda plan: plan["fragment"].__setitem__(0, plan["fragment"][1]),
    "rows of terabytes": lambda plan: plan["row_start"].__setitem__(-1, 1 << 45),
    "units backwards": lambda plan: plan.update(unit_row=plan["unit_row"][::-1].copy()),
    "no rows": lambda plan: plan.update(row_start=np.zeros(0, np.int64)),
    "two dimensions": lambda plan: plan.update(fragment=plan["fragment"][:, None]),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_is_refused(copy: Path, classified: Callable[[Path], int], name: str) -> None:
    hostile_plan(copy, PLANS[name])
    assert classified(copy) == 6


BLOCKS = {
    "text offsets beyond the text": {"names_offsets": lambda a: a + 1000},
    "control characters in a name": {"names": lambda a: np.full_like(a, 27)},
    "names that are no UTF-8": {"names": lambda a: np.full_like(a, 0xFF)},
    "an input file there is not": {"sources": lambda a: a + 7},
    "a status there is not": {"statuses": lambda a: a + 70},
    "a frame there is not": {"fragment_frame": lambda a: a + 70},
    "chunks of other records": {"chunk_record": lambda a: a + 1000},
    "a record without an end": {"n_chunks": lambda a: a + 1},
    "fewer chunks than there are": {"n_chunks": lambda a: np.maximum(a - 1, 0)},
    "huge proteins": {"fragment_residues": lambda a: a + (1 << 30)},
    "other types": {"lengths": lambda a: a.astype(np.float64)},
    "another length": {"chunk_end": lambda a: a[:-1]},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_is_none_is_refused(copy: Path, classified: Callable[[Path], int], name: str) -> None:
    path = token_store.block_path(copy / "tokens", 0)
    with hdf5_files.opened(path) as file:
        changes = {column: change(hdf5_files.read(file, column)) for column, change in BLOCKS[name].items()}
    rewritten(path, **changes)
    assert classified(copy) == 6


PARTS = {
    "more rows": lambda part: {"nucleotide": np.concatenate([part["nucleotide"]] * 2)},
    "another type": lambda part: {"protein": part["protein"].astype(np.float64)},
    "one dimension": lambda part: {"nucleotide": part["nucleotide"][:, 0].copy()},
    "failures of another shape": lambda part: {"failed": np.zeros((len(part["failed"]), 2), np.uint8)},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_none_is_refused(copy: Path, classified: Callable[[Path], int], name: str) -> None:
    path = parts.part_path(copy / "parts", 0)
    rewritten(path, **PARTS[name](parts.read(copy / "parts", 0, ["nucleotide", "protein", "failed"])))
    assert classified(copy) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threads", "many"),
        ("threads", 10**9),
        ("threads", 65536),
        ("device", "tpu"),
        ("embedding_dtype", "O"),
        ("token_budget", True),
    ],
)
def test_decisions_that_no_run_takes_are_refused(
    copy: Path, classified: Callable[[Path], int], field: str, value: object
) -> None:
    run = json.loads((copy / "run.json").read_text())
    run["decisions"][field] = value
    (copy / "run.json").write_text(json.dumps(run))
    assert classified(copy) == 2


def test_links_in_a_run_folder_are_not_followed(
    copy: Path, seeds: Seeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    part, outside = parts.part_path(copy / "parts", 0), tmp_path / "outside.h5"
    part.rename(outside)
    part.symlink_to(outside)
    assert exit_code(monkeypatch, "verify", copy) == 6
    assert "is a symbolic link" in capfd.readouterr().err
    for name, target in (("logs/rank00000.log", "victim.txt"), ("progress.jsonl", "victim.jsonl")):
        (copy / name).unlink()
        (tmp_path / target).write_text("mine")
        (copy / name).symlink_to(tmp_path / target)
    arguments = ("classify", copy, "--classifier", seeds.classifier, "--progress", "none")
    assert exit_code(monkeypatch, *arguments) == 6
    (copy / "logs" / "rank00000.log").unlink()
    exit_code(monkeypatch, *arguments)
    assert (tmp_path / "victim.txt").read_text() == (tmp_path / "victim.jsonl").read_text() == "mine"
    shutil.move(copy / "parts", tmp_path / "parts")
    (copy / "parts").symlink_to(tmp_path / "parts")
    assert exit_code(monkeypatch, *arguments) == 2
    assert "is a symbolic link" in capfd.readouterr().err
    models = ("--nucleotide-model", seeds.nucleotide, "--protein-model", seeds.protein)
    limits = ("--dtype", "float32", "--threads", 1, "--progress", "none", "--reuse", copy)
    contigs = seeds.run.parent / "contigs.fa"
    for refusing in (("verify", copy), ("embed", contigs, "-o", tmp_path / "new", *models, *limits)):
        assert exit_code(monkeypatch, *refusing) in (2, 6)
        assert "parts: is a symbolic link" in capfd.readouterr().err


def test_letters_that_turn_text_around_are_in_tables_and_not_in_messages(
    seeds: Seeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    turned, formula = "gnp\u202eg\u2066x\u200f", '=HYPERLINK("x")'
    source = tmp_path / f"{turned}.fa"
    source.write_text(f">{turned}\nACGTACGTA\n>{formula} @SUM\nACGTACGTA\n>+1 -1\nACGTACGTA\n")
    options = ("--nucleotide-model", seeds.nucleotide, "--threads", 1, "--progress", "log")
    assert exit_code(monkeypatch, "embed", source, "-o", tmp_path / turned, *options) == 0
    with open(tmp_path / turned / "sequences.tsv", encoding="utf-8") as file:
        names = [line.split("\t")[0] for line in file][1:]
    assert names == [turned, formula, "+1"]
    source.write_text(f">{turned}\nACGTAMNOPQ\n")
    for arguments, code in (
        (("embed", source, "-o", tmp_path / "wrong", *options), 3),
        (("verify", tmp_path / turned), 0),
        (("download", tmp_path / turned), 0),
        (("plan", source), 3),
        (("classify", tmp_path / turned, "--classifier", tmp_path / turned), 4),
        (("watch", tmp_path / turned / turned), 6),
    ):
        assert exit_code(monkeypatch, *arguments) == code
    shown = "".join(capfd.readouterr())
    assert shown.count("gnp g x ") >= 4
    assert not [letter for letter in shown if letter != "\n" and not letter.isprintable()]


@pytest.mark.timeout(600)
def test_pipes_in_a_run_folder_hang_nobody(
    copy: Path, seeds: Seeds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("parts/unit-000000.h5", "tokens/store.json", "progress.jsonl", "sequences.tsv", "run.json", "lock"):
        (copy / name).unlink(missing_ok=True)
        os.mkfifo(copy / name)
        assert exit_code(monkeypatch, "verify", copy) in (0 if name in ("progress.jsonl", "lock") else 6, 6)
    assert exit_code(monkeypatch, "classify", copy, "--classifier", seeds.classifier) == 6
    assert exit_code(monkeypatch, "watch", copy) == 6
    os.mkfifo(tmp_path / "reads.fa")
    model = ("--nucleotide-model", seeds.nucleotide)
    assert exit_code(monkeypatch, "embed", tmp_path / "reads.fa", "-o", tmp_path / "new", *model) == 3


def test_nothing_that_a_terminal_obeys_reaches_it(
    copy: Path, seeds: Seeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    last = json.loads((copy / "progress.jsonl").read_text().splitlines()[-1])
    (copy / "progress.jsonl").write_text(json.dumps(last | {"ended": ESCAPE}) + "\n")
    shown = io.StringIO()
    watch(copy, shown, follow=False)
    run = json.loads((copy / "run.json").read_text())
    run["decisions"]["input"][0][0] = ESCAPE
    (copy / "run.json").write_text(json.dumps(run))
    contigs = seeds.run.parent / "contigs.fa"
    options = ("--nucleotide-model", seeds.nucleotide, "--progress", "log")
    assert exit_code(monkeypatch, "embed", contigs, "-o", copy, *options) == 2
    source = tmp_path / f"{ESCAPE}.fa"
    source.write_text(">x\nACGTAMNOPQ\n")
    assert exit_code(monkeypatch, "embed", source, "-o", tmp_path / "new", *options) == 3
    named = tmp_path / ESCAPE
    shutil.copytree(copy, named)
    (parts.part_path(named / "parts", 0)).write_bytes(b"nothing")
    assert exit_code(monkeypatch, "verify", named) == 6
    output = shown.getvalue() + capfd.readouterr().err + (tmp_path / "new" / "logs" / "rank00000.log").read_text()
    assert output.count("owned") >= 4
    assert not [letter for letter in output if letter in "\x1b\x07\x9b"]


def test_a_name_that_is_no_utf_8_is_refused_before_anything_is_written(seeds: Seeds, tmp_path: Path) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.fa")
    shutil.copy(seeds.run.parent / "contigs.fa", source)
    with pytest.raises(UsageError, match=r"input .*udcff\.fa: the name is not UTF-8"):
        Settings(inputs=(source,), output=tmp_path / "run", nucleotide_model=str(seeds.nucleotide), progress="none")
    with pytest.raises(UsageError, match=r"--output .*: the name is not UTF-8"):
        Settings(inputs=("a.fa",), output=Path(source), nucleotide_model=str(seeds.nucleotide), progress="none")


# HDF5 with false sizes, links and filters


def test_claims_of_terabytes_are_refused_without_allocating(tmp_path: Path) -> None:
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = hdf5_files.FORMAT_VERSION
        file.create_dataset("packed", (1 << 40,), "u1", chunks=(1 << 20,), compression="gzip")
        file.create_dataset("absent", (1 << 42,), "u1")
        file.create_dataset("texts", (3,), h5py.string_dtype())
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT8, h5py.h5s.create_simple((4,)), dcpl=compact)
        file["group/inner"] = np.zeros(3)
    tracemalloc.start()
    try:
        with hdf5_files.opened(path) as file:
            for name in ("packed", "absent", "texts", "compact", "group", "group/inner/x"):
                for read in (hdf5_files.read, hdf5_files.map_dataset):
                    with pytest.raises(DamagedFile, match=name):
                        read(file, name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_attributes_that_are_references_arrays_or_texts_in_a_heap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "attributes.h5"
    for value in ("in a heap", np.zeros(3), h5py.Empty("f4")):
        with h5py.File(path, "w") as file:
            file.attrs["format_version"] = hdf5_files.FORMAT_VERSION
            file.attrs["plan"] = value
        with hdf5_files.opened(path) as file, pytest.raises(DamagedFile, match="attribute plan"):
            hdf5_files.attributes(file)
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = hdf5_files.FORMAT_VERSION
        file.attrs["plan"] = file.ref
    with hdf5_files.opened(path) as file, pytest.raises(DamagedFile, match="attribute plan"):
        hdf5_files.attributes(file)


def test_a_link_to_another_file_is_not_opened_to_see_whether_it_is_there(tmp_path: Path) -> None:
    path, other = tmp_path / "link.h5", tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["a"] = np.zeros(3)
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = hdf5_files.FORMAT_VERSION
        file["a"] = h5py.ExternalLink("other.h5", "/a")
    opened: list[str] = []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    with hdf5_files.opened(path) as file:
        assert file["a"].shape == (3,)  # HDF5 itself would follow it
        assert not hdf5_files.has(file, "a")


# Input that decompresses to much more


def endless(path: Path, start: bytes, letters: bytes, total: int, pack: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(pack(start + letters * (total // len(letters))))
    return path


@pytest.mark.parametrize(
    ("start", "letters", "pack"),
    [
        (b">x\n", b"A", gzip.compress),
        (b">x\n", b"A", bz2.compress),
        (b">x\n", b"A", lambda content: lzma.compress(content, preset=0)),
        (b">x\n", b"AC\n", gzip.compress),
        (b">", b"x", gzip.compress),
        (b">x\n", b"\n", gzip.compress),
        (b"@x\n", b"A", gzip.compress),
        (b"@", b"x", gzip.compress),
        (b"@x\nA\nC\n+\nII\n@y\n", b"AC\n", gzip.compress),
        (b"@x\nA\nC\n+\nII\n@y\nA\nC\n+\n", b"I", gzip.compress),
    ],
    ids=[
        *("gz", "bz2", "xz", "short lines", "a header", "blank lines", "a read", "a read's name"),
        *("a wrapped read", "a wrapped read's qualities"),
    ],
)
def test_a_record_without_an_end_is_refused_with_memory_for_what_is_allowed(
    start: bytes, letters: bytes, pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1 << 21
    monkeypatch.setattr(records, "LONGEST_RECORD", limit)
    monkeypatch.setattr(fastq, "LONGEST_LINE", limit)
    path = endless(tmp_path / "bomb", start, letters, 16 * limit, pack)
    assert path.stat().st_size < limit / 8
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"takes more than 2 MiB|has more than 2 MiB"):
            list(read_records([path]))
        assert tracemalloc.get_traced_memory()[1] < 9 * limit
    finally:
        tracemalloc.stop()


def test_a_file_of_zeros_is_refused_at_its_first_bytes(tmp_path: Path) -> None:
    path = endless(tmp_path / "zeros.gz", b"", b"\0", 1 << 26, gzip.compress)
    with pytest.raises(InputError, match="binary data"):
        list(read_records([path]))


def test_long_records_within_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST_RECORD", 1 << 20)
    path = tmp_path / "x.fa"
    for ending in ("\n", "\r\n", "\r"):
        path.write_bytes(f">a{ending}{'ACGT' * 150_000}{ending}>b{ending}".encode() * 5)
        assert [len(record.sequence) for record in read_records([path])] == [600_000, 0] * 5


def test_a_header_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_text(f">a {'x' * records.LONGEST_HEADER}\nACGT\n")
    with pytest.raises(InputError, match="a header has"):
        list(read_records([path]))


def test_headers_alone_end_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "BLOCK_TEXT", 1000)
    path = tmp_path / "x.fa"
    path.write_text("".join(f">{n} {'x' * 100}\n\n" for n in range(50)))
    blocks = list(token_store.read_blocks([path], 500))
    assert len(blocks) == 5
    assert sum(len(block.names) for block in blocks) == 50


def test_an_xz_header_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(b">x\nACGT\n", lzma.FORMAT_XZ))
    size = (packed[12] + 1) * 4  # of the block's header, which ends with its checksum
    position = packed.index(b"\x21\x01", 12, 12 + size) + 2  # LZMA2, one byte of properties: the dictionary's size
    packed[position] = 40  # 4 GiB
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    path = tmp_path / "x.fa.xz"
    path.write_bytes(packed)
    assert lzma.decompress(packed) == b">x\nACGT\n"  # xz itself accepts it
    assert WINDOW_BITS < 32
    with pytest.raises(InputError, match="takes too much memory"):
        list(read_records([path]))


def test_a_zst_header_that_asks_for_gigabytes_is_refused(tmp_path: Path) -> None:
    content = b">x\nACGT\n"
    window = bytes([(31 - 10) << 3])  # 2 GiB
    block = ((len(content) << 3) | 1).to_bytes(3, "little") + content  # the last block, raw
    path = tmp_path / "x.fa.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" + window + block)
    with pytest.raises(InputError, match="takes too much memory"):
        list(read_records([path]))
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" + bytes([10 << 3]) + block)  # 1 MiB
    assert [record.sequence for record in read_records([path])] == [b"ACGT"]


# Classifiers


def test_a_pickle_nested_deeper_than_the_stack_is_refused(
    readers: dict[str, Target], audit: AuditHook, tmp_path: Path
) -> None:
    nested = b"\x80\x02})" + b"\x85" * 600_000 + b"K\x01s."  # a tuple in a tuple in ... as a key: hashing it recurses
    readers["pickle"](nested, tmp_path, audit)
    readers["pickle"](b"\x80\x02})" + b"\x85" * 32_000 + b"K\x01s.", tmp_path, audit)


def test_the_watch_would_notice_code(audit: AuditHook, tmp_path: Path) -> None:
    target = Target(lambda content, folder: pickle.loads(content), (Exception,), ())
    with pytest.raises(CodeExecuted):
        target(pickle.dumps(Payload(os.mkdir, str(tmp_path / "made"))), tmp_path, audit)
    assert not (tmp_path / "made").exists()


# The long form


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_the_coverage_guided_fuzzer_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="needs atheris: pip install -c constraints.txt -e '.[fuzz]'")
    command = [sys.executable, "-m", "scripts.checks.fuzz", "--seconds", "60", "--keep", str(tmp_path / "findings")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_megabyte_that_unfolds_to_gigabytes_is_refused_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.fa.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b">x\n")
        for _ in range(2500):
            file.write(b"A" * (1 << 20))
    assert path.stat().st_size < 1 << 24
    with pytest.raises(InputError, match="takes more than 2048 MiB"):
        list(read_records([path]))


def test_a_message_about_a_name_of_a_million_letters_is_short(
    seeds: Seeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "n" * (records.LONGEST_HEADER - 1)
    source, model = tmp_path / "x.fa", ("--nucleotide-model", seeds.nucleotide, "--progress", "log")
    source.write_text(f">{name}\nACGTAMNOPQ\n")
    assert exit_code(monkeypatch, "embed", source, "-o", tmp_path / "wrong", *model) == 3
    source.write_text(f">{name}\nACGT\n>{name}\nACGT\n")
    assert exit_code(monkeypatch, "embed", source, "-o", tmp_path / "twice", *model) == 0
    run = json.loads((tmp_path / "twice" / "run.json").read_text())
    run["decisions"]["input"][0] = [name, 1, 1, name]
    (tmp_path / "twice" / "run.json").write_text(json.dumps(run))
    assert exit_code(monkeypatch, "embed", source, "-o", tmp_path / "twice", *model) == 2
    assert "nnn" in (output := capfd.readouterr().err)
    assert len(output) < 20_000
    for folder in ("wrong", "twice"):
        assert (tmp_path / folder / "status.json").stat().st_size < 10_000
        assert (tmp_path / folder / "logs" / "rank00000.log").stat().st_size < 1 << 23
