"""docs/keys.md: every key of the config, with the default, limit and meaning that the code gives it."""

import re

from mdistiller_dfpt.config.keys import KEYS
from mdistiller_dfpt.distillers import DISTILLERS
from tools import keys_page


def test_the_page_is_up_to_date():
    assert keys_page.PAGE.read_text() == keys_page.page(), "run `python tools/keys_page.py`"


def test_every_key_has_one_row():
    rows = re.findall(r"^\| `(\S+)` \| ", keys_page.page(), flags=re.M)
    assert sorted(rows) == sorted(KEYS)


def test_every_key_of_the_common_sections_has_a_meaning():
    sections = keys_page.sections()
    assert [full for full, key in KEYS.items() if full.partition(".")[0] not in sections and not key.meaning] == []


def test_a_meaning_is_the_comment_of_a_single_key():
    source = """
class X:
    config = CN(
        {
            "A": 1,  # behind
            # above,
            # in two lines
            "B": CN({"C": [1, 2]}),
            "D": 1, "E": 2,  # of two keys
            **Y.config,
            "F": 3,
        }
    )
    other = {"G": 1}  # of no section
"""
    assert keys_page.comments_in(source) == {"A": "behind", "B.C": "above, in two lines"}
    assert keys_page.parts_of(source) == ["Y"]


def test_a_section_that_holds_another_has_its_meanings_too():
    meanings = keys_page.comments(DISTILLERS["DFPTKD"])
    assert meanings["PROMPT.R1"] == "the block's inner width is C / R1"
