"""SOLVER.COMPILE: the forward and backward pass of a method as one compiled graph, by torch.compile."""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._functorch import config as functorch_config
from torch._inductor.runtime.cache_dir_utils import cache_dir

from ..data import Batch
from ..distillers import Method
from ..errors import ConfigError, DataError, UserError, message_of, users_line
from ..models.bfloat16 import speed_up

KEY = "SOLVER.COMPILE"


class CompilationError(UserError):
    """A step that torch.compile cannot compile."""

    exit_code = 1


def compile_method(distiller: Method, device: torch.device, backend: str = "inductor") -> None:
    """Compile `distiller(batch)`: the networks, the paths of the teacher, the losses and their backward pass.

    What is not compiled is Python's: hooks, guard and optimiser. ConfigError if there is no compiler for the device.
    """
    options: dict[str, bool] = {}
    if backend == "inductor":
        if device.type == "cpu" and cpp_compiler() is None:
            raise ConfigError(
                f"{KEY} is True; torch.compile needs a C++ compiler on a CPU, and there is none: install g++, name one"
                " in the environment variable CXX, or set the key to False"
            )
        # Random numbers are those of the eager step; on a GPU, kernels are launched as one graph ("reduce-overhead")
        options = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    if device.type == "cpu":
        speed_up()  # as `autocast` does outside of a graph
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it says that there is no CUDA
    # The first step takes several gradients of one graph, and some trainers do so at every step
    functorch_config.donated_buffer = False
    # Said between two graphs of one step, of tensors that PyTorch itself passes on
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    distiller.compile(backend=backend, options=options or None)


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile runs for a CPU, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def static(batch: Batch) -> Batch:
    """The batch, whose sizes are constants of a graph: a last batch of another size has a graph of its own.

    The numbers of epoch and step are not: a weight that rises with them needs no further graph.
    """
    for value in batch.given.values():
        if isinstance(value, Tensor):
            torch._dynamo.mark_static(value)
        elif isinstance(value, Batch):
            static(value)
    return batch


class CompiledSteps:
    """Says once what was compiled, and turns a failure of the compiler into one line."""

    def __init__(self) -> None:
        self.first = True

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around a step; CompilationError if it cannot be compiled."""
        before, start = counters["stats"]["unique_graphs"], time.monotonic()
        try:
            yield
        except torch._dynamo.exc.BackendCompilerFailed as e:
            if users_line(e) is not None:
                raise
            if isinstance(e.inner_exception, OSError):
                raise DataError(
                    f"{cache_dir()}: what torch.compile compiles cannot be kept there ({e.inner_exception.strerror});"
                    " name another folder in the environment variable TORCHINDUCTOR_CACHE_DIR, or free space, and start"
                    " the run again"
                ) from None
            why = f"{type(e.inner_exception).__name__}: {message_of(e.inner_exception)}".splitlines()[0]
            raise CompilationError(
                f"{KEY} is True, and PyTorch could not compile a step ({why}); set it to False, without"
                " SOLVER.SPEED auto, and start the run again"
            ) from None
        if self.first:
            self.first = False
            graphs, seconds = counters["stats"]["unique_graphs"] - before, time.monotonic() - start
            said = "1 graph" if graphs == 1 else f"{graphs} graphs, between which it is not compiled"
            print(f"{KEY}: the first step, compiled in {seconds:.0f} s, is {said}", flush=True)
