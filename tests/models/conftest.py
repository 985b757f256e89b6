"""A published model, small, on a server of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.fake_hub import FakeHub, git_blob, serving
from tests.results.test_pickled_classifier import MLPClassifier
from tests.tiny_models import NUCLEOTIDE_WIDTH, PROTEIN_WIDTH, TinyModels
from vpdist.models.catalogue import PRESETS, Preset
from vpdist.storage import downloads

COMMITS = {"nucleotide": "1" * 40, "protein": "2" * 40, "classifier": "3" * 40}
NAME = "tiny-500"


@dataclass
class Published:
    """What is on the server."""

    hub: FakeHub
    preset: Preset
    home: Path
    """HF_HOME."""
    original: bytes
    """The classifier's .pth."""


@pytest.fixture
def published(models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    """The preset `tiny-500` and its files on a server; an empty HF_HOME; no pause between tries."""
    torch.manual_seed(7)
    monkeypatch.setattr(MLPClassifier, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "MLPClassifier", MLPClassifier, raising=False)
    original = MLPClassifier(NUCLEOTIDE_WIDTH + PROTEIN_WIDTH, 8)
    torch.save(original.eval(), tmp_path / "original.pth")
    content = (tmp_path / "original.pth").read_bytes()
    with serving() as hub:
        hub.add("owner/nucleotide", COMMITS["nucleotide"], models.nucleotide)
        hub.add("owner/protein", COMMITS["protein"], models.protein)
        hub.repositories["authors/code", COMMITS["classifier"]] = {"500_model.pth": content}
        known = PRESETS["virnucpro-500"]
        widths = {"nucleotide": NUCLEOTIDE_WIDTH, "protein": PROTEIN_WIDTH}
        encoders = {
            slot: replace(entry, hub=f"owner/{slot}", revision=COMMITS[slot], width=widths[slot])
            for slot, entry in known.model.encoders.items()
        }
        preset = replace(
            known,
            model=replace(known.model, name=NAME, encoders=encoders),
            repository="authors/code",
            commit=COMMITS["classifier"],
            blob=git_blob(content),
        )
        home = tmp_path / "home"
        monkeypatch.setitem(PRESETS, NAME, preset)
        monkeypatch.setenv("VPDIST_GITHUB_ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(home))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(downloads, "FIRST_PAUSE_S", 0.0)
        monkeypatch.setattr(downloads, "SPARE_BYTES", 0)
        yield Published(hub, preset, home, content)
