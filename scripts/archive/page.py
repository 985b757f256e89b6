"""`python -m scripts.archive.page [--kept] [--large]`: the tables of docs/archive.md, between their markers.

Measures the steps of simulate.py and keeps the figures in measured.json beside this file; --kept takes those that are
there. All else is arithmetic from the constants below, each with its source.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scripts.archive import simulate
from scripts.bench.balance import COSTS
from scripts.bench.goals import conditions
from vpdist.planning.plan import COST_SCALE
from vpdist.planning.room import BYTES_PER_FRAGMENT, MOST_FRAGMENTS

ROOT = Path(__file__).resolve().parents[2]
PAGE, KEPT = ROOT / "docs" / "archive.md", Path(__file__).with_name("measured.json")
TERABASES = (7.5, 125.0, 1800.0)
BASES_PER_FRAGMENT = 846
"""Of made contigs, median 1,500 bases: 449 a chunk of 500, 0.53 open frames a chunk (scripts.bench.large_inputs)."""
BASES_PER_CHUNK = 449
TOKENS = {"nucleotide": 110, "protein": 168}
"""Of a fragment of a 500-base chunk (BENCHMARKS.md: 206 fragments, 56,936 tokens)."""
CPU_TOKENS_PER_S = 2_790
"""A core, DNABERT-S and ESM-2 12x480 in bfloat16 (BENCHMARKS.md: 56,936 tokens in 10.2 s on two)."""
GPU_FLOPS, GPU_SHARE = 989e12, 0.4
"""H100 SXM, dense float16, from its data sheet; the share of it that the encoders reach is an assumption."""
PRICES = {"core": 0.04, "GPU": 2.0}
"""Money per hour."""
EMBEDDING_BYTES, PART_BYTES = 2 * (768 + 2560), 24
"""Of a fragment in its part, float16; and without embeddings: logits, number, row."""
TOKEN_BYTES = 2 * (2 * TOKENS["nucleotide"] + TOKENS["protein"] + 16) + 40
"""Of a fragment, in blocks and again in shards: ids, offsets; hashes, chunk, frame, residues."""
TABLE_BYTES = 190
"""Of a fragment in all three tables (vpdist plan on made contigs)."""
UNITS_PER_PLAN = 21_359
"""Of 1e8 fragments for GPUs, by scripts.archive.simulate's plan."""
OBJECT_BYTES, OBJECTS = 17_000_000, 37_000_000
"""Of an archive of assemblies in object storage (Logan: 37 million objects of 17 MB)."""
BLOCK_BASES = 1 << 22


def needs(terabases: float) -> dict[str, str]:
    """Row of the first table: what so many terabases of input need, by name of the column."""
    fragments = terabases * 1e12 / BASES_PER_FRAGMENT
    core_hours = fragments * sum(TOKENS.values()) / CPU_TOKENS_PER_S / 3600
    operations = sum(int(COSTS[kind].of(np.array([tokens]))[0]) for kind, tokens in TOKENS.items()) * COST_SCALE
    gpu_hours = fragments * operations / (GPU_FLOPS * GPU_SHARE) / 3600
    shards = -(-round(fragments) // MOST_FRAGMENTS)
    return {
        "Tbp": f"{terabases:,g}",
        "fragments": f"{fragments:.2g}",
        "shards": f"{shards:,.0f}",
        "core hours, 12x480, measured rate": _thousands(core_hours),
        f"at {PRICES['core']} an hour": _thousands(core_hours * PRICES["core"]),
        "H100 hours, 3B (awaits a GPU)": _thousands(gpu_hours),
        f"at {PRICES['GPU']} an hour": _thousands(gpu_hours * PRICES["GPU"]),
        "parts with embeddings": _size(fragments * (EMBEDDING_BYTES + PART_BYTES)),
        "without": _size(fragments * PART_BYTES),
        "tokens": _size(fragments * TOKEN_BYTES),
        "tables": _size(fragments * TABLE_BYTES),
        "parts": f"{shards * UNITS_PER_PLAN:.2g}",
    }


def needs_table() -> str:
    """The first table: a column for each amount of input."""
    columns = [needs(terabases) for terabases in TERABASES]
    head = [f"| {' | '.join(('Tbp', *(column['Tbp'] for column in columns)))} |", "| --- |" + " ---: |" * len(columns)]
    rows = [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0] if name != "Tbp"]
    return "\n".join(head + rows)


