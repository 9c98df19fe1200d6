"""Which runs repeat each other: they computed the same, but for the seed."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .result import Result


def repetitions(results: Sequence[Result]) -> list[dict[int, Result]]:
    """The results by what they computed, each group as {seed: result}, of two with one seed the newer.

    Of a run and its copies, with the same weights, the oldest counts. In one folder, runs have numbers in the order in
    which they began, which no clock can change; between folders, the times of files decide.
    """
    groups: dict[str, dict[int, dict[Path, list[Result]]]] = {}
    for result in sorted(results, key=_written):
        folders = groups.setdefault(result.what, {}).setdefault(result.seed, {})
        folders.setdefault(_folder(result), []).append(result)
    return [{seed: _of_folders(folders.values()) for seed, folders in sorted(of.items())} for of in groups.values()]


def _of_folders(folders: Iterable[Sequence[Result]]) -> Result:
    """The result that counts of one seed in several folders."""
    return _newest(sorted((_newest(sorted(runs, key=_number)) for runs in folders), key=_written))


def _newest(results: Sequence[Result]) -> Result:
    """The last of the results in their order, of those before it that are its copies the first."""
    newest, *later = results
    for result in later:
        weights = result.data.get("student_sha256")
        if weights is None or newest.data.get("student_sha256") != weights:
            newest = result
    return newest


def _number(result: Result) -> int:
    """The number of a run among those of its name, as of seed1, seed1-2, seed1-3; 0: its directory has another name."""
    match = re.fullmatch(rf"seed{result.seed}(?:-(\d+))?", result.path.parent.name)
    return int(match[1] or 1) if match else 0


def _folder(result: Result) -> Path:
    """The folder in which its number counts; that of a run without one is its own."""
    return result.path.parent.parent if _number(result) else result.path.parent


def _written(result: Result) -> tuple[float, float]:
    """When its file was written, and when it came to its place: a copy may keep the first."""
    stat = result.path.stat()
    return stat.st_mtime, stat.st_ctime


def repeats(results: Sequence[Result]) -> list[str]:
    """One line for each run that does not count, as another one computed the same with the same seed."""
    counted = {id(run) for group in repetitions(results) for run in group.values()}
    left = [r for r in results if id(r) not in counted]
    return [f"{r.path.parent}: another run computed the same with seed {r.seed}" for r in left]
