import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from einops import rearrange

from minidistill import samplers
from minidistill.checks import samplers as checks
from minidistill.oracle import Gaussian
from minidistill.parameterization import as_denoiser, convert
from minidistill.samplers import ddim, ddim_step, euler, heun, intervals, renoise
from minidistill.schedules import (
    beta_table,
    coefficients,
    cosine,
    edm,
    like,
    randn_like,
    rates,
    rectified_flow,
    tabulated,
    time_grid,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "progressive.json").read_text())
CHECKS = [
    checks.check_ddim_step,
    checks.check_ddim,
    checks.check_euler,
    checks.check_heun,
    checks.check_renoise,
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# one step


def step_with(formula, read=coefficients):
    """ddim_step from a formula of (x_hat, z, alpha_t, sigma_t, alpha_s, sigma_s)."""

    def step(x_hat, z, t, s, schedule):
        if x_hat.shape != z.shape:
            raise ValueError("another shape")
        return formula(x_hat, z, *read(schedule, t, z), *read(schedule, s, z))

    return step


def right(x, z, a, b, c, d):
    return c * x + d / b * (z - a * x)


def refusing(refuses, formula=right):
    """ddim_step that refuses other shapes than it ought to."""

    def step(x_hat, z, t, s, schedule):
        if refuses(x_hat, z):
            raise ValueError("another shape")
        return formula(x_hat, z, *coefficients(schedule, t, z), *coefficients(schedule, s, z))

    return step


def changed(before=lambda *inputs: inputs, after=lambda z_s, *inputs: z_s):
    """ddim_step with something done to its inputs (x_hat, z, t, s, schedule) or to its result."""
    return lambda *inputs: after(ddim_step(*before(*inputs)), *inputs)


def fixed_axes(n):
    """alpha and sigma with n axes, whatever z has."""
    return lambda schedule, t, z: [c.to(z.dtype).reshape(-1, *[1] * (n - 1)) for c in schedule(t)]


def over_the_width(schedule, t, z):
    return [c.to(z.dtype) for c in schedule(t)]


def uncast(schedule, t, z):
    """Times keep their dtype: float64 for float32 data."""
    return [c.reshape(-1, *[1] * (z.ndim - 1)) for c in schedule(t)]


def in_float32(schedule, t, z):
    return [like(c, z) for c in schedule(t.float())]


def asserts(x_hat, z, t, s, schedule):
    if x_hat.shape != z.shape:
        raise AssertionError  # what assert does; pytest would add words
    return ddim_step(x_hat, z, t, s, schedule)


def euler_only(x_hat, z, t, s, schedule):
    if x_hat.shape != z.shape:
        raise ValueError("another shape")
    return z + like(s - t, z) * convert(x_hat, z, t, schedule, "x", "velocity")


def clamped(low=0.0, high=torch.inf):
    return lambda x, z, t, s, schedule: (x, z, t.clamp(low, high), s, schedule)


def subtracts_in_place(x_hat, z, t, s, schedule):
    found = ddim_step(x_hat, z, t, s, schedule)
    z.detach().sub_(coefficients(schedule, t, z)[0] * x_hat.detach())
    return found


STEPS = {
    "variance ratio for the standard deviation's [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d**2 / b**2 * (z - a * x)), "not by the variances"),
    "divided by the variance [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b**2 * (z - a * x)), "not by the variances"),
    "ratio of alphas [formula]": (
        step_with(lambda x, z, a, b, c, d: c / a * z + (c - d / b * a) * x), "not z by alpha_s / alpha_t"),
    "z scaled by alphas [formula]": (step_with(lambda x, z, a, b, c, d: c / a * z), "not z by alpha_s / alpha_t"),
    "noise of time t kept [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + (z - a * x)), "The noise keeps the size it has at t"),
    "data of time t kept [formula]": (
        step_with(lambda x, z, a, b, c, d: a * x + d / b * (z - a * x)), "The data keeps the share it has at t"),
    "data not removed from z [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b * z), "data's share is still in the noise"),
    "z taken for the noise [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d * z), "data's share is still in the noise"),
    "alpha_s removed from z [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b * (z - c * x)), "alpha_s where alpha_t belongs"),
    "alpha_bar for alpha (30) [formula]": (
        step_with(lambda x, z, a, b, c, d: c**2 * x + d**2 * (z - a**2 * x) / b**2), "no squares and no roots"),
    "roots of alpha and sigma [formula]": (
        step_with(lambda x, z, a, b, c, d: right(x, z, a**0.5, b**0.5, c**0.5, d**0.5)), "no squares and no roots"),
    "not divided by sigma_t [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + d * (z - a * x)), "divide by sigma_t"),
    "ratio upside down [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + b / d * (z - a * x)), "ratio is upside down"),
    "without noise [formula]": (step_with(lambda x, z, a, b, c, d: c * x), "The noise is missing"),
    "without data [formula]": (step_with(lambda x, z, a, b, c, d: d / b * (z - a * x)), "The data is missing"),
    "x_hat itself [formula]": (step_with(lambda x, z, a, b, c, d: x), "This is x_hat"),
    "z itself [formula]": (step_with(lambda x, z, a, b, c, d: z), "has not moved"),
    "minus eps_hat [formula]": (step_with(lambda x, z, a, b, c, d: c * x - d / b * (z - a * x)), "A sign is wrong"),
    "plus alpha_t x_hat [formula]": (step_with(lambda x, z, a, b, c, d: c * x + d / b * (z + a * x)), "A sign is wrong"),
    "t and s exchanged [formula]": (
        changed(lambda x, z, t, s, schedule: (x, z, s.clamp(min=1e-9), t, schedule)), "t and s are exchanged"),
    "alpha and sigma exchanged [formula]": (step_with(lambda x, z, a, b, c, d: right(x, z, b, a, d, c)), "or alpha for sigma"),
    "x_hat taken for eps [formula]": (step_with(lambda x, z, a, b, c, d: c * (z - b * x) / a + d * x), "taken for the noise"),
    "z taken for the data [formula]": (step_with(lambda x, z, a, b, c, d: c * z + d * x), "taken for the noise"),
    "Euler on dz/dt [formula]": (euler_only, "a step of Euler"),
    "eps_hat - x_hat on every schedule [formula]": (
        lambda x, z, t, s, schedule: z + like(s - t, z) * ((z - coefficients(schedule, t, z)[0] * x) / coefficients(schedule, t, z)[1] - x),
        "velocity of rectified flow alone"),
    "sigma from alpha [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x + ((1 - c**2) / (1 - a**2)).sqrt() * (z - a * x)), "sigma is what the schedule says"),
    "x_hat clipped [formula]": (changed(lambda x, *rest: (x.clamp(-1, 1), *rest)), "x_hat is clipped"),
    "x_hat clipped at 10 [formula]": (changed(lambda x, *rest: (x.clamp(-10, 10), *rest)), "x_hat is clipped"),
    "x_hat clipped, eps_hat not recomputed [formula]": (
        step_with(lambda x, z, a, b, c, d: c * x.clamp(-1, 1) + d / b * (z - a * x)), "x_hat is clipped"),
    "divides by alpha_t (1.2) [end]": (
        step_with(lambda x, z, a, b, c, d: d / b * a / a * (z - a * x) + c * x), "Divide by no alpha_t"),
    "t at most 0.999 [end]": (changed(clamped(high=0.999)), "do not move t|do not divide|must be refused|alpha_s x_hat"),
    "divides by sigma_s [end]": (step_with(lambda x, z, a, b, c, d: d * (z / b + (c / d - a / b) * x)), "divide by no sigma_s"),
    "a floor under sigma [end]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b.clamp(min=0.01) * (z - a * x)), "not clamped"),
    "a floor of 1e-3 under sigma [end]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b.clamp(min=1e-3) * (z - a * x)), "not clamped"),
    "a floor of 1e-5 under sigma [end]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / b.clamp(min=1e-5) * (z - a * x)), "not clamped"),
    "1e-6 added to sigma [end]": (
        step_with(lambda x, z, a, b, c, d: c * x + d / (b + 1e-6) * (z - a * x)), "small number is added"),
    "s not below 1e-3 [end]": (
        lambda x, z, t, s, schedule: ddim_step(x, z, t, s.clamp(min=1e-3), schedule), "At s = 0, where sigma_s = 0"),
    "x_hat for the whole batch when one s is 0 [end]": (
        lambda x, z, t, s, schedule: x if (s == 0).any() else ddim_step(x, z, t, s, schedule), "others still have their own s"),
    "times over the width (43) [shape]": (step_with(right, over_the_width), "run along axis 3 of z"),
    "images only [shape]": (step_with(right, fixed_axes(4)), "The result has the shape of z"),
    "points only [shape]": (step_with(right, fixed_axes(2)), "run along axis 2 of z"),
    "one time for the batch [shape]": (
        changed(lambda x, z, t, s, schedule: (x, z, t[:1].expand_as(t), s[:1].expand_as(s), schedule)), "All samples get the times of one"),
    "one s for the batch [shape]": (
        changed(lambda x, z, t, s, schedule: (x, z, t, s[:1].expand_as(s), schedule)), "All samples get the times of one"),
    "flat result [shape]": (changed(after=lambda z_s, *_: z_s.flatten(1)), "The result has the shape of z"),
    "fresh noise added [random]": (changed(after=lambda z_s, *_: z_s + 0.1 * torch.randn_like(z_s)), "DDIM draws no noise"),
    "float64 for float32 [precision]": (step_with(right, uncast), "float32, not torch.float64"),
    "float32 always [precision]": (changed(after=lambda z_s, *_: z_s.float()), "here float64, not torch.float32"),
    "alpha and sigma in float32 [precision]": (step_with(right, in_float32), "is it float32"),
    "the dtype of the times [precision]": (changed(after=lambda z_s, x, z, t, *_: z_s.to(t.dtype)), "the dtype of the data"),
    "bfloat16 inside for float32 [precision]": (
        changed(after=lambda z_s, *_: z_s.bfloat16().float() if z_s.dtype == torch.float32 else z_s), "for float32 data with float64 times"),
    "x_hat of another shape broadcast [refusal]": (refusing(lambda x, z: False), r"x_hat of shape \(4, 1, 4, 4\)"),
    "only the batch compared [refusal]": (refusing(lambda x, z: len(x) != len(z)), r"x_hat of shape \(4, 1, 4, 4\)"),
    "only the axes after the batch compared [refusal]": (refusing(lambda x, z: x.shape[1:] != z.shape[1:]), r"x_hat of shape \(1, 4, 4, 4\)"),
    "only the number of axes compared [refusal]": (refusing(lambda x, z: x.ndim != z.ndim), r"x_hat of shape \(4, 1, 4, 4\)"),
    "the last axis not compared [refusal]": (refusing(lambda x, z: x.shape[:-1] != z.shape[:-1]), r"x_hat of shape \(4, 4, 4, 1\)"),
    "an assert [refusal]": (asserts, "must be refused. With ValueError, not an assert"),
    "points refused [refusal]": (refusing(lambda x, z: z.ndim < 4 or x.shape != z.shape), r"z of shape \(5, 2\).* is valid"),
    "z changed in place [argument]": (subtracts_in_place, "belong to the caller"),
    "detached [gradient]": (changed(after=lambda z_s, *_: z_s.detach()), "The gradient in x_hat is lost"),
    "x_hat detached [gradient]": (changed(lambda x, *rest: (x.detach(), *rest)), "The gradient in x_hat is lost"),
    "z detached [gradient]": (changed(lambda x, z, *rest: (x, z.detach(), *rest)), "The gradient in z is lost"),
    "t detached [gradient]": (changed(lambda x, z, t, *rest: (x, z, t.detach(), *rest)), "The gradient in t is lost"),
    "s detached [gradient]": (changed(lambda x, z, t, s, f: (x, z, t, s.detach(), f)), "The gradient in s is lost"),
    "eps_hat detached [gradient]": (
        step_with(lambda x, z, a, b, c, d: c * x + d * ((z - a * x) / b).detach()), "The gradient in x_hat is lost"),
    "the cosine schedule always [argument]": (
        lambda x, z, t, s, schedule: ddim_step(x, z, t % 1.0001, s % 1.0001, cosine), "The schedule is ignored"),
    "s ignored [argument]": (changed(lambda x, z, t, s, f: (x, z, t, 0 * s, f)), "This is x_hat"),
    "t ignored [argument]": (changed(lambda x, z, t, s, f: (x, z, torch.ones_like(t), s, f)), "data's share is still in the noise"),
}  # fmt: skip


# many steps


def plain(f, z, t, s, schedule):
    return ddim_step(f(z, t), z, t, s, schedule)


def stacked(states, answers):
    return torch.stack(states)


def sampler_with(step, grid=lambda times: times, path=stacked, look=None, between=lambda z: z):
    """A sampler from a step (ask, z, t, s, schedule) -> z_s.

    grid: the times that are walked. path: what trajectory=True returns. look: what refuses times. between: what
    happens to z before each step.
    """

    def sampler(denoiser, z, times, schedule, trajectory=False):
        def ask(z, t):
            answers.append(denoiser(z, t))
            if answers[-1].shape != z.shape:
                raise ValueError("another shape")
            return answers[-1]

        states, answers = [z], []
        for t, s in steps_of(denoiser, z, grid(times), look):
            states.append(step(ask, between(states[-1]), t, s, schedule))
        return path(states, answers) if trajectory else states[-1]

    return sampler


def steps_of(denoiser, z, times, look=None):
    """(t, s) of each step, by `intervals` or by what `look` refuses."""
    if look is None:
        return list(intervals(denoiser, z, times))
    look(times)
    return list(pairwise(times.to(z)[:, None].expand(-1, len(z))))


def saying(bad):
    """A grid is refused where bad(times)."""

    def look(times):
        if bad(times):
            raise ValueError("no grid")

    return look


GRIDS = {
    "nothing is refused": (lambda times: False, "Times that rise must"),
    "only the ends compared": (lambda times: len(times) < 2 or times[0] <= times[-1] or times[-1] < 0, "rise once, in the middle"),
    "refused only if all rise": (lambda times: len(times) < 2 or (times.diff() > 0).all(), "rise once, in the middle"),
    "equal times accepted": (lambda times: len(times) < 2 or (times.diff() > 0).any() or times[-1] < 0, "stay the same once"),
    "a single time accepted": (lambda times: not (times.diff() < 0).all() or not (times >= 0).all(), "are a single one"),
    "the end 0 refused": (lambda times: not (times > 0).all(), "is valid and must not be refused"),
    "one step refused": (lambda times: len(times) < 3, "is valid and must not be refused"),
    "an end above 0 refused": (lambda times: times[-1] != 0, "is valid and must not be refused"),
}  # fmt: skip

# seen only by a step that reads a schedule which refuses nothing, past the package's own look at it
HIDDEN = {
    "negative times accepted": (lambda times: len(times) < 2 or not (times.diff() < 0).all(), "end below 0"),
    "nan accepted": (lambda times: len(times) < 2 or (times.diff() >= 0).any() or times[-1] < 0, "hold one nan"),
    "nan in the middle accepted": (
        lambda times: len(times) < 2 or not times[-1] >= 0 or (times.diff() >= 0).any(), "hold one nan"),
}  # fmt: skip

PATHS = {
    "a list": (lambda states, answers: states, "returns one tensor"),
    "without the start": (lambda states, answers: torch.stack(states[1:]), "the start is missing"),
    "without the end": (lambda states, answers: torch.stack(states[:-1]), "the end is missing"),
    "only the states in between": (lambda states, answers: torch.stack(states[1:-1] or [states[0][:0]]), "start and end are missing"),
    "stacked behind the batch": (lambda states, answers: torch.stack(states, 1), "Stacked behind the batch"),
    "joined along the batch": (lambda states, answers: torch.cat(states), "along a new first axis"),
    "backwards": (lambda states, answers: torch.stack(states[::-1]), "yours run backwards"),
    "the end at every time": (lambda states, answers: torch.stack([states[-1]] * len(states)), "Every state is the end"),
    "the start until the end": (
        lambda states, answers: torch.stack([states[0]] * (len(states) - 1) + states[-1:]), "Every state but the end is the start"),
    "one step early": (lambda states, answers: torch.stack([*states[1:], states[-1]]), "the end is there twice"),
    "one step late": (lambda states, answers: torch.stack([states[0], *states[:-1]]), "The start is there twice"),
    "the middle halved": (lambda states, answers: torch.stack([states[0], *(z / 2 for z in states[1:-1]), states[-1]]), "holds z at each of the times"),
    "the end alone": (lambda states, answers: states[-1], "along a new first axis"),
}  # fmt: skip


def trajectory_always(sampler):
    return lambda f, z, times, schedule, trajectory=False, **k: sampler(
        f, z, times, schedule, trajectory=True, **k
    )


def no_grad(sampler):
    def wrong(*args, **kwargs):
        with torch.no_grad():
            return sampler(*args, **kwargs)

    return wrong


def with_f(change, sampler):
    """The sampler, which asks change(f) instead of f."""
    return lambda f, *args, **kwargs: sampler(change(f), *args, **kwargs)


def after(change, sampler):
    """The sampler, with something done to what it returns: change(found, z, times)."""
    return lambda f, z, times, *args, **kwargs: change(sampler(f, z, times, *args, **kwargs), z, times)


def common(make):
    """Mistakes that every sampler can have. make(grid=, path=, look=, between=) is the right one, but for these."""
    sampler = make()
    wide = lambda f: lambda z, t: f(z, t.double() if z.dtype == torch.float32 else t.float())
    on = lambda change: (
        lambda f, z, times, schedule, *args, **kwargs: sampler(
            f, *change(z, times, schedule), *args, **kwargs
        )
    )
    found = {f"{name} [refusal]": (make(look=saying(bad)), says) for name, (bad, says) in GRIDS.items()}
    found |= {
        f"trajectory: {name} [trajectory]": (make(path=path), says) for name, (path, says) in PATHS.items()
    }
    return found | {
        "trajectory always [trajectory]": (
            lambda *args, trajectory=False, **kwargs: sampler(*args, trajectory=True, **kwargs), "Without trajectory=True only z"),
        "no trajectory [trajectory]": (
            lambda *args, trajectory=False, **kwargs: sampler(*args, **kwargs), "along a new first axis"),
        "z moves in place [trajectory]": (make(path=lambda states, _: torch.stack([states[-1]] * len(states))), "Every state is the end"),
        "times evenly spaced [argument]": (
            make(grid=lambda times: torch.linspace(times[0], times[-1], len(times)).to(times)), "the denoiser is asked at"),
        "one step only [argument]": (make(grid=lambda times: times[[0, -1]]), "the denoiser is asked at"),
        "twice the steps [argument]": (
            make(grid=lambda times: torch.cat([torch.stack([times[:-1], (times[:-1] + times[1:]) / 2], 1).flatten(), times[-1:]])),
            "the denoiser is asked at"),
        "the first time at most 0.99 [end]": (make(grid=lambda times: times.clamp(max=0.99)), "is valid and must not be refused"),
        "the last time at least 0.001 [end]": (make(grid=lambda times: times.clamp(min=1e-3)), "is something added|the end is not|the denoiser is asked at"),
        "asked with a number [shape]": (with_f(lambda f: lambda z, t: f(z, t[0].item()), sampler), "one time for each sample"),
        "asked with one time [shape]": (with_f(lambda f: lambda z, t: f(z, t[:1]), sampler), "one time for each sample"),
        "asked with columns [shape]": (with_f(lambda f: lambda z, t: f(z, t[:, None]), sampler), "one time for each sample"),
        "asked in another dtype [precision]": (with_f(wide, sampler), "t in the dtype of z"),
        "float32 always [precision]": (after(lambda end, z, times: end.float(), sampler), "here float64, not torch.float32"),
        "the dtype of the times [precision]": (after(lambda end, z, times: end.to(times.dtype), sampler), "has the dtype of the data"),
        "float64 for float32 [precision]": (after(lambda end, z, times: end.double(), sampler), "float32, not torch.float64"),
        "bfloat16 inside for float32 [precision]": (
            after(lambda end, z, times: end.bfloat16().float() if z.dtype == torch.float32 else end, sampler), "for float32 data with float64 times"),
        "all under no_grad [gradient]": (torch.no_grad()(make()), "The gradient in the denoiser is lost"),
        "the end detached [gradient]": (after(lambda end, z, times: end.detach(), sampler), "The gradient in the denoiser is lost"),
        "answers detached [gradient]": (with_f(lambda f: lambda z, t: f(z, t).detach(), sampler), "The gradient in the denoiser is lost"),
        "the denoiser asked at a detached z [gradient]": (with_f(lambda f: lambda z, t: f(z.detach(), t), sampler), "The gradient in the denoiser is lost"),
        "z detached before each step [gradient]": (make(between=lambda z: z.detach()), "The gradient in the denoiser is lost"),
        "a narrow answer broadcast [refusal]": (
            with_f(lambda f: lambda z, t: f(z, t).expand_as(z), sampler), "denoiser whose answer has another shape"),
        "the batch normalized [shape]": (with_f(lambda f: lambda z, t: f(z, t) - 0.1 * z.mean(0), sampler), "depend on its neighbours"),
        "noise added to the answers [random]": (
            with_f(lambda f: lambda z, t: f(z, t) + 0.1 * torch.randn_like(z), sampler), "what is drawn here"),
        "x_hat clipped [formula]": (with_f(lambda f: lambda z, t: f(z, t).clamp(-1, 1), sampler), "x_hat is clipped"),
        "x_hat clipped at 5 [formula]": (with_f(lambda f: lambda z, t: f(z, t).clamp(-5, 5), sampler), "x_hat is clipped"),
        "x_hat clipped at 10 [formula]": (with_f(lambda f: lambda z, t: f(z, t).clamp(-10, 10), sampler), "x_hat is clipped"),
        "the end clipped [end]": (after(lambda end, z, times: end.clamp(-3, 3), sampler), "clipped"),
        "z changed in place [argument]": (on(lambda z, times, f: (z.detach().mul_(0.9), times, f)), "belong to the caller"),
        "times changed in place [argument]": (on(lambda z, times, f: (z, times.mul_(0.9), f)), "the denoiser is asked at|belong to the caller"),
        "z scaled first [formula]": (on(lambda z, times, f: (z * f(times[:1])[1].to(z) * 0.9, times, f)), "about z itself"),
        "the cosine schedule always [argument]": (
            on(lambda z, times, f: (z, times, cosine if times[0] <= 1 else f)), "The schedule is ignored"),
    }  # fmt: skip


def clip_x_keep_eps(f, z, t, s, schedule):
    """diffusers' default: x_hat is clipped, eps_hat still belongs to the x_hat before (37)."""
    x_hat = f(z, t)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    return alpha_s * x_hat.clamp(-1, 1) + sigma_s * (z - alpha_t * x_hat) / sigma_t


def asked_once(denoiser, z, times, schedule, trajectory=False):
    """The denoiser is asked at the start, at every time, and not where z is."""
    return ddim(lambda _, t: denoiser(z, t), z, times, schedule, trajectory)


def remembers(denoiser, z, times, schedule, trajectory=False):
    """The first answer is used for all steps."""
    first = denoiser(z, times[:1].to(z).expand(len(z)))
    return ddim(lambda z, t: first, z, times, schedule, trajectory)


def asks_at_the_end_too(sampler):
    def wrong(f, z, times, schedule, trajectory=False, **more):
        found = sampler(f, z, times, schedule, trajectory=trajectory, **more)
        f(found[-1] if trajectory else found, times[-1:].to(z).expand(len(z)))
        return found

    return wrong


def last_is_x_hat(f, z, times, schedule, trajectory=False):
    """The last step returns x_hat, also where it ends above t = 0."""
    answers = []
    states = ddim(lambda z, t: answers.append(f(z, t)) or answers[-1], z, times, schedule, trajectory=True)
    return torch.cat([states[:-1], answers[-1][None]]) if trajectory else answers[-1]


def raw(f, z, t, s, schedule):
    """A DDIM step that refuses nothing."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([like(c, z) for c in schedule(u)] for u in (t, s))
    return right(f(z, t), z, alpha_t, sigma_t, alpha_s, sigma_s)


DDIM = common(lambda **options: sampler_with(plain, **options)) | {
    **{f"{name} [refusal]": (sampler_with(raw, look=saying(bad)), says) for name, (bad, says) in HIDDEN.items()},
    "x_hat clipped, eps_hat not recomputed (37) [formula]": (sampler_with(clip_x_keep_eps), "x_hat is clipped"),
    "x_hat asked at s (P17) [formula]": (
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, s), z, t, s, schedule)), "and yours at .0.8, 0.35, 0.0."),
    "x_hat asked in the middle [formula]": (
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, (t + s) / 2), z, t, s, schedule)), "and yours at .0.875, "),
    "x_hat asked at both ends [formula]": (
        sampler_with(lambda f, z, t, s, schedule: ddim_step((f(z, t) + f(z, s)) / 2, z, t, s, schedule)), "and yours at .0.95, 0.8, 0.8, "),
    "the last time is missing (40) [end]": (
        sampler_with(plain, grid=lambda times: times[:-1] if len(times) > 2 else times), "and yours at .0.95, 0.8.[.]"),
    "x_hat taken for eps (P17) [formula]": (
        sampler_with(lambda f, z, t, s, schedule: coefficients(schedule, s, z)[0] * z + coefficients(schedule, s, z)[1] * f(z, t)),
        "taken for the noise"),
    "Euler on dz/dt [formula]": (sampler_with(lambda f, z, t, s, schedule: euler_step(f, z, t, s, schedule)), "a step of Euler"),
    "each step goes to 0 [formula]": (sampler_with(lambda f, z, t, s, schedule: f(z, t)), "This is x_hat"),
    "the last step returns x_hat [end]": (last_is_x_hat, "This is x_hat"),
    "asked at the start each time [formula]": (asked_once, "asked at the z before this step"),
    "the first answer for all steps [formula]": (remembers, "and yours at .0.95.[.]"),
    "asked at t = 0 too [end]": (asks_at_the_end_too(ddim), "and yours at .0.95, 0.8, 0.35, 0.0.[.]"),
    "fresh noise: the ancestral step [random]": (
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, t), z, t, s, schedule) + 0.1 * like(s, z) * torch.randn_like(z)),
        "what is drawn here"),
    "a noise of its own, always the same [random]": (
        sampler_with(lambda f, z, t, s, schedule: samplers.ddim_step(f(z, t), z, t, s, schedule) + 0.1 * torch.ones_like(z) * like(s, z)),
        "Question 2 of 3 is at a wrong z"),
    "noise of time t kept [formula]": (
        sampler_with(lambda f, z, t, s, schedule: z + (coefficients(schedule, s, z)[0] - coefficients(schedule, t, z)[0]) * f(z, t)),
        "The noise keeps the size it has at t"),
    "renoise instead [formula]": (
        lambda f, z, times, schedule, trajectory=False: renoise(
            f, z, times, schedule, noise=[torch.ones_like(z)] * (len(times) - 2), trajectory=trajectory), "Question 2 of 3 is at a wrong z"),
    "Heun instead [formula]": (heun, "the denoiser is asked at"),
}  # fmt: skip


def euler_step(f, z, t, s, schedule, sign=1.0):
    return z + sign * like(s - t, z) * convert(f(z, t), z, t, schedule, "x", "velocity")


def euler_with(slope):
    """Euler with another slope: a function of (x_hat, eps_hat, alpha, sigma, d_alpha, d_sigma)."""

    def step(f, z, t, s, schedule):
        x_hat, (alpha, sigma) = f(z, t), coefficients(schedule, t, z)
        d_alpha, d_sigma = (like(c, z) for c in rates(schedule, t))
        return z + like(s - t, z) * slope(x_hat, (z - alpha * x_hat) / sigma, alpha, sigma, d_alpha, d_sigma)

    return sampler_with(step)


EULER = common(lambda **options: sampler_with(euler_step, **options)) | {
    "t falls, dt taken positive (P16) [formula]": (sampler_with(lambda *a: euler_step(*a, sign=-1.0)), "goes the other way"),
    "eps - x on every schedule [formula]": (euler_with(lambda x, eps, *_: eps - x), "velocity of rectified flow alone"),
    "x - eps [formula]": (euler_with(lambda x, eps, *_: x - eps), "has the wrong sign"),
    "v on every schedule [formula]": (euler_with(lambda x, eps, a, b, *_: a * eps - b * x), "is not dz/dt"),
    "x_hat for the slope [formula]": (euler_with(lambda x, *_: x), "not a velocity"),
    "without alpha' [formula]": (euler_with(lambda x, eps, a, b, c, d: d * eps), "alpha' x_hat is missing"),
    "without sigma' [formula]": (euler_with(lambda x, eps, a, b, c, d: c * x), "sigma' eps_hat is missing"),
    "alpha' and sigma' exchanged [formula]": (euler_with(lambda x, eps, a, b, c, d: d * x + c * eps), "are exchanged"),
    "half the step [formula]": (euler_with(lambda x, eps, a, b, c, d: (c * x + d * eps) / 2), "not a half of it"),
    "(z - x) / t [formula]": (
        sampler_with(lambda f, z, t, s, schedule: z + like((s - t) / t, z) * (z - f(z, t))), "velocity of rectified flow and EDM alone"),
    "the step as long as t [formula]": (
        sampler_with(lambda f, z, t, s, schedule: euler_step(f, z, t, 0 * s, schedule)), "as long as t"),
    "not multiplied by s - t [formula]": (
        sampler_with(lambda f, z, t, s, schedule: euler_step(f, z, t, t + 1, schedule)), "not multiplied by s - t"),
    "DDIM instead [formula]": (ddim, "This is a DDIM step"),
    "Heun instead [formula]": (heun, "the denoiser is asked at"),
    "asked at s [formula]": (
        sampler_with(lambda f, z, t, s, schedule: z + like(s - t, z) * convert(f(z, s), z, t, schedule, "x", "velocity")), "the denoiser is asked at"),
    "the slope of rectified flow [argument]": (
        sampler_with(lambda f, z, t, s, schedule: euler_step(
            f, z, t, s, schedule if (t < 1).all() and t[0] != 0.95 and t.max() > 1 else rectified_flow)), "velocity of rectified flow"),
}  # fmt: skip


def heun_with(second=lambda f, z_s, z, t, s, schedule: convert(f(z_s, s), z_s, s, schedule, "x", "velocity"),
              join=lambda z, z_s, dt, d, d_s: z + dt * (d + d_s) / 2,
              stays=lambda s, schedule: (schedule(s)[1] == 0).all()):  # fmt: skip
    """One step of Heun with another second slope, another mean, or other steps that stay Euler's."""

    def step(f, z, t, s, schedule):
        dt, d = like(s - t, z), convert(f(z, t), z, t, schedule, "x", "velocity")
        z_s = z + dt * d
        return z_s if stays(s, schedule) else join(z, z_s, dt, d, second(f, z_s, z, t, s, schedule))

    return step


def velocity(f, z, t, schedule):
    return convert(f(z, t), z, t, schedule, "x", "velocity")


def heun_last_euler(f, z, times, schedule, trajectory=False):
    """EDM's loop, `if i < n - 1`, for any grid."""
    states = [z]
    for i, (t, s) in enumerate(intervals(f, z, times)):
        step = heun_with(stays=lambda s, schedule: i == len(times) - 2)
        states.append(step(f, states[-1], t, s, schedule))
    return torch.stack(states) if trajectory else states[-1]


def flow_slope(f, z, t, schedule):
    """eps - x, the velocity of rectified flow, on any schedule."""
    return convert(f(z, t), z, t, schedule, "x", "eps") - f(z, t)


def mean_of_x(f, z, t, s, schedule):
    x = f(z, t)
    z_s = z + like(s - t, z) * convert(x, z, t, schedule, "x", "velocity")
    if s[0] == 0:
        return z_s
    return z + like(s - t, z) * convert((x + f(z_s, s)) / 2, z, t, schedule, "x", "velocity")


def ddim_predictor(f, z, t, s, schedule):
    """The first half is a DDIM step."""
    x = f(z, t)
    z_s = ddim_step(x, z, t, s, schedule)
    if s[0] == 0:
        return z_s
    d, d_s = convert(x, z, t, schedule, "x", "velocity"), velocity(f, z_s, s, schedule)
    return z + like(s - t, z) * (d + d_s) / 2


def midpoint(f, z, t, s, schedule):
    m = (t + s) / 2
    return z + like(s - t, z) * velocity(f, z + like(m - t, z) * velocity(f, z, t, schedule), m, schedule)


def flow_heun(f, z, t, s, schedule):
    x = f(z, t)
    d = convert(x, z, t, schedule, "x", "eps") - x
    z_s = z + like(s - t, z) * d
    if s[0] == 0:
        return z_s
    x_s = f(z_s, s)
    return z + like(s - t, z) * (d + convert(x_s, z_s, s, schedule, "x", "eps") - x_s) / 2


HEUN = common(lambda **options: sampler_with(heun_with(), **options)) | {
    "first order, second slope at the old point [formula]": (
        sampler_with(heun_with(lambda f, z_s, z, t, s, schedule: velocity(f, z, s, schedule))), "second slope is at the old point"),
    "first order, second slope at the old time [formula]": (
        sampler_with(heun_with(lambda f, z_s, z, t, s, schedule: velocity(f, z_s, t, schedule))), "and yours at .0.95, 0.95, 0.8, 0.8, "),
    "second slope at the old point and time [formula]": (
        sampler_with(heun_with(lambda f, z_s, z, t, s, schedule: velocity(f, z, t, schedule))), "and yours at .0.95, 0.95, 0.8, 0.8, "),
    "second slope converted at the old time [formula]": (
        sampler_with(heun_with(lambda f, z_s, z, t, s, schedule: convert(f(z_s, s), z_s, t, schedule, "x", "velocity"))), "yours at the old time"),
    "second slope converted at the old point [formula]": (
        sampler_with(heun_with(lambda f, z_s, z, t, s, schedule: convert(f(z_s, s), z, s, schedule, "x", "velocity"))), "yours at the old point"),
    "eps - x on every schedule [formula]": (sampler_with(flow_heun), "velocity of rectified flow alone"),
    "the last step is always Euler [end]": (heun_last_euler, "Only a step that ends at sigma = 0"),
    "no step is Euler's [end]": (
        sampler_with(heun_with(stays=lambda s, schedule: False)), "is valid and must not be refused"),
    "Euler below 0.4 [end]": (sampler_with(heun_with(stays=lambda s, schedule: s[0] < 0.4)), "Only a step that ends at sigma = 0"),
    "only Euler [formula]": (sampler_with(euler_step), "Only a step that ends at sigma = 0"),
    "asks twice, ends as Euler [formula]": (
        sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z_s)), "yours ends where Euler's step ends"),
    "from the Euler point [formula]": (
        sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z_s + dt * (d + d_s) / 2)), "starts from the Euler point"),
    "half the second slope from the Euler point [formula]": (
        sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z_s + dt * d_s / 2)), "starts from the Euler point"),
    "the sum [formula]": (sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z + dt * (d + d_s))), "the half is missing"),
    "the second slope alone [formula]": (sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z + dt * d_s)), "takes slope_s alone"),
    "the difference [formula]": (sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z + dt * (d - d_s) / 2)), "yours has a minus"),
    "half of one of them [formula]": (sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z + dt * (d + d_s / 2))), "only slope_s is halved"),
    "the wrong way [formula]": (sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z - dt * (d + d_s) / 2)), "goes the other way"),
    "the mean of the two x_hat [formula]": (sampler_with(mean_of_x), "yours at the old ones"),
    "DDIM first [formula]": (sampler_with(ddim_predictor), "This is a DDIM step"),
    "the midpoint rule [formula]": (sampler_with(midpoint), "and yours at .0.95, 0.875, "),
    "DDIM instead [formula]": (ddim, "Only a step that ends at sigma = 0"),
    "asks at the end too [end]": (asks_at_the_end_too(heun), "and yours at .0.95, 0.8, 0.8, 0.35, 0.35, 0.0.[.]"),
}  # fmt: skip


