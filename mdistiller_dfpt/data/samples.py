"""The samples of image files, as a worker decodes, augments and passes them on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..errors import OF_USERS_FILE, UserError, kind_and_message, users_line
from ..user_modules import PLACES, import_from
from .augment import strong_view
from .preprocessing import picture_of, pixels_of
from .randomness import seeded
from .read_image import Fault, read_image
from .workers import share

Transform = Callable[[Any], Image.Image | Tensor]


class Unreadable(Exception):
    """A fault of the file that a transform of paths was given."""

    def __init__(self, fault: Fault):
        super().__init__(fault)
        self.fault = fault


Sample = tuple[Tensor, Tensor | None, int]


class Raised(NamedTuple):
    """An error of the user's code in a worker."""

    what: str


def in_users_words(error: Exception) -> str | None:
    """The message of an error for its user; None if it is not of the user's code or input."""
    if isinstance(error, UserError):
        return str(error)
    if (place := users_line(error)) is None:
        return None
    file, line = place
    return f"{file}:{line}: {kind_and_message(error)} ({OF_USERS_FILE})"


def _in_another_process(places: Mapping[str, str]) -> "Files":
    """Samples without their attributes, which may be of a user's modules: these are imported when they are needed."""
    import_from(places)
    return Files.__new__(Files)


class Files(Dataset):
    """The samples of one split: (epoch, index) -> a uint8 image (or two views) and the index, or a `Fault`.

    `by_path`: the transform takes the path of a file.
    """

    def __init__(
        self, paths: list[str], images: Tensor | None, transform: Transform, seed: int, *, by_path: bool = False
    ):  # fmt: skip
        self.paths, self.images, self.transform, self.seed = paths, images, transform, seed
        self.by_path, self.strong = by_path, False

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_another_process, (dict(PLACES),), vars(self)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Fault | Raised:
        try:
            return self._sample(*key)
        except Exception as e:  # PyTorch would pass it on with the text of its traceback as its message
            what = None if get_worker_info() is None else in_users_words(e)
            if what is None:
                raise
            return Raised(what)

    def _sample(self, epoch: int, index: int) -> Sample | Fault:
        image = self._source(index)
        if isinstance(image, Fault):
            return image
        try:
            # The view is a function of (seed, epoch, index), independent of the worker
            with seeded(index, self.seed, epoch, stream=3):
                view = pixels_of(self.transform(image))
            if not self.strong:
                return view, None, index
            with seeded(index, self.seed, epoch, stream=5):  # with a crop and flip of its own
                return view, pixels_of(strong_view(picture_of(self.transform(image)))), index
        except Unreadable as e:
            return e.fault

    def _source(self, index: int) -> Image.Image | str | Fault:
        """What the transform is given."""
        if self.images is not None:
            return Image.fromarray(self.images[index].numpy())
        return self.paths[index] if self.by_path else read_image(self.paths[index])


class Decoded(NamedTuple):
    """Images (B, H, W, 3) uint8, strong views in the same form or None, indices (B,), and unreadable files."""

    images: Tensor | None
    strong: Tensor | None
    numbers: Tensor  # of the samples
    faults: list[Fault]


def collate(samples: Sequence[Sample | Fault | Raised]) -> Decoded | Raised | str:
    """A batch of samples, or the first error of the user's code; where a worker cannot pass it on, the reason."""
    for sample in samples:
        if isinstance(sample, Raised):
            return sample
    faults = [s for s in samples if isinstance(s, Fault)]
    good = [s for s in samples if not isinstance(s, Fault | Raised)]
    if not good:
        return Decoded(None, None, torch.empty(0, dtype=torch.int64), faults)
    images, strong, index = zip(*good, strict=True)
    views = None if strong[0] is None else torch.stack(strong)
    decoded = Decoded(torch.stack(images), views, torch.tensor(index), faults)
    return share(decoded[:3]) or decoded
