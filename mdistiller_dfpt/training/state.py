"""The state of a run during training: distiller, data, optimiser and progress."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode as CN

from ..config.trainers import TRAINERS
from ..data import Data
from ..data.held_out import hold_out, in_even_batches
from ..data.mixing import Mixing
from ..distillers import Method
from ..distillers.choice import choice
from ..distillers.hook_values import returned
from ..distributed import world_size
from ..errors import ConfigError, users_line
from ..losses import Term, Terms
from ..losses.term import total
from ..models.output import memory_format
from ..models.statistics import remeasured
from ..runs.saving import Progress
from ..teachers import Teacher
from .average import WeightAverage, in_place
from .compiled import CompiledSteps, compile_method
from .failures import known_to_all
from .guard import Guard
from .meters import Meters
from .optim import build_optimizer, build_schedule
from .parallel import average_gradients, parallel
from .parameters import optimised
from .projected import backward_projected
from .several_momenta import SeveralMomentaSGD, backward_by_group
from .strength import matching_factor, scaled
from .sync_batch_norm import with_synchronised_batch_norm


class Training:
    """The state used by the loop. `forward` is the distiller, or its wrapper that exchanges gradients."""

    def __init__(self, cfg: CN, distiller: Method, data: Data):
        self.cfg, self.data = cfg, without_held_out(distiller, data)
        self.device = data.train.device
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams, events and random numbers refer to the current device
        if cfg.SOLVER.SYNC_BN and world_size() > 1:
            distiller = with_synchronised_batch_norm(distiller, self.device)
        self.distiller = distiller.to(self.device).to(memory_format=memory_format(cfg.SOLVER.CHANNELS_LAST))
        self.accumulate, self.last_epoch = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.EPOCHS
        self.learning_rate = build_schedule(cfg)
        try:
            self.optimizer = build_optimizer(cfg, self.distiller)
        except ValueError as e:
            if users_line(e) is not None:
                raise  # in a user's function, which the error names
            raise ConfigError(str(e)) from None
        self.several_momenta = isinstance(self.optimizer, SeveralMomentaSGD)
        self.several_backwards = TRAINERS[cfg.SOLVER.TRAINER].several_backwards
        if self.accumulate > 1 and self.several_backwards:
            raise ConfigError(
                f"SOLVER.ACCUMULATE is {self.accumulate}; SOLVER.TRAINER {cfg.SOLVER.TRAINER} has no micro-batches"
            )
        self.forward: nn.Module = self.distiller
        self.compiled: CompiledSteps | None = None
        _refuse_extra(cfg, self.distiller, data)
        self.mixing = _mixing(cfg, self.distiller, data.num_classes)
        self.clip_norm: float | None = None if self.several_momenta else cfg.SOLVER.CLIP_NORM
        self.average = WeightAverage(self.distiller.deployed, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
        self.guard = Guard(self.distiller, self.optimizer, self.device, cfg.SOLVER.LR)
        self.meters = Meters(self.device)
        self.epochs: list[dict[str, Any]] = []  # records of the finished epochs
        self.step = 0  # steps taken in the current epoch
        self.seconds = 0.0  # that they took, before `since`, if these go on
        self.since: float | None = None
        self.prepared = 0  # passes over the training set before the first step
        self.at_start = True  # whether no step of the run was taken yet
        self.factor: float | None = None  # on the distillation terms, from the first step of the run on
        self.statistics: dict[str, Tensor] = {}  # of BatchNorm, if they were measured again since the last step

    def join_processes(self) -> None:
        """From now on, average gradients over the processes of the run; compile its step, if it is to be compiled."""
        if self.cfg.SOLVER.COMPILE:
            compile_method(self.distiller, self.device)
            self.compiled = CompiledSteps()
        self.forward = parallel(self.distiller)

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """Around a step, which may have to be compiled."""
        return contextlib.nullcontext() if self.compiled is None else self.compiled.one()

    def gradient_exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Exchange gradients only in the backward pass of the last micro-batch of a batch."""
        if not isinstance(self.forward, DistributedDataParallel) or (last and not self.several_backwards):
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def matched(self, terms: Mapping[str, Term]) -> Terms:
        """The terms of a step, with those of distillation scaled to a total of DISTILLER.MATCH_WEIGHT."""
        wanted, terms = self.cfg.DISTILLER.MATCH_WEIGHT, dict(terms)
        # Later terms may lack some of the first step, and a run of an earlier version goes on without the factor
        if not wanted or not (self.at_start or any(term.kind == "distillation" for term in terms.values())):
            return terms
        if self.factor is None:
            self.factor = matching_factor(terms, wanted, self.device)
        return scaled(terms, self.factor)

    def backward(self, terms: Terms) -> None:
        """The gradient of the weighted sum of terms; where the trainer asks for it, a separate one for each kind."""

        def exchange() -> None:
            average_gradients(self.distiller)

        if not isinstance(self.optimizer, SeveralMomentaSGD):
            if self.several_backwards:
                backward_projected(terms, optimised(self.optimizer), exchange)
            else:
                total(terms).backward()
            return

        def clip() -> None:
            for part in self.distiller.hooked():
                part.before_step()

        backward_by_group(terms, self.optimizer, exchange, clip)

    def clip_gradient(self) -> None:
        """Scale the gradient of all trained parameters to at most SOLVER.CLIP_NORM."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(optimised(self.optimizer), self.clip_norm)

    def averaged(self) -> Iterable[Tensor]:
        """The averaged weights, if any."""
        return () if self.average is None else self.average.values.values()

    def measure_again(self) -> None:
        """Measure the BatchNorm statistics of the weights to deploy over the training images, prepared as for testing.

        The network that is trained keeps its own, so that a run which goes on is the same with and without this.
        """
        loader, self.statistics = in_even_batches(self.data.train), {}
        images = (batch.image for batch in known_to_all(loader.epoch()))
        with self.deployable():
            self.statistics = remeasured(self.distiller.deployed, self.distiller.forward_student, images)

    def _instead(self) -> dict[str, Tensor]:
        """What the deployed network has in place of its trained weights and statistics."""
        return {**({} if self.average is None else self.average.values), **self.statistics}

    def weights(self) -> dict[str, Tensor]:
        """The weights of the deployed network to save: the averaged ones, if any, and statistics measured again."""
        return {**self.distiller.deployed.state_dict(), **self._instead()}

    def deployable(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the deployed network has those weights, for an evaluation."""
        instead = self._instead()
        return in_place(self.distiller.deployed, instead) if instead else contextlib.nullcontext()

    def take_logged(self) -> dict[str, Tensor]:
        """The values logged by the teacher and the method in the last forward pass."""
        logged: dict[str, Tensor] = {}
        for part in self.distiller.hooked():
            logged.update(returned(part, "take_logged", part.take_logged()))
        return logged

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Store the record of an epoch and reset the averages."""
        self.epochs.append(record)
        self.step, self.seconds, self.meters = 0, 0.0, Meters(self.device)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Context whose time counts as that of the steps of the current epoch."""
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.seconds, self.since = self.seconds_so_far(), None

    def seconds_so_far(self) -> float:
        """The time that the steps of the current epoch have taken, also before the run was interrupted."""
        return self.seconds + (0.0 if self.since is None else time.monotonic() - self.since)

    def progress(self) -> Progress:
        """The progress of the run, for a checkpoint."""
        average = {} if self.average is None else self.average.values
        sums, counts = self.meters.sums, self.meters.counts
        done = (self.epochs, self.step, sums, counts, average, self.prepared, self.factor)
        return Progress(*done, self.seconds_so_far(), self.statistics)

    def restore(self, done: Progress) -> None:
        """Continue from this progress."""
        self.epochs, self.step, self.prepared, self.factor = done.epochs, done.step, done.prepared, done.factor
        self.seconds = done.seconds
        self.at_start = not (done.epochs or done.step)
        self.meters = Meters(self.device)
        self.meters.sums = {name: value.to(self.device) for name, value in done.sums.items()}
        self.meters.counts = dict(done.counts)
        if self.average is not None:
            self.average.load(done.average)
        self.statistics = {name: value.to(self.device) for name, value in done.statistics.items()}


