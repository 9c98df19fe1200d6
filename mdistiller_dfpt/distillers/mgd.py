r"""MGD: generate the teacher's map from the student's with masked channels (Yang et al., 2022, arXiv:2205.01529).

Paper: Masked Generative Distillation.

Formula: $$L = w_{CE} CE + w_{feat} \|G(M \odot g(F^S)) - F^T\|^2$$ where $g$ takes the map to the teacher's width, $M$
is 0 for a random share of the channels and 1 for the others, and $G$ is two convolutions with a ReLU in between.

Code: yzd-v/MGD 2c9da0b, cls/mmcls/distillation/losses/mgd.py:18-71.

Differs: maps of unequal size are pooled to the smaller one; the code refuses them.
"""

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.limits import FRACTION
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, same_size, weights


def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of two maps (B, C, H, W), summed over all but the batch."""
    return (generated - teacher).pow(2).sum() / teacher.shape[0]


def mask_channels(x: Tensor, ratio: float) -> Tensor:
    """Zero each channel of each sample with this probability, without rescaling the others; (B, C, H, W)."""
    return x * (torch.rand(*x.shape[:2], 1, 1, device=x.device) >= ratio)


class Generation(nn.Module):
    """Student maps of `source` channels -> maps of `channels`: aligned, masked (in training), and generated anew."""

    def __init__(self, source: int, channels: int, ratio: float):
        super().__init__()
        self.ratio = ratio
        self.align = nn.Identity() if source == channels else nn.Conv2d(source, channels, 1)
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.generate = nn.Sequential(convs[0], nn.ReLU(), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.align(x)
        return self.generate(mask_channels(x, self.ratio) if self.training else x)


@DISTILLERS.register("MGD")
class MGD(FeatureDistiller):
    """Cross-entropy, and `mgd_loss` on the maps of the last stages, of which MASK_RATIO of the channels are masked."""

    config = CN({"MASK_RATIO": 0.15, "LOSS": weights(1.0, 7e-5)})
    limits = {**WEIGHT_LIMITS, "MASK_RATIO": FRACTION}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, mask_ratio: float, ce_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        s, t = (feature_shapes(network, image_shape).feats[-1][0] for network in (student, self.teacher_network))
        self.generation = Generation(s, t, mask_ratio)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        s, t = same_size(student.features["feats"][-1], teacher.features["feats"][-1])
        return mgd_loss(self.generation(s), t)
