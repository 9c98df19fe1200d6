"""Several runs in one process: each trains as it would alone, to the bit, and their teacher sees each batch once."""

import json

import pytest
import torch

from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.data.resident import ResidentLoader
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.engine import Trainer
from mdistiller_dfpt.engine.saving import put_random_states, random_states
from mdistiller_dfpt.engine.signals import Stopped
from mdistiller_dfpt.engine.together import SharedBatches, fit_together, refuse_apart, remember_passes, share
from mdistiller_dfpt.engine.update import Updater
from mdistiller_dfpt.errors import ConfigError, DivergedError
from tools.train import main as train

from .conftest import TinyNet, tiny_cfg, tiny_data, tiny_distiller, tiny_networks

METHODS = ["KD", "DFPTKD", "FITNET", "MLLD", "CRD", "NONE"]


@pytest.fixture
def trainers(tmp_path):
    def build(*names, shared=True, out="together", **changes):
        data, teacher = tiny_data(), tiny_networks()[1]
        data = share(data) if shared else data
        made = []
        for number, name in enumerate(names):
            words = ["DISTILLER.TYPE", name, "SOLVER.SEED", str(number), "LOG.PREFIX", str(tmp_path / out),
                     "SOLVER.EPOCHS", "3", "LOG.SAVE_EVERY", "1 steps", *changes.get(name, [])]  # fmt: skip
            torch.manual_seed(number)
            distiller = tiny_distiller(name, *words, seed=number)
            if shared and distiller.teacher is not None:
                distiller.teacher.load_state_dict(teacher.state_dict())
            made.append(Trainer(tiny_cfg(*words), distiller, data if shared else tiny_data(), "tiny"))
        return made

    return build


def alone(trainers, *names, **changes):
    results = []
    for number, name in enumerate(names):
        run = trainers(*names, out="alone", **changes)[number]
        torch.manual_seed(number)
        results.append((run.fit(), run))
        assert name == run.cfg.DISTILLER.TYPE
    return results


def test_each_run_is_what_it_would_be_alone_to_the_bit(trainers):
    expected = alone(trainers, *METHODS)
    runs = trainers(*METHODS)
    done = []
    for number, (run, result) in enumerate(zip(runs, fit_together(runs, states_of(runs)), strict=True)):
        done.append(result["student_sha256"])
        assert result["student_sha256"] == expected[number][0]["student_sha256"], METHODS[number]
        assert result["protocol"]["other_runs_in_process"] == len(METHODS) - 1
        state = run.distiller.state_dict()
        for key, value in expected[number][1].distiller.state_dict().items():
            assert torch.equal(state[key], value), (METHODS[number], key)
    assert len(set(done)) == len(METHODS)


def states_of(runs):
    """Where random numbers stand when each of these is built."""
    states = []
    for run in runs:
        torch.manual_seed(run.cfg.SOLVER.SEED)
        states.append(random_states())
    return states


class Draws(DISTILLERS["KD"]):
    """Takes random numbers in each step, as dropout does."""

    def losses(self, student, teacher, batch):
        return {name: value * (0.5 + torch.rand(())) for name, value in super().losses(student, teacher, batch).items()}


def test_what_draws_random_numbers_draws_its_own(trainers):
    def built():
        runs = trainers("KD", "KD", "DKD")
        for run in runs[:2]:
            run.distiller.__class__ = Draws
        return runs

    expected = []
    for run, state in zip(trainers("KD", "KD", "DKD", out="alone"), states_of(built()), strict=True):
        if run.cfg.DISTILLER.TYPE == "KD":
            run.distiller.__class__ = Draws
        put_random_states(state)
        expected.append(run.fit()["student_sha256"])
    runs = built()
    assert [result["student_sha256"] for result in fit_together(runs, states_of(runs))] == expected


