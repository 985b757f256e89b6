"""The site of docs/: every page is in its navigation, and links hold in it as they do in the repository."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.site.root_pages import PAGES, in_the_site

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
SITE = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
TEXTS = {path.name: path.read_text() for path in (*DOCS.glob("*.md"), *(REPOSITORY / name for name in PAGES))}


def navigated(entries: list[Any]) -> Iterator[tuple[str, str]]:
    """Title and file of every page, sections opened."""
    for entry in entries:
        ((title, target),) = entry.items()
        yield from [(title, target)] if isinstance(target, str) else navigated(target)


def anchors(text: str) -> set[str]:
    """As Python-Markdown makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}


def test_every_page_is_in_the_navigation_once_and_nothing_else() -> None:
    titles, files = zip(*navigated(SITE["nav"]), strict=True)
    assert sorted(files) == sorted(TEXTS)
    assert len(set(titles)) == len(titles)
    assert files[0] == "index.md"


def test_contributors_pages_stand_apart_and_users_pages_before_them() -> None:
    *others, (title, last) = [next(iter(entry.items())) for entry in SITE["nav"]]
    assert title == "For contributors"
    assert {file for _, file in navigated(last)} >= {"CONTRIBUTING.md", "design.md", "journal.md"}
    assert {target for _, target in others if isinstance(target, str)} >= {"tutorial.md", "faq.md", "comparison.md"}


def test_every_file_beside_the_folders_but_the_readme_is_a_page() -> None:
    assert sorted(PAGES) == sorted({path.name for path in REPOSITORY.glob("*.md")} - {"README.md"})


@pytest.mark.parametrize("page", TEXTS)
def test_links_hold_where_all_pages_lie_in_one_folder(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", in_the_site(TEXTS[page]))
    targets = [link.partition("#")[::2] for link in links if "://" not in link]
    missing = [file for file, _ in targets if file and file not in TEXTS]
    assert [file for file in missing if not (REPOSITORY / "docs" / file).is_file() or file.endswith(".md")] == []
    assert [(file, anchor) for file, anchor in targets if anchor and anchor not in anchors(TEXTS[file or page])] == []


def test_links_to_files_beside_the_folder_become_links_to_pages() -> None:
    text = "[a](../SECURITY.md#x) [b](docs/gpu.md) [c](gpu.md) [d](../README.md) [e](https://x.org/docs/gpu.md)"
    assert (
        in_the_site(text) == "[a](SECURITY.md#x) [b](gpu.md) [c](gpu.md) [d](index.md) [e](https://x.org/docs/gpu.md)"
    )


def test_mkdocs_makes_the_site_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material: pip install -c constraints.txt -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    made = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert made >= {page.replace(".md", ".html") for page in TEXTS}
    start = (tmp_path / "site" / "index.html").read_text()
    assert re.findall(r"<(?:link|script)[^>]+(?:href|src)=\"https?://[^\"]+\"", start) == []
