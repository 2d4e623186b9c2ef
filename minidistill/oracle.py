"""Oracles: data distributions whose denoiser, marginals and flow map are known exactly.

For z_t = alpha x + sigma eps and data made of Gaussians, everything is closed form: the marginal p_t is a
mixture of Gaussians, the denoiser E[x | z_t] is a softmax over components, and one more thing that networks
never give us, the flow map that carries z_t along the probability-flow ODE to any other time s.

    Gaussian         x ~ N(m, C)                   flow map: each principal axis is rescaled about its mean
    ProductMixture   one 1-D mixture per axis,     flow map: in one dimension an ODE cannot reorder its
                     then a rotation               points, so the quantile stays: F_s(z_s) = F_t(z_t)
    Empirical        a finite data set             no closed-form flow map; its flow ends on the data points

Run a sampler, a target or a loss on an oracle first: there the right answer is known. Every method takes any
schedule and any times (b,), batched over z (b, *dims), in z's dtype; use float64 for exactness. It raises
ValueError for z of another number of dimensions and for another number of times. `sample` draws n data
points, n from 1, independently and in the parameters' dtype.
"""

import math

import torch
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Generator, Schedule, Time, Whole
from minidistill.schedules import coefficients, randn_like


def flat(z: Batch, d: int) -> Tensor:
    """z as (b, d), in float32 at least. Raises ValueError unless each sample has d numbers."""
    need.samples(z=z)
    if z.ndim < 2 or z[0].numel() != d:
        raise ValueError(
            f"this distribution has {d} dimensions: z must be (b, {d}) or images of {d} pixels, "
            f"got {tuple(z.shape)}"
        )
    return z.flatten(1).to(need.wide(z.dtype))


class Gaussian:
    """N(mean, cov): linear, so that every covariance can be propagated exactly. mean: (d,), cov: (d, d).

    Raises ValueError unless both are finite, and cov is symmetric and positive definite.
    """

    def __init__(self, mean: Tensor, cov: Tensor):
        need.finite(mean=mean, cov=cov)
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ValueError(f"need mean (d,) and cov (d, d), got {tuple(mean.shape)} and {tuple(cov.shape)}")
        if not torch.allclose(cov, cov.mT):
            raise ValueError("a covariance matrix must be symmetric")
        self.mean = mean
        self.variances, self.axes = torch.linalg.eigh(cov)  # cov = axes diag(variances) axes^T
        rounding = len(mean) * torch.finfo(cov.dtype).eps * self.variances[-1]  # what 0 may be computed as
        if not self.variances[0] > rounding:
            raise ValueError(f"cov must be positive definite, smallest eigenvalue {self.variances[0]:.3g}")

    def denoiser(self, schedule: Schedule):
        """E[x | z_t], linear in z."""

        def denoiser(z: Batch, t: Time) -> Batch:
            y = flat(z, len(self.mean))
            alpha, sigma = coefficients(schedule, t, y)
            variances, mean, axes = (a.to(y) for a in (self.variances, self.mean, self.axes))
            gain = alpha * variances / (alpha**2 * variances + sigma**2)
            return (mean + ((y - alpha * mean) @ axes * gain) @ axes.T).view_as(z).to(z.dtype)

        denoiser.predicts = "x"
        return denoiser

    def flow_map(self, z: Batch, t: Time, s: Time, schedule: Schedule) -> Batch:
        """Where the probability-flow ODE carries z from time t to time s: differentiable in all of them."""
        y = flat(z, len(self.mean))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (coefficients(schedule, u, y) for u in (t, s))
        variances, mean, axes = (a.to(y) for a in (self.variances, self.mean, self.axes))
        stretch = ((alpha_s**2 * variances + sigma_s**2) / (alpha_t**2 * variances + sigma_t**2)).sqrt()
        moved = alpha_s * mean + ((y - alpha_t * mean) @ axes * stretch) @ axes.T
        return moved.view_as(z).to(z.dtype)

    def log_prob(self, z: Batch, t: Time, schedule: Schedule) -> Time:
        """The log density of z_t: (b,). Its gradient is the score."""
        y = flat(z, len(self.mean))
        alpha, sigma = coefficients(schedule, t, y)
        variance = alpha**2 * self.variances.to(y) + sigma**2
        y = (y - alpha * self.mean.to(y)) @ self.axes.to(y)
        return (-0.5 * (y**2 / variance + (2 * torch.pi * variance).log()).sum(1)).to(z.dtype)

    def sample(self, n: Whole, generator: Generator = None) -> Tensor:
        """n exact data points: (n, d)."""
        eps = randn_like(self.mean.new_empty(need.whole("n", n), len(self.mean)), generator)
        return self.mean + eps * self.variances.sqrt() @ self.axes.T


