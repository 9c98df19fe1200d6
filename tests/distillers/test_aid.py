"""AID: a teacher is fine-tuned towards a trained student."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..tiny_runs import continued, outcome, run_of, stopped_after


def test_the_loss_is_kd_with_the_trained_student():
    method, batch = tiny_distiller("AID"), tiny_batch()
    logits, terms = method(batch)
    (trained,) = method.teacher.others
    torch.testing.assert_close(terms["kd"].weighted, kd_loss(logits, trained(batch.image)[0], 4.0))
    torch.testing.assert_close(terms["ce"].weighted, F.cross_entropy(logits, batch.target))


def test_there_is_one_trained_student():
    with pytest.raises(ConfigError, match="DISTILLER.OTHER_TEACHERS is to name one network, the trained student"):
        tiny_distiller("AID", "DISTILLER.OTHER_TEACHERS", "[resnet8, resnet14]")
    with pytest.raises(ConfigError, match="DISTILLER.PATHS is set; AID has its own keys"):
        tiny_distiller("AID", "DISTILLER.PATHS", "{teacher1: 1}")


def test_a_resumed_run_is_an_unbroken_one_to_the_bit(tmp_path):
    expected = outcome(run_of("AID", tmp_path / "whole", "SOLVER.EPOCHS", "3"))
    stopped_after(1, "AID", tmp_path)
    assert continued("AID", tmp_path, "SOLVER.EPOCHS", "3") == expected


@pytest.mark.parametrize("method", ["aid_teacher", "aid"])
@pytest.mark.parametrize("pair", ["res56_res20", "vgg13_mv2", "res32x4_shuv1", "wrn40_2_wrn16_2"])
def test_configs_run_on_pairs_of_several_families(method, pair):
    assert smoke(load_cfg(f"cifar100/{method}/{pair}")).keys() == {
        "ce",
        "kd",
        "loss",
        "top1",
        "top5",
        "distillation_weight",
        "gradient_to_kd",
    }
