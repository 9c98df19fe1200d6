"""BatchNorm statistics that are measured again: those that are evaluated, saved and resumed; training is as without."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt.data.held_out import in_even_batches
from mdistiller_dfpt.models.statistics import remeasured
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.training.evaluate import evaluate_method

from ..tiny_runs import end_after, final_state, fit, run_of

AVERAGED = ("SOLVER.EMA", "0.9")


def weights_in(run, name="student.safetensors"):
    return load_weights(run.run / name)


@pytest.mark.parametrize("more", [(), AVERAGED], ids=["plain", "averaged"])
def test_they_are_of_the_saved_weights_and_are_those_evaluated(more, tmp_path):
    run = run_of("KD", tmp_path, "SOLVER.REMEASURE_BN", "last", *more)
    results = fit(run)
    saved, student = weights_in(run), run.distiller.student
    trained = {key: value.clone() for key, value in student.state_dict().items()}
    differing = {key for key in saved if not torch.equal(saved[key], trained[key])}
    running = {key for key in saved if "running_" in key}
    assert running <= differing
    assert more or differing == running
    student.load_state_dict(saved)
    images = [batch.image for batch in in_even_batches(run.data.train).epoch()]
    again = remeasured(student, student, images)
    assert all(torch.equal(again[key], saved[key]) for key in running)
    assert evaluate_method(run.distiller, run.data.test) == results["epochs"][-1]["test"]
    assert "measured again" in results["protocol"]["batch_norm"]
    assert results["identity"]["config"]["SOLVER.REMEASURE_BN"] == "last"


@pytest.mark.parametrize("more", [(), AVERAGED], ids=["plain", "averaged"])
def test_training_is_as_without_and_resumes_to_the_same_bits(more, tmp_path):
    plain, each = (
        run_of("KD", tmp_path / "a", *more),
        run_of("KD", tmp_path / "b", "SOLVER.REMEASURE_BN", "each", *more),
    )
    fit(plain)
    fit(each)
    assert final_state(plain) == final_state(each)
    assert [e["train"] for e in plain.epochs] == [e["train"] for e in each.epochs]
    for last in (1, 2):  # after its last epoch, a run has only its final results to write
        words = ("SOLVER.REMEASURE_BN", "each", *more)
        end_after(last, run_of("KD", tmp_path / f"cut{last}", *words))
        resumed = run_of("KD", tmp_path / f"cut{last}", *words)
        fit(resumed, resume=True)
        assert final_state(resumed) == final_state(each)
        for name in ("student.safetensors", "best.safetensors"):
            assert state_hash(weights_in(resumed, name)) == state_hash(weights_in(each, name))


def test_unsettled_statistics_and_a_frequent_prediction_are_said(tmp_path, capsys):
    run = run_of("NONE", tmp_path, "SOLVER.EPOCHS", "1")
    run.distiller.student.bn1.momentum = 0.01
    for group in run.optimizer.param_groups:
        group["lr_factor"] = 1e-9
    with torch.no_grad():
        run.distiller.student.fc.bias[0] = 1e3
    fit(run)
    err = capsys.readouterr().err
    assert "has momentum 0.01: after the 3 steps of this run, 97 % of its statistics are those it starts with" in err
    assert "predicts the same class for all test images; if it learned more than this shows, try" in err
    fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "1", "SOLVER.REMEASURE_BN", "last"))
    assert "those it starts with" not in capsys.readouterr().err


def test_without_running_statistics_none_are_blamed(tmp_path, capsys):
    run = run_of("NONE", tmp_path, "SOLVER.EPOCHS", "1", "SOLVER.LR", "1e-9")
    for layer in [m for m in run.distiller.student.modules() if isinstance(m, nn.BatchNorm2d)]:
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    with torch.no_grad():
        run.distiller.student.fc.bias[0] = 1e3
    fit(run)
    err = capsys.readouterr().err
    assert "warning: the student predicts the same class for all test images\n" in err
    assert "REMEASURE_BN" not in err
