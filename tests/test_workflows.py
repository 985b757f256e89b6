"""What lies in workflows/ fits this version: its options, files, dependencies and version. `make check-workflows` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer.main
import yaml

import vpdist
from scripts.checks import container_steps, workflows
from scripts.checks.container_steps import Step, UnknownStepError, steps_of_definition, steps_of_dockerfile
from scripts.checks.workflows import nextflow_script
from tests.launched import PATIENCE_S
from vpdist import cli
from vpdist.storage import run_folder

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = REPOSITORY / "workflows"
MODULE = WORKFLOWS / "nextflow" / "vpdist" / "predict"
DOCKERFILE, DEFINITION = WORKFLOWS / "container" / "Dockerfile", WORKFLOWS / "container" / "vpdist.def"
GALAXY = WORKFLOWS / "galaxy" / "vpdist_predict.xml"
CALLING = (WORKFLOWS / "snakemake" / "Snakefile", MODULE / "main.nf", WORKFLOWS / "wdl" / "vpdist.wdl", GALAXY)
OF_OTHERS = {"--strip-components", "--version"}
LEFT_BY_RUNS = {
    *run_folder.TABLES,
    *run_folder.CALL_FILES,
    run_folder.REPORT,
    *run_folder.WITH_REPORT,
}
OTHER_NAMES = {"torch": "pytorch", "xxhash": "python-xxhash"}
"""Of packages, where conda calls them otherwise."""

calling = pytest.mark.parametrize("path", CALLING, ids=[path.name for path in CALLING])


def project() -> dict[str, object]:
    return dict(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"])


def recipe() -> dict[str, object]:
    """The Bioconda recipe, its templates filled in as conda-build does."""
    text = (WORKFLOWS / "bioconda" / "meta.yaml").read_text()
    values = dict(re.findall(r'{% set (\w+) = "([^"]+)" %}', text))
    text = re.sub(r"{% .* %}\n", "", text)
    text = re.sub(r"{{ pin_subpackage\(name, .*?\) }}", values["name"], text)
    return dict(yaml.safe_load(re.sub(r"{{ (\w+) }}", lambda found: values.get(found[1], found[1]), text)))


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (DOCKERFILE, r"-t vpdist:(\S+)"),
        (MODULE / "main.nf", r'container "vpdist:(\S+)"'),
        (MODULE / "environment.yml", r"bioconda::vpdist=(\S+)"),
        (WORKFLOWS / "snakemake" / "environment.yml", r"bioconda::vpdist=(\S+)"),
        (WORKFLOWS / "wdl" / "vpdist.wdl", r'docker = "vpdist:(\S+)"'),
        (WORKFLOWS / "bioconda" / "meta.yaml", r'set version = "(\S+)"'),
        (GALAXY, r'name="@TOOL_VERSION@">([^<]+)<'),
    ],
)
def test_each_names_this_version(path: Path, pattern: str) -> None:
    assert re.findall(pattern, path.read_text()) == [vpdist.__version__]


@calling
def test_every_option_that_is_used_is_one(path: Path) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    known = {name for command in ("predict", "report") for each in commands[command].params for name in each.opts}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", path.read_text()))
    assert {"--output", "--model", "--multiqc", "--nproc"} <= used
    assert used - known - OF_OTHERS == set()


@calling
def test_every_file_that_is_taken_is_left_by_a_run(path: Path) -> None:
    taken = set(re.findall(r"(?:run|prefix}|sample}+)/([\w.]+\.\w+)", path.read_text()))
    assert {"sequences.tsv", "virus.fna.gz", "report.html"} <= taken
    assert taken - LEFT_BY_RUNS == set()


def test_the_recipe_has_the_dependencies_of_the_package() -> None:
    wanted = []
    for requirement in project()["dependencies"]:  # type: ignore[attr-defined]
        name, least = requirement.split(">=")
        wanted.append(f"{OTHER_NAMES.get(name, name)} >={least}")
    python = f"python {project()['requires-python']}"
    required = recipe()["requirements"]
    assert required["run"] == [python, *wanted]  # type: ignore[index]
    assert python in required["host"]  # type: ignore[index]
    (script,) = recipe()["build"]["entry_points"]  # type: ignore[index]
    assert script == f"vpdist = {project()['scripts']['vpdist']}"  # type: ignore[index]


def test_the_nextflow_module_describes_what_it_emits() -> None:
    emitted = re.findall(r"emit: (\w+)", (MODULE / "main.nf").read_text())
    meta = yaml.safe_load((MODULE / "meta.yml").read_text())
    assert list(meta["output"]) == emitted
    assert meta["name"].upper() == "VPDIST_PREDICT"


def test_the_stub_leaves_every_file_that_the_nextflow_module_emits(tmp_path: Path) -> None:
    (tmp_path / "vpdist").write_text(f"#!/bin/sh\necho vpdist {vpdist.__version__}\n")
    (tmp_path / "vpdist").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", nextflow_script("stub")]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, timeout=PATIENCE_S)
    emitted = re.findall(r'path\(?\s*"([^"]+)"', (MODULE / "main.nf").read_text())
    assert len(emitted) == 9
    assert [name for name in emitted if not (tmp_path / name.replace("${prefix}", "one")).is_file()] == []
    assert yaml.safe_load((tmp_path / "versions.yml").read_text()) == {"VPDIST_PREDICT": {"vpdist": vpdist.__version__}}
    assert "${" not in nextflow_script("script")


def test_the_galaxy_wrapper_tests_outputs_and_inputs_that_it_has() -> None:
    tool = ElementTree.parse(GALAXY).getroot()
    inputs = {
        each.get("name") or (each.get("argument") or "")[2:].replace("-", "_") for each in tool.iterfind("inputs/param")
    }
    outputs = {each.get("name") for each in tool.iterfind("outputs/data")}
    tests = tool.findall("tests/test")
    assert len(tests) == 2
    for test in tests:
        assert {each.get("name") for each in test.iterfind("param")} <= inputs
        assert {each.get("name") for each in test.iterfind("output")} <= outputs
        assert all(
            (GALAXY.parent / "test-data" / str(each.get("value"))).is_file() for each in test.iterfind("param[@ftype]")
        )


def test_the_images_take_the_tested_torch_and_files_that_are_there() -> None:
    (pinned,) = re.findall(r"^torch==\S+", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    for path, steps in ((DOCKERFILE, steps_of_dockerfile), (DEFINITION, steps_of_definition)):
        assert f"TORCH={pinned}\n" in path.read_text()
        copied = {name for step in steps(path.read_text()) for name in re.findall(r"/context/(\S+)", step.command)}
        assert "vpdist" in {name.removeprefix("./") for name in copied}
        assert [name for name in copied if not (REPOSITORY / name).exists()] == []
    sent = set(re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        name
        for step in steps_of_dockerfile(DOCKERFILE.read_text())
        for name in re.findall(r"/context/(\S+)", step.command)
    }
    assert copied == sent


def test_the_image_ends_as_a_user_who_is_not_root_and_has_tried_itself() -> None:
    last = steps_of_dockerfile(DOCKERFILE.read_text())[-1]
    assert (last.command, last.user, last.folder) == ("vpdist check --device cpu", "vpdist", "/data")
    assert last.environment["HF_HOME"] == "/models"
    assert last.environment["PATH"].startswith("/opt/vpdist/bin:/usr/local/sbin:")
    tried = steps_of_definition(DEFINITION.read_text())[-1]
    assert "vpdist check" in tried.command
    assert tried.user != "root"


def test_steps_have_the_variables_folder_and_user_of_their_place() -> None:
    text = "FROM x\n# a comment\nARG A=1\nRUN one \\\n    two\nENV B=$A C=3\nWORKDIR /w\nUSER u\nRUN three\n"
    one, made, three = steps_of_dockerfile(text)
    assert (one.command.split(), one.folder, one.user, one.environment["A"]) == (["one", "two"], "/", "root", "1")
    assert made.command == "mkdir -p /w"
    assert (three.command, three.folder, three.user) == ("three", "/w", "u")
    assert (three.environment["B"], three.environment["C"]) == ("1", "3")
    with pytest.raises(UnknownStepError, match="ADD x y"):
        steps_of_dockerfile("FROM x\nADD x y\n")
    with pytest.raises(UnknownStepError, match="%setup"):
        steps_of_definition("%setup\n%files\n%post\n%environment\n%test\n")


def test_steps_are_run_in_their_order_by_one_script(tmp_path: Path) -> None:
    steps = [Step("first", {"A": "1 2", "EMPTY": ""}), Step("second", {}, "/w", "u")]
    lines = container_steps.script(steps, tmp_path).splitlines()
    first = next(number for number, line in enumerate(lines) if "step: first" in line)
    assert "'A=1 2'" in lines[first + 1]
    assert "EMPTY" not in lines[first + 1]
    assert "setpriv --reuid=u" in "\n".join(lines[first + 3 :])
    shown = subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, capture_output=True, timeout=PATIENCE_S)
    assert (shown.returncode, shown.stderr) == (0, "")


def test_nothing_is_tried_without_root(tmp_path: Path) -> None:
    program = "import os; os.geteuid = lambda: 1; from scripts.checks.container_steps import main; print(main())"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert told.stdout == "skipped: needs root, unshare and the overlay file system\n0\n"


@pytest.mark.slow
@pytest.mark.launcher
def test_snakemake_runs_the_rules_on_two_samples() -> None:
    if not (workflows.PROGRAMS / "snakemake").exists():
        pytest.skip("needs snakemake: make check-workflows installs it into build/workflows")
    assert workflows.snakemake() == "linted; run on two samples"


def test_a_check_that_fails_is_told_with_what_its_program_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflows, "CHECKS", {"one": lambda: workflows.called("sh", "-c", "echo wrong; exit 3")})
    monkeypatch.setattr(sys, "argv", ["workflows"])
    assert workflows.main() == 1
    assert capsys.readouterr().out == "one        FAILED sh ended with 3:\nwrong\n\n"
    monkeypatch.setattr(workflows, "CHECKS", {"one": lambda: workflows.called("echo", "fine").strip()})
    assert workflows.main() == 0
    assert capsys.readouterr().out == "one        ok     fine\n"
