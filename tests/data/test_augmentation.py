"""Augmentations of a user's: the same classes in memory and in files, functions of seed, epoch and sample."""

import pickle
import random
import subprocess
import sys

import pytest
import torch
from PIL import Image
from yacs.config import CfgNode as CN

from mdistiller_dfpt import AUGMENTATIONS, Augmentation, PictureAugmentation, build_data, load_cfg
from mdistiller_dfpt.config.effect import without_effect
from mdistiller_dfpt.data.auto_augment import Erasing, TimmPolicy
from mdistiller_dfpt.data.randomness import Numbers
from mdistiller_dfpt.distillers.choice import situation
from mdistiller_dfpt.errors import ConfigError, PluginError, UserError
from mdistiller_dfpt.runs.identity import fingerprint, identity_of
from mdistiller_dfpt.teachers.fill_cache import open_cache
from mdistiller_dfpt.testing import BrokenLaw, check_augmentation

MEMORY = {"DATASET.TYPE": "digits", "DATASET.NUM_WORKERS": 0, "SOLVER.BATCH_SIZE": 64, "EXPERIMENT.DEVICE": "cpu"}
FILES = {**MEMORY, "DATASET.RECIPE": "imagenet", "DATASET.SIZE": 16}
PLUGIN = '''
"""Noise, and one rotation in four."""

import torch
from torchvision.transforms import v2
from yacs.config import CfgNode as CN

from mdistiller_dfpt import AUGMENTATIONS, Augmentation, PictureAugmentation
from mdistiller_dfpt.config.limits import POSITIVE


@AUGMENTATIONS.register("noise")
class Noise(Augmentation):
    config, limits = CN({"STD": 20.0}), {"STD": POSITIVE}

    def __init__(self, *, std, image_shape):
        self.std, self.shape = std, image_shape

    def augment(self, images, numbers):
        noisy = images + self.std * numbers.normal(*self.shape)
        return noisy.round().clamp(0, 255).to(torch.uint8)


@AUGMENTATIONS.register("turn")
class Turn(PictureAugmentation):
    def augment_picture(self, picture):
        return picture.rotate(90) if torch.rand(()) < 0.25 else picture
'''


@pytest.fixture
def plugin(tmp_path, registries):
    """The path of a plugin that registers `noise` and `turn`."""
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


def config(plugin, base, *names, **more):
    return load_cfg(None, {**base, "PLUGINS": [plugin], "DATASET.AUGMENT": list(names), **more})


def images_of(data, epoch=1, **how):
    """The images of an epoch by their samples, and strong views if they are asked for."""
    batches = list(data.train.epoch(epoch, **how))
    order = torch.cat([b.index for b in batches]).argsort()
    return torch.cat([b.strong if how else b.image for b in batches])[order]


@pytest.mark.parametrize("base", [MEMORY, FILES], ids=["memory", "files"])
def test_training_images_are_a_function_of_seed_epoch_and_sample(base, plugin):
    cfg = config(plugin, base, "noise", "turn")
    data, again = build_data(cfg), build_data(config(plugin, base, "noise", "turn", **{"SOLVER.BATCH_SIZE": 100}))
    first = images_of(data)
    assert torch.equal(first, images_of(again)), "whatever batch a sample is in"
    assert torch.equal(next(data.train.epoch(1, first=3)).image, list(data.train.epoch(1))[3].image), "resumed"
    assert not torch.equal(first, images_of(data, epoch=2))
    plain = build_data(load_cfg(None, base))
    assert not torch.equal(first, images_of(plain))
    assert torch.equal(next(iter(data.test.epoch())).image, next(iter(plain.test.epoch())).image)
    assert data.train.augmentation == f"{plain.train.augmentation}, noise (std 20.0), turn"
    assert not torch.equal(images_of(data, strong=True), images_of(plain, strong=True)), "strong views are changed too"


