"""Encoders from the hub: fetched once, whole and checked, whatever the host answers."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fake_hub
from tests.fake_hub import FakeHub, serving
from tests.tiny_models import write_esm2
from vpdist.encoders.hub import encoder_files, resolve_model
from vpdist.encoders.weights import model_fingerprint
from vpdist.errors import Interrupted, StorageError, WeightsError
from vpdist.storage import downloads
from vpdist.storage.downloads import Digest, Listener, RemoteFile, fetch, first_line

COMMIT, OTHER = "a" * 40, "b" * 40
MODEL = f"owner/small@{COMMIT}"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def esm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_esm2(tmp_path_factory.mktemp("hub") / "esm2")
    (folder / "modeling.py").write_text("raise SystemExit('code that came with a model was run')\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, esm2: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A server with one encoder, and an empty cache; no pause between tries."""
    with serving() as server:
        server.add("owner/small", COMMIT, esm2)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(downloads, "FIRST_PAUSE_S", 0.0)
        monkeypatch.setattr(downloads, "SPARE_BYTES", 0)
        yield server


class Told(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun: list[tuple[int, int]] = []
        self.come = 0

    def begin(self, what: str, missing: int, n_files: int) -> None:
        self.begun.append((missing, n_files))

    def advance(self, n_bytes: int) -> None:
        self.come += n_bytes

    def tell(self, text: str) -> None:
        self.lines.append(text)


def files_of(hub: FakeHub) -> list[str]:
    return [line.split("/")[-1].split()[0] for line in hub.asked if "/resolve/" in line and "/cdn/" not in line]


def test_an_encoder_is_fetched_whole_with_its_size_told_beforehand(hub: FakeHub, esm2: Path) -> None:
    told = Told()
    folder = resolve_model(MODEL, listener=told)
    assert model_fingerprint(folder) == model_fingerprint(esm2)
    wanted = encoder_files(path.name for path in esm2.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == sorted(wanted)
    assert "modeling.py" not in wanted
    assert told.begun == [(sum((esm2 / name).stat().st_size for name in wanted), len(wanted))]
    assert told.come == told.begun[0][0]


def test_what_is_here_is_not_asked_for_again(hub: FakeHub) -> None:
    folder = resolve_model(MODEL)
    asked = len(hub.asked)
    assert resolve_model(MODEL) == resolve_model(MODEL, offline=True) == folder
    assert len(hub.asked) == asked


def test_other_programs_find_the_download_in_the_hubs_cache(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    folder, asked = resolve_model(MODEL), len(hub.asked)
    path = hf_hub_download("owner/small", WEIGHTS, revision=COMMIT, cache_dir=tmp_path / "cache")
    assert Path(path) == folder / WEIGHTS
    assert len(hub.asked) == asked


def test_offline_opens_no_connection(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import close_session

    folder = resolve_model(MODEL)
    close_session()  # with the connection that it keeps
    tried = []

    def cut_off(*_: object, **__: object) -> None:
        tried.append(1)
        raise OSError("the network is cut off")

    monkeypatch.setattr(socket, "socket", cut_off)
    monkeypatch.setattr(socket, "create_connection", cut_off)
    monkeypatch.setattr(socket, "getaddrinfo", cut_off)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub library's tries
    assert resolve_model(MODEL, offline=True) == folder
    with pytest.raises(WeightsError, match="without --offline"):
        resolve_model(f"owner/small@{OTHER}", offline=True)
    assert tried == []
    with pytest.raises(WeightsError, match="check the network"):
        resolve_model(f"owner/small@{OTHER}")
    assert tried != []


@pytest.mark.parametrize(
    "faults",
    [
        [fake_hub.TRUNCATED],
        [fake_hub.TRUNCATED, 503, fake_hub.TRUNCATED, 429, fake_hub.TRUNCATED],
        [fake_hub.TRUNCATED, fake_hub.WITHOUT_RANGES],
        [500, 502, 504],
    ],
    ids=str,
)
def test_an_answer_that_breaks_off_is_gone_on_with(hub: FakeHub, esm2: Path, faults: list[str | int]) -> None:
    hub.faults[WEIGHTS] = list(faults)
    told = Told()
    folder = resolve_model(MODEL, listener=told)
    assert hub.faults[WEIGHTS] == []
    assert model_fingerprint(folder) == model_fingerprint(esm2)
    assert told.come == told.begun[0][0]
    assert sum("trying again" in line for line in told.lines) >= 1
    if faults[0] == fake_hub.TRUNCATED:
        assert any("bytes=" in line for line in hub.asked)


def test_a_host_that_falls_silent_is_asked_again(hub: FakeHub, esm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SILENCE_S", 0.3)
    hub.faults[WEIGHTS] = [fake_hub.SILENT]
    assert model_fingerprint(resolve_model(MODEL)) == model_fingerprint(esm2)
    assert any("bytes=" in line for line in hub.asked)


@pytest.mark.parametrize(("name", "digest"), [(WEIGHTS, "sha256"), ("config.json", "git")])
def test_other_bytes_than_listed_are_refused_and_not_kept(
    hub: FakeHub, esm2: Path, tmp_path: Path, name: str, digest: str
) -> None:
    hub.faults[name] = [fake_hub.WRONG]
    with pytest.raises(WeightsError, match=rf"{name}: the host has sent another file: its {digest} digest is"):
        resolve_model(MODEL)
    assert not any(len(path.name) >= 40 and path.name.endswith(".part") for path in (tmp_path / "cache").rglob("*"))
    assert not [path for path in (tmp_path / "cache").rglob(name) if path.exists()]
    assert model_fingerprint(resolve_model(MODEL)) == model_fingerprint(esm2)


def test_more_bytes_than_listed_are_refused(hub: FakeHub) -> None:
    hub.faults[WEIGHTS] = [fake_hub.LONGER]
    with pytest.raises(WeightsError, match="sends more than the"):
        resolve_model(MODEL)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_host_that_refuses_is_not_asked_again(hub: FakeHub, status: int) -> None:
    hub.faults[WEIGHTS] = [status] * 3
    with pytest.raises(WeightsError, match=f"the host answers {status}"):
        resolve_model(MODEL)
    assert len(hub.faults[WEIGHTS]) == 2


def test_a_host_that_fails_for_long_is_given_up_and_gone_on_with_later(hub: FakeHub, esm2: Path) -> None:
    hub.faults[WEIGHTS] = [fake_hub.TRUNCATED, *[503] * downloads.TRIES]
    with pytest.raises(WeightsError, match="give the same command again to go on"):
        resolve_model(MODEL)
    hub.faults.clear()
    told, asked = Told(), len(hub.asked)
    assert model_fingerprint(resolve_model(MODEL, listener=told)) == model_fingerprint(esm2)
    later = hub.asked[asked:]
    assert any(f"bytes={(esm2 / WEIGHTS).stat().st_size // 2}-" in line for line in later)
    assert told.begun[0][0] < sum((esm2 / name).stat().st_size for name in encoder_files([WEIGHTS]))


def test_an_interrupted_download_goes_on_where_it_was(hub: FakeHub, esm2: Path) -> None:
    class Stops(Listener):
        def tell(self, text: str) -> None:
            raise Interrupted("stopped by SIGINT")

    hub.faults[WEIGHTS] = [fake_hub.TRUNCATED]
    with pytest.raises(Interrupted):
        resolve_model(MODEL, listener=Stops())
    assert model_fingerprint(resolve_model(MODEL)) == model_fingerprint(esm2)
    assert any("bytes=" in line for line in hub.asked)


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"takes .* more, but only"):
        resolve_model(MODEL)
    assert files_of(hub) == []


def test_a_repository_that_is_not_there_is_told(hub: FakeHub) -> None:
    with pytest.raises(WeightsError, match=rf"owner/none@{OTHER}: cannot be downloaded"):
        resolve_model(f"owner/none@{OTHER}")


def test_a_branch_is_the_commit_that_it_was(hub: FakeHub) -> None:
    hub.branches["owner/small", "v1"] = COMMIT
    folder = resolve_model("owner/small@v1")
    assert folder.name == COMMIT
    assert resolve_model("owner/small@v1", offline=True) == folder


def test_names_in_a_listing_lead_nowhere_else(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repositories["owner/small", COMMIT]
    files["../../../../config.json"] = b"{}"
    files["/vocab.txt"] = b"x"
    folder = resolve_model(MODEL)
    assert {path.resolve().parent for path in folder.iterdir()} == {folder.parents[1] / "blobs"}
    assert not (tmp_path / "config.json").exists()


def test_a_listing_without_digests_is_refused(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_hub, "git_blob", lambda content: "../../x")
    with pytest.raises(WeightsError, match="without a digest or a size"):
        resolve_model(MODEL)


def test_pickled_weights_are_fetched_only_where_there_are_no_safetensors() -> None:
    both = ["config.json", "pytorch_model.bin", "model.safetensors", "x.py", "tf_model.h5", "vocab.txt"]
    assert encoder_files(both) == ["config.json", "vocab.txt", "model.safetensors"]
    assert encoder_files(both[:2]) == ["config.json", "pytorch_model.bin"]
    shards = ["model.safetensors.index.json", "model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    assert encoder_files(shards) == [shards[0], shards[2], shards[1]]
    assert encoder_files([f"a/{name}" for name in both], "a") == ["a/config.json", "a/vocab.txt", "a/model.safetensors"]


def test_the_token_is_sent_to_the_hub_alone(hub: FakeHub, esm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving() as elsewhere:
        elsewhere.add("owner/small", COMMIT, esm2)
        hub.large_files_at = elsewhere.endpoint
        assert model_fingerprint(resolve_model(MODEL)) == model_fingerprint(esm2)
        assert set(hub.tokens) == {"Bearer secret"}
        assert any("/cdn/" in line for line in elsewhere.asked)
        assert elsewhere.tokens == []


PROGRAM = """
import sys
from vpdist.encoders.hub import resolve_model
from vpdist.storage import downloads
downloads.SPARE_BYTES = 0
print(resolve_model(sys.argv[1]), flush=True)
"""


def test_two_processes_fetch_a_model_once(hub: FakeHub, esm2: Path, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", PROGRAM, MODEL]
    processes = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [process.communicate(timeout=600)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert folders[0] == folders[1]
    content = (Path(folders[0]) / WEIGHTS).read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256((esm2 / WEIGHTS).read_bytes()).digest()
    assert files_of(hub).count(WEIGHTS) == 1


def test_the_password_of_a_mirror_is_not_told(hub: FakeHub, tmp_path: Path) -> None:
    address = hub.endpoint.replace("http://", "http://me:5ec4e7@") + "/none/resolve/x?token=5ec4e7"
    file = RemoteFile(url=address, target=tmp_path / "x", digest=Digest(kind="sha256", value="0" * 64), size=3)
    with pytest.raises(WeightsError, match=f"{hub.endpoint}/none/resolve/x: cannot be downloaded: ") as raised:
        fetch(file, sleep=lambda pause_s: None)
    assert "5ec4e7" not in str(raised.value)
    assert first_line(OSError(f"Client error '404' for url '{address}'")) == (
        f"Client error '404' for url '{hub.endpoint}/none/resolve/x'"
    )
