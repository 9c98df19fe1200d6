"""Writes the tables of our runs into the pages of docs/: python tools/study_tables.py.

A page has a table between the lines `<!-- FILE, written by tools/study_tables.py -->`, where FILE is one of
configs/tables, and `<!-- end -->`; its numbers are those of the files below results/.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mdistiller_dfpt.escape import markdown_row
from mdistiller_dfpt.launch.table_jobs import cell_configs
from mdistiller_dfpt.report.cells import Value, evaluate_table, holm, in_words
from mdistiller_dfpt.report.render import difference_of, spread_of
from mdistiller_dfpt.report.spec import TableSpec, load_table

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"(<!-- (?P<file>\S+\.yaml), written by tools/study_tables\.py -->\n).*?(<!-- end -->\n)", re.S)


def table(spec: TableSpec, values: Sequence[Value]) -> str:
    """The rows of one pair in Markdown: accuracies by seed, mean, and the difference from the reference."""
    head = ["method", f"seeds {', '.join(map(str, spec.seeds))}", "top-1", f"against {spec.rows[spec.reference]}",
            "p (Holm)", "trained path: top-1, KL from the teacher"]  # fmt: skip
    rows = []
    for value, corrected in zip(values, holm([v.p_value for v in values]), strict=True):
        rows.append([
            spec.rows[value.cell.row],
            ", ".join(f"{value.by_seed[s]:.2f}" if s in value.by_seed else "-" for s in spec.seeds),
            spread_of(value) or "not run",
            difference_of(value),
            "" if value.p_value is None else f"{_number(value.p_value)} ({_number(corrected)})",
            "; ".join(f"{path['top-1']:.2f}, {path['KL from teacher']:.2f}" for path in value.paths.values()),
        ])  # fmt: skip
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(markdown_row([line[i] for i in used]) + "\n" for line in lines)


def _number(p_value: float | None) -> str:
    return in_words(p_value).removeprefix("= ")


def written(file: str) -> str:
    """The table that configs/tables has under this name, of one pair."""
    spec = load_table(ROOT / "configs/tables" / file)
    return table(spec, evaluate_table(spec, ROOT / "results", spec.metric, spec.seeds, lambda c: cell_configs(c, ())))


def page(path: Path) -> str:
    """The text of a page with its tables written anew."""
    return PLACE.sub(lambda m: f"{m[1]}\n{written(m['file'])}\n{m[3]}", path.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    """The pages that have such tables."""
    return [path for path in sorted((ROOT / "docs").glob("*.md")) if PLACE.search(path.read_text(encoding="utf-8"))]


def main() -> None:
    for path in pages():
        path.write_text(page(path), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
