"""Flow maps: the checks on our code, on every mistake of the list, the exact flow of a mixture, behaviour.

The numbers in brackets are those of the list of mistakes that people made or proposed: here 55 to 80, the
losses have theirs. 56 and 57 are mistakes of flow matching itself, and stand in test_phased ("flow: ..."); here
they come about by a wrong diagonal.
"""

import contextlib
import functools
import math
import re

import einops
import pytest
import torch
from planted import same

from minidistill import flowmap
from minidistill.checks import column, exact
from minidistill.checks import flowmap as checks
from minidistill.checks.oracle import mixture
from minidistill.flowmap import (
    as_mean_velocity,
    diagonal,
    draw_times,
    exact_mean_velocity,
    flow_map_sample,
    guided_slope,
)
from minidistill.parameterization import as_denoiser, as_velocity
from minidistill.phased import flow_matching_loss, jump
from minidistill.samplers import euler
from minidistill.schedules import cosine, edm, linear_beta, rectified_flow

MEAN, DIAGONAL, EXACT, TIMES, GUIDED, SAMPLE = CHECKS = [
    checks.check_as_mean_velocity,
    checks.check_diagonal,
    checks.check_exact_mean_velocity,
    checks.check_draw_times,
    checks.check_guided_slope,
    checks.check_flow_map_sample,
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the mistakes, each one thing changed in code that is otherwise right


def lenient(when):
    """Looks at the times, and lets pass what it ought to refuse where `when` says so."""

    def look(z, t, s):
        try:
            flowmap.look(z, t, s)
        except ValueError:
            if not when(t, s):
                raise

    return look


def good(t, s):
    return (s >= 0) & (s <= t) & (t <= 1)


LOOKS = {
    "s above t accepted [refusal]": (lambda t, s: t.shape == s.shape == (4,) and within(t, s), "s above t must be refused"),
    "t above 1 accepted [refusal]": (lambda t, s: (t > 1).any() and t.isfinite().all(), r"t = 1\.0001|t = 1\.1"),
    "s below 0 accepted [refusal]": (lambda t, s: (s < 0).any(), r"s = -0\.0001|s = -0\.1"),
    "nan accepted [refusal]": (lambda t, s: t.isnan().any() or s.isnan().any(), "= nan must be refused"),
    "refused only when all are bad [refusal]": (lambda t, s: t.shape == s.shape and good(t, s).any(), "as one of many"),
    "refused by the mean [refusal]": (lambda t, s: t.shape == s.shape and good(t.mean(), s.mean()), "as one of many"),
    "only the first looked at [refusal]": (lambda t, s: t.shape == s.shape and good(t[0], s[0]), "as one of many"),
    "one time for all samples [refusal]": (lambda t, s: len(t) * len(s) == 4, r"of shape \(1,\) for 4 samples"),
    "a column of times [shape]": (lambda t, s: t.ndim + s.ndim == 3, r"of shape \(4, 1\) for 4 samples"),
}  # fmt: skip


def within(t, s):
    return ((t >= 0) & (t <= 1) & (s >= 0)).all()


# the network as a mean velocity


def angle(t, sd):
    return torch.atan2(t, (1 - t) * sd)


def closed(x, F, r, z, t, s, sd):
    return ((t - (1 - t) * sd**2) * x + sd * F) / r


def landing(x, F, r, z, t, s, sd):
    """r_s (cos(d) z / r - sin(d) F), d = phi_t - phi_s."""
    d = angle(t, sd) - angle(s, sd)
    return torch.hypot((1 - s) * sd, s) * (d.cos() * x - d.sin() * F)


def quotient(*args):
    *_, z, t, s, sd = args
    return (z - landing(*args)) / (t - s)


def mean_with(
    r=lambda t, s, sd: torch.hypot((1 - t) * sd, t),
    angles=lambda t, s, sd: (angle(t, sd), angle(t, sd) - angle(s, sd)),
    call=lambda net, x, phi, gap, more: net(x, phi, gap, **more),
    value=closed,
    std=lambda sd: sd,
    look=flowmap.look,
    like=column,
    shape=same,
    inside=None,
    refuse=lambda sd: as_mean_velocity(None, sd),
    time=lambda t: t,
    out=lambda u, z: u.to(z),
):
    """as_mean_velocity, with one thing changed."""

    def wrong(net, data_std=1.0, **more):
        refuse(data_std)
        sd = std(data_std)

        def u(z, t, s):
            look(z, t, s)
            t, s = (time(a).to(inside or z.dtype) for a in (t, s))
            radius = r(t, s, sd)
            x = z / like(radius, z)
            F = shape(call(net, x.to(z), *(a.to(z) for a in angles(t, s, sd)), more), z)
            return out(value(x, F, like(radius, z), z, like(t, z), like(s, z), sd), z)

        return u

    return wrong


def detached(*args):
    return closed(*args).detach()


def by_loop(c, z):
    return torch.stack([a.expand(z.shape[1:]) for a in c])


def kept_closure():
    """Settings are kept outside of the function that is made: the next one changes the one before."""
    kept = {}

    def wrong(net, data_std=1.0, **more):
        kept.update(net=net, data_std=data_std)
        as_mean_velocity(net, data_std)
        return lambda z, t, s: as_mean_velocity(kept["net"], kept["data_std"], **more)(z, t, s)

    return wrong


def in_place(net, data_std=1.0, **more):
    made = as_mean_velocity(net, data_std, **more)

    def u(z, t, s):
        found = made(z, t, s)
        z.div_(2)
        return found

    return u


def without_grad(net, data_std=1.0, **more):
    made = as_mean_velocity(net, data_std, **more)
    return lambda z, t, s: torch.no_grad()(made)(z, t, s)


def spoils_the_answer(x, F, r, z, t, s, sd):
    with torch.no_grad():
        F *= sd
    return ((t - (1 - t) * sd**2) * x + F) / r


def with_velocity_on_the_diagonal(least):
    """A quotient, and where s = t, or nearly, the closed form."""
    return lambda *a: torch.where(a[4] - a[5] > least, quotient(*a), closed(*a))


def arcs(t, s, sd):
    a, b = (torch.asin(time / torch.hypot((1 - time) * sd, time)) for time in (t, s))
    return a, a - b


MEANS = {
    "[71] r forgotten in the mean velocity [formula]": (mean_with(value=lambda x, F, r, *a: closed(x, F, 1, *a)), "division by r is missing"),
    "[71] z as it is [formula]": (mean_with(r=lambda t, s, sd: torch.ones_like(t)), "here z itself"),
    "[71] r forgotten behind F [formula]": (mean_with(value=lambda x, F, r, *a: closed(x, F * r, r, *a)), "missing behind F"),
    "[72] data_std forgotten before F [formula]": (
        mean_with(value=lambda x, F, r, z, t, s, sd: closed(x, F / sd, r, z, t, s, sd)), "data_std is missing before F"
    ),
    "[73] the sign of F [formula]": (mean_with(value=lambda x, F, *a: closed(x, -F, *a)), "The sign of F is a plus"),
    "[74] the interval phi_t - s [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), angle(t, sd) - s)), "s has its angle, too"),
    "[74] s itself [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), s)), "not s"),
    "[74] the interval t - s [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), t - s)), "one of angles"),
    "[75] a quotient [end]": (mean_with(value=quotient), "nan or inf"),
    "[75] a quotient, the velocity at s = t [precision]": (mean_with(value=with_velocity_on_the_diagonal(0)), "Right to five digits|loses its digits"),
    "[75] a quotient down to 1e-6 [precision]": (mean_with(value=with_velocity_on_the_diagonal(1e-6)), "short intervals is right in float64, but not"),
    "[75] divided by t - s + 1e-8 [end]": (
        mean_with(value=lambda *a: (a[3] - landing(*a)) / (a[4] - a[5] + 1e-8)), "no further|u = "
    ),
    "[76] angles exchanged [formula]": (mean_with(angles=lambda t, s, sd: (angle(s, sd), angle(s, sd) - angle(t, sd))), "angles are exchanged"),
    "[76] interval first [formula]": (mean_with(call=lambda net, x, phi, gap, more: net(x, gap, phi, **more)), "then the interval"),
    "the second angle itself [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), angle(s, sd))), "not phi_s itself"),
    "the interval is negative [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), angle(s, sd) - angle(t, sd))), "at least 0"),
    "the interval is always 0 [argument]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), 0 * t)), "s is not used"),
    "the interval ends at 0 [argument]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), angle(t, sd))), "ends at s, and here at 0"),
    "t for the angle [formula]": (mean_with(angles=lambda t, s, sd: (t, t - s)), "the angle phi_t, not t"),
    "data_std missing in the angles [argument]": (mean_with(angles=lambda t, s, sd: (angle(t, 1), angle(t, 1) - angle(s, 1))), "data_std is missing in phi_t"),
    "data_std missing in the angle of s [argument]": (mean_with(angles=lambda t, s, sd: (angle(t, sd), angle(t, sd) - angle(s, 1))), "in the angle of s"),
    "data_std on the noise [formula]": (mean_with(angles=lambda t, s, sd: (angle(t, 1 / sd), angle(t, 1 / sd) - angle(s, 1 / sd))), "on the data, not on the noise"),
    "pi / 2 - phi [formula]": (mean_with(angles=lambda t, s, sd: (math.pi / 2 - angle(t, sd), angle(t, sd) - angle(s, sd))), "the other way round"),
    "cosine's angle [formula]": (mean_with(angles=lambda t, s, sd: (t * math.pi / 2, (t - s) * math.pi / 2)), "this is cosine's"),
    "r without its root [formula]": (mean_with(r=lambda t, s, sd: ((1 - t) * sd) ** 2 + t**2), "its root is missing"),
    "r without data_std [argument]": (mean_with(r=lambda t, s, sd: torch.hypot(1 - t, t)), "data_std is missing in r"),
    "r of s [formula]": (mean_with(r=lambda t, s, sd: torch.hypot((1 - s) * sd, s)), "not of s"),
    "r as a sum [formula]": (mean_with(r=lambda t, s, sd: (1 - t) * sd + t), "not the sum"),
    "data_std ignored [argument]": (mean_with(std=lambda sd: 1.0), "data_std is missing in r"),
    "data_std not squared [formula]": (mean_with(value=lambda x, F, r, z, t, s, sd: ((t - (1 - t) * sd) * x + sd * F) / r), "data_std is squared"),
    "data_std missing before z / r [formula]": (mean_with(value=lambda x, F, r, z, t, s, sd: ((2 * t - 1) * x + sd * F) / r), "missing before z / r"),
    "a plus before (1 - t) [formula]": (mean_with(value=lambda x, F, r, z, t, s, sd: ((t + (1 - t) * sd**2) * x + sd * F) / r), "A sign is wrong"),
    "where the jump lands [formula]": (mean_with(value=landing), "where the jump lands"),
    "the way that is gone [formula]": (mean_with(value=lambda *a: a[3] - landing(*a)), "divided by t - s"),
    "towards the data [formula]": (mean_with(value=lambda *a: -closed(*a)), "leads from data to noise"),
    "F itself [formula]": (mean_with(value=lambda x, F, *a: F), "F itself"),
    "the denoiser [formula]": (mean_with(value=lambda x, F, r, z, t, s, sd: sd * ((1 - t) * sd / r * x - t / r * F)), "the denoiser"),
    "clipped [formula]": (mean_with(value=lambda *a: closed(*a).clamp(-5, 5)), "Nothing is clipped"),
    "t clamped at 0.999 [end]": (mean_with(time=lambda t: t.clamp(max=0.999)), r"z / r first.*one of them is 0 or 1|z / r first"),
    "t clamped at 1e-3 [end]": (mean_with(time=lambda t: t.clamp(min=1e-3)), "interval|z / r first"),
    "detached [gradient]": (mean_with(value=detached), "detached"),
    "no_grad [gradient]": (without_grad, "detached"),
    "F detached [gradient]": (mean_with(value=lambda x, F, *a: closed(x, F.detach(), *a)), "detached"),
    "t detached [gradient]": (mean_with(time=lambda t: t.detach()), "derivative in t"),
    "angles by asin [end]": (mean_with(angles=arcs), "what has none at an end|no further"),
    "float64 out [precision]": (mean_with(out=lambda u, z: u.double()), "has the dtype of the data"),
    "float32 out [precision]": (mean_with(out=lambda u, z: u.float()), "dtype of the batch, torch.float64"),
    "float32 inside [precision]": (mean_with(out=lambda u, z: u.float().to(z)), "no further"),
    "angles in float64 [precision]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi.double(), gap.double(), **more)), "in the dtype of z"),
    "times of shape (b, 1) for the network [shape]": (
        mean_with(call=lambda net, x, phi, gap, more: net(x, phi, gap[:, None], **more)), "like the first, one for each sample"
    ),
    "the interval by name [argument]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi, interval=gap, **more)), "three things by their places"),
    "one time for the network [argument]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi, **more)), "three things by their places"),
    "four times for the network [argument]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi, gap, gap, **more)), "three things by their places"),
    "conditioning dropped [argument]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi, gap)), "conditioning on to the network"),
    "conditioning by place [argument]": (mean_with(call=lambda net, x, phi, gap, more: net(x, phi, gap, *more.values())), "conditioning on to the network"),
    "conditioning copied [argument]": (
        mean_with(call=lambda net, x, phi, gap, more: net(x, phi, gap, **{k: v.clone() for k, v in more.items()})), "as it is, not a copy"
    ),
    "four axes assumed [shape]": (mean_with(like=lambda c, z: c.reshape(-1, 1, 1, 1)), "shape|z / r first"),
    "times along the last axis [shape]": (mean_with(like=lambda c, z: c.expand_as(z) if z.shape[-1] == len(c) else column(c, z)), "z / r first"),
    "an answer of another shape [shape]": (mean_with(shape=lambda answer, z: answer if answer.shape == z.shape else torch.zeros_like(z)), "An answer of shape"),
    "z changed in place [argument]": (in_place, "stay as it is"),
    "the answer changed in place [argument]": (mean_with(value=spoils_the_answer), "no F \\*= data_std"),
    "settings of the last one made [argument]": (kept_closure(), "must be asked|z / r first"),
    "data_std of 0.5 by default [argument]": (lambda net, data_std=0.5, **more: as_mean_velocity(net, data_std, **more), "Without data_std it is 1"),
    "any data_std [refusal]": (mean_with(refuse=lambda sd: None), r"data_std = 0\.0 must be refused"),
    "a negative data_std [refusal]": (mean_with(refuse=lambda sd: as_mean_velocity(None, abs(sd))), r"data_std = -0\.5 must be refused"),
    "a data_std that is nan [refusal]": (mean_with(refuse=lambda sd: as_mean_velocity(None, 1.0 if sd != sd else sd)), "data_std = nan must be refused"),
    "the diagonal refused [end]": (mean_with(look=lambda z, t, s: flowmap.need.each("t - s", t - s, z, above=1e-12)), "is valid and must not be refused"),
    **{name: (mean_with(look=lenient(when)), says) for name, (when, says) in LOOKS.items()},
}  # fmt: skip


# the diagonal, and the exact mean velocity


def diagonal_with(change):
    return lambda u: lambda z, t: change(u, z, t)


DIAGONALS = {
    "[55] u(z, t, 0) trained on v [formula]": (diagonal_with(lambda u, z, t: u(z, t, 0 * t)), "the chord down to 0"),
    "[56] the velocity x - eps [formula]": (diagonal_with(lambda u, z, t: -u(z, t, t)), "eps - x, not x - eps"),
    "[57] time reversed [formula]": (diagonal_with(lambda u, z, t: u(z, 1 - t, 1 - t)), "Time is reversed"),
    "half a chord [formula]": (diagonal_with(lambda u, z, t: u(z, t, t / 2)), "This is a chord"),
    "a short chord [formula]": (diagonal_with(lambda u, z, t: u(z, t, (t - 1e-3).clamp(min=0))), "A short chord, s = t - 0.001"),
    "where it lands [formula]": (diagonal_with(lambda u, z, t: jump(u(z, t, t), z, t, 0 * t)), "no point"),
    "t clamped [end]": (diagonal_with(lambda u, z, t: u(z, t.clamp(min=1e-2), t.clamp(min=1e-2))), "no clamp"),
    "s clamped [end]": (diagonal_with(lambda u, z, t: u(z, t, t.clamp(max=0.99))), "The second time is t"),
    "detached [gradient]": (diagonal_with(lambda u, z, t: u(z, t, t).detach()), "no detach"),
    "s detached [gradient]": (diagonal_with(lambda u, z, t: u(z, t, t.detach())), "moves both times"),
    "float64 out [precision]": (diagonal_with(lambda u, z, t: u(z, t, t).double()), "has the dtype of the data"),
    "asked in float64 [precision]": (diagonal_with(lambda u, z, t: u(z, t.double(), t.double()).to(z)), "in the dtype of z"),
    "one time for the batch [shape]": (diagonal_with(lambda u, z, t: u(z, t, t[:1])), "one for each sample"),
    "u itself [argument]": (lambda u: u(exact(0.0)[:, None], exact(0.5), exact(0.5)), "a function of"),
    "z changed in place [argument]": (diagonal_with(lambda u, z, t: u(z.mul_(1.5), t, t)), "asked at z|stay as it is"),
    "clipped [formula]": (diagonal_with(lambda u, z, t: u(z, t, t).clamp(-1, 1)), "Nothing is clipped"),
    "a constant [constant]": (diagonal_with(lambda u, z, t: 0 * z), "u must be asked"),
}  # fmt: skip


def exact_with(
    way=lambda flow_map, z, t, s: z - flow_map(z, t, s),
    length=lambda gap, t: gap,
    still=lambda gap: gap == 0,
    on=lambda velocity, z, t: velocity(z, t),
    finite=True,
    look=flowmap.look,
    out=lambda u, z: u.to(z),
):
    """exact_mean_velocity, with one thing changed."""

    def wrong(flow_map, velocity):
        flow = lambda z, t, s: same(flow_map(z, t, s), z)

        def u(z, t, s):
            look(z, t, s)
            t, s = t.to(z), s.to(z)
            gap = column(t - s, z)
            by = length(gap, column(t, z))
            by = torch.where(still(gap), 1, by) if finite else by
            return out(torch.where(still(gap), on(velocity, z, t), way(flow, z, t, s) / by), z)

        return u

    return wrong


EXACTS = {
    "the sign [formula]": (exact_with(way=lambda f, z, t, s: f(z, t, s) - z), "the sign is wrong"),
    "where it lands [formula]": (exact_with(way=lambda f, z, t, s: f(z, t, s), length=lambda gap, t: 1, still=lambda gap: gap < -1), "where the flow map lands"),
    "not divided [formula]": (exact_with(length=lambda gap, t: 1), "is divided by t - s"),
    "divided by t [formula]": (exact_with(length=lambda gap, t: t), "not by t"),
    "s and t exchanged [formula]": (exact_with(way=lambda f, z, t, s: z - f(z, s, t)), "not from s to t"),
    "down to 0 [argument]": (exact_with(way=lambda f, z, t, s: z - f(z, t, 0 * s), length=lambda gap, t: t), "ends at s, not at 0"),
    "the velocity everywhere [formula]": (exact_with(still=lambda gap: gap > -1), "This is the velocity"),
    "0 on the diagonal [end]": (exact_with(on=lambda velocity, z, t: 0 * z), "here it is 0"),
    "nan on the diagonal [end]": (exact_with(still=lambda gap: gap < 0, finite=False), "nan or inf"),
    "nan in the gradient [gradient]": (exact_with(finite=False), "torch.where differentiates both sides"),
    "the velocity at 0 [formula]": (exact_with(on=lambda velocity, z, t: velocity(z, 0 * t)), "at t, where z is"),
    "short chords are tangents [end]": (exact_with(still=lambda gap: gap < 1e-3), "However short the chord"),
    "very short chords are tangents [end]": (exact_with(still=lambda gap: gap < 1e-5), "However short the chord"),
    "the length clamped [end]": (exact_with(length=lambda gap, t: gap.clamp(min=1e-3)), "However short the chord"),
    "the length clamped at 1e-5 [end]": (exact_with(length=lambda gap, t: gap.clamp(min=1e-5)), "However short the chord"),
    "1e-8 added to the length [precision]": (exact_with(length=lambda gap, t: gap + 1e-8), "no further"),
    "if any is on the diagonal, all are [shape]": (exact_with(still=lambda gap: (gap == 0).any().expand_as(gap)), "off the diagonal"),
    "only if all are on the diagonal [shape]": (exact_with(still=lambda gap: (gap == 0).all().expand_as(gap), finite=True), "nan or inf"),
    "detached [gradient]": (exact_with(out=lambda u, z: u.detach()), "no detach"),
    "the velocity detached [gradient]": (exact_with(on=lambda velocity, z, t: velocity(z, t).detach()), "The gradient in z"),
    "t detached [gradient]": (exact_with(length=lambda gap, t: gap.detach()), "The derivative in t"),
    "float64 out [precision]": (exact_with(out=lambda u, z: u.double()), "has the dtype of the data"),
    "float32 inside [precision]": (exact_with(out=lambda u, z: u.float().to(z)), "no further"),
    "clipped [formula]": (exact_with(out=lambda u, z: u.clamp(-5, 5)), "Nothing is clipped"),
    "a landing of another shape [shape]": (
        lambda f, v: exact_mean_velocity(lambda z, t, s: a if (a := f(z, t, s)).shape == z.shape else z, v), "A z_s of shape"
    ),
    **{name: (exact_with(look=lenient(when)), says) for name, (when, says) in LOOKS.items()},
}  # fmt: skip


# times


def times_with(draw, refuse=draw_times, share=0.75):
    """draw_times, refusals included, from another law: draw(on, generator), `on` the pairs on the diagonal."""

    def times(b, diagonal=share, generator=None):
        refuse(b, diagonal, torch.Generator())
        return draw(torch.arange(b) < round(float(diagonal) * b), generator)

    return times


def rand(on, g, n=2):
    return 1 - torch.rand(n, len(on), generator=g)


def ordered(a, b):
    return a.maximum(b), a.minimum(b)


def on_the_diagonal(change):
    """Right times, and other pairs on the diagonal: change(on, g)."""
    return lambda on, g: ordered(*(lambda a, b: (a, torch.where(change(on, g), a, b)))(*rand(on, g)))


def larger_first(on, g):
    a, b = rand(on, g)
    a = torch.where(on, a.maximum(b), a)
    return ordered(a, torch.where(on, a, b))


def dyadic(on, g):
    t, k = rand(on, g)
    return t, torch.where(on, t, t - 2.0 ** -(8 * k).floor())


def part_of(share, first=lambda a: a):
    def draw(on, g):
        a, b = rand(on, g)
        t = torch.where(on, a, first(a))
        return t, torch.where(on, t, share(b) * t)

    return draw


def drawn(change):
    """Right times whose two numbers are changed."""
    return lambda on, g: ordered(*(lambda a, b: (a, torch.where(on, a, b)))(*change(on, g)))


right_times = drawn(rand)

DRAWS = {
    "[58] not sorted [formula]": (times_with(lambda on, g: (lambda a, b: (a, torch.where(on, a, b)))(*rand(on, g))), "t >= s in every pair"),
    "[59] the diagonal at the larger of two [formula]": (
        times_with(lambda on, g: (lambda t, s: (t, torch.where(on, t, s)))(*ordered(*rand(on, g)))), "the larger of two"
    ),
    "[60] no diagonal [argument]": (times_with(lambda on, g: ordered(*rand(on, g))), "No pair is on the diagonal"),
    "[61] the share inverted [formula]": (times_with(on_the_diagonal(lambda on, g: torch.arange(len(on)) < len(on) - on.sum())), "The share is inverted"),
    "[62] s = t r [formula]": (times_with(part_of(lambda r: r)), "here t alone is uniform"),
    "[63] the diagonal set before sorting [formula]": (times_with(larger_first), "the larger of two"),
    "[64] dyadic intervals below a uniform t [formula]": (times_with(dyadic), "Every time is above 0"),
    "the diagonal at the smaller of two [formula]": (
        times_with(lambda on, g: (lambda t, s: (torch.where(on, s, t), s))(*ordered(*rand(on, g)))), "the smaller of two"
    ),
    "s before t [formula]": (times_with(lambda on, g: right_times(on, g)[::-1]), "t >= s in every pair"),
    "the diagonal alone [formula]": (times_with(on_the_diagonal(lambda on, g: on | True)), "Every pair is on the diagonal"),
    "the share ignored [argument]": (times_with(on_the_diagonal(lambda on, g: torch.arange(len(on)) < round(0.75 * len(on)))), "The share is ignored"),
    "half of it by default [argument]": (times_with(right_times, share=0.5), "by default three in four"),
    "the number drawn [random]": (times_with(on_the_diagonal(lambda on, g: torch.rand(len(on), generator=g) < on.float().mean())), "by default three in four"),
    "the number cut off [formula]": (
        lambda b, diagonal=0.75, generator=None: draw_times(b, math.floor(diagonal * b) / b if b == 7 else diagonal, generator), "not cut off"
    ),
    "the number rounded up [formula]": (
        lambda b, diagonal=0.75, generator=None: draw_times(b, math.ceil(diagonal * b) / b if b == 7 else diagonal, generator), "to the nearest"
    ),
    "the last pairs [formula]": (times_with(on_the_diagonal(lambda on, g: on.flip(0))), "are the first ones"),
    "pairs in any order [random]": (times_with(on_the_diagonal(lambda on, g: on[torch.randperm(len(on), generator=g)])), "are the first ones"),
    "logit-normal times [formula]": (times_with(drawn(lambda on, g: torch.randn(2, len(on), generator=g).sigmoid())), "of another law"),
    "times from 0.02 to 0.98 [end]": (times_with(drawn(lambda on, g: 0.02 + 0.96 * rand(on, g))), "cut off"),
    "squares [formula]": (times_with(drawn(lambda on, g: rand(on, g) ** 2)), "the smaller of two|of another law"),
    "times up to 1000 [formula]": (times_with(drawn(lambda on, g: 1000 * rand(on, g))), "at most 1"),
    "s anywhere near t [formula]": (times_with(part_of(lambda r: 0.5 + r / 2)), "sorted"),
    "one t for all, and the law of s by chance [random]": (times_with(drawn(lambda on, g: rand(on, g)[:, :1].expand(2, len(on)))), "one uniform time is drawn"),
    "s is 1 - t [random]": (times_with(drawn(lambda on, g: (lambda a: (a, 1 - a * (1 - 1e-6)))(rand(on, g)[0]))), "sorted|each by itself"),
    "torch.rand itself [end]": (times_with(drawn(lambda on, g: torch.rand(2, len(on), generator=g))), "can return exactly 0"),
    "the generator ignored [random]": (times_with(lambda on, g: right_times(on, None)), "come from the generator|random state"),
    "the same in each call [random]": (times_with(lambda on, g: right_times(on, g and torch.Generator().manual_seed(g.initial_seed()))), "draw the same"),
    "the same without a generator [random]": (times_with(lambda on, g: right_times(on, g or torch.Generator().manual_seed(0))), "without a generator"),
    "s from torch's own numbers [random]": (times_with(drawn(lambda on, g: (rand(on, g)[0], rand(on, None)[1]))), "come from the generator|random state"),
    "columns [shape]": (times_with(lambda on, g: tuple(a[:, None] for a in right_times(on, g))), "one time for each pair"),
    "t alone [shape]": (times_with(lambda on, g: right_times(on, g)[0]), "Two tensors"),
    "lists [shape]": (times_with(lambda on, g: tuple(a.tolist() for a in right_times(on, g))), "one time for each pair"),
    "b = 0 accepted [refusal]": (times_with(right_times, lambda b, *a: draw_times(max(b, 1), *a)), "b = 0 must be refused"),
    "half a pair accepted [refusal]": (lambda b, *a, **k: draw_times(math.ceil(b), *a, **k), r"b = 2\.5 must be refused"),
    "a share above 1 [refusal]": (times_with(right_times, lambda b, d, g: draw_times(b, min(d, 1), g)), r"A share of 1\.1"),
    "a negative share [refusal]": (times_with(right_times, lambda b, d, g: draw_times(b, max(d, 0), g)), r"A share of -0\.1"),
    "a share that is nan [refusal]": (lambda b, d=0.75, generator=None: draw_times(b, 0.5 if d != d else d, generator), "A share of nan"),
    "a share of 1 refused [end]": (times_with(right_times, lambda b, d, g: flowmap.need.number("d", d, 0, below=1)), "is valid and must not be refused"),
    "a share of 0 refused [end]": (times_with(right_times, lambda b, d, g: flowmap.need.number("d", d, above=0)), "is valid and must not be refused"),
}  # fmt: skip


# guidance


def guided_with(
    shares=lambda w, k: (w, 1 - w - k, k),
    kept=lambda v, found, dropped: torch.where(column(dropped, v), v, found),
    out=lambda a: a,
    refuse=guided_slope,
):
    """guided_slope, with one thing changed; the shares are those of v, unconditional, conditional."""

    def wrong(v, conditional, unconditional, scale, kappa=0.0, dropped=None):
        refuse(v, conditional, unconditional, scale, kappa, dropped)
        a, b, c = shares(scale, kappa)
        found = out(a * v + b * unconditional + c * conditional)
        return found if dropped is None else kept(v, found, dropped)

    return wrong


def guided_in_place(v, conditional, unconditional, scale, kappa=0.0, dropped=None):
    found = guided_slope(v, conditional, unconditional, scale, kappa, dropped)
    v.mul_(scale)
    return found


def accepting(**changed):
    """guided_slope's refusals, but for one argument."""
    names = ("v", "conditional", "unconditional", "scale", "kappa", "dropped")
    return lambda *a: guided_slope(*(changed.get(name, lambda x: x)(x) for name, x in zip(names, a)))


def broadcast(name):
    def wrong(*args, **more):
        args = list(args)
        shape = torch.broadcast_shapes(*(a.shape for a in args[:3]))
        args[name] = args[name].expand(shape)
        return guided_slope(*args, **more)

    return wrong


GUIDES = {
    "[77] dropped rows guided as well [formula]": (guided_with(kept=lambda v, found, dropped: found), "label is dropped keep v: without a label"),
    "[77] the mask flipped [formula]": (guided_with(kept=lambda v, found, dropped: torch.where(column(dropped, v), found, v)), "The mask is flipped"),
    "[78] 1 + scale [formula]": (guided_with(lambda w, k: (1 + w, -w - k, k)), r"not 1 \+ scale"),
    "[79] unconditional and conditional exchanged [formula]": (guided_with(lambda w, k: (w, k, 1 - w - k)), "are exchanged"),
    "[80] kappa not taken from the unconditional [formula]": (guided_with(lambda w, k: (w, 1 - w, k)), "1 - scale - kappa"),
    "kappa taken from v [formula]": (guided_with(lambda w, k: (w - k, 1 - w, k)), "not from v"),
    "kappa ignored [argument]": (guided_with(lambda w, k: (w, 1 - w, 0)), "kappa is ignored"),
    "scale ignored [argument]": (guided_with(lambda w, k: (1, -k, k)), "scale is ignored"),
    "the network's own velocity [formula]": (guided_with(lambda w, k: (0, 1 - w, w)), "v is in the target"),
    "scale on the conditional [formula]": (guided_with(lambda w, k: (1, 1 - w, w - 1)), "scale multiplies v"),
    "divided by 1 - kappa [formula]": (guided_with(lambda w, k: tuple(a / (1 - k) for a in (w, 1 - w - k, k))), "add up to 1"),
    "dropped ignored where one is kept [formula]": (guided_with(kept=lambda v, found, dropped: v if dropped.all() else found), "label is dropped keep v"),
    "one dropped, all dropped [formula]": (guided_with(kept=lambda v, found, dropped: v if dropped.any() else found), "This is v: only rows"),
    "dropped rows are 0 [formula]": (guided_with(kept=lambda v, found, dropped: torch.where(column(dropped, v), 0, found)), r"scale v \+"),
    "dropped along the last axis [shape]": (
        guided_with(kept=lambda v, found, dropped: torch.where(dropped if v.shape[-1] == len(dropped) else column(dropped, v), v, found)), "along the wrong axis"
    ),
    "four axes [shape]": (guided_with(kept=lambda v, found, dropped: torch.where(dropped.reshape(-1, 1, 1, 1), v, found)), "has the shape of the batch"),
    "clipped [formula]": (guided_with(out=lambda a: a.clamp(-3, 3)), "Nothing is clipped"),
    "float64 out [precision]": (guided_with(out=lambda a: a.double()), "has the dtype of the data"),
    "float32 inside [precision]": (guided_with(out=lambda a: a.float().to(a)), "no further"),
    "v changed in place [argument]": (guided_in_place, "stay as it is"),
    "kappa of 0.5 by default [argument]": (
        lambda v, c, u, scale, kappa=0.5, dropped=None: guided_slope(v, c, u, scale, kappa, dropped), "Without kappa it is 0"
    ),
    "kappa = 1 accepted [refusal]": (guided_with(refuse=accepting(kappa=lambda k: min(k, 0.5))), r"kappa = 1\.0 must be refused"),
    "kappa above 1 accepted [refusal]": (guided_with(refuse=accepting(kappa=lambda k: 0.5 if k > 1 else k)), r"kappa = 1\.5 must be refused"),
    "kappa of nan accepted [refusal]": (guided_with(refuse=accepting(kappa=lambda k: 0.5 if k != k else k)), "kappa = nan must be refused"),
    "a scale of nan accepted [refusal]": (guided_with(refuse=accepting(scale=lambda w: 1.0)), "A scale of nan must be refused"),
    "kappa of 0 refused [end]": (guided_with(refuse=lambda *a: flowmap.need.number("kappa", a[4], above=0)), "is valid and must not be refused"),
    "a negative scale refused [end]": (guided_with(refuse=lambda *a: flowmap.need.number("scale", a[3], 0)), "is valid and must not be refused"),
    "dropped of one row for all [shape]": (
        lambda v, c, u, scale, kappa=0.0, dropped=None: guided_with(refuse=lambda *a: guided_slope(*a[:5]))(v, c, u, scale, kappa, dropped),
        r"dropped of shape \(1,\) for 4 samples must be refused",
    ),
    "v is broadcast [shape]": (broadcast(0), "different shapes must be refused"),
    "the unconditional is broadcast [shape]": (broadcast(2), "different shapes must be refused"),
}  # fmt: skip


# the sampler


def sample_with(
    ask=lambda t, s: (t, s),
    spread=lambda a, z: a.expand(len(z)),
    step=lambda z, v, t, s, n: z + (s - t) * v,
    grid=lambda times: times,
    start=lambda z, states: states[-1],
    kept=lambda states: torch.stack(states),
    refuse=lambda z, times: flow_map_sample(lambda z, t, s: z, z, times),
    shape=same,
    dtype=None,
    out=lambda a: a,
    extra=False,
):
    """flow_map_sample, with one thing changed."""

    def wrong(u, z, times, trajectory=False):
        refuse(z, times)
        states, cast = [z], dtype or z.dtype
        times = grid(times).to(cast)
        for t, s in zip(times, times[1:]):
            here = start(z, states)
            v = shape(u(here, *(spread(a, z) for a in ask(t, s))), z)
            states.append(step(here, v, t.to(z), s.to(z), len(times) - 1))
        if extra:
            u(states[-1], s.expand(len(z)), s.expand(len(z)))
        return out(kept(states) if trajectory else states[-1])

    return wrong


def sample_in_place(u, z, times, trajectory=False):
    found = flow_map_sample(u, z, times, trajectory)
    z.mul_(0)
    return found


def letting(when):
    """The sampler's refusals, but for grids where `when` says so."""

    def refuse(z, times):
        try:
            flow_map_sample(lambda z, t, s: z, z, times)
        except ValueError:
            if not when(times):
                raise

    return refuse


SAMPLES = {
    "[65] Euler with the tangent [formula]": (sample_with(lambda t, s: (t, t)), "This is the tangent"),
    "[66] always asked for s = 0 [formula]": (sample_with(lambda t, s: (t, 0 * s)), "not at 0"),
    "[67] arguments exchanged [formula]": (sample_with(lambda t, s: (s, t)), "s and t are exchanged"),
    "[68] (t - s) u is added [formula]": (sample_with(step=lambda z, v, t, s, n: z + (t - s) * v), "the sign is wrong"),
    "[69] divided by the number of steps [formula]": (sample_with(step=lambda z, v, t, s, n: z - v / n), "not 1 / n on any grid"),
    "[70] one step too few [formula]": (sample_with(grid=lambda times: times[:-1]), "The last step is missing|u is asked once"),
    "asked for the last time [formula]": (sample_with(lambda t, s: (t, 0 * s + 0.0)), "not at 0"),
    "one question too many [formula]": (sample_with(extra=True), "nothing is asked at the last"),
    "an even grid [argument]": (sample_with(grid=lambda times: torch.linspace(times[0], times[-1], len(times)).to(times)), "two neighbours"),
    "from 1 on, whatever the grid [argument]": (sample_with(grid=lambda times: times / times[0]), "two neighbours"),
    "the whole way in each step [formula]": (sample_with(step=lambda z, v, t, s, n: z - v), "multiplied by the length"),
    "to 0 in each step [formula]": (sample_with(step=lambda z, v, t, s, n: z - t * v), "ends at s, not at 0"),
    "every step from the start [formula]": (sample_with(start=lambda z, states: z), "newest z|stays where it was"),
    "the way alone [formula]": (sample_with(step=lambda z, v, t, s, n: (s - t) * v), "the way alone"),
    "clipped [formula]": (sample_with(step=lambda z, v, t, s, n: (z + (s - t) * v).clamp(-3, 3)), "Nothing is clipped"),
    "the trajectory backwards [trajectory]": (sample_with(kept=lambda states: torch.stack(states[::-1])), "from the first time to the last"),
    "the trajectory without the start [trajectory]": (sample_with(kept=lambda states: torch.stack(states[1:])), "the first included"),
    "the trajectory repeats the end [trajectory]": (sample_with(kept=lambda states: torch.stack([states[-1]] * len(states))), "again and again"),
    "the trajectory repeats the start [trajectory]": (sample_with(kept=lambda states: torch.stack([states[0]] * len(states))), "the start alone"),
    "the trajectory: a wrong middle [trajectory]": (
        sample_with(kept=lambda states: torch.stack([states[0], *states[:1] * (len(states) - 2), states[-1]])), "at every time"
    ),
    "the trajectory as a list [trajectory]": (sample_with(kept=lambda states: states), "the first included"),
    "always a trajectory [trajectory]": (lambda u, z, times, trajectory=False: flow_map_sample(u, z, times, True), "has the shape of the batch"),
    "never a trajectory [argument]": (lambda u, z, times, trajectory=False: flow_map_sample(u, z, times), "the first included"),
    "detached [gradient]": (sample_with(out=lambda a: a.detach()), "Gradients pass"),
    "under no_grad [gradient]": (lambda *a, **k: torch.no_grad()(flow_map_sample)(*a, **k), "Gradients pass"),
    "the steps detached [gradient]": (sample_with(start=lambda z, states: states[-1] if len(states) == 1 else states[-1].detach()), "through every step"),
    "the velocity detached [gradient]": (sample_with(step=lambda z, v, t, s, n: z + (s - t) * v.detach()), "passes to u"),
    "float64 out [precision]": (sample_with(out=lambda a: a.double()), "has the dtype of the data"),
    "float32 inside [precision]": (sample_with(step=lambda z, v, t, s, n: (z + (s - t) * v).float().to(z)), "no further"),
    "asked in the dtype of times [precision]": (sample_with(dtype=torch.float64), "in the dtype of z"),
    "asked with a number [shape]": (sample_with(spread=lambda a, z: a), "one for each sample"),
    "z changed in place [argument]": (sample_in_place, "stay as it is"),
    "an answer that is broadcast [shape]": (sample_with(shape=lambda v, z: v if v.shape == z.shape else torch.zeros_like(z)), "An answer of another shape"),
    "only the first answer looked at [shape]": (
        lambda u, z, times, trajectory=False: flow_map_sample(
            lambda z, t, s: a if (a := u(z, t, s)).shape == z.shape or t[0] == times[0] else torch.zeros_like(z), z, times, trajectory
        ), "An answer of another shape"
    ),
    "a rising grid [refusal]": (sample_with(refuse=letting(lambda times: times.diff().min() > 0)), "that rises"),
    "a grid that rises once [refusal]": (sample_with(refuse=letting(lambda times: times[0] == 1 and times[-1] == 0 and times.isfinite().all())), "rises once, inside|two equal"),
    "two equal times [refusal]": (sample_with(refuse=letting(lambda times: (times.diff() == 0).any())), "two equal times"),
    "a single time [refusal]": (sample_with(refuse=letting(lambda times: len(times) == 1)), "of a single time"),
    "above 1 [refusal]": (sample_with(refuse=letting(lambda times: times[0] > 1)), "above 1"),
    "below 0 [refusal]": (sample_with(refuse=letting(lambda times: times[-1] < 0)), "below 0"),
    "nan [refusal]": (sample_with(refuse=letting(lambda times: times.isnan().any())), "with nan"),
    "a grid that ends above 0 refused [end]": (sample_with(refuse=lambda z, times: flowmap.need.number("end", times[-1], 0, 0)), "is valid and must not be refused"),
}  # fmt: skip

MISTAKES = {
    f"{check.__name__[6:]}: {name}": (check, wrong, says)
    for check, planted in zip(CHECKS, (MEANS, DIAGONALS, EXACTS, DRAWS, GUIDES, SAMPLES))
    for name, (wrong, says) in planted.items()
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, as different people write them


def by_eps_and_x(x, F, r, z, t, s, sd):
    """eps_hat - x_hat, as of a velocity: the interval is only what F was told."""
    cos, sin = (1 - t) * sd / r, t / r
    return sin * x + cos * F - sd * (cos * x - sin * F)


def by_trigonometry(x, F, r, z, t, s, sd):
    phi = torch.atan2(t, (1 - t) * sd)
    return (phi.sin() - sd * phi.cos()) * x + (phi.cos() + sd * phi.sin()) * F


def with_einops(net, data_std=1.0, **more):
    as_mean_velocity(net, data_std)

    def u(z, t, s):
        flowmap.look(z, t, s)
        wide = lambda a: einops.rearrange(a.to(z.dtype), "b -> b" + " 1" * (z.ndim - 1))
        clean, noise = wide(1 - t) * data_std, wide(t)
        r = (clean.square() + noise.square()).sqrt()
        phi, phi_s = (torch.atan2(a.to(z.dtype), (1 - a.to(z.dtype)) * data_std) for a in (t, s))
        F = same(net(z / r, phi, phi - phi_s, **more), z)
        return (noise - data_std * clean) / r * (z / r) + data_std / r * F

    return u


def in_float64(net, data_std=1.0, **more):
    """Everything in float64, but for the network."""
    as_mean_velocity(net, data_std)

    def u(z, t, s):
        flowmap.look(z, t, s)
        T, clean = column(t.double(), z), column((1 - t.double()) * data_std, z)
        r = torch.hypot(clean, T)
        phi, phi_s = (torch.atan2(a.double(), (1 - a.double()) * data_std) for a in (t, s))
        F = same(net((z / r).to(z), phi.to(z), (phi - phi_s).to(z), **more), z)
        return (((T - clean * data_std) * (z.double() / r) + data_std * F.double()) / r).to(z)

    return u


def exact_by_masks(flow_map, velocity):
    def u(z, t, s):
        flowmap.look(z, t, s)
        t, s = t.to(z), s.to(z)
        still = t == s
        lands = same(flow_map(z, t, s), z)
        found = torch.empty_like(z)
        found[~still] = (z - lands)[~still] / column((t - s)[~still], z)
        if still.any():
            found[still] = velocity(z[still], t[still])
        return found

    return u


def exact_row_by_row(flow_map, velocity):
    def u(z, t, s):
        flowmap.look(z, t, s)
        lands, v = same(flow_map(z, t, s), z), velocity(z, t)
        return torch.stack(
            [(a - b) / (p - q) if p > q else c for a, b, c, p, q in zip(z, lands, v, t, s)]
        ).to(z)

    return u


def times_by_sqrt(on, g):
    """The larger of two uniform numbers is the root of one, and the smaller is uniform below it."""
    a, b = rand(on, g)
    t = torch.where(on, a, a.sqrt())
    return t, torch.where(on, t, b * t)


def times_in_pieces(b, diagonal=0.75, generator=None):
    draw_times(b, diagonal, torch.Generator())
    n = int(float(diagonal) * b + 0.5)
    still = 1 - torch.rand(n, generator=generator)
    s, t = (1 - torch.rand(b - n, 2, generator=generator)).sort(1).values.unbind(1)
    return torch.cat([still, t]), torch.cat([still, s])


def times_in_a_loop(b, diagonal=0.75, generator=None):
    draw_times(b, diagonal, torch.Generator())
    t, s = torch.empty(2, b)
    for i in range(b):
        one, two = (1 - torch.rand((), generator=generator) for _ in range(2))
        two = one if i < round(diagonal * b) else two
        t[i], s[i] = max(one, two), min(one, two)
    return [t, s]


def guided_by_lerp(v, conditional, unconditional, scale, kappa=0.0, dropped=None):
    """Steps away from the unconditional velocity: the same three shares."""
    guided_slope(v, conditional, unconditional, scale, kappa, dropped)
    found = unconditional + scale * (v - unconditional) + kappa * (conditional - unconditional)
    keep = torch.zeros(len(v)) if dropped is None else dropped
    return torch.lerp(found, v, column(keep, v).to(v))


def guided_row_by_row(v, conditional, unconditional, scale, kappa=0.0, dropped=None):
    guided_slope(v, conditional, unconditional, scale, kappa, dropped)
    found = guided_slope(v, conditional, unconditional, scale, kappa).clone()
    for i in range(len(v)):
        if dropped is not None and dropped[i]:
            found[i] = v[i]
    return found.detach()


def sample_in_one_buffer(u, z, times, trajectory=False):
    flow_map_sample(lambda z, t, s: z, z, times)
    times, states = times.to(z.dtype), z.new_empty((len(times), *z.shape))
    now, end = z.new_empty(len(z)), z.new_empty(len(z))
    here = z.clone()
    states[0] = here
    for k in range(len(times) - 1):
        now.fill_(times[k]), end.fill_(times[k + 1])
        here = here - (times[k] - times[k + 1]) * same(u(here.clone(), now.clone(), end.clone()), z)
        states[k + 1] = here
    return states if trajectory else here


def sample_in_float64(u, z, times, trajectory=False):
    flow_map_sample(lambda z, t, s: z, z, times)
    states = [z]
    for t, s in torch.stack([times[:-1], times[1:]], dim=1).double():
        v = same(u(states[-1], t.to(z).expand(len(z)), s.to(z).expand(len(z))), z)
        states.append((states[-1].double() + (s - t) * v.double()).to(z))
    return torch.stack(states) if trajectory else states[-1]


RIGHT = {
    "step by step": (MEAN, mean_with()),
    "eps_hat - x_hat": (MEAN, mean_with(value=by_eps_and_x)),
    "by the angle": (MEAN, mean_with(value=by_trigonometry)),
    "with einops, r by a root": (MEAN, with_einops),
    "in float64, but for the network": (MEAN, in_float64),
    "sample by sample": (MEAN, mean_with(like=by_loop)),
    "by a lambda": (DIAGONAL, lambda u: lambda z, t: u(z, t, t)),
    "with a copy of t": (DIAGONAL, diagonal_with(lambda u, z, t: u(z, t, t.clone()))),
    "by cat": (DIAGONAL, diagonal_with(lambda u, z, t: torch.cat([u(z[:1], t[:1], t[:1]), u(z[1:], t[1:], t[1:])]))),
    "exact, step by step": (EXACT, exact_with()),
    "exact, by masks": (EXACT, exact_by_masks),
    "exact, row by row": (EXACT, exact_row_by_row),
    "exact, within rounding": (EXACT, exact_with(still=lambda gap: gap < 1e-9)),
    "exact, by masked_fill": (EXACT, exact_with(length=lambda gap, t: gap.masked_fill(gap == 0, math.inf))),
    "times, step by step": (TIMES, times_with(right_times)),
    "times by a root": (TIMES, times_with(times_by_sqrt)),
    "times in pieces": (TIMES, times_in_pieces),
    "times in float64": (TIMES, times_with(drawn(lambda on, g: 1 - torch.rand(2, len(on), generator=g, dtype=torch.float64)))),
    "times by uniform_": (TIMES, times_with(drawn(lambda on, g: 1 - torch.empty(2, len(on)).uniform_(generator=g)))),
    "times kept above 0": (TIMES, times_with(drawn(lambda on, g: torch.rand(2, len(on), generator=g).clamp(min=1e-6)))),
    "times in a loop": (TIMES, times_in_a_loop),
    "guided, step by step": (GUIDED, guided_with()),
    "guided by lerp": (GUIDED, guided_by_lerp),
    "guided row by row, detached": (GUIDED, guided_row_by_row),
    "sample, step by step": (SAMPLE, sample_with()),
    "sample in one buffer": (SAMPLE, sample_in_one_buffer),
    "sample in float64": (SAMPLE, sample_in_float64),
    "sample by jump": (SAMPLE, sample_with(step=lambda z, v, t, s, n: jump(v, z, t.expand(len(z)), s.expand(len(z))))),
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RIGHT)
def test_right_answer_passes(name, seed, unchecked_shapes):
    check, right = RIGHT[name]
    with torch.enable_grad():
        check(right, seed=seed)


# a network as a mean velocity: what holds for every network, and for the exact one


Z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T, S = exact(0.95, 0.8, 0.7, 0.4, 0.3, 0.6), exact(0.0, 0.1, 0.5, 0.2, 0.29, 0.05)
MIX, STD = mixture(2, 3, 0), 0.8
flow = lambda z, t, s: MIX.flow_map(z, t, s, rectified_flow)
velocity = as_velocity(MIX.denoiser(rectified_flow))
u_exact = exact_mean_velocity(flow, velocity)


def close(a, b, tol=1e-12):
    torch.testing.assert_close(a, b, atol=tol, rtol=tol)


def test_the_jump_to_0_is_the_denoiser_and_the_diagonal_its_velocity():
    """One network is a consistency model, a teacher and a flow map: the interval decides which."""
    u, zero = as_mean_velocity(checks.tangent, STD), torch.zeros(6, dtype=torch.float64)
    f = as_denoiser(lambda x, phi: checks.tangent(x, phi, phi), rectified_flow, STD)
    close(jump(u(Z, T, zero), Z, T, zero), f(Z, T))
    v = as_velocity(as_denoiser(lambda x, phi: checks.tangent(x, phi, 0 * phi), rectified_flow, STD))
    close(diagonal(u)(Z, T), v(Z, T))
    # a jump is r_s (cos(d) z / r - sin(d) F), which needs no division either
    x, phi, gap, F, found = checks.by_angles(checks.tangent, Z, T, S, STD)
    r_s, _ = checks.angle(S, STD)
    close(jump(found, Z, T, S), r_s[:, None] * (gap.cos()[:, None] * x - gap.sin()[:, None] * F))


# for each schedule the time of an angle: tan(phi) = sigma / (alpha sd)
TIME_OF = {
    rectified_flow: lambda phi: STD * phi.sin() / (phi.cos() + STD * phi.sin()),
    cosine: lambda phi: 2 / math.pi * torch.atan2(STD * phi.sin(), phi.cos()),
    edm: lambda phi: STD * phi.tan(),
    linear_beta: lambda phi: ((0.01 + 39.8 * torch.log1p((STD * phi.tan()) ** 2)).sqrt() - 0.1) / 19.9,
}


def exact_tangent(schedule):
    """F of the exact flow map along this schedule: (cos(d) x - z_s / r_s) / sin(d)."""

    def F(x, phi, gap):
        t, s = TIME_OF[schedule](phi), TIME_OF[schedule](phi - gap)
        (a, b), (c, d) = schedule(t), schedule(s)
        r, r_s = torch.hypot(a * STD, b)[:, None], torch.hypot(c * STD, d)[:, None]
        z_s = MIX.flow_map(r * x, t, s, schedule)
        return (gap.cos()[:, None] * x - z_s / r_s) / gap.sin()[:, None]

    return F


@pytest.mark.parametrize("schedule", TIME_OF, ids=lambda f: f.__name__)
def test_the_exact_network_is_the_same_for_every_schedule(schedule):
    """Solved from one schedule's flow map, it jumps exactly on rectified flow."""
    u = as_mean_velocity(exact_tangent(schedule), STD)
    close(jump(u(Z, T, S), Z, T, S), flow(Z, T, S), 1e-10)
    close(u(Z, T, S), u_exact(Z, T, S), 1e-9)


def test_the_closed_form_keeps_its_digits_where_a_quotient_loses_them():
    u, errors = as_mean_velocity(checks.tangent, 0.5), {}
    x = Z.float()
    for gap in (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        t = torch.full((6,), 0.7)
        s = t - gap
        right = u(x.double(), t.double(), s.double())
        angles = checks.by_angles(checks.tangent, x, t, s, 0.5)
        r_s, _ = checks.angle(s, 0.5)
        lands = r_s[:, None] * (angles[2].cos()[:, None] * angles[0] - angles[2].sin()[:, None] * angles[3])
        quotient = (x - lands) / (t - s)[:, None]
        errors[gap] = [(found.double() - right).abs().max().item() for found in (u(x, t, s), quotient)]
    assert all(ours < 3e-6 for ours, _ in errors.values())
    assert errors[1e-6][1] > 0.03 and errors[1e-3][1] > 1e-4


def test_every_derivative_is_finite_at_every_corner():
    """At (1, 0), (1, 1) and (0, 0) forward mode, backward mode, and in float32."""
    for dtype in (torch.float64, torch.float32):
        z, t, s = (
            Z[:3].to(dtype),
            torch.tensor([1.0, 1.0, 0.0], dtype=dtype),
            torch.tensor([0.0, 1.0, 0.0], dtype=dtype),
        )
        u = as_mean_velocity(checks.tangent, 0.5)
        found, rate = torch.func.jvp(u, (z, t, s), (z, torch.ones_like(t), torch.ones_like(s)))
        assert found.isfinite().all() and rate.isfinite().all()
        inputs = [a.clone().requires_grad_() for a in (z, t, s)]
        assert all(a.isfinite().all() for a in torch.autograd.grad(u(*inputs).square().sum(), inputs))


def test_a_jump_to_0_does_not_show_which_second_time_the_network_gets(unchecked_shapes):
    """Angle and time agree at 0, so a test on one-step samples alone lets mistake 74 pass."""
    zero = torch.zeros(6, dtype=torch.float64)
    wrong, _ = MEANS["[74] the interval phi_t - s [formula]"]
    u, v = as_mean_velocity(checks.tangent, STD), wrong(checks.tangent, STD)
    close(u(Z, T, zero), v(Z, T, zero))
    assert (u(Z, T, S) - v(Z, T, S)).abs().max() > 0.01
    # and with data_std = 1 nobody sees where it is missing
    for name in ("[72] data_std forgotten before F [formula]", "data_std ignored [argument]"):
        close(MEANS[name][0](checks.tangent, 1.0)(Z, T, S), as_mean_velocity(checks.tangent)(Z, T, S))


# the exact mean velocity


def test_an_oracle_s_flow_map_is_one():
    """With its schedule to be given, or given: the same mean velocity."""
    bound = functools.partial(MIX.flow_map, schedule=rectified_flow)
    for given in (MIX.flow_map, bound):
        assert torch.equal(exact_mean_velocity(given, velocity)(Z, T, S), u_exact(Z, T, S))


def test_the_exact_mean_velocity_is_a_flow_map():
    m = (T + S) / 2
    middle = jump(u_exact(Z, T, m), Z, T, m)
    close(
        (T - S)[:, None] * u_exact(Z, T, S),
        (T - m)[:, None] * u_exact(Z, T, m) + (m - S)[:, None] * u_exact(middle, m, S),
    )
    close(u_exact(Z, T, T), velocity(Z, T))
    gaps = [(u_exact(Z, T, T - h) - velocity(Z, T)).abs().max() for h in (1e-3, 1e-4)]
    assert 9 < gaps[0] / gaps[1] < 11  # the chord tends to the tangent


def test_the_mean_velocity_of_a_gaussian_has_a_closed_form():
    """N(m, sd^2): u = -m + (1 - w_s / w_t) / (t - s) (z - (1 - t) m), with w the width at a time."""
    m, sd = 0.4, 0.7
    w = lambda t: ((1 - t) ** 2 * sd**2 + t**2).sqrt()
    right = -m + column((1 - w(S) / w(T)) / (T - S), Z) * (Z - column(1 - T, Z) * m)
    close(exact_mean_velocity(checks.drifting, velocity)(Z, T, S), right)


# times, guidance, sampling


def test_flow_matching_of_the_diagonal_is_flow_matching():
    x, eps = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(flow_matching_loss(diagonal(u_exact), x, eps, T), flow_matching_loss(velocity, x, eps, T))
    asked = []
    flow_matching_loss(diagonal(checks.recorded_map(checks.chord, asked)), x, eps, T)
    ((z, t, s),) = asked
    close(z, (1 - T[:, None]) * x + T[:, None] * eps)
    assert torch.equal(t, T) and torch.equal(s, T)


def test_the_law_of_the_times():
    """The larger of two times is 2/3 on average. With it on the diagonal, flow matching is trained nearer to the noise."""
    g = torch.Generator().manual_seed(0)
    t, s = draw_times(40_000, 0.0, g)
    assert abs(t.mean() - 2 / 3) < 0.01 and abs(s.mean() - 1 / 3) < 0.01
    t, s = draw_times(40_000, 1.0, g)
    assert torch.equal(t, s) and abs(t.mean() - 0.5) < 0.01
    wrong, _ = DRAWS["[59] the diagonal at the larger of two [formula]"]
    assert abs(wrong(40_000, 1.0, g)[0].mean() - 2 / 3) < 0.01


@pytest.mark.parametrize("scale, kappa", [(2.0, 0.0), (0.6, 0.5), (1.0, 0.5), (1.0, 1 - 1 / 4), (1.0, 0.0)])
def test_the_diagonal_learns_guidance_of_scale_over_1_minus_kappa(scale, kappa):
    """The fixed point where the network says what it is taught. 1 and 1 - 1 / w: guidance of scale w."""
    v, none = torch.full((1, 1), 2.0, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    learned = none
    for _ in range(200):
        learned = guided_slope(v, learned, none, scale, kappa)
    close(learned, none + scale / (1 - kappa) * (v - none))


def test_dropped_rows_may_be_flags_or_numbers():
    v, c, u = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    for flags in (torch.tensor([True, False]), torch.tensor([1.0, 0.0]), torch.tensor([1, 0])):
        found = guided_slope(v, c, u, 3.0, 0.5, flags)
        assert torch.equal(found[0], v[0]) and torch.equal(found[1:], guided_slope(v, c, u, 3.0, 0.5)[1:])


@pytest.mark.parametrize("grid", [(1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.7, 0.2, 0.0), (0.9, 0.3)])
def test_any_grid_is_exact_for_the_exact_flow_map_and_none_for_its_tangent(grid):
    times = exact(*grid)
    right = flow(Z, *(t.expand(6) for t in (times[0], times[-1])))
    close(flow_map_sample(u_exact, Z, times), right, 1e-10)
    tangents = flow_map_sample(lambda z, t, s: velocity(z, t), Z, times)
    close(tangents, euler(MIX.denoiser(rectified_flow), Z, times, rectified_flow), 1e-10)
    assert (tangents - right).abs().max() > 0.02


def test_what_lies_between_is_on_the_trajectory():
    times = exact(1.0, 0.7, 0.2, 0.0)
    states = flow_map_sample(u_exact, Z, times, trajectory=True)
    for t, state in zip(times, states):
        close(state, flow(Z, times[:1].expand(6), t.expand(6)), 1e-10)


def test_half_precision():
    z, times = Z.bfloat16(), torch.tensor([1.0, 0.5, 0.0])
    u = as_mean_velocity(checks.tangent, 0.5)
    found = flow_map_sample(u, z, times)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), flow_map_sample(u, Z, times.double()), atol=0.05, rtol=0.05)
    assert exact_mean_velocity(flow, velocity)(z, T, S).dtype == torch.bfloat16


def test_bad_input(unchecked_shapes):
    z, t, s = torch.randn(2, 3), torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5])
    still = lambda z, t, s: 0 * z
    u, true = as_mean_velocity(still), exact_mean_velocity(still, lambda z, t: z)
    for call, sentence in (
        *(
            (lambda f=f: f(z, s, t), "t - s must be at least 0 for each sample: s is the cleaner time")
            for f in (u, true)
        ),
        *((lambda f=f: f(z, 2 * t, s), "t must be from 0 to 1") for f in (u, true)),
        *((lambda f=f: f(z, t, s - 0.2), "s must be from 0 to 1") for f in (u, true)),
        *((lambda f=f: f(z, t[:1], s), r"t must be a float tensor \(2,\)") for f in (u, true)),
        *((lambda f=f: f(z, t, s[:, None]), r"s must be a float tensor \(2,\)") for f in (u, true)),
        (lambda: as_mean_velocity(still, 0.0), "data_std must be above 0, the standard deviation"),
        (lambda: as_mean_velocity(lambda x, phi, gap: x[:1])(z, t, s), "returned shape"),
        (lambda: as_mean_velocity(lambda x, phi, gap: gap)(z, t, s), "returned shape"),
        (lambda: diagonal(lambda z, t, s: t)(z, t), "returned shape"),
        (lambda: diagonal(lambda z, t: z), None),
        (
            lambda: diagonal(as_denoiser(lambda x, phi: x, rectified_flow))(z, t),
            "needed: a model that predicts mean velocity",
        ),
        (lambda: flow_map_sample(diagonal(u), z, torch.tensor([1.0, 0.0])), "This one predicts velocity"),
        (lambda: exact_mean_velocity(lambda z, t, s: z[:1], lambda z, t: z)(z, t, s), "returned shape"),
        (lambda: draw_times(0), "b must be at least 1"),
        (lambda: draw_times(4, 1.5), "diagonal must be from 0 to 1"),
        (lambda: guided_slope(z, z, z[:1], 2.0), "must have one shape"),
        (lambda: guided_slope(z, z, z, 2.0, 1.0), "kappa must be at least 0 and below 1"),
        (lambda: guided_slope(z, z, z, math.nan), "scale must be a finite number"),
        (lambda: flow_map_sample(still, z, torch.tensor([0.0, 1.0])), "times must fall from one to the next"),
        (lambda: flow_map_sample(still, z, torch.tensor([1.1, 0.0])), "times must be from 0 to 1"),
        (lambda: flow_map_sample(still, z, torch.tensor([1.0])), "at least two"),
        (lambda: flow_map_sample(lambda z, t, s: z[:1], z, torch.tensor([1.0, 0.0])), "returned shape"),
    ):
        with pytest.raises(ValueError, match=sentence) if sentence else contextlib.nullcontext():
            call()
