"""A tiny diffusion transformer: patches become tokens, time and class steer every block.

    image -> patches + positions -> [ adaLN-zero block ] x depth -> patches -> image
                                            ^
                          embedding of the time phi, plus that of the class

Peebles & Xie (2023), "Scalable diffusion models with transformers", section 3. Every block scales, shifts and
gates its two branches by numbers computed from the conditioning; these start at 0, so at first each block is
the identity and the network returns 0.

Attention is torch's fused kernel on an accelerator and from a hundred tokens on, where it is faster, and two
matrix products and a softmax otherwise. Forward-mode derivatives, which the kernel does not know, always take
the second way (for backward through backward see `fused`). Positions are sines of the patch coordinates, so
any image size divisible by the patch works without new parameters.

A video is generated frame by frame: the image, and a history of earlier frames at any sizes, in one sequence.
History tokens are placed on the image's grid and carry the sines of their age (Jin et al., 2024, rotate by
the number of the frame). An image is a video without a history, and the same weights serve both. For points
of the plane there is a small MLP.

A flow map has a second time, and the network gets the interval to it. The last layer of its embedding starts
at 0, so that with the weights of a network of one time it starts as that network, to the last bit.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from minidistill import need
from minidistill.need import Number, Whole, described, wide
from minidistill.schedules import Batch, Time

Clip = Float[Tensor, "b _ c _ _"]  # frames of a history: any number, of any size
FUSED = 100  # tokens from which a processor is faster with fused attention
INTERVAL_TOP = 4.0  # the highest frequency of an interval's embedding: flow maps are smooth in it


def sines(position: Float[Tensor, "*n"], dim: int, top: Number = 256.0) -> Float[Tensor, "*n dim"]:
    """cos and sin of the position, at dim / 2 frequencies from 1 to `top` that grow by one factor.

    In float32 at least: of an angle of 256 half precision knows a quarter of a radian.
    """
    if not (isinstance(position, Tensor) and position.is_floating_point()):
        raise ValueError(f"positions and times must be a float tensor, got {described(position)}")
    dim, top = need.whole("dim", dim, 2), need.number("top", top, least=1)
    position = position.to(wide(position.dtype))
    frequencies = torch.logspace(0, 1, dim // 2, base=top, dtype=position.dtype, device=position.device)
    angles = position[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_positions(n: int, n_ref: int, device: torch.device | str | None = None) -> Float[Tensor, " n"]:
    """Where the centres of n cells lie on a grid of n_ref cells of the same extent: 0 ... n - 1 if n = n_ref.

    Jin et al. (2024): a small frame of the past is interpolated onto the grid of the image.
    """
    n, n_ref = need.whole("n", n), need.whole("n_ref", n_ref)
    return (torch.arange(n, device=device) + 0.5) * (n_ref / n) - 0.5


def patch_positions(
    height: int, width: int, dim: int, like: Tensor, grid: tuple[int, int]
) -> Float[Tensor, "n dim"]:
    """One vector per patch, in reading order: half of it tells the row on the `grid`, half the column."""
    sides = zip((height, width), grid)
    rows, columns = (grid_positions(n, n_ref, like.device).to(like.dtype) for n, n_ref in sides)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    # one patch apart is at most one radian apart: neighbours look alike
    codes = [sines(axis.flatten() / 64, dim // 2, top=64.0) for axis in (row, column)]
    return torch.cat(codes, dim=-1).to(like.dtype)


def block_causal_mask(frame_ids: Int[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    """Who may look at whom, row at column: a token at every token of its own frame and of older frames."""
    if not torch.compiler.is_compiling():
        need.each("frame_ids", frame_ids, frame_ids, counts=True)
    return frame_ids[:, None] >= frame_ids[None, :]


class Attention(nn.Module):
    """Multi-head self-attention. Vaswani et al. (2017), section 3.2."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "n n"] | None = None) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if fused(x):
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q * q.shape[-1] ** -0.5 @ k.mT
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            mixed = scores.softmax(dim=-1) @ v
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


