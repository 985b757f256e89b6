"""The display where there is no terminal."""

import io
import re
from dataclasses import replace

from tests.snapshots import row, snapshot
from vpdist.display.log_lines import LINE_LETTERS, LogLines
from vpdist.monitoring.counters import RankRow
from vpdist.monitoring.facts import RankFacts, RunFacts


class Output(io.StringIO):
    encoding = "utf-8"


def facts_of(line: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in line.split(" progress ")[1].split())


def working(rank: int, second: int) -> RankRow:
    return row(rank, nucleotide_tokens=10 * second, planned_tokens=400)


def test_one_line_tells_of_all_ranks_and_at_the_end_each_has_its_own() -> None:
    output = Output()
    log = LogLines(output, interval_s=10)
    log.message("a \x1b[2J message\r")
    for second in range(31):
        log.show(snapshot(second, *(working(rank, second) for rank in (0, 1))))
    log.show(snapshot(31, row(0, "done"), row(1, "done"), ended=""))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", output.getvalue())
    message, *lines = output.getvalue().splitlines()
    assert message.endswith("a  [2J message ")
    logged = [facts_of(line) for line in lines]
    assert [(line["elapsed_s"], line.get("rank")) for line in logged] == [
        *(("1", None), ("11", None), ("21", None)),
        *(("31.0", "0"), ("31.0", "1"), ("31", None)),
    ]
    expected = {"stage": "embed", "done_percent": "27.5", "tokens_per_s": "20", "ranks": "2"}
    assert {name: logged[1][name] for name in expected} == expected
    least, most = map(int, logged[1]["left_s"].split("-"))
    assert least <= 29 <= most


def test_the_line_of_all_ranks_tells_what_was_kept_and_done_again_and_the_stages_to_come() -> None:
    output = Output()
    run = RunFacts(coming=("tables",), n_units=9, kept_units=4, recomputed_units=2, deduplicated=7)
    LogLines(output, first_s=0).show(replace(snapshot(5, row(0, stage="check")), run=run))
    facts = facts_of(output.getvalue())
    assert (facts["kept"], facts["recomputed"], facts["deduplicated"]) == ("4", "2", "7")
    assert facts["coming"] == "tables"


def test_a_line_is_never_longer_than_120_letters_and_loses_what_matters_least() -> None:
    output = Output()
    log = LogLines(output, interval_s=1)
    for second in (1, 1_000_000):
        ranks = [
            row(
                rank,
                "stalled" if rank < 3 else "lost" if rank < 5 else "running",
                nucleotide_tokens=10**9 * second,
                planned_tokens=10**16,
                failures=1234,
                records=10**7,
                score_7=10**6,
                work_mflop=10**9 * second,
            )
            for rank in range(512)
        ]
        limits = tuple(RankFacts(limit_mflops=10**10) for _ in ranks)
        log.show(replace(snapshot(second, *ranks), facts=limits))
    of_all = [line for line in output.getvalue().splitlines() if "rank=" not in line]
    assert len(of_all) == 2
    assert max(map(len, of_all)) <= LINE_LETTERS
    assert {"elapsed_s", "stage", "done_percent", "stalled", "lost"} <= facts_of(of_all[1]).keys()


def test_a_rate_that_is_not_known_is_left_out() -> None:
    output = Output()
    log = LogLines(output, first_s=0)
    log.show(snapshot(0, row(0, stage="load"), ended=""))
    assert "per_s" not in output.getvalue()
    assert "left_s" not in output.getvalue()


def test_a_stalled_rank_is_logged_at_once_and_when_it_goes_on() -> None:
    output = Output()
    log = LogLines(output, interval_s=1000, first_s=1000)
    for second, state in enumerate(("running", "stalled", "stalled", "running", "running")):
        log.show(snapshot(second, row(0), row(1, state, silent_s=45)))
    lines = output.getvalue().splitlines()
    assert [("rank=1" in line, "state=stalled" in line) for line in lines] == [(True, True), (True, False)]
    assert "silent_s=45" in lines[0]


def test_what_was_seen_before_is_no_news() -> None:
    output = Output()
    log = LogLines(output, first_s=0)
    log.observe(snapshot(0, row(0, "stalled", silent_s=45)))
    log.observe(snapshot(1, row(0, "stalled", silent_s=46)))
    assert output.getvalue() == ""
    log.show(snapshot(2, row(0, "stalled", silent_s=47)))
    assert output.getvalue().count("\n") == 1
