"""docs/methods.md: its table is what the methods' files, the measured differences and the results say."""

import pytest

from mdistiller_dfpt.distillers import DISTILLERS
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
