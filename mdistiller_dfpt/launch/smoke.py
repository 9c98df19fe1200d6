"""Two real steps of a config on random images and random weights: a quick test of any method on any pair."""

import math
import tempfile
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ..data import DATASETS, Data, build_data
from ..data.extra import Pool
from ..data.generated import LAYOUTS, write_data_set
from ..data.in_memory import ImageSet, InMemoryLoader, Recipe
from ..data.superclasses import joined
from ..distillers import build_distiller
from ..distillers.choice import choice
from ..errors import DivergedError
from ..models.external.names import is_external, narrowed
from ..models.statistics import measure_statistics
from ..training.speed import fast_settings
from ..training.trainer import Trainer
from .networks import build_networks

BATCH, STEPS, CLASSES = 4, 2, 100
FILE_SIZE = 64  # height and width of images in files, if the config sets none and a network accepts any size


def smoke(cfg: CN, size: int = 32, device: torch.device | str = "cpu") -> dict[str, float]:
    """Averages over two steps of the config's method on its networks, as of an epoch; raises the errors of a run.

    For a file-based dataset, small files are generated in its layout and read as in a run. Networks of timm have few
    channels, and their own depth.
    """
    DATASETS[cfg.DATASET.TYPE]  # ConfigError if it is unknown
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.EPOCHS, cfg.SOLVER.ACCUMULATE = BATCH, 1, 1
    cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER = narrowed(cfg.DISTILLER.STUDENT), narrowed(cfg.DISTILLER.TEACHER)
    chosen = choice(cfg)
    names = [chosen.student, chosen.teacher, *chosen.others]
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        # Data: few and random, but of the real shape and read in the real way
        torch.manual_seed(cfg.SOLVER.SEED)
        if cfg.DATASET.TYPE in LAYOUTS:
            data = _data_in_files(cfg, Path(folder), any(is_external(n) for n in names if n), torch.device(device))
        else:
            data = _random_data(cfg, BATCH * STEPS, cfg.DATASET.SIZE or size, device)
        cfg.freeze()
        # Networks: untrained statistics would blow up deep teachers, so they are measured first
        n = build_networks(cfg, data)
        for network in filter(None, (n.teacher, *n.others)):
            measure_statistics(network, (batch.image.cpu() for batch in data.train.epoch(0)))
        # Train: the trainer of a run, without its directory
        cfg = fast_settings(cfg, n.student, n.teacher, data)
        distiller = build_distiller(
            cfg, n.student, n.teacher, data.num_train, image_shape=data.image_shape, others=n.others
        )
        averages = Trainer(cfg, distiller, data).one_epoch()
    if not math.isfinite(averages["loss"]):
        raise DivergedError(f"the loss is {averages['loss']} within {STEPS} steps")
    return averages


def _data_in_files(cfg: CN, folder: Path, fixed_size: bool, device: torch.device) -> Data:
    words = write_data_set(cfg.DATASET.TYPE, folder, classes=4, per_class=BATCH * STEPS // 4)
    cfg.merge_from_list(words)
    if cfg.DATASET.EXTRA.TYPE is not None:
        cfg.DATASET.EXTRA.TYPE, cfg.DATASET.EXTRA.ROOT = "images", cfg.DATASET.ROOT
        cfg.DATASET.EXTRA.BATCH_SIZE = BATCH
    cfg.DATASET.NUM_WORKERS, cfg.DATASET.SUPERCLASSES = 0, None
    if not fixed_size and cfg.DATASET.SIZE is None:
        cfg.DATASET.SIZE = FILE_SIZE
    data = build_data(cfg, device)
    # Samples of a few of its classes; networks and methods have all
    return data._replace(num_classes=LAYOUTS[cfg.DATASET.TYPE] or data.num_classes)


def _random_data(cfg: CN, count: int, size: int, device: torch.device | str) -> Data:
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,))
    recipe = Recipe(pad=4, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    source = ImageSet(images, labels, tuple(map(str, range(CLASSES))))
    if cfg.DATASET.SUPERCLASSES:
        source = joined(source, cfg.DATASET.SUPERCLASSES)
    train = InMemoryLoader(source, recipe, BATCH, train=True, seed=1, device=device)
    extra = None
    if cfg.DATASET.EXTRA.TYPE is not None:
        extra = Pool(InMemoryLoader(source, recipe, BATCH, train=True, seed=2, drop_last=True, device=device))
    test = InMemoryLoader(source, recipe, BATCH, train=False, device=device)
    return Data(train, test, len(source.classes), extra=extra)
