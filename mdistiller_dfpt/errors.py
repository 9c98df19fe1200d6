"""Errors that a user can cause: each message says in one line what is wrong and what to do; each has an exit code."""

import errno
import inspect
import mmap
import os
import re
import resource
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .regular_files import memory

T = TypeVar("T")
STACK = 8 * 2**20
"""Bytes of the stack of a thread, where no limit gives them."""
SIGPIPE = 141
"""The exit code of a process that this signal ends."""


class UserError(Exception):
    """Base of all errors caused by the input, not by this package."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, an override or a command line that is invalid."""


class DataError(UserError):
    """A dataset that is missing, damaged or not as the config describes it."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of a different network."""

    exit_code = 3


class DivergedError(UserError):
    """A loss or gradient that is not finite; nothing of that step was applied."""

    exit_code = 4


class ExportError(UserError):
    """An exported network that does not compute what its checkpoint does; nothing of it was kept."""

    exit_code = 1


class OutOfMemory(UserError):
    """The host or the device has too little memory."""

    exit_code = 1


OF_MEMORY = re.compile(
    "(out of|not enough|can(no|')t allocate) memory|bad_alloc|failed to map segment"
    "|could not create a primitive(?! desc)",  # oneDNN's
    re.IGNORECASE,
)
"""What libraries say in an error of a kind of their own, where they get no memory; the loader of libraries, too."""
OF_NO_ERROR = re.compile("without (setting an )?exception")
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA)  # of memory; without one, Linux ends a process instead


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that no memory could be allocated, and is not yet in the words of this package."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # Where no memory is left for the error itself, Python knows only that there was one
    if isinstance(error, SystemError) and OF_NO_ERROR.search(message_of(error)):
        return any(resource.getrlimit(one)[0] != resource.RLIM_INFINITY for one in LIMITS)
    # The text of these is of names and values, which can be any
    is_of_values = isinstance(error, UserError | ValueError | LookupError) or getattr(error, "errno", None) is not None
    return not is_of_values and OF_MEMORY.search(message_of(error)) is not None


class OutputError(UserError):
    """What a command prints cannot be written: the pipe was closed, as by `| head`, or the disk is full."""

    exit_code = 3

    def __init__(self, error: OSError):
        super().__init__(f"the output cannot be written ({error.strerror})")
        if isinstance(error, BrokenPipeError):
            self.exit_code = SIGPIPE


ASKED = re.compile(r"tried to allocate (\d+) bytes")


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those during whose handling it was raised, the last first."""
    while error is not None:
        yield error
        error = error.__context__


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The error behind this one which says that no memory could be allocated; None if there is none.

    Where a library fails for want of memory, it is often said that a file is damaged or a package missing. That a file
    claims to hold more than all memory is its own fault.
    """
    for one in behind(error):
        asked = ASKED.search(message_of(one))
        if is_out_of_memory(one) and (asked is None or int(asked[1]) <= memory()):
            return one
    return None


PASSING = {
    errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN,
    errno.ETIMEDOUT,
}  # fmt: skip
"""Of a system or disk that may do it at another time."""


def is_out_of_reach(error: BaseException | None) -> bool:
    """Whether behind an error a file could not be reached, which says nothing of what is in it."""
    return any(isinstance(one, OSError) and one.errno in PASSING for one in behind(error))


NO_THREAD = "can't start new thread"
"""Python's words, without a number, where the system has too many threads, and where it has no memory for one more."""


def is_room_for_threads() -> bool:
    """Whether memory is not why a thread cannot be started: as much as the stacks of two can be mapped."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    try:
        mmap.mmap(-1, 2 * (STACK if stack == resource.RLIM_INFINITY else stack)).close()
    except (OSError, OverflowError):
        return False
    return True


def kind_of(why: str) -> type[UserError]:
    """The kind of the error that a process lacks something, by the reason in the words of the system or of Python."""
    return OutOfMemory if why == NO_THREAD and not is_room_for_threads() else DataError


OF_USERS_FILE = "an error in this file, not in mdistiller_dfpt"


class PluginError(UserError):
    """An error in a user's class or function: names it, its file and line, and the error."""

    def __init__(self, where: Any, what: str):
        super().__init__(f"{place_of(where)}: {getattr(where, '__name__', type(where).__name__)}: {what}")


COLOURS = re.compile("\x1b\\[[0-9;]*m")
"""What a terminal takes for a colour."""


def message_of(error: BaseException) -> str:
    """An exception's message without colours; empty if its class, which may be the user's, fails to say one."""
    try:
        return COLOURS.sub("", str(error))
    except Exception:
        return ""


def in_short(error: BaseException, most: int = 500) -> str:
    """An exception's message, in one line; a long one ends after a whole word."""
    text = " ".join(message_of(error).split())
    return text if len(text) <= most else f"{text[:most].rpartition(' ')[0] or text[:most]} ..."


def kind_and_message(error: BaseException) -> str:
    """`KeyError: 'name'`, in one line; the kind alone of an exception without a message, such as an `assert`."""
    return f"{type(error).__name__}: {in_short(error)}".removesuffix(": ")


def reason(error: BaseException) -> str:
    """Why something ended, in one line."""
    return (str(error).splitlines() or [""])[0] if isinstance(error, UserError) else kind_and_message(error)


def place_of(written: Any) -> str:
    """`file:line` where a class or function is defined; its module if there is no file."""
    try:
        return f"{inspect.getsourcefile(written)}:{inspect.getsourcelines(written)[1]}"
    except (OSError, TypeError):
        return str(getattr(written, "__module__", type(written).__module__))


def is_users(written: Any) -> bool:
    """Whether a class or function is written in a file of the user's."""
    try:
        return users_line_in(inspect.getsourcefile(written) or "")
    except TypeError:  # it has no file
        return False


def made(cls: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """An instance of the class; PluginError if its constructor does not accept these keywords."""
    try:
        return cls(*arguments, **keywords)
    except TypeError as e:
        if e.__traceback__ is not None and e.__traceback__.tb_next is None:  # raised by the call itself
            raise PluginError(cls, f"its constructor and the keys of its config section do not match ({e})") from None
        raise


USER_FILES: set[str] = set()
"""Files and folders of user code named in a config: errors in these files are not errors of this package."""


def users_line(error: BaseException) -> tuple[str, int] | None:
    """(file, line) of the innermost frame of user code in a traceback; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if users_line_in(frame.filename):
            return frame.filename, frame.lineno or 0
    return None


def is_accident(error: BaseException) -> bool:
    """Whether an error in user code is not raised by it, or by this package for it, to say what is wrong."""
    if users_line(error) is None:
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = last.filename.startswith(os.path.dirname(__file__) + os.sep)
    return not (last.line or "").startswith("raise") or not (ours or users_line_in(last.filename))


def users_line_in(file: str) -> bool:
    """Whether a file is user code."""
    return any(file == place or file.startswith(place + os.sep) for place in USER_FILES)
