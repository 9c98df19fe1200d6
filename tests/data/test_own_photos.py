"""Images of one's own: without a test set, with other crops, with the networks of another dataset's config."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mdistiller_dfpt import build_data, load_cfg
from mdistiller_dfpt.data.preprocessing import adjusted
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.launch.networks import build_network

from .test_preprocessing import pictures


def photos(root, counts, place="", shape=(20, 24)):
    """PNG files of distinct noise in class folders; `counts`: how many in each."""
    for number, (name, count) in enumerate(counts.items()):
        folder = root / place / name
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(number)
        for i in range(count):
            pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / f"{i:02d}.png")


def data_of(root, *words):
    small = ("DATASET.SIZE", "16", "DATASET.NUM_WORKERS", "0", "SOLVER.BATCH_SIZE", "4", "EXPERIMENT.DEVICE", "cpu")
    return build_data(load_cfg(None, ["DATASET.TYPE", "folder", "DATASET.ROOT", str(root), *small, *words]))


def contents(loader):
    return {Path(path).read_bytes() for path in loader.files.paths}


def test_a_share_of_each_class_is_held_out_by_content(tmp_path):
    photos(tmp_path, {"cat": 20, "dog": 10, "owl": 2})
    first = data_of(tmp_path, "DATASET.TEST.SHARE", "0.2")
    assert first.test.labels.bincount().tolist() == [4, 2, 1]
    assert first.train.labels.bincount().tolist() == [16, 8, 1]
    assert not contents(first.train) & contents(first.test)
    # A renamed file stays in its set, and copies come to the set of the first one
    held = contents(first.test)
    one = next(path for path in first.test.files.paths if "cat" in path)
    Path(one).rename(tmp_path / "cat" / "zz.png")
    for number in range(3):
        (tmp_path / "cat" / f"copy{number}.png").write_bytes((tmp_path / "cat" / "zz.png").read_bytes())
    second = data_of(tmp_path, "DATASET.TEST.SHARE", "0.2")
    assert not contents(second.train) & contents(second.test)
    assert (tmp_path / "cat" / "zz.png").read_bytes() in contents(second.test)
    assert len(held & contents(second.train)) <= 3, "added images take places of at most as many"
    assert first.content != second.content


def test_files_that_begin_alike_are_no_copies(tmp_path):
    """As white images without compression."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.new("RGB", (48, 48), "white")
            picture.putpixel((0, 0), (number, 0, 0))  # BMP has the last row first
            picture.save(tmp_path / name / f"{number}.bmp")
    data = data_of(tmp_path, "DATASET.TEST.SHARE", "0.25")
    assert (data.train.num_samples, data.test.num_samples) == (6, 2)


@pytest.mark.parametrize("place", ["", "train"])
def test_what_to_do_about_a_missing_test_set_is_said(place, tmp_path):
    photos(tmp_path, {"cat": 4, "dog": 4}, place)
    with pytest.raises(DataError, match="set DATASET.TEST.SHARE 0.2 to hold a fifth of each class out"):
        data_of(tmp_path)
    data = data_of(tmp_path, "DATASET.TEST.SHARE", "0.25")
    assert (data.train.num_samples, data.test.num_samples) == (6, 2)
    photos(tmp_path, {"cat": 1, "dog": 1}, "val")
    if place:
        with pytest.raises(ConfigError, match="has a test set, val: remove the key"):
            data_of(tmp_path, "DATASET.TEST.SHARE", "0.25")
    (tmp_path / place / "owl").mkdir(exist_ok=True)
    photos(tmp_path / "other", {"cat": 4, "dog": 1})
    with pytest.raises(DataError, match="the class dog has 1 image: it needs one to train and one to test on"):
        data_of(tmp_path / "other", "DATASET.TEST.SHARE", "0.25")


def test_crops_and_interpolation(tmp_path):
    photos(tmp_path, {"cat": 4, "dog": 4})
    words = ("DATASET.TEST.SHARE", "0.25")
    data = data_of(tmp_path, *words, "DATASET.INTERPOLATION", "bicubic", "DATASET.CROP_SCALE", "0.5")
    plain = data_of(tmp_path, *words)
    assert data.train.augmentation == "random resized crop 16, flip, bicubic, crops of at least 0.5 of the area"
    crop = data.train.recipe.train.transforms[0]
    assert (crop.scale, crop.interpolation) == ((0.5, 1.0), v2.InterpolationMode.BICUBIC)
    assert plain.train.recipe.train.transforms[0].scale == (0.08, 1.0)
    ours, (batch,), (other,) = data.test.preprocessing(), data.test.epoch(), plain.test.epoch()
    assert ours.interpolation == "bicubic"
    expected = torch.stack([ours(data.test.picture(i)) for i in range(2)])
    torch.testing.assert_close(batch.image, expected, rtol=0, atol=2e-6)
    assert not torch.allclose(batch.image, other.image, atol=1e-3)
    with pytest.raises(ValueError, match="no random resized crop"):
        adjusted(v2.Resize(8), "bicubic", 0.5)


def test_a_network_gets_images_of_its_own_size():
    words = ["DISTILLER.STUDENT", "resnet8", "DATASET.SIZE", "32", "DISTILLER.STUDENT_SIZE", "16"]
    cfg = load_cfg(None, words)
    network = build_network(cfg, "student", "", 10, (3, 32, 32)).eval()
    images = pictures((32, 32))[0].permute(0, 3, 1, 2) / 255
    smaller = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits, features = network(images)
        assert torch.equal(logits, network(smaller)[0])
    assert features["feats"][0].shape[2:] == (16, 16)


def test_own_images_have_the_networks_of_the_config_that_names_them():
    own = ["DATASET.TYPE", "folder"]
    assert load_cfg("cub200/dfptkd/vgg13_vgg8", own).MODEL.FAMILY == "cub200"
    assert load_cfg("imagenet/kd/r34_r18", own).MODEL.FAMILY == "imagenet"
    assert load_cfg(None, own).MODEL.FAMILY == "imagenet"
    assert load_cfg("cub200/dfptkd/vgg13_vgg8", [*own, "MODEL.FAMILY", "cifar"]).MODEL.FAMILY == "cifar"


def test_there_are_not_more_workers_than_cores(tmp_path, capsys, recwarn, monkeypatch):
    photos(tmp_path, {"cat": 4, "dog": 4})
    monkeypatch.setattr("mdistiller_dfpt.data.build.num_cores", lambda: 1)
    data = data_of(tmp_path, "DATASET.TEST.SHARE", "0.25", "DATASET.NUM_WORKERS", "16")
    assert data.train.workers == 1
    assert re.search(r"NUM_WORKERS is 16; this process has 1 core, so 1", capsys.readouterr().out)
    assert not [w for w in recwarn if "worker" in str(w.message)]
