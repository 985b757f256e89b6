"""Readers of untrusted files, each as a function of bytes, for the fuzzers.

A target returns, or raises what its module documents; any other exception is a finding. So is an attempt to execute
code, which `AuditHook` detects.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from vpdist.commands import resolve_config
from vpdist.display.letters import Letters
from vpdist.display.log_lines import LogLines
from vpdist.display.picture import Scene, picture
from vpdist.display.progress_lines import Reader, changes_json
from vpdist.encoders.native_types import TYPES
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import load_state_dict
from vpdist.errors import InputError, StorageError, UsageError, WeightsError
from vpdist.monitoring.counters import COUNTERS, RankRow, Snapshot
from vpdist.monitoring.facts import RankFacts, RunFacts
from vpdist.planning import plan_file
from vpdist.ragged import Ragged
from vpdist.results import embedding_summary
from vpdist.results.classifier import load_classifier
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.records import read_records
from vpdist.sequences.tokenizers import NucleotideTokenizer, ProteinTokenizer
from vpdist.storage.hdf5_files import DamagedFile, attributes, opened
from vpdist.storage.hdf5_files import read as read_dataset
from vpdist.storage.run_folder import RunFolder

FASTA = b">a first\nACGTNNRY\nacgu\n\n>b\r\nTTAATTAG\r\n# note\n>\n"
FASTQ = b"@a first\nACGTN\n+\nIIIII\n@b\nTT\n+b\n#I\n"
FORBIDDEN = frozenset(("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"))
"""Audit events of code that is executed, or looked up to be executed."""


class CodeExecuted(BaseException):
    """A target executed code of its input. Not an Exception, so that no handler takes it for damage."""


class AuditHook:
    """Raises CodeExecuted on forbidden audit events while `active`. Python cannot remove an audit hook."""

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._check)

    def _check(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.active and event in FORBIDDEN:
            raise CodeExecuted(f"{event} {arguments!r}"[:200])


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, the errors it documents, and valid files to start from."""

    run: Callable[[bytes, Path], None]
    """Reads the content from a file in a folder."""
    documented: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def __call__(self, content: bytes, folder: Path, hook: AuditHook) -> None:
        """Run the reader; raises findings only."""
        hook.active = True
        try:
            self.run(content, folder)
        except self.documented:
            return
        finally:
            hook.active = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """Valid files, which the fuzzers change."""

    nucleotide: Path
    """Folder of a DNABERT-S."""
    protein: Path
    """Folder of an ESM-2."""
    classifier: Path
    pickled: Path
    """A classifier as the original saves it."""
    run: Path
    """A finished run folder."""


SIZES = {
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"), 2),
    **dict.fromkeys(("d_kv", "d_ff", "num_layers", "num_heads", "num_key_value_heads"), 2),
    "hidden_size": 4,
    "d_model": 4,
    "position_embedding_type": "absolute",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
"""Of a tiny encoder, by the names of all model types."""


def targets(seeds: Seeds) -> dict[str, Target]:
    """All targets, by name."""
    classifiers, run = (WeightsError,), seeds.run
    part = next(path for path in sorted((run / "parts").iterdir())).read_bytes()
    config = tuple((folder / "config.json").read_bytes() for folder in (seeds.nucleotide, seeds.protein))
    config += tuple(json.dumps({"model_type": name, **SIZES}).encode() for name in (*TYPES, "esmc"))
    tokenizer, vocabulary = seeds.nucleotide / "tokenizer.json", seeds.protein / "vocab.txt"
    return {
        "records": Target(_records, (InputError,), _sequence_files()),
        "pickle": Target(
            lambda content, folder: _pickle(content, folder, seeds.pickled),
            classifiers,
            (_entry(seeds.pickled, "data.pkl"),),
        ),
        "classifier": Target(_classifier, classifiers, (seeds.pickled.read_bytes(), seeds.classifier.read_bytes())),
        "summary": Target(_summary, classifiers, (_summary_file(),)),
        "config": Target(_config, classifiers, config),
        "tokenizer": Target(_tokenizer, classifiers, (tokenizer.read_bytes(),)),
        "vocabulary": Target(_vocabulary, classifiers, (vocabulary.read_bytes(),)),
        "weights": Target(_weights, classifiers, _weight_files()),
        "part": Target(_datasets, (DamagedFile,), (part,)),
        "block": Target(_block, (DamagedFile,), ((run / "tokens" / "block-000000.h5").read_bytes(),)),
        "plan": Target(_plan, (DamagedFile,), ((run / "tokens" / "plan.h5").read_bytes(),)),
        "run_json": Target(_run_json, (UsageError, StorageError), ((run / "run.json").read_bytes(),)),
        "store_json": Target(_store_json, (), ((run / "tokens" / "store.json").read_bytes(),)),
        "progress": Target(_progress, (ValueError,), (_snapshot().to_json().encode(), _two_lines())),
    }


def _sequence_files() -> tuple[bytes, ...]:
    packed = [pack(FASTA) for pack in (gzip.compress, bz2.compress, lzma.compress)]
    return (FASTA, FASTQ, *packed, gzip.compress(FASTQ))


def _weight_files() -> tuple[bytes, ...]:
    """Two tensors, as safetensors and as PyTorch saves them."""
    state = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    saved = io.BytesIO()
    torch.save(state, saved)
    return (save(state), saved.getvalue())


def _summary_file() -> bytes:
    """A summary of embeddings of two numbers."""
    arrays = {name: torch.ones(2) for name in ("mean", "scale")}
    arrays |= {name: torch.ones(1) for name in ("variances", "noise", "thresholds")}
    arrays |= {"directions": torch.ones(1, 2), "begins": torch.zeros(1, dtype=torch.int32)}
    return save(arrays, {"format": embedding_summary.FORMAT, "kinds": "nucleotide,protein"})


def _entry(archive: Path, name: str) -> bytes:
    with zipfile.ZipFile(archive) as file:
        return file.read(next(entry for entry in file.namelist() if entry.endswith(f"/{name}")))


def _written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _records(content: bytes, folder: Path) -> None:
    for record in read_records([_written(folder, "input", content)]):
        if any(unicodedata.category(letter) == "Cc" for letter in record.name + record.description):
            raise AssertionError(f"a control character in the name {record.name!r}")


def _pickle(content: bytes, folder: Path, original: Path) -> None:
    """`content` as the pickle of an otherwise valid file."""
    path = folder / "classifier.pth"
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith("/data.pkl") else source.read(name))
    load_classifier(path)


