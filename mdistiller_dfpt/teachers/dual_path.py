"""The dual-forward path teacher: the frozen original path, and the prompt path through the same stages."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models import StagedModel
from .prompt import PROMPT_BLOCKS, FusionBlock

Paths = tuple[tuple[Tensor, Mapping[str, Any]], Tensor]


class DualPathTeacher(nn.Module):
    """Runs a trained teacher on two paths; (B, 3, H, W) -> ((logits, features) of the original path, prompt logits).

    Original path: `teacher` in eval mode, without gradient; it never changes. Prompt path: z_0 = stem(x), then
    x_i = A_i(z_{i-1}) and z_i = F_i(x_i + P_i(x_i)) after each prompted stage, and a head of its own on z_N
    (arXiv:2506.18244). Its stages are the teacher's weights, frozen (DFPT-KD), or a copy that is trained (DFPT-KD+).

    `bn` says what the BatchNorm layers of the prompt path's stages normalise with. "running": the teacher's statistics.
    "batch": the batch's, as the fused maps have other statistics than those the teacher was trained with; running
    averages of its own serve evaluation. Stages before the first prompt see what the original path sees, so where the
    stages are frozen they are computed once for both paths, with the teacher's statistics.

    `init` "teacher": prompts zero, fusions identity, head a copy, so that at first both paths are one function
    (exactly so with bn "running"). "random": prompts, fusions and head start anew.
    """

    def __init__(
        self, teacher: StagedModel, *, stages: Sequence[int] | None = None, finetune: bool = False,
        block: str = "sequence", r1: int = 2, r2: float = 0.25, kernels: Sequence[int] = (3, 5, 7), norm: bool = True,
        fusion: bool = True, bn: str = "batch", init: str = "teacher",
    ):  # fmt: skip
        super().__init__()
        count = len(teacher.stage_channels) - 1
        stages = range(1, count + 1) if stages is None else sorted(set(stages))
        if not stages or not all(1 <= i <= count for i in stages):
            raise ValueError(f"STAGES is {list(stages)}; {type(teacher).__name__} has stages 1..{count}")
        self.stages = tuple(stages)
        self.finetune, self.batch_statistics = finetune, bn == "batch"
        self.teacher = teacher.requires_grad_(False).eval()
        self.own = _own_copy(teacher, share=not finetune, new_head=init == "random")
        self.prompts, self.fusions = nn.ModuleDict(), nn.ModuleDict()
        for i in self.stages:
            channels = teacher.stage_channels[i]
            prompt = PROMPT_BLOCKS[block](channels, r1, r2, kernels, norm)
            self.prompts[str(i)] = prompt
            self.fusions[str(i)] = FusionBlock(channels) if fusion else nn.Identity()
            if init == "teacher":
                prompt.zero()
                if fusion:
                    self.fusions[str(i)].identity()
        self.train(self.training)

    def train(self, mode: bool = True) -> "DualPathTeacher":
        super().train(mode)
        self.teacher.eval()
        self.own.eval()  # dropout and the like stay off, the path being the teacher's function
        for module in self.own.modules() if mode and self.batch_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        return self

    def forward(self, image: Tensor, logits: Tensor | None = None) -> Paths:
        """Both paths; where the original one's logits (B, classes) are known, only what the other needs is computed."""
        features: dict[str, Any] = {}
        with torch.no_grad():
            if logits is None:
                logits, features = self.teacher(image)
            elif not self.finetune:
                features = {"feats": self.teacher.first_maps(image, self.stages[0])}
        return (logits, features), self.prompt_path(image, features.get("feats", ()))

    def prompt_path(self, image: Tensor, original: Sequence[Tensor]) -> Tensor:
        """p^P (B, classes); `original`: the original path's maps up to the first prompt, stem first, of these images.

        None are needed where the path runs stages of its own.
        """
        if self.finetune:
            return self.own.rerun(image, self.fuse)
        first = self.stages[0]
        return self.own.rerun(image, self.fuse, first + 1, self.fuse(first, original[first]))

    def fuse(self, i: int, x: Tensor) -> Tensor:
        """z_i = F_i(x_i + P_i(x_i)) where stage i is prompted, else x_i."""
        if i not in self.stages:
            return x
        return self.fusions[str(i)](x + self.prompts[str(i)](x))

    def own_stage_parameters(self) -> list[nn.Parameter]:
        """The copied stages' parameters that are trained; none where the backbone is frozen."""
        head = {id(p) for p in _head_parameters(self.own)}
        return [p for p in self.own.parameters() if p.requires_grad and id(p) not in head]


def _head_parameters(model: StagedModel) -> list[nn.Parameter]:
    return [p for name in model.head_modules for p in model.get_submodule(name).parameters()]


def _own_copy(teacher: StagedModel, share: bool, new_head: bool) -> StagedModel:
    """The network that the prompt path runs: buffers and head its own, the stages' weights shared or copied."""
    head = {id(p) for p in _head_parameters(teacher)}
    shared = [p for p in teacher.parameters() if share and id(p) not in head]
    own = copy.deepcopy(teacher, {id(p): p for p in shared})
    vars(own).pop("forward", None)  # a folded teacher's, which is not this network's function
    frozen = {id(p) for p in shared}
    for p in own.parameters():
        p.requires_grad_(id(p) not in frozen)
    if new_head:
        for name in own.head_modules:
            for module in own.get_submodule(name).modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return own
