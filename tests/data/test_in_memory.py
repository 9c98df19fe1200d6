"""In-memory data: views are a function of (seed, epoch, index); batched augmentation equals that of single images."""

import numpy as np
import pytest
import torch

from mdistiller_dfpt.data import DATASETS, build_data
from mdistiller_dfpt.data.in_memory import ImageSet, InMemoryLoader, Recipe, draw_views
from mdistiller_dfpt.data.randomness import draw_numbers, epoch_order, random_bits, random_bits_of
from mdistiller_dfpt.distributed import pick_device
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.testing import tiny_cfg, tiny_data

KNOWN_BITS = [8404725455318960447, 7321471732908601378, 3630948572538043708]


def test_random_bits_are_a_function_of_their_arguments():
    index = torch.arange(1000)
    bits = random_bits(index, seed=1, epoch=2)
    assert torch.equal(bits, random_bits(index, seed=1, epoch=2))
    assert torch.equal(bits[[7, 3]], random_bits(torch.tensor([7, 3]), seed=1, epoch=2))
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert (bits == random_bits(index, *other)).float().mean() < 0.01
    assert bits.min() >= 0


def test_drawn_numbers_are_a_function_of_epoch_and_step_and_all_are_drawn_equally_often():
    draws = [draw_numbers(4, 2, step, epoch=1, stream=14) for step in range(200)]
    assert draws == [draw_numbers(4, 2, step, epoch=1, stream=14) for step in range(200)]
    assert draws != [draw_numbers(4, 2, step, epoch=2, stream=14) for step in range(200)]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert all(70 < sum(number in draw for draw in draws) < 130 for number in range(4))


@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_one_samples_bits_are_those_of_a_tensor(seed):
    index = torch.cat([torch.arange(50), torch.tensor([2**40 + 3])])
    for epoch, stream in ((0, 0), (240, 3)):
        bits = random_bits(index, seed, epoch, stream)
        assert bits.tolist() == [random_bits_of(i, seed, epoch, stream) for i in index.tolist()]


def test_the_bits_do_not_change_between_versions():
    """Every recorded run depends on them."""
    assert random_bits(torch.arange(3), seed=1, epoch=2, stream=3).tolist() == KNOWN_BITS


def test_views_are_uniform():
    dy, dx, mirrored = draw_views(torch.arange(162_000), seed=3, epoch=1, pad=4, flip=True)
    views = (dy * 9 + dx) * 2 + mirrored
    counts = torch.bincount(views, minlength=162).double()
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 161 + 5 * (2 * 161) ** 0.5


def test_consecutive_epochs_draw_independent_views():
    index = torch.arange(50_000)
    first, second = (draw_views(index, seed=3, epoch=e, pad=4, flip=True)[0].double() for e in (1, 2))
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.02