def _classifier(content: bytes, folder: Path) -> None:
    load_classifier(_written(folder, "classifier", content))


def _summary(content: bytes, folder: Path) -> None:
    embedding_summary.load_summary(_written(folder, "summary", content))


def _config(content: bytes, folder: Path) -> None:
    encoder_shape(_written(folder, "config.json", content).parent)


def _tokenizer(content: bytes, folder: Path) -> None:
    _written(folder, "tokenizer.json", content)
    NucleotideTokenizer(folder).encode(Ragged.from_lengths(np.frombuffer(b"ACGTACGTNNNA", np.uint8), [11, 1]))


def _vocabulary(content: bytes, folder: Path) -> None:
    (folder / "vocab.txt").unlink(missing_ok=True)
    _written(folder, "tokenizer.json" if content.startswith(b"{") else "vocab.txt", content)
    ProteinTokenizer(folder).encode(Ragged.from_lengths(np.frombuffer(b"MKLV", np.uint8), [4]))


def _weights(content: bytes, folder: Path) -> None:
    name = "pytorch_model.bin" if content.startswith(b"PK") else "model.safetensors"
    for other in ("pytorch_model.bin", "model.safetensors"):
        (folder / other).unlink(missing_ok=True)
    _written(folder, name, content)
    load_state_dict(folder)


def _datasets(content: bytes, folder: Path) -> None:
    with opened(_written(folder, "part.h5", content)) as file:
        attributes(file)
        for name in ("fragment", "row", "failed", "logits", "nucleotide", "protein"):
            read_dataset(file, name)


def _block(content: bytes, folder: Path) -> None:
    block = token_store.read_block(_written(folder, "block.h5", content))
    for text in (*block.names, *block.descriptions):
        if "\x1b" in text:
            raise AssertionError(f"a control character in the name {text!r}")


def _plan(content: bytes, folder: Path) -> None:
    plan_file.map_plan(_written(folder, "plan.h5", content))


def _run_json(content: bytes, folder: Path) -> None:
    _written(folder, "run.json", content)
    resolve_config.recorded_config(RunFolder(folder))


def _store_json(content: bytes, folder: Path) -> None:
    (folder / "tokens").mkdir(exist_ok=True)
    _written(folder, "tokens/store.json", content)
    store_summary.load_summary(RunFolder(folder))


def _progress(content: bytes, folder: Path) -> None:
    first, *others = content.decode().split("\n")
    Snapshot.from_json(first)
    reader, scene, stream = Reader(), Scene(), io.StringIO()
    log = LogLines(stream, first_s=0.0)
    shown = []
    try:
        for snapshot in filter(None, map(reader.read, (first, *others))):
            log.show(snapshot)
            scene.observe(snapshot)
            for width, height in ((30, 5), (79, 14), (199, 36)):
                shown += picture(scene, width, height, snapshot.time + 1, Letters())
    except ValueError as error:
        raise AssertionError(f"a snapshot that cannot be shown: {error}") from error
    if "\x1b" in stream.getvalue() or any("\x1b" in line.plain for line in shown):
        raise AssertionError("a control character in what is shown")


def _snapshot(elapsed: float = 12.5) -> Snapshot:
    zeros = (0,) * len(COUNTERS)
    row = RankRow(0, "running", "embed", 0.5, 1000, 10, False, 1 << 20, -1, (int(elapsed),) * len(COUNTERS), zeros)
    run = RunFacts("predict", ("a.fa",), 1, "RUN", ("float16",), (("start", 0.0), ("embed", 1.0)), ("check",), 9)
    return Snapshot(1e9 + elapsed, elapsed, "round", (row,), None, "", run, (RankFacts("node", 1, "cpu"),))


def _two_lines() -> bytes:
    """A whole line, and one with what has changed since."""
    first, second = _snapshot(), _snapshot(20.5)
    changes, _ = changes_json(first, second, COUNTERS, readings=True)
    return f"{first.to_json()}\n{changes}".encode()
