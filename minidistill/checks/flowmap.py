"""Checks of flow maps: what the network is asked, values, derivatives, and the flow of a known distribution.

Every network here has two times. Samples are as in the checks of phased consistency: axes that are all alike,
and points, images and videos whose axes are not. The derivatives that the losses take are compared with
differences of five values: right to ten digits, and without torch's own. At the exact mean velocity of a
mixture each loss whose target is known there is 0. Among its times, some are on the diagonal and at the ends.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidistill import flowmap
from minidistill.checks import (
    Likely,
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    recorded,
    refuses,
)
from minidistill.checks.oracle import mixture
from minidistill.checks.phased import DIMS, DOUBLE, anywhere, float32_numbers, other_shapes, student, teacher
from minidistill.checks.progressive import check_randomness
from minidistill.flowmap import exact_mean_velocity
from minidistill.oracle import Gaussian
from minidistill.parameterization import as_velocity
from minidistill.phased import flow_matching_loss
from minidistill.schedules import rectified_flow

# what all of them need


def recorded_map(net: Callable, asked: list[tuple[Tensor, Tensor, Tensor]]) -> Callable:
    """recorded, for a network of two times: it keeps copies of z and both, and is as strict about both."""

    def strict(z, t, *more, **conditioning):
        assert len(more) == 1, (
            "The network gets three things by their places, the second time third: "
            f"here {2 + len(more)}, and by name {list(conditioning)}."
        )
        (s,) = more
        assert isinstance(s, Tensor) and (s.shape, s.dtype) == (z.shape[:1], z.dtype), (
            f"The second time is like the first, one for each sample, {tuple(z.shape[:1])}, in the dtype of "
            f"z, {z.dtype}: not {(tuple(s.shape), s.dtype) if isinstance(s, Tensor) else repr(s)}."
        )
        first = []
        answer = recorded(lambda z, t: net(z, t, s, **conditioning), first)(z, t)
        asked.append((*first[0], s.detach().clone()))
        return answer

    return strict


def chord(z, t, s):
    """A mean velocity that is nobody's: every argument matters, and s = 0 or s = t are nothing special."""
    return student(z, t) + column(1 + s - t * s, z) * torch.cos(z) + z / 4


def times_in_words(t: Tensor, s: Tensor) -> str:
    """Both, with nine digits."""
    t, s = ([round(time, 9) for time in times.tolist()] for times in (t, s))
    return f"t = {t} with s = {s}"


def as_given(found: Tensor, inputs: list[Tensor], before: list[Tensor]) -> None:
    """What every function of a batch owes: its shape, its dtype, and inputs that stay as they are."""
    z = inputs[0]
    assert isinstance(found, Tensor) and found.shape == z.shape, (
        f"The result has the shape of the batch, {tuple(z.shape)}, not {tuple(getattr(found, 'shape', ()))}."
    )
    assert found.dtype == z.dtype, f"The result has the dtype of the batch, {z.dtype}, not {found.dtype}."
    assert all(torch.equal(a, b) for a, b in zip(inputs, before)), (
        "What is given belongs to the caller and must stay as it is: change nothing in place."
    )


def refuses_wrong_times(u: Callable, z: Tensor) -> None:
    """u(z, t, s) refuses all but 0 <= s <= t <= 1 for each of four samples, also where one alone is wrong."""
    t, s = exact(0.9, 0.7, 0.8, 0.6), exact(0.1, 0.4, 0.0, 0.3)
    for value, bad in anywhere(t, 1.1, 1 + 1e-4, math.inf):
        hint = f"t = {value:g} must be refused, also as one of many: 0 <= s <= t <= 1."
        refuses(lambda: u(z, bad, s), hint)
    for value, bad in anywhere(s, -0.1, -1e-4, -math.inf):
        hint = f"s = {value:g} must be refused, also as one of many: 0 <= s <= t <= 1."
        refuses(lambda: u(z, t, bad), hint)
    for above, row in itertools.product((0.05, 1e-4), range(4)):
        bad = s.clone()
        bad[row] = t[row] + above
        refuses(lambda: u(z, t, bad), "s above t must be refused, also in one sample: s is the cleaner time.")
    for name, wrong in (("t", (t[:1], s)), ("s", (t, s[:1])), ("t", (t[:, None], s)), ("s", (t, s[:, None]))):
        shape = tuple(next(c for c in wrong if c.shape != (4,)).shape)
        refuses(lambda: u(z, *wrong), f"{name} of shape {shape} for 4 samples must be refused.")


# the network as a mean velocity


def tangent(x, phi, gap):
    """F: no time can take the place of another."""
    return torch.tanh(x) * column(1 + phi + torch.sin(2 * gap), x) + 0.3 * torch.sin(x) * column(
        torch.cos(phi + 3 * gap), x
    )


def angle(t: Tensor, data_std: float) -> tuple[Tensor, Tensor]:
    """r and phi of the package's circle, on rectified flow."""
    return torch.hypot((1 - t) * data_std, t), torch.atan2(t, (1 - t) * data_std)


def by_angles(net, z, t, s, data_std):
    """z / r, phi_t, the interval, F, and the mean velocity: the jump r_s (cos z / r - sin F), divided out."""
    (r, phi), (_, phi_s) = angle(t, data_std), angle(s, data_std)
    x, T, r = z / column(r, z), column(t, z), column(r, z)
    F = net(x, phi, phi - phi_s)
    return x, phi, phi - phi_s, F, ((T - (1 - T) * data_std**2) * x + data_std * F) / r


def likely_questions(z, t, s, sd):
    """What is asked in the place of z / r, phi_t and the interval, each with its sentence."""
    (r, phi), (r_s, phi_s) = angle(t, sd), angle(s, sd)
    bare, bare_s = torch.atan2(t, 1 - t), torch.atan2(s, 1 - s)
    over = lambda c: z / column(c, z)
    return (
        (
            ("The network sees z / r, and here z itself.", z),
            ("r is a length: its root is missing.", over(r**2)),
            ("z is divided by r, not multiplied.", z * column(r, z)),
            ("data_std is missing in r = hypot((1 - t) data_std, t).", over(torch.hypot(1 - t, t))),
            ("data_std is on the data, not on the noise.", over(torch.hypot(1 - t, t * sd))),
            ("r is that of t, where z is, not of s.", over(r_s)),
            ("r is the root of the squares, not the sum.", over((1 - t) * sd + t)),
            ("z / r is not multiplied by data_std, too.", sd * over(r)),
        ),
        (
            ("The network sees the angle phi_t, not t.", t),
            ("The angle phi_t is not a share of pi / 2.", phi / (math.pi / 2)),
            ("data_std is missing in phi_t = atan2(t, (1 - t) data_std).", bare),
            ("data_std is on the data, not on the noise.", torch.atan2(t * sd, 1 - t)),
            ("Data is at phi = 0 and noise at pi / 2, not the other way round.", math.pi / 2 - phi),
            ("The angles are exchanged: first comes phi_t, the noisier one.", phi_s),
            ("The angles are exchanged: first phi_t, then the interval phi_t - phi_s.", phi - phi_s),
            ("The angle is the same for every schedule: this is cosine's, pi t / 2.", t * math.pi / 2),
        ),
        (
            ("The interval is one of angles, phi_t - phi_s, not t - s.", t - s),
            ("s has its angle, too: phi_t - phi_s, not phi_t - s.", phi - s),
            ("The third is the interval phi_t - phi_s, not phi_s itself.", phi_s),
            ("The third is the interval phi_t - phi_s, not s.", s),
            ("The interval is at least 0: phi_t - phi_s.", phi_s - phi),
            ("The interval ends at s, and here at 0: s is not used.", phi),
            ("The interval is 0 on the diagonal alone: s is not used.", 0 * phi),
            ("data_std is missing in the angle of s.", phi - bare_s),
            ("data_std is missing in both angles.", bare - bare_s),
        ),
    )


def likely_mean_velocities(x, F, u, z, t, s, sd):
    """What is answered in the place of u."""
    (r, phi), (r_s, _) = ([column(c, z) for c in angle(time, sd)] for time in (t, s))
    T, S = column(t, z), column(s, z)
    lands = z - (T - S) * u
    made = lambda keep, take: (keep * x + take * F) / r
    keep = T - (1 - T) * sd**2
    return (
        ("The sign of F is a plus: the velocity leads to the noise.", made(keep, -sd)),
        ("The division by r is missing: F and z / r belong to the circle, u to z.", made(keep * r, sd * r)),
        ("The division by r is missing behind F.", made(keep, sd * r)),
        ("z is divided by r twice: once in z / r, and once with F.", made(keep * r, sd)),
        ("data_std is missing before F.", made(keep, 1)),
        ("data_std is squared before z / r, and is not here.", made(T - (1 - T) * sd, sd)),
        ("data_std is missing before z / r.", made(T - (1 - T), sd)),
        ("A sign is wrong: t - (1 - t) data_std^2.", made(T + (1 - T) * sd**2, sd)),
        ("This is r of s: divide by that of t.", made(keep * r / r_s, sd * r / r_s)),
        ("This is F itself, the tangent of the circle.", F),
        ("This is where the jump lands: u is the slope of the chord.", lands),
        ("This is the way that is gone: it is divided by t - s.", z - lands),
        ("u leads from data to noise, (z_t - z_s) / (t - s): the sign is wrong.", -u),
        ("This is the denoiser, x_hat.", sd * (phi.cos() * x - phi.sin() * F)),
        *(("Nothing is clipped.", u.clamp(-a, a)) for a in (1, 2, 3, 5, 10, 100)),
    )


