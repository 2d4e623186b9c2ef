"""Noise schedules: how much signal and how much noise there is at time t.

    z_t = alpha_t x + sigma_t eps,    eps ~ N(0, I)

t = 0 is data and t = 1 is noise. A schedule is a function t -> (alpha_t, sigma_t), nothing more: its
derivatives come from forward-mode differentiation (`rates`), its shifted version is a closure (`shifted`),
and a table of a thousand numbers becomes one by interpolation (`tabulated`). For EDM the time is sigma
itself.

Every schedule is exact at its ends in float32: alpha is never negative at t = 1, sigma never at t = 0. Times
outside its domain are refused. alpha and sigma have the dtype of the times, torch can differentiate them, and
half precision is computed in float32 and cast at the end.

>>> alpha, sigma = cosine(torch.tensor([0.0, 0.5, 1.0]))
>>> alpha
tensor([1.0000, 0.7071, 0.0000])
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Generator, Number, Schedule, Time, Whole, read, until
from minidistill.need import wide

# schedules, in the order in which the field met them


@until(1.0)
def linear_beta(t: Time) -> tuple[Time, Time]:
    """The VP-SDE, the limit of DDPM's linear betas: log alpha^2 = -(0.1 t + 19.9 t^2 / 2).

    Song et al. (2021), appendix C, beta_min = 0.1 and beta_max = 20. alpha(1) = 0.0066: a little signal is
    left. sigma keeps its digits where t is small, in float32, too.
    """
    log_alpha_bar = -(0.1 * t + 19.9 * t**2 / 2)
    return torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar))


@until(1.0)
def cosine(t: Time) -> tuple[Time, Time]:
    """The unit circle at constant speed: cos(pi t / 2), sin(pi t / 2). Salimans & Ho (2022), section 2."""
    # cos(pi/2) is -4e-8 in float32, so alpha is written as a sine, which is exactly 0 at t = 1
    return torch.sin(torch.pi / 2 * (1 - t)), torch.sin(torch.pi / 2 * t)


@until(1.0)
def sigmoid(t: Time) -> tuple[Time, Time]:
    """alpha^2 falls from 1 to 0 like a logistic function. Jabri et al. (2023), start -3, end 3, tau 1.

    alpha' is infinite at t = 1 and sigma' at t = 0. (DDPM code has another "sigmoid", for its betas.)
    """
    # the logistic function, shifted and scaled to end at 0, without the difference of two near-equal numbers
    scale = 2 * math.sinh(1.5) * torch.cosh(3 * t - 1.5)
    return torch.sqrt(torch.sinh(3 * (1 - t)) / scale), torch.sqrt(torch.sinh(3 * t) / scale)


@until(math.inf)
def edm(t: Time) -> tuple[Time, Time]:
    """Noise is added and the signal is left alone: 1, t. The time is sigma. Karras et al. (2022), table 1."""
    return torch.ones_like(t), t


@until(1.0)
def rectified_flow(t: Time) -> tuple[Time, Time]:
    """A straight line from data to noise: 1 - t, t. Liu et al. (2023), section 2.1, with time reversed."""
    return 1 - t, t


def shifted(schedule: Schedule, shift: Number) -> Schedule:
    """The schedule at time shift t / (1 + (shift - 1) t): for shift > 1, more of the time is spent in noise.

    For times in [0, 1]. It lowers log SNR of rectified flow by 2 log(shift) everywhere; shifts multiply, and
    1 / shift undoes one. Esser et al. (2024), eq. 23. Raises ValueError unless shift > 0.
    """
    shift = need.number("shift", shift, above=0, why=" (1 changes nothing)")
    # the same fraction, divided by shift: it is exactly 1 at t = 1, in any precision
    return until(1.0)(lambda t: schedule(t / (t + (1 - t) / shift)))


def tabulated(alpha_bar: Float[Tensor, " n"]) -> Schedule:
    """A DDPM table as a schedule: alpha_bar[i] = alpha^2 at t = (i + 1) / n, and alpha^2 = 1 at t = 0.

    Between two entries (alpha, sigma) moves evenly along the chord and is pushed out to the unit circle.
    Raises ValueError unless the table is 1-D, lies in [0, 1] and never rises.
    """
    check_table(alpha_bar)
    # on the processor: not every device has float64
    alpha_bar = torch.cat(
        [torch.ones(1, dtype=torch.float64, device="cpu"), alpha_bar.cpu().to(torch.float64)]
    )
    corners = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])  # (2, n + 1), on the unit circle

    @until(1.0)
    def schedule(t: Time) -> tuple[Time, Time]:
        position = t * (corners.shape[1] - 1)
        left = position.detach().long().clamp(0, corners.shape[1] - 2)
        table = corners.to(t.dtype).to(t.device)
        alpha, sigma = torch.lerp(table[:, left], table[:, left + 1], position - left)
        length = torch.hypot(alpha, sigma)
        return alpha / length, sigma / length

    return schedule


def coefficients(schedule: Schedule, t: Time, z: Batch) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t with one axis for each axis of z: (b,) -> (b, 1, ..., 1), in z's dtype or float32.

    Raises ValueError unless z is a batch of samples, with one floating-point time for each.
    """
    need.each("t", t, z)
    alpha, sigma = read(schedule, t)
    return like(alpha, z), like(sigma, z)


