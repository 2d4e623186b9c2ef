"""Phased consistency: cut the way from noise to data into phases, and learn to jump to the edge of each.

    1 ======= edge ======= edge ======= 0        3 phases

        t -> s                                   the teacher takes one small step of its ODE
        t ------> edge                           the student must land where it lands from there:
             s -> edge                           jump(z_t, student) = stopgrad jump(z_s, target)

The network predicts a velocity, as its teacher does, but the student's is the slope of a chord, from t
straight to the edge: jump(z, v) = z + (edge - t) v. One phase is a consistency model (its edge is 0); as many
phases as grid steps is the teacher. The boundary needs no scaling: a jump of length 0 changes nothing,
whatever the network says. (On a DDPM's table PCM's jump is `ddim_step` to the edge.)

How to sample follows from what the network is. To an edge, jump: there the student was trained to land. To a
stop inside a phase the chord leads off the path, and only its end is right. With one phase that end is data,
which fresh noise lifts to the stop; with more there is no right way.

Wang et al. (2024), "Phased consistency models", PCM; Zheng et al. (2024), "Trajectory consistency
distillation", TCD; and FastVideo's distillation of video models, whose plan "4000-1" means: one phase, up to
training step 4000. The adversarial losses of PCM and FastVideo are left out. Rectified flow throughout:
z_t = (1 - t) x + t eps, velocity eps - x, and t is the noise level itself, after any shift.

>>> parse_plan("125-16,250-8")
[(125, 16), (250, 8)]
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minidistill import need
from minidistill.asking import Generator, Number, Whole, ask, mean_square, same_dropout
from minidistill.schedules import Batch, Time, like, mix, randn_like, rectified_flow, shifted

Velocity = Callable[[Batch, Time], Batch]  # (z, t) -> eps - x, or the slope of a chord
Grid = Float[Tensor, " n"]  # rising noise levels from 0 to 1


def parse_plan(text: str) -> list[tuple[int, int]]:
    """ "125-16,250-8" -> [(125, 16), (250, 8)]: up to step 125 sixteen phases, then eight up to 250.

    The limits are training steps, not sampling steps. Raises ValueError for anything that is not
    limit-phases, and for limits that do not rise: "4000-8,4000-4" would never reach its second entry.
    """
    plan = []
    for entry in str(text).split(","):
        limit, dash, phases = entry.strip().partition("-")
        if not (dash and limit.isdecimal() and phases.isdecimal() and int(limit) > 0 and int(phases) > 0):
            raise ValueError(
                f'a plan is a list of limit-phases, such as "125-16,250-8": {entry.strip()!r} is not one'
            )
        if plan and int(limit) <= plan[-1][0]:
            raise ValueError(f"limits must rise: {entry.strip()!r} after step {plan[-1][0]} is never reached")
        plan.append((int(limit), int(phases)))
    return plan


def phases_at(plan: list[tuple[int, int]], step: Whole) -> int:
    """The number of phases at a training step: the first entry whose limit is not passed, then the last.

    Raises ValueError for an empty plan, and unless step is a whole number of at least 0.
    """
    if not plan:
        raise ValueError("a plan needs at least one entry, as from parse_plan")
    step = need.whole("step", step, 0)
    return next((phases for limit, phases in plan if step <= limit), plan[-1][1])


# the grid and its phases


def phase_grid(n: Whole, shift: Number = 1.0, dtype: torch.dtype | None = None) -> Grid:
    """n + 1 rising noise levels from 0 to 1 for n teacher steps, shifted: shift u / (1 + (shift - 1) u).

    FastVideo's and PCM's grid, but for its first entry: theirs is the smallest of 1000 levels, 0.017 at shift
    17, and ours is 0, where their samplers end as well. (FastVideo's training lost its shift in 2025: commit
    b79d1fc15 no longer passes it, 51956369a did.) Both ends are exact. Raises ValueError unless n is a whole
    number of at least 1 and shift is above 0.
    """
    n = need.whole("n", n)
    return shifted(rectified_flow, shift)(torch.linspace(0, 1, n + 1, dtype=dtype))[1]


def linear_quadratic_grid(
    n: Whole, threshold: Number = 0.025, linear: Number = 0.5, dtype: torch.dtype | None = None
) -> Grid:
    """n + 1 rising noise levels from 0 to 1, most of them near 1: the grid of Mochi, a video model.

    The first steps from noise, a share `linear` of all, spend only `threshold` of it; a parabola of the same
    slope spends the rest. A strong shift does the same. Both ends are exact. Raises ValueError unless n is a
    whole number of at least 1, linear lies between 0 and 1, and threshold is above 0 and at most linear.
    """
    n, linear = need.whole("n", n), need.number("linear", linear, above=0, below=1)
    threshold = need.number("threshold", threshold, above=0, most=linear)
    u = torch.linspace(1, 0, n + 1, dtype=dtype)  # the share of the steps that is done
    slope, w = threshold / linear, (u - linear) / (1 - linear)
    # 1 - slope u - (1 - slope) w^2 beyond the joint, written such that both ends are exact
    beyond = (1 - u) * (slope + (1 - slope) * (1 + w) / (1 - linear))
    return torch.where(u <= linear, 1 - slope * u, beyond)


def phase_edges(grid: Grid, phases: Whole) -> Float[Tensor, " m"]:
    """The phases + 1 edges, rising: every (n / phases)-th level of the grid.

    Raises ValueError unless the grid rises from 0 to 1 and phases, at least 1, divides n. Rounded edges are
    no stops of a sampler that takes as many steps: it asks just above an edge, where the student was trained
    for a jump of one small step. With n = 50, 8 phases and shift 17, a perfect student is then hardly better
    than its teacher.
    """
    need.ordered("grid", grid, 1, falls=False)
    if grid[0] != 0 or grid[-1] != 1:
        raise ValueError(f"a grid rises from 0 to 1, got {grid[0].item():g} to {grid[-1].item():g}")
    n, phases = len(grid) - 1, need.whole("phases", phases)
    if n % phases:
        fits = [m for m in range(1, n + 1) if n % m == 0]
        raise ValueError(
            f"{phases} phases do not divide a grid of {n} steps: their edges would fall between the stops of "
            f"the sampler. Possible here: {', '.join(map(str, fits))}"
        )
    return grid[:: n // phases].contiguous()


def phase_end(t: Time, edges: Float[Tensor, " m"]) -> Time:
    """The clean end of the phase of t: the largest edge strictly below t. An edge belongs to the phase below.

    In t's dtype. Raises ValueError unless every t is above the first edge and not above the last.
    """
    need.ordered("edges", edges, 1, falls=False)
    low, high = edges.to(getattr(t, "dtype", None))[[0, -1]].tolist()
    need.each("t", t, t, above=low, most=high, why=": a phase ends below it")
    edges = edges.to(t).contiguous()
    return edges[torch.searchsorted(edges, t.contiguous()).clamp(max=len(edges) - 1) - 1]


def grid_stops(grid: Grid, steps: Whole) -> Float[Tensor, " m"]:
    """steps + 1 falling stops on the training grid, evenly spaced as far as it allows: PCM's and FastVideo's.

    Stop k is level n - floor(k n / steps), the last one level 0. When steps divides the grid these are the
    edges of as many phases. FastVideo's inference takes `phase_grid(steps, shift).flip(0)` instead. Raises
    ValueError unless the grid rises and steps is a whole number from 1 to n.
    """
    need.ordered("grid", grid, 1, falls=False)
    n = len(grid) - 1
    steps = need.whole("steps", steps, 1, n, why=", the steps of the grid")
    return grid[[*(n - k * n // steps for k in range(steps)), 0]]


def flow_matching_loss(velocity: Velocity, x: Batch, eps: Batch, t: Time) -> Time:
    """The teacher's loss: the squared distance of its velocity to eps - x, (b,). Lipman et al. (2023).

    Raises ValueError unless x, eps and the velocity have one shape, with one t for each sample.
    """
    z = mix(x, eps, t, rectified_flow)
    found = ask(velocity, z, t, "velocity")
    return mean_square(found, eps - x).to(x.dtype)


def jump(velocity: Batch, z: Batch, t: Time, s: Time) -> Batch:
    """z + (s - t) velocity: an Euler step, which is DDIM on rectified flow. From t to t nothing changes.

    Raises ValueError unless velocity and z have one shape, with one t and s in [0, 1] for each sample.
    """
    need.samples(velocity=velocity, z=z)
    need.each("t", t, z, 0, 1)
    need.each("s", s, z, 0, 1)
    return (z + like(s - t, z) * velocity).to(z.dtype)


def phased_loss(
    student: Velocity,
    target: Velocity,
    teacher: Velocity,
    x: Batch,
    eps: Batch,
    index: Int[Tensor, " b"],
    grid: Grid,
    edges: Float[Tensor, " m"],
    huber_c: Number = 1e-3,
) -> Time:
    """The distance of the student's jump from t = grid[index] to the target's from grid[index - 1]: (b,).

    Both end at the edge of the phase of t. The target is an average of the student's weights, or the student
    itself: no gradient reaches it. A guided teacher is `guided(conditional, unconditional, scale)`, where LCM
    writes w = scale - 1. The Huber distance sqrt(d^2 + c^2) - c is taken for each number, then averaged, as
    in the original; iCT and ECT take one norm per sample. Student and target are asked with the same dropout
    mask. Raises ValueError for an index outside 1 ... n.
    """
    need.ordered("grid", grid, 1, falls=False)
    need.ordered("edges", edges, 1, falls=False)
    need.each("index", index, x, 1, len(grid) - 1, counts=True, why=": level 0 is clean")
    huber(x[:1], huber_c)  # refuses a wrong huber_c before any work is done
    if not torch.isin(edges.to(grid), grid).all():
        raise ValueError("edges must be levels of the grid, as from phase_edges")
    grid, index = grid.to(x.device), index.long()

    t, s = grid[index], grid[index - 1]
    end = phase_end(t, edges)
    z = mix(x, eps, t, rectified_flow)
    with torch.no_grad():  # a target is a constant
        z_s = jump(ask(teacher, z, t, "velocity"), z, t, s)
    with torch.no_grad(), same_dropout(x):
        # from s = 0 the jump has length 0, and some networks divide by the time: they are asked at t
        wanted = jump(ask(target, z_s, torch.where(s > 0, s, t), "velocity"), z_s, s, end)
    landed = jump(ask(student, z, t, "velocity"), z, t, end)
    return huber(landed - wanted, huber_c)


def huber(distance: Batch, c: Number) -> Time:
    """sqrt(d^2 + c^2) - c of each number d, averaged over the sample: (b,). c = 0 is the absolute value."""
    c = need.number("huber_c", c, least=0)
    need.samples(distance=distance)
    d = distance.to(need.wide(distance.dtype))
    # without the difference of near-equal numbers; the root of 0 has no gradient
    each_number = d**2 / (torch.sqrt(d**2 + c**2) + c) if c > 0 else d.abs()
    return each_number.reshape(len(d), -1).mean(1).to(distance.dtype)


def phased_sample(
    velocity: Velocity,
    z: Batch,
    stops: Float[Tensor, " m"],
    fresh: Number | Float[Tensor, " k"] = 0.0,
    generator: Generator = None,
) -> Batch:
    """From z at stops[0] along falling stops. fresh = 0 is Euler: right from edge to edge, and for a teacher.

    With x_hat = z - t v and eps_hat = z + (1 - t) v, the next state is (1 - s) x_hat + s eps', and eps' =
    sqrt(1 - fresh^2) eps_hat + fresh times new noise. fresh = 1 is LCM's sampler: right for one phase. One
    number for all stops, or one for each after the first. Euler draws no random numbers. Raises ValueError
    unless stops fall within [0, 1] and fresh is in [0, 1].
    """
    need.samples(z=z)
    need.ordered("stops", stops, 1)
    fresh = fresh if isinstance(fresh, Tensor | list | tuple) else need.number("fresh", fresh)
    shares = torch.as_tensor(fresh, dtype=torch.float64, device="cpu")
    need.as_many("shares", shares if shares.ndim else None, len(stops) - 1, "stop but the first")
    shares = shares.expand(len(stops) - 1)
    need.each("fresh", shares, stops[1:], 0, 1, why=": a share of the noise, 0 Euler, 1 re-noise")
    levels = stops.to(z.device).to(need.wide(z.dtype)).reshape(-1, *[1] * z.ndim)
    both = zip(levels, 1 - levels)  # shares of noise and of data
    for now, ((t, keep), (s, keep_s)), share in zip(stops.to(z), pairwise(both), shares.tolist()):
        v = ask(velocity, z, now.expand(len(z)), "velocity")
        x_hat, eps_hat = z - t * v, z + keep * v
        if share > 0 and s > 0:  # at s = 0 only x_hat is left
            eps_hat = math.sqrt(1 - share**2) * eps_hat + share * randn_like(z, generator)
        z = (keep_s * x_hat + s * eps_hat).to(z.dtype)
    return z


def tcd_fresh(stops: Float[Tensor, " k"], gamma: Number) -> Float[Tensor, " k"]:
    """TCD's gamma as a share of fresh noise: `phased_sample(..., fresh=tcd_fresh(stops[1:], 0.3))`.

    TCD jumps to (1 - gamma) s and lifts to s with noise; that is eps' above. 0 is Euler, 1 re-noise. In
    between the marginals are right only for a network that was trained to jump to every s. Zheng et al.
    (2024), in flow form. Raises ValueError unless gamma is in [0, 1] and every stop in [0, 1).
    """
    gamma = need.number("gamma", gamma, 0, 1)
    need.each("stops", stops, stops, least=0, below=1, why=": those that are arrived at, stops[1:]")
    s = stops.to(need.wide(stops.dtype))
    kept = (1 - s) * (1 - gamma) / (1 - (1 - gamma) * s)
    return torch.sqrt(1 - kept**2).to(stops.dtype)


# students without training


def exact_student(flow_map: Callable, edges: Float[Tensor, " m"]) -> Velocity:
    """The perfect phased student of an oracle: the slope from z_t to where its ODE meets the edge.

    flow_map(z, t, s, schedule) is the oracle's. Raises ValueError unless edges rise and each t has one below
    it. A float32 time that stands for a float64 edge is that edge.
    """
    need.ordered("edges", edges, 1, falls=False)

    def velocity(z: Batch, t: Time) -> Batch:
        end = phase_end(t, edges)
        landed = ask(lambda z, t: flow_map(z, t, end, rectified_flow), z, t, "x")
        return ((z - landed) / like(t - end, z)).to(z.dtype)

    velocity.predicts = "velocity"
    return velocity


def aged_student(teacher: Velocity, grid: Grid, edges: Float[Tensor, " m"], age: Whole) -> Velocity:
    """The student after `age` perfect sweeps of training that started at the teacher. Times on the grid only.

    Each sweep lets the target look one sub-step further: `age` steps of the teacher, then straight on to the
    edge. Age 0 is the teacher, and an age of n / phases is the end of training. The teacher is never asked at
    time 0. Raises ValueError for a time off the grid, and unless age is a whole number of at least 0.
    """
    age = need.whole("age", age, 0)
    need.ordered("grid", grid, 1, falls=False)

    def velocity(z: Batch, t: Time) -> Batch:
        need.each("t", t, z)
        levels, end = grid.to(z), phase_end(t, edges)
        distance, index = (levels - t[:, None]).abs().min(dim=1)
        if not need.within(distance, most=need.rounding(t.dtype)):
            raise ValueError(f"this student knows only the times of its grid, got {t.tolist()}")
        start, now = z, t
        for k in range(age + 1):
            s = end if k == age else torch.maximum(levels[(index - k - 1).clamp(min=0)], end)
            z = jump(ask(teacher, z, torch.where(now > 0, now, t), "velocity"), z, now, s)
            now = s
        return ((start - z) / like(t - end, start)).to(start.dtype)

    velocity.predicts = "velocity"
    return velocity
