"""A student that starts from given weights: of a file, with or without its classifier, or published ones."""

from hashlib import sha256

import pytest
import timm
import torch
from safetensors.torch import save_file

from mdistiller_dfpt import build_data, load_cfg
from mdistiller_dfpt.errors import CheckpointError, ConfigError
from mdistiller_dfpt.launch import run as launch
from mdistiller_dfpt.launch.build import build_trainer, identity_of_run
from mdistiller_dfpt.launch.initial import start_of
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.report.difference import difference
from mdistiller_dfpt.report.result import Result
from mdistiller_dfpt.runs.directory import existing_runs
from mdistiller_dfpt.runs.identity import differences, fingerprint
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.runs.weights import load_weights

from ..tiny_runs import fit, run_of

WORDS = {"DATASET.TYPE": "digits", "DISTILLER.STUDENT": "resnet8", "DISTILLER.TYPE": "NONE", "SOLVER.EPOCHS": 1,
         "EXPERIMENT.DEVICE": "cpu"}  # fmt: skip


def student_of(given, **changes):
    cfg = load_cfg(None, {**WORDS, **changes, "DISTILLER.STUDENT_CKPT": str(given)})
    data = build_data(cfg)
    identity = identity_of_run(cfg, data, ())
    return build_trainer(cfg, data, (), identity).distiller.student.state_dict(), identity


@pytest.mark.parametrize("classes", [10, 1000, 200])
def test_of_a_file_with_its_classifier_if_it_has_the_same_classes(classes, tmp_path, capsys):
    given = build_model("resnet8", num_classes=classes).state_dict()
    save_file(given, tmp_path / "a.safetensors")
    found, identity = student_of(tmp_path / "a.safetensors")
    same = {key for key in given if found[key].shape == given[key].shape and torch.equal(found[key], given[key])}
    assert set(given) - same == (set() if classes == 10 else {"fc.weight", "fc.bias"})
    said = f"a.safetensors, which has {classes} classes; new for 10: fc.bias, fc.weight"
    assert [said in line for line in capsys.readouterr().out.splitlines()] == ([] if classes == 10 else [True])
    # Another place of the same file is the same run, another file is another one
    save_file(given, tmp_path / "b.safetensors")
    assert fingerprint(student_of(tmp_path / "b.safetensors")[1]) == fingerprint(identity)
    given["conv1.weight"].add_(1)
    save_file(given, tmp_path / "b.safetensors")
    other = student_of(tmp_path / "b.safetensors")[1]
    assert differences(identity, other) == ["they started from other weights"]
    # Tables keep the runs apart, also from those of no file, which their configs do not ask for
    plain = {**other, "config": {k: v for k, v in other["config"].items() if k != "DISTILLER.STUDENT_CKPT"}}
    del plain["start"]
    assert differences(plain, other)[0] == "DISTILLER.STUDENT_CKPT None in this command, file in that run"
    runs = [Result("a", tmp_path, {"protocol": {"seed": 1}, "epochs": [], "identity": i})
            for i in (identity, other, plain, {**plain, "start": "1" * 64}, {**plain, "start": "2" * 64})]  # fmt: skip
    assert len({run.what for run in runs}) == 4, "those of a program, one for each seed, are alike"
    assert difference(runs[0], runs[1], "") == "they started from other weights"


def test_of_a_file_of_another_network_or_none(tmp_path):
    save_file(build_model("resnet20").state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of resnet8 with 10 classes"):
        student_of(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="DISTILLER.STUDENT_CKPT is .*none; there is no such file"):
        student_of(tmp_path / "none")


@pytest.mark.parametrize("method", ["MCMI", "AID"])
def test_not_where_the_student_starts_from_the_teacher(method, tmp_path):
    save_file(build_model("resnet8", num_classes=10).state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=f"with {method} the student starts from the weights of the teacher"):
        student_of(tmp_path / "a.safetensors", **{"DISTILLER.TYPE": method, "DISTILLER.TEACHER": "resnet8"})


def test_of_another_librarys_network_with_other_classes(tmp_path):
    given = timm.create_model("test_vit", num_classes=7).state_dict()
    torch.save({"state_dict": given}, tmp_path / "a.pth")
    found, _ = student_of(tmp_path / "a.pth", **{"DISTILLER.STUDENT": "timm/test_vit", "DATASET.SIZE": 160})
    same = {key for key in given if given[key].shape == found[key].shape and torch.equal(given[key], found[key])}
    assert set(found) - same == {"head.weight", "head.bias"}


def trained(folder, **changes):
    """The results of a student that was trained for an epoch of two steps, and its directory."""
    cfg = small_cfg(folder, **changes)
    return run(cfg), existing_runs(cfg)[-1]


def small_cfg(folder, **changes):
    small = {"SOLVER.BATCH_SIZE": 717, "DATASET.SIZE": 8, "DATASET.TEST.BATCH_SIZE": 400, "LOG.PREFIX": str(folder)}
    return load_cfg(None, {**WORDS, **small, **changes})


def test_of_a_run_whose_images_were_normalised_otherwise(tmp_path):
    _, first = trained(tmp_path / "first", **{"DATASET.MEAN": [0.1, 0.2, 0.3], "DATASET.STD": [0.5, 0.5, 0.5]})
    message = r"which was trained with images of mean .*: set DISTILLER.STUDENT_MEAN \[0.1, 0.2, 0.3\] DISTILLER.STUD"
    with pytest.raises(ConfigError, match=message):
        student_of(first)
    given = {"DISTILLER.STUDENT_MEAN": [0.1, 0.2, 0.3], "DISTILLER.STUDENT_STD": [0.5, 0.5, 0.5]}
    found, _ = student_of(first, **given)
    assert torch.equal(found["fc.bias"], load_weights(first)["fc.bias"])
    # As it says what the student is to get
    found, _ = student_of(first, **{"DISTILLER.STUDENT_MEAN": [0.4, 0.4, 0.4]})
    assert torch.equal(found["fc.bias"], load_weights(first)["fc.bias"])


@pytest.mark.parametrize("named", [True, False])
def test_a_run_goes_on_without_the_file_that_it_started_from(named, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_file(build_model("resnet8", num_classes=10).state_dict(), file)
    words = {"SOLVER.EPOCHS": 2, "DISTILLER.STUDENT_CKPT": str(file)}
    results, whole = trained(tmp_path / "whole", **words)
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "status", stop_after_an_epoch)
        with pytest.raises(InterruptedError):
            trained(tmp_path / "cut", **words)
    file.unlink()
    cfg = small_cfg(tmp_path / "cut", **words)
    (cut,) = existing_runs(cfg)
    if named:
        cut = cut.rename(tmp_path / "moved")
    again = run(cfg, resume=cut if named else True)
    assert again["student_sha256"] == results["student_sha256"]
    assert again["fingerprint"] == results["fingerprint"]
    # A new run needs it, also beside one that had it
    with pytest.raises(CheckpointError, match="a.safetensors; there is no such file"):
        trained(tmp_path / "whole", **words)
    cfg = small_cfg(tmp_path / "whole", **words)
    assert run(cfg, "auto") == results
    assert existing_runs(cfg) == [whole]


def stop_after_an_epoch(self, state, done, reason=""):
    if done.epochs:
        raise InterruptedError


def test_a_missing_file_is_said_before_a_teacher_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "trained_networks", lambda *_: pytest.fail("a teacher was asked for"))
    words = {"DISTILLER.TYPE": "KD", "DISTILLER.TEACHER": "resnet20"}
    with pytest.raises(CheckpointError, match="there is no such file"):
        trained(tmp_path, **words, **{"DISTILLER.STUDENT_CKPT": str(tmp_path / "none")})


