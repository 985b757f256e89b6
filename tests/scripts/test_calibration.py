"""The script that measures how scores are best calibrated: its tables follow from what is drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest

from scripts.mini import calibration
from scripts.mini.calibration import LENGTHS, SHARES, Pieces, mixtures, slopes


def drawn(n: int) -> Pieces:
    """n pieces of each length and label whose log-odds are N(1, 1) and N(-1, 1): the slope is 2, the bias 0."""
    rng = np.random.default_rng(0)
    length = np.repeat(LENGTHS, 2 * n)
    virus = np.tile(np.repeat([True, False], n), len(LENGTHS))
    score = rng.normal(size=len(length)) + np.where(virus, 1, -1)
    return Pieces(score, length, np.ones(len(length), int), virus, np.tile(np.arange(2 * n), len(LENGTHS)))


def test_the_slope_of_a_known_ratio_is_found_at_each_length() -> None:
    lines = list(slopes(drawn(2000)))[2:-1]
    found = [[float(cell.replace(",", "")) for cell in line.strip("| ").split("|")] for line in lines]
    assert [row[0] for row in found] == list(LENGTHS)
    assert all(abs(row[4] - 2) < 0.15 and abs(row[5]) < 0.15 for row in found)


def test_mixtures_of_a_known_ratio_keep_the_nominal_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "HALVES", 3)
    monkeypatch.setattr(calibration, "MIXTURES", 5)
    lines = list(mixtures(drawn(1000), 1))[2:-1]
    assert len(lines) == len(LENGTHS) * len(SHARES) * 2
    limited = [line for line in lines if "| 0.5 | yes |" in line]
    for line in limited:
        share, *false = map(float, re.findall(r"[\d.]+", line.split("yes", 1)[1]))
        assert abs(share - 1) < 0.1
        assert false[1] < 7.5
        assert false[2] < 13
