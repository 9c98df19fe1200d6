"""Laws of KD-SVD."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.distillers.kdsvd import align, kdsvd_loss, singular_vectors
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.smoke import smoke

from ..golden import normal


def maps(seed, widths=(6, 6, 6), sizes=(4, 4, 2)):
    return [normal(seed + i, (3, c, s, s)) for i, (c, s) in enumerate(zip(widths, sizes, strict=True))]


def test_kdsvd_is_zero_for_equal_maps_whatever_their_scale():
    a = maps(1)
    assert kdsvd_loss(a, [x.clone() for x in a], 1) < 1e-20
    assert kdsvd_loss([3 * x for x in a], a, 1) < 1e-20


def by_definition(student, teacher, over_channels):
    """The loss with one singular vector, sample by sample, of maps of one size in each stage.

    The sign of the teacher's vectors, which is arbitrary, is that of `singular_vectors`.
    """
    loss, before = 0.0, None
    for s, t in zip(student, teacher, strict=True):
        now = []
        targets = singular_vectors(t, 1, over_channels)[1][:, :, 0].numpy()
        for matrix, target in zip(s.detach().flatten(2).numpy(), targets, strict=True):
            u, _, vh = np.linalg.svd(matrix, full_matrices=False)
            candidates = (u.T if over_channels else vh)[:4]
            cosines = candidates @ target
            best = np.abs(cosines).argmax()
            now.append((candidates[best] * np.sign(cosines[best]), target))
        for new, old in zip(now, before, strict=True) if before else ():
            of_student, of_teacher = (np.exp(-((x[:, None] - y) ** 2) / 8) for x, y in zip(new, old, strict=True))
            loss += ((of_student - of_teacher) ** 2).sum() / len(now)
        before = now
    return torch.tensor(loss)


def test_the_loss_by_definition_over_channels():
    a, b = maps(1), maps(9)
    torch.testing.assert_close(kdsvd_loss(a, b, 1), by_definition(a, b, True))


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
    pooled = [F.adaptive_avg_pool2d(x, size) for x, size in zip(a, (4, 4, 2), strict=True)]
    of_teacher = [F.adaptive_avg_pool2d(x, size) for x, size in zip(maps(9), (4, 4, 2), strict=True)]
    torch.testing.assert_close(loss.detach(), by_definition(pooled, of_teacher, False))
    assert all(x.grad.isfinite().all() for x in a)


def test_a_map_with_equal_singular_values_passes_no_gradient_instead_of_nan():
    flat = torch.zeros(2, 4, 2, 2, dtype=torch.float64)
    flat[0] = torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)
    flat[1] = normal(3, (4, 2, 2))
    leaves = [flat.clone().requires_grad_(), flat.clone().requires_grad_()]
    teacher = [normal(5, (2, 4, 2, 2)), normal(6, (2, 4, 2, 2))]
    kdsvd_loss(leaves, teacher, 1).backward()
    assert all(x.grad.isfinite().all() for x in leaves)
    alone = [x.detach()[1:].requires_grad_() for x in leaves]
    kdsvd_loss(alone, [t[1:] for t in teacher], 1).backward()
    for leaf, one in zip(leaves, alone, strict=True):
        assert not leaf.grad[0].any()
        torch.testing.assert_close(leaf.grad[1], one.grad[0] / 2, msg="the other sample's, of the mean over both")


def test_channels_last_makes_no_difference():
    a, b = maps(1), maps(9)
    last = [x.contiguous(memory_format=torch.channels_last) for x in a]
    torch.testing.assert_close(kdsvd_loss(last, b, 1), kdsvd_loss(a, b, 1))


def test_more_singular_vectors_than_a_stage_has_are_refused_at_the_start():
    words = ["DISTILLER.STUDENT", "resnet8x4", "DISTILLER.TEACHER", "resnet32x4", "KDSVD.K"]
    smoke(load_cfg(None, ["DISTILLER.TYPE", "KDSVD", *words, "64"]))
    with pytest.raises(ConfigError, match=r"KDSVD.K is 65; a stage of these networks has 64 singular vectors"):
        smoke(load_cfg(None, ["DISTILLER.TYPE", "KDSVD", *words, "65"]))
