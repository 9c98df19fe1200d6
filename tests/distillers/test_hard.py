"""HARD: the augmentation, and who learns what."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mdistiller_dfpt.distillers.hard import HARD, NOISE, Augmentor
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import check_distiller, take_steps, tiny_batch, tiny_distiller


def images(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=generator) for shape in ((3, 8, 8), (NOISE,))]


def constant(output, spatial=0.5, color=0.5):
    """An augmentor whose twelve numbers, before the ranges, are these for all images."""
    augmentor = Augmentor(8, spatial, color)
    nn.init.constant_(augmentor.out.weight, 0.0)
    augmentor.out.bias.data = torch.tensor(output).atanh()
    return augmentor


def moved(**places):
    values = [0.0] * 12
    for place, value in places.items():
        values[int(place[1:])] = value
    return values


def test_it_starts_as_the_identity():
    image, noise = images()
    torch.testing.assert_close(Augmentor(8, 0.3, 0.3)(image, noise), image, atol=1e-5, rtol=0)


def test_gain_and_shift_are_per_channel_and_in_their_ranges():
    image, noise = images()
    out = constant(moved(_6=0.5, _10=-0.5))(image, noise)
    expected = torch.stack([1.25 * image[:, 0], image[:, 1] - 0.25, image[:, 2]], 1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_a_shift_of_half_the_image_moves_it_by_a_quarter_of_two_units():
    """0.5 * 0.5 in units of half the image is one pixel of eight; at the border it is mirrored."""
    image, noise = images()
    out = constant(moved(_2=0.5))(image, noise)
    torch.testing.assert_close(out[..., :7], image[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[..., 7], image[..., 7], atol=1e-5, rtol=0)


def test_without_ranges_nothing_is_augmented():
    image, noise = images()
    out = constant([0.9] * 12, spatial=0.0, color=0.0)(image, noise)
    torch.testing.assert_close(out, image, atol=1e-5, rtol=0)


def gradients(term, *words):
    """Gradients of one term, after a step in which the augmentation has left the identity."""
    distiller = tiny_distiller("HARD", *words)
    take_steps(distiller, 2)
    distiller.zero_grad(set_to_none=True)
    distiller(tiny_batch())[1][term].value.backward()
    return distiller, {name: p.grad for name, p in distiller.named_parameters() if p.grad is not None}


def test_each_term_reaches_what_is_to_learn():
    reached = {term: {name.split(".")[0] for name in gradients(term)[1]} for term in ("ce", "kd", "hard")}
    assert reached == {"ce": {"student"}, "kd": {"student"}, "hard": {"student", "augmentor"}}
    assert {name.split(".")[0] for name in gradients("consistency")[1]} == {"augmentor"}


@pytest.mark.parametrize("ascent", [0.0, 1.0, 2.5])
def test_the_augmentor_climbs_what_the_student_descends(ascent):
    distiller, found = gradients("hard", "HARD.ASCENT", str(ascent))
    distiller.zero_grad(set_to_none=True)
    batch = tiny_batch()
    image = distiller.augmentor(batch.image, distiller.draws.normal(batch, (NOISE,), 0))
    student, teacher = distiller.student(image)[0], distiller.teacher_network(image)[0]
    kd_loss(student, teacher, 4.0).backward()
    for name, p in distiller.named_parameters():
        if p.grad is not None:
            factor = -ascent if name.startswith("augmentor") else 1.0
            torch.testing.assert_close(found[name], factor * p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_consistency_term_is_the_teachers_own_change():
    distiller, batch = tiny_distiller("HARD"), tiny_batch()
    assert distiller(batch)[1]["consistency"].value < 1e-6
    nn.init.constant_(distiller.augmentor.out.bias, 1.0)
    image = distiller.augmentor(batch.image, distiller.draws.normal(batch, (NOISE,), 0))
    changed, plain = (distiller.teacher_network(x)[0] for x in (image, batch.image))
    found = distiller(batch)[1]["consistency"].value
    torch.testing.assert_close(found, kd_loss(changed, plain, 4.0))
    assert found > 1e-5


def disagreement(distiller, batch):
    with torch.no_grad():
        image = distiller.augmentor(batch.image, distiller.draws.normal(batch, (NOISE,), 0))
        return kd_loss(distiller.student(image)[0], distiller.teacher_network(image)[0], 4.0).item()


def test_alone_the_augmentor_finds_harder_images():
    """By colour: the images are noise, of which interpolation leaves less, however they are moved."""
    distiller, batch = tiny_distiller("HARD", "HARD.SPATIAL", "0", knowing=True).eval(), tiny_batch()
    before = disagreement(distiller, batch)
    optimizer = torch.optim.SGD(distiller.augmentor.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        distiller(batch)[1]["hard"].value.backward()
        optimizer.step()
    assert disagreement(distiller, batch) > 1.2 * before


def test_an_image_has_another_view_in_every_epoch_whatever_the_rest_of_the_batch():
    distiller, batch = tiny_distiller("HARD"), tiny_batch()
    first, again, later = (
        distiller.draws.normal(b, (NOISE,), 0)
        for b in (batch, batch.rows(slice(2, None)), replace(batch, epoch=batch.epoch + 1))
    )
    assert torch.equal(first[2:], again)
    assert not torch.equal(first, later)


def test_a_path_that_is_trained_is_refused():
    with pytest.raises(ConfigError, match="HARD takes gradients through the layers of a frozen network, and the path"):
        tiny_distiller("HARD", "DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1}")


@pytest.mark.parametrize("values", [{"ascent": 0.0}, {"spatial": 0.0}, {"hard_weight": 3.0, "consistency_weight": 0.0}])
def test_the_laws_hold_for_other_values(values):
    check_distiller(HARD, **values)
