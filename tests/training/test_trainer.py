"""A run: results, bit-exact resume, divergence, no device synchronisation."""

import gc
import os
import shutil
import sys
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdistiller_dfpt.bench.counts import operators_per_step
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.data import Data
from mdistiller_dfpt.distillers import DISTILLERS, build_distiller
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DivergedError
from mdistiller_dfpt.launch.run import run as run_config
from mdistiller_dfpt.losses import distillation
from mdistiller_dfpt.models.staged import relu_pair
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.locks import RunLock
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.runs.weights import load_into, load_weights
from mdistiller_dfpt.testing import TinyNet, tiny_cfg, tiny_data, tiny_distiller, tiny_networks
from mdistiller_dfpt.training.loop import take_step
from mdistiller_dfpt.training.optim import OPTIMIZERS, SCHEDULES
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import after_each_step, end_after, end_when, final_state, fit, outcome, run_of, stopped_after

METHODS = sorted(DISTILLERS)
THREE = ("SOLVER.EPOCHS", "3")


def weights_of(trainer):
    return state_hash(dict(trainer.distiller.student.named_parameters()))


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(name, tmp_path):
    whole = run_of(name, tmp_path / "whole", *THREE)
    expected = outcome(whole)
    stopped_after(1, name, tmp_path)
    torch.manual_seed(99)  # other random state must not matter
    resumed = run_of(name, tmp_path, *THREE)
    assert outcome(resumed, resume=True) == expected
    found, before = (read_checked_json(t.run / "results.json") for t in (resumed, whole))
    assert found["final"] == before["final"]
    assert found["student_sha256"] == before["student_sha256"]


@pytest.mark.parametrize("words", [(), ("LOG.SAVE_EVERY", "2 steps")], ids=["an epoch", "a step"])
def test_prepare_is_called_before_the_first_step_and_not_on_resume(words, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(DISTILLERS["KD"], "prepare", lambda self, batches: calls.append(len(list(batches))))
    first = run_of("KD", tmp_path, *THREE, *words)
    calls.clear()  # building a tiny distiller prepares it
    end_when(lambda done: True, first)
    assert calls == [3], "once, with all batches"
    assert (len(first.epochs), first.step) == ((0, 2) if words else (1, 0))
    resumed = run_of("KD", tmp_path, *THREE, *words)
    calls.clear()
    fit(resumed, resume=True)
    assert calls == []


def test_results_hold_last_best_and_mean_and_the_protocol(tmp_path):
    run = run_of("KD", tmp_path, "SOLVER.EPOCHS", "6", "SOLVER.LR", "0.1")
    fit(run)
    results = read_checked_json(run.run / "results.json")
    accuracies = [e["test"]["student"]["top1"] for e in results["epochs"]]
    top1 = results["final"]["top1"]
    assert top1["last"] == accuracies[-1]
    assert top1["best"] == max(accuracies)
    assert top1["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert top1["mean_last_5"] == pytest.approx(sum(accuracies[-5:]) / 5)
    protocol = results["protocol"]
    assert protocol["teacher"].keys() == {"name", "kind", "sha256", "precision", "top1", "top5", "nll", "ece",
                                           "predicted_classes", "most_predicted"}  # fmt: skip
    for key in ("data", "augmentation", "epochs", "batch", "schedule", "precision", "seed", "world_size", "versions"):
        assert key in protocol
    assert results["identity"]["config"]["DISTILLER.TYPE"] == "KD"
    assert results["epochs"][0]["test"]["student"]["top5"] == 100.0, "top-5 of four classes is always correct"
    assert state_hash(load_weights(run.run)) == results["student_sha256"]
    assert (run.run / "best.safetensors").is_file()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    hashes = [
        fit(run_of("KD", tmp_path, "SOLVER.SEED", seed, "EXPERIMENT.TAG", tag))["student_sha256"]
        for seed, tag in (("1", "a"), ("1", "b"), ("2", "a"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_second_run_never_touches_the_first(tmp_path):
    first = run_of("NONE", tmp_path)
    fit(first)
    before = {p: p.stat().st_mtime_ns for p in first.run.rglob("*")}
    second, third = run_of("NONE", tmp_path), run_of("NONE", tmp_path)
    fit(second)
    fit(third)
    assert [t.run.name for t in (first, second, third)] == ["seed1", "seed1-2", "seed1-3"]
    assert {p: p.stat().st_mtime_ns for p in first.run.rglob("*")} == before


def test_a_directory_in_use_is_refused(tmp_path):
    lock = RunLock(stopped_after(1, "NONE", tmp_path).run)
    with pytest.raises(ConfigError, match=rf"another process is training here \(pid {os.getpid()}\)"):
        fit(run_of("NONE", tmp_path, *THREE), resume=True)
    lock.release()
    fit(run_of("NONE", tmp_path, *THREE), resume=True)


def test_resuming_a_finished_run_changes_nothing_and_more_epochs_continue_it(tmp_path):
    run = run_of("NONE", tmp_path)
    results = fit(run)
    before = {p: p.stat().st_mtime_ns for p in run.run.rglob("*") if p.name != "run.lock"}
    again = fit(run_of("NONE", tmp_path), resume=True)
    assert again == results
    assert {p: p.stat().st_mtime_ns for p in run.run.rglob("*") if p.name != "run.lock"} == before
    longer = fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "4"), resume=True)
    assert [e["epoch"] for e in longer["epochs"]] == [1, 2, 3, 4]


def test_a_run_cannot_be_resumed_to_an_epoch_that_is_behind_it(tmp_path):
    stopped_after(2, "NONE", tmp_path)
    with pytest.raises(CheckpointError, match="has completed 2 epochs, and SOLVER.EPOCHS is 1: raise it"):
        fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "1"), resume=True)


def test_a_different_number_of_epochs_with_a_cosine_schedule_triggers_a_warning(tmp_path, capsys):
    cosine = ("SOLVER.SCHEDULE", "cosine")
    stopped_after(1, "NONE", tmp_path, *cosine)
    fit(run_of("NONE", tmp_path, *THREE, *cosine), resume=True)
    assert "cosine" not in capsys.readouterr().err
    fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "4", *cosine), resume=True)
    assert "SOLVER.EPOCHS was 3, is now 4: the cosine schedule differs" in capsys.readouterr().err


