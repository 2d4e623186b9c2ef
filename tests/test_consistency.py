"""Consistency models: the checks on our code, on every mistake of the literature, golden numbers, exact limits.

The numbers in brackets are those of the list of mistakes that people made. Not planted: 17 (the target from an
average of old weights, or the average's direction swapped) and 35 (samples from the raw weights, or in train
mode) are choices of the training loop: lesson 05 shows the first by training, test_train holds the average to a
reference, and `boundary` and `as_denoiser` have no mode. 3 and 36 are mistakes of the parameterization and are
planted in its function, 29 to 33 in the sampler's.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from minidistill import consistency, editing
from minidistill.checks import column, exact
from minidistill.checks import consistency as checks
from minidistill.checks import editing as edit_checks
from minidistill.checks import parameterization as parameterization_checks
from minidistill.checks import samplers as sampler_checks
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


def heun_with(at=lambda z, z_s: z_s, when=lambda t, s: s, slopes=lambda a, b: (a + b) / 2):
    """Heun's step, with one thing changed."""

    def wrong(denoiser, z, t, s, schedule, solver="euler"):
        ode_step(lambda z, t: z, z, t, s, schedule, solver)  # refuses what ought to be refused
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, z) for c in schedule(u)] for u in (t, s))
        first = (z - alpha_t * denoiser(z, t)) / sigma_t
        keep = alpha_s / alpha_t
        euler = keep * (z - sigma_t * first) + sigma_s * first
        if solver == "euler":
            return ode_step(lambda z, t: (z - sigma_t * first) / alpha_t, z, t, s, schedule)
        inside = sigma_s > 0
        point, time = at(z, euler), when(t, torch.where(inside.flatten(), s, t))
        alpha, sigma = (column(c, z) for c in schedule(time))
        second = (point - alpha * denoiser(point, time)) / sigma
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
        consistency_target(
            lambda z, t: z, x, eps, t, s, schedule, teacher, solver
        )  # refuses what ought to be
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


def loss_with(
    target=consistency_target, distance=pseudo_huber, detach=lambda found: found, mask="same", swap=False
):
    """The loss, with one thing changed."""

    def wrong(f, x, eps, t, s, schedule, c=0.0, teacher=None, solver="euler"):
        consistency_loss(lambda z, t: z, x, eps, t, s, schedule, c)  # refuses what ought to be refused
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
        return weight(weighting, t, s, data_std) * loss(f, x, eps, t, s, edm, c)

    return wrong


def pmf_with(cdf=torch.special.ndtr, log=torch.log, normalise=True):
    def wrong(sigmas, mean=-1.1, std=2.0):
        consistency.ict_time_pmf(sigmas, mean, std)  # refuses what ought to be refused
        mass = cdf((log(sigmas) - mean) / std).diff().abs()
        return mass / mass.sum() if normalise else 2 * mass

    return wrong


def interval_with(low=0, high=0, reverse=False):
    def wrong(sigmas, b, pmf=None, generator=None):
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
        c, s = column(t.cos(), z), column(t.sin(), z)
        F, dF = torch.func.jvp(net, (z / data_std, t), (c * s * slope / data_std, t.cos() * t.sin()))
        first = sign[0] * c**2 * (data_std * F - slope)
        second = sign[1] * (c * s * z + (data_std * dF if rate else 0))
        if not cos:
            first, second = first / c, second / c
        first = warmup * first if warm_both or warm_first else first
        return (first + (second if warm_first else warmup * second)).detach()

    return wrong


def scm_with(norm=lambda g: g.flatten(1).norm(dim=1, keepdim=True), noise_std=None, sign=1):
    def wrong(net, x, eps, t, data_std=0.5, teacher=None, warmup=1.0, c=0.1):
        sd = noise_std or data_std
        cos, sin = column(t.cos(), x), column(t.sin(), x)
        z = cos * x + sin * sd * eps
        slope = data_std * teacher(z / data_std, t) if teacher else sd * cos * eps - sin * x
        g = scm_tangent(net, z, t, slope.detach(), data_std, warmup)
        g = sign * g / (norm(g) + c)
        found = net(z / data_std, t)
        return (found - found.detach() - g).square().mean(1)

    return wrong


