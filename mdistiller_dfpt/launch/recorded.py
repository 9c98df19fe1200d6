"""What is recorded of the student whose weights are given: a file or checkpoint of a run, or a copy of a file."""

import contextlib
from pathlib import Path

from ..checksum import read_checked_json
from ..config import load_yaml_text
from ..data.normalisation import Normalisation
from ..errors import CheckpointError
from ..models.external.names import published_normalisation
from ..runs.checkpoint import CHECKPOINTS
from ..runs.directory import RESULTS
from ..runs.record import Record, read_record
from ..runs.saving import BEST
from ..runs.weights import WEIGHTS, weights_folder


def run_of(weights: Path) -> Path:
    """The directory that weights are in; of those of a checkpoint, that of its run."""
    folder = weights_folder(weights.absolute())
    return folder.parent.parent if folder.parent.name == CHECKPOINTS else folder


def recorded_student(weights: Path) -> Record | None:
    """The record of a student; of a checkpoint, which has none of its own, that in a file of its run."""
    if (found := read_record(weights)) is not None:
        return found
    run = run_of(weights)
    for file in (run / WEIGHTS, run / BEST) if run != weights_folder(weights.absolute()) else ():
        with contextlib.suppress(CheckpointError):  # it is not the file that was asked for
            if (found := read_record(file)) is not None:
                return found
    return None


def recorded_normalisation(weights: Path) -> str | None:
    """The normalisation of the images of a student, in words; None if nothing is recorded."""
    try:
        found = read_checked_json(run_of(weights) / RESULTS)["protocol"]["normalisation"]
        return str(found.get("student", found["images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # of an unfinished run, or a copy without its run
    try:
        record = recorded_student(weights)
    except CheckpointError:
        return None
    if record is None or record.preprocessing is None:
        return None
    written = load_yaml_text(record.config).get("DISTILLER", {})
    own = published_normalisation(record.student) or record.preprocessing
    mean, std = (tuple(written.get(f"STUDENT_{key.upper()}") or getattr(own, key)) for key in ("mean", "std"))
    return str(Normalisation(mean, std))