def test_the_order_of_the_list_is_that_of_the_augmentations(plugin):
    names = ("noise", "turn"), ("turn", "noise")
    one, other = (images_of(build_data(config(plugin, MEMORY, *order))) for order in names)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_images_of_files_are_those_of_any_number_of_workers(context, plugin, monkeypatch):
    def made(*given, **more):
        return torch.utils.data.DataLoader(*given, **{**more, "multiprocessing_context": context})

    alone = images_of(build_data(config(plugin, FILES, "noise", "turn")))
    data = build_data(config(plugin, FILES, "noise", "turn"))
    monkeypatch.setattr("mdistiller_dfpt.data.image_files.DataLoader", made)
    data.train.workers = 2
    assert torch.equal(images_of(data), alone)


def test_another_process_imports_the_users_file_when_it_needs_it(plugin):
    files = build_data(config(plugin, FILES, "noise")).train.files
    code = "import pickle, sys; files = pickle.load(sys.stdin.buffer); print(files[1, 3][0].sum().item())"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(files), capture_output=True, check=True)
    assert int(done.stdout) == files[1, 3][0].sum().item()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_users_in_a_worker_is_told_as_his(workers, plugin, tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(PLUGIN.replace("noisy.round()", "noisy.rund() if images.sum() % 7 == 3 else noisy.round()"))
    train = build_data(config(str(path), FILES, "noise")).train
    train.workers = workers
    with pytest.raises(UserError if workers else AttributeError, match="odd.py:21: Attr.*rund" if workers else "rund"):
        list(train.epoch(1))


def test_name_values_and_order_identify_a_run_and_no_augmentation_is_as_before(plugin):
    def identity(*names, **more):
        cfg = config(plugin, MEMORY, *names, **more)
        return identity_of(cfg, build_data(cfg), [])

    plain = identity()
    assert not any("AUGMENT" in key for key in plain["config"])
    prints = [
        fingerprint(i) for i in (plain, identity("noise"), identity("noise", **{"NOISE.STD": 9.0}), identity("turn"),
                                 identity("noise", "turn"), identity("turn", "noise"))
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)
    assert fingerprint(identity("turn", **{"NOISE.STD": 9.0})) == prints[3], "a section without effect"


def test_a_section_of_an_augmentation_that_is_not_used_is_said(plugin):
    cfg = config(plugin, MEMORY, "turn", **{"NOISE.STD": 9.0})
    line = next(line for line in without_effect(situation(cfg, in_files=False)) if line.startswith("NOISE"))
    assert line.startswith("NOISE.STD 9.0 has no effect here: its method, kind of teacher or augmentation is not part")


def test_what_is_wrong_in_a_config_is_said(plugin):
    for names, more, message in (
        (["nois"], {}, r"DATASET.AUGMENT: unknown augmentation 'nois'; did you mean noise\?"),
        (["noise", "noise"], {}, "DATASET.AUGMENT is .*; it must be a list of distinct names of augmentations"),
        (["noise"], {"NOISE.STD": -1.0}, "NOISE.STD is -1.0; it must be > 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_data(config(plugin, MEMORY, *names, **more))
    data = build_data(config(plugin, MEMORY, "noise"))
    with pytest.raises(ConfigError, match="LOGITS_CACHE is cache; it needs finitely many views .*noise"):
        open_cache("cache", data.train, 10, "")


def test_policies_of_timm_and_erasing_are_augmentations_in_memory_too():
    words = {**MEMORY, "DATASET.AUTO_AUGMENT": "rand-m9-mstd0.5-inc1", "DATASET.ERASING": 0.25}
    data = build_data(load_cfg(None, words))
    assert torch.equal(images_of(data), images_of(build_data(load_cfg(None, words))))
    assert data.train.augmentation == "crop with padding 1, rand-m9-mstd0.5-inc1, random erasing 0.25"
    assert situation(load_cfg(None, words), in_files=False).cfg.DATASET.ERASING == 0.25


def test_numbers_are_uniform_and_normal_and_new_in_each_call():
    numbers = Numbers(torch.arange(400), 3, 1, 0)
    uniform, normal = numbers.uniform(50), numbers.normal(5, 10)
    assert uniform.shape == (400, 50)
    assert normal.shape == (400, 5, 10)
    assert 0 <= uniform.min() < 1e-3
    assert 1 - 1e-3 < uniform.max() < 1
    assert (uniform.mean().item(), uniform.var().item()) == pytest.approx((1 / 2, 1 / 12), abs=0.01)
    assert (normal.mean().item(), normal.var().item()) == pytest.approx((0, 1), abs=0.03)
    assert normal.isfinite().all()
    assert not torch.equal(numbers.uniform(50), uniform)


# ---------------------------------------------------------------------------------------------------------------
# The laws
# ---------------------------------------------------------------------------------------------------------------
class Ours(PictureAugmentation):
    """Erasing and a policy of timm, with what a config gives them."""

    parts = Erasing(0.9, (0.5,) * 3, (0.2,) * 3), TimmPolicy("rand-m9-mstd0.5-inc1", 24, (0.5,) * 3)

    def augment_picture(self, picture):
        for part in self.parts:
            picture = part.augment_picture(picture)
        return picture


@pytest.mark.parametrize("cls", [*AUGMENTATIONS.values(), Ours], ids=lambda cls: cls.__name__)
def test_those_of_the_package_obey_the_laws(cls):
    check_augmentation(cls)


class Sound(Augmentation):
    """Inverts some images."""

    config = CN({"PROBABILITY": 0.5})

    def __init__(self, *, probability):
        self.probability = probability

    def augment(self, images, numbers):
        chosen = numbers.uniform(1)[:, 0] < self.probability
        return torch.where(chosen[:, None, None, None], 255 - images, images)


def test_a_sound_one_obeys_them_at_other_values_and_sizes():
    check_augmentation(Sound, probability=0.1)
    check_augmentation(Sound, (3, 8, 8))


def broken(augment, **members):
    return type("Broken", (Sound,), {"augment": augment, "__module__": __name__, **members})


BROKEN = [
    (lambda self, x, n: x / 255, r"`augment` returned \(8, 3, 20, 24\) torch.float32"),
    (lambda self, x, n: x[:, :, 1:], r"`augment` returned \(8, 3, 19, 24\)"),
    (lambda self, x, n: (x / 255).to(torch.uint8), "all values are 0 or 1"),
    (lambda self, x, n: x ^ int(torch.randint(256, ())), "same images and numbers: draw from `numbers`"),
    (lambda self, x, n: x ^ (vars(self).update(k=vars(self).get("k", 0) + 1) or self.k), "keep nothing from one"),
    (lambda self, x, n: x ^ int(256 * n.uniform(1)[0, 0]), "beside other images: take its own row"),
    (lambda self, x, n: (x - x.float().mean()).abs().to(torch.uint8), "no statistics of the batch"),
    (lambda self, x, n: torch.full_like(x, 7), "all images become the same one"),
    (lambda self, x, n: self.transform(x), "cannot be sent to the processes that decode files"),
]  # fmt: skip


@pytest.mark.parametrize(("augment", "message"), BROKEN)
def test_what_breaks_a_law_is_named(augment, message):
    def __init__(self, *, probability):
        self.transform = lambda images: images

    members = {"__init__": __init__} if "cannot be sent" in message else {}
    with pytest.raises((BrokenLaw, PluginError), match=message):
        check_augmentation(broken(augment, **members))


def test_pictures_of_another_size_and_numbers_of_other_generators_are_named():
    class Drawn(PictureAugmentation):
        def augment_picture(self, picture):
            return picture.rotate(random.uniform(0, 90))

    class Cut(PictureAugmentation):
        def augment_picture(self, picture):
            return picture.crop((0, 0, 8, 8))

    class Array(PictureAugmentation):
        def augment_picture(self, picture):
            return torch.zeros(3)

    for cls, message in (
        (Drawn, "draw from PyTorch's functions, such as torch.rand alone"), (Cut, r"a picture of \(8, 8\)"),
        (Array, "returned Tensor for a picture"),
    ):  # fmt: skip
        with pytest.raises(BrokenLaw, match=message):
            check_augmentation(cls)
    with pytest.raises(PluginError, match="an augmentation must be a subclass of Augmentation"):
        check_augmentation(Image.Image)
