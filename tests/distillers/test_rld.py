"""Laws of RLD."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.dkd import dkd_loss
from mdistiller_dfpt.distillers.rld import rld_loss

from ..golden import labels, normal


def right(logits, target):
    """The same logits, with the largest of each sample at its target."""
    return logits.scatter(1, target[:, None], logits.amax(1, keepdim=True) + 1)


def test_where_the_teacher_is_right_it_is_dkd():
    student, target = normal(1), labels()
    teacher = right(normal(2), target)
    mine = rld_loss(student, teacher, target, 1.5, 8.0, 4.0, 4.0)
    torch.testing.assert_close(mine, dkd_loss(student, teacher, target, 1.5, 8.0, 4.0))


def test_the_confidence_is_that_of_the_teachers_first_class_right_or_wrong():
    student, teacher, target = normal(1), normal(2), labels()
    swapped = teacher.roll(1, 1)  # another first class, with the same confidence
    mine = rld_loss(student, teacher, target, 1.0, 0.0, 4.0, 1.0)
    torch.testing.assert_close(rld_loss(student, swapped, target, 1.0, 0.0, 4.0, 1.0), mine)


def test_classes_that_the_teacher_ranks_above_the_target_get_no_gradient_of_the_correlation():
    teacher, target = normal(2), labels()
    student = normal(1).requires_grad_()
    (gradient,) = torch.autograd.grad(rld_loss(student, teacher, target, 0.0, 1.0, 4.0, 1.0), student)
    masked = teacher >= teacher.gather(1, target[:, None])
    assert gradient[masked].abs().max() == 0
    assert gradient[~masked].abs().min() > 0


def test_a_target_that_the_teacher_ranks_last_leaves_no_correlation():
    target, teacher = labels(), normal(2)
    teacher = teacher.scatter(1, target[:, None], -50.0)
    student = normal(1).requires_grad_()
    loss = rld_loss(student, teacher, target, 0.0, 8.0, 4.0, 1.0)
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].abs().max() == 0


def test_rld_is_zero_for_a_student_that_equals_a_teacher_without_errors():
    target = labels()
    teacher = right(normal(2), target)
    assert rld_loss(teacher, teacher, target, 1.0, 8.0, 4.0, 2.0).abs() < 1e-12
    assert F.cross_entropy(teacher, target) > 0.1
