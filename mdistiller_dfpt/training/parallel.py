"""The processes of a run under torchrun: initialisation, failures, and the wrapper of a distiller."""

import contextlib
import datetime
import inspect
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode as CN

from ..distillers import Method
from ..distributed import all_reduce, pick_device, rank, world_size
from ..errors import ConfigError, UserError

# Messages of the libraries below when another process ends; they raise no specific type
_SIGNS = ("gloo", "NCCL", "Application timeout", "Timed out waiting", "Connection closed", "Connection reset")
START = "start several processes by torchrun, which sets it"
MOST = 1_000_000  # processes
OF_NODE = "LOCAL_WORLD_SIZE"
REPORT_SECONDS = 3.0  # in which the live processes report, if one is missing


class PeerError(UserError):
    """Another process of the run ended or did not respond in time."""

    exit_code = 1


@contextlib.contextmanager
def process_group(cfg: CN) -> Iterator[None]:
    """Context of a process of the torchrun job, if there is one; only the first process prints."""
    if not _has_peers():
        yield
        return
    device = pick_device(cfg.EXPERIMENT.DEVICE)
    timeout = datetime.timedelta(seconds=cfg.EXPERIMENT.TIMEOUT)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = _backend(device, shared=str(device) == cfg.EXPERIMENT.DEVICE and _number(OF_NODE, 1, MOST, "1") > 1)
    try:
        store, number, world = next(dist.rendezvous("env://", timeout=timeout))
        # The store of torchrun still has the addresses of the processes before a restart
        store = dist.PrefixStore(f"start {restarts()}", store)
        dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=timeout)
    except RuntimeError as e:
        if not _is_of_peers(e):
            raise
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise PeerError(
            f"the {os.environ['WORLD_SIZE']} processes did not meet at {place} within EXPERIMENT.TIMEOUT"
            f" {cfg.EXPERIMENT.TIMEOUT:g} s ({str(e).splitlines()[0]}); start them all, by torchrun"
        ) from None
    try:
        with contextlib.redirect_stdout(io.StringIO() if rank() else sys.stdout):
            yield
        dist.destroy_process_group()
    except RuntimeError as e:
        if _is_of_peers(e):
            raise PeerError(
                f"{_silent(store)} ended or did not respond within EXPERIMENT.TIMEOUT {cfg.EXPERIMENT.TIMEOUT:g} s "
                f"({str(e).splitlines()[0]}); continue with --resume auto"
            ) from None
        raise


def _backend(device: torch.device, *, shared: bool) -> str:
    """The backends of the processes, by device; `shared`: those of a node are on one GPU, which NCCL refuses."""
    if device.type != "cuda" or shared:
        return "gloo"
    # Requests by signals are exchanged as numbers on the host, which NCCL cannot transfer
    return "cpu:gloo,cuda:nccl"


def restarts() -> int:
    """How often torchrun has started this job again, by `--max-restarts`."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0, MOST, "0")


def _is_of_peers(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)


def _has_peers() -> bool:
    """Whether this is a process of several; ConfigError if what torchrun sets in the environment is not right."""
    world = _number("WORLD_SIZE", 1, MOST + 1, "1")
    if world > 1:
        _number("RANK", 0, world)
        _number("LOCAL_RANK", 0, world, "0")
        _number("MASTER_PORT", 0, 65536)
        if not os.environ.get("MASTER_ADDR"):
            raise ConfigError(f"MASTER_ADDR is not set and WORLD_SIZE is {world}: {START}")
    return world > 1


def _number(name: str, least: int, below: int, default: str | None = None) -> int:
    text = os.environ.get(name, default)
    if text is None or not text.isdecimal() or not least <= int(text) < below:
        given = "not set" if text is None else text
        raise ConfigError(
            f"the environment variable {name} is {given}; it must be from {least} to {below - 1}: {START}"
        )
    return int(text)


def _silent(store: dist.Store) -> str:
    """The missing ranks: those that do not report within a few seconds, as all processes that miss another do."""
    missing = set(range(world_size())) - {rank()}
    deadline = time.monotonic() + REPORT_SECONDS
    with contextlib.suppress(RuntimeError):  # the store may have ended with its process
        store.set(f"alive/{rank()}", "")
        while missing and time.monotonic() < deadline:
            missing = {r for r in missing if not store.check([f"alive/{r}"])}
            time.sleep(0.1)
    return f"rank {', '.join(map(str, sorted(missing)))}" if missing else "another process"


def parallel(distiller: Method) -> nn.Module:
    """The distiller wrapped for several processes: gradients are averaged over them.

    Frozen networks are excluded. Buffers are not broadcast at each step; see `share_buffers`.
    """
    if world_size() == 1:
        return distiller
    # A method may skip a module in some epochs, so DDP detects the unused parameters at each step
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {buffers: False}
    return DistributedDataParallel(distiller, gradient_as_bucket_view=True, find_unused_parameters=True, **options)


def share_buffers(distiller: Method, more: Iterable[Tensor] = ()) -> None:
    """Copy the running statistics of the first process, and `more` tensors, to all others.

    Called before an evaluation or a checkpoint.
    """
    if world_size() == 1:
        return
    for tensor in more:
        dist.broadcast(tensor, 0)
    frozen = {id(b) for network in distiller.frozen() for b in network.buffers()}
    for buffer in distiller.buffers():
        if id(buffer) not in frozen and buffer.numel():
            dist.broadcast(buffer, 0)


def average_gradients(distiller: Method) -> None:
    """Average gradients as `parallel` does, after a backward pass that bypassed it."""
    for p in distiller.parameters():
        if p.requires_grad and p.grad is not None:
            p.grad.copy_(all_reduce(p.grad) / world_size())
