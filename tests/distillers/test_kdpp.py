"""Laws of KD++."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kdpp import embedding_projector, nd_loss
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


@pytest.mark.parametrize(("epochs", "epoch", "factor"), [(20, 1, 0.0), (20, 11, 0.5), (20, 30, 1.0), (0, 1, 1.0)])
def test_kd_alone_is_warmed_up_from_zero_in_the_first_epoch(epochs, epoch, factor):
    _, terms = tiny_distiller("KDPP", "KDPP.WARMUP_EPOCHS", str(epochs))(tiny_batch(epoch=epoch))
    weights = {name: term.in_force for name, term in terms.items()}
    assert weights == pytest.approx({"ce": 1.0, "kd": factor, "nd": 2.0})


def test_equal_widths_need_no_projector_and_others_have_a_norm_before_it():
    assert not list(embedding_projector(8, 8).parameters())
    projector = embedding_projector(8, 12)
    assert [type(layer).__name__ for layer in projector] == ["BatchNorm1d", "Dropout", "Linear"]
    assert projector[1].p == 0.5
    assert not projector[2].bias.any()
    assert projector(torch.randn(4, 8)).shape == (4, 12)
