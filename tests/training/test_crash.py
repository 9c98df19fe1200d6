"""Killed anywhere, a run that is resumed ends as if nothing had happened, to the last bit."""

import json
import os
import re
import resource
import signal
import sys
import traceback

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

METHODS = sorted(DISTILLERS)
STEPS = 6  # two epochs of three


def forked(work):
    """(signal that ended it, what `work()` returned) of a child of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            with open(os.devnull, "w") as sys.stdout:
                os.write(writing, json.dumps(work()).encode())
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), json.loads(text) if text else None


def run_of(name, folder, *words, make_data=None):
    """A trainer of two epochs that saves behind every step; `A+B`: of the methods A and B together."""
    names = name.split("+")
    kind = name if len(names) == 1 else f"[{', '.join(names)}]"
    cfg = tiny_cfg("DISTILLER.TYPE", kind, "LOG.PREFIX", str(folder), "LOG.SAVE_EVERY", "1 step", *words)
    return Trainer(cfg, tiny_distiller(kind), make_data(cfg) if make_data else tiny_data())


def outcome(trainer, resume=False):
    """Hashes of all that a finished run holds, and its metrics without the clock."""
    trainer.fit(resume)
    optimizer = {
        f"{key}.{name}": value
        for key, entry in trainer.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    metrics = [[e["train"], e["test"]] for e in trainer.epochs]
    best = (trainer.run / "best.safetensors").read_bytes()
    return [state_hash(trainer.distiller.state_dict()), state_hash(optimizer), metrics, len(best)]


def kill_behind(trainer, step):
    """SIGKILL to this process behind the given optimiser step."""
    taken, plain = [], trainer.optimizer.step

    def counted(*args, **kwargs):
        plain(*args, **kwargs)
        taken.append(1)
        if len(taken) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.optimizer.step = counted
    return trainer


def resumed(name, folder, *words, **more):
    """The outcome after a kill; a run that had saved nothing yet is begun again."""
    begun = any(folder.glob("**/checkpoints/epoch-*"))
    return outcome(run_of(name, folder if begun else folder / "again", *words, **more), resume=begun)


TWO_MOMENTA = ("SOLVER.TRAINER", "dot")
RUNS = [(name, ()) for name in [*METHODS, "DFPTKD+CRD"]] + [(name, TWO_MOMENTA) for name in ("KD", "CRD")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), RUNS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_killed_behind_any_step(name, words, tmp_path):
    _, expected = forked(lambda: outcome(run_of(name, tmp_path / "whole", *words)))
    for step in range(1, STEPS + 1):
        folder = tmp_path / f"killed{step}"
        ended, _ = forked(lambda folder=folder, step=step: outcome(kill_behind(run_of(name, folder, *words), step)))
        assert ended == signal.SIGKILL
        assert forked(lambda folder=folder: resumed(name, folder, *words)) == (0, expected), f"killed behind {step}"


WRITING = ("open", "os.rename", "os.mkdir")
REMOVING = ("os.remove", "os.rmdir", "shutil.rmtree")


def writes_below(folder, hear):
    """`hear(event, args)` before each open for writing, rename, new folder and removal below `folder`, from now on."""

    def audit(event, args):
        if event not in WRITING + REMOVING or not str(args[0]).startswith(str(folder)):
            return
        if event != "open" or (isinstance(args[1], str) and set(args[1]) & set("wax+")):
            hear(event, args)

    sys.addaudithook(audit)


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
    words = ("LOG.SAVE_EVERY", "2 steps")

    def whole():
        seen = kill_at_write(0, tmp_path)
        return [outcome(run_of("KD", tmp_path / "whole", *words)), len(seen)]

    def killed(folder, number):
        kill_at_write(number, tmp_path)
        return outcome(run_of("KD", folder, *words))

    _, (expected, count) = forked(whole)
    assert count > 30
    for number in range(1, count + 1):
        folder = tmp_path / f"killed{number}"
        ended, _ = forked(lambda folder=folder, number=number: killed(folder, number))
        assert ended == signal.SIGKILL
        assert forked(lambda folder=folder: resumed("KD", folder, *words)) == (0, expected), f"killed at write {number}"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["student.safetensors", "state.pt", "manifest.json"])
def test_killed_in_the_middle_of_writing_a_checkpoint(part, tmp_path):
    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole")))

    def killed():
        import mdistiller_dfpt.runs.checkpoint as module

        trainer, plain, calls = run_of("KD", tmp_path / "killed"), module.save_checkpoint, []

        def half(folder, *args):
            calls.append(1)
            if len(calls) < 4:
                return plain(folder, *args)
            torn = folder.with_name(f".{folder.name}.torn")
            torn.mkdir()
            (torn / part).write_bytes(b"half of a fi")
            os.kill(os.getpid(), signal.SIGKILL)

        sys.modules["mdistiller_dfpt.runs.saving"].save_checkpoint = half
        trainer.fit()

    assert forked(killed)[0] == signal.SIGKILL
    assert forked(lambda: resumed("KD", tmp_path / "killed")) == (0, expected)
    assert not list((tmp_path / "killed").glob("**/.epoch-*"))


def damage_newest(folder, kind):
    """The newest checkpoint as a bad disk leaves it, unless it is the only one."""
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
    _, expected = forked(lambda: outcome(run_of(method, folder / "whole")))
    for step, damage in events:
        begun = any((folder / "run").glob("**/checkpoints/epoch-*"))
        forked(lambda step=step, begun=begun: outcome(kill_behind(run_of(method, folder / "run"), step), begun))
        damage_newest(folder / "run", damage)
    assert forked(lambda: resumed(method, folder / "run")) == (0, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("0", "0"), ("1", "1"), ("2", "2"), ("2", "0"), ("0", "1")])
def test_killed_with_any_number_of_workers_and_resumed_with_another(before, after, tmp_path):
    words = [*write_data_set("folder", tmp_path / "data", size=20), "DATASET.SIZE", "8", "SOLVER.BATCH_SIZE", "4",
             "MODEL.FAMILY", "cifar"]  # fmt: skip

    def run(folder, workers):
        return run_of("KD", folder, *words, "DATASET.NUM_WORKERS", workers, make_data=build_data)

    _, expected = forked(lambda: outcome(run(tmp_path / "whole", "0")))
    for step in (2, 4):
        folder = tmp_path / f"killed{step}"
        ended, _ = forked(lambda folder=folder, step=step: outcome(kill_behind(run(folder, before), step)))
        assert ended == signal.SIGKILL
        assert forked(lambda folder=folder: outcome(run(folder, after), resume=True)) == (0, expected)


@pytest.mark.parametrize("limit", [100, 3000, 9000])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(limit, tmp_path):
    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole")))

    def full():
        trainer, plain = run_of("KD", tmp_path / "full"), Saver.save

        def save(self, done):
            if done.step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            plain(self, done)

        Saver.save = save
        try:
            trainer.fit()
        except CheckpointError as e:
            return str(e)

    ended, message = forked(full)
    assert ended == 0
    assert re.search(r"cannot be written \(.*[Ff]ile too large", message)
    assert "continue with --resume" in message
    (saved,) = (tmp_path / "full").glob("**/checkpoints/*")
    assert saved.name == "epoch-00000-step-0000001"
    assert forked(lambda: resumed("KD", tmp_path / "full")) == (0, expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_behind_the_step_and_stops(number, code, tmp_path):
    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole")))

    def stopped():
        trainer = run_of("KD", tmp_path / "stopped", "LOG.SAVE_EVERY", "")
        plain, handlers = trainer.optimizer.step, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

        def step(*args, **kwargs):
            plain(*args, **kwargs)
            if trainer.step == 1:
                os.kill(os.getpid(), number)

        trainer.optimizer.step = step
        try:
            trainer.fit()
        except Exception as e:
            restored = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
            status = json.loads((trainer.run / "status.json").read_text())
            return [type(e).__name__, e.exit_code, str(e), restored, status["state"], status["epoch"], status["step"]]

    _, (kind, exit_code, message, restored, state, epoch, step) = forked(stopped)
    assert (kind, exit_code, restored) == ("Stopped", code, True)
    assert message == f"stopped by {signal.Signals(number).name} in epoch 1, after step 2; continue with --resume"
    assert (state, epoch, step) == ("stopped", 0, 2)
    assert forked(lambda: resumed("KD", tmp_path / "stopped", "LOG.SAVE_EVERY", "")) == (0, expected)


MOMENTS = {
    "validation": ("mdistiller_dfpt.training.loop", "evaluate_method", 1, "after epoch 1"),
    "the writing of a checkpoint": ("mdistiller_dfpt.runs.saving", "save_checkpoint", 1, "after epoch 1"),
    "the drawing of a batch": ("mdistiller_dfpt.data.in_memory", "crop_flip", 2, "in epoch 1, after step 2"),
    "the last validation": ("mdistiller_dfpt.training.loop", "evaluate_method", 2, None),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_stops_at_the_next_step_or_epoch(moment, tmp_path):
    _, expected = forked(lambda: outcome(run_of("KD", tmp_path / "whole")))
    module, name, call, where = MOMENTS[moment]

    def stopped():
        trainer = run_of("KD", tmp_path / "stopped", "LOG.SAVE_EVERY", "")
        plain, calls = getattr(sys.modules[module], name), []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*args, **kwargs)

        setattr(sys.modules[module], name, interrupted)
        try:
            trainer.fit()
        except Exception as e:
            return [type(e).__name__, str(e)]
        return None

    message = where and ["Stopped", f"stopped by SIGTERM {where}; continue with --resume"]
    assert forked(stopped) == (0, message), "a run that is through with its last epoch finishes"
    assert forked(lambda: resumed("KD", tmp_path / "stopped", "LOG.SAVE_EVERY", "")) == (0, expected)


def test_a_run_of_one_step_an_epoch_is_stopped_too(tmp_path):
    def stopped():
        trainer = run_of("NONE", tmp_path, "LOG.SAVE_EVERY", "", make_data=lambda cfg: tiny_data(batch=48))
        plain = trainer.optimizer.step

        def step(*args, **kwargs):
            plain(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGTERM)

        trainer.optimizer.step = step
        try:
            trainer.fit()
        except Exception as e:
            return str(e)

    assert forked(stopped) == (0, "stopped by SIGTERM after epoch 1; continue with --resume")


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    def stopped():
        trainer = run_of("KD", tmp_path)

        def step(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

        trainer.optimizer.step = step
        try:
            trainer.fit()
        except SystemExit as e:
            return e.code

    assert forked(stopped) == (0, 143)


def test_sigusr1_saves_and_goes_on(tmp_path):
    def asked():
        trainer = run_of("KD", tmp_path, "LOG.SAVE_EVERY", "")
        plain, saved = trainer.optimizer.step, []
        save = Saver.save

        def step(*args, **kwargs):
            plain(*args, **kwargs)
            if len(trainer.epochs) == 1 and trainer.step == 0:
                os.kill(os.getpid(), signal.SIGUSR1)

        trainer.optimizer.step = step
        Saver.save = lambda self, done: (saved.append([len(done.epochs), done.step]), save(self, done))
        trainer.fit()
        status = json.loads((trainer.run / "status.json").read_text())
        return [saved, status["state"]]

    assert forked(asked) == (0, [[[1, 0], [1, 1], [2, 0]], "finished"])
