r"""DFPT-KD and DFPT-KD+: KD from both paths of a dual-path teacher (Li et al., 2025, arXiv:2506.18244).

Paper: Dual-Forward Path Teacher Knowledge Distillation: Bridging the Capacity Gap Between Teacher and Student.

Formula: $$L_S = w_{CE} CE + w_T KD_\tau(z^S, z^T) + w_P KD_\tau(z^S, sg(z^P))$$ where $z^P$ are the logits of the
prompt path, which learns from its own loss $L_P$, that of the `dual_path` teacher; $w_T$ is TEACHER_WEIGHT, $w_P$
PROMPT_WEIGHT, and LOGIT_LOSS may replace $KD_\tau$.

Code: none published.

Differs: the paper leaves values open: each is a key, see docs/dfptkd.md.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE
from ..data.batch import hard_labels
from ..losses import LOGIT_LOSSES, LogitLoss, Terms, distillation, label
from ..losses.sharded import over_processes
from ..teachers.dual_path import ORIGINAL, PROMPT, DualPath
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def student_loss(
    student: Tensor, teacher: Tensor, prompt: Tensor, target: Tensor, loss: LogitLoss, temperature: float,
    *, ce_weight: float, teacher_weight: float, prompt_weight: float,
) -> Terms:  # fmt: skip
    """The terms of L_S for logits (B, C) of student, original path and prompt path, and labels (B,) or (B, C).

    L_S = ce_weight CE(p^S, y) + teacher_weight KD(p^S, p^T) + prompt_weight KD(p^S, sg[p^P])

    Both targets are detached, so a single backward pass trains the student and the prompt path at the same weights.
    """
    terms, classes = {}, hard_labels(target)
    if ce_weight > 0:
        terms["ce"] = label(F.cross_entropy(student, target), ce_weight)
    if teacher_weight > 0:
        terms["kd_teacher"] = distillation(loss(student, teacher.detach(), classes, temperature), teacher_weight)
    if prompt_weight > 0:
        terms["kd_prompt"] = distillation(loss(student, prompt.detach(), classes, temperature), prompt_weight)
    return terms


@DISTILLERS.register("DFPTKD")
class DFPTKD(Distiller):
    """Trains the student on both paths of a `DualPath` teacher, whose prompt path is trained jointly.

    The section also has the teacher's keys; with FINETUNE_BACKBONE this is DFPT-KD+.
    """

    config = CN({**DualPath.config, "LOSS": {"CE_WEIGHT": 1.0, "TEACHER_WEIGHT": 4.0, "PROMPT_WEIGHT": 4.0}})
    limits = {
        **DualPath.limits,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.TEACHER_WEIGHT": NOT_NEGATIVE, "LOSS.PROMPT_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    when = DualPath.when
    teacher_kind = "dual_path"
    builds_teacher = True
    matches_one_path = False
    takes_soft_labels = True
    needs_teacher_maps = False  # except for the first stages', which the teacher computes even if logits are cached

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, logit_loss: str, ce_weight: float,
        teacher_weight: float, prompt_weight: float, **prompt_path: Any,
    ):  # fmt: skip
        if isinstance(teacher, StagedModel):
            try:
                teacher = DualPath(teacher, temperature=temperature, logit_loss=logit_loss, **prompt_path)
            except ValueError as e:
                raise ValueError(f"DFPTKD.{e}") from None
        super().__init__(student, teacher)
        self.temperature, self.logit_loss = temperature, LOGIT_LOSSES[logit_loss]
        self.couples_samples = getattr(self.logit_loss, "couples_samples", False)
        self.weights = {
            "ce_weight": ce_weight, "teacher_weight": teacher_weight, "prompt_weight": prompt_weight,
        }  # fmt: skip

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        return over_processes(self._both_paths, student, paths, batch, couples_samples=self.couples_samples)

    def _both_paths(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        return student_loss(
            student.logits, paths[ORIGINAL].logits, paths[PROMPT].logits, batch.labels, self.logit_loss,
            self.temperature, **self.weights,
        )  # fmt: skip
