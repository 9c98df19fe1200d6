"""PS-KD: the target is the label mixed with the student's prediction of one epoch before."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.models.output import Output
from mdistiller_dfpt.teachers.previous_epoch import PreviousEpoch, softened_labels
from mdistiller_dfpt.testing import CLASSES, tiny_batch, tiny_distiller
from mdistiller_dfpt.testing.make import take_steps

from ..forks import in_processes
from ..golden import labels, normal
from ..tiny_runs import continued, outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "previous_epoch")
AS_PUBLISHED = (*KIND, "KD.TEMPERATURE", "1.0", "KD.LOSS.CE_WEIGHT", "0.0", "KD.LOSS.KD_WEIGHT", "1.0")


def tiny(epochs=4, **changes):
    values = {"alpha": 0.8, "temperature": 1.0, "num_data": 48, "num_classes": CLASSES, "epochs": epochs, **changes}
    return PreviousEpoch(**values)


def probabilities(teacher, batch, temperature=1.0):
    return (teacher(batch)["teacher"].logits / temperature).softmax(1)


def learn(teacher, logits, batch):
    teacher.losses(Output(logits, {}), {}, batch)
    teacher.after_step(batch)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0])
def test_the_target_is_the_weighted_mean_of_label_and_prediction(alpha):
    found = softened_labels(normal(2), labels(), alpha, 3.0).exp()
    expected = (1 - alpha) * torch.eye(100).double()[labels()] + alpha * (normal(2) / 3).softmax(1)
    torch.testing.assert_close(found, expected)


def test_the_weight_of_the_prediction_rises_linearly_to_the_last_epoch_and_stays_there():
    teacher, batch, logits = tiny(), tiny_batch(), torch.randn(8, CLASSES)
    learn(teacher, logits, batch)
    for epoch, alpha in ((1, 0.2), (2, 0.4), (4, 0.8), (9, 0.8)):
        expected = (1 - alpha) * F.one_hot(batch.target, CLASSES) + alpha * logits.softmax(1)
        torch.testing.assert_close(probabilities(teacher, replace(batch, epoch=epoch)), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_sample_without_a_prediction_has_its_label_alone(temperature):
    teacher, batch = tiny(temperature=temperature), tiny_batch()
    learn(teacher, torch.randn(4, CLASSES), batch.rows(slice(4)))
    found = probabilities(teacher, replace(batch, epoch=2), temperature)
    assert torch.allclose(found[4:], F.one_hot(batch.target[4:], CLASSES).float(), atol=1e-6)
    assert not torch.allclose(found[:4], F.one_hot(batch.target[:4], CLASSES).float(), atol=1e-2)


def test_a_step_matches_the_predictions_of_before_it():
    teacher, batch = tiny(), tiny_batch(epoch=2)
    learn(teacher, torch.zeros(8, CLASSES), batch)
    paths = teacher(batch)
    teacher.losses(Output(torch.randn(8, CLASSES), {}), paths, batch)
    before = paths["teacher"].logits
    teacher.after_step(batch)
    assert torch.equal(before, teacher.temperature * softened_labels(torch.zeros(8, CLASSES), batch.target, 0.4))
    assert not torch.equal(teacher(batch)["teacher"].logits, before)


def test_with_the_published_weights_the_first_epoch_is_cross_entropy_and_later_ones_have_its_gradient():
    method, batch = tiny_distiller("KD", *AS_PUBLISHED), tiny_batch(epoch=1)
    logits, terms = method(batch)
    torch.testing.assert_close(terms["kd"].weighted, F.cross_entropy(logits, batch.target), rtol=1e-5, atol=1e-5)
    take_steps(method, 2)
    batch = replace(batch, epoch=2)
    previous = method.teacher.predictions[batch.index].softmax(1)
    target = 0.2 * F.one_hot(batch.target, CLASSES) + 0.8 * previous  # epoch 2 of 2
    logits, terms = method(batch)
    found, expected = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0]
        for loss in (terms["kd"].weighted, F.cross_entropy(logits, target))
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", [KIND, (*KIND, "SOLVER.ACCUMULATE", "3"), (*KIND, "SOLVER.AMP", "bf16")])
def test_a_resumed_run_is_an_unbroken_one_to_the_bit(words, tmp_path):
    words = (*words, "SOLVER.EPOCHS", "3")
    whole = run_of("KD", tmp_path / "whole", *words)
    expected = outcome(whole)
    assert whole.distiller.teacher.is_known.all()
    stopped_after(1, "KD", tmp_path, *words)
    assert continued("KD", tmp_path, *words) == expected


def test_each_of_two_processes_has_the_predictions_of_all_samples(tmp_path):
    batch = tiny_batch(7)

    def stored(rank):
        method = tiny_distiller("KD", *KIND).eval()
        rows = batch.rows(slice(rank, None, 2), total=7)
        method(rows)
        method.teacher.after_step(rows)
        return [method.teacher.predictions.tolist(), method.teacher.is_known.tolist()]

    found = in_processes(stored, tmp_path)
    alone = tiny_distiller("KD", *KIND).eval()
    alone(batch)
    alone.teacher.after_step(batch)
    for predictions, known in found.values():
        torch.testing.assert_close(torch.tensor(predictions), alone.teacher.predictions)
        assert known == alone.teacher.is_known.tolist() == [True] * 7 + [False] * 41
