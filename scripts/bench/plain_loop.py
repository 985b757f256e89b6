"""`python -m scripts.bench.plain_loop CONTIGS... --models MODELS --classifier C -o TSV`: the method as a plain loop.

For comparison with `predict`: one process, one encoder after the other, results at the end. float32, torch's
default threads, linear layers and attention. DNABERT-S takes one sequence per call; ESM-2 (the library's own model)
takes padded batches of up to 2,048 tokens in input order; then the classifier runs and one file is written. Fragments
are made by vpdist's own code, in negligible time. MODELS and C as for scripts.bench.whole_runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from transformers import EsmModel
from transformers.utils import logging

from vpdist.encoders import cpu_attention, cpu_kernels
from vpdist.encoders.encoder import load_encoder
from vpdist.results.classifier import load_classifier
from vpdist.results.scores import softmax
from vpdist.sequences.blocks import TokenBlock
from vpdist.sequences.token_store import read_blocks, tokenise_block
from vpdist.sequences.tokenizers import load_tokenizer

CHUNK_LENGTH = 500
TOKENS_PER_BATCH = 2048
"""Of a padded ESM-2 batch: its longest sequence times their number."""
PAD = 1
"""ESM-2's padding token."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Time of one run of the loop."""

    fragments: int
    nucleotide_s: float
    protein_s: float
    seconds: float
    """In all, with loading, without imports."""


def padded_batches(lengths: list[int], tokens: int) -> Iterator[range]:
    """Consecutive sequences, as many as fit into `tokens` when padded to the longest."""
    start = longest = 0
    for number, length in enumerate(lengths):
        wider = max(longest, length)
        if number > start and wider * (number + 1 - start) > tokens:
            yield range(start, number)
            start, wider = number, length
        longest = wider
    if lengths:
        yield range(start, len(lengths))


@torch.inference_mode()
def nucleotide_embeddings(folder: Path, blocks: list[TokenBlock]) -> np.ndarray:
    """(fragments, width): the mean over all tokens, one sequence per call."""
    with patch.object(cpu_kernels, "serves", return_value=False):
        encoder = load_encoder(folder, "nucleotide", torch.float32, torch.device("cpu"))
    rows = []
    for block in blocks:
        tokens = block.tokens["nucleotide"]
        with patch.object(cpu_attention, "serves", return_value=False):
            rows += [encoder.embed(tokens.between(i, i + 1)).numpy() for i in range(len(tokens))]
    return np.concatenate(rows)


@torch.inference_mode()
def protein_embeddings(folder: Path, blocks: list[TokenBlock]) -> np.ndarray:
    """(fragments, width): the mean over residues, in padded batches."""
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
    proteins: list[torch.Tensor] = []
    for block in blocks:
        tokens = block.tokens["protein"]
        proteins += [torch.from_numpy(tokens[i].astype(np.int64)) for i in range(len(tokens))]
    rows = []
    for batch in padded_batches([len(protein) for protein in proteins], TOKENS_PER_BATCH):
        padded = torch.nn.utils.rnn.pad_sequence([proteins[i] for i in batch], batch_first=True, padding_value=PAD)
        hidden = model(input_ids=padded, attention_mask=(padded != PAD).long()).last_hidden_state
        rows += [hidden[row, 1 : len(proteins[i]) - 1].mean(0).numpy() for row, i in enumerate(batch)]
    return np.stack(rows)


def run(inputs: list[Path], models: Path, classifier: Path, target: Path) -> Outcome:
    """Run the whole loop; writes a row per fragment to `target`."""
    started = time.perf_counter()
    folders = {"nucleotide": models / "dnabert-s", "protein": models / "esm-2"}
    tokenizers = {kind: load_tokenizer(kind, folder) for kind, folder in folders.items()}
    blocks = [tokenise_block(raw, tokenizers) for raw in read_blocks(inputs, CHUNK_LENGTH)]
    tokenised = time.perf_counter()
    nucleotide = nucleotide_embeddings(models / "dnabert-s", blocks)
    nucleotide_done = time.perf_counter()
    protein = protein_embeddings(models / "esm-2", blocks)
    protein_done = time.perf_counter()
    nonvirus, virus = softmax(load_classifier(classifier).logits(nucleotide, protein))
    with open(target, "w", encoding="utf-8") as file:
        file.write("fragment\tnonvirus_score\tvirus_score\n")
        for number, scores in enumerate(zip(nonvirus.tolist(), virus.tolist(), strict=True)):
            file.write("{}\t{:.6g}\t{:.6g}\n".format(number, *scores))
    return Outcome(
        fragments=len(virus),
        nucleotide_s=nucleotide_done - tokenised,
        protein_s=protein_done - nucleotide_done,
        seconds=time.perf_counter() - started,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="by default as torch chooses")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # no warning of the unused language-model head
    logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    outcome = run(arguments.inputs, arguments.models, arguments.classifier, arguments.output)
    print(json.dumps(asdict(outcome) | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
