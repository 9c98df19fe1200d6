"""Common to logit-based methods: cross-entropy plus one weighted term with a temperature."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from .base import Batch, Distiller, Output, StagedModel, TeacherLike


def logit_node(temperature: float, ce: float, kd: float, **more: Any) -> CN:
    """A section with mdistiller's keys for such a method, and the keys in `more`."""
    return CN({"TEMPERATURE": temperature, **more, "LOSS": CN({"CE_WEIGHT": ce, "KD_WEIGHT": kd})})


LOGIT_LIMITS = {"TEMPERATURE": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}


class LogitDistiller(Distiller):
    """Cross-entropy with the labels and one weighted term on logits, which subclasses implement as `logit_loss`."""

    limits = LOGIT_LIMITS
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, ce_weight: float, kd_weight: float
    ):
        super().__init__(student, teacher)
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The method's term before its weight, a scalar."""
        raise NotImplementedError

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(self.logit_loss(student, teacher, batch), self.kd_weight),
        }
