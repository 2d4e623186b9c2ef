"""The losses of flow maps: the checks on our code, on every mistake of the list, golden numbers, behaviour.

The numbers in round brackets are those of the list of mistakes that people made or could make: 1 to 24 are
MeanFlow's, 25 to 30 its improved form's, 31 to 44 Shortcut's, 45 to 54 the Lagrangian's. 11 is the same function as
1, and 23 the same as 3, reached by another mistake.
"""

import functools
import json
import re
from pathlib import Path

import einops
import pytest
import torch
from planted import (
    along_the_last,
    asserting,
    forgets,
    four_axes,
    freeze,
    in_place,
    per_sample,
    refuses_too,
    same,
    stays,
    still,
    then,
)
from torch.autograd import forward_ad

from minidistill.checks import column, exact
from minidistill.checks import flowmap as checks
from minidistill.dit import MLP
from minidistill.flowmap import (
    along_path,
    as_mean_velocity,
    diagonal,
    draw_times,
    exact_mean_velocity,
    guided_slope,
    halves_target,
    improved_mean_flow_loss,
    lagrangian_loss,
    mean_flow_loss,
    shortcut_loss,
)
from minidistill.oracle import Gaussian, ProductMixture
from minidistill.parameterization import as_velocity
from minidistill.phased import flow_matching_loss, jump
from minidistill.schedules import mix, rectified_flow

CASES = json.loads((Path(__file__).parent / "golden" / "flowmaps.json").read_text())
GOLDEN = {case["name"]: case for case in CASES}
CHECKS = [
    checks.check_halves_target,
    checks.check_shortcut_loss,
    checks.check_along_path,
    checks.check_mean_flow_loss,
    checks.check_improved_mean_flow_loss,
    checks.check_lagrangian_loss,
]
HALVES, SHORTCUT, ALONG, MEAN, IMPROVED, LAGRANGIAN = CHECKS


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the functions, with one thing changed


def halves_with(
    middle=lambda t, s: (t + s) / 2,
    one=lambda t, m, s: (t, m),
    two=lambda t, m, s: (m, s),
    land=lambda z, v, t, m, s: z + column(m - t, z) * v,
    mean=lambda a, b: (a + b) / 2,
    grad=False,
    cast=True,
):
    def wrong(u, z, t, s):
        halves_target(still, z, t, s)  # refuses what ought to be refused
        t, s = (t.to(z), s.to(z)) if cast else (t, s)
        m = middle(t, s)
        with torch.set_grad_enabled(grad):
            first = same(u(z, *one(t, m, s)), z)
            second = same(u(land(z, first, t, m, s), *two(t, m, s)), z)
            return mean(first, second).to(z.dtype)

    return wrong


right_halves = halves_with()


def shortcut_with(
    halves=right_halves,
    net=lambda u, target: target or u,
    wanted=lambda target, x, eps: target,
    end=lambda t, s: s,
    noisy=mix,
    distance=lambda found, wanted, gap: per_sample((found - wanted) ** 2),
    cast=True,
):
    def wrong(u, x, eps, t, s, target=None):
        shortcut_loss(still, x, eps, t, s)  # refuses what ought to be refused
        t, s = (t.to(x), s.to(x)) if cast else (t, s)
        z = noisy(x, eps, t, rectified_flow)
        goal = wanted(halves(net(u, target), z, t, s), x, eps)
        return distance(same(u(z, t, end(t, s)), x), goal, column(t - s, x))

    return wrong


def first_leg(target, u):
    """target where the first half is asked, u where the second is."""
    nets = iter((target or u, u))
    return lambda *question: next(nets)(*question)


def doubled(u, z, t, s):
    """The halves of twice the interval."""
    halves_target(still, z, t, s)
    return halves_with(middle=lambda t, s: s, two=lambda t, m, s: (s, 2 * s - t))(u, z, t, s)


def by_jvp(f, given, tangents):
    return torch.func.jvp(f, given, tangents)


def along_with(
    tangents=lambda z, slope: (slope, 1, 0),
    ask=lambda u, z, t, s: u(z, t, s),
    derive=by_jvp,
    out=lambda found, rate: (found, rate),
    cast=True,
    ready=torch.Tensor.contiguous,
):
    def wrong(u, z, t, s, slope):
        along_path(still, z, t, s, slope)  # refuses what ought to be refused
        t, s = (ready(time.to(z) if cast else time) for time in (t, s))
        dz, dt, ds = tangents(z, slope)
        given = z, t, s
        moves = tuple(torch.zeros_like(a) + d for a, d in zip(given, (dz, dt, ds)))
        return out(*derive(lambda *a: same(ask(u, *a), z), given, moves))

    return wrong


right_path = along_with()


def by_difference(h, central=False):
    """For along_with: the derivative as a difference."""

    def derive(f, given, moves):
        ahead, behind = (
            f(*(a + step * d for a, d in zip(given, moves))) for step in (h, -h if central else 0.0)
        )
        return f(*given) if central else behind, (ahead - behind) / (2 * h if central else h)

    return derive


def by_gradient(f, given, moves):
    """For along_with: the gradient of the sum, as people find it in the place of a derivative."""
    given = tuple(a.detach().requires_grad_() for a in given)
    found = f(*given)
    left, late, _ = torch.autograd.grad(found.sum(), given, retain_graph=True, allow_unused=True)
    return found, left * moves[0] + column(late * moves[1], found)


def interval_stands(u, z, t, s):
    """For along_with: u(z, t, s) as a network of (z, t, h), whose h = t - s stands."""
    h = (t - s).detach()
    return u(z, t, t - h)


MEAN_TARGET = lambda found, gap, rate, v: found - (v - gap * rate).detach()
IMPROVED_TARGET = lambda found, gap, rate, v: found + gap * rate.detach() - v


def moving_start_with(
    improved,
    along=right_path,
    residual=None,
    v=lambda v, x, eps, own: v,
    slope=None,
    gap=lambda t, s: t - s,
    like=column,
    noisy=mix,
    square=lambda d: per_sample(d**2),
    weight=lambda square, n, p, c: square / (square.detach() * n + c) ** p,
    grad=False,
    cast=True,
):
    """MeanFlow, or its improved form, with one thing changed."""
    reference = improved_mean_flow_loss if improved else mean_flow_loss
    residual = residual or (IMPROVED_TARGET if improved else MEAN_TARGET)
    slope = slope or (
        (lambda u, z, t, s, v, x, eps: u(z, t, t)) if improved else (lambda u, z, t, s, v, x, eps: v)
    )

    def wrong(u, x, eps, t, s, teacher=None, p=0.0, c=1e-3):
        reference(still, x, eps, t, s)  # refuses what ought to be refused
        t, s = (t.to(x), s.to(x)) if cast else (t, s)
        z = noisy(x, eps, t, rectified_flow)
        with torch.set_grad_enabled(grad):
            given = eps - x if teacher is None else same(teacher(z, t), x)
            target = v(given, x, eps, lambda: u(z, t, t))
            path = same(slope(u, z, t, s, given, x, eps), z).detach()
        found, rate = along(u, z, t, s, path)
        d = residual(found, like(gap(t, s), x), rate, target)
        return weight(square(d), d[0].numel(), p, c).to(x.dtype)

    return wrong


mean_with = functools.partial(moving_start_with, False)
improved_with = functools.partial(moving_start_with, True)


def lagrangian_with(
    derive=by_jvp,
    moves=(0, 1),
    speed=lambda found, gap, rate: found + gap * rate,
    land=lambda z, v, t, s, x, eps: z + column(s - t, z) * v,
    at=lambda t, s: s,
    end=lambda t, s: s,
    v=lambda b, x, eps: b,
    residual=lambda speed, b: speed - b,
    square=lambda d: per_sample(d**2),
    noisy=mix,
    grad=False,
    asks=True,
    ready=torch.Tensor.contiguous,
    cast=True,
):
    def wrong(u, x, eps, t, s, teacher=None):
        lagrangian_loss(still, x, eps, t, s)  # refuses what ought to be refused
        t, s = (ready(time.to(x) if cast else time) for time in (t, s))
        z = noisy(x, eps, t, rectified_flow)
        tangents = tuple(move * torch.ones_like(t) for move in moves)
        found, rate = derive(lambda t, s: same(u(z, t, s), z), (t, s), tangents)
        gap = column(s - t, z)
        with torch.set_grad_enabled(grad):
            landed = land(z, found, t, s, x, eps)
            times = (at(t, s), end(t, s))
            b = (teacher(landed, times[0]) if teacher else u(landed, *times)) if asks else 0 * z
            b = v(same(b, z), x, eps)
        return square(residual(speed(found, gap, rate), b)).to(x.dtype)

    return wrong


def any_shape(reference, first=True):
    """The reference, of networks whose answers may have any shape that broadcasts: all, or all but the first."""

    def wrong(u, *args, **nets):
        asked = []

        def wide(net):
            def answer(z, *times):
                asked.append(net)
                found = net(z, *times)
                try:
                    return found.expand_as(z) if first or len(asked) > 1 else found
                except RuntimeError:
                    return found

            return answer

        return reference(wide(u), *args, **{name: net and wide(net) for name, net in nets.items()})

    return wrong


