"""Laws of DiffKD."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt.distillers.diffkd import Diffusion
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


class Known(nn.Module):
    """Predicts this noise."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, x):
        return self.noise.expand_as(x)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_denoising_with_the_true_noise_gives_the_clean_feature(steps):
    """The input is the clean feature with the noise of the first time step; 500, 250 or 100 steps lie between two."""
    diffusion = Diffusion(3, 3, latent=0, steps=steps, is_map=True).double().eval()
    clean, noise = normal(1, (2, 3, 4, 4)), normal(2, (1, 3, 4, 4))
    kept = diffusion.cumulated[(steps - 1) * (1000 // (2 * steps))]
    nn.init.zeros_(diffusion.share_head.weight)
    diffusion.share_head.bias.data = torch.tensor([60.0, -60.0]).double()  # the student's feature, without noise
    diffusion.noise_of, diffusion.project = Known(noise), nn.Identity()
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
    torch.testing.assert_close(diffusion.refined(noisy), clean)


def test_the_diffusion_model_learns_from_the_teacher_alone():
    method = tiny_distiller("DIFFKD")
    term = method(tiny_batch())[1]["diffusion"].value
    weights = [method.student.layer3[0].weight, method.of_map.align.weight, method.of_map.times.weight]
    gradients = torch.autograd.grad(term, [*weights, method.of_map.encoder[0].weight], allow_unused=True)
    assert [g is not None for g in gradients] == [False, False, True, True]


def test_the_target_is_no_way_to_learn_for_the_autoencoder():
    method = tiny_distiller("DIFFKD")
    term = method(tiny_batch())[1]["kd"].value
    assert torch.autograd.grad(term, method.of_map.encoder[0].weight, allow_unused=True) == (None,)


def test_noise_is_drawn_in_training_and_not_in_evaluation():
    method, batch = tiny_distiller("DIFFKD"), tiny_batch()
    first, second = (method(batch)[1]["kd"].value.item() for _ in range(2))
    assert first != second
    method.eval()
    first, second = (method(batch)[1]["kd"].value.item() for _ in range(2))
    assert first == second


def test_without_an_autoencoder_the_target_is_the_teachers_map():
    diffusion = Diffusion(3, 5, latent=0, steps=5, is_map=True)
    teacher = torch.randn(4, 5, 4, 4)
    out = diffusion(torch.randn(4, 3, 4, 4), teacher)
    assert torch.equal(out.teacher, teacher)
    assert out.reconstruction == 0
