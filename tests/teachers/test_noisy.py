"""Noisy copies of a teacher: the noise, the paths' weights, and the same run after a resume."""

import pytest
import torch

from mdistiller_dfpt.teachers.noisy import Noisy, perturbed
from mdistiller_dfpt.testing import (
    check_teacher,
    tiny_batch,
    tiny_cfg,
    tiny_data,
    tiny_distiller,
    tiny_networks,
    tiny_teacher,
)
from mdistiller_dfpt.training.trainer import Trainer

from ..golden import normal
from ..tiny_runs import outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "noisy")


def test_without_noise_the_copies_are_the_teacher_scaled():
    teacher = tiny_teacher(Noisy, std=0.0, feat_std=0.0, kept=0.5)
    paths = teacher(tiny_batch())
    assert list(teacher.path_names()) == ["teacher", "noisy1", "noisy2", "noisy3"]
    plain = paths["teacher"]
    for path in teacher.path_names()[1:]:
        torch.testing.assert_close(paths[path].logits, 0.5 * plain.logits)
        torch.testing.assert_close(paths[path].features["feats"], [0.5 * x for x in plain.features["feats"]])
        torch.testing.assert_close(paths[path].features["pooled_feat"], 0.5 * plain.features["pooled_feat"])


def test_the_deviation_from_the_scaled_teacher_is_the_noises():
    logits, noise = normal(1, (50, 400)), normal(2, (50, 400), 1.0)
    assert torch.equal(perturbed(logits, noise, 1.0, 0.0), logits)
    assert (perturbed(logits, noise, 0.9, 0.1) - 0.9 * logits).std().item() == pytest.approx(0.1, rel=0.02)


def test_each_path_and_each_tensor_has_noise_of_its_own():
    teacher = tiny_teacher(Noisy, kept=0.0, std=1.0, feat_std=1.0)
    paths = teacher(tiny_batch())
    feats = [paths[path].features["feats"] for path in ("noisy1", "noisy2")]
    drawn = [paths["noisy1"].features["preact_feats"][1], feats[0][1], feats[1][1], feats[0][0][:, :, :8, :8]]
    table = torch.corrcoef(torch.stack([x.flatten() for x in drawn]))
    assert (table - torch.eye(4)).abs().max() < 0.1


def test_the_network_runs_once_for_all_paths():
    teacher, calls = tiny_teacher(Noisy), []
    teacher.network.register_forward_hook(lambda *a: calls.append(1))
    paths = teacher(tiny_batch())
    assert {path: paths[path].logits.shape for path in teacher.path_names()}.keys() == set(teacher.path_names())
    assert len(calls) == 1


def test_with_kd_the_weight_of_distillation_is_that_of_the_paths():
    """KD(z_T) + 0.8 times three: without noise, 3.4 times KD."""
    quiet = ("NOISY.STD", "0.0", "NOISY.KEPT", "1.0")
    plain = tiny_distiller("KD")(tiny_batch())[1]
    terms = tiny_distiller("KD", *KIND, *quiet)(tiny_batch())[1]
    assert set(terms) == {"ce", "teacher.kd", "noisy1.kd", "noisy2.kd", "noisy3.kd"}
    found = sum(term.weighted for term in terms.values() if term.kind == "distillation")
    torch.testing.assert_close(found, 3.4 * plain["kd"].weighted)
    torch.testing.assert_close(terms["ce"].weighted, plain["ce"].weighted)


@pytest.mark.parametrize("values", [{"augnum": 1}, {"std": 2.0, "feat_std": 2.0, "augnum": 5}])
def test_the_laws_hold_for_other_values(values):
    check_teacher(Noisy, **values)


def test_a_cache_of_the_networks_logits_serves_all_paths(tmp_path):
    """The noise is added to what the cache returns, which is rounded to float16."""
    expected, found = (
        Trainer(tiny_cfg("DISTILLER.TYPE", "KD", *KIND, *cache), tiny_distiller("KD", *KIND), tiny_data()).one_epoch()
        for cache in ((), ("DISTILLER.LOGITS_CACHE", str(tmp_path)))
    )
    assert expected == pytest.approx(found, rel=1e-2, abs=2e-3)


@pytest.mark.parametrize("name", ["KD", "FITNET"])
def test_a_resumed_run_equals_an_unbroken_one(name, tmp_path):
    expected = outcome(run_of(name, tmp_path / "whole", "SOLVER.EPOCHS", "3", *KIND))
    stopped_after(1, name, tmp_path / "again", *KIND)
    resumed = run_of(name, tmp_path / "again", "SOLVER.EPOCHS", "3", *KIND)
    assert outcome(resumed, resume=True) == expected


def test_teachers_built_from_different_seeds_have_different_noise():
    network, batch = tiny_networks()[1], tiny_batch()
    torch.manual_seed(1)
    first = tiny_teacher(Noisy, network)(batch)["noisy1"].logits
    torch.manual_seed(2)
    assert not torch.equal(tiny_teacher(Noisy, network)(batch)["noisy1"].logits, first)