def test_resume_without_a_run_or_under_another_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume in"):
        fit(run_of("NONE", tmp_path), resume=True)
    stopped_after(1, "NONE", tmp_path)
    with pytest.raises(CheckpointError, match=r"SOLVER.LR 0.2 now, 0.05 then"):
        fit(run_of("NONE", tmp_path, *THREE, "SOLVER.LR", "0.2"), resume=True)


def test_the_size_of_test_batches_may_change_at_a_resume(tmp_path):
    """No result depends on it."""
    expected = outcome(run_of("NONE", tmp_path / "whole", *THREE))
    stopped_after(1, "NONE", tmp_path)
    resumed = run_of("NONE", tmp_path, *THREE, "DATASET.TEST.BATCH_SIZE", "5")
    resumed.data.test.batch_size = 5
    assert outcome(resumed, resume=True) == expected


def test_resuming_under_another_teacher_is_refused(tmp_path):
    stopped_after(1, "KD", tmp_path)
    other = run_of("KD", tmp_path, *THREE)
    with torch.no_grad():
        other.distiller.teacher.network.fc.bias += 1
    changed = Trainer(other.cfg, other.distiller, other.data)
    with pytest.raises(CheckpointError, match="the teacher own/TinyNet has other weights"):
        fit(changed, resume=True)


