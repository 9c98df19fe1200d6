"""The errors a user can cause; each says in one line what is wrong and what to do, and carries its exit code."""

import inspect


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
    """A fault in a class of the user's: names the class, its file and line, and what it did."""

    def __init__(self, where: type, what: str):
        super().__init__(f"{place_of(where)}: {where.__name__}: {what}")


def place_of(cls: type) -> str:
    """`file:line` where a class is written; its module where there is no file."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__module__
