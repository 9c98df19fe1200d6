"""Checkpoints of other runs, other versions and unknown origin: rejected in one line, and no code in them is run."""

import errno
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from mdistiller_dfpt.atomic import write_json
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DataError, OutOfMemory, lack_of_memory
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.runs import saving
from mdistiller_dfpt.runs.checkpoint import NewerFormat, checkpoints, load_checkpoint, read_manifest
from mdistiller_dfpt.runs.hashing import file_hash
from mdistiller_dfpt.runs.locks import RunLock
from mdistiller_dfpt.runs.safe_load import load_pickled_tensors
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.testing import TinyNet, make, tiny_data, tiny_distiller

from ..tiny_runs import fit, run_of, stopped_after

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "checkpoint_format_1"
THREE = ("SOLVER.EPOCHS", "3")


def rewrite(folder, change):
    """Change the state of a checkpoint and its manifest, as anyone with write access can."""
    state = torch.load(folder / "state.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "state.pt")
    vouch(folder)


def vouch(folder, **header):
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / "state.pt"
    manifest["files"]["state.pt"] = {"sha256": file_hash(path), "bytes": path.stat().st_size}
    manifest = {key: value for key, value in manifest.items() if key != "sha256"} | header
    digest = sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}))


def resume_refused(folder, match, *words):
    with pytest.raises(CheckpointError, match=match) as info:
        fit(run_of("KD", folder, *THREE, *words), resume=True)
    assert "\n" not in str(info.value)


def stopped_checkpoint(folder):
    return stopped_after(1, "KD", folder).run / "checkpoints" / "epoch-00001"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("SOLVER.LR", "0.5"), "belongs to another run: SOLVER.LR 0.5 now"),
        (("DATASET.TYPE", "digits"), "belongs to another run: DATASET.TYPE digits now, cifar100 then"),
        (("KD.TEMPERATURE", "2"), "belongs to another run: KD.TEMPERATURE 2 now, 4 then"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_its_header(words, match, tmp_path):
    stopped_checkpoint(tmp_path)
    resume_refused(tmp_path, match, *words)


def test_a_dataset_that_changed_is_refused(tmp_path):
    stopped_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="the dataset has 52 train images now, 48 then"):
        fit(run_of("KD", tmp_path, *THREE, make_data=lambda cfg: tiny_data(train=52)), resume=True)


def test_weights_of_another_shape_are_refused_in_one_line(tmp_path):
    folder = stopped_checkpoint(tmp_path)
    rewrite(folder, lambda s: s["distiller"].update({k: v[..., :1] for k, v in s["distiller"].items() if v.dim()}))
    resume_refused(tmp_path, "does not fit this config")


def test_an_optimisers_buffers_of_another_shape_are_refused(tmp_path):
    folder = stopped_checkpoint(tmp_path)

    def turn(state):
        for entry in state["optimizer"]["state"].values():
            entry["momentum_buffer"] = entry["momentum_buffer"].flatten()

    rewrite(folder, turn)
    resume_refused(tmp_path, r"momentum_buffer 0 is \(108,\), its parameter \(4, 3, 3, 3\)")


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path):
    vouch(stopped_checkpoint(tmp_path), format=3)
    resume_refused(tmp_path, r"written by a newer version \(format 3\); update mdistiller_dfpt")


def resumed_after(folder, capsys):
    """What a resumed run says of where it goes on, and its warnings."""
    capsys.readouterr()
    fit(run_of("KD", folder, *THREE), resume=True)
    output = capsys.readouterr()
    return next(line for line in output.out.splitlines() if line.startswith("resuming")), output.err


def test_no_bit_of_a_manifest_can_be_flipped_unnoticed(tmp_path):
    folder = stopped_checkpoint(tmp_path)
    manifest = folder / "manifest.json"
    raw, plain, refused = manifest.read_bytes(), read_manifest(folder), []
    for place in random.Random(1).sample(range(8 * len(raw)), 400):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        manifest.write_bytes(flipped)
        try:
            assert read_manifest(folder) == plain, f"bit {place}"  # as of white space
        except CheckpointError as e:
            refused.append(e)
    assert len(refused) > 200
    assert not any(isinstance(e, NewerFormat) or "\n" in str(e) for e in refused)


@pytest.mark.parametrize("content", ["NaN", "half precision", "no momentum"])
def test_a_state_with_a_right_hash_and_wrong_content_is_not_loaded(content, tmp_path, capsys):
    folder = stopped_after(2, "KD", tmp_path).run / "checkpoints" / "epoch-00002"

    def change(state):
        name = "student.conv1.weight"
        if content == "NaN":
            state["distiller"][name][0] = float("nan")
        elif content == "half precision":
            state["distiller"][name] = state["distiller"][name].half()
        else:
            del state["optimizer"]["state"][0]["momentum_buffer"]

    rewrite(folder, change)
    line, warning = resumed_after(tmp_path, capsys)
    assert line == "resuming after epoch 1"
    assert str(folder) in warning


