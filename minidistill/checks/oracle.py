"""Checks of the oracles: everything against quadrature, automatic derivatives and a fine ODE solve."""

import math

import torch

from minidistill import oracle
from minidistill.checks import close, refuses
from minidistill.schedules import cosine, edm, rectified_flow


def rotation(d: int, generator: torch.Generator) -> torch.Tensor:
    """A random rotation, float64."""
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def mixture(d: int, k: int, seed: int, ProductMixture=oracle.ProductMixture):
    """A random rotated product of d mixtures of k components."""
    g = torch.Generator().manual_seed(seed)
    weights = 0.2 + torch.rand(d, k, generator=g, dtype=torch.float64)
    means = 1.5 * torch.randn(d, k, generator=g, dtype=torch.float64)
    stds = 0.1 + 0.3 * torch.rand(d, k, generator=g, dtype=torch.float64)
    return ProductMixture(weights / weights.sum(1, keepdim=True), means, stds, rotation(d, g))


def check_tweedie(thing, z: torch.Tensor, seed: int = 0) -> None:
    """x_hat = (z + sigma^2 score) / alpha, with the score by automatic differentiation of log_prob."""
    t = 0.1 + 0.8 * torch.rand(len(z), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for schedule in (cosine, rectified_flow, edm):
        alpha, sigma = (a[:, None] for a in schedule(t))
        z = z.detach().requires_grad_()
        score = torch.autograd.grad(thing.log_prob(z, t, schedule).sum(), z)[0]
        x_hat = thing.denoiser(schedule)(z, t)
        close(
            x_hat,
            (z + sigma**2 * score) / alpha,
            "The denoiser must agree with the score (Tweedie's formula).",
            1e-8,
        )


def check_flow(thing, z: torch.Tensor, atol: float = 1e-7, steps: int = 120) -> None:
    """The flow map against a fine Runge-Kutta solve of dz/dt = alpha' x_hat + sigma' eps_hat, and back."""
    for schedule, d_alpha, d_sigma in (
        (rectified_flow, lambda t: -1 + 0 * t, lambda t: 1 + 0 * t),
        (
            cosine,
            lambda t: -torch.pi / 2 * torch.sin(torch.pi / 2 * t),
            lambda t: torch.pi / 2 * torch.cos(torch.pi / 2 * t),
        ),
    ):

        def velocity(z, t):
            alpha, sigma = (a[:, None] for a in schedule(t))
            x_hat = thing.denoiser(schedule)(z, t)
            return d_alpha(t)[:, None] * x_hat + d_sigma(t)[:, None] * (z - alpha * x_hat) / sigma

        # each sample travels between its own two times, some to less noise and some to more
        t = torch.linspace(0.9, 0.5, len(z), dtype=torch.float64)
        s = torch.linspace(0.4, 0.7, len(z), dtype=torch.float64)
        y, h, now = z, (s - t) / steps, t
        for _ in range(steps):
            k1 = velocity(y, now)
            k2 = velocity(y + h[:, None] / 2 * k1, now + h / 2)
            k3 = velocity(y + h[:, None] / 2 * k2, now + h / 2)
            k4 = velocity(y + h[:, None] * k3, now + h)
            y, now = y + h[:, None] / 6 * (k1 + 2 * k2 + 2 * k3 + k4), now + h
        close(
            thing.flow_map(z, t, s, schedule),
            y,
            "The flow map must follow the probability-flow ODE.",
            atol,
            0.0,
        )
        close(thing.flow_map(y, s, t, schedule), z, "The flow map must run backwards, too.", atol, 0.0)
        close(thing.flow_map(z, t, t, schedule), z, "From t to t nothing moves.", atol, 0.0)

        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        rate = torch.func.jvp(lambda u: thing.flow_map(z, t, s + u, schedule), (zero,), (one,))[1]
        here = thing.flow_map(z, t, s, schedule)
        close(rate, velocity(here, s), "d flow_map / ds must be the velocity there.", 1e-8, 1e-8)


def check_gaussian(Gaussian=oracle.Gaussian, seed: int = 0) -> None:
    """Density against torch's own Gaussian, denoiser against the score, flow map against an ODE solve."""
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(3, 3, generator=g, dtype=torch.float64)
    mean, cov = torch.randn(3, generator=g, dtype=torch.float64), root @ root.T + 0.1 * torch.eye(3).double()
    gaussian = Gaussian(mean, cov)
    z = torch.randn(5, 3, generator=g, dtype=torch.float64)
    check_tweedie(gaussian, z, seed)
    check_flow(gaussian, z)
    expected = torch.distributions.MultivariateNormal(
        0.8 * mean, 0.64 * cov + 0.36 * torch.eye(3).double()
    ).log_prob(z)
    t = torch.full((5,), math.atan2(0.6, 0.8) * 2 / math.pi, dtype=torch.float64)
    close(gaussian.log_prob(z, t, cosine), expected, "z_t ~ N(alpha m, alpha^2 C + sigma^2 I).", 1e-9)
    check_samples(gaussian, mean, cov, seed)
    refuses(lambda: Gaussian(mean, -cov), "A covariance with negative eigenvalues must be refused.")
    refuses(lambda: Gaussian(mean, cov[:2]), "A covariance of another size must be refused.")


def check_product_mixture(ProductMixture=oracle.ProductMixture, seed: int = 0) -> None:
    """Denoiser, flow map, tails, ends, gradients and samples of a rotated mixture in three dimensions."""
    # in three dimensions, where a rotation is not its own inverse
    thing = mixture(3, 3, seed, ProductMixture)
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    check_tweedie(thing, z, seed)
    check_flow(thing, z[:8])
    # far in the tails, where a CDF is 0 or 1 to all digits
    tails = torch.tensor([[30.0, -30.0, 0.0], [-40.0, 40.0, 1.0]], dtype=torch.float64)
    t, s = torch.full((2,), 0.9).double(), torch.full((2,), 0.4).double()
    back = thing.flow_map(thing.flow_map(tails, t, s, cosine), s, t, cosine)
    close(
        back, tails, "The tails lose their digits: match log CDF on the left and log SF on the right.", 1e-9
    )
    # from pure noise to clean data and back; EDM's large times; gradients; images; float32
    ends = torch.ones(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    for schedule, scale in ((cosine, 1.0), (edm, 80.0)):
        noise = scale * z
        data = thing.flow_map(noise, scale * ends[0], ends[1], schedule)
        if schedule is cosine:  # from a unit Gaussian to the data: the quantile is conserved
            y, parts = data @ thing.rotation, (thing.weights, thing.means, thing.stds)
            level = sum(w * torch.special.ndtr((y - m) / s) for w, m, s in zip(*(a.T for a in parts)))
            quantile = torch.special.ndtr(noise @ thing.rotation)
            close(level, quantile, "From t = 1 to 0 the quantile must stay: are the times clipped?", 1e-9)
        back = thing.flow_map(data, ends[1], scale * ends[0], schedule)
        close(back, noise, "From noise to data and back: are times or values clipped?", scale * 1e-9)
    few = z[:3].clone().requires_grad_(), ends[0][:3] * 0.8, ends[0][:3] * 0.3
    (gradient,) = torch.autograd.grad(thing.flow_map(*few, cosine).square().sum(), few[0])
    shift = torch.zeros_like(few[0])
    shift[0, 1] = 1e-6
    change = thing.flow_map(few[0].detach() + shift, *few[1:], cosine).square().sum()
    change = change - thing.flow_map(few[0].detach() - shift, *few[1:], cosine).square().sum()
    close(gradient[0, 1], change / 2e-6, "The flow map must carry the gradient in z.", 1e-6, 1e-6)
    image = thing.flow_map(z.reshape(40, 1, 3, 1), 0.8 * ends[0], ends[1], cosine)
    assert image.shape == (40, 1, 3, 1), "Images are points with more axes, and stay images."
    assert thing.flow_map(z.float(), *(e.float() for e in ends), cosine).dtype == torch.float32, (
        "float32 stays."
    )
    component = (thing.weights * thing.means).sum(1)
    variance = (thing.weights * (thing.stds**2 + thing.means**2)).sum(1) - component**2
    check_samples(
        thing, thing.rotation @ component, thing.rotation @ variance.diag() @ thing.rotation.T, seed
    )
    refuses(lambda: ProductMixture(thing.weights, thing.means, 0 * thing.stds), "stds of 0 must be refused.")
    refuses(
        lambda: ProductMixture(2 * thing.weights, thing.means, thing.stds),
        "Weights that sum to 2 must be refused.",
    )
    refuses(
        lambda: ProductMixture(thing.weights, thing.means, thing.stds, 2 * thing.rotation),
        "Only rotations are allowed.",
    )


def check_empirical(Empirical=oracle.Empirical, seed: int = 0) -> None:
    """The denoiser of a data set against the score, and at no noise at all."""
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(12, 2, generator=g, dtype=torch.float64)
    thing = Empirical(points)
    z = torch.randn(6, 2, generator=g, dtype=torch.float64)
    check_tweedie(thing, z, seed)
    zero = torch.zeros(6, dtype=torch.float64)
    nearest = points[torch.cdist(z, points).argmin(1)]
    close(
        thing.denoiser(cosine)(z, zero),
        nearest,
        "Without noise, the answer is the nearest data point, not nan.",
    )
    images = Empirical(points.reshape(12, 1, 2, 1)).denoiser(cosine)(z.reshape(6, 1, 2, 1), zero + 0.5)
    close(images.flatten(1), thing.denoiser(cosine)(z, zero + 0.5), "Images are points with more axes.")
    drawn = thing.sample(50, torch.Generator().manual_seed(seed))
    assert (drawn[:, None] == points).all(-1).any(1).all(), "Samples of a data set are its points."
    refuses(lambda: Empirical(points[:0]), "An empty data set must be refused.")


def check_samples(thing, mean: torch.Tensor, cov: torch.Tensor, seed: int, n: int = 20_000) -> None:
    """The mean and covariance of n samples, to six standard errors."""
    x = thing.sample(n, torch.Generator().manual_seed(seed))
    assert x.shape == (n, len(mean)), "sample(n) returns (n, d)."
    bound = 6 * cov.diagonal().max().item() / n**0.5
    close(
        x.mean(0), mean, "The samples have the wrong mean.", 6 * (cov.diagonal().max().item() / n) ** 0.5, 0.0
    )
    close(torch.cov(x.T), cov, "The samples have the wrong covariance.", 3 * bound, 0.0)
