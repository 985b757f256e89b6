"""The first line of a command and its last words."""

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import vpdist
from vpdist.session.first_sign import first_sign
from vpdist.session.last_words import tell_agent
from vpdist.storage.run_folder import RunFolder


def test_the_sentence_stands_where_torchrun_prints_root_causes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    tell_agent("reads.fa: line 7: \x1b[2J not valid")
    silent = ProcessFailure(local_rank=1, pid=2, exitcode=3, error_file=str(tmp_path / "none"))
    told = ProcessFailure(local_rank=0, pid=1, exitcode=3, error_file=str(path))
    printed = str(ChildFailedError("vpdist", {1: silent, 0: told}))
    root_cause = printed.split("Root Cause")[1]
    assert "reads.fa: line 7:  [2J not valid" in root_cause
    assert "\x1b" not in printed


def test_without_an_agent_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    tell_agent("why")
    assert not (tmp_path / "error.json").exists()


def test_an_agents_file_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    tell_agent("why")


@pytest.mark.parametrize(
    ("state", "restart", "told"),
    [
        (None, False, "starting"),
        (None, True, "starting"),
        ("done", False, "complete since 2026-11-26 12:04; checking its files, only what is missing is computed"),
        ("done_with_failures", False, "complete, with failures listed since"),
        ("done", True, "starting anew, what it holds is discarded"),
        ("interrupted", False, "going on with a run that was interrupted (2026-11-26 12:04)"),
        ("running", False, "going on with a run that was ended without a word"),
    ],
)
def test_the_first_line_says_what_becomes_of_the_folder(
    tmp_path: Path, state: str | None, restart: bool, told: str
) -> None:
    folder = RunFolder(tmp_path)
    if state is not None:
        status = {"state": state, "exit_code": 0, "failing_rank": None, "updated": "2026-11-26T12:04:11+0000"}
        folder.status.write_text(json.dumps(status))
    line = first_sign(folder, restart=restart)
    assert line.startswith(f"vpdist {vpdist.__version__}, {tmp_path}: {told}")
    assert "\n" not in line