# the mistakes

ALONG_MISTAKES = {
    "tangents (v, 0, 1): d/ds (2) [formula]": (along_with(lambda z, v: (v, 0, 1)), "and not exchanged"),
    "tangents (v, 1, 1): s moves along (3) [formula]": (
        along_with(lambda z, v: (v, 1, 1)),
        "Here s moves with t",
    ),
    "tangents (0, 1, 0): partial derivative (4) [formula]": (
        along_with(lambda z, v: (0, 1, 0)),
        "at a fixed z",
    ),
    "tangents (v, 0, 0): no time derivative (5) [formula]": (
        along_with(lambda z, v: (v, 0, 0)),
        "t moves, too",
    ),
    "tangent of z is z (7) [formula]": (along_with(lambda z, v: (z, 1, 0)), "not z itself"),
    "tangent of z is -v (8) [formula]": (along_with(lambda z, v: (-v, 1, 0)), "not against it"),
    "t and s exchanged (13) [formula]": (
        along_with(ask=lambda u, z, t, s: u(z, s, t)),
        "t and s are exchanged",
    ),
    "a forward difference with step 1e-2 (22) [formula]": (
        along_with(derive=by_difference(1e-2)),
        "not a difference",
    ),
    "a central difference [formula]": (along_with(derive=by_difference(1e-3, True)), "not a difference"),
    "jvp through (z, t, t - s), whose interval stands (23) [formula]": (
        along_with(ask=interval_stands),
        "Here s moves with t",
    ),
    "the interval as the third argument [formula]": (
        along_with(ask=lambda u, z, t, s: u(z, t, t - s)),
        "not the interval",
    ),
    "backwards in time [formula]": (along_with(lambda z, v: (v, -1, 0)), "runs up along the path"),
    "-du/dt [formula]": (along_with(lambda z, v: (-v, -1, 0)), "This is -du/dt|The sign of du/dt"),
    "s moves against t [formula]": (along_with(lambda z, v: (v, 1, -1)), "its tangent is 0"),
    "tangent of z is 1 [formula]": (along_with(lambda z, v: (1, 1, 0)), "its tangent is not 1"),
    "a gradient in the place of the derivative [formula]": (along_with(derive=by_gradient), "jvp, not vjp"),
    "times as they come [precision]": (along_with(cast=False), "A network gets t in z's dtype"),
    "times not contiguous [end]": (along_with(ready=lambda t: t), r"t\.contiguous\(\)"),
}

HALVES_MISTAKES = {
    "the sum of the halves (32) [formula]": (halves_with(mean=lambda a, b: a + b), "not their sum"),
    "the second from z (33) [formula]": (halves_with(land=lambda z, v, t, m, s: z), "not from z"),
    "the second at time t (34) [formula]": (halves_with(two=lambda t, m, s: (t, s)), "not at t"),
    "the second at time t, half the interval (34) [formula]": (
        halves_with(two=lambda t, m, s: (t, m)),
        "not at t",
    ),
    "both on the whole interval (35) [formula]": (
        halves_with(one=lambda t, m, s: (t, s), two=lambda t, m, s: (m, m - (t - s))),
        "Yours is asked for all of it",
    ),
    "the second for a whole interval (36) [formula]": (
        halves_with(two=lambda t, m, s: (m, m - (t - s))),
        "Yours is asked for all of it",
    ),
    "the middle moved the wrong way (37) [formula]": (
        halves_with(land=lambda z, v, t, m, s: z + column(t - m, z) * v),
        "m - t is negative",
    ),
    "the first half takes a whole step (38) [formula]": (
        halves_with(land=lambda z, v, t, m, s: z + column(s - t, z) * v),
        "to m, not to s",
    ),
    "d doubled, not halved (39) [formula]": (doubled, "Yours is asked for all of it"),
    "two Euler steps of the tangent (40) [formula]": (
        halves_with(one=lambda t, m, s: (t, t), two=lambda t, m, s: (m, m)),
        "two steps of Euler",
    ),
    "an uneven split without weights (41) [formula]": (
        halves_with(middle=lambda t, s: 0.3 * t + 0.7 * s),
        r"m = \(t \+ s\) / 2",
    ),
    "clipped to 1 (44) [formula]": (
        halves_with(mean=lambda a, b: ((a + b) / 2).clamp(-1, 1)),
        "Nothing is clipped",
    ),
    "clipped to 4 (44) [formula]": (
        halves_with(mean=lambda a, b: ((a + b) / 2).clamp(-4, 4)),
        "not for large ones|Nothing is clipped",
    ),
    "the first alone [formula]": (halves_with(mean=lambda a, b: a + 0 * b), "this is the first"),
    "the second alone [formula]": (halves_with(mean=lambda a, b: b), "this is the second"),
    "m as an interval [formula]": (
        halves_with(one=lambda t, m, s: (t, t - m), two=lambda t, m, s: (m, m - s)),
        "not the interval",
    ),
    "the first step without its length [formula]": (
        halves_with(land=lambda z, v, t, m, s: z - v),
        "has the length m - t",
    ),
    "asked in one batch, a third time [shape]": (
        lambda u, z, t, s: (u(z, t, s), halves_target(u, z, t, s))[1],
        "twice",
    ),
    "times as they come [precision]": (halves_with(cast=False), "A network gets t in z's dtype"),
}

START = {"mean flow": (MEAN, mean_with), "improved": (IMPROVED, improved_with)}
NO_STOP = lambda found, gap, rate, v: found + gap * rate - v