def like(coefficient: Time, z: Batch) -> Tensor:
    """One number per sample, with the number of axes of z and its dtype, or float32 for half precision.

    What is computed with it is therefore computed in float32 at least, and is cast at the end.
    """
    return coefficient.to(wide(z.dtype)).reshape(-1, *[1] * (z.ndim - 1))


def randn_like(z: Batch, generator: Generator = None) -> Batch:
    """Unit Gaussian noise with the shape, dtype and device of z, from the generator."""
    need.samples(samples=z)
    return torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)


def mix(x: Batch, eps: Batch, t: Time, schedule: Schedule) -> Batch:
    """z_t = alpha_t x + sigma_t eps, in the dtype of x.

    Raises ValueError unless x and eps have one shape and t has one time for each sample, (b,).
    """
    need.samples(x=x, eps=eps)
    alpha, sigma = coefficients(schedule, t, x)
    return (alpha * x + sigma * eps).to(x.dtype)


def rates(schedule: Schedule, t: Time) -> tuple[Time, Time]:
    """d alpha / dt and d sigma / dt, by forward-mode differentiation: exact, and not derived by hand.

    They are infinite where the schedule is too steep. t itself stays as it is.
    """
    return motion(schedule, t)[2:]


def motion(schedule: Schedule, t: Time) -> tuple[Time, Time, Time, Time]:
    """alpha, sigma, and their rates: where the schedule is, and where it goes."""
    alpha, sigma = read(schedule, t)  # refuses what is no schedule, or no time of it
    t = t.contiguous()  # a time expanded over the batch cannot carry a tangent
    return alpha, sigma, *torch.func.jvp(schedule, (t,), (torch.ones_like(t),))[1]


def log_snr(schedule: Schedule, t: Time) -> Time:
    """log(alpha^2 / sigma^2): +inf at pure data, -inf at pure noise. Kingma et al. (2021).

    Between the two it is finite, also where sigma^2 is too small for float32.
    """
    alpha, sigma = read(schedule, t)
    return (2 * (alpha.log() - sigma.log())).to(t.dtype)


@torch.no_grad()
def time_of(schedule: Schedule, alpha: Time, sigma: Time, end: Number = 1.0) -> Time:
    """When the schedule has this sigma / alpha: its inverse, at most `end`. A constant, in alpha's dtype.

    sigma / alpha of the schedule rises. Raises ValueError unless end is above 0 and a time of the schedule.
    """
    end = need.number("end", end, above=0)
    # on the processor: not every device has float64
    a, s = (c.cpu().to(torch.float64)[:, None] for c in (alpha, sigma))
    low, high = torch.zeros_like(a), torch.full_like(a, end)
    parts = torch.linspace(0, 1, 65, dtype=torch.float64, device="cpu")
    for _ in range(10):  # each looks at 65 times at once, and keeps one part in 64
        times = low + (high - low) * parts
        alphas, sigmas = (c.reshape(times.shape) for c in read(schedule, times.flatten()))
        before = (sigmas * a <= s * alphas).sum(1, keepdim=True).clamp(1, 64)
        low, high = times.gather(1, before - 1), times.gather(1, before)
    return high[:, 0].to(alpha)


