"""Models by name: presets fetched and checked, repositories of the hub, folders; and what is told of them."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fake_hub
from tests.models.conftest import COMMITS, NAME, Published
from tests.test_cli import run_main
from tests.tiny_models import TinyModels
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import StorageError, WeightsError
from vpdist.models import catalogue
from vpdist.models.bundle import encoder_entry, write_model
from vpdist.models.catalogue import PRESETS, packaged
from vpdist.models.find import download, find_model, is_here
from vpdist.models.listed import HERE, PARTLY, REFUSED, TO_DOWNLOAD, listed
from vpdist.results.classifier import load_classifier
from vpdist.storage.downloads import Listener

COMMIT = "d" * 40


def cut_off(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cuts off the network; returns the attempts to use it."""
    from huggingface_hub.utils import close_session

    close_session()
    tried: list[int] = []

    def refuse(*_: object, **__: object) -> None:
        tried.append(1)
        raise OSError("the network is cut off")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_the_presets_are_those_of_the_authors() -> None:
    assert {name: preset.blob for name, preset in PRESETS.items()} == {
        "virnucpro-500": "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d",
        "virnucpro-300": "a0b5b85e7c1e44f00cde146d091beb82b2c8e855",
    }
    preset = PRESETS["virnucpro-300"]
    assert preset.classifier(Path("x")).url == (
        "https://raw.githubusercontent.com/Li-Jing-1997/VirNucPro/0f93f2755a7ea1acd3ff1bcf182892f960ef3326/300_model.pth"
    )
    assert (preset.model.chunk_length, preset.model.width) == (300, 768 + 2560)
    assert 11.7e9 < preset.bytes < 11.9e9


def test_a_preset_is_fetched_whole(published: Published, models: TinyModels) -> None:
    folder = download(NAME)
    bundle = find_model(NAME, offline=True)
    assert bundle.folder == folder
    entries = bundle.model.encoders
    assert entries["nucleotide"].fingerprint == model_fingerprint(models.nucleotide)
    assert entries["protein"].fingerprint == model_fingerprint(models.protein)
    assert bundle.encoder("protein") == f"owner/protein@{COMMITS['protein']}"
    assert (folder / "500_model.pth").read_bytes() == published.original
    assert load_classifier(bundle.classifier).fingerprint == load_classifier(folder / "500_model.pth").fingerprint
    assert load_classifier(bundle.classifier).chunk_length == "500"
    asked = len(published.hub.asked)
    assert download(NAME) == folder
    assert len(published.hub.asked) == asked


def test_a_preset_begins_with_its_classifier_alone(published: Published) -> None:
    assert not is_here(NAME)
    bundle = find_model(NAME)
    assert bundle.model.encoders["protein"].fingerprint is None
    assert [line.split("/")[1] for line in published.hub.asked] == ["authors"]
    assert is_here(NAME)


