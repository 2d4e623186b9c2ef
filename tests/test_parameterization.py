import pytest
import torch
from einops import rearrange

from minidistill import parameterization
from minidistill.checks import parameterization as checks
from minidistill.parameterization import as_denoiser, as_velocity, convert, guided
from minidistill.schedules import cosine, rates, rectified_flow


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "check", [checks.check_convert, checks.check_as_denoiser, checks.check_guided, checks.check_as_velocity]
)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


def with_basis(**changed):
    """convert by the same 2x2 solve, with another (a, b) for some kinds."""

    def wrong(pred, z, t, schedule, source, target):
        alpha, sigma = (rearrange(c, "b -> b 1 1 1") for c in schedule(t))
        d_alpha, d_sigma = (rearrange(c, "b -> b 1 1 1") for c in rates(schedule, t))
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
    alpha, sigma = (rearrange(c, "b -> b 1 1 1") for c in schedule(t))
    if (source, target) == ("v", "x"):
        return alpha * z - sigma * pred
    return convert(pred, z, t, schedule, source, target)


def only(pair, formula):
    """convert, with one pair of kinds replaced by a wrong formula of (pred, z, alpha, sigma)."""

    def wrong(pred, z, t, schedule, source, target):
        alpha, sigma = (rearrange(c, "b -> b 1 1 1") for c in schedule(t))
        right = lambda: convert(pred, z, t, schedule, source, target)
        return formula(pred, z, alpha, sigma) if (source, target) == pair else right()

    return wrong


def inf_at_the_end(pred, z, t, schedule, source, target):
    """diffusers with epsilon and zero terminal SNR: inf, which clipping then turns into -1 and 1."""
    alpha, sigma = (rearrange(c, "b -> b 1 1 1") for c in schedule(t))
    if (source, target) == ("eps", "x"):
        return ((z - sigma * pred) / alpha).nan_to_num()
    return convert(pred, z, t, schedule, source, target)


def edm_sign(net, schedule, data_std=1.0, **conditioning):
    return as_denoiser(lambda u, phi, **k: -net(u, phi, **k), schedule, data_std, **conditioning)


def raw_input(net, schedule, data_std=1.0, **conditioning):
    """c_in forgotten: the network sees z itself."""

    def denoiser(z, t):
        alpha, sigma = (rearrange(c, "b -> b" + " 1" * (z.ndim - 1)) for c in schedule(t))
        r = torch.hypot(alpha * data_std, sigma)
        return as_denoiser(lambda u, phi: net(u * r, phi, **conditioning), schedule, data_std)(z, t)

    return denoiser


def raw_time(net, schedule, data_std=1.0, **conditioning):
    """The network sees t: the same noise level at another time on another schedule."""

    def denoiser(z, t):
        return as_denoiser(lambda u, phi: net(u, t, **conditioning), schedule, data_std)(z, t)

    return denoiser


def no_data_std(net, schedule, data_std=1.0, **conditioning):
    return as_denoiser(net, schedule, 1.0, **conditioning)


def drops_conditioning(net, schedule, data_std=1.0, **conditioning):
    return as_denoiser(
        lambda u, phi: net(u, phi, **{k: v.clone() for k, v in conditioning.items()}), schedule, data_std
    )


MISTAKES = {
    "v = alpha eps + sigma x (25)": (
        checks.check_convert,
        with_basis(v=lambda alpha, sigma, *_: (sigma, alpha)),
    ),
    "v = -(alpha eps - sigma x), undone on the way back": (
        checks.check_convert,
        with_basis(v=lambda alpha, sigma, *_: (sigma, -alpha)),
    ),
    "v = sigma eps - alpha x: alpha and sigma swapped (29)": (
        checks.check_convert,
        with_basis(v=lambda alpha, sigma, *_: (-alpha, sigma)),
    ),
    "x = alpha z + sigma v (26)": (
        checks.check_convert,
        only(("v", "x"), lambda v, z, alpha, sigma: alpha * z + sigma * v),
    ),
    "eps = alpha v - sigma z (27)": (
        checks.check_convert,
        only(("v", "eps"), lambda v, z, alpha, sigma: alpha * v - sigma * z),
    ),
    "alpha_bar for its root (30)": (
        checks.check_convert,
        only(("eps", "x"), lambda eps, z, alpha, sigma: (z - sigma**2 * eps) / alpha**2),
    ),
    "v's inverse on a schedule where alpha^2 + sigma^2 is not 1 (31)": (
        checks.check_convert,
        v_by_the_variance_preserving_rule,
    ),
    "flow velocity x - eps (32)": (
        checks.check_convert,
        with_basis(velocity=lambda alpha, sigma, d_alpha, d_sigma: (-d_alpha, -d_sigma)),
    ),
    "flow velocity eps - x on every schedule": (
        checks.check_convert,
        with_basis(velocity=lambda alpha, *_: (-torch.ones_like(alpha), torch.ones_like(alpha))),
    ),
    "score without its sigma": (
        checks.check_convert,
        with_basis(score=lambda alpha, *_: (torch.zeros_like(alpha), -torch.ones_like(alpha))),
    ),
    "epsilon with zero terminal SNR: inf, hidden": (checks.check_convert, inf_at_the_end),
    "'sample' predictions taken for eps": (checks.check_convert, only(("x", "eps"), lambda x, *_: x)),
    "EDM's F used as v (28)": (checks.check_as_denoiser, edm_sign),
    "c_in forgotten": (checks.check_as_denoiser, raw_input),
    "conditioned on t, not on the noise level (P14)": (checks.check_as_denoiser, raw_time),
    "data_std ignored": (checks.check_as_denoiser, no_data_std),
    "conditioning copied": (checks.check_as_denoiser, drops_conditioning),
    "refuses only when all times are singular": (
        checks.check_convert,
        lambda pred, z, t, schedule, source, target: (
            convert(pred, z, t, schedule, source, target)
            if (schedule(t)[0] * schedule(t)[1] == 0).all()
            else (
                convert(
                    pred, z, t.clamp(1e-6, 1 - 1e-6) if schedule is cosine else t, schedule, source, target
                )
            )
        ),
    ),
    "refuses small noise": (
        checks.check_convert,
        lambda pred, z, t, schedule, source, target: convert(
            pred, z, torch.where(schedule(t)[1] < 0.05, 0 * t, t), schedule, source, target
        ),
    ),
    "always float64": (
        checks.check_convert,
        lambda pred, z, t, *kinds: convert(pred.double(), z.double(), t.double(), *kinds),
    ),
    "the gradient is lost": (checks.check_convert, lambda *a: convert(*a).detach()),
    "guidance of Ho & Salimans' w = scale - 1": (
        checks.check_guided,
        lambda c, u, scale: guided(c, u, 1 + scale),
    ),
    "guidance swapped": (checks.check_guided, lambda c, u, scale: guided(u, c, scale)),
    "velocity x - eps": (checks.check_as_velocity, lambda f: lambda z, t: -as_velocity(f)(z, t)),
    "velocity z - x_hat": (checks.check_as_velocity, lambda f: lambda z, t: z - f(z, t)),
    "velocity divided by t over the width": (
        checks.check_as_velocity,
        lambda f: lambda z, t: (z - f(z, t)) / t,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError):
        check(wrong)


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
