"""Phased consistency and LCM: the checks on our code, on every mistake of the list, golden numbers, closed forms.

Not planted: an average whose direction is swapped (the loop's, held to a reference in test_train); shape and order
of the original's array of levels (ours is made, not flipped).
"""

import bisect
import inspect
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import einops
import pytest
import torch
from planted import forgets, per_sample, refuses_too, same

from minidistill import lcm, phased
from minidistill.checks import column, exact
from minidistill.checks import lcm as lcm_checks
from minidistill.checks import parameterization as parameterization_checks
from minidistill.checks import phased as checks
from minidistill.lcm import guidance_embedding, lcm_loss, lcm_scalings, lcm_timesteps
from minidistill.oracle import ProductMixture
from minidistill.parameterization import convert, guided
from minidistill.phased import (
    aged_student,
    exact_student,
    grid_stops,
    linear_quadratic_grid,
    parse_plan,
    phase_edges,
    phase_end,
    phase_grid,
    phased_loss,
    phased_sample,
    phases_at,
    tcd_fresh,
)
from minidistill.samplers import ddim, ddim_step, renoise
from minidistill.schedules import beta_table, edm, mix, randn_like, rectified_flow, tabulated, time_grid

GOLDEN = json.loads((Path(__file__).parent / "golden" / "phased.json").read_text())
CHECKS = [
    getattr(module, name)
    for module in (checks, lcm_checks)
    for name in dir(module)
    if name.startswith("check_")
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the mistakes, each one thing changed in code that is otherwise right


def then(reference, change):
    """The reference, whose answer is changed."""
    return lambda *args, **kwargs: change(reference(*args, **kwargs), *args)


def always_double(reference):
    return then(reference, lambda a, *_: tuple(c.double() for c in a) if isinstance(a, tuple) else a.double())


def always_single(reference):
    return then(reference, lambda a, *_: tuple(c.float() for c in a) if isinstance(a, tuple) else a.float())


def detached(reference):
    return then(reference, lambda a, *_: a.detach())


def any_shape(reference, *names):
    """The reference, whose named tensors or networks may have any shape that broadcasts."""
    names_of = list(inspect.signature(reference).parameters)

    def wrong(*args):
        args, z = list(args), args[names_of.index("x" if "x" in names_of else "z")]
        for name in names:
            i = names_of.index(name)
            given = args[i]
            if callable(given):
                args[i] = lambda z, t, given=given: given(z, t).expand_as(z)
            elif len(given) == 1:
                args[i] = given.expand(len(z), *given.shape[1:])
            elif given.ndim > 1:
                args[i] = given.expand_as(z)
        return reference(*args)

    return wrong


def grid_with(levels):
    """The grid, made from levels(n, shift) in the dtype that is asked for."""
    return lambda n, shift=1.0, dtype=None: (phase_grid(n, shift, dtype), levels(n, shift, dtype))[1]


def edges_with(pick):
    def wrong(grid, phases):
        phase_edges(grid, phases)  # refuses what ought to be refused
        return grid[pick(len(grid) - 1, phases)]

    return wrong


def floored(grid, phases):
    """Edges at floor(j n / phases), where phases do not divide: what the originals do."""
    n = len(grid) - 1
    return grid[[*(j * n // phases for j in range(phases)), n]]


def end_with(pick):
    def wrong(t, edges):
        phase_end(t, edges)  # refuses what ought to be refused
        return torch.stack([pick(u, edges) for u in t]).to(t)

    return wrong


def own_end(t, edges):
    """phase_end, as a learner writes it: in the dtypes as they come."""
    return edges[(edges < t[:, None]).sum(1) - 1]


def own_end_checked(t, edges):
    phase_end(t, edges)  # refuses what ought to be refused
    return own_end(t, edges)


def stops_with(levels):
    """The stops at levels(n, steps) of the grid."""

    def wrong(grid, steps):
        grid_stops(grid, steps)  # refuses what ought to be refused
        return grid[[int(i) for i in levels(len(grid) - 1, steps)]]

    return wrong


def below(u, edges):
    return edges[edges < u].max()


def numbers(d, c):
    """Huber's distance of each number."""
    return (d**2 + c**2).sqrt() - c


def loss_with(
    noisy=lambda x, eps, t, s: mix(x, eps, t, rectified_flow),
    small=lambda z, v, t, s, x, eps: z + column(s - t, z) * v,
    end=phase_end,
    student_end=None,
    target_end=None,
    start=lambda t, s: s,
    from_z=False,
    ask=lambda t, s, index: torch.where(s > 0, s, t),
    ask_student=lambda t, s, index: t,
    ask_teacher=lambda t, s, index: t,
    sign=1,
    target_sign=1,
    evaluator=lambda student, target, teacher: (student, target, teacher),
    wanted=None,
    detach="both",
    difference=lambda landed, goal, v, w, length: landed - goal,
    distance=lambda d, c: per_sample(numbers(d, c)),
    flat=False,
    times="data",
    own_edges=False,
    again=False,
):
    """The loss, with one thing changed."""

    def wrong(student, target, teacher, x, eps, index, grid, edges, huber_c=1e-3):
        phased_loss(*[lambda z, t: z] * 3, x, eps, index, grid, edges, huber_c)  # refuses what ought to be
        student, target, teacher = evaluator(student, target, teacher)
        t, s = grid[index], grid[index - 1]
        e = own_end(t.to(x), edges) if own_edges else end(t, edges)
        at = lambda u: u if times == "grid" else u.to(x)
        t, s, e = (t, s, e) if times == "grid" else (t.to(x), s.to(x), e.to(x))
        z = noisy(x, eps, t, s)
        found = same(student(z, at(ask_student(t, s, index))), x)
        if again:
            student(z, t)
        e_student = student_end(t, s, edges.to(t)) if student_end else e
        gap = (e_student - t) if flat else column(e_student - t, z)
        with torch.set_grad_enabled(detach in ("none", "answers")):
            v = same(teacher(z, at(ask_teacher(t, s, index))), x)
        with torch.set_grad_enabled(detach in ("none", "teacher", "answers")):
            z_s = small(z, v, t, s, x, eps)
            last = target_end(t, s, edges.to(t)) if target_end else e
            answer = same(target(z_s, at(ask(t, s, index))), x)
            answer = answer.detach() if detach == "answers" else answer
            origin = z if from_z else z_s
            goal = wanted(z_s) if wanted else origin + target_sign * column(last - start(t, s), z) * answer
        if detach == "all":
            found = found.detach()
        landed = z + sign * gap * found
        return distance(difference(landed, goal, found, answer, column(e - t, z)), huber_c)

    return wrong


def own_edge(t, s, edges):
    """The end of the phase of s, or 0."""
    return torch.where(s > 0, phase_end(torch.where(s > 0, s, t), edges), s)


def sample_with(
    step=None,
    fresh_noise=lambda share, eps_hat, new, s: math.sqrt(1 - share**2) * eps_hat + share * new,
    x_hat=lambda z, t, v: z - t * v,
    eps_hat=lambda z, t, v: z + (1 - t) * v,
    keep=lambda x, s: (1 - s) * x,
    size=lambda s: s,
    last=False,
    at_zero=True,
    ask=lambda t, s: t,
    stops_of=lambda stops: stops,
    share_of=lambda shares, k: shares[k],
    noise="given",
    times="data",
    extra=False,
    before=False,
    clip=None,
    out=lambda z, given: z,
    share_dtype=torch.float64,
    inner_dtype=None,
):
    """The sampler, with one thing changed."""

    def wrong(velocity, z, stops, fresh=0.0, generator=None):
        zero = lambda z, t: 0 * z
        phased_sample(zero, z, stops, fresh, torch.Generator())  # refuses what ought to be refused
        shares = torch.as_tensor(fresh, dtype=share_dtype).expand(len(stops) - 1).tolist()
        given, stops = z, stops_of(stops)
        if noise == "own seed":
            generator = torch.Generator().manual_seed(0)
        if noise == "copy" and generator is not None:
            generator = generator.clone_state()
        draw = lambda: (
            torch.rand(z.shape, generator=generator, dtype=z.dtype)
            if noise == "uniform"
            else torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
            if noise == "float64"
            else randn_like(z, None if noise == "global" else generator)
        )
        kept = draw() if noise == "once" and any(shares) and stops[1] > 0 else None
        for k, (t, s) in enumerate(zip(stops, stops[1:])):
            share = share_of(shares, k)
            now = ask(t, s).expand(len(z))
            v = same(velocity(z, now if times == "stops" else now.to(z)), z)
            if inner_dtype:
                z, v = z.to(inner_dtype), v.to(inner_dtype)
            x, e = x_hat(z, t, v), eps_hat(z, t, v)
            if clip:
                x = x.clamp(-clip, clip)
            if (share > 0 or not at_zero) and (s > 0 or last):
                new = kept if kept is not None else draw()
                e = fresh_noise(share, e, new, s)
                z = keep(x, s) + size(s) * e
            else:
                z = step(z, t, s, v) if step else (1 - s) * x + s * e
            z = z.to(given)
        if extra:
            velocity(z, stops[-1].expand(len(z)).to(z))
        return out(z, given)

    return wrong


def lcm_with(
    scalings=lcm_scalings,
    late=lambda i, k: (i - k).clamp(min=0),
    target_index=lambda i, j: j,
    detach="both",
    time=lambda i, table: (i + 1) / table,
    ask=lambda t, s: s,
    stepped=ddim_step,
    evaluator=lambda student, target, teacher: (student, target, teacher),
    target_f=True,
    times="data",
    distance=lambda d, c: per_sample(numbers(d, c)),
):
    def wrong(student, target, teacher, x, eps, index, schedule, k=20, table=1000, huber_c=1e-3):
        zero = lambda z, t: z
        lcm_loss(zero, zero, zero, x, eps, index, schedule, k, table, huber_c)  # refuses what ought to be
        student, target, teacher = evaluator(student, target, teacher)
        earlier = late(index, k)
        t, s = (time(i.to(torch.float64 if times == "float64" else x.dtype), table) for i in (index, earlier))

        def f(net, z, t, i, on=True):
            c_skip, c_out = (column(c, z) for c in scalings(i.to(z)))
            found = same(net(z, t), z)
            return c_skip * z + c_out * found if on else found

        z = mix(x, eps, t, schedule)
        with torch.set_grad_enabled(detach == "none"):
            x_hat = same(teacher(z, t), z)
        with torch.set_grad_enabled(detach in ("none", "teacher")):
            z_s = stepped(x_hat, z, t, s, schedule)
            goal = f(target, z_s, ask(t, s), target_index(index, earlier), target_f)
        return distance(f(student, z, t, index) - goal, huber_c)

    return wrong


def plan_with(after=None, strict=False, first=0):
    def wrong(plan, step):
        phases_at(plan, step)  # refuses what ought to be refused
        for limit, phases in plan:
            if step < limit or (step == limit and not strict):
                return phases
        return {"str": str(plan[-1][1]), "none": None, "one": 1, "first": plan[0][1]}.get(after, plan[-1][1])

    return wrong


def parse_with(
    cut=lambda entry: entry.partition("-")[::2],
    number=str.isdecimal,
    least=1,
    rises=lambda plan, limit: not plan or limit > plan[-1][0],
    strip=str.strip,
    pair=lambda limit, phases: (limit, phases),
    entries=lambda text: text.split(","),
    error=ValueError,
    out=lambda plan: plan,
):
    """The parser, with one thing changed."""

    def wrong(text):
        plan = []
        for entry in entries(text):
            limit, phases = cut(strip(entry))
            if not (number(limit) and number(phases)) or min(int(limit), int(phases)) < least:
                raise error(f"{entry!r} is no limit-phases")
            if not rises(plan, int(limit)):
                raise error("limits must rise")
            plan.append(pair(int(limit), int(phases)))
        return out(plan)

    return wrong


def lenient_plan(text):
    return [tuple(int(v) for v in entry.split("-")) for entry in text.split(",")]


def as_int(text):
    """Whether int takes the text."""
    try:
        return int(text) is not None
    except ValueError:
        return False


def embedding_with(
    angles=lambda w, f: 1000 * w[:, None] * f,
    frequency=lambda i, h: torch.exp(-math.log(10_000) * i / (h - 1)),
    join=lambda a: torch.cat([a.sin(), a.cos()], 1),
    dtype=None,
):
    """The embedding, with one thing changed."""

    def wrong(w, dim):
        guidance_embedding(w, dim)  # refuses what ought to be refused
        f = frequency(torch.arange(dim // 2, dtype=dtype or w.dtype), dim // 2)
        return join(angles(w, f.to(w))).to(w)

    return wrong


def tcd_with(
    share=lambda k, u, s, gamma: 1 - (k * (1 - gamma)) ** 2, down=lambda gamma, s: (1 - gamma) * s, k=None
):
    """TCD's share: the root of share(k, u, s, gamma)."""

    def wrong(stops, gamma):
        tcd_fresh(stops, gamma)  # refuses what ought to be refused
        u = down(gamma, stops)
        return torch.sqrt(share((1 - stops) / (1 - u) if k is None else k(u, stops), u, stops, gamma))

    return wrong


def by_size(a, z):
    """a in z's shape, where it has as many numbers."""
    return a.reshape(z.shape) if a.numel() == z.numel() else a


def expanded(a, z):
    """a in z's shape, where it would be broadcast."""
    try:
        return a.expand_as(z)
    except RuntimeError:
        return a


def freezing(loss):
    """The loss, which freezes target and teacher and leaves them so."""

    def wrong(student, target, teacher, *rest):
        for net in (target, teacher):
            if isinstance(net, torch.nn.Module) and net is not student:
                net.requires_grad_(False)
        return loss(student, target, teacher, *rest)

    return wrong


def drawing(early):
    """The sampler, whose noise is drawn before the network is asked: all of it, or for each stop."""

    def wrong(velocity, z, stops, fresh=0.0, generator=None):
        phased_sample(
            lambda z, t: 0 * z, z, stops, fresh, torch.Generator()
        )  # refuses what ought to be refused
        shares = torch.as_tensor(fresh, dtype=torch.float64).expand(len(stops) - 1).tolist()
        draw = lambda f, s: (
            torch.randn(z.shape, generator=generator, dtype=z.dtype) if f > 0 and s > 0 else 0 * z
        )
        first = [draw(f, s) for f, s in zip(shares, stops[1:])] if early else None
        for k, (t, s, f) in enumerate(zip(stops.tolist(), stops.tolist()[1:], shares)):
            new = first[k] if early else draw(f, s)
            v = same(velocity(z, z.new_full((len(z),), t)), z)
            eps_hat = z + (1 - t) * v
            eps_hat = math.sqrt(1 - f**2) * eps_hat + f * new if s > 0 else eps_hat
            z = (1 - s) * (z - t * v) + s * eps_hat
        return z

    return wrong


def sample_with_shares(change):
    """The sampler, with other shares of fresh noise."""

    def wrong(velocity, z, stops, fresh=0.0, generator=None):
        phased_sample(
            lambda z, t: 0 * z, z, stops, fresh, torch.Generator()
        )  # refuses what ought to be refused
        shares = torch.as_tensor(fresh, dtype=torch.float64).expand(len(stops) - 1)
        return phased_sample(velocity, z, stops, change(shares, stops[1:]), generator)

    return wrong


def swapped_guidance(conditional, unconditional, scale):
    return guided(unconditional, conditional, scale)


def flow_loss_with(
    velocity=lambda x, eps: eps - x, distance=lambda d: per_sample(d**2), ask=lambda t: t, noisy=mix
):
    def wrong(net, x, eps, t):
        phased.flow_matching_loss(lambda z, t: z, x, eps, t)  # refuses what ought to be refused
        z = noisy(x, eps, t.to(x), rectified_flow)
        found = same(net(z, ask(t.to(x))), z)
        return distance(found - velocity(x, eps))

    return wrong


def f_with(
    index=lambda t, table: (table * t.double()).round() - 1, time=lambda t, z: t.to(z), change=lambda f, x: f
):
    """lcm_function, with one thing changed."""

    def wrong(net, table=1000):
        refuse = lcm.lcm_function(lambda z, t: z, table)

        def f(z, t):
            refuse(z, t)  # what ought to be refused
            x_hat = same(net(z, time(t, z)), z)
            c_skip, c_out = (column(c, z) for c in lcm_scalings(index(t, table).to(z).clamp(min=0)))
            return change(c_skip * z + c_out * x_hat, x_hat)

        return f

    return wrong


def aged_with(asks_zero=False, edges_of=lambda edges: edges, age_of=lambda age: age, nearest=False):
    """aged_student, with one thing changed."""

    def wrong(net, grid, edges, age):
        right = aged_student(net, grid, edges_of(edges), age_of(age))

        def velocity(z, t):
            if nearest:
                t = grid[1:].to(t)[(grid[1:].to(t) - t.nan_to_num()[:, None]).abs().argmin(1)]
            if asks_zero:
                net(z, 0 * t)
            return right(z, t)

        return velocity

    return wrong


def student_with(change=lambda v, z, t, end: v, edges_of=lambda edges: edges, end=phase_end, refuse=True):
    """exact_student, with one thing changed."""

    def wrong(flow_map, edges):
        if refuse:
            exact_student(flow_map, edges)  # refuses what ought to be refused
        edges = edges_of(edges)

        def velocity(z, t):
            e = end(t, edges).to(t)
            return change((z - flow_map(z, t, e, rectified_flow)) / column(t - e, z), z, t, e)

        return velocity

    return wrong


PLAN, AT, GRID, LQ, EDGES, END = (
    checks.check_parse_plan,
    checks.check_phases_at,
    checks.check_phase_grid,
    checks.check_linear_quadratic_grid,
    checks.check_phase_edges,
    checks.check_phase_end,
)
STOPS, FLOW, JUMP, LOSS, SAMPLE, TCD, PERFECT, AGED = (
    checks.check_grid_stops,
    checks.check_flow_matching_loss,
    checks.check_jump,
    checks.check_phased_loss,
    checks.check_phased_sample,
    checks.check_tcd_fresh,
    checks.check_exact_student,
    checks.check_aged_student,
)
STEPS, SCALINGS, F, LCM, W = (
    lcm_checks.check_lcm_timesteps,
    lcm_checks.check_lcm_scalings,
    lcm_checks.check_lcm_function,
    lcm_checks.check_lcm_loss,
    lcm_checks.check_guidance_embedding,
)
line = lambda n, dtype=None: torch.linspace(0, 1, n + 1, dtype=dtype)
quadratic = phased.linear_quadratic_grid
jump = phased.jump

MISTAKES = {
    # edges and their ends
    "edges with the end in the linspace [formula]": (
        EDGES, edges_with(lambda n, m: torch.linspace(0, n - 1, m + 1).long().tolist()), r"every \(n / phases\)-th level"
    ),
    "edges without 1 [formula]": (EDGES, edges_with(lambda n, m: list(range(0, n, n // m))), "The last edge is 1"),
    "edges without 0 [formula]": (EDGES, edges_with(lambda n, m: list(range(n // m, n + 1, n // m))), "The first edge is 0"),
    "edges one level high [formula]": (
        EDGES, edges_with(lambda n, m: [min(j + 1, n) if j else 0 for j in range(0, n + 1, n // m)]), r"every \(n / phases\)-th level"
    ),
    "rounded edges where phases do not divide [refusal]": (EDGES, floored, "do not divide 50 steps"),
    "phases ignored [argument]": (EDGES, edges_with(lambda n, m: [0, n]), "phases is ignored"),
    "edges: falling [formula]": (EDGES, then(phase_edges, lambda e, *_: e.flip(0)), "Edges rise"),
    "edges: even, not of the grid [formula]": (
        EDGES, then(phase_edges, lambda e, *_: torch.linspace(0, 1, len(e)).to(e)), "need not be even"
    ),
    "edges: float64 always [precision]": (EDGES, always_double(phase_edges), "Edges have the dtype of the grid"),
    "edges: float32 always [precision]": (EDGES, always_single(phase_edges), "no further"),
    "edges: a grid that falls once, inside [refusal]": (
        EDGES, forgets(phase_edges, lambda g, m: g[0] == 0 and g[-1] == 1 and g.diff().min() < 0), "falls once, inside"
    ),
    "edges: two equal levels [refusal]": (
        EDGES, forgets(phase_edges, lambda g, m: (g.diff() == 0).any()), "two equal levels"
    ),
    "edges: nan inside [refusal]": (EDGES, forgets(phase_edges, lambda g, m: g.isnan().any()), "A grid with nan"),
    "edges: a grid from 0.02 [refusal]": (EDGES, forgets(phase_edges, lambda g, m: 0 < g[0] < 0.1), "does not start at 0"),
    "edges: a grid up to 0.98 [refusal]": (EDGES, forgets(phase_edges, lambda g, m: 0.9 < g[-1] < 1), "does not end at 1"),
    "edges: as many phases as steps refused [end]": (EDGES, refuses_too(phase_edges, lambda g, m: m == 50), "50 phases on a grid of 50 steps is valid"),
    "edges: half a phase [refusal]": (EDGES, forgets(phase_edges, lambda g, m: m == 2.5), r"2\.5 phases must be refused"),
    "edges: negative phases [refusal]": (EDGES, forgets(phase_edges, lambda g, m: m == -5), "-5 phases must be refused"),
    "edges: more phases than steps [refusal]": (EDGES, forgets(phase_edges, lambda g, m: m > 50), "100 phases of 50 steps"),
    ">= for >: an edge is its own end [formula]": (END, end_with(lambda u, edges: edges[edges <= u].max()), "strictly below t"),
    "the end of the phase above [formula]": (END, end_with(lambda u, edges: edges[edges >= u].min()), "the edge above t"),
    "the end is always 0 [formula]": (END, end_with(lambda u, edges: 0 * u), "one edge for every t, the first"),
    "the nearest edge [formula]": (END, end_with(lambda u, edges: edges[(edges - u).abs().argmin()]), "nearest edge"),
    "end: one edge too far [formula]": (
        END, end_with(lambda u, edges: edges[max(int((edges < u).sum()) - 2, 0)]), "One edge too far down"
    ),
    "end: the number of the edge [formula]": (
        END, end_with(lambda u, edges: ((edges < u).sum() - 1).double()), "the number of the edge"
    ),
    "end: sorted [formula]": (END, then(phase_end, lambda e, *_: e.sort().values), "order of t, which is not sorted"),
    "end: even edges assumed [formula]": (
        END, end_with(lambda u, edges: ((u * (len(edges) - 1)).ceil() - 1) / (len(edges) - 1)), "wherever the edges lie"
    ),
    "end: within 1e-3 of an edge is the edge [end]": (END, end_with(lambda u, edges: below(u - 1e-3, edges).clamp(min=0)
     if (edges < u - 1e-3).any() else edges[0]), "1e-9 above an edge is not that edge"),
    "end: t just below an edge counts as the edge [end]": (
        END, end_with(lambda u, edges: below(u, edges) if not ((edges - u).abs() < 1e-8).any() else below(u + 1e-8, edges)),
        "strictly below t",
    ),
    "end: of the smallest t for all [shape]": (END, then(phase_end, lambda e, *_: e.min().expand_as(e)), "one edge for every t"),
    "end: (b, 1) [shape]": (END, then(phase_end, lambda e, *_: e[:, None]), r"a tensor \(b,\)"),
    "end: a list [shape]": (END, then(phase_end, lambda e, *_: e.tolist()), r"a tensor \(b,\)"),
    "end: in the dtype of the edges [precision]": (END, own_end_checked, "dtype of t"),
    "end: float64 always [precision]": (END, always_double(phase_end), "dtype of t"),
    "end: float32 inside [precision]": (END, lambda t, e: phase_end(t.float(), e.float()).to(t), "no further"),
    "end: t = 0 accepted [refusal]": (END, forgets(phase_end, lambda t, e: (t == e[0]).any()), "t = 0 must be refused"),
    "end: t < 0 accepted [refusal]": (END, forgets(phase_end, lambda t, e: (t < 0).any()), "t = -0.0001 must be refused"),
    "end: t > 1 accepted [refusal]": (END, forgets(phase_end, lambda t, e: (t > e[-1]).any()), "t = 1.0001 must be refused"),
    "end: nan accepted [refusal]": (END, forgets(phase_end, lambda t, e: t.isnan().any()), "t = nan must be refused"),
    "end: refused only when all are bad [refusal]": (
        END, forgets(phase_end, lambda t, e: ((t > e[0]) & (t <= e[-1])).any()), "also as one of many"
    ),
    "end: only the first t looked at [refusal]": (
        END, forgets(phase_end, lambda t, e: e[0] < t[0] <= e[-1]), "also as one of many"
    ),
    "end: 0 and 1 for the ends of the edges [refusal]": (
        END, forgets(phase_end, lambda t, e: ((t > 0) & (t <= 1)).all()), r"above 0\.2, at most 0\.9"
    ),
    "end: t = 1 refused [end]": (END, refuses_too(phase_end, lambda t, e: (t >= 1).any()), "is valid and must not be refused"),
    "end: IndexError for a refusal [refusal]": (
        END, lambda t, e: e[[100]] if ((t <= e[0]) | (t > e[-1])).any() else phase_end(t, e), "With ValueError, not IndexError"
    ),
    # the loss
    "the jump starts at s, not t, for the target's length [formula]": (LOSS, loss_with(start=lambda t, s: t), "its length is e - s"),
    "each side its own edge: phases dissolve [formula]": (LOSS, loss_with(target_end=own_edge), "with that of s, phases dissolve"),
    "both sides the edge of s [formula]": (
        LOSS, loss_with(target_end=own_edge, student_end=own_edge), "to the edge of the phase of t, not to that of s"
    ),
    "the jump goes to 0 [formula]": (LOSS, loss_with(end=lambda t, edges: 0 * t), "Not to 0"),
    "loss: the target's jump goes to 0 [formula]": (LOSS, loss_with(target_end=lambda t, s, e: 0 * t), "same edge as the student, not to 0"),
    "loss: the student's jump goes to 0 [formula]": (LOSS, loss_with(student_end=lambda t, s, e: 0 * t), "to the edge of its phase, not to 0"),
    "loss: an edge is its own end [formula]": (
        LOSS, loss_with(end=lambda t, edges: torch.stack([edges[edges <= u].max() for u in t])), "end at one edge|Strictly below t"
    ),
    "the end is the level above the edge [formula]": (
        LOSS, loss_with(end=lambda t, edges: phase_end(t, edges) + 0.01), "end at one edge"
    ),
    "0 for one side, the smallest level for the other [formula]": (
        LOSS, loss_with(target_end=lambda t, s, edges: phase_end(t, edges).clamp(min=1e-2)), "end at one edge"
    ),
    "the sign of the step [formula]": (LOSS, loss_with(sign=-1), "its length is e - t, not t - e|The student's jump goes down"),
    "loss: the sign of the target's jump [formula]": (LOSS, loss_with(target_sign=-1), "its length is e - s, not s - e"),
    "loss: both signs [formula]": (LOSS, loss_with(sign=-1, target_sign=-1), "Both jumps go down"),
    "loss: the sign of the teacher's step [formula]": (
        LOSS, loss_with(small=lambda z, v, t, s, x, eps: z + column(t - s, z) * v), "s - t is negative"
    ),
    "loss: the teacher steps to the edge [formula]": (
        LOSS, loss_with(small=lambda z, v, t, s, x, eps: z - column(t, z) * v), "not to the edge|small step lands"
    ),
    "loss: the teacher's step without its length [formula]": (LOSS, loss_with(small=lambda z, v, t, s, x, eps: z + v), "has the length s - t"),
    "loss: no teacher's step [formula]": (LOSS, loss_with(small=lambda z, v, t, s, x, eps: z), "after the teacher's step"),
    "loss: the target's jump from z_t [formula]": (LOSS, loss_with(from_z=True), "starts from z_s, not from z_t"),
    "loss: velocities compared [formula]": (LOSS, loss_with(difference=lambda a, b, v, w, r: v - w), "not the velocities"),
    "loss: divided by the length [formula]": (LOSS, loss_with(difference=lambda a, b, v, w, r: (a - b) / r), "no division"),
    "noise and data swapped [formula]": (
        LOSS, loss_with(noisy=lambda x, eps, t, s: mix(eps, x, t, rectified_flow)), "Noise and data are exchanged"
    ),
    "noise of a variance-preserving process [formula]": (
        LOSS, loss_with(noisy=lambda x, eps, t, s: column((1 - t**2).sqrt(), x) * x + column(t, x) * eps), "without a root"
    ),
    "loss: noise as in EDM [formula]": (LOSS, loss_with(noisy=lambda x, eps, t, s: x + column(t, x) * eps), "the data fades, too"),
    "loss: asked at the data [constant]": (LOSS, loss_with(noisy=lambda x, eps, t, s: x), "The student is asked at z_t"),
    "loss: the target's answer at the student's z [constant]": (
        LOSS,
        lambda a, b, c, x, eps, i, grid, edges, h=1e-3: phased_loss(
            a, lambda z, t: b(mix(x, eps, grid[i].to(x), rectified_flow), t), c, x, eps, i, grid, edges, h
        ),
        "The target is asked at z_s, after the teacher's step",
    ),
    "loss: z at s [formula]": (LOSS, loss_with(noisy=lambda x, eps, t, s: mix(x, eps, s, rectified_flow)), "at z_t, not at z_s"),
    "the target asked at t [formula]": (LOSS, loss_with(ask=lambda t, s, i: t), "where z_s is, not at t"),
    "loss: the target asked at 0 [end]": (LOSS, loss_with(ask=lambda t, s, i: s), "Where s = 0 the target is asked at t"),
    "loss: the target asked at a small time for 0 [end]": (
        LOSS, loss_with(ask=lambda t, s, i: s.clamp(min=1e-3)), "Where s = 0 the target is asked at t"
    ),
    "loss: the student asked at s [formula]": (LOSS, loss_with(ask_student=lambda t, s, i: s), "student is asked at t = grid.index., where z_t is"),
    "loss: the student asked at the index [formula]": (LOSS, loss_with(ask_student=lambda t, s, i: i), "not at the index itself"),
    "loss: the student asked at 1000 t [formula]": (LOSS, loss_with(ask_student=lambda t, s, i: 1000 * t), "not at 1000 t"),
    "loss: the teacher asked at s [formula]": (LOSS, loss_with(ask_teacher=lambda t, s, i: s), "teacher is asked at t = grid.index., where z_t is"),
    "loss: index / n for the time [argument]": (LOSS, loss_with(ask_teacher=lambda t, s, i: i / i.max()), "not at index / n"),
    "loss: the student asked twice [formula]": (LOSS, loss_with(again=True), "the student 2 times"),
    "loss: sample by sample [formula]": (
        LOSS,
        lambda a, b, c, x, eps, i, grid, edges, h=1e-3: torch.cat(
            [phased_loss(a, b, c, x[k : k + 1], eps[k : k + 1], i[k : k + 1], grid, edges, h) for k in range(len(x))]
        ) if i.shape == x.shape[:1] and i.min() > 0 else phased_loss(a, b, c, x, eps, i, grid, edges, h),
        "asked once, for the whole batch",
    ),
    "the teacher in the target's place [formula]": (
        LOSS, loss_with(evaluator=lambda student, target, teacher: (student, teacher, teacher)), "the target 0 times"
    ),
    "the student in the target's place [formula]": (
        LOSS, loss_with(evaluator=lambda student, target, teacher: (student, student, teacher)), "the student 2 times"
    ),
    "the student in the teacher's place [formula]": (
        LOSS, loss_with(evaluator=lambda student, target, teacher: (student, target, student)), "the student 2 times"
    ),
    "fresh noise in the teacher's step [random]": (
        LOSS,
        loss_with(small=lambda z, v, t, s, x, eps: mix(z - column(t, z) * v, eps.flip(0), s, rectified_flow)),
        "no new noise",
    ),
    "consistency training: z_s from the data [formula]": (
        LOSS, loss_with(small=lambda z, v, t, s, x, eps: mix(x, eps, s, rectified_flow)), "not from the data and the noise"
    ),
    "the target is z_s, everywhere [formula]": (LOSS, loss_with(wanted=lambda z_s: z_s), "not z_s everywhere"),
    "the gradient reaches target and teacher [gradient]": (LOSS, loss_with(detach="none"), "No gradient may reach the target"),
    "loss: the gradient reaches the target [gradient]": (LOSS, loss_with(detach="teacher"), "No gradient may reach the target"),
    "loss: the gradient reaches the teacher [gradient]": (LOSS, loss_with(detach="answers"), "No gradient may reach the teacher"),
    "loss: everything detached [gradient]": (LOSS, detached(phased_loss), "must flow through the student's jump"),
    "loss: the student detached in its jump [gradient]": (LOSS, loss_with(detach="all"), "must flow through the student's jump"),
    "loss: gradients scaled, not the value [gradient]": (
        LOSS, then(phased_loss, lambda a, *_: (2 * a - a.detach()) if a.requires_grad else a), "The gradient is that of Huber's"
    ),
    "loss: gradients off afterwards [gradient]": (
        LOSS, then(phased_loss, lambda a, *_: (a, torch.set_grad_enabled(False))[0]), "set_grad_enabled.False. stays behind"
    ),
    "Huber without - c [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d, c) + c)), "Without - c"),
    "Huber with c instead of its square [formula]": (
        LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d, c**0.5))), "c in place of its square"
    ),
    "the sum over a sample [formula]": (LOSS, loss_with(distance=lambda d, c: numbers(d, c).reshape(len(d), -1).sum(1)), "not the sum"),
    "one norm over the sample [formula]": (
        LOSS, loss_with(distance=lambda d, c: (d.reshape(len(d), -1).square().sum(1) + c**2).sqrt() - c), "One norm over the sample"
    ),
    "loss: the mean inside the root [formula]": (
        LOSS, loss_with(distance=lambda d, c: (per_sample(d**2) + c**2).sqrt() - c), "The mean inside the root"
    ),
    "squares [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(d**2)), "Squares in place of Huber"),
    "loss: absolute values [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(d.abs())), "c is ignored"),
    "loss: c times too much [formula]": (LOSS, loss_with(distance=lambda d, c: c * per_sample(numbers(d, c))), "One factor c too many"),
    "loss: c fixed [argument]": (LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d, 1e-3))), "huber_c is ignored"),
    "loss: the default c [argument]": (
        LOSS, lambda a, b, c, x, eps, i, g, e, h=1e-2: phased_loss(a, b, c, x, eps, i, g, e, h), "1e-3 by default"
    ),
    "the mean over the batch [shape]": (LOSS, loss_with(distance=lambda d, c: numbers(d, c).mean()), "one number per sample"),
    "(b,) over the width [shape]": (LOSS, loss_with(flat=True), "along the wrong axis"),
    "loss: two axes after the batch assumed [shape]": (LOSS, loss_with(distance=lambda d, c: numbers(d, c).mean((1, 2))), "one number per sample"),
    "loss: the time in the grid's dtype [precision]": (LOSS, loss_with(times="grid"), "gets t in the dtype of z"),
    "loss: float64 always [precision]": (LOSS, always_double(phased_loss), "The loss has the dtype of the data"),
    "loss: float32 inside [precision]": (
        LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d.float(), c)).to(d)), "no further"
    ),
    "loss: t cast to float32 before the edges [precision]": (LOSS, loss_with(own_edges=True), "right in float64, but not for float32"),
    "loss: huber_c = 0 refused [end]": (
        LOSS, refuses_too(phased_loss, lambda *a, **_: len(a) > 8 and a[8] == 0), "huber_c = 0 is valid"
    ),
    "loss: index 0 accepted among others [refusal]": (
        LOSS, forgets(phased_loss, lambda *a: (a[5] == 0).any() and (a[5] > 0).any()), "Index 0, where nothing starts"
    ),
    "loss: index -1 accepted [refusal]": (LOSS, forgets(phased_loss, lambda *a: (a[5] < 0).any()), "Index -1"),
    "loss: index n + 1 accepted [refusal]": (LOSS, forgets(phased_loss, lambda *a: (a[5] >= len(a[6])).any()), "Index n . 1"),
    "loss: one index for all [refusal]": (LOSS, forgets(phased_loss, lambda *a: len(a[5]) == 1), "1 indices for"),
    "loss: too many indices [refusal]": (LOSS, forgets(phased_loss, lambda *a: len(a[5]) > len(a[3])), "11 indices for"),
    "loss: eps of one sample [refusal]": (LOSS, forgets(phased_loss, lambda *a: len(a[4]) == 1), "eps of another shape"),
    "loss: eps with one channel [refusal]": (LOSS, forgets(phased_loss, lambda *a: a[4].shape[1] == 1 < a[3].shape[1]), "eps of another shape"),
    "loss: a negative c [refusal]": (LOSS, forgets(phased_loss, lambda *a: a[8] < 0), r"huber_c = -1\.0"),
    "loss: c is nan [refusal]": (LOSS, forgets(phased_loss, lambda *a: a[8] != a[8]), "huber_c = nan"),
    "loss: a student of another shape [refusal]": (LOSS, any_shape(phased_loss, "student"), "A student that answers in another shape"),
    "loss: a target of another shape [refusal]": (LOSS, any_shape(phased_loss, "target"), "A target that answers in another shape"),
    "loss: a teacher of another shape [refusal]": (LOSS, any_shape(phased_loss, "teacher"), "A teacher that answers in another shape"),
    # grids
    "shift ignored [argument]": (GRID, grid_with(lambda n, a, d: line(n, d)), "The shift is ignored"),
    "shifted twice [formula]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a**2, d)), "Shifted twice"),
    "shift inverted [formula]": (GRID, grid_with(lambda n, a, d: phase_grid(n, 1 / a, d)), "The shift is inverted"),
    "a grid that never reaches 1 [end]": (GRID, grid_with(lambda n, a, d: phase_grid(n + 1, a, d)[:-1]), "To exactly 1, the noise"),
    "a grid that ends at its smallest level, not 0 [end]": (
        GRID, grid_with(lambda n, a, d: phase_grid(n, a, d).clamp(min=phase_grid(1000, a, d)[1].item())), "From exactly 0, the data"
    ),
    "a grid that falls [formula]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a, d).flip(0)), "From exactly 0, the data, rising"),
    "grid: n levels [shape]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a, d)[:n]), "lie between 2 levels"),
    "grid: shifted for more than 6 steps only [argument]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a if n > 6 else 1, d)), "The shift is ignored"),
    "grid: dtype ignored, float64 always [argument]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a, torch.float64)), "dtype=torch.float32 is asked for"),
    "grid: dtype ignored, float32 always [argument]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a)), "dtype=torch.float64 is asked for"),
    "grid: the default is float64 [argument]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a, d or torch.float64)), "it is torch's default"),
    "grid: computed in float32 [precision]": (GRID, grid_with(lambda n, a, d: phase_grid(n, a).to(d or torch.float32)), "no further"),
    "grid: a shift above 17 ignored [argument]": (GRID, grid_with(lambda n, a, d: phase_grid(n, min(a, 5.0), d)), "Level i is a u"),
    "grid: a shift below 1 refused [end]": (GRID, refuses_too(phase_grid, lambda n, a=1.0, **_: a == 0.5), r"with shift 0\.5 is valid"),
    "grid: half a step [refusal]": (GRID, lambda n, shift=1.0, dtype=None: phase_grid(int(n) if n == 2.5 else n, shift, dtype), r"A grid of 2\.5 steps"),
    "grid: no steps [refusal]": (GRID, forgets(phase_grid, lambda n, *a, **_: n == 0), "A grid of 0 steps"),
    "grid: shift nan [refusal]": (GRID, forgets(phase_grid, lambda n, a=1.0, **_: a != a), "A shift of nan"),
    "grid: a negative shift [refusal]": (GRID, forgets(phase_grid, lambda n, a=1.0, **_: a < 0), r"A shift of -1\.0"),
    "the parabola from 0 [formula]": (
        LQ,
        lambda n, threshold=0.025, linear=0.5, dtype=None: quadratic(n, threshold, linear, dtype)
        .where(1 - line(n, dtype) <= linear, 1 - threshold - (1 - threshold) * ((1 - line(n, dtype) - linear) / (1 - linear)) ** 2),
        "At the joint the slope jumps",
    ),
    "lq: two lines [formula]": (
        LQ,
        lambda n, threshold=0.025, linear=0.5, dtype=None: quadratic(n, threshold, linear, dtype)
        .where(1 - line(n, dtype) <= linear, (1 - threshold) * line(n, dtype) / (1 - linear)),
        "meet in a corner",
    ),
    "lq: rising from noise [formula]": (LQ, then(quadratic, lambda a, *_: a.flip(0)), "From exactly 0, the data, rising"),
    "lq: threshold and linear exchanged by default [argument]": (
        LQ, lambda n, threshold=0.5, linear=0.5, dtype=None: quadratic(n, threshold, linear, dtype), "By default threshold is 0.025"
    ),
    "lq: threshold fixed [argument]": (
        LQ, lambda n, threshold=0.025, linear=0.5, dtype=None: (quadratic(n, threshold, linear), quadratic(n, 0.025, linear, dtype))[1],
        "threshold is ignored",
    ),
    "lq: float64 always [argument]": (
        LQ, lambda n, *a, dtype=None: quadratic(n, *a, dtype=torch.float64), "dtype=torch.float32 is asked for"
    ),
    "lq: no steps [refusal]": (LQ, forgets(quadratic, lambda n, *a, **_: n == 0), "A grid of 0 steps"),
    "lq: linear = 1 [refusal]": (LQ, forgets(quadratic, lambda n, t=0.1, l=0.5, **_: l == 1), r"linear = 1\.0"),
    "lq: linear nan [refusal]": (LQ, forgets(quadratic, lambda n, t=0.1, l=0.5, **_: l != l), "linear = nan"),
    "lq: threshold above linear [refusal]": (LQ, forgets(quadratic, lambda n, t=0.1, l=0.5, **_: t == 0.6), r"threshold = 0\.6"),
    "lq: a negative threshold [refusal]": (LQ, forgets(quadratic, lambda n, t=0.1, l=0.5, **_: t < 0), r"threshold = -0\.1"),
    "lq: threshold equal to linear refused [end]": (LQ, refuses_too(quadratic, lambda n, t=0.1, l=0.5, **_: t == l), "is valid"),
    "stops rounded to the data [formula]": (
        STOPS, stops_with(lambda n, k: [*(n - math.ceil(i * n / k) for i in range(k)), 0]), "Rounded towards the data"
    ),
    "stops with the end in the linspace [formula]": (
        STOPS, stops_with(lambda n, k: n - torch.linspace(0, n - 1, k + 1).long()), "Stop k is level n"
    ),
    "stops: rising [formula]": (STOPS, then(grid_stops, lambda a, *_: a.flip(0)), "Stops fall"),
    "stops: without 0 [end]": (STOPS, then(grid_stops, lambda a, *_: a[:-1]), "The last stop is 0"),
    "stops: n // steps first [formula]": (
        STOPS, stops_with(lambda n, k: [*(n - i * (n // k) for i in range(k)), 0]), "rounded before it is multiplied"
    ),
    "stops: the nearest level [formula]": (
        STOPS, stops_with(lambda n, k: [round(n - i * n / k) for i in range(k + 1)]), "Rounded to the nearest"
    ),
    "stops: evenly spaced, between the levels [formula]": (STOPS, lambda g, k: (grid_stops(g, k), phase_grid(k, 3.0 if g[1] > 1 / (len(g) - 1) + 1e-6 else 1.0, g.dtype).flip(0))[1], "lie between them"),
    "stops: squares [formula]": (STOPS, then(grid_stops, lambda a, g, k: torch.linspace(1, 0, k + 1).to(g) ** 2), "Stop k is level"),
    "stops: float64 always [precision]": (STOPS, always_double(grid_stops), "Stops have the dtype of the grid"),
    "stops: 51 of 50 [refusal]": (STOPS, forgets(grid_stops, lambda g, k: k == 51), "51 steps on a grid of 50"),
    "stops: all steps refused [end]": (STOPS, refuses_too(grid_stops, lambda g, k: k == 50), "50 steps on a grid of 50 is valid"),
    "stops: half a step [refusal]": (STOPS, forgets(grid_stops, lambda g, k: k == 2.5), r"2\.5 steps on a grid of 50"),
    "stops: a grid that falls once [refusal]": (
        STOPS, forgets(grid_stops, lambda g, k: g[0] < g[-1] and g.diff().min() < 0), "falls once, inside"
    ),
    # the teacher's loss and the jump
    "flow: x - eps [formula]": (FLOW, flow_loss_with(velocity=lambda x, eps: x - eps), "not x - eps"),
    "flow: the noise [formula]": (FLOW, flow_loss_with(velocity=lambda x, eps: eps), "not the noise"),
    "flow: the data [formula]": (FLOW, flow_loss_with(velocity=lambda x, eps: x), "not the data"),
    "flow: noise and data exchanged [formula]": (FLOW, flow_loss_with(noisy=lambda x, eps, t, f: mix(eps, x, t, f)), "Noise and data are exchanged"),
    "flow: asked at 1000 t [formula]": (FLOW, flow_loss_with(ask=lambda t: 1000 * t), "not at 1000 t"),
    "flow: asked at the data [constant]": (FLOW, flow_loss_with(noisy=lambda x, eps, t, f: x), "asked at z = .1 - t. x"),
    "flow: the sum [formula]": (FLOW, flow_loss_with(distance=lambda d: (d**2).reshape(len(d), -1).sum(1)), "not the sum"),
    "flow: absolute values [formula]": (FLOW, flow_loss_with(distance=lambda d: per_sample(d.abs())), "not the absolute one"),
    "flow: the mean over the batch [shape]": (FLOW, flow_loss_with(distance=lambda d: (d**2).mean()), "the mean is over all axes but the first"),
    "flow: images alone [shape]": (FLOW, flow_loss_with(distance=lambda d: (d**2).mean((-2, -1))), "the mean is over all axes but the first"),
    "flow: detached [gradient]": (FLOW, detached(phased.flow_matching_loss), "The gradient must reach the network"),
    "flow: gradient of half [gradient]": (
        FLOW, then(phased.flow_matching_loss, lambda a, *_: a / 2 + a.detach() / 2), "The gradient is that of the square"
    ),
    "flow: float64 always [precision]": (FLOW, always_double(phased.flow_matching_loss), "The loss has the dtype"),
    "flow: the time in its own dtype [precision]": (
        FLOW,
        lambda net, x, eps, t: (
            phased.flow_matching_loss(lambda z, t: z, x, eps, t),
            phased.flow_matching_loss(lambda z, u: net(z, t), x, eps, t),
        )[1],
        "gets t in the dtype of z",
    ),
    "flow: noise of one sample for all [refusal]": (FLOW, forgets(phased.flow_matching_loss, lambda n, x, eps, t: len(eps) == 1), "Noise of another shape"),
    "flow: t = 1 refused [end]": (FLOW, refuses_too(phased.flow_matching_loss, lambda n, x, eps, t: (t == 1).any()), "is valid and must not be refused"),
    "flow: one time for all [refusal]": (FLOW, forgets(phased.flow_matching_loss, lambda n, x, eps, t: len(t) == 1), r"Times of shape \(1,\)"),
    "flow: any shape [refusal]": (FLOW, any_shape(phased.flow_matching_loss, "velocity"), "A velocity of another shape"),
    "jump: t - s [formula]": (JUMP, then(jump, lambda a, v, z, t, s: 2 * z - a), "s - t, not t - s"),
    "jump: no length [formula]": (JUMP, then(jump, lambda a, v, z, t, s: z + v), "multiplied by the length"),
    "jump: to 0 [formula]": (JUMP, then(jump, lambda a, v, z, t, s: z - column(t, z) * v), "not at 0"),
    "jump: without z [formula]": (JUMP, then(jump, lambda a, v, z, t, s: a - z), "The jump starts at z"),
    "jump: four axes alone [shape]": (
        JUMP, lambda v, z, t, s: (jump(v, z, t, s), z + (s - t).to(z)[:, None, None, None] * v)[1], "sample by sample"
    ),
    "jump: detached [gradient]": (JUMP, detached(jump), "The gradient flows through the velocity"),
    "jump: float64 always [precision]": (JUMP, always_double(jump), "A jump has the dtype"),
    "jump: a velocity of one sample [refusal]": (JUMP, any_shape(jump, "velocity"), "A velocity of another shape"),
    "jump: one t for all [refusal]": (JUMP, any_shape(jump, "t"), "One t for four samples"),
    "jump: one s for all [refusal]": (JUMP, any_shape(jump, "s"), "One s for four samples"),
    "jump: s below 0 [refusal]": (JUMP, forgets(jump, lambda v, z, t, s: (s < 0).any()), r"An s outside \[0, 1\]"),
    "jump: length zero refused [end]": (JUMP, refuses_too(jump, lambda v, z, t, s: torch.equal(s, t)), "A jump of length zero is valid"),
    "jump: nan [refusal]": (JUMP, forgets(jump, lambda v, z, t, s: t.isnan().any()), r"A t outside \[0, 1\]"),
    # plans
    "guidance w for scale [formula]": (
        parameterization_checks.check_guided, lambda conditional, unconditional, scale: guided(conditional, unconditional, scale + 1), "scale"
    ),
    "guidance swapped [formula]": (parameterization_checks.check_guided, swapped_guidance, "swapped"),
    "plan: a limit excluded [end]": (AT, plan_with(strict=True), "a limit is included"),
    "plan: text after the last limit [end]": (AT, plan_with(after="str"), "After the last limit, the last phases"),
    "plan: nothing after the last limit [end]": (AT, plan_with(after="none"), "After the last limit, the last phases"),
    "plan: one phase after the last limit [end]": (AT, plan_with(after="one"), "After the last limit, the last phases"),
    "plan: the first phases after the last limit [end]": (AT, plan_with(after="first"), "After the last limit, the last phases"),
    "plan: the most phases whose limit is not passed [formula]": (
        AT, lambda plan, step: (phases_at(plan, step), max([p for l, p in plan if step <= l] or [plan[-1][1]]))[1], "Plans may fall or rise"
    ),
    "plan: text [formula]": (AT, then(phases_at, lambda p, *_: str(p)), "The phases are an int"),
    "plan: floats [formula]": (AT, then(phases_at, lambda p, *_: float(p)), "The phases are an int"),
    "plan: used up [argument]": (AT, lambda plan, step: (phases_at(plan, step), plan[:1] != [(4000, 1)] and step == 10**6 and plan.pop())[0], "stays as it is"),
    "plan: step 0 refused [end]": (AT, refuses_too(phases_at, lambda plan, step: step == 0), "Step 0 of .* is valid"),
    "plan: empty gives 1 [refusal]": (AT, lambda plan, step: phases_at(plan, step) if plan else 1, "An empty plan"),
    "plan: a negative step [refusal]": (AT, forgets(phases_at, lambda plan, step: step < 0), "A negative step"),
    "plan: half a step [refusal]": (AT, forgets(phases_at, lambda plan, step: step == 1.5), "Half a step"),
    "plan: everything is accepted [refusal]": (PLAN, lenient_plan, "is valid and must not be refused|must be refused"),
    "parse: limits compared with the first [refusal]": (
        PLAN, parse_with(rises=lambda plan, limit: not plan or limit > plan[0][0]), "A limit not above the one before it"
    ),
    "parse: only the first and the last limit compared [refusal]": (
        PLAN,
        lambda text: (lambda plan: plan if len(plan) == 1 or plan[0][0] < plan[-1][0] else parse_plan(text))(
            parse_with(rises=lambda plan, limit: True)(text)
        ),
        "A limit not above the one before it",
    ),
    "parse: equal limits [refusal]": (PLAN, parse_with(rises=lambda plan, limit: not plan or limit >= plan[-1][0]), "A limit not above the one before"),
    "parse: falling phases demanded [end]": (
        PLAN, lambda text: refuses_too(parse_plan, lambda text: text == "10-4,20-8")(text), "phases may rise, only limits must. is valid"
    ),
    "parse: a third number dropped [refusal]": (PLAN, parse_with(cut=lambda e: [*e.split("-", 2), ""][:2]), "A third number must be refused"),
    "parse: int alone [refusal]": (PLAN, parse_with(number=as_int), "must be refused"),
    "parse: isdigit after blanks are dropped [refusal]": (PLAN, parse_with(strip=lambda e: e.replace(" ", "")), "A blank inside an entry"),
    "parse: underscores [refusal]": (PLAN, parse_with(number=lambda a: a.replace("_", "").isdecimal()), "An underscore must be refused"),
    "parse: signs [refusal]": (PLAN, parse_with(number=lambda a: a.lstrip("+").isdecimal()), "A sign must be refused"),
    "parse: zero phases [refusal]": (PLAN, parse_with(least=0), "Zero phases must be refused"),
    "parse: empty entries skipped [refusal]": (PLAN, parse_with(entries=lambda t: [e for e in t.split(",") if e.strip()]), "An empty entry must be refused"),
    "parse: only the first entry looked at [refusal]": (
        PLAN,
        lambda text: [(int(re.findall("[0-9]+", e)[0]), int(re.findall("[0-9]+", e)[1])) for e in text.split(",")]
        if parse_plan(text.split(",")[0]) else [],
        "wherever it stands",
    ),
    "parse: IndexError [refusal]": (PLAN, parse_with(error=IndexError), "With ValueError, not IndexError"),
    "parse: phases first [formula]": (PLAN, parse_with(pair=lambda a, b: (b, a)), "The limit comes first"),
    "parse: text [formula]": (PLAN, parse_with(out=lambda plan: [(str(a), b) for a, b in plan]), "Limits and phases are ints"),
    "parse: entries of three [shape]": (PLAN, parse_with(out=lambda plan: [(a, b, 0) for a, b in plan]), "Each entry is a pair"),
    "parse: a dict [shape]": (PLAN, parse_with(out=dict), "A plan is a list of pairs"),
    "parse: the first entry alone [formula]": (PLAN, parse_with(out=lambda plan: plan[:1]), "every entry, in order"),
    "parse: blanks refused [end]": (PLAN, parse_with(strip=str), "blanks around an entry do no harm. is valid"),
    "parse: 1 phase refused [end]": (PLAN, parse_with(least=2), "is valid and must not be refused"),
    "parse: equal limits with other phases [refusal]": (
        PLAN, parse_with(rises=lambda plan, limit: not plan or limit >= plan[-1][0]), "A limit not above the one before"
    ),
    "parse: limits compared as text [end]": (
        PLAN, parse_with(rises=lambda plan, limit: not plan or str(limit) > str(plan[-1][0])), "9 lies below 10. is valid"
    ),
    "parse: 4000-1.0 [refusal]": (
        PLAN, lambda text: parse_plan(text.replace(".0", "")), "A fraction, also one of value 1"
    ),
    "parse: an exponent [refusal]": (PLAN, lambda text: parse_plan(text.replace("1e3", "1000")), "An exponent"),
    "parse: ; for a comma [refusal]": (PLAN, lambda text: parse_plan(text.replace(";", ",")), "Another separator than a comma"),
    "parse: a line for each entry [refusal]": (PLAN, lambda text: parse_plan(text.replace("\n", ",")), "Another separator than a comma"),
    "parse: : for a dash [refusal]": (PLAN, lambda text: parse_plan(text.replace(":", "-")), "Another sign than the dash"),
    "parse: an en dash [refusal]": (PLAN, lambda text: parse_plan(text.replace("\u2013", "-")), "Another sign than the dash"),
    "parse: a letter after it [refusal]": (PLAN, lambda text: parse_plan(text.rstrip("x")), "Something after the phases"),
    "parse: at most 64 phases [end]": (PLAN, parse_with(pair=lambda a, b: (a, min(b, 64))), "nothing is the largest"),
    "parse: at most 99999 steps [end]": (PLAN, parse_with(pair=lambda a, b: (min(a, 99999), b)), "nothing is the largest"),
    "parse: powers of two alone [end]": (
        PLAN, lambda text: then(parse_plan, lambda plan, _: refuses_too(lambda p: p, lambda p: any(b & (b - 1) for _, b in p))(plan))(text), "is valid"
    ),
    "parse: more phases than steps refused [end]": (
        PLAN, lambda text: then(parse_plan, lambda plan, _: refuses_too(lambda p: p, lambda p: any(b > a for a, b in p))(plan))(text), "is valid"
    ),
    "plan: the fewest phases after the last limit [end]": (
        AT, lambda plan, step: (phases_at(plan, step), min(p for _, p in plan) if step > plan[-1][0] else phases_at(plan, step))[1],
        "After the last limit, the last phases",
    ),
    "grid: a list [shape]": (GRID, then(phase_grid, lambda a, *_: a.tolist()), "A grid is a tensor, not list"),
    "lq: a list [shape]": (LQ, then(quadratic, lambda a, *_: a.tolist()), "A grid is a tensor, not list"),
    "edges: a list [shape]": (EDGES, then(phase_edges, lambda a, *_: a.tolist()), "The edges are a tensor, not list"),
    "stops: a list [shape]": (STOPS, then(grid_stops, lambda a, *_: a.tolist()), "The stops are a tensor, not list"),
    "TCD: a list [shape]": (TCD, then(tcd_fresh, lambda a, *_: a.tolist()), "The shares are a tensor, not list"),
    "lq: one step refused [end]": (LQ, refuses_too(quadratic, lambda n, *a, **_: n == 1), "n = 1, .* is valid"),
    "edges: a grid from 1e-4 [refusal]": (EDGES, forgets(phase_edges, lambda g, m: 0 < g[0] < 1e-3), "does not start at 0, but at 1e-4"),
    "edges: a grid up to 0.9999 [refusal]": (EDGES, forgets(phase_edges, lambda g, m: 0.999 < g[-1] < 1), "does not end at 1, but at 0.9999"),
    "stops: equal levels [refusal]": (STOPS, forgets(grid_stops, lambda g, k: (g.diff() == 0).any() and k == 5), "has two equal levels"),
    "stops: nan in the grid [refusal]": (STOPS, forgets(grid_stops, lambda g, k: g.isnan().any()), "holds nan"),
    **{
        f"end: just above the first edge refused, {a} [end]": (
            END, refuses_too(phase_end, lambda t, e, a=a: ((t > e[0]) & (t < e[0] + a)).any()), "is valid and must not be refused"
        )
        for a in (1e-4, 1e-3, 1e-2)
    },
    "end: up to 0.01 above the last edge [refusal]": (END, forgets(phase_end, lambda t, e: t.max() <= e[-1] + 1e-2 and t.min() > e[0]), "t = 1.0001 must be"),
    "end: inf accepted [refusal]": (END, forgets(phase_end, lambda t, e: t.max() == math.inf), "t = inf must be refused"),
    **{
        f"end: range tested at {name} alone [refusal]": (
            END, forgets(phase_end, lambda t, e, part=part: bool(((t[part] > e[0]) & (t[part] <= e[-1])).all())), "also as one of many"
        )
        for name, part in {"all but the last": slice(0, -1), "all but the first": slice(1, None), "the middle": slice(1, -1)}.items()
    },
    "flow: the noise's shape by its size [refusal]": (
        FLOW, lambda v, x, eps, t: phased.flow_matching_loss(v, x, eps.reshape(x.shape) if eps.numel() == x.numel() else eps, t), "Noise of another shape"
    ),
    "flow: the velocity's shape by its size [refusal]": (
        FLOW, lambda v, x, eps, t: phased.flow_matching_loss(lambda z, t: by_size(v(z, t), z), x, eps, t), "A velocity of another shape"
    ),
    "flow: t.clamp(1e-3) [end]": (FLOW, flow_loss_with(ask=lambda t: t.clamp(min=1e-3)), "no clamp"),
    "flow: clipped [formula]": (FLOW, lambda v, x, eps, t: phased.flow_matching_loss(lambda z, t: v(z, t).clamp(-20, 20), x, eps, t), "nothing is clipped"),
    "jump: up refused [end]": (JUMP, refuses_too(jump, lambda v, z, t, s: (s > t).any()), "is valid and must not be refused"),
    "jump: short ones left out [end]": (
        JUMP, lambda v, z, t, s: jump(v, z, t, torch.where((s - t).abs() < 1e-3, t, s)), "A short jump is a jump, too"
    ),
    "loss: a small s counts as 0, 1e-3 [end]": (LOSS, loss_with(ask=lambda t, s, i: torch.where(s > 1e-3, s, t)), "a small s is a time like any other"),
    "loss: a small s counts as 0, 1e-2 [end]": (LOSS, loss_with(ask=lambda t, s, i: torch.where(s > 1e-2, s, t)), "a small s is a time like any other"),
    "loss: differences clipped at 10 [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d.clamp(-10, 10), c))), "[Nn]othing is clipped"),
    "loss: differences clipped at 2 [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d.clamp(-2, 2), c))), "[Nn]othing is clipped"),
    "loss: landings clipped at 20 [formula]": (
        LOSS, loss_with(difference=lambda a, b, *_: a.clamp(-20, 20) - b.clamp(-20, 20)), "[Nn]othing is clipped"
    ),
    "loss: the goal clipped at 3 [formula]": (LOSS, loss_with(difference=lambda a, b, *_: a - b.clamp(-3, 3)), "[Nn]othing is clipped"),
    "loss: velocities clipped at 2 [formula]": (
        LOSS,
        lambda a, b, c, *rest: phased_loss(*(lambda z, t, f=f: f(z, t).clamp(-2, 2) for f in (a, b)), c, *rest),
        "[Nn]othing is clipped",
    ),
    "loss: small differences are none [formula]": (
        LOSS, loss_with(difference=lambda a, b, *_: torch.where((a - b).abs() < 1e-6, 0 * a, a - b)), "not for small ones"
    ),
    "loss: the mean of the batch for each [shape]": (LOSS, loss_with(distance=lambda d, c: numbers(d, c).mean().expand(len(d))), "over each sample, not over the batch"),
    "loss: four axes assumed [shape]": (
        LOSS,
        loss_with(
            difference=lambda a, b, v, w, r: a - r * v + r.reshape(-1, 1, 1, 1) * v - b if v.ndim == 2 else a - b
        ),
        "not always four",
    ),
    "loss: samples mixed [shape]": (LOSS, loss_with(distance=lambda d, c: numbers(d, c).reshape(-1, len(d)).mean(0)), "not over the batch|samples are mixed"),
    "loss: torch's huber_loss [formula]": (
        LOSS,
        loss_with(distance=lambda d, c: per_sample(torch.nn.functional.huber_loss(d, 0 * d, reduction="none", delta=c or 1.0))),
        "not torch's huber_loss",
    ),
    "loss: c scaled as in iCT [formula]": (LOSS, loss_with(distance=lambda d, c: per_sample(numbers(d, c * d[0].numel() ** 0.5))), "not scaled"),
    "loss: divided by t - s [formula]": (
        LOSS, lambda a, b, c, x, eps, i, g, *r: phased_loss(a, b, c, x, eps, i, g, *r) / (g[i] - g[i - 1]).to(x), "not divided by t - s"
    ),
    "loss: divided by t - e [formula]": (
        LOSS, lambda a, b, c, x, eps, i, g, e, *r: phased_loss(a, b, c, x, eps, i, g, e, *r) / (g[i] - phase_end(g[i], e)).to(x), "not divided by t - e"
    ),
    "loss: an int huber_c refused [end]": (LOSS, refuses_too(phased_loss, lambda *a, **_: len(a) > 8 and a[8] == 1), "huber_c = 1 is valid"),
    "loss: the networks' shapes by size [refusal]": (
        LOSS, lambda *a: phased_loss(*(lambda z, t, f=f: by_size(f(z, t), z) for f in a[:3]), *a[3:]), "answers in another shape"
    ),
    "loss: the networks' shapes by two axes [refusal]": (
        LOSS,
        lambda *a: phased_loss(*(lambda z, t, f=f: (v.expand_as(z) if (v := f(z, t)).shape[:2] == z.shape[:2] and v.ndim == z.ndim else v) for f in a[:3]), *a[3:]),
        "answers in another shape",
    ),
    "loss: eps by its size [refusal]": (LOSS, lambda *a: phased_loss(*a[:4], by_size(a[4], a[3]), *a[5:]), "eps of another shape"),
    "loss: an index of two axes [refusal]": (LOSS, lambda *a: phased_loss(*a[:5], a[5].flatten(), *a[6:]), "Indices of shape"),
    "loss: index tested but at the first [refusal]": (LOSS, forgets(phased_loss, lambda *a: bool(((a[5][1:] >= 1) & (a[5][1:] < len(a[6]))).all())), "also one of many"),
    "loss: target and teacher frozen for good [gradient]": (LOSS, lambda *a: freezing(phased_loss)(*a), "requires_grad_.False. stays behind"),
    "lcm: target and teacher frozen for good [gradient]": (LCM, lambda *a: freezing(lcm_loss)(*a), "requires_grad_.False. stays behind"),
    "sample: drawn before the network is asked [random]": (SAMPLE, drawing(early=False), "Draw after the network is asked"),
    "sample: all noise drawn first [random]": (SAMPLE, drawing(early=True), "Draw after the network is asked"),
    "sample: torch seeded [random]": (SAMPLE, lambda *a, **k: (torch.manual_seed(0), phased_sample(*a, **k))[1], "torch's own random numbers stay as they are"),
    "sample: torch seeded where no generator is given [random]": (
        SAMPLE, lambda v, z, stops, fresh=0.0, g=None: (g is None and torch.manual_seed(0), phased_sample(v, z, stops, fresh, g))[1], "nobody seeds it"
    ),
    "sample: fresh in z's dtype [precision]": (
        SAMPLE,
        lambda v, z, stops, fresh=0.0, g=None: phased_sample(v, z, stops, fresh.to(z) if isinstance(fresh, torch.Tensor) and fresh.max() <= 1 else fresh, g),
        "right in float64, but not for float32",
    ),
    "sample: fresh to three digits [precision]": (SAMPLE, sample_with(share_of=lambda f, k: round(f[k], 3)), "keeps its digits"),
    "sample: fresh above 0.999 is 1 [end]": (SAMPLE, sample_with(share_of=lambda f, k: 1.0 if f[k] > 0.999 else f[k]), "All noise is new|keeps its digits"),
    **{
        f"sample: shares below {a} dropped [end]": (SAMPLE, sample_with(share_of=lambda f, k, a=a: f[k] * (f[k] > a)), "no new noise at this stop")
        for a in (1e-3, 0.05, 0.1, 0.3)
    },
    "sample: no noise below 0.1 [end]": (SAMPLE, sample_with_shares(lambda f, s: torch.where(s < 0.1, 0, f)), "no new noise at this stop"),
    "sample: no noise below 1e-3 [end]": (SAMPLE, sample_with_shares(lambda f, s: torch.where(s < 1e-3, 0, f)), "no new noise at this stop"),
    **{
        f"sample: velocities clipped at {a} [formula]": (
            SAMPLE, lambda v, *rest, a=a: phased_sample(lambda z, t: v(z, t).clamp(-a, a), *rest), "[Nn]othing is clipped"
        )
        for a in (1, 3, 10, 100)
    },
    "sample: eps_hat clipped at 2 [formula]": (SAMPLE, sample_with(eps_hat=lambda z, t, v: (z + (1 - t) * v).clamp(-2, 2)), "[Nn]othing is clipped"),
    "sample: a stop of 1.0001 [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: 1 < stops[0] < 1.001), r"A first stop of 1\.0001"),
    "sample: a stop of -1e-4 [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: -1e-3 < stops[-1] < 0), "A last stop of -0.0001"),
    **{
        f"sample: fresh tested at {name} alone [refusal]": (
            SAMPLE,
            forgets(phased_sample, lambda v, z, s, f=0.0, *_, part=part: isinstance(f, torch.Tensor) and len(f) == len(s) - 1 and bool(((f[part] >= 0) & (f[part] <= 1)).all())),
            "every one from 0 to 1",
        )
        for name, part in {"all but the last": slice(0, -1), "all but the first": slice(1, None)}.items()
    },
    "sample: fresh tested from below alone [refusal]": (
        SAMPLE, forgets(phased_sample, lambda v, z, s, f=0.0, *_: bool((torch.as_tensor(f) > 1).any())), r"fresh = 1\.5"
    ),
    "sample: the velocity's shape by its size [refusal]": (SAMPLE, lambda v, *a: phased_sample(lambda z, t: by_size(v(z, t), z), *a), "A velocity of another shape"),
    "sample: the velocity's shape tested first alone [refusal]": (
        SAMPLE,
        lambda v, z, stops, *a: phased_sample(lambda z, t: v(z, t) if t[0] == stops[0].to(t) else expanded(v(z, t), z), z, stops, *a),
        "A velocity of another shape",
    ),
    "sample: two results [shape]": (SAMPLE, then(phased_sample, lambda a, *_: (a, a)), "one tensor, not tuple"),
    "sample: the last stop is 0 always [end]": (
        SAMPLE, lambda v, z, stops, *a: phased_sample(v, z, torch.cat([stops[:-1], 0 * stops[-1:]]) if stops[-1] > 0 and len(stops) > 1 else stops, *a), "not at 0"
    ),
    "sample: no noise at the last stop, also above 0 [random]": (
        SAMPLE,
        sample_with_shares(lambda shares, stops: torch.cat([shares[:-1], 0 * shares[-1:]])),
        "no new noise at this stop",
    ),
    "sample: the weights of t [formula]": (
        SAMPLE, sample_with(step=lambda z, t, s, v: (1 - t) * (z - t * v) + t * (z + (1 - t) * v)), "the weights are those of s, not of t"
    ),
    # TCD's share
    "TCD: stops at most 0.99 [end]": (TCD, lambda s, g: (tcd_fresh(s, g), tcd_fresh(s.clamp(max=0.99), g))[1], "A stop near 0 or 1"),
    "TCD: stops above 0.995 refused [end]": (TCD, refuses_too(tcd_fresh, lambda s, g: s.max() > 0.995), "is valid and must not be refused"),
    "TCD: gamma up to 1.001 [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: 1 < g < 1.001), r"gamma = 1\.0001"),
    "TCD: a small gamma is 0 [end]": (TCD, lambda s, g: tcd_fresh(s, 0.0 if 0 < g < 0.05 else g), "gamma is taken as it is"),
    "TCD: a large gamma is 1 [end]": (TCD, lambda s, g: tcd_fresh(s, 1.0 if 0.9 < g < 1 else g), "gamma is taken as it is"),
    "TCD: gamma to two digits [precision]": (TCD, lambda s, g: tcd_fresh(s, round(g, 2) if 0 <= g <= 1 else g), "gamma is taken as it is"),
    "TCD: a stop below 1e-3 is 0 [end]": (TCD, lambda s, g: (tcd_fresh(s, g), tcd_fresh(torch.where(s < 1e-3, 0 * s, s), g))[1], "A stop near 0 or 1"),
    "TCD: one stop alone refused [end]": (TCD, refuses_too(tcd_fresh, lambda s, g: len(s) == 1), "One stop alone is valid"),
    "TCD: the first stop alone tested [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: 0 <= s[0] < 1 and 0 <= g <= 1), "also one of many"),
    "exact student: a short chord [end]": (
        PERFECT, student_with(lambda v, z, t, e: v * column(t - e, z) / column((t - e).clamp(min=1e-2), z)), "However short the chord"
    ),
    "exact student: the first edge for all [shape]": (
        PERFECT, student_with(end=lambda t, e: phase_end(t, e)[:1].expand_as(t)), "Each sample has its own edge"
    ),
    "aged: within 0.01 of the grid [refusal]": (
        AGED,
        lambda net, grid, edges, age: forgets(
            aged_student(net, grid, edges, age), lambda z, t: ((grid - t[:, None]).abs().amin(1) < 1e-2).all()
        ),
        "A time off the grid",
    ),
    "aged: z changed in place [argument]": (
        AGED, lambda *a: lambda z, t: (aged_student(*a)(z, t), z.requires_grad or z.add_(1e-9))[0], "changed in place"
    ),
    "aged: edge 0 for all [oracle]": (
        AGED, aged_with(edges_of=lambda e: torch.stack([e[0], e[-1]])), "which is not crossed"
    ),
    # the sampler
    "re-noised with the implied noise [random]": (SAMPLE, sample_with(fresh_noise=lambda share, e, new, s: e), "There is no new noise"),
    "sample: fresh ignored [argument]": (SAMPLE, lambda v, z, stops, fresh=0.0, generator=None: (phased_sample(lambda z, t: 0 * z, z, stops, fresh, torch.Generator()), phased_sample(v, z, stops))[1], "There is no new noise"),
    "fresh noise of std sqrt(s) [formula]": (SAMPLE, sample_with(fresh_noise=lambda share, e, new, s: (math.sqrt(1 - share**2) * e + share * new) / s**0.5), "not its root"),
    "re-noised as in EDM, without 1 - s [formula]": (SAMPLE, sample_with(keep=lambda x, s: x), "The data fades, too"),
    "noise on top of Euler [formula]": (SAMPLE, sample_with(fresh_noise=lambda share, e, new, s: e + share * new), "Noise on top"),
    "shares that are not a root [formula]": (SAMPLE, sample_with(fresh_noise=lambda share, e, new, s: (1 - share) * e + share * new), r"not 1 - fresh"),
    "sample: the root forgotten [formula]": (SAMPLE, sample_with(fresh_noise=lambda f, e, new, s: (1 - f**2) * e + f * new), "with the root"),
    "sample: old and new exchanged [formula]": (SAMPLE, sample_with(fresh_noise=lambda f, e, new, s: f * e + (1 - f**2) ** 0.5 * new), "exchanged"),
    "sample: roots of shares [formula]": (SAMPLE, sample_with(fresh_noise=lambda f, e, new, s: (1 - f) ** 0.5 * e + f**0.5 * new), "not its root"),
    "sample: all noise new for every share [argument]": (SAMPLE, sample_with(fresh_noise=lambda f, e, new, s: new), "fresh is the share of it"),
    "noise at the last stop [random]": (SAMPLE, sample_with(last=True), "Draw once for each stop|Nothing is drawn"),
    "sample: drawn for fresh = 0 [random]": (SAMPLE, sample_with(at_zero=False), "Nothing is drawn for fresh = 0"),
    "x_hat = z - v [formula]": (SAMPLE, sample_with(x_hat=lambda z, t, v: z - v), "x_hat = z - t v"),
    "sample: x_hat = z + t v [formula]": (SAMPLE, sample_with(x_hat=lambda z, t, v: z + t * v), "x_hat = z - t v: minus"),
    "sample: eps_hat = z - (1 - t) v [formula]": (SAMPLE, sample_with(eps_hat=lambda z, t, v: z - (1 - t) * v), "eps_hat = z . .1 - t. v: plus|only x_hat"),
    "sample: eps_hat = z + t v [formula]": (SAMPLE, sample_with(eps_hat=lambda z, t, v: z + t * v), "1 - t is left to the noise"),
    "sample: eps_hat = v [formula]": (SAMPLE, sample_with(eps_hat=lambda z, t, v: v), "the velocity is not the noise"),
    "sample: data and noise exchanged [formula]": (SAMPLE, sample_with(keep=lambda x, s: s * x, size=lambda s: 1 - s), "Data and noise are exchanged"),
    "sample: noise of size s^2 [formula]": (SAMPLE, sample_with(size=lambda s: s**2), "not its square"),
    "the velocity of the next stop [formula]": (SAMPLE, sample_with(ask=lambda t, s: s), "where z is, not at s"),
    "sample: asked at 1000 t [formula]": (SAMPLE, sample_with(ask=lambda t, s: 1000 * t), "from 0 to 1"),
    "sample: asked at the last stop, too [end]": (SAMPLE, sample_with(extra=True), "nothing is left to ask at the last stop"),
    "the last stop left out [end]": (SAMPLE, sample_with(stops_of=lambda stops: stops[:-1]), "The way ends at the last stop"),
    "the sampler's sign [formula]": (SAMPLE, sample_with(step=lambda z, t, s, v: z + (t - s) * v), "s - t is negative"),
    "sample: no length [formula]": (SAMPLE, sample_with(step=lambda z, t, s, v: z + v), "has the length s - t"),
    "sample: always to 0 [formula]": (SAMPLE, sample_with(step=lambda z, t, s, v: z - t * v), "The next state is at s, not at 0"),
    "global randomness [random]": (SAMPLE, sample_with(noise="global"), "this one was not used"),
    "sample: its own seed [random]": (SAMPLE, sample_with(noise="own seed"), "this one was not used"),
    "sample: a copy of the generator [random]": (SAMPLE, sample_with(noise="copy"), "this one was not used"),
    "sample: drawn once for all stops [random]": (SAMPLE, sample_with(noise="once"), "The noise of the stop before once more"),
    "sample: uniform noise [random]": (SAMPLE, sample_with(noise="uniform"), "eps' = sqrt"),
    "sample: drawn in float64 [random]": (SAMPLE, sample_with(noise="float64"), "New noise has the dtype of z"),
    "sample: seeded again in each call [random]": (
        SAMPLE,
        lambda v, z, stops, fresh=0.0, generator=None: phased_sample(
            v, z, stops, fresh, generator if generator is None or torch.as_tensor(fresh).max() <= 0 else generator.manual_seed(generator.initial_seed())
        ),
        "A second call with the same generator",
    ),
    "sample: asked at the first z always [constant]": (
        SAMPLE, lambda v, z, stops, fresh=0.0, generator=None: phased_sample(lambda _, t: v(z, t), z, stops, fresh, generator), "from the newest z"
    ),
    "sample: asked once, for all steps [constant]": (
        SAMPLE,
        lambda v, z, stops, fresh=0.0, generator=None: (
            lambda first: phased_sample(lambda z, t: first, z, stops, fresh, generator)
        )(v(z, stops[:1].to(z).expand(len(z)))),
        "asked once for each step",
    ),
    "sample: clipped [formula]": (SAMPLE, sample_with(clip=10.0), "nothing is clipped"),
    "sample: fresh for the stop before [argument]": (SAMPLE, sample_with(share_of=lambda f, k: f[k - 1]), "fresh.0. belongs to stops.1."),
    "sample: the first share for all [argument]": (SAMPLE, sample_with(share_of=lambda f, k: f[0]), "fresh.0. belongs to stops.1."),
    "sample: fresh in float32 [precision]": (SAMPLE, sample_with(share_dtype=torch.float32), "no further"),
    "sample: times in the dtype of the stops [precision]": (SAMPLE, sample_with(times="stops"), "gets t in the dtype of z"),
    "sample: float64 always [precision]": (SAMPLE, always_double(phased_sample), "The sample has the dtype"),
    "sample: float32 inside [precision]": (SAMPLE, sample_with(inner_dtype=torch.float32), "where it asks|no further"),
    "sample: by default fresh [argument]": (
        SAMPLE, lambda v, z, stops, fresh=1.0, generator=None: phased_sample(v, z, stops, fresh, generator), "Without .fresh. it is Euler"
    ),
    "sample: an integer fresh refused [end]": (SAMPLE, refuses_too(phased_sample, lambda v, z, stops, fresh=0.0, *_: isinstance(fresh, int)), "fresh = 1 with stops .* is valid"),
    "sample: stops from 0.9 refused [end]": (SAMPLE, refuses_too(phased_sample, lambda v, z, stops, *_: stops[0] < 1), "is valid and must not be refused"),
    "sample: stops that rise once [refusal]": (
        SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: stops[0] == 1 and stops[-1] == 0 and (stops.diff() > 0).any()), "rise once, inside"
    ),
    "sample: equal stops [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: (stops.diff() == 0).any()), "Two equal stops"),
    "sample: one stop [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: len(stops) == 1), "A single stop"),
    "sample: a stop above 1 [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: stops[0] > 1), r"A first stop of 1\.2, above 1"),
    "sample: a stop below 0 [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: stops[-1] < 0), r"A last stop of -0\.1, below 0"),
    "sample: nan in the stops [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, *_: stops.isnan().any()), "nan in the place of the stop 1"),
    "sample: fresh above 1 [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, stops, f=0.0, *_: torch.as_tensor(f).max() > 1), r"fresh = 1\.5"),
    "sample: fresh refused only when all are bad [refusal]": (
        SAMPLE, forgets(phased_sample, lambda v, z, s, f=0.0, *_: isinstance(f, torch.Tensor) and len(f) == len(s) - 1 and ((f >= 0) & (f <= 1)).any()), "every one from 0 to 1"
    ),
    "sample: fresh nan [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, s, f=0.0, *_: torch.as_tensor(f).isnan().any()), "fresh = nan"),
    "sample: too many shares [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, s, f=0.0, *_: isinstance(f, torch.Tensor) and len(f) > len(s) - 1), "4 shares for 3 steps"),
    "sample: too few shares [refusal]": (SAMPLE, forgets(phased_sample, lambda v, z, s, f=0.0, *_: isinstance(f, torch.Tensor) and len(f) < len(s) - 1), "2 shares for 3 steps"),
    "sample: a velocity of one sample [refusal]": (SAMPLE, any_shape(lambda velocity, z, stops, *a: phased_sample(velocity, z, stops, *a), "velocity"), "A velocity of another shape"),
    "sample: only axes after the batch compared [refusal]": (
        SAMPLE,
        lambda v, z, *a: phased_sample(lambda z, t: (lambda out: out.expand(len(z), *out.shape[1:]))(v(z, t)), z, *a),
        "A velocity of another shape",
    ),
    # TCD's share
    "TCD: gamma for the share [formula]": (TCD, then(tcd_fresh, lambda f, s, gamma: gamma + 0 * s), "not which share of the noise is new"),
    "TCD: 1 - gamma [formula]": (TCD, lambda s, gamma: tcd_fresh(s, 1 - gamma), "not to gamma s"),
    "TCD: the size, not the share [formula]": (TCD, then(tcd_fresh, lambda f, s, gamma: f * s), "size of the new noise"),
    "TCD: the old share [formula]": (TCD, then(tcd_fresh, lambda f, s, gamma: (1 - f**2).sqrt()), "share of the old noise"),
    "TCD: 1 - the old share [formula]": (TCD, then(tcd_fresh, lambda f, s, gamma: 1 - (1 - f**2).sqrt()), "not 1 - kept"),
    "TCD: the root forgotten [formula]": (TCD, then(tcd_fresh, lambda f, s, gamma: f**2), "The root is missing"),
    "TCD: the data does not shrink [formula]": (TCD, tcd_with(k=lambda u, s: torch.ones_like(s)), "the data shrinks"),
    "TCD: k for the old noise [formula]": (TCD, tcd_with(share=lambda k, u, s, g: 1 - k**2), "The old noise at s is k u"),
    "TCD: all noise of size 1 [formula]": (TCD, tcd_with(share=lambda k, u, s, g: 1 - (k * u) ** 2), "not 1: s.2"),
    "TCD: sizes that add [formula]": (TCD, then(tcd_fresh, lambda f, s, g: 1 - (1 - f**2).sqrt()), "Independent noises add as squares"),
    "TCD: gamma ignored [argument]": (TCD, lambda s, gamma: (tcd_fresh(s, gamma), tcd_fresh(s, 0.3))[1], "gamma is ignored"),
    "TCD: nan at 0 [end]": (TCD, tcd_with(share=lambda k, u, s, g: 1 - (k * u / s) ** 2), "nan at the stop 0"),
    "TCD: 0 at 0 [end]": (TCD, then(tcd_fresh, lambda f, s, g: torch.where(s > 0, f, 0)), "At the stop 0 the share has a limit"),
    "TCD: float64 always [precision]": (TCD, always_double(tcd_fresh), "The shares have the dtype of stops"),
    "TCD: float32 inside [precision]": (TCD, lambda s, g: tcd_fresh(s.float(), g).to(s), "no further"),
    "TCD: gamma above 1 [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: g > 1), r"gamma = 1\.1"),
    "TCD: gamma below 0 [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: g < 0), r"gamma = -0\.1"),
    "TCD: gamma nan [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: g != g), "gamma = nan"),
    "TCD: a stop at 1 [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: (s == 1).any()), "A stop at 1 must"),
    "TCD: a stop below 0, one of many [refusal]": (TCD, forgets(tcd_fresh, lambda s, g: (s < 0).any()), r"A stop at -0\.1"),
    "TCD: gamma = 0.3 refused [end]": (TCD, refuses_too(tcd_fresh, lambda s, g: g == 0.3), r"gamma = 0\.3 with stops .* is valid"),
    # students without training
    "the exact student's slope to 0 [oracle]": (PERFECT, student_with(edges_of=lambda e: e[[0, -1]]), "not at 0"),
    "exact student: the sign [oracle]": (PERFECT, student_with(lambda v, z, t, e: -v), "The velocity leads towards noise"),
    "exact student: where it lands [oracle]": (PERFECT, student_with(lambda v, z, t, e: z - column(t - e, z) * v), "not the point where it ends"),
    "exact student: no length [oracle]": (PERFECT, student_with(lambda v, z, t, e: column(t - e, z) * v), "divided by the length"),
    "exact student: detached [gradient]": (PERFECT, student_with(lambda v, z, t, e: v.detach()), "with respect to z flows"),
    "exact student: float32 times beside float64 edges [precision]": (PERFECT, student_with(end=own_end_checked), "right in float64, but not for float32"),
    "exact student: float64 always [precision]": (PERFECT, student_with(lambda v, z, t, e: v.double()), "The slope has the dtype"),
    "exact student: t = 0 [refusal]": (
        PERFECT, student_with(end=lambda t, e: phase_end(t.clamp(min=1e-3), e)), "A time without an edge below it"
    ),
    "exact student: edges in any order [refusal]": (PERFECT, student_with(refuse=False), "Edges that do not rise"),
    "an aged student that crosses its edge [oracle]": (AGED, aged_with(edges_of=lambda e: e[[0, -1]]), "which is not crossed"),
    "aged: one sweep too few [oracle]": (AGED, aged_with(age_of=lambda age: max(age - 1, 0) if age >= 0 else age), "One sweep too few"),
    "aged: the age ignored [argument]": (AGED, aged_with(age_of=lambda age: 0 * age), "the age is ignored"),
    "aged: the teacher asked at 0 [end]": (AGED, aged_with(asks_zero=True), "never asked at time 0"),
    "aged: the nearest level [refusal]": (AGED, aged_with(nearest=True), "A time off the grid"),
    "aged: off the grid refused only if all are [refusal]": (
        AGED,
        lambda *args: forgets(aged_student(*args), lambda z, t: ((t[:, None] - args[1]).abs() < 1e-6).any()),
        "A time off the grid must be refused, also one of many",
    ),
    "aged: the teacher's first answer for all steps [constant]": (
        AGED,
        lambda net, grid, edges, age: lambda z, t: aged_student(lambda _, u: net(z, t), grid, edges, age)(z, t),
        "age is ignored",
    ),
    "aged: half an age [refusal]": (AGED, forgets(aged_student, lambda *a: a[3] == 0.5), r"An age of 0\.5"),
    "aged: a negative age [refusal]": (AGED, forgets(aged_student, lambda *a: a[3] < 0), "An age of -1"),
    "aged: float64 always [precision]": (AGED, lambda *a: always_double(aged_student(*a)), "The slope has the dtype"),
    "aged: gradients of the last step alone [gradient]": (
        AGED,
        lambda net, grid, edges, age: lambda z, t: (
            aged_student(net, grid, edges, age)(z.detach(), t) + (net(z, t) - net(z, t).detach())
        ),
        "through each of the teacher's steps",
    ),
    "aged: detached [gradient]": (AGED, lambda *a: detached(aged_student(*a)), "The gradient flows"),
    # LCM
    "LCM: t / 10 [formula]": (SCALINGS, lambda i, scaling=10.0: lcm_scalings(i, 1 / scaling), "multiplied by scaling, not divided"),
    "LCM: t / 1000 [formula]": (SCALINGS, lambda i, scaling=10.0: lcm_scalings(i / 1000, scaling), "By index, from 0 to 999"),
    "LCM: EDM's c_out [formula]": (SCALINGS, then(lcm_scalings, lambda c, *_: (c[0], 0.5 * c[1])), "no factor 0.5"),
    "scalings: exchanged [formula]": (SCALINGS, then(lcm_scalings, lambda c, *_: c[::-1]), "First c_skip"),
    "scalings: no root [formula]": (SCALINGS, then(lcm_scalings, lambda c, *_: (c[0], c[1] ** 2)), "c_out has the root|c_skip . c_out.2"),
    "scalings: index + 1 [formula]": (SCALINGS, lambda i, scaling=10.0: lcm_scalings(i + 1, scaling), "Index 0 is the boundary"),
    "scalings: scaling ignored [argument]": (SCALINGS, lambda i, scaling=10.0: (lcm_scalings(i, scaling), lcm_scalings(i))[1], "scaling is ignored"),
    "scalings: data_std 1 [formula]": (
        SCALINGS, then(lcm_scalings, lambda c, i, s=10.0: (1 / ((s * i) ** 2 + 1), s * i / ((s * i) ** 2 + 1).sqrt())), "not 1"
    ),
    "scalings: c_skip rounded away [precision]": (SCALINGS, then(lcm_scalings, lambda c, *_: ((c[0] * 1e9).round() / 1e9, c[1])), "more digits|c_skip = 0.25"),
    "scalings: float64 always [precision]": (SCALINGS, always_double(lcm_scalings), "c_skip has the dtype of index"),
    "scalings: a negative index [refusal]": (SCALINGS, forgets(lcm_scalings, lambda i, *_: (i < 0).any()), "An index of -1"),
    "scalings: index 0 refused [end]": (SCALINGS, refuses_too(lcm_scalings, lambda i, *_: (i == 0).any()), "is valid and must not be refused"),
    "scalings: nan [refusal]": (SCALINGS, forgets(lcm_scalings, lambda i, *_: i.isnan().any()), "An index of nan"),
    "scalings: scaling 0 [refusal]": (SCALINGS, forgets(lcm_scalings, lambda i, s=10.0: s == 0), r"scaling = 0\.0"),
    "LCM: even steps of the table [formula]": (
        STEPS, lambda n, origin=50, table=1000: lcm_timesteps(n, origin, table) and [999 - 1000 * i // n for i in range(n)], "Only every 20th index"
    ),
    "timesteps: rising [formula]": (STEPS, then(lcm_timesteps, lambda a, *_: a[::-1]), "The indices fall"),
    "timesteps: counted from 1 [formula]": (STEPS, then(lcm_timesteps, lambda a, *_: [i + 1 for i in a]), "Indices count from 0"),
    "timesteps: origin ignored [argument]": (STEPS, lambda n, origin=50, table=1000: lcm_timesteps(n, origin, table) and lcm_timesteps(n, max(n, 50) if table > 49 else origin, table), "origin is ignored"),
    "timesteps: table ignored [argument]": (STEPS, lambda n, origin=50, table=1000: lcm_timesteps(n, origin, table) and lcm_timesteps(n, origin), "table is ignored"),
    "timesteps: floats [formula]": (STEPS, then(lcm_timesteps, lambda a, *_: [float(i) for i in a]), "Indices are ints"),
    "timesteps: one step refused [end]": (STEPS, refuses_too(lcm_timesteps, lambda n, *_: n == 1), "1 steps is valid"),
    "timesteps: half a step [refusal]": (STEPS, forgets(lcm_timesteps, lambda n, *_: n == 2.5), r"2\.5 steps of 50"),
    "timesteps: 51 steps [refusal]": (STEPS, forgets(lcm_timesteps, lambda n, *_: n == 51), "51 steps of 50"),
    "timesteps: origin above table [refusal]": (STEPS, forgets(lcm_timesteps, lambda n, o=50, *_: o == 1001), "origin = 1001"),
    "f: floor for round [formula]": (F, f_with(index=lambda t, table: (table * t).floor() - 1), "Round 1000 t to the nearest"),
    "f: floor in float32 [precision]": (F, f_with(index=lambda t, table: (table * t.float()).floor() - 1), "Round 1000 t to the nearest|by the index"),
    "f: the index is 1000 t [formula]": (F, f_with(index=lambda t, table: (table * t).round()), "indices count from 0"),
    "f: table ignored [argument]": (F, f_with(index=lambda t, table: (1000 * t).round() - 1), "table is ignored"),
    "f: the time for the index [formula]": (F, f_with(index=lambda t, table: t), "not the time"),
    "f: x_hat alone [formula]": (F, f_with(change=lambda f, x: x), "Without the scalings"),
    "f: asked at the index [formula]": (F, f_with(time=lambda t, z: (1000 * t).to(z) - 1), "At the time t, not the index|asked at t"),
    "f: asked at the last level always [constant]": (F, f_with(time=lambda t, z: torch.ones_like(t).to(z)), "The network is asked at t"),
    "f: detached [gradient]": (F, f_with(change=lambda f, x: f.detach()), "The gradient reaches the network"),
    "f: float64 always [precision]": (F, f_with(change=lambda f, x: f.double()), "f has the dtype"),
    "f: the time in its own dtype [precision]": (F, f_with(time=lambda t, z: t), "gets t in the dtype of z"),
    "f: t = 0 accepted [refusal]": (F, lambda n, table=1000: forgets(lcm.lcm_function(n, table), lambda z, t: (t == 0).any()), "t = 0 stands for no index"),
    "f: t = 1 refused [end]": (F, lambda n, table=1000: refuses_too(lcm.lcm_function(n, table), lambda z, t: (t == 1).any()), "is valid and must not be refused"),
    "f: nan accepted [refusal]": (F, lambda n, table=1000: forgets(lcm.lcm_function(n, table), lambda z, t: t.isnan().any()), "t = nan stands for no index"),
    "f: any shape [refusal]": (F, lambda n, table=1000: any_shape(lcm.lcm_function(n, table), ) if False else lcm.lcm_function(lambda z, t: n(z, t).expand_as(z), table), "Another shape must be refused"),
    "LCM: the target at the student's index [formula]": (LCM, lcm_with(target_index=lambda i, j: i), "The target's scalings belong to index - k"),
    "LCM: one level instead of k [argument]": (LCM, lcm_with(late=lambda i, k: (i - 1).clamp(min=0)), "over k = 20 levels, not over one"),
    "LCM: the gradient reaches the target [gradient]": (LCM, lcm_with(detach="none"), "No gradient may reach the target"),
    "lcm: the gradient reaches the target alone [gradient]": (LCM, lcm_with(detach="teacher"), "No gradient may reach the target"),
    "lcm: detached [gradient]": (LCM, detached(lcm_loss), "must flow through the student"),
    "LCM: EDM's c_out in the loss [formula]": (LCM, lcm_with(scalings=lambda i: (lcm_scalings(i)[0], 0.5 * lcm_scalings(i)[1])), "no factor 0.5"),
    "lcm: no f at the target's end [formula]": (LCM, lcm_with(target_f=False), "f at the target's end, too"),
    "lcm: times i / 1000 [formula]": (LCM, lcm_with(time=lambda i, table: i / table), r"\+ 1 is missing"),
    "lcm: table ignored [argument]": (LCM, lcm_with(time=lambda i, table: (i + 1) / 1000), "table is ignored"),
    "lcm: the target asked at t [formula]": (LCM, lcm_with(ask=lambda t, s: t), "where z_s is, not at t"),
    "lcm: the student's step [formula]": (LCM, lcm_with(evaluator=lambda a, b, c: (a, b, a)), "the student 2 times"),
    "lcm: no step [formula]": (LCM, lcm_with(stepped=lambda x_hat, z, t, s, f: z), "after the teacher's step"),
    "lcm: squares [formula]": (LCM, lcm_with(distance=lambda d, c: per_sample(d**2)), "Squares in place of Huber"),
    "lcm: c ignored [argument]": (LCM, lcm_with(distance=lambda d, c: per_sample(numbers(d, 1e-3))), "huber_c is ignored"),
    "lcm: the sum [formula]": (LCM, lcm_with(distance=lambda d, c: numbers(d, c).reshape(len(d), -1).sum(1)), "not the sum"),
    "lcm: float64 times for the network [precision]": (LCM, lcm_with(times="float64"), "gets t in the dtype of z"),
    "lcm: float64 always [precision]": (LCM, always_double(lcm_loss), "The loss has the dtype"),
    "lcm: a student of another shape [refusal]": (LCM, any_shape(lcm_loss, "student"), "A student that answers in another shape"),
    "lcm: a target of another shape [refusal]": (LCM, any_shape(lcm_loss, "target"), "A target that answers in another shape"),
    "lcm: a teacher of another shape [refusal]": (LCM, any_shape(lcm_loss, "teacher"), "A teacher that answers in another shape"),
    "lcm: eps of one sample [refusal]": (LCM, any_shape(lcm_loss, "eps"), "eps of another shape"),
    "lcm: index 0, one of many [refusal]": (LCM, forgets(lcm_loss, lambda *a: (a[5] == 0).any()), "Index 0"),
    "lcm: index above the table [refusal]": (LCM, forgets(lcm_loss, lambda *a: (a[5] >= a[8]).any()), "Index 1000"),
    "lcm: half a k [refusal]": (LCM, forgets(lcm_loss, lambda *a: a[7] == 2.5), r"k = 2\.5"),
    "lcm: k = 0 [refusal]": (LCM, forgets(lcm_loss, lambda *a: a[7] == 0), "k = 0"),
    "lcm: c nan [refusal]": (LCM, forgets(lcm_loss, lambda *a: a[9] != a[9]), "huber_c = nan"),
    "w-embedding: 1000 forgotten [formula]": (W, embedding_with(angles=lambda w, f: w[:, None] * f), "1000 is missing"),
    "w-embedding: cosines first [formula]": (W, embedding_with(join=lambda a: torch.cat([a.cos(), a.sin()], 1)), "All sines first"),
    "w-embedding: sin and cos in turns [formula]": (W, embedding_with(join=lambda a: torch.stack([a.sin(), a.cos()], 2).flatten(1)), "not in turns"),
    "w-embedding: i / h [formula]": (W, embedding_with(frequency=lambda i, h: torch.exp(-math.log(10_000) * i / h)), "which i / h does not reach"),
    "w-embedding: rising [formula]": (W, embedding_with(frequency=lambda i, h: torch.exp(math.log(10_000) * i / (h - 1))), "The frequencies fall"),
    "w-embedding: from the last [formula]": (W, embedding_with(frequency=lambda i, h: torch.exp(-math.log(10_000) * i / (h - 1)).flip(0)), "The frequencies fall"),
    "w-embedding: log10 [formula]": (W, embedding_with(frequency=lambda i, h: torch.exp(-math.log10(10_000) * i / (h - 1))), "natural logarithm"),
    "w-embedding: 1000 for 10000 [formula]": (W, embedding_with(frequency=lambda i, h: torch.exp(-math.log(1000) * i / (h - 1))), "not 1 / 1000"),
    "w-embedding: 1000 outside [formula]": (W, embedding_with(angles=lambda w, f: w[:, None] * f, join=lambda a: 1000 * torch.cat([a.sin(), a.cos()], 1)), "belongs inside"),
    "w-embedding: 2 pi [formula]": (W, embedding_with(angles=lambda w, f: 2000 * math.pi * w[:, None] * f), "no 2 pi"),
    "w-embedding: the scale [formula]": (W, lambda w, dim: guidance_embedding(w + 1, dim), "not the scale"),
    "w-embedding: sines twice [formula]": (W, embedding_with(join=lambda a: torch.cat([a.sin(), a.sin()], 1)), "The second half are cosines"),
    "w-embedding: a difference [formula]": (W, embedding_with(frequency=lambda i, h: 1 - 0.9999 * i / (h - 1)), "fall by one factor"),
    "w-embedding: transposed [shape]": (W, then(guidance_embedding, lambda a, *_: a.T), "One row of dim numbers"),
    "w-embedding: frequencies in float32 [precision]": (W, embedding_with(dtype=torch.float32), "but for its digits"),
    "w-embedding: float64 always [precision]": (W, always_double(guidance_embedding), "The embedding has the dtype of w"),
    "w-embedding: an odd dim [refusal]": (W, forgets(guidance_embedding, lambda w, dim: dim == 7), "dim = 7"),
    "w-embedding: dim 2 [refusal]": (W, forgets(guidance_embedding, lambda w, dim: dim == 2), "dim = 2"),
    "w-embedding: a negative dim [refusal]": (W, forgets(guidance_embedding, lambda w, dim: dim == -4), "dim = -4"),
    "w-embedding: dim 4 refused [end]": (W, refuses_too(guidance_embedding, lambda w, dim: dim == 4), "dim = 4 with w .* is valid"),
    "timesteps: half a table [refusal]": (STEPS, forgets(lcm_timesteps, lambda n, o=50, table=1000: table == 1000.5), r"A table of 1000\.5 levels"),
    "timesteps: a product of floats [precision]": (
        STEPS, lambda n, o=50, table=1000: lcm_timesteps(n, o, table) and [table // o * (o - int(i * (o / n))) - 1 for i in range(n)], "may lie just below one"
    ),
    "f: the shape by its size [refusal]": (F, lambda n, table=1000: lcm.lcm_function(lambda z, t: by_size(n(z, t), z), table), "Another shape must be refused"),
    "f: clipped at 3 [formula]": (F, lambda n, table=1000: lcm.lcm_function(lambda z, t: n(z, t).clamp(-3, 3), table), "nothing is clipped|by the index"),
    "f: a table of one level refused [end]": (F, refuses_too(lcm.lcm_function, lambda n, table=1000: table == 1), "A table of one level is valid"),
    "lcm: shapes by size [refusal]": (
        LCM, lambda *a: lcm_loss(*(lambda z, t, f=f: by_size(f(z, t), z) for f in a[:3]), *a[3:]), "answers in another shape"
    ),
    "lcm: eps by its size [refusal]": (LCM, lambda *a: lcm_loss(*a[:4], by_size(a[4], a[3]), *a[5:]), "eps of another shape"),
    "lcm: the teacher clipped at 3 [formula]": (
        LCM, lambda a, b, c, *r: lcm_loss(a, b, lambda z, t: c(z, t).clamp(-3, 3), *r), "nothing is clipped"
    ),
    "lcm: index 1 refused [end]": (LCM, refuses_too(lcm_loss, lambda *a: (a[5] == 1).any()), "is valid and must not be refused"),
    "lcm: the scalings at index 0 alone [formula]": (
        LCM, lcm_with(scalings=lambda i: ((i == 0).to(i), (i > 0).to(i))), "c_out is not quite 1"
    ),
    "lcm: a table of 999 by default [argument]": (
        LCM, lambda a, b, c, x, eps, i, s, k=20, table=999, h=1e-3: lcm_loss(a, b, c, x, eps, i, s, k, table, h), "By default table = 1000"
    ),
    "w-embedding: negative w refused [end]": (W, refuses_too(guidance_embedding, lambda w, dim: (w < 0).any()), "is valid and must not be refused"),
    "w-embedding: w at most 10 [formula]": (W, lambda w, dim: guidance_embedding(torch.where(w > 10, w.clamp(max=10), w), dim) if w.isfinite().all() else guidance_embedding(w, dim), "not clipped"),
    "w-embedding: w in float32 [precision]": (W, lambda w, dim: guidance_embedding(w.float(), dim).to(w), "but for its digits"),
    "w-embedding: nan [refusal]": (W, forgets(guidance_embedding, lambda w, dim: w.isnan().any()), "w = nan"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, as different people write them


def plan_by_pattern(text):
    plan = []
    for entry in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)-([0-9]+)\s*", entry)
        if found is None:
            raise ValueError(entry)
        plan.append(tuple(map(int, found.groups())))
    limits = [0] + [limit for limit, _ in plan]
    if min(phases for _, phases in plan) < 1 or any(b <= a for a, b in zip(limits, limits[1:])):
        raise ValueError(text)
    return plan


def plan_by_split(text):
    plan, last = [], 0
    for entry in map(str.strip, text.split(",")):
        parts = entry.split("-")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise ValueError(entry)
        limit, phases = int(parts[0]), int(parts[1])
        if limit <= last or phases == 0:
            raise ValueError(entry)
        plan, last = [*plan, (limit, phases)], limit
    return plan


def phases_by_bisection(plan, step):
    if not plan or step < 0 or step != int(step):
        raise ValueError("no plan, or no step")
    return plan[min(bisect.bisect_left([limit for limit, _ in plan], step), len(plan) - 1)][1]


def grid_by_formula(n, shift=1.0, dtype=None):
    if n != int(n) or n < 1 or not 0 < shift < math.inf:
        raise ValueError("n or shift")
    u = torch.arange(n + 1, dtype=dtype or torch.get_default_dtype()) / n
    return 1 / (1 / shift * (1 / u - 1) + 1)  # 1 / inf is 0


def linear_quadratic_by_coefficients(n, threshold=0.025, linear=0.5, dtype=None):
    if n != int(n) or n < 1 or not 0 < linear < 1 or not 0 < threshold <= linear:
        raise ValueError("n, threshold or linear")
    a = (1 - threshold / linear) / (1 - linear) ** 2  # 1 - the parabola is a u^2 + b u + c
    b, c = threshold / linear - 2 * a * linear, a * linear**2
    done = [1 - i / n for i in range(n + 1)]
    levels = [1 - threshold * u / linear if u <= linear else 1 - (a * u**2 + b * u + c) for u in done]
    return torch.tensor([0.0, *levels[1:]], dtype=dtype)


def edges_by_list(grid, phases):
    n = len(grid) - 1
    if not ((grid[1:] > grid[:-1]).all() and grid[0] == 0 and grid[-1] == 1):
        raise ValueError("grid")
    if phases not in range(1, n + 1) or n % phases:
        raise ValueError("phases")
    return torch.stack([grid[j * n // phases] for j in range(phases + 1)])


def refusing_times(t, edges):
    if not bool(torch.all(t > edges[0]) and torch.all(t <= edges[-1])):
        raise ValueError("t")


def end_by_search(t, edges):
    refusing_times(t, edges)
    edges = edges.to(t).contiguous()
    return edges[torch.searchsorted(edges, t) - 1]


def end_by_masks(t, edges):
    refusing_times(t, edges)
    return torch.where(edges[:, None] < t, edges[:, None], -math.inf).amax(0).to(t.dtype)


def end_by_loop(t, edges):
    refusing_times(t, edges)
    return torch.tensor([max(e for e in edges.tolist() if e < u) for u in t.tolist()], dtype=t.dtype)


def end_in_place(t, edges):
    refusing_times(t, edges)
    end = torch.empty_like(t)
    for edge in edges[:-1]:
        end[t > edge] = edge.to(t.dtype)
    return end


def stops_by_list(grid, steps):
    n = len(grid) - 1
    if steps not in range(1, n + 1) or not (grid.diff() > 0).all():
        raise ValueError("steps or grid")
    down = grid.flip(0)
    return torch.stack([down[math.floor(k * n / steps)] for k in range(steps)] + [grid[0]])


def loss_refusing(answer):
    """The answer, behind the refusals that the exercise asks for."""

    def loss(student, target, teacher, x, eps, index, grid, edges, huber_c=1e-3):
        if tuple(index.shape) != (len(x),) or index.min() < 1 or index.max() >= len(grid):
            raise ValueError("index")
        if x.shape != eps.shape or not huber_c >= 0:
            raise ValueError("eps or c")

        nets = [lambda z, t, net=net: same(net(z, t), z) for net in (student, target, teacher)]
        return answer(*nets, x, eps, index, grid, edges, huber_c)

    return loss


@loss_refusing
def loss_in_float64(student, target, teacher, x, eps, index, grid, edges, c):
    """Everything in float64 but the networks, and numpy's reshape."""
    wide = lambda u: u.double().reshape(-1, *[1] * (x.ndim - 1))
    t, s, e = grid[index], grid[index - 1], end_by_search(grid[index], edges)
    z = (1 - wide(t)) * x.double() + wide(t) * eps.double()
    v = student(z.to(x.dtype), t.to(x.dtype)).double()
    with torch.no_grad():
        z_s = z - wide(t - s) * teacher(z.to(x.dtype), t.to(x.dtype)).double()
        w = target(z_s.to(x.dtype), torch.where(s == 0, t, s).to(x.dtype)).double()
        wanted = z_s - wide(s - e) * w
    d = z - wide(t - e) * v - wanted
    return (torch.hypot(d, torch.full_like(d, c)) - c).reshape(len(x), -1).mean(-1).to(x.dtype)


@loss_refusing
def loss_with_buffers(student, target, teacher, x, eps, index, grid, edges, c):
    """One buffer of times and one of states for all questions; detached instead of no_grad."""
    axes = (...,) + (None,) * (x.ndim - 1)
    t, s, e = (u.to(x.dtype) for u in (grid[index], grid[index - 1], end_by_masks(grid[index], edges)))
    now, z = t.clone(), torch.lerp(x, eps, t[axes])
    landed = z + (e - t)[axes] * student(z.clone(), now.clone())
    z += (s - t)[axes] * teacher(z, now).detach()
    now.copy_(s)
    now[s == 0] = t[s == 0]
    z += (e - s)[axes] * target(z, now).detach()
    return ((landed - z).square().add(c * c).sqrt() - c).flatten(1).mean(1)


@loss_refusing
def loss_with_einops(student, target, teacher, x, eps, index, grid, edges, c):
    like = lambda u: einops.rearrange(u.to(x), "b -> b" + " 1" * (x.ndim - 1))
    t, s = grid[index], grid[index - 1]
    e = end_by_search(t, edges)
    z = x + like(t) * (eps - x)
    with torch.no_grad():
        step = teacher(z, t.to(x))
        z_s = z + like(s - t) * step
        # where the jump has length 0 the answer is not needed
        w = target(z_s, torch.where(s > 0, s, t).to(x))
        wanted = torch.where(like(s) > like(e), z_s + like(e - s) * w, z_s)
    d = z + like(e - t) * student(z, t.to(x)) - wanted
    return einops.reduce((d * d + c * c) ** 0.5 - c, "b ... -> b", "mean")


def sample_refusing(answer):
    """The answer, behind the refusals that the exercise asks for; it gets lists of numbers."""

    def sample(velocity, z, stops, fresh=0.0, generator=None):
        ts = stops.tolist()
        shares = fresh.tolist() if torch.is_tensor(fresh) and fresh.ndim else [float(fresh)] * (len(ts) - 1)
        if len(ts) < 2 or not all(1 >= a > b >= 0 for a, b in zip(ts, ts[1:])):
            raise ValueError("stops")
        if len(shares) != len(ts) - 1 or not all(0 <= f <= 1 for f in shares):
            raise ValueError("fresh")

        return answer(lambda z, t: same(velocity(z, t), z), z, ts, shares, generator)

    return sample


@sample_refusing
def sample_with_one_buffer(velocity, z, stops, shares, generator):
    """One buffer of times, filled in place, and one state, moved on in place after it was asked."""
    z, t = z.clone(), z.new_empty(len(z))
    for now, s, f in zip(stops, stops[1:], shares):
        t.fill_(now)
        v = velocity(z, t)
        if f == 0 or s == 0:
            z += (s - now) * v
        else:
            noise = (z + (1 - now) * v) * (1 - f * f) ** 0.5
            noise += f * torch.randn(z.shape, generator=generator, dtype=z.dtype)
            z.sub_(now * v).mul_(1 - s).add_(s * noise)
    return z


@sample_refusing
def sample_in_float64(velocity, z, stops, shares, generator):
    state = z.double()
    for k, f in enumerate(shares):
        t, s = stops[k], stops[k + 1]
        v = velocity(state.to(z.dtype), torch.full(z.shape[:1], t, dtype=z.dtype)).double()
        x_hat = state - t * v
        eps_hat = (state - (1 - t) * x_hat) / t
        new = torch.randn(z.shape, generator=generator, dtype=z.dtype).double() if f and s else 0
        state = (1 - s) * x_hat + s * (math.sqrt(1 - f**2) * eps_hat + f * new)
    return state.to(z.dtype)


@sample_refusing
def sample_by_correction(velocity, z, stops, shares, generator):
    """Euler, and then what the fresh noise changes."""
    for t, s, f in zip(stops, stops[1:], shares):
        v = velocity(z, torch.tensor([t], dtype=z.dtype).expand(len(z)))
        eps_hat, z = z + (1 - t) * v, z + (s - t) * v
        if f * s > 0:
            new = torch.empty_like(z).normal_(generator=generator)
            z = z + s * (((1 - f * f) ** 0.5 - 1) * eps_hat + f * new)
    return z


def tcd_by_sizes(stops, gamma):
    if not (0 <= gamma <= 1 and bool(((0 <= stops) & (stops < 1)).all())):
        raise ValueError("gamma or stops")
    s = torch.where(stops > 0, stops, 1e-3).double()  # the share is smooth at 0
    u = s - gamma * s
    share = ((s**2 - ((1 - s) / (1 - u) * u) ** 2).clamp(min=0)).sqrt() / s
    limit = math.sqrt(1 - (1 - gamma) ** 2)
    return torch.where(stops > 0, share, limit).to(stops.dtype)


def tcd_by_loop(stops, gamma):
    shares = []
    for s in stops.tolist():
        if not 0 <= s < 1 or not 0 <= gamma <= 1:
            raise ValueError("gamma or stops")
        shares.append(math.sqrt(1 - ((1 - s) * (1 - gamma) / (1 - s + gamma * s)) ** 2))
    return torch.tensor(shares, dtype=stops.dtype)


def tcd_by_angles(stops, gamma):
    if not 0 <= gamma <= 1 or not torch.logical_and(stops >= 0, stops < 1).all():
        raise ValueError("gamma or stops")
    return torch.acos(((1 - gamma) * (1 - stops) / (1 - (1 - gamma) * stops)).clamp(max=1)).sin()


def student_by_hand(flow_map, edges):
    if edges.ndim != 1 or len(edges) < 2 or not (edges.diff() > 0).all():
        raise ValueError("edges")

    def velocity(z, t):
        end = end_by_search(t, edges.to(t))
        landed = flow_map(z, t, end, rectified_flow)
        return (landed - z) / (end - t).reshape(-1, *[1] * (z.ndim - 1))

    return velocity


def aged_by_recursion(teacher, grid, edges, age):
    if age != age or int(age) != age or age < 0:
        raise ValueError("age")

    def velocity(z, t):
        levels = grid.to(t)
        index = (levels - t[:, None]).abs().argmin(1)
        if not ((levels[index] - t).abs() < 1e-5).all() or (index == 0).any():
            raise ValueError("t")
        end, now, first = end_by_search(t, edges.to(t)), t.clone(), z
        column = lambda u: u.reshape(-1, *[1] * (z.ndim - 1))
        for k in range(int(age)):
            s = torch.maximum(levels[(index - k - 1).clamp(min=0)], end)
            z = z + column(s - now) * teacher(z, torch.where(now > 0, now, t))
            now = s
        z = z + column(end - now) * teacher(z, torch.where(now > 0, now, t))
        return (z - first) / column(end - t)

    return velocity


def flow_loss_by_hand(velocity, x, eps, t):
    if x.shape != eps.shape or t.shape != x.shape[:1]:
        raise ValueError("shapes")
    z = torch.stack([(1 - u) * a + u * b for u, a, b in zip(t.to(x.dtype), x, eps)])
    v = same(velocity(z, t.to(x.dtype)), x)
    return torch.stack([((a - b) ** 2).mean() for a, b in zip(v, eps - x)])


def jump_by_hand(velocity, z, t, s):
    if velocity.shape != z.shape or not len(t) == len(s) == len(z):
        raise ValueError("shapes")
    if not all(0 <= u <= 1 for u in [*t.tolist(), *s.tolist()]):
        raise ValueError("times")
    return torch.stack([a + b.item() * v for a, b, v in zip(z, s - t, velocity)])


def timesteps_as_released(steps, origin=50, table=1000):
    for n, most in ((table, math.inf), (origin, table), (steps, origin)):
        if n != n or int(n) != n or not 1 <= n <= most:
            raise ValueError(n)
    trained = list(range(table // origin - 1, table // origin * origin, table // origin))[::-1]
    return [trained[math.floor(i * origin / steps)] for i in range(steps)]


def linear_quadratic_in_pieces(n, threshold=0.025, linear=0.5, dtype=None):
    quadratic(n, threshold, linear)  # refuses what ought to be refused
    u, slope = torch.linspace(1, 0, n + 1, dtype=torch.float64), threshold / linear
    start, end = u[u > linear], u[u <= linear]
    beyond = 1 - slope * start - (1 - slope) * ((start - linear) / (1 - linear)) ** 2
    return torch.cat([beyond, 1 - slope * end]).clamp(min=0).to(dtype or torch.get_default_dtype())


def jump_by_parts(v, z, t, s):
    t, s = column(t.to(z), z), column(s.to(z), z)
    return (1 - s) * (z - t * v) + s * (z + (1 - t) * v)


def ddim_in_parts(x_hat, z, t, s, schedule):
    (a, b), (c, d) = ([column(u, z) for u in schedule(time)] for time in (t, s))
    return d / b * z + (c - d / b * a) * x_hat


def scalings_by_ratio(index, scaling=10.0):
    if not scaling > 0 or not (index >= 0).all():
        raise ValueError("index or scaling")
    u = 2 * scaling * index
    return 1 / (1 + u**2), u * torch.rsqrt(1 + u * u)


def embedding_by_power(w, dim):
    if dim % 2 or dim < 4 or not w.isfinite().all():
        raise ValueError("dim or w")
    f = torch.logspace(0, -4, dim // 2, dtype=torch.float64)
    a = torch.outer(1000 * w.double(), f)
    return torch.cat((torch.sin(a), torch.cos(a)), dim=-1).to(w.dtype)


RIGHT = {
    "plan by a pattern": (PLAN, plan_by_pattern),
    "plan by split": (PLAN, plan_by_split),
    "plan by partition": (PLAN, parse_with()),
    "plan by partition, blanks first": (PLAN, parse_with(entries=lambda text: text.strip().split(","))),
    "plan": (AT, plan_with()),
    "plan of lists": (PLAN, parse_with(out=lambda plan: [list(entry) for entry in plan])),
    "phases by bisection": (AT, phases_by_bisection),
    "phases by next": (AT, lambda plan, step: (phases_at(plan, step), next((p for n, p in plan if step <= n), plan[-1][1]))[1]),
    "phases from behind": (AT, lambda plan, step: (phases_at(plan, step), [plan[-1][1]] + [p for n, p in plan[::-1] if step <= n])[1][-1]),
    "grid by a formula": (GRID, grid_by_formula),
    "grid from falling steps": (GRID, grid_with(lambda n, a, d: 1 - (u := torch.linspace(1, 0, n + 1, dtype=d)) / (u + a * (1 - u)))),
    "grid in float64 inside": (GRID, grid_with(lambda n, a, d: phase_grid(n, a, torch.float64).to(d or torch.get_default_dtype()))),
    "grid by a loop": (GRID, grid_with(lambda n, a, d: torch.tensor([a * i / (n + (a - 1) * i) for i in range(n + 1)], dtype=d))),
    "linear, quadratic, by coefficients": (LQ, linear_quadratic_by_coefficients),
    "linear, quadratic, in float64 inside": (
        LQ, lambda *a, dtype=None, **k: quadratic(*a, dtype=torch.float64, **k).to(dtype or torch.get_default_dtype())
    ),
    "edges": (EDGES, edges_with(lambda n, m: list(range(0, n + 1, n // m)))),
    "edges by a list": (EDGES, edges_by_list),
    "edges by a linspace": (EDGES, edges_with(lambda n, m: torch.linspace(0, n, m + 1, dtype=torch.float64).round().long())),
    "end": (END, end_with(below)),
    "end by a search": (END, end_by_search),
    "end by masks": (END, end_by_masks),
    "end by a loop": (END, end_by_loop),
    "end in place": (END, end_in_place),
    "stops by a list": (STOPS, stops_by_list),
    "stops by ceil": (STOPS, stops_with(lambda n, k: [-(-(k - i) * n // k) for i in range(k + 1)])),
    "loss": (LOSS, loss_with()),
    "edges by a stride": (EDGES, lambda grid, m: (phase_edges(grid, m), grid[:: len(grid) // m if m > 1 else len(grid) - 1])[1]),
    "linear, quadratic, in two pieces": (LQ, linear_quadratic_in_pieces),
    "linear, quadratic, by a loop": (
        LQ, lambda n, t=0.025, l=0.5, dtype=None: torch.tensor(linear_quadratic_by_coefficients(n, t, l, torch.float64).tolist(), dtype=dtype)
    ),
    "stops by a linspace": (
        STOPS, stops_with(lambda n, k: [*(n - math.floor(round(i, 9)) for i in torch.linspace(0, n, k + 1, dtype=torch.float64).tolist()[:-1]), 0])
    ),
    "stops by fractions": (STOPS, stops_with(lambda n, k: [math.ceil(Fraction((k - i) * n, k)) for i in range(k + 1)])),
    "flow by torch's own loss": (FLOW, flow_loss_with(distance=lambda d: per_sample(torch.nn.functional.mse_loss(d, 0 * d, reduction="none")))),
    "flow in float64": (FLOW, flow_loss_with(distance=lambda d: per_sample(d.double() ** 2).to(d))),
    "jump in float64": (JUMP, lambda v, z, t, s: (jump(v, z, t, s), (z.double() + column(s - t, z) * v.double()).to(z))[1]),
    "jump with einops": (
        JUMP, lambda v, z, t, s: (jump(v, z, t, s), z - v * einops.rearrange((t - s).to(z), "b -> b" + " 1" * (z.ndim - 1)))[1]
    ),
    "jump by x_hat and eps_hat": (
        JUMP, lambda v, z, t, s: (jump(v, z, t, s), torch.where(column(s == t, z), z, jump_by_parts(v, z, t, s)))[1]
    ),
    "exact student in float64": (PERFECT, student_with(lambda v, z, t, e: v.double().to(z))),
    "exact student, by masks": (PERFECT, student_with(end=lambda t, e: (phase_end(t, e), end_by_masks(t, e.to(t)))[1])),
    "aged": (AGED, aged_with()),
    "aged, at time 0 as well": (AGED, lambda *a: forgets(aged_student(*a), lambda z, t: (t == 0).any())),
    "aged in float64": (AGED, lambda *a: then(aged_student(*a), lambda v, z, t: v.double().to(z))),
    "aged as a younger one": (AGED, lambda net, g, e, age: aged_student(net, g, e, min(age, len(g)) if age >= 0 else age)),
    "timesteps by numbers": (
        STEPS, lambda n, o=50, table=1000: lcm_timesteps(n, o, table) and [int((o - math.floor(i * o / n)) * (table // o) - 1) for i in range(n)]
    ),
    "timesteps by a range": (
        STEPS, lambda n, o=50, table=1000: lcm_timesteps(n, o, table) and [range(table // o * o - 1, -1, -(table // o))[i * o // n] for i in range(n)]
    ),
    "timesteps as a tuple": (STEPS, then(lcm_timesteps, lambda a, *_: tuple(a))),
    "scalings by cos and sin": (
        SCALINGS, lambda i, scaling=10.0: (lcm_scalings(i, scaling), ((1 / (1 + (2 * scaling * i) ** 2)), torch.atan(2 * scaling * i).sin()))[1]
    ),
    "scalings by hypot": (
        SCALINGS, lambda i, scaling=10.0: (lcm_scalings(i, scaling), (0.25 / (r := torch.hypot(scaling * i, 0 * i + 0.5)) ** 2, scaling * i / r))[1]
    ),
    "scalings in float64": (SCALINGS, lambda i, scaling=10.0: tuple(c.to(i) for c in lcm_scalings(i.double(), scaling))),
    "f by its own scalings": (F, f_with(index=lambda t, table: torch.floor(t.double() * table + 0.5) - 1)),
    "f, z kept at index 0": (F, f_with(change=lambda f, x: f + 0 * x)),
    "lcm detached": (LCM, lcm_with(detach="both", times="data", distance=lambda d, c: per_sample(torch.hypot(d, 0 * d + c) - c))),
    "lcm by DDIM in parts": (LCM, lcm_with(stepped=ddim_in_parts)),
    "embedding by a loop": (
        W, embedding_with(frequency=lambda i, h: torch.tensor([10_000 ** (-k / (h - 1)) for k in range(h)], dtype=torch.float64), dtype=torch.float64)
    ),
    "embedding by a product": (W, embedding_with(angles=lambda w, f: torch.einsum("b,h->bh", 1000 * w, f))),
    "loss in float64": (LOSS, loss_in_float64),
    "loss with buffers": (LOSS, loss_with_buffers),
    "loss with einops": (LOSS, loss_with_einops),
    "sample": (SAMPLE, sample_with()),
    "sample with one buffer": (SAMPLE, sample_with_one_buffer),
    "sample in float64": (SAMPLE, sample_in_float64),
    "sample by correction": (SAMPLE, sample_by_correction),
    "TCD": (TCD, tcd_with()),
    "TCD by sizes": (TCD, tcd_by_sizes),
    "TCD by a loop": (TCD, tcd_by_loop),
    "TCD by angles": (TCD, tcd_by_angles),
    "flow by hand": (FLOW, flow_loss_by_hand),
    "flow": (FLOW, flow_loss_with()),
    "jump by hand": (JUMP, jump_by_hand),
    "exact student by hand": (PERFECT, student_by_hand),
    "exact student": (PERFECT, student_with()),
    "aged by recursion": (AGED, aged_by_recursion),
    "timesteps as released": (STEPS, timesteps_as_released),
    "scalings by a ratio": (SCALINGS, scalings_by_ratio),
    "f": (F, f_with()),
    "f in float64": (F, f_with(change=lambda f, x: f.double().to(f))),
    "lcm": (LCM, lcm_with()),
    "lcm in float64": (LCM, lcm_with(distance=lambda d, c: per_sample(numbers(d.double(), c)).to(d))),
    "embedding": (W, embedding_with()),
    "embedding by powers": (W, embedding_by_power),
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RIGHT)
def test_right_answer_passes(name, seed, unchecked_shapes):
    check, right = RIGHT[name]
    with torch.enable_grad():
        check(right, seed=seed)


# numbers of the original code


@pytest.mark.parametrize("name", GOLDEN["sigma_table"])
def test_golden_grid(name):
    n, shift = (int(part.lstrip("Nshift")) for part in name.split("_"))
    grid, table = phase_grid(n, shift, torch.float64), GOLDEN["sigma_table"][name]
    torch.testing.assert_close(grid[1:], exact(*table["sigmas"]), atol=2e-7, rtol=0)
    torch.testing.assert_close(grid[1:-1], exact(*table["sigmas_prev"][1:]), atol=2e-7, rtol=0)
    smallest = phase_grid(1000, shift, torch.float64)[1]  # where theirs starts, and ours at 0
    assert smallest.item() == pytest.approx(table["sigmas_prev"][0], abs=2e-7) and grid[0] == 0


@pytest.mark.parametrize("name", GOLDEN["phase_end_index"])
def test_golden_phase_ends(name):
    n, m = (int(part[1:]) for part in name.split("_"))
    grid = phase_grid(n, dtype=torch.float64)
    edges = phase_edges(grid, m) if n % m == 0 else floored(grid, m)
    torch.testing.assert_close(phase_end(grid[1:], edges), grid[GOLDEN["phase_end_index"][name]])


@pytest.mark.parametrize("name", GOLDEN["pcmfm_inference"])
def test_golden_stops(name):
    n, shift, steps = (int("".join(c for c in part if c.isdigit())) for part in name.split("_"))
    stops = grid_stops(phase_grid(n, shift, torch.float64), steps)
    torch.testing.assert_close(stops, exact(*GOLDEN["pcmfm_inference"][name]), atol=2e-7, rtol=0)


def test_golden_inference_of_fastvideo_and_the_double_shift():
    stops = phase_grid(6, 17, torch.float64).flip(0)
    torch.testing.assert_close(stops, exact(*GOLDEN["hunyuan_n6_shift17"]), atol=2e-7, rtol=0)
    # diffusers' FlowMatchEulerDiscreteScheduler(shift=17).set_timesteps(6): even between its already shifted ends,
    # then shifted again
    low = phase_grid(1000, 17, torch.float64)[1]
    even = torch.linspace(1, 0, 6, dtype=torch.float64) * (1 - low) + low
    twice = torch.cat([17 * even / (1 + 16 * even), exact(0.0)])
    shown = exact(1, 0.985805, 0.963267, 0.921969, 0.821798, 0.224379, 0)
    torch.testing.assert_close(twice, shown, atol=1e-6, rtol=0)
    assert (twice - stops).abs().max() > 0.5


def test_linear_quadratic_is_the_originals_formula():
    """1000 levels: a line up to L, then q i^2 + l i + c with value and slope continued, 0 at i = n."""
    n = 1000
    for threshold, linear in ((0.025, 0.5), (0.1, 0.75)):
        L = int(n * linear)
        d, Q = L - threshold * n, n - L
        q, c = d / (L * Q**2), d / (L * Q**2) * L**2
        slope = threshold / L - 2 * d / Q**2  # l of the original
        i = torch.arange(n + 1, dtype=torch.float64)
        levels = torch.where(i < L, 1 - i * threshold / L, 1 - (q * i**2 + slope * i + c))
        torch.testing.assert_close(linear_quadratic_grid(n, threshold, linear, torch.float64), levels.flip(0))


def test_lcm_samples_with_renoise():
    """f on the levels of lcm_timesteps: x <- sqrt(abar) f + sqrt(1 - abar) noise, no noise after the last f."""
    schedule = tabulated((1 - beta_table("scaled_linear")).cumprod(0))
    f = lcm.lcm_function(lambda z, t: torch.tanh(z) * column(t, z))
    z, *noise = torch.randn(4, 8, 2, dtype=torch.float64)
    times = torch.cat([(torch.tensor(lcm_timesteps(4)) + 1).double() / 1000, exact(0.0)])
    x = f(z, times[:1].expand(8))
    for t, n in zip(times[1:-1], noise):
        x = f(mix(x, n, t.expand(8), schedule), t.expand(8))
    torch.testing.assert_close(renoise(f, z, times, schedule, noise=noise), x)


def test_golden_steps():
    """The full distillation step, for 1, 2 and 3 phases and three kinds of guidance."""
    given, table = GOLDEN["distill_step_inputs"], GOLDEN["sigma_table"]["N10_shift3"]
    grid = exact(table["sigmas_prev"][0], *table["sigmas"])  # with the original's first level
    x, eps = exact(*given["x0"])[:, None], exact(*given["eps"])[:, None]
    index = torch.tensor(given["index"]) + 1  # theirs counts from 0, without the level at the data
    student = lambda z, t: 0.8 * z + 0.3 * t[:, None] - 0.2
    conditional = lambda z, t: 1.1 * z - 0.4 * t[:, None] + 0.1
    unconditional = lambda z, t: 0.9 * z - 0.1 * t[:, None]
    teachers = {
        "nocfg": conditional,
        "lcm_w3": guided(conditional, unconditional, 3 + 1),
        "imagen_w3": guided(conditional, unconditional, 3),
    }
    for m in (1, 2, 3):
        edges = torch.cat([grid[[j * 10 // m for j in range(m)]], grid[-1:]])
        t, s, end = grid[index], grid[index - 1], phase_end(grid[index], edges)
        z = mix(x, eps, t, rectified_flow)
        for mode, teacher in teachers.items():
            expected = GOLDEN["distill_step"][f"m{m}_{mode}"]
            z_s = phased.jump(teacher(z, t), z, t, s)
            found = {
                "x_t": z,
                "pred": phased.jump(student(z, t), z, t, end),
                "x_prev": z_s,
                "target": phased.jump(student(z_s, s), z_s, s, end),
            }
            for name, value in found.items():
                torch.testing.assert_close(value[:, 0], exact(*expected[name]), atol=2e-7, rtol=0)
            loss = phased_loss(student, student, teacher, x, eps, index, grid, edges).mean().item()
            assert loss == pytest.approx(expected["loss"], abs=1e-8)


def test_golden_huber_and_lcm():
    grid = phase_grid(4, dtype=torch.float64)
    still = lambda z, t: 0 * z
    for d, expected in GOLDEN["huber_c1e-3"].items():
        # one phase from t = 0.25 to 0: the student misses by d
        miss = lambda z, t, d=float(d): torch.full_like(z, -4 * d)
        loss = phased_loss(
            miss,
            still,
            still,
            exact(0.3)[:, None],
            exact(0.1)[:, None],
            torch.tensor([1]),
            grid,
            grid[[0, 4]],
        )
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for index, scalings in GOLDEN["lcm_scalings"].items():
        found = lcm_scalings(exact(float(index)))
        assert [c.item() for c in found] == pytest.approx(scalings, rel=1e-9, abs=1e-15)
    assert {int(k): v for k, v in GOLDEN["lcm_timesteps"].items()} == {
        k: lcm_timesteps(k) for k in (1, 2, 4, 8)
    }
    assert lcm_timesteps(4) == GOLDEN["tcd_timesteps4"]
    alpha_bar = (1 - beta_table("scaled_linear")).cumprod(0)
    for i, value in GOLDEN["alphas_cumprod"].items():
        assert alpha_bar[int(i)].item() == pytest.approx(value, rel=1e-5)
    # LCM's DDIM solver: x_hat = 1, eps_hat = 2, to the level before the j-th of its grid
    schedule = tabulated(alpha_bar)
    for j, expected in zip((0, 10, 49), GOLDEN["ddim_step_x0=1_eps=2_idx0,10,49"]):
        start = 20 * (j + 1) - 1
        t, s = exact((start + 1) / 1000), exact((max(start - 20, 0) + 1) / 1000)
        z = mix(exact(1.0)[:, None], exact(2.0)[:, None], t, schedule)
        assert ddim_step(torch.ones_like(z), z, t, s, schedule).item() == pytest.approx(expected, abs=1e-5)


# closed forms and the question of Euler or fresh noise

MIX = ProductMixture(exact(0.5, 0.3, 0.2)[None], exact(-1.0, 0.5, 1.5)[None], exact(0.2, 0.1, 0.25)[None])
GAUSS = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[
    :, None
]  # noise by quantiles


def truth(z=GAUSS):
    one = torch.ones(len(z), dtype=z.dtype)
    return MIX.flow_map(z, one, 0 * one, rectified_flow)


def w1(x):
    """Distance of the distribution to the data's, by quantiles."""
    return (x.sort(0).values - truth().sort(0).values).abs().mean().item()


def teacher(z, t):
    return convert(MIX.denoiser(rectified_flow)(z, t), z, t, rectified_flow, "x", "velocity")


def consistency_velocity(std):
    """The chord slope of the perfect one-phase student of N(0, std^2), written out."""

    def velocity(z, t):
        t = column(t, z)
        return z * (1 - std / ((1 - t) ** 2 * std**2 + t**2).sqrt()) / t

    return velocity


def test_euler_on_a_perfect_consistency_function():
    """sqrt 2 at worst in two steps, 2 in the limit: section 3.3's closed forms, without sampling."""
    for std in (0.5, 1.0, 2.0):
        velocity, one = consistency_velocity(std), exact(1.0)[:, None]
        worst = std / (1 + std)  # (1 - r) std = r
        assert phased_sample(velocity, one, exact(1.0, worst, 0.0)).item() / std == pytest.approx(2**0.5)
        many = phased_sample(velocity, one, phase_grid(10_000, dtype=torch.float64).flip(0)).item() / std
        assert many == pytest.approx(2, abs=2e-3)
    six = {shift: phased_sample(consistency_velocity(1.0), one, phase_grid(6, shift, torch.float64).flip(0)).item()
           for shift in (1, 3, 17)}  # fmt: skip
    assert list(six.values()) == pytest.approx([1.762, 1.695, 1.265], abs=6e-4)


def test_w1_of_the_exact_students():
    """Six steps: the teacher, a perfect consistency function with Euler, the perfect phased student."""
    for shift, of_teacher, of_euler in ((1, 0.112, 0.304), (3, 0.224, 0.265), (17, 0.712, 0.127)):
        stops = phase_grid(6, shift, torch.float64).flip(0)
        assert w1(phased_sample(teacher, GAUSS, stops)) == pytest.approx(of_teacher, abs=3e-3)
        assert w1(phased_sample(exact_student(MIX.flow_map, exact(0.0, 1.0)), GAUSS, stops)) == pytest.approx(
            of_euler, abs=3e-3
        )
        assert w1(phased_sample(exact_student(MIX.flow_map, stops.flip(0)), GAUSS, stops)) <= 0.01


def test_alignment(unchecked_shapes):
    """With 8 phases, a perfect student on 50 levels is as bad as its teacher, on 40 levels it is right."""
    for shift, bad in ((1, 0.052), (3, 0.129), (17, 0.636)):
        grid = phase_grid(50, shift, torch.float64)
        student = finished(grid, floored(grid, 8))
        assert w1(phased_sample(student, GAUSS, grid_stops(grid, 8))) == pytest.approx(bad, abs=6e-3)
        grid = phase_grid(40, shift, torch.float64)
        edges = phase_edges(grid, 8)
        assert w1(phased_sample(exact_student(MIX.flow_map, edges), GAUSS, edges.flip(0))) < 1e-3
    with pytest.raises(ValueError, match="8 phases do not divide a grid of 50 steps"):
        phase_edges(phase_grid(50), 8)


def finished(grid, edges):
    """A perfect student of an exact teacher on a grid whose stops may lie above the edges."""
    return exact_student(MIX.flow_map, edges)


def test_age(unchecked_shapes):
    """Young students want Euler, old ones fresh noise: the crossover, without training."""
    grid = phase_grid(50, dtype=torch.float64)
    edges, stops = phase_edges(grid, 1), grid_stops(grid, 6)
    found = {}
    for age in (0, 5, 12, 50):
        velocity = aged_student(teacher, grid, edges, age)
        renoised = [
            w1(phased_sample(velocity, GAUSS, stops, 1.0, torch.Generator().manual_seed(seed)))
            for seed in range(2)
        ]
        found[age] = w1(phased_sample(velocity, GAUSS, stops)), sum(renoised) / 2
    assert found[0][0] < found[0][1] and found[5][0] < found[5][1] / 3
    assert found[12][1] < found[12][0] and found[50][1] < found[50][0] / 5
    assert found[5][0] < 0.03 and found[50][0] == pytest.approx(0.281, abs=0.02)


def test_euler_is_ddim_and_fresh_is_renoise():
    """On rectified flow: the samplers of the ground floor, on denoisers."""
    denoiser = MIX.denoiser(rectified_flow)
    stops = time_grid(4, dtype=torch.float64)
    z = GAUSS[::100]
    torch.testing.assert_close(phased_sample(teacher, z, stops), ddim(denoiser, z, stops, rectified_flow))
    torch.testing.assert_close(
        phased_sample(teacher, z, stops, 1.0, torch.Generator().manual_seed(0)),
        renoise(denoiser, z, stops, rectified_flow, generator=torch.Generator().manual_seed(0)),
    )
    # the same steps in EDM's time t / (1 - t), where z / (1 - t) is the state: DDIM knows no schedule
    sigma = (stops / (1 - stops))[1:]
    found = ddim(MIX.denoiser(edm), z / (1 - stops[1]), sigma, edm)
    torch.testing.assert_close(found, phased_sample(teacher, z, stops[1:]))


def test_noise_between_zero_and_one():
    """var = A^2 + B^2 + 2 A B sqrt(1 - fresh^2), for the two-step gain of a perfect consistency function."""
    velocity, r, std = consistency_velocity(1.0), 0.5, 1.0
    last = std / math.hypot((1 - r) * std, r)  # f at r, of one unit
    g = torch.Generator().manual_seed(0)
    for fresh in (0.0, 0.5, 1.0):
        z = torch.randn(100_000, 1, generator=g, dtype=torch.float64)
        found = phased_sample(velocity, z, exact(1.0, r, 0.0), fresh, g).var().item()
        a, b = (1 - r) * std, r
        assert found == pytest.approx(last**2 * (a**2 + b**2 + 2 * a * b * math.sqrt(1 - fresh**2)), rel=0.02)


def test_finer_grids_teach_better():
    """With Euler steps the perfect student has a loss, of second order in the step."""
    losses = []
    for n in (20, 40, 80):
        grid = phase_grid(n, dtype=torch.float64)
        edges = phase_edges(grid, 2)
        index = torch.arange(1, n + 1).repeat(20)
        g = torch.Generator().manual_seed(0)
        x, eps = MIX.sample(len(index), g), torch.randn(len(index), 1, generator=g, dtype=torch.float64)
        perfect = exact_student(MIX.flow_map, edges)
        losses.append(phased_loss(perfect, perfect, teacher, x, eps, index, grid, edges, 1.0).mean().item())
    assert losses[0] > 4 * losses[1] > 16 * losses[2]  # Huber of a small d is d^2 / 2


def test_a_perfect_student_has_no_loss():
    """With an exact teacher step; and on straight flows, where velocity, chord and step are one line."""
    grid, index = phase_grid(8, 3.0, torch.float64), torch.arange(1, 9)
    x, eps = MIX.sample(8, torch.Generator().manual_seed(0)), GAUSS[::500]
    straight = lambda z, t: (z - x[:1]) / column(t, z)
    for phases in (1, 2, 4, 8):
        edges = phase_edges(grid, phases)
        perfect, step = exact_student(MIX.flow_map, edges), exact_student(MIX.flow_map, grid)
        loss = phased_loss(perfect, perfect, step, x, eps, index, grid, edges)
        torch.testing.assert_close(loss, 0 * loss, atol=1e-9, rtol=0)
        loss = phased_loss(straight, straight, straight, x[:1].expand_as(x), eps, index, grid, edges)
        torch.testing.assert_close(loss, 0 * loss, atol=1e-9, rtol=0)


def test_euler_from_edge_to_edge_is_the_flow():
    edges = exact(0.0, 0.3, 0.7, 1.0)
    found = phased_sample(exact_student(MIX.flow_map, edges), GAUSS, edges.flip(0))
    torch.testing.assert_close(found, truth(), atol=1e-7, rtol=0)


def test_low_precision():
    grid = phase_grid(100)
    x, eps = torch.randn(2, 8, 3).bfloat16()
    index = torch.tensor([1, 2, 50, 98, 99, 100, 3, 97])  # bfloat16 cannot tell 0.99 from 0.995
    loss = phased_loss(*[lambda z, t: 0.5 * z] * 3, x, eps, index, grid, phase_edges(grid, 4))
    assert loss.dtype == torch.bfloat16 and loss.isfinite().all()


def test_bad_input(unchecked_shapes):
    grid = phase_grid(10)
    x = torch.randn(2, 3)
    net = lambda z, t: z
    for call, sentence in (
        (lambda: parse_plan(""), "a plan is a list"),
        (lambda: parse_plan("4000-8,4000-4"), "never reached"),
        (lambda: phases_at([], 1), "at least one entry"),
        (lambda: phase_grid(0), "n must be at least 1"),
        (lambda: phase_grid(5, -1.0), "shift must be above 0"),
        (lambda: linear_quadratic_grid(5, 2.0), "threshold must be above 0 and at most 0.5"),
        (lambda: phase_edges(grid, 3), "Possible here: 1, 2, 5, 10"),
        (lambda: phase_edges(grid.flip(0), 2), "grid must rise"),
        (
            lambda: phase_end(torch.zeros(1), grid),
            "above 0 and at most 1: a phase ends below it",
        ),
        (lambda: grid_stops(grid, 11), "from 1 to 10, the steps of the grid"),
        (
            lambda: phased_loss(net, net, net, x, x, torch.tensor([0, 1]), grid, grid),
            "index must be from 1 to 10",
        ),
        (
            lambda: phased_loss(net, net, net, x, x, torch.tensor([1]), grid, grid),
            "index must be an integer tensor",
        ),
        (lambda: phased_loss(net, net, net, x, x[:1], torch.tensor([1, 2]), grid, grid), "one shape"),
        (lambda: phased_loss(net, net, net, x, x, torch.tensor([1, 2]), grid, grid, -1.0), "huber_c"),
        (lambda: phased_sample(net, x, grid), "stops must fall"),
        (
            lambda: phased_sample(net, x, grid.flip(0), 2.0),
            "fresh must be from 0 to 1 for each sample: a share",
        ),
        (lambda: tcd_fresh(grid[:-1], -0.1), "gamma must be from 0 to 1"),
        (lambda: tcd_fresh(grid, 0.5), "arrived at"),
        (lambda: phased_sample(net, x, grid.flip(0), grid), "shares: 10 are needed"),
        (
            lambda: phased_loss(net, net, net, x, x, torch.tensor([1.0, 2.0]), grid, grid),
            "index must be an integer tensor",
        ),
        (
            lambda: phased_loss(net, net, net, x, x, torch.tensor([1, 2]), grid, torch.tensor([0, 0.33, 1])),
            "levels of the grid",
        ),
        (
            lambda: phased_loss(net, lambda z, t: z[:1], net, x, x, torch.tensor([5, 2]), grid, grid),
            "returned shape",
        ),
        (lambda: aged_student(net, grid, grid, -1), "age must be at least 0"),
        (lambda: lcm.lcm_timesteps(60), "steps must be from 1 to 50"),
        (lambda: lcm.guidance_embedding(torch.ones(1), 5), "even"),
        (
            lambda: lcm_loss(
                net, net, net, x, x, torch.tensor([0, 1]), tabulated(torch.linspace(1, 0, 1000))
            ),
            "index must be from 1 to 999",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("origin", [50, 30, 40, 100, 999])
def test_lcm_timesteps_are_those_of_diffusers(origin):
    """latent-consistency-model#30: right for 50 alone is not right."""
    from diffusers import LCMScheduler

    scheduler = LCMScheduler()
    for steps in (1, 2, 3, 4, 7, 8, origin):
        scheduler.set_timesteps(steps, original_inference_steps=origin)
        assert lcm_timesteps(steps, origin) == scheduler.timesteps.tolist()
    assert lcm_timesteps(4, 30) == [989, 758, 494, 263]


def dropping(masks):
    """A velocity that notes the mask that dropout drew for it."""

    def velocity(z, t):
        mask = torch.dropout(torch.ones_like(z), 0.5, True)
        masks.append(mask)
        return z * mask

    return velocity


def test_student_and_target_share_their_dropout_masks():
    x, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    fixed, grid, masks = (lambda z, t: z), phase_grid(4), []
    phased_loss(dropping(masks), dropping(masks), fixed, x, eps, torch.tensor([1, 2, 3, 4]), grid, grid[::4])
    table = tabulated((1 - beta_table("linear")).cumprod(0))
    lcm_loss(dropping(masks), dropping(masks), fixed, x, eps, torch.tensor([50, 100, 500, 999]), table)
    for target, student in zip(masks[::2], masks[1::2]):
        assert torch.equal(target, student) and 0 < target.mean() < 2
    assert len(masks) == 4 and not torch.equal(masks[0], masks[2])


def test_edges_in_disorder_are_refused(unchecked_shapes):
    grid = phase_grid(4)
    for edges in (grid[[0, 3, 2, 4]], grid[[0, 2, 2, 4]], grid[:1], grid - 0.1, 2 * grid, grid * math.nan):
        for call in (lambda: phase_end(torch.tensor([0.3]), edges), lambda: exact_student(None, edges)):
            with pytest.raises(ValueError, match="edges must"):
                call()
