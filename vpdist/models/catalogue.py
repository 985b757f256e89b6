"""Models with a short name: those in this package, and presets, whose files other people publish.

A preset's classifier is an original .pth at a commit of its authors' repository, named by git's digest of its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vpdist.encoder_kinds import KINDS
from vpdist.encoders.hub import PINNED_REVISIONS
from vpdist.environment import github_endpoint
from vpdist.models.bundle import is_model
from vpdist.models.description import EncoderEntry, Model
from vpdist.storage.downloads import Digest, RemoteFile

BUILT_IN = "mini"
"""The model of `vpdist predict` without any option for one, where the package has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published model: what is downloaded, from where."""

    model: Model
    """Without fingerprints: nobody has had the files yet."""
    repository: str
    """`owner/name` at GitHub, of the classifier."""
    commit: str
    file: str
    blob: str
    """Git's digest of the file."""
    bytes: int
    """Of the whole download, about: four bytes for each number of the encoders, as they are published."""

    @property
    def folder_name(self) -> str:
        """Of its folder among the downloads; another commit is another folder."""
        return f"{self.model.name}-{self.commit[:12]}"

    def classifier(self, folder: Path) -> RemoteFile:
        """How to fetch its classifier into `folder`."""
        url = f"{github_endpoint()}/{self.repository}/{self.commit}/{self.file}"
        return RemoteFile(url=url, target=folder / self.file, digest=Digest(kind="git", value=self.blob), size=None)


def _encoder(slot: str, hub: str, family: str, width: int) -> EncoderEntry:
    pooling = KINDS[slot].pooling
    return EncoderEntry(
        hub=hub, revision=PINNED_REVISIONS[hub], fingerprint=None, family=family, width=width, pooling=pooling
    )


VIRNUCPRO_ENCODERS: Mapping[str, EncoderEntry] = {
    "nucleotide": _encoder("nucleotide", "zhihan1996/DNABERT-S", "DNABERT-S", 768),
    "protein": _encoder("protein", "facebook/esm2_t36_3B_UR50D", "ESM-2", 2560),
}
"""Of the original method (Li et al. 2025)."""
PARAMETERS = {"zhihan1996/DNABERT-S": 116_400_000, "facebook/esm2_t36_3B_UR50D": 2_838_000_000}
"""Numbers of each encoder, counted from its sizes: a layer of width w with an inner width i has 4 w w for attention and
2 w i (gated: 3 w i) for the feed-forward, the embedding table w for each token id; and ESM-2's head, which is published
with it, some w w."""


def _virnucpro(chunk_length: int, blob: str) -> Preset:
    return Preset(
        model=Model(
            name=f"virnucpro-{chunk_length}",
            method="VirNucPro (Li et al. 2025, doi:10.1093/bib/bbaf224)",
            description=f"The original authors' model for chunks of {chunk_length} bases",
            accuracy="not measured by vpdist; the authors' figures are in doi:10.1093/bib/bbaf224",
            licence="mit",
            encoders=VIRNUCPRO_ENCODERS,
            chunk_length=chunk_length,
            shortest_chunk=3,  # the original judges every chunk with an open frame
        ),
        repository="Li-Jing-1997/VirNucPro",
        commit="0f93f2755a7ea1acd3ff1bcf182892f960ef3326",
        file=f"{chunk_length}_model.pth",
        blob=blob,
        bytes=4 * sum(PARAMETERS.values()),
    )


PRESETS = {
    preset.model.name: preset
    for preset in (
        _virnucpro(500, "fc35d5ef9f1f4564eea7036f34f4f8ec6000d33d"),
        _virnucpro(300, "a0b5b85e7c1e44f00cde146d091beb82b2c8e855"),
    )
}


def packaged() -> dict[str, Path]:
    """Folders of the models that this package contains, by name."""
    folder = Path(__file__).parent
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and is_model(path)}


def downloads() -> Path:
    """The folder of presets that have been downloaded, beside the hub's cache, so that HF_HOME moves both."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "vpdist" / "models"