def test_order_is_a_permutation_that_changes_with_epoch_and_seed():
    orders = [epoch_order(100, seed, epoch) for seed, epoch in ((1, 1), (1, 2), (2, 1))]
    assert all(torch.equal(o.sort().values, torch.arange(100)) for o in orders)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_batched_augmentation_equals_one_image_at_a_time():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (10, 6, 7, 3), dtype=np.uint8))
    recipe = Recipe(pad=2, flip=True, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    loader = InMemoryLoader(ImageSet(images, torch.arange(10), ()), recipe, 4, train=True, seed=5)
    seen = 0
    for batch in loader.epoch(3):
        dy, dx, mirrored = draw_views(batch.index, 5, 3, 2, True)
        for row, i in enumerate(batch.index.tolist()):
            padded = np.pad(images[i].numpy(), ((2, 2), (2, 2), (0, 0)))
            view = padded[dy[row] : dy[row] + 6, dx[row] : dx[row] + 7]
            view = view[:, ::-1] if mirrored[row] else view
            expected = ((view / 255 - np.array(recipe.mean)) / np.array(recipe.std)).transpose(2, 0, 1)
            np.testing.assert_allclose(batch.image[row].numpy(), expected, rtol=1e-5, atol=1e-6)
            seen += 1
    assert seen == 10


def test_an_epoch_can_start_in_the_middle():
    loader = tiny_data().train
    whole, tail = list(loader.epoch(2)), list(loader.epoch(2, first=2))
    assert len(whole) == len(loader) == 3
    assert [b.step for b in tail] == [3]
    assert torch.equal(whole[2].image, tail[0].image)


def test_test_set_is_in_order_unaugmented_and_whole():
    loader = tiny_data(test=20).test
    batches = list(loader.epoch())
    assert torch.cat([b.index for b in batches]).tolist() == list(range(20))
    expected = (loader.padded.float() / 255 - 0.4) / 0.3
    torch.testing.assert_close(torch.cat([b.image for b in batches]).permute(0, 2, 3, 1), expected)


def test_channels_last_changes_the_layout_alone():
    images = ImageSet(torch.randint(0, 256, (8, 4, 4, 3), dtype=torch.uint8), torch.arange(8), ())
    recipe = Recipe(1, True, (0.5,) * 3, (0.5,) * 3)
    plain, last = (
        next(InMemoryLoader(images, recipe, 8, train=True, channels_last=cl).epoch(1)).image for cl in (False, True)
    )
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_images_are_resized_after_their_augmentation():
    """As CIFAR-100 for a transformer of 224 pixels (OFA-KD)."""
    images = ImageSet(torch.randint(0, 256, (8, 6, 6, 3), dtype=torch.uint8), torch.arange(8), ())
    recipe = Recipe(pad=1, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3)
    small, large, same = (
        InMemoryLoader(images, recipe, 8, train=True, seed=3, size=size) for size in (None, 12, 6)
    )  # fmt: skip
    assert (large.size, large.augmentation) == ((12, 12), "crop with padding 1, flip, resized to 12")
    for strong in (False, True):
        of_small, of_large, of_same = (next(loader.epoch(2, strong=strong)) for loader in (small, large, same))
        one, other = (of_small.strong, of_large.strong) if strong else (of_small.image, of_large.image)
        assert other.shape == (8, 3, 12, 12)
        # Bilinear at twice the size: the inner pixels of each pair are at a quarter of the way to the neighbour
        torch.testing.assert_close(other[..., 1:-1:2, 0], 0.75 * one[..., :-1, 0] + 0.25 * one[..., 1:, 0])
        assert torch.equal(of_same.image, of_small.image)
    batch = next(large.epoch(2))
    assert torch.equal(large.images_in(batch.index, batch.view), batch.image)


def test_digits_are_split_by_class_and_fill_the_range():
    source = DATASETS["digits"](tiny_cfg())
    assert len(source.train.labels) + len(source.test.labels) == 1797
    assert source.train.images.shape[1:] == (16, 16, 3)
    share = torch.bincount(source.test.labels) / (
        torch.bincount(source.train.labels) + torch.bincount(source.test.labels)
    )
    assert share.sub(0.2).abs().max() < 0.01
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
    pixels = source.train.images.float() / 255
    assert abs(pixels.mean() - source.recipe.mean[0]) < 0.01
    assert abs(pixels.std() - source.recipe.std[0]) < 0.01


def test_a_batch_larger_than_the_data_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match="SOLVER.BATCH_SIZE is 5000; digits has 1433 training images"):
        build_data(tiny_cfg("DATASET.TYPE", "digits", "SOLVER.BATCH_SIZE", "5000"))


@pytest.mark.parametrize("label", [-100, -1, 10])
def test_labels_of_no_class_are_refused(label, monkeypatch):
    source = DATASETS["digits"](tiny_cfg("DATASET.TYPE", "digits"))
    source.train.labels[3] = label
    monkeypatch.setitem(DATASETS, "digits", lambda cfg: source)
    with pytest.raises(DataError, match=r"digits has labels from .* its 10 classes are 0 to 9"):
        build_data(tiny_cfg("DATASET.TYPE", "digits"))


def test_two_classes_of_one_name_are_refused(monkeypatch):
    source = DATASETS["digits"](tiny_cfg("DATASET.TYPE", "digits"))
    train, test = (split._replace(classes=("crane", *"12345678", "crane")) for split in source[:2])
    monkeypatch.setitem(DATASETS, "digits", lambda cfg: source._replace(train=train, test=test))
    with pytest.raises(DataError, match="several classes of the name 'crane': give each a name of its own"):
        build_data(tiny_cfg("DATASET.TYPE", "digits"))


def test_a_split_without_images_is_refused(monkeypatch):
    source = DATASETS["digits"](tiny_cfg("DATASET.TYPE", "digits"))
    empty = source.test._replace(images=source.test.images[:0], labels=source.test.labels[:0])
    monkeypatch.setitem(DATASETS, "digits", lambda cfg: source._replace(test=empty))
    with pytest.raises(DataError, match="digits has a split without images"):
        build_data(tiny_cfg("DATASET.TYPE", "digits"))


def test_unknown_dataset_and_device_are_refused():
    with pytest.raises(ConfigError, match="unknown dataset 'cifar10'; did you mean cifar100"):
        build_data(tiny_cfg("DATASET.TYPE", "cifar10"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="EXPERIMENT.DEVICE is cuda; 0 CUDA devices"):
            pick_device("cuda")


@pytest.mark.parametrize("train", [True, False])
def test_processes_share_every_batch(train, monkeypatch):
    def batches(rank, world):
        monkeypatch.setattr("mdistiller_dfpt.data.loader.rank", lambda: rank)
        monkeypatch.setattr("mdistiller_dfpt.data.loader.world_size", lambda: world)
        loader = getattr(tiny_data(train=45, test=20), "train" if train else "test")
        return list(loader.epoch(2))

    alone = batches(0, 1)
    shared = [batches(rank, 3) for rank in range(3)]
    for number, whole in enumerate(alone):
        for rank in range(3):
            own = shared[rank][number]
            assert own.total == len(whole.index)
            assert torch.equal(own.index, whole.index[rank::3])
            assert torch.equal(own.image, whole.image[rank::3])
