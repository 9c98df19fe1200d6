"""The teacher's logits, scaled to an entropy."""

import math
from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.logit_losses import entropy
from mdistiller_dfpt.teachers.scaled import Scaled, factor_for_entropy
from mdistiller_dfpt.testing import check_teacher, tiny_batch, tiny_distiller, tiny_teacher

from ..golden import normal


@pytest.mark.parametrize("wanted", [0.01, 1.0, 3.0, 4.5])
def test_the_mean_entropy_is_the_wanted_one(wanted):
    logits = normal(1)
    factor = factor_for_entropy(logits, wanted)
    assert factor > 0
    assert entropy(logits * factor).mean().item() == pytest.approx(wanted, rel=1e-5)


def test_their_own_entropy_leaves_them_and_an_unreachable_one_flattens_them():
    logits = normal(2)
    assert factor_for_entropy(logits, entropy(logits).mean().item()).item() == pytest.approx(1, rel=1e-5)
    assert factor_for_entropy(logits, 2 * math.log(100)).item() == pytest.approx(1 / 1024, rel=1e-5)


def test_each_epoch_has_its_own_entropy_and_the_last_one_holds():
    teacher, batch = tiny_teacher(Scaled, entropies=[0.5, 1.0]), tiny_batch()
    teacher.prepare([batch])
    for epoch, wanted in ((1, 0.5), (2, 1.0), (7, 1.0)):
        paths = teacher(replace(batch, epoch=epoch))
        assert entropy(paths["scaled"].logits).mean().item() == pytest.approx(wanted, rel=1e-4)
        assert torch.equal(paths["teacher"].logits, teacher.network(batch.image)[0])


def test_an_entropy_that_no_factor_gives_is_refused():
    teacher = tiny_teacher(Scaled, entropies=[1.0, 2 * math.log(5)])
    with pytest.raises(ConfigError, match=r"SCALED.ENTROPIES has .*; scaled by 0.000976562 to 1024, .* no closer"):
        teacher.prepare([tiny_batch()])


def test_features_are_the_original_paths_alone():
    with pytest.raises(ConfigError, match="the path 'scaled' of a teacher of kind scaled has only logits"):
        tiny_distiller("AT", "DISTILLER.TEACHER_KIND", "scaled", "DISTILLER.PATHS", "{scaled: 1.0}")


def test_laws():
    check_teacher(Scaled)
