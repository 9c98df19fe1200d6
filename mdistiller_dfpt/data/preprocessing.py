"""How one image becomes the input of a network, as the test images of a dataset do; kept with the weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tf

from ..errors import CheckpointError


class Preprocessing(NamedTuple):
    """Resize and crop of an RGB image, then (image / 255 - mean) / std, then a resize of the result.

    `resize`: one number for the shorter side, or height and width; None: none. All resizes are bilinear with
    antialiasing.
    """

    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None  # of the centre
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]  # height and width that the network gets

    def __call__(self, image: Image.Image) -> Tensor:
        """An image -> (3, H, W) float32."""
        return self.normalised(self.cropped(image))

    def cropped(self, image: Image.Image) -> Image.Image:
        """An image, resized and cropped."""
        image = image.convert("RGB")
        if self.resize is not None:
            image = tf.resize(image, list(self.resize), antialias=True)
        return image if self.crop is None else tf.center_crop(image, list(self.crop))

    def normalised(self, image: Image.Image) -> Tensor:
        """A resized and cropped image -> (3, H, W) float32."""
        pixels = tf.pil_to_tensor(image)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        pixels = (pixels / 255 - mean) / std
        if tuple(pixels.shape[1:]) == self.size:
            return pixels
        return F.interpolate(pixels[None], self.size, mode="bilinear", antialias=True)[0]

    def as_json(self) -> dict[str, Any]:
        """As plain values; `from_json` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self._asdict().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """CheckpointError if these are not the values of a preprocessing."""
        try:
            found = {key: None if values[key] is None else tuple(values[key]) for key in cls._fields}
            if None in (found["mean"], found["std"], found["size"]):
                raise ValueError("no mean, std or size")
            return cls(**found)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"its preprocessing cannot be read ({type(e).__name__}: {e})") from None


def resize_and_crop(transform: Callable[..., Any]) -> tuple[tuple[int, ...] | None, tuple[int, int] | None] | None:
    """The resize and the centre crop that a test transform consists of; None if it does something else."""
    steps = list(transform.transforms) if isinstance(transform, v2.Compose) else [transform]
    resize, crop = None, None
    for step in steps:
        if isinstance(step, v2.Identity):
            continue
        if isinstance(step, v2.Resize) and resize is None and crop is None and _is_bilinear(step):
            resize = tuple(step.size) if step.size is not None else None
        elif isinstance(step, v2.CenterCrop) and crop is None:
            crop = (step.size[0], step.size[-1])
        else:
            return None
    return resize, crop


def _is_bilinear(step: v2.Resize) -> bool:
    name = getattr(step.interpolation, "value", step.interpolation)  # an enumeration or its value, by version
    return name == "bilinear" and step.max_size is None and step.antialias is not False
