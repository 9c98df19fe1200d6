"""The one loop, for every method."""

import contextlib
import json
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from yacs.config import CfgNode as CN

from ..config import dump_cfg, flatten
from ..data import Batch, Data, Share
from ..distillers import Distiller
from ..distillers.build import method_label
from ..distillers.teacher_table import TeacherTable
from ..distributed import agreed, rank, world_size
from ..errors import CheckpointError, ConfigError, UserError
from ..models.fold import fold_batch_norm
from ..models.teachers import compare_with_record
from .checkpoint import WEIGHTS, write_json, write_text
from .evaluate import evaluate
from .graphs import CapturedSteps, CudaRecorder, Recorder, why_eager
from .hashing import state_hash
from .log import EventLog, Progress, duration, epoch_line, summary_table
from .memory import memory_explained
from .meters import Meters
from .optim import build_optimizer, keep_rates_on_device, learning_rate, set_learning_rate
from .parts import smallest_part
from .processes import parallel, share_buffers, synchronised
from .results import FORMAT, protocol, summarise
from .run_dir import BEST, CONFIG, RESULTS, RunLock, open_run, run_name
from .saving import Progressed, Saver
from .shapes import broadcasts_refused
from .signals import Requests, Stopped
from .teacher_ahead import TeacherAhead
from .teacher_table import fill, look_ahead, open_table
from .update import Updater
from .wandb_log import WandbLog

T = TypeVar("T")
# Where things lie on this machine is no part of a result
PLACES = ("LOG.", "DATASET.ROOT", "DISTILLER.TEACHER_CKPT", "DISTILLER.TEACHER_TABLE")


