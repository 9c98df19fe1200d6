r"""TeKAP: several noisy copies of one teacher (Hossain et al., 2025, ICLR).

Paper: Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge Distillation.

Formula: $$z^{(n)} = a z^T + \sigma \epsilon^{(n)}$$ with standard normal noise $\epsilon^{(n)}$ of path $n$; $a$ is
KEPT, and $\sigma$ STD or, for features, FEAT_STD.

Code: mdimtiazh/TeKAP 279d380, distiller_zoo/Ours_TeKAP_L.py:11-58 (crd/criterion.py:44-74 was read, not run).

Differs: under CRD each path has embeddings and a memory bank of its own; the authors' noisy features share those of
the teacher, and the student's half of their loss counts twice. Feature maps are perturbed as the authors' pooled
feature is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE, WEIGHT, Limit
from ..data import Batch
from ..models import StagedModel
from ..models.output import Output
from .base import ORIGINAL, TEACHERS, Paths
from .draws import Draws
from .frozen import Frozen

MAPS = 64  # streams of a path: the logits' own, and one per tensor of the features


def perturbed(x: Tensor, noise: Tensor, kept: float, std: float) -> Tensor:
    """kept * x + std * noise, of any shape; for standard normal noise, std is its deviation."""
    return kept * x + std * noise


class NoisyFeatures(Mapping[str, Any]):
    """Features of a noisy path; noise is drawn for those that a method uses.

    Each tensor has noise of its own, and so has a map in two places: the authors perturb what a loss takes.
    """

    def __init__(self, features: Mapping[str, Any], noisy: Callable[[Tensor, int], Tensor]):
        self.features, self.noisy = features, noisy

    def __getitem__(self, key: str) -> Any:
        value, first = self.features[key], 1 + MAPS * (1 + list(self.features).index(key))
        if isinstance(value, list):
            return [self.noisy(x, first + i) for i, x in enumerate(value)]
        return self.noisy(value, first)

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)


@TEACHERS.register("noisy")
class Noisy(Frozen):
    """The path `teacher`, and `noisy1`, `noisy2`, ...: its outputs, scaled down, with noise of their own.

    With KD this is TeKAP on logits: KD(z_T) + WEIGHT * sum of KD(KEPT * z_T + STD * noise). Noise is drawn anew in each
    epoch; the frozen network runs once for all paths.
    """

    reads_only_images = False
    config = CN(
        {
            "AUGNUM": 3,  # noisy paths
            "KEPT": 0.9,  # factor on the outputs of the network
            "STD": 0.1,  # of the noise on logits
            "FEAT_STD": 0.01,  # of the noise on features
            "WEIGHT": 0.8,  # of each noisy path, if DISTILLER.PATHS is empty
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "AUGNUM": AT_LEAST_ONE, "KEPT": NOT_NEGATIVE, "STD": NOT_NEGATIVE, "FEAT_STD": NOT_NEGATIVE, "WEIGHT": WEIGHT,
    }  # fmt: skip

    def __init__(
        self, network: StagedModel, *, augnum: int, kept: float, std: float, feat_std: float, weight: float
    ):  # fmt: skip
        super().__init__(network)
        self.kept, self.std, self.feat_std, self.weight = kept, std, feat_std, weight
        self.noisy_paths = [f"noisy{i}" for i in range(1, augnum + 1)]
        self.draws = Draws()

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, *self.noisy_paths)

    def default_paths(self) -> dict[str, float]:
        return {ORIGINAL: 1.0, **dict.fromkeys(self.noisy_paths, self.weight)}

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        plain = Paths({ORIGINAL: lambda: self.original(batch)})
        noisy = {path: partial(self._noisy, plain, i, batch) for i, path in enumerate(self.noisy_paths)}
        return Paths({ORIGINAL: lambda: plain[ORIGINAL], **noisy})

    def _noisy(self, paths: Mapping[str, Output], number: int, batch: Batch) -> Output:
        """The output of a noisy path, counted from 0."""

        def noisy(std: float, x: Tensor, stream: int) -> Tensor:
            noise = self.draws.normal(batch, x.shape[1:], number * MAPS**2 + stream)
            return perturbed(x, noise, self.kept, std)

        logits, features = paths[ORIGINAL]
        return Output(noisy(self.std, logits, 0), NoisyFeatures(features, partial(noisy, self.feat_std)))
