"""Files that a run saves: checkpoints of the full state, the best weights, its status."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..atomic import remove_parts, write_json, write_text
from ..config.load import dump_cfg
from ..data import Data
from ..distillers import Method
from ..distillers.choice import choice
from ..distributed import of_all_processes, on_first_process, rank, world_size
from ..environment import begun_in, changes, continued_in, words_of
from ..errors import CheckpointError, is_out_of_reach, lack_of_memory
from ..training.parameters import optimised
from .checkpoint import (
    CHECKPOINTS,
    NewerFormat,
    check_like,
    checkpoint_name,
    checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
    save_weights,
    set_aside,
)  # fmt: skip
from .continuing import continued, warn_of_changes
from .directory import CONFIG, STATUS
from .identity import Identity, write_identity
from .record import as_metadata, record_of

KEEP_CHECKPOINTS = 2
BEST = "best.safetensors"


def random_states() -> dict[str, Tensor]:
    """The states of PyTorch's random generators of all processes, on the CPU and on the current GPU; all take part."""
    states = {f"torch_rng{_of(number)}": state for number, state in enumerate(of_all_processes(torch.get_rng_state()))}
    if torch.cuda.is_initialized():
        for number, state in enumerate(of_all_processes(torch.cuda.get_rng_state())):
            states[f"cuda_rng{_of(number)}"] = state
    return states


