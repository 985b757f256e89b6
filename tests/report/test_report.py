"""`vpdist report`: what the page holds agrees with the tables, and a browser shows it, inert and without any network."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.checks import browser, pictures
from scripts.checks.browser import Page
from tests.report.synthetic import write_run
from tests.sample import write_contigs
from tests.test_cli import run_main
from tests.tiny_models import TinyModels
from vpdist.calibration.bound import BORDERS, false_within
from vpdist.commands.predict import predict
from vpdist.errors import UsageError
from vpdist.report import fragment_columns, page, sequence_columns
from vpdist.report.packed import NA, SCALE, Column, packed, scores
from vpdist.report.page import gather, write_report
from vpdist.storage.atomic_files import DamagedFile
from vpdist.storage.run_folder import RunFolder

Rows = list[dict[str, str]]

HOSTILE = [
    "<script>window.pwned=1</script>",
    "</script><img/src=x/onerror=window.pwned=2>",
    '"><b>bold</b>',
    "{data}{script}",
    "<!--<script>",
    "javascript:window.pwned=3",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "__proto__",
]


def rows(path: Path) -> Rows:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture(scope="module")
def done(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with parts, long sequences, and all statuses."""
    folder = tmp_path_factory.mktemp("report")
    contigs = write_contigs(folder / "contigs.fa", n=25, longest=6000)
    contigs.write_text(contigs.read_text() + ">tiny\nAC\n")
    assert predict(models.settings(contigs, folder / "run")) == 0
    return folder / "run"


