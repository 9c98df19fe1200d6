r"""TTM, WTTM: match the student's own probabilities to a power of the teacher's (Zheng & Yang, 2024, arXiv:2402.11148).

Paper: Knowledge Distillation Based on Transformed Teacher Matching.

Formula: $$L = w_{CE} CE + w_{KD} KL(t \| s), \quad s = softmax(z^S), \quad t = softmax(\gamma z^T)$$ and for WTTM $$L =
w_{CE} CE + w_{KD} \left( \sum_c p_c^\gamma \right) KL(t \| s), \quad p = softmax(z^T)$$

Code: zkxufo/TTM fe457b3, distiller_zoo/ttm.py:13-21, distiller_zoo/wttm.py:13-21.
"""

from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, POSITIVE
from ..losses import LOGIT_LOSSES
from ..losses.logit_losses import divergences
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .logit import LogitDistiller


def ttm_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """KL of the teacher's probabilities to the power of gamma, renormalised, and the student's; (B, C), (B, C) -> ().

    As the power is a temperature of 1 / gamma, this is KD without a temperature on the student's side and without its
    square as a factor, which by itself regularises the student's entropy.
    """
    return _divergences(student, teacher, gamma).mean()


def wttm_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """`ttm_loss` with each sample weighted by its sum of powers, which is large where the teacher is smooth."""
    powers = (gamma * teacher.log_softmax(1)).exp().sum(1)
    return (powers * _divergences(student, teacher, gamma)).mean()


def _divergences(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    return divergences(student.log_softmax(1), (gamma * teacher).log_softmax(1))


@LOGIT_LOSSES.register("TTM")
def _ttm(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return ttm_loss(student, teacher, 1 / temperature)


@LOGIT_LOSSES.register("WTTM")
def _wttm(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return wttm_loss(student, teacher, 1 / temperature)


@DISTILLERS.register("TTM")
class TTM(LogitDistiller):
    """Cross-entropy and `ttm_loss`."""

    config = CN({"GAMMA": 0.1, "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 45.0})})
    limits = {"GAMMA": POSITIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, gamma: float, ce_weight: float, kd_weight: float
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=1 / gamma, ce_weight=ce_weight, kd_weight=kd_weight)
        self.gamma = gamma

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return ttm_loss(student.logits, teacher.logits, self.gamma)


@DISTILLERS.register("WTTM")
class WTTM(TTM):
    """Cross-entropy and `wttm_loss`."""

    config = CN({"GAMMA": 0.2, "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 4.0})})

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return wttm_loss(student.logits, teacher.logits, self.gamma)