def put_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore this process's state; a process that did not exist then starts from its rank and the first one's."""
    mine = states.get(f"torch_rng{_of(rank())}")
    torch.set_rng_state(states["torch_rng"] if mine is None else mine)
    if mine is None:
        seed_process(int(torch.randint(2**31, ())))
    cuda = states.get(f"cuda_rng{_of(rank())}")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def seed_process(seed: int) -> None:
    """Seed the random generators, differently in each process: dropout is not to repeat itself over their samples."""
    torch.manual_seed(seed + 1_000_003 * rank())


def _of(number: int) -> str:
    return f".{number}" if number else ""


@dataclass(frozen=True)
class Progress:
    """The progress of a run: records of finished epochs; steps, sums and samples of the averages of the current one."""

    epochs: list[dict[str, Any]]
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)  # samples that each average is over
    average: dict[str, Tensor] = field(default_factory=dict)  # of the deployed network's weights, if there is one
    prepared: int = 0  # passes over the training set before the first step
    factor: float | None = None  # on the distillation terms; None: not found yet, or none
    seconds: float = 0.0  # that the steps of the current epoch took
    statistics: dict[str, Tensor] = field(default_factory=dict)  # of BatchNorm, if measured again after these steps


class Saver:
    """Saves and loads the state of a run; only the first process writes."""

    def __init__(
        self, cfg: CN, run: Path, distiller: Method, optimizer: torch.optim.Optimizer, identity: Identity,
        environment: Mapping[str, Any],
    ):  # fmt: skip
        self.cfg, self.run, self.distiller, self.optimizer = cfg, run, distiller, optimizer
        self.identity, self.environment = identity, environment
        self.environments = [begun_in(environment, {})]
        self.config = dump_cfg(cfg, run)  # once: it takes longer than saving a small network
        self.last_save = time.monotonic()
        self.is_described = False
        if rank() == 0:  # nobody else writes here: the directory is locked
            remove_parts(run)

    def save(self, done: Progress) -> None:
        """Publish a checkpoint of the full state and delete the oldest."""
        self.last_save = time.monotonic()
        random, meters = random_states(), of_all_processes(({k: v.cpu() for k, v in done.sums.items()}, done.counts))
        if rank() > 0:
            return
        state = {
            "distiller": self.distiller.training_state(),
            "optimizer": self.optimizer.state_dict(),
            **random,
            "sums": meters[0][0],
            "sums_of_others": [sums for sums, _ in meters[1:]],
            "average": done.average,
            **({"statistics": done.statistics} if done.statistics else {}),
        }
        header = {
            "epoch": len(done.epochs),
            "step": done.step,
            "prepared": done.prepared,
            "factor": done.factor,
            "seconds": done.seconds,
            "counts": done.counts,
            "counts_of_others": [counts for _, counts in meters[1:]],
            "epochs": done.epochs,
            "distiller": choice(self.cfg).label,
            "student": self.cfg.DISTILLER.STUDENT,
            "identity": self.identity,
            "environments": self.environments,
            "config": self.config,
        }
        folder = self.run / CHECKPOINTS
        weights = {**self.distiller.deployed.state_dict(), **done.average, **done.statistics}
        save_checkpoint(folder / checkpoint_name(header), weights, state, header)
        prune(folder, KEEP_CHECKPOINTS)
        self.describe()

    def describe(self) -> None:
        """Write config and identity; a run that goes on is the old one until its first checkpoint."""
        if rank() == 0 and not self.is_described:
            write_text(self.run / CONFIG, self.config)
            write_identity(self.run, self.identity)
            self.is_described = True

    def save_student(self, name: str, weights: dict[str, Tensor], data: Data, epoch: Mapping[str, Any]) -> None:
        """Save weights of the deployed network after an epoch as file `name` of the run, with a record of the student.

        `epoch`: the record of the epoch, with its accuracies if it was evaluated.
        """
        if rank() == 0:
            accuracy = epoch.get("test", {}).get("student", {})
            record = record_of(self.cfg, data, epoch["epoch"], accuracy, self.identity.get("code"))
            save_weights(weights, self.run / name, as_metadata(record, weights))

    def save_teacher(self, name: str, weights: dict[str, Tensor]) -> None:
        """Save weights of a network that was trained along with the student."""
        if rank() == 0:
            save_weights(weights, self.run / name, {"format": "pt"})

    def is_due(self, step: int) -> bool:
        """Whether LOG.SAVE_EVERY requires a checkpoint after this step of an epoch."""
        number, _, unit = (self.cfg.LOG.SAVE_EVERY or "").partition(" ")
        if unit.startswith("step"):
            return step % int(number) == 0
        return unit.startswith("minute") and time.monotonic() - self.last_save >= 60 * float(number)

    def load_newest(self) -> Progress:
        """Restore the newest state that is intact and fits; those skipped are set aside, with a warning for each."""
        skipped: dict[Path, str] = {}
        for folder in on_first_process(lambda: checkpoints(self.run / CHECKPOINTS)):
            # One that cannot be used costs the steps since the previous one, not the run; all processes load the same
            fault, manifest, state = self._restored(folder)
            faults = [one for one in of_all_processes(fault) if one is not None]
            if faults:
                skipped[folder] = faults[0]
                continue
            # Only now: if none can be used, the config or its plugins may be to blame
            for other, why in skipped.items() if rank() == 0 else ():
                print(f"warning: {why}; using the previous one; kept as {set_aside(other).name}", file=sys.stderr)
            put_random_states(state)
            trains = len(manifest["epochs"]) < self.cfg.SOLVER.EPOCHS
            warn_of_changes(folder, manifest, self.identity, self.cfg, trains=trains)
            self.identity = continued(folder, manifest, self.identity, self.cfg, trains=trains)
            self.environments = continued_in(self.environment, manifest.get("environments", []), manifest)
            if trains and rank() == 0 and (changed := changes(self.environments, manifest)):
                print(f"warning: the run goes on in another environment, which its results will say: "
                      f"{'; '.join(changed)}", file=sys.stderr)  # fmt: skip
            step, prepared = manifest.get("step", 0), manifest.get("prepared", 0)
            print(f"resuming after {words_of(manifest)}", flush=True)
            sums, counts = _meters_of_this_process(manifest, state)
            average, factor = state.get("average", {}), manifest.get("factor")
            seconds = manifest.get("seconds", 0.0)
            statistics = state.get("statistics", {})
            at = (manifest["epochs"], step, sums, counts, average, prepared, factor)
            return Progress(*at, seconds, statistics)
        why = "".join(f": {fault}" for fault in list(skipped.values())[:1])
        raise CheckpointError(f"nothing to resume in {self.run}: it contains no intact checkpoint{why}")

    def _restored(self, folder: Path) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
        """(why a checkpoint cannot be used, its manifest, its state); CheckpointError if it is of another run."""
        try:
            manifest, state = load_checkpoint(folder)
        except NewerFormat:
            raise
        except CheckpointError as e:
            if lack_of_memory(e) or is_out_of_reach(e):  # it may be whole, and would be set aside
                raise
            return str(e), {}, {}
        # Refuse a state of another run before anything is overwritten
        continued(folder, manifest, self.identity, self.cfg)
        try:
            check_like({"distiller": state["distiller"]}, {"distiller": self.distiller.training_state()})
            check_like({"optimizer": state["optimizer"]}, {})
            self.distiller.load_training_state(state["distiller"])
            _load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as e:
            if lack_of_memory(e):  # no fault of the checkpoint, which would be set aside
                raise
            return f"{folder}: does not fit this config ({' '.join(str(e).split())[:300]})", {}, {}
        return None, manifest, state

    def status(self, state: str, done: Progress, reason: str = "") -> None:
        """Write status.json, for schedulers and users: running, finished, stopped or failed, at which step, and why."""
        if rank() == 0:
            write_json(
                self.run / STATUS,
                {
                    "state": state, "reason": reason, "epoch": len(done.epochs), "step": done.step, "pid": os.getpid(),
                    "host": socket.gethostname(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                },
            )  # fmt: skip


def _meters_of_this_process(
    manifest: dict[str, Any], state: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Its own sums and counts; with another number of processes, the first one has those of all."""
    first = state.get("sums", {})
    sums = [first, *state.get("sums_of_others", [])]
    counts = [manifest.get("counts") or dict.fromkeys(first, manifest.get("count", 0)),
              *manifest.get("counts_of_others", [])]  # fmt: skip
    if len(sums) == world_size():
        return sums[rank()], counts[rank()]
    if rank() > 0:
        return {}, {}
    names = dict.fromkeys(name for part in sums for name in part)
    total = {name: torch.stack([part[name] for part in sums if name in part]).sum(0) for name in names}
    return total, {name: sum(part.get(name, 0) for part in counts) for name in names}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` with the shape check that PyTorch omits; ValueError if a buffer and its parameter differ."""
    groups = state["param_groups"]
    own = optimised(optimizer)
    numbers = [n for group in groups for n in group["params"]]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in optimizer.param_groups]:
        raise ValueError(f"its optimiser has {len(numbers)} parameters, this one has {len(own)}")
    for number, parameter in zip(numbers, own, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                raise ValueError(
                    f"the optimiser's {name} {number} is {tuple(value.shape)}, its parameter {tuple(parameter.shape)}"
                )
    optimizer.load_state_dict(state)
