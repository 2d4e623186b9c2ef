"""Checks of schedules: ends, identities with closed forms, derivatives, tables and grids."""

import math

import torch

from minidistill import schedules
from minidistill.checks import close, refuses


def times(seed: int, n: int = 7) -> torch.Tensor:
    """n random times strictly inside (0, 1), float64."""
    return 0.02 + 0.96 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_schedule(schedule, variance_preserving: bool, reaches_noise: bool = True, seed: int = 0) -> None:
    """What every schedule on [0, 1] must be: exact at both ends in float32, more noise at later times."""
    ends = torch.tensor([0.0, 1.0])  # float32
    alpha, sigma = schedule(ends)
    assert alpha.shape == sigma.shape == ends.shape, "A schedule returns (alpha, sigma), each of t's shape."
    assert alpha.isfinite().all() and sigma.isfinite().all(), (
        "inf or nan at an end: no logarithms and no tangents there."
    )
    assert (alpha >= 0).all() and (sigma >= 0).all(), (
        f"alpha is {alpha.tolist()} and sigma {sigma.tolist()} at the two ends: neither may be negative, "
        "not even by float32 rounding, as cos(pi/2) is. Which function is exactly 0 at 0?"
    )
    close(alpha[0], torch.tensor(1.0), "t = 0 is data: alpha(0) = 1. Are alpha and sigma swapped?", atol=1e-6)
    close(sigma[0], torch.tensor(0.0), "t = 0 is data: sigma(0) = 0. Is time running backwards?", atol=0.0)
    if reaches_noise:
        close(alpha[1], torch.tensor(0.0), "t = 1 is pure noise: alpha(1) must be exactly 0.", atol=0.0)
    t = times(seed).sort().values
    alpha, sigma = schedule(t)
    if variance_preserving:
        close(
            alpha**2 + sigma**2,
            torch.ones_like(t),
            "alpha^2 + sigma^2 must be 1. Is it alpha that you square?",
        )
    log_snr = (alpha / sigma).log()
    assert (log_snr.diff() < 0).all(), "The signal-to-noise ratio must fall at every time."


def check_cosine(cosine=schedules.cosine, seed: int = 0) -> None:
    """The quarter circle at constant speed."""
    check_schedule(cosine, variance_preserving=True, seed=seed)
    t = times(seed)
    alpha, sigma = cosine(t)
    close(
        torch.atan2(sigma, alpha), math.pi / 2 * t, "The angle of (alpha, sigma) must grow at constant speed."
    )


def check_linear_beta(linear_beta=schedules.linear_beta, seed: int = 0) -> None:
    """alpha^2 against a numerical integral of beta."""
    check_schedule(linear_beta, variance_preserving=True, reaches_noise=False, seed=seed)
    t = times(seed)
    alpha, sigma = linear_beta(t)
    # alpha^2 solves d log(alpha^2) / dt = -beta(t), here by 20 000 midpoint steps
    middle = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    integral = (0.1 + 19.9 * middle * t[:, None]).mean(1) * t
    close(alpha**2, torch.exp(-integral), "alpha^2, not alpha, is exp(-integral of beta).", atol=1e-9)
    early = math.sqrt(-math.expm1(-(0.1 * 1e-4 + 19.9 * 1e-8 / 2)))
    close(
        linear_beta(torch.tensor([1e-4]))[1],
        torch.tensor([early]),
        "1 - alpha^2 loses its digits: use expm1.",
        0.0,
        1e-4,
    )


def check_sigmoid(sigmoid=schedules.sigmoid, seed: int = 0) -> None:
    """alpha^2 against the logistic function."""
    check_schedule(sigmoid, variance_preserving=True, seed=seed)
    t = times(seed)

    def logistic(u):
        return 1 / (1 + torch.exp(-torch.as_tensor(u, dtype=torch.float64)))

    expected = (logistic(3) - logistic(6 * t - 3)) / (logistic(3) - logistic(-3))
    close(sigmoid(t)[0] ** 2, expected, "alpha^2, not alpha, is the rescaled logistic function.")


def check_rectified_flow(rectified_flow=schedules.rectified_flow, seed: int = 0) -> None:
    """A straight line in (alpha, sigma)."""
    check_schedule(rectified_flow, variance_preserving=False, seed=seed)
    t = times(seed)
    close(rectified_flow(t)[0] + rectified_flow(t)[1], torch.ones_like(t), "alpha + sigma must be 1.")
    close(rectified_flow(t)[1], t, "sigma is t: noise at t = 1, also where a paper has it at t = 0.")


def check_edm(edm=schedules.edm, seed: int = 0) -> None:
    """The signal is left alone."""
    t = 80 * times(seed)
    alpha, sigma = edm(t)
    close(alpha, torch.ones_like(t), "EDM never scales the signal: alpha is 1, one for each time.")
    close(sigma, t, "EDM's time is sigma itself.")


def check_shifted(shifted=schedules.shifted, seed: int = 0) -> None:
    """Times, log SNR, composition, inverse and ends."""
    t, base = times(seed), schedules.rectified_flow
    refuses(lambda: shifted(base, 0.0), "A shift of 0 must be refused.")
    refuses(lambda: shifted(base, -1.0), "A negative shift must be refused.")
    one = torch.ones(1)  # float32
    for shift in (0.03, 0.3, 1.1, 3.0, 17.0):
        hint = "At t = 1 the shifted time must be exactly 1 in float32: divide by t + (1 - t) / shift."
        close(shifted(lambda u: (u, u), shift)(one)[0], one, hint, 0.0, 0.0)
        hint = "Change the time that the schedule sees, to shift t / (1 + (shift - 1) t), and nothing else."
        expected = schedules.cosine(shift * t / (1 + (shift - 1) * t))
        for found, wanted in zip(shifted(schedules.cosine, shift)(t), expected):
            close(found, wanted, hint)
    close(
        schedules.log_snr(shifted(base, 3.0), t),
        schedules.log_snr(base, t) - 2 * math.log(3.0),
        "A shift lowers log SNR by 2 log(shift) at every time.",
    )
    twice, once = shifted(shifted(base, 2.0), 1.5), shifted(base, 3.0)
    close(twice(t)[1], once(t)[1], "Shifts multiply: 2, then 1.5, is 3.")
    close(shifted(shifted(base, 5.0), 1 / 5.0)(t)[1], t, "A shift by 1 / s undoes a shift by s.")
    for shift in (0.03, 0.3, 1.1, 3.0, 17.0):
        check_schedule(shifted(base, shift), variance_preserving=False, seed=seed)


def check_tabulated(tabulated=schedules.tabulated, seed: int = 0) -> None:
    """The table's own entries, what lies between them, and the slope."""
    n = 50
    beta = torch.linspace(1e-3, 0.2, n, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    alpha, sigma = tabulated(alpha_bar)(t)
    close(
        alpha,
        alpha_bar.sqrt(),
        "At t = (i + 1) / n, alpha = sqrt(alpha_bar[i]): not alpha_bar, not one entry off.",
    )
    close(sigma, (1 - alpha_bar).sqrt(), "At t = (i + 1) / n, sigma = sqrt(1 - alpha_bar[i]).")
    check_schedule(tabulated(alpha_bar), variance_preserving=True, reaches_noise=False, seed=seed)
    between = (torch.arange(1, n, dtype=torch.float64) + 0.5) / n
    middle = tabulated(alpha_bar)(between)[0]
    inside = (middle < alpha[:-1]) & (middle > alpha[1:])
    assert inside.all(), "Between two entries the schedule lies between them: interpolate."
    _, slope = torch.func.jvp(lambda u: tabulated(alpha_bar)(u)[0], (between,), (torch.ones_like(between),))
    steps = (alpha[1:] - alpha[:-1]) * n
    close(slope, steps, "alpha' must be the slope of the table: is t detached?", 0.01, 0.05)
    zero = alpha_bar.clone()
    zero[-1] = 0
    check_schedule(tabulated(zero), variance_preserving=True, seed=seed)
    refuses(lambda: tabulated(beta), "A table that rises holds betas, not alpha_bar: it must be refused.")
    refuses(lambda: tabulated(alpha_bar[None]), "A table with two axes must be refused.")


def check_rates(rates=schedules.rates, seed: int = 0) -> None:
    """Against finite differences."""
    t, h = times(seed), 1e-5
    for schedule in (schedules.cosine, schedules.linear_beta, schedules.sigmoid, schedules.edm):
        for rate, before, after in zip(rates(schedule, t), schedule(t - h), schedule(t + h)):
            close(
                rate, (after - before) / (2 * h), "The rates are d alpha / dt and d sigma / dt.", 1e-7, 1e-7
            )
    close(rates(schedules.rectified_flow, t)[0], -torch.ones_like(t), "alpha falls: its rate is negative.")


def check_log_snr(log_snr=schedules.log_snr, seed: int = 0) -> None:
    """The definition, and both ends."""
    t = times(seed)
    close(
        log_snr(schedules.rectified_flow, t),
        2 * ((1 - t) / t).log(),
        "log SNR = log(alpha^2 / sigma^2): the factor 2.",
    )
    ends = log_snr(schedules.cosine, torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [math.inf, -math.inf], "log SNR is +inf at data and -inf at noise, never nan."


def check_mix(mix=schedules.mix, seed: int = 0) -> None:
    """Sample by sample, in a shape that hides no broadcast."""
    generator = torch.Generator().manual_seed(seed)
    # batch, channels, height and width are all 4: a time broadcast along the wrong axis would go unnoticed
    # elsewhere
    x, eps = torch.randn(2, 4, 4, 4, 4, generator=generator, dtype=torch.float64)
    t = times(seed, 4)
    z = mix(x, eps, t, schedules.cosine)
    for i in range(4):
        expected = math.cos(math.pi / 2 * t[i]) * x[i] + math.sin(math.pi / 2 * t[i]) * eps[i]
        close(z[i], expected, "Each sample has its own time. Are the times broadcast along the first axis?")
    refuses(lambda: mix(x, eps, t[:1], schedules.cosine), "One time for four samples must be refused.")
    refuses(lambda: mix(x, eps[:1], t, schedules.cosine), "One noise for four samples must be refused.")
    refuses(lambda: mix(x, eps, t[:, None], schedules.cosine), "Times of shape (b, 1) must be refused.")


def check_beta_table(beta_table=schedules.beta_table, seed: int = 0) -> None:
    """Where each table ends, from the literature."""
    # sqrt(alpha_bar) at the last step: Lin et al. (2024), table 1
    for kind, last in (("linear", 0.006353), ("scaled_linear", 0.068265), ("squaredcos", 4.928e-05)):
        beta = beta_table(kind)
        assert beta.shape == (1000,) and beta.dtype == torch.float64, (
            "1000 betas, in float64 for the long product."
        )
        close(
            (1 - beta).cumprod(0)[-1].sqrt(),
            torch.tensor(last).double(),
            f"{kind} ends at the wrong noise.",
            1e-9,
            1e-3,
        )
        assert 0 < beta.min() and beta.max() <= 0.999, "Betas lie in (0, 0.999]: is the cosine table capped?"
    refuses(lambda: beta_table("quadratic"), "An unknown kind must be refused.")


def check_zero_terminal_snr(zero_terminal_snr=schedules.zero_terminal_snr, seed: int = 0) -> None:
    """The ends, and the same proportions in sqrt(alpha_bar)."""
    g = torch.Generator().manual_seed(seed)
    beta = 1e-3 + 0.05 * torch.rand(60, generator=g, dtype=torch.float64).sort().values
    alpha_bar = (1 - beta).cumprod(0)
    rescaled = zero_terminal_snr(alpha_bar)
    assert rescaled[-1] == 0, "The last alpha_bar must be exactly 0: shift before you scale."
    hint = "The first alpha_bar must not change, as it does by the shift alone. Is the result squared again?"
    close(rescaled[0], alpha_bar[0], hint)
    # affine in sqrt(alpha_bar): every second difference keeps its proportion
    a, b = alpha_bar.sqrt().diff(), rescaled.sqrt().diff()
    close(b / a, (b / a)[:1].expand(59), "Shift and scale all of sqrt(alpha_bar), not alpha_bar.", 1e-8, 1e-8)
    refuses(lambda: zero_terminal_snr(alpha_bar.flip(0)), "A table that rises must be refused.")
    flat = torch.full((3,), 0.5, dtype=torch.float64)
    refuses(lambda: zero_terminal_snr(flat), "A table that does not fall must be refused.")


def check_time_grid(time_grid=schedules.time_grid, seed: int = 0) -> None:
    """n + 1 even times, nested when the steps double."""
    for steps in (1, 4, 10):
        grid = time_grid(steps)
        assert grid.shape == (steps + 1,), f"{steps} steps need {steps + 1} times."
        expected = torch.tensor([1 - i / steps for i in range(steps + 1)])
        close(grid, expected, "Evenly spaced from 1 down to 0, both included.", atol=1e-6)
    close(time_grid(8)[::2], time_grid(4), "Every time of 4 steps must be one of 8 steps.", atol=0.0)
    close(
        time_grid(2, start=0.9, end=0.1), torch.tensor([0.9, 0.5, 0.1]), "From start down to end.", atol=1e-6
    )
    refuses(lambda: time_grid(0), "No steps must be refused.")
    refuses(
        lambda: time_grid(4, start=0.0, end=1.0),
        "start below end must be refused: time runs from noise to data.",
    )


def check_karras_sigmas(karras_sigmas=schedules.karras_sigmas, seed: int = 0) -> None:
    """The ends, and even spacing in sigma^(1/rho)."""
    sigmas = karras_sigmas(18).double()
    assert sigmas.shape == (18,), "n levels: the 0 at the end is not one of them."
    close(
        sigmas[[0, -1]], torch.tensor([80.0, 0.002]).double(), "From sigma_max down to sigma_min.", 1e-7, 1e-5
    )
    root = sigmas ** (1 / 7)
    close(root.diff(), root.diff().mean().expand(17), "Evenly spaced in sigma^(1/rho).", 1e-5, 1e-4)
    refuses(lambda: karras_sigmas(1), "One level must be refused.")
    refuses(lambda: karras_sigmas(5, sigma_min=0.0), "sigma_min = 0 must be refused.")
