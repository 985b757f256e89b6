"""What `vpdist models` tells: the models that are known, which of them are here, how large, and how good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpdist.calibration.calibrated import Calibration
from vpdist.calibration.scores import CLASS_BASES, class_name
from vpdist.errors import WeightsError
from vpdist.models.bundle import Bundle, is_model, read_model
from vpdist.models.catalogue import PRESETS, downloads, packaged
from vpdist.models.description import NA, Model
from vpdist.models.find import encoder_here, find_model
from vpdist.storage.atomic_files import storage_error
from vpdist.text import bytes_text

HERE, PARTLY, TO_DOWNLOAD, REFUSED = "here", "without its encoders", "to be downloaded", "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One model."""

    name: str
    """What --model takes."""
    state: str
    """HERE, PARTLY, TO_DOWNLOAD or REFUSED."""
    bytes: int
    """Of all its files that are here; of the download, about, where it has not been made."""
    digest: str | None
    """SHA-256 of its model.json, as run.json records it; None where that is not here."""
    licence: str
    chunk_length: int
    encoders: dict[str, str]
    """By slot: family and source."""
    classifiers: dict[str, str]
    """Those for shorter chunks, by where each begins: what it was trained on, and the encoders that it takes."""
    shortest_chunk: int
    """Bases below which it gives no scores; 0 where it judges every chunk."""
    accuracy: str
    description: str
    calibrated: tuple[str, ...] = ()
    """Scored bases of the length classes that have a calibration."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        size = bytes_text(self.bytes) if self.state != TO_DOWNLOAD else f"about {bytes_text(self.bytes)}"
        yield f"{self.name}  ({self.state}, {size}, licence {self.licence})"
        if self.chunk_length:
            yield f"    chunks of {self.chunk_length} bases; {'; '.join(map(': '.join, self.encoders.items()))}"
        if self.shortest_chunk:
            yield f"    chunks under {self.shortest_chunk} bases get no score"
        if self.classifiers:
            each = "; ".join(f"from {begins} bases: {what}" for begins, what in self.classifiers.items())
            yield f"    classifiers for shorter chunks: {each}"
        if self.chunk_length:
            yield "    " + (
                f"calibrated for {', '.join(self.calibrated)} bases" if self.calibrated else "not calibrated"
            )
        for text in (self.description, self.accuracy, f"digest {self.digest}" if self.digest else ""):
            if text:
                yield f"    {text}"


def listed(folders: Iterable[Path]) -> list[Listed]:
    """The models of this package, the presets, and those in `folders` (or in folders there). Asks nobody.

    Raises StorageError for a folder that cannot be read.
    """
    names: list[str | Path] = [*packaged(), *PRESETS]
    for folder in folders:
        try:
            inner = [] if is_model(folder) or not folder.is_dir() else sorted(filter(is_model, folder.iterdir()))
        except OSError as error:
            raise storage_error(folder, error, "read") from error
        names += inner or [folder]
    return [_listed(name) for name in names]


def _listed(given: str | Path) -> Listed:
    """A model by its short name, or the one in a folder, whatever that is called."""
    name = str(given)
    try:
        bundle = read_model(given) if isinstance(given, Path) else find_model(given, offline=True)
    except WeightsError as error:
        preset = PRESETS.get(name)
        if preset is None or is_model(downloads() / preset.folder_name):  # it is there, but damaged
            return Listed(
                name=name,
                state=REFUSED,
                bytes=0,
                digest=None,
                licence="unknown",
                chunk_length=0,
                encoders={},
                classifiers={},
                shortest_chunk=0,
                accuracy=str(error),
                description="",
            )
        return _of(preset.model, name, TO_DOWNLOAD, preset.bytes, None)
    folders = [encoder_here(bundle, slot) for slot in bundle.model.encoders]
    size = _bytes(bundle.folder) + sum(_bytes(folder) for folder in folders if folder and not _inside(folder, bundle))
    return _of(bundle.model, name, HERE if all(folders) else PARTLY, size, f"sha256:{bundle.digest}")


def _of(model: Model, name: str, state: str, size: int, digest: str | None) -> Listed:
    calibration = model.calibration or Calibration(())
    return Listed(
        name=name,
        state=state,
        bytes=size,
        digest=digest,
        licence=model.licence,
        chunk_length=model.chunk_length,
        encoders={slot: f"{entry.family} ({entry.source})" for slot, entry in model.encoders.items()},
        classifiers={
            str(head.from_bases): f"{head.chunk_length} bases, {' and '.join(head.kinds)}" for head in model.heads
        },
        shortest_chunk=model.shortest_chunk if model.short_chunks == NA else 0,
        accuracy=model.accuracy,
        description=model.description,
        calibrated=_class_names(calibration),
    )


def _class_names(calibration: Calibration) -> tuple[str, ...]:
    """The length classes of a calibration in words, the last one as far as it judges."""
    names = [class_name(CLASS_BASES.index(each.least_bases)) for each in calibration.classes]
    end = "and more" if calibration.most_bases is None else f"to {calibration.most_bases:,}"
    return (*names[:-1], *(f"{each.least_bases:,} {end}" for each in calibration.classes[-1:]))


def _inside(folder: Path, bundle: Bundle) -> bool:
    return folder.resolve().is_relative_to(bundle.folder.resolve())


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
