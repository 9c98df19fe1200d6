"""Laws of ITRD."""

import math

import pytest
import torch

from mdistiller_dfpt.distillers.itrd import ITRD, correlation_loss, mutual_loss
from mdistiller_dfpt.testing import TinyNet, tiny_batch

from ..golden import normal


def test_correlations_ignore_shift_and_positive_scale_of_each_channel():
    student, teacher = normal(1, (8, 6)), normal(2, (8, 6))
    moved = (3 + torch.rand(6).double()) * student + normal(3, (6,))
    torch.testing.assert_close(correlation_loss(moved, 5 * teacher - 1, 1.5), correlation_loss(student, teacher, 1.5))


@pytest.mark.parametrize("alpha", [1.01, 1.5])
def test_equal_embeddings_have_the_least_correlation_loss(alpha):
    """r = (B - 1) / B in each of the D channels, so D terms of B^(-2 alpha)."""
    x = normal(1, (8, 6))
    assert correlation_loss(x, x, alpha).item() == pytest.approx(math.log2(6) - 2 * alpha * math.log2(8))


def test_a_constant_channel_counts_as_uncorrelated():
    student, teacher = normal(1, (8, 6)).requires_grad_(), normal(2, (8, 6))
    teacher[:, 0] = 0
    loss = correlation_loss(student, teacher, 1.0)
    others = correlation_loss(student[:, 1:], teacher[:, 1:], 1.0)
    torch.testing.assert_close(loss.exp2(), others.exp2() + 1)
    loss.backward()
    assert student.grad.isfinite().all()


def test_the_mutual_loss_ignores_lengths_and_rotations():
    student, teacher = normal(1, (8, 6)), normal(2, (8, 5))
    rotation = torch.linalg.qr(normal(3, (5, 5))).Q
    lengths = 1 + torch.rand(8, 1).double()
    moved = mutual_loss(lengths * student, lengths * teacher @ rotation)
    torch.testing.assert_close(moved, mutual_loss(student, teacher))


def test_a_teacher_that_tells_no_samples_apart_leaves_no_mutual_loss():
    assert abs(mutual_loss(normal(1, (8, 6)), torch.ones(8, 4).double())) < 1e-15


@pytest.mark.parametrize("width", [4, 6])
def test_only_at_unequal_widths_the_mutual_loss_trains_the_linear_layer(width):
    weights = {"alpha": 1.01, "ce_weight": 1.0, "correlation_weight": 2.0, "mutual_weight": 1.0}
    method = ITRD(TinyNet(4), TinyNet(width), **weights)
    (gradient,) = torch.autograd.grad(method(tiny_batch())[1]["mutual"].value, method.embed.weight, allow_unused=True)
    assert (gradient is None) == (width == 4)
