"""Kinds of teacher that change or multiply one network."""

import re

import torch
from torch import Tensor

from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.pat import RegionAttention, positions
from mdistiller_dfpt.distillers.reviewkd import hcl_loss, nearest
from mdistiller_dfpt.teachers.adapter import adapter
from mdistiller_dfpt.teachers.noisy import Noisy, perturbed
from mdistiller_dfpt.teachers.prompted import Prompt, projector
from mdistiller_dfpt.teachers.views import (
    feature_inter_loss,
    intra_view_loss,
    logit_inter_loss,
    logit_intra_loss,
    weighted_feature,
    weighted_mean,
)

from ...golden import golden_state, normal
from .cases import Found, case, found, learned, maps, unit


@case("noisy", "tekap_logits_T4")
def _() -> Found:
    (student,), teacher, values = learned(normal(1)), normal(2), keywords(Noisy.config)
    targets = [perturbed(teacher, unit(seed, 8, 100), values["kept"], values["std"]) for seed in (5, 6, 7)]
    noisy = sum(kd_loss(student, target, 4.0) for target in targets)
    return found(kd_loss(student, teacher, 4.0) + values["weight"] * noisy, [student])


SHARES = torch.tensor([1.0, 0.8, 0.8, 0.8], dtype=torch.double)


def feature_views() -> tuple[Tensor, list[Tensor]]:
    feature = unit(41, 8, 64)
    return feature, learned(*(feature + a * unit(50 + i, 8, 64) for i, a in enumerate((0.3, 0.6, 2.0))))


def logit_views(scale: float) -> tuple[Tensor, list[Tensor]]:
    logits = normal(2)
    return scale * logits, learned(*(scale * (logits + a * normal(50 + i)) for i, a in enumerate((0.1, 0.3, 1.0))))


@case("views", "angular_feat_inter", "angular_feat_intra")
def _(name: str) -> Found:
    anchor, views = feature_views()
    loss = feature_inter_loss if name.endswith("inter") else intra_view_loss
    return found(loss(anchor, torch.stack(views, 1)), views)


@case("views", *(f"angular_logit_{which}{peaked}" for which in ("inter", "intra") for peaked in ("", "_peaked")))
def _(name: str) -> Found:
    anchor, views = logit_views(30.0 if name.endswith("peaked") else 1.0)
    loss = logit_inter_loss if "inter" in name else logit_intra_loss
    return found(loss(anchor, torch.stack(views, 1), 4.0), views)


@case("views", "angular_mean")
def _() -> Found:
    """Their weights have unit length and do not sum to 1: as many times the mean, in the gradient of KD too."""
    (anchor, views), (student,) = logit_views(1.0), learned(normal(1))
    times = (SHARES.sum() / SHARES.norm()).item()
    together = weighted_mean(torch.stack([anchor, *views]), SHARES, 4.0)
    gradient = torch.autograd.grad(times * kd_loss(student, together.detach(), 4.0), student)[0]
    value = (times * (together / 4).softmax(1) * unit(9, 8, 100)).sum()
    return found(value, views, kd_grad=gradient.norm().item())


@case("views", "angular_feature")
def _() -> Found:
    feature, views = feature_views()
    return found((weighted_feature(torch.stack([feature, *views]), SHARES) * unit(9, 8, 64)).sum(), views)


@case("adapter", "pesfkd_adapted")
def _() -> Found:
    (feature,), module = learned(unit(41, 8, 64)), adapter(64, 32, 100).double()
    theirs = ("l1.0", "adapter.0", "", "adapter.2")
    module.load_state_dict(golden_state(module, lambda key: f"{theirs[int(key[0])]}{key[1:]}"))
    return found(((normal(2) - module(feature)) * unit(9, 8, 100)).sum(), [feature])


@case("PAT", "pat_aligned")
def _() -> Found:
    student, teacher = learned(*maps(10)), maps(20)
    attention = RegionAttention([tuple(x.shape[1:]) for x in student], 4, 32, 8).double()
    state = golden_state(
        attention,
        lambda key: "attention_blending." + re.sub(r"^patches\.(\d)\.", r"projector_s.\1.projector.", key),
    )
    attention.load_state_dict(state)
    aligned = []
    # The authors index the encodings by the place in the batch
    for i, x in enumerate(attention(student, positions(8, 32).double()[:, None])):
        align = projector(32, teacher[i].shape[1]).double()
        align.load_state_dict(golden_state(align, lambda key, i=i: f"aligners.{i}.conv.{key}"))
        aligned.append(align(nearest(x, teacher[i].shape[2:])))
    return found(hcl_loss(aligned, teacher), student)


@case("PAT", "pat_prompt_feedback", "pat_prompt_alone")
def _(name: str) -> Found:
    x, feedback = learned(unit(21, 8, 48, 8, 8), unit(22, 8, 96, 4, 4))
    prompt = Prompt(48, 96).double()
    theirs = {"align": "fb_aligner.conv", "fusion": "fusion_block", "block": "prompt_block"}
    prompt.load_state_dict(golden_state(prompt, lambda key: re.sub(r"^\w+(?=\.)", lambda m: theirs[m[0]], key)))
    inputs = [x, feedback] if name.endswith("feedback") else [x]
    return found((prompt(x, feedback if len(inputs) == 2 else None) * unit(9, 8, 48, 8, 8)).sum(), inputs)
