"""What a user's schedule or optimiser returns is checked, and a record says what a run really used."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mdistiller_dfpt.errors import DivergedError, PluginError
from mdistiller_dfpt.testing import tiny_cfg, tiny_distiller
from mdistiller_dfpt.training.evaluate import evaluate
from mdistiller_dfpt.training.optim import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule

from ..tiny_runs import after_each_step, fit, outcome, run_of


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "slow", None])
def test_a_schedule_that_returns_no_learning_rate_is_named(value, registries):
    SCHEDULES.register("mine")(lambda progress, plan: value)
    with pytest.raises(PluginError, match="test_user_solver.py.* after 0.5 epochs; a schedule must return a learning"):
        build_schedule(tiny_cfg("SOLVER.SCHEDULE", "mine"))(0.5)


def test_numbers_of_numpy_are_learning_rates(registries):
    SCHEDULES.register("mine")(lambda progress, plan: np.float32(0.25))
    assert build_schedule(tiny_cfg("SOLVER.SCHEDULE", "mine"))(0.5) == 0.25


def test_an_optimiser_that_drops_the_groups_is_named(registries):
    @OPTIMIZERS.register("flat")
    def flat(groups, plan):
        return torch.optim.SGD([p for group in groups for p in group["params"]], lr=plan.lr)

    with pytest.raises(PluginError, match="flat: its groups lack the `lr_factor`"):
        build_optimizer(tiny_cfg("SOLVER.TYPE", "flat"), tiny_distiller("KD"))


class SecondOrder(torch.optim.SGD):
    is_second_order = True  # as timm's Adahessian


class TwoSteps(torch.optim.SGD):
    def first_step(self):  # as SAM
        pass


@pytest.mark.parametrize("cls", [torch.optim.LBFGS, SecondOrder, TwoSteps])
def test_an_optimiser_that_needs_more_than_gradients_is_refused_at_the_start(cls, registries):
    def mine(groups, plan):
        return cls(groups[:1], lr=plan.lr)

    OPTIMIZERS.register("mine")(mine)
    with pytest.raises(PluginError, match=rf"test_user_solver.py:\d+: mine: {cls.__name__} needs a closure or second"):
        build_optimizer(tiny_cfg("SOLVER.TYPE", "mine"), tiny_distiller("KD"))


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "Adagrad", "Adafactor", "RMSprop", "NAdam", "RAdam", "Adamax"]
)
def test_first_order_optimisers_are_accepted(name, registries):
    cls = getattr(torch.optim, name)
    OPTIMIZERS.register("mine")(lambda groups, plan: cls(groups, lr=plan.lr))
    assert type(build_optimizer(tiny_cfg("SOLVER.TYPE", "mine"), tiny_distiller("KD"))) is cls


def test_the_protocol_says_what_a_users_schedule_and_optimiser_are(tmp_path, registries):
    SCHEDULES.register("mine")(lambda progress, plan: plan.lr / (1 + progress))
    OPTIMIZERS.register("adamw")(lambda groups, plan: torch.optim.AdamW(groups, lr=plan.lr, weight_decay=0.05))
    words = ("SOLVER.EPOCHS", "1", "SOLVER.SCHEDULE", "mine", "SOLVER.TYPE", "adamw")
    found = fit(run_of("KD", tmp_path, *words))["protocol"]
    assert found["schedule"] == "mine"
    assert found["optimizer"].startswith("AdamW, weight decay 0.05")


def test_the_protocol_of_sgd_has_its_momentum_and_weight_decay(tmp_path):
    found = fit(run_of("KD", tmp_path, "SOLVER.EPOCHS", "1"))["protocol"]
    assert found["schedule"] == "x0.1 after [150, 180, 210]"
    assert found["optimizer"] == "SGD, momentum 0.9, weight decay 0.0001"


@pytest.mark.parametrize(("step", "words"), [(1, "before the first update: check this term"), (2, "lower SOLVER.LR")])
def test_a_loss_that_is_not_finite_says_what_it_can_be(step, words, tmp_path):
    run = run_of("KD", tmp_path)
    plain = run.distiller.losses

    def losses(student, teacher, batch):
        terms = plain(student, teacher, batch)
        return {name: term.times(float("nan")) for name, term in terms.items()} if batch.step == step else terms

    run.distiller.losses = losses
    with pytest.raises(DivergedError, match=f"not finite at epoch 1, step {step} .*{words}"):
        fit(run)


class Averaging(torch.optim.Optimizer):
    """SGD that trains one set of weights and evaluates their running mean, with the interface of `schedulefree`."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr, "train_mode": False})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            assert group["train_mode"], "a step was taken on the evaluated weights"
            for p in group["params"]:
                state = self.state[p]
                count = state["count"] = state.get("count", 0) + 1
                p.sub_(p.grad, alpha=group["lr"])
                state["other"] = state.get("other", torch.zeros_like(p)).lerp(p, 1 / count)

    def train(self):
        self._switch(True)

    def eval(self):
        self._switch(False)

    @torch.no_grad()
    def _switch(self, mode):
        for group in self.param_groups:
            for p in group["params"] if group["train_mode"] != mode else ():
                if (other := self.state[p].get("other")) is not None:
                    p.data, self.state[p]["other"] = other, p.detach().clone()
            group["train_mode"] = mode


@pytest.fixture
def averaging(registries):
    OPTIMIZERS.register("averaging")(lambda groups, plan: Averaging(groups, plan.lr))
    return ("SOLVER.TYPE", "averaging")


def test_the_evaluated_weights_of_a_schedule_free_optimiser_are_those_tested_and_saved(tmp_path, averaging):
    run = run_of("KD", tmp_path, *averaging)
    trained = []
    after_each_step(run, lambda number: trained.append(run.distiller.student.fc.bias.detach().clone()))
    results = fit(run)
    saved = load_file(run.run / "student.safetensors")
    torch.testing.assert_close(saved["fc.bias"], torch.stack(trained).mean(0))
    student = run.distiller.student.eval()
    student.load_state_dict(saved)
    tested = evaluate(lambda image: {"student": student(image)[0]}, run.data.test)
    assert tested["student"] == results["epochs"][-1]["test"]["student"]


@pytest.mark.parametrize("step", [2, 4], ids=["first_epoch", "second_epoch"])
def test_a_run_with_a_schedule_free_optimiser_resumes_bit_for_bit(step, tmp_path, averaging):
    words = (*averaging, "LOG.SAVE_EVERY", "1 steps")
    expected = outcome(run_of("KD", tmp_path / "whole", *words))
    broken = run_of("KD", tmp_path / "broken", *words)

    def stop(number):
        if number == step:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(after_each_step(broken, stop))
    assert outcome(run_of("KD", tmp_path / "broken", *words), resume=True) == expected


def test_functions_of_other_arguments_are_named_with_what_they_are_called_with(registries):
    SCHEDULES.register("mine")(lambda progress: 0.1)
    with pytest.raises(PluginError, match=r"test_user_solver.py:\d+: <lambda>: it is called as \(progress, plan\)"):
        build_schedule(tiny_cfg("SOLVER.SCHEDULE", "mine"))(0.0)
    OPTIMIZERS.register("Mine")(lambda groups: None)
    with pytest.raises(PluginError, match=r"it is called as \(groups, plan\)"):
        build_optimizer(tiny_cfg("SOLVER.TYPE", "Mine"), tiny_distiller("KD"))
