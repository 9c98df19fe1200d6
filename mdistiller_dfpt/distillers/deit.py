r"""DeiT: a distillation token, whose head learns from the teacher alone (Touvron et al., 2021, arXiv:2012.12877).

Paper: Training data-efficient image transformers & distillation through attention.

Formula: $$L = w_{CE} CE(z^{cls}, y) + w_{KD} CE(z^{dist}, argmax_c z^T_c)$$ where $z^{cls}$ and $z^{dist}$ are the
logits of the two heads; with KIND soft, the second part is $w_{KD} KD_\tau(z^{dist}, z^T) / C$.

Code: facebookresearch/deit 7e160fe, losses.py:9-64.

Differs: a student without a distillation token gets a second linear classifier of its pooled feature instead.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, one_of
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .kd import kd_loss


def deit_loss(student: Tensor, teacher: Tensor, kind: str, temperature: float) -> Tensor:
    """hard: cross-entropy with the teacher's class; soft: `kd_loss` as a mean over the classes too; (B, C), (B, C)."""
    if kind == "hard":
        return F.cross_entropy(student, teacher.argmax(1))
    return kd_loss(student, teacher, temperature) / student.shape[1]


class TwoHeads(nn.Module):
    """The deployed network: the mean of the logits of two heads, which are also among the features.

    A network of timm with a distillation token (`head`, `head_dist`) has both, and returns their mean.
    """

    def __init__(self, student: StagedModel):
        super().__init__()
        self.student = student
        names = {name.rpartition(".")[2]: name for name, m in student.named_modules() if isinstance(m, nn.Linear)}
        self.names = (names["head"], names["head_dist"]) if {"head", "head_dist"} <= names.keys() else None
        added = nn.Linear(student.classifier_layer.in_features, student.num_classes) if self.names is None else None
        self.added = added

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if self.added is not None:
            own, features = self.student(image)
            other = self.added(features["pooled_feat"])
            return (own + other) / 2, {**features, "head_logits": own, "distilled_logits": other}
        assert self.names is not None
        seen: list[Tensor] = []
        handles = [
            self.student.get_submodule(name).register_forward_hook(lambda m, args, out: seen.append(out))
            for name in self.names
        ]
        try:
            logits, features = self.student(image)
        finally:
            for handle in handles:
                handle.remove()
        own, other = seen
        return logits, {**features, "head_logits": own, "distilled_logits": other}


@DISTILLERS.register("DEIT")
class DeiT(Distiller):
    """Cross-entropy of the class token's head, and `deit_loss` of the distillation token's."""

    config = CN({"KIND": "hard", "TEMPERATURE": 1.0, "LOSS": CN({"CE_WEIGHT": 0.5, "KD_WEIGHT": 0.5})})
    limits = {
        "KIND": one_of("hard", "soft"),
        "TEMPERATURE": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    when = {"TEMPERATURE": When("KIND is hard", lambda s: s.KIND == "soft")}
    needs_teacher_maps = False
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, kind: str, temperature: float, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.kind, self.temperature, self.ce_weight, self.kd_weight = kind, temperature, ce_weight, kd_weight
        self.two_heads = TwoHeads(student)

    @property
    def deployed(self) -> nn.Module:
        return self.two_heads

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        own, distilled = (student.features[name] for name in ("head_logits", "distilled_logits"))
        loss = deit_loss(distilled, teacher.logits, self.kind, self.temperature)
        return {
            "ce": label(F.cross_entropy(own, batch.labels), self.ce_weight),
            "kd": distillation(loss, self.kd_weight),
        }
