"""CITATION.cff: what the format's schema requires is there, and says what the other files say."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
CITED = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
REQUIRED = {"authors", "cff-version", "message", "title"}
"""Of the file, in schema 1.2.0."""
REQUIRED_OF_REFERENCES = {"authors", "title", "type"}


def test_all_that_the_schema_requires_is_there() -> None:
    assert CITED.keys() >= REQUIRED
    assert (CITED["cff-version"], CITED["type"]) == ("1.2.0", "software")
    assert len(CITED["references"]) == 3


@pytest.mark.parametrize("cited", [CITED, *CITED["references"]], ids=lambda cited: cited["title"][:20])
def test_what_is_cited_has_title_and_authors(cited: dict[str, Any]) -> None:
    assert cited is CITED or cited.keys() >= REQUIRED_OF_REFERENCES | {"journal", "year"}
    assert all(author.keys() in ({"name"}, {"family-names", "given-names"}) for author in cited["authors"])


def test_version_and_licence_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (CITED["version"], CITED["license"]) == (project["version"], project["license"])


def test_the_readme_names_what_is_cited() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    identifiers = [cited.get("doi") or cited["identifiers"][0]["value"] for cited in CITED["references"]]
    assert len(identifiers) == 3
    assert [name for name in identifiers if not re.search(re.escape(name), readme, re.IGNORECASE)] == []
