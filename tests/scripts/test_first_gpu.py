"""`make first-gpu` without a GPU: verdicts, table, time limits; every check's measuring on the CPU with tiny encoders."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.autograd import DeviceType

from scripts.demo.make_models import make_esm2
from scripts.gpu import cuda_tests, encoder_checks, first_gpu, limit_checks, run_checks, speed_checks
from scripts.gpu.first_gpu import CHECKS, Check, in_a_process, in_this_process, verdicts_in
from scripts.gpu.setting import (
    TINY,
    Setting,
    Size,
    Sizes,
    described,
    random_sequences,
    random_weights_on,
    write_contigs,
)
from scripts.gpu.traces import Trace, per_layer, traced
from scripts.gpu.verdicts import (
    FAILED,
    FIGURE,
    PASSED,
    SKIPPED,
    Checked,
    Verdict,
    any_failed,
    bounded,
    held,
    skipped,
    summary,
    table,
)
from scripts.gpu.verdicts import details as details_of
from vpdist.commands import resolve_config
from vpdist.encoders.encoder import Encoder, load_encoder
from vpdist.encoders.esm2 import Esm2
from vpdist.ragged import Ragged

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are slower on several threads, much slower on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(device=CPU, work=tmp_path, sizes=TINY)


def outcomes(verdicts: Iterator[Verdict]) -> dict[str, str]:
    return {verdict.what: verdict.outcome for verdict in verdicts}


# Verdicts and their table


@pytest.mark.parametrize(
    ("value", "bounds", "outcome"),
    [
        (0.46, {"at_least": 0.45}, PASSED),
        (0.44, {"at_least": 0.45}, FAILED),
        (0.02, {"at_most": 0.02}, PASSED),
        (0.03, {"at_most": 0.02}, FAILED),
        (0.5, {"at_least": 0.4, "at_most": 0.45}, FAILED),
        (float("nan"), {"at_least": 0.4}, FAILED),
        (float("nan"), {"at_most": 0.4}, FAILED),
        (0.5, {}, FIGURE),
    ],
)
def test_a_number_passes_within_its_bounds_only(value: float, bounds: dict[str, float], outcome: str) -> None:
    assert bounded("x", value, **bounds).outcome == outcome  # type: ignore[arg-type]


def test_the_table_has_a_row_for_every_verdict_and_the_time_once_a_check() -> None:
    checks = [
        Checked("speed", [bounded("a|b", 0.5, at_least=0.4, note="two\nlines"), bounded("rate", 12345.0, "t/s")], 7.4),
        Checked("tests", [held("c", False, "1", "0", "why"), skipped("d", "no card")], 1.0),
    ]
    assert table(checks).splitlines()[2:] == [
        "| speed | a\\|b | 0.5 | >= 0.4 | passed | 7 | two lines |",
        "|  | rate | 12,345 t/s |  |  |  |  |",
        "| tests | c | 1 | 0 | failed | 1 | why |",
        "|  | d |  |  | skipped |  | no card |",
    ]
    assert summary(checks) == "1 passed, 1 failed, 1 skipped; 8 s"
    assert any_failed(checks)
    assert not any_failed([Checked("x", [skipped("d", ""), bounded("e", 1.0)], 0.0)])


def test_details_stand_below_the_table_under_their_name() -> None:
    verdict = held("kernels", True, details="1 x gemm\n2 x norm")
    assert details_of([Checked("x", [skipped("y", ""), verdict], 0.0)]) == "kernels:\n\n```\n1 x gemm\n2 x norm\n```"


# Each check in a process of its own


def check(name: str, *verdicts: Verdict, then: Callable[[], None] = lambda: None, limit_s: float = 600.0) -> Check:
    def function(setting: Setting) -> Iterator[Verdict]:
        yield from verdicts
        then()

    return Check(name, function, limit_s)


def writing(path: Path, *verdicts: Verdict, then: str = "") -> list[str]:
    """A command that leaves verdicts as a check does, and then does something else."""
    lines = "".join(json.dumps({"what": each.what, "outcome": each.outcome}) + "\n" for each in verdicts)
    program = f"import os, pathlib, signal, time; pathlib.Path({str(path)!r}).write_text({lines!r}); {then or 'pass'}"
    return [sys.executable, "-c", program]


def test_what_a_check_found_until_it_fails_stays(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError("no kernel image")

    path = setting.work / "a.jsonl"
    with pytest.raises(RuntimeError):
        in_this_process(check("a", held("first", True, details="x"), then=fail), setting, path)
    assert verdicts_in(path) == [held("first", True, details="x")]
    path.write_text(path.read_text() + '{"what": "unfini')
    assert len(verdicts_in(path)) == 1
    assert verdicts_in(setting.work / "absent") == []


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("raise SystemExit('CUDA error: unspecified launch failure')", "ended with status 1: CUDA error"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with status -11: no word"),
    ],
)
def test_a_check_that_crashes_has_failed_with_its_last_words(tmp_path: Path, then: str, reason: str) -> None:
    command = writing(tmp_path / "a-b.jsonl", held("first", True), then=then)
    checked = in_a_process(check("a b"), command, tmp_path, 600.0)
    assert [verdict.outcome for verdict in checked.verdicts] == [PASSED, FAILED]
    assert checked.verdicts[1].note.startswith(reason)


@pytest.mark.parametrize("stubborn", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN); "])
def test_a_check_that_hangs_is_ended_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr(first_gpu, "GRACE_S", 0.5)
    command = writing(tmp_path / "a.jsonl", then=f"{stubborn}time.sleep(3000)")
    checked = in_a_process(check("a", limit_s=3.0), command, tmp_path, 600.0)
    [verdict] = [each for each in checked.verdicts if each.outcome == FAILED]
    assert "did not end within 3 s" in verdict.note


def test_a_check_without_a_verdict_has_failed(tmp_path: Path) -> None:
    [verdict] = in_a_process(check("a"), writing(tmp_path / "a.jsonl"), tmp_path, 600.0).verdicts
    assert (verdict.outcome, verdict.note) == (FAILED, "no verdict")


def test_verdicts_of_an_earlier_run_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"what": "old", "outcome": "passed"}\n')
    [verdict] = in_a_process(check("a"), [sys.executable, "-c", ""], tmp_path, 600.0).verdicts
    assert verdict.outcome == FAILED


def test_without_time_a_check_is_skipped_and_not_begun(tmp_path: Path) -> None:
    checked = in_a_process(check("a"), ["absent"], tmp_path, first_gpu.LEAST_S - 1)
    assert [(each.outcome, each.note) for each in checked.verdicts] == [(SKIPPED, "only 14 s were left")]


def test_all_limits_leave_room_within_ten_minutes() -> None:
    assert first_gpu.TOTAL_S + first_gpu.GRACE_S <= 600
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    assert all(each.limit_s < first_gpu.TOTAL_S / 2 for each in CHECKS)


def test_every_check_goes_on_and_the_report_is_written_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []

    def checked(one: Check, command: list[str], work: Path, left_s: float, slack: float) -> Checked:
        reports.append((tmp_path / "first-gpu.md").exists())
        assert command[-5:] == ["--here", one.name, "--work", str(tmp_path), "--rehearse"]
        return Checked(one.name, [held(one.name, one.name != "a")], 1.0)

    monkeypatch.setattr(first_gpu, "in_a_process", checked)
    arguments = argparse.Namespace(work=tmp_path, rehearse=True, total=100.0)
    done = first_gpu.run_all([check("a"), check("b")], arguments)
    assert [each.name for each in done] == ["a", "b"]
    assert reports == [False, True]
    text = (tmp_path / "first-gpu.md").read_text()
    assert f"torch {torch.__version__}" in text
    assert text.startswith("```\ndriver ")
    assert "1 passed, 1 failed, 0 skipped" in text


@pytest.mark.launcher
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_at_once_with_2_and_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.gpu.first_gpu", "--work", str(tmp_path / "bench")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == first_gpu.NO_DEVICE == 2
    assert ended.stderr.startswith("first-gpu: there is no CUDA device (torch ")
    assert not (tmp_path / "bench").exists()


@pytest.mark.launcher
def test_a_rehearsal_runs_a_check_in_its_process_and_reports_it(tmp_path: Path) -> None:
    options = ["--rehearse", "--work", str(tmp_path), "--only", "driver"]
    ended = subprocess.run(
        [sys.executable, "-m", "scripts.gpu.first_gpu", *options], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "| driver | driver |" in ended.stdout
    assert "a product in float16, error" in (tmp_path / "first-gpu.md").read_text()


# What the device did


def trace(*intervals: tuple[float, float], names: str = "") -> Trace:
    starts, ends = zip(*intervals, strict=True)
    return Trace(list(names or "k" * len(intervals)), np.array(starts, dtype=float), np.array(ends, dtype=float))


def test_a_device_is_idle_only_where_no_stream_has_anything() -> None:
    busy = trace((0, 40), (10, 20), (30, 50), (60, 100))
    assert busy.gaps_us.tolist() == [10]
    assert busy.idle == pytest.approx(0.1)
    assert trace((0, 100), (20, 30), (120, 200)).idle == pytest.approx(0.1)
    assert np.isnan(Trace([], np.empty(0), np.empty(0)).idle)


def test_the_launches_of_a_layer_leave_out_what_happens_once() -> None:
    fewer, more = trace(*[(i, i + 1) for i in range(10)]), trace(*[(i, i + 1) for i in range(34)])
    assert per_layer(fewer, more, 2) == 12


def test_kernels_are_listed_by_their_share_of_the_time() -> None:
    listed = trace((0, 10), (10, 90), (90, 100), names="aba").listed().splitlines()
    assert [line.split() for line in listed[:2]] == [
        ["80.0", "%", "1", "x", "b"],
        ["20.0", "%", "2", "x", "a"],
    ]
    assert listed[2] == "2 kernels, 3 launches"


def test_a_profile_on_the_cpu_has_the_outermost_operators() -> None:
    matrix = torch.ones(8, 8)
    found = traced(lambda: torch.nn.functional.linear(matrix, matrix).add_(1), CPU)
    assert [name for name in found.names if name.startswith("aten::")] == ["aten::linear", "aten::add_"]
    assert "aten::mm" in found.operators or "aten::addmm" in found.operators
    assert found.span_us > 0


def test_of_a_gpu_kernels_and_copies_count_but_no_annotations_and_no_host() -> None:
    def event(name: str, start: float, device_type: DeviceType, annotation: bool = False) -> SimpleNamespace:
        interval = SimpleNamespace(start=start, end=start + 1)
        return SimpleNamespace(
            name=name, device_type=device_type, is_user_annotation=annotation, cpu_parent=None, time_range=interval
        )

    events = [
        event("gemm", 5, DeviceType.CUDA),
        event("Memcpy HtoD (Pinned -> Device)", 3, DeviceType.CUDA),
        event("ProfilerStep#0", 0, DeviceType.CUDA, annotation=True),
        event("aten::mm", 0, DeviceType.CPU),
    ]
    found = Trace.of(events, torch.device("cuda", 0))  # type: ignore[arg-type]
    assert list(found.names) == ["Memcpy HtoD (Pinned -> Device)", "gemm"]
    assert found.starts_us.tolist() == [3, 5]
    assert found.operators == {"aten::mm"}


def test_attention_of_cudnn_is_recognised_among_kernels_and_operators() -> None:
    kernel = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x64x64"
    assert replace(trace((0, 1)), names=[kernel]).cudnn == [kernel]
    operator = "aten::_cudnn_attention_forward"
    assert replace(trace((0, 1)), operators=frozenset({operator, "aten::mm"})).cudnn == [operator]
    assert trace((0, 1)).cudnn == []


# What is made


def test_random_weights_come_from_no_disk_and_are_the_same_at_every_load(tmp_path: Path) -> None:
    for size in (Size("nucleotide", 2, 48), Size("protein", 2, 32)):
        folder = described(size, tmp_path / size.kind)
        assert (folder / "model.safetensors").stat().st_size < 1000
        with random_weights_on(CPU):
            first, again = (load_encoder(folder, size.kind, torch.float32, CPU) for _ in range(2))
        batch = random_sequences(np.array([5, 30]), np.random.default_rng(0))
        rows = first.embed(batch)
        assert torch.isfinite(rows).all()
        assert rows.std() > 0.1
        assert torch.equal(rows, again.embed(batch))
        with pytest.raises(Exception, match="missing"):
            load_encoder(folder, size.kind, torch.float32, CPU)


def test_contigs_are_of_sense_codons_and_the_first_have_no_tryptophan(tmp_path: Path) -> None:
    path = write_contigs(tmp_path / "a.fa", np.array([3000, 3000, 301]), without_tryptophan=1)
    sequences = path.read_text().splitlines()[1::2]
    assert [len(each) for each in sequences] == [3000, 3000, 301]
    codons = [{each[i : i + 3] for i in range(0, len(each) - 2, 3)} for each in sequences]
    assert not {"TAA", "TAG", "TGA"} & set().union(*codons)
    assert ["TGG" in each for each in codons[:2]] == [False, True]


def test_only_tryptophan_overflows_float16_and_float32_changes_little(tmp_path: Path) -> None:
    make_esm2(tmp_path / "models" / "esm-2", 2, 480, 1)
    folder = limit_checks.with_overflow(tmp_path / "models", tmp_path / "changed") / "esm-2"
    lengths = np.array([60, 60])
    batch = random_sequences(lengths, np.random.default_rng(0))
    batch.flat[batch.flat == 22] = 5
    batch.flat[90] = 22
    rows = {dtype: load_encoder(folder, "protein", dtype, CPU).embed(batch) for dtype in (torch.float16, torch.float32)}
    assert torch.isfinite(rows[torch.float16]).all(dim=1).tolist() == [True, False]
    assert torch.isfinite(rows[torch.float32]).all()
    assert torch.nn.functional.cosine_similarity(rows[torch.float16], rows[torch.float32], dim=1)[0] > 0.999


# What is measured


def test_the_driver_is_read_from_the_kernel_or_said_to_be_unknown(tmp_path: Path) -> None:
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
    (tmp_path / "version").write_text(line + "\nGCC version: gcc version 12\n")
    assert encoder_checks.driver_version(tmp_path / "version") == "550.54.15"
    assert encoder_checks.driver_version(tmp_path / "absent").startswith("unknown")


def test_products_that_a_card_computes_wrongly_would_be_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FAILED not in outcomes(encoder_checks.driver(setting)).values()
    monkeypatch.setattr(encoder_checks, "PRODUCT_ERROR", dict.fromkeys(("float32", "bfloat16", "float16"), 1e-9))
    assert list(outcomes(encoder_checks.driver(setting)).values()).count(FAILED) == 3


def test_a_batch_of_every_encoder_is_profiled(setting: Setting) -> None:
    found = list(encoder_checks.profiles(setting))
    assert [each.what.split(": ")[1] for each in found[:3]] == [
        "launches of a layer",
        "nothing waits for the device",
        "kernels, none of cuDNN",
    ]
    assert len(found) == 9
    assert [each.outcome for each in found[1::3]] == [SKIPPED] * 3
    assert [each.outcome for each in found[2::3]] == [PASSED] * 3
    assert "mkldnn::_linear_pointwise" in found[2].details
    assert all(float(each.value) > 5 for each in found[::3])


def test_mixed_batches_and_buckets_are_compared(setting: Setting) -> None:
    found = outcomes(encoder_checks.mixed(setting)) | outcomes(encoder_checks.bucket(setting))
    sure = {what: outcome for what, outcome in found.items() if "over" not in what}
    assert len(sure) == 5
    assert set(sure.values()) == {PASSED}


def test_a_rotation_that_is_off_is_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = list(encoder_checks.rotation(setting))
    assert [each.outcome for each in right] == [PASSED, FIGURE]
    turn = Esm2._rotation
    monkeypatch.setattr(Esm2, "_rotation", lambda self, packing: turn(self, packing) * 1.02)
    assert [each.outcome for each in encoder_checks.rotation(setting)] == [FAILED, FIGURE]


def test_speed_is_told_as_a_share_of_the_products_rate(setting: Setting) -> None:
    found = list(speed_checks.speed(setting))
    assert [each.what.split(",")[0] for each in found] == ["DNABERT-S 2x48", "ESM-2 2x32", "ESM-2 3x64"]
    assert all(float(each.value) > 0 and "tokens/s" in each.note for each in found)
    assert {size.width for size in (Sizes().nucleotide, *Sizes().proteins)} == set(speed_checks.SHARE_GOALS)


def test_an_encoder_that_does_not_fit_is_skipped_with_the_reason() -> None:
    large = Size("protein", 36, 2560)
    assert speed_checks.does_not_fit(large, 80 << 30) == ""
    assert speed_checks.does_not_fit(large, None) == ""
    assert speed_checks.does_not_fit(large, 8 << 30) == "needs 13 GiB, the device has 8"


def test_idle_time_is_judged_by_the_only_pipeline_of_a_run() -> None:
    assert speed_checks.idle_share("x", [trace((0, 99), (100, 200))]).outcome == PASSED
    assert speed_checks.idle_share("x", [trace((0, 90), (100, 200))]).outcome == FAILED
    assert speed_checks.idle_share("x", []).outcome == FAILED
    assert speed_checks.idle_share("x", [Trace([], np.empty(0), np.empty(0))]).outcome == FAILED


@pytest.mark.launcher
def test_predict_is_profiled_with_weights_that_are_on_no_disk(setting: Setting) -> None:
    warm, ended, idle = speed_checks.idle(setting)
    assert (warm.outcome, ended.outcome) == (PASSED, PASSED)
    assert "launches in" in idle.note
    assert 0 < float(idle.value) < 1


def test_results_beyond_the_limits_of_parity_fail(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = {"nucleotide": np.eye(3, dtype=np.float32), "protein": np.eye(3, dtype=np.float32)}
    scores = np.array([0.1, 0.5, 0.9])
    found = {"nucleotide": exact["nucleotide"], "protein": exact["protein"] + [[0, 0.1, 0], [0] * 3, [0] * 3]}
    monkeypatch.setattr(run_checks, "embeddings", lambda folder: found)
    monkeypatch.setattr(run_checks, "virus_scores", lambda folder: np.array([0.11, 0.49, 0.4]))
    verdicts = list(run_checks.agreement("float16", exact, scores, setting.work))
    assert [each.outcome for each in verdicts] == [PASSED, FAILED, FAILED, FAILED]
    assert verdicts[-1].value == "1 of 2 equal"


@pytest.mark.launcher
@pytest.mark.slow
def test_whole_runs_agree_with_the_cpu_on_two_ranks_and_after_a_kill(setting: Setting) -> None:
    found = outcomes(run_checks.against_cpu(setting))
    found |= outcomes(run_checks.two_ranks(setting)) | outcomes(run_checks.killed(setting))
    assert len(found) == 12
    assert set(found.values()) == {PASSED}


def test_runs_see_one_card_whatever_the_machine_has() -> None:
    assert run_checks.one_card({}) == run_checks.one_card({"CUDA_VISIBLE_DEVICES": ""}) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert run_checks.one_card({"CUDA_VISIBLE_DEVICES": "GPU-5b,3"}) == {"CUDA_VISIBLE_DEVICES": "GPU-5b"}


@pytest.mark.launcher
def test_batches_that_never_had_to_be_halved_prove_nothing(setting: Setting) -> None:
    found = outcomes(limit_checks.memory(setting))
    assert found.pop("batches that had to be halved") == FAILED
    assert set(found.values()) == {PASSED}


@pytest.mark.launcher
def test_batches_that_had_to_be_halved_give_the_same_calls(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Encoder.embed

    def in_little_memory(self: Encoder, tokens: Ragged) -> torch.Tensor:
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self, tokens)

    monkeypatch.setattr(Encoder, "embed", in_little_memory)
    assert set(outcomes(limit_checks.memory(setting)).values()) == {PASSED}


@pytest.mark.launcher
def test_rows_that_overflow_float16_are_computed_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = replace(TINY, small=(Size("nucleotide", 1, 48), Size("protein", 2, 480)))
    monkeypatch.setattr(resolve_config, "choose_dtype", lambda name, _: "float16" if name == "auto" else name)
    assert set(outcomes(limit_checks.overflow(replace(setting, sizes=sizes))).values()) == {PASSED}


@pytest.mark.launcher
def test_rows_that_never_overflowed_prove_nothing(setting: Setting) -> None:
    found = outcomes(limit_checks.overflow(setting))
    assert found.pop("rows that overflow and that do not") == FAILED
    assert set(found.values()) == {PASSED}


def test_a_batch_that_is_too_large_for_the_limit_is_so_on_any_card(setting: Setting) -> None:
    for gib in (16, 80, 141):
        card = replace(setting, sizes=replace(TINY, small=(Size("nucleotide", 2, 768), Size("protein", 2, 480))))
        tokens = limit_checks.too_large(card, gib << 30)
        assert tokens * 48 * 768 > 2 * limit_checks.FRACTION * (gib << 30)
        assert tokens.bit_count() == 1


@pytest.mark.parametrize(
    ("output", "code", "outcome", "value"),
    [
        ("..\nSKIPPED [1] tests/a.py:1: needs two\n12 passed, 1 skipped in 3.0s", 0, PASSED, "12 passed, 1 skipped"),
        ("F\n1 failed, 11 passed in 3.0s", 1, FAILED, "11 passed, 1 failed"),
        ("13 skipped in 3.0s", 0, FAILED, "13 skipped"),
        ("no tests ran in 0.1s", 5, FAILED, "no tests ran in 0.1s"),
        ("", 2, FAILED, ""),
    ],
)
def test_the_tests_count_only_where_some_passed_and_none_failed(
    output: str, code: int, outcome: str, value: str
) -> None:
    verdict = cuda_tests.judged(output, code)
    assert (verdict.outcome, verdict.value) == (outcome, value)
    assert bool(verdict.details) == (outcome == FAILED)
    if outcome == PASSED:
        assert "needs two" in verdict.note


def test_the_models_that_are_changed_are_not_the_others(setting: Setting) -> None:
    folder, _ = run_checks.models(setting)
    before = load_file(folder / "esm-2" / "model.safetensors")
    changed = limit_checks.with_overflow(folder, setting.work / "changed")
    name = "esm.encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(load_file(folder / "esm-2" / "model.safetensors")[name], before[name])
    assert not torch.equal(load_file(changed / "esm-2" / "model.safetensors")[name], before[name])
