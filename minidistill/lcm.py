"""Latent consistency models: consistency distillation on the table of a DDPM, k levels at a time.

A DDPM has 1000 noise levels. LCM trains on every k-th, k = 20, and the teacher's step is one DDIM step over k
levels. The consistency function mixes z and x_hat,

    f(z, i) = c_skip(i) z + c_out(i) x_hat,        f(z, 0) = z,

with scalings so steep that from the first level of its grid on f is x_hat: the boundary is a formality, and
what the network predicts is the end of the trajectory. Sampling is `renoise` on `lcm_function`.

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
from minidistill.phased import huber
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


def lcm_function(denoiser: Denoiser, table: int = 1000) -> Denoiser:
    """f = c_skip z + c_out x_hat as a denoiser, asked at t = (index + 1) / table.

    `renoise` samples from it at these times and then 0, where f is never asked.
    """

    def f(z: Batch, t: Time) -> Batch:
        x_hat = denoiser(z, t)
        if x_hat.shape != z.shape:
            raise ValueError(f"the network returned shape {tuple(x_hat.shape)} for z of {tuple(z.shape)}")
        c_skip, c_out = (like(c, z) for c in lcm_scalings((t * table).round() - 1))
        return c_skip * z + c_out * x_hat

    return f


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
    """LCM's loss: f at table index `index` against f where one DDIM step of the teacher lands, at index - k.

    Luo et al. (2023), algorithm 1. schedule: `tabulated(alpha_bar)`, whose time is (index + 1) / table. Below
    index k the step ends at index 0, where f is the identity. Distance as in `phased_loss`.
    """
    if index.shape != x.shape[:1] or not ((index >= 1) & (index < table)).all():
        raise ValueError(f"need one table index from 1 to {table - 1} for each sample")
    if k < 1:
        raise ValueError(f"k, the levels of one teacher step, must be at least 1, got {k}")
    huber(x[:1], huber_c)  # refuses a wrong huber_c before any work is done
    t, s = ((i + 1).to(x) / table for i in (index, (index - k).clamp(min=0)))
    z = mix(x, eps, t, schedule)
    found = lcm_function(student, table)(z, t)
    with torch.no_grad():  # a target is a constant
        wanted = lcm_function(target, table)(ddim_step(teacher(z, t), z, t, s, schedule), s)
    return huber(found - wanted, huber_c)


def guidance_embedding(w: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b dim"]:
    """How LCM tells the network its guidance w = scale - 1: sin and cos of 1000 w at dim / 2 frequencies.

    The frequencies fall from 1 to 1 / 10000 by one factor; all sines, then all cosines.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be even and at least 4, got {dim}")
    exponents = torch.linspace(0, 1, dim // 2, dtype=w.dtype, device=w.device)
    angles = 1000 * w[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
