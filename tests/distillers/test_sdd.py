"""Laws of SDD."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.sdd import region_logits, sdd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal

KD = LOGIT_LOSSES["KD"]


def test_with_the_whole_image_alone_it_is_the_loss_of_the_logits():
    distiller, batch = tiny_distiller("SDD", "SDD.GRIDS", "[1]"), tiny_batch()
    logits, terms = distiller(batch)
    teacher = distiller.teacher(batch)["teacher"].logits
    torch.testing.assert_close(terms["kd"].value, kd_loss(logits, teacher, 4.0))


def test_the_logits_of_a_grid_average_to_those_of_the_image():
    classifier = nn.Linear(3, 10).double()
    logits = region_logits(normal(1, (2, 3, 8, 8)), classifier, [1, 2, 4])
    assert logits.shape == (2, 21, 10)
    for cells in (logits[:, 1:5], logits[:, 5:]):
        torch.testing.assert_close(cells.mean(1), logits[:, 0])


def test_a_region_sees_only_its_part_of_the_map():
    classifier, x = nn.Linear(3, 10).double(), normal(1, (1, 3, 8, 8))
    other = x.clone()
    other[:, :, 4:, 4:] += 1
    moved = (region_logits(other, classifier, [1, 2]) != region_logits(x, classifier, [1, 2])).any(2)
    assert moved[0].tolist() == [True, False, False, False, True]


def test_regions_that_complement_the_image_count_twice():
    target = torch.zeros(1, dtype=torch.long)
    student, right, wrong = normal(1, (1, 2, 4)), torch.tensor([9.0, 0, 0, 0]), torch.tensor([0.0, 9, 0, 0])
    for image, region, factor in ((right, right, 1), (wrong, wrong, 1), (right, wrong, 2), (wrong, right, 2)):
        teacher = torch.stack([image, region])[None].double()
        parts = [kd_loss(student[:, i], teacher[:, i], 4.0) for i in (0, 1)]
        expected = (parts[0] + factor * parts[1]) / 2
        torch.testing.assert_close(sdd_loss(student, teacher, target, KD, 4.0), expected)


@pytest.mark.parametrize(
    "words", [("SDD.GRIDS", "[2, 4]"), ("SDD.GRIDS", "[1, 3]"), ("SDD.LOGIT_LOSS", "DIST"), ("SDD.GRIDS", "[]")]
)
def test_values_without_a_meaning_are_refused(words):
    with pytest.raises(ConfigError, match=words[0]):
        tiny_distiller("SDD", *words)
