"""Opens the logits cache of a teacher and a training set, and computes what is missing of it."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..data.in_memory import InMemoryLoader
from ..data.loader import Loader
from ..distributed import on_first_process, rank, world_size
from ..errors import ConfigError
from .logits_cache import LogitsCache

SECONDS_BETWEEN_LINES = 30


def open_cache(folder: str, loader: Loader, classes: int, teacher: str) -> LogitsCache:
    """The cache in `folder` of a teacher's logits (its hash and precision) for these images under their augmentation.

    ConfigError where the images have no end of views, or where the folder has no room.
    """
    if not isinstance(loader, InMemoryLoader):
        raise ConfigError(
            f"DISTILLER.LOGITS_CACHE is {folder}; it is for images in memory, and these are files"
            f" ({loader.augmentation})"
        )
    content = hashlib.sha256(loader.padded.cpu().numpy().tobytes())
    content.update(f"{teacher} {loader.recipe}".encode())
    return LogitsCache(Path(folder), content.hexdigest()[:32], loader.num_samples, loader.num_views, classes)


def fill_cache(
    cache: LogitsCache, compute: Callable[[Tensor], Tensor], loader: Loader, between: Callable[[], None]
) -> None:  # fmt: skip
    """Compute what is missing, with a line now and then; each process fills its share, then looks at all.

    `compute`: the teacher, images (B, 3, H, W) -> logits (B, classes). `between` is called between two passes of it.
    """
    assert isinstance(loader, InMemoryLoader)
    world, total = world_size(), loader.num_samples
    # Equal numbers for all, so that they can agree on something between two passes
    own = [min(i, total - 1) for i in range(rank(), total + -total % world, world)]
    started, printed = time.monotonic(), time.monotonic()
    for samples in [own] if world == 1 else [own, range(total)]:
        for done in cache.fill(samples, loader.images_in, compute, loader.device):
            if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                left = (printed - started) * (len(samples) - done) / done / 60
                print(f"logits cache: {done} of {len(samples)} images, {left:.0f} min left", flush=True)
            between()
        on_first_process(lambda: None)  # all wait for the last
    if cache.computed:
        print(f"logits cache: {cache.computed:,} views in {time.monotonic() - started:.0f} s", flush=True)