ENVELOPE = np.linspace(5, 1500, len(BORDERS)).astype(int)
JUDGEMENT = {"most_false": 77, "confidence": 0.95, "envelope": ENVELOPE.tolist()}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 sequences with hostile names first, and the columns of a calibrated model."""
    n = 3000
    names = [*HOSTILE, *(f"s{i}" for i in range(n - len(HOSTILE)))]
    rng = np.random.default_rng(5)
    further = {
        "probability": ["NA" if k % 50 == 0 else f"{x:.4f}" for k, x in enumerate(rng.random(n))],
        "q_value": [f"{x:.4f}" for x in rng.random(n)],
        "p_value": ["NA" if k % 50 == 0 else f"{x:.6g}" for k, x in enumerate(rng.beta(0.2, 1, n))],
        "call": [("virus", "non-virus", "uncertain")[k % 3] for k in range(n)],
        "flags": [("none", "short,few_chunks", "<i>odd</i>")[k % 3] for k in range(n)],
    }
    run = write_run(tmp_path_factory.mktemp("synthetic") / "run <b>{style}", n, names=names, further=further)
    about = json.loads((run / "run.json").read_text()) | {"judgement": JUDGEMENT}
    (run / "run.json").write_text(json.dumps(about))
    return run


def unpacked(text: str) -> tuple[dict[str, Column], dict[str, Any]]:
    """What was packed: its columns and `meta`."""
    content = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    columns: dict[str, Column] = {}
    for name, (kind, offset, size) in header["arrays"].items():
        piece = content[4 + length + offset : 4 + length + offset + size]
        columns[name] = piece.decode().split("\n") if kind == "text" else np.frombuffer(piece, f"<{kind}")
    return columns, header["meta"]


def contents(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    found = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', path.read_text())
    assert found
    return unpacked(found[1])  # type: ignore[return-value]


def test_the_columns_of_a_report_are_those_of_the_tables(done: Path, tmp_path: Path) -> None:
    ((path, size),) = write_report(done, tmp_path / "report.html")
    assert path.stat().st_size == size
    columns, meta = contents(path)
    table = rows(done / "sequences.tsv")
    assert columns["name"] == [row["seq_name"] for row in table]
    assert list(columns["length"]) == [int(row["length"]) for row in table]  # type: ignore[call-overload]
    for column, name in (("virus", "virus_score"), ("nonvirus", "nonvirus_score")):
        for value, row in zip(columns[column], table, strict=True):  # type: ignore[call-overload]
            assert (value == NA) == (row[name] == "NA")
            assert value == NA or value / SCALE == pytest.approx(float(row[name]), abs=1e-5)
    fragments = rows(done / "fragments.tsv")
    assert [round(float(row["virus_score"]) * SCALE) for row in fragments] == list(columns["score"])  # type: ignore[call-overload]
    assert len(columns["mask"]) == len(rows(done / "chunks.tsv"))  # type: ignore[arg-type]
    assert meta["sequences"] == len(table)
    assert meta["virus"] == sum(row["prediction"] == "virus" for row in table)
    assert set(meta["statuses"]) == {row["status"] for row in table}  # type: ignore[call-overload]
    assert sum(each["total"] for each in meta["classes"]) == len(table)  # type: ignore[attr-defined]
    assert meta["timeline"]["ranks"][0]["tokens"] > 0  # type: ignore[index]
    assert "principal components" in str(meta["map"])
    assert write_report(done, tmp_path / "again.html")[0][1] == size
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_packed_columns_come_back() -> None:
    columns = {"a": np.arange(5, dtype=np.uint32), "t": ["x", "", "\u00e4</script>"], "f": np.float32([0.5, np.nan])}
    found, meta = unpacked(packed(columns, {"k": [1]}))
    assert (found["t"], meta) == (columns["t"], {"k": [1]})
    np.testing.assert_array_equal(found["a"], columns["a"])
    np.testing.assert_array_equal(found["f"], columns["f"])
    assert scores(np.array([0, 0.5, 1, np.nan])).tolist() == [0, 32767, SCALE, NA]
    with pytest.raises(ValueError, match="no number format"):
        packed({"a": np.zeros(2)}, {})


def test_a_report_of_ten_thousand_sequences_has_less_than_a_megabyte(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 10_000)
    columns, meta = gather(RunFolder(run), run / "report.html")
    rng = np.random.default_rng(0)
    places = {name: rng.integers(0, SCALE, 10_000).astype(np.uint16) for name in ("mapx", "mapy")}
    text = page.page(run, columns | {"mapi": np.arange(10_000, dtype=np.uint32), **places}, meta)
    assert len(text.encode()) < 1_000_000


def test_of_many_sequences_those_with_the_highest_scores_are_listed_and_all_are_counted(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_columns, "MOST_SEQUENCES", 100)
    monkeypatch.setattr(fragment_columns, "MOST_FRAGMENTS", 50)
    columns, meta = gather(RunFolder(synthetic), synthetic / "report.html")
    table = rows(synthetic / "sequences.tsv")
    best = sorted((float(row["virus_score"]) for row in table if row["virus_score"] != "NA"), reverse=True)[:100]
    assert len(columns["name"]) == 100
    assert int(np.min(columns["virus"])) == round(best[-1] * SCALE)
    assert meta["sequences"] == len(table)
    assert "100 sequences with the highest virus scores of 3,000" in meta["warnings"][-1]
    assert 0 < len(columns["score"]) <= 50
    assert len(columns["mask"]) == sum(np.asarray(columns["chunks"])[np.asarray(columns["has"]) == 1])


def test_a_run_that_is_not_complete_or_damaged_has_no_report(done: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        write_report(tmp_path)
    run = Path(shutil.copytree(done, tmp_path / "run"))
    for name, damage in (
        ("fragments.tsv", lambda text: text.replace("contig0\t1\t", "contig0\t99\t", 1)),
        ("sequences.tsv", lambda text: text.replace("\t0.", "\tx", 1)),
        ("chunks.tsv", lambda text: text[:-5]),
    ):
        whole = (run / name).read_text()
        (run / name).write_text(damage(whole))
        with pytest.raises(DamagedFile, match=name):
            write_report(run)
        (run / name).write_text(whole)
    (run / "status.json").write_text(json.dumps({"state": "interrupted"}))
    with pytest.raises(UsageError, match="is not complete"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_only_a_report_is_overwritten_and_restart_removes_it(done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    (run / "report.html").write_text("somebody's")
    with pytest.raises(UsageError, match="is no report of vpdist"):
        write_report(run)
    RunFolder(Path(shutil.copytree(run, tmp_path / "copy"))).prepare(restart=True)
    assert (tmp_path / "copy" / "report.html").read_text() == "somebody's"
    (run / "report.html").unlink()
    write_report(run, multiqc=True)
    write_report(run)
    RunFolder(run).prepare(restart=True)
    assert not any((run / name).exists() for name in ("report.html", "vpdist_mqc.json"))


@pytest.mark.parametrize(("classifier", "scored"), [("f", True), ("", False)])
def test_a_page_says_whether_anything_was_classified(classifier: str, scored: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 3)
    about = json.loads((run / "run.json").read_text()) | {"tables_from": {"classifier": classifier}}
    (run / "run.json").write_text(json.dumps(about))
    table = [line.split("\t") for line in (run / "sequences.tsv").read_text().splitlines()]
    hidden = [table[0].index(name) for name in ("virus_score", "nonvirus_score", "prediction")]
    for cells in table[1:]:
        for place in hidden:
            cells[place] = cells[place] if scored else "NA"
    (run / "sequences.tsv").write_text("".join("\t".join(cells) + "\n" for cells in table))
    columns, meta = gather(RunFolder(run), run / "report.html")
    assert meta["classified"] is scored
    text = page.page(run, columns, meta)
    assert ("3 sequences, none of which was classified." in text.split("<script")[0]) is not scored
    assert ("of 3 sequences are called virus." in text.split("<script")[0]) is scored


def without_probabilities(folder: Path) -> Path:
    """A run of a calibrated model none of whose sequences has a probability."""
    return write_run(folder / "run", 3, further={name: ["NA"] * 3 for name in ("probability", "q_value", "call")})


def test_a_calibrated_model_is_known_where_no_sequence_has_a_probability(tmp_path: Path) -> None:
    run = without_probabilities(tmp_path)
    columns, meta = gather(RunFolder(run), run / "report.html")
    assert "probability" not in columns
    assert meta["calibrated"]
    (run / "calibration.json").unlink()
    assert not gather(RunFolder(run), run / "report.html")[1]["calibrated"]


def linted(script: Path) -> subprocess.CompletedProcess[str]:
    """The linter on a script, as `make check` runs it."""
    program, root = Path(sys.executable).with_name("oxlint"), Path(__file__).parents[2]
    if not program.exists():
        pytest.skip("there is no oxlint in this environment: pip install -c constraints.txt -e '.[check]'")
    command = [
        program,
        "--config",
        root / "scripts" / "checks" / "oxlint.json",
        "--deny-warnings",
        "-f",
        "unix",
        script,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_the_script_is_small_and_the_linter_finds_nothing_in_it() -> None:
    script = Path(page.__file__).with_name("report.js")
    assert len(script.read_bytes()) < 40_000
    ended = linted(script)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("document.body.innerHTML = 'x';", "no-restricted-properties"),
        ("document.write('x');", "no-restricted-properties"),
        ("missing();", "no-undef"),
        ("const unused = 1;", "no-unused-vars"),
        ("setTimeout('x()', 1);", "no-implied-eval"),
        ("const = 1;", "Unexpected token"),
    ],
)
def test_the_linter_finds_what_a_report_may_not_have(tmp_path: Path, line: str, rule: str) -> None:
    script = tmp_path / "script.js"
    script.write_text(f"(() => {{\n  {line}\n}})();\n")
    ended = linted(script)
    assert ended.returncode == 1
    assert rule in ended.stdout


def test_the_command_writes_what_it_says(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert run_main(monkeypatch, "report", done, "-o", tmp_path / "out.html", "--png", "--multiqc") == 0
    told = capfd.readouterr().out
    assert [line.split(": ")[0] for line in told.splitlines()] == [
        str(tmp_path / name) for name in ("out.html", "report.png", "vpdist_mqc.json")
    ]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "vpdist_mqc.json").read_text())["data"]
    (source,) = rows(done / "summary.tsv")
    assert data["contigs"]["virus"] == int(source["n_virus"])
    assert sum(data["contigs"].values()) == int(source["n_sequences"])
    first = (tmp_path / "report.png").read_bytes()
    write_report(done, tmp_path / "out.html", png=True)
    assert (tmp_path / "report.png").read_bytes() == first


no_browser = pytest.mark.skipif(browser.found() is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = browser.found()
    assert program
    with browser.opened(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(done: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    paths = {"run": folder / "run.html", "synthetic": folder / "synthetic.html"}
    write_report(done, paths["run"])
    write_report(synthetic, paths["synthetic"])
    return paths


KEPT = """
window.kept = [];
URL.createObjectURL = (blob) => { window.kept.push(blob.text()); return 'blob:null/0'; };
HTMLAnchorElement.prototype.click = () => {};
"""
"""Keeps what the page would save."""


def saved(shown: Page, button: str) -> str:
    shown.run(KEPT)
    shown.click(button)
    return str(shown.run("window.kept[0]"))


@no_browser
@pytest.mark.launcher
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("report", ["run", "synthetic"])
def test_a_page_is_drawn_without_a_word_on_the_console_or_a_request(
    shown: Page, reports: dict[str, Path], report: str, width: int
) -> None:
    path = reports[report]
    shown.open(path, width)
    shown.click(".row")
    for place in ("#lengths", "#map", "#contigs"):
        shown.run(
            f"document.querySelector('{place}').dispatchEvent(new MouseEvent('click', {{clientX: 200, clientY: 100}}))"
        )
    for selector, value in (("#metric", "virus_score"), ("#filter", "threshold"), ("#file", "0")):
        shown.set(selector, value, "change")
    shown.set("#slider", "0.25")
    for button in ("#in", "#in", "#left", "#right", "#out", "#close"):
        shown.click(button)
    assert shown.complaints() == []
    assert shown.requests() == [path.as_uri()]
    assert shown.run("document.documentElement.scrollWidth") <= width
    assert shown.run("document.body.dataset.failed || ''") == ""


@no_browser
@pytest.mark.launcher
def test_names_are_text_whatever_they_hold(shown: Page, reports: dict[str, Path], synthetic: Path) -> None:
    shown.open(reports["synthetic"])
    assert shown.run("document.title") == f"vpdist: {synthetic.name}"
    assert shown.text("h1") == f"vpdist: {synthetic.name}"
    for name in HOSTILE:
        shown.set("#search", name)
        assert shown.text(".row .name") == name
        shown.click(".row")
        assert shown.text("#contigname") == name
    assert shown.run("document.querySelectorAll('img, b, i, iframe').length") == 0
    shown.set("#search", "s0")  # number 9 of all
    shown.click(".row")
    table = {row["seq_name"]: row for row in rows(synthetic / "sequences.tsv")}
    expected = {"none": "", "short,few_chunks": "flagged: short for the model; one or two scored chunks"}
    assert expected.get(table[shown.text("#contigname")]["flags"], "flagged: <i>odd</i>") in shown.text("#contigtold")
    assert shown.run("typeof window.pwned") == "undefined"
    assert shown.complaints() == []


@no_browser
@pytest.mark.launcher
def test_the_policy_forbids_the_network_and_other_scripts(shown: Page, reports: dict[str, Path]) -> None:
    shown.open(reports["run"])
    assert shown.run("fetch('https://vpdist.invalid/').then(() => 'sent', () => 'refused')") == "refused"
    shown.run(
        "new Promise((done) => { const image = new Image(); image.onerror = image.onload = done; "
        "image.src = 'https://vpdist.invalid/a.png'; })"
    )
    shown.run(
        "{ const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s); }"
    )
    assert shown.run("typeof window.pwned") == "undefined"
    told = " ".join(shown.complaints())
    assert told.count("Content Security Policy") >= 3
    sent = [event["params"]["requestId"] for event in shown.events if event.get("method") == "Network.responseReceived"]
    failed = [event["params"] for event in shown.events if event.get("method") == "Network.loadingFailed"]
    assert {each.get("blockedReason") for each in failed} == {"csp"}
    assert len(sent) == 1  # the file itself


def at_most(chosen: Rows) -> int:
    """How many of these are false at most, by the envelope."""
    return false_within(ENVELOPE, np.array([float(row["p_value"].replace("NA", "nan")) for row in chosen]))


@no_browser
@pytest.mark.launcher
def test_the_threshold_counts_as_the_table_does(shown: Page, reports: dict[str, Path], synthetic: Path) -> None:
    shown.open(reports["synthetic"])
    table = rows(synthetic / "sequences.tsv")
    called = [row for row in table if row["call"] == "virus"]
    assert f"{len(called):,} of 3,000 sequences are virus, as called" in shown.text("#sentence")
    known = [float(row["probability"]) for row in called if row["probability"] != "NA"]
    false = f"{sum(1 - probability for probability in known):.1f}"
    unknown = f"(without {len(called) - len(known)} that have no probability)"
    most = f"at most {at_most(called):,} with 95% confidence"
    assert f"expected false among them: {false} {unknown}, {most}" in shown.text("#sentence")
    scored = [row for row in table if row["virus_score"] != "NA"]
    for metric, value, count in (
        ("virus_score", 0.75, sum(float(row["virus_score"]) >= 0.75 for row in scored)),
        ("margin", 0.2, sum(float(row["virus_score"]) - float(row["nonvirus_score"]) >= 0.2 for row in scored)),
        ("probability", 0.9, sum(row["probability"] >= "0.9" for row in table if row["probability"] != "NA")),
        ("q_value", 0.1, sum(float(row["q_value"]) <= 0.1 for row in table)),
    ):
        shown.set("#metric", metric, "change")
        shown.set("#slider", str(value))
        assert shown.text("#count").startswith(f"{count:,} sequences"), metric
        shown.set("#filter", "threshold", "change")
        assert shown.text("#shown") == f"{count:,} of 3,000"
        if metric == "q_value":
            chosen = [row for row in table if float(row["q_value"]) <= value]
            assert 0 < at_most(chosen) < len(chosen)
            assert f"at most {at_most(chosen):,} with 95% confidence" in shown.text("#sentence")
        shown.set("#filter", "all", "change")


@no_browser
@pytest.mark.launcher
def test_the_table_is_sorted_filtered_searched_and_scrolled(
    shown: Page, reports: dict[str, Path], synthetic: Path
) -> None:
    shown.open(reports["synthetic"])
    table = rows(synthetic / "sequences.tsv")
    names = "[...document.querySelectorAll('.row')].map((row) => row.querySelector('.name').textContent)"
    shown.click("#heading .length")
    longest = sorted(table, key=lambda row: -int(row["length"]))
    assert shown.run(names)[0] == longest[0]["seq_name"]
    assert len(shown.run(names)) < 60  # of 3,000
    shown.run("document.getElementById('table').scrollTop = 26 * 1500")
    shown.settle()
    assert longest[1500]["seq_name"] in shown.run(names)
    shown.click("#heading .length")
    shown.run("document.getElementById('table').scrollTop = 0")
    shown.settle()
    assert shown.run("document.querySelector('.row .length').textContent") == longest[-1]["length"]
    shown.set("#filter", "uncertain", "change")
    assert shown.text("#shown") == f"{sum(row['call'] == 'uncertain' for row in table):,} of 3,000"
    shown.set("#filter", "unflagged", "change")
    assert shown.text("#shown") == f"{sum(row['flags'] == 'none' for row in table):,} of 3,000"
    shown.set("#filter", "uncertain", "change")
    shown.set("#file", "1", "change")
    both = sum(row["call"] == "uncertain" and row["source"] == "b.fa" for row in table)
    assert shown.text("#shown") == f"{both:,} of 3,000"
    shown.set("#search", "SEQUENCE 11")
    few = [
        row
        for row in table
        if row["call"] == "uncertain" and row["source"] == "b.fa" and "sequence 11" in row["description"]
    ]
    assert shown.text("#shown") == f"{len(few)} of 3,000"
    assert set(shown.run(names)) == {row["seq_name"] for row in few}
    shown.set("#search", "no such name")
    assert shown.text("#shown") == "0 of 3,000"
    assert saved(shown, "#names") == ""


@no_browser
@pytest.mark.launcher
@pytest.mark.parametrize("width", [1280, 390])
def test_calls_and_numbers_are_not_cut(shown: Page, reports: dict[str, Path], width: int) -> None:
    shown.open(reports["synthetic"], width)
    cut = """[...document.querySelectorAll('.row .cell')].filter((cell) => cell.scrollWidth > cell.clientWidth)
        .map((cell) => cell.className.replace('cell ', ''))"""
    assert set(shown.run(cut)) <= {"name", "flags", "source", "description", "status"}
    assert shown.run("document.querySelectorAll('.row .call').length") > 10


@no_browser
@pytest.mark.launcher
def test_columns_that_say_nothing_are_saved_but_not_shown(shown: Page, reports: dict[str, Path]) -> None:
    titles = "[...document.querySelectorAll('#heading .cell')].map((cell) => cell.title)"
    shown.open(reports["run"])  # of one file
    assert "file" not in shown.run(titles)
    assert {"source", "description"} <= set(saved(shown, "#tsv").partition("\n")[0].split("\t"))
    shown.open(reports["synthetic"])
    assert {"file", "description", "p", "q"} <= set(shown.run(titles))


@no_browser
@pytest.mark.launcher
def test_small_p_values_are_not_shown_as_none(shown: Page, reports: dict[str, Path], synthetic: Path) -> None:
    shown.open(reports["synthetic"])
    known = [row for row in rows(synthetic / "sequences.tsv") if row["p_value"] != "NA"]
    least = min(known, key=lambda row: float(row["p_value"]))
    assert 0 < float(least["p_value"]) < 0.001
    shown.set("#search", least["seq_name"])
    text = {row[0]: row for row in (line.split("\t") for line in saved(shown, "#tsv").splitlines())}
    told = text[least["seq_name"]][text["name"].index("p_value")]
    assert float(told) == pytest.approx(float(least["p_value"]), rel=0.1)


@no_browser
@pytest.mark.launcher
def test_pictures_of_a_report_are_made_at_two_widths(reports: dict[str, Path], tmp_path: Path) -> None:
    drawing = tmp_path / "drawing.svg"
    drawing.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    )
    made = pictures.photographs(tmp_path, [drawing], reports["synthetic"])
    names = [f"report-{width}-{scheme}.png" for scheme in ("light", "dark") for width in (1280, 390)]
    assert [path.name for path in made] == ["drawing.png", *names]
    for path in made:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len({path.read_bytes() for path in made}) == len(made)


def test_without_a_browser_there_are_no_pictures_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "found", lambda: None)
    with pytest.raises(RuntimeError, match="no Chromium"):
        pictures.photographs(tmp_path, [], None)


@no_browser
@pytest.mark.launcher
def test_what_is_saved_are_the_tables_rows_the_runs_regions_and_the_virus_sequences(
    shown: Page, reports: dict[str, Path], done: Path
) -> None:
    shown.open(reports["run"])
    shown.set("#filter", "virus", "change")
    table = rows(done / "virus.tsv")
    lines = [line.split("\t") for line in saved(shown, "#tsv").splitlines()]
    assert [dict(zip(lines[0], line, strict=True))["name"] for line in lines[1:]] == [row["seq_name"] for row in table]
    assert saved(shown, "#names").split() == [row["seq_name"] for row in table]
    shown.set("#filter", "all", "change")
    bed = [line.split("\t") for line in saved(shown, "#bed").splitlines()]
    expected = [line.split("\t") for line in (done / "regions.bed").read_text().splitlines()]
    assert sorted(line[:3] for line in bed) == sorted(line[:3] for line in expected)
    by_place = {tuple(line[:3]): int(line[4]) for line in expected}
    assert all(abs(int(line[4]) - by_place[tuple(line[:3])]) <= 1 for line in bed)
    shown.set("#search", table[0]["seq_name"])
    names = saved(shown, "#names").split()
    shown.run(KEPT)
    node = shown.call("DOM.getDocument")["root"]["nodeId"]
    field = shown.call("DOM.querySelector", nodeId=node, selector="#fna")["nodeId"]
    shown.call("DOM.setFileInputFiles", nodeId=field, files=[str(done / "virus.fna.gz")])
    shown.run(
        "new Promise((done) => { const wait = () => (window.kept.length ? done(1) : setTimeout(wait, 10)); wait(); })"
    )
    kept = str(shown.run("window.kept[0]"))
    assert {entry.split()[0] for entry in kept.split(">")[1:]} <= set(names)
    assert table[0]["seq_name"] in kept


@no_browser
@pytest.mark.launcher
def test_a_sequence_is_shown_in_true_coordinates(shown: Page, reports: dict[str, Path], done: Path) -> None:
    shown.open(reports["run"])
    row = max(rows(done / "sequences.tsv"), key=lambda row: int(row["length"]))
    shown.click("#heading .length")
    shown.click(".row")
    chunks = [each for each in rows(done / "chunks.tsv") if each["seq_name"] == row["seq_name"]]
    assert shown.text("#contigname") == row["seq_name"]
    assert f": {len(chunks)} chunks" in shown.run("document.getElementById('contigs').getAttribute('aria-label')")
    hints = shown.run(
        "(() => { const canvas = document.getElementById('contigs'), box = canvas.getBoundingClientRect(), found = new Set();"
        "for (let x = 44; x < box.width; x += 2) { canvas.dispatchEvent(new MouseEvent('mousemove', {clientX: box.left + x, "
        "clientY: box.top + 138})); found.add(document.getElementById('hint').textContent); } return [...found]; })()"
    )
    for number, chunk in enumerate(chunks, 1):
        values = (chunk[name] for name in ("virus_score", "nonvirus_score"))
        virus, nonvirus = ("NA" if value == "NA" else f"{float(value):.3f}" for value in values)
        place = f"{int(chunk['start']):,}\u2013{int(chunk['end']):,}"
        assert f"chunk {number}, {place}: virus {virus}, non-virus {nonvirus}" in hints


@no_browser
@pytest.mark.launcher
def test_a_run_without_calls_is_shown(models: TinyModels, shown: Page, tmp_path: Path) -> None:
    contigs = write_contigs(tmp_path / "contigs.fa", n=5)
    assert predict(models.settings(contigs, tmp_path / "run", classifier=None, calls=False)) == 0
    write_report(tmp_path / "run")
    shown.open(tmp_path / "run" / "report.html")
    shown.click(".row")
    assert shown.text("#sentence") == "6 sequences, none of which was classified."
    assert "Nothing was classified" in shown.text("#methods")
    assert shown.complaints() == []


@no_browser
@pytest.mark.launcher
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_page_says_why_it_is_not_known_how_many_are_false(shown: Page, tmp_path: Path, calibrated: bool) -> None:
    run = without_probabilities(tmp_path)
    if not calibrated:
        (run / "calibration.json").unlink()
    write_report(run)
    shown.open(run / "report.html")
    why = "no sequence has a probability" if calibrated else "the model has no calibration"
    assert f"is not known: {why}." in shown.text("#sentence")
