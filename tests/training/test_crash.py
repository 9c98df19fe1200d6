"""A run that is killed at any point and resumed ends bit-identical to an uninterrupted one."""

import json
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.runs.saving import Saver, seed_process
from mdistiller_dfpt.testing import tiny_data
from mdistiller_dfpt.training.signals import Stopped

from ..forks import forked
from ..tiny_runs import (
    after_each_step,
    continued,
    final_state,
    fit,
    kill_after,
    outcome,
    run_of,
    unbroken,
    writes_below,
)

METHODS = sorted(DISTILLERS)
STEPS = 6  # two epochs of three
EVERY_STEP = ("LOG.SAVE_EVERY", "1 step")
TWO_MOMENTA = ("SOLVER.TRAINER", "dot")
PROMPTED = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 1, prompt: 2}")
MICRO_BATCHES = ("SOLVER.ACCUMULATE", "2", "SOLVER.AMP", "bf16", "SOLVER.CHANNELS_LAST", "True")
RUNS = {
    **{name: (name, ()) for name in [*METHODS, "DFPTKD+CRD"]},
    **{f"{name} with two momenta": (name, TWO_MOMENTA) for name in ("KD", "CRD", "DFPTKD")},
    "DKD by a prompted teacher": ("DKD", PROMPTED),
    "DFPTKD in micro-batches of bfloat16": ("DFPTKD", MICRO_BATCHES),
}


def cut_off(name, folder, step, *words, resume=False, **more):
    """A run that is killed after the given update of its weights; it saves after each."""
    return outcome(kill_after(run_of(name, folder, *EVERY_STEP, *words, **more), step), resume)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), RUNS.values(), ids=RUNS)
def test_killed_after_any_step(name, words, tmp_path):
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        ended, _ = forked(lambda folder=folder, step=step: cut_off(name, folder, step, *words))
        assert ended == signal.SIGKILL
        found = forked(lambda folder=folder: continued(name, folder, *EVERY_STEP, *words))
        assert found == (0, unbroken(name, *words)), f"killed after step {step}"


@pytest.mark.slow
@pytest.mark.parametrize("fill", ["lazily", "first"])
@pytest.mark.parametrize("step", [1, 4])
def test_killed_beside_a_logits_cache(step, fill, tmp_path):
    def words(folder):
        return ("DISTILLER.LOGITS_CACHE", str(tmp_path / folder), "DISTILLER.LOGITS_CACHE_FILL", fill)

    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole", *words("cache of the whole"))))
    killed = tmp_path / "killed"
    assert forked(lambda: cut_off("KD", killed, step, *words("cache")))[0] == signal.SIGKILL
    assert forked(lambda: continued("KD", killed, *EVERY_STEP, *words("cache"))) == (0, expected)


def kill_at_write(number, folder):
    """SIGKILL at the given one of these events; a list of all so far."""
    seen = []

    def hear(event, args):
        seen.append(event)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    writes_below(folder, hear)
    return seen


@pytest.mark.slow
def test_killed_at_any_write_rename_or_removal(tmp_path):
    words = ("LOG.SAVE_EVERY", "2 steps", "LOG.SAVE_CHECKPOINT_FREQ", "1")

    def whole():
        seen = kill_at_write(0, tmp_path)
        return [outcome(run_of("KD", tmp_path / "whole", *words)), len(seen)]

    def killed(folder, number):
        kill_at_write(number, tmp_path)
        return outcome(run_of("KD", folder, *words))

    _, (expected, count) = forked(whole)
    assert expected == unbroken()
    assert count > 30
    for number in range(1, count + 1):
        folder = tmp_path / f"killed{number}"
        ended, _ = forked(lambda folder=folder, number=number: killed(folder, number))
        assert ended == signal.SIGKILL
        assert forked(lambda folder=folder: continued("KD", folder, *words)) == (0, expected), (
            f"killed at write {number}"
        )
        kept = [path.name for path in (folder / "again" if (folder / "again").exists() else folder).rglob("student-*")]
        assert sorted(kept) == ["student-epoch-00001.safetensors", "student-epoch-00002.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["student.safetensors", "state.pt", "manifest.json"])
def test_killed_in_the_middle_of_writing_a_checkpoint(part, tmp_path):
    """By the kernel, at the byte where the file reaches the largest size that the process may write."""
    limit = 1000

    def killed():
        created = []

        def hear(event, args):
            if event == "open" and Path(str(args[0])).name.startswith(f".{part}.") and args[2] & os.O_EXCL:
                created.append(args[0])
                if len(created) == 4:
                    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        sys.addaudithook(hear)
        fit(run_of("KD", tmp_path, *EVERY_STEP))

    assert forked(killed)[0] == signal.SIGXFSZ
    (torn,) = tmp_path.glob("**/checkpoints/.epoch-*.part")
    assert part not in [path.name for path in torn.iterdir()]
    half = max(path.stat().st_size for path in torn.glob(".*"))
    assert half == (0 if part == "student.safetensors" else limit), "safetensors asks for the whole size first"
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())
    assert not list(tmp_path.glob("**/.epoch-*"))


