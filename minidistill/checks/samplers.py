"""Checks of the samplers: step by step against formulas written out here, and in the limit an exact flow."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidistill import samplers
from minidistill.checks import (
    Likely,
    accepts,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    recorded,
    refuses,
)
from minidistill.checks.oracle import mixture
from minidistill.schedules import cosine, edm, linear_beta, rates, rectified_flow, sigmoid, time_grid

BOUNDS = (1.0, 2.0, 3.0, 5.0, 10.0)  # where people clip x_hat
CLIPPED = "x_hat is clipped: the denoiser may answer any number."

# shapes: all axes alike, so that times along a wrong one give another number and no error; points; videos;
# images that are not square. Ends: pure noise and clean data, neither of them, and one step only
GRIDS = (
    (cosine, (0.95, 0.8, 0.35, 0.0), (4, 4, 4, 4)),
    (edm, (9.0, 5.0, 2.0, 0.5), (3, 2)),
    (rectified_flow, (0.9, 0.5, 0.4, 0.1), (2, 3, 1, 2, 5)),
    (linear_beta, (1.0, 0.5, 0.02), (3, 1, 2, 5)),
    (cosine, (1.0, 0.0), (2, 3)),
)


def normal(*shape: int, generator: torch.Generator, scale: float = 6.0) -> Tensor:
    """Numbers that are wider than unit noise, in float64."""
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def net(z: Tensor, t: Tensor) -> Tensor:
    """A denoiser that no formula knows. Its answers reach beyond 10, so that clipping shows."""
    return 12 * torch.tanh(z / 8) * (1 + column(t / (4 + t), z)) + 0.3 * torch.sin(z)


def at(schedule: Callable, z: Tensor, *times: Tensor) -> list[list[Tensor]]:
    """(alpha, sigma) at each of the times, with z's number of axes."""
    return [[column(c, z) for c in schedule(t)] for t in times]


# one step


