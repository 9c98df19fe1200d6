"""Several teachers as one: the mean of their probabilities, or weighted for each sample (CA-MKD, arXiv:2201.00007)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.keys import POSITIVE, Limit, one_of
from ..data import Batch
from ..errors import ConfigError
from ..models import StagedModel
from ..models.output import Output
from .base import ORIGINAL, TEACHERS, Paths, Teacher


def confidence_weights(logits: Tensor, target: Tensor) -> Tensor:
    """How far each teacher is trusted with each sample; logits (K, B, C), labels (B,) -> (K, B), summing to 1 over K.

    (1 - softmax over the teachers of their cross-entropies) / (K - 1) (CA-MKD, equation 2): the surer of the label a
    teacher is, the more it weighs. One teacher weighs 1. The authors' code divides the weighted sum of the losses by K
    once more; that is a matter of the method's own weight here.
    """
    count = logits.shape[0]
    if count == 1:
        return logits.new_ones(logits.shape[:2])
    losses = torch.stack([F.cross_entropy(one, target, reduction="none") for one in logits])
    return (1 - losses.softmax(0)) / (count - 1)


def mixed_logits(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Logits whose softened probabilities are the weighted mean of the teachers'; (K, B, C), (K, B) -> (B, C).

    At that temperature the gradient of KD with them is the weighted sum of the gradients of KD with each teacher.
    """
    log_probabilities = (logits / temperature).log_softmax(2)
    return temperature * (log_probabilities + weights.log()[:, :, None]).logsumexp(0)


class NoSharedMaps(dict[str, object]):
    """The features of a mean of probabilities: there are none."""

    def __missing__(self, key: str) -> object:
        raise ConfigError(
            f"an ensemble's path {ORIGINAL!r} has logits alone, and {key!r} of it is asked for; name its members'"
            " paths, as `DISTILLER.PATHS.teacher1 1.0 DISTILLER.PATHS.teacher2 1.0`"
        )


@TEACHERS.register("ensemble")
class Ensemble(Teacher):
    """The path `teacher` is all of them together, logits alone; `teacher1`, `teacher2`, ... are each, with its maps.

    The first is DISTILLER.TEACHER, the others are DISTILLER.OTHER_TEACHERS.
    """

    others_key = "OTHER_TEACHERS"
    config = CN(
        {
            "WEIGHTS": "mean",  # mean, or confidence: for each sample by how sure of its label a teacher is (CA-MKD)
            "TEMPERATURE": 4.0,  # at which probabilities are averaged; the method's own, to be exact
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {"WEIGHTS": one_of("mean", "confidence"), "TEMPERATURE": POSITIVE}

    def __init__(
        self, network: StagedModel, others: Sequence[StagedModel] = (), *, weights: str, temperature: float
    ):  # fmt: skip
        super().__init__(network)
        self.others = nn.ModuleList(others).requires_grad_(False).eval()
        self.networks = {f"teacher{i}": member for i, member in enumerate((network, *others), start=1)}
        self.by_confidence, self.temperature = weights == "confidence", temperature

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        compute: dict[str, Callable[[], Output]] = {
            path: partial(self.output_of, network, batch.image) for path, network in self.networks.items()
        }
        paths = Paths({**compute, ORIGINAL: lambda: self._together(paths, batch)})
        return paths

    def _together(self, paths: Mapping[str, Output], batch: Batch) -> Output:
        logits = torch.stack([paths[path].logits for path in self.networks])
        weights = logits.new_full(logits.shape[:2], 1 / len(logits))
        if self.by_confidence:
            weights = confidence_weights(logits, batch.target)
        return Output(mixed_logits(logits, weights, self.temperature), NoSharedMaps())

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, *self.networks)

    def network_of(self, path: str) -> StagedModel:
        return self.networks.get(path, self.network)

    def frozen(self) -> list[StagedModel]:
        return list(self.networks.values())
