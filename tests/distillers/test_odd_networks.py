"""Networks that some methods cannot use: refused when the method is built, before data are read, or never."""

from itertools import chain

import pytest
import torch
from torch import Tensor, nn

import mdistiller_dfpt as md
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.distillers import DISTILLERS, Method
from mdistiller_dfpt.distillers.choice import choice
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing.make import BATCH_SIZE, NUM_DATA, prepare, tiny_cfg
from mdistiller_dfpt.testing.tiny_networks import CLASSES, TinyNet

SIZE = 32


class Plain(nn.Sequential):
    """Three stages of width 4, 8 and 8, the last map of 8x8 positions, and what follows it."""

    def __init__(self, *head: nn.Module):
        widths, strides = (3, 4, 8, 8), (1, 2, 2)
        stages = (
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, stride in zip(widths, widths[1:], strides, strict=False)
        )
        super().__init__(*chain(stages, head))


class Nameless(nn.Module):
    """Neither feature maps nor a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * SIZE**2, CLASSES) / SIZE)

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.weight


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
NETWORKS = {
    "usual": lambda: TinyNet(6),
    "of another library": lambda: Plain(*POOLED, nn.Linear(8, CLASSES)),
    "a head of two layers": lambda: Plain(*POOLED, nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, CLASSES)),
    "a map that is flattened": lambda: Plain(nn.Flatten(), nn.Linear(8 * 8 * 8, CLASSES)),
    "a convolution as a classifier": lambda: Plain(nn.Conv2d(8, CLASSES, 1), *POOLED),
    "no map": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 8), nn.ReLU(), nn.Linear(8, CLASSES)),
    "nothing but logits": Nameless,
}
PAIRS = [(student, teacher) for student in NETWORKS for teacher in NETWORKS if "usual" in (student, teacher)]


def built(name: str, student: str, teacher: str) -> Method:
    cfg = tiny_cfg("DISTILLER.TYPE", name)
    others = [NETWORKS[teacher]().eval()] if choice(cfg).others_key else []
    networks = NETWORKS[student](), NETWORKS[teacher]().eval()
    return md.build_distiller(cfg, *networks, NUM_DATA, image_shape=(3, SIZE, SIZE), others=others)


def batch() -> Batch:
    image, strong, extra, strong_extra = torch.randn(4, BATCH_SIZE, 3, SIZE, SIZE)
    index = torch.arange(BATCH_SIZE)
    unlabelled = Batch(extra, torch.full_like(index, -1), index, 1, 1, strong_extra)
    return Batch(image, index % CLASSES, index, 1, 1, strong, extra=unlabelled)


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_a_network_is_refused_when_the_method_is_built_or_not_at_all(name):
    torch.manual_seed(0)
    some = batch()
    works = []
    for pair in PAIRS:
        try:
            method = built(name, *pair)
        except ConfigError:
            continue
        for part in method.hooked():
            part.passes = min(part.passes, 1)  # of what trains before the student
        prepare(method, some)
        _, terms = method.train()(some)
        assert total(terms).isfinite(), pair
        works.append(pair)
    assert ("usual", "usual") in works


@pytest.mark.parametrize("name", ["DEIT", "DHKD", "KDAIF", "TGEOKD"])
def test_the_input_of_the_classifier_is_known_without_maps(name):
    output = built(name, "no map", "no map").observed(torch.zeros(2, 3, SIZE, SIZE))
    assert output.features["pooled_feat"].shape == (2, 8)
