import inspect
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from minidistill import schedules
from minidistill.checks import schedules as checks
from minidistill.schedules import cosine, edm, linear_beta, rectified_flow, shifted, sigmoid, tabulated

GOLDEN = json.loads((Path(__file__).parent / "golden" / "progressive.json").read_text())
CHECKS = [
    check
    for name, check in vars(checks).items()
    if name.startswith("check_") and "seed" in inspect.signature(check).parameters
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, unchecked_shapes):
    for seed in range(5):
        check(seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes_with_any_seed(check, unchecked_shapes):
    for seed in range(5, 200):
        check(seed=seed)


def rescale_alpha_bar(alpha_bar):
    return (alpha_bar - alpha_bar[-1]) * alpha_bar[0] / (alpha_bar[0] - alpha_bar[-1])


def single(schedule):
    """The schedule, computed in float32."""
    return lambda t: tuple(c.to(t.dtype) for c in schedule(t.float()))


def double(schedule):
    """The schedule, in float64 whatever is given."""
    return lambda t: schedule(t.double())


def detached(schedule):
    return lambda t: schedule(t.detach())


def half_detached(schedule):
    """sigma from alpha, without its derivative."""
    return lambda t: (
        schedule(t)[0],
        (1 - schedule(t)[0].detach() ** 2).sqrt() if len(t) != 2 else schedule(t)[1],
    )


def by_rank(schedule):
    """Times that are evenly spaced, whatever they are."""
    return lambda t: schedule(torch.linspace(0, 1, len(t), dtype=t.dtype) if len(t) > 1 else t)


def within(schedule, low=0.0, high=1.0):
    return lambda t: schedule(t.clamp(low, high))


def circle(angle):
    return lambda t: (torch.sin(torch.pi / 2 - angle(t)), torch.sin(angle(t)))


def ends(formula):
    """The formula, with the ends of a schedule that is exact there."""
    return lambda t: tuple(torch.where((t == 0) | (t == 1), c, a) for c, a in zip(cosine(t), formula(t)))


def shifted_by(position, after=lambda c, shift: c, valid=lambda shift: shift > 0):
    """shifted, with another fraction position(t, shift), and with something done to what the schedule says."""

    def wrong(schedule, shift):
        if not valid(shift):
            raise ValueError("shift must be positive")
        return lambda t: tuple(after(c, shift) for c in schedule(position(t, shift)))

    return wrong


FRACTION = lambda t, s: t / (t + (1 - t) / s)


def late(schedule, shift, last=[]):  # noqa: B006
    """All schedules have the shift of the last one."""
    if not shift > 0:
        raise ValueError("shift must be positive")
    last[:] = [shift]
    return lambda t: schedule(FRACTION(t, last[0]))


def last_schedule(schedule, shift, last=[]):  # noqa: B006
    """Each has its own shift, and all have the schedule of the last one."""
    if not shift > 0:
        raise ValueError("shift must be positive")
    last[:] = [schedule]
    return lambda t: last[0](FRACTION(t, shift))


def in_place(schedule, shift):
    if not shift > 0:
        raise ValueError("shift must be positive")

    def wrong(t):
        if not t.requires_grad:
            return schedule(t.div_(t + (1 - t) / shift))
        return schedule(FRACTION(t, shift))

    return wrong


def stretched(formula, valid=lambda a: a[0] > a[-1]):
    """zero_terminal_snr, with another formula of alpha_bar."""

    def wrong(alpha_bar):
        if not valid(alpha_bar):
            raise ValueError("alpha_bar must fall")
        return formula(alpha_bar)

    return wrong


def right_stretch(alpha_bar):
    a = alpha_bar.sqrt()
    return ((a - a[-1]) * a[0] / (a[0] - a[-1])) ** 2


def table_with(between, valid=True, order=lambda corners: corners):
    """tabulated, with another rule between(before, after, share) for alpha_bar's two neighbours."""

    def wrong(alpha_bar):
        if valid is True:
            tabulated(alpha_bar)  # refuses what ought to be refused
        elif valid is not None and not valid(alpha_bar):
            raise ValueError("alpha_bar must fall")
        corners = order(torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar.double()]))

        def schedule(t):
            position = t * (len(corners) - 1)
            left = position.detach().long().clamp(0, len(corners) - 2)
            return between(corners[left].to(t.dtype), corners[left + 1].to(t.dtype), position - left)

        return schedule

    return wrong


def chord(a, b, share):
    pair = torch.lerp(a.sqrt(), b.sqrt(), share), torch.lerp((1 - a).sqrt(), (1 - b).sqrt(), share)
    return tuple(c / torch.hypot(*pair) for c in pair)


def of_alpha_bar(a, b, share):
    alpha_bar = torch.lerp(a, b, share)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def of_alpha(a, b, share):
    alpha = torch.lerp(a.sqrt(), b.sqrt(), share)
    return alpha, (1 - alpha**2).clamp(min=0).sqrt()


def of_angle(a, b, share):
    angle = torch.lerp(torch.acos(a.sqrt()), torch.acos(b.sqrt()), share)
    return angle.cos().where(angle < torch.acos(torch.zeros_like(angle)), 0 * angle), angle.sin()


def differences(f, t, h=1e-6):
    return tuple((b - a) / (2 * h) for a, b in zip(f(t - h), f(t + h)))


def reverse_mode(f, t):
    """Right: backward() in the place of forward mode."""
    with torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        rates = []
        for c in f(t):
            slope = (
                torch.autograd.grad(c.sum(), t, retain_graph=True, allow_unused=True)[0]
                if c.requires_grad
                else None
            )
            rates.append(torch.zeros_like(t) if slope is None else slope)
    return tuple(rates)


def leaves_a_mark(f, t):
    t.requires_grad_()
    return tuple(torch.autograd.grad(c.sum() + 0 * t.sum(), t, retain_graph=True)[0] for c in f(t))


def mixed(formula, like=lambda z, x: z.to(x.dtype)):
    """mix with another formula of (x, eps, alpha, sigma), for whatever shapes schedules.mix takes."""

    def wrong(x, eps, t, f):
        schedules.mix(x, eps, t, f)  # refuses what ought to be refused
        return like(formula(x, eps, *(c.reshape(-1, *[1] * (x.ndim - 1)) for c in f(t))), x)

    return wrong


def unless(bad, otherwise=schedules.mix):
    """mix, which refuses only when bad."""

    def wrong(x, eps, t, f):
        if bad(x, eps, t):
            raise ValueError("shapes")
        alpha, sigma = (c.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype) for c in f(t.reshape(-1)))
        return alpha * x + sigma * eps

    return wrong


def betas_with(**changed):
    """beta_table, with another table for some kinds: kind = f(n)."""
    return lambda kind, n=1000: (
        changed[kind](n) if kind in changed and n in (1, 40, 1000) else schedules.beta_table(kind, n)
    )


def squaredcos(offset=0.008, power=2, cap=0.999, dtype=torch.float64, last=0):
    def table(n):
        t = torch.arange(n + 1, dtype=dtype) / (n + last)
        alpha_bar = torch.cos((t + offset) / (1 + offset) * torch.pi / 2) ** power
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=cap).double()

    return table


def levels_with(formula, valid=True):
    """karras_sigmas, with another formula of (n, sigma_min, sigma_max, rho)."""

    def wrong(n, sigma_min=0.002, sigma_max=80.0, rho=7.0, dtype=None):
        if valid is True:
            schedules.karras_sigmas(n, sigma_min, sigma_max, rho)  # refuses what ought to be refused
        elif not valid(n, sigma_min, sigma_max, rho):
            raise ValueError("levels")
        return formula(int(n), sigma_min, sigma_max, rho).to(dtype or torch.get_default_dtype())

    return wrong


def levels(n, low, high, rho, dtype=torch.float64):
    return torch.linspace(high ** (1 / rho), low ** (1 / rho), n, dtype=dtype) ** rho


def grid_with(formula, valid=True):
    """time_grid, with another formula of (steps, start, end)."""

    def wrong(steps, start=1.0, end=0.0, dtype=None):
        if valid is True:
            schedules.time_grid(steps, start, end)  # refuses what ought to be refused
        elif not valid(steps, start, end):
            raise ValueError("grid")
        return formula(int(steps) if steps == steps else 1, start, end).to(dtype or torch.get_default_dtype())

    return wrong


def grid(n, start, end):
    return torch.linspace(start, end, n + 1, dtype=torch.float64)


def linear_with(integral):
    return lambda t: (torch.exp(-integral(t) / 2), torch.sqrt(-torch.expm1(-integral(t))))


def sigmoid_with(start, end):
    """alpha_bar between two other points of the logistic function, exact at both ends."""

    def schedule(t):
        at = lambda u: torch.sigmoid(-torch.as_tensor(u, dtype=torch.float64))
        alpha_bar = (at(start + (end - start) * t.double()) - at(end)) / (at(start) - at(end))
        alpha_bar = alpha_bar.where(t < 1, 0.0).where(t > 0, 1.0)
        return alpha_bar.sqrt().to(t.dtype), (1 - alpha_bar).sqrt().to(t.dtype)

    return schedule


def asserting_shifted(schedule, shift):
    if not shift > 0:
        raise AssertionError  # what assert does; pytest would add words
    return lambda t: schedule(t / (t + (1 - t) / shift))


def asserting_stretch(alpha_bar):
    if not alpha_bar[0] > alpha_bar[-1]:
        raise AssertionError
    return right_stretch(alpha_bar)


def refused(make):
    """Another table, for what tabulated does not refuse."""
    return lambda alpha_bar: tabulated(alpha_bar) and make(alpha_bar)


def tabulated_by_search(alpha_bar):
    tabulated(alpha_bar)  # refuses what ought to be refused
    n = len(alpha_bar)
    knots = torch.arange(n + 1, dtype=torch.float64) / n
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar.double()])

    def schedule(t):
        right = torch.searchsorted(knots, t.detach().double()).clamp(1, n)
        share = ((t.double() - knots[right - 1]) * n).clamp(0, 1)
        return tuple(c.to(t.dtype) for c in chord(alpha_bar[right - 1], alpha_bar[right], share))

    return schedule


COSINE, SHIFTED, ZERO = checks.check_cosine, checks.check_shifted, checks.check_zero_terminal_snr
LINEAR, SIGMOID, FLOW, EDM = (
    checks.check_linear_beta,
    checks.check_sigmoid,
    checks.check_rectified_flow,
    checks.check_edm,
)
TABLE, RATES, SNR, MIX = checks.check_tabulated, checks.check_rates, checks.check_log_snr, checks.check_mix
BETAS, GRID, KARRAS = checks.check_beta_table, checks.check_time_grid, checks.check_karras_sigmas

