"""Laws of EAKD."""

import math

import pytest
import torch

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.eakd import entropy, entropy_weights
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.logit_losses import per_sample
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import labels, normal

OVER_SAMPLES = sorted(name for name, loss in LOGIT_LOSSES.items() if not getattr(loss, "couples_samples", False))


def test_entropy_lies_between_that_of_one_class_and_that_of_all():
    assert entropy(torch.zeros(3, 50)).tolist() == pytest.approx([math.log(50)] * 3)
    assert entropy(1000 * torch.eye(3)).tolist() == [0, 0, 0]


def test_weights_rise_with_the_entropy_of_either_network():
    student, teacher = normal(1), normal(2)
    plain = entropy_weights(student, teacher, 3.0, math.log(100))
    assert (entropy_weights(student, teacher / 2, 3.0, math.log(100)) > plain).all()
    assert (entropy_weights(student / 2, teacher, 3.0, math.log(100)) > plain).all()


def test_weights_carry_no_gradient():
    assert not entropy_weights(normal(1).requires_grad_(), normal(2), 3.0, 4.0).requires_grad


def test_undecided_networks_weigh_a_sample_by_the_largest_entropy():
    weights = entropy_weights(torch.zeros(2, 100), torch.zeros(2, 100), 3.0, math.log(100))
    assert weights.tolist() == pytest.approx([math.log(100)] * 2)


@pytest.mark.parametrize("name", OVER_SAMPLES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of a loss with an operator that is not vectorised
def test_the_mean_of_a_losses_samples_is_the_loss_with_its_gradient(name):
    student, teacher, target = normal(1).requires_grad_(), normal(2), labels()
    loss = LOGIT_LOSSES[name]
    rows = zip(student.split(1), teacher.split(1), target.split(1), strict=True)
    single = torch.stack([loss(s, t, y, 2.0) for s, t, y in rows])
    together = per_sample(loss, student, teacher, target, 2.0)
    torch.testing.assert_close(together, single)
    gradients = [torch.autograd.grad(x.mean(), student)[0] for x in (together, single)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(together.mean(), loss(student, teacher, target, 2.0))


def test_a_loss_that_couples_samples_is_refused():
    with pytest.raises(ConfigError, match=r"EAKD.LOGIT_LOSS is DIST"):
        tiny_distiller("EAKD", "EAKD.LOGIT_LOSS", "DIST")


def test_a_method_rises_over_its_warm_up():
    distiller = tiny_distiller("EAKD", "EAKD.WARMUP", "4", "EAKD.LOSS.KD_WEIGHT", "2.0")
    assert [distiller(tiny_batch(epoch=e))[1]["kd"].in_force for e in (1, 2, 8)] == [0.5, 1.0, 2.0]
