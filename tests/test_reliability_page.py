"""docs/reliability.md: every test that it names exists, and is counted as often as pytest runs it."""

import pytest

from tools import reliability_page

IDS = ["a.py::test_x[KD-a_law]", "a.py::test_x[KD-a_law_too]", "b.py::test_x[DKD-a_law]", "b.py::test_xy"]


def test_the_page_is_up_to_date():
    assert reliability_page.PAGE.read_text() == reliability_page.page(), "run `python tools/reliability_page.py`"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("`test_x`", 3), ("`test_xy`", 1), ("`test_x`, `test_xy`", 4), ("`test_x` (`a_law`)", 2),
     ("`test_x` (`a_law`, `a_law_too`), `test_xy`", 4)],
)  # fmt: skip
def test_a_cell_counts_the_tests_that_it_names(cell, expected):
    text = "| fault | cases | lost | test |\n|---|---|---|---|\n| a \\| b | {} | nothing | {} |\n"
    assert reliability_page.counted(text.format("x", cell), IDS) == text.format(expected, cell)


@pytest.mark.parametrize("cell", ["`test_gone`", "`test_x` (`no_law`)"])
def test_a_name_of_no_test_is_refused(cell):
    with pytest.raises(SystemExit, match="there is no such test"):
        reliability_page.cases(cell, IDS)


def test_other_tables_are_left_as_they_are():
    text = "| a | b | c |\n|---|---|---|\n| 1 | 2 | `test_x` |\n"
    assert reliability_page.counted(text, IDS) == text