def without_held_out(distiller: Method, data: Data) -> Data:
    """The data less the samples that the method or its teacher holds out, which it gets."""
    parts = [part for part in distiller.hooked() if part.held_out]
    if not parts:
        return data
    train, held = hold_out(data.train, max(part.held_out for part in parts))
    for part in distiller.hooked():
        part.leave_out(held.index)
    for part in parts:
        part.held = held
    return data._replace(train=train)


def _mixing(cfg: CN, distiller: Method, num_classes: int) -> Mixing:
    """The mixing of SOLVER; ConfigError if the method or its teacher uses the labels in another way."""
    s = cfg.SOLVER
    asked = [f"SOLVER.{key} is {s[key]}" for key in ("LABEL_SMOOTHING", "MIXUP", "CUTMIX") if s[key]]
    teacher: Teacher | None = getattr(distiller, "teacher", None)
    for what, part in ((choice(cfg).label, distiller), (f"a teacher of kind {choice(cfg).kind}", teacher)):
        if asked and part is not None and not part.takes_soft_labels:
            raise ConfigError(f"{', '.join(asked)}; {what} takes labels as numbers, not as distributions: remove it")
    if (s.MIXUP or s.CUTMIX) and cfg.DISTILLER.LOGITS_CACHE:
        raise ConfigError(f"{asked[-1]}; DISTILLER.LOGITS_CACHE has the teacher's logits of images that are not mixed")
    seed = s.SEED if cfg.DATASET.SEED is None else cfg.DATASET.SEED
    return Mixing(s.LABEL_SMOOTHING, s.MIXUP, s.CUTMIX, num_classes, seed)


