r"""CRLD: KD within and across two views, where the teacher is sure (Zhang et al., 2024, arXiv:2412.16493).

Paper: Cross-View Consistency Regularisation for Knowledge Distillation.

Formula: $$L = w_{CE} (CE_w + CE_s) + w_{WV} [c_w \ge \tau_w] (KD_\tau(z^S_w, z^T_w) + KD_\tau(z^S_s, z^T_s)) + w_{CV}
[c_s \ge \tau_s] (KD_\tau(z^S_s, z^T_w) + KD_\tau(z^S_w, z^T_s))$$ where $w$ and $s$ are the weak and the strong view,
and $c$ is the teacher's largest probability on a view.

Code: haiduo/DeepKD afb5964, mdistiller/distillers/CRLD.py:7-132 (a copy of others; the authors' own was not found).
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from ..losses.logit_losses import divergences
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .two_views import TwoViewDistiller


def crld_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], tau_w: float, tau_s: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """KD within and across the views; logits ((B, C), (B, C)) of the weak and the strong one -> (), ().

    A sample counts within the views if the teacher's confidence on the weak one is at least tau_w, and across them if
    that on the strong one is at least tau_s; both are divided by all samples.
    """
    (s_weak, s_strong), (t_weak, t_strong) = student, teacher
    sure = [(t.softmax(1).amax(1) >= tau).to(t.dtype) for t, tau in ((t_weak, tau_w), (t_strong, tau_s))]

    def kd(s: Tensor, t: Tensor) -> Tensor:
        return divergences((s / temperature).log_softmax(1), (t / temperature).log_softmax(1)) * temperature**2

    within = (kd(s_weak, t_weak) + kd(s_strong, t_strong)) * sure[0]
    across = (kd(s_strong, t_weak) + kd(s_weak, t_strong)) * sure[1]
    return within.mean(), across.mean()


_A_CONFIDENCE = Limit("in [0, 1]", lambda v: 0 <= v <= 1)


@DISTILLERS.register("CRLD")
class CRLD(TwoViewDistiller):
    """Cross-entropy on both views, and both parts of `crld_loss`."""

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "WV_WEIGHT": 2.0,  # within views
            "CV_WEIGHT": 0.5,  # across views
            "TEMPERATURE": 4.0,
            "TAU_W": 0.9,
            "TAU_S": 0.2,
        }
    )
    limits = {
        "CE_WEIGHT": NOT_NEGATIVE, "WV_WEIGHT": NOT_NEGATIVE, "CV_WEIGHT": NOT_NEGATIVE, "TEMPERATURE": A_TEMPERATURE,
        "TAU_W": _A_CONFIDENCE, "TAU_S": _A_CONFIDENCE,
    }  # fmt: skip

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, wv_weight: float, cv_weight: float,
        temperature: float, tau_w: float, tau_s: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.wv_weight, self.cv_weight = ce_weight, wv_weight, cv_weight
        self.temperature, self.tau_w, self.tau_s = temperature, tau_w, tau_s

    def both_views(self, student: Output, views: Mapping[str, Output], batch: Batch) -> Terms:
        mine = student.logits, views["student_strong"].logits
        its = views["teacher"].logits, views["teacher_strong"].logits
        within, across = crld_loss(mine, its, self.tau_w, self.tau_s, self.temperature)
        return {
            "ce": label(F.cross_entropy(mine[0], batch.target), self.ce_weight),
            "ce_strong": label(F.cross_entropy(mine[1], batch.target), self.ce_weight),
            "kd_within": distillation(within, self.wv_weight),
            "kd_across": distillation(across, self.cv_weight),
        }
