"""Checks of consistency models: identities and exact oracles, where training would show nothing.

Half of the mistakes that people make here lower the loss or leave it as it is: a missing stop-gradient, a
missing clamp, one noise level's target replaced by 0. So everything is compared with an answer that is known.
"""

import math

import torch
from torch import nn

from minidistill import consistency
from minidistill.checks import close, column, exact, refuses
from minidistill.checks.oracle import mixture
from minidistill.oracle import Gaussian
from minidistill.schedules import cosine, edm, karras_sigmas, rectified_flow


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """Unit Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A non-linear function that is nobody's consistency function."""
    return torch.tanh(z) * (1 + column(t, z).sin()) + 0.3 * torch.sin(3 * z)


def check_boundary(boundary=consistency.boundary, seed: int = 0) -> None:
    """Exact at t_min, EDM's own at t_min = 0, and shifted in two places only."""
    sd = 0.3 + torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    for dtype in (torch.float32, torch.float64):
        for t_min in (0.002, 0.5):
            for std in (sd, *torch.linspace(0.1, 2.0, 50).tolist()):
                skip, out, _ = boundary(torch.tensor([t_min], dtype=dtype), std, t_min)
                assert skip == 1 and out == 0, (
                    "f(z, t_min) = z to the last bit, for every data_std: c_skip = 1, c_out = 0. Is t - t_min"
                    " in both? number / tensor rounds twice; 1 / (1 + (... / data_std)^2) does not."
                )
    t = exact(0.0, 0.05, 0.5, 3.0, 80.0)
    skip, out, c_in = boundary(t, sd, 0.0)
    r = (t**2 + sd**2).sqrt()
    close(
        c_in, 1 / r, "c_in = 1 / sqrt(t^2 + data_std^2): the network sees unit variance. Is the root there?"
    )
    close(skip, sd**2 / r**2, "With t_min = 0, EDM's c_skip = data_std^2 / (t^2 + data_std^2).")
    close(out, t * sd / r, "With t_min = 0, EDM's c_out = t data_std / sqrt(t^2 + data_std^2).")
    close(skip**2 * r**2 + out**2, torch.full_like(t, sd**2), "Both parts together have the data's variance.")
    t, t_min = exact(0.5, 0.7, 2.0, 80.0), 0.5  # a large t_min, so that it shows
    skip, out, c_in = boundary(t, sd, t_min)
    r = (t**2 + sd**2).sqrt()
    close(skip, sd**2 / ((t - t_min) ** 2 + sd**2), "c_skip has t - t_min for t.")
    close(out, (t - t_min) * sd / r, "c_out has t - t_min in the numerator, and t in the denominator.")
    close(c_in, 1 / r, "The network's input is not shifted: c_in keeps t.")
    default = boundary(exact(1.0))
    close(default[0], exact(0.25 / (0.998**2 + 0.25)), "data_std = 0.5 and t_min = 0.002 unless given.")
    refuses(lambda: boundary(exact(0.001)), "t below t_min must be refused: c_skip would fall again.")
    refuses(lambda: boundary(exact(1.0), -0.5), "A negative data_std must be refused.")
    refuses(lambda: boundary(exact(1.0), 0.0), "data_std = 0 must be refused.")
    refuses(lambda: boundary(exact(1.0), 0.5, -0.1), "A negative t_min must be refused.")


