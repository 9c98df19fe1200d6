"""Images and tables of other origins: read with the right values, or named; what is not read is counted and said."""

import contextlib
import errno
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from mdistiller_dfpt.commands import check_data
from mdistiller_dfpt.commands.predict import images_of
from mdistiller_dfpt.data import DATASETS, build_data
from mdistiller_dfpt.data.preprocessing import Preprocessing, turn_of, upright
from mdistiller_dfpt.data.read_image import Fault, read_image
from mdistiller_dfpt.data.tables import read_table
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.testing import tiny_cfg


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def source(root, kind="folder", *words):
    return DATASETS[kind](tiny_cfg("DATASET.TYPE", kind, "DATASET.ROOT", str(root), "DATASET.CLASSES", "2", *words))


def base(root):
    for number, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        image(root / name / "x.png", number)
    return root


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_of_sixteen_bits_the_higher_eight_are_taken(ending, tmp_path):
    values = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    found = np.asarray(read_image(str(tmp_path / f"deep.{ending}")))
    assert np.array_equal(found, np.repeat((values >> 8)[..., None], 3, 2))


def test_a_pgm_of_ten_bits_is_scaled_by_its_own_maximum(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes())
    assert np.asarray(read_image(str(tmp_path / "deep.pgm")))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(("dtype", "words"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")])
def test_values_without_a_fixed_range_are_refused_by_name(dtype, words, tmp_path, capsys):
    base(tmp_path)
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "train/a/odd.tif")
    fault = read_image(str(tmp_path / "train/a/odd.tif"))
    assert isinstance(fault, Fault)
    assert words in fault.reason
    assert check_data.main(["DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path)]) == 3
    assert f"odd.tif: cannot be read as an image (its pixels are {words}" in capsys.readouterr().err


def test_subfolders_and_formats_are_those_of_torchvision_and_the_rest_is_counted(tmp_path, capsys):
    base(tmp_path)
    for number, name in enumerate(("a/deep/er/1.tif", "a/deep/2.ppm", "b/3.tiff", "b/4.PGM", "b/5.webp"), start=9):
        image(tmp_path / "train" / name, number)
    theirs = ImageFolder(tmp_path / "train")
    for name in ("a/._1.png", "a/notes.txt", "b/Thumbs.db"):
        (tmp_path / "train" / name).write_text("x")
    image(tmp_path / "train/b/6.gif")
    image(tmp_path / "train/b/.ipynb_checkpoints/x.png")
    ours = source(tmp_path).train
    assert list(zip(ours.paths, ours.labels.tolist(), strict=True)) == theirs.samples
    assert "4 files are not read as images (1 .db, 1 .gif, 1 .txt, 1 hidden)" in capsys.readouterr().out


def test_no_ending_of_a_file_commands_a_terminal(tmp_path, capsys):
    base(tmp_path)
    (tmp_path / "train/a/x.\x1b]0;title\x07").write_text("x")
    source(tmp_path)
    assert r"(1 .\x1b]0;title\x07)" in capsys.readouterr().out


def tables(root, train, val):
    for i in range(4):
        image(root / f"{i}.png", i)
    (root / "train.csv").write_text(train)
    (root / "val.csv").write_text(val)
    return root


def test_whole_numbers_are_numbers_however_they_are_written(tmp_path):
    folder = tables(tmp_path, "0.png,10.0\n1.png,2.0\n2.png,-1.0\n", "0.png,10\n1.png,2\n2.png,-1\n")
    found = source(folder, "folder", "DATASET.CLASSES", "3")
    assert found.train.classes == found.test.classes == ("-1", "2", "10")
    assert found.train.labels.tolist() == found.test.labels.tolist() == [2, 1, 0]
    with pytest.raises(DataError, match=r"has the label 0.5; labels must be names or whole numbers"):
        source(tables(tmp_path, "0.png,0.5\n1.png,2\n", "0.png,0.5\n1.png,2\n"))


def test_what_is_taken_as_a_header_is_said_and_a_typo_is_not_one(tmp_path, capsys):
    good = "0.png,a\n1.png,b\n"
    assert len(source(tables(tmp_path, f"file;x,label\n{good}", good)).train.labels) == 2
    assert "train.csv:1: 'file;x,label' is taken as a header" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"train.csv:1: no such file: .*/00.png"):
        source(tables(tmp_path, f"00.png,a\n{good}", good))


def test_training_images_in_the_test_set_are_said(tmp_path, capsys):
    source(tables(tmp_path, "0.png,a\n1.png,b\n", "1.png,b\n2.png,a\n"))
    assert re.search(r"note: 1 of 2 images of .*val.csv are training images too, such as .*1.png",
                     capsys.readouterr().out)  # fmt: skip


@pytest.mark.parametrize(
    ("first", "said"),
    [(f"{'a' * 300}.png,a", "no such file"), ('"' + "b" * 200_000, "is no line of a table")],
    ids=["a long name", "a long field"],
)
def test_what_no_file_system_or_table_has_is_named(first, said, tmp_path):
    with pytest.raises(DataError, match=rf"train.csv:1: {said}"):
        source(tables(tmp_path, f"{first}\n0.png,a\n", "1.png,b\n"))


@pytest.mark.parametrize("text", ["a.png,1" + ",x" * 9999, "a.png,1\n" + "b" * 9999 + ".png,1", "a" * 10**6 + ",1"])
def test_a_row_of_any_length_is_a_message_of_a_few_words(text, tmp_path, capsys):
    image(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(text)
    assert guarded(lambda argv: read_table(tmp_path / "train.csv"), []) == 3
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {tmp_path}/train.csv:")
    assert len(said.out + said.err) < 5000


def test_columns_are_found_by_their_names_and_windows_separators_are_read(tmp_path):
    image(tmp_path / "d/x.png")
    rows = ",path,label\n0,d\\x.png,b\n1,1.png,a\n"
    found = source(tables(tmp_path, rows, "0.png,a\n1.png,b\n"))
    assert found.train.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"train.csv:2: is '0,1.png'; expected 3 values, as in its header"):
        source(tables(tmp_path, ",path,label\n0,1.png\n", "0.png,a\n1.png,b\n"))


def test_metadata_in_the_folder_of_a_split(tmp_path):
    for split in ("train", "validation"):
        for i in range(2):
            image(tmp_path / split / f"{i}.png", i)
        (tmp_path / split / "metadata.csv").write_text("file_name,label\n0.png,dog\n1.png,cat\n")
    found = source(tmp_path)
    assert (found.train.classes, found.test.labels.tolist()) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_names_of_the_test_set(name, tmp_path, capsys):
    base(tmp_path)
    (tmp_path / "val").rename(tmp_path / name)
    assert source(tmp_path).test.labels.tolist() == [0, 1]
    if name != "test":
        image(tmp_path / "test/a/y.png")
        source(tmp_path)
        assert f"{name} is the test set; not used: test" in capsys.readouterr().out


@pytest.mark.parametrize("left", [False, True])
def test_class_folders_of_tiny_imagenet_win_over_a_list_left_behind(left, tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for number, name in enumerate(("n1", "n2")):
        image(root / "train" / name / "images/x.png", number)
        image(root / "val" / name / "v.png", number + 2)
    (root / "val/val_annotations.txt").write_text("v.png\tn1\t0\t0\t1\t1\n")
    if left:
        image(root / "val/images/v.png")
    found = source(tmp_path, "tiny_imagenet")
    assert found.test.labels.tolist() == [0, 1]
    assert [path.split("/")[-2] for path in found.test.paths] == ["n1", "n2"]


def test_check_data_finds_one_image_with_two_labels(tmp_path, capsys):
    base(tmp_path)
    image(tmp_path / "train/b/copy.png", 0)
    assert check_data.main(["DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "train/a/x.png: class a; " in out
    assert "train/b/copy.png: class b: the same image" in out


def test_a_rotation_in_exif_is_not_applied_as_in_torchvision(tmp_path):
    picture = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(
        torch.as_tensor(np.array(read_image(str(tmp_path / "turned.png")))), torch.as_tensor(np.array(picture))
    )


@pytest.mark.filterwarnings("ignore:.*EXIF.*:UserWarning")
@pytest.mark.parametrize(("at", "byte"), [(0, 7), (1, 1), (5, 3), (8, 9), (11, 2), (15, 255), (17, 4), (25, 200)])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_damaged_exif_data_damage_no_image(at, byte, ending, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x"
    content = bytearray(exif.tobytes())
    content[at] = byte
    path = tmp_path / f"x.{ending}"
    Image.new("RGB", (4, 2)).save(path, exif=bytes(content))
    found = read_image(str(path))
    assert upright(found).size in ((4, 2), (2, 4))
    with contextlib.suppress(OSError, SyntaxError), Image.open(path) as image:
        assert isinstance(turn_of(image), Image.Transpose | None)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_photos_are_turned_as_viewers_show_them_where_the_config_says_so(orientation, ending, tmp_path):
    """The corner that is bright in each of the eight ways in which a camera stores one scene."""
    scene = np.zeros((24, 24, 3), np.uint8)
    scene[:12, :12, 0], scene[:12, 12:, 1] = 250, 250  # red in the upper left corner, green in the upper right one
    stored = {1: scene, 2: scene[:, ::-1], 3: scene[::-1, ::-1], 4: scene[::-1], 5: scene.transpose(1, 0, 2),
              6: np.rot90(scene), 7: scene[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(scene, 3)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / split / name).mkdir(parents=True)
        path = tmp_path / split / name / f"x.{ending}"
        Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)
    cfg = tiny_cfg(
        "DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path), "DATASET.UPRIGHT", "True", "DATASET.SIZE", "24",
        "DATASET.CROP_SCALE", "1.0", "SOLVER.BATCH_SIZE", "2", "DATASET.MEAN", "[0.0, 0.0, 0.0]", "DATASET.STD",
        "[1.0, 1.0, 1.0]", "DATASET.CLASSES", "2",
    )  # fmt: skip
    data = build_data(cfg, torch.device("cpu"))
    batch = next(data.test.epoch())
    record = data.test.preprocessing()
    assert record == Preprocessing.from_json(record.as_json())
    for image in (batch.image[0], record(read_image(str(path)))):
        assert image[:2, 4, 4].round().tolist() == [1, 0]
        assert image[:2, 4, 19].round().tolist() == [0, 1]
        assert image[:2, 19].max() < 0.2
    assert next(data.train.epoch()).image[0, :2, 19].max() < 0.2  # mirrored at random, and never upside down


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(
    ("stored", "turned"),
    [([[0, 1, 2], [3, 4, 5]], [[3, 0], [4, 1], [5, 2]]), ([[2, 4, 6], [1, 3, 5]], [[1, 2], [3, 4], [5, 6]])],
)  # fmt: skip
def test_photos_of_16_bits_are_turned_too(stored, turned, ending, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its top at the right
    path = tmp_path / f"x.{ending}"
    Image.fromarray(np.array(stored, np.uint16) << 8).save(path, exif=exif)
    assert np.array(upright(read_image(str(path))))[..., 0].tolist() == turned


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tabs", "without endings", "jsonl", "txt", "meta"])
def test_tables_as_kaggle_hugging_face_caffe_and_openmmlab_lay_them_out(kind, tmp_path):
    """The images of both splits have the same names, in folders of their own."""
    for number, split in enumerate(("train", "val")):
        for i in range(2):
            image(tmp_path / split / f"a b{i}.png", 2 * number + i)
        names = [f"a b{i}" + ".png" * (kind != "without endings") for i in range(2)]
        separator = {"semicolons": ";", "tabs": "\t", "txt": " ", "meta": " "}.get(kind, ",")
        rows = "".join(f"{name}{separator}{'yx'[i]}\n" for i, name in enumerate(names))
        if kind == "jsonl":
            rows = "".join(f'{{"file_name": "{name}", "label": "{"yx"[i]}"}}\n' for i, name in enumerate(names))
        table = {"jsonl": f"{split}/metadata.jsonl", "txt": f"{split}.txt", "meta": f"meta/{split}.txt"}.get(kind)
        (tmp_path / (table or f"{split}.csv")).parent.mkdir(exist_ok=True)
        (tmp_path / (table or f"{split}.csv")).write_text(rows)
    found = source(tmp_path)
    assert found.train.classes == ("x", "y")
    for part, split in ((found.train, "train"), (found.test, "val")):
        assert part.paths == [str(tmp_path / split / f"a b{i}.png") for i in range(2)]
        assert part.labels.tolist() == [1, 0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_table_of_another_name_is_told_how_it_is_to_be_named(share, tmp_path):
    for i in range(4):
        image(tmp_path / "train" / f"{i}.png", i)
    (tmp_path / "labels.csv").write_text("image,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    with pytest.raises(DataError, match=r"train: contains no class folders; .* or rename it to train.csv and set"):
        source(tmp_path, "folder", "DATASET.TEST.SHARE", str(share))
    (tmp_path / "labels.csv").rename(tmp_path / "train.csv")
    assert len(source(tmp_path, "folder", "DATASET.TEST.SHARE", "0.5").test.paths) == 2


def test_a_test_set_drawn_from_the_training_images_is_in_their_folder(tmp_path):
    for i in range(4):
        image(tmp_path / "train_images" / f"{i}.png", i)
    (tmp_path / "train.csv").write_text("image_id,label\n0.png,0\n1.png,1\n")
    with pytest.raises(DataError, match=r"train.csv: there is no such table of test images beside it, .*val.csv"):
        source(tmp_path)
    (tmp_path / "val.csv").write_text("image_id,label\n2.png,0\n3.png,1\n")
    assert source(tmp_path).test.paths == [str(tmp_path / "train_images" / f"{i}.png") for i in (2, 3)]
    image(tmp_path / "val/0.png")  # of a test set with images of its own, none is a training image
    with pytest.raises(DataError, match=r"val.csv:2: no such file"):
        source(tmp_path)


def test_a_list_beside_class_folders_is_not_read(tmp_path):
    (base(tmp_path) / "train.txt").write_text("a/x\n")
    assert source(tmp_path).train.labels.tolist() == [0, 1]


def test_an_object_without_path_or_label_is_named(tmp_path):
    base(tmp_path)
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "a/x.png", "text": "a cat"}\n')
    with pytest.raises(DataError, match=r"metadata.jsonl:1: is .*a cat.*; expected an object with file_name and label"):
        source(tmp_path)


def test_a_class_whose_number_is_written_in_two_ways_is_named(tmp_path):
    base(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(f"path,label\n{split}/a/x.png,1\n{split}/b/x.png,01\n")
    with pytest.raises(DataError, match="has the labels 01 and 1, which are one number: write it one way"):
        source(tmp_path)


@pytest.mark.parametrize(("files", "said"), [
    (["data/train-00000-of-00001.parquet"], r"it contains data/: its .parquet files have images as bytes: write the"),
    (["pathmnist.npz"], "its .npz files have images as arrays"),
    (["cifar-10-batches-py/data_batch_1"], "CIFAR-10 has images as arrays"),
    (["data/train/a/x.png"], r"perhaps DATASET.ROOT is '.*/data'"),
    (["train/1.jpg", "labels.csv"], "if labels.csv has the labels, divide its rows into train.csv and val"),
    (["train/a/x.png", "val/images/x.png", "val/val_annotations.txt"], "Tiny ImageNet, use DATASET.TYPE tiny_imagenet"),
    (["images.txt", "train_test_split.txt"], "CUB-200-2011, use DATASET.TYPE cub200"),
    (["Train/a/x.png", "Val/a/x.png"], "it contains Train/, Val/"),
    (["val/a/x.png"], r"val alone does to test a trained student: `.* eval RUN_OR_FILE --images .*/val`"),
    (["test/a/x.png"], r"test alone does to test a trained student: `.* eval RUN_OR_FILE --images .*/test`"),
    ([], "it is empty"),
])  # fmt: skip
def test_what_is_there_instead_of_a_dataset_is_said(files, said, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        source(tmp_path)


@pytest.mark.parametrize(("kind", "name"), [("tiny_imagenet", "tiny-imagenet-200"), ("imagenet", "imagenet")])
def test_the_folder_of_a_published_dataset_itself_is_a_root(kind, name, tmp_path):
    base(tmp_path / name)
    assert source(tmp_path / name, kind).test.paths == source(tmp_path, kind).test.paths


def unreadable(folder, monkeypatch):
    """From now on this folder may not be looked into."""
    plain = os.scandir

    def scandir(path):
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("name", ["train", "train/a", "train/a/more"])
@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_a_folder_of_images_that_may_not_be_looked_into_is_named_and_not_left_out(kind, name, tmp_path, monkeypatch):
    root = base(tmp_path / "imagenet")
    image(root / "train/a/more/y.png")
    unreadable(root / name, monkeypatch)
    with pytest.raises(DataError, match=re.escape(f"{root / name}: cannot be read (Permission denied)")):
        source(root, kind)


def test_images_to_predict_below_a_folder_that_may_not_be_looked_into_are_not_left_out(tmp_path, monkeypatch):
    image(base(tmp_path) / "train/a/more/y.png")
    assert len(images_of([str(tmp_path)])) == 5
    unreadable(tmp_path / "train/a/more", monkeypatch)
    with pytest.raises(DataError, match=r"a/more: cannot be read \(Permission denied\)"):
        images_of([str(tmp_path)])


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_a_link_to_nothing_among_the_classes_is_named_as_it_would_shift_the_labels(kind, tmp_path):
    root = base(tmp_path / "imagenet")
    (root / "train/a0").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DataError, match=r"train/a0: is a link to .*unmounted, where nothing is: bring back"):
        source(root, kind)


def test_check_data_says_that_a_single_class_leaves_nothing_to_tell_apart(tmp_path, capsys):
    for part in ("train", "val"):
        image(tmp_path / part / "cat/x.png", len(part))
    assert check_data.main(["DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path)]) == 0
    said = "folder: 1 training images, 1 test images, a single class, cat: there is nothing to tell apart\n"
    assert said in capsys.readouterr().out
