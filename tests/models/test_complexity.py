"""The multiply-accumulates of networks are those that their authors count."""

import pytest
import torch
import torchvision

from mdistiller_dfpt import build_model
from mdistiller_dfpt.models.complexity import count_macs, macs_per_image, total


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t"])
def test_they_are_the_published_ones(name):
    """Attention has two products of matrices, and windows stand in the place of a batch."""
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]  # in billions, to three digits
    network = torchvision.models.get_model(name)
    assert round(macs_per_image(network, (3, 224, 224)) / 1e9, 3) == published


def test_layers_below_windows_are_counted_as_often_as_they_run():
    network = build_model("timm/swin_tiny_patch4_window7_224", "imagenet", 10, image_size=224).eval()
    with torch.no_grad(), count_macs(network) as macs:
        network(torch.zeros(1, 3, 224, 224))
    # All but the attention itself: of each window of 49 places, two products of 49 x 49 x channels
    windows = ((64, 96, 2), (16, 192, 2), (4, 384, 6), (1, 768, 2))
    attention = sum(depth * count * 2 * 49 * 49 * channels for count, channels, depth in windows)
    assert total(macs, network) == macs_per_image(network, (3, 224, 224)) - attention


def test_an_image_changes_neither_the_network_nor_the_settings():
    network, fast = build_model("resnet8", num_classes=10), torch.backends.mha.get_fastpath_enabled()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert macs_per_image(network, (3, 32, 32)) == 12_501_632
    assert network.training
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
