"""Checks of progressive distillation.

All on a non-linear teacher, at interior times, with at least four steps, in float64: with one step, or on the
first interval alone, half of the wrong targets that people have written are right.
"""

import torch

from minidistill import progressive
from minidistill.checks import close, refuses
from minidistill.schedules import cosine, edm, log_snr, rectified_flow, sigmoid

HINT = (
    "One student step must land where two teacher steps land. Does the second step start from z_m, at time m "
    "halfway between t and s? And the target is neither the teacher's last x_hat nor the mean of the two."
)


def teacher(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A non-linear function that no formula knows."""
    return torch.tanh(z) * (1 + t.reshape(-1, *[1] * (z.ndim - 1))) + 0.3 * torch.sin(3 * z)


def step(x_hat, z, t, s, schedule):
    """DDIM, written out once more, so that a mistake in the package's cannot hide one in a target."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        [a.reshape(-1, *[1] * (z.ndim - 1)) for a in schedule(u)] for u in (t, s)
    )
    return alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t


def sample(denoiser, z, n, schedule):
    """n DDIM steps from t = 1 to 0."""
    for i in range(n, 0, -1):
        t, s = (torch.full(z.shape[:1], j / n, dtype=z.dtype) for j in (i, i - 1))
        z = step(denoiser(z, t), z, t, s, schedule)
    return z


