"""Laws of TRG."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.trg import (
    TRG,
    contextual_loss,
    falling,
    global_loss,
    knn_graph,
    local_loss,
    tokens_of,
)
from mdistiller_dfpt.testing import check_distiller, tiny_batch, tiny_distiller

from ..golden import normal


def test_tokens_are_positions_or_whole_patches():
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    torch.testing.assert_close(tokens_of(x, 1), x.flatten(2).mT)
    patches = tokens_of(x, 2)
    assert patches.shape == (2, 4, 12)
    torch.testing.assert_close(patches[1, 3], x[1, :, 2:, 2:].flatten())
    assert tokens_of(x, 3).shape == (2, 1, 27)  # the remainder is left out


def test_the_context_of_a_teacher_is_up_to_rotation():
    student, teacher = normal(1, (3, 5, 8)), normal(2, (3, 5, 8))
    rotation = torch.linalg.qr(normal(3, (8, 8))).Q
    assert contextual_loss(teacher @ rotation, teacher) < 1e-20
    torch.testing.assert_close(contextual_loss(student, teacher @ rotation), contextual_loss(student, teacher))


def test_context_by_hand():
    """Two tokens of one channel, 0 and 1: rows softmax([0, 0]) and softmax([0, 1]); the teacher's are all halves."""
    student, teacher = torch.tensor([[[0.0], [1.0]]]), torch.zeros(1, 2, 3)
    gap = math.e / (1 + math.e) - 0.5
    assert contextual_loss(student, teacher).item() == pytest.approx(gap**2 / 2)


def test_an_edge_leads_to_a_token_from_those_that_are_near_to_it():
    angle = torch.tensor([0.0, 0.1, 0.3, 2.0])
    graph = knn_graph(torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1.0], [5.0], [2.0], [1.0]]), 1, 0.5)
    # The nearest of 0, 1, 2 and 3 are 1, 0, 1 and 2: entry [i, j] is that of i among the nearest of j
    expected = torch.zeros(4, 4)
    for i, j in ((1, 0), (0, 1), (1, 2), (2, 3)):
        expected[i, j] = math.exp(-(2 - 2 * math.cos(angle[i] - angle[j])))
    torch.testing.assert_close(graph, expected)


def test_no_more_neighbours_than_there_are_tokens():
    assert (knn_graph(normal(1, (4, 8)), 99, 1.0) > 0).sum() == 12
    assert knn_graph(normal(1, (1, 8)), 8, 1.0).item() == 0


def test_the_local_term_is_the_divergence_of_the_student_from_the_teacher():
    student, teacher = normal(1, (12, 8)), normal(2, (12, 5))
    s, t = (knn_graph(x, 3, 1.0).softmax(1) for x in (student, teacher))
    torch.testing.assert_close(local_loss(student, teacher, 3, 1.0), (s * (s / t).log()).sum(1).mean())
    assert local_loss(3 * teacher, teacher, 3, 1.0) < 1e-15


def test_the_global_term_falls_as_tokens_find_their_place():
    tokens = torch.eye(6).double()
    assert global_loss(tokens, tokens, 0.01) < 1e-20
    # Six equal cosines, whichever the token
    assert global_loss(torch.ones(6, 6), torch.ones(6, 6), 0.5).item() == pytest.approx(math.log(6))
    assert global_loss(tokens.roll(1, 0), tokens, 0.1).item() == pytest.approx(10, abs=1e-2)


def test_the_temperature_falls_from_the_first_to_the_last_epoch():
    assert [falling(0.5, 0.1, epoch, 5) for epoch in (1, 3, 5, 9)] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert falling(0.5, 0.1, 1, 1) == 0.5


def test_terms_do_not_depend_on_the_order_of_the_batch():
    distiller, batch = tiny_distiller("TRG").eval(), tiny_batch()
    turned = replace(batch, image=batch.image.flip(0), target=batch.target.flip(0), index=batch.index.flip(0))
    first, second = (distiller(b)[1] for b in (batch, turned))
    for name, term in first.items():
        torch.testing.assert_close(term.value, second[name].value, msg=name)


def test_tokens_are_drawn_anew_in_every_epoch():
    distiller = tiny_distiller("TRG", "TRG.TOKENS", "2", "TRG.TAU_END", "0.5").eval()
    first, again, later = (distiller(tiny_batch(epoch=e))[1] for e in (1, 1, 2))
    for name in ("local", "global"):
        assert first[name].value == again[name].value != later[name].value
    assert first["context"].value == later["context"].value  # of all tokens


def test_without_its_own_terms_it_is_kd():
    zero = [word for key in ("ALPHA", "BETA", "GAMMA") for word in (f"TRG.{key}", "0")]
    weights = ["KD.LOSS.CE_WEIGHT", "1", "KD.LOSS.KD_WEIGHT", "1"]
    found, expected = (tiny_distiller(*words)(tiny_batch())[1] for words in (("TRG", *zero), ("KD", *weights)))
    for name in ("ce", "kd"):
        assert torch.equal(found[name].weighted, expected[name].weighted)
    assert all(found[name].weighted == 0 for name in ("context", "local", "global"))


def test_the_graph_is_that_of_the_teachers_last_maps():
    distiller, batch = tiny_distiller("TRG", "TRG.TOKENS", "99", "TRG.TAU_END", "0.5"), tiny_batch()
    student, teacher = distiller.forward_student(batch.image), distiller.teacher(batch)["teacher"]
    s, t = (x.features["feats"][-1].flatten(2).mT.flatten(0, 1) for x in (student, teacher))
    terms = distiller.losses(student, teacher, batch)
    torch.testing.assert_close(terms["local"].value, local_loss(s, t, 8, 1.0))
    cosines = F.normalize(distiller.projector(s), dim=1) @ F.normalize(t, dim=1).T
    torch.testing.assert_close(terms["global"].value, F.cross_entropy(2 * cosines, torch.arange(len(s))))


@pytest.mark.parametrize("values", [{"patch": 2}, {"patch": 9}, {"tokens": 1, "neighbors": 99}, {"sigma": 0.01}])
def test_the_laws_hold_for_other_values(values):
    check_distiller(TRG, **values)
