"""Runs a black image through a network without changing it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, kind_and_message, message_of, users_line

ImageShape = tuple[int, int, int]


def dummy_image(network: nn.Module, shape: ImageShape) -> Tensor:
    """A black image of `shape` (3, H, W), on the network's device and in its dtype."""
    like = next(network.parameters())
    return torch.zeros((1, *shape), device=like.device, dtype=like.dtype)


@contextlib.contextmanager
def probing(network: nn.Module) -> Iterator[None]:
    """Context in which the network is in eval mode and without gradient; afterwards each module's mode is restored."""
    modes = {m: m.training for m in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def num_logits(network: nn.Module, shape: ImageShape) -> int:
    """The number of logits of a network; ConfigError if it returns something else for one image."""
    with probing(network):
        logits = network(dummy_image(network, shape))[0]
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        title = type(getattr(network, "network", network)).__name__
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"{title} returns {found} for one image; it must return logits (1, classes), or a tuple that"
                          " begins with them")  # fmt: skip
    return logits.shape[1]


def try_image(network: nn.Module, name: str, shape: ImageShape) -> Any:
    """The network's output for a dummy image; ConfigError naming it `name` if it cannot take one of `shape`."""
    try:
        with probing(network):
            return network(dummy_image(network, shape))
    except Exception as e:  # any exception that another library's network raises for a size it cannot take
        reason = (message_of(e).splitlines() or [""])[0]
        if " " not in reason:  # as of a KeyError: it says little without its kind
            reason = kind_and_message(e)
        remedy = "set DATASET.SIZE"
        if line := users_line(e):
            reason, remedy = f"{line[0]}:{line[1]}: {kind_and_message(e)}", f"correct it, or {remedy}"
        raise ConfigError(f"{name} cannot take images of {shape[1]}x{shape[2]} ({reason}); {remedy}") from None
