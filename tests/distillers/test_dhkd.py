"""Laws of DHKD."""

from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.distillers.dhkd import DHKD, dhkd_loss
from mdistiller_dfpt.testing import check_distiller, tiny_batch, tiny_distiller, tiny_method

from ..golden import normal
from ..tiny_runs import fit, run_of


def test_by_hand():
    """Differences 2 log 3 and 0 at temperature 2: 4 log cosh(log(3) / 2) = 4 log(2 / sqrt 3)."""
    student = torch.tensor([[2.0, 0.0]]).double() * torch.tensor(3.0).double().log()
    expected = 4 * (2 / torch.tensor(3.0).double().sqrt()).log()
    torch.testing.assert_close(dhkd_loss(student, torch.zeros(1, 2).double(), 2.0), expected)


def test_it_is_the_divergence_of_one_half_from_both_probabilities():
    p = ((normal(1) - normal(2)) / 3).sigmoid()
    divergence = 0.5 * (0.5 / p).log() + 0.5 * (0.5 / (1 - p)).log()
    torch.testing.assert_close(dhkd_loss(normal(1), normal(2), 3.0), 9 * divergence.sum(1).mean())


def test_it_is_zero_for_equal_logits_alone_and_sees_a_shift():
    student = normal(2).requires_grad_()
    loss = dhkd_loss(student, normal(2), 2.0)
    assert loss.abs() < 1e-12
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-12
    assert dhkd_loss(normal(2) + 1, normal(2), 2.0) > 1


def test_at_a_high_temperature_it_is_an_eighth_of_the_squared_distance():
    expected = (normal(1) - normal(2)).pow(2).sum(1).mean() / 8
    torch.testing.assert_close(dhkd_loss(normal(1), normal(2), 100.0), expected, rtol=1e-3, atol=0)


def test_far_away_it_is_linear_and_finite_in_float32():
    student = torch.tensor([[1e6, 0.0]], requires_grad=True)
    loss = dhkd_loss(student, torch.zeros(1, 2), 2.0)
    torch.testing.assert_close(loss.item(), 1e6, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("head", ["linear", "nonlinear"])
def test_each_head_has_its_own_term(head):
    method = tiny_distiller("DHKD", "DHKD.HEAD", head)
    terms = method(tiny_batch())[1]
    heads = [method.student.fc.weight, next(method.head.parameters())]
    for name, expected in (("ce", [True, False]), ("kd", [False, True])):
        gradients = torch.autograd.grad(terms[name].value, heads, allow_unused=True, retain_graph=True)
        assert [g is not None for g in gradients] == expected


def test_distillation_ends_after_stop_epoch_and_the_student_alone_is_deployed():
    method = tiny_method(DHKD, stop_epoch=3)
    names = [set(method(replace(tiny_batch(), epoch=epoch))[1]) for epoch in (3, 4)]
    assert names == [{"ce", "kd"}, {"ce"}]
    assert method.deployed is method.student


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_it_trains_with_projected_gradients_taught_by_both_paths(amp, tmp_path):
    words = ("SOLVER.TRAINER", "projected", "SOLVER.AMP", amp, "DISTILLER.TEACHER_KIND", "dual_path")
    words += ("DISTILLER.PATHS", "{teacher: 1, prompt: 2}")
    results = fit(run_of("DHKD", tmp_path, *words))
    losses = [epoch["train"]["loss"] for epoch in results["epochs"]]
    assert losses[-1] < losses[0]


def test_a_linear_head_obeys_the_laws_too():
    check_distiller(DHKD, head="linear", kd_weight=0.1)
