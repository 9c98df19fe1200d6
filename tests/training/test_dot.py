"""Laws of DOT."""

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import distillation, label, own
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.dot import TwoMomentaSGD
from mdistiller_dfpt.training.several_momenta import backward_by_group
from mdistiller_dfpt.training.trainer import Trainer

from ..golden import normal
from ..tiny_runs import fit


def run(make, steps=4):
    """Parameters after some steps on 0.5 |w - a|^2 (labels) + 0.5 |w - b|^2 (distillation)."""
    w = torch.nn.Parameter(normal(1, (5,)))
    optimizer = make([w])
    for _ in range(steps):
        optimizer.zero_grad()
        if isinstance(optimizer, TwoMomentaSGD):
            (0.5 * (w - 2).pow(2).sum()).backward()
            optimizer.store_gradient("distilled")
            (0.5 * (w + 1).pow(2).sum()).backward()
        else:
            (0.5 * (w + 1).pow(2).sum() + 0.5 * (w - 2).pow(2).sum()).backward()
        optimizer.step()
    return w.detach()


def test_without_a_difference_it_is_sgd():
    ours = run(lambda p: TwoMomentaSGD(p, lr=0.1, momentum=0.9, delta=0.0, weight_decay=0.01))
    torch.testing.assert_close(ours, run(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)))


def test_the_two_momenta_by_definition():
    w, v = normal(1, (5,)), [torch.zeros(5).double(), torch.zeros(5).double()]
    for _ in range(4):
        v = [0.8 * v[0] + (w + 1), (0.9 + 0.1 - 1e-12) * v[1] + (w - 2)]
        w = w - 0.1 * (v[0] + v[1])
    ours = run(lambda p: TwoMomentaSGD(p, lr=0.1, momentum=0.9, delta=0.1 - 1e-12, weight_decay=0.0))
    torch.testing.assert_close(ours, w)


def test_terms_are_split_by_kind_and_not_by_name():
    """Two steps of constant gradients: 1 of the labels at momentum 0.25, 8 of all others at momentum 0.75."""
    w = torch.nn.Parameter(torch.zeros(()))
    optimizer = TwoMomentaSGD([w], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.0)
    for _ in range(2):
        terms = {"kd": label(w, 1.0), "ce": distillation(w, 3.0), "prompt_ce": own(w, 5.0)}
        optimizer.zero_grad()
        backward_by_group(terms, optimizer, lambda: None, lambda: None)
        optimizer.step()
    assert w.item() == pytest.approx(-(1 + 8) - (1 * 1.25 + 8 * 1.75))


@pytest.mark.parametrize("method", ["KD", "DFPTKD", "NONE", "SIMKD"])
def test_with_delta_zero_a_run_equals_the_base_trainers(method, tmp_path, capsys):
    def student(trainer):
        words = ["DISTILLER.TYPE", method, "LOG.PREFIX", str(tmp_path / trainer), "SOLVER.TRAINER", trainer]
        words += ["SOLVER.DOT.DELTA", "0.0"]
        if method == "DFPTKD":
            words += ["DFPTKD.PROMPT.CLIP_NORM", "0"]  # the norm of each part is clipped separately
        distiller = tiny_distiller(method, *words)
        fit(Trainer(tiny_cfg(*words), distiller, tiny_data()))
        return distiller.student.state_dict()

    base, dot = student("base"), student("dot")
    for key, value in base.items():
        torch.testing.assert_close(dot[key], value, rtol=1e-3, atol=1e-5)


def test_momenta_outside_zero_to_one_are_refused():
    words = ["DISTILLER.TYPE", "KD", "SOLVER.TRAINER", "dot", "SOLVER.DOT.DELTA", "0.2"]
    with pytest.raises(ConfigError, match=r"SOLVER.DOT.DELTA is 0.2; with SOLVER.MOMENTUM 0.9 both momenta"):
        Trainer(tiny_cfg(*words), tiny_distiller("KD"), tiny_data())


def test_a_step_without_distillation_terms_is_sgd_with_the_momentum_itself():
    """A gradient of 1 of the labels in both steps, of 8 in the first alone; the second step has momentum 0.5."""
    w = torch.nn.Parameter(torch.zeros(()))
    optimizer = TwoMomentaSGD([w], lr=1.0, momentum=0.5, delta=0.25, weight_decay=0.0)
    for terms in ({"ce": label(w), "kd": distillation(w, 8.0)}, {"ce": label(w)}):
        optimizer.zero_grad()
        backward_by_group(terms, optimizer, lambda: None, lambda: None)
        optimizer.step()
    assert w.item() == pytest.approx(-(1 + 8) - 1 * 1.5)


def test_a_parameter_that_one_kind_of_terms_reaches_is_trained_by_sgd():
    """The classifier under a feature loss, and a method's own layers: SOLVER.MOMENTUM, and weight decay once."""
    values = normal(1, (3, 5))
    ours, theirs = ([torch.nn.Parameter(row.clone()) for row in values] for _ in range(2))
    dot = TwoMomentaSGD(ours, lr=0.1, momentum=0.9, delta=0.075, weight_decay=0.01)
    sgd = torch.optim.SGD([{"params": theirs[:2], "weight_decay": 0.01}, {"params": theirs[2:]}], lr=0.1, momentum=0.9)
    for step in range(4):
        dot.zero_grad()
        terms = {"ce": label((ours[0] * 3).sum()), "kd": distillation((ours[1] * 2).sum())}
        backward_by_group(terms, dot, lambda: None, lambda: None)
        dot.step()
        sgd.zero_grad()
        ((theirs[0] * 3).sum() + (theirs[1] * 2).sum()).backward()
        if step == 0:  # no weight decay in its first step, as in the reference
            theirs[1].grad.sub_(theirs[1].detach(), alpha=0.01)
        sgd.step()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its)
