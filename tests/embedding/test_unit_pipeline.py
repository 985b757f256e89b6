"""One unit: its embeddings do not depend on memory or overflow; what cannot be embedded is marked, nothing else."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vpdist.embedding.unit_pipeline import Pipeline, UnitWork
from vpdist.errors import Interrupted, StorageError
from vpdist.planning.plan import EncoderCost, FragmentKeys, Limits, Plan, build
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
) -> UnitWork:
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
        float32_fallback=wide,  # type: ignore[arg-type]
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
