r"""OFD: match preactivations above a margin (Heo et al., 2019, arXiv:1904.01866).

Paper: A Comprehensive Overhaul of Feature Distillation.

Formula: $$L = w_{CE} CE + w_{feat} \sum_{l = 1}^{n} 2^{l - n} \sum_{c, p} d(g_l(F^S_l), \max(F^T_l, m_l))$$ with $d(a,
b) = (a - b)^2$ where $a > b$ or $b > 0$, else 0; $F_l$ are preactivations, summed over channels $c$ and positions $p$,
$g_l$ is a convolution with BatchNorm, and $m_l$ a channel's mean negative response.

Code: clovaai/overhaul-distillation 76344a8, CIFAR-100/distiller.py:9-13, 66-70; megvii-research/mdistiller a08d46f,
mdistiller/distillers/OFD.py.

Differs: the margin is measured on the training images, as the paper defines it; the codes derive it from a BatchNorm.
"""

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE
from ..distributed import all_reduce
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, same_size, stage_pairs, weights


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial L2 distance of preactivations (B, C, H, W), summed over all but the batch; margin (C,) negative.

    The teacher passes through a margin ReLU, max(x, m), so responses that its own ReLU would drop have no exact target;
    where the teacher is at or below zero and the student is lower still, the loss is zero (equations 2 and 4;
    overhaul-distillation 76344a8, CIFAR-100/distiller.py:9-13).
    """
    target = torch.maximum(teacher, margin[:, None, None])
    asked = (student > target) | (target > 0)
    return ((student - target).pow(2) * asked).sum() / student.shape[0]


class Margin(nn.Module):
    """Each channel's mean over its negative responses, measured over all batches so far.

    This is the paper's definition; its shortcut via the parameters of the BatchNorm before the ReLU does not apply to
    networks whose preactivation is a sum or a concatenation.
    """

    total: Tensor  # (C,) sum of the negative responses
    count: Tensor  # (C,) number of negative responses

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
        """The margin (C,); in training this batch (B, C, H, W) of the teacher's preactivations is included."""
        if self.training:
            self.measure(preactivation)
        return self.value

    @property
    def value(self) -> Tensor:
        """(C,) in float32; zero for a channel that was never negative."""
        return (self.total / self.count.clamp(min=1)).float()


@DISTILLERS.register("OFD")
class OFD(FeatureDistiller):
    """Cross-entropy and `ofd_loss` over the stages; each stage has half the weight of the next.

    In training a frozen teacher's BatchNorm uses the statistics of the batch, as the student's connectors do, and as in
    the authors' code (train_with_distillation.py:75) and mdistiller's; unlike there, its running ones do not change. A
    path that is trained with the student has the statistics that its kind of teacher sets.
    """

    revision = 2
    config = CN({"LOSS": weights(1.0, 1e-3), "CONNECTOR": CN({"KERNEL_SIZE": 1})})
    teacher_batch_statistics = True
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
            # The margin is of the teacher's map at its own size
            margin = self.margins[i](t)
            s, t = same_size(self.connectors[i](s), t)
            loss = loss + ofd_loss(s, t, margin) / 2 ** (len(pairs) - i - 1)
        return loss


def _connector(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
