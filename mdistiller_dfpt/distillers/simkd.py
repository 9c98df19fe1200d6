"""SimKD: the student reuses the teacher's classifier and learns its input (Chen et al., 2022, arXiv:2203.14001).

Paper: Knowledge Distillation with the Reused Teacher Classifier.

Formula: $$L = w_{feat} MSE(g(F^S), F^T) + w_{CE} CE$$ where $F$ is the map that is pooled, and $g$ the projector, which
the teacher's classifier follows in the deployed student.

Code: DefangChen/SimKD 2b389c3, models/util.py:188-236, train_student.py:269-272.
"""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from ..models.dummy import ImageShape
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import output_of, same_size


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the projected map and the teacher's (B, C, H, W), at the smaller size (equation 4).

    SimKD 2b389c3, models/util.py:218-236 and train_student.py:272.
    """
    return F.mse_loss(*same_size(student, teacher))


class ReusedClassifier(nn.Module):
    """The deployed network: the student up to its projected map, a projector, and the teacher's linear classifier.

    What is projected is the map that the student pools. If its head has a convolution of its own (MobileNetV2,
    ShuffleNetV2: the widths of the last stage and of the classifier differ), it is the map of the last stage instead,
    as in the authors' code (`feat_s[-2]`). A map larger than the teacher's is pooled to the teacher's size first.
    """

    def __init__(self, student: StagedModel, teacher: StagedModel, factor: int, image_shape: ImageShape):
        super().__init__()
        self.student = student
        self.classifier = copy.deepcopy(teacher.classifier_layer).requires_grad_(False)
        mine, its = (output_of(network, image_shape) for network in (student, teacher))
        self.skips_head = mine.features["feats"][-1].shape[1] != student.classifier_layer.in_features
        width = its.features["head_map"].shape[1]
        if width != self.classifier.in_features:
            raise ValueError(
                f"the student reuses the teacher's classifier, which takes {self.classifier.in_features} features, and "
                f"the map that the teacher pools has {width} channels: use another teacher"
            )
        self.size = tuple(its.features["head_map"].shape[2:])
        self.projector = projector(self.projected_map(mine.features).shape[1], width, factor)

    @classmethod
    def of(cls, distiller: Distiller, factor: int, image_shape: ImageShape) -> "ReusedClassifier":
        """That of a method's networks; what it does not use of the student's head is frozen.

        ValueError if the teacher's classifier is trained with the student.
        """
        student, teacher = distiller.student, distiller.teacher_network
        if any(p.requires_grad for p in teacher.classifier_layer.parameters()):
            raise ValueError(
                f"{type(distiller).__name__.upper()} reuses the classifier of the path {distiller.path!r}, which is "
                "trained with the student: select a frozen path, for example `DISTILLER.PATHS.teacher 1.0`"
            )
        reused = cls(student, teacher, factor, image_shape)
        unused: list[nn.Module] = [student.classifier_layer]
        unused += [student.get_submodule(name) for name in student.head_modules if reused.skips_head]
        for module in unused:
            module.requires_grad_(False)
        return reused

    def projected_map(self, features: Mapping[str, Any]) -> Tensor:
        """The student's map (B, C, H, W) that is projected, at most as large as the teacher's."""
        x = features["feats"][-1] if self.skips_head else features["head_map"]
        size = (min(x.shape[2], self.size[0]), min(x.shape[3], self.size[1]))
        return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        _, features = self.student(image)
        projected = self.projector(self.projected_map(features))
        return self.classifier(projected.mean((2, 3))), {**features, "projected": projected}


def projector(in_channels: int, channels: int, factor: int) -> nn.Sequential:
    """Maps of `in_channels` to maps of `channels`, through a bottleneck of `channels` / `factor`."""
    mid = max(1, channels // factor)
    return nn.Sequential(*_conv(in_channels, mid, 1), *_conv(mid, mid, 3), *_conv(mid, channels, 1))


def _conv(in_channels: int, channels: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


@DISTILLERS.register("SIMKD")
class SimKD(Distiller):
    """By default only `simkd_loss`; the student's own head behind the projected map is neither used nor trained."""

    revision = 2
    config = CN({"FACTOR": 2, "LOSS": CN({"CE_WEIGHT": 0.0, "FEAT_WEIGHT": 1.0})})
    limits = {"FACTOR": AT_LEAST_ONE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.FEAT_WEIGHT": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, factor: int, ce_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.feat_weight = ce_weight, feat_weight
        self.reused = ReusedClassifier.of(self, factor, image_shape)

    @property
    def deployed(self) -> nn.Module:
        return self.reused

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = simkd_loss(student.features["projected"], teacher.features["head_map"])
        terms = {"feat": distillation(loss, self.feat_weight)}
        if self.ce_weight:
            terms["ce"] = label(F.cross_entropy(student.logits, batch.target), self.ce_weight)
        return terms
