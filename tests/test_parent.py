"""Processes end with the one that started them, however it ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from mdistiller_dfpt import parent
from mdistiller_dfpt.launch.table_jobs import _fault
from mdistiller_dfpt.parent import stop_with_pool

from .waits import has_ended, wait_until


def of_worker(seconds):
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_processes_of_a_pool_end_when_the_one_that_has_it_is_killed(method):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        pool = ProcessPoolExecutor(2, multiprocessing.get_context(method), initializer=stop_with_pool)
        found = set(pool.map(of_worker, [0.2] * 8))
        os.write(writing, " ".join(map(str, found)).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        workers = [int(word) for word in pipe.readline().split()]
    os.waitpid(pid, 0)
    assert workers
    wait_until(lambda: all(map(has_ended, workers)))


STARTED = """
import time
from mdistiller_dfpt.commands import main
def import_module(*_):
    print("imports", flush=True)
    time.sleep(600)
main.import_module = import_module
main.main(["train"])
"""
LAUNCHER = """
import os, subprocess, sys
from mdistiller_dfpt.parent import VARIABLE, environment_of_job
given = environment_of_job()
elsewhere = {**given, VARIABLE: " ".join(["another-machine", *given[VARIABLE].split(" ")[1:]])}
environments = {"torchrun": os.environ | {"TORCHELASTIC_RUN_ID": "none"}, "of another machine": elsewhere}
wrapper = ["sh", "-c", '"$@"; true', "sh"] if sys.argv[2] == "shell" else []
command = [*wrapper, sys.executable, "-c", sys.argv[1]]
subprocess.Popen(command, env=environments.get(sys.argv[2], given)).wait()
"""


@pytest.mark.parametrize("by", ["table", "torchrun", "shell", "of another machine"])
def test_a_job_whose_launcher_is_killed_while_it_imports_ends(by):
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, STARTED, by], stdout=subprocess.PIPE, text=True
    ) as launcher:  # fmt: skip
        assert launcher.stdout.readline() == "imports\n"
        launcher.kill()
        assert launcher.stdout.read() == ""  # once the job has closed its end of the pipe


LOOKS = """
import threading
from mdistiller_dfpt import parent
looked = threading.Semaphore(0)
parent.time = type("Clock", (), {"sleep": lambda seconds: looked.release()})
parent.stop_with_launcher()
for _ in range(3):
    looked.acquire()
print("goes on", flush=True)
"""


@pytest.mark.parametrize("by", ["table", "torchrun", "shell", "of another machine"])
def test_what_is_between_a_job_and_its_launcher_is_no_launcher_that_ended(by):
    done = subprocess.run([sys.executable, "-c", LAUNCHER, LOOKS, by], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("goes on\n", "")


def test_a_number_that_was_given_to_another_process_is_no_launcher(monkeypatch):
    machine, pid, begun = parent.environment_of_job()[parent.VARIABLE].split(" ")
    assert parent._begun(int(pid)) == begun
    ended: list[bool] = []
    monkeypatch.setattr(parent, "_stop_after", lambda wait: (wait(), ended.append(True)))
    monkeypatch.setenv(parent.VARIABLE, f"{machine} {pid} {int(begun) - 1}")
    parent.stop_with_launcher()
    assert ended == [True]
    assert parent.VARIABLE not in os.environ


def test_a_process_of_a_smoke_test_that_dies_is_the_result_of_its_cell():
    future = Future()
    future.set_exception(BrokenProcessPool())
    assert _fault(future) == "a process of the smoke test died, as when memory runs out"
