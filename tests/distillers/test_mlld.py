"""Laws of MLLD."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.mlld import gram_loss, mlld_loss, several_kd_loss, share_up_to_median
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller
from mdistiller_dfpt.training.dot import TwoMomentaSGD
from mdistiller_dfpt.training.several_momenta import backward_by_group

from ..golden import normal


def test_mlld_is_zero_at_equality_and_blind_to_shifts():
    a, b = normal(1), normal(2)
    assert mlld_loss(a, a.clone(), [4.0, 2.0]).abs() < 1e-12
    torch.testing.assert_close(mlld_loss(a + 3, b - 1, [4.0, 2.0]), mlld_loss(a, b, [4.0, 2.0]))


def test_every_temperature_and_level_counts():
    a, b = normal(1), normal(2)
    torch.testing.assert_close(mlld_loss(a, b, [4.0, 2.0]), mlld_loss(a, b, [4.0]) + mlld_loss(a, b, [2.0]))
    s, t = (a / 4).softmax(1), (b / 4).softmax(1)
    levels = kd_loss(a, b, 4.0) + gram_loss(s, t) + gram_loss(s.T, t.T)
    torch.testing.assert_close(mlld_loss(a, b, [4.0]), levels / 2)
    torch.testing.assert_close(several_kd_loss(a, b, [4.0, 2.0]), kd_loss(a, b, 4.0) + kd_loss(a, b, 2.0))


@pytest.mark.parametrize(("size", "share"), [(8, 1 / 2), (64, 1 / 2), (7, 4 / 7), (63, 32 / 63), (1, 1.0)])
def test_a_mask_is_the_share_up_to_the_median(size, share):
    values = normal(1, (size,))
    assert share_up_to_median(values).item() == pytest.approx(share)
    assert (values.numpy() <= np.percentile(values.numpy(), 50)).mean() == pytest.approx(share)  # as the authors do
    assert share_up_to_median(torch.ones(size)) == 1.0


def test_in_an_odd_batch_instances_and_samples_weigh_more_and_classes_do_not():
    a, b = normal(1)[:7], normal(2)[:7]
    s, t = (a / 4).softmax(1), (b / 4).softmax(1)
    expected = 4 / 7 * (kd_loss(a, b, 4.0) + gram_loss(s, t)) + gram_loss(s.T, t.T) / 2
    torch.testing.assert_close(mlld_loss(a, b, [4.0]), expected)


def test_gram_matrices_are_invariant_to_rotations_of_the_columns():
    a, b = normal(1, (5, 4)), normal(2, (5, 4))
    rotation = torch.linalg.qr(normal(3, (4, 4)))[0]
    torch.testing.assert_close(gram_loss(a @ rotation, b), gram_loss(a, b))


def test_each_view_has_the_terms_of_the_authors_code():
    distiller = tiny_distiller("MLLD").eval()  # eval: batch statistics would make the views depend on each other
    batch = tiny_batch()
    logits, terms = distiller(batch)
    teacher, student_strong, teacher_strong = (
        network(image)[0].detach() for network, image in (
            (distiller.teacher_network, batch.image), (distiller.student, batch.strong),
            (distiller.teacher_network, batch.strong),
        )
    )  # fmt: skip
    # The logits of the weak view count at 2 and 6, in place of the strong view's
    weak = mlld_loss(logits, teacher, [4.0, 2.0, 3.0, 5.0, 6.0]) + several_kd_loss(logits, teacher, [2.0, 6.0])
    torch.testing.assert_close(terms["kd"].weighted, 0.9 * weak)
    strong = several_kd_loss(student_strong, teacher_strong, [4.0, 3.0, 5.0])
    torch.testing.assert_close(terms["kd_strong"].weighted, 0.9 * strong)
    swapped = distiller(replace(batch, image=batch.strong, strong=batch.image))[1]
    torch.testing.assert_close(terms["ce_strong"].weighted, swapped["ce"].weighted)


def test_it_needs_a_strong_view():
    distiller, batch = tiny_distiller("MLLD"), tiny_batch()
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
    backward_by_group(terms, optimizer, exchange=lambda: None, clip=lambda: None)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
