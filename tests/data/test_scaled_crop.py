"""Training files that are decoded in crops: the same crops as torchvision's, of nearly the same pixels."""

import builtins

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.image_files import FileRecipe
from mdistiller_dfpt.data.scaled_crop import ScaledCrop, decoded_in_crops
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.testing import tiny_cfg

pytest.importorskip("simplejpeg")
SIZE = 32
RGB, GREY = (90, 121, 3), (90, 121)


def photo(shape, seed=0):
    """Smooth noise, of about as much contrast in each octave, as photographs have."""
    generator = np.random.default_rng(seed)
    height, width = shape[:2]
    total = np.zeros((height, width, 3))
    for octave in range(2, 8):
        coarse = generator.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        planes = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        total += np.stack([np.asarray(plane) for plane in planes], -1)
    pixels = np.clip(128 + 20 * total, 0, 255).astype(np.uint8)
    return pixels if len(shape) == 3 else pixels[..., 0]


def places(height, width):
    """An image that says in red where a pixel is across, in green where it is down."""
    down, across = np.mgrid[:height, :width]
    return np.stack([across * 255 / (width - 1), down * 255 / (height - 1), np.full((height, width), 128)], -1)


def loader_of(root, *words):
    cfg = tiny_cfg(
        "DATASET.TYPE", "folder", "DATASET.ROOT", str(root), "DATASET.SIZE", str(SIZE), "DATASET.NUM_WORKERS", "0",
        "SOLVER.BATCH_SIZE", "2", "DATASET.MEAN", "[0, 0, 0]", "DATASET.STD", "[1, 1, 1]", *words,
    )  # fmt: skip
    return build_data(cfg).train


def folder_of(root, image, name="a.jpg", **options):
    """A dataset whose only training images are two copies of this one."""
    for place in ("train/one", "train/two", "val/one", "val/two"):
        (root / place).mkdir(parents=True)
        image.save(root / place / name, **options)
    return root


def views(root, epochs, *words):
    """The views of both images in these epochs, in levels; (N, 3, H, W)."""
    loader = loader_of(root, *words)
    found = []
    for epoch in range(1, epochs + 1):
        for batch in loader.epoch(epoch):
            found.append(255 * batch.image[batch.index.argsort()])
    return torch.cat(found)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif.tobytes()}


@pytest.mark.parametrize(("words", "packages"), [
    ((), {"PIL", "torchvision"}), (("DATASET.DECODE", "fast"), {"PIL", "torchvision", "simplejpeg"}),
    (("DATASET.AUTO_AUGMENT", "rand-m9-mstd0.5"), {"PIL", "torchvision", "timm"}),
])  # fmt: skip
def test_what_decodes_and_augments_files_is_known_by_its_packages(words, packages, tmp_path):
    assert loader_of(folder_of(tmp_path, Image.fromarray(photo(RGB))), *words).packages == packages


@pytest.mark.parametrize("upright", ["True", "False"])
@pytest.mark.parametrize(("shape", "mode", "name", "options"), [
    (RGB, "RGB", "a.jpg", {"quality": 90}),
    (RGB, "RGB", "a.jpg", {"quality": 75, "subsampling": 0}),
    (RGB, "RGB", "a.jpg", {"quality": 75, "subsampling": 1}),
    (RGB, "RGB", "a.jpg", {"progressive": True}),
    (RGB, "RGB", "a.jpg", {"keep_rgb": True}),
    (RGB, "CMYK", "a.jpg", {}),
    (GREY, "L", "a.jpg", {}),
    (RGB, "RGB", "a.png", {}),
    (RGB, "RGB", "a.webp", {}),
    (GREY, "I;16", "a.png", {}),
    (RGB, "RGB", "a.jpg", turned()),
    (RGB, "RGB", "a.png", turned()),
])  # fmt: skip
def test_where_no_scaling_applies_only_the_resize_rounds_otherwise(shape, mode, name, options, upright, tmp_path):
    pixels = photo(shape)
    image = Image.fromarray(pixels.astype(np.uint16) << 8 if mode == "I;16" else pixels)
    folder_of(tmp_path, image if mode == "I;16" else image.convert(mode), name, **options)
    # Crops of less than twice the output
    common = ("DATASET.CROP_SCALE", "0.08", "DATASET.SIZE", "61", "DATASET.UPRIGHT", upright)
    exact, fast = (views(tmp_path, 3, *common, "DATASET.DECODE", kind) for kind in ("exact", "fast"))
    difference = (exact - fast).abs()
    assert difference.max() < 1.01
    assert (difference > 0.5).float().mean() < 0.1


