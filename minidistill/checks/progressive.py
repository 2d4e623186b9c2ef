"""Checks of progressive distillation.

All on a non-linear teacher and with at least four steps first: with one step, or on the first interval alone,
half of the wrong targets that people have written are right.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minidistill import progressive
from minidistill.checks import (
    Likely,
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    recorded,
    refuses,
)
from minidistill.schedules import cosine, edm, rectified_flow, sigmoid

Level = tuple[Tensor, Tensor]  # alpha and sigma, each (b,)

FORMULAS = {
    "constant": torch.ones_like,
    "snr": lambda snr: snr,
    "truncated_snr": lambda snr: snr.clamp(min=1),
    "snr+1": lambda snr: snr + 1,
    "min_snr": lambda snr: snr.clamp(max=5),
}
IN_WORDS = {
    "constant": "1",
    "snr": "SNR",
    "truncated_snr": "max(SNR, 1)",
    "snr+1": "SNR + 1",
    "min_snr": "min(SNR, gamma), gamma = 5 unless given",
}


def teacher(z: Tensor, t: Tensor) -> Tensor:
    """A non-linear function that no formula knows."""
    return torch.tanh(z) * (1 + column(t, z)) + 0.3 * torch.sin(3 * z)


def bold(z: Tensor, t: Tensor) -> Tensor:
    """The same, with answers as large as z, so that clipping shows."""
    return 3 * teacher(z, t) + 2 * z


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers that are wider than unit noise, in float64."""
    return 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


def peaked(*shape: int, generator: torch.Generator) -> Tensor:
    """The same, with 1000 or -1000 in a corner of each sample, so that any clipping shows."""
    z = normal(*shape, generator=generator)
    z.flatten(1)[:, -1] = 1000 * z.flatten(1)[:, 0].sign()
    return z


BOUNDS = (1, 2, 3, 5, 10, 20, 50, 100, 1000)  # where people clip

