"""An adapter on a teacher: its terms, whom they train, and its own learning rate."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import LOGIT_LOSSES
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.teachers.adapter import Adapted, adapter_loss
from mdistiller_dfpt.testing import check_teacher, snapshot, tiny_batch, tiny_distiller, tiny_teacher

from ..golden import labels, normal
from ..tiny_runs import outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "adapter")


def terms_of(adapted, student, ce=1.0, kd=1.0):
    return adapter_loss(adapted, student, labels(), LOGIT_LOSSES["KD"], 6.0, ce_weight=ce, kd_weight=kd)


def test_the_adapter_learns_the_label_and_to_be_a_target_that_the_student_can_reach():
    adapted, student = normal(1).requires_grad_(), normal(2).requires_grad_()
    terms = terms_of(adapted, student, 0.5, 2.0)
    expected = 0.5 * F.cross_entropy(adapted, labels()) + 2 * kd_loss(student, adapted, 6.0)
    torch.testing.assert_close(total(terms), expected)
    gradients = torch.autograd.grad(total(terms), [adapted, student], allow_unused=True)
    assert gradients[1] is None
    torch.testing.assert_close(gradients[0], torch.autograd.grad(expected, adapted)[0])


def test_its_divergence_vanishes_at_the_student():
    adapted = normal(1).requires_grad_()
    value = terms_of(adapted, normal(1), ce=0.0)["adapter_kd"].weighted
    torch.testing.assert_close(value, torch.zeros(()).double())
    assert torch.autograd.grad(value, adapted)[0].abs().max() < 1e-12


def test_an_adapter_of_zeros_leaves_the_teacher_as_it_is():
    teacher = tiny_teacher(Adapted)
    for parameter in teacher.adapter[-1].parameters():
        torch.nn.init.zeros_(parameter)
    paths = teacher(tiny_batch())
    assert torch.equal(paths["adapted"].logits, paths["teacher"].logits)
    assert paths["adapted"].features["feats"] is paths["teacher"].features["feats"]


def test_the_students_terms_do_not_reach_the_adapter():
    distiller = tiny_distiller("KD", *KIND)
    adapter = {id(p) for p in distiller.teacher.adapter.parameters()}
    for of_teacher in (False, True):
        distiller.zero_grad(set_to_none=True)
        _, terms = distiller(tiny_batch())
        total({k: t for k, t in terms.items() if (t.kind == "teacher") == of_teacher}).backward()
        reached = {id(p) for p in distiller.parameters() if p.grad is not None}
        assert reached == adapter if of_teacher else not reached & adapter


def test_its_learning_rate_is_a_fraction_of_the_schedules(tmp_path):
    trainer = run_of("KD", tmp_path, *KIND, "ADAPTER.LR_FACTOR", "0.01")
    before = snapshot(trainer.distiller)
    trainer.one_epoch()
    rates = {group["lr_factor"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates[0.01] == pytest.approx(0.01 * rates[1.0])
    moved = [(trainer.distiller.state_dict()[f"{key}.weight"] - before[f"{key}.weight"]).abs().max().item()
             for key in ("teacher.adapter.3", "student.fc")]  # fmt: skip
    assert 0 < moved[0] < 0.1 * moved[1]


@pytest.mark.parametrize("values", [{"ce_weight": 0.0}, {"kd_weight": 0.0, "hidden": 3}, {"logit_loss": "DIST"}])
def test_the_laws_hold_for_other_values(values):
    check_teacher(Adapted, **values)


@pytest.mark.parametrize("name", ["KD", "AT"])
def test_a_resumed_run_equals_an_unbroken_one(name, tmp_path):
    expected = outcome(run_of(name, tmp_path / "whole", "SOLVER.EPOCHS", "3", *KIND))
    stopped_after(1, name, tmp_path / "again", *KIND)
    assert outcome(run_of(name, tmp_path / "again", "SOLVER.EPOCHS", "3", *KIND), resume=True) == expected


def test_what_cannot_be_trained_or_cached_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ADAPTER.LOSS.CE_WEIGHT and LOSS.KD_WEIGHT are 0"):
        tiny_distiller("KD", *KIND, "ADAPTER.LOSS.CE_WEIGHT", "0.0", "ADAPTER.LOSS.KD_WEIGHT", "0.0")
    with pytest.raises(ConfigError, match="uses more of the teacher than the logits"):
        run_of("KD", tmp_path, *KIND, "DISTILLER.LOGITS_CACHE", str(tmp_path))
