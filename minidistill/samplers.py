"""Samplers: from noise to data through a list of decreasing times, with any denoiser.

DDIM is Euler's method in the plane (rho, z / sigma), where rho = alpha / sigma and the slope is x_hat:

    z_s / sigma_s = z_t / sigma_t + (rho_s - rho_t) x_hat(z_t, t)

Euler and Heun follow dz/dt = alpha' x_hat + sigma' eps_hat instead; `renoise` does not follow anything: it
jumps to the data and back to a lower noise level with fresh noise, which is right for a consistency function,
and for nothing else. Which sampler is right depends on what the network is.

DDIM: Song, Meng & Ermon (2021), eq. 12; in this form Salimans & Ho (2022), eq. 8. Heun: Karras et al. (2022),
algorithm 1. Renoise: Song et al. (2023), algorithm 1.

Every sampler starts with z at times[0], with the variance of that time: for EDM's t = 80, 80 times unit noise
(from unit noise itself, all samples end near the mean). It ends at times[-1]; trajectory=True returns all
n + 1 states, stacked. The schedule is read once, for all times: it must be one function for all samples.

>>> from minidistill.schedules import rectified_flow
>>> perfect = lambda z, t: 0 * z  # all the data is at 0
>>> ddim(perfect, torch.ones(1, 2), time_grid(4), rectified_flow)
tensor([[0., 0.]])
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Generator, Schedule, Time, ask, read
from minidistill.parameterization import Denoiser
from minidistill.schedules import coefficients, edm, like, randn_like, rates, rectified_flow, time_grid

Times = Float[Tensor, " n"]  # n times for n - 1 steps, decreasing


def ddim_step(x_hat: Batch, z: Batch, t: Time, s: Time, schedule: Schedule) -> Batch:
    """Keep the data and the noise that x_hat implies, and mix them anew: alpha_s x_hat + sigma_s eps_hat.

    With s > t it runs backwards: DDIM inversion. Raises ValueError where sigma_t = 0: there is no noise to
    keep.
    """
    need.samples(x_hat=x_hat, z=z)
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    need.each("sigma", sigma.flatten(), z, above=0, why=": at 0 there is no noise to keep")
    eps_hat = (z - alpha * x_hat) / sigma
    return (alpha_s * x_hat + sigma_s * eps_hat).to(z.dtype)


def ddim(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """One DDIM step from each time to the next. First order; exact while x_hat does not change."""
    states = [z]
    for (t, alpha, sigma), (_, alpha_s, sigma_s) in pairwise(stops(denoiser, z, times, schedule, "ddim")):
        x_hat = ask(denoiser, z, t, "x")
        eps_hat = (z - alpha * x_hat) / sigma
        z = (alpha_s * x_hat + sigma_s * eps_hat).to(z.dtype)
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def slope(x_hat: Batch, z: Batch, alpha: Tensor, sigma: Tensor, d_alpha: Tensor, d_sigma: Tensor) -> Batch:
    """dz/dt = alpha' x_hat + sigma' eps_hat."""
    return d_alpha * x_hat + d_sigma * (z - alpha * x_hat) / sigma


def euler(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Euler's method on dz/dt: first order. For rectified flow it is DDIM."""
    states = [z]
    sampler = "ddim" if schedule in (rectified_flow, edm) else "euler"  # there they are the same
    for (t, *here), (s, *_) in pairwise(stops(denoiser, z, times, schedule, sampler, rates)):
        z = (z + like(s - t, z) * slope(ask(denoiser, z, t, "x"), z, *here)).to(z.dtype)
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def heun(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Heun's method on dz/dt: an Euler step, then the mean of the slopes at its two ends. Second order.

    A step that ends at sigma = 0, where the slope is 0 / 0, stays an Euler step, as in Karras et al. (2022).
    """
    states, at = [z], stops(denoiser, z, times, schedule, "heun", rates)
    last = at[-1] if need.extremes(at[-1][2])[0] == 0 else None  # the only one that can be clean
    for (t, *here), there in pairwise(at):
        s = there[0]
        d = slope(ask(denoiser, z, t, "x"), z, *here)
        z_s = (z + like(s - t, z) * d).to(z.dtype)
        if there is not last:
            d = (d + slope(ask(denoiser, z_s, s, "x"), z_s, *there[1:])) / 2
            z_s = (z + like(s - t, z) * d).to(z.dtype)
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
    generator: Generator = None,
    trajectory: bool = False,
) -> Tensor:
    """Multistep consistency sampling: f jumps to times[-1], fresh noise lifts to the next time, and so on.

    Ends on f, never on noise; the states in between are the lifted ones. n steps need n - 1 noises: pass
    them, or a generator to draw them from. The lift from the end e, where f lands, to time s keeps the
    marginals exact: alpha_s / alpha_e times the sample, plus noise of the variance that is missing. For EDM
    times that end at t_min, this is sqrt(s^2 - t_min^2).
    """
    at = stops(f, z, times, schedule, "renoise")
    lifts = len(at) - 2
    need.as_many("noises", noise, lifts, "step but the last")
    for n in () if noise is None else noise:
        need.samples(noise=n, z=z)
    states, (_, alpha_e, sigma_e) = [z], at[-1]
    for i, ((t, *_), (_, alpha_s, sigma_s)) in enumerate(pairwise(at)):
        z = ask(f, z, t, "x")
        if i < lifts:
            fresh = noise[i].to(z) if noise is not None else randn_like(z, generator)
            keep = alpha_s / alpha_e
            z = (keep * z + (sigma_s**2 - (keep * sigma_e) ** 2).clamp(min=0).sqrt() * fresh).to(z.dtype)
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def stops(
    denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, sampler: str, *more: Callable
) -> list[tuple[Tensor, ...]]:
    """(t, alpha, sigma) at each time, and what `more` functions, such as `rates`, say of the schedule there.

    t is (b,), the others have one axis for each axis of z. Raises ValueError as `intervals` does, and where
    one is infinite, or sigma is 0, before the last time.
    """
    steps = list(intervals(denoiser, z, times))
    found = torch.stack([c for f in (read, *more) for c in f(schedule, times.to(z))])
    if not (need.within(found[1, :-1], above=0) and need.within(found[:, :-1])):
        raise ValueError("no step can start where sigma is 0 or the schedule changes infinitely fast")
    made_for = getattr(denoiser, "sampler", sampler)
    if made_for != sampler:
        warnings.warn(f"this student was distilled for {made_for}, not for {sampler}", stacklevel=3)
    each_time = [*(t for t, _ in steps), steps[-1][1]]
    return list(zip(each_time, *found.to(need.wide(z.dtype)).reshape(len(found), -1, *[1] * z.ndim)))


def intervals(denoiser: Denoiser, z: Batch, times: Times) -> Iterator[tuple[Time, Time]]:
    """(t, s) for each step, each (b,). Raises ValueError unless times fall and end at 0 or above.

    Warns when the denoiser is a student that was distilled for another grid.
    """
    need.samples(z=z)
    need.ordered("times", times)
    steps = getattr(denoiser, "steps", None)
    if steps is not None and not (
        len(times) == steps + 1 and torch.allclose(times, time_grid(steps).to(times))
    ):
        sentence = f"this student was distilled for time_grid({steps}): on any other grid it is wrong"
        warnings.warn(f"{sentence}, and more steps make it worse", stacklevel=4)
    for t, s in pairwise(times.to(z)):
        yield t.expand(len(z)), s.expand(len(z))
