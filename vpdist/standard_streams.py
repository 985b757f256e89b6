"""Standard streams that this process was started without."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open the null device in place of a standard stream that this process was started without.

    Else the next file that is opened takes its descriptor, and is written to by whatever prints. To be called first.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
