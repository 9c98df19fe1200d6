"""What the kinds of teacher that are made of several networks share."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..data import Batch
from ..models import StagedModel
from ..models.output import NoFeatures, Output
from .base import ORIGINAL, Paths, Teacher


class SeveralNetworks(Teacher):
    """A teacher of several frozen networks, a path for each.

    `others`: the networks beside the first one. `names`: the paths' names, the first network's first.
    """

    def __init__(self, network: StagedModel, others: Sequence[StagedModel], names: Sequence[str]):
        super().__init__(network)
        self.others = nn.ModuleList(others).requires_grad_(False).eval()
        self.networks: Mapping[str, StagedModel] = dict(zip(names, (network, *others), strict=True))

    def path_names(self) -> Sequence[str]:
        return tuple(self.networks)

    def network_of(self, path: str) -> StagedModel:
        return self.networks[path]

    def frozen(self) -> list[StagedModel]:
        return list(self.networks.values())

    def cacheable(self) -> Mapping[str, StagedModel]:
        return self.networks

    def read_by(self, path: str) -> Sequence[str]:
        return (path,)


class Joined(SeveralNetworks):
    """The path `teacher` is made of the members' logits, by `joined_logits` of a subclass, and has no features.

    Each member is a path as well, with maps. `refusal`: what to tell a method that uses features of `teacher`.
    """

    refusal: str

    def joined_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits (B, C) of the path `teacher`, of those of the K members (K, B, C)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement joined_logits")

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        compute: dict[str, Callable[[], Output]] = {
            path: partial(self.frozen_output, path, batch) for path in self.networks
        }
        paths = Paths({**compute, ORIGINAL: lambda: self._joined(paths, batch)})
        return paths

    def _joined(self, paths: Mapping[str, Output], batch: Batch) -> Output:
        logits = torch.stack([paths[path].logits for path in self.networks])
        return Output(self.joined_logits(logits, batch), NoFeatures(self.refusal))

    def read_by(self, path: str) -> Sequence[str]:
        return tuple(self.networks) if path == ORIGINAL else (path,)

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, *super().path_names())

    def network_of(self, path: str) -> StagedModel:
        return self.network if path == ORIGINAL else super().network_of(path)

    def has_maps(self, path: str) -> bool:
        return path != ORIGINAL
