"""The classifier on top of the embeddings: virus or not.

Enters: the embeddings of every fragment, of each kind that the classifier takes, by default both. Leaves: two logits
each (class 1 is virus). Files are safetensors of this project or the original's pickled modules, recognised by content.
A pickle is read, never run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError
from torch import Tensor, nn

from vpdist.encoder_kinds import CLASSIFIED
from vpdist.errors import WeightsError
from vpdist.results.classifier_kinds import kinds_text, recorded_kinds
from vpdist.results.pickled_classifier import read_classifier_pickle
from vpdist.storage.atomic_files import write_file
from vpdist.storage.lfs_pointer import model_content

FORMAT = "vpdist-classifier-1"
FLOATS = (torch.float32, torch.float16, torch.float64)
"""Number formats of parameters that are read; others are other things than weights, or numpy has none of them."""
CLASSES = 2
CHUNK_LENGTH = "chunk_length"
"""Key of the metadata."""
FILE_LIMIT = 1 << 28
"""Most bytes of a classifier's file; the public ones have 7 MB."""
PARAMETERS = (
    *("hidden_layer.weight", "hidden_layer.bias"),
    *("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"),
    *("output_layer.weight", "output_layer.bias"),
)
"""All that the logits depend on besides eps, by the original's names."""


class Classifier(nn.Module):
    """Linear, BatchNorm1d, ReLU, Dropout, Linear, as the original has them (Li et al. 2025).

    `input_width` is the sum of the embeddings' widths. `metadata` are texts kept with the file.
    """

    def __init__(
        self,
        input_width: int,
        hidden_width: int,
        *,
        eps: float = 1e-5,
        dropout: float = 0.5,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(input_width, hidden_width)
        self.bn1 = nn.BatchNorm1d(hidden_width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.output_layer = nn.Linear(hidden_width, CLASSES)
        self.metadata: dict[str, str] = dict(metadata or {})

    @property
    def chunk_length(self) -> str | None:
        """Bases of the chunks that it was trained on, as its file has it; None where that is not known."""
        return self.metadata.get(CHUNK_LENGTH)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of encoder whose embeddings it takes, in the order of concatenation."""
        return recorded_kinds(self.metadata, "the classifier")

    @property
    def input_width(self) -> int:
        return self.hidden_layer.in_features

    @property
    def hidden_width(self) -> int:
        return self.hidden_layer.out_features

    def forward(self, embeddings_BD: Tensor) -> Tensor:
        """(B, 2) logits of (B, input_width) embeddings, concatenated."""
        hidden_BH = self.bn1(self.hidden_layer(embeddings_BD)).relu()
        return self.output_layer(self.dropout(hidden_BH))

    def logits(self, *embeddings: np.ndarray) -> np.ndarray:
        """(m, 2) float32 of embeddings (m, d) of any float type, one array per kind in the order of `kinds`:
        computed in float32, on the CPU, without dropout.

        The bits depend on the arrays as a whole and on the thread count. Raises WeightsError for other widths than the
        classifier was trained on.
        """
        joined = np.concatenate([embedding.astype(np.float32) for embedding in embeddings], axis=1)
        if joined.shape[1] != self.input_width:
            widths = " + ".join(str(embedding.shape[1]) for embedding in embeddings)
            raise WeightsError(
                f"the classifier takes {self.input_width} numbers, the encoders give {widths} = {joined.shape[1]}; "
                f"was it trained with other encoders?"
            )
        self.eval()
        with torch.inference_mode():
            return self(torch.from_numpy(joined)).numpy()

    def parameters_by_name(self) -> dict[str, Tensor]:
        """PARAMETERS as contiguous float32 on the CPU."""
        state = self.state_dict()
        return {name: state[name].detach().to("cpu", torch.float32).contiguous() for name in PARAMETERS}

    @property
    def fingerprint(self) -> str:
        """xxh3_128 (hex) over eps, PARAMETERS, and the kinds where they are not both; the same for a .pth and its
        conversion."""
        digest = xxhash.xxh3_128(f"eps={self.bn1.eps!r}".encode())
        if self.kinds != CLASSIFIED:
            digest.update(f"kinds={kinds_text(self.kinds)}".encode())
        for name, tensor in self.parameters_by_name().items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
        return digest.hexdigest()


def save_classifier(classifier: Classifier, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `classifier` as safetensors, with `metadata` beside its own. Raises StorageError."""
    described = {
        "format": FORMAT,
        "eps": repr(classifier.bn1.eps),
        "dropout": repr(classifier.dropout.p),
        "metadata": json.dumps({**classifier.metadata, **metadata}, sort_keys=True),
    }
    write_file(path, in_order(safetensors.torch.save(classifier.parameters_by_name(), described)))


def in_order(content: bytes) -> bytes:
    """A safetensors file with the keys of its header in order; the library writes metadata in any, so that the same
    classifier would give other bytes each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def import_classifier(source: Path, target: Path, chunk_length: int | None) -> str | None:
    """Write the classifier in `source` as safetensors, with the chunk length it was trained on, if that is known.

    Returns that length. Raises StorageError; WeightsError as `load_classifier`, and for another length than recorded.
    """
    classifier = load_classifier(source)
    recorded = classifier.chunk_length
    if chunk_length is not None and recorded not in (None, str(chunk_length)):
        raise WeightsError(f"{source}: was trained on chunks of {recorded} bases, but --chunk-length is {chunk_length}")
    known = recorded if chunk_length is None else str(chunk_length)
    save_classifier(
        classifier, target, {"imported_from": source.name} | ({} if known is None else {CHUNK_LENGTH: known})
    )
    return known


def load_classifier(path: Path) -> Classifier:
    """The classifier in `path`, ready to use: safetensors of this project, or an original .pth.

    Raises WeightsError for anything else, for shapes that do not fit together and for values that are not finite.
    """
    content = model_content(path, FILE_LIMIT)
    if content[:4] == b"PK\x03\x04":
        pickled = read_classifier_pickle(path)
        return _build(path, pickled.parameters, pickled.eps, pickled.dropout, {})
    if content[8:9] == b"{":
        return _from_safetensors(path, content)
    raise WeightsError(
        f"{path}: is neither safetensors nor a PyTorch zip file; a .pth of PyTorch before 1.6 must be saved again"
    )


def _from_safetensors(path: Path, content: bytes) -> Classifier:
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        described = header.get("__metadata__", {})
        if described.get("format") != FORMAT:
            raise WeightsError(f"{path}: is safetensors, but not a classifier of vpdist (format {FORMAT})")
        eps, dropout = float(described["eps"]), float(described["dropout"])
        metadata = {str(key): str(value) for key, value in json.loads(described["metadata"]).items()}
        recorded_kinds(metadata, str(path))
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as a classifier: {error}") from error
    if other := sorted(name for name, tensor in tensors.items() if tensor.dtype not in FLOATS):
        formats = ", ".join(f"{name} is {str(tensors[name].dtype).removeprefix('torch.')}" for name in other)
        raise WeightsError(f"{path}: a classifier's parameters are float32, float16 or float64, but {formats}")
    return _build(path, {name: tensor.numpy() for name, tensor in tensors.items()}, eps, dropout, metadata)


def _build(
    path: Path, parameters: Mapping[str, np.ndarray], eps: float, dropout: float, metadata: Mapping[str, str]
) -> Classifier:
    if parameters.keys() != set(PARAMETERS):
        raise WeightsError(f"{path}: has parameters {sorted(parameters)}, but a classifier has {sorted(PARAMETERS)}")
    weight = parameters["hidden_layer.weight"]
    if weight.ndim != 2 or 0 in weight.shape:
        raise WeightsError(f"{path}: hidden_layer.weight is {weight.shape}, not (hidden width, input width)")
    if not (math.isfinite(eps) and eps > 0 and 0 <= dropout <= 1):
        raise WeightsError(f"{path}: eps {eps} or dropout {dropout} is out of range")
    hidden_width, input_width = weight.shape
    classifier = Classifier(input_width, hidden_width, eps=eps, dropout=dropout, metadata=metadata)
    state = classifier.state_dict()
    for name, array in parameters.items():
        if array.shape != tuple(state[name].shape):
            raise WeightsError(f"{path}: {name} is {array.shape}, not {tuple(state[name].shape)}")
        if not np.isfinite(array).all() or (name == "bn1.running_var" and (array < 0).any()):
            raise WeightsError(f"{path}: {name} has values that are not finite, or a negative variance")
        state[name] = torch.from_numpy(np.array(array, dtype=np.float32))
    classifier.load_state_dict(state)
    return classifier.eval()
