"""Laws of NORMKD."""

import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.normkd import normkd_loss

from ..golden import normal


def test_normkd_is_invariant_to_the_scale_of_the_students_logits_and_to_shifts():
    student, teacher = normal(1), normal(2)
    scale = torch.rand(8, 1).double() + 0.5
    moved = normkd_loss(scale * student + 3, teacher - 5, 2.0)
    torch.testing.assert_close(moved, normkd_loss(student, teacher, 2.0))


def test_its_scale_is_that_of_the_teachers_logits_squared():
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(normkd_loss(student, 3 * teacher, 2.0), 9 * normkd_loss(student, teacher, 2.0))


def test_with_equal_deviations_it_is_kd_at_their_multiple_as_temperature():
    student, teacher = (1.7 * z / z.std(1, keepdim=True) for z in (normal(1), normal(2)))
    torch.testing.assert_close(normkd_loss(student, teacher, 2.0), kd_loss(student, teacher, 3.4))


def test_constant_logits_give_finite_gradients():
    student = torch.zeros(8, 100, requires_grad=True)
    loss = normkd_loss(student, normal(2).float(), 2.0)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()
