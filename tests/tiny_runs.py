"""Runs of tiny networks that take a second: started, stopped, killed, resumed, compared bit for bit."""

import functools
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt.distributed import on_first_process
from mdistiller_dfpt.runs.directory import existing_runs, new_run
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.saving import Progress, Saver, seed_process
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from .forks import forked

WRITING = ("open", "os.rename", "os.mkdir")
REMOVING = ("os.remove", "os.rmdir", "shutil.rmtree")


def run_of(name, folder, *words, make_data=None):
    """A trainer with run directories in `folder`, two epochs of three steps; `A+B`: the methods A and B combined."""
    kind = f"[{name.replace('+', ', ')}]" if "+" in name else name
    cfg = tiny_cfg("DISTILLER.TYPE", kind, "LOG.PREFIX", str(folder), "EXPERIMENT.NAME", "tiny", *words)
    distiller = tiny_distiller(kind, *words)
    data = make_data(cfg) if make_data else tiny_data(seed=cfg.SOLVER.SEED, extra=40 if distiller.needs_extra else 0)
    return Trainer(cfg, distiller, data)


def fit(trainer, resume=False):
    """Train in the directory that a run of this config has, as `launch.run` does."""
    cfg = trainer.cfg
    if not resume:
        seed_process(cfg.SOLVER.SEED)

    def place():
        return existing_runs(cfg)[-1] if resume and existing_runs(cfg) else new_run(cfg)

    return trainer.fit(on_first_process(place), resume=resume)


def stopped_after(epoch, name, folder, *words):
    """A run of three epochs that an exception ended right after the checkpoint of `epoch`."""
    stopped = run_of(name, folder, "SOLVER.EPOCHS", "3", *words)
    end_after(epoch, stopped)
    return stopped


def end_after(epoch, trainer):
    """Train until right after the checkpoint of `epoch`."""
    end_when(lambda done: len(done.epochs) == epoch, trainer)


def end_when(is_last, trainer):
    """Train until right after the first checkpoint whose progress `is_last`."""
    save = Saver.save

    def save_and_stop(self: Saver, done: Progress) -> None:
        save(self, done)
        if is_last(done):
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", save_and_stop)
        with pytest.raises(InterruptedError):
            fit(trainer)


def final_state(trainer):
    """Hashes of all weights and of the optimiser's buffers."""
    optimizer = {
        f"{key}.{name}": value
        for key, entry in trainer.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    return [state_hash(trainer.distiller.state_dict()), state_hash(optimizer)]


def outcome(trainer, resume=False):
    """The contents of a finished run: `final_state`, its metrics without times, and the length of its best file."""
    fit(trainer, resume)
    metrics = [[e["train"], e["test"], e["lr"]] for e in trainer.epochs]
    return [*final_state(trainer), metrics, (trainer.run / "best.safetensors").stat().st_size]


@functools.cache
def unbroken(name="KD", *words):
    """The outcome of such a run without interruption."""
    with tempfile.TemporaryDirectory() as folder:
        return forked(lambda: outcome(run_of(name, Path(folder), *words)))[1]


def continued(name, folder, *words, **more):
    """The outcome after a run in `folder` was interrupted; a run without a checkpoint is started again."""
    begun = any(folder.glob("**/checkpoints/epoch-*"))
    return outcome(run_of(name, folder if begun else folder / "again", *words, **more), resume=begun)


def after_each_step(trainer, act):
    """Call `act(number)` right after each update of the weights, with the number of updates so far."""
    count, plain = [], trainer.optimizer.step

    def step(*args, **kwargs):
        plain(*args, **kwargs)
        count.append(1)
        act(len(count))

    trainer.optimizer.step = step
    return trainer


def kill_after(trainer, step):
    """Send SIGKILL to this process right after the given update."""
    return after_each_step(trainer, lambda number: number == step and os.kill(os.getpid(), signal.SIGKILL))


def writes_below(folder, hear):
    """From now on, call `hear(event, args)` before each open for writing, rename, mkdir and removal below `folder`."""

    def audit(event, args):
        if event not in WRITING + REMOVING or not str(args[0]).startswith(str(folder)):
            return
        if event != "open" or (isinstance(args[1], str) and set(args[1]) & set("wax+")):
            hear(event, args)

    sys.addaudithook(audit)
