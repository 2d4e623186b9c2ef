"""Consistency models: the checks on our code, on every mistake of the literature, golden numbers, exact limits.

The numbers are those of the list of mistakes that people made. Not planted: 17 (the target from an average of old
weights, or the average's direction swapped) and 35 (samples from the raw weights, or in train mode) are choices of
the training loop: the appendix on curricula shows the first by training, test_train holds the average to a reference, and
`boundary` and `as_denoiser` have no mode. 3 and 36 are mistakes of the parameterization and 29 to 33 of the
sampler, and are planted in their tests.
"""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from einops import reduce
from planted import same, then

from minidistill import consistency, editing
from minidistill.checks import column, exact
from minidistill.checks import consistency as checks
from minidistill.checks import editing as edit_checks
from minidistill.checks.oracle import mixture
from minidistill.consistency import (
    boundary,
    consistency_loss,
    consistency_target,
    draw_interval,
    ect_loss,
    ect_mapping,
    ect_stage,
    ect_weight,
    ict_steps,
    lognormal_times,
    ode_step,
    pseudo_huber,
    scm_loss,
    scm_tangent,
    trigflow,
)
from minidistill.dit import MLP
from minidistill.metrics import flow_map_error, sliced_wasserstein
from minidistill.oracle import Gaussian, ProductMixture
from minidistill.parameterization import as_denoiser
from minidistill.samplers import ddim, renoise
from minidistill.schedules import cosine, edm, karras_sigmas, mix, randn_like, rectified_flow
from minidistill.train import train

GOLDEN = json.loads((Path(__file__).parent / "golden" / "consistency.json").read_text())
CHECKS = [
    getattr(module, name)
    for module in (checks, edit_checks)
    for name in dir(module)
    if name.startswith("check_")
]


def golden(*path):
    """Numbers from the file, in float64."""
    found = GOLDEN
    for key in path:
        found = found[key]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the mistakes, each one thing changed in code that is otherwise right


def boundary_with(skip=None, out=None, c_in=None, shift=lambda t, t_min: t - t_min):
    def wrong(t, data_std=0.5, t_min=0.002):
        boundary(t, data_std, t_min)  # refuses what ought to be refused
        u, r = shift(t, t_min), (t**2 + data_std**2).sqrt()
        return (
            1 / (1 + (u / data_std) ** 2),
            out(t, u, r, data_std) if out else u * data_std / r,
            c_in(t, u, r, data_std) if c_in else 1 / r,
        )

    return wrong


def heun_with(at=lambda z, z_s: z_s, when=lambda t, s: s, slopes=lambda a, b: (a + b) / 2, second_of=same):
    """Heun's step, with one thing changed."""

    def wrong(denoiser, z, t, s, schedule, solver="euler"):
        ode_step(lambda z, t: z, z, t, s, schedule, solver)  # refuses what ought to be refused
        t, s = t.to(z.dtype), s.to(z.dtype)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, z) for c in schedule(u)] for u in (t, s))
        x_hat = denoiser(z, t)
        if x_hat.shape != z.shape:
            raise ValueError("another shape")
        first = (z - alpha_t * x_hat) / sigma_t
        keep = alpha_s / alpha_t
        euler = alpha_s * x_hat + sigma_s * first
        if solver == "euler":
            return euler
        inside = sigma_s > 0
        point, time = at(z, euler), when(t, torch.where(inside.flatten(), s, t))
        alpha, sigma = (column(c, z) for c in schedule(time))
        second = (point - alpha * second_of(denoiser(point, time), z)) / torch.where(sigma > 0, sigma, 1)
        return torch.where(inside, keep * z + (sigma_s - keep * sigma_t) * slopes(first, second), euler)

    return wrong