def check_ode_step(ode_step=consistency.ode_step, seed: int = 0) -> None:
    """One step by hand, exact when the data point is known, third order (Heun) and second (Euler)."""
    x, eps = numbers(2, 4, 4, 4, 4, seed=seed)
    t, s = exact(0.9, 0.7, 0.5, 0.3), exact(0.5, 0.6, 0.1, 0.2)
    for schedule in (edm, rectified_flow, cosine):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, x) for c in schedule(u)] for u in (t, s))
        z = alpha_t * x + sigma_t * eps
        for solver in ("euler", "heun"):
            found = ode_step(lambda z, t: x, z, t, s, schedule, solver)
            hint = "Whoever knows the data point lands exactly on alpha_s x + sigma_s eps, with any solver."
            close(found, alpha_s * x + sigma_s * eps, hint)

    asked = []
    z = x + column(5 * t, x) * eps
    recorded = lambda z, t: asked.append((z, t)) or smooth(z, t)
    euler = ode_step(recorded, z, 5 * t, 5 * s, edm, "euler")
    slope = (z - smooth(z, 5 * t)) / column(5 * t, x)
    close(euler, z + column(5 * s - 5 * t, x) * slope, "Euler: z + (s - t) (z - D(z, t)) / t.")
    assert len(asked) == 1, "Euler asks the denoiser once."
    asked.clear()
    heun = ode_step(recorded, z, 5 * t, 5 * s, edm, "heun")
    assert len(asked) == 2, "Heun asks the denoiser twice."
    close(asked[1][0], euler, "Heun asks the second time where the Euler step has landed.")
    close(asked[1][1], 5 * s, "Heun asks the second time at time s.")
    second = (euler - smooth(euler, 5 * s)) / column(5 * s, x)
    hint = "Heun: the mean of the slopes (z - D) / t at both ends, times s - t, from z."
    close(heun, z + column(5 * s - 5 * t, x) * (slope + second) / 2, hint)

    mixed = exact(0.0, 2.0, 0.0, 1.0)
    not_at_zero = lambda z, t: smooth(z, t.log().exp())  # some networks take the logarithm of the time
    found = ode_step(not_at_zero, z, 5 * t, mixed, edm, "heun")
    hint = "A step to s = 0 lands on D(z, t): the second slope is 0 / 0 there, and only there."
    close(found[0], smooth(z, 5 * t)[0], hint)
    close(found[1], ode_step(smooth, z, 5 * t, mixed.clamp(min=1), edm, "heun")[1], hint)

    thing = mixture(2, 3, seed)
    z = 1.5 * numbers(300, 2, seed=seed)
    start = exact(1.0).expand(300)
    for solver, order in (("euler", 2), ("heun", 3)):
        errors = []
        for end in (0.98, 0.99):
            stop = exact(end).expand(300)
            gap = ode_step(thing.denoiser(edm), z, start, stop, edm, solver)
            gap = gap - thing.flow_map(z, start, stop, edm)
            errors.append(gap.square().mean().sqrt().item())
        measured = math.log2(errors[0] / errors[1])
        assert abs(measured - order) < 0.2, (
            f"Half the step must divide the error of one {solver} step by {2**order}, order {order}; "
            f"measured {measured:.2f}."
        )
    refuses(lambda: ode_step(smooth, x, t, s, edm, "Heun"), "An unknown solver must be refused.")
    refuses(
        lambda: ode_step(smooth, x, exact(1.0, 1.0, 1.0, 1.0), s, rectified_flow, "heun"),
        "Heun divides by alpha_t: pure noise must be refused.",
    )


