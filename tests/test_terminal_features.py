import pytest

from vpdist.changed_variables import changed
from vpdist.terminal_features import features


@pytest.mark.parametrize(
    ("variables", "title", "progress"),
    [
        ({}, False, False),
        ({"TERM": "xterm-256color"}, True, False),
        ({"TERM": "linux"}, False, False),
        ({"TERM": "xterm-256color", "WT_SESSION": "1"}, True, True),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, True, True),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "ghostty", "TMUX": "x"}, True, False),
        ({"ConEmuANSI": "ON"}, False, True),
        ({"TERM": "xterm", "TERM_PROGRAM": "iTerm.app"}, True, False),
    ],
)
def test_sequences_are_sent_where_they_are_known_to_work(
    variables: dict[str, str], title: bool, progress: bool
) -> None:
    found = features(variables)
    assert (found.title, found.progress) == (title, progress)


def test_variables_are_as_before_afterwards() -> None:
    variables = {"kept": "1", "changed": "2"}
    with changed(variables, {"changed": "3", "new": "4"}):
        assert variables == {"kept": "1", "changed": "3", "new": "4"}
    assert variables == {"kept": "1", "changed": "2"}
