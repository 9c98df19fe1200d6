"""Modules on tokens (B, L, C), for methods that add them to networks of any kind."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tokens_of(x: Tensor) -> Tensor:
    """A map (B, C, H, W) as tokens (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


class AttentionBlock(nn.Module):
    """A block of a vision transformer: attention and a perceptron, each after a LayerNorm and with a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(attended)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Each 2x2 neighbours of a map of tokens become one: (B, C, H, W) -> (B, C', H / 2, W / 2), as in Swin."""

    def __init__(self, source: int, width: int):
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * source), nn.Linear(4 * source, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))  # an odd side is extended by zeros
        quarters = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, 1).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def init_by_fan_out(module: nn.Module) -> None:
    """Truncated normal of deviation 0.02 for linear layers, He's initialisation by fan-out for convolutions."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
