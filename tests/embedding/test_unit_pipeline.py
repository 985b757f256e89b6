"""One unit: its embeddings do not depend on memory or overflow; what cannot be embedded is marked, nothing else."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fake_gpus import fake_gpus
from vpdist.embedding.unit_pipeline import Pipeline, UnitWork, _scores
from vpdist.embedding.wider_formats import WiderEncoders, wider_formats
from vpdist.errors import Interrupted, StorageError
from vpdist.monitoring.counters import SCORE_BINS
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Limits, Plan, build
from vpdist.ragged import Ragged
from vpdist.results import parts
from vpdist.results.parts import PartHeader

COST = EncoderCost(linear=10**6, attention=10**3)
N = 24


class StubEncoder:
    """Embeds a sequence as (its first token, its length); may refuse batches or overflow, as told."""

    width = 2
    device = torch.device("cpu")

    def __init__(self, kind: str, dtype: torch.dtype, most_rows: int = 1000, bad: set[int] | None = None) -> None:
        self.kind, self.dtype, self.most_rows, self.bad = kind, dtype, most_rows, bad or set()
        self.calls: list[int] = []

    def padding(self, lengths: np.ndarray) -> int:
        return 0

    def operations(self, lengths: np.ndarray) -> int:
        return 700_000 * len(lengths)

    def embed(self, tokens: Ragged) -> torch.Tensor:
        self.calls.append(len(tokens))
        first = tokens.flat[tokens.offsets[:-1]].astype(np.float32)
        if len(first) > self.most_rows or (self.most_rows == 0):
            raise torch.OutOfMemoryError("CUDA out of memory")
        first[np.isin(first, list(self.bad))] = np.inf
        return torch.from_numpy(np.stack([first, tokens.lengths.astype(np.float32)], axis=1))


class StubShards:
    """One unit's tokens: sequence i is i, i, ... of length 5."""

    def unit(self, unit: int) -> dict[str, Ragged]:
        tokens = Ragged.from_lengths(np.repeat(np.arange(N), 5).astype(np.uint16), [5] * N)
        return {"nucleotide": tokens, "protein": tokens}


@pytest.fixture
def plan() -> Plan:
    keys = FragmentKeys(
        residues=np.full(N, 3),
        tokens={"nucleotide": np.full(N, 5), "protein": np.full(N, 5)},
        nucleotide_hash=np.arange(N, dtype=np.uint64) << np.uint64(40),
        protein_hash=np.zeros(N, np.uint64),
    )
    plan = build(
        keys, Limits(token_budget=1000, unit_cost=10**12, unit_rows=1000), {"nucleotide": COST, "protein": COST}
    )
    assert plan.n_units == 1
    return plan


def work_of(
    plan: Plan,
    folder: Path,
    encoder: Callable[[str], StubEncoder],
    wide: Callable[[str], StubEncoder],
    formats: tuple[torch.dtype, ...] = (torch.float32,),
) -> UnitWork:
    if encoder("nucleotide").dtype == torch.float32:
        formats = ()
    wider = WiderEncoders(formats, lambda kind, dtype: wide(kind), lambda kind, dtype: None)  # type: ignore[arg-type,return-value]
    header = PartHeader(
        plan=plan.digest(),
        dtype="float16",
        embedding_dtype="float32",
        threads=1,
        models={"nucleotide": "n", "protein": "p"},
        classifier="",
        embeddings=True,
    )
    return UnitWork(
        plan=plan,
        shards=StubShards(),  # type: ignore[arg-type]
        files={},
        encoders={kind: encoder(kind) for kind in ("nucleotide", "protein")},  # type: ignore[misc]
        wider=wider,
        classifier=None,
        header=header,
        token_budget=60,
        stored=np.dtype(np.float32),
        folder=folder,
    )


def run(
    plan: Plan, folder: Path, encoder: Callable[[str], StubEncoder], wide: Callable[[str], StubEncoder]
) -> tuple[dict[str, np.ndarray], int, Counter[str]]:
    counted: Counter[str] = Counter()
    with Pipeline(work_of(plan, folder, encoder, wide), lambda **counters: counted.update(counters)) as pipeline:
        pipeline.run(0)
    return parts.read(folder, 0, ["nucleotide", "protein", "failed"]), pipeline.failures, counted