def check_as_mean_velocity(as_mean_velocity=flowmap.as_mean_velocity, seed: int = 0) -> None:
    """What the network sees, what its answer means, both ends, the diagonal, and every derivative."""
    g = torch.Generator().manual_seed(seed)
    knob, asked = torch.ones((), dtype=DOUBLE, requires_grad=True), []
    net = lambda x, phi, gap: tangent(knob.to(x) * x, phi, gap)
    strict = recorded_map(net, asked)
    ends = exact(1.0, 1.0, 0.0, 0.6), exact(0.0, 1.0, 0.0, 0.6)
    short = exact(1e-3, 1e-5, 1e-7, 1e-9)
    kept, half = float32_numbers(2, 3, generator=g), exact(0.5, 0.5)
    answer = kept.clone()
    as_mean_velocity(lambda x, *times, **names: answer, 0.5)(kept.clone(), half, half / 2)
    hint = "What the network answers must stay as it is: no F *= data_std, but F = data_std * F."
    assert torch.equal(kept, answer), hint
    for dims, sd in zip(DIMS, (0.5, 1.7, 0.05, 2.5)):
        z, along = 1.5 * float32_numbers(2, 4, *dims, generator=g)
        z.view(4, -1)[:, 0] = exact(1000, -1000, 1000, -1000)
        first = 0.3 + 0.6 * torch.rand(4, generator=g, dtype=DOUBLE)
        second = first * (0.1 + 0.8 * torch.rand(4, generator=g, dtype=DOUBLE))
        u = accepts(lambda: as_mean_velocity(strict, sd), f"data_std = {sd}")
        assert callable(u), f"as_mean_velocity returns a function u(z, t, s), and no {type(u).__name__}."
        as_mean_velocity(lambda x, *times: 0 * x, 3.0)  # another one, which changes nothing
        for t, s, where in (
            (first, second, ""),
            (*ends, " Here s = t, or one of them is 0 or 1."),
            (first, first - short, " Here t - s is small: a quotient (z - jump) / (t - s) loses its digits."),
        ):
            asked.clear()
            before = [a.clone() for a in (z, t, s)]
            found = accepts(lambda: u(z, t, s), times_in_words(t, s))
            *questions, F, expected = by_angles(net, *before, sd)
            assert asked, "The network must be asked, and it is not."
            whats = (
                "The network sees z / r first, with r = hypot((1 - t) data_std, t)",
                "The network sees phi_t second, atan2(t, (1 - t) data_std)",
                "The network sees the interval third, phi_t - phi_s",
            )
            seen = [torch.cat(a)[-len(z) :] for a in zip(*asked)]
            for what, a, right, likely in zip(whats, seen, questions, likely_questions(*before, sd)):
                explained(a, right.detach(), f"{what}.", likely, where=where)
            as_given(found, [z, t, s], before)
            assert found.isfinite().all(), (
                f"nan or inf for {times_in_words(t, s)}: is it divided by t - s, t or 1 - t? "
                "They divide out by hand."
            )
            hint = "u = ((t - (1 - t) data_std^2) z / r + data_std F) / r."
            likely = likely_mean_velocities(questions[0], F, expected, z, t, s, sd)
            explained(found, expected, hint, likely, 1e-9, where)
            if dims in DIMS[1::2]:
                derivatives(u, lambda *a: by_angles(net, *a, sd)[-1], (z, t, s), along, knob, where)

        low = z.clamp(-3, 3).float()  # of a thousand the network's sine knows four digits
        close_in_float32(u(low, *ends), by_angles(net, low.double(), *ends, sd)[-1], "u at the ends")
        t, s = t[:1].expand(4), t[0] - exact(0.0, 1e-6, 1e-3, 0.2)
        right = by_angles(net, low.double(), t, s, sd)[-1]
        close_in_float32(u(low, t, s), right, "u on short intervals")
        for wrong in other_shapes(z):
            hint = f"An answer of shape {tuple(wrong.shape)} for z of {tuple(z.shape)} must be refused."
            refuses(lambda: as_mean_velocity(lambda x, phi, gap: wrong, sd)(z, t, s), hint)

    close(as_mean_velocity(net)(z, t, s), by_angles(net, z, t, s, 1.0)[-1], "Without data_std it is 1.", 1e-9)
    labels, heard = torch.arange(4), {}

    def conditioned(x, phi, gap, *places, **more):
        heard.update(more)
        assert heard.keys() == {"label"}, (
            f"Pass **conditioning on to the network, by name: label, and it got {list(more)}."
        )
        return net(x, phi, gap) * column(1 + heard["label"], x)

    found = as_mean_velocity(conditioned, sd, label=labels)(z, t, s)
    assert heard["label"] is labels, "The conditioning goes to the network as it is, not a copy."
    expected = by_angles(lambda *a: net(*a) * column(1 + labels, z), z, t, s, sd)[-1]
    close(found, expected, "With conditioning u is made of what the network says of it.", 1e-9)
    for bad in (0.0, -0.5, math.nan):
        hint = f"data_std = {bad} must be refused: data_std > 0."
        refuses(lambda: as_mean_velocity(net, bad)(z, t, s), hint)
    refuses_wrong_times(as_mean_velocity(net, sd), z)


def derivatives(u, right, inputs, along, knob, where) -> None:
    """Forward in z, t and s, and backward in these and the network: finite, and those of `right`."""
    directions = (along, *(torch.ones_like(time) for time in inputs[1:]))
    for k, name in enumerate("zts"):

        def slope(f):
            moving = lambda a: f(*(a if j == k else b for j, b in enumerate(inputs)))
            return torch.func.jvp(moving, (inputs[k],), (directions[k],))[1]

        found, expected = slope(u), slope(right)
        assert found.isfinite().all(), (
            f"The derivative in {name}, by torch.func.jvp, is nan or inf: what has none at an end?{where}"
        )
        hint = f"The derivative in {name}, by torch.func.jvp: is something detached, or a float?"
        close(found, expected, hint + where, 1e-8, 1e-8)
    starts = [a.clone().requires_grad_() for a in inputs]
    found, expected = u(*starts), right(*starts)
    for name, follow in zip(("the network", *"zts"), (knob, *starts)):
        hint = f"The gradient must reach {name}: is something detached, or under no_grad?"
        assert found.requires_grad, hint
        one, other = (
            torch.autograd.grad(a.sum(), follow, retain_graph=True, allow_unused=True)[0]
            for a in (found, expected)
        )
        assert one is not None, hint
        assert one.isfinite().all(), f"The gradient to {name} is nan or inf.{where}"
        close(one, other, hint + where, 1e-8, 1e-8)


def check_diagonal(diagonal=flowmap.diagonal, seed: int = 0) -> None:
    """u(z, t, t), what flow matching makes of it, and its gradient."""
    g = torch.Generator().manual_seed(seed)
    knob, asked = torch.ones((), dtype=DOUBLE, requires_grad=True), []
    u = lambda z, t, s: chord(knob.to(z) * z, t, s)
    t = exact(0.0, 0.4, 1.0, 0.1 + 0.8 * torch.rand(1, generator=g).item())
    for dims in DIMS:
        x, eps = float32_numbers(2, 4, *dims, generator=g)
        z = (1 - column(t, x)) * x + column(t, x) * eps
        before = z.clone(), t.clone()
        velocity = diagonal(recorded_map(u, asked))
        assert callable(velocity), f"The diagonal is a function of (z, t), and no {type(velocity).__name__}."
        diagonal(lambda z, t, s: 0 * z)  # another one, which changes nothing
        asked.clear()
        found = velocity(z, t)
        assert asked, "u must be asked, and it is not."
        where, first, second = (torch.cat(a)[-len(z) :] for a in zip(*asked))
        close(where, z, "u is asked at z.")
        likely = (
            ("Time is reversed: u is asked at t itself.", 1 - t),
            ("u is asked at t itself, from 0 to 1.", 1000 * t),
        )
        explained(first, t, "The first time is t, as it is: no clamp.", likely)
        likely = (
            ("This is the chord down to 0: the velocity is the tangent, u(z, t, t).", 0 * t),
            ("This is a chord: the velocity is the tangent, u(z, t, t), where s = t.", t / 2),
            *(
                (f"A short chord, s = t - {a:g}, is not the tangent: s = t.", (t - a).clamp(min=0))
                for a in (1e-1, 1e-2, 1e-3, 1e-4)
            ),
        )
        explained(second, t, "The second time is t, too: the tangent is u(z, t, t).", likely)
        as_given(found, [z, t], before)
        likely = (
            ("The velocity leads from data to noise, as u does: eps - x, not x - eps.", -u(z, t, t)),
            ("u is a velocity, and no point: nothing is added to it.", z - column(t, z) * u(z, t, t)),
            *(("Nothing is clipped.", u(z, t, t).clamp(-a, a)) for a in (1, 2, 3, 5, 10)),
        )
        explained(found, u(z, t, t).detach(), "The velocity is u(z, t, t).", likely)

        loss = flow_matching_loss(velocity, x, eps, t)
        right = (u(z, t, t) - (eps - x)).square().flatten(1).mean(1)
        close(loss, right, "Flow matching of the diagonal is the square of u(z, t, t) - (eps - x).")
        assert loss.requires_grad, "The gradient must reach the network: no detach and no no_grad here."
        grads = (torch.autograd.grad(a.sum(), knob)[0] for a in (loss, right))
        close(*grads, "The gradient of flow matching is that of the square.", 1e-9)
        slopes = (
            torch.func.jvp(lambda t: f(z, t), (t,), (torch.ones_like(t),))[1]
            for f in (velocity, lambda z, t: u(z, t, t))
        )
        close(*slopes, "The derivative in t moves both times: none is a copy or a float.", 1e-9)
        close_in_float32(velocity(z.float(), t.float()), u(z, t, t), "The velocity")


