"""CIFAR-100 in all its layouts, on tiny stand-ins: valid, damaged and malicious files and archives."""

import contextlib
import hashlib
import http.server
import io
import os
import pickle
import signal
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt.data import DATASETS
from mdistiller_dfpt.data.cache import _layout
from mdistiller_dfpt.data.download import download
from mdistiller_dfpt.data.safe_pickle import load_arrays
from mdistiller_dfpt.data.sets import cifar100
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.testing import tiny_cfg

from ..forks import forked

CLASSES = ("apple", "bear", "cup")


def load(root, *overrides):
    return DATASETS["cifar100"](tiny_cfg("DATASET.ROOT", str(root), *overrides))


def pixels(split: str, label: int, number: int) -> np.ndarray:
    seed = [ord(split[1]), label, number]
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "cifar100" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels(split, label, number)).save(folder / f"{number:05d}.png")
    return tmp_path


def pickles() -> dict[str, bytes]:
    """The three members of the official archive, for three classes, as Python 2 wrote them."""
    members = {"meta": {"fine_label_names": list(CLASSES), "coarse_label_names": ["a"]}}
    for split, count in (("train", 4), ("test", 2)):
        images = [pixels(split, label, n).transpose(2, 0, 1).ravel() for label in range(3) for n in range(count)]
        members[split] = {"data": np.stack(images), "fine_labels": [label for label in range(3) for _ in range(count)]}
    return {name: pickle.dumps(data, protocol=2) for name, data in members.items()}


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


@pytest.fixture
def official(monkeypatch):
    """Members and archive that are accepted as the official ones."""
    members = pickles()
    raw = archive_of(members)
    monkeypatch.setattr(cifar100, "MEMBER_MD5", {name: md5(m) for name, m in members.items()})
    monkeypatch.setattr(cifar100, "ARCHIVE_MD5", md5(raw))
    return members, raw


def check(source) -> None:
    assert source.train.classes == CLASSES
    assert source.train.images.shape == (12, 32, 32, 3)
    assert source.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(source.train.images[9].numpy(), pixels("train", 2, 1))
    assert np.array_equal(source.test.images[1].numpy(), pixels("test", 0, 1))


def test_class_folders(folders):
    check(load(folders))


def test_unpacked_archive(tmp_path, official):
    (tmp_path / "cifar-100-python").mkdir()
    for name, raw in official[0].items():
        (tmp_path / "cifar-100-python" / name).write_bytes(raw)
    check(load(tmp_path))


