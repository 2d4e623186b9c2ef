"""Checks of consistency models: everything against the formula by hand, with each part at a value of its own.

Half of the mistakes that people make here lower the loss or leave it as it is: a missing stop-gradient, a
missing clamp, one noise level's target replaced by 0. So everything is compared with an answer that is known.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from minidistill import consistency
from minidistill.checks import (
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
from minidistill.schedules import cosine, edm, karras_sigmas, rectified_flow


def numbers(*shape: int, seed: int) -> Tensor:
    """Unit Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def peaked(*shape: int, seed: int) -> Tensor:
    """The same, with 1000 and -1000 in the first sample: a clip shows, and no other sample is drowned."""
    z = numbers(*shape, seed=seed)
    z.reshape(len(z), -1)[0, [0, -1]] = exact(1000.0, -1000.0)
    return z


def smooth(z: Tensor, t: Tensor) -> Tensor:
    """A non-linear function of z and t that is nobody's, and NaN at t = 0, as those that take log(t) are."""
    return z / 2 + 3 * torch.tanh(z) * (1 + column(t.log(), z).sin()) + 0.3 * torch.sin(3 * z)


def teacher(z: Tensor, t: Tensor) -> Tensor:
    """Another one."""
    return 0.2 * z + torch.sin(z) + column(t.log(), z).cos()


def cases(seed: int) -> Iterator[tuple]:
    """x, eps, t, s and a schedule.

    In the first all axes are as long as the batch, so that a wrong one shows, and no s is 0; then points, one
    image that is not square, and videos, with s = 0 in some places, and in all. Two schedules start at pure
    noise, alpha = 0.
    """
    for i, (shape, schedule, clean) in enumerate(
        (
            ((4, 4, 4, 4), edm, []),
            ((4, 3), cosine, [2]),
            ((4, 2, 3, 1, 2), rectified_flow, [0, 2]),
            ((1, 1, 2, 5), cosine, []),
            ((3, 2), edm, [0, 1, 2, 3]),
        )
    ):
        t, s = exact(1.0, 0.8, 0.6, 0.3), exact(0.8, 0.5, 0.4, 0.1)
        if schedule is edm:
            t, s = exact(80.0, 3.0, 0.9, 5e-4), exact(60.0, 0.5, 0.2, 1e-6)
        s[clean] = 0.0
        x, eps = peaked(*shape, seed=seed + i), numbers(*shape, seed=seed + i + 50)
        yield x, eps, t[-len(x) :], s[-len(x) :], schedule


def ways(t: Tensor, schedule, teacher: Callable = teacher) -> Iterator[tuple]:
    """Training, and distillation with both solvers: the last arguments, and a t from which each can start."""
    heun_from = t if schedule is edm else t.clamp(max=0.95)  # Heun divides by alpha
    yield from (((), t), ((teacher,), t), ((teacher, "heun"), heun_from))


def by_hand(f, x, eps, t, s, schedule, teacher=None, solver="euler") -> tuple[Tensor, Tensor, Tensor]:
    """z_t, z_s and the target."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, x) for c in schedule(u)] for u in (t, s))
    z, z_s = alpha_t * x + sigma_t * eps, alpha_s * x + sigma_s * eps
    if teacher is not None:
        z_s = consistency.ode_step(teacher, z, t, s, schedule, solver)
    return z, z_s, torch.where(column(s, x) > 0, f(z_s, torch.where(s > 0, s, t)), z_s)


def square(delta: Tensor) -> Tensor:
    """The squared norm of each sample."""
    return delta.reshape(len(delta), -1).square().sum(1)


def finite(found: Tensor, where: str) -> None:
    """AssertionError where some number is nan or infinite."""
    hint = f"nan or inf comes out: {where}."
    assert not isinstance(found, Tensor) or found.isfinite().all(), hint


def same_gradient(found: Tensor, right: Tensor, inputs: list[Tensor], what: str) -> None:
    """AssertionError unless both have the same gradient, or none, for each of the inputs."""
    lost = f"The gradient {what} is lost: detach nothing here."
    assert found.requires_grad, lost
    grad = lambda v: torch.autograd.grad(v.sum(), inputs, retain_graph=True, materialize_grads=True)
    for own, true in zip(grad(found), grad(right)):
        finite(own, f"the gradient {what}, perhaps of a root at 0")
        if not own.any():
            close(own, true, lost)
        hint = f"The gradient {what} is lost in some places: is something clamped, rounded or chosen there?"
        explained(
            own,
            true,
            f"The gradient {what} is wrong: is a part of it detached?",
            {hint: torch.where(own == 0, 0.0, true)},
        )


def learns(loss: Tensor, right: Tensor, leaky: Tensor, knob: Tensor) -> None:
    """AssertionError unless loss has the gradient of right, whose target is constant; leaky's is not."""
    hint = "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
    assert torch.is_grad_enabled(), hint
    hint = "Nothing learns: the gradient must flow through f(z_t, t). Detach the target only."
    assert loss.requires_grad, hint
    own, true, both = (torch.autograd.grad(v.sum(), knob, retain_graph=True)[0] for v in (loss, right, leaky))
    finite(own, "the gradient of the loss")
    likely = {
        "The gradient must flow through f(z_t, t), and not through the target: stop-gradient on the "
        "cleaner side. Without it the loss is lower and the model is worse.": both,
        "The gradient flows through the target alone: the stop-gradient is on the wrong side.": both - true,
        hint: 0 * true,
    }
    explained(own, true, "The gradient is that of the distance, through f(z_t, t) alone.", likely, 1e-8)


def right_already(loss: Callable, x: Tensor) -> None:
    """AssertionError unless loss(f) has gradient 0 where f knows x."""
    shift = torch.zeros_like(x).requires_grad_()
    found = loss(lambda z, t: x + shift)
    close(found, 0 * found, "An f that answers x at all times has no error.")
    grad = torch.autograd.grad(found.sum(), shift)[0]
    hint = "Where f is right already the gradient is 0, not NaN, for c = 0 too: pseudo_huber's is."
    close(grad, 0 * grad, hint)


def spoilt(name: str, good: Tensor, *bad: float) -> dict[str, Tensor]:
    """The good numbers with one bad one among them, or nan, and what is wrong with them."""
    say = lambda value, each: (
        f"{name} = {value:.6g} in one place, {[float(f'{v:.5g}') for v in each.tolist()]},"
    )
    return {say(value, each): each for value, each in one_bad(good, *bad)}


def refuse(call: Callable, inputs: dict[str, object], why: str = "") -> None:
    """AssertionError unless call(input) raises ValueError for each of the inputs."""
    for what, bad in inputs.items():
        refuses(lambda: call(bad), f"{what} must be refused{why}.")


class Dropping(nn.Module):
    """A network in training mode, with dropout. Keeps its masks."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, z, t):
        self.seen.append(torch.dropout(torch.ones_like(z), 0.5, self.training))
        return z * self.seen[-1]

    def as_it_was(self) -> bool:
        """Whether it is, and was always, in training mode."""
        return self.training and all((mask == 0).any() for mask in self.seen)


def one_mask(loss: Callable, seed: int) -> None:
    """AssertionError unless both passes of loss(f) drop the same units, and the next call others."""
    f = Dropping()
    torch.manual_seed(seed)
    loss(f)
    first = len(f.seen)
    loss(f)
    assert f.as_it_was(), "f.eval() drops nothing: leave f in the mode in which it is."
    hint = "Both passes need the same dropout mask: put torch's random state back before the second."
    for masks in (f.seen[:first], f.seen[first:]):
        assert all(torch.equal(masks[0], mask) for mask in masks), hint
    hint = "The next call must draw another mask: do not fix the seed, put the state back for one pass only."
    assert not torch.equal(f.seen[0], f.seen[-1]), hint


def others(z: Tensor) -> list[Tensor]:
    """z in other shapes, most of which broadcast with its own: fewer samples or numbers, or more."""
    axes = range(z.ndim)
    found = [*(z.narrow(k, 0, 1) for k in axes), *(torch.cat([z, z], k) for k in axes)]
    found += [z[: len(z) // 2], z[None], z[..., None]]
    return [other for other in found if other.shape != z.shape]


def misshapen(name: str, z: Tensor) -> dict[str, Tensor]:
    """z in other shapes, and what is wrong with them."""
    return {f"{name} of shape {tuple(o.shape)}, not {tuple(z.shape)},": o for o in others(z)}


def answers(who: str, z: Tensor) -> dict[str, Callable]:
    """Networks whose answer has another shape than their z, which has that of the given z."""
    at = lambda k: lambda z, t: others(z)[k]
    says = f"{who} that answers with shape"
    return {f"{says} {tuple(o.shape)}, not {tuple(z.shape)},": at(k) for k, o in enumerate(others(z))}


def seeded(draw: Callable, seed: int) -> None:
    """AssertionError unless the generator, and nothing else, decides what draw(generator) returns."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + 1)
    before = torch.get_rng_state()
    first, second = draw(g), draw(g)
    same = torch.equal
    assert same(torch.get_rng_state(), before), "The generator is not used: torch's own numbers move on."
    assert not same(first, second), "Two draws from one generator must differ: do not seed it again."
    assert same(draw(torch.Generator().manual_seed(seed)), first), "The generator must decide all randomness."
    assert not same(draw(None), draw(None)), "Without a generator two draws must differ, too."
    torch.set_rng_state(before)
    once = draw(None)
    torch.set_rng_state(before)
    assert same(draw(None), once), "Without a generator, torch.manual_seed must decide."


def apart(draw: Callable, seed: int) -> None:
    """AssertionError unless the mean of what draw(generator) returns, unit numbers, varies as it should."""
    g, n = torch.Generator().manual_seed(seed), 500
    many = torch.stack([draw(g).double() for _ in range(n)])
    spread = many.mean(1).var() * many.shape[1]
    hint = "Each is drawn by itself: yours know of each other (stratified, or in pairs of opposites?)."
    assert abs(spread - 1) < 6 * (2 / n) ** 0.5, hint


