"""Several processes at once on the same files: starts, resumes, and those that fill one cache."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch

from mdistiller_dfpt.data.cache import cached_arrays
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs.directory import new_run
from mdistiller_dfpt.testing import tiny_cfg
from mdistiller_dfpt.training.loop import train_epoch

from ..teachers.test_logits_cache import FIRST, run
from ..tiny_runs import final_state, fit, run_of, stopped_after, unbroken

EPOCHS = ("SOLVER.EPOCHS", "3")
ARRAYS = {"images": np.arange(300_000, dtype=np.uint8)}


def at_once(does, folder):
    """What each of four processes returns that do this in the folder, begun together."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)

    def work(results):
        together.wait()
        results.put(does(folder))

    results = context.SimpleQueue()
    processes = [context.Process(target=work, args=(results,)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def test_runs_begun_at_once_have_each_a_directory(tmp_path):
    cfg = tiny_cfg("LOG.PREFIX", str(tmp_path), "EXPERIMENT.NAME", "tiny")
    names = at_once(lambda folder: new_run(cfg).name, tmp_path)
    assert sorted(names) == ["seed1", "seed1-2", "seed1-3", "seed1-4"]


def test_of_resumes_at_once_one_trains(tmp_path):
    def resumed(folder):
        trainer = run_of("KD", folder, *EPOCHS)
        try:
            fit(trainer, resume=True)
        except ConfigError as e:
            return "another process is training here" in str(e)
        return [final_state(trainer), len(trainer.epochs)]

    stopped_after(1, "KD", tmp_path)
    found = at_once(resumed, tmp_path)
    assert [unbroken("KD", *EPOCHS)[:2], 3] in found
    assert all(one is True or one == [unbroken("KD", *EPOCHS)[:2], 3] for one in found)


def test_processes_that_decode_the_same_images_at_once_leave_one_cache(tmp_path):
    (root := tmp_path / "images").mkdir()
    sums = at_once(lambda _: int(cached_arrays(root, "the same", lambda: ARRAYS, bool)["images"].sum()), tmp_path)
    assert sums == [int(ARRAYS["images"].sum())] * 4
    assert [path.name for path in root.iterdir()] == [".decoded.npz"]


@pytest.mark.parametrize("words", [(), FIRST], ids=["lazily", "first"])
def test_processes_that_fill_one_logits_cache_at_once_train_as_one(words, tmp_path):
    def epoch(folder):
        trainer = run("KD", folder, *words)
        torch.manual_seed(0)
        if words:
            trainer.prepare()
            return train_epoch(trainer.training, 1)
        return trainer.one_epoch()

    expected = epoch(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert at_once(epoch, tmp_path) == [expected] * 4
