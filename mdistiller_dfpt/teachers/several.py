"""What the kinds of teacher that are made of several networks share."""

from collections.abc import Mapping, Sequence

from torch import nn

from ..models import StagedModel
from .base import Teacher


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