def fused(x: Float[Tensor, "b n d"]) -> bool:
    """Whether attention should be one kernel: where that is faster, and outside of forward-mode derivatives.

    The kernel has no second derivatives either, backward through backward, and torch's FLOP counter does not
    know it on every device. Inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH) both are there.
    """
    differentiating = getattr(forward_ad, "_current_level", 0) >= 0  # torch.func.jvp, and jvp of anything
    return not differentiating and (x.device.type != "cpu" or x.shape[1] >= FUSED)


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
    """net(z, t, interval=None, label=None, history=()) -> tangent, like z: (b, channels, height, width).

    t, (b,): an angle, or another time of that size. interval, (b,): how far the second time of a flow map
    lies below t, for networks made with interval=True; none is 0, the diagonal. Labels are 0 .. classes - 1;
    `net.null` = classes is the label that means none, for guidance, and the default. history: the frames
    before an image of a video, in clips (b, count, channels, height, width) of any sizes, oldest first.
    `top`: the highest frequency of the time's embedding. Raises ValueError when an image does not divide into
    patches, for labels out of range, and for images of another dtype than the weights.
    """

    def __init__(
        self,
        channels: Whole = 1,
        patch: Whole = 2,
        dim: Whole = 64,
        depth: Whole = 3,
        heads: Whole = 4,
        classes: Whole = 0,
        top: Number = 256.0,
        interval: bool = False,
    ):
        super().__init__()
        channels, patch, dim = (
            need.whole("channels", channels),
            need.whole("patch", patch),
            need.whole("dim", dim),
        )
        depth, heads, classes = (
            need.whole("depth", depth, 0),
            need.whole("heads", heads),
            need.whole("classes", classes, 0),
        )
        self.top = need.number("top", top, least=1)
        if dim % 4 or dim % heads:
            raise ValueError(f"dim must be divisible by 4 (positions) and by heads = {heads}, got {dim}")
        self.channels, self.patch, self.dim, self.null = channels, patch, dim, classes
        self.patches = nn.Linear(channels * patch**2, dim)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.modulation = zeros(nn.Linear(dim, 2 * dim))
        self.out = zeros(nn.Linear(dim, channels * patch**2))
        layers = (nn.Linear(dim, dim), nn.SiLU(), zeros(nn.Linear(dim, dim))) if interval else ()
        self.interval = nn.Sequential(*layers)

    def forward(
        self,
        z: Batch,
        t: Time,
        interval: Time | None = None,
        label: Int[Tensor, " b"] | None = None,
        history: Sequence[Clip] = (),
    ) -> Batch:
        self.look(z, t, label, interval)
        x, frame_ids = self.sequence(z, history)
        mask = block_causal_mask(frame_ids) if history else None
        return self.unpatch(*self.body(x, self.condition(t, label, interval), mask), z)

    def packed(
        self,
        zs: Sequence[Tensor],
        ts: Sequence[Tensor],
        label: Sequence[Tensor] | None = None,
        history: Sequence[Sequence[Clip]] | None = None,
    ) -> list[Tensor]:
        """forward for several sizes and lengths in one pass: they share a sequence, each sees itself only.

        Every sequence takes the same number of samples of each batch: there are as many sequences as the
        greatest common divisor of the batches.
        """
        nothing = [None] * len(zs)
        sequences = math.gcd(*(len(z) for z in zs))
        parts, frames = [], []
        for z, t, y, past in zip(zs, ts, label or nothing, history or nothing, strict=True):
            self.look(z, t, y)
            x, frame_ids = self.sequence(z, past or ())
            c = self.condition(t, y).expand(-1, x.shape[1], -1)
            parts.append([rearrange(a, "(s k) n d -> s (k n) d", s=sequences) for a in (x, c)])
            frames += [frame_ids] * (len(z) // sequences)
        owner = torch.repeat_interleave(torch.tensor([len(ids) for ids in frames], device=x.device))
        mask = block_causal_mask(torch.cat(frames)) & (owner[:, None] == owner[None, :])
        whole = self.body(*(torch.cat(part, dim=1) for part in zip(*parts)), mask)
        widths = [x.shape[1] for x, _ in parts]
        answers = []
        for z, *part in zip(zs, *(a.split(widths, dim=1) for a in whole)):
            x, c = (rearrange(a, "s (k n) d -> (s k) n d", k=len(z) // sequences) for a in part)
            answers.append(self.unpatch(x, c, z))
        return answers

    def look(self, z: Batch, t: Time, label: Int[Tensor, " b"] | None, interval: Time | None = None) -> None:
        """Raises ValueError unless images, times and labels are a batch that this network can take."""
        if torch.compiler.is_compiling():  # which cannot look at values
            return
        need.samples(images=z)
        need.each("t", t, z)
        look_at_interval(interval, z, self.interval)
        if label is not None:
            why = ": this network has no classes" if self.null == 0 else f", {self.null} for none"
            need.each("label", label, z, 0, self.null, counts=True, why=why)
        if z.dtype != self.out.weight.dtype and not torch.is_autocast_enabled(z.device.type):
            raise ValueError(
                f"images are {z.dtype}, the weights {self.out.weight.dtype}: use .to() on one of them"
            )

    def sequence(self, z: Batch, history: Sequence[Clip]) -> tuple[Float[Tensor, "b n d"], Int[Tensor, " n"]]:
        """All tokens, those of z last, and for each the number of its frame, oldest first."""
        if z.ndim != 4 or not all(clip.ndim == 5 and len(clip) == len(z) for clip in history):
            raise ValueError(
                f"need images (b, {self.channels}, height, width), with sides divisible by {self.patch}, "
                "and a history of clips (b, count, channels, height, width), "
                f"got {tuple(z.shape)} and {[tuple(clip.shape) for clip in history]}"
            )
        grid = tuple(side // self.patch for side in z.shape[2:])
        clips = [self.tokens(clip, grid) for clip in (*history, z[:, None])]
        past = sum(x.shape[1] for x in clips[:-1])
        ages = torch.arange(past, 0, -1, dtype=z.dtype, device=z.device)
        codes = sines(ages / 64, self.dim, top=64.0).to(z.dtype).split([x.shape[1] for x in clips[:-1]])
        clips[:-1] = [x + rearrange(code, "k d -> k 1 d") for x, code in zip(clips, codes)]
        counts = [n for x in clips for n in x.shape[1] * [x.shape[2]]]  # tokens of each frame
        x = torch.cat([rearrange(x, "b k n d -> b (k n) d") for x in clips], dim=1)
        if not history:  # nothing to copy to an accelerator, which a CUDA graph would not allow
            return x, torch.zeros(x.shape[1], dtype=torch.int64, device=z.device)
        frame_ids = [frame for frame, n in enumerate(counts) for _ in range(n)]
        return x, torch.tensor(frame_ids, device=z.device)

    def tokens(self, clip: Clip, grid: tuple[int, int]) -> Float[Tensor, "b k n d"]:
        """The patches of every frame as vectors, with their positions on the grid."""
        _, _, channels, height, width = clip.shape
        if channels != self.channels or height % self.patch or width % self.patch:
            raise ValueError(
                f"need images and frames of {self.channels} channels with sides divisible by {self.patch}, "
                f"got {tuple(clip.shape[2:])}"
            )
        patches = rearrange(clip, "b k c (h p) (w q) -> b k (h w) (c p q)", p=self.patch, q=self.patch)
        x = self.patches(patches)
        return x + patch_positions(height // self.patch, width // self.patch, self.dim, x, grid)

    def condition(
        self, t: Time, label: Int[Tensor, " b"] | None, interval: Time | None = None
    ) -> Float[Tensor, "b 1 d"]:
        """One vector from the time, or times, and the class."""
        label = torch.full(t.shape, self.null, device=t.device) if label is None else label
        c = self.time(sines(t, self.dim, self.top).to(self.out.weight.dtype)) + self.label(label.long())
        if len(self.interval):
            interval = torch.zeros_like(t) if interval is None else interval
            c = c + self.interval(sines(interval, self.dim, INTERVAL_TOP).to(c.dtype))
        return rearrange(F.silu(c), "b d -> b 1 d")

    def body(self, x: Tensor, c: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All blocks; the conditioning comes back with the tokens, for the last layer."""
        for block in self.blocks:
            x = block(x, c, mask)
        return x, c

    def unpatch(self, x: Tensor, c: Tensor, z: Batch) -> Batch:
        """The last layer, and patches put together to the shape of z."""
        height, width = (side // self.patch for side in z.shape[2:])
        x, c = x[:, -height * width :], c[:, -height * width :]  # of a sequence with a history, the image
        shift, scale = rearrange(self.modulation(c), "b m (two d) -> two b m d", two=2)
        x = self.out(normalize(x) * (1 + scale) + shift)
        return rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=self.patch, q=self.patch)


class MLP(nn.Module):
    """net(z, t, interval=None) -> tangent for points: z and the result (b, dim), t an angle (b,).

    interval, (b,): as in `DiT`, for networks made with interval=True. `top`: the highest frequency of the
    time's embedding. Raises ValueError for points of another dimension, and of another dtype than the
    weights.
    """

    def __init__(
        self,
        dim: Whole = 2,
        width: Whole = 128,
        depth: Whole = 3,
        dropout: Number = 0.0,
        top: Number = 16.0,
        interval: bool = False,
    ):
        super().__init__()
        self.top = need.number("top", top, least=1)
        self.dim, width, depth = (
            need.whole("dim", dim),
            need.whole("width", width),
            need.whole("depth", depth),
        )
        dropout = need.number("dropout", dropout, 0, 1)
        sizes = [dim + 16, *[width] * depth]
        layers = [
            layer
            for a, b in zip(sizes, sizes[1:])
            for layer in (nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout))
        ]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))
        self.interval = nn.Sequential(*([zeros(nn.Linear(16, width))] if interval else []))

    def forward(self, z: Float[Tensor, "b d"], t: Time, interval: Time | None = None) -> Float[Tensor, "b d"]:
        if not torch.compiler.is_compiling():
            need.samples(points=z)
            need.each("t", t, z)
            look_at_interval(interval, z, self.interval)
            dtype = self.body[-1].weight.dtype
            if z.shape[1:] != (self.dim,) or z.dtype != dtype:
                raise ValueError(f"need points (b, {self.dim}), {dtype}, got {tuple(z.shape)}, {z.dtype}")
        first, *rest = self.body
        hidden = first(torch.cat([z, sines(t, 16, self.top).to(z.dtype)], dim=1))
        if len(self.interval):
            interval = torch.zeros_like(t) if interval is None else interval
            hidden = hidden + self.interval(sines(interval, 16, INTERVAL_TOP).to(z.dtype))
        for layer in rest:
            hidden = layer(hidden)
        return hidden


def look_at_interval(interval: Time | None, z: Batch, embedding: nn.Sequential) -> None:
    """Raises ValueError unless it is None, or one for each sample of a network that was made for it."""
    if interval is None:
        return
    if not (isinstance(interval, Tensor) and interval.is_floating_point()):
        raise ValueError(
            f"the interval must be a float tensor, got {described(interval)}: labels go by name, label="
        )
    need.each("interval", interval, z)
    if not len(embedding):
        raise ValueError("this network has one time: a flow map needs one made with interval=True")


def normalize(x: Tensor) -> Tensor:
    """Layer normalization without parameters: the conditioning supplies scale and shift."""
    return F.layer_norm(x, x.shape[-1:])


def zeros(layer: nn.Linear) -> nn.Linear:
    """The layer with weight and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
