import math
import re

import pytest
import torch

from minidistill import oracle
from minidistill.checks import oracle as checks
from minidistill.oracle import Empirical, Gaussian, ProductMixture
from minidistill.parameterization import convert
from minidistill.samplers import ddim
from minidistill.schedules import coefficients, cosine, edm, like, rectified_flow, time_grid

CHECKS = [checks.check_gaussian, checks.check_product_mixture, checks.check_empirical]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


def changed(base, name, change):
    """base with another method: change(its own method, self, *arguments)."""

    def method(self, *args, **kwargs):
        return change(lambda *a, **k: getattr(base, name)(self, *a, **k), self, *args, **kwargs)

    return type(f"Wrong{base.__name__}", (base,), {name: method})


def denoiser(base, change):
    """base with another denoiser: change(x_hat(z, t), z, t, schedule)."""
    return changed(
        base, "denoiser", lambda own, self, schedule: lambda z, t: change(own(schedule), z, t, schedule)
    )


def density(base, change):
    """base with another log_prob: change(log_prob(z, t), z, t, schedule)."""
    return changed(
        base,
        "log_prob",
        lambda own, self, z, t, schedule: change(lambda z, t: own(z, t, schedule), z, t, schedule),
    )


def flow(base, change):
    """base with another flow map: change(flow(z, t, s), self, z, t, s, schedule)."""
    return changed(
        base,
        "flow_map",
        lambda own, self, z, t, s, schedule: change(lambda *a: own(*a, schedule), self, z, t, s, schedule),
    )


def sample(base, change):
    """base with other samples: change(sample(n, generator), self, n, generator)."""
    return changed(base, "sample", lambda own, self, n, generator=None: change(own, self, n, generator))


def made(base, change):
    """base made of other parameters: change(*parameters)."""

    class Wrong(base):
        def __init__(self, *params):
            super().__init__(*change(*params))

    return Wrong


def lenient(base, attributes):
    """base that refuses nothing: attributes(*parameters) are set as they are."""

    class Wrong(base):
        def __init__(self, *params):
            try:
                super().__init__(*params)
            except ValueError:
                self.__dict__.update(attributes(*params))

    return Wrong


def no_grad(f):
    return torch.no_grad()(f)


def eps_hat(f, z, t, schedule):
    alpha, sigma = coefficients(schedule, t, z)
    return (z - alpha * f(z, t)) / sigma


def first_of(z, d):
    """The first d numbers of each sample, and as many as there are."""
    return z.flatten(1)[:, :d] if z.ndim > 1 else z[:, None].expand(-1, d)


def numbers(self):
    return (
        self.points[0].numel()
        if isinstance(self, Empirical)
        else len(self.axes if isinstance(self, Gaussian) else self.means)
    )


def ignores_shape(own, self, z, *rest):
    """z of any number of dimensions is cut or padded."""
    d = numbers(self)
    if z.ndim == 1 or z[0].numel() != d:
        z = torch.cat([first_of(z, d)] * d, 1)[:, :d]
    return own(z, *rest)


def one_time(f):
    """A single time is expanded to the batch."""
    return lambda z, t: f(z, t.expand(len(z)) if len(t) == 1 else t)


def seeds_anew(own, self, n, generator):
    return own(n, None if generator is None else torch.Generator().manual_seed(generator.initial_seed()))


def seeds_none(own, self, n, generator):
    return own(n, torch.Generator().manual_seed(0) if generator is None else generator)


def any_number(own, self, n, generator):
    return own(max(1, int(n)), generator)


def floats(own, self, n, generator):
    return own(int(n), generator)


def none_at_all(own, self, n, generator):
    return own(n, generator) if n else self.sample(1, generator)[:0]


