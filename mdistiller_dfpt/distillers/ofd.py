"""OFD: match preactivations where they matter (Heo et al., 2019, arXiv:1904.01866)."""

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.keys import AT_LEAST_ONE
from ..distributed import all_reduce
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, same_size, stage_pairs, weights


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial L2 of preactivations (B, C, H, W), summed over all but the batch; margin (C,) negative.

    The teacher passes a margin ReLU, max(x, m), so that no exact value is asked of responses that its own ReLU drops;
    where it is at or below zero and the student lower still, nothing is asked (equations 2 and 4).
    """
    target = torch.maximum(teacher, margin[:, None, None])
    asked = (student > target) | (target > 0)
    return ((student - target).pow(2) * asked).sum() / student.shape[0]


class Margin(nn.Module):
    """Each channel's mean over its negative responses, measured over all batches so far.

    The paper's definition; its shortcut through the parameters of the BatchNorm before the ReLU does not exist in
    networks whose preactivation is a sum or a concatenation.
    """

    total: Tensor  # (C,) of the negative responses
    count: Tensor  # (C,) how many they are

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("total", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(channels, dtype=torch.float64))

    def measure(self, preactivation: Tensor) -> None:
        """Add a batch (B, C, H, W) of the teacher's preactivations."""
        negative = preactivation.clamp(max=0)
        self.total += all_reduce(negative.sum((0, 2, 3)))
        self.count += all_reduce((preactivation < 0).sum((0, 2, 3)))

    def forward(self, preactivation: Tensor) -> Tensor:
        """The margin (C,), this batch (B, C, H, W) of the teacher's preactivations included in training."""
        if self.training:
            self.measure(preactivation)
        return self.value

    @property
    def value(self) -> Tensor:
        """(C,) in float32; zero for a channel that was never negative."""
        return (self.total / self.count.clamp(min=1)).float()


@DISTILLERS.register("OFD")
class OFD(FeatureDistiller):
    """Cross-entropy and `ofd_loss` over the stages, each stage before the last at half the next one's weight."""

    config = CN({"LOSS": weights(1.0, 1e-3), "CONNECTOR": CN({"KERNEL_SIZE": 1})})
    limits = {**WEIGHT_LIMITS, "CONNECTOR.KERNEL_SIZE": AT_LEAST_ONE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, feat_weight: float,
        connector_kernel_size: int, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        if connector_kernel_size % 2 == 0:
            raise ValueError(f"OFD.CONNECTOR.KERNEL_SIZE is {connector_kernel_size}; it must be odd")
        mine, its = (feature_shapes(network, image_shape).preact_feats for network in (student, self.teacher_network))
        pairs = stage_pairs(mine, its)
        self.connectors = nn.ModuleList(_connector(s[0], t[0], connector_kernel_size) for s, t in pairs)
        self.margins = nn.ModuleList(Margin(t[0]) for _, t in pairs)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = stage_pairs(student.features["preact_feats"], teacher.features["preact_feats"])
        loss = student.logits.new_zeros(())
        for i, (s, t) in enumerate(pairs):
            margin = self.margins[i](t)
            s, t = same_size(self.connectors[i](s), t)
            loss = loss + ofd_loss(s, t, margin) / 2 ** (len(pairs) - i - 1)
        return loss


def _connector(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
