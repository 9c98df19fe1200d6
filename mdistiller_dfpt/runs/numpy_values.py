"""NumPy's numbers in a `torch.save` file, made here from their bytes: its own reader believes flags about memory."""

import re
from typing import Any

import numpy as np

KINDS = re.compile(r"[<>=|]?(b1|\?|[iu][1248]|f[248]|c8|c16)")  # numbers; others hold objects, or texts of any length
ORDERS = ("<", ">", "=", "|")


class Kind:
    """In the place of a dtype of numbers; ValueError for another, and for what else its state may set."""

    def __init__(self, code: str, align: Any = False, copy: Any = False):
        if not isinstance(code, str) or not KINDS.fullmatch(code):
            raise ValueError("a value of NumPy that is no number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        version, order, *others = state
        if (version, others) != (3, [None, None, None, -1, -1, 0]) or order not in ORDERS:
            raise ValueError("a dtype of NumPy that its own writer does not write")
        self.dtype = self.dtype.newbyteorder(order)


class Values:
    """In the place of an array, whose values are not needed."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def scalar(kind: Any, content: Any) -> Any:
    """The number of these bytes."""
    if not isinstance(kind, Kind) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise ValueError("a number of NumPy that its own writer does not write")
    return np.frombuffer(content, kind.dtype)[0]


ALLOWED: list[Any] = [
    (Values, "numpy.ndarray"),
    (Kind, "numpy.dtype"),
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")  # before and since NumPy 2
      for name, function in (("scalar", scalar), ("_reconstruct", Values))),
]  # fmt: skip
"""As `torch.serialization.safe_globals` takes them."""
