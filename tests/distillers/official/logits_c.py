"""Methods on logits of 2023 to 2025."""

from dataclasses import replace

from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.ldrld import ldrld_loss
from mdistiller_dfpt.distillers.luminet import luminet_loss
from mdistiller_dfpt.distillers.normkd import normkd_loss
from mdistiller_dfpt.distillers.rld import rld_loss
from mdistiller_dfpt.distillers.ttm import ttm_loss, wttm_loss
from mdistiller_dfpt.losses.logit_losses import standardized
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ...golden import labels, normal
from .cases import Found, case, found, learned, of_logits

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