def common(base):
    """Mistakes that every oracle can have."""
    return {
        "log_prob: a constant is missing [oracle]": (
            density(base, lambda p, z, t, f: p(z, t) + z[0].numel() / 2 * math.log(2 * math.pi)), "The normaliser of log_prob is wrong"),
        "log_prob: sigma^d is missing [oracle]": (
            density(base, lambda p, z, t, f: p(z, t) + z[0].numel() * coefficients(f, t, z)[1].flatten().log()), "The normaliser of log_prob is wrong"),
        "log_prob: the normaliser of one dimension [oracle]": (
            density(base, lambda p, z, t, f: p(z, t) + (z[0].numel() - 1) / 2 * math.log(2 * math.pi)), "The normaliser of log_prob is wrong"),
        "log_prob: alpha's Jacobian [oracle]": (
            density(base, lambda p, z, t, f: p(z, t) - z[0].numel() * coefficients(f, t, z)[0].flatten().log().clamp(min=-9)), "The normaliser of log_prob is wrong|not the logarithm"),
        "log_prob: the log of a density [oracle]": (density(base, lambda p, z, t, f: p(z, t).exp().log()), "log_prob is not finite"),
        "log_prob: the density itself [oracle]": (density(base, lambda p, z, t, f: p(z, t).exp()), "This is the density"),
        "log_prob: minus [formula]": (density(base, lambda p, z, t, f: -p(z, t)), "has the wrong sign"),
        "log_prob: per dimension [formula]": (density(base, lambda p, z, t, f: p(z, t) / z[0].numel()), "this is their mean"),
        "log_prob: clamped far out [end]": (density(base, lambda p, z, t, f: p(z, t).clamp(min=-600)), "log_prob is clamped"),
        "log_prob: one number for all [shape]": (density(base, lambda p, z, t, f: p(z, t).sum()), "one number for each sample"),
        "log_prob: a column [shape]": (density(base, lambda p, z, t, f: p(z, t)[:, None]), "one number for each sample"),
        "log_prob: the mean over the batch [shape]": (density(base, lambda p, z, t, f: p(z, t).mean().expand(len(z))), "this is one number for all"),
        "log_prob: the first time for all [shape]": (density(base, lambda p, z, t, f: p(z, t[:1].expand_as(t))), "All samples get the time of one"),
        "log_prob: detached [gradient]": (density(base, lambda p, z, t, f: p(z, t).detach()), "here it has none: detached"),
        "log_prob: z detached [gradient]": (density(base, lambda p, z, t, f: p(z.detach(), t)), "The gradient of log_prob in z"),
        "log_prob: t detached [gradient]": (density(base, lambda p, z, t, f: p(z, t.detach())), "The gradient of log_prob in t"),
        "log_prob: the cosine schedule always [argument]": (
            changed(base, "log_prob", lambda own, self, z, t, f: own(z, t, cosine if t.max() <= 1 else f)), "schedule is ignored|The normaliser"),
        "log_prob: float64 always [precision]": (density(base, lambda p, z, t, f: p(z.double(), t)), "float32, not torch.float64"),
        "log_prob: float32 always [precision]": (density(base, lambda p, z, t, f: p(z.float(), t)), "is it float32|The normaliser"),
        "log_prob: the dtype of the times [precision]": (density(base, lambda p, z, t, f: p(z, t).to(t.dtype)), "float32, not torch.float64"),
        "log_prob: bfloat16 inside for float32 [precision]": (
            density(base, lambda p, z, t, f: p(z, t).bfloat16().to(z) if z.dtype == torch.float32 else p(z, t)), "not for float32 data"),
        "log_prob: any number of dimensions [refusal]": (changed(base, "log_prob", ignores_shape), "log_prob: z of shape"),
        "log_prob: one time is taken for all [refusal]": (density(base, lambda p, z, t, f: one_time(p)(z, t)), "log_prob: one time for six"),
        "denoiser: z itself [formula]": (denoiser(base, lambda f, z, t, schedule: z), "This is z itself"),
        "denoiser: z / alpha [formula]": (
            denoiser(base, lambda f, z, t, schedule: z / coefficients(schedule, t, z)[0]), "as if z had no noise"),
        "denoiser: eps_hat [formula]": (denoiser(base, eps_hat), "This is eps_hat"),
        "denoiser: the score [formula]": (
            denoiser(base, lambda f, z, t, schedule: -eps_hat(f, z, t, schedule) / coefficients(schedule, t, z)[1]), "This is the score"),
        "denoiser: eps_hat - x_hat [formula]": (denoiser(base, lambda f, z, t, schedule: eps_hat(f, z, t, schedule) - f(z, t)), "This is eps_hat - x_hat"),
        "denoiser: alpha x_hat [formula]": (
            denoiser(base, lambda f, z, t, schedule: coefficients(schedule, t, z)[0] * f(z, t)), "This is alpha x_hat"),
        "denoiser: clipped [formula]": (denoiser(base, lambda f, z, t, schedule: f(z, t).clamp(-1, 1)), "x_hat is clipped"),
        "denoiser: the first time for all [shape]": (denoiser(base, lambda f, z, t, schedule: f(z, t[:1].expand_as(t))), "All samples get the time of one"),
        "denoiser: flat images [shape]": (denoiser(base, lambda f, z, t, schedule: f(z, t).flatten(1)), "stay images"),
        "denoiser: another order of pixels [shape]": (
            denoiser(base, lambda f, z, t, schedule: f(z, t).flip(2) if z.ndim == 4 else f(z, t)), "that of the flat ones"),
        "denoiser: detached [gradient]": (denoiser(base, lambda f, z, t, schedule: f(z, t).detach()), "is it detached"),
        "denoiser: under no_grad [gradient]": (denoiser(base, lambda f, z, t, schedule: no_grad(f)(z, t)), "is it detached"),
        "denoiser: z detached [gradient]": (denoiser(base, lambda f, z, t, schedule: f(z.detach(), t)), "The gradient of x_hat in z is lost"),
        "denoiser: t detached [gradient]": (denoiser(base, lambda f, z, t, schedule: f(z, t.detach())), "The gradient of x_hat in t is lost"),
        "denoiser: the cosine schedule always [argument]": (
            changed(base, "denoiser", lambda own, self, schedule: own(cosine if schedule is not edm else edm)), "The schedule is ignored"),
        "denoiser: float64 always [precision]": (denoiser(base, lambda f, z, t, schedule: f(z.double(), t)), "float32, not torch.float64"),
        "denoiser: the dtype of the times [precision]": (denoiser(base, lambda f, z, t, schedule: f(z, t).to(t.dtype)), "float32, not torch.float64"),
        "denoiser: float32 always [precision]": (denoiser(base, lambda f, z, t, schedule: f(z.float(), t).to(z)), "is it float32"),
        "denoiser: bfloat16 inside for float32 [precision]": (
            denoiser(base, lambda f, z, t, schedule: f(z, t).bfloat16().to(z) if z.dtype == torch.float32 else f(z, t)), "not for float32 data"),
        "denoiser: any number of dimensions [refusal]": (
            changed(base, "denoiser", lambda own, self, schedule: lambda z, t: ignores_shape(own(schedule), self, z, t)), "denoiser: z of shape"),
        "denoiser: one time is taken for all [refusal]": (denoiser(base, lambda f, z, t, schedule: one_time(f)(z, t)), "denoiser: one time for six"),
        "sample: one too many [shape]": (sample(base, lambda own, self, n, g: own(n + 1, g)), r"sample\(1\) has the shape"),
        "sample: flat or not [shape]": (sample(base, lambda own, self, n, g: own(n, g)[:, None]), r"sample\(1\) has the shape"),
        "sample: the generator ignored [random]": (sample(base, lambda own, self, n, g: own(n)), "generator must decide all randomness"),
        "sample: seeded anew in each call [random]": (sample(base, seeds_anew), "do not seed it anew"),
        "sample: always the same without a generator [random]": (sample(base, seeds_none), "torch's own random numbers decide"),
        "sample: any number [refusal]": (sample(base, any_number), r"sample\(0\) must be refused"),
        "sample: no samples [refusal]": (sample(base, none_at_all), r"sample\(0\) must be refused"),
        "sample: a negative number [refusal]": (sample(base, lambda own, self, n, g: own(abs(n), g)), r"sample\(-1\) must be refused"),
        "sample: half a sample [refusal]": (sample(base, floats), r"sample\(2.5\) must be refused"),
        "sample: one is refused [refusal]": (sample(base, lambda own, self, n, g: own(n if n > 1 else 0, g)), "n = 1 is valid"),
        "sample: float32 always [precision]": (sample(base, lambda own, self, n, g: own(n, g).float()), "not torch.float32"),
        "sample: float64 always [precision]": (sample(base, lambda own, self, n, g: own(n, g).double()), "float32 samples"),
    }  # fmt: skip


def ddim_step(self, z, t, s, schedule):
    x_hat = self.denoiser(schedule)(z, t)
    (a, b), (c, d) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    return c * x_hat + d / b * (z - a * x_hat)


def euler_step(self, z, t, s, schedule):
    return z + like(s - t, z) * convert(self.denoiser(schedule)(z, t), z, t, schedule, "x", "velocity")


