"""A folder as model hubs show it: model.safetensors, config.json, README.md; `load_student` takes it as it is."""

import json
from pathlib import Path
from typing import Any

from ..launch.student import Student
from ..regular_files import read_json
from ..runs.directory import RESULTS
from ..runs.record import as_json
from ..runs.weights import HUB_WEIGHTS
from .card import card
from .verify import Network
from .weights_file import write_weights


def write_hub_folder(student: Student, folder: Path, *, licence: str = "unknown") -> Network:
    """Write the folder and return the student that is in it; `licence`: of the weights, as a hub names it."""
    folder.mkdir()
    network = write_weights(student, folder / HUB_WEIGHTS)
    (folder / "config.json").write_text(json.dumps(as_json(student.record), indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(student, results_of(student), licence), encoding="utf-8")
    return network


def results_of(student: Student) -> dict[str, Any] | None:
    """results.json of the run that the student's file is in; None if there is none, or of another student."""
    folder = student.source if student.source.is_dir() else student.source.parent
    try:
        found = read_json(folder / RESULTS)
        same = (found["student"], found["method"]) == (student.record.student, student.record.method)
        return found if same and found["final"] and found["protocol"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
