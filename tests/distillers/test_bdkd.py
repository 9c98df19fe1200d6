"""BD-KD: KD in both directions, with weights that depend on who is surer."""

import pytest
import torch

from mdistiller_dfpt.distillers.bdkd import bdkd_loss, entropy, reverse_kd
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import LOGIT_LOSSES
from mdistiller_dfpt.testing import tiny_distiller

from ..golden import labels, normal

STUDENT, TEACHER = normal(1), normal(2)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_with_equal_weights_it_is_kd_in_both_directions(temperature):
    found = bdkd_loss(STUDENT, TEACHER, temperature, (1.0, 0.0), (1.0, 0.0))
    torch.testing.assert_close(found, kd_loss(STUDENT, TEACHER, temperature))
    found = bdkd_loss(STUDENT, TEACHER, temperature, (0.5, 3.0), (0.5, 3.0))
    forward, reverse = kd_loss(STUDENT, TEACHER, temperature), kd_loss(TEACHER, STUDENT, temperature)
    torch.testing.assert_close(found, 0.5 * forward + 3 * reverse)


def test_each_sample_has_the_weights_of_its_side():
    flat = torch.where(torch.arange(8)[:, None] < 3, 0.1, 1.0)
    student, teacher = STUDENT, STUDENT * flat + 0.1 * TEACHER  # a teacher that is less sure of the first three
    assert (entropy(student)[:3] < entropy(teacher)[:3]).all()
    is_surer = entropy(student) < entropy(teacher)
    assert 3 <= is_surer.sum() < 8
    expected = [
        kd_loss(s[None], t[None], 1.0) if surer else kd_loss(t[None], s[None], 1.0)
        for s, t, surer in zip(student, teacher, is_surer, strict=True)
    ]
    found = bdkd_loss(student, teacher, 1.0, (1.0, 0.0), (0.0, 1.0))
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_equal_networks_have_no_loss_and_the_entropy_is_bounded():
    assert bdkd_loss(STUDENT, STUDENT, 4.0, (1.0, 2.0), (2.0, 1.0)).abs() < 1e-12
    torch.testing.assert_close(entropy(torch.zeros(1, 100).double()), torch.tensor([100.0]).double().log())


def test_the_reverse_divergence_is_a_logit_loss_whose_gradient_is_the_learners():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone()
    loss = LOGIT_LOSSES["REVERSE_KD"](student, teacher, labels(), 4.0)
    torch.testing.assert_close(loss, kd_loss(TEACHER, STUDENT, 4.0))
    (gradient,) = torch.autograd.grad(loss, student)
    moved = [reverse_kd(STUDENT + 1e-6 * d, TEACHER, labels(), 4.0) for d in (gradient, -gradient)]
    torch.testing.assert_close((moved[0] - moved[1]) / 2e-6, gradient.pow(2).sum(), rtol=1e-5, atol=1e-10)


def test_its_teacher_is_a_peer_and_no_other():
    terms = tiny_distiller("BDKD").teacher.__class__.__name__
    assert terms == "Peer"
    with pytest.raises(ConfigError, match="BDKD requires a teacher of kind peer"):
        tiny_distiller("BDKD", "DISTILLER.TEACHER_KIND", "ensemble")
