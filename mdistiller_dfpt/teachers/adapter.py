r"""PESF-KD: a small adapter on a frozen teacher, trained with the student (Rao et al., 2022, arXiv:2205.15308).

Paper: Parameter-Efficient and Student-Friendly Knowledge Distillation.

Formula: $$z^A = z^T - g(f^T), \quad L_A = w_{CE} CE(z^A, y) + w_{KD} KD_\tau(sg(z^S), z^A)$$ where $g$ is the adapter,
which descends $L_A$; LOGIT_LOSS may replace $KD_\tau$.

Code: 1170300319/PESF-KD d3f6aa8, cv/models/adapter.py, cv/helper/loops.py:147-150; its loss was read, not run.

Differs: student and adapter learn from their divergence, as the paper says. In the released code no gradient passes
between them: the student's target is the teacher without the adapter, its maximum swapped with the label's value, and
the adapted teacher's is the detached student, swapped alike; batches are of 11, and a step is made of 4.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Limit
from ..data import Batch
from ..losses import LOGIT_LOSSES, LogitLoss, Terms, own_terms
from ..models import StagedModel
from ..models.output import Output, autocast
from .base import ORIGINAL, TEACHERS, Paths, Teacher

ADAPTED = "adapted"


def adapter(width: int, hidden: int, classes: int) -> nn.Sequential:
    """(B, width) -> (B, classes): a linear layer, then a bottleneck of `hidden`."""
    return nn.Sequential(
        nn.Linear(width, classes), nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )  # fmt: skip


def adapter_loss(
    adapted: Tensor, student: Tensor, target: Tensor, loss: LogitLoss, temperature: float,
    *, ce_weight: float, kd_weight: float,
) -> Terms:  # fmt: skip
    """The terms of the adapter for its logits z' and the student's z_S (B, C), and labels (B,); z_S is detached.

    ce_weight CE(z', y) + kd_weight KD(z_S, z'): the student's own loss, whose gradient here goes to the target z'.
    """
    return own_terms({
        "adapter_ce": (ce_weight, lambda: F.cross_entropy(adapted, target)),
        "adapter_kd": (kd_weight, lambda: loss(student.detach(), adapted, target, temperature)),
    })  # fmt: skip


@TEACHERS.register("adapter")
class Adapted(Teacher):
    """The path `teacher`, and `adapted`: its logits less those of an adapter on its pooled feature; by default matched.

    The features of both paths are the frozen network's.
    """

    config = CN(
        {
            "HIDDEN": 32,  # width of the adapter's bottleneck
            "TEMPERATURE": 6.0,
            "LOGIT_LOSS": "KD",  # between student and adapter; any name in LOGIT_LOSSES
            "LR_FACTOR": 4e-4,  # the adapter's learning rate relative to the schedule's: 2e-5 of 0.05
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "HIDDEN": AT_LEAST_ONE, "TEMPERATURE": A_TEMPERATURE, "LR_FACTOR": POSITIVE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip

    def __init__(
        self, network: StagedModel, *, hidden: int, temperature: float, logit_loss: str, lr_factor: float,
        ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(network)
        if ce_weight == kd_weight == 0:
            raise ValueError("LOSS.CE_WEIGHT and LOSS.KD_WEIGHT are 0: nothing would train the adapter")
        self.temperature, self.lr_factor = temperature, lr_factor
        self.logit_loss = LOGIT_LOSSES[logit_loss]
        self.couples_samples = getattr(self.logit_loss, "couples_samples", False)
        self.weights = {"ce_weight": ce_weight, "kd_weight": kd_weight}
        self.adapter = adapter(network.classifier_layer.in_features, hidden, network.num_classes)

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, ADAPTED)

    def default_paths(self) -> dict[str, float]:
        return {ADAPTED: 1.0}

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        plain = Paths({ORIGINAL: partial(self.output_of, self.network, batch.image)})
        return Paths({ORIGINAL: lambda: plain[ORIGINAL], ADAPTED: lambda: self._adapted(plain[ORIGINAL])})

    def _adapted(self, plain: Output) -> Output:
        pooled = plain.features["pooled_feat"]
        with autocast(self.dtype, pooled):
            correction = self.adapter(pooled)
        return Output(plain.logits - correction.float(), plain.features)

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        return adapter_loss(
            outputs[ADAPTED].logits, student.logits, batch.target, self.logit_loss, self.temperature, **self.weights
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.adapter.parameters()), "lr_factor": self.lr_factor}]

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        plain = self.output_of(self.network, image)
        return {ORIGINAL: plain.logits, ADAPTED: self._adapted(plain).logits}
