"""Laws of SINKD."""

import itertools

import pytest
import torch

from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.kd import KD
from mdistiller_dfpt.distillers.sinkd import SinKD, sinkd_loss
from mdistiller_dfpt.testing import check_distiller, tiny_batch, tiny_method

from ..golden import normal


def distances(student, teacher, temperature):
    s, t = ((x / temperature).softmax(1) for x in (student, teacher))
    return (s[:, None] - t).abs().sum(2)


def test_a_single_sample_is_the_distance_of_its_probabilities():
    """Probabilities (3/4, 1/4) and (1/4, 3/4) at temperature 2: 1/2 + 1/2."""
    student = 2 * torch.tensor([[3.0, 1.0]]).double().log()
    torch.testing.assert_close(sinkd_loss(student, student.flip(1), 2.0, 0.1, 20), torch.tensor(1.0).double())


def test_the_iterations_by_definition():
    cost = distances(normal(1), normal(2), 3.0)
    plan = (-cost / 0.5).exp()
    for _ in range(4):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    torch.testing.assert_close(sinkd_loss(normal(1), normal(2), 3.0, 0.5, 4), (plan * cost).sum() / 8)


def test_with_little_entropy_it_is_the_cost_of_the_best_matching():
    student, teacher = normal(1, (4, 10)), normal(2, (4, 10))
    cost = distances(student, teacher, 2.0)
    best = min(cost[range(4), order].mean() for order in itertools.permutations(range(4)))
    torch.testing.assert_close(sinkd_loss(student, teacher, 2.0, 0.002, 5000), best, rtol=1e-4, atol=0)


def test_with_much_entropy_every_pair_counts_the_same():
    expected = distances(normal(1), normal(2), 2.0).mean()
    torch.testing.assert_close(sinkd_loss(normal(1), normal(2), 2.0, 1e9, 20), expected)


def test_the_order_of_the_teachers_samples_has_no_effect():
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(
        sinkd_loss(student, teacher.flip(0), 2.0, 0.1, 20), sinkd_loss(student, teacher, 2.0, 0.1, 20)
    )


def test_it_vanishes_for_equal_sets_of_distinct_outputs():
    logits = normal(1).requires_grad_()
    loss = sinkd_loss(logits, logits.detach().roll(1, 0), 2.0, 0.01, 20)
    assert loss.abs() < 1e-12
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-12


@pytest.mark.parametrize("entropy", [1e-4, 0.1])
def test_it_is_finite_in_float32_where_the_kernel_underflows(entropy):
    student = (100 * normal(1).float()).requires_grad_()
    loss = sinkd_loss(student, -100 * normal(2).float(), 1.0, entropy, 20)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_without_the_transport_it_is_kd():
    logits, batch = normal(1, (8, 5)).float(), tiny_batch(8)
    outputs = Output(logits, {}), Output(normal(2, (8, 5)).float(), {})
    ours, kd = (tiny_method(cls).losses(*outputs, batch) for cls in (SinKD, KD))
    shared = ("temperature", "ce_weight", "kd_weight")
    assert [keywords(KD.config)[key] for key in shared] == [keywords(SinKD.config)[key] for key in shared]
    for name in ("ce", "kd"):
        torch.testing.assert_close(ours[name].weighted, kd[name].weighted)


def test_two_classes_and_many_iterations_obey_the_laws_too():
    logits = normal(1, (8, 2))
    assert 0 <= sinkd_loss(logits, normal(2, (8, 2)), 2.0, 0.1, 20) <= 2
    check_distiller(SinKD, sinkhorn_iterations=50, sinkhorn_weight=5.0)
