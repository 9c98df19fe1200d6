"""Mean and spread over seeds, one row for each different run; different protocols are flagged, never mixed."""

from collections.abc import Sequence
from statistics import mean, stdev

from .difference import difference
from .files import Result, repetitions
from .spec import METRICS


def spread(values: Sequence[float | None]) -> str:
    """`52.31 ± 0.24` (sample standard deviation), or the single value; empty if a run lacks it."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    return f"{mean(known):.2f} ± {stdev(known):.2f}" if len(known) > 1 else f"{known[0]:.2f}"


def markdown_table(results: Sequence[Result], unfinished: Sequence[str] = ()) -> str:
    """Top-1 accuracy of each different run: seeds, last epoch, best epoch, mean of the last five, as separate columns.

    Runs are repetitions only if they computed the same but for the seed, whatever their names. The first row of a
    name is compared with the first distilled row of the table, further ones with the first; the differences are listed.
    """
    groups = sorted(repetitions(results), key=lambda g: (next(iter(g.values())).name, -len(g)))
    reference = next((r for g in groups for r in g.values() if r.teachers), next(iter(groups[0].values())))
    lines = ["| run | seeds | top-1 last | top-1 best | top-1 mean of last 5 | protocol |", "|---|---|---|---|---|---|"]
    notes: dict[str, str] = {}
    first_of_name: dict[str, Result] = {}
    for group in groups:
        first = next(iter(group.values()))
        against = first_of_name.setdefault(first.name, first)
        text = difference(first, reference) if against is first else difference(first, against, of_one_method=True)
        mark = notes.setdefault(text, f"[{len(notes) + 1}]") if text else ""
        values = [spread([r.data["final"]["top1"].get(m) for r in group.values()]) for m in METRICS]
        seeds = ", ".join(map(str, group))
        lines.append(f"| {first.name} | {seeds} | {' | '.join(values)} | {mark} |")
    lines += ["", *(f"{mark} {text}" for text, mark in notes.items())] if notes else []
    lines += ["", f"Not finished ({len(unfinished)}):", *(f"- {line}" for line in unfinished)] if unfinished else []
    return "\n".join(lines)
