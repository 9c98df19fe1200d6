"""Captured steps: the same training as eager ones, for each method that allows it; a word for those that do not."""

import pytest
import torch

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.engine import Trainer
from mdistiller_dfpt.engine.graphs import CudaRecorder, why_eager
from mdistiller_dfpt.engine.optim import keep_rates_on_device, set_learning_rate
from mdistiller_dfpt.engine.saving import Saver

from .conftest import tiny_cfg, tiny_data, tiny_distiller
from .tape import TapeRecorder

METHODS = sorted(DISTILLERS)
CAPTURED = [n for n in METHODS if not DISTILLERS[n].why_eager and not DISTILLERS[n].needs_strong_view]
WITH_EPOCHS = [n for n in CAPTURED if DISTILLERS[n].uses_epoch]
# What a method does at other epochs than the first begins at once
EARLY = {"FT": ["FT.INIT_EPOCHS", "2"], "ESKD": ["ESKD.STOP_EPOCH", "2"]}
EPOCHS = 4


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A trainer whose optimiser skips what is not finite by itself, as on a GPU; `captured` with the tape's graphs."""

    def build(name, *words, captured=True, kind=None, out="out"):
        words = ["DISTILLER.TYPE", name, "SOLVER.BATCH_SIZE", "10", "SOLVER.LR", "0.02", "SOLVER.EPOCHS", str(EPOCHS),
                 "LOG.PREFIX", str(tmp_path / out), *EARLY.get(name, []), *words]  # fmt: skip
        distiller = tiny_distiller(name, *words)
        if kind is not None:
            distiller.__class__ = kind
        run = Trainer(tiny_cfg(*words), distiller, tiny_data(batch=10), "tiny")
        run.updater.waits_for_verdict = False
        recorder = TapeRecorder()
        monkeypatch.setattr(run, "_recorder", lambda: recorder if captured else None)
        return run

    return build


def train(run, epochs=EPOCHS):
    torch.manual_seed(5)
    run._prepare()
    if run.graphs is None:  # the same rounding of the learning rate
        keep_rates_on_device(run.optimizer, run.device)
    averages = []
    for epoch in range(1, epochs + 1):
        averages.append(run._train_epoch(epoch))
        run.step = 0
        run._start_averages()
    return averages


def differing(one, other):
    state = other.distiller.state_dict()
    return [key for key, value in one.distiller.state_dict().items() if not torch.equal(value, state[key])]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, ()) for name in CAPTURED),
        ("DFPTKD", ("DFPTKD.FINETUNE_BACKBONE", "True")),
        ("DFPTKD", ("DFPTKD.BN", "running", "DFPTKD.STAGES", "[2]")),
        ("DKD", ("DISTILLER.TYPE", "[DFPTKD, DKD]")),
        ("KD", ("SOLVER.ACCUMULATE", "2")),
        ("KD", ("SOLVER.AMP", "bf16", "SOLVER.CHANNELS_LAST", "True")),
        ("KD", ("SOLVER.SCHEDULE", "cosine", "SOLVER.WARMUP_EPOCHS", "1")),
    ],
)
def test_replayed_steps_are_the_eager_ones_bit_for_bit(name, words, trainer):
    plain, graphs = (trainer(name, *words, captured=c) for c in (False, True))
    assert train(graphs) == train(plain)
    assert differing(plain, graphs) == []
    recorder = graphs.graphs.recorder
    assert not graphs.graphs.broken
    assert recorder.replays > recorder.eager_steps / 2
    assert (recorder.recordings == 2) == (not graphs.distiller.uses_epoch)


@pytest.mark.parametrize("name", WITH_EPOCHS)
def test_a_method_that_depends_on_the_epoch_is_recorded_anew_as_it_says_so(name, trainer):
    plain = trainer(name, captured=False)
    silent = trainer(name, kind=type(name, (DISTILLERS[name],), {"uses_epoch": False}))
    train(plain)
    train(silent)
    assert differing(plain, silent), "the test before this one sees a method that says nothing"


def test_a_list_of_methods_depends_on_what_its_members_do(trainer):
    both = trainer("DFPTKD", "DISTILLER.TYPE", "[DFPTKD, DKD]").distiller
    assert (both.uses_epoch, both.why_eager) == (True, "")
    assert trainer("KD", "DISTILLER.TYPE", "[KD, CRD]").distiller.why_eager


def test_a_step_that_cannot_be_captured_runs_eagerly_and_a_line_says_why(trainer, capsys):
    class Peeks(DISTILLERS["KD"]):
        def losses(self, student, teacher, batch):
            if student.logits.abs().max().item() > 1e9:
                return {}
            return super().losses(student, teacher, batch)

    plain, graphs = trainer("KD", captured=False), trainer("KD", kind=Peeks)
    assert train(graphs) == train(plain)
    assert differing(plain, graphs) == []
    assert graphs.graphs.broken
    said = [line for line in capsys.readouterr().out.splitlines() if "eagerly" in line]
    assert len(said) == 1
    assert "cannot be captured: operation not permitted when stream is capturing: _local_scalar_dense" in said[0]


