"""A hook of mkdocs: pages that lie beside docs/ become pages of the site, and links to them hold there.

Enters: the pages of docs/, whose links hold in the repository (`../SECURITY.md`). Leaves: the same with links of the
site (`SECURITY.md`). The README stays out: index.md is its counterpart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?:\.\./|docs/)?([\w-]+\.md(?:#[\w-]+)?)(?=\))")
"""The target of a relative link, from a page of docs/ or from one beside it."""


def on_files(files: Any, config: Any) -> Any:
    """mkdocs calls it with all files of the site; adds those beside docs/."""
    from mkdocs.structure.files import File

    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls it with the text of each page."""
    return in_the_site(markdown)


def in_the_site(markdown: str) -> str:
    """`markdown` with links as they hold where all pages lie in one folder; the README's as index.md."""
    return LINK.sub(lambda link: "index.md" if link[1] == "README.md" else link[1], markdown)
