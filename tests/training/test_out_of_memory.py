"""Exhausted memory: a line with the keys to turn, and the last checkpoint stays."""

import resource

import pytest
import torch

from mdistiller_dfpt.testing import tiny_cfg
from mdistiller_dfpt.training.out_of_memory import OutOfMemory, memory_explained

from .test_crash import forked, outcome, resumed, run_of


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes."),
        MemoryError(),
    ],
    ids=["device", "host", "Python"],
)
def test_every_kind_of_exhausted_memory_names_the_keys_that_need_less(error):
    words = r"add `SOLVER.ACCUMULATE 2`, which keeps the batch of 16.*--resume"
    with pytest.raises(OutOfMemory, match=words), memory_explained(tiny_cfg()):
        raise error


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes") as info, memory_explained(tiny_cfg()):
        raise RuntimeError("shapes differ")
    assert not isinstance(info.value, OutOfMemory)


def test_a_run_whose_memory_is_exhausted_can_be_resumed(tmp_path):
    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole")))

    def exhausted():
        trainer = run_of("KD", tmp_path / "small")
        plain = trainer.optimizer.step

        def step(*args, **kwargs):
            plain(*args, **kwargs)
            if trainer.step == 1:
                with open("/proc/self/statm", encoding="ascii") as f:
                    used = int(f.read().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
                torch.ones(2**28)

        trainer.optimizer.step = step
        try:
            trainer.fit()
        except OutOfMemory as e:
            return [str(e), e.exit_code]

    ended, (message, exit_code) = forked(exhausted)
    assert (ended, exit_code) == (0, 1)
    assert "can't allocate memory" in message
    assert forked(lambda: resumed("KD", tmp_path / "small")) == (0, expected)
