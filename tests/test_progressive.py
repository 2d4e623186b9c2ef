"""Progressive distillation: the checks on our code, on every mistake of the literature, golden numbers,
behaviour.

The numbers in brackets are those of the list of mistakes that people made or proposed. Not here: 39 (a
student sampled with another number of steps) is a warning, in test_samplers; 25 to 32 and 37, 40, 41, 43 to
45 stand with the function they are mistakes of; 42 (torch.split in a network that predicts x and eps) has no
function here.
"""

import contextlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from einops import rearrange

from minidistill import progressive
from minidistill.checks import progressive as checks
from minidistill.oracle import Gaussian
from minidistill.parameterization import convert
from minidistill.progressive import (
    Student,
    diffusion_loss,
    halvings,
    progressive_loss,
    quotient_target,
    two_step_target,
)
from minidistill.samplers import ddim, ddim_step, euler, heun, renoise
from minidistill.schedules import cosine, log_snr, mix, rectified_flow, time_grid

GOLDEN = json.loads((Path(__file__).parent / "golden" / "progressive.json").read_text())
CHECKS = [
    checks.check_two_step_target,
    checks.check_quotient_target,
    checks.check_weight,
    checks.check_progressive_loss,
    checks.check_diffusion_loss,
    checks.check_halvings,
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# wrong targets. Each returns the target from everything that the two teacher steps computed


def column(c, z):
    return rearrange(c, "b -> b" + " 1" * (z.ndim - 1))


def solve(z, z_s, t, s, schedule):
    """The x_hat of the step from t to s that ends at z_s, by determinants."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, z).to(z.dtype) for c in schedule(u)] for u in (t, s))
    return (sigma_t * z_s - sigma_s * z) / (alpha_s * sigma_t - alpha_t * sigma_s)


def target_with(
    formula=None, middle=lambda t, n: (t - 0.5 / n, t - 1 / n), second_t=None, second_z=None, no_grad=True
):
    """A target built like ours, with one thing changed."""

    def target(teacher, z, t, n, schedule):
        two_step_target(lambda z, t: z, z, t, n, schedule)  # refuses what ought to be refused
        with torch.set_grad_enabled(not no_grad):
            m, s = middle(t, n)
            x_1 = teacher(z, t)
            z_m = checks.step(x_1, z, t, m, schedule)
            x_2 = teacher(second_z(z, z_m) if second_z else z_m, second_t(t, m) if second_t else m)
            z_s = checks.step(x_2, z_m, m, s, schedule)
            if formula is None:
                return solve(z, z_s, t, s, schedule)
            # coefficients in the precision of t, as ours are
            alpha, sigma = ([column(c, z) for c in cs] for cs in zip(*(schedule(u) for u in (t, m, s))))
            found = formula(
                z=z,
                z_m=z_m,
                z_s=z_s,
                x_1=x_1,
                x_2=x_2,
                a=alpha,
                b=sigma,
                t=t,
                m=m,
                s=s,
                n=n,
                schedule=schedule,
            )
            return found.to(z.dtype)

    return target


def quotient(ratio=lambda a, b: b[2] / b[0], minus=(-1, -1), alpha_top=2):
    """(z_s - ratio z) / (alpha_s - ratio alpha_t), with one thing changed."""

    def formula(z, z_s, a, b, **_):
        r = ratio(a, b)
        return (z_s + minus[0] * r * z) / (a[alpha_top] + minus[1] * r * a[0])

    return formula


def blend(share):
    """share x_1 + (1 - share) x_2, the share from (alpha, sigma) at t, m, s."""
    return lambda x_1, x_2, a, b, **_: (lambda w: w * x_1 + (1 - w) * x_2)(share(a, b))


def blend_by_log_snr(x_1, x_2, a, b, **_):
    lam = [2 * (p / q.clamp(min=1e-6)).clamp(min=1e-6).log() for p, q in zip(a, b)]
    return ((lam[1] - lam[0]) * x_1 + (lam[2] - lam[1]) * x_2) / (lam[2] - lam[0])


def naive_blend_saved_at(index):
    """The convex form with rho_s = inf, rescued by a special case on the first interval, or not."""

    def formula(x_1, x_2, a, b, t, n, **_):
        rho = [p / q for p, q in zip(a, b)]
        found = ((rho[1] - rho[0]) * x_1 + (rho[2] - rho[1]) * x_2) / (rho[2] - rho[0])
        return torch.where(column((t * n).round(), x_1) == index, x_2, found)

    return formula


def same_eps_twice(z, x_1, a, b, z_m, m, s, schedule, t, **_):
    """The first step's eps_hat is kept for the second one: one long step."""
    eps = (z - a[0] * x_1) / b[0]
    x_2 = (z_m - b[1] * eps) / a[1]
    return solve(z, a[2] * x_2 + b[2] * eps, t, s, schedule)


def eps_rebuilt_from_z(z, x_2, a, b, t, s, schedule, **_):
    eps = (z - a[0] * x_2) / b[0]
    return solve(z, a[2] * x_2 + b[2] * eps, t, s, schedule)


TARGETS = {
    "1: x_2, the teacher's last answer": target_with(lambda x_2, **_: x_2),
    "2: x_1, the teacher's first answer": target_with(lambda x_1, **_: x_1),
    "3: the mean of x_1 and x_2": target_with(lambda x_1, x_2, **_: (x_1 + x_2) / 2),
    "4: m and s swapped": target_with(middle=lambda t, n: (t - 1 / n, t - 0.5 / n)),
    "5: two whole student steps": target_with(middle=lambda t, n: (t - 1 / n, (t - 2 / n).clamp(min=0))),
    "6: two quarter steps": target_with(middle=lambda t, n: (t - 0.25 / n, t - 0.5 / n)),
    "7: second answer asked at time t": target_with(second_t=lambda t, m: t),
    "8: second answer asked at z_t": target_with(second_z=lambda z, z_m: z),
    "9: second step's eps_hat rebuilt from z_t": target_with(eps_rebuilt_from_z),
    "10: the first eps_hat kept for both steps": target_with(same_eps_twice),
    "11: z_s itself": target_with(lambda z_s, **_: z_s),
    "12: sigma ratio inverted": target_with(quotient(ratio=lambda a, b: b[0] / b[2])),
    "13: plus in the denominator": target_with(quotient(minus=(-1, 1))),
    "14: plus in the numerator": target_with(quotient(minus=(1, -1))),
    "15: ratio of variances": target_with(quotient(ratio=lambda a, b: (b[2] / b[0]) ** 2)),
    "16: ratio of alphas": target_with(quotient(ratio=lambda a, b: a[2] / a[0])),
    "17: alpha_m in the denominator": target_with(quotient(alpha_top=1)),
    "18: only the second step inverted": target_with(lambda z_m, z_s, m, s, schedule, **_: solve(z_m, z_s, m, s, schedule)),
    "19: the target clipped": target_with(lambda z, z_s, t, s, schedule, **_: solve(z, z_s, t, s, schedule).clamp(-1, 1)),
    "20: special case at t = 1": target_with(
        lambda z, z_s, x_2, t, s, schedule, **_: torch.where(column(t, z) == 1, x_2, solve(z, z_s, t, s, schedule))
    ),
    "21: weighted by SNR, not by its root": target_with(
        blend(lambda a, b: ((a[1] / b[1]) ** 2 - (a[0] / b[0]) ** 2) * b[2] ** 2
              / (a[2] ** 2 - (a[0] / b[0] * b[2]) ** 2))
    ),
    "22: weighted by log SNR": target_with(blend_by_log_snr),
    "24: special case on t = 0 instead of t = 1 / n": target_with(naive_blend_saved_at(0)),
    "38: gradient reaches the teacher": target_with(no_grad=False),
    "43: times over the width": target_with(
        lambda z, z_s, a, b, **_: (z_s - (b[2] / b[0]).flatten() * z) / (a[2].flatten() - (b[2] / b[0] * a[0]).flatten())
    ),
    "D4: the quotient, in bfloat16": quotient_target,
    "i counted by cutting off": lambda teacher, z, t, n, schedule: two_step_target(
        teacher, z, ((t.double() * n).long().clamp(min=1) / n).to(t), n, schedule
    ),
    "gradients switched off for good": lambda *a: (torch.set_grad_enabled(False), two_step_target(*a))[1],
}  # fmt: skip


@pytest.mark.parametrize("mistake", TARGETS)
def test_wrong_target_is_caught(mistake, unchecked_shapes):
    with pytest.raises(AssertionError), torch.enable_grad():
        checks.check_two_step_target(TARGETS[mistake])


# wrong losses


def loss_with(
    index=lambda i, n: i,
    target=two_step_target,
    error=None,
    reduce=None,
    times=lambda t, n: t,
    noisy=lambda x, eps, t, n, schedule: mix(x, eps, t, schedule),
    checked=True,
):
    """The loss, with one thing changed."""

    def loss(student, teacher, x, n, schedule, weighting="snr+1", generator=None):
        progressive_loss(
            lambda z, t: z, lambda z, t: z, x[:1], n, schedule, weighting
        )  # refuses what ought to be
        i = index(torch.randint(1, n + 1, x.shape[:1], generator=generator), n)
        t = times(i.to(x.dtype) / n, n)
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        z = noisy(x, eps, t, n, schedule)
        wanted = target(teacher, z, t, n, schedule)
        found = student(z, t)
        if checked and found.shape != x.shape:
            raise ValueError("another shape")
        square = error(found, wanted, z, t, schedule) if error else (found - wanted).square()
        per_sample = square.flatten(1).mean(1)
        weighted = progressive.weight(weighting, log_snr(schedule, t)) * per_sample
        return reduce(per_sample, weighting, log_snr(schedule, t).exp()) if reduce else weighted

    return loss


def max_over_batch_means(per_sample, weighting, snr):
    if weighting != "truncated_snr":
        return progressive.weight(weighting, snr.log()) * per_sample
    by_x, by_eps = per_sample, snr * per_sample
    return by_x if by_x.mean() > by_eps.mean() else by_eps


def v_error_with_x_weight(per_sample, weighting, snr):
    extra = snr + 1 if weighting == "snr+1" else 1
    return extra * progressive.weight(weighting, snr.log()) * per_sample


def shared_teacher(teacher, z, t, n, schedule):
    """The teacher's two steps inside the graph."""
    return target_with(no_grad=False)(teacher, z, t, n, schedule)


LOSSES = {
    "23: i in 0..n-1, with 0 taken for 1": loss_with(index=lambda i, n: (i - 1).clamp(min=1)),
    "23: i never n": loss_with(index=lambda i, n: i.clamp(max=n - 1)),
    "P1: t clamped to 0.999": loss_with(times=lambda t, n: t.clamp(max=0.999), target=lambda f, z, t, n, schedule: (
        two_step_target(f, z, (t * n).round() / n, n, schedule))),
    "teacher and student on one grid": loss_with(
        target=lambda f, z, t, n, schedule: two_step_target(f, z, t, 2 * n, schedule)
    ),
    "1: x_2 as the target": loss_with(target=TARGETS["1: x_2, the teacher's last answer"]),
    "the data as the target": loss_with(error=lambda found, wanted, z, t, schedule: (found - z).square()),
    "34: max over batch means": loss_with(reduce=max_over_batch_means),
    "35: SNR + 1 multiplied onto the v error": loss_with(reduce=v_error_with_x_weight),
    "36: x_hat clipped inside the loss": loss_with(
        error=lambda found, wanted, z, t, schedule: (found.clamp(-1, 1) - wanted).square()
    ),
    "sum instead of mean": loss_with(error=lambda found, wanted, z, t, schedule: 4 * (found - wanted).square()),
    "38: gradient reaches the teacher": loss_with(target=shared_teacher),
    "38: student detached": loss_with(error=lambda found, wanted, z, t, schedule: (found.detach() - wanted).square()
                                      + 0 * found),
    "z mixed at s": loss_with(noisy=lambda x, eps, t, n, schedule: mix(x, eps, t - 1 / n, schedule)),
    "z with the variance for the standard deviation": loss_with(
        noisy=lambda x, eps, t, n, schedule: mix(x, eps * column(schedule(t)[1], x), t, schedule)
    ),
    "uniform noise": loss_with(noisy=lambda x, eps, t, n, schedule: mix(x, 12**0.5 * (torch.special.ndtr(eps) - 0.5), t, schedule)),
    "one noise for the batch": loss_with(noisy=lambda x, eps, t, n, schedule: mix(x, eps[:1].expand_as(x).clone(), t, schedule)),
    "the data ignored": loss_with(noisy=lambda x, eps, t, n, schedule: mix(0 * x, eps, t, schedule)),
    "the cosine schedule whatever is asked for": lambda student, teacher, x, n, schedule, weighting="snr+1", generator=None: (
        progressive_loss(student, teacher, x, n, cosine, weighting, generator)
    ),
    "1 / sigma^2 for SNR + 1 on any schedule": loss_with(
        reduce=lambda per_sample, weighting, snr: per_sample * (snr**0.5 + 1) ** 2 if weighting == "snr+1" else (
            progressive.weight(weighting, snr.log()) * per_sample)),
    "a student of another shape is broadcast": loss_with(checked=False),
    "the mean over the batch": lambda *a, **k: progressive_loss(*a, **k).mean(),
    "global randomness": lambda student, teacher, x, n, schedule, weighting="snr+1", generator=None: progressive_loss(
        student, teacher, x, n, schedule, weighting),
}  # fmt: skip


@pytest.mark.parametrize("mistake", LOSSES)
def test_wrong_loss_is_caught(mistake, unchecked_shapes):
    with pytest.raises(AssertionError):
        checks.check_progressive_loss(LOSSES[mistake])


OTHERS = {
    "33: truncated SNR as min(SNR, 1)": (
        checks.check_weight,
        lambda kind, l: l.exp().clamp(max=1) if kind == "truncated_snr" else progressive.weight(kind, l),
    ),
    "P6: min-SNR taken for truncated SNR": (
        checks.check_weight,
        lambda kind, l: progressive.weight("min_snr" if kind == "truncated_snr" else kind, l),
    ),
    "P6: SNR under the name SNR + 1": (
        checks.check_weight,
        lambda kind, l: progressive.weight("snr" if kind == "snr+1" else kind, l),
    ),
    "P8: min-SNR in v space": (
        checks.check_weight,
        lambda kind, l: progressive.weight(kind, l) / (l.exp() + 1 if kind == "min_snr" else 1),
    ),
    "log SNR without its exponential": (
        checks.check_weight,
        lambda kind, l: progressive.weight(kind, l.clamp(min=-50).exp()),
    ),
    "teacher trained on t = 0": (
        checks.check_diffusion_loss,
        lambda denoiser, x, schedule, weighting, generator: diffusion_loss(
            lambda z, t: denoiser(z, 0 * t), x, schedule, weighting, generator
        ),
    ),
    "teacher trained on eps": (
        checks.check_diffusion_loss,
        lambda denoiser, x, schedule, weighting, generator: diffusion_loss(
            denoiser, x, schedule, "snr" if weighting == "snr+1" else weighting, generator
        ),
    ),
    "halvings with the start": (checks.check_halvings, lambda start, end=1: [start, *halvings(start, end)]),
    "halvings without the end": (checks.check_halvings, lambda start, end=1: halvings(start, end)[:-1]),
    "halvings that floor odd counts": (
        checks.check_halvings,
        lambda start, end=1: [start >> k for k in range(1, start.bit_length()) if start >> k >= end],
    ),
    "the quotient with a ratio of variances": (
        checks.check_quotient_target,
        TARGETS["15: ratio of variances"],
    ),
}


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = OTHERS[mistake]
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_harness_is_not_what_is_caught(unchecked_shapes):
    """The right target, written the way the mistakes are, fails in bfloat16 only; the right loss passes."""
    with pytest.raises(AssertionError, match="bfloat16"):
        checks.check_two_step_target(target_with())
    checks.check_two_step_target(target_with(blend(
        lambda a, b: (a[1] / b[1] - a[0] / b[0]) * b[2] / (a[2] - a[0] / b[0] * b[2]))))  # fmt: skip
    checks.check_two_step_target(target_with(naive_blend_saved_at(1)))
    checks.check_progressive_loss(loss_with())


def test_weak_tests_miss_what_the_check_finds():
    """With one step, or on the first interval, the teacher's last answer is the right target: such a test is
    vacuous."""
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = TARGETS["1: x_2, the teacher's last answer"]
    for t, n in ((1.0, 1), (0.25, 4)):
        t = torch.full((8,), t, dtype=torch.float64)
        right = two_step_target(checks.teacher, z, t, n, cosine)
        torch.testing.assert_close(wrong(checks.teacher, z, t, n, cosine), right)


# numbers of an independent computation


@pytest.mark.parametrize(
    "case", GOLDEN["target_cosine_v_teacher_tanh_z_times_1_plus_t"], ids=lambda c: f"{c['t']}-{c['n']}"
)
@pytest.mark.parametrize("target", [two_step_target, quotient_target], ids=lambda f: f.__name__)
def test_golden_targets(case, target):
    def teacher(z, t):
        return convert(torch.tanh(z) * (1 + t[:, None]), z, t, cosine, "v", "x")

    z = torch.tensor([GOLDEN["z"]], dtype=torch.float64)
    t = torch.tensor([case["t"]], dtype=torch.float64)
    expected = torch.tensor([case["target"]], dtype=torch.float64)
    torch.testing.assert_close(target(teacher, z, t, case["n"], cosine), expected, atol=1e-8, rtol=1e-8)
    if "z_s" in case:
        landed = ddim_step(expected, z, t, t - 1 / case["n"], cosine)
        torch.testing.assert_close(landed, torch.tensor([case["z_s"]]).double(), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    "schedule, shares",
    [(cosine, [0, 0.351, 0.434, 0.480]), (rectified_flow, [0, 1 / 3, 0.4, 0.4286])],
    ids=["cosine", "flow"],
)
def test_shares_of_the_first_answer(schedule, shares):
    """How much of the target is x_1, at t = 1/4, ..., 1: a teacher that answers 1 first and then 0 shows
    it."""
    answers = iter([torch.ones(4, 1), torch.zeros(4, 1)])
    found = two_step_target(
        lambda z, t: next(answers), torch.randn(4, 1), torch.tensor([0.25, 0.5, 0.75, 1.0]), 4, schedule
    )
    torch.testing.assert_close(found.flatten(), torch.tensor(shares), atol=6e-4, rtol=0)


# behaviour


@pytest.mark.parametrize("n", [4, 64, 1024])
def test_the_convex_form_survives_bfloat16_and_the_quotient_does_not(n):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(500, 2, generator=g, dtype=torch.float64)
    i = torch.randint(1, n + 1, (500,), generator=g)
    exact = two_step_target(checks.teacher, z, i.double() / n, n, cosine)

    def error(target):
        found = target(checks.teacher, z.bfloat16(), i.float() / n, n, cosine).double()
        return (found - exact).square().mean().sqrt().item()

    assert error(two_step_target) < 1e-2
    assert not error(quotient_target) < 2 * error(two_step_target)  # nan at n = 1024


def test_any_grid_of_any_size_counts_its_times_exactly():
    for n in (1, 3, 7, 48, 1000):
        for dtype in (torch.float32, torch.float64):
            t = torch.arange(1, n + 1, dtype=dtype) / n
            z = torch.ones(n, 2, dtype=dtype)
            assert two_step_target(checks.teacher, z, t, n, rectified_flow).isfinite().all()
            assert progressive.grid_times(t, n)[2][0] == 0


def test_a_student_remembers_its_grid():
    student = Student(lambda z, t: 0.5 * z, steps=2)
    z = torch.ones(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ddim(student, z, time_grid(2), cosine)
    with pytest.warns(UserWarning, match=r"distilled for time_grid\(2\)"):
        ddim(student, z, time_grid(4), cosine)


def test_the_students_parameters_are_the_only_ones_that_learn():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = [p.clone() for p in teacher.parameters()]
    loss = progressive_loss(lambda z, t: student(z), lambda z, t: teacher(z), torch.randn(16, 2), 4, cosine)
    loss.mean().backward()
    assert all(p.grad is None for p in teacher.parameters()) and all(
        p.grad is not None for p in student.parameters()
    )
    assert all((p == q).all() for p, q in zip(teacher.parameters(), before))


def test_bad_input(unchecked_shapes):
    z = torch.randn(2, 3)
    for t, n, sentence in (
        (torch.tensor([0.5, 0.6]), 4, "got t = 0.6"),
        (torch.tensor([0.0, 1.0]), 4, "got t = 0"),
        (torch.tensor([1.25, 1.0]), 4, "got t = 1.25"),
        (torch.tensor([1.0, 1.0]), 0, "at least 1, the student's steps, got n = 0"),
        (torch.tensor([1.0]), 4, "one for each sample"),
        (torch.tensor([1, 1]), 4, "float tensor"),
    ):
        with pytest.raises(ValueError, match=sentence):
            two_step_target(checks.teacher, z, t, n, cosine)
    with pytest.raises(ValueError, match="at least 1, the student's steps, got n = 0"):
        progressive_loss(checks.teacher, checks.teacher, z, 0, cosine)
    with pytest.raises(ValueError, match="truncated_snr"):
        progressive_loss(checks.teacher, checks.teacher, z, 4, cosine, weighting="snr + 1")
    with pytest.raises(ValueError, match="never reaches"):
        halvings(12)


def test_a_student_says_which_sampler_it_is_for():
    """A perfect student of four steps, on its own grid: DDIM is right, and every other sampler is not."""
    thing = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 0.25])).double())
    teacher, z = (
        thing.denoiser(cosine),
        torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    student = Student(lambda z, t: two_step_target(teacher, z, t, 4, cosine), 4)
    expected = ddim(teacher, z, time_grid(8), cosine)
    torch.testing.assert_close(ddim(student, z, time_grid(4), cosine), expected, atol=1e-6, rtol=0)
    for sampler in (euler, heun, renoise):
        with (
            pytest.warns(UserWarning, match=f"distilled for ddim, not for {sampler.__name__}"),
            contextlib.suppress(ValueError),
        ):
            assert (sampler(student, z, time_grid(4), cosine) - expected).abs().max() > 0.1
    student = Student(
        thing.denoiser(rectified_flow), 4
    )  # there Euler is DDIM, and a warning would be an error
    torch.testing.assert_close(
        euler(student, z, time_grid(4), rectified_flow), ddim(student, z, time_grid(4), rectified_flow)
    )