# fresh noise


def lift(x, noise, s, end, schedule):
    (alpha, sigma), (alpha_e, sigma_e) = coefficients(schedule, s, x), coefficients(schedule, end, x)
    return alpha / alpha_e * x + (sigma**2 - (alpha / alpha_e * sigma_e) ** 2).sqrt() * noise


def draw_each(z, n, generator):
    return [randn_like(z, generator) for _ in range(n)]


def need(noise, z, n):
    if [a.shape for a in noise] != [z.shape] * n:
        raise ValueError("n - 1 noises")


def renoise_with(lift=lift, grid=lambda times: times, path=stacked, look=None, between=lambda z: z,
                 draw=draw_each, need=need, take=lambda noise, i: noise[i % len(noise)]):  # fmt: skip
    """Multistep consistency sampling with another lift, or with other noise.

    lift(x, noise, s, end, schedule) -> z. draw(z, n, generator): n noises. need(noise, z, n): what is refused.
    take(noise, i): that of lift i.
    """

    def sampler(f, z, times, schedule, noise=None, generator=None, trajectory=False):
        n_lifts, times, start = len(times) - 2, grid(times), z
        if noise is not None:
            need(noise, z, n_lifts)
        states, answers, steps = [z], [], steps_of(f, z, times, look)
        noise = draw(z, len(steps) - 1, generator) if noise is None else noise
        for i, (t, s) in enumerate(steps):
            z = f(between(z), t)
            answers.append(z)
            if z.shape != start.shape:
                raise ValueError("another shape")
            if i < len(steps) - 1:
                z = lift(z, take(noise, i), s, steps[-1][1], schedule)
            states.append(z)
        return path(states, answers) if trajectory else z

    return sampler


