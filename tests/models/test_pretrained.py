"""torchvision's weights: downloaded only on request, verified by the hash in their name, then loaded like any file."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.data.normalisation import Normalisation
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.launch.run import train
from mdistiller_dfpt.launch.trained import trained_networks
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.models.pretrained import pretrained_weights
from mdistiller_dfpt.runs.weights import load_into


@pytest.fixture
def published(tmp_path, server, monkeypatch):
    """A ShuffleNetV2's weights on a server, as torchvision publishes them; the address of the file."""
    folder, url = server
    torch.manual_seed(0)
    network = models.shufflenet_v2_x1_0(num_classes=5)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    name = f"shufflenet-{digest[:8]}.pth"
    (tmp_path / "w.pth").rename(folder / name)
    weights = {"V1": SimpleNamespace(url=f"{url}/{name}")}

    class Enum:
        def __iter__(self):
            return iter([SimpleNamespace(name="V1")])

        def __getitem__(self, tag):
            return weights[tag]

    monkeypatch.setattr(models, "get_model_weights", lambda name: Enum())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return SimpleNamespace(file=folder / name, cached=tmp_path / "hub/checkpoints" / name, network=network)


def test_weights_are_downloaded_on_request_and_kept(published):
    with pytest.raises(CheckpointError, match="DATASET.DOWNLOAD True"):
        pretrained_weights("ShuffleNetV2", "imagenet", "", download=False)
    path = pretrained_weights("ShuffleNetV2", "imagenet", "", download=True)
    published.file.unlink()
    assert path == published.cached == pretrained_weights("ShuffleNetV2", "imagenet", "V1", download=False)
    ours = build_model("ShuffleNetV2", "imagenet", 5)
    load_into(ours, path, "x")
    assert torch.equal(ours.fc.weight, published.network.fc.weight)
    foreign = build_model("torchvision/shufflenet_v2_x1_0", num_classes=5)
    load_into(foreign, path, "x")
    assert torch.equal(foreign.network.fc.weight, published.network.fc.weight)


def test_damaged_weights_are_refused(published):
    pretrained_weights("ShuffleNetV2", "imagenet", "", download=True)
    published.cached.write_bytes(published.cached.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="it does not match the hash in its name"):
        pretrained_weights("ShuffleNetV2", "imagenet", "", download=True)
    published.cached.unlink()
    published.file.write_bytes(b"an error page")
    with pytest.raises(CheckpointError, match="download failed"):
        pretrained_weights("ShuffleNetV2", "imagenet", "", download=True)
    assert not published.cached.exists()


def test_missing_published_weights_are_reported(published):
    with pytest.raises(CheckpointError, match="has no weights 'V9'; choose from V1"):
        pretrained_weights("ShuffleNetV2", "imagenet", "V9", download=False)
    for name, family in (("MobileNetV1", "imagenet"), ("resnet8", "cifar")):
        with pytest.raises(CheckpointError, match="publishes no weights"):
            pretrained_weights(name, family, "", download=False)


@pytest.mark.parametrize("words", [[], ["DISTILLER.TEACHER_CKPT", "pretrained"]])
def test_a_teacher_of_imagenet_has_them_unless_the_config_says_otherwise(published, words):
    cfg = load_cfg(None, ["DATASET.TYPE", "imagenet", "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "ShuffleNetV2",
                          "DATASET.DOWNLOAD", "True", *words])  # fmt: skip
    images = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    data = SimpleNamespace(num_classes=5, image_shape=(3, 32, 32), normalisation=images)  # as the weights of this test
    assert trained_networks(cfg, data, train)[0].weights == published.cached
