"""Curves by epoch: the students of any runs, and the easy-to-hard curve of a teacher's paths with their pairwise KL."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import DataError
from .difference import protocol_note
from .figures import label, new_figure, whole_numbers, write_figure
from .repetitions import repetitions
from .result import Result

_DASHES = ("-", "--", ":", "-.")  # one for every ten colours
_COLOURS = {"teacher": "#444444", "prompt": "#d95f02", "student": "#1b6ca8"}


def plot_learning(groups: Mapping[str, Mapping[int, Result]], target: Path, title: str) -> None:
    """Plot `learning_curves` to a file; ConfigError if matplotlib is not installed."""
    figure = learning_curves(groups)
    band = " (mean over seeds; band: lowest to highest)" if any(len(runs) > 1 for runs in groups.values()) else ""
    figure.suptitle(f"{label(title)}{band}")
    write_figure(figure, target, dpi=110)


def learning_curves(groups: Mapping[str, Mapping[int, Result]]) -> Any:
    """The figure: top-1 of the students by epoch, the mean over seeds and the band from the lowest to the highest.

    `groups`: {name: {seed: run}}, each of runs that are repetitions.
    """
    figure = new_figure(9, 4.2)
    axis = figure.subplots()
    for number, (name, runs) in enumerate(groups.items()):
        by_epoch: dict[int, list[float]] = {}
        for run in runs.values():
            for one in run.evaluated:
                by_epoch.setdefault(one["epoch"], []).append(one["student"]["top1"])
        epochs = sorted(by_epoch)
        colour, dashes = f"C{number % 10}", _DASHES[number // 10 % len(_DASHES)]
        means = [mean(by_epoch[e]) for e in epochs]
        marker = "o" if len(epochs) == 1 else None
        axis.plot(epochs, means, color=colour, linestyle=dashes, marker=marker, label=label(name), linewidth=1.6)
        low, high = [min(by_epoch[e]) for e in epochs], [max(by_epoch[e]) for e in epochs]
        axis.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    sets = sorted({run.judged_on for runs in groups.values() for run in runs.values()})
    axis.set(xlabel="epoch", ylabel=f"top-1 of the student on the {' or '.join(sets)} set, %")
    whole_numbers(axis.xaxis)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    return figure


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
            raise DataError(
                f"{result.path}: has no trained path of a teacher; leave out --paths for the student's curve"
            )
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
