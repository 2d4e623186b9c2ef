"""Checks of the predictions.

A round trip alone proves little: a sign error that is undone on the way back passes it.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidistill import parameterization
from minidistill.checks import (
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    recorded,
    refuses,
)
from minidistill.parameterization import KINDS
from minidistill.schedules import cosine, edm, linear_beta, mix, rates, rectified_flow, shifted, sigmoid

SCHEDULES = (cosine, linear_beta, sigmoid, edm, rectified_flow, shifted(rectified_flow, 3.0))
# four samples: a time along the wrong axis of (4, 4, 4) would not be noticed by torch
DIMS = ((4, 4, 4), (2,), (2, 3, 5), (3, 1, 2, 5))
DEFINITIONS = {
    "x": "z = alpha x + sigma eps. ",
    "eps": "z = alpha x + sigma eps. ",
    "v": "v = alpha eps - sigma x. ",
    "velocity": "The velocity is alpha' x + sigma' eps. ",
    "score": "The score is -eps / sigma. ",
}


def with_corners(z: Tensor) -> Tensor:
    """z, with a large number of each sign in its first and its last entry: nothing is clipped unseen."""
    z.view(-1)[[0, -1]] = exact(1000, -1000)
    return z


def clipped(found, expected: Tensor) -> list[tuple[str, Tensor]]:
    """The sentence for a result that is right, and clipped."""
    if not isinstance(found, Tensor) or expected.abs().max() < 100:
        return []
    c = found.detach().abs().max().double()
    return [(f"here it is clipped at {c:.4g}.", expected.clamp(-c, c))]


def known(seed: int, schedule, dims=(4, 4, 4)):
    """Times, z_t, and every prediction a perfect network would make, from the definitions."""
    g = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, 4, *dims, generator=g, dtype=torch.float64)
    x, eps = with_corners(x), -with_corners(-eps)
    t = 0.1 + 0.8 * torch.rand(4, generator=g, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = (column(a, x) for a in (*schedule(t), *rates(schedule, t)))
    predictions = {
        "x": x,
        "eps": eps,
        "v": alpha * eps - sigma * x,
        "velocity": d_alpha * x + d_sigma * eps,
        "score": -eps / sigma,
    }
    return mix(x, eps, t, schedule), t, predictions


def solved(pred, z, t, schedule, source, target):
    """pred as the target, by way of x and eps: two equations, two unknowns."""
    alpha, sigma, d_alpha, d_sigma = (column(c, z) for c in (*schedule(t), *rates(schedule, t)))
    basis = {
        "x": (1, 0),
        "eps": (0, 1),
        "v": (-sigma, alpha),
        "velocity": (d_alpha, d_sigma),
        "score": (0, -1 / sigma),
    }
    (a, b), (a_new, b_new) = basis[source], basis[target]
    determinant = alpha * b - sigma * a
    return (a_new * (b * z - sigma * pred) + b_new * (alpha * pred - a * z)) / determinant


def likely_conversions(found, schedule, z, t, predictions, source, target) -> Iterator[tuple[str, Tensor]]:
    """What is often written for a conversion from or to x, and then for any."""
    alpha, sigma, d_alpha, d_sigma = (column(a, z) for a in (*schedule(t), *rates(schedule, t)))
    x, eps, v, velocity, score = (predictions[kind] for kind in KINDS)
    pred = predictions[source]
    squares = lambda t: tuple(c**2 for c in schedule(t))
    yield "The prediction has not changed.", pred
    special = {
        ("x", "eps"): {
            "alpha and sigma, not their squares.": (z - alpha**2 * x) / sigma**2,
            "The division by sigma is missing.": z - alpha * x,
        },
        ("x", "v"): {
            "v is alpha eps - sigma x, with a minus, not a plus.": alpha * eps + sigma * x,
            "v is alpha eps - sigma x, and this is its negative.": sigma * x - alpha * eps,
            "v is alpha eps - sigma x: here alpha and sigma are swapped.": sigma * eps - alpha * x,
            "v is alpha eps - sigma x, not eps - x.": eps - x,
        },
        ("x", "velocity"): {
            "The velocity is dz / dt, and this is its negative.": -d_alpha * x - d_sigma * eps,
            "The velocity is alpha' x + sigma' eps: eps - x for rectified flow only.": eps - x,
            "The velocity is alpha' x + sigma' eps: here x and eps are swapped.": d_alpha * eps + d_sigma * x,
            "The velocity is alpha' x + sigma' eps, not v.": alpha * eps - sigma * x,
        },
        ("x", "score"): {
            "The score is -eps / sigma: the minus is missing.": eps / sigma,
            "The score is -eps / sigma: sigma is missing.": -eps,
            "The score is -eps / sigma, not -eps / sigma^2.": -eps / sigma**2,
            "The score is -eps / sigma, not times sigma.": -eps * sigma,
        },
        ("eps", "x"): {
            "alpha and sigma, not their squares.": (z - sigma**2 * eps) / alpha**2,
            "The division by alpha is missing.": z - sigma * eps,
            "The noise is subtracted, not added.": (z + sigma * eps) / alpha,
        },
        ("v", "x"): {
            "x is alpha z - sigma v, with a minus, not a plus.": alpha * z + sigma * v,
            "The division by alpha^2 + sigma^2 is missing.": alpha * z - sigma * v,
            "Here alpha and sigma are swapped.": sigma * z - alpha * v,
        },
        ("v", "eps"): {
            "eps is alpha v + sigma z, with a plus, not a minus.": alpha * v - sigma * z,
            "The division by alpha^2 + sigma^2 is missing.": alpha * v + sigma * z,
        },
        ("velocity", "x"): {
            "z - t times the velocity is right for rectified flow only.": z - column(t, z) * velocity,
            "The sign of the velocity is wrong.": z + column(t, z) * velocity,
        },
        ("score", "x"): {
            "The score is -eps / sigma: its minus is missing.": (z - sigma**2 * score) / alpha,
            "The score is -eps / sigma: its sigma is missing.": (z + sigma * score) / alpha,
            "The division by alpha is missing.": z + sigma**2 * score,
        },
    }
    yield from special.get((source, target), {}).items()
    yield from (
        (sentence.replace("here", "Here"), other) for sentence, other in clipped(found, predictions[target])
    )
    yield (
        f"Here source and target are swapped: {target} -> {source}.",
        solved(pred, z, t, schedule, target, source),
    )
    yield "The sign is wrong.", -predictions[target]
    yield "alpha and sigma, not their squares.", solved(pred, z, t, squares, source, target)
    for other in (cosine, rectified_flow):
        wrong = solved(pred, z, t, other, source, target)
        yield f"Here the schedule is {other.__name__}, whichever is given.", wrong
    for kind in KINDS:
        yield f"This is {kind}.", predictions[kind]


def check_convert(convert=parameterization.convert, seed: int = 0) -> None:
    """Every pair of kinds against the definitions, on schedules that do and do not preserve variance."""
    # first what is made of x, which is the definition; then what x is made of
    pairs = sorted(itertools.product(KINDS, KINDS), key=lambda pair: (pair[0] != "x", pair[1] != "x"))
    for i, schedule in enumerate(SCHEDULES):
        z, t, predictions = known(seed, schedule, DIMS[i % 4])
        on = getattr(schedule, "__name__", "a shifted schedule")
        for source, target in pairs:
            call = lambda: convert(predictions[source], z, t, schedule, source, target)
            found = accepts(call, f"{source} -> {target} on {on}")
            what = f"{source} -> {target} on {on} is wrong. "
            likely = likely_conversions(found, schedule, z, t, predictions, source, target)
            named = ((what + sentence, other) for sentence, other in likely)
            hint = what + "".join(dict.fromkeys((DEFINITIONS[source], DEFINITIONS[target])))
            explained(
                found, predictions[target], hint.strip(), named, tol=1e-8
            )  # steep schedules lose digits
    z, t, predictions = known(seed, cosine)
    x, eps, v = (predictions[kind] for kind in ("x", "eps", "v"))

    # v is the derivative of z along the circle, here by finite differences in the angle
    h = 1e-6
    along = (mix(x, eps, t + h, cosine) - mix(x, eps, t - h, cosine)) / (2 * h * math.pi / 2)
    close(convert(x, z, t, cosine, "x", "v"), along, "v = dz / d(angle): check its sign.", 1e-7, 1e-7)

    # the ends: all of v and velocity, one side of x and eps
    zeros, ones = torch.zeros_like(t), torch.ones_like(t)
    for source, target, time, pred, expected, hint in (
        ("v", "x", ones, v, -v, "At t = 1, v = -x."),
        ("v", "eps", zeros, v, v, "At t = 0, v = eps."),
        ("x", "eps", ones, x, z, "At t = 1, z is the noise."),
        ("eps", "x", zeros, eps, z, "At t = 0, z is the data."),
        ("v", "velocity", ones, v, math.pi / 2 * v, "At t = 1, the velocity of cosine is pi / 2 v."),
    ):
        call = lambda: convert(pred, z, time, cosine, source, target)
        close(accepts(call, f"{source} -> {target} at t = {time[0]:g}"), expected, hint)
    for time in (1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6):
        near = torch.full_like(t, time)
        score = -eps / column(cosine(near)[1], eps)
        for source, pred, target, expected in (
            ("eps", eps, "x", x),
            ("x", x, "eps", eps),
            ("score", score, "x", x),
        ):
            what = f"{source} -> {target} at t = {time:g}"
            found = accepts(
                lambda: convert(pred, mix(x, eps, near, cosine), near, cosine, source, target), what
            )
            close(
                found, expected, f"{what}: close to an end it still exists, and is not cut off.", 1e-8, 1e-8
            )

    # precision, and the gradient
    for schedule in (cosine, edm, rectified_flow):
        z_, t_, wide = known(seed, schedule)
        for source, target in pairs:
            single = convert(wide[source].float(), z_.float(), t_, schedule, source, target)
            close_in_float32(single, wide[target], f"{source} -> {target}", 1e-4)
    double = convert(v, z, t.float(), cosine, "v", "x").dtype
    assert double == torch.float64, (
        f"The prediction keeps its dtype, also where t is float32: float64, not {double}."
    )
    for source, target in pairs:
        follows = [a.clone().requires_grad_() for a in (predictions[source], z, t)]
        found = accepts(lambda: convert(*follows, cosine, source, target), f"{source} -> {target}")
        slopes = [torch.zeros_like(a) for a in follows]
        if found.requires_grad:
            slopes = torch.autograd.grad(found.sum(), follows, materialize_grads=True)
        wanted = solved(*follows, cosine, source, target).sum()
        for name, slope, expected in zip(
            ("the prediction", "z", "t"), slopes, torch.autograd.grad(wanted, follows, materialize_grads=True)
        ):
            hint = f"{source} -> {target}: the gradient must pass to {name}, for losses convert, too."
            close(slope, expected, hint, 1e-8, 1e-8)

    # what must be refused: one time among good ones is enough
    for schedule, source, target, time, why in (
        (cosine, "eps", "x", 1.0, "eps says nothing about x"),
        (cosine, "eps", "v", 1.0, "eps says nothing about v"),
        (cosine, "score", "x", 1.0, "the score says nothing about x"),
        (cosine, "x", "eps", 0.0, "x says nothing about eps"),
        (cosine, "x", "v", 0.0, "x says nothing about v"),
        (cosine, "v", "score", 0.0, "there is no score"),
        (cosine, "score", "x", 0.0, "there is no score"),
        (cosine, "score", "v", 0.0, "there is no score"),
        (sigmoid, "v", "velocity", 0.0, "the velocity of the sigmoid is infinite"),
        (sigmoid, "velocity", "x", 0.0, "the velocity of the sigmoid is infinite"),
    ):
        bad = torch.cat([t[:-1], exact(time)])
        for times, which in ((torch.full_like(t, time), "all"), (bad, "one of the times")):
            hint = f"{source} -> {target} at t = {time:g}, {which}, must be refused: {why}. No inf, no nan."
            refuses(lambda: convert(v, z, times, schedule, source, target), hint)
    for source, target in (("v", "noise"), ("noise", "v"), ("noise", "noise"), ("v", ""), (None, "x")):
        hint = f"{source} -> {target}: an unknown kind must be refused."
        refuses(lambda: convert(v, z, t, cosine, source, target), hint)
    for bad, kinds in itertools.product(
        (v[:, :1], v[:1], v[:3], v[..., :1], v[0], v.reshape(4, 2, 8, 4)), (("v", "x"), ("v", "v"))
    ):
        hint = (
            f"A prediction {tuple(bad.shape)} for z {tuple(v.shape)} must be refused, and a z like that too."
        )
        refuses(lambda: convert(bad, z, t, cosine, *kinds), hint)
        refuses(lambda: convert(v, bad, t, cosine, *kinds), hint)
    for bad, kinds in itertools.product((t[:1], t[:3], t[0], t[:, None]), (("v", "x"), ("v", "v"))):
        hint = f"Times {tuple(bad.shape)} for four samples must be refused: one for each, (4,)."
        refuses(lambda: convert(v, z, bad, cosine, *kinds), hint)


def check_as_denoiser(as_denoiser=parameterization.as_denoiser, seed: int = 0) -> None:
    """What the network sees, what its answer means, and that the schedule is invisible to it."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    asked = []
    net = lambda u, phi: (
        weight.to(u.dtype) * (torch.sin(3 * u) - u / 2) * column(1 + phi.cos(), u) + 0.3 * column(phi, u)
    )
    strict = recorded(net, asked)

    def inside_first(found, expected, what, likely, t):
        """explained, for the two times strictly inside, and then for all four."""
        shapes = f"{tuple(expected.shape)}, and is {tuple(found.shape)}"
        assert found.shape == expected.shape, f"The shape must be {shapes}. {what}."
        likely = likely.items() if isinstance(likely, dict) else likely
        likely = [(f"{what}: {sentence}", other) for sentence, other in (*likely, *clipped(found, expected))]
        explained(found[:2], expected[:2], f"{what}.", [(sentence, other[:2]) for sentence, other in likely])
        # asin and acos lose half of their digits at an end
        hint = f"{what}, also at the ends, t = {t[2]:g} and t = {t[3]:g}: is one clamped, or left out?"
        hint = next((sentence for sentence, other in likely if alike(found, other)), hint)
        close(found, expected, hint, 1e-7, 1e-7)

    def by_hand(z, t, schedule, sd):
        """phi, z / r, F and x_hat."""
        alpha, sigma = (column(c, z) for c in schedule(t))
        r, phi = torch.hypot(alpha * sd, sigma), torch.atan2(sigma, alpha * sd)
        tangent = net(z / r, phi.flatten())
        return phi, z / r, tangent, sd * (phi.cos() * z / r - phi.sin() * tangent)

    # in reverse: on the first ones alpha^2 + sigma^2 is 1, and some mistakes look alike
    places = itertools.product(SCHEDULES[::-1], DIMS)
    for (schedule, dims), sd in zip(places, itertools.cycle((0.5, 1.7, 5e-4))):
        z = 1.5 * torch.randn(4, *dims, generator=g, dtype=torch.float64)
        z.view(4, -1)[:, 0] = exact(1000, -1000, 1000, -1000)  # nothing is clipped
        t = torch.cat([0.1 + 0.8 * torch.rand(2, generator=g, dtype=torch.float64), exact(1, 0)])
        if schedule is edm:
            t[1:] *= 80
        alpha, sigma = (column(c, z) for c in schedule(t))
        phi, u, tangent, expected = by_hand(z, t, schedule, sd)
        asked.clear()
        before = z.clone(), t.clone()
        denoiser = accepts(lambda: as_denoiser(strict, schedule, sd), f"data_std = {sd}")
        assert callable(denoiser), (
            f"as_denoiser returns a function denoiser(z, t), and no {type(denoiser).__name__}."
        )
        x_hat = denoiser(z, t)
        assert torch.equal(z, before[0]) and torch.equal(t, before[1]), "z and t must stay as they are."
        assert asked, "The network must be asked, and it is not."
        seen_u, seen_phi = (torch.cat(seen)[-len(z) :] for seen in zip(*asked))
        sees_phi = "The network sees the angle phi = atan2(sigma, alpha data_std)"
        likely = {
            "here it sees t.": t,
            "here data_std is missing.": torch.atan2(sigma, alpha).flatten(),
            "here data_std is on sigma.": torch.atan2(sigma * sd, alpha).flatten(),
            "here it is pi / 2 - phi. Data is at 0.": math.pi / 2 - phi.flatten(),
            "here it is its cosine.": phi.cos().flatten(),
            "here it is its sine.": phi.sin().flatten(),
            "here it is its tangent.": phi.tan().flatten(),
            "here it is the share of pi / 2.": phi.flatten() / (math.pi / 2),
            "here it is its negative.": -phi.flatten(),
            "here it sees sigma.": sigma.flatten(),
            "here t is clamped at 1, and EDM's goes on.": by_hand(z, t.clamp(max=1), schedule, sd)[
                0
            ].flatten(),
            "here all samples have the first one's.": phi.flatten()[:1].expand(4),
        }
        inside_first(seen_phi, phi.flatten(), sees_phi, likely, t)
        sees_u = "The network sees z / r with r^2 = (alpha data_std)^2 + sigma^2"
        r = torch.hypot(alpha * sd, sigma)
        likely = {
            "here it sees z.": z,
            "here the root is missing.": z / r**2,
            "here it is z times r.": z * r,
            "here data_std is missing in r.": z / torch.hypot(alpha, sigma),
            "here r is alpha data_std + sigma.": z / (alpha * sd + sigma),
            "here data_std is not squared in r^2.": z / (alpha**2 * sd + sigma**2).sqrt(),
            "here it is multiplied by data_std, too.": sd * u,
            "here it is divided by data_std, too.": u / sd,
        }
        inside_first(seen_u, u, sees_u, likely, t)
        assert x_hat.shape == z.shape, f"x_hat has z's shape, {tuple(z.shape)}, not {tuple(x_hat.shape)}."
        where = {"t = 1, where alpha is 0: never divide by alpha": 2, "t = 0, where sigma is 0": 3}
        for place, i in where.items():
            assert x_hat[i].isfinite().all(), f"x_hat is inf or nan at {place}."
        answers = "x_hat = data_std (cos(phi) z / r - sin(phi) F)"
        likely = {
            "the sign of F is a minus, as EDM's network is -F.": sd * (phi.cos() * u + phi.sin() * tangent),
            "data_std in front is missing.": expected / sd,
            "data_std is in front of both terms.": sd * phi.cos() * u - phi.sin() * tangent,
            "data_std is in front of both terms, here of F alone.": phi.cos() * u - sd * phi.sin() * tangent,
            "data_std is in front, not below.": expected / sd**2,
            "here cosine and sine are swapped.": sd * (phi.sin() * u - phi.cos() * tangent),
            "here z is not divided by r.": sd * (phi.cos() * z - phi.sin() * tangent),
            "here it is F itself.": tangent,
            "here it is data_std F.": sd * tangent,
            "this is the noise, sin(phi) z / r + cos(phi) F.": phi.sin() * u + phi.cos() * tangent,
            "alpha and sigma are not the cosine and the sine.": sd * (alpha * u - sigma * tangent),
            "alpha and sigma are the cosine and the sine only when divided by r.": alpha * z
            - sigma * tangent,
            "here F is left out.": sd * phi.cos() * u,
        }
        inside_first(x_hat, expected, answers, likely, t)

        # asked again, close to the ends: what is kept of the first call shows
        asked.clear()
        near = exact(0.02, 1e-3, 1 - 1e-4, 1e-4)
        found, expected_there = denoiser(z, near), by_hand(z, near, schedule, sd)
        seen = [torch.cat(seen)[-len(z) :] for seen in zip(*asked)][::-1]
        for what, new, old, wanted in zip(
            (sees_phi, sees_u, answers),
            (*seen, found),
            (phi.flatten(), u, expected),
            (expected_there[0].flatten(), *expected_there[1::2]),
        ):
            kept = [("here something is kept of the call before, at other times.", old)]
            inside_first(new, wanted, f"{what}, also close to the ends, where nothing is cut off", kept, near)
        alone = "One sample alone gets another answer than among others. Each is by itself."
        explained(denoiser(z[:1], t[:1]), expected[:1], alone)

        if sd > 0.1:  # an angle by asin is right to 1e-4 in float32, except where data_std is tiny
            close_in_float32(denoiser(z.float(), t), expected, "x_hat", 1e-4)
        wide = denoiser(z, t.float()).dtype
        assert wide == torch.float64, (
            f"x_hat has the dtype of z, also where t is float32: float64, not {wide}."
        )

    as_denoiser(lambda u, phi: 0 * u, rectified_flow, 3.0)
    hint = "A denoiser that is made later changes this one: each keeps its own net, schedule and data_std."
    explained(denoiser(z, t), expected, hint, tol=1e-7)
    kept = tangent.detach().clone()
    as_denoiser(lambda u, phi: kept[: len(u)], schedule, sd)(z, t)
    assert torch.equal(kept, tangent), (
        "What the network answers must stay as it is: no F *= s, but F = F * s."
    )

    # at the ends not every formula of the angle has a derivative by t
    for times, names in ((exact(0.3, 0.8, 1, 0), "the network, z"), (exact(0.3, 0.8, 0.5, 0.1), "t")):
        follows = {
            "the network": weight,
            "z": z.clone().requires_grad_(),
            "t": times.requires_grad_("t" in names.split(", ")),
        }
        found = denoiser(follows["z"], times)
        expected = by_hand(follows["z"], times, schedule, sd)[-1]
        for name in names.split(", "):
            hint = f"The gradient must reach {name}: is something detached, or under no_grad?"
            assert found.requires_grad, hint
            (slope,) = torch.autograd.grad(found.sum(), follows[name], retain_graph=True, allow_unused=True)
            assert slope is not None, hint
            where = [round(time, 2) for time in times.tolist()]
            assert slope.isfinite().all(), (
                f"The gradient to {name} is inf or nan at one of the times {where}."
            )
            close(
                slope,
                torch.autograd.grad(expected.sum(), follows[name], retain_graph=True)[0],
                hint,
                1e-8,
                1e-8,
            )

    close(as_denoiser(strict, cosine)(z, t), by_hand(z, t, cosine, 1.0)[-1], "Without data_std it is 1.")
    labels, past, heard = torch.arange(4), torch.ones(4, 3, dtype=torch.float64).requires_grad_(), {}

    def conditioned(u, phi, **more):
        heard.update(more)
        assert heard.keys() == {"label", "past"}, (
            f"Pass **conditioning on to the network: label and past, and it got {list(more)}."
        )
        assert len(u) == 4, (
            f"Four samples have four labels, and here {len(u)} of the samples are asked with them."
        )
        return net(u, phi) * column(1 + heard["label"], u)

    found = as_denoiser(conditioned, cosine, label=labels, past=past)(z, t)
    for name, given in (("label", labels), ("past", past)):
        hint = f"The conditioning goes to the network as it is: {name} is a copy, cast, or detached."
        assert heard[name] is given, hint
    phi, u, tangent, _ = by_hand(z, t, cosine, 1.0)
    expected = phi.cos() * u - phi.sin() * tangent * column(1 + labels, u)
    close(found, expected, "With conditioning x_hat is made of what the network says of it.", 1e-8)
    for bad in (0.0, -0.5, math.nan):
        hint = f"data_std = {bad} must be refused: data_std > 0."
        refuses(lambda: as_denoiser(net, cosine, bad)(z, t), hint)