class Trainer:
    """Trains what of a distiller requires grad; `fit` leaves a run directory with weights and results.json."""

    def __init__(self, cfg: CN, distiller: Distiller, data: Data, teacher_name: str = ""):
        self.cfg, self.data = cfg, data
        self.device = data.train.device
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams, events and random numbers are those of the current one
        data.train.strong_view = distiller.needs_strong_view
        layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
        if cfg.SOLVER.SYNC_BN and world_size() > 1:
            distiller = synchronised(distiller, self.device)
        self.distiller = distiller.to(self.device, memory_format=layout)
        if cfg.DISTILLER.TEACHER_FOLD_BN:
            self._fold_frozen()
        self.teacher_name = teacher_name or cfg.DISTILLER.TEACHER
        try:
            self.optimizer = build_optimizer(cfg, self.distiller)
        except ValueError as e:
            raise ConfigError(str(e)) from None
        if cfg.SOLVER.ACCUMULATE > 1 and cfg.SOLVER.TRAINER == "dot":
            raise ConfigError(f"SOLVER.ACCUMULATE is {cfg.SOLVER.ACCUMULATE}; SOLVER.TRAINER dot takes whole batches")
        self.updater = Updater(cfg, self.distiller, self.optimizer, self.device)
        self.graphs: CapturedSteps | None = None
        self.epochs: list[dict[str, Any]] = []
        self.step = 0  # steps of the epoch under way
        self.meters = Meters(self.device)
        self.requests = Requests()
        self.company = 0  # other runs that take turns with this one in its process
        self.run: Path | None = None
        teacher = self.distiller.teacher
        self.teacher_sha256 = None if teacher is None else state_hash(teacher.state_dict())
        self.ahead: TeacherAhead | None = None
        if cfg.DISTILLER.TEACHER_TABLE:
            self.distiller.known_logits = open_table(
                cfg, self.distiller, data.train, data.num_classes, self.teacher_sha256
            )
        if cfg.DISTILLER.TEACHER_AHEAD > 1:
            self.ahead = self.distiller.known_logits = look_ahead(cfg, self.distiller, data.train, data.num_classes)

    def _fold_frozen(self) -> None:
        for network in self.distiller.frozen():
            if "forward" not in vars(network):  # a run beside this one has the same teacher
                layers = fold_batch_norm(network, self.data.image_shape)
                print(f"{type(network).__name__}: {layers} BatchNorm layers are folded into convolutions", flush=True)

    def fit(self, resume: bool = False) -> dict[str, Any]:
        """Train to SOLVER.EPOCHS and return the contents of results.json.

        With `resume`, continue the newest run of this config from its newest intact checkpoint. Raises `Stopped` where
        a signal asks to stop, behind a checkpoint.
        """
        return _result(self.fitting(resume))

    def fitting(self, resume: bool = False, alone: bool = True) -> Generator[None, None, dict[str, Any]]:
        """`fit` step by step, for who has something to do between two steps.

        Not `alone`: who takes the steps hears signals and refuses broadcasts, for all the runs that take turns.
        """
        self.run = agreed(lambda: open_run(self.cfg, resume))
        lock = RunLock(self.run) if rank() == 0 else None
        self.saver = Saver(
            self.cfg, self.run, self.distiller, self.optimizer, self.data.num_classes, self.data.num_train,
            self.teacher_sha256,
        )  # fmt: skip
        try:
            if resume:
                self._restore(self.saver.load_newest())
                if (self.run / RESULTS).exists() and len(self.epochs) >= self.cfg.SOLVER.EPOCHS:
                    print(f"{self.run} is finished; SOLVER.EPOCHS above {len(self.epochs)} continues it", flush=True)
                    return json.loads((self.run / RESULTS).read_text(encoding="utf-8"))
                self._refuse_to_go_back()
            if rank() == 0:
                write_text(self.run / CONFIG, dump_cfg(self.cfg))
            print(f"run directory {self.run}", flush=True)
            self.saver.status("running", self._progress())
            try:
                with contextlib.ExitStack() as stack:
                    if alone:
                        stack.enter_context(self.requests.heard())
                        stack.enter_context(broadcasts_refused())
                    stack.enter_context(memory_explained(self.cfg))
                    results = yield from self._fit()
            except BaseException as e:
                stopped = isinstance(e, Stopped | GeneratorExit)
                self.saver.status("stopped" if stopped else "failed", self._progress(), _reason(e))
                raise
            self.saver.status("finished", self._progress())
            return results
        finally:
            if lock is not None:
                lock.release()

    def one_epoch(self) -> dict[str, float]:
        """Averages of one epoch of steps, with no run directory behind them."""
        self._prepare()
        with broadcasts_refused():
            return self._train_epoch(1)

    def _fit(self) -> Generator[None, None, dict[str, Any]]:
        cfg, distiller = self.cfg, self.distiller
        # At the start, while the files on disk are those that run
        used_protocol = protocol(cfg, self.data, self._teacher_record(), self.device, self.company)
        self._prepare()
        if overhead := distiller.overhead(self.data.image_shape):
            print(overhead, flush=True)
        steps = len(self.data.train)
        first_process = rank() == 0
        events = EventLog(self.run / "events", cfg.LOG.TENSORBOARD and first_process, purge_step=len(self.epochs) + 1)
        wandb = WandbLog(cfg.LOG.WANDB and first_process, cfg.EXPERIMENT.PROJECT, run_name(cfg), self.run, flatten(cfg))
        started = time.monotonic()
        first = len(self.epochs) + 1
        try:
            for epoch in range(first, cfg.SOLVER.EPOCHS + 1):
                epoch_start = time.monotonic()
                trained = steps - self.step
                train = yield from self._steps(epoch)
                share_buffers(distiller)
                seconds = time.monotonic() - epoch_start
                record = {
                    "epoch": epoch,
                    "lr": learning_rate(cfg, epoch - 1 / steps),
                    "train": train,
                    "seconds": round(seconds * steps / trained, 3),
                    "images_per_second": round(self.data.num_train * trained / steps / seconds, 1),
                }
                if epoch % cfg.LOG.EVAL_FREQ == 0 or epoch == cfg.SOLVER.EPOCHS:
                    record["test"] = evaluate(distiller, self.data.test)
                self.epochs.append(record)
                self.step = 0
                self._start_averages()
                best = self._keep_best(record)
                elapsed = time.monotonic() - started
                left = elapsed / (epoch - first + 1) * (cfg.SOLVER.EPOCHS - epoch)
                print(epoch_line(record, cfg.SOLVER.EPOCHS, best, left), flush=True)
                events.scalars(record, epoch)
                wandb.scalars(record, epoch)
                self.saver.save(self._progress())
                if epoch % cfg.LOG.SAVE_CHECKPOINT_FREQ == 0:
                    self.saver.save_weights(f"student-epoch-{epoch:05d}.safetensors")
                self.saver.status("running", self._progress())
                if epoch < cfg.SOLVER.EPOCHS and (stop := self.requests.take_stop()):
                    raise Stopped(stop, f"behind epoch {epoch}")
        finally:
            events.close()
            wandb.close()
        return self._finish(used_protocol)

    def _progress(self) -> Progressed:
        return Progressed(self.epochs, self.step, self.meters.sums, self.meters.count)

    def _refuse_to_go_back(self) -> None:
        epochs, done = self.cfg.SOLVER.EPOCHS, len(self.epochs)
        if done + (self.step > 0) > epochs:
            where = f"{done} epochs" + (f" and {self.step} steps" if self.step else "")
            raise CheckpointError(f"{self.run}: has {where} behind it, and SOLVER.EPOCHS is {epochs}: ask for more")

    def _restore(self, done: Progressed) -> None:
        self.epochs, self.step = done.epochs, done.step
        self.meters = Meters(self.device)
        self.meters.sums = {name: value.to(self.device) for name, value in (done.sums or {}).items()}
        self.meters.count = done.count

    def _prepare(self) -> None:
        """What a method asks for before its first step: large enough batches, a pass over the training set."""
        loader, needed = self.data.train, self.distiller.min_batch
        for size in (loader.batch_size, loader.last_batch):
            if (smallest := smallest_part(size, self.cfg.SOLVER.ACCUMULATE)) < needed:
                many = f" in {world_size()} processes" if world_size() > 1 else ""
                raise ConfigError(
                    f"SOLVER.BATCH_SIZE is {loader.batch_size}; it leaves a last batch of {loader.last_batch}, of which"
                    f" {smallest} in one step{many}, and {method_label(self.cfg)} needs at least {needed}"
                )
        if self.data.test.num_samples < world_size():
            raise ConfigError(f"{world_size()} processes share {self.data.test.num_samples} test images: use fewer")
        if not self.epochs and not self.step:
            self.distiller.prepare(loader.epoch(0))
        self.updater.module = parallel(self.distiller)
        if self.cfg.DISTILLER.TEACHER_TABLE_FILL == "at once":
            self._fill_table()
        self.use_graphs()

    def _fill_table(self) -> None:
        table = self.distiller.known_logits
        if not isinstance(table, TeacherTable):
            return
        self.distiller.eval()
        for _ in fill(table, self.distiller, self.data.train):
            if stop := self.requests.take_stop():
                raise Stopped(stop, "while the teacher's table was filled")
        self.distiller.known_logits = table.whole(self.device)

    def use_graphs(self) -> None:
        """Take steps as captured graphs from here on, where the config asks for it and the method allows it."""
        if recorder := self._recorder():
            self.graphs = CapturedSteps(self._made_and_taken, recorder)
            keep_rates_on_device(self.optimizer, self.device)

    def work(self, epoch: int, first: int = 0) -> Iterator[Batch] | Iterator[Share]:
        """What `take` takes, step by step, from number `first` of an epoch on."""
        data = self.data.train
        return data.epoch(epoch, first) if self.graphs is None else data.start(epoch, first)

    def take(self, work: Batch | Share) -> None:
        """One update, added to the epoch's averages."""
        if self.ahead is not None:
            self.ahead.reach(work)
        if self.graphs is None:
            self.updater.step(work, self.meters)
        else:
            self.graphs.run(work)
        self.meters.counted(len(work.index))

    def _recorder(self) -> Recorder | None:
        """What makes graphs of steps; None where they run eagerly, and a line says why."""
        if not self.cfg.SOLVER.CUDA_GRAPH:
            return None
        if reason := why_eager(self.cfg, self.distiller, self.data.train):
            print(f"SOLVER.CUDA_GRAPH: steps run eagerly: {reason}", flush=True)
            return None
        return CudaRecorder()

    def _made_and_taken(self, share: Share) -> None:
        """All of a step that a graph holds: order, crop, flip, normalisation, both networks, the update."""
        self.updater.step(self.data.train.batch(share), self.meters)

    def _start_averages(self) -> None:
        """Averages of an epoch begin; a graph adds to them where they lie."""
        if self.graphs is not None and not self.distiller.uses_epoch:
            self.meters.clear()
            return
        self.meters = Meters(self.device)
        if self.graphs is not None:
            self.graphs.forget()

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training set; averages of the losses and of what the method logged."""
        return _result(self._steps(epoch))

    def _steps(self, epoch: int) -> Generator[None, None, dict[str, float]]:
        data = self.data.train
        self.distiller.train()
        label = f"epoch {epoch}/{self.cfg.SOLVER.EPOCHS}"
        for work in Progress(label, len(data), self.meters).over(self.work(epoch, self.step)):
            set_learning_rate(self.optimizer, learning_rate(self.cfg, epoch - 1 + (work.step - 1) / len(data)))
            self.take(work)
            self.step = work.step
            if self.run is not None and self.step < len(data):
                self._meet_requests(epoch)
            yield
        totals = self.meters.totals()
        self.updater.refuse_divergence(epoch)
        return totals

    def _meet_requests(self, epoch: int) -> None:
        """Between two steps: save where it is due or asked for, stop where a signal says so."""
        self.requests.save |= self.saver.is_due(self.step)
        stop, save = self.requests.take(self.step)
        if stop or save:
            self.updater.refuse_divergence(epoch)
            share_buffers(self.distiller)
            self.saver.save(self._progress())
            self.saver.status("running", self._progress())
        if stop:
            raise Stopped(stop, f"in epoch {epoch}, behind step {self.step}")

    def _teacher_record(self) -> dict[str, Any] | None:
        """Who teaches: name, hash of the weights, and accuracy as measured here."""
        teacher = self.distiller.teacher
        if teacher is None:
            return None
        plain = Distiller(teacher).eval()
        plain.set_precision(self.distiller.autocast_dtype, self.distiller.autocast_dtype)
        accuracy = evaluate(plain, self.data.test)["student"]
        record = compare_with_record(self.cfg.DATASET.TYPE, self.teacher_name, accuracy["top1"], self.teacher_sha256)
        print(f"teacher {self.teacher_name}: top-1 {accuracy['top1']:.2f} %" + (record and f"; {record}"), flush=True)
        if accuracy["top1"] < 200 / self.data.num_classes:
            print(f"warning: the teacher is near chance ({100 / self.data.num_classes:.1f} %)", file=sys.stderr)
        return {"name": self.teacher_name, "sha256": self.teacher_sha256, **accuracy}

    def _keep_best(self, record: dict[str, Any]) -> float | None:
        """Save the student's weights where this epoch is the best so far; the best top-1, ties to the earlier."""
        tested = [e for e in self.epochs if "test" in e]
        if not tested:
            return None
        best = summarise(tested)["top1"]
        if "test" in record and best["best_epoch"] == record["epoch"]:
            self.saver.save_weights(BEST)
        return best["best"]

    def _finish(self, used_protocol: dict[str, Any]) -> dict[str, Any]:
        self.saver.save_weights(WEIGHTS)
        results = {
            "format": FORMAT,
            "method": method_label(self.cfg),
            "student": self.cfg.DISTILLER.STUDENT,
            "protocol": used_protocol,
            "final": summarise(self.epochs),
            "student_sha256": state_hash(self.distiller.deployed.state_dict()),
            "seconds": round(sum(e["seconds"] for e in self.epochs), 1),
            "epochs": self.epochs,
            "config": {k: v for k, v in flatten(self.cfg).items() if not k.startswith(PLACES)},
        }
        if rank() == 0:
            write_json(self.run / RESULTS, results)
        print(summary_table(results))
        print(f"trained for {duration(results['seconds'])}; weights {self.run / WEIGHTS}, results {self.run / RESULTS}")
        return results


def _result(steps: Generator[None, None, T]) -> T:
    """What a generator returns, when it is run to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as e:
            return e.value


def _reason(error: BaseException) -> str:
    if isinstance(error, GeneratorExit):
        return "another run in its process ended all of them"
    return (str(error).splitlines() or [""])[0] if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
