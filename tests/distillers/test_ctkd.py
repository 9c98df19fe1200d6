"""Laws of CTKD."""

from itertools import pairwise

import torch

from mdistiller_dfpt.distillers.ctkd import adversity, scale_gradient
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.testing import take_steps, tiny_batch, tiny_distiller


def test_the_curriculum_falls_from_zero_to_minus_one():
    values = [adversity(e, 10) for e in range(13)]
    assert values[0] == 0
    torch.testing.assert_close(torch.tensor(values[5]), torch.tensor(-0.5))
    assert values[10] == values[12] == -1
    assert all(a >= b for a, b in pairwise(values))


def test_the_gradient_is_scaled_and_the_value_is_not():
    x = torch.tensor(2.0, requires_grad=True)
    y = scale_gradient(x, -0.5)
    assert y == 2
    y.square().backward()
    assert x.grad == -2


def test_the_temperature_climbs_the_loss_that_the_student_descends():
    distiller = tiny_distiller("CTKD", "CTKD.LOOPS", "1")
    batch = tiny_batch()
    _, terms = distiller(batch)
    terms["kd"].weighted.backward()
    adversarial = distiller.global_temperature.grad.clone()
    distiller.global_temperature.grad = None
    with torch.enable_grad():
        logits = distiller.student(batch.image)[0]
        teacher = distiller.teacher_network(batch.image)[0]
        (0.9 * kd_loss(logits, teacher, 1 + 20 * distiller.global_temperature.sigmoid())).backward()
    torch.testing.assert_close(adversarial, -distiller.global_temperature.grad, rtol=1e-4, atol=1e-8)


def test_the_temperature_stays_in_its_range_and_is_logged():
    distiller = tiny_distiller("CTKD", "CTKD.START", "2", "CTKD.RANGE", "3")
    take_steps(distiller, 5, lr=1.0)
    distiller(tiny_batch())
    assert 2 <= distiller.take_logged()["temperature"] <= 5
