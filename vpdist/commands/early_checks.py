"""Paths are checked before anything slow is imported: a wrong one is told at once, not after torch and a launcher.

Enters: a command's paths. Leaves: nothing, or the error by which the command would end later. Nothing here needs torch.
"""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from vpdist.config import Settings
from vpdist.encoder_kinds import KINDS
from vpdist.encoders.hub import local_folder
from vpdist.encoders.shape import encoder_shape
from vpdist.encoders.weights import files_read
from vpdist.errors import InputError, StorageError, UsageError, WeightsError
from vpdist.option_declarations import parsed_shard
from vpdist.results.classifier_kinds import kinds_of_file, refuse_missing
from vpdist.sequences.manifest import read_manifest, shard_of
from vpdist.storage.atomic_files import open_regular
from vpdist.storage.run_folder import RunFolder

PROC = Path("/proc")


def check_system(proc: Path = PROC) -> None:
    """Raises UsageError where processes cannot be told apart: without /proc nobody knows who holds a run folder."""
    if not (proc / "self" / "stat").exists():
        raise UsageError(f"{proc} is not mounted; vpdist needs it to see its processes")


def check_temporary_folder() -> None:
    """Raises StorageError where there is none to write to: the transformers library is not imported without."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise StorageError("no temporary folder can be written; name one in TMPDIR") from error


def check_paths(settings: Settings) -> None:
    """Raises WeightsError or InputError for the first encoder, classifier or input that cannot be used, UsageError
    without /proc or for a folder without a run to reuse, StorageError without a temporary folder.

    What only reading the whole of a file tells comes later, and so does a hub id.
    """
    check_system()
    check_temporary_folder()
    for kind, model in settings.models.items():
        folder = local_folder(model)
        if folder is not None:
            check_kind(kind, model, folder)
            files_read(folder)
    if settings.classifier is not None:
        check_classifier_file(settings.classifier)
        if settings.model is None:  # which may name the encoders
            refuse_missing(kinds_of_file(settings.classifier), settings.models, str(settings.classifier))
    if settings.reuse is not None:
        RunFolder(settings.reuse).check_holds_run()
        if settings.reuse.resolve() == settings.output.resolve():
            raise UsageError(f"--reuse {settings.reuse}: is the run folder itself, whose embeddings are kept anyway")
    if settings.manifest is not None:
        manifest = read_manifest(settings.manifest)
        if settings.shard is not None:
            shard_of(manifest, *parsed_shard(settings.shard))
    for name in settings.inputs:
        if name != "-":
            check_input(name, Path(name))


def check_kind(kind: str, model: str, folder: Path) -> None:
    """Raises WeightsError unless `model`, which lies in `folder`, is an encoder of this kind."""
    family = encoder_shape(folder).family
    if kind not in family.kinds:
        raise WeightsError(f"{KINDS[kind].option} {model}: is a {' or '.join(family.kinds)} encoder ({family.name})")


def check_classifier_file(path: Path) -> None:
    """Raises WeightsError unless `path` is a file that can be read."""
    try:
        open_regular(path, follow=True).close()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_input(name: str, path: Path) -> None:
    """Raises InputError unless `path`, which the user calls `name`, is a file that can be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a folder, not a FASTA or FASTQ file", path=name)
        if not stat.S_ISREG(mode):
            raise InputError("is a pipe or a device, not a file; pipe it to standard input and name it -", path=name)
        open_regular(path, follow=True).close()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=name) from error
