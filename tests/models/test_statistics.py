"""Running statistics for untrained networks, and those of a batch in their place."""

import copy

import pytest
import torch
from torch import nn

from mdistiller_dfpt.models.statistics import batch_statistics, measure_statistics, remeasured, single_values
from mdistiller_dfpt.testing import TinyNet, changed, snapshot


def test_the_running_statistics_are_those_of_all_batches():
    network, images = TinyNet(), torch.randn(3, 64, 3, 8, 8)
    measure_statistics(network, images)
    with torch.no_grad():
        maps = network.conv1(images.flatten(0, 1))
    torch.testing.assert_close(network.bn1.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(network.bn1.running_var, maps.var((0, 2, 3)), rtol=1e-2, atol=0)


def test_it_leaves_the_network_in_eval_mode_and_trainable_as_before():
    network = TinyNet()
    measure_statistics(network, [torch.randn(4, 3, 8, 8)])
    assert not any(m.training for m in network.modules())
    assert network.bn1.momentum == TinyNet().bn1.momentum
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_statistics_of_a_batch_give_the_outputs_of_training_and_change_nothing(training):
    network, images = TinyNet().train(training), torch.randn(4, 3, 8, 8)
    network.bn1.train()
    before, modes = snapshot(network), [m.training for m in network.modules()]
    expected = copy.deepcopy(network).train()(images)[0]
    with batch_statistics(network):
        assert torch.equal(network(images)[0], expected)
    assert changed(before, network.state_dict()) == []
    assert [m.training for m in network.modules()] == modes
    with pytest.raises(InterruptedError), batch_statistics(network):
        raise InterruptedError
    assert [m.training for m in network.modules()] == modes
    network.train()(images)
    assert "bn1.running_mean" in changed(before, network.state_dict())


def test_remeasured_statistics_are_averages_weighted_by_samples_and_the_network_stays_as_it_is():
    network = TinyNet().train()
    network(torch.randn(8, 3, 8, 8) + 5)
    batches = [torch.randn(12, 3, 8, 8), torch.randn(4, 3, 8, 8) * 3 + 1]
    before, momentum = snapshot(network), network.bn1.momentum
    found = remeasured(network, network, batches)
    assert changed(before, network.state_dict()) == []
    assert network.training
    assert network.bn1.momentum == momentum
    assert set(found) == {key for key in network.state_dict() if "running_" in key}
    maps = [network.conv1(batch) for batch in batches]
    torch.testing.assert_close(found["bn1.running_mean"], torch.cat(maps).mean((0, 2, 3)))
    of_each = [m.var((0, 2, 3)) for m in maps]
    torch.testing.assert_close(found["bn1.running_var"], 0.75 * of_each[0] + 0.25 * of_each[1])


def test_a_single_value_is_seen_also_of_a_layer_that_is_called_by_keyword():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, image):
            return self.norm(input=image)

    network = Named().eval()
    for size, names in ((1, ["norm"]), (2, [])):
        with single_values(network, network.modules()) as found:
            network(torch.randn(1, 4, size, size))
        assert found == names
