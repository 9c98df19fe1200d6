r"""ABKD: the alpha-beta-divergence of softened probabilities (Wang et al., 2025, ICML, arXiv:2505.04560).

Paper: ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via α-β-Divergence.

Formula: $$L = w_{CE} CE + w_{KD} \sum_c \left( \frac{t_c^{\alpha + \beta}}{\beta (\alpha + \beta)} + \frac{s_c^{\alpha
+ \beta}}{\alpha (\alpha + \beta)} - \frac{t_c^\alpha s_c^\beta}{\alpha \beta} \right)$$

Code: ghwang-s/abkd df81318, standard_classification/distiller_zoo/abkl.py:6-92.

Differs: where alpha, beta or their sum is 0, this is the limit of the general case; the code's lacks a factor, 1 over
the one that is not 0.
"""

from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .logit import LogitDistiller


def abkd_loss(student: Tensor, teacher: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """The divergence of the softened teacher p and student q, averaged; (B, C), (B, C) -> (). No factor temperature**2.

    Sum over classes of p^(a+b) / (b (a+b)) + q^(a+b) / (a (a+b)) - p^a q^b / (a b). (1, 0) is KL(p || q), (0, 1) the
    reverse one; a larger alpha favours classes of large errors, a larger beta those that the student is sure of.
    """
    log_q, log_p = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    total = alpha + beta
    if alpha == 0 and beta == 0:
        each = 0.5 * (log_q - log_p).pow(2)
    elif beta == 0:
        each = _bregman(alpha * log_p, alpha * log_q) / alpha**2
    elif alpha == 0:
        each = _bregman(beta * log_q, beta * log_p) / beta**2
    elif abs(total) < 1e-9:  # a sum of decimal fractions
        each = ((alpha * (log_p - log_q)).exp() - 1 - alpha * (log_p - log_q)) / alpha**2
    else:
        p, q = (total * log_p).exp() / (beta * total), (total * log_q).exp() / (alpha * total)
        each = p + q - (alpha * log_p + beta * log_q).exp() / (alpha * beta)
    return each.sum(1).mean()


def _bregman(log_a: Tensor, log_b: Tensor) -> Tensor:
    """a log(a / b) - a + b."""
    a, b = log_a.exp(), log_b.exp()
    return a * (log_a - log_b) - a + b


@LOGIT_LOSSES.register("ABKD")
def _abkd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return abkd_loss(student, teacher, ABKD.config.ALPHA, ABKD.config.BETA, temperature)


@DISTILLERS.register("ABKD")
class ABKD(LogitDistiller):
    """Cross-entropy and `abkd_loss`."""

    config = CN({"TEMPERATURE": 4.0, "ALPHA": 0.8, "BETA": 0.3, "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 32.0})})
    limits = {"TEMPERATURE": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, alpha: float, beta: float,
        ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.alpha, self.beta = alpha, beta

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return abkd_loss(student.logits, teacher.logits, self.alpha, self.beta, self.temperature)
