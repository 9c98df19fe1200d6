"""Shared by all commands: user errors are printed as one line with an exit code, without a traceback."""

import argparse
import contextlib
import inspect
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from ..errors import (
    OF_USERS_FILE,
    SIGPIPE,
    USER_FILES,
    ConfigError,
    OutOfMemory,
    OutputError,
    PluginError,
    UserError,
    is_users,
    kind_and_message,
    users_line,
    users_line_in,
)
from ..escape import Printable, one_name
from ..handlers import leave_with, noted_interrupts
from ..invocation import command_line
from ..open_files import allow_open_files
from ..trusted_files import trust_all, trust_as_before
from .machine_faults import fault_of_the_machine, in_words, out_of_memory

PACKAGE = str(Path(__file__).parents[1])
RESERVE = 32 << 20  # bytes of address space, for the words of an error where memory is short; never touched
MOST_SHOWN = 4000  # characters of a line: names and values in it are others', and can be of any length
TRAINING = str(Path(PACKAGE, "training"))
CHECK_RETURNS = (
    "check what its methods take and return (docs/extend.md; mdistiller_dfpt.testing checks it); if that is right,"
    " please report the lines above"
)


def _process() -> str:
    """The rank of this process in a torchrun job; empty for a single process."""
    return f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""


def _fault_of_the_users(error: BaseException, file: str, line: int) -> int:
    """Print an exception raised by user code, with only the frames in that code, and return the exit code."""
    for frame in traceback.extract_tb(error.__traceback__):
        if users_line_in(frame.filename):
            print(f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}", file=sys.stderr)
    what = f"{file}:{line}: {kind_and_message(error)}"
    # Method files of mdistiller's forks may use what the fork's own networks take and return
    of_networks = any(name in what for name in ("StagedModel", "LazyFeatures"))
    advice = "; it uses what the networks of this package do not have, as those of its fork may" if of_networks else ""
    whose = OF_USERS_FILE
    if isinstance(error, FileNotFoundError):
        whose = f"this file opens it; a relative path starts at the working directory, {Path.cwd()}"
    print(f"{_process()}error: {what} ({whose}{advice})", file=sys.stderr)
    return UserError.exit_code


def _users_class(error: Exception) -> Any:
    """The user's class or function that the innermost line of this package was given or ran; None if there is none."""
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename.startswith(PACKAGE)]
    for value in frames[-1].f_locals.values() if frames else ():
        written = value if isinstance(value, type) or inspect.isfunction(value) else type(value)
        if is_users(written):
            return written
    return None


def _ended_a_run(error: BaseException) -> bool:
    """Whether an exception was raised in the training of a run; a benchmark trains without one."""
    return any(f.filename.startswith(TRAINING) and f.name == "fit" for f in traceback.extract_tb(error.__traceback__))


def _lines_of(error: UserError, argv: Sequence[str]) -> list[str]:
    """The lines of a message: a word of the command that has line ends is no further line."""
    message = str(error)
    for word in argv:
        if word.splitlines() not in ([], [word]):
            message = message.replace(word, one_name(word))
    return message.splitlines()


def _say_interrupted(error: BaseException, number: int) -> int:
    how = "continue the run with --resume auto" if _ended_a_run(error) else "repeat the same command to go on"
    print(f"{_process()}interrupted; {how}", file=sys.stderr)
    return 128 + number


def _say_fault(fault: UserError, error: Exception) -> int:
    """Say an error that the machine caused, and return the exit code."""
    after = "; continue the run with --resume auto" if _ended_a_run(error) else ""
    print(f"{_process()}error: {fault}{after}", file=sys.stderr)
    if isinstance(fault, OutOfMemory):
        leave_with(fault.exit_code)
    return fault.exit_code


def _whose_bug() -> str:
    """Who is to look at an exception that passed no line of the user's; what a user's class returned may cause it."""
    if not USER_FILES:
        return "this is a bug in mdistiller_dfpt; please report the lines above"
    return f"raised in mdistiller_dfpt, while it ran code of {', '.join(sorted(USER_FILES))}: {CHECK_RETURNS}"


class _Trust(argparse.Action):
    """Lets the files of this command name code, also in the processes that it starts."""

    def __call__(self, *args: object) -> None:
        trust_all()


class Parser(argparse.ArgumentParser):
    """Reports a usage error as one line with exit code 2; a description keeps its line breaks."""

    def __init__(self, command: str, description: str | None, *, reads_configs: bool = True):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=command_line(command), description=description, formatter_class=layout)
        if reads_configs:
            self.add_argument("--trust", action=_Trust, nargs=0, help="run the code that files name, such as PLUGINS")

    def parse_intermixed_args(self, *args: Any, **more: Any) -> Any:
        """As of the base class; settings that are given twice are said."""
        found = super().parse_intermixed_args(*args, **more)
        say_repeated(getattr(found, "opts", []))
        return found

    def error(self, message: str) -> NoReturn:
        takes_settings = any(action.dest == "opts" for action in self._actions)
        hint = "settings are pairs KEY VALUE, such as SOLVER.EPOCHS 2; " if takes_settings else ""
        hint = hint if "unrecognized" in message else ""
        raise ConfigError(f"{message}; {hint}see {self.prog} --help")


