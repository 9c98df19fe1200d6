"""The contract of all networks of this package: a stem, stages and a head, run by one `forward`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.normalisation import Normalisation
from ..errors import ConfigError

Stage = Callable[[Tensor], tuple[Tensor, Tensor]]
Edit = Callable[[int, Tensor], Tensor]
Result = tuple[Tensor, dict[str, Any]]


class StagedModel(nn.Module):
    """A classifier divided into a stem, stages and a head.

    A subclass sets `stage_channels` (width after the stem and after each stage) and `head_modules` (the attribute names
    of the modules that `head` trains, the linear classifier last), and implements `stages`, and `head_map` if there are
    layers between the last stage and the pooling. `forward` returns `(logits, features)` as in mdistiller, with `feats`
    and `preact_feats` (stem first, then one map per stage) and `pooled_feat` (B, C), and in addition `head_map`, the
    map that is pooled.
    """

    stage_channels: tuple[int, ...]
    head_modules: tuple[str, ...] = ("fc",)
    input_size: int | None = None  # height and width to which images are resized; None: as they are
    has_tokens: bool = False  # whether the maps are the tokens of a transformer or perceptron, on their grid

    def stages(self) -> list[Stage]:
        """The stem and the stages in order, each `x -> (activation, preactivation)`.

        Stage i+1 takes the activation of stage i. If a stage ends without an activation function, the two are equal.
        """
        raise NotImplementedError

    def head_map(self, x: Tensor) -> Tensor:
        """Map of the last stage (B, C, H, W) -> the map (B, C', H', W') that is pooled and classified."""
        return x

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of `head_map` -> (logits (B, classes), pooled feature (B, C'))."""
        pooled = global_pool(x)
        return self.get_submodule(self.head_modules[-1])(pooled), pooled

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map of the last stage (B, C, H, W) -> (logits (B, classes), pooled feature (B, C'))."""
        return self.classify(self.head_map(x))

    @property
    def classifier_layer(self) -> nn.Linear:
        """The linear classifier after the pooling."""
        return [m for m in self.get_submodule(self.head_modules[-1]).modules() if isinstance(m, nn.Linear)][-1]

    def classifier_of(self, head_map: Tensor) -> nn.Linear:
        """The linear classifier, for a method that applies it to positions of the map (B, C, H, W) that is pooled.

        ConfigError if a layer between the two changes the width, as in heads of two layers.
        """
        takes, width = self.classifier_layer.in_features, head_map.shape[1]
        if takes != width:
            raise ConfigError(
                f"the classifier of {type(getattr(self, 'network', self)).__name__} takes {takes} features, and the map"
                f" that it pools has {width} channels: the method applies the one to the other, so use another network"
            )
        return self.classifier_layer

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return self.classifier_layer.out_features

    def renormalise(self, images: Normalisation, own: Normalisation) -> None:
        """From now on, take images that are normalised by `images`, and normalise them by `own` first.

        One multiplication and addition per channel, and none if the two are equal. Not part of the state_dict.
        """
        if images == own:
            return
        mean, std, own_mean, own_std = (torch.tensor(v, dtype=torch.float64) for v in (*images, *own))
        for name, value in (("input_scale", std / own_std), ("input_shift", (mean - own_mean) / own_std)):
            self.register_buffer(name, value.float()[:, None, None], persistent=False)

    def resize_input(self, size: int) -> None:
        """From now on, resize images to this height and width first, with antialiasing; none of this size already."""
        self.input_size = size

    def normalised(self, image: Tensor) -> Tensor:
        """Images as the loaders return them -> in the network's own normalisation and size; (B, 3, H, W)."""
        if self.input_size is not None:
            image = resized(image, (self.input_size, self.input_size))
        scale = self._buffers.get("input_scale")  # absent in most networks
        return image if scale is None else image * scale + self.get_buffer("input_shift")

    def forward(self, image: Tensor) -> Result:
        """Images (B, 3, H, W) -> (logits (B, classes), features)."""
        feats, preact_feats = [], []
        x = self.normalised(image)
        for stage in self.stages():
            x, preactivation = stage(x)
            feats.append(x)
            preact_feats.append(preactivation)
        return self._with_head(x, feats, preact_feats)

    def _with_head(self, x: Tensor, feats: list[Tensor], preact_feats: list[Tensor]) -> Result:
        x = self.head_map(x)
        logits, pooled = self.classify(x)
        return logits, {"feats": feats, "preact_feats": preact_feats, "head_map": x, "pooled_feat": pooled}

    def first_maps(self, image: Tensor, last: int) -> list[Tensor]:
        """The activations of the stem and of the stages up to `last`."""
        maps: list[Tensor] = []
        for stage in self.stages()[: last + 1]:
            maps.append(stage(maps[-1] if maps else self.normalised(image))[0])
        return maps

    def rerun(self, image: Tensor, edit: Edit, before: Sequence[Tensor] = ()) -> Result:
        """`forward` with `edit(i, x)` in place of the activation x of each stage i (0: the stem).

        `before`: the first maps, stem first, if they are already known; only the remaining stages are run.
        """
        feats, preact_feats = list(before), list(before)
        stages = self.stages()
        x = before[-1] if before else self.normalised(image)
        for i in range(len(before), len(stages)):
            activation, preactivation = stages[i](x)
            x = edit(i, activation)
            feats.append(x)
            preact_feats.append(preactivation if x is activation else x)  # an edited map has no preactivation
        return self._with_head(x, feats, preact_feats)

    def reaching_stages(self) -> list[int]:
        """The stages, counted from 1, whose maps the logits depend on: all, except in a network with a class token."""
        return list(range(1, len(self.stage_channels)))

    def get_stage_channels(self) -> list[int]:
        """mdistiller's name for `stage_channels`."""
        return list(self.stage_channels)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last BatchNorm of each stage after the stem, as mdistiller's networks list them; ConfigError without one.

        In a residual stage it is the one of the residual branch, whose output is added to the shortcut before the ReLU.
        """
        raise ConfigError(
            f"{type(self).__name__} does not say which BatchNorm ends each of its stages (`get_bn_before_relu`), and "
            "the method needs to know: choose another teacher"
        )


class LayeredModel(StagedModel):
    """The common structure: a stem of conv1, bn1, ReLU; stages layer1 .. layerN; global pooling; one linear layer."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return out, out

    def stages(self) -> list[Stage]:
        return [self._stem, *(getattr(self, f"layer{i}") for i in range(1, len(self.stage_channels)))]


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) in this height and width, bilinear with antialiasing; the same if they have it already."""
    if image.shape[2:] == size:
        return image
    return F.interpolate(image.float(), size, mode="bilinear", antialias=True).to(image.dtype)


def global_pool(x: Tensor) -> Tensor:
    """Mean over all positions, (B, C, H, W) -> (B, C), for any H and W."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def last_batch_norms(stages: Sequence[nn.Module]) -> list[nn.BatchNorm2d]:
    """The BatchNorm at the end of the residual branch of the last block of each stage."""
    blocks = [list(stage.children())[-1] for stage in stages]
    return [block.get_submodule("bn3" if hasattr(block, "bn3") else "bn2") for block in blocks]  # type: ignore[misc]


def add_shortcut(out: Tensor, shortcut: Tensor) -> Tensor:
    """The sum, in the memory of `out`, which nothing else reads: writing a new map costs more than the addition."""
    return out.add_(shortcut) if out.dtype == shortcut.dtype else out + shortcut


def relu_pair(preactivation: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a stage that ends in a ReLU: (activation, preactivation)."""
    return F.relu(preactivation), preactivation


def init_kaiming(model: nn.Module) -> None:
    """He initialisation by fan-out for convolutions, one and zero for normalisation layers."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