@pytest.mark.parametrize("words", [(), ("DATASET.UPRIGHT", "True"), ("DATASET.INTERPOLATION", "bicubic")])
def test_every_crop_is_the_one_of_torchvisions_transform(words, tmp_path):
    """Its scale, its ratio and its place, at any factor."""
    height, width = 901, 1203
    folder_of(tmp_path, Image.fromarray(places(height, width).round().astype(np.uint8)), quality=98, subsampling=0,
              **turned())  # fmt: skip
    exact, fast = (views(tmp_path, 40, *words, "DATASET.DECODE", kind) for kind in ("exact", "fast"))
    for channel in (0, 1):
        for edge in (torch.amin, torch.amax):
            ends = [edge(image[:, channel], (1, 2)) for image in (exact, fast)]
            assert (
                ends[0] - ends[1]
            ).abs().max() <= 3.5  # levels, of 3 to 5 pixels of the file; at a factor of 8, one of a crop has 8
    assert len({round(float(area), 2) for area in (exact.amax((2, 3)) - exact.amin((2, 3)))[:, :2].prod(1)}) > 60


def test_mean_and_spread_of_pixels_are_those_of_the_exact_views(tmp_path):
    folder_of(tmp_path, Image.fromarray(photo((900, 1200, 3))), quality=90)
    exact, fast = (views(tmp_path, 30, "DATASET.DECODE", kind) for kind in ("exact", "fast"))
    assert (exact.mean((0, 2, 3)) - fast.mean((0, 2, 3))).abs().max() < 0.3
    torch.testing.assert_close(fast.std((0, 2, 3)), exact.std((0, 2, 3)), rtol=0.03, atol=0)
    torch.testing.assert_close(fast.std((2, 3)).mean(), exact.std((2, 3)).mean(), rtol=0.03, atol=0)
    assert (exact - fast).abs().mean() < 3


def test_what_is_finer_than_a_pixel_is_averaged(tmp_path):
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    folder_of(tmp_path, Image.fromarray(stripes), quality=95, subsampling=0)
    common = ("DATASET.CROP_SCALE", "0.5", "DATASET.DECODE")
    exact, fast = (views(tmp_path, 4, *common, kind) for kind in ("exact", "fast"))
    assert exact.std() < 6
    assert fast.std() < 6


