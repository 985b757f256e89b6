"""Tables read by other programs with their defaults: as many rows as there are records, and every cell as written."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tiny_models import TinyModels
from vpdist.commands.predict import predict
from vpdist.results import tables
from vpdist.results.scores import Scores
from vpdist.sequences import token_store
from vpdist.text import without_open_quotes

HEADERS = st.text(
    st.sampled_from("\"'\\x2 \t,;#NA1e\u00df\u2028\x85\x1c") | st.characters(codec="utf-8", exclude_characters="\r\n\0")
)


def rows_by_default(path: Path) -> list[list[str]]:
    """The rows as Python's csv module reads them, whose rules for quotes are those of R's read.delim."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t"))


def rows_by_lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]


@settings(max_examples=200, deadline=None)
@given(headers=st.lists(HEADERS, min_size=1, max_size=8))
@example(headers=['x "Candidatus Foo bar', 'y "unbalanced, complete genome', "z plain"])
@example(headers=['"x', 'y an 8" tail', 'z the "best" one', '"both"', 'a "', '"'])
def test_every_reader_finds_the_cells_that_were_written(headers: list[str]) -> None:
    with TemporaryDirectory() as folder:
        source = Path(folder) / "in.fa"
        records = [f">{header}\nATGGCTGCT\n" for header in headers]
        source.write_text("".join(records), encoding="utf-8", errors="surrogateescape", newline="\n")
        blocks = [token_store.tokenise_block(raw, {}) for raw in token_store.read_blocks([source], 300)]
        n_fragments = sum(len(block.fragment_chunk) for block in blocks)
        half = np.full(n_fragments, 0.5, np.float32)
        scores = Scores(half, half, np.zeros(n_fragments, bool))
        given = {"sources": ["in.fa"], "new_names": {}, "n_records": len(headers), "consensus": "mean"}
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(Path(folder) / f"{name}.tsv", "wb")) for name in tables.COLUMNS}
            tables.fill(files, blocks, scores, **given)
        for name in ("sequences", "chunks", "fragments"):
            read = rows_by_default(Path(folder) / f"{name}.tsv")
            assert read == rows_by_lines(Path(folder) / f"{name}.tsv")
            assert not any(cell.startswith('"') for row in read for cell in row)
            assert len(pandas.read_csv(Path(folder) / f"{name}.tsv", sep="\t")) == len(read) - 1
        assert len(rows_by_default(Path(folder) / "sequences.tsv")) == len(headers) + 1


@given(text=st.text(st.sampled_from('"ab\\')))
def test_quotes_are_kept_or_written_so_that_they_can_be_put_back(text: str) -> None:
    written = without_open_quotes(text)
    assert written.replace("\\x22", '"') == text.replace("\\x22", '"')
    assert not written.startswith('"')
    assert written.count('"') % 2 == 0


def test_a_source_with_a_tab_a_line_break_or_a_quote_is_one_cell(
    models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ['"a.fa', "b\tc\nd\re.fa", "plain file.fa"]
    for number, name in enumerate(names):
        Path(name).write_text(f">NA the {number}th\nATGGCTGCTGCT\n")
    assert predict(models.settings(Path("run"), tmp_path / "run", inputs=tuple(names))) == 0
    read = rows_by_default(tmp_path / "run" / "sequences.tsv")
    assert [row[1] for row in read[1:]] == ["\\x22a.fa", "b c d e.fa", "plain file.fa"]
    assert [row[0] for row in read[1:]] == ["NA", "NA__2", "NA__3"]


def test_pandas_reads_names_and_missing_scores_as_the_documents_show(models: TinyModels, tmp_path: Path) -> None:
    source = tmp_path / "in.fa"
    source.write_text('>NA a\nATGGCTGCTGCT\n>007 "b\nATGGCTGCTGCT\n>None\nTTAATTAATTAGTTAATTAATTAG\n')
    assert predict(models.settings(source, tmp_path / "run")) == 0
    path = tmp_path / "run" / "sequences.tsv"
    assert len(pandas.read_csv(path, sep="\t")) == 3
    documents = Path(__file__).parents[2] / "docs" / "run-folder.md"
    program = documents.read_text().split("import pandas as pd\n", 1)[1].split("```", 1)[0]
    names: dict[str, object] = {"pd": pandas}
    exec(program.replace("RUN/sequences.tsv", str(path)), names)
    table = names["sequences"]
    assert list(table["seq_name"]) == ["NA", "007", "None"]  # type: ignore[index]
    assert list(table["description"]) == ["a", "\\x22b", ""]  # type: ignore[index]
    assert list(table["virus_score"].isna()) == [False, False, True]  # type: ignore[index]
