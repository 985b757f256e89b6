"""vpdist tells viral sequences from everything else in sequencing data, on as many GPUs as there are.

    result = vpdist.predict("reads.fa.gz", model="virnucpro-500")
    result.sequences, result.embeddings("contig_1")

docs/python.md describes these names. They are imported when they are used; __init__.pyi has their types.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ("Result", "Run", "__version__", "embed", "open_run", "predict")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("vpdist.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