def check_boundary(boundary=consistency.boundary, seed: int = 0) -> None:
    """Shifted in two places only, EDM's own at t_min = 0, and exact to the last bit at t_min."""
    sd = 0.3 + torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    for args in ((sd, 0.5), (sd, 0.0), (2, 0.5), ()):  # a large t_min, so that it shows
        std, t_min = args or (0.5, 0.002)
        t = (t_min + exact(0.0, 1e-4, 0.05, 0.7, 3.0, 80.0)).requires_grad_()
        found = accepts(lambda: boundary(t, *args), f"t_min = {t_min}, with one t at t_min,")
        u, r, near = t - t_min, (t**2 + std**2).sqrt(), ((t - t_min) ** 2 + std**2).sqrt()
        skip, out, c_in = std**2 / near**2, u * std / r, 1 / r
        given = f"data_std = {std:.3g}, t_min = {t_min:g}{'' if args else ', as when nothing is given'}: "
        unused = t - 0.002
        likely = {
            "c_in without its root: 1 / sqrt(t^2 + data_std^2).": 1 / r**2,
            "c_in upside down: 1 / sqrt(t^2 + data_std^2).": r,
            "c_in is not shifted: it keeps t, since z has the noise t.": 1 / near,
            "data_std is not used.": (t**2 + 0.25) ** -0.5,
            "data_std is 0.5 unless given, not 1.": (t**2 + 1) ** -0.5,
            "The order is c_skip, c_out, c_in: this is c_out.": out,
            "The order is c_skip, c_out, c_in: this is c_skip.": skip,
        }
        hint = f"{given}c_in = 1 / sqrt(t^2 + data_std^2), for a network that sees unit variance."
        explained(found[2], c_in, hint, likely)
        default = {} if args else {"t_min is 0.002 unless given, not 0.": std**2 / r**2}
        likely = default | {
            "c_skip has t - t_min for t, or f(z, t_min) is not z.": std**2 / r**2,
            "c_skip is 1 at t_min alone, not close to it.": torch.where(u < 0.01, 1.0, skip),
            "c_skip has t - t_min for t, and t_min is not used.": std**2 / (unused**2 + std**2),
            "c_skip without squares: data_std^2 / ((t - t_min)^2 + data_std^2).": std / near,
            "c_skip upside down: data_std^2, not (t - t_min)^2, is on top.": u**2 / near**2,
            "The order is c_skip, c_out, c_in: c_out comes second.": out,
        }
        explained(found[0], skip, f"{given}c_skip = data_std^2 / ((t - t_min)^2 + data_std^2).", likely)
        likely = {
            "c_out without data_std: unit variance must become the data's.": u / r,
            "c_out has t - t_min on top, or f(z, t_min) is not z.": t * std / r,
            "c_out is 0 at t_min alone, not close to it.": torch.where(u < 0.01, 0.0, out),
            "c_out has t - t_min on top, and t_min is not used.": unused * std / r,
            "c_out keeps t below the line: only its numerator is shifted.": u * std / near,
            "c_out without its root: (t - t_min) data_std / sqrt(t^2 + data_std^2).": u * std / r**2,
            "The sign of c_out: F is added.": -out,
        }
        explained(found[1], out, f"{given}c_out = (t - t_min) data_std / sqrt(t^2 + data_std^2).", likely)
        for name, own, right in zip(("c_skip", "c_out", "c_in"), found, (skip, out, c_in)):
            same_gradient(own, right, [t], f"of {name} for t")

    for dtype, t_min in ((torch.float32, 0.5), (torch.float64, 0.002)):  # 0.5 is the same in both dtypes
        for std in (sd, *torch.linspace(0.1, 2.0, 40).tolist()):
            skip, out, _ = boundary(torch.tensor([t_min], dtype=dtype), std, t_min)
            assert skip == 1 and out == 0, (
                "c_skip must be 1 and c_out 0 to the last bit at t_min, for every data_std, and yours are "
                "only nearly so: number / tensor rounds twice, and 1 / (1 + (... / data_std)^2) does not."
            )
    t = exact(0.5, 0.7, 2.0, 80.0)
    for own, wide in zip(boundary(t.float(), sd, 0.5), boundary(t.float().double(), sd, 0.5)):
        close_in_float32(own, wide, "Each coefficient")
    refuse(lambda t: boundary(t, sd, 0.5), spoilt("t", t, 0.49999, 0.0), ", below t_min = 0.5")
    bad = {"A negative data_std": (-sd, 0.5), "data_std = 0": (0.0, 0.5), "A negative t_min": (sd, -0.1)}
    refuse(lambda args: boundary(t, *args), bad)


def check_ode_step(ode_step=consistency.ode_step, seed: int = 0) -> None:
    """One step by hand: where the denoiser is asked, where the step lands, and how it ends at s = 0."""
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    denoiser = lambda z, t: teacher(knob * z, t)
    back = *numbers(2, 2, 3, seed=seed), exact(0.3, 0.2), exact(0.8, 0.5), cosine
    for x, eps, late, s, schedule in (*cases(seed), back):
        for (_, *more), t in list(ways(late, schedule))[1:]:
            solver = more[0] if more else "euler"
            (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(c, x) for c in schedule(u)] for u in (t, s))
            z, noisy, asked = alpha_t * x + sigma_t * eps, s > 0, []
            call = lambda: ode_step(recorded(denoiser, asked), z, t, s, schedule, *more)
            what = f"A {solver} step from t = {t.tolist()} to s = {s.tolist()}"
            found = accepts(call, what)
            x_1 = denoiser(z, t)
            eps_1 = (z - alpha_t * x_1) / sigma_t
            euler = alpha_s * x_1 + sigma_s * eps_1
            calls = 1 if solver == "euler" else 2
            hint = "" if more else " Euler if not given."
            assert len(asked) == calls, f"{solver} asks the denoiser {calls} times, not {len(asked)}.{hint}"
            explained(asked[0][0], z, "The denoiser is asked at z first.")
            likely = {"The denoiser is asked at time t first, not at s: are the two swapped?": s}
            explained(asked[0][1], t, "The denoiser is asked at time t first.", likely)
            finite(found, f"{what} of {schedule.__name__}")
            edm_gap = column((s - t) / t, z)
            if solver == "euler":
                likely = {
                    "Mix the denoiser's answer with its noise at s: this is the answer.": x_1,
                    "The signal changes too: alpha_s times x_hat.": alpha_t * x_1 + sigma_s * eps_1,
                    "The noise changes too: sigma_s times eps_hat.": alpha_s * x_1 + sigma_t * eps_1,
                    "The step goes the wrong way.": 2 * z - euler,
                    "x_hat is clipped: a denoiser may answer any number.": alpha_s * x_1.clamp(-1, 1)
                    + sigma_s * (z - alpha_t * x_1.clamp(-1, 1)) / sigma_t,
                    "This is EDM's step: take the schedule that is given.": z + (z - x_1) * edm_gap,
                }
                explained(found, euler, "Euler: alpha_s x_hat + sigma_s eps_hat.", likely)
                same_gradient(found, euler, [knob], "through Euler's answer")
                continue
            close(asked[1][0][noisy], euler[noisy], "Heun asks again where the Euler step has landed.")
            close(asked[1][1][noisy], s[noisy], "Heun asks again at time s.")
            hint = "A step to s = 0 lands on D(z, t), as Euler's: only there the second slope is 0 / 0."
            close(found[~noisy], euler[~noisy], hint)
            x_2 = denoiser(euler, torch.where(noisy, s, t))
            eps_2 = (euler - alpha_s * x_2) / torch.where(sigma_s > 0, sigma_s, 1)
            move = lambda slope: alpha_s / alpha_t * (z - sigma_t * slope) + sigma_s * slope
            land = lambda slope: torch.where(sigma_s > 0, move(slope), euler)
            likely = {
                "Heun's second slope is not used.": euler,
                "Heun takes the mean of both slopes, not the last alone.": land(eps_2),
                "Heun takes the mean of both slopes, not their sum.": land(eps_1 + eps_2),
            }
            hint = "Heun: the mean of eps_hat at both ends, in the plane (sigma / alpha, z / alpha), from z."
            right = land((eps_1 + eps_2) / 2)
            explained(found, right, hint, likely)
            same_gradient(found, right, [knob], "through Heun's answers")

    z, t, s = numbers(4, 3, seed=seed), exact(0.9, 0.7, 0.5, 0.3), exact(0.5, 0.0, 0.4, 0.2)
    for solver in ("euler", "heun"):
        found = ode_step(recorded(teacher, []), z.float(), t, s, cosine, solver)
        wide = ode_step(teacher, z.float().double(), t, s, cosine, solver)
        close_in_float32(found, wide, f"The {solver} step")
        refuse(lambda f: ode_step(f, z, t, s, cosine, solver), answers("A denoiser", z))
        bad = spoilt("t", t, 0.0, *[1.0] * (solver == "heun"))
        refuse(lambda t: ode_step(teacher, z, t, s, cosine, solver), bad, f" by {solver}: it divides by 0")
    for what, other in answers("A denoiser", z).items():
        later = lambda z, u: (teacher if torch.equal(u, t) else other)(z, u)
        refuses(lambda: ode_step(later, z, t, s, cosine, "heun"), f"{what} at s must be refused by heun.")
    bad = {"The solver 'Heun'": "Heun", "The solver 'rk4'": "rk4", "The solver None": None}
    refuse(lambda solver: ode_step(teacher, z, t, s, cosine, solver), bad)


