"""The CIFAR networks with the stem of the published CUB-200 protocol (SDD, CVPR 2024): 7x7 at stride 2."""

from collections.abc import Callable
from functools import partial

from torch import nn

from .build import MODELS


def _large_conv(small: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(3, small.out_channels, 7, 2, 3, bias=False)


def with_large_stem(build: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    """The CIFAR network for images of 224: a 7x7 stem, followed by max-pooling in MobileNetV2; VGG is unchanged.

    Every network uses global pooling, so no fixed pooling size limits the input.
    """
    network = build(num_classes=num_classes)
    stem = getattr(network, "conv1", None)
    if isinstance(stem, nn.Conv2d):
        network.conv1 = _large_conv(stem)
    elif isinstance(stem, nn.Sequential) and isinstance(first := stem[0], nn.Conv2d):
        stem[0] = _large_conv(first)
        stem.append(nn.MaxPool2d(2))
    return network


for _key in [key for key in MODELS if key.startswith("cifar/")]:
    MODELS.register(_key.replace("cifar/", "cub200/"))(partial(with_large_stem, MODELS[_key]))
