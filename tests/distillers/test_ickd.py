"""Laws of ICKD."""

import pytest
import torch

from mdistiller_dfpt.distillers.ickd import channel_correlation, ickd_loss

from ..golden import normal


def test_it_ignores_positions_and_scale_of_the_teacher():
    student, teacher = normal(1, (4, 6, 4, 4)), normal(2, (4, 6, 8, 8))
    rotation = torch.linalg.qr(normal(3, (64, 64))).Q
    turned = (5 * teacher.flatten(2) @ rotation).unflatten(2, (8, 8))
    torch.testing.assert_close(ickd_loss(student, turned), ickd_loss(student, teacher))
    assert ickd_loss(teacher, turned) < 1e-20


def test_channels_that_do_not_overlap_are_uncorrelated():
    apart = torch.eye(4).reshape(1, 4, 2, 2)
    torch.testing.assert_close(channel_correlation(apart), torch.eye(4)[None])
    # All channels equal: each row is 1 / sqrt(C); its squared distance to a unit vector is 2 - 2 / sqrt(C)
    assert ickd_loss(torch.ones(1, 4, 2, 2), apart).item() == pytest.approx(1.0)