MISTAKES = {
    **{f"halves: {name}": (HALVES, *rest) for name, rest in HALVES_MISTAKES.items()},
    "halves: with gradient (31) [gradient]": (HALVES, halves_with(grad=True), "no gradient may reach u"),
    "halves: times stay in float64 [precision]": (HALVES, then(halves_target, torch.Tensor.double), "has the dtype of the data"),
    "halves: the difference [formula]": (HALVES, halves_with(mean=lambda a, b: (a - b) / 2), "both halves go the same way"),
    **{f"shortcut: {name}": (SHORTCUT, shortcut_with(wrong, cast="as they come" not in name), says) for name, (wrong, says) in HALVES_MISTAKES.items() if "third time" not in name and "39" not in name},
    "shortcut: d doubled, not halved (39) [formula]": (SHORTCUT, shortcut_with(doubled, end=lambda t, s: 2 * s - t), r"its halves are \(t - s\) / 2 long"),
    "shortcut: no stop-gradient (31) [gradient]": (SHORTCUT, shortcut_with(halves_with(grad=True)), "No gradient may reach the target"),
    "shortcut: no stop-gradient without a target (31) [gradient]": (
        SHORTCUT, lambda u, x, eps, t, s, target=None: (shortcut_loss if target else shortcut_with(halves_with(grad=True)))(u, x, eps, t, s, target),
        "no gradient flows through them",
    ),
    "shortcut: the target that is given is ignored (42) [argument]": (SHORTCUT, shortcut_with(net=lambda u, target: u), "The target that is given is never asked"),
    "shortcut: the target makes the first leg alone (43) [argument]": (
        SHORTCUT, shortcut_with(net=lambda u, target: first_leg(target, u)), "u is asked for none"
    ),
    "shortcut: the target makes the second leg alone (43) [argument]": (
        SHORTCUT, shortcut_with(net=lambda u, target: first_leg(u, target or u)), "u is asked for none"
    ),
    "shortcut: eps - x for the halves [formula]": (SHORTCUT, shortcut_with(wanted=lambda a, x, eps: eps - x), "is flow matching's"),
    "shortcut: where the jumps land [formula]": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: per_sample((gap * (a - b)) ** 2)), "not where the jumps land"),
    "shortcut: noise and data exchanged [formula]": (SHORTCUT, shortcut_with(noisy=lambda x, eps, t, f: mix(eps, x, t, f)), "Noise and data are exchanged"),
    "shortcut: absolute values [formula]": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: per_sample((a - b).abs())), "not the absolute one"),
    "shortcut: half of the square [formula]": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: per_sample((a - b) ** 2) / 2), "not half of it"),
    "shortcut: a sum [formula]": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: ((a - b) ** 2).flatten(1).sum(1)), "not the sum"),
    "shortcut: a norm [formula]": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: (a - b).flatten(1).norm(dim=1)), "without a root"),
    "shortcut: one number [shape]": (SHORTCUT, then(shortcut_loss, torch.mean), r"one number for each sample, \(b,\)"),
    # MeanFlow
    **{
        f"{loss}: {name}": (check, with_(along=wrong, cast="as they come" not in name), says)
        for loss, (check, with_) in START.items()
        for name, (wrong, says) in ALONG_MISTAKES.items()
    },
    **{
        f"{loss}: {name}": (check, with_(**change), says)
        for loss, (check, with_) in START.items()
        for name, change, says in (
            ("the sign of du/dt (1, 28) [formula]", {"residual": lambda f, g, r, v: f - (v + g * r).detach()}, "The sign of du/dt"),
            ("the interval s - t (11) [formula]", {"gap": lambda t, s: s - t}, "The sign of du/dt"),
            ("the interval t (12) [formula]", {"gap": lambda t, s: t}, "of the jump, not by t"),
            ("the interval s [formula]", {"gap": lambda t, s: s}, "of the jump, not by s"),
            ("no interval [formula]", {"gap": lambda t, s: 1 + 0 * t}, "by the length t - s of the jump"),
            ("no du/dt [formula]", {"residual": lambda f, g, r, v: f + 0 * r - v}, "this is flow matching"),
            ("u for v (14) [formula]", {"residual": lambda f, g, r, v: f - (f - g * r).detach()}, "here u stands in its place"),
            ("target x - eps (21) [formula]", {"v": lambda v, x, eps, own: -v}, "not x - eps"),
            ("t - s along another axis [shape]", {"like": along_the_last}, "not along another axis"),
            ("t - s always with four axes [shape]", {"like": four_axes}, "not always four"),
            ("clamped to 1 (24) [formula]", {"residual": lambda f, g, r, v: f - (v - g * r).clamp(-1, 1).detach()}, "Nothing is clipped"),
            ("clamped to 4 (24) [formula]", {"residual": lambda f, g, r, v: f - (v - g * r).clamp(-4, 4).detach()}, "Nothing is clipped"),
            ("no stop-gradient (9, 29) [gradient]", {"residual": NO_STOP}, "du/dt is a constant"),
            ("gradient through the target alone (10) [gradient]", {"residual": lambda f, g, r, v: f.detach() + g * r - v}, "not through its target"),
            ("no gradient [gradient]", {"residual": lambda f, g, r, v: (f + g * r - v).detach()}, "The gradient must reach u"),
            ("noise and data exchanged [formula]", {"noisy": lambda x, eps, t, f: mix(eps, x, t, f)}, "Noise and data are exchanged"),
            ("the data does not fade [formula]", {"noisy": lambda x, eps, t, f: x + column(t, x) * eps}, "The data fades, too"),
            ("where the jumps land [formula]", {"residual": lambda f, g, r, v: g * (f - (v - g * r).detach())}, "not where the jumps land"),
            ("absolute values [formula]", {"square": lambda d: per_sample(d.abs())}, "not the absolute one"),
            ("half of the square [formula]", {"square": lambda d: per_sample(d**2) / 2}, "not half of it"),
            ("a sum [formula]", {"square": lambda d: (d**2).flatten(1).sum(1)}, "not the sum"),
            ("the mean over the batch [formula]", {"square": lambda d: (d**2).mean().expand(len(d))}, "not over the batch"),
            ("one number [shape]", {"square": lambda d: (d**2).mean()}, r"one number for each sample, \(b,\)"),
        )
    },
    "mean flow: tangent of z is eps (6) [formula]": (MEAN, mean_with(slope=lambda u, z, t, s, v, x, eps: eps), "not with eps"),
    "mean flow: a teacher for the target alone [argument]": (
        MEAN, mean_with(slope=lambda u, z, t, s, v, x, eps: eps - x), "The teacher's velocity is the slope of the path, too"
    ),
    "mean flow: velocity x - eps, target and tangent (21) [formula]": (
        MEAN, mean_with(v=lambda v, x, eps, own: -v, slope=lambda u, z, t, s, v, x, eps: -v), "not x - eps"
    ),
    "mean flow: a teacher for the tangent alone [argument]": (
        MEAN, mean_with(v=lambda v, x, eps, own: eps - x), "in place of eps - x|takes the place of eps - x"
    ),
    "improved: a teacher who is asked for nothing [argument]": (
        IMPROVED, improved_with(v=lambda v, x, eps, own: eps - x), "takes the place of eps - x"
    ),
    "mean flow: weight from the sum of the batch [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach().sum() * n + c) ** p), "not of the whole batch"
    ),
    "halves: m - t along another axis [shape]": (
        HALVES, halves_with(land=lambda z, v, t, m, s: z + along_the_last(m - t, z) * v), "not along another axis"
    ),
    "lagrangian: s - t along another axis [shape]": (
        LAGRANGIAN, lagrangian_with(land=lambda z, v, t, s, x, eps: z + along_the_last(s - t, z) * v), "not along another axis"
    ),
    "mean flow: no weight where there is a teacher [argument]": (
        MEAN, lambda u, x, eps, t, s, teacher=None, p=0.0, c=1e-3: mean_flow_loss(u, x, eps, t, s, teacher, 0.0 if teacher else p, c), "p is not used"
    ),
    "halves: answers of another shape [shape]": (HALVES, any_shape(halves_target), "An answer of u of shape"),
    "halves: a second answer of another shape [shape]": (HALVES, any_shape(halves_target, False), "Its second answer of shape"),
    "along: answers of another shape [shape]": (ALONG, any_shape(along_path), "An answer of u of shape"),
    "shortcut: answers of another shape [shape]": (SHORTCUT, any_shape(shortcut_loss), "An answer of the target of shape|An answer of u of shape"),
    "shortcut: later answers of another shape [shape]": (SHORTCUT, any_shape(shortcut_loss, False), "answer of (u|the target) of shape"),
    "mean flow: answers of another shape [shape]": (MEAN, any_shape(mean_flow_loss), "An answer of u of shape"),
    "improved: answers of another shape [shape]": (IMPROVED, any_shape(improved_mean_flow_loss), "answer of (u|the teacher) of shape"),
    "improved: later answers of another shape [shape]": (IMPROVED, any_shape(improved_mean_flow_loss, False), "answer of (u|the teacher) of shape"),
    "lagrangian: answers of another shape [shape]": (LAGRANGIAN, any_shape(lagrangian_loss), "An answer of u of shape"),
    "lagrangian: a velocity of another shape [shape]": (LAGRANGIAN, any_shape(lagrangian_loss, False), "answer of (u|the teacher) of shape"),
    "mean flow: tangent of z is x [formula]": (MEAN, mean_with(slope=lambda u, z, t, s, v, x, eps: x), "not with x"),
    "mean flow: tangent of z is u(z, t, s) [formula]": (MEAN, mean_with(slope=lambda u, z, t, s, v, x, eps: u(z, t, s)), "not the chord"),
    "mean flow: improved [formula]": (MEAN, mean_with(slope=lambda u, z, t, s, v, x, eps: u(z, t, t)), r"u\(z, t, t\) is the velocity"),
    "mean flow: the noise for v [formula]": (MEAN, mean_with(v=lambda v, x, eps, own: eps), "not eps"),
    "mean flow: the teacher is ignored [argument]": (MEAN, lambda u, x, eps, t, s, teacher=None, **k: mean_flow_loss(u, x, eps, t, s, **k), "The teacher is never asked"),
    "mean flow: gradient to the teacher [gradient]": (MEAN, mean_with(grad=True, residual=lambda f, g, r, v: f - v + g * r.detach()), "No gradient may reach the teacher"),
    "mean flow: the weight keeps its gradient (15) [gradient]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q * n + c) ** p), "detach e in it"),
    "mean flow: the weight alone has a gradient [gradient]": (MEAN, mean_with(weight=lambda q, n, p, c: q.detach() / (q * n + c) ** p if p else q), "the loss is not"),
    "mean flow: weight of the squared loss (16) [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: q / ((q.detach() * n) ** 2 + c) ** p), "not of its square"
    ),
    "mean flow: weight of the squared loss, and the sum (16) [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: q * (n if p else 1) / ((q.detach() * n) ** 2 + c) ** p), "not of its square"
    ),
    "mean flow: the loss is squared, too (17) [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: (q * n) ** 2 / ((q.detach() * n) ** 2 + c) ** p if p else q), "itself, not its square"
    ),
    "mean flow: means squared, and the weight of squares (17) [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: q**2 / ((q.detach() * n) ** 2 + c) ** p if p else q), "itself, not its square"
    ),
    "mean flow: weight from the mean of the batch (18) [formula]": (
        MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach().mean() * n + c) ** p), "not of the whole batch"
    ),
    "mean flow: weight from the mean over numbers (19) [formula]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach() + c) ** p), "not of their mean"),
    "mean flow: the root of the weight (20) [formula]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach() * n + c) ** (p / 2)), "the power is p, not p / 2"),
    "mean flow: the weight times the sum [formula]": (MEAN, mean_with(weight=lambda q, n, p, c: q * (n if p else 1) / (q.detach() * n + c) ** p), "not the sum"),
    "mean flow: the weight multiplies [formula]": (MEAN, mean_with(weight=lambda q, n, p, c: q * (q.detach() * n + c) ** p), "it divides"),
    "mean flow: c outside of the power [formula]": (MEAN, mean_with(weight=lambda q, n, p, c: q / ((q.detach() * n) ** p + c) if p else q), "before the power"),
    "mean flow: a weight for each number [formula]": (
        MEAN, mean_with(square=lambda d: d**2, weight=lambda q, n, p, c: per_sample(q / (q.detach() + c) ** p)), "one for all its numbers"
    ),
    "mean flow: p is ignored [argument]": (MEAN, mean_with(weight=lambda q, n, p, c: q), "p is not used"),
    "mean flow: p is 1 where it is not 0 [argument]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach() * n + c) ** (p > 0)), "not always 1"),
    "mean flow: p = 1 by default [argument]": (
        MEAN, lambda u, x, eps, t, s, teacher=None, p=1.0, c=1e-3: mean_flow_loss(u, x, eps, t, s, teacher, p, c), "The squared distance of u"
    ),
    "mean flow: c is ignored [argument]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach() * n + 1e-3) ** p), "c is an argument"),
    "mean flow: c at most 10 [end]": (MEAN, mean_with(weight=lambda q, n, p, c: q / (q.detach() * n + min(c, 10.0)) ** p), "also a large one"),
    "mean flow: c = 0.01 by default [argument]": (
        MEAN, lambda u, x, eps, t, s, teacher=None, p=0.0, c=1e-2: mean_flow_loss(u, x, eps, t, s, teacher, p, c), "By default c is 1e-3"
    ),
    "mean flow: p above 1 refused [end]": (
        MEAN, lambda u, x, eps, t, s, teacher=None, p=0.0, c=1e-3: mean_flow_loss(u, x, eps, t, s, teacher, p if p <= 1 else -1, c), "p = 1.5, c = 2.0, no teacher is valid"
    ),
    # its improved form
    "improved: tangent v (25) [formula]": (IMPROVED, improved_with(slope=lambda u, z, t, s, v, x, eps: v), "never asked.*the slope of the path is u"),
    "improved: tangent u(z, t, s) (26) [formula]": (IMPROVED, improved_with(slope=lambda u, z, t, s, v, x, eps: u(z, t, s)), "never asked.*the slope of the path is u"),
    "improved: tangent u(z, t, 0) (27) [formula]": (IMPROVED, improved_with(slope=lambda u, z, t, s, v, x, eps: u(z, t, 0 * s)), "not at 0"),
    "improved: tangent v, though u(z, t, t) is asked (25) [formula]": (
        IMPROVED, improved_with(slope=lambda u, z, t, s, v, x, eps: v + 0 * u(z, t, t)), "not v: that is MeanFlow"
    ),
    "improved: compared with u(z, t, t) (30) [formula]": (IMPROVED, improved_with(v=lambda v, x, eps, own: own()), r"u\(z, t, t\) stands in its place"),
    "improved: du/dt not detached (29) [gradient]": (IMPROVED, improved_with(residual=NO_STOP), "du/dt is a constant"),
    "improved: u's gradient stops, du/dt's does not [gradient]": (IMPROVED, improved_with(residual=lambda f, g, r, v: f.detach() + g * r - v), "not through its target"),
    "improved: the teacher's velocity is the tangent [argument]": (
        IMPROVED, improved_with(slope=lambda u, z, t, s, v, x, eps: v + 0 * u(z, t, t)), "not v: that is MeanFlow"
    ),
    "improved: the teacher is ignored [argument]": (
        IMPROVED, lambda u, x, eps, t, s, teacher=None: improved_mean_flow_loss(u, x, eps, t, s), "The teacher is never asked"
    ),
    # the end moves
    "lagrangian: b at (landing, t) (45) [formula]": (LAGRANGIAN, lagrangian_with(at=lambda t, s: t, end=lambda t, s: t), "that at s, where the jump lands, not at t"),
    "lagrangian: b at (z, s) (46) [formula]": (LAGRANGIAN, lagrangian_with(land=lambda z, v, t, s, x, eps: z), "not where it starts"),
    "lagrangian: v for b (47) [formula]": (LAGRANGIAN, lagrangian_with(asks=False, v=lambda b, x, eps: eps - x), "never asked.*where the jump lands"),
    "lagrangian: v for b, which is asked (47) [formula]": (LAGRANGIAN, lagrangian_with(v=lambda b, x, eps: eps - x), "not eps - x of the pair"),
    "lagrangian: b at z_s of the pair (48) [formula]": (LAGRANGIAN, lagrangian_with(land=lambda z, v, t, s, x, eps: mix(x, eps, s, rectified_flow)), "not at z_s"),
    "lagrangian: derivative of u (49) [formula]": (LAGRANGIAN, lagrangian_with(speed=lambda f, g, r: r), "The jump moves"),
    "lagrangian: derivative in t (50) [formula]": (LAGRANGIAN, lagrangian_with(moves=(1, 0), speed=lambda f, g, r: g * r - f), "and the start stands: not t"),
    "lagrangian: derivative in t, of u alone (50) [formula]": (LAGRANGIAN, lagrangian_with(moves=(1, 0)), "and the start stands: not t"),
    "lagrangian: -b (51) [formula]": (LAGRANGIAN, lagrangian_with(residual=lambda a, b: a + b), "not -b"),
    "lagrangian: gradient through b (52) [gradient]": (LAGRANGIAN, lagrangian_with(grad=True), "no gradient flows through it"),
    "lagrangian: gradient through a teacher's b alone (52) [gradient]": (
        LAGRANGIAN, lambda u, x, eps, t, s, teacher=None: lagrangian_with(grad=teacher is not None)(u, x, eps, t, s, teacher), "No gradient may reach the teacher"
    ),
    "lagrangian: the tangent is detached (53) [gradient]": (LAGRANGIAN, lagrangian_with(speed=lambda f, g, r: f + g * r.detach()), "through du/ds, too"),
    "lagrangian: u is detached in the speed [gradient]": (LAGRANGIAN, lagrangian_with(speed=lambda f, g, r: f.detach() + g * r), "through u, too"),
    "lagrangian: b off the diagonal (54) [formula]": (LAGRANGIAN, lagrangian_with(end=lambda t, s: 0 * s), "not a chord to 0"),
    "lagrangian: b asked from t to s [formula]": (LAGRANGIAN, lagrangian_with(at=lambda t, s: t), "that at s, where the jump lands, not at t"),
    "lagrangian: du/ds missing [formula]": (LAGRANGIAN, lagrangian_with(speed=lambda f, g, r: f + 0 * r), "both depend on s"),
    "lagrangian: the length's sign [formula]": (LAGRANGIAN, lagrangian_with(speed=lambda f, g, r: f - g * r), "The sign of the length"),
    "lagrangian: both ends move [formula]": (LAGRANGIAN, lagrangian_with(moves=(1, 1), speed=lambda f, g, r: g * r), "Both ends move"),
    "lagrangian: the wrong way [formula]": (LAGRANGIAN, lagrangian_with(land=lambda z, v, t, s, x, eps: z + column(t - s, z) * v), "s - t is negative"),
    "lagrangian: divided by the length [formula]": (LAGRANGIAN, lagrangian_with(square=lambda d: per_sample(d**2) / 2), "not half of it"),
    "lagrangian: b clipped [formula]": (LAGRANGIAN, lagrangian_with(residual=lambda a, b: a - b.clamp(-1, 1)), "Nothing is clipped"),
    "lagrangian: noise and data exchanged [formula]": (LAGRANGIAN, lagrangian_with(noisy=lambda x, eps, t, f: mix(eps, x, t, f)), "Noise and data are exchanged"),
    "lagrangian: a derivative by differences [formula]": (LAGRANGIAN, lagrangian_with(derive=by_difference(1e-3)), "not a difference"),
    "lagrangian: the teacher is ignored [argument]": (LAGRANGIAN, lambda u, x, eps, t, s, teacher=None: lagrangian_loss(u, x, eps, t, s), "The teacher is never asked"),
    "lagrangian: times as they come [precision]": (LAGRANGIAN, lagrangian_with(cast=False), "A network gets t in z's dtype"),
    "lagrangian: times not contiguous [end]": (LAGRANGIAN, lagrangian_with(ready=lambda t: t), r"t\.contiguous\(\)"),
    # the path alone
    **{f"along: {name}": (ALONG, *rest) for name, rest in ALONG_MISTAKES.items()},
    "along: du/dt first [formula]": (ALONG, along_with(out=lambda found, rate: (rate, found)), "u comes first, then du/dt"),
    "along: u alone [shape]": (ALONG, along_with(out=lambda found, rate: found), "Two are returned"),
    "along: detached [gradient]": (ALONG, then(along_path, lambda a: (a[0].detach(), a[1])), "The gradient flows through u"),
    "along: float64 always [precision]": (ALONG, then(along_path, lambda a: tuple(b.double() for b in a)), "u has the dtype of the data"),
    "along: the slope clipped [formula]": (ALONG, lambda u, z, t, s, v: along_path(u, z, t, s, v.clamp(-10, 10) if v.shape == z.shape else v), "The slope is taken as it is"),
    "along: a slope of another shape [shape]": (ALONG, forgets(along_path, lambda u, z, t, s, v: v.shape != z.shape), "A slope of shape"),
}  # fmt: skip

