"""Unpickles only numpy arrays and plain containers: no other name in a file is ever looked up or called."""

import io
import pickle
from typing import Any

import numpy as np

from ..errors import DataError

_reconstruct = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin-1"),
}


class _ArrayUnpickler(pickle.Unpickler):  # noqa: S301  restricted to arrays
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def load_arrays(raw: bytes, origin: str) -> Any:
    """The containers and arrays in `raw`; DataError naming `origin` if it contains anything else."""
    try:
        return _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
    except Exception as e:  # a damaged pickle can raise almost any exception
        raise DataError(f"{origin}: not a file of arrays ({e}); nothing was executed") from None
