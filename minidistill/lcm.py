"""Latent consistency models: consistency distillation on the table of a DDPM, k levels at a time.

A DDPM has 1000 noise levels. LCM trains on every k-th, k = 20, and the teacher's step is one DDIM step over k
levels. The consistency function mixes z and x_hat,

    f(z, i) = c_skip(i) z + c_out(i) x_hat,        f(z, 0) = z,

with scalings so steep that from the first level of its grid on f is x_hat: the boundary is a formality, and
what the network predicts is the end of the trajectory. Sampling is `renoise` on the same levels.

Luo et al. (2023), "Latent consistency models", algorithm 1. The network's time is t = (i + 1) / 1000 of
`tabulated(alpha_bar)`. Guidance: LCM's w is `guided`'s scale - 1.

>>> lcm_timesteps(4)
[999, 759, 499, 259]
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minidistill.parameterization import Denoiser
from minidistill.samplers import ddim_step
from minidistill.schedules import Batch, Number, Schedule, Time, like, mix


def lcm_timesteps(steps: int, origin: int = 50, table: int = 1000) -> list[int]:
    """The table indices that LCM samples at, falling: `steps` of the `origin` that it was trained on."""
    if not (1 <= steps <= origin <= table):
        raise ValueError(f"need steps <= {origin} <= {table}, got {steps} steps")
    k = table // origin
    return [table - 1 - k * (i * origin // steps) for i in range(steps)]


def lcm_scalings(index: Float[Tensor, " b"], scaling: Number = 10.0) -> tuple[Time, Time]:
    """c_skip and c_out of f(z) = c_skip z + c_out x_hat, by table index: the identity at index 0.

    At index 1 c_skip is already 0.0025: f is x_hat on the grid of LCM, whose first index is 19. It differs
    from Song et al. (2023): no factor data_std in c_out, and c_skip + c_out^2 = 1.
    """
    u = scaling * index
    return 0.25 / (u**2 + 0.25), u / torch.sqrt(u**2 + 0.25)


def lcm_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x: Batch,
    eps: Batch,
    index: Int[Tensor, " b"],
    schedule: Schedule,
    k: int = 20,
    table: int = 1000,
    huber_c: Number = 1e-3,
) -> Time:
    """LCM's loss: f at table index `index` against f at index - k, where one DDIM step of the teacher lands.

    Luo et al. (2023), algorithm 1. schedule: `tabulated(alpha_bar)`, whose time is (index + 1) / table. Below
    index k the step ends at index 0, where f is the identity. Distance as in `phased_loss`.
    """
    if index.shape != x.shape[:1] or not ((index >= 1) & (index < table)).all():
        raise ValueError(f"need one table index from 1 to {table - 1} for each sample")
    earlier = (index - k).clamp(min=0)
    t, s = ((i + 1).to(x) / table for i in (index, earlier))

    def f(denoiser: Denoiser, z: Batch, t: Time, index: Tensor) -> Batch:
        c_skip, c_out = (like(c, z) for c in lcm_scalings(index.to(z)))
        x_hat = denoiser(z, t)
        if x_hat.shape != z.shape:
            raise ValueError(f"the network returned shape {tuple(x_hat.shape)} for z of {tuple(z.shape)}")
        return c_skip * z + c_out * x_hat

    z = mix(x, eps, t, schedule)
    found = f(student, z, t, index)
    with torch.no_grad():
        wanted = f(target, ddim_step(teacher(z, t), z, t, s, schedule), s, earlier)
    return (torch.sqrt((found - wanted) ** 2 + huber_c**2) - huber_c).reshape(len(x), -1).mean(1)


def guidance_embedding(w: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """How LCM tells the network its guidance w = scale - 1: sin and cos of 1000 w at dim / 2 frequencies.

    The frequencies fall from 1 to 1 / 10000 by one factor; all sines, then all cosines.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be even and at least 4, got {dim}")
    exponents = torch.linspace(0, 1, dim // 2, dtype=w.dtype, device=w.device)
    angles = 1000 * w[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
