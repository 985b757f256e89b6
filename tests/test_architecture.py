"""Rules about modules: imports go one way, torch and the environment stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vpdist"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__main__")
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
    "encoder_kinds",
    "plan",
    "fragments",
    "records",
    "tokens",
    "store",
    "tables",
    "parts",
    "config",
    "options",
    "cli",
    "counters",
    "display",
    "watch",
)


def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def imports(module: str) -> set[str]:
    """Modules of vpdist that `module` imports when it is imported itself."""
    found: set[str] = set()
    for node in tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module == "vpdist":
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vpdist."):
            found.add(str(node.module).split(".")[1])
    return found


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


def test_stages_do_not_know_the_run() -> None:
    above = {"run", "classify", "verify", "watch", "session", "cli", "options", "launch"}
    below = {
        "records",
        "fragments",
        "tokens",
        "store",
        "plan",
        "layout",
        "parts",
        "tables",
        "embed",
        "sampler",
        "encoders",
    }
    for module in below:
        assert not imports(module) & above, module


def test_collectives_are_used_in_one_module_only() -> None:
    users = set()
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in COLLECTIVES
                and ast.unparse(node.value).endswith("dist")
            ):
                users.add(module)
    assert users == {"exchange"}


def test_the_environment_is_read_in_one_module_only() -> None:
    readers = {
        module
        for module in MODULES
        if "os.environ" in ast.unparse(tree(module)) or "getenv" in ast.unparse(tree(module))
    }
    assert readers == {"environment"}


def test_nothing_is_unpickled_nor_trusted() -> None:
    for module in MODULES:
        source = ast.unparse(tree(module))
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
    program = f"import sys, vpdist.{module}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert told.stdout.strip() == "False"
