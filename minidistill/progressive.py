"""Progressive distillation: one student step lands where two teacher steps land; then halve again.

           teacher         teacher
    z_t ------------> z_m ------------> z_s        t = i / n,  m = t - 0.5 / n,  s = t - 1 / n
     \\                                 /
      `---------- student -----------'

DDIM is Euler in the plane (rho, z / sigma), rho = alpha / sigma, with slope x_hat. Two teacher steps are two
chords, with slopes x_1 and x_2. The student must do it with one chord, so its target is the slope of the long
one,

    x_target = [(rho_m - rho_t) x_1 + (rho_s - rho_m) x_2] / (rho_s - rho_t),

a convex combination of two teacher predictions: it cannot explode, and it is finite at both ends. Solving the
DDIM step for x_hat gives the same number as a quotient (`quotient_target`), which loses all digits in low
precision.

Salimans & Ho (2022), "Progressive distillation for fast sampling of diffusion models": algorithm 2, section
4, appendix G. (Their released code clips log SNR to +-20: alpha(1) = 4.5e-5.) A perfect student is exactly
the teacher's DDIM with n fewer evaluations: halving never repairs the teacher's own discretization error.

>>> halvings(8)
[4, 2, 1]
"""

import torch

from minidistill import need
from minidistill.asking import Generator, Number, Whole, ask, mean_square, read
from minidistill.parameterization import Denoiser
from minidistill.samplers import ddim_step
from minidistill.schedules import Batch, Schedule, Time, coefficients, edm, like, log_snr, mix, randn_like


def grid_times(t: Time, n: Whole) -> tuple[Time, Time, Time]:
    """t, the middle m and the end s of the step of size 1 / n that starts at t, snapped to the grid i / n.

    Raises ValueError unless every t is one of 1/n, 2/n, ..., 1, to the precision of its dtype.
    """
    n = need.whole("n", n, why=", the student's steps")
    need.each("t", t, t)
    # half-precision times cannot tell 1023 / 1024 from its neighbours, so they are counted in float32
    exact = t.to(need.wide(t.dtype))
    i = (exact * n).round()
    # a float64 time may come from a float32 grid: it is off only by more than float32 rounding
    on = (i >= 1) & (i <= n) & ((i / n - exact).abs() <= 1e-6 + 2 * torch.finfo(t.dtype).eps)
    if not on.all():
        raise ValueError(
            f"a student of {n} steps lives on t = 1/{n}, 2/{n}, ..., 1, got t = {t[~on][0].item():g}"
        )
    return i / n, (i - 0.5) / n, (i - 1) / n


