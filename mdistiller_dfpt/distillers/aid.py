r"""AID: a teacher fine-tuned towards a trained student (Qian et al., 2025, ICCV).

Paper: A Good Teacher Adapts Their Knowledge for Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T)$$ where $S$ is the network that starts as the teacher, and $T$ the
trained student.

Code: none found.

Differs: weights, temperature and number of epochs were not at hand; they are keys.
"""

from torch import Tensor

from ..teachers import Teacher, TeacherPath
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .kd import kd_loss
from .logit import LogitDistiller, logit_node

OF_STUDENT = "teacher2"  # the path of the first network after DISTILLER.TEACHER


@DISTILLERS.register("AID")
class AID(LogitDistiller):
    """Cross-entropy and `kd_loss` with a trained student, for a network that starts as the teacher.

    DISTILLER.STUDENT is the teacher that is fine-tuned, from the weights of DISTILLER.TEACHER; the trained student is
    the only network of DISTILLER.OTHER_TEACHERS.
    """

    config = logit_node(4.0, 1.0, 1.0)
    starts_from_teacher = True
    matches_one_path = False  # it selects the path of the trained student
    teacher_kind = "ensemble"

    def __init__(self, student: StagedModel, teacher: TeacherLike, **of_logits: float):
        if not isinstance(teacher, Teacher) or len(teacher.frozen()) != 2:
            raise ValueError("DISTILLER.OTHER_TEACHERS is to name one network, the trained student")
        super().__init__(student, TeacherPath(teacher, OF_STUDENT), **of_logits)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return kd_loss(student.logits, teacher.logits, self.temperature)
