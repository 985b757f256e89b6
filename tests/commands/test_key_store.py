"""What others set in the ranks' key store changes no number: every rank looks at the files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_classifier, write_dnabert_s
from vpdist.commands import recorded_by_rank_0, resolve_config
from vpdist.commands.predict import predict
from vpdist.commands.recorded_by_rank_0 import DECISIONS
from vpdist.commands.run_inputs import resolve_inputs
from vpdist.config import Settings
from vpdist.distributed.runtime import KeyStore, Runtime
from vpdist.embedding.units_in_progress import two_lists_of_units
from vpdist.environment import LaunchContext
from vpdist.errors import StorageError, WeightsError
from vpdist.planning import plan_file
from vpdist.results.parts import part_header
from vpdist.results.write_results import part_scores
from vpdist.sequences import ingest, store_summary
from vpdist.session.coordination import FAILED, Control, published_failure
from vpdist.session.progress import Progress
from vpdist.session.run_session import _await_mark
from vpdist.session.session import Session
from vpdist.session.signals import StopRequest
from vpdist.storage.run_folder import RunFolder

RANKS = 2


class Pair:
    """Two ranks of a run that share a key store and are asked one after the other."""

    def __init__(self, folder: RunFolder) -> None:
        folder.prepare(restart=False)
        self.folder, store = folder, HashStore()
        self.keys = KeyStore(store, lambda: store)
        self.progress: list[Progress] = []

    def session(self, rank: int) -> Session:
        context = LaunchContext(rank=rank, world_size=RANKS, local_rank=rank, local_world_size=RANKS)
        device = torch.device("cpu")
        control = Control(Runtime(context=context, device=device, keys=self.keys), StopRequest(lambda stopped: 1))
        alone = Runtime(context=LaunchContext(), device=device, keys=self.keys)
        self.progress.append(Progress(alone, "none", None, None))
        return Session(control, self.folder, self.progress[-1])

    def end(self) -> None:
        for progress in self.progress:
            progress.abort("the test ends")


@pytest.fixture
def settings(models: TinyModels, tmp_path: Path) -> Settings:
    return models.settings(write_contigs(tmp_path / "contigs.fa", n=12), tmp_path / "run")


@pytest.fixture
def pair(settings: Settings) -> Iterator[Pair]:
    """Rank 0 has resolved and recorded its inputs."""
    pair = Pair(RunFolder(settings.output))
    resolve_inputs(settings, pair.session(0))
    yield pair
    pair.end()


def test_the_other_ranks_resolve_what_rank_0_has_recorded(pair: Pair, settings: Settings, models: TinyModels) -> None:
    inputs = resolve_inputs(replace(settings, min_length=7), pair.session(1))
    assert inputs.resolved.min_length == 0
    assert inputs.resolved == resolve_config.recorded_config(pair.folder)
    assert inputs.models == {"nucleotide": models.nucleotide, "protein": models.protein}


def test_where_a_model_lies_is_not_taken_from_the_store(
    pair: Pair, settings: Settings, models: TinyModels, tmp_path: Path
) -> None:
    pair.keys.set("model/0/nucleotide", str(write_dnabert_s(tmp_path / "other", seed=9)))
    assert resolve_inputs(settings, pair.session(1)).models["nucleotide"] == models.nucleotide


def other_encoder(settings: Settings, folder: Path) -> Settings:
    return replace(settings, nucleotide_model=str(write_dnabert_s(folder / "other", seed=9)))


def other_classifier(settings: Settings, folder: Path) -> Settings:
    return replace(settings, classifier=write_classifier(folder / "other.safetensors", seed=9))


def no_classifier(settings: Settings, folder: Path) -> Settings:
    return replace(settings, classifier=None)


def one_encoder(settings: Settings, folder: Path) -> Settings:
    return replace(settings, classifier=None, protein_model=None)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (other_encoder, "rank 1: .*other is another nucleotide model than the one in .*run.json"),
        (other_classifier, "rank 1: the classifier is another one than the one in .*run.json"),
        (no_classifier, "rank 1: the classifier is another one"),
        (one_encoder, "rank 1: has no protein model, which .*run.json names"),
    ],
)
def test_every_rank_compares_what_it_will_load_with_run_json(
    pair: Pair, settings: Settings, tmp_path: Path, other: Callable[[Settings, Path], Settings], told: str
) -> None:
    with pytest.raises(WeightsError, match=told):
        resolve_inputs(other(settings, tmp_path), pair.session(1))


def test_another_configuration_in_the_store_is_refused(
    pair: Pair, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_by_rank_0, "VISIBLE_WITHIN_S", 0.0)
    forged = resolve_config.recorded_config(pair.folder)
    assert forged is not None
    pair.keys.set(DECISIONS, replace(forged, dtype="bfloat16").to_json())
    with pytest.raises(
        WeightsError, match=r"rank 1: the configuration in .*run\.json is another one than the ranks' key"
    ):
        resolve_inputs(settings, pair.session(1))


def test_an_older_run_json_that_a_rank_still_sees_is_waited_out(
    pair: Pair, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = pair.folder.run.read_bytes()
    pair.folder.run.write_text(json.dumps({"decisions": {"chunk_length": 300}}))

    def look_again(seconds: float) -> None:
        pair.folder.run.write_bytes(newest)

    monkeypatch.setattr("vpdist.session.coordination.time.sleep", look_again)
    assert resolve_inputs(settings, pair.session(1)).resolved.chunk_length == settings.bases_per_chunk


@pytest.mark.parametrize(
    "text", ["", "{}", "5", "[[0]]", "[[0], [0]]", "[[2], []]", "[[-1], []]", '[["0"], []]', "[[true], []]"]
)
def test_units_left_that_are_none_of_the_plan_are_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="are not units of the plan"):
        two_lists_of_units(text, 2)


def test_units_left_are_two_lists() -> None:
    assert two_lists_of_units("[[1], [0]]", 2) == ([1], [0])


@pytest.mark.parametrize(
    "text", ["", "5", "[]", '{"rank": 1}', '{"rank": 1, "exit_code": 0, "message": "all is well"}']
)
def test_no_failure_in_the_store_ends_a_run_well(text: str, tmp_path: Path) -> None:
    keys = Pair(RunFolder(tmp_path / "run")).keys
    keys.set(FAILED, text)
    failure = published_failure(keys)
    assert failure is not None
    assert failure.exit_code == 1


@pytest.mark.parametrize("name", ["run.json", "/etc/passwd", ".seen-by-all-", ".seen-by-all-1-2x"])
def test_no_other_file_stands_for_the_mark_of_rank_0(name: str, tmp_path: Path) -> None:
    (tmp_path / Path(name).name).touch()
    with pytest.raises(StorageError, match="is not the name of a mark"):
        _await_mark(tmp_path / Path(name).name)


def test_a_part_of_another_configuration_reaches_no_table_though_all_have_checked_it(settings: Settings) -> None:
    assert predict(settings) == 0
    folder = RunFolder(settings.output)
    recorded, summary = resolve_config.recorded_config(folder), store_summary.load_summary(folder)
    assert recorded is not None
    assert summary is not None
    plan, plan_id = plan_file.map_plan(folder.plan)
    part_scores(folder, plan, part_header(plan_id, recorded), summary.n_fragments, lambda: None)
    for other in (replace(recorded, dtype="bfloat16"), replace(recorded, classifier="other")):
        with pytest.raises(StorageError, match="this run's is"):
            part_scores(folder, plan, part_header(plan_id, other), summary.n_fragments, lambda: None)


def test_a_block_that_is_called_done_must_come_from_this_input(tmp_path: Path) -> None:
    session = Pair(RunFolder(tmp_path / "run")).session(0)
    alone = Control(replace(session.control.runtime, context=LaunchContext()), session.control.stop)
    texts = {"one": ">a\nACGTACGTACG\n", "other": ">a\nACGTACGTACC\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    limits = {"chunk_length": 500, "min_length": 0, "tokenizers": {}}
    ingest.ingest(alone, session.folder, [tmp_path / "one"], "one", **limits)
    store = HashStore()
    keys = KeyStore(store, lambda: store)
    keys.set(f"{ingest.KEPT}/0", "1")
    misled = Control(replace(alone.runtime, keys=keys), alone.stop)
    with pytest.raises(StorageError, match="was not made from this run's input"):
        ingest.ingest(misled, session.folder, [tmp_path / "other"], "other", **limits)
