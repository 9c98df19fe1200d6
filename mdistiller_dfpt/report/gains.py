"""What each row of a table gains over its reference row, against the accuracy of the pair's teacher."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .cells import Value
from .figures import label, new_figure, write_figure
from .spec import TableSpec


def plot_gains(spec: TableSpec, values: Sequence[Value], target: Path) -> None:
    """Plot the mean difference to the reference row, with each seed's, against the teacher's top-1, a line for a row.

    ConfigError if matplotlib is not installed, DataError if no row has two pairs with a teacher of known accuracy.
    """
    reference = {v.cell.column: v.by_seed for v in values if v.cell.row == spec.reference}
    rows: dict[str, list[tuple[float, float, Value]]] = {}  # the teacher's accuracy, the gain, the cell
    for v in values:
        if v.teacher is not None and v.delta is not None:
            rows.setdefault(v.cell.row, []).append((v.teacher, v.delta, v))
    if max(map(len, rows.values()), default=0) < 2:
        raise DataError(
            f"{spec.title}: no row has finished runs on two pairs, beside those of {spec.rows[spec.reference]}"
        )
    figure = new_figure(7, 4.2)
    axis = figure.subplots()
    for number, (row, cells) in enumerate(rows.items()):
        teachers, means, _ = zip(*sorted(cells, key=lambda cell: cell[:2]), strict=True)
        axis.plot(teachers, means, marker="o", color=f"C{number}", label=label(spec.rows[row]))
        for teacher, _, v in cells:
            before = reference[v.cell.column]
            gains = [top1 - before[seed] for seed, top1 in v.by_seed.items() if seed in before]
            axis.scatter([teacher] * len(gains), gains, s=12, alpha=0.4, color=f"C{number}")
    for column, teacher in {v.cell.column: teacher for cells in rows.values() for teacher, _, v in cells}.items():
        axis.annotate(
            label(spec.columns[column]),
            (teacher, 0.0),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axis.axhline(0.0, color="#444444", linewidth=0.8)
    axis.set(
        xlabel="top-1 of the teacher, %",
        ylabel=f"top-1 ({spec.metric.replace('_', ' ')}) above {label(spec.rows[spec.reference])}, points",
    )
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.suptitle(f"{label(spec.title)}\n(points: each seed)", fontsize=9)
    write_figure(figure, target, dpi=110)
