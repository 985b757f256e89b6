"""`python -m scripts.checks.nf_core_module FOLDER`: nf-core's own rules for a module, without its server.

`nf-core modules lint` clones nf-core/modules for its schema and asks Nextflow which image a module uses. This takes
from the same package what needs neither: the rules for main.nf, and whether meta.yml lists what main.nf takes and
gives. Prints what was found; exits with 1 for a rule that is broken. Needs nf-core (workflows/requirements.txt).
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

NEEDS_NEXTFLOW = {"docker_tag", "singularity_tag"}
"""Rules that are about the answer of `nextflow inspect`."""


def findings(folder: Path) -> dict[str, list[str]]:
    """Rules by `passed`, `warned` and `failed`, each with what it says. `folder`: TOOL/SUBTOOL of a module."""
    from nf_core.components.nfcore_component import NFCoreComponent
    from nf_core.modules.lint.main_nf import main_nf
    from nf_core.modules.lint.meta_yml import meta_yml
    from nf_core.modules.lint.module_todos import module_todos

    folder = folder.resolve()
    name = "/".join(folder.parts[-2:])
    module = NFCoreComponent(name, None, folder, "modules", folder.parents[1], "modules")
    module.get_container_with_inspect = lambda profile="": None
    module.get_inputs_from_main_nf()
    module.get_outputs_from_main_nf()
    module.get_topics_from_main_nf()
    lint = SimpleNamespace(  # an empty schema: that of nf-core is on its server
        registry=(), load_meta_schema=dict, modules_repo=SimpleNamespace(repo_path="nf-core", remote_url="")
    )
    main_nf(lint, module, False, (), None)
    meta_yml(lint, module)
    module_todos(lint, module)
    return {
        kind: [f"{rule}: {said}" for _, rule, said, _ in getattr(module, kind) if rule not in NEEDS_NEXTFLOW]
        for kind in ("passed", "warned", "failed")
    }


def main() -> int:
    """Exits with 1 where a rule is broken, or none was applied."""
    found = findings(Path(sys.argv[1]))
    for kind in ("warned", "failed"):
        print(*(f"{kind}: {text}" for text in found[kind]), sep="\n")
    print(f"nf-core: {len(found['passed'])} rules hold, {len(found['failed'])} are broken")
    return int(bool(found["failed"]) or not found["passed"])


if __name__ == "__main__":
    sys.exit(main())
