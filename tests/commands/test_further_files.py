"""What lies beside the tables: the virus sequences as they were read, regions, summary, compressed tables."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

import vpdist
from tests.sample import write_contigs
from tests.tiny_models import TinyModels, write_classifier
from vpdist.commands.classify import classify
from vpdist.commands.export_run import export_run
from vpdist.commands.predict import predict
from vpdist.commands.verify import verify
from vpdist.config import Settings
from vpdist.errors import InputError, Interrupted
from vpdist.report.page import write_report
from vpdist.results import explained, tables, write_results
from vpdist.results.scores import Scores
from vpdist.results.table_files import opened_table
from vpdist.results.virus_fasta import write_virus_fasta
from vpdist.sequences import records, store_summary
from vpdist.storage.run_folder import CALL_FILES, GZIPPED, TABLES, RunFolder
from vpdist.storage.table_switch import NAMES

Rows = list[dict[str, str]]


def rows(path: Path) -> Rows:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(text.decode()), delimiter="\t", quoting=csv.QUOTE_NONE))


def written(folder: Path) -> list[tuple[str, str]]:
    """Header and letters of each sequence of virus.fna.gz."""
    text = gzip.decompress((folder / "virus.fna.gz").read_bytes()).decode(errors="surrogateescape")
    return [
        (head, lines.replace("\n", "")) for head, _, lines in (part.partition("\n") for part in text.split(">")[1:])
    ]


def message(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["message"])


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contigs(tmp_path_factory.mktemp("input") / "contigs.fa", n=20)


@pytest.fixture(scope="module")
def settings(models: TinyModels, contigs: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return models.settings(contigs, tmp_path_factory.mktemp("done") / "run")


@pytest.fixture(scope="module")
def done(settings: Settings) -> Path:
    assert predict(settings) == 0
    return settings.output


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "run"))


@pytest.fixture
def never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("vpdist.results.virus_fasta.read_as_written", read)


def test_virus_sequences_are_those_called_virus_as_they_stand_in_the_input(done: Path, contigs: Path) -> None:
    parts = [part.partition("\n") for part in contigs.read_text().split(">")[1:]]
    sequences = rows(done / "sequences.tsv")
    called = [row["prediction"] == "virus" for row in sequences]
    assert {True, False} == set(called)
    expected = [(head, letters.strip()) for (head, _, letters), is_virus in zip(parts, called, strict=True) if is_virus]
    assert written(done) == expected
    by_score = rows(done / "virus.tsv")
    assert sorted(row["seq_name"] for row in by_score) == sorted(
        row["seq_name"] for row, is_virus in zip(sequences, called, strict=True) if is_virus
    )
    scores = [float(row["virus_score"]) for row in by_score]
    assert scores == sorted(scores, reverse=True)
    assert all(row in sequences for row in by_score)


def test_a_summary_has_a_row_for_each_input_also_one_without_records(
    models: TinyModels, contigs: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.fa").write_text("")
    second = write_contigs(tmp_path / "second.fa", n=5, seed=3)
    (tmp_path / "short.fa").write_text(">s\nAC\n")
    inputs = tuple(map(str, (contigs, tmp_path / "empty.fa", second, tmp_path / "short.fa")))
    assert predict(models.settings(contigs, tmp_path / "run", inputs=inputs)) == 0
    sequences, summary = rows(tmp_path / "run" / "sequences.tsv"), rows(tmp_path / "run" / "summary.tsv")
    assert [row["source"] for row in summary] == list(inputs)
    for row in summary:
        mine = [each for each in sequences if each["source"] == row["source"]]
        virus = [each for each in mine if each["prediction"] == "virus"]
        scored = [each for each in mine if each["prediction"] != "NA"]
        assert (int(row["n_sequences"]), int(row["n_bases"])) == (len(mine), sum(int(each["length"]) for each in mine))
        assert (int(row["n_scored"]), int(row["n_virus"])) == (len(scored), len(virus))
        assert int(row["n_virus_bases"]) == sum(int(each["length"]) for each in virus)
        assert row["virus_share"] == (f"{len(virus) / len(scored):.6g}" if scored else "NA")
        assert int(row["n_too_short"]) == sum(each["status"] == "too_short" for each in mine)
    assert len(written(tmp_path / "run")) == sum(int(row["n_virus"]) for row in summary)


HOSTILE = [">=cmd|x", '>"quoted', ">NA", ">\\x22", ">a\tb  c", ">", ">\xe4\u202e", ">x#;=%,"]


def test_headers_and_letters_are_kept_whatever_they_hold(models: TinyModels, tmp_path: Path) -> None:
    """Lower case, U, gaps, wrapped lines, repeated names, Windows line ends, bytes that are not UTF-8; FASTQ, too."""
    sequence = "atgGCUgcnGC-TGCTGCAGCAGCCGCTGCTGCAGCA" * 5
    entries = "".join(f"{head}\r\n{sequence[:70]}\r\n{sequence[70:]}\r\n" for head in [*HOSTILE, *HOSTILE[:3]])
    (tmp_path / "in.fa").write_bytes(entries.encode() + b">not \xff UTF-8\n" + sequence.encode() + b"\n")
    (tmp_path / "in.fq.gz").write_bytes(gzip.compress(f"@read 1\n{sequence}\n+\n{'I' * len(sequence)}\n".encode()))
    inputs = (str(tmp_path / "in.fa"), str(tmp_path / "in.fq.gz"))
    for seed in range(20):  # a classifier that calls them virus
        assert (
            predict(
                models.settings(
                    tmp_path / "in.fa",
                    tmp_path / f"run{seed}",
                    inputs=inputs,
                    classifier=write_classifier(tmp_path / f"{seed}.safetensors", seed=seed),
                )
            )
            == 0
        )
        run = tmp_path / f"run{seed}"
        if written(run):
            break
    heads = [*(head[1:] for head in [*HOSTILE, *HOSTILE[:3]]), "not \udcff UTF-8", "read 1"]
    assert written(run) == [(head, sequence) for head in heads]
    assert len(pandas.read_csv(run / "virus.tsv", sep="\t")) == len(heads)
    features = [line.split("\t") for line in (run / "regions.gff3").read_text().splitlines() if line[0] != "#"]
    assert len(features) == len(heads)
    assert all(len(feature) == 9 for feature in features)
    assert [len(line.split("\t")) for line in (run / "regions.bed").read_text().splitlines()] == [9] * len(heads)
    for name in ("virus.tsv", "summary.tsv"):
        assert not any(
            cell.startswith('"') for line in (run / name).read_text().split("\n") for cell in line.split("\t")
        )


def test_the_same_command_does_not_read_the_input_again(copy: Path, settings: Settings, never_read: None) -> None:
    before = {name: (copy / name).read_bytes() for name in CALL_FILES}
    assert predict(replace(settings, output=copy)) == 0
    assert {name: (copy / name).read_bytes() for name in CALL_FILES} == before
    assert "is not written" not in message(copy)


def test_bytes_are_the_same_in_another_run(done: Path, settings: Settings, tmp_path: Path) -> None:
    assert predict(replace(settings, output=tmp_path / "again")) == 0
    for name in CALL_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (done / name).read_bytes()
    assert (done / "virus.fna.gz").read_bytes()[3:8] == bytes(5)  # no name, no time


def test_an_input_is_read_up_to_its_last_virus_record_and_not_at_all_without_one(
    done: Path, contigs: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(path: Path, opened: object):  # type: ignore[no-untyped-def]
        for record in records.read_as_written(path):
            read.append(record.name)
            yield record

    monkeypatch.setattr("vpdist.results.virus_fasta.read_as_written", noted)
    threshold = float(rows(done / "virus.tsv")[0]["virus_score"])
    classifier = Path(json.loads((copy / "run.json").read_text())["settings"]["classifier"])
    assert classify(copy, classifier, consensus=None, legacy_output=False, min_score=threshold, progress="none") == 0
    last = rows(copy / "virus.tsv")[-1]["seq_name"]
    assert len(rows(copy / "virus.tsv")) == len(written(copy)) < len(rows(done / "virus.tsv"))
    assert read[-1] == last
    assert len(read) < len(rows(done / "sequences.tsv"))
    read.clear()
    assert classify(copy, classifier, consensus=None, legacy_output=False, min_score=1.0, progress="none") == 0
    assert (read, written(copy)) == ([], [])
    assert "at least 1" in (copy / "README.txt").read_text()
    assert json.loads((copy / "run.json").read_text())["tables_from"]["min_score"] == 1.0
    bed = (copy / "regions.bed").read_text().splitlines()
    assert all(float(line.split("\t")[6]) == 1.0 for line in bed)
    assert tables_of(copy) == tables_of(done)


def tables_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


@pytest.mark.parametrize("change", ["gone", "other", "letters"])
def test_without_its_input_everything_else_is_written_and_the_absence_is_told(
    models: TinyModels, contigs: Path, tmp_path: Path, change: str
) -> None:
    source = Path(shutil.copy(contigs, tmp_path / "in.fa"))
    run = tmp_path / "run"
    assert predict(models.settings(source, run)) == 0
    if change == "gone":
        source.unlink()
    elif change == "other":
        source.write_text(source.read_text()[:-1] + "A\n")
    else:
        status = source.stat()
        source.write_text(source.read_text().replace("contig", "CONTIG"))
        os.utime(source, ns=(status.st_mtime_ns, status.st_mtime_ns))
    other = write_classifier(tmp_path / "other.safetensors", seed=5)
    assert classify(run, other, consensus=None, legacy_output=False, progress="none") == 0
    assert not (run / "virus.fna.gz").exists()
    assert "virus.fna.gz is not written" in message(run)
    assert str(source) in message(run)
    assert "virus.fna.gz is not here" in (run / "README.txt").read_text()
    assert rows(run / "virus.tsv")
    assert verify(run) == []


def test_a_record_that_is_another_one_than_the_table_says_is_found(done: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.fa"
    source.write_text(">a\nACGT\n>b\nACG\n")
    first = np.array([0, 2])

    def write(wanted: list[int], *expected: tuple[str, int]) -> None:
        write_virus_fasta(tmp_path / "out.gz", [source], first, np.array(wanted), lambda n: expected[n], lambda: None)

    write([0, 1], ("a", 4), ("b__2", 3))
    (tmp_path / "out.gz").unlink()
    for expected in ((("a", 5), ("b", 3)), (("a", 4), ("c", 3))):
        with pytest.raises(InputError, match="the file has changed"):
            write([0, 1], *expected)
    source.write_text(">a\nACGT\n")
    with pytest.raises(InputError, match="fewer records"):
        write([0, 1], ("a", 4), ("b", 3))
    assert not (tmp_path / "out.gz").exists()


@pytest.mark.parametrize("n", [1, 79, 80, 81, 319, 320, 321, 1000])
def test_a_sequence_is_written_in_lines_of_80_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr("vpdist.results.virus_fasta.LETTERS_AT_ONCE", 160)
    letters = "".join("acgtNRY-"[i * i % 7] for i in range(n))
    (tmp_path / "in.fa").write_text(f">s t\n{letters}\n")
    records = (np.array([0, 1]), np.array([0]), lambda _: ("s", n))
    write_virus_fasta(tmp_path / "out.gz", [tmp_path / "in.fa"], *records, lambda: None)
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()).decode().splitlines() == [
        ">s t",
        *(letters[start : start + 80] for start in range(0, n, 80)),
    ]


def test_a_run_that_must_end_ends_while_the_input_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.fa"
    source.write_text("".join(f">s{i}\nACGT\n" for i in range(5000)))
    looked = []

    def ending() -> None:
        looked.append(True)
        if len(looked) == 3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        write_virus_fasta(
            tmp_path / "out.gz", [source], np.array([0, 5000]), np.array([4999]), lambda n: ("s4999", 4), ending
        )
    assert not list(tmp_path.glob("*out.gz*"))


def test_classify_finds_the_inputs_where_they_were_from_any_folder(
    models: TinyModels, contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(contigs.parent)
    assert predict(models.settings(Path(contigs.name), tmp_path / "run")) == 0
    monkeypatch.chdir(tmp_path)
    other = write_classifier(tmp_path / "other.safetensors", seed=5)
    assert classify(tmp_path / "run", other, consensus=None, legacy_output=False, progress="none") == 0
    assert len(written(tmp_path / "run")) == len(rows(tmp_path / "run" / "virus.tsv"))


def test_virus_sequences_of_standard_input_come_from_its_copy(
    models: TinyModels, contigs: Path, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(contigs) as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        assert predict(models.settings(contigs, tmp_path / "run", inputs=("-",))) == 0
    assert written(tmp_path / "run") == written(done)
    assert [row["source"] for row in rows(tmp_path / "run" / "summary.tsv")] == ["-"]


def test_compressed_tables_take_the_place_of_the_others_and_verify_knows_them(
    copy: Path, done: Path, settings: Settings, tmp_path: Path
) -> None:
    assert predict(replace(settings, output=copy, gzip_tables=True)) == 0
    assert not any((copy / name).exists() for name in TABLES)
    assert [gzip.decompress((copy / name).read_bytes()) for name in GZIPPED] == tables_of(done)
    assert "sequences.tsv.gz" in message(copy)
    assert verify(copy) == []
    with opened_table(copy, "sequences") as table:
        assert len(list(table)) == len(rows(done / "sequences.tsv"))
    assert len(vpdist.open_run(copy).sequences) == len(rows(done / "sequences.tsv"))
    write_report(copy, tmp_path / "report.html")
    assert export_run(copy, "npz", "fragment", tmp_path / "out.npz")[1] == len(rows(done / "fragments.tsv"))
    damaged = copy / "fragments.tsv.gz"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-30])
    assert [problem.count("fragments.tsv.gz") for problem in verify(copy)] == [1]
    text = gzip.decompress(whole).replace(b"contig1_chunk_1", b"contig1_chunk_9", 1)
    damaged.write_bytes(gzip.compress(text))
    (problem,) = verify(copy)
    assert "fragments.tsv.gz: row" in problem
    damaged.write_bytes(whole)
    assert verify(copy) == []
    assert predict(replace(settings, output=copy)) == 0
    assert not any((copy / name).exists() for name in GZIPPED)
    assert tables_of(copy) == tables_of(done)


@pytest.mark.parametrize("name", CALL_FILES)
def test_verify_names_a_file_that_was_changed(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"x")
    (problem,) = verify(copy)
    assert name in problem


def test_a_damaged_compressed_table_is_told(copy: Path, settings: Settings) -> None:
    assert predict(replace(settings, output=copy, gzip_tables=True)) == 0
    run = json.loads((copy / "run.json").read_text())
    content = (copy / "chunks.tsv.gz").read_bytes()
    (copy / "chunks.tsv.gz").write_bytes(content[: len(content) // 2])
    assert any("chunks.tsv.gz" in problem for problem in verify(copy))
    del run["tables"]
    (copy / "run.json").write_text(json.dumps(run))
    assert any("is damaged" in problem for problem in verify(copy))


def test_a_folder_of_an_earlier_version_is_valid_and_keeps_what_others_have_put_there(
    copy: Path, settings: Settings
) -> None:
    run = json.loads((copy / "run.json").read_text())
    for name in CALL_FILES:
        (copy / name).unlink()
        del run["tables"]["files"][name]
    del run["tables_from"]["min_score"], run["input_paths"]
    (copy / "run.json").write_text(json.dumps(run))
    assert verify(copy) == []
    (copy / "virus.tsv").write_text("somebody's")
    (copy / "README.txt").write_text("notes")
    assert verify(copy) == []
    (copy / "calibration.json").write_text("{}")
    assert predict(replace(settings, output=copy)) == 0
    assert (copy / "virus.tsv.before").read_text() == "somebody's"
    assert (copy / "README.txt.before").read_text() == "notes"
    assert (copy / "calibration.json.before").read_text() == "{}"
    assert verify(copy) == []
    assert predict(replace(settings, output=copy, restart=True)) == 0
    assert (copy / "README.txt.before").read_text() == "notes"


def test_restart_removes_call_files_of_the_run_only(copy: Path) -> None:
    RunFolder(copy).prepare(restart=True)
    assert not any((copy / name).exists() for name in (*CALL_FILES, *TABLES))


def test_embed_makes_no_calls_hence_no_virus_files(models: TinyModels, contigs: Path, tmp_path: Path) -> None:
    assert predict(models.settings(contigs, tmp_path / "run", classifier=None, calls=False)) == 0
    there = {name for name in CALL_FILES if (tmp_path / "run" / name).exists()}
    assert there == {"summary.tsv", "README.txt"}
    (summary,) = rows(tmp_path / "run" / "summary.tsv")
    assert (summary["n_virus"], summary["n_scored"], summary["virus_share"]) == ("NA", "NA", "NA")
    assert summary["n_sequences"] == "21"
    assert verify(tmp_path / "run") == []


def test_every_flag_of_the_documents_has_words() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "flags.md").read_text()
    assert list(explained.FLAGS) == re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_writing_tables_ends_between_blocks_when_the_command_is_to_end(done: Path) -> None:
    folder, files = RunFolder(done), {name: io.BytesIO() for name in tables.COLUMNS}
    summary = store_summary.load_summary(folder)
    assert summary is not None

    def raise_if_ending() -> None:
        if files["fragments"].getvalue().count(b"\n") > 1:
            raise Interrupted("stopped")

    scores = Scores.empty(summary.n_fragments)
    with pytest.raises(Interrupted):
        write_results.fill_tables(files, folder, summary, scores, ["a", "b"], "mean", raise_if_ending)


def test_the_readme_explains_every_file_and_column(done: Path) -> None:
    assert "calibration.json  " in explained.readme(NAMES, {}, [])
    text = (done / "README.txt").read_text()
    for name in (*TABLES, *CALL_FILES):
        assert f"\n{name} " in text, name
    for table, columns in tables.COLUMNS.items():
        assert set(columns) <= explained.COLUMNS[table].keys()
    assert "see docs/run-folder.md" not in text
    assert "add up to 1" in text
    assert "near 2" in text