def step(x_hat: Tensor, z: Tensor, t: Tensor, s: Tensor, schedule: Callable) -> Tensor:
    """DDIM, written out once more."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at(schedule, z, t, s)
    return alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t


def slope(x_hat: Tensor, z: Tensor, t: Tensor, schedule: Callable) -> Tensor:
    """dz/dt = alpha' x_hat + sigma' eps_hat."""
    ((alpha, sigma),) = at(schedule, z, t)
    d_alpha, d_sigma = (column(c, z) for c in rates(schedule, t))
    return d_alpha * x_hat + d_sigma * (z - alpha * x_hat) / sigma


def likely_steps(x: Tensor, z: Tensor, t: Tensor, s: Tensor, schedule: Callable) -> Likely:
    """Wrong DDIM steps that people have written. x is x_hat."""
    coefficients = at(schedule, z, t, s)
    (a, b), (c, d) = coefficients
    eps, dt = (z - a * x) / b, column(s - t, z)
    missing = "The data's share is still in the noise: eps_hat = (z - alpha_t x_hat) / sigma_t."
    variances = "The noise shrinks by sigma_s / sigma_t, the standard deviations, not by the variances."
    scaled = "It is the noise that is scaled by sigma_s / sigma_t, not z by alpha_s / alpha_t."
    squares = "The schedule says alpha and sigma themselves, not alpha_bar: no squares and no roots."
    swapped = "x_hat is taken for the noise, or alpha for sigma: x_hat is the data, with the share alpha."
    yield "This is x_hat, as if every step ended at s = 0: mix it with the noise for time s.", x
    yield "The noise keeps the size it has at t: sigma_s eps_hat, not sigma_t eps_hat.", c * x + b * eps
    yield "The data keeps the share it has at t: alpha_s x_hat, not alpha_t x_hat.", a * x + d * eps
    yield "What is left of z is sigma_t eps_hat: divide by sigma_t.", c * x + d * (z - a * x)
    yield (
        "alpha_s where alpha_t belongs: z is at time t, and so is the data in it.",
        c * x + d * (z - c * x) / b,
    )
    yield "The ratio is upside down: sigma_s / sigma_t.", c * x + b / d * (z - a * x)
    yield "The noise is missing: alpha_s x_hat + sigma_s eps_hat.", c * x
    yield "The data is missing: alpha_s x_hat + sigma_s eps_hat.", d * eps
    yield "A sign is wrong: alpha_s x_hat + sigma_s eps_hat.", c * x - d * eps
    yield "A sign is wrong: eps_hat = (z - alpha_t x_hat) / sigma_t.", c * x + d * (z + a * x) / b
    yield "t and s are exchanged: z is at time t, and goes to s.", a * x + b * (z - c * x) / d
    yield missing, c * x + d / b * z
    yield missing, c * x + d * z
    yield variances, c * x + d**2 / b**2 * (z - a * x)
    yield variances, c * x + d / b**2 * (z - a * x)
    yield variances, c * x + (d / b).sqrt() * (z - a * x)
    yield scaled, c / a * z + (c - d / b * a) * x
    yield scaled, c / a * z
    yield squares, c**2 * x + d**2 * (z - a**2 * x) / b**2
    yield squares, c.sqrt() * x + d.sqrt() * (z - a.sqrt() * x) / b.sqrt()
    yield swapped, c * (z - b * x) / a + d * x
    yield swapped, c * z + d * x
    yield "This is a step of Euler on dz/dt, and no DDIM step.", z + dt * slope(x, z, t, schedule)
    yield "eps_hat - x_hat is the velocity of rectified flow alone.", z + dt * (eps - x)
    yield (
        "sigma is what the schedule says: it is sqrt(1 - alpha^2) on some schedules only.",
        c * x + ((1 - c**2) / (1 - a**2)).sqrt() * (z - a * x),
    )
    if t.max() <= 1:
        yield "The schedule is ignored: this is cosine's step.", step(x, z, t, s, cosine)
    for small in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        hint = "A small number is added to sigma_t: divide by sigma_t itself."
        yield hint, c * x + d / (b + small) * (z - a * x)
    for bound in BOUNDS:
        low = x.clamp(-bound, bound)
        for wrong in (low, c * low + d * eps, step(low, z, t, s, schedule)):
            yield CLIPPED, wrong
    for one in (0, -1):
        for wrong in ((t[one], s[one]), (t, s[one]), (t[one], s)):
            wrong = step(x, z, *(u.expand_as(t) for u in wrong), schedule)
            yield "All samples get the times of one: each has its own t and s.", wrong
    for axis in range(1, z.ndim):
        if len(t) == z.shape[axis]:
            (p, q), (u, v) = (
                [e.reshape(-1, *[1] * (z.ndim - axis - 1)) for e in pair] for pair in coefficients
            )
            hint = (
                f"alpha and sigma run along axis {axis} of z, and must along axis 0: one of each per sample."
            )
            yield hint, u * x + v * (z - p * x) / q


def check_ddim_step(ddim_step=samplers.ddim_step, seed: int = 0) -> None:
    """Value on five schedules, both ends, small noise, gradients, float32, refusals."""
    g = torch.Generator().manual_seed(seed)
    for schedule, latest, shape in (
        (cosine, 1, (4, 4, 4, 4)),
        (linear_beta, 1, (5, 2)),
        (sigmoid, 1, (3, 2, 1, 3, 5)),
        (rectified_flow, 1, (2, 1, 3, 5)),
        (edm, 50, (6, 3)),
    ):
        x_hat, z = normal(2, *shape, generator=g)
        t = latest * (0.3 + 0.6 * torch.rand(shape[0], generator=g, dtype=torch.float64))
        s = t * (0.1 + 0.8 * torch.rand(shape[0], generator=g, dtype=torch.float64))
        what, inputs = f"z of shape {shape} on {schedule.__name__}", (x_hat, z, t, s)
        before = [a.clone() for a in inputs]
        found = accepts(lambda: ddim_step(*inputs, schedule), what)
        assert all(torch.equal(a, b) for a, b in zip(inputs, before)), (
            "x_hat, z, t and s belong to the caller and must stay as they are: z = z - x, not z -= x."
        )
        assert isinstance(found, Tensor) and found.shape == z.shape, (
            f"The result has the shape of z, whatever it is: here {shape}, "
            f"not {tuple(getattr(found, 'shape', ()))}."
        )
        assert found.dtype == z.dtype, f"The result has the dtype of z: here float64, not {found.dtype}."
        assert torch.equal(found, ddim_step(x_hat, z, t, s, schedule)), (
            "Two calls differ: DDIM draws no noise, it keeps the noise that x_hat implies."
        )
        likely = [("This is z, which has not moved.", z), *likely_steps(x_hat, z, t, s, schedule)]
        hint = f"{what}: alpha_s x_hat + sigma_s eps_hat."
        explained(found, step(x_hat, z, t, s, schedule), hint, likely, 1e-9)

        # each sample has its own s: 0, t itself, or between
        mixed = torch.where(torch.arange(len(t)) % 3 == 0, 0 * s, torch.where(s > s.mean(), t, s))
        found, right = ddim_step(x_hat, z, t, mixed, schedule), step(x_hat, z, t, mixed, schedule)
        clean = mixed == 0
        hint = "At s = 0, where sigma_s = 0, the step lands on x_hat: divide by no sigma_s."
        close(found[clean], x_hat[clean], hint)
        close(
            found[~clean], right[~clean], "Where s = 0 for some samples, the others still have their own s."
        )

    x_hat, z = normal(2, 4, 4, 4, 4, generator=g)
    t, s = exact(0.9, 0.7, 0.5, 0.8), exact(0.6, 0.2, 0.4, 0.1)
    late = exact(0.9, 1, 1, 0.8)
    hint = "At t = 1, alpha_t = 0: z is the noise. Divide by no alpha_t, and do not move t."
    close(ddim_step(x_hat, z, late, s, cosine), step(x_hat, z, late, s, cosine), hint)
    early, eps = exact(1e-2, 1e-4, 1e-6, 1e-8), normal(4, 3, generator=g)
    sigma, x = early[:, None], x_hat[:, 0, 0, :3]
    kept = (ddim_step(x, x + sigma * eps, early, early / 2, edm) - x) / (sigma / 2)
    hint = "Small noise is noise, too: nothing may be added to sigma_t, and it is not clamped."
    close(kept, eps, hint, 1e-5, 1e-5)

    inputs = [a.clone().requires_grad_() for a in (x_hat, z, t, s)]
    found = ddim_step(*inputs, cosine)
    weights = normal(*z.shape, generator=g)
    right = torch.autograd.grad((weights * step(*inputs, cosine)).sum(), inputs)
    for name, one, expected in zip(("x_hat", "z", "t", "s"), inputs, right):
        hint = f"The gradient in {name} is lost, or another one: is something detached?"
        assert found.requires_grad, hint
        slopes = torch.autograd.grad((weights * found).sum(), one, retain_graph=True, allow_unused=True)[0]
        close(slopes, expected, hint)

    right = step(x_hat.float().double(), z.float().double(), t, s, cosine)
    close_in_float32(ddim_step(x_hat.float(), z.float(), t, s, cosine), right, "z_s")
    found = ddim_step(x_hat, z, t.float(), s.float(), cosine)
    assert found.dtype == torch.float64, f"z_s has the dtype of z: here float64, not {found.dtype}."
    for narrow in (x_hat[:, :1], x_hat[:1], x_hat[..., :1], x_hat[0]):
        hint = f"An x_hat of shape {tuple(narrow.shape)} with z of {tuple(z.shape)} must be refused."
        refuses(lambda: ddim_step(narrow, z, t, s, cosine), hint)


# many steps


def check_walk(sampler: Callable, right: Callable, likely: Callable, rule: str, seed: int) -> None:
    """Who is asked when and where, every state, gradients, precision, refusals.

    right(denoiser, z, times, schedule) gives all n + 1 states. likely(asked, s, times, schedule) gives what
    people compute for right(...)'s next question, or the end, from (z, t, x_hat) of those before.
    """
    g = torch.Generator().manual_seed(seed)
    for schedule, times, shape in GRIDS:
        z, times = normal(*shape, generator=g, scale=9 if schedule is edm else 6), exact(*times)
        asked, wanted = [], []
        states = torch.stack(right(recorded(net, wanted), z, times, schedule))
        grid, start, grid_times = f"times {times.tolist()} on {schedule.__name__}", z.clone(), times.clone()
        what = f"z of shape {shape} with {grid}"
        end = accepts(lambda: sampler(recorded(net, asked), z, times, schedule), what)
        assert isinstance(end, Tensor) and end.shape == z.shape, (
            f"Without trajectory=True only z at times[-1] is returned, of z's shape {shape}, "
            f"not {tuple(getattr(end, 'shape', ()))}."
        )
        assert end.dtype == z.dtype, f"The end has the dtype of z: here float64, not {end.dtype}."
        times_asked, times_wanted = ([round(t[0].item(), 4) for _, t in a] for a in (asked, wanted))
        assert times_asked == times_wanted, (
            f"With {grid} the denoiser is asked at {times_wanted}, and yours at {times_asked}. {rule}"
        )
        assert torch.equal(z, start) and torch.equal(times, grid_times), (
            "z and times belong to the caller and must stay as they are: z = z + dz, not z += dz."
        )
        assert end.isfinite().all(), f"Not finite with {grid}: do you divide by an alpha or sigma that is 0?"
        assert torch.equal(sampler(net, z, times, schedule), end), "Two calls differ: what is drawn here?"
        others = torch.cat([z[:1], -z[1:]])
        hint = "A sample must not depend on its neighbours: is there a mean over the batch?"
        close(sampler(net, others, times, schedule)[0], end[0], hint)

        answers = [net(*question) for question in wanted]
        stops = [*(t for _, t in wanted), times[-1].expand(len(z))]
        places, targets = ([*(z for z, _ in a), e] for a, e in ((asked, end), (wanted, states[-1])))
        close(places[0], z, "The first question is about z itself, as it is given.")
        for k in range(1, len(places)):
            old = "The denoiser is asked at the z before this step: ask at the newest."
            hint = f"Question {k + 1} of {len(wanted)} is at a wrong z, with {grid}."
            most = max(0.5, places[k].abs().max().item())
            if k == len(wanted):
                old = "The last step is missing: the end is the z before it."
                hint = f"All questions are right, and the end is not, with {grid}."
            known = [(*question, x_hat) for question, x_hat in zip(wanted[:k], answers)]
            last = (
                (old, targets[k - 1]),
                ("z is clipped: it may be any number.", targets[k].clamp(-most, most)),
            )
            wrong = itertools.chain(likely(known, stops[k], times, schedule), last)
            explained(places[k], targets[k], f"{hint} {rule}", wrong, 1e-9)

        path = accepts(lambda: sampler(net, z, times, schedule, trajectory=True), "trajectory=True")
        check_path(path, states, answers)

        rough = z.float()
        path = sampler(recorded(net, []), rough, times, schedule, trajectory=True)
        states = torch.stack(right(net, rough.double(), times, schedule))
        close_in_float32(path, states, "Every state", 3e-5)
        coarse = times.float()
        end = sampler(recorded(net, []), z, coarse, schedule)
        assert end.dtype == z.dtype, f"The end has the dtype of z: here float64, not {end.dtype}."
        hint = "With float32 times and float64 z, the end is another one."
        close(end, right(net, z, coarse.double(), schedule)[-1], hint, 1e-4, 1e-4)

    z, times = normal(3, 2, generator=g), exact(1, 0.6, 0.5, 0.1)
    inputs = [torch.ones((), dtype=torch.float64, requires_grad=True), z.requires_grad_()]
    learned = lambda z, t: inputs[0] * net(z, t)
    ends = sampler(learned, z, times, cosine), right(learned, z, times, cosine)[-1]
    for one, name in zip(inputs, ("the denoiser", "z")):
        hint = f"The gradient in {name} is lost, or another one: is something detached, or under no_grad?"
        assert ends[0].requires_grad, hint
        slopes = [torch.autograd.grad(e.sum(), one, retain_graph=True, allow_unused=True)[0] for e in ends]
        close(slopes[0], slopes[1], hint, 1e-8, 1e-8)

    z = z.detach()
    for bad, what in (
        (times.flip(0), "rise"),
        (exact(1, 0.5, 0.6, 0.1), "rise once, in the middle,"),
        (exact(1, 0.5, 0.5, 0.1), "stay the same once, in the middle,"),
        (exact(1, 0.5, 0.2, -0.1), "end below 0"),
        (exact(1, math.nan, 0.5, 0.1), "hold one nan"),
        (times[:1], "are a single one"),
    ):
        line = lambda t: (1 - t, t)  # refuses nothing itself
        refuses(lambda: sampler(net, z, bad, line), f"Times that {what} must be refused.")
    hint = "A denoiser whose answer has another shape than z must be refused: it would be broadcast."
    refuses(lambda: sampler(lambda z, t: net(z, t)[:, :1], z, times, cosine), hint)


def check_path(path: Tensor, states: Tensor, answers: list[Tensor]) -> None:
    """Every state of the trajectory, the start, the middle and the end."""
    assert isinstance(path, Tensor), "trajectory=True returns one tensor: torch.stack(states)."
    hint = f"trajectory=True returns all n + 1 states, here {tuple(states.shape)}, not {tuple(path.shape)}:"
    for what, part in (
        ("the start is", states[1:]),
        ("the end is", states[:-1]),
        ("start and end are", states[1:-1]),
    ):
        if path.shape == part.shape and torch.allclose(path, part):
            hint = f"{hint} {what} missing."
    assert path.shape == states.shape, f"{hint} torch.stack([z, ..., end]), along a new first axis."
    first, last = states[:1], states[-1:]
    likely = [
        ("The states run from the start to the end: yours run backwards.", states.flip(0)),
        ("Every state is the end: z changes in place after it was kept.", last.expand_as(states)),
        ("Every state but the end is the start.", torch.cat([first.expand_as(states[1:]), last])),
        ("The start is missing, and the end is there twice.", torch.cat([states[1:], last])),
        ("The start is there twice, and the end is missing.", torch.cat([first, states[:-1]])),
    ]
    if len(states) == states.shape[1]:
        likely.append(("Stacked behind the batch: along a new first axis.", states.transpose(0, 1)))
    if len(answers) == len(states) - 1:
        clean = torch.cat([first, torch.stack(answers)[:-1], last])
        likely.append(("The states in between are z at those times, not what the denoiser answers.", clean))
    explained(path, states, "The trajectory holds z at each of the times.", likely, 1e-9)


def check_order(sampler: Callable, order: int, seed: int) -> None:
    """Twice the steps, 2^order times less error against the exact flow map of a mixture, at half the points.

    A mean would be that of the few points that an ODE carries close to where the bumps part.
    """
    thing = mixture(2, 3, seed)
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    right = thing.flow_map(z, *exact(0.9, 0.2)[:, None].expand(2, 200), rectified_flow)
    errors = []
    for n in (64, 128):
        grid = time_grid(n, 0.9, 0.2, dtype=torch.float64)
        found = sampler(thing.denoiser(rectified_flow), z, grid, rectified_flow)
        errors.append((found - right).norm(dim=1).median().item())
    measured = math.log2(errors[0] / errors[1])
    assert abs(measured - order) < 0.25, (
        f"Twice the steps must divide the error by {2**order}: order {order}, measured {measured:.2f}."
    )


def check_ddim(ddim=samplers.ddim, seed: int = 0) -> None:
    """One DDIM step after the other, and first order on a mixture."""

    def right(denoiser, z, times, schedule):
        states = [z]
        for t, s in zip(times[:-1, None].expand(-1, len(z)), times[1:, None].expand(-1, len(z))):
            states.append(step(denoiser(states[-1], t), states[-1], t, s, schedule))
        return states

    def likely(asked, s, times, schedule):
        z, t, x_hat = asked[-1]
        yield from likely_steps(x_hat, z, t, s, schedule)

    rule = "Ask once at the noisier end t of each step, at the newest z, and take a DDIM step to s."
    check_walk(ddim, right, likely, rule, seed)
    check_order(ddim, 1, seed)


def check_euler(euler=samplers.euler, seed: int = 0) -> None:
    """Each step of Euler's method on dz/dt, and first order on a mixture."""

    def right(denoiser, z, times, schedule):
        states = [z]
        for t, s in zip(times[:-1, None].expand(-1, len(z)), times[1:, None].expand(-1, len(z))):
            z = states[-1]
            states.append(z + column(s - t, z) * slope(denoiser(z, t), z, t, schedule))
        return states

    rule = "Ask once at t for each step: z + (s - t) dz/dt, with dz/dt = alpha' x_hat + sigma' eps_hat."
    check_walk(euler, right, likely_euler, rule, seed)
    check_order(euler, 1, seed)


