"""The 15 corruptions of Hendrycks & Dietterich (2019, arXiv:1903.12261) at five severities, for testing alone.

Images of at most 32 pixels get the constants of CIFAR-10-C and CIFAR-100-C, from which `imagecorruptions-imaug`, the
library for larger images, has none; its parts serve here too.
"""

import functools
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConfigError
from ..registry import suggest
from ..regular_files import read_bytes

Pixels = np.ndarray[Any, Any]
SMALL = 32  # height and width up to which the constants of CIFAR-C hold
SEVERITIES = (1, 2, 3, 4, 5)
OF_SEVERITY: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation
    "shot_noise": (500, 250, 100, 75, 50),  # photons of a white pixel
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of values
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),  # radius, blur of the disk's edge
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),  # sigma, distance, passes
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),  # radius, sigma
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),  # end of the zoom factors, which begin at 1 in steps of 0.01
    "snow": (  # mean, deviation, zoom, threshold, radius and sigma of its motion, share of the image
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),  # shares of the image and of the frost
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),  # thickness, decay of its roughness
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added to the value of HSV
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": (  # length and sigma of the displacement, range of the affine part: shares of the height
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
    ),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # share of the width that is left
    "jpeg_compression": (80, 65, 58, 50, 40),  # quality
}  # fmt: skip
"""The constants of CIFAR-C by corruption, for severities 1 to 5; the names are the field's."""


def constants_for(size: tuple[int, int]) -> str:
    """The name of the constants that images of a height and width get."""
    return "CIFAR-C" if max(size) <= SMALL else "ImageNet-C"


def check_corruptions(names: list[str]) -> None:
    """ConfigError if a corruption is unknown, or if the library is not installed."""
    for name in names:
        if name not in OF_SEVERITY:
            raise ConfigError(f"--corruptions: unknown corruption {name!r}; {suggest(name, list(OF_SEVERITY))} (write"
                              " RUN_OR_FILE and settings before this option)")  # fmt: skip
    library()


@functools.cache
def library() -> Any:
    """The module of the corruptions of ImageNet-C; ConfigError if it is not installed."""
    try:
        from imagecorruptions import corruptions
    except ImportError as e:
        extra = 'pip install "mdistiller_dfpt[corruptions]"'
        raise ConfigError(f"--corruptions needs imagecorruptions-imaug: {extra} ({e})") from None
    return corruptions


def corrupted(image: Pixels, name: str, severity: int, index: int, seed: int = 0) -> Pixels:
    """An image (H, W, 3) uint8, corrupted; a function of the seed, the corruption, the severity and its `index`."""
    key = zlib.crc32(f"{seed} {name} {severity} {index}".encode())
    with _seeded(key):
        if max(image.shape) <= SMALL:
            changed = _OF_CIFAR[name](image / 255.0, OF_SEVERITY[name][severity - 1])
            return (255 * np.clip(changed, 0, 1)).astype(np.uint8)
        own = {"seed": key} if name in ("glass_blur", "impulse_noise") else {}  # which draw from a generator of theirs
        changed = getattr(library(), name)(Image.fromarray(image), severity, **own)
        return np.asarray(changed).astype(np.uint8)


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    """Context in which NumPy's global random numbers, which the library draws from, are a function of a key."""
    before = np.random.get_state()
    np.random.seed(key)
    try:
        yield
    finally:
        np.random.set_state(before)


def _gaussian_noise(x: Pixels, c: float) -> Pixels:
    return x + np.random.normal(size=x.shape, scale=c)


def _shot_noise(x: Pixels, c: float) -> Pixels:
    return np.random.poisson(x * c) / c


def _impulse_noise(x: Pixels, c: float) -> Pixels:
    changed, white = np.random.random(x.shape) < c, np.random.random(x.shape) < 0.5
    return np.where(changed, white, x)


def _defocus_blur(x: Pixels, c: tuple[float, float]) -> Pixels:
    import cv2

    return cv2.filter2D(x, -1, library().disk(radius=c[0], alias_blur=c[1]))


def _glass_blur(x: Pixels, c: tuple[float, int, int]) -> Pixels:
    """Each pixel becomes one of its neighbours, between two slight blurs; from the last pixel to the first."""
    sigma, distance, passes = c
    x = (255 * _blurred(x, sigma)).astype(np.uint8)
    rows, columns = (range(side - distance, distance, -1) for side in x.shape[:2])
    for _ in range(passes):
        steps = np.random.randint(-distance, distance, size=(len(rows), len(columns), 2)).tolist()
        for row, of_row in zip(rows, steps, strict=True):
            for column, (dx, dy) in zip(columns, of_row, strict=True):
                x[row, column] = x[row + dy, column + dx]
    return _blurred(x / 255.0, sigma)


def _blurred(x: Pixels, sigma: float, **options: Any) -> Pixels:
    from skimage.filters import gaussian

    return gaussian(x, sigma=sigma, channel_axis=-1 if x.ndim == 3 else None, **options)


def _moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Motion blur as ImageMagick computes it: the weighted mean of copies moved along a line, with edges continued."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        shifts = i * np.sin(np.deg2rad(angle)), i * np.cos(np.deg2rad(angle))
        rows, columns = (
            np.clip(np.arange(side) + int(np.ceil(shift - 0.5)), 0, side - 1)
            for side, shift in zip(x.shape, shifts, strict=False)
        )
        total += weight * x[rows[:, None], columns]
    return total


