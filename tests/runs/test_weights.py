"""Weights of any origin: files as other toolboxes write them load, or the message says what they contain."""

import argparse
import re
import tarfile
import warnings
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.weights import load_into, load_weights


def network(classes=5, seed=1, name="resnet8"):
    torch.manual_seed(seed)
    return build_model(name, "cifar", classes)


def behind(prefix, state):
    return OrderedDict((prefix + key, value) for key, value in state.items())


def in_parts(state):
    """Keys of a network in two parts, as OpenMMLab's classifiers."""
    return OrderedDict((("head." if k.startswith("fc") else "backbone.") + k, v) for k, v in state.items())


def loaded(content, tmp_path, suffix="pth"):
    """A fresh network with the weights of a file with this content."""
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(content, path)
    fresh = network(seed=2)
    load_into(fresh, path, "resnet8 with 5 classes")
    return fresh


def same(a, b):
    return state_hash(a.state_dict()) == state_hash(b.state_dict())


class Own:
    def __init__(self):
        self.value = 3


class History:
    """As the curves in OpenMMLab's files, which hold methods of their own."""

    def __init__(self):
        self.values, self.methods = np.arange(3.0), {"mean": self.mean}

    def mean(self):
        return self.values.mean()


class OwnDict(dict):
    pass


class OwnList(list):
    pass


class Average:
    """As timm's and YOLO's: an object around a network, in the place of a state_dict."""

    def __init__(self, module):
        self.module, self.decay = module, 0.9


def with_hidden_buffer():
    """A network with a buffer that its state_dict does not have."""
    whole = network()
    whole.register_buffer("grid", torch.ones(2), persistent=False)
    return whole


OURS = network()
STATE = OURS.state_dict()
OTHER = network(seed=3).state_dict()
TEACHER = network(name="resnet14").state_dict()

CONTENTS = {
    "RepDistiller, last": {"opt": argparse.Namespace(model="resnet8", lr=0.05, gpus=[0]), "model": STATE},
    "RepDistiller, best": {"epoch": 3, "model": STATE, "best_acc": torch.tensor(71.2), "optimizer": {"state": {}}},
    "mdistiller, student_best": {"model": STATE, "epoch": 3, "best_acc": np.float64(71.2)},
    "mdistiller, best": {"model": {**behind("module.student.", STATE), **behind("module.teacher.", TEACHER)}},
    "torchvision's references": {"model": STATE, "args": argparse.Namespace(), "scaler": {"scale": 1.0}},
    "torchvision's references, average": {
        "model": STATE, "model_ema": {**behind("module.", OTHER), "n_averaged": torch.tensor(3)},
    },
    "timm": {"epoch": 3, "arch": "x", "state_dict": STATE, "state_dict_ema": OTHER, "args": argparse.Namespace(),
             "metric": np.float32(71.2)},
    "Lightning": {"state_dict": {**behind("model.", STATE), "criterion.weight": torch.ones(5)}, "callbacks": {}},
    "Lightning, compiled": {"state_dict": behind("net._orig_mod.", STATE)},
    "OpenMMLab, the backbone": {"meta": {"epoch": 3}, "state_dict": behind("backbone.", STATE)},
    "OpenMMLab": {"state_dict": in_parts(STATE), "message_hub": {"loss": History()}},
    "OpenMMLab, in parallel": {"state_dict": behind("module.", in_parts(STATE))},
    "a whole network": OURS,
    "a whole network, in parallel": {"epoch": 3, "net": torch.nn.DataParallel(OURS)},
    "a whole network with a buffer that is not saved": with_hidden_buffer(),
    "an object around the network": {"ema": Average(OURS), "epoch": 3},
    "objects beside it": {"model": STATE, "x": Own(), "args": OwnDict(lr=0.1)},
    "SimKD": {"epoch": 3, "model": STATE, "proj": {"transfer.0.weight": torch.ones(2)}},
    "ImageNet example": {"state_dict": behind("module.", STATE), "best_acc1": torch.tensor(1.0)},
    "kuangliu's CIFAR": {"net": behind("module.", STATE), "acc": 71.2, "epoch": 3},
    "PyTorch's tutorial": {"model_state_dict": STATE, "optimizer_state_dict": {}, "loss": 0.1},
    "Lightning, average": {"state_dict": {**behind("model.", STATE), **behind("ema_model.module.", OTHER)}},
    "DataParallel of a part": {"model": {k.replace("layer1.", "layer1.module."): v for k, v in STATE.items()}},
    "compiled blocks": {"model": {k.replace(".conv1.", ".conv1._orig_mod."): v for k, v in STATE.items()}},
    "only an average": {"state_dict_ema": STATE},
    "containers in containers": {"state": {"network": STATE}},
    "the state itself": STATE,
    "an averaged model": AveragedModel(OURS).state_dict(),
    "beside other values": {"weights": STATE, "curve": np.arange(3.0), "flag": np.bool_(True), "n": np.int64(2),
                            "place": Path("a/b"), "more": SimpleNamespace(a=1)},
}  # fmt: skip


