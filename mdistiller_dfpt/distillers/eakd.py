r"""EA-KD: samples weighted by the teacher's entropy and the student's (Su et al., 2023, arXiv:2311.13621).

Paper: EA-KD: Entropy-based Adaptive Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} r \frac{H^T + H^T H^S / H_{max}}{2} KD_\tau(z^S, z^T)$$ where $H^S$ and $H^T$ are the
entropies of a sample's predictions, softened by ENTROPY_TEMPERATURE, and $H_{max}$ is ENTROPY_BOUND; LOGIT_LOSS may
replace $KD_\tau$.

Code: cpsu00/EA-KD 6fb4c06, mdistiller/distillers/KD.py:8-26, mdistiller/distillers/DKD.py:7-49.

Differs: the paper divides by the largest entropy, log C; the code does so on ImageNet, and on CIFAR-100 its KD and DKD
divide by 100 (ENTROPY_BOUND). Of its losses, ReviewKD's and MLLD's are not offered.
"""

import math

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import Terms, distillation, label, warm_up
from ..losses.logit_losses import entropy, loss_over_samples, per_sample
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def entropy_weights(student: Tensor, teacher: Tensor, temperature: float, bound: float) -> Tensor:
    """(H_t + H_t H_s / bound) / 2 of the softened logits (B, C), (B, C) -> (B,), detached."""
    s, t = (entropy(logits.detach() / temperature) for logits in (student, teacher))
    return (t + t * s / bound) / 2


@DISTILLERS.register("EAKD")
class EAKD(Distiller):
    """Cross-entropy and a logit loss whose samples are weighted by `entropy_weights`."""

    config = CN(
        {
            "LOGIT_LOSS": "KD",  # any that does not couple samples
            "TEMPERATURE": 4.0,
            "ENTROPY_TEMPERATURE": 3.0,
            "ENTROPY_BOUND": 0.0,  # 0: log C, the largest entropy
            "WARMUP": 0,  # epochs over which the weight of the loss rises
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "ENTROPY_TEMPERATURE": A_TEMPERATURE, "ENTROPY_BOUND": NOT_NEGATIVE,
        "WARMUP": NOT_NEGATIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, logit_loss: str, temperature: float,
        entropy_temperature: float, entropy_bound: float, warmup: int, ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.logit_loss = loss_over_samples("EAKD.LOGIT_LOSS", logit_loss)
        self.temperature, self.entropy_temperature = temperature, entropy_temperature
        self.bound, self.warmup = entropy_bound, warmup
        self.ce_weight, self.kd_weight = ce_weight, kd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = student.logits, teacher.logits
        weights = entropy_weights(s, t, self.entropy_temperature, self.bound or math.log(s.shape[1]))
        loss = (weights * per_sample(self.logit_loss, s, t, batch.target, self.temperature)).mean()
        return {
            "ce": label(F.cross_entropy(s, batch.target), self.ce_weight),
            "kd": distillation(loss, self.kd_weight, ramp=warm_up(batch.epoch, self.warmup)),
        }
