"""Laws of PKT."""

import torch

from mdistiller_dfpt.distillers.pkt import neighbour_probability, pkt_loss

from ..golden import normal


def test_pkt_is_invariant_to_each_samples_scale():
    a, b = normal(1, (8, 12)), normal(2, (8, 20))
    scale = torch.rand(8, 1).double() + 0.5
    torch.testing.assert_close(pkt_loss(a * scale, b), pkt_loss(a, b), rtol=1e-5, atol=1e-12)


def test_neighbour_probabilities_are_distributions_and_equal_ones_cost_nothing():
    a = normal(1, (8, 12))
    probability = neighbour_probability(a)
    assert (probability >= 0).all()
    torch.testing.assert_close(probability.sum(1), torch.ones(8).double())
    assert pkt_loss(a, a.clone()).abs() < 1e-15
    b = normal(2, (8, 12))
    other = neighbour_probability(b)
    expected = (other * (other / probability).log()).mean()
    torch.testing.assert_close(pkt_loss(a, b), expected, rtol=1e-4, atol=0)
