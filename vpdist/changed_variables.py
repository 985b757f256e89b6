"""Variables that are set for a while, in a mapping as the environment is one."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager


@contextmanager
def changed(variables: MutableMapping[str, str], values: dict[str, str]) -> Iterator[None]:
    """Meanwhile `variables` have these values; afterwards those of before, or none."""
    before = {name: variables.get(name) for name in values}
    variables.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
