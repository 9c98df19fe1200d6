"""Unlabelled images beside the training set: which ones a step gets, in what form, and what is refused."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from mdistiller_dfpt.config.effect import without_effect
from mdistiller_dfpt.data import DATASETS, build_data
from mdistiller_dfpt.data import extra as extra_module
from mdistiller_dfpt.data.batch import UNLABELLED
from mdistiller_dfpt.data.in_memory import InMemoryLoader
from mdistiller_dfpt.distillers.choice import situation
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.runs.identity import as_identity, differences, fingerprint, identity_of
from mdistiller_dfpt.runs.results import protocol
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes
from ..tiny_runs import continued, end_when, outcome, run_of

DIGITS = ("DATASET.TYPE", "digits", "DATASET.EXTRA.TYPE")
USING = ("KD.LOSS.EXTRA_WEIGHT", "0.5")


def write(folder, count=40, size=(16, 16), suffix="png"):
    """Image files of random pixels in two folders."""
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / f"{number}.{suffix}")
    return str(folder)


def indices(pool, first, count):
    return [batch.index.tolist() for batch in islice(pool.batches(first), count)]


def test_a_step_gets_a_batch_of_its_own_and_a_later_start_the_same_ones():
    pool = tiny_data(extra=40).extra
    whole = list(islice(pool.batches(), 7))
    assert [len(batch.index) for batch in whole] == [16] * 7, "only full batches: 8 of 40 images are left out each time"
    for first in (1, 2, 5):
        for batch, again in zip(whole[first:], pool.batches(first), strict=False):
            assert torch.equal(batch.image, again.image)
            assert torch.equal(batch.index, again.index)
    passes = [torch.cat([b.index for b in whole[i : i + 2]]) for i in (0, 2, 4)]
    assert all(len(p.unique()) == 32 for p in passes), "no image twice in a pass"
    assert not torch.equal(passes[0], passes[1]), "each pass has another order"
    assert all((batch.target == UNLABELLED).all() for batch in whole)


def test_the_batches_of_an_epoch_go_on_where_the_last_one_ended():
    data = tiny_data(extra=40)
    steps = [b for epoch in (1, 2, 3) for b in data.batches(epoch)]
    assert [b.extra.index.tolist() for b in steps] == indices(data.extra, 0, 9)
    again = list(data.batches(2, first=1))
    assert [b.extra.index.tolist() for b in again] == [b.extra.index.tolist() for b in steps[4:6]]
    plain = list(data.train.epoch(2, first=1))
    assert all(torch.equal(a.image, b.image) for a, b in zip(again, plain, strict=True)), (
        "the labelled ones are as ever"
    )
    assert next(iter(tiny_data().batches(1))).extra is None


def test_equal_positions_have_other_views_than_in_the_training_set():
    cfg = tiny_cfg(*DIGITS, "digits")
    data = build_data(cfg, torch.device("cpu"))
    batch = next(iter(data.batches(1)))
    assert not torch.equal(batch.index, batch.extra.index)
    other = build_data(tiny_cfg(*DIGITS, "digits", "DATASET.SEED", "9"), torch.device("cpu"))
    assert not torch.equal(next(iter(other.batches(1))).extra.index, batch.extra.index), "the order follows the seed"


def test_augmentation_and_normalisation_are_those_of_training_images(tmp_path):
    words = ("DATASET.MEAN", "[0.1, 0.2, 0.3]", "DATASET.SIZE", "24", "DATASET.EXTRA.BATCH_SIZE", "5")
    data = build_data(tiny_cfg(*DIGITS, "digits", *words), torch.device("cpu"))
    pool = data.extra.loader
    assert (pool.recipe, pool.size, pool.augmentation) == (data.train.recipe, (24, 24), data.train.augmentation)
    assert pool.normalisation == data.normalisation
    batch = next(iter(data.batches(1, strong=True)))
    assert batch.extra.image.shape == batch.extra.strong.shape == (5, 3, 24, 24)
    index, view = batch.extra.index, batch.extra.view
    assert torch.equal(batch.extra.image, data.train.images_in(index, view)), "digits beside themselves"


def test_a_folder_of_images_is_read_whole_and_must_have_the_size(tmp_path):
    root = write(tmp_path / "web")
    data = build_data(tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", root), torch.device("cpu"))
    assert isinstance(data.extra.loader, InMemoryLoader)
    assert data.extra.images == 40
    Image.new("RGB", (20, 16)).save(tmp_path / "web" / "b" / "wide.png")
    cfg = tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", root)
    with pytest.raises(DataError, match=r"wide.png: is 20x16; expected 16x16: set DATASET.EXTRA.RESIZE True"):
        build_data(cfg, torch.device("cpu"))
    resized = build_data(tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", root, "DATASET.EXTRA.RESIZE", "True"))
    assert resized.extra.images == 41
    (tmp_path / "web" / "a" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken.png: cannot be read as an image"):
        build_data(tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", root, "DATASET.EXTRA.RESIZE", "True"))


def test_images_are_cropped_to_the_shape_and_resized(tmp_path):
    (tmp_path / "web").mkdir()
    wide = torch.zeros(32, 96, 3, dtype=torch.uint8)
    wide[:, 32:64] = 200  # the middle square
    for number in range(16):
        Image.fromarray(wide.numpy()).save(tmp_path / "web" / f"{number}.png")
    words = ("DATASET.EXTRA.ROOT", str(tmp_path / "web"), "DATASET.EXTRA.RESIZE", "True")
    data = build_data(tiny_cfg(*DIGITS, "images", *words), torch.device("cpu"))
    inner = data.train.recipe.pad + 1  # Pillow smooths over the border of what it cuts out
    assert (data.extra.loader.padded[:, inner:-inner, inner:-inner] == 200).all()


def test_another_datasets_training_images_in_memory(tmp_path):
    """Those of a larger size are refused, or resized."""
    small, large = tiny_cfg(*DIGITS, "large"), tiny_cfg(*DIGITS, "large", "DATASET.EXTRA.RESIZE", "True")

    def of_size_32(cfg):
        source = DATASETS["digits"](cfg)
        double = source.train.images.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return source._replace(train=source.train._replace(images=double))

    DATASETS["large"] = of_size_32
    try:
        with pytest.raises(DataError, match=r"TYPE is large, with images of 32x32; those of .* are 16x16"):
            build_data(small, torch.device("cpu"))
        data = build_data(large, torch.device("cpu"))
    finally:
        del DATASETS["large"]
    pad = data.train.recipe.pad
    change = (
        data.extra.loader.padded[:, pad:-pad, pad:-pad].int() - data.train.padded[:, pad:-pad, pad:-pad].int()
    ).abs()
    assert data.extra.images == data.num_train
    assert change.float().mean() < 30, "the same digits, smoothed at their edges"


def test_beside_image_files_there_are_image_files(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / "set" / split, count=32, size=(40, 32))
    root, web = str(tmp_path / "set"), write(tmp_path / "web", count=33, size=(50, 70), suffix="jpg")
    words = ("DATASET.TYPE", "folder", "DATASET.ROOT", root, "DATASET.SIZE", "16", "DATASET.NUM_WORKERS", "0")
    cfg = tiny_cfg(*words, "DATASET.EXTRA.TYPE", "images", "DATASET.EXTRA.ROOT", web)
    data = build_data(cfg, torch.device("cpu"))
    first, second = data.batches(1)
    assert first.extra.image.shape == (16, 3, 16, 16)
    assert not set(first.extra.index.tolist()) & set(second.extra.index.tolist())
    again = next(iter(data.batches(1, first=1)))
    assert torch.equal(again.extra.image, second.extra.image)
    (tmp_path / "web" / "a" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0.jpg: cannot be read as an image .*; replace it$"):
        [b for epoch in (1, 2, 3) for b in data.batches(epoch)]
    with pytest.raises(ConfigError, match=r"TYPE is digits, with images in memory; those of .* are in files"):
        build_data(tiny_cfg(*words, "DATASET.EXTRA.TYPE", "digits"), torch.device("cpu"))


def test_where_files_are_skipped_a_step_has_the_same_images_after_a_stop(tmp_path):
    """Batches of which nothing is left, labelled or not: the numbers of all others stay."""
    for split in ("train", "val"):
        write(tmp_path / "set" / split, count=12, size=(32, 32))
    web = write(tmp_path / "web", count=6, size=(32, 32))
    words = ("DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path / "set"), "DATASET.SIZE", "16", "SOLVER.BATCH_SIZE",
             "3", "DATASET.NUM_WORKERS", "0", "DATASET.ON_ERROR", "skip", "DATASET.EXTRA.BATCH_SIZE", "2")  # fmt: skip
    cfg = tiny_cfg(*words, "DATASET.EXTRA.TYPE", "images", "DATASET.EXTRA.ROOT", web)
    data = build_data(cfg, torch.device("cpu"))
    # The second labelled batch of the first epoch, one of the third, half of the second unlabelled one, and the third
    order = [batch.index.tolist() for batch in data.train.epoch(1)]
    gone = [data.train.files.paths[i] for i in (*order[1], order[2][0])]
    others = [batch.index.tolist() for batch in data.extra.loader.epoch(1)]
    gone += [data.extra.loader.files.paths[i] for i in (others[1][0], *others[2])]
    for path in gone:
        Path(path).write_bytes(b"no image")
    data = build_data(cfg, torch.device("cpu"))
    steps = [batch for epoch in (1, 2) for batch in data.batches(epoch)]
    assert [(b.epoch, b.step, b.size) for b in steps[:3]] == [(1, 1, 3), (1, 3, 2), (1, 4, 3)]
    assert steps[0].extra.index.tolist() == others[0]
    assert steps[1].extra.epoch == steps[2].extra.epoch == 2, "both have the first of the next pass"
    assert all(batch.extra.size == len(batch.extra.image) for batch in steps)
    for batch in steps:
        again = next(data.batches(batch.epoch, first=batch.step - 1))
        assert torch.equal(again.image, batch.image)
        assert torch.equal(again.extra.image, batch.extra.image), f"epoch {batch.epoch}, step {batch.step}"
    for path in data.extra.loader.files.paths:
        Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 6 unlabelled images can be read"):
        next(data.batches(1))


def test_only_as_many_unlabelled_images_as_samples_are_divided_with_them():
    batch = tiny_batch(6)
    part = batch.rows(slice(1, 3), total=4)
    assert (part.size, part.extra.size, len(part.extra.target)) == (4, 4, 2)
    with pytest.raises(ValueError, match="6 samples and 5 unlabelled ones cannot be divided at the same places"):
        replace(batch, extra=batch.extra.rows(slice(5))).rows(slice(1, 3), total=4)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("images",), DataError, r"DATASET.EXTRA.ROOT is \S+nowhere; there is no such folder"),
        (("cifar100",), DataError, r"no CIFAR-100 in DATASET.ROOT '\S+nowhere'"),
        (("no_such_set",), ConfigError, r"DATASET.TYPE.*no_such_set"),
        (("digits", "DATASET.EXTRA.BATCH_SIZE", "9999"), ConfigError, r"BATCH_SIZE is 9999; there are 1433 unlabelled"),
        (("digits", "DATASET.EXTRA.BATCH_SIZE", "0"), ConfigError, r"DATASET.EXTRA.BATCH_SIZE"),
    ],
)
def test_what_is_missing_or_impossible_is_said_before_the_first_batch(words, error, message, tmp_path):
    with pytest.raises(error, match=message):
        build_data(tiny_cfg(*DIGITS, *words, "DATASET.EXTRA.ROOT", str(tmp_path / "nowhere")), torch.device("cpu"))


def test_a_folder_without_images_and_a_batch_smaller_than_the_processes_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"contains no images"):
        build_data(tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", str(tmp_path)), torch.device("cpu"))
    monkeypatch.setattr(extra_module, "world_size", lambda: 4)
    cfg = tiny_cfg(*DIGITS, "digits", "DATASET.EXTRA.BATCH_SIZE", "3")
    with pytest.raises(ConfigError, match=r"BATCH_SIZE is 3; 4 processes share it: use at least one image for each"):
        build_data(cfg, torch.device("cpu"))


def test_keys_without_an_effect_are_said():
    cfg = tiny_cfg("DATASET.EXTRA.RESIZE", "True", "DATASET.EXTRA.BATCH_SIZE", "8")
    lines = without_effect(situation(cfg, in_files=False))
    assert "DATASET.EXTRA.BATCH_SIZE 8 has no effect here: DATASET.EXTRA.TYPE is not set" in lines
    assert any(line.startswith("DATASET.EXTRA.RESIZE True has no effect here") for line in lines)


def test_a_run_is_identified_by_the_images_and_its_protocol_has_them(tmp_path):
    here, there = (str(tmp_path / name) for name in ("here", "there"))
    write(tmp_path / "here"), write(tmp_path / "there")
    made = []
    for words in (("images", "DATASET.EXTRA.ROOT", here), ("images", "DATASET.EXTRA.ROOT", there), ("digits",)):
        cfg = tiny_cfg(*DIGITS, *words)
        data = build_data(cfg, torch.device("cpu"))
        made.append((cfg, data, identity_of(cfg, data, ())))
    (cfg, data, first), (*_, moved), (*_, other) = made
    assert fingerprint(first) == fingerprint(moved), "the place does not matter"
    assert fingerprint(first) != fingerprint(other)
    assert "the unlabelled images are others" in differences(first, other)
    assert as_identity(json.loads(json.dumps(first))) == first
    Image.new("RGB", (16, 16)).save(tmp_path / "there" / "a" / "0.png")
    changed = identity_of(cfg, build_data(tiny_cfg(*DIGITS, "images", "DATASET.EXTRA.ROOT", there)), ())
    assert differences(first, changed) == ["the unlabelled images are others"]
    record = protocol(cfg, data, None, "SGD", {})
    assert record["unlabelled_images"] == 40
    assert record["settings"]["DATASET.EXTRA.TYPE"] == "images"


def trained(folder, *words, extra=40):
    return run_of("KD", folder, *USING, *words, make_data=lambda cfg: tiny_data(extra=extra))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: run_of("KD", p, make_data=lambda c: tiny_data(extra=40)), "KD uses no unlabelled images: remove it"),
        (lambda p: trained(p, extra=0), "KD uses unlabelled images beside the training set: set DATASET.EXTRA.TYPE"),
        (lambda p: trained(p, "SOLVER.ACCUMULATE", "2"), "are not divided into micro-batches: set it to 1"),
        (
            lambda p: trained(p, "DISTILLER.LOGITS_CACHE", str(p)),
            "uses more of the teacher than the logits of frozen networks per view",
        ),
        (
            lambda p: trained(p, "DISTILLER.TEACHER_KIND", "previous_epoch"),
            "a teacher of kind previous_epoch do not depend on the image alone",
        ),
    ],
)
def test_a_run_that_cannot_use_them_is_refused_at_the_start(make, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path)


def test_without_them_a_method_that_needs_them_says_so():
    distiller = tiny_distiller("KD", *USING)
    batch = next(iter(tiny_data().batches(1)))
    with pytest.raises(ValueError, match="KD needs batches with unlabelled images"):
        distiller(batch)


@pytest.mark.parametrize("words", [(), ("DISTILLER.TEACHER_KIND", "dual_path"), ("SOLVER.MIXUP", "0.5")])
def test_a_run_is_resumed_within_an_epoch_to_the_bit(words, tmp_path):
    whole = outcome(trained(tmp_path / "whole", *words))
    cut = trained(tmp_path, "LOG.SAVE_EVERY", "1 step", *words)
    end_when(lambda done: done.step == 2, cut)
    assert cut.epochs == []
    again = continued("KD", tmp_path, *USING, *words, make_data=lambda cfg: tiny_data(extra=40))
    assert again == whole


def test_several_methods_and_several_paths_each_get_them(tmp_path):
    run = run_of("KD+DKD", tmp_path, *USING)
    assert run.data.extra is not None
    _, terms = run.distiller(next(iter(run.data.batches(1))))
    assert {"KD.extra", "KD.kd"} <= set(terms)
    two = tiny_distiller("KD", *USING, "DISTILLER.TEACHER_KIND", "dual_path")
    assert two.needs_extra
    _, terms = two(next(iter(run.data.batches(1))))
    assert {"teacher.extra", "prompt.extra"} <= set(terms)


@pytest.mark.parametrize("batch", [16, 5], ids=["as many unlabelled", "fewer unlabelled"])
def test_two_processes_compute_what_one_does(batch, tmp_path):
    words = ("SOLVER.SYNC_BN", "True", "SOLVER.LR", "0.02", *USING)

    def one_epoch(number=0):
        torch.manual_seed(0)
        data = tiny_data(train=45, test=19, batch=16, extra=33)
        data.extra.loader.batch_size = batch
        trainer = Trainer(tiny_cfg("DISTILLER.TYPE", "KD", *words), tiny_distiller("KD", *words), data)
        averages = trainer.one_epoch()
        return averages, {k: v.double().numpy().copy() for k, v in trainer.distiller.student.state_dict().items()}

    averages, weights = one_epoch()
    for its, state in in_processes(one_epoch, tmp_path).values():
        assert {key: its[key] for key in ("ce", "kd", "extra")} == pytest.approx(
            {key: averages[key] for key in ("ce", "kd", "extra")}, rel=1e-4
        )
        for key, value in state.items():
            assert value == pytest.approx(weights[key], rel=1e-3, abs=1e-4), key


def test_the_smoke_test_and_a_real_run_have_them(tmp_path):
    words = ("DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet20", "DISTILLER.STUDENT", "resnet8", *USING)
    averages = smoke(tiny_cfg(*words, "DATASET.EXTRA.TYPE", "images"))
    assert averages["extra"] > 0