def damage_newest(folder, kind):
    """Damage the newest checkpoint as a faulty disk might, unless it is the only one."""
    saved = sorted(folder.glob("**/checkpoints/epoch-*"))
    state = saved[-1] / "state.pt" if len(saved) > 1 else folder
    if not state.is_file():
        return
    raw = state.read_bytes()
    if kind == "truncated":
        state.write_bytes(raw[: len(raw) // 2])
    elif kind == "flipped":
        state.write_bytes(raw[:-100] + bytes([raw[-100] ^ 4]) + raw[-99:])
    elif kind == "lost":
        state.unlink()


EVENTS = st.tuples(st.integers(1, 4), st.sampled_from(["", "truncated", "flipped", "lost"]))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
          phases=[Phase.generate])  # fmt: skip
@given(events=st.lists(EVENTS, min_size=1, max_size=5), method=st.sampled_from(["KD", "CRD", "DFPTKD"]))
def test_any_sequence_of_kills_and_damage_ends_as_if_nothing_had_happened(events, method, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    for step, damage in events:
        begun = any(folder.glob("**/checkpoints/epoch-*"))
        forked(lambda step=step, begun=begun: cut_off(method, folder, step, resume=begun))
        damage_newest(folder, damage)
    assert forked(lambda: continued(method, folder, *EVERY_STEP)) == (0, unbroken(method))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("0", "0"), ("1", "1"), ("2", "2"), ("2", "0"), ("0", "1")])
def test_killed_with_any_number_of_workers_and_resumed_with_another(before, after, tmp_path):
    data = write_data_set("folder", tmp_path / "data", size=20, classes=5)
    words = [*data, "DATASET.SIZE", "8", "SOLVER.BATCH_SIZE", "4", "MODEL.FAMILY", "cifar"]

    def with_workers(number):
        return (*words, "DATASET.NUM_WORKERS", number)

    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole", *with_workers("0"), make_data=build_data)))
    for step in (2, 4):
        folder = tmp_path / f"killed{step}"
        killed = forked(lambda f=folder, n=step: cut_off("KD", f, n, *with_workers(before), make_data=build_data))
        assert killed[0] == signal.SIGKILL
        found = forked(lambda f=folder: continued("KD", f, *EVERY_STEP, *with_workers(after), make_data=build_data))
        assert found == (0, expected)


@pytest.mark.parametrize("limit", [100, 3000, 9000])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(limit, tmp_path):
    def full():
        trainer, plain = run_of("KD", tmp_path, *EVERY_STEP), Saver.save

        def save(self, done):
            if done.step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            plain(self, done)

        Saver.save = save
        try:
            fit(trainer)
        except CheckpointError as e:
            return str(e)

    ended, message = forked(full)
    assert ended == 0
    assert re.search(r"cannot be written \(.*[Ff]ile too large", message)
    assert message.endswith("and repeat the command, or continue a run with --resume")
    assert "\n" not in message
    (saved,) = tmp_path.glob("**/checkpoints/*")
    assert saved.name == "epoch-00000-step-0000001"
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_step_and_stops(number, code, tmp_path):
    def stopped():
        handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
        trainer = run_of("KD", tmp_path)
        try:
            fit(after_each_step(trainer, lambda count: count == 2 and os.kill(os.getpid(), number)))
        except Exception as e:
            restored = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
            status = json.loads((trainer.run / "status.json").read_text())
            return [type(e).__name__, e.exit_code, str(e), restored, status["state"], status["epoch"], status["step"]]

    _, (kind, exit_code, message, restored, state, epoch, step) = forked(stopped)
    assert (kind, exit_code, restored) == ("Stopped", code, True)
    assert message == f"stopped by {signal.Signals(number).name} in epoch 1, after step 2; continue with --resume"
    assert (state, epoch, step) == ("stopped", 0, 2)
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())


@pytest.mark.parametrize("opened", [os.openpty, os.pipe], ids=["a terminal", "a pipe"])
def test_a_signal_saves_also_where_what_prints_it_is_closed_by_then(opened, tmp_path):
    """As where a window is closed, or Ctrl-C ends the `tee` behind a pipe as well."""

    def stopped():
        reading, writing = opened()
        os.dup2(writing, 2)

        def close_and_stop():
            os.close(reading)
            os.kill(os.getpid(), signal.SIGHUP)

        try:
            fit(after_each_step(run_of("KD", tmp_path), lambda count: count == 2 and close_and_stop()))
        except Exception as e:
            return str(e)

    assert forked(stopped) == (0, "stopped by SIGHUP in epoch 1, after step 2; continue with --resume")
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())


