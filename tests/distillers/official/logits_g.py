"""Methods on logits of 2024 and 2025."""

import torch
from torch import nn
from torch.nn import functional as F

from mdistiller_dfpt.distillers.dhkd import auxiliary_head, dhkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.pld import pld_loss
from mdistiller_dfpt.distillers.sinkd import sinkd_loss
from mdistiller_dfpt.losses import distillation, label
from mdistiller_dfpt.losses.logit_losses import entropy
from mdistiller_dfpt.training.projected import backward_projected

from ...golden import golden_state, labels, normal
from .cases import LISTED, Found, case, found, learned, of_logits, unit

LISTED["dhkd_T0.3"] = ("DHKD", "by design: a probability within 1e-8 of 0 or 1, which the code clamps, has a gradient")

of_logits("SINKD", "sinkd_eps0.1_n20_T2", lambda s, t: 0.001 * len(s) * sinkd_loss(s, t, 2.0, 0.1, 20))
of_logits("SINKD", "sinkd_eps0.5_n3", lambda s, t: len(s) * sinkd_loss(s, t, 3.0, 0.5, 3))


@case("SINKD", "sinkd_total")
def _() -> Found:
    """Their KD is without its factor T^2, and with the teacher's entropy."""
    (student,), teacher = learned(normal(1)), normal(2)
    kd = kd_loss(student, teacher, 3.5) / 3.5**2 + entropy(teacher / 3.5).mean()
    loss = 0.1 * F.cross_entropy(student, labels()) + 0.9 * kd
    return found(loss + 0.8 * 0.001 * len(student) * sinkd_loss(student, teacher, 2.0, 0.1, 20), [student])


for temperature in (1.0, 4.0):
    of_logits(
        "PLD", f"pld_T{temperature:g}",
        lambda s, t, temperature=temperature: pld_loss(s, t, labels(), temperature),
    )  # fmt: skip


for temperature in (2.0, 0.7):
    of_logits("DHKD", f"dhkd_T{temperature:g}", lambda s, t, temperature=temperature: dhkd_loss(s, t, temperature))


@case("DHKD", "dhkd_two_heads")
def _() -> Found:
    (feature,) = learned(unit(40, 8, 64))
    own, other = nn.Linear(64, 100).double(), auxiliary_head(64, 100, "nonlinear").double().train()
    own.load_state_dict(golden_state(own, lambda key: f"fc.{key}"))
    other.load_state_dict(golden_state(other, lambda key: f"fc2.net.{key}"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = F.cross_entropy(own(feature), labels()) + 0.7 * dhkd_loss(other(feature), normal(2), 2.0)
    return found(loss, [feature])


@case("DHKD", "dhkd_aligned_10_steps")
def _() -> Found:
    x, y, z = (nn.Parameter(unit(seed, 5)) for seed in (95, 96, 97))
    optimizer = torch.optim.SGD([x, y, z], lr=0.05, momentum=0.9, weight_decay=0.0005)
    for i in range(10):
        a, b = unit(1000 + i, 5), unit(2000 + i, 5)
        ce = (a * (x + y)).sum() + x.pow(2).sum() + y.pow(2).sum()
        kd = (b * (x + z)).sum() - 0.3 * x.pow(2).sum() + z.pow(2).sum()
        optimizer.zero_grad()
        backward_projected({"ce": label(ce), "kd": distillation(kd)}, [x, y, z], lambda: None)
        optimizer.step()
    parts = {"shared": x, "label_term_alone": y, "distillation_term_alone": z}
    return {name: p.tolist() for name, p in parts.items()}
