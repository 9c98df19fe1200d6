"""A network of another library gets images in its own normalisation, the others in the dataset's, bit for bit."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from mdistiller_dfpt import load_cfg, run
from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.data.normalisation import Normalisation
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.build import identity_of_run
from mdistiller_dfpt.launch.networks import build_network, normalisation_of
from mdistiller_dfpt.models import StagedModel, build_model
from mdistiller_dfpt.models.external.names import published_normalisation
from mdistiller_dfpt.runs.identity import differences

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
CIFAR = Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def as_loaded(raw, normalisation):
    mean, std = (torch.tensor(v)[:, None, None] for v in normalisation)
    return (raw - mean) / std


def test_the_published_ones_are_timms_and_torchvisions():
    assert published_normalisation("timm/vit_small_patch16_224") == HALF
    assert published_normalisation("timm/resnet18") == IMAGENET
    assert published_normalisation("torchvision/resnet18") == IMAGENET
    assert published_normalisation("resnet8x4") is None
    assert published_normalisation("my_package:build") is None
    cfg = timm.create_model("vit_tiny_patch16_224").pretrained_cfg
    assert published_normalisation("timm/vit_tiny_patch16_224") == (cfg["mean"], cfg["std"])


def test_a_network_computes_what_it_computes_on_images_of_its_own_normalisation():
    """The same as timm's distillation task does to the input of a teacher."""
    raw = torch.rand(2, 3, 32, 32)
    for make in (
        lambda: build_model("resnet8", num_classes=5),
        lambda: build_model("torchvision/resnet18", image_size=32),
    ):
        torch.manual_seed(0)
        network = make().eval()
        before = list(network.state_dict())
        with torch.no_grad():
            expected = network(as_loaded(raw, HALF))[0]
            network.renormalise(CIFAR, HALF)
            image = as_loaded(raw, CIFAR)
            for logits in (network(image)[0], network.rerun(image, lambda i, x: x)[0]):
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            maps, first = network(image)[1]["feats"], network.first_maps(image, 1)
            assert torch.equal(maps[1], first[1])
        assert list(network.state_dict()) == before


def test_equal_normalisations_change_no_bit():
    network = build_model("resnet8", num_classes=5)
    network.renormalise(CIFAR, CIFAR)
    image = torch.rand(2, 3, 32, 32)
    assert network.normalised(image) is image
    assert not [name for name, _ in network.named_buffers() if name.startswith("input_")]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvisions_networks_that_transform_their_input(name):
    """With published weights, torchvision's builder sets `transform_input`; here, it is their normalisation."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, init_weights=False, aux_logits=True, num_classes=5)
    theirs.transform_input = True
    ours = build_model(f"torchvision/{name}", num_classes=5, image_size=96)
    ours.network.load_state_dict(theirs.state_dict(), strict=False)
    ours.renormalise(IMAGENET, published_normalisation(f"torchvision/{name}"))
    image = as_loaded(torch.rand(2, 3, 96, 96), IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image)[0], theirs.eval()(image), rtol=1e-4, atol=1e-5)


def folder_cfg(tmp_path, *words):
    return load_cfg(None, [*write_data_set("folder", tmp_path), "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0",
                           "SOLVER.BATCH_SIZE", "4", "EXPERIMENT.DEVICE", "cpu", "LOG.PREFIX", str(tmp_path / "out"),
                           "MODEL.FAMILY", "cifar", "DISTILLER.STUDENT", "resnet8", *words])  # fmt: skip


def own_teacher(num_classes):
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=num_classes)


def test_teacher_and_student_differ_in_a_run(tmp_path, capsys):
    torch.save(own_teacher(4).state_dict(), tmp_path / "t.pth")
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", f"{__name__}:own_teacher", "DISTILLER.TEACHER_CKPT",
             str(tmp_path / "t.pth"), "SOLVER.EPOCHS", "1", "SOLVER.LR_DECAY_STAGES", "[]",
             "LOG.TENSORBOARD", "False"]  # fmt: skip
    own = ["DISTILLER.TEACHER_MEAN", "[0.5, 0.5, 0.5]", "DISTILLER.TEACHER_STD", "[0.5, 0.5, 0.5]"]
    cfg = folder_cfg(tmp_path, *words, *own)
    results = run(cfg)
    assert "teacher: images are normalised by its own mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5" in capsys.readouterr().out
    assert results["protocol"]["normalisation"] == {"images": str(IMAGENET), "teacher": str(HALF)}
    assert results["identity"]["normalisation"] == {"teacher": str(HALF)}
    data = build_data(cfg)
    plain = identity_of_run(folder_cfg(tmp_path, *words), data, ())
    assert "normalisation" not in plain
    assert "the images of the teacher are normalised otherwise" in differences(identity_of_run(cfg, data, ()), plain)


def test_the_normalisation_of_the_dataset_is_a_key(tmp_path):
    plain = build_data(folder_cfg(tmp_path))
    cfg = folder_cfg(tmp_path, "DATASET.MEAN", "[0.5, 0.5, 0.5]", "DATASET.STD", "[0.5, 0.5, 0.5]")
    half = build_data(cfg)
    assert (plain.normalisation, half.normalisation) == (IMAGENET, HALF)
    a, b = (next(iter(data.test.epoch(1))).image for data in (plain, half))
    raw = a * torch.tensor(IMAGENET.std)[:, None, None] + torch.tensor(IMAGENET.mean)[:, None, None]
    torch.testing.assert_close(b, as_loaded(raw, HALF), rtol=1e-4, atol=1e-5)
    assert normalisation_of(cfg, "student", "resnet8", half.normalisation) == HALF
    assert normalisation_of(cfg, "student", "torchvision/resnet18", half.normalisation) == IMAGENET


@pytest.mark.parametrize(("key", "value"), [("DATASET.MEAN", "[0.5]"), ("DISTILLER.TEACHER_STD", "[0.5, 0.5, 0.0]"),
                                            ("DISTILLER.STUDENT_MEAN", "[a, b, c]")])  # fmt: skip
def test_impossible_values_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key}.*three numbers"):
        load_cfg(None, [key, value])


class OwnForward(StagedModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.stage_channels = (3,)

    def forward(self, image):
        pooled = image.mean((2, 3))
        return self.fc(pooled), {"feats": [image], "preact_feats": [image], "pooled_feat": pooled}


def own_forward(num_classes):
    return OwnForward()


def test_a_network_whose_forward_cannot_be_given_other_images_is_refused(tmp_path):
    cfg = folder_cfg(tmp_path, "DISTILLER.STUDENT_MEAN", "[0.5, 0.5, 0.5]")
    with pytest.raises(ConfigError, match="has its own forward: do it there"):
        build_network(cfg, "student", f"{__name__}:own_forward", 4, (3, 32, 32), IMAGENET)


def test_a_teacher_whose_config_trains_it_otherwise_is_refused(tmp_path):
    (tmp_path / "teacher.yaml").write_text(
        "DISTILLER: {STUDENT: resnet14, STUDENT_MEAN: [0.5, 0.5, 0.5]}\n"
        f"DATASET: {{TYPE: folder, ROOT: {tmp_path}, SIZE: 32, CLASSES: 4}}\n"
    )
    cfg = folder_cfg(tmp_path, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet14", "DISTILLER.TEACHER_CFG",
                     str(tmp_path / "teacher.yaml"))  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"set DISTILLER.TEACHER_MEAN \[0.5, 0.5, 0.5\] DISTILLER.TEACHER_STD \[0.229"
    ):
        run(cfg)
