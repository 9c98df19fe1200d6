"""Random resized crops of files: JPEG files are decoded no larger than the crop needs.

libjpeg-turbo decodes at 1/2, 1/4 or 1/8 of an image's size by smaller transforms of its blocks. The crop is the one
that torchvision's transform draws, and what is cut stays at least as large as the output, to which PyTorch resizes it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from ..errors import ConfigError
from .image_files import FileRecipe
from .preprocessing import as_rgb, interpolation_of, is_plain, picture_of, steps_of, turn_of, upright
from .read_image import Fault, read_by
from .samples import Unreadable

FACTORS = (8, 4, 2)
ACROSS = (
    Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270,
)  # fmt: skip
"""What makes the width of an image its height."""
ON_TENSORS = (v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.Identity)
"""The transforms that do the same to a picture and to a tensor, bit for bit."""


class ScaledCrop:
    """The random resized crop of a transform, of the path of a file: (3, H, W) uint8.

    `turned`: the image is first turned as its EXIF data say. Unreadable if the file is no image.
    """

    packages = ("torchvision", "simplejpeg")  # whose code it calls

    def __init__(self, crop: v2.RandomResizedCrop, turned: bool):
        try:
            import simplejpeg
        except ModuleNotFoundError:
            raise ConfigError("DATASET.DECODE fast needs simplejpeg: pip install simplejpeg") from None
        self.crop, self.turned, self.decode_jpeg = crop, turned, simplejpeg.decode_jpeg

    def __call__(self, path: str) -> Tensor:
        view = read_by(path, self.view)
        if isinstance(view, Fault):
            raise Unreadable(view)
        return view

    def view(self, image: Image.Image) -> Tensor:
        """The crop of an image of which only the header is read yet."""
        turn = turn_of(image) if self.turned else None
        width, height = reversed(image.size) if turn in ACROSS else image.size
        # Before anything else is drawn, as torchvision's transform does
        drawn = self.crop.make_params([torch.empty(0, height, width)])
        lengths = drawn["height"], drawn["width"]
        room = min(length // least for length, least in zip(lengths, self.crop.size, strict=True))
        factor = next((f for f in FACTORS if f <= room), 1)
        pixels = self.decoded(image, factor)
        if pixels is None:  # by Pillow, which decodes or refuses it
            factor, pixels = 1, np.array(as_rgb(image))
        if turn is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(turn))
        rows, columns = (
            slice((2 * start + factor) // (2 * factor), (2 * (start + length) + factor) // (2 * factor))
            for start, length in zip((drawn["top"], drawn["left"]), lengths, strict=True)
        )
        part = torch.from_numpy(pixels[rows, columns]).permute(2, 0, 1)[None]
        return F.interpolate(part, self.crop.size, mode=interpolation_of(self.crop), antialias=True)[0]

    def decoded(self, image: Image.Image, factor: int) -> np.ndarray | None:
        """The pixels (H, W, 3) of a JPEG file at 1/factor of its size; None if simplejpeg does not decode it."""
        if not isinstance(image, JpegImageFile) or image.mode not in ("RGB", "L"):
            return None
        assert image.fp is not None
        image.fp.seek(0)
        width, height = (-(-length // factor) for length in image.size)
        try:
            return self.decode_jpeg(image.fp.read(), min_height=height, min_width=width)
        except ValueError:
            return None


def decoded_in_crops(recipe: FileRecipe) -> FileRecipe:
    """The recipe whose training images are decoded by `ScaledCrop`; ValueError if it has no random resized crop."""
    steps = steps_of(recipe.train)
    turned = steps[:1] == [upright]
    crop, *rest = steps[turned:]
    if not isinstance(crop, v2.RandomResizedCrop) or not is_plain(crop):
        raise ValueError("does not begin with a random resized crop, bilinear or bicubic")
    on_pictures = next((i for i, step in enumerate(rest) if not isinstance(step, ON_TENSORS)), len(rest))
    if on_pictures < len(rest):
        rest.insert(on_pictures, picture_of)
    train: Callable[..., Any] = v2.Compose([ScaledCrop(crop, turned), *rest])
    return recipe._replace(train=train, words=f"{recipe.words}, decoded in crops", by_path=True)
