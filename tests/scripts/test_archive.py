"""Scripts about archives: the page holds what they compute, and each step of the simulation does its work."""

import json
from pathlib import Path

import pytest

from scripts.archive import page, simulate, simulate_worker
from scripts.archive.check_cost import make_objects
from vpdist.planning.room import MOST_FRAGMENTS
from vpdist.sequences.manifest import read_manifest


def test_the_page_holds_the_tables_that_follow_from_its_constants_and_the_kept_figures() -> None:
    measured = json.loads(page.KEPT.read_text())
    assert set(measured["steps"]) == {step.name for step in simulate.STEPS}
    assert page.page(page.PAGE.read_text(), measured) == page.PAGE.read_text()


def test_the_needs_of_an_archive_grow_with_its_bases() -> None:
    small, large = page.needs(8.46), page.needs(846)
    assert (small["fragments"], large["fragments"]) == ("1e+10", "1e+12")
    assert int(small["shards"]) * MOST_FRAGMENTS == 10**10
    assert small["without"] == "240 GB"
    assert large["without"] == "24 TB"


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        page.page("# Toward the archive\n", json.loads(page.KEPT.read_text()))


@pytest.mark.parametrize("step", sorted(simulate_worker.STEPS))
def test_every_step_of_the_simulation_runs_on_made_items(step: str, tmp_path: Path) -> None:
    assert step in {each.name for each in simulate.STEPS}
    simulate_worker.STEPS[step](50_000 if step in ("flags", "plan", "map") else 500, tmp_path)()


def test_lines_are_fitted_so_that_small_sizes_count() -> None:
    assert simulate.slope((10, 100, 1000), (7, 52, 502)) == pytest.approx(0.5)
    assert simulate.slope((10, 100), (5, 4)) == 0
    line = simulate.Line(simulate.STEPS[0], (10**6, 10**7), (1.0, 10.0), (10**8, 10**9))
    assert line.largest() == pytest.approx(6e7)
    assert "1e9" in simulate.table([line])


def test_the_objects_of_the_check_are_of_mixed_kinds(tmp_path: Path) -> None:
    entries = read_manifest(make_objects(tmp_path, 6)).entries
    assert [Path(entry.path).suffix for entry in entries] == [".fa", ".gz", ".xz", ".fa", ".gz", ".xz"]
    assert all(Path(entry.location).stat().st_size > 0 for entry in entries)
