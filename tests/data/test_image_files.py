"""Datasets of image files: layouts, errors, and views that depend only on (seed, epoch, index)."""

import hashlib
import io
import os
import re
import shutil
import signal
import struct
import tarfile
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt.commands import check_data
from mdistiller_dfpt.data import DATASETS, build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.data.sets import cub200 as cub_module
from mdistiller_dfpt.data.sets import imagenet as imagenet_module
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.testing import tiny_cfg

KINDS = ("cub200", "folder", "imagenet", "tiny_imagenet")


def file_cfg(kind, root, *overrides):
    return tiny_cfg(
        *write_data_set(kind, root), "SOLVER.BATCH_SIZE", "5", "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0",
        *overrides,
    )  # fmt: skip


def batches(cfg, epoch=1, first=0):
    return list(build_data(cfg).train.epoch(epoch, first))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_each_sample_once_an_epoch(kind, tmp_path):
    data = build_data(file_cfg(kind, tmp_path))
    assert (data.num_train, data.test.num_samples, data.num_classes, data.image_shape) == (12, 12, 4, (3, 32, 32))
    for loader, epoch in ((data.train, 1), (data.test, 1)):
        seen = list(loader.epoch(epoch))
        assert torch.cat([b.index for b in seen]).sort().values.tolist() == list(range(12))
        assert all(b.image.shape[1:] == (3, 32, 32) and torch.equal(b.target, loader.labels[b.index]) for b in seen)
    assert data.train.labels.bincount().tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_the_same_for_any_number_of_workers_and_from_any_batch_on(kind, tmp_path):
    cfg = file_cfg(kind, tmp_path)
    alone = batches(cfg)
    cfg.defrost()
    cfg.DATASET.NUM_WORKERS = 2
    cfg.freeze()
    loader = build_data(cfg).train
    for expected in (alone, alone[1:]):
        got = list(loader.epoch(1, first=len(alone) - len(expected)))
        assert [b.step for b in got] == [b.step for b in expected]
        assert all(
            torch.equal(a.image, b.image) and torch.equal(a.index, b.index) for a, b in zip(got, expected, strict=True)
        )
    first, second = ({int(i): im for b in bs for i, im in zip(b.index, b.image, strict=True)}
                     for bs in (alone, loader.epoch(2)))  # fmt: skip
    assert not all(torch.equal(first[i], second[i]) for i in first)


def test_global_randomness_is_neither_read_nor_moved(tmp_path):
    cfg = file_cfg("folder", tmp_path)
    torch.manual_seed(1)
    first = batches(cfg)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, batches(cfg), strict=True))


