"""mdistiller from a checkout, set up for the same computation: same pair, weights, images and batch."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..config.keywords import asked_for
from ..data import Batch
from ..data.in_memory import InMemoryLoader
from ..distillers.choice import choice
from ..errors import ConfigError
from .checkout import imported, its_config, its_fault, its_loader
from .workload import Workload

AVERAGES = ("training_time", "data_time", "losses", "top1", "top5")  # of mdistiller's `train_epoch`


class _Nowhere(io.TextIOBase):
    """Takes the place of the terminal: the progress line is formatted but not printed."""

    def write(self, text: str) -> int:
        return len(text)


class Mdistiller:
    """mdistiller's version of the method on the batch of a `Workload`. `step` and `both` do the work of one window."""

    def __init__(self, folder: Path, variant: Workload, output: Path):
        """`output`: where mdistiller's trainer creates its folder."""
        self.code = code = imported(folder, variant.device)
        self.variant, d, ours = variant, variant.cfg.DISTILLER, variant.trainer.distiller
        if (trainer := variant.cfg.SOLVER.TRAINER) not in ("base", "crd"):
            raise ConfigError(
                f"--against: no ratio, because mdistiller's trainer of SOLVER.TRAINER {trainer} is unsupported"
            )
        self.label = label = choice(variant.cfg).label
        if label not in code.methods:
            raise ConfigError(f"--against {folder}: it has no {label}; it has {', '.join(sorted(code.methods))}")
        known: dict[str, nn.Module] = {"student": ours.student}
        if variant.trainer.teacher is not None:
            known["teacher"] = variant.trainer.teacher.network
        names = {"student": d.STUDENT, "teacher": d.TEACHER}
        for name in (names[role] for role in known):
            if name not in code.networks:
                raise ConfigError(f"--against {folder}: it has no network {name}")
        built = {role: code.networks[names[role]][0](num_classes=variant.data.num_classes) for role in known}
        self.cfg = its_config(code.cfg, variant.cfg, dict(ours.inferred), output)
        # In mdistiller, plain training has no teacher and takes no config; a memory bank needs the number of samples
        rest = (built["teacher"], self.cfg) if "teacher" in built else ()
        beside = asked_for(code.methods[label], {"num_data": variant.data.num_train})
        self.where = " -> ".join(names[role] for role in reversed(known)) + f" with {label}"
        # Its constructors may read the weights (margins), or run a random image, which changes running statistics
        self._load(built, known, names)
        with its_fault(self.where):
            self.distiller = code.methods[label](built["student"], *rest, **beside).to(variant.device)
        self._load(built, known, names)
        for kind in ("parameters", "buffers"):
            _copy_in_order(_beside(ours, kind, known.values()), _beside(self.distiller, kind, built.values()))
        self.student = built["student"]
        self.distiller.train()
        # As in mdistiller's tools/train.py, also with a single GPU
        trainer = code.trainers.get(label.lower(), code.trainers["base"])
        with its_fault(f"its trainer {trainer.__name__}"):
            self.trainer = trainer("bench", nn.DataParallel(self.distiller), None, None, self.cfg)
        self._inputs: dict[str, Any] | None = None
        self._iterations: Iterator[Sequence[Tensor]] | None = None

    def inputs(self) -> dict[str, Any]:
        """The arguments of its `forward`: our batch, and if it has a memory bank, the rows that ours draws for it."""
        if self._inputs is None:
            batch, ours = self.variant.batch, self.variant.trainer.distiller
            self._inputs = {"image": batch.image, "target": batch.target, "epoch": batch.epoch}
            draw: Callable[[Batch], Tensor] | None = getattr(ours, "draw", None)
            if draw is not None:
                self._inputs |= {"index": batch.index, "contrastive_index": draw(batch)}
        return self._inputs

    def loss(self) -> Tensor:
        """The sum of the method's loss terms on the batch of the workload."""
        inputs = self.inputs()
        with its_fault(self.where):
            _, losses = self.trainer.distiller(**inputs)
            return sum(value.mean() for value in losses.values())

    def step(self, steps: int) -> int:
        """Training steps as in mdistiller's trainer, without its loader and its logging."""
        self.distiller.train()
        for _ in range(steps):
            self.trainer.optimizer.zero_grad()
            self.loss().backward()
            self.trainer.optimizer.step()
        return steps * len(self.variant.batch.target)

    def both(self, steps: int) -> int:
        """mdistiller's own training iterations: its loader, step, averages, accuracies and progress line."""
        self.prepare_iterations()
        assert self._iterations is not None
        self.distiller.train()
        done = 0
        for data in islice(self._iterations, steps):
            with its_fault(self.where):
                message = self.trainer.train_iter(data, 1, self._averages)
            self._bar.set_description(self.code.utils.log_msg(message, "TRAIN"))
            self._bar.update()
            done += len(data[1])
        return done

    def prepare_iterations(self) -> None:
        """Build its loader and averages for `both`; ConfigError if its loader is for other images."""
        if self._iterations is not None:
            return
        ours, kind = self.variant.data.train, self.variant.cfg.DATASET.TYPE
        if not isinstance(ours, InMemoryLoader) or ours.size != (32, 32) or self.variant.data.num_classes != 100:
            raise ConfigError(f"--against: its loader is for CIFAR-100; DATASET.TYPE is {kind}: use `--what step`")
        with its_fault("its loader"):
            loader = its_loader(self.cfg, ours)
        self._iterations = chain.from_iterable(repeat(loader))
        self._averages = {name: self.code.utils.AverageMeter() for name in AVERAGES}
        self._bar = tqdm(range(len(loader)), file=_Nowhere())

    def _load(self, built: dict[str, nn.Module], ours: dict[str, nn.Module], names: dict[str, str]) -> None:
        for role, network in built.items():
            try:
                network.load_state_dict(ours[role].state_dict())
            except RuntimeError as e:
                raise ConfigError(
                    f"--against: no ratio, because its {names[role]} is a different network "
                    f"({' '.join(str(e).split())[:160]})"
                ) from None


def _beside(method: nn.Module, kind: str, networks: Iterable[nn.Module]) -> list[Tensor]:
    """The parameters, or the buffers, that a method adds to these networks."""
    known = {id(x) for network in networks for x in getattr(network, kind)()}
    return [x for x in getattr(method, kind)() if id(x) not in known]


@torch.no_grad()
def _copy_in_order(ours: list[Tensor], its: list[Tensor]) -> None:
    """Gives each of its tensors the value of our next one of that shape; the parity check finds what does not match."""
    left = list(ours)
    for tensor in its:
        found = next((i for i, x in enumerate(left) if (x.shape, x.dtype) == (tensor.shape, tensor.dtype)), None)
        if found is not None:
            tensor.copy_(left.pop(found))
