"""Chunks of a sequence, and the fragments that six-frame translation makes of them.

Enter: upper-case bases as flat ASCII bytes and chunk bounds. Leave: for every frame without a stop codon its nucleotide
string and its protein, in the order chunk, F1 F2 F3 R1 R2 R3. The rules are exactly those of the original VirNucPro:
codons with a letter other than A, C, G, T give no residue, and a fragment's nucleotide string has one base more than
the codons of its protein.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from vpdist.ragged import Ragged

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
"""Names of the frames 0 to 5, with which a fragment's id ends."""

_SLAB_BASES = 1 << 18
"""Chunks are translated in slabs of about this many bases, so that the working arrays stay in the processor's cache."""

_STOP = ord("*")
_NO_RESIDUE = 0
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")
_CODON_LETTERS = "TCAG"
_STANDARD_CODE = b"FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
"""Residues of the codons in the order of these letters (NCBI translation table 1)."""
_OTHER = 4
"""Digit of every letter but A, C, G, T; a codon is a number of three digits to base 5."""
_DIGITS = bytes(_CODON_LETTERS.find(chr(byte)) if chr(byte) in _CODON_LETTERS else _OTHER for byte in range(256))


def _residues(*, reverse: bool) -> bytes:
    """Codon number to residue; with `reverse` that of the codon on the other strand."""
    table = bytearray(256)
    for codon, residue in zip(product(range(4), repeat=3), _STANDARD_CODE, strict=True):
        # in the order T, C, A, G the digits of complementary bases differ by 2
        first, second, third = [digit ^ 2 for digit in reversed(codon)] if reverse else codon
        table[first * 25 + second * 5 + third] = residue
    return bytes(table)


_FORWARD = _residues(reverse=False)
_REVERSE = _residues(reverse=True)


@dataclass(frozen=True, slots=True)
class Fragments:
    """The n fragments of some chunks, in the order chunk, frame."""

    chunk: np.ndarray
    """(n,) int32, index of the chunk among those given."""
    frame: np.ndarray
    """(n,) int8, index into FRAMES."""
    residues: np.ndarray
    """(n,) int32, length of the protein."""
    nucleotide: Ragged
    """uint8, the nucleotide strings (ASCII)."""
    protein: Ragged
    """uint8, the proteins (ASCII)."""

    def __len__(self) -> int:
        return len(self.chunk)


