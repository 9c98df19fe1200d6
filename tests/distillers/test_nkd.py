"""Laws of NKD."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.nkd import nkd_loss

from ..golden import labels, normal


def test_nkd_by_definition():
    student, teacher, target = normal(1), normal(2), labels()
    rows = torch.arange(8)
    s, t = student.softmax(1), teacher.softmax(1)
    own = -(t[rows, target] * s[rows, target].log()).mean()
    s, t = (student / 2).softmax(1), (teacher / 2).softmax(1)
    others = F.one_hot(target, 100) == 0
    ratio = [(p * others) / (p * others).sum(1, keepdim=True) for p in (s, t)]
    cross = -(ratio[1] * ratio[0].clamp(min=1e-300).log() * others).sum(1).mean()
    torch.testing.assert_close(nkd_loss(student, teacher, target, 1.5, 2.0), own + 1.5 * 4 * cross)


def test_the_non_target_part_is_smallest_where_the_distributions_agree():
    teacher, target = normal(2), labels()
    student = teacher.clone().requires_grad_()
    gap = nkd_loss(student, teacher, target, 1.0, 2.0) - nkd_loss(student, teacher, target, 0.0, 2.0)
    assert torch.autograd.grad(gap, student)[0].abs().max() < 1e-12


def test_nkd_is_invariant_to_shifts_of_either_sides_logits():
    student, teacher, target = normal(1), normal(2), labels()
    shifted = nkd_loss(student + 3, teacher - 5, target, 1.5, 1.0)
    torch.testing.assert_close(shifted, nkd_loss(student, teacher, target, 1.5, 1.0))