@pytest.mark.parametrize("where", ["load_checkpoint", "_load_optimizer"])
def test_a_checkpoint_that_finds_no_memory_is_not_set_aside(where, tmp_path, monkeypatch):
    saved = stopped_after(2, "KD", tmp_path).run / "checkpoints"
    before = sorted(path.name for path in saved.iterdir())

    def fails(*arguments):
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")
        except RuntimeError as e:
            if where == "load_checkpoint":
                raise CheckpointError("damaged") from None
            raise e

    monkeypatch.setattr(saving, where, fails)
    with pytest.raises((CheckpointError, RuntimeError, OutOfMemory)) as info:
        fit(run_of("KD", tmp_path), resume=True)
    assert lack_of_memory(info.value) or isinstance(info.value, OutOfMemory)
    assert sorted(path.name for path in saved.iterdir()) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", ["manifest.json", "state.pt"])
def test_a_checkpoint_that_cannot_be_reached_now_is_not_set_aside(name, number, tmp_path, monkeypatch):
    saved = stopped_after(2, "KD", tmp_path).run / "checkpoints"
    before = sorted(path.name for path in saved.iterdir())
    whole = os.open

    def fails(path, *arguments, **keywords):
        if Path(os.fsdecode(path)).name == name and saved in Path(os.fsdecode(path)).parents:
            raise OSError(number, os.strerror(number), str(path))
        return whole(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises((CheckpointError, DataError, OSError), match=os.strerror(number)):
        fit(run_of("KD", tmp_path), resume=True)
    assert sorted(path.name for path in saved.iterdir()) == before
    monkeypatch.undo()
    fit(run_of("KD", tmp_path), resume=True)


def test_damaged_checkpoints_are_set_aside_and_never_crowd_out_good_ones(tmp_path, capsys):
    run = stopped_after(2, "KD", tmp_path).run
    saved = run / "checkpoints"
    for epoch in (3, 4):
        shutil.copytree(saved / "epoch-00002", saved / f"epoch-{epoch:05d}")
        (saved / f"epoch-{epoch:05d}" / "state.pt").write_bytes(b"")
    line, warnings = resumed_after(tmp_path, capsys)
    assert line == "resuming after epoch 2"
    assert warnings.count("kept as damaged-1-epoch-0000") == 2
    left = sorted(path.name for path in saved.iterdir())
    assert left == ["damaged-1-epoch-00003", "damaged-1-epoch-00004", "epoch-00002", "epoch-00003"]


def test_a_renamed_checkpoint_is_not_taken_for_a_later_one(tmp_path, capsys):
    saved = stopped_after(2, "KD", tmp_path).run / "checkpoints"
    for epoch in (8, 9):
        shutil.copytree(saved / "epoch-00001", saved / f"epoch-{epoch:05d}")
    line, warnings = resumed_after(tmp_path, capsys)
    assert line == "resuming after epoch 2"
    assert warnings.count("was renamed: rename it to epoch-00001") == 2
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["damaged-1-epoch-00008", "damaged-1-epoch-00009", "epoch-00002", "epoch-00003"]


def test_the_state_of_another_epoch_is_not_loaded_though_its_hash_is_right(tmp_path, capsys):
    saved = stopped_after(2, "KD", tmp_path).run / "checkpoints"
    shutil.copy(saved / "epoch-00001/state.pt", saved / "epoch-00002/state.pt")
    vouch(saved / "epoch-00002")
    line, warnings = resumed_after(tmp_path, capsys)
    assert line == "resuming after epoch 1"
    assert "epoch-00002/state.pt: is of another checkpoint" in warnings


def test_a_folder_that_may_not_be_looked_into_is_not_taken_for_one_without_checkpoints(tmp_path, monkeypatch, capsys):
    def refuse(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    assert checkpoints(tmp_path / "none") == []
    monkeypatch.setattr(Path, "iterdir", refuse)
    assert guarded(lambda argv: checkpoints(tmp_path), []) == 3
    assert capsys.readouterr().err == f"error: {tmp_path}: Permission denied\n"


def test_checkpoints_are_in_the_order_of_progress(tmp_path):
    names = ["epoch-00000-pass-00002", "epoch-00000-step-0000001", "epoch-00001", "epoch-00001-step-0000010",
             "epoch-99999", "epoch-100000"]  # fmt: skip
    for name in [*names, "epoch-old", "damaged-1-epoch-00007"]:
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == names[::-1]


def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        run = stopped_after(1, "NONE", tmp_path).run
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.parent.name != "events"}
    assert {mode for name, mode in modes.items() if "." in name} == {0o640}
    assert modes["checkpoints"] == modes["epoch-00001"] == 0o750


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    folder, target = tmp_path / "run", tmp_path / "target"
    folder.mkdir()
    target.write_text("precious")
    (folder / "status.json").symlink_to(target)
    write_json(folder / "status.json", {})
    (folder / "run.lock").symlink_to(target)
    with pytest.raises(ConfigError, match="run: cannot write there"):
        RunLock(folder)
    assert target.read_text() == "precious"


class FirstTinyNet(TinyNet):
    """The tiny network when that checkpoint was written: two stages, and four classes."""

    def __init__(self, width):
        with torch.random.fork_rng():
            super().__init__(width, 4)
        self.layer3, self.stage_channels = None, self.stage_channels[:-1]
        for module in (self.conv1, self.bn1, self.layer1, self.layer2, self.fc):
            for part in module.modules():
                if not isinstance(part, nn.Sequential):
                    part.reset_parameters()

    def stages(self):
        return super().stages()[:-1]


def first_tiny_networks(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student, teacher = FirstTinyNet(4), FirstTinyNet(6)
        for _ in range(3):
            teacher(torch.randn(16, 3, 8, 8))
    return student, teacher.eval()


@pytest.fixture
def of_the_first_format(monkeypatch):
    monkeypatch.setattr(make, "tiny_networks", first_tiny_networks)
    monkeypatch.setattr(sys.modules[tiny_data.__module__], "CLASSES", 4)
    # Then, the networks that a program gave were recorded under the names in its config
    monkeypatch.setattr("mdistiller_dfpt.training.own_parts._is_named", lambda *_: True)


@pytest.mark.usefixtures("of_the_first_format")
def test_the_first_format_stays_readable():
    manifest, state = load_checkpoint(FORMAT_1)
    assert (manifest["format"], manifest["epoch"], manifest["step"], manifest["student"]) == (1, 1, 2, "resnet32")
    assert state.keys() == {"distiller", "optimizer", "torch_rng", "sums"}
    assert load_weights(FORMAT_1).keys() == tiny_distiller("KD").student.state_dict().keys()


@pytest.mark.usefixtures("of_the_first_format")
def test_a_run_of_the_first_format_is_continued(tmp_path):
    """A run that was interrupted within its second epoch, written with the first version of the format."""
    run = stopped_checkpoint(tmp_path).parent
    shutil.rmtree(run / "epoch-00001")
    shutil.copytree(FORMAT_1, run / "epoch-00001-step-0000002")
    as_then = ("SOLVER.CHANNELS_LAST", "False")  # the default of that version
    found = fit(run_of("KD", tmp_path, *THREE, *as_then), resume=True)
    whole = fit(run_of("KD", tmp_path / "whole", *THREE, *as_then))
    for a, b in zip(found["epochs"], whole["epochs"], strict=True):
        assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-4), "written by another machine"


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        ({}, ""),
        ({"TEACHER_TABLE": "cache"}, "DISTILLER.LOGITS_CACHE None now, float16 then"),
        ({"TEACHER_AHEAD": 4}, ""),
    ],
)
def test_keys_that_a_run_had_in_an_earlier_version_count_where_they_live_on(then, refused, tmp_path):
    folder = stopped_checkpoint(tmp_path)
    config = yaml.safe_load(json.loads((folder / "manifest.json").read_text())["config"])
    config["DISTILLER"].update({"TEACHER_TABLE": "", "TEACHER_AHEAD": 1, **then})
    for key in ("TEACHER_KIND", "PATHS", "ASSISTANTS", "LOGITS_CACHE"):
        del config["DISTILLER"][key]
    config["TAKD"]["ASSISTANTS"], config["SOLVER"]["CUDA_GRAPH"] = [], False
    teacher = json.loads((folder / "manifest.json").read_text())["identity"]["teachers"][0]
    vouch(folder, identity=None, teacher_sha256=teacher["sha256"], config=yaml.safe_dump(config))
    if refused:
        resume_refused(tmp_path, refused)
    else:
        assert len(fit(run_of("KD", tmp_path, *THREE), resume=True)["epochs"]) == 3


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        ({"teacher_sha256": "0" * 64}, "the teacher has other weights"),
        ({"images": 52}, "the dataset has 48 train images now, 52 then"),
        ({"classes": 3}, "the dataset has 5 classes now, 3 then"),
    ],
)
def test_an_earlier_versions_checkpoint_of_another_teacher_or_dataset_is_refused(then, refused, tmp_path):
    folder = stopped_checkpoint(tmp_path)
    teacher = json.loads((folder / "manifest.json").read_text())["identity"]["teachers"][0]
    vouch(folder, **{"identity": None, "teacher_sha256": teacher["sha256"], "images": 48, "classes": 5, **then})
    resume_refused(tmp_path, refused)


