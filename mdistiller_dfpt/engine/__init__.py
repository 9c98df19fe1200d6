"""The loop and what it stands on: optimiser, checkpoints, evaluation, logs."""

from .trainer import Trainer

__all__ = ["Trainer"]