def likely_euler(asked: list, s: Tensor, times: Tensor, schedule: Callable) -> Likely:
    """Wrong Euler steps that people have written."""
    z, t, x = asked[-1]
    (a, b), (c, d) = at(schedule, z, t, s)
    eps, dt, v = (z - a * x) / b, column(s - t, z), slope(x, z, t, schedule)
    d_alpha, d_sigma = (column(r, z) for r in rates(schedule, t))
    yield "Time falls: s - t is negative, and your step goes the other way.", z - dt * v
    yield "This is a DDIM step. Euler's is z + (s - t) dz/dt.", step(x, z, t, s, schedule)
    yield (
        "eps_hat - x_hat is the velocity of rectified flow alone: convert for this schedule.",
        z + dt * (eps - x),
    )
    yield "x_hat - eps_hat has the wrong sign, and is rectified flow's alone.", z + dt * (x - eps)
    yield (
        "v = alpha eps_hat - sigma x_hat is not dz/dt = alpha' x_hat + sigma' eps_hat.",
        z + dt * (a * eps - b * x),
    )
    yield "x_hat is where the data is, not a velocity: convert it.", z + dt * x
    yield "x_hat - z is not the velocity: convert x_hat.", z + dt * (x - z)
    yield "(z - x_hat) / t is the velocity of rectified flow and EDM alone.", z + dt * (z - x) / column(t, z)
    yield "alpha' and sigma' are exchanged.", z + dt * (d_sigma * x + d_alpha * eps)
    yield "alpha' x_hat is missing in dz/dt.", z + dt * d_sigma * eps
    yield "sigma' eps_hat is missing in dz/dt.", z + dt * d_alpha * x
    yield "The step is as long as t, and must be s - t.", z - column(t, z) * v
    yield "The step is s - t, not a half of it.", z + dt / 2 * v
    yield "The step is not multiplied by s - t.", z + v
    yield (
        "All steps have one length, and must be s - t each.",
        z + (times[-1] - times[0]) / (len(times) - 1) * v,
    )
    for bound in BOUNDS:
        wrong = z + dt * slope(x.clamp(-bound, bound), z, t, schedule)
        yield CLIPPED, wrong
    if t.max() <= 1:
        yield "The schedule is ignored: this is the slope on cosine.", z + dt * slope(x, z, t, cosine)
        if (t < 1).all():
            yield (
                "The schedule is ignored: this is the slope on rectified flow.",
                z + dt * slope(x, z, t, rectified_flow),
            )