@pytest.mark.parametrize("origin", CONTENTS)
def test_files_as_other_toolboxes_write_them(origin, tmp_path):
    assert same(loaded(CONTENTS[origin], tmp_path), OURS)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "backbone.", "net."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_prefix_of_all_keys_is_removed(prefix, suffix, tmp_path):
    assert same(loaded(behind(prefix, STATE), tmp_path, suffix), OURS)


class _Reduced:
    """Pickled as a call, and a state."""

    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


SCALAR = np.float64(0).__reduce__()[0]
AS_WRITTEN = (3, "<", None, None, None, -1, -1, 0)
NOT_NUMPYS = {
    "flag of an object": _Reduced(np.dtype, ("f8", False, True), (*AS_WRITTEN[:-1], 1)),
    "flags of a list": _Reduced(np.dtype, ("f8", False, True), (*AS_WRITTEN[:-1], 63)),
    "size": _Reduced(np.dtype, ("f8", False, True), (3, "<", None, None, None, 2**31 - 1, 8, 0)),
    "fields": _Reduced(np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": ("f8", 0)}, 8, 8, 0)),
    "kind of object": _Reduced(np.dtype, ("O8", False, True), AS_WRITTEN),
    "kind of a million bytes": _Reduced(np.dtype, ("V1000000",)),
    "short number": _Reduced(SCALAR, (np.dtype("f8"), b"A")),
    "number without a kind": _Reduced(SCALAR, ("f8", b"A" * 8)),
}


@pytest.mark.parametrize("name", NOT_NUMPYS)
def test_what_numpy_does_not_write_is_refused(name, tmp_path):
    torch.save({"model": STATE, "acc": NOT_NUMPYS[name]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors; no code in it was run"):
        load_weights(tmp_path / "a.pth")


def test_numpys_numbers_are_read_in_both_orders_of_bytes(tmp_path):
    content = {f"{kind}{order}": np.array([3], f"{order}{kind}")[0] for kind in ("f8", "i2", "u4") for order in "<>"}
    torch.save({"model": STATE, **content, "flag": np.bool_(True)}, tmp_path / "a.pth")
    found = load_weights(tmp_path / "a.pth")
    assert {key: found[key] for key in content} == content
    assert found["flag"] == np.True_


def test_numpys_scalars_of_its_first_version_are_read(tmp_path):
    content = {"model": STATE, "acc": np.float64(71.2)}
    path = tmp_path / "w.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    fresh = network(seed=2)
    load_into(fresh, path, "x")
    assert same(fresh, OURS)


def test_missing_counters_of_batchnorm_are_no_fault(tmp_path):
    fresh = loaded({k: v for k, v in STATE.items() if not k.endswith("num_batches_tracked")}, tmp_path)
    assert same(fresh, OURS)


@pytest.mark.parametrize(("origin", "said"), [
    ("timm", "the weights are ['state_dict']; not their average ['state_dict_ema']"),
    ("torchvision's references, average", "['model']; not their average ['model_ema'] module.*"),
    ("mdistiller, best", "['model'] module.student.*; left out: module.teacher.conv1.weight"),
    ("Lightning", "['state_dict'] model.*; left out: criterion.weight"),
    ("SimKD", "['model']; left out: ['proj'] transfer.0.weight ..., which the network may need to predict"),
])  # fmt: skip
def test_what_was_chosen_and_left_out_is_said(origin, said, tmp_path, capsys):
    loaded(CONTENTS[origin], tmp_path)
    assert said in capsys.readouterr().out
    loaded(STATE, tmp_path)
    assert capsys.readouterr().out == ""


class Nested(torch.nn.Identity):
    """A network that a file may hold whole."""


REFUSED = {
    "two that fit": (
        {"model": {**behind("module.student.", STATE), **behind("module.teacher.", OTHER)}},
        r"2 networks in it fit resnet8 with 5 classes: \['model'\] module.student.*, \['model'\] module.teacher.*",
    ),
    "a student that holds its teacher": (
        {**STATE, **behind("teacher.", OTHER)},
        r"2 networks in it fit resnet8 with 5 classes: teacher.\*, the file itself",
    ),
    "a network and a wrapped one": ({**STATE, **behind("module.", OTHER)}, r"2 networks in it fit resnet8"),
    "without values": ({**STATE, "fc.weight": STATE["fc.weight"].to("meta")}, "cannot be copied into resnet8 with 5"),
    "other classes": ({"model": network(7).state_dict()}, r"fc.weight is \(7, 64\), not \(5, 64\); fc.bias is \(7,\)"),
    "a deeper network, beside an accuracy": (
        {"model": TEACHER, "best_acc": torch.tensor([98.9])},
        "layer1.1.conv1.weight is unexpected",
    ),
    "a deeper network": ({"model": TEACHER}, "layer1.1.conv1.weight is unexpected"),
    "another network": (
        {"a.weight": torch.ones(1), "b.weight": torch.ones(1)},
        "its keys are a.weight, b.weight; expected conv1.weight, bn1.weight, bn1.bias and",
    ),
    "another network, most of it in one part": (
        {**{f"features.{i}.weight": torch.ones(1) for i in range(60)}, "classifier.weight": torch.ones(1)},
        "its keys are features.0.weight, features.1.weight, features.2.weight and",
    ),
    "no weights": ({"epoch": 3, "lr": 0.1}, "contains no tensors by name; its keys are epoch, lr"),
    "a list": ([1, 2], "contains list; expected a state_dict"),
    "a class of the standard library": ({"model": STATE, "x": Fraction(1, 2)}, "it contains fractions.Fraction: where"),
    "a list of one's own": (OwnList([3]), r"it contains tests.runs.test_weights.OwnList: .*state_dict\(\)"),
    "an own object": (Own(), "it contains no tensors by name; its keys are value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_said_in_one_line(kind, tmp_path):
    content, message = REFUSED[kind]
    with pytest.raises(CheckpointError, match=message) as error:
        loaded(content, tmp_path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_a_module_inside_itself_is_refused_at_once(tmp_path):
    nested = Nested(2)
    nested.register_buffer("value", torch.ones(1))
    nested._modules["name_of_a_part"] = nested
    torch.save(nested, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="it contains a module inside itself"):
        load_into(network(), tmp_path / "file.pt", "resnet8 with 5 classes")


def test_files_that_are_no_checkpoints_are_named_for_what_they_are(tmp_path):
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "page.pth", "resnet56_vanilla/ckpt_epoch_240.pth")
    (tmp_path / "network.onnx").write_bytes(b"\x08\x07" * 99)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; its files circulate
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    for name, what in (("pointer.pth", "git lfs pull"), ("page.pth", "a web page"), ("all.tar", "a tar archive"),
                       ("script.pt", "a TorchScript archive"), ("network.onnx", "an exported network")):  # fmt: skip
        with pytest.raises(CheckpointError, match=what):
            load_into(network(), tmp_path / name, "x")


def test_torchvisions_files_as_its_own_builders_read_them(tmp_path):
    """As published: auxiliary heads, densenet's keys of 2017, the keys of transformers before version 2."""
    models = torchvision.models
    torch.manual_seed(0)
    dense = models.densenet121(num_classes=5).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in dense.items()}
    assert old.keys() != dense.keys()
    vit = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    vit_keys = {k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v
                for k, v in vit.state_dict().items()}  # fmt: skip
    google = models.googlenet(num_classes=5, init_weights=False, aux_logits=True).state_dict()
    for name, content, size, expected in (
        ("torchvision/densenet121", old, 64, dense), ("torchvision/googlenet", google, 64, google),
        (f"{__name__}:small_vit", vit_keys, 32, vit.state_dict()),
    ):  # fmt: skip
        torch.save(content, tmp_path / "w.pth")
        model = build_model(name, num_classes=5, image_size=size)
        load_into(model, tmp_path / "w.pth", name)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def small_vit(num_classes):
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=num_classes)


def test_a_transformer_for_another_image_size_is_named(tmp_path):
    larger = torchvision.models.VisionTransformer(64, 8, 2, 2, 16, 32, num_classes=5)
    torch.save(larger.state_dict(), tmp_path / "w.pth")
    model = build_model(f"{__name__}:small_vit", num_classes=5, image_size=32)
    with pytest.raises(CheckpointError, match=r"pos_embedding is \(1, 65, 16\), not \(1, 17, 16\): .*set DATASET.SIZE"):
        load_into(model, tmp_path / "w.pth", "x")


def test_the_student_of_a_run_that_predicts_with_its_method_is_no_network_of_its_own(tmp_path):
    """As SimKD's, whose student never trains its own classifier."""
    (tmp_path / "run").mkdir()
    state = {**behind("student.", STATE), "projector.0.weight": torch.ones(2)}
    save_file(state, tmp_path / "run" / "student.safetensors")
    for path in (tmp_path / "run", tmp_path / "run" / "student.safetensors"):
        with pytest.raises(CheckpointError, match=r"with modules of its method \(projector.0.weight\)"):
            load_into(network(), path, "resnet8 with 5 classes")


def test_weights_do_not_stay_with_their_file(tmp_path):
    """A mapped file that another program makes shorter ends the process by SIGBUS where its tensors are read."""
    save_file({"weight": torch.ones(1 << 20)}, path := tmp_path / "some.safetensors")
    content = load_weights(path)
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    with path.open("r+b") as file:
        file.truncate(100)
    assert content["weight"].sum() == 1 << 20
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_weights(path)