def check_exact_mean_velocity(exact_mean_velocity=flowmap.exact_mean_velocity, seed: int = 0) -> None:
    """The slope of the chord, the given velocity where s = t, and gradients that know no 0 / 0."""
    g = torch.Generator().manual_seed(seed)
    first = 0.3 + 0.6 * torch.rand(1, generator=g).item()
    # of a flow map and a velocity that do not belong together: it shows which of them is used
    knob = torch.ones((), dtype=DOUBLE, requires_grad=True)
    u_chord = lambda z, t, s: chord(knob.to(z) * z, t, s)
    flow_map = lambda z, t, s: z - column(t - s, z) * u_chord(z, t, s)
    for dims, (t, s) in itertools.product(
        DIMS,
        (
            (exact(1.0, first, 0.5, 0.9), exact(0.0, first / 3, 0.0, 0.7)),  # none on the diagonal
            (exact(0.6, 1.0, 0.4, first), exact(0.6, 0.3, 0.4, 0.1)),  # among others
            (exact(0.6, 1.0, 0.0, first), exact(0.6, 1.0, 0.0, first)),  # all
            (exact(0.6, 0.6, 0.6, 1.0), exact(0.6 - 1e-2, 0.6 - 1e-4, 0.6 - 1e-6, 1.0)),  # almost
        ),
    ):
        z, along = float32_numbers(2, 4, *dims, generator=g)
        z.view(4, -1)[:, 0] = exact(100, -100, 100, -100)
        T, S = column(t, z), column(s, z)
        still, before = T == S, [a.clone() for a in (z, t, s)]
        u = exact_mean_velocity(recorded_map(flow_map, []), recorded(teacher, []))
        assert callable(u), f"It returns a function u(z, t, s), and no {type(u).__name__}."
        found = accepts(lambda: u(z, t, s), times_in_words(t, s))
        as_given(found, [z, t, s], before)
        assert found.isfinite().all(), "nan or inf: where s = t the quotient is 0 / 0, and u is the velocity."
        gap, lands = T - S, flow_map(z, t, s)
        slope = lambda way, gap: torch.where(still, teacher(z, t), way / torch.where(still, 1, gap))
        right = slope(z - lands, gap)
        likely = [
            ("u leads from data to noise, (z_t - z_s) / (t - s): the sign is wrong.", slope(lands - z, gap)),
            ("This is where the flow map lands: u is the slope of the chord.", lands),
            ("The way that is gone is divided by t - s.", slope(z - lands, 1)),
            ("The way that is gone is divided by t - s, not by t.", slope(z - lands, T)),
            ("The flow map carries z from t to s, not from s to t.", slope(z - flow_map(z, s, t), gap)),
            ("The chord ends at s, not at 0.", slope(z - flow_map(z, t, 0 * t), T)),
            ("This is the velocity: off the diagonal u is the slope of a chord.", teacher(z, t)),
            ("On the diagonal u is the velocity, and here it is 0.", torch.where(still, 0, right)),
            ("The velocity is that at t, where z is.", torch.where(still, teacher(z, 0 * t), right)),
        ]
        for a in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            sentence = "However short the chord, it is its own slope, divided by its own length."
            likely += [(sentence, torch.where(gap < b, teacher(z, t), right)) for b in (a - 1e-9, a + 1e-9)]
            likely.append((sentence, slope(z - lands, gap.clamp(min=a))))
        likely += [("Nothing is clipped.", right.clamp(-a, a)) for a in (1, 2, 3, 5, 10)]
        hint = "(z - flow_map(z, t, s)) / (t - s), and where s = t the velocity."
        almost = ((0 < t - s) & (t - s < 0.1)).any()  # short chords have few digits
        explained(found, right, hint, likely, 1e-7 if almost else 1e-9)

        start = z.clone().requires_grad_()
        found = u(start, t, s)
        assert found.requires_grad, "The gradient in z passes the flow map and the velocity: no detach."
        (slope,) = torch.autograd.grad(found.sum(), start)
        assert slope.isfinite().all(), (
            "The gradient in z is nan where s = t, though the value is not: torch.where differentiates both "
            "sides. Put another number in the place of t - s = 0 before you divide."
        )
        hand = torch.where(still, teacher(start, t), u_chord(start, t, s))
        (wanted,) = torch.autograd.grad(hand.sum(), start)
        close(slope, wanted, "The gradient in z is that of the slope, and where s = t of the velocity.", 1e-6)
        if (t > s).all():
            derivatives(u, u_chord, (z, t, s), along, knob, "")
        if not almost:
            close_in_float32(u(z.float(), t.float(), s.float()), right.detach(), "u", 1e-3)
        for wrong in other_shapes(z):
            hint = f"of shape {tuple(wrong.shape)} for z of {tuple(z.shape)} must be refused."
            refuses(lambda: exact_mean_velocity(lambda z, t, s: wrong, teacher)(z, t, s), f"A z_s {hint}")
    refuses_wrong_times(exact_mean_velocity(flow_map, teacher), z)


# times


ZERO = {1753191: 6, 1848275: 9}  # seeds whose 7th and 10th number, as torch.rand draws them, is exactly 0


def check_draw_times(draw_times=flowmap.draw_times, seed: int = 0) -> None:
    """How many pairs are on the diagonal, which, and the laws of all times. Bounds: once in a million."""
    n, g = 4000, torch.Generator().manual_seed(seed)

    def apart(found: Tensor, law: Callable) -> bool:
        """Kolmogorov and Smirnov: whether the numbers are of another law than this distribution function."""
        rank = (torch.arange(len(found), dtype=DOUBLE) + 0.5) / len(found)
        worst = (law(found.double().sort().values) - rank).abs().max() if len(found) else 0
        return worst * len(found) ** 0.5 > 2.7

    uniform, larger, smaller = lambda x: x, lambda x: x**2, lambda x: 1 - (1 - x) ** 2
    sizes = ((n, None), (n, 0.25), (n, 0.0), (n, 1.0), (n, 0.5), (7, 0.4), (7, 0.3), (1, 0.2), (1, 1))
    for b, share in sizes:
        args = (b,) if share is None else (b, share)
        share = 0.75 if share is None else share
        what = f"b = {b} with a share of {share:g} on the diagonal"
        found = accepts(lambda: draw_times(*args, generator=g), what)
        assert isinstance(found, tuple | list) and len(found) == 2, "Two tensors come back: (t, s)."
        t, s = found
        for name, time in (("t", t), ("s", s)):
            assert isinstance(time, Tensor) and time.shape == (b,) and time.is_floating_point(), (
                f"{name} holds one time for each pair, a tensor (b,) = ({b},), and not "
                f"{tuple(time.shape) if isinstance(time, Tensor) else type(time).__name__}."
            )
        hint = f"t is the noisier time: t >= s in every pair, and here not in {(t < s).sum()} of {b}."
        assert not (t < s).any(), hint
        assert (s > 0).all(), f"Every time is above 0: the least is {s.min():g}."
        assert (t <= 1).all(), f"Every time is at most 1: the largest is {t.max():g}."
        wanted, on = round(share * b), t == s
        count = on.sum().item()
        likely = {
            0: "No pair is on the diagonal, where flow matching learns the velocity.",
            b - wanted: "The share is inverted: diagonal is the share of pairs with s = t.",
            b: "Every pair is on the diagonal.",
            math.floor(share * b): "The number of pairs is rounded, not cut off: round(diagonal b).",
            math.ceil(share * b): "The number of pairs is rounded to the nearest: round(diagonal b).",
            round(0.75 * b): "The share is ignored: it is not always 0.75.",
        }
        hint = likely.get(
            count, "round(diagonal b) pairs have s = t, by default three in four: none is drawn."
        )
        assert count == wanted, f"{hint} Of {b} pairs {wanted} have s = t, and here {count}."
        assert on[:wanted].all(), "The pairs with s = t are the first ones."
        one, t, s = t[on], t[~on], s[~on]
        laws = {"the larger of two": larger, "the smaller of two": smaller}
        found = next((name for name, law in laws.items() if not apart(one, law)), "of another law")
        hint = f"On the diagonal one uniform time is drawn: yours is {found}, its mean {one.mean():.3f}."
        assert not apart(one, uniform), hint
        edge = 15 / n  # nothing lies beyond once in a million
        reach = b < n or share < 1 or (one.min() < edge and one.max() > 1 - edge)
        assert reach, (
            f"Times reach from 0 to 1: none is cut off, and yours are {one.min():g} to {one.max():g}."
        )
        hint = "" if apart(t, uniform) else ": here t alone is uniform, and s a part of it"
        means = f"The means are {t.mean():.3f} and {s.mean():.3f}, not 2/3 and 1/3."
        hint = f"Off the diagonal t and s are two uniform times, sorted{hint}. {means}"
        assert not (apart(t, larger) or apart(s, smaller)), hint
        hint = "Off the diagonal s is uniform below t: two times are drawn, each by itself."
        assert not apart(s / t, uniform), hint
    for special, place in ZERO.items():
        t, s = draw_times(8, 0.0, torch.Generator().manual_seed(special))
        assert (s > 0).all(), (
            "torch.rand can return exactly 0, once in 16 million, where some velocities are 0 / 0: "
            f"its number {place} from seed {special} is one. 1 - torch.rand is never 0."
        )
    pairs = lambda g: {"t and s": torch.stack(draw_times(64, 0.0, generator=g)).double()}
    by_hand = lambda g: (1 - torch.rand(2, 64, generator=g)).sort(0, descending=True).values.double()
    check_randomness(pairs, {"t and s": by_hand}, seed)
    for b in (0, -1, 2.5):
        refuses(lambda: draw_times(b), f"b = {b} must be refused.")
    for share in (-0.1, 1.1, 1 + 1e-4, -1e-4, math.nan):
        refuses(lambda: draw_times(4, share), f"A share of {share} must be refused: from 0 to 1.")


# guidance


