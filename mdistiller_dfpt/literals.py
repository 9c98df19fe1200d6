"""Values of Python in texts of others: read, never evaluated."""

import ast
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 10_000  # characters; Python's parser takes seconds and gigabytes for millions


def literal(text: str) -> Any:
    """The value of a literal; ValueError if the text is none."""
    return _read(text, ast.literal_eval)


def keywords_of(text: str) -> dict[str, Any]:
    """The values of `a=1, b=[2])`, what follows the bracket that opens a call; ValueError if it is something else."""

    def read(call_text: str) -> dict[str, Any]:
        call = ast.parse(f"f({call_text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("not one call of keywords alone")
        if any(word.arg is None for word in call.keywords):
            raise ValueError("not keywords alone")
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}

    return _read(text, read)


def _read(text: str, read: Callable[[str], T]) -> T:
    if len(text) > MOST:
        raise ValueError(f"a text of {len(text):,} characters")
    try:
        return read(text)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as e:  # the last two, of what is nested too deeply
        raise ValueError(str(e)) from None
