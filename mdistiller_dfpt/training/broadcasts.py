"""A loss over tensors of different shapes is refused: PyTorch would stretch one of them, and only warn."""

import contextlib
import warnings
from collections.abc import Iterator

from ..errors import ConfigError

_PYTORCHS_WORDS = "Using a target size"  # of mse_loss, l1_loss and their like


@contextlib.contextmanager
def broadcasts_refused() -> Iterator[None]:
    """Inside, PyTorch's warning of such a loss is a ConfigError that names both shapes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_PYTORCHS_WORDS)
        try:
            yield
        except UserWarning as e:
            if not str(e).startswith(_PYTORCHS_WORDS):
                raise
            reason = " ".join(str(e).split()).split(". ")[0]
            raise ConfigError(f"a loss compares tensors of different shapes: {reason}; align them first") from None
