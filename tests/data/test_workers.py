"""Data-loading workers that die or hang: the run ends in bounded time and names the images."""

import contextlib
import errno
import multiprocessing
import os
import re
import resource
import signal
import time

import pytest

from mdistiller_dfpt.data import DATASETS, build_data
from mdistiller_dfpt.data.check import check_source
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.data.image_files import read_image
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.testing import tiny_cfg

from ..forks import forked


def loader_whose_worker(does, tmp_path, timeout="60"):
    """A loader with one worker that `does` this at the third image."""
    words = write_data_set("folder", tmp_path)
    data = build_data(
        tiny_cfg(*words, "SOLVER.BATCH_SIZE", "4", "DATASET.SIZE", "16", "DATASET.NUM_WORKERS", "1",
                 "EXPERIMENT.TIMEOUT", timeout)
    )  # fmt: skip
    transform, calls = data.train.files.transform, []

    def failing(image):
        calls.append(1)
        if len(calls) == 6:
            time.sleep(0.5)  # the first batch is being sent
            does()
        return transform(image)

    data.train.files.transform = failing
    return data.train


@pytest.mark.parametrize(
    "does", [lambda: os._exit(1), lambda: os.kill(os.getpid(), signal.SIGKILL)], ids=["exits", "is killed"]
)
def test_a_worker_that_dies_ends_the_run_and_says_at_which_images(does, tmp_path):
    loader = loader_whose_worker(does, tmp_path)
    second = loader.order(1)[4]
    with pytest.raises(DataError, match=r"died or hangs \(.*at 4 images from .*lower DATASET.NUM_WORKERS") as info:
        list(loader.epoch(1))
    assert f"from {loader.files.paths[second]} on" in str(info.value)
    assert "continue with --resume" in str(info.value)


def test_a_worker_that_hangs_ends_the_run_within_the_time_that_the_config_gives(tmp_path):
    loader = loader_whose_worker(lambda: time.sleep(600), tmp_path, timeout="2")
    with pytest.raises(DataError, match=r"timed out after 2.0 seconds.*EXPERIMENT.TIMEOUT \(now 2 s\)"):
        list(loader.epoch(1))


@pytest.mark.parametrize("does", [lambda: None, lambda: time.sleep(600)], ids=["waits", "hangs"])
def test_a_process_that_keeps_its_loader_ends_with_its_workers(does, tmp_path):
    kept = []

    def work():
        kept.append(loader_whose_worker(does, tmp_path, timeout="2"))
        with contextlib.suppress(DataError):
            list(kept[0].epoch(1))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    assert code == 0


def test_sigterm_ends_a_worker_only_if_the_trainer_sends_it(tmp_path):
    loader = loader_whose_worker(lambda: None, tmp_path)
    batches = loader.epoch(1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    forked(lambda: os.kill(worker.pid, signal.SIGTERM))
    assert len(list(batches)) == len(loader) - 1
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(60)
    assert worker.exitcode == 0


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


def test_the_limit_of_open_files_is_raised_or_refused_by_its_name(tmp_path):
    loader = a_loader(tmp_path)

    def with_limits(more, hard):
        def run():
            soft = len(os.listdir("/proc/self/fd")) + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or soft))
            try:
                return sum(len(batch.index) for batch in loader.epoch(1))
            except DataError as e:
                return str(e)

        return forked(run)[1]

    assert with_limits(4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) == loader.num_samples
    said = r"may have \d+ files open, and needs about \d+ with 2 data-loading workers: raise the limit \(ulimit -n\)"
    assert re.search(said, with_limits(4, None))


def test_an_image_is_not_at_fault_where_no_file_can_be_opened(tmp_path, monkeypatch):
    paths = a_loader(tmp_path).files.paths

    def full(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr("mdistiller_dfpt.data.image_files.opened", full)
    with pytest.raises(OSError, match="Too many open files"):
        read_image(paths[0])


def test_check_data_says_at_which_images_one_of_its_processes_died(tmp_path, monkeypatch):
    words = write_data_set("folder", tmp_path)
    source = DATASETS["folder"](tiny_cfg(*words))
    monkeypatch.setattr("mdistiller_dfpt.data.check.read_image", lambda path: os._exit(1))
    with pytest.raises(DataError, match=r"a process that reads images died.*at 16 images from .*train.* on; lower"):
        check_source(source, 2, lambda seen: None)
