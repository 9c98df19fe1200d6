"""Laws of LSKD."""

import torch

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.lskd import lskd_loss
from mdistiller_dfpt.losses.logit_losses import standardized
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


def test_lskd_is_invariant_to_shift_and_positive_scale_of_each_sample():
    student, teacher = normal(1), normal(2)
    scale = torch.rand(8, 1).double() + 0.5
    moved = lskd_loss(scale * student + normal(4, (8, 1)), 9 * teacher - 1, 2.0)
    torch.testing.assert_close(moved, lskd_loss(student, teacher, 2.0), rtol=1e-5, atol=0)
    assert lskd_loss(3 * student + 1, student, 2.0) < 1e-12


def test_standardised_logits_have_mean_zero_and_deviation_one():
    z = standardized(normal(1))
    torch.testing.assert_close(z.mean(1), torch.zeros(8).double())
    torch.testing.assert_close(z.std(1), torch.ones(8).double(), rtol=1e-6, atol=0)
    assert standardized(torch.ones(2, 5)).abs().max() == 0


def test_on_standard_logits_it_is_kd():
    student, teacher = standardized(normal(1)), standardized(normal(2))
    torch.testing.assert_close(lskd_loss(student, teacher, 2.0), kd_loss(student, teacher, 2.0), rtol=1e-5, atol=0)


def test_other_methods_take_it_as_their_logit_loss():
    batch = tiny_batch()
    distiller = tiny_distiller("DFPTKD", "DFPTKD.LOGIT_LOSS", "LSKD", "DFPTKD.LOSS.TEACHER_WEIGHT", "1")
    logits, terms = distiller(batch)
    with torch.no_grad():
        teacher = distiller.teacher_network(batch.image)[0]
    torch.testing.assert_close(terms["kd_teacher"].weighted, LOGIT_LOSSES["LSKD"](logits, teacher, batch.target, 4.0))
