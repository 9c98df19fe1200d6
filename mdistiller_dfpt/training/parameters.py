"""The parameters of an optimiser."""

import torch
from torch import Tensor


def optimised(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimiser, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]
