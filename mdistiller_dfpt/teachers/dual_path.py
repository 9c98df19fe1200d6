r"""The dual-forward path teacher of DFPT-KD and DFPT-KD+ (arXiv:2506.18244): a frozen path and a prompt path.

Paper: that of DFPTKD.

Formula: $$x_i = A_i(z_{i - 1}), \quad z_i = F_i(x_i + P_i(x_i)), \quad z^P = H(z_N)$$ with the teacher's stages $A_i$,
prompt blocks $P_i$, fusion blocks $F_i$ and a new head $H$; $z_i = x_i$ where stage $i$ is not prompted. The prompt
path learns from $$L_P = w_T KD_\tau(z^P, z^T) + w_S KD_\tau(z^P, sg(z^S)) + w_{CE} CE(z^P, y)$$ whose weights are those
of PROMPT.LOSS; LOGIT_LOSS may replace $KD_\tau$.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, POSITIVE, Limit, one_of
from ..data import Batch
from ..data.batch import hard_labels
from ..losses import LOGIT_LOSSES, LogitLoss, Terms, own_terms, warm_up
from ..losses.logit_losses import entropy
from ..models import StagedModel
from ..models.complexity import count_macs, total
from ..models.dummy import dummy_image, probing
from ..models.output import Output, as_output, autocast
from .base import ORIGINAL, TEACHERS, Paths
from .frozen import Frozen
from .own_copy import head_parameters, own_copy
from .prompt import PROMPT_BLOCKS, FusionBlock

PROMPT = "prompt"
TOO_DENSE = 0.10  # fraction of the teacher's MACs above which the paper calls the prompt blocks too dense


def prompt_loss(
    prompt: Tensor, teacher: Tensor, student: Tensor, target: Tensor, loss: LogitLoss, temperature: float,
    *, teacher_weight: float, student_weight: float, ce_weight: float,
) -> Terms:  # fmt: skip
    """The terms of L_P for logits (B, C) of prompt path, original path and student, and labels (B,) or (B, C).

    L_P = teacher_weight KD(p^P, p^T) + student_weight KD(p^P, sg[p^S]) + ce_weight CE(p^P, y)

    The targets of the prompt path are detached, so that a single backward pass trains it and the student.
    """
    classes = hard_labels(target)
    return own_terms({
        "prompt_teacher": (teacher_weight, lambda: loss(prompt, teacher.detach(), classes, temperature)),
        "prompt_student": (student_weight, lambda: loss(prompt, student.detach(), classes, temperature)),
        "prompt_ce": (ce_weight, lambda: F.cross_entropy(prompt, target)),
    })  # fmt: skip


def _is_stage_list(value: object) -> bool:
    return value == "all" or (isinstance(value, list) and all(type(v) is int and v >= 1 for v in value))


@TEACHERS.register("dual_path")
class DualPath(Frozen):
    """Two paths through a trained teacher: `teacher`, which never changes, and `prompt`, which is trained.

    Original path: the frozen network. Prompt path: z_0 = stem(x), then x_i = A_i(z_{i-1}) and z_i = F_i(x_i + P_i(x_i))
    after each prompted stage, and a head of its own on z_N. Its stages are the teacher's weights, frozen (DFPT-KD), or
    a copy that is trained (DFPT-KD+: FINETUNE_BACKBONE). It learns from the teacher, the student and the labels.

    BN sets the statistics of the BatchNorm layers in the prompt path's stages. "running": the teacher's statistics.
    "batch": batch statistics, because the fused maps have other statistics than those seen in the teacher's training;
    evaluation uses separate running averages. Stages before the first prompt have the same input on both paths, so if
    the stages are frozen they are computed once for both, with the teacher's statistics.

    INIT "teacher": zero prompts, identity fusions and a copied head, so that both paths initially compute the same
    function (exactly so with BN "running"). "random": prompts, fusions and head are initialised randomly.

    With STAGES [] nothing is prompted: the path is the teacher with the statistics of BN and a head of its own. With
    all weights of its loss 0 the path is not trained.

    ValueError if STAGES names a stage that the network does not have, or whose map does not reach the logits.
    """

    takes_soft_labels = True
    config = CN(
        {
            "TEMPERATURE": 4.0,
            "LOGIT_LOSS": "KD",  # of the prompt path; any name in LOGIT_LOSSES
            "STAGES": "all",  # the prompted stages, counted from 1; [] for none; or "all" that the logits depend on
            "FINETUNE_BACKBONE": False,  # True: DFPT-KD+, the prompt path trains its own copy of the stages
            "FINETUNE_LR_FACTOR": 0.1,  # learning rate of the copied stages relative to the schedule's
            "BN": "batch",  # statistics of the BatchNorm layers on the prompt path: batch or running
            "INIT": "random",  # initialisation of the prompt path: teacher (the same function) or random
            "FUSION": True,  # False: z_i = x_i + P_i(x_i)
            "PROMPT": CN(
                {
                    "BLOCK": "sequence",  # sequence, parallel (channel groups), conv (one plain convolution)
                    "R1": 2,  # the block's inner width is C / R1
                    "R2": 0.25,  # fraction of the channels processed by a partial convolution
                    "KERNELS": [3, 5, 7],
                    # Maximum norm of the prompt path's gradient; 0: no clipping. Typical steps on CIFAR-100: 1.5 to 3;
                    # without clipping, the fusions and the head, which are not normalised, can diverge
                    "CLIP_NORM": 5.0,
                    "LR_FACTOR": 1.0,  # learning rate of prompts, fusions and head relative to the schedule's
                    # Epochs over which the path passes from the student's supervision to the teacher's: the student's
                    # weight falls from its value to 0, and the teacher's rises from 0 to its value; 0: both constant
                    "HAND_OVER_EPOCHS": 0,
                    "NORM": True,  # BatchNorm and ReLU after each point-wise convolution of the block except the last
                    "LOSS": CN({"TEACHER_WEIGHT": 1.0, "STUDENT_WEIGHT": 1.0, "CE_WEIGHT": 1.0}),  # of L_P
                }
            ),
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "TEMPERATURE": A_TEMPERATURE,
        "STAGES": Limit('"all" or a list of stage numbers from 1', _is_stage_list, types=(list,)),
        "FINETUNE_LR_FACTOR": POSITIVE,
        "PROMPT.LR_FACTOR": POSITIVE,
        "BN": one_of("batch", "running"),
        "INIT": one_of("teacher", "random"),
        "PROMPT.R1": Limit(">= 1", lambda v: v >= 1),
        "PROMPT.R2": Limit("in (0, 1]", lambda v: 0 < v <= 1),
        "PROMPT.KERNELS": Limit(
            "odd sizes >= 1, at least one", lambda v: len(v) > 0 and all(type(k) is int and k % 2 and k > 0 for k in v)
        ),
        "PROMPT.CLIP_NORM": NOT_NEGATIVE, "PROMPT.HAND_OVER_EPOCHS": NOT_NEGATIVE,
        **{f"PROMPT.LOSS.{which}_WEIGHT": NOT_NEGATIVE for which in ("TEACHER", "STUDENT", "CE")},
    }  # fmt: skip

    when: ClassVar[Mapping[str, When]] = {
        "FINETUNE_LR_FACTOR": When("FINETUNE_BACKBONE is False", lambda s: s.FINETUNE_BACKBONE),
        "PROMPT.R2": When("PROMPT.BLOCK is conv", lambda s: s.PROMPT.BLOCK != "conv"),
    }

    def __init__(
        self, network: StagedModel, *, temperature: float, logit_loss: str, stages: str | Sequence[int],
        finetune_backbone: bool, finetune_lr_factor: float, bn: str, init: str, fusion: bool, prompt_block: str,
        prompt_r1: int, prompt_r2: float, prompt_kernels: Sequence[int], prompt_clip_norm: float, prompt_norm: bool,
        prompt_lr_factor: float, prompt_hand_over_epochs: int, prompt_teacher_weight: float,
        prompt_student_weight: float, prompt_ce_weight: float,
    ):  # fmt: skip
        super().__init__(network)
        self.stages = _numbers(stages, network)
        self.finetune, self.batch_statistics = finetune_backbone, bn == "batch"
        self.finetune_lr_factor, self.lr_factor, self.clip_norm = finetune_lr_factor, prompt_lr_factor, prompt_clip_norm
        self.hand_over = prompt_hand_over_epochs
        self.logit_loss: LogitLoss = LOGIT_LOSSES[logit_loss]
        self.couples_samples = getattr(self.logit_loss, "couples_samples", False)
        self.temperature = temperature
        self.weights = {
            "teacher_weight": prompt_teacher_weight, "student_weight": prompt_student_weight,
            "ce_weight": prompt_ce_weight,
        }  # fmt: skip
        self.own = own_copy(network, share=not finetune_backbone, new_head=init == "random")
        self.prompts, self.fusions = nn.ModuleDict(), nn.ModuleDict()
        for i in self.stages:
            channels = network.stage_channels[i]
            prompt = PROMPT_BLOCKS[prompt_block](channels, prompt_r1, prompt_r2, prompt_kernels, prompt_norm)
            fusing = FusionBlock(channels) if fusion else nn.Identity()
            if init == "teacher":
                prompt.zero()
                if isinstance(fusing, FusionBlock):
                    fusing.identity()
            self.prompts[str(i)], self.fusions[str(i)] = prompt, fusing
        if not any(self.weights.values()):
            for module in (self.own, self.prompts, self.fusions):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DualPath":
        super().train(mode)
        self.own.eval()  # dropout and similar layers stay off, since the path is the teacher's function
        for module in self.own.modules() if mode and self.batch_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        return self

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, PROMPT)

    def default_paths(self) -> dict[str, float]:
        return {ORIGINAL: 1.0, PROMPT: 1.0}

    def network_of(self, path: str) -> StagedModel:
        return self.own if path == PROMPT else self.network

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        # Original path; if its logits are cached, only the maps that the prompt path starts from are computed
        if ORIGINAL not in self.caches:
            logits, features = self.run_frozen(self.network, batch.image)
            original = as_output((logits, features))
        else:
            original, features = self.original(batch), self._first_maps(batch.image)
        return Paths({ORIGINAL: lambda: original, PROMPT: lambda: self.prompt_path(batch.image, features)})

    def _first_maps(self, image: Tensor) -> Mapping[str, Any]:
        """The original path's maps up to the first prompt; none if the prompt path runs its own stages."""
        if self.runs_all_stages:
            return {}
        with torch.no_grad(), autocast(self.dtype, image):
            return {"feats": self.network.first_maps(image, self.first)}

    @property
    def runs_all_stages(self) -> bool:
        """Whether no stage of the path computes what the original path does: trained, or with other statistics."""
        return self.finetune or (not self.stages and self.batch_statistics)

    @property
    def first(self) -> int:
        """The first stage that the path computes itself: the first prompted one, or the head."""
        return self.stages[0] if self.stages else len(self.network.stage_channels)

    def prompt_path(self, image: Tensor, original: Mapping[str, Any]) -> Output:
        """The prompt path's output; `original`: the original path's features up to the first prompt, stem first.

        None are needed if the path runs its own stages.
        """
        with autocast(self.dtype, image):
            if self.runs_all_stages:
                return as_output(self.own.rerun(image, self.fuse))
            first = self.first
            before = list(original["feats"][:first])
            if self.stages:
                before.append(self.fuse(first, original["feats"][first]))
            logits, features = self.own.rerun(image, self.fuse, before)
        # Stages before the first prompt are those of the original path, including their preactivations
        preact_feats = [*original.get("preact_feats", before)[:first], *features["preact_feats"][first:]]
        return as_output((logits, {**features, "preact_feats": preact_feats}))

    def fuse(self, i: int, x: Tensor) -> Tensor:
        """z_i = F_i(x_i + P_i(x_i)) if stage i is prompted, else x_i."""
        if i not in self.stages:
            return x
        return self.fusions[str(i)](x + self.prompts[str(i)](x))

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        prompt = outputs[PROMPT].logits
        with torch.no_grad():
            self.log("accuracy_prompt", (prompt.argmax(1) == batch.target).float().mean() * 100)
            self.log("entropy_prompt", entropy(prompt).mean())
        weights = dict(self.weights)
        if self.hand_over:
            handed = warm_up(batch.epoch - 1, self.hand_over)
            weights["teacher_weight"] *= handed
            weights["student_weight"] *= 1 - handed
        return prompt_loss(
            prompt, outputs[ORIGINAL].logits, student.logits, batch.labels, self.logit_loss, self.temperature,
            **weights,
        )  # fmt: skip

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        logits, features = self.run_frozen(self.network, image)
        return {ORIGINAL: logits.float(), PROMPT: self.prompt_path(image, features).logits}

    def before_step(self) -> None:
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], self.clip_norm)

    def parameter_groups(self) -> list[dict[str, Any]]:
        slow = self._copied_stages()
        slow_ids = {id(p) for p in slow}
        fast = [p for p in self.parameters() if p.requires_grad and id(p) not in slow_ids]
        return [{"params": fast, "lr_factor": self.lr_factor}, {"params": slow, "lr_factor": self.finetune_lr_factor}]

    def _copied_stages(self) -> list[nn.Parameter]:
        """The trained parameters of the copied stages; none if the backbone is frozen."""
        head = {id(p) for p in head_parameters(self.own)}
        return [p for p in self.own.parameters() if p.requires_grad and id(p) not in head]

    def overhead(self, image_shape: tuple[int, int, int]) -> str:
        image = dummy_image(self.network, image_shape)
        with probing(self), count_macs(self) as macs:
            _, features = self.network(image)
            self.prompt_path(image, features)
        blocks = total(macs, self.prompts) + total(macs, self.fusions)
        share = blocks / total(macs, self.network)
        parameters = sum(p.numel() for m in (self.prompts, self.fusions) for p in m.parameters())
        line = (
            f"prompt and fusion blocks: {parameters:,} parameters, {blocks / 1e6:.1f} MMAC per image, "
            f"{share:.1%} of the teacher's"
        )
        if share > TOO_DENSE:
            line += f" (warning: above {TOO_DENSE:.0%}, which the paper calls too dense; raise PROMPT.R1)"
        return line


def _numbers(stages: str | Sequence[int], network: StagedModel) -> tuple[int, ...]:
    """The prompted stages in order; ValueError if the network lacks one of them, or its logits do not depend on it."""
    if not network.stage_channels:
        raise ValueError("STAGES: the network has no feature maps to prompt")
    count, reaching = len(network.stage_channels) - 1, network.reaching_stages()
    numbers = reaching if stages == "all" else sorted({int(s) for s in stages})
    if not all(1 <= i <= count for i in numbers):
        raise ValueError(f"STAGES is {numbers}; {type(network).__name__} has stages 1..{count}")
    if lost := sorted(set(numbers) - set(reaching)):
        raise ValueError(
            f"STAGES is {numbers}; the logits of this network, which reads its class token, do not depend on the map "
            f"of stage {lost[0]}: choose from {', '.join(map(str, reaching))}"
        )
    return tuple(numbers)
