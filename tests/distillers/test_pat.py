"""PAT: attention over regions, and what its terms train."""

import math

import pytest
import torch

from mdistiller_dfpt.distillers.pat import PAT, Patches, RegionAttention, positions
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.prompted import Gate
from mdistiller_dfpt.testing import check_distiller, take_steps, tiny_batch, tiny_distiller

SHAPES = [(4, 8, 8), (8, 4, 4)]


def attention():
    torch.manual_seed(0)
    return RegionAttention(SHAPES, 4, 32, 8).double()


def maps(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=generator, dtype=torch.double) for shape in SHAPES]


def test_positions_are_distinct_and_start_with_zeros_and_ones():
    table = positions(48, 32)
    assert table[0].tolist() == [0.0, 1.0] * 16
    assert table[5, :2].tolist() == pytest.approx([math.sin(5), math.cos(5)])
    torch.testing.assert_close(table.square().sum(1), torch.full((48,), 16.0))
    assert torch.cdist(table, table).add(torch.eye(48)).min() > 0.1


@pytest.mark.parametrize("height", [2, 4, 6, 8])
def test_a_map_of_any_size_has_the_same_number_of_patches(height):
    assert Patches(4, height, 4, 32)(torch.randn(2, 4, height, height)).shape == (2, 16, 32)


def test_each_stage_is_a_mixture_of_the_patches_of_all_stages():
    module, inputs = attention(), maps(1)
    out = module(inputs)
    assert [tuple(x.shape) for x in out] == [(3, 32, 4, 4)] * 2
    values = module.to_kv(module.norm(torch.cat([p(x) for p, x in zip(module.patches, inputs, strict=True)], 1)))
    values = values.chunk(2, -1)[1]
    for x in out:
        assert (x.amax((2, 3)) <= values.amax(1) + 1e-9).all()
        assert (x.amin((2, 3)) >= values.amin(1) - 1e-9).all()


def test_a_sample_does_not_depend_on_its_place_in_the_batch():
    module, inputs = attention(), maps(1)
    whole, reversed_ = module(inputs), module([x.flip(0) for x in inputs])
    for a, b in zip(whole, reversed_, strict=True):
        torch.testing.assert_close(a, b.flip(0))


def test_the_feature_term_trains_student_aligners_and_prompts():
    distiller = tiny_distiller("PAT")
    for gate in (m for m in distiller.modules() if isinstance(m, Gate)):
        torch.nn.init.constant_(gate.compress.bias, 2.0)  # as narrow as here, it may be shut
    take_steps(distiller, 1)  # the prompts' scale has left zero, and there is feedback
    distiller.zero_grad(set_to_none=True)
    distiller(tiny_batch())[1]["feat"].weighted.backward()
    reached = {name.split(".")[0] for name, p in distiller.named_parameters() if p.grad is not None}
    assert {"student", "attention", "aligners", "teacher"} <= reached
    assert all(p.grad is None for p in distiller.teacher.network.parameters())
    for part in ("fusion", "block"):
        assert distiller.teacher.prompts[1].get_submodule(part)[0].weight.grad.abs().max() > 0


def test_feedback_is_what_the_student_lacked_in_the_step_before():
    distiller, batch = tiny_distiller("PAT"), tiny_batch()
    distiller(batch)
    (difference, total), target = distiller.teacher.pending, distiller.teacher(batch)["prompted"].features["feats"]
    assert total == 8
    distiller.teacher.after_step(batch)
    for i, x in enumerate(difference):
        assert x.shape == target[i + 1].shape
        assert torch.equal(distiller.teacher.get_buffer(f"feedback{i}")[:8], x)


def test_evaluation_gives_no_feedback():
    distiller = tiny_distiller("PAT").eval()
    with torch.no_grad():
        distiller(tiny_batch())
    assert distiller.teacher.pending is None


@pytest.mark.parametrize("values", [{"dim": 32, "heads": 4, "side": 2}, {"student_weight": 1.0}, {"reg_weight": 0.0}])
def test_the_laws_hold_for_other_values(values):
    check_distiller(PAT, **values)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="PAT.DIM is 36; it must be a multiple of PAT.HEADS, 8"):
        tiny_distiller("PAT", "PAT.DIM", "36")
