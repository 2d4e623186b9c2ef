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

from minidistill import need
from minidistill.asking import Number, Whole, ask, same_dropout
from minidistill.parameterization import Denoiser
from minidistill.phased import huber
from minidistill.samplers import ddim_step
from minidistill.schedules import Batch, Schedule, Time, like, mix


def lcm_timesteps(steps: Whole, origin: Whole = 50, table: Whole = 1000) -> list[int]:
    """The table indices that LCM samples at, falling: `steps` of the `origin` that it was trained on.

    Those are k = table // origin levels apart, and the noisiest is k origin - 1, as in diffusers. Raises
    ValueError unless 1 <= steps <= origin <= table, all whole.
    """
    origin = need.whole("origin", origin, 1, need.whole("table", table))
    steps, k = need.whole("steps", steps, 1, origin), table // origin
    return [k * (origin - i * origin // steps) - 1 for i in range(steps)]


def lcm_scalings(index: Float[Tensor, " b"], scaling: Number = 10.0) -> tuple[Time, Time]:
    """c_skip and c_out of f(z) = c_skip z + c_out x_hat, by table index: the identity at index 0.

    With u = scaling index, c_skip = 0.25 / (u^2 + 0.25) and c_out = u / sqrt(u^2 + 0.25). At index 1 c_skip
    is already 0.0025: f is x_hat on the grid of LCM, whose first index is 19. It differs from Song et al.
    (2023): no factor data_std in c_out, and c_skip + c_out^2 = 1. Raises ValueError for an index below 0 and
    unless scaling is above 0.
    """
    need.each("index", index, index, least=0)
    u = need.number("scaling", scaling, above=0) * index.to(need.wide(index.dtype))
    return tuple(c.to(index.dtype) for c in (0.25 / (u**2 + 0.25), u / torch.sqrt(u**2 + 0.25)))


def lcm_function(denoiser: Denoiser, table: Whole = 1000) -> Denoiser:
    """f = c_skip z + c_out x_hat as a denoiser, asked at t = (index + 1) / table.

    `renoise` samples from it at these times and then 0, where f is never asked. Raises ValueError for t
    outside (0, 1], for an x_hat of another shape, and unless table is a whole number of at least 1.
    """
    table = need.whole("table", table)

    def f(z: Batch, t: Time) -> Batch:
        x_hat = ask(denoiser, z, t, "x")
        need.each("t", t, z, above=0, most=1, why=": (index + 1) / table")
        c_skip, c_out = (like(c, z) for c in lcm_scalings((t.to(need.wide(t.dtype)) * table).round() - 1))
        return (c_skip * z + c_out * x_hat).to(z.dtype)

    f.predicts = "x"
    return f


def lcm_loss(
    student: Denoiser,
    target: Denoiser,
    teacher: Denoiser,
    x: Batch,
    eps: Batch,
    index: Int[Tensor, " b"],
    schedule: Schedule,
    k: Whole = 20,
    table: Whole = 1000,
    huber_c: Number = 1e-3,
) -> Time:
    """LCM's loss: f at table index `index` against f where one DDIM step of the teacher lands, at index - k.

    Luo et al. (2023), algorithm 1. schedule: `tabulated(alpha_bar)`, whose time is (index + 1) / table. Below
    index k the step ends at index 0, where f is the identity. Distance as in `phased_loss`. No gradient
    reaches target and teacher, and their parameters keep requires_grad as it is. Raises ValueError
    unless x, eps and what the networks answer have one shape, there is an index from 1 to table - 1 for each
    sample, k is a whole number of at least 1 and huber_c is at least 0.
    """
    k, table = need.whole("k", k, why=", the levels of one teacher step"), need.whole("table", table, 2)
    need.each("index", index, x, 1, table - 1, counts=True)
    huber(x[:1], huber_c)  # refuses a wrong huber_c before any work is done

    t, s = ((i + 1).to(need.wide(x.dtype)) / table for i in (index, (index.long() - k).clamp(min=0)))
    z = mix(x, eps, t, schedule)
    with torch.no_grad():  # a target is a constant
        z_s = ddim_step(ask(teacher, z, t, "x"), z, t, s, schedule)
    with torch.no_grad(), same_dropout(x):
        wanted = ask(lcm_function(target, table), z_s, s, "x")
    return huber(ask(lcm_function(student, table), z, t, "x") - wanted, huber_c)


def guidance_embedding(w: Float[Tensor, " b"], dim: Whole) -> Float[Tensor, "b dim"]:
    """How LCM tells the network its guidance w = scale - 1: sin and cos of 1000 w at dim / 2 frequencies.

    The frequencies fall from 1 to 1 / 10000 by one factor; all sines, then all cosines. No network here takes
    it: LCM's training draws a w for each sample at random, and guides the teacher with scale=1 + w. Raises
    ValueError unless w is finite and dim is even and at least 4.
    """
    need.each("w", w, w)
    if need.whole("dim", dim, 4) % 2:
        raise ValueError(f"dim must be even, got {dim}")
    precise = w.to(need.wide(w.dtype))
    exponents = torch.linspace(0, 1, dim // 2, dtype=precise.dtype, device=w.device)
    angles = 1000 * precise[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(w.dtype)
