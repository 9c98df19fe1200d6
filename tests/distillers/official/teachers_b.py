"""Kinds of teacher without a trained network, and teachers that are fine-tuned before they teach."""

from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.mcmi import conditional_information
from mdistiller_dfpt.teachers.previous_epoch import softened_labels
from mdistiller_dfpt.teachers.smoothed import virtual_probabilities

from ...golden import labels, normal
from .cases import Found, case, found, learned


@case("previous_epoch", "pskd_epoch5of10", "pskd_epoch10of10")
def _(name: str) -> Found:
    (student,) = learned(normal(1))
    epoch = int(name.removeprefix("pskd_epoch").removesuffix("of10"))
    target = softened_labels(normal(2), labels(), 0.8 * epoch / 10)
    entropy = -(target.exp() * target).sum(1).mean()
    return found(kd_loss(student, target, 1.0) + entropy, [student])


@case("smoothed", "tfkd_reg_a0.1_T20", "tfkd_reg_a0.95_T40")
def _(name: str) -> Found:
    (student,) = learned(normal(1))
    alpha, temperature = (float(part[1:]) for part in name.split("_")[2:])
    multiplier = {0.1: 100, 0.95: 1}[alpha]
    target = virtual_probabilities(labels(), 100, 0.99).double() / temperature
    loss = (1 - alpha) * F.cross_entropy(student, labels())
    return found(loss + alpha * multiplier / 100 * kd_loss(student, target, 1.0), [student])


@case("KD", "tfkd_self_a0.95_T6")
def _() -> Found:
    (student,) = learned(normal(1))
    loss = 0.05 * F.cross_entropy(student, labels()) + 0.475 * kd_loss(student, normal(2), 6.0)
    return found(loss, [student])


@case("MCMI", "mcmi_w-0.25")
def _() -> Found:
    (network,) = learned(normal(1))
    information = conditional_information(network, normal(2).softmax(1))
    return found(F.cross_entropy(network, labels()) - 0.25 * information, [network])
