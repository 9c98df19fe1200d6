"""Collects the pages of the site, written by hand and generated, and its navigation."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import methods_page
from . import api, methods, notebook
from .formulas import with_formulas
from .links import relinked

ROOT = Path(__file__).parents[2]
DOCS, BUILD = ROOT / "docs", ROOT / "build"
AT_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
SHOWN = (0, 1, 3, 6, 7)  # columns of the table of docs/methods.md: the others are on the page of each method


def written() -> dict[Path, str]:
    """{file written by hand: its page}."""
    found = {file: file.with_suffix(".md").name for file in sorted(DOCS.glob("*")) if file.suffix in (".md", ".ipynb")}
    return {**found, **{ROOT / name: name.lower() for name in AT_ROOT}}


def all_pages() -> dict[Path, str]:
    """{file of the repository: the page that shows it}; that of several methods is shown by the first one's."""
    of_sources: dict[Path, str] = {}
    for subject in methods.subjects():
        of_sources.setdefault(subject.source, subject.page)
    return {**of_sources, **written()}


def settings() -> dict[str, Any]:
    """mkdocs.yml, in whose navigation FOLDER/* stands for the generated pages of a folder."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def navigation(items: list[Any]) -> list[Any]:
    """The navigation with all generated pages by their titles."""
    of_folders: dict[str, list[Any]] = {}
    for subject in methods.subjects():
        of_folders.setdefault(f"{subject.folder}/*", []).append({subject.title: subject.page})

    def expanded(value: Any) -> Any:
        if isinstance(value, list):
            return [expanded(item) for item in value]
        if isinstance(value, dict):
            return {title: expanded(item) for title, item in value.items()}
        return of_folders.get(value, value)

    return expanded(items)


def named(items: Any) -> Iterator[str]:
    """The pages in a navigation."""
    if isinstance(items, str):
        yield items
    else:
        for item in items.values() if isinstance(items, dict) else items:
            yield from named(item)


def faults(nav: list[Any]) -> list[str]:
    """Pages that are not in the navigation, and those that are in it and do not exist."""
    there = {*written().values(), *api.pages(), *(subject.page for subject in methods.subjects())}
    found = set(named(navigation(nav)))
    return [
        *(f"{page} is not in the navigation of mkdocs.yml" for page in sorted(there - found)),
        *(f"mkdocs.yml names {page}, and there is no such page" for page in sorted(found - there)),
    ]


def linked_tables(text: str) -> str:
    """docs/methods.md with a link to the page of each method and kind of teacher, and a narrower table."""
    known = {methods_page.title_of(s.name): s for s in methods.subjects()}
    by_name = {methods_page.fields(s.source)["Name"]: s for s in reversed(methods.subjects())}
    by_kind = {f"`{s.name}`": s for s in methods.subjects() if s.folder == "teachers"}
    lines = []
    table: Mapping[str, methods.Subject] = by_kind
    for line in text.splitlines():
        if "written by tools/methods_page.py -->" in line:
            table = by_name if "index" in line else known
        elif line == methods_page.END.strip():
            table = by_kind
        cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) if line.startswith("| ") else []
        if cells and cells[0] in table:
            cells[0] = f"[{cells[0]}]({table[cells[0]].page})"
        if cells:
            line = "| " + " | ".join(cells if table is not known else [cells[i] for i in SHOWN]) + " |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def write() -> Path:
    """Write all pages and the settings below build/; returns the file of the settings."""
    target = BUILD / "pages"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "tools/pages/assets", target / "assets")
    for picture in DOCS.glob("*.png"):
        shutil.copy(picture, target)
    pages = all_pages()
    for file, page in written().items():
        if file.suffix == ".ipynb":
            text = notebook.page(file, target / f"{file.stem}_files")
        else:
            text = with_formulas(file.read_text(encoding="utf-8"))
        text = relinked(text, file, page, pages)
        (target / page).write_text(linked_tables(text) if page == "methods.md" else text, encoding="utf-8")
    for page, text in api.pages().items():
        (target / page).parent.mkdir(exist_ok=True)
        (target / page).write_text(text, encoding="utf-8")
    methods.write(target)
    config = settings()
    config |= {"nav": navigation(config["nav"]), "docs_dir": "pages", "site_dir": "site"}
    file = BUILD / "mkdocs.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    return file
