"""Methods on logits of 2024 and 2025."""

from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.pld import pld_loss
from mdistiller_dfpt.distillers.sinkd import sinkd_loss
from mdistiller_dfpt.losses.logit_losses import entropy

from ...golden import labels, normal
from .cases import Found, case, found, learned, of_logits

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
