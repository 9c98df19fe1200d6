"""MLLD: match predictions at instance, batch and class level, at several temperatures (Jin et al., 2023, CVPR)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from ..losses.sharded import over_processes
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike, checked_output
from .kd import kd_loss


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the Gram matrices of rows (N, M), divided by N; () (equations 5 and 7)."""
    return (student @ student.T - teacher @ teacher.T).pow(2).sum() / student.shape[0]


def mlld_loss(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Sum over the temperatures of `kd_loss`, and `gram_loss` over samples and over classes; (B, C), (B, C) -> ()."""
    loss = student.new_zeros(())
    for temperature in temperatures:
        s, t = ((logits / temperature).softmax(1) for logits in (student, teacher))
        loss = loss + kd_loss(student, teacher, temperature) + gram_loss(s, t) + gram_loss(s.T, t.T)
    return loss


@DISTILLERS.register("MLLD")
class MLLD(Distiller):
    """Cross-entropy and `mlld_loss`, each on a weakly and on a strongly augmented view of the batch."""

    config = CN({"TEMPERATURES": [4.0, 2.0, 3.0, 5.0, 6.0], "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9})})
    limits = {
        "TEMPERATURES": Limit("numbers > 0, at least one", lambda v: len(v) > 0 and all(t > 0 for t in v)),
        "LOSS.CE_WEIGHT": NOT_NEGATIVE,
        "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }
    needs_strong_view = True
    needs_teacher_maps = False
    couples_samples = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperatures: Sequence[float], ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperatures, self.ce_weight, self.kd_weight = tuple(temperatures), ce_weight, kd_weight

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        if batch.strong is None:
            raise ValueError("MLLD needs batches with a strongly augmented view in addition to the weak one")
        # `forward` has run both networks on the weak view; here they run on the strong one
        with torch.no_grad():
            strong_teacher = self.teacher(replace(batch, image=batch.strong))[self.path].detach()
        views = {
            "teacher": checked_output(paths, self.path, type(self.teacher), student).detach(),
            "student_strong": self.forward_student(batch.strong), "teacher_strong": strong_teacher,
        }  # fmt: skip
        return over_processes(self._both_views, student, views, batch, couples_samples=True)

    def _both_views(self, student: Output, views: Mapping[str, Output], batch: Batch) -> Terms:
        terms: Terms = {}
        for name, s in (("", student), ("_strong", views["student_strong"])):
            t = views["teacher" + name]
            terms["ce" + name] = label(F.cross_entropy(s.logits, batch.target), self.ce_weight)
            terms["kd" + name] = distillation(mlld_loss(s.logits, t.logits, self.temperatures), self.kd_weight)
        return terms
