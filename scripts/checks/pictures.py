"""The live picture of made-up runs: `python -m scripts.checks.pictures FOLDER` writes one SVG for each case.

Cases are numbers of ranks, sizes of terminals and themes. `--text` prints the pictures instead. `--png` also writes
each as PNG, and `--report report.html` one of a report at the width of a desk and of a phone, light and dark; both take
a headless Chromium. Nothing else here needs a run, a terminal or a GPU.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from scripts.checks import browser
from vpdist.display.letters import Letters
from vpdist.display.picture import Scene, picture, picture_height
from vpdist.monitoring.counters import COUNTERS, SCORE_BINS, RankRow, Snapshot
from vpdist.monitoring.facts import RankFacts, RunFacts

BEGAN = 1.78e9
SIZES = ((80, 24), (120, 40), (200, 60))
RANKS = (2, 16, 512, 1024)
PER_NODE = 8
UNITS = 40
"""Of a rank."""
WIDTHS = (1280, 390)
"""Of a report's window, in pixels."""
Rgb = tuple[int, int, int]


def _rgb(text: str) -> Rgb:
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def _theme(background: str, foreground: str, colours: str, bright: str) -> TerminalTheme:
    names, lighter = (list(map(_rgb, part.split())) for part in (colours, bright))
    return TerminalTheme(_rgb(background), _rgb(foreground), names, lighter)


XTERM = "000000 cd0000 00cd00 cdcd00 0000ee cd00cd 00cdcd e5e5e5"
XTERM_BRIGHT = "7f7f7f ff0000 00ff00 ffff00 5c5cff ff00ff 00ffff ffffff"
SOLARIZED = "073642 dc322f 859900 b58900 268bd2 d33682 2aa198 eee8d5"
SOLARIZED_BRIGHT = "002b36 cb4b16 586e75 657b83 839496 6c71c4 93a1a1 fdf6e3"
THEMES = {
    "dark": _theme("000000", "e5e5e5", XTERM, XTERM_BRIGHT),
    "light": _theme("ffffff", "000000", XTERM, XTERM_BRIGHT),
    "solarized-dark": _theme("002b36", "839496", SOLARIZED, SOLARIZED_BRIGHT),
    "solarized-light": _theme("fdf6e3", "657b83", SOLARIZED, SOLARIZED_BRIGHT),
}


