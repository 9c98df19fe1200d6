r"""CAT-KD: match class activation maps (Guo et al., 2023, CVPR).

Paper: Class Attention Transfer Based Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{feat} MSE(n(A^S), n(A^T)), \quad A_k = pool_r \sum_c W_{kc} F_c$$ where $F$ is the map
that is pooled, $W$ the classifier's weights, $pool_r$ the mean in the cells of an $r \times r$ grid, and $n$ scales the
map of each class $k$ to unit length, if NORMALIZE is set.

Code: GzyAftermath/CAT-KD 4467073, mdistiller/distillers/CAT_KD.py:72-81, models/cifar/resnet.py:245.

Differs: the student keeps the bias of its classifier; the authors' has none.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE
from ..models.dummy import ImageShape
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, refuse_other_width, weights


def class_activation_map(feature: Tensor, weight: Tensor) -> Tensor:
    """The classifier's weights (classes, C) at each position of the map that it pools; -> (B, classes, H, W).

    Its mean over the positions is the logits without the bias, which tells no position from another: a map with it
    would differ between two networks that look at the same place.
    """
    return F.conv2d(feature, weight[:, :, None, None])


def catkd_loss(student: Tensor, teacher: Tensor, resolution: int, normalize: bool) -> Tensor:
    """Mean squared difference of maps (B, classes, H, W) pooled to `resolution`; unit length if `normalize`."""
    s, t = (F.adaptive_avg_pool2d(x, resolution) for x in (student, teacher))
    if normalize:
        s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    return F.mse_loss(s, t)


@DISTILLERS.register("CATKD")
class CATKD(FeatureDistiller):
    """Cross-entropy and `catkd_loss`."""

    revision = 2
    config = CN({"CAM_RESOLUTION": 2, "NORMALIZE": True, "LOSS": weights(1.0, 400.0)})
    limits = {**WEIGHT_LIMITS, "CAM_RESOLUTION": AT_LEAST_ONE}
    uses_classifier = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, cam_resolution: int, normalize: bool, ce_weight: float,
        feat_weight: float, image_shape: ImageShape,
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        refuse_other_width((student, self.teacher_network), image_shape)
        self.arguments = (cam_resolution, normalize)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        mine, theirs = student.features["head_map"], teacher.features["head_map"]
        own = class_activation_map(mine, self.student.classifier_of(mine).weight)
        with torch.no_grad():  # a teacher may train its classifier, but this term must not
            target = class_activation_map(theirs, self.teacher_network.classifier_of(theirs).weight)
        return catkd_loss(own, target, *self.arguments)