@torch.enable_grad()
def check_consistency_target(consistency_target=consistency.consistency_target, seed: int = 0) -> None:
    """Where the teacher and f are asked, the target at s = 0 and elsewhere, and that no gradient is left."""
    for x, eps, late, s, schedule in cases(seed):
        for more, t in ways(late, schedule):
            asked, taught, noisy = [], [], s > 0
            args = (x, eps, t, s, schedule, *(more and (recorded(teacher, taught), *more[1:])))
            copies = [u.clone() for u in args[:4]]
            call = lambda: consistency_target(recorded(smooth, asked), *args)
            found = accepts(call, f"x of shape {tuple(x.shape)}, t = {t.tolist()}, s = {s.tolist()}")
            hint = "x, eps, t and s must stay as they are: change no input in place."
            assert all(torch.equal(u, copy) for u, copy in zip(args, copies)), hint
            z, z_s, right = by_hand(smooth, x, eps, t, s, schedule, *more)
            trained = by_hand(smooth, x, eps, t, s, schedule)[1]
            hint = "Ask f with the whole batch: a part of it would draw another dropout mask."
            assert all(len(z) == len(x) for z, _ in asked), hint
            hint = " Is it asked where the teacher is meant?" if more and len(asked) > 1 else ""
            hint += " Also where s = 0 everywhere." if not noisy.any() else ""
            assert len(asked) == 1, f"f is asked once, at z_s, not {len(asked)} times.{hint}"
            if more:
                solver, calls = ("heun", 2) if more[1:] else ("euler", 1)
                assert taught, "The teacher is never asked: in distillation z_s is where its step lands."
                likely = {
                    "The teacher's step starts from z_t, not from x + s eps.": trained,
                    "The teacher's step starts from z_t, not from x.": x,
                }
                hint = "The teacher's step starts from z_t = alpha_t x + sigma_t eps."
                explained(taught[0][0], z, hint, likely)
                hint = "The teacher's step starts at time t: it is asked there first."
                likely = {"The teacher's step starts at time t, not at s: are the two swapped?": s}
                explained(taught[0][1], t, hint, likely)
                hint = "is solver handed on?" if more[1:] else "the solver is Euler's if not given."
                hint = f"{solver} asks the teacher {calls} times, not {len(taught)}: {hint}"
                assert len(taught) == calls, hint
                hint = f"Distillation: z_s is where one {solver} step of the teacher from z_t lands."
            else:
                hint = "Training: z_s = alpha_s x + sigma_s eps, with x's own eps, the same as in z_t."
            likely = {
                "f is asked at z_t: the target is its answer at the cleaner z_s.": z,
                "f is asked at x + sigma_s eps, where the teacher's step does not land.": trained,
                "f is asked at x: z_s = alpha_s x + sigma_s eps has noise.": x,
                "x + s eps is z_s on EDM's schedule: take the one that is given.": x + column(s, x) * eps,
            }
            explained(asked[0][0][noisy], z_s[noisy], hint, {k: v[noisy] for k, v in likely.items()})
            likely = {"f is asked at time t: its time is that of z_s, s.": t[noisy]}
            explained(asked[0][1][noisy], s[noisy], "f is asked at time s, as it is.", likely)
            assert found.isfinite().all(), (
                "Not finite: f may be NaN at time 0, and its answer is not needed where s = 0. Give it "
                "another time there, and choose with torch.where: 0 times NaN is NaN."
            )
            likely = {
                "0 at s = 0, from nan_to_num perhaps: the target is z_s itself there.": 0 * x,
                "At s = 0 the target is z_s itself, not f's answer.": smooth(z_s, t),
                "At s = 0 the target is z_s itself, where the teacher's step lands: not x.": x,
                "At s = 0 the target is z_s itself, not z_t.": z,
            }
            likely = {k: v[~noisy] for k, v in likely.items()}
            explained(found[~noisy], z_s[~noisy], "At s = 0 the target is z_s itself.", likely)
            likely = {"z_s itself is the target only where s = 0; elsewhere it is f's answer there.": z_s}
            explained(found, right, "Where s > 0 the target is f's answer at z_s, as it is.", likely)

    x, eps = numbers(2, 4, 2, 1, 3, seed=seed)
    t, s, asked = exact(2.0, 0.9, 1.5, 0.4), exact(1.0, 0.0, 0.5, 0.3), []
    for u in (torch.where(s > 0, 1e-12, s), s):
        found = consistency_target(recorded(smooth, asked), x, eps, t, u, edm)
        hint = f"s = {u.tolist()}: f is asked at time s, however small it is. Only s = 0 has another time."
        explained(asked[-1][1][s > 0] / u[s > 0], exact(1.0, 1.0, 1.0), hint)
        hint = f"s = {u.tolist()}: however small s is, only where it is 0 the target is z_s itself."
        close(found, by_hand(smooth, x, eps, t, u, edm)[2], hint)
    stored, f = smooth(x, t), Dropping()
    kept = stored.clone()
    consistency_target(lambda z, t: stored, x, eps, t, s, edm)
    assert torch.equal(stored, kept), "What f returns must stay as it is: write into a new tensor."
    for _ in range(2):
        consistency_target(f, x, eps, t, s, edm)
    assert f.as_it_was(), "f.eval() drops nothing: leave f in the mode in which it is."
    hint = "Each call draws another dropout mask: leave torch's random state to f, without a seed."
    assert not torch.equal(*f.seen), hint
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    learned = lambda z, t: smooth(knob * z, t)
    for (given, *solver), _ in (((None,), t), *list(ways(t, edm))[1:]):
        call = lambda f, x, eps, given: consistency_target(f, x, eps, t, s, edm, given, *solver)
        found = call(learned, knob * x, eps, given and learned)
        assert not found.requires_grad, (
            "A target is a constant: stop the gradient. Without, the loss is lower and the model is worse."
        )
        hint = "No loss can use a tensor of torch.inference_mode(): use torch.no_grad()."
        assert not found.is_inference(), hint
        assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
        with torch.no_grad():
            call(learned, x, eps, given and learned)
            hint = "Gradients were off, and you switch them on: use torch.no_grad()."
            assert not torch.is_grad_enabled(), hint
        found = call(recorded(smooth, []), x.float(), eps.float(), given and recorded(given, []))
        wide = by_hand(smooth, x.float().double(), eps.float().double(), t, s, edm, given, *solver)[2]
        close_in_float32(found, wide, "The target")
        target = lambda f=smooth, x=x, eps=eps, t=t, s=s: consistency_target(
            f, x, eps, t, s, edm, given, *solver
        )
        how = " with a teacher" if given else ""
        why = f"{how}, at t = {t.tolist()}: it needs 0 <= s < t"
        refuse(lambda s: target(s=s), spoilt("s", s, 1.5, 1.6, -0.1), why)
        why = f"{how}, at s = {s.tolist()}: it needs 0 <= s < t"
        refuse(lambda t: target(t=t), spoilt("t", t, 0.5, 0.4), why)
        refuse(lambda eps: target(eps=eps), misshapen("eps", eps), how)
        refuse(lambda x: target(x=x), misshapen("x", x), f"{how} and eps {tuple(eps.shape)}")
        refuse(lambda f: target(f=f), answers("An f", x), f"{how}: it would be broadcast")
        hint = "Gradients stay off after a ValueError: use torch.no_grad(), which ends with its block."
        assert torch.is_grad_enabled(), hint


def check_pseudo_huber(pseudo_huber=consistency.pseudo_huber, seed: int = 0) -> None:
    """One norm per sample, whatever the axes are; its gradient, at 0 as well; digits in float32."""
    drawn = 0.2 + torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    for i, shape in enumerate(((4, 4, 4, 4), (4, 3), (4, 2, 1, 5), (4, 2, 3, 2, 1), (1, 6), (4,))):
        delta = numbers(*shape, seed=seed + i)
        delta = delta * column(exact(1e-6, 0.03, 1.0, 1000.0)[-shape[0] :], delta)
        delta.requires_grad_()
        for c in (0.03, 0.0, 1, drawn, 1.7e-5):
            try:
                found = pseudo_huber(delta, c)
            except IndexError as error:
                hint = f"delta may have any axes after the first, and here has shape {shape}: "
                raise AssertionError(
                    f"{hint}reshape(len(delta), -1), not flatten(1) or dim=(1, 2, 3)."
                ) from error
            assert isinstance(found, Tensor) and found.shape == shape[:1], (
                f"One number per sample, {shape[:1]} for a delta {shape}: sum over all axes but the first."
            )
            finite(found, f"c = {c}, delta of shape {shape}")
            flat, u = delta.reshape(len(delta), -1), square(delta)
            rows = flat.reshape(len(delta), -1, shape[-1] if len(shape) > 1 else 1).square().sum(2)
            huber = lambda u, c=c: (u + c**2).sqrt() - c
            likely = {
                "c must be subtracted after the root, so that no error has distance 0.": huber(u) + c,
                "The root is missing: this is the square.": u,
                "The root is missing: sqrt(|delta|^2 + c^2) - c.": u + c**2 - c,
                "|delta|^2 / sqrt(|delta|^2 + c^2) is the weighted square.": u / (u + c**2).sqrt(),
                "Half too much: no factor 1/2.": huber(u) / 2,
                "Twice too much: no factor 2.": 2 * huber(u),
                "c^2 is under the root, not c.": (u + c).sqrt() - c,
                **({"c is not used: sqrt(|delta|^2 + c^2) - c.": u.sqrt()} if c > 0.01 else {}),
                "A mean of squares is under the root: the norm has their sum.": huber(u / flat.shape[1]),
                "One root for the whole sample, not one per number: sum first.": huber(flat**2).sum(1),
                "One root for the whole sample, not a mean of one per number.": huber(flat**2).mean(1),
                "One root for the whole sample, not one per row: sum first.": huber(rows).sum(1),
                "One root for the whole sample, not a mean of one per row.": huber(rows).mean(1),
                "c is that of the call, no constant.": huber(u, 0.03),
                "Each sample has its own norm: this is the batch's.": huber(u.sum() + 0 * u),
                "Each sample has its own norm: this is the batch's mean.": huber(u.mean() + 0 * u),
                "Each sample has its own norm: this is the batch's, of a mean.": huber(
                    (flat**2).mean() + 0 * u
                ),
                "c may be small: it is not 0 below some number.": huber(u, 0.0),
                "c is rounded: it may have any digits.": huber(u, round(c, 4)),
                "A small delta has a small distance, and not 0.": torch.where(u < 1e-6, 0.0, huber(u)),
                "delta is clipped at 100.": huber((flat.clamp(-100, 100) ** 2).sum(1)),
                "Absolute values have another norm: squares, then the root.": huber(flat.abs().sum(1) ** 2),
            }
            for tiny in (1e-6, 1e-8, 1e-10, 1e-12):
                says = f"{tiny} is added: with c = 0 the distance is the norm itself."
                likely |= {says: huber(u + tiny), f"{says} Of every size.": huber(u, max(c, tiny))}
            hint = f"c = {c}: sqrt(|delta|^2 + c^2) - c, |delta| the norm of the sample."
            explained(found, huber(u), hint, likely)
            grad_hint = "The gradient must reach delta: nothing may be detached."
            assert found.requires_grad, grad_hint
            grad = torch.autograd.grad(found.sum(), delta, materialize_grads=True)[0]
            finite(grad, f"the gradient, c = {c}")
            right = delta.detach() / column((u + c**2).sqrt().detach(), delta)
            likely = {
                "Twice the gradient: a weight belongs to |delta|^2 / 2, not to |delta|^2.": 2 * right,
                "Half the gradient.": right / 2,
                grad_hint: 0 * right,
            }
            hint = "The gradient is delta / sqrt(|delta|^2 + c^2): no detached part."
            explained(grad, right, hint, likely, 1e-6)

    ratio = pseudo_huber(exact(1e-12, 1.0)[:, None], 0.0) / exact(1e-12, 1.0)
    hint = "With c = 0 the distance of a small delta is its norm: nothing may be added under the root."
    close(ratio, exact(1.0, 1.0), hint, 1e-6)
    zero = (exact(0.0, 1.0)[:, None] * torch.ones(3)).requires_grad_()
    for c in (0.0, 0.1):
        grad = torch.autograd.grad(pseudo_huber(zero, c).sum(), zero)[0]
        hint = "At delta = 0 the gradient must be 0, not NaN, for c = 0 too: torch.linalg.vector_norm has it."
        close(grad[0], exact(0.0, 0.0, 0.0), hint)
    for c, tiny in ((0.03, 1e-6), (1.0, 1e-4), (100.0, 1e-2), (0.03, 1e-9), (1.0, 1e-9)):
        hint = (
            "Too few digits in float32: the difference of two near-equal numbers. Multiply and divide by the "
            "sum of the two."
        )
        hint = hint if tiny > 1e-9 else "A small delta has a small distance, |delta|^2 / (2 c), and not 0."
        found = pseudo_huber(torch.full((1, 4), tiny), c)
        close(found, torch.tensor([4 * tiny**2 / (2 * c)]), hint, 0.0, 1e-2)
    for c in (0.03, 1.0, 100.0):
        norm = c * exact(0.05, 5e-3, 5e-4)
        right = norm**2 / ((norm**2 + c**2).sqrt() + c)
        hint = (
            f"c = {c}: delta of {norm.tolist()} has the distance of the formula, not of the square below c."
        )
        close(pseudo_huber(norm[:, None], c) / right, exact(1.0, 1.0, 1.0), hint, 1e-8, 0.0)
    delta = (numbers(4, 3, seed=seed) * exact(1e-3, 0.03, 1.0, 30.0)[:, None]).float()
    for c in (0.0, 0.03):
        close_in_float32(pseudo_huber(delta, c), (square(delta.double()) + c**2).sqrt() - c, "The distance")
    refuse(lambda c: pseudo_huber(delta, c), {"c = -0.1": -0.1, "c = -1e-6": -1e-6})


