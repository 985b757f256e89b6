"""Values in the ranks' key store: whoever lacks the launch's secret cannot set them."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import HashStore, TCPStore

from scripts.faults import bad_records
from scripts.faults.gate import Gate
from scripts.faults.kills_and_signals import RESUMES
from scripts.faults.launched_runs import Job, Launch, status
from tests.sample import write_contigs
from tests.tiny_models import TinyModels
from vpdist.distributed.runtime import PIECE, KeyStore
from vpdist.distributed.signed_store import SIGNATURE_BYTES, SignedStore
from vpdist.environment import STORE_SECRET, launch_context, with_store_secret
from vpdist.errors import PeerLost

FORGED = '{"rank": 1, "exit_code": 2, "message": "not so"}'


def test_a_value_comes_back_to_whoever_has_the_secret_and_counters_count() -> None:
    store = HashStore()
    one, other = (SignedStore(store, "secret", "attempt") for _ in range(2))
    one.set("key", "é\0text")
    one.set("empty", "")
    assert other.check(["key", "empty"])
    assert not other.check(["key", "another"])
    assert other.get("key") == "é\0text".encode()
    assert other.multi_get(["empty", "key"]) == [b"", "é\0text".encode()]
    assert [one.add("n", 2), other.add("n", 1)] == [2, 3]


def test_without_a_secret_values_are_as_they_are() -> None:
    store = HashStore()
    SignedStore(store).set("key", "text")
    assert store.get("key") == b"text"


@pytest.mark.parametrize("forged", [b"", b"short", b"text", b"x" * SIGNATURE_BYTES, b"x" * SIGNATURE_BYTES + b"text"])
def test_a_value_without_the_secrets_signature_is_refused(forged: bytes) -> None:
    store = HashStore()
    store.set("attempt/key", forged)  # type: ignore[arg-type]
    with pytest.raises(PeerLost, match="'key' that another program has set"):
        SignedStore(store, "secret", "attempt").get("key")


def test_a_signed_value_holds_for_its_key_its_attempt_and_its_secret_only() -> None:
    store = HashStore()
    signed = SignedStore(store, "secret", "attempt")
    signed.set("key", "text")
    value = store.get("attempt/key")
    for elsewhere in ("attempt/other", "attempt2/key"):
        store.set(elsewhere, value)
    with pytest.raises(PeerLost):
        signed.multi_get(["key", "other"])
    with pytest.raises(PeerLost):
        SignedStore(store, "secret", "attempt2").get("key")
    with pytest.raises(PeerLost):
        SignedStore(store, "another secret", "attempt").get("key")


def test_each_piece_of_a_long_text_is_signed() -> None:
    store = HashStore()
    signed = SignedStore(store, "secret", "attempt")
    keys = KeyStore(signed, lambda: signed)
    text = "x" * (PIECE + 1)
    keys.set("key", text)
    assert keys.get("key") == text.encode()
    store.set("attempt/key/piece/1", "y")
    with pytest.raises(PeerLost):
        keys.get("key")


def test_ranks_started_meanwhile_share_a_secret_which_no_text_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE_SECRET, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    secrets = set()
    for _ in range(2):
        with with_store_secret():
            context = launch_context()
        secrets.add(context.store_secret)
        assert len(context.store_secret) == 64
        assert context.store_secret not in repr(context)
    assert len(secrets) == 2
    assert STORE_SECRET not in os.environ
    monkeypatch.setenv(STORE_SECRET, "the user's own")
    with with_store_secret():
        assert launch_context().store_secret == "the user's own"


@pytest.mark.launcher
def test_a_forged_value_ends_the_built_in_launch_which_resumes(models: TinyModels, tmp_path: Path) -> None:
    source = write_contigs(tmp_path / "contigs.fa", n=30)
    job = Job(source, models.nucleotide, models.protein, models.classifier)
    job = replace(job, options=(*job.options, "--nproc", "2"))
    gate, folder = Gate(tmp_path / "gate"), tmp_path / "run"
    with Launch(bad_records.with_faults(job, hold=gate.rule()), folder, (sys.executable,)) as launch:
        assert launch.wait_until(lambda: gate.holds(launch, 2), "both ranks between batches"), launch.console_text()
        environment = Path(f"/proc/{launch.ranks()[1]}/environ").read_text().split("\0")
        (port,) = (entry.removeprefix("MASTER_PORT=") for entry in environment if entry.startswith("MASTER_PORT="))
        stranger = TCPStore("127.0.0.1", int(port), is_master=False)
        (failed,) = (key.replace("decisions", "failed") for key in stranger.list_keys() if key.endswith("/decisions"))
        stranger.set(failed, FORGED)
        launch.end()
        told = launch.console_text()
        assert launch.agent.returncode == 143, told
    assert "the ranks' key store holds a value of 'failed' that another program has set" in told
    assert told.count(RESUMES) == 1
    assert status(folder)["exit_code"] == 143
    with Launch(job, folder, (sys.executable,)) as launch:
        launch.end()
        assert launch.agent.returncode == 0, launch.console_text()
