"""A page of each method, kind of teacher and trainer, from its docstrings, config section, configs and results."""

import functools
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.table import spread
from mdistiller_dfpt.teachers import TEACHERS

from .. import keys_page, methods_page
from .formulas import MATH, with_formulas

ROOT = methods_page.ROOT
PUBLISHED = ("cifar100_same_family", "cifar100_different_families")
MEASURED = {
    "study": ("CIFAR-100, ten epochs", "methods.md#a-small-study"),
    "cub10": ("ten classes of CUB-200", "data_and_networks.md#ten-classes-of-cub-200-on-two-cores"),
}
"""The tables whose runs are in results/: their data, and where their setup is described."""
PLAIN = {"<": "&lt;", "*": "&#42;", "[": "&#91;"}


class Subject(NamedTuple):
    """What a page is about."""

    name: str  # in its registry
    folder: str  # of the page: methods or teachers
    source: Path
    cls: Any  # its class; None for a trainer

    @property
    def page(self) -> str:
        """The page's file, relative to the folder of all pages."""
        return f"{self.folder}/{self.name.lower()}.md"

    @property
    def title(self) -> str:
        """The name in the field; of a kind of teacher, and of one method of several in a file, the registered one."""
        alone = sum(other.source == self.source for other in subjects()) == 1
        known = methods_page.fields(self.source)["Name"]
        return known if alone and self.folder == "methods" else self.name


@functools.cache
def subjects() -> list[Subject]:
    """All methods, trainers with a record of their own, and kinds of teacher, in the order of the navigation."""
    found = [Subject(name, "methods", _file(cls), cls) for name, cls in DISTILLERS.items() if _is_own(cls)]
    known = {*DISTILLERS, *TEACHERS}
    found += [
        Subject(name, "methods", file, None) for name, file in methods_page.sources().items() if name not in known
    ]
    kinds = [Subject(name, "teachers", _file(cls), cls) for name, cls in TEACHERS.items() if _is_own(cls)]
    return [*sorted(found, key=lambda s: s.name.casefold()), *sorted(kinds, key=lambda s: s.name)]


# Each reads many files, which do not change while the pages are written
folders = functools.cache(methods_page.folders)
recorded = functools.cache(methods_page.recorded)


def _is_own(cls: type) -> bool:
    """Whether a registered class is of this package, and not of a plugin."""
    return cls.__module__.startswith("mdistiller_dfpt.")


def _file(cls: type) -> Path:
    return Path(sys.modules[cls.__module__].__file__ or "")


def plain(text: str) -> str:
    """A text of a docstring as Markdown: its formulas and code stay, and nothing else in it is markup."""
    pieces, end = [], 0
    for m in MATH.finditer(text):
        pieces += [_escaped(text[end : m.start()]), m[0]]
        end = m.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return re.sub(r"[<*\[]", lambda m: PLAIN[m[0]], text)


def linked(text: str) -> str:
    """A text whose arXiv numbers and commits on GitHub are links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{5}(?:v\d)?)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"\b([\w.-]+/[\w.-]+) ([0-9a-f]{7})\b", r"[\1](https://github.com/\1/tree/\2) \2", text)


def page(subject: Subject) -> str:
    """The page in Markdown."""
    parts = [
        head(subject), plain(methods_page.fields(subject.source).get("Notes", "")), commands(subject), formula(subject),
        code(subject), keys(subject), recipe(subject), checked(subject), results(subject),
    ]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def head(subject: Subject) -> str:
    """Title, what it does, and the paper."""
    facts = methods_page.fields(subject.source)
    what = facts["What"] or facts["Name"]
    paper = facts["Paper"]
    if other := re.match(r"that of (\w+)|none; compare (\w+)", paper):
        which = "The paper is that of" if other[1] else "It has no paper of its own; compare"
        target = next(s for s in subjects() if s.name == (other[1] or other[2]))
        paper = f"{which} [{target.title}]({_to(subject, target.page)})."
    elif paper == "none":
        paper = "It has no paper."
    else:
        paper = f"*{plain(paper)}*"
        what = what.replace(f" ({facts['Authors']})", "")
        paper += f". {linked(facts['Authors'])}"
    what = linked(plain(what.rstrip(".")))
    return f"# {subject.title}\n\n{what[0].upper()}{what[1:]}.\n\n{paper}"


def _to(subject: Subject, page: str) -> str:
    """A link from the subject's page to another one."""
    return page.removeprefix(f"{subject.folder}/") if page.startswith(f"{subject.folder}/") else f"../{page}"


def commands(subject: Subject) -> str:
    """How it is run."""
    words = methods_page.commands(subject.name, folders().get(subject.name, []))
    runs = [word.strip("`") for word in words if word.startswith("`cifar100/")]
    lines = [f"mdistiller-dfpt train --cfg {run}" for run in runs]
    selected = methods_page.title_of(subject.name).strip("`")
    if subject.folder == "methods" and subject.cls:
        selected = f"DISTILLER.TYPE {subject.name}"
    text = f"`{selected}` selects it in any config." if subject.name != "NONE" else ""
    if runs_on_digits(subject):
        lines.append(
            f"mdistiller-dfpt train --cfg digits/kd/res20_res8 {selected} EXPERIMENT.TAG {subject.name.lower()}"
        )
    block = "```sh\n" + "\n".join(lines) + "\n```" if lines else ""
    return "\n\n".join(part for part in (block, text) if part)


def runs_on_digits(subject: Subject) -> bool:
    """Whether the digits and their config for KD are all that it needs."""
    cls = subject.cls
    if cls is None or subject.name in ("KD", "NONE", "frozen"):
        return False
    kind = cls if subject.folder == "teachers" else TEACHERS[getattr(cls, "teacher_kind", "") or "frozen"]
    return not (kind.others_key or getattr(cls, "starts_from_teacher", False) or getattr(cls, "needs_extra", False))


