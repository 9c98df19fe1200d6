"""Laws of SGD with a momentum for each group of terms."""

import pytest
import torch

from mdistiller_dfpt.losses import distillation, label
from mdistiller_dfpt.training.several_momenta import SeveralMomentaSGD, backward_by_group

from ..golden import normal

MOMENTA = {"task": 0.25, "others": 0.75, "target": 0.5}


class ByPart(SeveralMomentaSGD):
    def __init__(self, params, momenta=MOMENTA, decay=0.0):
        defaults = {"lr": 0.1, "weight_decay": decay}
        super().__init__(params, defaults, momenta=momenta, alone=0.6, decayed="target")

    def group_of(self, name, term):
        return term.part or "task"


def steps(w, optimizer, count=4, without=()):
    for _ in range(count):
        terms = {
            "ce": label(0.5 * (w - 1).pow(2).sum()),
            "tckd": distillation(0.5 * (w + 1).pow(2).sum(), 2.0, part="target"),
            "nckd": distillation((w * w * w).sum() / 3, part="others"),
        }
        optimizer.zero_grad()
        backward_by_group({k: t for k, t in terms.items() if k not in without}, optimizer, lambda: None, lambda: None)
        optimizer.step()


def test_equal_momenta_are_sgd():
    """Weight decay too, but for that of a step being of weights that other groups have moved in it already."""
    start = normal(1, (5,), 0.3)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    steps(ours, ByPart([ours], dict.fromkeys(MOMENTA, 0.9)))
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for _ in range(4):
        sgd.zero_grad()
        (0.5 * (theirs - 1).pow(2).sum() + (theirs + 1).pow(2).sum() + theirs.pow(3).sum() / 3).backward()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_the_momenta_by_definition():
    """Weight decay is of the weights that the groups before its own have moved."""
    start = normal(1, (5,), 0.3)
    w, v = start.clone(), dict.fromkeys(MOMENTA, torch.zeros(5).double())
    for _ in range(4):
        gradients = {"task": w - 1, "others": w * w, "target": 2 * (w + 1)}
        for name, momentum in MOMENTA.items():
            gradient = gradients[name] + (0.01 * w if name == "target" else 0)
            v[name] = gradient + momentum * v[name]
            w = w - 0.1 * v[name]
    ours = torch.nn.Parameter(start.clone())
    steps(ours, ByPart([ours], decay=0.01))
    torch.testing.assert_close(ours.detach(), w)


def test_a_parameter_of_one_group_has_the_momentum_of_its_own_and_decays_from_its_second_step_on():
    ours, theirs = (torch.nn.Parameter(normal(1, (5,), 0.3)) for _ in range(2))
    steps(ours, ByPart([ours], decay=0.01), without=("tckd", "nckd"))
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.6, weight_decay=0.01)
    for step in range(4):
        sgd.zero_grad()
        (0.5 * (theirs - 1).pow(2).sum()).backward()
        if step == 0:
            theirs.grad.sub_(theirs.detach(), alpha=0.01)
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_each_group_is_exchanged_and_all_but_the_first_are_clipped_here():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer, calls = ByPart([w]), []
    terms = {"ce": label(w.sum()), "t": distillation(w.sum(), part="target"), "o": distillation(w.sum(), part="others")}
    backward_by_group(terms, optimizer, lambda: calls.append("exchange"), lambda: calls.append("clip"))
    assert calls == ["exchange", "clip", "exchange", "clip", "exchange"]
    assert [g.tolist() for g in optimizer.stored_gradients()] == [[1, 1, 1]] * 2


@pytest.mark.parametrize("without", [("ce",), ("tckd",), ("ce", "nckd")])
def test_a_step_may_lack_any_groups(without):
    w = torch.nn.Parameter(normal(1, (5,), 0.3))
    optimizer = ByPart([w], decay=0.01)
    steps(w, optimizer, 2)
    steps(w, optimizer, 2, without)
    assert w.isfinite().all()
    assert optimizer.stored_gradients() == []