@pytest.mark.parametrize("fault", ["truncated", "empty", "flipped byte", "no manifest", "directory"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(fault, tmp_path, capsys):
    expected = outcome(run_of("KD", tmp_path / "whole", *THREE))
    folder = stopped_after(2, "KD", tmp_path).run / "checkpoints" / "epoch-00002"
    state, raw = folder / "state.pt", (folder / "state.pt").read_bytes()
    if fault == "truncated":
        state.write_bytes(raw[: len(raw) // 2])
    elif fault == "empty":
        state.write_bytes(b"")
    elif fault == "flipped byte":
        state.write_bytes(raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:])
    elif fault == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        state.unlink()
        state.mkdir()
    found = outcome(run_of("KD", tmp_path, *THREE), resume=True)
    output = capsys.readouterr()
    assert "epoch-00002" in output.err
    assert "resuming after epoch 1" in output.out
    assert found == expected


@pytest.mark.parametrize("fault", ["deleted", "damaged"])
def test_with_no_intact_checkpoint_left_the_run_is_refused(fault, tmp_path):
    saved = stopped_after(2, "NONE", tmp_path).run / "checkpoints"
    for folder in saved.iterdir():
        if fault == "deleted":
            shutil.rmtree(folder)
        else:
            (folder / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="contains no intact checkpoint") as info:
        fit(run_of("NONE", tmp_path, *THREE), resume=True)
    assert "\n" not in str(info.value)


def test_two_checkpoints_are_kept_and_leftovers_swept(tmp_path):
    folder = stopped_after(2, "NONE", tmp_path).run / "checkpoints"
    (folder / ".epoch-00009.abc").mkdir()
    fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "4"), resume=True)
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-00003", "epoch-00004"]


def test_an_epoch_leaves_no_tensor_and_no_open_file_behind(tmp_path, monkeypatch):
    counts, save = [], Saver.save

    def counted(self, done):
        save(self, done)
        gc.collect()
        tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
        counts.append([tensors, len(os.listdir("/proc/self/fd"))])

    monkeypatch.setattr(Saver, "save", counted)
    fit(run_of("KD", tmp_path, "SOLVER.EPOCHS", "6"))
    assert counts[2:] == counts[1:2] * 4


def test_students_are_kept_for_good_at_the_asked_frequency(tmp_path):
    run = run_of("NONE", tmp_path, "SOLVER.EPOCHS", "5", "LOG.SAVE_CHECKPOINT_FREQ", "2")
    fit(run)
    kept = sorted(run.run.glob("student-epoch-*"))
    assert [p.name for p in kept] == ["student-epoch-00002.safetensors", "student-epoch-00004.safetensors"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("LOG.SAVE_EVERY", "10 minutes"), [(0, 2), (1, 0), (1, 2), (2, 0)]),
        (("LOG.SAVE_EVERY", "11 minutes"), [(1, 0), (2, 0)]),
        (("LOG.SAVE_EVERY", "2 steps"), [(0, 2), (1, 0), (1, 2), (2, 0)]),
        ((), [(1, 0), (2, 0)]),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, tuple) else "",
)
def test_checkpoints_within_an_epoch_are_due_by_steps_or_by_the_clock(words, expected, tmp_path, monkeypatch):
    """Steps take five minutes here."""
    now, saved, save = [0.0], [], Saver.save
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        Saver, "save", lambda self, done: (saved.append((len(done.epochs), done.step)), save(self, done))
    )
    fit(after_each_step(run_of("NONE", tmp_path, *words), lambda number: now.__setitem__(0, 300.0 * number)))
    assert saved == expected


def test_the_seconds_of_an_epoch_resumed_within_it_are_those_of_all_its_steps(tmp_path, monkeypatch):
    """A step of 16 images takes a second here; two of the three of the first epoch were taken before."""
    now = [0.0]

    def tick(_):
        now[0] += 1

    words = ("LOG.SAVE_EVERY", "2 steps")
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now[0])
        end_when(lambda done: done.step == 2, after_each_step(run_of("NONE", tmp_path, *words), tick))
        results = fit(after_each_step(run_of("NONE", tmp_path, *words), tick), resume=True)
    assert now == [6.0]
    assert [(e["seconds"], e["images_per_second"]) for e in results["epochs"]] == [(3.0, 16.0), (3.0, 16.0)]
    assert results["seconds"] == 6.0


TWO_MOMENTA = ("SOLVER.TRAINER", "dot")


