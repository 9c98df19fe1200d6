r"""VID: maximise a bound on the mutual information of features (Ahn et al., 2019, arXiv:1904.05835).

Paper: Variational Information Distillation for Knowledge Transfer.

Formula: $$L = w_{CE} CE + w_{feat} \sum_l mean \frac{1}{2} \left( \frac{(\mu_l(F^S_l) - F^T_l)^2}{\sigma_l^2} + \log
\sigma_l^2 \right)$$ where $\mu_l$ is three convolutions, and $\sigma_l^2$ a learned variance of each channel.

Code: megvii-research/mdistiller a08d46f, mdistiller/distillers/VID.py:16-31; HobbitLong/RepDistiller b84f547,
distiller_zoo/VID.py (the authors' own could not be obtained).

Differs: the variances are learned, as in RepDistiller; mdistiller leaves them at their first value.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import POSITIVE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import (
    WEIGHT_LIMITS,
    FeatureDistiller,
    ImageShape,
    check_shapes,
    feature_shapes,
    same_size,
    stage_pairs,
    weights,
)


def vid_loss(mean: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """Mean negative log-likelihood (up to a constant) of the teacher's map under a Gaussian (equation 5).

    `mean` and `teacher` (B, C, H, W), `variance` (C,): learned per channel, so channels that the student cannot predict
    have little weight.
    """
    variance = variance[:, None, None]
    return 0.5 * ((mean - teacher).pow(2) / variance + variance.log()).mean()


class Gaussian(nn.Module):
    """The predicted distribution of a teacher map: three 1x1 convolutions for the mean, and a variance per channel."""

    def __init__(self, in_channels: int, channels: int, init_variance: float, eps: float):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )  # fmt: skip
        self.eps = eps
        # the variance is its softplus plus eps
        self.log_scale = nn.Parameter(torch.full((channels,), math.log(math.expm1(init_variance - eps))))

    @property
    def variance(self) -> Tensor:
        """(C,), positive."""
        return F.softplus(self.log_scale) + self.eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`vid_loss` of maps (B, C', H, W) and (B, C, H', W'), at the smaller size."""
        student, teacher = same_size(student, teacher)
        return vid_loss(self.mean(student), teacher, self.variance)


@DISTILLERS.register("VID")
class VID(FeatureDistiller):
    """Cross-entropy and `vid_loss`, summed over the stages."""

    config = CN(
        {
            "EPS": 1e-5,
            "INIT_PRED_VAR": 5.0,
            "INPUT_SIZE": [],  # mdistiller's key; checked against the image size of the data
            "LOSS": weights(1.0, 1.0),
        }
    )
    limits = {**WEIGHT_LIMITS, "EPS": POSITIVE, "INIT_PRED_VAR": POSITIVE}
    mdistiller_defaults = {"INPUT_SIZE": [32, 32]}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, eps: float, init_pred_var: float, input_size: list[int],
        ce_weight: float, feat_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.inferred = check_shapes({"VID.INPUT_SIZE": (input_size, list(image_shape[1:]))})
        if init_pred_var <= eps:
            raise ValueError(f"VID.INIT_PRED_VAR is {init_pred_var}; it must be greater than VID.EPS, {eps}")
        mine, its = (feature_shapes(network, image_shape).feats for network in (student, self.teacher_network))
        self.gaussians = nn.ModuleList(Gaussian(s[0], t[0], init_pred_var, eps) for s, t in stage_pairs(mine, its))

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = stage_pairs(student.features["feats"], teacher.features["feats"])
        terms = (gaussian(s, t) for gaussian, (s, t) in zip(self.gaussians, pairs, strict=True))
        return sum(terms, student.logits.new_zeros(()))
