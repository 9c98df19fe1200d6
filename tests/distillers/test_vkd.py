"""Laws of VKD."""

import pytest
import torch

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.vkd import vkd_loss
from mdistiller_dfpt.testing import TinyNet, take_steps, tiny_cfg, tiny_distiller

from ..golden import normal


def test_it_ignores_shift_and_positive_scale_of_the_teachers_feature():
    student, teacher = normal(1, (8, 6)), normal(2, (8, 6))
    torch.testing.assert_close(vkd_loss(student, 3 * teacher + 1), vkd_loss(student, teacher), rtol=1e-4, atol=0)


def test_a_student_with_the_normalised_feature_has_no_loss():
    teacher = normal(2, (8, 6))
    mean, deviation = teacher.mean(1, keepdim=True), teacher.std(1, unbiased=False, keepdim=True)
    assert vkd_loss((teacher - mean) / deviation, teacher) < 1e-9


@pytest.mark.parametrize("width", [3, 6])
def test_the_projection_stays_orthogonal_in_training(width):
    """Of the student's 8 channels to more or fewer: a projection to more keeps all inner products."""
    student, teacher = TinyNet(4), TinyNet(width)
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "VKD"), student, teacher, 48).train()
    before = method.projector.weight.detach().clone()
    take_steps(method, 3)
    weight = method.projector.weight.detach()
    assert (weight - before).abs().max() > 1e-4
    gram = weight.T @ weight if width == 6 else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)


def test_a_restored_projection_is_the_same():
    first, second = tiny_distiller("VKD"), tiny_distiller("VKD", seed=1)
    take_steps(first, 2)
    second.load_training_state(first.training_state())
    torch.testing.assert_close(second.projector.weight, first.projector.weight, rtol=0, atol=0)
