"""Consistency models: one function that gives the same answer along a whole trajectory, its clean end.

    z_t -------- z_s ------------------> x        f(z_t, t) = f(z_s, s) = x,    f(z, 0) = z
     \\            \\_______ f ________/ /
      \\______________ f ______________/

The probability-flow ODE carries each z_t to one clean point; a consistency function jumps there from
anywhere. Two conditions define it: the boundary f(z, 0) = z, and that f does not change along a trajectory
(a constant does not change either, so both are needed). Training compares f with itself at an earlier time s,

    loss = weight(t, s) distance(f(z_t, t), stopgrad f(z_s, s)),

and the truth enters at the boundary and travels to higher noise. Four things are to be decided: how z_s is
found (a step of a teacher, distillation, CD; or with the data point in the teacher's place, training, CT);
how far s is from t; the distance; the weight.

Song et al. (2023), "Consistency models"; Song & Dhariwal (2023), "Improved techniques", iCT; Geng et al.
(2024), "Consistency models made easy", ECT; Lu & Song (2024), "Simplifying, stabilizing and scaling
continuous-time consistency models", sCM. Times are EDM's, t = sigma, unless a schedule is given.

>>> boundary(torch.tensor([0.002]))  # c_skip = 1 and c_out = 0: f(z, t_min) = z whatever the network says
(tensor([1.]), tensor([0.]), tensor([2.0000]))
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Generator, Number, Whole, ask, mean_square, same_dropout, until
from minidistill.parameterization import Denoiser
from minidistill.samplers import ddim_step
from minidistill.schedules import Batch, Schedule, Time, coefficients, edm, like, mix


def boundary(t: Time, data_std: Number = 0.5, t_min: Number = 0.002) -> tuple[Time, Time, Time]:
    """c_skip, c_out, c_in of f(z, t) = c_skip z + c_out F(c_in z, t), exact at t_min: f(z, t_min) = z.

    Song et al. (2023), appendix C: EDM's coefficients, with t - t_min for t in c_skip and in the numerator of
    c_out, and nowhere else. t_min = 0 gives EDM's own, whose boundary is at 0. This package needs neither to
    train: `as_denoiser` is EDM's form for every schedule (F = -tangent), so any network trained with it
    already satisfies f(z, 0) = z. Raises ValueError for t < t_min, where c_skip would fall again, for
    data_std <= 0 and for t_min < 0.
    """
    data_std, t_min = need.number("data_std", data_std, above=0), need.number("t_min", t_min, least=0)
    t_min = torch.tensor(t_min, dtype=getattr(t, "dtype", None)).item()  # the boundary is where t can be
    need.each("t", t, t, least=t_min, why=", t_min, where the boundary is")
    precise = t.to(need.wide(t.dtype))
    above, r = precise - t_min, torch.sqrt(precise**2 + data_std**2)
    # c_skip is data_std^2 / (above^2 + data_std^2), written such that it is exactly 1 at t_min
    found = 1 / (1 + (above / data_std) ** 2), above * data_std / r, 1 / r
    return tuple(c.to(t.dtype) for c in found)


# the target and the loss


def ode_step(
    denoiser: Denoiser, z: Batch, t: Time, s: Time, schedule: Schedule, solver: str = "euler"
) -> Batch:
    """One step of the probability-flow ODE from z at t to s, for each sample its own times.

    "euler" is DDIM, "heun" averages eps_hat at both ends (Karras et al., 2022, algorithm 1) and asks twice.
    Both are Euler's and Heun's method in the plane (sigma / alpha, z / alpha), whose slope is eps_hat: when
    the denoiser knows the data point, each lands exactly on alpha_s x + sigma_s eps. s may be above t. A step
    that ends at sigma = 0 stays an Euler step. Raises ValueError for another solver, where sigma_t = 0, for
    Heun where alpha_t = 0, and for an answer of another shape than z's.
    """
    if solver not in ("euler", "heun"):
        raise ValueError(f'solver must be "euler" or "heun", got {solver!r}')
    x_1 = ask(denoiser, z, t, "x")
    z_s = ddim_step(x_1, z, t, s, schedule)
    if solver == "euler":
        return z_s
    (alpha_t, sigma_t), (alpha_s, sigma_s) = coefficients(schedule, t, z), coefficients(schedule, s, z)
    need.each("alpha", alpha_t.flatten(), z, above=0, why=": a Heun step cannot start at alpha = 0")
    inside = sigma_s > 0
    # where s is clean the second answer is not used: ask at t, since some networks take the log of the time
    x_2 = ask(denoiser, z_s, torch.where(inside.flatten(), s, t), "x")
    # no division by 0 there either: its gradient would be nan, chosen or not
    eps_1, eps_2 = (z - alpha_t * x_1) / sigma_t, (z_s - alpha_s * x_2) / torch.where(inside, sigma_s, 1)
    keep = alpha_s / alpha_t
    return torch.where(inside, keep * z + (sigma_s - keep * sigma_t) * (eps_1 + eps_2) / 2, z_s).to(z.dtype)


@torch.no_grad()  # a target is a constant
def consistency_target(
    f: Denoiser,
    x: Batch,
    eps: Batch,
    t: Time,
    s: Time,
    schedule: Schedule,
    teacher: Denoiser | None = None,
    solver: str = "euler",
) -> Batch:
    """What f should say at z_t = alpha_t x + sigma_t eps: its own answer at the cleaner time s.

    With a teacher, z_s is one step of its ODE from z_t: consistency distillation, Song et al. (2023),
    algorithm 2. Without, the data point takes the teacher's place and z_s = alpha_s x + sigma_s eps, with the
    same eps: consistency training, algorithm 3. Its mean over all (x, eps) that give z_t is the exact Euler
    step. Where sigma_s = 0, the target is z_s itself. Raises ValueError unless 0 <= s < t and sigma_t > 0.
    """
    z = mix(x, eps, t, schedule)
    need.each("s, the cleaner time,", s, x, least=0)
    if not (s.to(x.dtype) < t.to(x.dtype)).all():
        raise ValueError(f"s is the cleaner time: need 0 <= s < t for every sample, told apart in {x.dtype}")
    z_s = ode_step((lambda z, t: x) if teacher is None else teacher, z, t, s, schedule, solver)
    alpha_s, sigma_s = coefficients(schedule, s, z)
    noisy = sigma_s > 0
    # the whole batch, at any time where z_s is clean: a part of it would draw another dropout mask
    answer = ask(f, z_s, torch.where(noisy.flatten(), s, t), "x")
    return torch.where(noisy, answer, z_s / alpha_s).to(x.dtype)


def pseudo_huber(delta: Batch, c: Number) -> Time:
    """sqrt(|delta|^2 + c^2) - c, one norm over the whole sample: (b,). Song & Dhariwal (2023), section 3.3.

    The gradient is delta / sqrt(|delta|^2 + c^2), of length below 1: that of |delta|^2 / 2 with the constant
    weight 1 / sqrt(|delta|^2 + c^2), and half of that of |delta|^2 with this weight, which is how ECT tells
    it. c = 0 is the norm, whose gradient at 0 is 0 here. Raises ValueError for c < 0.
    """
    c = need.number("c", c, least=0, why=" (0 is the norm, large c is the square)")
    need.samples(delta=delta)
    norm = torch.linalg.vector_norm(delta.to(need.wide(delta.dtype)).reshape(len(delta), -1), dim=1)
    # sqrt(norm^2 + c^2) - c, without the difference of near-equal numbers when norm is much smaller than c
    return (norm**2 / (torch.sqrt(norm**2 + c**2) + c) if c > 0 else norm).to(delta.dtype)


def consistency_loss(
    f: Denoiser,
    x: Batch,
    eps: Batch,
    t: Time,
    s: Time,
    schedule: Schedule,
    c: Number = 0.0,
    teacher: Denoiser | None = None,
    solver: str = "euler",
) -> Time:
    """The Pseudo-Huber distance of f at t to its target at s, unweighted: (b,).

    The gradient flows through f(z_t, t) only. f is asked twice with the same dropout mask, in the mode in
    which it is. A teacher should have no dropout (`eval()`).
    """
    pseudo_huber(x, c)  # refuses a wrong c before any work is done

    with same_dropout(x):
        target = consistency_target(f, x, eps, t, s, schedule, teacher, solver)
    z = mix(x, eps, t, schedule)
    answer = ask(f, z, t, "x")
    return pseudo_huber(answer - target, c)


# Easy Consistency Tuning: s is a fraction of t that grows with the stage


def ect_mapping(t: Time, a: Number, q: Number = 2.0, k: Number = 8.0, b: Number = 1.0) -> Time:
    """s = t (1 - n(t) / q^a), n(t) = 1 + k sigmoid(-b t), but at least 0. Geng et al. (2024).

    a = 1, 2, ... is the stage. s = 0 makes it a diffusion loss: with these defaults at first for small t, and
    from a = 3 on nowhere. Above 0 each stage divides the gap t - s by q. Only q^a matters.
    Raises ValueError unless a >= 1 and q > 1.
    """
    a = need.number("a", a, least=1, why=": stages are counted from 1")
    q = need.number("q", q, above=1, why=", so that s approaches t with the stages")
    k, b = need.number("k", k, least=0), need.number("b", b, least=0)
    need.each("t", t, t, least=0)
    precise = t.to(need.wide(t.dtype))
    share = (1 - (1 + k * torch.sigmoid(-b * precise)) * q**-a).clamp(min=0)
    return (precise * share).to(t.dtype)


def ect_stage(step: Whole, steps_per_stage: Whole) -> int:
    """The stage a at training step 1, 2, ...: 1 for the first `steps_per_stage` steps, then 2, and so on.

    Raises ValueError for a step below 1, and unless a stage has at least one step.
    """
    return (need.whole("step", step) - 1) // need.whole("steps_per_stage", steps_per_stage) + 1


def ect_weight(kind: str, t: Time, s: Time, data_std: Number = 0.5) -> Time:
    """The weight of the distance. "gap": 1 / (t - s), also iCT's. "snr": 1 / t^2 + 1 / data_std^2.

    The first makes the distance a slope. ECT's released code has it for CIFAR-10, and the second for
    ImageNet. Raises ValueError for another kind, and unless 0 <= s < t.
    """
    data_std = need.number("data_std", data_std, above=0)
    need.each("s", s, t, least=0)
    need.each("t - s", t - s, t, above=0, why=": s is the cleaner time")
    match kind:
        case "gap":
            return 1 / (t - s)
        case "snr":
            return (1 / t.to(need.wide(t.dtype)) ** 2 + 1 / data_std**2).to(t.dtype)
    raise ValueError(f'kind must be "gap" or "snr", got {kind!r}')


def ect_loss(
    f: Denoiser,
    x: Batch,
    eps: Batch,
    t: Time,
    a: Number,
    q: Number = 2.0,
    k: Number = 8.0,
    b: Number = 1.0,
    c: Number = 0.0,
    weighting: str = "gap",
    data_std: Number = 0.5,
) -> Time:
    """Consistency training between t and ect_mapping(t, a), weighted: (b,). Times are EDM's, t = sigma.

    A denoiser of another schedule is given as pretrained.rescheduled(f, schedule, edm). Raises ValueError for
    t = 0, and as its parts do.
    """
    s = ect_mapping(t, a, q, k, b)
    weight = ect_weight(weighting, t.to(need.wide(t.dtype)), s.to(need.wide(t.dtype)), data_std)
    return (weight * consistency_loss(f, x, eps, t, s, edm, c)).to(x.dtype)


def lognormal_times(
    b: Whole, mean: Number = -1.1, std: Number = 2.0, generator: Generator = None, device=None
) -> Time:
    """b independent EDM times with log t ~ N(mean, std^2): median 0.33, and 99 % below 35. Karras et al.
    (2022)'s proposal, with iCT's and ECT's numbers. On the generator's device, if none is given. Raises
    ValueError for std < 0 and b < 1."""
    device = generator.device if device is None and generator is not None else device
    mean, std = need.number("mean", mean), need.number("std", std, least=0)
    return torch.exp(mean + std * torch.randn(need.whole("b", b), generator=generator, device=device))


def ct_steps(
    step: Whole, total: Whole, s0: Whole = 2, s1: Whole = 150, mu0: Number = 0.9
) -> tuple[int, float]:
    """The number of grid points and the decay of the target's EMA, growing with the step.

    Song et al. (2023), appendix C and algorithm 3. As in their code, mu = mu0^(s0 / (n - 1)) with n at least
    2; the paper divides by n. Raises ValueError unless 0 <= step <= total, 1 <= s0 <= s1 and 0 < mu0 <= 1.
    """
    step, total, s0, s1 = progress(step, total, s0, s1)
    mu0 = need.number("mu0", mu0, above=0, most=1)
    intervals = max(1, math.ceil(math.sqrt(step / total * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1))
    return intervals + 1, mu0 ** (s0 / intervals)


def ict_steps(step: Whole, total: Whole, s0: Whole = 10, s1: Whole = 1280) -> int:
    """The number of grid points n at a training step: intervals double from s0 to s1, n is one more.

    Song & Dhariwal (2023), section 3.4: for `karras_sigmas(n)`. Raises ValueError as `ct_steps` does.
    """
    step, total, s0, s1 = progress(step, total, s0, s1)
    per_stage = max(1, math.floor(total / (math.log2(s1 // s0) + 1)))
    return min(s0 * 2 ** (step // per_stage), s1) + 1


def progress(step: Whole, total: Whole, s0: Whole, s1: Whole) -> tuple[int, int, int, int]:
    """The four as int. Raises ValueError unless 0 <= step <= total, and 1 <= s0 <= s1."""
    total, s0 = need.whole("total", total), need.whole("s0", s0)
    return need.whole("step", step, 0, total), total, s0, need.whole("s1", s1, s0)


def ict_time_pmf(sigmas: Float[Tensor, " n"], mean: Number = -1.1, std: Number = 2.0) -> Float[Tensor, " m"]:
    """The probability of each interval sigmas[i], sigmas[i + 1]: that of a lognormal, normalised. (n - 1,)

    Song & Dhariwal (2023), section 3.5. Raises ValueError unless sigmas are positive and rise, or fall, from
    one to the next, and unless std > 0.
    """
    mean, std = need.number("mean", mean), need.number("std", std, above=0)
    need.each("sigmas", sigmas, sigmas, above=0)
    need.ordered("sigmas", sigmas, falls=bool(sigmas[0] > sigmas[-1]))
    # on the processor: not every device has float64
    cdf = torch.special.ndtr((sigmas.cpu().to(torch.float64).log() - mean) / std)
    return (cdf.diff().abs() / cdf.diff().abs().sum()).to(sigmas.dtype).to(sigmas.device)


def draw_interval(
    sigmas: Float[Tensor, " n"],
    b: Whole,
    pmf: Float[Tensor, " m"] | None = None,
    generator: Generator = None,
) -> tuple[Time, Time]:
    """b independent pairs of neighbours t > s of a falling grid, by the pmf of its intervals, or all equally
    likely (CM).

    Raises ValueError unless sigmas fall from one to the next and are not negative, for a pmf that is negative
    or not of n - 1 numbers, and for b < 1.
    """
    need.ordered("sigmas", sigmas)
    weights = torch.ones_like(sigmas[1:]) if pmf is None else pmf
    need.each("pmf", weights, sigmas[1:], least=0, why=": a probability for each of the n - 1 intervals")
    i = torch.multinomial(weights, need.whole("b", b), replacement=True, generator=generator)
    return sigmas[i], sigmas[i + 1]


def ict_c(x: Batch) -> float:
    """iCT's constant of Pseudo-Huber, 0.00054 sqrt(d), for samples of d numbers."""
    need.samples(x=x)
    return 0.00054 * math.sqrt(x[0].numel())