def test_their_teacher_sees_each_batch_once_and_each_batch_is_made_once(trainers, monkeypatch):
    runs = trainers("KD", "DKD", "DFPTKD")
    teacher, seen, made = runs[0].distiller.teacher, [], []
    for run in runs[1:]:
        run.distiller.teacher = teacher
    runs[2].distiller.dual.teacher = teacher
    remember_passes(teacher)
    teacher.fc.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    plain = ResidentLoader.batch
    monkeypatch.setattr(ResidentLoader, "batch", lambda self, s: made.append(self.train) or plain(self, s))
    monkeypatch.setattr(Trainer, "_teacher_record", lambda self: None)
    monkeypatch.setattr("mdistiller_dfpt.engine.trainer.evaluate", lambda *a: {"student": {"top1": 1.0, "top5": 1.0}})
    fit_together(runs, states_of(runs))
    assert [size for size in seen if size > 1] == [16] * 9, "three epochs of three batches; one image counts MACs"
    assert made == [True] * 9


def test_a_network_that_remembers_says_what_it_would_say(monkeypatch):
    network, plain = TinyNet(5).eval(), TinyNet(5).eval()
    plain.load_state_dict(network.state_dict())
    remember_passes(network)
    one, two = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        assert network(one)[0] is network(one)[0]
        assert torch.equal(network(two)[0], plain(two)[0])
        assert torch.equal(network(one.clone())[0], plain(one)[0])
        with torch.autocast("cpu", torch.bfloat16):
            assert network(one)[0].dtype == torch.bfloat16
        assert network(one)[0].dtype == torch.float32
    assert network(one)[0].requires_grad
    before = network.bn1.running_mean.clone()
    network.train()
    with torch.no_grad():
        network(one), network(one)
    assert network.bn1.num_batches_tracked == 2
    assert not torch.equal(network.bn1.running_mean, before)


def test_shared_batches_are_the_loader_s_at_any_pace():
    loader = tiny_data().train
    shared, plain = SharedBatches(loader), tiny_data().train

    def same(batch, other):
        return torch.equal(batch.image, other.image) and torch.equal(batch.index, other.index)

    slow, fast, late = shared.epoch(1), shared.epoch(1), shared.epoch(2, 1)
    expected = list(plain.epoch(1))
    first = next(slow)
    assert next(fast) is first
    assert same(next(fast), expected[1])
    assert same(next(late), list(plain.epoch(2))[1])
    assert same(next(slow), expected[1])
    assert same(next(fast), expected[2])
    assert next(fast, None) is None
    assert same(next(slow), expected[2])
    assert (len(shared), shared.num_samples) == (3, 48)
    shared.strong_view = True
    shared.strong_view = False
    assert loader.strong_view, "one run asks for it"


def test_runs_that_stand_at_different_steps_meet_and_go_on(trainers):
    expected = [result["student_sha256"] for result, _ in alone(trainers, "KD", "DFPTKD")]
    first = trainers("KD", "DFPTKD")
    steps = first[1].fitting()
    torch.manual_seed(1)
    for _ in range(4):
        next(steps)
    steps.close()
    first = first[0].fitting()
    torch.manual_seed(0)
    next(first)
    first.close()
    runs = trainers("KD", "DFPTKD")
    made = []
    plain = ResidentLoader.batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentLoader, "batch", lambda self, s: made.append((s.epoch, s.step)) or plain(self, s))
        results = fit_together(runs, states_of(runs), resume=True)
    assert [result["student_sha256"] for result in results] == expected
    trained = [at for at, before in zip(made, [None, *made], strict=False) if at != before]
    assert trained.count((3, 1)) >= 1


def test_a_run_that_fails_ends_alone(trainers, capsys):
    runs = trainers("KD", "NONE", "DKD")
    with torch.no_grad():
        runs[0].distiller.student.fc.bias[0] = float("nan")
    with pytest.raises(DivergedError, match=r"1 of 3 runs failed: cifar100/kd/ResNet50_resnet32/seed0"):
        fit_together(runs, states_of(runs))
    status = [json.loads((run.run / "status.json").read_text())["state"] for run in runs]
    assert status == ["failed", "finished", "finished"]
    said = capsys.readouterr()
    assert "[cifar100/kd/ResNet50_resnet32/seed0] error: the loss is not finite" in said.err
    assert "[cifar100/none/ResNet50_resnet32/seed1] epoch 3/3" in said.out


