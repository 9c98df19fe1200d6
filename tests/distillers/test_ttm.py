"""Laws of TTM and WTTM."""

import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.ttm import ttm_loss, wttm_loss

from ..golden import normal


@pytest.mark.parametrize("loss", [ttm_loss, wttm_loss])
def test_with_exponent_one_it_is_kd_at_temperature_one(loss):
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(loss(student, teacher, 1.0), kd_loss(student, teacher, 1.0))


def test_ttm_by_definition():
    student, teacher = normal(1), normal(2)
    powers = teacher.softmax(1) ** 0.3
    q = powers / powers.sum(1, keepdim=True)
    divergences = (q * (q.log() - student.log_softmax(1))).sum(1)
    torch.testing.assert_close(ttm_loss(student, teacher, 0.3), divergences.mean())
    torch.testing.assert_close(wttm_loss(student, teacher, 0.3), (powers.sum(1) * divergences).mean())


@pytest.mark.parametrize("loss", [ttm_loss, wttm_loss])
def test_the_best_student_has_the_teachers_powers_as_its_own_probabilities(loss):
    teacher = normal(2)
    student = (0.3 * teacher + 5).requires_grad_()
    value = loss(student, teacher, 0.3)
    assert value.abs() < 1e-12
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12


def test_a_sample_of_a_smooth_teacher_weighs_more():
    student = normal(1, (1, 100))
    sharp, smooth = 10 * normal(2, (1, 100)), 0.1 * normal(2, (1, 100))
    ratio = [wttm_loss(student, t, 0.3) / ttm_loss(student, t, 0.3) for t in (sharp, smooth)]
    assert 1 <= ratio[0] < ratio[1] <= 100**0.7 + 1e-9
