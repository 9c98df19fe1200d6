"""Laws of CC."""

import torch

from mdistiller_dfpt.distillers.cc import cc_loss

from ..golden import normal


def test_cc_is_zero_at_equality_symmetric_and_quadratic():
    a, b = normal(1, (6, 5)), normal(2, (6, 5))
    assert cc_loss(a, a.clone()) == 0
    torch.testing.assert_close(cc_loss(a, b), cc_loss(b, a))
    torch.testing.assert_close(cc_loss(3 * a, 3 * b), 9 * cc_loss(a, b))


def test_cc_by_definition():
    a, b = normal(1, (3, 2)), normal(2, (3, 2))
    d = (a - b).abs()
    torch.testing.assert_close(cc_loss(a, b), (d[0] @ d[1] + d[1] @ d[2]) / 2)
