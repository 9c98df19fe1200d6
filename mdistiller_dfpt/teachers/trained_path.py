r"""A dual-path teacher whose prompt path is trained before the student and then stays as it is.

Paper: none; compare DFPTKD.

Formula: that of `dual_path`: the path descends $$L_P = w_T KD_\tau(z^P, z^T) + w_{CE} CE(z^P, y)$$ before the student
is trained, and does not change afterwards.

Compared with `dual_path`, it tells what the path gains by learning beside the student.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, POSITIVE, Limit
from ..data import Batch
from ..distributed import all_reduce, world_size
from ..errors import DivergedError
from ..losses import Terms
from ..losses.term import total
from ..models import StagedModel
from ..models.output import Output
from .base import ORIGINAL, TEACHERS
from .dual_path import PROMPT, DualPath
from .momenta import Momenta


def _config() -> CN:
    """The section of `dual_path`, without supervision by the student, and that of the training before it."""
    config = CN({**DualPath.config.clone(), "FIRST": CN({"EPOCHS": 10, "LR": 0.1})})
    config.PROMPT.LOSS.STUDENT_WEIGHT = 0.0
    return config


@TEACHERS.register("trained_path")
class TrainedPath(DualPath):
    """`dual_path` with its prompt path trained for FIRST.EPOCHS epochs before the student, by teacher and labels.

    SGD with momentum; the learning rate falls from FIRST.LR to 0 along a cosine, an epoch at a time.
    """

    config = _config()
    limits: ClassVar[Mapping[str, Limit]] = {**DualPath.limits, "FIRST.EPOCHS": AT_LEAST_ONE, "FIRST.LR": POSITIVE}

    def __init__(self, network: StagedModel, *, first_epochs: int, first_lr: float, **prompt_path: Any):
        super().__init__(network, **prompt_path)
        if self.finetune:
            raise ValueError("FINETUNE_BACKBONE is True; the path trained before the student has the teacher's stages")
        if self.hand_over or self.weights["student_weight"]:
            raise ValueError(
                "PROMPT.LOSS.STUDENT_WEIGHT is not 0; a path trained before the student has no student to learn from"
            )
        self.passes, self.first_lr = first_epochs, first_lr
        self.learned = [p for p in self.parameters() if p.requires_grad]
        for p in self.learned:
            p.requires_grad_(False)
        self.momenta = Momenta(self.learned)

    def train(self, mode: bool = True) -> "TrainedPath":
        super().train(mode)
        for module in (self.own, self.prompts, self.fusions):
            module.eval()  # with the running statistics of its training
        return self

    def prepare(self, batches: Iterable[Batch]) -> None:
        """One epoch of the path's training."""
        before = self.training
        super().train()
        for p in self.learned:
            p.requires_grad_()
        values, samples, epoch = [], 0, 0
        for batch in batches:
            epoch = self.passes + batch.epoch
            outputs = self(batch)
            # The student has no part in this loss
            terms = super().losses(outputs[ORIGINAL], outputs, batch)
            loss = total(terms) * (len(batch.target) / batch.size)
            gradients = torch.autograd.grad(loss, self.learned, allow_unused=True)
            known = [torch.zeros_like(p) if g is None else g for p, g in zip(self.learned, gradients, strict=True)]
            if self.clip_norm > 0:
                norm = torch.stack([all_reduce(g).norm() for g in known]).norm()  # of the whole batch
                factor = self.clip_norm / norm.clamp(self.clip_norm)
                known = [g * factor for g in known]
            rate = self.first_lr * (1 + math.cos(math.pi * (epoch - 1) / self.passes)) / 2
            self.momenta.step(self.learned, known, rate)
            values.append(loss.detach() * batch.size)
            samples += batch.size
        for p in self.learned:
            p.requires_grad_(False)
        self.train(before)
        self.take_logged()
        for buffer in (b for b in self.buffers() if b.is_floating_point()):
            buffer.copy_(all_reduce(buffer) / world_size())  # each process met its own samples
        mean = all_reduce(torch.stack(values).sum()).item() / samples
        if not math.isfinite(mean):
            raise DivergedError(f"TRAINED_PATH: the path's loss is {mean}; lower FIRST.LR (now {self.first_lr})")
        print(f"TRAINED_PATH: prompt path, epoch {epoch}/{self.passes}: loss {mean:.4g}", flush=True)

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        return {}

    def learns(self, path: str) -> bool:
        return path == PROMPT  # before the first step, by passes over the training set

    def parameter_groups(self) -> list[dict[str, Any]]:
        return []
