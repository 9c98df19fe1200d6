"""Opens the logits cache of a teacher and a training set, and fills in missing entries."""

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

    ConfigError if the number of views is unlimited, or if the folder has too little space.
    """
    if not isinstance(loader, InMemoryLoader):
        raise ConfigError(
            f"DISTILLER.LOGITS_CACHE is {folder}; it supports only in-memory datasets, not image files"
            f" ({loader.augmentation})"
        )
    if loader.more:
        raise ConfigError(
            f"DISTILLER.LOGITS_CACHE is {folder}; it needs finitely many views of an image, and the augmentation"
            f" ({loader.augmentation}) has any number of them: remove one of the two"
        )
    content = hashlib.sha256(loader.padded.cpu().numpy().tobytes())
    content.update(f"{teacher} {loader.recipe}".encode())
    if loader.size != loader.stored_size:
        content.update(f" {loader.size}".encode())
    return LogitsCache(Path(folder), content.hexdigest()[:32], loader.num_samples, loader.num_views, classes)


def fill_cache(
    cache: LogitsCache, compute: Callable[[Tensor], Tensor], loader: Loader, between: Callable[[], None]
) -> None:  # fmt: skip
    """Compute missing entries and print progress; each process fills its shard, then checks all samples.

    `compute`: the teacher, images (B, 3, H, W) -> logits (B, classes). `between` is called between two forward passes.
    """
    assert isinstance(loader, InMemoryLoader)
    world, total = world_size(), loader.num_samples
    # The same number for all processes, so that they can communicate between two passes
    own = [min(i, total - 1) for i in range(rank(), total + -total % world, world)]
    started, printed = time.monotonic(), time.monotonic()
    for samples in [own] if world == 1 else [own, range(total)]:
        for done in cache.fill(samples, loader.images_in, compute, loader.device):
            if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                left = (printed - started) * (len(samples) - done) / done / 60
                print(f"logits cache: {done} of {len(samples)} images, {left:.0f} min left", flush=True)
            between()
        on_first_process(lambda: None)  # a barrier
    if cache.computed:
        print(f"logits cache: {cache.computed:,} views in {time.monotonic() - started:.0f} s", flush=True)
