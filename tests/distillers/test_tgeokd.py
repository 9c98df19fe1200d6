"""Laws of TGEOKD."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.tgeokd import TGeoKD, controller, geometry, logits_after_step, sample_losses, slopes
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import check_distiller, prepare, take_steps, tiny_batch, tiny_distiller

from ..forks import in_processes
from ..golden import labels, normal


def test_the_losses_of_the_samples_are_kd_and_cross_entropy():
    student, teacher = normal(1), normal(2)
    kd, ce = sample_losses(student, teacher, labels(), 4.0)
    torch.testing.assert_close(kd.mean(), kd_loss(student, teacher, 4.0))
    torch.testing.assert_close(ce.mean(), F.cross_entropy(student, labels()))


def test_slopes_are_the_gradient_of_the_shared_losses():
    student, teacher, share = normal(1).requires_grad_(), normal(2), torch.rand(8, dtype=torch.double)
    kd, ce = sample_losses(student, teacher, labels(), 4.0)
    (expected,) = torch.autograd.grad((share * kd + (1 - share) * ce).sum(), student)
    torch.testing.assert_close(slopes(student.detach(), teacher, labels(), share, 4.0), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_the_logits_after_a_step_are_those_of_a_classifier_that_took_it(bias):
    features, held = normal(3, (8, 6)), normal(4, (5, 6))
    layer, teacher, share = nn.Linear(6, 100, bias=bias).double(), normal(2), torch.rand(8, dtype=torch.double)
    logits = layer(features)
    slope = slopes(logits.detach(), teacher, labels(), share, 4.0)
    before = Output(layer(held).detach(), {"pooled_feat": held})
    kd, ce = sample_losses(logits, teacher, labels(), 4.0)
    (share * kd + (1 - share) * ce).mean().backward()
    torch.optim.SGD(layer.parameters(), lr=0.3).step()
    torch.testing.assert_close(logits_after_step(before, features, slope, 0.3, bias=bias), layer(held))


@pytest.mark.parametrize(("held_label", "gradient"), [(0, -1.8 / (1 + math.exp(-0.1))), (1, 1.8 / (1 + math.exp(0.1)))])
def test_the_share_moves_to_where_the_held_out_loss_is_lower(held_label, gradient):
    """One sample of class 1, of which the teacher says 0.9 for class 0; all features are 1, all logits 0, no bias.

    Its slopes are a (-0.4, 0.4) + (1 - a) (0.5, -0.5), so a step of size 1 moves the held-out logits to
    (0.9 a - 0.5) (1, -1), and at a = 0.5 the cross-entropy of class 0 has the slope -1.8 sigmoid(0.1) in a.
    """
    zero, one = torch.zeros(1, 2, dtype=torch.double), torch.ones(1, 1, dtype=torch.double)
    share = torch.tensor([0.5], dtype=torch.double, requires_grad=True)
    teacher = torch.tensor([[math.log(9), 0.0]], dtype=torch.double)
    slope = slopes(zero, teacher, torch.tensor([1]), share, 1.0)
    after = logits_after_step(Output(zero, {"pooled_feat": one}), one, slope, 1.0, bias=False)
    assert after.tolist() == [pytest.approx([-0.05, 0.05])]
    F.cross_entropy(after, torch.tensor([held_label])).backward()
    assert share.grad.item() == pytest.approx(gradient)


def test_the_controller_learns_to_lower_the_held_out_loss():
    distiller, batch = tiny_distiller("TGEOKD", "TGEOKD.STEP_SIZE", "1.0"), tiny_batch()
    optimizer = torch.optim.SGD(distiller.controller.parameters(), lr=1.0)
    student, history = copy.deepcopy(distiller.student.state_dict()), []
    for _ in range(20):
        distiller.student.load_state_dict(student)  # with its running statistics
        loss = distiller(batch)[1]["held_out"].value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert all(after < before for before, after in pairwise(history))


def test_each_term_trains_its_own_level():
    distiller = tiny_distiller("TGEOKD")
    terms = distiller(tiny_batch())[1]
    terms["kd"].value.backward()
    assert all(p.grad is None for p in distiller.controller.parameters())
    distiller.zero_grad()
    terms["held_out"].value.backward()
    assert all(p.grad is None or not p.grad.any() for p in distiller.student.parameters())
    assert all(p.grad.any() for p in distiller.controller.parameters())


@pytest.mark.parametrize(("bias", "share"), [(50.0, 1), (-50.0, 0)])
def test_a_certain_controller_leaves_kd_or_cross_entropy(bias, share):
    distiller, batch = tiny_distiller("TGEOKD"), tiny_batch()
    nn.init.constant_(distiller.controller[-2].bias, bias)
    found = distiller(batch)[1]["kd"].value
    logits, teacher = distiller.student(batch.image)[0], distiller.teacher(batch)["teacher"].logits
    expected = kd_loss(logits, teacher, 4.0) if share else F.cross_entropy(logits, batch.target)
    torch.testing.assert_close(found, expected)


def test_distances_are_zero_where_all_agree():
    p = normal(1).softmax(1)
    found = geometry(p, p, p, p)
    assert found.shape == (8, 900)
    assert not found[:, 400:].any()
    assert controller(100)(found.float()).shape == (8, 1)


def test_class_means_are_the_teachers_over_its_images():
    distiller, batch = tiny_distiller("TGEOKD"), replace(tiny_batch(), target=torch.tensor([0, 1, 1, 1, 2, 2, 3, 3]))
    prepare(distiller, batch)
    p = distiller.teacher(batch)["teacher"].logits.softmax(1)
    torch.testing.assert_close(distiller.means[1], p[1:4].mean(0))
    torch.testing.assert_close(distiller.means[4], torch.full((5,), 0.2))  # no image of this class


def test_two_samples_are_enough():
    terms = tiny_distiller("TGEOKD")(tiny_batch(2))[1]
    assert total(terms).isfinite()


def test_class_means_of_a_path_that_learns_are_refused():
    with pytest.raises(ConfigError, match=r"TGEOKD takes class means of the path 'prompt'"):
        tiny_distiller("TGEOKD", "DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1.0}")


def test_it_learns_with_a_dual_path_teacher():
    words = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 1.0}")
    distiller = tiny_distiller("TGEOKD", *words)
    before = distiller(tiny_batch())[1]["kd"].value
    take_steps(distiller, 10)
    assert distiller(tiny_batch())[1]["kd"].value < before


def test_the_laws_hold_with_other_values():
    check_distiller(TGeoKD, temperature=1.5, held_out=0.5, step_size=1.0)


def terms_and_gradient(rows, size):
    """The weighted terms of a batch of which this process has some rows, and the norm of the controller's gradient."""
    distiller = tiny_distiller("TGEOKD").eval()
    _, terms = distiller(tiny_batch(8).rows(rows, total=size))
    total(terms).backward()
    return [*(term.weighted.item() for term in terms.values()), distiller.controller[0].weight.grad.norm().item()]


def test_each_of_two_processes_computes_what_one_does(tmp_path):
    whole = terms_and_gradient(slice(None), None)
    found = in_processes(lambda rank: terms_and_gradient(slice(rank, None, 2), 8), tmp_path)
    assert found[0] == pytest.approx(whole, rel=1e-4)
    assert found[1] == pytest.approx(whole, rel=1e-4)
