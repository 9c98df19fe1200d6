"""An image outside a dataset becomes what the loader returns for it in testing."""

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms import v2

from mdistiller_dfpt.data.image_files import FileLoader, FileRecipe, FileSet, imagenet_recipe
from mdistiller_dfpt.data.in_memory import ImageSet, InMemoryLoader, Recipe
from mdistiller_dfpt.data.preprocessing import Preprocessing, pixels_of, resize_and_crop
from mdistiller_dfpt.data.samples import read_image
from mdistiller_dfpt.errors import CheckpointError, DataError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def pictures(size):
    images = torch.randint(0, 256, (4, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images, torch.arange(4), tuple("abcd")


@pytest.mark.parametrize("size", [None, 24])
def test_images_in_memory(size):
    images, labels, names = pictures((16, 16))
    recipe = Recipe(pad=2, flip=True, mean=MEAN, std=STD)
    loader = InMemoryLoader(ImageSet(images, labels, names), recipe, 4, train=False, size=size)
    (batch,) = loader.epoch()
    preprocess = loader.preprocessing()
    ours = torch.stack([preprocess(Image.fromarray(image.numpy())) for image in images])
    torch.testing.assert_close(ours, batch.image, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 56), (64, 33)])
def test_image_files(shape, tmp_path):
    images, labels, names = pictures(shape)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.numpy()).save(path)
    recipe = imagenet_recipe(32)._replace(mean=MEAN, std=STD)
    loader = FileLoader(FileSet(paths, labels, names), recipe, 4, train=False)
    (batch,) = loader.epoch()
    preprocess = loader.preprocessing()
    ours = torch.stack([preprocess(read_image(path)) for path in paths])
    torch.testing.assert_close(ours, batch.image, rtol=0, atol=2e-6)


def test_an_image_of_another_size_mode_and_shape_gets_the_networks():
    loader = InMemoryLoader(ImageSet(*pictures((16, 16))), Recipe(1, False, MEAN, STD), 4, train=False)
    assert loader.preprocessing()(Image.new("L", (100, 31))).shape == (3, 16, 16)
    assert loader.preprocessing()(Image.new("RGBA", (3, 300))).shape == (3, 16, 16)


def test_a_transform_of_another_kind_is_not_guessed():
    assert resize_and_crop(v2.Compose([v2.Resize(30), v2.CenterCrop(24)]))[:3] == ((30,), (24, 24), "bilinear")
    assert resize_and_crop(v2.Resize((20, 24)))[:3] == ((20, 24), None, "bilinear")
    assert resize_and_crop(v2.Identity())[:3] == (None, None, "bilinear")
    for transform in (v2.Compose([v2.Resize(30), v2.FiveCrop(24)]), v2.Grayscale(),
                      v2.Resize(30, interpolation=v2.InterpolationMode.NEAREST),
                      v2.Compose([v2.CenterCrop(24), v2.Resize(30)])):  # fmt: skip
        assert resize_and_crop(transform) is None
    own = FileRecipe(v2.Identity(), v2.Grayscale(3), "none", 16, MEAN, STD)
    assert FileLoader(FileSet(["a"], torch.zeros(1).long(), ("a",)), own, 1, train=False).preprocessing() is None


def test_it_is_read_back_from_json_and_damage_is_said():
    one = Preprocessing((36,), (32, 32), MEAN, STD, (32, 32))
    assert Preprocessing.from_json(one.as_json()) == one
    of_earlier = {key: value for key, value in one.as_json().items() if key != "interpolation"}
    assert Preprocessing.from_json(of_earlier) == one
    with pytest.raises(CheckpointError, match="preprocessing cannot be read"):
        Preprocessing.from_json({**one.as_json(), "mean": None})
    with pytest.raises(CheckpointError, match="preprocessing cannot be read"):
        Preprocessing.from_json({"mean": [0.5]})


PIXELS = np.random.default_rng(0).integers(0, 2**16, (12, 9, 4), np.uint16)
KINDS = {
    "RGB": Image.fromarray((PIXELS[..., :3] >> 8).astype(np.uint8)),
    "L": Image.fromarray((PIXELS[..., 0] >> 8).astype(np.uint8)),
    "RGBA": Image.fromarray((PIXELS >> 8).astype(np.uint8), "RGBA"),
    "P": Image.fromarray((PIXELS[..., :3] >> 8).astype(np.uint8)).quantize(16),
    "I;16": Image.fromarray(PIXELS[..., 0]),
}


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_in_memory_becomes_what_its_file_does(kind, upright, tmp_path):
    exif, path = Image.Exif(), tmp_path / "a.png"
    exif[ExifTags.Base.Orientation] = 6
    KINDS[kind].save(path, exif=exif)
    prepare = Preprocessing((10, 8), (8, 8), MEAN, STD, (8, 8), upright=upright)
    with Image.open(path) as picture:
        assert picture.mode == kind
        assert torch.equal(prepare(picture), prepare(read_image(str(path))))


def test_a_tiff_file_which_pillow_turns_itself_is_not_turned_twice(tmp_path):
    exif, path = Image.Exif(), tmp_path / "a.tif"
    exif[ExifTags.Base.Orientation] = 6
    KINDS["P"].convert("RGB").save(path, exif=exif)
    prepare = Preprocessing((10, 8), (8, 8), MEAN, STD, (8, 8), upright=True)
    with Image.open(path) as picture:
        assert torch.equal(prepare(picture), prepare(read_image(str(path))))


@pytest.mark.parametrize("view", [torch.rand(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_a_tensor_of_another_kind_than_pixels_is_refused(view):
    with pytest.raises(TypeError, match=r"must return a PIL image or \(3, H, W\) torch.uint8: leave out ToTensor"):
        pixels_of(view)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_in_memory_without_a_fixed_range_is_refused(mode):
    with pytest.raises(DataError, match="whose range is not known: convert it to 8 or 16 bits"):
        Preprocessing(None, None, MEAN, STD, (8, 8))(Image.new(mode, (8, 8)))
