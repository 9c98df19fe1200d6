"""Several runs in one process that take their steps in turn, on the same images and on one pass of their teacher."""

import contextlib
import io
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config import flatten
from ..data import Batch, Data
from ..data.loader import Loader
from ..distributed import world_size
from ..errors import ConfigError, UserError
from .run_dir import run_name
from .saving import put_random_states, random_states
from .shapes import broadcasts_refused
from .signals import Requests, Stopped
from .trainer import Trainer

# What runs on the same batches must have in common
IN_COMMON = ("DATASET.", "SOLVER.BATCH_SIZE", "SOLVER.CHANNELS_LAST", "EXPERIMENT.DEVICE", "EXPERIMENT.THREADS")
ALONE = {
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.CUDA_GRAPH": False,
    "DISTILLER.TEACHER_TABLE": "",
    "DISTILLER.TEACHER_AHEAD": 1,
}


class SharedBatches:
    """A loader that several runs read in turn: a batch is made once for all that are at it."""

    def __init__(self, loader: Loader):
        self.__dict__["loader"] = loader
        self.__dict__["at"] = (-1, -1)  # epoch, and the step behind which the next batch stands
        self.__dict__["next"] = None
        self.__dict__["end"] = (-1, -1)  # of the epoch that ended last: others still come to it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "strong_view":  # a batch carries what any of the runs asks for
            value |= self.loader.strong_view
        setattr(self.loader, name, value)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int = 1, first: int = 0) -> Iterator[Batch]:
        """As the loader's own."""
        step = first
        while (batch := self._behind(epoch, step)) is not None:
            yield batch
            step = batch.step

    def _behind(self, epoch: int, step: int) -> Batch | None:
        own = self.__dict__
        if own["end"] == (epoch, step):
            return None
        if own["at"] == (epoch, step):
            return own["next"]
        follows = own["next"] is not None and own["next"].epoch == epoch and own["next"].step == step
        if not follows:
            own["stream"] = self.loader.epoch(epoch, step)
        own["at"], own["next"] = (epoch, step), next(own["stream"], None)
        if own["next"] is None:
            own["end"] = (epoch, step)
        return own["next"]


class _Pass(NamedTuple):
    image: Tensor
    precision: tuple
    result: Any


def remember_passes(teacher: nn.Module) -> None:
    """Let a frozen network answer from memory where it is asked of the very same images again."""
    plain, passes = teacher.forward, deque[_Pass](maxlen=2)

    def forward(image: Tensor) -> Any:
        kind = image.device.type
        precision = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        if torch.is_grad_enabled() or teacher.training:
            return plain(image)
        for known in passes:
            if known.image is image and known.precision == precision:
                return known.result
        passes.append(_Pass(image, precision, plain(image)))
        return passes[-1].result

    teacher.forward = forward


class _Turns:
    """One run: its generator, its part of PyTorch's random numbers, its name before what it prints."""

    def __init__(self, trainer: Trainer, random: dict[str, Tensor], resume: bool):
        self.trainer, self.name, self.random = trainer, run_name(trainer.cfg), random
        self.steps = trainer.fitting(resume, alone=False)
        self.results: dict[str, Any] | None = None
        self.error: UserError | None = None
        self.out, self.err = _Named(sys.stdout, self.name), _Named(sys.stderr, self.name)

    @property
    def position(self) -> tuple[int, int]:
        return len(self.trainer.epochs), self.trainer.step

    def take(self) -> bool:
        """A step; whether there may be another."""
        put_random_states(self.random)
        try:
            with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
                next(self.steps)
        except StopIteration as e:
            self.results = e.value
            return False
        except UserError as e:
            self.error = e
            self.err.write(f"error: {e}\n")
            return False
        finally:
            self.random = random_states()
        return True


class _Named(io.TextIOBase):
    """Writes whole lines, each behind a name."""

    def __init__(self, stream: TextIO, name: str):
        self.stream, self.name, self.rest = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.stream.write(f"[{self.name}] {line}\n")
        self.stream.flush()
        return len(text)


def refuse_apart(cfgs: Sequence[CN]) -> None:
    """ConfigError where these runs cannot take the same batches, or are one run."""
    if world_size() > 1:
        raise ConfigError("several runs in one process and several processes for one run: use one or the other")
    names = [run_name(cfg) for cfg in cfgs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(twice)}: asked for twice; set EXPERIMENT.TAG, or other seeds")
    flats = [{**flatten(cfg), "DATASET.SEED": cfg.DATASET.SEED or cfg.SOLVER.SEED} for cfg in cfgs]
    for key, value in flats[0].items():
        others = [flat[key] for flat in flats if flat.get(key) != value]
        if others and key == "DATASET.SEED":
            raise ConfigError(f"runs that share a pass see the same images in the same order: add `{key} {value}`")
        if others and key.startswith(IN_COMMON):
            raise ConfigError(f"{key} is {value} and {others[0]}; runs in one process have it in common")
    for key, value in ALONE.items():
        if other := [flat[key] for flat in flats if flat[key] != value]:
            raise ConfigError(f"{key} is {other[0]}; several runs in one process take it as {value}")


def fit_together(
    trainers: Sequence[Trainer], random: Sequence[dict[str, Tensor]], resume: bool = False
) -> list[dict[str, Any] | None]:
    """Train all, each as it would train alone, to the bit; their results, None for one that failed.

    `random`: where PyTorch's random numbers stood when each trainer was built, as `random_states` says it. A run that
    fails ends alone. Raises the first failure when all others are through; a signal stops all of them.
    """
    turns = [_Turns(trainer, states, resume) for trainer, states in zip(trainers, random, strict=True)]
    for trainer in trainers:
        trainer.company = len(trainers) - 1
    open_turns, requests = list(turns), Requests()
    try:
        with requests.heard(), broadcasts_refused():
            while open_turns:
                # Those behind go first, so that all come to the same batch
                turn = min(open_turns, key=lambda t: t.position)
                for t in open_turns:
                    t.trainer.requests.stop = requests.stop
                    t.trainer.requests.save |= requests.save
                requests.save = False
                if not turn.take():
                    open_turns.remove(turn)
    finally:
        for turn in open_turns:
            turn.steps.close()
    failed = [turn for turn in turns if turn.error is not None]
    if failed:
        stopped = next((turn.error for turn in failed if isinstance(turn.error, Stopped)), None)
        raise stopped or type(failed[0].error)(
            f"{len(failed)} of {len(turns)} runs failed: {', '.join(turn.name for turn in failed)}"
        )
    return [turn.results for turn in turns]


def share(data: Data) -> Data:
    """The same data, of which several trainers read the training batches in turn."""
    return data._replace(train=SharedBatches(data.train))
