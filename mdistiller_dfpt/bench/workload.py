"""A config set up for timing: real sizes and real steps, with random weights, on generated images or its dataset."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..data import Batch, Data, build_data
from ..data.extra import Pool
from ..data.generated import LAYOUTS, write_data_set
from ..data.in_memory import ImageSet, InMemoryLoader, Recipe
from ..data.recipe import augmentations_of
from ..distillers import build_distiller
from ..distributed import pick_device
from ..launch.networks import build_networks
from ..training.loop import take_step
from ..training.speed import fast_settings
from ..training.trainer import Trainer

CLASSES = {"cifar100": 100, "digits": 10}
IMAGES = {"cifar100": 50_000, "digits": 1433}
SIZE = {"cifar100": 32, "digits": 16}
FILES = 512  # images of a generated file-based dataset, each as large as a typical ImageNet photograph
FILE_SIZE = 440


class Workload:
    """One config. `load`, `step` and `both` do the work of one window and return the number of images."""

    def __init__(self, cfg: CN, folder: Path, real_images: bool = False):
        """`folder`: where the images of a file-based dataset are written; `real_images`: use the config's dataset."""
        cfg = cfg.clone()
        cfg.defrost()
        self.device = pick_device(cfg.EXPERIMENT.DEVICE)
        if cfg.EXPERIMENT.THREADS:
            torch.set_num_threads(cfg.EXPERIMENT.THREADS)
        self.data = build_data(cfg, self.device) if real_images else _generated(cfg, folder, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SOLVER.SEED)
            n = build_networks(cfg, self.data)
            cfg = fast_settings(cfg, n.student, n.teacher, self.data)
            distiller = build_distiller(
                cfg, n.student, n.teacher, self.data.num_train, image_shape=self.data.image_shape, others=n.others
            )
        self.cfg = cfg
        self.trainer = Trainer(cfg, distiller, self.data)
        self.trainer.training.join_processes()
        self.trainer.training.at_start = False  # a run's first step also measures its strength
        self.trainer.distiller.train()
        self._stream: Iterator[Batch] | None = None
        self._kept: Batch | None = None

    @property
    def batch(self) -> Batch:
        """One batch that stays on the device."""
        if self._kept is None:
            self._kept = next(iter(self.data.batches(1, strong=self.trainer.distiller.needs_strong_view)))
        return self._kept

    def load(self, batches: int) -> int:
        """Load at least that many batches and discard them.

        Always whole epochs, so that no worker prefetches outside the timed window.
        """
        epochs = -(-batches // len(self.data.train))
        return sum(len(b.target) for epoch in range(1, epochs + 1) for b in self.data.batches(epoch))

    def step(self, steps: int) -> int:
        """Training steps on one batch that stays on the device: no loader, no logging."""
        for _ in range(steps):
            take_step(self.trainer.training, self.batch)
        return steps * len(self.batch.target)

    def both(self, steps: int) -> int:
        """Training as in a run: batches from the loader, and for each a step and the averages."""
        if self._stream is None:
            epoch = partial(self.data.batches, strong=self.trainer.distiller.needs_strong_view)
            self._stream = itertools.chain.from_iterable(map(epoch, itertools.count(1)))
        done = 0
        for batch in itertools.islice(self._stream, steps):
            take_step(self.trainer.training, batch)
            done += len(batch.target)
        return done


def _generated(cfg: CN, folder: Path, device: torch.device) -> Data:
    kind = cfg.DATASET.TYPE
    if kind in LAYOUTS:
        words = write_data_set(kind, folder, classes=4, per_class=FILES // 4, size=FILE_SIZE)
        cfg.merge_from_list(words)
    if kind not in IMAGES:  # a user's dataset provides its own images
        return build_data(cfg, device)
    size, classes = SIZE[kind], CLASSES[kind]
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> ImageSet:
        pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))))

    recipe = Recipe(pad=size // 8, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    common = {"device": device, "channels_last": cfg.SOLVER.CHANNELS_LAST}
    of_training: dict[str, Any] = {"train": True, **common}
    if cfg.DATASET.RECIPE == "published":
        of_training["more"] = augmentations_of(cfg, (size, size), recipe.mean, recipe.std, device)
    train = InMemoryLoader(images(IMAGES[kind]), recipe, cfg.SOLVER.BATCH_SIZE, seed=1, **of_training)
    test = InMemoryLoader(
        images(cfg.DATASET.TEST.BATCH_SIZE), recipe, cfg.DATASET.TEST.BATCH_SIZE, train=False, **common
    )
    if cfg.DATASET.EXTRA.TYPE is None:
        return Data(train, test, classes)
    batch = cfg.DATASET.EXTRA.BATCH_SIZE or cfg.SOLVER.BATCH_SIZE
    extra = InMemoryLoader(images(IMAGES[kind]), recipe, batch, seed=2, drop_last=True, **of_training)
    return Data(train, test, classes, extra=Pool(extra))
