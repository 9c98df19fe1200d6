r"""Prompts before each stage of a frozen teacher (PAT, Lin et al., 2025, ICCV, arXiv:2501.08885).

Paper: that of PAT.

Formula: $$x_i = A_i(z_{i - 1}), \quad z_i = x_i + \beta_i P_i(x_i)$$ with the teacher's stages $A_i$ and the prompts
$P_i$, which also see the feedback of a method that gives one; $x_0$ is the output of the stem, the output of the last
stage has no prompt, and $\beta_i$ is 0 at first. The prompts descend $$L_P = w_{reg} KD_\tau(z^P, z^T) + w_{student}
KD_\tau(z^P, sg(z^S))$$ and LOGIT_LOSS may replace $KD_\tau$.

The blocks are compared with jimmylin0979/PAT a7aff3f, distillers/pat.py:441-594. As there, and unlike
squeeze-and-excitation, a gate is returned without the map that it would scale, so that a prompt is one number per
channel. Under methods without aligned student features, which have no feedback to give, the prompts learn from the
student's logits.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..data import Batch
from ..distributed import all_gather, rank, world_size
from ..losses import LOGIT_LOSSES, Terms, own_terms
from ..models import StagedModel
from ..models.output import Output, as_output, autocast
from .base import ORIGINAL, TEACHERS, Paths
from .frozen import Frozen

PROMPTED = "prompted"
RATIO, GROUPS, KERNEL = 16, 4, 5  # of the blocks

Map = tuple[int, int, int]
"""The shape (C, H, W) of a stage's output."""


class Gate(nn.Module):
    """(B, C, H, W) -> (B, C, 1, 1) in (0, 1), from the mean of each channel."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // RATIO)
        self.compress, self.excitation = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.excitation(self.compress(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Prompt(nn.Module):
    """x + beta * P(fused), where `fused` is x, or x and the feedback; (B, C, H, W) -> (B, C, H, W).

    `feedback`: the channels of the feedback; 0 for none. beta is zero at first.
    """

    def __init__(self, channels: int, feedback: int):
        super().__init__()
        groups, pad = math.gcd(channels, GROUPS), KERNEL // 2
        self.beta = nn.Parameter(torch.zeros(1))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=groups),
            nn.Conv2d(channels, channels, KERNEL, padding=pad, groups=channels),
            nn.Conv2d(channels, channels, 1),
            Gate(channels),
            nn.Conv2d(channels, channels, 1, groups=groups),
        )
        self.fusion: nn.Sequential | None = None
        self.align: nn.Module = nn.Identity()
        if feedback:
            self.align = nn.Identity() if feedback == channels else projector(feedback, channels)
            self.fusion = nn.Sequential(
                nn.Conv2d(2 * channels, channels, 1),
                nn.Conv2d(channels, channels, KERNEL, padding=pad),
                nn.Conv2d(channels, channels, 1),
                Gate(channels),
                nn.Conv2d(channels, channels, 1),
            )

    def forward(self, x: Tensor, feedback: Tensor | None) -> Tensor:
        fused = x
        if self.fusion is not None and feedback is not None:
            fused = self.fusion(torch.cat([x, self.align(_resized(feedback, x))], 1))
        return x + self.beta * self.block(fused)


def projector(in_channels: int, channels: int) -> nn.Sequential:
    """BatchNorm and a 1x1 convolution to another width, at first to the same scale whatever the widths."""
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return nn.Sequential(nn.BatchNorm2d(in_channels), conv)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Maps at the height and width of others, by repetition or omission."""
    return x if x.shape[2:] == like.shape[2:] else nn.functional.interpolate(x, like.shape[2:], mode="nearest")


