"""Tables as Markdown, LaTeX or CSV: our results, published values in a separate column, missing runs."""

import csv
import io
from collections.abc import Callable, Sequence

from ..escape import csv_cell, latex_text, markdown_cell, markdown_line, markdown_row, one_line
from .cells import Value, holm, in_words
from .spec import Published, TableSpec
from .table import AT_START, spread


def _table(spec: TableSpec, values: Sequence[Value], marks: dict[str, str]) -> list[list[str]]:
    """The head and the rows of one pair; columns in which no row has a value are left out."""
    rows = [
        ["method", *AT_START.values(), "seeds", "top-1", f"against {spec.rows[spec.reference]}",
         "paired t-test", "trained path", "published", "source", "protocol"]
    ]  # fmt: skip
    for v, corrected in zip(values, holm([v.p_value for v in values]), strict=True):
        published = v.cell.published
        test = (
            ""
            if v.p_value is None
            else f"p {in_words(v.p_value)}, Holm {in_words(corrected).removeprefix('= ')}, n = {v.paired}"
        )
        rows.append(
            [
                spec.rows[v.cell.row],
                "" if v.weight is None else f"{v.weight:.3g}",
                "" if v.gradient is None else f"{v.gradient:.3g}",
                ", ".join(map(str, v.by_seed)),
                spread_of(v),
                difference_of(v),
                test,
                _paths(v),
                "" if published is None else ", ".join(f"{p.value:.2f}" for p in published.each()),
                "" if published is None else ", ".join(p.source for p in published.each()),
                marks.setdefault(v.protocol, f"[{len(marks) + 1}]") if v.protocol else "",
            ]
        )
    always = {"method", "seeds", "top-1"}
    used = [i for i, name in enumerate(rows[0]) if name in always or any(row[i] for row in rows[1:])]
    return [[row[i] for i in used] for row in rows]


def spread_of(value: Value) -> str:
    """`52.31 ± 0.24`, or the single value; empty without runs."""
    return spread([*value.by_seed.values()]) if value.by_seed else ""


def difference_of(value: Value) -> str:
    """`+0.94 (-0.95 to +2.84)`: from the reference, with the interval where there is one; empty without a pair."""
    if value.delta is None:
        return ""
    interval = "" if value.interval is None else f" ({value.interval[0]:+.2f} to {value.interval[1]:+.2f})"
    return f"{value.delta:+.2f}{interval}"


def _paths(value: Value) -> str:
    """`61.64 (KL from teacher 0.03, KL to student 0.41)`, of several paths with their names."""
    texts = {}
    for path, values in value.paths.items():
        divergences = [f"{name} {number:.2f}" for name, number in values.items() if name != "top-1"]
        texts[path] = f"{values['top-1']:.2f}" + (f" ({', '.join(divergences)})" if divergences else "")
    return "; ".join(texts.values() if len(texts) == 1 else [f"{path} {text}" for path, text in texts.items()])


def _missing(spec: TableSpec, values: Sequence[Value], seeds: Sequence[int]) -> list[str]:
    lines = []
    for v in values:
        lacking = [str(s) for s in seeds if s not in v.by_seed]
        if lacking:
            lines.append(f"{spec.rows[v.cell.row]}, {spec.columns[v.cell.column]}: seeds {', '.join(lacking)}")
    return lines


def _others(spec: TableSpec, values: Sequence[Value]) -> list[str]:
    """The runs in the folders of the cells that are not of the cells' configs, or have not finished."""
    return [f"{spec.rows[v.cell.row]}, {spec.columns[v.cell.column]}: {line}" for v in values for line in v.others]


def notes(spec: TableSpec, values: Sequence[Value], seeds: Sequence[int]) -> list[str]:
    """One line for each cell that differs in protocol from its reference, or lacks seeds."""
    protocols = [f"{spec.rows[v.cell.row]}, {spec.columns[v.cell.column]}: differs in protocol: {v.protocol}"
                 for v in values if v.protocol]  # fmt: skip
    return protocols + [f"{line} missing" for line in _missing(spec, values, seeds)]


