"""The built-in model: whole, small, found without any option, and as good as its card says where there are contigs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from scripts.mini.folds import write_fold
from tests.sample import write_contigs
from vpdist.commands.predict import predict
from vpdist.config import Settings
from vpdist.encoders.weights import model_fingerprint
from vpdist.models.catalogue import BUILT_IN, packaged
from vpdist.models.find import find_model
from vpdist.training.metrics import auroc

LARGEST = 4 << 20
"""Bytes of the package that it may take."""
LEAST = {"fragments": 0.915, "sequences": 0.96}
"""AUROC on contigs of accessions that it has not been fitted on; 0.921 and 0.966 where it was made."""
UNSEEN = 0
"""The fold of scripts.mini.folds that it was made without."""


def test_it_is_whole_and_small() -> None:
    assert BUILT_IN in packaged()
    bundle = find_model(BUILT_IN, offline=True)
    bundle.check_classifier()
    for slot, entry in bundle.model.encoders.items():
        assert model_fingerprint(Path(bundle.encoder(slot))) == entry.fingerprint
    assert sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()) <= LARGEST
    assert bundle.model.training is not None
    assert {each.label for each in bundle.model.training.data} > {"virus"}
    assert bundle.model.calibration is not None
    assert bundle.model.null_scores is not None
    assert bundle.model.licence == "other"
    card = (bundle.folder / "README.md").read_text()
    assert "not measured" not in card
    assert " The last length class also judges all that is longer. Other lengths " in card
    assert all(
        re.search(rf"\n\| {bases} \| [\d,]+ \| 0\.\d", card) for bases in ("150", "300", "500", "1,000", "3,000")
    )
    for told in ("composition", "phages", "no score"):
        assert told in bundle.model.description


def test_without_any_option_for_a_model_it_makes_the_calls_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_contigs(tmp_path / "contigs.fa")
    settings = Settings(inputs=(str(source),), output=tmp_path / "run", progress="none", offline=True)
    assert predict(settings) == 0
    told = capfd.readouterr()
    assert "model mini: A small composition model" in told.out + told.err
    assert json.loads((settings.output / "run.json").read_text())["model"]["name"] == BUILT_IN
    with (settings.output / "sequences.tsv").open(newline="") as file:
        calls = {row["prediction"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    assert calls & {"virus", "non-virus"}


@pytest.mark.slow
def test_it_tells_real_contigs_apart_as_well_as_its_card_says(shared: Path, tmp_path: Path) -> None:
    scores: dict[str, list[np.ndarray]] = {"fragments": [], "sequences": []}
    for name in ("virus", "host"):
        contigs = write_fold(shared / "data" / f"{name}.fa.gz", UNSEEN, tmp_path / "fold")
        settings = Settings(inputs=(str(contigs),), output=tmp_path / name, progress="none", offline=True)
        assert predict(settings) == 0
        for level, found in scores.items():
            with (settings.output / f"{level}.tsv").open(newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
            pairs = [(row["virus_score"], row["nonvirus_score"]) for row in rows if row["virus_score"] != "NA"]
            virus, other = np.array(pairs, dtype=np.float64).T
            found.append(virus / (virus + other))
    for level, (virus, host) in scores.items():
        label = np.arange(len(virus) + len(host)) < len(virus)
        assert auroc(label, np.concatenate([virus, host])) >= LEAST[level], level
