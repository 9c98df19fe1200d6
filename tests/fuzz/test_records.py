"""What is recorded of a student and measured of a run, with other values: used, or one error that names the file."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

import mdistiller_dfpt as md
from mdistiller_dfpt.config import dump_cfg
from mdistiller_dfpt.data.preprocessing import Preprocessing
from mdistiller_dfpt.errors import CheckpointError, DataError, UserError
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.page import page
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.record import KEY

from .strategies import changed, fuzzed, slowly_fuzzed
from .test_results import RESULTS

NETWORK = md.build_model("resnet8", num_classes=10).state_dict()
RECORD = {
    "format": 1, "config": dump_cfg(md.load_cfg("digits/vanilla/res8")), "classes": [str(c) for c in range(10)],
    "num_train": 1433, "image_shape": [3, 16, 16],
    "preprocessing": Preprocessing((16, 16), None, (0.3,) * 3, (0.4,) * 3, (16, 16)).as_json(),
    "method": "NONE", "student": "resnet8", "teacher": "", "data": "digits", "epoch": 2,
    "accuracy": {"top1": 90.0, "top5": 100.0}, "version": "", "sha256": state_hash(NETWORK),
}  # fmt: skip
SIZES = [10**9, 70_000, 0, -1, 1.5, float("nan"), None]


@st.composite
def records(draw):
    """A record with other values, and with sizes and numbers that no image has."""
    record = draw(changed(RECORD))
    for key in draw(st.lists(st.sampled_from(["image_shape", "size", "resize", "crop", "mean", "std"]), max_size=2)):
        values = draw(st.lists(st.sampled_from(SIZES), max_size=3))
        if key == "image_shape":
            record[key] = values
        elif isinstance(record.get("preprocessing"), dict):
            record["preprocessing"][key] = values
    return record


@slowly_fuzzed
@given(records())
def test_a_student_with_another_record_predicts_or_is_refused(tmp_path, record):
    save_file(NETWORK, tmp_path / "s.safetensors", {KEY: json.dumps(record)})
    try:
        found = md.load_student(tmp_path / "s.safetensors").predict(Image.new("RGB", (20, 9)), top=3)
    except UserError as e:
        assert "\n" not in str(e)  # noqa: PT017
        return
    assert len(found[0].classes) == 3


@pytest.mark.parametrize(("key", "value", "why"), [
    ("student", "resnet20\n", r"student is 'resnet20\\n', DISTILLER.STUDENT of its config 'resnet8'"),
    ("image_shape", [3, 17, 31], r"image_shape is \(3, 17, 31\), preprocessing.size \(16, 16\)"),
    ("config", "a: [1", "not valid yaml: "),
    ("config", "a: " + "b " * 1_000_000, r"has 2,000,003 characters; at most 1,000,000 are read"),
    ("config", "PLUGINS: [[x]]", r"not the config of a run: PLUGINS\[0\] is .*, no str"),
    ("config", "SOLVER: 1", "not the config of a run: SOLVER is no mapping"),
    ("classes", [], "classes is empty"),
    ("preprocessing", RECORD["preprocessing"] | {"std": [1, 1, 0]}, r"std is \[1, 1, 0\]"),
])  # fmt: skip
def test_parts_of_a_record_that_contradict_each_other_are_named(key, value, why, tmp_path):
    save_file(NETWORK, tmp_path / "s.safetensors", {KEY: json.dumps(RECORD | {key: value})})
    with pytest.raises(CheckpointError, match=rf"s.safetensors: its record of the student cannot be read \(.*{why}"):
        md.load_student(tmp_path / "s.safetensors")


def _record_of(network: str) -> dict:
    config = RECORD["config"].replace("STUDENT: resnet8\n", f"STUDENT: {json.dumps(network)}\n")
    return RECORD | {"student": network, "config": config}


@pytest.mark.parametrize(("network", "why"), [
    ("timm/vit_tiny_patch16_224(depth=1000000)", "names a network that is far larger than its weights"),
    ("timm/vit_tiny_patch16_224(embed_dim=1000000000)", "cannot be built|is far larger than its weights"),
    ("timm/resnet18(layers=[100000, 2, 2, 2])", "names a network that is far larger than its weights"),
    ("torchvision/regnet_y_128gf", "names a network that is far larger than its weights"),
    ("timm/vit_tiny_patch16_224(img_size=100000000)", "cannot be built|is far larger than its weights"),
    ("timm/vit_tiny_patch16_224(mlp_ratio=1e308)", "cannot be built .OverflowError: "),
    ("timm/vit_tiny_patch16_224(num_heads=0)", "cannot be built .ZeroDivisionError: "),
    ('timm/resnet18(block="x")', "cannot be built .AttributeError: "),
    ("timm/resnet18(depth=" + "-" * 5000 + "1)", "write its arguments as"),
])  # fmt: skip
def test_a_network_of_impossible_arguments_is_refused_before_it_takes_memory(network, why, tmp_path):
    pytest.importorskip("timm")
    save_file(NETWORK, tmp_path / "s.safetensors", {KEY: json.dumps(_record_of(network))})
    with pytest.raises(UserError, match=why) as info:
        md.load_student(tmp_path / "s.safetensors")
    assert "\n" not in str(info.value)


def test_the_config_in_a_record_is_said_to_be_of_its_file_in_one_line(tmp_path):
    config = RECORD["config"].replace("NESTEROV: ", "NESTEROV: x").replace("CLIP_NORM: null", "CLIP_NORM: x")
    save_file(NETWORK, tmp_path / "s.safetensors", {KEY: json.dumps(RECORD | {"config": config})})
    why = r"SOLVER.NESTEROV is 'x\w+'; it must be True or False and 1 more"
    with pytest.raises(CheckpointError, match=rf"s.safetensors: the config in its record cannot be used \({why}\)$"):
        md.load_student(tmp_path / "s.safetensors")


EVALUATION = {
    "top1": 90.0, "top5": 100.0, "nll": 0.3, "ece": 1.0, "temperature": 1.1, "nll_half": 0.3, "ece_half": 1.0,
    "nll_scaled": 0.2, "ece_scaled": 0.9, "per_class": {"a": 50.0, "b": None}, "confusion": [[1, 1], [0, 0]],
    "reliability": [{"confidence": 0.7, "accuracy": 0.75, "images": 2}],
    "most_confused": [{"class": "a", "predicted": "b", "images": 1}],
    "worst": [{"image": "3", "label": "a", "predicted": "b", "probability": 0.9,
               "thumbnail": "data:image/png;base64,AA=="}],
    "parameters": 1000, "macs": 2500, "bytes": 1024, "milliseconds": {"1": 1.5, "64": 20.0},
    "teacher": {"agreement": 90.0, "kl": 0.1},
}  # fmt: skip
CORRUPTED = {
    "clean": 98.0, "mean": 50.0, "mean_by_corruption": {"fog": 60.0, "snow": 40.0}, "constants": "CIFAR-C",
    "pixels": [32, 32], "seed": 0, "sha256": RESULTS["student_sha256"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "whole"), [("evaluation.json", EVALUATION), ("corruptions.json", CORRUPTED)])
@fuzzed
@given(st.data())
def test_other_measures_are_on_the_page_or_named(name, whole, tmp_path, data):
    run = tmp_path / "a/seed1"
    run.mkdir(parents=True, exist_ok=True)
    (run / "results.json").write_text(json.dumps(RESULTS))
    (run / name).write_text(json.dumps(data.draw(changed(whole))))
    try:
        text = page(load_results(tmp_path), "t")
    except DataError as e:
        assert name in str(e)  # noqa: PT017
        return
    assert not re.search(r"""(src|href)=["'](?!data:image/png|#)""", text)


@pytest.mark.parametrize(
    "thumbnail", ["https://elsewhere.org/x.png", "data:image/svg+xml,<svg/>", "data:image/png;base64,A\n"]
)
def test_a_picture_of_another_place_is_not_loaded(thumbnail, tmp_path):
    measured = copy.deepcopy(EVALUATION)
    measured["worst"] = [{"image": "3", "label": "a", "predicted": "b", "probability": 0.9, "thumbnail": thumbnail}]
    run = tmp_path / "a/seed1"
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(RESULTS))
    (run / "evaluation.json").write_text(json.dumps(measured))
    with pytest.raises(DataError, match=r"evaluation.json: not an evaluation of a run \(worst\[0\].thumbnail"):
        page(load_results(tmp_path), "t")