def _by_column(values: Sequence[Value]) -> dict[str, list[Value]]:
    columns: dict[str, list[Value]] = {}
    for v in values:
        columns.setdefault(v.cell.column, []).append(v)
    return columns


def markdown(spec: TableSpec, values: Sequence[Value], metric: str, seeds: Sequence[int]) -> str:
    """One table per pair, then sources, differences in protocol and missing cells."""
    marks: dict[str, str] = {}
    lines = [f"# {markdown_cell(spec.title)}", "",
             f"Top-1 on the test set, {metric.replace('_', ' ')} epoch(s); mean ± standard "
             "deviation over seeds; differences with the 95 % interval of the paired test, p-values as they are and "
             "corrected for the number of rows (Holm). Published values are others' runs under their own protocols."
             ]  # fmt: skip
    for column, own in _by_column(values).items():
        head, *rows = _table(spec, own, marks)
        lines += [
            "",
            f"## {markdown_cell(spec.columns[column])}",
            "",
            markdown_row(head),
            "|" + "---|" * len(head),
        ]
        lines += map(markdown_row, rows)
    lines += ["", *(f"{markdown_line(key)}: {markdown_line(text)}  " for key, text in spec.sources.items())]
    lines += [f"{mark} differs in protocol: {markdown_line(text)}  " for text, mark in marks.items()]
    others = _others(spec, values)
    if others:
        lines += ["", "Also found, and not in the table:", *(f"- {markdown_line(line)}" for line in others)]
    missing = _missing(spec, values, seeds)
    if missing:
        lines += ["", f"Missing ({len(missing)} of {len(values)} cells):"]
        lines += [f"- {markdown_line(line)}" for line in missing]
    return "\n".join(lines)


def latex(spec: TableSpec, values: Sequence[Value], metric: str, seeds: Sequence[int]) -> str:
    """One tabular per pair, with sources, protocols and missing cells as comments."""
    marks: dict[str, str] = {}
    lines = [f"% {spec.title}; {metric} epoch(s)"]
    for column, own in _by_column(values).items():
        head, *rows = _table(spec, own, marks)
        lines += [rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\toprule"]
        lines += [rf"\multicolumn{{{len(head)}}}{{l}}{{{latex_text(spec.columns[column])}}} \\", r"\midrule"]
        lines += [" & ".join(map(latex_text, row)) + r" \\" for row in (head, *rows)]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    lines += [f"% {key}: {text}" for key, text in spec.sources.items()]
    lines += [f"% {mark} differs in protocol: {text}" for text, mark in marks.items()]
    lines += [f"% also found: {line}" for line in _others(spec, values)]
    lines += [f"% missing: {line}" for line in _missing(spec, values, seeds)]
    return "\n".join(line if line[:1] != "%" else one_line(line) for line in lines)


def _both(published: Published, spec: TableSpec) -> tuple[object, str]:
    """The value, a number if it is one, and the texts of its sources."""
    values = [p.value for p in published.each()]
    return values[0] if len(values) == 1 else values, "; ".join(spec.sources[p.source] for p in published.each())


def as_csv(spec: TableSpec, values: Sequence[Value], metric: str, seeds: Sequence[int]) -> str:
    """One line per cell, with the accuracy of every seed; empty if missing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["pair", "method", "metric", "mean", "std", *(f"seed{s}" for s in seeds), f"minus_{spec.reference}", "low",
         "high", "p_value", "paired_seeds", "weight", "gradient_to_kd", "trained_path", "published", "source",
         "protocol_differs"]
    )  # fmt: skip
    for v in values:
        published = v.cell.published
        row = (
            [v.cell.column, v.cell.row, metric, v.mean, v.deviation, *(v.by_seed.get(s) for s in seeds), v.delta,
             *(v.interval or (None, None)), v.p_value, v.paired, v.weight, v.gradient, _paths(v),
             *(_both(published, spec) if published else (None, None)), v.protocol]
        )  # fmt: skip
        writer.writerow(map(csv_cell, row))
    return out.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[TableSpec, Sequence[Value], str, Sequence[int]], str]] = {
    "markdown": markdown, "latex": latex, "csv": as_csv,
}  # fmt: skip
