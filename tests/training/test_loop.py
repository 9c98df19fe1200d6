"""What the loop does around a step, seen from outside: hooks, training mode, the best weights."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training import loop
from mdistiller_dfpt.training.loop import take_step
from mdistiller_dfpt.training.optim import build_optimizer
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import fit, run_of

PROMPT_KINDS = {
    "DFPTKD": ("DFPTKD", "DFPTKD.PROMPT.CLIP_NORM"),
    "KD with a prompted teacher": ("KD", "DISTILLER.TEACHER_KIND", "dual_path", "DUAL_PATH.PROMPT.CLIP_NORM"),
}


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_the_loop_clips_the_prompt_paths_gradient(kind, tmp_path):
    name, *words = PROMPT_KINDS[kind]
    run = run_of(name, tmp_path, *words, "0.001")
    take_step(run.training, tiny_batch())
    norms = {
        part: nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item()
        for part, module in (("prompt path", run.teacher), ("student", run.distiller.student))
    }
    assert norms["prompt path"] == pytest.approx(0.001, rel=1e-3)
    assert norms["student"] > 0.01


def test_both_gradients_are_clipped_under_two_momenta(tmp_path):
    run = run_of("DFPTKD", tmp_path, "DFPTKD.PROMPT.CLIP_NORM", "0.001", "SOLVER.TRAINER", "dot")
    seen = []
    clip = run.teacher.before_step

    def clip_and_look():
        clip()
        seen.append(nn.utils.get_total_norm([p.grad for p in run.teacher.parameters() if p.grad is not None]).item())

    run.teacher.before_step = clip_and_look
    take_step(run.training, tiny_batch())
    assert len(seen) == 2
    assert all(norm <= 0.0011 for norm in seen)
    assert max(seen) == pytest.approx(0.001, rel=1e-3)


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path, monkeypatch):
    top1 = iter([10.0, 30.0, 20.0])
    found = lambda *_: {"student": {"top1": next(top1), "top5": 50.0, "predicted_classes": 5}}  # noqa: E731
    monkeypatch.setattr(loop, "evaluate_method", found)
    run = run_of("KD", tmp_path, "SOLVER.EPOCHS", "3", "LOG.SAVE_CHECKPOINT_FREQ", "1")
    assert fit(run)["final"]["top1"]["best_epoch"] == 2
    best, second, last = (
        load_weights(run.run / f"{name}.safetensors") for name in ("best", "student-epoch-00002", "student")
    )
    assert all(torch.equal(best[key], second[key]) for key in best)
    assert any(not torch.equal(best[key], last[key]) for key in best)


def test_a_run_trains_in_training_mode_whatever_was_before(tmp_path):
    run = run_of("KD", tmp_path, "SOLVER.EPOCHS", "1")
    run.distiller.eval()
    before = run.distiller.student.bn1.running_mean.clone()
    loop.train_epoch(run.training, 1)
    assert not torch.equal(run.distiller.student.bn1.running_mean, before)


def test_a_list_needs_a_strong_view_where_any_of_its_methods_does():
    assert tiny_distiller("[KD, MLLD]").needs_strong_view
    assert not tiny_distiller("[KD, AT]").needs_strong_view


@pytest.mark.parametrize("nesterov", [True, False])
def test_nesterov_is_what_the_key_says(nesterov):
    optimizer = build_optimizer(tiny_cfg("SOLVER.NESTEROV", str(nesterov)), tiny_distiller("KD"))
    assert all(group["nesterov"] is nesterov for group in optimizer.param_groups)


def test_a_last_batch_of_one_image_is_refused_where_a_batch_norm_has_one_value_of_it(tmp_path):
    class Student(nn.Sequential):
        def __init__(self, pool):
            layers = nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(pool), nn.BatchNorm2d(4), nn.Flatten()
            super().__init__(*layers, nn.Linear(4 * pool**2, 5))

    def train(pool, images):
        cfg, data = tiny_cfg("DISTILLER.TYPE", "NONE"), tiny_data(train=images, batch=16)
        distiller = build_distiller(cfg, Student(pool), image_shape=data.image_shape)
        return Trainer(cfg, distiller, data).one_epoch()

    assert train(1, 34)["loss"] > 0
    assert train(2, 33)["loss"] > 0
    with pytest.raises(ConfigError) as info:
        train(1, 33)
    assert str(info.value) == (
        "SOLVER.BATCH_SIZE is 16; it leaves a last batch of 1, of which 1 in one step, and the BatchNorm"
        " student.network.2, over one pixel, needs at least 2: try SOLVER.BATCH_SIZE 17"
    )
