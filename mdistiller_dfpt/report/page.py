"""One self-contained HTML page on any finished runs: table, curves, calibration, confusions, cost, protocols."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..atomic import write_text
from ..environment import for_reader
from ..errors import DataError
from ..escape import printable
from ..json_form import EVALUATION as EVALUATION_FORM
from .cells import holm, in_words, paired_test
from .corrupted import corrupted_table
from .curves import curves, learning_curves
from .figures import as_svg, label, new_figure
from .files import read_measured
from .result import Result
from .table import Table, references, table_of

EVALUATION = "evaluation.json"
MOST_CLASSES = 120  # of a confusion matrix that is drawn


class Entry(NamedTuple):
    """A row of the table: its name, its runs by seed, and what was measured of the run with the first seed."""

    name: str
    runs: dict[int, Result]
    evaluation: dict[str, Any] | None


def page(results: Sequence[Result], title: str, unfinished: Sequence[str] = ()) -> str:
    """The page as text; ConfigError if matplotlib is not installed.

    Without scripts, and without anything to load from elsewhere. Names of runs and classes are escaped.
    """
    table = table_of(results)
    entries = [
        Entry(row[0], group, _evaluation(next(iter(group.values()))))
        for row, group in zip(table.rows, table.groups, strict=True)
    ]
    judged = [entry for entry in entries if entry.evaluation is not None]
    environment = Environment(
        loader=PackageLoader("mdistiller_dfpt.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        title=title, table=table, tests=_tests(table), unfinished=unfinished, entries=entries, judged=judged,
        learning=_svg(learning_curves({e.name: e.runs for e in entries})),
        cost=_svg(_cost(judged)) if len(judged) > 1 else "",
        paths=[(e.name, _svg(curves(list(e.runs.values()), e.name))) for e in entries if _has_paths(e)],
        pictures={e.name: (_svg(_reliability(e)), _svg(_confusion(e))) for e in judged},
        lowest={e.name: _lowest(e) for e in judged}, corrupted=corrupted_table((e.name, e.runs) for e in entries),
        machines={e.name: _machine(e.evaluation) for e in judged if e.evaluation},
        protocols=[(e.name, _protocol(e)) for e in entries],
    )  # fmt: skip
    return printable(text)


def _svg(figure: Any) -> Markup:
    return Markup("" if figure is None else as_svg(figure))  # noqa: S704  matplotlib escapes the texts in it


def _evaluation(result: Result) -> dict[str, Any] | None:
    """What was measured at the end of a run; None if it was trained by an earlier version, or by many processes.

    So it is where these have continued a run whose student had been judged: its file is then of other weights.
    """
    path, weights = result.path.parent / EVALUATION, result.data.get("student_sha256")
    found = read_measured(path, EVALUATION_FORM, "an evaluation of a run")
    if found is None or found.get("sha256", weights) != weights:
        return None
    classes = len(found["per_class"])
    if not classes or {len(row) for row in found["confusion"]} != {classes} or len(found["confusion"]) != classes:
        raise DataError(f"{path}: not an evaluation of a run (confusion is not of {classes} classes)")
    return found


def _machine(evaluation: Mapping[str, Any]) -> str:
    """What the times of an evaluation were measured on; what an earlier version did not record is left out."""
    device, cpu, threads = (evaluation.get(key) for key in ("device", "cpu", "threads"))
    if device not in (None, "cpu"):
        return str(device)
    return ", ".join([str(cpu or "cpu"), *([f"threads: {threads}"] if threads else [])])


def _tests(table: Table) -> list[dict[str, str]]:
    """The paired test of each row against that of `references`, over the seeds of both."""
    found, p_values = [], []
    for number, (group, reference) in enumerate(zip(table.groups, references(table.groups), strict=True)):
        mine, of_reference = _last(group), _last(table.groups[reference])
        gaps = [mine[seed] - of_reference[seed] for seed in mine if seed in of_reference]
        p, interval = paired_test(gaps) if number != reference else (None, None)
        words = "reference" if number == reference else f"{mean(gaps):+.2f}" if gaps else ""
        words += f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
        found.append({"difference": words, "p": in_words(p), "seeds": str(len(gaps))})
        p_values.append(p)
    for row, corrected in zip(found, holm(p_values), strict=True):
        row["holm"] = in_words(corrected).removeprefix("= ")
    return found


def _last(group: dict[int, Result]) -> dict[int, float]:
    return {seed: run.data["final"]["top1"]["last"] for seed, run in group.items()}


def _has_paths(entry: Entry) -> bool:
    return all(run.evaluated and "kl" in run.evaluated[-1] for run in entry.runs.values())


def _cost(judged: Sequence[Entry]) -> Any:
    """Top-1 against the time for one image and against the size of the file."""
    figure = new_figure(9, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for number, entry in enumerate(judged):
        found = entry.evaluation
        assert found is not None
        top1 = mean(_last(entry.runs).values())
        for axis, value in zip(axes, (found["milliseconds"]["1"], found["bytes"] / 2**20), strict=True):
            axis.scatter([value], [top1], color=f"C{number % 10}", label=label(entry.name))
    axes[0].set(xlabel="milliseconds for one image", ylabel="top-1, %")
    axes[1].set(xlabel="size of the file, MiB")
    axes[1].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.set_xlim(0, 1.08 * axis.dataLim.xmax)  # networks that cost the same lie together
        axis.grid(alpha=0.3)
    return figure


def _reliability(entry: Entry) -> Any:
    """Accuracy against confidence in 15 bins; the area of a point is its share of the samples."""
    assert entry.evaluation is not None
    bins = entry.evaluation["reliability"]
    figure = new_figure(3.6, 3.6)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    largest = max([1, *(one["images"] for one in bins)])
    axis.scatter([b["confidence"] for b in bins], [b["accuracy"] for b in bins],
                 s=[10 + 150 * b["images"] / largest for b in bins], alpha=0.7)  # fmt: skip
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title="reliability")
    axis.grid(alpha=0.3)
    return figure


def _confusion(entry: Entry) -> Any:
    """The shares of each class that are predicted as each class; None for too many classes to draw."""
    assert entry.evaluation is not None
    counts = entry.evaluation["confusion"]
    if len(counts) > MOST_CLASSES:
        return None
    shares = [[value / max(1, sum(row)) for value in row] for row in counts]
    figure = new_figure(4.4, 3.6)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, shrink=0.8)
    axis.set(xlabel="predicted", ylabel="class")
    figure.suptitle("confusion: images, share of the class")  # over long names of classes, too
    if len(counts) <= 20:
        names = list(map(label, entry.evaluation["per_class"]))
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        # Single mistakes are too faint to be seen by their colour
        for row, values in enumerate(counts):
            for column, value in enumerate(values):
                if value:
                    colour = "black" if shares[row][column] > 0.6 else "white"
                    axis.text(column, row, str(value), ha="center", va="center", fontsize=6, color=colour)
    return figure


def _lowest(entry: Entry) -> list[tuple[str, float]]:
    """The five classes with the lowest accuracies, of those with mistakes."""
    assert entry.evaluation is not None
    known = [pair for pair in entry.evaluation["per_class"].items() if pair[1] is not None and pair[1] < 100]
    return sorted(known, key=lambda pair: pair[1])[:5]


def _protocol(entry: Entry) -> list[tuple[str, str]]:
    """The protocol of the run with the first seed, in words."""
    found = for_reader(next(iter(entry.runs.values())).data)
    flat = []
    for key, value in found.items():
        if key == "settings":
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        elif isinstance(value, float):
            value = f"{value:g}"
        if value not in (None, ""):
            flat.append((key.replace("_", " "), str(value)))
    return flat


def write_page(results: Sequence[Result], target: Path, title: str, unfinished: Sequence[str] = ()) -> None:
    """Write the page to a file; CheckpointError if it cannot be written."""
    write_text(target, page(results, title, unfinished))
