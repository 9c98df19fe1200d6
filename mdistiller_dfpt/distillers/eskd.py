"""ESKD: an early-stopped teacher, and distillation that ends early (Cho & Hariharan, 2019, arXiv:1910.01348).

The early-stopped teacher is a matter of DISTILLER.TEACHER_CFG: a config of fewer epochs. What stands here is the other
half: the distillation term ends, and the student goes on with the labels alone.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ..config.keys import NOT_NEGATIVE
from ..losses import Terms, label
from ..losses.sharded import weighted_by_shard
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


@DISTILLERS.register("ESKD")
class ESKD(LogitDistiller):
    """Cross-entropy, and `kd_loss` up to epoch STOP_EPOCH (0: to the end)."""

    config = logit_node(4.0, ce=0.1, kd=0.9, STOP_EPOCH=0)
    limits = {**LOGIT_LIMITS, "STOP_EPOCH": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, stop_epoch: int, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.stop_epoch = stop_epoch

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        if not self.stop_epoch or batch.epoch <= self.stop_epoch:
            return super().terms(student, paths, batch)
        # The labels take over the whole weight, so that the sum keeps its scale; the teacher is not run any more
        loss = label(F.cross_entropy(student.logits, batch.target), self.ce_weight + self.kd_weight)
        return weighted_by_shard({"ce": loss}, batch)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
