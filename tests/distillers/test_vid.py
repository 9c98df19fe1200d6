"""Laws of VID."""

import math

import pytest
import torch

from mdistiller_dfpt.distillers.vid import Gaussian, vid_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import take_steps, tiny_distiller

from ..golden import normal


def test_vid_is_the_gaussian_likelihood_less_its_constant():
    mean, teacher = normal(1, (4, 3, 2, 2)), normal(2, (4, 3, 2, 2))
    variance = torch.tensor([0.5, 1.0, 4.0]).double()
    density = torch.distributions.Normal(mean, variance.sqrt()[:, None, None]).log_prob(teacher)
    torch.testing.assert_close(vid_loss(mean, teacher, variance), -density.mean() - 0.5 * math.log(2 * math.pi))


def test_the_best_variance_is_the_mean_squared_error():
    mean, teacher = normal(1, (4, 1, 8, 8)), normal(2, (4, 1, 8, 8))
    error = (mean - teacher).pow(2).mean().reshape(1)
    for factor in (0.8, 1.25):
        assert vid_loss(mean, teacher, error) < vid_loss(mean, teacher, factor * error)


def test_the_initial_variance_is_the_one_asked_for():
    torch.testing.assert_close(Gaussian(2, 3, 5.0, 1e-5).variance, torch.full((3,), 5.0))


def test_the_variances_are_trained_and_saved():
    distiller = tiny_distiller("VID")
    before = [g.variance.detach().clone() for g in distiller.gaussians]
    take_steps(distiller, 3)
    assert all((g.variance != b).all() for g, b in zip(distiller.gaussians, before, strict=True))
    assert sum("log_scale" in key for key in distiller.state_dict()) == len(before)


def test_an_initial_variance_below_eps_is_refused():
    with pytest.raises(ConfigError, match=r"VID.INIT_PRED_VAR is 1e-06; it must be greater than VID.EPS"):
        tiny_distiller("VID", "VID.INIT_PRED_VAR", "0.000001")
