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
n + 1 states, stacked. The denoiser gets t (b,) in z's dtype, gradients pass, and ValueError is raised for
times that do not fall at every step or end below 0, and for an answer of another shape than z. The schedule
is read once, for all times: it must be one function for all samples. What a step multiplies z and x_hat by is
computed for the whole grid before it starts.

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
from minidistill.asking import Batch, Generator, Schedule, Time, ask_at, read
from minidistill.parameterization import Denoiser
from minidistill.schedules import coefficients, edm, motion, randn_like, rectified_flow, time_grid

Times = Float[Tensor, " n"]  # n times for n - 1 steps, decreasing


def ddim_step(x_hat: Batch, z: Batch, t: Time, s: Time, schedule: Schedule) -> Batch:
    """Keep the data and the noise that x_hat implies, and mix them anew: alpha_s x_hat + sigma_s eps_hat.

    With s > t it runs backwards: DDIM inversion. Raises ValueError for an x_hat of another shape than z, and
    where sigma_t = 0: there is no noise to keep.
    """
    need.samples(x_hat=x_hat, z=z)
    (alpha, sigma), (alpha_s, sigma_s) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    need.each("sigma", sigma.flatten(), z, above=0, why=": at 0 there is no noise to keep")
    eps_hat = (z - alpha * x_hat) / sigma
    return (alpha_s * x_hat + sigma_s * eps_hat).to(z.dtype)


