"""SGD for passes before the first step; its momenta are in the state of the run, unlike those of an optimiser."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..distributed import all_reduce

# The defaults of RepDistiller's train_student.py
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


class Momenta(nn.ParameterList):
    """The momenta of these parameters, zero at first."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__(nn.Parameter(torch.zeros_like(p), requires_grad=False) for p in parameters)

    @torch.no_grad()
    def step(self, parameters: Sequence[nn.Parameter], gradients: Iterable[Tensor], rate: float) -> None:
        """One step with gradients that are summed over the processes."""
        for weight, momentum, gradient in zip(parameters, self, gradients, strict=True):
            momentum.mul_(MOMENTUM).add_(all_reduce(gradient)).add_(weight, alpha=WEIGHT_DECAY)
            weight.sub_(momentum, alpha=rate)
