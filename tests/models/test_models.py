"""Networks: keys and outputs against the golden values, the staged contract, any input size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import MODELS, build_model
from mdistiller_dfpt.testing import check_network

from ..golden import golden_state

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEYS = json.loads((FIXTURES / "model_keys.json").read_text())
OUTPUTS = json.loads((FIXTURES / "model_outputs.json").read_text())
CIFAR = sorted(KEYS)


def test_every_golden_network_is_registered():
    assert {f"cifar/{name}" for name in CIFAR} <= set(MODELS)


@pytest.mark.parametrize("name", CIFAR)
def test_state_dict_keys_and_shapes_are_those_in_circulation(name):
    model = build_model(name)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == KEYS[name]["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == KEYS[name]["parameters"]


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_outputs_equal_the_reference_implementation(name):
    model = build_model(name).double().eval()
    model.load_state_dict(golden_state(model))
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 32, 32)))
    with torch.no_grad():
        logits, features = model(image)
    golden = OUTPUTS[name]

    def check(actual: torch.Tensor, expected, scale: float) -> None:
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-6 * scale)

    spread = golden["logits_std"][0]
    check(logits[0, :8], golden["logits_row0_first8"], spread)
    check(logits.mean(), golden["logits_mean"][0], spread)
    check(logits.std(), spread, spread)
    for kind in ("feats", "preact_feats"):
        if golden[kind] is None:
            continue
        assert [list(f.shape) for f in features[kind]] == [g["shape"] for g in golden[kind]]
        for actual, expected in zip(features[kind], golden[kind], strict=True):
            check(actual.mean(), expected["mean"], expected["std"])
            check(actual.std(), expected["std"], expected["std"])
    pooled, expected = features["pooled_feat"], golden["pooled_feat"]
    assert list(pooled.shape) == expected["shape"]
    check(pooled.mean(), expected["mean"], expected["std"])
    check(pooled.std(), expected["std"], expected["std"])


SIZES = {"imagenet": 64}


@pytest.mark.parametrize("key", sorted(MODELS))
def test_every_network_obeys_the_laws_of_networks(key):
    family, name = key.split("/")
    size = SIZES.get(family, 32)
    check_network(lambda num_classes: build_model(name, family, num_classes), (3, size, size))


@pytest.mark.parametrize("name", CIFAR)
def test_the_head_lists_its_trainable_modules(name):
    model = build_model(name, num_classes=7)
    assert model.num_classes == 7
    assert any(p.requires_grad for n in model.head_modules for p in getattr(model, n).parameters())


@pytest.mark.parametrize("size", [16, 64, 224])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"])
def test_any_input_size_keeps_the_batch(name, size):
    if name == "vgg8" and size == 16:
        size = 24
    with torch.no_grad():
        logits, _ = build_model(name, num_classes=5).eval()(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("name", CIFAR)
def test_a_training_step_updates_each_batchnorm_once(name):
    model = build_model(name, num_classes=3).train()
    model(torch.randn(2, 3, 32, 32))
    counts = {int(v) for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {1}


def test_building_prints_nothing_and_touches_no_global_setting(capfd):
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.benchmark
    for name in CIFAR:
        build_model(name)
    assert capfd.readouterr() == ("", "")
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == (threads, deterministic)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "resnet8x5"}, "did you mean resnet8x4"),
        ({"name": "resnet8", "family": "cifra"}, "unknown network family 'cifra'"),
        ({"name": "resnet8", "num_classes": 0}, "num_classes is 0"),
        (
            {"name": "resnet32x4", "family": "imagenet"},
            "'resnet32x4' in the family imagenet; MODEL.FAMILY cifar has it",
        ),
    ],
)
def test_unknown_names_are_refused_with_the_closest(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        build_model(**kwargs)
