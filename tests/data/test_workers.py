"""Data-loading workers that die, hang or cannot pass on images: the run ends in bounded time and names the images."""

import contextlib
import errno
import gc
import multiprocessing
import multiprocessing.queues
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from mdistiller_dfpt.data import build as build_module
from mdistiller_dfpt.data import build_data, check, pool, read_image, workers
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.data.workers import leave_all_to_the_trainer
from mdistiller_dfpt.errors import DataError, UserError
from mdistiller_dfpt.testing import tiny_cfg

from ..forks import forked
from ..waits import LIMIT, has_ended, wait_until

# A second report of a death may come while PyTorch opens files to count the descriptors that are left
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")


def loader_whose_worker(does, tmp_path):
    """A loader with one worker that `does` this in its second batch, once the trainer has the first."""
    words = write_data_set("folder", tmp_path)
    loader = build_data(
        tiny_cfg(*words, "SOLVER.BATCH_SIZE", "4", "DATASET.SIZE", "16", "DATASET.NUM_WORKERS", "1")
    ).train  # fmt: skip
    transform, epoch, calls, first = loader.files.transform, loader.epoch, [], tmp_path / "the trainer has one"

    def noted(number):
        for batch in epoch(number):
            first.touch()
            yield batch

    def failing(image):
        calls.append(1)
        if len(calls) == 6:
            wait_until(first.exists)
            does()
        return transform(image)

    loader.epoch, loader.files.transform = noted, failing
    return loader


def begun(loader):
    """The batches of an epoch behind its first, and the worker that makes them."""
    # PyTorch watches the workers of an earlier loader until it is deleted, and would raise here if one was killed
    workers.end_workers()
    gc.collect()
    before = set(multiprocessing.active_children())
    batches = loader.epoch(1)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    return batches, worker