@torch.enable_grad()
def check_consistency_loss(consistency_loss=consistency.consistency_loss, seed: int = 0) -> None:
    """Both places where f is asked, the distance, the gradient through one, one dropout mask for both."""
    knob = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    f = lambda z, t: smooth(knob * z, t)
    knows = lambda z, t: teacher(knob * z, t)
    for i, (x, eps, late, s, schedule) in enumerate(cases(seed)):
        for c, (more, t) in zip(
            ((0.5,), (0.2,), (0.0,)) if i % 2 else ((), (0.5,), (0.2,)), ways(late, schedule, knows)
        ):
            asked, taught, noisy = [], [], s > 0
            x.requires_grad_()
            args = (x, eps, t, s, schedule, *c, *(more and (recorded(knows, taught), *more[1:])))
            call = lambda: consistency_loss(recorded(f, asked), *args)
            loss = accepts(call, f"x of shape {tuple(x.shape)}, t = {t.tolist()}, s = {s.tolist()}")
            z, z_s, target = by_hand(f, x, eps, t, s, schedule, *more)
            trained, (c,) = by_hand(f, x, eps, t, s, schedule)[1], c or (0.0,)
            hint = "f is asked twice, each time with the whole batch: at z_t, and by the target at z_s."
            assert [len(z) for z, _ in asked] == [len(x)] * 2, hint
            nearest = min(asked, key=lambda ask: (ask[0] - z).abs().max())
            explained(nearest[0], z, "f is never asked at z_t = alpha_t x + sigma_t eps.")
            explained(nearest[1], t, "f is asked at z_t with another time: it is t.")
            at_s = [alike(u[noisy], z_s[noisy], 1e-9) and alike(w[noisy], s[noisy], 1e-9) for u, w in asked]
            hint = "z_s = alpha_s x + sigma_s eps, of the schedule that is given and with the eps of z_t."
            if more:
                solver = "the solver, heun" if more[1:] else "no solver, which is Euler's then"
                if any(alike(u[noisy], trained[noisy]) for u, _ in asked):
                    solver = "not x + s eps in its place"
                hint = f"z_s is where a step of the teacher lands: hand on the teacher, and {solver}."
            assert any(at_s), f"f is never asked at z_s and time s. {hint}"
            hint = f"The teacher is asked {len(more)} times, not {len(taught)}: is its solver handed on?"
            assert len(taught) == len(more), hint
            hint = "A loss returns one number per sample, (b,), not averaged."
            assert isinstance(loss, Tensor) and loss.shape == x.shape[:1], hint

            finite(loss, f"c = {c}, s = {s.tolist()}")
            delta = f(z, t) - target.detach()
            huber = lambda u, c=c: (u + c**2).sqrt() - c
            right, leaky = huber(square(delta)), huber(square(f(z, t) - target))
            each = huber(delta.reshape(len(x), -1) ** 2)
            answer = f(z_s, torch.where(noisy, s, t))
            likely = {
                "No weight: 1 / (t - s) is the caller's.": right / (t - s),
                "Pseudo-Huber is no square.": square(delta),
                "Pseudo-Huber is no mean square.": square(delta) / x[0].numel(),
                "c is not used: hand it to pseudo_huber.": huber(square(delta), 0.0),
                "c is 0 unless given." if not c else "c is that of the call.": huber(square(delta), 0.03),
                "c must be subtracted after the root.": right + c,
                "f's error is clipped: it may have any size.": huber(square(delta.clamp(-10, 10))),
                f"The loss is capped at {loss.max():.3g}.": right.clamp(max=loss.max()),
                "The target is f's answer at z_s where s > 0, not x.": huber(square(f(z, t) - x)),
                "One norm over the whole sample, not one distance per number.": each.sum(1),
                "One norm over the whole sample, not a mean over its numbers.": each.mean(1),
                "Where s = 0, the target is z_s itself, not f's answer.": huber(square(f(z, t) - answer)),
            }
            hint = f"c = {c}: the Pseudo-Huber distance of f at t to the target at s, and no weight."
            explained(loss.detach(), right, hint, likely)
            learns(loss, right, leaky, knob)
            same_gradient(loss, right, [x], "for x, which is part of z_t,")

    x, eps = numbers(2, 4, 3, 2, 4, seed=seed)
    t, s = exact(3.0, 0.5, 0.8, 0.4), exact(1.0, 0.0, 0.2, 0.0)
    for more in ((), (0.3,), (0.0, teacher), (0.3, teacher, "heun")):
        loss = lambda f: consistency_loss(f, x, eps, t, s, edm, *more)
        one_mask(loss, seed)
        torch.manual_seed(seed)
        loss(Dropping())
        after = torch.rand(3)
        torch.manual_seed(seed)
        Dropping()(x, None)
        hint = (
            "Each call moves torch's random state on by one pass of f: do not seed it, nor put it back twice."
        )
        assert torch.equal(after, torch.rand(3)), hint
    stored = smooth(x, t)
    kept = stored.clone()
    consistency_loss(lambda z, t: stored, x, eps, t, s, edm)
    assert torch.equal(stored, kept), "What f returns must stay as it is: make a new tensor."
    right_already(lambda f: consistency_loss(f, x, eps, t, s, edm), x)
    for c, given in ((0.0, None), (0.3, teacher)):
        taught = given and recorded(given, [])
        loss = consistency_loss(recorded(f, []), x.float(), eps.float(), t, s, edm, c, taught)
        z, _, target = by_hand(f, x.float().double(), eps.float().double(), t, s, edm, given)
        close_in_float32(loss, (square(f(z, t) - target) + c**2).sqrt() - c, "The loss")
    t, s = exact(3.0, 0.5, 0.8, 0.4), exact(1.0, 0.0, 0.2, 0.3)
    for more in ((), (teacher,)):
        loss = lambda f=f, s=s, c=0.0: consistency_loss(f, x, eps, t, s, edm, c, *more)
        how = " with a teacher" if more else ""
        why = f"{how}, at t = {t.tolist()}: it needs 0 <= s < t"
        refuse(lambda s: loss(s=s), spoilt("s", s, 0.8, 0.9, -0.1), why)
        refuse(lambda c: loss(c=c), {"A negative c": -1.0}, how)
        refuse(lambda f: loss(f=f), answers("An f", x), f"{how}: its error would be broadcast")