def check_consistency_target(consistency_target=consistency.consistency_target, seed: int = 0) -> None:
    """Where z_s is, at which time f is asked, the clean end, and that no gradient is left."""
    x, eps = numbers(2, 4, 4, 4, 4, seed=seed)
    t, s = exact(80.0, 3.0, 0.9, 0.05), exact(60.0, 0.5, 0.8, 0.002)
    target = consistency_target(smooth, x, eps, t, s, edm)
    hint = "Consistency training: f at x + s eps, with the same eps as z_t = x + t eps, and at time s."
    close(target, smooth(x + column(s, x) * eps, s), hint)
    for schedule in (cosine, rectified_flow):
        u, v = exact(1.0, 0.8, 0.6, 0.3), exact(0.9, 0.5, 0.2, 0.1)
        alpha, sigma = (column(c, x) for c in schedule(v))
        close(
            consistency_target(smooth, x, eps, u, v, schedule),
            smooth(alpha * x + sigma * eps, v),
            "On every schedule z_s = alpha_s x + sigma_s eps.",
        )
    teacher = lambda z, t: 0.2 * z + torch.sin(z)
    z = x + column(t, x) * eps
    for solver in ("euler", "heun"):
        z_s = consistency.ode_step(teacher, z, t, s, edm, solver)
        close(
            consistency_target(smooth, x, eps, t, s, edm, teacher, solver),
            smooth(z_s, s),
            f"Distillation: f where one {solver} step of the teacher from z_t lands, not at x + s eps.",
        )

    # a teacher that knows its time, on every schedule, where some steps end at 0
    timed = lambda z, t: 0.2 * z + torch.sin(z) + column(t, z).cos()
    u, v = exact(0.9, 0.8, 0.6, 0.3), exact(0.8, 0.5, 0.0, 0.1)
    for schedule, late, soon in ((edm, t, s), (cosine, u, v), (rectified_flow, u, v)):
        alpha, sigma = (column(c, x) for c in schedule(late))
        for solver in ("euler", "heun"):
            z_s = consistency.ode_step(timed, alpha * x + sigma * eps, late, soon, schedule, solver)
            landed = torch.where(column(soon, x) > 0, smooth(z_s, soon), z_s)
            found = consistency_target(smooth, x, eps, late, soon, schedule, timed, solver)
            hint = "Where s = 0 the target is z_s, where the teacher's step lands: not x, and not f's answer."
            close(found[soon == 0], landed[soon == 0], hint)
            hint = f"The teacher steps on this schedule, from z_t, asked at t: one {solver} step."
            close(found, landed, hint)

    # the clean end: the target is z_s, and f, which may take log(0), is asked at another time or not used
    early = exact(0.0, 0.5, 0.0, 0.002)
    batches = []
    logarithmic = lambda z, t: batches.append(len(z)) or z * column(t.log(), z)
    target = consistency_target(logarithmic, x, eps, t, early, edm)
    assert target.isfinite().all(), (
        "Not finite: at s = 0 many networks take log(0). Their answer is not needed."
    )
    clean = early == 0
    close(
        target[clean], x[clean], "At s = 0 the target is the clean sample itself: not 0, and not f's answer."
    )
    z_s = x + column(early, x) * eps
    expected = z_s * column(early.log(), x)
    close(
        target[~clean], expected[~clean], "Where s > 0 the target is f(z_s, s), whatever its neighbours are."
    )
    assert batches == [4], "Ask f once, for the whole batch: a part of it would draw another dropout mask."
    target = consistency_target(logarithmic, x, eps, t, early, edm, teacher)
    close(target[clean], teacher(z, t)[clean], "With a teacher, a step to s = 0 lands on its x_hat.")

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = lambda z, t: weight * smooth(z, t)
    assert not consistency_target(learned, x, eps, t, s, edm).requires_grad, (
        "A target is a constant: stop the gradient. Without, the loss is lower and the model is worse."
    )
    assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    one = consistency_target(smooth, x[1:2], eps[1:2], t[1:2], s[1:2], edm)
    close(one, smooth(x + column(s, x) * eps, s)[1:2], "A target must not depend on its neighbours.")
    assert (
        consistency_target(smooth, x.float(), eps.float(), t.float(), s.float(), edm).dtype == torch.float32
    )

    # the mean of all the places where training looks is the exact Euler step of distillation
    thing = Gaussian(exact(0.3), exact(0.25)[:, None])
    z, t, s = exact(1.7)[:, None], exact(2.0), exact(1.2)
    nodes, weights = exact(-(3**0.5), 0.0, 3**0.5), exact(1, 4, 1) / 6  # exact up to fifth powers
    mean, std = thing.denoiser(edm)(z, t), (0.25 * 4 / 4.25) ** 0.5
    data = (mean + std * nodes[:, None]).reshape(3, 1)
    places = consistency_target(lambda z, t: z, data, (z - data) / 2, t.expand(3), s.expand(3), edm)
    euler = consistency.ode_step(thing.denoiser(edm), z, t, s, edm)
    close((weights[:, None] * places).sum(0, keepdim=True), euler, "E[x + s eps | z_t] is the Euler step.")

    late = t.expand(4)
    for t, s, what in (
        (late, late + 1, "s > t: s is the cleaner time; it"),
        (late, late, "s = t: there would be nothing to learn; it"),
        (late, -late, "A negative s"),
        (0 * late, -late, "t = 0"),
        (late[:1], late[:1] / 2, "One time for four samples"),
        (late, late[:1] / 2, "One s for four samples"),
        (late[:1], late / 2, "One t for four s"),
    ):
        refuses(lambda: consistency_target(smooth, x, eps, t, s, edm), f"{what} must be refused.")
    refuses(
        lambda: consistency_target(lambda z, t: z[:, :1], x, eps, late, late / 2, edm),
        "An f that returns another shape must be refused.",
    )
    refuses(
        lambda: consistency_target(smooth, x, eps[:1], late, late / 2, edm),
        "One noise for four samples must be refused: it would be broadcast.",
    )


def check_pseudo_huber(pseudo_huber=consistency.pseudo_huber, seed: int = 0) -> None:
    """Value, one norm per sample, the gradient and its reading as a weighted square."""
    try:
        close(pseudo_huber(exact(3.0, -4.0), 0.0), exact(3.0, 4.0), "Samples can be single numbers, (b,).")
    except IndexError as error:
        raise AssertionError("delta may be (b,): reshape(len(delta), -1), not flatten(1).") from error
    delta = numbers(4, 4, 4, 4, seed=seed) * column(exact(1e-3, 0.03, 1.0, 30.0), torch.zeros(4, 4, 4, 4))
    square = delta.square().sum((1, 2, 3))
    for c in (0.0, 0.03, 1.0):
        delta.requires_grad_()
        loss = pseudo_huber(delta, c)
        assert loss.shape == (4,), "A distance is one number per sample, (b,)."
        hint = (
            "sqrt(|delta|^2 + c^2) - c with the norm over the whole sample: sum over pixels, then the root."
        )
        close(loss.detach(), (square + c**2).sqrt() - c, hint)
        grad = torch.autograd.grad(loss.sum(), delta)[0]
        delta = delta.detach()
        length = column((square + c**2).sqrt(), delta)
        close(grad, delta / length, "The gradient is delta / sqrt(|delta|^2 + c^2): no detached part, no 2.")
    zero = torch.zeros(2, 3, requires_grad=True, dtype=torch.float64)
    for c in (0.0, 0.1):
        grad = torch.autograd.grad(pseudo_huber(zero, c).sum(), zero)[0]
        close(
            grad, 0 * zero.detach(), "At delta = 0 the gradient must be 0, not NaN: torch.linalg.vector_norm."
        )
    tiny = torch.full((1, 4), 1e-6)
    close(
        pseudo_huber(tiny, 0.03),
        torch.tensor([4e-12 / 0.06]),
        (
            "Too few digits in float32: the difference of two near-equal numbers. Multiply and "
            "divide by the sum of the two."
        ),
        0.0,
        1e-2,
    )
    refuses(lambda: pseudo_huber(delta, -0.1), "A negative c must be refused.")


