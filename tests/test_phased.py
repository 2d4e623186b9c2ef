"""Phased consistency and LCM: the checks on our code, on every mistake of the list, golden numbers, closed forms.

Not planted: an average whose direction is swapped (the loop's, held to a reference in test_train); shape and order
of the original's array of levels (ours is made, not flipped). The last of the list is a legitimate convention.
"""

import json
import math
from pathlib import Path

import pytest
import torch

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
        return torch.stack([pick(u, edges) for u in t])

    return wrong


def loss_with(
    noisy=lambda x, eps, t: mix(x, eps, t, rectified_flow),
    small=lambda z, v, t, s, x, eps: z + column(s - t, z) * v,
    end=lambda t, s, edges: phase_end(t, edges),
    target_end=None,
    start=lambda t, s: s,
    ask=lambda t, s: s,
    sign=1,
    evaluator=lambda student, target, teacher: (student, target, teacher),
    wanted=None,
    detach=True,
    distance=lambda d, c: ((d**2 + c**2).sqrt() - c).reshape(len(d), -1).mean(1),
    flat=False,
):
    """The loss, with one thing changed."""

    def wrong(student, target, teacher, x, eps, index, grid, edges, huber_c=1e-3):
        phased_loss(*[lambda z, t: z] * 3, x, eps, index, grid, edges, huber_c)  # refuses what ought to be
        student, target, teacher = evaluator(student, target, teacher)
        grid, edges = grid.to(x), edges.to(x)
        t, s = grid[index], grid[index - 1]
        z = noisy(x, eps, t)
        e = end(t, s, edges)
        found = student(z, t)
        if found.shape != x.shape:
            raise ValueError("another shape")
        gap = (e - t) if flat else column(e - t, z)
        landed = z + sign * gap * found
        with torch.set_grad_enabled(not detach):
            v = teacher(z, t)
            z_s = small(z, v, t, s, x, eps)
            last = target_end(t, s, edges) if target_end else e
            now = start(t, s)
            ask_at = ask(t, s)
            answer = target(z_s, torch.where(ask_at > 0, ask_at, t))
            if answer.shape != x.shape or v.shape != x.shape:
                raise ValueError("another shape")
            goal = wanted(z_s) if wanted else z_s + column(last - now, z) * answer
        return distance(landed - goal, huber_c)

    return wrong


def sample_with(
    step=None,
    fresh_noise=lambda share, eps_hat, new, s: math.sqrt(1 - share**2) * eps_hat + share * new,
    x_hat=lambda z, t, v: z - t * v,
    keep=lambda x, s: (1 - s) * x,
    last=False,
    ask=lambda t, s: t,
    stops_of=lambda stops: stops,
    globally=False,
):
    """The sampler, with one thing changed."""

    def wrong(velocity, z, stops, fresh=0.0, generator=None):
        phased_sample(
            lambda z, t: 0 * z, z, stops, fresh, torch.Generator()
        )  # refuses what ought to be refused
        shares = torch.as_tensor(fresh, dtype=torch.float64).expand(len(stops) - 1)
        stops = stops_of(stops)
        for t, s, share in zip(stops, stops[1:], shares.tolist()):
            v = velocity(z, ask(t, s).to(z).expand(len(z)))
            if v.shape != z.shape:
                raise ValueError("another shape")
            x, eps_hat = x_hat(z, t, v), z + (1 - t) * v
            if share > 0 and (s > 0 or last):
                new = randn_like(z, None if globally else generator)
                eps_hat = fresh_noise(share, eps_hat, new, s)
                z = keep(x, s) + (s if s > 0 else 0.1) * eps_hat
            else:
                z = step(z, t, s, v) if step else (1 - s) * x + s * eps_hat
            z = z.to(v)
        return z

    return wrong


def lcm_with(
    scalings=lcm_scalings, late=lambda i, k: (i - k).clamp(min=0), target_index=lambda i, j: j, detach=True
):
    def wrong(student, target, teacher, x, eps, index, schedule, k=20, table=1000, huber_c=1e-3):
        lcm_loss(
            student, target, teacher, x, eps, index, schedule, k, table, huber_c
        )  # refuses what ought to be
        earlier = late(index, k)
        t, s = ((i + 1).to(x) / table for i in (index, earlier))

        def f(net, z, t, i):
            c_skip, c_out = (column(c, z) for c in scalings(i.to(z)))
            return c_skip * z + c_out * net(z, t)

        z = mix(x, eps, t, schedule)
        with torch.set_grad_enabled(not detach):
            goal = f(target, ddim_step(teacher(z, t), z, t, s, schedule), s, target_index(index, earlier))
        d = f(student, z, t, index) - goal
        return (torch.sqrt(d**2 + huber_c**2) - huber_c).reshape(len(x), -1).mean(1)

    return wrong


