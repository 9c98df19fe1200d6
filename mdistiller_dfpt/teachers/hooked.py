"""What the loop calls around a step, the same for methods and for teachers."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..data import Batch


class Hooked(nn.Module):
    """A module with the loop's hooks, each of which does nothing by default, and with values to log."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, Tensor] = {}

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step of a run, with the training set's batches; not when it is resumed."""

    def before_step(self) -> None:
        """Called between the backward pass and the optimiser's step, for what changes the gradient."""

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step, for what changes beside the gradient (a memory bank, an average)."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is optimised: `params`, and `lr_factor` on the schedule's learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_factor": 1.0}]

    def log(self, name: str, value: Tensor) -> None:
        """Report a scalar of this step that is not a loss; the loop averages it over the epoch."""
        self._logged[name] = value.detach()

    def take_logged(self) -> dict[str, Tensor]:
        """The values reported since the last call."""
        logged, self._logged = self._logged, {}
        return logged
