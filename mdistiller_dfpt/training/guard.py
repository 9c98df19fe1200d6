"""Nothing that is not finite is applied: a step's loss and gradient are looked at before the optimiser's step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..data import Batch
from ..distributed import all_reduce, world_size
from ..errors import DivergedError
from .dot import TwoMomentaSGD


def reads_verdict(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's step reads `found_inf` from the device and leaves the weights alone where it is set."""
    return isinstance(optimizer, TwoMomentaSGD) or bool(optimizer.defaults.get("fused"))


class Guard:
    """Refuses a step that is not finite.

    On a GPU nobody waits for the verdict, where the optimiser takes it from the device: it then skips this update and
    all that follow, and `refuse_divergence` raises when the device is waited for anyway.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, lr: float):
        self.module, self.optimizer, self.lr = module, optimizer, lr
        self.diverged = torch.zeros((), device=device)
        self.waits = device.type != "cuda" or not reads_verdict(optimizer)

    def check(self, loss: Tensor, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """DivergedError, or a mark on the device, where the loss () or the gradient is not finite."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if isinstance(self.optimizer, TwoMomentaSGD):
            gradients += self.optimizer.distillation_gradients()
        gradient = nn.utils.get_total_norm(gradients)
        bad = ~(torch.isfinite(loss) & torch.isfinite(gradient))
        if world_size() > 1:  # one process's fault is everybody's
            bad = all_reduce(bad.float()) > 0
        if not self.waits:
            self.diverged.logical_or_(bad)
            vars(self.optimizer).update(grad_scale=None, found_inf=self.diverged)  # what a fused step reads
        elif bad:
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            what = "gradient" if torch.isfinite(loss) else "loss"
            raise DivergedError(
                f"the {what} is not finite at epoch {batch.epoch}, step {batch.step} ({values}); "
                f"lower SOLVER.LR (now {self.lr}); the last checkpoint is untouched"
            )

    def refuse_divergence(self, epoch: int) -> None:
        """Before a checkpoint or an evaluation, where a GPU is waited for anyway."""
        if self.diverged:
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower SOLVER.LR (now {self.lr})")