def test_archive_is_read_without_unpacking(tmp_path, official):
    (tmp_path / cifar100.ARCHIVE).write_bytes(official[1])
    check(load(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {cifar100.ARCHIVE, f".{cifar100.ARCHIVE}.decoded.npz"}


@pytest.mark.parametrize("unpacked", [True, False])
def test_the_archive_is_decoded_once_and_again_when_it_changes(tmp_path, official, monkeypatch, unpacked):
    calls = []
    real = cifar100._from_pickles
    monkeypatch.setattr(cifar100, "_from_pickles", lambda *a: calls.append(a) or real(*a))
    changed = tmp_path / "cifar-100-python" / "train" if unpacked else tmp_path / cifar100.ARCHIVE
    if unpacked:
        changed.parent.mkdir()
        for name, raw in official[0].items():
            (changed.parent / name).write_bytes(raw)
    else:
        changed.write_bytes(official[1])
    check(load(tmp_path))
    check(load(tmp_path))
    assert len(calls) == 1
    os.utime(changed, ns=(1, 1))
    check(load(tmp_path))
    assert len(calls) == 2
    changed.write_bytes(b"changed after it was cached")
    with pytest.raises(DataError, match="not the official"):
        load(tmp_path)


def test_folders_are_decoded_once_and_again_when_they_change(folders, monkeypatch):
    calls = []
    real = cifar100.read_folders
    monkeypatch.setattr(cifar100, "read_folders", lambda *a: calls.append(a) or real(*a))
    check(load(folders))
    check(load(folders))
    assert len(calls) == 2, "train and test, once each"
    changed = folders / "cifar100/train/bear/00000.png"
    Image.fromarray(255 - pixels("train", 1, 0)).save(changed)
    os.utime(changed, ns=(1, 1))
    source = load(folders)
    assert len(calls) == 4
    assert np.array_equal(source.train.images[4].numpy(), 255 - pixels("train", 1, 0))


def test_a_damaged_cache_is_rebuilt(folders):
    load(folders)
    cache = folders / "cifar100/.decoded.npz"
    cache.write_bytes(cache.read_bytes()[:500])
    check(load(folders))


def test_what_a_killed_write_of_the_cache_left_is_deleted_though_nothing_is_written_again(folders):
    def killed():
        os.replace = lambda part, path: os.kill(os.getpid(), signal.SIGKILL)
        load(folders)

    for _ in range(3):
        assert forked(killed)[0] == signal.SIGKILL
    old, future, new = (folders / "cifar100").glob("..decoded.npz.*.part")
    load(folders)
    os.utime(old, (0, 0))
    os.utime(future, (2**32, 2**32))
    check(load(folders))
    assert [part.exists() for part in (old, future, new)] == [False, False, True], "the new one may be being written"
    new.unlink()


def test_a_read_only_folder_is_cached_at_home(folders, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    # Root may write anywhere, so the failure is simulated where the cache creates a file
    import mdistiller_dfpt.data.cache as cache

    def refuse(path, mode):
        if str(path).startswith(str(folders)):
            raise PermissionError(13, "read-only")
        return open(path, mode)

    monkeypatch.setattr(cache, "open", refuse, raising=False)
    check(load(folders))
    assert list((home / "mdistiller_dfpt").glob("*.npz"))
    check(load(folders))


def test_missing_data_names_the_command_and_the_layout(tmp_path):
    with pytest.raises(DataError, match=r"DATASET.DOWNLOAD True.*train/<class>/\*.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "train/bear/00001.png").write_bytes(b"garbage"), "train/bear/00001.png: cannot be read"),
        (lambda r: Image.new("RGB", (8, 9)).save(r / "test/cup/00000.png"), r"cup/00000.png: is 8x9; expected 32x32"),
        (lambda r: (r / "test/zebra").mkdir(), "the class zebra is only in the test set"),
        (lambda r: [p.unlink() for p in (r / "train/cup").iterdir()], "train/cup: contains no images"),
    ],
)
def test_damaged_folders_are_refused_by_path(folders, damage, message):
    damage(folders / "cifar100")
    with pytest.raises(DataError, match=message):
        load(folders)


def test_a_tampered_file_is_refused_before_it_is_opened(tmp_path, official):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "MARK"),)

    (tmp_path / "cifar-100-python").mkdir()
    for name in official[0]:
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="not the official file"):
        load(tmp_path)
    (tmp_path / "cifar-100-python" / "train").unlink()
    with pytest.raises(DataError, match="train: No such file"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"it names (posix|nt)\.mkdir.*nothing was executed"):
        load_arrays(pickle.dumps(Evil()), "x")
    assert not (tmp_path / "MARK").exists()


def test_a_tampered_archive_is_refused(tmp_path, official):
    (tmp_path / cifar100.ARCHIVE).write_bytes(official[1] + b"x")
    with pytest.raises(DataError, match="not the official archive"):
        load(tmp_path)


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_pass_the_restricted_unpickler(protocol):
    data = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": [1, "x", b"y"]}
    loaded = load_arrays(pickle.dumps(data, protocol=protocol), "x")
    assert np.array_equal(loaded["a"], data["a"])
    assert loaded["b"][0] == 1


def test_download_happens_only_on_request_and_is_verified(tmp_path, official, server, monkeypatch):
    folder, url = server
    (folder / cifar100.ARCHIVE).write_bytes(official[1])
    monkeypatch.setattr(cifar100, "URL", f"{url}/{cifar100.ARCHIVE}")
    root = tmp_path / "data"
    with pytest.raises(DataError, match="DATASET.DOWNLOAD True"):
        load(root)
    assert not root.exists()
    check(load(root, "DATASET.DOWNLOAD", "True"))
    assert {p.name for p in root.iterdir()} == {cifar100.ARCHIVE, f".{cifar100.ARCHIVE}.decoded.npz"}


@pytest.mark.parametrize("fault", ["missing", "wrong hash", "refused", "http"])
def test_a_failed_download_leaves_nothing(tmp_path, server, fault):
    folder, url = server
    (folder / "f").write_bytes(b"an error page")
    address = {
        "missing": f"{url}/gone", "wrong hash": f"{url}/f", "refused": "http://127.0.0.1:9/f", "http": "http://host/f",
    }[fault]  # fmt: skip
    with pytest.raises(DataError):
        download(address, tmp_path / "sub" / "f", md5="0" * 32, most=1000)
    assert not (tmp_path / "sub").exists() or list((tmp_path / "sub").iterdir()) == []


def test_a_download_that_is_cut_off_leaves_nothing(tmp_path):
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half of it")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Cut) as host:
        thread = threading.Thread(target=host.handle_request)
        thread.start()
        with pytest.raises(DataError, match=f"127.0.0.1:{host.server_port}/f"):
            download(f"http://127.0.0.1:{host.server_port}/f", tmp_path / "f", md5="0" * 32, most=1000)
        thread.join()
    assert list(tmp_path.iterdir()) == []