def test_a_program_loads_the_weights_of_its_own_student(tmp_path):
    run = run_of("NONE", tmp_path, "DISTILLER.STUDENT_CKPT", "a.safetensors")
    with pytest.raises(ConfigError, match="STUDENT_CKPT is .*a.safetensors; this student is the program's: load these"):
        fit(run)


def test_what_timm_publishes(monkeypatch):
    name, words = "timm/test_vit.r160_in1k", {"DATASET.SIZE": 160}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(CheckpointError, match="add `DATASET.DOWNLOAD True` to your command to download timm/test_vit"):
        student_of("pretrained", **words, **{"DISTILLER.STUDENT": name})
    monkeypatch.setattr("mdistiller_dfpt.models.pretrained._no_connection", lambda: "no network")
    with pytest.raises(
        CheckpointError, match=r"\(no network\): put model.safetensors of .* at .*/hub/checkpoints/timm--"
    ):
        student_of("pretrained", **words, **{"DISTILLER.STUDENT": name, "DATASET.DOWNLOAD": True})
    with pytest.raises(CheckpointError, match="timm publishes no weights of timm/test_vit.r160_in1k.depth=2"):
        student_of("pretrained", **words, **{"DISTILLER.STUDENT": f"{name}(depth=2)"})
    torch.manual_seed(5)
    given = timm.create_model("test_vit")
    create = timm.create_model

    def offline(name, *, pretrained, **arguments):
        return given if pretrained else create(name, **arguments)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "there")
    monkeypatch.setattr(timm, "create_model", offline)
    found, identity = student_of("pretrained", **words, **{"DISTILLER.STUDENT": name})
    same = {key for key, value in given.state_dict().items() if torch.equal(found[key], value)}
    assert set(found) - same == {"head.weight", "head.bias"}
    assert identity["start"] == "pretrained"


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("test_efficientnet", 160), ("test_efficientnet", 64)])
def test_what_timm_publishes_put_in_its_place_by_hand(name, size, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    given = timm.create_model(name).state_dict()
    file = tmp_path / "checkpoints" / f"timm--{name}.r160_in1k.safetensors"
    file.parent.mkdir()
    save_file(given, file)
    words = {"DISTILLER.STUDENT": f"timm/{name}.r160_in1k", "DATASET.SIZE": size}
    found, _ = student_of("pretrained", **words)
    head = "head" if name == "test_vit" else "classifier"
    differing = {key for key, value in given.items() if not torch.equal(found[key], value)}
    assert differing == {f"{head}.weight", f"{head}.bias"}
    assert f"are those of {file}" in capsys.readouterr().out
    file.write_bytes(b"an error page")
    with pytest.raises(CheckpointError, match=r"not a safetensors file .*: delete it"):
        student_of("pretrained", **words)


def test_published_weights_that_were_put_by_hand_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    place = tmp_path / "checkpoints" / "timm--test_vit.r160_in1k.safetensors"
    place.parent.mkdir()
    given = timm.create_model("test_vit").state_dict()
    words = {"DISTILLER.STUDENT": "timm/test_vit.r160_in1k", "DATASET.SIZE": 160}
    found = []
    for scale in (1, 2):
        save_file({key: scale * value for key, value in given.items()}, place)
        found.append(student_of("pretrained", **words)[1])
    assert differences(*found) == ["they started from other weights"]
    assert found[1]["start"] == f"pretrained, file {sha256(place.read_bytes()).hexdigest()}"
    # Those of the hub's own cache are what they are called
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(place))
    assert start_of(load_cfg(None, {**WORDS, **words, "DISTILLER.STUDENT_CKPT": "pretrained"})) == "pretrained"
