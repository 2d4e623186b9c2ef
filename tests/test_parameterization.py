import math
import re

import pytest
import torch
from einops import rearrange

from minidistill import parameterization
from minidistill.checks import column
from minidistill.checks import parameterization as checks
from minidistill.parameterization import as_denoiser, as_velocity, convert, guided
from minidistill.schedules import coefficients, cosine, rates, rectified_flow

CHECKS = [checks.check_convert, checks.check_as_denoiser, checks.check_guided, checks.check_as_velocity]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_ours_passes_with_any_seed(check, unchecked_shapes):
    for seed in range(2, 200):
        check(seed=seed)


def with_basis(**changed):
    """convert by the same 2x2 solve, with another (a, b) for some kinds."""

    def wrong(pred, z, t, schedule, source, target):
        alpha, sigma, d_alpha, d_sigma = (column(c, z).to(z) for c in (*schedule(t), *rates(schedule, t)))
        one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
        basis = {
            "x": (one, zero), "eps": (zero, one), "v": (-sigma, alpha), "velocity": (d_alpha, d_sigma),
            "score": (zero, -1 / sigma),
        }  # fmt: skip
        basis |= {kind: ab(alpha, sigma, d_alpha, d_sigma) for kind, ab in changed.items()}
        (a, b), (a_new, b_new) = basis[source], basis[target]
        determinant = alpha * b - sigma * a
        return ((alpha * b_new - sigma * a_new) * pred + (a_new * b - b_new * a) * z) / determinant

    return wrong


def v_by_the_variance_preserving_rule(pred, z, t, schedule, source, target):
    alpha, sigma = (column(c, z).to(z) for c in schedule(t))
    if (source, target) == ("v", "x"):
        return alpha * z - sigma * pred
    return convert(pred, z, t, schedule, source, target)


def only(pair, formula):
    """convert, with one pair of kinds replaced by a wrong formula of (pred, z, alpha, sigma)."""

    def wrong(pred, z, t, schedule, source, target):
        alpha, sigma = (column(c, z).to(z) for c in schedule(t))
        right = lambda: convert(pred, z, t, schedule, source, target)
        return formula(pred, z, alpha, sigma) if (source, target) == pair else right()

    return wrong


def inf_at_the_end(pred, z, t, schedule, source, target):
    """diffusers with epsilon and zero terminal SNR: inf, which clipping then turns into -1 and 1."""
    alpha, sigma = (column(c, z).to(z) for c in schedule(t))
    if (source, target) == ("eps", "x"):
        return ((z - sigma * pred) / alpha).nan_to_num()
    return convert(pred, z, t, schedule, source, target)


def when(bad, otherwise=convert):
    """convert, for which bad(source, target, alpha, sigma) times are those of t = 0.5: they are not refused."""

    def wrong(pred, z, t, schedule, source, target):
        alpha, sigma = schedule(t)
        t = torch.where(bad(source, target, alpha, sigma), 0.5 * torch.ones_like(t), t)
        return otherwise(pred, z, t, schedule, source, target)

    return wrong


def refuses_too(bad):
    """convert, which refuses more than it must."""

    def wrong(pred, z, t, schedule, source, target):
        if bad(pred, z, t, schedule, source, target):
            raise ValueError("too close to an end")
        return convert(pred, z, t, schedule, source, target)

    return wrong


def determinant(t, schedule, source):
    """alpha b - sigma a of the source."""
    if source == "score":
        source = "eps"
    alpha, sigma = schedule(t)
    a, b = parameterization.basis(source, schedule, t)
    return alpha * b - sigma * a


def any_shape(which):
    """convert, which broadcasts its prediction, z or t."""

    def wrong(pred, z, t, schedule, source, target):
        if "pred" in which and pred.ndim == z.ndim:
            pred, z = torch.broadcast_tensors(pred, z)
        if "t" in which:
            t = t.reshape(-1).expand(len(z)) if t.numel() in (1, len(z)) else t
        return convert(pred, z, t, schedule, source, target)

    return wrong


def denoiser_with(
    point=lambda z, r, sd: z / r,
    angle=lambda t, alpha, sigma, sd: torch.atan2(sigma, alpha * sd),
    answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - phi.sin() * f),
    radius=lambda alpha, sigma, sd: torch.hypot(alpha * sd, sigma),
    valid=lambda sd: sd > 0,
    like=lambda c, z: c.to(z.dtype),
    conditioned=lambda **conditioning: conditioning,
    flat=lambda phi: phi.flatten(),
    mean=0.0,
):
    """as_denoiser, with one of its pieces replaced."""

    def wrong(net, schedule, data_std=1.0, **conditioning):
        if not valid(data_std):
            raise ValueError("data_std must be positive")
        sd = data_std

        def denoiser(z, t):
            column = lambda c: like(c.reshape(-1, *[1] * (z.ndim - 1)), z)
            alpha, sigma = (column(c) for c in schedule(t))
            r, phi = radius(alpha, sigma, sd), angle(column(t), alpha, sigma, sd)
            f = net(point(z, r, sd), flat(phi), **conditioned(**conditioning))
            return answer(z, r, phi, f, sd)

        return denoiser

    return wrong


def by_v(formula):
    """as_denoiser, whose answer is another formula(alpha, sigma, z, z / r, F, data_std)."""

    def wrong(net, schedule, data_std=1.0, **conditioning):
        as_denoiser(net, schedule, data_std)  # refuses what ought to be refused

        def denoiser(z, t):
            alpha, sigma = coefficients(schedule, t, z)
            u = z / torch.hypot(alpha * data_std, sigma)
            f = net(u, torch.atan2(sigma, alpha * data_std).flatten(), **conditioning)
            return formula(alpha, sigma, z, u, f, data_std)

        return denoiser

    return wrong


def four_axes(net, schedule, data_std=1.0, **conditioning):
    """Images, and nothing else."""
    as_denoiser(net, schedule, data_std)

    def denoiser(z, t):
        alpha, sigma = (c.to(z).reshape(-1, 1, 1, 1) for c in schedule(t))
        r, phi = torch.hypot(alpha * data_std, sigma), torch.atan2(sigma, alpha * data_std)
        f = net(z / r, phi.flatten(), **conditioning)
        return data_std * (phi.cos() * z / r - phi.sin() * f)

    return denoiser


def angle_in_the_dtype_of_t(net, schedule, data_std=1.0, **conditioning):
    as_denoiser(net, schedule, data_std)

    def denoiser(z, t):
        alpha, sigma = coefficients(schedule, t, z)
        phi = torch.atan2(schedule(t)[1], schedule(t)[0] * data_std)
        r = torch.hypot(alpha * data_std, sigma)
        f = net(z / r, phi, **conditioning)
        return data_std * (alpha * data_std / r * z / r - sigma / r * f)

    return denoiser


def no_grad_denoiser(net, schedule, data_std=1.0, **conditioning):
    return torch.no_grad()(as_denoiser(net, schedule, data_std, **conditioning))


def changes(kind):
    """as_denoiser that works in place on what it is given."""

    def wrong(net, schedule, data_std=1.0, **conditioning):
        right = as_denoiser(net, schedule, data_std, **conditioning)

        def denoiser(z, t):
            x_hat = right(z, t)
            if kind == "z" and not z.requires_grad:
                z *= 0.5
            if kind == "t" and not t.requires_grad:
                t *= 0.5
            return x_hat

        return denoiser

    return wrong


def asserts(net, schedule, data_std=1.0, **conditioning):
    if not data_std > 0:
        raise AssertionError  # what assert does; pytest would add words
    return as_denoiser(net, schedule, data_std, **conditioning)


def wrapped(after, before=lambda z, t: (z, t)):
    """as_denoiser, with something done to z and t, or to x_hat."""
    return lambda net, schedule, data_std=1.0, **more: (
        lambda z, t: after(as_denoiser(net, schedule, data_std, **more)(*before(z, t)), z)
    )