def formula(subject: Subject) -> str:
    """Its loss, and what the symbols mean."""
    text = methods_page.fields(subject.source)["Formula"]
    text = plain(f"{text[0].upper()}{text[1:]}" if text[0].isalpha() else text)
    return f"## Formula\n\n{with_formulas(_sentence(text))}\n\n[Symbols](../notation.md)"


def _sentence(text: str) -> str:
    return text if text.endswith(("$$", ".")) else f"{text}."


def code(subject: Subject) -> str:
    """The docstrings of its class and of its losses, and the file."""
    parts = ["## Code"]
    if subject.cls:
        parts.append(plain(inspect.getdoc(subject.cls) or ""))
    parts += [f"`{name}{signature}`\n:   {doc}" for name, signature, doc in _losses(subject)]
    where = subject.source.relative_to(ROOT).as_posix()
    source = "\n".join(f"    {line}".rstrip() for line in subject.source.read_text(encoding="utf-8").splitlines())
    parts.append(f'??? quote "{where}"\n\n    ```python\n{source}\n    ```')
    return "\n\n".join(parts)


def _losses(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """(name, arguments, docstring) of the losses that a file defines."""
    module = sys.modules.get(".".join(subject.source.relative_to(ROOT).with_suffix("").parts))
    for name, function in vars(module).items() if module else ():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and name.endswith("_loss"):
            arguments = ", ".join(inspect.signature(function).parameters)
            doc = plain(inspect.getdoc(function) or "").replace("\n\n", "\n\n    ")
            yield name, f"({arguments})", "\n    ".join(doc.splitlines()) if "\n\n" not in doc else doc


def keys(subject: Subject) -> str:
    """Its config section."""
    if subject.cls is None or not subject.cls.config:
        return ""
    registry = DISTILLERS if subject.folder == "methods" else TEACHERS
    table = keys_page.table(registry.node_of(subject.name), keys_page.comments(subject.cls))
    return f"## Keys\n\n{table.replace('<', '&lt;')}\n[All keys](../keys.md)"


def recipe(subject: Subject) -> str:
    """The base configs of its folders."""
    own = folders().get(subject.name, [])
    files = [methods_page.CONFIGS / "cifar100" / folder / "base.yaml" for folder in own]
    blocks = [
        f"`{file.relative_to(ROOT).as_posix()}`\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```"
        for file in files
    ]
    return "\n\n".join(["## Recipe on CIFAR-100", *blocks]) if blocks else ""


def checked(subject: Subject) -> str:
    """The code that it was compared with, and how far they agree."""
    facts = methods_page.fields(subject.source)
    if "Code" not in facts:
        return ""
    parts = ["## Checked against", linked(plain(facts["Code"])) + "."]
    own = recorded().get(subject.name)
    if own:
        parts.append(f"Largest relative difference of {len(own['entries'])} values of the loss and of the norms of its "
                     f"gradients, in float64: {own['difference']:.0e}.")  # fmt: skip
        parts += [f"Not met: `{entry}`, {plain(reason)}." for entry, reason in own["not_met"].items()]
    elif facts["Code"].startswith("none"):
        parts.append("**Not confirmed**: there is no code to compare with.")
    if facts.get("Differs"):
        parts.append(f"What differs: {plain(facts['Differs'])}.")
    return "\n\n".join(parts)


def results(subject: Subject) -> str:
    """Published values, and those of the runs below results/."""
    own = folders().get(subject.name, [])
    parts = [*_published(own), *_measured(own)]
    return "\n\n".join(["## Results", *parts]) if parts else ""


@functools.cache
def _table_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((methods_page.CONFIGS / f"tables/{name}.yaml").read_text(encoding="utf-8"))


def _rows(cells: list[tuple[str, ...]]) -> str:
    head, *rows = ("| " + " | ".join(row) + " |" for row in cells)
    return "\n".join([head, "|" + "---|" * len(cells[0]), *rows])


def _published(own: list[str]) -> Iterator[str]:
    for folder in own:
        cells = []
        for name in PUBLISHED:
            table = _table_file(name)
            values = table["rows"].get(folder, {}).get("published", {})
            for pair, (value, source) in values.items():
                cells.append((table["columns"][pair]["title"], f"{value:.2f}", plain(table["sources"][source])))
        if cells:
            table = _rows([("pair", "top-1", "source"), *cells])
            yield f"Published on CIFAR-100 (`{folder}`), as quoted in `configs/tables/`:\n\n{table}"


def _measured(own: list[str]) -> Iterator[str]:
    for name, (data, setup) in MEASURED.items():
        table, cells = _table_file(name), []
        for row in table["rows"].values():
            place = ROOT / "results" / Path(table["configs"]).name / row["config"]
            if row["config"].partition("/")[0] in own and place.is_dir():
                found = load_results(place, deep=False)
                seeds = ", ".join(str(result.data["protocol"]["seed"]) for result in found)
                cells.append((row["title"], seeds, spread([r.data["final"]["top1"]["last"] for r in found])))
        if cells:
            column, *_ = (column["title"] for column in table["columns"].values())
            shown = _rows([("run", "seeds", "top-1, last epoch"), *cells])
            yield f"Measured here on {data}, {column} ([setup and other methods](../{setup})):\n\n{shown}"


def write(folder: Path) -> None:
    """Write all pages below a folder."""
    for subject in subjects():
        target = folder / subject.page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(subject), encoding="utf-8")
