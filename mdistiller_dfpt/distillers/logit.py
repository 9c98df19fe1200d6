"""What the methods over logits share: cross-entropy plus one weighted term at a temperature."""

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config_keys import NOT_NEGATIVE, POSITIVE
from ..data import Batch
from .base import Distiller, Output


def logit_node(temperature: float, ce: float, kd: float, **more: float | int | list) -> CN:
    """A node with mdistiller's keys of such a method, and `more` beside them."""
    return CN({"TEMPERATURE": temperature, **more, "LOSS": CN({"CE_WEIGHT": ce, "KD_WEIGHT": kd})})


LOGIT_LIMITS = {"TEMPERATURE": POSITIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}


class LogitDistiller(Distiller):
    """Cross-entropy with the labels and one weighted term over logits, which subclasses write as `logit_loss`."""

    limits = LOGIT_LIMITS
    looks_at_teacher_maps = False

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float, ce_weight: float, kd_weight: float
    ):
        super().__init__(student, teacher)
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The method's term before its weight, a scalar."""
        raise NotImplementedError

    def losses(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.target),
            "kd": self.kd_weight * self.logit_loss(student, teacher, batch),
        }
