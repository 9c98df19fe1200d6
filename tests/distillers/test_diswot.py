"""Laws of DisWOT's metrics as losses."""

import math

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.diswot import DISWOT, classifier_gradient, semantic_loss
from mdistiller_dfpt.distillers.ickd import ickd_loss
from mdistiller_dfpt.distillers.sp import sp_loss
from mdistiller_dfpt.testing import TinyNet, check_distiller, tiny_batch, tiny_distiller

from ..golden import labels, normal


def test_the_gradient_is_that_of_a_linear_classifier():
    feature, weight = normal(1, (8, 16)), normal(2, (100, 16)).requires_grad_()
    logits = feature @ weight.T
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels()), weight, retain_graph=True)
    torch.testing.assert_close(classifier_gradient(logits.detach(), feature, labels()), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9])
def test_the_semantic_term_is_the_channel_correlation_of_gradients_taken_as_maps(scale):
    student, teacher = scale * normal(1, (10, 6)), normal(2, (10, 6))
    expected = ickd_loss(student[..., None, None], teacher[..., None, None])
    torch.testing.assert_close(semantic_loss(student, teacher), expected)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ([[1.0, 1.0]], 0.0),
        ([[-3.0, -3.0]], 0.0),  # a class's gradient counts up to its sign and length
        ([[1.0, -1.0]], 2.0),  # orthogonal
        ([[1.0, 7.0]], 2 - 2 * 8 / 10),  # signs agree, the cosine is 8 / (sqrt(2) sqrt(50))
        ([[0.0, 0.0]], 1.0),  # no length
        ([[1e-6, 1e-6]], 0.0),
        ([[1e-7, 1e-7]], (1 - 0.01 * math.sqrt(2)) ** 2),  # rows of length sqrt(2) 1e-14, divided by 1e-12
    ],
)
def test_values_of_two_channels(student, expected):
    teacher = torch.tensor([[2.0, 2.0]])
    assert semantic_loss(torch.tensor(student), teacher).item() == pytest.approx(expected, abs=1e-6)


def test_classes_are_matched_one_by_one():
    student, teacher = normal(1, (10, 6)), normal(2, (10, 6))
    per_class = [semantic_loss(student[i : i + 1], teacher[i : i + 1]) for i in range(10)]
    torch.testing.assert_close(semantic_loss(student, teacher), torch.stack(per_class).mean())


def test_each_term_is_its_loss_of_the_last_stage():
    distiller, batch = tiny_distiller("DISWOT"), tiny_batch()
    student = distiller.forward_student(batch.image)
    teacher = distiller.teacher(batch)["teacher"]
    terms = distiller.losses(student, teacher, batch)
    torch.testing.assert_close(
        terms["relation"].value, sp_loss(student.features["feats"][-1], teacher.features["feats"][-1])
    )
    assert terms["relation"].weight == 3000
    grown = distiller.projector(student.features["pooled_feat"])
    mine = classifier_gradient(student.logits, grown, batch.target)
    its = classifier_gradient(teacher.logits, teacher.features["pooled_feat"], batch.target)
    torch.testing.assert_close(terms["semantic"].value, semantic_loss(mine, its))


def test_equal_widths_need_no_layer():
    method = DISWOT(TinyNet(6), TinyNet(6), ce_weight=1.0, relation_weight=1.0, semantic_weight=1.0,
                    image_shape=(3, 8, 8))  # fmt: skip
    assert isinstance(method.projector, torch.nn.Identity)
    assert isinstance(tiny_distiller("DISWOT").projector, torch.nn.Linear)


def test_two_classes_have_opposite_gradients_and_one_value():
    logits, target = normal(1, (8, 2)), torch.tensor([0, 1] * 4)
    gradient = classifier_gradient(logits, normal(2, (8, 6)), target)
    torch.testing.assert_close(gradient[0], -gradient[1])
    assert semantic_loss(gradient, -2 * gradient) < 1e-12


def test_the_laws_hold_for_other_values():
    check_distiller(DISWOT, relation_weight=0.0, semantic_weight=10.0)
