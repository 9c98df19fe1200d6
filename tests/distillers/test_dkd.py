"""Laws of DKD."""

from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.distillers.dkd import dkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.losses.logit_losses import standardized, without_target
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import labels, normal


def test_dkd_with_the_teachers_own_weight_is_kd():
    student, teacher, target = normal(1), normal(2), labels()
    probability = (teacher / 3).softmax(1).gather(1, target[:, None])[:, 0]
    parts = [
        dkd_loss(student[i : i + 1], teacher[i : i + 1], target[i : i + 1], 1.0, 1 - probability[i].item(), 3.0)
        for i in range(8)
    ]
    torch.testing.assert_close(sum(parts) / 8, kd_loss(student, teacher, 3.0))


def test_the_others_part_is_invariant_to_the_targets_logit():
    student, teacher, target = normal(1), normal(2), labels()
    moved = student.scatter_add(1, target[:, None], torch.full((8, 1), 5.0).double())
    torch.testing.assert_close(dkd_loss(moved, teacher, target, 0, 1, 4), dkd_loss(student, teacher, target, 0, 1, 4))


@pytest.mark.parametrize("gap", [500.0, 1e4])
def test_dkd_is_finite_at_large_gaps(gap):
    student = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, -gap]], requires_grad=True)
    loss = dkd_loss(student, -student.detach(), torch.tensor([1, 0]), 1.0, 8.0, 4.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_without_target_keeps_the_others_in_order():
    logits = torch.arange(8.0).reshape(2, 4)
    assert without_target(logits, torch.tensor([0, 2])).tolist() == [[1, 2, 3], [4, 5, 7]]


def test_warm_up_and_standardisation_are_switches():
    batch = tiny_batch()
    plain = tiny_distiller("DKD", "DKD.WARMUP", "2")
    half, full = (plain(replace(batch, epoch=e))[1]["dkd"].weighted for e in (1, 2))
    torch.testing.assert_close(2 * half, full)
    other = tiny_distiller("DKD", "DKD.WARMUP", "0", "DKD.STANDARDIZE", "True")
    logits, terms = other(batch)
    with torch.no_grad():
        teacher = other.teacher_network(batch.image)[0]
    expected = dkd_loss(standardized(logits), standardized(teacher), batch.target, 1.0, 8.0, 4.0)
    torch.testing.assert_close(terms["dkd"].weighted, expected)