# the same mistake, made in any of them

ALL = {
    "halves": (HALVES, halves_target, 1),
    "along": (ALONG, along_path, 1),
    "shortcut": (SHORTCUT, shortcut_loss, 2),
    "mean flow": (MEAN, mean_flow_loss, 2),
    "improved": (IMPROVED, improved_mean_flow_loss, 2),
    "lagrangian": (LAGRANGIAN, lagrangian_loss, 2),
}


for name, (check, reference, k) in ALL.items():

    def at(condition, k=k):
        """Where the times are a pair (b,) and (b,) with the condition."""

        def when(*args):
            t, s = args[1 + k : 3 + k]
            return t.shape == s.shape == args[1].shape[:1] and bool(condition(t, s))

        return when

    def shaped(condition, k=k):
        return lambda *args: condition(*args[1 + k : 3 + k])

    MISTAKES |= {
        f"{name}: s above t in one row [refusal]": (
            check, forgets(reference, at(lambda t, s: (s > t).any() and (s <= 1).all() and (t >= 0).all())), "s above t must be refused, also in one row"
        ),
        f"{name}: refused only where s is above t everywhere [refusal]": (
            check, forgets(reference, at(lambda t, s: (s <= t).any() and ((t >= 0) & (t <= 1) & (s >= 0) & (s <= 1)).all())), "s above t must be refused, also in one row"
        ),
        f"{name}: refused only where the mean of s is above that of t [refusal]": (
            check, forgets(reference, at(lambda t, s: s.mean() < t.mean() and all(((a >= 0) & (a <= 1)).all() for a in (t, s)))), "s above t must be refused"
        ),
        f"{name}: s just above t [refusal]": (check, forgets(reference, at(lambda t, s: 0 < (s - t).max() < 1e-3)), "s just above t must be refused"),
        f"{name}: t above 1 [refusal]": (check, forgets(reference, at(lambda t, s: (t > 1).any())), "t = 1.1 must be refused"),
        f"{name}: t a little above 1 [refusal]": (check, forgets(reference, at(lambda t, s: 1 < t.max() < 1.001)), "t = 1.0001 must be refused"),
        f"{name}: s below 0 [refusal]": (check, forgets(reference, at(lambda t, s: (s < 0).any() and (t >= s).all())), "s = -0.1 must be refused"),
        f"{name}: s a little below 0 [refusal]": (check, forgets(reference, at(lambda t, s: -0.001 < s.min() < 0)), "s = -0.0001 must be refused"),
        f"{name}: t is nan [refusal]": (check, forgets(reference, at(lambda t, s: t.isnan().any())), "t = nan must be refused"),
        f"{name}: s is nan [refusal]": (check, forgets(reference, at(lambda t, s: s.isnan().any())), "s = nan must be refused"),
        f"{name}: the first row alone is looked at [refusal]": (
            check, forgets(reference, at(lambda t, s: 0 <= s[0] <= t[0] <= 1)), "also as one of many"
        ),
        f"{name}: one t for four samples [shape]": (check, forgets(reference, shaped(lambda t, s: t.shape == (1,))), r"t of shape \(1,\) for 4 samples"),
        f"{name}: one s for four samples [shape]": (check, forgets(reference, shaped(lambda t, s: s.shape == (1,))), r"s of shape \(1,\) for 4 samples"),
        f"{name}: t (b, 1) [shape]": (check, forgets(reference, shaped(lambda t, s: t.ndim == 2)), r"t of shape \(4, 1\) for 4 samples"),
        f"{name}: s = t refused [end]": (check, refuses_too(reference, at(lambda t, s: (t == s).any())), "is valid and must not be refused"),
        f"{name}: t = 1 refused [end]": (check, refuses_too(reference, at(lambda t, s: (t == 1).any())), "is valid and must not be refused"),
        f"{name}: s = 0 refused [end]": (check, refuses_too(reference, at(lambda t, s: (s == 0).any())), "is valid and must not be refused"),
        f"{name}: t = 0 refused [end]": (check, refuses_too(reference, at(lambda t, s: (t == 0).any())), "is valid and must not be refused"),
        f"{name}: t is changed in place [argument]": (check, in_place(reference, 1 + k), "must stay as it is"),
        f"{name}: s is changed in place [argument]": (check, in_place(reference, 2 + k), "must stay as it is"),
        f"{name}: z is changed in place [argument]": (check, in_place(reference, 1), "must stay as it is"),
        f"{name}: gradients stay switched off [gradient]": (
            check, stays(reference, lambda *args: torch._C._set_grad_enabled(False)), "stays behind: use torch"
        ),
        f"{name}: u stays frozen [gradient]": (check, stays(reference, lambda u, *_: freeze(u)), "requires_grad_\\(False\\) stays behind"),
        f"{name}: an assert for a refusal [refusal]": (check, asserting(reference), "With ValueError, not an assert"),
    }  # fmt: skip
    if k == 2:
        MISTAKES |= {
            f"{name}: float64 always [precision]": (check, then(reference, torch.Tensor.double), "The loss has the dtype of the data"),
            f"{name}: float32 always [precision]": (check, then(reference, torch.Tensor.float), "The loss has the dtype of the data"),
            f"{name}: rounded to float32 [precision]": (check, then(reference, lambda a: a.float().to(a)), "no further"),
            f"{name}: detached [gradient]": (check, then(reference, torch.Tensor.detach), "The gradient must reach u"),
            f"{name}: right for four samples alone [shape]": (
                check, then(reference, lambda loss: loss + (len(loss) != 4)), "At the exact mean velocity the loss is 0"
            ),
            f"{name}: noise of another shape [shape]": (
                check, forgets(reference, lambda u, x, eps, t, s, *_: x.shape != eps.shape), r"eps of shape .* must be refused"
            ),
        }  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, as different people write them


