"""Kinds of teacher that are around no network: what has an effect, what is refused, and that they run."""

import pytest
import torch

from mdistiller_dfpt import build_teacher, load_cfg
from mdistiller_dfpt.config.effect import without_effect
from mdistiller_dfpt.distillers.choice import choice, situation
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.teachers import TEACHERS
from mdistiller_dfpt.testing import tiny_data, tiny_distiller

from ..tiny_runs import outcome, run_of

KINDS = sorted(name for name, cls in TEACHERS.items() if not cls.needs_network)
DIGITS = ["DATASET.TYPE", "digits", "SOLVER.EPOCHS", "2", "SOLVER.BATCH_SIZE", "256", "LOG.TENSORBOARD", "False",
          "DISTILLER.STUDENT", "resnet8", "DISTILLER.TYPE", "KD"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_needs_no_teacher_and_says_that_a_named_one_is_not_used(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*DIGITS, "DISTILLER.TEACHER_KIND", kind]
    results = run(load_cfg(None, [*words, "DISTILLER.TEACHER", "resnet14", "DISTILLER.TEACHER_CFG", "none.yaml"]))
    said = capsys.readouterr().out
    assert "DISTILLER.TEACHER resnet14 has no effect here: no network teaches in this run" in said
    assert "DISTILLER.TEACHER_CFG none.yaml has no effect here: no trained network teaches in this run" in said
    assert results["protocol"]["teacher"] is None
    assert results["identity"]["teachers"] == []
    assert "DISTILLER.TEACHER" not in results["identity"]["config"]
    assert results["epochs"][-1]["test"].keys() == {"student"}
    assert not choice(load_cfg(None, words)).teacher
    assert without_effect(situation(load_cfg(None, words), in_files=False)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["FITNET", "AT", "CRD", "SIMKD", "MLLD+AT"])
def test_a_method_on_features_is_refused(kind, name):
    words = f"[{name.replace('+', ', ')}]"
    with pytest.raises(ConfigError, match=f"a teacher of kind {kind} has only logits: use a method on logits"):
        tiny_distiller(words, "DISTILLER.TEACHER_KIND", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logits_cache_and_soft_labels_are_refused(kind, tmp_path):
    with pytest.raises(ConfigError, match="DISTILLER.LOGITS_CACHE is .* remove this key"):
        run_of("KD", tmp_path, "DISTILLER.TEACHER_KIND", kind, "DISTILLER.LOGITS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=f"SOLVER.MIXUP is 0.8; a teacher of kind {kind} takes labels as numbers"):
        run_of("KD", tmp_path, "DISTILLER.TEACHER_KIND", kind, "SOLVER.MIXUP", "0.8")


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_no_trained_network_to_give(kind):
    cfg = load_cfg(None, ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", kind])
    with pytest.raises(ConfigError, match=f"DISTILLER.TEACHER_KIND is {kind}; no trained network teaches"):
        build_teacher(cfg, tiny_data())


@pytest.mark.parametrize("name", ["DKD", "DIST", "LSKD", "NKD", "MLLD", "KD+DIST"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_teaches_under_other_methods_on_logits(kind, name, tmp_path):
    trainer = run_of(name, tmp_path, "DISTILLER.TEACHER_KIND", kind)
    *_, metrics, _ = outcome(trainer)
    assert all(torch.tensor(train["loss"]).isfinite() for train, _, _ in metrics)
    assert not [key for key in trainer.distiller.training_state() if key.startswith("teacher.network")]


@pytest.mark.parametrize("method", ["pskd", "tfkd"])
@pytest.mark.parametrize("pair", ["res56_res20", "vgg13_mv2", "res32x4_shuv1", "wrn40_2_wrn16_2"])
def test_configs_run_on_pairs_of_several_families(method, pair):
    cfg = load_cfg(f"cifar100/{method}/{pair}")
    found = smoke(cfg)
    assert found.keys() == {"ce", "kd", "loss", "top1", "top5", "distillation_weight"}
    assert found["loss"] == pytest.approx(found["ce"] + found["kd"], rel=1e-4)
