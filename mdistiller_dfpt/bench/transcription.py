"""The dual-path teacher as a first reading of the paper would write it: what sharing work is measured against."""

from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..distillers.base import as_output
from .side import Side


class Transcription(Side):
    """Two updates a step, prompts first, then the student; each runs student and both paths anew.

    The teacher's weights require a gradient, as they do in a network that nobody froze, and nothing uses it.
    """

    def __init__(self, cfg: CN, folder: Path):
        super().__init__(cfg, folder)
        distiller, s = self.trainer.distiller, cfg.SOLVER
        prompts = [p for p in distiller.dual.parameters() if p.requires_grad]
        self.updates = [
            (wanted, torch.optim.SGD(parameters, lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.WEIGHT_DECAY))
            for wanted, parameters in ((_is_prompts, prompts), (_is_students, list(distiller.student.parameters())))
        ]
        distiller.dual.own.requires_grad_(True)

    def step(self, steps: int) -> int:
        for _ in range(steps):
            for wanted, optimizer in self.updates:
                self.trainer.distiller.zero_grad()
                losses = self._losses()
                sum(value for name, value in losses.items() if wanted(name)).backward()
                optimizer.step()
        return steps * len(self.batch.target)

    def _losses(self) -> dict[str, Tensor]:
        distiller, dual, batch = self.trainer.distiller, self.trainer.distiller.dual, self.batch
        student = distiller.forward_student(batch.image)
        with distiller.precision(batch.image):
            with torch.no_grad():
                original = as_output(dual.teacher(batch.image))
            original.features["prompt_logits"] = dual.own.rerun(batch.image, dual.fuse)
        return distiller.losses(student, original, batch)


def _is_prompts(name: str) -> bool:
    return name in ("prompt_from_teacher", "prompt_from_student", "prompt_ce")


def _is_students(name: str) -> bool:
    return not _is_prompts(name)
