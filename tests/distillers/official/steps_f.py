"""Methods that change how a step is taken, or whose state each step changes."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.taid import TAID, taid_loss
from mdistiller_dfpt.losses import Terms, distillation, label
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller
from mdistiller_dfpt.training.several_momenta import backward_by_group
from mdistiller_dfpt.training.three_momenta import ThreeMomentaSGD

from ...golden import labels, normal
from .cases import Found, case, found, learned, of_logits, unit

# The words of the config, and the epoch
DEEPKD = {
    "deepkd_kd_T4": (("CE_WEIGHT", "0.5", "BETA", "1.0", "WARMUP", "0", "COUPLED", "True"), 1),
    "deepkd_dkd_a1_b8_T4_epoch5": ((), 5),
    "deepkd_dkd_top20": (("ALPHA", "1.5", "BETA", "2.0", "TOPK", "[20]"), 40),
    "deepkd_dkd_top5": (("ALPHA", "1.5", "BETA", "2.0", "TOPK", "[5]"), 40),
    "deepkd_dkd_top5_target_first": (("TOPK", "[5]"), 40),
    "deepkd_crld_dkd": (("BETA", "2.0"), 5),
    "deepkd_crld_top10": (("BETA", "0.5", "TOPK", "[10]"), 40),
}


def in_parts(terms: Terms, inputs: list[Tensor]) -> Found:
    """The labels' terms, those of the target and those of the others; the loss is their sum."""
    parts = [("label", None), ("distillation", "target"), ("distillation", "others")]
    values = [total({n: t for n, t in terms.items() if (t.kind, t.part) == part}).item() for part in parts]
    return found(total(terms), inputs, parts=values)


@case("DEEPKD", *(name for name in DEEPKD if "crld" not in name))
def _(name: str) -> Found:
    words, epoch = DEEPKD[name]
    distiller = tiny_distiller("DEEPKD", *(f"DEEPKD.{w}" if w.isupper() else w for w in words))
    (student,), teacher = learned(normal(1)), normal(2)
    if name.endswith("target_first"):
        teacher[torch.arange(4), labels()[:4]] += 12
    batch = replace(tiny_batch(8, epoch=epoch), target=labels())
    return in_parts(distiller.losses(Output(student, {}), Output(teacher, {}), batch), [student])


@case("DEEPKD_CRLD", *(name for name in DEEPKD if "crld" in name))
def _(name: str) -> Found:
    words, epoch = DEEPKD[name]
    distiller = tiny_distiller("DEEPKD_CRLD", *(f"DEEPKD_CRLD.{w}" if w.isupper() else w for w in words))
    weak, strong = learned(normal(1), normal(80))
    views = {"teacher": 4 * normal(2), "student_strong": strong, "teacher_strong": normal(81)}
    batch = replace(tiny_batch(8, epoch=epoch), target=labels())
    terms = distiller.both_views(Output(weak, {}), {k: Output(v, {}) for k, v in views.items()}, batch)
    return in_parts(terms, [weak, strong])


@case("DEEPKD", "deepkd_3_steps", "deepkd_10_steps")
def _(name: str) -> Found:
    steps = int(name.split("_")[1])
    x, y = (nn.Parameter(unit(seed, 5)) for seed in (95, 96))
    decay = 0.05 if steps == 3 else 0.0005
    optimizer = ThreeMomentaSGD([x, y], 0.05, 0.9, (0.075, -0.075, 0.075), decay, released=True)
    for i in range(steps):
        a, b, c = (unit(first + i, 5) for first in (1000, 2000, 3000))
        terms = {
            "task": label((a * (x + y)).sum() + x.pow(2).sum() + y.pow(2).sum()),
            "target": distillation((b * (x - y)).sum() + 0.3 * x.pow(4).sum() + y.pow(2).sum(), part="target"),
            "others": distillation((c * (x * y)).sum() + x.pow(2).sum() + 0.3 * y.pow(4).sum(), part="others"),
        }
        optimizer.zero_grad()
        backward_by_group(terms, optimizer, lambda: None, lambda: None)
        optimizer.step()
    return {"x": x.tolist(), "y": y.tolist()}


for t in (0.4, 0.9):
    of_logits("TAID", f"taid_t{t:g}", lambda s, z, t=t: taid_loss(s, z, t, 1.0))

# The words of the config, and the steps of the run
TAID_STEPS = {
    "taid_12_steps": ((), 1000),
    "taid_12_steps_large_alpha": (("T_END", "0.7", "ALPHA", "0.3", "BETA", "0.5"), 1000),
    "taid_12_steps_floor": ((), 12),
    "taid_12_steps_not_adaptive": (("T_START", "0.2", "ADAPTIVE", "False"), 20),
}


@case("TAID", *TAID_STEPS)
def _(name: str) -> Found:
    words, steps = TAID_STEPS[name]
    distiller = tiny_distiller("TAID", "TAID.TEMPERATURE", "1.0", *(f"TAID.{w}" if w.isupper() else w for w in words))
    assert isinstance(distiller, TAID)
    distiller.double()
    distiller.t.copy_(torch.tensor(distiller.rule["start"], dtype=torch.double))  # it was built in float32
    distiller.epochs, distiller.batch_size, distiller.num_trained = 1, 1, steps
    losses, ts = [], []
    for i in range(12):
        student = (1 - i / 12) * normal(1) + i / 12 * normal(2) + 0.1 * normal(10 + i)
        batch = replace(tiny_batch(8, step=i + 1), target=labels())
        losses.append(distiller.losses(Output(student, {}), Output(normal(2), {}), batch)["kd"].value.item())
        distiller.after_step(batch)
        ts.append(distiller.t.item())
    return {"losses": losses, "ts": ts, "momentum": distiller.momentum.item()}
