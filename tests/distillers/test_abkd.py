"""Laws of ABKD."""

import pytest
import torch

from mdistiller_dfpt.distillers.abkd import abkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss

from ..golden import normal

PAIRS = [(0.8, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.7, 0.0), (0.0, 0.7), (0.0, 0.0), (0.5, -0.5), (1.2, -0.2)]


def test_it_is_kl_and_reverse_kl_at_the_corners():
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(16 * abkd_loss(student, teacher, 1.0, 0.0, 4.0), kd_loss(student, teacher, 4.0))
    torch.testing.assert_close(16 * abkd_loss(student, teacher, 0.0, 1.0, 4.0), kd_loss(teacher, student, 4.0))


def test_with_equal_exponents_of_one_half_it_is_the_hellinger_distance():
    student, teacher = normal(1), normal(2)
    roots = [(x / 4).softmax(1).sqrt() for x in (student, teacher)]
    expected = 2 * (roots[0] - roots[1]).pow(2).sum(1).mean()
    torch.testing.assert_close(abkd_loss(student, teacher, 0.5, 0.5, 4.0), expected)


def test_with_both_one_it_is_half_the_squared_distance():
    student, teacher = normal(1), normal(2)
    p, q = ((x / 4).softmax(1) for x in (student, teacher))
    torch.testing.assert_close(abkd_loss(student, teacher, 1.0, 1.0, 4.0), 0.5 * (p - q).pow(2).sum(1).mean())


@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_it_is_zero_and_smallest_where_both_agree(alpha, beta):
    teacher = normal(2)
    student = (teacher + 3).requires_grad_()
    loss = abkd_loss(student, teacher, alpha, beta, 4.0)
    assert loss.abs() < 1e-10
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-10
    assert abkd_loss(normal(1), teacher, alpha, beta, 4.0) > 1e-3


@pytest.mark.parametrize(("alpha", "beta"), PAIRS)
def test_special_cases_are_limits_of_the_general_one(alpha, beta):
    student, teacher = normal(1), normal(2)
    near = abkd_loss(student, teacher, alpha + 3e-5, beta + 2e-5, 4.0)
    torch.testing.assert_close(near, abkd_loss(student, teacher, alpha, beta, 4.0), rtol=2e-3, atol=0)
    assert abkd_loss(teacher, student, beta, alpha, 4.0).item() == pytest.approx(
        abkd_loss(student, teacher, alpha, beta, 4.0).item()
    )
