"""The loop: results, resume bit for bit, divergence, no waiting for the device."""

import json
import shutil
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdistiller_dfpt.bench.counts import CountOperators
from mdistiller_dfpt.data import Data
from mdistiller_dfpt.distillers import DISTILLERS, build_distiller
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DivergedError
from mdistiller_dfpt.launch.run import run as run_config
from mdistiller_dfpt.losses import distillation
from mdistiller_dfpt.models.staged import relu_pair
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.saving import Progress, Saver
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.testing import TinyNet, tiny_cfg, tiny_data, tiny_distiller, tiny_networks
from mdistiller_dfpt.training.loop import take_step
from mdistiller_dfpt.training.optim import OPTIMIZERS, SCHEDULES
from mdistiller_dfpt.training.trainer import Trainer

METHODS = sorted(DISTILLERS)


@pytest.fixture
def overrides(tmp_path):
    return ["LOG.PREFIX", str(tmp_path / "out"), "EXPERIMENT.NAME", "tiny"]


def trainer(name: str, overrides: list[str], *more: str) -> Trainer:
    cfg = tiny_cfg("DISTILLER.TYPE", name, *overrides, *more)
    return Trainer(cfg, tiny_distiller(name, *overrides, *more), tiny_data(seed=cfg.SOLVER.SEED), "tiny")


def stopped_after(name: str, overrides: list[str], epoch: int, *more: str) -> Trainer:
    """A run of three epochs that an exception ended right after the checkpoint of `epoch`."""
    stopped = trainer(name, [*overrides, "SOLVER.EPOCHS", "3"], *more)
    save = Saver.save

    def save_and_stop(self: Saver, done: Progress) -> None:
        save(self, done)
        if len(done.epochs) == epoch:
            raise RuntimeError("stop here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", save_and_stop)
        with pytest.raises(RuntimeError, match="stop here"):
            stopped.fit()
    return stopped


def final_state(t: Trainer) -> tuple[str, str]:
    optimizer = {
        f"{key}.{name}": value
        for key, entry in t.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }
    return state_hash(t.distiller.state_dict()), state_hash(optimizer)


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(name, overrides, tmp_path):
    whole = trainer(name, [*overrides, "SOLVER.EPOCHS", "3"], "LOG.PREFIX", str(tmp_path / "whole"))
    expected = whole.fit()
    stopped_after(name, overrides, 1)
    torch.manual_seed(99)  # whatever other state there is must not matter
    resumed = trainer(name, [*overrides, "SOLVER.EPOCHS", "3"])
    found = resumed.fit(resume=True)
    assert final_state(resumed) == final_state(whole)
    assert found["final"] == expected["final"]
    assert found["student_sha256"] == expected["student_sha256"]
    for a, b in zip(found["epochs"], expected["epochs"], strict=True):
        assert (a["train"], a["test"], a["lr"]) == (b["train"], b["test"], b["lr"])


