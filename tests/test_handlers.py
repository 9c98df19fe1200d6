"""Signals reach the handler that is meant for them, and an interrupt of a command is one line."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from mdistiller_dfpt.handlers import STOP_SIGNALS, handled, interrupts_later, noted_interrupts, signals_later
from mdistiller_dfpt.launch.cli import guarded

from .test_house import ROOT

USED = (signal.SIGTERM, signal.SIGHUP)


def test_handlers_are_set_within_and_as_before_behind():
    before, got = [signal.getsignal(n) for n in USED], []
    with handled(USED, lambda number, frame: got.append(number)):
        for number in USED:
            os.kill(os.getpid(), number)
    assert got == list(USED)
    assert [signal.getsignal(n) for n in USED] == before


def test_a_hangup_that_nohup_ignores_stays_ignored_and_another_thread_sets_no_handler():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    found = []

    def look():
        with handled(USED, print):
            found.append([signal.getsignal(n) for n in USED])

    try:
        look()
        (thread := threading.Thread(target=look)).start()
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [[print, signal.SIG_IGN], [signal.getsignal(signal.SIGTERM), signal.SIG_IGN]]


def test_a_handler_of_a_program_in_c_is_no_fault(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", lambda number, handler, plain=signal.signal: plain(number, handler) and None)
        with handled([signal.SIGUSR2], print):
            assert signal.getsignal(signal.SIGUSR2) is print
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def interrupted(number):
    os.kill(os.getpid(), number)


def interrupted_as_another_error(number):
    try:
        interrupted(number)
    except KeyboardInterrupt:
        raise RuntimeError("cannot join thread before it is started") from None


def interrupted_while_it_cleans_up(number):
    """As by a scheduler or a terminal, which send two signals."""
    try:
        interrupted(number)
    finally:
        for other in STOP_SIGNALS:
            os.kill(os.getpid(), other)


@pytest.mark.parametrize("does", [interrupted, interrupted_as_another_error, interrupted_while_it_cleans_up])
@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_an_interrupt_is_one_line_whatever_became_of_it(number, does, capsys):
    assert guarded(lambda argv: does(number), []) == 128 + number
    assert capsys.readouterr() == ("", "interrupted; repeat the same command to go on\n")


DROPPED = """
import os, signal, sys
from mdistiller_dfpt.launch.cli import guarded
class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))
def work(argv):
    print("begins")
    Finalised()
    print("goes on")
sys.exit(guarded(work, []))
"""


def test_an_interrupt_that_python_drops_ends_the_command():
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "begins\n", "interrupted\n")


IN_TEXT = """
import sys
from mdistiller_dfpt.launch.cli import guarded
def work(argv):
    exec("import os; os.kill(os.getpid(), int(argv[0])); sum(range(10))", {"argv": argv})
sys.exit(guarded(work, None))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupt_of_code_in_a_text_has_the_exit_code_of_its_signal(number, tmp_path):
    (tmp_path / "command.py").write_text(IN_TEXT)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    words = [sys.executable, "-m", "command", str(int(number))]  # a module, as all commands are
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted; repeat the same command to go on\n")


AT_EXIT = """
import atexit, os, signal, sys
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.launch.cli import guarded
end_at_once()
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.exit(guarded(lambda argv: print("done"), []))
"""


def test_an_interrupt_of_the_interpreters_end_is_one_line():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "done\n", "interrupted\n")


AT_THE_VERY_END = """
import os, signal, sys
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.launch.cli import guarded
end_at_once()
class Freed:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)
sys.kept = Freed()  # until Python has undone its handlers
sys.exit(guarded(lambda argv: print("done"), []))
"""


@pytest.mark.parametrize("number", [*STOP_SIGNALS, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_at_the_very_end_of_the_interpreter_changes_no_exit_code(number):
    words = [sys.executable, "-c", AT_THE_VERY_END, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


WITHOUT_MEMORY = """
import atexit, os, signal, sys
from mdistiller_dfpt.errors import OutOfMemory
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.launch.cli import guarded
end_at_once()
atexit.register(print, "cleaned up")
class Library:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGSEGV):
        kill(pid, number)
sys.kept = Library()
def work(argv):
    raise {error}
sys.exit(guarded(work, []))
"""


@pytest.mark.parametrize("error", ["MemoryError", "OutOfMemory('out of memory')"])
def test_a_library_that_fails_behind_a_lack_of_memory_changes_no_exit_code(error):
    done = subprocess.run([sys.executable, "-c", WITHOUT_MEMORY.format(error=error)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "cleaned up\n")
    assert re.fullmatch("error: out of memory.*\n", done.stderr)


def test_signals_within_are_heard_behind_and_the_first_decides():
    heard = []
    with handled(USED, lambda number, frame: heard.append(number)):
        with signals_later():
            for number in USED:
                os.kill(os.getpid(), number)
            assert heard == []
        assert heard == [USED[0]]


def test_processes_that_are_started_hear_no_interrupt_and_this_one_hears_it_afterwards():
    say = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    said, other = [], threading.Event()
    (thread := threading.Thread(target=other.wait)).start()  # hears what is sent to the process

    def start():
        with interrupts_later():
            os.kill(os.getpid(), signal.SIGINT)
            said.append(subprocess.run([sys.executable, "-c", say], capture_output=True, text=True).stdout)

    with pytest.raises(KeyboardInterrupt):
        start()
    other.set()
    thread.join()
    assert said == ["goes on\n"]


@pytest.mark.parametrize("number", USED)
def test_a_start_of_processes_is_never_cut_off(number):
    """A process that was started and then got no data from its parent ended with a traceback."""
    done = []

    def start():
        with interrupts_later():
            os.kill(os.getpid(), number)
            done.append("started")

    with noted_interrupts() as came, pytest.raises(KeyboardInterrupt):
        start()
    assert (done, came()) == (["started"], number)
