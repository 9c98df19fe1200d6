"""CAT-KD: match class activation maps (Guo et al., 2023, CVPR, "Class Attention Transfer")."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, weights


def class_activation_map(feature: Tensor, classifier: nn.Linear) -> Tensor:
    """The classifier's logits at each position of the map that it pools; (B, C, H, W) -> (B, classes, H, W).

    Their mean over the positions is the network's logits.
    """
    return F.conv2d(feature, classifier.weight[:, :, None, None], classifier.bias)


def catkd_loss(student: Tensor, teacher: Tensor, resolution: int, normalize: bool) -> Tensor:
    """Mean squared difference of maps (B, classes, H, W) pooled to `resolution`; unit length if `normalize`."""
    s, t = (F.adaptive_avg_pool2d(x, resolution) for x in (student, teacher))
    if normalize:
        s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    return F.mse_loss(s, t)


@DISTILLERS.register("CATKD")
class CATKD(FeatureDistiller):
    """Cross-entropy and `catkd_loss`."""

    config = CN({"CAM_RESOLUTION": 2, "NORMALIZE": False, "LOSS": weights(1.0, 1.0)})
    limits = {**WEIGHT_LIMITS, "CAM_RESOLUTION": AT_LEAST_ONE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, cam_resolution: int, normalize: bool, ce_weight: float,
        feat_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.arguments = (cam_resolution, normalize)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        own = class_activation_map(student.features["head_map"], self.student.classifier_layer)
        with torch.no_grad():  # a teacher may train its classifier, but this term must not
            target = class_activation_map(teacher.features["head_map"], self.teacher_network.classifier_layer)
        return catkd_loss(own, target, *self.arguments)
