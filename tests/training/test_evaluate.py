"""Evaluation: every sample is counted once, top-k as defined, KL between the paths."""

import pytest
import torch

from mdistiller_dfpt.testing import tiny_data, tiny_distiller
from mdistiller_dfpt.training.evaluate import correct_at, evaluate_method, kl_divergence

from ..golden import normal


def test_correct_at_counts_and_clips():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    target = torch.tensor([0, 0, 0])
    assert [correct_at(logits, target, k).item() for k in (1, 2, 5)] == [1, 2, 3]


def test_kl_is_the_definition_and_zero_on_the_diagonal():
    p, q = normal(1), normal(2)
    expected = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum()
    torch.testing.assert_close(kl_divergence(p, q), expected)
    assert abs(kl_divergence(p, p).item()) < 1e-12


def test_accuracy_is_that_of_the_whole_set_at_any_batch_size():
    distiller, results = tiny_distiller("DFPTKD"), []
    for size in (1, 7, 20):
        data = tiny_data(test=20)
        data.test.batch_size = size
        results.append(evaluate_method(distiller, data.test))
    data = tiny_data(test=20)
    data.test.batch_size = 20
    batch = next(data.test.epoch())
    distiller.eval()
    with torch.no_grad():
        expected = (distiller.student(batch.image)[0].argmax(1) == batch.target).float().mean().item() * 100
    for result in results:
        assert result["student"]["top1"] == pytest.approx(expected)
        assert set(result) == {"student", "teacher", "prompt", "kl"}
        assert set(result["kl"]) == {"teacher||student", "teacher||prompt", "prompt||student"}
        assert result["kl"]["teacher||prompt"] == pytest.approx(results[0]["kl"]["teacher||prompt"], rel=1e-4)


def test_evaluation_restores_the_mode_and_moves_no_statistics():
    distiller = tiny_distiller("DFPTKD").train()
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    evaluate_method(distiller, tiny_data().test)
    assert distiller.training
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())
