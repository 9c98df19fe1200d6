"""Laws of KD."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


def test_kd_is_zero_with_zero_gradient_when_logits_agree():
    logits = normal(1).requires_grad_()
    loss = kd_loss(logits, logits.detach().clone(), 3.0)
    assert abs(loss.item()) < 1e-12
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12


def test_kd_is_invariant_to_shifts_of_either_sides_logits():
    student, teacher = normal(1), normal(2)
    shift = normal(4, (8, 1))
    torch.testing.assert_close(kd_loss(student + shift, teacher - 3 * shift, 4.0), kd_loss(student, teacher, 4.0))


def test_kd_has_the_definitions_value():
    student, teacher = normal(1), normal(2)
    p, q = (student / 2).softmax(1), (teacher / 2).softmax(1)
    expected = 4 * (q * (q.log() - p.log())).sum(1).mean()
    torch.testing.assert_close(kd_loss(student, teacher, 2.0), expected)


def test_kd_at_high_temperature_is_the_distance_of_centred_logits():
    """The limit that the factor temperature**2 is for: half the mean squared distance over the classes."""
    student, teacher = normal(1), normal(2)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    expected = (centred[0] - centred[1]).pow(2).sum(1).mean() / (2 * 100)
    torch.testing.assert_close(kd_loss(student, teacher, 1e4), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("gap", [1e3, 1e6])
def test_kd_is_finite_at_large_gaps(gap):
    student = torch.tensor([[0.0, gap], [gap, 0.0]], requires_grad=True)
    loss = kd_loss(student, student.detach().flip(1), 4.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_the_distiller_weights_cross_entropy_and_kd():
    distiller = tiny_distiller("KD", "KD.TEMPERATURE", "2", "KD.LOSS.CE_WEIGHT", "0.3", "KD.LOSS.KD_WEIGHT", "5")
    batch = tiny_batch()
    logits, terms = distiller(batch)
    with torch.no_grad():
        teacher, _ = distiller.teacher_network(batch.image)
    torch.testing.assert_close(terms["ce"].weighted, 0.3 * F.cross_entropy(logits, batch.target))
    torch.testing.assert_close(terms["kd"].weighted, 5 * kd_loss(logits, teacher, 2.0))


def test_the_temperature_ends_where_float32_does():
    """At 1000 the loss is within half a per cent of the one in double; at 1e6 it would be off by a factor of 1000."""
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(64, 100), 3 * torch.randn(64, 100)
    exact = kd_loss(student.double(), teacher.double(), 1000.0).item()
    assert kd_loss(student, teacher, 1000.0).item() == pytest.approx(exact, rel=5e-3)
    with pytest.raises(ConfigError, match=r"KD.TEMPERATURE.*in \(0, 1000\]"):
        load_cfg(None, ["DISTILLER.TYPE", "KD", "KD.TEMPERATURE", "1e6"])