def test_an_earlier_versions_checkpoint_of_a_method_that_has_changed_is_refused(tmp_path, monkeypatch):
    folder = stopped_checkpoint(tmp_path)
    teacher = json.loads((folder / "manifest.json").read_text())["identity"]["teachers"][0]
    vouch(folder, identity=None, teacher_sha256=teacher["sha256"], images=48, classes=5)
    monkeypatch.setattr(DISTILLERS["KD"], "revision", 2)
    resume_refused(tmp_path, "KD computes something else in this version")


class Calls:
    """A pickle that calls a function when it is opened."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile(mark):
    """Payloads that create a folder if they are run."""
    nested = {"model": {"fc.weight": torch.zeros(2), "extra": [({"deep": Calls(os.mkdir, mark)},)]}}
    return {
        "os.mkdir": Calls(os.mkdir, mark),
        "eval": Calls(eval, f"__import__('os').mkdir({mark!r})"),
        "exec": Calls(exec, f"import os; os.mkdir({mark!r})"),
        "nested": nested,
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["os.mkdir", "eval", "exec", "nested"])
def test_a_hostile_pickle_is_never_run_in_any_protocol(kind, protocol, tmp_path):
    mark = tmp_path / "MARK"
    payload = hostile(str(mark))[kind]
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(payload, protocol=protocol))
    torch.save(payload, tmp_path / "zip.pth", pickle_protocol=protocol)
    torch.save(payload, tmp_path / "old.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    (tmp_path / "pickle").write_bytes(pickle.dumps(payload, protocol=protocol))
    with tarfile.open(tmp_path / "tar.pth", "w") as tar:  # PyTorch's first format
        for name in ("storages", "tensors", "pickle", "sys_info"):
            tar.add(tmp_path / "pickle", arcname=name)
    for name in ("plain", "zip", "old", "tar"):
        with pytest.raises(CheckpointError, match="no code in it was run"):
            load_weights(tmp_path / f"{name}.pth")
    assert not mark.exists()


def test_a_hostile_state_behind_a_manifest_that_vouches_for_it_is_never_run(tmp_path):
    folder = stopped_checkpoint(tmp_path)
    mark = tmp_path / "MARK"
    torch.save(hostile(str(mark))["nested"], folder / "state.pt")
    vouch(folder)
    resume_refused(tmp_path, "contains no intact checkpoint: .*no code in it was run")
    assert not mark.exists()


def rezipped(path, compression, copies=1):
    """The same archive with its entries compressed, or `copies` of them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            for i in range(copies):
                archive.writestr(name if i == 0 else f"{name}.{i}", data)


