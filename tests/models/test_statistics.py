"""Running statistics for untrained networks."""

import torch

from mdistiller_dfpt.models.statistics import measure_statistics
from mdistiller_dfpt.testing import TinyNet


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
