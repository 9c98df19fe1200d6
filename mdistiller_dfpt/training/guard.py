"""Checks the loss and the gradient before each optimiser step; values that are not finite are never applied."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data import Batch
from ..distributed import all_reduce, world_size
from ..errors import DivergedError
from .several_momenta import SeveralMomentaSGD


def reads_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's step reads `found_inf` on the device and skips the update if it is set."""
    return isinstance(optimizer, SeveralMomentaSGD) or bool(optimizer.defaults.get("fused"))


class Guard:
    """Rejects steps that are not finite.

    On a GPU nothing is synchronised if the optimiser reads the flag on the device: it then skips this and all later
    updates, and `refuse_divergence` raises at the next synchronisation.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, lr: float):
        self.module, self.optimizer, self.lr = module, optimizer, lr
        self.diverged = torch.zeros((), device=device)
        self.waits = device.type != "cuda" or not reads_found_inf(optimizer)

    def check(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """Raise DivergedError, or set the flag on the device, if the loss () or the gradient is not finite."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if isinstance(self.optimizer, SeveralMomentaSGD):
            gradients += self.optimizer.stored_gradients()
        gradient = nn.utils.get_total_norm(gradients)
        bad = ~(torch.isfinite(loss) & torch.isfinite(gradient))
        if world_size() > 1:  # if one process diverges, all stop
            bad = all_reduce(bad.float()) > 0
        if not self.waits:
            self.diverged.logical_or_(bad)
            # As PyTorch's GradScaler does: fused optimisers read both attributes
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.found_inf = self.diverged  # type: ignore[attr-defined]
        elif bad:
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            what = "gradient" if torch.isfinite(loss) else "loss"
            where = f"the {what} is not finite at epoch {batch.epoch}, step {batch.step} ({values})"
            if (batch.epoch, batch.step) == (1, 1):
                raise DivergedError(f"{where}, before the first update: check this term, the data and the teacher")
            raise DivergedError(f"{where}; lower SOLVER.LR (now {self.lr}); the last checkpoint is untouched")

    def refuse_divergence(self, epoch: int) -> None:
        """Called before a checkpoint or an evaluation, when a GPU is synchronised anyway."""
        if self.diverged:
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower SOLVER.LR (now {self.lr})")
