r"""AT: match spatial attention maps (Zagoruyko & Komodakis, 2017, arXiv:1612.03928).

Paper: Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention
Transfer.

Formula: $$L = w_{CE} CE + w_{feat} \sum_l MSE(a(F^S_l), a(F^T_l)), \quad a(F) = \frac{g}{\|g\|}, \quad g =
\frac{1}{C_l} \sum_c |F_c|^p$$

Code: szagoruyko/attention-transfer 893df54, utils.py:18-23; megvii-research/mdistiller a08d46f,
mdistiller/distillers/AT.py.

Differs: an odd P takes absolute values, as in the paper; mdistiller keeps the sign. P is 2 in every config.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import POSITIVE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, same_size, stage_pairs, weights


def attention_map(feature: Tensor, p: float) -> Tensor:
    """Mean over the channels of |feature|**p, flattened and normalised to unit length; (B, C, H, W) -> (B, H * W)."""
    return F.normalize(feature.abs().pow(p).mean(1).flatten(1))


def at_loss(student: list[Tensor], teacher: list[Tensor], p: float) -> Tensor:
    """Mean squared distance of attention maps, summed over pairs of feature maps (B, C, H, W); channels may differ.

    Maps of different size are compared at the smaller size; equation 2 of the paper, with the square outside.
    """
    pairs = (same_size(s, t) for s, t in zip(student, teacher, strict=True))
    return sum((F.mse_loss(attention_map(s, p), attention_map(t, p)) for s, t in pairs), student[0].new_zeros(()))


@DISTILLERS.register("AT")
class AT(FeatureDistiller):
    """Cross-entropy and `at_loss` over the stages."""

    config = CN({"P": 2.0, "LOSS": weights(1.0, 1000.0)})
    limits = {**WEIGHT_LIMITS, "P": POSITIVE}

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, p: float, ce_weight: float, feat_weight: float):
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.p = p

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = stage_pairs(student.features["feats"], teacher.features["feats"])
        return at_loss([s for s, _ in pairs], [t for _, t in pairs], self.p)
