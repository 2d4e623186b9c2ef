"""A network of somebody else's as a denoiser; the way back is `to_scheduler`, of scheduler_configs.py.

A stranger is three things: what it predicts, its clock (how it is told the time) and its schedule.

    a table: DDPM, Stable Diffusion    eps, v or x    n t - 1           tabulated(alpha_bar)
    a flow: SD3, HunyuanVideo, Wan     eps - x        1000 t            rectified_flow
    EDM                                F(z / r)       log(sigma) / 4    edm

A reader returns (denoiser, schedule), which belong together, and hands `conditioning` to the network, which
stays what it is: train it through the denoiser, save it as its own library does.

>>> denoiser, schedule = table_denoiser(lambda z, index: 0 * z, torch.tensor([0.9, 0.25]), "v")
>>> denoiser(torch.ones(1, 2), torch.ones(1))  # x_hat = alpha z - sigma v
tensor([[0.5000, 0.5000]])
"""

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Net, Number, Time, ask, ask_stranger, inner
from minidistill.consistency import boundary
from minidistill.parameterization import Denoiser, convert
from minidistill.scheduler_configs import read_config
from minidistill.scheduler_configs import to_scheduler as to_scheduler  # the way back
from minidistill.schedules import Schedule, coefficients, edm, like, rectified_flow, tabulated, time_of
from minidistill.schedules import table_times as table_times  # the times of a scheduler

Table, Read = Float[Tensor, " n"], tuple[Denoiser, Schedule]


def table_denoiser(
    net: Net, alpha_bar: Table, kind: str = "eps", clip: Number | None = None, **conditioning
) -> Read:
    """A DDPM's network, on its table alpha_bar = cumprod(1 - beta). kind: "eps", "v" or "x".

    It is asked at index n t - 1, which is whole on the table. clip: x_hat is clamped to +-clip. Raises
    ValueError for another kind, for another table, and for eps on a table that ends at alpha = 0.
    """
    schedule, n = tabulated(alpha_bar), len(alpha_bar)
    clip = torch.inf if clip is None else need.number("clip", clip, above=0)
    if kind not in ("eps", "v", "x"):
        raise ValueError(f'kind must be "eps", "v" or "x", got {kind!r}')
    if alpha_bar[-1] > 0.5:
        raise ValueError(f"alpha_bar is cumprod(1 - beta), near 0 at the end, and not {alpha_bar[-1]:g}")
    if kind == "eps" and alpha_bar[-1] == 0:
        raise ValueError("this table ends at alpha = 0, where eps says nothing about the data: is it v?")

    def denoiser(z: Batch, t: Time) -> Batch:
        coefficients(schedule, t, z)  # refuses other times
        index = t.to(need.wide(t.dtype)) * n - 1
        on = (index - index.round()).abs() < 1e-3  # float32 is off by 3e-5
        said = ask_stranger(net, z, t, torch.where(on, index.round(), index).clamp(min=0), **conditioning)
        return convert(said, z, t, schedule, kind, "x").clamp(-clip, clip)

    denoiser.predicts = "x"
    return denoiser, schedule


def flow_denoiser(net: Net, scale: Number = 1000.0, **conditioning) -> Read:
    """A flow's network, eps - x, asked at scale t. A shift belongs to the grid of times, never to this clock.

    scale is 1 for Flux, Qwen-Image and others that multiply it themselves. Raises ValueError unless it is
    above 0: where time or sign is reversed, as in Mochi and Z-Image, wrap the network.
    """
    scale = need.number("scale", scale, above=0)

    def denoiser(z: Batch, t: Time) -> Batch:
        coefficients(rectified_flow, t, z)
        return z - like(t, z) * ask_stranger(net, z, t, scale * t, **conditioning)

    denoiser.predicts = "x"
    return denoiser, rectified_flow


def edm_denoiser(
    net: Net,
    data_std: Number = 0.5,
    sign: Number = 1,
    scale: Number = 0.25,
    t_min: Number = 0,
    **conditioning,
) -> Read:
    """EDM's F(z / r, scale log sigma), r^2 = sigma^2 + data_std^2. Karras et al. (2022), table 1.

    sign -1: it says -F, as CosXL. scale 250, t_min 0.002: a consistency model. Times are sigma, and start at
    EDM's 80 or the scheduler's sigma_max. Raises ValueError at sigma = 0, which has no logarithm.
    """
    sign, scale = need.number("sign", sign), need.number("scale", scale, above=0)

    def denoiser(z: Batch, t: Time) -> Batch:
        need.each("sigma", t, z, above=0, why=": the network is told its logarithm")
        c_skip, c_out, c_in = (like(c, z).to(z.dtype) for c in boundary(t, data_std, t_min))
        return c_skip * z + sign * c_out * ask_stranger(net, c_in * z, t, scale * t.log(), **conditioning)

    denoiser.predicts = "x"
    return denoiser, edm


def from_scheduler(net: Net, scheduler: object, clip: Number | None = None, **conditioning) -> Read:
    """The reader that the config of diffusers' scheduler asks for, by its names; clip is for tables. A
    transformer that is not known is asked at 1000 t: compare it with its pipeline. Raises ValueError, with
    the reason, for what no denoiser can follow, and for what is not known here."""
    family, settings = read_config(scheduler, type(inner(net)).__name__)
    if clip is not None and family != "table":
        raise ValueError("clip is for the x_hat of a table")
    settings |= {} if clip is None else {"clip": clip}
    reader = {"table": table_denoiser, "flow": flow_denoiser, "edm": edm_denoiser}[family]
    return reader(net, **settings, **conditioning)


def rescheduled(
    denoiser: Denoiser, source: Schedule, target: Schedule, end: Number | None = None
) -> Denoiser:
    """The denoiser of `source` on target's times: asked where the SNR is the same, at z of that size.

    Then ECT runs on a table, rescheduled(d, schedule, edm), and phases, on rectified_flow. More noise than
    source's `end` (80 for edm, or the scheduler's sigma_max; 1 else) counts as it. No gradient passes to t.
    """
    end = need.number("end", (80 if source is edm else 1) if end is None else end, above=0)

    def moved(z: Batch, t: Time) -> Batch:
        alpha, sigma = (c.detach() for c in coefficients(target, t, z))
        u = time_of(source, alpha.flatten(), sigma.flatten(), end)
        scale = torch.hypot(*coefficients(source, u, z)) / torch.hypot(alpha, sigma)
        return ask(denoiser, scale * z, u, "x").to(z.dtype)

    moved.predicts = "x"
    return moved
