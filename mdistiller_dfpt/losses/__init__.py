"""Parts of a loss: named terms with a kind, losses between logits, losses over several processes."""

from .logit_losses import LOGIT_LOSSES, LogitLoss
from .term import Term, Terms, distillation, label, own, own_terms, warm_up

__all__ = ["LOGIT_LOSSES", "LogitLoss", "Term", "Terms", "distillation", "label", "own", "own_terms", "warm_up"]
