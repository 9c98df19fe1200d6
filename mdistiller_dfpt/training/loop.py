"""The training loop: a run is a number of epochs, an epoch is a number of steps over the training set."""

import contextlib
import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Batch
from ..distillers.hook_values import step_of
from ..distributed import world_size
from ..errors import CheckpointError
from ..losses.term import trainable
from ..runs.log import ProgressBar, RunLogs, epoch_line
from ..runs.results import best_epoch, evaluation_of
from ..runs.saving import BEST, Saver
from .compiled import CompilationError, static
from .evaluate import accuracy, evaluate_method
from .failures import Failed, known_to_all
from .micro_batches import micro_batches
from .optim import set_learning_rate, set_mode
from .parallel import share_buffers
from .signals import Interrupt, Meetings, Requests, Stopped
from .state import Training
from .strength import strength


def train_epoch(run: Training, epoch: int, between_steps: Callable[[], None] = lambda: None) -> dict[str, float]:
    """One pass over the training set, continuing after the last step; returns averages of terms and logged values.

    `Failed` behind a step if the next batch cannot be drawn.
    """
    loader = run.data.train
    run.distiller.train()
    run.statistics = {}  # they were of the weights before
    set_mode(run.optimizer, training=True)
    batches = run.data.batches(epoch, first=run.step, strong=run.distiller.needs_strong_view)
    batches = known_to_all(run.mixing.over(batches))
    try:
        for batch in ProgressBar(f"epoch {epoch}/{run.last_epoch}", len(loader), run.meters).over(batches):
            # The learning rate depends on the progress, including the fraction of an epoch
            set_learning_rate(run.optimizer, run.learning_rate(epoch - 1 + (batch.step - 1) / len(loader)))
            with run.compiling():
                take_step(run, batch)
            run.step = batch.step
            # Save if due, stop if requested
            if run.step < len(loader):
                between_steps()
    except CompilationError:  # a signal to all processes of a terminal or job ends the compiler, too
        between_steps()
        raise
    run.guard.refuse_divergence(epoch)
    return run.meters.totals()


def take_step(run: Training, batch: Batch) -> None:
    """One update, for every method: forward, backward, guard, step, averages."""
    distiller, optimizer = run.distiller, run.optimizer
    optimizer.zero_grad()
    values: dict[str, Tensor] = {}
    micros = micro_batches(batch, run.accumulate)
    if run.compiled is not None:
        micros = [static(micro) for micro in micros]
    for micro in micros:
        with run.gradient_exchange(last=micro is micros[-1]):
            # Forward: student and teacher, and the terms of the loss
            logits, terms = step_of(distiller, run.forward(micro), len(micro.target), run.data.num_classes)
            # Checked here too: a class may implement `terms` or `forward` itself
            terms = run.matched(trainable(terms, type(distiller)))
            if run.at_start:
                run.meters.update(strength(distiller, logits, terms, micro), len(micro.target))
                run.at_start = False
            share = micro.size / batch.size
            terms = {name: term.times(share) for name, term in terms.items()}
            # Backward: gradients are accumulated over micro-batches
            run.backward(terms)
        run.meters.update({**run.take_logged(), **accuracy(logits, micro.target)}, len(micro.target))
        for name, term in terms.items():
            value = term.weighted.detach()
            values[name] = values[name] + value if name in values else value
    # Guard: methods may clip gradients, then values that are not finite are rejected
    for part in distiller.hooked():
        part.before_step()
    run.clip_gradient()
    loss = functools.reduce(torch.add, values.values())
    run.guard.check(loss, values, batch)
    # Step: update all parameters that require grad: student, prompts, embeddings
    optimizer.step()
    for part in distiller.hooked():
        part.after_step(batch)
    if run.average is not None:
        run.average.update()
    # Averages are accumulated on the device, without synchronising
    run.meters.update({"loss": loss, **values}, batch.size / world_size())


