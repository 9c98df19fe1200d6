"""docs/methods.md: index and table are what the methods' files, the measured differences and the results say."""

import sys
from pathlib import Path

import pytest

from mdistiller_dfpt.config.compose import CONFIGS, composed_runs
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.teachers import TEACHERS
from tools import methods_page

SOURCES = methods_page.sources()


def test_the_page_is_up_to_date():
    assert methods_page.PAGE.read_text() == methods_page.page(), "run `python tools/methods_page.py`"


def test_every_method_with_a_teacher_and_a_folder_is_in_it():
    assert {name for name, cls in DISTILLERS.items() if cls.needs_teacher} <= SOURCES.keys()
    assert {name for name in methods_page.folders() if name != "NONE"} == SOURCES.keys()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_methods_file_names_the_code_that_it_was_compared_with(name):
    code = methods_page.fields(SOURCES[name]).get("Code", "")
    assert code
    confirmed = name in methods_page.recorded()
    assert confirmed != (code.startswith("none") or "No value is recorded: " in code)
    assert methods_page.equal_to(name, code).startswith("**not confirmed**") == code.startswith("none")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_methods_file_gives_its_papers_title_and_authors(name):
    facts = methods_page.fields(SOURCES[name])
    assert facts.get("Paper"), "add a paragraph `Paper: Title.` to the docstring of the module"
    assert facts["Authors"]
    assert facts["Name"]


def test_every_method_and_kind_of_teacher_has_a_paper_and_a_formula_or_says_that_it_has_none():
    for name, cls in [*DISTILLERS.items(), *TEACHERS.items()]:
        if cls.__module__.startswith("mdistiller_dfpt."):  # a plugin's file need not have them
            facts = methods_page.fields(Path(sys.modules[cls.__module__].__file__))
            assert facts.get("Paper"), f"{name}: add `Paper: Title.`, `Paper: that of NAME.` or `Paper: none.`"
            formula = facts.get("Formula", "")
            assert "$$" in formula or formula.startswith("none of its own"), f"{name}: add `Formula: $$...$$`"
            assert formula.count("$") % 2 == 0


def test_every_run_of_the_index_exists():
    folders, runs = methods_page.folders(), {f"`{run}`" for run in composed_runs(CONFIGS, "cifar100")}
    found = {r for name in SOURCES for r in methods_page.commands(name, folders[name])}
    assert len(found) >= len(set(SOURCES.values()))
    assert found <= runs


@pytest.mark.parametrize(
    ("name", "folders", "expected"),
    [
        ("KD", ["aid", "kd"], ["`cifar100/kd/res32x4_res8x4`"]),
        ("AID", ["aid_teacher"], ["`cifar100/aid/res32x4_res8x4`"]),
        ("noisy", ["tekap", "tekap_crd"], ["`cifar100/tekap/res32x4_res8x4`", "`cifar100/tekap_crd/res32x4_res8x4`"]),
        ("ensemble", [], ["`DISTILLER.TEACHER_KIND ensemble`"]),
    ],
)
def test_the_runs_of_a_paper_are_those_named_after_it_else_all_of_its_method(name, folders, expected):
    assert methods_page.commands(name, folders) == expected
