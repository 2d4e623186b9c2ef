"""A tiny diffusion transformer: patches become tokens, time and class steer every block.

    image -> patches + positions -> [ adaLN-zero block ] x depth -> patches -> image
                                            ^
                          embedding of the time phi, plus that of the class

Peebles & Xie (2023), "Scalable diffusion models with transformers", section 3. Every block scales, shifts and
gates its two branches by numbers computed from the conditioning; these start at 0, so at first each block is
the identity and the network returns 0.

Attention is written as two matrix products and a softmax: forward-mode derivatives go through it, which fused
attention does not allow, and at these sizes it is as fast. Positions are sines of the patch coordinates, so
any image size divisible by the patch works without new parameters. For points of the plane there is a small
MLP.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minidistill.schedules import Batch, Time


def sines(position: Float[Tensor, "*n"], dim: int, top: float = 256.0) -> Float[Tensor, "*n dim"]:
    """cos and sin of the position, at dim / 2 frequencies from 1 to `top` that grow by one factor."""
    frequencies = torch.logspace(0, 1, dim // 2, base=top, dtype=position.dtype, device=position.device)
    angles = position[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patch_positions(height: int, width: int, dim: int, like: Tensor) -> Float[Tensor, "n dim"]:
    """One vector per patch of a grid, in reading order: half of it tells the row, half the column."""
    rows, columns = (torch.arange(size, dtype=like.dtype, device=like.device) for size in (height, width))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    # one patch apart is at most one radian apart: neighbours look alike
    return torch.cat([sines(axis.flatten() / 64, dim // 2, top=64.0) for axis in (row, column)], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention. Vaswani et al. (2017), section 3.2."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "n n"] | None = None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        scores = q * q.shape[-1] ** -0.5 @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        attention = scores.softmax(dim=-1)
        return self.out(rearrange(attention @ v, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """A transformer block whose scale, shift and gate come from the conditioning: adaLN-zero.

    The conditioning c is that of the sample, m = 1, or of each token, m = n.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.modulation = zeros(nn.Linear(dim, 6 * dim))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        c: Float[Tensor, "b m d"],
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = rearrange(
            self.modulation(c), "b m (six d) -> six b m d", six=6
        )
        x = x + gate_1 * self.attention(normalize(x) * (1 + scale_1) + shift_1, mask)
        return x + gate_2 * self.mlp(normalize(x) * (1 + scale_2) + shift_2)


class DiT(nn.Module):
    """net(z, t, label=None) -> tangent: z and the result (b, channels, height, width), t an angle (b,).

    Labels are 0 .. classes - 1; `net.null` = classes is the label that means none, for guidance, and the
    default. Raises ValueError when the image does not divide into patches.
    """

    def __init__(
        self,
        channels: int = 1,
        patch: int = 2,
        dim: int = 64,
        depth: int = 3,
        heads: int = 4,
        classes: int = 0,
    ):
        super().__init__()
        if dim % 4 or dim % heads:
            raise ValueError(f"dim must be divisible by 4 (positions) and by heads = {heads}, got {dim}")
        self.channels, self.patch, self.dim, self.null = channels, patch, dim, classes
        self.patches = nn.Linear(channels * patch**2, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.modulation = zeros(nn.Linear(dim, 2 * dim))
        self.out = zeros(nn.Linear(dim, channels * patch**2))

    def forward(self, z: Batch, t: Time, label: Int[Tensor, " b"] | None = None) -> Batch:
        return self.unpatch(*self.body(self.tokens(z), self.condition(t, label)), z)

    def packed(self, zs: list[Tensor], ts: list[Tensor], labels: list[Tensor] | None = None) -> list[Tensor]:
        """forward for several sizes in one pass: their tokens share a sequence, and each image sees its own.

        Every sequence takes the same number of images of each size: the batches' greatest common divisor of
        sequences.
        """
        labels = [None] * len(zs) if labels is None else labels
        sequences = math.gcd(*(len(z) for z in zs))
        tokens = [self.tokens(z) for z in zs]
        each = [
            self.condition(t, label).expand(-1, x.shape[1], -1) for t, label, x in zip(ts, labels, tokens)
        ]
        x, c = (
            torch.cat([rearrange(a, "(s k) n d -> s (k n) d", s=sequences) for a in parts], dim=1)
            for parts in (tokens, each)
        )
        lengths = [a.shape[1] for a in tokens for _ in range(len(a) // sequences)]
        owner = torch.repeat_interleave(torch.tensor(lengths, device=x.device))
        x, c = self.body(x, c, mask=owner[:, None] == owner[None, :])
        widths = [a.shape[1] * len(a) // sequences for a in tokens]
        back = [
            [
                rearrange(part, "s (k n) d -> (s k) n d", n=a.shape[1])
                for part, a in zip(whole.split(widths, 1), tokens)
            ]
            for whole in (x, c)
        ]
        return [self.unpatch(*both, z) for *both, z in zip(*back, zs)]

    def tokens(self, z: Batch) -> Float[Tensor, "b n d"]:
        """The patches of z as vectors, with their positions."""
        if z.ndim != 4 or z.shape[1] != self.channels or z.shape[2] % self.patch or z.shape[3] % self.patch:
            raise ValueError(
                f"need images (b, {self.channels}, height, width) with sides divisible by {self.patch}, "
                f"got {tuple(z.shape)}"
            )
        x = self.patches(rearrange(z, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch))
        return x + patch_positions(z.shape[2] // self.patch, z.shape[3] // self.patch, self.dim, like=x)

    def condition(self, t: Time, label: Int[Tensor, " b"] | None) -> Float[Tensor, "b 1 d"]:
        """One vector from the time and the class."""
        label = torch.full(t.shape, self.null, device=t.device) if label is None else label
        return rearrange(F.silu(self.time(sines(t, self.dim)) + self.label(label)), "b d -> b 1 d")

    def body(self, x: Tensor, c: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All blocks; the conditioning comes back with the tokens, for the last layer."""
        for block in self.blocks:
            x = block(x, c, mask)
        return x, c

    def unpatch(self, x: Tensor, c: Tensor, z: Batch) -> Batch:
        """The last layer, and patches put together to the shape of z."""
        shift, scale = rearrange(self.modulation(c), "b m (two d) -> two b m d", two=2)
        x = self.out(normalize(x) * (1 + scale) + shift)
        height = z.shape[2] // self.patch
        return rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=self.patch, q=self.patch)


class MLP(nn.Module):
    """net(z, t) -> tangent for points: z and the result (b, dim), t an angle (b,)."""

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3, dropout: float = 0.0):
        super().__init__()
        sizes = [dim + 16, *[width] * depth]
        layers = [
            layer
            for a, b in zip(sizes, sizes[1:])
            for layer in (nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout))
        ]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, z: Float[Tensor, "b d"], t: Time) -> Float[Tensor, "b d"]:
        return self.body(torch.cat([z, sines(t, 16, top=16.0)], dim=1))


def normalize(x: Tensor) -> Tensor:
    """Layer normalization without parameters: the conditioning supplies scale and shift."""
    return F.layer_norm(x, x.shape[-1:])


def zeros(layer: nn.Linear) -> nn.Linear:
    """The layer with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
