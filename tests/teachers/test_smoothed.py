"""Tf-KD_reg: the virtual teacher is label smoothing with another name, and knows nothing but the label."""

import math

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.smoothed import Smoothed, virtual_probabilities
from mdistiller_dfpt.testing import CLASSES, check_teacher, tiny_batch

from ..golden import labels, normal


def test_probabilities_are_those_of_the_paper():
    found = virtual_probabilities(torch.tensor([2, 0]), 5, 0.9)
    torch.testing.assert_close(found, torch.tensor([[0.025, 0.025, 0.9, 0.025, 0.025], [0.9, *[0.025] * 4]]))


def test_a_teacher_that_is_surely_right_is_the_label():
    assert torch.equal(virtual_probabilities(labels(), 100, 1.0), F.one_hot(labels(), 100).float())


def test_the_gradient_of_kd_and_cross_entropy_is_that_of_label_smoothing():
    """Softmax of a / T for the label and b / T for the others: a smoothing of e^(b/T) / mean of all."""
    student = normal(1).requires_grad_()
    logits = Smoothed(correct=0.99, temperature=20.0, num_classes=100).target_logits
    teacher = logits(tiny_like(labels())).double()
    loss = 0.9 * F.cross_entropy(student, labels()) + 0.1 * kd_loss(student, teacher, 1.0)
    low, high = math.exp(0.01 / 99 / 20), math.exp(0.99 / 20)
    smoothing = 0.1 * 100 * low / (99 * low + high)
    expected = F.cross_entropy(student, labels(), label_smoothing=smoothing)
    found, wanted = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def tiny_like(target):
    batch = tiny_batch(len(target))
    return type(batch)(batch.image, target, batch.index)


def test_a_high_temperature_makes_all_classes_alike():
    teacher = Smoothed(correct=0.99, temperature=1000.0, num_classes=CLASSES)
    found = teacher(tiny_batch())["teacher"].logits.softmax(1)
    assert torch.allclose(found, torch.full((8, CLASSES), 1 / CLASSES), atol=1e-3)
    assert torch.equal(found.argmax(1), tiny_batch().target)


def test_it_obeys_the_laws_with_other_values_and_refuses_wrong_ones():
    check_teacher(Smoothed, correct=0.9, temperature=40.0)
    with pytest.raises(ConfigError, match="correct is 1.5; it must be in"):
        check_teacher(Smoothed, correct=1.5)