class ProductMixture:
    """One 1-D Gaussian mixture per coordinate, then a rotation: many modes in any dimension, all exact.

    weights, means, stds: (d, k), for d coordinates and k components. rotation: (d, d), orthogonal; x =
    rotation @ y. Raises ValueError unless all are finite, the weights of each coordinate are at least 0 and
    sum to 1, and stds are above 0.
    """

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor, rotation: Tensor | None = None):
        need.finite(weights=weights, means=means, stds=stds)
        if not (weights.ndim == 2 and weights.shape == means.shape == stds.shape):
            raise ValueError("weights, means and stds must all be (d, k): k components for d coordinates")
        if not ((weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones_like(weights[:, 0]))):
            raise ValueError("the weights of each coordinate must be at least 0 and sum to 1")
        if not (stds > 0).all():
            raise ValueError("stds must be positive; for points without width use Empirical")
        eye = torch.eye(len(means), dtype=means.dtype, device=means.device)
        need.finite(rotation=eye if rotation is None else rotation)
        self.rotation = eye if rotation is None else rotation.to(eye)
        if self.rotation.shape != eye.shape or not torch.allclose(
            self.rotation @ self.rotation.T, eye, atol=1e-6
        ):
            raise ValueError(f"rotation must be an orthogonal matrix of shape {tuple(eye.shape)}")
        self.weights, self.means, self.stds = weights, means, stds

    def marginal(self, t: Time, schedule: Schedule, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log weights (d, k), means and variances (b, d, k) of z_t in the coordinates of the mixtures."""
        alpha, sigma = coefficients(schedule, t, z[..., None])
        return self.weights.to(z).log(), alpha * self.means.to(z), (alpha * self.stds.to(z)) ** 2 + sigma**2

    def unrotate(self, z: Batch) -> Tensor:
        """z in the coordinates in which the mixtures are independent: (b, d), in float32 at least."""
        y = flat(z, len(self.means))
        return y @ self.rotation.to(y)

    def denoiser(self, schedule: Schedule):
        """E[x | z_t]: the posterior means of the components, weighted by a softmax."""

        def denoiser(z: Batch, t: Time) -> Batch:
            y = self.unrotate(z)
            log_weights, means, variances = self.marginal(t, schedule, y)
            alpha, _ = coefficients(schedule, t, y[..., None])
            gap = y[..., None] - means
            responsibilities = (log_weights - 0.5 * (gap**2 / variances + variances.log())).softmax(-1)
            posterior = self.means.to(y) + alpha * self.stds.to(y) ** 2 / variances * gap
            return ((responsibilities * posterior).sum(-1) @ self.rotation.to(y).T).view_as(z).to(z.dtype)

        denoiser.predicts = "x"
        return denoiser

    def flow_map(self, z: Batch, t: Time, s: Time, schedule: Schedule) -> Batch:
        """Where the probability-flow ODE carries z from time t to time s, to rounding.

        Quantiles are matched by bisection, in log CDF below the median and log survival function above it, so
        that the tails keep their digits. Differentiable once in z, t and s, backward and forward.
        """
        y = self.unrotate(z)
        (w, m_t, v_t), (_, m_s, v_s) = self.marginal(t, schedule, y), self.marginal(s, schedule, y)
        # below the median the CDF, above it the CDF of the mirrored mixture
        sign = torch.where(log_cdf(y, w, m_t, v_t) < math.log(0.5), 1.0, -1.0).to(y)
        level = log_cdf(y, w, m_t, v_t, sign)

        with torch.no_grad():
            # each component alone would carry y to one point: the answer lies between these
            alone = m_s + (v_s / v_t).sqrt() * (y[..., None] - m_t)
            low, high = alone.amin(-1), alone.amax(-1)
            for _ in range(80 if y.dtype == torch.float64 else 40):
                middle = (low + high) / 2
                above = sign * (log_cdf(middle, w, m_s, v_s, sign) - level) > 0
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            root = ((low + high) / 2).detach()
        # the root with the derivative of the implicit function theorem, on a term that is 0
        gap = log_cdf(root, w, m_s, v_s, sign) - level
        y_s = root - (gap - gap.detach()) / log_cdf_slope(root, w, m_s, v_s, sign).detach()
        return (y_s @ self.rotation.to(y_s).T).view_as(z).to(z.dtype)

    def log_prob(self, z: Batch, t: Time, schedule: Schedule) -> Time:
        """The log density of z_t: (b,). Its gradient is the score."""
        y = self.unrotate(z)
        return log_density(y, *self.marginal(t, schedule, y)).sum(1).to(z.dtype)

    def sample(self, n: Whole, generator: Generator = None) -> Tensor:
        """n exact data points: (n, d)."""
        n = need.whole("n", n)
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)  # (d, n)
        eps = randn_like(self.means.new_empty(component.shape), generator)
        y = self.means.gather(1, component) + self.stds.gather(1, component) * eps
        return y.T @ self.rotation.T


def hazard(x: Tensor) -> Tensor:
    """The unit Gaussian's density over its CDF, with all digits in the tails."""
    return math.sqrt(2 / math.pi) / torch.special.erfcx(-x / math.sqrt(2))


def log_cdf(
    y: Tensor, log_weights: Tensor, means: Tensor, variances: Tensor, sign: Tensor | float = 1.0
) -> Tensor:
    """log P(Y <= y) of the 1-D mixtures, or log P(Y >= y) where sign is -1: (b, d). Differentiable once."""
    x = torch.as_tensor(sign).to(y)[..., None] * (y[..., None] - means) / variances.sqrt()
    fixed = x.detach()
    # torch's own derivative of log_ndtr loses its digits in the tails
    return (log_weights + torch.special.log_ndtr(fixed) + hazard(fixed) * (x - fixed)).logsumexp(-1)


def log_cdf_slope(y: Tensor, log_weights: Tensor, means: Tensor, variances: Tensor, sign: Tensor) -> Tensor:
    """d log_cdf / dy: (b, d)."""
    x = sign[..., None] * (y[..., None] - means) / variances.sqrt()
    shares = (log_weights + torch.special.log_ndtr(x)).softmax(-1)
    return sign * (shares * hazard(x) / variances.sqrt()).sum(-1)


def log_density(y: Tensor, log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """The log density of the 1-D mixtures: (b, d)."""
    return (
        log_weights - 0.5 * ((y[..., None] - means) ** 2 / variances + (2 * torch.pi * variances).log())
    ).logsumexp(-1)


class Empirical:
    """The optimal denoiser of a finite data set: a softmax over its points. points: (n, *dims).

    This is what a network would become if it could fit its training set perfectly. Its samples are training
    points. Raises ValueError unless there is at least one point, and all are finite.
    """

    def __init__(self, points: Tensor):
        need.finite(points=points)
        if points.ndim < 2:
            raise ValueError(f"points must be (n, *dims), got shape {tuple(points.shape)}")
        self.points = points

    def denoiser(self, schedule: Schedule):
        """E[x | z_t]: the points, weighted by how well each explains z. At sigma = 0, the nearest point."""

        def denoiser(z: Batch, t: Time) -> Batch:
            y = flat(z, self.points[0].numel())
            alpha, sigma = coefficients(schedule, t, y)
            points = self.points.flatten(1).to(y)
            # -|z - alpha x|^2 / 2 without |z|^2, which is the same for every point
            fit = alpha * (y @ points.T) - alpha**2 * points.square().sum(1) / 2
            fit = fit - fit.amax(1, keepdim=True)
            shares = (fit / (sigma**2).clamp(min=torch.finfo(y.dtype).tiny)).softmax(1)
            return (shares @ points).view_as(z).to(z.dtype)

        denoiser.predicts = "x"
        return denoiser

    def log_prob(self, z: Batch, t: Time, schedule: Schedule) -> Time:
        """The log density of z_t, a mixture of one Gaussian per point: (b,). Its gradient is the score.

        Raises ValueError where sigma = 0: points have no density.
        """
        y = flat(z, self.points[0].numel())
        alpha, sigma = coefficients(schedule, t, y)
        need.each("sigma", sigma.flatten(), z, above=0, why=": points have no density")
        points = self.points.flatten(1).to(y)
        square = y.square().sum(1, keepdim=True) - 2 * alpha * (y @ points.T)
        square = square + alpha**2 * points.square().sum(1)
        density = -0.5 * (square / sigma**2 + points.shape[1] * (2 * torch.pi * sigma**2).log())
        return (density.logsumexp(1) - math.log(len(points))).to(z.dtype)

    def sample(self, n: Whole, generator: Generator = None) -> Tensor:
        """n data points, drawn with replacement: (n, *dims)."""
        n, device = need.whole("n", n), self.points.device
        return self.points[torch.randint(len(self.points), (n,), generator=generator, device=device)]
