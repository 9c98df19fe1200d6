r"""DHKD: a second head on the student's feature matches the teacher's logits (Yang et al., 2024, arXiv:2411.08937).

Paper: Dual-Head Knowledge Distillation: Enhancing Logits Utilization with an Auxiliary Head.

Formula: $$L = w_{CE} CE + w_{KD} \tau^2 \sum_c \log \cosh \frac{z^H_c - z^T_c}{2 \tau}$$ where $z^H$ are the logits of
the second head.

Code: penghui-yang/DHKD 7976c69, distiller_zoo/BinaryKLNorm.py:6-20, models/classifier.py:4-18,
helper/optimizer.py:10-134.

Differs: probabilities are not clamped to [1e-8, 1 - 1e-8], which in float32 gives infinity; from the last epoch of
distillation on, the second head does not decay either. The projection of the gradients is SOLVER.TRAINER projected.
"""

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, one_of
from ..losses import Term, Terms, distillation, label
from ..losses.sharded import weighted_by_shard
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def dhkd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature**2 * log cosh of half the softened logits' difference, summed over the classes; (B, C), (B, C) -> ().

    That is the divergence of one half from the sigmoid of the softened difference d, plus that from 1 - sigmoid(d): the
    square of d / (2 sqrt 2) near zero, and linear far from it. Unlike KD, it sees a shift of all logits.
    """
    half = ((student - teacher) / (2 * temperature)).abs()
    log_cosh = half + F.softplus(-2 * half) - math.log(2)
    return temperature**2 * log_cosh.sum() / len(student)


def auxiliary_head(width: int, classes: int, kind: str) -> nn.Module:
    """A classifier of pooled features (B, width): linear, or with one hidden layer."""
    if kind == "linear":
        return nn.Linear(width, classes)
    return nn.Sequential(
        nn.Linear(width, 200), nn.Dropout(0.1), nn.BatchNorm1d(200), nn.ReLU(inplace=True), nn.Linear(200, classes)
    )


@DISTILLERS.register("DHKD")
class DHKD(Distiller):
    """Cross-entropy of the student's own head, `dhkd_loss` of a second one up to epoch STOP_EPOCH (0: for all epochs).

    The second head is not deployed.
    """

    config = CN(
        {
            "TEMPERATURE": 2.0,
            "HEAD": "nonlinear",
            "STOP_EPOCH": 0,
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "HEAD": one_of("linear", "nonlinear"), "STOP_EPOCH": NOT_NEGATIVE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False
    takes_soft_labels = True
    min_batch = 2  # the head has a BatchNorm over vectors

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, head: str, stop_epoch: int,
        ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature, self.stop_epoch = temperature, stop_epoch
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.head = auxiliary_head(student.classifier_layer.in_features, student.num_classes, head)

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        if not self.stop_epoch or batch.epoch <= self.stop_epoch:
            return super().terms(student, paths, batch)
        return weighted_by_shard({"ce": self.cross_entropy(student, batch)}, batch)  # the teacher is no longer run

    def cross_entropy(self, student: Output, batch: Batch) -> Term:
        """The term of the labels."""
        return label(F.cross_entropy(student.logits, batch.labels), self.ce_weight)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = dhkd_loss(self.head(student.features["pooled_feat"]), teacher.logits, self.temperature)
        return {"ce": self.cross_entropy(student, batch), "kd": distillation(loss, self.kd_weight)}
