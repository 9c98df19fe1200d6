"""Laws of MLLD."""

from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.mlld import gram_loss, mlld_loss
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller
from mdistiller_dfpt.training.dot import TwoMomentaSGD, backward_by_kind

from ..golden import normal


def test_mlld_is_zero_at_equality_and_blind_to_shifts():
    a, b = normal(1), normal(2)
    assert mlld_loss(a, a.clone(), [4.0, 2.0]).abs() < 1e-12
    torch.testing.assert_close(mlld_loss(a + 3, b - 1, [4.0, 2.0]), mlld_loss(a, b, [4.0, 2.0]))


def test_every_temperature_and_level_counts():
    a, b = normal(1), normal(2)
    torch.testing.assert_close(mlld_loss(a, b, [4.0, 2.0]), mlld_loss(a, b, [4.0]) + mlld_loss(a, b, [2.0]))
    s, t = (a / 4).softmax(1), (b / 4).softmax(1)
    torch.testing.assert_close(mlld_loss(a, b, [4.0]), kd_loss(a, b, 4.0) + gram_loss(s, t) + gram_loss(s.T, t.T))


def test_gram_matrices_are_invariant_to_rotations_of_the_columns():
    a, b = normal(1, (5, 4)), normal(2, (5, 4))
    rotation = torch.linalg.qr(normal(3, (4, 4)))[0]
    torch.testing.assert_close(gram_loss(a @ rotation, b), gram_loss(a, b))


def test_the_strong_view_is_a_second_batch_of_its_own():
    distiller = tiny_distiller("MLLD").eval()  # eval: batch statistics would make the views depend on each other
    batch = tiny_batch()
    _, terms = distiller(batch)
    _, swapped = distiller(replace(batch, image=batch.strong, strong=batch.image))
    torch.testing.assert_close(terms["kd_strong"].weighted, swapped["kd"].weighted)
    assert terms["kd"].weighted != terms["kd_strong"].weighted
    with pytest.raises(ValueError, match="strongly augmented view"):
        distiller(replace(batch, strong=None))


def test_under_two_momenta_the_labels_of_both_views_are_the_labels():
    """SOLVER.TRAINER dot: gradients of label and other terms are kept separate, and ce_strong is a label term."""
    distiller = tiny_distiller("MLLD")
    parameters = list(distiller.student.parameters())
    _, terms = distiller(tiny_batch())
    labels = {name: terms[name] for name in ("ce", "ce_strong")}
    expected = torch.autograd.grad(total(labels), parameters, retain_graph=True)
    optimizer = TwoMomentaSGD(parameters, lr=0.1, momentum=0.9, delta=0.05, weight_decay=0.0)
    backward_by_kind(terms, optimizer, exchange=lambda: None, clip=lambda: None)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
