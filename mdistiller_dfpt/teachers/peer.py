r"""DML: two networks that are trained together and teach each other (Zhang et al., 2018, arXiv:1706.00384).

Paper: Deep Mutual Learning.

Formula: $$L_T = w_{CE} CE(z^T, y) + w_{KD} KD_\tau(z^T, sg(z^S))$$ which the peer descends; LOGIT_LOSS may replace
$KD_\tau$.

Code: YingZhangDUT/Deep-Mutual-Learning 34a2058, train_models.py:60-96, 206-282. No value is recorded: their divergence
has 1e-8 added to the probabilities and to their ratio, which changes it by 1e-5 on the inputs of the other values.

Differs: both networks are updated after the same pass; the authors' code updates them in turn, each on a batch of its
own, and the paper's algorithm in turn on one batch.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..data import Batch
from ..losses import LOGIT_LOSSES, Terms, own_terms
from ..models import StagedModel
from ..models.output import NoFeatures, Output, as_output, autocast
from .base import ORIGINAL, TEACHERS, Paths, Teacher

REFUSAL = "a teacher of kind peer changes with each step and has only logits, but the method uses {!r}: match logits"


@TEACHERS.register("peer")
class Peer(Teacher):
    """The network DISTILLER.TEACHER, trained along with the student from the labels and from the student's logits.

    It starts from random weights, unless DISTILLER.TEACHER_CKPT is set. It is evaluated as the path `teacher`, and its
    weights are saved beside the student's.
    """

    starts_untrained = True
    config = CN(
        {
            "TEMPERATURE": 1.0,
            "LOGIT_LOSS": "KD",  # of the peer, with the student as its teacher; any name in LOGIT_LOSSES
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "TEMPERATURE": A_TEMPERATURE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip

    def __init__(
        self, network: StagedModel, *, temperature: float, logit_loss: str, ce_weight: float, kd_weight: float
    ):
        super().__init__(network)
        if ce_weight == kd_weight == 0:
            raise ValueError("LOSS.CE_WEIGHT is 0, and so is LOSS.KD_WEIGHT: the peer learns nothing")
        self.network.requires_grad_(True)
        self.temperature, self.logit_loss = temperature, LOGIT_LOSSES[logit_loss]
        self.ce_weight, self.kd_weight = ce_weight, kd_weight

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        compute: dict[str, Callable[[], Output]] = {
            ORIGINAL: lambda: Output(self.logits(batch.image), NoFeatures(REFUSAL))
        }
        return Paths(compute)

    def logits(self, image: Tensor) -> Tensor:
        """Its logits (B, classes) in float32, with a gradient."""
        with autocast(self.dtype, image):
            return as_output(self.network(image)).logits

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        logits = outputs[ORIGINAL].logits
        with torch.no_grad():
            self.log("accuracy_peer", (logits.argmax(1) == batch.target).float().mean() * 100)
        return own_terms({
            "peer_ce": (self.ce_weight, lambda: F.cross_entropy(logits, batch.target)),
            "peer_kd": (
                self.kd_weight, lambda: self.logit_loss(logits, student.logits, batch.target, self.temperature)
            ),
        })  # fmt: skip

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        return {ORIGINAL: self.logits(image)}

    def has_maps(self, path: str) -> bool:
        return False

    def frozen(self) -> list[StagedModel]:
        return []
