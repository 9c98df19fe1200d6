"""Every network of this package exports, and every method's deployed student, alone and with its own normalisation."""

from pathlib import Path

import pytest
import torch

from mdistiller_dfpt import DISTILLERS
from mdistiller_dfpt.data.normalisation import Normalisation
from mdistiller_dfpt.data.preprocessing import Preprocessing
from mdistiller_dfpt.distillers import Method
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.export.library_files import write_torchvision
from mdistiller_dfpt.export.logits_network import LogitsNetwork, preprocessing_in_words, program_of
from mdistiller_dfpt.export.onnx_file import write_onnx
from mdistiller_dfpt.export.torch_program import write_program
from mdistiller_dfpt.export.verify import largest_difference
from mdistiller_dfpt.launch.student import Student
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.runs.record import Record
from mdistiller_dfpt.testing import TinyNet, tiny_batch, tiny_distiller
from mdistiller_dfpt.testing.make import take_steps

IMAGES, OWN = Normalisation((0.5,) * 3, (0.25,) * 3), Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))


def student_of(network, size, classes, name="a network"):
    """A student that was not trained; its running statistics are of noise, so that its logits are not all zero."""
    preprocessing = Preprocessing(None, None, *IMAGES, (size, size))
    names = tuple(map(str, range(classes)))
    record = Record("{}", names, 8, (3, size, size), preprocessing, "KD", name, "", "noise", 1, {}, "")
    return Student(network, record, Path("none"))


def with_statistics(network, size):
    torch.manual_seed(0)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches; torchvision's MobileNetV3 moves its by 1 % a batch
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, size, size))
    return network.eval()


def assert_exports(student, write, file, bound=1e-5):
    size = student.record.image_shape[1]
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scale = student(images).abs().max()
    assert scale > 1e-3, "logits near zero would agree with anything"
    assert largest_difference(student, write(student, file), images) < bound * max(1, scale)


OURS = ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
OTHERS = [
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "timm/vit_tiny_patch16_224(depth=2, embed_dim=32, num_heads=2)",
]


@pytest.mark.parametrize("name", [OURS[0], OURS[2], OTHERS[2]])
def test_a_network_exports_as_a_program(name, tmp_path):
    size = 64 if "/" in name else 32
    network = with_statistics(build_model(name, num_classes=7, image_size=size), size)
    assert_exports(student_of(network, size, 7), write_program, tmp_path / "a.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OURS, *OTHERS])
def test_every_kind_of_network_exports_to_onnx(name, tmp_path):
    pytest.importorskip("onnxruntime")
    size = 64 if "/" in name else 32
    network = with_statistics(build_model(name, num_classes=7, image_size=size), size)
    assert_exports(student_of(network, size, 7), write_onnx, tmp_path / "a.onnx")


def test_a_student_with_its_own_normalisation_takes_the_images_of_its_dataset(tmp_path):
    pytest.importorskip("onnxruntime")
    network = with_statistics(TinyNet(), 8)
    network.renormalise(IMAGES, OWN)
    for write, file in ((write_program, "a.pt2"), (write_onnx, "a.onnx")):
        assert_exports(student_of(network, 8, 5), write, tmp_path / file)


WITH_MODULES = sorted(name for name, cls in DISTILLERS.items() if cls.deployed is not Method.deployed)


def test_some_methods_deploy_modules_beside_the_student():
    assert "SIMKD" in WITH_MODULES


@pytest.mark.parametrize("name", WITH_MODULES)
def test_the_modules_that_a_method_deploys_export_with_the_student(name, tmp_path):
    method = tiny_distiller(name)
    take_steps(method, 2)
    student = student_of(method.eval().deployed, 8, 5)
    keys = [key for key, _ in program_of(student).named_parameters()]
    assert not [key for key in keys if "teacher" in key]
    assert_exports(student, write_program, tmp_path / "a.pt2")


def test_a_student_with_modules_of_its_method_is_none_of_its_library(tmp_path):
    deployed = tiny_distiller("SIMKD").deployed
    with pytest.raises(ConfigError, match="^--to torchvision: the student of KD predicts with modules beside those of"):
        write_torchvision(student_of(deployed, 8, 5, "torchvision/resnet18"), tmp_path / "a.safetensors")


def test_the_only_output_is_the_logits():
    logits = LogitsNetwork(student_of(TinyNet(), 8, 5)).eval()(tiny_batch().image)
    assert tuple(logits.shape) == (8, 5)
    (output,) = program_of(student_of(TinyNet(), 8, 5)).graph_signature.user_outputs
    assert isinstance(output, str)


class DependsOnValues(TinyNet):
    def _stem(self, x):
        return super()._stem(x if x.sum() > 0 else -x)


def test_a_network_that_cannot_be_captured_is_refused_in_a_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^a network cannot be exported by torch.export \(.*\): --to safetensors"
    ) as e:
        write_program(student_of(DependsOnValues(), 8, 5), tmp_path / "a.pt2")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("resize", "crop", "size", "words"),
    [
        ((256,), (224, 224), (224, 224), "resized to the shorter side 256 (height x width, bilinear, antialiased), its"
         " centre of 224x224, (image / 255 - mean) / std with mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25"),
        ((32, 32), None, (224, 224), "resized to 32x32 (height x width, bilinear, antialiased), (image / 255 - mean) /"
         " std with mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25, resized to 224x224 (bilinear, antialiased)"),
    ],
)  # fmt: skip
def test_the_steps_of_the_preprocessing_are_said_in_order(resize, crop, size, words):
    assert preprocessing_in_words(Preprocessing(resize, crop, *IMAGES, size)) == f"an RGB image, {words}"
    assert preprocessing_in_words(None) == "the test transform of its dataset, which is one of its own"


def test_a_difference_in_a_single_image_is_found():
    network = with_statistics(TinyNet(), 8)
    images = torch.randn(70, 3, 8, 8)

    def other(batch):
        logits = network(batch)[0].clone()
        logits[(batch == images[69]).flatten(1).all(1), 2] += 0.5
        return logits

    with torch.no_grad():
        assert largest_difference(lambda x: network(x)[0], other, images) == pytest.approx(0.5, abs=1e-6)
