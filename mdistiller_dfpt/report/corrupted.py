"""The accuracies on corrupted images of runs that were tested on them, as a table."""

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any, NamedTuple

from ..json_form import CORRUPTED
from .files import read_measured
from .result import Result

CORRUPTIONS = "corruptions.json"


class Corrupted(NamedTuple):
    """A table: the names of its columns, `rows` of a corruption and its accuracies, and how they were measured."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    how: str


def corrupted_table(runs: Iterable[tuple[str, Mapping[int, Result]]]) -> Corrupted | None:
    """The table of (name, runs by seed), in per cent, over the seeds that were tested; None if no run was.

    A file that is of other weights than the results of its run is left out.
    """
    columns: list[str] = []
    values: list[dict[str, float]] = []
    measured: set[str] = set()
    for name, by_seed in runs:
        found = [one for one in map(_read, by_seed.values()) if one is not None]
        if not found:
            continue
        columns.append(f"{name} ({len(found)} seed{'s' if len(found) > 1 else ''})")
        means = {"as they are": mean(one["clean"] for one in found)}
        means |= {key: mean(one["mean_by_corruption"][key] for one in found) for key in found[0]["mean_by_corruption"]}
        values.append(means | {"mean over corruptions": mean(one["mean"] for one in found)})
        measured |= {f"{one['constants']} at {'x'.join(map(str, one['pixels']))}, seed {one['seed']}" for one in found}
    if not values:
        return None
    rows = [(key, [f"{one[key]:.2f}" for one in values]) for key in values[0]]
    return Corrupted(columns, rows, "; ".join(sorted(measured)))


def _read(result: Result) -> dict[str, Any] | None:
    found = read_measured(result.path.parent / CORRUPTIONS, CORRUPTED, "the accuracies on corrupted images")
    return found if found and found["sha256"] == result.data.get("student_sha256") else None
