"""The teacher's logits, scaled to given entropies: as sure as another path, without what that path knows.

Paper: none.

Formula: $$z = a_e z^T$$ where $a_e$ gives the mean entropy of $softmax(z)$ the value that ENTROPIES has for epoch $e$.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import Limit
from ..data import Batch
from ..distributed import all_reduce
from ..errors import ConfigError
from ..losses.logit_losses import entropy
from ..models import StagedModel
from ..models.output import NoFeatures, Output
from .base import ORIGINAL, TEACHERS, Paths
from .frozen import Frozen

SCALED = "scaled"
STEPS = 40  # of the bisection; the factor is then known to 1e-9 of its range
LARGEST = 2.0**10
MEASURED = 50_000  # images
TOLERANCE = 0.01  # of a reached entropy, relative to the wanted one


def mean_entropy(logits: Tensor) -> Tensor:
    """The mean entropy of the probabilities of all processes' logits (B, C), in nats; ()."""
    samples = torch.tensor(float(len(logits)), device=logits.device)
    return all_reduce(entropy(logits).sum()) / all_reduce(samples)


def factor_for_entropy(logits: Tensor, wanted: float) -> Tensor:
    """The factor that gives the probabilities of all processes' logits (B, C) the mean entropy `wanted`, in nats; ().

    It is sought in 1 / 1024 .. 1024 by bisection of its logarithm, as entropy falls where it rises.
    """
    low, high = -torch.ones((), device=logits.device), torch.ones((), device=logits.device)
    for _ in range(STEPS):
        middle = (low + high) / 2
        too_unsure = mean_entropy(logits * LARGEST**middle) > wanted
        low, high = torch.where(too_unsure, middle, low), torch.where(too_unsure, high, middle)
    return LARGEST ** ((low + high) / 2)


def _entropies(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(v) in (int, float) and v > 0 for v in value)


@TEACHERS.register("scaled")
class Scaled(Frozen):
    """The path `teacher`, and `scaled`: its logits times a factor, which gives them another mean entropy in each epoch.

    ENTROPIES has a value for each epoch, in nats, such as `entropy_prompt` of the epochs of a run with `dual_path`; the
    last one holds for all later epochs. Factors are measured before the first step, on at most 50,000 training images.
    """

    reads_only_images = False
    config = CN({"ENTROPIES": [1.0]})
    limits: ClassVar[Mapping[str, Limit]] = {
        "ENTROPIES": Limit("a list of positive numbers, at least one", _entropies, types=(list,))
    }

    factors: Tensor  # (number of entropies,), a buffer

    def __init__(self, network: StagedModel, *, entropies: Sequence[float]):
        super().__init__(network)
        self.entropies = [float(value) for value in entropies]
        self.register_buffer("factors", torch.ones(len(entropies)))

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, SCALED)

    def default_paths(self) -> dict[str, float]:
        return {ORIGINAL: 1.0, SCALED: 1.0}

    def has_maps(self, path: str) -> bool:
        return path == ORIGINAL and super().has_maps(path)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Measure the factor of each epoch."""
        found, images = [], 0
        for batch in batches:
            found.append(self.original(batch).logits)
            images += batch.size
            if images >= MEASURED:
                break
        logits = torch.cat(found)
        for i, wanted in enumerate(self.entropies):
            self.factors[i] = factor_for_entropy(logits, wanted)
            reached = mean_entropy(logits * self.factors[i]).item()
            if abs(reached - wanted) > TOLERANCE * wanted:
                raise ConfigError(f"SCALED.ENTROPIES has {wanted:g}; scaled by {1 / LARGEST:g} to {LARGEST:g}, the"
                                  f" teacher's logits come no closer than {reached:.4g} nats")  # fmt: skip

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        plain = super().forward(batch)
        factor = self.factors[min(max(batch.epoch, 1), len(self.entropies)) - 1]
        return Paths({
            ORIGINAL: lambda: plain[ORIGINAL],
            SCALED: lambda: Output(plain[ORIGINAL].logits * factor, NoFeatures(REFUSAL)),
        })  # fmt: skip


REFUSAL = f"the path {SCALED!r} has only logits, but the method uses {{!r}}: match the path {ORIGINAL!r}"