# answers of another shape than z, (b, d): fewer or more numbers, samples, axes
SHAPES = (
    lambda z: z[..., :1],
    lambda z: z[:1],
    lambda z: z[: len(z) // 2],
    lambda z: z[..., 0],
    lambda z: z[..., None],
    lambda z: torch.cat([z, z], -1),
    lambda z: torch.cat([z, z]),
)


def at(schedule: Callable, z: Tensor, *times: Tensor) -> list[list[Tensor]]:
    """(alpha, sigma) at each of the times, with z's number of axes."""
    return [[column(c, z) for c in schedule(t)] for t in times]


def step(x_hat: Tensor, z: Tensor, t: Tensor, s: Tensor, schedule: Callable) -> Tensor:
    """DDIM, written out once more, so that a mistake in the package's cannot hide one in a target."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at(schedule, z, t, s)
    return alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t


def two_steps(teacher: Callable, z: Tensor, t: Tensor, n: int, schedule: Callable) -> tuple[Tensor, ...]:
    """m, s, x_1, z_m, x_2, z_s of two teacher steps from (z, t), and the x_hat of the one step to z_s."""
    i = (t * n).round()
    t, m, s = i / n, (i - 0.5) / n, (i - 1) / n
    x_1 = teacher(z, t)
    z_m = step(x_1, z, t, m, schedule)
    x_2 = teacher(z_m, m)
    z_s = step(x_2, z_m, m, s, schedule)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at(schedule, z, t, s)
    target = (sigma_t * z_s - sigma_s * z) / (alpha_s * sigma_t - alpha_t * sigma_s)
    return m, s, x_1, z_m, x_2, z_s, target


# the target


def share(levels: list[list[Tensor]]) -> Tensor:
    """How much of the target is x_1: (rho_m - rho_t) / (rho_s - rho_t), finite at both ends."""
    (a_t, b_t), (a_m, b_m), (a_s, b_s) = levels
    return (a_m / b_m - a_t / b_t) * b_s / (a_s - a_t / b_t * b_s)


def likely_targets(found: Tensor, z: Tensor, t: Tensor, n: int, schedule: Callable) -> Likely:
    """Wrong targets that people have written. They are finite, and wrong, where 0 < s and t < 1."""
    m, s, x_1, _, x_2, z_s, right = two_steps(bold, z, t, n, schedule)
    levels, most = at(schedule, z, t, m, s), found.abs().max()
    (a_t, b_t), (a_m, _), (a_s, b_s) = levels
    yield "Your target is x_1, the teacher's first answer. Does the second step keep its eps_hat?", x_1
    hint = "Its step starts at z_m, and keeps the noise of z_m, not that of z; the student's starts at z."
    yield f"Your target is x_2, the teacher's last answer. {hint}", x_2
    yield "Your target is z_s, where the student must land, not the x_hat that takes it there.", z_s
    yield "The target is clipped: a teacher may answer more than 1.", right.clamp(-most, most)
    w = share(levels)
    most = ((found - w * x_1) / (1 - w)).abs().max()
    hint = "x_2 is clipped: a teacher may answer more than 1."
    yield hint, w * x_1 + (1 - w) * x_2.clamp(-most, most)

    wrong_share = {
        "The plain mean of x_1 and x_2: one chord is longer than the other, in rho.": torch.tensor(0.5),
        "The two weights are exchanged: rho_m - rho_t is x_1's.": 1 - w,
        "The weights are averaged over the batch: each sample has its own.": w.mean(),
        "The weights are those of cosine, whatever schedule is given.": share(at(cosine, z, t, m, s)),
    }
    for hint, coordinate in (
        ("Weighted by SNR = rho^2: the plane is (rho, z / sigma).", lambda a, b: (a / b) ** 2),
        ("Weighted by log SNR: the plane is (rho, z / sigma).", lambda a, b: (a / b).log()),
        ("Weighted by 1 / rho: that is for eps_hat, and x_hat is the slope over rho.", lambda a, b: b / a),
        ("Weighted by alpha alone: rho = alpha / sigma.", lambda a, b: a),
        ("Weighted by sigma alone: rho = alpha / sigma.", lambda a, b: b),
    ):
        at_t, at_m, at_s = (coordinate(*level) for level in levels)
        wrong_share[hint] = (at_m - at_t) / (at_s - at_t)
    ratio, others = b_s / b_t, []
    for hint, r, top, above, below in (
        ("The ratio of the sigmas is upside down: sigma_s / sigma_t.", 1 / ratio, a_s, -1, -1),
        ("The ratio is of sigmas, the standard deviations, not of variances.", ratio**2, a_s, -1, -1),
        ("A sign is wrong in the denominator: alpha_s - sigma_s / sigma_t alpha_t.", ratio, a_s, -1, 1),
        ("A sign is wrong in the numerator: z_s - sigma_s / sigma_t z.", ratio, a_s, 1, -1),
        ("alpha_m in the denominator: the student's chord ends at s, with alpha_s.", ratio, a_m, -1, -1),
    ):
        others.append((hint, (z_s + above * r * z) / (top + below * r * a_t)))
    for axis in (k for k in range(1, z.ndim) if z.shape[k] == len(t)):
        hint = f"Times run along axis {axis}, and must along axis 0: each sample has its own."
        wrong_share[hint] = w.movedim(0, axis)
        top, below, r = (c.movedim(0, axis) for c in (a_s, a_t, ratio))
        others.append((hint, (z_s - r * z) / (top - r * below)))
    yield from ((hint, u * x_1 + (1 - u) * x_2) for hint, u in wrong_share.items())
    yield from others


def check_target(target: Callable, seed: int, tol: float) -> None:
    """What the convex form and the quotient share: who is asked where, value, ends, gradients, refusals."""
    g = torch.Generator().manual_seed(seed)
    for time in exact(0.5, 0.25, 1.0):
        call = lambda: target(bold, normal(1, 2, generator=g), time[None], 4, cosine)
        accepts(call, f"t = {time:g}, with n = 4,")
    # all axes alike first: times broadcast along a wrong axis give another number there, and no error
    for schedule, n, shape in (
        (cosine, 4, (4, 4, 4, 4)),
        (rectified_flow, 7, (7, 2)),
        (sigmoid, 5, (5, 1, 2, 3, 2)),
        (edm, 10, (10, 3, 2, 5)),
        (cosine, 1, (1, 3)),
        (cosine, 2000, (2000, 2)),
    ):
        z, t = peaked(*shape, generator=g), (torch.randperm(shape[0], generator=g) % n + 1).double() / n
        asked = []
        call = lambda: target(recorded(bold, asked), z, t, n, schedule)
        found = accepts(call, f"t = i / n, here {t[0]:.3g}, with n = {n} and z of shape {shape}")
        m, s, x_1, z_m, x_2, z_s, right = two_steps(bold, z, t, n, schedule)
        assert isinstance(found, Tensor) and found.shape == z.shape, (
            f"The target has the shape of z, whatever it is: here {shape}, "
            f"not {tuple(getattr(found, 'shape', ()))}."
        )

        assert len(asked) == 2, f"Two teacher steps ask the teacher twice, not {len(asked)} times."
        (first_z, first_t), (second_z, second_t) = asked
        likely = [("Count i = t n by rounding, not by cutting off.", (t * n).floor() / n)]
        explained(first_t, t, "The first teacher step starts at t.", likely)
        most = first_z.abs().max()
        likely = [("z is clipped, and a teacher must see all of it.", z.clamp(-most, most))]
        explained(first_z, z, "The first teacher step starts at z.", likely)
        gaps = (t - second_t) * n
        hint = (
            "The teacher's second step starts at m = t - 0.5 / n, halfway between t and s = t - 1 / n: "
            f"yours at t - {gaps[(gaps - 0.5).abs().argmax()]:.3g} / n."
        )
        explained(second_t, m, hint)
        (a_t, b_t), (a_m, b_m) = at(schedule, z, t, m)
        most = ((second_z - b_m / b_t * z) / (a_m - b_m / b_t * a_t)).abs().max()
        places = (
            ("The teacher's second step starts at z_m, where its first one ends: yours at z once more.", z),
            ("x_1 is clipped before the first step: a teacher may answer more than 1.",
             step(x_1.clamp(-most, most), z, t, m, schedule)),
            ("The teacher's first step goes to m: yours goes to s.", step(x_1, z, t, s, schedule)),
            ("The schedule is ignored: this is cosine's z_m.", step(x_1, z, t, m, cosine)),
        )  # fmt: skip
        explained(second_z, z_m, "z_m is one DDIM step of the teacher from (z, t) to m: ddim_step.", places)

        first, last = s == 0, t == 1
        inside = ~first & ~last
        assert found[inside].isfinite().all(), "Not finite at times inside: your denominator is 0 there."
        assert found[first].isfinite().all(), (
            "Not finite at t = 1 / n, where sigma_s = 0: do you divide by sigma_s? (No step starts at t = 0.)"
        )
        assert found[last].isfinite().all(), "Not finite at t = 1, where alpha_t = 0: divide by no alpha_t."
        likely = [(what, wrong[inside]) for what, wrong in likely_targets(found, z, t, n, schedule)]
        hint = "One student step from (z, t) with the target as x_hat must land where two teacher steps land."
        hint += f" At n = {n} it does not."
        explained(found[inside], right[inside], hint, likely)
        likely = (
            ("On the first interval your target is x_1: the whole long chord is the second one.", x_1[first]),
        )
        explained(found[first], x_2[first], "On the first interval, sigma_s = 0, the target is x_2.", likely)
        likely = (("At t = 1 your target is x_2: nothing is special there, but at s = 0.", x_2[last]),
                  ("At t = 1 your target is x_1: nothing is special there.", x_1[last]))  # fmt: skip
        explained(
            found[last],
            right[last],
            "At t = 1 one student step must land where two of the teacher do.",
            likely,
        )

    # times that are exact to float32 only, as time_grid's are
    for schedule, n in ((cosine, 3), (cosine, 49), (sigmoid, 3), (rectified_flow, 25)):
        grid, z, asked = (torch.arange(1, n + 1) / n).double(), normal(n, 2, generator=g), []
        call = lambda: target(recorded(bold, asked), z, grid, n, schedule)
        found = accepts(call, f"A grid i / {n} that was computed in float32 (off by 1e-8)")
        m, *_, right = two_steps(bold, z, grid, n, schedule)
        hint = f"At n = {n}, for times from a float32 grid: count i = t n by rounding, not by cutting off."
        close(found, right, hint, 1e-4, 1e-4)
        hint = f"At n = {n}, for times from a float32 grid: m is (i - 0.5) / n, and not t - 0.5 / n."
        close(asked[1][1], m, hint)

    n, z, t = 4, peaked(4, 4, 4, 4, generator=g), exact(0.25, 1.0, 0.75, 0.5)
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = target(lambda z, t: slope * bold(z, t), z.clone().requires_grad_(), t, n, cosine)
    assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    assert not learned.requires_grad, "A target is a constant: use torch.no_grad() or detach()."
    assert not learned.is_inference(), (
        "No loss can use a tensor of torch.inference_mode(): use torch.no_grad()."
    )

    kept = bold(z, t)
    found, copy = target(lambda z, t: kept, z, t, n, cosine), kept.clone()
    assert torch.equal(kept, bold(z, t)), "The teacher's answer is changed in place: make a new tensor."
    close(found, copy, "A teacher that always answers the same has that for its target.")

    rough = z.float()
    right = two_steps(bold, rough.double(), t, n, cosine)[-1]
    close_in_float32(target(recorded(bold, []), rough, t, n, cosine), right, "The target", tol)
    wide = target(recorded(bold, []), rough.double(), t.float(), n, cosine)
    assert wide.dtype == torch.float64, f"The target has the dtype of z, here float64, not {wide.dtype}."
    close(wide, right, "The target is right for float64 times, but not for float32 ones.", 1e-5, 1e-5)

    for schedule in (cosine, edm):
        for value, bad in one_bad(t, 0.0, -0.25, 1.25, 0.6, 0.5001):
            hint = f"t = {value:g} is not one of 1/4, ..., 1 and must be refused at n = 4, also among others."
            refuses(lambda: target(bold, z, bad, n, schedule), hint)
    for count in (0, -4):
        for times in (t, torch.ones_like(t)):
            refuses(lambda: target(bold, z, times, count, cosine), f"n = {count} must be refused.")
    z = z[:, :, 0, 0]
    for other in SHAPES:
        hint = (
            "A teacher whose answers have another shape than z must be refused: they would be broadcast. "
            f"Here {tuple(other(z).shape)} for {tuple(z.shape)}."
        )
        refuses(lambda: target(lambda z, t: other(z), z, t, n, cosine), hint)


def in_many_steps(
    target: Callable, dtype: torch.dtype, times: torch.dtype, seed: int
) -> tuple[Tensor, float]:
    """The target of 1024 steps, whose t is exact in any dtype of times, and how far it is off.

    The teacher's answers are taken as they are: what is lost is lost by the target. They differ much from
    one time to the next, so that weights show.
    """
    n, g, asked, answers = 1024, torch.Generator().manual_seed(seed), [], []
    z, t = normal(256, 2, generator=g).to(dtype), torch.randint(1, n + 1, (256,), generator=g).double() / n

    def rapid(z, t):
        answers.append(bold(z, t) * torch.cos(3000 * column(t, z)))
        return answers[-1].clone()

    call = lambda: target(recorded(rapid, asked), z, t.to(times), n, cosine)
    found = accepts(call, f"{dtype} data with {times} times, n = {n},")
    assert found.dtype == dtype, f"The target has the dtype of z, here {dtype}, not {found.dtype}."
    m, s = t - 0.5 / n, t - 1 / n
    assert torch.equal(asked[1][1], m.to(dtype)), (
        f"For {dtype} data and {times} times, the teacher's second step starts at another time than "
        "m.to(z.dtype): t, m and s are computed in t's dtype, and then rounded to z's."
    )
    x_1, x_2 = (x.double() for x in answers)
    w = share(at(cosine, x_1, t, m, s))
    error = (found.double() - w * x_1 - (1 - w) * x_2) / (x_1.abs() + x_2.abs())
    return found, error.abs().max().item()


def check_two_step_target(two_step_target=progressive.two_step_target, seed: int = 0) -> None:
    """Where the teacher is asked, value, ends, constant, precision, refusals."""
    check_target(two_step_target, seed, 1e-5)
    _, error = in_many_steps(two_step_target, torch.bfloat16, torch.float32, seed)
    assert error < 0.02, (
        f"In bfloat16 with 1024 steps the target is {error:.1e} off: use the convex form, not the quotient, "
        "with both weights computed in t's precision, and turned into z's at the end."
    )
    _, error = in_many_steps(two_step_target, torch.float32, torch.float64, seed)
    assert error < 1e-6, (
        f"For float32 data and float64 times with 1024 steps the target is {error:.1e} off: both weights are "
        "differences of near-equal numbers, to be computed in t's dtype, before like(c, z)."
    )


def check_quotient_target(quotient_target=progressive.quotient_target, seed: int = 0) -> None:
    """The convex form's number in float64, and no number in bfloat16."""
    check_target(quotient_target, seed, 1e-4)
    found, error = in_many_steps(quotient_target, torch.bfloat16, torch.float32, seed)
    why = (
        "compute both in z's precision, as the lesson shows what is lost, not in t's."
        if error < 0.5
        else "0 / 0 is nan, to be shown as it is, with nothing clamped, added or put in its place."
    )
    hint = f"In bfloat16 with 1024 steps numerator and denominator are 0: {why}"
    assert not found.isfinite().all(), hint


# weights and losses


def likely_weights(kind: str, log_snr: Tensor, bounds: Iterable[float]) -> Likely:
    """Wrong weights at log_snr. bounds: where something may have been clamped."""
    snr, right = log_snr.exp(), FORMULAS[kind]
    for other, formula in FORMULAS.items():
        yield f'"{kind}" has the weight of "{other}".', formula(snr)
    yield f'"{kind}": log_snr is taken for SNR itself: it is the logarithm.', right(log_snr)
    yield f'"{kind}": this is of alpha / sigma, the root of SNR = alpha^2 / sigma^2.', right(snr.sqrt())
    yield f'"{kind}": this is of SNR squared: log_snr has its factor 2 already.', right(snr**2)
    yield f'"{kind}": the exponential is taken twice.', right(snr.exp())
    yield (
        f'"{kind}": (1 + alpha / sigma)^2 weighs an error in rectified flow\'s velocity.',
        (1 + snr.sqrt()) ** 2,
    )
    yield f'"{kind}": this is of 1 / SNR: noise and data are exchanged.', right(1 / snr)
    yield f'"{kind}": the weight is squared.', right(snr) ** 2
    yield (
        f'"{kind}": divided by SNR + 1, as for an error in v: here the error is in x.',
        right(snr) / (snr + 1),
    )
    yield f'"{kind}": divided by SNR, as for an error in eps: here the error is in x.', right(snr) / snr
    yield (
        f'"{kind}": times SNR + 1: this is the weight of an error in x, and SNR + 1 is in it.',
        right(snr) * (snr + 1),
    )
    yield f'"{kind}": this is of 10 ** log_snr, and the logarithm is natural.', right(snr ** math.log(10))
    for bound in bounds:
        yield f'"{kind}" is {IN_WORDS[kind]}: yours is min(SNR, {bound:.3g}).', snr.clamp(max=bound)
        yield f'"{kind}" is {IN_WORDS[kind]}: yours is max(SNR, {bound:.3g}).', snr.clamp(min=bound)
        yield f'"{kind}" is {IN_WORDS[kind]}: yours is capped at {bound:.3g}.', right(snr).clamp(max=bound)
        yield f'"{kind}" is {IN_WORDS[kind]}: yours is kept above {bound:.3g}.', right(snr).clamp(min=bound)
    yield (
        f'"{kind}": the weights are divided by their mean over the batch: nothing asks for it.',
        (right(snr) / right(snr).mean()),
    )


def check_weight(weight=progressive.weight, seed: int = 0) -> None:
    """Each kind at many noise levels, far out, with another gamma, its derivative, its dtype."""
    g = torch.Generator().manual_seed(seed)
    lam = 4 * torch.randn(20, generator=g, dtype=torch.float64)
    for kind, formula in FORMULAS.items():
        found = accepts(lambda: weight(kind, lam), f'kind = "{kind}"')
        assert isinstance(found, Tensor) and found.shape == lam.shape, (
            f'"{kind}": one weight for each log_snr, of its shape {tuple(lam.shape)}, '
            f"not {tuple(getattr(found, 'shape', ()))}."
        )
        hint = f'"{kind}" is {IN_WORDS[kind]}, in x space: yours is another weight.'
        bounds = [bound.item() for bound in found.detach().aminmax()]
        explained(found, formula(lam.exp()), hint, likely_weights(kind, lam, bounds))
        free = lam.clone().requires_grad_()
        slope = torch.autograd.grad((weight(kind, free) + 0 * free).sum(), free)[0]
        right = torch.autograd.grad((formula(free.exp()) + 0 * free).sum(), free)[0]
        close(slope, right, f'"{kind}": its derivative in log_snr is lost or wrong. Is something detached?')
        rough = lam.float()
        close_in_float32(weight(kind, rough), formula(rough.double().exp()), f'The weight "{kind}"')
    # what a one-step student is asked, pure noise, and close to the data
    for lam, where in (
        (exact(-torch.inf, -60.0, -20.0), "pure noise, where SNR is 0 or nearly"),
        (exact(14.0, 20.0, 60.0), "data with little noise, SNR 1e+06 and more"),
    ):
        for kind, formula in FORMULAS.items():
            found, right = accepts(lambda: weight(kind, lam), where), formula(lam.exp())
            assert found.isfinite().all(), f'"{kind}": nan or inf comes out at {where}.'
            hint = f'"{kind}" is {IN_WORDS[kind]}, and nothing else is clamped, also at {where}.'
            close(found, right, hint, 1e-14)
    lam = torch.cat([4 * torch.randn(20, generator=g, dtype=torch.float64), lam])
    for gamma in (0.5, 3, 20.0, 1000.0):
        found = accepts(lambda: weight("min_snr", lam, gamma), f"gamma = {gamma}")
        close(found, lam.exp().clamp(max=gamma), f"min_snr is capped at gamma, here {gamma}.")
        for kind, formula in FORMULAS.items():
            if kind != "min_snr":
                close(
                    weight(kind, lam, gamma), formula(lam.exp()), f"gamma is min_snr's alone, not {kind}'s."
                )
    for kind in ("SNR", "snr + 1", "min-snr", "truncated", ""):
        refuses(lambda: weight(kind, lam), f'An unknown kind, here "{kind}", must be refused.')


def noise_fault(eps: Tensor, x: Tensor, groups: Iterable[Tensor]) -> str:
    """What keeps eps from being unit Gaussian noise, new for each number; "" where nothing does.

    groups: rows, each as a mask, whose mean, variance and share of the data x are looked at together.
    """
    flat = eps.flatten(1)
    if len(eps) > 1 and torch.pdist(flat).min() < 1e-6:
        return "Two samples have the same noise: each draws its own."
    if torch.cdist(flat, -flat).min() < 1e-6:
        return "Two samples have opposite noise: each draws its own."
    if (eps.abs() > (1 - 1e-6) * eps.abs().max()).sum() > 2:
        return f"The noise is clipped at {eps.abs().max():.3g}."
    for rows in (torch.ones(len(x), dtype=torch.bool), *groups):
        part, data = eps[rows].flatten(), x[rows].flatten()
        bound = 6 / len(part) ** 0.5
        if (part * data).mean().abs() > bound * data.square().mean().sqrt():
            large = f" Data up to {most:.0f} is not clipped." if (most := data.abs().max()) > 100 else ""
            return f"The share of the data in z is not alpha_t: z = alpha_t x + sigma_t eps.{large}"
        if part.mean().abs() > bound:
            return f"The noise in z has mean {part.mean():.2f}, not 0: z = alpha_t x + sigma_t eps."
        if (part.var() - 1).abs() > 1.5 * bound:
            return f"The noise in z has variance {part.var():.2f} sigma_t^2: z = alpha_t x + sigma_t eps."
    shared = torch.corrcoef(flat.T).fill_diagonal_(0).abs().max()
    if shared > 6 / len(eps) ** 0.5:
        return "The numbers of a sample share their noise: eps has the shape of x."
    if ((eps**4).mean() / eps.var() ** 2 - 3).abs() > 30 / eps.numel() ** 0.5:
        return "The noise is not Gaussian: randn, not rand."
    return ""


def check_noise(z: Tensor, x: Tensor, at_t: Level, groups: list[Tensor], others: dict[str, Level]) -> Tensor:
    """The noise in z, which must be unit Gaussian at t. others: levels, by name, that are taken for it."""
    noise = lambda alpha, sigma: (z - column(alpha, z) * x) / column(sigma, z)
    most = z.abs().max()
    assert (z.abs() > (1 - 1e-9) * most).sum() < 3, f"z is clipped at {most:.3g}, and nothing may be."
    fault = noise_fault(noise(*at_t), x, groups)
    for name, (alpha, sigma) in others.items() if fault else ():
        noisy = sigma > 0
        if not noisy.any():
            continue
        rows = [group[noisy] for group in groups if group[noisy].any()]
        assert noise_fault(noise(alpha, sigma)[noisy], x[noisy], rows), (
            f"z is mixed at {name}: it must be the t that is asked, on the schedule that is given."
        )
    assert not fault, fault
    return noise(*at_t)


def check_randomness(
    draw: Callable[[torch.Generator | None], dict[str, Tensor]],
    by_hand: dict[str, Callable[[torch.Generator], Tensor]],
    seed: int,
) -> None:
    """The generator, and nothing else, decides what is drawn, anew in each call; torch itself without one.

    by_hand: how a generator draws the same things, to see which of its numbers were taken twice.
    """
    g, copy = (torch.Generator().manual_seed(seed + 5) for _ in range(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        first = draw(g)
        moved = not torch.equal(before, torch.get_rng_state())
        state = g.get_state()
        second, again = draw(g), draw(copy)
        free, freer = draw(None), draw(None)
    for name in by_hand:
        # noise is read from z, and rounded
        same, new = torch.equal(first[name], again[name]), not torch.allclose(first[name], second[name])
        assert same, f"{name} must come from the generator: from two of one seed, {name} is not the same."
        assert new, f"Two calls with one generator draw the same {name}: use it as it is, and never seed it."
        new = not torch.allclose(free[name], freer[name])
        assert new, (
            f"Two calls without a generator draw the same {name}: then torch's own random numbers decide."
        )
    assert not moved, "With a generator torch's own random state stays as it is: never seed it, nor use it."
    fresh = torch.Generator().manual_seed(seed + 5).get_state()
    taken = {
        when: [torch.allclose(first[name], how(copy.set_state(start))) for name, how in by_hand.items()]
        for when, start in (("before", fresh), ("after", state))
    }
    assert not any(taken["after"]) and not (len(by_hand) > 1 and all(taken["before"])), (
        f"{' and '.join(by_hand)} come from the same random numbers, or the next call's do: draw from the "
        "generator as it is, not from a copy."
    )


def mean_square(gap: Tensor) -> Tensor:
    """The mean over each sample: (b,)."""
    return gap.square().flatten(1).mean(1)


def likely_losses(
    answer: Tensor,
    right: Tensor,
    targets: dict[str, Tensor],
    kind: str,
    at_t: Level,
    others: dict[str, Level],
) -> Likely:
    """Wrong losses. targets: wrong ones, by name. others: levels, by name, whose weight is wrong."""
    error, formula = mean_square(answer - right), FORMULAS[kind]
    snr = lambda alpha, sigma: (alpha / sigma) ** 2
    weight = formula(snr(*at_t))
    for name, wrong in targets.items():
        yield f"The target is {name}.", weight * mean_square(answer - wrong)
    for most in BOUNDS:
        clipped = weight * mean_square(answer.clamp(-most, most) - right)
        yield "x_hat is clipped inside the loss: where it is, no gradient is left.", clipped
        clipped = weight * mean_square(answer - right.clamp(-most, most))
        yield "The target is clipped: a teacher may answer more than 1.", clipped
        yield f"The error is clipped at {most}, and nothing may be.", weight * error.clamp(max=most)
    yield "This is the sum over a sample, and the loss is the mean.", weight * error * answer[0].numel()
    yield "This is half of the error: the loss is the mean square, times the weight.", weight * error / 2
    yield (
        "This is the root of the mean square, and the loss is the mean square itself.",
        weight * error.sqrt(),
    )
    absolute = (answer - right).abs().flatten(1).mean(1)
    yield "This is the mean absolute error, and the loss is the mean square.", weight * absolute
    if kind == "truncated_snr":
        in_eps = snr(*at_t) * error
        by_mean = error if error.mean() > in_eps.mean() else in_eps
        yield (
            "The larger of the errors in x and in eps is taken for each sample, not by their means.",
            by_mean,
        )
    yield "The weight is averaged over the batch, and it is each sample's own.", weight.mean() * error
    yield "The error is averaged over the batch, and it is each sample's own.", weight * error.mean()
    for name, level in others.items():
        yield f"The weight is taken at {name}: it is that of t.", formula(snr(*level)) * error
    if kind == "snr+1":
        yield "SNR + 1 is 1 / sigma^2 only where alpha^2 + sigma^2 = 1.", error / at_t[1] ** 2
    for hint, wrong in likely_weights(kind, snr(*at_t).log(), BOUNDS):
        yield f"The weight is wrong. {hint}", wrong * error


def check_gradient(loss: Tensor, expected: Tensor, knob: Tensor, who: str) -> None:
    """The parameter of the network that learns gets the gradient of the loss written out by hand."""
    assert loss.requires_grad, f"No gradient reaches {who}: is x_hat detached?"
    found, right = (
        torch.autograd.grad(v.sum(), knob, retain_graph=True, allow_unused=True)[0] for v in (loss, expected)
    )
    assert found is not None and found != 0, f"No gradient reaches {who}: is x_hat detached?"
    tol = 1e-8 if loss.dtype == torch.float64 else 1e-4
    close(found, right, "The gradient is not the loss's own: is a part of x_hat detached?", tol, tol)


def check_progressive_loss(progressive_loss=progressive.progressive_loss, seed: int = 0) -> None:
    """Times, noise, target, weight, gradients and randomness, from what student and teacher are asked."""
    g, draws = (torch.Generator().manual_seed(seed + k) for k in (0, 1))
    knob, frozen = (torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in (0.9, 1.0))
    student = lambda z, t: knob.to(z) * (torch.sin(z) + z / 2) + 6 * column(t, z)
    learned = lambda z, t: frozen.to(z) * bold(z, t)
    # powers of two, so that i / n is exact also where it was computed in float32; small data, and then large
    # ones, where what clips them shows
    for weighting, schedule, n, dtype, shape, size in (
        ("snr+1", cosine, 4, torch.float64, (1024, 1, 2, 2), 1),
        ("constant", cosine, 4, torch.float64, (600, 3), 1),
        ("constant", cosine, 4, torch.float64, (600, 3), 1000),
        ("snr+1", rectified_flow, 8, torch.float64, (900, 1, 3, 2), 1),
        ("truncated_snr", sigmoid, 4, torch.float64, (600, 2, 1, 1, 3), 1),
        ("snr", lambda t: (torch.ones_like(t), t), 2, torch.float64, (600, 2), 1),
        ("min_snr", cosine, 8, torch.float64, (900, 2), 1),
        ("snr", cosine, 1024, torch.float64, (600, 2), 1),
        ("snr+1", cosine, 4, torch.float32, (600, 1, 2, 3), 1),
        ("snr+1", cosine, 1, torch.float64, (600, 4), 1),
    ):
        x = size * normal(*shape, generator=g).sin().to(dtype)
        b, seen, asked = shape[0], [], []
        call = lambda: progressive_loss(
            recorded(student, seen), recorded(learned, asked), x, n, schedule, weighting, draws
        )
        loss = accepts(call, f'n = {n}, weighting = "{weighting}", x of shape {shape}')
        assert isinstance(loss, Tensor) and loss.shape == (b,), (
            "A loss returns one number for each sample, (b,)."
        )
        assert loss.dtype == dtype, f"The loss has the dtype of x, here {dtype}, not {loss.dtype}."
        assert len(seen) == 1, f"The student is asked once, for the whole batch, not {len(seen)} times."
        assert len(asked) == 2, f"The teacher takes two steps, and is asked twice, not {len(asked)} times."
        (z, t), (teacher_z, teacher_t), (_, second_t) = seen[0], *asked

        index = (t.double() * n).round()
        off = (t.double() - index / n).abs().max()
        assert off < 1e-6, (
            f"The student is asked on its own grid, t = i / n: one of its times is off by {off:.1g}."
        )
        close(teacher_t, t, "Student and teacher start at one time t, where the student's step starts.", 1e-6)
        count = torch.bincount(index.long(), minlength=n + 1)[1:]
        assert n == 1 or count.max() < b, (
            f"All samples have one i, here {index[0]:.0f} of {n}: draw one for each sample, "
            "not one for the batch."
        )
        for end, where in ((n, "t = 1, where sampling starts"), (1, "t = 1 / n, where the last step starts")):
            assert n > 8 or (index == end).any(), (
                f"{where}, is never trained: i runs from 1 to n, both included."
            )
        assert n <= b or count.max() > 1, (
            "No i comes twice in a batch: draw one for each sample, on its own, not a permutation or a count."
        )
        # Kolmogorov and Smirnov: above 3.2 / sqrt(b) less than once in a billion
        off = (count.cumsum(0) / b - torch.arange(1, n + 1) / n).abs().max()
        assert off < 3.2 / b**0.5, f"All n grid times are equally likely: they are not, at n = {n}."
        close(teacher_z, z, "Student and teacher start at one z: the noise is drawn once.", 1e-6)
        gaps = (t - second_t) * n
        gap = gaps[(gaps - 0.5).abs().argmax()]
        hint = f"The teacher's second step starts half a student step below t: yours at t - {gap:.2g} / n."
        close(second_t, t - 0.5 / n, hint, 1e-6)

        z, x, t = z.double(), x.double(), index / n
        m, s, x_1, _, x_2, z_s, right = two_steps(bold, z, t, n, schedule)
        at_t = schedule(t)
        groups = [index == i for i in index.unique()] if n <= 8 else [t < 0.5, t >= 0.5]
        others = {"m = t - 0.5 / n": schedule(m), "s = t - 1 / n": schedule(s), "t, but on cosine": cosine(t)}
        check_noise(z, x, at_t, groups, others)
        targets = {
            "x_2, the teacher's last answer": x_2,
            "x_1, the teacher's first answer": x_1,
            "the mean of x_1 and x_2": (x_1 + x_2) / 2,
            "the data, which is only there to make z": x,
            "z_s, and must be the x_hat that lands there": z_s,
            "z": z,
            "that of the cosine schedule": two_steps(bold, z, t, n, cosine)[-1],
        }
        answer = student(z, t)
        expected = FORMULAS[weighting]((at_t[0] / at_t[1]) ** 2) * mean_square(answer - right)
        likely = likely_losses(answer.detach(), right, targets, weighting, at_t, others)
        hint = f'"{weighting}": the weight at t times the mean over each sample of (x_hat - target)^2.'
        explained(
            loss.detach().double(), expected.detach(), hint, likely, 1e-8 if dtype == torch.float64 else 1e-5
        )
        check_gradient(loss, expected, knob, "the student")
        leak = torch.autograd.grad(loss.sum(), frozen, allow_unused=True)[0]
        assert leak is None, "A gradient reaches the teacher: its two steps are constants."

    x = normal(64, 2, generator=g)
    for n in (4, 1):  # with one step the noise alone is drawn

        def draw(generator):
            seen = []
            progressive_loss(recorded(student, seen), bold, x, n, cosine, generator=generator)
            ((z, t),) = seen
            ((alpha, sigma),) = at(cosine, z, t)
            return {"i": t, "noise": (z - alpha * x) / sigma}

        by_hand = {
            "i": lambda g: torch.randint(1, n + 1, (64,), generator=g).double() / n,
            "noise": lambda g: torch.randn(x.shape, generator=g, dtype=x.dtype),
        }
        if n == 1:
            del by_hand["i"]
        check_randomness(draw, by_hand, seed)

    n = 4
    one = progressive_loss(student, bold, x[:1], n, cosine)
    assert one.shape == (1,), f"For one sample the loss is one number, (1,), not {tuple(one.shape)}."
    by_name, default = (
        progressive_loss(student, bold, x, n, cosine, *w, generator=torch.Generator().manual_seed(seed))
        for w in (["snr+1"], [])
    )
    close(default, by_name, 'weighting is "snr+1" unless another is asked for.')

    for count in (0, -1):
        refuses(lambda: progressive_loss(student, bold, x, count, cosine), f"n = {count} must be refused.")
    refuses(
        lambda: progressive_loss(student, bold, x, n, cosine, "snr + 1"),
        "An unknown weighting must be refused.",
    )
    for other in SHAPES:
        hint = f"answer of shape {tuple(other(x).shape)} for x of {tuple(x.shape)} must be refused."
        odd = lambda z, t: other(z)
        refuses(lambda: progressive_loss(odd, bold, x, n, cosine), f"A student's {hint}")
        refuses(lambda: progressive_loss(student, odd, x, n, cosine), f"A teacher's {hint}")


def check_diffusion_loss(diffusion_loss=progressive.diffusion_loss, seed: int = 0) -> None:
    """Times, noise, weight, gradient, randomness of the teacher's loss, from what the denoiser is asked."""
    g, draws = (torch.Generator().manual_seed(seed + k) for k in (0, 1))
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    denoiser = lambda z, t: knob.to(z) * (torch.sin(z) + z / 2) + 6 * column(t, z)
    drawn = []
    for weighting, schedule, dtype, shape, size in (
        ("snr+1", cosine, torch.float64, (1024, 1, 2, 2), 1),
        ("constant", cosine, torch.float64, (600, 3), 1),
        ("constant", cosine, torch.float64, (600, 3), 1000),
        ("snr+1", rectified_flow, torch.float64, (900, 1, 3, 2), 1),
        ("truncated_snr", sigmoid, torch.float64, (600, 2, 1, 1, 3), 1),
        ("snr", cosine, torch.float64, (600, 2), 1),
        ("min_snr", cosine, torch.float64, (600, 2), 1),
        ("snr+1", cosine, torch.float32, (600, 1, 2, 3), 1),
    ):
        x, b, seen = size * normal(*shape, generator=g).sin().to(dtype), shape[0], []
        call = lambda: diffusion_loss(recorded(denoiser, seen), x, schedule, weighting, draws)
        loss = accepts(call, f'weighting = "{weighting}", x of shape {shape}')
        assert isinstance(loss, Tensor) and loss.shape == (b,), (
            "A loss returns one number for each sample, (b,)."
        )
        assert loss.dtype == dtype, f"The loss has the dtype of x, here {dtype}, not {loss.dtype}."
        assert len(seen) == 1, f"The denoiser is asked once, for the whole batch, not {len(seen)} times."
        z, t, x = (a.double() for a in (*seen[0], x))
        assert (t > 0).all() and (t <= 1).all(), "t is drawn from (0, 1]: at t = 0 the weight is infinite."
        assert len(t.unique()) > 1, "Draw one t for each sample, not one for the batch."
        off = (t.sort().values - (torch.arange(b) + 0.5) / b).abs().max()
        # Kolmogorov and Smirnov: above 3.2 / sqrt(b), and below 0.2 / sqrt(b), once in a billion
        assert off < 3.2 / b**0.5, "t is uniform: all of (0, 1] is equally likely."
        assert off > 0.2 / b**0.5, (
            "t is drawn for each sample on its own: yours are spread evenly over the batch."
        )
        drawn.append(t)
        answer, at_t, others = denoiser(z, t), schedule(t), {"t, but on cosine": cosine(t)}
        eps = check_noise(z, x, at_t, [t < 0.5, t >= 0.5], others)
        expected = FORMULAS[weighting]((at_t[0] / at_t[1]) ** 2) * mean_square(answer - x)
        targets = {"the noise, and a denoiser answers with the data": eps, "z, and must be the data": z}
        likely = likely_losses(answer.detach(), x, targets, weighting, at_t, others)
        hint = f'"{weighting}": the weight at t times the mean over each sample of (x_hat - x)^2.'
        explained(
            loss.detach().double(), expected.detach(), hint, likely, 1e-8 if dtype == torch.float64 else 1e-5
        )
        check_gradient(loss, expected, knob, "the denoiser")

    drawn = torch.cat(drawn)
    low, high = drawn.aminmax()
    for end in (low, high):
        assert (drawn == end).sum() < 3, f"t is cut off at {end:.3g}, and all of (0, 1] is equally likely."
    assert low < 0.005 and high > 0.995, f"t is drawn from all of (0, 1], yours from {low:.3f} to {high:.3f}."

    x = normal(64, 2, generator=g)

    def draw(generator):
        seen = []
        diffusion_loss(recorded(denoiser, seen), x, cosine, generator=generator)
        ((z, t),) = seen
        ((alpha, sigma),) = at(cosine, z, t)
        return {"t": t, "noise": (z - alpha * x) / sigma}

    by_hand = {
        "t": lambda g: 1 - torch.rand(64, generator=g, dtype=x.dtype),
        "noise": lambda g: torch.randn(x.shape, generator=g, dtype=x.dtype),
    }
    check_randomness(draw, by_hand, seed)
    by_name, default = (
        diffusion_loss(denoiser, x, cosine, *w, generator=torch.Generator().manual_seed(seed))
        for w in (["snr+1"], [])
    )
    close(default, by_name, 'weighting is "snr+1" unless another is asked for.')
    refuses(lambda: diffusion_loss(denoiser, x, cosine, "snr + 1"), "An unknown weighting must be refused.")
    for other in SHAPES:
        hint = f"An answer of shape {tuple(other(x).shape)} for x of {tuple(x.shape)} must be refused."
        refuses(lambda: diffusion_loss(lambda z, t: other(z), x, cosine), hint)


def check_diffusion_loss_at(diffusion_loss=progressive.diffusion_loss, seed: int = 0) -> None:
    """With times of the caller's: these are asked for, weighted, and the generator draws the noise alone."""
    g, draws = (torch.Generator().manual_seed(seed + k) for k in (0, 1))
    denoiser = lambda z, t: torch.sin(z) + z / 2 + 6 * column(t, z)
    for dtype in (torch.float64, torch.float32):
        x, seen = normal(600, 3, generator=g).to(dtype), []
        # none of them is 0, where the weight is infinite
        t = (0.05 + 0.95 * torch.rand(600, generator=g, dtype=torch.float64).square()).to(dtype)
        kept = t.clone()
        loss = diffusion_loss(recorded(denoiser, seen), x, cosine, generator=draws, t=t)
        assert torch.equal(t, kept), "The times are the caller's: do not change them."
        assert len(seen) == 1, f"The denoiser is asked once, for the whole batch, not {len(seen)} times."
        z, asked = seen[0]
        assert alike(asked, t, 1e-6), "The denoiser is asked at the times t that are given."
        assert asked.dtype == dtype, "The denoiser gets t in the dtype of z."
        at_t = cosine(t.double())
        check_noise(z.double(), x.double(), at_t, [t < 0.3, t >= 0.3], {"1 - t": cosine(1 - t.double())})
        error = mean_square(denoiser(z, t) - x).double()
        snr = (at_t[0] / at_t[1]) ** 2
        likely = {
            "The weight is that of the times which are given, not of others.": (snr.flip(0) + 1) * error,
            "No weight for how often a time comes: whoever gives the times has chosen it.": (
                (snr + 1) * error * (t.double() - 0.05).clamp(min=1e-12).sqrt()
            ),
            "The loss has its weight at every time: SNR + 1.": error,
        }
        hint = "SNR + 1 at the times that are given, times the mean over each sample of (x_hat - x)^2."
        explained(loss.double(), (snr + 1) * error, hint, likely, 1e-8 if dtype == torch.float64 else 1e-4)

    x, t = normal(64, 2, generator=g), torch.full((64,), 0.5, dtype=torch.float64)

    def noises(generator):
        seen = []
        diffusion_loss(recorded(denoiser, seen), x, cosine, generator=generator, t=t)
        return {"noise": (seen[0][0] - x * 0.5**0.5) / 0.5**0.5}

    check_randomness(noises, {"noise": lambda g: torch.randn(x.shape, generator=g, dtype=x.dtype)}, seed)
    for name, bad in {"one time for all": t[:1], "a column": t[:, None], "integers": t.long()}.items():
        refuses(lambda: diffusion_loss(denoiser, x, cosine, t=bad), f"t, (64,), and not {name}: refuse it.")


def check_logit_normal_times(logit_normal_times=progressive.logit_normal_times, seed: int = 0) -> None:
    """The logit is Gaussian, each time drawn by itself, the generator decides. Bounds: 6 standard errors."""
    n, g = 50_000, torch.Generator().manual_seed(seed)
    for args in ((), (0.8, 1.6), (-0.5, 0.3)):
        mean, std = args or (0.0, 1.0)
        t = accepts(lambda: logit_normal_times(n, *args, generator=g), f"mean and std {mean}, {std}")
        assert isinstance(t, Tensor) and t.shape == (n,), "b times, (b,)."
        assert ((t >= 0) & (t <= 1)).all(), "Times lie between 0 and 1: take the sigmoid."
        logit = torch.logit(t.double())
        assert logit.isfinite().all(), "No time is 0 or 1 here: are they clamped, or rounded?"
        center, spread = ((logit - mean) / std).mean().item(), ((logit - mean) / std).std().item()
        likely = {
            "all times are one number: draw each by itself": 0.0,
            "std is the standard deviation of the logit, not its variance": std**-0.5,
            "std is the standard deviation of the logit: it is squared here": std,
            "std is not used": 1 / std,
        }
        near = lambda value, other: abs(value - other) < 6 / n**0.5 * other + 1e-6
        hint = next((says for says, wrong in likely.items() if near(spread, wrong)), "another law")
        given = f"logit t ~ N({mean}, {std}^2), yours N({mean + std * center:.3f}, {std * spread:.3f}^2)"
        assert near(spread, 1), f"{given}: {hint}."
        flipped = abs((torch.logit(1 - t.double()).mean() - mean) / std) < 6 / n**0.5 and mean
        hint = "t and 1 - t are exchanged: 1 is noise" if flipped else "mean is that of the logit"
        assert abs(center) < 6 / n**0.5, f"{given}: {hint}."
        u = (logit - mean) / std
        hint = "Each time is drawn by itself, and here one decides the next: are they sorted?"
        assert abs((u[1:] * u[:-1]).mean()) < 6 / n**0.5, hint
        rank = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        worst = (torch.special.ndtr(u.sort().values) - rank).abs().max().item()
        # Kolmogorov and Smirnov: above 3.2 / sqrt(n) once in a billion, below 0.2 / sqrt(n) as well
        assert worst < 3.2 / n**0.5, "The logit has the right mean and deviation, but is not Gaussian."
        assert worst > 0.2 / n**0.5, "Each time is drawn by itself: yours are spread evenly over the batch."
        assert u.max() > 3.3 and u.min() < -3.3, "The tails are missing: nothing is clamped or cut off."
    by_hand = {"t": lambda g: torch.sigmoid(torch.randn(64, generator=g)).double()}
    check_randomness(lambda g: {"t": logit_normal_times(64, generator=g).double()}, by_hand, seed)
    same = accepts(lambda: logit_normal_times(3, 0.5, 0.0), "std = 0").double()
    close(same, torch.full((3,), 0.5).double().sigmoid(), "With std = 0 all times are sigmoid(mean).", 1e-6)
    for name, args in {"b = 0": (0,), "b = -1": (-1,), "a negative std": (4, 0.0, -1.0)}.items():
        refuses(lambda: logit_normal_times(*args), f"{name} must be refused.")


def check_halvings(halvings=progressive.halvings, seed: int = 0) -> None:
    """Powers of two of the end, and nothing else."""
    odd = 3 + 2 * (seed % 5)
    for start, end in ((8, 1), (1024, 4), (64, 8), (odd * 2**9, odd), (2, 1), (6, 3), (2**20, 1)):
        right = [end * 2**k for k in range(64) if end * 2**k < start][::-1]
        found = accepts(lambda: halvings(start, end), f"halvings({start}, {end})")
        assert isinstance(found, list), f"A list of step counts, not {type(found).__name__}."
        whole = all(hasattr(k, "__index__") for k in found)
        assert whole, f"Step counts are whole numbers, got {found[0]!r}: // 2 keeps an int, / 2 does not."
        likely = (
            ("with the start, which the teacher is", [start, *right]),
            ("without the end, which the last student is", right[:-1]),
            ("rising, and the first student has the most steps", right[::-1]),
            ("down to 1, and not to the end", [start >> k for k in range(1, start.bit_length())]),
        )
        what = next((f": {what}" for what, wrong in likely if wrong == found and wrong != right), "")
        assert found == right, f"halvings({start}, {end}) is {right}, yours is {found}{what}."
    assert accepts(lambda: halvings(8), "halvings(8)") == [4, 2, 1], (
        "The end is 1 unless another is asked for."
    )
    for n in (1, 8):
        found = accepts(lambda: halvings(n, n), f"halvings({n}, {n}), for which there is nothing to do,")
        assert found == [], f"From {n} to {n} there is nothing to halve: [], not {found}."
    for start, end, why in (
        (12, 1, "12, 6, 3, and never 1"),
        (8, 3, "8, 4, 2, and never 3"),
        (7, 3, "7 is odd"),
        (24, 8, "24, 12, 6, and never 8"),
        (4, 8, "the end is above the start"),
        (8, 0, "no model has 0 steps"),
        (0, 0, "no model has 0 steps"),
        (0, 1, "no model has 0 steps"),
        (8, -1, "no model has -1 steps"),
        (-8, -1, "no model has -8 steps"),
        (-8, -8, "no model has -8 steps"),
    ):
        refuses(lambda: halvings(start, end), f"halvings({start}, {end}) must be refused: {why}.")
