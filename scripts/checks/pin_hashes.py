"""`python -m scripts.checks.pin_hashes`: write constraints-hashes.txt, all pinned packages with hashes of their files.

Needs uv: pip install -c constraints.txt -e '.[pins]'. Packages that torch needs are included. The hashes are those that
the package index lists for the pinned versions, for all platforms and Python versions. Run it after constraints.txt has
changed. uv's settings say where the index is (UV_INDEX_URL, ...), not pip's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINS, HASHES = ROOT / "constraints.txt", ROOT / "constraints-hashes.txt"
EXTRAS = ("gpu", "test", "check", "docs")
HEAD = """\
# Everything that vpdist is tested with, with the hashes of the files that the package index publishes. Made from
# constraints.txt and pyproject.toml by python -m scripts.checks.pin_hashes.
#
#     pip install --require-hashes -r constraints-hashes.txt
#     pip install --no-deps --no-build-isolation -e .
#
# torch is the build that the index publishes: for Linux on x86_64 the one with CUDA. A CPU build from elsewhere
# (2.13.0+cpu) has other hashes, so that pip passes it over. To use one, install it first by its own hash, and leave out
# the lines of torch, triton, cuda-* and nvidia-*.
"""


def compiled() -> str:
    """The list as uv resolves it, for all platforms and for every Python version that vpdist supports."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "hashes.txt"
        command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--generate-hashes", "--quiet"]
        command += ["--python-version", "3.11", "--no-header", "--no-annotate", "--constraint", str(PINS)]
        command += [part for extra in EXTRAS for part in ("--extra", extra)]
        command += ["--output-file", str(output), str(ROOT / "pyproject.toml")]
        subprocess.run(command, check=True, cwd=folder)
        return output.read_text()


def main() -> int:
    HASHES.write_text(HEAD + compiled())
    lines = HASHES.read_text().splitlines()
    n_packages, n_hashes = sum("==" in line for line in lines), sum("--hash=" in line for line in lines)
    print(f"{HASHES.name}: {n_packages} packages, {n_hashes} hashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
