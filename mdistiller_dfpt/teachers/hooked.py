"""What the loop calls around a step, the same for methods and for teachers."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..data import Batch
from ..data.held_out import HeldOut
from ..errors import ConfigError, PluginError
from ..losses.term import RESERVED


def _noting(written: Any) -> Callable[..., None]:
    """`prepare` as written in a class, also as a static method, after which its instance is prepared."""
    prepare = (lambda self, batches: written.__func__(batches)) if isinstance(written, staticmethod) else written

    @functools.wraps(prepare)
    def noted(self: "Hooked", batches: Iterable[Batch]) -> None:
        prepare(self, batches)
        self.is_prepared = True

    return noted


def _note_loaded(module: nn.Module, incompatible: Any) -> None:
    """After a state is loaded, which has what `prepare` measured."""
    assert isinstance(module, Hooked)
    module.is_prepared = True


class Hooked(nn.Module):
    """A module with the loop's hooks, each of which does nothing by default, and with values to log."""

    passes: int = 1  # how often `prepare` is called, each time with other views of the training set

    held_out: float = 0.0  # the share of the training set that is not trained on, but given to it as `held`
    held: HeldOut | None = None

    is_prepared: bool = True  # False until the `prepare` of its class, if it has one, or the loading of a state

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "prepare" in vars(cls):
            cls.prepare = _noting(vars(cls)["prepare"])  # type: ignore[method-assign]
            cls.is_prepared = False

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(_note_loaded)

    def leave_out(self, index: Tensor) -> None:
        """Called before all else with the samples (N,) that no step trains on, if a part of the run holds some out."""

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called before the first step of a run, with the batches of the training set; `passes` times.

        Pass n of N has the batches of epoch n - N. The state after each of several passes is saved: a resumed run goes
        on with the next one, so what a pass leaves to it must be in `state_dict`.
        """

    def before_step(self) -> None:
        """Called between the backward pass and the optimiser step, for example to clip gradients."""

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step, to update state that has no gradient (a memory bank, an average)."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups: `params`, and `lr_factor`, a factor on the schedule's learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_factor": 1.0}]

    def log(self, name: str, value: Tensor) -> None:
        """Log a scalar of this step that is not a loss; the loop averages it over the epoch."""
        if name in RESERVED:
            raise PluginError(type(self), f"it logs {name!r}, a name that the loop logs itself: rename it")
        if not isinstance(value, Tensor) or value.shape != ():
            raise PluginError(type(self), f"it logs {name!r} as {type(value).__name__}; it must be a scalar tensor")
        self._logged[name] = value.detach()

    def take_logged(self) -> dict[str, Tensor]:
        """The values logged since the last call."""
        logged, self._logged = self._logged, {}
        return logged


def passes(parts: Iterable[Hooked]) -> Iterator[tuple[Hooked, int]]:
    """The passes over the training set before the first step: who is to `prepare`, and the epoch of its batches."""
    return ((part, epoch) for part in parts for epoch in range(1 - part.passes, 1))


def refuse_unprepared(parts: Sequence[Hooked]) -> None:
    """ConfigError if a method or a teacher has a `prepare` that was not called; the loop of this package calls it."""
    if raw := [type(part).__name__ for part in parts if not part.is_prepared]:
        raise ConfigError(
            f"{', '.join(raw)} measures something on the training set before the first step, which was not done: call"
            " mdistiller_dfpt.prepare(distiller, data)"
        )
