"""A config made ready to be timed: real sizes and real steps, on generated images and random weights."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ..data import Batch, Data, Shard, build_data, pick_device
from ..data.generated import write_data_set
from ..data.in_memory import ImageSet, InMemoryLoader, Recipe
from ..distillers import build_distiller
from ..launch.networks import build_networks
from ..training.precision import settled
from ..training.trainer import Trainer
from .counts import step_of

CLASSES = {"cifar100": 100, "digits": 10}
IMAGES = {"cifar100": 50_000, "digits": 1433}
SIZE = {"cifar100": 32, "digits": 16}
FILES = 512  # images of a generated data set of files, each as large as a usual photograph of ImageNet
FILE_SIZE = 440


class Side:
    """One config. `load`, `step` and `both` do a window's worth of work and return the number of images."""

    def __init__(self, cfg: CN, folder: Path):
        """`folder`: where the images of a data set of files are written."""
        cfg = cfg.clone()
        cfg.defrost()
        self.device = pick_device(cfg)
        if cfg.EXPERIMENT.THREADS:
            torch.set_num_threads(cfg.EXPERIMENT.THREADS)
        self.data = _generated(cfg, folder, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.SOLVER.SEED)
            student, teacher, between = build_networks(cfg, self.data)
            cfg = settled(cfg, student, teacher, self.data)
            distiller = build_distiller(
                cfg, student, teacher, self.data.num_train, image_shape=self.data.image_shape, assistants=between
            )
        self.cfg = cfg
        self.trainer = Trainer(cfg, distiller, self.data)
        self.trainer.distiller.train()
        self.trainer.use_graphs()
        self._stream: Iterator[Batch] | Iterator[Shard] | None = None
        self._resident: Batch | None = None

    @property
    def batch(self) -> Batch:
        """One batch that stays on the device."""
        if self._resident is None:
            self._resident = next(iter(self.data.train.epoch(1)))
        return self._resident

    def load(self, batches: int) -> int:
        """At least so many batches from the loader, and nothing done with them.

        Whole epochs, so that no worker decodes ahead outside of the window.
        """
        epochs = -(-batches // len(self.data.train))
        return sum(len(b.target) for epoch in range(1, epochs + 1) for b in self.data.train.epoch(epoch))

    def step(self, steps: int) -> int:
        """Training steps on the one batch that stays: no loader, no logging."""
        if self.trainer.ahead is not None:  # its passes belong to the batches that follow one another
            return self.both(steps)
        if self.trainer.graphs is not None:  # a graph makes its images, too
            share = next(self.trainer.work(1))
            for _ in range(steps):
                self.trainer.take(share)
            return steps * len(share.index)
        for _ in range(steps):
            step_of(self.trainer, self.batch)
        return steps * len(self.batch.target)

    def both(self, steps: int) -> int:
        """What a run does: batches from the loader, a step and the averages of each."""
        if self._stream is None:
            self._stream = itertools.chain.from_iterable(map(self.trainer.work, itertools.count(1)))
        done = 0
        for work in itertools.islice(self._stream, steps):
            self.trainer.take(work)
            done += len(work.index)
        return done


def _generated(cfg: CN, folder: Path, device: torch.device) -> Data:
    kind = cfg.DATASET.TYPE
    if kind not in IMAGES:
        words = write_data_set(kind, folder, classes=4, per_class=FILES // 4, size=FILE_SIZE)
        cfg.merge_from_list(words)
        return build_data(cfg, device)
    size, classes = SIZE[kind], CLASSES[kind]
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> ImageSet:
        pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.arange(count) % classes, tuple(map(str, range(classes))))

    recipe = Recipe(pad=size // 8, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    common = {"device": device, "channels_last": cfg.SOLVER.CHANNELS_LAST}
    train = InMemoryLoader(images(IMAGES[kind]), recipe, cfg.SOLVER.BATCH_SIZE, train=True, seed=1, **common)
    test = InMemoryLoader(
        images(cfg.DATASET.TEST.BATCH_SIZE), recipe, cfg.DATASET.TEST.BATCH_SIZE, train=False, **common
    )
    return Data(train, test, classes)