@pytest.mark.parametrize(
    ("what", "words"),
    [("loss", ()), ("gradient", ()), ("gradient", TWO_MOMENTA)],
    ids=["loss", "gradient", "gradient of the distillation terms"],
)
def test_what_is_not_finite_stops_before_the_step(what, words, tmp_path):
    run = run_of("KD", tmp_path, *words, "SOLVER.EPOCHS", "3")
    losses, clip, before, in_second = run.distiller.losses, run.distiller.before_step, [], []

    def poisoned_loss(student, teacher, batch):
        terms = losses(student, teacher, batch)
        if (batch.epoch, batch.step) == (2, 2):
            before.append(weights_of(run))
            in_second.append(1)
            if what == "loss":
                terms["kd"] = terms["kd"].times(float("nan"))
        return terms

    def poisoned_gradient():
        clip()
        if what == "gradient" and in_second:
            in_second.clear()  # with two momenta, the distillation terms' gradient comes here first
            next(run.distiller.student.parameters()).grad[0] = float("inf")

    run.distiller.losses, run.distiller.before_step = poisoned_loss, poisoned_gradient
    with pytest.raises(
        DivergedError,
        match=rf"the {what} is not finite at epoch 2, step 2 \(ce [\d.]+, kd \S+\); lower SOLVER.LR \(now 0.05\)",
    ):
        fit(run)
    assert weights_of(run) == before[0]
    assert not (run.run / "results.json").exists()
    resumed = run_of("KD", tmp_path, *words, "SOLVER.EPOCHS", "3")
    assert [e["epoch"] for e in fit(resumed, resume=True)["epochs"]] == [1, 2, 3]


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
def test_a_loss_that_would_broadcast_is_refused_at_the_first_step(loss, tmp_path, monkeypatch):
    run = run_of("KD", tmp_path)
    plain = run.distiller.losses

    def stretched(student, teacher, batch):
        mine = loss(student.logits, student.logits.detach()[:, :1])
        return {**plain(student, teacher, batch), "mine": distillation(mine)}

    monkeypatch.setattr(run.distiller, "losses", stretched)
    with pytest.raises(ConfigError, match=r"different shapes: Using a target size \(.*16, 1.*\) that is different"):
        fit(run)
    assert run.step == 0


def test_a_teacher_whose_logits_are_not_finite_stops_the_run_at_its_first_step(tmp_path):
    run = run_of("KD", tmp_path)
    with torch.no_grad():
        run.distiller.teacher.network.fc.bias[0] = float("nan")
    before = weights_of(run)
    with pytest.raises(DivergedError, match="loss is not finite at epoch 1, step 1"):
        fit(run)
    assert weights_of(run) == before
    assert not list(run.run.rglob("best.safetensors"))


def test_evaluation_can_be_rarer_than_epochs_but_the_last_counts(tmp_path):
    results = fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "5", "LOG.EVAL_FREQ", "2"))
    assert [e["epoch"] for e in results["epochs"] if "test" in e] == [2, 4, 5]


