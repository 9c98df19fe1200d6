"""DFPT-KD and DFPT-KD+: a teacher with a second, prompted path (arXiv:2506.18244)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config_keys import NOT_NEGATIVE, POSITIVE, Limit, one_of
from ..data import Batch
from ..dual_path import DualPathTeacher
from ..models.complexity import count_macs, total
from ..models.probe import dummy_image, probing
from .base import DISTILLERS, Distiller, Output, as_output
from .logit_loss import LOGIT_LOSSES, LogitLoss

TOO_DENSE = 0.10  # share of the teacher's MACs above which the paper calls the prompt blocks too dense


def dfptkd_loss(
    student: Tensor, teacher: Tensor, prompt: Tensor, target: Tensor, loss: LogitLoss, temperature: float,
    *, ce: float, teacher_kd: float, prompt_kd: float, prompt_from_teacher: float, prompt_from_student: float,
    prompt_ce: float,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms of L_S and L_P for logits (B, C) of student, original path and prompt path, and labels (B,).

    L_S = ce CE(p^S, y) + teacher_kd KD(p^S, p^T) + prompt_kd KD(p^S, sg[p^P])
    L_P = prompt_from_teacher KD(p^P, p^T) + prompt_from_student KD(p^P, sg[p^S]) + prompt_ce CE(p^P, y)
    Each path's target is detached, so one backward pass over the sum serves both on the same weights.
    """
    terms = {
        "ce": (ce, lambda: F.cross_entropy(student, target)),
        "kd_teacher": (teacher_kd, lambda: loss(student, teacher.detach(), target, temperature)),
        "kd_prompt": (prompt_kd, lambda: loss(student, prompt.detach(), target, temperature)),
        "prompt_teacher": (prompt_from_teacher, lambda: loss(prompt, teacher.detach(), target, temperature)),
        "prompt_student": (prompt_from_student, lambda: loss(prompt, student.detach(), target, temperature)),
        "prompt_ce": (prompt_ce, lambda: F.cross_entropy(prompt, target)),
    }
    return {name: weight * term() for name, (weight, term) in terms.items() if weight > 0}


def _is_stage_list(value: object) -> bool:
    return value == "all" or (
        isinstance(value, list) and len(value) > 0 and all(type(v) is int and v >= 1 for v in value)
    )