@torch.no_grad()  # a target is a constant
def two_step_target(teacher: Denoiser, z: Batch, t: Time, n: Whole, schedule: Schedule) -> Batch:
    """What the student should predict at (z, t), t = i / n, to jump 1 / n in one DDIM step.

    The convex form: both weights are multiplied by sigma_s, which keeps them finite at s = 0, where the
    answer is x_2. Raises ValueError for times off the grid.
    """
    t, m, s = grid_times(t, n)
    x_1 = ask(teacher, z, t, "x")
    x_2 = ask(teacher, ddim_step(x_1, z, t, m, schedule), m, "x")

    (alpha_t, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = (read(schedule, u) for u in (t, m, s))
    first = (alpha_m / sigma_m - alpha_t / sigma_t) * sigma_s
    second = alpha_s - alpha_m / sigma_m * sigma_s
    share = like(first / (first + second), z)
    return (share * x_1 + (1 - share) * x_2).to(z.dtype)


@torch.no_grad()
def quotient_target(teacher: Denoiser, z: Batch, t: Time, n: Whole, schedule: Schedule) -> Batch:
    """The same target as the paper writes it (algorithm 2): the x_hat whose DDIM step ends at z_s.

    For the lesson only: numerator and denominator are differences of near-equal numbers. In bfloat16 the
    relative error is about n / 600 (root mean square), and for n = 1024 a quarter of the targets are no
    numbers. Raises ValueError as `two_step_target` does.
    """
    t, m, s = grid_times(t, n)
    z_m = ddim_step(ask(teacher, z, t, "x"), z, t, m, schedule)
    z_s = ddim_step(ask(teacher, z_m, m, "x"), z_m, m, s, schedule)
    # in z's precision all the way, to show the loss
    at = [[c.to(z.dtype) for c in coefficients(schedule, u, z)] for u in (t, s)]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at
    return (z_s - sigma_s / sigma_t * z) / (alpha_s - sigma_s / sigma_t * alpha_t)


def weight(kind: str, log_snr: Time, gamma: Number = 5.0) -> Time:
    """The weight of ||x_hat - x||^2, in x space. Salimans & Ho (2022), section 4.

    "constant": 1, the error in x. "snr": the error in eps; 0 at t = 1, so a one-step student would learn
    nothing. "truncated_snr": max(SNR, 1). "snr+1": the error in v when alpha^2 + sigma^2 = 1. "min_snr":
    min(SNR, gamma), Hang et al. (2023); 0 at t = 1 as well, and the only one that is capped. Raises
    ValueError for another kind.
    """
    gamma = need.number("gamma", gamma, above=0)
    need.samples(log_snr=log_snr)
    snr = log_snr.to(need.wide(log_snr.dtype)).exp()
    match kind:
        case "constant":
            found = torch.ones_like(snr)
        case "snr":
            found = snr
        case "truncated_snr":
            found = snr.clamp(min=1)
        case "snr+1":
            found = snr + 1
        case "min_snr":
            found = snr.clamp(max=gamma)
        case _:
            kinds = '"constant", "snr", "truncated_snr", "snr+1" or "min_snr"'
            raise ValueError(f"kind must be {kinds}, got {kind!r}")
    return found.to(log_snr.dtype)


def logit_normal_times(
    b: Whole, mean: Number = 0.0, std: Number = 1.0, generator: Generator = None, device=None
) -> Time:
    """b independent times in (0, 1), most of them in the middle: the sigmoid of N(mean, std^2).

    Esser et al. (2024), section 3.1. Near t = 0 every network is right and near t = 1 only the mean can be
    said; in the middle the image is decided. On the generator's device, if none is given. Raises ValueError
    for std < 0 and b < 1.
    """
    device = generator.device if device is None and generator is not None else device
    mean, std = need.number("mean", mean), need.number("std", std, least=0)
    return torch.sigmoid(mean + std * torch.randn(need.whole("b", b), generator=generator, device=device))


def diffusion_loss(
    denoiser: Denoiser,
    x: Batch,
    schedule: Schedule,
    weighting: str = "snr+1",
    generator: Generator = None,
    t: Time | None = None,
) -> Time:
    """The teacher's loss: the distance of x_hat to the data, at a random time in (0, 1]: (b,).

    Salimans & Ho (2022), algorithm 1. Mean over each sample, weighted; no clipping. The times are t, or
    uniform without it. They and the noise are drawn for each sample on its own, from the generator, which
    alone decides, or from torch's. Raises ValueError for an unknown weighting, for times that are not one
    for each sample, for edm without times, and for an answer of another shape than x.
    """
    need.samples(x=x)
    weight(weighting, x.new_zeros(1))  # refuses an unknown weighting before any work is done
    if t is None and schedule is edm:
        raise ValueError("edm's time is sigma, beyond 1, too: pass t, such as consistency.lognormal_times(b)")

    if t is None:  # rand can be 0, where the weight is infinite, but never 1
        t = 1 - torch.rand(x.shape[:1], generator=generator, dtype=need.wide(x.dtype), device=x.device)
    need.each("t", t, x)
    eps = randn_like(x, generator)
    z = mix(x, eps, t, schedule)
    x_hat = ask(denoiser, z, t, "x")
    return weighted_error(x_hat, x, t, schedule, weighting)


def weighted_error(x_hat: Batch, x: Batch, t: Time, schedule: Schedule, weighting: str) -> Time:
    """weight(SNR_t) times the mean squared error of each sample. Raises ValueError for unequal shapes."""
    need.samples(x_hat=x_hat, x=x)
    need.each("t", t, x)
    return (weight(weighting, log_snr(schedule, t)) * mean_square(x_hat, x)).to(x.dtype)


def progressive_loss(
    student: Denoiser,
    teacher: Denoiser,
    x: Batch,
    n: Whole,
    schedule: Schedule,
    weighting: str = "snr+1",
    generator: Generator = None,
) -> Time:
    """The distance of the student of n steps to two steps of the teacher of 2 n, at a random grid time: (b,).

    Salimans & Ho (2022), algorithm 2. i = 1, ..., n: t = 1 is trained, since sampling starts there, and t = 0
    is not. Mean over each sample, weighted; no clipping. The data is only used to make z_t. i and the noise
    are drawn for each sample on its own, from the generator, which alone decides, or from torch's. Raises
    ValueError for edm, whose noisy end is not 1: take lambda t: edm(80 * t**7), and `pretrained.rescheduled`.
    """
    need.samples(x=x)
    n = need.whole("n", n, why=", the student's steps")
    if schedule is edm:
        raise ValueError("edm's time is sigma, and i / n ends at 1: take lambda t: edm(80 * t**7) for it")
    weight(weighting, x.new_zeros(1))  # refuses an unknown weighting before any work is done

    i = torch.randint(1, n + 1, x.shape[:1], generator=generator, device=x.device)
    t = i.to(need.wide(x.dtype)) / n  # half precision cannot count to 1024
    eps = randn_like(x, generator)
    z = mix(x, eps, t, schedule)
    target = two_step_target(teacher, z, t, n, schedule)
    x_hat = ask(student, z, t, "x")
    return weighted_error(x_hat, target, t, schedule, weighting)


def halvings(start: Whole, end: Whole = 1) -> list[int]:
    """The step counts of the students of a teacher of `start` steps: 8 -> [4, 2, 1].

    None are needed from `end` itself: []. Raises ValueError unless start is end times a power of two.
    """
    steps, end = [need.whole("start", start)], need.whole("end", end)
    while steps[-1] > end and steps[-1] % 2 == 0:
        steps.append(steps[-1] // 2)
    if steps[-1] != end:
        raise ValueError(
            f"halving {start} steps never reaches {end}: start must be end times 1, 2, 4, 8, ..."
        )
    return steps[1:]


class Student:
    """A denoiser that remembers what it was distilled for: so many steps of DDIM. Samplers warn otherwise."""

    predicts, sampler = "x", "ddim"

    def __init__(self, denoiser: Denoiser, steps: Whole):
        self.denoiser, self.steps = denoiser, need.whole("steps", steps)

    def __call__(self, z: Batch, t: Time) -> Batch:
        return ask(self.denoiser, z, t, "x")
