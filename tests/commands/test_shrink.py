"""`shrink`: a smaller copy of a folder of images, complete or to be continued, and never in the place of another."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from mdistiller_dfpt.commands import shrink as command
from mdistiller_dfpt.commands.main import main
from mdistiller_dfpt.data import pool, smaller_copy
from mdistiller_dfpt.data.preprocessing import upright
from mdistiller_dfpt.data.samples import read_image
from mdistiller_dfpt.runs.locks import RunLock

from ..waits import wait_until

SIDE = 48


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path):
    """Splits, class folders, a folder in one, several formats, tables, hidden files."""
    root = tmp_path / "photos"
    large, small = Image.fromarray(noise(90, 121)), Image.fromarray(noise(40, 60))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Model] = 6, "camera" * 500
    for split in ("train", "val"):
        for name in ("a", "b/inside"):
            (root / split / name).mkdir(parents=True)
        large.save(root / split / "a" / "large.JPG", quality=95, exif=exif.tobytes())
        small.save(root / split / "a" / "small.jpg", quality=95)
        large.save(root / split / "b" / "inside" / "large.png")
        large.convert("L").save(root / split / "b" / "grey.jpeg", quality=95)
        large.convert("CMYK").save(root / split / "b" / "print.jpg", quality=95)
        large.save(root / split / "b" / "photo.webp")
    (root / "train.csv").write_text("path,label\n")
    (root / "train" / "a" / ".hidden.jpg").write_bytes(b"x")
    return root


def run(*words):
    return main(["shrink", *map(str, words)])


def contents(root):
    """Every file but hidden ones, with its bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*"))
            if p.is_file() and not p.name.startswith(".")}  # fmt: skip


def test_large_images_become_smaller_and_the_rest_stays(source, tmp_path, capsys):
    before, target = contents(source), tmp_path / "small"
    assert run(source, target, "--size", SIDE, "--quality", "80") == 0
    after = contents(target)
    assert contents(source) == before
    assert list(after) == list(before)
    same = {name for name in after if after[name] == before[name]}
    assert same == {"train.csv", "train/a/small.jpg", "val/a/small.jpg"}
    for name in set(after) - same:
        with Image.open(source / name) as large, Image.open(target / name) as small:
            assert small.size == (round(121 * SIDE / 90), SIDE)
            assert small.format == large.format
            assert small.mode == ("RGB" if large.mode == "CMYK" else large.mode)
            assert small.getexif().get(ExifTags.Base.Orientation, 1) == (6 if name.endswith("JPG") else 1)
        assert len(after[name]) < len(before[name])
        assert upright(read_image(str(target / name))).height == (65 if name.endswith("JPG") else SIDE)
    said = capsys.readouterr().out
    assert f"10 images shrunk to a shorter side of {SIDE}, 2 images copied, 1 other files copied; " in said
    record = json.loads((target / command.RECORD).read_text())
    assert record["bytes_before"] == sum(map(len, before.values()))
    assert record["bytes_after"] == sum(map(len, after.values()))
    assert sorted(p.name for p in target.rglob(".*")) == [command.RECORD, command.LOCK]


def test_pixels_are_those_of_a_resize_with_antialiasing(source, tmp_path):
    assert run(source, tmp_path / "small", "--size", SIDE) == 0
    with Image.open(source / "train/b/inside/large.png") as large:
        expected = large.resize((round(121 * SIDE / 90), SIDE), Image.Resampling.BICUBIC)
    with Image.open(tmp_path / "small/train/b/inside/large.png") as found:
        assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_tiff_file_which_pillow_turns_itself_is_not_turned_twice(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise(90, 121)).save(tmp_path / "photos" / "a.tif", exif=exif)
    assert run(tmp_path / "photos", tmp_path / "small", "--size", SIDE) == 0
    before, after = (upright(Image.open(tmp_path / place / "a.tif")) for place in ("photos", "small"))
    assert (before.size, after.size) == ((90, 121), (SIDE, 65))
    assert np.abs(np.asarray(before.resize(after.size, Image.Resampling.BICUBIC)).astype(int) - after).mean() < 1


def test_links_to_class_folders_are_classes_and_one_to_a_folder_around_it_is_left_out(tmp_path):
    (tmp_path / "photos/train/cat").mkdir(parents=True)
    Image.fromarray(noise(90, 121)).save(tmp_path / "photos/train/cat/a.png")
    (tmp_path / "photos/val").mkdir()
    (tmp_path / "photos/val/cat").symlink_to("../train/cat")
    (tmp_path / "photos/train/cat/back").symlink_to("../..")
    assert run(tmp_path / "photos", tmp_path / "small", "--size", SIDE) == 0
    assert sorted(str(p.relative_to(tmp_path / "small")) for p in (tmp_path / "small").rglob("*.png")) == [
        "train/cat/a.png", "val/cat/a.png",
    ]  # fmt: skip


