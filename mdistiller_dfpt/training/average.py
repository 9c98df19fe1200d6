"""An exponential moving average of the deployed network's weights, which is evaluated and saved in their place."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def _floats(network: nn.Module) -> dict[str, Tensor]:
    return {name: v for name, v in network.state_dict().items() if v.is_floating_point()}


@contextlib.contextmanager
def in_place(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which a network has these values, by keys of its state_dict, instead of its own."""
    own = {name: value for name, value in _floats(network).items() if name in values}
    trained = {name: value.clone() for name, value in own.items()}

    @torch.no_grad()
    def put(some: Mapping[str, Tensor]) -> None:
        for name, value in own.items():
            value.copy_(some[name])  # tied weights have one storage and equal values

    put(values)
    try:
        yield
    finally:
        put(trained)


class WeightAverage:
    """After each step, average <- decay * average + (1 - decay) * weights, for parameters and buffers of floats.

    Starts from the initial weights, without a correction of the bias towards them (as timm's `ModelEmaV2`).
    """

    def __init__(self, network: nn.Module, decay: float):
        self.network, self.decay = network, decay
        self.values = {name: value.detach().clone() for name, value in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        return _floats(self.network)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the average."""
        now = self._weights()
        torch._foreach_lerp_([self.values[name] for name in now], list(now.values()), 1 - self.decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Restore the average of a checkpoint; KeyError if it lacks a weight."""
        for name, value in self.values.items():
            value.copy_(values[name])
