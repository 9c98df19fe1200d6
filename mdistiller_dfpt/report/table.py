"""Mean and spread over seeds, one row per run name; different protocols are flagged, never mixed silently."""

from collections.abc import Sequence
from statistics import mean, stdev

from .files import Result, difference
from .spec import METRICS


def spread(values: Sequence[float]) -> str:
    """`52.31 ± 0.24` (sample standard deviation), or the single value."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def markdown_table(results: Sequence[Result]) -> str:
    """Top-1 accuracy by name: seeds, last epoch, best epoch, mean of the last five, as separate columns.

    A row whose protocol differs from that of the table's first distilled row is marked; the differences are listed
    below the table.
    """
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.name, []).append(result)
    reference = next((r for r in results if r.data["protocol"]["teacher"]), results[0])
    lines = ["| run | seeds | top-1 last | top-1 best | top-1 mean of last 5 | protocol |", "|---|---|---|---|---|---|"]
    notes: dict[str, str] = {}
    for name, runs in rows.items():
        values = [spread([r.data["final"]["top1"][m] for r in runs]) for m in METRICS]
        seeds = ", ".join(str(r.data["protocol"]["seed"]) for r in runs)
        marks = sorted({notes.setdefault(d, f"[{len(notes) + 1}]") for r in runs if (d := difference(r, reference))})
        lines.append(f"| {name} | {seeds} | {' | '.join(values)} | {' '.join(marks)} |")
    lines += ["", *(f"{mark} {text}" for text, mark in notes.items())] if notes else []
    return "\n".join(lines)
