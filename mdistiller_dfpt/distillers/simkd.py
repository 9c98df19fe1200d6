"""SimKD: the student reuses the teacher's classifier and learns its input (Chen et al., 2022, arXiv:2203.14001)."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import same_size


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the projected map and the teacher's (B, C, H, W), at the smaller size (equation 4)."""
    return F.mse_loss(*same_size(student, teacher))


class ReusedClassifier(nn.Module):
    """The deployed network: the student up to its pooling, a projector, and the teacher's linear classifier."""

    def __init__(self, student: StagedModel, teacher: StagedModel, factor: int):
        super().__init__()
        self.student = student
        classifier = teacher.classifier_layer
        width, mid = classifier.in_features, max(1, classifier.in_features // factor)
        self.projector = nn.Sequential(
            *_conv(student.classifier_layer.in_features, mid, 1), *_conv(mid, mid, 3), *_conv(mid, width, 1)
        )
        self.classifier = copy.deepcopy(classifier).requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        _, features = self.student(image)
        projected = self.projector(features["head_map"])
        return self.classifier(projected.mean((2, 3))), {**features, "projected": projected}


def _conv(in_channels: int, channels: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


@DISTILLERS.register("SIMKD")
class SimKD(Distiller):
    """By default only `simkd_loss`; the student's own classifier is neither used nor trained."""

    config = CN({"FACTOR": 2, "LOSS": CN({"CE_WEIGHT": 0.0, "FEAT_WEIGHT": 1.0})})
    limits = {"FACTOR": AT_LEAST_ONE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.FEAT_WEIGHT": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, factor: int, ce_weight: float, feat_weight: float
    ):
        super().__init__(student, teacher)
        if any(p.requires_grad for p in self.teacher_network.classifier_layer.parameters()):
            raise ValueError(f"SIMKD reuses the classifier of the path {self.path!r}, which is trained with the "
                             "student: select a frozen path, for example `DISTILLER.PATHS.teacher 1.0`")  # fmt: skip
        self.ce_weight, self.feat_weight = ce_weight, feat_weight
        student.classifier_layer.requires_grad_(False)
        self.reused = ReusedClassifier(student, self.teacher_network, factor)

    @property
    def deployed(self) -> nn.Module:
        return self.reused

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = simkd_loss(student.features["projected"], teacher.features["head_map"])
        terms = {"feat": distillation(loss, self.feat_weight)}
        if self.ce_weight:
            terms["ce"] = label(F.cross_entropy(student.logits, batch.target), self.ce_weight)
        return terms
