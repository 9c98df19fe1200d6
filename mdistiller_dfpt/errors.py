"""The errors a user can cause; each says in one line what is wrong and what to do, and carries its exit code."""

import inspect
import os
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Base of all errors that are the input's fault, not ours."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, an override or a command line that cannot be run."""


class DataError(UserError):
    """A data set that is missing, damaged or not what the config says."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another network."""

    exit_code = 3


class DivergedError(UserError):
    """A loss or gradient that is not finite; nothing of that step was applied."""

    exit_code = 4


class PluginError(UserError):
    """A fault in a class or function of the user's: names it, its file and line, and what it did."""

    def __init__(self, where: Any, what: str):
        super().__init__(f"{place_of(where)}: {where.__name__}: {what}")


def place_of(written: Any) -> str:
    """`file:line` where a class or function is written; its module where there is no file."""
    try:
        return f"{inspect.getsourcefile(written)}:{inspect.getsourcelines(written)[1]}"
    except (OSError, TypeError):
        return str(written.__module__)


def is_users(written: Any) -> bool:
    """Whether a class or function is written in a file of the user's."""
    try:
        return users_line_in(inspect.getsourcefile(written) or "")
    except TypeError:  # it has no file
        return False


def made(cls: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """What a class's constructor makes; PluginError where it does not take these keywords."""
    try:
        return cls(*arguments, **keywords)
    except TypeError as e:
        if e.__traceback__ is not None and e.__traceback__.tb_next is None:  # raised by the call itself
            raise PluginError(cls, f"its constructor and the keys of its node do not fit together ({e})") from None
        raise


USER_FILES: set[str] = set()
"""Files and folders of user code that a config named: a fault in one of them is not a fault of this package."""


def users_line(error: BaseException) -> tuple[str, int] | None:
    """(file, line) of the user's code that an exception passed last; None where it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if users_line_in(frame.filename):
            return frame.filename, frame.lineno or 0
    return None


def users_line_in(file: str) -> bool:
    """Whether a file is the user's."""
    return any(file == place or file.startswith(place + os.sep) for place in USER_FILES)