def slerp_with(swap=False, over_batch=False, straight=False):
    def wrong(a, b, weight):
        editing.slerp(a, b, weight)  # refuses what ought to be refused
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


def edit_with(start=True, last=True, inverted=False, after_noise=False, scale=True):
    def wrong(f, y, operator, inverse, times, schedule, noise=None, generator=None):
        editing.edit(lambda z, t: z, y, operator, inverse, times, schedule, noise)  # refuses what ought to be
        guess = inverse(y)
        noise = noise or [randn_like(guess, generator) for _ in times[1:]]
        at = lambda i: times[i].expand(len(guess))
        agree = lambda x: inverse(operator(x)) + guess - x if inverted else x + inverse(y - operator(x))
        alpha, sigma = schedule(times)
        z = alpha[0] * (guess if start else 0 * guess) + (sigma[0] if scale else 1.0) * noise[0]
        x = f(z, at(0))
        for i in range(1, len(times) - 1):
            x = x if after_noise else agree(x)
            keep = alpha[i] / alpha[-1]
            z = keep * x + (sigma[i] ** 2 - (keep * sigma[-1]) ** 2).sqrt() * noise[i]
            x = f(agree(z) if after_noise else z, at(i))
        return agree(x) if last else x

    return wrong


def as_denoiser_with(scaled=True, angle=True):
    def wrong(net, schedule, data_std=1.0, **conditioning):
        as_denoiser(net, schedule, data_std)  # refuses what ought to be refused

        def denoiser(z, t):
            alpha, sigma = (column(c, z) for c in schedule(t))
            r = torch.hypot(alpha * data_std, sigma)
            phi = torch.atan2(sigma, alpha * data_std).flatten() if angle else t
            tangent = net(z / r if scaled else z, phi, **conditioning)
            return data_std * (alpha * data_std / r * (z / r) - sigma / r * tangent)

        return denoiser

    return wrong


def renoise_with(
    lift=lambda s, e: (s**2 - e**2).clamp(min=0).sqrt(), same=False, last=False, euler=False, scale=True
):
    def wrong(f, z, times, schedule, noise=None, generator=None, trajectory=False):
        renoise(lambda z, t: z, z, times, schedule, noise, generator, trajectory)  # refuses what ought to be
        first, states = z, [z]
        for i, (t, s) in enumerate(zip(times.to(z), times.to(z)[1:])):
            x = f(z, t.expand(len(z)))
            if last and i == len(times) - 2:
                x = x + schedule(t)[1] * randn_like(z, generator)
            elif i < len(times) - 2:
                (a_s, s_s), (a_e, s_e), (a_t, s_t) = (schedule(u) for u in (s, times.to(z)[-1], t))
                keep = a_s / a_e
                fresh = (
                    first
                    if same
                    else noise[min(i, len(noise) - 1)].to(z)
                    if noise
                    else randn_like(z, generator)
                )
                if euler:
                    fresh = (z - a_t * x) / s_t
                x = keep * x + (lift(s_s, keep * s_e) if scale else 1.0) * fresh
            z = x
            states.append(z)
        return torch.stack(states) if trajectory else z

    return wrong


