r"""DGKD: KD from the teacher and all assistants (Son et al., 2021, arXiv:2009.08825).

Paper: Densely Guided Knowledge Distillation using Multiple Teacher Assistants.

Formula: $$L = w_{CE} CE + w_{KD} \sum_k KD_\tau(z^S, z^{T_k})$$ over the teacher and all assistants, less DROP of them,
drawn anew in each step.

Code: wonchulSon/DGKD 2599350, train.py:104-129, with its weights divided by the number of classes.

Differs: the divergence is a mean over the batch, as in KD; in the code it is one over the classes as well, so that a
weight there is a C-th of it here.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from ..config.keys import Removed
from ..config.limits import NOT_NEGATIVE
from ..data.randomness import draw_numbers
from ..losses import Terms, distillation, label
from ..losses.sharded import over_processes
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


def dgkd_loss(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Sum of `kd_loss` with each teacher's logits (B, C) (equation 5).

    The authors' code (DGKD 2599350, train.py:104-127) takes the mean over batch AND classes, a C-th of this.
    """
    return sum((kd_loss(student, t, temperature) for t in teachers), student.new_zeros(()))


@DISTILLERS.register("DGKD")
class DGKD(LogitDistiller):
    """Cross-entropy and `dgkd_loss`; each step leaves out DROP randomly chosen teachers.

    The authors' lambda is KD_WEIGHT lambda / classes and CE_WEIGHT 1 - lambda here; their default is lambda 1 at T 5.
    """

    config = logit_node(4.0, ce=0.1, kd=0.9, DROP=1)
    limits = {**LOGIT_LIMITS, "DROP": NOT_NEGATIVE}
    removed = {"ASSISTANTS": Removed([], "DISTILLER.ASSISTANTS")}
    teacher_kind = "assistants"
    matches_one_path = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, drop: int, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.drop = drop

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        names = list(paths)
        # At least one teacher is kept, since without assistants there is only one
        kept = draw_numbers(len(names), max(1, len(names) - self.drop), batch.step, batch.epoch, stream=3)
        teachers = {names[i]: paths[names[i]] for i in kept}
        return over_processes(self._all, student, teachers, batch, couples_samples=False)

    def _all(self, student: Output, teachers: Mapping[str, Output], batch: Batch) -> Terms:
        loss = dgkd_loss(student.logits, [t.logits for t in teachers.values()], self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(loss, self.kd_weight),
        }