def test_results_hold_last_best_and_mean_and_the_protocol(overrides):
    run = trainer("KD", [*overrides, "SOLVER.EPOCHS", "6", "SOLVER.LR", "0.1"])
    run.fit()
    results = json.loads((run.run / "results.json").read_text())
    accuracies = [e["test"]["student"]["top1"] for e in results["epochs"]]
    top1 = results["final"]["top1"]
    assert top1["last"] == accuracies[-1]
    assert top1["best"] == max(accuracies)
    assert top1["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert top1["mean_last_5"] == pytest.approx(sum(accuracies[-5:]) / 5)
    protocol = results["protocol"]
    assert protocol["teacher"].keys() == {"name", "sha256", "top1", "top5"}
    for key in ("data", "augmentation", "epochs", "batch", "schedule", "precision", "seed", "world_size", "versions"):
        assert key in protocol
    assert results["config"]["KD.TEMPERATURE"] == 4.0
    assert results["epochs"][0]["test"]["student"]["top5"] == 100.0, "five of four classes are all"
    assert state_hash(load_weights(run.run)) == results["student_sha256"]
    assert (run.run / "best.safetensors").is_file()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(overrides):
    hashes = [
        trainer("KD", overrides, "SOLVER.SEED", seed, "EXPERIMENT.TAG", tag).fit()["student_sha256"]
        for seed, tag in (("1", "a"), ("1", "b"), ("2", "a"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_second_run_never_touches_the_first(overrides):
    first = trainer("NONE", overrides)
    first.fit()
    before = {p: p.stat().st_mtime_ns for p in first.run.rglob("*")}
    second, third = trainer("NONE", overrides), trainer("NONE", overrides)
    second.fit()
    third.fit()
    assert [t.run.name for t in (first, second, third)] == ["seed1", "seed1-2", "seed1-3"]
    assert {p: p.stat().st_mtime_ns for p in first.run.rglob("*")} == before


def test_a_directory_in_use_is_refused(overrides):
    stopped = stopped_after("NONE", overrides, 1)
    from mdistiller_dfpt.runs.directory import RunLock

    lock = RunLock(stopped.run)
    with pytest.raises(ConfigError, match="another process trains here"):
        trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3"]).fit(resume=True)
    lock.release()
    trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3"]).fit(resume=True)


def test_resuming_a_finished_run_changes_nothing_and_more_epochs_continue_it(overrides):
    run = trainer("NONE", overrides)
    results = run.fit()
    before = {p: p.stat().st_mtime_ns for p in run.run.rglob("*") if p.name != "run.lock"}
    again = trainer("NONE", overrides).fit(resume=True)
    assert again == results
    assert {p: p.stat().st_mtime_ns for p in run.run.rglob("*") if p.name != "run.lock"} == before
    longer = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "4"]).fit(resume=True)
    assert [e["epoch"] for e in longer["epochs"]] == [1, 2, 3, 4]


def test_a_run_cannot_be_resumed_to_an_epoch_that_is_behind_it(overrides):
    stopped_after("NONE", overrides, 2)
    with pytest.raises(CheckpointError, match="has 2 epochs behind it, and SOLVER.EPOCHS is 1: ask for more"):
        trainer("NONE", [*overrides, "SOLVER.EPOCHS", "1"]).fit(resume=True)


def test_another_number_of_epochs_under_a_cosine_is_warned_of(overrides, capsys):
    cosine = ("SOLVER.SCHEDULE", "cosine")
    stopped_after("NONE", overrides, 1, *cosine)
    trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3"], *cosine).fit(resume=True)
    assert "cosine" not in capsys.readouterr().err
    trainer("NONE", [*overrides, "SOLVER.EPOCHS", "4"], *cosine).fit(resume=True)
    assert "SOLVER.EPOCHS was 3, is 4: the cosine schedule is another" in capsys.readouterr().err


def test_resume_without_a_run_or_under_another_config_is_refused(overrides):
    with pytest.raises(CheckpointError, match="nothing to resume in"):
        trainer("NONE", overrides).fit(resume=True)
    stopped_after("NONE", overrides, 1)
    with pytest.raises(CheckpointError, match=r"SOLVER.LR was 0.05, is 0.2"):
        trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3", "SOLVER.LR", "0.2"]).fit(resume=True)


def test_resuming_under_another_teacher_is_refused(overrides):
    stopped_after("KD", overrides, 1)
    other = trainer("KD", [*overrides, "SOLVER.EPOCHS", "3"])
    with torch.no_grad():
        other.distiller.teacher.network.fc.bias += 1
    changed = Trainer(other.cfg, other.distiller, other.data, "tiny")
    with pytest.raises(CheckpointError, match="was taught by another ResNet50"):
        changed.fit(resume=True)


@pytest.mark.parametrize("fault", ["truncated", "empty", "flipped byte", "no manifest", "directory"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(fault, overrides, capsys, tmp_path):
    expected = trainer("KD", [*overrides, "SOLVER.EPOCHS", "3"], "LOG.PREFIX", str(tmp_path / "whole")).fit()
    stopped = stopped_after("KD", overrides, 2)
    folder = stopped.run / "checkpoints" / "epoch-00002"
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
    found = trainer("KD", [*overrides, "SOLVER.EPOCHS", "3"]).fit(resume=True)
    output = capsys.readouterr()
    assert "epoch-00002" in output.err
    assert "resuming after epoch 1" in output.out
    assert found["student_sha256"] == expected["student_sha256"]


def test_with_no_intact_checkpoint_left_the_run_is_refused(overrides):
    stopped = stopped_after("NONE", overrides, 1)
    shutil.rmtree(stopped.run / "checkpoints" / "epoch-00001")
    with pytest.raises(CheckpointError, match="holds no intact checkpoint"):
        trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3"]).fit(resume=True)


def test_two_checkpoints_are_kept_and_leftovers_swept(overrides):
    run = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "4"])
    stopped_after("NONE", overrides, 1)
    run.fit()
    folder = run.run / "checkpoints"
    (folder / ".epoch-00009.abc").mkdir()
    run.saver.save(Progress([{}] * 5))
    assert sorted(p.name for p in folder.iterdir()) == ["epoch-00004", "epoch-00005"]


def test_students_are_kept_for_good_at_the_asked_frequency(overrides):
    run = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "5", "LOG.SAVE_CHECKPOINT_FREQ", "2"])
    run.fit()
    kept = sorted(run.run.glob("student-epoch-*"))
    assert [p.name for p in kept] == ["student-epoch-00002.safetensors", "student-epoch-00004.safetensors"]