def check_two_step_target(two_step_target=progressive.two_step_target, seed: int = 0) -> None:
    """Landing, halving, hull, first interval, invariance, precision, gradients, queries."""
    n = 4
    g = torch.Generator().manual_seed(seed)
    # batch, channels, height and width are all 4: times broadcast along a wrong axis give another number
    z = 1.5 * torch.randn(4, 4, 4, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)[torch.randperm(4, generator=g)]

    def calls(net):
        """net, and the list of the times it is asked at."""
        asked = []
        return asked, lambda z, t: asked.append(t) or net(z, t)

    for schedule in (cosine, rectified_flow, sigmoid, edm):
        asked, recorded = calls(teacher)
        target = two_step_target(recorded, z, t, n, schedule)
        m, s = t - 0.5 / n, t - 1 / n
        x_1 = teacher(z, t)
        z_m = step(x_1, z, t, m, schedule)
        x_2 = teacher(z_m, m)
        z_s = step(x_2, z_m, m, s, schedule)
        assert target.shape == z.shape, "The target has the shape of z."
        assert target.isfinite().all(), (
            "Not finite: sigma_s is 0 at s = 0, alpha_t at t = 1. Do you divide by one of them? Is t > m > s?"
        )
        assert len(asked) == 2, "Two teacher steps ask the teacher twice."
        close(asked[0], t, "The first teacher step starts at t.")  # T6
        close(asked[1], m, "The second teacher step starts at m = t - 0.5 / n.")
        first = (t == 0.25).nonzero()
        close(target[first], x_2[first], "On the first interval, where sigma_s = 0, the target is x_2.")  # T4
        close(step(target, z, t, s, schedule), z_s, HINT, 1e-9)  # T2: landing
        low, high = torch.minimum(x_1, x_2), torch.maximum(x_1, x_2)
        inside = (target >= low - 1e-9) & (target <= high + 1e-9)
        assert inside.all(), "The target is a convex combination of x_1 and x_2."  # T3: hull

    # T1, T7: students that are perfect by construction, 16 -> 8 -> 4 -> 2 -> 1, are the 16-step teacher
    noise = torch.randn(8, 3, generator=g, dtype=torch.float64)
    for schedule in (cosine, rectified_flow, edm):
        truth = sample(teacher, noise, 16, schedule)
        student = teacher
        for count in (8, 4, 2, 1):
            student = lambda z, t, parent=student, k=count: two_step_target(parent, z, t, k, schedule)
            close(
                sample(student, noise, count, schedule),
                truth,
                HINT + f" (Perfect student of {count} steps.)",
                1e-12,
                1e-12,
            )

    # any n, and times that are exact to float32 only, as time_grid's are
    for count in (3, 7, 10, 49):
        grid = torch.arange(1, count + 1) / count
        z_n = torch.randn(count, 2, generator=g, dtype=torch.float64)
        for times in (grid.double(), torch.arange(1, count + 1, dtype=torch.float64) / count):
            m, s = times - 0.5 / count, (times - 1 / count).clamp(min=0)
            z_m = step(teacher(z_n, times), z_n, times, m, cosine)
            z_s = step(teacher(z_m, m), z_m, m, s, cosine)
            landed = step(two_step_target(teacher, z_n, times, count, cosine), z_n, times, s, cosine)
            hint = f"At n = {count} the student does not land: count i = t n by rounding, not by cutting off."
            close(landed, z_s, hint, 1e-5)

    # T5: what does not change along the way must come out unchanged
    constant = torch.randn(4, 4, 4, 4, generator=g, dtype=torch.float64)
    close(
        two_step_target(lambda z, t: constant, z, t, n, cosine),
        constant,
        "A constant x_hat is its own target.",
    )
    late = torch.tensor([0.5, 0.75, 0.5, 0.75], dtype=torch.float64)
    alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in cosine(late))

    def constant_noise(z, u):
        a, b = (c.reshape(-1, 1, 1, 1) for c in cosine(u))
        return (z - b * constant) / a

    eps = (z - alpha * two_step_target(constant_noise, z, late, n, cosine)) / sigma
    close(eps, constant, "A teacher of constant eps_hat has that eps_hat as its target.", 1e-9)

    # T8: only the SNR at the three times matters
    rho = {u: 0.2 + 0.5 * i for i, u in enumerate((1.0, 0.875, 0.75, 0.625, 0.5))}
    same = lambda scale: (
        lambda u: (
            torch.tensor([scale(rho[k]) * rho[k] for k in u.tolist()], dtype=torch.float64),
            torch.tensor([scale(rho[k]) for k in u.tolist()], dtype=torch.float64),
        )
    )
    by_snr = lambda z, u: torch.full_like(z, 1.0) * u.reshape(-1, 1, 1, 1).sin()
    u = torch.tensor([1.0, 0.75, 0.75, 1.0], dtype=torch.float64)
    preserving = two_step_target(by_snr, z, u, n, same(lambda r: (1 + r**2) ** -0.5))
    exploding = two_step_target(by_snr, z, u, n, same(lambda r: 1 / r))
    close(
        preserving,
        exploding,
        "Two schedules of one SNR have one target: weigh by rho = alpha / sigma, not its square.",
    )

    # T9: on rectified flow it is the mean of two velocities
    target = two_step_target(teacher, z, t, n, rectified_flow)
    by = lambda x, z, u: (z - x) / u.reshape(-1, 1, 1, 1)
    z_m = step(teacher(z, t), z, t, t - 0.5 / n, rectified_flow)
    mean = (by(teacher(z, t), z, t) + by(teacher(z_m, t - 0.5 / n), z_m, t - 0.5 / n)) / 2
    close(
        by(target, z, t),
        mean,
        "For rectified flow, the student's velocity is the mean of the teacher's two.",
        1e-9,
    )

    # T12: a constant, and one sample at a time
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = two_step_target(lambda z, t: slope * teacher(z, t), z, t, n, cosine)
    assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    assert not learned.requires_grad, "A target is a constant: use torch.no_grad() or detach()."
    both = two_step_target(teacher, z, t, n, cosine)
    close(
        two_step_target(teacher, z[1:2], t[1:2], n, cosine),
        both[1:2],
        "A target must not depend on its neighbours.",
    )

    # T13, T14: low precision and the ends
    many = 1024
    i = torch.randint(1, many + 1, (256,), generator=g)
    fine = torch.randn(256, 2, generator=g, dtype=torch.float64)
    exact = two_step_target(teacher, fine, i.double() / many, many, cosine)
    rough = two_step_target(teacher, fine.bfloat16(), i.float() / many, many, cosine)
    error = (rough.double() - exact).square().mean().sqrt()
    assert error < 1e-2, (
        f"RMS error {error:.1e} in bfloat16 at n = 1024: use the convex form, weights in t's dtype."
    )
    single = two_step_target(teacher, z.float(), t.float(), n, cosine)
    assert single.dtype == torch.float32, "The target has the dtype of z."
    close(single.double(), both, "float32 must agree to rounding.", 1e-4, 1e-4)

    refuses(
        lambda: two_step_target(teacher, z, t - 0.1, n, cosine), "Times off the grid i / n must be refused."
    )
    refuses(
        lambda: two_step_target(teacher, z, 0 * t, n, cosine),
        "t = 0 has no step to its left: it must be refused.",
    )
    refuses(
        lambda: two_step_target(teacher, z, t[:1], n, cosine), "One time for four samples must be refused."
    )
    refuses(lambda: two_step_target(teacher, z, t, 0, cosine), "n = 0 must be refused.")


def check_quotient_target(quotient_target=progressive.quotient_target, seed: int = 0) -> None:
    """The quotient is the convex form, in float64."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(4, 3, generator=g, dtype=torch.float64)
    t = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    for schedule in (cosine, rectified_flow, edm):
        expected = progressive.two_step_target(teacher, z, t, 4, schedule)
        close(
            quotient_target(teacher, z, t, 4, schedule),
            expected,
            "The quotient and the convex form are one number.",
            1e-9,
        )


def check_weight(weight=progressive.weight, seed: int = 0) -> None:
    """The losses by their other names, and that weights fit for distillation do not vanish at pure noise."""
    snr = torch.tensor([0.0, 0.25, 1.0, 4.0, 100.0], dtype=torch.float64)
    for kind, expected, hint in (
        ("constant", [1, 1, 1, 1, 1], "1 at every noise level"),
        ("snr", [0, 0.25, 1, 4, 100], "SNR itself; the argument is its logarithm"),
        (
            "truncated_snr",
            [1, 1, 1, 4, 100],
            "max(SNR, 1), so that it does not vanish at pure noise: not min",
        ),
        ("snr+1", [1, 1.25, 2, 5, 101], "SNR + 1: SNR alone vanishes at pure noise"),
        (
            "min_snr",
            [0, 0.25, 1, 4, 5],
            "min(SNR, 5) on the error of x_hat: division by SNR or SNR + 1 is for eps or v",
        ),
    ):
        expected = torch.tensor(expected, dtype=torch.float64)
        close(weight(kind, snr.log()), expected, f'In x space "{kind}" is {hint}.')
    huge = torch.tensor([1e7], dtype=torch.float64)
    close(weight("snr+1", huge.log()), huge + 1, "No weight but min_snr is capped.", rtol=1e-9)
    any_snr = 8 * torch.rand(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    close(weight("min_snr", any_snr.log(), 3.0), any_snr.clamp(max=3), "min_snr is capped at gamma.")
    close(weight("truncated_snr", any_snr.log()), any_snr.clamp(min=1), "Truncated SNR is max(SNR, 1).")
    # T11: an error in x, seen in eps and in v
    t = 0.1 + 0.8 * torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    alpha, sigma = cosine(t)
    as_eps, as_v = alpha / sigma, 1 / sigma  # d eps / d x and d v / d x at fixed z
    close(weight("snr", log_snr(cosine, t)), as_eps**2, "SNR times the x error is the eps error.")
    close(weight("snr+1", log_snr(cosine, t)), as_v**2, "SNR + 1 times the x error is the v error.")
    refuses(lambda: weight("SNR", snr), "An unknown weighting must be refused.")


def check_noise(eps: torch.Tensor, x: torch.Tensor, index: torch.Tensor) -> None:
    """eps = (z - alpha x) / sigma must be unit Gaussian noise at every grid time, new for each sample."""
    hint = "z = alpha_t x + sigma_t eps, from this x, at this t, with unit Gaussian noise. "
    for i in index.unique():
        part, data = eps[index == i].flatten(), x[index == i].flatten()
        bound = 6 / len(part) ** 0.5
        assert part.mean().abs() < bound, hint + f"At i = {i:g} the noise has mean {part.mean():.2f}."
        assert (part.var() - 1).abs() < 1.5 * bound, hint + f"At i = {i:g} its variance is {part.var():.2f}."
        assert (part * data).mean().abs() < 1.5 * bound, hint + f"At i = {i:g} the noise depends on the data."
    assert ((eps**4).mean() - 3).abs() < 60 / eps.numel() ** 0.5, hint + "The noise is not Gaussian."
    assert torch.pdist(eps.flatten(1)).min() > 0, hint + "Two samples have the same noise."


def check_progressive_loss(progressive_loss=progressive.progressive_loss, seed: int = 0) -> None:
    """Times, noise, target, weight and gradients, from what student and teacher are asked."""
    n, b = 4, 1024
    g = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(b, 1, 2, 2, generator=g, dtype=torch.float64)
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    parameter = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    seen, asked = {}, []

    def student(z, t):
        seen.update(z=z.detach(), t=t.detach())
        return knob * torch.sin(z) + 2

    def learned(z, t):
        asked.append(t)
        return parameter * teacher(z, t)

    for weighting, schedule in (
        ("constant", cosine),
        ("truncated_snr", cosine),
        ("snr+1", cosine),
        ("snr", cosine),
        ("min_snr", cosine),
        ("snr+1", rectified_flow),
    ):
        asked.clear()
        loss = progressive_loss(student, learned, x, n, schedule, weighting=weighting, generator=g)
        z, t = seen["z"], seen["t"]
        assert loss.shape == (b,), "A loss returns one number per sample, (b,)."
        assert t.dtype == x.dtype, f"t must have x's dtype, {x.dtype}: i.to(x.dtype) / n."
        index = (t * n).round()
        assert len(index.unique()) > 1, "Draw one i for each sample, not one for the batch."
        close(t, index / n, "The student is trained on its own grid, t = i / n.")
        assert index.max() == n, (
            "t = 1, where sampling starts, is never trained: i runs from 1 to n, not 0 to n - 1."
        )
        assert index.min() == 1, "t = 0 is not a start of any step, and t = 1 / n is: i runs from 1 to n."
        counts = torch.bincount(index.long())[1:]
        assert ((counts - b / n).abs() < 5 * b**0.5 / 2).all(), "All n grid times are equally likely."
        assert len(asked) == 2, "The teacher takes two steps."
        close(asked[1], t - 0.5 / n, "The teacher's second step starts at t - 0.5 / n: half a student step.")

        m, s = t - 0.5 / n, t - 1 / n
        z_m = step(teacher(z, t), z, t, m, schedule)
        z_s = step(teacher(z_m, m), z_m, m, s, schedule)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            [a.reshape(-1, 1, 1, 1) for a in schedule(u)] for u in (t, s)
        )
        check_noise((z - alpha_t * x) / sigma_t, x, index)
        target = (sigma_t * z_s - sigma_s * z) / (alpha_s * sigma_t - alpha_t * sigma_s)
        error = (0.9 * torch.sin(z) + 2 - target).square().mean((1, 2, 3))
        snr = (alpha_t / sigma_t).square().flatten()
        by_hand = {
            "constant": error,
            "snr": snr * error,
            "truncated_snr": torch.maximum(error, snr * error),
            "snr+1": (snr + 1) * error,
            "min_snr": snr.clamp(max=5) * error,
        }[weighting]
        hint = (
            "max(x error, eps error) is taken for each sample, not over the batch."
            if weighting == "truncated_snr"
            else ""
        )
        close(
            loss.detach(),
            by_hand,
            f"{weighting}: the weighted error of x_hat, mean per sample. Is x_hat clipped? {hint}",
            1e-8,
            1e-8,
        )

        knob.grad = parameter.grad = None
        loss.mean().backward()
        assert knob.grad is not None and knob.grad != 0, "No gradient reaches the student."
        assert parameter.grad is None, "A gradient reaches the teacher: its two steps are constants."
        slope = (2 * (0.9 * torch.sin(z) + 2 - target) * torch.sin(z)).mean((1, 2, 3)) * (by_hand / error)
        close(knob.grad, slope.mean(), "The gradient is wrong: is x_hat clipped inside the loss?", 1e-8, 1e-8)

    one = progressive_loss(student, teacher, x, n, cosine, generator=torch.Generator().manual_seed(5))
    two = progressive_loss(student, teacher, x, n, cosine, generator=torch.Generator().manual_seed(5))
    close(one, two, "The generator must decide all randomness.", 0.0, 0.0)
    default = progressive_loss(student, teacher, x, n, cosine, "snr+1", torch.Generator().manual_seed(5))
    close(one, default, "The weighting is SNR + 1 unless another is asked for.", 0.0, 0.0)
    refuses(lambda: progressive_loss(student, teacher, x, 0, cosine), "n = 0 must be refused.")
    narrow = lambda z, t: z[..., :1]
    refuses(
        lambda: progressive_loss(narrow, teacher, x, n, cosine),
        "A student of another shape must be refused: its error would be broadcast.",
    )


def check_diffusion_loss(diffusion_loss=progressive.diffusion_loss, seed: int = 0) -> None:
    """Times, noise and weight of the teacher's loss, from what the denoiser is asked."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(512, 3, generator=g, dtype=torch.float64)
    seen = {}
    denoiser = lambda z, t: seen.update(z=z, t=t) or 0.5 * z
    for weighting, power in (("constant", 0), ("snr+1", 1)):
        loss = diffusion_loss(denoiser, x, cosine, weighting, g)
        expected = (0.5 * seen["z"] - x).square().mean(1) / cosine(seen["t"])[1] ** (2 * power)
        close(
            loss, expected, "The weighted distance of x_hat to the clean data, mean per sample.", 1e-8, 1e-8
        )
    t = seen["t"]
    assert (t > 0).all() and (t <= 1).all(), "At t = 0 the weight is infinite: draw t from (0, 1]."
    check_noise((seen["z"] - cosine(t)[0][:, None] * x) / cosine(t)[1][:, None], x, torch.ones_like(t))
    assert t.min() < 0.05 and t.max() > 0.95 and abs(t.mean() - 0.5) < 0.1, "The teacher's times are uniform."


def check_halvings(halvings=progressive.halvings, seed: int = 0) -> None:
    """Powers of two of the end, and nothing else."""
    assert halvings(8) == [4, 2, 1], "8 -> [4, 2, 1]: without the start, with the end."
    assert halvings(1024, 4) == [512, 256, 128, 64, 32, 16, 8, 4]
    end = 1 + seed % 7
    assert halvings(end * 2**9, end) == [end * 2**k for k in range(8, -1, -1)], (
        "Halve until the end is reached."
    )
    assert halvings(8, 8) == [], "From 8 to 8 there is nothing to halve."
    for start, end in ((12, 1), (8, 3), (4, 8), (8, 0), (0, 1)):
        refuses(lambda: halvings(start, end), f"{start} steps cannot be halved down to {end}: refuse.")
