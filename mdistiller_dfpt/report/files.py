"""Finds and reads the result files of runs."""

import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checksum import Damaged, read_checked_json
from ..errors import DataError, kind_and_message
from ..json_form import fault_of
from ..regular_files import read_json
from .result import FORM, Result

RESULTS, STATUS = "results.json", "status.json"
_OF_TRIAL = re.compile(r"(^|/)search/[^/]+/[^/]+/trial-\d+$")


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


def shown_below(folders: Sequence[Path]) -> tuple[list[Result], list[str]]:
    """The `shown_results` below several folders, each run once, and the lines of `unfinished`."""
    places = apart(folders)
    results = [result for folder in places for result in shown_results(folder)]
    return results, [line for folder in places for line in unfinished(folder)]


def apart(folders: Sequence[Path]) -> list[Path]:
    """These folders, less those that are or are in another of them: their runs would be there twice.

    A search in another one stays: its trials are shown only if its folder is given.
    """
    real = list(dict.fromkeys(folder.resolve() for folder in folders))
    around = {one: [other for other in real if other in one.parents] for one in real}
    outer = [one for one in real if not any("search" not in one.relative_to(o).parts for o in around[one])]
    first = {folder.resolve(): folder for folder in reversed(folders)}
    return [first[one] for one in outer]


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

    `rglob` passes over such a folder without a word, and over one that is linked, and the mean of a table would be that
    of fewer runs. A folder that can be reached in several ways is looked into once, under its own name if it has one.
    """

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            faults.append(f"{error.filename}: cannot be read ({error.strerror})")

    found, places, seen = [], [folder], set()
    for start in places:  # links come last
        for at, folders, names in os.walk(start, onerror=note):
            place = Path(at)
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            if not deep:
                folders[:] = [one for one in folders if one.startswith("seed")] if place == folder else []
            places += [place / one for one in sorted(folders) if (place / one).is_symlink()]
            if name in (*names, *folders) and (deep or place != folder):
                found.append(place / name)
            elif not {RESULTS, STATUS} & set(names):
                faults += [f"{place / one}: a link to nothing" for one in sorted(names)
                           if (deep or one.startswith("seed")) and _leads_nowhere(place / one)]  # fmt: skip
    return sorted(found)


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _read(path: Path, folder: Path) -> Result | str:
    """The result in a file, or what is wrong with the file."""
    try:
        data = read_checked_json(path)
        if fault := fault_of(data, FORM):
            return f"not a results file of a finished run ({fault})"
        result = Result(_name(path, folder), path, data)
        if not result.evaluated:
            return "not a results file of a finished run (it has no evaluated epoch)"
        result.what  # noqa: B018  an identity that cannot be read is found here
    except Damaged as e:
        return str(e)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        return f"not a results file of a finished run ({kind_and_message(e)})"
    return result


def read_measured(path: Path, form: Any, what: str) -> dict[str, Any] | None:
    """What was measured of a run, in a file beside its results; None if there is none, DataError if it is no such."""
    try:
        found: dict[str, Any] = read_checked_json(path)
    except FileNotFoundError:
        return None
    except Damaged as e:
        raise DataError(f"{path}: {e}, or remove it") from None
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
