"""Laws of TAKD."""

import torch

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_distiller, tiny_networks


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
