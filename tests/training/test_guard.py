"""Values that are not finite are never applied, whether the loop synchronises or the optimiser reads the flag."""

import copy

import pytest
import torch

from mdistiller_dfpt.errors import DivergedError
from mdistiller_dfpt.testing import tiny_batch
from mdistiller_dfpt.training.dot import TwoMomentaSGD
from mdistiller_dfpt.training.guard import Guard, reads_found_inf

from ..forks import in_processes
from ..tiny_runs import continued, fit, outcome, run_of

READING = {
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "two momenta": lambda p: TwoMomentaSGD(p, lr=0.1, momentum=0.9, delta=0.05, weight_decay=0.0),
}
OTHERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=False),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def obeys(optimizer, weight):
    """Whether a step applies a finite gradient and skips others, according to `found_inf`."""
    changed = []
    for found in (0.0, 1.0):
        before = weight.detach().clone()
        weight.grad = torch.ones(3)
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(found)
        try:
            optimizer.step()
        except AssertionError:  # some of PyTorch's optimisers reject the flag
            return False
        changed.append(not torch.equal(weight, before))
    return changed == [True, False]


@pytest.mark.parametrize("kind", [*READING, *OTHERS])
def test_an_optimiser_is_said_to_read_the_flag_exactly_if_it_skips_the_update(kind):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = {**READING, **OTHERS}[kind]([weight])
    assert reads_found_inf(optimizer) == obeys(optimizer, weight) == (kind in READING)


def without_waiting(trainer):
    """The trainer as it runs on a GPU: the flag stays on the device."""
    trainer.training.guard.waits = False
    return trainer


EVERY_STEP = ("LOG.SAVE_EVERY", "1 step")


@pytest.mark.parametrize("solver", ["base", "dot"])
def test_a_finite_run_is_the_same_without_synchronisation(solver, tmp_path):
    words = ("SOLVER.TRAINER", solver)
    expected = outcome(run_of("KD", tmp_path / "waiting", *words))
    assert outcome(without_waiting(run_of("KD", tmp_path, *words))) == expected


@pytest.mark.parametrize("solver", ["base", "dot"])
@pytest.mark.parametrize("saving", [(), EVERY_STEP], ids=["at the end of the epoch", "at the next checkpoint"])
def test_without_synchronisation_no_update_follows_a_poisoned_step(saving, solver, tmp_path):
    words = ("SOLVER.TRAINER", solver, *saving)
    expected = outcome(run_of("KD", tmp_path / "whole", *words))
    run = without_waiting(run_of("KD", tmp_path, *words))
    losses, before = run.distiller.losses, []

    def poisoned(student, teacher, batch):
        terms = losses(student, teacher, batch)
        if (batch.epoch, batch.step) == (2, 2):
            before.append(copy.deepcopy(dict(run.distiller.student.named_parameters())))
            terms["kd"] = terms["kd"].times(float("nan"))
        return terms

    run.distiller.losses = poisoned
    with pytest.raises(DivergedError, match="the loss is not finite in epoch 2; lower SOLVER.LR"):
        fit(run)
    assert all(torch.equal(p, before[0][name]) for name, p in run.distiller.student.named_parameters())
    newest = max((run.run / "checkpoints").iterdir()).name
    assert newest == ("epoch-00001-step-0000001" if saving else "epoch-00001")
    assert continued("KD", tmp_path, *words) == expected


def verdict(loss, gradient):
    """What the guard says of a step with this loss and these gradients, all 0 but the last."""
    module = torch.nn.Linear(3, 1)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    module.bias.grad.fill_(gradient)
    guard = Guard(module, torch.optim.SGD(module.parameters(), lr=0.1), torch.device("cpu"), 0.1)
    try:
        guard.check(torch.tensor(loss), {"ce": torch.tensor(loss)}, tiny_batch(step=2))
    except DivergedError as e:
        return str(e).split(" at ")[0]
    return "finite"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_loss_and_each_gradient_are_looked_at(bad):
    assert verdict(1.0, 1.0) == "finite"
    assert verdict(bad, 1.0) == "the loss is not finite"
    assert verdict(1.0, bad) == "the gradient is not finite"


def test_a_step_that_is_bad_in_one_process_is_rejected_by_all(tmp_path):
    """Of a loss alone the other processes learn nothing through the exchange of gradients."""
    found = in_processes(lambda rank: verdict(float("nan") if rank == 1 else 1.0, 1.0), tmp_path)
    assert found[1] == "the loss is not finite"
    assert found[0] != "finite"
