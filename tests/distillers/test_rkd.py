"""Laws of RKD."""

import torch

from mdistiller_dfpt.distillers.rkd import angles, pairwise_distance, rkd_loss

from ..golden import normal


def test_rkd_is_invariant_to_rotation_shift_and_scale_of_either_space():
    a, b = normal(1, (6, 5)), normal(2, (6, 9))
    rotation = torch.linalg.qr(normal(3, (5, 5)))[0]
    torch.testing.assert_close(rkd_loss(3 * a @ rotation + normal(4, (1, 5)), b, 25, 50), rkd_loss(a, b, 25, 50))
    assert rkd_loss(3 * a @ rotation, a, 25, 50) < 1e-9


def test_distances_are_euclidean_and_their_gradient_is_finite_where_samples_coincide():
    a = normal(1, (6, 5))
    torch.testing.assert_close(pairwise_distance(a, False, 1e-12), torch.cdist(a, a), atol=1e-6, rtol=1e-6)
    twins = a[[0, 0, 1]].requires_grad_()
    rkd_loss(twins, normal(2, (3, 5)), 25, 50).backward()
    assert twins.grad.isfinite().all()


def test_angles_of_a_right_triangle():
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(angles(corner)[0, 1, 2], torch.tensor(0.0))
    torch.testing.assert_close(angles(corner)[1, 0, 2], torch.tensor(0.5).sqrt())


def test_each_part_has_its_own_weight():
    a, b = normal(1, (6, 5)), normal(2, (6, 9))
    parts = rkd_loss(a, b, 25, 0) + rkd_loss(a, b, 0, 50)
    torch.testing.assert_close(rkd_loss(a, b, 25, 50), parts)
