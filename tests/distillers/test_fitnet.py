"""Laws of FitNet."""

import pytest
import torch

from mdistiller_dfpt.distillers.fitnet import Regressor, fitnet_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_distiller

from ..golden import normal


def test_fitnet_is_the_mean_squared_difference():
    a = normal(1, (2, 3, 4, 4))
    assert fitnet_loss(a, a.clone()) == 0
    torch.testing.assert_close(fitnet_loss(a + 2, a), torch.tensor(4.0).double())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((4, 8, 8), (6, 8, 8)),
        ((4, 16, 16), (6, 8, 8)),
        ((4, 4, 4), (6, 8, 8)),
        ((4, 32, 32), (6, 8, 8)),
        ((4, 2, 2), (6, 7, 7)),
        ((4, 56, 28), (6, 28, 14)),
    ],
)
def test_the_regressor_brings_any_shape_to_any(source, target):
    assert Regressor(source, target)(torch.randn(2, *source)).shape == (2, *target)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FITNET.HINT_LAYER", "4"], "FITNET.HINT_LAYER is 4; both networks have layers 0 to 3"),
        (["FITNET.INPUT_SIZE", "[32, 32]"], r"FITNET.INPUT_SIZE is \[32, 32\]; these networks have \[8, 8\]"),
    ],
)
def test_a_layer_or_size_that_is_not_there_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny_distiller("FITNET", *words)