def check_consistency_loss(consistency_loss=consistency.consistency_loss, seed: int = 0) -> None:
    """Value, gradient through one branch only, one dropout mask for both, zero at the truth."""
    x, eps = numbers(2, 4, 4, 4, 4, seed=seed)
    knob = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    f = lambda z, t: smooth(knob * z, t)
    t = exact(80.0, 3.0, 0.9, 0.05)
    z = x + column(t, x) * eps
    teacher = lambda z, t: 0.2 * z + torch.sin(z)
    for c in (0.0, 0.5):
        for s in (exact(60.0, 0.5, 0.8, 0.01), exact(60.0, 0.5, 0.8, 0.0)):
            for args in ((), (teacher, "euler"), (teacher, "heun")):
                loss = consistency_loss(f, x, eps, t, s, edm, c, *args)
                target = consistency.consistency_target(f, x, eps, t, s, edm, *args)
                assert loss.shape == (4,), (
                    "A loss returns one number per sample, (b,), not weighted, not averaged."
                )
                expected = consistency.pseudo_huber(f(z, t) - target, c)
                kind = f"{args[1]} distillation" if args else "training"
                hint = (
                    f"c = {c}, {kind}: the Pseudo-Huber distance of f at t to the target at s, one norm "
                    "over the sample; no weight, no square."
                )
                hint += " Where s = 0, the target is z_s itself." if (s == 0).any() else ""
                close(loss.detach(), expected.detach(), hint)
                assert loss.requires_grad, "The gradient must flow through f(z_t, t): detach the target only."
                grad, right = (torch.autograd.grad(v.sum(), knob)[0] for v in (loss, expected))
                hint = (
                    "The gradient must flow through f(z_t, t), and not through the target: stop-gradient on "
                    "the cleaner side. Without it the loss is lower and the model is worse."
                )
                close(grad, right, hint)

    timed = lambda z, t: 0.2 * z + torch.sin(z) + column(t, z).cos()
    u, v = exact(0.9, 0.8, 0.6, 0.3), exact(0.8, 0.5, 0.0, 0.1)
    tiny = exact(60.0, 0.5, 0.8, 1e-3)
    for schedule, late, soon in ((edm, t, tiny), (cosine, u, v), (rectified_flow, u, v)):
        loss = consistency_loss(f, x, eps, late, soon, schedule, 0.3, timed)
        target = consistency.consistency_target(f, x, eps, late, soon, schedule, timed)
        alpha, sigma = (column(c, x) for c in schedule(late))
        expected = consistency.pseudo_huber(f(alpha * x + sigma * eps, late) - target, 0.3)
        close(
            loss.detach(), expected.detach(), "On every schedule: z_t = alpha_t x + sigma_t eps, and f at t."
        )

    # dropout: both passes must drop the same units, and the next call others
    torch.manual_seed(seed)
    drop, seen = nn.Dropout(0.5), []

    def dropping(z, t):
        answer = drop(torch.ones_like(z))
        seen.append(answer)
        return answer

    for _ in range(2):
        mixed = exact(3.0, 0.5, 0.8, 0.01), exact(1.0, 0.0, 0.2, 0.0)
        consistency_loss(dropping, x, eps, *mixed, edm)
    assert len(seen) == 4 and all(a.shape == x.shape for a in seen), "f is asked twice, for the whole batch."
    hint = "Both passes need the same dropout mask: put torch's random state back before the second."
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]), hint
    assert not torch.equal(seen[0], seen[2]), (
        "The next call must draw another mask: do not fix the seed, put the state back for one pass only."
    )

    torch.manual_seed(seed)
    consistency_loss(lambda z, t: drop(z), x, eps, *mixed, edm)
    after = torch.rand(3)
    torch.manual_seed(seed)
    drop(x)
    assert torch.equal(after, torch.rand(3)), (
        "The global random state must move on by one pass: do not seed it, and do not put it back twice."
    )

    # the truth: zero for an exact step of the ODE, and above zero for training, whose z_s scatters
    thing = Gaussian(exact(0.1, -0.2), torch.diag(exact(0.25, 0.04)))
    x, eps = numbers(2, 50, 2, seed=seed + 1)
    t, s = torch.full((50,), 3.0).double(), torch.full((50,), 1.0).double()
    z = x + 3.0 * eps
    truth = lambda z, t: thing.flow_map(z, t, 0 * t, edm)
    z_s = thing.flow_map(z, t, s, edm)
    knows = lambda z, t: (3.0 * z_s - 1.0 * z) / 2.0  # the x_hat whose Euler step lands exactly
    loss = consistency_loss(truth, x, eps, t, s, edm, 0.0, knows)
    close(loss, 0 * loss, "The exact consistency function with an exact teacher step has no loss.", 1e-9)
    assert consistency_loss(truth, x, eps, t, s, edm).min() > 1e-4, (
        "In consistency training z_s is x + s eps, not the teacher's point: the loss of the truth is not 0."
    )
    refuses(lambda: consistency_loss(truth, x, eps, s, t, edm), "s > t must be refused.")
    refuses(lambda: consistency_loss(truth, x, eps, 0 * t, 0 * t, edm), "t = 0 must be refused.")
    refuses(lambda: consistency_loss(truth, x, eps, t, s, edm, -1.0), "A negative c must be refused.")
    refuses(
        lambda: consistency_loss(lambda z, t: z[:, :1], x, eps, t, s, edm),
        "An f that returns another shape must be refused: its error would be broadcast.",
    )


