"""Mean and spread over seeds, one row for each different run; different protocols are flagged, never mixed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..escape import markdown_line, markdown_row
from .difference import protocol_note
from .repetitions import repeats, repetitions
from .result import Result, mean_at_start
from .spec import METRICS

AT_START = {"distillation_weight": "weight", "gradient_to_kd": "gradient / kd"}
"""What runs measure in their first step, and its name in tables."""

COUNTS = {"classes": "classes", "test_images": "test images"}

OF_DATA = ("data", "classes", "test_images")
"""What of a protocol says which runs are compared."""


def spread(values: Sequence[float | None]) -> str:
    """`52.31 ± 0.24` (sample standard deviation), or the single value; empty if a run lacks it."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    return f"{mean(known):.2f} ± {stdev(known):.2f}" if len(known) > 1 else f"{known[0]:.2f}"


def _at_start(group: Mapping[int, Result], name: str) -> str:
    value = mean_at_start(group.values(), name)
    return "" if value is None else f"{value:.3g}"


def _name(group: Mapping[int, Result]) -> str:
    """The name of repetitions: the shortest, as a copy has a longer one."""
    return min((r.name for r in group.values()), key=lambda name: (len(name), name))


def _place(group: Mapping[int, Result]) -> str:
    """The folder of the run with the first seed."""
    return next(iter(group.values())).path.parent.parent.as_posix()


def _folders(group: Mapping[int, Result]) -> str:
    return ", ".join(r.path.parent.name for r in group.values())


def _dataset(result: Result) -> str:
    """The dataset of a run in a few words, as far as they are known."""
    known = result.data["protocol"]
    name = f"{known.get('data', '')} {known.get('folder', '')}".strip()
    counts = [f"{known[key]} {words}" for key, words in COUNTS.items() if key in known]
    return ", ".join(filter(None, (name, *counts)))


class Table(NamedTuple):
    """A table of runs: titles of the columns, a row for each different run, its repetitions by seed, and the notes."""

    head: list[str]
    rows: list[list[str]]
    groups: list[dict[int, Result]]
    notes: dict[str, str]  # mark -> how a protocol differs
    repeats: list[str]  # runs that do not count, and why


def references(groups: Sequence[Mapping[int, Result]]) -> list[int]:
    """By row, the one that it is compared with: of those on as many images of as many classes, the first distilled."""
    found: dict[tuple[Any, ...], int] = {}
    data = [tuple(next(iter(g.values())).data["protocol"].get(key) for key in OF_DATA) for g in groups]
    distilled = [any(r.teachers for r in g.values()) for g in groups]
    for number in sorted(range(len(groups)), key=lambda n: not distilled[n]):
        found.setdefault(data[number], number)
    return [found[one] for one in data]


def table_of(results: Sequence[Result]) -> Table:
    """Top-1 accuracy of each different run: seeds, last epoch, best epoch, mean of the last five, as separate columns.

    Runs are repetitions only if they computed the same but for the seed, whatever their names. The first row of a
    name is compared with its row of `references`, further ones with the first; the differences are noted.
    """
    groups = sorted(repetitions(results), key=lambda g: (_name(g), -len(g)))
    often = Counter(map(_name, groups))
    labels = [_name(g) if often[_name(g)] == 1 else f"{_name(g)} ({_folders(g)})" for g in groups]
    again = Counter(labels)  # as of runs of equal names in several folders
    labels = [one if again[one] == 1 else f"{_place(g)} ({_folders(g)})" for one, g in zip(labels, groups, strict=True)]
    compared_with = references(groups)
    datasets = [_dataset(next(iter(g.values()))) for g in groups]
    head = [
        "run",
        "dataset",
        "seeds",
        "top-1 last",
        "top-1 best",
        "top-1 mean of last 5",
        *AT_START.values(),
        "protocol",
    ]
    rows = []
    notes: dict[str, str] = {}
    first_of_name: dict[str, int] = {}
    for number, group in enumerate(groups):
        first = first_of_name.setdefault(_name(group), number)
        against = compared_with[number] if first == number else first
        text = protocol_note(group, groups[against], f"in {labels[against]}", of_one_method=first != number)
        mark = notes.setdefault(text, f"[{len(notes) + 1}]") if text else ""
        values = [spread([r.data["final"]["top1"].get(m) for r in group.values()]) for m in METRICS]
        values += [_at_start(group, measured) for measured in AT_START]
        dataset = datasets[number] if len(set(datasets)) > 1 else ""
        rows.append([labels[number], dataset, ", ".join(map(str, group)), *values, mark])
    may_lack = ("dataset", *AT_START.values())
    shown = [i for i, title in enumerate(head) if title not in may_lack or any(row[i] for row in rows)]
    only = [[row[i] for i in shown] for row in rows]
    return Table([head[i] for i in shown], only, groups, {mark: text for text, mark in notes.items()}, repeats(results))


def markdown_table(results: Sequence[Result], unfinished: Sequence[str] = ()) -> str:
    """`table_of` as Markdown, with the runs that have not finished."""
    table = table_of(results)
    lines = [*map(markdown_row, (table.head, *table.rows))]
    lines.insert(1, "|" + "---|" * len(table.head))
    lines += ["", *(f"{mark} {markdown_line(text)}" for mark, text in table.notes.items())] if table.notes else []
    for title, some in (("Not counted", table.repeats), ("Not finished", unfinished)):
        lines += ["", f"{title} ({len(some)}):", *(f"- {markdown_line(line)}" for line in some)] if some else []
    return "\n".join(lines)
