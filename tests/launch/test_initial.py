"""A student that starts from given weights: of a file, with or without its classifier, or published ones."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from mdistiller_dfpt import build_data, load_cfg
from mdistiller_dfpt.errors import CheckpointError, ConfigError
from mdistiller_dfpt.launch.build import build_trainer, identity_of_run
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.report.difference import difference
from mdistiller_dfpt.report.files import Result
from mdistiller_dfpt.runs.identity import differences, fingerprint

WORDS = {"DATASET.TYPE": "digits", "DISTILLER.STUDENT": "resnet8", "DISTILLER.TYPE": "NONE", "SOLVER.EPOCHS": 1,
         "EXPERIMENT.DEVICE": "cpu"}  # fmt: skip


def student_of(given, **changes):
    cfg = load_cfg(None, {**WORDS, **changes, "DISTILLER.STUDENT_CKPT": str(given)})
    data = build_data(cfg)
    identity = identity_of_run(cfg, data, ())
    return build_trainer(cfg, data, (), identity).distiller.student.state_dict(), identity


@pytest.mark.parametrize("classes", [10, 1000])
def test_of_a_file_with_its_classifier_if_it_has_the_same_classes(classes, tmp_path):
    given = build_model("resnet8", num_classes=classes).state_dict()
    save_file(given, tmp_path / "a.safetensors")
    found, identity = student_of(tmp_path / "a.safetensors")
    same = {key for key in given if found[key].shape == given[key].shape and torch.equal(found[key], given[key])}
    assert set(given) - same == (set() if classes == 10 else {"fc.weight", "fc.bias"})
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


def test_what_timm_publishes(monkeypatch):
    name, words = "timm/test_vit.r160_in1k", {"DATASET.SIZE": 160}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(CheckpointError, match="add `DATASET.DOWNLOAD True` to your command to download timm/test_vit"):
        student_of("pretrained", **words, **{"DISTILLER.STUDENT": name})
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
