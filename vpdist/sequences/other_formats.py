"""Files that are neither FASTA nor FASTQ, named for what they are, with what to do about them."""

from __future__ import annotations

import re

from vpdist.sequences.decompression import MAGIC
from vpdist.storage.lfs_pointer import IS_LFS_POINTER, LFS_POINTER

START_BYTES = 512
"""Enough of a file to tell its format: a tar archive is told from its 257th byte on."""

_CONVERT_ALIGNMENTS = "the file holds alignments ({}), not sequences; convert it with `samtools fasta`"
_UNPACK = "the file is a {} archive; unpack it, and name the files in it"
_CONVERT_TEXT = "the file is text in {0}; convert it with `iconv -f {0} -t UTF-8`"
_PATTERNS = {
    rb"BAM\x01": _CONVERT_ALIGNMENTS.format("BAM"),
    rb"CRAM": _CONVERT_ALIGNMENTS.format("CRAM"),
    rb"@(HD\tVN|SQ\tSN|RG\tID|PG\tID):": _CONVERT_ALIGNMENTS.format("SAM"),
    rb"[^@>\t\n][^\t\n]*\t\d+\t[^\t\n]+\t\d+\t\d+\t([\dMIDNSHP=X]+|\*)\t": _CONVERT_ALIGNMENTS.format("SAM"),
    rb".{257}ustar": _UNPACK.format("tar"),
    rb"PK(\x03\x04|\x05\x06)": _UNPACK.format("zip"),
    rb"7z\xbc\xaf\x27\x1c": _UNPACK.format("7z"),
    rb"Rar!": _UNPACK.format("rar"),
    rb"\xff\xfe\0\0|\0\0\xfe\xff": _CONVERT_TEXT.format("UTF-32"),
    rb"\xff\xfe|\xfe\xff": _CONVERT_TEXT.format("UTF-16"),
    rb"[>@]\0[^\0]\0": _CONVERT_TEXT.format("UTF-16LE"),
    rb"\0[>@]\0[^\0]": _CONVERT_TEXT.format("UTF-16BE"),
    rb"\x04\x22\x4d\x18": "the file is compressed with lz4, which vpdist does not read; decompress it first",
    rb"\x1f[\x9d\xa0]": "the file is compressed with compress, which vpdist does not read; decompress it first",
    rb"NCBI\.sra": "the file is an SRA archive; extract the reads with `fasterq-dump`",
    rb"\x89HDF|\x8bPOD": "the file holds raw signals of a sequencer, not sequences; call the bases first",
    rb"LOCUS +\S|ID   \S+;": "the file is a GenBank or EMBL record; save it as FASTA",
    rb"##gff-version": "the file is an annotation (GFF); name the FASTA file that it annotates",
    rb"##fileformat=VCF": "the file holds variants (VCF), not sequences",
    rb"(?i:\s*<(!doctype )?html)": "the file is a web page, such as a failed download leaves",
    re.escape(LFS_POINTER): f"the file {IS_LFS_POINTER}",
}
"""What a file of each format begins with."""


def named_format(start: bytes) -> str | None:
    """What a file is that begins with `start`, and what to do; None where it may be FASTA or FASTQ, or is unknown."""
    return next((named for pattern, named in _PATTERNS.items() if re.match(pattern, start, re.DOTALL)), None)


def describe_unknown(text: bytes) -> str:
    """Why a file that begins with `text` cannot be read; `named_format` does not know it."""
    if any(text.startswith(magic) for magic in MAGIC):
        return "the file was compressed twice; decompress it once"
    if not text.isascii() or b"\0" in text:
        return "the file holds binary data, neither FASTA nor FASTQ"
    beginning = text.decode("ascii")
    shown = beginning if len(beginning) <= 20 else f"{beginning[:17]}..."
    return f"the file is neither FASTA ('>') nor FASTQ ('@'); it begins with {shown!r}"
