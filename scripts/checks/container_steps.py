"""`python -m scripts.checks.container_steps`: the steps of the images in workflows/container, run without an engine.

Enters: a Dockerfile or an Apptainer definition. Each step is run in its order, with the variables, the folder and the
user that it has there, in a view of this machine's files of its own: an overlay whose changes are thrown away. What the
image copies comes from a copy of the repository without what has been made in it. What differs from an engine: the base
is this machine, and of its environment only pip's settings are kept. Needs root and Linux's overlay file system.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONTAINER = REPOSITORY / "workflows" / "container"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IGNORED = ("FROM", "ARG", "VOLUME", "ENTRYPOINT", "CMD", "LABEL", "EXPOSE")
"""Instructions that run nothing; ARG is read for its default."""
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")
MADE = shutil.ignore_patterns("__pycache__", "*.egg-info")
SECTION = re.compile(r"^%(\w+)\s*$")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and where it is run."""

    command: str
    """For sh."""
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"


class UnknownStepError(Exception):
    """A line that no step can be made of: nothing of an image may be left out silently."""


def steps_of_dockerfile(text: str) -> list[Step]:
    """Its RUN, COPY and WORKDIR instructions, in their order. Raises UnknownStepError."""
    steps: list[Step] = []
    now = Step("", {"PATH": PATH})
    for instruction, argument in _instructions(text):
        if instruction == "ARG":
            name, _, value = argument.partition("=")
            now = replace(now, environment={**now.environment, name: value})
        elif instruction == "ENV":
            for word in shlex.split(argument):
                name, _, value = word.partition("=")
                now = replace(now, environment={**now.environment, name: _expanded(value, now.environment)})
        elif instruction == "WORKDIR":
            now = replace(now, folder=argument)
            steps.append(replace(now, command=f"mkdir -p {shlex.quote(argument)}", folder="/", user="root"))
        elif instruction == "USER":
            now = replace(now, user=argument)
        elif instruction == "COPY":
            *sources, target = argument.split()
            named = " ".join(shlex.quote(f"/context/{source}") for source in sources)
            steps.append(replace(now, command=f"cp -r {named} {shlex.quote(target)}", user="root"))
        elif instruction == "RUN":
            steps.append(replace(now, command=argument))
        elif instruction not in IGNORED:
            raise UnknownStepError(f"{instruction} {argument}")
    return steps


def steps_of_definition(text: str) -> list[Step]:
    """Its %files, %post and %test, in their order. Raises UnknownStepError."""
    sections = _sections(text)
    values = dict(line.strip().partition("=")[::2] for line in sections.pop("arguments", []) if line.strip())
    environment = {"PATH": PATH}
    steps = []
    for line in filter(str.strip, sections.pop("files")):
        source, target = line.split()
        made = f"mkdir -p {shlex.quote(str(Path(target).parent))}"
        steps.append(Step(f"{made} && cp -r {shlex.quote('/context/' + source)} {shlex.quote(target)}", environment))
    post = re.sub(r"\{\{ (\w+) \}\}", lambda found: values[found[1]], "\n".join(sections.pop("post")))
    steps.append(Step(post, environment))
    exports = "\n".join(sections.pop("environment"))
    steps.append(Step(f"{exports}\n" + "\n".join(sections.pop("test")), environment, user="nobody", folder="/tmp"))
    if unknown := sections.keys() - {"", "runscript", "labels"}:
        raise UnknownStepError(f"%{', %'.join(sorted(unknown))}")
    return steps


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instruction and argument of each, continued lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, argument = line.strip().partition(" ")
            yield instruction.upper(), " ".join(argument.split()) if instruction != "RUN" else argument


def _sections(text: str) -> dict[str, list[str]]:
    """Lines by the section of an Apptainer definition; '' is its head."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        heading = SECTION.match(line)
        if heading:
            name = heading[1]
            found[name] = []
        else:
            found[name].append(line)
    return found


def _expanded(value: str, environment: dict[str, str]) -> str:
    return VARIABLE.sub(lambda found: environment.get(found[1] or found[2], ""), value)


def script(steps: list[Step], work: Path) -> str:
    """The shell script that runs `steps` in an overlay below `work`; for `unshare --mount`."""
    root = shlex.quote(str(work / "root"))
    lines = [
        "set -eu",
        f"cd {shlex.quote(str(work))}",
        "mkdir changes overlay root",
        "mount -t overlay overlay -o lowerdir=/,upperdir=changes,workdir=overlay root",
        f"mkdir {root}/context && cp -r context/. {root}/context/",
        f"mount --rbind /proc {root}/proc && mount --rbind /dev {root}/dev",
        f"mount -t tmpfs -o mode=1777 tmp {root}/tmp",
    ]
    for step in steps:
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        home = "/root" if step.user == "root" else "/tmp"
        variables = {**kept, "HOME": home, **{name: value for name, value in step.environment.items() if value}}
        given = " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())
        inner = f"cd {shlex.quote(step.folder)}\n{step.command}"
        lines.append(f"echo {shlex.quote('step: ' + ' '.join(step.command.split())[:100])}")
        user = "" if step.user == "root" else f"setpriv --reuid={step.user} --regid={_group(step)} --clear-groups "
        lines.append(f"env -i {given} chroot {root} {user}/bin/sh -e -c {shlex.quote(inner)}")
    return "\n".join(lines) + "\n"


def _group(step: Step) -> str:
    return "nogroup" if step.user == "nobody" else step.user


def run(path: Path) -> int:
    """Run the steps of an image; the exit code of the first that fails."""
    text = path.read_text()
    steps = steps_of_definition(text) if path.suffix == ".def" else steps_of_dockerfile(text)
    with tempfile.TemporaryDirectory(prefix="vpdist-container-") as name:
        context = Path(name, "context")
        for folder in ("vpdist", "docs", "workflows"):
            shutil.copytree(REPOSITORY / folder, context / folder, ignore=MADE)
        for file in REPOSITORY.iterdir():
            if file.is_file():
                shutil.copy(file, context)
        written = Path(name, "steps.sh")
        written.write_text(script(steps, Path(name)))
        code = subprocess.run(["unshare", "--mount", "sh", str(written)], check=False).returncode
    print(f"{path.name}: {len(steps)} steps {'done' if code == 0 else f'ended with {code}'}", flush=True)
    return code


def main() -> int:
    """Run the files that are named, else both; exits with 1 where a step fails, with 0 where nothing can be tried."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or "overlay" not in Path("/proc/filesystems").read_text():
        print("skipped: needs root, unshare and the overlay file system")
        return 0
    paths = [Path(name) for name in sys.argv[1:]] or [CONTAINER / "Dockerfile", CONTAINER / "vpdist.def"]
    codes = [run(path) for path in paths]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
