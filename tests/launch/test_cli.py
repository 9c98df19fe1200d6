"""What the machine does to a command: closed or full streams, no working directory, a program that exits."""

import errno
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from mdistiller_dfpt.commands import train
from mdistiller_dfpt.errors import CheckpointError, ConfigError
from mdistiller_dfpt.launch.cli import Parser, guarded, prepare_process
from mdistiller_dfpt.open_files import allow_open_files

from ..forks import forked
from ..test_house import ROOT

PRINTS = "import sys; from mdistiller_dfpt.launch.cli import guarded; sys.exit(guarded(lambda argv: print('x'), []))"
WRITES = """
import os, sys
from mdistiller_dfpt.launch.cli import Parser, guarded, prepare_process
prepare_process()
with open("weights", "wb") as file:
    code = guarded(lambda argv: print("printed"), [])
    os.system("echo printed; echo printed >&2")
sys.exit(code)
"""
GONE = """
import os, sys
from mdistiller_dfpt.commands.main import main
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
sys.exit(main(["train", "--cfg", "digits/vanilla/res8"]))
"""


def process(code, folder, **streams):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, text=True, check=False,
        **{"stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


def test_output_to_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = process(PRINTS, tmp_path, stdout=full)
    assert (done.returncode, done.stderr) == (3, "error: the output cannot be written (No space left on device)\n")


def test_output_to_a_closed_pipe_ends_as_by_its_signal(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = process(PRINTS, tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_messages_that_cannot_be_written_change_no_exit_code(tmp_path):
    with open("/dev/full", "w") as full:
        assert process(PRINTS, tmp_path, stdout=full, stderr=full).returncode == 3


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(closed, tmp_path):
    done = process(WRITES, tmp_path, stderr=None, preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0
    assert (tmp_path / "weights").read_bytes() == b""


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    done = process(GONE, tmp_path)
    message = "error: the working directory cannot be used (No such file or directory): change to another one\n"
    assert (done.returncode, done.stderr) == (2, message)


EXITS = """
import sys

from mdistiller_dfpt import SCHEDULES


@SCHEDULES.register("exits")
def exits(progress, plan):
    if progress >= 1:
        sys.exit(0)
    return plan.lr
"""


def test_a_plugin_that_exits_has_not_succeeded(tmp_path, capsys, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exits.py").write_text(EXITS)
    words = ["PLUGINS", "[exits.py]", "SOLVER.SCHEDULE", "exits", "LOG.TENSORBOARD", "False", "LOG.PREFIX", "out"]
    assert train.main(["--cfg", "digits/vanilla/res8", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "exits.py:10: SystemExit: 0" in error
    assert not list(tmp_path.rglob("results.json"))


def raised(error):
    def command(argv):
        raise error

    return guarded(command, [])


def of_file(code):
    return OSError(code, os.strerror(code), "/data/a.txt")


MANY = "Too many open files: raise the number that `ulimit -n` prints, or lower DATASET.NUM_WORKERS"
NO_MORE = (
    "no further process or thread may be started: raise the number that `ulimit -u` prints, and that of `ulimit -v` if"
    " there is one, or start fewer processes"
)
NO_MEMORY = "end other processes, or raise the number that `ulimit -v` prints"
FAULTS = {
    "disk full": (of_file(errno.ENOSPC), 3, "/data/a.txt: No space left on device"),
    "over quota": (of_file(errno.EDQUOT), 3, "/data/a.txt: Disk quota exceeded"),
    "read-only": (of_file(errno.EROFS), 3, "/data/a.txt: Read-only file system"),
    "disk broken": (of_file(errno.EIO), 3, "/data/a.txt: Input/output error"),
    "server gone": (of_file(errno.ESTALE), 3, "/data/a.txt: Stale file handle"),
    "of another user": (of_file(errno.EACCES), 3, "/data/a.txt: Permission denied"),
    "no file named": (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
    "long name": (of_file(errno.ENAMETOOLONG), 2, "/data/a.txt: File name too long"),
    "links in a circle": (of_file(errno.ELOOP), 2, "/data/a.txt: Too many levels of symbolic links"),
    "files of this process": (of_file(errno.EMFILE), 3, MANY),
    "files of all": (OSError(errno.ENFILE, "Too many open files"), 3, MANY),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), 3,
                  f"Resource temporarily unavailable: {NO_MORE}"),
    "threads": (RuntimeError("can't start new thread"), 3, f"can't start new thread: {NO_MORE}"),
    "memory": (MemoryError(), 1, f"out of memory (no details): {NO_MEMORY}"),
    "memory of the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), 1,
                             f"out of memory ([Errno 12] Cannot allocate memory): {NO_MEMORY}"),
    "memory of C++": (RuntimeError("std::bad_alloc"), 1, f"out of memory (std::bad_alloc): {NO_MEMORY}"),
    "name in another encoding": (UnicodeEncodeError("utf-8", "one\na\udcffb\ntwo", 5, 6, "surrogates not allowed"), 2,
                                 r"a\udcffb: this name is not UTF-8: rename it"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_is_one_line_wherever_it_is_met(fault, capsys):
    error, code, message = FAULTS[fault]
    assert raised(error) == code
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(("room", "code"), [(2**20, 1), (2**30, 3)])
def test_a_thread_that_cannot_be_started_for_want_of_memory_is_told_from_too_many(room, code):
    def limited():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        return raised(RuntimeError("can't start new thread"))

    assert forked(limited) == (0, code)


ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes"


@pytest.mark.parametrize(("cause", "code", "message"), [
    (MemoryError(), 1, f"out of memory (no details): {NO_MEMORY}"),
    (ImportError("a.so: failed to map segment"), 1, f"out of memory (a.so: failed to map segment): {NO_MEMORY}"),
    (RuntimeError(ALLOCATOR.format(64)), 1, f"out of memory ({ALLOCATOR.format(64)}): {NO_MEMORY}"),
    (RuntimeError(ALLOCATOR.format(2**60)), 3, "a.pth: damaged"),  # more than any machine has: the file claims it
    (OSError(errno.ENOENT, "No such file", "out of memory.pth"), 3, "a.pth: damaged"),
    (KeyError("out of memory"), 3, "a.pth: damaged"),
], ids=["Python", "a library", "PyTorch", "a claim", "a name", "a value"])  # fmt: skip
def test_a_lack_of_memory_is_said_whatever_was_made_of_it(cause, code, message, capsys):
    def command(argv):
        try:
            try:
                raise cause
            except Exception:
                raise CheckpointError("a.pth: damaged") from None
        except CheckpointError as e:
            raise CheckpointError(str(e)) from None

    assert guarded(command, []) == code
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("limit", [None, 2**40], ids=["without a limit", "under one"])
def test_an_error_without_an_exception_is_a_lack_of_memory_where_memory_is_limited(limit, capfd):
    """So CPython says that it found no memory for the exception; without a limit, a library forgot to set one."""

    def lost():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return raised(SystemError("error return without exception set"))

    assert forked(lost) == (0, 1)
    error = capfd.readouterr().err
    if limit is None:
        assert error.startswith("Traceback")
        assert "out of memory" not in error
    else:
        assert error == f"error: out of memory (error return without exception set): {NO_MEMORY}\n"


@pytest.mark.parametrize("name", ["extract_tb", "print_exc"])
def test_no_memory_for_the_words_of_an_error_is_a_lack_of_memory(name, capsys, monkeypatch):
    def short(*args, **keywords):
        raise MemoryError

    monkeypatch.setattr(traceback, name, short)
    assert raised(KeyError("a")) == 1
    assert capsys.readouterr().err == f"error: out of memory (no details): {NO_MEMORY}\n"


def test_a_thread_that_cannot_start_is_said_whatever_became_of_it(capsys):
    """A pool of processes whose thread did not start fails to end, too."""

    def command(argv):
        try:
            raise RuntimeError("can't start new thread")
        finally:
            raise RuntimeError("cannot join thread before it is started")

    assert guarded(command, []) == 3
    assert capsys.readouterr().err == f"error: can't start new thread: {NO_MORE}\n"


def test_code_that_ends_the_program_has_not_succeeded(capsys):
    assert raised(SystemExit(0)) == 2
    assert capsys.readouterr().err.endswith(" ended the program (0)\n")


def test_as_many_files_as_allowed_can_be_open_and_too_few_are_said_before_any_work():
    def within(soft, hard, workers=0):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        try:
            prepare_process() if not workers else allow_open_files(workers)
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        except ConfigError as e:
            return str(e)

    assert forked(lambda: within(60, 200)) == (0, 200)
    assert forked(lambda: within(30, 30)) == (0, "this process may open 30 files and needs 48: raise `ulimit -n`")
    said = "this process may open 100 files and needs 112: raise `ulimit -n`, or lower DATASET.NUM_WORKERS"
    assert forked(lambda: within(100, 100, workers=8)) == (0, said)


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
@pytest.mark.parametrize("first", [[], ["run"]])
def test_a_setting_that_is_given_two_values_is_said_once(first, rank, said, capsys, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    parser = Parser("train", "")
    parser.add_argument("opts", nargs="*")
    words = ["SOLVER.EPOCHS", "3", "KD.TEMPERATURE", "4", "SOLVER.EPOCHS", "5", "KD.TEMPERATURE", "4"]
    assert parser.parse_intermixed_args([*first, *words]).opts == [*first, *words]
    assert capsys.readouterr().out == ("note: SOLVER.EPOCHS is given 3 and 5: 5 holds\n" if said else "")


def test_a_word_of_the_command_with_line_ends_is_no_further_line_of_an_error(capsys):
    def fail(argv):
        raise ConfigError(f"{argv[0]}: no such run\n{argv[1]}: another")

    assert guarded(fail, ["a\nerror: b", "c\r"]) == 2
    assert capsys.readouterr().err.splitlines() == [r"error: a\nerror: b: no such run", r"error: c\r: another"]


def test_an_error_at_the_end_of_memory_has_memory_for_its_words(capfd):
    def full():
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
        kept = []
        while True:
            kept.append(bytes(1 << 9))

    assert forked(lambda: guarded(lambda argv: full(), [])) == (0, 1)
    assert capfd.readouterr().err == f"error: out of memory (no details): {NO_MEMORY}\n"
