"""Samplers: from noise to data through a list of decreasing times, with any denoiser.

DDIM is Euler's method in the plane (rho, z / sigma), where rho = alpha / sigma and the slope is x_hat:

    z_s / sigma_s = z_t / sigma_t + (rho_s - rho_t) x_hat(z_t, t)

Euler and Heun follow dz/dt = alpha' x_hat + sigma' eps_hat instead; `renoise` does not follow anything: it
jumps to the data and back to a lower noise level with fresh noise, which is right for a consistency function,
and for nothing else. Which sampler is right depends on what the network is.

DDIM: Song, Meng & Ermon (2021), eq. 12; in this form Salimans & Ho (2022), eq. 8. Heun: Karras et al. (2022),
algorithm 1. Renoise: Song et al. (2023), algorithm 1.

Every sampler starts with z at times[0] and ends at times[-1]; trajectory=True returns all n + 1 states,
stacked.

>>> from minidistill.schedules import rectified_flow
>>> perfect = lambda z, t: 0 * z  # all the data is at 0
>>> ddim(perfect, torch.ones(1, 2), time_grid(4), rectified_flow)
tensor([[0., 0.]])
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill.parameterization import Denoiser, convert
from minidistill.schedules import Batch, Schedule, Time, coefficients, like, randn_like, time_grid

Times = Float[Tensor, " n"]  # n times for n - 1 steps, decreasing


def ddim_step(x_hat: Batch, z: Batch, t: Time, s: Time, schedule: Schedule) -> Batch:
    """Keep the data and the noise that x_hat implies, and mix them anew: alpha_s x_hat + sigma_s eps_hat.

    With s > t it runs backwards: DDIM inversion. Raises ValueError where sigma_t = 0: there is no noise to
    keep.
    """
    if x_hat.shape != z.shape:
        raise ValueError(f"x_hat has shape {tuple(x_hat.shape)} but z has {tuple(z.shape)}")
    alpha_t, sigma_t = coefficients(schedule, t, z)
    alpha_s, sigma_s = coefficients(schedule, s, z)
    if (sigma_t == 0).any():
        raise ValueError(
            "a DDIM step cannot start where sigma = 0: z is the data and no noise is there to keep"
        )
    eps = (z - alpha_t * x_hat) / sigma_t
    return alpha_s * x_hat + sigma_s * eps


def ddim(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """One DDIM step from each time to the next. First order; exact while x_hat does not change."""
    states = [z]
    for t, s in intervals(denoiser, z, times):
        z = ddim_step(denoiser(z, t), z, t, s, schedule)
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def euler(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Euler's method on dz/dt: first order. For rectified flow it is DDIM."""
    states = [z]
    for t, s in intervals(denoiser, z, times):
        z = z + like(s - t, z) * convert(denoiser(z, t), z, t, schedule, "x", "velocity")
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def heun(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Heun's method on dz/dt: an Euler step, then the mean of the slopes at its two ends. Second order.

    A step that ends at sigma = 0, where the slope is 0 / 0, stays an Euler step, as in Karras et al. (2022).
    """
    states = [z]
    for t, s in intervals(denoiser, z, times):
        slope = convert(denoiser(z, t), z, t, schedule, "x", "velocity")
        z_s = z + like(s - t, z) * slope
        if (schedule(s)[1] > 0).all():
            slope_s = convert(denoiser(z_s, s), z_s, s, schedule, "x", "velocity")
            z_s = z + like(s - t, z) * (slope + slope_s) / 2
        z = z_s
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def renoise(
    f: Denoiser,
    z: Batch,
    times: Times,
    schedule: Schedule,
    noise: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Multistep consistency sampling: f jumps to times[-1], fresh noise lifts to the next time, and so on.

    Ends on f, never on noise; the states in between are the lifted ones. n steps need n - 1 noises: pass
    them, or a generator to draw them from. The lift from the end e, where f lands, to time s keeps the
    marginals exact: alpha_s / alpha_e times the sample, plus noise of the variance that is missing. For EDM
    times that end at t_min, this is sqrt(s^2 - t_min^2).
    """
    steps = list(intervals(f, z, times))
    lifts = len(steps) - 1
    if noise is not None and [n.shape for n in noise] != [z.shape] * lifts:
        raise ValueError(
            f"{len(steps)} steps re-noise {lifts} times: need as many noises of shape {tuple(z.shape)}, "
            f"got {[tuple(n.shape) for n in noise]}"
        )
    states, end = [z], steps[-1][1]
    for i, (t, s) in enumerate(steps):
        z = f(z, t)
        if i < lifts:
            (alpha_s, sigma_s), (alpha_e, sigma_e) = (
                coefficients(schedule, s, z),
                coefficients(schedule, end, z),
            )
            fresh = noise[i].to(z) if noise is not None else randn_like(z, generator)
            keep = alpha_s / alpha_e
            z = keep * z + (sigma_s**2 - (keep * sigma_e) ** 2).clamp(min=0).sqrt() * fresh
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def intervals(denoiser: Denoiser, z: Batch, times: Times) -> Iterator[tuple[Time, Time]]:
    """(t, s) for each step, each (b,). Raises ValueError unless times fall and end at 0 or above.

    Warns when the denoiser is a student that was distilled for another grid.
    """
    if not (isinstance(times, Tensor) and times.ndim == 1 and len(times) >= 2 and times.is_floating_point()):
        raise ValueError("times must be a 1-D float tensor of n + 1 times for n steps, such as time_grid(n)")
    if not ((times.diff() < 0).all() and times[-1] >= 0):
        raise ValueError(f"times must fall from noise to data and never below 0, got {times.tolist()}")
    steps = getattr(denoiser, "steps", None)
    if steps is not None and not (
        len(times) == steps + 1 and torch.allclose(times, time_grid(steps).to(times))
    ):
        warnings.warn(
            f"this student was distilled for time_grid({steps}): its answers on any other grid mean nothing, "
            "and more steps make them worse",
            stacklevel=3,
        )
    for t, s in pairwise(times.to(z)):
        yield t.expand(len(z)), s.expand(len(z))
