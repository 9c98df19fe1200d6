r"""NormKD: a temperature for each sample, its logits' standard deviation (Chi et al., 2023, arXiv:2308.00520).

Paper: NormKD: Normalized Logits for Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} \tau_T^2 KL(softmax(z^T / \tau_T) \| softmax(z^S / \tau_S)), \quad \tau_X = k \,
std(z^X)$$ with the deviation over the classes of a sample; $k$ is TEMPERATURE_NORM.

Code: gizi1/NormKD 279371b, mdistiller/distillers/NormKD.py:8-23.
"""

from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES
from ..losses.logit_losses import divergences
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .logit import LogitDistiller


def normkd_loss(student: Tensor, teacher: Tensor, temperature_norm: float) -> Tensor:
    """KL of the logits over (deviation * temperature_norm), times the teacher's divisor squared; (B, C), (B, C) -> ().

    The divisor is a sample's own temperature, on either side; its square keeps the gradient on the scale of the logits.
    """
    own_s, own_t = (temperature_norm * x.std(1, keepdim=True).clamp(min=1e-7) for x in (student, teacher))
    log_s, log_t = (student / own_s).log_softmax(1), (teacher / own_t).log_softmax(1)
    return (divergences(log_s, log_t) * own_t[:, 0] ** 2).mean()


@LOGIT_LOSSES.register("NORMKD")
def _normkd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return normkd_loss(student, teacher, temperature)


@DISTILLERS.register("NORMKD")
class NormKD(LogitDistiller):
    """Cross-entropy and `normkd_loss`."""

    config = CN({"TEMPERATURE_NORM": 2.0, "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9})})
    limits = {"TEMPERATURE_NORM": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature_norm: float, ce_weight: float, kd_weight: float
    ):
        super().__init__(student, teacher, temperature=temperature_norm, ce_weight=ce_weight, kd_weight=kd_weight)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return normkd_loss(student.logits, teacher.logits, self.temperature)