def check_ect_mapping(ect_mapping=consistency.ect_mapping, seed: int = 0) -> None:
    """Between 0 and t, exact limits, where it is clamped, and that only q^a matters."""
    g = torch.Generator().manual_seed(seed)
    t = torch.exp(-1.1 + 2 * torch.randn(200, generator=g, dtype=torch.float64)).sort().values
    for a, q in ((8, 2.0), (1, 2.0), (2, 2.0), (1, 256.0), (3, 4.0)):
        s = ect_mapping(t, a, q)
        assert (s >= 0).all(), (
            "s must never be below 0: clamp. Noise of negative level trains without a sign."
        )
        assert (s < t).all(), "s is the cleaner time: s < t."
        ratio = s / t
        assert (ratio.diff() >= -1e-12).all(), (
            "s / t must grow with t: n(t) = 1 + k sigmoid(-b t) falls. Is the sign of b t right? Do you "
            "return s, and not the gap t - s?"
        )
        n = 1 + 8 / (1 + t.exp())
        close(
            s, t * (1 - n / q**a).clamp(min=0), "s = t (1 - n(t) / q^a), with q^a at stage a, not q^(a + 1)."
        )
    a, q, k, b = 3, 1.7, 2.0 + seed % 3, 0.4
    n = 1 + k / (1 + (b * t).exp())
    close(ect_mapping(t, a, q, k, b), t * (1 - n / q**a).clamp(min=0), "k and b: n(t) = 1 + k sigmoid(-b t).")
    close(ect_mapping(t, 8), ect_mapping(t, 1, 256.0), "Only q^a matters.")
    at = exact(math.log(7), math.log(7) - 1e-6, math.log(5 / 3), 1e9)
    first = ect_mapping(at, 1)
    assert first[1] == 0 and first[0] < 1e-9, "At a = 1, q = 2, s is 0 up to t = ln 7."
    close(first[3], exact(5e8)[0], "Far out, s / t tends to 1 - 1 / q^a.")
    assert ect_mapping(at, 2)[2] < 1e-9, "At a = 2, s is 0 up to t = ln(5/3)."
    late = ect_mapping(t.float(), 8)
    assert late.dtype == torch.float32 and (1 / (t.float() - late)).isfinite().all(), (
        "1 / (t - s) must be finite in float32 at the last stage."
    )
    for bad, why in (
        (dict(a=0), "stages are counted from 1"),
        (dict(a=1, q=1.0), "q = 1 would never shrink the gap"),
        (dict(a=1, q=0.5), "q < 1 would widen the gap"),
        (dict(a=1, k=-1.0), "n(t) would be below 1"),
        (dict(a=1, b=-1.0), "n(t) would grow with t"),
    ):
        refuses(lambda: ect_mapping(t, **bad), f"{bad} must be refused: {why}.")


def check_ect_stage(ect_stage=consistency.ect_stage, seed: int = 0) -> None:
    """1 for the first steps, counted from 1, then one more after each `steps_per_stage`."""
    d = 3 + seed % 5
    stages = [ect_stage(step, d) for step in range(1, 3 * d + 1)]
    assert stages == [1] * d + [2] * d + [3] * d, "Stage 1 for steps 1 to d, stage 2 for d + 1 to 2 d, ..."
    refuses(lambda: ect_stage(0, d), "Steps are counted from 1: 0 must be refused.")
    refuses(lambda: ect_stage(1, 0), "A stage of 0 steps must be refused.")