def steps_in(events):
    """The steps of an accuracy, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(events))
    read.Reload()
    return [e.step for e in read.Scalars("test/student/top1")]


def test_tensorboard_has_each_epoch_once_after_a_resume(tmp_path):
    more = ("LOG.TENSORBOARD", "True")
    stopped_after(2, "NONE", tmp_path, *more)
    run = run_of("NONE", tmp_path, *THREE, *more)
    fit(run, resume=True)
    assert steps_in(run.run / "events") == [1, 2, 3]
    seconds = [path.name.split(".")[3] for path in (run.run / "events").iterdir()]
    assert len(set(seconds)) == len(seconds) == 2


def test_tensorboard_has_each_epoch_once_where_the_clock_was_set_back(tmp_path):
    more, an_hour_later = ("LOG.TENSORBOARD", "True"), int(time.time()) + 3600
    folder = stopped_after(2, "NONE", tmp_path, *more).run / "events"
    (written,) = folder.iterdir()
    written.rename(folder / f"events.out.tfevents.{an_hour_later + 1}.second")
    (folder / f"events.out.tfevents.{an_hour_later}.first").touch()
    run = run_of("NONE", tmp_path, *THREE, *more)
    fit(run, resume=True)
    assert steps_in(run.run / "events") == [1, 2, 3]
    (_, first), (_, second), (now, _) = (path.name.split(".")[3:5] for path in sorted(folder.iterdir()))
    assert (first, second) == ("first", "second")
    assert int(now) < an_hour_later


def test_tensorboard_has_each_epoch_once_where_the_clock_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    more = ("LOG.TENSORBOARD", "True")
    stopped_after(2, "NONE", tmp_path, *more)
    run = run_of("NONE", tmp_path, *THREE, *more)
    fit(run, resume=True)
    assert steps_in(run.run / "events") == [1, 2, 3]


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_reads_nothing_from_the_device(name, tmp_path):
    run = run_of(name, tmp_path)
    run.distiller.train()
    # Strong views are made on the CPU, and read its random numbers
    for batch in list(run.data.batches(1, strong=run.distiller.needs_strong_view)):
        assert operators_per_step(run, batch)[1] == 0


def gpu_data() -> Data:
    data = tiny_data()
    for loader in (data.train, data.test):
        for attribute in ("padded", "labels", "scale", "shift"):
            setattr(loader, attribute, getattr(loader, attribute).cuda())
    return data


def on_a_gpu(name, folder, *words):
    words = ("DISTILLER.TYPE", name, "LOG.PREFIX", str(folder), *words)
    return Trainer(tiny_cfg(*words), tiny_distiller(name, *words), gpu_data())


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_gpu_and_no_step_waits_for_it(name, tmp_path):
    run = on_a_gpu(name, tmp_path, "SOLVER.AMP", "bf16", "SOLVER.CHANNELS_LAST", "True")
    before = weights_of(run)
    assert all(torch.isfinite(torch.tensor(e["train"]["loss"])) for e in fit(run)["epochs"])
    assert weights_of(run) != before
    batches = list(run.data.train.epoch(1, strong=run.distiller.needs_strong_view))
    run.distiller.train()
    take_step(run.training, batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(run.training, batches[1])
        run.training.meters.read()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["SGD", "RMSPROP"])
def test_on_a_gpu_a_poisoned_step_changes_no_weight(solver, tmp_path, registries):
    """With an optimiser that cannot skip an update itself, the loop synchronises."""
    OPTIMIZERS.register("RMSPROP")(lambda groups, plan: torch.optim.RMSprop(groups, lr=plan.lr))
    run = on_a_gpu("NONE", tmp_path, "SOLVER.TYPE", solver)
    assert run.training.guard.waits == (solver == "RMSPROP")
    before = weights_of(run)
    run.data.train.scale *= float("nan")
    with pytest.raises(DivergedError):
        fit(run)
    assert weights_of(run) == before


class _Wandb:
    """Stand-in for the package: records its calls, and fails on demand."""

    def __init__(self, fails: str = ""):
        self.fails, self.logged, self.finished = fails, [], False

    def init(self, **words):
        if self.fails == "init":
            raise RuntimeError("no key")
        self.words = words
        return self

    def log(self, values, step):
        if self.fails == "log":
            raise OSError("no network")
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("fails", ["", "init", "log", "absent"])
def test_weights_and_biases_gets_the_metrics_and_is_never_fatal(fails, tmp_path, monkeypatch, capsys):
    stand_in = _Wandb(fails)
    monkeypatch.setitem(sys.modules, "wandb", None if fails == "absent" else stand_in)
    fit(run_of("NONE", tmp_path, "LOG.WANDB", "True", "EXPERIMENT.PROJECT", "mine"))
    warned = "warning: LOG.WANDB is True, but logging failed" in capsys.readouterr().err
    assert warned == bool(fails)
    if not fails:
        assert stand_in.words["project"] == "mine"
        assert [step for step, _ in stand_in.logged] == [1, 2]
        assert "test.student.top1" in stand_in.logged[0][1]
        assert stand_in.finished


class Tied(TinyNet):
    """A network with two layers that share a weight."""

    def __init__(self, width: int = 4):
        super().__init__(width)
        self.extra = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.extra.weight = self.layer1[0].weight

    def stages(self):
        stem, _, *others = super().stages()
        return [stem, lambda x: relu_pair(self.layer1(F.relu(self.extra(x)))), *others]


@pytest.mark.parametrize("tied", ["student", "teacher"])
def test_a_network_with_tied_weights_is_trained_saved_and_resumed(tied, tmp_path):
    def run(folder):
        cfg = tiny_cfg("DISTILLER.TYPE", "KD", "LOG.PREFIX", str(folder), *THREE)
        torch.manual_seed(0)
        student, teacher = tiny_networks()
        networks = (Tied(), teacher) if tied == "student" else (student, Tied(6).eval())
        return Trainer(cfg, build_distiller(cfg, *networks, 48), tiny_data())

    whole = run(tmp_path / "whole")
    expected = outcome(whole)
    end_after(1, run(tmp_path))
    resumed = run(tmp_path)
    assert outcome(resumed, resume=True) == expected
    for name in ("student.safetensors", "best.safetensors", "checkpoints/epoch-00003"):
        load_into(loaded := type(resumed.distiller.student)(), resumed.run / name, "the student")
        if name != "best.safetensors":
            assert state_hash(loaded.state_dict()) == state_hash(resumed.distiller.student.state_dict())
    assert final_state(resumed) == final_state(whole)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.SCHEDULE", "cosin", r"SOLVER.SCHEDULE: unknown schedule 'cosin'; did you mean cosine\?"),
        ("SOLVER.TYPE", "SDG", r"SOLVER.TYPE: unknown optimiser 'SDG'; did you mean SGD\?"),
    ],
)
def test_an_unknown_schedule_or_optimiser_is_refused_before_any_data_is_read(key, value, message, tmp_path):
    """The dataset does not exist, which would be a different error."""
    cfg = tiny_cfg(key, value, "DATASET.ROOT", str(tmp_path / "nowhere"), "LOG.PREFIX", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=f"^{message}$"):
        run_config(cfg)
    assert not (tmp_path / "out").exists()


def test_a_schedule_and_an_optimiser_of_the_users_are_used(tmp_path, registries):
    rates = []

    @SCHEDULES.register("LINEAR")
    def linear(progress, plan):
        return plan.lr * (1 - progress / plan.epochs)

    @OPTIMIZERS.register("RMSPROP")
    class Mine(torch.optim.RMSprop):
        def __init__(self, groups, plan):
            super().__init__(groups, lr=plan.lr, weight_decay=plan.weight_decay)

        def step(self, closure=None):
            rates.append([g["lr"] for g in self.param_groups])
            return super().step(closure)

    words = ("SOLVER.SCHEDULE", "LINEAR", "SOLVER.TYPE", "RMSPROP", "SOLVER.LR", "0.01", "DFPTKD.FINETUNE_BACKBONE",
             "True", "DFPTKD.FINETUNE_LR_FACTOR", "0.5")  # fmt: skip
    expected = outcome(run_of("DFPTKD", tmp_path / "whole", *THREE, *words))
    each = [0.01 * (1 - step / 9) for step in range(9)]
    assert rates == [pytest.approx([rate, rate, 0.5 * rate]) for rate in each]
    stopped_after(1, "DFPTKD", tmp_path, *words)
    assert outcome(run_of("DFPTKD", tmp_path, *THREE, *words), resume=True) == expected, "its state is saved too"


def test_early_stopped_distillation_no_longer_runs_the_teacher(tmp_path):
    run = run_of("ESKD", tmp_path, "ESKD.STOP_EPOCH", "1")
    run.training.at_start = False  # a run's first step also measures its strength
    passes = []
    run.distiller.teacher.network.register_forward_hook(lambda _, args, out: passes.append(len(out[0])))
    fit(run)
    assert passes.count(16) == 3, "three steps of the first epoch, none of the second"
