r"""BD-KD: forward and reverse divergence, weighted by the gap of entropies (Amara et al., 2022, arXiv:2212.12965).

Paper: BD-KD: Balancing the Divergences for Online Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} \tau^2 (a KL(t \| s) + b KL(s \| t))$$ where $(a, b)$ are the weights of SURER for
samples whose entropy is smaller in $s$ than in $t$, and those of OTHERS for all others.

Code: none found.

Differs: the paper's rule for the weights of a sample was not at hand; here they are keys, one pair for samples of which
the student is surer than the teacher, and one for all others.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label
from ..losses.logit_losses import divergences, entropy
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike

WEIGHTS = ("SURER.FORWARD", "SURER.REVERSE", "OTHERS.FORWARD", "OTHERS.REVERSE", "LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT")


def both_ways(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 KL(teacher || student) and T^2 KL(student || teacher) of each sample; (B, C), (B, C) -> (B,), (B,)."""
    s, t = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * divergences(s, t), temperature**2 * divergences(t, s)


def bdkd_loss(
    student: Tensor, teacher: Tensor, temperature: float, surer: tuple[float, float], others: tuple[float, float]
) -> Tensor:
    """Mean of w_f KL(teacher || student) + w_r KL(student || teacher); (B, C), (B, C) -> ().

    `surer`: (w_f, w_r) of samples for which the student's entropy is below the teacher's; `others`: of all others.
    """
    forward, reverse = both_ways(student, teacher, temperature)
    is_surer = entropy(student.detach() / temperature) < entropy(teacher / temperature)
    weight_f, weight_r = (torch.where(is_surer, a, b) for a, b in zip(surer, others, strict=True))
    return (weight_f * forward + weight_r * reverse).mean()


@LOGIT_LOSSES.register("REVERSE_KD")
def reverse_kd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 KL(student || teacher); (B, C), (B, C) -> ()."""
    return both_ways(student, teacher, temperature)[1].mean()


@DISTILLERS.register("BDKD")
class BDKD(Distiller):
    """Cross-entropy and `bdkd_loss`, with a teacher that is trained along with the student."""

    config = CN(
        {
            "TEMPERATURE": 1.0,
            "SURER": CN({"FORWARD": 1.0, "REVERSE": 2.0}),  # weights where the student is surer than the teacher
            "OTHERS": CN({"FORWARD": 2.0, "REVERSE": 1.0}),
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits = {"TEMPERATURE": A_TEMPERATURE, **dict.fromkeys(WEIGHTS, NOT_NEGATIVE)}
    teacher_kind = "peer"
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, surer_forward: float,
        surer_reverse: float, others_forward: float, others_reverse: float, ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight
        self.surer, self.others = (surer_forward, surer_reverse), (others_forward, others_reverse)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        kd = bdkd_loss(student.logits, teacher.logits, self.temperature, self.surer, self.others)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(kd, self.kd_weight),
        }