# the limit s -> t


def trigflow(data_std: Number) -> Schedule:
    """cos t, data_std sin t for t in [0, pi / 2]: every z_t has the data's standard deviation. t = atan(sigma
    / data_std) in EDM's sigma. Lu & Song (2024); their z is data_std eps. Raises ValueError for other times,
    and unless data_std > 0."""
    data_std = need.number("data_std", data_std, above=0)
    # cos(pi / 2) is -4e-8 in float32, so it is written as a sine
    return until(torch.pi / 2)(lambda t: (torch.sin(torch.pi / 2 - t), data_std * torch.sin(t)))


@torch.no_grad()
def scm_tangent(
    net: Callable[[Batch, Time], Batch],
    z: Batch,
    t: Time,
    slope: Batch,
    data_std: Number = 0.5,
    warmup: Number = 1.0,
) -> Batch:
    """cos t df/dt along the trajectory, f = cos t z - sin t data_std F(z / data_std, t) in TrigFlow.

    Lu & Song (2024). slope is dz/dt: data_std F_teacher, or data_std cos t eps - sin t x. The
    derivative of F is one forward-mode product, scaled by cos t sin t so that it stays bounded. `warmup`,
    from 0 to 1, is the weight of the terms that can be unstable. Raises ValueError for other warm-ups and
    times, and unless slope and F have z's shape.
    """
    data_std, warmup = need.number("data_std", data_std, above=0), need.number("warmup", warmup, 0, 1)
    need.samples(slope=slope, z=z)
    cos, sin = coefficients(trigflow(1.0), t, z)
    # a time expanded over the batch cannot carry a tangent
    now = (z / data_std, t.to(z.dtype).contiguous())
    rate = ((cos * sin * slope / data_std).to(z.dtype), (cos * sin).flatten().to(z.dtype))
    tangent, tangent_rate = torch.func.jvp(lambda u, t: ask(net, u, t, "tangent"), now, rate)
    drift = cos * sin * z + data_std * tangent_rate
    return (-(cos**2) * (data_std * tangent - slope) - warmup * drift).to(z.dtype)


