"""Laws of KDAIF."""

import math

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.kdaif import KDAIF, hessian_product, influence, influence_weights, solved, with_ones
from mdistiller_dfpt.testing import check_distiller, take_steps, tiny_batch, tiny_distiller

from ..forks import in_processes
from ..golden import normal

FEATURES, HELD = normal(3, (8, 3), 1.0), normal(4, (5, 3), 1.0)
LABELS, HELD_LABELS = torch.arange(8) % 4, torch.arange(5) % 4
WEIGHTS = normal(5, (4, 4), 0.5)  # of a linear layer of 3 features and 4 classes; the last column is the bias


def outputs(weights=WEIGHTS):
    return [Output(with_ones(x) @ weights.T, {"pooled_feat": x}) for x in (FEATURES, HELD)]


def training_loss(weights, of_samples):
    logits = with_ones(FEATURES) @ weights.view(4, 4).T
    return (of_samples * F.cross_entropy(logits, LABELS, reduction="none")).mean()


def test_the_hessian_is_that_of_the_cross_entropy():
    ones = torch.ones(8, dtype=torch.double)
    hessian = torch.autograd.functional.hessian(lambda w: training_loss(w, ones), WEIGHTS.flatten())
    x = normal(6, (4, 4))
    found = hessian_product(x, with_ones(FEATURES), outputs()[0].logits)
    torch.testing.assert_close(found.flatten(), hessian @ x.flatten())


def test_conjugate_gradients_solve_the_damped_system():
    b, inputs, logits = normal(6, (4, 4)), with_ones(FEATURES), outputs()[0].logits
    x = solved(b, inputs, logits, 0.1, 40)
    torch.testing.assert_close(hessian_product(x, inputs, logits) + 0.1 * x, b)
    assert torch.equal(solved(b, inputs, logits, 0.1, 0), b)
    assert not solved(torch.zeros_like(b), inputs, logits, 0.1, 5).any()


def test_influence_is_what_a_larger_weight_of_a_sample_does_to_the_held_out_loss():
    """At the minimum of the regularised loss, which is found again for a slightly larger weight of a sample."""
    damping, change = 0.1, 1e-3

    def minimum(of_samples):
        def objective(w):
            return training_loss(w, of_samples) + damping / 2 * w.square().sum()

        weights = torch.zeros(16, dtype=torch.double)
        for _ in range(30):  # Newton's method
            gradient = torch.autograd.functional.jacobian(objective, weights)
            weights = weights - torch.linalg.solve(torch.autograd.functional.hessian(objective, weights), gradient)
        return weights.view(4, 4)

    def held_out_loss(weights):
        return F.cross_entropy(outputs(weights)[1].logits, HELD_LABELS)

    ones = torch.ones(8, dtype=torch.double)
    student, held = outputs(minimum(ones))
    found = influence(student, LABELS, held, HELD_LABELS, damping, 40)
    for i in (0, 3):
        more, less = (held_out_loss(minimum(ones + sign * change * F.one_hot(torch.tensor(i), 8))) for sign in (1, -1))
        expected = -8 * (more - less) / (2 * change)  # the samples' weights are divided by 8 in the mean
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_sample_like_the_held_out_one_helps_and_one_of_another_label_harms():
    """Two classes, all features 1, all logits 0. By hand: v = (-1, 1)/2 x (1, 1), and v is an eigenvector of H.

    H v = (1/4)(1, -1)(1, -1)^T v ones ones^T: the eigenvalue is 1/4 x 2 x 2 = 1, so with a damping of 1 the direction
    is v / 2, and the scores are +-(1/2 + 1/2) x 1/2 = +-1/2.
    """
    zero, one = torch.zeros(2, 2, dtype=torch.double), torch.ones(2, 1, dtype=torch.double)
    student, held = Output(zero, {"pooled_feat": one}), Output(zero[:1], {"pooled_feat": one[:1]})
    scores = influence(student, torch.tensor([0, 1]), held, torch.tensor([0]), 1.0, 3)
    assert scores.tolist() == pytest.approx([0.5, -0.5])
    assert influence_weights(scores).tolist() == pytest.approx([math.e, 1 / math.e])


def test_weights_keep_the_order_and_ignore_scale_and_offset():
    scores = normal(1, (8,))
    weights = influence_weights(scores)
    assert torch.equal(weights.argsort(), scores.argsort())
    torch.testing.assert_close(influence_weights(3 * scores + 5), weights)
    assert influence_weights(torch.full((3,), 7.0)).tolist() == [1, 1, 1]


def test_equal_weights_leave_kd(monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.distillers.kdaif.influence_weights", torch.ones_like)
    distiller, batch = tiny_distiller("KDAIF"), tiny_batch()
    found = distiller(batch)[1]["kd"].value
    logits, teacher = distiller.student(batch.image)[0], distiller.teacher(batch)["teacher"].logits
    torch.testing.assert_close(found, kd_loss(logits, teacher, 7.0))


def test_it_learns_with_a_dual_path_teacher():
    distiller = tiny_distiller("KDAIF", "DISTILLER.TEACHER_KIND", "dual_path")
    history = take_steps(distiller, 10)
    assert history[-1] < history[0]


def test_the_laws_hold_with_other_values():
    check_distiller(KDAIF, temperature=1.0, held_out=0.5, cg_steps=0, ce_weight=0.5)


def term_of(rows, size):
    with torch.no_grad():
        return tiny_distiller("KDAIF").eval()(tiny_batch(8).rows(rows, total=size))[1]["kd"].weighted.item()


def test_each_of_two_processes_computes_what_one_does(tmp_path):
    found = in_processes(lambda rank: term_of(slice(rank, None, 2), 8), tmp_path)
    assert [found[0], found[1]] == pytest.approx([term_of(slice(None), None)] * 2, rel=1e-4)
