"""Finds and reads results.json files."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError

RESULTS = "results.json"
# What may differ between repetitions of a run
OF_THE_RUN = ("seed", "device", "threads", "versions", "commit")


class Result(NamedTuple):
    """One run: its path below the searched folder without the seed's directory, and its results.json."""

    name: str
    path: Path
    data: dict[str, Any]


def load_results(folder: Path, deep: bool = True) -> list[Result]:
    """All results below `folder`, or only those of its own runs, by name and seed; DataError if one cannot be read."""
    found = []
    for path in sorted(folder.rglob(RESULTS) if deep else folder.glob(f"seed*/{RESULTS}")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data["protocol"]["seed"], data["final"]["top1"]["last"], data["epochs"][-1]["epoch"]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
            raise DataError(f"{path}: not a results file of a finished run ({type(e).__name__}: {e})") from None
        found.append(Result(_name(path, folder), path, data))
    if not found and deep:
        raise DataError(f"{folder}: contains no {RESULTS}")
    return sorted(found, key=lambda r: (r.name, r.data["protocol"]["seed"], str(r.path)))


def _name(path: Path, folder: Path) -> str:
    """The run's directory without its last part, the seed."""
    relative = path.parent.relative_to(folder)
    return relative.parent.as_posix() if len(relative.parts) > 1 else folder.name


def difference(result: Result, reference: Result) -> str:
    """How a result's protocol differs from the reference's; teachers are compared only if both runs have one."""
    mine, other = dict(result.data["protocol"]), dict(reference.data["protocol"])
    parts = []
    for key in sorted(set(mine) | set(other)):
        if key in OF_THE_RUN:
            continue
        a, b = mine.get(key), other.get(key)
        if key == "teacher":
            if a and b and a["sha256"] != b["sha256"]:
                parts.append(f"teacher {a['name']} at {a['top1']:.2f}")
        elif a != b:
            parts.append(f"{key} {a} (reference {b})")
    return "; ".join(parts)
