"""Kinds of teacher that change or multiply one network."""

from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.teachers.noisy import Noisy, perturbed

from ...golden import normal
from .cases import Found, case, found, learned, unit


@case("noisy", "tekap_logits_T4")
def _() -> Found:
    (student,), teacher, values = learned(normal(1)), normal(2), keywords(Noisy.config)
    targets = [perturbed(teacher, unit(seed, 8, 100), values["kept"], values["std"]) for seed in (5, 6, 7)]
    noisy = sum(kd_loss(student, target, 4.0) for target in targets)
    return found(kd_loss(student, teacher, 4.0) + values["weight"] * noisy, [student])