def _refuse_extra(cfg: CN, distiller: Method, data: Data) -> None:
    """ConfigError unless there are unlabelled images where the method uses such, and only there."""
    label, kind, name = choice(cfg).label, choice(cfg).kind, cfg.DATASET.EXTRA.TYPE
    if not distiller.needs_extra:
        if data.extra is not None:
            raise ConfigError(f"DATASET.EXTRA.TYPE is {name}; {label} uses no unlabelled images: remove it")
        return
    if data.extra is None:
        raise ConfigError(f"{label} uses unlabelled images beside the training set: set DATASET.EXTRA.TYPE")
    kept_out = {}
    if held := next((part.held for part in distiller.hooked() if part.held), None):
        kept_out[f"training images that {label} holds out, to measure on them,"] = data.train.contents(held.index)
    if data.validation is not None:
        kept_out["validation images"] = data.validation.contents()
    unlabelled = set(data.extra.loader.contents()) if kept_out else set()
    for what, mine in kept_out.items():
        if both := sum(content in unlabelled for content in mine):
            words = f"{both} of the {len(mine)} {what} are among these"
            raise ConfigError(f"DATASET.EXTRA.TYPE is {name}; {words}: name other images")
    teacher: Teacher | None = getattr(distiller, "teacher", None)
    if teacher is not None and not teacher.reads_only_images:
        raise ConfigError(f"DATASET.EXTRA.TYPE is {name}; the outputs of a teacher of kind {kind} do not depend on the"
                          " image alone, so it does not teach unlabelled ones")  # fmt: skip
    if cfg.SOLVER.ACCUMULATE > 1:
        raise ConfigError(f"SOLVER.ACCUMULATE is {cfg.SOLVER.ACCUMULATE}; unlabelled images are not divided into"
                          " micro-batches: set it to 1")  # fmt: skip
