"""`python -m scripts.bench.parity PARITY [--device cuda]`: deviation of vpdist's results from the original method's.

PARITY is a folder with `fragments.300.tsv`, `fragments.500.tsv`, `input.fa`, `embeddings.500.h5`, the encoders' folders
`dnabert_s_tiny` and `esm2_tiny`, `classifier_original_format.pth` and `prediction_results.500.txt`, all made by the
original. Prints a line per check: the largest deviation, or how many results are equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from vpdist.encoders.encoder import Encoder, load_encoder
from vpdist.planning.plan import batches
from vpdist.ragged import Ragged
from vpdist.results.classifier import load_classifier
from vpdist.results.scores import softmax
from vpdist.sequences.six_frames import FRAMES, six_frames
from vpdist.sequences.token_store import read_blocks, tokenise_block
from vpdist.sequences.tokenizers import load_tokenizer

ALLOWED = {torch.bfloat16: 0.05, torch.float16: 0.02}
"""Allowed deviation of a score in half precision; labels are compared if the original's score is further from 0.5."""
ENCODERS = {"nucleotide": "dnabert_s_tiny", "protein": "esm2_tiny"}


def fragments(parity: Path, chunk_length: int) -> Iterator[tuple[str, str, str]]:
    """(id, nucleotides, protein) of every fragment of the input, as vpdist makes them."""
    for raw in read_blocks([parity / "input.fa"], chunk_length):
        names = dict(enumerate(raw.names, start=raw.first_record))
        frames = six_frames(raw.bases.flat, raw.bases.offsets[:-1], raw.bases.offsets[1:])
        for i, (chunk, frame) in enumerate(zip(frames.chunk.tolist(), frames.frame.tolist(), strict=True)):
            name, number = names[int(raw.chunk_record[chunk])], int(raw.chunk_number[chunk]) + 1
            yield (
                f"{name}_chunk_{number}{FRAMES[frame]}",
                frames.nucleotide[i].tobytes().decode(),
                frames.protein[i].tobytes().decode(),
            )


def embed(encoder: Encoder, tokens: Ragged, token_budget: int) -> np.ndarray:
    """All sequences' embeddings, in batches of a token budget (1: one at a time)."""
    rows_MD = np.empty((len(tokens), encoder.width), dtype=np.float32)
    for rows in batches(tokens.lengths, token_budget):
        rows_MD[rows] = encoder.embed(tokens.take(rows)).cpu().numpy()
    return rows_MD


def cosine(a_MD: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    return (a_MD * b_MD).sum(axis=1) / np.linalg.norm(a_MD, axis=1) / np.linalg.norm(b_MD, axis=1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parity", type=Path)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    parity, device = arguments.parity, torch.device(arguments.device)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    torch.set_num_threads(1)
    for chunk_length in (300, 500):
        expected = [tuple(line.split("\t")) for line in (parity / f"fragments.{chunk_length}.tsv").open()][1:]
        expected = [(name, bases, protein.rstrip("\n")) for name, bases, protein in expected]
        computed = fragments(parity, chunk_length)
        equal = sum(ours == theirs for ours, theirs in zip(computed, expected, strict=True))
        print(f"fragments at {chunk_length} bp: {equal} of {len(expected)} are identical")
    (raw,) = read_blocks([parity / "input.fa"], 500)
    block = tokenise_block(raw, {kind: load_tokenizer(kind, parity / name) for kind, name in ENCODERS.items()})
    with h5py.File(parity / "embeddings.500.h5") as file:
        expected_embeddings = {kind: file[kind][:] for kind in ENCODERS}
    embeddings: dict[tuple[torch.dtype, str], np.ndarray] = {}
    for kind, name in ENCODERS.items():
        tokens = block.tokens[kind]
        for dtype in (torch.float32, half):
            encoder = load_encoder(parity / name, kind, dtype, device)
            embeddings[dtype, kind] = embed(encoder, tokens, 1024)
            if dtype == torch.float32:
                for batching, rows in (
                    ("packed", embeddings[dtype, kind]),
                    ("packed in one batch", embed(encoder, tokens, 10**9)),
                    ("one at a time", embed(encoder, tokens, 1)),
                ):
                    deviation = np.abs(rows - expected_embeddings[kind]).max()
                    print(f"{kind} embeddings, float32, {batching}: {deviation:.1e} at most")
            else:
                least = cosine(embeddings[dtype, kind], expected_embeddings[kind]).min()
                print(f"{kind} embeddings, {_name(half)}: cosine {least:.5f} at least")
    lines = (parity / "prediction_results.500.txt").read_text().splitlines()[1:]
    expected_virus = np.array([float(line.split("\t")[3]) for line in lines])
    expected_label = np.array([line.split("\t")[1] == "virus" for line in lines])
    classifier = load_classifier(parity / "classifier_original_format.pth")
    for dtype in (torch.float32, half):
        nonvirus, virus = softmax(classifier.logits(*(embeddings[dtype, kind] for kind in ENCODERS)))
        clear = np.abs(expected_virus - 0.5) > ALLOWED.get(dtype, 0)
        equal = ((virus > nonvirus) == expected_label)[clear].sum()
        deviation = np.abs(virus - expected_virus).max()
        print(f"scores, {_name(dtype)}: {deviation:.1e} at most; labels: {equal} of {clear.sum()} equal")


if __name__ == "__main__":
    main()
