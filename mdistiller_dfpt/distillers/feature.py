"""Common to feature-based methods: shapes inferred before training, pairs of stages, cross-entropy plus one term."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from ..models.dummy import ImageShape, dummy_image, probing
from ..models.output import as_output
from .base import Batch, Distiller, Output, StagedModel, TeacherLike

T = TypeVar("T")


class Shapes(NamedTuple):
    """Shapes of a network's outputs without the batch: (C, H, W) per map, the widths of pooled feature and logits."""

    feats: list[tuple[int, int, int]]
    preact_feats: list[tuple[int, int, int]]
    pooled: int
    classes: int


def output_of(network: nn.Module, image_shape: ImageShape) -> Output:
    """The output for a dummy image; a network without the features that a method uses is refused with it, at build."""
    with probing(network):
        return as_output(network(dummy_image(network, image_shape)))


def feature_shapes(network: nn.Module, image_shape: ImageShape) -> Shapes:
    """Shapes for an image (3, H, W), from a dummy image in eval mode; statistics and weights do not change."""
    with probing(network):
        logits, features = network(dummy_image(network, image_shape))
    feats, preact_feats = ([_map_shape(f) for f in features[key]] for key in ("feats", "preact_feats"))
    return Shapes(feats, preact_feats, features["pooled_feat"].shape[1], logits.shape[1])


def _map_shape(x: Tensor) -> ImageShape:
    _, channels, height, width = x.shape
    return channels, height, width


def stage_pairs(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Pairs of items per stage (stem first in both, omitted), counted from the end if the depths differ."""
    count = min(len(student), len(teacher)) - 1
    return list(zip(student[-count:], teacher[-count:], strict=True))


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W), the larger average-pooled to the height and width of the smaller."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    a, b = (x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return a, b


def refuse_other_width(networks: Sequence[StagedModel], image_shape: ImageShape) -> None:
    """ConfigError if the classifier of a network cannot be applied to the positions of the map that it pools."""
    for network in networks:
        network.classifier_of(output_of(network, image_shape).features["head_map"])


def refuse_trained_path(distiller: Distiller, use: str) -> None:
    """ValueError if the matched path is trained with the student; `use`: what the method makes of it at the start."""
    if distiller.teacher.learns(distiller.path):
        raise ValueError(
            f"{use} the path {distiller.path!r} before the first step, and the path is trained with the student: select"
            " a frozen path, for example `DISTILLER.PATHS.teacher 1.0`"
        )


def refuse_trained_network(distiller: Distiller, use: str) -> None:
    """ValueError unless the network of the matched path is frozen; `use`: what the method runs of it."""
    if distiller.teacher_network not in distiller.frozen():
        raise ValueError(
            f"{use} of a frozen network, and the path {distiller.path!r} is trained with the student: select a frozen "
            "path, for example `DISTILLER.PATHS.teacher 1.0`"
        )


def check_shapes(shapes: Mapping[str, tuple[object, object]]) -> dict[str, object]:
    """{key: (given, inferred)} -> {key: inferred}; empty or 0 means not given.

    ValueError if a config gives a shape that the networks do not have.
    """
    for key, (given, inferred) in shapes.items():
        if given not in (0, []) and given != inferred:
            raise ValueError(f"{key} is {given}; these networks have {inferred}: correct it or remove it")
    return {key: inferred for key, (_, inferred) in shapes.items()}


def weights(ce: float, feat: float) -> CN:
    """The LOSS section of mdistiller's feature-based methods."""
    return CN({"CE_WEIGHT": ce, "FEAT_WEIGHT": feat})


WEIGHT_LIMITS: Mapping[str, Limit] = {"LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.FEAT_WEIGHT": NOT_NEGATIVE}


class FeatureDistiller(Distiller):
    """Cross-entropy with the labels and one weighted term on features, which subclasses implement as `feature_loss`."""

    limits = WEIGHT_LIMITS
    inside: float = 1.0  # the sum of the weights that `feature_loss` applies itself

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, feat_weight: float):
        super().__init__(student, teacher)
        self.ce_weight, self.feat_weight = ce_weight, feat_weight

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The method's term before its weight, a scalar."""
        raise NotImplementedError

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "feat": distillation(self.feature_loss(student, teacher, batch), self.feat_weight, inside=self.inside),
        }