def check_guided_slope(guided_slope=flowmap.guided_slope, seed: int = 0) -> None:
    """Three velocities, two numbers, and the rows that keep theirs."""
    g = torch.Generator().manual_seed(seed)
    drops = (None, *(torch.tensor(rows) > 0 for rows in ((0, 1, 0, 1), (1, 1, 1, 1), (0, 0, 0, 0))))
    settings = ((0.6, 0.5), (1.0, 0.0), (2.0, 0.0), (1.0, 0.5), (-0.3, 0.2), (7, 0), (3.0, 1 / (2 + seed)))
    for dims, (scale, kappa), dropped in itertools.product(DIMS, settings, drops):
        v, conditional, unconditional = three = list(4 * float32_numbers(3, 4, *dims, generator=g))
        before = [a.clone() for a in three]
        drop = () if dropped is None else (dropped,)
        what = f"scale {scale}, kappa {kappa:g}, dropped {dropped}"
        found = accepts(lambda: guided_slope(*three, scale, kappa, *drop), what)
        as_given(found, three, before)
        out = torch.zeros(4).bool() if dropped is None else dropped
        out = column(out, v)
        kept = lambda guided: torch.where(out, v, guided)
        mixed = lambda a, b, c: a * v + b * unconditional + c * conditional
        whole = lambda *shares: kept(mixed(*shares))
        right = mixed(scale, 1 - scale - kappa, kappa)
        likely = (
            ("Rows whose label is dropped keep v: without a label there is nothing to guide.", right),
            ("The mask is flipped: rows whose label is dropped keep v.", torch.where(out, right, v)),
            ("scale 1 leaves v as it is: scale, not 1 + scale.", whole(1 + scale, -scale - kappa, kappa)),
            ("Conditional and unconditional are exchanged.", whole(scale, kappa, 1 - scale - kappa)),
            ("kappa is taken from the unconditional: 1 - scale - kappa.", whole(scale, 1 - scale, kappa)),
            ("kappa is taken from the unconditional, not from v.", whole(scale - kappa, 1 - scale, kappa)),
            ("kappa is ignored.", whole(scale, 1 - scale, 0)),
            ("scale is ignored.", whole(1, -kappa, kappa)),
            ("v is in the target: this guides the network's own velocity.", whole(0, 1 - scale, scale)),
            ("scale multiplies v, not the conditional velocity.", whole(1, 1 - scale, scale - 1)),
            ("The three shares add up to 1: nothing is divided by 1 - kappa.", kept(right / (1 - kappa))),
            ("The three shares add up to 1: nothing is divided by scale.", kept(right / scale)),
            ("This is v: only rows whose label is dropped keep it.", v),
            *(("Nothing is clipped.", kept(right.clamp(-a, a))) for a in (1, 2, 3, 4, 5, 10)),
        )  # fmt: skip
        if dropped is None:
            likely = likely[2:]
        elif dims[-1] == len(dropped):
            wrong = torch.where(dropped, v, right)
            likely = (*likely, ("dropped runs along the wrong axis: one for each sample.", wrong))
        hint = f"scale v + (1 - scale - kappa) unconditional + kappa conditional: {what}."
        explained(found, kept(right), hint, likely)
        low = guided_slope(*(a.float() for a in three), scale, kappa, *drop)
        close_in_float32(low, kept(right), "The slope")
    close(guided_slope(*three, 2.0), mixed(2, -1, 0), "Without kappa it is 0, and no row is dropped.")
    for dims in DIMS:
        v = float32_numbers(4, *dims, generator=g)
        for wrong, k in itertools.product(other_shapes(v), range(3)):
            bad = [wrong if j == k else v for j in range(3)]
            refuses(lambda: guided_slope(*bad, 2.0), "Velocities of different shapes must be refused.")
    rows = drops[1]
    for wrong in (rows[:1], rows[:3], rows[:, None]):
        hint = f"dropped of shape {tuple(wrong.shape)} for 4 samples must be refused: one for each."
        refuses(lambda: guided_slope(v, v, v, 2.0, 0.0, wrong), hint)
    for kappa in (1.0, 1.5, math.nan):
        refuses(lambda: guided_slope(v, v, v, 2.0, kappa), f"kappa = {kappa} must be refused: below 1.")
    for scale in (math.nan, math.inf):
        refuses(lambda: guided_slope(v, v, v, scale), f"A scale of {scale} must be refused.")


# the sampler


def drifting(z, t, s, mean=0.4, std=0.7):
    """The flow map of N(mean, std^2) on rectified flow."""
    width = lambda t: ((1 - t) ** 2 * std**2 + t**2).sqrt()
    return column((1 - s) * mean, z) + column(width(s) / width(t), z) * (z - column((1 - t) * mean, z))


def check_flow_map_sample(flow_map_sample=flowmap.flow_map_sample, seed: int = 0) -> None:
    """Where u is asked, every state, an exact flow map on any grid, gradients, digits and refusals."""
    g = torch.Generator().manual_seed(seed)
    inside = 0.3 + 0.4 * torch.rand(1, generator=g).item()
    grids = ((0.95, 0.7, 0.2, 0.0), (1.0, 0.0), (1.0, 0.5, 0.0), (0.9, 0.3))
    grids += ((1.0, inside, 0.25, 0.1), (1.0, 1e-4))
    for dims, stops in zip((*DIMS, (3,), (4,)), grids):
        z, times = float32_numbers(4, *dims, generator=g), exact(*stops)
        z.view(4, -1)[:, 0] = exact(100, -100, 100, -100)
        knob, asked, given = torch.ones((), dtype=DOUBLE, requires_grad=True), [], [z.clone(), times.clone()]
        u = lambda z, t, s: chord(knob.to(z) * z, t, s)
        strict, rows = recorded_map(u, asked), [exact(*(4 * [t])) for t in stops]
        path = [z]
        for t, s in itertools.pairwise(rows):
            path.append(path[-1] - column(t - s, z) * u(path[-1], t, s))
        found = accepts(lambda: flow_map_sample(strict, z, times), f"The grid {list(stops)}")

        # where u is asked
        n, grid = len(stops) - 1, f" The grid is {list(stops)}."
        first, second = ([question[k] for question in asked] for k in (1, 2))
        same = lambda found, other: len(found) == len(other) > 0 and all(map(alike, found, other))
        likely = (
            ("s and t are exchanged: u(z, t, s), the noisier time first.", rows[1:], rows[:-1]),
            ("This is the tangent, u(z, t, t): a step is a chord, from t to s.", rows[:-1], rows[:-1]),
            ("The chord ends at the next time s, not at 0.", rows[:-1], [0 * t for t in rows[:-1]]),
            ("The chord ends at the next time s, not at the last.", rows[:-1], n * [rows[-1]]),
            ("The last step is missing: the grid ends at its last time.", rows[:-2], rows[1:-1]),
            ("One step for each pair of times: nothing is asked at the last.", rows, [*rows[1:], rows[-1]]),
        )
        hint = "u is asked once for each step, at (z, t, s) with two neighbours of the grid."
        hint = next((says for says, a, b in likely if same(first, a) and same(second, b)), hint) + grid
        assert len(asked) == n, f"{hint} For {n} steps u was asked {len(asked)} times."
        close(torch.stack(first), torch.stack(rows[:-1]), hint)
        close(torch.stack(second), torch.stack(rows[1:]), hint)

        # every state
        as_given(found, [z, times], given)
        close(asked[0][0], z, "The first question is about the z that is given.")
        states = [question[0] for question in asked[1:]] + [found]
        for k, (t, s) in enumerate(itertools.pairwise(rows)):
            a, length = path[k], column(t - s, z)
            answer = u(a, t, s)
            likely = (
                ("The step goes down, z + (s - t) u: the sign is wrong.", a + length * answer),
                ("Each step has its own length, t - s: it is not 1 / n on any grid.", a - answer / n),
                ("Each step has its own length, t - s.", a - answer * (stops[0] - stops[-1]) / n),
                ("u is multiplied by the length t - s.", a - answer),
                ("The jump ends at s, not at 0: its length is t - s.", a - column(t, z) * answer),
                ("The step starts at the newest z.", z - length * answer),
                ("The step starts at z: this is the way alone.", -length * answer),
                ("The state stays where it was: go on from the newest z.", a),
                *(("Nothing is clipped.", (a - length * answer).clamp(-c, c)) for c in (1, 2, 3, 5, 10)),
            )  # fmt: skip
            explained(states[k], path[k + 1].detach(), f"Step {k + 1} is z + (s - t) u.{grid}", likely, 1e-9)
        whole = flow_map_sample(strict, z, times, trajectory=True)
        assert isinstance(whole, Tensor) and whole.shape == (n + 1, *z.shape), (
            f"The trajectory holds z at every time, the first included: {(n + 1, *z.shape)}, "
            f"not {tuple(getattr(whole, 'shape', ()))}."
        )
        likely = (
            ("The trajectory goes from the first time to the last.", torch.stack(path).flip(0)),
            ("The trajectory holds z at every time, and here one z again and again.", found.expand_as(whole)),
            ("The trajectory holds z at every time, and here the start alone.", z.expand_as(whole)),
        )
        explained(whole, torch.stack(path).detach(), "The trajectory holds z at every time.", likely, 1e-9)

        # an exact flow map, gradients, digits, refusals
        true = lambda z, t, s: (z - drifting(z, t, s)) / column(t - s, z)
        right = drifting(z, rows[0], rows[-1])
        close(flow_map_sample(true, z, times), right, "With the exact u every grid is exact." + grid, 1e-8)
        start = z.clone().requires_grad_()
        again = start
        for t, s in itertools.pairwise(rows):
            again = again - column(t - s, z) * u(again, t, s)
        found = flow_map_sample(strict, start, times)
        assert found.requires_grad, "Gradients pass to u and to z: no detach, and no no_grad."
        slopes = [torch.autograd.grad(a.sum(), (knob, start), allow_unused=True) for a in (found, again)]
        for one, other, name in zip(*slopes, ("u", "z")):
            hint = f"The gradient passes to {name} through every step: no detach."
            assert one is not None, hint
            close(one, other, hint, 1e-8, 1e-8)
        close_in_float32(flow_map_sample(strict, z.float(), times), path[-1], "The sample", 1e-4)
        for t, wrong in itertools.product(times[:-1], other_shapes(z)):
            hint = f"An answer of another shape than z must be refused, also at t = {t:g} alone."
            refuses(lambda: flow_map_sample(lambda z, now, s: wrong if now[0] == t else z, z, times), hint)

    good = exact(1.0, 0.8, 0.3, 0.0)
    for times, what in (
        (good.flip(0), "that rises"),
        (exact(1.0, 0.3, 0.8, 0.0), "that rises once, inside,"),
        (exact(1.0, 0.8, 0.8, 0.0), "with two equal times"),
        (good[:1], "of a single time"),
        *((torch.where(good == 1, a, good), f"from {a}, above 1,") for a in (1.2, 1 + 1e-4)),
        *((torch.where(good == 0, a, good), f"to {a}, below 0,") for a in (-0.1, -1e-4)),
        *((torch.where(good == a, math.nan, good), f"with nan in the place of {a}") for a in good.tolist()),
    ):
        refuses(lambda: flow_map_sample(chord, z, times), f"A grid {what} must be refused.")


# the losses

Place = tuple[Tensor, ...]  # z and the times that a network is asked at
TIMES = (
    ((1.0, 0.7, 0.4, 0.9), (0.0, 0.2, 0.4, 0.65)),
    ((0.5, 0.0, 1.0, 0.3), (0.1, 0.0, 1.0, 0.0)),
)
AT_Z = "u is asked at (z_t, t, s), z_t = (1 - t) x + t eps."
FORWARD = "t and s are exchanged: u(z, t, s), the noisier time first."


# what is asked, and by hand


