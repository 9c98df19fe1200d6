"""The laws of networks: the contract of `StagedModel`."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..errors import ConfigError
from ..models import StagedModel
from ..models.dummy import probing
from ..models.statistics import measure_statistics
from .laws import BrokenLaw, holds, obey
from .make import changed, snapshot

Build = Callable[[int], StagedModel]
CLASSES = 7


class Subject:
    """A network in eval mode, with running statistics measured on noise, and a batch of two images."""

    def __init__(self, build: Build, image_shape: tuple[int, int, int]):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = build(CLASSES)
            if not isinstance(self.network, StagedModel):
                raise BrokenLaw(
                    f"{type(self.network).__name__} is no StagedModel: write one (docs/extend.md), or name it"
                    " as DISTILLER.STUDENT package.module:function, where a plain module is adapted"
                )
            with torch.no_grad():  # layers that are initialised to zero would hide what reaches the logits
                for parameter in self.network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
            measure_statistics(self.network, [torch.randn(8, *image_shape)])
            self.image = torch.randn(2, *image_shape)


def it_returns_logits_and_features(subject: Subject) -> None:
    """(B, classes), and `feats`, `preact_feats` (stem first), `head_map` and `pooled_feat` (B, C)."""
    with torch.no_grad():
        logits, features = subject.network(subject.image)
    holds(tuple(logits.shape) == (2, CLASSES), f"the logits are {tuple(logits.shape)}, not (2, {CLASSES})")
    missing = {"feats", "preact_feats", "head_map", "pooled_feat"} - set(features)
    holds(not missing, f"the features lack {sorted(missing)}")
    widths = tuple(m.shape[1] for m in features["feats"])
    expected = tuple(subject.network.stage_channels)
    holds(widths == expected, f"the maps have {widths} channels, stage_channels is {expected}")
    holds(len(features["preact_feats"]) == len(widths), "there must be one preactivation for each map")
    holds(features["pooled_feat"].dim() == 2, f"pooled_feat is {tuple(features['pooled_feat'].shape)}, not (B, C)")


def running_the_stages_again_gives_the_same(subject: Subject) -> None:
    """`rerun` without an edit equals `forward`, from any stage on."""
    network, image = subject.network, subject.image
    with torch.no_grad():
        logits, features = network(image)
        for known in range(len(features["feats"])):
            again, maps = network.rerun(image, lambda i, x: x, features["feats"][:known])
            holds(torch.allclose(again, logits, atol=1e-5), f"rerun from stage {known} on returns different logits")
            holds(len(maps["feats"]) == len(features["feats"]), f"rerun from stage {known} on returns different maps")
        for last in range(len(features["feats"])):
            first = network.first_maps(image, last)
            holds(len(first) == last + 1, f"first_maps({last}) returns {len(first)} maps")
            same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first, features["feats"], strict=False))
            holds(same, f"first_maps({last}) differ from the network's")


def an_edit_of_every_map_reaches_the_logits(subject: Subject) -> None:
    """The next stage reads the edited map."""
    with torch.no_grad():
        logits, _ = subject.network(subject.image)
        for stage in subject.network.reaching_stages():
            again, _ = subject.network.rerun(subject.image, partial(_edited_at, stage))
            holds(not torch.allclose(again, logits), f"an edit of stage {stage} does not affect the logits")


def _edited_at(stage: int, i: int, x: Tensor) -> Tensor:
    # No normalisation removes this, as it would remove a scale and a shift
    return x.flip(1) * 0.5 + x.roll(1, 0) if i == stage else x


def in_eval_mode_nothing_changes(subject: Subject) -> None:
    """A forward pass in eval mode changes no parameter and no buffer."""
    before = snapshot(subject.network)
    with probing(subject.network):
        subject.network(subject.image)
    keys = changed(before, subject.network.state_dict())
    holds(not keys, f"a forward pass in eval mode changed {keys[:3]}")


def the_classifier_has_the_classes(subject: Subject) -> None:
    """`classifier_layer`, if there is one, is the linear layer after the pooling."""
    try:
        layer = subject.network.classifier_layer
    except ConfigError:
        return
    holds(layer.out_features == CLASSES, f"classifier_layer has {layer.out_features} outputs instead of {CLASSES}")


def every_parameter_learns(subject: Subject) -> None:
    """The logits depend on every parameter that requires grad."""
    logits, _ = subject.network.train()(subject.image)
    logits.square().sum().backward()
    idle = [n for n, p in subject.network.named_parameters() if p.requires_grad and p.grad is None]
    subject.network.eval()
    holds(not idle, f"the logits do not depend on {idle[:3]}")


NETWORK_LAWS: tuple[Callable[[Subject], None], ...] = (
    it_returns_logits_and_features, running_the_stages_again_gives_the_same, an_edit_of_every_map_reaches_the_logits,
    in_eval_mode_nothing_changes, the_classifier_has_the_classes, every_parameter_learns,
)  # fmt: skip


def check_network(build: Build, image_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
    """Check the network of `build(num_classes)` against the contract; BrokenLaw with one line per broken law."""
    subject = Subject(build, image_shape)
    obey(NETWORK_LAWS, subject, type(subject.network).__name__)
