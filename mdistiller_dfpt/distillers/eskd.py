r"""ESKD: an early-stopped teacher, and distillation that ends early (Cho & Hariharan, 2019, arXiv:1910.01348).

Paper: On the Efficacy of Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T)$$ up to epoch STOP_EPOCH, and $(w_{CE} + w_{KD}) CE$ in later
epochs.

The early-stopped teacher is set by DISTILLER.TEACHER_CFG: a config with fewer epochs. This file implements the other
half: the distillation term ends, and the student continues with the labels only.

Code: none found.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ..config.limits import NOT_NEGATIVE
from ..losses import Terms, label
from ..losses.sharded import weighted_by_shard
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


@DISTILLERS.register("ESKD")
class ESKD(LogitDistiller):
    """Cross-entropy, and `kd_loss` up to epoch STOP_EPOCH (0: for all epochs)."""

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
        # The labels get the full weight, so the scale of the sum is kept; the teacher is no longer run
        loss = label(F.cross_entropy(student.logits, batch.target), self.ce_weight + self.kd_weight)
        return weighted_by_shard({"ce": loss}, batch)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