@pytest.mark.parametrize(
    "does", [lambda: os._exit(1), lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["exits", "is killed"]
)
def test_a_worker_that_dies_ends_the_run_and_says_at_which_images(does, tmp_path):
    loader = loader_whose_worker(does, tmp_path)
    second = loader.order(1)[4]
    with pytest.raises(DataError, match=r"died or hangs \(.*at 4 images from .*lower DATASET.NUM_WORKERS") as info:
        list(loader.epoch(1))
    assert f"from {loader.files.paths[second]} on" in str(info.value)
    assert "continue with --resume auto" in str(info.value)


def test_a_worker_that_hangs_ends_the_run_within_the_time_that_the_config_gives(tmp_path):
    loader = loader_whose_worker(lambda: time.sleep(600), tmp_path)
    batches, _ = begun(loader)
    loader.timeout = 2
    with pytest.raises(DataError, match=r"no images for 2 seconds.*at 4 images from .*EXPERIMENT.TIMEOUT \(now 2 s\)"):
        list(batches)


def stop_itself():
    """As Ctrl-Z does, whose end reached the trainer alone."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stopped_while_it_passes_on_images(tmp_path):
    """The worker of a loader that has failed for that."""
    loader = loader_whose_worker(lambda: None, tmp_path)
    batches, worker = begun(loader)
    (iterator,) = (one for one in workers._RUNNING if worker in one._workers)
    wait_until(iterator._worker_result_queue._reader.poll)  # it has announced a batch, which is still to be fetched
    os.kill(worker.pid, signal.SIGSTOP)
    os.waitpid(worker.pid, os.WUNTRACED)  # until all its threads have stopped, of which one passes on images
    loader.timeout = 2
    with pytest.raises(DataError, match=r"no images for 2 seconds.*EXPERIMENT.TIMEOUT \(now 2 s\)"):
        list(batches)
    return worker


def test_a_worker_that_is_stopped_while_it_passes_on_images_ends_the_run_too(tmp_path):
    worker = stopped_while_it_passes_on_images(tmp_path)
    worker.join(LIMIT)
    assert worker.exitcode == -signal.SIGKILL


def reported(worker, monkeypatch):
    """From now on, the system reports the death of this worker with each SIGCHLD."""

    def report(number, frame):
        raise RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: Killed. ")

    monkeypatch.setattr(workers._DEATHS, "raise_if_any", report)


def test_a_death_that_is_reported_while_its_loader_fails_is_said_once(tmp_path, monkeypatch):
    _batches, worker = begun(loader_whose_worker(lambda: None, tmp_path))
    reported(worker, monkeypatch)
    monkeypatch.setattr(workers, "_end_half_built", lambda error: os.kill(os.getpid(), signal.SIGCHLD))

    def closed():
        raise EOFError

    with pytest.raises(ConnectionError, match="it closed its connection"):
        workers.awaited(closed, LIMIT)
    assert workers.awaited(lambda: "images", LIMIT) == "images"


def test_a_forked_process_ends_no_worker_of_its_parent(tmp_path):
    loader = loader_whose_worker(lambda: None, tmp_path)
    batches, _ = begun(loader)
    assert forked(workers.end_workers) == (0, None)
    assert len(list(batches)) == len(loader) - 1


def test_the_death_of_a_loader_that_failed_is_not_said_of_the_next_one(tmp_path, monkeypatch):
    """The system may report a killed worker only after the loader has failed, as it is made to do here."""
    worker = stopped_while_it_passes_on_images(tmp_path / "failed")
    reported(worker, monkeypatch)
    os.kill(os.getpid(), signal.SIGCHLD)
    loader = loader_whose_worker(lambda: None, tmp_path / "next")
    assert len(list(loader.epoch(1))) == len(loader)


def test_the_time_in_which_all_were_stopped_is_no_time_without_images(tmp_path):
    """As by Ctrl-Z, or where a scheduler suspends a job."""
    began, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            loader = loader_whose_worker(lambda: (os.write(writing, b"x"), time.sleep(1)), tmp_path)
            batches, _ = begun(loader)
            loader.timeout = 5
            code = 0 if len(list(batches)) == len(loader) - 1 else 2
        finally:
            os._exit(code)
    os.close(writing)
    assert os.read(began, 1) == b"x"
    os.killpg(pid, signal.SIGSTOP)
    time.sleep(7)
    os.killpg(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    "does", [lambda: None, lambda: time.sleep(600), stop_itself], ids=["waits", "hangs", "is stopped"]
)
def test_a_process_that_keeps_its_loader_ends_with_its_workers(does, tmp_path):
    kept = []

    def work():
        kept.append(loader_whose_worker(does, tmp_path))
        batches, _ = begun(kept[0])
        kept[0].timeout = 2
        with contextlib.suppress(DataError):
            list(batches)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(LIMIT)
    code = process.exitcode
    process.kill()
    process.join()
    assert code == 0


def test_sigterm_ends_a_worker_only_if_the_trainer_sends_it(tmp_path):
    loader = loader_whose_worker(lambda: None, tmp_path)
    batches, worker = begun(loader)
    forked(lambda: os.kill(worker.pid, signal.SIGTERM))
    assert len(list(batches)) == len(loader) - 1
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(LIMIT)
    assert worker.exitcode == 0


def test_a_worker_that_was_stopped_while_its_trainer_was_killed_ends_when_it_goes_on(tmp_path):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _batches, worker = begun(loader_whose_worker(lambda: None, tmp_path))
        os.kill(worker.pid, signal.SIGSTOP)
        os.write(writing, str(worker.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(pid, 0)
    worker = int(os.read(reading, 10))
    os.kill(worker, signal.SIGCONT)
    wait_until(lambda: has_ended(worker))


LACKS = {
    "shared memory": (resource.RLIMIT_FSIZE, "cannot pass on its images (no shared memory: ",
                      "or enlarge /dev/shm (in Docker, by --shm-size), and continue with --resume auto"),
    "open files": (resource.RLIMIT_NOFILE, "died or hangs (Too many open files)",
                   "or raise `ulimit -n`, and continue with --resume auto"),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKS)
def test_what_a_worker_lacks_is_said_without_a_wait(what, tmp_path):
    limit, said, remedy = LACKS[what]
    pid = tmp_path / "pid"

    def lack():
        pid.write_text(str(os.getpid()))
        resource.setrlimit(limit, (10, resource.getrlimit(limit)[1]))

    loader = loader_whose_worker(lack, tmp_path)
    with pytest.raises(DataError, match=re.escape(said)) as info:
        list(loader.epoch(1))
    assert str(info.value).endswith(remedy)
    assert list(Path("/dev/shm").glob(f"torch_{pid.read_text()}_*")) == []


def test_a_worker_that_may_not_be_started_is_said_and_those_before_it_end(tmp_path, monkeypatch, capsys):
    """As by `ulimit -u`, which the tests themselves would meet."""
    loader = loader_whose_worker(lambda: None, tmp_path)
    loader.workers, plain, calls, before = 2, os.fork, [], set(multiprocessing.active_children())

    def fork():
        calls.append(1)
        if len(calls) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return plain()

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(
        DataError, match=r"Resource temporarily unavailable.*NUM_WORKERS \(now 2\) or raise `ulimit -u`"
    ):
        list(loader.epoch(1))
    gc.collect()
    assert "Exception ignored" not in capsys.readouterr().err
    wait_until(lambda: set(multiprocessing.active_children()) <= before)


def test_a_thread_that_never_says_that_it_runs_is_waited_for_as_long_as_the_config_gives(tmp_path, monkeypatch):
    """As one that gets no memory, in Python's `Thread.start`, by which PyTorch starts to feed a worker."""
    before = set(multiprocessing.active_children())
    loader = loader_whose_worker(lambda: None, tmp_path)
    loader.timeout = 1
    monkeypatch.setattr(multiprocessing.queues.Queue, "_start_thread", lambda self: threading.Event().wait())
    with pytest.raises(DataError, match=r"no images for 1 seconds.*EXPERIMENT.TIMEOUT \(now 1 s\)"):
        list(loader.epoch(1))
    wait_until(lambda: set(multiprocessing.active_children()) <= before)


@pytest.mark.parametrize(("room", "kind"), [(4, "OutOfMemory"), (1024, "DataError")])
def test_a_thread_of_a_loader_that_gets_no_memory_is_told_from_one_too_many(room, kind, tmp_path, monkeypatch):
    def refused(*arguments):
        raise RuntimeError("can't start new thread")

    def limited():
        loader = loader_whose_worker(lambda: None, tmp_path)
        monkeypatch.setattr(multiprocessing.queues.Queue, "_start_thread", refused)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room * 2**20, resource.RLIM_INFINITY))
        try:
            list(loader.epoch(1))
        except UserError as e:
            workers.end_workers()
            return [type(e).__name__, "lower DATASET.NUM_WORKERS (now 1)" in str(e)]

    assert forked(limited) == (0, [kind, True])


