"""The normalisation of images: a mean and a standard deviation per channel, for values from 0 to 1."""

from typing import NamedTuple


class Normalisation(NamedTuple):
    """(image - mean) / std, for red, green and blue."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:g}" for v in values) for values in self)
        return f"mean {mean}, std {std}"
