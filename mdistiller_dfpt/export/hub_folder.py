"""A folder as model hubs show it: model.safetensors, config.json, README.md; `load_student` takes it as it is."""

import sys
from pathlib import Path
from typing import Any

from ..atomic import write_json, write_text
from ..checksum import Damaged, read_checked_json
from ..errors import kind_and_message
from ..json_form import ANY, ENVIRONMENT, fault_of
from ..launch.student import Student
from ..runs.directory import RESULTS
from ..runs.record import as_json
from ..runs.weights import HUB_CONFIG, HUB_WEIGHTS, weights_folder
from .card import card
from .verify import Network
from .weights_file import write_weights

_FOUND = {"last": float, "best": float, "best_epoch": int}
FORM = {
    "student": str,
    "method": str,
    "final": {"top1": _FOUND, "top5": _FOUND},
    "epochs": [{"epoch": int, "test?": {"student": {"top5": float}}}],
    "protocol": {
        "seed": int,
        "test_images": int,
        "teacher?": ({"top1?": float}, None),
        "settings": {str: ANY},
        "versions?": {str: ANY},
    },
    "environments?": [ENVIRONMENT],
}
"""What a card says of the results of a run."""


def write_hub_folder(student: Student, folder: Path, *, licence: str = "unknown") -> Network:
    """Write the folder and return the student that is in it; `licence`: of the weights, as a hub names it."""
    folder.mkdir()
    network = write_weights(student, folder / HUB_WEIGHTS)
    write_json(folder / HUB_CONFIG, as_json(student.record))
    write_text(folder / "README.md", card(student, results_of(student), licence))
    return network


def results_of(student: Student) -> dict[str, Any] | None:
    """results.json of the run that the student's file is in; None if there is none, or of another student."""
    path = weights_folder(student.source) / RESULTS
    try:
        found: dict[str, Any] = read_checked_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        why = e if isinstance(e, Damaged) else f"cannot be read: {kind_and_message(e)}"
        print(f"warning: {path}: {why}; what is written says nothing of these results", file=sys.stderr)
        return None
    if fault_of(found, FORM) or ("validation" in found["final"] and "validation_images" not in found["protocol"]):
        return None
    return found if (found["student"], found["method"]) == (student.record.student, student.record.method) else None