def _motion_blur(x: Pixels, c: tuple[int, float]) -> Pixels:
    return _moved(x, *c, angle=np.random.uniform(-45, 45))


def _zoom_blur(x: Pixels, c: float) -> Pixels:
    """The mean of an image and its zooms, each a product of the image with a matrix on either side."""
    down, across = (_zooms(side, c) for side in x.shape[:2])
    zoomed = np.stack([(down @ x[..., k] @ across.transpose(0, 2, 1)).sum(0) for k in range(3)], -1)
    return (x + zoomed) / (len(down) + 1)


@functools.cache
def _zooms(side: int, end: float) -> Pixels:
    """The matrices (K, side, side) of the zooms by 1, 1.01, ... below `end` along one axis."""
    units = np.repeat(np.eye(side)[:, None], side, axis=1)  # one image for each position, in place of channels
    return np.stack([library().clipped_zoom(units, f)[:side, 0] for f in np.arange(1, end, 0.01)])


def _snow(x: Pixels, c: tuple[Any, ...]) -> Pixels:
    mean, deviation, zoom, threshold, radius, sigma, share = c
    layer = np.random.normal(size=x.shape[:2], loc=mean, scale=deviation)
    layer = library().clipped_zoom(layer[..., None], zoom)[: x.shape[0], : x.shape[1], 0]
    layer = np.floor(255 * np.clip(np.where(layer < threshold, 0, layer), 0, 1)) / 255
    layer = np.round(255 * _moved(layer, radius, sigma, np.random.uniform(-135, -45)))[..., None] / 255
    grey = x @ [0.299, 0.587, 0.114]
    whiter = share * x + (1 - share) * np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return whiter + layer + np.rot90(layer, k=2)


@functools.cache
def _frosts() -> list[Pixels]:
    """Photographs of frost, a fifth as large; as in CIFAR-C, the first five of the library's six."""
    import cv2

    folder = resources.files("imagecorruptions") / "frost"
    names = [f"frost{n}.{'png' if n < 4 else 'jpg'}" for n in range(1, 6)]
    files = [io.BytesIO(read_bytes(str(folder / name))) for name in names]
    pictures = [Image.open(file).convert("RGB") for file in files]
    return [np.asarray(cv2.resize(np.asarray(picture), (0, 0), fx=0.2, fy=0.2)) for picture in pictures]


def _frost(x: Pixels, c: tuple[float, float]) -> Pixels:
    frost = _frosts()[np.random.randint(5)]
    top, left = (np.random.randint(0, whole - side) for whole, side in zip(frost.shape, x.shape[:2], strict=False))
    return c[0] * x + c[1] * frost[top : top + x.shape[0], left : left + x.shape[1]] / 255


def _fog(x: Pixels, c: tuple[float, float]) -> Pixels:
    side, most = 1 << (max(x.shape) - 1).bit_length(), x.max()
    fog = library().plasma_fractal(mapsize=side, wibbledecay=c[1])[: x.shape[0], : x.shape[1], None]
    return (x + c[0] * fog) * most / (most + c[0])


def _brightness(x: Pixels, c: float) -> Pixels:
    from skimage.color import hsv2rgb, rgb2hsv

    hsv = rgb2hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return hsv2rgb(hsv)


def _contrast(x: Pixels, c: float) -> Pixels:
    mean = x.mean((0, 1), keepdims=True)
    return mean + c * (x - mean)


def _elastic_transform(x: Pixels, c: tuple[float, float, float]) -> Pixels:
    import cv2
    from scipy.ndimage import map_coordinates

    (height, width), (length, sigma, range_) = x.shape[:2], (share * x.shape[0] for share in c)
    # An affine map that moves three points at random
    centre, third = np.array([height // 2, width // 2], np.float32), min(height, width) // 3
    points = np.stack([centre + third, centre + np.array([third, -third]), centre - third]).astype(np.float32)
    moved = points + np.random.uniform(-range_, range_, size=points.shape).astype(np.float32)
    matrix = cv2.getAffineTransform(points, moved)
    x = cv2.warpAffine(x.astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    # A smooth displacement of each pixel
    dx, dy = (
        length * _blurred(np.random.uniform(-1, 1, size=(height, width)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    channels = [map_coordinates(x[..., k], (rows + dy, columns + dx), order=1, mode="reflect") for k in range(3)]
    return np.stack(channels, -1)


def _pixelate(x: Pixels, c: float) -> Pixels:
    height, width = x.shape[:2]
    small = _image(x).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return _exact(small.resize((width, height), Image.Resampling.BOX))


def _jpeg_compression(x: Pixels, c: int) -> Pixels:
    file = io.BytesIO()
    _image(x).save(file, "JPEG", quality=c)
    return _exact(Image.open(file))


def _image(x: Pixels) -> Image.Image:
    return Image.fromarray(np.round(255 * x).astype(np.uint8))


def _exact(image: Image.Image) -> Pixels:
    """An image as values whose product with 255 is rounded down to what they were."""
    return (np.asarray(image) + 0.25) / 255


_OF_CIFAR: dict[str, Callable[[Pixels, Any], Pixels]] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur, "zoom_blur": _zoom_blur,
    "snow": _snow, "frost": _frost, "fog": _fog, "brightness": _brightness, "contrast": _contrast,
    "elastic_transform": _elastic_transform, "pixelate": _pixelate, "jpeg_compression": _jpeg_compression,
}  # fmt: skip
