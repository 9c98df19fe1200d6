r"""TAID: a target that moves from the student's logits to the teacher's (Shing et al., 2025, ICLR, arXiv:2501.16937).

Paper: TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models.

Formula: $$L = w_{CE} CE - w_{KD} \tau^2 \sum_c u_c \log s_c, \quad u = softmax \frac{(1 - \lambda) sg(z^S) + \lambda
z^T}{\tau}$$ where $\lambda$ grows from T_START to T_END by $\alpha \sigma(m) (1 - \lambda)$ in each step, at least as
fast as a linear schedule, and $m$ is a moving average of the relative decrease of the loss.

Code: SakanaAI/TAID a062892, src/distil_losses/taid.py:9-108, src/distil_losses/fkl.py:10-26.

Differs: the code is for language models: its tokens are samples here, and its temperature is 1. The paper's objective,
whose changes move the target, is the divergence, the code's the cross-entropy, as here; gradients are equal. The code
moves the target in evaluation as well, and in each process by the loss of its own samples.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, FRACTION, NOT_NEGATIVE, Limit
from ..distributed import all_reduce
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def taid_loss(student: Tensor, teacher: Tensor, t: float | Tensor, temperature: float) -> Tensor:
    """temperature**2 times the cross-entropy with the softened (1 - t) student + t teacher; (B, C), (B, C) -> ().

    The student's logits in the target carry no gradient: at t = 0 there is none, at t = 1 it is KD's.
    """
    target = ((1 - t) * student.detach() + t * teacher) / temperature
    return -(target.softmax(1) * (student / temperature).log_softmax(1)).sum(1).mean() * temperature**2


def next_t(
    t: Tensor, momentum: Tensor, previous: Tensor, loss: Tensor, progress: float, *, start: float, end: float,
    alpha: float, beta: float, adaptive: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """t and the momentum after a step with this loss; all (). `previous`: the last step's loss, inf before the second.

    t grows by alpha sigmoid(momentum) (1 - t), at least to the linear schedule from `start` to `end` at `progress` in
    [0, 1], and to `end` at most. The momentum is a moving average of the loss's relative decrease: the faster the
    student follows, the faster the target moves. Not adaptive: the linear schedule alone.
    """
    first = previous.isinf()
    decrease = (previous - loss) / (previous + 1e-15)
    momentum = torch.where(first, momentum, beta * momentum + (1 - beta) * decrease)
    floor = torch.full_like(t, start + (end - start) * progress)
    grown = torch.maximum(floor, t + alpha * momentum.sigmoid() * (1 - t)).clamp(max=end)
    return torch.where(first, t, grown if adaptive else floor), momentum


_ADAPTIVE = When("ADAPTIVE is False", lambda section: section.ADAPTIVE)


@DISTILLERS.register("TAID")
class TAID(Distiller):
    """Cross-entropy and `taid_loss`, whose t grows from T_START to T_END by `next_t` after each step."""

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "T_START": 0.4,
            "T_END": 1.0,
            "ADAPTIVE": True,
            "ALPHA": 5e-4,  # the rate at which t grows
            "BETA": 0.99,  # of the moving average
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "T_START": FRACTION, "T_END": Limit("in (0, 1]", lambda v: 0 < v <= 1),
        "ALPHA": Limit("in [0, 1]", lambda v: 0 <= v <= 1), "BETA": FRACTION,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    when = {"ALPHA": _ADAPTIVE, "BETA": _ADAPTIVE}
    needs_teacher_maps = False
    takes_soft_labels = True
    t: Tensor  # (), buffers as the next two
    momentum: Tensor
    previous_loss: Tensor

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, t_start: float, t_end: float,
        adaptive: bool, alpha: float, beta: float, ce_weight: float, kd_weight: float, epochs: int, num_data: int,
        batch_size: int,
    ):  # fmt: skip
        super().__init__(student, teacher)
        if t_start > t_end:
            raise ValueError(f"TAID.T_START is {t_start} and TAID.T_END {t_end}: the target moves to the teacher")
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight
        self.rule: dict[str, Any] = {"start": t_start, "end": t_end, "alpha": alpha, "beta": beta, "adaptive": adaptive}
        self.num_data, self.batch_size, self.epochs = num_data, batch_size, epochs
        self.num_trained = num_data
        self.register_buffer("t", torch.tensor(t_start))
        self.register_buffer("momentum", torch.zeros(()))
        self.register_buffer("previous_loss", torch.tensor(torch.inf))
        self._seen: list[tuple[Tensor, int]] = []  # the loss and the samples of each micro-batch of this step
        self._step = (0, 0)

    def leave_out(self, index: Tensor) -> None:
        self.num_trained = self.num_data - len(index)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = taid_loss(student.logits, teacher.logits, self.t, self.temperature)
        self._keep(loss.detach(), batch)
        self.log("t", self.t)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "kd": distillation(loss, self.kd_weight),
        }

    @torch.compiler.disable
    def _keep(self, loss: Tensor, batch: Batch) -> None:
        if self._step != (batch.epoch, batch.step):
            self._seen, self._step = [], (batch.epoch, batch.step)
        self._seen.append((loss, len(batch.target)))

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        if not self._seen:
            return
        # The mean over the samples of all processes, which thus agree on t
        total = torch.stack([loss * samples for loss, samples in self._seen]).sum()
        samples, loss = all_reduce(torch.stack([total.new_tensor(len(batch.target)), total]))
        steps = -(-self.num_trained // self.batch_size)  # of an epoch
        progress = ((batch.epoch - 1) * steps + batch.step - 1) / (self.epochs * steps)
        t, momentum = next_t(self.t, self.momentum, self.previous_loss, loss / samples, min(progress, 1.0), **self.rule)
        self.t.copy_(t)
        self.momentum.copy_(momentum)
        self.previous_loss.copy_(loss / samples)
        self._seen = []