def ddim(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """One DDIM step from each time to the next. First order; exact while x_hat does not change."""
    ts, found = stops(denoiser, z, times, schedule, "ddim")
    return walk(denoiser, z, ts, *ddim_mixture(*found), trajectory)


def ddim_mixture(level: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """DDIM steps without eps_hat: z_s = sigma_s/sigma_t z + (alpha_s - alpha_t sigma_s/sigma_t) x_hat."""
    keep = sigma[1:] / sigma[:-1]
    return keep, alpha[1:] - keep * alpha[:-1]


def euler(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Euler's method on dz/dt: z_s = z + (s - t) dz/dt. First order. For rectified flow it is DDIM."""
    if schedule in (rectified_flow, edm):  # there the slope is constant while x_hat is
        ts, found = stops(denoiser, z, times, schedule, "ddim")
        return walk(denoiser, z, ts, *ddim_mixture(*found), trajectory)
    ts, found = stops(denoiser, z, times, schedule, "euler", motion)
    dt, (a, b) = found[0].diff(dim=0), slope(*found[1:, :-1])
    return walk(denoiser, z, ts, 1 + dt * a, dt * b, trajectory)


def walk(
    denoiser: Denoiser, z: Batch, ts: Sequence[Time], keep: Tensor, take: Tensor, trajectory: bool
) -> Tensor:
    """Steps z_s = keep z + take x_hat(z, t): DDIM and Euler differ in these two numbers only."""
    look_at_steps(keep, take)
    states = [z]
    for t, k, x in zip(ts, keep, take):
        z = cast(k * z + x * ask_at(denoiser, z, t, "x"), z.dtype)
        if trajectory:
            states.append(z)
    return torch.stack(states) if trajectory else z


def slope(alpha: Tensor, sigma: Tensor, d_alpha: Tensor, d_sigma: Tensor) -> tuple[Tensor, Tensor]:
    """a and b of dz/dt = a z + b x_hat, which is alpha' x_hat + sigma' eps_hat without eps_hat."""
    a = d_sigma / sigma
    return a, d_alpha - alpha * a


def heun(denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, trajectory: bool = False) -> Tensor:
    """Heun's method on dz/dt: an Euler step, then the mean of the slopes at its two ends. Second order.

    A step that ends at sigma = 0, where the slope is 0 / 0, stays an Euler step, as in Karras et al. (2022).
    """
    ts, found = stops(denoiser, z, times, schedule, "heun", motion)
    ends = len(ts) - (need.extremes(found[2, -1])[0] == 0)
    a, b = slope(*found[1:, :ends])
    look_at_steps(a, b)
    states, slopes = [z], list(zip(ts, a, b))
    for dt, (t, a, b), end in zip(found[0].diff(dim=0), slopes, [*slopes[1:], None]):
        d = a * z + b * ask_at(denoiser, z, t, "x")  # the slope where the step starts
        z_s = cast(z + dt * d, z.dtype)  # Euler's step
        if end is not None:
            s, a, b = end
            d_s = a * z_s + b * ask_at(denoiser, z_s, s, "x")  # the slope where that ends
            z_s = cast(z + dt * (d + d_s) / 2, z.dtype)  # the step, with the mean of both
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

    Ends on f, never on noise; the states in between are the lifted ones. n steps need n - 1 noises of z's
    shape: pass them, no more and no fewer, or a generator to draw one from at each lift. The lift from the
    end e, where f lands, to time s keeps the marginals exact: alpha_s / alpha_e times the sample, plus noise
    of the variance that is missing. For EDM times that end at t_min, this is sqrt(s^2 - t_min^2).
    """
    ts, (_, alpha, sigma) = stops(f, z, times, schedule, "renoise")
    need.as_many("noises", noise, len(ts) - 2, "step but the last")
    for n in () if noise is None else noise:
        need.samples(noise=n, z=z)
    keep = alpha[1:-1] / alpha[-1]
    missing = (sigma[1:-1] ** 2 - (keep * sigma[-1]) ** 2).clamp(min=0).sqrt()
    look_at_steps(keep, missing)

    states, z = [z], ask_at(f, z, ts[0], "x")
    for i, t in enumerate(ts[1:-1]):
        fresh = noise[i].to(z) if noise is not None else randn_like(z, generator)
        z = cast(keep[i] * z + missing[i] * fresh, z.dtype)
        if trajectory:
            states.append(z)
        z = ask_at(f, z, t, "x")
    return torch.stack([*states, z]) if trajectory else z


def stops(
    denoiser: Denoiser, z: Batch, times: Times, schedule: Schedule, sampler: str, at: Callable = read
) -> tuple[Sequence[Time], Tensor]:
    """The n times, (b,) each; then one tensor of these times, alpha, sigma, and what else `at` says of them.

    The tensor is (3 or more, n, 1, ..., 1), to multiply z with. Raises ValueError, and warns, as `intervals`.
    """
    look_at_grid(denoiser, z, times)
    made_for = getattr(denoiser, "sampler", sampler)
    if made_for != sampler:
        warnings.warn(f"this student was distilled for {made_for}, not for {sampler}", stacklevel=3)
    times = times.to(z)
    found = torch.stack([times.to(need.wide(z.dtype)), *at(schedule, times)])
    return times[:, None].expand(-1, len(z)).unbind(), found.reshape(len(found), -1, *[1] * z.ndim)


def look_at_steps(*coefficients: Tensor) -> None:
    """Raises ValueError where they are infinite."""
    if not need.within(torch.stack(coefficients)):
        raise ValueError("no step where sigma or alpha is 0, or where the schedule changes infinitely fast")


def cast(z: Tensor, dtype: torch.dtype) -> Tensor:
    """z.to(dtype), which takes a microsecond even where there is nothing to do."""
    return z if z.dtype == dtype else z.to(dtype)


def intervals(denoiser: Denoiser, z: Batch, times: Times) -> Iterator[tuple[Time, Time]]:
    """(t, s) for each step, each (b,). Raises ValueError unless times fall and end at 0 or above.

    Warns when the denoiser is a student that was distilled for another grid.
    """
    look_at_grid(denoiser, z, times, stacklevel=3)
    yield from pairwise(times.to(z)[:, None].expand(-1, len(z)))


def look_at_grid(denoiser: Denoiser, z: Batch, times: Times, stacklevel: int = 4) -> None:
    """Raises ValueError unless times fall and end at 0 or above; warns a student of another grid."""
    need.samples(z=z)
    need.ordered("times", times)
    steps = getattr(denoiser, "steps", None)
    if steps is not None and not (
        len(times) == steps + 1 and torch.allclose(times, time_grid(steps).to(times))
    ):
        sentence = f"this student was distilled for time_grid({steps}): on any other grid it is wrong"
        warnings.warn(f"{sentence}, and more steps make it worse", stacklevel=stacklevel)