def check_guided(guided=parameterization.guided, seed: int = 0) -> None:
    """Several scales, by hand, of two denoisers that are asked at one point."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    asked = [], []
    nets = (
        lambda z, t: weights[0].to(z.dtype) * (z + torch.tanh(z)) * column(1 + t, z),
        lambda z, t: weights[1].to(z.dtype) * (z / 2 + torch.sin(2 * z)) + column(t**2, z),
    )
    pair = [recorded(net, seen) for net, seen in zip(nets, asked)]
    t = torch.rand(4, generator=g, dtype=torch.float64)
    each = exact(-0.7, 0.0, 1.0, 4.3)
    for dims, scale in itertools.product(DIMS, (3.0, 1, 0.0, -0.7, 7.5, 50, each)):
        z = with_corners(torch.randn(4, *dims, generator=g, dtype=torch.float64))
        conditional, unconditional = (net(z, t) for net in nets)
        w = column(scale, z) if scale is each else scale
        expected = unconditional + w * (conditional - unconditional)
        name = "one for each sample" if scale is each else f"{scale:g}"
        for seen in asked:
            seen.clear()
        denoiser = accepts(lambda: guided(*pair, scale), f"scale {name}")
        assert callable(denoiser), f"guided returns a function of (z, t), and no {type(denoiser).__name__}."
        guided(*pair[::-1], 2.0)  # another one, which changes nothing
        found = accepts(lambda: denoiser(z, t), f"scale {name}")
        for who, seen in zip(("conditional", "unconditional"), asked):
            for point, time in seen:
                what = f"The {who} denoiser is asked at"
                at_z = point.shape == z.shape and torch.equal(point, z)
                assert at_z, f"{what} the same z as the other one, and here it is another."
                assert torch.equal(time, t), f"{what} the same t as the other one, and here it is another."
        what = f"Scale {name}: unconditional + scale (conditional - unconditional)"
        apart = conditional - unconditional
        likely = {
            f"{what}: here it is what one says that was made later. Each keeps its own.": conditional
            - 2 * apart,
            f"{what}: here the two are swapped.": conditional - w * apart,
            f"{what}: this is w = scale - 1 of the paper, one too much.": expected + apart,
            f"{what}: one too little.": expected - apart,
            f"{what}: the unconditional one is missing in front.": w * apart,
            f"{what}: the unconditional one is missing behind.": unconditional + w * conditional,
        }
        if isinstance(found, Tensor) and found.shape == z.shape:
            used = (((found - unconditional) * apart).sum() / apart.square().sum()).item()
            if scale is each or abs(used - scale) > 1e-6:
                likely[f"{what}: here the scale is {round(used, 6):g}."] = unconditional + used * apart
            likely |= {f"{what}: {sentence}": other for sentence, other in clipped(found, expected)}
        explained(found, expected, f"{what}.", likely)
        (slope,) = (
            torch.autograd.grad(found.sum(), weights, allow_unused=True) if found.requires_grad else (None,)
        )
        hint = "The gradient must reach both networks: is one detached, or under no_grad?"
        assert slope is not None, hint
        close(slope, torch.autograd.grad(expected.sum(), weights)[0], hint)
        close_in_float32(guided(*pair, scale)(z.float(), t), expected, "What is guided")
    kept = [torch.randn_like(z) for _ in range(2)]
    before = [answer.clone() for answer in kept]
    guided(lambda z, t: kept[0][: len(z)], lambda z, t: kept[1][: len(z)], 3.0)(z, t)
    assert all(map(torch.equal, kept, before)), (
        "What the denoisers answer must stay as it is: no a -= b, but a = a - b."
    )
    for bad in (math.nan, math.inf, *(torch.ones(n).double() for n in (1, 3)), torch.ones(4, 1).double()):
        name = f"{bad:g}" if isinstance(bad, float) else f"of shape {tuple(bad.shape)} for four samples"
        hint = f"A scale {name} must be refused: it is a finite number, or (b,), one for each sample."
        refuses(lambda: guided(*pair, bad)(z, t), hint)


def check_as_velocity(as_velocity=parameterization.as_velocity, seed: int = 0) -> None:
    """(z - x_hat) / t, and the times where there is none."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    net, asked = (lambda z, t: weight.to(z.dtype) * (z + torch.sin(z)) * column(1 + t, z)), []
    strict = recorded(net, asked)
    t = exact(0.7, 1.0, 0.3, 1e-4)
    for dims in DIMS:
        z = with_corners(torch.randn(4, *dims, generator=g, dtype=torch.float64))
        x_hat, time, before = net(z, t), column(t, z), z.clone()
        asked.clear()
        velocity = as_velocity(strict)
        assert callable(velocity), f"as_velocity returns a function of (z, t), no {type(velocity).__name__}."
        found = accepts(lambda: velocity(z, t), "A time from 0.0001 to 1")
        assert torch.equal(z, before), "z must stay as it is: no z -= x_hat, but z = z - x_hat."
        assert asked, "The denoiser must be asked, and it is not."
        points, times = (torch.cat(seen)[-len(z) :] for seen in zip(*asked))
        explained(points, z, "The denoiser is asked at z itself.")
        explained(times, t, "The denoiser is asked at t itself.")
        what = "The velocity is eps_hat - x_hat = (z - x_hat) / t"
        expected = (z - x_hat) / time
        likely = {
            f"{what}: here it is x - eps, its negative.": -expected,
            f"{what}: the division by t is missing.": z - x_hat,
            f"{what}: here it is z - x_hat times t.": (z - x_hat) * time,
            f"{what}: here it is z - x_hat, divided by 1 - t.": (z - x_hat) / (1 - time),
            f"{what}: this is eps_hat.": (z - (1 - time) * x_hat) / time,
            f"{what}: here all samples have the first one's time.": (z - x_hat) / t[0],
        }
        likely |= {f"{what}: {sentence}": other for sentence, other in clipped(found, expected)}
        if dims == (4, 4, 4):
            likely[f"{what}: here t is broadcast along the width."] = (z - x_hat) / t
        assert found.shape == z.shape, f"The shape must be {tuple(z.shape)}, and is {tuple(found.shape)}."
        explained(found[:3], expected[:3], f"{what}.", {sentence: v[:3] for sentence, v in likely.items()})
        explained(found[3], expected[3], f"{what}, also at t = 0.0001: a small time is not clamped.")
        slope = (
            torch.autograd.grad(found.sum(), weight, allow_unused=True)[0] if found.requires_grad else None
        )
        hint = "The gradient must reach the network: is it detached, or under no_grad?"
        assert slope is not None, hint
        close(slope, torch.autograd.grad(expected.sum(), weight)[0], hint, 1e-6)
        # at t = 1e-4, (z - x_hat) / t has lost four digits of float32
        kept = x_hat.detach().clone()
        as_velocity(lambda z, t: kept[: len(z)])(z, t)
        assert torch.equal(kept, x_hat), "What the denoiser answers must stay as it is."
        near = t.clamp(min=0.3)
        single = as_velocity(strict)(z.float(), near)
        close_in_float32(single, (z - net(z, near)) / column(near, z), "The velocity")
    for value, bad in one_bad(t, 0.0, -0.1, 1.5):
        hint = f"t = {value:g} for one of the samples must be refused: 0 < t <= 1, and at 0 it is 0 / 0."
        refuses(lambda: as_velocity(net)(z, bad), hint)
