import math

import pytest
import torch

from minidistill import oracle
from minidistill.checks import oracle as checks
from minidistill.oracle import Empirical, Gaussian, ProductMixture
from minidistill.samplers import ddim
from minidistill.schedules import cosine, rectified_flow, time_grid


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "check", [checks.check_gaussian, checks.check_product_mixture, checks.check_empirical]
)
def test_ours_passes(check, seed):
    check(seed=seed)


class NoNoiseInTheGain(Gaussian):
    def denoiser(self, schedule):
        return lambda z, t: z / schedule(t)[0][:, None]


class StretchByVariance(Gaussian):
    def flow_map(self, z, t, s, schedule):
        return super().flow_map(super().flow_map(z, t, s, schedule), t, s, schedule)


class NoStretch(Gaussian):
    def sample(self, n, generator=None):
        return self.mean + torch.randn(n, len(self.mean), generator=generator).double() @ self.axes.T


class PriorWeights(ProductMixture):
    def denoiser(self, schedule):
        def denoiser(z, t):
            y = self.unrotate(z)
            _, means, variances = self.marginal(t, schedule, y)
            alpha = schedule(t)[0][:, None, None]
            posterior = self.means + alpha * self.stds**2 / variances * (y[..., None] - means)
            return (self.weights * posterior).sum(-1) @ self.rotation.T

        return denoiser


class RotatedTheWrongWay(ProductMixture):
    def unrotate(self, z):
        return z @ self.rotation.T


class CdfOnly(ProductMixture):
    """Quantiles matched in the CDF itself: right in the middle, and without digits in the tails."""

    def flow_map(self, z, t, s, schedule):
        y = self.unrotate(z)
        (w, m_t, v_t), (_, m_s, v_s) = self.marginal(t, schedule, y), self.marginal(s, schedule, y)
        level = oracle.log_cdf(y, w, m_t, v_t).exp()
        low, high = torch.full_like(y, -50.0), torch.full_like(y, 50.0)
        for _ in range(100):
            middle = (low + high) / 2
            above = oracle.log_cdf(middle, w, m_s, v_s).exp() > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return low @ self.rotation.T


class StraightLine(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        grid = torch.tensor([0.0, 1.0])
        return z + (s - t)[:, None] * (z - self.denoiser(schedule)(z, t)) / t[:, None] + 0 * grid.sum()


class ClampedTimes(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        return super().flow_map(z, t.clamp(0.01, 80), s.clamp(0.01, 80), schedule)


class ClampedValues(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        return super().flow_map(z, t, s, schedule).clamp(-60, 60)


class NoGradient(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        return super().flow_map(z, t, s, schedule).detach() + 0 * z


class FlatImages(ProductMixture):
    def flow_map(self, z, t, s, schedule):
        return super().flow_map(z, t, s, schedule).flatten(1)


class DividesByZero(Empirical):
    def denoiser(self, schedule):
        def denoiser(z, t):
            alpha, sigma = (a[:, None] for a in schedule(t))
            square = (z.flatten(1)[:, None] - alpha[..., None] * self.points.flatten(1)).square().sum(-1)
            return ((-square / (2 * sigma**2)).softmax(1) @ self.points.flatten(1)).view_as(z)

        return denoiser


class NoFactorOfTwo(Empirical):
    def denoiser(self, schedule):
        return lambda z, t: super(NoFactorOfTwo, self).denoiser(
            lambda u: (schedule(u)[0], schedule(u)[1] / 2**0.5)
        )(z, t)


MISTAKES = {
    checks.check_gaussian: [NoNoiseInTheGain, StretchByVariance, NoStretch],
    checks.check_product_mixture: [
        PriorWeights,
        RotatedTheWrongWay,
        CdfOnly,
        StraightLine,
        ClampedTimes,
        ClampedValues,
        NoGradient,
        FlatImages,
    ],
    checks.check_empirical: [DividesByZero, NoFactorOfTwo],
}


@pytest.mark.parametrize(
    "check, wrong", [(c, w) for c, ws in MISTAKES.items() for w in ws], ids=lambda x: x.__name__
)
def test_mistake_is_caught(check, wrong):
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_flow_map_is_exact_in_64_dimensions():
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
