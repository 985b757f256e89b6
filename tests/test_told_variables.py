"""Which variables of the environment users are told, and that no secret is among them."""

import ast
import re
from pathlib import Path

import pytest

import vpdist
from vpdist.told_variables import HIDDEN, is_shown, shown

READERS = ("environment", "local_rank", "slurm_step")
ONLY_SET = {"FORK_LAUNCHED"}
"""Removed for others, not read."""


def test_every_variable_that_is_read_is_told() -> None:
    named = set()
    for module in READERS:
        tree = ast.parse((Path(vpdist.__file__).parent / f"{module}.py").read_text())
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is str}
        named |= {text for text in texts if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|RANK|TERM|CI", text)}
    assert {"MASTER_PORT", "SLURM_PROCID", "VPDIST_GITHUB_ENDPOINT", "PMI_RANK"} <= named
    assert {name for name in named if not is_shown(name)} == ONLY_SET


@pytest.mark.parametrize("name", ["VPDIST_STORE_SECRET", "HF_TOKEN"])
def test_secrets_are_not_shown(name: str) -> None:
    assert shown({name: "5ecret", "HOME": "/root"}) == {name: HIDDEN}


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "https_proxy", "HTTP_PROXY", "VPDIST_GITHUB_ENDPOINT"])
def test_passwords_in_addresses_are_not_shown(name: str) -> None:
    assert shown({name: "http://me:5ecret@proxy:3128/x"}) == {name: "http://...@proxy:3128/x"}
    assert shown({name: "http://proxy:3128/a"}) == {name: "http://proxy:3128/a"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("user:secret@proxy:1", "...@proxy:1"),
        ("http://u:pa/ss@h:1", "http://...@h:1"),
        ("http://u:se@cret@h", "http://...@h"),
        ("//u:secret@h", "//...@h"),
        ("socks5h://u:secret@h:1", "socks5h://...@h:1"),
    ],
)
def test_no_part_of_a_password_is_shown(value: str, told: str) -> None:
    assert shown({"HTTPS_PROXY": value, "all_proxy": value}) == {"HTTPS_PROXY": told, "all_proxy": told}


def test_a_folder_may_have_an_at_sign_in_its_name() -> None:
    assert shown({"TMPDIR": "/home/me@lab/tmp"}) == {"TMPDIR": "/home/me@lab/tmp"}
