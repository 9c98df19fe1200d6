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
from mdistiller_dfpt.parent import environment_of_job
environments = {"table": environment_of_job(), "torchrun": os.environ | {"TORCHELASTIC_RUN_ID": "none"}}
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=environments[sys.argv[2]]).wait()
"""


@pytest.mark.parametrize("by", ["table", "torchrun"])
def test_a_job_whose_launcher_is_killed_while_it_imports_ends(by):
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, STARTED, by], stdout=subprocess.PIPE, text=True
    ) as launcher:  # fmt: skip
        assert launcher.stdout.readline() == "imports\n"
        launcher.kill()
        assert launcher.stdout.read() == ""  # once the job has closed its end of the pipe


def test_a_process_of_a_smoke_test_that_dies_is_the_result_of_its_cell():
    future = Future()
    future.set_exception(BrokenProcessPool())
    assert _fault(future) == "a process of the smoke test died, as when memory runs out"
