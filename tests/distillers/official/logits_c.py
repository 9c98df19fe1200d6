"""Methods on logits of 2023 to 2025."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.abkd import abkd_loss
from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.eakd import entropy_weights
from mdistiller_dfpt.distillers.ldrld import ldrld_loss
from mdistiller_dfpt.distillers.luminet import luminet_loss
from mdistiller_dfpt.distillers.normkd import normkd_loss
from mdistiller_dfpt.distillers.rld import rld_loss
from mdistiller_dfpt.distillers.sdd import region_logits, sdd_loss
from mdistiller_dfpt.distillers.ttm import ttm_loss, wttm_loss
from mdistiller_dfpt.distillers.wkd import class_distances, gaussian_loss, target_loss, transport_loss
from mdistiller_dfpt.losses.logit_losses import per_sample, standardized
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ...golden import labels, normal
from .cases import LISTED, Found, case, found, learned, of_logits, unit

LISTED["abkd_a0.5_b-0.5_T4"] = (
    "ABKD", "by design: where alpha + beta is 0, the limit of the general case; the code's lacks a factor 1/alpha",
)  # fmt: skip

of_logits("RLD", "rld_a1_b8_T4", lambda s, t: rld_loss(s, t, labels(), 1.0, 8.0, 4.0, 4.0))
of_logits("RLD", "rld_a2_b3_T2_at1", lambda s, t: rld_loss(s, t, labels(), 2.0, 3.0, 2.0, 1.0))
of_logits(
    "RLD", "rld_ls_a9_b72_T2",
    lambda s, t: rld_loss(standardized(s), standardized(t), labels(), 9.0, 72.0, 2.0, 2.0),
)  # fmt: skip
for gamma in (0.1, 0.6):
    of_logits("TTM", f"ttm_g{gamma}", lambda s, t, gamma=gamma: ttm_loss(s, t, gamma))
    of_logits("WTTM", f"wttm_g{gamma}", lambda s, t, gamma=gamma: wttm_loss(s, t, gamma))
of_logits("LUMINET", "luminet_a33_T4", lambda s, t: luminet_loss(s, t, 33.0, 4.0))
of_logits("LUMINET", "luminet_a2_T0.7", lambda s, t: luminet_loss(s, t, 2.0, 0.7))
for factor in (1.0, 2.0):
    of_logits("NORMKD", f"normkd_t{factor:g}", lambda s, t, factor=factor: normkd_loss(s, t, factor))
for k, temperature in ((7, 4.0), (3, 2.0)):
    for i, part in enumerate(("local", "rest")):
        of_logits(
            "LDRLD", f"ldrld_{part}_k{k}_T{temperature:g}",
            lambda s, t, i=i, k=k, temperature=temperature: ldrld_loss(s, t, k, temperature)[i],
        )  # fmt: skip


@case("RLD", "rld_all_masked")
def _() -> Found:
    (student,), teacher, target = learned(normal(1)), normal(2), labels()
    target[0], target[1] = teacher[0].argmin(), teacher[1].argmax()
    return found(rld_loss(student, teacher, target, 1.0, 8.0, 4.0, 4.0), [student])


@case("LDRLD", "ldrld_total")
def _() -> Found:
    (student,), batch = learned(normal(1)), replace(tiny_batch(8), target=labels())
    terms = tiny_distiller("LDRLD").losses(Output(student, {}), Output(normal(2), {}), batch)
    return found(total(terms), [student])


def wkd_l(temperature: float, gamma: float) -> Found:
    size = unit(100, 100, 100).abs()
    cost = (1 - (-(size + size.T) / 4).exp()).fill_diagonal_(0)
    (student,), teacher = learned(normal(1)), normal(2)
    transport = transport_loss(student, teacher, labels(), cost, temperature, 0.05, 10)
    return found(target_loss(student, teacher, labels()) + gamma * transport, [student])


case("WKD", "wkd_l_T8_g600")(lambda: wkd_l(8.0, 600.0))
case("WKD", "wkd_l_T2_g30")(lambda: wkd_l(2.0, 30.0))


def wkd_f(grid: int, size: int) -> Found:
    (student,) = learned(unit(101, 4, 6, size, size))
    mean, deviation = gaussian_loss(student, unit(102, 4, 6, size, size), grid, 1e-5)
    return found(3 * mean + deviation, [student])


case("WKD", "wkd_f_grid1")(lambda: wkd_f(1, 4))
case("WKD", "wkd_f_grid3")(lambda: wkd_f(3, 8))
case("WKD", "wkd_f_grid4")(lambda: wkd_f(4, 8))


@case("WKD", "wkd_cka")
def _() -> Found:
    distances = class_distances(unit(103, 5, 12, 7))
    return {"value": distances.sum().item(), "rows": distances.sum(1).tolist()}


def eakd(student: Tensor, teacher: Tensor, loss: str, bound: float) -> Tensor:
    weights = entropy_weights(student, teacher, 3.0, bound)
    return (weights * per_sample(LOGIT_LOSSES[loss], student, teacher, labels(), 4.0)).mean()


for bound, value in (("log100", math.log(100)), ("100", 100.0)):
    of_logits("EAKD", f"eakd_kd_T4_t3_H{bound}", lambda s, t, value=value: eakd(s, t, "KD", value))
    of_logits("EAKD", f"eakd_dkd_a1_b8_T4_H{bound}", lambda s, t, value=value: eakd(s, t, "DKD", value))

for alpha, beta in ((0.8, 0.3), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.2, -0.2)):
    of_logits(
        "ABKD", f"abkd_a{alpha:g}_b{beta:g}_T4",
        lambda s, t, alpha=alpha, beta=beta: abkd_loss(s, t, alpha, beta, 4.0),
    )  # fmt: skip


def sdd(loss: str, grids: list[int]) -> Found:
    classifiers = nn.Linear(12, 10).double(), nn.Linear(20, 10).double()
    for classifier, seed in zip(classifiers, (110, 112), strict=True):
        classifier.load_state_dict({"weight": unit(seed, *classifier.weight.shape), "bias": unit(seed + 1, 10)})
    (student,), teacher = learned(unit(115, 8, 12, 8, 8)), 3 * unit(116, 8, 20, 4, 4)
    target = torch.from_numpy(np.random.default_rng(114).integers(0, 10, 8))
    regions = [region_logits(x, head, grids) for x, head in zip((student, teacher), classifiers, strict=True)]
    return found(sdd_loss(regions[0], regions[1].detach(), target, LOGIT_LOSSES[loss], 4.0), [student])


for name in ("kd", "dkd"):
    case("SDD", f"sdd_{name}_12")(lambda name=name: sdd(name.upper(), [1, 2]))
    case("SDD", f"sdd_{name}_124")(lambda name=name: sdd(name.upper(), [1, 2, 4]))


@case("CRLD", "crld_total")
def _() -> Found:
    weak, strong = learned(normal(1), normal(80))
    views = {"teacher": 4 * normal(2), "student_strong": strong, "teacher_strong": normal(81)}
    batch = replace(tiny_batch(8), target=labels())
    terms = tiny_distiller("CRLD").both_views(Output(weak, {}), {k: Output(v, {}) for k, v in views.items()}, batch)
    return found(total(terms), [weak, strong])
