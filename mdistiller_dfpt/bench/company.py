"""Runs of one config that take turns: each on passes of its own teacher, or all on one."""

from pathlib import Path

from torch import nn
from yacs.config import CfgNode as CN

from ..engine.together import remember_passes
from ..errors import ConfigError
from .side import Side
from .work import step_of

RUNS = 3


class Company:
    """`apart` and `together` do a window's worth of work and return the number of images of all runs."""

    def __init__(self, cfg: CN, folder: Path):
        self.sides = [Side(cfg, folder / str(i)) for i in range(RUNS)]
        distillers = [side.trainer.distiller for side in self.sides]
        teacher = distillers[0].teacher
        if teacher is None:
            raise ConfigError(f"--what together: {cfg.DISTILLER.TYPE} has no teacher to share")
        for distiller in distillers[1:]:
            _replace(distiller, distiller.teacher, teacher)
        self.teacher, self.plain = teacher, teacher.forward
        remember_passes(teacher)
        self.remembering = teacher.forward

    def apart(self, steps: int) -> int:
        """Steps of each, whose teacher is run for each of them."""
        return self._turns(steps, own_images=True)

    def together(self, steps: int) -> int:
        """The same steps, whose teacher is run once for all."""
        return self._turns(steps, own_images=False)

    def _turns(self, steps: int, *, own_images: bool) -> int:
        self.teacher.forward = self.plain if own_images else self.remembering
        batch = self.sides[0].batch
        for _ in range(steps):
            fresh = batch._replace(image=batch.image.clone())
            for side in self.sides:
                step_of(side.trainer, fresh)
        return steps * len(self.sides) * len(batch.target)


def _replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in module.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
