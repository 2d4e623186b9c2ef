"""Checks of the oracles: torch's own densities, automatic derivatives, a fine ODE solve, and many samples."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributions as D

from minidistill import oracle
from minidistill.checks import (
    Likely,
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    refuses,
)
from minidistill.schedules import cosine, edm, rectified_flow

Density = Callable[[Tensor, Tensor, Callable], Tensor]  # (z, t, schedule) -> log p_t(z)
ONE_TIME = "All samples get the time of one: each has its own."
IGNORED = "The schedule is ignored: this is cosine's."


def rotation(d: int, generator: torch.Generator) -> Tensor:
    """A random rotation, float64."""
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def parts(d: int, k: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """weights, means, stds and rotation of a random product of d mixtures of k components."""
    g = torch.Generator().manual_seed(seed)
    weights = 0.2 + torch.rand(d, k, generator=g, dtype=torch.float64)
    means = 1.5 * torch.randn(d, k, generator=g, dtype=torch.float64)
    stds = 0.1 + 0.3 * torch.rand(d, k, generator=g, dtype=torch.float64)
    return weights / weights.sum(1, keepdim=True), means, stds, rotation(d, g)


def mixture(d: int, k: int, seed: int, ProductMixture=oracle.ProductMixture):
    """A random rotated product of d mixtures of k components."""
    return ProductMixture(*parts(d, k, seed))


# what the densities are, by torch.distributions


def gaussian_density(mean: Tensor, cov: Tensor) -> Density:
    """z_t ~ N(alpha m, alpha^2 C + sigma^2 I)."""

    def log_prob(z, t, schedule):
        alpha, sigma = schedule(t)
        covs = column(alpha**2, cov[None]) * cov + column(sigma**2, cov[None]) * torch.eye(len(cov)).to(cov)
        return D.MultivariateNormal(alpha[:, None] * mean, covs).log_prob(z)

    return log_prob


def mixture_density(weights: Tensor, means: Tensor, stds: Tensor, rotation: Tensor) -> Density:
    """Each coordinate of rotation^T z_t is a mixture of N(alpha m, alpha^2 s^2 + sigma^2)."""

    def log_prob(z, t, schedule):
        alpha, sigma = (column(c, means[None]) for c in schedule(t))
        bumps = D.Normal(alpha * means, ((alpha * stds) ** 2 + sigma**2).sqrt())
        weight = D.Categorical(weights.expand(len(z), -1, -1))
        return D.MixtureSameFamily(weight, bumps, validate_args=False).log_prob(z @ rotation).sum(1)

    return log_prob


def empirical_density(points: Tensor) -> Density:
    """A mixture of one N(alpha x, sigma^2 I) for each point x."""

    def log_prob(z, t, schedule):
        alpha, sigma = (column(c, points[None]) for c in schedule(t))
        bumps = D.Independent(D.Normal(alpha * points, sigma.expand(-1, *points.shape)), 1)
        weight = D.Categorical(torch.ones(len(z), len(points)).to(points))
        return D.MixtureSameFamily(weight, bumps, validate_args=False).log_prob(z)

    return log_prob


def tweedie(density: Density, z: Tensor, t: Tensor, schedule: Callable) -> tuple[Tensor, Tensor]:
    """The score, and x_hat = (z + sigma^2 score) / alpha, with derivatives in z and t."""
    z = z if z.requires_grad else z.clone().requires_grad_()
    score = torch.autograd.grad(density(z, t, schedule).sum(), z, create_graph=True)[0]
    alpha, sigma = (column(c, z) for c in schedule(t))
    return score, (z + sigma**2 * score) / alpha


# density, score and denoiser


def wrong_log_probs(found: Tensor, density: Density, others: list, z: Tensor, t: Tensor, schedule) -> Likely:
    """What people take for the log density of z_t."""
    right = density(z, t, schedule)
    yield "log_prob has the wrong sign: the density is higher where the data is.", -right
    yield "This is the density: log_prob is its logarithm.", right.exp()
    yield "log_prob is the sum over dimensions: this is their mean.", right / z.shape[1]
    yield "log_prob is clamped: far from the data it is very negative.", right.clamp(min=found.min().item())
    yield "Each sample has its own log_prob: this is one number for all.", right.mean().expand_as(right)
    yield ONE_TIME, density(z, t[:1].expand_as(t), schedule)
    if t.max() <= 1:
        yield IGNORED, density(z, t, cosine)
    for what, other in others:
        yield what, other(z, t, schedule)


def wrong_denoisers(found: Tensor, density: Density, others: list, z: Tensor, t: Tensor, schedule) -> Likely:
    """What people take for x_hat."""
    score, x_hat = tweedie(density, z, t, schedule)
    alpha, sigma = (column(c, z) for c in schedule(t))
    eps_hat, most = (z - alpha * x_hat) / sigma, max(0.5, found.abs().max().item())
    yield "This is z / alpha, as if z had no noise.", z / alpha
    yield "This is z itself.", z
    yield "This is eps_hat: the denoiser answers x_hat.", eps_hat
    yield "This is eps_hat - x_hat: the denoiser answers x_hat.", eps_hat - x_hat
    yield "This is the score: x_hat = (z + sigma^2 score) / alpha.", score
    yield "This is alpha x_hat: divide by alpha.", alpha * x_hat
    yield "It is sigma^2 that the score is multiplied by.", (z + sigma * score) / alpha
    yield "x_hat is clipped: data may be any number.", x_hat.clamp(-most, most)
    yield ONE_TIME, tweedie(density, z, t[:1].expand_as(t), schedule)[1]
    if t.max() <= 1:
        yield IGNORED, tweedie(density, z, t, cosine)[1]
    for what, other in others:
        yield what, tweedie(other, z, t, schedule)[1]


def check_closed_form(
    thing, density: Density, d: int, others: list[tuple[str, Density]], likely: Callable, seed: int
) -> None:
    """log_prob, its gradient, the denoiser and its gradient; images, float32, refusals.

    others: densities that people take for this one. likely(z, t, schedule): wrong denoisers.
    """
    g = torch.Generator().manual_seed(seed)
    for schedule in (cosine, rectified_flow, edm):
        t = 0.05 + 0.9 * torch.rand(8, generator=g, dtype=torch.float64)
        t = 0.1 * 500**t if schedule is edm else t  # 0.14 to 37
        alpha, sigma = (c[:, None] for c in schedule(t))
        x, eps = torch.randn(2, 8, d, generator=g, dtype=torch.float64)
        # where data is, and far from it, where a density is 0 to all digits
        z = (alpha * x + sigma * eps) * exact(1, 1, 1, 1, 1, 1, 10, 30)[:, None]
        z, t = z.requires_grad_(), t.requires_grad_()
        right = density(z, t, schedule)
        _, x_hat = tweedie(density, z, t, schedule)

        where = f"on {schedule.__name__} in {d} dimensions"
        found = accepts(lambda: thing.log_prob(z, t, schedule), f"z of shape (8, {d}) {where}")
        assert isinstance(found, Tensor) and found.shape == t.shape, (
            f"log_prob is one number for each sample, (8,), not {tuple(getattr(found, 'shape', ()))}."
        )
        assert found.isfinite().all(), (
            f"log_prob is not finite {where}: take the logarithm of no density that is 0 to all digits."
        )
        here = torch.full_like(t, 0.5)
        off = thing.log_prob(z, here, schedule) - density(z, here, schedule)
        assert (off - off[0]).abs().max() > 1e-4 or off.abs().max() < 1e-4, (
            f"The normaliser of log_prob is wrong: it is off by {off[0]:.4g} at every z, {where}."
        )
        hint = f"log_prob is not the logarithm of the density of z_t = alpha x + sigma eps, {where}."
        explained(found, right, hint, wrong_log_probs(found, density, others, z, t, schedule), 1e-8)
        assert found.requires_grad, "The gradient of log_prob is the score, and here it has none: detached?"
        slopes = [
            torch.autograd.grad(p.sum(), (z, t), retain_graph=True, allow_unused=True) for p in (found, right)
        ]
        for name, one, other in zip("zt", *slopes):
            hint = f"The gradient of log_prob in {name} is lost, or another one: is a part of it detached?"
            assert one is not None, hint
            close(one, other, hint, 1e-8, 1e-8)

        found = accepts(lambda: thing.denoiser(schedule)(z, t), f"z of shape (8, {d}) {where}")
        assert isinstance(found, Tensor) and found.shape == z.shape, (
            f"x_hat has the shape of z, (8, {d}), not {tuple(getattr(found, 'shape', ()))}."
        )
        assert found.isfinite().all(), (
            f"x_hat is not finite {where}: subtract the largest exponent before exp, as softmax does."
        )
        wrong = itertools.chain(
            likely(z, t, schedule), wrong_denoisers(found, density, others, z, t, schedule)
        )
        hint = f"x_hat must be (z + sigma^2 score) / alpha, by Tweedie's formula, {where}."
        explained(found, x_hat, hint, wrong, 1e-7)
        assert found.requires_grad, "x_hat carries no gradient: is it detached, or made under no_grad?"
        probe = torch.randn(6, d, generator=g, dtype=torch.float64)
        slopes = [
            torch.autograd.grad((probe * p[:6]).sum(), (z, t), retain_graph=True, allow_unused=True)
            for p in (found, x_hat)
        ]
        for name, one, other in zip("zt", *slopes):
            hint = f"The gradient of x_hat in {name} is lost, or another one: is a part of it detached?"
            assert one is not None, hint
            close(one, other, hint, 1e-5, 1e-6)

        # float32 data with float64 times, not so little noise that exponents are large; and the other way
        z, t = z.detach()[:6], t.detach()[:6]
        rough, late = z.float(), t.clamp(min=0.4)
        right = density(rough.double(), late, schedule)
        _, x_hat = tweedie(density, rough.double(), late, schedule)
        close_in_float32(thing.log_prob(rough, late, schedule), right, "log_prob", 1e-4)
        close_in_float32(thing.denoiser(schedule)(rough, late), x_hat, "x_hat", 2e-4)
        for found in (thing.denoiser(schedule)(z, t.float()), thing.log_prob(z, t.float(), schedule)):
            assert found.dtype == z.dtype, f"The answer has the dtype of z: here float64, not {found.dtype}."
        image = thing.denoiser(schedule)(z.reshape(6, 1, d, 1), t)
        assert image.shape == (6, 1, d, 1), "Images are points with more axes, and stay images."
        hint = "Images are points with more axes: x_hat is that of the flat ones."
        close(image.flatten(1), thing.denoiser(schedule)(z, t), hint)
        close(thing.log_prob(z.reshape(6, 1, d, 1), t, schedule), thing.log_prob(z, t, schedule), hint)

    for name, call in (
        ("denoiser", lambda z, t: thing.denoiser(cosine)(z, t)),
        ("log_prob", lambda z, t: thing.log_prob(z, t, cosine)),
    ):
        t = t.clamp(max=0.9)
        for bad in (z[:, :1], torch.cat([z, z[:, :1]], 1), z[:, 0]):
            refuses(
                lambda: call(bad, t),
                f"{name}: z of shape {tuple(bad.shape)} in {d} dimensions must be refused.",
            )
        refuses(lambda: call(z, t[:1]), f"{name}: one time for six samples must be refused.")


# the flow map


HALF = math.pi / 2
SLOPES = {  # alpha' and sigma'
    rectified_flow: lambda t: (-torch.ones_like(t), torch.ones_like(t)),
    cosine: lambda t: (-HALF * torch.sin(HALF * t), HALF * torch.cos(HALF * t)),
    edm: lambda t: (torch.zeros_like(t), torch.ones_like(t)),
}


def flow_velocity(thing, z: Tensor, t: Tensor, schedule: Callable) -> Tensor:
    """dz/dt = alpha' x_hat + sigma' eps_hat."""
    (alpha, sigma), (d_alpha, d_sigma) = ([c[:, None] for c in f(t)] for f in (schedule, SLOPES[schedule]))
    x_hat = thing.denoiser(schedule)(z, t)
    return d_alpha * x_hat + d_sigma * (z - alpha * x_hat) / sigma


def wrong_flows(
    thing, found: Tensor, right: Tensor, z: Tensor, t: Tensor, s: Tensor, schedule: Callable
) -> Likely:
    """What people take for the flow map from t to s."""
    x_hat, (a, b), (c, d) = (
        thing.denoiser(schedule)(z, t),
        *([p[:, None] for p in schedule(u)] for u in (t, s)),
    )
    dz = (s - t)[:, None] * flow_velocity(thing, z, t, schedule)
    yield "Nothing moved.", z
    yield "This is one DDIM step, and the flow bends.", c * x_hat + d / b * (z - a * x_hat)
    yield "This is one step of Euler, and the flow bends.", z + dz
    yield "This is x_hat: the flow goes to time s, and to another point.", x_hat
    yield "It flows to less noise only, and s may be above t.", torch.where((s < t)[:, None], right, z)
    if schedule is rectified_flow:
        yield IGNORED, thing.flow_map(z, t, s, cosine)
    if alike(thing.flow_map(z, s, t, schedule), right, 1e-5):
        yield "t and s are exchanged.", found
    if alike(found[0], right[0], 1e-5):
        yield ONE_TIME, thing.flow_map(z, t[:1].expand_as(t), s[:1].expand_as(s), schedule)


def check_flow(thing, z: Tensor, atol: float = 1e-5, steps: int = 50) -> None:
    """Against a fine Runge-Kutta solve of dz/dt = alpha' x_hat + sigma' eps_hat, and its own derivatives."""
    # each sample travels between its own two times, some to less noise and some to more
    t = torch.linspace(0.9, 0.5, len(z), dtype=torch.float64)
    s = torch.linspace(0.4, 0.7, len(z), dtype=torch.float64)
    one, other = (f(torch.arange(z.numel()).to(z)).reshape(z.shape) for f in (torch.sin, torch.cos))
    for schedule in SLOPES:
        where = f"on {schedule.__name__}"
        flow = lambda z, t, s: thing.flow_map(z, t, s, schedule)

        velocity = lambda z, t: flow_velocity(thing, z, t, schedule)
        y, h, now = z, (s - t) / steps, t
        for _ in range(steps):
            k1 = velocity(y, now)
            k2 = velocity(y + h[:, None] / 2 * k1, now + h / 2)
            k3 = velocity(y + h[:, None] / 2 * k2, now + h / 2)
            k4 = velocity(y + h[:, None] * k3, now + h)
            y, now = y + h[:, None] / 6 * (k1 + 2 * k2 + 2 * k3 + k4), now + h

        found = accepts(lambda: flow(z, t, s), f"z of shape {tuple(z.shape)} {where}")
        assert isinstance(found, Tensor) and found.shape == z.shape, (
            f"The flow map keeps the shape of z, {tuple(z.shape)}, not {tuple(getattr(found, 'shape', ()))}."
        )
        hint = f"The flow map must follow the probability-flow ODE, {where}."
        explained(found, y, hint, wrong_flows(thing, found, y, z, t, s, schedule), atol)
        close(flow(z, t, t), z, f"From t to t nothing moves, {where}.", atol, 0.0)
        hint = (
            f"From t to s and back to t, {where}, digits are lost: is it float32, or few steps of a search?"
        )
        close(flow(found, s, t), z, hint, 1e-8, 1e-8)

        ends = [a.clone().requires_grad_() for a in (z, t, s)]
        moved = flow(*ends)
        assert moved.requires_grad, "The flow map carries no gradient: is it detached, or made under no_grad?"
        slopes = torch.autograd.grad((one * moved).sum(), ends, allow_unused=True)
        for name, slope in zip("zts", slopes):
            assert slope is not None, f"The flow map carries no gradient in {name}: is a part of it detached?"
        change = (flow(z + 1e-5 * other, t, s) - flow(z - 1e-5 * other, t, s)) / 2e-5
        hint = "The flow map carries another gradient in z than its values have: is a part of it detached?"
        close((slopes[0] * other).sum(), (one * change).sum(), hint, 1e-6, 1e-6)
        hint = "d flow_map / ds must be the velocity there: is a part of it detached?"
        close(slopes[2], (one * velocity(found, s)).sum(1), hint, 1e-7, 1e-7)
        # whoever starts further on the same curve arrives at the same point
        hint = "d flow_map / dt + d flow_map / dz velocity must be 0: is a part of it detached?"
        close(slopes[1], -(slopes[0] * velocity(z, t)).sum(1), hint, 1e-7, 1e-7)

        rough = z.float()
        close_in_float32(flow(rough, t, s), flow(rough.double(), t, s), "The flow map", 1e-3)
        assert flow(z, t.float(), s.float()).dtype == z.dtype, (
            "The flow map has the dtype of z, here float64."
        )
        image = flow(z.reshape(len(z), 1, -1, 1), t, s)
        assert image.shape == (*z[:, None].shape, 1), "Images are points with more axes, and stay images."
        close(image.flatten(1), found, "Images are points with more axes, and flow like them.", atol, 0.0)

    tangents = other, torch.ones_like(t), torch.ones_like(s)
    forward = (one * torch.func.jvp(flow, (z, t, s), tangents)[1]).sum()
    backward = sum((a * b).sum() for a, b in zip(slopes, tangents))
    close(forward, backward, "torch.func.jvp finds another derivative than backward().", 1e-7, 1e-7)
    for bad in (z[:, :-1], torch.cat([z, z], 1), z[:, 0]):
        refuses(lambda: flow(bad, t, s), f"flow_map: z of shape {tuple(bad.shape)} must be refused.")
    refuses(lambda: flow(z, t[:1], s), "flow_map: one t for all samples must be refused.")
    refuses(lambda: flow(z, t, s[:1]), "flow_map: one s for all samples must be refused.")


def check_ends(thing, mean: Tensor, seed: int) -> None:
    """At t = 0 z is the data; at t = 1 it says nothing about it."""
    z = torch.randn(6, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    zeros, ones = torch.zeros(6).double(), torch.ones(6).double()
    close(thing.denoiser(cosine)(z, zeros), z, "At t = 0, sigma = 0: z is the data, and x_hat is z.")
    hint = "At t = 1, alpha = 0: z says nothing, and x_hat is the mean of the data. Divide by no alpha."
    close(thing.denoiser(cosine)(z, ones), mean.expand_as(z), hint)
    unit = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
    close(thing.log_prob(z, ones, cosine), unit, "At t = 1, log_prob is that of unit Gaussian noise.")
    assert thing.log_prob(z, zeros, cosine).isfinite().all(), "At t = 0, log_prob is that of the data."


# samples


def check_shape(thing, shape: tuple[int, ...], seed: int) -> None:
    """n samples have the shape (n, *shape)."""
    for n in (1, 5):
        found = accepts(lambda: thing.sample(n, torch.Generator().manual_seed(seed)), f"n = {n}")
        assert found.shape == (n, *shape), (
            f"sample({n}) has the shape {(n, *shape)}, not {tuple(found.shape)}."
        )


def check_generator(thing, seed: int) -> None:
    """What decides the samples, and what is no number of samples."""
    seeded = lambda: torch.Generator().manual_seed(seed)
    g = seeded()
    first, second = thing.sample(30, g), thing.sample(30, g)
    assert torch.equal(first, thing.sample(30, seeded())), "The generator must decide all randomness."
    assert not torch.equal(first, second), (
        "A second call with the same generator must draw other samples: do not seed it anew."
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        free = thing.sample(30), thing.sample(30)
        torch.manual_seed(seed)
        again = thing.sample(30)
    assert torch.equal(free[0], again) and not torch.equal(*free), (
        "Without a generator, torch's own random numbers decide: torch.manual_seed, and two calls differ."
    )
    for n in (0, -1, 2.5):
        hint = f"sample({n}) must be refused: n is a whole number from 1."
        refuses(lambda: thing.sample(n, seeded()), hint)


def check_samples(thing, mean: Tensor, cov: Tensor, quantiles: Callable, seed: int, n: int = 20_000) -> None:
    """Mean, covariance and distribution of n samples, to six standard errors.

    quantiles(x) turns samples into independent uniform numbers, if x is what it ought to be.
    """
    check_shape(thing, mean.shape, seed)
    x = thing.sample(n, torch.Generator().manual_seed(seed))
    assert x.dtype == mean.dtype, f"Samples have the dtype of the parameters, {mean.dtype}, not {x.dtype}."
    assert len(x.unique(dim=0)) == n, "The same sample twice: each is drawn by itself."
    wide = cov.diagonal().max().item()
    close(x.mean(0), mean, "The samples have the wrong mean.", 6 * (wide / n) ** 0.5, 0.0)
    close(torch.cov(x.T), cov, "The samples have the wrong covariance.", 18 * wide / n**0.5, 0.0)
    u = quantiles(x)
    for part, what in ((u, "The samples"), (u[: n // 2], "The first half of the samples")):
        even = (torch.arange(len(part)) + 0.5) / len(part)
        gap = (part.sort(0).values - even[:, None]).abs().max()
        assert gap < 3.5 / len(part) ** 0.5, (
            f"{what} have another distribution: right mean and covariance are not enough "
            f"(a quantile is off by {gap:.3f})."
        )
    spread = (u - 0.5) ** 2
    spread = torch.cat([spread[1:], spread[:-1]], 1)
    mixed = torch.corrcoef(spread.T) - torch.eye(spread.shape[1])
    assert mixed.abs().max() < 6 / n**0.5, (
        "Coordinates, or one sample and the next, are not drawn independently."
    )
    check_generator(thing, seed)


# the three oracles


def check_gaussian(Gaussian=oracle.Gaussian, seed: int = 0) -> None:
    """Density, denoiser, flow map, ends, samples and refusals, in 3 dimensions and in 64."""
    for d in (64, 3):
        g = torch.Generator().manual_seed(seed)
        root, mean = torch.randn(d, d, generator=g, dtype=torch.float64), torch.randn(d, generator=g).double()
        cov = root @ root.T / d + 0.1 * torch.eye(d).double()
        thing = accepts(lambda: Gaussian(mean, cov), f"A covariance in {d} dimensions")

        eye = torch.eye(d).double()
        others = [
            ("The mean is ignored.", gaussian_density(0 * mean, cov)),
            ("Covariances of coordinates are ignored.", gaussian_density(mean, cov.diagonal().diag())),
            ("The covariance is ignored: this is unit Gaussian data.", gaussian_density(mean, eye)),
            ("The covariance is squared.", gaussian_density(mean, cov @ cov)),
            ("This is the covariance's inverse.", gaussian_density(mean, torch.linalg.inv(cov))),
        ]  # fmt: skip
        likely = lambda z, t, schedule: [("This is the mean of the data: z is ignored.", mean.expand_as(z))]
        check_closed_form(thing, gaussian_density(mean, cov), d, others, likely, seed)
    z = torch.randn(5, 3, generator=g, dtype=torch.float64)
    check_ends(thing, mean, seed)
    variances, axes = torch.linalg.eigh(cov)
    least = variances[0]
    lean, semi = (axes @ torch.cat([exact(v), variances[1:]]).diag() @ axes.T for v in (-least, 0.0))
    skew, torn = cov.clone(), cov.clone()
    skew[0, 1] += 0.1
    torn[2, 2] = math.nan
    for bad, what in (
        (-cov, "with negative eigenvalues"),
        ((lean + lean.T) / 2, "with one negative eigenvalue"),
        ((semi + semi.T) / 2, "with an eigenvalue of 0"),
        (torch.ones(3, 3).double(), "with two eigenvalues of 0"),
        (torch.zeros(3, 3).double(), "of zeros"),
        (skew, "that is not symmetric"),
        (axes, "that is not symmetric"),
        (torn, "with one nan"),
        (cov[:2], "of shape (2, 3)"),
        (cov[:2, :2], "of another size than the mean"),
        (variances, "of shape (3,)"),
    ):
        refuses(lambda: Gaussian(mean, bad), f"A covariance {what} must be refused.")
    for bad in (*(m for _, m in one_bad(mean)), mean[:1], mean[None]):
        refuses(lambda: Gaussian(bad, cov), f"A mean of {bad.tolist()} must be refused.")

    normal = lambda x: torch.special.ndtr((x - mean) @ axes / variances.sqrt())
    check_samples(thing, mean, cov, normal, seed)

    t, s = torch.linspace(0.9, 0.5, 5, dtype=torch.float64), torch.linspace(0.4, 0.7, 5, dtype=torch.float64)
    (a, b), (c, e) = ([k[:, None] for k in cosine(u)] for u in (t, s))
    before, after = a**2 * variances + b**2, c**2 * variances + e**2

    def carried(stretch, start=a * mean, end=c * mean):
        return end + ((z - start) @ axes * stretch) @ axes.T

    ratio, moves = (after / before).sqrt(), "The mean moves, too: from alpha_t m to alpha_s m."
    likely = (
        ("The axes are stretched by the ratio of variances: take the root.", carried(ratio**2)),
        ("The stretch is upside down.", carried(1 / ratio)),
        ("The stretch is upside down.", carried(1 / ratio**2)),
        *((moves, carried(ratio, m, m)) for m in (0, mean, a * mean, c * mean)),
        ("Every axis has its own stretch.", carried(ratio.mean(1, keepdim=True))),
        ("The noise is missing in the stretch.", carried(c / a)),
    )
    hint = "Each principal axis is stretched by the ratio of standard deviations at s and t, about its mean."
    found = thing.flow_map(z, t, s, cosine)
    wrong = itertools.chain(likely, wrong_flows(thing, found, carried(ratio), z, t, s, cosine))
    explained(found, carried(ratio), hint, wrong)
    check_flow(thing, z)
    small = Gaussian(mean.float(), cov.float())
    found = small.denoiser(cosine)(z, t), small.flow_map(z, t, s, cosine), small.log_prob(z, t, cosine)
    assert {f.dtype for f in found} == {torch.float64}, "A float32 Gaussian answers in the dtype of z, too."
    assert small.sample(3).dtype == torch.float32, "A float32 Gaussian draws float32 samples."


def check_product_mixture(ProductMixture=oracle.ProductMixture, seed: int = 0) -> None:
    """Density, denoiser, flow map, tails, ends, samples and refusals: rotated, in 3 dimensions and in 64."""
    for d in (64, 3):  # where a rotation is not its own inverse
        weights, means, stds, turn = params = parts(d, 3, seed)
        thing = accepts(lambda: ProductMixture(*params), f"A mixture in {d} dimensions")

        even, eye = torch.full_like(weights, 1 / 3), torch.eye(d).double()
        others = [
            ("The rotation is turned around.", mixture_density(weights, means, stds, turn.T)),
            ("The rotation is ignored.", mixture_density(weights, means, stds, eye)),
            ("The weights are ignored.", mixture_density(even, means, stds, turn)),
            ("The stds are ignored.", mixture_density(weights, means, 1e-9 * stds, turn)),
            ("stds are taken for variances.", mixture_density(weights, means, stds**0.5, turn)),
        ]  # fmt: skip

        def likely(z, t, schedule):
            x_hat = tweedie(mixture_density(*params), z, t, schedule)[1]
            yield "The answer is not rotated back: x = rotation @ y.", x_hat @ turn
            yield "The answer is rotated the wrong way: x = rotation @ y.", x_hat @ turn @ turn
            alpha, sigma = (column(c, means[None]) for c in schedule(t))
            gap = (z @ turn)[..., None] - alpha * means
            each = means + alpha * stds**2 / ((alpha * stds) ** 2 + sigma**2) * gap
            prior = "The components count by their weights: they must by how well each explains z."
            yield prior, (weights * each).sum(-1) @ turn.T
            fit = weights.log() - gap**2 / ((alpha * stds) ** 2 + sigma**2) / 2
            hint = "A wide component has a lower density: its std is missing in the softmax."
            yield hint, (fit.softmax(-1) * each).sum(-1) @ turn.T

        check_closed_form(thing, mixture_density(*params), d, others, likely, seed)
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    average = (weights * means).sum(1)
    check_ends(thing, turn @ average, seed)
    few, t, s = z[:6], torch.full((6,), 0.8).double(), torch.full((6,), 0.3).double()
    plain = ProductMixture(weights, means, stds).log_prob(few, t, cosine)
    right = mixture_density(weights, means, stds, torch.eye(3).double())(few, t, cosine)
    close(plain, right, "Without a rotation, the coordinates are those of the mixtures.", 1e-8)
    none, mirror = weights.clone(), turn * exact(1, 1, -1)
    none[1] = exact(0.3, 0, 0.7)
    for other, what in (
        ((none, means, stds, turn), "A weight of 0"),
        ((weights, means, stds, mirror), "A reflection"),
    ):
        found = accepts(lambda: ProductMixture(*other), what).log_prob(few, t, cosine)
        close(found, mixture_density(*other)(few, t, cosine), f"{what} is valid: log_prob.", 1e-8)

    def one(p, value):
        p = p.clone()
        p[1, 1] = value
        return p

    minus = weights.clone()
    minus[1] = exact(-0.2, 0.5, 0.7)
    bads = [
        (0, one(weights, 2.0), "that sum to more than 1, once"),
        (0, one(weights, 0.0), "that sum to less than 1, once"),
        (0, minus, "with one below 0"),
        (0, 2 * weights, "that sum to 2"),
        (2, one(stds, 0.0), "with one 0"),
        (2, one(stds, -0.1), "with one below 0"),
        (2, 0 * stds, "of 0"),
        (3, 2 * turn, "that stretches"),
        (3, turn * exact(1, 1, 2), "that stretches one axis"),
        (3, 0 * turn, "of zeros"),
        (3, torch.ones(3, 3).double(), "of ones"),
        (3, turn[:2], "of shape (2, 3)"),
        (3, turn[:2, :2], "of another size"),
        *((k, one(p, math.nan), "with one nan") for k, p in enumerate(params)),
        *((k, p[:1], "of shape (1, 3)") for k, p in enumerate(params)),
        *((k, p[:, :1], "of shape (3, 1)") for k, p in enumerate(params)),
        *((k, p[0], "of shape (3,)") for k, p in enumerate(params)),
    ]
    for k, bad, what in bads:
        hint = f"{('weights', 'means', 'stds', 'rotation')[k]} {what} must be refused."
        refuses(lambda: ProductMixture(*params[:k], bad, *params[k + 1 :]), hint)

    def quantiles(x):
        y = (x @ turn)[..., None]
        return (weights * torch.special.ndtr((y - means) / stds)).sum(-1)

    variance = (weights * (stds**2 + means**2)).sum(1) - average**2
    check_samples(thing, turn @ average, turn @ variance.diag() @ turn.T, quantiles, seed)

    small = ProductMixture(*(p.float() for p in params))
    found = small.denoiser(cosine)(few, t), small.flow_map(few, t, s, cosine), small.log_prob(few, t, cosine)
    assert {f.dtype for f in found} == {torch.float64}, "A float32 mixture answers in the dtype of z, too."
    assert small.sample(3).dtype == torch.float32, "A float32 mixture draws float32 samples."
    check_flow(thing, z[:8])
    # far in the tails, where a CDF is 0 or 1 to all digits
    tails = exact(30, -30, 0, -40, 40, 1).reshape(2, 3)
    t, s = torch.full((2,), 0.9).double(), torch.full((2,), 0.4).double()
    back = thing.flow_map(thing.flow_map(tails, t, s, cosine), s, t, cosine)
    hint = "The tails lose their digits: match log CDF on the left and log SF on the right."
    close(back, tails, hint, 1e-9)
    # from pure noise to clean data, where the quantile is conserved, and back; EDM's large times
    ends = torch.ones(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    for schedule, scale in ((cosine, 1.0), (edm, 80.0)):
        noise = scale * z
        data = thing.flow_map(noise, scale * ends[0], ends[1], schedule)
        if schedule is cosine:
            kept = torch.special.ndtr(noise @ turn)
            hint = "From t = 1 to 0 the quantile must stay: are the times clipped?"
            close(quantiles(data), kept, hint, 1e-9)
        back = thing.flow_map(data, ends[1], scale * ends[0], schedule)
        close(back, noise, "From noise to data and back: are times or values clipped?", scale * 1e-9)


def check_empirical(Empirical=oracle.Empirical, seed: int = 0) -> None:
    """Density, denoiser, no noise at all, samples and refusals: in the plane, and images of 64 pixels."""
    g = torch.Generator().manual_seed(seed)
    for shape in ((20, 1, 8, 8), (1, 3), (12, 2)):
        points = torch.randn(shape, generator=g, dtype=torch.float64)
        flat = points.flatten(1)
        thing = accepts(lambda: Empirical(points), f"points of shape {shape}")

        def likely(z, t, schedule):
            alpha, sigma = (c[:, None] for c in schedule(t))
            square = (z[:, None] - alpha[..., None] * flat).square().sum(-1)
            plain = (z[:, None] - flat).square().sum(-1)
            exponent = "The exponent is -|z - alpha x|^2 / (2 sigma^2)"
            for what, fit in (
                (f"{exponent}: in yours the 2 is missing.", -square / sigma**2),
                (f"{exponent}: yours is half of it.", -square / (4 * sigma**2)),
                (f"{exponent}: yours has sigma for sigma^2.", -square / (2 * sigma)),
                (f"{exponent}: yours has no square.", -square.sqrt() / (2 * sigma**2)),
                (f"{exponent}: in yours alpha is missing.", -plain / (2 * sigma**2)),
                (f"{exponent}: yours is a mean over dimensions.", -square / (2 * sigma**2) / z.shape[1]),
                ("x_hat is the mean of all points: each counts by how well it explains z.", 0 * square),
                ("x_hat is the nearest point: all count, by how well they explain z.", -1e12 * square),
            ):  # fmt: skip
                yield what, fit.softmax(1) @ flat

            floor = (
                "A small number is added to the sum of exponentials: subtract the largest exponent before."
            )
            e = (-square / (2 * sigma**2)).exp()
            for small in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-16, 1e-20, 1e-30):
                yield floor, e / (e.sum(1, keepdim=True) + small) @ flat

        def logs(z, t, schedule):
            """The log densities of the single points."""
            alpha, sigma = (c[:, None] for c in schedule(t))
            square = (z[:, None] - alpha[..., None] * flat).square().sum(-1)
            return -0.5 * (square / sigma**2 + flat.shape[1] * (2 * math.pi * sigma**2).log())

        unscaled = lambda z, t, schedule: empirical_density(flat)(z, t, lambda t: (1 + 0 * t, schedule(t)[1]))
        others = [
            ("The points are not scaled by alpha.", unscaled),
            ("This is the mean of logarithms, not the logarithm of the mean.", lambda *a: logs(*a).mean(1)),
            ("This is the nearest point alone.", lambda *a: logs(*a).amax(1)),
            ("This is the nearest point alone.", lambda *a: logs(*a).amax(1) - math.log(len(flat))),
        ]  # fmt: skip
        check_closed_form(thing, empirical_density(flat), flat.shape[1], others, likely, seed)
    z = torch.randn(6, 2, generator=g, dtype=torch.float64)
    zeros, half = torch.zeros(6, dtype=torch.float64), torch.full((6,), 0.5).double()
    nearest = points[torch.cdist(z, points).argmin(1)]
    hint = "Without noise, at sigma = 0, the answer is the nearest data point, not nan."
    close(thing.denoiser(cosine)(z, zeros), nearest, hint)
    pure, some = thing.denoiser(cosine)(z, torch.ones(6).double()), torch.cat([zeros[:1], half[1:]])
    close(pure, points.mean(0).expand_as(z), "At t = 1, alpha = 0: z says nothing, and x_hat is the mean.")
    hint = "log_prob at sigma = 0, for one sample, must be refused: points have no density."
    refuses(lambda: thing.log_prob(z, some, cosine), hint)

    check_shape(Empirical(points.reshape(12, 1, 2, 1)), (1, 2, 1), seed)
    n = 12_000
    drawn = thing.sample(n, torch.Generator().manual_seed(seed))
    assert drawn.dtype == points.dtype, f"Samples have the dtype of the points, not {drawn.dtype}."
    same = (drawn[:, None] == points).all(-1)
    assert same.any(1).all(), "Samples of a data set are its points, each as it is."
    for part, what in ((same, "samples"), (same[: n // 2], "first half of the samples")):
        count = part.sum(0)
        off = (count - len(part) / 12).abs().max()
        assert off < 6 * (len(part) / 12) ** 0.5, (
            f"Each of 12 points is one in 12 of the {what}: here they come {count.tolist()} times."
        )
    dozens = same.float().argmax(1).reshape(-1, 12).sort(1).values
    assert (dozens.diff(dim=1) == 0).any(1).float().mean() > 0.9, (
        "Points are drawn with replacement: 12 samples of 12 points almost never hold each of them once."
    )
    _, again = torch.unique(dozens, dim=0, return_counts=True)
    assert again.max() < 20, "The same twelve samples come again and again: each is drawn by itself."
    check_generator(thing, seed)
    small = Empirical(points.float())
    found = small.denoiser(cosine)(z, half), small.log_prob(z, half, cosine)
    assert {f.dtype for f in found} == {torch.float64}, "A float32 data set answers in the dtype of z, too."
    assert small.sample(3).dtype == torch.float32, "A float32 data set has float32 samples."

    holes = points.clone()
    holes[3, 1] = math.nan
    for bad, what in (
        (points[:0], "An empty data set"),
        (points[0], "One point without an axis for the samples"),
        (points[:, :0], "Points of no dimension"),
        (holes, "One nan"),
        (points.long(), "Points of whole numbers, not floats,"),
    ):
        refuses(lambda: Empirical(bad), f"{what} must be refused.")
