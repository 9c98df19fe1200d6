"""Laws of KD-SVD."""

import torch

from mdistiller_dfpt.distillers.kdsvd import align, kdsvd_loss, singular_vectors

from ..golden import normal


def maps(seed, widths=(6, 6, 6), sizes=(4, 4, 2)):
    return [normal(seed + i, (3, c, s, s)) for i, (c, s) in enumerate(zip(widths, sizes, strict=True))]


def test_kdsvd_is_zero_for_equal_maps_whatever_their_scale():
    a = maps(1)
    assert kdsvd_loss(a, [x.clone() for x in a], 1) < 1e-20
    assert kdsvd_loss([3 * x for x in a], a, 1) < 1e-20
    assert kdsvd_loss(a, maps(9), 1) > 0


def test_the_sign_of_a_map_does_not_matter():
    """The sign of singular vectors is arbitrary; the alignment removes it."""
    a, b = maps(1), maps(9)
    torch.testing.assert_close(kdsvd_loss([-x for x in a], b, 1), kdsvd_loss(a, b, 1))


def test_alignment_finds_the_nearest_vector_and_turns_it():
    _, vectors = singular_vectors(normal(1, (2, 6, 4, 4)), 3, True)
    shuffled = torch.stack([-vectors[:, :, 2], vectors[:, :, 0], vectors[:, :, 1]], 2)
    torch.testing.assert_close(align(shuffled, vectors), vectors)


def test_widths_and_sizes_may_differ():
    a = [x.requires_grad_() for x in maps(1, (4, 8, 5), (8, 4, 4))]
    loss = kdsvd_loss(a, maps(9), 1)
    loss.backward()
    assert loss > 0
    assert all(x.grad.isfinite().all() for x in a)


def test_a_map_with_equal_singular_values_passes_no_gradient_instead_of_nan():
    flat = torch.zeros(2, 4, 2, 2, dtype=torch.float64)
    flat[0] = torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)
    flat[1] = normal(3, (4, 2, 2))
    leaves = [flat.clone().requires_grad_(), flat.clone().requires_grad_()]
    kdsvd_loss(leaves, [normal(5, (2, 4, 2, 2)), normal(6, (2, 4, 2, 2))], 1).backward()
    assert all(x.grad.isfinite().all() for x in leaves)
    assert leaves[1].grad[1].abs().sum() > 0


def test_channels_last_makes_no_difference():
    a, b = maps(1), maps(9)
    last = [x.contiguous(memory_format=torch.channels_last) for x in a]
    torch.testing.assert_close(kdsvd_loss(last, b, 1), kdsvd_loss(a, b, 1))
