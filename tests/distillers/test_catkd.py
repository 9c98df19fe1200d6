"""Laws of CAT-KD."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.catkd import catkd_loss, class_activation_map
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
