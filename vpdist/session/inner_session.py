"""A run within a run: further stages that work in a folder of their own, by the same ranks, under the same lock.

Its keys in the store begin with a name, so that they are not those of the outer run; a failure is one for both.
"""

from __future__ import annotations

from dataclasses import replace

from vpdist.distributed.runtime import KeyStore
from vpdist.session.coordination import ACKNOWLEDGED, FAILED, Control
from vpdist.session.session import Session
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import finish_switch


class InnerKeys(KeyStore):
    """The keys of another store that begin with a name, but for those by which a failure is told."""

    def __init__(self, keys: KeyStore, name: str) -> None:
        self._keys, self._name = keys, name

    def _inner(self, key: str) -> str:
        return key if key in (FAILED, ACKNOWLEDGED) else f"{self._name}/{key}"

    def clone(self) -> KeyStore:
        return InnerKeys(self._keys.clone(), self._name)

    def set(self, key: str, text: str) -> None:
        self._keys.set(self._inner(key), text)

    def get(self, key: str) -> bytes | None:
        return self._keys.get(self._inner(key))

    def add(self, key: str, amount: int = 1) -> int:
        return self._keys.add(self._inner(key), amount)


def inner_session(session: Session, folder: RunFolder, name: str, *, restart: bool = False) -> Session:
    """An open run folder beside that of `session`, whose lock holds for both; `name`: what its keys begin with.

    With `restart` rank 0 discards what the folder holds. Raises UsageError for a folder that holds something else,
    StorageError.
    """
    outer = session.control
    runtime = replace(outer.runtime, keys=InnerKeys(outer.runtime.keys, name))
    control = Control(runtime, outer.stop, outer.progress, outer.lock)

    def open_folder() -> str:
        folder.prepare(restart=restart and runtime.attempt == 0)
        folder.remove_temporary_files()
        finish_switch(folder)
        return "1"

    control.broadcast_from_rank_0("folder", open_folder)
    control.wait_for_file(folder.tokens)
    return Session(control, folder, session.progress)