MISTAKES = {
    "1: c_out without data_std": (checks.check_boundary, boundary_with(out=lambda t, u, r, sd: u / r)),
    "2: c_in without the root": (checks.check_boundary, boundary_with(c_in=lambda t, u, r, sd: 1 / r**2)),
    "3: c_in not used": (parameterization_checks.check_as_denoiser, as_denoiser_with(scaled=False)),
    "4: the denominator of c_out shifted": (
        checks.check_boundary,
        boundary_with(out=lambda t, u, r, sd: u * sd / (u**2 + sd**2).sqrt()),
    ),
    "4: c_in shifted": (checks.check_boundary, boundary_with(c_in=lambda t, u, r, sd: (u**2 + sd**2) ** -0.5)),
    "5: boundary at 0 while the sampler stops at t_min": (
        checks.check_boundary,
        boundary_with(shift=lambda t, t_min: t),
    ),
    "c_skip that is 1 for some data_std only": (
        checks.check_boundary,
        lambda t, sd=0.5, t_min=0.002: (sd**2 / ((t - t_min) ** 2 + sd**2), *boundary(t, sd, t_min)[1:]),
    ),
    "t below t_min taken for t_min": (
        checks.check_boundary, lambda t, sd=0.5, t_min=0.002: boundary(t.clamp(min=max(t_min, 0)), sd, t_min)
    ),
    "6: no clamp": (checks.check_ect_mapping, mapping_with(clamp=False)),
    "7: at s = 0 the target is 0": (
        checks.check_consistency_target, target_with(clean=lambda z_s: 0 * z_s)
    ),
    "7: at s = 0 the target is f's answer": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: f(z_s, s))
    ),
    "7: at s = 0 NaN becomes 0": (
        checks.check_consistency_target, target_with(ask=lambda f, z_s, s, noisy: f(z_s, s).nan_to_num())
    ),
    "8: sigmoid(+ b t)": (checks.check_ect_mapping, mapping_with(sign=1)),
    "9: q^(a + 1)": (checks.check_ect_mapping, mapping_with(exponent=1)),
    "9: q^(a - 1)": (checks.check_ect_mapping, mapping_with(exponent=-1)),
    "10: floor for ceiling": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) and step // d + 1),
    "10: stage 0 first": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) - 1),
    "11: the stage never advances": (checks.check_ect_stage, lambda step, d: ect_stage(step, d) and 1),
    "12: weight t - s": (
        checks.check_ect_weight,
        lambda kind, t, s, sd=0.5: t - s if kind == "gap" else ect_weight(kind, t, s, sd),
    ),
    "12: no weight": (checks.check_ect_loss, ect_with(weight=lambda kind, t, s, sd: torch.ones_like(t))),
    "the snr weight without 1 / data_std^2": (
        checks.check_ect_weight,
        lambda kind, t, s, sd=0.5: 1 / t**2 if kind == "snr" else ect_weight(kind, t, s, sd),
    ),
    "data_std of the weight ignored": (
        checks.check_ect_loss, ect_with(weight=lambda kind, t, s, sd: ect_weight(kind, t, s))
    ),
    "13: f learns at s, the target is at t": (checks.check_consistency_loss, loss_with(swap=True)),
    "13: s > t taken for t > s": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, *more: consistency_target(
            f, x, eps, *((torch.maximum(s, t), torch.minimum(s, t)) if s.shape == t.shape else (t, s)), *more
        ),
    ),
    "14: independent noise at s": (
        checks.check_consistency_target, target_with(noise=lambda eps: eps.flip(0))
    ),
    "15: no stop-gradient": (checks.check_consistency_loss, loss_with(target=target_with(no_grad=False))),
    "15: no stop-gradient, in the target": (checks.check_consistency_target, target_with(no_grad=False)),
    "16: stop-gradient on the other side": (
        checks.check_consistency_loss,
        loss_with(target=target_with(no_grad=False), detach=lambda found: found.detach()),
    ),
    "18: element-wise Huber": (checks.check_pseudo_huber, elementwise),
    "18: element-wise Huber, in the loss": (checks.check_consistency_loss, loss_with(distance=elementwise)),
    "19: c without the root of d": (checks.check_ict_c, lambda x: 0.00054),
    "19: c with d": (checks.check_ict_c, lambda x: 0.00054 * x[0].numel()),
    "19: c with the batch": (checks.check_ict_c, lambda x: 0.00054 * math.sqrt(x.numel())),
    "20: - c forgotten": (
        checks.check_pseudo_huber, lambda delta, c: pseudo_huber(delta, c) + c
    ),
    "21: the adaptive weight not detached": (
        checks.check_pseudo_huber,
        lambda delta, c: pseudo_huber(delta, c).detach()
        + (lambda n: n**2 / (n**2 + c**2).sqrt() - (n**2 / (n**2 + c**2).sqrt()).detach())(
            torch.linalg.vector_norm(delta.reshape(len(delta), -1), dim=1)
        ),
    ),
    "22: twice the gradient": (
        checks.check_pseudo_huber, lambda delta, c: 2 * pseudo_huber(delta, c) - pseudo_huber(delta, c).detach()
    ),
    "23: mean over batch and pixels inside the root": (
        checks.check_pseudo_huber,
        lambda delta, c: ((delta**2).mean() + pseudo_huber(delta, c)[0] * 0 + c**2).sqrt().expand(len(delta)) - c,
    ),
    "23: mean over pixels inside the root": (
        checks.check_pseudo_huber,
        lambda delta, c: pseudo_huber(delta / delta[0].numel() ** 0.5, c),
    ),
    "the root of 0 at c = 0": (
        checks.check_pseudo_huber,
        lambda delta, c: 0 * pseudo_huber(delta, c) + (delta.reshape(len(delta), -1).square().sum(1) + c**2).sqrt() - c,
    ),
    "24: Heun uses D(z_t, t) twice": (
        checks.check_ode_step, heun_with(slopes=lambda a, b: a)
    ),
    "24: Heun asks at t": (checks.check_ode_step, heun_with(when=lambda t, s: t)),
    "24: Heun asks at z_t": (checks.check_ode_step, heun_with(at=lambda z, z_s: z)),
    "Heun takes only the last slope": (checks.check_ode_step, heun_with(slopes=lambda a, b: b)),
    "25: the teacher steps from x + s eps": (
        checks.check_consistency_target,
        target_with(start=lambda x, eps, t, s, schedule: mix(x, eps, s, schedule)),
    ),
    "25: a teacher that is ignored": (
        checks.check_consistency_target,
        lambda f, x, eps, t, s, schedule, teacher=None, solver="euler": consistency_target(f, x, eps, t, s, schedule),
    ),
    "f asked at t instead of s": (checks.check_consistency_target, target_with(time=lambda t, s: t)),
    "26: drawn up to n, not n - 1": (checks.check_draw_interval, interval_with()),
    "26: the first interval never drawn": (checks.check_draw_interval, interval_with(low=1)),
    "26: the last interval never drawn": (checks.check_draw_interval, interval_with(high=-2)),
    "26: the grid reversed": (checks.check_draw_interval, interval_with(reverse=True)),
    "27: erf without the root of two": (
        checks.check_ict_time_pmf, pmf_with(cdf=lambda u: (1 + torch.erf(u)) / 2)
    ),
    "27: log10": (checks.check_ict_time_pmf, pmf_with(log=torch.log10)),
    "27: not normalised": (checks.check_ict_time_pmf, pmf_with(normalise=False)),
    "27: times from log10": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: 10 ** (mean + std * torch.randn(b, generator=generator)),
    ),
    "27: times from the variance": (
        checks.check_lognormal_times,
        lambda b, mean=-1.1, std=2.0, generator=None: lognormal_times(b, mean, std**0.5, generator),
    ),
    "28: ceiling in the exponent": (
        checks.check_ict_steps,
        lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1)
        and min(s0 * 2 ** math.ceil(step / (total // (math.log2(s1 // s0) + 1))), s1) + 1,
    ),
    "28: stage length without floor": (
        checks.check_ict_steps,
        lambda step, total, s0=10, s1=1280: ict_steps(step, total, s0, s1)
        and min(s0 * 2 ** int(step / (total / (math.log2(s1 / s0) + 1))), s1) + 1,
    ),
    "28: intervals for points": (
        checks.check_ict_steps, lambda *args: ict_steps(*args) - 1
    ),
    "mu divided by n": (
        checks.check_ct_steps,
        lambda step, total: (lambda n: (n, 0.9 ** (2 / n)))(consistency.ct_steps(step, total)[0]),
    ),
    "29: lifted with all of s": (sampler_checks.check_renoise, renoise_with(lift=lambda s, e: s)),
    "30: Euler instead of fresh noise": (sampler_checks.check_renoise, renoise_with(euler=True)),
    "31: the first noise used again": (sampler_checks.check_renoise, renoise_with(same=True)),
    "32: noise after the last f": (sampler_checks.check_renoise, renoise_with(last=True)),
    "33: unit noise instead of the time's": (sampler_checks.check_renoise, renoise_with(scale=False)),
    "33: editing starts without times[0]": (edit_checks.check_edit, edit_with(scale=False)),
    "34: another dropout mask in the target": (checks.check_consistency_loss, loss_with(mask="other")),
    "34: the same dropout mask in every step": (checks.check_consistency_loss, loss_with(mask="fixed")),
    "34: the target from the noisy part only": (checks.check_consistency_target, target_with(ask=in_part)),
    "36: the network gets t, not its angle": (
        parameterization_checks.check_as_denoiser, as_denoiser_with(angle=False)
    ),
    "37: unit noise in TrigFlow": (checks.check_trigflow, lambda sd: trigflow(1.0)),
    "37: unit noise in sCM's loss": (checks.check_scm_loss, scm_with(noise_std=1.0)),
    "38: the first term's sign": (checks.check_scm_tangent, tangent_with(sign=(1, -1))),
    "38: the second term's sign": (checks.check_scm_tangent, tangent_with(sign=(-1, 1))),
    "38: a missing cos t": (checks.check_scm_tangent, tangent_with(cos=False)),
    "38: warm-up of the wrong term": (checks.check_scm_tangent, tangent_with(warm_first=True)),
    "38: warm-up of both terms": (checks.check_scm_tangent, tangent_with(warm_both=True)),
    "38: dF/dt forgotten": (checks.check_scm_tangent, tangent_with(rate=False)),
    "38: the loss climbs": (checks.check_scm_loss, scm_with(sign=-1)),
    "39: normalised over the batch": (checks.check_scm_loss, scm_with(norm=lambda g: g.norm())),
    "39: not normalised": (checks.check_scm_loss, scm_with(norm=lambda g: 0.9)),
    "40: slerp's shares swapped": (edit_checks.check_slerp, slerp_with(swap=True)),
    "40: slerp over the batch": (edit_checks.check_slerp, slerp_with(over_batch=True)),
    "40: a straight line": (edit_checks.check_slerp, slerp_with(straight=True)),
    "41: the mask inverted": (edit_checks.check_edit, edit_with(inverted=True)),
    "41: replaced after the noise": (edit_checks.check_edit, edit_with(after_noise=True)),
    "41: not replaced after the last jump": (edit_checks.check_edit, edit_with(last=False)),
    "41: started from noise alone": (edit_checks.check_edit, edit_with(start=False)),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError), torch.enable_grad():
        check(wrong)


CONTROLS = {
    "boundary": (checks.check_boundary, boundary_with()),
    "heun": (checks.check_ode_step, heun_with()),
    "target": (checks.check_consistency_target, target_with()),
    "loss": (checks.check_consistency_loss, loss_with(target=target_with())),
    "mapping": (checks.check_ect_mapping, mapping_with()),
    "ect": (checks.check_ect_loss, ect_with()),
    "pmf": (checks.check_ict_time_pmf, pmf_with()),
    "interval": (checks.check_draw_interval, interval_with(high=-1)),
    "tangent": (checks.check_scm_tangent, tangent_with()),
    "scm loss": (checks.check_scm_loss, scm_with()),
    "slerp": (edit_checks.check_slerp, slerp_with()),
    "edit": (edit_checks.check_edit, edit_with()),
    "as_denoiser": (parameterization_checks.check_as_denoiser, as_denoiser_with()),
    "renoise": (sampler_checks.check_renoise, renoise_with()),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_harness_is_not_what_is_caught(name, unchecked_shapes):
    check, right = CONTROLS[name]
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


def test_fixed_points_of_the_mapping():
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
