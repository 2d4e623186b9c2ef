"""Checks of progressive distillation.

All on a non-linear teacher and with at least four steps first: with one step, or on the first interval alone,
half of the wrong targets that people have written are right.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minidistill import progressive
from minidistill.checks import (
    Likely,
    accepts,
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


def teacher(z: Tensor, t: Tensor) -> Tensor:
    """A non-linear function that no formula knows."""
    return torch.tanh(z) * (1 + column(t, z)) + 0.3 * torch.sin(3 * z)


def bold(z: Tensor, t: Tensor) -> Tensor:
    """The same, with answers from -7 to 7, so that clipping shows."""
    return 3 * teacher(z, t)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers that are wider than unit noise, in float64."""
    return 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


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

    wrong_share = {
        "The plain mean of x_1 and x_2: one chord is longer than the other, in rho.": torch.tensor(0.5),
        "The two weights are exchanged: rho_m - rho_t is x_1's.": 1 - share(levels),
        "The weights are averaged over the batch: each sample has its own.": share(levels).mean(),
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
    for bound in (1, 3, 5):
        hint = "x_2 is clipped: a teacher may answer more than 1."
        others.append((hint, share(levels) * x_1 + (1 - share(levels)) * x_2.clamp(-bound, bound)))
    for axis in (k for k in range(1, z.ndim) if z.shape[k] == len(t)):
        hint = f"Times run along axis {axis}, and must along axis 0: each sample has its own."
        wrong_share[hint] = share(levels).movedim(0, axis)
        top, below, r = (c.movedim(0, axis) for c in (a_s, a_t, ratio))
        others.append((hint, (z_s - r * z) / (top - r * below)))
    yield from ((hint, w * x_1 + (1 - w) * x_2) for hint, w in wrong_share.items())
    yield from others


def check_target(target: Callable, seed: int, tol: float) -> None:
    """What the convex form and the quotient share: who is asked where, value, ends, gradients, refusals."""
    g = torch.Generator().manual_seed(seed)
    # all axes alike first: times broadcast along a wrong axis give another number there, and no error
    for schedule, n, shape in (
        (cosine, 4, (4, 4, 4, 4)),
        (rectified_flow, 7, (7, 2)),
        (sigmoid, 5, (5, 1, 2, 3, 2)),
        (edm, 10, (10, 3, 2, 5)),
        (cosine, 1, (1, 3)),
    ):
        z, t = normal(*shape, generator=g), (torch.randperm(shape[0], generator=g) % n + 1).double() / n
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
        explained(first_t, t, "The first teacher step starts at t.", ())
        explained(first_z, z, "The first teacher step starts at z.", ())
        gap = ((t - second_t) * n).mean()
        close(
            second_t,
            m,
            "The teacher's second step starts at m = t - 0.5 / n, halfway between t and s = t - 1 / n: "
            f"yours at t - {gap:.3g} / n.",
        )
        places = (
            ("The teacher's second step starts at z_m, where its first one ends: yours at z once more.", z),
            *(("x_1 is clipped before the first step: a teacher may answer more than 1.",
               step(x_1.clamp(-bound, bound), z, t, m, schedule)) for bound in (1, 3, 5)),
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
    for n in (3, 49):
        grid, z = (torch.arange(1, n + 1) / n).double(), normal(n, 2, generator=g)
        call = lambda: target(bold, z, grid, n, cosine)
        found = accepts(call, f"A grid i / {n} that was computed in float32 (off by 1e-8)")
        hint = f"At n = {n}, for times from a float32 grid: count i = t n by rounding, not by cutting off."
        close(found, two_steps(bold, z, grid, n, cosine)[-1], hint, 1e-5, 1e-5)

    n, z, t = 4, normal(4, 4, 4, 4, generator=g), exact(0.25, 1.0, 0.75, 0.5)
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = target(lambda z, t: slope * bold(z, t), z.clone().requires_grad_(), t, n, cosine)
    assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    assert not learned.requires_grad, "A target is a constant: use torch.no_grad() or detach()."
    assert not learned.is_inference(), (
        "No loss can use a tensor of torch.inference_mode(): use torch.no_grad()."
    )

    rough = z.float()
    right = two_steps(bold, rough.double(), t, n, cosine)[-1]
    close_in_float32(target(recorded(bold, []), rough, t, n, cosine), right, "The target", tol)
    wide = target(recorded(bold, []), rough.double(), t.float(), n, cosine)
    assert wide.dtype == torch.float64, f"The target has the dtype of z, here float64, not {wide.dtype}."
    close(wide, right, "The target is right for float64 times, but not for float32 ones.", 1e-5, 1e-5)

    for bad in one_bad(t, 0.0, -0.25, 1.25, 0.6, 0.501):
        hint = (
            f"t = {bad[-1]:g} is not one of 1/4, ..., 1 and must be refused at n = 4, also among good times."
        )
        refuses(lambda: target(bold, z, bad, n, cosine), hint)
    for count in (0, -4):
        refuses(lambda: target(bold, z, t, count, cosine), f"n = {count} must be refused.")
    hint = "A teacher whose answer has another shape than z must be refused: it would be broadcast."
    refuses(lambda: target(lambda z, t: bold(z, t)[:, :1], z, t, n, cosine), hint)


def in_bfloat16(target: Callable, seed: int) -> tuple[Tensor, Tensor]:
    """The target of 1024 steps for bfloat16 data with float32 times, and in float64."""
    many, g = 1024, torch.Generator().manual_seed(seed)
    z, i = normal(256, 2, generator=g), torch.randint(1, many + 1, (256,), generator=g)
    right = two_steps(bold, z.bfloat16().double(), i.double() / many, many, cosine)[-1]
    return target(recorded(bold, []), z.bfloat16(), i.float() / many, many, cosine), right


def check_two_step_target(two_step_target=progressive.two_step_target, seed: int = 0) -> None:
    """Where the teacher is asked, value, ends, constant, precision, refusals."""
    check_target(two_step_target, seed, 1e-5)
    found, right = in_bfloat16(two_step_target, seed)
    assert found.dtype == torch.bfloat16, f"The target has the dtype of z, here bfloat16, not {found.dtype}."
    error = (found.double() - right).norm() / right.norm()
    assert error < 1e-2, (
        f"In bfloat16 with 1024 steps the target is {error:.1e} off: use the convex form, not the quotient, "
        "with both weights computed in t's precision, and turned into z's at the end."
    )


def check_quotient_target(quotient_target=progressive.quotient_target, seed: int = 0) -> None:
    """The convex form's number in float64, and no number in bfloat16."""
    check_target(quotient_target, seed, 1e-4)
    found, _ = in_bfloat16(quotient_target, seed)
    assert found.dtype == torch.bfloat16, f"The target has the dtype of z, here bfloat16, not {found.dtype}."
    assert not found.isfinite().all(), (
        "In bfloat16 with 1024 steps numerator and denominator are 0: compute both in z's precision, as the "
        "lesson shows what is lost, not in t's."
    )


# weights and losses


def likely_weights(kind: str, log_snr: Tensor) -> Likely:
    """Wrong weights at log_snr."""
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
    yield f'"{kind}" is the smaller of SNR and 1, and must be the larger: max(SNR, 1).', snr.clamp(max=1)
    yield (
        f'"{kind}" is the larger of SNR and gamma, and must be the smaller: min(SNR, gamma).',
        snr.clamp(min=5),
    )
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
        right, most = formula(lam.exp()), found.detach().max()
        capped = (
            f'"{kind}" is capped at {most:.3g}: min_snr alone is, at gamma, 5 unless given.',
            right.clamp(max=most),
        )
        hint = f'"{kind}" is another weight in x space.'
        explained(found, right, hint, (*likely_weights(kind, lam), capped))
    # what a one-step student is asked: pure noise
    noise, data = exact(-torch.inf, -60.0, -20.0), exact(14.0, 20.0, 60.0)
    for kind, formula in FORMULAS.items():
        close(weight(kind, noise), formula(noise.exp()), f'"{kind}" at pure noise, where SNR is 0 or nearly.')
        hint = f'"{kind}" close to the data, SNR {data[0].exp():.0e} and more: nothing is capped but min_snr.'
        close(weight(kind, data), formula(data.exp()), hint)
    for gamma in (0.5, 3.0, 20.0):
        close(
            weight("min_snr", lam, gamma),
            lam.exp().clamp(max=gamma),
            f"min_snr is capped at gamma, here {gamma}.",
        )
        close(weight("snr", lam, gamma), lam.exp(), "gamma is min_snr's alone.")
    for kind, formula in FORMULAS.items():
        rough = lam.float()
        close_in_float32(weight(kind, rough), formula(rough.double().exp()), f'The weight "{kind}"')
        free = lam.clone().requires_grad_()
        slope = torch.autograd.grad((weight(kind, free) + 0 * free).sum(), free)[0]
        right = torch.autograd.grad((formula(free.exp()) + 0 * free).sum(), free)[0]
        close(slope, right, f'"{kind}": its derivative in log_snr is lost or wrong. Is something detached?')
    for kind in ("SNR", "snr + 1", "min-snr", "truncated", ""):
        refuses(lambda: weight(kind, lam), f'An unknown kind, here "{kind}", must be refused.')


def noise_fault(eps: Tensor, x: Tensor, groups: Iterable[Tensor]) -> str:
    """What keeps eps from being unit Gaussian noise, new for each number; "" where nothing does.

    groups: rows, each as a mask, whose mean, variance and share of the data x are looked at together.
    """
    if torch.pdist(eps.flatten(1)).min() < 1e-6:
        return "Two samples have the same noise: each draws its own."
    shared = torch.corrcoef(eps.flatten(1).T).fill_diagonal_(0).abs().max()
    if shared > 6 / len(eps) ** 0.5:
        return "The numbers of a sample share their noise: eps has the shape of x."
    for rows in (torch.ones(len(x), dtype=torch.bool), *groups):
        part, data = eps[rows].flatten(), x[rows].flatten()
        bound = 6 / len(part) ** 0.5
        if (part * data).mean().abs() > 1.5 * bound:
            return "The share of the data in z is not alpha_t: z = alpha_t x + sigma_t eps."
        if part.mean().abs() > bound:
            return f"The noise in z has mean {part.mean():.2f}, not 0: z = alpha_t x + sigma_t eps."
        if (part.var() - 1).abs() > 1.5 * bound:
            return f"The noise in z has variance {part.var():.2f} sigma_t^2: z = alpha_t x + sigma_t eps."
    if ((eps**4).mean() / eps.var() ** 2 - 3).abs() > 30 / eps.numel() ** 0.5:
        return "The noise is not Gaussian: randn, not rand."
    return ""


def check_noise(z: Tensor, x: Tensor, at_t: Level, groups: list[Tensor], others: dict[str, Level]) -> Tensor:
    """The noise in z, which must be unit Gaussian at t. others: levels, by name, that are taken for it."""
    noise = lambda alpha, sigma: (z - column(alpha, z) * x) / column(sigma, z)
    fault = noise_fault(noise(*at_t), x, groups)
    for name, (alpha, sigma) in others.items() if fault else ():
        noisy = sigma > 0
        rows = [group[noisy] for group in groups if group[noisy].any()]
        assert noise_fault(noise(alpha, sigma)[noisy], x[noisy], rows), (
            f"z is mixed at {name}: it must be the t that is asked, on the schedule that is given."
        )
    assert not fault, fault
    return noise(*at_t)


def check_randomness(draw: Callable[[torch.Generator | None], dict[str, Tensor]], seed: int) -> None:
    """The generator, and nothing else, decides what is drawn, anew in each call; torch itself without one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = torch.Generator().manual_seed(seed + 5)
        first, second, again = draw(g), draw(g), draw(torch.Generator().manual_seed(seed + 5))
        free, freer = draw(None), draw(None)
    for name in first:
        # noise is read from z, and rounded
        same, new = torch.equal(first[name], again[name]), not torch.allclose(first[name], second[name])
        assert same, f"{name} must come from the generator: from two of one seed, {name} is not the same."
        assert new, f"Two calls with one generator draw the same {name}: use it as it is, and never seed it."
        new = not torch.allclose(free[name], freer[name])
        assert new, (
            f"Two calls without a generator draw the same {name}: then torch's own random numbers decide."
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
    for most in (1, 2, 3, 5):
        clipped = weight * mean_square(answer.clamp(-most, most) - right)
        yield "x_hat is clipped inside the loss: where it is, no gradient is left.", clipped
        clipped = weight * mean_square(answer - right.clamp(-most, most))
        yield "The target is clipped: a teacher may answer more than 1.", clipped
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
    yield "The weight is capped at 5, and min_snr alone is.", weight.clamp(max=5) * error
    for name, level in others.items():
        yield f"The weight is taken at {name}: it is that of t.", formula(snr(*level)) * error
    if kind == "snr+1":
        yield "SNR + 1 is 1 / sigma^2 only where alpha^2 + sigma^2 = 1.", error / at_t[1] ** 2
    for hint, wrong in likely_weights(kind, snr(*at_t).log()):
        yield f"The weight is wrong. {hint}", wrong * error


def check_gradient(loss: Tensor, expected: Tensor, knob: Tensor) -> None:
    """The student's parameter gets the gradient of the loss written out by hand."""
    assert loss.requires_grad, "No gradient reaches the student: is x_hat detached?"
    found, right = (
        torch.autograd.grad(v.sum(), knob, retain_graph=True, allow_unused=True)[0] for v in (loss, expected)
    )
    assert found is not None and found != 0, "No gradient reaches the student: is x_hat detached?"
    tol = 1e-8 if loss.dtype == torch.float64 else 1e-4
    close(found, right, "The gradient is not the loss's own: is a part of x_hat detached?", tol, tol)


def check_progressive_loss(progressive_loss=progressive.progressive_loss, seed: int = 0) -> None:
    """Times, noise, target, weight, gradients and randomness, from what student and teacher are asked."""
    g, draws = (torch.Generator().manual_seed(seed + k) for k in (0, 1))
    knob, frozen = (torch.tensor(c, dtype=torch.float64, requires_grad=True) for c in (0.9, 1.0))
    student = lambda z, t: knob.to(z) * torch.sin(z) + 6 * column(t, z)
    learned = lambda z, t: frozen.to(z) * bold(z, t)
    # powers of two, so that i / n is exact also where it was computed in float32
    for weighting, schedule, n, dtype, shape in (
        ("snr+1", cosine, 4, torch.float64, (1024, 1, 2, 2)),
        ("constant", cosine, 4, torch.float64, (600, 3)),
        ("snr+1", rectified_flow, 8, torch.float64, (900, 1, 3, 2)),
        ("truncated_snr", sigmoid, 4, torch.float64, (600, 2, 1, 1, 3)),
        ("snr", edm, 2, torch.float64, (600, 2)),
        ("min_snr", cosine, 8, torch.float64, (900, 2)),
        ("snr+1", cosine, 4, torch.float32, (600, 1, 2, 3)),
        ("snr+1", cosine, 1, torch.float64, (600, 4)),
    ):
        x, b, seen, asked = normal(*shape, generator=g).to(dtype), shape[0], [], []
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
        assert n == 1 or len(index.unique()) > 1, "Draw one i for each sample, not one for the batch."
        assert index.max() == n, (
            "t = 1, where sampling starts, is never trained: i runs from 1 to n, not to n - 1."
        )
        assert index.min() == 1, (
            "t = 1 / n, where the last step starts, is never trained: i runs from 1 to n."
        )
        count, sure = torch.bincount(index.long(), minlength=n + 1)[1:], 6 * (b * (n - 1)) ** 0.5 / n
        assert ((count - b / n).abs() <= sure).all(), "All n grid times are equally likely."
        close(teacher_z, z, "Student and teacher start at one z: the noise is drawn once.", 1e-6)
        gap = ((t - second_t) * n).mean()
        hint = f"The teacher's second step starts half a student step below t: yours at t - {gap:.2g} / n."
        close(second_t, t - 0.5 / n, hint, 1e-6)

        z, x, t = z.double(), x.double(), index / n
        m, s, x_1, _, x_2, z_s, right = two_steps(bold, z, t, n, schedule)
        at_t, groups = schedule(t), [index == i for i in index.unique()]
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
        check_gradient(loss, expected, knob)
        leak = torch.autograd.grad(loss.sum(), frozen, allow_unused=True)[0]
        assert leak is None, "A gradient reaches the teacher: its two steps are constants."

    n, x = 4, normal(64, 2, generator=g)

    def draw(generator):
        seen = []
        progressive_loss(recorded(student, seen), bold, x, n, cosine, generator=generator)
        ((z, t),) = seen
        ((alpha, sigma),) = at(cosine, z, t)
        return {"i": t, "noise": (z - alpha * x) / sigma}

    check_randomness(draw, seed)
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
    for answer in (lambda z: z[..., :1], lambda z: z[:1], lambda z: z[..., 0], lambda z: z[..., None]):
        hint = (
            f"A student's answer of shape {tuple(answer(x).shape)} for x of {tuple(x.shape)} must be refused."
        )
        refuses(lambda: progressive_loss(lambda z, t: answer(z), bold, x, n, cosine), hint)


def check_diffusion_loss(diffusion_loss=progressive.diffusion_loss, seed: int = 0) -> None:
    """Times, noise, weight, gradient, randomness of the teacher's loss, from what the denoiser is asked."""
    g, draws = (torch.Generator().manual_seed(seed + k) for k in (0, 1))
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    denoiser = lambda z, t: knob.to(z) * torch.sin(z) + 6 * column(t, z)
    drawn = []
    for weighting, schedule, dtype, shape in (
        ("snr+1", cosine, torch.float64, (1024, 1, 2, 2)),
        ("constant", cosine, torch.float64, (600, 3)),
        ("snr+1", rectified_flow, torch.float64, (900, 1, 3, 2)),
        ("truncated_snr", sigmoid, torch.float64, (600, 2, 1, 1, 3)),
        ("snr", cosine, torch.float64, (600, 2)),
        ("min_snr", cosine, torch.float64, (600, 2)),
        ("snr+1", cosine, torch.float32, (600, 1, 2, 3)),
    ):
        x, b, seen = normal(*shape, generator=g).to(dtype), shape[0], []
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
        # Kolmogorov and Smirnov: above 3.2 / sqrt(b) once in a billion
        assert off < 3.2 / b**0.5, "t is uniform: all of (0, 1] is equally likely."
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
        check_gradient(loss, expected, knob)

    low, high = torch.cat(drawn).aminmax()
    assert low < 0.005 and high > 0.995, f"t is drawn from all of (0, 1], yours from {low:.3f} to {high:.3f}."

    x = normal(64, 2, generator=g)

    def draw(generator):
        seen = []
        diffusion_loss(recorded(denoiser, seen), x, cosine, generator=generator)
        ((z, t),) = seen
        ((alpha, sigma),) = at(cosine, z, t)
        return {"t": t, "noise": (z - alpha * x) / sigma}

    check_randomness(draw, seed)
    by_name, default = (
        diffusion_loss(denoiser, x, cosine, *w, generator=torch.Generator().manual_seed(seed))
        for w in (["snr+1"], [])
    )
    close(default, by_name, 'weighting is "snr+1" unless another is asked for.')
    refuses(lambda: diffusion_loss(denoiser, x, cosine, "snr + 1"), "An unknown weighting must be refused.")
    for answer in (lambda z: z[..., :1], lambda z: z[:1], lambda z: z[..., 0], lambda z: z[..., None]):
        hint = f"An answer of shape {tuple(answer(x).shape)} for x of {tuple(x.shape)} must be refused."
        refuses(lambda: diffusion_loss(lambda z, t: answer(z), x, cosine), hint)


def check_halvings(halvings=progressive.halvings, seed: int = 0) -> None:
    """Powers of two of the end, and nothing else."""
    odd = 3 + 2 * (seed % 5)
    for start, end in ((8, 1), (1024, 4), (64, 8), (odd * 2**9, odd), (2, 1), (6, 3)):
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
