"""The easy-to-hard curve: accuracies of the teacher's paths and the student, and their pairwise KL, by epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .difference import protocol_note
from .figures import label, new_figure, whole_numbers, write_figure
from .repetitions import repetitions
from .result import Result

_COLOURS = {"teacher": "#444444", "prompt": "#d95f02", "student": "#1b6ca8"}


def plot_curves(results: Sequence[Result], target: Path, title: str) -> None:
    """Plot the curves of runs with a trained teacher path to a file.

    ConfigError if matplotlib is not installed, DataError if a run has only one path, or if they differ in more than
    their seed: the curve is a mean.
    """
    first, *others = repetitions(results)
    if others:
        one, other = (next(iter(group.values())) for group in (first, others[0]))
        differs = protocol_note(others[0], first, f"in {one.path.parent}", of_one_method=True)
        raise DataError(f"{other.path.parent}: {differs}; a curve is of runs that differ in their seed alone")
    write_figure(curves(list(first.values()), title), target, dpi=110)


def curves(results: Sequence[Result], title: str) -> Any:
    """The figure: accuracies and divergences by epoch; the mean as a thick line, each run as a thin one."""
    runs = [r.evaluated for r in results]
    for result, run in zip(results, runs, strict=True):
        if "kl" not in run[-1]:
            raise DataError(f"{result.path}: has only one path; the curve needs a teacher path and the student")
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = [e["epoch"] for e in runs[0]]

    def draw(axis: Any, name: str, series: list[list[float]], **style: Any) -> None:
        for values in series:
            axis.plot(epochs, values, alpha=0.3, linewidth=0.8, **style)
        axis.plot(epochs, [sum(v) / len(v) for v in zip(*series, strict=True)], label=name, linewidth=2, **style)

    # Left: is the prompt path a better teacher? Right: is it an easier one to match?
    for path in (name for name in runs[0][-1] if name not in ("kl", "epoch")):
        colour = {"color": _COLOURS[path]} if path in _COLOURS else {}
        draw(left, label(path), [[e[path]["top1"] for e in run] for run in runs], **colour)
    for number, pair in enumerate(runs[0][-1]["kl"]):
        words = label(f"KL({pair.replace('||', ' ‖ ')})")
        draw(right, words, [[e["kl"][pair] for e in run] for run in runs], color=f"C{number}")
    left.set(xlabel="epoch", ylabel=f"top-1 on the {results[0].judged_on} set, %")
    right.set(xlabel="epoch", ylabel=f"KL on the {results[0].judged_on} set, nats", yscale="log")
    for axis in (left, right):
        whole_numbers(axis.xaxis)
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    seeds = ", ".join(str(r.seed) for r in results)
    of_seeds = f"seeds {seeds}; thin: each seed" if len(results) > 1 else f"seed {seeds}"
    figure.suptitle(f"{label(title)} ({of_seeds})")
    return figure
