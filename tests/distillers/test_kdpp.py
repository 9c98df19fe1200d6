"""Laws of KD++."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kdpp import nd_loss
from mdistiller_dfpt.testing import CLASSES, tiny_batch, tiny_distiller

from ..golden import normal


def test_the_norm_matters_up_to_the_teachers_and_the_direction_always():
    teacher, direction = 3 * F.normalize(normal(1, (4, 6))), F.normalize(normal(2, (4, 6)))
    losses = [nd_loss(k * direction, teacher, direction) for k in (1.0, 2.0, 3.0, 9.0)]
    torch.testing.assert_close(torch.stack(losses), torch.tensor([2 / 3, 1 / 3, 0.0, 0.0]).double())
    torch.testing.assert_close(nd_loss(-9 * direction, teacher, direction), torch.tensor(2.0).double())


def test_directions_are_the_classes_mean_embeddings():
    distiller = tiny_distiller("KDPP")
    batch = tiny_batch()
    with torch.no_grad():
        pooled = distiller.teacher_network(batch.image)[1]["pooled_feat"]
    expected = F.normalize(torch.stack([pooled[batch.target == c].mean(0) for c in range(CLASSES)]))
    torch.testing.assert_close(distiller.directions, expected)


def test_a_dead_embedding_has_a_finite_gradient():
    s = torch.zeros(2, 3, requires_grad=True)
    nd_loss(s, torch.zeros(2, 3), torch.eye(3)[:2]).backward()
    assert s.grad.isfinite().all()