def lift_with(formula):
    """renoise with a lift from (x, noise, alpha_s, sigma_s, alpha_e, sigma_e)."""
    return renoise_with(
        lambda x, n, s, e, schedule: formula(
            x, n, *coefficients(schedule, s, x), *coefficients(schedule, e, x)
        )
    )


def missing(a, b, p, q):
    return (b**2 - (a / p * q) ** 2).sqrt()


def lifts_after_the_end(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """What f answers at last is lifted to the end, as if it had no noise yet."""
    found = renoise(f, z, times, schedule, noise, generator, trajectory)
    alpha, sigma = (float(c) for c in schedule(times[-1:]))
    return alpha * found + sigma * torch.ones_like(found)


def ends_on_noise(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """The list of times does not end where f lands: the last sample is noisy (openai/consistency_models#7)."""
    states = renoise(f, z, times, schedule, noise, generator, trajectory=True)
    states[-1] += 0.1
    return states if trajectory else states[-1]


def lifts_z(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """The noise is added to z, not to what f answers."""
    old = []
    keep = lambda z, t: (old.append(z), f(z, t))[1]
    return renoise_with(lambda x, n, s, e, schedule: lift(old[-1], n, s, e, schedule))(
        keep, z, times, schedule, noise, generator, trajectory
    )


def lifts_to_t(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """The lift goes back to where f was asked."""
    old = []
    keep = lambda z, t: (old.append(t), f(z, t))[1]
    return renoise_with(lambda x, n, s, e, schedule: lift(x, n, old[-1], e, schedule))(
        keep, z, times, schedule, noise, generator, trajectory
    )


def between_clean(states, answers):
    return torch.stack([states[0], *answers])


def drawing(draw):
    return renoise_with(draw=draw)


def seeds_anew(z, n, generator):
    g = torch.Generator().manual_seed(generator.initial_seed() if generator is not None else 0)
    return [randn_like(z, g) for _ in range(n)]


def seeds_each_lift(z, n, generator):
    return [
        randn_like(z, torch.Generator().manual_seed(generator.initial_seed() if generator else 0))
        for _ in range(n)
    ]


def draws_after(z, n, generator):
    noise = [randn_like(z, generator) for _ in range(n + 1)]
    return noise[:-1]


def draws_before(z, n, generator):
    return [randn_like(z, generator) for _ in range(n + 1)][1:]


def uniform(z, n, generator):
    return [(torch.rand(z.shape, generator=generator, dtype=z.dtype) - 0.5) * 12**0.5 for _ in range(n)]


def pops(noise, i):
    return noise.pop(0)


def in_place(noise, i):
    return noise[i].mul_(0.5)


def replaces(noise, i):
    fresh, noise[i] = noise[i], 0 * noise[i]
    return fresh


def needing(refuses):
    def need(noise, z, n):
        if refuses(noise, z, n):
            raise ValueError("n - 1 noises")

    return need


def count_only(noise, z, n):
    if len(noise) != n:
        raise ValueError("n - 1 noises")


def if_noise(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """An empty list is taken for no list."""
    return renoise(f, z, times, schedule, noise or None, generator, trajectory)


RENOISE = common(renoise_with) | {
    "tau for sqrt(tau^2 - t_min^2) [formula]": (lift_with(lambda x, n, a, b, p, q: a * x + b * n), "All of sigma_s is too much"),
    "scaled, with all of sigma_s [formula]": (lift_with(lambda x, n, a, b, p, q: a / p * x + b * n), "All of sigma_s is too much"),
    "the sample is not scaled [formula]": (lift_with(lambda x, n, a, b, p, q: x + (b**2 - q**2).sqrt() * n), "scaled by alpha_s / alpha_e"),
    "not divided by alpha where f lands [formula]": (
        lift_with(lambda x, n, a, b, p, q: a * x + (b**2 - (a * q) ** 2).sqrt() * n), "scaled by alpha_s / alpha_e"),
    "its noise is not scaled [formula]": (
        lift_with(lambda x, n, a, b, p, q: a / p * x + (b**2 - q**2).sqrt() * n), "noise in f's answer is scaled"),
    "its noise scaled by the root [formula]": (
        lift_with(lambda x, n, a, b, p, q: a / p * x + (b**2 - a / p * q**2).sqrt() * n), "noise in f's answer is scaled"),
    "difference of standard deviations [formula]": (
        lift_with(lambda x, n, a, b, p, q: a / p * x + (b - a / p * q) * n), "It is variances that add"),
    "the root is missing [formula]": (
        lift_with(lambda x, n, a, b, p, q: a / p * x + missing(a, b, p, q) ** 2 * n), "It is variances that add"),
    "plus under the root [formula]": (
        lift_with(lambda x, n, a, b, p, q: a / p * x + (b**2 + (a / p * q) ** 2).sqrt() * n), "It is variances that add"),
    "unit noise [formula]": (lift_with(lambda x, n, a, b, p, q: a / p * x + n), "the size that is missing, not 1"),
    "no noise [formula]": (lift_with(lambda x, n, a, b, p, q: a / p * x), "without fresh noise"),
    "no lift [formula]": (lift_with(lambda x, n, a, b, p, q: x), "lift it to the next time"),
    "the noise on z, not on the answer [formula]": (lifts_z, "The noise goes on f's answer"),
    "lifted to t again [formula]": (lifts_to_t, "the next time is s"),
    "Euler instead [formula]": (
        lambda f, z, times, schedule, noise=None, generator=None, trajectory=False: ddim(f, z, times, schedule, trajectory),
        "This follows the ODE"),
    "does not end on f [end]": (ends_on_noise, "All questions are right, and the end is not"),
    "lifted after the last answer too [end]": (lifts_after_the_end, "All questions are right, and the end is not"),
    "f is asked at the end too [end]": (asks_at_the_end_too(renoise), "and yours at .0.95, 0.8, 0.35, 0.0.[.]"),
    "ends on the last lifted state [end]": (
        renoise_with(grid=lambda times: times[:-1] if len(times) > 2 else times), "the denoiser is asked at"),
    "one noise for all steps [random]": (renoise_with(take=lambda noise, i: noise[0]), "Lift 2 takes noise 1"),
    "the noises backwards [random]": (renoise_with(take=lambda noise, i: noise[-1 - i]), "Lift 1 takes noise 2"),
    "given noise ignored [random]": (renoise_with(take=lambda noise, i: torch.ones_like(noise[i])), "Question 2 of 3 is at a wrong z"),
    "given noise drawn over [random]": (
        renoise_with(take=lambda noise, i: torch.randn_like(noise[i])), "what is drawn here"),
    "drawn once [random]": (drawing(lambda z, n, g: [randn_like(z, g)] * n), "Drawn once, and used at every lift"),
    "seeded anew in each call [random]": (drawing(seeds_anew), "go on in it"),
    "seeded anew at each lift [random]": (drawing(seeds_each_lift), "go on in it"),
    "the generator ignored [random]": (drawing(lambda z, n, g: draw_each(z, n, None)), "generator must decide all randomness"),
    "the generator for the first only [random]": (
        drawing(lambda z, n, g: [randn_like(z, g if i == 0 else None) for i in range(n)]), "generator must decide all randomness"),
    "one noise drawn too many, after the last answer [random]": (drawing(draws_after), "drawn that are not used"),
    "the first noise drawn is dropped [random]": (drawing(draws_before), "A noise is drawn and not used"),
    "drawn in backward order [random]": (drawing(lambda z, n, g: draw_each(z, n, g)[::-1]), "first noise drawn is not the first one used"),
    "uniform noise [random]": (drawing(uniform), "unit Gaussian"),
    "half the noise [random]": (drawing(lambda z, n, g: [randn_like(z, g) / 2 for _ in range(n)]), "unit Gaussian"),
    "one noise for the batch [random]": (
        drawing(lambda z, n, g: [randn_like(z[:1], g).expand_as(z) for _ in range(n)]), "unit Gaussian"),
    "without a generator always the same [random]": (
        drawing(lambda z, n, g: draw_each(z, n, torch.Generator().manual_seed(0) if g is None else g)), "torch's own random numbers"),
    "drawn in float64 for float32 [precision]": (
        drawing(lambda z, n, g: [torch.randn(z.shape, generator=g, dtype=torch.float64) for _ in range(n)]), "t in the dtype of z"),
    "noise.pop(0) [argument]": (renoise_with(take=pops), "no pop"),
    "noise changed in place [argument]": (renoise_with(take=in_place), "nothing in place"),
    "noise replaced in the list [argument]": (renoise_with(take=replaces), "nothing put in its place"),
    "any number of noises [refusal]": (renoise_with(need=needing(lambda noise, z, n: any(a.shape != z.shape for a in noise)),
                                                    take=lambda noise, i: noise[i % len(noise)] if noise else 0), "0 noises for 3 steps must be refused"),
    "too many noises [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: len(noise) < n or any(a.shape != z.shape for a in noise))), "3 noises for 3 steps"),
    "an empty list taken for None [refusal]": (if_noise, "0 noises for 3 steps"),
    "too few noises, by IndexError [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: any(a.shape != z.shape for a in noise)), take=lambda noise, i: noise[i]),
        "0 noises for 3 steps.*not IndexError"),
    "noise of another shape [refusal]": (renoise_with(need=count_only), r"Noise of shape \(1, 2, 3\)"),
    "only the first noise looked at [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: len(noise) != n or (n > 0 and noise[0].shape != z.shape))), r"Noise of shape \(1, 2, 3\)"),
    "only the last noise looked at [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: len(noise) != n or (n > 0 and noise[-1].shape != z.shape))), r"Noise of shape \(1, 2, 3\)"),
    "only the batch of noises looked at [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: len(noise) != n or any(len(a) != len(z) for a in noise))), r"Noise of shape \(3, 1, 3\)"),
    "refused only if all noises are narrow [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: len(noise) != n or (n > 0 and all(a.shape != z.shape for a in noise)))), r"Noise of shape \(1, 2, 3\)"),
    "an empty list refused [refusal]": (
        renoise_with(need=needing(lambda noise, z, n: not noise or [a.shape for a in noise] != [z.shape] * n)), "is valid and must not be refused"),
    "trajectory: clean samples in between [trajectory]": (renoise_with(path=between_clean), "not what the denoiser answers"),
    "trajectory: z repeated, never lifted [trajectory]": (
        renoise_with(path=lambda states, _: torch.stack([states[0]] * (len(states) - 1) + states[-1:])), "Every state but the end is the start"),
    "trajectory: without the start, the end twice [trajectory]": (
        renoise_with(path=lambda states, _: torch.stack([*states[1:], states[-1]])), "the end is there twice"),
}  # fmt: skip

MISTAKES = {
    f"{group}: {name}": (check, wrong, says)
    for group, check, mistakes in (
        ("step", checks.check_ddim_step, STEPS),
        ("ddim", checks.check_ddim, DDIM),
        ("euler", checks.check_euler, EULER),
        ("heun", checks.check_heun, HEUN),
        ("renoise", checks.check_renoise, RENOISE),
    )
    for name, (wrong, says) in mistakes.items()
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught:
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, written as people write


def with_numpys_axes(schedule, t, z):
    alpha, sigma = schedule(t)
    return alpha.to(z.dtype).reshape((-1,) + (1,) * (z.ndim - 1)), sigma.to(z.dtype).reshape(
        (-1,) + (1,) * (z.ndim - 1)
    )


def with_einops(schedule, t, z):
    return [rearrange(c.to(z.dtype), "b -> b" + " 1" * (z.ndim - 1)) for c in schedule(t)]


def sample_by_sample(x_hat, z, t, s, schedule):
    if x_hat.shape != z.shape:
        raise ValueError("another shape")
    found = []
    for one, noisy, *ends in zip(x_hat, z, t.split(1), s.split(1)):
        (a, b), (c, d) = (schedule(u.to(z.dtype)) for u in ends)
        found.append(c * one + d * (noisy - a * one) / b)
    return torch.stack(found)


def in_float64(x_hat, z, t, s, schedule):
    if x_hat.shape != z.shape:
        raise ValueError("another shape")
    return right(
        x_hat.double(), z.double(), *uncast(schedule, t.double(), z), *uncast(schedule, s.double(), z)
    ).to(z.dtype)


def fills_one_buffer(denoiser, z, times, schedule, trajectory=False):
    """One buffer of times, filled again for each step, and z that moves in place."""
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all() or not (times >= 0).all():
        raise ValueError("no grid")
    t, s, states = z.new_empty(len(z)), z.new_empty(len(z)), [z]
    moving = z.clone()
    for now, then in zip(times[:-1].tolist(), times[1:].tolist()):
        t.fill_(now), s.fill_(then)
        x_hat = denoiser(moving.clone() if moving.requires_grad else moving, t)
        moved = ddim_step(x_hat, moving, t, s, schedule)
        moving = moved if moved.requires_grad else moving.copy_(moved)
        states.append(moving.clone())
    return torch.stack(states) if trajectory else moving.clone()


def keep_and_take(f, z, t, s, schedule):
    """DDIM without eps_hat."""
    (a, b), (c, d) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    return d / b * z + (c - a * d / b) * f(z, t)


def fills_the_path(sampler):
    """The states are written into one tensor."""

    def right(*args, trajectory=False, **kwargs):
        states = sampler(*args, trajectory=True, **kwargs)
        path = torch.zeros_like(states)
        for k, state in enumerate(states):
            path[k] = state
        return path if trajectory else path[-1]

    return right


def where_sigma_is_zero(f, z, t, s, schedule):
    """torch.where, with a harmless time where the step stays Euler's."""
    d = velocity(f, z, t, schedule)
    z_s = z + like(s - t, z) * d
    clean = schedule(s)[1] == 0
    if clean.all():
        return z_s
    d_s = velocity(f, z_s, torch.where(clean, t, s), schedule)
    return torch.where(like(clean.to(z), z) > 0, z_s, z + like(s - t, z) * (d + d_s) / 2)


def half_steps(z, z_s, dt, d, d_s):
    return z + dt / 2 * d + dt / 2 * d_s


def slope_by_hand(f, z, t, s, schedule):
    x_hat, (alpha, sigma) = f(z, t), coefficients(schedule, t, z)
    d_alpha, d_sigma = (like(c, z) for c in rates(schedule, t))
    return z + like(s - t, z) * (d_alpha * x_hat + d_sigma / sigma * (z - alpha * x_hat))


def lift_by_variance(x, noise, s, end, schedule):
    """The signal of time s, and what is missing to its variance."""
    (alpha, sigma), (alpha_e, sigma_e) = coefficients(schedule, s, x), coefficients(schedule, end, x)
    return alpha * (x / alpha_e + ((sigma / alpha) ** 2 - (sigma_e / alpha_e) ** 2).sqrt() * noise)


def lift_in_float64(x, noise, s, end, schedule):
    (a, b), (p, q) = (uncast(schedule, u.double(), x) for u in (s, end))
    return (a / p * x.double() + torch.sqrt(b**2 - (a * q / p) ** 2) * noise.double()).to(x.dtype)


def tuple_of_noise(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    return renoise_with()(
        f, z, times, schedule, noise and tuple(noise) if noise != [] else (), generator, trajectory
    )


RIGHT = {
    "step: numpy's axes": (checks.check_ddim_step, step_with(right, with_numpys_axes)),
    "step: einops": (checks.check_ddim_step, step_with(right, with_einops)),
    "step: without eps_hat": (checks.check_ddim_step, step_with(lambda x, z, a, b, c, d: d / b * z + (c - a * d / b) * x)),
    "step: a sum of products": (checks.check_ddim_step, step_with(lambda x, z, a, b, c, d: torch.addcmul(c * x, d, (z - a * x) / b))),
    "step: sample by sample": (checks.check_ddim_step, sample_by_sample),
    "step: in float64, cast back": (checks.check_ddim_step, in_float64),
    "step: torch.where at s = 0": (
        checks.check_ddim_step, step_with(lambda x, z, a, b, c, d: torch.where(d == 0, c * x, right(x, z, a, b, c, d)))),
    "ddim: intervals": (checks.check_ddim, sampler_with(plain)),
    "ddim: one buffer, z in place": (checks.check_ddim, fills_one_buffer),
    "ddim: without eps_hat": (checks.check_ddim, sampler_with(keep_and_take)),
    "ddim: the path filled in": (checks.check_ddim, fills_the_path(sampler_with(plain))),
    "ddim: in float64, cast back": (
        checks.check_ddim, sampler_with(lambda f, z, t, s, schedule: in_float64(f(z, t), z, t, s, schedule))),
    "euler: convert": (checks.check_euler, sampler_with(euler_step)),
    "euler: by hand": (checks.check_euler, sampler_with(slope_by_hand)),
    "euler: the path filled in": (checks.check_euler, fills_the_path(sampler_with(euler_step))),
    "euler: numbers for dt": (
        checks.check_euler, sampler_with(lambda f, z, t, s, schedule: z + (s - t)[0].item() * velocity(f, z, t, schedule))),
    "heun: convert": (checks.check_heun, sampler_with(heun_with())),
    "heun: two half steps": (checks.check_heun, sampler_with(heun_with(join=half_steps))),
    "heun: from the Euler point, back by half": (
        checks.check_heun, sampler_with(heun_with(join=lambda z, z_s, dt, d, d_s: z_s + dt * (d_s - d) / 2))),
    "heun: torch.where": (checks.check_heun, sampler_with(where_sigma_is_zero)),
    "heun: s == 0": (checks.check_heun, sampler_with(heun_with(stays=lambda s, schedule: s[0].item() == 0))),
    "heun: the path filled in": (checks.check_heun, fills_the_path(sampler_with(heun_with()))),
    "renoise: the list of noises first": (checks.check_renoise, renoise_with()),
    "renoise: signal-to-noise": (checks.check_renoise, renoise_with(lift_by_variance)),
    "renoise: in float64, cast back": (checks.check_renoise, renoise_with(lift_in_float64)),
    "renoise: a tuple of noises": (checks.check_renoise, tuple_of_noise),
    "renoise: the path filled in": (checks.check_renoise, fills_the_path(renoise_with())),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, unchecked_shapes):
    check, answer = RIGHT[name]
    check(answer)


# numbers of other people's code


@pytest.mark.parametrize("kind", ["eps", "x", "v"])
def test_golden_ddim_step(kind):
    schedule = tabulated((1 - beta_table("linear")).cumprod(0))
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    t, s = torch.tensor([0.5]).double(), torch.tensor([0.25]).double()  # their timesteps 499 and 249
    x_hat = convert(out, z, t, schedule, kind, "x")
    golden = GOLDEN["ddim_linear_499_to_249"][kind]
    if "x" in golden:
        torch.testing.assert_close(x_hat, torch.tensor([golden["x"]]).double(), atol=1e-5, rtol=1e-6)
    prev = ddim_step(x_hat, z, t, s, schedule)
    torch.testing.assert_close(prev, torch.tensor([golden["prev"]]).double(), atol=1e-5, rtol=1e-6)


def test_golden_flow_step():
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    times = torch.tensor([0.9, 0.75], dtype=torch.float64)
    network = lambda z, t: convert(out, z, t, rectified_flow, "velocity", "x")
    expected = torch.tensor([GOLDEN["flow_match_euler_0.9_to_0.75"]]).double()
    torch.testing.assert_close(euler(network, z, times, rectified_flow), expected, atol=1e-6, rtol=0)


def test_golden_edm_denoiser():
    """EDM's network has the opposite sign of ours."""
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    denoiser = as_denoiser(lambda u, phi: -out, edm, data_std=0.5)
    expected = torch.tensor([GOLDEN["edm_denoised_sigma_2.515219_std_0.5"]]).double()
    torch.testing.assert_close(denoiser(z, torch.tensor([2.515219]).double()), expected, atol=1e-6, rtol=0)


# behaviour


@pytest.mark.parametrize("sampler", [ddim, euler, heun], ids=lambda f: f.__name__)
def test_a_student_on_another_grid_warns(sampler):
    def student(z, t):
        return 0 * z

    student.steps = 4
    z = torch.ones(2, 2)
    sampler(student, z, time_grid(4), cosine)  # a warning here would be an error
    for times in (time_grid(2), time_grid(8), torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0])):
        with pytest.warns(UserWarning, match=r"distilled for time_grid\(4\)"):
            sampler(student, z, times, cosine)


def test_float32_in_float32_out():
    z = torch.randn(3, 2)
    for sampler in (ddim, euler, heun):
        assert (
            sampler(lambda z, t: 0.5 * z, z, time_grid(4, dtype=torch.float64), cosine).dtype == torch.float32
        )


def test_bad_input(unchecked_shapes):
    z = torch.ones(2, 2)
    for times, sentence in (
        (torch.tensor([0.0, 1.0]), "times must fall"),
        (torch.tensor([1.0, -0.1]), "must be at least 0"),
        (torch.tensor([1.0]), "at least two"),
        (torch.tensor([[1.0, 0.0]]), "float tensor"),
        (torch.tensor([2, 1]), "float"),
        ([1.0, 0.0], "float tensor"),
        (torch.tensor([1.0, float("nan"), 0.0]), "at least 0"),
        (torch.tensor([float("inf"), 1.0, 0.0]), "at least 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ddim(lambda z, t: z, z, times, cosine)
    with pytest.raises(ValueError, match="noises: 1 are needed"):
        renoise(lambda z, t: z, z, time_grid(2), cosine, noise=[z, z])


def test_samplers_are_differentiable():
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    for sampler in (ddim, euler, heun, renoise):
        extra = {"noise": [torch.ones_like(z)]} if sampler is renoise else {}
        assert torch.autograd.gradcheck(
            lambda z: sampler(lambda z, t: torch.tanh(z), z, time_grid(2), cosine, **extra), z
        )


@pytest.mark.parametrize("schedule", [cosine, rectified_flow], ids=lambda f: f.__name__)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_gradients_reach_the_times(schedule, end):
    """Learned grids need them. The last time itself may be 0, where 1 / sigma has no derivative."""
    z = torch.randn(3, 2, dtype=torch.float64)
    inner = torch.tensor([0.95, 0.6, 0.3], dtype=torch.float64, requires_grad=True)
    last = torch.tensor([end], dtype=torch.float64)
    for sampler in (ddim, euler, heun, renoise):
        extra = {"noise": [torch.ones_like(z)] * 2} if sampler is renoise else {}
        run = lambda times: sampler(
            lambda z, t: torch.tanh(z + t[:, None]), z, torch.cat([times, last]), schedule, **extra
        )
        assert torch.autograd.gradcheck(run, inner)
        times = torch.cat([inner.detach(), last]).requires_grad_()
        f = lambda z, t: torch.tanh(z + t[:, None])
        gradient = torch.autograd.grad(sampler(f, z, times, schedule, **extra).sum(), times)[0]
        assert gradient.isfinite().all(), "that of the last time too"


def test_the_schedule_is_read_before_the_first_step_and_not_again():
    calls = []

    def counted(t):
        calls.append(len(t))
        return cosine(t)

    for sampler in (ddim, euler, heun, renoise):
        calls.clear()
        seen = []
        sampler(lambda z, t: seen.append(len(calls)) or z, torch.ones(3, 2), time_grid(8), counted)
        # the times, and once more for their derivative
        assert calls == [9] * (2 if sampler in (euler, heun) else 1) and set(seen) == {len(calls)}


def test_euler_is_ddim_where_the_slope_is_constant():
    """Through a closure, which the samplers do not recognize."""
    z = torch.randn(3, 2, dtype=torch.float64)
    for schedule, times in ((rectified_flow, time_grid(4)), (edm, torch.tensor([80.0, 5.0, 0.5, 0.0]))):
        hidden = lambda t: schedule(t)
        for f in (lambda z, t: torch.tanh(z), lambda z, t: 0 * z):
            torch.testing.assert_close(
                euler(f, z, times.double(), hidden),
                ddim(f, z, times.double(), schedule),
                atol=1e-12,
                rtol=1e-12,
            )


def test_renoise_keeps_the_marginals():
    """The flow map of a Gaussian is linear, and so is the sampler: variances add up without any sampling."""
    gaussian = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())
    for schedule, times in ((cosine, [0.99, 0.7, 0.4, 0.1]), (edm, [80.0, 5.0, 2.0, 0.5])):
        times = torch.tensor(times, dtype=torch.float64)
        end = times[-1].expand(3)
        f = lambda z, t: gaussian.flow_map(z, t, end, schedule)
        alpha, sigma = schedule(times)
        std = (alpha**2 * 0.25 + sigma**2).sqrt()
        z, *noise = torch.eye(3, dtype=torch.float64)[..., None]
        found = renoise(f, std[0] * z, times, schedule, noise=noise)
        torch.testing.assert_close(found.square().sum().sqrt(), std[-1], atol=1e-12, rtol=1e-12)


def test_intervals_are_one_time_per_sample():
    for t, s in samplers.intervals(lambda z, t: z, torch.ones(3, 2), time_grid(2)):
        assert t.shape == s.shape == (3,) and (t > s).all()
