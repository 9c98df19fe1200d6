"""Training steps as CUDA graphs: what Python takes milliseconds to issue is issued once, and replayed."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..data.batch import Share
from ..data.loader import Loader
from ..data.resident import ResidentLoader
from ..distillers import Distiller
from ..distributed import world_size

Body = Callable[[], None]


class Recorder(Protocol):
    """What makes a graph of a step; `torch.cuda` in a run."""

    def eagerly(self, body: Body) -> None:
        """Run it as it is, where graphs are recorded."""

    def record(self, body: Body) -> Body:
        """Record it without running it; what is returned runs it."""


class CudaRecorder:
    """Records on a stream of its own, on which the steps before it warm up what is allocated and chosen once."""

    def __init__(self):
        self.stream = torch.cuda.Stream()

    def eagerly(self, body: Body) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            body()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, body: Body) -> Body:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            body()
        return graph.replay


class _Graph(NamedTuple):
    index: Tensor  # read by the graph where it lies
    replay: Body


class CapturedSteps:
    """Steps over shares of a data set in memory, a graph for each number of samples.

    The first steps of a size run eagerly: they make the momenta and the sums that a graph then finds where they are.
    What Python says in a step (an epoch, a weight) is as it was when the graph was recorded: `forget` it where that
    changes. A step that cannot be recorded runs eagerly from then on, and a line says why.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[[Share], None], recorder: Recorder):
        self.step, self.recorder = step, recorder
        self.eager: Counter[int] = Counter()  # steps of each size that ran as they are
        self.graphs: dict[int, _Graph] = {}
        self.broken = False

    def run(self, share: Share) -> None:
        """Take the step."""
        size = len(share.index)
        if self.broken or (size not in self.graphs and self.eager[size] < self.WARM_UP):
            self.eager[size] += 1
            self.recorder.eagerly(lambda: self.step(share))
            return
        if size not in self.graphs and not self._recorded(share):
            self.run(share)
            return
        graph = self.graphs[size]
        graph.index.copy_(share.index)
        graph.replay()

    def forget(self) -> None:
        """Drop all graphs; the next step of each size runs eagerly, and the one after it is recorded anew."""
        self.graphs.clear()
        self.eager = Counter({size: min(count, self.WARM_UP - 1) for size, count in self.eager.items()})

    def _recorded(self, share: Share) -> bool:
        own = share._replace(index=share.index.clone())
        try:
            self.graphs[len(own.index)] = _Graph(own.index, self.recorder.record(lambda: self.step(own)))
        except RuntimeError as e:
            self.broken = True
            print(f"steps run eagerly, as this one cannot be captured: {' '.join(str(e).split())[:200]}", flush=True)
        return not self.broken


def why_eager(cfg: CN, distiller: Distiller, loader: Loader) -> str:
    """Why the steps of this run cannot be captured; empty where they can."""
    if loader.device.type != "cuda":
        return "graphs are for a GPU"
    if world_size() > 1:
        return "several processes exchange gradients in them"
    if not isinstance(loader, ResidentLoader):
        return "the images are not in memory"
    if distiller.needs_strong_view:
        return "strong views are made on the CPU"
    if cfg.SOLVER.TRAINER == "dot":
        return "SOLVER.TRAINER dot keeps its gradients on the host's books"
    if cfg.DISTILLER.TEACHER_TABLE and cfg.DISTILLER.TEACHER_TABLE_FILL == "lazily":
        return "the teacher's table is filled as it is read: DISTILLER.TEACHER_TABLE_FILL at once"
    return distiller.why_eager
