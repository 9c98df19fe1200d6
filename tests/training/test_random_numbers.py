"""Runs that draw random numbers in every step: resumed bit for bit, and different in each process."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.saving import seed_process
from mdistiller_dfpt.testing import TinyNet, tiny_cfg, tiny_data
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes
from ..tiny_runs import fit


class Dropping(TinyNet):
    """A network that draws random numbers in every step."""

    def forward(self, image):
        return super().forward(F.dropout(image, 0.3, self.training))


def dropping_run(folder, *words):
    cfg = tiny_cfg("DISTILLER.TYPE", "NONE", "LOG.PREFIX", str(folder), "EXPERIMENT.NAME", "tiny", *words)
    torch.manual_seed(1)
    student = Dropping()
    seed_process(cfg.SOLVER.SEED)
    return Trainer(cfg, DISTILLERS["NONE"](student), tiny_data(train=51))


def cut_and_whole(folder):
    """The students of a run that was never cut, and of one that was continued after an epoch."""
    whole = dropping_run(folder / "whole", "SOLVER.EPOCHS", "2")
    fit(whole)
    fit(dropping_run(folder / "cut", "SOLVER.EPOCHS", "1"))
    torch.manual_seed(99)
    again = dropping_run(folder / "cut", "SOLVER.EPOCHS", "2")
    fit(again, resume=True)
    return [state_hash(t.distiller.state_dict()) for t in (whole, again)]


def test_a_run_that_draws_random_numbers_is_resumed_bit_for_bit(tmp_path):
    whole, again = cut_and_whole(tmp_path)
    assert whole == again


def test_two_processes_draw_different_numbers_and_are_resumed_bit_for_bit(tmp_path):
    found = in_processes(lambda rank: [*cut_and_whole(tmp_path), torch.rand(()).item()], tmp_path)
    assert found[0][0] == found[0][1]
    assert found[0][2] != found[1][2]
