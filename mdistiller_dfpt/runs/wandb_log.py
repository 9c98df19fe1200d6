"""Weights & Biases logging: active if enabled and installed; its errors never end a run."""

import sys
from pathlib import Path
from typing import Any

from ..config import flatten
from ..errors import kind_and_message


class WandbLog:
    """The metrics of a run, epoch by epoch; disabled after the first error, which is printed."""

    def __init__(self, enabled: bool, project: str, name: str, folder: Path, config: dict[str, Any]):
        self.run = None
        if not enabled:
            return
        try:
            import wandb

            self.run = wandb.init(project=project, name=name, dir=str(folder), config=config)
        except Exception as e:
            self._give_up(e)

    def _give_up(self, fault: Exception) -> None:
        self.run = None
        print(f"warning: LOG.WANDB is True, but logging failed ({kind_and_message(fault)})", file=sys.stderr)

    def scalars(self, record: dict[str, Any], step: int) -> None:
        """Log the numbers of an epoch, nested dicts as `a.b`."""
        if self.run is None:
            return
        try:
            self.run.log({k: v for k, v in flatten(record).items() if isinstance(v, int | float)}, step=step)
        except Exception as e:
            self._give_up(e)

    def close(self) -> None:
        """Finish the run in Weights & Biases."""
        if self.run is not None:
            try:
                self.run.finish()
            except Exception as e:
                self._give_up(e)
