"""Laws of SP."""

import torch

from mdistiller_dfpt.distillers.sp import similarity, sp_loss

from ..golden import normal


def test_sp_is_invariant_to_scale_and_to_rotations_of_the_feature_space():
    a, b = normal(1, (8, 12)), normal(2, (8, 20))
    rotation = torch.linalg.qr(normal(3, (12, 12)))[0]
    torch.testing.assert_close(sp_loss(5 * a @ rotation, b), sp_loss(a, b))


def test_sp_is_zero_for_equal_features_and_follows_the_order_of_samples():
    a, order = normal(1, (8, 3, 2, 2)), torch.randperm(8)
    assert sp_loss(a, a.clone()) == 0
    torch.testing.assert_close(similarity(a[order]), similarity(a)[order][:, order])


def test_sp_takes_maps_in_channels_last():
    a, b = normal(1, (8, 6, 4, 4)), normal(2, (8, 3, 4, 4))
    last = a.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(sp_loss(last, b), sp_loss(a, b))