def by_dual_numbers(f, given, moves):
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(f(*(forward_ad.make_dual(a, d) for a, d in zip(given, moves))))
        return found.primal, torch.zeros_like(found.primal) if found.tangent is None else found.tangent


def by_two_gradients(f, given, moves):
    """The derivative of a gradient, which is linear in what it is multiplied with, is a product from the right."""
    given = tuple(a.detach().requires_grad_() for a in given)
    found = f(*given)
    w = torch.zeros_like(found, requires_grad=True)
    left = torch.autograd.grad(found, given, w, create_graph=True, allow_unused=True)
    total = sum((a * d).sum() for a, d in zip(left, moves) if a is not None)
    return found, torch.autograd.grad(total, w, create_graph=True)[0]


def by_curve(f, given, moves):
    """One number runs, and all else with it."""
    h = torch.zeros((), dtype=given[0].dtype)
    return torch.func.jvp(
        lambda h: f(*(a + h * d for a, d in zip(given, moves))), (h,), (torch.ones_like(h),)
    )


def by_torchs_own(f, given, moves):
    return torch.autograd.functional.jvp(f, given, moves, create_graph=True)


def by_moving_arguments(f, given, moves):
    """Only what moves is differentiated."""
    move = [k for k, d in enumerate(moves) if d.any()]
    part = lambda *some: f(*(some[move.index(k)] if k in move else a for k, a in enumerate(given)))
    return torch.func.jvp(part, tuple(given[k] for k in move), tuple(moves[k] for k in move))


def asked_twice(f, given, moves):
    """u for its gradient, and once more for its derivative."""
    with torch.no_grad():
        _, rate = torch.func.jvp(f, given, moves)
    return f(*given), rate


WAYS = (by_dual_numbers, by_two_gradients, by_curve, by_torchs_own, by_moving_arguments)


def halves_by_ddim(u, z, t, s):
    """Data and noise are told apart at each step; the chord between both ends at the end."""
    halves_target(still, z, t, s)
    wide = lambda time: time.to(z).reshape(-1, *[1] * (z.ndim - 1))
    now, path = t, z.detach()
    for end in ((t + s) / 2, s):
        v = same(u(path, now.to(z), end.to(z)), z).detach()
        x_hat, eps_hat = path - wide(now) * v, path + (1 - wide(now)) * v
        path, now = (1 - wide(end)) * x_hat + wide(end) * eps_hat, end
    return torch.where(wide(t - s) > 0, (z - path) / wide(t - s), v)


def halves_with_einops(u, z, t, s):
    halves_target(still, z, t, s)
    half = ((t - s) / 2).to(z)
    a = same(u(z, t.to(z), t.to(z) - half), z)
    half_way = z - einops.rearrange(half, "b -> b" + " 1" * (z.ndim - 1)) * a
    b = same(u(half_way, t.to(z) - half, s.to(z)), z)
    return torch.lerp(a, b, 0.5).detach()


