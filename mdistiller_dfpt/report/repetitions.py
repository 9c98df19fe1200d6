"""Which runs repeat each other: they computed the same, but for the seed."""

from collections.abc import Sequence

from .files import Result


def repetitions(results: Sequence[Result]) -> list[dict[int, Result]]:
    """The results by what they computed, each group as {seed: result}, of two with one seed the newer.

    Of a run and its copies, with the same weights, the oldest counts.
    """
    groups: dict[str, dict[int, Result]] = {}
    for result in sorted(results, key=_written):
        group = groups.setdefault(result.what, {})
        before, weights = group.get(result.seed), result.data.get("student_sha256")
        if before is None or weights is None or before.data.get("student_sha256") != weights:
            group[result.seed] = result
    return [dict(sorted(group.items())) for group in groups.values()]


def _written(result: Result) -> tuple[float, float]:
    """When its file was written, and when it came to its place: a copy may keep the first."""
    stat = result.path.stat()
    return stat.st_mtime, stat.st_ctime


def repeats(results: Sequence[Result]) -> list[str]:
    """One line for each run that does not count, as another one computed the same with the same seed."""
    counted = {id(run) for group in repetitions(results) for run in group.values()}
    left = [r for r in results if id(r) not in counted]
    return [f"{r.path.parent}: another run computed the same with seed {r.seed}" for r in left]
