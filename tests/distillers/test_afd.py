"""Laws of AFD."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.afd import PairAttention, afd_loss, spatial_energy
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal

SHAPES = ((8, 4, 8, 8), (8, 6, 4, 4))


def pyramid(seed):
    return [normal(seed + i, shape) for i, shape in enumerate(SHAPES)]


def test_it_ignores_order_scale_and_sign_of_the_channels():
    student, teacher = pyramid(1), pyramid(5)
    attention = torch.full((8, 2, 2), 0.5).double()
    changed = [-3 * t.flip(1) for t in teacher]
    torch.testing.assert_close(afd_loss(student, changed, attention), afd_loss(student, teacher, attention))


def test_attention_selects_the_pairs():
    student, teacher = pyramid(1), pyramid(5)
    chosen = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double().expand(8, 2, 2)
    size = [s.shape[2:] for s in teacher]
    pairs = [(student[1], teacher[0], size[0]), (student[0], teacher[1], size[1])]
    expected = sum(F.mse_loss(spatial_energy(s, n), spatial_energy(t, n)) for s, t, n in pairs)
    torch.testing.assert_close(afd_loss(student, teacher, chosen), expected)


def test_each_teacher_map_distributes_one_among_the_students():
    attention = PairAttention([4, 6], [4, 6], 3).double()(pyramid(1), pyramid(5))
    assert attention.shape == (8, 2, 2)
    torch.testing.assert_close(attention.sum(2), torch.ones(8, 2).double())
    alone = PairAttention([4], [4, 6], 3).double()(pyramid(1)[:1], pyramid(5))
    torch.testing.assert_close(alone, torch.ones(8, 2, 1).double())


def test_energies_have_unit_length():
    x = pyramid(1)[0]
    torch.testing.assert_close(spatial_energy(x, (2, 2)).norm(dim=1), torch.ones(8).double())


def test_its_kd_term_is_that_of_kd():
    batch = tiny_batch()
    mine, plain = tiny_distiller("AFD"), tiny_distiller("KD")
    torch.testing.assert_close(mine(batch)[1]["kd"].weighted, plain(batch)[1]["kd"].weighted)