@pytest.mark.parametrize("name", [n for n in METHODS if DISTILLERS[n].why_eager])
def test_methods_that_are_said_to_ask_the_host_do(name, trainer):
    run = trainer(name)
    train(run, epochs=1)
    assert run.graphs.broken


def test_a_run_goes_on_from_the_middle_of_an_epoch_as_if_it_had_never_stopped(trainer, monkeypatch):
    words = ("LOG.SAVE_EVERY", "1 steps")
    whole = trainer("DFPTKD", *words, out="whole")
    expected = whole.fit()
    save = Saver.save

    def save_and_stop(self, done):
        save(self, done)
        if len(done.epochs) == 2 and done.step == 2:
            raise KeyboardInterrupt

    stopped = trainer("DFPTKD", *words)
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit()
    resumed = trainer("DFPTKD", *words)
    assert resumed.fit(resume=True)["student_sha256"] == expected["student_sha256"]
    assert differing(whole, resumed) == []
    assert resumed.graphs.recorder.replays > 0


def test_a_step_that_is_not_finite_changes_nothing_from_then_on(trainer):
    run = trainer("KD")
    train(run, epochs=1)
    with torch.no_grad():
        run.distiller.teacher.fc.bias[0] = float("nan")
    before = run.distiller.student.fc.weight.clone()
    with pytest.raises(Exception, match="the loss is not finite in epoch 2"):
        run._train_epoch(2)
    assert torch.equal(run.distiller.student.fc.weight, before)


def test_a_rate_on_the_device_is_the_schedule_s_and_is_saved_as_a_number(trainer, tmp_path):
    run = trainer("DFPTKD", "DFPTKD.FINETUNE_BACKBONE", "True")
    run._prepare()
    held = [group["lr"] for group in run.optimizer.param_groups]
    set_learning_rate(run.optimizer, 0.5)
    assert [round(rate.item(), 6) for rate in held] == [0.5, 0.05]
    run.fit()
    checkpoint = max((run.run / "checkpoints").iterdir())
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    assert [type(group["lr"]) for group in state["optimizer"]["param_groups"]] == [float, float]


def test_reasons_against_a_graph_are_said_before_the_first_step(trainer, monkeypatch, capsys):
    run = trainer("KD", "SOLVER.CUDA_GRAPH", "True")
    monkeypatch.undo()
    run = Trainer(run.cfg, run.distiller, run.data, "tiny")
    run.one_epoch()
    assert "SOLVER.CUDA_GRAPH: steps run eagerly: graphs are for a GPU" in capsys.readouterr().out

    class Gpu:
        type = "cuda"

    monkeypatch.setattr(type(run.data.train), "device", Gpu())

    def reason(name, *words):
        return why_eager(tiny_cfg("DISTILLER.TYPE", name, *words), tiny_distiller(name), run.data.train)

    assert {name for name in METHODS if not reason(name)} == set(CAPTURED)
    assert "generator that is seeded on the host" in reason("CRD")
    assert "strong views" in reason("MLLD")
    assert "SOLVER.TRAINER dot" in reason("KD", "SOLVER.TRAINER", "dot")
    assert "TEACHER_TABLE_FILL at once" in reason("KD", "DISTILLER.TEACHER_TABLE", "somewhere")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_on_a_gpu_graphs_train_as_eager_steps_do_and_wait_for_nothing(name, trainer):
    from .test_trainer import gpu_data

    words = ("SOLVER.AMP", "bf16", "SOLVER.CHANNELS_LAST", "True")
    runs = []
    for captured in (False, True):
        run = trainer(name, *words, captured=captured)
        run = Trainer(run.cfg, run.distiller, gpu_data(), "tiny")
        run._recorder = (lambda: CudaRecorder()) if captured else (lambda: None)
        averages = train(run)
        runs.append((run, averages))
    (_, plain), (graphs, replayed) = runs
    assert not graphs.graphs.broken
    for a, b in zip(plain, replayed, strict=True):
        assert b == pytest.approx(a, rel=5e-2, abs=5e-2)
    shares = list(graphs.data.train.start(EPOCHS + 1))
    for share in shares[:3]:
        graphs.graphs.run(share)
    torch.cuda.set_sync_debug_mode("error")
    try:
        graphs.graphs.run(shares[3])
        graphs.meters.read()
    finally:
        torch.cuda.set_sync_debug_mode("default")