@DISTILLERS.register("DFPTKD")
class DFPTKD(Distiller):
    """Trains the student and the teacher's prompt path together; the original path never changes."""

    looks_at_teacher_maps = False  # but for the first stages', which it computes where the logits are known

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "LOGIT_LOSS": "KD",  # any name of LOGIT_LOSSES
            "STAGES": "all",  # the prompted stages, counted from 1, or "all"
            "FINETUNE_BACKBONE": False,  # True: DFPT-KD+, the prompt path trains its own copy of the stages
            "FINETUNE_LR_FACTOR": 0.1,  # of the copied stages' learning rate on the schedule's
            "BN": "batch",  # statistics of the BatchNorm layers on the prompt path: batch or running
            "INIT": "random",  # the prompt path at step 0: the teacher's function, or random
            "FUSION": True,  # False: z_i = x_i + P_i(x_i)
            "PROMPT": CN(
                {
                    "BLOCK": "sequence",  # sequence, parallel (channel groups), conv (one plain convolution)
                    "R1": 2,  # the block's inner width is C / R1
                    "R2": 0.25,  # fraction of the channels that a partial convolution convolves
                    "KERNELS": [3, 5, 7],
                    # Largest norm of the prompt path's gradient; 0: no limit. Usual steps on CIFAR-100 are at 1.5 to 3;
                    # without a limit the fusions and the head, which nothing normalises, can blow each other up
                    "CLIP_NORM": 5.0,
                    "NORM": True,  # BatchNorm and ReLU after the block's point-wise convolutions but the last
                    "LOSS": CN({"TEACHER_WEIGHT": 1.0, "STUDENT_WEIGHT": 1.0, "CE_WEIGHT": 1.0}),  # of L_P
                }
            ),
            "LOSS": CN({"CE_WEIGHT": 1.0, "TEACHER_WEIGHT": 4.0, "PROMPT_WEIGHT": 4.0}),  # of L_S
        }
    )
    limits = {
        "TEMPERATURE": POSITIVE,
        "STAGES": Limit('"all" or a list of stage numbers from 1', _is_stage_list, types=(list,)),
        "FINETUNE_LR_FACTOR": POSITIVE,
        "BN": one_of("batch", "running"),
        "INIT": one_of("teacher", "random"),
        "PROMPT.R1": Limit(">= 1", lambda v: v >= 1),
        "PROMPT.R2": Limit("in (0, 1]", lambda v: 0 < v <= 1),
        "PROMPT.KERNELS": Limit(
            "odd sizes >= 1, at least one", lambda v: len(v) > 0 and all(type(k) is int and k % 2 and k > 0 for k in v)
        ),
        **dict.fromkeys(
            ("PROMPT.CLIP_NORM", "PROMPT.LOSS.TEACHER_WEIGHT", "PROMPT.LOSS.STUDENT_WEIGHT", "PROMPT.LOSS.CE_WEIGHT",
             "LOSS.CE_WEIGHT", "LOSS.TEACHER_WEIGHT", "LOSS.PROMPT_WEIGHT"), NOT_NEGATIVE,
        ),
    }  # fmt: skip

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float, logit_loss: str,
        stages: str | Sequence[int], finetune_backbone: bool, finetune_lr_factor: float, bn: str, init: str,
        fusion: bool, prompt_block: str, prompt_r1: int, prompt_r2: float, prompt_kernels: Sequence[int],
        prompt_clip_norm: float, prompt_norm: bool, prompt_teacher_weight: float, prompt_student_weight: float,
        prompt_ce_weight: float,
        ce_weight: float, teacher_weight: float, prompt_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        try:
            self.dual = DualPathTeacher(
                teacher, stages=None if stages == "all" else stages, finetune=finetune_backbone, block=prompt_block,
                r1=prompt_r1, r2=prompt_r2, kernels=prompt_kernels, norm=prompt_norm, fusion=fusion, bn=bn, init=init,
            )  # fmt: skip
        except ValueError as e:
            raise ValueError(f"DFPTKD.{e}") from None
        self.finetune_lr_factor, self.clip_norm = finetune_lr_factor, prompt_clip_norm
        self.temperature, self.logit_loss = temperature, LOGIT_LOSSES[logit_loss]
        self.couples_samples = getattr(self.logit_loss, "couples_samples", False)
        self.weights = {
            "ce": ce_weight, "teacher_kd": teacher_weight, "prompt_kd": prompt_weight,
            "prompt_from_teacher": prompt_teacher_weight, "prompt_from_student": prompt_student_weight,
            "prompt_ce": prompt_ce_weight,
        }  # fmt: skip

    def forward_teacher(self, image: Tensor, logits: Tensor | None = None) -> Output:
        with self.precision(image):
            original, prompt_logits = self.dual(image, logits)
        output = as_output(original)
        output.features["prompt_logits"] = prompt_logits
        return output

    def losses(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        paths = {"student": student.logits, "teacher": teacher.logits, "prompt": teacher.features["prompt_logits"]}
        with torch.no_grad():
            self.log("accuracy_prompt", (paths["prompt"].argmax(1) == batch.target).float().mean() * 100)
        return dfptkd_loss(**paths, target=batch.target, loss=self.logit_loss, temperature=self.temperature,
                           **self.weights)  # fmt: skip

    def forward_paths(self, image: Tensor) -> dict[str, Tensor]:
        teacher = self.forward_teacher(image)
        return {
            "teacher": teacher.logits,
            "prompt": teacher.features["prompt_logits"],
            "student": self.forward_test(image),
        }

    def parameter_groups(self) -> list[dict]:
        slow = self.dual.own_stage_parameters()
        slow_ids = {id(p) for p in slow}
        fast = [p for p in self.parameters() if p.requires_grad and id(p) not in slow_ids]
        return [{"params": fast, "lr_factor": 1.0}, {"params": slow, "lr_factor": self.finetune_lr_factor}]

    def before_step(self) -> None:
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_([p for p in self.dual.parameters() if p.requires_grad], self.clip_norm)

    def overhead(self, image_shape: tuple[int, int, int]) -> str:
        with probing(self), count_macs(self.dual) as macs:
            self.dual(dummy_image(self.teacher, image_shape))
        blocks = total(macs, self.dual.prompts) + total(macs, self.dual.fusions)
        share = blocks / total(macs, self.teacher)
        parameters = sum(p.numel() for m in (self.dual.prompts, self.dual.fusions) for p in m.parameters())
        line = (
            f"prompt and fusion blocks: {parameters:,} parameters, {blocks / 1e6:.1f} MMAC an image, "
            f"{share:.1%} of the teacher's"
        )
        if share > TOO_DENSE:
            line += f" (warning: above {TOO_DENSE:.0%}, which the paper calls too dense; raise DFPTKD.PROMPT.R1)"
        return line
