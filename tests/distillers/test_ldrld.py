"""Laws of LDRLD."""

import itertools
import math

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.ldrld import ldrld_loss

from ..golden import normal


def test_ldrld_by_definition():
    student, teacher = normal(1, (1, 12)), normal(2, (1, 12))
    order = student[0].argsort(descending=True).tolist()
    expected = kd_loss(student[:, order[:4]], teacher[:, order[:4]], 2.0)
    for (i, a), (j, b) in itertools.combinations(enumerate(order[:4], 1), 2):
        weight = 2 / (1.5 + j - i) * math.exp(-0.05 * (i + j))
        expected = expected + weight * kd_loss(student[:, [a, b]], teacher[:, [a, b]], 2.0)
    local, rest = ldrld_loss(student, teacher, 4, 2.0)
    torch.testing.assert_close(local, expected / 7)
    torch.testing.assert_close(rest, kd_loss(student[:, order[4:]], teacher[:, order[4:]], 2.0))


def test_the_order_of_the_classes_does_not_matter():
    student, teacher = normal(1), normal(2)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    for mine, its in zip(ldrld_loss(student[:, order], teacher[:, order], 7, 4.0),
                         ldrld_loss(student, teacher, 7, 4.0), strict=True):  # fmt: skip
        torch.testing.assert_close(mine, its)


def test_each_part_trains_its_own_classes():
    student = normal(1).requires_grad_()
    first = F.one_hot(student.topk(7, 1).indices, 100).sum(1).bool()
    parts = ldrld_loss(student, normal(2), 7, 4.0)
    local, rest = (torch.autograd.grad(part, student, retain_graph=True)[0] for part in parts)
    assert local[~first].abs().max() == 0
    assert rest[first].abs().max() == 0
    assert local[first].abs().min() > 0
    assert rest[~first].abs().min() > 0


def test_all_classes_in_the_local_part_leave_no_rest():
    student, teacher = normal(1, (8, 5)), normal(2, (8, 5))
    local, rest = ldrld_loss(student, teacher, 7, 4.0)
    assert rest == 0
    torch.testing.assert_close(local, ldrld_loss(student, teacher, 5, 4.0)[0])