def guide(formula, valid=True, points=lambda z, t: ((z, t), (z, t)), after=lambda x, z: x):
    """guided with another formula(conditional, unconditional, w) of the answers."""

    def wrong(conditional, unconditional, scale):
        if valid is True:
            guided(conditional, unconditional, scale)

        def denoiser(z, t):
            per_sample = isinstance(scale, torch.Tensor)
            if valid is True and per_sample and scale.shape != (len(z),):
                raise ValueError("one scale for each sample")
            w = scale.to(z.dtype).reshape(-1, *[1] * (z.ndim - 1)) if per_sample else scale
            one, other = points(z, t.to(z.dtype))
            return after(formula(conditional(*one), unconditional(*other), w), z)

        return denoiser

    return wrong


def limited(w, low=-math.inf, high=math.inf):
    return w.clamp(low, high) if isinstance(w, torch.Tensor) else min(max(w, low), high)


def lerped(c, u, w):
    return u + w * (c - u)


def velocity_with(formula, valid=lambda t: bool(((t > 0) & (t <= 1)).all()), asked=lambda z, t: (z, t)):
    """as_velocity with another formula of (z, x_hat, t)."""

    def wrong(f):
        def velocity(z, t):
            if not valid(t):
                raise ValueError("0 < t <= 1")
            return formula(z, f(*asked(z, t.to(z.dtype))), t.reshape(-1, *[1] * (z.ndim - 1)).to(z.dtype))

        return velocity

    return wrong


def squared(schedule):
    return lambda t: tuple(c**2 for c in schedule(t))


def last_denoiser(net, schedule, data_std=1.0, last={}, **conditioning):  # noqa: B006
    """All denoisers have the network, the schedule and the data_std of the last one."""
    last["one"] = as_denoiser(net, schedule, data_std, **conditioning)
    return lambda z, t: last["one"](z, t)


def first_angle(net, schedule, data_std=1.0, **conditioning):
    """The angles of the first call, for all that have as many samples."""
    first = {}

    def keep(u, phi, **more):
        return net(u, first.setdefault((len(u), u.dtype), phi.detach()), **more)

    return as_denoiser(keep, schedule, data_std, **conditioning)


def first_radius(net, schedule, data_std=1.0, **conditioning):
    first = {}

    def radius(alpha, sigma, sd):
        return first.setdefault((alpha.shape, alpha.dtype), torch.hypot(alpha * sd, sigma))

    return denoiser_with(radius=radius)(net, schedule, data_std, **conditioning)


def last_guided(conditional, unconditional, scale, last={}):  # noqa: B006
    last["one"] = guided(conditional, unconditional, scale)
    return lambda z, t: last["one"](z, t)


def slope(z, x, t):
    return (z - x) / t


CONVERT, DENOISER = checks.check_convert, checks.check_as_denoiser
GUIDED, VELOCITY = checks.check_guided, checks.check_as_velocity