def no_retry(kind: str) -> StubEncoder:
    raise AssertionError(f"{kind}: nothing should be retried")


def test_every_row_of_a_unit_is_embedded_and_counted(plan: Plan, tmp_path: Path) -> None:
    found, n_failed, counted = run(plan, tmp_path, lambda kind: StubEncoder(kind, torch.float16), no_retry)
    assert found["nucleotide"][:, 0].tolist() == list(range(N))
    assert found["protein"][:, 1].tolist() == [5.0] * N
    assert n_failed == 0
    assert (counted["nucleotide_tokens"], counted["protein_tokens"]) == (5 * N, 5 * N)
    assert (counted["units"], counted["fragments"], counted["batches"]) == (1, N, 4)
    assert counted["work_mflop"] == 2 * N * 700_000 // 10**6, "what a batch does beside a million is not lost"


def test_rows_are_counted_by_their_virus_score() -> None:
    probabilities = np.array([0.01, 0.124, 0.126, 0.49, 0.51, 0.99, 1.0])
    logits = np.stack([np.zeros(7), np.log(probabilities / np.maximum(1e-12, 1 - probabilities))], axis=1)
    failed = np.array([[np.nan, np.nan]])
    counted = _scores(np.concatenate([logits, failed]).astype(np.float32))
    assert [counted[name] for name in SCORE_BINS] == [2, 1, 0, 1, 1, 0, 0, 2]
    assert _scores(None) == {}


def test_a_batch_that_does_not_fit_is_halved_until_it_does(plan: Plan, tmp_path: Path) -> None:
    encoders = {kind: StubEncoder(kind, torch.float16, most_rows=3) for kind in ("nucleotide", "protein")}
    found, n_failed, _ = run(plan, tmp_path, encoders.__getitem__, no_retry)
    assert found["nucleotide"][:, 0].tolist() == list(range(N))
    assert n_failed == 0
    assert max(encoders["protein"].calls) == 12
    assert min(encoders["protein"].calls) == 3