def test_the_strong_view_is_drawn_in_the_workers(tmp_path):
    loaders = []
    for workers in ("0", "1"):
        loader = build_data(file_cfg("folder", tmp_path, "DATASET.NUM_WORKERS", workers)).train
        loaders.append(list(loader.epoch(1, strong=True)))
    assert all(
        torch.equal(a.strong, b.strong) and not torch.equal(a.strong, a.image) for a, b in zip(*loaders, strict=True)
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_file_that_is_no_image_ends_the_run_by_its_name_or_is_skipped_and_counted(tmp_path, capsys, workers):
    cfg = file_cfg("folder", tmp_path, "DATASET.NUM_WORKERS", workers)
    bad = tmp_path / "train" / "n00000001" / "train_1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=r"n00000001/train_1.jpg: cannot be read.*DATASET.ON_ERROR skip"):
        batches(cfg)
    cfg = file_cfg("folder", tmp_path / "second", "DATASET.NUM_WORKERS", workers, "DATASET.ON_ERROR", "skip")
    for i in range(3):
        (tmp_path / "second" / "train" / "n00000002" / f"train_{i}.jpg").write_bytes(b"no image")
    assert sum(len(b.index) for b in batches(cfg)) == 9
    assert "skipped 3 files" in capsys.readouterr().err


def test_gray_palette_and_transparent_images_are_read_as_colour(tmp_path):
    cfg = file_cfg("folder", tmp_path)
    for mode, name in (("L", "gray.png"), ("P", "palette.png"), ("RGBA", "alpha.png"), ("CMYK", "print.jpg")):
        Image.new(mode, (40, 50)).save(tmp_path / "train" / "n00000000" / name)
    assert sum(len(b.index) for b in batches(cfg)) == 16


def test_a_deep_image_and_one_of_a_single_pixel_are_read(tmp_path):
    cfg = file_cfg("folder", tmp_path)
    Image.fromarray(np.full((40, 50), 40_000, np.uint16)).save(tmp_path / "train" / "n00000000" / "deep.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "train" / "n00000000" / "pixel.png")
    seen = batches(cfg)
    assert sum(len(b.index) for b in seen) == 14
    assert all(torch.isfinite(b.image).all() for b in seen)


def test_a_decompression_bomb_is_no_image(tmp_path, monkeypatch):
    cfg = file_cfg("folder", tmp_path)
    Image.new("L", (300, 300)).save(tmp_path / "train" / "n00000000" / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)  # Pillow rejects twice as many
    with pytest.raises(DataError, match=r"bomb.png: cannot be read as an image \(Image size \(90000 pixels\)"):
        batches(cfg)


def test_tables_of_paths_and_labels(tmp_path):
    write_data_set("folder", tmp_path)
    for split in ("train", "val"):
        lines = [f"{split}/n0000000{c}/{split}_{i}.jpg,{10 * c}" for c in range(4) for i in range(3)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label", *lines]))
    source = DATASETS["folder"](tiny_cfg("DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path)))
    assert source.train.classes == ("0", "10", "20", "30")
    assert source.test.labels.tolist() == [c for c in range(4) for _ in range(3)]


def edit(path, change):
    path.write_text(change(path.read_text()))


FAULTS = [
    ("folder", lambda r: (r / "val/extra").mkdir(), "the class extra is only in the test set"),
    ("folder", lambda r: [p.unlink() for p in (r / "train/n00000002").iterdir()], "n00000002: contains no images"),
    ("folder", lambda r: (r / "train").rename(r / "elsewhere"), "no dataset in DATASET.ROOT"),
    ("folder", lambda r: (r / "train.csv").write_text("a,b\nmissing.jpg,3\n"), r"train.csv:2: no such file"),
    ("folder", lambda r: (r / "train.csv").write_text("path,label\n"), r"train.csv: contains no images"),
    ("folder", lambda r: (r / "train.csv").write_text("x\n"), r"train.csv:1: is 'x'; expected path,label"),
    ("imagenet", lambda r: (r / "imagenet/val").rename(r / "imagenet/validation"), "no ImageNet in DATASET.ROOT"),
    ("imagenet", lambda r: (r / "imagenet/train/n00000003").rename(r / "x"), "contains 3 classes, expected 4"),
    ("tiny_imagenet", lambda r: (r / "tiny-imagenet-200").rename(r / "x"), "no Tiny ImageNet in DATASET.ROOT"),
    ("cub200", lambda r: (r / "CUB_200_2011/classes.txt").unlink(), r"classes.txt: cannot be read \(No such file"),
    ("cub200", lambda r: edit(r / "CUB_200_2011/images.txt", lambda t: "1 a\n" + t), r"images.txt:2: is '1 001"),
    ("cub200", lambda r: edit(r / "CUB_200_2011/images.txt", lambda t: t.replace("001.B", "../001.B", 1)), "outside"),
    ("cub200", lambda r: edit(r / "CUB_200_2011/train_test_split.txt", lambda t: t[4:]), "has no image 1"),
    ("cub200", lambda r: edit(r / "CUB_200_2011/image_class_labels.txt", lambda t: t.replace("1 1", "1 9", 1)),
     "image 1 has class 9, which does not exist"),
    ("cub200", lambda r: edit(r / "CUB_200_2011/train_test_split.txt", lambda t: t.replace(" 1\n", " 0\n")),
     "001.Bird_1 has no training images"),
    ("cub200", lambda r: next((r / "CUB_200_2011/images").glob("*/*_0001.jpg")).unlink(), "_0001.jpg: no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "damage", "message"), FAULTS)
def test_what_does_not_fit_is_refused_before_training(kind, damage, message, tmp_path):
    cfg = file_cfg(kind, tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        build_data(cfg)


def test_class_counts_are_the_official_ones_unless_the_config_says_another(tmp_path):
    cfg = file_cfg("cub200", tmp_path, "DATASET.CLASSES", "null")
    with pytest.raises(DataError, match="contains 4 classes, expected 200"):
        build_data(cfg)


@pytest.mark.parametrize("labels", ["devkit", "solution"])
def test_imagenets_validation_images_as_shipped(tmp_path, labels):
    cfg = file_cfg("imagenet", tmp_path)
    root, wnids = tmp_path / "imagenet", [2, 0, 3, 1]
    for i, path in enumerate(sorted((root / "val").glob("*/val_0.jpg")), start=1):
        path.rename(root / "val" / f"ILSVRC2012_val_{i:08d}.JPEG")
    for folder in [p for p in (root / "val").iterdir() if p.is_dir()]:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    with pytest.raises(DataError, match="that gives their classes"):
        build_data(cfg)
    if labels == "solution":
        rows = [f"ILSVRC2012_val_{i:08d},n{w:08d} 1 2 3 4" for i, w in enumerate(wnids, start=1)]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    else:
        from scipy.io import savemat

        folder = root / "ILSVRC2012_devkit_t12" / "data"
        folder.mkdir(parents=True)
        synsets = np.array([(i + 1, f"n{w:08d}") for i, w in enumerate(reversed(range(4)))],
                           dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])  # fmt: skip
        savemat(folder / "meta.mat", {"synsets": synsets})
        (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(4 - w) for w in wnids))
    assert build_data(cfg).test.labels.tolist() == wnids


def test_a_list_of_a_published_dataset_that_is_no_list_is_named(tmp_path):
    for kind, file, content, said in (
        ("cub200", "CUB_200_2011/images.txt", b"9" * 5000 + b" a/x.png\n", r"images.txt:1: is '9{80}'; expected"),
        (
            "tiny_imagenet",
            "tiny-imagenet-200/val/val_annotations.txt",
            b"\xff\n",
            "val_annotations.txt: cannot be read",
        ),
    ):
        cfg = file_cfg(kind, tmp_path)
        if kind == "tiny_imagenet":  # class folders would win over the list
            shutil.rmtree((tmp_path / file).parent)
            (tmp_path / file).with_name("images").mkdir(parents=True)
        (tmp_path / file).write_bytes(content)
        with pytest.raises(DataError, match=said):
            build_data(cfg)


@pytest.mark.parametrize("name", ["../../train/n00000000/images/n00000000_0.JPEG", "/etc/hostname", "..", ""])
def test_a_list_of_tiny_imagenet_names_files_of_its_folder_alone(name, tmp_path):
    cfg = file_cfg("tiny_imagenet", tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    shutil.rmtree(root / "val")
    (root / "val/images").mkdir(parents=True)
    wnid = sorted(path.name for path in (root / "train").iterdir())[0]
    (root / "val/val_annotations.txt").write_text(f"{name}\t{wnid}\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt:1: .*(is not the name of a file in|no such image)"):
        build_data(cfg)


def test_a_file_that_ends_the_process_of_its_reader_ends_no_run(tmp_path, monkeypatch):
    """Of damaged files of MATLAB, one in forty does; its reader is code in C."""
    cfg = file_cfg("imagenet", tmp_path)
    root = tmp_path / "imagenet"
    for folder in list((root / "val").iterdir()):
        for path in folder.iterdir():
            path.rename(root / "val" / f"ILSVRC2012_val_{path.stem}.JPEG")
        folder.rmdir()
    (root / "ILSVRC2012_devkit_t12/data").mkdir(parents=True)
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        (root / "ILSVRC2012_devkit_t12/data" / name).write_text("1\n")
    monkeypatch.setattr(imagenet_module, "_synsets", _end)
    with pytest.raises(DataError, match=r"the labels of the validation images cannot be read \(BrokenProcessPool"):
        build_data(cfg)


@pytest.mark.parametrize(("order", "mark"), [("<", b"IM"), (">", b"MI")])
def test_a_bomb_in_a_file_of_matlab_is_refused_before_it_unpacks(order, mark):
    zeros = zlib.compressobj(9)
    bomb = b"".join(zeros.compress(bytes(1 << 24)) for _ in range(32)) + zeros.flush()  # 512 MiB
    parts = (zlib.compress(b"x"), bomb)
    content = bytes(126) + mark + b"".join(struct.pack(f"{order}II", 15, len(part)) + part for part in parts)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"meta\.mat unpacks to over 64 MiB"):
        imagenet_module._synsets(content)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * imagenet_module.MOST_META


def _end(content):
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A function (extra members) -> the archive of a small CUB-200-2011, accepted as the official one."""

    def pack(*extra):
        write_data_set("cub200", tmp_path / "source")
        path = tmp_path / "CUB_200_2011.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "source" / "CUB_200_2011", "CUB_200_2011")
            for name in extra:
                info = tarfile.TarInfo(name)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setattr(cub_module, "ARCHIVE_MD5", digest)
        return path

    return pack


def cub_cfg(root):
    return tiny_cfg("DATASET.TYPE", "cub200", "DATASET.ROOT", str(root), "DATASET.CLASSES", "4",
                    "SOLVER.BATCH_SIZE", "5")  # fmt: skip


def test_the_archive_is_unpacked_once_and_whole(archive, tmp_path, monkeypatch):
    archive()
    assert build_data(cub_cfg(tmp_path)).num_train == 12
    monkeypatch.setattr(tarfile, "open", None)
    assert build_data(cub_cfg(tmp_path)).num_train == 12


def test_the_archive_is_downloaded_only_on_request(archive, server, tmp_path, monkeypatch):
    folder, url = server
    archive().rename(folder / "CUB_200_2011.tgz")
    monkeypatch.setattr(cub_module, "URL", f"{url}/CUB_200_2011.tgz")
    cfg = cub_cfg(tmp_path / "data")
    with pytest.raises(DataError, match="DATASET.DOWNLOAD True"):
        build_data(cfg)
    cfg.defrost()
    cfg.DATASET.DOWNLOAD = True
    assert build_data(cfg).num_train == 12


def test_an_interrupted_extraction_leaves_nothing_that_is_taken_for_the_data(archive, tmp_path, monkeypatch):
    archive()
    extract = tarfile.TarFile.extractall

    def half(self, path, **kwargs):
        members = self.getmembers()
        extract(self, path, members[: len(members) // 2], **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", half)
    with pytest.raises(DataError, match="cannot be unpacked.*No space left"):
        build_data(cub_cfg(tmp_path))
    assert [p.name for p in tmp_path.iterdir() if "CUB" in p.name] == ["CUB_200_2011.tgz"]
    monkeypatch.setattr(tarfile.TarFile, "extractall", extract)
    assert build_data(cub_cfg(tmp_path)).num_train == 12


def test_an_archive_that_writes_elsewhere_or_is_not_the_official_one_is_refused(archive, tmp_path, monkeypatch):
    archive("../outside.txt")
    with pytest.raises(DataError, match="cannot be unpacked"):
        build_data(cub_cfg(tmp_path))
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / "CUB_200_2011").exists()
    monkeypatch.setattr(cub_module, "ARCHIVE_MD5", "0" * 32)
    with pytest.raises(DataError, match="not the official archive"):
        build_data(cub_cfg(tmp_path))


def test_a_missing_dataset_error_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match="DATASET.DOWNLOAD True"):
        build_data(cub_cfg(tmp_path))


def test_check_data_reports_every_fault(tmp_path, capsys):
    overrides = write_data_set("folder", tmp_path)
    assert check_data.main(overrides) == 0
    out = capsys.readouterr().out
    assert re.search(r"^all \d+ images can be read$", out, re.M)
    (tmp_path / "train/n00000000/train_0.jpg").write_bytes(b"")
    (tmp_path / "val/n00000003/val_2.jpg").write_bytes(b"no image")
    (tmp_path / "val/n00000001/val_0.jpg").write_bytes((tmp_path / "train/n00000001/train_0.jpg").read_bytes())
    assert check_data.main(overrides) == 3
    out, err = capsys.readouterr()
    assert err.count("cannot be read as an image") == 2
    assert "val_0.jpg: the same image as" in out


def test_skipping_is_refused_if_processes_need_batches_of_equal_size(tmp_path, monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.data.build.world_size", lambda: 2)
    with pytest.raises(ConfigError, match="DATASET.ON_ERROR is skip"):
        build_data(file_cfg("folder", tmp_path, "DATASET.ON_ERROR", "skip"))
