"""init photos: what is found in a folder, the yaml files that it writes, and what it refuses."""

import re
import shlex

import pytest
import yaml
from PIL import Image

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.commands import init
from mdistiller_dfpt.data import DATASETS
from mdistiller_dfpt.data.survey import Survey
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.launch.own_photos import plan_for

from ..data.test_own_photos import photos


def lines_of(capsys):
    said = capsys.readouterr()
    return said.out.splitlines(), said.err.splitlines()


def test_a_folder_without_a_test_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "pets", {"cat": 60, "dog": 12})
    (tmp_path / "pets" / "cat" / "broken.jpg").write_bytes(b"no image")
    Image.new("L", (40, 50)).save(tmp_path / "pets" / "dog" / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 70), (9, 99, 200)).save(tmp_path / "pets" / "dog" / "turned.jpg", exif=exif)
    (tmp_path / "pets" / "dog" / "z.png").write_bytes((tmp_path / "pets" / "cat" / "00.png").read_bytes())
    (tmp_path / "configs_here").mkdir()
    assert init.main(["photos", "pets", "-o", "configs_here/pets.yaml"]) == 0
    out, _ = lines_of(capsys)
    assert out[0].startswith("pets: 75 images of 2 classes, 15 to 60 of each; a test set is held out, ")
    notes = "\n".join(line for line in out if line.startswith("note: "))
    for part in ("broken.jpg: cannot be read as an image", "class cat; .*z.png: class dog: the same image",
                 "1 of the 75 images are copies", "1 of the 75 images are turned by their EXIF",
                 "74 of the 75 images have a side below 64",
                 "only 15 images are for testing: each is 6.7 points of the accuracy"):  # fmt: skip
        assert re.search(part, notes), part
    assert out[-1].endswith("train --cfg configs_here/pets.yaml")
    cfg, teacher = (load_cfg(tmp_path / "configs_here" / f"{name}.yaml") for name in ("pets", "pets-teacher"))
    assert cfg.DATASET == teacher.DATASET
    assert cfg.DATASET.ROOT == "pets"
    assert cfg.DATASET.UPRIGHT
    assert (cfg.DATASET.TEST.SHARE, cfg.DATASET.VALIDATION, cfg.DATASET.ON_ERROR) == (0.2, 0.15, "skip")
    assert cfg.DISTILLER.TEACHER == teacher.DISTILLER.STUDENT
    assert cfg.DISTILLER.TEACHER_AUTO_TRAIN
    assert teacher.DISTILLER.STUDENT_CKPT == "pretrained"
    assert cfg.LOG.PREFIX == "configs_here/output"
    values = yaml.safe_load((tmp_path / "configs_here" / "pets-teacher.yaml").read_text())
    assert values["DATASET"]["ROOT"] == "../pets"
    # Nothing is overwritten
    assert init.main(["photos", "pets", "-o", "configs_here/pets.yaml"]) == 2
    assert lines_of(capsys)[1] == [
        "error: configs_here/pets.yaml and configs_here/pets-teacher.yaml: exist; delete them,"
        " or give another name with -o"
    ]


def test_a_folder_with_a_test_set_and_folders_that_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        photos(tmp_path / "pets", {"cat": 4, "dog": 4}, part)
    assert init.main(["photos", "pets", "--for", "server"]) == 0
    out, _ = lines_of(capsys)
    assert out[0] == "pets: 16 images of 2 classes, 8 of each; the test set is test/"
    assert "note: " + str(next((tmp_path / "pets/test/cat").iterdir()).relative_to(tmp_path)) in "\n".join(out)
    cfg = load_cfg("photos.yaml")
    assert cfg.DATASET.TEST.SHARE == 0
    assert cfg.DISTILLER.STUDENT == "torchvision/resnet50"
    photos(tmp_path / "one", {"cat": 4})
    photos(tmp_path / "unpacked/birds-2/images", {"a": 2, "b": 2})
    for folder, message in (
        ("one", "has one class, cat; there is nothing to tell apart"), ("none", "no such folder"),
        ("unpacked", "nothing to tell apart: the folders in unpacked/birds-2/images may be the classes; give that one"),
    ):  # fmt: skip
        assert init.main(["photos", folder, "-o", "x.yaml"]) == 3
        assert message in lines_of(capsys)[1][0]
    assert not (tmp_path / "x.yaml").exists()


