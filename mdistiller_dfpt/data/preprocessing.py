"""How one image becomes the input of a network, as the test images of a dataset do; kept with the weights."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tf

from ..errors import CheckpointError, DataError
from ..json_form import PREPROCESSING, fault_of

INTERPOLATIONS = ("bilinear", "bicubic")
TURNS = dict(enumerate((
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
), start=2))  # fmt: skip
"""What sets an image upright, by the number of its orientation in the EXIF data; 1: nothing."""


class Preprocessing(NamedTuple):
    """Resize and crop of an RGB image, then (image / 255 - mean) / std, then a resize of the result.

    `resize`: one number for the shorter side, or height and width; None: none. Its interpolation is `interpolation`,
    that of the last resize bilinear; both with antialiasing. `upright`: first, it is turned as its EXIF data say.
    """

    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None  # of the centre
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]  # height and width that the network gets
    interpolation: str = "bilinear"
    upright: bool = False

    def __call__(self, image: Image.Image) -> Tensor:
        """An image -> (3, H, W) float32."""
        return self.normalised(self.cropped(image))

    def cropped(self, image: Image.Image) -> Image.Image:
        """An image, resized and cropped; DataError as of `as_rgb`."""
        image = as_rgb(upright(image) if self.upright else image)
        if self.resize is not None:
            image = tf.resize(image, list(self.resize), v2.InterpolationMode(self.interpolation), antialias=True)
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
        fault = fault_of(values, PREPROCESSING)
        if not fault and values["resize"] is not None and len(values["resize"]) not in (1, 2):
            fault = f"resize is {values['resize']}"
        if not fault and min(values["std"]) <= 0:
            fault = f"std is {values['std']}"
        if fault:
            raise CheckpointError(f"its preprocessing cannot be read ({fault})")
        # Files of earlier versions do not name all
        found = {key: values[key] for key in cls._fields if key in values}
        found = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
        return cls(**found)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB of 8 bits; DataError for values of no fixed range: 32 bits, floating point.

    Of 16 bits, the higher 8 are taken, as Pillow does in colour; of grey ones, it cuts values off at 255. The rotation
    in the EXIF data stays.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        shallow = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation_of(image)
        shallow.info["exif"] = exif.tobytes()
        return shallow
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise DataError(f"its pixels are {kind}, whose range is not known: convert it to 8 or 16 bits")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels_of(view: Image.Image | Tensor) -> Tensor:
    """A picture, or (3, H, W) uint8 -> (H, W, 3) uint8; TypeError for other tensors."""
    if not isinstance(view, Tensor):
        return torch.from_numpy(np.array(as_rgb(view)))
    if view.dtype != torch.uint8 or view.ndim != 3 or len(view) != 3:
        raise TypeError(f"a transform returned {tuple(view.shape)} {view.dtype}; it must return a PIL image or"
                        " (3, H, W) torch.uint8: leave out ToTensor and Normalize")  # fmt: skip
    return view.permute(1, 2, 0)


def picture_of(view: Image.Image | Tensor) -> Image.Image:
    """A picture, or (3, H, W) uint8 -> a picture."""
    return tf.to_pil_image(view) if isinstance(view, Tensor) else view


def upright(image: Image.Image) -> Image.Image:
    """An image, turned and mirrored as its EXIF data say."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)  # `exif_transpose` writes the data anew, and may fail


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What sets an image upright; None if it is."""
    return TURNS.get(orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The number of an image's orientation in its EXIF data; 1 if it has none, or if they cannot be read.

    A TIFF file is decoded first: Pillow turns it then, and it has none any more.
    """
    if image.format == "TIFF":
        image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many types for damaged data
        return 1
    return orientation if isinstance(orientation, int) and orientation in TURNS else 1


class Steps(NamedTuple):
    """A resize and a centre crop, and the interpolation of the resize; `upright`: first turned by its EXIF data."""

    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None
    interpolation: str = "bilinear"
    upright: bool = False


def steps_of(transform: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The transforms that one consists of, in order."""
    if not isinstance(transform, v2.Compose):
        return [transform]
    return [step for part in transform.transforms for step in steps_of(part)]


def resize_and_crop(transform: Callable[..., Any]) -> Steps | None:
    """The resize and the centre crop that a test transform consists of; None if it does something else."""
    steps = steps_of(transform)
    turned = steps[:1] == [upright]
    if turned:
        del steps[0]
    resize, crop, interpolation = None, None, "bilinear"
    for step in steps:
        if isinstance(step, v2.Identity):
            continue
        if isinstance(step, v2.Resize) and resize is None and crop is None and is_plain(step) and step.max_size is None:
            resize = tuple(step.size) if step.size is not None else None
            interpolation = interpolation_of(step)
        elif isinstance(step, v2.CenterCrop) and crop is None:
            crop = (step.size[0], step.size[-1])
        else:
            return None
    return Steps(resize, crop, interpolation, turned)


def is_plain(step: v2.Resize | v2.RandomResizedCrop) -> bool:
    """Whether a step resizes by one of INTERPOLATIONS, with antialiasing."""
    return interpolation_of(step) in INTERPOLATIONS and step.antialias is not False


def interpolation_of(step: Any) -> str:
    """The name of a step's interpolation."""
    return getattr(step.interpolation, "value", step.interpolation)  # an enumeration or its value, by version


def adjusted(transform: Callable[..., Any], interpolation: str | None, scale: float | None) -> Callable[..., Any]:
    """A transform whose resizes have another interpolation, and whose random crops cover at least a share of an image.

    None: as they are. ValueError if there is nothing to change.
    """
    steps = steps_of(transform)
    crops = [i for i, step in enumerate(steps) if isinstance(step, v2.RandomResizedCrop)]
    resizes = [i for i, step in enumerate(steps) if isinstance(step, v2.Resize | v2.RandomResizedCrop)]
    if (scale is not None and not crops) or (interpolation is not None and not resizes):
        raise ValueError("no random resized crop" if scale is not None and not crops else "no resize")
    for i in resizes:
        step: Any = copy.copy(steps[i])
        steps[i] = step
        if interpolation is not None:
            step.interpolation = v2.InterpolationMode(interpolation)
        if scale is not None and i in crops:
            step.scale = (scale, 1.0)
    return v2.Compose(steps)


def turned_first(transform: Callable[..., Any]) -> Callable[..., Any]:
    """A transform of images that are first turned by their EXIF data."""
    return v2.Compose([upright, *steps_of(transform)])
