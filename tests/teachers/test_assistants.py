"""A chain of assistants: which network is behind each path, and which one a method matches."""

import torch

from mdistiller_dfpt.teachers.assistants import Assistants
from mdistiller_dfpt.testing import tiny_batch, tiny_networks, tiny_others


def test_each_path_is_its_network_and_the_last_is_matched():
    network, others = tiny_networks()[1], tiny_others(2)
    teacher = Assistants(network, others)
    assert list(teacher.path_names()) == ["teacher", "assistant1", "assistant2"]
    assert teacher.default_paths() == {"assistant2": 1.0}
    batch = tiny_batch()
    paths = teacher(batch)
    for path, expected in zip(teacher.path_names(), (network, *others), strict=True):
        assert teacher.network_of(path) is expected
        with torch.no_grad():
            assert torch.equal(paths[path].logits, expected(batch.image)[0])


def test_without_assistants_the_teacher_is_matched():
    assert Assistants(tiny_networks()[1]).default_paths() == {"teacher": 1.0}


def test_assistants_given_in_training_mode_are_frozen():
    others = [network.train() for network in tiny_others(2)]
    teacher = Assistants(tiny_networks()[1], others).train()
    assert not any(network.training for network in teacher.frozen())
    assert not any(p.requires_grad for network in teacher.frozen() for p in network.parameters())
