"""Laws of CRD, its bank and its negatives."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import crd
from mdistiller_dfpt.distillers.crd import Bank, bank_scores, nce_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import snapshot, take_steps, tiny_batch, tiny_distiller

from ..golden import LOSSES, normal
from .official.core import crd_inputs


def test_the_bank_equals_the_reference_implementation():
    banks, positive, _, student, teacher = crd_inputs()
    bank = Bank(50, 16, 0.5).double()
    bank.student.copy_(banks[0])
    bank.teacher.copy_(banks[1])
    bank.update(positive, torch.zeros(8, dtype=torch.int64), student, teacher)
    expected = LOSSES["crd"]
    np.testing.assert_allclose(bank.student.norm().item(), expected["memory_student_after_norm"], rtol=1e-6)
    np.testing.assert_allclose(bank.student[positive[0], :4], expected["memory_student_row_y0_first4"], rtol=1e-6)


def test_the_momentum_is_the_share_of_the_embedding_before():
    bank, new = Bank(3, 4, 0.9).double(), normal(1, (1, 4))
    before = {"student": bank.student[1].clone(), "teacher": bank.teacher[1].clone()}
    bank.update(torch.tensor([1]), torch.tensor([0]), new, 2 * new)
    torch.testing.assert_close(bank.student[1], F.normalize(0.9 * before["student"] + 0.1 * new[0], dim=0))
    torch.testing.assert_close(bank.teacher[1], F.normalize(0.9 * before["teacher"] + 0.2 * new[0], dim=0))


def test_dense_and_gathered_scores_agree_in_value_and_gradient(monkeypatch):
    monkeypatch.setattr(crd, "CHUNK", 3 * 5 * 16)  # three samples at a time
    bank, index = normal(1, (400, 16)), torch.randint(0, 400, (8, 5))
    results = []
    for dense in (True, False):
        embedding = normal(2, (8, 16)).requires_grad_()
        scores = (embedding @ bank.T).gather(1, index) if dense else bank_scores(embedding, bank, index)
        scores.pow(2).sum().backward()
        results.append((scores.detach(), embedding.grad))
    torch.testing.assert_close(results[0], results[1])


def test_the_loss_falls_as_the_positive_rises_and_the_negatives_fall():
    base = torch.full((2, 5), 0.02)
    better = base.clone()
    better[:, 0] = 0.2
    worse = base.clone()
    worse[:, 1:] = 0.2
    assert nce_loss(better, 100) < nce_loss(base, 100) < nce_loss(worse, 100)


def test_normalisers_are_estimated_once():
    distiller = tiny_distiller("CRD", "CRD.NCE.K", "8")
    take_steps(distiller, 1)
    first = distiller.normalizers.clone()
    assert (first > 0).all()
    take_steps(distiller, 2)
    assert torch.equal(distiller.normalizers, first)


@pytest.fixture(params=["_draw_on_cpu", "_draw_on_device"])
def draw(request):
    return getattr(crd, request.param)


def test_negatives_are_distinct_rows_of_other_classes_all_equally_likely(draw):
    labels = torch.arange(40) % 4
    rows = torch.cat([draw(labels, torch.tensor([1]), 10, seed, same=False) for seed in range(600)])
    assert not (labels[rows] == 1).any()
    assert all(len(set(r.tolist())) == 10 for r in rows)
    counts = torch.bincount(rows.flatten(), minlength=40)[labels != 1]
    assert counts.min() > 140  # 200 expected, its deviation about 12
    assert counts.max() < 260


def test_samples_of_a_batch_draw_their_own_negatives(draw):
    rows = draw(torch.arange(400) % 4, torch.tensor([1, 1]), 150, 0, same=False)
    shared = len(set(rows[0].tolist()) & set(rows[1].tolist()))
    assert 50 < shared < 100  # 75 expected, its deviation about 5


def test_too_few_rows_are_drawn_more_than_once(draw):
    labels = torch.tensor([0, 0, 1])
    rows = draw(labels, torch.tensor([0, 0]), 50, 0, same=False)
    assert rows.shape == (2, 50)
    assert (rows == 2).all()
    only = draw(torch.zeros(3, dtype=torch.int64), torch.tensor([0]), 5, 0, same=False)
    assert only.shape == (1, 5), "a dataset of one class has no negatives, so any row is drawn"


def test_rows_that_are_left_out_are_never_drawn(draw):
    labels = torch.arange(40) % 4
    labels[::2] = crd.LEFT_OUT
    for k in (5, 30):
        rows = draw(labels, torch.tensor([1, 3, 0]), k, 0, same=False)
        assert (rows % 2 == 1).all()
        assert len(rows[2].unique()) == min(k, 20), "as many as there are"


def test_memory_for_the_draw_is_bounded(monkeypatch):
    monkeypatch.setattr(crd, "CHUNK", 100)
    seen = []
    real = torch.rand
    monkeypatch.setattr(torch, "rand", lambda shape, **kw: seen.append(math.prod(shape)) or real(shape, **kw))
    crd._draw_on_device(torch.arange(40), torch.arange(8), 5, 0, same=False)
    assert max(seen) <= 100


def test_the_draw_is_a_function_of_seed_epoch_and_step():
    distiller = tiny_distiller("CRD", "CRD.NCE.K", "8")
    batch = tiny_batch()
    first = distiller.draw(batch)
    torch.rand(5)
    assert torch.equal(distiller.draw(batch), first)
    assert torch.equal(first[:, 0], batch.index)
    assert not torch.equal(distiller.draw(replace(batch, step=2)), first)
    assert not torch.equal(distiller.draw(replace(batch, epoch=2)), first)


def test_relaxed_positives_are_of_the_same_class():
    distiller = tiny_distiller("CRD", "CRD.MODE", "relax", "CRD.NCE.K", "8")
    batch = tiny_batch()
    take_steps(distiller, 1)
    rows = torch.stack([distiller.draw(replace(batch, step=s))[:, 0] for s in range(20)])
    assert (distiller.bank.labels[rows] == batch.target).all()
    assert (rows != batch.index).any()


def test_the_bank_learns_labels_and_unit_rows_of_the_samples_it_saw():
    distiller = tiny_distiller("CRD", "CRD.NCE.K", "8")
    before = snapshot(distiller.bank)
    take_steps(distiller, 1)
    batch = tiny_batch()
    bank = distiller.bank
    assert torch.equal(bank.labels[batch.index], batch.target)
    assert (bank.labels[8:] == -1).all()
    torch.testing.assert_close(bank.student[batch.index].norm(dim=1), torch.ones(8))
    assert torch.equal(bank.student[8:], before["student"][8:])


def test_a_loop_without_our_hook_still_updates_the_bank():
    """mdistiller's loop calls nothing after the step: the next forward pass catches up."""
    distiller = tiny_distiller("CRD", "CRD.NCE.K", "8")
    for step in (1, 2):
        _, terms = distiller(tiny_batch(step=step))
        total(terms).backward()
    assert (distiller.bank.labels[:8] >= 0).all()


@pytest.mark.parametrize("key", ["STUDENT_DIM", "TEACHER_DIM"])
def test_stated_widths_are_checked_against_the_networks(key):
    with pytest.raises(ConfigError, match=f"CRD.FEAT.{key} is 256; these networks have"):
        tiny_distiller("CRD", f"CRD.FEAT.{key}", "256")


def test_a_large_bank_is_announced(capsys):
    with torch.device("meta"):
        Bank(1_281_167, 128, 0.5)
    assert capsys.readouterr().out == "two banks of 1,281,167 embeddings of 128 use 1.3 GB\n"
    Bank(20, 4, 0.5)
    assert capsys.readouterr().out == ""
