"""Checks of phased consistency: by hand, on exact flows, and where each network is asked.

On samples whose axes are all alike and on points, images and videos whose axes are not, at every index of the
grid: a wrong edge shows only above the first phase, a wrong start only where a phase has more than one step.
"""

import itertools
import math

import torch
from torch import Tensor

from minidistill import phased
from minidistill.checks import (
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
from minidistill.checks.oracle import mixture
from minidistill.schedules import rectified_flow

DOUBLE = torch.float64
FLOATS = (DOUBLE, torch.float32)
HALF = 0.5 - 1e-9  # just below a number that is exact in every dtype


def shift(u: Tensor, a: float) -> Tensor:
    """a u / (1 + (a - 1) u), as it is written in the papers."""
    return a * u / (1 + (a - 1) * u)


def anywhere(good: Tensor, *bad: float):
    """one_bad, with the bad value in the middle, at the start and at the end."""
    n = len(good)
    for value, spoiled in one_bad(good, *bad):
        for k in (0, n - n // 2, n - 1 - n // 2):
            yield value, spoiled.roll(k)


def other_shapes(z: Tensor) -> list[Tensor]:
    """z in every other shape: shorter along an axis, without one, with one more, and in another order."""
    shorter = [z.narrow(k, 0, 1) for k in range(z.ndim) if z.shape[k] > 1]
    others = [*shorter, z[1:], z[:, 0], z.flatten(), z[..., None], z.transpose(0, -1)]
    return [other for other in others if other.shape != z.shape]


def check_parse_plan(parse_plan=phased.parse_plan, seed: int = 0) -> None:
    """The plans of FastVideo, and what nobody can mean."""
    n = 10 + seed
    for text, wanted, why in (
        ("4000-1", [(4000, 1)], "one entry: up to step 4000, one phase"),
        ("125-16,250-8,375-4,500-2", [(125, 16), (250, 8), (375, 4), (500, 2)], "every entry, in order"),
        ("1-1", [(1, 1)], "the smallest plan: both numbers are at least 1"),
        ("10-4,20-8", [(10, 4), (20, 8)], "phases may rise, only limits must"),
        (f"{n}-2,{2 * n}-1", [(n, 2), (2 * n, 1)], "every entry, in order"),
        (" 10-4 , 20-2 ", [(10, 4), (20, 2)], "blanks around an entry do no harm"),
        ("9-1,10-2,100-3", [(9, 1), (10, 2), (100, 3)], "limits are numbers: 9 lies below 10"),
        ("2-7,1234567-1000", [(2, 7), (1234567, 1000)], "any whole numbers: nothing is the largest"),
    ):
        plan = accepts(lambda: parse_plan(text), f'"{text}" ({why})')
        assert isinstance(plan, list), f"A plan is a list of pairs, not {type(plan).__name__}: {plan!r}."
        assert all(isinstance(entry, tuple | list) and len(entry) == 2 for entry in plan), (
            f"Each entry is a pair, (limit, phases), got {plan!r}."
        )
        plan = [tuple(entry) for entry in plan]
        assert all(type(v) is int for entry in plan for v in entry), (
            f"Limits and phases are ints, neither text nor floats, got {plan!r}."
        )
        assert plan != [entry[::-1] for entry in wanted] or plan == wanted, (
            f'The limit comes first, then the phases: "{text}" is {wanted}, got {plan}.'
        )
        assert plan == wanted, f'"{text}" is {wanted}, {why}; got {plan}.'
    for entry, what in (
        ("", "An empty entry"),
        (" ", "An entry of blanks"),
        ("4000", "A limit without phases"),
        ("4000-", "A dash without phases"),
        ("-1", "Phases without a limit"),
        ("4000-0", "Zero phases"),
        ("0-1", "A limit of zero steps"),
        ("many-1", "A word for the limit"),
        ("4000-few", "A word for the phases"),
        ("4000-1.5", "Half a phase"),
        ("4000-1.0", "A fraction, also one of value 1,"),
        ("4000.0-1", "A fraction, also one of value 4000,"),
        ("1e3-1", "An exponent"),
        ("4000.5-1", "Half a step"),
        ("-5-2", "A negative limit"),
        ("5--2", "A negative number of phases"),
        ("10-2-3", "A third number"),
        ("+5-2", "A sign"),
        ("5-+2", "A sign"),
        ("1_000-2", "An underscore"),
        ("4000-1_0", "An underscore"),
        ("4000 - 1", "A blank inside an entry"),
        ("4000 -1", "A blank inside an entry"),
        ("4000- 1", "A blank inside an entry"),
        *((f"10-2{c}20-1", f"Another separator than a comma, {c!r},") for c in ";:/|\n\t "),
        *((f"10{c}2", f"Another sign than the dash -, {c!r},") for c in "\u2013\u2014\u2212:/=_>"),
        *((f"10-2{c}", f"Something after the phases, {c!r},") for c in ("x", ".", "-", "%")),
        *((f"{c}10-2", f"Something before the limit, {c!r},") for c in ("x", ".", "#")),
    ):
        for text in (entry, f"1-1,{entry}", f"{entry},9000-1", f"1-1,{entry},9000-1"):
            refuses(lambda: parse_plan(text), f'{what} must be refused, wherever it stands: "{text}".')
    for limits in ((20, 10), (10, 20, 15), (10, 30, 20, 40), (10, 10), (10, 20, 20), (10, 20, 20, 30)):
        for phases in ((4, 4, 4, 4), (8, 4, 2, 1), (1, 2, 4, 8)):
            text = ",".join(f"{limit}-{m}" for limit, m in zip(limits, phases))
            refuses(
                lambda: parse_plan(text),
                f'A limit not above the one before it is never reached, and must be refused: "{text}".',
            )


def check_phases_at(phases_at=phased.phases_at, seed: int = 0) -> None:
    """Limits belong to their entry; after the last one the last phases stay, always as an int."""
    falls = [(125 + seed, 16), (250 + seed, 8), (500 + seed, 2)]
    rises = [(10, 4), (20 + seed, 8), (30 + seed, 2), (40 + seed, 5)]  # and ends between the others
    for plan in (falls, rises, [(4000, 1)]):
        given = list(plan)
        for start, (limit, phases) in zip([0, *(limit + 1 for limit, _ in plan)], given):
            for step, why in (
                (start, "the first step after the limit before" if start else "step 0 is before every limit"),
                (limit - 1, "the first entry whose limit is not passed"),
                (limit, "a limit is included"),
            ):
                found = accepts(lambda: phases_at(plan, step), f"Step {step} of {plan}")
                assert type(found) is int, f"The phases are an int, got {found!r} at step {step} of {plan}."
                assert found == phases, (
                    f"At step {step} of {given}: {phases} phases, {why}; got {found}. Plans may fall or rise."
                )
        for step in (limit + 1, 10**6):
            found, last = phases_at(plan, step), given[-1][1]
            assert found == last and type(found) is int, (
                f"After the last limit, the last phases: {last} at step {step} of {given}, got {found!r}."
            )
        assert plan == given, "The plan that is given stays as it is."
    refuses(lambda: phases_at([], 1), "An empty plan must be refused.")
    refuses(lambda: phases_at(falls, -1), "A negative step must be refused.")
    refuses(lambda: phases_at(falls, 1.5), "Half a step must be refused.")


def check_phase_grid(phase_grid=phased.phase_grid, seed: int = 0) -> None:
    """Ends, order, the shift, once, in the dtype that is asked for."""
    for dtype, n, a in itertools.product(FLOATS, (1, 2, 10, 50), (1.0, 3.0, 17.0, 0.5, 1.5 + seed)):
        grid = accepts(lambda: phase_grid(n, a, dtype=dtype), f"A grid of {n} steps with shift {a:g}")
        u = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
        right = shift(u, a)
        assert isinstance(grid, Tensor), f"A grid is a tensor, not {type(grid).__name__}."
        assert grid.dtype == dtype, f"dtype={dtype} is asked for, not {grid.dtype}."
        assert grid.shape == (n + 1,), f"{n} steps lie between {n + 1} levels, got {tuple(grid.shape)}."
        assert grid[0] == 0, f"From exactly 0, the data, rising: the first level is {grid[0]:g}."
        assert grid[-1] == 1, f"To exactly 1, the noise: the last level is {grid[-1]:g}."
        likely = (
            ("The shift is ignored.", u),
            ("Shifted twice.", shift(right, a)),
            (
                "The shift is inverted: with a shift above 1 most levels lie near 1, the noise.",
                shift(u, 1 / a),
            ),
        )
        hint = f"Level i is a u / (1 + (a - 1) u), u = i / n: n = {n}, a = {a:g}."
        explained(grid, right, hint, likely, 1e-10 if dtype == DOUBLE else 1e-6)
    close(phase_grid(7), torch.linspace(0, 1, 8), "Without a shift the levels are even.", 1e-6)
    assert phase_grid(7).dtype == torch.get_default_dtype(), "Without dtype= it is torch's default."
    # FastVideo's inference, 6 steps and shift 17
    stops = exact(0.0, 0.77272731, 0.89473689, 0.94444442, 0.97142857, 0.98837209, 1.0)
    close(phase_grid(6, 17.0, dtype=DOUBLE), stops, "Six steps at shift 17.", 2e-7)
    for n in (0, -1, 2.5, math.nan):
        refuses(lambda: phase_grid(n), f"A grid of {n} steps must be refused.")
    for a in (0.0, -1.0, math.nan, math.inf):
        refuses(lambda: phase_grid(4, a), f"A shift of {a} must be refused.")


def check_linear_quadratic_grid(linear_quadratic_grid=phased.linear_quadratic_grid, seed: int = 0) -> None:
    """A line, a parabola of the same slope at the joint, and both ends."""
    sizes = ((1000, 0.025, 0.5), (40, 0.1, 0.75), (7, 0.3, 0.4 + 0.1 * (seed % 5)), (10, 0.5, 0.5))
    sizes += ((1, 0.2, 0.5), (2, 0.1, 0.6))
    for dtype, (n, threshold, linear) in itertools.product(FLOATS, sizes):
        grid = accepts(
            lambda: linear_quadratic_grid(n, threshold, linear, dtype=dtype),
            f"n = {n}, threshold {threshold}, linear {linear:g}",
        )
        assert isinstance(grid, Tensor), f"A grid is a tensor, not {type(grid).__name__}."
        u = torch.linspace(1, 0, n + 1, dtype=DOUBLE)  # the share of the steps that is done

        def bent(threshold, linear):
            """Value and slope of the line at u = linear, and 0 at u = 1."""
            slope, w = threshold / linear, (u - linear) / (1 - linear)
            return 1 - slope * u - torch.where(u <= linear, 0, (1 - slope) * w**2)

        near, line, w = u <= linear, 1 - threshold / linear * u, (u - linear) / (1 - linear)
        assert grid.dtype == dtype, f"dtype={dtype} is asked for, not {grid.dtype}."
        assert grid.shape == (n + 1,), f"{n} steps lie between {n + 1} levels, got {tuple(grid.shape)}."
        assert grid[0] == 0 and grid[-1] == 1, "From exactly 0, the data, rising to exactly 1, the noise."
        likely = (
            ("threshold and linear are ignored.", bent(0.025, 0.5)),
            ("threshold is ignored.", bent(0.025, linear)),
            ("linear is ignored.", bent(threshold, 0.5)),
            (
                "Two lines meet in a corner: beyond the joint a parabola of the same slope.",
                torch.where(near, line, (1 - threshold) * (1 - w)),
            ),
            (
                "At the joint the slope jumps: the parabola does not start flat, but as steep as the line.",
                torch.where(near, line, (1 - threshold) * (1 - w**2)),
            ),
        )
        hint = "1 - slope u up to u = linear, slope = threshold / linear; less (1 - slope) w^2 beyond."
        explained(grid, bent(threshold, linear), hint, likely, 1e-10 if dtype == DOUBLE else 1e-6)
    close(
        linear_quadratic_grid(40, dtype=DOUBLE),
        linear_quadratic_grid(40, 0.025, 0.5, dtype=DOUBLE),
        "By default threshold is 0.025 and linear 0.5.",
    )
    for n in (0, -1, 2.5):
        refuses(lambda: linear_quadratic_grid(n), f"A grid of {n} steps must be refused.")
    for linear in (0.0, 1.0, -0.1, 1.1, math.nan):
        refuses(lambda: linear_quadratic_grid(10, 0.01, linear), f"linear = {linear} must be refused.")
    for threshold in (0.0, -0.1, 0.6, math.nan):
        refuses(
            lambda: linear_quadratic_grid(10, threshold, 0.5),
            f"threshold = {threshold} must be refused: above 0 and at most linear.",
        )


def check_phase_edges(phase_edges=phased.phase_edges, seed: int = 0) -> None:
    """Every (n / m)-th level, from 0 to 1; other numbers of phases are refused."""
    sizes = ((50, 5), (40, 8), (10, 2), (50, 1), (50, 50), (1, 1), (12, 3 + seed % 2))
    for dtype, (n, phases) in itertools.product(FLOATS, sizes):
        grid, k = shift(torch.linspace(0, 1, n + 1, dtype=dtype), 3.0), n // phases
        edges = accepts(lambda: phase_edges(grid, phases), f"{phases} phases on a grid of {n} steps")
        assert isinstance(edges, Tensor), f"The edges are a tensor, not {type(edges).__name__}."
        likely = (
            ("The last edge is 1, where the noise is.", grid[::k][:-1]),
            ("The first edge is 0, where the data is.", grid[::k][1:]),
            ("Edges rise.", grid[::k].flip(0)),
            ("phases is ignored: there are as many pieces as phases.", grid[[0, -1]]),
            ("Edges are levels of the grid, which need not be even.", torch.linspace(0, 1, phases + 1)),
        )
        hint = f"{phases} phases have {phases + 1} edges: every (n / phases)-th level of the grid, both ends."
        explained(edges, grid[::k], hint, likely)
        assert edges.dtype == dtype, f"Edges have the dtype of the grid, {dtype}, not {edges.dtype}."
    grid = torch.linspace(0, 1, 51, dtype=DOUBLE)
    for phases in (3, 4, 8, 49):
        refuses(lambda: phase_edges(grid, phases), f"{phases} phases do not divide 50 steps: refuse.")
    for phases in (100, 51):
        refuses(lambda: phase_edges(grid, phases), f"{phases} phases of 50 steps must be refused.")
    for phases in (0, -5, 2.5, math.nan):
        refuses(lambda: phase_edges(grid, phases), f"{phases} phases must be refused.")
    inside, level = grid.clone(), grid.clone()
    inside[[20, 21]], level[20] = grid[[21, 20]], grid[21]
    for bad, what in (
        (grid.flip(0), "that falls"),
        (inside, "that falls once, inside,"),
        (level, "with two equal levels"),
        (grid[1:], "that does not start at 0"),
        (grid[:-1], "that does not end at 1"),
        (grid.clamp(min=1e-4), "that does not start at 0, but at 1e-4,"),
        (grid.clamp(max=1 - 1e-4), "that does not end at 1, but at 0.9999,"),
        (torch.where(grid == grid[7], math.nan, grid), "with nan"),
    ):
        refuses(lambda: phase_edges(bad, 1), f"A grid {what} must be refused.")


def check_phase_end(phase_end=phased.phase_end, seed: int = 0) -> None:
    """The largest edge strictly below, for times in any order; phases tile the way."""
    g = torch.Generator().manual_seed(seed)
    grid = shift(torch.linspace(0, 1, 13, dtype=DOUBLE), 3.0)
    uneven = torch.cat([exact(0.0), torch.rand(5, generator=g, dtype=DOUBLE).sort().values, exact(1.0)])
    dyadic = exact(0.0, 0.25, 0.5, 1.0)
    for edges, times in (
        *((grid[:: 12 // phases], grid[1:]) for phases in (4, 1, 2, 3, 6, 12)),
        (exact(0.0, 0.5, 1.0), exact(0.1, HALF, 0.5, 1 - HALF, 0.99)),
        (exact(0.0, 0.1, 0.5, 0.9, 1.0), exact(0.05, 0.3, 0.6, 0.95, 1.0)),  # as many times as edges
        (uneven, torch.cat([uneven[1:], uneven[1:-1] + 1e-9])),
        (exact(0.2, 0.4, 0.9), exact(0.3, 0.4, 0.9)),
        (exact(0.2, 0.4, 1.0), 0.2 + exact(1e-5, 1e-4, 1e-3, 1e-2)),  # just above the first edge
    ):
        t = times[torch.randperm(len(times), generator=g)]
        expected = torch.stack([edges[edges < u].max() for u in t])
        number = (edges < t[:, None]).sum(1)  # of edges below
        end = accepts(lambda: phase_end(t, edges), f"t = {t.tolist()} with edges {edges.tolist()}")
        assert isinstance(end, Tensor) and end.shape == t.shape, "One end for each time: a tensor (b,)."
        likely = (
            (
                "An edge itself belongs to the phase below it: strictly below t, edges < t.",
                torch.stack([edges[edges <= u].max() for u in t]),
            ),
            ("This is the edge above t, or t itself: a jump ends below.", edges[number]),
            (
                "This is one edge for every t, the first: each t has its own, the next below it.",
                edges[0].expand_as(t),
            ),
            ("This is one edge for every t: each t has its own.", expected.min().expand_as(t)),
            ("This is one edge for every t: each t has its own.", expected.max().expand_as(t)),
            ("One edge too far down: the largest of those below t.", edges[(number - 2).clamp(min=0)]),
            (
                "This is the nearest edge, which may lie above: it must be below t.",
                edges[(edges - t[:, None]).abs().argmin(1)],
            ),
            ("This is the number of the edge: return its time, edges[number].", (number - 1).to(DOUBLE)),
            ("The ends come in the order of t, which is not sorted.", expected.sort().values),
        )
        hint = (
            "The largest edge strictly below t, wherever the edges lie; 1e-9 above an edge is not that edge."
        )
        explained(end, expected, hint, likely)
    for low, high in ((torch.float32, DOUBLE), (DOUBLE, torch.float32), (torch.float32, torch.float32)):
        t, edges = exact(1.0, 0.25, 0.3, 0.5, 0.75).to(low), dyadic.to(high)
        end = phase_end(t, edges)
        assert end.dtype == low, f"The ends have the dtype of t, {low}, not {end.dtype} (edges: {high})."
        close(end, exact(0.5, 0.0, 0.25, 0.25, 0.5), "Right in float64, but not when t or edges are float32.")
    for edges in (exact(0.0, 0.5, 1.0), exact(0.2, 0.4, 0.9)):
        first, last = edges[0].item(), edges[-1].item()
        wrong = (first, first - 1e-4, -1.0, -math.inf, last + 1e-4, last + 0.05, 2.0, math.inf)
        for value, bad in anywhere(edges[1:].flip(0).repeat(2), *wrong):
            refuses(
                lambda: phase_end(bad, edges),
                f"t = {value:g} must be refused, also as one of many: above {first:g}, at most {last:g}.",
            )


def check_grid_stops(grid_stops=phased.grid_stops, seed: int = 0) -> None:
    """Edges when they divide; rounding towards noise when not."""
    sizes = [(50, steps) for steps in (5, 4, 50, 1, 8)] + [(n, 1 + (3 * seed + n) % n) for n in (7, 12, 40)]
    for dtype, (n, steps) in itertools.product(FLOATS, sizes):
        a = 1.0 if n == 50 else 3.0
        grid = shift(torch.linspace(0, 1, n + 1, dtype=dtype), a)
        index = [*(n - k * n // steps for k in range(steps)), 0]
        down = [(steps - k) * n // steps for k in range(steps + 1)]
        likely = (
            ("Stops fall, from 1, where the noise is, to 0.", grid[index].flip(0)),
            ("The last stop is 0, where the data is: steps + 1 stops.", grid[index[:-1]]),
            ("Rounded towards the data: stop k is level n - floor(k n / steps), towards noise.", grid[down]),
            (
                "Stops are levels of the training grid; these lie between them.",
                shift(torch.linspace(1, 0, steps + 1, dtype=DOUBLE), a),
            ),
            (
                "Rounded to the nearest level: stop k is level n - floor(k n / steps), towards noise.",
                grid[[round(n - k * n / steps) for k in range(steps + 1)]],
            ),
            (
                "n // steps is rounded before it is multiplied: floor(k n / steps).",
                grid[[n - k * (n // steps) for k in range(steps)] + [0]],
            ),
        )
        hint = f"Stop k is level n - floor(k n / steps), the last one level 0: {steps} steps on {n} levels."
        stops = accepts(lambda: grid_stops(grid, steps), f"{steps} steps on a grid of {n}")
        assert isinstance(stops, Tensor), f"The stops are a tensor, not {type(stops).__name__}."
        explained(stops, grid[index], hint, likely)
        assert stops.dtype == dtype, f"Stops have the dtype of the grid, {dtype}, not {stops.dtype}."
    grid = torch.linspace(0, 1, 51, dtype=DOUBLE)
    for steps in (0, -1, 2.5, 51, math.nan):
        refuses(lambda: grid_stops(grid, steps), f"{steps} steps on a grid of 50 must be refused.")
    inside, level = grid.clone(), grid.clone()
    inside[[20, 21]], level[20] = grid[[21, 20]], grid[21]
    for bad, what in (
        (grid.flip(0), "falls"),
        (inside, "falls once, inside,"),
        (level, "has two equal levels"),
        (torch.where(grid == grid[7], math.nan, grid), "holds nan"),
    ):
        refuses(lambda: grid_stops(bad, 5), f"A grid that {what} must be refused.")


DIMS = ((4, 4, 4), (3,), (2, 3, 5), (2, 1, 3, 5))  # alike; points, images and videos that are not


def float32_numbers(*size: int, generator: torch.Generator) -> Tensor:
    """Random numbers of float32 in float64: both dtypes see the same data."""
    return torch.randn(size, generator=generator).double()


def check_flow_matching_loss(flow_matching_loss=phased.flow_matching_loss, seed: int = 0) -> None:
    """By hand: where the network is asked, the velocity eps - x, and its gradient."""
    g = torch.Generator().manual_seed(seed)
    t = exact(0.0, 0.4, 0.7, 1.0)
    for dims in DIMS:
        x, eps = float32_numbers(2, 4, *dims, generator=g)
        z, asked = (1 - column(t, x)) * x + column(t, x) * eps, []
        knob = torch.ones((), dtype=DOUBLE, requires_grad=True)
        velocity = recorded(lambda z, t: student(knob.to(z) * z, t), asked)
        loss = accepts(lambda: flow_matching_loss(velocity, x, eps, t), f"t = {t.tolist()}")
        assert len(asked) == 1, f"The network is asked once, not {len(asked)} times."
        likely = (
            (
                "Noise and data are exchanged: at t = 1 only noise.",
                column(t, x) * x + (1 - column(t, x)) * eps,
            ),
            ("The data fades, too: (1 - t) x, not x.", x + column(t, x) * eps),
        )
        explained(asked[0][0], z, "The network is asked at z = (1 - t) x + t eps.", likely)
        likely = (("The network is asked at t itself, from 0 to 1, not at 1000 t.", 1000 * t),)
        explained(asked[0][1], t, "The network is asked at t as it is, from 0 to 1: no clamp.", likely)
        assert loss.shape == (4,), "One loss for each sample, (b,): the mean is over all axes but the first."
        per = lambda d: d.flatten(1).mean(1)
        d = student(z, t) - (eps - x)
        likely = (
            (
                "The velocity leads from data to noise: eps - x, not x - eps.",
                per((student(z, t) + eps - x) ** 2),
            ),
            ("The network predicts the velocity eps - x, not the noise.", per((student(z, t) - eps) ** 2)),
            ("The network predicts the velocity eps - x, not the data.", per((student(z, t) - x) ** 2)),
            ("The squared distance, not the absolute one.", per(d.abs())),
            ("The squared distance, not half of it.", per(d**2) / 2),
            ("The mean over the numbers of a sample, not the sum.", per(d**2) * d[0].numel()),
            ("The squared distance, without a root.", per(d**2).sqrt()),
        )
        explained(
            loss, per(d**2), "The velocity is eps - x; squares, then the mean per sample: (b,).", likely
        )
        right = torch.autograd.grad(per((student(knob * z, t) - (eps - x)) ** 2).sum(), knob)[0]
        assert loss.requires_grad, "The gradient must reach the network: no detach and no no_grad here."
        close(torch.autograd.grad(loss.sum(), knob)[0], right, "The gradient is that of the square.", 1e-9)
        close_in_float32(
            flow_matching_loss(velocity, x.float(), eps.float(), t).detach(), per(d**2), "The loss"
        )
        loud = lambda z, t: 1000 * student(z, t)
        close(
            flow_matching_loss(loud, x, eps, t),
            per((loud(z, t) - (eps - x)) ** 2),
            "Right for small numbers, not for large ones: nothing is clipped.",
        )
        for wrong in other_shapes(eps):
            size = f"{tuple(wrong.shape)} for x of {tuple(x.shape)}"
            refuses(
                lambda: flow_matching_loss(student, x, wrong, t),
                f"Noise of another shape, {size}, must be refused.",
            )
            refuses(
                lambda: flow_matching_loss(lambda z, t: wrong, x, eps, t),
                f"A velocity of another shape, {size}, must be refused.",
            )
        for wrong in (t[:1], t[:3], t[:, None]):
            refuses(
                lambda: flow_matching_loss(student, x, eps, wrong),
                f"Times of shape {tuple(wrong.shape)} for 4 samples: must be refused.",
            )


def check_jump(jump=phased.jump, seed: int = 0) -> None:
    """The sign of the step, and the jump of length zero."""
    g = torch.Generator().manual_seed(seed)
    t, s = exact(1.0, 0.7, 0.3, 0.2), exact(0.5, 0.0, 0.9, 0.2 - 1e-5)  # up, too, and a short one
    for dims in DIMS:
        v, z = float32_numbers(2, 4, *dims, generator=g)
        v.requires_grad_()
        step = column(s - t, z)
        found = accepts(lambda: jump(v, z, t, s), f"t = {t.tolist()} and s = {s.tolist()}")
        likely = (
            ("The step to the cleaner s is negative: s - t, not t - s.", z - step * v),
            ("The velocity is multiplied by the length s - t.", z + v),
            ("The jump ends at s, not at 0.", z - column(t, z) * v),
            ("The jump starts at z.", step * v),
            ("A short jump is a jump, too.", torch.where(step.abs() < 1e-3, z, z + step * v)),
            ("s may lie above t: the same formula.", z + step.clamp(max=0) * v),
        )
        explained(found, z + step * v, "z + (s - t) velocity, sample by sample.", likely)
        slope = torch.autograd.grad(found.sum(), v)[0] if found.requires_grad else 0 * z
        close(slope, step.expand_as(z), "The gradient flows through the velocity: no detach.")
        v = v.detach()
        still = accepts(lambda: jump(v, z, t, t), "A jump of length zero")
        assert torch.equal(still, z), "A jump of length zero changes nothing."
        close_in_float32(jump(v.float(), z.float(), t, s), z + step * v, "A jump")
        for wrong in other_shapes(v):
            refuses(lambda: jump(wrong, z, t, s), "A velocity of another shape than z must be refused.")
        for what, one, other in (("t", t[:1], s), ("s", t, s[:1])):
            refuses(lambda: jump(v, z, one, other), f"One {what} for four samples must be refused.")
        for _, bad in anywhere(s, -0.1, 1.1):
            refuses(lambda: jump(v, z, t, bad), "An s outside [0, 1] must be refused, also one of many.")
            refuses(lambda: jump(v, z, bad, s), "A t outside [0, 1] must be refused, also one of many.")


def student(z, t):
    """The first of three networks that have nothing in common."""
    return torch.tanh(z) * (1 + column(t, z)) + 0.3 * torch.sin(3 * z)


def target(z, t):
    """The second."""
    return torch.cos(z) - column(t, z) * z


def teacher(z, t):
    """The third."""
    return torch.sin(2 * z) + column(t, z).square()


NETS = {"student": student, "target": target, "teacher": teacher}


def huber(d: Tensor, c: float) -> Tensor:
    """The distance as the papers write it, (b,)."""
    return ((d**2 + c**2).sqrt() - c).flatten(1).mean(1)


def likely_distances(d: Tensor, c: float) -> list[tuple[str, Tensor]]:
    """What is found in the place of huber(d, c)."""
    squares, each, n = d.flatten(1).square(), (d**2 + c**2).sqrt() - c, d[0].numel()
    torchs = lambda a: torch.where(d.abs() < a, d**2 / 2, a * (d.abs() - a / 2)).flatten(1).mean(1)
    return [
        ("Squares in place of Huber's distance: sqrt(d^2 + c^2) - c.", squares.mean(1)),
        ("Squares in place of Huber's distance: sqrt(d^2 + c^2) - c.", squares.mean(1) / 2),
        ("c is ignored: sqrt(d^2 + c^2) - c, not the absolute value.", huber(d, 0.0)),
        ("huber_c is ignored: it is an argument, not always 1e-3.", huber(d, 1e-3)),
        ("Without - c: a perfect student would not have loss 0.", huber(d, c) + c),
        ("c in place of its square: sqrt(d^2 + c^2) - c.", huber(d, c**0.5) + c**0.5 - c),
        ("c in place of its square: sqrt(d^2 + c^2) - c.", huber(d, c**0.5)),
        ("One factor c too many: sqrt(d^2 + c^2) - c.", huber(d, c) * c),
        ("huber_c is taken as it is: not scaled with the size of a sample.", huber(d, c * n**0.5)),
        ("huber_c is taken as it is: not scaled with the size of a sample.", huber(d, c * n)),
        ("The distance is not divided by c.", huber(d, c) / (c or 1.0)),
        ("The distance is not multiplied by 2.", huber(d, c) * 2),
        *(
            ("Huber's distance is sqrt(d^2 + c^2) - c here, not torch's huber_loss.", other)
            for other in (torchs(c), torchs(c) / (c or 1.0), torchs(1.0))
        ),
        ("The mean over the numbers of a sample, not the sum.", huber(d, c) * n),
        ("The mean is over each sample, not over the batch.", each.mean().expand(len(d))),
        ("The mean is over each sample, not over the batch.", each.flatten(0, -2).mean(0)),
        ("The mean is over each sample: here samples are mixed.", each.reshape(-1, len(d)).mean(0)),
        ("One norm over the sample: the root is of each number.", (squares.sum(1) + c**2).sqrt() - c),
        ("The mean inside the root: the root is of each number.", (squares.mean(1) + c**2).sqrt() - c),
        *(("Nothing is clipped.", huber(d.clamp(-a, a), c)) for a in (1, 2, 3, 5, 10)),
    ]  # fmt: skip


class Net(torch.nn.Module):
    """net(knob z, t) with a parameter, which keeps copies of what it is asked at."""

    def __init__(self, net):
        super().__init__()
        self.knob, self.asked = torch.nn.Parameter(exact(1.0).squeeze()), []
        self.strict = recorded(lambda z, t: net(self.knob.to(z) * z, t), self.asked)

    def forward(self, z, t):
        return self.strict(z, t)


def check_phased_loss(phased_loss=phased.phased_loss, seed: int = 0) -> None:
    """Who is asked where, both jumps to one edge, Huber's distance, and no gradient to target or teacher."""
    g = torch.Generator().manual_seed(seed)
    even = torch.linspace(0, 1, 9, dtype=DOUBLE)
    uneven = torch.linspace(0, 1, 11, dtype=DOUBLE) ** 1.7  # edges that float32 rounds up, and down
    steep = torch.linspace(0, 1, 11, dtype=DOUBLE) ** 6  # from 1e-6 on, which is not 0
    for grid, phases, dims, c in (
        (shift(even, 3.0), 2, (8, 8, 8), 0.3),
        (shift(even, 3.0), 1, (8, 8, 8), 0.7),
        (shift(even, 3.0), 4, (3,), 1e-3),
        (shift(even, 3.0), 8, (8, 8), 0),
        (steep, 2, (3, 2), 1),
        (uneven, 5, (2, 3, 5), 1e-3),
        (uneven, 2, (2, 1, 3, 5), 0.1),
    ):
        n = len(grid) - 1
        edges = grid[:: n // phases].contiguous()
        x, eps = float32_numbers(2, n, *dims, generator=g)
        index = 1 + torch.randperm(n, generator=g)
        nets = [Net(net) for net in NETS.values()]
        asked = {name: net.asked for name, net in zip(NETS, nets)}
        loss = accepts(
            lambda: phased_loss(*nets, x, eps, index, grid, edges, c),
            f"{phases} phases on a grid of {n} with huber_c = {c}",
        )

        # who is asked where
        assert isinstance(loss, Tensor) and loss.shape == (n,), "A loss returns one number per sample, (b,)."
        assert loss.isfinite().all(), "nan or inf comes out: what is divided by 0?"
        assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
        assert all(net.knob.requires_grad for net in nets), (
            "requires_grad_(False) stays behind: a student that is its own target would never learn. "
            "Use torch.no_grad()."
        )
        for name in NETS:
            times = len(asked[name])
            assert times == 1, f"Each network is asked once, for the whole batch; the {name} {times} times."
        t, s = grid[index], grid[index - 1]
        T, S = column(t, x), column(s, x)
        z = (1 - T) * x + T * eps
        for name in ("student", "teacher"):
            likely = (
                (f"The {name} is asked at t = grid[index], where z_t is, not at s = grid[index - 1].", s),
                (f"The {name} is asked at the time grid[index], not at the index itself.", index.to(DOUBLE)),
                (f"The {name} is asked at grid[index], not at index / n: levels may be uneven.", index / n),
                (f"The {name} is asked at t itself, from 0 to 1, not at 1000 t.", 1000 * t),
            )
            explained(asked[name][0][1], t, f"The {name} is asked at t = grid[index].", likely)
            likely = (
                ("Noise and data are exchanged: z_t = (1 - t) x + t eps.", T * x + (1 - T) * eps),
                (
                    "A straight line from x to eps: (1 - t) x, without a root.",
                    (1 - T**2).sqrt() * x + T * eps,
                ),
                ("z_t = (1 - t) x + t eps: the data fades, too.", x + T * eps),
                (f"The {name} is asked at z_t, not at z_s.", (1 - S) * x + S * eps),
            )
            explained(asked[name][0][0], z, f"The {name} is asked at z_t = (1 - t) x + t eps.", likely)
        end = torch.stack([edges[edges < u].max() for u in t])
        E, u, v = column(end, x), teacher(z, t), student(z, t)
        z_s = z + (S - T) * u
        likely = (
            ("The target is asked at z_s, after the teacher's step, not at z_t.", z),
            ("z_s comes from the teacher's step, not from the data and the noise.", (1 - S) * x + S * eps),
            ("The teacher's step goes to the cleaner s: s - t is negative.", z + (T - S) * u),
            ("The teacher takes one small step, to s, not to the edge.", z + (E - T) * u),
            ("The teacher's step has the length s - t.", z + u),
            ("The small step is the teacher's, not the student's.", z + (S - T) * v),
            ("The small step is the teacher's, not the target's.", z + (S - T) * target(z, t)),
        )  # fmt: skip
        hint = (
            "The target is asked where the teacher's small step lands, z_t + (s - t) v_teacher: no new noise."
        )
        explained(asked["target"][0][0], z_s, hint, likely)
        at, inside = asked["target"][0][1], s > 0
        likely = (
            ("The target is asked at s = grid[index - 1], where z_s is, not at t.", t[inside]),
            ("The target is asked at s, where z_s is, not at the edge.", end[inside]),
            *(
                (
                    "Asked at t only where s is exactly 0: a small s is a time like any other.",
                    torch.where(s > least, s, t)[inside],
                )
                for least in (1e-5, 1e-4, 1e-3, 5e-3, 1e-2)
            ),
        )
        explained(at[inside], s[inside], "The target is asked at s = grid[index - 1].", likely)
        hint = "Where s = 0 the target is asked at t, still at z_s. At time 0 some networks divide by 0."
        close(at[~inside], t[~inside], hint)

        # both jumps
        w = target(z_s, torch.where(inside, s, t))
        landed, wanted = z + (E - T) * v, z_s + (E - S) * w
        own = column(torch.stack([edges[edges < u].max() if u > 0 else u for u in s]), x)
        at_most = column(torch.stack([edges[edges <= u].max() for u in t]), x)
        zero = 0 * E
        jumps = lambda a, b: (z + (a - T) * v) - (z_s + (b - S) * w)
        along = lambda c: c.expand_as(x) if dims[-1] == n else column(c, x)  # the wrong axis
        four = lambda c: c.reshape(-1, 1, 1, 1) if x.ndim < 4 else column(c, x)
        cut = lambda a, limit: a.clamp(-limit, limit)
        likely = [
            (sentence, huber(d, c))
            for sentence, d in (
                ("The student's jump goes down: its length is e - t, not t - e.", z + (T - E) * v - wanted),
                ("The target's jump goes down: its length is e - s, not s - e.", landed - z_s + (E - S) * w),
                ("Both jumps go down: e - t and e - s are negative.", z + (T - E) * v - z_s + (E - S) * w),
                ("Not to 0: both jumps end at the edge of the phase of t.", jumps(zero, zero)),
                ("The target jumps to the same edge as the student, not to 0.", jumps(E, zero)),
                ("The student jumps to the edge of its phase, not to 0.", jumps(zero, E)),
                ("The target jumps to the edge of t: with that of s, phases dissolve.", jumps(E, own)),
                ("Both jump to the edge of the phase of t, not to that of s.", jumps(own, own)),
                ("Strictly below t: from an edge on to the edge below.", jumps(at_most, at_most)),
                ("e - t runs along the wrong axis: one for each sample.", z + along(end - t) * v - wanted),
                (
                    "e - t and e - s run along the wrong axis: one for each sample.",
                    z + along(end - t) * v - (z_s + along(end - s) * w),
                ),
                (
                    "e - t and e - s have one axis for each axis of z, not always four.",
                    z + four(end - t) * v - (z_s + four(end - s) * w),
                ),
                ("e - t has one axis for each axis of z, not always four.", z + four(end - t) * v - wanted),
                ("The target is not z_s everywhere: from there it jumps to the edge, too.", landed - z_s),
                ("The target's jump starts at s: its length is e - s.", landed - (z_s + (E - T) * w)),
                ("The target's jump starts from z_s, not from z_t.", landed - (z + (E - S) * w)),
                ("The student's jump starts from z_t, not from z_s.", z_s + (E - T) * v - wanted),
                ("Compare where the jumps land, not the velocities.", v - w),
                ("Compare where the jumps land, not slopes: no division.", (landed - wanted) / (E - T)),
                ("Compare where the jumps land: no division by t - s.", (landed - wanted) / (S - T)),
                ("Each sample has its own target.", landed - wanted.flip(0)),
            )
        ]  # fmt: skip
        right = huber(landed - wanted, c)
        likely += likely_distances(landed - wanted, c)
        likely += [
            (f"The loss is not divided by {what}.", right / length)
            for what, length in (("t - s", t - s), ("t - e", t - end), ("t", t))
        ]
        for a in (1, 2, 3, 5):
            likely += [
                ("Nothing is clipped.", huber(d, c))
                for d in (
                    z + (E - T) * cut(v, a) - (z_s + (E - S) * cut(w, a)),
                    z + (E - T) * cut(v, a) - wanted,
                    cut(landed, a) - cut(wanted, a),
                    landed - cut(wanted, a),
                )
            ]
        hint = (
            "Huber's distance of z_t + (e - t) v_student and z_s + (e - s) v_target, where both jumps end at "
            "one edge e, the largest strictly below t."
        )
        explained(loss, right, hint, likely, 1e-9)
        for size, sentence in (
            (1000, "Right for small velocities, not for large ones: nothing is clipped."),
            (1e-5, "Right for large velocities, not for small ones: nothing is added or rounded."),
        ):
            sized = [lambda z, t, net=net: size * net(z, t) for net in NETS.values()]
            z_s = z + (S - T) * size * u
            w = size * target(z_s, torch.where(inside, s, t))
            by_hand = huber(z + (E - T) * size * v - (z_s + (E - S) * w), c)
            close(phased_loss(*sized, x, eps, index, grid, edges, c), by_hand, sentence, 1e-9)

        # gradients
        assert loss.requires_grad, (
            "The gradient must flow through the student's jump: no_grad for the target alone."
        )
        knobs = [net.knob for net in nets]
        grads = dict(zip(NETS, torch.autograd.grad(loss.sum(), knobs, allow_unused=True)))
        assert grads["student"] is not None, "The gradient must flow through the student's jump."
        for name in ("target", "teacher"):
            assert grads[name] is None, f"No gradient may reach the {name}: torch.no_grad()."
        by_hand = huber(z + (E - T) * student(knobs[0] * z, t) - wanted, c)
        wished = torch.autograd.grad(by_hand.sum(), knobs[0])[0]
        close(grads["student"], wished, "The gradient is that of Huber's distance of the two jumps.", 1e-9)
        own_target = phased_loss(nets[0], nets[0], nets[2], x, eps, index, grid, edges, c)
        frozen = phased_loss(nets[0], student, nets[2], x, eps, index, grid, edges, c)
        both, one = (torch.autograd.grad(a.sum(), knobs[0])[0] for a in (own_target, frozen))
        close(both, one, "The student as its own target: as a target it gets no gradient.")

        low = phased_loss(*nets, x.float(), eps.float(), index, grid, edges, c)
        close_in_float32(low.detach(), right, "The loss")

    default = phased_loss(*nets, x, eps, index, grid, edges)
    close(default, huber(landed - wanted, 1e-3), "huber_c is 1e-3 by default.", 1e-9)
    call = lambda *nets, noise=eps, i=index, c=1e-3: phased_loss(*nets, x, noise, i, grid, edges, c)
    nets = (student, target, teacher)
    for bad, what in ((0, "0, where nothing starts,"), (-1, "-1"), (n + 1, "n + 1")):
        places = [torch.arange(n) == place for place in (0, n // 2, n - 1)]
        for i in (*(torch.where(place, bad, index) for place in places), torch.full_like(index, bad)):
            refuses(lambda: call(*nets, i=i), f"Index {what} must be refused, also one of many.")
    for i in (index[:1], index[:-1], torch.cat([index, index[:1]])):
        refuses(lambda: call(*nets, i=i), f"{len(i)} indices for {n} samples must be refused.")
    for i in (index[:, None], index[None]):
        refuses(
            lambda: call(*nets, i=i),
            f"Indices of shape {tuple(i.shape)} must be refused: one for each sample.",
        )
    for noise in other_shapes(eps):
        refuses(lambda: call(*nets, noise=noise), "eps of another shape than x must be refused.")
    for c in (-1.0, math.nan):
        refuses(lambda: call(*nets, c=c), f"huber_c = {c} must be refused.")
    for k, name in enumerate(NETS):
        for other in other_shapes(x):
            refuses(
                lambda: call(*nets[:k], lambda z, t: other, *nets[k + 1 :]),
                f"A {name} that answers in another shape must be refused: it would be broadcast.",
            )


def sampled(velocity, z: Tensor, stops, shares, generator, dtype=DOUBLE) -> list[Tensor]:
    """The state at each stop, by hand; the noise is drawn in dtype."""
    states = [z]
    for t, s, share in zip(stops, stops[1:], shares):
        v = velocity(z, torch.full((len(z),), t, dtype=DOUBLE))
        x_hat, eps_hat = z - t * v, z + (1 - t) * v
        if share > 0 and s > 0:
            new = torch.randn(z.shape, generator=generator, dtype=dtype).double()
            eps_hat = math.sqrt(1 - share**2) * eps_hat + share * new
        z = (1 - s) * x_hat + s * eps_hat
        states.append(z)
    return states


def likely_steps(z, v, new, t, s, f) -> list[tuple[str, Tensor]]:
    """What is found after one step in the place of (1 - s) x_hat + s (sqrt(1 - f^2) eps_hat + f new)."""
    x_hat, eps_hat, old = z - t * v, z + (1 - t) * v, math.sqrt(1 - f**2)
    noise = old * eps_hat + f * new
    euler = "" if f else " Euler's step is z + (s - t) v."
    step = lambda a, b: (1 - s) * a + s * b
    return [
        ("The step goes down: s - t is negative." + euler, z + (t - s) * v),
        ("The step has the length s - t." + euler, z + v),
        ("The next state is at s, not at 0: (1 - s) x_hat + s eps'.", x_hat),
        ("There is no new noise at this stop: fresh is ignored, here at least.", step(x_hat, eps_hat)),
        (
            "fresh keeps its digits: it is neither rounded nor cast.",
            step(x_hat, math.sqrt(1 - round(f, 3) ** 2) * eps_hat + round(f, 3) * new),
        ),
        ("All noise is new: fresh is the share of it, and 0.6 leaves 0.8 of the old.", step(x_hat, new)),
        ("Noise on top: of the old keep sqrt(1 - fresh^2).", step(x_hat, eps_hat + f * new)),
        ("Of the old noise sqrt(1 - fresh^2), not 1 - fresh.", step(x_hat, (1 - f) * eps_hat + f * new)),
        ("Of the old noise sqrt(1 - fresh^2): with the root.", step(x_hat, (1 - f**2) * eps_hat + f * new)),
        ("Old and new noise are exchanged: fresh = 0 is Euler.", step(x_hat, f * eps_hat + old * new)),
        ("Of the new noise fresh, not its root.", step(x_hat, (1 - f) ** 0.5 * eps_hat + f**0.5 * new)),
        ("The data fades, too: (1 - s) x_hat, not x_hat.", x_hat + s * noise),
        ("The weights of data and noise, 1 - s and s, are missing.", x_hat + noise),
        ("The noise has the size s, not its root.", (1 - s) * x_hat + math.sqrt(s) * noise),
        ("The noise has the size s, not its square.", (1 - s) * x_hat + s**2 * noise),
        ("The noise has the size s.", (1 - s) * x_hat + noise),
        ("The next state is at s, not at t: (1 - s) x_hat + s eps'.", (1 - t) * x_hat + t * noise),
        ("Data and noise are exchanged: (1 - s) x_hat + s eps'.", s * x_hat + (1 - s) * noise),
        ("x_hat = z - t v: the way back to the data has the length t.", step(z - v, noise)),
        ("x_hat = z - t v: minus, back to the data.", step(z + t * v, noise)),
        ("x_hat = z - t v: z is at t, not at s.", step(z - s * v, noise)),
        ("x_hat = z - t v is not z itself.", step(z, noise)),
        ("eps_hat = z + (1 - t) v: plus, on to the noise.", step(x_hat, old * (z - (1 - t) * v) + f * new)),
        ("eps_hat = z + (1 - t) v: 1 - t is left to the noise.", step(x_hat, old * (z + t * v) + f * new)),
        ("eps_hat = z + (1 - t) v: z is at t, not at s.", step(x_hat, old * (z + (1 - s) * v) + f * new)),
        ("eps_hat = z + (1 - t) v: 1 - t is left to the noise.", step(x_hat, old * (z + v) + f * new)),
        ("eps_hat = z + (1 - t) v: the velocity is not the noise.", step(x_hat, old * v + f * new)),
        ("eps_hat = z + (1 - t) v is not z itself.", step(x_hat, old * z + f * new)),
    ] + [
        ("Nothing is clipped.", wrong)
        for a in (1, 2, 3, 4, 5)
        for wrong in (
            step(x_hat.clamp(-a, a), noise),
            step(x_hat, old * eps_hat.clamp(-a, a) + f * new),
            step(x_hat.clamp(-a, a), old * eps_hat.clamp(-a, a) + f * new),
            step(z - t * v.clamp(-a, a), old * (z + (1 - t) * v.clamp(-a, a)) + f * new),
            step(x_hat, noise).clamp(-a, a),
        )
    ]  # fmt: skip


def check_phased_sample(phased_sample=phased.phased_sample, seed: int = 0) -> None:
    """One formula from Euler to fresh noise: where it asks, each state, its random numbers, its digits."""
    g = torch.Generator().manual_seed(seed)
    for dims, stops, fresh in (
        ((4, 4, 4), (0.9, 0.8, 0.3, 0.0), 0.0),
        ((4, 4, 4), (0.9, 0.8, 0.3, 0.0), 0.6),
        ((3,), (1.0, 0.8, 0.3, 0.0), 1.0),
        ((2, 3, 5), (0.9, 0.8, 0.55, 0.4, 0.0), exact(0.2, 1.0, 0.0, 0.9)),
        ((2, 1, 3, 5), (0.9, 0.5, 1e-4), exact(0.0, 0.7)),  # a last stop above 0 keeps its noise
        ((3, 2), (0.9, 0.7, 0.5), exact(1 - 2e-8, 5e-4)),  # shares that float32 and rounding lose
        ((4,), (1.0, 0.0), 1),
        ((4,), (0.7, 0.1), 0),
    ):
        z = float32_numbers(4, *dims, generator=g)
        shares = (fresh.tolist() if isinstance(fresh, Tensor) else [float(fresh)]) * len(stops)
        shares = shares[: len(stops) - 1]
        ours, theirs = (torch.Generator().manual_seed(3 + seed) for _ in range(2))
        asked, levels, before, world = [], exact(*stops), theirs.get_state(), torch.get_rng_state()
        drawn = {name: [] for name in ("ours", "theirs")}  # the generator's state at each question
        watched = lambda g, states: lambda z, t: (states.append(g.get_state()), student(z, t))[1]
        path = sampled(watched(ours, drawn["ours"]), z, stops, shares, ours)
        found = accepts(
            lambda: phased_sample(
                recorded(watched(theirs, drawn["theirs"]), asked), z, levels, fresh, theirs
            ),
            f"fresh = {fresh} with stops {stops}",
        )
        assert isinstance(found, Tensor), f"The sample is one tensor, not {type(found).__name__}."
        assert found.isfinite().all(), "nan or inf comes out: what is divided by 0?"

        # where it asks
        times = exact(*(t[0].item() for _, t in asked))
        likely = (
            ("The network is asked at t, the noisier end of a step, where z is, not at s.", levels[1:]),
            ("The network is asked at t itself, from 0 to 1.", 1000 * levels[:-1]),
            ("One question for each step: nothing is left to ask at the last stop.", levels),
            ("The way ends at the last stop: one step for each pair of stops.", levels[:-2]),
        )
        explained(
            times, levels[:-1], "The network is asked once for each step, at its noisier end t.", likely
        )
        close(torch.stack([t for _, t in asked]), levels[:-1, None].expand(-1, 4), "All samples are at t.")
        close(asked[0][0], z, "The first question is asked at the z that is given.")

        # its random numbers, and each state
        draws = any(share > 0 and s > 0 for share, s in zip(shares, stops[1:]))
        unused = torch.equal(before, theirs.get_state())
        assert draws or unused, (
            "Nothing is drawn for fresh = 0, Euler, nor for a stop at 0, where noise has no weight."
        )
        walked = [z for z, _ in asked[1:]] + [found]
        noises, last = torch.Generator().manual_seed(3 + seed), 0
        for k, (t, s, share) in enumerate(zip(stops, stops[1:], shares)):
            a, v = path[k], student(path[k], torch.full((4,), t, dtype=DOUBLE))
            new = torch.randn(a.shape, generator=noises, dtype=DOUBLE) if share > 0 and s > 0 else 0 * a
            hint = "(1 - s) x_hat + s eps', x_hat = z - t v, eps' = sqrt(1 - fresh^2) eps_hat + fresh new."
            if s == 0:
                hint = "At s = 0 the weights are 1 and 0: x_hat = z - t v is left."
            elif unused and share > 0:
                hint = "New noise comes from the generator that is given: this one was not used."
            x_hat, eps_hat = a - t * v, a + (1 - t) * v
            mixed = lambda f, new: (1 - s) * x_hat + s * ((1 - f**2) ** 0.5 * eps_hat + f * new)
            still = (
                "The state stays where it was: the weights are those of s, not of t; go on from the newest z."
            )
            likely = [(still, a)]
            likely += [
                ("fresh[0] belongs to stops[1], the first that is arrived at.", mixed(f, new))
                for f in set(shares) - {share, 0.0}
            ]
            likely += likely_steps(a, v, new, t, s, share)
            likely += [
                ("The noise of the stop before once more: draw anew for each stop.", mixed(share, last))
            ]
            last = new
            explained(walked[k], path[k + 1], hint, likely, 1e-9)
        assert not (draws and unused), (
            "New noise comes from the generator that is given, not from a copy: this one was not used."
        )
        assert torch.equal(ours.get_state(), theirs.get_state()), (
            "Draw once for each stop with fresh > 0; not for fresh = 0, and not for a stop at 0."
        )
        assert all(torch.equal(*states) for states in zip(*drawn.values())), (
            "Draw after the network is asked, and for this stop alone: a network may draw from it, too."
        )
        assert torch.equal(world, torch.get_rng_state()), (
            "torch's own random numbers stay as they are where a generator is given, or nothing is drawn."
        )

        ours, theirs = (torch.Generator().manual_seed(3 + seed) for _ in range(2))
        right = sampled(student, z, stops, shares, ours, torch.float32)[-1]
        low = phased_sample(recorded(student, []), z.float(), levels, fresh, theirs)
        if draws and low.dtype == torch.float32:
            assert torch.equal(ours.get_state(), theirs.get_state()), (
                "New noise has the dtype of z, as randn_like."
            )
        close_in_float32(low, right, "The sample")
        close(
            phased_sample(recorded(student, []), z, levels.float(), 0.0),
            sampled(student, z, levels.float().tolist(), [0.0] * len(shares), None)[-1],
            "Stops may be float32 where z is float64: the network still gets t in z's dtype.",
            1e-5,
        )

    z, levels = 100 * float32_numbers(4, 3, generator=g), exact(0.9, 0.5, 0.2)
    loud = lambda z, t: 1000 * student(z, t)
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    for fresh, hint in (
        (1.0, "Right for small numbers, not for large ones: nothing is clipped."),
        (1.0, "A second call with the same generator draws other numbers: it must not be seeded or copied."),
    ):
        right = sampled(loud, z, levels.tolist(), [fresh] * 2, ours)[-1]
        close(phased_sample(loud, z, levels, fresh, theirs), right, hint, 1e-8)
    right = sampled(student, z, levels.tolist(), [0.0, 0.0], None)[-1]
    close(phased_sample(student, z, levels), right, "Without `fresh` it is Euler.", 1e-8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345 + seed)
        right = sampled(student, z, levels.tolist(), [1.0, 1.0], None)[-1]
        torch.manual_seed(12345 + seed)
        found = phased_sample(student, z, levels, 1.0)
    hint = (
        "Without a generator the noise is torch's own, as randn_like(z, None) draws it, and nobody seeds it."
    )
    close(found, right, hint, 1e-8)

    good = exact(1.0, 0.8, 0.3, 0.0)
    call = lambda stops=good, fresh=0.0, net=student: phased_sample(net, z, stops, fresh, theirs)
    for stops, what in (
        (good.flip(0), "Stops that rise"),
        (exact(1.0, 0.3, 0.8, 0.0), "Stops that rise once, inside,"),
        (exact(1.0, 0.8, 0.8, 0.0), "Two equal stops"),
        (good[:1], "A single stop"),
        *((torch.where(good == 1, a, good), f"A first stop of {a}, above 1,") for a in (1.2, 1 + 1e-4)),
        *((torch.where(good == 0, a, good), f"A last stop of {a}, below 0,") for a in (-0.1, -1e-4)),
        *(
            (torch.where(good == a, math.nan, good), f"nan in the place of the stop {a}")
            for a in good.tolist()
        ),
    ):
        refuses(lambda: call(stops), f"{what} must be refused.")
    for fresh in (1.5, -0.1, 1 + 1e-4, -1e-4, math.nan):
        refuses(lambda: call(fresh=fresh), f"fresh = {fresh} must be refused: a share, from 0 to 1.")
    for _, fresh in anywhere(exact(0.2, 1.0, 0.5), 1.5, -0.1, 1 + 1e-4, -1e-4):
        refuses(
            lambda: call(fresh=fresh), f"fresh = {fresh.tolist()} must be refused: every one from 0 to 1."
        )
    for k in (2, 4, 5):
        refuses(lambda: call(fresh=torch.full((k,), 0.5)), f"{k} shares for 3 steps must be refused.")
    for t, other in itertools.product(good[:-1], other_shapes(z)):
        refuses(
            lambda: call(net=lambda z, now: other if now[0] == t else z),
            f"A velocity of another shape than z must be refused, also at t = {t:g} alone.",
        )


def check_tcd_fresh(tcd_fresh=phased.tcd_fresh, seed: int = 0) -> None:
    """TCD's own step, down to (1 - gamma) s and up to s, as a share of fresh noise; and its limits."""
    stops = torch.cat(
        [
            0.02 + 0.97 * torch.rand(4, generator=torch.Generator().manual_seed(seed)).double(),
            exact(0.01, 1e-4, 1 - 1e-4),
        ]
    )

    def formula(gamma, s=stops):
        u = (1 - gamma) * s
        k = (1 - s) / (1 - u)  # x_hat and eps_hat at u, scaled until the signal is that of s
        return u, k, (s**2 - (k * u) ** 2).sqrt() / s

    for gamma in (0.3, 0.05 + 0.1 * (seed % 9), 0.8, 0.003, 0.997, 0.1234):
        u, k, right = formula(gamma)
        kept = k * u / stops
        found = accepts(lambda: tcd_fresh(stops, gamma), f"gamma = {gamma:g} with stops {stops.tolist()}")
        assert isinstance(found, Tensor), f"The shares are a tensor, not {type(found).__name__}."
        likely = (
            ("gamma says how far down, not which share of the noise is new.", torch.full_like(stops, gamma)),
            ("gamma says how far down, not which share of the noise is new.", (stops - u) / stops),
            ("gamma is ignored: it is not always 0.3.", formula(0.3)[2]),
            *(
                ("gamma is taken as it is, neither rounded nor moved to 0 or 1.", formula(other)[2])
                for other in (round(gamma, 2), 0.0, 1.0)
            ),
            *(
                ("A stop near 0 or 1 is a stop like any other.", formula(gamma, stops.clamp(least, most))[2])
                for least, most in ((0, 0.99), (0, 0.999), (1e-2, 1), (1e-3, 1), (1e-9, 1 - 1e-9))
            ),
            (
                "A stop near 0 or 1 is a stop like any other.",
                formula(gamma, torch.where(stops < 1e-3, 1e-12, stops))[2],
            ),
            ("Down to (1 - gamma) s, not to gamma s: gamma = 0 is Euler.", formula(1 - gamma)[2]),
            ("This is the size of the new noise, c. Its share of all noise at s is c / s.", right * stops),
            ("This is the share of the old noise that is left. The new one has the rest, as a square.", kept),
            ("Independent noises add as squares: the new one is sqrt(1 - kept^2), not 1 - kept.", 1 - kept),
            ("The root is missing: shares of size, not of variance.", 1 - kept**2),
            ("On the way up the data shrinks, from 1 - u to 1 - s.", (stops**2 - u**2).sqrt() / stops),
            ("The old noise at s is k u, not k.", (1 - k**2).sqrt()),
            ("All noise at s has the size s, not 1: s^2 = (k u)^2 + c^2.", (1 - (k * u) ** 2).sqrt()),
        )
        hint = "s^2 = (k u)^2 + c^2, with u = (1 - gamma) s and k = (1 - s) / (1 - u); the share is c / s."
        explained(found, right, hint, likely, 1e-9)
        low = tcd_fresh(stops.float(), gamma)
        assert low.dtype == torch.float32, (
            f"The shares have the dtype of stops, torch.float32, not {low.dtype}."
        )
        close_in_float32(low, right, "The share")
        at_zero = tcd_fresh(exact(0.5, 0.0), gamma)[-1:]
        assert at_zero.isfinite().all(), "nan at the stop 0: there c / s is 0 / 0. Divide s out by hand."
        close(at_zero, exact(math.sqrt(1 - (1 - gamma) ** 2)), "At the stop 0 the share has a limit.", 1e-9)
        alone = accepts(lambda: tcd_fresh(stops[:1], gamma), "One stop alone")
        close(alone, right[:1], "One stop alone has the share that it has among others.", 1e-9)
    stops = torch.cat([stops, exact(0.0)])
    close(tcd_fresh(stops, 0.0), 0 * stops, "gamma = 0 is Euler: no fresh noise.", 1e-7)
    close(tcd_fresh(stops, 1), torch.ones_like(stops), "gamma = 1 is re-noising: all noise is fresh.")
    for gamma in (1.1, -0.1, 1 + 1e-4, -1e-4, math.nan):
        refuses(lambda: tcd_fresh(stops, gamma), f"gamma = {gamma} must be refused.")
    for value, bad in anywhere(stops, 1.0, 1.5, -0.1, -1e-4, math.inf):
        refuses(lambda: tcd_fresh(bad, 0.3), f"A stop at {value:g} must be refused, also one of many.")


def gaussian_flow(z, t, s, schedule):
    """The flow map of N(0, 0.7^2) on rectified flow, which loses no digits."""
    width = lambda t: ((1 - t) ** 2 * 0.49 + t**2).sqrt()
    return z * column(width(s) / width(t), z)


def check_exact_student(exact_student=phased.exact_student, seed: int = 0) -> None:
    """Its jump is the flow map to the edge."""
    thing = mixture(2, 3, seed)
    z = float32_numbers(40, 2, generator=torch.Generator().manual_seed(seed))
    for edges, times, ends in (
        # 0.6005 lies just above an edge: the length is small, and is divided by
        (exact(0.0, 0.25, 0.6, 1.0), exact(0.6, 0.25, 0.3, 0.6005, 1.0), exact(0.25, 0.0, 0.25, 0.6, 0.6)),
        (exact(0.0, 1.0), exact(0.1, 0.3, 0.6, 0.9, 1.0), exact(0.0, 0.0, 0.0, 0.0, 0.0)),
    ):
        t, end = times.repeat(8), ends.repeat(8)
        velocity = exact_student(thing.flow_map, edges)
        landed = thing.flow_map(z, t, end, rectified_flow)
        right = (landed - z) / column(end - t, z)
        to_0 = thing.flow_map(z, t, 0 * t, rectified_flow)
        to_first = thing.flow_map(z, t, end[:1].expand(40), rectified_flow)
        likely = (
            ("The velocity leads towards noise: (z - landed) / (t - edge).", -right),
            ("The chord ends at the edge below t, not at 0.", (z - to_0) / column(t, z)),
            *(
                (
                    "However short the chord, its slope is divided by its own length.",
                    right * column((t - end) / (t - end).clamp(min=a), z),
                )
                for a in (1e-3, 1e-2)
            ),
            ("Each sample has its own edge.", (z - to_first) / column(t - end[:1], z)),
            ("A velocity, the slope of the chord, not the point where it ends.", landed),
            ("The slope is divided by the length t - edge.", z - landed),
        )
        explained(velocity(z, t), right, "The slope from z to where the ODE meets the edge.", likely, 1e-8)
        slopes = [z.clone().requires_grad_() for _ in range(2)]
        hand = (slopes[0] - thing.flow_map(slopes[0], t, end, rectified_flow)) / column(t - end, z)
        wanted = torch.autograd.grad(hand.sum(), slopes[0])[0]
        found = velocity(slopes[1], t)
        assert found.requires_grad, "The gradient with respect to z flows through the flow map."
        close(torch.autograd.grad(found.sum(), slopes[1])[0], wanted, "The gradient with respect to z.", 1e-7)
        # a float32 time of 0.6 is the edge 0.6, although it is rounded up
        far = t - end > 0.01  # shorter chords have few digits in float32
        low = exact_student(gaussian_flow, edges)(z[far].float(), t[far].float())
        right = ((gaussian_flow(z, t, end, rectified_flow) - z) / column(end - t, z))[far]
        close_in_float32(low, right, "The slope", 1e-4)
        for _, bad in anywhere(t, 0.0, -0.1, 1.1):
            refuses(
                lambda: velocity(z, bad), "A time without an edge below it must be refused, also one of many."
            )
    for edges in (exact(1.0, 0.5, 0.0), exact(0.0, 0.6, 0.4, 1.0), exact(0.0), exact(0.0, 0.5, 0.5, 1.0)):
        refuses(lambda: exact_student(thing.flow_map, edges), "Edges that do not rise must be refused.")


def check_aged_student(aged_student=phased.aged_student, seed: int = 0) -> None:
    """Age 0 is the teacher, each age is one sweep of the loss without error, the last one is finished."""
    g = torch.Generator().manual_seed(seed)
    for grid, phases, dims in (
        (shift(torch.linspace(0, 1, 13, dtype=DOUBLE), 2.0), 1, (12,)),
        (shift(torch.linspace(0, 1, 13, dtype=DOUBLE), 2.0), 3, (2,)),
        (torch.linspace(0, 1, 13, dtype=DOUBLE) ** 2, 4, (2, 3, 5)),
    ):
        z = float32_numbers(12, *dims, generator=g)
        t, edges, asked = grid[1:], grid[:: 12 // phases], []
        end = torch.stack([edges[edges < u].max() for u in t])

        def lands(age, z, t):
            """Where the jump to the edge lands, by hand; at the edge it has length zero."""
            velocity = teacher(z, torch.where(t > 0, t, 1))
            if age == 0:
                return z + column(end - t, z) * velocity
            s = torch.maximum(end, grid[(torch.searchsorted(grid, t) - 1).clamp(min=0)])
            return lands(age - 1, z + column(s - t, z) * velocity, s)

        made = lambda age: aged_student(recorded(teacher, asked), grid, edges, age)
        before = z.clone()
        youngest = made(0)(z, t)
        assert torch.equal(z, before), "The z that is given is changed in place: make a new tensor."
        close(youngest, teacher(z, t), "Age 0 is the teacher.", 1e-9)
        for age in (2, 1, 5, 12):
            slope = lambda age: (lands(age, z, t) - z) / column(end - t, z)
            likely = (
                (
                    "This is still the teacher: the age is ignored, or it is asked at one point alone.",
                    teacher(z, t),
                ),
                ("One sweep too few: age 1 is one step of the teacher, then straight on.", slope(age - 1)),
                ("One sweep too many: age 1 is one step of the teacher, then straight on.", slope(age + 1)),
            )
            hint = "age steps of the teacher on the grid, then straight on to the edge, which is not crossed."
            explained(made(age)(z, t), slope(age), hint, likely, 1e-9)
            close_in_float32(made(age)(z.float(), t.float()), slope(age), "The slope", 1e-4)
        assert torch.equal(z, before), "The z that is given is changed in place: make a new tensor."
        hint = "After n / phases sweeps nothing changes: it stops at the edge of its phase."
        close(made(40)(z, t), slope(12 // phases), hint, 1e-9)
        assert all((t > 0).all() for _, t in asked), (
            "The teacher is never asked at time 0: some divide by it."
        )
        z.requires_grad_()
        found = made(2)(z, t)
        assert found.requires_grad, (
            "The gradient flows through the teacher's steps: no detach and no no_grad."
        )
        slopes = (
            torch.autograd.grad(a.sum(), z)[0] for a in (found, (lands(2, z, t) - z) / column(end - t, z))
        )
        close(*slopes, "The gradient flows through each of the teacher's steps.", 1e-9)
        z = z.detach()
    for _, bad in anywhere(t, 0.123, t[3].item() + 1e-3, 1.1):
        refuses(lambda: made(1)(z, bad), "A time off the grid must be refused, also one of many.")
    for age in (-1, 0.5, math.nan):
        refuses(lambda: aged_student(teacher, grid, edges, age), f"An age of {age} must be refused.")
