"""Messages of exceptions of others, in words of a user's."""

import pytest

from mdistiller_dfpt.errors import in_short, kind_and_message, reason


class Broken(Exception):
    def __str__(self):
        raise ValueError("no message")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError(101), "KeyError: 101"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\x1b[31mred\x1b[0m text\n  second line\n"), "RuntimeError: red text second line"),
        (Broken(), "Broken"),
        (OSError("word " * 300), "OSError: " + "word " * 100 + "..."),
    ],
)
def test_an_exception_is_said_by_its_kind_and_its_message_in_one_line(error, words):
    assert kind_and_message(error) == reason(error) == words


def test_a_long_message_ends_after_a_whole_word_if_it_has_any():
    assert in_short(ValueError("images of 224x224"), 13) == "images of ..."
    assert in_short(ValueError("x" * 20), 10) == "x" * 10 + " ..."
