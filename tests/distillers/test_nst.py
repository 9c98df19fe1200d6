"""Laws of NST."""

import torch

from mdistiller_dfpt.distillers.nst import nst_loss

from ..golden import normal


def test_nst_is_zero_for_equal_maps():
    a = normal(1, (4, 6, 5, 5))
    assert nst_loss(a, a.clone()).abs() < 1e-12


def test_nst_treats_channels_as_a_set_of_directions():
    a, b = normal(1, (4, 6, 5, 5)), normal(2, (4, 9, 5, 5))
    expected = nst_loss(a, b)
    torch.testing.assert_close(
        nst_loss(a[:, torch.randperm(6)] * torch.rand(4, 6, 1, 1).double().add(0.1), b), expected
    )
    torch.testing.assert_close(nst_loss(torch.cat([a, a], 1), b), expected)


def test_nst_is_the_mean_over_pairs_of_channels_by_definition():
    a, b = normal(1, (2, 3, 2, 2)), normal(2, (2, 4, 2, 2))

    def kernel(x, y):
        unit = [[c.flatten() / c.norm() for c in sample] for sample in (x, y)]
        return sum((p @ q) ** 2 for p in unit[0] for q in unit[1]) / (len(x) * len(y))

    expected = sum(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t) for s, t in zip(a, b, strict=True)) / 2
    torch.testing.assert_close(nst_loss(a, b), expected)
