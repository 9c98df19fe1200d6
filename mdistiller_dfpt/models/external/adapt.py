"""Adapts any network to `StagedModel`: its stages are its own modules, found or named, and read by hooks."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...registry import suggest
from ..dummy import dummy_image, probing
from ..output import NoFeatures
from ..staged import Edit, Result, StagedModel
from .file_keys import Rename
from .find_stages import Call, find_stages, watch_calls
from .map_layout import Layout, find_layout, from_map, to_map


def _checked(title: str, name: str, calls: dict[str, Call]) -> Layout:
    if name not in calls:
        raise ConfigError(f"{title} has no module {name} that processes an image; {suggest(name, list(calls))}")
    layout = find_layout(calls[name].output) if calls[name].count == 1 else None
    if layout is None:
        reason = "runs more than once" if calls[name].count > 1 else "returns no feature map"
        raise ConfigError(f"{title}: the module {name} {reason}, so it cannot end a stage")
    return layout


def _with_parameters(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of these modules that have parameters of their own."""
    return [n for n in names if next(network.get_submodule(n).parameters(recurse=False), None) is not None]


def _to_own_keys(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for key in [k for k in state if k.startswith(f"{prefix}network.")]:
        state[prefix + key.removeprefix(f"{prefix}network.")] = state.pop(key)


def _from_own_keys(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        state[f"{prefix}network.{key.removeprefix(prefix)}"] = state.pop(key)


def _classifier(network: nn.Module, names: Sequence[str]) -> str:
    """The last linear layer or 1x1 convolution among these; empty if there is none."""
    layers = [n for n in names if isinstance(network.get_submodule(n), nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else ""


def adapt(network: nn.Module, image_size: int, stages: Sequence[str] = ()) -> StagedModel:
    """Any network as methods take it: a `StagedModel` itself, another one unmodified inside of an `AdaptedModel`.

    It is trained and frozen in place, and keeps its state_dict keys. `image_size`: height and width of its images.
    `stages`: names of the modules that end its stages; by default they are found. ConfigError if it cannot take a
    square image of that size with three channels.
    """
    return network if isinstance(network, StagedModel) else AdaptedModel(network, stages, image_size)


def refuse_plain(network: Any, role: str) -> None:
    """TypeError unless a network is one that methods take."""
    if not isinstance(network, StagedModel):
        raise TypeError(
            f"the {role} is a {type(network).__name__}, whose feature maps are not known: give"
            " mdistiller_dfpt.adapt(network, image_size) instead"
        )


class AdaptedModel(StagedModel):
    """An unmodified network whose feature maps are read and edited through hooks while its own forward runs.

    `stages` names the modules whose outputs end a stage, in order; by default they are found by running one image of
    `image_size`. Tokens are treated as maps on their 2-D grid. The state_dict keys are those of the network. `rename`
    is for the keys in its library's files. ConfigError if a name is unknown.

    If no feature maps are found, it has no stages: `stage_channels` is empty, and access to a map is a ConfigError.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str] = (), image_size: int = 224, *, rename: Rename = str):
        super().__init__()
        self.rename = rename
        self.image_size, title = image_size, type(network).__name__
        calls = watch_calls(network, image_size)
        names = tuple(stages) or find_stages(network, calls)
        layouts = [_checked(title, name, calls) for name in names]
        stem = find_layout(calls[names[0]].inputs) if names else None
        self.network, self.stage_names, self.has_stem = network, names, stem is not None
        self.layouts = [layouts[0] if stem is None else stem, *layouts] if names else []
        self.stage_channels = tuple(layout.channels for layout in self.layouts)
        self.has_tokens = any(layout.kind != "NCHW" for layout in layouts)
        order = list(calls)
        behind = order
        if names:
            behind = [n for n in order[order.index(names[-1]) + 1 :] if not names[-1].startswith(f"{n}.")]
        self.head_modules = tuple(f"network.{n}" for n in _with_parameters(network, behind))
        self.classifier_name = _classifier(network, behind)
        self.register_state_dict_post_hook(_to_own_keys)
        self.register_load_state_dict_pre_hook(_from_own_keys)

    def forward(self, image: Tensor) -> Result:
        return self.rerun(image, lambda i, x: x)

    def first_maps(self, image: Tensor, last: int) -> list[Tensor]:
        """As in `StagedModel`, but runs the full network."""
        return self(image)[1]["feats"][: last + 1]

    def rerun(self, image: Tensor, edit: Edit, before: Sequence[Tensor] = ()) -> Result:
        """As in `StagedModel`, but the stages of the maps `before` also run again, and their outputs are discarded."""
        aspect = image.shape[2] / image.shape[3]
        maps: dict[int, Tensor] = dict(enumerate(before))

        def change(i: int, x: Tensor) -> Tensor:
            if i < len(before) - 1:
                return x
            seen = to_map(x, self.layouts[i], aspect)
            if i >= len(before):
                maps[i] = edit(i, seen)
            return x if maps[i] is seen else from_map(maps[i], x, self.layouts[i])

        pooled: list[Tensor] = []
        with self._hooked(change), self._classifier_input(pooled):
            logits = self._plain(image)
        if not self.stage_names:
            title = type(self.network).__name__
            known = NoFeatures(
                f"no feature maps were found in {title}, but the method uses {{!r}}: name the modules that end its"
                " stages (DISTILLER.STUDENT_STAGES or TEACHER_STAGES), or use a method on logits"
            )
            if pooled and pooled[-1].dim() == 2:
                known["pooled_feat"] = pooled[-1]  # what the classifier takes
            return logits, known
        feats = [maps[i] for i in sorted(maps)]
        if not self.has_stem and 0 not in maps:
            feats.insert(0, feats[0])
        vector = pooled[-1] if pooled else feats[-1]
        vector = vector.mean((2, 3)) if vector.dim() == 4 else vector
        return logits, {"feats": feats, "preact_feats": feats, "head_map": feats[-1], "pooled_feat": vector}

    def reaching_stages(self) -> list[int]:
        """As in `StagedModel`: behind the last block, a classifier that reads the class token ignores the map."""
        if not any(layout.prefix for layout in self.layouts):
            return super().reaching_stages()
        generator, black = torch.Generator().manual_seed(0), dummy_image(self, (3, self.image_size, self.image_size))
        image = torch.randn(black.shape, generator=generator).to(black)
        added: dict[int, Tensor] = {}

        def add(i: int, x: Tensor) -> Tensor:
            added[i] = torch.zeros_like(x, requires_grad=True)
            return x + added[i]

        with probing(self), torch.enable_grad():
            logits, features = self.rerun(image, add)
            # The logits of a new head may be zero, and the sum of a normalised vector is: its input, weighted at random
            read = features["pooled_feat"] if self.classifier_name else logits
            weights = torch.randn(read.shape, generator=generator).to(read)
            gradients = torch.autograd.grad((read * weights).sum(), list(added.values()), allow_unused=True)
        return [i for i, g in zip(added, gradients, strict=True) if i > 0 and g is not None and bool(g.any())]

    def _plain(self, image: Tensor) -> Tensor:
        """Logits of the network's own forward, extracted from any container it returns."""
        result = self.network(self.normalised(image))
        if isinstance(result, Mapping) and "logits" in result:
            return result["logits"]
        result = getattr(result, "logits", result)
        return result[0] if isinstance(result, tuple) else result

    @contextlib.contextmanager
    def _hooked(self, change: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        """Context in which `change(i, x)` replaces the output x of stage i; 0 is the input of the first stage."""
        handles = []
        if self.has_stem:
            first = self.network.get_submodule(self.stage_names[0])
            handles.append(first.register_forward_pre_hook(lambda _, args: (change(0, args[0]), *args[1:])))
        for i, name in enumerate(self.stage_names, start=1):

            def after(module: nn.Module, args: Any, output: Any, i: int = i) -> Any:
                if isinstance(output, tuple):
                    return (change(i, output[0]), *output[1:])
                return change(i, output)

            handles.append(self.network.get_submodule(name).register_forward_hook(after))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def _classifier_input(self, seen: list[Tensor]) -> Iterator[None]:
        if not self.classifier_name:
            yield
            return
        layer = self.network.get_submodule(self.classifier_name)
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            yield
        finally:
            handle.remove()

    @property
    def classifier_layer(self) -> nn.Linear:
        layer = self.network.get_submodule(self.classifier_name) if self.classifier_name else None
        if not isinstance(layer, nn.Linear):
            raise ConfigError(f"{type(self.network).__name__} has no linear classifier, which this method reuses")
        return layer

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise ConfigError(f"{type(self.network).__name__} is not split into stages; its head cannot run separately")