def check_ect_weight(ect_weight=consistency.ect_weight, seed: int = 0) -> None:
    """The two weights of the released code."""
    t = 0.1 + numbers(6, seed=seed).abs()
    s = 0.7 * t
    close(ect_weight("gap", t, s), 1 / (t - s), '"gap" is 1 / (t - s), not t - s.')
    close(ect_weight("snr", t, s, 0.7), 1 / t**2 + 1 / 0.49, '"snr" is 1 / t^2 + 1 / data_std^2.')
    close(ect_weight("snr", t, s), 1 / t**2 + 4, "data_std is 0.5 unless given.")
    refuses(lambda: ect_weight("1/(t-s)", t, s), "An unknown weighting must be refused.")


def check_ect_loss(ect_loss=consistency.ect_loss, seed: int = 0) -> None:
    """The parts in their places, by hand, on every option."""
    x, eps = numbers(2, 4, 4, 4, 4, seed=seed)
    t = exact(0.05, 0.821, 3.0, 300.0)
    f = lambda z, t: smooth(z / 5, t)
    for a, options in (
        (1, {}),
        (4, {}),
        (4, dict(c=0.03)),
        (2, dict(q=4.0, c=0.06, weighting="snr")),
        (3, dict(k=4.0, b=0.5)),
        (2, dict(weighting="snr", data_std=0.7)),
    ):
        q, k, b, c = (options.get(n, d) for n, d in (("q", 2.0), ("k", 8.0), ("b", 1.0), ("c", 0.0)))
        s = (t * (1 - (1 + k / (1 + (b * t).exp())) / q**a)).clamp(min=0)
        target = torch.where(column(s, x) > 0, f(x + column(s, x) * eps, s), x)
        square = (f(x + column(t, x) * eps, t) - target).square().sum((1, 2, 3))
        w = 1 / (t - s)
        if options.get("weighting") == "snr":
            w = 1 / t**2 + 1 / options.get("data_std", 0.5) ** 2
        hint = (
            f"a = {a}, {options or 'defaults'}: the weight times the Pseudo-Huber distance between f at t "
            "and f at s = ect_mapping(t); where s = 0 the target is x."
        )
        close(ect_loss(f, x, eps, t, a, **options), w * ((square + c**2).sqrt() - c), hint, 1e-8, 1e-8)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(ect_loss(lambda z, t: weight * f(z, t), x, eps, t, 4).sum(), weight)[0]
    s = consistency.ect_mapping(t, 4)
    ours = consistency.consistency_loss(lambda z, t: weight * f(z, t), x, eps, t, s, edm) / (t - s)
    right = torch.autograd.grad(ours.sum(), weight)[0]
    close(found, right, "The gradient flows through the noisier side only.", 1e-8, 1e-8)
    logarithmic = lambda z, t: z * column(t.log(), z)
    assert ect_loss(logarithmic, x, eps, t, 1).isfinite().all(), (
        "Not finite: where s = 0 the target is x, and f's answer, perhaps log(0), may not be used."
    )
    torch.manual_seed(seed)
    drop, seen = nn.Dropout(0.5), []
    ect_loss(lambda z, t: seen.append(drop(torch.ones_like(z))) or seen[-1], x, eps, t, 4)
    assert len(seen) == 2 and torch.equal(*seen), "Both passes need the same dropout mask."
    assert ect_loss(f, x.float(), eps.float(), t.float(), 4).dtype == torch.float32, "float32 stays float32."
    refuses(lambda: ect_loss(f, x, eps, 0 * t, 4), "t = 0 must be refused.")
    refuses(lambda: ect_loss(f, x, eps, t, 0), "a = 0 must be refused.")
    refuses(lambda: ect_loss(f, x, eps, t, 4, c=-1.0), "A negative c must be refused.")
    refuses(lambda: ect_loss(f, x, eps, t[:1], 4), "One time for four samples must be refused.")


def check_lognormal_times(lognormal_times=consistency.lognormal_times, seed: int = 0) -> None:
    """The logarithm is Gaussian, natural, and decided by the generator."""
    draw = lambda *args, **more: lognormal_times(*args, generator=torch.Generator().manual_seed(seed), **more)
    t = draw(50_000)
    log_t = t.double().log()
    assert t.shape == (50_000,) and (t > 0).all(), "b positive times, (b,)."
    assert abs(log_t.mean() + 1.1) < 0.06 and abs(log_t.std() - 2) < 0.05, (
        f"log t ~ N(-1.1, 2^2), natural logarithm; found N({log_t.mean():.2f}, {log_t.std():.2f}^2)."
    )
    inside = ((log_t - log_t.mean()).abs() < log_t.std()).double().mean()
    assert abs(inside - 0.6827) < 0.01, "log t is not Gaussian."
    log_t = draw(50_000, -0.8, 1.6).double().log()
    assert abs(log_t.mean() + 0.8) < 0.05 and abs(log_t.std() - 1.6) < 0.04, (
        "mean and std are those of log t."
    )
    close(draw(5), draw(5), "The generator must decide all randomness.", 0.0, 0.0)


