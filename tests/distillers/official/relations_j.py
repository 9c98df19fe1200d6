"""Relations of samples, tokens and gradients."""

from mdistiller_dfpt.distillers.diswot import classifier_gradient, semantic_loss
from mdistiller_dfpt.distillers.sp import sp_loss

from ...golden import labels
from .cases import Found, case, found, learned, unit


@case("DISWOT", "diswot_relation")
def _() -> Found:
    (student,) = learned(unit(12, 8, 64, 4, 4))
    return found(sp_loss(student, unit(22, 8, 96, 4, 4)), [student])


@case("DISWOT", "diswot_semantic", "diswot_semantic_sure")
def _(name: str) -> Found:
    (student,), teacher = learned(unit(40, 8, 64)), unit(44, 8, 64)
    scale = 1.0 if name.endswith("sure") else 0.2
    mine = classifier_gradient(student @ (scale * unit(84, 100, 64)).T, student, labels())
    its = classifier_gradient(teacher @ (0.2 * unit(85, 100, 64)).T, teacher, labels())
    return found(semantic_loss(mine, its), [student])
