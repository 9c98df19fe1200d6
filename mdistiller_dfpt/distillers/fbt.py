r"""FBT: a fusion of student and teacher mediates between the two (Li et al., 2025, arXiv:2410.12342).

Paper: Fuse Before Transfer: Knowledge Fusion for Heterogeneous Distillation.

Formula: $$L = w_{CE} CE + w_{NCE} \sum_{a, b} NCE(g_a f^a, g_b f^b) + w_{logit} \left( CE(z^F, y) + \sum_{a, b} O(z^a,
z^b) \right)$$ over the pairs of a learner $a$ and its target $b$: student and teacher, fusion $F$ and teacher, student
and fusion; $NCE$ is the cross-entropy of finding a sample's own target in the batch by scaled cosines, $g$ are linear
layers, and $O$ is the loss of OFA-KD.

Code: none found.

Differs: none published. Not confirmed are the patch size, window, heads and position of the attention block, the
dimension and direction of InfoNCE, its initial temperature, whether the student's target is detached, and eps.
"""

import contextlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, one_of
from ..losses import Terms, distillation, label
from ..losses.sharded import over_processes
from ..losses.term import checking
from ..models.dummy import ImageShape
from ..models.output import Output, as_output, autocast
from ..models.statistics import batch_statistics
from .base import DISTILLERS, Batch, Distiller, StagedModel, TeacherLike
from .feature import feature_shapes, refuse_trained_network
from .ofakd import ofakd_loss
from .token_block import AttentionBlock, init_by_fan_out, tokens_of