def test_checkpoints_within_an_epoch_are_due_by_the_clock_too(overrides, monkeypatch):
    run = trainer("NONE", overrides, "LOG.SAVE_EVERY", "10 minutes")
    run.fit()
    now = [run.saver.last_save]
    monkeypatch.setattr("mdistiller_dfpt.runs.saving.time.monotonic", lambda: now[0])
    assert not run.saver.is_due(1)
    now[0] += 599
    assert not run.saver.is_due(2)
    now[0] += 1
    assert run.saver.is_due(3)
    run.saver.save(Progress([{}] * 5))
    assert not run.saver.is_due(4)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_step(what, overrides):
    run = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "4"])
    weights = []
    check = run.training.guard.check

    def poisoned(loss, losses, batch):
        if (batch.epoch, batch.step) == (2, 2):
            weights.append(state_hash(dict(run.distiller.student.named_parameters())))
            if what == "loss":
                loss = loss * float("nan")
            else:
                next(run.distiller.student.parameters()).grad[0] = float("inf")
        check(loss, losses, batch)

    run.training.guard.check = poisoned
    with pytest.raises(
        DivergedError, match=rf"{what} is not finite at epoch 2, step 2 \(ce [\d.]+\); lower SOLVER.LR \(now 0.05\)"
    ):
        run.fit()
    assert state_hash(dict(run.distiller.student.named_parameters())) == weights[0]
    assert not (run.run / "results.json").exists()
    resumed = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "4"])
    assert [e["epoch"] for e in resumed.fit(resume=True)["epochs"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss])
def test_a_loss_that_would_stretch_a_tensor_is_refused_at_the_first_step(loss, overrides, monkeypatch):
    run = trainer("KD", overrides)
    plain = run.distiller.losses

    def stretched(student, teacher, batch):
        return {
            **plain(student, teacher, batch),
            "mine": distillation(loss(student.logits, student.logits.detach()[:, :1])),
        }

    monkeypatch.setattr(run.distiller, "losses", stretched)
    with pytest.raises(ConfigError, match=r"different shapes: Using a target size \(.*16, 1.*\) that is different"):
        run.fit()
    assert run.step == 0


def test_a_teacher_whose_logits_are_not_finite_stops_the_run_at_its_first_step(overrides):
    run = trainer("KD", overrides)
    with torch.no_grad():
        run.distiller.teacher.network.fc.bias[0] = float("nan")
    before = state_hash(dict(run.distiller.student.named_parameters()))
    with pytest.raises(DivergedError, match="loss is not finite at epoch 1, step 1"):
        run.fit()
    assert state_hash(dict(run.distiller.student.named_parameters())) == before
    assert not list(run.run.rglob("best.safetensors"))


def test_evaluation_can_be_rarer_than_epochs_but_the_last_counts(overrides):
    results = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "5", "LOG.EVAL_FREQ", "2"]).fit()
    assert [e["epoch"] for e in results["epochs"] if "test" in e] == [2, 4, 5]


def test_tensorboard_has_each_epoch_once_after_a_resume(overrides):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ("LOG.TENSORBOARD", "True")
    stopped_after("NONE", overrides, 2, *more)
    run = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3"], *more)
    run.fit(resume=True)
    events = EventAccumulator(str(run.run / "events"))
    events.Reload()
    assert [e.step for e in events.Scalars("test/student/top1")] == [1, 2, 3]


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_reads_nothing_from_the_device(name, overrides, monkeypatch):
    run = trainer(name, overrides)
    # Strong views are made on the CPU, and read its random numbers
    batches = list(run.data.train.epoch(1, strong=run.distiller.needs_strong_view))
    # The check of a finite loss is a read on a CPU, where it costs nothing; a GPU's optimiser does it instead
    monkeypatch.setattr(run.training.guard, "check", lambda *a: None)
    run.distiller.train()
    with CountOperators() as counter:
        for batch in batches:
            take_step(run.training, batch)
    assert counter.reads == 0


def gpu_data() -> Data:
    data = tiny_data()
    for loader in (data.train, data.test):
        for attribute in ("padded", "labels", "scale", "shift"):
            setattr(loader, attribute, getattr(loader, attribute).cuda())
    return data


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_a_gpu_and_no_step_waits_for_it(name, overrides):
    more = ["SOLVER.AMP", "bf16", "SOLVER.CHANNELS_LAST", "True"]
    run = Trainer(tiny_cfg("DISTILLER.TYPE", name, *more, *overrides), tiny_distiller(name, *more), gpu_data(), "tiny")
    assert run.fit()["final"]["top1"]["last"] >= 0
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
def test_on_a_gpu_a_poisoned_step_changes_no_weight(overrides):
    run = Trainer(tiny_cfg("DISTILLER.TYPE", "NONE", *overrides), tiny_distiller("NONE"), gpu_data())
    before = state_hash(dict(run.distiller.student.named_parameters()))
    run.data.train.scale *= float("nan")
    with pytest.raises(DivergedError):
        run.fit()
    assert state_hash(dict(run.distiller.student.named_parameters())) == before


