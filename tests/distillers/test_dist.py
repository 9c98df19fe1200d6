"""Laws of DIST."""

import torch

from mdistiller_dfpt.distillers.dist import dist_loss
from mdistiller_dfpt.losses.logit_losses import pearson_distance

from ..golden import normal


def test_the_distance_is_invariant_to_positive_scale_and_shift_and_lies_in_zero_to_two():
    a, b = normal(1), normal(2)
    torch.testing.assert_close(pearson_distance(3 * a + 7, b), pearson_distance(a, b))
    assert pearson_distance(a, a.clone()) < 1e-10  # eps is added to the norms
    torch.testing.assert_close(pearson_distance(a, -a), torch.tensor(2.0).double())


def test_the_distance_is_one_minus_the_correlation():
    a, b = normal(1), normal(2)
    expected = 1 - sum(torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)) / 8
    torch.testing.assert_close(pearson_distance(a, b), expected)


def test_intra_is_inter_of_the_transposed_predictions_and_weights_are_linear():
    a, b = normal(1), normal(2)
    s, t = (a / 4).softmax(1), (b / 4).softmax(1)
    expected = 16 * (2 * pearson_distance(s, t) + 3 * pearson_distance(s.T, t.T))
    torch.testing.assert_close(dist_loss(a, b, 2.0, 3.0, 4.0), expected)


def test_constant_predictions_have_a_finite_gradient():
    flat = torch.zeros(4, 5, requires_grad=True)
    dist_loss(flat, torch.randn(4, 5), 1.0, 1.0, 1.0).backward()
    assert flat.grad.isfinite().all()
