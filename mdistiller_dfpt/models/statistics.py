"""The statistics of BatchNorm: measured for untrained networks, or those of the batch instead of the running ones."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def _norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


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