def check_heun(heun=samplers.heun, seed: int = 0) -> None:
    """Both slopes of each step, the last step that is Euler's or not, second order on a mixture."""

    def right(denoiser, z, times, schedule):
        states = [z]
        for t, s in zip(times[:-1, None].expand(-1, len(z)), times[1:, None].expand(-1, len(z))):
            z, dt = states[-1], column(s - t, states[-1])
            first = slope(denoiser(z, t), z, t, schedule)
            end = z + dt * first
            if schedule(s)[1].min() > 0:
                end = z + dt * (first + slope(denoiser(end, s), end, s, schedule)) / 2
            states.append(end)
        return states

    def likely(asked, s, times, schedule):
        if len(asked) % 2:  # asked at z: Euler's step, which the second question or the end looks at
            yield "The second slope is at the old point: ask at z + (s - t) slope, and at s.", asked[-1][0]
            yield from likely_euler(asked, s, times, schedule)
            return
        (z, t, x), (z_s, s, x_s) = asked[-2:]
        dt, first, second = column(s - t, z), slope(x, z, t, schedule), slope(x_s, z_s, s, schedule)
        ends = "The step ends at z + (s - t) (slope + slope_s) / 2:"
        yield f"{ends} yours ends where Euler's step ends.", z_s
        yield f"{ends} yours starts from the Euler point, not from z.", z_s + dt * (first + second) / 2
        yield f"{ends} in yours the half is missing, or it starts from the Euler point.", z_s + dt * second
        yield (
            f"{ends} in yours only slope_s is halved, or it starts from the Euler point.",
            z_s + dt * second / 2,
        )
        yield f"{ends} in yours only the first slope is halved.", z + dt * (first / 2 + second)
        yield f"{ends} yours takes slope_s alone.", z + dt * second
        yield f"{ends} yours has a minus.", z + dt * (first - second) / 2
        yield f"{ends} yours has a minus.", z + dt * (second - first) / 2
        yield f"{ends} yours goes the other way.", z - dt * (first + second) / 2
        converted = "slope_s is x_s, converted at the new point and the new time: yours at"
        for old, where, when in (("the old time", z_s, t), ("the old point", z, s), ("the old ones", z, t)):
            wrong = z + dt * (first + slope(x_s, where, when, schedule)) / 2
            yield f"{converted} {old}.", wrong
        mean = "It is the slopes that are averaged, not the two x_hat: this is a DDIM step."
        yield mean, step((x + x_s) / 2, z, t, s, schedule)
        for bound in BOUNDS:
            low, low_s = x.clamp(-bound, bound), x_s.clamp(-bound, bound)
            for wrong in (slope(low, z, t, schedule), first):
                end = z + dt * (wrong + slope(low_s, z_s, s, schedule)) / 2
                yield CLIPPED, end

    rule = (
        "Ask at t for Euler's step, then where it ends, at s, and go from z with the mean of both slopes. "
        "Only a step that ends at sigma = 0 stays Euler's, and does not ask there."
    )
    check_walk(heun, right, likely, rule, seed)
    check_order(heun, 2, seed)


