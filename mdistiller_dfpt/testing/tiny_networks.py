"""Tiny networks, on which a law is checked in milliseconds."""

import torch
from torch import Tensor, nn

from ..data import Batch
from ..models import StagedModel
from ..models.staged import Stage, relu_pair

CLASSES = 5  # unlike any batch and any width, so that an axis that is mistaken for another is found


class TinyNet(StagedModel):
    """Three stages with BatchNorm; teacher and student differ in `width`."""

    def __init__(self, width: int = 4, num_classes: int = CLASSES):
        super().__init__()
        self.stage_channels = (width, width, 2 * width, 2 * width)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.layer2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width))
        self.layer3 = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width))
        self.fc = nn.Linear(2 * width, num_classes)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return relu_pair(self.bn1(self.conv1(x)))

    def stages(self) -> list[Stage]:
        layers = (self.layer1, self.layer2, self.layer3)
        return [self._stem, *(lambda x, layer=layer: relu_pair(layer(x)) for layer in layers)]


def tiny_networks(seed: int = 0) -> tuple[TinyNet, TinyNet]:
    """(student, teacher); the teacher has run on data, so its running statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student, teacher = TinyNet(4), TinyNet(6)
        for _ in range(3):
            teacher(torch.randn(16, 3, 8, 8))
    return student, teacher.eval()


def fit_batch(network: StagedModel, batch: Batch, steps: int = 60) -> None:
    """Train a network on the labels of a batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch.image)[0], batch.target).backward()
        optimizer.step()
    network.eval()
