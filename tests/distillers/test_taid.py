"""Laws of TAID."""

import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.taid import next_t, taid_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import check_distiller, take_steps, tiny_batch, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import forked, in_processes
from ..golden import normal
from ..tiny_runs import continued, fit, outcome, run_of, stopped_after

RULE = {"start": 0.4, "end": 1.0, "alpha": 0.1, "beta": 0.5}


def number(value):
    return torch.tensor(value, dtype=torch.double)


def test_at_the_teacher_its_gradient_is_that_of_kd_and_at_the_student_there_is_none():
    student = normal(1).requires_grad_()
    gradients = [torch.autograd.grad(taid_loss(student, normal(2), t, 4.0), student)[0] for t in (0.0, 1.0)]
    assert gradients[0].abs().max() < 1e-15
    torch.testing.assert_close(gradients[1], torch.autograd.grad(kd_loss(student, normal(2), 4.0), student)[0])


def test_in_between_it_is_kd_from_a_teacher_in_between():
    student, teacher = normal(1).requires_grad_(), normal(2)
    between = 0.7 * student.detach() + 0.3 * teacher
    expected = torch.autograd.grad(kd_loss(student, between, 2.0), student)[0]
    torch.testing.assert_close(torch.autograd.grad(taid_loss(student, teacher, 0.3, 2.0), student)[0], expected)


def test_equal_logits_give_no_gradient_at_any_t():
    student = normal(1).requires_grad_()
    assert torch.autograd.grad(taid_loss(student, student.detach() + 2, 0.6, 4.0), student)[0].abs().max() < 1e-15


def test_the_rule_by_hand():
    """A loss that falls from 2 to 1: momentum 0.5 * 0.5 = 0.25, t = 0.4 + 0.1 * 0.5621765 * 0.6."""
    t, momentum = next_t(number(0.4), number(0.0), number(2.0), number(1.0), 0.0, **RULE)
    assert (t.item(), momentum.item()) == pytest.approx((0.43373059, 0.25))


def test_the_first_step_leaves_t_and_the_momentum_as_they_are():
    t, momentum = next_t(number(0.4), number(0.0), number(float("inf")), number(3.0), 0.0, **RULE)
    assert (t.item(), momentum.item()) == (0.4, 0.0)


def test_t_never_falls_is_at_least_linear_and_ends_at_its_end():
    t, momentum, previous, seen = number(0.4), number(0.0), number(float("inf")), []
    for step in range(41):
        loss = normal(step, (1,)).abs()[0] + 0.1
        t, momentum = next_t(t, momentum, previous, loss, step / 40, **{**RULE, "alpha": 1e-3, "end": 0.9})
        previous = loss
        seen.append(t.item())
    assert seen == sorted(seen)
    assert all(value >= 0.4 + 0.5 * step / 40 - 1e-12 for step, value in enumerate(seen))
    assert seen[-1] == 0.9


def test_a_loss_that_falls_moves_the_target_faster_than_one_that_rises():
    falls, rises = (next_t(number(0.4), number(0.0), number(2.0), number(x), 0.0, **RULE)[0] for x in (1.0, 3.0))
    assert 0.4 < rises < falls


def test_not_adaptive_it_is_the_linear_schedule():
    t, _ = next_t(number(0.4), number(0.0), number(2.0), number(1.0), 0.25, **RULE, adaptive=False)
    assert t.item() == pytest.approx(0.55)


def test_the_target_must_move_to_the_teacher():
    with pytest.raises(ConfigError, match=r"TAID.T_START is 0.8 and TAID.T_END 0.5"):
        tiny_distiller("TAID", "TAID.T_START", "0.8", "TAID.T_END", "0.5")


@pytest.mark.parametrize("values", [{"adaptive": False}, {"alpha": 0.3, "beta": 0.2}], ids=str)
def test_it_keeps_the_laws_with_other_values(values):
    check_distiller(type(tiny_distiller("TAID")), **values)


def test_its_state_is_in_the_checkpoint():
    distiller = tiny_distiller("TAID", "TAID.ALPHA", "0.5")
    take_steps(distiller, 3)
    state = distiller.training_state()
    assert 0.4 < state["t"] < 1
    assert state["momentum"] != 0
    assert state["previous_loss"].isfinite()


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    words = ("SOLVER.EPOCHS", "3", "TAID.ALPHA", "0.1")
    _, whole = forked(lambda: outcome(run_of("TAID", tmp_path / "whole", *words)))
    stopped_after(1, "TAID", tmp_path / "stopped", "TAID.ALPHA", "0.1")
    assert forked(lambda: continued("TAID", tmp_path / "stopped", *words)) == (0, whole)


def t_after_an_epoch(*words):
    """t, the momentum and the last loss after batches of 16, 16 and 13, with BatchNorm of whole batches."""
    torch.manual_seed(0)
    words = ("TAID.ALPHA", "0.3", "TAID.BETA", "0.5", *words)
    run = run_of("TAID", "unused", "SOLVER.SYNC_BN", "True", *words)
    trainer = Trainer(run.cfg, tiny_distiller("TAID", *words), tiny_data(train=45, test=19, batch=16))
    trainer.one_epoch()
    distiller = trainer.distiller
    return [distiller.t.item(), distiller.momentum.item(), distiller.previous_loss.item()]


def test_processes_agree_on_t_and_have_that_of_a_single_one(tmp_path):
    alone, both = t_after_an_epoch(), in_processes(lambda number: t_after_an_epoch(), tmp_path)
    assert both[0] == both[1]
    assert both[0] == pytest.approx(alone, rel=1e-3, abs=1e-6)
    assert alone[0] > 0.6


def test_micro_batches_move_t_as_the_whole_batch_does():
    losses, batch = [], tiny_batch(16)
    for parts in ([slice(0, 16)], [slice(0, 5), slice(5, 16)]):
        distiller = tiny_distiller("TAID").eval()  # BatchNorm would see one micro-batch at a time
        for rows in parts:
            distiller(batch.rows(rows, 16))
        distiller.after_step(batch)
        losses.append(distiller.previous_loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_mixed_labels_are_taken(tmp_path):
    fit(run_of("TAID", tmp_path, "SOLVER.MIXUP", "0.2", "SOLVER.EPOCHS", "1"))