def check_ct_steps(ct_steps=consistency.ct_steps, seed: int = 0) -> None:
    """The table of the authors' code: grid points and EMA decay over 800 000 steps."""
    table = {
        0: (2, 0.81),
        1: (3, 0.9),
        1000: (6, 0.95873152),
        10_000: (17, 0.98691628),
        100_000: (54, 0.99603202),
        400_000: (107, 0.99801404),
        800_000: (151, 0.99859618),
    }
    for step, (n, mu) in table.items():
        found = ct_steps(step, 800_000)
        assert found[0] == n, f"At step {step} the grid has {n} points, got {found[0]}."
        assert abs(found[1] - mu) < 1e-8, f"At step {step}, mu = mu0^(s0 / (n - 1)) = {mu}, got {found[1]}."
    refuses(lambda: ct_steps(5, 4), "A step after the last must be refused.")
    refuses(lambda: ct_steps(-1, 4), "A negative step must be refused.")


def check_ict_steps(ict_steps=consistency.ict_steps, seed: int = 0) -> None:
    """Doubling every eighth of the training, from 11 to 1281 points."""
    total = 400_000
    for i, n in enumerate((11, 21, 41, 81, 161, 321, 641, 1281)):
        for step in (50_000 * i, 50_000 * i + 49_999):
            assert ict_steps(step, total) == n, (
                f"At step {step} of {total}: {n} points, got {ict_steps(step, total)}."
            )
    assert ict_steps(total, total) == 1281, "At the end, s1 + 1 points: no more doubling."
    assert [ict_steps(step, 1000, 3, 20) for step in (0, 277, 278, 556, 834)] == [4, 4, 7, 13, 21], (
        "Stages of floor(total / (log2(floor(s1 / s0)) + 1)) steps; s1 need not be s0 times a power of two."
    )
    assert ict_steps(3, 4) <= 1281, "Short trainings have a stage of at least one step."
    refuses(lambda: ict_steps(5, 4), "A step after the last must be refused.")
    refuses(lambda: ict_steps(0, 0), "A training of no steps must be refused.")
    refuses(lambda: ict_steps(0, 4, 20, 10), "s1 below s0 must be refused.")


def check_ict_time_pmf(ict_time_pmf=consistency.ict_time_pmf, seed: int = 0) -> None:
    """The lognormal's mass in each interval, normalised, whichever way the grid runs."""
    pmf = exact(
        0.062633, 0.181737, 0.245501, 0.213494, 0.142446, 0.080605, 0.041080, 0.019580, 0.008944, 0.003980
    )
    rising = karras_sigmas(11, dtype=torch.float64).flip(0)
    close(ict_time_pmf(rising).sum(), exact(1.0)[0], "The probabilities must sum to 1: normalise.", 1e-9)
    hint = "erf((log sigma - mean) / (sqrt(2) std)) at both ends, natural logarithm, then normalised."
    close(ict_time_pmf(rising), pmf, hint, 1e-6)
    close(
        ict_time_pmf(rising.flip(0)),
        pmf.flip(0),
        "A falling grid has its probabilities in its own order.",
        1e-6,
    )
    grid = exact(0.1, 0.5 + seed, 3.0 + seed)
    normal = torch.distributions.Normal(0.3, 1.2)
    mass = normal.cdf(grid.log()).diff()
    close(ict_time_pmf(grid, 0.3, 1.2), mass / mass.sum(), "mean and std are those of log sigma.", 1e-6)
    refuses(lambda: ict_time_pmf(exact(0.0, 1.0)), "A noise level of 0 has no logarithm: it must be refused.")
    refuses(lambda: ict_time_pmf(exact(1.0, 3.0, 2.0)), "A grid out of order must be refused.")
    refuses(lambda: ict_time_pmf(exact(1.0)), "One level has no interval: it must be refused.")


