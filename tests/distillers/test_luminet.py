"""Laws of LUMINET."""

import torch

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.luminet import calibrated, luminet_loss
from mdistiller_dfpt.testing import tiny_distiller

from ..golden import normal


def test_luminet_is_invariant_to_shift_and_positive_scale_of_each_class():
    student, teacher = normal(1), normal(2)
    scale, shift = torch.rand(100).double() + 0.5, normal(4, (100,))
    moved = luminet_loss(scale * student + shift, 9 * teacher - 1, 3.0, 4.0)
    torch.testing.assert_close(moved, luminet_loss(student, teacher, 3.0, 4.0), rtol=1e-3, atol=0)


def test_calibrated_logits_have_mean_zero_and_variance_one_in_each_class():
    z = calibrated(normal(1, (64, 10)))
    torch.testing.assert_close(z.mean(0), torch.zeros(10).double())
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(10).double(), rtol=1e-4, atol=0)


def test_with_alpha_equal_to_the_temperature_it_is_kd_of_calibrated_logits():
    student, teacher = calibrated(normal(1)), calibrated(normal(2))
    mine = luminet_loss(normal(1), normal(2), 4.0, 4.0)
    torch.testing.assert_close(mine, kd_loss(student, teacher, 4.0))
    torch.testing.assert_close(luminet_loss(normal(1), normal(2), 12.0, 4.0), 9 * mine)


def test_methods_that_take_it_as_their_logit_loss_couple_samples():
    assert tiny_distiller("DFPTKD", "DFPTKD.LOGIT_LOSS", "LUMINET").couples_samples
    assert LOGIT_LOSSES["LUMINET"](normal(1), normal(1), torch.zeros(8), 4.0) == 0