# name: (check, wrong, what the first line of its error says); the kind of mistake in square brackets
MISTAKES = {
    "v = alpha eps + sigma x (25) [formula]": (CONVERT, with_basis(v=lambda alpha, sigma, *_: (sigma, alpha)), "x -> v .*a minus, not a plus"),
    "v = -(alpha eps - sigma x), undone on the way back [formula]": (
        CONVERT, with_basis(v=lambda alpha, sigma, *_: (sigma, -alpha)), "x -> v .*this is its negative",
    ),
    "v = sigma eps - alpha x: alpha and sigma swapped (29) [formula]": (
        CONVERT, with_basis(v=lambda alpha, sigma, *_: (-alpha, sigma)), "alpha and sigma are swapped",
    ),
    "v = eps - x [formula]": (CONVERT, with_basis(v=lambda alpha, *_: (-torch.ones_like(alpha), torch.ones_like(alpha))), "not eps - x"),
    "x = alpha z + sigma v (26) [formula]": (CONVERT, only(("v", "x"), lambda v, z, alpha, sigma: alpha * z + sigma * v), "v -> x .*a minus, not a plus"),
    "x from v, alpha and sigma swapped [formula]": (CONVERT, only(("v", "x"), lambda v, z, alpha, sigma: sigma * z - alpha * v), "v -> x .*swapped"),
    "eps = alpha v - sigma z (27) [formula]": (CONVERT, only(("v", "eps"), lambda v, z, alpha, sigma: alpha * v - sigma * z), "v -> eps .*a plus, not a minus"),
    "eps from v without its division [formula]": (
        CONVERT, only(("v", "eps"), lambda v, z, alpha, sigma: alpha * v + sigma * z), "v -> eps .*division by alpha\\^2 \\+ sigma\\^2",
    ),
    "alpha_bar for its root (30) [formula]": (
        CONVERT, only(("eps", "x"), lambda eps, z, alpha, sigma: (z - sigma**2 * eps) / alpha**2), "eps -> x .*not their squares",
    ),
    "eps -> x not divided by alpha [formula]": (CONVERT, only(("eps", "x"), lambda eps, z, alpha, sigma: z - sigma * eps), "eps -> x .*division by alpha is missing"),
    "eps -> x, the noise added [formula]": (CONVERT, only(("eps", "x"), lambda eps, z, alpha, sigma: (z + sigma * eps) / alpha), "eps -> x .*subtracted, not added"),
    "x -> eps not divided by sigma [formula]": (CONVERT, only(("x", "eps"), lambda x, z, alpha, sigma: z - alpha * x), "x -> eps .*division by sigma is missing"),
    "x -> eps with squares [formula]": (
        CONVERT, only(("x", "eps"), lambda x, z, alpha, sigma: (z - alpha**2 * x) / sigma**2), "x -> eps .*not their squares",
    ),
    "v's inverse on a schedule where alpha^2 + sigma^2 is not 1 (31) [formula]": (
        CONVERT, v_by_the_variance_preserving_rule, "v -> x on edm .*division by alpha\\^2 \\+ sigma\\^2 is missing",
    ),
    "flow velocity x - eps (32) [formula]": (
        CONVERT, with_basis(velocity=lambda alpha, sigma, d_alpha, d_sigma: (-d_alpha, -d_sigma)), "dz / dt, and this is its negative",
    ),
    "flow velocity eps - x on every schedule [argument]": (
        CONVERT, with_basis(velocity=lambda alpha, *_: (-torch.ones_like(alpha), torch.ones_like(alpha))), "eps - x for rectified flow only",
    ),
    "velocity is v [formula]": (CONVERT, with_basis(velocity=lambda alpha, sigma, *_: (-sigma, alpha)), "alpha' x \\+ sigma' eps, not v"),
    "velocity with x and eps swapped [formula]": (
        CONVERT, with_basis(velocity=lambda alpha, sigma, d_alpha, d_sigma: (d_sigma, d_alpha)), "here x and eps are swapped",
    ),
    "velocity read by rectified flow's rule [argument]": (
        CONVERT, lambda u, z, t, schedule, source, target: (
            z - column(t, z).to(z) * u if (source, target) == ("velocity", "x") else convert(u, z, t, schedule, source, target)
        ), "velocity -> x .*right for rectified flow only",
    ),
    "score without its sigma [formula]": (
        CONVERT, with_basis(score=lambda alpha, *_: (torch.zeros_like(alpha), -torch.ones_like(alpha))), "x -> score .*sigma is missing",
    ),
    "score without its minus [formula]": (CONVERT, with_basis(score=lambda alpha, sigma, *_: (0 * alpha, 1 / sigma)), "x -> score .*the minus is missing"),
    "score over the variance [formula]": (CONVERT, with_basis(score=lambda alpha, sigma, *_: (0 * alpha, -1 / sigma**2)), "x -> score .*not -eps / sigma\\^2"),
    "score times sigma [formula]": (CONVERT, with_basis(score=lambda alpha, sigma, *_: (0 * alpha, -sigma)), "x -> score .*not times sigma"),
    "score read without its minus [formula]": (CONVERT, only(("score", "x"), lambda s, z, alpha, sigma: (z - sigma**2 * s) / alpha), "score -> x .*its minus is missing"),
    "score read without its sigma [formula]": (CONVERT, only(("score", "x"), lambda s, z, alpha, sigma: (z + sigma * s) / alpha), "score -> x .*its sigma is missing"),
    "Tweedie without alpha [formula]": (CONVERT, only(("score", "x"), lambda s, z, alpha, sigma: z + sigma**2 * s), "score -> x .*division by alpha is missing"),
    "velocity -> v wrong alone [formula]": (CONVERT, only(("velocity", "v"), lambda u, *_: u), "velocity -> v on cosine is wrong"),
    "epsilon with zero terminal SNR: inf, hidden [end]": (CONVERT, inf_at_the_end, "eps -> x at t = 1, all, must be refused"),
    "'sample' predictions taken for eps [formula]": (CONVERT, only(("x", "eps"), lambda x, *_: x), "x -> eps .*has not changed"),
    "eps taken for x [formula]": (CONVERT, only(("eps", "x"), lambda eps, *_: eps), "eps -> x .*has not changed"),
    "refuses only when all times are singular [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: (
            convert(pred, z, t, schedule, source, target)
            if (schedule(t)[0] * schedule(t)[1] == 0).all()
            else convert(pred, z, t.clamp(1e-9, 1 - 1e-9) if schedule(t)[0].min() == 0 and source != "v" and source != "x" else t, schedule, source, target)
        ),
        "eps -> x at t = 1, one of the times, must be refused",
    ),
    "one singular time at the data accepted [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, t.clamp(min=1e-9) if source == "x" and target != "x" and (t > 0).any() else t, schedule, source, target
        ),
        "x -> eps at t = 0, one of the times, must be refused",
    ),
    "the score's source accepted at sigma = 0 [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, t.clamp(min=1e-9) if source == "score" else t, schedule, source, target
        ),
        "score -> x at t = 0, all, must be refused",
    ),
    "the score accepted at sigma = 0 [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, t.clamp(min=1e-9) if target == "score" else t, schedule, source, target
        ),
        "v -> score at t = 0, all, must be refused",
    ),
    "the sigmoid's infinite velocity accepted [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, t.clamp(min=1e-9) if target == "velocity" else t, schedule, source, target
        ),
        "velocity of the sigmoid is infinite",
    ),
    "eps says nothing about v: accepted [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, t.clamp(max=1 - 1e-9) if (source, target) == ("eps", "v") else t, schedule, source, target
        ),
        "eps -> v at t = 1, all, must be refused",
    ),
    "refuses small noise [refusal]": (
        CONVERT, refuses_too(lambda pred, z, t, schedule, *_: (schedule(t)[1] < 0.05).any()), "must not be refused",
    ),
    "sigma below 0.05 is 0 [end]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, torch.where(schedule(t)[1] < 0.05, 0 * t, t), schedule, source, target
        ),
        "close to an end it still exists",
    ),
    "refuses a determinant below 1e-4 [refusal]": (
        CONVERT,
        refuses_too(lambda pred, z, t, schedule, source, target: source != target and (determinant(t, schedule, source).abs() < 1e-4).any() and (determinant(t, schedule, source) != 0).all()),
        "x -> eps at t = 1e-06 is valid and must not be refused",
    ),
    "refuses v at the ends [refusal]": (
        CONVERT, refuses_too(lambda pred, z, t, schedule, source, target: (schedule(t)[0] == 0).any()), "v -> x at t = 1 is valid and must not be refused",
    ),
    "x -> eps refused at t = 1 [refusal]": (
        CONVERT, refuses_too(lambda pred, z, t, schedule, source, target: source == "x" and (t == 1).any()), "x -> eps at t = 1 is valid",
    ),
    "v at t = 1 asked at 1 - 1e-5 [end]": (
        CONVERT, lambda pred, z, t, schedule, *kinds: convert(pred, z, t.clamp(1e-5, 1 - 1e-5) if schedule is cosine and kinds[0] == "v" else t, schedule, *kinds), "At t = 1, v = -x",
    ),
    "alpha clamped at 1e-3 [end]": (
        CONVERT, only(("eps", "x"), lambda eps, z, alpha, sigma: (z - sigma * eps) / alpha.clamp(min=1e-3)), "close to an end it still exists, and is not cut off",
    ),
    "sigma clamped at 1e-3 [end]": (
        CONVERT, only(("x", "eps"), lambda x, z, alpha, sigma: (z - alpha * x) / sigma.clamp(min=1e-3)), "close to an end it still exists, and is not cut off",
    ),
    "1e-6 in the denominator [end]": (
        CONVERT, only(("eps", "x"), lambda eps, z, alpha, sigma: (z - sigma * eps) / (alpha + 1e-6)), "no further",
    ),
    "an unknown source is x [refusal]": (
        CONVERT, lambda pred, z, t, schedule, source, target: convert(pred, z, t, schedule, source if source in checks.KINDS else "x", target), "noise -> v: an unknown kind",
    ),
    "an unknown target is x [refusal]": (
        CONVERT, lambda pred, z, t, schedule, source, target: convert(pred, z, t, schedule, source, target if target in checks.KINDS else "x"), "v -> noise: an unknown kind",
    ),
    "equal kinds are not looked at [refusal]": (
        CONVERT, lambda pred, z, t, schedule, source, target: pred if source == target else convert(pred, z, t, schedule, source, target), "noise -> noise: an unknown kind",
    ),
    "a KeyError for an unknown kind [refusal]": (
        CONVERT,
        lambda pred, z, t, schedule, source, target: convert(pred, z, t, schedule, {k: k for k in checks.KINDS}[source], {k: k for k in checks.KINDS}[target]),
        "With ValueError, not KeyError",
    ),
    "a prediction of another shape [refusal]": (CONVERT, any_shape("pred"), "A prediction \\(4, 1, 4, 4\\) for z"),
    "one time for all [refusal]": (CONVERT, any_shape("t"), "Times \\(1,\\) for four samples must be refused"),
    "times of any shape [refusal]": (
        CONVERT, lambda pred, z, t, *kinds: convert(pred, z, t if t.ndim == 1 else t.reshape(-1).expand(len(z)), *kinds), "Times \\(\\) for four samples",
    ),
    "always float64 [precision]": (
        CONVERT, lambda pred, z, t, *kinds: convert(pred.double(), z.double(), t.double(), *kinds), "has the dtype of the data",
    ),
    "always float32 [precision]": (CONVERT, lambda pred, z, t, *kinds: convert(pred.float(), z.float(), t.float(), *kinds), "no further"),
    "the dtype of the times [precision]": (CONVERT, lambda pred, z, t, *kinds: convert(pred.to(t), z.to(t), t, *kinds), "has the dtype of the data"),
    "the narrower dtype [precision]": (
        CONVERT, lambda pred, z, t, *kinds: convert(pred, z, t, *kinds).to(t.dtype if t.dtype == torch.float32 else pred.dtype), "also where t is float32",
    ),
    "images only [shape]": (
        CONVERT,
        lambda pred, z, t, *kinds: convert(pred, z, t, *kinds) if z.ndim == 4 else torch.stack([convert(pred, z, t, *kinds)] * 1).squeeze(1),
        "The shape must be \\(4, 2\\)",
    ),
    "the gradient is lost [gradient]": (CONVERT, lambda *a: convert(*a).detach(), "the gradient must pass to the prediction"),
    "t without a gradient [gradient]": (CONVERT, lambda pred, z, t, *kinds: convert(pred, z, t.detach(), *kinds), "the gradient must pass to t"),
    "z without a gradient [gradient]": (CONVERT, lambda pred, z, t, *kinds: convert(pred, z.detach(), t, *kinds), "the gradient must pass to z"),
    "as_denoiser: EDM's F used as v (28) [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r + phi.sin() * f)), "the sign of F is a minus, as EDM's network is -F",
    ),
    "as_denoiser: c_in forgotten [formula]": (DENOISER, denoiser_with(point=lambda z, r, sd: z), "sees z / r .*here it sees z"),
    "as_denoiser: c_in squared [formula]": (DENOISER, denoiser_with(point=lambda z, r, sd: z / r**2), "the root is missing"),
    "as_denoiser: c_in upside down [formula]": (DENOISER, denoiser_with(point=lambda z, r, sd: z * r), "z times r"),
    "as_denoiser: c_in times data_std [formula]": (DENOISER, denoiser_with(point=lambda z, r, sd: sd * z / r), "multiplied by data_std"),
    "as_denoiser: c_in over data_std [formula]": (DENOISER, denoiser_with(point=lambda z, r, sd: z / r / sd), "divided by data_std"),
    "as_denoiser: r without data_std [formula]": (DENOISER, denoiser_with(radius=lambda a, s, sd: torch.hypot(a, s)), "data_std is missing in r"),
    "as_denoiser: r is a sum [formula]": (DENOISER, denoiser_with(radius=lambda a, s, sd: a * sd + s), "r is alpha data_std \\+ sigma"),
    "as_denoiser: data_std not squared in r [formula]": (DENOISER, denoiser_with(radius=lambda a, s, sd: (a**2 * sd + s**2).sqrt()), "data_std is not squared in r"),
    "as_denoiser: conditioned on t, not on the noise level (P14) [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: t), "here it sees t"),
    "as_denoiser: conditioned on sigma [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: s), "here it sees sigma"),
    "as_denoiser: the angle without data_std [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan2(s, a)), "data_std is missing"),
    "as_denoiser: data_std on sigma [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan2(s * sd, a)), "data_std is on sigma"),
    "as_denoiser: atan2's arguments swapped [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan2(a * sd, s)), "pi / 2 - phi"),
    "as_denoiser: the cosine for the angle [formula]": (
        DENOISER, denoiser_with(angle=lambda t, a, s, sd: a * sd / torch.hypot(a * sd, s)), "here it is its cosine",
    ),
    "as_denoiser: the sine for the angle [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: s / torch.hypot(a * sd, s)), "here it is its sine"),
    "as_denoiser: a share of pi / 2 [formula]": (
        DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan2(s, a * sd) / (math.pi / 2)), "the share of pi / 2",
    ),
    "as_denoiser: the negative angle [formula]": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: -torch.atan2(s, a * sd)), "here it is its negative"),
    "as_denoiser: data_std ignored [argument]": (
        DENOISER, lambda net, schedule, data_std=1.0, **c: as_denoiser(net, schedule, 1.0 if data_std > 0 else data_std, **c), "data_std is missing",
    ),
    "as_denoiser: data_std is always 0.5 [argument]": (
        DENOISER, lambda net, schedule, data_std=1.0, **c: as_denoiser(net, schedule, 0.5 if data_std > 0 else data_std, **c), "The network sees the angle phi",
    ),
    "as_denoiser: data_std is 0.5 by default [argument]": (
        DENOISER, lambda net, schedule, data_std=0.5, **c: as_denoiser(net, schedule, data_std, **c), "Without data_std it is 1",
    ),
    "as_denoiser: data_std in front forgotten [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: phi.cos() * z / r - phi.sin() * f), "data_std in front is missing",
    ),
    "as_denoiser: data_std on the first term [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * phi.cos() * z / r - phi.sin() * f), "in front of both terms",
    ),
    "as_denoiser: data_std on the second term [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: phi.cos() * z / r - sd * phi.sin() * f), "in front of both terms, here of F alone",
    ),
    "as_denoiser: divided by data_std [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: (phi.cos() * z / r - phi.sin() * f) / sd), "in front, not below",
    ),
    "as_denoiser: cosine and sine swapped [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.sin() * z / r - phi.cos() * f)), "cosine and sine are swapped",
    ),
    "as_denoiser: z in the place of z / r [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z - phi.sin() * f)), "z is not divided by r",
    ),
    "as_denoiser: F itself [formula]": (DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: f), "here it is F itself"),
    "as_denoiser: F in units of the data [formula]": (DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * f), "here it is data_std F"),
    "as_denoiser: the noise [formula]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: phi.sin() * z / r + phi.cos() * f), "this is the noise",
    ),
    "as_denoiser: F left out [formula]": (DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * phi.cos() * z / r), "F is left out"),
    "as_denoiser: alpha z - sigma F [formula]": (DENOISER, by_v(lambda a, s, z, u, f, sd: a * z - s * f), "only when divided by r"),
    "as_denoiser: alpha and sigma for cosine and sine [formula]": (
        DENOISER, by_v(lambda a, s, z, u, f, sd: sd * (a * u - s * f)), "are not the cosine and the sine",
    ),
    "as_denoiser: x_hat = (z - sigma eps) / alpha, nan at t = 1 [end]": (
        DENOISER,
        by_v(lambda a, s, z, u, f, sd: (z - s * (s * u + a * sd * f) / torch.hypot(a * sd, s)) / a),
        "inf or nan at t = 1, where alpha is 0: never divide by alpha",
    ),
    "as_denoiser: x_hat at t = 1 asked at 1 - 1e-4 [end]": (
        DENOISER, wrapped(lambda x, z: x, lambda z, t: (z, torch.where(t == 1, t - 1e-4, t))), "also at the ends, t = 1 and t = 0: is one clamped",
    ),
    "as_denoiser: z itself at sigma = 0 [end]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: torch.where(phi == 0, z + 0.1, sd * (phi.cos() * z / r - phi.sin() * f))), "x_hat = data_std .*also at the ends, t = 1 and t = 0",
    ),
    "as_denoiser: divided by sigma [end]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - phi.sin() ** 2 * f / phi.sin())), "inf or nan at t = 0, where sigma is 0",
    ),
    "as_denoiser: sigma clamped at 1e-3 [end]": (
        DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan2(s.clamp(min=1e-3), a * sd)), "also at the ends, t = 1 and t = 0: is one clamped",
    ),
    "as_denoiser: x_hat clipped to [-1, 1] [formula]": (DENOISER, wrapped(lambda x, z: x.clamp(-1, 1)), "here it is clipped"),
    "as_denoiser: phi keeps z's axes [shape]": (DENOISER, denoiser_with(flat=lambda phi: phi), "one time for each sample"),
    "as_denoiser: phi is a number [shape]": (DENOISER, denoiser_with(flat=lambda phi: phi.flatten()[0]), "one time for each sample"),
    "as_denoiser: images only [shape]": (DENOISER, four_axes, "The shape must be \\(4, 2\\)"),
    "as_denoiser: the first sample's time for all [shape]": (
        DENOISER, wrapped(lambda x, z: x, lambda z, t: (z, t[:1].expand(len(t)))), "all samples have the first one's",
    ),
    "as_denoiser: one sample for all [shape]": (DENOISER, wrapped(lambda x, z: x[:1]), "x_hat has z's shape"),
    "as_denoiser: the mean over the samples [shape]": (DENOISER, wrapped(lambda x, z: x.mean(0, keepdim=True).expand_as(x)), "x_hat is inf|x_hat = data_std"),
    "as_denoiser: float64 out for float32 in [precision]": (DENOISER, wrapped(lambda x, z: x.double()), "x_hat has the dtype of the data"),
    "as_denoiser: nothing cast [precision]": (DENOISER, denoiser_with(like=lambda c, z: c), "x_hat has the dtype of the data"),
    "as_denoiser: the angle in the dtype of t [precision]": (
        DENOISER, angle_in_the_dtype_of_t, "A network gets t in the dtype of z",
    ),
    "as_denoiser: the angle always float32 [precision]": (DENOISER, denoiser_with(flat=lambda phi: phi.flatten().float()), "A network gets t in the dtype of z"),
    "as_denoiser: always float32 [precision]": (DENOISER, wrapped(lambda x, z: x.to(z), lambda z, t: (z.float(), t.float())), "no further"),
    "as_denoiser: the narrower dtype [precision]": (
        DENOISER, lambda net, schedule, data_std=1.0, **c: lambda z, t: as_denoiser(net, schedule, data_std, **c)(z, t).to(t if t.dtype == torch.float32 else z), "also where t is float32",
    ),
    "as_denoiser: conditioning copied [argument]": (
        DENOISER, denoiser_with(conditioned=lambda **c: {k: v.clone() for k, v in c.items()}), "as it is",
    ),
    "as_denoiser: conditioning dropped [argument]": (DENOISER, denoiser_with(conditioned=lambda **c: {}), "Pass \\*\\*conditioning on to the network"),
    "as_denoiser: labels alone [argument]": (DENOISER, denoiser_with(conditioned=lambda **c: {k: v for k, v in c.items() if k == "label"}), "label and past, and it got \\['label'\\]"),
    "as_denoiser: under no_grad [gradient]": (DENOISER, no_grad_denoiser, "The gradient must reach the network"),
    "as_denoiser: detached [gradient]": (DENOISER, wrapped(lambda x, z: x.detach()), "The gradient must reach the network"),
    "as_denoiser: the network's answer detached [gradient]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - phi.sin() * f.detach())), "The gradient must reach the network",
    ),
    "as_denoiser: the network's input detached [gradient]": (DENOISER, denoiser_with(point=lambda z, r, sd: (z / r).detach()), "The gradient must reach z"),
    "as_denoiser: t detached [gradient]": (DENOISER, wrapped(lambda x, z: x, lambda z, t: (z, t.detach())), "The gradient must reach t"),
    "as_denoiser: the angle detached [gradient]": (DENOISER, denoiser_with(flat=lambda phi: phi.flatten().detach()), "The gradient must reach t"),
    "as_denoiser: data_std 0 accepted [refusal]": (DENOISER, denoiser_with(valid=lambda sd: sd >= 0), "data_std = 0.0 must be refused"),
    "as_denoiser: only data_std 0 refused [refusal]": (DENOISER, denoiser_with(valid=lambda sd: sd != 0), "data_std = -0.5 must be refused"),
    "as_denoiser: nan accepted [refusal]": (DENOISER, denoiser_with(valid=lambda sd: not sd <= 0), "data_std = nan must be refused"),
    "as_denoiser: nothing refused [refusal]": (DENOISER, denoiser_with(valid=lambda sd: True), "data_std = 0.0 must be refused"),
    "as_denoiser: an assert [refusal]": (DENOISER, asserts, "With ValueError, not an assert"),
    "as_denoiser: data_std above 1 refused [refusal]": (DENOISER, denoiser_with(valid=lambda sd: 0 < sd <= 1), "data_std = 1.7 is valid"),
    "as_denoiser: changes z [argument]": (DENOISER, changes("z"), "z and t must stay as they are"),
    "as_denoiser: changes t [argument]": (DENOISER, changes("t"), "z and t must stay as they are"),
    "as_denoiser: the network is not asked [constant]": (DENOISER, lambda net, schedule, data_std=1.0, **c: as_denoiser(lambda u, phi, **_: 0 * u, schedule, data_std), "The network must be asked"),
    "guidance of Ho & Salimans' w = scale - 1 [formula]": (GUIDED, lambda c, u, scale: guided(c, u, 1 + scale), "one too much"),
    "guidance: one too little [formula]": (GUIDED, lambda c, u, scale: guided(c, u, scale - 1), "one too little"),
    "guidance swapped [formula]": (GUIDED, lambda c, u, scale: guided(u, c, scale), "here the two are swapped"),
    "guidance: from the conditional one [formula]": (GUIDED, guide(lambda c, u, w: c + w * (c - u)), "one too much"),
    "guidance: the unconditional one missing in front [formula]": (GUIDED, guide(lambda c, u, w: w * (c - u)), "missing in front"),
    "guidance: the conditional one alone [constant]": (GUIDED, guide(lambda c, u, w: c), "here the scale is 1"),
    "guidance: the unconditional one alone [constant]": (GUIDED, guide(lambda c, u, w: u), "here the scale is 0|here the scale is -?\\d.*e-"),
    "guidance: a scale above 1 is clipped [argument]": (GUIDED, guide(lambda c, u, w: lerped(c, u, limited(w, high=1.0))), "Scale 3: .*here the scale is 1"),
    "guidance: clipped to [0, 3] [argument]": (GUIDED, guide(lambda c, u, w: lerped(c, u, limited(w, 0.0, 3.0))), "Scale -0.7: .*here the scale is"),
    "guidance: clipped at 5 [argument]": (GUIDED, guide(lambda c, u, w: lerped(c, u, limited(w, high=5.0))), "Scale 7.5: .*here the scale is 5"),
    "guidance: the sign of the scale lost [argument]": (GUIDED, guide(lambda c, u, w: lerped(c, u, abs(w))), "Scale -0.7: .*here the scale is 0.7"),
    "guidance: detached [gradient]": (GUIDED, guide(lambda c, u, w: lerped(c, u, w).detach()), "The gradient must reach both"),
    "guidance: the unconditional one detached [gradient]": (GUIDED, guide(lambda c, u, w: lerped(c, u.detach(), w)), "The gradient must reach both"),
    "guidance: the conditional one detached [gradient]": (GUIDED, guide(lambda c, u, w: lerped(c.detach(), u, w)), "The gradient must reach both"),
    "guidance: the unconditional one at z = 0 [argument]": (
        GUIDED, guide(lerped, points=lambda z, t: ((z, t), (0 * z, t))), "The unconditional denoiser is asked at the same z",
    ),
    "guidance: the conditional one at another z [argument]": (
        GUIDED, guide(lerped, points=lambda z, t: ((z * 1.01, t), (z, t))), "The conditional denoiser is asked at the same z",
    ),
    "guidance: the unconditional one at t = 1 [argument]": (
        GUIDED, guide(lerped, points=lambda z, t: ((z, t), (z, torch.ones_like(t)))), "The unconditional denoiser is asked at the same t",
    ),
    "guidance: one time for all [shape]": (GUIDED, guide(lerped, points=lambda z, t: ((z, t[:1]), (z, t))), "one time for each sample"),
    "guidance: a scale per sample over the width [shape]": (
        GUIDED, lambda c, u, scale: guided(c, u, scale) if not isinstance(scale, torch.Tensor) else lambda z, t: lerped(c(z, t), u(z, t), scale), "Scale one for each sample",
    ),
    "guidance: the mean of the scales [argument]": (
        GUIDED, lambda c, u, scale: guided(c, u, scale.mean().item() if isinstance(scale, torch.Tensor) and scale.shape == (4,) else scale), "Scale one for each sample: .*here the scale is 1.15",
    ),
    "guidance: no scale per sample [argument]": (
        GUIDED, lambda c, u, scale: guided(c, u, parameterization.need.number("scale", scale)), "scale one for each sample is valid",
    ),
    "guidance: the times are not cast [precision]": (
        GUIDED, lambda c, u, scale: lambda z, t: lerped(c(z, t), u(z, t), scale.reshape(-1, *[1] * (z.ndim - 1)) if isinstance(scale, torch.Tensor) else scale),
        "A network gets t in the dtype of z",
    ),
    "guidance: the result in the dtype of the scale [precision]": (
        GUIDED, guide(lambda c, u, w: lerped(c, u, w.double() if isinstance(w, torch.Tensor) else w)), "has the dtype of the data",
    ),
    "guidance: always float32 [precision]": (GUIDED, guide(lerped, after=lambda x, z: x.float().to(z)), "no further"),
    "guidance: always float64 [precision]": (GUIDED, guide(lerped, after=lambda x, z: x.double()), "has the dtype of the data"),
    "guidance: nan accepted [refusal]": (GUIDED, guide(lerped, valid=False), "A scale nan must be refused"),
    "guidance: infinite scale accepted [refusal]": (
        GUIDED, lambda c, u, scale: guided(c, u, 1e9 if scale is math.inf else scale), "A scale inf must be refused",
    ),
    "guidance: three scales for four samples [refusal]": (
        GUIDED, lambda c, u, scale: guided(c, u, scale[:1].expand(4) if isinstance(scale, torch.Tensor) and scale.shape == (3,) else scale), "A scale of shape \\(3,\\)",
    ),
    "guidance: scales with an axis more [refusal]": (
        GUIDED, lambda c, u, scale: guided(c, u, scale.flatten() if isinstance(scale, torch.Tensor) else scale), "A scale of shape \\(4, 1\\)",
    ),
    "velocity x - eps [formula]": (VELOCITY, velocity_with(lambda z, x, t: -slope(z, x, t)), "x - eps, its negative"),
    "velocity z - x_hat [formula]": (VELOCITY, velocity_with(lambda z, x, t: z - x), "the division by t is missing"),
    "velocity times t [formula]": (VELOCITY, velocity_with(lambda z, x, t: (z - x) * t), "z - x_hat times t"),
    "velocity over 1 - t [formula]": (VELOCITY, velocity_with(lambda z, x, t: (z - x) / (1 - t)), "divided by 1 - t"),
    "velocity is eps_hat [formula]": (VELOCITY, velocity_with(lambda z, x, t: (z - (1 - t) * x) / t), "this is eps_hat"),
    "velocity divided by t over the width [shape]": (
        VELOCITY, velocity_with(lambda z, x, t: (z - x) / t.flatten()), "t is broadcast along the width",
    ),
    "velocity: images only [shape]": (VELOCITY, lambda f: lambda z, t: as_velocity(f)(z, t) if z.ndim == 4 else as_velocity(f)(z, t)[None], "The shape must be"),
    "velocity: small times clamped [end]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t.clamp(min=1e-3))), "a small time is not clamped"),
    "velocity: small times clamped at 0.01 [end]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t.clamp(min=0.01))), "a small time is not clamped"),
    "velocity: 1e-8 added to t [end]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t + 1e-8)), "or is something added"),
    "velocity: detached [gradient]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x.detach(), t)), "The gradient must reach the network"),
    "velocity: under no_grad [gradient]": (VELOCITY, lambda f: torch.no_grad()(as_velocity(f)), "The gradient must reach the network"),
    "velocity: asked at z / 2 [argument]": (VELOCITY, velocity_with(slope, asked=lambda z, t: (z / 2, t)), "asked at z itself"),
    "velocity: asked at 1 - t [argument]": (VELOCITY, velocity_with(slope, asked=lambda z, t: (z, 1 - t)), "asked at t itself"),
    "velocity: asked at one time [shape]": (VELOCITY, velocity_with(slope, asked=lambda z, t: (z, t[:1])), "one time for each sample"),
    "velocity: not asked [constant]": (VELOCITY, lambda f: as_velocity(lambda z, t: 0 * z), "must be asked"),
    "velocity: times are not cast [precision]": (VELOCITY, lambda f: lambda z, t: ((z - f(z, t)) / column(t, z)).to(z) if (as_velocity(lambda z, t: z)(z, t) == 0).all() else z, "A network gets t in the dtype of z"),
    "velocity: in the dtype of the times [precision]": (VELOCITY, lambda f: lambda z, t: as_velocity(f)(z, t).to(t.dtype), "has the dtype of the data"),
    "velocity: computed in float32 [precision]": (VELOCITY, lambda f: lambda z, t: as_velocity(lambda z, t: f(z.double(), t.double()).float())(z.float(), t).to(z), "no further"),
    "velocity: t = 0 accepted [refusal]": (VELOCITY, velocity_with(slope, valid=lambda t: bool(((t >= 0) & (t <= 1)).all())), "t = 0 for one of the samples must be refused"),
    "velocity: refused only if all times are 0 [refusal]": (
        VELOCITY, velocity_with(slope, valid=lambda t: bool((t > 0).any())), "t = 0 for one of the samples must be refused",
    ),
    "velocity: negative times accepted [refusal]": (VELOCITY, velocity_with(slope, valid=lambda t: bool(((t != 0) & (t <= 1)).all())), "t = -0.1 for one of the samples"),
    "velocity: times above 1 accepted [refusal]": (VELOCITY, velocity_with(slope, valid=lambda t: bool((t > 0).all())), "t = 1.5 for one of the samples"),
    "velocity: nan accepted [refusal]": (VELOCITY, velocity_with(slope, valid=lambda t: not bool(((t <= 0) | (t > 1)).any())), "t = nan for one of the samples"),
    "velocity: t = 1 refused [refusal]": (VELOCITY, velocity_with(slope, valid=lambda t: bool(((t > 0) & (t < 1)).all())), "is valid and must not be refused"),
    "convert: source and target swapped [formula]": (CONVERT, lambda pred, z, t, f, source, target: convert(pred, z, t, f, target, source), "source and target are swapped"),
    "convert: v clipped [end]": (CONVERT, lambda *a: convert(*a).clamp(-20, 20), "clipped at 20"),
    "convert: alpha and sigma squared [formula]": (CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, f if "x" == kinds[0] == kinds[1] else squared(f), *kinds), "not their squares"),
    "convert: v read, alpha and sigma squared [formula]": (
        CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, squared(f) if kinds == ("v", "velocity") else f, *kinds), "v -> velocity on .*not their squares",
    ),
    "convert: always cosine [argument]": (CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, cosine, *kinds), "the schedule is cosine"),
    "convert: always rectified flow [argument]": (CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, rectified_flow, *kinds), "the schedule is rectified_flow"),
    "convert: the sign of what is read from the velocity [formula]": (
        CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, f, *kinds) * (-1 if kinds == ("velocity", "score") else 1), "velocity -> score .*The sign is wrong",
    ),
    "convert: v -> velocity is x [formula]": (CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t, f, kinds[0], "x" if kinds == ("v", "velocity") else kinds[1]), "This is x"),
    "convert: nothing looked at where the kinds are equal [refusal]": (
        CONVERT, lambda pred, z, t, f, source, target: pred if source == target and source in checks.KINDS else convert(pred, z, t, f, source, target), "A prediction \\(4, 1, 4, 4\\) for z",
    ),
    "convert: z of another shape with as many entries [refusal]": (
        CONVERT, lambda pred, z, t, *a: convert(pred.reshape(z.shape) if pred.numel() == z.numel() else pred, z, t, *a), "A prediction \\(4, 2, 8, 4\\) for z",
    ),
    "convert: the rates detached [gradient]": (CONVERT, lambda pred, z, t, f, *kinds: convert(pred, z, t.detach() if kinds == ("x", "velocity") else t, f, *kinds), "x -> velocity: the gradient must pass to t"),
    "as_denoiser: t at most 1 [argument]": (DENOISER, wrapped(lambda x, z: x, lambda z, t: (z, t.clamp(max=1))), "t is clamped at 1"),
    "as_denoiser: z / r clipped at 3 [end]": (DENOISER, denoiser_with(point=lambda z, r, sd: (z / r).clamp(-3, 3)), "sees z / r .*clipped at 3"),
    "as_denoiser: x_hat clipped at 20 [end]": (DENOISER, wrapped(lambda x, z: x.clamp(-20, 20)), "x_hat .*clipped at 20"),
    "as_denoiser: r at least 0.1 [end]": (DENOISER, denoiser_with(radius=lambda a, s, sd: torch.hypot(a * sd, s).clamp(min=0.1)), "sees z / r .*is one clamped"),
    "as_denoiser: r at least 1e-3 [end]": (DENOISER, denoiser_with(radius=lambda a, s, sd: torch.hypot(a * sd, s).clamp(min=1e-3)), "sees z / r .*is one clamped"),
    "as_denoiser: a small sine is 0 [end]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - torch.where(phi.sin() < 1e-3, 0 * phi, phi.sin()) * f)), "x_hat .*where nothing is cut off",
    ),
    "as_denoiser: F left out at small angles [end]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - phi.sin() * torch.where(phi < 0.05, 0 * f, f))), "x_hat .*where nothing is cut off",
    ),
    "as_denoiser: sample by sample, with all conditioning [argument]": (
        DENOISER, lambda net, f, sd=1.0, **c: lambda z, t: torch.cat([as_denoiser(net, f, sd, **c)(z[i : i + 1], t[i : i + 1]) for i in range(len(z))]), "Four samples have four labels",
    ),
    "as_denoiser: phi squeezed [shape]": (DENOISER, denoiser_with(flat=lambda phi: phi.squeeze()), "one time for each sample"),
    "as_denoiser: the last one for all [argument]": (DENOISER, last_denoiser, "each keeps its own net"),
    "as_denoiser: the first angle for ever [argument]": (DENOISER, first_angle, "kept of the call before"),
    "as_denoiser: the first r for ever [argument]": (DENOISER, first_radius, "kept of the call before"),
    "as_denoiser: small data_std refused [refusal]": (DENOISER, denoiser_with(valid=lambda sd: sd > 1e-3), "data_std = 0.0005 is valid"),
    "as_denoiser: conditioning cast [argument]": (DENOISER, denoiser_with(conditioned=lambda **c: {k: v.float() for k, v in c.items()}), "is a copy, cast, or detached"),
    "as_denoiser: conditioning detached [gradient]": (DENOISER, denoiser_with(conditioned=lambda **c: {k: v.detach() for k, v in c.items()}), "is a copy, cast, or detached"),
    "as_denoiser: no return [shape]": (DENOISER, lambda net, f, data_std=1.0, **c: None, "a function denoiser\\(z, t\\), and no NoneType"),
    "as_denoiser: the answer changed in place [argument]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: sd * (phi.cos() * z / r - (f.mul_(phi.sin()) if not f.requires_grad else f * phi.sin()))), "What the network answers must stay",
    ),
    "as_denoiser: nan gradients at t = 1 [gradient]": (
        DENOISER, denoiser_with(answer=lambda z, r, phi, f, sd: torch.where(phi.cos() < 1e-9, -sd * f, sd * phi.cos() * (z / r - (phi.sin() / phi.cos().where(phi.cos() > 1e-9, 0.0)) * f))), "The gradient to the network is inf or nan",
    ),
    "guidance: one scale of shape (1,) [refusal]": (
        GUIDED, lambda c, u, scale: guided(c, u, scale.item() if isinstance(scale, torch.Tensor) and scale.shape == (1,) else scale), "A scale of shape \\(1,\\)",
    ),
    "guidance: scales above 20 refused [refusal]": (GUIDED, lambda c, u, scale: guided(c, u, math.nan if not isinstance(scale, torch.Tensor) and scale > 20 else scale), "scale 50 is valid"),
    "guidance: at most 20 [argument]": (GUIDED, guide(lambda c, u, w: lerped(c, u, limited(w, high=20))), "Scale 50: .*here the scale is 20"),
    "guidance: the last pair for all [argument]": (GUIDED, last_guided, "made later. Each keeps its own"),
    "guidance: the scale in float32 [precision]": (GUIDED, guide(lambda c, u, w: lerped(c, u, torch.as_tensor(w).float().double().to(c))), "Right to five digits"),
    "guidance: clipped at 20 [end]": (GUIDED, guide(lerped, after=lambda x, z: x.clamp(-20, 20)), "clipped at 20"),
    "guidance: the answer changed in place [argument]": (
        GUIDED, guide(lambda c, u, w: lerped(c, u, w) if c.requires_grad else c.sub_(u).mul_(w).add_(u)), "What the denoisers answer must stay",
    ),
    "guidance: no return [shape]": (GUIDED, lambda c, u, scale: None, "guided returns a function"),
    "velocity: the first time for all [argument]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t.flatten()[0])), "all samples have the first one's time"),
    "velocity: clipped at 20 [end]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t).clamp(-20, 20)), "clipped at 20"),
    "velocity: z changed in place [argument]": (VELOCITY, velocity_with(lambda z, x, t: z.sub_(x.detach()) / t), "z must stay as it is"),
    "velocity: the answer changed in place [argument]": (VELOCITY, velocity_with(lambda z, x, t: slope(z, x, t) if x.requires_grad else x.sub_(z).div_(-t)), "What the denoiser answers must stay"),
    "velocity: no return [shape]": (VELOCITY, lambda f: None, "as_velocity returns a function"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught:
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


def by_solving(pred, z, t, schedule, source, target):
    """Two equations for each number, solved by torch."""
    convert(pred, z, t, schedule, source, target)  # refuses what ought to be refused
    basis = lambda kind: (
        (0 * schedule(t)[0], -1 / schedule(t)[1])
        if kind == "score"
        else parameterization.basis(kind, schedule, t)
    )
    if source == target:
        return pred
    if 0 in schedule(t)[0] or 0 in schedule(t)[1]:
        return convert(pred, z, t, schedule, source, target)
    (alpha, sigma), (a, b), (a_new, b_new) = schedule(t), basis(source), basis(target)
    matrix = torch.stack([torch.stack([alpha, sigma], -1), torch.stack([a, b], -1)], -2)
    x, eps = torch.linalg.solve(matrix, torch.stack([z.flatten(1), pred.flatten(1)], 1).to(matrix)).unbind(1)
    return (a_new[:, None] * x + b_new[:, None] * eps).reshape(z.shape).to(pred.dtype)


def by_two_steps(pred, z, t, schedule, source, target):
    """x and eps for all kinds, and what is not finite is refused, also where it is not needed."""
    if not {source, target} <= set(checks.KINDS) or pred.shape != z.shape:
        raise ValueError("kinds or shapes")
    alpha, sigma = coefficients(schedule, t, z)
    d_alpha, d_sigma = (column(c, z).to(z.dtype) for c in rates(schedule, t))
    determinant = alpha * d_sigma - sigma * d_alpha
    if source == target == "score" or source == target == "velocity":
        return pred
    x, eps = {
        "x": lambda: (pred, (z - alpha * pred) / sigma),
        "eps": lambda: ((z - sigma * pred) / alpha, pred),
        "score": lambda: ((z + sigma**2 * pred) / alpha, -sigma * pred),
        "v": lambda: (
            (alpha * z - sigma * pred) / (alpha**2 + sigma**2), (sigma * z + alpha * pred) / (alpha**2 + sigma**2)
        ),
        "velocity": lambda: (
            (d_sigma * z - sigma * pred) / determinant, (alpha * pred - d_alpha * z) / determinant
        ),
    }[source]()  # fmt: skip
    found = {
        "x": lambda: x,
        "eps": lambda: eps,
        "v": lambda: alpha * eps - sigma * x,
        "velocity": lambda: d_alpha * x + d_sigma * eps,
        "score": lambda: -eps / sigma,
    }[target]()
    if not (found.isfinite().all() and x.isfinite().all() and eps.isfinite().all()):
        raise ValueError("not determined")
    if source == "score" and (sigma == 0).any():
        raise ValueError("no score")
    return found


def by_sample(pred, z, t, schedule, source, target):
    if pred.shape != z.shape or t.shape != z.shape[:1]:
        raise ValueError("shapes")
    parts = [convert(*(a[i : i + 1] for a in (pred, z, t)), schedule, source, target) for i in range(len(z))]
    return torch.cat(parts)


def denoise_by_sample(net, schedule, data_std=1.0, **conditioning):
    if not data_std > 0:
        raise ValueError("data_std must be positive")

    def denoiser(z, t):
        made = []
        for i in range(len(z)):
            alpha, sigma = (c.to(z.dtype) for c in schedule(t[i : i + 1]))
            r = ((alpha * data_std) ** 2 + sigma**2) ** 0.5
            phi = torch.atan2(sigma, alpha * data_std)
            # the conditioning belongs to the batch: only a network without any can be asked sample by sample
            f = (
                net(z[i : i + 1] / r, phi)
                if not conditioning
                else net(z / r, phi.expand(len(z)), **conditioning)[i : i + 1]
            )
            made.append(data_std * (alpha * data_std / r * z[i : i + 1] / r - sigma / r * f))
        return torch.cat(made)

    return denoiser


def denoise_with_buffers(net, schedule, data_std=1.0, **conditioning):
    """One buffer for what the network sees, moved on in place once it was asked."""
    if not (isinstance(data_std, float | int) and 0 < data_std < math.inf):
        raise ValueError("data_std must be positive")

    def denoiser(z, t):
        alpha, sigma = coefficients(schedule, t, z)
        r = torch.hypot(alpha * data_std, sigma)
        phi = torch.atan2(sigma, alpha * data_std).flatten()
        u = z / r
        f = net(u, phi, **conditioning)
        cos, sin = column(phi.cos(), z), column(phi.sin(), z)
        if not torch.is_grad_enabled() or not (z.requires_grad or f.requires_grad):
            phi.zero_()
        return (u * cos - f * sin) * data_std

    return denoiser


def denoise_as_edm(net, schedule, data_std=1.0, **conditioning):
    """c_skip, c_out and c_in of Karras et al., with alpha."""
    if data_std != data_std or data_std <= 0:
        raise ValueError("data_std must be positive")

    def denoiser(z, t):
        alpha, sigma = (rearrange(c.to(z), "b -> b" + " 1" * (z.ndim - 1)) for c in schedule(t))
        variance = alpha**2 * data_std**2 + sigma**2
        c_skip, c_out, c_in = (
            alpha * data_std**2 / variance,
            -sigma * data_std / variance.sqrt(),
            variance.rsqrt(),
        )
        f = net(c_in * z, torch.atan2(sigma / data_std, alpha).reshape(-1), **conditioning)
        return c_skip * z + c_out * f

    return denoiser


def denoise_in_float64(net, schedule, data_std=1.0, **conditioning):
    if not data_std > 0:
        raise ValueError("data_std must be positive")

    def denoiser(z, t):
        alpha, sigma = coefficients(schedule, t.double(), z.double())
        r = torch.hypot(alpha * data_std, sigma)
        f = net(
            (z / r).to(z.dtype),
            torch.arccos((alpha * data_std / r).clamp(max=1)).flatten().to(z.dtype),
            **conditioning,
        )
        return (data_std * (alpha * data_std * z / r**2 - sigma / r * f)).to(z.dtype)

    return denoiser


def denoise_with_complex_numbers(net, schedule, data_std=1.0, **conditioning):
    def denoiser(z, t):
        if not data_std > 0:
            raise ValueError("data_std must be positive")
        alpha, sigma = coefficients(schedule, t, z)
        point = torch.complex(alpha * data_std, sigma)
        phi = point.angle()
        f = net(z / point.abs(), phi.reshape(len(z)), **conditioning)
        return data_std * (torch.complex(z / point.abs(), f) * torch.complex(phi.cos(), phi.sin())).real

    return denoiser


RIGHT = {
    "convert: solved by torch": (CONVERT, by_solving),
    "convert: sample by sample": (CONVERT, by_sample),
    "convert: float64 inside": (
        CONVERT, lambda pred, z, t, *kinds: convert(pred.double(), z.double(), t.double(), *kinds).to(pred.dtype),
    ),
    "convert: by way of x": (
        CONVERT,
        lambda pred, z, t, f, source, target: (
            convert(convert(pred, z, t, f, source, "x"), z, t, f, "x", target)
            if source not in ("x", target) and target != "x" and min(f(t)[0].min(), f(t)[1].min()) > 1e-2
            else convert(pred, z, t, f, source, target)
        ),
    ),
    "convert: v by its own formula": (
        CONVERT,
        lambda pred, z, t, f, source, target: (
            (lambda a, s: (a * z - s * pred) / (a**2 + s**2))(*coefficients(f, t, z))
            if (source, target) == ("v", "x") and pred.shape == z.shape
            else convert(pred, z, t, f, source, target)
        ),
    ),
    "as_denoiser: sample by sample": (DENOISER, denoise_by_sample),
    "as_denoiser: in place": (DENOISER, denoise_with_buffers),
    "as_denoiser: as EDM writes it": (DENOISER, denoise_as_edm),
    "as_denoiser: float64 inside": (DENOISER, denoise_in_float64),
    "as_denoiser: complex numbers, refused when asked": (DENOISER, denoise_with_complex_numbers),
    "as_denoiser: numpy's way": (DENOISER, denoiser_with()),
    "as_denoiser: the angle by asin": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.asin((s / torch.hypot(a * sd, s)).clamp(max=1)))),
    "as_denoiser: the angle by atan": (DENOISER, denoiser_with(angle=lambda t, a, s, sd: torch.atan(s / (a * sd)))),
    "convert: eps -> score refused at alpha = 0": (
        CONVERT, refuses_too(lambda pred, z, t, f, source, target: source == "eps" and (f(t)[0] == 0).any()),
    ),
    "convert: x and eps first": (CONVERT, by_two_steps),
    "guidance: the sum of shares": (GUIDED, guide(lambda c, u, w: w * c + (1 - w) * u)),
    "guidance: from the conditional one": (GUIDED, guide(lambda c, u, w: c + (w - 1) * (c - u))),
    "guidance: numpy's way": (GUIDED, guide(lerped)),
    "guidance: float64 inside": (GUIDED, guide(lambda c, u, w: lerped(c.double(), u.double(), w), after=lambda x, z: x.to(z.dtype))),
    "guidance: the unconditional one first": (GUIDED, lambda c, u, scale: guided(u, c, 1 - scale)),
    "velocity: by hand": (VELOCITY, velocity_with(slope)),
    "velocity: by way of eps": (VELOCITY, velocity_with(lambda z, x, t: (z - (1 - t) * x) / t - x)),
    "velocity: by convert": (
        VELOCITY,
        lambda f: lambda z, t: (
            convert(f(z, t.to(z)), z, t, rectified_flow, "x", "velocity")
            if ((t > 0) & (t <= 1)).all()
            else as_velocity(f)(z, t)
        ),
    ),
    "velocity: float64 inside": (VELOCITY, velocity_with(lambda z, x, t: slope(z.double(), x.double(), t.double()).to(z.dtype))),
    "velocity: sample by sample": (
        VELOCITY, lambda f: lambda z, t: torch.cat([as_velocity(f)(z[i : i + 1], t[i : i + 1]) for i in range(len(z))]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_answer_passes(name, unchecked_shapes):
    check, right = RIGHT[name]
    check(right)


def test_the_harness_is_not_what_is_caught(unchecked_shapes):
    """The 2x2 solve with the right basis gives the definitions; only what is singular is not refused."""
    for schedule in checks.SCHEDULES:
        z, t, predictions = checks.known(0, schedule)
        for source in predictions:
            found = with_basis()(predictions[source], z, t, schedule, source, "velocity")
            torch.testing.assert_close(found, predictions["velocity"], rtol=1e-8, atol=1e-8)


def test_a_round_trip_misses_what_the_check_finds():
    """The lesson of `check_convert`: v with the wrong sign everywhere passes every round trip."""
    z, t, predictions = checks.known(0, cosine)
    wrong = with_basis(v=lambda alpha, sigma, *_: (sigma, -alpha))
    there = wrong(predictions["x"], z, t, cosine, "x", "v")
    torch.testing.assert_close(wrong(there, z, t, cosine, "v", "x"), predictions["x"])


@pytest.mark.parametrize(
    "source, target, time, reason",
    [
        ("eps", "x", 1.0, "noise and eps says nothing about the data"),
        ("x", "eps", 0.0, "data and x says nothing about the noise"),
        ("x", "score", 0.0, "infinite at sigma = 0"),
        ("score", "x", 1.0, "nothing about the data"),
    ],
)
def test_singular_conversions_say_why(source, target, time, reason):
    z = torch.randn(2, 3)
    with pytest.raises(ValueError, match=reason):
        convert(z, z, torch.full((2,), time), cosine, source, target)


def test_forward_mode_goes_through():
    """Consistency models need d x_hat / d t along a trajectory."""
    denoiser = as_denoiser(lambda u, phi: torch.sin(u) * phi[:, None], rectified_flow, 0.5)
    z, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    _, tangent = torch.func.jvp(denoiser, (z, t), (torch.ones_like(z), torch.ones_like(t)))
    h = 1e-6
    expected = (denoiser(z + h, t + h) - denoiser(z - h, t - h)) / (2 * h)
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-6)


def test_bad_input(unchecked_shapes):
    z, t = torch.randn(2, 3), torch.tensor([0.5, 0.6])
    with pytest.raises(ValueError, match="kind must be one of x, eps"):
        convert(z, z, t, cosine, "noise", "x")
    with pytest.raises(ValueError, match="kind must be one of"):
        parameterization.basis("noise", cosine, t)
    with pytest.raises(ValueError, match="data_std"):
        as_denoiser(lambda u, phi: u, cosine, -1.0)
    with pytest.raises(ValueError, match="network returned shape"):
        as_denoiser(lambda u, phi: u[:, :1], cosine)(z, t)
