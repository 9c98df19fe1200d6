"""ESKD: an early-stopped teacher, and distillation that ends early (Cho & Hariharan, 2019, arXiv:1910.01348).

The early-stopped teacher is a matter of DISTILLER.TEACHER_CFG: a config of fewer epochs. What stands here is the other
half: the distillation term ends, and the student goes on with the labels alone.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ..config_keys import NOT_NEGATIVE
from ..data import Batch
from .base import DISTILLERS, Output
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


@DISTILLERS.register("ESKD")
class ESKD(LogitDistiller):
    """Cross-entropy, and `kd_loss` up to epoch STOP_EPOCH (0: to the end)."""

    config = logit_node(4.0, ce=0.1, kd=0.9, STOP_EPOCH=0)
    limits = {**LOGIT_LIMITS, "STOP_EPOCH": NOT_NEGATIVE}
    uses_epoch = True

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float, stop_epoch: int, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.stop_epoch = stop_epoch

    def losses(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        if self.stop_epoch and batch.epoch > self.stop_epoch:
            # The labels take over the whole weight, so that the sum keeps its scale
            weight = self.ce_weight + self.kd_weight
            return {"ce": weight * F.cross_entropy(student.logits, batch.target)}
        return super().losses(student, teacher, batch)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