@TEACHERS.register("prompted")
class Prompted(Frozen):
    """The path `teacher`, and `prompted`: the same frozen stages and head, each stage behind a prompt.

    A method may give feedback: `feedback` maps of up to `rows` samples, of the last stages, which are zero at first.
    The maps of the path are those of its stages, before the next prompt.
    """

    takes_soft_labels = True
    reads_only_images = False
    config = CN(
        {
            "TEMPERATURE": 1.0,
            "LOGIT_LOSS": "KD",  # of the prompts' terms; any name in LOGIT_LOSSES
            # Of the prompted logits: towards the unprompted ones, and towards the student's
            "LOSS": CN({"REG_WEIGHT": 1.0, "STUDENT_WEIGHT": 1.0}),
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "TEMPERATURE": A_TEMPERATURE, "LOSS.REG_WEIGHT": NOT_NEGATIVE, "LOSS.STUDENT_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip

    def __init__(
        self, network: StagedModel, *, temperature: float, logit_loss: str, reg_weight: float, student_weight: float,
        feedback: Sequence[Map] = (), rows: int = 0,
    ):  # fmt: skip
        super().__init__(network)
        if not network.stage_channels:
            raise ValueError("TEACHER_KIND is prompted; the network has no stages to prompt")
        if not feedback and reg_weight == student_weight == 0:
            raise ValueError("LOSS.REG_WEIGHT and LOSS.STUDENT_WEIGHT are 0: nothing would train the prompts")
        self.temperature, self.logit_loss = temperature, LOGIT_LOSSES[logit_loss]
        self.couples_samples = getattr(self.logit_loss, "couples_samples", False)
        self.reg_weight, self.student_weight = reg_weight, student_weight
        count = len(network.stage_channels) - 1
        self.first = count - len(feedback)  # the number of stages without feedback
        for i, shape in enumerate(feedback, self.first):
            self.register_buffer(f"feedback{i}", torch.zeros(rows, *shape))
        widths = [0] * self.first + [shape[0] for shape in feedback]
        self.prompts = nn.ModuleList(Prompt(network.stage_channels[i], widths[i]) for i in range(count))
        self.pending: tuple[list[Tensor], int] | None = None

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, PROMPTED)

    def default_paths(self) -> dict[str, float]:
        return {ORIGINAL: 1.0, PROMPTED: 1.0}

    def learns(self, path: str) -> bool:
        return path == PROMPTED

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        return Paths({ORIGINAL: partial(self.original, batch), PROMPTED: partial(self.prompted_path, batch.image)})

    def prompted_path(self, image: Tensor) -> Output:
        """The output of the prompted path, with the feedback of the previous step for the samples at these places."""
        maps: list[Tensor] = []

        def edit(i: int, x: Tensor) -> Tensor:
            maps.append(x)
            if i == len(self.prompts):
                return x
            name = f"feedback{i}"
            given = self.get_buffer(name)[rank() :: world_size()][: len(x)] if i >= self.first else None
            return self.prompts[i](x, given)

        with autocast(self.dtype, image):
            logits, features = self.network.rerun(image, edit)
        last = features["preact_feats"][-1]
        return as_output((logits, {**features, "feats": maps, "preact_feats": [*maps[:-1], last]}))

    def give_feedback(self, difference: Sequence[Tensor], total: int) -> None:
        """Feedback for the next step: (student - teacher) maps of this process's samples, of `total` in all."""
        self.pending = [x.detach() for x in difference], total

    def after_step(self, batch: Batch) -> None:
        """Keep the feedback of the step's last forward pass, for all processes, so that a resumed run has it."""
        if self.pending is None:
            return
        maps, total = self.pending
        self.pending = None
        with torch.no_grad():
            for i, x in enumerate(maps, self.first):
                whole = all_gather(x, total)
                self.get_buffer(f"feedback{i}")[: len(whole)].copy_(whole)

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        prompted = outputs[PROMPTED].logits

        def towards(target: Tensor) -> Tensor:
            return self.logit_loss(prompted, target, batch.classes, self.temperature)

        return own_terms({
            "prompt_reg": (self.reg_weight, lambda: towards(outputs[ORIGINAL].logits)),
            "prompt_student": (self.student_weight, lambda: towards(student.logits.detach())),
        })  # fmt: skip

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        if self.first < len(self.prompts):  # what the prompts make of other images depends on the last step's
            return {}
        return {ORIGINAL: self.logits(image), PROMPTED: self.prompted_path(image).logits}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.prompts.parameters()), "lr_factor": 1.0}]
