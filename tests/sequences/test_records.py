"""Records from files of every kind, and every fault of the input as an InputError that names its position."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import xopen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.sample import bgzip_block
from vpdist.errors import InputError, Interrupted, StorageError
from vpdist.sequences.input_report import CutFile, InputReport, ReplacedLetters
from vpdist.sequences.records import UNNAMED, Record, read_records
from vpdist.sequences.standard_input import spool_stdin

FASTA = b">one first record\nACGT\nacgu\n>two\nNNRY\n"
FASTQ = b"@one first record\nACGTacgu\n+\nIIIIIIII\n@two\nNNRY\n+\nIIII\n"
EXPECTED = [("one", "first record", b"ACGTACGT"), ("two", "", b"NNRY")]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: xopen.zstd.compress(content, options={xopen.zstd.CompressionParameter.checksum_flag: 1}),
}
MANY = b"".join(b">r%d\n%s\n" % (i, b"ACGTTGCA" * (i % 50 + 1)) for i in range(2000))


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], list[tuple[str, str, bytes]]]:
    """Name, description and sequence of the records in a file with the given content."""

    def read_content(content: bytes, name: str = "input") -> list[tuple[str, str, bytes]]:
        path = tmp_path / name
        path.write_bytes(content)
        return [(record.name, record.description, record.sequence) for record in read_records([path])]

    return read_content


Read = Callable[..., list[tuple[str, str, bytes]]]


@pytest.mark.parametrize("content", [FASTA, FASTQ], ids=["fasta", "fastq"])
@pytest.mark.parametrize("compression", [None, *COMPRESS])
@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz", ".fq"])
def test_format_and_compression_are_told_by_content(
    read: Read, content: bytes, compression: str | None, suffix: str
) -> None:
    packed = COMPRESS[compression](content) if compression else content
    assert read(packed, f"reads{suffix}") == EXPECTED


def test_several_files_of_mixed_kinds_are_read_in_order(tmp_path: Path) -> None:
    contents = {"b.fa": FASTA, "empty.fa": b"", "a.fq.gz": gzip.compress(FASTQ)}
    paths = [tmp_path / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    records = list(read_records([*paths, paths[0]]))
    assert records[0] == Record("one", "first record", str(paths[0]), b"ACGTACGT")
    assert [Path(record.source).name for record in records] == ["b.fa"] * 2 + ["a.fq.gz"] * 2 + ["b.fa"] * 2


@pytest.mark.parametrize("compression", COMPRESS)
def test_concatenated_compressed_files_are_read_to_the_end(read: Read, compression: str) -> None:
    compress = COMPRESS[compression]
    assert read(compress(FASTA[:9]) + compress(b"") + compress(FASTA[9:])) == EXPECTED


def test_bgzip_files_are_read_to_the_end(read: Read) -> None:
    assert read(bgzip_block(FASTA[:20]) + bgzip_block(FASTA[20:]) + bgzip_block(b"")) == EXPECTED


def test_zeros_that_pad_xz_streams_are_skipped(read: Read) -> None:
    assert read(lzma.compress(FASTA[:9]) + bytes(4) + lzma.compress(FASTA[9:]) + bytes(8)) == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.replace(b"\n", b"\r"),
        FASTA.rstrip(),
        FASTA.replace(b"\n", b"\n\n"),
        b"\n\r\n" + FASTA,
        b"\xef\xbb\xbf" + FASTA,
        b"# a comment\n" + FASTA.replace(b"acgu", b"#more\nacgu"),
        FASTA.replace(b"ACGT\n", b" AC GT\t\n"),
        FASTA.replace(b">one", b"> one").replace(b" first record", b" \tfirst record \t"),
        FASTQ.replace(b"\n", b"\r\n"),
        FASTQ.rstrip(),
        FASTQ + b"\n\r\n\n\n\n\n",
        FASTQ.replace(b"+\nIIII\n", b"+two\nIIII\n"),
    ],
    ids=[
        "crlf", "cr", "no-last-break", "blank-lines", "blank-first", "byte-order-mark", "comments", "spaces", "spaced-header",
        "fastq-crlf", "fastq-no-last-break", "fastq-blank-end", "fastq-second-header",
    ],
)  # fmt: skip
def test_line_ends_blanks_and_comments_do_not_matter(read: Read, content: bytes) -> None:
    assert read(content) == EXPECTED


def test_blank_lines_beyond_one_buffer_end_a_fastq_file(read: Read) -> None:
    assert read(FASTQ + b"\n" * 1_000_000) == EXPECTED


EMPTY = [b"", b"\n", b"\r\n", b" \n\t\n\n", b"\n" * 100_000, b"# only\n# comments\n", b"\xef\xbb\xbf"]


@pytest.mark.parametrize("compression", [None, *COMPRESS])
def test_files_without_records_are_reported_and_the_others_are_read(tmp_path: Path, compression: str | None) -> None:
    contents = [FASTA, *EMPTY, FASTQ]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(COMPRESS[compression](content) if compression else content)
    report = InputReport()
    assert [record.name for record in read_records(paths, report)] == ["one", "two"] * 2
    assert report == InputReport(without_records=list(range(1, len(EMPTY) + 1)))


@pytest.mark.parametrize("compression", [None, *COMPRESS])
def test_an_empty_file_has_no_records(read: Read, compression: str | None) -> None:
    assert read(COMPRESS[compression](b"") if compression else b"") == []


@pytest.mark.parametrize(
    "content", [b">a\n>b x\n\n>c", b"@a\n\n+\n\n@b x\n\n+\n\n@c\n\n+\n\n\n"], ids=["fasta", "fastq"]
)
def test_records_of_length_0_are_records(read: Read, content: bytes) -> None:
    assert read(content) == [("a", "", b""), ("b", "x", b""), ("c", "", b"")]


def test_a_long_sequence_is_read_whole(read: Read, tmp_path: Path) -> None:
    letters = b"acgun" * 500_000
    assert read(b">a\n" + letters + b"\n" + letters) == [("a", "", b"ACGTN" * 1_000_000)]
    error, _ = fault(b">a\n" + letters[:7] + b" " + letters + b"e", tmp_path)
    assert (error.record, error.position) == ("a", "letter 2500008")


def test_every_iupac_letter_and_gap_is_kept_in_upper_case_and_u_is_t(read: Read) -> None:
    letters = b"ACGTNRYSWKMBDHV"
    assert read(b">a\n" + letters + letters.lower() + b"-.uU") == [("a", "", letters * 2 + b"-.TT")]


@pytest.mark.parametrize(
    ("header", "name", "description"),
    [
        (b"", UNNAMED, ""),
        (b" \t", UNNAMED, ""),
        (b"a\tb\tc  d", "a", "b c  d"),
        (b"a>b|id=x/y;z", "a>b|id=x/y;z", ""),
        (b"nr1 first\x01nr2 second", "nr1", "first nr2 second"),
        (b"nr1\x01nr2", "nr1", "nr2"),
        (b"a\x1b[31mb", "a", "[31mb"),
        ("phage_ß é漢".encode(), "phage_ß", "é漢"),
        (b"caf\xe9 \xff", "caf\\xe9", "\\xff"),
        (b'"x y', "\\x22x", "y"),
        (b'x "Candidatus y', "x", "\\x22Candidatus y"),
        (b'x an 8" tail', "x", "an 8\\x22 tail"),
        (b'x a "b" c', "x", 'a "b" c'),
        (b'x "a" b', "x", "\\x22a\\x22 b"),
    ],
)
def test_headers_become_a_name_and_a_description_without_control_characters(
    read: Read, header: bytes, name: str, description: str
) -> None:
    assert read(b">" + header + b"\nAC\n") == [(name, description, b"AC")]


def fault(content: bytes, tmp_path: Path) -> tuple[InputError, list[Record]]:
    """The error that reading `content` ends in, and the records before it."""
    path = tmp_path / "bad"
    path.write_bytes(content)
    records: list[Record] = []
    with pytest.raises(InputError) as caught:
        records.extend(read_records([path]))
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 3
    assert str(caught.value).isprintable()
    return caught.value, records


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_compressed_file_is_refused_after_its_last_whole_record(
    tmp_path: Path, compression: str, share: float
) -> None:
    packed = COMPRESS[compression](MANY)
    error, records = fault(packed[: int(len(packed) * share)], tmp_path)
    assert error.reason == f"the {compression} data end too early: the file is truncated or damaged"
    if records:
        assert (error.record, error.position) == (records[-1].name, f"after {len(records)} complete records")
    else:
        assert error.position == "before the first complete record"


def cut_files(content: bytes, tmp_path: Path) -> list[CutFile]:
    """What reading `content` reports of a file that was cut off."""
    path = tmp_path / "cut"
    path.write_bytes(content)
    report = InputReport()
    deque(read_records([path], report), maxlen=0)
    return report.cut


def test_a_bgzip_file_that_was_cut_between_blocks_is_reported_with_its_last_record(tmp_path: Path) -> None:
    blocks, end = [bgzip_block(FASTA[:30]), bgzip_block(FASTA[30:])], bgzip_block(b"")
    assert cut_files(b"".join(blocks) + end, tmp_path) == []
    assert cut_files(b"".join(blocks), tmp_path) == [CutFile(0, "end marker of bgzip", "two")]
    assert cut_files(blocks[0], tmp_path) == [CutFile(0, "end marker of bgzip", "t")]
    assert cut_files(b"".join(blocks) + end + gzip.compress(FASTA), tmp_path) == []
    assert cut_files(gzip.compress(FASTA) + blocks[0], tmp_path) == [CutFile(0, "end marker of bgzip", "t")]


def test_a_pzstd_file_that_was_cut_after_the_announcement_of_a_frame_is_reported(tmp_path: Path) -> None:
    frames = [COMPRESS["zst"](piece) for piece in (FASTA[:30], FASTA[30:])]
    announced = [b"\x50\x2a\x4d\x18\x04\0\0\0" + len(frame).to_bytes(4, "little") for frame in frames]
    whole = announced[0] + frames[0] + announced[1] + frames[1]
    assert cut_files(whole, tmp_path) == []
    missing = "frame after the last one that pzstd announces"
    assert cut_files(whole[: -len(frames[1])], tmp_path) == [CutFile(0, missing, "t")]


@pytest.mark.parametrize("compression", ["bgzip", *COMPRESS])
def test_a_file_cut_anywhere_is_refused_or_reported_except_between_two_that_were_joined(
    tmp_path: Path, compression: str
) -> None:
    compress = COMPRESS.get(compression, bgzip_block)
    pieces = [compress(FASTA[:30]), compress(FASTA[30:])] + [bgzip_block(b"")] * (compression == "bgzip")
    packed = b"".join(pieces)
    boundaries = {len(pieces[0]), len(pieces[0] + pieces[1])}
    quiet = set()
    for length in range(7, len(packed)):
        try:
            if not cut_files(packed[:length], tmp_path):
                quiet.add(length)
        except InputError:
            continue
    assert quiet == (set() if compression == "bgzip" else boundaries - {len(packed)})


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_bad_checksum_is_refused(tmp_path: Path, compression: str) -> None:
    packed = bytearray(COMPRESS[compression](FASTA))
    checksum = {"gz": -8, "bz2": 10, "xz": -30, "zst": -1}  # of the member, a block, the index, the frame
    packed[checksum[compression]] ^= 1
    error, _ = fault(bytes(packed), tmp_path)
    assert error.reason.startswith(f"the {compression} data are damaged: ")
    assert error.position == "before the first complete record"


@pytest.mark.parametrize("compression", ["bz2", "xz"])
def test_a_damaged_second_stream_is_not_taken_for_the_end(tmp_path: Path, compression: str) -> None:
    second = bytearray(COMPRESS[compression](FASTA))
    second[0] ^= 1
    error, records = fault(COMPRESS[compression](FASTA) + bytes(second), tmp_path)
    assert f"{compression} data are damaged" in error.reason
    assert len(records) == 1  # the last record before the damage may not be whole


@pytest.mark.parametrize(
    ("letters", "letter", "position"),
    [
        (b"MKVLA", "L", 4),
        (b"ACGT\nACGE\n", "E", 8),
        (b"AC GT\tX", "X", 5),
        (b"acgtq", "q", 5),
        (b"ACG*", "*", 4),
        (b"ACGT1", "1", 5),
        (b"ACGT>two\nACGT", ">", 5),
        (b"AC\x00", "\x00", 3),
    ],
)
@pytest.mark.parametrize("form", ["fasta", "fastq"])
def test_letters_that_are_no_nucleotides_are_refused_by_record_and_position(
    tmp_path: Path, letters: bytes, letter: str, position: int, form: str
) -> None:
    if form == "fasta":
        content = b">good\nACGT\n>bad one\n" + letters + b"\n>last\nACGT\n"
    else:
        joined = letters.replace(b"\n", b"")
        content = b"@good\nACGT\n+\nIIII\n@bad one\n" + joined + b"\n+\n" + b"I" * len(joined) + b"\n"
    error, records = fault(content, tmp_path)
    assert [record.name for record in records] == ["good"]
    assert (error.record, error.position) == ("bad", f"letter {position}")
    assert f"unexpected letter {letter!r}" in error.reason
    assert ("protein" in error.reason) == ((letter.isascii() and letter.isalpha()) or letter == "*")


@pytest.mark.parametrize("form", ["fasta", "fastq"])
def test_letters_that_are_no_nucleotides_can_be_read_as_n_and_are_counted(tmp_path: Path, form: str) -> None:
    read = [b"ACGT", b"AC*T1", b"QACGUN", b"ACGT"]
    names = [b"good", b"one x", b"two", b"last"]
    if form == "fasta":
        content = b"".join(b">%b\n%b\n" % (name, letters) for name, letters in zip(names, read, strict=True))
    else:
        content = b"".join(
            b"@%b\n%b\n+\n%b\n" % (name, letters, b"I" * len(letters))
            for name, letters in zip(names, read, strict=True)
        )
    (tmp_path / "in").write_bytes(content)
    report = InputReport()
    records = list(read_records([tmp_path / "in"], report, replace_unknown=True))
    assert [record.sequence for record in records] == [b"ACGT", b"ACNTN", b"NACGTN", b"ACGT"]
    assert report == InputReport(replaced=ReplacedLetters(0, "one", "*", letters=3, records=2))
    assert report.warnings(["in.fa"]) == [
        "warning: 3 letters of 2 sequences are no nucleotides and were read as N, the first '*' in one of in.fa"
    ]
    assert InputReport.from_dict(asdict(report)) == report


def test_a_header_inside_a_sequence_is_no_letter_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "joined.fa").write_bytes(b">one\nAC*GT>two\nACGT\n")
    with pytest.raises(InputError, match="a header inside a line") as caught:
        list(read_records([tmp_path / "joined.fa"], replace_unknown=True))
    assert (caught.value.record, caught.value.position) == ("one", "letter 6")


@pytest.mark.parametrize(("letters", "letter"), [(b"AC\xc3\xa9", "é"), (b"AC\xe9", "\udce9")])
def test_bytes_that_are_not_ascii_are_refused_in_a_fasta_sequence(tmp_path: Path, letters: bytes, letter: str) -> None:
    error, _ = fault(b">bad\n" + letters, tmp_path)
    assert (error.record, error.position) == ("bad", "letter 3")
    assert f"unexpected letter {letter!r}" in error.reason


@pytest.mark.parametrize(
    ("content", "position", "reason"),
    [
        (b"ACGT\nACGT\n", "line 1", "neither FASTA ('>') nor FASTQ ('@'); it begins with 'ACGT"),
        (b"#chrom\tpos\nchr1\t5\n", "line 2", "Expected '>' at beginning of record, but got 'chr1"),
        (b"\x89PNG\r\n\x1a\n", "line 1", "binary data, neither FASTA nor FASTQ"),
        (gzip.compress(gzip.compress(FASTA, mtime=0), mtime=0), "line 1", "compressed twice"),
        (b">a\0b\nAC", None, "binary data in a header"),
        (b"@a\nAC\n+\nIII\n", "line 4", "Length of sequence and qualities differ"),
        (b"@a\nAC\n+\nII\n@b\nAC\n+\n", "line 8", "Premature end of file"),
        (b"@a\nAC\n+b\nII\n", "line 3", "Sequence descriptions don't match ('a' != 'b'). The second"),
        (b"@a\nAC\nAC\n+\nIII\n", "line 3", "Line expected to start with '+'"),
        (b"@a\nAC\nII\n@b\nAC\n+\nII\n", "line 3", "Line expected to start with '+'"),
        (b"@a\nAC\nAC\n+\nIIII\n@b\nAC\n+\nI\n", "line 9", "Length of sequence and qualities differ"),
        (b"@a\nAC\nAC\n+\nIIII\n@b\nAC\n", "line 7", "Premature end of file"),
        (b"@a\nAC\nAC\n+\nIIII\n\n@b\nAC\n+\nII\n", "line 6", "Line expected to start with '@'"),
        (b"@a\nAC\nAC\n+\nIIII\n@\xff\n", "line 6", "byte 0xff is not ASCII"),
        (b"@a\nAC\n+\nII\n\n@b\nAC\n+\nII\n", "line 5", "Line expected to start with '@'"),
        (b"@a\nAC\n+\nII\n>b\nAC\n", "line 7", "Premature end of file"),
        ("@a\nAC\n+\nII\n@ß\nAC\n+\nII\n".encode(), "line 5", "byte 0xc3 is not ASCII"),
        (b"@a\rAC\r+\rII\r", "line 1", "Premature end of file"),
        (b"@" + b"A" * 100_000, "line 1", "Premature end of file"),
    ],
)
def test_what_is_neither_fasta_nor_fastq_is_refused_with_its_position(
    tmp_path: Path, content: bytes, position: str | None, reason: str
) -> None:
    error, _ = fault(content, tmp_path)
    assert error.position == position
    assert reason in error.reason
    assert len(error.reason) < 250


def tar_of(content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        member = tarfile.TarInfo("reads/a.fa")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def zip_of(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.fa", content)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "named", "advice"),
    [
        (tar_of(FASTA), "tar archive", "unpack it"),
        (gzip.compress(tar_of(FASTA)), "tar archive", "unpack it"),
        (zip_of(FASTA), "zip archive", "unpack it"),
        (zip_of(FASTA)[-22:], "zip archive", "unpack it"),
        (FASTA.decode().encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff" + FASTQ.decode().encode("utf-16-be"), "UTF-16", "iconv"),
        (FASTA.decode().encode("utf-16-le"), "UTF-16LE", "iconv"),
        (FASTQ.decode().encode("utf-16-be"), "UTF-16BE", "iconv"),
        (FASTA.decode().encode("utf-32"), "UTF-32", "iconv"),
        (b"@HD\tVN:1.6\tSO:unsorted\nr1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n", "SAM", "samtools fasta"),
        (b"@SQ\tSN:chr1\tLN:100\n", "SAM", "samtools fasta"),
        (b"r1\t0\tchr1\t7\t60\t4M\t*\t0\t0\tACGT\tIIII\n", "SAM", "samtools fasta"),
        (b"r1\t4\t*\t0\t0\t*\t*\t0\t0\tACGT\tIIII\n", "SAM", "samtools fasta"),
        (bgzip_block(b"BAM\x01\0\0\0\0"), "BAM", "samtools fasta"),
        (b"CRAM\x03\0", "CRAM", "samtools fasta"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 31\n", "Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "web page", "download"),
        (b"LOCUS       NC_001416  48502 bp    DNA\n", "GenBank", "save it as FASTA"),
        (b"NCBI.sra\0\0", "SRA", "fasterq-dump"),
        (b"##gff-version 3\nchr1\t.\tgene\t1\t9\t.\t+\t.\tID=a\n", "GFF", "FASTA"),
        (b"\x04\x22\x4d\x18\x64", "lz4", "decompress it first"),
    ],
)
def test_a_file_of_another_format_is_named_for_what_it_is_with_what_to_do(
    tmp_path: Path, content: bytes, named: str, advice: str
) -> None:
    error, records = fault(content, tmp_path)
    assert records == []
    assert error.position == "line 1"
    assert named in error.reason
    assert advice in error.reason


@pytest.mark.parametrize(
    "content",
    [
        b"@SQ\tx\nAC\n+\nII\n",
        b"@r1\tRG:Z:1\tCO:Z:x\nAC\n+\nII\n",
        b">r1\t0\tchr1\t7\t60\t4M\tx\nAC\n",
        b">LOCUS A\nAC\n",
    ],
)
def test_a_header_that_resembles_another_format_is_a_header(read: Read, content: bytes) -> None:
    assert [sequence for *_, sequence in read(content)] == [b"AC"]


def wrapped(letters: bytes, width: int) -> bytes:
    return b"".join(letters[start : start + width] + b"\n" for start in range(0, len(letters), width)) or b"\n"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(
        st.tuples(st.lists(st.sampled_from(b"ACGTN"), max_size=30).map(bytes), st.randoms()),
        max_size=6,
    ),
    width=st.integers(1, 12),
    quality_width=st.integers(1, 12),
    repeat=st.booleans(),
    ending=st.sampled_from([b"\n", b"\r\n"]),
    tail=st.sampled_from([b"", b"\n", b"\n\n\n"]),
)
def test_fastq_is_read_whatever_its_lines_are_wrapped_at(
    tmp_path: Path,
    entries: list[tuple[bytes, Random]],
    width: int,
    quality_width: int,
    repeat: bool,
    ending: bytes,
    tail: bytes,
) -> None:
    content = b""
    for number, (letters, random) in enumerate(entries):
        quality = bytes(random.choice(b"@+>#I~!") for _ in letters)
        header = b"r%d x" % number
        content += b"@" + header + b"\n" + wrapped(letters, width)
        content += b"+" + header * repeat + b"\n" + wrapped(quality, quality_width)
    path = tmp_path / "in.fq"
    path.write_bytes((content + tail).replace(b"\n", ending))
    read = [(record.name, record.description, record.sequence) for record in read_records([path])]
    assert read == [(f"r{number}", "x", letters) for number, (letters, _) in enumerate(entries)]


@pytest.mark.parametrize("compression", [None, *COMPRESS])
def test_a_record_that_is_wrapped_after_many_that_are_not_is_read(read: Read, compression: str | None) -> None:
    content = FASTQ * 5000 + b"@long\nACGT\nAC\n+\n@III\nII\n" + FASTQ
    expected = EXPECTED * 5000 + [("long", "", b"ACGTAC")] + EXPECTED
    assert read(COMPRESS[compression](content) if compression else content) == expected


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.fa: cannot be read: No such file"):
        list(read_records([tmp_path / "nowhere.fa"]))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        list(read_records([tmp_path]))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    start=st.sampled_from([b"", b">", b"@", b">a\n", b"@a\nAC\n+\nII\n", b"#", b"\xef\xbb\xbf>"]),
    rest=st.binary(max_size=60)
    | st.lists(st.sampled_from(list(b">@+\n\r\t AaCcGUXI\0\x85\xc3\xff#")), max_size=40).map(bytes),
    compression=st.sampled_from([None, *COMPRESS]),
    cut=st.integers(0, 40),
)
@example(start=b"@a\nAC\n+\nII\n", rest=b"\n\n\n\n\n\n", compression=None, cut=0)
def test_random_bytes_raise_nothing_but_input_errors(
    tmp_path: Path, start: bytes, rest: bytes, compression: str | None, cut: int
) -> None:
    content = start + rest
    packed = COMPRESS[compression](content) if compression else content
    path = tmp_path / "random"
    path.write_bytes(packed[: len(packed) - cut])
    try:
        records = list(read_records([path]))
    except InputError:
        return
    for record in records:
        assert record.name.split() == [record.name]
        assert not any(ord(letter) < 32 for letter in record.name + record.description)
        assert not record.sequence.translate(None, b"ACGTNRYSWKMBDHV-.")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), compression=st.sampled_from(list(COMPRESS)))
def test_a_bit_flipped_anywhere_loses_no_record_quietly(
    tmp_path: Path, position: float, bit: int, compression: str
) -> None:
    packed = bytearray(COMPRESS[compression](FASTA) + COMPRESS[compression](FASTA))
    packed[int(position * len(packed))] ^= 1 << bit
    path = tmp_path / "flipped"
    path.write_bytes(packed)
    try:
        records = list(read_records([path]))
    except InputError:
        return
    assert [record.sequence for record in records] == [sequence for *_, sequence in EXPECTED] * 2


def test_standard_input_is_spooled_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "stdin"
    source.write_bytes(MANY)
    with source.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert spool_stdin(target, raise_if_ending=lambda: None) == target
    assert target.read_bytes() == MANY
    with source.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(StorageError, match="nowhere"):
            spool_stdin(tmp_path / "nowhere" / "stdin", raise_if_ending=lambda: None)
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_waiting_for_standard_input_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()  # nothing is ever written
    answers = iter([None, None, Interrupted("stopped")])

    def check() -> None:
        if (reason := next(answers)) is not None:
            raise reason

    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(Interrupted, match="stopped"):
            spool_stdin(tmp_path / "stdin", check)
    os.close(writing)
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_or_no_standard_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    for stdin in (io.TextIOWrapper(Terminal()), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(InputError, match="nothing is piped into standard input"):
            spool_stdin(tmp_path / "stdin", raise_if_ending=lambda: None)
