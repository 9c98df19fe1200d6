"""The errors a user can cause; each says in one line what is wrong and what to do, and carries its exit code."""


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