# fresh noise


def fresh(z: Tensor, n: int, seed: int) -> list[Tensor]:
    """n noises for z, in float64."""
    g = torch.Generator().manual_seed(seed + 1)
    return [torch.randn(z.shape, generator=g, dtype=torch.float64) for _ in range(n)]


def lifted(x: Tensor, noise: Tensor, s: Tensor, end: Tensor, schedule: Callable) -> Tensor:
    """x at time end, with as much fresh noise as z has at time s."""
    (alpha_s, sigma_s), (alpha_e, sigma_e) = at(schedule, x, s, end)
    keep = alpha_s / alpha_e
    return keep * x + (sigma_s**2 - keep**2 * sigma_e**2).sqrt() * noise


def jumps(f: Callable, z: Tensor, times: Tensor, schedule: Callable, noise: list[Tensor]) -> list[Tensor]:
    """All states: the start, the lifted ones, the last answer of f."""
    states, times = [z], times[:, None].expand(-1, len(z))
    for t, s, n in zip(times[:-1], times[1:-1], noise):
        states.append(lifted(f(states[-1], t), n, s, times[-1], schedule))
    return [*states, f(states[-1], times[-2])]


def likely_lifts(asked: list, s: Tensor, times: Tensor, schedule: Callable, noise: list[Tensor]) -> Likely:
    """Wrong lifts that people have written, and wrong ends."""
    z, t, x = asked[-1]
    end, k = times[-1].expand(len(z)), len(asked) - 1
    (a, b), (c, d), (p, q) = at(schedule, z, t, s, end)
    if k == len(times) - 2:
        yield "The end is f's last answer: yours goes a step of DDIM from it.", step(x, z, t, s, schedule)
        return
    n, keep = noise[k], c / p
    missing = (d**2 - keep**2 * q**2).sqrt()
    yield "This is what f answers: lift it to the next time with fresh noise.", x
    yield "This is what f answers, scaled, and without fresh noise.", keep * x
    scale = "f lands at e, not at 0: its answer is scaled by alpha_s / alpha_e, and so is its noise."
    yield scale, x + missing * n
    yield scale, x + (d**2 - q**2).sqrt() * n
    yield scale, c * x + missing * n
    yield scale, c * x + (d**2 - (c * q) ** 2).sqrt() * n
    yield scale, c * x + (d**2 - q**2).sqrt() * n
    enough = "All of sigma_s is too much noise: what f answers carries sigma_e of noise already."
    yield enough, keep * x + d * n
    yield enough, c * x + d * n
    yield enough, x + d * n
    yield "The noise in f's answer is scaled by alpha_s / alpha_e too.", keep * x + (d**2 - q**2).sqrt() * n
    yield (
        "The noise in f's answer is scaled by alpha_s / alpha_e too.",
        keep * x + (d**2 - keep * q**2).sqrt() * n,
    )
    variances = "It is variances that add: the root of sigma_s^2 - (alpha_s / alpha_e)^2 sigma_e^2."
    yield variances, keep * x + (d - keep * q) * n
    yield variances, keep * x + missing**2 * n
    yield variances, keep * x + (d**2 + keep**2 * q**2).sqrt() * n
    yield "The fresh noise has the size that is missing, not 1.", keep * x + n
    yield "This follows the ODE: f is no denoiser, and needs fresh noise.", step(x, z, t, s, schedule)
    yield "The noise goes on f's answer, not on z.", keep * z + missing * n
    yield "The noise goes on f's answer, not on z.", z + missing * n
    yield "Lifted to t once more: the next time is s.", lifted(x, n, t, end, schedule)
    if times.max() <= 1:
        yield "The schedule is ignored: this is cosine's lift.", lifted(x, n, s, end, cosine)
    for bound in BOUNDS:
        yield CLIPPED, lifted(x.clamp(-bound, bound), n, s, end, schedule)
    for k, other in enumerate(noise):
        hint = f"Lift {len(asked)} takes noise {k + 1}: each lift has its own, in the order of the list."
        yield hint, lifted(x, other, s, end, schedule)


