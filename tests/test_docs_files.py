"""What the documentation names exists: linked files and headings, configs, commands and files of tables."""

import re
from pathlib import Path

import pytest

from mdistiller_dfpt.commands.main import COMMANDS
from mdistiller_dfpt.config.compose import find_config
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.teachers import TEACHERS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
GIVEN = ("FILE", "...", "mine/", "output/", "RLD/", "path/")  # of the reader


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", TEXTS[page], flags=re.S)
    found = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", TEXTS[page], flags=re.S)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]*))?\)", text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor and file in TEXTS:
            assert anchor in headings(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_tables_and_commands_exist(page):
    for name in re.findall(r"--cfg ([\w./]+)", TEXTS[page]):
        if not name.startswith(GIVEN) and name != "..." and "checkout" not in name.casefold():
            find_config(ROOT / name if (ROOT / name).is_file() else Path(name))
    for name in re.findall(r"--table ([\w./]+)", TEXTS[page]):
        assert name.startswith(GIVEN) or (ROOT / name).is_file(), name
    for name in re.findall(r"^(?:python )?tools/(\w+)\.py\b", TEXTS[page], flags=re.M):
        assert (ROOT / f"tools/{name}.py").is_file()
    for name in re.findall(r"^mdistiller-dfpt ([\w-]+)", TEXTS[page], flags=re.M):
        assert name in COMMANDS, name


def test_all_commands_are_named_and_every_one_is_in_tools():
    page = TEXTS[ROOT / "docs/train.md"]
    assert [name for name in COMMANDS if f"`{name}`" not in page] == []
    for name in COMMANDS:
        # Where processes are spawned, each runs the file that started the first
        text = (ROOT / f"tools/{name.replace('-', '_')}.py").read_text()
        assert f'if __name__ == "__main__":  # and not in a process that it starts\n    run("{name}")' in text


def test_no_page_has_marks_of_a_merge():
    assert [page.name for page, text in TEXTS.items() if re.search(r"^(<{7}|>{7}) ", text, flags=re.M)] == []


def test_the_readme_counts_methods_and_kinds_of_teacher():
    built_in = [
        [n for n, c in r.items() if c.__module__.startswith("mdistiller_dfpt.")] for r in (DISTILLERS, TEACHERS)
    ]
    counts = [len(built_in[0]) - 1, len(built_in[1])]  # NONE is no method of distillation
    assert re.findall(r"(\d+) methods, (\d+) kinds of teacher", TEXTS[ROOT / "README.md"]) == [tuple(map(str, counts))]
