"""The values of a table's cells, from result files: mean, spread, difference, paired test, protocol."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from .files import Result, difference, load_results
from .spec import Cell, TableSpec


class Value(NamedTuple):
    """The state of a cell: accuracies by seed in increasing order, comparison with the reference row, a flag."""

    cell: Cell
    by_seed: dict[int, float]
    delta: float | None  # mean over the common seeds, this row minus the reference
    p_value: float | None  # two-sided paired t-test over the common seeds; None for fewer than two
    paired: int
    protocol: str  # how the protocol differs from the reference's; empty if it does not

    @property
    def mean(self) -> float | None:
        """Over the seeds; None if there are none."""
        return mean(self.by_seed.values()) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


def runs_of(cell: Cell, prefix: Path, seeds: tuple[int, ...]) -> dict[int, Result]:
    """The newest finished run of each seed."""
    folder = prefix / cell.folder
    found = load_results(folder, deep=False) if folder.is_dir() else []
    ordered = sorted(found, key=lambda r: (r.path.parent.name.count("-"), r.path.stat().st_mtime))
    by_seed = {r.data["protocol"]["seed"]: r for r in ordered}
    return {seed: by_seed[seed] for seed in seeds if seed in by_seed}


def evaluate_table(spec: TableSpec, prefix: Path, metric: str, seeds: tuple[int, ...]) -> list[Value]:
    """All cells, ordered by column, then row."""
    values = []
    for column in spec.columns:
        runs = {row: runs_of(cell, prefix, seeds) for (row, pair), cell in spec.cells.items() if pair == column}
        reference = runs.get(spec.reference, {})
        values += [_value(spec.cells[row, column], own, reference, metric) for row, own in runs.items()]
    return values


def _value(cell: Cell, own: Mapping[int, Result], reference: Mapping[int, Result], metric: str) -> Value:
    def top1(runs: Mapping[int, Result]) -> dict[int, float]:
        return {seed: run.data["final"]["top1"][metric] for seed, run in sorted(runs.items())}

    mine, other = top1(own), top1(reference)
    both = [seed for seed in mine if seed in other]
    runs = [*reference.values(), *own.values()]
    differences = dict.fromkeys(d for run in own.values() if (d := difference(run, runs[0])))
    delta = p_value = None
    if both and own is not reference:
        gaps = [mine[seed] - other[seed] for seed in both]
        delta = mean(gaps)
        p_value = _paired_test(gaps)
    return Value(cell, mine, delta, p_value, len(both), "; ".join(differences))


def _paired_test(gaps: list[float]) -> float | None:
    from scipy.stats import ttest_1samp

    if len(gaps) < 2 or stdev(gaps) == 0:
        return None
    return float(ttest_1samp(gaps, 0.0).pvalue)
