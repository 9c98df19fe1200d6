"""Finds and reads the result files of runs; a run is known by what it computed, not by its folder."""

import json
import os
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ..config.effect import of_earlier_version
from ..config.keys import KEYS
from ..config.policy import NAMED_STARTS
from ..errors import DataError, kind_and_message
from ..json_form import ANY, EPOCH, IDENTITY, fault_of
from ..regular_files import read_json

RESULTS, STATUS = "results.json", "status.json"
SEED = "SOLVER.SEED"
_METRIC = {"last": float, "best?": float, "best_epoch?": int, "mean_last_5?": (float, None)}
_FACTS = ("augmentation", "data", "folder", "device", "optimizer", "precision", "schedule", "commit", "batch_norm")
FORM = {
    "method?": str,
    "student?": str,
    "protocol": {
        "seed": int,
        "world_size?": int,
        "threads?": int,
        "teacher?": ({"name": str, "sha256?": (str, None), "top1": float}, None),
        "settings?": {str: ANY},
        "versions?": {str: ANY},
        "normalisation?": {str: str},
        **{f"{name}?": float for name in ("lr", "warmup_epochs", "epochs", "batch")},
        **{f"{name}?": int for name in ("train_images", "test_images", "classes")},
        **{f"{name}?": str for name in _FACTS},
    },
    "final": {"top1": _METRIC, "top5?": _METRIC},
    "epochs": [EPOCH],
    "student_sha256?": str,
    "seconds?": float,
    "config?": {str: ANY},
    "identity?": IDENTITY,
}
"""What every reader of results relies on; files of earlier versions have less."""

_OF_TRIAL = re.compile(r"(^|/)search/[^/]+/[^/]+/trial-\d+$")
COMMON_SECTIONS = ("DATASET", "MODEL", "DISTILLER", "SOLVER")


@dataclass(frozen=True)
class Result:
    """A finished run: its path below the searched folder without the seed's directory, and its results.json."""

    name: str
    path: Path
    data: dict[str, Any]

    @property
    def seed(self) -> int:
        """SOLVER.SEED of the run."""
        return self.data["protocol"]["seed"]

    @property
    def config(self) -> dict[str, Any]:
        """The keys that decide the result and differ from their defaults, without the seed."""
        if "identity" in self.data:
            values = dict(self.data["identity"]["config"])
        else:  # an earlier version recorded all keys, also those of other methods
            sections = (*COMMON_SECTIONS, *self.data.get("method", "").split("+"))
            written = of_earlier_version(self.data.get("config", {}))
            known = {full: value for full, value in written.items() if full in KEYS and KEYS[full].decides}
            values = {
                full: value for full, value in known.items()
                if value != KEYS[full].default and full.partition(".")[0] in sections
            }  # fmt: skip
        values.pop(SEED, None)
        if self.data["protocol"].get("world_size", 1) == 1:
            values.pop("SOLVER.SYNC_BN", None)  # it had no effect
        return values

    @property
    def content(self) -> dict[str, Any] | None:
        """The content of the dataset; None if an earlier version did not record it."""
        return self.data["identity"]["data"] if "identity" in self.data else None

    @property
    def teachers(self) -> list[dict[str, str]]:
        """Name and hash of each network that taught; an earlier version recorded the first alone."""
        if "identity" in self.data:
            return self.data["identity"]["teachers"] or []
        teacher = self.data["protocol"].get("teacher")
        return [{"name": teacher["name"], "sha256": teacher["sha256"]}] if teacher else []

    @property
    def code(self) -> dict[str, str]:
        """The hashes of the files of the run's plugins, by name."""
        return self.data.get("identity", {}).get("code", {})

    def at_start(self, name: str) -> float | None:
        """A value that a run measures in its first step only; None if an earlier version did not."""
        return self.data["epochs"][0].get("train", {}).get(name)

    @property
    def trained_paths(self) -> dict[str, dict[str, float]]:
        """By path that is trained beside the student: top-1 in the last epoch, and the divergences known of it."""
        test = self.data["epochs"][-1].get(self.judged_on, {})
        divergences = test.get("kl", {})
        found = {}
        for path in test:
            if path in ("teacher", "student", "kl"):
                continue
            pairs = {"KL from teacher": f"teacher||{path}", "KL to student": f"{path}||student"}
            found[path] = {"top-1": test[path]["top1"]}
            found[path] |= {words: divergences[pair] for words, pair in pairs.items() if pair in divergences}
        return found

    @property
    def evaluations(self) -> list[int]:
        """The epochs that were evaluated: the best of more is better, and a mean is of the last of these."""
        return [one["epoch"] for one in self.evaluated]

    @property
    def judged_on(self) -> str:
        """The set that epochs were evaluated on: validation, or test."""
        return "validation" if "validation" in self.data["final"] else "test"

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """The evaluations of its epochs, each with the number of its epoch."""
        return [{**e[self.judged_on], "epoch": e["epoch"]} for e in self.data["epochs"] if self.judged_on in e]

    @property
    def continued(self) -> list[int]:
        """The numbers of epochs for which the run was scheduled before, if it was continued."""
        return self.data.get("identity", {}).get("continued", [])

    @property
    def earlier_code(self) -> list[str]:
        """Hashes of the user's code with which the run was begun, if that was other code than it ended with."""
        return self.data.get("identity", {}).get("earlier_code", [])

    @property
    def start(self) -> str:
        """What the run started from, if its initial weights do not follow from the seed; empty if they do.

        Those of a program differ by seed, and are not told apart.
        """
        start = self.data.get("identity", {}).get("start", "")
        return start if start.startswith(NAMED_STARTS) else start and "a program"

    @property
    def extra(self) -> dict[str, Any] | None:
        """The content of the unlabelled images, if there are any."""
        return self.data.get("identity", {}).get("extra")

    @property
    def normalisation(self) -> dict[str, str]:
        """Of the networks whose images are not normalised as the dataset's, in words."""
        return self.data.get("identity", {}).get("normalisation", {})

    @property
    def what(self) -> str:
        """What the run computed, apart from its seed, as a key for comparisons; runs of one value are repetitions."""
        facts = [self.data["protocol"].get("world_size", 1), self.code, self.continued, self.start, self.earlier_code]
        facts += [self.data["protocol"].get("precision"), self.evaluations, self.normalisation, self.extra]
        return json.dumps([self.config, self.content, self.teachers, facts], sort_keys=True)


def mean_at_start(runs: Iterable[Result], name: str) -> float | None:
    """The mean of a value that runs measure in their first step; None if one of them did not, or there are none."""
    values = [run.at_start(name) for run in runs]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def shown_results(folder: Path) -> list[Result]:
    """`load_results` without the trials of searches, whose accuracy on the test set nothing may choose by.

    How many are left out is said; a folder of nothing else is shown.
    """
    results = load_results(folder)
    kept = [r for r in results if not _OF_TRIAL.search(r.name)]
    if kept and len(kept) < len(results):
        print(f"note: {folder}: not shown: {len(results) - len(kept)} runs of searches, whose trials are judged by"
              " validation images alone; give their folder to see them", file=sys.stderr)  # fmt: skip
    return kept or results


def load_results(folder: Path, deep: bool = True) -> list[Result]:
    """All results below `folder`, or only those of its own runs, by name and seed; DataError if there are none.

    A file that cannot be read is left out here, and listed by `unfinished`.
    """
    found: list[Result] = []
    faults: list[str] = []
    for path in _files(folder, RESULTS, deep, faults):
        result = _read(path, folder)
        if isinstance(result, Result):
            found.append(result)
        else:
            faults.append(f"{path}: {result}")
    if not found and deep:
        raise DataError("\n".join(faults) or _nothing_in(folder))
    return sorted(found, key=lambda r: (r.name, r.seed, str(r.path)))


def _nothing_in(folder: Path) -> str:
    """Why there are no results below a folder."""
    if folder.is_dir():
        return f"{folder}: contains no {RESULTS}"
    if folder.is_file():
        return f"{folder}: is a file; give the folder of the runs (the file of a table is given by --table)"
    return f"{folder}: there is no such folder; give the folder of the runs, LOG.PREFIX or one below it"


def _files(folder: Path, name: str, deep: bool, faults: list[str]) -> list[Path]:
    """The files of this name below a folder, or only those of its own runs; `faults` gets what may not be looked into.

    `rglob` passes over such a folder without a word, and the mean of a table would be that of fewer runs.
    """

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            faults.append(f"{error.filename}: cannot be read ({error.strerror})")

    found = []
    for place, folders, names in os.walk(folder, onerror=note, followlinks=not deep):
        if not deep:
            folders[:] = [one for one in folders if one.startswith("seed")] if Path(place) == folder else []
        if name in (*names, *folders) and (deep or Path(place) != folder):
            found.append(Path(place, name))
    return sorted(found)


def _read(path: Path, folder: Path) -> Result | str:
    """The result in a file, or what is wrong with the file."""
    try:
        data = read_json(path)
        if fault := fault_of(data, FORM):
            return f"not a results file of a finished run ({fault})"
        result = Result(_name(path, folder), path, data)
        if not result.evaluated:
            return "not a results file of a finished run (it has no evaluated epoch)"
        result.what  # noqa: B018  an identity that cannot be read is found here
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        return f"not a results file of a finished run ({kind_and_message(e)})"
    return result


def read_measured(path: Path, form: Any, what: str) -> dict[str, Any] | None:
    """What was measured of a run, in a file beside its results; None if there is none, DataError if it is no such."""
    try:
        found: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: not {what} ({kind_and_message(e)})") from None
    if fault := fault_of(found, form):
        raise DataError(f"{path}: not {what} ({fault})")
    return found


def _name(path: Path, folder: Path) -> str:
    """The run's directory without its last part, the seed."""
    relative = path.parent.relative_to(folder)
    return relative.parent.as_posix() if len(relative.parts) > 1 else folder.name


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, TypeError, OverflowError):
        return isinstance(pid, int) and Path(f"/proc/{pid}").exists()
    return True


def unfinished(folder: Path, deep: bool = True) -> list[str]:
    """One line for each run below `folder` that has no results: its state, its epoch and why, or what is wrong."""
    lines: list[str] = []
    for path in _files(folder, RESULTS, deep, lines):
        if isinstance(fault := _read(path, folder), str):
            lines.append(f"{path.relative_to(folder)}: {fault}")
    for path in _files(folder, STATUS, deep, []):
        try:
            status = read_json(path)
            state, epoch, reason = status["state"], status["epoch"], status.get("reason", "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            lines.append(f"{path.parent.relative_to(folder)}: its {STATUS} cannot be read ({type(e).__name__})")
            continue
        if state == "running" and status.get("host") == socket.gethostname() and not _is_alive(status.get("pid")):
            state = "killed"
        if state != "finished":
            why = f": {reason}" if reason else ""
            lines.append(f"{path.parent.relative_to(folder)}: {state} after epoch {epoch}{why}")
    return lines