def shortcut_first_u(u, x, eps, t, s, target=None):
    """u before its target, detached, and torch's own loss."""
    shortcut_loss(still, x, eps, t, s)
    t, s = t.to(x), s.to(x)
    z = x + column(t, x) * (eps - x)
    found = same(u(z.clone(), t.clone(), s.clone()), x)
    net, z = target or u, z.clone()
    m = torch.lerp(t, s, 0.5)
    first = same(net(z, t, m), x).detach()
    z += column(m - t, x) * first
    wanted = (first + same(net(z, m, s), x).detach()).div(2)
    return torch.nn.functional.mse_loss(found, wanted, reduction="none").mean(dim=tuple(range(1, x.ndim)))


def mean_flow_as_ayf(found, gap, rate, v):
    """No target: a number whose gradient is that of u, times the residual."""
    return found - found.detach() + (found + gap * rate - v).detach()


def weight_under_no_grad(square, n, p, c):
    with torch.no_grad():
        e = square * n
        w = torch.pow(e + c, -p)
    return w * square


RIGHT = {
    "halves": (HALVES, halves_with()),
    "halves by DDIM": (HALVES, halves_by_ddim),
    "halves with einops": (HALVES, halves_with_einops),
    "halves in float64": (HALVES, halves_with(land=lambda z, v, t, m, s: (z.double() - column(t - m, z) * v.double()).to(z), mean=lambda a, b: 0.5 * a.double() + 0.5 * b.double())),
    "shortcut": (SHORTCUT, shortcut_with()),
    "shortcut by DDIM": (SHORTCUT, shortcut_with(halves_by_ddim)),
    "shortcut with einops": (SHORTCUT, shortcut_with(halves_with_einops)),
    "shortcut, u first": (SHORTCUT, shortcut_first_u),
    "shortcut by a norm": (SHORTCUT, shortcut_with(distance=lambda a, b, gap: torch.linalg.vector_norm((a - b).flatten(1), dim=1) ** 2 / a[0].numel() if (a != b).flatten(1).any(1).all() else per_sample((a - b) ** 2))),
    "along": (ALONG, along_with()),
    "along, asked twice": (ALONG, along_with(derive=asked_twice)),
    "along, the rate without gradient": (ALONG, along_with(out=lambda found, rate: (found, rate.detach()))),
    "along, a list": (ALONG, along_with(out=lambda found, rate: [found, rate])),
    **{f"along {way.__name__}": (ALONG, along_with(derive=way)) for way in WAYS},
    **{f"mean flow {way.__name__}": (MEAN, mean_with(along=along_with(derive=way))) for way in (*WAYS, by_jvp)},
    **{f"improved {way.__name__}": (IMPROVED, improved_with(along=along_with(derive=way))) for way in (*WAYS, by_jvp)},
    **{f"lagrangian {way.__name__}": (LAGRANGIAN, lagrangian_with(derive=way)) for way in (*WAYS, by_jvp)},
    "mean flow, asked twice": (MEAN, mean_with(along=along_with(derive=asked_twice))),
    "mean flow as its improved form is written": (MEAN, mean_with(residual=IMPROVED_TARGET)),
    "mean flow as AYF": (MEAN, mean_with(residual=mean_flow_as_ayf)),
    "mean flow, its weight under no_grad": (MEAN, mean_with(weight=weight_under_no_grad)),
    "mean flow by torch's own loss": (MEAN, mean_with(square=lambda d: torch.nn.functional.mse_loss(d, 0 * d, reduction="none").flatten(1).mean(1))),
    "mean flow with einops": (MEAN, mean_with(square=lambda d: einops.reduce(d * d, "b ... -> b", "mean"))),
    "mean flow in float64": (MEAN, mean_with(residual=lambda f, g, r, v: f.double() - (v.double() - g.double() * r.double()).detach())),
    "improved, asked twice": (IMPROVED, improved_with(along=along_with(derive=asked_twice))),
    "improved as MeanFlow is written": (IMPROVED, improved_with(residual=MEAN_TARGET)),
    "improved, with numpy's reshape": (IMPROVED, improved_with(square=lambda d: (d.reshape(d.shape[0], -1) ** 2).mean(axis=-1))),
    "lagrangian, its velocity detached": (LAGRANGIAN, lagrangian_with(grad=True, land=lambda z, v, t, s, x, eps: (z + column(s - t, z) * v).detach(), v=lambda b, x, eps: b.detach())),
    "lagrangian by DDIM": (LAGRANGIAN, lagrangian_with(land=lambda z, v, t, s, x, eps: column(1 - s, z) * (z - column(t, z) * v) + column(s, z) * (z + column(1 - t, z) * v))),
}  # fmt: skip


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("name", RIGHT)
def test_right_answer_passes(name, seed, unchecked_shapes):
    check, right = RIGHT[name]
    with torch.enable_grad():
        check(right, seed=seed)


# numbers of the original code


def network(label, w=1.0):
    """The network of all golden numbers: of z, t and the interval, with a label, times a weight."""

    def u(z, t, s):
        T, h, y, W = (column(torch.as_tensor(c).to(z), z) for c in (t, t - s, label, w))
        return W * (
            torch.tanh(0.7 * z + 0.3 * z.flip(-1) + T) * (1 + 0.5 * torch.sin(h))
            + 0.2 * h * z
            + 0.05 * (y + 1)
        )

    return u


def golden(name):
    """The case, its inputs, and a weight for each sample: losses differ from theirs by sum and mean, twice."""
    case = GOLDEN[name]
    given = {key: torch.tensor(value, dtype=torch.float64) for key, value in case["inputs"].items()}
    outputs = {key: torch.tensor(value, dtype=torch.float64) for key, value in case["outputs"].items()}
    return (
        case["settings"] if "settings" in case else {},
        given,
        outputs,
        torch.ones(4).double().requires_grad_(),
    )


def agree(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "meanflow p" in name])
def test_golden_mean_flow(name):
    """Of both of the authors' releases; guidance stands in the target and in the tangent."""
    settings, given, wanted, w = golden(name)
    x, eps, t, s = (given[key] for key in ("x", "eps", "t", "s"))
    teacher = None
    if settings.get("guidance_eq") == "cfg":
        outside = (t < settings.get("t_start", 0)) | (t > settings.get("t_end", 1))
        both = [
            diagonal(network(label)) for label in (given["label"], torch.full_like(t, settings["null_label"]))
        ]
        omega, kappa = settings["omega"], settings["kappa"]
        teacher = lambda z, t: guided_slope(eps - x, *(v(z, t) for v in both), omega, kappa, outside)
    u = network(given["label"], w)
    loss = 2 * mean_flow_loss(u, x, eps, t, s, teacher, settings["norm_p"], settings["norm_eps"])
    agree(loss.detach(), wanted["loss"])
    agree(torch.autograd.grad(loss.sum(), w)[0], wanted["dloss_dw"])
    if "squared_distance_of_u_to_eps_minus_x" in wanted:
        plain = 2 * (u(mix(x, eps, t, rectified_flow), t, s) - eps + x).square().mean(1)
        agree(plain.detach(), wanted["squared_distance_of_u_to_eps_minus_x"])


def test_golden_improved_mean_flow():
    """Theirs adds the loss of a second head, which is flow matching; here the diagonal is that head."""
    _, given, wanted, w = golden("imf omega=1 p=0")
    x, eps, t, s = (given[key] for key in ("x", "eps", "t", "s"))
    u = network(given["label"], w)
    loss, flow = improved_mean_flow_loss(u, x, eps, t, s), flow_matching_loss(diagonal(u), x, eps, t)
    agree(loss.detach(), wanted["mean_square_u"])
    agree(flow.detach(), wanted["mean_square_v"])
    agree(2 * (loss + flow).detach(), wanted["loss"])
    agree(torch.autograd.grad(2 * (loss + flow).sum(), w)[0], wanted["dloss_dw"])


def test_golden_shortcut():
    """All eight intervals; theirs predicts -u, of data at time 1."""
    _, given, wanted, _ = golden("shortcut targets, dyadic")
    agree(halves_target(network(given["label"]), given["z"], given["t"], given["s"]), wanted["u_target"])
    agree(-wanted["their_v_target"], wanted["u_target"])


def test_golden_terminal_velocity_matching():
    """TVM: the Lagrangian loss of its own diagonal, and flow matching at a time of its own."""
    _, given, wanted, w = golden("tvm detach_jvp=False")
    x, eps, t, s = (given[key] for key in ("x", "eps", "t", "s"))
    u = network(torch.zeros(4), w)  # theirs sets the labels to 0 in place
    loss, flow = lagrangian_loss(u, x, eps, t, s), flow_matching_loss(diagonal(u), x, eps, given["s_prime"])
    agree(loss.detach(), wanted["terminal"])
    agree(flow.detach(), wanted["flow_matching"])
    agree((loss + flow).detach(), wanted["loss"])
    agree(torch.autograd.grad((loss + flow).sum(), w)[0], wanted["dloss_dw"])