@pytest.mark.parametrize(("side", "expected"), [(63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8), (900, 8)])
def test_the_part_that_is_cut_is_as_large_as_the_output(side, expected, tmp_path, monkeypatch):
    Image.fromarray(photo((900, 1101, 3))).save(tmp_path / "a.jpg")
    crop = ScaledCrop(v2.RandomResizedCrop(SIZE), turned=False)
    decode, resize = crop.decode_jpeg, torch.nn.functional.interpolate
    decoded, resized = [], []

    def noted_decode(content, **least):
        decoded.append(decode(content, **least))
        return decoded[-1]

    def noted_resize(part, *words, **more):
        resized.append(part.shape[2:])
        return resize(part, *words, **more)

    crop.decode_jpeg = noted_decode
    monkeypatch.setattr("mdistiller_dfpt.data.scaled_crop.F.interpolate", noted_resize)
    for top, left in ((0, 0), (900 - side, 1101 - side - 90), (3 % (901 - side), 7)):
        place = {"top": top, "left": left, "height": side, "width": side + 90}
        monkeypatch.setattr(crop.crop, "make_params", lambda images, place=place: place)
        assert crop(str(tmp_path / "a.jpg")).shape == (3, SIZE, SIZE)
        assert decoded[-1].shape == (-(-900 // expected), -(-1101 // expected), 3)
        for length, cut in zip((side, side + 90), resized[-1], strict=True):
            assert cut >= SIZE
            assert abs(cut - length / expected) < 1


def test_views_are_the_same_with_workers_and_with_a_strong_view(tmp_path):
    folder_of(tmp_path, Image.fromarray(photo((300, 400, 3))))
    plain = loader_of(tmp_path, "DATASET.DECODE", "fast")
    (alone,), (both,) = list(plain.epoch(2)), list(plain.epoch(2, strong=True))
    (read,) = loader_of(tmp_path, "DATASET.DECODE", "fast", "DATASET.NUM_WORKERS", "2").epoch(2, strong=True)
    assert torch.equal(alone.image, both.image)
    assert torch.equal(both.image, read.image)
    assert torch.equal(both.strong, read.strong)
    assert not torch.equal(both.strong, both.image)


def test_other_augmentation_follows(tmp_path):
    folder_of(tmp_path, Image.fromarray(photo((300, 400, 3))))
    words = ("DATASET.AUTO_AUGMENT", "rand-m9-mstd0.5", "DATASET.ERASING", "0.5", "DATASET.DECODE")
    pytest.importorskip("timm")
    exact, fast = (views(tmp_path, 5, *words, kind) for kind in ("exact", "fast"))
    assert (exact - fast).abs().mean() < 8


def test_images_for_testing_are_exact(tmp_path):
    folder_of(tmp_path, Image.fromarray(photo((300, 400, 3))))
    exact, fast = (loader_of(tmp_path, "DATASET.DECODE", kind).as_test(torch.arange(2)) for kind in ("exact", "fast"))
    for one, other in zip(exact.epoch(), fast.epoch(), strict=True):
        assert torch.equal(one.image, other.image)


@pytest.mark.parametrize("left", [40, 3000])
def test_a_damaged_file_is_named_or_skipped(left, tmp_path, capsys):
    folder_of(tmp_path, Image.fromarray(photo((300, 400, 3))))
    bad = tmp_path / "train" / "one" / "a.jpg"
    bad.write_bytes(bad.read_bytes()[:left])
    with pytest.raises(DataError, match=r"train/one/a.jpg: cannot be read as an image \(.+\); replace it"):
        views(tmp_path, 1, "DATASET.DECODE", "fast")
    (batch,) = loader_of(tmp_path, "DATASET.DECODE", "fast", "DATASET.ON_ERROR", "skip").epoch(1)
    assert len(batch.index) == 1
    assert "skipped 1 files that are not images" in capsys.readouterr().err


def test_what_simplejpeg_refuses_pillow_reads(tmp_path):
    """As an image with bytes between its parts, which libjpeg warns of."""
    folder_of(tmp_path, Image.fromarray(photo((300, 400, 3))))
    content = (tmp_path / "train" / "one" / "a.jpg").read_bytes()
    start = content.index(b"\xff\xdb")
    for name in ("one", "two"):
        (tmp_path / "train" / name / "a.jpg").write_bytes(content[:start] + b"\0\0\0" + content[start:])
    exact, fast = (views(tmp_path, 2, "DATASET.DECODE", kind) for kind in ("exact", "fast"))
    assert (exact - fast).abs().max() < 1.01


def test_what_cannot_be_decoded_in_crops_is_refused(tmp_path, monkeypatch):
    folder_of(tmp_path, Image.fromarray(photo((60, 80, 3))))
    for step in (v2.Resize(8), v2.RandomResizedCrop(8, interpolation=v2.InterpolationMode.NEAREST),
                 v2.RandomResizedCrop(8, antialias=False)):  # fmt: skip
        with pytest.raises(ValueError, match="does not begin with a random resized crop"):
            decoded_in_crops(FileRecipe(v2.Compose([step]), v2.Identity(), "", 8, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(ConfigError, match=r"DATASET.DECODE is fast; the augmentation of digits .* images in memory"):
        build_data(tiny_cfg("DATASET.TYPE", "digits", "DATASET.RECIPE", "imagenet", "DATASET.DECODE", "fast"))
    plain = builtins.__import__

    def without(name, *words, **more):
        if name == "simplejpeg":
            raise ModuleNotFoundError(name)
        return plain(name, *words, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="DATASET.DECODE fast needs simplejpeg: pip install simplejpeg"):
        loader_of(tmp_path, "DATASET.DECODE", "fast")