class _Wandb:
    """Stands for the package: remembers what it was told, and fails on demand."""

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
def test_weights_and_biases_is_told_and_never_fatal(fails, overrides, monkeypatch, capsys):
    stand_in = _Wandb(fails)
    monkeypatch.setitem(sys.modules, "wandb", None if fails == "absent" else stand_in)
    trainer("NONE", overrides, "LOG.WANDB", "True", "EXPERIMENT.PROJECT", "mine").fit()
    warned = "warning: LOG.WANDB is True, but nothing goes there" in capsys.readouterr().err
    assert warned == bool(fails)
    if not fails:
        assert stand_in.words["project"] == "mine"
        assert [step for step, _ in stand_in.logged] == [1, 2]
        assert "test.student.top1" in stand_in.logged[0][1]
        assert stand_in.finished


def test_the_size_of_test_batches_may_change_at_a_resume(overrides):
    """Accuracies do not depend on it."""
    expected = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3", "EXPERIMENT.NAME", "whole"]).fit()
    stopped_after("NONE", overrides, 1)
    found = trainer("NONE", [*overrides, "SOLVER.EPOCHS", "3", "DATASET.TEST.BATCH_SIZE", "5"]).fit(resume=True)
    assert found["student_sha256"] == expected["student_sha256"]


class Tied(TinyNet):
    """A network two of whose layers are one and the same weight."""

    def __init__(self, width: int = 4):
        super().__init__(width)
        self.extra = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.extra.weight = self.layer1[0].weight

    def stages(self):
        first, _, third = super().stages()
        return [first, lambda x: relu_pair(self.layer1(F.relu(self.extra(x)))), third]


def test_a_network_with_tied_weights_is_trained_saved_and_resumed(overrides, tmp_path):
    def run(*more):
        cfg = tiny_cfg("DISTILLER.TYPE", "KD", *overrides, "SOLVER.EPOCHS", "3", *more)
        torch.manual_seed(0)
        student, teacher = Tied(4), tiny_networks()[1]
        return Trainer(cfg, build_distiller(cfg, student, teacher, 48), tiny_data(), "tiny")

    whole = run("LOG.PREFIX", str(tmp_path / "whole"))
    expected = whole.fit()["student_sha256"]
    saved = load_weights(whole.run)
    assert torch.equal(saved["extra.weight"], saved["layer1.0.weight"])
    assert state_hash(saved) == expected
    save = Saver.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", lambda self, done: (save(self, done), _raise(InterruptedError())))
        with pytest.raises(InterruptedError):
            run().fit()
    assert run().fit(resume=True)["student_sha256"] == expected


def _raise(error):
    raise error


@pytest.mark.parametrize(("key", "message"), [
    ("SOLVER.SCHEDULE", "unknown schedule 'cosin'; did you mean cosine"),
    ("SOLVER.TYPE", "unknown optimiser 'cosin'; choose from"),
])  # fmt: skip
def test_an_unknown_schedule_or_optimiser_is_refused_before_any_data_is_read(key, message, overrides, tmp_path):
    cfg = tiny_cfg(key, "cosin", "DATASET.ROOT", str(tmp_path / "nowhere"), *overrides)
    with pytest.raises(ConfigError, match=message):
        run_config(cfg)


def test_a_schedule_and_an_optimiser_of_the_users_are_used(overrides, registries):
    @SCHEDULES.register("LINEAR")
    def linear(progress, plan):
        return plan.lr * (1 - progress / plan.epochs)

    @OPTIMIZERS.register("RMSPROP")
    def rmsprop(groups, plan):
        return torch.optim.RMSprop(groups, lr=plan.lr)

    run = trainer("KD", overrides, "SOLVER.SCHEDULE", "LINEAR", "SOLVER.TYPE", "RMSPROP", "SOLVER.LR", "0.01")
    results = run.fit()
    assert isinstance(run.optimizer, torch.optim.RMSprop)
    rates = [e["lr"] for e in results["epochs"]]
    assert rates == pytest.approx([0.01 * (1 - 2 / 3 / 2), 0.01 * (1 - (5 / 3) / 2)])


def test_early_stopped_distillation_runs_the_teacher_no_more(overrides):
    run = trainer("ESKD", overrides, "ESKD.STOP_EPOCH", "1")
    passes = []
    run.distiller.teacher.network.register_forward_hook(lambda _, args, out: passes.append(len(out[0])))
    run.fit()
    assert passes.count(16) == 3, "three steps of the first epoch, none of the second"
