"""Out of memory: a one-line error with the keys to lower, and the last checkpoint is kept."""

import resource

import pytest
import torch

from mdistiller_dfpt.errors import OutOfMemory
from mdistiller_dfpt.testing import tiny_cfg
from mdistiller_dfpt.training.out_of_memory import memory_explained

from ..forks import forked
from ..tiny_runs import after_each_step, continued, fit, run_of, unbroken


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes."),
        RuntimeError("could not create a primitive"),
        ImportError("libblas.so.3: failed to map segment from shared object"),
        MemoryError(),
    ],
    ids=["device", "host", "oneDNN", "a library that is loaded", "Python"],
)
def test_every_kind_of_exhausted_memory_names_the_keys_that_need_less(error):
    words = r"add `SOLVER.ACCUMULATE 2`, which keeps the batch of 16.*--resume"
    with pytest.raises(OutOfMemory, match=words), memory_explained(tiny_cfg()):
        raise error


@pytest.mark.parametrize("words", ["shapes differ", "could not create a primitive descriptor for a convolution"])
def test_other_errors_pass_unchanged(words):
    with pytest.raises(RuntimeError, match=words) as info, memory_explained(tiny_cfg()):
        raise RuntimeError(words)
    assert not isinstance(info.value, OutOfMemory)


def test_a_run_whose_memory_is_exhausted_can_be_resumed(tmp_path):
    def ask_for_too_much(count):
        if count == 2:
            with open("/proc/self/statm", encoding="ascii") as f:
                used = int(f.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
            torch.ones(2**28)

    def exhausted():
        try:
            fit(after_each_step(run_of("KD", tmp_path, "LOG.SAVE_EVERY", "1 step"), ask_for_too_much))
        except OutOfMemory as e:
            return [str(e), e.exit_code]

    ended, (message, exit_code) = forked(exhausted)
    assert (ended, exit_code) == (0, 1)
    assert "can't allocate memory" in message
    assert [p.name for p in tmp_path.glob("**/checkpoints/*")] == ["epoch-00000-step-0000001"]
    assert forked(lambda: continued("KD", tmp_path, "LOG.SAVE_EVERY", "1 step")) == (0, unbroken())