def say_repeated(words: Sequence[str]) -> None:
    """One line for each key of [..., KEY, VALUE, ...] that is given several values: the last one holds."""
    given: dict[str, list[str]] = {}
    pairs = words[len(words) % 2 :]  # the first word may be what the settings are for
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if len(set(values)) > 1 and os.environ.get("RANK", "0") == "0":
            print(f"note: {key} is given {' and '.join(values)}: {values[-1]} holds", flush=True)


def check_output(option: str, path: Path | None) -> None:
    """ConfigError unless a file can be written to a path that an option names; None is fine."""
    if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        what = "is a folder" if path.is_dir() else f"{path.parent} is no folder that can be written to"
        raise ConfigError(f"{option} {path}: {what}")


def prepare_process() -> None:
    """Before a command is imported: streams that are closed exist again, and as many files can be open as are allowed.

    ConfigError if there is no working directory, or if too few files are allowed. A file that is opened later would
    take the place of a closed stream, and get what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    try:
        os.getcwd()
    except OSError as e:
        raise ConfigError(f"the working directory cannot be used ({e.strerror}): change to another one") from None
    allow_open_files()


def guarded(main: Callable[[list[str]], None], argv: list[str] | None) -> int:
    """Run a command and return its exit code: 0 success, 1 a bug in this package, or the exit code of the error."""
    # Names of files and classes are the text of others, and a terminal obeys some characters
    out, err = cast(TextIO, Printable(sys.stdout)), cast(TextIO, Printable(sys.stderr, is_needed=False))
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with redirected[0], redirected[1], trust_as_before(), noted_interrupts() as interrupted_by:
        with contextlib.suppress(MemoryError):
            return _guarded(main, argv, interrupted_by)
        # It ended while an error was put in words; what that error held is free by now
        fault = in_words(MemoryError())
        print(f"{_process()}error: {fault}", file=sys.stderr)
        code = 128 + number if (number := interrupted_by()) else fault.exit_code
        leave_with(code)
        return code


def _guarded(main: Callable[[list[str]], None], argv: list[str] | None, interrupted_by: Callable[[], int]) -> int:
    try:
        # Given back before an error is put in words
        with mmap.mmap(-1, RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
            main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # a pipe that was closed shows here, not when the interpreter ends
        return 0
    except SystemExit as e:
        if (place := users_line(e)) is not None:  # nothing was finished, whatever the code
            return _fault_of_the_users(e, *place)
        last = traceback.extract_tb(e.__traceback__)[-1]
        if last.filename != argparse.__file__:
            print(f"{_process()}error: {last.filename}:{last.lineno} ended the program ({e.code})", file=sys.stderr)
            return UserError.exit_code
        # --help, or a usage error that was already printed
        return e.code if isinstance(e.code, int) else 2
    except OutputError as e:
        with contextlib.suppress(OSError):  # what is left of the output is not written when the interpreter ends either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if _ended_a_run(e):
            print(f"{_process()}error: {e}; continue the run with --resume auto", file=sys.stderr)
        elif e.exit_code != SIGPIPE:
            print(f"{_process()}error: {e}", file=sys.stderr)
        return e.exit_code
    except UserError as e:
        # A stop by a signal is one, also where memory was short before
        if not isinstance(e, OutOfMemory) and e.exit_code < 128 and (lack := out_of_memory(e)) is not None:
            return _say_fault(lack, e)
        for line in _lines_of(e, sys.argv[1:] if argv is None else argv):
            print(f"{_process()}error: {line[:MOST_SHOWN]}", file=sys.stderr)
        if isinstance(e, OutOfMemory):
            leave_with(e.exit_code)
        return e.exit_code
    except KeyboardInterrupt as e:
        return _say_interrupted(e, interrupted_by() or signal.SIGINT)
    except Exception as e:
        if number := interrupted_by():
            return _say_interrupted(e, number)
        if (place := users_line(e)) is not None:
            return _fault_of_the_users(e, *place)
        if (fault := fault_of_the_machine(e)) is not None:
            return _say_fault(fault, e)
        traceback.print_exc()
        if (written := _users_class(e)) is not None:
            what = f"mdistiller_dfpt raised {kind_and_message(e)}, where it ran this; {CHECK_RETURNS}"
            print(f"{_process()}error: {PluginError(written, what)}", file=sys.stderr)
            return PluginError.exit_code
        print(f"{_process()}error: {_whose_bug()}", file=sys.stderr)
        return 1
