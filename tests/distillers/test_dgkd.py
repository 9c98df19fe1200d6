"""Laws of DGKD."""

import torch

from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.distillers.dgkd import dgkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


def test_the_released_defaults_are_a_config():
    """Lambda 1, T 5, one teacher left out; 100 classes (train.py:21-31, 170-183)."""
    cfg = load_cfg("cifar100/dgkd/as_released")
    assert (cfg.DGKD.TEMPERATURE, cfg.DGKD.DROP) == (5.0, 1)
    assert (cfg.DGKD.LOSS.CE_WEIGHT, cfg.DGKD.LOSS.KD_WEIGHT) == (0.0, 1 / 100)
    solver = cfg.SOLVER
    assert (solver.LR, solver.BATCH_SIZE, solver.WEIGHT_DECAY, solver.EPOCHS) == (0.1, 128, 1e-4, 160)
    assert (list(solver.LR_DECAY_STAGES), solver.LR_DECAY_RATE) == ([80, 120], 0.1)


def test_with_one_teacher_it_is_kd_and_teachers_add_up():
    student, a, b = normal(1), normal(2), normal(4)
    torch.testing.assert_close(dgkd_loss(student, [a], 5.0), kd_loss(student, a, 5.0))
    torch.testing.assert_close(dgkd_loss(student, [a, b], 5.0), dgkd_loss(student, [b, a], 5.0))
    torch.testing.assert_close(dgkd_loss(student, [a, a], 5.0), 2 * kd_loss(student, a, 5.0))


def test_without_dropping_all_teachers_are_matched():
    distiller = tiny_distiller("DGKD", "DGKD.DROP", "0")
    batch = tiny_batch()
    logits, terms = distiller(batch)
    with torch.no_grad():
        teachers = [network(batch.image)[0] for network in distiller.frozen()]
    assert len(teachers) == 2
    torch.testing.assert_close(terms["kd"].weighted, 0.9 * dgkd_loss(logits, teachers, 4.0))