@pytest.mark.parametrize(
    ("gpu", "side", "sizes", "amp"),
    [(None, 500, (160, 128), "fastest"), (True, 500, (260, 224), "bf16"), (False, 100, (96, 96), "none")],
)
def test_the_plan_follows_the_machine_and_the_images(gpu, side, sizes, amp):
    found = Survey(("a", "b"), (300, 300), (75, 75), [], [], side, 0, 0, 0, 0)
    plan = plan_for(found, "phone", False, 16, gpu)
    assert (plan.sizes, plan.amp, plan.workers, plan.batch, plan.epochs) == (sizes, amp, 8, 16, (10, 12))


@pytest.mark.parametrize(
    ("purpose", "gpu", "why"),
    [
        ("phone", None, "small, since there is no GPU here: 224 and more are several times slower, and more accurate"),
        ("phone", True, "the published sizes"),
        ("server", None, "the published size; without a GPU, this takes about ten times as long as --for phone"),
        ("server", False, "the published size"),
    ],
)
def test_the_reason_of_a_size_is_that_of_the_pair_and_the_machine(purpose, gpu, why):
    found = Survey(("a", "b"), (300, 300), (75, 75), [], [], 500, 0, 0, 0, 0)
    assert plan_for(found, purpose, False, 2, gpu).why_size == why


def test_a_name_with_a_space_is_quoted_in_the_printed_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "Vögel im Garten", {"Amsel": 12, "Meise": 12})
    assert init.main(["photos", "Vögel im Garten", "-o", "Vögel im Garten.yaml"]) == 0
    out, _ = lines_of(capsys)
    assert shlex.split(out[-1])[-3:] == ["train", "--cfg", "Vögel im Garten.yaml"]
    # The same for what other messages tell to type
    cfg = load_cfg(None, {"DATASET.TYPE": "folder", "DATASET.ROOT": "Vögel im Garten"})
    (tmp_path / "Vögel im Garten").rename(tmp_path / "test")
    (tmp_path / "Vögel im Garten").mkdir()
    (tmp_path / "test").rename(tmp_path / "Vögel im Garten" / "test")
    with pytest.raises(DataError, match=r"--images '\S*Vögel im Garten/test'`"):
        DATASETS["folder"](cfg)


def test_images_of_other_formats_are_said_with_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "pets", {"cat": 12, "dog": 12})
    for name in ("a.HEIC", "b.heic", "c.gif", "d.jfif", ".DS_Store"):
        (tmp_path / "pets" / "cat" / name).write_bytes(b"")
    assert init.main(["photos", "pets"]) == 0
    assert lines_of(capsys)[0][0] == (
        "note: pets: 5 files are not read as images (2 .heic, 1 .gif, 1 .jfif, 1 hidden);"
        " read: .jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp;"
        " to use them, rename .jfif to .jpg and convert .heic .gif to .jpg"
    )
    # A class of such files alone, and one without files
    photos(tmp_path / "phone", {"cat": 12, "dog": 1, "cow": 1})
    (tmp_path / "phone" / "dog" / "00.png").rename(tmp_path / "phone" / "dog" / "00.HEIC")
    (tmp_path / "phone" / "cow" / "00.png").unlink()
    assert init.main(["photos", "phone", "-o", "phone.yaml"]) == 3
    err = lines_of(capsys)[1]
    assert err[0].startswith("error: phone/cow: contains no images (files that end in .jpg")
    assert err[0].endswith("): add some, or remove the folder")
    assert err[1].startswith("error: phone/dog: contains no images, but 1 file that is not read (1 .heic); read: .jpg")
    assert err[1].endswith("; to use them, convert .heic to .jpg")
