r"""DIST: match correlations instead of probabilities (Huang et al., 2022, arXiv:2205.10536).

Paper: Knowledge Distillation from A Stronger Teacher.

Formula: $$L = w_{CE} CE + \tau^2 \left( \frac{w_{inter}}{B} \sum_i (1 - \rho(s_i, t_i)) + \frac{w_{intra}}{C} \sum_c (1
- \rho(s_{:c}, t_{:c})) \right)$$ where $\rho$ is Pearson's correlation, over the classes of a sample $i$ and over the
batch for a class $c$.

Code: hunto/image_classification_sota 6f7a70a, lib/models/losses/dist_kd.py:4-34.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, POSITIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label
from ..losses.logit_losses import pearson_distance
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def dist_loss(student: Tensor, teacher: Tensor, inter: float, intra: float, temperature: float) -> Tensor:
    """temperature**2 * (inter * distance over the classes + intra * distance over the samples); (B, C), (B, C) -> ().

    The distance is one minus Pearson's correlation (equations 8 to 10). It matches the teacher's relative preferences,
    not its exact probabilities, which a much weaker student cannot match.
    """
    s, t = ((logits / temperature).softmax(1) for logits in (student, teacher))
    return temperature**2 * (inter * pearson_distance(s, t) + intra * pearson_distance(s.T, t.T))


@LOGIT_LOSSES.register("DIST")
def _dist(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return dist_loss(student, teacher, 1.0, 1.0, temperature)


vars(_dist)["couples_samples"] = True  # the correlation within a class is taken over the batch


@DISTILLERS.register("DIST")
class DIST(Distiller):
    """Cross-entropy and `dist_loss`."""

    revision = 2
    config = CN({"TEMPERATURE": 4.0, "LOSS": CN({"CE_WEIGHT": 1.0, "INTER_WEIGHT": 2.0, "INTRA_WEIGHT": 2.0})})
    limits = {
        "TEMPERATURE": POSITIVE,
        **{f"LOSS.{w}_WEIGHT": NOT_NEGATIVE for w in ("CE", "INTER", "INTRA")},
    }  # fmt: skip
    couples_samples = True
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, ce_weight: float, inter_weight: float,
        intra_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature, self.ce_weight = temperature, ce_weight
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = dist_loss(student.logits, teacher.logits, self.inter_weight, self.intra_weight, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "dist": distillation(loss, inside=self.inter_weight + self.intra_weight),
        }