def learner(z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A mean velocity that no formula knows; its numbers depend on each other, as a network's do."""
    T, S = column(t, z), column(s, z)
    return torch.tanh(z + 0.5 * z.roll(1, -1) + T) * (1 + S) + 0.3 * torch.sin(2 * z - 3 * S)


def target(z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Another one, which has nothing in common with the first."""
    return torch.cos(z - column(t, z)) + (0.4 + column(s, z)) * z.roll(1, -1)


class Net(torch.nn.Module):
    """net(knob z, t, s), a knob for each sample, as strict as a Linear layer. Keeps what it is asked."""

    def __init__(self, net: Callable, size: float = 1.0):
        super().__init__()
        self.net, self.size, self.asked = net, size, []
        self.knob = torch.nn.Parameter(torch.ones(4, dtype=DOUBLE))

    def by_hand(self, z: Tensor, *times: Tensor) -> Tensor:
        return self.size * self.net(column(self.knob, z).to(z) * z, *times)

    def forward(self, z: Tensor, *times: Tensor) -> Tensor:
        for name, time in zip("ts", times):
            assert isinstance(time, Tensor) and time.shape == z.shape[:1], (
                f"A network gets one {name} for each sample: shape (b,), {tuple(z.shape[:1])}, not "
                f"{tuple(time.shape) if isinstance(time, Tensor) else repr(time)}."
            )
            assert time.dtype == z.dtype, (
                f"A network gets {name} in z's dtype, {name}.to(z.dtype), for no layer takes two dtypes: "
                f"z is {z.dtype}, {name} {time.dtype}."
            )
        self.asked.append(tuple(a.detach().clone() for a in (z, *times)))
        return self.by_hand(z, *times)


def cases(seed: int) -> Iterator[tuple[Tensor, ...]]:
    """x, eps, t and s of samples whose axes are all alike, and of points, images and videos."""
    g = torch.Generator().manual_seed(seed)
    for k, dims in enumerate(DIMS):
        yield *float32_numbers(2, 4, *dims, generator=g), *(exact(*times) for times in TIMES[k % 2])


def noisy(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """z_t by hand."""
    return (1 - column(t, x)) * x + column(t, x) * eps


def jumped(v: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the jump of mean velocity v lands, by hand."""
    return z + column(s - t, z) * v


def misread(c: Tensor, z: Tensor) -> Iterator[tuple[str, Tensor]]:
    """c, (b,), along an axis that is not the batch's, where this can be broadcast."""
    if z.shape[-1] == len(c):
        yield "One number for each sample, not along another axis: reshape it to (b, 1, ..., 1).", c
    if z.ndim < 4:
        hint = "One number for each sample has one axis for each axis of z, not always four."
        yield hint, c.reshape(-1, 1, 1, 1)


def square(d: Tensor) -> Tensor:
    """The mean of the squares of each sample, (b,)."""
    return d.square().flatten(1).mean(1)


def rate(move: Callable[[float], Tensor], h: float = 2e-4) -> Tensor:
    """d move(h) / dh at 0 by five values, right to ten digits."""
    return (8 * (move(h) - move(-h)) - (move(2 * h) - move(-2 * h))) / (12 * h)


def along(u: Callable, z: Tensor, t: Tensor, s: Tensor, dz: Tensor | float, dt: float, ds: float) -> Tensor:
    """The derivative of u along the tangents (dz, dt, ds), by steps of one size."""
    size = max(1.0, float(torch.as_tensor(dz).detach().abs().max()))
    return size * rate(lambda h: u(z + h / size * dz, t + h / size * dt, s + h / size * ds))


def gradient(loss: Tensor, knob: Tensor) -> Tensor:
    """d loss / d knob, for each sample."""
    return torch.autograd.grad(loss.sum(), knob, retain_graph=True)[0]


# what is alike in all six


def answer_of(call: Callable[[], Tensor], given: tuple[Tensor, ...], nets: tuple[Net, ...], what: str):
    """What call() returns for valid input, which it leaves as it was, as it does torch and the networks."""
    before = [a.clone() for a in given]
    found = accepts(call, what)
    assert all(map(torch.equal, given, before)), (
        "What is given belongs to the caller and must stay as it is: t = t - s, not t -= s."
    )
    assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    assert all(net.knob.requires_grad for net in nets), (
        "requires_grad_(False) stays behind: a network that is its own target would never learn. Use "
        "torch.no_grad()."
    )
    return found


def loss_of(call: Callable[[], Tensor], given: tuple[Tensor, ...], nets: tuple[Net, ...], what: str):
    """answer_of a loss, which has one finite number for each sample."""
    loss = answer_of(call, given, nets, what)
    assert isinstance(loss, Tensor) and loss.shape == (4,), (
        "A loss has one number for each sample, (b,): the mean is over all axes but the first."
    )
    assert loss.dtype == given[0].dtype, f"The loss has the dtype of the data, not {loss.dtype}."
    assert loss.isfinite().all(), "nan or inf comes out: what is divided by 0?"
    return loss


def check_places(
    who: str, asked: list[Place], right: dict[str, Place], likely: dict[str, list[tuple[str, Tensor]]]
) -> None:
    """Every question is asked at one of the right places, and none of these is left out.

    right: sentences and places. likely: for z, t and s the sentences of what is found instead.
    """
    assert asked, f"{who} is never asked. {next(iter(right))}"
    missing = dict(right)
    for question in asked:
        agree = {hint: [alike(*pair, 1e-9) for pair in zip(question, place)] for hint, place in right.items()}
        meant = max(right, key=lambda hint: (sum(agree[hint]), hint in missing))
        for name, found, wanted in zip("zts", question, right[meant]):
            explained(found, wanted, meant, likely.get(name, ()))
        missing.pop(meant, None)
    assert not missing, f"There {who} is never asked: {next(iter(missing), '')}"


def likely_times(t: Tensor, s: Tensor) -> dict[str, list[tuple[str, Tensor]]]:
    """What is found in the place of t and of s."""
    m = (t + s) / 2
    return {
        "t": [
            (FORWARD, s),
            ("A network is asked at t itself, from 0 to 1.", 1000 * t),
            ("The jump starts at t, not in the middle.", m),
            *(("This is a derivative, not a difference of two times.", t + h) for h in STEPS),
        ],
        "s": [
            ("The third argument is s itself, not the interval t - s.", t - s),
            ("The jump ends at s, which is given, not at 0.", 0 * s),
            ("The jump ends at s: u(z, t, t) is the velocity.", t),
            ("The jump ends at s, not in the middle.", m),
            ("s ends the whole interval: its halves are (t - s) / 2 long.", 2 * s - t),
            ("A network is asked at s itself, from 0 to 1.", 1000 * s),
            *(("This is a derivative, not a difference of two times.", s + h) for h in STEPS),
        ],
    }


def likely_places(
    x: Tensor, eps: Tensor, t: Tensor, s: Tensor, slope: Tensor
) -> dict[str, list[tuple[str, Tensor]]]:
    """likely_times, and what is found in the place of z_t, or beside it on the path."""
    T = column(t, x)
    return likely_times(t, s) | {
        "z": [
            ("Noise and data are exchanged: at t = 1 only noise.", T * x + (1 - T) * eps),
            ("The data fades, too: (1 - t) x, not x.", x + T * eps),
            ("A straight line from x to eps: 1 - t, without a root.", (1 - T**2).sqrt() * x + T * eps),
            ("z is at t, where the jump starts, not at s.", noisy(x, eps, s)),
            ("z = (1 - t) x + t eps has noise.", x),
            *likely_steps(noisy(x, eps, t), slope),
        ]
    }


STEPS = [sign * 10.0**-k for k in range(1, 7) for sign in (1, -1)]


def likely_steps(z: Tensor, slope: Tensor) -> list[tuple[str, Tensor]]:
    """A step further along the path."""
    return [("This is a derivative, not a difference of two points.", z + h * slope) for h in STEPS]


def likely_distances(d: Tensor) -> Likely:
    """What is found in the place of square(d)."""
    yield "The squared distance, not the absolute one.", d.abs().flatten(1).mean(1)
    yield "The squared distance, not half of it.", square(d) / 2
    yield "The squared distance, without a root.", square(d).sqrt()
    yield "The squared distance, without a root.", (square(d) * d[0].numel()).sqrt()
    yield "The mean over the numbers of a sample, not the sum.", square(d) * d[0].numel()
    yield "The mean is over each sample, not over the batch.", square(d).mean().expand(len(d))


def check_gradient(loss: Tensor, right: Tensor, u: Net, others: dict[str, Net], likely: Likely) -> None:
    """The gradient of each sample's loss is that of the loss by hand, and reaches no other network."""
    assert loss.requires_grad, "The gradient must reach u: only targets are constants."
    knobs = [u.knob, *(net.knob for net in others.values())]
    found, *rest = torch.autograd.grad(loss.sum(), knobs, allow_unused=True)
    assert found is not None, "The gradient must reach u: only targets are constants."
    for name, grad in zip(others, rest):
        assert grad is None, f"No gradient may reach the {name}: torch.no_grad()."
    gradients = ((hint, gradient(wrong, u.knob)) for hint, wrong in likely)
    hint = "The value is right, its gradient is not: what is a constant, and what is not?"
    explained(found, gradient(right, u.knob), hint, gradients, 1e-8)


def check_times(call: Callable[[Tensor, Tensor], Tensor], t: Tensor, s: Tensor) -> None:
    """call(t, s) takes times expanded over the batch, and refuses all but 0 <= s <= t <= 1, one per row."""
    one, two = exact(0.7), exact(0.2)
    try:
        found = accepts(lambda: call(one.expand(4), two.expand(4)), "One time, expanded over the batch,")
    except RuntimeError as error:
        raise AssertionError(
            "One time, expanded over the batch, is valid, but cannot carry a tangent: t.contiguous(). "
            f"torch says: {error}"
        ) from error
    close(found, call(one.repeat(4), two.repeat(4)), "A time expanded over the batch is that of each sample.")
    for value, bad in anywhere(t, 1.1, 1 + 1e-4, -0.1):
        refuses(lambda: call(bad, s), f"t = {value:g} must be refused, also as one of many: s <= t <= 1.")
    for value, bad in anywhere(s, -0.1, -1e-4, 1.1):
        refuses(lambda: call(t, bad), f"s = {value:g} must be refused, also as one of many: 0 <= s <= t.")
    for k in range(len(t)):
        above = torch.where(torch.arange(len(t)) == k, t + 1e-4, s)
        early = torch.where(torch.arange(len(t)) == k, 0.5, t), torch.where(torch.arange(len(t)) == k, 0.6, s)
        refuses(lambda: call(*early), "s above t must be refused, also in one row: s is the cleaner time.")
        refuses(lambda: call(t, above), "s just above t must be refused, also in one row: s <= t.")
    for k in (slice(1), slice(3), (slice(None), None)):
        size = f"shape {tuple(t[k].shape)} for 4 samples must be refused: one for each."
        refuses(lambda: call(t[k], s), f"t of {size}")
        refuses(lambda: call(t, s[k]), f"s of {size}")


def check_shapes(what: str, call: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """call(other) refuses every other shape than z's: it would be broadcast."""
    for other in other_shapes(z):
        size = f"of shape {tuple(other.shape)} for samples of {tuple(z.shape)}"
        refuses(lambda: call(other), f"{what} {size} must be refused: it would be broadcast.")


def check_refusals(loss: Callable, other: str, later: Callable[[Tensor, Tensor], bool] | None = None) -> None:
    """Of a loss of (u, x, eps, t, s) and one more network: times, noise, and answers of another shape.

    later(t, s): whether these are the times of a question that is not the first.
    """
    x, eps = float32_numbers(2, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    t, s = (exact(*times) for times in TIMES[0])
    given = {other: {"target": target, "teacher": teacher}[other]}
    for nets in ({}, given):
        check_times(lambda t, s: loss(learner, x, eps, t, s, **nets), t, s)
        check_shapes("eps", lambda eps: loss(learner, x, eps, t, s, **nets), x)
        check_shapes("An answer of u", lambda bad: loss(lambda *question: bad, x, eps, t, s, **nets), x)
    call = lambda bad: loss(learner, x, eps, t, s, **{other: lambda *question: bad})
    check_shapes(f"An answer of the {other}", call, x)
    if later:
        at_times = lambda bad: lambda z, *times: bad if later(*times) else learner(z, *times)
        check_shapes("A later answer of u", lambda bad: loss(at_times(bad), x, eps, t, s), x)


def truth(thing, seed: int) -> tuple[tuple, Callable]:
    """The exact mean velocity of an oracle in the plane, with data, noise and times; and its velocity."""
    velocity = as_velocity(thing.denoiser(rectified_flow))
    u = exact_mean_velocity(functools.partial(thing.flow_map, schedule=rectified_flow), velocity)
    g = torch.Generator().manual_seed(seed)
    t, s = exact(1.0, 0.9, 0.6, 0.5, 0.8, 0.3), exact(0.2, 0.7, 0.6, 0.1, 0.75, 0.25)
    return (u, thing.sample(6, g), float32_numbers(6, 2, generator=g), t, s), velocity


def check_zero(loss: Tensor, what: str) -> None:
    """At the truth."""
    close(loss.detach(), 0 * loss.detach(), f"At the exact mean velocity the loss is 0, {what}.")


def same_size(found: Tensor, right: Tensor, hint: str) -> None:
    """explained, of numbers that may be very large or very small."""
    explained((found / right.max()).detach(), (right / right.max()).detach(), hint, tol=1e-9)


def sizes(z: Tensor) -> Iterator[tuple[float, str]]:
    """How much larger the networks' answers are made, once, for points."""
    if z.ndim == 2:
        yield 1000, "Right for small velocities, not for large ones: nothing is clipped."
        yield 1e-5, "Right for large velocities, not for small ones: nothing is added or rounded."


# Shortcut


@torch.enable_grad()
def check_halves_target(halves_target=flowmap.halves_target, seed: int = 0) -> None:
    """Who is asked where, the mean of both answers, and no gradient."""
    for z, _, t, s in cases(seed):
        u, m = Net(target), (t + s) / 2
        what = f"t = {t.tolist()}, s = {s.tolist()}"
        found = answer_of(lambda: halves_target(u, z, t, s), (z, t, s), (u,), what)
        first = target(z, t, m)
        half = jumped(first, z, t, m)
        second = target(half, m, s)
        check_halves("u", u.asked, target, z, t, s)
        assert isinstance(found, Tensor), f"The target is a tensor, not {type(found).__name__}."
        likely = (
            ("The mean of the two halves, not their sum: u is a velocity, not a distance.", first + second),
            ("The mean of both halves: this is the first.", first),
            ("The mean of both halves: this is the second.", second),
            ("The mean of the velocities, not the distance that both go.", jumped(second, half, m, s) - z),
            ("The mean of the velocities, not the distance that both go.", z - jumped(second, half, m, s)),
            ("The mean of the velocities, not where they lead.", jumped(second, half, m, s)),
            ("Plus: both halves go the same way.", (first - second) / 2),
            *(("Nothing is clipped.", ((first + second) / 2).clamp(-a, a)) for a in (1, 2, 3, 4, 5)),
        )
        explained(found, (first + second) / 2, "The mean of the answers of both halves.", likely)
        assert not found.requires_grad, "A target is a constant: no gradient may reach u, torch.no_grad()."
        close_in_float32(halves_target(u, z.float(), t, s), (first + second) / 2, "The target")
        for size, hint in sizes(z):
            loud = lambda z, t, s: size * target(z, t, s)
            first = loud(z, t, m)
            by_hand = (first + loud(jumped(first, z, t, m), m, s)) / 2
            same_size(halves_target(loud, z, t, s), by_hand, hint)
    t, s = (exact(*times) for times in TIMES[0])
    z = z[:, :, 0, 0]
    check_times(lambda t, s: halves_target(target, z, t, s), t, s)
    check_shapes("An answer of u", lambda other: halves_target(lambda z, t, s: other, z, t, s), z)
    later = lambda other: lambda z, now, end: target(z, now, end) if torch.equal(now, t) else other
    check_shapes("Its second answer", lambda other: halves_target(later(other), z, t, s), z)


def check_halves(who: str, asked: list[Place], net: Callable, z: Tensor, t: Tensor, s: Tensor) -> None:
    """Both questions of the halves, in their order."""
    assert len(asked) == 2, f"{who} is asked twice, once for each half, not {len(asked)} times."
    m = (t + s) / 2
    first = net(z, t, m)
    tangents = "Tangents are asked, two steps of Euler: each half is a chord, u(z, t, m) and u(z_m, m, s)."
    whole = "Each half has half the interval: m ends the first, s the second. Yours is asked for all of it."
    likely = {
        "t": [("The first half starts at t, not in the middle m.", m), (FORWARD, m), (FORWARD, s)],
        "s": [
            (whole, s),
            (tangents, t),
            ("The third argument is the end m itself, not the interval.", t - m),
            ("The first half ends in the middle, m = (t + s) / 2, not at 0.", 0 * s),
            ("The first half ends in the middle: m = (t + s) / 2, for s is not 0.", t / 2),
            ("The first half ends in the middle: m = (t + s) / 2, not (t - s) / 2.", (t - s) / 2),
            ("d is halved, not doubled: both halves lie between t and s.", 2 * s - t),
        ],
    }
    hint = f"{who} is asked at (z, t, m) first, with m = (t + s) / 2."
    check_places(who, asked[:1], {hint: (z, t, m)}, likely)
    likely = {
        "z": [
            ("The second half starts where the first lands, not from z.", z),
            ("The first half goes down, to the cleaner m: m - t is negative.", jumped(first, z, m, t)),
            ("The first half goes to m, not to s.", jumped(first, z, t, s)),
            ("The first half has the length m - t.", z + first),
            ("The first half has the length m - t.", z - first),
            *((hint, z + gap * first) for hint, gap in misread(m - t, z)),
            ("The second half starts where the first lands: this is its velocity.", first),
        ],
        "t": [
            ("The second half starts in the middle, m, not at t.", t),
            ("The second half starts in the middle, m, and ends at s.", s),
        ],
        "s": [
            (whole, m - (t - s)),
            (tangents, m),
            ("The third argument is the end s itself, not the interval.", m - s),
            ("The second half ends at s, not at 0.", 0 * s),
            ("d is halved, not doubled: both halves lie between t and s.", 2 * s - t),
        ],
    }
    hint = f"{who} is asked at (z_m, m, s) then, where the first half lands, z_m = z + (m - t) u."
    check_places(who, asked[1:], {hint: (jumped(first, z, t, m), m, s)}, likely)


@torch.enable_grad()
def check_shortcut_loss(shortcut_loss=flowmap.shortcut_loss, seed: int = 0) -> None:
    """Who is asked where, the squares, the gradient through one chord alone, and 0 at the truth."""
    for x, eps, t, s in cases(seed):
        u, other, z, m = Net(learner), Net(target), noisy(x, eps, t), (t + s) / 2
        what = f"t = {t.tolist()}, s = {s.tolist()} with a target"
        loss = loss_of(lambda: shortcut_loss(u, x, eps, t, s, other), (x, eps, t, s), (u, other), what)
        places = likely_places(x, eps, t, s, eps - x)
        assert other.asked, "The target that is given is never asked: the halves are its."
        if len(u.asked) > 1 and any(alike(question[2], m) or alike(question[1], m) for question in u.asked):
            raise AssertionError("Both halves are those of the target that is given: u is asked for none.")
        check_places("u", u.asked, {AT_Z: (z, t, s)}, places)
        check_halves("The target", other.asked, target, z, t, s)

        def halves(net, m=m):
            first = net(z, t, m)
            return first, net(jumped(first, z, t, m), m, s)

        first, second = halves(target)
        found, wanted = u.by_hand(z, t, s), (first + second) / 2
        d, gap = (found - wanted).detach(), column(t - s, z)
        likely = [
            ("The mean of the two halves, not their sum.", square(found - first - second)),
            ("The mean of both halves: this is the first.", square(found - first)),
            ("The mean of both halves: this is the second.", square(found - second)),
            ("Compare velocities, not where the jumps land.", square(gap * d)),
            ("Compare velocities, not distances in time: no division.", square(d / gap)),
            ("u is compared with its halves: eps - x is flow matching's.", square(found - eps + x)),
            *(("Nothing is clipped.", square(found - wanted.clamp(-a, a))) for a in (1, 2, 3, 4, 5)),
        ]
        hint = "The squared distance of u(z, t, s) to the mean of the two halves."
        explained(loss, square(d), hint, (pair for part in (likely, likely_distances(d)) for pair in part))
        check_gradient(loss, square(found - wanted), u, {"target": other}, ())
        low = shortcut_loss(u, x.float(), eps.float(), t, s, other)
        close_in_float32(low.detach(), square(d), "The loss")
        for size, hint in sizes(z):
            loud, far = Net(learner, size), Net(target, size)
            right = square(loud.by_hand(z, t, s) - sum(halves(far.by_hand)) / 2)
            same_size(shortcut_loss(loud, x, eps, t, s, far), right, hint)

        # without a target the halves are u's own, and get no gradient either
        u = Net(learner)
        loss = loss_of(lambda: shortcut_loss(u, x, eps, t, s), (x, eps, t, s), (u,), "No target")
        found, wanted = u.by_hand(z, t, s), sum(halves(u.by_hand)) / 2
        explained(loss, square(found - wanted), "Without a target the halves are those of u itself.")
        likely = (("The halves are a constant: no gradient flows through them.", square(found - wanted)),)
        check_gradient(loss, square(found - wanted.detach()), u, {}, likely)
    check_refusals(shortcut_loss, "target", lambda now, end: now[0] < 1)
    exactly, _ = truth(mixture(2, 3, seed), seed)
    check_zero(shortcut_loss(*exactly), "for two jumps are one")


# the start moves: MeanFlow and its improved form


def likely_rates(u: Callable, z: Tensor, t: Tensor, s: Tensor, slope: Tensor) -> Likely:
    """What is found in the place of du/dt along the path, whose tangents are (slope, 1, 0)."""
    way = functools.partial(along, u, z, t, s)
    yield "t moves and s stands: their tangents are 1 and 0, and not exchanged.", way(slope, 0, 1)
    yield "s stands: its tangent is 0. Here s moves with t, and the interval stays.", way(slope, 1, 1)
    yield "s stands: its tangent is 0.", way(slope, 1, -1)
    yield "z moves with t: this is the derivative in t at a fixed z.", way(0, 1, 0)
    yield "t moves, too: its tangent is 1.", way(slope, 0, 0)
    yield "z moves with the slope of the path, not against it.", way(-slope, 1, 0)
    yield "z moves with the slope of the path: its tangent is not z itself.", way(z, 1, 0)
    yield "z moves with the slope of the path: its tangent is not 1.", way(1, 1, 0)
    yield "t runs up along the path, with the slope: its tangent is 1.", way(slope, -1, 0)
    yield "This is -du/dt: z and t move up, with the slope and 1.", way(-slope, -1, 0)
    z, t = z.detach().requires_grad_(), t.detach().requires_grad_()
    left, late = torch.autograd.grad(u(z, t, s).sum(), (z, t))
    hint = "This is the gradient of a sum: each number of u has a derivative of its own (jvp, not vjp)."
    yield hint, left * slope + column(late, z)
    yield hint, (left * slope).flatten(1).sum(1).reshape(column(late, z).shape) + column(late, z) + 0 * z


@torch.enable_grad()
def check_along_path(along_path=flowmap.along_path, seed: int = 0) -> None:
    """Where u is asked, and its derivative along the path, by differences."""
    for z, slope, t, s in cases(seed):
        u = Net(learner)
        what = f"t = {t.tolist()}, s = {s.tolist()}"
        found = answer_of(lambda: along_path(u, z, t, s, slope), (z, t, s, slope), (u,), what)
        assert isinstance(found, tuple | list) and len(found) == 2, "Two are returned: u and du/dt."
        places = likely_times(t, s) | {"z": likely_steps(z, slope)}
        check_places("u", u.asked, {"u is asked at (z, t, s).": (z, t, s)}, places)
        value, change = learner(z, t, s), along(learner, z, t, s, slope, 1, 0)
        likely = (("u comes first, then du/dt.", change),)
        explained(found[0], value, "u comes first: u(z, t, s).", likely)
        hint = "du/dt is the derivative of u(z, t, s) along (slope, 1, 0): z moves with t, and s stands."
        explained(found[1], change, hint, likely_rates(learner, z, t, s, slope), 1e-9)
        assert found[0].requires_grad, "The gradient flows through u: no detach and no no_grad here."
        slopes = (gradient(a, u.knob) for a in (found[0], u.by_hand(z, t, s)))
        explained(*slopes, "The gradient of the first answer is that of u.")
        low, low_rate = along_path(u, z.float(), t, s, slope.float())
        close_in_float32(low.detach(), value, "u")
        close_in_float32(low_rate.detach(), change, "du/dt")
        for size, hint in sizes(z):
            loud = lambda z, t, s: size * learner(z, t, s)
            same_size(along_path(loud, z, t, s, slope)[1], size * change, hint)
            steep = along_path(learner, z, t, s, size * slope)[1]
            hint = "The slope is taken as it is, however large or small."
            same_size(steep, along(learner, z, t, s, size * slope, 1, 0), hint)
    t, s = (exact(*times) for times in TIMES[0])
    z, slope = z[:, :, 0, 0], slope[:, :, 0, 0]
    check_times(lambda t, s: torch.stack(along_path(learner, z, t, s, slope)), t, s)
    check_shapes("A slope", lambda other: along_path(learner, z, t, s, other), z)
    check_shapes("An answer of u", lambda other: along_path(lambda z, t, s: other, z, t, s, slope), z)


def residuals(u: Callable, z: Tensor, t: Tensor, s: Tensor, v: Tensor, slope: Tensor) -> Likely:
    """Sentences, and what is found in the place of u + (t - s) du/dt - v."""
    found, change = u(z, t, s), along(u, z, t, s, slope, 1, 0)
    T, S = column(t, z), column(s, z)
    compound = found + (T - S) * change
    hint = "The sign of du/dt: u + (t - s) du/dt = v, so the target is v - (t - s) du/dt."
    yield hint, found - (T - S) * change - v
    for hint, wrong in likely_rates(u, z, t, s, slope):
        yield hint, found + (T - S) * wrong - v
    yield "du/dt is multiplied by the length t - s of the jump, not by t.", found + T * change - v
    yield "du/dt is multiplied by the length t - s of the jump, not by s.", found + S * change - v
    yield "du/dt is multiplied by the length t - s of the jump.", found + change - v
    yield "du/dt is missing: this is flow matching.", found - v
    yield "v is the slope of the path: here u stands in its place.", (T - S) * change
    yield "v is the slope of the path: here u(z, t, t) stands in its place.", compound - u(z, t, t)
    hint = "The path leads from data to noise: v = eps - x, not x - eps."
    yield hint, compound + v
    yield hint, found + (T - S) * along(u, z, t, s, -v, 1, 0) + v
    yield "Compare velocities, not where the jumps land.", (T - S) * (compound - v)
    yield from ((hint, found + gap * change - v) for hint, gap in misread(t - s, z))
    for a in (1, 2, 3, 4, 5):
        yield "Nothing is clipped.", found - (v - (T - S) * change).clamp(-a, a)
        yield "Nothing is clipped.", compound - v.clamp(-a, a)
        yield "Nothing is clipped.", found + ((T - S) * change).clamp(-a, a) - v


def check_start_moves(loss: Callable, improved: bool, seed: int) -> None:
    """Of MeanFlow and of its improved form, which differ in the slope of the path alone."""
    for x, eps, t, s in cases(seed):
        z, T, S = noisy(x, eps, t), column(t, x), column(s, x)
        for guide in (None, Net(teacher)):
            u, others = Net(learner), {} if guide is None else {"teacher": guide}
            what = f"t = {t.tolist()}, s = {s.tolist()}, {'no' if guide is None else 'a'} teacher"
            call, nets = lambda: loss(u, x, eps, t, s, **others), (u, *others.values())
            found = loss_of(call, (x, eps, t, s), nets, what)
            v = eps - x if guide is None else teacher(z, t)
            slope = learner(z, t, t) if improved else v
            places = likely_places(x, eps, t, s, slope)
            right = {AT_Z: (z, t, s)}
            if improved:
                hint = "u is asked at (z_t, t, t): the slope of the path is u(z, t, t), not v, no chord."
                right = {hint: (z, t, t)} | right
            check_places("u", u.asked, right, places)
            if guide is not None:
                hint = "The teacher is asked at (z_t, t), z_t = (1 - t) x + t eps, in place of eps - x."
                check_places("The teacher", guide.asked, {hint: (z, t)}, places)

            value, change = u.by_hand(z, t, s), along(u.by_hand, z, t, s, slope, 1, 0)
            d = (value + (T - S) * change - v).detach()

            def likely(u=learner):
                own = "The slope of the path is u(z, t, t), not v: that is MeanFlow."
                given = "The teacher's velocity is the slope of the path, too, not eps - x."
                for path, hint in (
                    (eps, "z moves with the slope of the path, not with eps."),
                    (x, "z moves with the slope of the path, not with x."),
                    (eps - x, own if improved else given),
                    (v, own),
                    (u(z, t, t), "The slope of the path is v, not u(z, t, t): that is improved MeanFlow."),
                    (u(z, t, s), "The slope of the path is a velocity, not the chord u(z, t, s)."),
                ):
                    moved = along(u, z, t, s, path, 1, 0)
                    yield hint, square(u(z, t, s) + (T - S) * moved - v)
                    hint = "The teacher's velocity takes the place of eps - x, and here it does not."
                    yield hint, square(u(z, t, s) + (T - S) * moved - (eps - x))
                for one, hint in ((eps, "eps"), (x, "x")):
                    hint = f"v is the slope eps - x of the path, not {hint}."
                    yield hint, square(u(z, t, s) + (T - S) * along(u, z, t, s, one, 1, 0) - one)
                    yield hint, square(u(z, t, s) + (T - S) * along(u, z, t, s, slope, 1, 0) - one)
                for hint, wrong in residuals(u, z, t, s, v, slope):
                    yield hint, square(wrong)
                yield from likely_distances(d)

            hint = "The squared distance of u + (t - s) du/dt to v, where u moves along the path."
            explained(found, square(d), hint, likely(), 1e-9)

            def gradients():
                hint = "du/dt is a constant: stopgrad, or no gradient of it at all."
                yield hint, square(value + (T - S) * change - v)
                hint = "The gradient flows through u, not through its target."
                yield hint, square(value.detach() + (T - S) * change - v)
                hint = "The slope of the path is a constant, and so is du/dt."
                moved = rate(lambda h: u.by_hand(z + h * u.by_hand(z, t, t), t + h, s))
                yield hint, square(value + (T - S) * moved - v)

            right = square(value + (T - S) * change.detach() - v)
            check_gradient(found, right, u, others, gradients())
            low = loss(u, x.float(), eps.float(), t, s, **others)
            close_in_float32(low.detach(), square(d), "The loss")
            for size, hint in sizes(z):
                net, guided = Net(learner, size), {name: Net(teacher, size) for name in others}
                v = size * teacher(z, t) if guided else eps - x
                moved = along(net.by_hand, z, t, s, net.by_hand(z, t, t) if improved else v, 1, 0)
                right = square(net.by_hand(z, t, s) + (T - S) * moved - v)
                same_size(loss(net, x, eps, t, s, **guided), right, hint)
    check_refusals(loss, "teacher", torch.equal if improved else None)
    exactly, velocity = truth(mixture(2, 3, seed), seed)
    check_zero(loss(*exactly, teacher=velocity), "with the exact velocity as the teacher")


@torch.enable_grad()
def check_mean_flow_loss(mean_flow_loss=flowmap.mean_flow_loss, seed: int = 0) -> None:
    """Where u is asked, tangents, stop-gradients and weights, and 0 at the truth."""
    check_start_moves(mean_flow_loss, False, seed)

    # the weight, a constant
    weights = ((1.0, 0.5, None), (0.5, 0.01, teacher), (1, 1, teacher), (1.5, 2.0, None))
    for (x, eps, t, s), (p, c, guide) in zip(cases(seed), weights):
        u, z, gap = Net(learner), noisy(x, eps, t), column(t - s, x)
        what = f"p = {p}, c = {c}, {'a' if guide else 'no'} teacher"
        call = functools.partial(mean_flow_loss, teacher=guide)
        loss = loss_of(lambda: call(u, x, eps, t, s, p=p, c=c), (x, eps, t, s), (u,), what)
        v = guide(z, t) if guide else eps - x
        wanted = v - gap * along(learner, z, t, s, v, 1, 0)
        mean = square(u.by_hand(z, t, s) - wanted)
        e = mean * x[0].numel()
        weight = "The weight is 1 / (e + c)^p"
        over = f"{weight}, of the sum of squares e of that sample"

        def likely():
            yield "p is not used: 1 / (e + c)^p weighs the loss.", mean
            hint = f"{weight}, of the sum e, not of its square."
            yield from ((hint, top / (inner**2 + c) ** p) for top in (mean, e) for inner in (e, mean))
            hint = "The weight multiplies the mean of squares itself, not its square."
            yield from ((hint, top**2 / (e**2 + c) ** p) for top in (mean, e))
            yield from ((hint, top**2 / (inner + c) ** p) for top in (mean, e) for inner in (e, mean**2))
            hint = f"{over}: not of the whole batch."
            batch = e.mean(), mean.mean(), e.sum(), e * len(e)
            yield from ((hint, mean / (inner + c) ** p) for inner in batch)
            yield f"{over}: not of their mean.", mean / (mean + c) ** p
            yield f"{over}, multiplies the mean of squares, as without it: not the sum.", e / (e + c) ** p
            hint = f"{weight}: the power is p, not p / 2."
            yield from ((hint, top / (e + c) ** (p / 2)) for top in (mean, e))
            yield f"{weight}: the power is p, not 1 - p.", mean / (e + c) ** (1 - p)
            yield f"{weight}: it divides.", mean * (e + c) ** p
            yield "p is an argument: it is not always 1.", mean / (e + c)
            for other in (1e-3, 1e-2, 1e-4, 1e-6, c**2, c**0.5, 0):
                yield "c is an argument, which is added to e as it is.", mean / (e + other) ** p
            yield f"{weight}: c is added before the power.", mean / (e**p + c)
            yield f"{weight}, of the squares, not of their root.", mean / (e.sqrt() + c) ** p
            each = (u.by_hand(z, t, s) - wanted).square()
            yield f"{over}, one for all its numbers.", (each / (each + c) ** p).flatten(1).mean(1)

        hint = f"{over}, times the mean of its squares: p = {p}, c = {c}."
        right = mean / (e.detach() + c) ** p
        explained(loss, right, hint, likely(), 1e-9)
        hints = (
            ("The weight is a constant: detach e in it.", mean / (e + c) ** p),
            ("The weight is a constant, the loss is not.", mean.detach() / (e + c) ** p),
        )
        check_gradient(loss, right, u, {}, hints)
        low = call(u, x.float(), eps.float(), t, s, p=p, c=c)
        close_in_float32(low.detach(), right, f"The loss with p = {p}")
        found = call(u, x, eps, t, s, p=1)
        explained(found, mean / (e + 1e-3), "By default c is 1e-3.", tol=1e-9)
        small = 1e-4 * call(u, x, eps, t, s, p=1, c=1e4)
        explained(1e8 * small, mean / (e / 1e4 + 1), "Any c above 0 is right, also a large one.", tol=1e-9)


@torch.enable_grad()
def check_improved_mean_flow_loss(
    improved_mean_flow_loss=flowmap.improved_mean_flow_loss, seed: int = 0
) -> None:
    """Both places where u is asked, tangents and stop-gradients, and 0 at the truth."""
    check_start_moves(improved_mean_flow_loss, True, seed)


# the end moves


@torch.enable_grad()
def check_lagrangian_loss(lagrangian_loss=flowmap.lagrangian_loss, seed: int = 0) -> None:
    """Where the jump lands, who is asked there, the gradient through its speed, and 0 at the truth."""
    for x, eps, t, s in cases(seed):
        z, gap = noisy(x, eps, t), column(s - t, x)
        places = likely_places(x, eps, t, s, eps - x)
        for guide in (None, Net(teacher)):
            u, others = Net(learner), {} if guide is None else {"teacher": guide}
            what = f"t = {t.tolist()}, s = {s.tolist()}, {'no' if guide is None else 'a'} teacher"
            call, nets = lambda: lagrangian_loss(u, x, eps, t, s, **others), (u, *others.values())
            found = loss_of(call, (x, eps, t, s), nets, what)
            assert guide is None or guide.asked, "The teacher is never asked, in place of u's diagonal."
            value = u.by_hand(z, t, s)
            landed = jumped(value, z, t, s)
            end = landed.detach()
            right = {AT_Z: (z, t, s)}
            where = [
                ("The velocity is asked where the jump lands, not where it starts.", z),
                ("The jump lands off the line from x to eps: not at z_s.", noisy(x, eps, s)),
                ("The jump goes down: z + (s - t) u, and s - t is negative.", 2 * z - end),
                ("The jump has the length s - t: z + (s - t) u.", (z - value).detach()),
                ("The jump lands at z + (s - t) u: this is u.", value.detach()),
                *((hint, (z + wrong * value).detach()) for hint, wrong in misread(s - t, z)),
            ]
            at = [
                ("The velocity is that at s, where the jump lands, not at t.", t),
                ("The velocity is that at s, where the jump lands, not in the middle.", (t + s) / 2),
                ("The velocity is that at s, where the jump lands, not at 0.", 0 * s),
            ]
            if guide is None:
                hint = "u is asked at (landing, s, s): its diagonal, the velocity where the jump lands."
                right[hint] = (end, s, s)
                diagonal = ("The velocity is u's diagonal, u(landing, s, s), not a chord to 0.", 0 * s)
                places = {"z": where + places["z"], "t": at + places["t"], "s": [diagonal, *places["s"]]}
            check_places("u", u.asked, right, places)
            if guide is not None:
                hint = "The teacher is asked at (landing, s), where the jump lands, z + (s - t) u."
                check_places("The teacher", guide.asked, {hint: (end, s)}, {"z": where, "t": at})

            change = along(u.by_hand, z, t, s, 0, 0, 1)
            speed = value + gap * change
            b = learner(end, s, s) if guide is None else teacher(end, s)
            d = (speed - b).detach()

            def likely():
                moved = along(learner, z, t, s, 0, 1, 0)
                both = "The jump's derivative is u + (s - t) du/ds: both depend on s."
                for hint, wrong in (
                    ("The jump moves, z + (s - t) u, not u: u + (s - t) du/ds.", change),
                    (both, value),
                    (both, gap * change),
                    ("The sign of the length: u + (s - t) du/ds.", value - gap * change),
                    ("The end moves, s, and the start stands: not t.", -value + gap * moved),
                    ("The end moves, s, and the start stands: not t.", value + gap * moved),
                    ("Both ends move: only s does.", gap * (moved + change)),
                    *((hint, value + wrong * change) for hint, wrong in misread(s - t, z)),
                ):
                    yield hint, square(wrong - b)
                yield "The jump's speed is b where it lands, not -b.", square(speed + b)
                hint = "The velocity is the teacher's, where the jump lands, not eps - x of the pair."
                yield hint, square(speed - (eps - x))
                yield "It is the teacher's velocity, not u's.", square(speed - learner(end, s, s))
                yield "It is the velocity where the jump lands, not u itself.", square(speed - value)
                yield "No factor t - s: compare velocities.", square(gap * d)
                for a in (1, 2, 3, 4, 5):
                    yield "Nothing is clipped.", square(speed - b.clamp(-a, a))
                    yield "Nothing is clipped.", square(speed.clamp(-a, a) - b)
                yield from likely_distances(d)

            hint = "The squared distance of u + (s - t) du/ds to the velocity where the jump lands."
            explained(found, square(d), hint, ((hint, a.detach()) for hint, a in likely()), 1e-9)

            def gradients():
                through = u.by_hand(landed, s, s) if guide is None else teacher(landed, s)
                hint = "The velocity where the jump lands is a constant: no gradient flows through it."
                yield hint, square(speed - through)
                if guide is None:
                    yield hint, square(speed - u.by_hand(end, s, s))
                hint = "The gradient flows through du/ds, too: it is a part of the jump's speed."
                yield hint, square(value + gap * change.detach() - b)
                hint = "The gradient flows through u, too: it is a part of the jump's speed."
                yield hint, square(value.detach() + gap * change - b)

            check_gradient(found, square(speed - b), u, others, gradients())
            low = lagrangian_loss(u, x.float(), eps.float(), t, s, **others)
            close_in_float32(low.detach(), square(d), "The loss")
            for size, hint in sizes(z):
                net, guided = Net(learner, size), {name: Net(teacher, size) for name in others}
                value, change = net.by_hand(z, t, s), along(net.by_hand, z, t, s, 0, 0, 1)
                end = jumped(value, z, t, s)
                b = size * teacher(end, s) if guided else net.by_hand(end, s, s)
                right = square(value + gap * change - b)
                same_size(lagrangian_loss(net, x, eps, t, s, **guided), right, hint)
    check_refusals(lagrangian_loss, "teacher", torch.equal)
    exactly, velocity = truth(mixture(2, 3, seed), seed)
    check_zero(lagrangian_loss(*exactly, teacher=velocity), "with the exact velocity as the teacher")
    exactly, _ = truth(Gaussian(exact(0.4, -1.0), exact(0.3, 1.5).diag()), seed)
    check_zero(lagrangian_loss(*exactly), "with the velocity of its own diagonal")
