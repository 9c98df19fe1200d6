"""What each row of a table gains over its reference row, against the accuracy of the pair's teacher."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from .cells import Value
from .spec import TableSpec


def plot_gains(spec: TableSpec, values: Sequence[Value], target: Path) -> None:
    """Plot the mean difference to the reference row, with each seed's, against the teacher's top-1, a line for a row.

    ConfigError if matplotlib is not installed, DataError if no row has two pairs with a teacher of known accuracy.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError('plots need matplotlib: pip install -e ".[plot]"') from None
    reference = {v.cell.column: v.by_seed for v in values if v.cell.row == spec.reference}
    rows: dict[str, list[Value]] = {}
    for v in values:
        if v.delta is not None and v.teacher is not None:
            rows.setdefault(v.cell.row, []).append(v)
    if max(map(len, rows.values()), default=0) < 2:
        raise DataError(
            f"{spec.title}: no row has finished runs on two pairs, beside those of {spec.rows[spec.reference]}"
        )
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, (row, cells) in enumerate(rows.items()):
        cells = sorted(cells, key=lambda v: v.teacher or 0.0)
        colour = f"C{number}"
        axis.plot([v.teacher for v in cells], [v.delta for v in cells], marker="o", color=colour, label=spec.rows[row])
        for v in cells:
            before = reference[v.cell.column]
            gains = [top1 - before[seed] for seed, top1 in v.by_seed.items() if seed in before]
            axis.scatter([v.teacher] * len(gains), gains, s=12, alpha=0.4, color=colour)
    for v in {v.cell.column: v for cells in rows.values() for v in cells}.values():
        place = {"xy": (v.teacher, 0.0), "xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        axis.annotate(spec.columns[v.cell.column], fontsize=8, **place)
    axis.axhline(0.0, color="#444444", linewidth=0.8)
    axis.set(xlabel="top-1 of the teacher, %", ylabel=f"top-1 above {spec.rows[spec.reference]}, points")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.suptitle(f"{spec.title}\n(points: each seed)", fontsize=9)
    figure.savefig(target, dpi=110)
