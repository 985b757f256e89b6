"""Rules about modules: imports go down the folders, torch and the environment stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vpdist"
FOLDERS = (
    "report",
    "estimate",
    "commands",
    "training",
    "embedding",
    "models",
    "results",
    "calibration",
    "planning",
    "sequences",
    "session",
    "display",
    "monitoring",
    "encoders",
    "distributed",
    "storage",
)
"""From the top of the house to its cellar: each imports only from those after it, and from the shared nouns."""
ENTRY = (
    "api",
    "cli",
    "info_command",
    "model_commands",
    "plan_command",
    "run_commands",
    "started_by_api",
    "testing",
    "watch_commands",
    "__main__",
)
"""Modules beside the folders that import from any of them; all others there are shared nouns, which import from none."""
COLLECTIVES = {
    "all_gather",
    "all_reduce",
    "broadcast",
    "barrier",
    "gather",
    "reduce",
    "scatter",
    "all_to_all",
    "new_group",
}
WITHOUT_TORCH = (
    "vpdist.api",
    "vpdist.calibration.fit",
    "vpdist.calibration.judgement",
    "vpdist.cli",
    "vpdist.commands.info",
    "vpdist.config",
    "vpdist.encoder_kinds",
    "vpdist.options",
    "vpdist.display.watch",
    "vpdist.display.choose",
    "vpdist.models.bundle",
    "vpdist.models.choose",
    "vpdist.models.listed",
    "vpdist.monitoring.counters",
    "vpdist.monitoring.liveness",
    "vpdist.planning.plan",
    "vpdist.planning.plan_file",
    "vpdist.commands.export_run",
    "vpdist.report.page",
    "vpdist.results.parts",
    "vpdist.results.tables",
    "vpdist.sequences.records",
    "vpdist.sequences.six_frames",
    "vpdist.sequences.token_store",
    "vpdist.sequences.tokenizers",
    "vpdist.storage.run_folder",
    "vpdist.train_settings",
    "vpdist.training.drawn_pieces",
    "vpdist.training.groups",
    "vpdist.training.judge",
    "vpdist.training.pieces",
    "vpdist.training.sides",
)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> Iterator[str]:
    """Modules of vpdist that `module` imports, anywhere in it."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vpdist":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def folder(module: str) -> str:
    """The folder that a module lies in, or '' beside the folders."""
    return module.split(".")[1] if module.count(".") > 1 or module.removeprefix("vpdist.") in FOLDERS else ""


def wrong(module: str, imported: str) -> bool:
    """Whether an import goes up the house."""
    above, below = folder(module), folder(imported)
    if not above:
        return bool(below) and module.removeprefix("vpdist.") not in ENTRY
    if not below:
        return imported.removeprefix("vpdist.") in ENTRY
    return FOLDERS.index(below) < FOLDERS.index(above)


def test_the_folders_are_those_there_are_and_say_what_they_promise() -> None:
    assert sorted(FOLDERS) == sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
    for name in FOLDERS:
        told = ast.get_docstring(MODULES[f"vpdist.{name}"])
        assert told is not None, name
        assert 2 <= len(told.splitlines()) <= 6, name


def test_imports_go_down_the_folders() -> None:
    assert [(module, imported) for module in MODULES for imported in imports(module) if wrong(module, imported)] == []


def test_an_import_that_goes_up_would_be_seen() -> None:
    assert wrong("vpdist.storage.hdf5_files", "vpdist.results.parts")
    assert wrong("vpdist.results.parts", "vpdist.cli")
    assert wrong("vpdist.errors", "vpdist.storage.hdf5_files")
    assert not wrong("vpdist.results.parts", "vpdist.storage.hdf5_files")
    assert sum(len(list(imports(module))) for module in MODULES) > 200


def test_imports_have_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for imported in imports(module):
                visit(imported, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    assert len(done) == len(MODULES)


def test_modules_and_functions_are_short() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "scripts").rglob("*.py")]:
        source = path.read_text()
        assert source.count("\n") <= 300, f"{path.name} has too many lines"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"


def test_collectives_are_used_where_they_belong_only() -> None:
    users = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in COLLECTIVES and ast.unparse(node.value).endswith("dist")
    }
    assert users == {"vpdist.monitoring.gather", "vpdist.distributed.sums"}


def test_the_environment_is_read_in_one_module_only() -> None:
    readers = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
    }
    assert readers == {"vpdist.environment"}


def test_nothing_is_unpickled_nor_trusted() -> None:
    for module, tree in MODULES.items():
        source = ast.unparse(tree)
        for forbidden in (
            "trust_remote_code=True",
            "weights_only=False",
            "allow_pickle=True",
            "pickle.load",
            "all_gather_object",
        ):
            assert forbidden not in source, module


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_imported_only_where_it_is_used(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert told.stdout.strip() == "False"
