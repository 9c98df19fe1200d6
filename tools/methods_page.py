"""Writes the index of papers and the table of docs/methods.md: python tools/methods_page.py.

The facts of a method are in its own files: the docstring of its module (its name in the field, what is matched, authors
and year; after `Paper:` the title; after `Formula:` its loss; after `Code:` the code that it was compared with; after
`Differs:` what is unlike that code), the head of its base.yaml below configs/cifar100 (weights and recipe),
results/official_losses.json (the measured differences), the published values of configs/tables, and the results of
configs/tables/study.yaml.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mdistiller_dfpt.config.yaml_reader import read_yaml
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.table import spread
from mdistiller_dfpt.teachers import TEACHERS

ROOT = Path(__file__).parents[1]
PAGE, CONFIGS = ROOT / "docs/methods.md", ROOT / "configs"
RECORD = ROOT / "results/official_losses.json"
PAIRS = ("res32x4_res8x4", "res32x4_shuv2")
PAIR = PAIRS[0]  # of the index, as an example
START, END = "<!-- {} written by tools/methods_page.py -->\n", "<!-- end -->\n"
INDEX_HEAD = ("name", "paper", "authors", "`python tools/train.py --cfg`")
HEAD = (
    "`DISTILLER.TYPE`", "what is matched", "compared with", "equal to", "differs", "configs/cifar100",
    "published, to ResNet8x4 / ShuffleV2", "ours, study below",
)  # fmt: skip


def fields(source: Path) -> dict[str, str]:
    """The first paragraph of a module's docstring, `Name: What (Authors).`, those of `Paper`, ..., and its `Notes`."""
    docstring = re.match(r'r?"""(.*?)"""', source.read_text(encoding="utf-8"), re.S)
    assert docstring, f"{source} has no docstring"
    first, *more = (" ".join(paragraph.split()) for paragraph in docstring[1].split("\n\n"))
    name, _, what = first.partition(": ")
    authors = re.search(r"\(([^()]+)\)\.$", what)
    found = {"Name": name, "What": what, "Authors": authors[1] if authors else ""}
    for paragraph in more:
        key, colon, text = paragraph.partition(": ")
        if colon and key in ("Paper", "Formula", "Code", "Differs"):
            found[key] = text.rstrip(".")
        else:
            found["Notes"] = f"{found['Notes']}\n\n{paragraph}" if "Notes" in found else paragraph
    return found


def sources() -> dict[str, Path]:
    """{name: file} of methods with a teacher, others and kinds of teacher that name a code, trainers with a record."""
    methods = {name: cls for name, cls in DISTILLERS.items() if cls.needs_teacher or "Code" in fields(_file_of(cls))}
    kinds = {name: cls for name, cls in TEACHERS.items() if "Code" in fields(_file_of(cls))}
    found = {name: _file_of(cls) for name, cls in [*sorted(methods.items()), *sorted(kinds.items())]}
    trainers = [name for name in recorded() if name not in {**DISTILLERS, **TEACHERS}]
    return {**found, **{name: ROOT / f"mdistiller_dfpt/training/{name}.py" for name in trainers}}


def papers() -> dict[Path, list[str]]:
    """{file of a paper: the methods, kinds of teacher or trainers in it}; each paper once."""
    found: dict[Path, list[str]] = {}
    others = {name: _file_of(cls) for name, cls in [*DISTILLERS.items(), *TEACHERS.items()]}
    for name, source in {**sources(), **others}.items():
        if not fields(source).get("Paper", "none").startswith(("none", "that of ")):
            found.setdefault(source, []).append(name)
    return found


def _file_of(cls: type) -> Path:
    return Path(sys.modules[cls.__module__].__file__ or "")


def title_of(name: str) -> str:
    """The key and value of the config that select a method, a kind of teacher or a trainer; DISTILLER.TYPE alone."""
    key = "" if name in DISTILLERS else "DISTILLER.TEACHER_KIND " if name in TEACHERS else "SOLVER.TRAINER "
    return f"`{key}{name}`"


