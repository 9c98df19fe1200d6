"""BatchNorm with statistics over the samples of all processes."""

from typing import Any

import torch
from torch import Tensor, nn

from ..distillers import Distiller, Method
from ..distributed import all_reduce


class _Sum(torch.autograd.Function):
    """Sums values in the forward pass and gradients in the backward pass over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient)


class SummedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Synchronised BatchNorm for CPUs, by sums over the processes; PyTorch has it only for GPUs."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of positions, as in PyTorch's SyncBatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        dims = [0, *range(2, x.dim())]
        values = x.float()
        # Mean: processes may have different numbers of samples, so sums and counts are exchanged
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = _Sum.apply(torch.cat([values.sum(dims), count]))
        mean, count = total[:-1] / total[-1], total[-1]
        # Variance about the mean of all: the difference of two large sums would cancel in float32
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.pow(2).sum(dims)) / count
        self._track(mean, variance * (count / (count - 1).clamp(min=1)))
        # Normalise; the running variance above is the unbiased one, as in PyTorch
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics, if there are any; without a momentum they are averages over all steps."""
        if not self.track_running_stats:
            return
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _summed(norm: nn.modules.batchnorm._BatchNorm) -> SummedBatchNorm:
    """The layer as a `SummedBatchNorm` with the same parameters and buffers."""
    summed = SummedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    summed.weight, summed.bias = norm.weight, norm.bias
    summed.running_mean, summed.running_var = norm.running_mean, norm.running_var
    summed.num_batches_tracked = norm.num_batches_tracked
    return summed.train(norm.training)


def with_synchronised_batch_norm(distiller: Method, device: torch.device) -> Method:
    """The distiller with synchronised BatchNorm; its state_dict keys and its frozen networks do not change.

    But those whose BatchNorm uses the statistics of the batch get it too.
    """
    distillers = [part for part in distiller.modules() if isinstance(part, Distiller)]
    in_batches = [part.teacher_network for part in distillers if part.teacher_batch_statistics]
    frozen = {id(m) for network in distiller.frozen() if network not in in_batches for m in network.modules()}
    convert = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else _summed
    converted: dict[int, nn.Module] = {}
    # With duplicates, so that a layer used in several places is replaced in each, by a single one
    for path, module in list(distiller.named_modules(remove_duplicate=False)):
        plain = isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        if plain and id(module) not in frozen:
            if id(module) not in converted:
                converted[id(module)] = convert(module)
            parent, _, name = path.rpartition(".")
            setattr(distiller.get_submodule(parent), name, converted[id(module)])
    return distiller