def fit(run: Training, saver: Saver, requests: Requests, logs: RunLogs) -> None:
    """Train to the last epoch; raises `Stopped` after a checkpoint if a signal requests a stop.

    An error between two steps, as of an image, loses nothing either: the state is saved before it ends the run.
    """
    try:
        return train_epochs(run, saver, requests, logs)
    except Failed as e:
        error = e.error
    with contextlib.suppress(CheckpointError, RuntimeError, OSError, MemoryError):  # the first error is the one to say
        meet_requests(run, saver, requests, has_failed=True)
    raise error  # not within `except`: what is behind it stays known


def train_epochs(run: Training, saver: Saver, requests: Requests, logs: RunLogs) -> None:
    """`fit`, which handles `Failed`."""
    steps, first, started = len(run.data.train), len(run.epochs) + 1, time.monotonic()
    remeasure = run.cfg.SOLVER.REMEASURE_BN
    for epoch in range(first, run.last_epoch + 1):
        # Train
        with run.timed():
            train = train_epoch(run, epoch, lambda: meet_requests(run, saver, requests))
            share_buffers(run.distiller, run.averaged())
        record = {
            "epoch": epoch,
            "lr": run.learning_rate(epoch - 1 / steps),
            "train": train,
            "seconds": round(run.seconds, 3),
            "images_per_second": round(run.data.train.num_per_epoch / run.seconds, 1),
        }
        # Evaluate the weights that will be deployed
        set_mode(run.optimizer, training=False)
        if epoch % run.cfg.LOG.EVAL_FREQ == 0 or epoch == run.last_epoch:
            if remeasure == "each" or (remeasure == "last" and epoch == run.last_epoch):
                run.measure_again()
                share_buffers(run.distiller, run.statistics.values())
            try:
                with run.deployable():
                    record[run.data.judged_on] = evaluate_method(run.distiller, run.data.judges, Meetings(requests))
            except Interrupt as e:  # outside of `deployable`: the weights are those in training again
                saver.save(run.progress())
                raise Stopped(e.number, f"in epoch {epoch}, while it was evaluated") from None
        run.end_epoch(record)
        # Save: the best weights, and last the state for resuming, so that nothing of the epoch is missing after a kill
        best = best_epoch(run.epochs)
        if best is record:
            saver.save_student(BEST, run.weights(), run.data, record)
        if epoch % run.cfg.LOG.SAVE_CHECKPOINT_FREQ == 0:
            saver.save_student(f"student-epoch-{epoch:05d}.safetensors", run.weights(), run.data, record)
        logs.scalars(record, epoch)
        saver.save(run.progress())
        saver.status("running", run.progress())
        # Log, once it is saved: the output may be closed
        best_top1 = None if best is None else evaluation_of(best)["student"]["top1"]
        left = (time.monotonic() - started) / (epoch - first + 1) * (run.last_epoch - epoch)
        print(epoch_line(record, run.last_epoch, best_top1, left), flush=True)
        # Stop if requested
        if epoch < run.last_epoch and (stop := requests.poll_stop()):
            raise Stopped(stop, f"after epoch {epoch}")


def meet_requests(run: Training, saver: Saver, requests: Requests, *, has_failed: bool = False) -> None:
    """Between two steps: save if due or requested, stop if a signal requests it; `has_failed`: it is the last time."""
    # Processes agree, so that all of them save and stop after the same step
    requests.save |= saver.is_due(run.step)
    stop, save = requests.poll(0 if has_failed else run.step)
    epoch = len(run.epochs) + 1
    if stop or save or (has_failed and run.step):
        # Save: a state that diverged must not replace a good one; buffers become those that are saved
        run.guard.refuse_divergence(epoch)
        share_buffers(run.distiller, run.averaged())
        saver.save(run.progress())
        saver.status("running", run.progress())
    if stop:
        raise Stopped(stop, f"in epoch {epoch}, after step {run.step}")