def info_nce(learner: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of finding a sample's own target among those of the batch, by scaled cosines; (B, D), (B, D)."""
    cosines = F.normalize(learner) @ F.normalize(target).T
    return F.cross_entropy(scale * cosines, torch.arange(len(learner), device=learner.device))


class LocalToGlobal(nn.Module):
    """Maps of shape `source` (C, H, W) -> `target`: patches are embedded, then attend to each other in windows."""

    def __init__(self, source: ImageShape, target: ImageShape, *, patch: int, window: int, heads: int):
        super().__init__()
        patch = patch or max(1, source[1] // target[1])
        self.size, self.window = (target[1], target[2]), window
        self.embed = nn.Conv2d(source[0], target[0], patch, patch)
        self.block = AttentionBlock(target[0], heads)
        init_by_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return in_windows(self.block, x, self.window)


def in_windows(block: nn.Module, x: Tensor, window: int) -> Tensor:
    """Apply a block of tokens to each window of a map (B, C, H, W); at the border windows are filled up with zeros."""
    height, width = x.shape[2:]
    rows, columns = min(window, height), min(window, width)
    x = F.pad(x, (0, -width % columns, 0, -height % rows))
    down, across = x.shape[2] // rows, x.shape[3] // columns
    windows = x.unflatten(3, (across, columns)).unflatten(2, (down, rows)).permute(0, 2, 4, 1, 3, 5)
    tokens = block(tokens_of(windows.flatten(0, 2)))
    windows = tokens.transpose(1, 2).unflatten(2, (rows, columns)).unflatten(0, (-1, down, across))
    return windows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


@DISTILLERS.register("FBT")
class FBT(Distiller):
    """Cross-entropy, and `info_nce` and `ofakd_loss` of each pair of teacher, fusion and student.

    The fusion runs one network up to its last stage but one, `LocalToGlobal`, and the last stage and the classifier of
    the other; all weights but those of `LocalToGlobal` are those of the two networks. A CNN comes first.
    """

    config = CN(
        {
            "FIRST": "auto",  # the network whose stages come first: student, teacher; auto: a CNN, else the student
            "PATCH": 0,  # of the patch embedding; 0: from the sizes of the maps
            "WINDOW": 7,
            "ATTENTION_HEADS": 4,
            "DIM": 128,  # to which features are projected for InfoNCE
            "NCE_TEMPERATURE": 0.07,  # initial; it is learned
            "EPS": 1.0,
            "DETACH_FUSION": True,  # the fusion does not learn from the student's terms
            # CE_WEIGHT: one for each of the student's pairs, as the loss of OFA-KD's paper includes it
            "LOSS": CN({"CE_WEIGHT": 2.0, "NCE_WEIGHT": 1.0, "LOGIT_WEIGHT": 1.0}),
        }
    )
    limits = {
        "FIRST": one_of("auto", "student", "teacher"),
        "PATCH": NOT_NEGATIVE, "WINDOW": AT_LEAST_ONE, "ATTENTION_HEADS": AT_LEAST_ONE, "DIM": AT_LEAST_ONE,
        "NCE_TEMPERATURE": POSITIVE, "EPS": POSITIVE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.NCE_WEIGHT", "LOSS.LOGIT_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    couples_samples = True
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, first: str, patch: int, window: int, attention_heads: int,
        dim: int, nce_temperature: float, eps: float, detach_fusion: bool, ce_weight: float, nce_weight: float,
        logit_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        network = self.teacher_network
        refuse_trained_network(self, "FBT runs the last stage")
        self.eps, self.detach_fusion = eps, detach_fusion
        self.ce_weight, self.nce_weight, self.logit_weight = ce_weight, nce_weight, logit_weight
        self.student_first = first == "student" or (first == "auto" and (network.has_tokens or not student.has_tokens))
        mine, its = (feature_shapes(n, image_shape).feats for n in (student, network))
        if min(len(mine), len(its)) < 3:
            raise ValueError("FBT joins two networks before their last stages; each must have two stages at least: set "
                             "DISTILLER.STUDENT_STAGES or TEACHER_STAGES")  # fmt: skip
        source, target = (mine[-2], its[-2]) if self.student_first else (its[-2], mine[-2])
        if target[0] % attention_heads:
            raise ValueError(f"FBT.ATTENTION_HEADS is {attention_heads}; it must divide {target[0]}, the width before "
                             "the last stage of the second network")  # fmt: skip
        if patch > min(source[1:]):
            raise ValueError(f"FBT.PATCH is {patch}; the map that is embedded has size {source[1]}x{source[2]}")
        self.local_to_global = LocalToGlobal(source, target, patch=patch, window=window, heads=attention_heads)
        widths = [n.classifier_layer.in_features for n in (student, network)]
        widths.append(widths[1] if self.student_first else widths[0])
        names = ("student", "teacher", "fusion")
        self.projections = nn.ModuleDict({n: nn.Linear(w, dim) for n, w in zip(names, widths, strict=True)})
        self.log_scale = nn.Parameter(torch.tensor(-math.log(nce_temperature)))

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        teacher = self.matched_output(student, paths, batch)
        fusion = self.fuse(student, teacher, batch)
        others = {"teacher": teacher, "fusion": fusion}
        return over_processes(checking(self._all, type(self)), student, others, batch, couples_samples=True)

    def fuse(self, student: Output, teacher: Output, batch: Batch) -> Output:
        """The fusion's output for the images of this process."""
        outputs, networks = [student, teacher], [self.student, self.teacher_network]
        if not self.student_first:
            outputs.reverse()
            networks.reverse()
        entering, maps = outputs[0].features["feats"][-2], outputs[1].features["feats"]
        with autocast(self.dtype, batch.image), self._own_statistics(networks[1]):
            joined = self.local_to_global(entering)
            return as_output(networks[1].rerun(batch.image, lambda i, x: x, [*maps[:-2], joined]))

    def _own_statistics(self, network: StagedModel) -> contextlib.AbstractContextManager[None]:
        """BatchNorm of the student on the fusion's maps, which have statistics of their own."""
        batch_wise = self.training and network is self.student
        return batch_statistics(network) if batch_wise else contextlib.nullcontext()

    def _all(self, student: Output, others: Mapping[str, Output], batch: Batch) -> Terms:
        teacher, fusion = others["teacher"], others["fusion"]
        target = fusion.detach() if self.detach_fusion else fusion
        all_of = {"student": student, "teacher": teacher, "fusion": fusion, "target": target}
        pooled = {
            name: self.projections["fusion" if name == "target" else name](output.features["pooled_feat"])
            for name, output in all_of.items()
        }
        nce = logit = student.logits.new_zeros(())
        scale = self.log_scale.exp().clamp(max=100)
        for learner, of in (("student", "teacher"), ("fusion", "teacher"), ("student", "target")):
            nce = nce + info_nce(pooled[learner], pooled[of], scale)
            logit = logit + ofakd_loss(all_of[learner].logits, all_of[of].logits, batch.classes, self.eps)
        logit = logit + F.cross_entropy(fusion.logits, batch.labels)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "nce": distillation(nce, self.nce_weight),
            "logit": distillation(logit, self.logit_weight),
        }
