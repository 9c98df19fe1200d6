r"""KD: match softened class probabilities (Hinton et al., 2015, arXiv:1503.02531).

Paper: Distilling the Knowledge in a Neural Network.

Formula: $$L = w_{CE} CE + w_{KD} \tau^2 KL(t \| s)$$ and $w_{extra} \tau^2 KL(t \| s)$ of unlabelled images, if
EXTRA_WEIGHT is set.

Code: megvii-research/mdistiller a08d46f, mdistiller/distillers/KD.py; HobbitLong/RepDistiller b84f547,
distiller_zoo/KD.py (none by the authors).
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label
from ..losses.logit_losses import mean_divergence
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def kd_loss(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """temperature**2 * KL(teacher || student) of the softened logits; (B, C), (B, C) -> ().

    The factor temperature**2 keeps its gradient comparable in magnitude to that of the cross-entropy.
    """
    log_s, log_t = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return mean_divergence(log_s, log_t) * temperature**2


@LOGIT_LOSSES.register("KD")
def _kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return kd_loss(student, teacher, temperature)


@DISTILLERS.register("KD")
class KD(Distiller):
    """Cross-entropy with the labels and `kd_loss` with the teacher; with EXTRA_WEIGHT, on unlabelled images as well."""

    config = CN({"TEMPERATURE": 4.0, "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9, "EXTRA_WEIGHT": 0.0})})
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
        "LOSS.EXTRA_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False  # the loss uses only its logits
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, ce_weight: float, kd_weight: float,
        extra_weight: float = 0.0,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.needs_extra, self.extra_weight = extra_weight > 0, extra_weight
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "kd": distillation(kd_loss(student.logits, teacher.logits, self.temperature), self.kd_weight),
        }

    def extra_losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        return {"extra": distillation(kd_loss(student.logits, teacher.logits, self.temperature), self.extra_weight)}