@pytest.mark.parametrize("name", ["flow_map_matching_public lagrangian_distill", "flowmodels LMD"])
def test_golden_lagrangian(name):
    """The value is theirs; their gradient flows through the landing point, ours does not: the same zero."""
    _, given, wanted, w = golden(name)
    x, eps, t, s = (given[key] for key in ("x", "eps", "t", "s"))
    teacher = as_velocity(Gaussian(exact(0.1, 0.1), 0.25 * torch.eye(2).double()).denoiser(rectified_flow))
    u = network(torch.zeros(4), w)
    loss, through = (f(u, x, eps, t, s, teacher) for f in (lagrangian_loss, lagrangian_with(grad=True)))
    for ours, same_gradient in ((loss, False), (through, True)):
        value = 2 * ours if wanted["loss"].ndim else ours.mean()  # one is a mean over all
        agree(value.detach(), wanted["loss"])
        slope = torch.autograd.grad(value.sum(), w)[0]
        slope = slope if wanted["loss"].ndim else slope.sum()
        assert torch.allclose(slope, wanted["dloss_dw"], atol=1e-12, rtol=1e-12) == same_gradient


def test_golden_eulerian():
    """FMM's: MeanFlow's residual; its gradient flows through the derivative in time, and not in space."""
    _, given, wanted, w = golden("flow_map_matching_public eulerian_ct")
    x, eps, t, s = (given[key] for key in ("x", "eps", "t", "s"))
    u, z, v = network(torch.zeros(4), w), mix(x, eps, t, rectified_flow), eps - x
    agree(2 * mean_flow_loss(u, x, eps, t, s).detach(), wanted["loss"])
    found, in_time = along_path(u, z, t, s, 0 * v)
    in_space = (along_path(u, z, t, s, v)[1] - in_time).detach()
    loss = (found + column(t - s, z) * (in_time + in_space) - v).square().sum(1)
    agree(loss.detach(), wanted["loss"])
    agree(torch.autograd.grad(loss.sum(), w)[0], wanted["dloss_dw"])


def test_golden_consistency_trajectory_models():
    """CTM's G, in EDM's time and sign, is the jump of `as_mean_velocity`: its F is minus ours."""
    settings, given, wanted, _ = golden("CTM G(z,t,s)")
    z, t, s, sd = given["z"], given["t"], given["s"], settings["sigma_data"]
    label = torch.zeros(4)

    def net(z, phi, interval):  # theirs gets atan(t) and atan(t - s)
        t, s = sd * torch.tan(phi), sd * torch.tan(phi - interval)
        return -network(label)(z, torch.atan(t), torch.atan(t) - torch.atan(t - s))

    scale = lambda time: column(1 + time, z)  # from rectified flow to EDM
    now, end = t / (1 + t), s / (1 + s)
    u = as_mean_velocity(net, data_std=sd)(z / scale(t), now, end)
    agree(jump(u, z / scale(t), now, end) * scale(s), wanted["G"])
    # their x_hat, which depends on s, is another way to write it: G is its DDIM step
    chord = (z / scale(t) - wanted["g"]) / column(now, z)
    agree(jump(chord, z / scale(t), now, end) * scale(s), wanted["G"])


# behaviour


def test_tangents_doubled_are_steps_of_euler():
    """Five times: Euler's method in 32 steps, whatever the interval."""
    u = lambda z, t, s: checks.learner(z, t, t)
    z, t, s = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double(),
        exact(1.0, 0.8, 0.5, 0.3),
        exact(0.0, 0.4, 0.5, 0.1),
    )
    doubled = u
    for _ in range(5):
        doubled = functools.partial(halves_target, doubled)
    path, now = z, t
    for k in range(1, 33):
        path, now = jump(u(path, now, now), path, now, t + k / 32 * (s - t)), t + k / 32 * (s - t)
    agree(jump(doubled(z, t, s), z, t, s), path)


def test_the_flow_map_of_any_ode_has_no_shortcut_loss():
    """Also of one that has nothing to do with the data: only flow matching on the diagonal knows those."""
    other = Gaussian(exact(3.0, -2.0), exact(0.2, 4.0).diag())
    u = exact_mean_velocity(
        functools.partial(other.flow_map, schedule=rectified_flow),
        as_velocity(other.denoiser(rectified_flow)),
    )
    x, eps = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    t, s = exact(1.0, 0.8, 0.5, 0.3), exact(0.0, 0.4, 0.5, 0.1)
    agree(shortcut_loss(u, x, eps, t, s), torch.zeros(4).double())
    assert (flow_matching_loss(diagonal(u), x, eps, t) > 0.1).all()


def gradients(loss, knob):
    return torch.autograd.grad(loss.sum(), knob, retain_graph=True)[0]


@pytest.fixture
def example():
    """A network with a knob for each sample, data, noise and two times."""
    x, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    return checks.Net(checks.learner), x, eps, exact(0.9, 0.6, 0.75, 0.35), exact(0.2, 0.1, 0.75, 0.05)


def test_on_the_diagonal_it_is_flow_matching(example):
    u, x, eps, t, s = example
    flow = flow_matching_loss(diagonal(u), x, eps, t)
    for loss in (mean_flow_loss, improved_mean_flow_loss):
        found = loss(u, x, eps, t, t)
        agree(found.detach(), flow.detach())
        agree(gradients(found, u.knob), gradients(flow, u.knob))
    for loss in (shortcut_loss, lagrangian_loss):
        agree(loss(u, x, eps, t, t).detach(), 0 * t)


def test_mean_flow_in_its_improved_form_is_mean_flow(example):
    """What makes the difference is the slope of the path, and no other word."""
    u, x, eps, t, s = example
    one, other = mean_flow_loss(u, x, eps, t, s), mean_with(residual=IMPROVED_TARGET)(u, x, eps, t, s)
    agree(one.detach(), other.detach())
    agree(gradients(one, u.knob), gradients(other, u.knob))


