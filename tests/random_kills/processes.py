"""The command `train` in a process of its own, forked to save the imports, with signals at counted or timed moments."""

import atexit
import ctypes
import json
import multiprocessing.util
import os
import resource
import signal
import sys
import tempfile
import time
from typing import NamedTuple

import torch.utils.tensorboard  # noqa: F401 # which a run imports late

from mdistiller_dfpt.commands.train import main
from mdistiller_dfpt.data import workers
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.training import loop

from ..tiny_runs import writes_below

LONGEST = 180  # seconds of a command; a run of these takes one or two
ADOPT = 36  # PR_SET_CHILD_SUBREAPER: workers that outlive a killed run become children of this process


class Fault(NamedTuple):
    """A signal to a run, at a share of the steps, of the writes or of the seconds of the unbroken run."""

    signal: str
    unit: str  # steps, writes or seconds
    at: float
    times: int = 1
    to_group: bool = False


class Whole(NamedTuple):
    """What a command did without faults."""

    steps: int = 0
    writes: int = 0
    seconds: float = 0.0


class Ended(NamedTuple):
    """How a command ended: its exit code, or minus the signal that ended it; what it printed, and the signals sent."""

    code: int
    text: str
    pid: int
    sent: list[str]
    did: Whole


def command(words, folder, faults=(), whole=Whole()):  # noqa: B008
    """Run `train` with these words in a folder, as the leader of a group of processes of its own."""
    begin, end = os.pipe()
    out, notes = folder / "out.txt", folder / "notes.txt"
    for file in (out, notes):
        file.unlink(missing_ok=True)
    out.touch()
    pid = os.fork()
    if pid == 0:
        os.close(begin)
        _child(words, folder, faults, whole, end)
    os.close(end)
    os.read(begin, 1)
    os.close(begin)
    code = _watch(pid, [f for f in faults if f.unit == "seconds"], whole, notes)
    lines = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    sent = [line for line in lines if isinstance(line, str)]
    did = next((Whole(*line) for line in lines if isinstance(line, list)), Whole())
    return Ended(code, out.read_text(errors="replace"), pid, sent, did)


def temporary_of(pid, folder):
    """The folder for temporary files of a command; the names of sockets in it must be short."""
    return folder / "t" / str(pid)


def _watch(pid, timed, whole, notes):
    """Send the timed signals, continue the process where it is stopped, and return its exit code once it has ended."""
    started, due = time.monotonic(), sorted(timed, key=lambda fault: fault.at)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        passed = time.monotonic() - started
        if ended and os.WIFSTOPPED(status):
            time.sleep(0.05)
            os.killpg(pid, signal.SIGCONT)
        elif ended:
            return os.waitstatus_to_exitcode(status)
        elif due and passed >= due[0].at * whole.seconds:
            _send(pid, due.pop(0), notes)
        elif passed > LONGEST:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"a command hangs: it has not ended after {LONGEST} s")
        else:
            time.sleep(0.003)


def _send(pid, fault, notes):
    number = signal.Signals[fault.signal]
    for _ in range(fault.times):
        _note(notes, fault.signal)
        if fault.to_group and pid == os.getpid():
            _send_to_own_group(number)
        else:
            (os.killpg if fault.to_group else os.kill)(pid, number)


def _send_to_own_group(number):
    """From another process, as a scheduler would: workers end by SIGTERM of the run itself, and by no other."""
    group = os.getpgrp()
    sender = os.fork()
    if sender == 0:
        os.setsid()
        os.killpg(group, number)
        os._exit(0)
    os.waitpid(sender, 0)


def _note(notes, value):
    with open(notes, "a") as file:
        file.write(json.dumps(value) + "\n")


def _child(words, folder, faults, whole, ready):
    code, started = 1, time.monotonic()
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()  # what the parent process has registered, but for this
        atexit.register(workers.end_workers)
        end_at_once()  # as the command does
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary_of(os.getpid(), folder))
        os.makedirs(tempfile.tempdir)
        log = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        count = _counted(faults, whole, folder / "notes.txt")
        os.write(ready, b"1")
        code = main([str(word) for word in words])
        # As an interpreter ends
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        atexit._run_exitfuncs()
        multiprocessing.util._exit_function()
        _note(folder / "notes.txt", [count["steps"], count["writes"], time.monotonic() - started])
    except BaseException as e:
        os.write(2, f"Traceback of the command: {e!r}\n".encode())
    finally:
        os._exit(code)


def _counted(faults, whole, notes):
    """From now on, count steps and writes, and send the signals that are due; the counts."""
    count = {"steps": 0, "writes": 0}
    due = {unit: {} for unit in count}
    for fault in faults:
        if fault.unit in due:
            moment = 1 + int(fault.at * getattr(whole, fault.unit))
            due[fault.unit].setdefault(moment, []).append(fault)

    def happened(unit):
        count[unit] += 1
        for fault in due[unit].pop(count[unit], ()):
            _send(os.getpid(), fault, notes)

    own, plain = os.getpid(), loop.take_step

    def take_step(*args, **kwargs):
        plain(*args, **kwargs)
        happened("steps")

    def hear(event, args):
        if os.getpid() == own and str(args[0]) not in (str(notes), os.devnull):
            happened("writes")

    loop.take_step = take_step
    writes_below("", hear)
    return count


def adopt():
    """Workers that a killed run leaves behind become children of this process, which can then wait for them."""
    ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)


def left_behind(pid, seconds=30.0):
    """Whether a process of this group is there after so many seconds; a worker looks for its parent every five."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-pid, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return False
    os.killpg(pid, signal.SIGKILL)
    return True
