r"""ReviewKD: each teacher stage supervises all deeper student stages (Chen et al., 2021, arXiv:2104.09044).

Paper: Distilling Knowledge via Knowledge Review.

Formula: $$L = w_{CE} CE + w_{review} r \sum_l HCL(g_l, F^T_l), \quad HCL(a, b) = \frac{\sum_k 2^{-k} MSE(pool_k a,
pool_k b)}{\sum_k 2^{-k}}$$ where $g_l$ is the student's map of stage $l$, fused with the deeper ones, $F^T_l$ are
preactivations, the deepest pair are the pooled features, and $pool_k$ for $k = 0, 1, 2, 3$ is the full size and the
means in grids of 4, 2 and 1.

Code: dvlab-research/ReviewKD cede6ea, CIFAR-100/model/reviewkd.py:20-56, 160-177; megvii-research/mdistiller a08d46f,
mdistiller/distillers/ReviewKD.py.

Differs: the first epoch of the warm-up is epoch 1, as in mdistiller; in the authors' code it is 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE
from ..losses import Terms, distillation, label, warm_up
from ..models.output import autocast
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, check_shapes, feature_shapes, stage_pairs


def hcl_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Hierarchical context loss: mean squared difference at full size and pooled to 4, 2 and 1, summed over pairs.

    Each level has half the weight of the previous one, and the weights of the existing levels sum to 1; (B, C, H, W).
    """
    loss = student[0].new_zeros(())
    for s, t in zip(student, teacher, strict=True):
        # At full size, then pooled: the smaller a level, the more it is about the whole image
        levels, weight = [(1.0, F.mse_loss(s, t))], 1.0
        for size in (4, 2, 1):
            if size >= s.shape[2]:
                continue
            weight /= 2
            pooled_s, pooled_t = (F.adaptive_avg_pool2d(x, size) for x in (s, t))
            levels.append((weight, F.mse_loss(pooled_s, pooled_t)))
        # A small map lacks levels, so the weights of those it has are normalised
        loss = loss + sum(w * value for w, value in levels) / sum(w for w, _ in levels)
    return loss


def nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps by repetition, keeping their type: under autocast PyTorch would convert them to float32."""
    size = tuple(size)
    if tuple(x.shape[2:]) == size:
        return x
    if x.dtype == torch.float32:
        return F.interpolate(x, size, mode="nearest")
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, size, mode="nearest")


class AttentionFusion(nn.Module):
    """Fuses the map of a stage with the output of the deeper ones, and projects the result to the teacher's width.

    (B, C, H, W), (B, mid, h, w) or None -> (for the loss (B, C', H', W'), for the shallower stage (B, mid, H, W)).
    """

    def __init__(self, in_channels: int, mid: int, channels: int, fuse: bool):
        super().__init__()
        enter = nn.Conv2d(in_channels, mid, 1, bias=False)
        leave = nn.Conv2d(mid, channels, 3, padding=1, bias=False)
        self.enter = nn.Sequential(enter, nn.BatchNorm2d(mid))
        self.leave = nn.Sequential(leave, nn.BatchNorm2d(channels))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuse else None
        for conv in (enter, leave):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        if self.attention is not None:
            assert deeper is not None, "only the deepest stage has nothing to fuse with"
            # Attention: two maps (B, 1, H, W), which weight this stage against the deeper ones
            deeper = nearest(deeper, x.shape[2:])
            a, b = self.attention(torch.cat([x, deeper], 1)).split(1, dim=1)
            x = torch.addcmul(x * a, deeper, b)
        return self.leave(nearest(x, size)), x


@DISTILLERS.register("REVIEWKD")
class ReviewKD(Distiller):
    """Cross-entropy, and `hcl_loss` between fused student maps and the teacher's preactivations, with a warm-up."""

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "REVIEWKD_WEIGHT": 1.0,
            "WARMUP_EPOCHS": 20,
            # mdistiller's shape keys: inferred from the networks; values that a config sets are checked
            "SHAPES": [],
            "OUT_SHAPES": [],
            "IN_CHANNELS": [],
            "OUT_CHANNELS": [],
            "MAX_MID_CHANNEL": 512,
            "STU_PREACT": False,
        }
    )
    mdistiller_defaults = {
        "SHAPES": [1, 8, 16, 32], "OUT_SHAPES": [1, 8, 16, 32], "IN_CHANNELS": [64, 128, 256, 256],
        "OUT_CHANNELS": [64, 128, 256, 256],
    }  # fmt: skip
    limits = {
        "CE_WEIGHT": NOT_NEGATIVE, "REVIEWKD_WEIGHT": NOT_NEGATIVE, "WARMUP_EPOCHS": NOT_NEGATIVE,
        "MAX_MID_CHANNEL": AT_LEAST_ONE,
    }  # fmt: skip
    min_batch = 2  # BatchNorm over the single position of the pooled feature

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, reviewkd_weight: float,
        warmup_epochs: int, shapes: list[int], out_shapes: list[int], in_channels: list[int], out_channels: list[int],
        max_mid_channel: int, stu_preact: bool, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.reviewkd_weight, self.warmup_epochs = ce_weight, reviewkd_weight, warmup_epochs
        self.source = "preact_feats" if stu_preact else "feats"
        mine, its = (feature_shapes(network, image_shape) for network in (student, self.teacher_network))
        pairs = stage_pairs(getattr(mine, self.source), its.preact_feats)
        pairs.append(((mine.pooled, 1, 1), (its.pooled, 1, 1)))
        self.inferred = check_shapes({
            "REVIEWKD.IN_CHANNELS": (in_channels, [s[0] for s, _ in pairs]),
            "REVIEWKD.OUT_CHANNELS": (out_channels, [t[0] for _, t in pairs]),
            "REVIEWKD.SHAPES": (shapes, [s[1] for s, _ in reversed(pairs)]),
            "REVIEWKD.OUT_SHAPES": (out_shapes, [t[1] for _, t in reversed(pairs)]),
        })  # fmt: skip
        mid = min(max_mid_channel, pairs[-1][0][0])
        # Deepest first, in the order of execution
        self.fusions = nn.ModuleList(
            AttentionFusion(s[0], mid, t[0], fuse=i > 0) for i, (s, t) in enumerate(reversed(pairs))
        )

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        pairs = stage_pairs(student.features[self.source], teacher.features["preact_feats"])
        pooled_s, pooled_t = (x.features["pooled_feat"][:, :, None, None] for x in (student, teacher))
        # The pooled features are the deepest pair
        pairs.append((pooled_s, pooled_t))
        fused, deeper = [], None
        with autocast(self.dtype, batch.image):  # the fusion modules are a network of their own
            for fusion, (s, t) in zip(self.fusions, reversed(pairs), strict=True):
                out, deeper = fusion(s, deeper, tuple(t.shape[2:]))
                fused.append(out.float())
        loss = hcl_loss(fused, [t for _, t in reversed(pairs)])
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "review": distillation(loss, self.reviewkd_weight, ramp=warm_up(batch.epoch, self.warmup_epochs)),
        }