def check_draw_interval(draw_interval=consistency.draw_interval, seed: int = 0) -> None:
    """Neighbours on the grid, the noisier first, every interval, as often as the pmf says."""
    sigmas = karras_sigmas(6, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    for pmf in (None, exact(0.1, 0.2, 0.4, 0.2, 0.1)):
        t, s = draw_interval(sigmas, 20_000, pmf, g)
        assert t.shape == s.shape == (20_000,) and (t > s).all(), "t and s, each (b,), t the noisier."
        i = torch.searchsorted(-sigmas, -t)
        close(t, sigmas[i], "Times are points of the grid.")
        close(s, sigmas[i + 1], "s is the next point after t.")
        share = torch.bincount(i, minlength=5)[:5].double() / 20_000
        expected = exact(0.2, 0.2, 0.2, 0.2, 0.2) if pmf is None else pmf
        close(
            share, expected, "n points have n - 1 intervals, each drawn as often as the pmf says.", 0.02, 0.0
        )
    refuses(lambda: draw_interval(sigmas.flip(0), 4), "A rising grid must be refused.")
    refuses(lambda: draw_interval(sigmas, 4, exact(0.5, 0.5)), "A pmf of another length must be refused.")


def check_ict_c(ict_c=consistency.ict_c, seed: int = 0) -> None:
    """CIFAR-10 and ImageNet-64, from the dimension of one sample."""
    for side, c in ((32, 0.02993), (64, 0.05986)):
        found = ict_c(torch.zeros(2 + seed % 3, 3, side, side))
        assert abs(found - c) < 1e-5, (
            f"0.00054 sqrt(d), d numbers in one sample: {c} for 3 x {side} x {side}."
        )


def net(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth network that mixes its coordinates."""
    angle = column(t, z)
    return torch.sin(z + angle) + 0.5 * torch.tanh(z.flip(1) * (2 - angle))


def check_trigflow(trigflow=consistency.trigflow, seed: int = 0) -> None:
    """A circle of the data's radius, and EDM's on it."""
    t, sd = exact(0.0, 0.4, 1.0, math.pi / 2), 0.3 + 0.1 * (seed % 5)
    alpha, sigma = trigflow(sd)(t)
    hint = "z_t = cos t x + sin t data_std eps: the noise has the data's standard deviation."
    close(alpha, t.cos(), hint)
    close(sigma, sd * t.sin(), hint)
    close(sigma[:3] / alpha[:3], sd * t[:3].tan(), "t = atan(sigma / data_std) in EDM's sigma.")


def check_scm_tangent(scm_tangent=consistency.scm_tangent, seed: int = 0) -> None:
    """cos t times the derivative of f along the trajectory: forward mode and finite differences."""
    sd = 0.7
    z, slope = numbers(2, 5, 3, seed=seed)
    t = exact(0.1, 0.5, 0.9, 1.3, math.pi / 2)

    def f(z, t):
        return column(t, z).cos() * z - column(t, z).sin() * sd * net(z / sd, t)

    found = scm_tangent(net, z, t, slope, sd)
    rate = torch.func.jvp(f, (z, t), (slope, torch.ones_like(t)))[1]
    hint = "cos t df/dt, f = cos t z - sin t data_std F(z / data_std, t), dz/dt = slope. A sign? A cos t?"
    close(found, column(t, z).cos() * rate, hint, 1e-9)
    h = 1e-5
    difference = (f(z + h * slope, t + h) - f(z - h * slope, t - h)) / (2 * h)
    close(found, column(t, z).cos() * difference, hint, 1e-7)
    cold = scm_tangent(net, z, t, slope, sd, 0.0)
    first = -(column(t, z).cos() ** 2) * (sd * net(z / sd, t) - slope)
    close(cold, first, "warmup = 0 leaves -cos^2 t (data_std F - dz/dt).", 1e-9)
    half = scm_tangent(net, z, t, slope, sd, 0.5)
    close(half, (found + cold) / 2, "warmup weighs the terms with z and dF/dt.", 1e-9)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = scm_tangent(lambda z, t: weight * net(z, t), z, t, slope, sd)
    assert not learned.requires_grad, "The tangent is a constant of the loss."


def check_scm_loss(scm_loss=consistency.scm_loss, seed: int = 0) -> None:
    """Its gradient is -2 <g, dF>, and its value |g|^2, near 1 whatever the network is."""
    sd, c = 0.7, 0.1
    x, eps = sd * numbers(6, 3, seed=seed), numbers(6, 3, seed=seed + 1)
    t = exact(0.1, 0.4, 0.8, 1.1, 1.3, 1.5)
    cos, sin = column(t, x).cos(), column(t, x).sin()
    z = cos * x + sin * sd * eps
    teacher = lambda z, t: torch.tanh(z) * column(t, z)
    for given, slope in ((None, sd * cos * eps - sin * x), (teacher, sd * teacher(z / sd, t))):
        knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
        student = lambda z, t: knob * net(z, t)
        loss = scm_loss(student, x, eps, t, sd, given, c=c)
        assert loss.shape == (6,), "A loss returns one number per sample, (b,)."
        g = consistency.scm_tangent(student, z, t, slope, sd)
        g = g / (g.norm(dim=1, keepdim=True) + c)
        hint = (
            "|g|^2 / d for each sample, g = tangent / (|tangent| + c) with its own norm, not the batch's; "
            "dz/dt is data_std F_teacher, or data_std cos t eps - sin t x."
        )
        close(loss.detach(), g.square().mean(1), hint, 1e-9)
        found = torch.autograd.grad(loss.sum(), knob)[0]
        change = net(z / sd, t)  # dF / dknob
        close(found, (-2 * g * change).mean(1).sum(), "The gradient is -2 <g, dF>: F moves along g.", 1e-9)
