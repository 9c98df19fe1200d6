"""One update: forward, backward, and the optimiser's step unless something is not finite."""

import contextlib

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..data import Batch
from ..distillers import Distiller
from ..distributed import summed, world_size
from ..errors import DivergedError
from .dot import TwoMomentaSGD, split_terms
from .evaluate import correct_at
from .meters import Meters
from .parts import parts_of
from .processes import average_gradients


class Updater:
    """Takes the updates of one run. `module` is the distiller, or what exchanges its gradients between processes."""

    def __init__(self, cfg: CN, distiller: Distiller, optimizer: torch.optim.Optimizer, device: torch.device):
        self.cfg, self.distiller, self.optimizer = cfg, distiller, optimizer
        self.module: nn.Module = distiller
        self.diverged = torch.zeros((), device=device)
        self.waits_for_verdict = device.type != "cuda"

    def refuse_divergence(self, epoch: int) -> None:
        """Before a checkpoint or an evaluation, where a GPU is waited for anyway."""
        if self.diverged:
            raise DivergedError(f"the loss is not finite in epoch {epoch}; lower SOLVER.LR (now {self.cfg.SOLVER.LR})")

    def step(self, batch: Batch, meters: Meters) -> None:
        """One update, and its averages; on a GPU nothing here waits for the device."""
        batch = batch._replace(total=batch.total or len(batch.target))
        self.optimizer.zero_grad()
        parts = parts_of(batch, self.cfg.SOLVER.ACCUMULATE)
        terms: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            with self._last_of(parts, i):
                # Forward both networks and collect the weighted terms
                logits, losses = self.module(**part.fields())
                share = part.total / batch.total
                losses = {name: value * share if len(parts) > 1 else value for name, value in losses.items()}
                self._backward(losses)
            with torch.no_grad():
                terms = {name: value.detach() + terms.get(name, 0) for name, value in losses.items()}
                samples = len(part.target)
                accuracy = {f"top{k}": correct_at(logits, part.target, k) * (100 / samples) for k in (1, 5)}
                meters.update({**self.distiller.take_logged(), **accuracy}, samples)
        self.distiller.before_step()
        loss = sum(terms.values())
        # Update whatever requires grad: student, prompts, adapters
        self._guarded_step(loss, terms, batch)
        self.distiller.after_step(batch)
        meters.update({"loss": loss, **terms}, batch.total / world_size())

    def _last_of(self, parts: list[Batch], i: int) -> contextlib.AbstractContextManager:
        """Processes exchange gradients in the backward pass of a batch's last part alone."""
        alone = world_size() == 1 or (i == len(parts) - 1 and not isinstance(self.optimizer, TwoMomentaSGD))
        return contextlib.nullcontext() if alone else self.module.no_sync()

    def _backward(self, losses: dict[str, Tensor]) -> None:
        """The gradient of the sum; where the optimiser keeps two momenta, that of each part apart."""
        if not isinstance(self.optimizer, TwoMomentaSGD):
            sum(losses.values()).backward()
            return
        task, distilled = split_terms(losses)
        if distilled is not None:
            distilled.backward(retain_graph=task is not None)
            average_gradients(self.distiller)
            self.distiller.before_step()
            self.optimizer.set_distillation_gradient()
        if task is not None:
            task.backward()
            average_gradients(self.distiller)

    def _guarded_step(self, loss: Tensor, losses: dict[str, Tensor], batch: Batch) -> None:
        """Apply the gradient unless it or the loss is not finite.

        On a GPU the optimiser itself skips the update, from then on for good, and nobody waits for the verdict.
        """
        gradient = nn.utils.get_total_norm([p.grad for p in self.distiller.parameters() if p.grad is not None])
        bad = ~(torch.isfinite(loss) & torch.isfinite(gradient))
        if world_size() > 1:  # one process's fault is everybody's
            bad = summed(bad.float()) > 0
        if not self.waits_for_verdict:
            self.diverged.logical_or_(bad)
            self.optimizer.grad_scale, self.optimizer.found_inf = None, self.diverged
        elif bad:
            terms = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            what = "gradient" if torch.isfinite(loss) else "loss"
            raise DivergedError(
                f"the {what} is not finite at epoch {batch.epoch}, step {batch.step} ({terms}); "
                f"lower SOLVER.LR (now {self.cfg.SOLVER.LR}); the last checkpoint is untouched"
            )
        self.optimizer.step()
