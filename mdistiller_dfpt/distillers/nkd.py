r"""NKD: a normalised non-target loss and a soft target loss (Yang et al., 2023, arXiv:2303.13005).

Paper: From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels.

Formula: $$L = w_{CE} CE - w_{NKD} \left( t_y \log s_y + \gamma \tau^2 \sum_{c \ne y} \hat t_c \log \hat s_c \right)$$
where $s_y$ and $t_y$ are at temperature 1, and $\hat s$, $\hat t$ are softened by $\tau$ and renormalised over the
classes other than $y$.

Code: yzd-v/cls_KD 1e5d48f, mmcls/models/dis_losses/nkd.py:23-51.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label
from ..losses.logit_losses import without_target
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def nkd_loss(student: Tensor, teacher: Tensor, target: Tensor, gamma: float, temperature: float) -> Tensor:
    """-t_y log s_y at temperature 1, plus gamma T^2 times the cross-entropy among the renormalised other classes.

    (B, C), (B, C), (B,) -> (); equation 7 without its label term. After renormalisation both distributions sum to 1, so
    the second part is smallest where they agree.
    """
    # The target: the teacher's probability weights the student's log-probability
    own = target[:, None]
    t_y = teacher.softmax(1).gather(1, own)
    target_part = -(t_y * student.log_softmax(1).gather(1, own)).mean()
    # The others, renormalised by the softmax over the logits without the target's
    s, t = (without_target(logits, target) / temperature for logits in (student, teacher))
    other_part = -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()
    return target_part + gamma * temperature**2 * other_part


@LOGIT_LOSSES.register("NKD")
def _nkd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return nkd_loss(student, teacher, target, NKD.config.GAMMA, temperature)


@DISTILLERS.register("NKD")
class NKD(Distiller):
    """Cross-entropy and `nkd_loss`."""

    config = CN({"TEMPERATURE": 3.0, "GAMMA": 3.5, "LOSS": CN({"CE_WEIGHT": 1.0, "NKD_WEIGHT": 1.0})})
    limits = {
        "TEMPERATURE": A_TEMPERATURE,
        "GAMMA": NOT_NEGATIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.NKD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, gamma: float, ce_weight: float,
        nkd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature, self.gamma, self.ce_weight, self.nkd_weight = temperature, gamma, ce_weight, nkd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = nkd_loss(student.logits, teacher.logits, batch.target, self.gamma, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "nkd": distillation(loss, self.nkd_weight),
        }
