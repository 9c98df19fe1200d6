"""The pair of networks and the recipe for images of one's own, by what they are for and by how many images there are.

docs/photos.md has what was measured.
"""

from dataclasses import dataclass
from typing import Literal

from ..data.survey import Survey
from ..data.validation import number_of_samples

Purpose = Literal["phone", "server"]
TEST_SHARE, VALIDATION = 0.2, 0.15
NOT_MEASURED = "a common choice, not measured here"


@dataclass(frozen=True)
class Pair:
    """A teacher and a student with published weights."""

    teacher: str
    teacher_start: str
    student: str
    student_start: str
    interpolation: str  # with which both were trained
    lr: float
    sizes: tuple[int, int]  # of the teacher's and of the student's images, on a GPU
    sizes_on_cpu: tuple[int, int]
    why: str


PAIRS: dict[Purpose, Pair] = {
    "phone": Pair(
        "timm/tf_efficientnet_lite2.in1k", "pretrained", "timm/tf_efficientnet_lite0.in1k", "pretrained", "bicubic",
        0.001, (260, 224), (160, 128), "made for phones: without the operations that int8 represents badly",
    ),
    "server": Pair(
        "torchvision/convnext_small", "pretrained", "torchvision/resnet50", "pretrained:IMAGENET1K_V2", "bilinear",
        0.0003, (224, 224), (224, 224), NOT_MEASURED,
    ),
}  # fmt: skip


METHODS = (("TYPE: KD", "docs/photos.md compares it with others"),)


@dataclass(frozen=True)
class Plan:
    """What a starting config says, with a reason for each value that depends on the images or the machine."""

    pair: Pair
    sizes: tuple[int, int]  # of the teacher's and of the student's images
    why_size: str
    epochs: tuple[int, int]  # of teacher and student
    batch: int
    why_epochs: str
    workers: int
    amp: str
    why_amp: str
    has_test_set: bool
    skips: bool


def plan_for(found: Survey, purpose: Purpose, has_test_set: bool, cores: int, bfloat16_gpu: bool | None) -> Plan:
    """The plan for a folder of images; `bfloat16_gpu`: whether the GPU has bfloat16, None without a GPU."""
    pair, count = PAIRS[purpose], sum(n - number_of_samples(n, VALIDATION) for n in found.train)
    on_cpu = bfloat16_gpu is None
    sizes = pair.sizes_on_cpu if on_cpu else pair.sizes
    why_size = "the published size" if sizes[0] == sizes[1] else "the published sizes"
    if sizes != pair.sizes:
        why_size = "small, since there is no GPU here: 224 and more are several times slower, and more accurate"
    elif on_cpu:
        why_size += "; without a GPU, this takes about ten times as long as --for phone"
    if found.side < sizes[1]:
        side = max(64, found.side // 32 * 32)
        sizes, why_size = (side, side), f"half of the images have a side of at most {found.side} pixels"
    epochs, batch, why = _length(count)
    amp = "fastest" if on_cpu else "bf16" if bfloat16_gpu else "none"
    why_amp = "benchmarked before the first step: depthwise convolutions may be slower in bfloat16 on a CPU" if on_cpu \
        else "this GPU has bfloat16" if bfloat16_gpu else "this GPU has no bfloat16"  # fmt: skip
    smallest = min(batch, count)
    return Plan(pair, sizes, why_size, epochs, smallest, why, min(cores, 8), amp, why_amp, has_test_set,
                bool(found.broken))  # fmt: skip


LENGTHS: tuple[tuple[float, tuple[int, int], int], ...] = (
    (200, (15, 20), 8), (1000, (10, 12), 16), (5000, (8, 10), 32), (float("inf"), (8, 10), 64),
)  # fmt: skip
"""Below a number of training images: epochs of teacher and student, batch size."""


def _length(count: int) -> tuple[tuple[int, int], int, str]:
    """(epochs of teacher and student, batch size, why) for a number of training images."""
    epochs, batch = next((epochs, batch) for most, epochs, batch in LENGTHS if count < most)
    why = f"{count} images to train on, {-(-count // batch)} steps an epoch"
    return epochs, batch, why if 200 <= count < 1000 else f"{why}; {NOT_MEASURED}"
