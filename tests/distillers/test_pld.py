"""Laws of PLD."""

import math

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.pld import PLD, pld_loss
from mdistiller_dfpt.losses.logit_losses import per_sample
from mdistiller_dfpt.testing import check_distiller, take_steps, tiny_method

from ..golden import labels, normal


def test_three_classes_by_hand():
    """Label 1, then class 2, then 0; the student's odds 1 : 2 : 5, the teacher's probabilities 1/6, 1/2, 1/3.

    Choices: 2 of 8 at weight 1/2, 5 of 6 at 1/3, the last one for certain.
    """
    student, teacher = torch.tensor([[1.0, 2, 5]]).double().log(), torch.tensor([[1.0, 3, 2]]).double().log()
    expected = math.log(4) / 2 + math.log(6 / 5) / 3
    assert pld_loss(student, teacher, torch.tensor([1]), 1.0).item() == pytest.approx(expected, rel=1e-12)


def test_the_label_is_first_where_the_teacher_is_wrong():
    """Label 2, then class 1, then 0: 5 of 8 at weight 1/3, 2 of 3 at 1/2."""
    student, teacher = torch.tensor([[1.0, 2, 5]]).double().log(), torch.tensor([[1.0, 3, 2]]).double().log()
    expected = math.log(8 / 5) / 3 + math.log(3 / 2) / 2
    assert pld_loss(student, teacher, torch.tensor([2]), 1.0).item() == pytest.approx(expected, rel=1e-12)


def test_with_a_sure_teacher_it_is_cross_entropy():
    teacher = normal(2).scatter(1, labels()[:, None], 100.0)
    torch.testing.assert_close(pld_loss(normal(1), teacher, labels(), 0.5), F.cross_entropy(normal(1), labels()))


def test_of_two_classes_only_the_first_choice_counts():
    student, teacher, target = normal(1, (8, 2)), normal(2, (8, 2)), labels() % 2
    weights = teacher.softmax(1).gather(1, target[:, None])[:, 0]
    expected = (weights * F.cross_entropy(student, target, reduction="none")).mean()
    torch.testing.assert_close(pld_loss(student, teacher, target, 1.0), expected)


def test_a_high_temperature_weights_all_choices_the_same():
    student, teacher, target = normal(1, (1, 6)), normal(2, (1, 6)), torch.tensor([3])
    ranking = [3, *(c for c in teacher[0].argsort(descending=True).tolist() if c != 3)]
    choices = [student[0, ranking[k:]].logsumexp(0) - student[0, ranking[k]] for k in range(6)]
    torch.testing.assert_close(pld_loss(student, teacher, target, 1e9), torch.stack(choices).mean())


def test_a_shift_and_the_order_of_the_classes_have_no_effect():
    student, teacher, order = normal(1), normal(2), torch.randperm(100, generator=torch.Generator().manual_seed(0))
    expected = pld_loss(student, teacher, labels(), 4.0)
    torch.testing.assert_close(pld_loss(student + 3, teacher - 5, labels(), 4.0), expected)
    permuted = pld_loss(student[:, order], teacher[:, order], order.argsort()[labels()], 4.0)
    torch.testing.assert_close(permuted, expected)


def test_it_is_convex_in_the_students_logits():
    a, b = normal(1), normal(3)
    middle, ends = (
        pld_loss((a + b) / 2, normal(2), labels(), 4.0),
        [pld_loss(x, normal(2), labels(), 4.0) for x in (a, b)],
    )
    assert middle < sum(ends) / 2


def test_it_falls_towards_the_ranking_and_not_towards_the_teachers_logits():
    """Ever larger gaps in the teacher's order: each choice becomes certain, while the teacher's own logits are not."""
    teacher = normal(2, (1, 6))
    target = teacher.argmax(1)
    ranked = teacher.argsort(1).argsort(1).double()
    assert pld_loss(50 * ranked, teacher, target, 1.0) < 1e-12 < pld_loss(teacher, teacher, target, 1.0)


def test_it_is_a_mean_over_samples_under_vmap():
    each = per_sample(pld_loss, normal(1), normal(2), labels(), 4.0)
    torch.testing.assert_close(each.mean(), pld_loss(normal(1), normal(2), labels(), 4.0))


def test_another_temperature_obeys_the_laws_too():
    check_distiller(PLD, temperature=4.0)


def test_the_loss_of_a_student_falls():
    history = take_steps(tiny_method(PLD, knowing=True), 20, lr=0.02)
    assert history[-1] < history[0]
