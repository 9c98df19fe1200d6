r"""RKD: match distances and angles between samples (Park et al., 2019, arXiv:1904.05068).

Paper: Relational Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{feat} (w_D \, \ell(D^S, D^T) + w_A \, \ell(A^S, A^T))$$ where $\ell$ is the smooth L1
distance, $D_{ij} = \|f_i - f_j\|$ divided by the mean of all, and $A_{ijk}$ is the cosine of the angle at $f_i$ between
$f_j$ and $f_k$.

Code: lenscloth/RKD 0a6c3c0, metric/loss.py; megvii-research/mdistiller a08d46f, mdistiller/distillers/RKD.py:8-50.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, POSITIVE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, weights


def pairwise_distance(feature: Tensor, squared: bool, eps: float) -> Tensor:
    """(Squared) distances between samples, zero on the diagonal; (B, C) -> (B, B)."""
    # |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>; rounding may take it below zero, where the root has no gradient
    square = feature.pow(2).sum(1)
    distance = (square[:, None] + square[None, :] - 2 * feature @ feature.T).clamp(min=eps)
    if not squared:
        distance = distance.sqrt()
    return distance.masked_fill(_diagonal(distance), 0.0)


def _diagonal(square: Tensor) -> Tensor:
    return square.new_ones(square.shape[0]).diag().bool()


def _unit_mean(distance: Tensor) -> Tensor:
    """Distances divided by their mean (without the diagonal), so that only their ratios matter."""
    return distance / (distance.sum() / (distance > 0).sum().clamp(min=1)).clamp(min=1e-12)


def angles(feature: Tensor) -> Tensor:
    """Cosines of the angles at each sample between every two others; (B, C) -> (B, B, B)."""
    towards = F.normalize(feature[None, :] - feature[:, None], dim=2)
    return towards @ towards.transpose(1, 2)


def rkd_loss(
    student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float, squared: bool = False,
    eps: float = 1e-12,
) -> Tensor:  # fmt: skip
    """Smooth L1 between the networks' mean-normalised distances, and between their angles; (B, C), (B, C') -> ().

    Both are invariant to rotation, shift and scale of either feature space (equations 5 to 8).
    """
    s, t = (_unit_mean(pairwise_distance(x, squared, eps)) for x in (student, teacher))
    return distance_weight * F.smooth_l1_loss(s, t) + angle_weight * F.smooth_l1_loss(angles(student), angles(teacher))


@DISTILLERS.register("RKD")
class RKD(FeatureDistiller):
    """Cross-entropy and `rkd_loss` on the pooled features."""

    couples_samples = True

    config = CN(
        {
            "DISTANCE_WEIGHT": 25.0,
            "ANGLE_WEIGHT": 50.0,
            "LOSS": weights(1.0, 1.0),
            "PDIST": CN({"EPSILON": 1e-12, "SQUARED": False}),
        }
    )
    limits = {
        **WEIGHT_LIMITS, "DISTANCE_WEIGHT": NOT_NEGATIVE, "ANGLE_WEIGHT": NOT_NEGATIVE, "PDIST.EPSILON": POSITIVE,
    }  # fmt: skip

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, distance_weight: float, angle_weight: float,
        ce_weight: float, feat_weight: float, pdist_epsilon: float, pdist_squared: bool,
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.arguments = (distance_weight, angle_weight, pdist_squared, pdist_epsilon)
        self.inside = distance_weight + angle_weight

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return rkd_loss(student.features["pooled_feat"], teacher.features["pooled_feat"], *self.arguments)
