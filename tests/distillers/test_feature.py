"""Feature shapes: inferred without side effects, for every method on every pair, small and large images."""

import copy
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.distillers import DISTILLERS, Distiller, build_distiller
from mdistiller_dfpt.distillers.feature import check_shapes, feature_shapes, same_size, stage_pairs
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.models.output import as_output
from mdistiller_dfpt.testing import TinyNet, changed, snapshot

PAIRS = sorted((Path(__file__).parents[2] / "configs/cifar100/pairs").glob("*.yaml"))
# Methods that need one forward pass of each network, so that a single pass serves all of them
PLAIN = [
    name for name, m in sorted(DISTILLERS.items())
    if issubclass(m, Distiller) and m.terms is Distiller.terms and m.deployed is Distiller.deployed
    and not m.needs_strong_view and not m.starts_from_teacher and not m.held_out
    # which draw random numbers, run stages of a copy, or make a weight orthogonal: the meta device has no values
    and name not in ("CRD", "FCFD", "VKD")
]  # fmt: skip


def test_pairs_and_methods_are_found():
    assert len(PAIRS) >= 13
    assert len(PLAIN) >= 20


@pytest.mark.parametrize(
    ("pair", "size"), [(p, (32, 64, 224)[i % 3]) for i, p in enumerate(PAIRS)], ids=lambda v: getattr(v, "stem", v)
)
def test_every_method_fits_every_pair(pair, size):
    """On the meta device, which only tracks shapes; smoke runs compute."""
    cfg = load_cfg(pair)
    with torch.device("meta"):
        student, teacher = (build_model(n) for n in (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER))
        image, target = torch.empty(4, 3, size, size), torch.zeros(4, dtype=torch.int64)
        batch = Batch(image, target, target, epoch=1, step=1)
        outputs = as_output(student.train()(image)), as_output(teacher.eval()(image))
        for name in PLAIN:
            cfg = load_cfg(pair, ["DISTILLER.TYPE", name])
            networks = copy.deepcopy(student), copy.deepcopy(teacher)
            distiller = build_distiller(cfg, *networks, 200, image_shape=(3, size, size)).train()
            for term in distiller.losses(*outputs, batch).values():
                assert term.value.shape == ()


def test_inferring_shapes_changes_neither_modes_nor_statistics():
    network = TinyNet(4).train()
    network.bn1.eval()
    before = snapshot(network)
    shapes = feature_shapes(network, (3, 8, 8))
    assert shapes.feats == [(4, 8, 8), (4, 8, 8), (8, 4, 4), (8, 2, 2)]
    assert (shapes.pooled, shapes.classes) == (8, 5)
    assert changed(before, network.state_dict()) == []
    assert network.training
    assert not network.bn1.training


def test_stages_are_paired_from_the_end_without_the_stems():
    assert stage_pairs([0, 1, 2, 3], [0, 10, 20, 30, 40]) == [(1, 20), (2, 30), (3, 40)]


def test_the_larger_map_is_pooled():
    a, b = same_size(torch.ones(1, 2, 8, 4), torch.ones(1, 3, 4, 8))
    assert (a.shape, b.shape) == ((1, 2, 4, 4), (1, 3, 4, 4))


def test_a_stated_shape_is_checked_and_an_empty_one_is_not():
    assert check_shapes({"X": ([], [1, 2]), "Y": (7, 7), "Z": (0, 3)}) == {"X": [1, 2], "Y": 7, "Z": 3}
    with pytest.raises(ValueError, match=r"X is \[1\]; these networks have \[1, 2\]"):
        check_shapes({"X": ([1], [1, 2])})
