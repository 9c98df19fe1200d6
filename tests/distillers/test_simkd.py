"""Laws of SimKD."""

import torch

from mdistiller_dfpt.distillers.simkd import simkd_loss
from mdistiller_dfpt.testing import take_steps, tiny_batch, tiny_distiller

from ..golden import normal


def test_simkd_is_the_mean_squared_difference_at_the_smaller_size():
    a = normal(1, (2, 3, 4, 4))
    assert simkd_loss(a, a.clone()) == 0
    pooled = torch.nn.functional.avg_pool2d(a, 2)
    assert simkd_loss(a, pooled) == 0


def test_what_is_deployed_ends_in_the_teachers_classifier():
    distiller = tiny_distiller("SIMKD")
    take_steps(distiller, 3)
    assert torch.equal(distiller.deployed.classifier.weight, distiller.teacher_network.fc.weight)
    assert not distiller.student.fc.weight.requires_grad
    distiller.eval()
    image = tiny_batch().image
    with torch.no_grad():
        projected = distiller.deployed(image)[1]["projected"]
        torch.testing.assert_close(
            distiller.evaluated_paths(image)["student"], distiller.teacher_network.fc(projected.mean((2, 3)))
        )


def test_a_perfect_projection_predicts_as_the_teacher_does():
    distiller = tiny_distiller("SIMKD").eval()
    image = tiny_batch().image
    with torch.no_grad():
        logits, features = distiller.teacher_network(image)
        torch.testing.assert_close(distiller.deployed.classifier(features["head_map"].mean((2, 3))), logits)
