"""Networks for large images and for CUB-200: torchvision's keys and outputs; the stages compose to the network."""

import pytest
import torch
from torch import nn
from torchvision import models as tv

from mdistiller_dfpt.models import MODELS, build_model
from mdistiller_dfpt.models.staged import StagedModel

IN_TORCHVISION = {
    "ResNet18": tv.resnet18, "ResNet34": tv.resnet34, "ResNet50": tv.resnet50, "MobileNetV2": tv.mobilenet_v2,
    "ShuffleNetV2": tv.shufflenet_v2_x1_0,
}  # fmt: skip
LARGE = sorted(key for key in MODELS if key.startswith(("imagenet/", "cub200/")))


@pytest.mark.parametrize("name", IN_TORCHVISION)
def test_torchvisions_weights_give_torchvisions_logits(name):
    torch.manual_seed(0)
    original = IN_TORCHVISION[name](num_classes=7).eval()
    ours = build_model(name, "imagenet", 7).eval()
    ours.load_state_dict(original.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(image)[0], original(image))


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50", "MobileNetV1"])
def test_the_activation_is_the_preactivation_after_a_relu(name):
    model = build_model(name, "imagenet", 3).eval()
    with torch.no_grad():
        _, features = model(torch.randn(1, 3, 64, 64))
    for activation, preactivation in zip(features["feats"][1:], features["preact_feats"][1:], strict=True):
        assert torch.equal(activation, preactivation.relu())
        assert preactivation.min() < 0


@pytest.mark.parametrize("key", LARGE)
def test_maps_have_the_declared_widths_at_the_networks_image_size(key):
    family, name = key.split("/")
    with torch.device("meta"):
        model = build_model(name, family, 5)
        logits, features = model(torch.zeros(2, 3, 224, 224))
    assert isinstance(model, StagedModel)
    assert logits.shape == (2, 5) == (2, model.num_classes)
    assert [f.shape[1] for f in features["feats"]] == list(model.stage_channels)
    assert features["pooled_feat"].shape == (2, model.classifier_layer.in_features)
    sizes = [f.shape[2] for f in features["feats"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 28 if family == "cub200" else sizes[-1] == 7


def test_the_counts_are_those_of_the_published_networks():
    counts = {"ResNet18": 11_689_512, "ResNet34": 21_797_672, "ResNet50": 25_557_032, "MobileNetV1": 4_231_976,
              "MobileNetV2": 3_504_872, "ShuffleNetV2": 2_278_604}  # fmt: skip
    for name, count in counts.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in build_model(name, "imagenet", 1000).parameters()) == count, name


def test_the_stem_for_cub_is_seven_wide_at_stride_two():
    for key in (k for k in MODELS if k.startswith("cub200/")):
        with torch.device("meta"):
            model = build_model(key.removeprefix("cub200/"), "cub200", 5)
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        if "vgg" in key:
            assert (first.kernel_size, first.stride) == ((3, 3), (1, 1))
        else:
            assert (first.kernel_size, first.stride, first.padding) == ((7, 7), (2, 2), (3, 3)), key