def test_workers_are_ended_though_no_thread_can_be_started_for_it(tmp_path, monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    _batches, worker = begun(loader_whose_worker(lambda: time.sleep(600), tmp_path))
    monkeypatch.setattr(workers._MultiProcessingDataLoaderIter, "_shutdown_workers", refused)
    monkeypatch.setattr(workers, "LAST_SECONDS", 0.0)
    workers.end_workers()
    worker.join(LIMIT)
    assert worker.exitcode == -signal.SIGKILL


def test_a_worker_that_may_start_no_thread_can_be_ended(monkeypatch):
    def work():
        def start(*arguments):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(workers, "start_new_thread", start)
        with contextlib.suppress(RuntimeError):
            leave_all_to_the_trainer(0)
        return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))

    assert forked(work) == (0, [])


DEATHS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT]


@pytest.mark.parametrize("during", ["a step", "the pause between two epochs"])
@pytest.mark.parametrize("number", DEATHS, ids=lambda number: number.name)
def test_a_worker_that_dies_ends_no_step_or_save_halfway(number, during, tmp_path):
    loader = loader_whose_worker(lambda: None, tmp_path)
    batches, worker = begun(loader)
    if during != "a step":
        list(batches)
        batches = loader.epoch(2)
    os.kill(worker.pid, number)
    wait_until(lambda: not worker.is_alive())  # PyTorch's handler would raise here
    with pytest.raises(DataError, match=r"a data-loading worker died or hangs \(DataLoader worker .*at 4 images from"):
        list(batches)


@pytest.mark.parametrize(
    "error", [MemoryError(), *(OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM))]
)
def test_what_the_machine_lacks_is_no_fault_of_an_image(error, monkeypatch):
    def fails(path, most):
        raise error

    monkeypatch.setattr(read_image, "opened", fails)
    with pytest.raises(type(error)):
        read_image.read_image("good.png")


def test_check_data_reads_no_further_image_after_an_interrupt(tmp_path, monkeypatch):
    """Its processes do not hear it."""
    source = build_module._load(tiny_cfg(*write_data_set("folder", tmp_path / "data", per_class=60)))
    plain, notes, interrupted = check.read_image, tmp_path / "read", tmp_path / "interrupted"
    before = set(multiprocessing.active_children())

    def noted(path):
        with open(notes, "ab") as file:
            file.write(b"x")
        if notes.stat().st_size > pool.CHUNK:  # the first look is taken
            wait_until(interrupted.exists)
            time.sleep(0.05)
        return plain(path)

    def interrupt(count):
        interrupted.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "read_image", noted)
    with pytest.raises(KeyboardInterrupt):
        check.check_source(source, 1, interrupt)
    assert notes.stat().st_size <= 8 * pool.CHUNK < len(source.train.labels)
    assert set(multiprocessing.active_children()) <= before, "it reads on"


def test_check_data_names_the_images_at_which_a_process_died(tmp_path, monkeypatch):
    words = write_data_set("folder", tmp_path)
    source = build_module._load(tiny_cfg(*words))
    monkeypatch.setattr(check, "opened", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(check, "read_image", lambda path: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        DataError, match=r"died, as when memory runs out, at 8 images from \S+train\S+ on; lower DATASET"
    ):
        list(check.look_at(source, 1))


def test_a_bug_in_a_worker_is_a_bug_not_a_dead_worker(tmp_path):
    def broken():
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours") as info:
        list(loader_whose_worker(broken, tmp_path).epoch(1))
    assert not isinstance(info.value, DataError)


def a_loader(tmp_path):
    words = write_data_set("folder", tmp_path)
    return build_data(
        tiny_cfg(*words, "SOLVER.BATCH_SIZE", "4", "DATASET.SIZE", "16", "DATASET.NUM_WORKERS", "2")
    ).train  # fmt: skip


def test_too_little_shared_memory_is_refused_at_once_by_its_name(tmp_path, monkeypatch):
    loader = a_loader(tmp_path)
    needed = 2 * loader.workers * 4 * 16 * 16 * 3
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": needed - 1})())
    with pytest.raises(DataError, match=r"^/dev/shm has 0 MiB free.*--shm-size.*DATASET.NUM_WORKERS; 0 needs none"):
        next(loader.epoch(1))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": needed})())
    assert sum(len(batch.index) for batch in loader.epoch(1)) == loader.num_samples
