"""Ensembles of teachers: the mean, the weights of CA-MKD, and the gradient of KD with them."""

import math

import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.ensemble import Ensemble, confidence_weights, mixed_logits
from mdistiller_dfpt.testing import CLASSES, tiny_batch, tiny_networks, tiny_others

from ..golden import labels, normal

TEACHERS = torch.stack([normal(seed) for seed in (2, 5, 7)])


def tiny_ensemble(others=2, weights="mean", temperature=4.0):
    return Ensemble(tiny_networks()[1], tiny_others(others), weights=weights, temperature=temperature)


def weights_by_definition(logits, target):
    """1 / (K - 1) (1 - exp(CE_k) / sum_j exp(CE_j)), sample by sample and teacher by teacher (CA-MKD, equation 2)."""
    count, samples, _ = logits.shape
    weights = torch.zeros(count, samples, dtype=logits.dtype)
    for b in range(samples):
        costs = []
        for k in range(count):
            exps = [math.exp(v) for v in logits[k, b].tolist()]
            costs.append(-math.log(exps[target[b]] / sum(exps)))
        for k in range(count):
            weights[k, b] = (1 - math.exp(costs[k]) / sum(map(math.exp, costs))) / (count - 1)
    return weights


def test_confidence_weights_are_those_of_the_paper():
    found = confidence_weights(TEACHERS, labels())
    torch.testing.assert_close(found, weights_by_definition(TEACHERS, labels()))
    torch.testing.assert_close(found.sum(0), torch.ones(8).double())


def test_a_more_confident_teacher_has_more_weight_and_a_single_one_has_weight_one():
    target = torch.tensor([1])
    logits = torch.tensor([[[0.0, 3.0, 0.0]], [[0.0, 1.0, 0.0]], [[5.0, 0.0, 0.0]]])
    sure, unsure, wrong = confidence_weights(logits, target)[:, 0]
    assert sure > unsure > wrong
    assert confidence_weights(logits[:1], target).tolist() == [[1.0]]


def test_weights_are_finite_if_a_teacher_is_confidently_wrong():
    logits = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    weights = confidence_weights(logits, torch.tensor([0]))
    assert weights.tolist() == [[1.0], [0.0]]
    assert mixed_logits(logits, weights, 4.0).isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mixed_logits_have_the_weighted_mean_of_probabilities(temperature):
    weights = confidence_weights(TEACHERS, labels())
    mixed = (mixed_logits(TEACHERS, weights, temperature) / temperature).softmax(1)
    expected = (weights[:, :, None] * (TEACHERS / temperature).softmax(2)).sum(0)
    torch.testing.assert_close(mixed, expected)


def test_the_gradient_of_kd_with_mixed_logits_is_the_weighted_sum_of_gradients():
    student, weights = normal(1).requires_grad_(), confidence_weights(TEACHERS, labels())
    found = torch.autograd.grad(kd_loss(student, mixed_logits(TEACHERS, weights, 4.0), 4.0), student)[0]
    expected = torch.zeros_like(student)
    for k, teacher in enumerate(TEACHERS):
        for b in range(8):
            alone = kd_loss(student[b : b + 1], teacher[b : b + 1], 4.0) / 8
            expected += weights[k, b] * torch.autograd.grad(alone, student)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", ["mean", "confidence"])
def test_the_path_teacher_is_the_ensemble_and_each_member_has_a_path(weights):
    teacher, batch = tiny_ensemble(weights=weights), tiny_batch()
    paths = teacher(batch)
    assert list(teacher.path_names()) == ["teacher", "teacher1", "teacher2", "teacher3"]
    with torch.no_grad():
        logits = torch.stack([network(batch.image)[0] for network in teacher.frozen()])
    for path, alone in zip(teacher.path_names()[1:], logits, strict=True):
        assert torch.equal(paths[path].logits, alone)
    weight = torch.full((3, 8), 1 / 3) if weights == "mean" else weights_by_definition(logits, batch.target)
    expected = (weight[:, :, None] * (logits / 4).softmax(2)).sum(0)
    torch.testing.assert_close((paths["teacher"].logits / 4).softmax(1), expected)


def test_an_ensemble_of_one_equals_its_member():
    for weights in ("mean", "confidence"):
        teacher, batch = tiny_ensemble(0, weights), tiny_batch()
        found, alone = (teacher(batch)[path].logits for path in ("teacher", "teacher1"))
        torch.testing.assert_close(found.softmax(1), alone.softmax(1))


def test_members_run_once_for_all_paths():
    teacher, calls = tiny_ensemble(), []
    for network in teacher.frozen():
        network.register_forward_hook(lambda *a: calls.append(1))
    paths = teacher(tiny_batch())
    for path in teacher.path_names():
        assert paths[path].logits.shape == (8, CLASSES)
    assert len(calls) == 3


def test_the_mean_has_no_maps_and_says_where_they_are():
    output = tiny_ensemble()(tiny_batch())["teacher"].detach()
    with pytest.raises(ConfigError, match=r"has only logits, but the method uses 'feats'; match its members' paths"):
        output.features["feats"]
