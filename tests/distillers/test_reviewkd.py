"""Laws of ReviewKD."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt import build_model
from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.distillers.reviewkd import AttentionFusion, ReviewKD, hcl_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import check, normal

SHAPES = [(8, 16, 16, 16), (8, 32, 8, 8), (8, 64, 4, 4)]


def test_hcl_equals_the_reference_implementation():
    student = [normal(10 + i, s, 1).requires_grad_() for i, s in enumerate(SHAPES)]
    check("hcl", hcl_loss(student, [normal(30 + i, s, 1) for i, s in enumerate(SHAPES)]), student)


def test_hcl_is_zero_at_equality_and_a_constant_offset_costs_its_square():
    """Every level sees the same offset, and the levels' weights sum to one."""
    a = normal(1, (2, 3, 8, 8))
    assert hcl_loss([a], [a.clone()]) == 0
    torch.testing.assert_close(hcl_loss([a + 3], [a]), torch.tensor(9.0).double())


def test_fusion_has_the_teachers_width_and_size_and_passes_its_own_on():
    out, own = AttentionFusion(4, 6, 10, fuse=True)(torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4), (5, 5))
    assert out.shape == (2, 10, 5, 5)
    assert own.shape == (2, 6, 8, 8)


def test_the_term_warms_up_linearly_over_the_epochs():
    distiller = tiny_distiller("REVIEWKD", "REVIEWKD.WARMUP_EPOCHS", "4")
    values = [distiller(replace(tiny_batch(), epoch=e))[1]["review"].weighted.item() for e in (1, 2, 4, 8)]
    torch.testing.assert_close(torch.tensor(values) / values[3], torch.tensor([0.25, 0.5, 1.0, 1.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["REVIEWKD.IN_CHANNELS", "[64, 128, 256]"],
            r"REVIEWKD.IN_CHANNELS is \[64, 128, 256\]; these networks have \[",
        ),
        (["REVIEWKD.SHAPES", "[1, 8]"], r"REVIEWKD.SHAPES is \[1, 8\]; these networks have \[1, 2, 4, 8\]"),
    ],
)
def test_stated_shapes_are_checked_against_the_networks(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny_distiller("REVIEWKD", *words)
    tiny_distiller("REVIEWKD", "REVIEWKD.SHAPES", "[1, 2, 4, 8]")


def test_the_released_recipe_is_a_config():
    """ReviewKD cede6ea, CIFAR-100/train.py:23-27, 168-178, script/reviewKD.sh."""
    cfg = load_cfg("cifar100/reviewkd/as_released")
    solver = cfg.SOLVER
    assert (solver.LR, solver.BATCH_SIZE, solver.WEIGHT_DECAY, solver.EPOCHS) == (0.1, 128, 5e-4, 240)
    assert (list(solver.LR_DECAY_STAGES), solver.LR_DECAY_RATE, solver.NESTEROV) == ([150, 180, 210], 0.1, True)
    assert (cfg.REVIEWKD.REVIEWKD_WEIGHT, cfg.REVIEWKD.WARMUP_EPOCHS) == (5.0, 20)


def test_inferred_shapes_are_mdistillers_defaults_for_the_pair_that_they_are_for():
    defaults = json.loads((Path(__file__).parents[1] / "fixtures/mdistiller_config_keys.json").read_text())
    networks = build_model("resnet8x4", "cifar", 100), build_model("resnet32x4", "cifar", 100)
    inferred = ReviewKD(*networks, **keywords(ReviewKD.config)).inferred
    assert inferred == {key: defaults[key] for key in inferred}
    assert len(inferred) == 4