def scm_loss(
    net: Callable[[Batch, Time], Batch],
    x: Batch,
    eps: Batch,
    t: Time,
    data_std: Number = 0.5,
    teacher: Callable[[Batch, Time], Batch] | None = None,
    warmup: Number = 1.0,
    c: Number = 0.1,
) -> Time:
    """|F - stopgrad(F + g)|^2 per number, g = tangent / (|tangent| + c) for each sample: (b,).

    Its gradient, -2 <g, dF>, moves f against df/dt. Its value is |g|^2 per number, and |g| is near 1 whatever
    f does: it says nothing about progress. Lu & Song (2024). net and teacher predict TrigFlow's F,
    as `as_denoiser` defines it: the network itself, not a denoiser. The weights of the paper, the fixed and
    the learned one, are left out. Forward-mode derivatives do not go through fused attention: ask for torch's
    `sdpa_kernel(SDPBackend.MATH)`. They grow with the frequencies of the time embedding, DiT's `top`: dF/dt
    was 1.56 with 256, 0.36 with 64, 0.10 with 16. Raises ValueError unless c > 0, and as `scm_tangent` does.
    """
    c = need.number("c", c, above=0)
    z = mix(x, eps, t, trigflow(data_std))
    with torch.no_grad(), same_dropout(x):
        cos, sin = coefficients(trigflow(1.0), t, z)
        slope = data_std * cos * eps - sin * x
        if teacher is not None:
            slope = data_std * ask(teacher, z / data_std, t, "tangent")
        g = scm_tangent(net, z, t, slope.to(z.dtype), data_std, warmup).to(cos.dtype)
        g = g / (like(torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1), g) + c)
    found = ask(net, z / data_std, t, "tangent")
    return mean_square(found, found.detach() + g).to(x.dtype)
