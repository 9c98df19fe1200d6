"""Laws of ESKD."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller


def losses(stop, epoch):
    distiller = tiny_distiller("ESKD", "ESKD.STOP_EPOCH", str(stop))
    batch = replace(tiny_batch(), epoch=epoch)
    logits, terms = distiller(batch)
    with torch.no_grad():
        teacher = distiller.teacher_network(batch.image)[0]
    return terms, F.cross_entropy(logits, batch.target), kd_loss(logits, teacher, 4.0)


def test_up_to_the_stop_it_is_kd():
    for stop, epoch in ((3, 3), (0, 1000)):
        terms, ce, kd = losses(stop, epoch)
        torch.testing.assert_close(total(terms), 0.1 * ce + 0.9 * kd)


def test_after_the_stop_only_the_labels_remain_at_the_full_weight():
    terms, ce, _ = losses(3, 4)
    assert list(terms) == ["ce"]
    torch.testing.assert_close(terms["ce"].weighted, ce)