# name: (check, wrong, what the first line of its error says). Numbers in brackets: the list of mistakes in the
# literature on progressive distillation, sections P and 5.3. In square brackets: the kind of mistake
MISTAKES = {
    "cosine: float32 cos(pi/2) is negative (D2) [formula]": (
        COSINE, lambda t: (torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)), "as cos\\(pi/2\\) is",
    ),
    "cosine: alpha and sigma swapped (29) [formula]": (COSINE, lambda t: cosine(t)[::-1], "alpha and sigma swapped"),
    "cosine: time reversed [formula]": (COSINE, lambda t: cosine(1 - t), "time run backwards"),
    "cosine: bounded and clamped log SNR [formula]": (
        COSINE,
        lambda t: tuple(
            torch.sigmoid(s * (-2 * torch.tan(torch.pi / 2 * t).log()).clamp(-20, 20)).sqrt() for s in (1, -1)
        ),
        "Is there a logarithm, a tangent",
    ),
    "cosine: radians of a whole circle [formula]": (COSINE, circle(lambda t: 2 * torch.pi * t), "alpha\\(1\\) must be exactly 0, not 1. Does it run from end to end, once"),
    "cosine: half a circle [formula]": (COSINE, circle(lambda t: torch.pi * t), "How far does the angle run"),
    "cosine: pi / 2 forgotten [formula]": (COSINE, lambda t: (torch.cos(t), torch.sin(t)), "alpha\\(1\\) must be exactly 0, not 0.54"),
    "cosine: squares [formula]": (COSINE, lambda t: tuple(c**2 for c in cosine(t)), "alpha \\+ sigma is: are they the squares"),
    "cosine: a straight line [formula]": (COSINE, rectified_flow, "or a straight line"),
    "cosine: a straight line on the circle [formula]": (
        COSINE, lambda t: tuple(c / torch.hypot(t, 1 - t) for c in (1 - t, t)), "a straight line, scaled to length 1",
    ),
    "cosine: alpha falls evenly [formula]": (COSINE, lambda t: (1 - t, (t * (2 - t)).sqrt()), "alpha falls evenly"),
    "cosine: sigma grows evenly [formula]": (COSINE, lambda t: ((1 - t**2).sqrt(), t), "sigma grows evenly"),
    "cosine: alpha^2 falls evenly [formula]": (COSINE, lambda t: ((1 - t).sqrt(), t.sqrt()), "alpha\\^2 falls evenly"),
    "cosine: DDPM's offset [formula]": (
        COSINE,
        lambda t: (lambda a: (a * (t < 1), (1 - (a * (t < 1)) ** 2).clamp(min=0).sqrt()))(
            torch.cos(torch.pi / 2 * (t + 0.008) / 1.008) / math.cos(torch.pi / 2 * 0.008 / 1.008)
        ),
        "offset 0.008",
    ),
    "cosine: t squared [formula]": (COSINE, circle(lambda t: torch.pi / 2 * t**2), "pi / 2 t\\^2"),
    "cosine: slow at both ends [formula]": (
        COSINE, circle(lambda t: torch.pi / 2 * torch.sin(torch.pi / 2 * t) ** 2), "slows down at both ends",
    ),
    "cosine: 3.1416 for pi [precision]": (
        COSINE, lambda t: (torch.sin(3.1416 / 2 * (1 - t)), torch.sin(3.1416 / 2 * t)), "no further",
    ),
    "cosine: 1e-8 added to sigma [end]": (COSINE, lambda t: (cosine(t)[0], cosine(t)[1] + 1e-8), "nothing clamped or added"),
    "cosine: times clamped at 1e-3 [end]": (COSINE, within(cosine, 1e-3), "sigma\\(0\\) must be exactly 0, not 0.00157"),
    "cosine: times clamped at 1 - 1e-3 [end]": (COSINE, within(cosine, 0, 1 - 1e-3), "alpha\\(1\\) must be exactly 0, not 0.00157"),
    "cosine: nan at t = 1 [end]": (
        COSINE, lambda t: (cosine(t)[0] / (t != 1), cosine(t)[1]), "no inf or nan there",
    ),
    "cosine: sigma is 0 at t = 1 [end]": (COSINE, lambda t: (cosine(t)[0], cosine(t)[1] * (t < 1)), "sigma\\(1\\) = 1, not 0"),
    "cosine: the ends alone are right [end]": (COSINE, ends(rectified_flow), "a straight line"),
    "cosine: computed in float32 [precision]": (COSINE, single(cosine), "no further"),
    "cosine: always float64 [precision]": (COSINE, double(cosine), "here float32, not torch.float64"),
    "cosine: always float32 [precision]": (COSINE, lambda t: cosine(t.float()), "no further"),
    "cosine: float64 between the ends [precision]": (
        COSINE, lambda t: tuple(c if len(t) == 2 else c.double() for c in cosine(t)), "alpha has the dtype that is given: float32, not torch.float64",
    ),
    "cosine: half precision for float32 [precision]": (
        COSINE, lambda t: tuple(c.bfloat16().to(c) if c.dtype == torch.float32 else c for c in cosine(t)), "loses its digits in float32",
    ),
    "cosine: t detached [gradient]": (COSINE, detached(cosine), "d alpha / dt. Is t"),
    "cosine: under no_grad [gradient]": (COSINE, torch.no_grad()(cosine), "d alpha / dt. Is t"),
    "cosine: sigma from a detached alpha [gradient]": (COSINE, half_detached(cosine), "d sigma / dt. Is t, or a part of the formula, detached"),
    "cosine: half of the derivative [gradient]": (
        COSINE, lambda t: tuple((c + c.detach()) / 2 for c in cosine(t)), "d alpha / dt",
    ),
    "cosine: times by rank [argument]": (COSINE, by_rank(cosine), "asked alone"),
    "cosine: divided by the largest time [argument]": (
        COSINE, lambda t: cosine(t / t.max() if t.max() > 0 and len(t) != 7 else t), "asked alone",
    ),
    "cosine: one axis more [shape]": (COSINE, lambda t: tuple(c[:, None] for c in cosine(t)), "each of t's shape"),
    "cosine: one number [shape]": (COSINE, lambda t: tuple(c[0] for c in cosine(t)), "each of t's shape"),
    "cosine: squeezed [shape]": (COSINE, lambda t: tuple(c.squeeze() for c in cosine(t)), "one for each time: here \\(1,\\)"),
    "linear_beta: alpha_bar for alpha (30) [formula]": (
        LINEAR, lambda t: (linear_beta(t)[0] ** 2, (1 - linear_beta(t)[0] ** 4).sqrt()), "alpha\\^2, not alpha",
    ),
    "linear_beta: 1 - exp instead of expm1 (D3) [precision]": (
        LINEAR, lambda t: (linear_beta(t)[0], (1 - linear_beta(t)[0] ** 2).sqrt()), "use expm1",
    ),
    "linear_beta: without the half [formula]": (LINEAR, linear_with(lambda t: 0.1 * t + 19.9 * t**2), "the half is missing"),
    "linear_beta: without the square [formula]": (LINEAR, linear_with(lambda t: 0.1 * t + 19.9 * t / 2), "the square is missing"),
    "linear_beta: slope beta_max [formula]": (LINEAR, linear_with(lambda t: 0.1 * t + 20 * t**2 / 2), "the slope is 20 - 0.1"),
    "linear_beta: from 0 [formula]": (LINEAR, linear_with(lambda t: 19.9 * t**2 / 2), "beta starts at 0.1"),
    "linear_beta: a root too many [formula]": (LINEAR, linear_with(lambda t: (0.1 * t + 19.9 * t**2 / 2) / 2), "alpha\\^4 is"),
    "linear_beta: swapped [formula]": (LINEAR, lambda t: linear_beta(t)[::-1], "alpha and sigma swapped"),
    "linear_beta: times clamped at 1e-4 [end]": (LINEAR, lambda t: linear_beta(torch.where(t > 0, t.clamp(min=1e-4), t)), "stands still: is something clamped"),
    "linear_beta: computed in float32 [precision]": (LINEAR, single(linear_beta), "no further"),
    "linear_beta: always float64 [precision]": (LINEAR, double(linear_beta), "here float32, not torch.float64"),
    "linear_beta: t detached [gradient]": (LINEAR, detached(linear_beta), "d alpha / dt"),
    "linear_beta: alpha_bar + sigma = 1 [formula]": (LINEAR, lambda t: (linear_beta(t)[0] ** 2, 1 - linear_beta(t)[0] ** 2), "are they the squares"),
    "sigmoid: alpha_bar for alpha (30) [formula]": (
        SIGMOID, lambda t: (sigmoid(t)[0] ** 2, (1 - sigmoid(t)[0] ** 4).sqrt()), "here alpha is",
    ),
    "sigmoid: betas of that name [formula]": (SIGMOID, lambda t: linear_beta(torch.sigmoid(12 * t - 6)), "sigma\\(0\\) must be exactly 0, not 0.0176.*from end to end"),
    "sigmoid: not rescaled [formula]": (SIGMOID, lambda t: (torch.sigmoid(3 - 6 * t).sqrt(), torch.sigmoid(6 * t - 3).sqrt()), "sigma\\(0\\) must be exactly 0, not 0.218.*from end to end"),
    "sigmoid: from 0 to 3 [formula]": (SIGMOID, sigmoid_with(0, 3), "from 0 to 3"),
    "sigmoid: from -6 to 6 [formula]": (SIGMOID, sigmoid_with(-6, 6), "from -6 to 6"),
    "sigmoid: from -1 to 1 [formula]": (SIGMOID, sigmoid_with(-1, 1), "from -1 to 1"),
    "sigmoid: evenly [formula]": (SIGMOID, lambda t: ((1 - t).sqrt(), t.sqrt()), "falls evenly"),
    "sigmoid: squares [formula]": (SIGMOID, lambda t: tuple(c**2 for c in sigmoid(t)), "are they the squares"),
    "sigmoid: computed in float32 [precision]": (SIGMOID, single(sigmoid), "no further"),
    "sigmoid: always float64 [precision]": (SIGMOID, double(sigmoid), "here float32, not torch.float64"),
    "sigmoid: t detached [gradient]": (SIGMOID, detached(sigmoid), "d alpha / dt"),
    "sigmoid: sigma at the end only nearly 0 [end]": (SIGMOID, lambda t: tuple(c.clamp(min=1e-4) for c in sigmoid(t)), "exactly 0"),
    "rectified_flow: data at t = 1 [formula]": (FLOW, lambda t: (t, 1 - t), "time run backwards"),
    "rectified_flow: the circle [formula]": (FLOW, cosine, "a straight line, not a circle"),
    "rectified_flow: t squared [formula]": (FLOW, lambda t: (1 - t**2, t**2), "sigma is t itself"),
    "rectified_flow: cosine's squares [formula]": (FLOW, lambda t: tuple(c**2 for c in cosine(t)), "sigma is t itself"),
    "rectified_flow: sigma_min = 1e-4 [end]": (FLOW, lambda t: (1 - t, 1e-4 + (1 - 1e-4) * t), "sigma\\(0\\) must be exactly 0, not 0.0001"),
    "rectified_flow: computed in float32 [precision]": (FLOW, single(rectified_flow), "no further"),
    "rectified_flow: always float64 [precision]": (FLOW, double(rectified_flow), "here float32, not torch.float64"),
    "rectified_flow: t detached [gradient]": (FLOW, detached(rectified_flow), "d alpha / dt"),
    "rectified_flow: sigma detached [gradient]": (FLOW, lambda t: (1 - t, t.detach()), "d sigma / dt"),
    "edm: log sigma as time [formula]": (EDM, lambda t: (torch.ones_like(t), t.exp()), "not its logarithm"),
    "edm: the variance [formula]": (EDM, lambda t: (torch.ones_like(t), t.sqrt()), "not sigma\\^2"),
    "edm: squared [formula]": (EDM, lambda t: (torch.ones_like(t), t**2), "squared"),
    "edm: a share of 80 [formula]": (EDM, lambda t: (torch.ones_like(t), 80 * t), "not its share of 80"),
    "edm: variance preserving [formula]": (EDM, lambda t: (1 / (1 + t**2).sqrt(), t / (1 + t**2).sqrt()), "never scales the signal"),
    "edm: one alpha for all [shape]": (EDM, lambda t: (torch.ones(1).double(), t), "one for each time"),
    "edm: alpha is a number [shape]": (EDM, lambda t: (1.0, t), "one for each time"),
    "edm: clipped at 0.002 [end]": (EDM, within(edm, 0.002, math.inf), "below 0.002: here it is clamped"),
    "edm: clipped at 80 [end]": (EDM, within(edm, 0, 80), "above 80: here it is clamped"),
    "edm: clipped at both [end]": (EDM, within(edm, 0.002, 80), "below 0.002 and above 80: here it is clamped"),
    "edm: always float32 [precision]": (EDM, lambda t: edm(t.float()), "no further"),
    "edm: always float64 [precision]": (EDM, double(edm), "alpha has the dtype that is given: float32, not torch.float64"),
    "edm: alpha in float32 [precision]": (EDM, lambda t: (torch.ones(len(t)), t), "here torch.float64, not torch.float32"),
    "edm: t detached [gradient]": (EDM, detached(edm), "d sigma / dt"),
    "shifted: twice (44) [formula]": (SHIFTED, lambda f, s: shifted(shifted(f, s), s), "the shift counts twice"),
    "shifted: the inverse [formula]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, 1 / s)), "its inverse"),
    "shifted: the textbook fraction overshoots 1 in float32 [end]": (
        SHIFTED, shifted_by(lambda t, s: s * t / (1 + (s - 1) * t)), "must be exactly 1 in float32",
    ),
    "shifted: the textbook fraction, clamped [end]": (
        SHIFTED, shifted_by(lambda t, s: (s * t / (1 + (s - 1) * t)).clamp(max=1)), "must be exactly 1 in float32",
    ),
    "shifted: not at all [formula]": (SHIFTED, shifted_by(lambda t, s: t), "here it is asked at t\\."),
    "shifted: shift for shift - 1 [formula]": (SHIFTED, shifted_by(lambda t, s: s * t / (1 + s * t)), "it is shift - 1 in the denominator"),
    "shifted: no denominator [formula]": (SHIFTED, shifted_by(lambda t, s: s * t), "the denominator is missing"),
    "shifted: no denominator, clamped [formula]": (SHIFTED, shifted_by(lambda t, s: (s * t).clamp(max=1)), "denominator is missing"),
    "shifted: squared [formula]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, s**2)), "the shift counts twice"),
    "shifted: root [formula]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, s**0.5)), "the root of the shift"),
    "shifted: exponential, as FLUX's mu [formula]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, math.exp(s))), "the exponential of the shift"),
    "shifted: a power [formula]": (SHIFTED, shifted_by(lambda t, s: t**s), "a power of t"),
    "shifted: alpha, too [formula]": (SHIFTED, shifted_by(FRACTION, lambda c, s: c / s), "alpha and sigma stay as it says"),
    "shifted: sigma in the place of the time [formula]": (
        SHIFTED,
        lambda f, s: shifted_by(lambda t, s: t, lambda c, s: FRACTION(c, s))(f, s),
        "here it is asked at t\\.",
    ),
    "shifted: pushed to the circle [formula]": (
        SHIFTED,
        lambda f, s: lambda t: tuple(c / torch.hypot(*shifted(f, s)(t)) for c in shifted(f, s)(t)),
        "alpha and sigma stay as it says",
    ),
    "shifted: always rectified flow [argument]": (
        SHIFTED, lambda f, s: shifted(rectified_flow, s), "here it is not asked at all",
    ),
    "shifted: always 3 [argument]": (SHIFTED, lambda f, s: shifted(f, 3.0 if s > 0 else s), "here the shift is 3, not 0.03"),
    "shifted: only above 1 [argument]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, max(s, 1))), "asked at t\\."),
    "shifted: refuses shifts below 1 [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: s >= 1), "shift = 0.03 is valid"),
    "shifted: refuses integers [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: isinstance(s, float) and s > 0), "shift = 1 is valid"),
    "shifted: the last shift for all [argument]": (SHIFTED, late, "here the shift is 1000, not 0.03"),
    "shifted: 0 accepted [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: s >= 0), "shift of 0 must be refused"),
    "shifted: negative accepted [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: s != 0), "shift of -1 must be refused"),
    "shifted: nan accepted [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: not s <= 0), "shift of nan must be refused"),
    "shifted: nothing refused [refusal]": (SHIFTED, shifted_by(lambda t, s: t / (t + (1 - t) / (s or 1)), valid=lambda s: True), "shift of 0 must be refused"),
    "shifted: an assert [refusal]": (SHIFTED, asserting_shifted, "With ValueError, not an assert"),
    "shifted: always float64 [precision]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t.double(), s)), "asked in the dtype of t"),
    "shifted: the result always float64 [precision]": (
        SHIFTED, shifted_by(FRACTION, lambda c, s: c.double()), "t's dtype: here float32, not torch.float64",
    ),
    "shifted: computed in float32 [precision]": (
        SHIFTED, shifted_by(lambda t, s: FRACTION(t.float(), s).to(t.dtype)), "no further",
    ),
    "shifted: 1e-6 in the denominator [precision]": (SHIFTED, shifted_by(lambda t, s: t / (t + (1 - t) / s + 1e-6)), "no further"),
    "shifted: t detached [gradient]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t.detach(), s)), "d alpha / dt"),
    "shifted: the denominator detached [gradient]": (
        SHIFTED, shifted_by(lambda t, s: t / (t + (1 - t) / s).detach()), "d alpha / dt",
    ),
    "shifted: changes its time [shape]": (SHIFTED, in_place, "must stay as they are"),
    "shifted: one time for all [shape]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t[:1], s)), "at all the times, 15 here, and not at 1"),
    "tabulated: one entry off [formula]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t - 1 / len(a)).clamp(min=0))), "the entry before",
    ),
    "tabulated: one entry off, later [formula]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t + 1 / len(a)).clamp(max=1))), "the entry after",
    ),
    "tabulated: alpha_bar for alpha (30) [formula]": (TABLE, lambda a: tabulated(a**2), "alpha_bar, not its roots"),
    "tabulated: a root too many [formula]": (TABLE, refused(lambda a: tabulated(a.sqrt())), "roots of roots"),
    "tabulated: the nearest entry [formula]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t * len(a)).round() / len(a))), "the nearest entry",
    ),
    "tabulated: the next entry [formula]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t * len(a) - 1e-9).ceil() / len(a))), "the entry after",
    ),
    "tabulated: the entry before [formula]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t * len(a) + 1e-9).floor() / len(a))), "the entry before",
    ),
    "tabulated: alpha_bar interpolated [formula]": (TABLE, table_with(of_alpha_bar), "alpha_bar is interpolated"),
    "tabulated: alpha interpolated [formula]": (TABLE, table_with(of_alpha), "alpha is not pushed out"),
    "tabulated: not pushed out [formula]": (
        TABLE,
        table_with(lambda a, b, s: (torch.lerp(a.sqrt(), b.sqrt(), s), torch.lerp((1 - a).sqrt(), (1 - b).sqrt(), s))),
        "alpha is not pushed out",
    ),
    "tabulated: the angle interpolated [formula]": (TABLE, table_with(of_angle), "the angle is interpolated"),
    "tabulated: sigma not pushed out [formula]": (
        TABLE, table_with(lambda a, b, s: (chord(a, b, s)[0], torch.lerp((1 - a).sqrt(), (1 - b).sqrt(), s))), "and sigma with it",
    ),
    "tabulated: no derivative [gradient]": (TABLE, refused(lambda a: lambda t: tabulated(a)(t.detach())), "d alpha / dt"),
    "tabulated: in the dtype of the table [precision]": (
        TABLE, refused(lambda a: lambda t: tuple(c.to(a.dtype) for c in tabulated(a)(t))), "here float32, not torch.float64",
    ),
    "tabulated: a float32 table gives float32 [precision]": (
        TABLE,
        refused(lambda a: lambda t: tuple(c.float() if a.dtype == torch.float32 else c for c in tabulated(a)(t))),
        "not the table's",
    ),
    "tabulated: the table in float32 [precision]": (TABLE, refused(lambda a: tabulated(a.float())), "no further"),
    "tabulated: 1000 entries always [argument]": (
        TABLE, refused(lambda a: lambda t: tabulated(a)((t * 1000 / len(a)).clamp(max=1))), "alpha = sqrt\\(alpha_bar\\[i\\]\\)",
    ),
    "tabulated: reversed [formula]": (TABLE, refused(lambda a: lambda t: tabulated(a)(1 - t)), "the table is read backwards, at 1 - t"),
    "tabulated: only the ends compared [refusal]": (TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and 1 >= a[0] >= a[-1] >= 0), "rises once, in the middle"),
    "tabulated: above 1 accepted [refusal]": (TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and (a.diff() <= 0).all() and a[-1] >= 0), "begins above 1 must be refused"),
    "tabulated: below 0 accepted [refusal]": (TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and (a.diff() <= 0).all() and a[0] <= 1), "ends below 0 must be refused"),
    "tabulated: nan accepted [refusal]": (
        TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and not ((a.diff() > 0).any() or (a < 0).any() or (a > 1).any())), "with nan must be refused",
    ),
    "tabulated: betas accepted [refusal]": (TABLE, table_with(chord, None), "holds betas, not alpha_bar"),
    "tabulated: rising refused only if all rise [refusal]": (TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and not (a.diff() > 0).all()), "rises once, in the middle"),
    "tabulated: two axes accepted [refusal]": (TABLE, lambda a: tabulated(a.reshape(-1)), "with two axes must be refused"),
    "tabulated: an empty table accepted [refusal]": (TABLE, lambda a: tabulated(a) if a.numel() else cosine, "without entries must be refused"),
    "rates: of alpha squared [formula]": (
        RATES, lambda f, t: tuple(2 * c * r for c, r in zip(f(t), schedules.rates(f, t))), "alpha\\^2 and sigma\\^2 are differentiated",
    ),
    "rates: sign [formula]": (RATES, lambda f, t: tuple(-r for r in schedules.rates(f, t)), "the sign is wrong"),
    "rates: swapped [formula]": (RATES, lambda f, t: schedules.rates(f, t)[::-1], "they are swapped"),
    "rates: of logarithms [formula]": (RATES, lambda f, t: tuple(r / c for c, r in zip(f(t), schedules.rates(f, t))), "logarithms are differentiated"),
    "rates: the schedule itself [formula]": (RATES, lambda f, t: f(t), "these are alpha and sigma"),
    "rates: of rectified flow [argument]": (RATES, lambda f, t: (-torch.ones_like(t), torch.ones_like(t)), "those of rectified_flow"),
    "rates: zero [gradient]": (RATES, lambda f, t: tuple(torch.zeros_like(t) for _ in f(t)), "Is t detached"),
    "rates: both at once [formula]": (RATES, lambda f, t: (sum(schedules.rates(f, t)),) * 2, "both are added up"),
    "rates: only one [shape]": (RATES, lambda f, t: schedules.rates(f, t)[0], "The rates are two"),
    "rates: summed over the times [shape]": (RATES, lambda f, t: tuple(r.sum() for r in schedules.rates(f, t)), "one for each time"),
    "rates: finite differences [precision]": (RATES, differences, "Finite differences lose digits|no finite differences"),
    "rates: forward differences [precision]": (
        RATES, lambda f, t: tuple((b - a) / 1e-7 for a, b in zip(f(t), f(t + 1e-7))), "no finite differences",
    ),
    "rates: always float64 [precision]": (RATES, lambda f, t: schedules.rates(f, t.double()), "A rate has the dtype that is given"),
    "rates: computed in float32 [precision]": (RATES, lambda f, t: tuple(r.to(t) for r in schedules.rates(f, t.float())), "no further"),
    "rates: leave requires_grad behind [gradient]": (RATES, leaves_a_mark, "t must stay as it is"),
    "rates: cut off [end]": (RATES, lambda f, t: tuple(r.clamp(-1e4, 1e4) for r in schedules.rates(f, t)), "not cut off"),
    "rates: nan to 0 [end]": (RATES, lambda f, t: tuple(r.nan_to_num(0, 0, 0) for r in schedules.rates(f, t)), "not cut off"),
    "log_snr: of alpha / sigma, without the 2 [formula]": (SNR, lambda f, t: schedules.log_snr(f, t) / 2, "the factor 2 is missing"),
    "log_snr: a floor under the logarithm [end]": (
        SNR, lambda f, t: ((f(t)[0] ** 2 + 1e-20) / (f(t)[1] ** 2 + 1e-20)).log(), "never cut off",
    ),
    "log_snr: sign [formula]": (SNR, lambda f, t: -schedules.log_snr(f, t), "the sign is wrong. It is large"),
    "log_snr: sign and factor [formula]": (SNR, lambda f, t: -schedules.log_snr(f, t) / 2, "the sign is wrong, and the factor"),
    "log_snr: no logarithm [formula]": (SNR, lambda f, t: (f(t)[0] / f(t)[1]) ** 2, "the logarithm is missing"),
    "log_snr: twice [formula]": (SNR, lambda f, t: 2 * schedules.log_snr(f, t), "twice the factor 2"),
    "log_snr: base 10 [formula]": (SNR, lambda f, t: 2 * (f(t)[0] / f(t)[1]).log10(), "the base 10"),
    "log_snr: base 2 [formula]": (SNR, lambda f, t: 2 * (f(t)[0] / f(t)[1]).log2(), "the base 2"),
    "log_snr: always rectified flow [argument]": (SNR, lambda f, t: schedules.log_snr(rectified_flow, t), "that of rectified_flow on any schedule"),
    "log_snr: always variance preserving [formula]": (SNR, lambda f, t: (f(t)[0] ** 2 / (1 - f(t)[0] ** 2)).log(), "not 1 - alpha\\^2 on every schedule"),
    "log_snr: clamped at 20 [end]": (SNR, lambda f, t: schedules.log_snr(f, t).clamp(-20, 20), "never cut off"),
    "log_snr: nan at the ends [end]": (
        SNR, lambda f, t: schedules.log_snr(f, t) + 0 * schedules.log_snr(f, t), "never nan",
    ),
    "log_snr: squares underflow [precision]": (SNR, lambda f, t: (f(t)[0] ** 2 / f(t)[1] ** 2).log(), "form no squares"),
    "log_snr: always float64 [precision]": (SNR, lambda f, t: schedules.log_snr(f, t.double()), "log SNR has the dtype that is given"),
    "log_snr: computed in float32 [precision]": (SNR, lambda f, t: schedules.log_snr(f, t.float()).to(t), "no further"),
    "log_snr: detached [gradient]": (SNR, lambda f, t: schedules.log_snr(f, t).detach(), "nothing is detached"),
    "mix: times over the width (43) [shape]": (MIX, lambda x, eps, t, f: f(t)[0] * x + f(t)[1] * eps, "along the width"),
    "mix: times over the channels [shape]": (
        MIX, lambda x, eps, t, f: f(t)[0][:, None, None] * x + f(t)[1][:, None, None] * eps, "along the channels",
    ),
    "mix: x and eps swapped [formula]": (MIX, lambda x, eps, t, f: schedules.mix(eps, x, t, f), "x and eps are swapped"),
    "mix: silent broadcast [refusal]": (
        MIX, lambda x, eps, t, f: unless(lambda *_: False)(x, eps, t, f), "shape \\(1,\\) for four samples must be refused",
    ),
    "mix: squares [formula]": (MIX, mixed(lambda x, e, a, s: a**2 * x + s**2 * e), "are squared"),
    "mix: roots [formula]": (MIX, mixed(lambda x, e, a, s: a.sqrt() * x + s.sqrt() * e), "roots of alpha and sigma"),
    "mix: noise subtracted [formula]": (MIX, mixed(lambda x, e, a, s: a * x - s * e), "noise is subtracted"),
    "mix: the first time for all [argument]": (MIX, mixed(lambda x, e, a, s: a[:1] * x + s[:1] * e), "the first one's time"),
    "mix: the mean time for all [argument]": (MIX, mixed(lambda x, e, a, s: a.mean() * x + s.mean() * e), "the mean time"),
    "mix: always cosine [argument]": (MIX, lambda x, eps, t, f: schedules.mix(x, eps, t, cosine if t.max() <= 1 else f), "the schedule is cosine"),
    "mix: sigma from alpha [formula]": (MIX, mixed(lambda x, e, a, s: a * x + (1 - a**2).clamp(min=0).sqrt() * e), "not the root of 1 - alpha\\^2"),
    "mix: four axes only [shape]": (
        MIX,
        lambda x, eps, t, f: sum(c.to(x).reshape(-1, 1, 1, 1) * a for c, a in zip(f(t), (x, eps))),
        "The shape must be \\(4, 2\\), and is",
    ),
    "mix: in the dtype of the times [precision]": (
        MIX, mixed(lambda x, e, a, s: a * x + s * e, like=lambda z, x: z), "has the dtype of the data",
    ),
    "mix: always float32 [precision]": (MIX, mixed(lambda x, e, a, s: a * x + s * e, like=lambda z, x: z.float()), "no further"),
    "mix: the narrower dtype [precision]": (
        MIX, lambda x, eps, t, f: schedules.mix(x, eps, t, f).to(torch.float32 if t.dtype == torch.float32 else x.dtype), "the dtype of x, also where t is float32",
    ),
    "mix: detached [gradient]": (MIX, lambda *a: schedules.mix(*a).detach(), "gradient must pass"),
    "mix: t detached [gradient]": (MIX, lambda x, eps, t, f: schedules.mix(x, eps, t.detach(), f), "gradient must pass"),
    "mix: x detached [gradient]": (MIX, lambda x, eps, t, f: schedules.mix(x.detach(), eps, t, f), "gradient must pass"),
    "mix: one time broadcast [refusal]": (MIX, unless(lambda x, eps, t: t.ndim != 1 or len(t) not in (1, len(x)) or x.shape != eps.shape), "shape \\(1,\\) for four samples"),
    "mix: times with an axis more [refusal]": (
        MIX, unless(lambda x, eps, t: t.numel() != len(x) or x.shape != eps.shape), "shape \\(4, 1\\) for four samples",
    ),
    "mix: one noise broadcast [refusal]": (MIX, unless(lambda x, eps, t: t.shape != (max(len(x), len(eps)),)), "x and eps have one shape"),
    "mix: a noise per sample broadcast [refusal]": (
        MIX, unless(lambda x, eps, t: t.shape != x.shape[:1] or len(eps) != len(x) or x.ndim != eps.ndim), "x and eps have one shape",
    ),
    "mix: x broadcast [refusal]": (
        MIX,
        unless(lambda x, eps, t: t.shape != eps.shape[:1] or x.ndim != eps.ndim or (eps.shape != x.shape and eps.numel() < x.numel())),
        "x and eps have one shape",
    ),
    "beta_table: linear in beta for scaled_linear [formula]": (
        BETAS, betas_with(scaled_linear=lambda n: torch.linspace(0.00085, 0.012, n).double()), "here it is even in beta",
    ),
    "beta_table: no cap [end]": (BETAS, betas_with(squaredcos=squaredcos(cap=1.0)), "here it is not capped"),
    "beta_table: a cap of 0.99 [end]": (BETAS, betas_with(squaredcos=squaredcos(cap=0.99)), "here it is capped at 0.99"),
    "beta_table: no offset [formula]": (BETAS, betas_with(squaredcos=squaredcos(offset=0.0)), "the offset 0.008 is missing"),
    "beta_table: no square [formula]": (BETAS, betas_with(squaredcos=squaredcos(power=1)), "the cosine, without its square"),
    "beta_table: squaredcos in float32 [precision]": (BETAS, betas_with(squaredcos=squaredcos(dtype=torch.float32)), "in float64, alpha_bar = cos"),
    "beta_table: the roots not squared [formula]": (
        BETAS, betas_with(scaled_linear=lambda n: torch.linspace(0.00085**0.5, 0.012**0.5, n, dtype=torch.float64)), "the roots are not squared again",
    ),
    "beta_table: end values scaled with n [argument]": (
        BETAS, betas_with(linear=lambda n: torch.linspace(0.1 / n, 20 / n, n, dtype=torch.float64)), "here both ends change with n",
    ),
    "beta_table: end values scaled with n, scaled_linear [argument]": (
        BETAS, betas_with(scaled_linear=lambda n: schedules.beta_table("scaled_linear", n) * 1000 / n), "here both ends change with n",
    ),
    "beta_table: reversed [formula]": (BETAS, betas_with(linear=lambda n: schedules.beta_table("linear", n).flip(0)), "here the betas fall"),
    "beta_table: alpha_bar [formula]": (BETAS, betas_with(linear=lambda n: (1 - schedules.beta_table("linear", n)).cumprod(0)), "alpha_bar, not betas"),
    "beta_table: alphas [formula]": (BETAS, betas_with(linear=lambda n: 1 - schedules.beta_table("linear", n)), "1 - beta"),
    "beta_table: linear for scaled_linear [formula]": (BETAS, betas_with(scaled_linear=lambda n: schedules.beta_table("linear", n)), "the table of linear"),
    "beta_table: scaled_linear always of 1000 [argument]": (
        BETAS, betas_with(scaled_linear=lambda n: schedules.beta_table("scaled_linear")), "n = 40 needs n betas",
    ),
    "beta_table: the first n of 1000 [argument]": (
        BETAS, betas_with(squaredcos=lambda n: schedules.beta_table("squaredcos")[:n]), "these are the first 40 of 1000",
    ),
    "beta_table: n + 1 betas [shape]": (BETAS, betas_with(linear=lambda n: schedules.beta_table("linear", n + 1)), "needs n betas"),
    "beta_table: float32 [precision]": (BETAS, lambda *a: schedules.beta_table(*a).float(), "float64, for the long product"),
    "beta_table: computed in float32 [precision]": (BETAS, lambda *a: schedules.beta_table(*a).float().double(), "no further"),
    "beta_table: unknown kinds are linear [refusal]": (
        BETAS, lambda kind, n=1000: schedules.beta_table(kind if kind in ("scaled_linear", "squaredcos") else "linear", n), "unknown kind",
    ),
    "beta_table: n = 0 accepted [refusal]": (BETAS, lambda kind, n=1000: torch.zeros(0) if n == 0 else schedules.beta_table(kind, n), "n = 0 must be refused"),
    "beta_table: negative n accepted [refusal]": (BETAS, lambda kind, n=1000: schedules.beta_table(kind, abs(n)), "n = -3 must be refused"),
    "beta_table: n rounded [refusal]": (BETAS, lambda kind, n=1000: schedules.beta_table(kind, int(n) if n == n else 0), "n = 2.5 must be refused"),
    "beta_table: n = 999 without n [argument]": (BETAS, lambda kind, n=999: schedules.beta_table(kind, n), "Without n"),
    "zero_terminal_snr: scale without shift (45) [formula]": (
        ZERO, stretched(lambda a: (a.sqrt() * a[0].sqrt() / (a[0].sqrt() - a[-1].sqrt())) ** 2), "it is not shifted",
    ),
    "zero_terminal_snr: shift without scale (45) [formula]": (ZERO, stretched(lambda a: (a.sqrt() - a[-1].sqrt()) ** 2), "it is not scaled"),
    "zero_terminal_snr: of alpha_bar, not its root (45) [formula]": (ZERO, stretched(rescale_alpha_bar), "it is alpha_bar that is shifted"),
    "zero_terminal_snr: not squared again [formula]": (ZERO, stretched(lambda a: right_stretch(a).sqrt()), "it is not squared"),
    "zero_terminal_snr: squared twice [formula]": (ZERO, stretched(lambda a: right_stretch(a) ** 2), "squared twice"),
    "zero_terminal_snr: starts at 1 [formula]": (ZERO, stretched(lambda a: right_stretch(a) / a[0]), "here it starts at 1"),
    "zero_terminal_snr: nothing changed [formula]": (ZERO, stretched(lambda a: a.clone()), "nothing has changed"),
    "zero_terminal_snr: only the last one [formula]": (ZERO, stretched(lambda a: torch.cat([a[:-1], 0 * a[-1:]])), "the last value alone"),
    "zero_terminal_snr: factor upside down [formula]": (
        ZERO, stretched(lambda a: ((a.sqrt() - a[-1].sqrt()) * (a[0].sqrt() - a[-1].sqrt()) / a[0].sqrt()) ** 2), "upside down",
    ),
    "zero_terminal_snr: factor outside of the square [formula]": (
        ZERO, stretched(lambda a: (a.sqrt() - a[-1].sqrt()) ** 2 * a[0].sqrt() / (a[0].sqrt() - a[-1].sqrt())), "outside of the square",
    ),
    "zero_terminal_snr: alpha_bar in the factor [formula]": (
        ZERO, stretched(lambda a: ((a.sqrt() - a[-1].sqrt()) * a[0] / (a[0].sqrt() - a[-1].sqrt())) ** 2), "alpha_bar\\[0\\] for a\\[0\\]",
    ),
    "zero_terminal_snr: 1000 values always [argument]": (
        ZERO, stretched(lambda a: right_stretch(torch.cat([a, a[-1:].expand(1000 - len(a))]))), "The shape must be",
    ),
    "zero_terminal_snr: the ends left out [shape]": (ZERO, stretched(lambda a: right_stretch(a)[:-1]), "The shape must be"),
    "zero_terminal_snr: ends at 1e-8 [end]": (ZERO, stretched(lambda a: right_stretch(a).clamp(min=1e-12)), "exactly 0, not 1e-12"),
    "zero_terminal_snr: ends at Lin's 2 ** -24 [end]": (
        ZERO, stretched(lambda a: torch.cat([right_stretch(a)[:-1], right_stretch(a)[-1:] + 2**-24])), "no further|exactly 0",
    ),
    "zero_terminal_snr: scaled before it is shifted [end]": (
        ZERO,
        stretched(lambda a: (lambda s: (s / (s[0] - s[-1]) * s[0] * (1 + 1e-13) - s[-1] / (s[0] - s[-1]) * s[0]) ** 2)(a.sqrt())),
        "exactly 0, not",
    ),
    "zero_terminal_snr: always float64 [precision]": (ZERO, stretched(lambda a: right_stretch(a.double())), "The table has the dtype that is given: float32, not torch.float64"),
    "zero_terminal_snr: always float32 [precision]": (ZERO, stretched(lambda a: right_stretch(a.float())), "no further"),
    "zero_terminal_snr: computed in float32 [precision]": (ZERO, stretched(lambda a: right_stretch(a.float()).to(a)), "no further"),
    "zero_terminal_snr: nothing refused [refusal]": (ZERO, stretched(right_stretch, lambda a: True), "A table that rises must be refused"),
    "zero_terminal_snr: flat accepted [refusal]": (ZERO, stretched(right_stretch, lambda a: a[0] >= a[-1]), "does not fall must be refused"),
    "zero_terminal_snr: only a rise refused [refusal]": (ZERO, stretched(right_stretch, lambda a: not a[0] < a[-1]), "does not fall must be refused"),
    "zero_terminal_snr: one value accepted [refusal]": (
        ZERO, stretched(lambda a: right_stretch(a) if len(a) > 1 else 0 * a, lambda a: len(a) == 1 or a[0] > a[-1]), "one value must be refused",
    ),
    "zero_terminal_snr: nan accepted [refusal]": (ZERO, stretched(right_stretch, lambda a: not a[0] <= a[-1]), "nan must be refused"),
    "zero_terminal_snr: an assert [refusal]": (ZERO, asserting_stretch, "With ValueError, not an assert"),
    "time_grid: n times for n steps (40) [formula]": (GRID, grid_with(lambda n, a, b: torch.linspace(a, b, n)), "4 steps need 5 times"),
    "time_grid: leading, never at t = 1 (41) [formula]": (
        GRID, grid_with(lambda n, a, b: grid(n, a, b) - (a - b) / (n + 1)), "evenly spaced, both included",
    ),
    "time_grid: the first is not the start [formula]": (GRID, grid_with(lambda n, a, b: b + (a - b) * (n - torch.arange(n + 1.0).double()) / (n + 1)), "the first time is not the start"),
    "time_grid: the last is not the end [formula]": (GRID, grid_with(lambda n, a, b: a - (a - b) * torch.arange(n + 1.0).double() / (n + 1)), "the last time is not the end"),
    "time_grid: rising [formula]": (GRID, grid_with(lambda n, a, b: grid(n, b, a)), "the times must fall"),
    "time_grid: quadratic [formula]": (GRID, grid_with(lambda n, a, b: b + (a - b) * (1 - torch.arange(n + 1.0).double() / n) ** 2), "evenly spaced"),
    "time_grid: start and end ignored [argument]": (GRID, grid_with(lambda n, a, b: grid(n, 1, 0)), "start and end are ignored"),
    "time_grid: end ignored [argument]": (GRID, grid_with(lambda n, a, b: grid(n, a, 0)), "end is ignored"),
    "time_grid: start ignored [argument]": (GRID, grid_with(lambda n, a, b: grid(n, 1, b)), "start is ignored"),
    "time_grid: dtype ignored [argument]": (GRID, lambda n, start=1.0, end=0.0, dtype=None: schedules.time_grid(n, start, end), "The grid has the dtype that is given"),
    "time_grid: float64 always [argument]": (
        GRID, lambda n, start=1.0, end=0.0, dtype=None: schedules.time_grid(n, start, end, torch.float64), "The grid has the dtype that is given",
    ),
    "time_grid: float64 without a dtype [argument]": (
        GRID, lambda n, start=1.0, end=0.0, dtype=torch.float64: schedules.time_grid(n, start, end, dtype), "The grid has the dtype that is given",
    ),
    "time_grid: computed in float32 [precision]": (GRID, grid_with(lambda n, a, b: grid(n, a, b).float()), "no further"),
    "time_grid: a list [shape]": (GRID, lambda *a, **k: schedules.time_grid(*a, **k).tolist(), "A grid is a tensor, and no list"),
    "time_grid: integers refused [refusal]": (
        GRID, grid_with(grid, lambda n, a, b: isinstance(n, int) and n > 0 and a > b >= 0 and isinstance(a, float)), "1 steps from 1 to 0 is valid",
    ),
    "time_grid: 0 steps accepted [refusal]": (GRID, grid_with(grid, lambda n, a, b: n >= 0 and int(n) == n and a > b >= 0), "steps = 0 must be refused"),
    "time_grid: negative steps accepted [refusal]": (
        GRID, grid_with(lambda n, a, b: grid(abs(n), a, b), lambda n, a, b: n and int(n) == n and a > b >= 0), "steps = -2 must be refused",
    ),
    "time_grid: fractional steps accepted [refusal]": (GRID, grid_with(grid, lambda n, a, b: n > 0 and a > b >= 0), "steps = 2.5 must be refused"),
    "time_grid: rising accepted [refusal]": (GRID, grid_with(grid, lambda n, a, b: isinstance(n, int) and n > 0 and a != b), "\\(0.0, 1.0\\) must be refused"),
    "time_grid: equal start and end accepted [refusal]": (GRID, grid_with(grid, lambda n, a, b: isinstance(n, int) and n > 0 and a >= b), "\\(0.5, 0.5\\) must be refused"),
    "time_grid: negative end accepted [refusal]": (GRID, grid_with(grid, lambda n, a, b: isinstance(n, int) and n > 0 and a > b), "\\(1.0, -0.1\\) must be refused"),
    "time_grid: nan accepted [refusal]": (
        GRID, grid_with(grid, lambda n, a, b: isinstance(n, int) and n > 0 and not (a <= b or b < 0)), "nan.* must be refused",
    ),
    "karras_sigmas: a 0 at the end [formula]": (
        KARRAS, levels_with(lambda n, *a: torch.cat([levels(max(n - 1, 1), *a), torch.zeros(1)])), "a 0 is the last",
    ),
    "karras_sigmas: n + 1 levels, 0 last [shape]": (
        KARRAS, levels_with(lambda n, *a: torch.cat([levels(n, *a), torch.zeros(1)])), "The shape must be \\(18,\\), and is \\(19,\\)",
    ),
    "karras_sigmas: rho forgotten [argument]": (
        KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, high, 1.0)), "rho is ignored: sigma falls evenly",
    ),
    "karras_sigmas: rho always 7 [argument]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, high, 7)), "here rho is 7"),
    "karras_sigmas: sigma_min always 0.002 [argument]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, 0.002, high, rho)), "sigma_min is ignored"),
    "karras_sigmas: sigma_max always 80 [argument]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, 80, rho)), "sigma_max is ignored"),
    "karras_sigmas: both ends ignored [argument]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, 0.002, 80, rho)), "sigma_min and sigma_max are ignored"),
    "karras_sigmas: sigma_max and n default to EDM's 80 and rho to 5 [argument]": (
        KARRAS,
        lambda n, sigma_min=0.002, sigma_max=80.0, rho=5.0, dtype=None: schedules.karras_sigmas(n, sigma_min, sigma_max, rho, dtype),
        "Without arguments",
    ),
    "karras_sigmas: rising [formula]": (KARRAS, levels_with(lambda *a: levels(*a).flip(0)), "the levels must fall"),
    "karras_sigmas: rho upside down [formula]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, high, 1 / rho)), "not in sigma\\^rho"),
    "karras_sigmas: even in the logarithm [formula]": (
        KARRAS, levels_with(lambda n, low, high, rho: torch.logspace(math.log10(high), math.log10(low), n, dtype=torch.float64)), "evenly in its logarithm",
    ),
    "karras_sigmas: the power is missing [formula]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, high, rho) ** (1 / rho)), "power rho is missing"),
    "karras_sigmas: n for n - 1 [formula]": (
        KARRAS, levels_with(lambda n, *a: levels(n + 1, *a)[:n]), "both ends included",
    ),
    "karras_sigmas: computed in float32 [precision]": (KARRAS, levels_with(lambda *a: levels(*a, dtype=torch.float32)), "no further"),
    "karras_sigmas: dtype ignored [argument]": (
        KARRAS, lambda n, sigma_min=0.002, sigma_max=80.0, rho=7.0, dtype=None: schedules.karras_sigmas(n, sigma_min, sigma_max, rho), "Levels have the dtype that is given",
    ),
    "karras_sigmas: always float64 [argument]": (
        KARRAS, lambda n, sigma_min=0.002, sigma_max=80.0, rho=7.0, dtype=None: levels_with(levels)(n, sigma_min, sigma_max, rho, torch.float64), "Levels have the dtype that is given",
    ),
    "karras_sigmas: one level accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: n > 0 and high > low > 0 and rho > 0), "n = 1 must be refused"),
    "karras_sigmas: fractional n accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: n > 1 and high > low > 0 and rho > 0), "n = 2.5 must be refused"),
    "karras_sigmas: sigma_min 0 accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and high > low >= 0 and rho > 0), "sigma_min = 0.0 must be refused"),
    "karras_sigmas: negative sigma_min accepted [refusal]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, abs(low), high, rho), lambda n, low, high, rho: isinstance(n, int) and n > 1 and low and high > low and rho > 0), "sigma_min = -1.0 must be refused"),
    "karras_sigmas: sigma_max < sigma_min accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and low > 0 and high > 0 and rho > 0), "sigma_min = 80.0 must be refused"),
    "karras_sigmas: equal ends accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and high >= low > 0 and rho > 0), "sigma_min = 80.0 must be refused"),
    "karras_sigmas: rho 0 accepted [refusal]": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, low, high, rho or 1), lambda n, low, high, rho: isinstance(n, int) and n > 1 and high > low > 0 and rho >= 0), "rho = 0.0 must be refused"),
    "karras_sigmas: negative rho accepted [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and high > low > 0 and rho), "rho = -7.0 must be refused"),
    "karras_sigmas: nan accepted [refusal]": (
        KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and not (high <= low or low <= 0 or rho <= 0)), "nan must be refused",
    ),
    "cosine: alpha below 1e-2 is 0 [end]": (COSINE, lambda t: tuple(torch.where(c < 1e-2, 0 * c, c) for c in cosine(t)), "stands still: is something clamped"),
    "cosine: alpha below 1e-3 is 0 [end]": (COSINE, lambda t: (torch.where(t > 1 - 6e-4, 0 * t, cosine(t)[0]), cosine(t)[1]), "stands still"),
    "cosine: times clamped, the ends by hand [end]": (COSINE, ends(within(cosine, 1e-3, 1 - 1e-3)), "stands still: is something clamped"),
    "cosine: times clamped at 1e-4, the ends by hand [end]": (COSINE, ends(within(cosine, 1e-4, 1 - 1e-4)), "stands still: is something clamped"),
    "cosine: a straight line close to t = 0 [end]": (COSINE, lambda t: cosine(torch.where(t < 2e-3, t * 1.01, t)), "Also close to the ends"),
    "cosine: no return [shape]": (COSINE, lambda t: None, "Is `return` missing"),
    "cosine: alpha alone [shape]": (COSINE, lambda t: cosine(t)[0], "each of t's shape"),
    "cosine: three results [shape]": (COSINE, lambda t: (*cosine(t), t), "two of them"),
    "cosine: half a circle of sines [formula]": (COSINE, lambda t: (torch.sin(torch.pi * (1 - t)), torch.sin(torch.pi * t)), "How far does the angle run"),
    "cosine: sine and cosine swapped [formula]": (COSINE, lambda t: (torch.sin(torch.pi / 2 * t), torch.cos(torch.pi / 2 * t)), "alpha and sigma swapped"),
    "cosine: a tangent, clamped at 20 [end]": (
        COSINE, lambda t: (lambda w: (1 / (1 + w**2).sqrt(), w / (1 + w**2).sqrt()))(torch.tan(torch.pi / 2 * t.double()).clamp(0, 20).to(t)), "nothing clamped",
    ),
    "linear_beta: no signal at t = 1 [end]": (LINEAR, lambda t: (linear_beta(t)[0] * (t < 1), torch.where(t < 1, linear_beta(t)[1], 1.0)), "Also close to the ends"),
    "sigmoid: small values are 0 [end]": (SIGMOID, lambda t: tuple(torch.where(c < 1e-2, 0 * c, c) for c in sigmoid(t)), "stands still|Also close|alpha\\^2 \\+ sigma\\^2"),
    "rectified_flow: small values are 0 [end]": (FLOW, lambda t: (torch.where(t > 0.999, 0 * t, 1 - t), t), "stands still"),
    "rectified_flow: sigma is 0 below 1e-3 [end]": (FLOW, lambda t: (1 - t, torch.where(t < 2e-3, 0 * t, t)), "stands still"),
    "edm: sigma is 0 below 1e-5 [end]": (EDM, lambda t: (torch.ones_like(t), torch.where(t < 1e-5, 0 * t, t)), "below 1e-5 is 0"),
    "shifted: 1 close to t = 1 [end]": (SHIFTED, shifted_by(lambda t, s: torch.where(t > 1 - 2e-3, 1.0, FRACTION(t, s))), "Also close to the ends"),
    "shifted: 1 close to t' = 1 [end]": (SHIFTED, shifted_by(lambda t, s: (lambda u: torch.where(u > 1 - 1e-4, 1.0, u))(FRACTION(t, s))), "Also close to the ends"),
    "shifted: 0 close to t' = 0 [end]": (SHIFTED, shifted_by(lambda t, s: (lambda u: torch.where(u < 1e-4, 0.0, u))(FRACTION(t, s))), "Also close to the ends"),
    "shifted: at most 20 [argument]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, min(s, 20))), "the shift is 20, not 1000"),
    "shifted: at least 0.01 [argument]": (SHIFTED, shifted_by(lambda t, s: FRACTION(t, max(s, 0.01))), "the shift is 0.01, not 0.001"),
    "shifted: above 100 refused [refusal]": (SHIFTED, shifted_by(FRACTION, valid=lambda s: 0 < s <= 100), "shift = 1000 is valid"),
    "shifted: the schedule of the last one for all [argument]": (SHIFTED, last_schedule, "here the one that was shifted last"),
    "shifted: no return [shape]": (SHIFTED, lambda f, s: None, "a function of t that returns \\(alpha, sigma\\), and no NoneType"),
    "shifted: the values at once [shape]": (SHIFTED, lambda f, s: f(torch.ones(3)), "a function of t that returns \\(alpha, sigma\\), and no tuple"),
    "shifted: the new one returns nothing [shape]": (SHIFTED, lambda f, s: lambda t: shifted(f, s)(t) and None, "Is `return` missing"),
    "tabulated: equal neighbours refused [refusal]": (TABLE, lambda a: tabulated(a if len(a) == 1 or (a.diff() < 0).all() else a[None]), "equal neighbours is valid"),
    "tabulated: a first 1 refused [refusal]": (TABLE, lambda a: tabulated(a[None] if len(a) and a.flatten()[0] == 1 else a), "begins with 1 is valid"),
    "tabulated: a small rise accepted [refusal]": (TABLE, table_with(chord, lambda a: a.ndim == 1 and len(a) > 0 and bool((a.diff() <= 1e-3).all()) and 0 <= a[-1] and a[0] <= 1), "rises once, in the middle"),
    "rates: sigma from alpha [formula]": (RATES, lambda f, t: (lambda d: (d, -f(t)[0] * d / f(t)[1]))(schedules.rates(f, t)[0]), "sigma\\^2 is not 1 - alpha\\^2"),
    "rates: t is the tangent [formula]": (RATES, lambda f, t: torch.func.jvp(f, (t,), (t,))[1], "Is t the tangent"),
    "mix: noise of another shape with as many entries [refusal]": (
        MIX, lambda x, eps, t, f: schedules.mix(x, eps.reshape(x.shape) if eps.numel() == x.numel() else eps, t, f), "x and eps have one shape",
    ),
    "mix: clipped at 20 [end]": (MIX, lambda *a: schedules.mix(*a).clamp(-20, 20), "clipped at 20"),
    "mix: times clamped at 1e-3 [end]": (MIX, lambda x, eps, t, f: schedules.mix(x, eps, t.clamp(1e-3, 1 - 1e-3), f), "also at t = 0 and t = 1"),
    "time_grid: from 0.999 by default [argument]": (GRID, lambda n, start=0.999, end=0.0, dtype=None: schedules.time_grid(n, start, end, dtype), "Without start and end"),
    "time_grid: to 0.001 by default [argument]": (GRID, lambda n, start=1.0, end=0.001, dtype=None: schedules.time_grid(n, start, end, dtype), "Without start and end"),
    "time_grid: float32 without a dtype [argument]": (GRID, lambda n, start=1.0, end=0.0, dtype=None: schedules.time_grid(n, start, end, dtype or torch.float32), "torch's default without one"),
    "karras_sigmas: float32 without a dtype [argument]": (
        KARRAS, lambda n, sigma_min=0.002, sigma_max=80.0, rho=7.0, dtype=None: schedules.karras_sigmas(n, sigma_min, sigma_max, rho, dtype or torch.float32), "torch's default without one",
    ),
    "karras_sigmas: rho below 1 refused [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and high > low > 0 and rho >= 1), "rho = 0.5 is valid"),
    "karras_sigmas: sigma_max above 80 refused [refusal]": (KARRAS, levels_with(levels, lambda n, low, high, rho: isinstance(n, int) and n > 1 and 80 >= high > low > 0 and rho > 0), "from 500.0 to 1.0, rho = 0.5 is valid"),
    "zero_terminal_snr: small values are 0 [end]": (ZERO, stretched(lambda a: torch.where(right_stretch(a) < 1e-4, 0.0, right_stretch(a))), "what is small is 0"),
    "zero_terminal_snr: a small fall refused [refusal]": (ZERO, stretched(right_stretch, lambda a: a[0] > a[-1] + 1e-3), "falls by little is valid"),
    "zero_terminal_snr: a first 1 refused [refusal]": (ZERO, stretched(right_stretch, lambda a: 1 > a[0] > a[-1]), "starts at 1 is valid"),
    "zero_terminal_snr: more than 1000 values refused [refusal]": (ZERO, stretched(right_stretch, lambda a: len(a) <= 1000 and a[0] > a[-1]), "A table of 2000 values"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught:
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


def cosine_by_sample(t):
    if not t.requires_grad:
        pairs = [(math.sin(math.pi / 2 * (1 - u)), math.sin(math.pi / 2 * u)) for u in t.tolist()]
        return tuple(torch.tensor(c, dtype=t.dtype) for c in zip(*pairs))
    return tuple(torch.stack([good(u)[k] for u in t]) for k in (0, 1))


def good(t):
    return torch.sin(torch.pi / 2 * (1 - t)), torch.sin(torch.pi / 2 * t)


def cosine_where(t):
    alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
    return torch.where(t == 1, torch.zeros_like(t), alpha), torch.where(t == 0, 0.0, sigma)


def cosine_in_float64(t):
    angle = torch.pi / 2 * t.double()
    return torch.cos(angle).where(t < 1, 0.0).to(t.dtype), torch.sin(angle).to(t.dtype)


def cosine_from_sigma(t):
    sigma = torch.sin(torch.pi / 2 * t)
    return ((1 - sigma) * (1 + sigma)).sqrt(), sigma


def shifted_by_sample(schedule, shift):
    if not shift > 0:
        raise ValueError("shift must be positive")

    def new(t):
        pairs = [schedule(shift * u / (shift * u + (1 - u))) for u in t.split(1)]
        return torch.cat([a for a, _ in pairs]), torch.cat([s for _, s in pairs])

    return new


def shifted_on_call(schedule, shift):
    def new(t):
        if not shift > 0:
            raise ValueError("shift must be positive")
        return schedule(1 - (1 - t) / (1 + (shift - 1) * t))

    return new


def shifted_with_a_clone(schedule, shift):
    """One buffer, filled in place."""
    if not 0 < shift < math.inf:
        raise ValueError("shift must be positive and finite")

    def new(t):
        u = t.clone()
        u /= t + (1 - t) / shift
        return schedule(u)

    return new


def stretch_by_list(alpha_bar):
    roots = [math.sqrt(a) for a in alpha_bar.tolist()]
    if not roots[0] > roots[-1]:
        raise ValueError("alpha_bar must fall")
    scale = roots[0] / (roots[0] - roots[-1])
    return torch.tensor([((a - roots[-1]) * scale) ** 2 for a in roots], dtype=alpha_bar.dtype)


def stretch_as_lin(alpha_bar):
    """Algorithm 1, line by line."""
    if len(alpha_bar) < 2 or not alpha_bar[0] > alpha_bar[-1]:
        raise ValueError("alpha_bar must fall")
    a = alpha_bar.sqrt()
    first, last = a[0].clone(), a[-1].clone()
    a -= last
    a *= first / (first - last)
    return a**2


def stretch_in_float64(alpha_bar):
    if bool((alpha_bar[:1] > alpha_bar[-1:]).all()) is False:
        raise ValueError("alpha_bar must fall")
    a = alpha_bar.double() ** 0.5
    return torch.lerp(0 * a[0], a[0], (a - a[-1]) / (a[0] - a[-1])).square().to(alpha_bar.dtype)


def mix_with_einops(x, eps, t, f):
    if x.shape != eps.shape or t.shape != x.shape[:1]:
        raise ValueError("shapes")
    alpha, sigma = (rearrange(c.to(x), "b -> b" + " 1" * (x.ndim - 1)) for c in f(t))
    return alpha * x + sigma * eps


def mix_by_sample(x, eps, t, f):
    if x.shape != eps.shape or t.shape != x.shape[:1]:
        raise ValueError("shapes")
    alpha, sigma = f(t)
    return torch.stack([(alpha[i] * x[i] + sigma[i] * eps[i]).to(x.dtype) for i in range(len(x))])


def mix_with_einsum(x, eps, t, f):
    if x.shape != eps.shape or t.shape != x.shape[:1]:
        raise ValueError("shapes")
    alpha, sigma = (c.to(x.dtype) for c in f(t))
    return torch.einsum("b,b...->b...", alpha, x) + torch.einsum("b,b...->b...", sigma, eps)


def time_list(steps, start=1.0, end=0.0, dtype=None):
    if not (isinstance(steps, int) and steps > 0 and start > end >= 0):
        raise ValueError("grid")
    return torch.tensor([start + (end - start) * i / steps for i in range(steps + 1)], dtype=dtype)


def time_arange(steps, start=1.0, end=0.0, dtype=None):
    if steps != steps or steps < 1 or int(steps) != steps or not start > end or end < 0:
        raise ValueError("grid")
    share = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    return (end + (start - end) * share).to(dtype or torch.get_default_dtype())


def karras_list(n, sigma_min=0.002, sigma_max=80.0, rho=7.0, dtype=None):
    if not (isinstance(n, int) and n > 1 and sigma_max > sigma_min > 0 and rho > 0):
        raise ValueError("levels")
    a, b = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.tensor([(a + i / (n - 1) * (b - a)) ** rho for i in range(n)], dtype=dtype)


def betas_by_hand(kind, n=1000):
    if kind not in ("linear", "scaled_linear", "squaredcos") or not isinstance(n, int) or n < 1:
        raise ValueError("betas")
    if kind == "squaredcos":
        bar = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return torch.tensor(
            [min(1 - bar((i + 1) / n) / bar(i / n), 0.999) for i in range(n)], dtype=torch.float64
        )
    power, start, end = {"linear": (1, 1e-4, 0.02), "scaled_linear": (2, 0.00085, 0.012)}[kind]
    return torch.linspace(start ** (1 / power), end ** (1 / power), n, dtype=torch.float64).pow(power)


def linear_beta_by_integral(t):
    b = torch.lerp(torch.full_like(t, 0.1), torch.full_like(t, 20.0), t / 2) * t  # the mean of beta, times t
    return (-b / 2).exp(), (-(-b).expm1()).sqrt()


def sigmoid_by_definition(t):
    start, end, now = (
        torch.sigmoid(t.new_tensor(3.0)),
        torch.sigmoid(t.new_tensor(-3.0)),
        torch.sigmoid(3 - 6 * t),
    )
    alpha_bar = ((now - end) / (start - end)).clamp(0, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


RIGHT = {
    "cosine: two sines": (COSINE, good),
    "cosine: cos with a clamp": (COSINE, lambda t: (torch.cos(torch.pi / 2 * t).clamp(min=0), torch.sin(torch.pi / 2 * t))),
    "cosine: relu": (COSINE, lambda t: (torch.relu(torch.cos(t * math.pi / 2)), torch.sin(t * math.pi / 2))),
    "cosine: torch.where at the ends": (COSINE, cosine_where),
    "cosine: float64 inside": (COSINE, cosine_in_float64),
    "cosine: sample by sample": (COSINE, cosine_by_sample),
    "cosine: alpha from sigma": (COSINE, cosine_from_sigma),
    "cosine: a list of two": (COSINE, lambda t: [*good(t)]),
    "cosine: sinpi": (COSINE, lambda t: (torch.special.sinc((1 - t) / 2) * (1 - t) * torch.pi / 2, torch.special.sinc(t / 2) * t * torch.pi / 2)),
    "cosine: one stacked tensor": (COSINE, lambda t: torch.stack(good(t))),
    "shifted: sample by sample": (SHIFTED, shifted_by_sample),
    "shifted: refuses when asked": (SHIFTED, shifted_on_call),
    "shifted: one buffer": (SHIFTED, shifted_with_a_clone),
    "shifted: divided by t + (1 - t) / shift": (SHIFTED, shifted_by(FRACTION)),
    "shifted: the textbook fraction, but for t = 1": (
        SHIFTED, shifted_by(lambda t, s: torch.where(t == 1, torch.ones_like(t), s * t / (1 + (s - 1) * t))),
    ),
    "shifted: by log SNR's own form": (SHIFTED, shifted_by(lambda t, s: (s * t) / ((s * t) + (1 - t)))),
    "zero_terminal_snr: by lists": (ZERO, stretch_by_list),
    "zero_terminal_snr: Lin's algorithm": (ZERO, stretch_as_lin),
    "zero_terminal_snr: float64 inside": (ZERO, stretch_in_float64),
    "zero_terminal_snr: in one line": (ZERO, stretched(right_stretch)),
    "zero_terminal_snr: refuses every rise": (
        ZERO, stretched(right_stretch, lambda a: len(a) > 1 and bool((a.diff() < 0).all())),
    ),
    "linear_beta: the mean of beta": (LINEAR, linear_beta_by_integral),
    "linear_beta: one formula": (LINEAR, linear_with(lambda t: 0.1 * t + 9.95 * t * t)),
    "linear_beta: refuses t > 1": (LINEAR, linear_beta),
    "linear_beta: exp of exp": (LINEAR, lambda t: (torch.exp(-0.05 * t - 4.975 * t**2), torch.expm1(-0.1 * t - 9.95 * t**2).neg().sqrt())),
    "sigmoid: by its definition": (SIGMOID, sigmoid_by_definition),
    "sigmoid: its ends by hand": (SIGMOID, sigmoid_with(-3, 3)),
    "sigmoid: by tanh": (
        SIGMOID,
        lambda t: tuple(((1 - s * torch.tanh(3 * t - 1.5) / math.tanh(1.5)) / 2).clamp(0, 1).where(t != (s + 1) / 2, 0.0).sqrt() for s in (1, -1)),
    ),
    "sigmoid: ours": (SIGMOID, sigmoid),
    "rectified_flow: unchecked": (FLOW, lambda t: (1 - t, t)),
    "rectified_flow: lerp": (FLOW, lambda t: (torch.lerp(torch.ones_like(t), torch.zeros_like(t), t), 1 * t)),
    "rectified_flow: numpy's way": (FLOW, lambda t: (-t + 1.0, t.clone())),
    "rectified_flow: from sigma": (FLOW, lambda t: ((lambda s: (1 - s, s))(t + 0))),
    "edm: unchecked": (EDM, lambda t: (torch.ones_like(t), t)),
    "edm: t^0": (EDM, lambda t: (t**0, t)),
    "edm: t.new_ones": (EDM, lambda t: (t.new_ones(t.shape), t.clone())),
    "edm: with a gradient of 0": (EDM, lambda t: (1 + 0 * t, 1 * t)),
    "tabulated: the chord by hand": (TABLE, table_with(chord)),
    "tabulated: with searchsorted": (TABLE, tabulated_by_search),
    "tabulated: by its share from the right": (TABLE, table_with(lambda a, b, s: chord(b, a, 1 - s))),
    "tabulated: with lists": (TABLE, table_with(lambda a, b, s: [*chord(a, b, s)])),
    "rates: backward": (RATES, reverse_mode),
    "rates: jvp in float64": (RATES, lambda f, t: tuple(r.to(t.dtype) for r in schedules.rates(f, t.double()))),
    "rates: a list": (RATES, lambda f, t: [*torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]]),
    "rates: sample by sample": (
        RATES, lambda f, t: tuple(torch.cat(c) for c in zip(*(schedules.rates(f, u) for u in t.split(1)))),
    ),
    "log_snr: the difference of logarithms": (SNR, lambda f, t: (lambda a, s: 2 * a.log() - 2 * s.log())(*f(t))),
    "log_snr: of the quotient": (SNR, lambda f, t: -2 * (f(t)[1] / f(t)[0]).log()),
    "log_snr: float64 inside": (SNR, lambda f, t: (lambda a, s: (2 * (a / s).log()).to(t.dtype))(*f(t))),
    "log_snr: by base 2": (SNR, lambda f, t: 2 * math.log(2) * ((f(t)[0]).log2() - f(t)[1].log2())),
    "mix: einops": (MIX, mix_with_einops),
    "mix: sample by sample": (MIX, mix_by_sample),
    "mix: einsum": (MIX, mix_with_einsum),
    "mix: numpy's way": (MIX, mixed(lambda x, e, a, s: a * x + s * e)),
    "beta_table: by hand": (BETAS, betas_by_hand),
    "beta_table: numpy": (BETAS, lambda kind, n=1000: torch.from_numpy(schedules.beta_table(kind, n).numpy().copy())),
    "beta_table: squaredcos by tensors": (BETAS, betas_with(squaredcos=squaredcos())),
    "beta_table: cumulative": (BETAS, betas_with(linear=lambda n: 1e-4 + 0.0199 * torch.arange(n).double() / max(n - 1, 1))),
    "time_grid: a list": (GRID, time_list),
    "time_grid: arange": (GRID, time_arange),
    "time_grid: reversed linspace": (GRID, grid_with(lambda n, a, b: torch.linspace(b, a, n + 1, dtype=torch.float64).flip(0))),
    "time_grid: linspace": (GRID, grid_with(grid)),
    "karras_sigmas: a list": (KARRAS, karras_list),
    "karras_sigmas: float64 inside": (KARRAS, levels_with(levels)),
    "karras_sigmas: reversed": (KARRAS, levels_with(lambda n, low, high, rho: levels(n, high, low, rho).flip(0))),
    "karras_sigmas: numpy": (
        KARRAS, levels_with(lambda n, low, high, rho: torch.from_numpy(np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_answer_passes(name, unchecked_shapes):
    check, right = RIGHT[name]
    check(right)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos"])
def test_golden_tables(kind):
    alpha_bar = (1 - schedules.beta_table(kind)).cumprod(0)
    expected = torch.tensor(GOLDEN["alpha_bar"][kind], dtype=torch.float64)
    # theirs is a product of a thousand float32 numbers
    torch.testing.assert_close(alpha_bar[GOLDEN["alpha_bar_index"]], expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_golden_zero_terminal_snr(kind):
    rescaled = schedules.zero_terminal_snr((1 - schedules.beta_table(kind)).cumprod(0))
    expected = torch.tensor(GOLDEN["zero_terminal_snr"][kind], dtype=torch.float64)
    torch.testing.assert_close(rescaled[GOLDEN["zero_terminal_snr_index"]], expected, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(rescaled[[249, 499]], expected[:2], rtol=1e-6, atol=0)


def test_golden_sigmas():
    torch.testing.assert_close(
        schedules.karras_sigmas(5), torch.tensor(GOLDEN["karras_5"]), rtol=1e-5, atol=1e-7
    )


def test_sigmoid_values():
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)  # Jabri et al. (2023), start -3, end 3, tau 1
    expected = torch.tensor([0.85085, 0.5, 0.14915], dtype=torch.float64)
    torch.testing.assert_close(sigmoid(t)[0] ** 2, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "schedule", [cosine, linear_beta, sigmoid, edm, rectified_flow], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_at_the_ends(schedule, dtype):
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    for value in (*schedule(t), *schedules.rates(schedule, t), schedules.log_snr(schedule, t)):
        assert value.dtype == dtype and not value.isnan().any()


def test_expanded_times_have_rates():
    torch.testing.assert_close(
        schedules.rates(cosine, torch.tensor(0.3).expand(5))[0],
        schedules.rates(cosine, torch.full((5,), 0.3))[0],
    )


def test_a_time_that_is_no_tensor_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="one for each sample"):
        schedules.mix(torch.zeros(2, 2), torch.zeros(2, 2), 0.5, cosine)
    with pytest.raises(ValueError, match="float tensor"):
        schedules.mix(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([1, 2]), cosine)


def test_the_usual_cosine_is_a_schedule_too():
    """cos(pi / 2) is -4e-8 in float32: that is 0, and not refused."""
    usual = lambda t: (torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t))
    t, z = torch.tensor([1.0, 0.5]), torch.randn(2, 3)
    assert usual(t)[0][0] < 0 and schedules.log_snr(usual, t)[0] == -torch.inf
    torch.testing.assert_close(schedules.mix(z, z.flip(0), t, usual), schedules.mix(z, z.flip(0), t, cosine))