def earlier(t: Tensor, a: float, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Tensor:
    """ECT's s by hand."""
    return (t * (1 - (1 + k / (1 + (b * t).exp())) / q**a)).clamp(min=0)


def check_ect_mapping(ect_mapping=consistency.ect_mapping, seed: int = 0) -> None:
    """The formula, with every parameter at two values; the clamp at 0; digits at a late stage."""
    g = torch.Generator().manual_seed(seed)
    t = torch.exp(-1.1 + 2 * torch.randn(50, generator=g, dtype=torch.float64)).clamp(max=80)
    t.requires_grad_()
    for options in (
        dict(a=3),  # where the likely mistakes are all different
        dict(a=1),
        dict(a=2),
        dict(a=11),
        dict(a=8),
        dict(a=21.5),
        dict(a=3, q=1.7, k=2.25 + seed % 3, b=0.4),
        dict(a=1, q=256.0),
        dict(a=3.5, b=0.0),
        dict(a=1, k=0),
    ):
        a, q, k, b = (dict(a=1, q=2.0, k=8.0, b=1.0) | options).values()
        given = ", ".join(f"{name} = {value}" for name, value in options.items())
        found = accepts(lambda: ect_mapping(t, **options), given)
        n, with_n = 1 + k / (1 + (b * t).exp()), lambda n, power=q**a: (t * (1 - n / power)).clamp(min=0)
        right, free = with_n(n), t * (1 - n / q**a)
        likely = {
            f"Stage a has q^a, as late as it may be: this is q^{m}.": with_n(n, q**m)
            for m in range(4, 21)
            if a > 8
        }
        likely |= {
            "n(t) must fall with t: is the sign of b t right?": with_n(1 + k / (1 + (-b * t).exp())),
            "s must never be below 0: clamp. Noise of negative level trains without a sign.": free,
            "s would be below 0 here: clamp it, do not take abs.": free.abs(),
            "s would be below 0 here: clamp it, do not take t.": torch.where(free < 0, t, free),
            "Stage a has q^a: q^(a + 1) is one stage ahead.": with_n(n, q ** (a + 1)),
            "Stage a has q^a: q^(a - 1) is one stage behind.": with_n(n, q ** (a - 1)),
            "q^a is a power, not q a.": with_n(n, q * a),
            "q^a is a power of q, not of a.": with_n(n, a**q),
            "This is the gap t - s: return s.": t - right,
            "This is s / t: return s.": right / t,
            "n(t) = 1 + k sigmoid(-b t), and the 1 is missing.": with_n(n - 1),
            "q is not used.": with_n(n, 2.0**a),
            "k is not used.": with_n(1 + 8 / (1 + (b * t).exp())),
            "k may be between two numbers: do not round it.": with_n(1 + int(k) / (1 + (b * t).exp())),
            "b is not used.": with_n(1 + k / (1 + t.exp())),
            "a may be between two stages: do not round it.": with_n(n, q ** int(a)),
        }
        likely |= {
            f"s may be 0: it is held at {least}.": right.clamp(min=least) for least in (1e-3, 2e-3, 1e-2)
        }
        finite(found, given)
        hint = f"{given}: s = t (1 - n(t) / q^a), at least 0, with n(t) = 1 + k sigmoid(-b t)."
        explained(found, right, hint, likely)
        hint = "s is exactly 0 where it would be below: nothing is added, nor held above 0."
        assert not found[free < 0].any(), hint
        same_gradient(found, right, [t], "for t")
    t = t.detach()
    ends = exact(0.0, math.log(7), 1e9)
    close(ect_mapping(ends, 1), earlier(ends, 1), "At a = 1, s is 0 up to t = ln 7, and t / 2 far out.", 1e-9)
    small = exact(1e-6, 1e-12)
    hint = "At small t, too, s is a share of t, neither 0 nor held above some number."
    close(ect_mapping(small, 5) / small, earlier(small, 5) / small, hint, 1e-9)
    late = ect_mapping(t.float(), 8)
    close_in_float32(late, earlier(t.float().double(), 8), "s")
    assert (late < t.float()).all(), "s < t must hold in float32 at the last stage."
    bad = [
        dict(a=0),
        dict(a=0.99),
        dict(a=1, q=1.0),
        dict(a=1, q=0.5),
        dict(a=1, k=-0.01),
        dict(a=1, b=-0.01),
    ]
    refuse(lambda options: ect_mapping(t, **options), {f"{options}": options for options in bad})


def check_ect_stage(ect_stage=consistency.ect_stage, seed: int = 0) -> None:
    """1 for the first steps, counted from 1, then one more after each `steps_per_stage`."""
    d = 3 + seed % 5
    steps = (*range(1, 11 * d + 1), 100 * d, 1000 * d + 1)
    stages = [accepts(lambda: ect_stage(step, d), f"step = {step}, {d} steps per stage,") for step in steps]
    right = [(i - 1) // d + 1 for i in steps]
    likely = {
        "Stages are counted from 1, not from 0.": [(i - 1) // d for i in steps],
        "Steps are counted from 1: stage 2 begins at step d + 1, not at d.": [i // d + 1 for i in steps],
        "Stage 2 begins at step d + 1, not at d + 2.": [max(i - 2, 0) // d + 1 for i in steps],
        "The stage must advance after each steps_per_stage.": [1 for _ in steps],
    }
    likely["There is no last stage: it grows without an end."] = [min(i, max(stages)) for i in right]
    hint = "Stage 1 for steps 1 to d, stage 2 for d + 1 to 2 d, and so on without an end."
    assert stages == right, next((says for says, wrong in likely.items() if stages == wrong), hint)
    alone = [accepts(lambda: ect_stage(step, 1), f"step = {step}, 1 step per stage,") for step in (1, 2, 30)]
    assert alone == [1, 2, 30], "With one step per stage, the stage is the step."
    assert isinstance(stages[0], int), f"A stage is an int, not {type(stages[0]).__name__}."
    bad = {
        "Step 0, counted from 1,": (0, d),
        "Step -1": (-1, d),
        "Stages of 0 steps": (1, 0),
        "Stages of -1 steps": (1, -1),
    }
    refuse(lambda args: ect_stage(*args), bad)


def check_ect_weight(ect_weight=consistency.ect_weight, seed: int = 0) -> None:
    """The two weights of the released code, at narrow gaps too."""
    t = 0.1 + numbers(6, seed=seed).abs()
    t[:2] = exact(1e-3, 100.0)
    t.requires_grad_()
    s = (t.detach() * (1 - exact(1.0, 0.5, 0.3, 1e-2, 1e-4, 1e-11))).requires_grad_()
    gap = t - s
    likely = {
        '"gap" is 1 / (t - s), not t - s.': gap,
        '"gap" is 1 / (t - s), without a square.': 1 / gap**2,
        '"gap" is 1 / (t - s), not 1 / t.': 1 / t,
        '"gap" is 1 / (t - s), not 1 / s.': 1 / s,
    }
    for least in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10):
        likely[f"A narrow gap is held at {least}."] = 1 / gap.clamp(min=least)
        likely[f"{least} is added to the gap."] = 1 / (gap + least)
    found = accepts(lambda: ect_weight("gap", t, s), f"A gap of 1e-11 t, in {t.dtype},")
    finite(found, "the gap is narrow here, and not 0")
    explained(found, 1 / gap, '"gap" is 1 / (t - s), to the last digits of a narrow gap.', likely)
    same_gradient(found, 1 / gap, [t, s], "of gap for t and s")
    for args in ((0.7,), (2,), ()):
        std = args[0] if args else 0.5
        likely = {
            '"snr" = 1 / t^2 + 1 / data_std^2: the second part is missing.': 1 / t**2,
            '"snr" = 1 / t^2 + 1 / data_std^2: data_std is below the line.': 1 / t**2 + std**2,
            '"snr" is a sum of two fractions, not one fraction.': 1 / (t**2 + std**2),
            '"snr" is of t, not of s.': 1 / s**2 + 1 / std**2,
            '"snr" has squares.': 1 / t + 1 / std,
            "data_std is not used.": 1 / t**2 + 4,
            "data_std is 0.5 unless given, not 1.": 1 / t**2 + 1,
            "This is the other weight.": 1 / gap,
        }
        found, right = ect_weight("snr", t, s, *args), 1 / t**2 + 1 / std**2
        if isinstance(found, Tensor):
            most = found.detach().max()
            likely |= {
                f"The weight is capped at {most:.4g}.": right.clamp(max=most),
                "1 / t^2 is capped, or t held above some number.": (1 / t**2).clamp(max=most - 1 / std**2)
                + 1 / std**2,
            }
        explained(found, right, f'"snr" is 1 / t^2 + 1 / data_std^2, data_std = {std}.', likely)
        same_gradient(found, right, [t, s], "of snr for t and s")
    t, s = t.detach(), 0.7 * t.detach()
    for kind in ("gap", "snr"):
        wide = ect_weight(kind, t.float().double(), s.float().double())
        close_in_float32(ect_weight(kind, t.float(), s.float()), wide, f"The weight {kind}")
        at = t[3].item()
        bad = spoilt("s", s, at, 2 * at, -0.1)
        refuse(lambda s: ect_weight(kind, t, s), bad, f", where t = {at:.4g}, {kind}")
        refuse(lambda s: ect_weight(kind, t, s), misshapen("s", s))
        refuse(lambda std: ect_weight(kind, t, s, std), {"data_std = 0": 0.0, "A negative data_std": -0.5})
    bad = {f"An unknown weighting, {kind!r},": kind for kind in ("1/(t-s)", "snr+1", "Gap", None)}
    refuse(lambda kind: ect_weight(kind, t, s), bad)


@torch.enable_grad()
def check_ect_loss(ect_loss=consistency.ect_loss, seed: int = 0) -> None:
    """The parts in their places, by hand, on every option."""
    knob = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    f = lambda z, t: smooth(knob * z, t)
    t = exact(5e-4, 0.821, 3.0, 300.0)
    for i, (shape, a, curve, c, more) in enumerate(
        (
            ((4, 4, 4, 4), 1, {}, 0.0, {}),
            ((4, 3), 4, {}, 0.0, {}),
            ((4, 2, 3), 2.5, {}, 20.0, {}),  # rows on both sides of c
            ((4, 1, 2, 5), 4, {}, 0.03, {}),
            ((4, 2, 3, 1, 2), 2, dict(q=4.0), 0.06, dict(weighting="snr")),
            ((4, 3), 3, dict(k=4.0, b=0.5), 0.0, dict(weighting="gap")),
            ((4, 3), 2, {}, 0.0, dict(weighting="snr", data_std=0.7)),
        )
    ):
        x, eps, asked = peaked(*shape, seed=seed + i), numbers(*shape, seed=seed + i + 50), []
        s = earlier(t, a, **curve)
        options = curve | more | ({"c": c} if c else {})
        given = f"a = {a}, {options or 'defaults'}: "
        loss = accepts(lambda: ect_loss(recorded(f, asked), x, eps, t, a, **options), given)
        z, z_s, target = by_hand(f, x, eps, t, s, edm)
        noisy = s > 0
        assert isinstance(loss, Tensor) and loss.shape == (4,), "A loss returns one number per sample, (b,)."
        finite(loss, "where s = 0 the target is x, and f's answer may not be used")
        assert [len(z) for z, _ in asked] == [4, 4], "f is asked twice, each time with the whole batch."
        assert any(alike(u, z, 1e-9) and alike(w, t, 1e-9) for u, w in asked), (
            "f is asked at x + t eps, and time t."
        )
        hint = f"{given}f is asked at s = ect_mapping(t, a, q, k, b)."
        cut = earlier(t, int(a), **curve)
        if a != int(a) and any(alike(w[cut > 0], cut[cut > 0], 1e-9) for _, w in asked):
            hint = f"{given}a may be between two stages: do not round it."
        assert any(alike(w[noisy], s[noisy], 1e-9) for _, w in asked), hint
        hint = f"{given}f is asked at x + s eps, with the eps of z_t."
        assert any(alike(u[noisy], z_s[noisy], 1e-9) for u, _ in asked), hint
        gap, snr = 1 / (t - s), 1 / t**2 + 1 / more.get("data_std", 0.5) ** 2
        weight, other = (snr, gap) if more.get("weighting") == "snr" else (gap, snr)
        delta = f(z, t) - target.detach()
        huber = lambda u, c=c: (u + c**2).sqrt() - c
        right = weight * huber(square(delta))
        each, norm, most = huber(delta.reshape(4, -1) ** 2), square(delta).sqrt(), loss.detach().max()
        likely = {
            "The distance has a weight, and here is none.": right / weight,
            "weighting is not used, or has another default.": other * right / weight,
            "data_std of the weight is not used.": (1 / t**2 + 4) * right / weight,
            "The weight is 1 / (t - s), not t - s.": right / weight / gap,
            "The distance is no square.": weight * square(delta),
            "The distance is no mean square.": weight * square(delta) / x[0].numel(),
            "One norm over the whole sample, not one distance per number.": weight * each.sum(1),
            "One norm over the whole sample, not a mean of one per number.": weight * each.mean(1),
            "Each sample has its own weight: this is the batch's mean.": weight.mean() * right / weight,
            "c must be subtracted after the root.": right + weight * c,
            "c is 0 unless given." if not c else "c is that of the call.": weight
            * huber(square(delta), 0.03),
            "c is held at 0.1: it may be any number.": weight * huber(square(delta), min(c, 0.1)),
            "The distance is one formula, no choice between norm and square.": weight
            * torch.where(norm > c, norm, huber(square(delta))),
            "The weight is capped at 1000.": weight.clamp(max=1000) * right / weight,
            f"The weight is capped at {most:.4g}, or the loss.": right.clamp(max=most),
            "f's error is clipped: it may have any size.": weight * huber(square(delta.clamp(-10, 10))),
            "The target is f's answer where s > 0, not x.": weight * huber(square(f(z, t) - x)),
            "Where s = 0 the target is x, not f's answer.": weight
            * huber(square(f(z, t) - f(z_s, torch.where(noisy, s, t)))),
            "c is not used: hand it to the distance.": weight * huber(square(delta), 0.0),
            "Where s = 0 the target is x, not 0.": (
                weight * huber(square(f(z, t) - torch.where(column(noisy, x), target, 0)))
            ),
        }
        hint = f"{given}the weight times the Pseudo-Huber distance of f at t to f at s; to x where s = 0."
        explained(loss.detach(), right.detach(), hint, likely, 1e-8)
        learns(loss, right, weight * huber(square(f(z, t) - target)), knob)
    for options in ({}, dict(c=0.1), dict(weighting="snr", c=0.1)):
        one_mask(lambda f: ect_loss(f, x, eps, t, 4, **options), seed)
    right_already(lambda f: ect_loss(f, x, eps, t, 4), x)
    t = exact(0.05, 0.8, 1.5, 3.0)
    for weighting in ("gap", "snr"):
        call = lambda f, x, eps: ect_loss(f, x, eps, t, 2, c=0.1, weighting=weighting)
        wide = call(f, x.float().double(), eps.float().double())
        close_in_float32(call(recorded(f, []), x.float(), eps.float()), wide, "The loss", 1e-4)
    loss = lambda f=f, x=x, eps=eps, t=t, **options: ect_loss(f, x, eps, t, **(dict(a=4) | options))
    refuse(lambda t: loss(t=t), spoilt("t", t, 0.0, -1.0) | {"One time for four samples": t[:1]})
    refuse(lambda eps: loss(eps=eps), misshapen("eps", eps))
    refuse(lambda x: loss(x=x), misshapen("x", x))
    refuse(lambda f: loss(f=f), answers("An f", x), ": its error would be broadcast")
    bad = [
        dict(a=0),
        dict(q=1.0),
        dict(k=-1.0),
        dict(b=-1.0),
        dict(c=-1.0),
        dict(c=math.nan),
        dict(weighting="snr+1"),
        dict(data_std=0.0),
    ]
    refuse(lambda options: loss(**options), {f"{options}": options for options in bad})


def check_lognormal_times(lognormal_times=consistency.lognormal_times, seed: int = 0) -> None:
    """The logarithm is Gaussian, natural, and decided by the generator. Bounds are 6 standard errors."""
    n, g = 50_000, torch.Generator().manual_seed(seed)
    for args in ((), (-0.8, 1.6), (0.5, 0.3)):
        mean, std = args or (-1.1, 2.0)
        t = lognormal_times(n, *args, generator=g)
        assert t.shape == (n,) and (t > 0).all() and t.isfinite().all(), "b positive times, (b,)."
        u = (t.double().log() - mean) / std
        center, spread = u.mean().item(), u.std().item()
        likely = {
            "all times are one number: draw each by itself": 0.0,
            "take the natural exponential, not a power of 10": math.log(10),
            "std is the standard deviation of log t, not its variance": std**-0.5,
            "std is the standard deviation of log t: it is squared here": std,
        }
        near = lambda value, other: abs(value - other) < 6 / n**0.5 * other + 1e-6
        hint = next(
            (says for says, wrong in likely.items() if near(spread, wrong)), "another std, or no Gaussian"
        )
        given = f"log t ~ N({mean}, {std}^2), yours N({mean + std * center:.3f}, {std * spread:.3f}^2)"
        assert near(spread, 1), f"{given}: {hint}."
        assert abs(center) < 6 / n**0.5, f"{given}: mean is that of log t."
        hint = "Each time is drawn by itself, and here one decides the next: are they sorted?"
        assert abs((u[1:] * u[:-1]).mean()) < 6 / n**0.5, hint
        rank = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        worst = (torch.special.ndtr(u.sort().values) - rank).abs().max().item()
        # Kolmogorov and Smirnov: above 3.2 / sqrt(n) once in a billion
        assert worst < 3.2 / n**0.5, "log t has the right mean and deviation, but is not Gaussian."
        hint = (
            "The tails are missing: among 50 000 times some are 3.3 std away. Nothing is clamped or cut off."
        )
        assert u.max() > 3.3 and u.min() < -3.3, hint  # fails once in ten billion
    seeded(lambda g: lognormal_times(5, generator=g), seed)
    apart(lambda g: lognormal_times(8, 0.0, 1.0, generator=g).log(), seed)
    same = accepts(lambda: lognormal_times(3, 0.5, 0.0), "std = 0").double()
    close(same, torch.full((3,), math.exp(0.5)).double(), "With std = 0 all times are exp(mean).", 1e-6)
    bad = {"b = 0": (0,), "b = -1": (-1,), "A negative std": (4, 0.0, -1.0)}
    refuse(lambda args: lognormal_times(*args), bad)


PROGRESS = {
    "A step after the last": (5, 4),
    "A negative step": (-1, 4),
    "Step -1 of many": (-1, 800_000),
    "A training of no steps": (0, 0),
    "s0 = 0": (0, 4, 0),
    "s1 below s0": (0, 4, 20, 10),
}


def check_ct_steps(ct_steps=consistency.ct_steps, seed: int = 0) -> None:
    """The table of the authors' code, grid points and EMA decay over 800 000 steps; other s0, s1 and mu0."""
    table = {
        0: (2, 0.81),
        1: (3, 0.9),
        1000: (6, 0.95873152),
        10_000: (17, 0.98691628),
        100_000: (54, 0.99603202),
        400_000: (107, 0.99801404),
        800_000: (151, 0.99859618),
    }
    points = lambda step, total, s0, s1: (
        max(1, math.ceil(math.sqrt(step / total * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1)) + 1
    )
    runs = []
    for step, *args in (
        (0, 10, 60, 0.8),
        (0, 3, 20, 0.8),
        (500, 3, 20, 0.8),
        (1000, 3, 20, 0.8),
        (777, 10, 60, 0.95),
        (1, 10, 60, 0.95),
        (0, 1, 9, 1),
        (700, 5, 5, 0.8),
    ):
        n = points(step, 1000, *args[:2])
        runs.append((step, 1000, args, n, args[2] ** (args[0] / (n - 1))))
    runs += [(step, 800_000, (), *found) for step, found in table.items()]
    for step, total, args, n, mu in runs:
        s0, s1, mu0 = args or (2, 150, 0.9)
        at = f"Step {step} of {total}, s0 = {s0}, s1 = {s1}, mu0 = {mu0}"
        found = accepts(lambda: ct_steps(step, total, *args), at)
        root = lambda end: math.sqrt(step / total * (end**2 - s0**2) + s0**2) - 1
        likely = {
            "s0 is not used": points(step, total, 2, s1),
            "s1 is not used": points(step, total, s0, 150),
            "the root is rounded up, not to the nearest": max(1, round(root(s1 + 1))) + 1,
            "the root is rounded up, not down": max(1, math.floor(root(s1 + 1))) + 1,
            "s1 + 1 is squared, not s1": max(1, math.ceil(root(s1))) + 1,
        }
        if not step:  # where the others are right
            likely["these are the intervals, and there is one point more"] = n - 1
        if not args:
            likely = {}
        hint = "n = ceil(sqrt(step / total ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1, at least 2"
        hint = hint if args else "when nothing is given, s0 is 2 and s1 is 150"
        hint = next((says for says, wrong in likely.items() if found[0] == wrong), hint)
        assert found[0] == n, f"{at}: {n} points, not {found[0]}: {hint}."
        assert isinstance(found[0], int), f"A number of points is an int, not {type(found[0]).__name__}."
        likely = {
            "divide by n - 1, not by n": mu0 ** (s0 / n),
            "s0 is missing on top": mu0 ** (1 / (n - 1)),
            "mu0 is not used": 0.9 ** (s0 / (n - 1)),
        }
        hint = next(
            (says for says, wrong in likely.items() if abs(found[1] - wrong) < 1e-9),
            "s0 / (n - 1) is the power" if args else "when nothing is given, s0 is 2 and mu0 is 0.9",
        )
        assert abs(found[1] - mu) < 1e-8, (
            f"{at}: mu = mu0^(s0 / (n - 1)) = {mu:.8f}, not {found[1]:.8f}: {hint}."
        )
    bad = PROGRESS | {"mu0 = 0": (1, 4, 2, 150, 0.0), "mu0 above 1": (1, 4, 2, 150, 1.1)}
    refuse(lambda args: ct_steps(*args), bad)


def check_ict_steps(ict_steps=consistency.ict_steps, seed: int = 0) -> None:
    """Doubling every eighth of the training, from 11 to 1281 points; s1 need not be s0 times a power of 2."""
    runs = [
        (step, 1000, (3, 20), n)
        for step, n in ((0, 4), (1, 4), (277, 4), (278, 7), (556, 13), (834, 21), (1000, 21))
    ]
    runs += [(0, 1, (5, 5), 6), (1, 1, (5, 5), 6), (3, 4, (), 81), (400_000, 400_000, (), 1281)]
    runs += [(50_000 * i + j, 400_000, (), 10 * 2**i + 1) for i in range(8) for j in (0, 49_999)]
    for step, total, args, n in runs:
        s0, s1 = args or (10, 1280)
        at = f"Step {step} of {total}, s0 = {s0}, s1 = {s1}"
        found = accepts(lambda: ict_steps(step, total, *args), at)
        length = math.log2(s1 // s0) + 1
        stage = step // max(1, math.floor(total / length))
        grown = lambda stage, factor=2: min(s0 * factor**stage, s1) + 1
        default = step // max(1, total // 8)
        likely = {
            "these are the intervals, and there is one point more": n - 1,
            "2 to the floor of step / stage, not to the ceiling": grown(1) if step == 1 else None,
            "no more intervals than s1": max(found, s1 + 2),
            "a stage is as long for log2(floor(s1 / s0)), not log2(s1 / s0)": grown(
                step // max(1, math.floor(total / (math.log2(s1 / s0) + 1)))
            ),
            "a stage has a whole number of steps, rounded down": grown(int(step / (total / length))),
            "s0 and s1 are not used": min(10 * 2**default, 1280) + 1,
            "the number doubles, and here it is tripled": grown(stage, 3),
            "the number doubles: a factor 2, not one s0 more": min(s0 * (stage + 1), s1) + 1,
        }
        likely = likely if args else {"when nothing is given, s0 is 10 and s1 is 1280": found}
        hint = next(
            (says for says, wrong in likely.items() if found == wrong),
            "a stage has floor(total / (log2(floor(s1 / s0)) + 1)) steps, at least 1",
        )
        assert found == n, f"{at}: {n} points, not {found}: {hint}."
        assert isinstance(found, int), f"A number of points is an int, not {type(found).__name__}."
    refuse(lambda args: ict_steps(*args), PROGRESS)


def check_ict_time_pmf(ict_time_pmf=consistency.ict_time_pmf, seed: int = 0) -> None:
    """The lognormal's mass in each interval, normalised, whichever way the grid runs; the authors' table."""
    table = exact(
        0.062633, 0.181737, 0.245501, 0.213494, 0.142446, 0.080605, 0.041080, 0.019580, 0.008944, 0.003980
    )
    eleven = karras_sigmas(11, dtype=torch.float64).flip(0)
    for grid, args in (
        (eleven, ()),
        (exact(0.1, 0.5 + seed, 3.0 + seed), (0.3, 1.2)),
        (exact(0.1, 0.2, 0.4, 5.0), (1.0, 0.5)),
    ):
        mean, std = args or (-1.1, 2.0)
        ndtr, log, shares = torch.special.ndtr, grid.log(), lambda cdf: cdf.diff() / cdf.diff().sum()
        u = (log - mean) / std
        density = torch.exp(-(u**2) / 2)
        right = shares(ndtr(u))
        likely = {
            "Normalise: the probabilities must sum to 1.": ndtr(u).diff(),
            "Normalise: the probabilities must sum to 1, not to 2.": 2 * right,
            "Normalise: the probabilities must sum to 1, whatever erf's factor is.": 2 * ndtr(u).diff(),
            "erf takes (log sigma - mean) / (sqrt(2) std): the root of two is missing.": shares(torch.erf(u)),
            "The logarithm is the natural one, not log10.": shares(ndtr((grid.log10() - mean) / std)),
            "The logarithm of sigma is Gaussian, not sigma.": shares(ndtr((grid - mean) / std)),
            "mean is not used: it is that of log sigma.": shares(ndtr((log + 1.1) / std)),
            "std is not used: it is that of log sigma.": shares(ndtr((log - mean) / 2)),
            "mean and std are not used.": shares(ndtr((log + 1.1) / 2)),
            "std is divided by, not std^2.": shares(ndtr((log - mean) / std**2)),
            "The mass of an interval, not the density where it begins.": density[:-1] / density[:-1].sum(),
            "The mass of an interval, not the density where it ends.": density[1:] / density[1:].sum(),
        }
        hint = f"mean = {mean}, std = {std}: the difference of the lognormal's cdf at both ends, normalised."
        found = accepts(lambda: ict_time_pmf(grid, *args), "A rising grid")
        finite(found, hint)
        explained(found, right, hint, likely, 1e-9)
        likely = {
            "A falling grid has its probabilities in its own order: these are the rising one's.": right,
            "A falling grid has probabilities above 0 all the same.": -right.flip(0),
        }
        found = accepts(lambda: ict_time_pmf(grid.flip(0), *args), "A falling grid")
        explained(
            found, right.flip(0), "A falling grid has its probabilities in its own order.", likely, 1e-9
        )
        close_in_float32(ict_time_pmf(grid.float(), *args), right, "The pmf")
    close(ict_time_pmf(eleven), table, "The table of the authors' code, for karras_sigmas(11).", 1e-6)
    bad = spoilt("A level", exact(3.0, 2.0, 1.0), -1.0, 1.0, 3.0, 3.5) | {
        "[2, 1, 0], with level 0,": exact(2.0, 1.0, 0.0),
        "[0, 1, 2], with level 0,": exact(0.0, 1.0, 2.0),
        "[1, 2, 2, 4], two equal levels,": exact(1.0, 2.0, 2.0, 4.0),
        "[1, 3, 2, 4], out of order in the middle,": exact(1.0, 3.0, 2.0, 4.0),
        "[4, 2, 2, 1], two equal levels,": exact(4.0, 2.0, 2.0, 1.0),
        "One level, which has no interval,": exact(1.0),
    }
    refuse(ict_time_pmf, bad)
    refuse(lambda std: ict_time_pmf(eleven, 0.0, std), {"std = 0": 0.0, "A negative std": -1.0})


def check_draw_interval(draw_interval=consistency.draw_interval, seed: int = 0) -> None:
    """Neighbours on the grid, the noisier first, every interval, as often as the pmf says: to 6 sigma."""
    b, g = 20_000, torch.Generator().manual_seed(seed)
    six = karras_sigmas(6, dtype=torch.float64)
    for sigmas, pmf in (
        (six, None),
        (six, exact(0.1, 0.25, 0.4, 0.2, 0.05)),
        (karras_sigmas(4), torch.tensor([0.0, 0.3, 0.7])),
        (exact(5.0, 1.0), None),
        (exact(3.0, 1.0, 0.0), None),
    ):
        t, s = accepts(lambda: draw_interval(sigmas, b, pmf, g), f"The grid {sigmas.tolist()}")
        n = len(sigmas) - 1
        assert t.shape == s.shape == (b,), "t and s, each (b,)."
        assert t.dtype == s.dtype == sigmas.dtype, "t and s have the dtype of the grid."
        assert not (s > t).any(), "t, the noisier time, is the first of the two."
        i = torch.searchsorted(-sigmas, -t).clamp(max=n)
        assert torch.equal(sigmas[i], t), "Times are points of the grid."
        assert (i < n).all(), "n points have n - 1 intervals: t is never the last point."
        assert torch.equal(sigmas[i + 1], s), "s is the next point after t."
        share = torch.bincount(i, minlength=n).double() / b
        p = torch.full((n,), 1 / n).double() if pmf is None else pmf.double()
        never = ((share == 0) & (p > 0)).nonzero().flatten().tolist()
        assert not never, f"Intervals {never} of 0 to {n - 1} are never drawn."
        hint = "as often as the pmf says" if pmf is not None else "equally often without a pmf"
        hint = f"Each interval is drawn {hint}: {p.tolist()}, not {share.tolist()}."
        assert ((share - p).abs() <= 6 * (p * (1 - p) / b).sqrt() + 1e-7).all(), hint
        again = (i[1:] == i[:-1]).double().mean() - (p**2).sum()
        hint = (
            "Each interval is drawn by itself, and here one decides the next: sorted, or without replacement?"
        )
        assert abs(again) < 6 / b**0.5, hint
    seeded(lambda g: draw_interval(six, 30, None, g)[0], seed)
    two = exact(3.0, 2.0, 1.0)
    apart(lambda g: 2 * draw_interval(two, 8, None, g)[0] - 5, seed)
    bad = spoilt("A level", two, 1.0, 3.0, 3.5, -1.0) | {
        "[2, 1, -1], with a negative level,": exact(2.0, 1.0, -1.0),
        "A rising grid": six.flip(0),
        "[5, 2, 2, 1], two equal neighbours,": exact(5.0, 2.0, 2.0, 1.0),
        "[5, 1, 2, 0.5], out of order in the middle,": exact(5.0, 1.0, 2.0, 0.5),
        "One level, which has no interval,": six[:1],
    }
    refuse(lambda sigmas: draw_interval(sigmas, 4), bad)
    even = exact(0.2, 0.2, 0.2, 0.2, 0.2)
    bad = {
        "A pmf with a number too few": even[1:],
        "A pmf with a number too many": torch.cat([even, even[:1]]),
    }
    refuse(lambda pmf: draw_interval(six, 4, pmf), bad | spoilt("A probability", even, -0.1))
    refuse(lambda b: draw_interval(six, b), {"b = 0": 0, "b = -1": -1})


def check_ict_c(ict_c=consistency.ict_c, seed: int = 0) -> None:
    """CIFAR-10 and ImageNet-64, points and videos, from the dimension of one sample."""
    for b, shape in ((2 + seed % 3, (3, 32, 16)), (5, (3, 64, 64)), (3, (2,)), (1, (2, 1, 3, 5)), (1, (7,))):
        d = math.prod(shape)
        found, right = ict_c(torch.zeros(b, *shape)), 0.00054 * math.sqrt(d)
        likely = {
            "the root of d is missing": 0.00054,
            "the root of d, not d": 0.00054 * d,
            "the batch does not count": 0.00054 * math.sqrt(b * d),
            "all axes of a sample count, not the last alone": 0.00054 * math.sqrt(shape[-1]),
            "the root of all numbers of a sample, not its side": 0.00054 * shape[-1],
            "the channels count, too": 0.00054 * math.sqrt(d / shape[0]),
        }
        hint = next(
            (says for says, wrong in likely.items() if abs(found - wrong) < 1e-9), "and yours is another"
        )
        assert abs(found - right) < 1e-9, f"0.00054 sqrt(d), d = {d} numbers in a sample: {hint}: {found}."


def net(z: Tensor, t: Tensor) -> Tensor:
    """A smooth network that mixes its coordinates."""
    angle = column(t, z)
    return torch.sin(z + angle) + 0.5 * torch.tanh(z.flip(-1) * (2 - angle))


def check_trigflow(trigflow=consistency.trigflow, seed: int = 0) -> None:
    """A circle of the data's radius, with exact ends in float32, and nothing outside them."""
    for sd in (0.3 + 0.1 * (seed % 5), 2):
        t = exact(0.0, 0.4, 1.0, math.pi / 2).requires_grad_()
        schedule, hint = trigflow(sd), "z_t = cos t x + sin t data_std eps: "
        found, right = schedule(t), (t.cos(), sd * t.sin())
        likely = {
            f"{hint}the noise has the data's standard deviation, not 1.": t.sin(),
            f"{hint}alpha comes first, then sigma.": t.cos(),
            "data_std is not used.": 0.5 * t.sin(),
        }
        explained(found[1], right[1], f"{hint}sigma is data_std sin t.", likely)
        likely = {
            f"{hint}alpha is without data_std.": sd * t.cos(),
            f"{hint}alpha comes first.": sd * t.sin(),
        }
        explained(found[0], right[0], f"{hint}alpha is cos t.", likely)
        for own, true in zip(found, right):
            same_gradient(own, true, [t], "for t")
        t = t.detach()
        for own, true in zip(schedule(t.float()), right):
            close_in_float32(own, true.detach(), "Each of alpha and sigma", 1e-6)
            assert (own >= 0).all(), "In float32 cos(pi / 2) is -4e-8, and no alpha may be below 0."
        refuse(schedule, spoilt("t", t[:3], -0.01, 1.572), ": times are from 0 to pi / 2")
    refuse(trigflow, {"data_std = 0": 0.0, "data_std = -1": -1.0})


def check_scm_tangent(scm_tangent=consistency.scm_tangent, seed: int = 0) -> None:
    """cos t times the derivative of f along the trajectory, its two terms, and finite differences."""
    t = exact(0.0, 0.5, 0.9, 1.3, math.pi / 2)
    for i, (shape, args) in enumerate((((5, 5, 5, 5), (0.7, 0.3)), ((5, 3), ()), ((5, 1, 2, 3), (2.0, 0.0)))):
        make = peaked if args else numbers  # finite differences want small numbers
        z, slope = make(*shape, seed=seed + i), make(*shape, seed=seed + i + 50)
        sd, w = args or (0.5, 1.0)
        cos, sin = column(t, z).cos(), column(t, z).sin()

        def terms(sd, scale):
            """The first term, the second, and their F and dF/dt, with F at z / scale."""
            move = (cos * sin * slope / scale, t.cos() * t.sin())
            F, dF = torch.func.jvp(net, (z / scale, t), move)
            return -(cos**2) * (sd * F - slope), -(cos * sin * z + sd * dF), F, dF

        first, second, F, dF = terms(sd, sd)
        other = {scale: terms(scale[0], scale[1]) for scale in ((sd, 1.0), (0.5, 0.5))}
        likely = {
            "The sign of the first term: -cos^2 t (data_std F - dz/dt).": -first + w * second,
            "The sign of the second term: -cos t sin t (z + data_std dF/dt).": first - w * second,
            "The sign: this is minus the tangent.": -first - w * second,
            "A cos t is missing: cos t df/dt, not df/dt.": (first + w * second) / cos,
            "warmup weighs the second term only, not both.": w * (first + second),
            "warmup weighs the second term, not the first.": w * first + second,
            "warmup is not used: it weighs the second term.": first + second,
            "dF/dt is missing in the second term.": first - w * cos * sin * z,
            "z is missing in the second term.": first - w * sd * dF,
            "data_std is missing in front of F.": -(cos**2) * (F - slope) + w * second,
            "data_std is missing in front of dF/dt.": first - w * (cos * sin * z + dF),
            "dz/dt is missing in the first term.": -(cos**2) * sd * F + w * second,
            "F is asked at z / data_std, not at z.": other[sd, 1.0][0] + w * other[sd, 1.0][1],
            "data_std is not used.": other[0.5, 0.5][0] + w * other[0.5, 0.5][1],
        }
        hint = f"data_std = {sd}, warmup = {w}: -cos^2 t (data_std F - dz/dt) - warmup cos t sin t (...)"
        found = scm_tangent(recorded(net, []), z, t, slope, *args)
        finite(found, f"data_std = {sd}, warmup = {w}")
        explained(
            found, first + w * second, f"{hint}, (...) = z + data_std dF/dt, F at z / data_std.", likely, 1e-9
        )
        if w == 1:  # f itself, and no formula
            f = lambda z, t: column(t, z).cos() * z - column(t, z).sin() * sd * net(z / sd, t)
            h = 1e-5
            difference = (f(z + h * slope, t + h) - f(z - h * slope, t - h)) / (2 * h)
            close(found, cos * difference, "cos t df/dt, by finite differences.", 1e-7)
    z, slope = numbers(2, 5, 3, seed=seed)
    knob = torch.ones((), dtype=torch.float64, requires_grad=True)
    learned = scm_tangent(lambda z, t: knob * net(z, t), knob * z, t, slope)
    assert not learned.requires_grad, "The tangent is a constant of the loss: no gradient."
    accepts(lambda: scm_tangent(net, z, exact(0.5).expand(5), slope), "One time, expanded over the batch,")
    wide = scm_tangent(net, z.float().double(), t, slope.float().double())
    close_in_float32(scm_tangent(recorded(net, []), z.float(), t, slope.float()), wide, "The tangent")
    tangent = lambda net=net, t=t, slope=slope, **options: scm_tangent(net, z, t, slope, **options)
    refuse(
        lambda slope: tangent(slope=slope),
        misshapen("A slope", slope),
    )
    refuse(lambda t: tangent(t=t), spoilt("t", t, -0.01, 1.572) | {"One t for five z": t[:1]})
    refuse(lambda net: tangent(net), answers("A network", z))
    bad = [dict(warmup=-0.01), dict(warmup=1.01), dict(data_std=0.0), dict(data_std=-1.0)]
    refuse(lambda options: tangent(**options), {f"{options}": options for options in bad})


def check_scm_loss(scm_loss=consistency.scm_loss, seed: int = 0) -> None:
    """Its gradient is -2 <g, dF>, and its value |g|^2, near 1 whatever the network is."""
    knob = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    student = lambda z, t: knob * net(z, t)
    knows = lambda z, t: knob * torch.tanh(z) * column(t, z)
    t = exact(0.1, 0.4, 0.8, 1.1, 1.3, 1.5)
    for i, (shape, given, options) in enumerate(
        (
            ((6, 6, 6, 6), None, {}),
            ((6, 3), knows, dict(data_std=0.7, warmup=0.3, c=0.5)),
            ((6, 1, 2, 4), None, dict(data_std=2.0, warmup=0.0)),
            ((6, 2, 3, 1, 2), knows, dict(c=0.01)),
        )
    ):
        sd, w, c = (options.get(*pair) for pair in (("data_std", 0.5), ("warmup", 1.0), ("c", 0.1)))
        x, eps = sd * numbers(*shape, seed=seed + i), numbers(*shape, seed=seed + i + 50)
        taught = []
        cos, sin = column(t, x).cos(), column(t, x).sin()
        z, slope = cos * x + sin * sd * eps, sd * cos * eps - sin * x
        loss = scm_loss(
            recorded(student, []), x, eps, t, teacher=given and recorded(given, taught), **options
        )
        assert isinstance(loss, Tensor) and loss.shape == (6,), "A loss returns one number per sample, (b,)."
        if given:
            assert taught, "The teacher is never asked: dz/dt is data_std F_teacher."
            likely = {
                "The teacher is asked at z_t / data_std, not at z_t.": z,
                "data_std is not used, in z_t or below it.": 2 * cos * x + sin * eps,
            }
            explained(taught[0][0], z / sd, "The teacher is asked at z_t / data_std.", likely)
            close(taught[0][1], t, "The teacher is asked at t.")
            slope = sd * given(z / sd, t).detach()

        raw = lambda slope=slope, w=w, z=z: consistency.scm_tangent(student, z, t, slope, sd, w)
        unit = cos * x + sin * eps  # with noise of standard deviation 1
        value = lambda g: square(g) / x[0].numel()
        normed = lambda g, c=c: g / (column(square(g).sqrt(), g) + c)
        g = normed(raw())
        likely = {
            "The tangent is not normalised: divide it by its norm + c.": value(raw()),
            "Each sample has its own norm: this is the batch's.": value(
                raw() / (square(raw()).sum().sqrt() + c)
            ),
            "A mean over the sample's numbers, not a sum.": square(g),
            "No factor 1/2.": value(g) / 2,
            "warmup is not used: hand it to the tangent.": value(normed(raw(w=1.0))),
            "c is not used: |tangent| + c.": value(normed(raw(), 0.1)),
            "c is missing: |tangent| + c.": value(normed(raw(), 0.0)),
            "dz/dt is data_std cos t eps - sin t x, with a minus.": value(
                normed(raw(sd * cos * eps + sin * x))
            ),
            "dz/dt is data_std cos t eps - sin t x, with data_std.": value(normed(raw(cos * eps - sin * x))),
            "dz/dt is data_std F_teacher, with data_std.": value(normed(raw(slope / sd))),
            "z_t has the noise data_std eps, not eps: cos t x + sin t data_std eps.": value(
                normed(raw(z=unit))
            ),
            "The noise is data_std eps, not eps, in z_t and in dz/dt.": value(
                normed(raw(cos * eps - sin * x, z=unit))
            ),
        }
        hint = f"{options or 'defaults'}: |g|^2 / d for each sample, g = tangent / (|tangent| + c)."
        explained(loss.detach(), value(g), hint, likely, 1e-9)
        hint = "Nothing learns: F itself, in front, is no constant."
        assert loss.requires_grad, hint
        found = torch.autograd.grad(loss.sum(), knob)[0]
        right = (-2 * g * net(z / sd, t)).sum() / x[0].numel()  # net is dF / dknob
        likely = {
            "The loss climbs: the target is F + g, not F - g.": -right,
            hint: 0 * right,
            "F is asked at z_t / data_std, not at z_t.": (-2 * g * net(z, t)).sum() / x[0].numel(),
            "Half the gradient: nothing of the F in front is detached.": right / 2,
        }
        hint = "The gradient is -2 <g, dF>: F moves along g, and the target F + g is a constant."
        explained(found, right, hint, likely, 1e-9)
    for given in (None, net):
        one_mask(lambda f: scm_loss(f, x, eps, t, teacher=given), seed)
    wide = scm_loss(net, x.float().double(), eps.float().double(), t, teacher=net)
    close_in_float32(
        scm_loss(recorded(net, []), x.float(), eps.float(), t, teacher=recorded(net, [])),
        wide,
        "The loss",
        1e-4,
    )
    loss = lambda net=net, eps=eps, t=t, **options: scm_loss(net, x, eps, t, **options)
    refuse(lambda eps: loss(eps=eps), misshapen("eps", eps))
    refuse(lambda t: loss(t=t), spoilt("t", t, -0.01, 1.572) | {"One t for six samples": t[:1]})
    refuse(lambda f: loss(f), answers("A network", x))
    refuse(lambda f: loss(teacher=f), answers("A teacher", x))
    bad = [dict(c=0.0), dict(c=-0.1), dict(warmup=1.1), dict(data_std=0.0)]
    refuse(lambda options: loss(**options), {f"{options}": options for options in bad})
