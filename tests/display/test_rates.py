import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.snapshots import row, snapshot
from vpdist.display.rates import Rates
from vpdist.text import bytes_text, clock_text, count_text, shortened, span_text


def test_rates_are_those_of_the_last_half_minute() -> None:
    rates = Rates()
    tokens = 0
    for second in range(121):
        tokens += 100 if second < 60 else 1000
        rates.observe(snapshot(second, row(nucleotide_tokens=tokens, fragments=second, planned_tokens=10**6)))
    assert rates.lines[0].tokens_per_s == pytest.approx(1000, rel=0.01)
    assert rates.lines[0].fragments_per_s == pytest.approx(1, rel=0.05)
    assert rates.total.tokens_per_s == rates.lines[0].tokens_per_s


def test_a_rate_is_known_even_where_batches_take_minutes() -> None:
    rates = Rates()
    for second in range(601):
        rates.observe(snapshot(second, row(nucleotide_tokens=second // 120 * 1200, planned_tokens=10**6)))
    assert rates.lines[0].tokens_per_s == pytest.approx(10, rel=0.5)


def test_a_stage_does_not_inherit_the_rate_of_the_stage_before() -> None:
    rates = Rates()
    rates.observe(snapshot(0, row(stage="ingest")))
    rates.observe(snapshot(10, row(stage="ingest", fragments=10_000)))
    rates.observe(snapshot(20, row(fragments=10_000, base={"fragments": 10_000})))
    rates.observe(snapshot(30, row(fragments=10_100, base={"fragments": 10_000})))
    assert rates.lines[0].fragments_per_s == pytest.approx(10)


def test_time_left_of_all_is_that_of_the_slowest_rank() -> None:
    rates = Rates()
    for second in (0, 10):
        rates.observe(
            snapshot(
                second,
                row(0, nucleotide_tokens=100 * second, planned_tokens=2000),
                row(1, nucleotide_tokens=10 * second, planned_tokens=2000),
            )
        )
    assert [line.left_s for line in rates.lines] == [pytest.approx(10), pytest.approx(190)]
    assert rates.total.left_s == pytest.approx(190)
    assert rates.total.fraction == pytest.approx(1100 / 4000)


def test_time_left_of_a_shared_pool_is_until_the_pool_is_empty() -> None:
    rates = Rates()
    for second in (0, 10):
        rates.observe(
            snapshot(
                second,
                row(0, nucleotide_tokens=100 * second, planned_tokens=2000, shared=True),
                row(1, nucleotide_tokens=10 * second, planned_tokens=2000, shared=True),
            )
        )
    assert rates.total.left_s == pytest.approx(2900 / 110)


def test_a_rank_that_has_gone_on_counts_as_through_with_the_stage() -> None:
    rates = Rates()
    rates.observe(
        snapshot(
            10,
            row(0, nucleotide_tokens=900, planned_tokens=1000),
            row(1, nucleotide_tokens=500, planned_tokens=1000),
        )
    )
    rates.observe(
        snapshot(
            11,
            row(0, stage="check", nucleotide_tokens=1000, base={"nucleotide_tokens": 1000}),
            row(1, nucleotide_tokens=500, planned_tokens=1000),
        )
    )
    assert rates.total.stage == "embed"
    assert rates.total.fraction == pytest.approx(0.75)


def test_nobody_knows_the_time_left_while_a_rank_is_stalled() -> None:
    rates = Rates()
    for second, state in ((0, "running"), (10, "stalled")):
        rates.observe(
            snapshot(
                second,
                row(0, nucleotide_tokens=100 * second, planned_tokens=2000),
                row(1, state, nucleotide_tokens=10 * second, planned_tokens=2000),
            )
        )
    assert rates.total.left_s is None


@given(st.floats(0, 9e17))
def test_counts_fit_five_characters(number: float) -> None:
    assert len(count_text(number)) <= 5


@given(st.integers(0, 2**52))
def test_sizes_fit_eight_characters(number: int) -> None:
    assert len(bytes_text(number)) <= 8


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (0.25, "0.25"), (62.51, "62.5"), (999, "999"), (1234, "1.23k"), (45_600_000, "45.6M")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert count_text(number) == text


def test_times_are_short() -> None:
    assert [clock_text(seconds) for seconds in (7, 761, 11_561, 183_600)] == ["0:07", "12:41", "3:12:41", "2d 03:00"]
    assert [span_text(seconds) for seconds in (45, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]


@given(st.text(), st.integers(2, 50))
def test_a_text_is_shortened_in_its_middle_and_only_where_it_is_too_long(text: str, most: int) -> None:
    short = shortened(text, most)
    if len(text) <= most:
        assert short == text
    else:
        assert len(short) <= most + len("[...  letters ...]") + len(f"{len(text):,}")
        assert text.startswith(short[: most // 2])
        assert text.endswith(short[-(most // 2) :])