def test_gradient_of_align_your_flow(example):
    """AYF's: df/dt, where f is the landing point, is pushed to 0. Its gradient is (t - s) times MeanFlow's."""
    u, x, eps, t, s = example
    z, gap = mix(x, eps, t, rectified_flow), column(t - s, x)
    found, rate = along_path(u, z, t, s, eps - x)
    landed = jump(found, z, t, s)
    change = eps - x - found - gap * rate  # df/dt along the path
    loss = (landed - landed.detach() + change.detach()).square().mean(1)
    ratio = gradients(loss, u.knob) / gradients(mean_flow_loss(u, x, eps, t, s), u.knob)
    agree(ratio, t - s)
    torch.testing.assert_close(ratio, exact(0.7, 0.5, 0.0, 0.3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_the_weight_leads_to_the_mode_where_there_are_few_numbers(p):
    """v is 1 with probability .7 and else -1, in each of d numbers: its mean is .4, its mode 1."""

    def fixed_point(d):
        ones = torch.arange(d + 1).double()
        chance = torch.exp(torch.distributions.Binomial(d, exact(0.7)).log_prob(ones))
        v = torch.where(torch.arange(d) < ones[:, None], 1.0, -1.0).double()
        now, low, high = torch.ones(d + 1).double(), 0.3, 1.0
        for _ in range(30):
            m = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
            loss = mean_flow_loss(lambda z, t, s: m + 0 * z, -v, 0 * v, now, now, p=p, c=0.01)
            rises = torch.autograd.grad((chance * loss).sum(), m)[0] > 0
            low, high = (low, m.item()) if rises else (m.item(), high)
        return low

    found = [fixed_point(d) for d in (1, 2, 64)]
    if p == 0:
        assert found == pytest.approx([0.4] * 3, abs=1e-6)
    else:
        assert min(found[:2]) > 0.9 and 0.4 < found[2] < 0.42
    if p == 1:  # one number: .7 a / (a^2 + c) = .3 b / (b^2 + c), with a and b the distances to 1 and to -1
        a, b = 1 - found[0], 1 + found[0]
        assert 0.7 * a / (a**2 + 0.01) == pytest.approx(0.3 * b / (b**2 + 0.01), rel=1e-5)


def test_the_weighted_value_says_nothing(example):
    u, x, eps, t, s = example
    loss = [3 * mean_flow_loss(u, size * x, size * eps, t, s, p=1) for size in (1, 10)]
    torch.testing.assert_close(torch.stack(loss).detach(), torch.ones(2, 4).double(), atol=3e-3, rtol=0)


def dropping(masks):
    """A mean velocity that notes the masks that dropout drew for it."""

    def u(z, t, s):
        mask = torch.dropout(torch.ones_like(z), 0.5, True)
        masks.append(mask.detach().clone())
        return z * mask + column(t + s, z)

    return u


@pytest.mark.parametrize(
    "loss,times",
    [(shortcut_loss, 3), (improved_mean_flow_loss, 2), (lagrangian_loss, 2), (mean_flow_loss, 1)],
)
def test_all_that_is_asked_shares_one_dropout_mask(loss, times):
    x, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    t, s, masks = torch.tensor([1.0, 0.7, 0.5, 0.3]), torch.tensor([0.0, 0.3, 0.5, 0.2]), []
    for _ in range(2):
        loss(dropping(masks), x, eps, t, s)
    assert len(masks) == 2 * times and 0 < masks[0].mean() < 2
    assert all(torch.equal(mask, masks[0]) for mask in masks[:times])
    assert not torch.equal(masks[0], masks[times])  # the next call has another


@pytest.mark.parametrize("loss", [shortcut_loss, mean_flow_loss, improved_mean_flow_loss, lagrangian_loss])
def test_low_precision(loss):
    x, eps = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    t, s = torch.tensor([1.0, 0.999, 0.5, 0.3, 0.3]), torch.tensor([0.0, 0.99, 0.5, 0.0, 0.2])
    found = loss(lambda z, t, s: torch.tanh(z + column(t - s, z)), x, eps, t, s)
    assert found.dtype == torch.bfloat16 and found.isfinite().all()


def test_bad_input(unchecked_shapes):
    x, one, two = torch.randn(2, 3), torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.6])
    u = lambda z, t, s: z
    for call, sentence in (
        (
            lambda: halves_target(u, x, one, two),
            "t - s must be at least 0 for each sample: s is the cleaner time",
        ),
        (lambda: along_path(u, x, one, one, x[:1]), "slope and z must have one shape"),
        (lambda: along_path(u, x, 3 * one, one, x), "t must be from 0 to 1"),
        (lambda: along_path(u, x, one, one - 1, x), "s must be from 0 to 1"),
        (lambda: shortcut_loss(u, x, x[:1], one, one), "one shape"),
        (lambda: mean_flow_loss(u, x, x, one, one, p=-1), "p must be at least 0"),
        (lambda: mean_flow_loss(u, x, x, one, one, c=0), "c must be above 0"),
        (lambda: mean_flow_loss(u, x, x, one[:1], one), "one for each sample"),
        (
            lambda: mean_flow_loss(diagonal(u), x, x, one, one),
            "predicts mean velocity. This one predicts velocity",
        ),
        (lambda: lagrangian_loss(u, x, x, one, two), "s is the cleaner time"),
        (lambda: lagrangian_loss(u, x, x, one, one, lambda z, t: z[:1]), "returned shape"),
        (lambda: improved_mean_flow_loss(lambda z, t, s: z[:1], x, x, one, one), "returned shape"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


# in expectation: at the exact map of a mixture, in three directions


@pytest.fixture(scope="module")
def pairs():
    """60 000 pairs, their times, and the exact mean velocity with three knobs, at 0, for each pair."""
    n, g = 60_000, torch.Generator().manual_seed(0)
    weights, means = exact(0.3, 0.4, 0.3, 0.25, 0.35, 0.4), exact(-1.2, 0.0, 1.2, -1.2, 0.0, 1.2)
    turn = exact(0.8, -0.6, 0.6, 0.8).reshape(2, 2)
    thing = ProductMixture(weights.reshape(2, 3), means.reshape(2, 3), 0.3 + torch.zeros(2, 3).double(), turn)
    x, eps = thing.sample(n, g), torch.randn(n, 2, generator=g, dtype=torch.float64)
    t, s = (0.02 + 0.98 * time.double() for time in draw_times(n, 0.0, g))
    velocity = as_velocity(thing.denoiser(rectified_flow))
    truth = exact_mean_velocity(functools.partial(thing.flow_map, schedule=rectified_flow), velocity)
    knobs = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)

    def u(z, t, s):
        T, S = column(t, z), column(s, z)
        bump = z * torch.exp(-z.square().sum(1, keepdim=True) / 2)
        moves = torch.sin(2 * z + T), torch.tanh(z.flip(1) - S) * (1 + T), bump
        return truth(z, t, s) + sum(knobs[:, k, None] * move for k, move in enumerate(moves))

    return u, x, eps, t, s, velocity, knobs


def z_scores(loss, knobs):
    """Of the mean gradient in each direction: a number of its errors, and of rounding's."""
    slopes = torch.autograd.grad(loss.sum(), knobs)[0]
    return slopes.mean(0) / (slopes.std(0) / len(slopes) ** 0.5 + 1e-10)


def adaptive(loss, p):
    """The weight of a loss of two numbers."""
    return lambda *args: (found := loss(*args)) / (2 * found.detach() + 1e-2) ** p


STATIONARY = {
    "flow matching": lambda u, x, eps, t, s: flow_matching_loss(diagonal(u), x, eps, t),
    "shortcut": shortcut_loss,
    "mean flow": mean_flow_loss,
    "improved": improved_mean_flow_loss,
    "improved, without stop-gradient": improved_with(residual=NO_STOP),
    "lagrangian of itself": lagrangian_loss,
}
MOVES = {
    "mean flow: the sign of du/dt (1)": mean_with(residual=lambda f, g, r, v: f - (v + g * r).detach()),
    "mean flow: no stop-gradient (9)": mean_with(residual=NO_STOP),
    "mean flow: p = .5": functools.partial(mean_flow_loss, p=0.5, c=1e-2),
    "mean flow: p = 1": functools.partial(mean_flow_loss, p=1, c=1e-2),
    "improved: p = 1": adaptive(improved_mean_flow_loss, 1),
    "lagrangian: v for b (47)": lagrangian_with(asks=False, v=lambda b, x, eps: eps - x),
    "lagrangian: b at z_s of the pair (48)": lagrangian_with(land=lambda z, v, t, s, x, eps: mix(x, eps, s, rectified_flow)),
    "lagrangian: b at (landing, t) (45)": lagrangian_with(at=lambda t, s: t, end=lambda t, s: t),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STATIONARY)
def test_training_would_stay_at_the_truth(name, pairs):
    u, x, eps, t, s, velocity, knobs = pairs
    assert z_scores(STATIONARY[name](u, x, eps, t, s), knobs).abs().max() < 4


@pytest.mark.slow
@pytest.mark.parametrize("loss", [mean_flow_loss, improved_mean_flow_loss, lagrangian_loss])
def test_training_with_the_exact_teacher_stays(loss, pairs):
    """Each pair by itself: the loss is 0."""
    u, x, eps, t, s, velocity, knobs = pairs
    found = loss(u, x, eps, t, s, velocity)
    assert found.max() < 1e-12 and z_scores(found, knobs).abs().max() < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
def test_training_would_leave_the_truth(name, pairs):
    u, x, eps, t, s, velocity, knobs = pairs
    assert z_scores(MOVES[name](u, x, eps, t, s), knobs).abs().max() > 4.5


@pytest.mark.slow
def test_the_floor_of_the_improved_form_is_flow_matchings(pairs):
    """At the truth its compound is the velocity: pair by pair. MeanFlow's loss is larger by the spread of du/dt."""
    u, x, eps, t, s, velocity, knobs = pairs
    with torch.no_grad():
        flow = flow_matching_loss(velocity, x, eps, t)
        torch.testing.assert_close(improved_mean_flow_loss(u, x, eps, t, s), flow, atol=1e-8, rtol=1e-8)
        assert mean_flow_loss(u, x, eps, t, s).mean() > 1.1 * flow.mean()


@pytest.mark.slow
def test_the_bias_of_consistency_training_to_s_falls_with_its_step(pairs):
    """X(z_t, t, s) against X(z_r, r, s) of the same pair, over t - r: biased, by half as much at half of t - r.

    What it is for t - r = 0, (t - s) times MeanFlow's gradient, has mean 0: without it the bias shows more clearly.
    """
    u, x, eps, t, s, velocity, knobs = pairs
    z, far = mix(x, eps, t, rectified_flow), t - s > 0.02
    limit = torch.autograd.grad(((t - s) * mean_flow_loss(u, x, eps, t, s)).sum(), knobs)[0]

    def bias(h):
        r = torch.where(far, t - h, t)
        z_r = mix(x, eps, r, rectified_flow)
        wanted = jump(u(z_r, r, s), z_r, r, s).detach()
        loss = (jump(u(z, t, s), z, t, s) - wanted).square().mean(1) / h
        return (torch.autograd.grad(loss.sum(), knobs)[0] - limit)[far]

    steps = [bias(h) for h in (0.02, 0.01, 0.005)]
    z = [(a.mean(0) / a.std(0) * len(a) ** 0.5).abs().max() for a in steps]
    assert min(z) > 4.5
    one, two, three = (a.mean(0).norm() for a in steps)
    assert one / two == pytest.approx(2, abs=0.15) and two / three == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("loss", [shortcut_loss, mean_flow_loss, improved_mean_flow_loss, lagrangian_loss])
def test_every_call_draws_its_own_dropout(loss):
    """Masks are shared within a loss, not between two: also where a teacher draws none."""
    torch.manual_seed(0)
    u = as_mean_velocity(MLP(dropout=0.5, interval=True), 0.5)
    x, eps = torch.randn(2, 64, 2)
    t, s = draw_times(64, 0.0)
    teachers = [{}] if loss is shortcut_loss else [{}, {"teacher": lambda z, t: 0.3 * z}]
    for given in teachers:
        one, two = (loss(u, x, eps, t, s, **given) for _ in range(2))
        assert one.isfinite().all() and not torch.equal(one, two)
