"""A run: trains a distiller on a dataset and writes weights and results to a run directory."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..checksum import read_checked_json, write_checked_json
from ..data import Data
from ..data.loader import Epoch
from ..distillers import Method
from ..distillers.choice import choice
from ..distillers.hook_values import paths_of
from ..distributed import on_first_process, rank, world_size
from ..environment import environment, packages_of
from ..errors import CheckpointError, ConfigError, reason
from ..models.dummy import dummy_image, probing
from ..models.published import compare_with_record
from ..models.statistics import single_values
from ..runs.checkpoint import WEIGHTS
from ..runs.directory import RESULTS, is_finished, make_folder, run_name
from ..runs.hashing import state_hash
from ..runs.identity import Identity, fingerprint
from ..runs.locks import RunLock
from ..runs.log import RunLogs, duration, summary_table
from ..runs.results import FORMAT, commit, protocol
from ..runs.saving import Saver
from ..runs.weights import TEACHER_WEIGHTS
from ..teachers import Teacher
from ..teachers.hooked import passes
from .broadcasts import broadcasts_refused
from .cached_logits import cache_logits, fill_caches
from .evaluate import evaluate
from .failures import Failed
from .final import final_results
from .loop import fit, train_epoch
from .micro_batches import refuse_small
from .notices import warn_of_chance, warn_of_one_class, warn_of_warmup, warn_unsettled
from .optim import in_words
from .out_of_memory import memory_explained
from .own_parts import own_identity, with_own_parts
from .signals import Requests, Stopped
from .state import Training

Judge = Callable[[], object]


class Trainer:
    """Trains all parameters of a distiller that require grad; `fit` writes weights and results to a run directory.

    `identity`: what the run computes, if it is known already.
    """

    run: Path  # the run directory, set by `fit` where it is given one

    def __init__(self, cfg: CN, distiller: Method, data: Data, identity: Identity | None = None):
        if not isinstance(data, Data):
            raise TypeError(f"data is a {type(data).__name__}: give the Data of build_data, or of data_from_loaders"
                            " around DataLoaders of your own")  # fmt: skip
        if identity is None:
            cfg = with_own_parts(cfg, distiller, data)
        self.training = Training(cfg, distiller, data)
        self.cfg, self.data = cfg, self.training.data
        self.requests = Requests()
        self.teacher: Teacher | None = getattr(self.training.distiller, "teacher", None)
        self.is_own_start = identity is None  # whether the initial weights are the caller's
        self.identity = own_identity(cfg, self.distiller, data) if identity is None else identity
        self.caches = cache_logits(cfg, self.distiller, data, self.identity) if cfg.DISTILLER.LOGITS_CACHE else {}

    @property
    def distiller(self) -> Method:
        """The trained distiller, on its device."""
        return self.training.distiller

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of its parameters."""
        return self.training.optimizer

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of the finished epochs."""
        return self.training.epochs

    @property
    def step(self) -> int:
        """Steps taken in the current epoch."""
        return self.training.step

    def fit(
        self, run: str | os.PathLike[str] | None = None, *, resume: bool = False, judge: Judge | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """Train to SOLVER.EPOCHS and return the contents of results.json.

        `run`: the directory for checkpoints, weights and results; None: nothing is kept but what is returned and the
        distiller itself. With `resume`, continue the run in it from its newest intact checkpoint; CheckpointError if
        it is of another run. Raises `Stopped` after a checkpoint if a signal requests a stop. `judge` is called with
        the weights saved, before the results: with these, the run is finished.
        """
        # From the first line on: of a stop signal before the first step, the run is saved behind that
        with self.requests.listening():
            if run is None:
                return self._fit_in_passing(judge)
            self.run = Path(run)
            results = self._fit_in(self.run, resume, judge)
            print(f"weights {self.run / WEIGHTS}, results {self.run / RESULTS}", flush=True)
            return results

    def _fit_in_passing(self, judge: Judge | None) -> dict[str, Any]:
        """`fit` in a directory that is deleted behind it."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                return self._fit_in(Path(folder), False, judge)
        except Stopped as e:
            raise Stopped(e.number, e.where, "nothing of it is kept: `fit` was given no directory") from None

    def _fit_in(self, run: Path, resume: bool, judge: Judge | None) -> dict[str, Any]:
        if self.is_own_start and (given := self.cfg.DISTILLER.STUDENT_CKPT):
            raise ConfigError(f"DISTILLER.STUDENT_CKPT is {given}; this student is the program's: load these weights"
                              " into it, with runs.weights.load_into, and remove the key")  # fmt: skip
        on_first_process(lambda: make_folder(run, empty=not resume))
        packages = self.data.packages | packages_of([*self.distiller.modules(), self.optimizer])
        packages |= {"PIL"} if self.distiller.needs_strong_view else set()
        here = environment(self.training.device, packages, commit())  # now, while the files on disk are those being run
        lock = RunLock(run) if rank() == 0 else None
        training = self.training
        if self.is_own_start and not resume:
            self.identity["start"] = state_hash(training.distiller.training_state())
        saver = Saver(self.cfg, run, training.distiller, training.optimizer, self.identity, here)
        try:
            # Resume: restore the newest state; a finished run is reported, not repeated
            if resume:
                training.restore(saver.load_newest())
                self.identity = saver.identity
                if is_finished(run) and len(training.epochs) == training.last_epoch:
                    print(f"{run} is finished; raise SOLVER.EPOCHS above {len(training.epochs)} to continue",
                          flush=True)  # fmt: skip
                    return read_checked_json(run / RESULTS)
                self._refuse_to_go_back(saver)
            # Train: whatever ends the run is recorded in its status
            if not resume:
                saver.describe()
            print(f"run directory {run}", flush=True)
            saver.status("running", training.progress())
            try:
                with broadcasts_refused(), memory_explained(self.cfg):
                    return self._fit(saver, judge)
            except BaseException as e:
                saver.status("stopped" if isinstance(e, Stopped) else "failed", training.progress(), reason(e))
                raise
        finally:
            if lock is not None:
                lock.release()

    def _fit(self, saver: Saver, judge: Judge | None) -> dict[str, Any]:
        teacher, optimizer = self._teacher_record(), in_words(self.optimizer)
        used_protocol = protocol(self.cfg, self.data, teacher, optimizer, saver.environment)
        own = self.identity.get("normalisation", {})
        used_protocol["normalisation"] = {"images": self.data.train.normalised_by, **own}
        for network, words in own.items():
            print(f"{network}: images are normalised by its own {words}", flush=True)
        for network in ("teacher", "student"):
            if size := self.cfg.DISTILLER[f"{network.upper()}_SIZE"]:
                print(f"{network}: images are resized to {size}x{size}", flush=True)
        self.prepare(saver)
        warn_unsettled(self.training)
        warn_of_warmup(self.cfg)
        if overhead := self.distiller.overhead(self.data.image_shape):
            print(overhead, flush=True)
        logs = RunLogs(self.cfg, saver.run, run_name(self.cfg), purge_step=len(self.training.epochs) + 1)
        with contextlib.closing(logs):
            fit(self.training, saver, self.requests, logs)
        return self._finish(saver, used_protocol, judge)

    def one_epoch(self, epoch: int = 1) -> dict[str, float]:
        """Averages over an epoch of training, without a run directory."""
        self.prepare()
        try:
            with broadcasts_refused():
                return train_epoch(self.training, epoch)
        except Failed as e:
            error = e.error
        raise error  # there is nothing to save

    def prepare(self, saver: Saver | None = None) -> None:
        """Prepare for the first step: check the batch sizes, and let the method pass over the training set."""
        run = self.training
        refuse_small(self.data.train, self.cfg.SOLVER.ACCUMULATE, self.distiller.min_batch, choice(self.cfg).label)
        if (smallest := min(self.data.test.num_samples, self.data.judges.num_samples)) < world_size():
            raise ConfigError(f"{world_size()} processes share {smallest} test images: use fewer")
        self._try_evaluation()
        # A resumed run has what `prepare` measured in its state
        if not run.epochs and not run.step:
            self._pass_over_data(saver)
        run.join_processes()
        if self.caches and self.cfg.DISTILLER.LOGITS_CACHE_FILL == "first":
            self._fill_caches(saver)

    def _pass_over_data(self, saver: Saver | None) -> None:
        """The passes that method and teacher make before the first step; a state is saved after each of several."""
        run = self.training
        for part, epoch in [*passes(self.distiller.hooked())][run.prepared :]:
            part.prepare(Epoch(self.data.train, epoch))
            run.prepared += 1
            if part.passes > 1 and saver is not None:
                saver.save(run.progress())
                saver.status("running", run.progress())
                if stop := self.requests.poll_stop():
                    raise Stopped(stop, f"after pass {run.prepared} before the first epoch")

    def _try_evaluation(self) -> None:
        """PluginError if the logits to evaluate do not have the right shape; on a black image, before any training.

        ConfigError if a BatchNorm gets a single value of each channel from an image, and a batch is of one image.
        """
        gpus = [self.training.device] if self.training.device.type == "cuda" else []
        trained = [module for module in self.distiller.train().modules() if module.training]
        with torch.random.fork_rng(gpus), probing(self.distiller), single_values(self.distiller, trained) as single:
            image = dummy_image(self.distiller.student, self.data.image_shape)
            paths_of(self.distiller, image, self.data.num_classes)
        if single and not (self.cfg.SOLVER.SYNC_BN and world_size() > 1):
            refuse_small(self.data.train, self.cfg.SOLVER.ACCUMULATE, 2, f"the BatchNorm {single[0]}, over one pixel,")

    def _refuse_to_go_back(self, saver: Saver) -> None:
        run = self.training
        if len(run.epochs) + (run.step > 0) > run.last_epoch:
            where = f"{len(run.epochs)} epochs" + (f" and {run.step} steps" if run.step else "")
            raise CheckpointError(
                f"{saver.run}: has completed {where}, and SOLVER.EPOCHS is {run.last_epoch}: raise it"
            )

    def _fill_caches(self, saver: Saver | None) -> None:
        def stop_if_asked() -> None:
            if stop := self.requests.poll_stop():
                if saver is not None:
                    saver.save(self.training.progress())
                raise Stopped(stop, "while the logits cache was filled")

        assert self.teacher is not None
        self.distiller.eval()
        fill_caches(self.teacher, self.caches, self.data.train, stop_if_asked)

    def _teacher_record(self) -> dict[str, Any] | None:
        """The frozen teacher's name, hash of its weights, and accuracy as measured here, in this run's precision."""
        if (teacher := self.teacher) is None or not teacher.frozen():
            return None
        paths = evaluate(lambda image: {"teacher": teacher.output_of(teacher.network, image).logits}, self.data.test)
        measured, name, kind = paths["teacher"], choice(self.cfg).teacher, choice(self.cfg).kind
        sha256, precision = state_hash(teacher.network.state_dict()), self.cfg.SOLVER.AMP
        record = compare_with_record(self.cfg.DATASET.TYPE, name, measured["top1"], sha256)
        print(f"teacher {name}: top-1 {measured['top1']:.2f} %" + (record and f"; {record}"), flush=True)
        warn_of_chance(measured, self.data.num_classes)
        return {"name": name, "kind": kind, "sha256": sha256, "precision": precision, **measured}

    def _finish(self, saver: Saver, used_protocol: dict[str, Any], judge: Judge | None) -> dict[str, Any]:
        run = self.training
        final, last = final_results(run, saver), run.epochs[-1]
        if "validation" in final:  # then no epoch has an accuracy on the test set
            last = {**last, "test": {"student": {metric: final[metric]["last"] for metric in ("top1", "top5")}}}
        saver.save_student(WEIGHTS, run.weights(), self.data, last)
        if self.teacher is not None and self.teacher.starts_untrained:
            saver.save_teacher(TEACHER_WEIGHTS, self.teacher.network.state_dict())
        if judge is not None:
            judge()
        results = {
            "format": FORMAT,
            "method": choice(self.cfg).label,
            "student": self.cfg.DISTILLER.STUDENT,
            "protocol": used_protocol,
            "final": final,
            "student_sha256": state_hash(run.weights()),
            "seconds": round(sum(e["seconds"] for e in run.epochs), 1),
            "epochs": run.epochs,
            "fingerprint": fingerprint(self.identity),
            "identity": self.identity,
            "environments": saver.environments,
        }
        saver.describe()  # a run that was resumed behind its last epoch has saved no checkpoint
        # The results last: if a run is killed before them, it is continued, and writes its status again
        saver.status("finished", run.progress())
        if rank() == 0:
            write_checked_json(saver.run / RESULTS, results)
        print(summary_table(results))
        warn_of_one_class(run)
        print(f"trained for {duration(results['seconds'])}")
        return results
