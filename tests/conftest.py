"""Tiny networks and data for all tests; one thread, so that forked children may use torch."""

import copy
import functools
import http.server
import threading

import pytest
import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.data import Batch, Data
from mdistiller_dfpt.data.in_memory import ImageSet, InMemoryLoader, Recipe
from mdistiller_dfpt.distillers import DISTILLERS, Distiller, build_distiller
from mdistiller_dfpt.models import StagedModel
from mdistiller_dfpt.models.staged import relu_pair

CLASSES = 4


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


class TinyNet(StagedModel):
    """Two stages with BatchNorm; `width` tells a teacher from a student."""

    def __init__(self, width: int = 4, num_classes: int = CLASSES):
        super().__init__()
        self.stage_channels = (width, width, 2 * width)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.layer2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width))
        self.fc = nn.Linear(2 * width, num_classes)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return relu_pair(self.bn1(self.conv1(x)))

    def stages(self):
        return [self._stem, lambda x: relu_pair(self.layer1(x)), lambda x: relu_pair(self.layer2(x))]


def tiny_networks(seed: int = 0) -> tuple[TinyNet, TinyNet]:
    """(student, teacher); the teacher's BatchNorm has seen data, so its running statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student, teacher = TinyNet(4), TinyNet(6)
        for _ in range(3):
            teacher(torch.randn(16, 3, 8, 8))
    return student, teacher.eval()


def tiny_cfg(*overrides: str) -> CN:
    return load_cfg(None, ["SOLVER.BATCH_SIZE", "16", "SOLVER.EPOCHS", "2", "LOG.TENSORBOARD", "False", *overrides])


def teach(network: nn.Module, batch: Batch, steps: int = 60) -> None:
    """Let a network learn a batch's labels."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch.image)[0], batch.target).backward()
        optimizer.step()
    network.eval()


def tiny_distiller(name: str, *overrides: str, seed: int = 0, knowing: bool = False) -> Distiller:
    """Any registered method over tiny networks; `knowing`: the teachers have learned `tiny_batch()`."""
    student, teacher = tiny_networks(seed)
    cfg = tiny_cfg("DISTILLER.TYPE", name, *overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = DISTILLERS[name]
        assistants = [TinyNet(5)] if "assistants" in method.needs else []
        for network in (teacher, *assistants) if knowing else ():
            teach(network, tiny_batch())
        distiller = build_distiller(
            cfg, student, teacher if method.needs_teacher else None, 48, image_shape=(3, 8, 8), assistants=assistants
        )
        distiller.prepare([tiny_batch()])
        return distiller.train()


def tiny_batch(size: int = 8, seed: int = 0, step: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 3, 8, 8, generator=generator)
    target = torch.arange(size) % CLASSES
    strong = torch.randn(size, 3, 8, 8, generator=generator)
    return Batch(image, target, torch.arange(size), epoch=1, step=step, strong=strong)


def take_steps(distiller: Distiller, steps: int, lr: float = 0.05) -> list[float]:
    """Plain SGD steps on one batch; the loss before each."""
    optimizer = torch.optim.SGD(distiller.parameter_groups(), lr=lr, momentum=0.9)
    history = []
    for step in range(1, steps + 1):
        batch = tiny_batch(step=step)
        _, losses = distiller(**batch.fields())
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        distiller.before_step()
        optimizer.step()
        distiller.after_step(batch)
        history.append(loss.item())
    return history


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return [k for k in before if not torch.equal(before[k], after[k])]


def tiny_data(train: int = 48, test: int = 20, batch: int = 16, seed: int = 1) -> Data:
    """Images whose class is their brightness, so that a network can learn it."""
    generator = torch.Generator().manual_seed(7)

    def images(count: int) -> ImageSet:
        labels = torch.arange(count) % CLASSES
        noise = torch.randint(0, 60, (count, 8, 8, 3), generator=generator)
        return ImageSet((noise + 48 * labels[:, None, None, None]).to(torch.uint8), labels, tuple("abcd"))

    recipe = Recipe(pad=1, flip=True, mean=(0.4,) * 3, std=(0.3,) * 3)
    return Data(
        InMemoryLoader(images(train), recipe, batch, train=True, seed=seed),
        InMemoryLoader(images(test), recipe, 7, train=False),
        CLASSES,
    )


@pytest.fixture
def server(tmp_path_factory):
    """A folder and the address at which a local server hands out its files; `agents` lists who asked."""
    folder = tmp_path_factory.mktemp("host")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()
