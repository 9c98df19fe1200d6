"""Laws of FT."""

from dataclasses import replace

import torch

from mdistiller_dfpt.distillers.ft import factor_map, ft_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


def test_ft_is_invariant_to_scale_sign_and_order_of_channels():
    a, b = normal(1, (4, 6, 5, 5)), normal(2, (4, 3, 5, 5))
    torch.testing.assert_close(ft_loss(-4 * a[:, torch.randperm(6)], b), ft_loss(a, b))
    assert ft_loss(2 * a, a) < 1e-12
    torch.testing.assert_close(factor_map(a).norm(dim=1), torch.ones(4).double())


def test_the_paraphraser_learns_by_reconstruction_alone_and_only_at_first():
    distiller = tiny_distiller("FT", "FT.INIT_EPOCHS", "2")
    _, terms = distiller(tiny_batch())
    terms["feat"].weighted.backward()
    assert all(p.grad is None for p in distiller.encoder.parameters())
    assert all(p.grad is not None for p in distiller.translator.parameters())
    assert "paraphrase" in terms
    assert "paraphrase" not in distiller(replace(tiny_batch(), epoch=3))[1]
