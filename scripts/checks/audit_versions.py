"""Compare the pinned versions with the public lists of known vulnerabilities.

    python -m scripts.checks.audit_versions

Exits with 1 if a pinned version has one. Where no service answers it says that nothing was audited, and exits with 0: a
build without network is no fault, but nobody should read it as a clean bill of health.
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
PATIENCE_S = 180


@dataclass(frozen=True, slots=True)
class Answers:
    """What a service knows."""

    audited: frozenset[str] = frozenset()
    """Names of packages that it knows."""
    vulnerable: tuple[str, ...] = ()
    """A line for each known vulnerability."""
    reason: str = ""
    """Why it answered for none."""


@dataclass(slots=True)
class Verdict:
    """What all services know together."""

    n_pins: int
    audited: set[str] = field(default_factory=set)
    vulnerable: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, answers: Answers) -> None:
        self.audited |= answers.audited
        self.vulnerable += [line for line in answers.vulnerable if line not in self.vulnerable]
        self.reasons += [answers.reason] * bool(answers.reason)

    def lines(self) -> list[str]:
        """For people."""
        if not self.audited:
            reasons = "; ".join(dict.fromkeys(self.reasons)) or "no service knows any of them"
            return [f"NOT AUDITED: none of {self.n_pins} pinned packages could be looked up ({reasons})"]
        told = f"audited {len(self.audited)} of {self.n_pins} pinned packages: "
        told += f"{len(self.vulnerable)} known vulnerabilities" if self.vulnerable else "no known vulnerability"
        left = self.n_pins - len(self.audited)
        return [told, *self.vulnerable, *([f"NOT AUDITED: {left} packages that no service answered for"] * (left > 0))]


def answers_of(report: str) -> Answers:
    """From pip-audit's JSON. Packages without an answer are listed there with a reason, and count as not audited."""
    packages = json.loads(report)["dependencies"]
    lines = [
        f"{package['name']} {package['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'none'}"
        for package in packages
        for known in package.get("vulns", ())
    ]
    return Answers(frozenset(package["name"] for package in packages if "skip_reason" not in package), tuple(lines))


def ask(service: str) -> Answers:
    """Ask one service about all pins."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", service, "--format", "json", "--output", str(report)]
        command += ["--timeout", "10", "--progress-spinner", "off"]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            return Answers(reason=f"{service} did not answer in {PATIENCE_S} s")
        if not report.is_file():
            last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
            return Answers(reason=f"{service}: {last.partition('(')[0]}")
        return answers_of(report.read_text())


def main() -> int:
    pins = [line for line in PINS.read_text().splitlines() if "==" in line]
    verdict = Verdict(len(pins))
    for service in SERVICES:
        verdict.add(ask(service))
        if len(verdict.audited) == len(pins):
            break
    print("\n".join(verdict.lines()))
    return int(bool(verdict.vulnerable))


if __name__ == "__main__":
    sys.exit(main())