def breaks_table(measured: Mapping[str, Any]) -> str:
    """The second table: of each step the number at which one run takes more than a minute or 8 GB."""
    each = {name: (step["bytes"], step["seconds"], step["per"]) for name, step in measured["steps"].items()}
    rows = ["| step | bytes each | µs each | 8 GB at | 60 s at |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, (n_bytes, seconds, per) in each.items():
        what = measured["steps"][name]["what"]
        memory, time = (
            f"{limit / value:.1e} {per}s" if value else "never"
            for limit, value in ((simulate.WITHIN_BYTES, n_bytes), (simulate.WITHIN_S, seconds))
        )
        rows.append(f"| {what} | {n_bytes:.1f} | {seconds * 1e6:.2f} | {memory} | {time} |")
    return "\n".join(rows)


def in_order(measured: Mapping[str, Any]) -> str:
    """The third table: what breaks first as an input grows that is not cut into shards."""
    each = {name: step["bytes"] for name, step in measured["steps"].items()}
    bases = {
        "plan: 8 GB": 8e9 / BYTES_PER_FRAGMENT * BASES_PER_FRAGMENT,
        "flags while tables are written: 8 GB": 8e9 / each["flags"] * BASES_PER_CHUNK,
        "parts with embeddings: 1 TB of disk": 1e12 / (EMBEDDING_BYTES + PART_BYTES) * BASES_PER_FRAGMENT,
        "token store: 1 TB of disk": 1e12 / TOKEN_BYTES * BASES_PER_FRAGMENT,
        "tables: 100 GB of text": 1e11 / TABLE_BYTES * BASES_PER_FRAGMENT,
        "block list on rank 0: 8 GB": 8e9 / each["blocks"] * BLOCK_BASES,
    }
    rows = ["| what | at |", "| --- | ---: |"]
    rows += [f"| {what} | {_bases(at)} |" for what, at in sorted(bases.items(), key=lambda item: item[1])]
    lines, seconds = each["manifest"] * OBJECTS, measured["steps"]["manifest"]["seconds"] * OBJECTS
    rows.append(f"| manifest of {OBJECTS:,} objects | {_size(lines)} of memory, {seconds:,.0f} s to read |")
    return "\n".join(rows)


def page(text: str, measured: Mapping[str, Any]) -> str:
    """The page with its tables replaced. Raises ValueError where a marker is missing."""
    tables = {"needs": needs_table(), "breaks": breaks_table(measured), "order": in_order(measured)}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: scripts.archive.page -->\n", f"\n<!-- end of {name} -->"
        before, after = text.index(begin) + len(begin), text.index(end)
        text = text[:before] + table + text[after:]
    return text


def _thousands(value: float) -> str:
    """To two digits."""
    return f"{float(f'{value:.2g}'):,.0f}"


def _size(n_bytes: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.3g} {unit}" if n_bytes < 1e18 else f"{n_bytes / size:,.0f} {unit}"
    return f"{n_bytes / 1e6:,.3g} MB"


def _bases(n: float) -> str:
    return f"{_thousands(n / 1e12)} Tbp" if n >= 1e13 else f"{_thousands(n / 1e9)} Gbp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", action="store_true", help="take the figures that measured.json has")
    parser.add_argument("--large", action="store_true", help="measure planning of 1e8 fragments, too (5 GB)")
    arguments = parser.parse_args()
    if not arguments.kept:
        steps = {
            line.step.name: {
                "what": line.step.what,
                "per": line.step.per,
                "bytes": round(line.bytes_each, 1),
                "seconds": float(f"{line.seconds_each:.3g}"),
            }
            for line in simulate.measured(large=arguments.large)
        }
        KEPT.write_text(json.dumps({"conditions": conditions(), "steps": steps}, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
