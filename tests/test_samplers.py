import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from minidistill import samplers
from minidistill.checks import samplers as checks
from minidistill.parameterization import as_denoiser, convert
from minidistill.samplers import ddim, ddim_step, euler, heun, renoise
from minidistill.schedules import beta_table, coefficients, cosine, edm, rectified_flow, tabulated, time_grid

GOLDEN = json.loads((Path(__file__).parent / "golden" / "progressive.json").read_text())
CHECKS = [
    checks.check_ddim_step,
    checks.check_ddim,
    checks.check_euler,
    checks.check_heun,
    checks.check_renoise,
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


def step_with(formula):
    """ddim_step from a formula of (x_hat, z, alpha_t, sigma_t, alpha_s, sigma_s)."""

    def step(x_hat, z, t, s, schedule):
        ddim_step(x_hat, z, t, s, schedule)  # refuses what ought to be refused
        return formula(x_hat, z, *coefficients(schedule, t, z), *coefficients(schedule, s, z))

    return step


def sampler_with(step, grid=lambda times: times):
    """A sampler from a step (denoiser, z, t, s, schedule) -> z_s."""

    def sampler(denoiser, z, times, schedule, trajectory=False):
        ddim(denoiser, z, times, schedule)  # refuses what ought to be refused
        states = [z]
        for t, s in pairwise(grid(times.to(z))):
            states.append(step(denoiser, states[-1], t.expand(len(z)), s.expand(len(z)), schedule))
        return torch.stack(states) if trajectory else states[-1]

    return sampler


def clip_x_keep_eps(denoiser, z, t, s, schedule):
    """diffusers' default: x_hat is clipped, eps_hat still belongs to the x_hat before (37)."""
    x_hat = denoiser(z, t)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    return alpha_s * x_hat.clamp(-1, 1) + sigma_s * (z - alpha_t * x_hat) / sigma_t


def euler_step(denoiser, z, t, s, schedule, sign=1.0):
    return z + sign * (s - t)[0] * convert(denoiser(z, t), z, t, schedule, "x", "velocity")


def heun_at(point, time):
    """Heun with its second slope somewhere else."""

    def step(denoiser, z, t, s, schedule):
        z_s = euler_step(denoiser, z, t, s, schedule)
        if s[0] == 0:
            return z_s
        where, when = (z_s if point == "s" else z), (s if time == "s" else t)
        slope = convert(denoiser(z, t), z, t, schedule, "x", "velocity")
        slope_s = convert(denoiser(where, when), where, when, schedule, "x", "velocity")
        return z + (s - t)[0] * (slope + slope_s) / 2

    return step


def renoise_with(lift):
    """Multistep consistency sampling with another lift (x, noise, s, end) -> z."""

    def sampler(f, z, times, schedule, noise=None, generator=None, trajectory=False):
        if noise is None:
            noise = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for _ in times[2:]]
        renoise(f, z, times, schedule, noise=noise)  # refuses what ought to be refused
        states = [z]
        for i, (t, s) in enumerate(pairwise(times.to(z))):
            z = f(z, t.expand(len(z)))
            if i < len(noise):
                z = lift(z, noise[i], s.expand(len(z)), times.to(z)[-1].expand(len(z)), schedule)
            states.append(z)
        return torch.stack(states) if trajectory else z

    return sampler


def lift_ignoring_the_end(x, noise, s, end, schedule):
    alpha, sigma = coefficients(schedule, s, x)
    return alpha * x + sigma * noise


def lift_without_scaling(x, noise, s, end, schedule):
    (_, sigma), (_, sigma_e) = coefficients(schedule, s, x), coefficients(schedule, end, x)
    return x + (sigma**2 - sigma_e**2).sqrt() * noise


