"""Freed memory stays in the process, so that the next layer does not fault it in again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vpdist.heap import keep_freed_pages

LAYERS = """
import resource
import numpy as np
from vpdist.heap import keep_freed_pages

keep_freed_pages()

def layer():
    return [np.full(20 << 20, 1, np.uint8) for _ in range(3)]

layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_layers_temporaries_are_faulted_in_once() -> None:
    if not keep_freed_pages():
        pytest.skip("this C library's heap has no such setting")
    done = subprocess.run([sys.executable, "-c", LAYERS], check=True, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) < 1000, "a layer's 15,360 pages were returned and faulted in again"
