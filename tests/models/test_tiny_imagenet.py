"""Tiny ImageNet's networks: keys and outputs are mdistiller's (megvii-research/mdistiller, models/cifar, in double)."""

import numpy as np
import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import MODELS, build_model

from ..golden import golden_state

# logits of the first image, their deviation, sides and means of the maps, tensors and parameters of the network
GOLDEN = {
    "ResNet18": (
        [-12.1451976, -18.875492, -9.75314888, -8.63884489], 13.8290098, [64, 64, 32, 16, 8],
        [0.515110076, 1.04741297, 2.04036344, 4.11187712, 7.22493082], 122, 11_271_432,
    ),
    "MobileNetV2": (
        [-0.646958938, 0.259828481, -0.377346887, -1.02321236], 2.61266995, [66, 33, 17, 9, 9],
        [0.486112733, -0.651292231, -0.499094234, -0.215495983, 1.32287567], 373, 2_497_480,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_mdistillers(name):
    logits, spread, sides, means, tensors, parameters = GOLDEN[name]
    model = build_model(name, "tiny_imagenet", 200).double().eval()
    assert (len(model.state_dict()), sum(p.numel() for p in model.parameters())) == (tensors, parameters)
    model.load_state_dict(golden_state(model))
    with torch.no_grad():
        ours, features = model(torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 64))))
    np.testing.assert_allclose(ours[0, :4].numpy(), logits, rtol=1e-6)
    np.testing.assert_allclose(ours.std().item(), spread, rtol=1e-6)
    assert [f.shape[-1] for f in features["feats"]] == sides
    np.testing.assert_allclose([f.mean().item() for f in features["feats"]], means, rtol=1e-6)
    assert features["pooled_feat"].dim() == 2


def test_the_dataset_chooses_the_family():
    assert load_cfg(None, ["DATASET.TYPE", "tiny_imagenet"]).MODEL.FAMILY == "tiny_imagenet"
    names = {key.partition("/")[2] for key in MODELS if key.startswith("tiny_imagenet/")}
    assert names == {key.partition("/")[2] for key in MODELS if key.startswith("cifar/")}


def test_its_mobilenet_has_keys_of_its_own_and_no_linear_classifier():
    model = build_model("MobileNetV2", "tiny_imagenet", 5)
    keys = list(model.state_dict())
    assert (keys[0], keys[-1]) == ("pre.0.weight", "conv2.bias")
    assert model.num_classes == 5
    with pytest.raises(ConfigError, match="no linear classifier"):
        _ = model.classifier_layer
