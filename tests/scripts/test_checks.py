"""The pinned packages: all have hashes, and packages that could not be looked up are not reported as audited."""

import json
import re
from pathlib import Path

import pytest

from scripts.checks import audit_versions

ROOT = Path(__file__).parents[2]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Versions by name."""
    matches = re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE)
    return {canonical(name): version for name, version in matches}


def test_every_package_has_hashes_and_its_pinned_version() -> None:
    pinned, hashed = pins(ROOT / "constraints.txt"), pins(ROOT / "constraints-hashes.txt")
    tools = {"atheris", "uv"}  # for the fuzzer and for making the list: not part of the tested set
    shipped_with_pip = {"setuptools"}
    assert len(hashed) > 60
    assert pinned.keys() - hashed.keys() <= tools | shipped_with_pip
    assert {name: hashed[name] for name in pinned.keys() & hashed.keys()} == {
        name: pinned[name] for name in pinned.keys() & hashed.keys()
    }
    entries = re.split(r"\n(?=[\w.-]+==)", (ROOT / "constraints-hashes.txt").read_text())[1:]
    assert len(entries) == len(hashed)
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
        assert "@" not in entry  # no path of a file
        assert "://" not in entry


def report(**packages: object) -> str:
    return json.dumps({"dependencies": [{"name": name, **fields} for name, fields in packages.items()]})  # type: ignore[dict-item]


KNOWN = {"id": "PYSEC-1", "fix_versions": ["2.0"]}


def test_packages_that_were_skipped_are_not_called_audited() -> None:
    audit = audit_versions.Audit(2)
    audit.add(audit_versions.parse_report(report(a={"version": "1", "vulns": []}, b={"skip_reason": "not found"})))
    assert audit.lines() == [
        "audited 1 of 2 pinned packages: no known vulnerability",
        "NOT AUDITED: 1 packages that no service answered for",
    ]


def test_a_known_vulnerability_is_named_with_its_remedy() -> None:
    audit = audit_versions.Audit(1)
    for _ in range(2):
        audit.add(audit_versions.parse_report(report(a={"version": "1", "vulns": [KNOWN]})))
    assert audit.lines()[1:] == ["a 1: PYSEC-1, fixed in 2.0"]


def test_no_answer_is_said_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        audit_versions, "query", lambda service: audit_versions.Answers(reason=f"{service} cannot be reached")
    )
    assert audit_versions.main() == 0
    assert capsys.readouterr().out.startswith("NOT AUDITED: none of")


def test_a_vulnerability_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        audit_versions,
        "query",
        lambda service: audit_versions.parse_report(report(a={"version": "1", "vulns": [KNOWN]})),
    )
    assert audit_versions.main() == 1
