"""The values of a table's cells, from result files: mean, spread, difference, paired test, protocol."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..config.effect import differing
from .difference import protocol_note
from .files import load_results, unfinished
from .repetitions import repeats, repetitions
from .result import Result, mean_at_start
from .spec import Cell, TableSpec
from .table import AT_START

Configs = Sequence[Mapping[str, Any]]
Expected = Callable[[Cell], Configs]
"""The keys that decide the result of a cell's config and differ from their defaults, without the seed: alternatives."""


class Value(NamedTuple):
    """The state of a cell: accuracies by seed in increasing order, comparison with the reference row, a flag."""

    cell: Cell
    by_seed: dict[int, float]
    delta: float | None  # mean over the common seeds, this row minus the reference
    interval: tuple[float, float] | None  # its 95 % confidence interval; None for fewer than two common seeds
    p_value: float | None  # two-sided paired t-test over the common seeds; None for fewer than two
    paired: int
    weight: float | None  # total weight of the distillation terms
    gradient: float | None  # the norm of their gradient at the first step, relative to that of KD at weight 1
    teacher: float | None  # its top-1
    paths: dict[str, dict[str, float]]  # of a teacher's trained paths: top-1 and divergences in the last epoch, means
    protocol: str  # how the protocol differs from the reference's; empty if it does not
    others: tuple[str, ...]  # runs in the cell's folder that are not in it, and why

    @property
    def mean(self) -> float | None:
        """Over the seeds; None if there are none."""
        return mean(self.by_seed.values()) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


class Found(NamedTuple):
    """The finished runs of a cell by seed, alike in all else, and a line for each other run in its folder."""

    by_seed: dict[int, Result]
    others: list[str]


def runs_of(cell: Cell, prefix: Path, seeds: tuple[int, ...], expected: Configs) -> Found:
    """The runs of a cell's config: of several kinds (other data, other teachers), the one with most of the seeds."""
    folder = prefix / cell.folder
    results = load_results(folder, deep=False) if folder.is_dir() else []
    groups = []
    others = []
    for group in repetitions(results):
        first = next(iter(group.values()))
        if not (differs := min((differing(first.config, e, "", "in the table") for e in expected), key=len)):
            groups.append({seed: run for seed, run in group.items() if seed in seeds})
        else:
            others.append(f"seeds {', '.join(map(str, group))}: {'; '.join(differs)}")
    best = max(groups, key=len, default={})  # of equally many, the oldest
    for group in groups:
        if group is not best and group:
            why = protocol_note(group, best, "in the table", of_one_method=True)
            others.append(f"seeds {', '.join(map(str, group))}: {why}")
    counted = {run.what for run in best.values()}
    others += repeats([run for run in results if run.what in counted and run.seed in seeds])
    return Found(best, others + unfinished(folder, deep=False) if folder.is_dir() else [])


def evaluate_table(
    spec: TableSpec, prefix: Path, metric: str, seeds: tuple[int, ...], expected: Expected
) -> list[Value]:
    """All cells, ordered by column, then row; `expected` tells which runs are a cell's."""
    values = []
    for column in spec.columns:
        runs = {
            row: runs_of(cell, prefix, seeds, expected(cell))
            for (row, pair), cell in spec.cells.items() if pair == column
        }  # fmt: skip
        reference = runs[spec.reference].by_seed if spec.reference in runs else {}
        values += [_value(spec.cells[row, column], own, reference, metric) for row, own in runs.items()]
    return values


def _value(cell: Cell, found: Found, reference: Mapping[int, Result], metric: str) -> Value:
    def top1(runs: Mapping[int, Result]) -> dict[int, float]:
        """The accuracies of the runs that have this metric: a mean of five epochs needs five."""
        known = {seed: run.data["final"]["top1"].get(metric) for seed, run in sorted(runs.items())}
        return {seed: value for seed, value in known.items() if value is not None}

    own = found.by_seed
    mine, other = top1(own), top1(reference)
    both = [seed for seed in mine if seed in other]
    protocol = protocol_note(own, reference or own, "in the reference") if own else ""
    delta = p_value = interval = None
    if both and own is not reference:
        gaps = [mine[seed] - other[seed] for seed in both]
        delta = mean(gaps)
        p_value, interval = paired_test(gaps)
    weight, gradient = (mean_at_start(own.values(), name) for name in AT_START)
    return Value(
        cell, mine, delta, interval, p_value, len(both), weight, gradient, _top1_of_teacher(own.values()),
        _trained_paths(own.values()), protocol, tuple(found.others),
    )  # fmt: skip


def _top1_of_teacher(runs: Iterable[Result]) -> float | None:
    return next((teacher["top1"] for run in runs if (teacher := run.data["protocol"].get("teacher"))), None)


def _trained_paths(runs: Iterable[Result]) -> dict[str, dict[str, float]]:
    """The means over the runs, of what each of them evaluated."""
    of_runs = [run.trained_paths for run in runs]
    return {
        path: {name: mean(run[path][name] for run in of_runs) for name in values}
        for path, values in (of_runs[0] if of_runs else {}).items()
    }


EQUAL = 1e-9
"""Percentage points below which gaps are equal: rounding alone sets them apart."""


def paired_test(gaps: list[float]) -> tuple[float | None, tuple[float, float] | None]:
    """The p-value of a two-sided paired t-test and the 95 % confidence interval of the mean; None where undefined."""
    from scipy.stats import ttest_1samp

    if len(gaps) < 2 or max(gaps) - min(gaps) < EQUAL:
        return None, None
    test = ttest_1samp(gaps, 0.0)
    low, high = test.confidence_interval(0.95)
    return float(test.pvalue), (float(low), float(high))


def in_words(p_value: float | None) -> str:
    """A p-value with three digits: `= 0.042`, `< 0.001`, as none is 0; empty if there is none."""
    if p_value is None:
        return ""
    return f"= {p_value:.3f}" if p_value >= 0.0005 else "< 0.001"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values corrected for their number (Holm, 1979); None stays and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected
