import json
from pathlib import Path

import pytest
import torch
from einops import rearrange

from minidistill import schedules
from minidistill.checks import schedules as checks
from minidistill.schedules import cosine, edm, linear_beta, rectified_flow, shifted, sigmoid, tabulated

GOLDEN = json.loads((Path(__file__).parent / "golden" / "progressive.json").read_text())
CHECKS = [
    check for name, check in vars(checks).items() if name.startswith("check_") and name != "check_schedule"
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


def rescale_alpha_bar(alpha_bar):
    return (alpha_bar - alpha_bar[-1]) * alpha_bar[0] / (alpha_bar[0] - alpha_bar[-1])


# numbers in brackets: the list of mistakes in the literature on progressive distillation, sections P and 5.3
MISTAKES = {
    "cosine: float32 cos(pi/2) is negative (D2)": (
        checks.check_cosine,
        lambda t: (torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)),
    ),
    "cosine: alpha and sigma swapped (29)": (checks.check_cosine, lambda t: cosine(t)[::-1]),
    "cosine: time reversed": (checks.check_cosine, lambda t: cosine(1 - t)),
    "cosine: bounded and clamped log SNR": (
        checks.check_cosine,
        lambda t: tuple(
            torch.sigmoid(s * (-2 * torch.tan(torch.pi / 2 * t).log()).clamp(-20, 20)).sqrt() for s in (1, -1)
        ),
    ),
    "linear_beta: alpha_bar for alpha (30)": (
        checks.check_linear_beta,
        lambda t: (linear_beta(t)[0] ** 2, (1 - linear_beta(t)[0] ** 4).sqrt()),
    ),
    "linear_beta: 1 - exp instead of expm1 (D3)": (
        checks.check_linear_beta,
        lambda t: (linear_beta(t)[0], (1 - linear_beta(t)[0] ** 2).sqrt()),
    ),
    "sigmoid: alpha_bar for alpha (30)": (
        checks.check_sigmoid,
        lambda t: (sigmoid(t)[0] ** 2, (1 - sigmoid(t)[0] ** 4).sqrt()),
    ),
    "sigmoid: betas of that name": (checks.check_sigmoid, lambda t: linear_beta(torch.sigmoid(12 * t - 6))),
    "rectified_flow: data at t = 1": (checks.check_rectified_flow, lambda t: (t, 1 - t)),
    "edm: log sigma as time": (checks.check_edm, lambda t: (torch.ones_like(t), t.exp())),
    "shifted: twice (44)": (checks.check_shifted, lambda f, s: shifted(shifted(f, s), s)),
    "shifted: the inverse": (checks.check_shifted, lambda f, s: shifted(f, 1 / s if s else s)),
    "shifted: the textbook fraction overshoots 1 in float32": (
        checks.check_shifted,
        lambda f, s: lambda t: f(s * t / (1 + (s - 1) * t)),
    ),
    "tabulated: one entry off": (
        checks.check_tabulated,
        lambda a: lambda t: tabulated(a)((t - 1 / len(a)).clamp(min=0)),
    ),
    "tabulated: alpha_bar for alpha (30)": (checks.check_tabulated, lambda a: tabulated(a**2)),
    "tabulated: the nearest entry": (
        checks.check_tabulated,
        lambda a: lambda t: tabulated(a)((t * len(a)).round() / len(a)),
    ),
    "tabulated: the next entry": (
        checks.check_tabulated,
        lambda a: lambda t: tabulated(a)((t * len(a) - 1e-9).ceil() / len(a)),
    ),
    "tabulated: no derivative": (checks.check_tabulated, lambda a: lambda t: tabulated(a)(t.detach())),
    "rates: of alpha squared": (
        checks.check_rates,
        lambda f, t: tuple(2 * c * r for c, r in zip(f(t), schedules.rates(f, t))),
    ),
    "rates: sign": (checks.check_rates, lambda f, t: tuple(-r for r in schedules.rates(f, t))),
    "log_snr: of alpha / sigma, without the 2": (
        checks.check_log_snr,
        lambda f, t: schedules.log_snr(f, t) / 2,
    ),
    "log_snr: a floor under the logarithm": (
        checks.check_log_snr,
        lambda f, t: ((f(t)[0] ** 2 + 1e-20) / (f(t)[1] ** 2 + 1e-20)).log(),
    ),
    "mix: times over the width (43)": (
        checks.check_mix,
        lambda x, eps, t, f: f(t)[0] * x + f(t)[1] * eps,
    ),
    "mix: x and eps swapped": (checks.check_mix, lambda x, eps, t, f: schedules.mix(eps, x, t, f)),
    "mix: silent broadcast": (
        checks.check_mix,
        lambda x, eps, t, f: sum(rearrange(c, "b -> b 1 1 1") * a for c, a in zip(f(t), (x, eps))),
    ),
    "beta_table: linear in beta for scaled_linear": (
        checks.check_beta_table,
        lambda kind: (
            torch.linspace(0.00085, 0.012, 1000).double()
            if kind == "scaled_linear"
            else schedules.beta_table(kind)
        ),
    ),
    "beta_table: no cap": (
        checks.check_beta_table,
        lambda kind: schedules.beta_table(kind).where(schedules.beta_table(kind) < 0.999, 1.0),
    ),
    "zero_terminal_snr: scale without shift (45)": (
        checks.check_zero_terminal_snr,
        lambda a: (a.sqrt() * a[0].sqrt() / (a[0].sqrt() - a[-1].sqrt())) ** 2,
    ),
    "zero_terminal_snr: shift without scale (45)": (
        checks.check_zero_terminal_snr,
        lambda a: (a.sqrt() - a[-1].sqrt()) ** 2,
    ),
    "zero_terminal_snr: of alpha_bar, not its root (45)": (checks.check_zero_terminal_snr, rescale_alpha_bar),
    "time_grid: n times for n steps (40)": (
        checks.check_time_grid,
        lambda n, start=1.0, end=0.0: torch.linspace(start, end, n),
    ),
    "time_grid: leading, never at t = 1 (41)": (
        checks.check_time_grid,
        lambda n, start=1.0, end=0.0: torch.linspace(start, end, n + 1) - (start - end) / (n + 1),
    ),
    "time_grid: rising": (
        checks.check_time_grid,
        lambda n, start=1.0, end=0.0: torch.linspace(end, start, n + 1),
    ),
    "karras_sigmas: a 0 at the end": (
        checks.check_karras_sigmas,
        lambda n, **k: torch.cat([schedules.karras_sigmas(n - 1, **k), torch.zeros(1)]),
    ),
    "karras_sigmas: rho forgotten": (
        checks.check_karras_sigmas,
        lambda n, sigma_min=0.002, sigma_max=80.0: schedules.karras_sigmas(n, sigma_min, sigma_max, rho=1.0),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError):
        check(wrong)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos"])
def test_golden_tables(kind):
    alpha_bar = (1 - schedules.beta_table(kind)).cumprod(0)
    expected = torch.tensor(GOLDEN["alpha_bar"][kind], dtype=torch.float64)
    # theirs is a product of a thousand float32 numbers
    torch.testing.assert_close(alpha_bar[GOLDEN["alpha_bar_index"]], expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_golden_zero_terminal_snr(kind):
    rescaled = schedules.zero_terminal_snr((1 - schedules.beta_table(kind)).cumprod(0))
    expected = torch.tensor(GOLDEN["zero_terminal_snr"][kind], dtype=torch.float64)
    torch.testing.assert_close(rescaled[GOLDEN["zero_terminal_snr_index"]], expected, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(rescaled[[249, 499]], expected[:2], rtol=1e-6, atol=0)


def test_golden_sigmas():
    torch.testing.assert_close(
        schedules.karras_sigmas(5), torch.tensor(GOLDEN["karras_5"]), rtol=1e-5, atol=1e-7
    )


def test_sigmoid_values():
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)  # Jabri et al. (2023), start -3, end 3, tau 1
    expected = torch.tensor([0.85085, 0.5, 0.14915], dtype=torch.float64)
    torch.testing.assert_close(sigmoid(t)[0] ** 2, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "schedule", [cosine, linear_beta, sigmoid, edm, rectified_flow], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_nan_at_the_ends(schedule, dtype):
    t = torch.tensor([0.0, 1.0], dtype=dtype)
    for value in (*schedule(t), *schedules.rates(schedule, t), schedules.log_snr(schedule, t)):
        assert value.dtype == dtype and not value.isnan().any()


def test_expanded_times_have_rates():
    torch.testing.assert_close(
        schedules.rates(cosine, torch.tensor(0.3).expand(5))[0],
        schedules.rates(cosine, torch.full((5,), 0.3))[0],
    )


def test_a_time_that_is_no_tensor_is_refused(unchecked_shapes):
    with pytest.raises(ValueError, match="one for each sample"):
        schedules.mix(torch.zeros(2, 2), torch.zeros(2, 2), 0.5, cosine)
    with pytest.raises(ValueError, match="float tensor"):
        schedules.mix(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([1, 2]), cosine)


def test_the_usual_cosine_is_a_schedule_too():
    """cos(pi / 2) is -4e-8 in float32: that is 0, and not refused."""
    usual = lambda t: (torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t))
    t, z = torch.tensor([1.0, 0.5]), torch.randn(2, 3)
    assert usual(t)[0][0] < 0 and schedules.log_snr(usual, t)[0] == -torch.inf
    torch.testing.assert_close(schedules.mix(z, z.flip(0), t, usual), schedules.mix(z, z.flip(0), t, cosine))
