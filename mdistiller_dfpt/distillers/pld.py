r"""PLD: the likelihood of the teacher's ranking, with the label put first (Bassam et al., 2025, arXiv:2506.12542).

Paper: PLD: A Choice-Theoretic List-Wise Knowledge Distillation.

Formula: $$L = w_{KD} \sum_{k = 1}^{C} t_{\pi_k} \left( \log \sum_{m \ge k} e^{z^S_{\pi_m}} - z^S_{\pi_k} \right)$$
where $\pi_1 = y$, and $\pi_2$ to $\pi_C$ are the other classes by falling logit of the teacher.

Code: arXiv:2506.12542v3, the listing of appendix C (no repository found).
"""

import math

from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation
from ..losses.logit_losses import is_target
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def pld_loss(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The ranking's negative log-likelihood, each choice weighted by the teacher; (B, C), (B, C), (B,) -> ().

    By the model of Plackett and Luce, the student chooses one class after another from those that are left: the label,
    then the others by falling logit of the teacher. The first choice is cross-entropy. A choice counts as much as the
    teacher's probability of the chosen class, softened by the temperature; the student's logits are not.
    """
    last = teacher.masked_fill(is_target(teacher, target), math.inf).argsort(1)  # from the last choice to the first
    choices = student.gather(1, last)
    # The classes that are left at a choice are those up to it
    losses = choices.logcumsumexp(1) - choices
    return ((teacher / temperature).softmax(1).gather(1, last) * losses).sum(1).mean()


LOGIT_LOSSES.register("PLD")(pld_loss)


@DISTILLERS.register("PLD")
class PLD(Distiller):
    """`pld_loss`, without a term of cross-entropy, which it contains."""

    config = CN({"TEMPERATURE": 1.0, "LOSS": CN({"KD_WEIGHT": 1.0})})
    limits = {"TEMPERATURE": A_TEMPERATURE, "LOSS.KD_WEIGHT": NOT_NEGATIVE}
    needs_teacher_maps = False

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, temperature: float, kd_weight: float):
        super().__init__(student, teacher)
        self.temperature, self.kd_weight = temperature, kd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = pld_loss(student.logits, teacher.logits, batch.target, self.temperature)
        return {"kd": distillation(loss, self.kd_weight)}
