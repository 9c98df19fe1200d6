"""Laws of SimKD, and values of its authors' code (SimKD 2b389c3, models/util.py:188-236)."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.simkd import SimKD, simkd_loss
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import TinyNet, take_steps, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks
from mdistiller_dfpt.testing.laws import leaves_of

from ..golden import normal
from .official.core import simkd_from

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
KEYS = [f"transfer.{i + j}.{key}" for i in (0, 3, 6) for j, keys in enumerate((NORM[:1], NORM)) for key in keys]


def test_a_larger_map_is_pooled_before_it_is_projected():
    """Values of the authors' code for the inputs of `simkd_f2`, but with the maps' sizes exchanged."""
    expected = {"value": 1.4550172262668652, "grad_norms": [0.060447121625663354], "logits_norm": 4.476489165497116}
    found = simkd_from(8, 4)
    assert found == {key: pytest.approx(value, rel=1e-6) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("name", "width"), [("MobileNetV2", 160), ("ShuffleV2", 464), ("ShuffleV1", 960), ("wrn_16_2", 128), ("vgg8", 512)]
)
def test_the_last_stages_map_is_projected_where_the_head_has_a_convolution(name, width):
    """Widths of `feat_s[-2]` in the authors' networks."""
    student, teacher = build_model(name), build_model("resnet8x4")
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "SIMKD"), student, teacher, 48, image_shape=(3, 32, 32)).train()
    assert method.reused.projector[0].in_channels == width
    features = student.eval()(torch.randn(2, 3, 32, 32))[1]
    expected = features["feats"][-1] if name in ("MobileNetV2", "ShuffleV2") else features["head_map"]
    found = method.reused.projected_map(features)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(expected, found.shape[2:]))
    batch = tiny_batch()
    terms = method.train()(batch)[1]
    optimised = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert leaves_of(total(terms)) == optimised, "the head that is not used is not trained"


def test_a_classifier_that_does_not_take_the_map_is_refused():
    class Odd(TinyNet):
        def forward(self, image):
            logits, features = super().forward(image)
            return logits, {**features, "head_map": features["feats"][0]}

    with pytest.raises(ValueError, match="classifier, which takes 12 features, and the map .* has 6 channels"):
        SimKD(tiny_networks()[0], Odd(6), factor=2, ce_weight=0.0, feat_weight=1.0, image_shape=(3, 8, 8))


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


def test_a_larger_map_is_pooled_to_the_teachers_size():
    student, teacher = build_model("resnet8x4"), build_model("vgg8")
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "SIMKD"), student, teacher, 48, image_shape=(3, 32, 32)).eval()
    image = torch.randn(2, 3, 32, 32)
    assert student(image)[1]["head_map"].shape[2:] == (8, 8)
    projected = method.deployed(image)[1]["projected"]
    assert projected.shape == teacher(image)[1]["head_map"].shape == (2, 512, 4, 4)
