"""What is told at the end of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.snapshots import row, snapshot
from vpdist.commands import run_end
from vpdist.commands.run_end import call_lines, device_line, end_lines, hosts, read_calls
from vpdist.monitoring.facts import RankFacts, RunFacts

HEADER = "seq_name\tsource\tlength\tvirus_score\tnonvirus_score\tprediction\tstatus\n"


def table_of(folder: Path, rows: list[tuple[str, int, str, str]]) -> Path:
    path = folder / "sequences.tsv"
    lines = [f"{name}\ta.fa\t{length}\t{score}\t0.1\t{call}\tok\n" for name, length, score, call in rows]
    path.write_text(HEADER + "".join(lines))
    return path


def test_calls_are_bars_with_their_meaning_and_the_best_are_named(tmp_path: Path) -> None:
    virus = [(f"v{n}", 1000 + n, f"0.{90 + n}", "virus") for n in range(7)]
    table = table_of(
        tmp_path, [*virus, ("tie", 9, "0.96", "virus"), ("h", 5, "0.1", "non-virus"), ("x", 5, "NA", "NA")]
    )
    lines = call_lines(table)
    assert [line.split()[:2] for line in lines[:3]] == [["virus", "8"], ["non-virus", "1"], ["no", "call"]]
    assert lines[0].endswith(f"80.0 % {'#' * 30}")
    assert lines[1].endswith(f"10.0 % {'#' * 4}")
    assert lines[3].startswith("a sequence is called virus where")
    assert [name for _, _, name in read_calls(table)[0].best] == ["v6", "tie", "v5", "v4", "v3"]
    assert lines[4].startswith("highest virus scores: v6 (1,006 bases, 0.960), tie (9 bases, 0.960), v5")


def test_calls_by_calibration_are_told_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "sequences.tsv"
    rows = [("a", "virus", "virus"), ("b", "virus", "uncertain"), ("c", "non-virus", "non-virus"), ("d", "virus", "NA")]
    lines = [f"{name}\ta.fa\t9\t0.9\t0.1\t{prediction}\tok\t{call}\n" for name, prediction, call in rows]
    path.write_text(HEADER.rstrip("\n") + "\tcall\n" + "".join(lines))
    told = call_lines(path)
    assert [line.split("  ")[0].strip() for line in told[:4]] == ["virus", "uncertain", "non-virus", "no call"]
    assert all(" 25.0 % " in line for line in told[:4])
    assert "calibrated probability" in told[4]
    assert told[5] == "highest virus scores: a (9 bases, 0.900)"
    path.write_text(
        path.read_text()
        .replace("\tuncertain\n", "\tNA\n")
        .replace("ok\tvirus", "ok\tNA")
        .replace("ok\tnon-virus", "ok\tNA")
    )
    assert call_lines(path)[0].split()[:2] == ["virus", "3"]


def test_names_at_the_end_are_printable_and_short(tmp_path: Path) -> None:
    table = table_of(tmp_path, [(f"a\x1b[2J{'b' * 1000}", 5, "0.9", "virus")])
    assert "\x1b" not in "".join(call_lines(table))
    assert max(map(len, call_lines(table))) < 400


def test_an_empty_table_and_a_very_large_one_have_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_lines(table_of(tmp_path, [])) == []
    monkeypatch.setattr(run_end, "LARGEST_TABLE", 10)
    assert call_lines(table_of(tmp_path, [("a", 5, "0.9", "virus")])) == []


def test_how_the_devices_were_used_is_told() -> None:
    rows = [
        row(0, compute_us=1_000_000, work_mflop=400_000, energy_j=1_800_000),
        row(1, compute_us=3_000_000, work_mflop=1_200_000, energy_j=1_800_000),
    ]
    facts = (RankFacts(limit_mflops=800_000), RankFacts(limit_mflops=800_000))
    run = RunFacts(n_units=9, kept_units=4, recomputed_units=1, n_fragments=2000, deduplicated=1500)
    made = replace(snapshot(1800, *rows), facts=facts, run=run)
    assert device_line(made) == (
        "2 ranks, 1 device hours; 50 % of the hardware's limit while computing; the busiest rank computed 1.50 times the "
        "mean; 1 kWh; 4 of 9 units were there already; 1 unit computed again; 1,500 of 2,000 fragments equal to others "
        "and not embedded again"
    )


def test_hosts_are_recorded_with_their_ranks_and_devices() -> None:
    facts = tuple(RankFacts(f"node{rank // 2}", 1, "A100" if rank < 3 else "H100") for rank in range(4))
    made = replace(snapshot(1, *map(row, range(4))), facts=facts)
    assert hosts(made) == {
        "node0": {"ranks": [0, 1], "devices": ["A100"]},
        "node1": {"ranks": [2, 3], "devices": ["A100", "H100"]},
    }
    assert hosts(None) == {}


def test_what_is_not_known_of_the_devices_is_left_out(tmp_path: Path) -> None:
    assert end_lines(tmp_path / "absent", snapshot(360, row(0)), called=False) == ["1 rank, 0.10 device hours"]
    assert end_lines(tmp_path / "absent", snapshot(1.8, row(0)), called=False) == ["1 rank, 1.8 device seconds"]
    assert end_lines(table_of(tmp_path, []), None, called=True) == []