def target_with(
    noise=lambda eps: eps,
    start=lambda x, eps, t, s, schedule: mix(x, eps, t, schedule),
    clean=lambda z_s: z_s,
    ask=None,
    time=lambda t, s: s,
    no_grad=True,
):
    """The target, with one thing changed."""

    def wrong(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
        consistency_target(lambda z, t: z, x, eps, t, s, schedule)  # refuses what ought to be refused
        t, s = t.to(x.dtype), s.to(x.dtype)
        with torch.set_grad_enabled(not no_grad):
            if teacher is None:
                z_s = mix(x, noise(eps), s, schedule)
            else:
                z_s = ode_step(teacher, start(x, eps, t, s, schedule), t, s, schedule, solver)
            noisy = column(schedule(s)[1], x) > 0
            if ask:
                return ask(f, z_s, s, noisy)
            answer = f(z_s, torch.where(noisy.flatten(), time(t, s), t))
            if answer.shape != x.shape:
                raise ValueError("another shape")
            return torch.where(noisy, answer, clean(z_s))

    return wrong


def in_part(f, z_s, s, noisy):
    """f is asked for the noisy part of the batch only."""
    target, part = z_s.clone(), noisy.flatten()
    if part.any():
        target[part] = f(z_s[part], s[part])
    return target


def own_ect(
    weight=lambda w: w, distance=pseudo_huber, target=lambda answer, x, noisy: torch.where(noisy, answer, x)
):
    """ECT's loss by hand, with one thing changed."""

    def wrong(f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, weighting="gap", data_std=0.5):
        ect_loss(
            lambda z, t: z, x, eps, t, a, q, k, b, c, weighting, data_std
        )  # refuses what ought to be refused
        s = ect_mapping(t, a, q, k, b)
        w = weight(ect_weight(weighting, t, s, data_std))
        t, s = t.to(x.dtype), s.to(x.dtype)
        with torch.random.fork_rng():
            found = same(f(mix(x, eps, t, edm), t), x)
        with torch.no_grad():
            answer = f(mix(x, eps, s, edm), torch.where(s > 0, s, t))
        return (w * distance(found - target(answer, x, column(s, x) > 0).detach(), c)).to(x.dtype)

    return wrong


def loss_with(
    target=consistency_target, distance=pseudo_huber, detach=lambda found: found, mask="same", swap=False
):
    """The loss, with one thing changed."""

    def wrong(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
        consistency_loss(lambda z, t: z, x, eps, t, s, schedule, c)  # refuses what ought to be refused
        t, s = t.to(x.dtype), s.to(x.dtype)
        z = mix(x, eps, t, schedule)
        if swap:
            later = column(schedule(s)[1], x) > 0
            found = torch.where(later, f(mix(x, eps, s, schedule), torch.where(s > 0, s, t)), x)
            wanted = f(z, t).detach()
        else:
            if mask == "fixed":
                torch.manual_seed(0)
            state = torch.get_rng_state()
            found = f(z, t)
            if found.shape != x.shape:
                raise ValueError("another shape")
            if mask in ("same", "fixed"):
                after = torch.get_rng_state()
                torch.set_rng_state(state)
            wanted = target(f, x, eps, t, s, schedule, teacher, solver)
            if mask == "same":
                torch.set_rng_state(after)
        return distance(detach(found) - wanted, c)

    return wrong


def elementwise(delta, c):
    return ((delta**2 + c**2).sqrt() - c).reshape(len(delta), -1).sum(1)


def mapping_with(sign=-1, exponent=0, clamp=True, swapped=False):
    def wrong(t, a, q=2.0, k=8.0, b=1.0):
        ect_mapping(t, a, q, k, b)  # refuses what ought to be refused
        n = 1 + k * torch.sigmoid(sign * b * t)
        ratio = 1 - n / q ** (a + exponent)
        return t * (ratio.clamp(min=0) if clamp else ratio)

    return wrong


def ect_with(mapping=ect_mapping, weight=ect_weight, loss=consistency_loss):
    def wrong(f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, weighting="gap", data_std=0.5):
        s = mapping(t, a, q, k, b)
        return (weight(weighting, t, s, data_std) * loss(f, x, eps, t, s, edm, c)).to(x.dtype)

    return wrong


def pmf_with(cdf=torch.special.ndtr, log=torch.log, normalise=True):
    def wrong(sigmas, mean=-1.1, std=2.0):
        consistency.ict_time_pmf(sigmas, mean, std)  # refuses what ought to be refused
        mass = cdf((log(sigmas) - mean) / std).diff().abs()
        return mass / mass.sum() if normalise else 2 * mass

    return wrong


def interval_with(low=0, high=0, reverse=False):
    def wrong(sigmas, b, pmf=None, generator=None):
        with torch.random.fork_rng():
            draw_interval(sigmas, b, pmf)  # refuses what ought to be refused
        if reverse:
            t, s = draw_interval(sigmas, b, pmf, generator)
            return s, t
        weights = torch.ones_like(sigmas[1:]) if pmf is None else pmf
        weights = torch.cat([weights, weights[-1:]])[low : len(sigmas) + high]
        i = torch.multinomial(weights, b, replacement=True, generator=generator)
        return sigmas[i], sigmas[(i + 1).clamp(max=len(sigmas) - 1)]

    return wrong


def tangent_with(sign=(-1, -1), cos=True, warm_both=False, warm_first=False, rate=True):
    def wrong(net, z, t, slope, data_std=0.5, warmup=1.0):
        scm_tangent(net, z, t, slope, data_std, warmup)  # refuses what ought to be refused
        t = t.to(z.dtype)
        c, s = column(t.cos(), z), column(t.sin(), z)
        move = (c * s * slope / data_std, (t.cos() * t.sin()).contiguous())
        F, dF = torch.func.jvp(net, (z / data_std, t.contiguous()), move)
        first = sign[0] * c**2 * (data_std * F - slope)
        second = sign[1] * (c * s * z + (data_std * dF if rate else 0))
        if not cos:
            first, second = first / c, second / c
        first = warmup * first if warm_both or warm_first else first
        return (first + (second if warm_first else warmup * second)).detach()

    return wrong


def scm_with(norm=lambda g: column(g.flatten(1).norm(dim=1), g), noise_std=None, sign=1):
    def wrong(net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1):
        sd, given, t = noise_std or data_std, t, t.to(x.dtype)
        with torch.random.fork_rng():
            scm_loss(net, x, eps, given, data_std, teacher, warmup, c)  # refuses what ought to be refused
        cos, sin = column(t.cos(), x), column(t.sin(), x)
        z = cos * x + sin * sd * eps
        slope = data_std * teacher(z / data_std, t) if teacher else sd * cos * eps - sin * x
        with torch.random.fork_rng():
            g = scm_tangent(net, z, t, slope.detach(), data_std, warmup)
        g = sign * g / (norm(g) + c)
        found = net(z / data_std, t)
        return (found - found.detach() - g).square().flatten(1).mean(1)

    return wrong


def slerp_with(swap=False, over_batch=False, straight=False):
    def wrong(a, b, weight):
        editing.slerp(a, b, weight)  # refuses what ought to be refused
        weight = weight.to(a.dtype)
        weight = 1 - weight if swap else weight
        u, v = (z.reshape(len(z), -1) for z in (a, b))
        if over_batch:
            angle = torch.acos((u * v).sum() / u.norm() / v.norm()).expand(len(a))
        else:
            angle = torch.acos(((u * v).sum(1) / u.norm(dim=1) / v.norm(dim=1)).clamp(-1, 1))
        share_a, share_b = (
            torch.sinc(w * angle / torch.pi) * w / torch.sinc(angle / torch.pi) for w in (1 - weight, weight)
        )
        if straight:
            share_a, share_b = 1 - weight, weight
        return column(share_a, a) * a + column(share_b, b) * b

    return wrong


def edit_with(start=True, last=True, inverted=False, after_noise=False, scale=True, same=False, lift=True):
    def wrong(f, y, operator, inverse, times, schedule, noise=None, generator=None):
        with torch.random.fork_rng():
            editing.edit(
                lambda z, t: z, y, operator, inverse, times, schedule, noise
            )  # refuses what ought to be
        times = times.to(y.dtype)
        guess = inverse(y)
        noise = noise or [randn_like(guess, generator) for _ in times[1:]]
        at = lambda i: times[i].expand(len(guess))
        agree = lambda x: inverse(operator(x)) if inverted else x + inverse(y - operator(x))
        alpha, sigma = schedule(times)
        z = alpha[0] * (guess if start else 0 * guess) + (sigma[0] if scale else 1.0) * noise[0]
        x = f(z, at(0))
        for i in range(1, len(times) - 1):
            x = x if after_noise else agree(x)
            keep = alpha[i] / alpha[-1]
            missing = (sigma[i] ** 2 - (keep * sigma[-1]) ** 2).sqrt() if lift else sigma[i]
            z = keep * x + missing * noise[0 if same else i]
            x = f(agree(z) if after_noise else z, at(i))
        return agree(x) if last else x

    return wrong


# the same mistake, made in any of the functions


def double(found):
    return tuple(c.double() for c in found) if isinstance(found, tuple) else found.double()


def asks(f, change):
    """f, whose first argument, a network, is asked at change(z, t)."""
    return lambda net, *args, **options: f(lambda z, t: net(*change(z, t)), *args, **options)


def in_float32(f):
    """f, computed in float32 and cast back."""

    def wrong(*args, **options):
        narrow = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        found = f(*narrow, **options)
        dtype = next(a for a in args if isinstance(a, torch.Tensor)).dtype
        return tuple(c.to(dtype) for c in found) if isinstance(found, tuple) else found.to(dtype)

    return wrong


def forked(f):
    """f, which leaves no trace in torch's random state."""

    def wrong(*args, **options):
        with torch.random.fork_rng():
            return f(*args, **options)

    return wrong


# without what refuses, but for what is said


def boundary_if(bad):
    """Right, and refuses where bad(t, data_std, t_min)."""

    def wrong(t, data_std=0.5, t_min=0.002):
        if bad(t, data_std, t_min):
            raise ValueError("bad")
        u, r = t - t_min, (t**2 + data_std**2).sqrt()
        return 1 / (1 + (u / data_std) ** 2 if data_std else u), u * data_std / r, 1 / r

    return wrong


def step_if(bad):
    """ode_step, which refuses where bad(alpha_t, sigma_t, solver)."""

    def wrong(denoiser, z, t, s, schedule, solver="euler"):
        alpha, sigma = schedule(t)
        if solver not in ("euler", "heun") or bad(alpha, sigma, solver):
            raise ValueError("bad")
        t = torch.where((sigma <= 0) | ((alpha <= 0) & (solver == "heun")), 0.5, t)
        return ode_step(denoiser, z, t, s, schedule, solver)

    return wrong


def ok(x, eps, t, s):
    return ((0 <= s) & (s < t)).all()


def target_if(
    good,
    like=column,
    eps_shape=lambda eps, x: eps.shape == x.shape,
    answer_shape=lambda a, x: a.shape == x.shape,
):
    """The target, which refuses unless good(x, eps, t, s), and where the shapes are not as is said."""

    def wrong(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
        if not (eps_shape(eps, x) and good(x, eps, t, s)):
            raise ValueError("bad")
        t, s = t.to(x.dtype), s.to(x.dtype)
        with torch.no_grad():
            (alpha, sigma), (alpha_s, sigma_s) = (
                [like(c, x) for c in schedule(u.clamp(min=0))] for u in (t, s)
            )
            z_s = alpha_s * x + sigma_s * eps
            if teacher is not None:
                z_s = ode_step(teacher, alpha * x + sigma * eps, t, s, schedule, solver)
            answer = f(z_s, torch.where(s > 0, s, t))
            if not answer_shape(answer, x):
                raise ValueError("bad")
            return torch.where(like(s, x) > 0, answer, z_s)

    return wrong


def strict_in_training(**loose):
    """The target, which refuses less with a teacher."""

    def wrong(f, x, eps, t, s, schedule, teacher=None, *solver):
        target = target_if(**(dict(good=ok) | loose)) if teacher else consistency_target
        return target(f, x, eps, t, s, schedule, teacher, *solver)

    return wrong


def swapped_step(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
    """t and s are swapped in the teacher's step."""
    consistency_target(lambda z, t: z, x, eps, t, s, schedule)  # refuses what ought to be refused
    t, s = t.to(x.dtype), s.to(x.dtype)
    z_s = (
        ode_step(teacher, mix(x, eps, t, schedule), s, t, schedule, solver)
        if teacher
        else mix(x, eps, s, schedule)
    )
    return torch.where(column(s, x) > 0, f(z_s, torch.where(s > 0, s, t)), z_s).detach()


def evaluated(f):
    """f, after f.eval()."""
    return getattr(f, "eval", lambda: f)()


def by_root(delta, c):
    """As the formula stands: the gradient is NaN at 0."""
    pseudo_huber(delta, c)  # refuses what ought to be refused
    return (delta.reshape(len(delta), -1).square().sum(1) + c**2).sqrt() - c


def target_without_finally(*args):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    found = consistency_target(*args)
    torch.set_grad_enabled(before)
    return found


def target_in_place(f, x, eps, t, s, schedule, *more):
    """f's answer is written into."""
    kept = []
    found = consistency_target(
        lambda z, t: kept.append(f(z, t)) or kept[-1].clone(), x, eps, t, s, schedule, *more
    )
    return kept[-1].copy_(found)


def target_and(last):
    """The target, and then last()."""

    def wrong(*args):
        found = consistency_target(*args)
        last()
        return found

    return wrong


def plain_loss(
    target=consistency_target,
    distance=pseudo_huber,
    own=lambda f, x, eps, t, s, schedule: f(mix(x, eps, t, schedule), t),
):
    """The loss, which refuses what its parts refuse."""

    def wrong(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
        with torch.random.fork_rng():
            found = own(f, x, eps, t.to(x.dtype), s.to(x.dtype), schedule)
        return distance(found - target(f, x, eps, t, s, schedule, teacher, solver), c)

    return wrong


def seeded_loss(seed):
    """The loss with the same mask on both sides, since both passes start from seed()."""

    def wrong(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
        start = seed()
        torch.manual_seed(start)
        found = f(mix(x, eps, t, schedule), t.to(x.dtype))
        torch.manual_seed(start)
        return pseudo_huber(found - consistency_target(f, x, eps, t, s, schedule, teacher, solver), c)

    return wrong


def huber_with(value):
    """value(|delta|^2, c, d), refusing c < 0."""

    def wrong(delta, c):
        pseudo_huber(delta, c)  # refuses what ought to be refused
        return value(delta.reshape(len(delta), -1).square().sum(1), c, delta[0].numel())

    return wrong


def mapping_of(
    share=lambda t, a, q, k, b: (1 + k * torch.sigmoid(-b * t)) / q**a,
    clamp=lambda ratio: ratio.clamp(min=0),
    refused=lambda a, q, k, b: a < 1 or q <= 1 or k < 0 or b < 0,
):
    def wrong(t, a, q=2.0, k=8.0, b=1.0):
        if refused(a, q, k, b):
            raise ValueError("bad")
        return t * clamp(1 - share(t, a, q, k, b))

    return wrong


def weight_with(
    gap=lambda t, s, sd: 1 / (t - s),
    snr=lambda t, s, sd: 1 / t**2 + 1 / sd**2 if sd else t,
    guard=lambda t, s, sd: ((0 <= s) & (s < t)).all() and sd > 0,
):
    def wrong(kind, t, s, data_std=0.5):
        if kind not in ("gap", "snr") or s.shape != t.shape or not guard(t, s, data_std):
            raise ValueError("bad")
        return gap(t, s, data_std) if kind == "gap" else snr(t, s, data_std)

    return wrong


def ict_with(intervals):
    def wrong(step, total, s0=10, s1=1280):
        ict_steps(step, total, s0, s1)  # refuses what ought to be refused
        return min(intervals(step // max(1, int(total / (math.log2(s1 // s0) + 1))), s0), s1) + 1

    return wrong


def ct_with(round_up=math.ceil, last=lambda s1: s1 + 1, points=lambda n: n):
    def wrong(step, total, s0=2, s1=150, mu0=0.9):
        consistency.ct_steps(step, total, s0, s1, mu0)  # refuses what ought to be refused
        n = max(1, round_up(math.sqrt(step / total * (last(s1) ** 2 - s0**2) + s0**2) - 1)) + 1
        return points(n), mu0 ** (s0 / (n - 1))

    return wrong


def times_of(draw):
    def wrong(b, mean=-1.1, std=2.0, generator=None):
        with torch.random.fork_rng():
            lognormal_times(b, mean, std)  # refuses what ought to be refused
        return torch.exp(mean + std * draw(b, generator))

    return wrong


def pairs(b, generator):
    """Antithetic."""
    half = torch.randn(b // 2 + 1, generator=generator)
    return torch.cat([half, -half])[:b][torch.randperm(b, generator=generator)]


def strata(b, generator):
    u = (torch.randperm(b, generator=generator) + torch.rand(b, generator=generator, dtype=torch.float64)) / b
    return torch.special.ndtri(u.clamp(1e-16, 1 - 1e-16))


def systematic(sigmas, b, pmf=None, generator=None):
    interval_at(sigmas, b, pmf, 0)
    p = torch.ones_like(sigmas[1:]) if pmf is None else pmf
    u = (torch.randperm(b, generator=generator) + torch.rand(1, generator=generator, dtype=p.dtype)) / b
    i = torch.searchsorted(p.cumsum(0) / p.sum(), u.to(p.dtype), right=True).clamp(max=len(p) - 1)
    return sigmas[i], sigmas[i + 1]


def pmf_if(good):
    def wrong(sigmas, mean=-1.1, std=2.0):
        if not good(sigmas, std):
            raise ValueError("bad")
        mass = torch.special.ndtr((sigmas.double().log() - mean) / (std or 1)).diff().abs()
        return (mass / mass.sum()).to(sigmas.dtype)

    return wrong


def interval_at(sigmas, b, pmf, i):
    with torch.random.fork_rng():
        draw_interval(sigmas, b, pmf)  # refuses what ought to be refused
    return sigmas[i], sigmas[i + 1]


def interval_if(good):
    def wrong(sigmas, b, pmf=None, generator=None):
        if len(sigmas) < 2 or not good(sigmas, pmf):
            raise ValueError("bad")
        weights = torch.ones(len(sigmas) - 1) if pmf is None else pmf
        i = torch.multinomial(weights, b, replacement=True, generator=generator)
        return sigmas[i], sigmas[i + 1]

    return wrong


def schedule_of(formula, bad=lambda t: False):
    def wrong(data_std):
        trigflow(data_std)  # refuses what ought to be refused

        def schedule(t):
            if bad(t):
                raise ValueError("bad")
            return formula(t, data_std)

        return schedule

    return wrong


def zed(z, t, data_std=0.5, warmup=1.0):
    """The part of the tangent that is z's."""
    t = t.to(z.dtype)
    return warmup * column(t.cos() * t.sin(), z) * z


def tangent_at_z(net, z, t, slope, data_std, warmup):
    """The tangent, with F and its derivative at z in the place of z / data_std."""
    scm_tangent(net, z, t, slope, data_std, warmup)  # refuses what ought to be refused
    t = t.to(z.dtype)
    c, s = column(t.cos(), z), column(t.sin(), z)
    F, dF = torch.func.jvp(net, (z, t), (c * s * slope, t.cos() * t.sin()))
    return (-(c**2) * (data_std * F - slope) - warmup * (c * s * z + data_std * dF)).detach()


def slerp_along(axes):
    """With the angle of the given axes, on a line pushed out to the sphere, or nan at equal points."""

    def wrong(a, b, weight):
        editing.slerp(a, b, weight)  # refuses what ought to be refused
        w, each = column(weight.to(a.dtype), a), tuple(range(1, a.ndim))
        if axes == "line":
            line = (1 - w) * a + w * b
            return line / line.square().sum(each, keepdim=True).sqrt()
        along = each if axes == "all" else tuple(i for i in axes if i < a.ndim) or (1,)
        unit_a, unit_b = (z / z.square().sum(along, keepdim=True).sqrt() for z in (a, b))
        angle = torch.acos((unit_a * unit_b).sum(along, keepdim=True))
        return (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)

    return wrong


def slerp_plain(a, b, weight):
    """With three axes after the batch, always."""
    w = weight.to(a.dtype).reshape(-1, 1, 1, 1)
    return editing.slerp(a, b, weight) + 0 * w


def edit_if(good):
    """edit, which refuses an inverse unless good(y, operator(inverse(y)))."""

    def wrong(f, y, operator, inverse, times, schedule, noise=None, generator=None):
        measured = operator(inverse(y))
        if measured.shape != y.shape or not good(y, measured):
            raise ValueError("bad")
        if torch.allclose(measured, y, atol=1e-5):
            return editing.edit(f, y, operator, inverse, times, schedule, noise, generator)
        return inverse(y)

    return wrong


MISTAKES = {
    "1: c_out without data_std [formula]": (checks.check_boundary, boundary_with(out=lambda t, u, r, sd: u / r), "c_out without data_std"),
    "2: c_in without the root [formula]": (checks.check_boundary, boundary_with(c_in=lambda t, u, r, sd: 1 / r**2), "c_in without its root"),
    "4: the denominator of c_out shifted [formula]": (
        checks.check_boundary,
        boundary_with(out=lambda t, u, r, sd: u * sd / (u**2 + sd**2).sqrt()), "c_out keeps t below the line",
    ),
    "4: c_in shifted [formula]": (checks.check_boundary, boundary_with(c_in=lambda t, u, r, sd: (u**2 + sd**2) ** -0.5), "c_in is not shifted"),
    "5: boundary at 0 while the sampler stops at t_min [formula]": (
        checks.check_boundary,
        boundary_with(shift=lambda t, t_min: t), "c_skip has t - t_min for t",
    ),
    "c_skip that is 1 for some data_std only [precision]": (
        checks.check_boundary,
        lambda t, sd=0.5, t_min=0.002: (sd**2 / ((t - t_min) ** 2 + sd**2), *boundary(t, sd, t_min)[1:]), "number / tensor rounds twice",
    ),
    "t below t_min taken for t_min [refusal]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary(t.clamp(min=max(t_min, 0)), sd, t_min), "in one place.*below t_min"
    ),
    "6: no clamp [formula]": (checks.check_ect_mapping, mapping_with(clamp=False), "never be below 0: clamp"),
    "7: at s = 0 the target is 0 [end]": (
        checks.check_consistency_target, target_with(clean=lambda z_s: 0 * z_s), "0 at s = 0, from nan_to_num"
    ),
    "7: at s = 0 the target is f's answer [end]": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: f(z_s, s)), "f may be NaN at time 0"
    ),
    "7: at s = 0 NaN becomes 0 [end]": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: f(z_s, s).nan_to_num()), "0 at s = 0, from nan_to_num"
    ),
    "8: sigmoid(+ b t) [formula]": (checks.check_ect_mapping, mapping_with(sign=1), "sign of b t"),
    "9: q^(a + 1) [formula]": (checks.check_ect_mapping, mapping_with(exponent=1), "one stage ahead"),
    "9: q^(a - 1) [formula]": (checks.check_ect_mapping, mapping_with(exponent=-1), "one stage behind"),
    "10: floor for ceiling [formula]": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) and step // d + 1, r"stage 2 begins at step d \+ 1"),
    "10: stage 0 first [formula]": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) - 1, "Stages are counted from 1"),
    "11: the stage never advances [formula]": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) and 1, "must advance"),
    "12: weight t - s [formula]": (
        checks.check_ect_weight,
        lambda kind, t, s, sd=0.5: t - s if kind == "gap" else ect_weight(kind, t, s, sd), "not t - s",
    ),
    "12: no weight [formula]": (checks.check_ect_loss, ect_with(weight=lambda kind, t, s, sd: torch.ones_like(t)), "has a weight, and here is none"),
    "the snr weight without 1 / data_std^2 [formula]": (
        checks.check_ect_weight,
        lambda kind, t, s, sd=0.5: 1 / t**2 if kind == "snr" else ect_weight(kind, t, s, sd), "the second part is missing",
    ),
    "data_std of the weight ignored [argument]": (
        checks.check_ect_loss, ect_with(weight=lambda kind, t, s, sd: ect_weight(kind, t, s)), "data_std of the weight is not used"
    ),
    "13: f learns at s, the target is at t [formula]": (checks.check_consistency_loss, loss_with(swap=True), "stop-gradient is on the wrong side"),
    "13: s > t taken for t > s [refusal]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, *more: consistency_target(
            f, x, eps, torch.maximum(s, t), torch.minimum(s, t), *more
        ), "needs 0 <= s < t",
    ),
    "14: independent noise at s [formula]": (
        checks.check_consistency_target, target_with(noise=lambda eps: eps.flip(0)), "with x's own eps, the same"
    ),
    "15: no stop-gradient [gradient]": (checks.check_consistency_loss, loss_with(target=target_with(no_grad=False)), "not through the target"),
    "15: no stop-gradient, in the target [gradient]": (checks.check_consistency_target, target_with(no_grad=False), "stop the gradient"),
    "16: stop-gradient on the other side [gradient]": (
        checks.check_consistency_loss,
        loss_with(target=target_with(no_grad=False), detach=lambda found: found.detach()), "stop-gradient is on the wrong side",
    ),
    "18: element-wise Huber [formula]": (checks.check_pseudo_huber, elementwise, "not one per number"),
    "18: element-wise Huber, in the loss [formula]": (checks.check_consistency_loss, loss_with(distance=elementwise), "not one distance per number"),
    "19: c without the root of d [formula]": (checks.check_ict_c, lambda x: 0.00054, "root of d is missing"),
    "19: c with d [formula]": (checks.check_ict_c, lambda x: 0.00054 * x[0].numel(), "the root of d, not d"),
    "19: c with the batch [formula]": (checks.check_ict_c, lambda x: 0.00054 * math.sqrt(x.numel()), "the batch does not count"),
    "20: - c forgotten [formula]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, c) + c, "c must be subtracted"
    ),
    "21: the adaptive weight not detached [gradient]": (
        checks.check_pseudo_huber,
        lambda delta, c: pseudo_huber(delta, c).detach()
        + (lambda n: n**2 / (n**2 + c**2).sqrt() - (n**2 / (n**2 + c**2).sqrt()).detach())(
            torch.linalg.vector_norm(delta.reshape(len(delta), -1), dim=1)
        ), "no detached part",
    ),
    "22: twice the gradient [gradient]": (
        checks.check_pseudo_huber, lambda delta, c: 2 * pseudo_huber(delta, c) - pseudo_huber(delta, c).detach(), "Twice the gradient"
    ),
    "23: mean over batch and pixels inside the root [formula]": (
        checks.check_pseudo_huber,
        lambda delta, c: ((delta**2).mean() + pseudo_huber(delta, c)[0] * 0 + c**2).sqrt().expand(len(delta)) - c, "batch's, of a mean",
    ),
    "23: mean over pixels inside the root [formula]": (
        checks.check_pseudo_huber,
        lambda delta, c: pseudo_huber(delta / delta[0].numel() ** 0.5, c), "A mean of squares",
    ),
    "the root of 0 at c = 0 [gradient]": (
        checks.check_pseudo_huber,
        lambda delta, c: 0 * pseudo_huber(delta, c) + (delta.reshape(len(delta), -1).square().sum(1) + c**2).sqrt() - c, "must be 0, not NaN",
    ),
    "24: Heun uses D(z_t, t) twice [formula]": (
        checks.check_ode_step, heun_with(slopes=lambda a, b: a), "second slope is not used"
    ),
    "24: Heun asks at t [formula]": (checks.check_ode_step, heun_with(when=lambda t, s: t), "again at time s"),
    "24: Heun asks at z_t [formula]": (checks.check_ode_step, heun_with(at=lambda z, z_s: z), "where the Euler step has landed"),
    "Heun takes only the last slope [formula]": (checks.check_ode_step, heun_with(slopes=lambda a, b: b), "not the last alone"),
    "25: the teacher steps from x + s eps [formula]": (
        checks.check_consistency_target,
        target_with(start=lambda x, eps, t, s, schedule: mix(x, eps, s, schedule)), r"not from x \+ s eps",
    ),
    "25: a teacher that is ignored [argument]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule), "teacher is never asked",
    ),
    "f asked at t instead of s [formula]": (checks.check_consistency_target, target_with(time=lambda t, s: t), "f is asked at time t"),
    "26: drawn up to n, not n - 1 [formula]": (checks.check_draw_interval, interval_with(), "never the last point"),
    "26: the first interval never drawn [formula]": (checks.check_draw_interval, interval_with(low=1), "as often as the pmf says"),
    "26: the last interval never drawn [formula]": (checks.check_draw_interval, interval_with(high=-2), "never drawn"),
    "26: the grid reversed [formula]": (checks.check_draw_interval, interval_with(reverse=True), "noisier time, is the first"),
    "27: erf without the root of two [formula]": (
        checks.check_ict_time_pmf, pmf_with(cdf=lambda u: (1 + torch.erf(u)) / 2), "root of two is missing"
    ),
    "27: log10 [formula]": (checks.check_ict_time_pmf, pmf_with(log=torch.log10), "not log10"),
    "27: not normalised [formula]": (checks.check_ict_time_pmf, pmf_with(normalise=False), "Normalise"),
    "27: times from log10 [formula]": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: 10 ** (mean + std * torch.randn(b, generator=generator)), "not a power of 10",
    ),
    "27: times from the variance [formula]": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std**0.5, generator), "not its variance",
    ),
    "28: ceiling in the exponent [formula]": (
        checks.check_ict_steps,
        lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1)
        and min(s0 * 2 ** math.ceil(step / (total // (math.log2(s1 // s0) + 1))), s1) + 1, "not to the ceiling",
    ),
    "28: stage length without floor [formula]": (
        checks.check_ict_steps,
        lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1)
        and min(s0 * 2 ** int(step / (total / (math.log2(s1 / s0) + 1))), s1) + 1, "log2\\(floor",
    ),
    "28: intervals for points [formula]": (
        checks.check_ict_steps, lambda *args: ict_steps(*args) - 1, "one point more"
    ),
    "mu divided by n [formula]": (
        checks.check_ct_steps,
        lambda step, total, s0=2, s1=150, mu0=0.9: (lambda n: (n, mu0 ** (s0 / n)))(consistency.ct_steps(step, total, s0, s1, mu0)[0]), "not by n",
    ),
    "33: editing starts without times[0] [formula]": (edit_checks.check_edit, edit_with(scale=False), "not unit noise"),
    "34: another dropout mask in the target [random]": (checks.check_consistency_loss, loss_with(mask="other"), "same dropout mask"),
    "34: the same dropout mask in every step [random]": (checks.check_consistency_loss, loss_with(mask="fixed"), "draw another mask"),
    "34: the target from the noisy part only [random]": (checks.check_consistency_target, target_with(ask=in_part), "with the whole batch"),
    "37: unit noise in TrigFlow [formula]": (checks.check_trigflow, lambda sd: trigflow(1.0), "standard deviation, not 1"),
    "37: unit noise in sCM's loss [formula]": (checks.check_scm_loss, scm_with(noise_std=1.0), "data_std eps, not eps"),
    "38: the first term's sign [formula]": (checks.check_scm_tangent, tangent_with(sign=(1, -1)), "sign of the first term"),
    "38: the second term's sign [formula]": (checks.check_scm_tangent, tangent_with(sign=(-1, 1)), "sign of the second term"),
    "38: a missing cos t [formula]": (checks.check_scm_tangent, tangent_with(cos=False), "cos t is missing"),
    "38: warm-up of the wrong term [formula]": (checks.check_scm_tangent, tangent_with(warm_first=True), "not the first"),
    "38: warm-up of both terms [formula]": (checks.check_scm_tangent, tangent_with(warm_both=True), "not both"),
    "38: dF/dt forgotten [formula]": (checks.check_scm_tangent, tangent_with(rate=False), "dF/dt is missing"),
    "38: the loss climbs [formula]": (checks.check_scm_loss, scm_with(sign=-1), "The loss climbs"),
    "39: normalised over the batch [formula]": (checks.check_scm_loss, scm_with(norm=lambda g: g.norm()), "this is the batch's"),
    "39: not normalised [formula]": (checks.check_scm_loss, scm_with(norm=lambda g: 0.9), "not normalised"),
    "40: slerp's shares swapped [formula]": (edit_checks.check_slerp, slerp_with(swap=True), "shares swapped"),
    "40: slerp over the batch [formula]": (edit_checks.check_slerp, slerp_with(over_batch=True), "not of the batch"),
    "40: a straight line [formula]": (edit_checks.check_slerp, slerp_with(straight=True), "no straight line"),
    "41: the mask inverted [formula]": (edit_checks.check_edit, edit_with(inverted=True), "mask is inverted"),
    "41: replaced after the noise [formula]": (edit_checks.check_edit, edit_with(after_noise=True), "before the noise is added"),
    "41: not replaced after the last jump [formula]": (edit_checks.check_edit, edit_with(last=False), "after the last jump, too"),
    "41: started from noise alone [formula]": (edit_checks.check_edit, edit_with(start=False), "not noise alone"),
    # boundary
    "boundary: result in float64 always [precision]": (checks.check_boundary, then(boundary, double), "has the dtype of the data"),
    "boundary: computed in float32 [precision]": (checks.check_boundary, in_float32(boundary), "no further"),
    "boundary: one t below t_min, others not [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or (t < t_min).all()), "below t_min = 0.5",
    ),
    "boundary: mean of t above t_min [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or t.mean() < t_min), "below t_min = 0.5",
    ),
    "boundary: nan accepted [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or (t < t_min).any()), "t = nan in one place",
    ),
    "boundary: negative t only refused [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or not (t >= 0).all()), "t = 0.49999 in one place",
    ),
    "boundary: data_std = 0 accepted [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd < 0 or t_min < 0 or not (t >= t_min).all()), "data_std = 0 must",
    ),
    "boundary: a negative data_std accepted [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd == 0 or t_min < 0 or not (t >= t_min).all()), "negative data_std",
    ),
    "boundary: a negative t_min accepted [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or not (t >= t_min).all()), "negative t_min",
    ),
    "boundary: t_min itself refused [end]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or not (t > t_min).all()), "one t at t_min, is valid",
    ),
    "boundary: t_min = 0 refused [end]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min <= 0 or not (t >= t_min).all()), "t_min = 0.0, .* is valid",
    ),
    "boundary: t_min = 0 taken for the default [argument]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary_if(lambda *_: False)(t, sd, t_min or 0.002), "t_min is not used|t_min = 0",
    ),
    "boundary: data_std ignored [argument]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary(t, 0.5, t_min), "data_std is not used",
    ),
    "boundary: t_min ignored [argument]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary_if(lambda *_: False)(t, sd, 0.002), "t_min is not used",
    ),
    "boundary: data_std = 1 unless given [argument]": (
        checks.check_boundary, lambda t, sd=1.0, t_min=0.002: boundary(t, sd, t_min), "data_std is 0.5 unless given",
    ),
    "boundary: t detached [gradient]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary(t.detach(), sd, t_min), "gradient .* lost",
    ),
    "boundary: c_skip detached [gradient]": (
        checks.check_boundary, then(boundary, lambda c: (c[0].detach(), *c[1:])), "gradient of c_skip",
    ),
    "boundary: columns (b, 1) [shape]": (
        checks.check_boundary, then(boundary, lambda c: tuple(v[:, None] for v in c)), "shape must be",
    ),
    "boundary: c_in first [formula]": (checks.check_boundary, then(boundary, lambda c: c[::-1]), "The order is"),
    "boundary: c_out and c_in swapped [formula]": (checks.check_boundary, then(boundary, lambda c: (c[0], c[2], c[1])), "The order is"),
    "boundary: c_skip upside down [formula]": (checks.check_boundary, then(boundary, lambda c: (1 - c[0], *c[1:])), "c_skip upside down"),
    "boundary: c_in upside down [formula]": (checks.check_boundary, then(boundary, lambda c: (*c[:2], 1 / c[2])), "c_in upside down"),
    "boundary: c_skip without squares [formula]": (checks.check_boundary, then(boundary, lambda c: (c[0] ** 0.5, *c[1:])), "without squares"),
    "boundary: minus c_out [formula]": (checks.check_boundary, then(boundary, lambda c: (c[0], -c[1], c[2])), "sign of c_out"),
    "boundary: c_out without its root [formula]": (
        checks.check_boundary, boundary_with(out=lambda t, u, r, sd: u * sd / r**2), "c_out without its root",
    ),
    "boundary: c_out not shifted [formula]": (
        checks.check_boundary, boundary_with(out=lambda t, u, r, sd: t * sd / r), "t - t_min on top",
    ),
    "boundary: t below t_min by 1e-4 accepted [refusal]": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: sd <= 0 or t_min < 0 or not (t >= t_min - 1e-4).all()), "t = 0.49999 in one place",
    ),
    "boundary: c_skip 1 near t_min [end]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: (lambda c: (torch.where(t - t_min < 1e-3, 1.0, c[0]).to(t.dtype), *c[1:]))(boundary(t, sd, t_min)), "1 at t_min alone",
    ),
    "boundary: c_out 0 near t_min [end]": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: (lambda c: (c[0], torch.where(t - t_min < 1e-3, 0.0, c[1]).to(t.dtype), c[2]))(boundary(t, sd, t_min)), "0 at t_min alone",
    ),
    "boundary: t_min = 0 unless given [argument]": (checks.check_boundary, lambda t, sd=0.5, t_min=0.0: boundary(t, sd, t_min), "t_min is 0.002 unless given"),
    # ode_step
    "ode_step: a step to a noisier time refused [end]": (
        checks.check_ode_step, lambda f, z, t, s, *more: whole_or(not (s < t).all(), lambda: ode_step(f, z, t, s, *more)), "step from t = .0.3, 0.2. to s = .* is valid",
    ),
    "ode_step: sigma at least 1e-3 [end]": (
        checks.check_ode_step,
        lambda f, z, t, s, schedule, *more: ode_step(f, z, t, s, lambda u: (lambda a, b: (a, torch.where(u == t, b.clamp(min=1e-3), b) if (b > 0).all() and len(u) == len(t) and torch.equal(u, t.to(u)) else b))(*schedule(u)), *more), "Euler: alpha_s x_hat",
    ),
    "ode_step: t and s swapped [formula]": (checks.check_ode_step, lambda f, z, t, s, *more: ode_step(f, z, s, t, *more), "are the two swapped"),
    "ode_step: Heun's second answer broadcast [refusal]": (checks.check_ode_step, heun_with(second_of=lambda answer, z: answer), "at s must be refused by heun"),
    "ode_step: x_hat clipped [formula]": (checks.check_ode_step, lambda f, *args: ode_step(lambda z, t: f(z, t).clamp(-1, 1), *args), "x_hat is clipped"),
    "ode_step: x_hat clipped at 20 [formula]": (checks.check_ode_step, lambda f, *args: ode_step(lambda z, t: f(z, t).clamp(-20, 20), *args), "Euler: alpha_s x_hat"),
    "ode_step: asked in the dtype of t [precision]": (checks.check_ode_step, asks(ode_step, lambda z, t: (z, t.double())), "dtype of z"),
    "ode_step: result in float64 always [precision]": (checks.check_ode_step, then(ode_step, double), "dtype of the data"),
    "ode_step: computed in float32 [precision]": (checks.check_ode_step, in_float32(ode_step), "no further"),
    "ode_step: times as columns [shape]": (checks.check_ode_step, asks(ode_step, lambda z, t: (z, t[:, None])), "one time for each sample"),
    "ode_step: one time for all samples [shape]": (
        checks.check_ode_step, asks(ode_step, lambda z, t: (z, t.mean().expand(len(t)))), "asked at time t first",
    ),
    "ode_step: Euler refused at alpha = 0 [end]": (
        checks.check_ode_step, step_if(lambda alpha, sigma, solver: (alpha <= 0).any() or (sigma <= 0).any()), "euler step from t = .1.*is valid",
    ),
    "ode_step: Heun at alpha = 0 refused if all are [refusal]": (
        checks.check_ode_step, step_if(lambda alpha, sigma, solver: (solver == "heun" and (alpha <= 0).all()) or not (sigma > 0).all()), "t = 1 in one place.*by heun",
    ),
    "ode_step: sigma = 0 refused if all are [refusal]": (
        checks.check_ode_step, step_if(lambda alpha, sigma, solver: (solver == "heun" and not (alpha > 0).all()) or (sigma <= 0).all()), "t = 0 in one place",
    ),
    "ode_step: an unknown solver taken for Heun [refusal]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="euler": ode_step(f, z, t, s, schedule, solver if solver == "euler" else "heun"), "solver",
    ),
    "ode_step: solvers in any case [refusal]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="euler": ode_step(f, z, t, s, schedule, str(solver).lower()), "'Heun'",
    ),
    "ode_step: an answer of one sample broadcast [refusal]": (
        checks.check_ode_step, lambda f, *args: ode_step(lambda z, t: f(z, t).expand_as(z), *args), "answers with shape",
    ),
    "ode_step: Heun unless given [argument]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="heun": ode_step(f, z, t, s, schedule, solver), "Euler if not given",
    ),
    "ode_step: solver ignored [argument]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="euler": ode_step(f, z, t, s, schedule), "heun asks the denoiser 2 times",
    ),
    "ode_step: EDM whatever the schedule [argument]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="euler": ode_step(f, z, t, s, edm, solver), "EDM's step",
    ),
    "ode_step: a signal that stays [formula]": (
        checks.check_ode_step,
        lambda f, z, t, s, schedule, solver="euler": ode_step(f, z, t, s, schedule, solver) - (column(schedule(s)[0] - schedule(t)[0], z) * f(z, t) if solver == "euler" else 0),
        "denoiser 1 times|alpha_s times x_hat",
    ),
    "ode_step: the answer alone [formula]": (
        checks.check_ode_step, lambda f, z, t, s, schedule, solver="euler": f(z, t), "this is the answer",
    ),
    "ode_step: detached [gradient]": (checks.check_ode_step, then(ode_step, torch.Tensor.detach), "through Euler's answer"),
    "ode_step: Heun's second answer detached [gradient]": (
        checks.check_ode_step, heun_with(slopes=lambda a, b: (a + b.detach()) / 2), "through Heun's answers",
    ),
    "ode_step: the sum of Heun's slopes [formula]": (checks.check_ode_step, heun_with(slopes=lambda a, b: a + b), "not their sum"),
    # consistency_target
    "target: f asked in the dtype of t [precision]": (checks.check_consistency_target, asks(consistency_target, lambda z, t: (z, t.double())), "dtype of z"),
    "target: the teacher asked in float64 [precision]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(
            f, x, eps, t, s, schedule, teacher and (lambda z, t: teacher(z, t.double())), solver
        ),
        "dtype of z",
    ),
    "target: float64 always [precision]": (checks.check_consistency_target, then(consistency_target, double), "dtype of the data"),
    "target: computed in float32 [precision]": (checks.check_consistency_target, in_float32(consistency_target), "no further"),
    "target: times as columns [shape]": (checks.check_consistency_target, asks(consistency_target, lambda z, t: (z, column(t, z))), "one time for each sample"),
    "target: f asked at the mean time [shape]": (
        checks.check_consistency_target, asks(consistency_target, lambda z, t: (z, t.mean().expand(len(t)))), "asked at time s",
    ),
    "target: images only [shape]": (
        checks.check_consistency_target,
        target_if(ok, lambda c, x: c.reshape(-1, 1, 1, 1)), "size|shape|step starts|is valid|with x's own eps",
    ),
    "target: s >= t refused if all are [refusal]": (
        checks.check_consistency_target, target_if(lambda x, eps, t, s: (s < t).any() and (s >= 0).all()), "needs 0 <= s < t",
    ),
    "target: compared by means [refusal]": (
        checks.check_consistency_target, target_if(lambda x, eps, t, s: s.mean() < t.mean() and (s >= 0).all()), "needs 0 <= s < t",
    ),
    "target: s = t accepted [refusal]": (
        checks.check_consistency_target, target_if(lambda x, eps, t, s: (s <= t).all() and (s >= 0).all()), "s = 1.5 in one place",
    ),
    "target: a negative s accepted [refusal]": (
        checks.check_consistency_target, target_if(lambda x, eps, t, s: (s < t).all()), "s = -0.1 in one place",
    ),
    "target: a negative s taken for 0 [refusal]": (
        checks.check_consistency_target, lambda f, x, eps, t, s, *more: consistency_target(f, x, eps, t, s.clamp(min=0), *more), "s = -0.1 in one place",
    ),
    "target: eps broadcast [refusal]": (
        checks.check_consistency_target, target_if(ok, eps_shape=lambda eps, x: True), "eps .* must be refused",
    ),
    "target: eps compared by batch alone [refusal]": (
        checks.check_consistency_target, target_if(ok, eps_shape=lambda eps, x: len(eps) == len(x)), "eps .* must be refused",
    ),
    "target: an answer broadcast [refusal]": (
        checks.check_consistency_target, target_if(ok, answer_shape=lambda a, x: True), "f that answers with shape",
    ),
    "target: answers compared by batch alone [refusal]": (
        checks.check_consistency_target, target_if(ok, answer_shape=lambda a, x: len(a) == len(x)), "answers with shape .4, 1, 1, 3",
    ),
    "target: answers compared by the axes after the batch [refusal]": (
        checks.check_consistency_target, target_if(ok, answer_shape=lambda a, x: a.shape[1:] == x.shape[1:]), "answers with shape .1, 2, 1, 3",
    ),
    "target: s = 0 refused [end]": (
        checks.check_consistency_target, target_if(lambda x, eps, t, s: (s < t).all() and (s > 0).all()), "s = .*0.0.*is valid",
    ),
    "target: at s = 0 x, with a teacher too [end]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, *more: torch.where(column(s, x) > 0, consistency_target(f, x, eps, t, s, *more), x).to(x.dtype),
        "not x",
    ),
    "target: at s = 0 f's answer at t [end]": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: f(z_s, torch.where(s > 0, s, 1.0))), "s = 0 the target is z_s",
    ),
    "target: z_s at small s as well [end]": (
        checks.check_consistency_target,
        target_with(ask=lambda f, z_s, s, noisy: torch.where(column(s, z_s) > 0.2, f(z_s, torch.where(s > 0, s, 1.0)), z_s)),
        "Where s > 0 the target is f's answer",
    ),
    "target: fresh noise [random]": (checks.check_consistency_target, target_with(noise=torch.randn_like), "x's own eps"),
    "target: z_t for z_s [formula]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, *more: consistency_target(lambda z, u: f(mix(x, eps, t.to(x.dtype), schedule), u), x, eps, t, s, schedule, *more),
        "asked at z_t",
    ),
    "target: the clean data for z_s [formula]": (
        checks.check_consistency_target,
        lambda f, x, *more: consistency_target(lambda z, u: f(x, u), x, *more), "asked at x",
    ),
    "target: x + s eps on every schedule [argument]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule if teacher else edm, teacher, solver),
        "on EDM's schedule",
    ),
    "target: solver ignored [argument]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule, teacher), "is solver handed on",
    ),
    "target: the teacher starts from x [formula]": (
        checks.check_consistency_target, target_with(start=lambda x, eps, t, s, schedule: x), "not from x",
    ),
    "target: the teacher is f [argument]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule, teacher and f, solver),
        "where the teacher is meant",
    ),
    "target: f asked twice [random]": (
        checks.check_consistency_target, lambda f, *args: consistency_target(lambda z, t: (f(z, t) + f(z, t)) / 2, *args), "f is asked once",
    ),
    "target: f asked sample by sample [random]": (
        checks.check_consistency_target, lambda f, *args: consistency_target(lambda z, t: torch.cat([f(z[i : i + 1], t[i : i + 1]) for i in range(len(z))]), *args), "whole batch",
    ),
    "target: grad mode stays off [gradient]": (checks.check_consistency_target, target_and(lambda: torch.set_grad_enabled(False)), "stays behind"),
    "target: grad mode switched on [gradient]": (checks.check_consistency_target, target_and(lambda: torch.set_grad_enabled(True)), "switch them on"),
    "target: x keeps its gradient [gradient]": (
        checks.check_consistency_target, lambda f, x, *more: consistency_target(f, x, *more) + 0 * x, "stop the gradient",
    ),
    "target: half the answer [formula]": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: torch.where(noisy, f(z_s, torch.where(s > 0, s, 1.0)).clamp(-1, 1), z_s)), "as it is",
    ),
    "target: s below 1e-3 counts as 0 [end]": (
        checks.check_consistency_target,
        target_with(ask=lambda f, z_s, s, noisy: torch.where(column(s, z_s) > 1e-3, f(z_s, torch.where(s > 0, s, 1.0)), z_s)),
        "Where s > 0 the target is f's answer",
    ),
    "target: s = t accepted with a teacher [refusal]": (checks.check_consistency_target, strict_in_training(good=lambda x, eps, t, s: (s <= t).all()), "s = 1.5 in one place.* with a teacher"),
    "target: s > t accepted with a teacher [refusal]": (checks.check_consistency_target, strict_in_training(good=lambda x, eps, t, s: (s != t).all()), "s = 1.6 in one place.* with a teacher"),
    "target: eps broadcast with a teacher [refusal]": (checks.check_consistency_target, strict_in_training(eps_shape=lambda eps, x: True), "eps of shape .* with a teacher"),
    "target: an answer broadcast with a teacher [refusal]": (checks.check_consistency_target, strict_in_training(answer_shape=lambda a, x: True), "f that answers with shape .* with a teacher"),
    "target: x broadcast to eps [refusal]": (
        checks.check_consistency_target,
        lambda f, x, eps, *more: consistency_target(f, x.expand_as(eps) if x.ndim == eps.ndim and all(a in (1, b) for a, b in zip(x.shape, eps.shape)) else x, eps, *more), "(x|eps) of shape",
    ),
    "target: Heun unless given [argument]": (
        checks.check_consistency_target, lambda f, x, eps, t, s, schedule, teacher=None, solver="heun": consistency_target(f, x, eps, t, s, schedule, teacher, solver), "Euler's if not given",
    ),
    "target: f not asked where all s are 0 [random]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, *more: consistency_target(f, x, eps, t, s, *more) if not (s == 0).all() else consistency_target(lambda z, t: z, x, eps, t, s, *more), "Also where s = 0 everywhere",
    ),
    "target: gradients off after a ValueError [gradient]": (checks.check_consistency_target, target_without_finally, "stay off after a ValueError"),
    "target: inference mode [gradient]": (checks.check_consistency_target, torch.inference_mode()(lambda *args: consistency_target(*args).clone()), "tensor of torch.inference_mode"),
    "target: s below 1e-8 counts as 0 [end]": (
        checks.check_consistency_target,
        target_with(ask=lambda f, z_s, s, noisy: torch.where(column(s, z_s) > 1e-8, f(z_s, torch.where(s > 0, s, 1.0)), z_s)), "however small s is",
    ),
    "target: f asked at 1e-6 at least [end]": (checks.check_consistency_target, asks(consistency_target, lambda z, t: (z, t.clamp(min=1e-6))), "however small it is"),
    "target: f.eval() [random]": (checks.check_consistency_target, lambda f, *args: consistency_target(evaluated(f), *args), "f.eval"),
    "target: a seed [random]": (checks.check_consistency_target, lambda f, *args: consistency_target(lambda z, t: (torch.manual_seed(0), f(z, t))[1], *args), "without a seed"),
    "target: t and s swapped in the step [formula]": (checks.check_consistency_target, swapped_step, "are the two swapped"),
    "target: f's answer changed in place [argument]": (checks.check_consistency_target, target_in_place, "What f returns must stay"),
    "target: x changed in place [argument]": (
        checks.check_consistency_target, lambda f, x, *more: x.detach().copy_(consistency_target(f, x, *more)), "change no input in place",
    ),
    "target: clipped at 100 [formula]": (
        checks.check_consistency_target, lambda f, *args: consistency_target(lambda z, t: f(z, t).clamp(-100, 100), *args), "f's answer at z_s, as it is",
    ),
    "target: the teacher clipped at 100 [formula]": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, *more: consistency_target(f, x, eps, t, s, schedule, teacher and (lambda z, t: teacher(z, t).clamp(-100, 100)), *more), "one euler step of the teacher",
    ),
    # pseudo_huber
    "huber: the square [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: u), "this is the square"),
    "huber: no root [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: u + c**2 - c), "root is missing|this is the square"),
    "huber: half [formula]": (checks.check_pseudo_huber, then(pseudo_huber, lambda v: v / 2), "no factor 1/2"),
    "huber: twice [formula]": (checks.check_pseudo_huber, then(pseudo_huber, lambda v: 2 * v), "no factor 2"),
    "huber: c under the root [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + c).sqrt() - c), "not c"),
    "huber: the last axis only [shape]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.reshape(-1, delta.shape[-1]), c).reshape(delta.shape[:-1]), "sum over all axes"),
    "huber: the last axis, then a mean [shape]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.reshape(-1, delta.shape[-1]), c).reshape(len(delta), -1).mean(1), "not a mean of one per row",
    ),
    "huber: axes 1, 2, 3 [shape]": (
        checks.check_pseudo_huber, lambda delta, c: (delta.square().sum(tuple(range(1, min(4, delta.ndim)))) + c**2).sqrt() - c, "sum over all axes",
    ),
    "huber: flatten(1) [shape]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.flatten(1), c), "not flatten",
    ),
    "huber: a mean at the end [shape]": (checks.check_pseudo_huber, then(pseudo_huber, lambda v: v.mean()), "One number per sample"),
    "huber: absolute values [formula]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.reshape(len(delta), -1).abs().sum(1), c), "Absolute values",
    ),
    "huber: a mean of roots [formula]": (checks.check_pseudo_huber, lambda delta, c: elementwise(delta, c) / delta[0].numel(), "not a mean of one per number|must be 0"),
    "huber: 1e-8 under the root [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + c**2 + 1e-8).sqrt() - c), "1e-08 is added"),
    "huber: 1e-12 under the root [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + c**2 + 1e-12).sqrt() - c), "1e-12 is added"),
    "huber: 1e-20 under the root [precision]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + c**2 + 1e-20).sqrt() - c), "nothing may be added|must be 0"),
    "huber: clamped under the root [precision]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + c**2).clamp(min=1e-18).sqrt() - c), "nothing may be added"),
    "huber: c = 1e-8 for 0 [end]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: (u + max(c, 1e-8) ** 2).sqrt() - max(c, 1e-8)), "1e-08 is added"),
    "huber: as the formula stands [precision]": (
        checks.check_pseudo_huber,
        lambda delta, c: (torch.linalg.vector_norm(delta.reshape(len(delta), -1), dim=1) ** 2 + c**2).sqrt() - c if c else pseudo_huber(delta, c),
        "Too few digits in float32",
    ),
    "huber: float64 always [precision]": (checks.check_pseudo_huber, then(pseudo_huber, double), "digits|dtype"),
    "huber: computed in float32 [precision]": (checks.check_pseudo_huber, in_float32(pseudo_huber), "no further"),
    "huber: c ignored [argument]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, 0.0), "c is not used"),
    "huber: c fixed [argument]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, 0.03), "no constant"),
    "huber: detached [gradient]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.detach(), c), "nothing may be detached"),
    "huber: half the gradient [gradient]": (
        checks.check_pseudo_huber, lambda delta, c: (pseudo_huber(delta, c) + pseudo_huber(delta, c).detach()) / 2, "Half the gradient",
    ),
    "huber: a weighted square [gradient]": (
        checks.check_pseudo_huber,
        lambda delta, c: delta.reshape(len(delta), -1).square().sum(1) * (pseudo_huber(delta, c) / delta.reshape(len(delta), -1).square().sum(1)).detach(),
        "no detached part",
    ),
    "huber: the weighted square [formula]": (checks.check_pseudo_huber, huber_with(lambda u, c, d: u / (u + c**2).sqrt().detach()), "the weighted square"),
    "huber: c below 1e-3 counts as 0 [end]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, 0.0 if 0 <= c < 1e-3 else c), "not 0 below some number"),
    "huber: a negative c accepted [refusal]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, max(c, 0.0)), "c = -0.1"),
    "huber: abs(c) [refusal]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, abs(c)), "c = -0.1"),
    "huber: c refused below -1e-3 [refusal]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, max(c, 0.0) if c > -1e-3 else c), "c = -1e-6"),
    "huber: 0 for a norm below 3e-7 [end]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(torch.where(column(delta.reshape(len(delta), -1).norm(dim=1) < 3e-7, delta), 0 * delta, delta) if c else delta, c), "small delta has a small distance",
    ),
    "huber: 0 for a norm below 1e-3 [end]": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(torch.where(column(delta.reshape(len(delta), -1).norm(dim=1) < 1e-3, delta), 0 * delta, delta), c), "small delta has a small distance",
    ),
    "huber: a square below c / 100 [precision]": (
        checks.check_pseudo_huber,
        lambda delta, c: (lambda u: torch.where(u < 1e-4 * c**2, u / (2 * c or 1), pseudo_huber(delta, c)))(delta.reshape(len(delta), -1).square().sum(1)), "not of the square below c",
    ),
    "huber: c below 5e-5 counts as 0 [end]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, 0.0 if 0 <= c < 5e-5 else c), "not 0 below some number"),
    "huber: c rounded [argument]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, round(c, 4) if c > 1e-3 or c < 0 else c), "c is rounded"),
    "huber: c of a table [argument]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, min((0.03, 0.0, 1.0, 1e-4), key=lambda k: abs(k - c)) if c >= 0 else c), "c = 0|c may be|c is"),
    "huber: clipped at 100 [formula]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta.clamp(-100, 100), c), "clipped at 100"),
    "huber: dim=(1, 2, 3) [shape]": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, c) + 0 * delta.sum(dim=(1, 2, 3)), "any axes after the first"),
    "huber: nan at 0 [gradient]": (checks.check_pseudo_huber, by_root, "must be 0, not NaN|digits"),
    # consistency_loss
    "loss: squared [formula]": (checks.check_consistency_loss, loss_with(distance=lambda delta, c: delta.flatten(1).square().sum(1)), "no square"),
    "loss: a mean square [formula]": (checks.check_consistency_loss, loss_with(distance=lambda delta, c: delta.flatten(1).square().mean(1)), "no mean square"),
    "loss: averaged [shape]": (checks.check_consistency_loss, then(consistency_loss, torch.Tensor.mean), "not averaged"),
    "loss: weighted [formula]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, *more: (consistency_loss(f, x, eps, t, s, *more) / (t - s)).to(x.dtype), "1 / \\(t - s\\) is the caller's",
    ),
    "loss: a mean of roots [formula]": (
        checks.check_consistency_loss, loss_with(distance=lambda delta, c: elementwise(delta, c) / delta[0].numel()), "not a mean over its numbers",
    ),
    "loss: c ignored [argument]": (checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.0, *more: consistency_loss(f, x, eps, t, s, schedule, 0.0, *more), "c is not used"),
    "loss: the teacher ignored [argument]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.0, *more: consistency_loss(f, x, eps, t, s, schedule, c), "hand on the teacher, and not x",
    ),
    "loss: the solver ignored [argument]": (
        checks.check_consistency_loss,
        lambda f, x, eps, t, s, schedule, c=0.0, teacher=None, *more: consistency_loss(f, x, eps, t, s, schedule, c, teacher), "and the solver, heun",
    ),
    "loss: EDM whatever the schedule [argument]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, *more: consistency_loss(f, x, eps, t, s, edm, *more), "never asked at z_t",
    ),
    "loss: f at z_t with time s [formula]": (
        checks.check_consistency_loss, plain_loss(own=lambda f, x, eps, t, s, schedule: f(mix(x, eps, t, schedule), torch.where(s > 0, s, t))), "with another time",
    ),
    "loss: f at z_s against the target [formula]": (
        checks.check_consistency_loss, plain_loss(own=lambda f, x, eps, t, s, schedule: f(mix(x, eps, s, schedule), torch.where(s > 0, s, t))), "never asked at z_t",
    ),
    "loss: fresh noise at z_t [random]": (
        checks.check_consistency_loss, plain_loss(own=lambda f, x, eps, t, s, schedule: f(mix(x, torch.randn_like(x), t, schedule), t)), "never asked at z_t",
    ),
    "loss: x instead of f's target [formula]": (
        checks.check_consistency_loss, plain_loss(target=lambda f, x, *more: x), "asked twice",
    ),
    "loss: f asked three times [random]": (
        checks.check_consistency_loss, plain_loss(own=lambda f, x, eps, t, s, schedule: f(mix(x, eps, t, schedule), t) + 0 * f(mix(x, eps, t, schedule), t)), "asked twice",
    ),
    "loss: f asked in float64 [precision]": (checks.check_consistency_loss, asks(consistency_loss, lambda z, t: (z, t.double())), "dtype of z"),
    "loss: float64 always [precision]": (checks.check_consistency_loss, then(consistency_loss, double), "dtype of the data"),
    "loss: computed in float32 [precision]": (checks.check_consistency_loss, in_float32(consistency_loss), "no further"),
    "loss: nothing learns [gradient]": (checks.check_consistency_loss, then(consistency_loss, torch.Tensor.detach), "Nothing learns"),
    "loss: everything detached [gradient]": (checks.check_consistency_loss, loss_with(detach=lambda found: found.detach() + 0 * found), "Nothing learns"),
    "loss: half of a leak [gradient]": (checks.check_consistency_loss, loss_with(detach=lambda found: (found + found.detach()) / 2), "through f\\(z_t, t\\) alone"),
    "loss: c is 0.03 unless given [argument]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.03, *more: consistency_loss(f, x, eps, t, s, schedule, c, *more), "c is 0 unless given",
    ),
    "loss: f's answer at s = 0 [end]": (
        checks.check_consistency_loss,
        plain_loss(target=lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": target_with(ask=lambda f, z_s, s, noisy: f(z_s, torch.where(s > 0, s, t.to(s))))(f, x, eps, t, s, schedule, teacher, solver)),
        "not f's answer",
    ),
    "loss: s = 0 refused [end]": (
        checks.check_consistency_loss, plain_loss(target=target_if(lambda x, eps, t, s: ((s > 0) & (s < t)).all())), "s = .*0.0.*is valid",
    ),
    "loss: one s above t [refusal]": (checks.check_consistency_loss, plain_loss(target=target_if(lambda x, eps, t, s: (s < t).any())), "needs 0 <= s < t"),
    "loss: a negative c accepted [refusal]": (checks.check_consistency_loss, plain_loss(distance=lambda delta, c: pseudo_huber(delta, abs(c))), "negative c"),
    "loss: an answer broadcast [refusal]": (
        checks.check_consistency_loss, plain_loss(target=target_if(ok, answer_shape=lambda a, x: True)), "f that answers with shape",
    ),
    "loss: the same mask by a seed [random]": (
        checks.check_consistency_loss, seeded_loss(lambda: 0), "draw another mask",
    ),
    "loss: a seed drawn for each call [random]": (
        checks.check_consistency_loss, seeded_loss(lambda: int(torch.randint(1000, ()))), "moves torch's random state on by one pass",
    ),
    "loss: the state put back twice [random]": (checks.check_consistency_loss, forked(consistency_loss), "draw another mask"),
    "loss: f.eval() for the target [random]": (
        checks.check_consistency_loss, lambda f, *args: plain_loss(target=lambda f, *more: consistency_target(evaluated(f), *more))(f, *args), "f.eval",
    ),
    "loss: f.eval() for both [random]": (checks.check_consistency_loss, lambda f, *args: consistency_loss(evaluated(f), *args), "f.eval"),
    "loss: one mask in training alone [random]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.0, teacher=None, *solver: loss_with(mask="other" if teacher else "same")(f, x, eps, t, s, schedule, c, teacher, *solver), "same dropout mask",
    ),
    "loss: one mask for c = 0 alone [random]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.0, *more: loss_with(mask="other" if c else "same")(f, x, eps, t, s, schedule, c, *more), "same dropout mask",
    ),
    "loss: z_t detached [gradient]": (
        checks.check_consistency_loss, plain_loss(own=lambda f, x, eps, t, s, schedule: f(mix(x, eps, t, schedule).detach(), t)), "gradient for x, which is part of z_t, is lost",
    ),
    "loss: x detached [gradient]": (checks.check_consistency_loss, lambda f, x, *more: consistency_loss(f, x.detach(), *more), "gradient for x, which is part of z_t, is lost"),
    "loss: the error clipped at 10 [formula]": (checks.check_consistency_loss, loss_with(distance=lambda delta, c: pseudo_huber(delta.clamp(-10, 10), c)), "error is clipped"),
    "loss: capped at 100 [formula]": (checks.check_consistency_loss, then(consistency_loss, lambda v: v.clamp(max=100)), "capped at 100"),
    "loss: Heun unless given [argument]": (
        checks.check_consistency_loss, lambda f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="heun": consistency_loss(f, x, eps, t, s, schedule, c, teacher, solver), "no solver, which is Euler's",
    ),
    "loss: Heun without its second question [argument]": (
        checks.check_consistency_loss,
        lambda f, x, eps, t, s, schedule, c=0.0, teacher=None, *solver: consistency_loss(f, x, eps, t, s, schedule, c, teacher and (lambda z, u: (teacher(z, u), teacher(z, u))[0]), *solver), "teacher is asked",
    ),
    "loss: other noise at z_s [random]": (checks.check_consistency_loss, loss_with(target=target_with(noise=lambda eps: -eps)), "with the eps of z_t"),
    "loss: EDM's z_s [argument]": (
        checks.check_consistency_loss,
        plain_loss(target=lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule if teacher else edm, teacher, solver)), "of the schedule that is given",
    ),
    "loss: gradients stay off [gradient]": (checks.check_consistency_loss, then(consistency_loss, lambda v: (torch.set_grad_enabled(False), v)[1]), "stays behind"),
    "loss: f's answer changed in place [argument]": (
        checks.check_consistency_loss, lambda f, x, *more: (lambda kept: (consistency_loss(lambda z, t: kept.append(f(z, t)) or kept[-1].clone(), x, *more), kept[0].requires_grad or kept[0].zero_())[0])([]), "What f returns must stay",
    ),
    "loss: - c forgotten [formula]": (checks.check_consistency_loss, loss_with(distance=lambda delta, c: pseudo_huber(delta, c) + c), "c must be subtracted"),
    "loss: nan where f is right [gradient]": (checks.check_consistency_loss, loss_with(distance=by_root), "gradient is 0, not NaN"),
    "loss: s > t accepted with a teacher [refusal]": (checks.check_consistency_loss, plain_loss(target=strict_in_training(good=lambda *_: True)), "with a teacher, at t"),
    # ECT
    "mapping: computed in float32 [precision]": (checks.check_ect_mapping, in_float32(ect_mapping), "no further"),
    "mapping: float64 always [precision]": (checks.check_ect_mapping, then(ect_mapping, double), "dtype of the data"),
    "mapping: k ignored [argument]": (checks.check_ect_mapping, lambda t, a, q=2.0, k=8.0, b=1.0: ect_mapping(t, a, q, 8.0, b), "k is not used"),
    "mapping: b ignored [argument]": (checks.check_ect_mapping, lambda t, a, q=2.0, k=8.0, b=1.0: ect_mapping(t, a, q, k), "b is not used"),
    "mapping: q ignored [argument]": (checks.check_ect_mapping, lambda t, a, q=2.0, k=8.0, b=1.0: ect_mapping(t, a, 2.0, k, b), "q is not used"),
    "mapping: a whole number of stages [argument]": (checks.check_ect_mapping, lambda t, a, *more, **options: ect_mapping(t, int(a), *more, **options), "do not round"),
    "mapping: the gap [formula]": (checks.check_ect_mapping, lambda t, *more, **options: t - ect_mapping(t, *more, **options), "gap t - s"),
    "mapping: the share [formula]": (checks.check_ect_mapping, lambda t, *more, **options: ect_mapping(t, *more, **options) / t, "This is s / t"),
    "mapping: n without 1 [formula]": (checks.check_ect_mapping, mapping_of(lambda t, a, q, k, b: k * torch.sigmoid(-b * t) / q**a), "1 is missing"),
    "mapping: q a [formula]": (checks.check_ect_mapping, mapping_of(lambda t, a, q, k, b: (1 + k * torch.sigmoid(-b * t)) / (q * a)), "not q a"),
    "mapping: a^q [formula]": (checks.check_ect_mapping, mapping_of(lambda t, a, q, k, b: (1 + k * torch.sigmoid(-b * t)) / a**q), "not of a"),
    "mapping: abs for the clamp [end]": (checks.check_ect_mapping, mapping_of(clamp=lambda ratio: ratio.abs()), "do not take abs"),
    "mapping: t where s < 0 [end]": (checks.check_ect_mapping, mapping_of(clamp=lambda ratio: torch.where(ratio < 0, 1.0, ratio)), "do not take t"),
    "mapping: held at 0.002 [end]": (checks.check_ect_mapping, then(ect_mapping, lambda s: s.clamp(min=0.002)), "held at 0.002"),
    "mapping: 1e-8 added [end]": (checks.check_ect_mapping, then(ect_mapping, lambda s: s + 1e-8), "no further"),
    "mapping: a = 1 refused [end]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a <= 1 or q <= 1 or k < 0 or b < 0), "a = 1 is valid"),
    "mapping: k = 0 refused [end]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q <= 1 or k <= 0 or b < 0), "k = 0 is valid"),
    "mapping: b = 0 refused [end]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q <= 1 or k < 0 or b <= 0), "b = 0.0 is valid"),
    "mapping: stages must be whole [end]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or a != int(a) or q <= 1 or k < 0 or b < 0), "a = .*.5.*is valid"),
    "mapping: a = 0 accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 0 or q <= 1 or k < 0 or b < 0), "'a': 0} must"),
    "mapping: a = 0.5 accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a <= 0 or q <= 1 or k < 0 or b < 0), "'a': 0.99"),
    "mapping: q = 1 accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q < 1 or k < 0 or b < 0), "'q': 1.0"),
    "mapping: q below 1 accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q == 1 or k < 0 or b < 0), "'q': 0.5"),
    "mapping: a negative k accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q <= 1 or b < 0), "'k': -0.01"),
    "mapping: a negative b accepted [refusal]": (checks.check_ect_mapping, mapping_of(refused=lambda a, q, k, b: a < 1 or q <= 1 or k < 0), "'b': -0.01"),
    "mapping: t detached [gradient]": (checks.check_ect_mapping, lambda t, *more, **options: ect_mapping(t.detach(), *more, **options), "gradient for t"),
    "mapping: s straight through [gradient]": (
        checks.check_ect_mapping, lambda t, *more, **options: t + (ect_mapping(t, *more, **options) - t).detach(), "gradient for t",
    ),
    "mapping: columns [shape]": (checks.check_ect_mapping, then(ect_mapping, lambda s: s[:, None]), "shape must be"),
    "stage: step 0 accepted [refusal]": (checks.check_ect_stage, lambda step, d: ect_stage(max(step, 1), d), "Step 0"),
    "stage: a negative step accepted [refusal]": (checks.check_ect_stage, lambda step, d: ect_stage(abs(step), d), "Step -1"),
    "stage: at least one step [refusal]": (checks.check_ect_stage, lambda step, d: ect_stage(step, max(d, 1)), "Stages of 0 steps"),
    "stage: a length below 0 accepted [refusal]": (checks.check_ect_stage, lambda step, d: ect_stage(step, abs(d)), "Stages of -1"),
    "stage: at most 8 [end]": (checks.check_ect_stage, lambda step, d: min(ect_stage(step, d), 8), "without an end"),
    "stage: a float [precision]": (checks.check_ect_stage, lambda step, d: float(ect_stage(step, d)), "is an int"),
    "stage: one step late [formula]": (checks.check_ect_stage, lambda step, d: ect_stage(max(step - 1, 1) if step > 0 else step, d), "not at d \\+ 2"),
    "weight: gap clamped at 1e-3 [end]": (checks.check_ect_weight, weight_with(lambda t, s, sd: 1 / (t - s).clamp(min=1e-3)), "held at 0.001"),
    "weight: 1e-6 added to the gap [end]": (checks.check_ect_weight, weight_with(lambda t, s, sd: 1 / (t - s + 1e-6)), "1e-06 is added"),
    "weight: weight capped [end]": (checks.check_ect_weight, weight_with(lambda t, s, sd: (1 / (t - s)).clamp(max=1e4)), "held at 0.0001"),
    "weight: a squared gap [formula]": (checks.check_ect_weight, weight_with(lambda t, s, sd: 1 / (t - s) ** 2), "without a square"),
    "weight: 1 / t [formula]": (checks.check_ect_weight, weight_with(lambda t, s, sd: 1 / t + 0 * s), "not 1 / t"),
    "weight: times data_std^2 [formula]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: 1 / t**2 + sd**2), "data_std is below the line"),
    "weight: one fraction [formula]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: 1 / (t**2 + sd**2)), "not one fraction"),
    "weight: no squares [formula]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: 1 / t + 1 / sd), "has squares"),
    "weight: data_std ignored [argument]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: 1 / t**2 + 4), "data_std is not used"),
    "weight: data_std = 1 unless given [argument]": (checks.check_ect_weight, lambda kind, t, s, sd=1.0: ect_weight(kind, t, s, sd), "not 1"),
    "weight: detached [gradient]": (checks.check_ect_weight, then(ect_weight, torch.Tensor.detach), "gradient of gap"),
    "weight: s detached [gradient]": (checks.check_ect_weight, lambda kind, t, s, *sd: ect_weight(kind, t, s.detach(), *sd), "gradient of gap"),
    "weight: float64 always [precision]": (checks.check_ect_weight, then(ect_weight, double), "dtype of the data"),
    "weight: computed in float32 [precision]": (checks.check_ect_weight, in_float32(ect_weight), "in torch.float64, is valid"),
    "weight: one s above t [refusal]": (
        checks.check_ect_weight, weight_with(guard=lambda t, s, sd: (s < t).any() and (s >= 0).all() and sd > 0), "in one place.*where t",
    ),
    "weight: s = t accepted [refusal]": (
        checks.check_ect_weight, weight_with(guard=lambda t, s, sd: (s <= t).all() and (s >= 0).all() and sd > 0), "in one place.*where t",
    ),
    "weight: a negative s accepted [refusal]": (checks.check_ect_weight, weight_with(guard=lambda t, s, sd: (s < t).all() and sd > 0), "s = -0.1"),
    "weight: nan accepted [refusal]": (
        checks.check_ect_weight, weight_with(guard=lambda t, s, sd: not (s >= t).any() and not (s < 0).any() and sd > 0), "s = nan",
    ),
    "weight: s not looked at in snr [refusal]": (
        checks.check_ect_weight, lambda kind, t, s, *sd: ect_weight(kind, t, s if kind != "snr" else 0 * t, *sd) + (0 * s if kind == "snr" else 0), "snr",
    ),
    "weight: data_std = 0 accepted [refusal]": (checks.check_ect_weight, weight_with(guard=lambda t, s, sd: ((0 <= s) & (s < t)).all() and sd >= 0), "data_std = 0 must"),
    "weight: a negative data_std accepted [refusal]": (checks.check_ect_weight, weight_with(guard=lambda t, s, sd: ((0 <= s) & (s < t)).all() and sd != 0), "negative data_std"),
    "weight: one s broadcast [refusal]": (checks.check_ect_weight, lambda kind, t, s, *sd: ect_weight(kind, t, s.expand_as(t), *sd), "s of shape .1,"),
    "weight: unknown kinds are snr [refusal]": (checks.check_ect_weight, lambda kind, *args: ect_weight(kind if kind == "gap" else "snr", *args), "unknown weighting"),
    "weight: any case [refusal]": (checks.check_ect_weight, lambda kind, *args: ect_weight(kind and kind.lower(), *args), "'Gap'"),
    "ect loss: the weight detached from its options [argument]": (
        checks.check_ect_loss, lambda f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, weighting="gap", data_std=0.5: ect_loss(f, x, eps, t, a, q, k, b, c), "weighting is not used",
    ),
    "ect loss: q ignored [argument]": (
        checks.check_ect_loss, ect_with(mapping=lambda t, a, q, k, b: ect_mapping(t, a, 2.0, k, b) if q > 1 else ect_mapping(t, a, q)), "asked at s",
    ),
    "ect loss: k and b ignored [argument]": (checks.check_ect_loss, ect_with(mapping=lambda t, a, q, k, b: ect_mapping(t, a, q)), "asked at s"),
    "ect loss: a ignored [argument]": (checks.check_ect_loss, ect_with(mapping=lambda t, a, q, k, b: ect_mapping(t, 1, q, k, b)), "asked at s"),
    "ect loss: c ignored [argument]": (
        checks.check_ect_loss, ect_with(loss=lambda f, x, eps, t, s, schedule, c: consistency_loss(f, x, eps, t, s, schedule, 0.0)), "c is not used",
    ),
    "ect loss: snr unless given [argument]": (
        checks.check_ect_loss, lambda f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, weighting="snr", data_std=0.5: ect_loss(f, x, eps, t, a, q, k, b, c, weighting, data_std), "another default",
    ),
    "ect loss: weight t - s [formula]": (
        checks.check_ect_loss, ect_with(weight=lambda kind, t, s, sd: 1 / ect_weight(kind, t, s, sd) if kind == "gap" else ect_weight(kind, t, s, sd)), "not t - s",
    ),
    "ect loss: a square [formula]": (
        checks.check_ect_loss, ect_with(loss=lambda f, x, eps, t, s, schedule, c: consistency_loss(f, x, eps, t, s, schedule, 0.0) ** 2), "no square",
    ),
    "ect loss: averaged [shape]": (checks.check_ect_loss, then(ect_loss, torch.Tensor.mean), "one number per sample"),
    "ect loss: detached [gradient]": (checks.check_ect_loss, then(ect_loss, torch.Tensor.detach), "Nothing learns"),
    "ect loss: no stop-gradient [gradient]": (
        checks.check_ect_loss, ect_with(loss=lambda *args: loss_with(target=target_with(no_grad=False))(*args)), "not through the target",
    ),
    "ect loss: 0 at s = 0 [end]": (
        checks.check_ect_loss, ect_with(loss=loss_with(target=target_with(clean=lambda z_s: 0 * z_s))), "not 0",
    ),
    "ect loss: f's answer at s = 0 [end]": (
        checks.check_ect_loss, ect_with(loss=loss_with(target=target_with(ask=lambda f, z_s, s, noisy: f(z_s, s)))), "nan or inf comes out: where s = 0",
    ),
    "ect loss: two masks [random]": (checks.check_ect_loss, ect_with(loss=loss_with(mask="other")), "same dropout mask"),
    "ect loss: other noise at s [random]": (
        checks.check_ect_loss, ect_with(loss=loss_with(target=target_with(noise=lambda eps: eps.flip(0)))), "with the eps of z_t",
    ),
    "ect loss: float64 [precision]": (checks.check_ect_loss, then(ect_loss, double), "dtype of the data"),
    "ect loss: f asked in float64 [precision]": (checks.check_ect_loss, asks(ect_loss, lambda z, t: (z, t.double())), "dtype of z"),
    "ect loss: t = 0 taken for a small t [refusal]": (checks.check_ect_loss, lambda f, x, eps, t, *more, **options: ect_loss(f, x, eps, t.clamp(min=1e-9) if len(t) == len(x) else t, *more, **options), "t = 0 in one place"),
    "ect loss: one time broadcast [refusal]": (checks.check_ect_loss, lambda f, x, eps, t, *more, **options: ect_loss(f, x, eps, t.expand(len(x)), *more, **options), "One time"),
    "ect loss: one noise broadcast [refusal]": (checks.check_ect_loss, lambda f, x, eps, *more, **options: ect_loss(f, x, eps.expand_as(x), *more, **options), "eps of shape .1, 3"),
    "ect loss: a negative c accepted [refusal]": (checks.check_ect_loss, lambda *args, c=0.0, **options: ect_loss(*args, c=abs(c), **options), "'c': -1"),
    "mapping: a whole k [argument]": (checks.check_ect_mapping, lambda t, a, q=2.0, k=8.0, b=1.0: ect_mapping(t, a, q, int(k), b) if k >= 0 else ect_mapping(t, a, q, k, b), "k may be between"),
    "mapping: a at most 10 [end]": (checks.check_ect_mapping, lambda t, a, *more, **options: ect_mapping(t, min(a, 10), *more, **options), "this is q\\^10"),
    "mapping: a at most 6 [end]": (checks.check_ect_mapping, lambda t, a, *more, **options: ect_mapping(t, min(a, 6), *more, **options), "this is q\\^6"),
    "mapping: held at 1e-12 [end]": (checks.check_ect_mapping, then(ect_mapping, lambda s: s.clamp(min=1e-12)), "s is exactly 0"),
    "mapping: below 1e-9 counts as 0 [end]": (checks.check_ect_mapping, then(ect_mapping, lambda s: torch.where(s < 1e-9, 0 * s, s)), "At small t, too"),
    "stage: one step per stage refused [end]": (checks.check_ect_stage, lambda step, d: whole_or(d <= 1, lambda: ect_stage(step, d)), "1 step per stage, is valid"),
    "stage: at most 20 [end]": (checks.check_ect_stage, lambda step, d: min(ect_stage(step, d), 20), "There is no last stage"),
    "weight: gap clamped at 1e-8 [end]": (checks.check_ect_weight, weight_with(lambda t, s, sd: 1 / (t - s).clamp(min=1e-8)), "held at 1e-08"),
    "weight: capped at 1e9 [end]": (checks.check_ect_weight, weight_with(lambda t, s, sd: (1 / (t - s)).clamp(max=1e9)), "held at 1e-09"),
    "weight: 1 / t^2 at most 50 [end]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: (1 / t**2).clamp(max=50) + 1 / sd**2 if sd else t), "capped"),
    "weight: snr capped at 1000 [end]": (checks.check_ect_weight, weight_with(snr=lambda t, s, sd: (1 / t**2 + 1 / sd**2).clamp(max=1000) if sd else t), "weight is capped at 1000"),
    "ect loss: a whole number of stages [argument]": (checks.check_ect_loss, ect_with(mapping=lambda t, a, q, k, b: ect_mapping(t, int(a), q, k, b)), "do not round it"),
    "ect loss: f asked at 1e-3 at least [end]": (checks.check_ect_loss, asks(ect_loss, lambda z, t: (z, t.clamp(min=1e-3))), "and time t|f is asked at s"),
    "ect loss: s held at 1e-3 [end]": (
        checks.check_ect_loss, ect_with(loss=lambda f, x, eps, t, s, schedule, c: loss_with(target=asks(consistency_target, lambda z, t: (z, t.clamp(min=1e-3))))(f, x, eps, t, s, schedule, c)), "f is asked at s",
    ),
    "ect loss: x up to s = 1e-2 [end]": (
        checks.check_ect_loss,
        ect_with(loss=loss_with(target=lambda f, x, eps, t, s, *more: torch.where(column(s, x) > 1e-2, consistency_target(f, x, eps, t, s, *more), x).detach())), "weight times the Pseudo-Huber",
    ),
    "ect loss: nan where f is right [gradient]": (checks.check_ect_loss, own_ect(distance=by_root), "gradient is 0, not NaN"),
    "ect loss: c at most 0.1 [argument]": (
        checks.check_ect_loss, lambda f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, *more, **options: ect_loss(f, x, eps, t, a, q, k, b, min(c, 0.1), *more, **options), "c is held at 0.1",
    ),
    "ect loss: nan for c accepted [refusal]": (
        checks.check_ect_loss, lambda *args, c=0.0, **options: ect_loss(*args, c=0.0 if c != c else c, **options), "'c': nan",
    ),
    "ect loss: the weight at most 1000 [formula]": (checks.check_ect_loss, own_ect(weight=lambda w: w.clamp(max=1000)), "weight is capped at 1000"),
    "ect loss: at most 20 [formula]": (checks.check_ect_loss, then(ect_loss, lambda v: v.clamp(max=20)), "capped at 20, or the loss"),
    "ect loss: norm or square [formula]": (
        checks.check_ect_loss,
        own_ect(distance=lambda delta, c: (lambda n: torch.where(n > c, n, pseudo_huber(delta, c)))(torch.linalg.vector_norm(delta.flatten(1), dim=1))), "no choice between norm and square",
    ),
    "ect loss: gradients stay off [gradient]": (checks.check_ect_loss, then(ect_loss, lambda v: (torch.set_grad_enabled(False), v)[1]), "stays behind"),
    "ect loss: mean square [formula]": (checks.check_ect_loss, own_ect(distance=lambda delta, c: delta.flatten(1).square().mean(1) + 0 * pseudo_huber(delta, c)), "no mean square"),
    "ect loss: element-wise [formula]": (checks.check_ect_loss, own_ect(distance=elementwise), "not one distance per number"),
    "ect loss: element-wise, mean [formula]": (checks.check_ect_loss, own_ect(distance=lambda delta, c: elementwise(delta, c) / delta[0].numel()), "not a mean of one per number"),
    "ect loss: - c forgotten [formula]": (checks.check_ect_loss, own_ect(distance=lambda delta, c: pseudo_huber(delta, c) + c), "c must be subtracted"),
    "ect loss: one weight for all [formula]": (checks.check_ect_loss, own_ect(weight=lambda w: w.mean()), "own weight: this is the batch's"),
    "ect loss: always x [formula]": (checks.check_ect_loss, own_ect(target=lambda answer, x, noisy: x), "f's answer where s > 0, not x"),
    "ect loss: always f's answer [end]": (checks.check_ect_loss, own_ect(target=lambda answer, x, noisy: answer), "x, not f's answer"),
    "ect loss: c = 0.03 unless given [argument]": (
        checks.check_ect_loss, lambda f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.03, *more, **options: ect_loss(f, x, eps, t, a, q, k, b, c, *more, **options), "c is 0 unless given",
    ),
    "ect loss: the error clipped at 10 [formula]": (checks.check_ect_loss, own_ect(distance=lambda delta, c: pseudo_huber(delta.clamp(-10, 10), c)), "error is clipped"),
    "ect loss: x broadcast [refusal]": (
        checks.check_ect_loss, lambda f, x, eps, *more, **options: ect_loss(f, x.expand_as(eps) if x.ndim == eps.ndim and all(a in (1, b) for a, b in zip(x.shape, eps.shape)) else x, eps, *more, **options), "x of shape",
    ),
    "ect loss: f.eval() [random]": (checks.check_ect_loss, lambda f, *args, **options: ect_loss(evaluated(f), *args, **options), "f.eval"),
    # drawing times, and curricula
    "times: clamped to EDM's range [random]": (checks.check_lognormal_times, then(lognormal_times, lambda t: t.clamp(0.002, 80) if len(t) > 3 else t), "tails are missing"),
    "times: Gaussian clamped at 3 [random]": (checks.check_lognormal_times, times_of(lambda b, g: torch.randn(b, generator=g).clamp(-3, 3)), "tails are missing"),
    "times: in pairs of opposites [random]": (checks.check_lognormal_times, times_of(pairs), "yours know of each other"),
    "times: stratified [random]": (checks.check_lognormal_times, times_of(strata), "yours know of each other"),
    "times: one for all [random]": (checks.check_lognormal_times, times_of(lambda b, g: torch.randn(1, generator=g).expand(b)), "all times are one number"),
    "ct: step -1 accepted where the root exists [refusal]": (
        checks.check_ct_steps, lambda step, total, *more: consistency.ct_steps(0 if step < 0 and total > 1000 else step, total, *more), "Step -1 of many",
    ),
    "ct: s0 = s1 refused [end]": (
        checks.check_ct_steps, lambda step, total, s0=2, s1=150, *more: whole_or(s0 >= s1, lambda: consistency.ct_steps(step, total, s0, s1, *more)), "s0 = 5, s1 = 5.*is valid",
    ),
    "ct: a float number of points [precision]": (checks.check_ct_steps, ct_with(points=float), "points is an int"),
    "ct: s1 squared [formula]": (checks.check_ct_steps, ct_with(last=lambda s1: s1), "s1 \\+ 1 is squared"),
    "ct: rounded down [formula]": (checks.check_ct_steps, ct_with(math.floor), "rounded up, not down"),
    "ct: rounded to the nearest [formula]": (checks.check_ct_steps, ct_with(round), "not to the nearest"),
    "ct: mu0 = 0.95 unless given [argument]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.95: consistency.ct_steps(step, total, s0, s1, mu0), "when nothing is given"),
    "ct: s0 = 10 unless given [argument]": (checks.check_ct_steps, lambda step, total, s0=10, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, s1, mu0), "when nothing is given"),
    "ict: a float number of points [precision]": (checks.check_ict_steps, then(ict_steps, float), "points is an int"),
    "ict: the logarithm of s1 / s0 [formula]": (
        checks.check_ict_steps,
        lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1) and min(s0 * 2 ** (step // max(1, math.floor(total / (math.log2(s1 / s0) + 1)))), s1) + 1, "not log2\\(s1 / s0\\)",
    ),
    "ict: three times as many [formula]": (checks.check_ict_steps, ict_with(lambda i, s0: s0 * 3**i), "tripled"),
    "ict: s0 = 20 unless given [argument]": (checks.check_ict_steps, lambda step, total, s0=20, s1=1280: ict_steps(step, total, s0, s1), "when nothing is given"),
    "pmf: two equal levels of a rising grid accepted [refusal]": (
        checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and (((sigmas.diff() >= 0).all() and sigmas[0] < sigmas[-1]) or (sigmas.diff() < 0).all()) and std > 0), "1, 2, 2, 4",
    ),
    "interval: level 0 refused [end]": (checks.check_draw_interval, interval_if(lambda sigmas, pmf: (sigmas.diff() < 0).all() and (sigmas > 0).all()), "grid .3.0, 1.0, 0.0. is valid"),
    "interval: systematic [random]": (checks.check_draw_interval, systematic, "yours know of each other"),
    "ict c: the batch of one counts as a sample [shape]": (checks.check_ict_c, lambda x: consistency.ict_c(x) if len(x) > 1 else 0.00054, "0.00054 sqrt|root of d"),
    "ict c: the side [shape]": (checks.check_ict_c, lambda x: 0.00054 * x.shape[-1], "not its side"),
    "ict c: the root of the side [shape]": (checks.check_ict_c, lambda x: 0.00054 * x.shape[-1] ** 0.5, "not the last alone"),
    "trigflow: times up to 1.575 [refusal]": (
        checks.check_trigflow, schedule_of(lambda t, sd: ((torch.pi / 2 - t).sin(), sd * t.sin()), lambda t: not ((t >= 0) & (t <= 1.575)).all()), "t = 1.572 in one place",
    ),
    "trigflow: a root for the sine [gradient]": (
        checks.check_trigflow, schedule_of(lambda t, sd: ((torch.pi / 2 - t).sin(), sd * (1 - t.cos() ** 2).sqrt()), lambda t: not ((t >= 0) & (t <= 1.5709)).all()), "nan or inf comes out: the gradient|digits",
    ),
    "trigflow: alpha at least 1e-3 [end]": (checks.check_trigflow, lambda sd: lambda t: (trigflow(sd)(t)[0].clamp(min=1e-3), trigflow(sd)(t)[1]), "alpha is cos t"),
    "tangent: clipped at 3 [formula]": (checks.check_scm_tangent, then(scm_tangent, lambda g: g.clamp(-3, 3)), "data_std = "),
    "edit: an inverse off by 0.1 accepted [refusal]": (edit_checks.check_edit, edit_if(lambda y, again: torch.allclose(y, again, atol=0.1)), "by 0.01"),
    "edit: an inverse right on the average accepted [refusal]": (edit_checks.check_edit, edit_if(lambda y, again: (again - y).abs().mean() < 1e-3), "by 0.01"),
    "edit: clipped at 3 [formula]": (edit_checks.check_edit, lambda f, *args, **options: editing.edit(lambda z, t: f(z, t).clamp(-3, 3), *args, **options), "is clipped"),
    "edit: no noises taken for none given [refusal]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise or None, generator), "empty list",
    ),
    "slerp: a straight line for small angles [precision]": (
        edit_checks.check_slerp,
        lambda a, b, weight: torch.where(column(torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)) > 0.9995, a), ((1 - column(weight, a)) * a + column(weight, a) * b), editing.slerp(a, b, weight)).to(a.dtype) if a.shape == b.shape else editing.slerp(a, b, weight),
        "no straight line there",
    ),
    "slerp: a for all where one angle is 0 [end]": (
        edit_checks.check_slerp,
        lambda a, b, weight: (lambda found: (1 - column(weight, a)) * a + column(weight, a) * b if (a - b).flatten(1).norm(dim=1).min() < 1e-7 else found)(editing.slerp(a, b, weight)), "Each sample by itself",
    ),
    "slerp: angles above pi - 0.1 refused [end]": (
        edit_checks.check_slerp,
        lambda a, b, weight: whole_or(a.shape == b.shape and (torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)) < math.cos(math.pi - 0.1)).any(), lambda: editing.slerp(a, b, weight)), "pi - 0.05, like any other",
    ),
    "times: the same in each call [random]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std, generator and torch.Generator().manual_seed(0)), "not Gaussian|do not seed"),
    "times: the generator ignored [random]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std), "generator is not used"),
    "times: a seed when none is given [random]": (
        checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std, generator or torch.Generator().manual_seed(0)), "Without a generator",
    ),
    "times: uniform with the right moments [random]": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: torch.exp(mean + std * 12**0.5 * (torch.rand(b, generator=generator) - 0.5)), "not Gaussian",
    ),
    "times: sorted [random]": (checks.check_lognormal_times, then(lognormal_times, lambda t: t.sort().values), "one decides the next"),
    "times: truncated [random]": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: torch.exp(mean + std * torch.randn(b, generator=generator).clamp(-2, 2)), "no Gaussian",
    ),
    "times: mean is that of t [formula]": (
        checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean - std**2 / 2, std, generator), "mean is that of log t",
    ),
    "times: std squared [formula]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std**2, generator), "squared here"),
    "times: log t [formula]": (checks.check_lognormal_times, then(lognormal_times, torch.log), "positive times"),
    "times: mean ignored [argument]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, -1.1, std, generator), "mean is that of log t"),
    "times: std ignored [argument]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, 2.0, generator), "another std"),
    "times: Karras' defaults [argument]": (checks.check_lognormal_times, lambda b, mean=-1.2, std=1.2, generator=None: lognormal_times(b, mean, std, generator), "another std"),
    "times: a column [shape]": (checks.check_lognormal_times, then(lognormal_times, lambda t: t[:, None]), r"\(b,\)"),
    "times: b = 0 accepted [refusal]": (checks.check_lognormal_times, lambda b, *args, **more: lognormal_times(b or 1, *args, **more), "b = 0"),
    "times: a negative std accepted [refusal]": (checks.check_lognormal_times, lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, abs(std), generator), "negative std"),
    "ct: intervals for points [formula]": (checks.check_ct_steps, then(consistency.ct_steps, lambda found: (found[0] - 1, found[1])), "one point more"),
    "ct: mu without s0 [formula]": (
        checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: (lambda n: (n, mu0 ** (1 / (n - 1))))(consistency.ct_steps(step, total, s0, s1, mu0)[0]), "s0 is missing",
    ),
    "ct: s0 ignored [argument]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, 2, s1, mu0), "s0 is not used"),
    "ct: 2 s0 for s0^2 [formula]": (
        checks.check_ct_steps,
        lambda step, total, s0=2, s1=150, mu0=0.9: (lambda n: (n, mu0 ** (s0 / (n - 1))))(
            max(1, math.ceil(math.sqrt(step / max(total, 1) * ((s1 + 1) ** 2 - s0**2) + 2 * s0) - 1)) + 1
        ),
        "s0 = 10",
    ),
    "ct: s1 ignored [argument]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, 150, mu0), "s1 is not used"),
    "ct: mu0 ignored [argument]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, s1), "mu0 is not used"),
    "ct: a step after the last [refusal]": (checks.check_ct_steps, lambda step, total, *more: consistency.ct_steps(min(step, total), total, *more), "after the last"),
    "ct: a negative step [refusal]": (checks.check_ct_steps, lambda step, total, *more: consistency.ct_steps(max(step, 0), total, *more), "negative step"),
    "ct: no steps [refusal]": (checks.check_ct_steps, lambda step, total, *more: consistency.ct_steps(step, total or 1, *more), "no steps"),
    "ct: s0 = 0 [refusal]": (checks.check_ct_steps, lambda step, total, s0=2, *more: consistency.ct_steps(step, total, s0 or 1, *more), "s0 = 0"),
    "ct: s1 below s0 [refusal]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, *more: consistency.ct_steps(step, total, s0, max(s0, s1), *more), "s1 below s0"),
    "ct: mu0 = 0 [refusal]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, s1, mu0 or 0.9), "mu0 = 0 must"),
    "ct: mu0 above 1 [refusal]": (checks.check_ct_steps, lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, s1, min(mu0, 1)), "mu0 above 1"),
    "ct: s0 = s1 = 1 has no interval [end]": (
        checks.check_ct_steps,
        lambda step, total, s0=2, s1=150, mu0=0.9: consistency.ct_steps(step, total, s0, s1, mu0) if s0 > 1 or s0 < 1 else (1, 1.0),
        "one point more",
    ),
    "ict: a negative step accepted [refusal]": (checks.check_ict_steps, lambda step, total, *more: ict_steps(max(step, 0), total, *more), "negative step"),
    "ict: a step after the last accepted [refusal]": (checks.check_ict_steps, lambda step, total, *more: ict_steps(min(step, total), total, *more), "after the last"),
    "ict: no steps [refusal]": (checks.check_ict_steps, lambda step, total, *more: ict_steps(step, total or 1, *more), "no steps"),
    "ict: s0 = 0 [refusal]": (checks.check_ict_steps, lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0 or 1, s1), "s0 = 0"),
    "ict: s1 below s0 [refusal]": (checks.check_ict_steps, lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, max(s0, s1)), "s1 below s0"),
    "ict: no limit [end]": (checks.check_ict_steps, lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1) if step < total or s0 == s1 else 2 * s1 + 1, "no more intervals"),
    "ict: s0 and s1 ignored [argument]": (checks.check_ict_steps, lambda step, total, s0=10, s1=1280: ict_steps(step, total) if s0 > 0 and s1 >= s0 else ict_steps(step, total, s0, s1), "are not used"),
    "ict: one s0 more, not twice [formula]": (checks.check_ict_steps, ict_with(lambda i, s0: s0 * (i + 1)), "the number doubles"),
    "ict: total over 8 [argument]": (
        checks.check_ict_steps, lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1) and min(s0 * 2 ** (step // max(1, total // 8)), s1) + 1, "a stage has",
    ),
    "pmf: mean ignored [argument]": (checks.check_ict_time_pmf, lambda sigmas, mean=-1.1, std=2.0: consistency.ict_time_pmf(sigmas, -1.1, std), "mean is not used"),
    "pmf: std ignored [argument]": (checks.check_ict_time_pmf, lambda sigmas, mean=-1.1, std=2.0: consistency.ict_time_pmf(sigmas, mean, 2.0), "std is not used"),
    "pmf: both ignored [argument]": (checks.check_ict_time_pmf, lambda sigmas, mean=-1.1, std=2.0: consistency.ict_time_pmf(sigmas), "mean and std are not used"),
    "pmf: a Gaussian sigma [formula]": (checks.check_ict_time_pmf, pmf_with(log=lambda sigmas: sigmas), "not sigma"),
    "pmf: the density [formula]": (
        checks.check_ict_time_pmf, lambda sigmas, mean=-1.1, std=2.0: (lambda p: p / p.sum())(torch.exp(-(((sigmas.log() - mean) / std) ** 2) / 2)[:-1]), "not the density",
    ),
    "pmf: in rising order always [formula]": (checks.check_ict_time_pmf, lambda sigmas, *args: consistency.ict_time_pmf(sigmas.sort().values, *args), "rising one's"),
    "pmf: below 0 on a falling grid [formula]": (checks.check_ict_time_pmf, lambda sigmas, *args: consistency.ict_time_pmf(sigmas, *args) * (1 if sigmas[0] < sigmas[-1] else -1), "above 0 all the same"),
    "pmf: rising grids only [end]": (checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: (sigmas.diff() > 0).all() and sigmas[0] > 0 and std > 0), "falling grid is valid"),
    "pmf: order looked at by the ends [refusal]": (checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and sigmas[0] != sigmas[-1] and std > 0), "A level = 1 in one place"),
    "pmf: order not looked at in the middle [refusal]": (
        checks.check_ict_time_pmf,
        pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and (sigmas[0] - sigmas[1]) * (sigmas[-2] - sigmas[-1]) > 0 and std > 0), "two equal levels|out of order",
    ),
    "pmf: equal levels accepted [refusal]": (
        checks.check_ict_time_pmf,
        pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and ((sigmas.diff() >= 0).all() or (sigmas.diff() <= 0).all()) and std > 0), "A level = 1 in one place",
    ),
    "pmf: level 0 accepted [refusal]": (
        checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas >= 0).all() and ((sigmas.diff() > 0).all() or (sigmas.diff() < 0).all()) and std > 0), "with level 0",
    ),
    "pmf: std = 0 accepted [refusal]": (
        checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and ((sigmas.diff() > 0).all() or (sigmas.diff() < 0).all()) and std >= 0), "std = 0",
    ),
    "pmf: a negative std accepted [refusal]": (
        checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: len(sigmas) > 1 and (sigmas > 0).all() and ((sigmas.diff() > 0).all() or (sigmas.diff() < 0).all()) and std != 0), "negative std",
    ),
    "pmf: one level accepted [refusal]": (
        checks.check_ict_time_pmf, pmf_if(lambda sigmas, std: (sigmas > 0).all() and ((sigmas.diff() > 0).all() or (sigmas.diff() < 0).all()) and std > 0), "One level",
    ),
    "pmf: float64 always [precision]": (checks.check_ict_time_pmf, then(consistency.ict_time_pmf, double), "dtype of the data"),
    "pmf: computed in float32 [precision]": (checks.check_ict_time_pmf, in_float32(consistency.ict_time_pmf), "no further"),
    "interval: the pmf ignored [argument]": (
        checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None or len(pmf) != len(sigmas) - 1 or not (pmf >= 0).all() else torch.ones_like(pmf), generator), "as often as the pmf says",
    ),
    "interval: the pmf backwards [formula]": (
        checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None else pmf.flip(0), generator), "as often as the pmf says",
    ),
    "interval: without replacement [random]": (
        checks.check_draw_interval,
        lambda sigmas, b, pmf=None, generator=None: interval_at(sigmas, b, pmf, torch.randperm(len(sigmas) - 1, generator=generator).repeat(b // (len(sigmas) - 1) + 1)[:b]), "without replacement",
    ),
    "interval: sorted [random]": (
        checks.check_draw_interval, then(draw_interval, lambda both: tuple(c.sort().values for c in both)), "one decides the next",
    ),
    "interval: two points apart [formula]": (
        checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: (lambda t, s: (t, sigmas[torch.searchsorted(-sigmas, -s).add(1).clamp(max=len(sigmas) - 1)]))(*draw_interval(sigmas, b, pmf, generator)), "next point after t",
    ),
    "interval: times between points [formula]": (
        checks.check_draw_interval, lambda *args: (lambda t, s: ((t + s) / 2, s))(*draw_interval(*args)), "points of the grid",
    ),
    "interval: the generator ignored [random]": (checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf), "generator is not used"),
    "interval: seeded again [random]": (
        checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf, generator and torch.Generator().manual_seed(0)), "do not seed it again",
    ),
    "interval: equal neighbours accepted [refusal]": (checks.check_draw_interval, interval_if(lambda sigmas, pmf: (sigmas.diff() <= 0).all() and (sigmas >= 0).all()), "A level = 1 in one place"),
    "interval: order looked at by the ends [refusal]": (checks.check_draw_interval, interval_if(lambda sigmas, pmf: sigmas[0] > sigmas[-1] and (sigmas >= 0).all()), "A level = 1 in one place"),
    "interval: negative levels accepted [refusal]": (checks.check_draw_interval, interval_if(lambda sigmas, pmf: (sigmas.diff() < 0).all()), "a negative level"),
    "interval: a rising grid accepted [refusal]": (
        checks.check_draw_interval, lambda sigmas, *args: draw_interval(sigmas.sort(descending=True).values if not sigmas.isnan().any() else sigmas, *args), "A level = 3.5",
    ),
    "interval: a pmf too short accepted [refusal]": (checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None else torch.cat([pmf, 0 * sigmas[len(pmf) + 1 :].to(pmf)]), generator), "a number too few"),
    "interval: a pmf too long accepted [refusal]": (checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None else pmf[: len(sigmas) - 1], generator), "a number too many"),
    "interval: a negative probability accepted [refusal]": (checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None else pmf.clamp(min=0), generator), "A probability = -0.1"),
    "interval: nan as a probability accepted [refusal]": (
        checks.check_draw_interval, lambda sigmas, b, pmf=None, generator=None: draw_interval(sigmas, b, pmf if pmf is None else pmf.nan_to_num(), generator), "A probability = nan",
    ),
    "interval: b = 0 accepted [refusal]": (checks.check_draw_interval, lambda sigmas, b, *args: draw_interval(sigmas, b or 1, *args), "b = 0"),
    "interval: float64 always [precision]": (checks.check_draw_interval, then(draw_interval, double), "dtype of the grid"),
    "ict c: channels left out [shape]": (checks.check_ict_c, lambda x: 0.00054 * math.sqrt(x[0, 0].numel()), "channels count"),
    "ict c: images of three channels only [shape]": (checks.check_ict_c, lambda x: 0.00054 * math.sqrt(3 * x.shape[-1] ** 2), "0.00054 sqrt"),
    # TrigFlow and sCM
    "trigflow: alpha with data_std [formula]": (checks.check_trigflow, schedule_of(lambda t, sd: (sd * t.cos(), sd * t.sin())), "alpha is without data_std"),
    "trigflow: swapped [formula]": (checks.check_trigflow, schedule_of(lambda t, sd: (sd * t.sin(), t.cos())), "alpha comes first"),
    "trigflow: data_std ignored [argument]": (checks.check_trigflow, lambda sd: trigflow(0.5 if sd > 0 else sd), "data_std is not used"),
    "trigflow: float64 always [precision]": (checks.check_trigflow, lambda sd: then(trigflow(sd), double), "dtype of the data"),
    "trigflow: alpha below 0 in float32 [end]": (
        checks.check_trigflow, lambda sd: lambda t: (trigflow(sd)(t)[0] * 0 + t.cos(), trigflow(sd)(t)[1]), "no alpha may be below 0",
    ),
    "trigflow: t detached [gradient]": (checks.check_trigflow, lambda sd: lambda t: trigflow(sd)(t.detach()), "gradient for t"),
    "trigflow: t refused if all are [refusal]": (
        checks.check_trigflow, schedule_of(lambda t, sd: ((torch.pi / 2 - t).sin(), sd * t.sin()), lambda t: (t < 0).all() or (t > 1.6).all()), "t = -0.01 in one place",
    ),
    "trigflow: nan accepted [refusal]": (
        checks.check_trigflow, schedule_of(lambda t, sd: ((torch.pi / 2 - t).sin(), sd * t.sin()), lambda t: (t < 0).any() or (t > 1.571).any()), "t = nan in one place",
    ),
    "trigflow: t clamped [refusal]": (checks.check_trigflow, lambda sd: lambda t: trigflow(sd)(t.clamp(0, torch.pi / 2)), "t = -0.01 in one place"),
    "trigflow: data_std = 0 accepted [refusal]": (checks.check_trigflow, lambda sd: trigflow(sd or 1e-9), "data_std = 0"),
    "tangent: both signs [formula]": (checks.check_scm_tangent, then(scm_tangent, lambda g: -g), "minus the tangent"),
    "tangent: z forgotten [formula]": (checks.check_scm_tangent, lambda net, z, t, *more, **options: scm_tangent(net, z, t, *more, **options) + zed(z, t, *more[1:]), "z is missing|data_std = "),
    "tangent: F asked at z [formula]": (checks.check_scm_tangent, lambda net, z, t, slope, data_std=0.5, warmup=1.0: tangent_at_z(net, z, t, slope, data_std, warmup), "not at z"),
    "tangent: warmup ignored [argument]": (
        checks.check_scm_tangent, lambda net, z, t, slope, data_std=0.5, warmup=1.0: scm_tangent(net, z, t, slope, data_std), "warmup is not used",
    ),
    "tangent: data_std ignored [argument]": (
        checks.check_scm_tangent, lambda net, z, t, slope, data_std=0.5, warmup=1.0: scm_tangent(net, z, t, slope, 0.5 if data_std > 0 else data_std, warmup), "data_std is not used",
    ),
    "tangent: the gradient stays [gradient]": (
        checks.check_scm_tangent, lambda net, z, t, *more, **options: scm_tangent(net, z, t, *more, **options) + 0 * z, "a constant of the loss",
    ),
    "tangent: asked in float64 [precision]": (checks.check_scm_tangent, asks(scm_tangent, lambda z, t: (z, t.double())), "dtype of z"),
    "tangent: float64 always [precision]": (checks.check_scm_tangent, then(scm_tangent, double), "dtype of the data"),
    "tangent: a slope broadcast [refusal]": (
        checks.check_scm_tangent, lambda net, z, t, slope, *more, **options: scm_tangent(net, z, t, slope.expand_as(z), *more, **options), "slope",
    ),
    "tangent: one t broadcast [refusal]": (
        checks.check_scm_tangent, lambda net, z, t, *more, **options: scm_tangent(net, z, t.expand(len(z)), *more, **options), "One t for five z",
    ),
    "tangent: warmup clamped [refusal]": (
        checks.check_scm_tangent, lambda net, z, t, slope, data_std=0.5, warmup=1.0: scm_tangent(net, z, t, slope, data_std, min(max(warmup, 0), 1)), "'warmup': -0.01",
    ),
    "tangent: an answer broadcast [refusal]": (
        checks.check_scm_tangent, lambda net, *args, **options: scm_tangent(lambda z, t: net(z, t).expand_as(z), *args, **options), "network that answers",
    ),
    "tangent: axes swapped in wide samples [shape]": (
        checks.check_scm_tangent, lambda net, z, t, slope, *more: scm_tangent(net, z, t, slope, *more) if z.ndim < 4 else scm_tangent(net, z.transpose(0, 1), t, slope.transpose(0, 1), *more).transpose(0, 1), "data_std = 0.7",
    ),
    "scm loss: warmup ignored [argument]": (
        checks.check_scm_loss, lambda net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1: scm_loss(net, x, eps, t, data_std, teacher, 1.0 if 0 <= warmup <= 1 else warmup, c), "warmup is not used",
    ),
    "scm loss: c ignored [argument]": (
        checks.check_scm_loss, lambda net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1: scm_loss(net, x, eps, t, data_std, teacher, warmup, 0.1 if c > 0 else c), "c is not used",
    ),
    "scm loss: data_std ignored [argument]": (
        checks.check_scm_loss, lambda net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1: scm_loss(net, x, eps, t, 0.5 if data_std > 0 else data_std, teacher, warmup, c), "data_std is not used",
    ),
    "scm loss: the teacher ignored [argument]": (
        checks.check_scm_loss, lambda net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1: scm_loss(net, x, eps, t, data_std, None, warmup, c), "teacher is never asked",
    ),
    "scm loss: the teacher asked at z [formula]": (
        checks.check_scm_loss,
        lambda net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1: scm_loss(net, x, eps, t, data_std, teacher and (lambda z, t: teacher(z * data_std, t)), warmup, c), "asked at z_t / data_std",
    ),
    "scm loss: a sum [formula]": (checks.check_scm_loss, lambda net, x, *more, **options: scm_loss(net, x, *more, **options) * x[0].numel(), "not a sum"),
    "scm loss: half [formula]": (checks.check_scm_loss, then(scm_loss, lambda v: v / 2), "No factor 1/2"),
    "scm loss: normalised without c [formula]": (checks.check_scm_loss, scm_with(norm=lambda g: column(g.flatten(1).norm(dim=1), g) - 0.1), "c is missing|norm"),
    "scm loss: averaged [shape]": (checks.check_scm_loss, then(scm_loss, torch.Tensor.mean), "one number per sample"),
    "scm loss: detached [gradient]": (checks.check_scm_loss, then(scm_loss, torch.Tensor.detach), "Nothing learns"),
    "scm loss: half the gradient [gradient]": (checks.check_scm_loss, then(scm_loss, lambda v: (v + v.detach()) / 2), "Half the gradient"),
    "scm loss: float64 always [precision]": (checks.check_scm_loss, then(scm_loss, double), "dtype of the data"),
    "scm loss: asked in float64 [precision]": (checks.check_scm_loss, asks(scm_loss, lambda z, t: (z, t.double())), "dtype of z"),
    "scm loss: c = 0 accepted [refusal]": (
        checks.check_scm_loss, lambda *args, c=0.1, **options: scm_loss(*args, c=c or 1e-9, **options), "'c': 0.0",
    ),
    "scm loss: one noise broadcast [refusal]": (
        checks.check_scm_loss, lambda net, x, eps, *more, **options: scm_loss(net, x, eps.expand_as(x), *more, **options), "eps of shape .1,",
    ),
    "scm loss: a teacher's answer broadcast [refusal]": (
        checks.check_scm_loss, lambda *args, teacher=None, **options: scm_loss(*args, teacher=teacher and (lambda z, t: teacher(z, t).expand_as(z)), **options), "teacher that answers",
    ),
    # editing
    "slerp: images only [shape]": (edit_checks.check_slerp, slerp_plain, "The shape must be"),
    "slerp: the angle of the last axis [shape]": (edit_checks.check_slerp, slerp_along((-1,)), "not of its last axis"),
    "slerp: the angle of each channel [shape]": (edit_checks.check_slerp, slerp_along((2, 3)), "not of each channel"),
    "slerp: normalised [formula]": (
        edit_checks.check_slerp, lambda a, b, weight: editing.slerp(*(z / column(z.flatten(1).norm(dim=1), z) for z in (a, b)), weight), "do not normalise",
    ),
    "slerp: a line pushed out [formula]": (edit_checks.check_slerp, slerp_along("line"), "not at constant speed"),
    "slerp: float64 always [precision]": (edit_checks.check_slerp, then(editing.slerp, double), "dtype of the data"),
    "slerp: computed in float32 [precision]": (edit_checks.check_slerp, in_float32(editing.slerp), "no further"),
    "slerp: weight detached [gradient]": (edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b, weight.detach()), "gradient for weight"),
    "slerp: one b broadcast [refusal]": (edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b.expand_as(a), weight), "b of shape .1,"),
    "slerp: b's channels broadcast [refusal]": (edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b.expand_as(a) if len(a) == len(b) else b, weight), "b of shape .4, 1,"),
    "slerp: one weight broadcast [refusal]": (edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b, weight.expand(len(a)) if len(weight) == 1 else weight), "weight of shape .1,"),
    "slerp: weights clamped [refusal]": (edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b, weight.clamp(0, 1)), "weight = -0.01"),
    "slerp: weights up to 1.05 [refusal]": (
        edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b, torch.where((weight > 1) & (weight < 1.05), 1.0, weight)), "weight = 1.01",
    ),
    "slerp: nan accepted [refusal]": (
        edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, b, weight.nan_to_num(0.5)), "weight = nan",
    ),
    "slerp: opposite noises refused if all are [refusal]": (
        edit_checks.check_slerp, lambda a, b, weight: editing.slerp(a, torch.where(column((a + b / 2).flatten(1).norm(dim=1) < 1e-9, a), a, b) if a.shape == b.shape else b, weight), "opposite noises",
    ),
    "slerp: equal noises are nan [end]": (edit_checks.check_slerp, slerp_along("all"), "nan or inf comes out: a and b are equal"),
    "edit: the caller's noises popped [random]": (
        edit_checks.check_edit,
        lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise if not isinstance(noise, list) else [noise.pop(0) for _ in list(noise)], generator),
        "must stay as it was",
    ),
    "edit: the generator ignored [random]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise), "generator is not used",
    ),
    "edit: seeded again [random]": (
        edit_checks.check_edit,
        lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise, generator and torch.Generator().manual_seed(0)), "do not seed it again",
    ),
    "edit: uniform noise [random]": (
        edit_checks.check_edit,
        lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(
            f, y, operator, inverse, times, schedule,
            noise or [12**0.5 * (torch.rand(inverse(y).shape, generator=generator, dtype=y.dtype) - 0.5) for _ in times[1:]],
        ),
        "one unit Gaussian is drawn",
    ),
    "edit: one noise for all steps [random]": (edit_checks.check_edit, edit_with(same=True), "first again"),
    "edit: the lift has all of s [formula]": (edit_checks.check_edit, edit_with(lift=False), "not s: f ends at t_min"),
    "edit: asked in float64 [precision]": (edit_checks.check_edit, asks(editing.edit, lambda z, t: (z, t.double())), "dtype of z"),
    "edit: float64 always [precision]": (edit_checks.check_edit, then(editing.edit, double), "dtype of the data"),
    "edit: f at the next time [formula]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, *more, **options: editing.edit(lambda z, t: f(z, times[(times.to(t) < t[0]).nonzero()[0, 0]].to(t).expand(len(z))), y, operator, inverse, times, *more, **options), "at that time",
    ),
    "edit: no schedule [argument]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, *more, **options: editing.edit(f, y, operator, inverse, times, edm, *more, **options), "start is EDM's",
    ),
    "edit: an inverse wrong on average only refused [refusal]": (
        edit_checks.check_edit, edit_if(lambda y, again: (again - y).mean().abs() < 1e-5), "An inverse",
    ),
    "edit: an inverse not looked at [refusal]": (edit_checks.check_edit, edit_if(lambda y, again: True), "does not have the measurement"),
    "edit: an inverse right in one sample [refusal]": (edit_checks.check_edit, edit_if(lambda y, again: torch.allclose(y[0], again[0], atol=1e-5)), "wrong in one sample"),
    "edit: too many noises accepted [refusal]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise and noise[: len(times) - 1], generator), "Three noises",
    ),
    "edit: a noise used again for a missing one [refusal]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise and [*noise, *noise[:1] * (len(times) - 1 - len(noise))], generator), "One noise for two steps",
    ),
    "edit: a noise broadcast [refusal]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, schedule, noise=None, generator=None: editing.edit(f, y, operator, inverse, times, schedule, noise and [n.expand_as(inverse(y)) for n in noise], generator), "a noise of shape .1,",
    ),
    "edit: times sorted [refusal]": (
        edit_checks.check_edit, lambda f, y, operator, inverse, times, *more, **options: editing.edit(f, y, operator, inverse, times.unique().flip(0), *more, **options), "Times",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, as others would write them


def boundary_in_float64(t, data_std=0.5, t_min=0.002):
    if not (data_std > 0 and t_min >= 0 and bool((t >= t_min).all())):
        raise ValueError("bad")
    u, r = t.double() - t_min, torch.hypot(t.double(), exact(float(data_std))[0])
    return tuple(c.to(t.dtype) for c in (1 / (1 + (u / data_std).pow(2)), u * data_std / r, r.reciprocal()))


def boundary_by_where(t, data_std=0.5, t_min=0.002):
    if data_std <= 0 or t_min < 0 or t.isnan().any() or t.min() < t_min:
        raise ValueError("bad")
    var, u = data_std**2, t - t_min
    skip = torch.where(u == 0, torch.ones_like(t), var / (u * u + var))
    return skip, u * data_std * (t * t + var).rsqrt(), (t * t + var).rsqrt()


def boundary_of_samples(t, data_std=0.5, t_min=0.002):
    rows = [boundary(t[i : i + 1], data_std, t_min) for i in range(len(t))]
    return tuple(torch.cat(c) for c in zip(*rows))


def boundary_list(t, data_std=0.5, t_min=0.002):
    return list(boundary(t, data_std, t_min))


def step_by_slopes(denoiser, z, t, s, schedule, solver="euler"):
    """In (rho, z / sigma) for Euler, as k-diffusion would for Heun; one buffer for the times."""
    if solver not in {"euler", "heun"}:
        raise ValueError("bad")
    (a, b), (c, d) = ([column(v.to(z.dtype), z) for v in schedule(u)] for u in (t, s))
    if not (b > 0).all() or (solver == "heun" and not (a > 0).all()):
        raise ValueError("bad")
    time = t.to(z.dtype).clone()
    x_hat = denoiser(z, time)
    if x_hat.shape != z.shape:
        raise ValueError("bad")
    z_s = d * z / b + (c - d * a / b) * x_hat
    if solver == "euler":
        return z_s
    last = d == 0
    time.copy_(torch.where(last.flatten(), time, s.to(z.dtype)))  # the buffer again
    answer = denoiser(z_s, time)
    if answer.shape != z.shape:
        raise ValueError("bad")
    other = (z_s - c * answer) / d.clamp(min=1e-30)
    mean = torch.where(last, (z - a * x_hat) / b, ((z - a * x_hat) / b + other) / 2)
    return torch.where(last, z_s, c * z / a + (d - c * b / a) * mean)


def target_in_numpy_style(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
    if x.shape != eps.shape or not bool(torch.all((s >= 0) & (s < t))):
        raise ValueError("bad")
    shape = (len(x), *([1] * (x.ndim - 1)))
    with torch.no_grad():
        t, s = t.type_as(x), s.type_as(x)
        if teacher is None:
            alpha, sigma = schedule(s)
            z_s = alpha.reshape(shape) * x + sigma.reshape(shape) * eps
        else:
            alpha, sigma = schedule(t)
            z_s = alpha.reshape(shape) * x + sigma.reshape(shape) * eps
            z_s = ode_step(teacher, z_s, t, s, schedule, solver)
        time = s.clone()
        time[s == 0] = t[s == 0]
        out = f(z_s, time)
        if out.shape != x.shape:
            raise ValueError("bad")
        out = out.clone()
        out[s == 0] = z_s[s == 0]
        return out


def target_detached(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
    """Detached at the end; f is asked at time 1 where s = 0, and its answer is replaced before it is mixed."""
    if not ((0 <= s) & (s < t)).all():
        raise ValueError("bad")
    z = mix(x, eps, t, schedule)
    z_s = mix(x, eps, s, schedule) if teacher is None else ode_step(teacher, z, t, s, schedule, solver)
    clean = s.to(x.dtype) == 0
    answer = f(torch.where(column(clean, x), x, z_s), s.to(x.dtype).masked_fill(clean, 1.0))
    if tuple(answer.shape) != tuple(x.shape):
        raise ValueError("bad")
    keep = column(clean, x).to(x.dtype)
    return (keep * z_s + (1 - keep) * answer).detach()


@torch.no_grad()
def target_buffered(f, x, eps, t, s, schedule, teacher=None, solver="euler"):
    """One buffer for z and one for the times, moved on in place."""
    if eps.shape != x.shape or (~((s >= 0) & (s < t))).any():
        raise ValueError("bad")
    time, z_s = t.to(x.dtype).clone(), mix(x, eps, t, schedule)
    if teacher is not None:
        landed = ode_step(teacher, z_s, time, s, schedule, solver)
    else:
        landed = mix(x, eps, s, schedule)
    z_s.copy_(landed)
    time.copy_(torch.where(s > 0, s.to(x.dtype), time))
    answer = f(z_s.clone(), time.clone())
    if answer.shape != x.shape:
        raise ValueError("bad")
    z_s.copy_(torch.where(column(s, x) > 0, answer, z_s))
    return z_s


def huber_with_hypot(delta, c):
    if c < 0:
        raise ValueError("bad")
    norm = torch.linalg.vector_norm(delta.reshape(delta.shape[0], -1), dim=-1)
    if c == 0:
        return norm
    return norm * (norm / (torch.hypot(norm, torch.full_like(norm, c)) + c))


def huber_in_float64(delta, c):
    if c < 0:
        raise ValueError("bad")
    wide = delta.double().reshape(len(delta), -1)
    if c == 0:
        return wide.norm(dim=1).to(delta.dtype)
    return ((wide**2).sum(1) / (((wide**2).sum(1) + c**2).sqrt() + c)).to(delta.dtype)


def huber_by_samples(delta, c):
    if c < 0:
        raise ValueError("bad")
    norms = torch.stack([torch.linalg.vector_norm(d) for d in delta])
    return norms if not c else c * torch.expm1(0.5 * torch.log1p((norms / c) ** 2))


def huber_with_einops(delta, c):
    if not c >= 0:
        raise ValueError("bad")
    u = reduce(delta.square(), "b ... -> b", "sum") if delta.ndim > 1 else delta.square()
    safe = torch.where(u == 0, 1.0, u)
    return torch.where(u == 0, 0.0, safe / ((safe + c**2).sqrt() + c))


def loss_by_state(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
    state = torch.get_rng_state()
    target = consistency_target(f, x, eps, t, s, schedule, teacher, solver)
    torch.set_rng_state(state)
    answer = f(mix(x, eps, t, schedule), t.to(x.dtype))
    return pseudo_huber(answer - target, c)


def loss_with_fork(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
    z, time = mix(x, eps, t, schedule), t.to(x)
    with torch.random.fork_rng():
        answer = f(z, time)
    if answer.shape != x.shape:
        raise ValueError("bad")
    with torch.no_grad():
        target = target_in_numpy_style(f, x, eps, t, s, schedule, teacher, solver)
    return huber_with_hypot(answer - target.detach(), c)


def loss_target_forked(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
    if c < 0:
        raise ValueError("bad")
    with torch.random.fork_rng(devices=[]):
        target = consistency_target(f, x, eps, t, s, schedule, teacher=teacher, solver=solver)
    return pseudo_huber(target - f(mix(x, eps, t, schedule), t.to(x.dtype)), c)


def mapping_in_float64(t, a, q=2.0, k=8.0, b=1.0):
    if not (a >= 1 and q > 1 and k >= 0 and b >= 0):
        raise ValueError("bad")
    u = t.double()
    return torch.clamp_min(u - u * (1 + k / (1 + torch.exp(b * u))) / q**a, 0).to(t.dtype)


def mapping_by_where(t, a, q=2.0, k=8.0, b=1.0):
    if min(k, b) < 0 or a < 1 or q <= 1:
        raise ValueError("bad")
    share = 1 - (1 + k * torch.sigmoid(-b * t)) / math.exp(a * math.log(q))
    return torch.where(share > 0, t * share, torch.zeros_like(t))


def mapping_by_relu(t, a, q=2.0, k=8.0, b=1.0):
    if a < 1 or q <= 1 or k < 0 or b < 0:
        raise ValueError("bad")
    return t * torch.relu(1 - (1 + k - k * torch.sigmoid(b * t)) / pow(q, a))


def mapping_by_maximum(t, a, q=2.0, k=8.0, b=1.0):
    if a < 1 or q <= 1 or k < 0 or b < 0:
        raise ValueError("bad")
    n = torch.add(1, torch.sigmoid(-t * b), alpha=k)
    return torch.maximum(t - t * n * q**-a, torch.zeros(()).to(t))


def stage_by_ceiling(step, steps_per_stage):
    if step < 1 or steps_per_stage < 1:
        raise ValueError("bad")
    return -(-step // steps_per_stage)


def stage_by_counting(step, steps_per_stage):
    if step < 1 or steps_per_stage <= 0:
        raise ValueError("bad")
    stage = 1
    while step > stage * steps_per_stage:
        stage += 1
    return stage


def weight_by_branches(kind, t, s, data_std=0.5):
    if t.shape != s.shape or not torch.logical_and(s >= 0, s < t).all() or data_std <= 0:
        raise ValueError("bad")
    if kind == "gap":
        return (t - s).reciprocal()
    if kind == "snr":
        return t**-2 + data_std**-2
    raise ValueError("bad")


def ect_own(f, x, eps, t, a, q=2.0, k=8.0, b=1.0, c=0.0, weighting="gap", data_std=0.5):
    if t.shape != (len(x),) or not (t > 0).all() or weighting not in ("gap", "snr"):
        raise ValueError("bad")
    t = t.to(x.dtype)
    s = mapping_by_where(t, a, q, k, b)
    weight = weight_by_branches(weighting, t, s, data_std)
    return weight * loss_by_state(f, x, eps, t, s, edm, c)


def times_in_place(b, mean=-1.1, std=2.0, generator=None):
    if b < 1 or std < 0:
        raise ValueError("bad")
    return torch.empty(b).normal_(generator=generator).mul_(std).add_(mean).exp_()


def times_log_normal(b, mean=-1.1, std=2.0, generator=None):
    if b < 1 or std < 0:
        raise ValueError("bad")
    if std == 0:
        return torch.full((b,), math.exp(mean))
    return torch.empty(b, dtype=torch.float64).log_normal_(mean, std, generator=generator)


def times_by_quantiles(b, mean=-1.1, std=2.0, generator=None):
    if b < 1 or std < 0:
        raise ValueError("bad")
    u = torch.rand(b, generator=generator, dtype=torch.float64).clamp(1e-16, 1 - 1e-16)
    return torch.exp(mean + std * torch.special.ndtri(u))


def ct_own(step, total, s0=2, s1=150, mu0=0.9):
    if not (0 <= step <= total and total > 0 and 1 <= s0 <= s1 and 0 < mu0 <= 1):
        raise ValueError("bad")
    n = max(2, math.ceil(math.sqrt(s0**2 + (step / total) * ((s1 + 1) ** 2 - s0**2)) - 1) + 1)
    return n, math.exp(s0 * math.log(mu0) / (n - 1))


def ict_own(step, total, s0=10, s1=1280):
    if step < 0 or step > total or total < 1 or s0 < 1 or s1 < s0:
        raise ValueError("bad")
    stage = max(1, int(total // (math.log2(s1 // s0) + 1)))
    n = s0
    for _ in range(step // stage):
        n = min(2 * n, s1)
    return n + 1


def pmf_by_erf(sigmas, mean=-1.1, std=2.0):
    gaps = sigmas.diff()
    if len(sigmas) < 2 or not (sigmas > 0).all() or std <= 0 or not ((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError("bad")
    cdf = torch.erf((sigmas.double().log() - mean) / (std * 2**0.5))
    mass = (cdf[1:] - cdf[:-1]).abs()
    return (mass / mass.sum()).to(sigmas.dtype)


def pmf_by_sorting(sigmas, mean=-1.1, std=2.0):
    falls = sigmas[0] > sigmas[-1]
    return pmf_by_erf(sigmas.flip(0), mean, std).flip(0) if falls else pmf_by_erf(sigmas, mean, std)


def interval_by_cdf(sigmas, b, pmf=None, generator=None):
    n = len(sigmas) - 1
    pmf = torch.full((max(n, 0),), 1.0).double() if pmf is None else pmf.double()
    if (
        n < 1
        or b < 1
        or not (sigmas.diff() < 0).all()
        or not (sigmas >= 0).all()
        or len(pmf) != n
        or not (pmf >= 0).all()
    ):
        raise ValueError("bad")
    u = torch.rand(b, generator=generator, dtype=torch.float64) * pmf.sum()
    i = torch.searchsorted(pmf.cumsum(0), u, right=True).clamp(max=n - 1)
    return sigmas[i], sigmas[i + 1]


def interval_by_randint(sigmas, b, pmf=None, generator=None):
    if pmf is not None:
        return draw_interval(sigmas, b, pmf, generator)
    interval_at(sigmas, b, None, 0)
    i = torch.randint(0, len(sigmas) - 1, (b,), generator=generator)
    return sigmas[:-1][i], sigmas[1:][i]


def scm_own(net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1):
    """The network in front is asked first, and the tangent is found in a fork."""
    if c <= 0 or x.shape != eps.shape:
        raise ValueError("bad")
    z = mix(x, eps, t, trigflow(data_std))
    time = t.to(x.dtype)
    with torch.random.fork_rng():
        found = net(z / data_std, time)
    if found.shape != z.shape:
        raise ValueError("bad")
    slope = column(time.cos(), x) * data_std * eps - column(time.sin(), x) * x
    if teacher is not None:
        answer = teacher(z / data_std, time)
        if answer.shape != z.shape:
            raise ValueError("bad")
        slope = (data_std * answer).detach()
    g = scm_tangent(net, z, t, slope, data_std, warmup)
    g = g / (column(torch.linalg.vector_norm(g.flatten(1), dim=1), g) + c)
    return (found - (found + g).detach()).pow(2).flatten(1).mean(1)


def tangent_by_differences(net, z, t, slope, data_std=0.5, warmup=1.0):
    """jvp by two backward passes, and one buffer of t."""
    scm_tangent(net, z, t, slope, data_std, warmup)  # refuses what ought to be refused
    t = t.to(z.dtype).clone()
    c, s = column(t.cos(), z), column(t.sin(), z)
    F, dF = torch.autograd.functional.jvp(net, (z / data_std, t), (slope / data_std, torch.ones_like(t)))
    return (c * (-c * (data_std * F - slope) - warmup * s * (z + data_std * dF))).detach()


def slerp_in_float64(a, b, weight):
    if a.shape != b.shape or weight.shape != a.shape[:1] or not ((weight >= 0) & (weight <= 1)).all():
        raise ValueError("bad")
    u, v, w = a.double().flatten(1), b.double().flatten(1), weight.double()[:, None]
    p, q = torch.nn.functional.normalize(u, dim=1), torch.nn.functional.normalize(v, dim=1)
    angle = 2 * torch.atan2((p - q).norm(dim=1), (p + q).norm(dim=1))[:, None]
    if not (angle < math.pi - 1e-4).all():
        raise ValueError("bad")
    same = angle < 1e-8
    sine = torch.where(same, 1.0, angle.sin())
    mixed = (torch.sin((1 - w) * angle) * u + torch.sin(w * angle) * v) / sine
    return torch.where(same, u, mixed).reshape(a.shape).to(a.dtype)


def slerp_or_a(a, b, weight):
    """By sines, and a where b is a."""
    found = slerp_along("all")(a, b, weight)
    return torch.where(column((a - b).flatten(1).norm(dim=1) < 1e-6, a), a, torch.nan_to_num(found))


def slerp_by_samples(a, b, weight):
    if a.shape != b.shape or len(weight) != len(a):
        raise ValueError("bad")
    return torch.cat([editing.slerp(a[i : i + 1], b[i : i + 1], weight[i : i + 1]) for i in range(len(a))])


def edit_by_loop(f, y, operator, inverse, times, schedule, noise=None, generator=None):
    """z is moved on in place, and one buffer of t is handed to every call."""
    guess = inverse(y)
    if operator(guess).shape != y.shape or not torch.allclose(operator(guess), y, atol=1e-5):
        raise ValueError("bad")
    times = times.to(y.dtype)
    if len(times) < 2 or not (times.diff() < 0).all() or not (times >= 0).all():
        raise ValueError("bad")
    if noise is None:
        noise = [randn_like(guess, generator) for _ in range(len(times) - 1)]
    if len(noise) != len(times) - 1 or any(n.shape != guess.shape for n in noise):
        raise ValueError("bad")
    alpha, sigma = schedule(times)
    z, t = alpha[0] * guess + sigma[0] * noise[0], torch.empty(len(guess), dtype=y.dtype)
    for i in range(len(times) - 1):
        t.fill_(times[i])
        x = f(z, t)
        x = x + inverse(y) - inverse(operator(x))
        if i == len(times) - 2:
            return x
        share = alpha[i + 1] / alpha[-1]
        z.copy_(share * x + (sigma[i + 1] ** 2 - (share * sigma[-1]) ** 2).sqrt() * noise[i + 1])


def cloned(z, t):
    """z and t as a network of one's own might get them."""
    return z.clone(), t.clone()


def whole_or(bad, value):
    """value, which is computed unless it is bad."""
    if bad:
        raise ValueError("bad")
    return value()


RIGHT = {
    "boundary": (checks.check_boundary, boundary_with()),
    "boundary in float64": (checks.check_boundary, boundary_in_float64),
    "boundary with the end by torch.where": (checks.check_boundary, boundary_by_where),
    "boundary sample by sample": (checks.check_boundary, boundary_of_samples),
    "boundary as a list": (checks.check_boundary, boundary_list),
    "boundary refused by hand": (
        checks.check_boundary, boundary_if(lambda t, sd, t_min: not (sd > 0 and t_min >= 0 and (t >= t_min).all()))
    ),
    "heun": (checks.check_ode_step, heun_with()),
    "steps by slopes, one buffer of t": (checks.check_ode_step, step_by_slopes),
    "step refused by hand": (
        checks.check_ode_step,
        step_if(lambda alpha, sigma, solver: not (sigma > 0).all() or (solver == "heun" and not (alpha > 0).all())),
    ),
    "step with a clone of t": (checks.check_ode_step, asks(ode_step, lambda z, t: (z.clone(), t.clone()))),
    "target": (checks.check_consistency_target, target_with()),
    "target refused by hand": (checks.check_consistency_target, target_if(lambda x, eps, t, s: ((0 <= s) & (s < t)).all())),
    "target in numpy's style": (checks.check_consistency_target, target_in_numpy_style),
    "target detached": (checks.check_consistency_target, target_detached),
    "target in buffers": (checks.check_consistency_target, target_buffered),
    "huber": (checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, c)),
    "huber with hypot": (checks.check_pseudo_huber, huber_with_hypot),
    "huber in float64": (checks.check_pseudo_huber, huber_in_float64),
    "huber sample by sample": (checks.check_pseudo_huber, huber_by_samples),
    "huber with einops": (checks.check_pseudo_huber, huber_with_einops),
    "loss": (checks.check_consistency_loss, loss_with(target=target_with())),
    "loss by its parts": (checks.check_consistency_loss, plain_loss()),
    "loss with the state put back": (checks.check_consistency_loss, loss_by_state),
    "loss with its own target": (checks.check_consistency_loss, loss_with_fork),
    "loss with a forked target": (checks.check_consistency_loss, loss_target_forked),
    "mapping": (checks.check_ect_mapping, mapping_with()),
    "mapping by its share": (checks.check_ect_mapping, mapping_of()),
    "mapping in float64": (checks.check_ect_mapping, mapping_in_float64),
    "mapping by torch.where": (checks.check_ect_mapping, mapping_by_where),
    "mapping by relu": (checks.check_ect_mapping, mapping_by_relu),
    "mapping by maximum": (checks.check_ect_mapping, mapping_by_maximum),
    "stage by a ceiling": (checks.check_ect_stage, stage_by_ceiling),
    "stage by counting": (checks.check_ect_stage, stage_by_counting),
    "stage by divmod": (
        checks.check_ect_stage, lambda step, d: whole_or(step < 1 or d < 1, lambda: divmod(step - 1, d)[0] + 1)
    ),
    "stage by math.ceil": (checks.check_ect_stage, lambda step, d: whole_or(step < 1 or d < 1, lambda: math.ceil(step / d))),
    "weight in float64": (
        checks.check_ect_weight, lambda kind, t, s, *sd: weight_by_branches(kind, t.double(), s.double(), *sd).to(t.dtype)
    ),
    "weight of clones": (checks.check_ect_weight, lambda kind, t, s, *sd: ect_weight(kind, t.clone(), s.clone(), *sd)),
    "weight by branches": (checks.check_ect_weight, weight_by_branches),
    "weight by parts": (checks.check_ect_weight, weight_with()),
    "ect": (checks.check_ect_loss, ect_with()),
    "ect with clones": (checks.check_ect_loss, asks(ect_loss, cloned)),
    "ect with the state put back": (checks.check_ect_loss, ect_with(loss=loss_by_state)),
    "ect with a seed drawn for each call": (checks.check_ect_loss, ect_with(loss=seeded_loss(lambda: int(torch.randint(2**31, ()))))),
    "ect by hand": (checks.check_ect_loss, own_ect()),
    "ct by parts": (checks.check_ct_steps, ct_with()),
    "times by parts": (checks.check_lognormal_times, times_of(lambda b, g: torch.randn(b, generator=g, dtype=torch.float64))),
    "scm loss that draws beside the network": (
        checks.check_scm_loss, lambda net, *args, **options: scm_loss(lambda z, t: (net(z, t), torch.rand(1))[0], *args, **options),
    ),
    "ect of one's own parts": (checks.check_ect_loss, ect_own),
    "times in float64": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: whole_or(
            b < 1 or std < 0, lambda: torch.exp(mean + std * torch.randn(b, generator=generator, dtype=torch.float64))
        ),
    ),
    "times in place": (checks.check_lognormal_times, times_in_place),
    "times by log_normal_": (checks.check_lognormal_times, times_log_normal),
    "times by quantiles": (checks.check_lognormal_times, times_by_quantiles),
    "ct": (checks.check_ct_steps, ct_own),
    "ct as a list": (checks.check_ct_steps, then(ct_own, list)),
    "ct in floats": (checks.check_ct_steps, lambda step, total, *more: ct_own(float(step), float(total), *more)),
    "ict": (checks.check_ict_steps, ict_own),
    "ict by shifting bits": (checks.check_ict_steps, ict_with(lambda i, s0: s0 << i)),
    "ict by powers": (checks.check_ict_steps, ict_with(lambda i, s0: round(s0 * math.exp(i * math.log(2))))),
    "ict by parts": (checks.check_ict_steps, ict_with(lambda i, s0: s0 * 2**i)),
    "pmf": (checks.check_ict_time_pmf, pmf_with()),
    "pmf by a distribution": (
        checks.check_ict_time_pmf, pmf_with(cdf=lambda u: torch.distributions.Normal(0.0, 1.0).cdf(u.double()).to(u.dtype))
    ),
    "pmf by erf": (checks.check_ict_time_pmf, pmf_by_erf),
    "pmf on a rising grid": (checks.check_ict_time_pmf, pmf_by_sorting),
    "interval": (checks.check_draw_interval, interval_with(high=-1)),
    "interval from a list": (
        checks.check_draw_interval, then(draw_interval, lambda both: [c.clone() for c in both])
    ),
    "interval by the cdf": (checks.check_draw_interval, interval_by_cdf),
    "interval by randint": (checks.check_draw_interval, interval_by_randint),
    "ict c by size": (checks.check_ict_c, lambda x: 0.00054 * (x.numel() // len(x)) ** 0.5),
    "ict c of a flat sample": (checks.check_ict_c, lambda x: 0.00054 * math.sqrt(len(x[0].reshape(-1)))),
    "ict c as a tensor": (checks.check_ict_c, lambda x: 0.00054 * torch.tensor(float(x[0].numel()), dtype=torch.float64).sqrt()),
    "ict c by shape": (checks.check_ict_c, lambda x: 0.00054 * math.prod(x.shape[1:]) ** 0.5),
    "trigflow": (checks.check_trigflow, lambda sd: then(trigflow(sd), lambda both: tuple(c.clone() for c in both))),
    "trigflow with cos clamped": (
        checks.check_trigflow,
        lambda sd: (lambda known: lambda t: (t.cos() + (t.cos().clamp(min=0) - t.cos()).detach(), known(t)[1]))(trigflow(sd)),
    ),
    "tangent": (checks.check_scm_tangent, tangent_with()),
    "tangent with clones": (checks.check_scm_tangent, asks(scm_tangent, cloned)),
    "tangent in float64, asked in z's dtype": (
        checks.check_scm_tangent,
        lambda net, z, t, slope, *more, **options: scm_tangent(
            lambda u, v: net(u.to(z.dtype), v.to(z.dtype)), z.double(), t.double(), slope.double(), *more, **options
        ).to(z.dtype),
    ),
    "tangent by backward passes": (checks.check_scm_tangent, tangent_by_differences),
    "scm loss": (checks.check_scm_loss, scm_with()),
    "scm loss with clones": (checks.check_scm_loss, asks(scm_loss, cloned)),
    "scm loss in a contiguous batch": (
        checks.check_scm_loss, lambda net, x, eps, t, *more, **options: scm_loss(net, x.contiguous(), eps.contiguous(), t.clone(), *more, **options)
    ),
    "scm loss with F first": (checks.check_scm_loss, scm_own),
    "slerp": (edit_checks.check_slerp, slerp_with()),
    "slerp along all axes": (edit_checks.check_slerp, slerp_or_a),
    "slerp in float64": (edit_checks.check_slerp, slerp_in_float64),
    "slerp sample by sample": (edit_checks.check_slerp, slerp_by_samples),
    "edit": (edit_checks.check_edit, edit_with()),
    "edit with clones": (edit_checks.check_edit, asks(editing.edit, cloned)),
    "edit in place, one buffer of t": (edit_checks.check_edit, edit_by_loop),
    "edit refused by hand": (edit_checks.check_edit, edit_if(lambda y, again: torch.allclose(y, again, atol=1e-5))),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answer_passes(name, unchecked_shapes):
    check, right = RIGHT[name]
    check(right)


# numbers of the authors' code

X, EPS = (golden(name).reshape(4, 1, 2, 2) for name in ("x", "eps"))
GAUSSIAN = Gaussian(exact(0.1, 0.1, 0.1, 0.1), 0.25 * torch.eye(4).double())
GRID = karras_sigmas(18, dtype=torch.float64)
INDEX = torch.tensor(GOLDEN["cd"]["index"])


@pytest.mark.parametrize(
    "run", GOLDEN["ect"]["runs"], ids=lambda r: f"q{r['q']} a{r['a']} c{r['c']} {r['weighting']}"
)
def test_golden_ect(run):
    t = golden("ect", "t")
    s = ect_mapping(t, run["a"], run["q"])
    torch.testing.assert_close(s, exact(*run["s"]), atol=6e-11, rtol=0)
    f = GAUSSIAN.denoiser(edm)
    loss = ect_loss(f, X, EPS, t, run["a"], run["q"], c=run["c"], weighting=run["weighting"])
    torch.testing.assert_close(loss, exact(*run["loss"]), atol=6e-11, rtol=0)


def test_golden_mapping_and_grid():
    t = golden("mapping", "t")
    for a in (1, 2, 3, 4, 5, 8):
        ratio = ect_mapping(t, a) / t
        torch.testing.assert_close(ratio, golden("mapping", f"a={a}"), atol=6e-7, rtol=0)
    torch.testing.assert_close(GRID, golden("karras_18"), atol=6e-7, rtol=0)


def test_golden_teacher_steps():
    t, s = GRID[INDEX], GRID[INDEX + 1]
    z, denoiser = mix(X, EPS, t, edm), GAUSSIAN.denoiser(edm)
    found = {solver: ode_step(denoiser, z, t, s, edm, solver) for solver in ("euler", "heun")}
    found |= {"exact": GAUSSIAN.flow_map(z, t, s, edm), "ct": ode_step(lambda z, t: X, z, t, s, edm)}
    for name, landed in found.items():
        torch.testing.assert_close(landed[:, 0, 0, 0], golden("cd", name), atol=1e-9, rtol=0)


def test_golden_losses():
    def f(a):
        def function(z, t):
            c_skip, c_out, c_in = (column(c, z) for c in boundary(t))
            u = c_in * z
            return c_skip * z + c_out * (torch.tanh(a * u) + 0.001 * column(250 * t.log(), z) * u)

        return function

    t, s = GRID[INDEX], GRID[INDEX + 1]
    for name, teacher in (("cd_loss", GAUSSIAN.denoiser(edm)), ("ct_loss", None)):
        target = consistency_target(f(0.6), X, EPS, t, s, edm, teacher, "heun" if teacher else "euler")
        loss = (f(0.7)(mix(X, EPS, t, edm), t) - target).square().mean((1, 2, 3))
        torch.testing.assert_close(loss, golden("cd", name), atol=6e-11, rtol=0)


def test_golden_multistep():
    f = lambda z, t: GAUSSIAN.flow_map(z, t, 0 * t, edm)
    times = GRID[torch.tensor(GOLDEN["multistep"]["index"])]
    found = renoise(f, 80 * EPS, times, edm, noise=[torch.full_like(X, 0.5)])
    torch.testing.assert_close(found[:, 0, 0, 0], golden("multistep", "first_pixels"), atol=1e-8, rtol=0)


# what training converges to, exactly, for Gaussian data: f_a(z_t) = E[f_a(z_s) | z_t], and f is linear

ONE = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())


def one_step_std(earlier):
    """The standard deviation of f(z_80, 80), along t -> earlier(t) -> ... -> 0: the image of one sigma."""
    z, t = exact(math.hypot(80.0, 0.5))[:, None], exact(80.0)
    while t > 0:
        s = earlier(t)
        s = torch.where(s < 1e-7, 0.0, s)
        z, t = ode_step(ONE.denoiser(edm), z, t, s, edm), s
    return z.item()


def test_fixed_points_of_the_mapping(unchecked_shapes):  # thousands of steps
    constant = [0.0031, 0.4205, 0.4653, 0.4836, 0.4920, 0.4960, 0.4980, 0.4990]
    for j, expected in enumerate(constant):
        found = one_step_std(lambda t, j=j: ect_mapping(t, j, k=0.0) if j else 0 * t)
        assert found == pytest.approx(expected, abs=6e-5)
    for a, expected in enumerate([0.2985, 0.3390, 0.4308, 0.4683, 0.4847, 0.4925, 0.4963, 0.4982], start=1):
        assert one_step_std(lambda t, a=a: ect_mapping(t, a)) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    "n, solver, expected",
    [(2, "euler", 0.0051), (11, "euler", 0.3764), (21, "euler", 0.4338), (151, "euler", 0.4906),
     (1281, "euler", 0.4989), (11, "heun", 0.5873), (18, "heun", 0.5276), (40, "heun", 0.5049), (81, "heun", 0.5011)],
)  # fmt: skip
def test_fixed_points_of_grids(n, solver, expected):
    """The original grids end at 0.002, where f is the identity: the last interval ends there."""
    grid = karras_sigmas(n, dtype=torch.float64)
    z = exact(80.0)[:, None]
    for t, s in zip(grid, grid[1:]):
        z = ode_step(ONE.denoiser(edm), z, t[None], s[None], edm, solver)
    assert z.item() == pytest.approx(expected, abs=6e-5)


def test_a_perfect_function_wants_fresh_noise():
    """Closed form: with Euler a perfect consistency function makes samples too wide, with fresh noise it does not."""
    perfect = lambda z, t: ONE.flow_map(z, t, 0 * t, edm)
    times = exact(80.0, 0.821, 0.0)
    z = exact(math.sqrt(80.0**2))[:, None]  # maps are linear: the image of one sigma is one sigma
    assert ddim(perfect, z, times, edm).item() == pytest.approx(0.684451, abs=1e-4)
    scale, kept = (
        perfect(v[:, None], exact(t)).item() for v, t in ((exact(80.0), 80.0), (exact(1.0), 0.821))
    )
    assert math.hypot(kept * scale, kept * 0.821) == pytest.approx(0.5, abs=1e-5)


def test_the_mean_of_all_places_of_training_is_the_euler_step():
    nodes, weights = exact(-(3**0.5), 0.0, 3**0.5), exact(1, 4, 1) / 6  # exact up to fifth powers
    thing, z, t, s = Gaussian(exact(0.3), exact(0.25)[:, None]), exact(1.7)[:, None], exact(2.0), exact(1.2)
    mean, std = thing.denoiser(edm)(z, t), (0.25 * 4 / 4.25) ** 0.5
    data = (mean + std * nodes[:, None]).reshape(3, 1)
    places = consistency_target(lambda z, t: z, data, (z - data) / 2, t.expand(3), s.expand(3), edm)
    euler = ode_step(thing.denoiser(edm), z, t, s, edm)
    torch.testing.assert_close((weights[:, None] * places).sum(0, keepdim=True), euler)


@pytest.mark.parametrize("solver, order", [("euler", 2), ("heun", 3)])
def test_half_a_step_has_a_quarter_or_an_eighth_of_the_error(solver, order):
    thing = mixture(2, 3, 0)
    z, start = (
        1.5 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).double(),
        exact(1.0).expand(300),
    )
    errors = []
    for end in (0.98, 0.99):
        stop = exact(end).expand(300)
        gap = ode_step(thing.denoiser(edm), z, start, stop, edm, solver) - thing.flow_map(z, start, stop, edm)
        errors.append(gap.square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_who_knows_the_data_point_lands_on_it(solver):
    x, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    t, s = exact(0.9, 0.7, 0.5, 0.3), exact(0.5, 0.6, 0.0, 0.2)
    for schedule in (edm, rectified_flow, cosine):
        found = ode_step(lambda z, t: x, mix(x, eps, t, schedule), t, s, schedule, solver)
        torch.testing.assert_close(found, mix(x, eps, s, schedule))


def test_the_truth_is_a_zero_of_distillation_only():
    thing = ProductMixture(
        exact(0.3, 0.4, 0.3)[None], exact(-1.0, 0.0, 1.0)[None], exact(0.2, 0.2, 0.2)[None]
    )
    g = torch.Generator().manual_seed(0)
    x, eps = thing.sample(500, g), torch.randn(500, 1, generator=g, dtype=torch.float64)
    t, s = torch.full((500,), 1.0).double(), torch.full((500,), 0.9).double()
    f = lambda z, t: thing.flow_map(z, t, 0 * t, edm)
    exact_step = f(thing.flow_map(mix(x, eps, t, edm), t, s, edm), s)
    assert (exact_step - f(mix(x, eps, t, edm), t)).abs().max() < 1e-8
    heun = consistency_loss(f, x, eps, t, s, edm, teacher=thing.denoiser(edm), solver="heun").mean()
    euler = consistency_loss(f, x, eps, t, s, edm, teacher=thing.denoiser(edm)).mean()
    data = consistency_loss(f, x, eps, t, s, edm).mean()
    assert heun < euler / 3 < data / 10


# the continuous limit


def test_the_gradient_tends_to_the_tangent():
    """The gradient of |f(z_t) - sg f(z_s)|^2 / 2 dt tends to <grad f, df/dt>, with an error linear in dt."""
    torch.manual_seed(0)
    net = MLP(width=16, depth=2).double()
    f, teacher = as_denoiser(net, edm, 0.5), GAUSSIAN_2D.denoiser(edm)
    x, eps = torch.randn(2, 32, 2, dtype=torch.float64)
    t = torch.full((32,), 1.0).double()
    z = x + eps
    parameters = list(net.parameters())

    def gradient(loss):
        return torch.cat([p.flatten() for p in torch.autograd.grad(loss, parameters)])

    slope = (z - teacher(z, t)) / column(t, z)
    rate = torch.func.jvp(f, (z, t), (slope, torch.ones_like(t)))[1].detach()
    limit = gradient((f(z, t) * rate).sum())
    errors = []
    for dt in (1e-2, 1e-3, 1e-4):
        distance = consistency_loss(f, x, eps, t, t - dt, edm, teacher=teacher)
        found = gradient((distance**2).sum() / 2 / dt)
        errors.append(((found - limit).norm() / limit.norm()).item())
    assert errors[0] < 0.2 and all(8 < a / b < 12 for a, b in zip(errors, errors[1:])), errors


GAUSSIAN_2D = Gaussian(exact(0.1, -0.2), torch.diag(exact(0.25, 0.16)))


def test_the_value_of_scm_says_nothing():
    """|g|^2 = (|tangent| / (|tangent| + c))^2: a network ten times as far from the truth has the same loss."""
    x, eps = torch.randn(2, 64, 2, dtype=torch.float64)
    t = torch.full((64,), 0.8).double()
    values = [
        scm_loss(lambda z, t, k=k: k * torch.sin(3 * z), x, eps, t).mean().item()
        for k in (10.0, 100.0, 1000.0)
    ]
    assert values == sorted(values) and 0.45 < values[0] and values[2] <= 0.5  # |g| < 1, in two numbers


# behaviour


def test_one_network_on_every_schedule():
    """The same noises give the same samples after a change of variables: EDM, cosine, rectified flow, TrigFlow."""
    torch.manual_seed(0)
    net = MLP(width=16, depth=1).double()
    n = [torch.randn(8, 2, dtype=torch.float64) for _ in range(3)]
    reference = renoise(as_denoiser(net, edm, 0.5), 80 * n[0], exact(80.0, 3.0, 0.7, 0.0), edm, noise=n[1:])
    sigma = exact(80.0, 3.0, 0.7, 0.0)
    for schedule, times in (
        (cosine, 2 / math.pi * sigma.atan()),
        (rectified_flow, sigma / (1 + sigma)),
        (trigflow(0.5), (sigma / 0.5).atan()),
    ):
        start = schedule(times[:1])[0] * 80 * n[0]
        found = renoise(as_denoiser(net, schedule, 0.5), start, times, schedule, noise=n[1:])
        torch.testing.assert_close(found, reference, atol=1e-9, rtol=1e-9)


def test_no_mode_changes_the_function():
    net = MLP()
    f, z, t = as_denoiser(net, edm, 0.5), torch.randn(4, 2), torch.full((4,), 0.02)
    assert torch.equal(f(z, t), as_denoiser(net.eval(), edm, 0.5)(z, t))
    assert torch.equal(f(z, 0 * t), z)


def test_a_real_dropout_layer_and_the_global_state():
    """Masks agree inside a call and the global random state moves on by one pass, no more and no less."""
    net = MLP(dropout=0.5)
    f, x, eps, t = as_denoiser(net, edm, 0.5), *torch.randn(2, 16, 2), torch.full((16,), 2.0)
    torch.manual_seed(3)
    loss = consistency_loss(f, x, eps, t, t * (1 - 1e-6), edm)
    assert loss.max() < 1e-4, "with one mask, two near times give near answers"
    after = torch.rand(1)
    torch.manual_seed(3)
    f(x, t)
    assert torch.equal(after, torch.rand(1))


def test_low_precision():
    """In bfloat16 t and s are one number long before s = t: refused, not infinite."""
    x, eps, t = *torch.randn(2, 4, 3), torch.full((4,), 1.0)
    f = lambda z, t: 0.5 * z
    half = consistency_loss(f, x.bfloat16(), eps.bfloat16(), t, 0.5 * t, edm)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    t = t.bfloat16()
    with pytest.raises(ValueError, match="s is the cleaner time"):
        ect_loss(f, x.bfloat16(), eps.bfloat16(), t, 12)


def test_sum_over_the_batch_is_the_callers():
    x, eps, t = *torch.randn(2, 6, 3, dtype=torch.float64), exact(0.1, 0.5, 1.0, 2.0, 5.0, 80.0)
    f = lambda z, t: torch.tanh(z)
    whole = ect_loss(f, x, eps, t, 5)
    parts = torch.cat([ect_loss(f, *(a[i : i + 1] for a in (x, eps, t)), 5) for i in range(6)])
    torch.testing.assert_close(whole, parts)


def test_bad_input(unchecked_shapes):
    x, eps, t = torch.randn(4, 3), torch.randn(4, 3), torch.full((4,), 2.0)
    f = lambda z, t: z
    for call, sentence in (
        (lambda: consistency_loss(f, x, eps, t, t + 1, edm), "s is the cleaner time"),
        (lambda: consistency_loss(f, x, eps, 0 * t, 0 * t, edm), "need 0 <= s < t"),
        (lambda: consistency_loss(f, x, eps, t, t[:1], edm), "cleaner time"),
        (lambda: consistency_loss(f, x, eps[:1], t, t / 2, edm), "one shape"),
        (lambda: consistency_loss(f, x, eps, t, t / 2, edm, c=-1.0), "at least 0"),
        (lambda: consistency_loss(lambda z, t: z[:1], x, eps, t, t / 2, edm), "returned shape"),
        (lambda: consistency_loss(f, x, eps, t, t / 2, edm, teacher=f, solver="rk4"), '"euler" or "heun"'),
        (lambda: ode_step(f, x, t / 2, t / 4, rectified_flow, "heun"), "alpha = 0"),
        (lambda: ect_mapping(t, 0), "counted from 1"),
        (lambda: ect_mapping(t, 1, q=1.0), "q must be above 1"),
        (lambda: ect_mapping(t, 1, b=-1.0), "b must be at least 0"),
        (lambda: ect_loss(f, x, eps, 0 * t, 1), "s is the cleaner time"),
        (lambda: ect_loss(f, x, eps, t, 1, weighting="snr+1"), '"gap" or "snr"'),
        (lambda: boundary(torch.zeros(1)), "where the boundary is"),
        (lambda: consistency.ict_time_pmf(torch.ones(3)), "sigmas must rise"),
        (lambda: draw_interval(torch.tensor([1.0, 2.0]), 3), "sigmas must fall"),
        (lambda: ict_steps(-1, 10), "step must be from 0 to 10"),
        (lambda: ect_stage(0, 10), "step must be at least 1"),
        (lambda: editing.slerp(x, -x, 0.5 * torch.ones(4)), "opposite"),
        (lambda: editing.edit(f, x, lambda x: x, lambda y: 2 * y, exact(80.0, 0.0), edm), "must be y"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


# training: six modes in the plane, whose flow map is known

ANGLE = 0.5
SIX = ProductMixture(
    torch.tensor([[0.3, 0.4, 0.3], [0.5, 0.5, 0.0]]),
    torch.tensor([[-0.85, 0.0, 0.85], [-0.5, 0.5, 0.0]]),
    torch.full((2, 3), 0.1),
    torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]]),
)


def tune(seed, steps):
    """A diffusion model of the six modes, then ECT in eight stages: both as denoisers."""
    torch.manual_seed(seed)
    data = SIX.sample(20_000, torch.Generator().manual_seed(seed))
    net = MLP()

    def diffusion(net, x, step, generator):
        t = lognormal_times(len(x), generator=generator)
        x_hat = as_denoiser(net, edm, 0.5)(mix(x, randn_like(x, generator), t, edm), t)
        return ect_weight("snr", t, 0 * t) * (x_hat - x).square().sum(1)

    def tuning(net, x, step, generator):
        t = lognormal_times(len(x), generator=generator)
        stage = ect_stage(step, steps // 8)
        return ect_loss(as_denoiser(net, edm, 0.5), x, randn_like(x, generator), t, stage)

    teacher, student = MLP(), MLP()
    for _ in train(net, diffusion, (data,), steps, batch=256, lr=2e-3, ema=teacher):
        pass
    net.load_state_dict(teacher.state_dict())
    student.load_state_dict(teacher.state_dict())
    for _ in train(net, tuning, (data,), steps, batch=256, lr=2e-3, ema=student):
        pass
    return as_denoiser(teacher, edm, 0.5), as_denoiser(student, edm, 0.5)


@torch.no_grad()
def quality(f, n=4000):
    """Flow-map error per coordinate, and sliced W1, of one-step samples."""
    g = torch.Generator().manual_seed(99)
    z, t = 80 * torch.randn(n, 2, generator=g, dtype=torch.float64), torch.full((n,), 80.0).double()
    x = f(z.float(), t.float()).double()
    truth = SIX.flow_map(z, t, 0 * t, edm)
    return flow_map_error(x, truth)[0], sliced_wasserstein(x.float(), SIX.sample(n, g), p=1)[0]


@pytest.mark.slow
def test_the_claim():
    """After 4000 updates of each, medians over three seeds: about a minute."""
    results = torch.tensor([quality(tune(seed, 4000)[1]) for seed in range(3)])
    error, distance = results.median(0).values.tolist()
    assert error * 2**0.5 <= 0.18 and distance <= 0.05, results  # the norm over both coordinates


def test_tuning_brings_one_step_closer():
    teacher, student = tune(0, 240)
    assert quality(student)[0] < 0.6 * quality(teacher)[0]


def test_curricula_at_their_ends():
    """The original takes at least one interval, and computes powers in floating point."""
    assert consistency.ct_steps(0, 10, s0=1) == (2, 0.9)
    assert [consistency.ct_steps(k, 800_000)[0] for k in (0, 1, 1000, 400_000)] == [2, 3, 6, 107]
    t = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    torch.testing.assert_close(ect_mapping(t, 8, q=256), t * (1 - (1 + 8 * torch.sigmoid(-t)) / 256.0**8))
    assert torch.equal(ect_mapping(t, 2000), t)  # the gap is below what a number can hold


def test_dropout_is_shared_by_the_tangent_and_the_network():
    masks = []

    def net(z, t):
        mask = torch.dropout(torch.ones_like(z), 0.5, True)
        masks.append(mask.clone())
        return z * mask

    x, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    consistency.scm_loss(net, x, eps, torch.tensor([0.2, 0.5, 0.8, 1.2]))
    assert len(masks) == 2 and torch.equal(masks[0], masks[1]) and 0 < masks[0].mean() < 2


def test_the_tangent_goes_through_attention_written_as_matrix_products():
    """And not through torch's fused attention, unless it is told to be that: pytorch#128971."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def net(z, t):
        q = z[:, None] * t[:, None, None]
        return torch.nn.functional.scaled_dot_product_attention(q, q, q)[:, 0]

    x, eps = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.5, 0.8, 1.2])
    wrapped = lambda z, t: net(z, t[:, None].expand(-1, 3)[:, :, None].mean((1, 2)))
    with sdpa_kernel(SDPBackend.MATH):
        assert consistency.scm_loss(wrapped, x, eps, t).isfinite().all()
