"""Laws of CAT-KD."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

import mdistiller_dfpt as md
from mdistiller_dfpt.distillers.catkd import catkd_loss, class_activation_map
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import build_model

from ..golden import normal


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", "ResNet18"])
def test_the_mean_of_a_class_activation_map_is_the_logit_without_the_bias(name):
    network = build_model(name, num_classes=7).eval()
    with torch.no_grad():
        logits, features = network(torch.randn(2, 3, 32, 32))
        maps = class_activation_map(features["head_map"], network.classifier_layer.weight)
    torch.testing.assert_close(maps.mean((2, 3)), logits - network.classifier_layer.bias, rtol=1e-4, atol=1e-4)


def test_normalised_maps_are_compared_only_by_direction():
    a, b = normal(1, (2, 5, 4, 4)), normal(2, (2, 5, 4, 4))
    torch.testing.assert_close(catkd_loss(3 * a, b, 2, True), catkd_loss(a, b, 2, True))
    assert catkd_loss(3 * a, a, 2, True) < 1e-12
    expected = F.adaptive_avg_pool2d(2 * a, 2).pow(2).mean()
    torch.testing.assert_close(catkd_loss(3 * a, a, 2, False), expected)


def test_at_resolution_one_it_compares_logits():
    a, b = normal(1, (2, 5, 4, 4)), normal(2, (2, 5, 6, 6))
    expected = (a.mean((2, 3)) - b.mean((2, 3))).pow(2).mean()
    torch.testing.assert_close(catkd_loss(a, b, 1, False), expected)


@pytest.mark.parametrize("method", ["CATKD", "SDD"])
@pytest.mark.parametrize("roles", [("mobilenet_v3_small", "resnet18"), ("resnet18", "mobilenet_v3_small")])
def test_a_head_of_two_layers_is_refused_in_words(method, roles):
    student, teacher = (torchvision.models.get_model(name, num_classes=4) for name in roles)
    cfg = md.load_cfg(None, {"DISTILLER.TYPE": method})
    message = "the classifier of MobileNetV3 takes 1024 features, and the map that it pools has 576 channels"
    with pytest.raises(ConfigError, match=message):
        md.build_distiller(cfg, student, teacher, image_shape=(3, 64, 64))
