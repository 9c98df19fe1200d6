"""Laws of FT, and values of RepDistiller's code (b84f547: models/util.py:7-62, distiller_zoo/FT.py)."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.ft import FT, Paraphraser, factor_map, ft_loss
from mdistiller_dfpt.errors import ConfigError, DivergedError
from mdistiller_dfpt.testing import (
    changed,
    snapshot,
    take_steps,
    tiny_batch,
    tiny_cfg,
    tiny_distiller,
    tiny_method,
    tiny_networks,
)
from mdistiller_dfpt.training.signals import Stopped

from ..golden import normal
from ..tiny_runs import end_when, fit, outcome, run_of

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PARAPHRASER = [f"{part}.{i}.{key}" for part in ("encoder", "decoder") for i in (0, 3, 6) for key in ("weight", "bias")]
# Without the biases of the convolutions, which BatchNorm removes
TRANSLATOR = [f"encoder.{i + j}.{key}" for i in (0, 3, 6) for j, keys in enumerate((NORM[:1], NORM)) for key in keys]
INIT = ("FT.INIT_EPOCHS", "4", "FT.INIT_LR", "0.05")


def test_ft_is_invariant_to_scale_sign_and_order_of_channels():
    a, b = normal(1, (4, 6, 5, 5)), normal(2, (4, 3, 5, 5))
    torch.testing.assert_close(ft_loss(-4 * a[:, torch.randperm(6)], b), ft_loss(a, b))
    assert ft_loss(2 * a, a) < 1e-12
    torch.testing.assert_close(factor_map(a).norm(dim=1), torch.ones(4).double())


@pytest.mark.parametrize(("rate", "width"), [(0.5, 6), (0.99, 11), (0.01, 1)])
def test_a_factor_has_the_rates_share_of_the_channels_rounded_down(rate, width):
    method = tiny_method(FT, rate=rate)
    assert {method.paraphraser.encoder[-2].out_channels, method.translator[-3].out_channels} == {width}


def test_the_paraphraser_is_trained_alone_by_sgd_before_the_first_step():
    """Momentum 0.9 and weight decay 5e-4, at a constant rate (helper/pretrain.py:22-30, train_student.py:54-58)."""
    torch.manual_seed(0)
    student, teacher = tiny_networks()
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "FT", *INIT), student, teacher, 48, image_shape=(3, 8, 8))
    reference = Paraphraser(teacher.stage_channels[-1], method.translator[-3].out_channels)
    reference.load_state_dict(method.paraphraser.state_dict())
    before = {name: snapshot(getattr(method, name)) for name in ("student", "translator", "teacher")}
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    batches = [tiny_batch(step=i) for i in (1, 2, 3)]
    for epoch in range(-3, 1):
        for batch in batches:
            with torch.no_grad():
                feature = teacher(batch.image)[1]["feats"][-1]
            optimizer.zero_grad()
            F.mse_loss(reference(feature), feature).backward()
            optimizer.step()
        method.prepare([replace(batch, epoch=epoch) for batch in batches])
    for own, its in zip(method.paraphraser.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, its)
    for name, state in before.items():
        assert changed(state, getattr(method, name).state_dict()) == []


def test_each_epoch_says_its_error_which_falls(capsys):
    tiny_distiller("FT", "FT.INIT_EPOCHS", "20", "FT.INIT_LR", "0.1")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FT: paraphraser, epoch ")]
    assert [line.split()[3] for line in lines] == [f"{n}/20:" for n in range(1, 21)]
    errors = [float(line.split()[-1]) for line in lines]
    assert errors[-1] < errors[0]


def test_the_student_never_trains_the_paraphraser():
    method = tiny_distiller("FT", *INIT)
    optimised = {id(p) for group in method.parameter_groups() for p in group["params"]}
    assert not optimised & {id(p) for p in method.paraphraser.parameters()}
    before = snapshot(method.paraphraser)
    take_steps(method, 2)
    assert changed(before, method.paraphraser.state_dict()) == []
    assert {name: term.kind for name, term in method(tiny_batch())[1].items()} == {
        "ce": "label", "feat": "distillation",
    }  # fmt: skip


def test_an_error_that_is_not_finite_names_the_rate():
    with pytest.raises(DivergedError, match=r"the paraphraser's error is (nan|inf); lower FT.INIT_LR \(now 1e\+20\)"):
        tiny_distiller("FT", "FT.INIT_LR", "1e20")


def test_a_path_that_is_trained_is_refused():
    with pytest.raises(ConfigError, match="FT trains its paraphraser on the path 'prompt' before the first step, and"):
        tiny_distiller("FT", "DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1.0}")


def untrained(folder):
    """A run of three epochs whose paraphraser is not yet trained, as `tiny_distiller` does at once."""
    trainer = run_of("FT", folder, *INIT, "SOLVER.EPOCHS", "3")
    method = trainer.distiller
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in method.paraphraser.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.reset_parameters()
    for momentum in method.momenta:
        momentum.zero_()
    return trainer


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_run_that_ends_between_two_epochs_of_the_paraphraser_goes_on_with_the_next(passes, tmp_path, monkeypatch):
    whole = outcome(untrained(tmp_path / "whole"))
    ended, calls, prepare = untrained(tmp_path / "ended"), [], FT.prepare

    def counted(self, batches):
        calls.append(next(iter(batches)).epoch)
        prepare(self, batches)

    end_when(lambda done: done.prepared == passes, ended)
    saved = sorted(p.name for p in (ended.run / "checkpoints").iterdir())
    assert saved == [f"epoch-00000-pass-{n:05d}" for n in range(1, 5)][max(0, passes - 2) : passes]
    monkeypatch.setattr(FT, "prepare", counted)
    resumed = run_of("FT", tmp_path / "ended", *INIT, "SOLVER.EPOCHS", "3")
    calls.clear()
    assert outcome(resumed, resume=True) == whole
    assert calls == [-3, -2, -1, 0][passes:]


def test_a_signal_ends_a_run_after_an_epoch_of_the_paraphraser(tmp_path, monkeypatch):
    trainer, prepare = untrained(tmp_path), FT.prepare

    def asked(self, batches):
        prepare(self, batches)
        trainer.requests.stop = signal.SIGTERM

    monkeypatch.setattr(FT, "prepare", asked)
    with pytest.raises(Stopped, match="stopped by SIGTERM after pass 1 before the first epoch; continue with"):
        fit(trainer)
    assert json.loads((trainer.run / "status.json").read_text())["state"] == "stopped"


@pytest.mark.parametrize(("pair", "rate"), [("res32x4_res8x4", 0.01), ("res50_mv2", 0.01), ("vgg13_vgg8", 0.05)])
def test_the_rate_of_a_pair_is_that_of_repdistiller(pair, rate):
    """helper/pretrain.py:22-27: 0.01 for ResNets and WRNs, else the student's, which is 0.01 but for VGG."""
    node = load_cfg(f"cifar100/ft/{pair}").FT
    assert node.INIT_EPOCHS == 30
    assert rate == node.INIT_LR