def plan_with(after=None, strict=False):
    def wrong(plan, step):
        phases_at(plan, step)  # refuses what ought to be refused
        for limit, phases in plan:
            if step < limit or (step == limit and not strict):
                return phases
        return {"str": str(plan[-1][1]), "none": None, "one": 1, "first": plan[0][1]}.get(after, plan[-1][1])

    return wrong


def lenient_plan(text):
    return [tuple(int(v) for v in entry.split("-")) for entry in text.split(",")]


def swapped_guidance(conditional, unconditional, scale):
    return guided(unconditional, conditional, scale)


MISTAKES = {
    "edges with the end in the linspace": (
        checks.check_phase_edges,
        edges_with(lambda n, m: torch.linspace(0, n - 1, m + 1).long().tolist()),
    ),
    "edges without 1": (checks.check_phase_edges, edges_with(lambda n, m: list(range(0, n, n // m)))),
    "edges one level high": (
        checks.check_phase_edges, edges_with(lambda n, m: [min(j + 1, n) if j else 0 for j in range(0, n + 1, n // m)])
    ),
    "rounded edges where phases do not divide": (checks.check_phase_edges, floored),
    "phases ignored": (checks.check_phase_edges, edges_with(lambda n, m: [0, n])),
    ">= for >: an edge is its own end": (
        checks.check_phase_end, end_with(lambda u, edges: edges[edges <= u].max())
    ),
    "the end of the phase above": (
        checks.check_phase_end, end_with(lambda u, edges: edges[edges >= u].min())
    ),
    "the end is always 0": (checks.check_phase_end, end_with(lambda u, edges: 0 * u)),
    "the nearest edge": (
        checks.check_phase_end, end_with(lambda u, edges: edges[(edges - u).abs().argmin()])
    ),
    "the jump starts at s, not t, for the target's length": (
        checks.check_phased_loss, loss_with(start=lambda t, s: t)
    ),
    "each side its own edge: phases dissolve": (
        checks.check_phased_loss,
        loss_with(target_end=lambda t, s, edges: torch.where(s > 0, phase_end(torch.where(s > 0, s, t), edges), s)),
    ),
    "both sides the edge of s": (
        checks.check_phased_loss,
        loss_with(end=lambda t, s, edges: torch.where(s > 0, phase_end(torch.where(s > 0, s, t), edges), s)),
    ),
    "the jump goes to 0": (checks.check_phased_loss, loss_with(end=lambda t, s, edges: 0 * t)),
    "the end is the level above the edge": (
        checks.check_phased_loss,
        loss_with(end=lambda t, s, edges: torch.minimum(phase_end(t, edges) + 0.05, s)),
    ),
    "0 for one side, the smallest level for the other": (
        checks.check_phased_loss,
        loss_with(target_end=lambda t, s, edges: phase_end(t, edges).clamp(min=1e-2)),
    ),
    "the sign of the step": (checks.check_phased_loss, loss_with(sign=-1)),
    "noise and data swapped": (
        checks.check_phased_loss, loss_with(noisy=lambda x, eps, t: mix(eps, x, t, rectified_flow))
    ),
    "noise of a variance-preserving process": (
        checks.check_phased_loss,
        loss_with(noisy=lambda x, eps, t: column((1 - t**2).sqrt(), x) * x + column(t, x) * eps),
    ),
    "the target asked at t": (checks.check_phased_loss, loss_with(ask=lambda t, s: t)),
    "the teacher in the target's place": (
        checks.check_phased_loss, loss_with(evaluator=lambda student, target, teacher: (student, teacher, teacher))
    ),
    "the student in the target's place": (
        checks.check_phased_loss, loss_with(evaluator=lambda student, target, teacher: (student, student, teacher))
    ),
    "the student in the teacher's place": (
        checks.check_phased_loss, loss_with(evaluator=lambda student, target, teacher: (student, target, student))
    ),
    "fresh noise in the teacher's step": (
        checks.check_phased_loss,
        loss_with(small=lambda z, v, t, s, x, eps: mix(z - column(t, z) * v, eps.flip(0), s, rectified_flow)),
    ),
    "consistency training: z_s from the data": (
        checks.check_phased_loss, loss_with(small=lambda z, v, t, s, x, eps: mix(x, eps, s, rectified_flow))
    ),
    "the target is z_s, everywhere": (checks.check_phased_loss, loss_with(wanted=lambda z_s: z_s)),
    "the gradient reaches target and teacher": (checks.check_phased_loss, loss_with(detach=False)),
    "Huber without - c": (
        checks.check_phased_loss,
        loss_with(distance=lambda d, c: (d**2 + c**2).sqrt().reshape(len(d), -1).mean(1)),
    ),
    "Huber with c instead of its square": (
        checks.check_phased_loss,
        loss_with(distance=lambda d, c: ((d**2 + c).sqrt() - c**0.5).reshape(len(d), -1).mean(1)),
    ),
    "the sum over a sample": (
        checks.check_phased_loss,
        loss_with(distance=lambda d, c: ((d**2 + c**2).sqrt() - c).reshape(len(d), -1).sum(1)),
    ),
    "one norm over the sample": (
        checks.check_phased_loss,
        loss_with(distance=lambda d, c: (d.reshape(len(d), -1).square().sum(1) + c**2).sqrt() - c),
    ),
    "squares": (checks.check_phased_loss, loss_with(distance=lambda d, c: d.reshape(len(d), -1).square().mean(1))),
    "the mean over the batch": (
        checks.check_phased_loss, loss_with(distance=lambda d, c: ((d**2 + c**2).sqrt() - c).mean())
    ),
    "(b,) over the width": (checks.check_phased_loss, loss_with(flat=True)),
    "shift ignored": (checks.check_phase_grid, lambda n, shift=1.0, dtype=None: phase_grid(n, 1 + 0 * shift, dtype)),
    "shifted twice": (checks.check_phase_grid, lambda n, shift=1.0, dtype=None: phase_grid(n, shift**2, dtype)),
    "shift inverted": (checks.check_phase_grid, lambda n, shift=1.0, dtype=None: phase_grid(n, 1 / shift, dtype)),
    "a grid that never reaches 1": (
        checks.check_phase_grid,
        lambda n, shift=1.0, dtype=None: phase_grid(n + 1, shift, dtype)[:-1],
    ),
    "a grid that ends at its smallest level, not 0": (
        checks.check_phase_grid,
        lambda n, shift=1.0, dtype=None: phase_grid(n, shift, dtype).clamp(min=phase_grid(1000, shift, dtype)[1].item()),
    ),
    "a grid that falls": (
        checks.check_phase_grid, lambda n, shift=1.0, dtype=None: phase_grid(n, shift, dtype).flip(0)
    ),
    "the parabola from 0": (
        checks.check_linear_quadratic_grid,
        lambda n, threshold, linear, dtype=None: linear_quadratic_grid(n, threshold, linear, dtype)
        .where(torch.linspace(1, 0, n + 1, dtype=dtype) <= linear,
               1 - threshold - (1 - threshold) * ((torch.linspace(1, 0, n + 1, dtype=dtype) - linear) / (1 - linear)) ** 2),
    ),
    "stops rounded to the data": (
        checks.check_grid_stops,
        lambda grid, steps: (grid_stops(grid, steps), grid[[*(50 - math.ceil(k * 50 / steps) for k in range(steps)), 0]])[1],
    ),
    "stops with the end in the linspace": (
        checks.check_grid_stops,
        lambda grid, steps: (grid_stops(grid, steps), grid.flip(0)[torch.linspace(0, 49, steps + 1).long()])[1],
    ),
    "guidance w for scale": (
        parameterization_checks.check_guided, lambda conditional, unconditional, scale: guided(conditional, unconditional, scale + 1)
    ),
    "guidance swapped": (parameterization_checks.check_guided, swapped_guidance),
    "plan: a limit excluded": (checks.check_phases_at, plan_with(strict=True)),
    "plan: text after the last limit": (checks.check_phases_at, plan_with(after="str")),
    "plan: nothing after the last limit": (checks.check_phases_at, plan_with(after="none")),
    "plan: one phase after the last limit": (checks.check_phases_at, plan_with(after="one")),
    "plan: everything is accepted": (checks.check_parse_plan, lenient_plan),
    "re-noised with the implied noise": (
        checks.check_phased_sample, sample_with(fresh_noise=lambda share, eps_hat, new, s: eps_hat)
    ),
    "fresh noise of std sqrt(s)": (
        checks.check_phased_sample,
        sample_with(fresh_noise=lambda share, eps_hat, new, s: math.sqrt(1 - share**2) * eps_hat + share * new / s**0.5),
    ),
    "re-noised as in EDM, without 1 - s": (checks.check_phased_sample, sample_with(keep=lambda x, s: x)),
    "noise on top of Euler": (
        checks.check_phased_sample, sample_with(fresh_noise=lambda share, eps_hat, new, s: eps_hat + share * new)
    ),
    "shares that are not a root": (
        checks.check_phased_sample,
        sample_with(fresh_noise=lambda share, eps_hat, new, s: (1 - share) * eps_hat + share * new),
    ),
    "noise at the last stop": (checks.check_phased_sample, sample_with(last=True)),
    "x_hat = z - v": (checks.check_phased_sample, sample_with(x_hat=lambda z, t, v: z - v)),
    "the velocity of the next stop": (checks.check_phased_sample, sample_with(ask=lambda t, s: s.clamp(min=1e-3))),
    "the last stop left out": (checks.check_phased_sample, sample_with(stops_of=lambda stops: stops[:-1])),
    "the sampler's sign": (
        checks.check_phased_sample, sample_with(step=lambda z, t, s, v: z + (t - s) * v)
    ),
    "global randomness": (checks.check_phased_sample, sample_with(globally=True)),
    "TCD: gamma for the share": (checks.check_tcd_fresh, lambda s, gamma: (tcd_fresh(s, gamma), gamma + 0 * s)[1]),
    "TCD: 1 - gamma": (checks.check_tcd_fresh, lambda s, gamma: tcd_fresh(s, 1 - gamma)),
    "the exact student's slope to 0": (
        checks.check_exact_student,
        lambda flow_map, edges: exact_student(flow_map, exact(0.0, 1.0)),
    ),
    "an aged student that crosses its edge": (
        checks.check_aged_student,
        lambda teacher, grid, edges, age: aged_student(teacher, grid, exact(0.0, 1.0), age),
    ),
    "LCM: t / 10": (
        lcm_checks.check_lcm_scalings, lambda i, scaling=10.0: lcm_scalings(i, 1 / scaling)
    ),
    "LCM: t / 1000": (
        lcm_checks.check_lcm_scalings, lambda i, scaling=10.0: lcm_scalings(i / 1000, scaling)
    ),
    "LCM: EDM's c_out": (
        lcm_checks.check_lcm_scalings,
        lambda i, scaling=10.0: (lcm_scalings(i, scaling)[0], 0.5 * lcm_scalings(i, scaling)[1]),
    ),
    "LCM: even steps of the table": (
        lcm_checks.check_lcm_timesteps,
        lambda n: lcm_timesteps(n) and [999 - 1000 * i // n for i in range(n)],
    ),
    "LCM: the target at the student's index": (
        lcm_checks.check_lcm_loss, lcm_with(target_index=lambda i, j: i)
    ),
    "LCM: one level instead of k": (
        lcm_checks.check_lcm_loss, lcm_with(late=lambda i, k: (i - 1).clamp(min=0))
    ),
    "LCM: the gradient reaches the target": (lcm_checks.check_lcm_loss, lcm_with(detach=False)),
    "LCM: EDM's c_out in the loss": (
        lcm_checks.check_lcm_loss,
        lcm_with(scalings=lambda i: (lcm_scalings(i)[0], 0.5 * lcm_scalings(i)[1])),
    ),
    "w-embedding: 1000 forgotten": (
        lcm_checks.check_guidance_embedding, lambda w, dim: guidance_embedding(w / 1000, dim)
    ),
    "w-embedding: cosines first": (
        lcm_checks.check_guidance_embedding, lambda w, dim: guidance_embedding(w, dim).roll(dim // 2, 1)
    ),
    "w-embedding: sin and cos in turns": (
        lcm_checks.check_guidance_embedding,
        lambda w, dim: guidance_embedding(w, dim).reshape(len(w), 2, -1).mT.reshape(len(w), -1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError), torch.enable_grad():
        check(wrong)


CONTROLS = {
    "edges": (checks.check_phase_edges, edges_with(lambda n, m: list(range(0, n + 1, n // m)))),
    "end": (checks.check_phase_end, end_with(lambda u, edges: edges[edges < u].max())),
    "loss": (checks.check_phased_loss, loss_with()),
    "sample": (checks.check_phased_sample, sample_with()),
    "lcm": (lcm_checks.check_lcm_loss, lcm_with()),
    "plan": (checks.check_phases_at, plan_with()),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_harness_is_not_what_is_caught(name, unchecked_shapes):
    check, right = CONTROLS[name]
    check(right)


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


def test_euler_on_a_perfect_consistency_function():
    """sqrt 2 at worst in two steps, 2 in the limit: section 3.3's closed forms, without sampling."""
    for std in (0.5, 1.0, 2.0):
        velocity, one = checks.consistency_velocity(std), exact(1.0)[:, None]
        worst = std / (1 + std)  # (1 - r) std = r
        assert phased_sample(velocity, one, exact(1.0, worst, 0.0)).item() / std == pytest.approx(2**0.5)
        many = phased_sample(velocity, one, phase_grid(10_000, dtype=torch.float64).flip(0)).item() / std
        assert many == pytest.approx(2, abs=2e-3)
    six = {shift: phased_sample(checks.consistency_velocity(1.0), one, phase_grid(6, shift, torch.float64).flip(0)).item()
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


def test_alignment():
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


def test_age():
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
    velocity, r, std = checks.consistency_velocity(1.0), 0.5, 1.0
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
