"""What comes through standard input is kept in the run folder, so that a command that goes on need not get it again.

Sequences are kept as they came. Of a list of inputs (`--files-from -`) the secrets of addresses are not kept: a list
that is signed anew is the same list. It has to be piped in again where it had any.
"""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

from vpdist.commands.input_list import end_of_names, named_in, read_list, refuse_large
from vpdist.errors import UsageError
from vpdist.sequences.standard_input import piped_blocks, spool_stdin
from vpdist.session.session import Session
from vpdist.storage.atomic_files import write_file
from vpdist.urls import shown

EMPTY = "standard input is empty: continuing with what was read from it before"


def spooled(session: Session) -> Path:
    """Copy standard input into the run folder; when resumed, compare it with that copy, unless it is empty.

    Raises UsageError when it differs, or when an earlier attempt of this launch has consumed it.
    """
    target, raise_if_ending = session.folder.spool, session.control.raise_if_ending
    if not target.exists():
        _refuse_consumed(session)
        return spool_stdin(target, raise_if_ending)
    again = spool_stdin(target.with_suffix(".again"), raise_if_ending)
    try:
        if again.stat().st_size == 0:
            session.progress.message(EMPTY)
        elif not filecmp.cmp(target, again, shallow=False):
            raise _differs(session)
    finally:
        again.unlink()
    return target


def piped_names(session: Session) -> list[str]:
    """The names in the list that is piped in, which the run folder keeps without secrets; of an empty one those that it
    has kept.

    Raises UsageError as `spooled`, and where what was kept lacks secrets; InputError as `read_list`.
    """
    target = session.folder.input_list
    if not target.exists():
        _refuse_consumed(session)
    taken = bytearray()
    for block in piped_blocks(session.control.raise_if_ending):
        taken += block
        refuse_large(len(taken), "-")
    content = bytes(taken)
    kept = read_list(target, str(target)) if target.exists() else None
    if not content and kept is not None:
        if withheld := [name for name in kept if _without_secrets(name) == name != shown(name)]:
            raise UsageError(
                f"{shown(withheld[0])}: had a signature or a password, which is not kept; pipe the list in again"
            )
        session.progress.message(EMPTY)
        return kept
    names = named_in(content, "-")
    if kept is not None and list(map(shown, kept)) != list(map(shown, names)):
        raise _differs(session)
    if kept is None or any(_without_secrets(name) != name for name in kept):
        write_file(target, _kept(content))
    return names


def _kept(content: bytes) -> bytes:
    """A list as it came, but for the secrets."""
    end = end_of_names(content)
    return end.join(os.fsencode(_without_secrets(os.fsdecode(line))) for line in content.split(end))


def _without_secrets(name: str) -> str:
    """A name as it is kept: where it had secrets it has an empty user, `https://@host/x.fa`. It is shown as the whole
    name is."""
    return name if name == shown(name) else shown(name).replace("://", "://@", 1)


def _refuse_consumed(session: Session) -> None:
    if session.control.runtime.attempt:
        raise UsageError("standard input was consumed by an attempt that was lost; pipe it in again")


def _differs(session: Session) -> UsageError:
    return UsageError(
        f"{session.folder.path} belongs to another configuration: standard input differs from what was read before; "
        f"use another folder, or --restart to discard its content"
    )