def chunk_bounds(length: int, chunk_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (int64, 0-based, half-open) of the chunks of a sequence of `length` bases.

    ceil(length / chunk_length) chunks whose overlaps differ by at most one base, the larger ones first. A sequence of
    length 0 has none.
    """
    n_chunks = -(-length // chunk_length)
    if n_chunks == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    surplus = n_chunks * chunk_length - length
    overlap = surplus // n_chunks
    n_larger = surplus - overlap * (n_chunks - 1)
    number = np.arange(n_chunks, dtype=np.int64)
    starts = number * (chunk_length - overlap) - np.minimum(number, n_larger)
    return starts, np.minimum(starts + chunk_length, length)


def six_frames(bases: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Fragments:
    """The fragments of the chunks bases[starts[i]:ends[i]], which may overlap.

    bases: (L,) uint8, upper-case ASCII letters. starts, ends: (n,) integers.
    """
    longest = int((ends - starts).max(initial=1))
    slab = max(1, _SLAB_BASES // max(longest, 1))
    first_chunks = range(0, max(1, len(starts)), slab)
    parts = [_translate(bases, starts[i : i + slab], ends[i : i + slab], i) for i in first_chunks]
    chunk, frame, residues, nucleotide_lengths, nucleotide, protein = zip(*parts, strict=True)
    all_residues = np.concatenate(residues)
    return Fragments(
        chunk=np.concatenate(chunk),
        frame=np.concatenate(frame),
        residues=all_residues,
        nucleotide=Ragged.from_lengths(
            np.frombuffer(b"".join(nucleotide), np.uint8), np.concatenate(nucleotide_lengths)
        ),
        protein=Ragged.from_lengths(np.frombuffer(b"".join(protein), np.uint8), all_residues),
    )


def fragment_span(
    chunk_start: np.ndarray, chunk_end: np.ndarray, frame: np.ndarray, residues: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of fragments on the input sequence: int64, 1-based, inclusive, on the forward strand.

    The span covers the nucleotide string with its extra base. All arguments are arrays of the same shape: the
    chunk's bounds (0-based, half-open), the frame (0 to 5) and the protein's length.
    """
    begin, end = np.asarray(chunk_start, np.int64), np.asarray(chunk_end, np.int64)
    shift = np.asarray(frame, np.int64) % 3
    length = np.minimum(3 * np.asarray(residues, np.int64) + 1, end - begin - shift)
    forward = np.asarray(frame) < 3
    first = np.where(forward, begin + shift + 1, end - shift - length + 1)
    return first, first + length - 1


def _translate(
    bases: np.ndarray, starts: np.ndarray, ends: np.ndarray, first_chunk: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bytes, bytes]:
    """Fragments of one slab: chunk, frame, residues, nucleotide lengths, nucleotide strings, proteins."""
    low = int(starts.min(initial=len(bases)))
    high = max(low, int(ends.max(initial=0)))
    letters = bases[low:high].tobytes()
    begin_K1 = (np.asarray(starts, np.int64) - low)[:, None]
    end_K1 = (np.asarray(ends, np.int64) - low)[:, None]

    # A codon may start at any base. Those of one reading frame are every third, so codons are ordered by start modulo
    # 3: a frame of a chunk is then one contiguous range. The other strand's residues follow in reverse order.
    third = -(-len(letters) // 3)
    digits = np.full(3 * third + 2, _OTHER, np.uint8)
    digits[: len(letters)] = np.frombuffer(letters.translate(_DIGITS), np.uint8)
    codons = np.ascontiguousarray((digits[:-2] * 25 + digits[1:-1] * 5 + digits[2:]).reshape(third, 3).T).tobytes()
    residue_text = codons.translate(_FORWARD) + codons.translate(_REVERSE)[::-1]
    residue = np.frombuffer(residue_text, np.uint8)

    shift_3 = np.arange(3)
    codons_K3 = np.maximum(end_K1 - begin_K1 - shift_3, 0) // 3
    forward_K3 = begin_K1 + shift_3
    reverse_K3 = end_K1 - shift_3 - 3 * codons_K3  # the lowest base of the frame's last codon
    first_K6 = np.concatenate(
        (
            forward_K3 % 3 * third + forward_K3 // 3,
            2 * len(codons) - (reverse_K3 % 3 * third + reverse_K3 // 3 + codons_K3),
        ),
        axis=1,
    )
    last_K6 = first_K6 + np.concatenate((codons_K3, codons_K3), axis=1)
    stops = np.append(np.flatnonzero(residue == _STOP), np.iinfo(np.int64).max)
    open_K6 = (last_K6 > first_K6) & (stops[np.searchsorted(stops, first_K6)] >= last_K6)

    chosen = np.flatnonzero(open_K6)
    first, last = first_K6.ravel()[chosen], last_K6.ravel()[chosen]
    gaps = np.flatnonzero(residue == _NO_RESIDUE)
    residues = last - first - (np.searchsorted(gaps, last) - np.searchsorted(gaps, first))
    kept = residues > 0
    chosen, first, last, residues = chosen[kept], first[kept], last[kept], residues[kept]

    chunk, frame = chosen // 6, chosen % 6
    begin, end, shift = begin_K1[chunk, 0], end_K1[chunk, 0], frame % 3
    text = letters + letters.translate(_COMPLEMENT)[::-1]
    start = np.where(frame < 3, begin, 2 * len(letters) - end) + shift
    lengths = np.minimum(3 * residues + 1, end - begin - shift)
    nucleotide = b"".join([text[a:b] for a, b in zip(start.tolist(), (start + lengths).tolist(), strict=True)])
    protein = b"".join([residue_text[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)])
    return (
        (chunk + first_chunk).astype(np.int32),
        frame.astype(np.int8),
        residues.astype(np.int32),
        lengths,
        nucleotide,
        protein.replace(bytes([_NO_RESIDUE]), b""),
    )
