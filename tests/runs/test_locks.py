"""Two processes that need the same run do not train it twice."""

import errno
import fcntl
import os
import signal
import threading
import time

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs import locks
from mdistiller_dfpt.runs.locks import LOCK, RunLock, claim, one_at_a_time, wait_until_free

from ..waits import LIMIT


def entered(context, order, name):
    def enter():
        with context:
            order.append(name)

    thread = threading.Thread(target=enter)
    thread.start()
    return thread


def test_the_second_waits_until_the_first_has_left(tmp_path, capsys):
    base, order = tmp_path / "runs/a/seed1", []
    with one_at_a_time(base):
        second = entered(one_at_a_time(base), order, "second")
        entered(one_at_a_time(base.with_name("seed2")), order, "another").join(LIMIT)
        second.join(0.3)
        order.append("first")
    second.join(LIMIT)
    assert order == ["another", "first", "second"]
    assert capsys.readouterr().out == f"another process trains {base}: waiting until it ends\n"


def test_a_claim_is_that_of_one_launcher_until_it_is_closed_and_of_none_while_a_job_trains(tmp_path):
    base = tmp_path / "runs/a/seed1"
    first = claim(base)
    assert claim(base) is None
    other = claim(base.with_name("seed2"))
    other.close()
    with one_at_a_time(base):  # as the job of the first launcher does
        assert claim(base) is None
        first.close()
        assert claim(base) is None, "the job has outlived its launcher"
    claim(base).close()


def test_a_claim_ends_with_its_launcher(tmp_path):
    if (pid := os.fork()) == 0:
        claim(tmp_path / "seed1")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    claim(tmp_path / "seed1").close()


@pytest.mark.parametrize("enter", [claim, lambda base: one_at_a_time(base).__enter__()])
def test_a_place_that_cannot_be_written_to_is_named(enter, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/a: cannot write there .Not a directory"):
        enter(tmp_path / "file/a/seed1")


def test_a_run_in_training_is_waited_for(tmp_path):
    wait_until_free(tmp_path)  # nobody has ever trained here
    assert not (tmp_path / "gone" / LOCK).exists()
    wait_until_free(tmp_path / "gone")
    lock, done = RunLock(tmp_path), threading.Event()
    thread = threading.Thread(target=lambda: (wait_until_free(tmp_path), done.set()))
    thread.start()
    assert not done.wait(0.3)
    lock.release()
    assert done.wait(LIMIT)
    RunLock(tmp_path).release()


def test_a_lock_ends_with_its_process_though_a_worker_outlives_it(tmp_path):
    reading, writing = os.pipe()

    def killed():
        _lock = RunLock(tmp_path)
        if (worker := os.fork()) == 0:
            time.sleep(600)
        os.write(writing, f"{worker}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        killed()
    os.close(writing)
    os.waitpid(pid, 0)
    worker = int(os.read(reading, 100))
    try:
        RunLock(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_said_once_and_nobody_is_waited_for(code, tmp_path, capsys, monkeypatch):
    def no_locks(*args):
        raise OSError(code, os.strerror(code))

    locks._say_without_locks.cache_clear()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    run = tmp_path / "seed1"
    run.mkdir()
    with one_at_a_time(run):
        RunLock(run).release()
        wait_until_free(run)
    said = (
        f"warning: {run}: its file system has no locks ({os.strerror(code)}); start no second process on the same run\n"
    )
    assert capsys.readouterr() == ("", said)


def test_a_lock_needs_no_room_on_the_disk(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    lock = RunLock(tmp_path)
    with pytest.raises(ConfigError, match="another process is training here"):
        RunLock(tmp_path)
    lock.release()