@pytest.mark.parametrize("kind", ["deflated", "many entries", "a long pickle"])
def test_a_bomb_is_refused_before_it_unpacks(kind, tmp_path, monkeypatch):
    path = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(2**22)}, path)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was opened"))
    if kind == "deflated":
        rezipped(path, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 2**17
    elif kind == "many entries":
        monkeypatch.setattr("mdistiller_dfpt.runs.safe_load.MAX_ENTRIES", 50)
        rezipped(path, zipfile.ZIP_STORED, copies=20)
    else:
        monkeypatch.setattr("mdistiller_dfpt.runs.safe_load.MAX_PICKLE_BYTES", 10)
    with pytest.raises(CheckpointError, match="not a valid checkpoint; rejected"):
        load_pickled_tensors(path)


@pytest.mark.parametrize("length", [5, 2**40, 2**61, 2**63 - 1, 2**64, -1])
def test_a_file_of_old_pytorch_that_claims_other_lengths_is_refused(length, tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"w": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    content, storage = path.read_bytes(), b"K\x04Ntq\x07Q"
    assert content.count(storage) == 1
    assert load_pickled_tensors(path)["w"].tolist() == [0] * 4
    many = b"\x8a\x09" + length.to_bytes(9, "little", signed=True)
    path.write_bytes(content.replace(storage, many + storage[2:]))
    with pytest.raises(CheckpointError, match=r"old\.pth") as info:
        load_pickled_tensors(path)
    assert lack_of_memory(info.value) is None


def test_a_pickle_that_claims_a_terabyte_allocates_none(tmp_path):
    path = tmp_path / "claims.pth"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for name, data in entries.items():
        if name.endswith("data.pkl"):
            four, many = b"K\x04", b"\x8a\x06" + (2**40).to_bytes(6, "little")
            assert four in data
            entries[name] = data.replace(four, many)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="claims.pth"):
        load_pickled_tensors(path)


@pytest.mark.parametrize("size", [2**40, 2**63 - 1])
def test_a_safetensors_header_that_claims_a_terabyte_is_refused(size, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    (tmp_path / "length.safetensors").write_bytes(size.to_bytes(8, "little") + path.read_bytes()[8:])
    text = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    (tmp_path / "shape.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    for name in ("length", "shape"):
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_weights(tmp_path / f"{name}.safetensors")
