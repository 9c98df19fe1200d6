"""What an epoch's record says of terms and logged values: each by its own samples, and no name twice."""

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError, PluginError
from mdistiller_dfpt.losses import distillation, label, own
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.loop import take_step
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes
from ..tiny_runs import fit, run_of


def trainer_with(losses, **changes):
    """A run of KD with other losses; `changes` are attributes of its distiller."""
    distiller = tiny_distiller("KD")
    distiller.losses = losses
    for name, value in changes.items():
        setattr(distiller, name, value)
    return Trainer(tiny_cfg("DISTILLER.TYPE", "KD"), distiller, tiny_data())


@pytest.mark.parametrize("name", ["loss", "top1", "top5"])
def test_a_term_with_a_name_of_the_loops_own_is_refused(name):
    run = trainer_with(lambda student, teacher, batch: {name: label(student.logits.mean())})
    with pytest.raises(PluginError, match=f"the term '{name}' has a name that the loop logs itself"):
        take_step(run.training, tiny_batch())


def test_a_logged_value_with_a_name_of_the_loops_own_or_without_being_a_scalar_is_refused():
    distiller = tiny_distiller("KD")
    with pytest.raises(PluginError, match="it logs 'loss', a name that the loop logs itself"):
        distiller.log("loss", torch.zeros(()))
    with pytest.raises(PluginError, match="it logs 'norms' as Tensor; it must be a scalar tensor"):
        distiller.log("norms", torch.zeros(3))


def test_a_logged_value_is_detached_and_taken_once():
    distiller = tiny_distiller("KD")
    distiller.log("scale", torch.nn.Parameter(torch.tensor(2.0)) * 3)
    logged = distiller.take_logged()
    assert {name: (value.item(), value.requires_grad) for name, value in logged.items()} == {"scale": (6.0, False)}
    assert distiller.take_logged() == {}


@pytest.mark.parametrize("terms", [{}, {"feat": distillation(torch.ones(()))}], ids=["none", "of no parameter"])
def test_a_loss_that_nothing_can_learn_from_is_refused(terms):
    run = trainer_with(lambda student, teacher, batch: terms)
    with pytest.raises(ConfigError, match="KD: no term of the loss depends on a trained parameter"):
        take_step(run.training, tiny_batch())


def test_a_weight_that_is_no_number_is_refused():
    run = trainer_with(lambda student, teacher, batch: {"ce": label(student.logits.mean(), "0.5")})
    with pytest.raises(PluginError, match="the weight of the term 'ce' is '0.5'; it must be a number"):
        take_step(run.training, tiny_batch())


def test_a_teachers_term_never_replaces_one_of_the_method():
    distiller = tiny_distiller("KD", "DISTILLER.TEACHER_KIND", "dual_path")
    distiller.teacher.losses = lambda student, outputs, batch: {"ce": own(outputs["prompt"].logits.mean())}
    with pytest.raises(PluginError, match=r"its terms \['ce'\] have the names of terms of the method: rename them"):
        distiller(tiny_batch())


def test_a_value_that_some_steps_log_is_averaged_over_their_samples(tmp_path):
    run = run_of("KD", tmp_path, "SOLVER.EPOCHS", "1")
    plain = run.distiller.losses

    def losses(student, teacher, batch):
        if batch.step == 1:
            run.distiller.log("first", torch.tensor(10.0))
        return plain(student, teacher, batch)

    run.distiller.losses = losses
    assert fit(run)["epochs"][0]["train"]["first"] == 10


def test_two_processes_may_log_in_another_order_and_not_the_same(tmp_path):
    def work(rank):
        run = trainer_with(None)
        values = {"a": torch.tensor(1.0), "b": torch.tensor(3.0)}
        run.training.meters.update(dict(sorted(values.items(), reverse=rank == 1)), 2)
        if rank:
            run.training.meters.update({"alone": torch.tensor(7.0)}, 5)
        return run.training.meters.totals()

    expected = {"a": 1.0, "b": 3.0, "alone": 7.0}
    assert in_processes(work, tmp_path) == {0: expected, 1: expected}