MOMENTS = {
    "the first line of a run": ("mdistiller_dfpt.training.trainer", "make_folder", 1, "in epoch 1, after step 1"),
    "its lock": ("mdistiller_dfpt.training.trainer", "RunLock", 1, "in epoch 1, after step 1"),
    "its description": ("mdistiller_dfpt.runs.saving", "write_identity", 1, "in epoch 1, after step 1"),
    "the evaluation of its teacher": ("mdistiller_dfpt.training.trainer", "evaluate", 1, "in epoch 1, after step 1"),
    "validation": ("mdistiller_dfpt.training.loop", "evaluate_method", 1, "in epoch 1, while it was evaluated"),
    "the writing of a checkpoint": ("mdistiller_dfpt.runs.saving", "save_checkpoint", 1, "after epoch 1"),
    "the drawing of a batch": ("mdistiller_dfpt.data.in_memory", "crop_flip", 2, "in epoch 1, after step 2"),
    "the last validation": (
        "mdistiller_dfpt.training.loop",
        "evaluate_method",
        2,
        "in epoch 2, while it was evaluated",
    ),
    "the last test": ("mdistiller_dfpt.training.final", "evaluate_method", 1, None),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_stops_at_the_next_step_or_epoch(moment, tmp_path):
    module, name, call, where = MOMENTS[moment]

    def stopped():
        trainer = run_of("KD", tmp_path)
        plain, calls = getattr(sys.modules[module], name), []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*args, **kwargs)

        setattr(sys.modules[module], name, interrupted)
        try:
            fit(trainer)
        except Stopped as e:
            return [e.exit_code, str(e)]
        return None

    message = where and [143, f"stopped by SIGTERM {where}; continue with --resume"]
    assert forked(stopped) == (0, message), "a run that has completed its last epoch finishes"
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())


def test_a_stop_signal_in_a_program_is_answered_once_and_promises_nothing_that_is_not_kept(tmp_path):
    def stopped_in(run):
        seed_process(1)
        trainer = after_each_step(run_of("KD", tmp_path), lambda count: count == 2 and signal.raise_signal(15))
        try:
            trainer.fit(run)
        except Stopped as e:
            return trainer, str(e)

    def stopped():
        _, first = stopped_in(None)
        trainer, second = stopped_in(tmp_path / "kept")
        trainer.fit(trainer.run, resume=True)
        return [first, second, final_state(trainer)]

    where = "stopped by SIGTERM in epoch 1, after step 2"
    nothing, kept = f"{where}; nothing of it is kept: `fit` was given no directory", f"{where}; continue with --resume"
    assert forked(stopped) == (0, [nothing, kept, unbroken()[:2]])


def test_a_run_of_one_step_an_epoch_is_stopped_too(tmp_path):
    def stopped():
        trainer = run_of("NONE", tmp_path, make_data=lambda cfg: tiny_data(batch=48))
        try:
            fit(after_each_step(trainer, lambda count: os.kill(os.getpid(), signal.SIGTERM)))
        except Exception as e:
            return str(e)

    assert forked(stopped) == (0, "stopped by SIGTERM in epoch 1, while it was evaluated; continue with --resume")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2], ids=lambda n: n.name)
def test_several_signals_of_any_kind_save_once(number, tmp_path):
    def several(count):
        for one in (number, signal.SIGTERM, number):
            os.kill(os.getpid(), one)

    def stopped():
        signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
        saves, save = [], Saver.save
        Saver.save = lambda self, done: (saves.append(done.step), os.kill(os.getpid(), number), save(self, done))
        try:
            fit(after_each_step(run_of("KD", tmp_path), several))
        except Stopped as e:
            return [e.exit_code, saves]

    assert forked(stopped) == (0, [128 + number, [1]])
    assert forked(lambda: continued("KD", tmp_path)) == (0, unbroken())


def test_a_signal_that_nohup_ignores_stays_ignored(tmp_path):
    def ignored():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return outcome(after_each_step(run_of("KD", tmp_path), lambda count: os.kill(os.getpid(), signal.SIGHUP)))

    assert forked(ignored) == (0, unbroken())


def test_many_sigusr1_at_once_save_once(tmp_path):
    def asked():
        saved, save = [], Saver.save
        Saver.save = lambda self, done: (saved.append([len(done.epochs), done.step]), save(self, done))
        act = lambda count: [os.kill(os.getpid(), signal.SIGUSR1) for _ in range(100)]  # noqa: E731
        return [outcome(after_each_step(run_of("KD", tmp_path), act)), saved]

    assert forked(asked) == (0, [unbroken(), [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]])


def test_sigusr1_saves_and_goes_on(tmp_path):
    def asked():
        trainer, saved, save = run_of("KD", tmp_path), [], Saver.save
        Saver.save = lambda self, done: (saved.append([len(done.epochs), done.step]), save(self, done))
        found = outcome(after_each_step(trainer, lambda count: count == 4 and os.kill(os.getpid(), signal.SIGUSR1)))
        return [saved, json.loads((trainer.run / "status.json").read_text())["state"], found]

    assert forked(asked) == (0, [[[1, 0], [1, 1], [2, 0]], "finished", unbroken()])