def _row(rank: int, ranks: int, second: int) -> RankRow:
    """A rank of a run on GPUs: some are slow, one stands still, one is too hot."""
    pace = 64_000 * (1 + 0.01 * math.sin(7 * rank))
    if rank % 97 == 11:
        pace *= 0.7
    silent = rank == min(5, ranks - 1) and ranks > 2 and second > 900
    active = min(second, 900) if silent else second
    tokens = int(pace * active)
    counters = dict.fromkeys(COUNTERS, 0)
    counters |= {"nucleotide_tokens": int(tokens * 0.4), "protein_tokens": tokens - int(tokens * 0.4)}
    counters |= {"work_mflop": tokens * 5_500, "fragments": tokens // 280, "units": active // 55}
    counters |= {"compute_us": int(0.88e6 * active), "load_us": int(0.03e6 * active), "write_us": int(0.01e6 * active)}
    counters["bytes_written"] = active // 55 * 60_000_000
    shares = (400, 900, 2000, 3000, 3000, 2000, 900, 700)
    counters |= {name: tokens // share for name, share in zip(SCORE_BINS, shares, strict=True)}
    values = tuple(int(counters[name]) for name in COUNTERS)
    return RankRow(
        rank,
        "stalled" if silent else "running",
        "embed",
        float(second - 900) if silent else 0.0,
        120_000_000,
        UNITS,
        False,
        int((58 + rank % 5) * 2**30),
        0 if silent else 90 + rank % 9,
        values,
        (0,) * len(values),
        planned_work=120_000_000 * 5_500,
        power_mw=90_000 if silent else 640_000 + 1000 * (rank % 40),
        temperature=41 if silent else 60 + rank % 9,
        throttle=0x20 if rank % 200 == 150 else 0,
    )


def snapshots(ranks: int) -> Iterator[Snapshot]:
    """Of the first 1,000 s of a run on so many GPUs."""
    device = "NVIDIA H100 80GB HBM3"
    facts = tuple(
        RankFacts(f"node{rank // PER_NODE + 1:02}", 4700 + rank, device, rank % PER_NODE, 80 << 30, 660_000_000)
        for rank in range(ranks)
    )
    stages = (("start", 0.0), ("ingest", 0.1), ("plan", 131.2), ("layout", 139.0), ("load", 139.4), ("embed", 170.5))
    run = RunFacts(
        command="predict",
        inputs=("reads.fa.gz",),
        n_inputs=1,
        output="RUN",
        told=("float16", f"resumed, {3 * ranks:,} of {UNITS * ranks:,} units kept"),
        stages=stages,
        coming=("check", "tables"),
        n_units=UNITS * ranks,
        kept_units=3 * ranks,
        n_fragments=425_000 * ranks,
        stall_timeout_s=1800.0,
    )
    for second in range(0, 1001, 10):
        rows = tuple(_row(rank, ranks, second) for rank in range(ranks))
        yield Snapshot(BEGAN + 170.5 + second, 170.5 + second, "round", rows, None, "", run, facts)


def scene_of(ranks: int) -> Scene:
    """What displays know after these snapshots."""
    scene = Scene()
    for snapshot in snapshots(ranks):
        scene.observe(snapshot)
    return scene


def drawn(scene: Scene, columns: int, lines: int, letters: Letters) -> list[Text]:
    assert scene.snapshot is not None
    return picture(scene, columns - 1, picture_height(lines), scene.snapshot.time + 1, letters)


def svg(lines: list[Text], columns: int, theme: TerminalTheme, title: str) -> str:
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="standard")
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False)
    return console.export_svg(title=title, theme=theme)


def photographs(folder: Path, svgs: list[Path], report: Path | None) -> list[Path]:
    """PNG of these SVG files, and of a report with its first sequence open. Raises RuntimeError without a browser."""
    program = browser.found()
    if program is None:
        raise RuntimeError("there is no Chromium on this machine, which makes PNG")
    made = []
    with tempfile.TemporaryDirectory() as profile, browser.opened(program, Path(profile)) as page:
        for svg_file in svgs:
            page.show(svg_file, 1600)
            made.append(svg_file.with_suffix(".png"))
            page.picture(made[-1])
        for scheme in ("light", "dark") if report is not None else ():
            assert report is not None
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width in WIDTHS:
                page.open(report.absolute(), width)
                page.click(".row")
                made.append(folder / f"report-{width}-{scheme}.png")
                page.picture(made[-1])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the files go")
    parser.add_argument("--text", action="store_true", help="print the pictures")
    parser.add_argument("--png", action="store_true", help="also PNG of each SVG")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also PNG of this report")
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS)
    options = parser.parse_args()
    if options.folder is None and (options.png or options.report):
        parser.error("--png and --report write files: name a folder")
    svgs: list[Path] = []
    for ranks in options.ranks:
        scene = scene_of(ranks)
        for columns, height in SIZES:
            lines = drawn(scene, columns, height, Letters())
            if options.text:
                print(f"--- {ranks} ranks, {columns} x {height}: {len(lines)} lines")
                print("\n".join(line.plain for line in lines))
            if options.folder is not None:
                options.folder.mkdir(parents=True, exist_ok=True)
                for name, theme in THEMES.items():
                    text = svg(lines, columns, theme, f"{ranks} ranks, {columns} x {height}, {name}")
                    svgs.append(options.folder / f"ranks{ranks:04}-{columns}x{height}-{name}.svg")
                    svgs[-1].write_text(text)
    if options.png or options.report:
        photographs(options.folder, svgs if options.png else [], options.report)


if __name__ == "__main__":
    main()
