"""KD: match softened class probabilities (Hinton et al., 2015, arXiv:1503.02531)."""

import torch.nn.functional as F
from torch import Tensor

from ..data import Batch
from .base import DISTILLERS, Output
from .logit import LogitDistiller, logit_node
from .logit_loss import LOGIT_LOSSES


def kd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """temperature**2 * KL(teacher || student) of the softened logits; (B, C), (B, C) -> ().

    The factor temperature**2 keeps its gradient on the scale of the cross-entropy's.
    """
    log_s, log_t = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2


@LOGIT_LOSSES.register("KD")
def _kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return kd_loss(student, teacher, temperature)


@DISTILLERS.register("KD")
class KD(LogitDistiller):
    """Cross-entropy with the labels and `kd_loss` with the teacher."""

    config = logit_node(4.0, ce=0.1, kd=0.9)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
