r"""DeepKD: DKD's parts on the teacher's first classes, a momentum for each (Huang et al., 2025, arXiv:2505.15133).

Paper: DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer.

Formula: $$L = w_{CE} CE + r \tau^2 (\alpha KL(b^T \| b^S) + \beta KL(\hat t \| \hat s))$$ where $b = (p_y, 1 - p_y)$ of
the softened probabilities, and $\hat s$, $\hat t$ are renormalised over the teacher's $k$ first classes without $y$;
with COUPLED, the second part is multiplied by the batch's mean of $1 - t_y$. DEEPKD_CRLD sums both parts over the four
pairs of a student's and a teacher's view, $$L = w_{CE} (CE_w + CE_s) + r \tau^2 \sum_{u, v} a_{uv} (\alpha KL(b^T_v \|
b^S_u) + \beta KL(\hat t_v \| \hat s_u))$$ where $a_{uv}$ is $w_{WV}$ for equal views and $w_{CV}$ for different ones,
times the share of the batch on whose weak (equal views) or strong (different views) images the teacher is sure.

Code: haiduo/DeepKD afb5964, mdistiller/distillers/_base.py:97-174, mdistiller/distillers/KD.py:46-64,
mdistiller/distillers/DKD.py:81-101, mdistiller/distillers/CRLD.py:58-120, mdistiller/engine/deepkd.py:16-252.

Differs: the paper has a momentum for the labels; in the code, with SOLVER.DEEPKD.AS_RELEASED here, theirs is that of
the target class. The paper's mask widens from few classes in training; the released code has a fixed one, which none of
its files sets and its KD ignores by a misspelt name (KD.py:57), so the schedule of TOPK is not confirmed. Its
combination with MLLD, most of whose released files do not run, is not offered.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, INCREASING, NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label, warm_up
from ..losses.logit_losses import divergences, is_target, mean_divergence, target_and_rest
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .two_views import TwoViewDistiller


def deepkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """DKD's parts, each times temperature**2: of the target against all others, and among the others.

    (B, C), (B, C), (B,) -> (), (). The others are those among the teacher's k first classes, k >= 2, without the
    target, which thus may be k or k - 1; None: all.
    """
    s, t = student / temperature, teacher / temperature
    tckd = mean_divergence(target_and_rest(s, target), target_and_rest(t, target))
    without = is_target(teacher, target)
    if k is not None and k < teacher.shape[1]:
        first = teacher.topk(k).indices
        s, t, without = s.gather(1, first), t.gather(1, first), without.gather(1, first)
    # Both are 0 where no class is, which adds nothing to a divergence
    log_s, log_t = (x.masked_fill(without, -torch.inf).log_softmax(1).masked_fill(without, 0) for x in (s, t))
    return tckd * temperature**2, divergences(log_s, log_t).mean() * temperature**2


def classes_at(epoch: int, numbers: Sequence[int], epochs: Sequence[int]) -> int | None:
    """The number of classes in an epoch: `numbers` at `epochs`, linear in between; None, which is all, for []."""
    if not numbers:
        return None
    return round(float(np.interp(epoch, epochs or [1], numbers)))


def checked_schedule(section: str, numbers: Sequence[int], epochs: Sequence[int]) -> tuple[list[int], list[int]]:
    """The schedule of the mask; ValueError if there is not an epoch for each of several numbers."""
    if len(numbers) > 1 and len(epochs) != len(numbers):
        raise ValueError(
            f"{section}.TOPK has {len(numbers)} numbers and {section}.TOPK_EPOCHS {len(epochs)}: give each its epoch"
        )
    return list(numbers), list(epochs) if len(numbers) > 1 else []


_LIMITS = {
    "CE_WEIGHT": NOT_NEGATIVE, "ALPHA": NOT_NEGATIVE, "BETA": NOT_NEGATIVE, "WARMUP": NOT_NEGATIVE,
    "TOPK": Limit("numbers of classes >= 2", lambda v: all(type(k) is int and k >= 2 for k in v)),
    "TOPK_EPOCHS": INCREASING,
}  # fmt: skip
_WHEN = {"TOPK_EPOCHS": When("TOPK has no two numbers", lambda section: len(section.TOPK) > 1)}


@DISTILLERS.register("DEEPKD")
class DeepKD(Distiller):
    """Cross-entropy and both parts of `deepkd_loss`; with SOLVER.TRAINER deepkd, each has its momentum.

    With COUPLED, the second part is weighted by the teacher's probability of the other classes, as KD's is: as in the
    authors' code by the mean over the batch, not sample by sample.
    """

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "ALPHA": 1.0,  # of the target class
            "BETA": 8.0,  # of the others
            "T": 4.0,
            "WARMUP": 20,  # epochs over which both parts rise
            "COUPLED": False,  # True: KD's weights of the two parts, with ALPHA and BETA 1
            "TOPK": [],  # how many of the teacher's first classes are matched, at TOPK_EPOCHS; [20]: always; []: all
            "TOPK_EPOCHS": [],
        }
    )
    limits = {**_LIMITS, "T": A_TEMPERATURE}
    when = _WHEN
    has_parts = True
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, beta: float, t: float,
        warmup: int, coupled: bool, topk: list[int], topk_epochs: list[int],
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.beta, self.temperature = ce_weight, alpha, beta, t
        self.warmup, self.coupled, self.couples_samples = warmup, coupled, coupled
        self.schedule = checked_schedule("DEEPKD", topk, topk_epochs)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t, y = student.logits, teacher.logits, batch.target
        tckd, nckd = deepkd_loss(s, t, y, self.temperature, classes_at(batch.epoch, *self.schedule))
        if self.coupled:
            nckd = nckd * target_and_rest(t / self.temperature, y)[:, 1].exp().mean()
        ramp = warm_up(batch.epoch, self.warmup)
        return {
            "ce": label(F.cross_entropy(s, y), self.ce_weight),
            "tckd": distillation(tckd, self.alpha, ramp=ramp, part="target"),
            "nckd": distillation(nckd, self.beta, ramp=ramp, part="others"),
        }


@DISTILLERS.register("DEEPKD_CRLD")
class DeepCRLD(TwoViewDistiller):
    """Cross-entropy on two views, and both parts of `deepkd_loss` within and across them.

    As in the authors' code, a part within (across) the views is a mean over all samples, times the share of those of
    which the teacher is sure on the weak (strong) view; CRLD itself leaves the other samples out.
    """

    config = CN(
        {
            "CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 0.5,
            "WV_WEIGHT": 2.0,  # within views
            "CV_WEIGHT": 0.5,  # across views
            "TEMPERATURE": 4.0, "TAU_W": 0.9, "TAU_S": 0.2, "WARMUP": 20, "TOPK": [], "TOPK_EPOCHS": [],
        }
    )  # fmt: skip
    limits = {
        **_LIMITS, "WV_WEIGHT": NOT_NEGATIVE, "CV_WEIGHT": NOT_NEGATIVE, "TEMPERATURE": A_TEMPERATURE,
        "TAU_W": Limit("in [0, 1]", lambda v: 0 <= v <= 1), "TAU_S": Limit("in [0, 1]", lambda v: 0 <= v <= 1),
    }  # fmt: skip
    when = _WHEN
    has_parts = True
    couples_samples = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, beta: float,
        wv_weight: float, cv_weight: float, temperature: float, tau_w: float, tau_s: float, warmup: int,
        topk: list[int], topk_epochs: list[int],
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.beta, self.warmup = ce_weight, alpha, beta, warmup
        self.weights, self.thresholds, self.temperature = (wv_weight, cv_weight), (tau_w, tau_s), temperature
        self.schedule = checked_schedule("DEEPKD_CRLD", topk, topk_epochs)

    def both_views(self, student: Output, views: Mapping[str, Output], batch: Batch) -> Terms:
        s, t = (student.logits, views["student_strong"].logits), [views[f"teacher{v}"].logits for v in ("", "_strong")]
        k, y = classes_at(batch.epoch, *self.schedule), batch.target
        shares = [(x.softmax(1).amax(1) >= tau).to(x.dtype).mean() for x, tau in zip(t, self.thresholds, strict=True)]
        within, across = (weight * share for weight, share in zip(self.weights, shares, strict=True))
        pairs = [(within, s[0], t[0]), (within, s[1], t[1]), (across, s[1], t[0]), (across, s[0], t[1])]
        parts = [[w * part for part in deepkd_loss(mine, its, y, self.temperature, k)] for w, mine, its in pairs]
        tckd, nckd = (torch.stack(values).sum() for values in zip(*parts, strict=True))
        ramp, inside = warm_up(batch.epoch, self.warmup), sum(self.weights)
        return {
            "ce": label(F.cross_entropy(s[0], y), self.ce_weight),
            "ce_strong": label(F.cross_entropy(s[1], y), self.ce_weight),
            "tckd": distillation(tckd, self.alpha, ramp=ramp, inside=inside, part="target"),
            "nckd": distillation(nckd, self.beta, ramp=ramp, inside=inside, part="others"),
        }
