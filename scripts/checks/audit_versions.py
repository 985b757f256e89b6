"""`python -m scripts.checks.audit_versions`: compare the pinned versions with lists of known vulnerabilities.

Exits with 1 if a pinned version has one. If no service answers, it reports that nothing was audited and exits with 0: a
build without network is no failure, but no successful audit either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

PINS = Path(__file__).parents[2] / "constraints.txt"
SERVICES = ("pypi", "osv")
TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one service."""

    audited: frozenset[str] = frozenset()
    """Names of packages that the service knows."""
    vulnerable: tuple[str, ...] = ()
    """A line for each known vulnerability."""
    reason: str = ""
    """Why it did not answer, empty if it did."""


@dataclass(slots=True)
class Audit:
    """The answers of all services."""

    n_pins: int
    audited: set[str] = field(default_factory=set)
    vulnerable: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, answers: Answers) -> None:
        self.audited |= answers.audited
        self.vulnerable += [line for line in answers.vulnerable if line not in self.vulnerable]
        self.reasons += [answers.reason] * bool(answers.reason)

    def lines(self) -> list[str]:
        """The report, a line for each vulnerability and for packages that were not audited."""
        if not self.audited:
            reasons = "; ".join(dict.fromkeys(self.reasons)) or "no service knows any of them"
            return [f"NOT AUDITED: none of {self.n_pins} pinned packages could be looked up ({reasons})"]
        summary = f"audited {len(self.audited)} of {self.n_pins} pinned packages: "
        summary += f"{len(self.vulnerable)} known vulnerabilities" if self.vulnerable else "no known vulnerability"
        left = self.n_pins - len(self.audited)
        return [
            summary,
            *self.vulnerable,
            *([f"NOT AUDITED: {left} packages that no service answered for"] * (left > 0)),
        ]


def parse_report(report: str) -> Answers:
    """Read pip-audit's JSON, in which packages without an answer have a `skip_reason`."""
    packages = json.loads(report)["dependencies"]
    lines = [
        f"{package['name']} {package['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'none'}"
        for package in packages
        for known in package.get("vulns", ())
    ]
    return Answers(frozenset(package["name"] for package in packages if "skip_reason" not in package), tuple(lines))


def query(service: str) -> Answers:
    """Look all pinned versions up in one service."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", service, "--format", "json", "--output", str(report)]
        command += ["--timeout", "10", "--progress-spinner", "off"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return Answers(reason=f"{service} did not answer in {TIMEOUT_S} s")
        if not report.is_file():
            last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            return Answers(reason=f"{service}: {last.partition('(')[0]}")
        return parse_report(report.read_text())


def main() -> int:
    pins = [line for line in PINS.read_text().splitlines() if "==" in line]
    audit = Audit(len(pins))
    for service in SERVICES:
        audit.add(query(service))
        if len(audit.audited) == len(pins):
            break
    print("\n".join(audit.lines()))
    return int(bool(audit.vulnerable))


if __name__ == "__main__":
    sys.exit(main())