def _answers(tmp_path, answer):
    """What happens where a server answers so to a download that is to have 1000 bytes at most."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):  # it is not heard to the end
                answer(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as host:
        host.daemon_threads = True
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with pytest.raises(DataError) as info:
            download(f"http://127.0.0.1:{host.server_port}/f", tmp_path / "f", "0" * 32, 1000, 10, patience=0.3)
        host.shutdown()
        thread.join()
    assert list(tmp_path.iterdir()) == []
    return str(info.value)


def _says(server, **headers):
    server.send_response(302 if "Location" in headers else 200)
    for name, value in headers.items():
        server.send_header(name, value)
    server.end_headers()


def test_a_download_without_end_is_cut_off(tmp_path):
    def answer(server):
        _says(server)
        while True:
            server.wfile.write(bytes(1000))

    assert "more than 1,000 bytes come" in _answers(tmp_path, answer)


def test_a_download_of_a_few_bytes_a_second_is_given_up(tmp_path):
    def answer(server):
        _says(server)
        for _ in range(900):
            server.wfile.write(b"x")
            server.wfile.flush()
            time.sleep(0.02)

    assert "bytes came in" in _answers(tmp_path, answer)


def test_a_download_is_not_redirected_to_a_host_without_https(tmp_path):
    def answer(server):
        port = server.server.server_port
        here = server.headers["Host"].startswith("127")
        _says(server, **({"Location": f"http://localhost:{port}/f"} if here else {}))

    assert "only https downloads are allowed" in _answers(tmp_path, answer)
    with pytest.raises(DataError, match="only https"):
        download("http://127.0.0.1.example.org/f", tmp_path / "f", "0" * 32, 1000)


def test_a_link_where_a_download_is_written_is_not_followed(tmp_path, server):
    folder, url = server
    (folder / "f").write_bytes(b"the data")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "data").mkdir()
    for name in ("f", "f.part", ".f.part"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "mine")
    download(f"{url}/f", tmp_path / "data/f", md5(b"the data"), 1000)
    assert (tmp_path / "data/f").read_bytes() == b"the data"
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_link_to_nothing_among_the_images_is_named(folders):
    (folders / "cifar100/train/bear/x.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"bear/x.png: cannot be read as an image \(No such file"):
        load(folders)


def test_a_cache_that_unpacks_to_more_than_it_has_is_written_anew(folders, monkeypatch):
    check(load(folders))
    cache = folders / "cifar100/.decoded.npz"
    with np.load(cache) as stored:
        arrays = dict(stored)
    np.savez_compressed(cache, **{**arrays, "train_images": np.zeros_like(arrays["train_images"])})
    check(load(folders))


UNSOUND = {
    "without an array": {"test_labels": None},
    "without images": {"train_images": np.zeros((0, 32, 32, 3), np.uint8), "train_labels": np.zeros(0, np.int64)},
    "of another type": {"train_images": np.zeros((12, 32, 32, 3))},
    "of another shape": {"train_images": np.zeros((12, 32, 31, 3), np.uint8)},
    "of single values": {"test_images": np.uint8(0), "test_labels": np.int64(0), "classes": np.str_("apple")},
    "of other labels": {"train_labels": np.full(12, 3)},
    "of labels below zero": {"train_labels": np.full(12, -1)},
    "of labels of another type": {"train_labels": np.zeros(12, np.int32)},
    "of fewer labels": {"train_labels": np.zeros(11, np.int64)},
    "of classes that are numbers": {"classes": np.arange(3)},
    "of classes in rows": {"classes": np.array([CLASSES] * 3)},
}


@pytest.mark.parametrize("how", UNSOUND)
def test_a_cache_whose_arrays_cannot_be_the_images_is_written_anew(how, folders):
    """One that agrees with itself: a cache comes with its folder."""
    check(load(folders))
    cache = folders / "cifar100/.decoded.npz"
    with np.load(cache) as stored:
        arrays = {**stored, **UNSOUND[how]}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    content = {name: array for name, array in arrays.items() if name not in ("fingerprint", "layout")}
    np.savez(cache, **{**arrays, "layout": _layout(content)})
    check(load(folders))
    with np.load(cache) as stored:
        assert [split for split in ("train", "test") if len(stored[f"{split}_labels"])] == ["train", "test"]


def test_the_recipe_is_the_literatures():
    assert cifar100.RECIPE.pad == 4
    assert cifar100.RECIPE.flip
    assert torch.tensor(cifar100.RECIPE.mean).sum() == pytest.approx(0.5071 + 0.4867 + 0.4408)
