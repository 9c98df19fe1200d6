"""A copy of a trained network for a path of its own, which may share the weights of its stages."""

import copy

from torch import nn

from ..models import StagedModel


def head_parameters(network: StagedModel) -> list[nn.Parameter]:
    """The parameters of a network's head."""
    return [p for name in network.head_modules for p in network.get_submodule(name).parameters()]


def own_copy(network: StagedModel, share: bool, new_head: bool) -> StagedModel:
    """The network that the prompt path runs: buffers and head its own, the stages' weights shared or copied."""
    # deepcopy leaves the objects in its memo as they are: these parameters are shared
    head = {id(p) for p in head_parameters(network)}
    shared = [p for p in network.parameters() if share and id(p) not in head]
    copied = copy.deepcopy(network, {id(p): p for p in shared})
    frozen = {id(p) for p in shared}
    for p in copied.parameters():
        p.requires_grad_(id(p) not in frozen)
    # A new head starts from random weights, as its layers' constructors draw them
    if new_head:
        for name in copied.head_modules:
            for module in copied.get_submodule(name).modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
    return copied
