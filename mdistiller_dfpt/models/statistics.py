"""The statistics of BatchNorm: measured over data, or those of the batch instead of the running ones."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from .dummy import probing


def _norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def single_values(network: nn.Module, trained: Iterable[nn.Module]) -> Iterator[list[str]]:
    """Context in which one image is given to the network; the names of the BatchNorms that get one value of a channel.

    Of those of the modules `trained`: over a single value they have no statistics, and PyTorch refuses it in training.
    """
    trained, found, handles = set(trained), [], []

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        image = (*given, *named.values())[0]
        if image.dim() > 1 and image.numel() == image.shape[0] * image.shape[1]:
            found.append(name)

    for name, module in network.named_modules():
        if module in trained and isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(functools.partial(note, name), with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Context in which BatchNorm layers normalise with the statistics of the batch, and keep no running ones.

    All other layers, and all buffers, stay as they are.
    """
    norms = _norms(network)
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, training, tracks in before:
            norm.training, norm.track_running_stats = training, tracks


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the running statistics to those of these batches; leaves the network in eval mode.

    With the initial statistics, the feature maps of a random network grow or vanish with depth.
    """
    norms = _norms(network)
    momenta = [m.momentum for m in norms]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches
    for image in images:
        network(image)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def remeasured(network: nn.Module, run: Callable[[Tensor], object], images: Iterable[Tensor]) -> dict[str, Tensor]:
    """The running statistics that a network has over these batches, by the keys of its state_dict; it stays as it is.

    Cumulative averages over the batches, each weighted by its samples; all other layers run as in an evaluation. `run`
    passes a batch (B, 3, H, W) through the network.
    """
    norms = [norm for norm in _norms(network) if norm.running_mean is not None]
    before = [(norm.momentum, {name: b.clone() for name, b in norm.named_buffers()}) for norm in norms]
    try:
        with probing(network):
            for norm in norms:
                norm.train()
            seen = 0
            for image in images:
                seen += len(image)
                for norm in norms:
                    norm.momentum = len(image) / seen  # the first batch replaces what was there
                run(image)
        of_norms = {b.data_ptr() for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None}
        return {key: v.clone() for key, v in network.state_dict().items() if v.data_ptr() in of_norms}
    finally:
        for norm, (momentum, buffers) in zip(norms, before, strict=True):
            norm.momentum = momentum
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)


UNSETTLED = 0.05
"""The share of the initial statistics from which running ones are said to have not settled."""


def slowest_momentum(network: nn.Module) -> float | None:
    """The smallest momentum of running statistics, 1.0 for cumulative averages; None for a network without any.

    After n steps, (1 - momentum)^n of the initial statistics is left.
    """
    norms = [norm for norm in _norms(network) if norm.running_mean is not None]
    return min((1.0 if norm.momentum is None else norm.momentum for norm in norms), default=None)
