"""BatchNorm running statistics for untrained networks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the running statistics to those of these batches; leaves the network in eval mode.

    With the initial statistics, the feature maps of a random network grow or vanish with depth.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
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
