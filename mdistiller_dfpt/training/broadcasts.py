"""Rejects a loss between tensors of different shapes: PyTorch would broadcast them and only warn."""

import contextlib
import warnings
from collections.abc import Iterator

from ..errors import ConfigError, users_line

_WARNING = "Using a target size"  # of mse_loss, l1_loss and similar losses


@contextlib.contextmanager
def broadcasts_refused() -> Iterator[None]:
    """Context in which PyTorch's warning about such a loss becomes a ConfigError that names both shapes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_WARNING)
        try:
            yield
        except UserWarning as e:
            if not str(e).startswith(_WARNING):
                raise
            reason = " ".join(str(e).split()).split(". ")[0]
            where = "{}:{}: ".format(*place) if (place := users_line(e)) else ""
            raise ConfigError(
                f"{where}a loss compares tensors of different shapes: {reason}; align them first"
            ) from None