def recorded() -> dict[str, Any]:
    """{method: entries, difference, not_met}."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def folders() -> dict[str, list[str]]:
    """{method, kind of teacher or trainer: its folders of configs/cifar100}, less those of several methods."""
    found: dict[str, list[str]] = {}
    for base in sorted(CONFIGS.glob("cifar100/*/base.yaml")):
        values = read_yaml(base)[0]
        kind = values.get("DISTILLER", {}).get("TEACHER_KIND")
        trainer = values.get("SOLVER", {}).get("TRAINER")
        # A trainer that belongs to a method has no row, and no values, of its own
        method = (trainer if trainer in recorded() else None) or kind or _type_of(values, base)
        if isinstance(method, str):
            found.setdefault(method, []).append(base.parent.name)
    return found


def _type_of(values: Mapping[str, Any], file: Path) -> Any:
    if "TYPE" in values.get("DISTILLER", {}):
        return values["DISTILLER"]["TYPE"]
    bases = values.get("_BASE_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        if found := _type_of(read_yaml(file.parent / base)[0], file.parent / base):
            return found
    return None


def head_of(file: Path) -> str:
    """The comment at the head of a yaml file, on one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:count])


def equal_to(name: str, code: str) -> str:
    """The measured difference, and the values that are not met."""
    own = recorded().get(name)
    if own is None:
        return "**not confirmed**: no code" if code.startswith("none") else "no value recorded"
    number = f"{own['difference']:.0e} ({len(own['entries'])})"
    return "; ".join([number, *(f"not met: {entry}, {reason}" for entry, reason in own["not_met"].items())])


def published(folder: str) -> str:
    """The published values of two pairs, with the keys of their sources."""
    values = []
    for pair in PAIRS:
        for table in ("same_family", "different_families"):
            rows = yaml.safe_load((CONFIGS / f"tables/cifar100_{table}.yaml").read_text(encoding="utf-8"))["rows"]
            if entry := rows.get(folder, {}).get("published", {}).get(pair):
                values.append(f"{entry[0]:.2f} ({entry[1]})")
                break
        else:
            values.append("-")
    return " / ".join(values) if set(values) != {"-"} else "-"


def ours(folder: str) -> str:
    """Mean and spread of the method's runs in the study with the authors' weights."""
    for kind in ("official", "standard"):
        place = ROOT / "results/study" / folder / kind
        if place.is_dir():
            return spread([result.data["final"]["top1"]["last"] for result in load_results(place, deep=False)])
    return "-"


def commands(name: str, folders: Sequence[str]) -> list[str]:
    """Values of --cfg that run a method: of its folders those named after it, if any; without one, its key and value.

    A teacher that is fine-tuned in a run of its own is the teacher of the run in the folder without `_teacher`.
    """
    own = [folder for folder in folders if folder.startswith(name.lower())] or folders
    return [f"`cifar100/{folder.removesuffix('_teacher')}/{PAIR}`" for folder in own] or [title_of(name)]


def index() -> str:
    """The papers in the order of the names that the field uses, in Markdown."""
    own_folders = folders()
    rows = []
    for source, names in papers().items():
        facts = fields(source)
        runs = dict.fromkeys(run for name in names for run in commands(name, own_folders.get(name, [])))
        rows.append((facts["Name"], facts["Paper"], facts["Authors"], "<br>".join(runs)))
    rows.sort(key=lambda row: row[0].casefold())
    return _markdown([INDEX_HEAD, ("---",) * len(INDEX_HEAD), *rows])


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def table() -> str:
    """The table, in Markdown."""
    own_folders = folders()
    rows = [HEAD, ("---",) * len(HEAD)]
    for name, source in sources().items():
        facts, own = fields(source), own_folders.get(name, [])
        first = own[0] if own else ""
        recipe = "<br>".join(f"`{folder}`: {head_of(CONFIGS / 'cifar100' / folder / 'base.yaml')}" for folder in own)
        rows.append((
            title_of(name), facts["What"].rstrip("."), facts.get("Code", "-"), equal_to(name, facts.get("Code", "")),
            facts.get("Differs", ""), recipe, published(first), ours(first),
        ))  # fmt: skip
    return _markdown(rows)


def page() -> str:
    """The page with a new index and a new table."""
    text = PAGE.read_text(encoding="utf-8")
    for what, block in (("index", index()), ("table", table())):
        start = START.format(what)
        before, found, rest = text.partition(start)
        _, end, after = rest.partition(END)
        if not (found and end):
            raise SystemExit(f"{PAGE} has no place for the {what}: add the lines {start.strip()} and {END.strip()}")
        text = f"{before}{start}\n{block}\n{END}{after}"
    return text


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
