"""Several processes of a run compute the same as a single one, for every method; only the first writes."""

import contextlib
import json
import os
import signal
import sys

import pytest
import torch
from torch import distributed as dist
from torch.distributed.distributed_c10d import BackendConfig

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distributed import all_gather, all_reduce, on_first_process, rank, world_size
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training import parallel
from mdistiller_dfpt.training.evaluate import evaluate_method
from mdistiller_dfpt.training.micro_batches import micro_batches, smallest_micro_batch
from mdistiller_dfpt.training.signals import Meetings, Requests
from mdistiller_dfpt.training.sync_batch_norm import with_synchronised_batch_norm
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import WORLD, in_processes
from ..tiny_runs import final_state, fit

TWO_MOMENTA = ("SOLVER.TRAINER", "dot")
PROMPTED = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 1, prompt: 2}")
ENSEMBLE = ("DISTILLER.TEACHER_KIND", "ensemble", "DISTILLER.OTHER_TEACHERS", "[resnet20]")
RUNS = {
    # The noise of DIFFKD is drawn by each process, as dropout's numbers are
    **{name: (name, ()) for name in sorted(set(DISTILLERS) - {"DIFFKD"})},
    "a list": ("[DFPTKD, SP]", ()),
    "KD with two momenta": ("KD", TWO_MOMENTA),
    "KD with projected gradients": ("KD", ("SOLVER.TRAINER", "projected")),
    "SP by both paths of a prompted teacher": ("SP", PROMPTED),
    "DKD by an ensemble": ("DKD", ENSEMBLE),
    "AT by noisy copies": ("AT", ("DISTILLER.TEACHER_KIND", "noisy")),
    "SP by an adapted teacher": ("SP", ("DISTILLER.TEACHER_KIND", "adapter", "ADAPTER.LOGIT_LOSS", "DIST")),
    "KD by views, trained before too": ("KD", ("DISTILLER.TEACHER_KIND", "views", "VIEWS.INIT_EPOCHS", "1")),
    **{f"KD by {kind}": ("KD", ("DISTILLER.TEACHER_KIND", kind)) for kind in ("peer", "previous_epoch", "smoothed")},
    # Batches that split into the same micro-batches for any number of processes: BatchNorm sees one at a time
    "KD in micro-batches": ("KD", ("SOLVER.ACCUMULATE", "2"), 48),
    "SP in micro-batches": ("SP", ("SOLVER.ACCUMULATE", "2"), 48),
}


def cfg_of(name, *overrides):
    # In channels-last, the order of sums depends on the size of a batch: an epoch of FT makes 4 % of a rounding error
    words = ("SOLVER.SYNC_BN", "True", "SOLVER.LR", "0.02", "SOLVER.CHANNELS_LAST", "False")
    return tiny_cfg("DISTILLER.TYPE", name, *words, *overrides)


def one_epoch(name, words, images=45):
    """What is trained, before and after an epoch of batches of 16, 16 and 13; the averages; the accuracy."""
    torch.manual_seed(0)
    distiller = tiny_distiller(name, *words)
    data = tiny_data(train=images, test=19, batch=16, extra=33 if distiller.needs_extra else 0)
    for module in distiller.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each process draws numbers of its own
    trainer = Trainer(cfg_of(name, *words), distiller, data)
    before = state_of(trainer)
    averages = trainer.one_epoch()
    return before, state_of(trainer), averages, evaluate_method(trainer.distiller, data.test)


