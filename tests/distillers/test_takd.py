"""Laws of TAKD, and a value of its authors' code (Teacher-Assistant-Knowledge-Distillation 0f8168f, train.py:87-99)."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_distiller, tiny_networks

from ..golden import labels, normal
from ..official import check


def test_loss_and_gradient_are_those_of_the_authors_code():
    """At lambda 0.9 and T 4; their divergence is a mean over the classes too, so the weight of KD is lambda / 100."""
    student = normal(1).requires_grad_()
    loss = 0.1 * F.cross_entropy(student, labels()) + 0.9 / 100 * kd_loss(student, normal(93), 4.0)
    check(loss, 0.609497599389971, [student], [0.03752370061040681])


def test_the_last_assistant_is_matched_and_the_teacher_is_not_used():
    distiller = tiny_distiller("TAKD")
    batch = tiny_batch()
    logits, terms = distiller(batch)
    with torch.no_grad():
        _, assistant = (network(batch.image)[0] for network in distiller.frozen())
    torch.testing.assert_close(terms["kd"].weighted, 0.9 * kd_loss(logits, assistant, 4.0))


def test_the_assistant_is_frozen_and_not_saved_again():
    distiller = tiny_distiller("TAKD")
    _, assistant = distiller.frozen()
    assert not assistant.training
    assert not any(p.requires_grad for p in assistant.parameters())
    assert all(key.startswith("student.") for key in distiller.training_state())


def test_without_assistants_it_is_kd():
    student, teacher = tiny_networks()
    distiller = build_distiller(tiny_cfg("DISTILLER.TYPE", "TAKD"), student, teacher, 48).train()
    batch = tiny_batch()
    logits, terms = distiller(batch)
    with torch.no_grad():
        torch.testing.assert_close(terms["kd"].weighted, 0.9 * kd_loss(logits, teacher(batch.image)[0], 4.0))