def halves(own, self, n, generator):
    """Each sample twice."""
    return own((n + 1) // 2, generator).repeat_interleave(2, 0)[:n]


def gaussian_of_the_same_moments(own, self, n, generator):
    y = own(20_000, torch.Generator().manual_seed(1))
    z = torch.randn(n, y.shape[1], generator=generator, dtype=y.dtype)
    return y.mean(0) + z @ torch.linalg.cholesky(torch.cov(y.T)).T


def two_values(own, self, n, generator):
    """Right mean and covariance, and each axis is a fair coin with a little noise."""
    signs = (torch.rand(n, len(self.axes), generator=generator, dtype=self.mean.dtype) < 0.5).to(
        self.mean
    ) * 2 - 1
    noise = torch.randn(signs.shape, generator=generator, dtype=self.mean.dtype)
    return self.mean + ((0.96 * signs + 0.28 * noise) * self.variances.sqrt()) @ self.axes.T


def uniform(own, self, n, generator):
    """Right mean and covariance, and no Gaussian."""
    eps = (torch.rand(n, len(self.mean), generator=generator, dtype=self.mean.dtype) - 0.5) * 12**0.5
    return self.mean + eps * self.variances.sqrt() @ self.axes.T


def without_roots(own, self, n, generator):
    eps = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
    return self.mean + eps * self.variances @ self.axes.T


def turned(own, self, n, generator):
    eps = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
    return self.mean + eps * self.variances.sqrt() @ self.axes


def with_flow(base):
    """Mistakes of oracles that have a flow map and a density of their own."""
    return {
        "flow: nothing moves [formula]": (flow(base, lambda own, self, z, t, s, f: own(z, t, t)), "Nothing moved|Nothing is stretched"),
        "flow: one DDIM step [formula]": (flow(base, lambda own, self, *a: ddim_step(self, *a)), "one DDIM step"),
        "flow: one step of Euler [formula]": (flow(base, lambda own, self, *a: euler_step(self, *a)), "one step of Euler|one DDIM step"),
        "flow: x_hat [formula]": (flow(base, lambda own, self, z, t, s, f: self.denoiser(f)(z, t)), "This is x_hat"),
        "flow: applied twice [formula]": (flow(base, lambda own, self, z, t, s, f: own(own(z, t, s), t, s)), "follow the probability-flow ODE|stretched by the ratio"),
        "flow: t and s exchanged [formula]": (flow(base, lambda own, self, z, t, s, f: own(z, s, t)), "are exchanged"),
        "flow: only to less noise [end]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t, torch.minimum(s, t))), "less noise only"),
        "flow: the first times for all [shape]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t[:1].expand_as(t), s[:1].expand_as(s))), "All samples get the time of one"),
        "flow: flat images [shape]": (flow(base, lambda own, self, z, t, s, f: own(z, t, s).flatten(1)), "stay images"),
        "flow: detached [gradient]": (flow(base, lambda own, self, *a: own(*a[:3]).detach()), "carries no gradient"),
        "flow: detached in z [gradient]": (flow(base, lambda own, self, z, t, s, f: own(z.detach(), t, s)), "carries no gradient in z"),
        "flow: detached in t [gradient]": (flow(base, lambda own, self, z, t, s, f: own(z, t.detach(), s)), "carries no gradient in t"),
        "flow: detached in s [gradient]": (flow(base, lambda own, self, z, t, s, f: own(z, t, s.detach())), "carries no gradient in s"),
        "flow: detached, and 0 z added [gradient]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t, s).detach() + 0 * z), "carries no gradient in t"),
        "flow: the gradient of the identity [gradient]": (
            flow(base, lambda own, self, z, t, s, f: own(z.detach(), t, s) + z - z.detach()), "another gradient in z than its values"),
        "flow: the gradient in t of none [gradient]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t.detach(), s) + 0 * like(t, z)), "is a part of it detached"),
        "flow: the gradient in s of none [gradient]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t, s.detach()) + 0 * like(s, z)), "d flow_map / ds must be the velocity"),
        "flow: the cosine schedule always [argument]": (
            changed(base, "flow_map", lambda own, self, z, t, s, f: own(z, t, s, cosine if max(t.max(), s.max()) <= 1 else f)), "The schedule is ignored|ODE, on rectified_flow"),
        "flow: float64 always [precision]": (flow(base, lambda own, self, z, t, s, f: own(z.double(), t, s)), "float32, not torch.float64"),
        "flow: the dtype of the times [precision]": (flow(base, lambda own, self, z, t, s, f: own(z, t, s).to(t.dtype)), "float32, not torch.float64"),
        "flow: float32 always [precision]": (flow(base, lambda own, self, z, t, s, f: own(z.float(), t, s).to(z)), "digits are lost|is it float32"),
        "flow: bfloat16 inside for float32 [precision]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t, s).bfloat16().to(z) if z.dtype == torch.float32 else own(z, t, s)), "not for float32 data"),
        "flow: any number of dimensions [refusal]": (
            flow(base, lambda own, self, z, t, s, f: ignores_shape(own, self, z, t, s)), "flow_map: z of shape"),
        "flow: one t is taken for all [refusal]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t.expand(len(z)) if len(t) == 1 else t, s)), "flow_map: one t for all"),
        "flow: one s is taken for all [refusal]": (
            flow(base, lambda own, self, z, t, s, f: own(z, t, s.expand(len(z)) if len(s) == 1 else s)), "flow_map: one s for all"),
        "denoiser: nan at t = 1 [end]": (
            denoiser(base, lambda f, z, t, schedule: f(z, t) + 0 / coefficients(schedule, t, z)[0]), "At t = 1, alpha = 0"),
        "denoiser: t at least 1e-3 [end]": (denoiser(base, lambda f, z, t, schedule: f(z, t.clamp(min=1e-3))), "At t = 0, sigma = 0"),
        "denoiser: nan at t = 0 [end]": (
            denoiser(base, lambda f, z, t, schedule: f(z, t) + 0 / coefficients(schedule, t, z)[1]), "At t = 0, sigma = 0"),
        "sample: the mean [oracle]": (sample(base, lambda own, self, n, g: own(n, g) * 0.9), "wrong mean|wrong covariance"),
        "sample: the same for all [random]": (sample(base, lambda own, self, n, g: own(1, g).expand(n, -1).clone()), "The same sample twice"),
        "sample: each one twice [random]": (sample(base, halves), "The same sample twice"),
        "sample: in order [random]": (sample(base, lambda own, self, n, g: own(n, g).sort(0).values), "wrong covariance|first half"),
        "sample: sorted by the first coordinate [random]": (
            sample(base, lambda own, self, n, g: (x := own(n, g))[x[:, 0].argsort()]), "first half of the samples|not drawn independently"),
        "sample: each with its opposite [random]": (sample(base, opposite), "not drawn independently|another distribution|wrong"),
        "sample: one coordinate shuffled [random]": (
            sample(base, lambda own, self, n, g: torch.cat([(x := own(n, g))[:, :1].roll(n // 2, 0), x[:, 1:]], 1)), "wrong covariance"),
    }  # fmt: skip


def opposite(own, self, n, generator):
    """Every second sample mirrors the one before about the mean."""
    x = own(n, generator)
    centre = self.mean if isinstance(self, Gaussian) else self.rotation @ (self.weights * self.means).sum(1)
    x[1::2] = 2 * centre - x[::2][: n // 2]
    return x


def unchecked_gaussian(mean, cov):
    """What Gaussian keeps, of anything."""
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or mean.shape != cov.shape[:1]:
        raise ValueError("shape")
    variances, axes = torch.linalg.eigh(cov.nan_to_num(1.0))
    return {"mean": mean, "variances": variances.abs(), "axes": axes}


def accepting(accepts, attributes, base):
    """base that takes parameters where accepts(*parameters), too."""

    class Wrong(base):
        def __init__(self, *params):
            try:
                super().__init__(*params)
            except ValueError:
                if not accepts(*params):
                    raise
                self.__dict__.update(attributes(*params))

    return Wrong


def finite(*params):
    return all(p.isfinite().all() for p in params)


def eigenvalues(cov):
    return torch.linalg.eigvalsh((cov + cov.mT) / 2)


def square(mean, cov):
    return finite(mean, cov) and mean.ndim == 1 and cov.shape == (len(mean), len(mean))


class NoNoiseInTheGain(Gaussian):
    def denoiser(self, schedule):
        return lambda z, t: z / schedule(t)[0][:, None]


class NoStretch(Gaussian):
    def sample(self, n, generator=None):
        eps = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + eps @ self.axes.T


def gaussian_flow(stretch, moves=lambda a: a):
    """The flow map with another stretch(variance at s, variance at t, alphas) and another motion of the mean."""

    class Wrong(Gaussian):
        def flow_map(self, z, t, s, schedule):
            (a, b), (c, d) = coefficients(schedule, t, z), coefficients(schedule, s, z)
            factor = stretch(c**2 * self.variances + d**2, a**2 * self.variances + b**2, c, a)
            return moves(c) * self.mean + ((z - moves(a) * self.mean) @ self.axes * factor) @ self.axes.T

    return Wrong


GAUSSIAN = common(Gaussian) | with_flow(Gaussian) | {
    "NoNoiseInTheGain [formula]": (NoNoiseInTheGain, "as if z had no noise"),
    "StretchByVariance [formula]": (gaussian_flow(lambda s, t, c, a: s / t), "take the root"),
    "the stretch upside down [formula]": (gaussian_flow(lambda s, t, c, a: (t / s).sqrt()), "upside down"),
    "one stretch for all axes [formula]": (
        gaussian_flow(lambda s, t, c, a: (s / t).sqrt().mean(1, keepdim=True)), "Every axis has its own stretch"),
    "no noise in the stretch [formula]": (gaussian_flow(lambda s, t, c, a: c / a), "The noise is missing in the stretch"),
    "the mean does not move [formula]": (gaussian_flow(lambda s, t, c, a: (s / t).sqrt(), lambda a: 1.0), "The mean moves, too"),
    "the flow about 0 [formula]": (gaussian_flow(lambda s, t, c, a: (s / t).sqrt(), lambda a: 0.0), "The mean moves, too"),
    "NoStretch [oracle]": (NoStretch, "wrong covariance"),
    "the mean ignored by the denoiser [formula]": (denoiser_of := changed(Gaussian, "denoiser", lambda own, self, schedule: (
        Gaussian(0 * self.mean, self.axes @ self.variances.diag() @ self.axes.T).denoiser(schedule))), "The mean is ignored"),
    "the covariances ignored by the denoiser [formula]": (changed(Gaussian, "denoiser", lambda own, self, schedule: (
        Gaussian(self.mean, (self.axes @ self.variances.diag() @ self.axes.T).diagonal().diag()).denoiser(schedule))),
        "Covariances of coordinates are ignored"),
    "unit data for the denoiser [formula]": (changed(Gaussian, "denoiser", lambda own, self, schedule: (
        Gaussian(self.mean, torch.eye(len(self.mean)).to(self.mean)).denoiser(schedule))), "The covariance is ignored"),
    "the mean of the data [formula]": (denoiser(Gaussian, lambda f, z, t, schedule: f(0 * z, 1 + 0 * t) if schedule is not edm else f(z, t)), "z is ignored"),
    "uniform with the right moments [oracle]": (sample(Gaussian, uniform), "have another distribution"),
    "coins with the right moments [oracle]": (sample(Gaussian, two_values), "have another distribution"),
    "sampled with variances for deviations [oracle]": (sample(Gaussian, without_roots), "wrong covariance"),
    "sampled along turned axes [oracle]": (sample(Gaussian, turned), "wrong covariance"),
    "sampled without the mean [oracle]": (sample(Gaussian, lambda own, self, n, g: own(n, g) - self.mean), "wrong mean"),
    "nothing is refused [refusal]": (lenient(Gaussian, unchecked_gaussian), "with negative eigenvalues"),
    "any symmetric matrix [refusal]": (
        accepting(lambda m, c: square(m, c) and torch.equal(c, c.mT), unchecked_gaussian, Gaussian), "with negative eigenvalues"),
    "one negative eigenvalue [refusal]": (
        accepting(lambda m, c: square(m, c) and (eigenvalues(c) > 0).any() and torch.allclose(c, c.mT), unchecked_gaussian, Gaussian),
        "with one negative eigenvalue"),
    "semidefinite [refusal]": (
        accepting(lambda m, c: square(m, c) and (eigenvalues(c) > -1e-9).all() and torch.allclose(c, c.mT), unchecked_gaussian, Gaussian),
        "with an eigenvalue of 0"),
    "any square matrix [refusal]": (
        accepting(lambda m, c: square(m, c) and (eigenvalues(c) > 1e-9).all(), unchecked_gaussian, Gaussian), "not symmetric"),
    "one nan in the covariance [refusal]": (
        accepting(lambda m, c: c.isnan().any() and c.ndim == 2 and finite(m), unchecked_gaussian, Gaussian), "with one nan"),
    "one nan in the mean [refusal]": (
        accepting(lambda m, c: m.isnan().any() and finite(c), unchecked_gaussian, Gaussian), "A mean of .*nan"),
    "a mean of one number broadcast [refusal]": (
        made(Gaussian, lambda m, c: (m.expand(len(c)) if m.shape == (1,) else m, c)), "A mean of "),
    "a mean with a batch [refusal]": (made(Gaussian, lambda m, c: (m.squeeze(0), c)), "A mean of "),
    "variances taken for a covariance [refusal]": (made(Gaussian, lambda m, c: (m, c.diag() if c.ndim == 1 else c)), r"of shape \(3,\)"),
    "the covariance cut to the mean [refusal]": (
        made(Gaussian, lambda m, c: (m[: len(c)], c) if c.ndim == 2 and c.shape[0] == c.shape[1] and len(c) < len(m) else (m, c)), "another size than the mean"),
    "at most 3 dimensions [refusal]": (
        made(Gaussian, lambda m, c: (m, c if len(m) < 9 else -c)), "A covariance in 64 dimensions is valid"),
}  # fmt: skip


class PriorWeights(ProductMixture):
    def denoiser(self, schedule):
        def denoiser(z, t):
            y = self.unrotate(z)
            _, means, variances = self.marginal(t, schedule, y)
            alpha = schedule(t)[0][:, None, None]
            posterior = self.means + alpha * self.stds**2 / variances * (y[..., None] - means)
            return (self.weights * posterior).sum(-1) @ self.rotation.T

        return denoiser


class NoWidthInTheSoftmax(ProductMixture):
    def denoiser(self, schedule):
        def denoiser(z, t):
            y = self.unrotate(z)
            log_weights, means, variances = self.marginal(t, schedule, y)
            gap = y[..., None] - means
            shares = (log_weights - 0.5 * gap**2 / variances).softmax(-1)
            posterior = self.means + schedule(t)[0][:, None, None] * self.stds**2 / variances * gap
            return (shares * posterior).sum(-1) @ self.rotation.T

        return denoiser


class RotatedTheWrongWay(ProductMixture):
    def unrotate(self, z):
        return z @ self.rotation.T


class CdfOnly(ProductMixture):
    """Quantiles matched in the CDF itself: right in the middle, and without digits in the tails."""

    def flow_map(self, z, t, s, schedule):
        right = super().flow_map(z, t, s, schedule)
        y = self.unrotate(z)
        (w, m_t, v_t), (_, m_s, v_s) = self.marginal(t, schedule, y), self.marginal(s, schedule, y)
        level = oracle.log_cdf(y, w, m_t, v_t).exp()
        low, high = torch.full_like(y, -50.0), torch.full_like(y, 50.0)
        for _ in range(100):
            middle = (low + high) / 2
            above = oracle.log_cdf(middle, w, m_s, v_s).exp() > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        found = (low @ self.rotation.to(low).T).view_as(z).to(z.dtype)
        return torch.where(z.abs() > 20, found, right)


class StraightLine(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        return z + (s - t)[:, None] * (z - self.denoiser(schedule)(z, t)) / t[:, None]


def of_other_parts(change):
    """The denoiser of a mixture of other weights, means, stds, rotation."""

    class Wrong(ProductMixture):
        def denoiser(self, schedule):
            other = ProductMixture(*change(self.weights, self.means, self.stds, self.rotation))
            return other.denoiser(schedule)

    return Wrong


def one_component(own, self, n, generator):
    """The same component for all coordinates."""
    k = torch.multinomial(self.weights[0], n, replacement=True, generator=generator)
    eps = torch.randn(n, len(self.means), generator=generator, dtype=self.means.dtype)
    return (self.means[:, k].T + self.stds[:, k].T * eps) @ self.rotation.T


def by_parts(weights=lambda w: w, stds=lambda s: s, turn=lambda r: r.T):
    """Samples with other weights, widths or another rotation."""

    def draw(own, self, n, generator):
        component = torch.multinomial(weights(self.weights), n, replacement=True, generator=generator)
        eps = torch.randn(component.shape, generator=generator, dtype=self.means.dtype)
        y = self.means.gather(1, component) + stds(self.stds).gather(1, component) * eps
        return y.T @ turn(self.rotation)

    return sample(ProductMixture, draw)


def unchecked_mixture(weights, means, stds, rotation):
    return {"weights": weights, "means": means, "stds": stds, "rotation": rotation}


def mixture_where(accepts):
    return accepting(accepts, unchecked_mixture, ProductMixture)


def sound(w, m, s, r):
    return (
        finite(w, m, s, r) and w.ndim == 2 and w.shape == m.shape == s.shape and r.shape == (len(m), len(m))
    )


def turns(r):
    return torch.allclose(r @ r.T, torch.eye(len(r)).to(r))


def sums(w):
    return torch.allclose(w.sum(1), torch.ones(len(w)).to(w))


def broadcast_parts(w, m, s, r):
    shape = torch.broadcast_shapes(w.shape, m.shape, s.shape)
    return w.expand(shape), m.expand(shape), s.expand(shape), r


MIXTURE = common(ProductMixture) | with_flow(ProductMixture) | {
    "PriorWeights [formula]": (PriorWeights, "count by their weights"),
    "NoWidthInTheSoftmax [formula]": (NoWidthInTheSoftmax, "std is missing in the softmax"),
    "RotatedTheWrongWay [formula]": (RotatedTheWrongWay, "The rotation is turned around"),
    "the denoiser of the turned rotation [formula]": (of_other_parts(lambda w, m, s, r: (w, m, s, r.T)), "rotation is turned around"),
    "no rotation in the denoiser [formula]": (of_other_parts(lambda w, m, s, r: (w, m, s, torch.eye(len(r)).to(r))), "The rotation is ignored"),
    "even weights in the denoiser [formula]": (of_other_parts(lambda w, m, s, r: (torch.full_like(w, 1 / 3), m, s, r)), "The weights are ignored"),
    "stds as variances in the denoiser [formula]": (of_other_parts(lambda w, m, s, r: (w, m, s**0.5, r)), "stds are taken for variances"),
    "no widths in the denoiser [formula]": (of_other_parts(lambda w, m, s, r: (w, m, 1e-9 * s, r)), "The stds are ignored"),
    "the denoiser's answer not rotated [formula]": (
        changed(ProductMixture, "denoiser", lambda own, self, schedule: lambda z, t: own(schedule)(z, t) @ self.rotation), "not rotated back"),
    "CdfOnly [oracle]": (CdfOnly, "The tails lose their digits"),
    "StraightLine [formula]": (StraightLine, "one step of Euler|one DDIM step"),
    "ClampedTimes [end]": (
        flow(ProductMixture, lambda own, self, z, t, s, f: own(z, t.clamp(0.01, 80), s.clamp(0.01, 80))), "are the times clipped"),
    "times clipped at 0.99 [end]": (
        flow(ProductMixture, lambda own, self, z, t, s, f: own(z, *(u.clamp(max=0.99) if f is cosine else u for u in (t, s)))), "are the times clipped"),
    "ClampedValues [end]": (flow(ProductMixture, lambda own, self, z, t, s, f: own(z, t, s).clamp(-60, 60)), "times or values clipped"),
    "values clamped at 20 [end]": (flow(ProductMixture, lambda own, self, z, t, s, f: own(z, t, s).clamp(-20, 20)), "The tails lose their digits"),
    "NoGradient [gradient]": (
        flow(ProductMixture, lambda own, self, z, t, s, f: own(z, t, s).detach() + 0 * z), "carries no gradient in t"),
    "a Gaussian with the right moments [oracle]": (sample(ProductMixture, gaussian_of_the_same_moments), "have another distribution"),
    "one component for all coordinates [oracle]": (sample(ProductMixture, one_component), "wrong mean|wrong covariance"),
    "even weights in the samples [oracle]": (by_parts(weights=torch.ones_like), "wrong mean"),
    "no widths in the samples [oracle]": (by_parts(stds=lambda s: 1e-6 * s), "wrong covariance|another distribution"),
    "variances in the samples [oracle]": (by_parts(stds=lambda s: s**2), "wrong covariance|another distribution"),
    "samples rotated the wrong way [oracle]": (by_parts(turn=lambda r: r), "wrong mean"),
    "samples not rotated [oracle]": (by_parts(turn=lambda r: torch.eye(len(r)).to(r)), "wrong mean"),
    "nothing is refused [refusal]": (mixture_where(lambda *p: True), "weights that sum to more than 1, once"),
    "weights compared as a whole [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and turns(r) and (s > 0).all() and w.sum() < 4), "weights that sum to (more|less) than 1, once"),
    "the first weights alone compared [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and turns(r) and (s > 0).all() and sums(w[:1])), "weights that sum to more than 1, once"),
    "weights may sum to less [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and turns(r) and (s > 0).all() and (w.sum(1) < 1.001).all()), "weights that sum to less than 1, once"),
    "a negative weight [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and sums(w) and turns(r) and (s > 0).all()), "weights with one below 0"),
    "weights normalized [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w / w.sum(-1, keepdim=True), m, s, r)), "weights that sum to more than 1, once"),
    "a weight of 0 refused [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w if (w > 0).all() else -w, m, s, r)), "A weight of 0 is valid"),
    "one std of 0 [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and sums(w) and turns(r) and (s >= 0).all()), "stds with one 0"),
    "stds refused only if all are 0 [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and sums(w) and turns(r) and (s > 0).any()), "stds with one 0"),
    "stds by their size [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w, m, s.abs(), r)), "stds with one below 0"),
    "any matrix for a rotation [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and sums(w) and (s > 0).all()), "rotation that stretches"),
    "rotations by their determinant [refusal]": (
        mixture_where(lambda w, m, s, r: sound(w, m, s, r) and (w >= 0).all() and sums(w) and (s > 0).all() and r.det().abs() < 3), "rotation that stretches one axis"),
    "a reflection refused [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w, m, s, r if r is None or r.shape != (len(m), len(m)) or r.det() > 0 else 2 * r)),
        "is valid and must not be refused"),
    "the rotation is needed [argument]": (
        made(ProductMixture, lambda w, m, s, r=None: (w, m, s, r if r is not None else checks.rotation(len(w), torch.Generator().manual_seed(9)))),
        "Without a rotation"),
    "one nan in the weights [refusal]": (mixture_where(lambda w, m, s, r: w.isnan().any()), "weights with one nan"),
    "one nan in the means [refusal]": (mixture_where(lambda w, m, s, r: m.isnan().any()), "means with one nan"),
    "one nan in the stds [refusal]": (mixture_where(lambda w, m, s, r: s.isnan().any()), "stds with one nan"),
    "one nan in the rotation [refusal]": (mixture_where(lambda w, m, s, r: r.isnan().any()), "rotation with one nan"),
    "parameters broadcast [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: broadcast_parts(w, m, s, r)), r"weights of shape"),
    "means broadcast [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w, m.expand_as(w) if w.ndim == 2 and len(w) > 1 and w.shape[1] > 1 else m, s, r)), r"means of shape"),
    "stds broadcast [refusal]": (
        made(ProductMixture, lambda w, m, s, r=None: (w, m, s.expand_as(w) if w.ndim == 2 and len(w) > 1 and w.shape[1] > 1 else s, r)), r"stds of shape"),
}  # fmt: skip


def empirical_denoiser(shares, answer=lambda shares, points: shares @ points):
    """Empirical with other shares of the points: shares(square distances, sigma, z, points)."""

    class Wrong(Empirical):
        def denoiser(self, schedule):
            def denoiser(z, t):
                y, points = oracle.flat(z, self.points[0].numel()), self.points.flatten(1)
                alpha, sigma = coefficients(schedule, t, y)
                points = points.to(y)
                square = (y[:, None] - alpha[..., None] * points).square().sum(-1)
                return answer(shares(square, sigma, y, points), points).view_as(z).to(z.dtype)

            return denoiser

    return Wrong


def softmax_by_hand(square, sigma, z, points):
    e = torch.exp(-square / (2 * sigma**2))
    return e / e.sum(1, keepdim=True)


def softmax_with_a_floor(square, sigma, z, points):
    e = torch.exp(-square / (2 * sigma**2))
    return e / (e.sum(1, keepdim=True) + 1e-12)


def empirical_log_prob(fit):
    """Empirical with another log_prob: fit(square distances, sigma, points)."""

    class Wrong(Empirical):
        def log_prob(self, z, t, schedule):
            y = oracle.flat(z, self.points[0].numel())
            alpha, sigma = coefficients(schedule, t, y)
            if (sigma == 0).any():
                raise ValueError("points have no density")
            points = self.points.flatten(1).to(y)
            square = (y[:, None] - alpha[..., None] * points).square().sum(-1)
            return fit(square, sigma, points).to(z.dtype)

    return Wrong


def gaussians(square, sigma, points):
    return -0.5 * (square / sigma**2 + points.shape[1] * (2 * torch.pi * sigma**2).log())


def density_at_zero(own, self, z, t, schedule):
    return own(z, t.clamp(min=1e-3), schedule)


def density_unless_all(own, self, z, t, schedule):
    return own(z, t.clamp(min=1e-3) if (t > 0).any() else t, schedule)


def shuffled(own, self, n, generator):
    """Without replacement: permutations, one after the other."""
    many = -(-own(n, generator).shape[0] // len(self.points))
    order = [torch.randperm(len(self.points), generator=generator) for _ in range(many)]
    return self.points[torch.cat(order)[:n]]


def jittered(own, self, n, generator):
    x = own(n, generator)
    return x + 1e-6 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def indices(draw):
    """Samples by other indices: draw(number of points, n, generator)."""
    return sample(
        Empirical, lambda own, self, n, g: (own(n, g), self.points[draw(len(self.points), n, g)])[1]
    )


def empirical_where(accepts):
    return accepting(accepts, lambda points: {"points": points}, Empirical)


EMPIRICAL = common(Empirical) | {
    "DividesByZero [end]": (
        empirical_denoiser(lambda square, sigma, *_: (-square / (2 * sigma**2)).softmax(1)), "nearest data point, not nan"),
    "nan without noise: softmax of -inf [end]": (
        empirical_denoiser(lambda square, sigma, *_: (-square * (0.5 / sigma**2)).softmax(1)), "nearest data point, not nan"),
    "a floor of 1e-3 under sigma^2 [end]": (
        empirical_denoiser(lambda square, sigma, *_: (-square / (2 * (sigma**2).clamp(min=0.1))).softmax(1)), "Tweedie|nearest data point"),
    "NoFactorOfTwo [formula]": (empirical_denoiser(lambda square, sigma, *_: (-square / sigma**2).softmax(1)), "the 2 is missing"),
    "half the exponent [formula]": (empirical_denoiser(lambda square, sigma, *_: (-square / (4 * sigma**2)).softmax(1)), "yours is half of it"),
    "sigma for sigma^2 [formula]": (empirical_denoiser(lambda square, sigma, *_: (-square / (2 * sigma)).softmax(1)), "sigma for sigma.2"),
    "the distance, not its square [formula]": (
        empirical_denoiser(lambda square, sigma, *_: (-square.sqrt() / (2 * sigma**2)).softmax(1)), "yours has no square"),
    "alpha is missing [formula]": (
        empirical_denoiser(lambda square, sigma, z, points: (-torch.cdist(z, points) ** 2 / (2 * sigma**2)).softmax(1)), "alpha is missing"),
    "the mean square distance [formula]": (
        empirical_denoiser(lambda square, sigma, z, points: (-square / (2 * sigma**2) / z.shape[1]).softmax(1)), "mean over dimensions"),
    "the mean of all [formula]": (empirical_denoiser(lambda square, sigma, *_: torch.ones_like(square) / square.shape[1]), "mean of all points"),
    "the nearest always [formula]": (
        empirical_denoiser(lambda square, sigma, *_: torch.nn.functional.one_hot(square.argmin(1), square.shape[1]).to(square)), "x_hat is the nearest point"),
    "no max subtracted [oracle]": (empirical_denoiser(softmax_by_hand), "subtract the largest exponent"),
    "no max subtracted, and a floor [oracle]": (empirical_denoiser(softmax_with_a_floor), "subtract the largest exponent"),
    "NoNormaliser [oracle]": (empirical_log_prob(lambda square, sigma, points: (-square / (2 * sigma**2)).logsumexp(1)), "The normaliser of log_prob"),
    "without log n [oracle]": (empirical_log_prob(lambda square, sigma, points: gaussians(square, sigma, points).logsumexp(1)), "The normaliser of log_prob"),
    "the normaliser in one dimension [oracle]": (
        empirical_log_prob(lambda square, sigma, points: (-0.5 * (square / sigma**2 + (2 * torch.pi * sigma**2).log())).logsumexp(1) - math.log(len(points))),
        "The normaliser of log_prob"),
    "the log of a sum of exponentials [oracle]": (
        empirical_log_prob(lambda square, sigma, points: gaussians(square, sigma, points).exp().mean(1).log()), "log_prob is not finite"),
    "the mean of the logarithms [oracle]": (
        empirical_log_prob(lambda square, sigma, points: gaussians(square, sigma, points).mean(1)), "This is the mean of logarithms"),
    "the nearest point alone [oracle]": (
        empirical_log_prob(lambda square, sigma, points: gaussians(square, sigma, points).amax(1) - math.log(len(points))), "This is the nearest point alone"),
    "a density at sigma = 0 [refusal]": (changed(Empirical, "log_prob", density_at_zero), "log_prob at sigma = 0"),
    "a density at sigma = 0, unless all are 0 [refusal]": (changed(Empirical, "log_prob", density_unless_all), "log_prob at sigma = 0"),
    "only the first point sampled [oracle]": (indices(lambda k, n, g: torch.zeros(n).long()), "Each of 12 points is one in 12"),
    "the last point never sampled [oracle]": (indices(lambda k, n, g: torch.randint(max(k - 1, 1), (n,), generator=g)), "Each of 12 points is one in 12"),
    "the first points preferred [oracle]": (
        indices(lambda k, n, g: (k * torch.rand(n, generator=g) ** 1.2).long().clamp(max=k - 1)), "Each of 12 points is one in 12"),
    "without replacement [oracle]": (sample(Empirical, shuffled), "drawn with replacement"),
    "in order [oracle]": (indices(lambda k, n, g: (torch.arange(n) + torch.randint(k, (1,), generator=g)) % k), "drawn with replacement"),
    "sorted [oracle]": (indices(lambda k, n, g: torch.randint(k, (n,), generator=g).sort().values), "first half of the samples"),
    "blocks of twelve repeated [oracle]": (
        indices(lambda k, n, g: torch.randint(k, (12 * 40,), generator=g).repeat(n // 480 + 1)[:n]), "Each of 12 points|come again and again"),
    "with noise [oracle]": (sample(Empirical, jittered), "Samples of a data set are its points"),
    "flat samples [shape]": (sample(Empirical, lambda own, self, n, g: own(n, g).flatten(1)), "has the shape"),
    "nothing is refused [refusal]": (empirical_where(lambda p: True), "An empty data set"),
    "an empty data set [refusal]": (empirical_where(lambda p: len(p) == 0), "An empty data set"),
    "numbers for points [refusal]": (empirical_where(lambda p: p.ndim == 1), "One point without an axis"),
    "points of no dimension [refusal]": (empirical_where(lambda p: p.ndim > 1 and p.shape[1] == 0), "Points of no dimension"),
    "one nan [refusal]": (empirical_where(lambda p: p.isnan().any()), "One nan"),
    "whole numbers [refusal]": (made(Empirical, lambda p: (p.double() if not p.is_floating_point() else p,)), "Points of whole numbers"),
    "one point refused [refusal]": (made(Empirical, lambda p: (p if len(p) > 1 else p[:0],)), r"points of shape \(1, 3\) is valid"),
    "only points in the plane [shape]": (made(Empirical, lambda p: (p if p.ndim == 2 else p[:0],)), r"points of shape \(20, 1, 8, 8\) is valid"),
}  # fmt: skip

MISTAKES = {
    f"{group}: {name}": (check, wrong, says)
    for group, check, mistakes in (
        ("gaussian", checks.check_gaussian, GAUSSIAN),
        ("mixture", checks.check_product_mixture, MIXTURE),
        ("empirical", checks.check_empirical, EMPIRICAL),
    )
    for name, (wrong, says) in mistakes.items()
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught:
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, written as people write


class BySolving(Gaussian):
    """No eigenvalues: linear systems, a Cholesky factor, torch's own density."""

    def cov(self, z):
        return (self.axes @ self.variances.diag() @ self.axes.T).to(z)

    def noisy(self, y, t, schedule):
        alpha, sigma = coefficients(schedule, t, y)
        eye = torch.eye(y.shape[1]).to(y)
        return alpha, self.mean.to(y), alpha[..., None] ** 2 * self.cov(y) + sigma[..., None] ** 2 * eye

    def denoiser(self, schedule):
        def denoiser(z, t):
            y = oracle.flat(z, len(self.mean))
            alpha, mean, cov = self.noisy(y, t, schedule)
            gain = torch.linalg.solve(cov, (y - alpha * mean)[..., None])
            return (mean + alpha * (self.cov(y) @ gain)[..., 0]).view_as(z)

        return denoiser

    def log_prob(self, z, t, schedule):
        y = oracle.flat(z, len(self.mean))
        alpha, mean, cov = self.noisy(y, t, schedule)
        return torch.distributions.MultivariateNormal(alpha * mean, cov).log_prob(y)

    def sample(self, n, generator=None):
        if not isinstance(n, int) or n < 1:
            raise ValueError("n is a whole number from 1")
        eps = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + eps @ torch.linalg.cholesky(self.cov(self.mean)).T


def in_float64(base):
    """Everything in float64, and cast back."""
    wide = lambda own, self, z, *rest: own(z.double(), *rest).to(z.dtype)
    right = changed(base, "log_prob", wide)
    right = changed(right, "denoiser", lambda own, self, f: lambda z, t: own(f)(z.double(), t).to(z.dtype))
    return right if base is Empirical else changed(right, "flow_map", wide)


def one_by_one(base):
    """A loop over samples."""

    def each(call):
        return lambda z, *times: torch.cat(
            [call(*one) for one in zip(z.split(1), *(t.split(1) for t in times), strict=True)]
        )

    def strict(z, t):
        if len(z) != len(t):
            raise ValueError("one time for each")

    def log_prob(own, self, z, t, schedule):
        strict(z, t)
        return each(lambda z, t: own(z, t, schedule))(z, t)

    def denoise(own, self, schedule):
        def denoiser(z, t):
            strict(z, t)
            return each(own(schedule))(z, t)

        return denoiser

    return changed(changed(base, "log_prob", log_prob), "denoiser", denoise)


class OneUniform(ProductMixture):
    """Components by comparing one uniform number with the running sum of the weights."""

    def sample(self, n, generator=None):
        if not isinstance(n, int) or n < 1:
            raise ValueError("n is a whole number from 1")
        u = torch.rand(n, len(self.means), 1, generator=generator, dtype=self.means.dtype)
        component = (u > self.weights.cumsum(1)).sum(-1).clamp(max=self.weights.shape[1] - 1)
        eps = torch.randn(component.shape, generator=generator, dtype=self.means.dtype)
        pick = lambda p: p.expand(n, -1, -1).gather(2, component[..., None])[..., 0]
        return (pick(self.means) + pick(self.stds) * eps) @ self.rotation.T


class BySoftmaxOfDensities(ProductMixture):
    """Responsibilities as exp(log p_k - log p)."""

    def denoiser(self, schedule):
        def denoiser(z, t):
            y = self.unrotate(z)
            log_weights, means, variances = self.marginal(t, schedule, y)
            alpha, _ = coefficients(schedule, t, y[..., None])
            log_p = log_weights - (y[..., None] - means) ** 2 / (2 * variances) - variances.log() / 2
            shares = (log_p - log_p.logsumexp(-1, keepdim=True)).exp()
            x_hat = self.means.to(y) + alpha * self.stds.to(y) ** 2 / variances * (y[..., None] - means)
            return torch.einsum("bdk,bdk,ed->be", shares, x_hat, self.rotation.to(y)).view_as(z)

        return denoiser


def nearest_where_clean(square, sigma, z, points):
    fit = -(square - square.amin(1, keepdim=True)) / (2 * sigma**2).clamp(
        min=1e-300 if z.dtype == torch.float64 else 1e-37
    )
    return fit.softmax(1)


def with_multinomial(own, self, n, generator):
    if not isinstance(n, int) or n < 1:
        raise ValueError("n is a whole number from 1")
    even = torch.ones(len(self.points), dtype=torch.float64)
    return self.points[torch.multinomial(even, n, replacement=True, generator=generator)]


def by_rounding_down(own, self, n, generator):
    if not isinstance(n, int) or n < 1:
        raise ValueError("n is a whole number from 1")
    return self.points[(torch.rand(n, generator=generator, dtype=torch.float64) * len(self.points)).long()]


RIGHT = {
    "gaussian: by solving": (checks.check_gaussian, BySolving),
    "gaussian: in float64, cast back": (checks.check_gaussian, in_float64(Gaussian)),
    "gaussian: sample by sample": (checks.check_gaussian, one_by_one(Gaussian)),
    "gaussian: one sample after the other drawn": (checks.check_gaussian, sample(Gaussian, lambda own, self, n, g: (
        own(n, g) if not isinstance(n, int) or n < 1 or n > 30 else torch.cat([own(1, g) for _ in range(n)])))),
    "mixture: one uniform number": (checks.check_product_mixture, OneUniform),
    "mixture: responsibilities by hand": (checks.check_product_mixture, BySoftmaxOfDensities),
    "mixture: in float64, cast back": (checks.check_product_mixture, in_float64(ProductMixture)),
    "empirical: distances": (checks.check_empirical, empirical_denoiser(nearest_where_clean)),
    "empirical: logsumexp of Gaussians": (checks.check_empirical, empirical_log_prob(
        lambda square, sigma, points: gaussians(square, sigma, points).logsumexp(1) - math.log(len(points)))),
    "empirical: multinomial": (checks.check_empirical, sample(Empirical, with_multinomial)),
    "empirical: rounded down": (checks.check_empirical, sample(Empirical, by_rounding_down)),
    "empirical: in float64, cast back": (checks.check_empirical, in_float64(Empirical)),
    "empirical: sample by sample": (checks.check_empirical, one_by_one(Empirical)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, unchecked_shapes):
    check, answer = RIGHT[name]
    check(answer)


def test_the_flow_map_is_exact_in_64_dimensions(unchecked_shapes):
    """Against a fine Runge-Kutta solve, and from pure noise to data and back."""
    thing = checks.mixture(64, 3, seed=3)
    z = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    checks.check_flow(thing, z, atol=2e-9, steps=500)
    t, s = torch.ones(20).double(), torch.zeros(20).double()
    data = thing.flow_map(z, t, s, cosine)
    torch.testing.assert_close(thing.flow_map(data, s, t, cosine), z, atol=1e-11, rtol=0)
    middle = thing.flow_map(z, t, s + 0.4, cosine)
    torch.testing.assert_close(thing.flow_map(middle, s + 0.4, s, cosine), data, atol=1e-11, rtol=0)


def test_the_flow_map_is_differentiable_both_ways():
    thing = checks.mixture(2, 3, seed=0)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, s = torch.full((6,), 0.8).double(), torch.full((6,), 0.3).double()
    assert torch.autograd.gradcheck(
        lambda *a: thing.flow_map(*a, cosine), [a.requires_grad_() for a in (z, t, s)], atol=1e-6
    )
    # change of variables: log p_t(z) = log p_s(y) + log |dy / dz|
    z, t, s = (a.detach() for a in (z, t, s))
    jacobian = torch.func.jacfwd(lambda z: thing.flow_map(z, t, s, cosine).sum(0))(z)
    y = thing.flow_map(z, t, s, cosine)
    expected = thing.log_prob(y, s, cosine) + jacobian.permute(1, 0, 2).det().abs().log()
    torch.testing.assert_close(thing.log_prob(z, t, cosine), expected, atol=1e-9, rtol=0)


def test_images_are_points_with_more_axes():
    thing = checks.mixture(4, 2, seed=0)
    z = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, s = torch.full((3,), 0.8).double(), torch.full((3,), 0.3).double()
    torch.testing.assert_close(
        thing.flow_map(z, t, s, cosine).flatten(1), thing.flow_map(z.flatten(1), t, s, cosine)
    )
    torch.testing.assert_close(
        thing.denoiser(cosine)(z, t).flatten(1), thing.denoiser(cosine)(z.flatten(1), t)
    )


def test_the_flow_of_a_data_set_ends_on_its_points():
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    end = ddim(Empirical(points).denoiser(rectified_flow), z, time_grid(200), rectified_flow)
    assert torch.cdist(end, points).amin(1).max() < 1e-6


def test_a_covariance_of_rank_one_is_refused():
    """Its eigenvalues of 0 come out as 1e-17, of either sign."""
    for d in range(2, 30):
        v = torch.randn(d, 1, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
        with pytest.raises(ValueError, match="positive definite"):
            Gaussian(v[:, 0], v @ v.T)


def test_bad_input():
    mean, cov = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="symmetric"):
        Gaussian(mean, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="mean"):
        Gaussian(torch.zeros(3), cov)
    with pytest.raises(ValueError, match=r"\(d, k\)"):
        ProductMixture(torch.ones(2), torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="float"):
        Empirical(torch.zeros(3, 2, dtype=torch.long))


def test_the_flow_map_far_in_the_tails_in_float32():
    """Three thousand standard deviations out it once gave 51956 for 4260."""
    for seed in range(10):
        thing = checks.mixture(2, 3, seed)
        g = torch.Generator().manual_seed(seed)
        sign = torch.randn(16, 2, generator=g, dtype=torch.float64).sign()
        for far in (1e1, 1e3, 3e3, 1e5):
            z = far * sign * (1 + torch.rand(16, 2, generator=g, dtype=torch.float64))
            for t, s in ((1.0, 0.0), (0.5, 0.0), (0.3, 0.9)):
                times = [torch.full((16,), u, dtype=torch.float64) for u in (t, s)]
                right = thing.flow_map(z, *times, rectified_flow)
                found = thing.flow_map(z.float(), *(u.float() for u in times), rectified_flow)
                torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * far)


def test_its_derivative_far_in_the_tails():
    """There one component is alone, and the map is linear: the slope is the ratio of its widths."""
    thing = ProductMixture(
        torch.tensor([[0.5, 0.5]]), torch.tensor([[-1.0, 1.0]]), torch.tensor([[0.1, 0.6]])
    )
    z = torch.tensor([[3000.0], [-3000.0]], requires_grad=True)
    t, s = torch.full((2,), 0.5), torch.full((2,), 0.25)
    thing.flow_map(z, t, s, rectified_flow).sum().backward()
    ratio = ((0.75 * 0.6) ** 2 + 0.25**2) ** 0.5 / ((0.5 * 0.6) ** 2 + 0.5**2) ** 0.5
    torch.testing.assert_close(z.grad, torch.full((2, 1), ratio), rtol=1e-3, atol=0)


def test_points_have_no_density(unchecked_shapes):
    thing = Empirical(torch.randn(5, 2))
    with pytest.raises(ValueError, match="points have no density"):
        thing.log_prob(torch.randn(3, 2), torch.tensor([0.5, 0.0, 0.1]), rectified_flow)
    for bad in (torch.tensor([[1.0, math.nan]]), torch.ones(3), torch.ones(0, 2), torch.ones(2, 2).long()):
        with pytest.raises(ValueError, match="points must"):
            Empirical(bad)