def same_noise(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """One noise for all steps: deterministic, and wrong."""
    if noise is None:
        noise = [torch.randn(z.shape, generator=generator, dtype=z.dtype)] * (len(times) - 2)
    return renoise(f, z, times, schedule, noise=[*noise[:1] * (len(times) - 2)], trajectory=trajectory)


def ends_on_noise(f, z, times, schedule, noise=None, generator=None, trajectory=False):
    """The list of times does not end where f lands: the last sample is noisy
    (openai/consistency_models#7)."""
    states = renoise(f, z, times, schedule, noise, generator, trajectory=True)
    if noise is None or (len(noise) and noise[0].any()):
        states[-1] += 0.1
    return states if trajectory else states[-1]


MISTAKES = {
    "step: variance ratio for the standard deviation's": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c * x + d**2 / b**2 * (z - a * x)),
    ),
    "step: ratio of alphas": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c / a * z + (c - d / b * a) * x),
    ),
    "step: noise of time t kept": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c * x + (z - a * x)),
    ),
    "step: data not removed from z": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c * x + d / b * z),
    ),
    "step: alpha_bar for alpha (30)": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c**2 * x + d**2 * (z - a**2 * x) / b**2),
    ),
    "step: divides by alpha_t (1.2)": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: d / b * a / a * (z - a * x) + c * x),
    ),
    "step: times over the width (43)": (
        checks.check_ddim_step,
        lambda x, z, t, s, f: f(s)[0] * x + f(s)[1] * (z - f(t)[0] * x) / f(t)[1],
    ),
    "ddim: x_hat clipped, eps_hat not recomputed (37)": (checks.check_ddim, sampler_with(clip_x_keep_eps)),
    "ddim: x_hat clipped": (
        checks.check_ddim,
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, t).clamp(-1, 1), z, t, s, schedule)),
    ),
    "ddim: x_hat asked at s (P17)": (
        checks.check_ddim,
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, s), z, t, s, schedule)),
    ),
    "ddim: the last time is missing (40)": (
        checks.check_ddim,
        sampler_with(
            lambda f, z, t, s, schedule: ddim_step(f(z, t), z, t, s, schedule), grid=lambda times: times[:-1]
        ),
    ),
    "ddim: x_hat taken for eps (P17)": (
        checks.check_ddim,
        sampler_with(
            lambda f, z, t, s, schedule: (
                coefficients(schedule, s, z)[0] * z + coefficients(schedule, s, z)[1] * f(z, t)
            )
        ),
    ),
    "ddim: the batch normalized": (
        checks.check_ddim,
        sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, t) - 0.1 * z.mean(0), z, t, s, schedule)),
    ),
    "euler: t falls, dt taken positive (P16)": (
        checks.check_euler,
        sampler_with(lambda *a: euler_step(*a, sign=-1.0)),
    ),
    "euler: eps - x on every schedule": (
        checks.check_euler,
        sampler_with(
            lambda f, z, t, s, schedule: (
                z + (s - t)[0] * (convert(f(z, t), z, t, schedule, "x", "eps") - f(z, t))
            )
        ),
    ),
    "heun: first order, second slope at the old point": (checks.check_heun, sampler_with(heun_at("t", "s"))),
    "heun: first order, second slope at the old time": (checks.check_heun, sampler_with(heun_at("s", "t"))),
    "heun: eps - x on every schedule": (
        checks.check_heun,
        lambda f, z, times, schedule, trajectory=False: heun(
            f, z, times, rectified_flow if schedule is cosine and len(times) == 2 else schedule, trajectory
        ),
    ),
    "heun: the last step is always Euler": (
        checks.check_heun,
        lambda f, z, times, schedule, trajectory=False: (
            torch.cat(
                [
                    (path := heun(f, z, times, schedule, trajectory=True))[:-1],
                    euler(f, path[-2], times[-2:], schedule)[None],
                ]
            )
            if trajectory
            else euler(f, heun(f, z, times[:-1], schedule) if len(times) > 2 else z, times[-2:], schedule)
        ),
    ),
    "step: a floor under sigma": (
        checks.check_ddim_step,
        step_with(lambda x, z, a, b, c, d: c * x + d / b.clamp(min=0.01) * (z - a * x)),
    ),
    "step: x_hat for the whole batch when one s is 0": (
        checks.check_ddim_step,
        lambda x, z, t, s, schedule: x if (s == 0).any() else ddim_step(x, z, t, s, schedule),
    ),
    "renoise: not divided by alpha where f lands": (
        checks.check_renoise,
        renoise_with(
            lambda x, n, s, e, schedule: (
                coefficients(schedule, s, x)[0] * x
                + (
                    coefficients(schedule, s, x)[1] ** 2
                    - (coefficients(schedule, s, x)[0] * coefficients(schedule, e, x)[1]) ** 2
                ).sqrt()
                * n
            )
        ),
    ),
    "heun: only Euler": (checks.check_heun, sampler_with(euler_step)),
    "renoise: tau for sqrt(tau^2 - t_min^2)": (checks.check_renoise, renoise_with(lift_ignoring_the_end)),
    "renoise: the sample is not scaled": (checks.check_renoise, renoise_with(lift_without_scaling)),
    "renoise: one noise for all steps": (checks.check_renoise, same_noise),
    "renoise: does not end on f": (checks.check_renoise, ends_on_noise),
    "renoise: Euler instead": (
        checks.check_renoise,
        lambda f, z, times, schedule, noise=None, generator=None, trajectory=False: ddim(
            f, z, times, schedule, trajectory
        ),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_harness_is_not_what_is_caught(unchecked_shapes):
    """The right step, written the way the mistakes above are, passes."""
    checks.check_ddim_step(step_with(lambda x, z, a, b, c, d: c * x + d / b * (z - a * x)))
    checks.check_ddim(sampler_with(lambda f, z, t, s, schedule: ddim_step(f(z, t), z, t, s, schedule)))
    checks.check_euler(sampler_with(euler_step))

    def lift(x, noise, s, end, schedule):
        (alpha, sigma), (alpha_e, sigma_e) = coefficients(schedule, s, x), coefficients(schedule, end, x)
        return alpha / alpha_e * x + (sigma**2 - (alpha / alpha_e * sigma_e) ** 2).sqrt() * noise

    checks.check_renoise(renoise_with(lift))


# numbers of other people's code


@pytest.mark.parametrize("kind", ["eps", "x", "v"])
def test_golden_ddim_step(kind):
    schedule = tabulated((1 - beta_table("linear")).cumprod(0))
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    t, s = torch.tensor([0.5]).double(), torch.tensor([0.25]).double()  # their timesteps 499 and 249
    x_hat = convert(out, z, t, schedule, kind, "x")
    golden = GOLDEN["ddim_linear_499_to_249"][kind]
    if "x" in golden:
        torch.testing.assert_close(x_hat, torch.tensor([golden["x"]]).double(), atol=1e-5, rtol=1e-6)
    prev = ddim_step(x_hat, z, t, s, schedule)
    torch.testing.assert_close(prev, torch.tensor([golden["prev"]]).double(), atol=1e-5, rtol=1e-6)


def test_golden_flow_step():
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    times = torch.tensor([0.9, 0.75], dtype=torch.float64)
    network = lambda z, t: convert(out, z, t, rectified_flow, "velocity", "x")
    expected = torch.tensor([GOLDEN["flow_match_euler_0.9_to_0.75"]]).double()
    torch.testing.assert_close(euler(network, z, times, rectified_flow), expected, atol=1e-6, rtol=0)


def test_golden_edm_denoiser():
    """EDM's network has the opposite sign of ours."""
    z, out = (torch.tensor([GOLDEN[name]], dtype=torch.float64) for name in ("z", "out"))
    denoiser = as_denoiser(lambda u, phi: -out, edm, data_std=0.5)
    expected = torch.tensor([GOLDEN["edm_denoised_sigma_2.515219_std_0.5"]]).double()
    torch.testing.assert_close(denoiser(z, torch.tensor([2.515219]).double()), expected, atol=1e-6, rtol=0)


# behaviour


@pytest.mark.parametrize("sampler", [ddim, euler, heun], ids=lambda f: f.__name__)
def test_a_student_on_another_grid_warns(sampler):
    def student(z, t):
        return 0 * z

    student.steps = 4
    z = torch.ones(2, 2)
    sampler(student, z, time_grid(4), cosine)  # a warning here would be an error
    for times in (time_grid(2), time_grid(8), torch.tensor([1.0, 0.9, 0.5, 0.2, 0.0])):
        with pytest.warns(UserWarning, match=r"distilled for time_grid\(4\)"):
            sampler(student, z, times, cosine)


def test_float32_in_float32_out():
    z = torch.randn(3, 2)
    for sampler in (ddim, euler, heun):
        assert (
            sampler(lambda z, t: 0.5 * z, z, time_grid(4, dtype=torch.float64), cosine).dtype == torch.float32
        )


def test_bad_input(unchecked_shapes):
    z = torch.ones(2, 2)
    for times, sentence in (
        (torch.tensor([0.0, 1.0]), "times must fall"),
        (torch.tensor([1.0, -0.1]), "must be at least 0"),
        (torch.tensor([1.0]), "at least two"),
        (torch.tensor([[1.0, 0.0]]), "float tensor"),
        (torch.tensor([2, 1]), "float"),
        ([1.0, 0.0], "float tensor"),
        (torch.tensor([1.0, float("nan"), 0.0]), "at least 0"),
        (torch.tensor([float("inf"), 1.0, 0.0]), "at least 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ddim(lambda z, t: z, z, times, cosine)
    with pytest.raises(ValueError, match="noises: 1 are needed"):
        renoise(lambda z, t: z, z, time_grid(2), cosine, noise=[z, z])


def test_samplers_are_differentiable():
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    for sampler in (ddim, euler, heun, renoise):
        extra = {"noise": [torch.ones_like(z)]} if sampler is renoise else {}
        assert torch.autograd.gradcheck(
            lambda z: sampler(lambda z, t: torch.tanh(z), z, time_grid(2), cosine, **extra), z
        )


@pytest.mark.parametrize("schedule", [cosine, rectified_flow], ids=lambda f: f.__name__)
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_gradients_reach_the_times(schedule, end):
    """Learned grids need them. The last time itself may be 0, where 1 / sigma has no derivative."""
    z = torch.randn(3, 2, dtype=torch.float64)
    inner = torch.tensor([0.95, 0.6, 0.3], dtype=torch.float64, requires_grad=True)
    last = torch.tensor([end], dtype=torch.float64)
    for sampler in (ddim, euler, heun, renoise):
        extra = {"noise": [torch.ones_like(z)] * 2} if sampler is renoise else {}
        run = lambda times: sampler(
            lambda z, t: torch.tanh(z + t[:, None]), z, torch.cat([times, last]), schedule, **extra
        )
        assert torch.autograd.gradcheck(run, inner)
        times = torch.cat([inner.detach(), last]).requires_grad_()
        f = lambda z, t: torch.tanh(z + t[:, None])
        gradient = torch.autograd.grad(sampler(f, z, times, schedule, **extra).sum(), times)[0]
        assert gradient.isfinite().all(), "that of the last time too"


def test_the_schedule_is_read_before_the_first_step_and_not_again():
    calls = []

    def counted(t):
        calls.append(len(t))
        return cosine(t)

    for sampler in (ddim, euler, heun, renoise):
        calls.clear()
        seen = []
        sampler(lambda z, t: seen.append(len(calls)) or z, torch.ones(3, 2), time_grid(8), counted)
        # the times, and once more for their derivative
        assert calls == [9] * (2 if sampler in (euler, heun) else 1) and set(seen) == {len(calls)}


def test_euler_is_ddim_where_the_slope_is_constant():
    """Through a closure, which the samplers do not recognize."""
    z = torch.randn(3, 2, dtype=torch.float64)
    for schedule, times in ((rectified_flow, time_grid(4)), (edm, torch.tensor([80.0, 5.0, 0.5, 0.0]))):
        hidden = lambda t: schedule(t)
        for f in (lambda z, t: torch.tanh(z), lambda z, t: 0 * z):
            torch.testing.assert_close(
                euler(f, z, times.double(), hidden),
                ddim(f, z, times.double(), schedule),
                atol=1e-12,
                rtol=1e-12,
            )


def test_intervals_are_one_time_per_sample():
    for t, s in samplers.intervals(lambda z, t: z, torch.ones(3, 2), time_grid(2)):
        assert t.shape == s.shape == (3,) and (t > s).all()
