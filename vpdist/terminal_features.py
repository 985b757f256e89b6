"""What a terminal can show beside text, as far as its variables tell: a title, progress in its task bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TITLED = ("xterm", "tmux", "screen", "rxvt", "alacritty", "foot", "kitty", "wezterm", "ghostty", "konsole", "vte")
"""Beginnings of TERM of terminals that take a title (OSC 2) and skip what they do not know."""


@dataclass(frozen=True, slots=True)
class TerminalFeatures:
    """Which further control sequences are known to work."""

    title: bool = False
    progress: bool = False
    """OSC 9;4. Other terminals take OSC 9 for a notification, so it is sent to those only that are known to have it."""


def features(variables: Mapping[str, str]) -> TerminalFeatures:
    """By the process's variables."""
    inside = "TMUX" in variables or "STY" in variables  # a multiplexer does not pass OSC 9;4 on
    known = (
        "WT_SESSION" in variables  # Windows Terminal
        or variables.get("ConEmuANSI") == "ON"
        or variables.get("TERM_PROGRAM") == "ghostty"
    )
    return TerminalFeatures(title=variables.get("TERM", "").startswith(TITLED), progress=known and not inside)
