"""EXPERIMENT.THREADS holds for its own run: of one program, the next is computed as it would be alone."""

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.launch.build import check_config


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield before
    check_config(load_cfg(None, {}))
    torch.set_num_threads(before)


def used(tmp_path, count=None):
    check_config(load_cfg("digits/vanilla/res8", {"LOG.PREFIX": str(tmp_path), "EXPERIMENT.THREADS": count}))
    return torch.get_num_threads()


def test_the_threads_of_a_run_do_not_stay_for_the_next(threads, tmp_path):
    assert [used(tmp_path, count) for count in (3, None, 2, 4, None)] == [3, threads, 2, 4, threads]


def test_the_threads_that_a_program_sets_between_two_runs_stay(tmp_path):
    assert used(tmp_path, 3) == 3
    torch.set_num_threads(2)
    assert [used(tmp_path), used(tmp_path, 4), used(tmp_path)] == [2, 4, 2]