def check_renoise(renoise=samplers.renoise, seed: int = 0) -> None:
    """Exact lifts with given noise, the same noise drawn by hand, what is left of list and generator."""

    def given(f, z, times, schedule, trajectory=False):
        noise = [n.to(z.dtype) for n in fresh(z, len(times) - 2, seed)]
        return renoise(f, z, times, schedule, noise=noise, trajectory=trajectory)

    def right(f, z, times, schedule):
        return jumps(f, z, times, schedule, fresh(z, len(times) - 2, seed))

    def likely(asked, s, times, schedule):
        return likely_lifts(asked, s, times, schedule, fresh(asked[0][0], len(times) - 2, seed))

    g = torch.Generator().manual_seed(seed)
    z, times = normal(3, 2, 3, generator=g), exact(1.0, 0.7, 0.4, 0.2)
    noise = fresh(z, 2, seed)
    mine = list(noise)
    accepts(lambda: renoise(recorded(net, []), z, times, cosine, noise=mine), f"Times {times.tolist()}")
    assert len(mine) == 2 and all(a is b for a, b in zip(mine, noise)), (
        "The list of noises belongs to the caller, and must stay as it was: no pop, nothing put in its place."
    )
    for a, b in zip(noise, fresh(z, 2, seed)):
        close(a, b, "The noises belong to the caller, and must stay as they were: nothing in place.", 0, 0)

    rule = "n steps ask n times, from times[0] to times[-2]. Each answer but the last is lifted."
    check_walk(given, right, likely, rule, seed)

    by_hand, same = (torch.Generator().manual_seed(seed + 2) for _ in range(2))
    one, two, three, _ = (torch.randn(z.shape, generator=by_hand, dtype=z.dtype) for _ in range(4))
    calls = [renoise(net, z, times, cosine, generator=same) for _ in range(2)]
    again = renoise(net, z, times, cosine, generator=torch.Generator().manual_seed(seed + 2))
    assert torch.equal(again, calls[0]), "The generator must decide all randomness, and here it does not."
    assert not torch.equal(calls[0], calls[1]), (
        "A second call with the same generator must go on in it and draw new noise: do not seed it anew."
    )
    drawn = [
        (
            "Drawn once, and used at every lift: draw new noise for each.",
            jumps(net, z, times, cosine, [one, one])[-1],
        ),
        ("The first noise drawn is not the first one used.", jumps(net, z, times, cosine, [two, one])[-1]),
        (
            "A noise is drawn and not used: n steps draw n - 1 times.",
            jumps(net, z, times, cosine, [two, three])[-1],
        ),
    ]
    hint = "Without noise, each lift draws randn_like(z, generator): unit Gaussian, once for each lift."
    explained(calls[0], jumps(net, z, times, cosine, [one, two])[-1], hint, drawn, 1e-9)
    assert torch.equal(same.get_state(), by_hand.get_state()), (
        "Numbers are drawn that are not used: n steps draw n - 1 times, and nothing after the last answer."
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 3)
        noise = [torch.randn(z.shape, dtype=z.dtype) for _ in range(2)]
        torch.manual_seed(seed + 3)
        hint = "With neither noise nor generator, torch's own random numbers are drawn: randn_like(z, None)."
        close(renoise(net, z, times, cosine), jumps(net, z, times, cosine, noise)[-1], hint, 1e-9, 1e-9)
    found = renoise(recorded(net, []), z.float(), times, cosine, generator=same)
    assert found.dtype == torch.float32, f"Noise is drawn in z's dtype: here float32, not {found.dtype}."

    for bad in ([], noise[:1], [*noise, z]):
        hint = f"{len(bad)} noises for 3 steps must be refused: there are 2 lifts."
        refuses(lambda: renoise(net, z, times, cosine, noise=bad), hint)
    for narrow in (z[:1], z[:, :1], z[..., :1], z[0]):
        for bad in ([narrow, z], [z, narrow]):
            hint = f"Noise of shape {tuple(narrow.shape)} for z of {tuple(z.shape)} must be refused."
            refuses(lambda: renoise(net, z, times, cosine, noise=bad), hint)
