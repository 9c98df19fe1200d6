"""What a CUDA graph does, on a CPU: a step's operators are recorded without effect, and run again where they lie."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Each would make a GPU wait, or bring numbers from the host that a graph cannot follow
REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "is_nonzero", "equal.default")


# The same, of what no operator is called for
REFUSED_METHODS = ("cpu", "numpy", "tolist")


def _tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def _key(x: Tensor) -> int:
    return x.untyped_storage()._cdata


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::") + "." + func._overloadname
        masks = name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1]))
        if name.startswith(REFUSED) or masks:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        unsaid = name.startswith("native_batch_norm")  # it writes running statistics, and its schema does not say so
        for i, argument in enumerate(func._schema.arguments):
            if unsaid or (argument.alias_info is not None and argument.alias_info.is_write):
                for t in _tensors(kwargs.get(argument.name, args[i] if i < len(args) else None)):
                    if _key(t) not in self.made and _key(t) not in self.before:
                        self.before[_key(t)] = (t.untyped_storage(), t.untyped_storage().clone())
        given = {_key(t) for t in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        self.made |= {_key(t) for t in _tensors(result)} - given
        self.calls.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, kept in self.calls:
                for old, new in zip(_tensors(kept), _tensors(func(*args, **kwargs)), strict=True):
                    if _key(old) != _key(new):
                        old.copy_(new)


def _refused(*args: Any) -> None:
    raise RuntimeError("operation not permitted when stream is capturing: a copy to the host")


class TapeRecorder:
    """In the place of `torch.cuda`; counts what it was asked for."""

    def __init__(self):
        self.eager_steps = self.recordings = self.replays = 0

    def eagerly(self, body: Any) -> None:
        self.eager_steps += 1
        body()

    def record(self, body: Any) -> Any:
        state, tape = torch.get_rng_state(), _Tape()
        try:
            with tape, pytest.MonkeyPatch.context() as patch:
                for name in REFUSED_METHODS:
                    patch.setattr(Tensor, name, _refused)
                body()
        finally:
            tape.undo()
            torch.set_rng_state(state)
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay
