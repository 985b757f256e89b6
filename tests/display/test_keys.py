import pytest

from vpdist.display.keys import Wish
from vpdist.display.rank_table import View


@pytest.mark.parametrize(
    ("keys", "view"),
    [
        ("s", View(sort="slowest")),
        ("sss", View()),
        ("f", View(filter="odd")),
        ("12\n", View(rank=12)),
        ("12\r", View(rank=12)),
        ("1x2\n", View(rank=2)),
        ("12", View()),
        ("\n", View()),
        ("sf\x1b", View()),
    ],
)
def test_keys_change_what_is_shown(keys: str, view: View) -> None:
    wish = Wish()
    for key in keys:
        wish = wish.after(key)
    assert wish.view == view
    assert not wish.quit


def test_an_arrow_is_no_escape() -> None:
    assert Wish(view=View(rank=3)).after("\x1b[A").view == View(rank=3)


def test_a_replay_can_be_paused_hurried_and_ended() -> None:
    assert Wish().after(" ").paused
    assert not Wish().after("  ").paused
    assert Wish(speed=60.0).after("++-").speed == 120.0
    assert Wish().after("q").quit
