"""What timm trains transformers with: AdamW, soft labels, clipping, an average of the weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.training.average import WeightAverage, in_place
from mdistiller_dfpt.training.evaluate import evaluate

from ..tiny_runs import continued, fit, outcome, run_of, stopped_after

RECIPE = ("SOLVER.TYPE", "AdamW", "SOLVER.LR", "0.001", "SOLVER.SCHEDULE", "cosine", "SOLVER.WARMUP_EPOCHS", "1",
          "SOLVER.LABEL_SMOOTHING", "0.1", "SOLVER.MIXUP", "0.8", "SOLVER.CUTMIX", "1.0", "SOLVER.CLIP_NORM", "1.0",
          "SOLVER.EMA", "0.9", "SOLVER.EPOCHS", "3")  # fmt: skip


@pytest.mark.parametrize("name", ["NONE", "KD", "CRD", "DFPTKD", "PAT"])
def test_the_whole_recipe_trains_and_resumes_to_the_bit(name, tmp_path):
    whole = run_of(name, tmp_path / "whole", *RECIPE)
    expected = outcome(whole)
    stopped_after(1, name, tmp_path, *RECIPE)
    assert continued(name, tmp_path, *RECIPE) == expected
    saved = [state_hash(load_weights(run)) for run in (whole.run, tmp_path / "tiny/seed1")]
    assert saved[0] == saved[1], "the averaged weights"
    settings = whole.identity["config"]
    assert settings["SOLVER.MIXUP"] == 0.8
    assert settings["SOLVER.EMA"] == 0.9
    assert isinstance(whole.optimizer, torch.optim.AdamW)


def test_the_average_is_pytorchs(tmp_path):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.n_averaged += 1  # its first update copies the weights; ours starts from the initial ones
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(5):
        network(torch.randn(6, 3)).square().sum().backward()
        optimizer.step()
        average.update()
        theirs.update_parameters(network)
    expected = {k: v for k, v in theirs.module.state_dict().items() if v.is_floating_point()}
    torch.testing.assert_close(average.values, expected)


def test_the_averaged_student_is_evaluated_and_saved_and_training_goes_on_with_its_own_weights(tmp_path):
    plain = run_of("KD", tmp_path / "plain")
    averaged = run_of("KD", tmp_path / "averaged", "SOLVER.EMA", "0.5")
    fit(plain)
    results = fit(averaged)
    mine, its = averaged.distiller.student.state_dict(), plain.distiller.student.state_dict()
    assert all(torch.equal(mine[k], its[k]) for k in mine), "the average changes no step"
    saved = load_weights(averaged.run)
    values = averaged.training.average.values
    assert all(torch.equal(saved[k], values[k]) for k in values)
    assert not torch.equal(saved["fc.weight"], mine["fc.weight"])
    student = averaged.distiller.student
    student.load_state_dict(saved)
    student.eval()
    again = evaluate(lambda image: {"student": student(image)[0]}, averaged.data.test)["student"]
    assert again == results["epochs"][-1]["test"]["student"]


def test_the_gradient_is_clipped_to_its_norm_over_all_parameters(tmp_path):
    trainer = run_of("DFPTKD", tmp_path, "SOLVER.CLIP_NORM", "0.01")
    norms = []
    step = trainer.optimizer.step

    def seen(*args, **kwargs):
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        norms.append(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]).item())
        return step(*args, **kwargs)

    trainer.optimizer.step = seen
    fit(trainer)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("DKD", ["SOLVER.MIXUP", "0.8"], "SOLVER.MIXUP is 0.8; DKD takes labels as numbers"),
        ("KD", ["SOLVER.CUTMIX", "1.0", "DISTILLER.TEACHER_KIND", "adapter"], "a teacher of kind adapter takes"),
        ("KD", ["SOLVER.MIXUP", "0.8", "DISTILLER.LOGITS_CACHE", "cache"], "of images that are not mixed"),
        ("KD", ["DISTILLER.TEACHER_KIND", "ensemble", "ENSEMBLE.WEIGHTS", "confidence", "DISTILLER.OTHER_TEACHERS",
                "[resnet8]", "SOLVER.LABEL_SMOOTHING", "0.1"], "a teacher of kind ensemble takes labels as numbers"),
    ],
)  # fmt: skip
def test_what_uses_labels_as_numbers_is_refused_at_the_start(name, words, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_of(name, tmp_path, *words)


def test_tied_weights_are_averaged_and_given_back():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    average = WeightAverage(network, 0.5)
    before = average.values["0.weight"].clone()
    with torch.no_grad():
        network[0].weight.add_(1)
    average.update()
    trained = network[0].weight.clone()
    with in_place(average.network, average.values):
        torch.testing.assert_close(network[1].weight, before + 0.5)
    assert torch.equal(network[0].weight, trained)
    torch.testing.assert_close(average.values["1.weight"], before + 0.5)


def test_adamw_decays_weights_but_no_biases_and_norms(tmp_path):
    trainer = run_of("NONE", tmp_path, "SOLVER.TYPE", "AdamW", "SOLVER.WEIGHT_DECAY", "0.3")
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    found = {name: decay.pop(id(p)) for name, p in trainer.distiller.student.named_parameters()}
    assert not decay
    assert {name for name, value in found.items() if value == 0.3} == {
        name for name, p in trainer.distiller.student.named_parameters() if p.ndim > 1
    }
    assert set(found.values()) == {0.0, 0.3}