def test_what_was_written_is_kept_and_what_changed_is_written_anew(source, tmp_path, capsys):
    target = tmp_path / "small"
    assert run(source, target, "--size", SIDE) == 0
    whole, numbers = contents(target), {p: p.stat().st_ino for p in target.rglob("*.*") if p.is_file()}
    (target / "train/a/large.JPG").unlink()
    os.utime(source / "val/a/large.JPG", ns=(1, 1))
    left = target / "train" / "a" / ".large.JPG.0123.part"
    left.write_bytes(b"half")  # of a process that was killed
    assert run(source, target, "--size", SIDE) == 0
    assert contents(target) == whole
    assert not left.exists()
    new = {p.relative_to(target).as_posix() for p, number in numbers.items() if p.stat().st_ino != number}
    assert new - {command.RECORD} <= {"train/a/large.JPG", "val/a/large.JPG"}
    assert "val/a/large.JPG" in new
    assert "2 images shrunk" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code", "said"), [
    (("{0}", "{0}", "--size", "9"), 2, "DST {0}: lies in SRC {0}, or around it"),
    (("{0}", "{0}/train/new", "--size", "9"), 2, "lies in SRC"),
    (("{0}/train", "{0}", "--size", "9"), 2, "lies in SRC"),
    (("{0}", "{1}/link/new", "--size", "9"), 2, "lies in SRC"),
    (("{0}", "{1}/other", "--size", "9"), 2, "DST {1}/other: holds what this command did not write"),
    (("{0}", "{1}/begun", "--size", "9"), 2, "{1}/begun: was begun with size 48, now 9; give a new folder"),
    (("{0}", "{1}/begun", "--size", "48", "--quality", "5"), 2, "was begun with quality 90, now 5"),
    (("{0}/none", "{1}/new", "--size", "9"), 3, "SRC {0}/none: no such folder"),
    (("{1}/empty", "{1}/new", "--size", "9"), 3, "SRC {1}/empty: contains no images"),
    (("{0}", "{1}/new", "--size", "0"), 2, "--size is 0; it must be >= 1"),
    (("{0}", "{1}/new", "--size", "9", "--quality", "101"), 2, "--quality is 101; it must be 1 to 100"),
    (("{0}", "{1}/new", "--size", "9", "--workers", "0"), 2, "--workers is 0; it must be >= 1"),
    (("{0}", "{1}/new"), 2, "--size"),
    (("{0}", "{1}/file/new", "--size", "9"), 2, "cannot be created"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_and_nothing_is_written(words, code, said, source, tmp_path, capsys):
    for name in ("other", "empty", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    settings = {"source": os.path.realpath(source), "size": 48, "quality": 90}
    (tmp_path / "begun" / command.RECORD).write_text(json.dumps(settings))
    (tmp_path / "link").symlink_to(source)
    before = contents(tmp_path)
    assert run(*(word.format(source, tmp_path) for word in words)) == code
    error = capsys.readouterr().err
    assert said.format(source, tmp_path) in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


def test_damaged_files_are_named_and_the_rest_is_written(source, tmp_path, capsys):
    bad = source / "train" / "b" / "print.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    os.mkfifo(source / "val" / "list.txt")
    assert run(source, tmp_path / "small", "--size", SIDE) == 3
    error = capsys.readouterr().err
    assert f"error: {source}/train/b/print.jpg: cannot be read as an image (" in error
    assert f"error: {source}/val/list.txt: is a FIFO, not a file\n" in error
    assert "2 files are not in" in error
    assert len(contents(tmp_path / "small")) == 12
    bad.write_bytes(content)
    (source / "val" / "list.txt").unlink()
    assert run(source, tmp_path / "small", "--size", SIDE) == 0
    assert len(contents(tmp_path / "small")) == 13


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(source, tmp_path, capsys, monkeypatch):
    plain, target = smaller_copy.write_file, tmp_path / "small"

    def full(path, fill):
        def fills(part):
            fill(part)
            if path.name == "print.jpg":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        plain(path, fills)

    with monkeypatch.context() as patch:
        patch.setattr(smaller_copy, "write_file", full)
        assert run(source, target, "--size", SIDE, "--workers", "1") == 3
    error = capsys.readouterr().err
    assert error.startswith(f"error: {target}/train/b/print.jpg: cannot be written (No space left on device")
    assert error.count("\n") == 1
    assert not list(target.rglob("*.part"))
    assert not list(target.rglob("print.jpg"))
    assert run(source, target, "--size", SIDE) == 0
    assert len(contents(target)) == 13


def test_a_process_that_dies_is_named_by_its_images(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(smaller_copy, "read_by", lambda *words: os.kill(os.getpid(), signal.SIGKILL))
    assert run(source, tmp_path / "small", "--size", SIDE, "--workers", "1") == 3
    error = capsys.readouterr().err
    assert f"died, as when memory runs out, at {pool.CHUNK} images from {source}/train.csv on; lower --workers" in error


def test_a_folder_has_one_command_at_a_time(source, tmp_path, capsys):
    assert run(source, tmp_path / "small", "--size", SIDE) == 0
    other = RunLock(tmp_path / "small", command.LOCK)
    assert run(source, tmp_path / "small", "--size", SIDE) == 2
    said = f"error: {tmp_path}/small: another process writes here (pid {os.getpid()})\n"
    assert capsys.readouterr().err == said
    other.release()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_copy_goes_on(number, tmp_path):
    source, target, count = tmp_path / "photos", tmp_path / "small", 150
    (source / "a").mkdir(parents=True)
    Image.fromarray(noise(700, 900)).save(source / "a" / "0.png")
    for i in range(1, count):
        os.link(source / "a" / "0.png", source / "a" / f"{i}.png")
    words = [sys.executable, "-m", "mdistiller_dfpt", "shrink", str(source), str(target), "--size", "300"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(target.glob("a/*.png"))) > 4)
    running.send_signal(number)
    error = running.communicate()[1]
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 128 + number
        assert error.splitlines()[-1] == "interrupted; repeat the same command to go on"
        assert not list(target.rglob("*.part"))
    written = {path.name: path.stat().st_ino for path in target.glob("a/*.png")}
    assert len(written) < count, "it ended before"
    for name in written:
        with Image.open(target / "a" / name) as image:
            image.load()
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert len(list(target.glob("a/*.png"))) == count
    assert all((target / "a" / name).stat().st_ino == inode for name, inode in written.items())
    assert not list(target.rglob("*.part"))
