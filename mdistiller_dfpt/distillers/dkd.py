r"""DKD: the KD loss as two separately weighted parts (Zhao et al., 2022, arXiv:2203.08679).

Paper: Decoupled Knowledge Distillation.

Formula: $$L = w_{CE} CE + r \tau^2 (\alpha KL(b^T \| b^S) + \beta KL(\hat t \| \hat s))$$ where $b = (p_y, 1 - p_y)$ of
the softened probabilities, and $\hat s$, $\hat t$ are renormalised over the classes other than $y$.

Code: megvii-research/mdistiller a08d46f, mdistiller/distillers/DKD.py; on standardised logits
sunshangquan/logit-standardization-KD f6e5aa5, mdistiller/distillers/DKD.py:7-40.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, POSITIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label, warm_up
from ..losses.logit_losses import mean_divergence, standardized, target_and_rest, without_target
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def dkd_loss(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """alpha * TCKD + beta * NCKD (equation 7) for logits (B, C) and labels (B,).

    TCKD is the divergence of (target, all other classes), NCKD the divergence among the other classes. With alpha = 1
    and beta = 1 - p_target of the teacher for each sample, the sum is the KD loss; a constant beta no longer suppresses
    NCKD where the teacher is confident. The computation stays in log space, so no logit gap overflows.
    """
    # The target against all others combined
    log_s, log_t = (target_and_rest(logits / temperature, target) for logits in (student, teacher))
    tckd = mean_divergence(log_s, log_t)
    # The others among themselves
    log_s, log_t = ((without_target(logits, target) / temperature).log_softmax(1) for logits in (student, teacher))
    nckd = mean_divergence(log_s, log_t)
    return (alpha * tckd + beta * nckd) * temperature**2


@LOGIT_LOSSES.register("DKD")
def _dkd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return dkd_loss(student, teacher, target, DKD.config.ALPHA, DKD.config.BETA, temperature)


@DISTILLERS.register("DKD")
class DKD(Distiller):
    """Cross-entropy and `dkd_loss`, with a warm-up over the first epochs."""

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "ALPHA": 1.0,
            "BETA": 8.0,
            "T": 4.0,
            "WARMUP": 20,
            "STANDARDIZE": False,  # logit standardisation (arXiv:2403.01427) before the loss
        }
    )
    limits = {
        "CE_WEIGHT": NOT_NEGATIVE, "ALPHA": NOT_NEGATIVE, "BETA": NOT_NEGATIVE, "T": POSITIVE, "WARMUP": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, beta: float, t: float,
        warmup: int, standardize: bool,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.beta, self.temperature = ce_weight, alpha, beta, t
        self.warmup, self.standardize = warmup, standardize

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = student.logits, teacher.logits
        if self.standardize:
            s, t = standardized(s), standardized(t)
        loss = dkd_loss(s, t, batch.target, self.alpha, self.beta, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "dkd": distillation(loss, ramp=warm_up(batch.epoch, self.warmup), inside=self.alpha + self.beta),
        }
