"""What a network returns is checked once at build; a network without feature maps serves methods on logits."""

import pytest
import torch
from torch import nn

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.errors import USER_FILES, ConfigError
from mdistiller_dfpt.launch.networks import build_network, check_networks
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import tiny_cfg


class Net(nn.Module):
    """Two convolutions and a classifier; `returns` makes its result of (map, pooled, logits)."""

    def __init__(self, classes, returns):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.fc, self.returns = nn.Linear(16, classes), returns

    def forward(self, image):
        x = self.body(image)
        pooled = x.mean((2, 3))
        return self.returns(x, pooled, self.fc(pooled))


RETURNS = {
    "logits": lambda x, p, y: y,
    "a_tuple": lambda x, p, y: (y, x, p),
    "a_dict_with_logits": lambda x, p, y: {"logits": y, "maps": x},
    "maps_of_logits": lambda x, p, y: y[:, :, None, None],
    "a_dict": lambda x, p, y: {"out": y},
    "a_list": lambda x, p, y: [y, x],
    "features_first": lambda x, p, y: (p, y),
    "nothing": lambda x, p, y: None,
    "a_vector": lambda x, p, y: y[0],
}
for _name, _returns in RETURNS.items():
    globals()[_name] = lambda num_classes, returns=_returns: Net(num_classes, returns)


def another_class_count(num_classes):
    return Net(num_classes + 1, RETURNS["logits"])


def mlp(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, num_classes))


def fails(num_classes):
    return Net(num_classes, lambda x, p, y: {}["missing"])


def built(name, role="teacher", **words):
    cfg = tiny_cfg("DISTILLER.TEACHER", f"{__name__}:{name}", *words)
    return build_network(cfg, role, f"{__name__}:{name}", 5, (3, 16, 16))


@pytest.mark.parametrize("name", ["logits", "a_tuple", "a_dict_with_logits"])
def test_logits_are_found_in_what_a_network_returns(name):
    torch.manual_seed(0)
    assert built(name)(torch.rand(2, 3, 16, 16))[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("maps_of_logits", r"logits of shape \(1, 5, 1, 1\)"),
        ("a_dict", "a dict with the keys out"),
        ("a_list", "a list"),
        ("features_first", r"logits of shape \(1, 16\)"),
        ("another_class_count", r"logits of shape \(1, 6\)"),
        ("nothing", "nothing"),
        ("a_vector", r"logits of shape \(5,\)"),
    ],
)
def test_other_results_are_refused_in_one_line(name, found):
    with pytest.raises(ConfigError, match=rf"{name} returns {found} for one image; .* shape \(1, 5\)") as error:
        built(name)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_fault_in_a_users_forward_names_its_line(monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.errors.USER_FILES", USER_FILES | {__file__})
    with pytest.raises(ConfigError, match=r"test_networks.py:\d+: KeyError: 'missing'"):
        built("fails")


@pytest.mark.parametrize("method", ["KD", "DKD", "DIST"])
def test_methods_on_logits_need_no_maps(method):
    batch = Batch(torch.rand(4, 3, 16, 16), torch.arange(4), torch.arange(4), epoch=1)
    for teacher, student in ((built("mlp"), build_model("resnet8", num_classes=5)),
                             (build_model("resnet8", num_classes=5), built("mlp"))):  # fmt: skip
        logits, terms = build_distiller(tiny_cfg("DISTILLER.TYPE", method), student, teacher, 8)(batch)
        assert logits.shape == (4, 5)
        assert all(torch.isfinite(term.value).all() for term in terms.values())


@pytest.mark.parametrize("method", ["AT", "FITNET", "RKD", "REVIEWKD", "DFPTKD"])
def test_methods_on_maps_say_that_there_are_none(method):
    with pytest.raises(ConfigError, match="no feature maps"):
        build_distiller(
            tiny_cfg("DISTILLER.TYPE", method), build_model("resnet8", num_classes=5), built("mlp"), 8,
            image_shape=(3, 16, 16),
        )  # fmt: skip


@pytest.mark.parametrize(("data", "side"), [("digits", 16), ("cifar100", 32), ("tiny_imagenet", 64), ("imagenet", 224)])
def test_a_network_of_a_single_size_is_checked_at_that_of_the_dataset_before_this_is_read(monkeypatch, data, side):
    def fixed(num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, num_classes))

    monkeypatch.setitem(globals(), "fixed", fixed)
    keys = {"DATASET.TYPE": data, "DISTILLER.TYPE": "NONE", "DISTILLER.STUDENT": f"{__name__}:fixed"}
    check_networks(load_cfg(None, keys))