def state_of(trainer):
    """A copy in numbers that a queue can carry."""
    return {key: value.double().numpy().copy() for key, value in trainer.distiller.state_dict().items()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """{run: the result of two processes}."""
    folder = tmp_path_factory.mktemp("group")
    return in_processes(lambda number: {run: one_epoch(*arguments) for run, arguments in RUNS.items()}, folder)


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_compute_what_one_does(run, shared):
    first, state, averages, accuracy = one_epoch(*RUNS[run])
    for number in range(WORLD):
        _, other, other_averages, other_accuracy = shared[number][run]
        for key, value in state.items():
            off, moved, size = (abs(x).max(initial=0) for x in (value - other[key], value - first[key], value))
            assert off <= 2e-3 * moved + 2e-6 * size + 1e-7, f"{key} of rank {number} is off by {off} of {moved}"
        assert other_averages.keys() == averages.keys()
        for key, value in averages.items() - {("gradient_to_kd", averages.get("gradient_to_kd"))}:  # of own samples
            assert other_averages[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
        for path, values in accuracy.items():
            for key, value in values.items():
                assert other_accuracy[path][key] == pytest.approx(value, rel=1e-3, abs=1e-4), (path, key)


def test_gathering_keeps_the_order_and_sums_the_gradients(tmp_path):
    whole = torch.arange(14.0).reshape(7, 2)

    def work(number):
        own = whole[number::WORLD].clone().requires_grad_()
        together = all_gather(own, 7)
        (together * torch.arange(7.0)[:, None] * (number + 1)).sum().backward()
        return (
            together.detach().numpy(),
            own.grad.numpy(),
            all_reduce(torch.tensor([number + 1.0])).item(),
            on_first_process(rank),
        )

    for number, (together, gradient, total, first) in in_processes(work, tmp_path).items():
        assert (together == whole.numpy()).all()
        assert (gradient[:, 0] == 3 * torch.arange(7.0)[number::WORLD].numpy()).all()
        assert (total, first) == (3.0, 0)


def test_a_single_process_exchanges_nothing():
    x = torch.ones(3)
    assert (world_size(), rank()) == (1, 0)
    assert all_gather(x) is x
    assert all_reduce(x) is x


def test_only_the_first_process_writes_and_all_resume(tmp_path):
    def work(number):
        cfg = cfg_of("KD", "LOG.PREFIX", str(tmp_path / "out"), "LOG.TENSORBOARD", "True")
        writes = []
        sys.addaudithook(
            lambda event, args: writes.append(args[0]) if event == "open" and "w" in str(args[1]) else None
        )
        fit(Trainer(cfg, tiny_distiller("KD"), tiny_data()))
        longer = cfg_of("KD", "LOG.PREFIX", str(tmp_path / "out"), "SOLVER.EPOCHS", "3")
        results = fit(Trainer(longer, tiny_distiller("KD"), tiny_data()), resume=True)
        inside = [str(w) for w in writes if str(w).startswith(str(tmp_path / "out"))]
        return len(inside), len(results["epochs"]), results["student_sha256"], results["protocol"]["world_size"]

    first, second = in_processes(work, tmp_path).values()
    counts = sorted([first[0], second[0]])
    assert counts[0] == 0 < counts[1]
    assert first[1:] == second[1:]
    assert first[1] == 3
    assert first[3] == WORLD
    runs = sorted(p.name for p in (tmp_path / "out").rglob("results.json"))
    assert runs == ["results.json"]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_a_run_continues_on_another_number_of_processes(before, after, tmp_path):
    """The same batches from there on; not bit-identical, as sums are taken in a different order."""

    def run(folder, resume, stop_behind=0):
        cfg = cfg_of("KD", "LOG.PREFIX", str(folder), "SOLVER.EPOCHS", "3")
        trainer = Trainer(cfg, tiny_distiller("KD"), tiny_data(train=45))
        plain = Saver.save

        def save(self, done):
            plain(self, done)
            if len(done.epochs) == stop_behind:
                dist.barrier() if world_size() > 1 else None
                raise InterruptedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Saver, "save", save)
            with contextlib.suppress(InterruptedError):
                fit(trainer, resume)
        return [[e["train"]["loss"], e["test"]["student"]["top1"]] for e in trainer.epochs]

    out = tmp_path / "out"
    whole = in_processes(lambda number: run(tmp_path / "whole", False), tmp_path, 1)[0]
    in_processes(lambda number: run(out, False, stop_behind=1), tmp_path, before)
    (folder := tmp_path / "second").mkdir()
    for found in in_processes(lambda number: run(out, True), folder, after).values():
        assert len(found) == 3
        for (loss, accuracy), (other, other_accuracy) in zip(found, whole, strict=True):
            assert loss == pytest.approx(other, rel=2e-3)
            assert accuracy == pytest.approx(other_accuracy, abs=100 / 20 + 1e-3)
    (results,) = (json.loads(path.read_text()) for path in out.rglob("results.json"))
    assert [(one["epoch"], one["world_size"]) for one in results["environments"]] == [(0, before), (1, after)]


def test_a_signal_that_arrives_during_the_exchange_is_handled_the_next_time(monkeypatch):
    requests = Requests()

    def interrupted(asked):
        requests.stop, requests.save = signal.SIGTERM, True
        return asked

    monkeypatch.setattr("mdistiller_dfpt.training.signals.world_size", lambda: 2)
    monkeypatch.setattr("mdistiller_dfpt.training.signals.all_reduce", interrupted)
    assert requests.poll(7) == (0, False), "between two exchanges nothing is communicated"
    assert requests.poll(8) == (0, False)
    assert requests.poll(16) == (signal.SIGTERM, True)


def test_processes_agree_equally_often_in_an_evaluation_whichever_batches_they_have(monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.training.signals.world_size", lambda: 2)
    monkeypatch.setattr("mdistiller_dfpt.training.signals.all_reduce", lambda asked: found.append(1) or asked)
    found = []
    for missing in ((), (8, 9), (16, 20)):
        meetings = Meetings(Requests())
        with meetings.over(20):
            for number in set(range(1, 21)) - set(missing):
                meetings.between(number)
        found.append(0)
    assert found == [1, 1, 1, 0] * 3


def test_a_signal_to_one_process_stops_an_evaluation_of_all_and_the_run_continues(tmp_path, monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.training.signals.AGREE_EVERY", 1)

    def run(name, resume, signalled=None):
        trainer = Trainer(
            cfg_of("KD", "LOG.PREFIX", str(tmp_path / name), "EXPERIMENT.NAME", "tiny", "SOLVER.EPOCHS", "2"),
            tiny_distiller("KD"),
            tiny_data(test=33, batch=16),
        )  # fmt: skip
        paths = trainer.distiller.evaluated_paths

        def evaluated(image):
            if len(trainer.epochs) == 1 and rank() == signalled:
                os.kill(os.getpid(), signal.SIGTERM)
            return paths(image)

        trainer.distiller.evaluated_paths = evaluated
        try:
            fit(trainer, resume)
        except Exception as e:
            return str(e)
        return [final_state(trainer), [[e["train"], e["test"]] for e in trainer.epochs]]

    whole = in_processes(lambda number: run("whole", False), tmp_path)
    (first := tmp_path / "first").mkdir()
    stopped = in_processes(lambda number: run("out", False, signalled=1), first)
    message = "stopped by SIGTERM in epoch 2, while it was evaluated; continue with --resume"
    assert stopped == {0: message, 1: message}
    (second := tmp_path / "second").mkdir()
    assert in_processes(lambda number: run("out", True), second) == whole


def test_one_process_that_diverges_stops_all(tmp_path):
    def work(number):
        data = tiny_data()
        if number == 1:
            data.train.shift = data.train.shift * float("nan")
        try:
            fit(Trainer(cfg_of("KD", "LOG.PREFIX", str(tmp_path / "out")), tiny_distiller("KD"), data))
        except Exception as e:
            return type(e).__name__
        return "finished"

    assert in_processes(work, tmp_path) == {0: "DivergedError", 1: "DivergedError"}


@pytest.mark.parametrize("name", ["KD", "DFPTKD"])
def test_micro_batches_give_the_gradient_of_the_whole(name):
    frozen = ["DFPTKD.BN", "running"] if name == "DFPTKD" else []
    states = []
    for parts in (1, 3):
        cfg = cfg_of(name, "SOLVER.ACCUMULATE", str(parts), "SOLVER.BATCH_SIZE", "16", *frozen)
        distiller = tiny_distiller(name, *frozen)
        distiller.double()
        data = tiny_data(train=45, batch=16)
        data.train.scale, data.train.shift = data.train.scale.double(), data.train.shift.double()
        trainer = Trainer(cfg, distiller, data)
        for module in distiller.modules():  # only BatchNorm couples the samples of a micro-batch
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
                module.train = lambda mode=True: None
        averages = trainer.one_epoch()
        averages.pop("gradient_to_kd")  # of the first micro-batch
        states.append((distiller.state_dict(), averages))
    (first, averages), (second, others) = states
    for key, value in first.items():
        assert torch.allclose(value.double(), second[key].double(), rtol=1e-6, atol=1e-9), key
    assert others == pytest.approx(averages, rel=1e-5)


@pytest.mark.parametrize("total", [1, 5, 16, 17])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 20])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_micro_batches_hold_every_sample_once_and_every_process_its_share(total, accumulate, world, monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.training.micro_batches.world_size", lambda: world)
    parts = []
    for number in range(world):
        own = torch.arange(total)[number::world]
        parts.append(micro_batches(Batch(own[:, None], own, own, total=total), accumulate))
    assert len({len(p) for p in parts}) == 1
    assert len(parts[0]) <= accumulate
    for pieces in zip(*parts, strict=True):
        positions = torch.cat([p.index for p in pieces])
        assert len(positions) == pieces[0].total
        assert positions.max() - positions.min() == len(positions) - 1
        assert [p.index.tolist() for p in pieces] == [positions.sort().values[n::world].tolist() for n in range(world)]
    fewest = min(len(p.index) for pieces in parts for p in pieces)
    assert smallest_micro_batch(total, accumulate) == fewest


def test_batches_that_leave_a_process_without_a_sample_are_refused(monkeypatch):
    data = tiny_data(train=33, batch=16)
    trainer = Trainer(cfg_of("KD", "SOLVER.ACCUMULATE", "1"), tiny_distiller("KD"), data)
    monkeypatch.setattr("mdistiller_dfpt.training.micro_batches.world_size", lambda: 2)
    with pytest.raises(ConfigError, match="last batch of 1"):
        trainer.one_epoch()


def test_two_momenta_take_whole_batches():
    cfg = cfg_of("KD", "SOLVER.TRAINER", "dot", "SOLVER.ACCUMULATE", "2")
    with pytest.raises(ConfigError, match="SOLVER.ACCUMULATE is 2"):
        Trainer(cfg, tiny_distiller("KD"), tiny_data())


def test_the_default_timeout_is_finite():
    assert 0 < load_cfg(None).EXPERIMENT.TIMEOUT < 3600


@pytest.mark.parametrize(
    ("asked", "device", "on_node", "exchanged_by"),
    [("cuda", "cuda:1", "2", "nccl"), ("cuda:0", "cuda:0", "2", "gloo"), ("cuda:0", "cuda:0", "1", "nccl"),
     ("cpu", "cpu", "2", None)],
)  # fmt: skip
def test_processes_of_a_node_that_share_a_gpu_exchange_by_gloo(asked, device, on_node, exchanged_by, monkeypatch):
    """NCCL refuses two processes on one GPU. The numbers of signals are on the host."""
    meeting = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": on_node, "MASTER_ADDR": "here",
               "MASTER_PORT": "1"}  # fmt: skip
    for name, value in meeting.items():
        monkeypatch.setenv(name, value)

    class Began(Exception):
        pass

    def begin(backend, **more):
        raise Began(backend)

    monkeypatch.setattr(parallel, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "rendezvous", lambda *args, **more: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", begin)
    with pytest.raises(Began) as raised, parallel.process_group(load_cfg(None, ["EXPERIMENT.DEVICE", asked])):
        pass
    found = BackendConfig(str(raised.value)).get_device_backend_map()
    assert found["cpu"] == "gloo"
    assert exchanged_by in (None, found["cuda"])


def test_batch_norm_over_processes_leaves_frozen_networks_as_they_are(tmp_path):
    def kinds(number):
        trainer = Trainer(cfg_of("DFPTKD"), tiny_distiller("DFPTKD"), tiny_data())
        teacher = trainer.distiller.teacher
        return [
            {type(m).__name__ for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}
            for module in (teacher.network, trainer.distiller.student, teacher.prompts)
        ]

    for frozen, student, prompts in in_processes(kinds, tmp_path).values():
        assert frozen == {"BatchNorm2d"}
        assert student == prompts == {"SummedBatchNorm"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_norm_over_processes_keeps_parameters_keys_modes_and_ties(device):
    distiller = tiny_distiller("KD")
    student = distiller.student
    student.same, student.inside = student.bn1, torch.nn.Sequential(student.bn1)
    student.plain = torch.nn.BatchNorm1d(3, eps=0.5, momentum=None, affine=False).eval()
    before = dict(distiller.named_parameters()), dict(distiller.named_buffers()), list(distiller.state_dict())
    with_synchronised_batch_norm(distiller, torch.device(device))
    for old, new in zip(before, (dict(distiller.named_parameters()), dict(distiller.named_buffers())), strict=False):
        assert list(new) == list(old)
        assert all(new[name] is old[name] for name in old)
    assert list(distiller.state_dict()) == before[2]
    kind = "SummedBatchNorm" if device == "cpu" else "SyncBatchNorm"
    assert {type(m).__name__ for m in (student.bn1, student.layer1[1], student.plain)} == {kind}
    assert student.same is student.inside[0] is student.bn1
    assert (student.bn1.training, student.plain.training) == (True, False)
    assert (student.plain.eps, student.plain.momentum, student.plain.affine) == (0.5, None, False)


def test_running_statistics_are_the_first_processes_wherever_they_are_saved(tmp_path, monkeypatch):
    """Within an epoch and at its end: a resumed run loads what was saved, and is to equal an unbroken one."""

    def work(number):
        saved = []

        def save(self, done):
            saved.append((done.step, state_hash(dict(self.distiller.named_buffers()))))

        monkeypatch.setattr(Saver, "save", save)
        cfg = cfg_of("KD", "SOLVER.SYNC_BN", "False", "LOG.PREFIX", str(tmp_path / "out"), "LOG.SAVE_EVERY", "1 step")
        fit(Trainer(cfg, tiny_distiller("KD"), tiny_data(train=160)))
        return saved

    first, second = in_processes(work, tmp_path).values()
    assert [step for step, _ in first] == [8, 0, 8, 0], "processes meet every eight of ten steps"
    assert len({state for _, state in first}) == 4
    assert second == first