def beta_table(kind: str, n: Whole = 1000) -> Float[Tensor, " n"]:
    """The betas of a DDPM table in float64; alpha_bar = cumprod(1 - beta).

    "linear": 1e-4 to 0.02, Ho et al. (2020). "scaled_linear": 0.00085 to 0.012, linear in the square root,
    Rombach et al. (2022). "squaredcos": Nichol & Dhariwal (2021), eq. 17, capped at 0.999. The end values are
    those of n = 1000, for every n. Raises ValueError for another kind, or unless n is a whole number above 0.
    """
    n = need.whole("n", n)
    match kind:
        case "linear":
            return torch.linspace(1e-4, 0.02, n, dtype=torch.float64)
        case "scaled_linear":
            return torch.linspace(0.00085**0.5, 0.012**0.5, n, dtype=torch.float64) ** 2
        case "squaredcos":
            t = torch.arange(n + 1, dtype=torch.float64) / n
            alpha_bar = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    raise ValueError(f'kind must be "linear", "scaled_linear" or "squaredcos", got {kind!r}')


def zero_terminal_snr(alpha_bar: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The table, shifted and scaled in sqrt(alpha_bar): it ends at exactly 0 and starts where it did.

    Lin et al. (2024), algorithm 1. Raises ValueError for a table that does not fall, or holds nan.
    """
    check_table(alpha_bar)
    if not alpha_bar[0] > alpha_bar[-1]:
        raise ValueError("alpha_bar must fall: a table of one value cannot be stretched to 0")
    alpha = alpha_bar.to(wide(alpha_bar.dtype)).sqrt()
    return (((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2).to(alpha_bar.dtype)


def check_table(alpha_bar: Float[Tensor, " n"]) -> None:
    """Raises ValueError unless alpha_bar is a 1-D float tensor in [0, 1] that never rises."""
    if not (isinstance(alpha_bar, Tensor) and alpha_bar.ndim == 1 and alpha_bar.is_floating_point()):
        raise ValueError(f"alpha_bar must be a 1-D float tensor, got {alpha_bar!r:.60}")
    falls = len(alpha_bar) > 0 and 0 <= alpha_bar[-1] and alpha_bar[0] <= 1 and (alpha_bar.diff() <= 0).all()
    if not falls:
        raise ValueError(
            "alpha_bar = cumprod(1 - beta) must fall from at most 1 to at least 0; are these betas?"
        )


def time_grid(
    steps: Whole, start: Number = 1.0, end: Number = 0.0, dtype: torch.dtype | None = None
) -> Float[Tensor, " n"]:
    """steps + 1 even times from start (noise) down to end (data). Twice the steps keep every time.

    Without a dtype they have torch's default one. Raises ValueError unless steps is a whole number above 0,
    and start > end >= 0.
    """
    steps, end = need.whole("steps", steps), need.number("end", end, least=0)
    start = need.number("start", start, above=end, why=": time runs from noise to data")
    return torch.linspace(start, end, steps + 1, dtype=dtype)


def table_times(
    indices: Sequence[Number] | Tensor, table: Whole = 1000, end: Number = 0.0
) -> Float[Tensor, " n"]:
    """Where a scheduler's `timesteps` stand: (index + 1) / table of each, then the end.

    The names are diffusers'. The end is 0, or 1 / table with set_alpha_to_one = False. Trailing spacing is
    time_grid(n). Raises ValueError unless the indices are whole, in the table, and fall, to above the end.
    """
    indices = torch.as_tensor(indices, dtype=torch.float64, device="cpu")
    need.each("indices", indices, indices, 0, need.whole("table", table) - 1)
    if (indices != indices.round()).any():
        raise ValueError(f"do the steps divide {table}? It has no index {indices.tolist()!s:.60}")
    times = torch.cat([(indices + 1) / table, indices.new_tensor([need.number("end", end, least=0)])])
    need.ordered("times", times, 1)
    return times.to(torch.get_default_dtype())


def karras_sigmas(
    n: Whole,
    sigma_min: Number = 0.002,
    sigma_max: Number = 80.0,
    rho: Number = 7.0,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, " n"]:
    """n noise levels from sigma_max down to sigma_min, evenly spaced in sigma^(1/rho).

    Karras et al. (2022), eq. 5, without the 0 at the end. Halving n does not keep every second level. Without
    a dtype they have torch's default one. Raises ValueError unless n is a whole number above 1, rho > 0 and
    sigma_max > sigma_min > 0.
    """
    n, rho = need.whole("n", n, 2, why=" (two ends)"), need.number("rho", rho, above=0)
    sigma_min = need.number("sigma_min", sigma_min, above=0)
    sigma_max = need.number("sigma_max", sigma_max, above=sigma_min)
    sigmas = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, dtype=torch.float64) ** rho
    return sigmas.to(dtype or torch.get_default_dtype())
