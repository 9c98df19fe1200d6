r"""RLD: KD with a teacher whose errors are refined by the labels (Sun et al., 2024, arXiv:2408.07703).

Paper: Knowledge Distillation with Refined Logits.

Formula: $$L = w_{CE} CE + r \left( \alpha \tau_\alpha^2 KL(b^T \| b^S) + \beta \tau^2 KL(\tilde t \| \tilde s)
\right)$$ where $b^S = (s_y, 1 - s_y)$ and $b^T = (\max_c t_c, 1 - \max_c t_c)$ at temperature $\tau_\alpha$, and
$\tilde s$, $\tilde t$ are renormalised over the classes that the teacher ranks below $y$.

Code: zju-SWJ/RLD d54578f, mdistiller/distillers/RLD.py:6-66.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label, warm_up
from ..losses.logit_losses import mean_divergence, standardized, target_and_rest
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def rld_loss(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float,
    alpha_temperature: float,
) -> Tensor:  # fmt: skip
    """alpha * confidence + beta * masked correlation, each times its temperature squared; (B, C), (B, C), (B,) -> ().

    Confidence: the student's (target, rest) against the teacher's (its first class, rest), right or wrong. Correlation:
    divergence among the classes that the teacher ranks below the target. It is 0 where none or one is left.
    """
    log_s = target_and_rest(student / alpha_temperature, target)
    log_t = target_and_rest(teacher / alpha_temperature, teacher.argmax(1))
    confidence = mean_divergence(log_s, log_t) * alpha_temperature**2
    # Finite, unlike -inf, so that a sample without classes has two uniform distributions and not NaN
    masked = teacher >= teacher.gather(1, target[:, None])
    log_s, log_t = ((x / temperature).masked_fill(masked, -1e9).log_softmax(1) for x in (student, teacher))
    correlation = mean_divergence(log_s, log_t) * temperature**2
    return alpha * confidence + beta * correlation


@LOGIT_LOSSES.register("RLD")
def _rld(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return rld_loss(student, teacher, target, RLD.config.ALPHA, RLD.config.BETA, temperature, temperature)


@DISTILLERS.register("RLD")
class RLD(Distiller):
    """Cross-entropy and `rld_loss`, with a warm-up over the first epochs."""

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "ALPHA": 1.0,
            "BETA": 8.0,
            "ALPHA_T": 1.0,  # temperature of the confidence; of the correlation: T
            "T": 4.0,
            "WARMUP": 20,
            "STANDARDIZE": False,  # logit standardisation (arXiv:2403.01427) before the loss
        }
    )
    limits = {
        "CE_WEIGHT": NOT_NEGATIVE, "ALPHA": NOT_NEGATIVE, "BETA": NOT_NEGATIVE, "ALPHA_T": A_TEMPERATURE,
        "T": A_TEMPERATURE, "WARMUP": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, beta: float,
        alpha_t: float, t: float, warmup: int, standardize: bool,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.beta = ce_weight, alpha, beta
        self.alpha_temperature, self.temperature = alpha_t, t
        self.warmup, self.standardize = warmup, standardize

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = student.logits, teacher.logits
        if self.standardize:
            s, t = standardized(s), standardized(t)
        loss = rld_loss(s, t, batch.target, self.alpha, self.beta, self.temperature, self.alpha_temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "rld": distillation(loss, ramp=warm_up(batch.epoch, self.warmup), inside=self.alpha + self.beta),
        }
