"""Laws of USKD."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.nkd import nkd_loss
from mdistiller_dfpt.distillers.uskd import soft_targets, uskd_losses, zipf_labels
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_distiller, tiny_networks

from ..forks import in_processes
from ..golden import labels, normal

MODES = ["log_probability", "probability"]


def test_soft_targets_are_around_the_label_and_larger_for_samples_that_are_easy():
    found = soft_targets(torch.tensor([[0.2], [0.6]]).double(), torch.ones(2, 1))
    # The squares are 0.04 and 0.36, their mean 0.2
    torch.testing.assert_close(found, torch.tensor([[0.84], [1.16]]).double())


def test_ranks_are_by_both_predictions_and_the_target_is_left_out():
    student = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    weak = torch.tensor([[0.25, 0.05, 0.1, 0.6]]).log()
    target = F.one_hot(torch.tensor([0]), 4).bool()
    # 0.3 / 0.5 + 0.05 / 0.75 = 0.67, 0.15 / 0.5 + 0.1 / 0.75 = 0.43, 0.05 / 0.5 + 0.6 / 0.75 = 0.9; target 1.33
    expected = torch.tensor([[0, 1 / 3, 1 / 4, 1 / 2]]) / (13 / 12)
    torch.testing.assert_close(zipf_labels(student, weak, target, "probability"), expected)
    # -1.20 / 1.69 + 0.07 = -0.65, -1.90 / 1.69 + 0.13 = -0.99, -3.00 / 1.69 + 0.8 = -0.97; target -0.08: rank 1
    expected = torch.tensor([[0, 1 / 2, 1 / 4, 1 / 3]]) / (13 / 12)
    torch.testing.assert_close(zipf_labels(student, weak, target, "log_probability"), expected)


@pytest.mark.parametrize("mode", MODES)
def test_soft_labels_are_a_distribution_over_the_other_classes(mode):
    target = F.one_hot(labels(), 100).bool()
    found = zipf_labels(normal(1), normal(2), target, mode)
    torch.testing.assert_close(found.sum(1), torch.ones(8).double())
    assert not found[target].any()


def test_the_non_target_term_ignores_the_target_and_is_that_of_nkd_with_the_same_soft_labels():
    student, weak, target = normal(1), normal(2), labels()
    soft = zipf_labels(student, weak, F.one_hot(target, 100).bool(), "probability")
    teacher = soft.clamp(min=1e-30).log()  # the target's probability is 0, and so is its part
    found = uskd_losses(student, weak, target, "probability")[1]
    torch.testing.assert_close(found, nkd_loss(student, teacher, target, 1.0, 1.0))


@pytest.mark.parametrize("mode", MODES)
def test_the_weak_classifier_learns_from_its_own_term_alone(mode):
    student, weak = normal(1).requires_grad_(), normal(2).requires_grad_()
    for i, reached in enumerate([(True, False), (True, False), (False, True)]):
        terms = uskd_losses(student, weak, labels(), mode)
        gradients = torch.autograd.grad(terms[i], [student, weak], allow_unused=True)
        assert tuple(g is not None for g in gradients) == reached


@pytest.mark.parametrize("mode", MODES)
def test_distributions_that_are_not_mixed_are_labels(mode):
    student, weak, target = normal(1), normal(2), labels()
    expected = uskd_losses(student, weak, target, mode)
    found = uskd_losses(student, weak, F.one_hot(target, 100).double(), mode)
    torch.testing.assert_close(found, expected)
    # With a smoothed label the largest class alone is a target
    smoothed = 0.9 * F.one_hot(target, 100).double() + 0.1 / 100
    torch.testing.assert_close(uskd_losses(student, weak, smoothed, mode)[1], expected[1])


@pytest.mark.parametrize("mixed", [False, True])
def test_two_classes_leave_no_others(mixed):
    student, weak = normal(1, (4, 2)).requires_grad_(), normal(2, (4, 2))
    target = torch.tensor([[0.3, 0.7]] * 4).double() if mixed else torch.tensor([0, 1, 1, 0])
    terms = uskd_losses(student, weak, target, "log_probability")
    assert terms[1] == 0
    (gradient,) = torch.autograd.grad(sum(terms), [student])
    assert gradient.isfinite().all()


def test_a_student_without_maps_is_refused():
    student = tiny_networks()[0]
    student.stage_channels = ()
    with pytest.raises(ConfigError, match="USKD has a classifier of the map of the last stage but one"):
        build_distiller(tiny_cfg("DISTILLER.TYPE", "USKD"), student, None, 48)


def terms_of(rows, total):
    method = tiny_distiller("USKD").eval()
    with torch.no_grad():
        terms = method(tiny_batch(7).rows(rows, total=total))[1]
    return {name: term.weighted.item() for name, term in terms.items()}


def test_two_processes_have_the_mean_over_the_whole_batch(tmp_path):
    whole = terms_of(slice(None), None)
    found = in_processes(lambda rank: terms_of(slice(rank, None, 2), 7), tmp_path)
    for name, value in whole.items():
        assert (found[0][name] + found[1][name]) / 2 == pytest.approx(value, rel=1e-5), name