def test_a_signal_stops_all_behind_a_checkpoint_and_they_go_on(trainers, monkeypatch):
    expected = [result["student_sha256"] for result, _ in alone(trainers, "KD", "DFPTKD")]
    runs = trainers("KD", "DFPTKD")
    import os
    import signal

    step = Updater.step

    def hit(self, batch, meters):
        step(self, batch, meters)
        if (batch.epoch, batch.step) == (2, 1) and self is runs[0].updater:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Updater, "step", hit)
    with pytest.raises(Stopped, match="SIGTERM"):
        fit_together(runs, states_of(runs))
    monkeypatch.undo()
    status = [json.loads((run.run / "status.json").read_text())["state"] for run in runs]
    assert status == ["stopped", "stopped"]
    again = trainers("KD", "DFPTKD")
    resumed = fit_together(again, states_of(again), resume=True)
    assert [result["student_sha256"] for result in resumed] == expected


@pytest.mark.parametrize(("first", "second", "message"), [
    ((), (), "seed1: asked for twice; set EXPERIMENT.TAG, or other seeds"),
    ((), ("SOLVER.SEED", "2"), "see the same images in the same order: add `DATASET.SEED 1`"),
    (("DATASET.SEED", "3", "SOLVER.BATCH_SIZE", "8"), ("DATASET.SEED", "3", "SOLVER.SEED", "2"),
     "SOLVER.BATCH_SIZE is 8 and 16; runs in one process have it in common"),
    (("EXPERIMENT.TAG", "a"), ("SOLVER.ACCUMULATE", "2"), "SOLVER.ACCUMULATE is 2; several runs in one process"),
    (("EXPERIMENT.TAG", "a"), ("SOLVER.CUDA_GRAPH", "True"), "SOLVER.CUDA_GRAPH is True; several runs"),
])  # fmt: skip
def test_runs_that_have_no_batch_in_common_are_refused(first, second, message):
    with pytest.raises(ConfigError, match=message):
        refuse_apart([tiny_cfg(*first), tiny_cfg(*second)])


def test_the_command_trains_seeds_and_methods_on_one_teacher(tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(request.config.rootpath)
    words = ["LOG.PREFIX", str(tmp_path), "SOLVER.EPOCHS", "1", "LOG.TENSORBOARD", "False", "EXPERIMENT.DEVICE", "cpu"]
    cfgs = ["--cfg", "configs/digits/kd/res20_res8.yaml", "--cfg", "configs/digits/dfptkd/res20_res8.yaml"]
    assert train([*cfgs, "--seeds", "1,2", *words]) == 2
    assert "add `DATASET.SEED 1`" in capsys.readouterr().err
    words += ["DISTILLER.TEACHER_AUTO_TRAIN", "True"]
    assert train([*cfgs, "--seeds", "1,2", *words, "DATASET.SEED", "1"]) == 0
    found = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob("results.json"))
    assert [name for name in found if "vanilla" not in name] == [
        f"digits/{method}/res20_res8/seed{seed}" for method in ("dfptkd", "kd") for seed in (1, 2)
    ]
    by_itself = load_cfg(cfgs[1], [*words, "SOLVER.SEED", "2", "DATASET.SEED", "1", "EXPERIMENT.TAG", "alone"])
    from mdistiller_dfpt.engine.build import run, run_together

    together_ = json.loads((tmp_path / "digits/kd/res20_res8/seed2/results.json").read_text())
    assert run(by_itself)["student_sha256"] == together_["student_sha256"]
    folded = load_cfg(cfgs[3], [*words, "SOLVER.SEED", "2", "DATASET.SEED", "1", "EXPERIMENT.TAG", "folded",
                                "DISTILLER.TEACHER_FOLD_BN", "True"])  # fmt: skip
    beside = load_cfg(cfgs[1], [*words, "SOLVER.SEED", "2", "DATASET.SEED", "1", "EXPERIMENT.TAG", "beside"])
    _, plain = run_together([folded, beside])
    assert plain["student_sha256"] == together_["student_sha256"], "its teacher is not folded with the other's"
    assert train([*cfgs, "--seeds", "1,2,x"]) == 2
