"""Networks of other designs obey the laws, and a plain module is told apart from a network that breaks them."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt.testing import BrokenLaw, TinyNet, check_network


class ZeroHead(TinyNet):
    """A network whose head is zero at first, as those of some transformers."""

    def __init__(self, width, num_classes):
        super().__init__(width, num_classes)
        nn.init.zeros_(self.fc.weight)


def test_a_head_that_is_initialised_to_zero_is_no_fault():
    check_network(lambda num_classes: ZeroHead(4, num_classes))


def test_a_plain_module_is_told_in_one_line():
    with pytest.raises(BrokenLaw, match="^Sequential is no StagedModel: write one") as error:
        check_network(lambda num_classes: nn.Sequential(nn.Conv2d(3, num_classes, 3)))
    assert len(str(error.value).splitlines()) == 1


def test_building_leaves_random_numbers_as_they_were():
    state = torch.get_rng_state()
    check_network(lambda num_classes: TinyNet(4, num_classes))
    assert torch.equal(torch.get_rng_state(), state)
