r"""TAKD: KD from the last of a chain of assistants (Mirzadeh et al., 2020, arXiv:1902.03393).

Paper: Improved Knowledge Distillation via Teacher Assistant.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^A)$$ where $z^A$ are the logits of the last assistant.

Code: imirzadeh/Teacher-Assistant-Knowledge-Distillation 0f8168f, train.py:87-99, with its weights divided by the number
of classes.

Differs: the divergence is a mean over the batch, as in KD; in the code it is one over the classes as well, so that a
weight there is a C-th of it here.
"""

from torch import Tensor

from ..config.keys import Removed
from .base import DISTILLERS, Batch, Output
from .kd import kd_loss
from .logit import LogitDistiller, logit_node


@DISTILLERS.register("TAKD")
class TAKD(LogitDistiller):
    """Cross-entropy, and `kd_loss` with the last of DISTILLER.ASSISTANTS; without assistants, with the teacher.

    The authors' code (Teacher-Assistant-Knowledge-Distillation 0f8168f, train.py:87-99) takes the mean over batch AND
    classes: its lambda is KD_WEIGHT lambda / classes and CE_WEIGHT 1 - lambda here.
    """

    config = logit_node(4.0, ce=0.1, kd=0.9)
    removed = {"ASSISTANTS": Removed([], "DISTILLER.ASSISTANTS")}
    teacher_kind = "assistants"

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