def test_a_sequence_that_fits_nowhere_fails_and_says_so(
    plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, n_failed, counted = run(
        plan,
        tmp_path,
        lambda kind: StubEncoder(kind, torch.float16, most_rows=0 if kind == "protein" else 1000),
        lambda kind: StubEncoder(kind, torch.float32, most_rows=0),
    )
    assert n_failed == N == counted["failures"]
    assert found["failed"].all()
    assert "out of memory" in caplog.text


def test_rows_that_overflow_are_retried_in_float32_and_no_others(plan: Plan, tmp_path: Path) -> None:
    wide = {kind: StubEncoder(kind, torch.float32) for kind in ("nucleotide", "protein")}
    found, n_failed, _ = run(
        plan, tmp_path, lambda kind: StubEncoder(kind, torch.float16, bad={4, 7}), wide.__getitem__
    )
    assert found["nucleotide"][:, 0].tolist() == list(range(N))
    assert n_failed == 0
    assert wide["nucleotide"].calls == [2]


def test_rows_that_overflow_fail_where_float32_does_not_fit(
    plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(kind: str) -> StubEncoder:
        raise torch.OutOfMemoryError("CUDA out of memory")

    found, n_failed, _ = run(plan, tmp_path, lambda kind: StubEncoder(kind, torch.float16, bad={4}), too_large)
    assert n_failed == 1
    assert np.flatnonzero(found["failed"]).tolist() == [4]
    assert "no memory for the protein encoder in float32" in caplog.text


def test_what_stays_infinite_in_float32_has_failed_and_leaves_the_rest_alone(plan: Plan, tmp_path: Path) -> None:
    found, n_failed, _ = run(
        plan,
        tmp_path,
        lambda kind: StubEncoder(kind, torch.float16, bad={4}),
        lambda kind: StubEncoder(kind, torch.float32, bad={4}),
    )
    assert n_failed == 1
    assert np.flatnonzero(found["failed"]).tolist() == [4]
    assert np.delete(found["nucleotide"][:, 0], 4).tolist() == [i for i in range(N) if i != 4]


def test_a_float32_run_has_nothing_wider_to_retry_in(plan: Plan, tmp_path: Path) -> None:
    _, n_failed, _ = run(plan, tmp_path, lambda kind: StubEncoder(kind, torch.float32, bad={4}), no_retry)
    assert n_failed == 1


class WiderStubs(WiderEncoders):
    """Encoders that overflow at some rows in some formats; `log` says what is loaded and released."""

    def __init__(self, **bad: set[int]) -> None:
        self.log: list[str] = []
        self.made: dict[str, StubEncoder] = {}

        def load(kind: str, dtype: torch.dtype) -> StubEncoder:
            name = f"{kind} {dtype}".replace("torch.", "")
            self.log.append(f"load {name}")
            self.made[name] = StubEncoder(kind, dtype, bad=bad.get(f"{dtype}".removeprefix("torch."), set()))
            return self.made[name]

        def release(kind: str, dtype: torch.dtype) -> None:
            self.log.append(f"release {kind} {dtype}".replace("torch.", ""))

        super().__init__((torch.bfloat16, torch.float32), load, release)  # type: ignore[arg-type]


def run_with(
    wider: WiderStubs, plan: Plan, folder: Path, units: int = 1, stored: type[np.floating] = np.float32
) -> dict[str, np.ndarray]:
    """The part of a unit in which row 4 overflows float16 in the protein encoder, computed so many times."""
    work = work_of(
        plan, folder, lambda kind: StubEncoder(kind, torch.float16, bad={4} if kind == "protein" else set()), no_retry
    )
    header = replace(work.header, embedding_dtype=np.dtype(stored).name)
    with Pipeline(replace(work, wider=wider, stored=np.dtype(stored), header=header), lambda **_: None) as pipeline:
        for _ in range(units):
            pipeline.run(0)
    return parts.read(folder, 0, ["protein", "failed"])


def test_bfloat16_is_tried_first_and_kept_and_float32_is_not_loaded_where_that_is_enough(
    plan: Plan, tmp_path: Path
) -> None:
    wider = WiderStubs()
    found = run_with(wider, plan, tmp_path, units=2)
    assert found["protein"][:, 0].tolist() == list(range(N))
    assert not found["failed"].any()
    assert wider.log == ["load protein bfloat16"]
    assert wider.made["protein bfloat16"].calls == [1, 1]


def test_float32_is_tried_last_and_released_after_every_unit(plan: Plan, tmp_path: Path) -> None:
    wider = WiderStubs(bfloat16={4})
    found = run_with(wider, plan, tmp_path, units=2)
    assert found["protein"][:, 0].tolist() == list(range(N))
    assert not found["failed"].any()
    single = ["load protein float32", "release protein float32"]
    assert wider.log == ["load protein bfloat16", *single, *single]


def test_only_rows_that_overflow_bfloat16_too_are_computed_in_float32(plan: Plan, tmp_path: Path) -> None:
    wider = WiderStubs(bfloat16={7})
    work = work_of(plan, tmp_path, lambda kind: StubEncoder(kind, torch.float16, bad={4, 7, 9}), no_retry)
    with Pipeline(replace(work, wider=wider), lambda **_: None) as pipeline:
        pipeline.run(0)
    assert parts.read(tmp_path, 0, ["protein"])["protein"][:, 0].tolist() == list(range(N))
    assert wider.made["protein bfloat16"].calls == [3]
    assert wider.made["protein float32"].calls == [1]


def test_what_only_storage_cannot_hold_loads_no_wider_encoder(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite embedding beyond float16 fails in a run that stores float16, whichever encoder made it."""
    wider, embed = WiderStubs(), StubEncoder.embed

    def large(encoder: StubEncoder, tokens: Ragged) -> torch.Tensor:
        found = embed(encoder, tokens)
        return found * 1e6 if encoder.dtype == torch.bfloat16 else found

    monkeypatch.setattr(StubEncoder, "embed", large)
    with np.errstate(over="ignore"):
        found = run_with(wider, plan, tmp_path, stored=np.float16)
    assert np.flatnonzero(found["failed"]).tolist() == [4]
    assert wider.log == ["load protein bfloat16"]


def test_encoders_in_wider_formats_make_room_where_a_batch_does_not_fit(plan: Plan, tmp_path: Path) -> None:
    wider = WiderStubs()
    work = work_of(plan, tmp_path, lambda kind: StubEncoder(kind, torch.float16, most_rows=6, bad={4}), no_retry)
    with Pipeline(replace(work, wider=wider), lambda **_: None) as pipeline:
        for _ in range(2):
            pipeline.run(0)
    assert wider.log.count("load protein bfloat16") == wider.log.count("release protein bfloat16") + 1 == 2


@pytest.mark.parametrize(
    ("dtype", "capability", "formats"),
    [
        (torch.float16, (8, 0), (torch.bfloat16, torch.float32)),
        (torch.float16, (7, 5), (torch.float32,)),
        (torch.bfloat16, (8, 0), (torch.float32,)),
        (torch.float32, (8, 0), ()),
    ],
)
def test_formats_are_tried_in_the_order_of_their_size(
    dtype: torch.dtype,
    capability: tuple[int, int],
    formats: tuple[torch.dtype, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpus(monkeypatch, capability=capability)
    assert wider_formats(dtype, torch.device("cuda", 0)) == formats
    assert wider_formats(torch.bfloat16, torch.device("cpu")) == (torch.float32,)


def plain(kind: str) -> StubEncoder:
    return StubEncoder(kind, torch.float16)


class CudaStubEncoder(StubEncoder):
    """The same on the GPU."""

    device = torch.device("cuda")

    def embed(self, tokens: Ragged) -> torch.Tensor:
        return super().embed(tokens).to(self.device)


def test_units_written_while_the_next_is_computed_are_the_same_files(plan: Plan, tmp_path: Path) -> None:
    counts = {}
    for overlap in (False, True):
        folder, counted = tmp_path / str(overlap), Counter[str]()
        folder.mkdir()
        work = work_of(plan, folder, plain, no_retry)
        with Pipeline(work, lambda counted=counted, **counters: counted.update(counters), overlap=overlap) as pipeline:
            for _ in range(3):
                pipeline.run(0)
        counts[overlap] = {name: n for name, n in counted.items() if not name.endswith("_us")}
    assert counts[True] == counts[False]
    assert counts[True]["units"] == 3
    assert parts.part_path(tmp_path / "True", 0).read_bytes() == parts.part_path(tmp_path / "False", 0).read_bytes()


@pytest.mark.parametrize("overlap", [False, True])
def test_a_part_that_cannot_be_written_ends_the_run_with_its_path(plan: Plan, tmp_path: Path, overlap: bool) -> None:
    absent = tmp_path / "absent"
    with (
        pytest.raises(StorageError, match=str(absent)),
        Pipeline(work_of(plan, absent, plain, no_retry), lambda **_: None, overlap=overlap) as pipeline,
    ):
        pipeline.run(0)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_request_to_stop_leaves_no_half_written_part(plan: Plan, tmp_path: Path, overlap: bool) -> None:
    reports: list[dict[str, int]] = []

    def stop_in_the_second_unit(**counters: int) -> None:
        reports.append(counters)
        if sum("load_us" in report for report in reports) == 2:
            raise Interrupted("stopped")

    work = work_of(plan, tmp_path, plain, no_retry)

    def two_units() -> None:
        with Pipeline(work, stop_in_the_second_unit, overlap=overlap) as pipeline:
            pipeline.run(0)
            pipeline.run(0)

    with pytest.raises(Interrupted):
        two_units()
    left = [path.name for path in tmp_path.iterdir()]
    assert left in ([], ["unit-000000.h5"])
    if left:
        parts.check(tmp_path, 0, plan, work.header, full=True)


@pytest.mark.cuda
def test_units_that_leave_a_gpu_on_a_stream_of_their_own_are_the_same_files(plan: Plan, tmp_path: Path) -> None:
    for name, encoder in (("cpu", StubEncoder), ("cuda", CudaStubEncoder)):
        (tmp_path / name).mkdir()
        work = work_of(
            plan, tmp_path / name, lambda kind, made=encoder: made(kind, torch.float16, bad={4}), wide_of(encoder)
        )
        with Pipeline(work, lambda **_: None) as pipeline:
            for _ in range(3):
                pipeline.run(0)
    assert parts.part_path(tmp_path / "cuda", 0).read_bytes() == parts.part_path(tmp_path / "cpu", 0).read_bytes()


def wide_of(encoder: type[StubEncoder]) -> Callable[[str], StubEncoder]:
    return lambda kind: encoder(kind, torch.float32)