def test_offline_asks_nobody(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = cut_off(monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(WeightsError, match=f"`vpdist download {NAME}`"):
        find_model(NAME, offline=True)
    with pytest.raises(WeightsError, match="without --offline"):
        find_model(f"owner/model@{COMMIT}", offline=True)
    assert [model.state for model in listed([])] == [HERE] * len(packaged()) + [TO_DOWNLOAD] * len(PRESETS)
    assert tried == []
    with pytest.raises(WeightsError):
        find_model(NAME)
    assert tried != []


@pytest.mark.parametrize("faults", [[fake_hub.TRUNCATED], [503, fake_hub.TRUNCATED, 500]], ids=str)
def test_a_classifier_that_breaks_off_is_gone_on_with(published: Published, faults: list[str | int]) -> None:
    published.hub.faults["500_model.pth"] = list(faults)
    assert (find_model(NAME).folder / "500_model.pth").read_bytes() == published.original
    assert published.hub.faults["500_model.pth"] == []


def test_another_classifier_than_the_commits_is_refused(published: Published) -> None:
    published.hub.faults["500_model.pth"] = [fake_hub.WRONG]
    with pytest.raises(WeightsError, match=r"500_model\.pth: the host has sent another file: its git digest is"):
        find_model(NAME)
    assert not list(published.home.rglob("*.pth"))
    assert not list(published.home.rglob("model.json"))
    assert find_model(NAME).model.name == NAME


def test_a_model_in_a_repository_of_the_hub_is_fetched_as_it_names_itself(
    published: Published, models: TinyModels, tmp_path: Path
) -> None:
    folders = {"nucleotide": models.nucleotide}
    entry = encoder_entry(models.protein, "protein", hub="owner/protein", revision=COMMITS["protein"])
    entries = {"nucleotide": encoder_entry(models.nucleotide, "nucleotide"), "protein": entry}
    model = replace(published.preset.model, name="of-the-hub", encoders=entries)
    written = write_model(tmp_path / "m", model, load_classifier(models.classifier), encoders=folders)
    (written.folder / "evil.py").write_text("raise SystemExit\n")
    published.hub.add("owner/model", COMMIT, written.folder)
    bundle = find_model(f"owner/model@{COMMIT}")
    assert (bundle.model, bundle.digest) == (written.model, written.digest)
    assert model_fingerprint(Path(bundle.encoder("nucleotide"))) == model_fingerprint(models.nucleotide)
    assert not (bundle.folder / "evil.py").exists()
    assert download(f"owner/model@{COMMIT}") == bundle.folder
    assert any("owner/protein" in line for line in published.hub.asked)
    asked = len(published.hub.asked)
    assert find_model(f"owner/model@{COMMIT}", offline=True) == bundle
    assert len(published.hub.asked) == asked


def test_an_encoder_is_no_model_and_is_still_downloaded(published: Published) -> None:
    name = f"owner/protein@{COMMITS['protein']}"
    assert (download(name) / "config.json").is_file()
    with pytest.raises(WeightsError, match=r"has no model\.json, so it is no model"):
        find_model(name)


def test_an_encoder_that_is_not_the_models_is_refused_with_both_fingerprints(
    published: Published, models: TinyModels, tmp_path: Path
) -> None:
    entry = encoder_entry(models.protein, "protein", hub="owner/protein", revision=COMMITS["protein"])
    other = replace(entry, fingerprint="0" * 32)
    nucleotide = encoder_entry(models.nucleotide, "nucleotide", hub="owner/nucleotide", revision=COMMITS["nucleotide"])
    model = replace(published.preset.model, encoders={"nucleotide": nucleotide, "protein": other})
    write_model(tmp_path / "m", model, load_classifier(models.classifier))
    with pytest.raises(WeightsError, match=f"fingerprint {entry.fingerprint}, but .* has {'0' * 32}"):
        download(str(tmp_path / "m"))


def test_a_short_name_is_no_folder_of_the_current_one(
    published: Published, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert find_model(NAME).folder.is_relative_to(published.home)
    with pytest.raises(WeightsError, match=r"has no model\.json"):
        find_model(f"./{NAME}")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/x", "owner/name", "a/b/c"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    for find in (find_model, download):
        with pytest.raises(WeightsError):
            find(name)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"nor one of the known names: .*virnucpro-500, virnucpro-300"):
        find_model("virnucpro")


def test_a_model_in_this_package_needs_no_download(
    published: Published, models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(NAME)
    shutil.copytree(find_model(NAME).folder, tmp_path / "package" / "mini")
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "package" / "catalogue.py"))
    assert find_model("mini", offline=True).folder == tmp_path / "package" / "mini"
    assert listed([])[0].name == "mini"


def test_the_list_tells_what_is_here(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def entry() -> dict[str, object]:
        assert run_main(monkeypatch, "models", "--json") == 0
        return {model["name"]: model for model in json.loads(capfd.readouterr().out)["models"]}[NAME]

    assert (entry()["state"], entry()["digest"]) == (TO_DOWNLOAD, None)
    find_model(NAME)
    assert entry()["state"] == PARTLY
    assert run_main(monkeypatch, "download", NAME) == 0
    told = capfd.readouterr()
    assert f"{NAME}: {published.home}" in told.out
    assert f"vpdist: {NAME}: about 11.0 GiB in all" in told.err
    assert "downloading 3 files" in told.err
    now = entry()
    assert (now["state"], now["licence"]) == (HERE, "mit")
    bundle = find_model(NAME, offline=True)
    assert now["digest"] == f"sha256:{bundle.digest}"
    snapshots = published.home.rglob("snapshots/*/*")
    in_folder = sum(path.stat().st_size for path in bundle.folder.iterdir())
    assert now["bytes"] == in_folder + sum(path.stat().st_size for path in snapshots)
    assert run_main(monkeypatch, "models", "--folder", bundle.folder.parent, "--folder", tmp_path / "none") == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith(f"{bundle.folder}  (here, ") for line in lines)
    assert any(line.startswith(f"{tmp_path / 'none'}  ({REFUSED}, ") for line in lines)
    assert f"    digest sha256:{bundle.digest}" in lines


def test_a_damaged_download_is_listed_as_refused(published: Published) -> None:
    (find_model(NAME).folder / "model.json").write_text("{")
    refused = next(model for model in listed([]) if model.name == NAME)
    assert refused.state == REFUSED
    assert "model.json: cannot be read as JSON" in refused.accuracy


def test_a_folder_that_cannot_be_read_is_told() -> None:
    with pytest.raises(StorageError, match="cannot be read: File name too long"):
        listed([Path("x" * 300)])


def test_a_download_that_is_not_drawn_is_told_in_tenths(
    published: Published, capfd: pytest.CaptureFixture[str]
) -> None:
    import sys

    from vpdist.models.download_display import DownloadLines

    listener: Listener = DownloadLines(sys.stderr)
    download(NAME, listener)
    told = capfd.readouterr().err.splitlines()
    assert all(line.startswith("vpdist: ") for line in told)
    assert 3 <= sum(" of " in line for line in told) <= 22
