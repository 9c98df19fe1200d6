"""Laws of AT."""

import torch

from mdistiller_dfpt.distillers.at import at_loss, attention_map

from ..golden import normal

STUDENT = [(8, 16, 16, 16), (8, 32, 8, 8), (8, 64, 4, 4)]
TEACHER = [(8, 24, 16, 16), (8, 48, 8, 8), (8, 96, 4, 4)]


def test_at_is_invariant_to_the_order_of_channels_and_to_scale():
    a, b = normal(1, (4, 6, 5, 5)), normal(2, (4, 6, 5, 5))
    expected = at_loss([a], [b], 2.0)
    torch.testing.assert_close(at_loss([a[:, torch.randperm(6)] * 3], [b * 0.1], 2.0), expected)
    assert at_loss([a], [a * 7], 2.0) < 1e-15


def test_maps_of_different_size_are_compared_at_the_smaller_size():
    a, b = normal(1, (4, 6, 8, 8)), normal(2, (4, 3, 4, 4))
    pooled = torch.nn.functional.avg_pool2d(a, 2)
    torch.testing.assert_close(at_loss([a], [b], 2.0), at_loss([pooled], [b], 2.0))


def test_an_attention_map_has_unit_length_and_a_dead_one_stays_zero():
    torch.testing.assert_close(attention_map(normal(1, (4, 6, 5, 5)), 2.0).norm(dim=1), torch.ones(4).double())
    assert attention_map(torch.zeros(2, 3, 4, 4), 2.0).abs().sum() == 0
