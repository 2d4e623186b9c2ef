"""Checks of phased consistency: by hand, on straight and on exact flows, and where each network is asked.

On images whose batch, channels, height and width are all alike, at every index of the grid: a wrong edge
shows only above the first phase, a wrong starting point only where a phase has more than one step.
"""

import math

import torch

from minidistill import phased
from minidistill.checks import close, column, exact, refuses
from minidistill.checks.oracle import mixture
from minidistill.schedules import rectified_flow

DOUBLE = torch.float64


def shift(u: torch.Tensor, a: float) -> torch.Tensor:
    """a u / (1 + (a - 1) u), as it is written in the papers."""
    return a * u / (1 + (a - 1) * u)


def check_parse_plan(parse_plan=phased.parse_plan, seed: int = 0) -> None:
    """The plans of FastVideo, and what nobody can mean."""
    assert parse_plan("4000-1") == [(4000, 1)], '"4000-1" is [(4000, 1)]: up to step 4000, one phase.'
    found = parse_plan("125-16,250-8,375-4,500-2")
    assert found == [(125, 16), (250, 8), (375, 4), (500, 2)], f"Every entry, in order; got {found}."
    assert all(type(v) is int for entry in found for v in entry), "Limits and phases are ints."
    assert parse_plan("10-4,20-8") == [(10, 4), (20, 8)], "Phases may rise; limits must."
    assert parse_plan(" 10-4, 20-2 ") == [(10, 4), (20, 2)], "Blanks around an entry do no harm."
    n = 10 + seed
    assert parse_plan(f"{n}-2,{2 * n}-1") == [(n, 2), (2 * n, 1)], f'"{n}-2,{2 * n}-1" has two entries.'
    for text, what in (
        ("", "A plan without entries"),
        ("4000", "A limit without phases"),
        ("4000-0", "Zero phases"),
        ("0-1", "A limit of zero steps"),
        ("many-1", "Text instead of a number"),
        ("4000-1.5", "Half a phase"),
        ("10-2,", "An empty entry"),
        ("-5-2", "A negative limit"),
        ("+5-2", "A sign"),
        ("5-+2", "A sign"),
        ("1_000-2", "An underscore"),
        ("4000 - 1", "A blank inside an entry"),
        ("250-8,125-16", "A limit that falls"),
        ("4000-8,4000-4", "An entry that is never reached"),
    ):
        refuses(lambda: parse_plan(text), f"{what} must be refused: {text!r}.")


def check_phases_at(phases_at=phased.phases_at, seed: int = 0) -> None:
    """Limits belong to their entry; after the last one the last phases stay, always as an int."""
    plan = [(125 + seed, 16), (250 + seed, 8), (500 + seed, 2)]
    wanted = {1: 16, 125: 16, 126: 8, 250: 8, 251: 2, 500: 2, 501: 2, 10**6: 2}
    for step, phases in wanted.items():
        step = step + seed if step > 1 else step
        found = phases_at(plan, step)
        assert type(found) is int, (
            f"At step {step}: an int, not {found!r}. After the last limit, the last phases."
        )
        assert found == phases, (
            f"At step {step} of {plan}: {phases} phases (a limit is included), got {found}."
        )
    refuses(lambda: phases_at([], 1), "An empty plan must be refused.")


def check_phase_grid(phase_grid=phased.phase_grid, seed: int = 0) -> None:
    """Ends, order, the shift, once."""
    for n in (1, 10, 50):
        for a in (1.0, 3.0, 17.0):
            grid = phase_grid(n, a, dtype=DOUBLE)
            assert grid.shape == (n + 1,), "n + 1 levels for n steps."
            assert grid[0] == 0 and grid[-1] == 1, (
                "From exactly 0, the data, to exactly 1, the noise: rising."
            )
            u = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
            close(grid, shift(u, a), "shift u / (1 + (shift - 1) u), once: not twice, and not its inverse.")
    close(phase_grid(7), torch.linspace(0, 1, 8), "Without a shift the levels are even.", 1e-6)
    # FastVideo's inference, 6 steps and shift 17
    stops = exact(0.0, 0.77272731, 0.89473689, 0.94444442, 0.97142857, 0.98837209, 1.0)
    close(phase_grid(6, 17.0, dtype=DOUBLE), stops, "Six steps at shift 17.", 2e-7)
    refuses(lambda: phase_grid(0), "A grid of no steps must be refused.")
    refuses(lambda: phase_grid(4, 0.0), "A shift of 0 must be refused.")
    refuses(lambda: phase_grid(4, -1.0), "A negative shift must be refused.")


def check_linear_quadratic_grid(linear_quadratic_grid=phased.linear_quadratic_grid, seed: int = 0) -> None:
    """Ends, the straight part, and one slope at the joint."""
    for threshold, linear in ((0.025, 0.5), (0.1, 0.75), (0.3, 0.4 + 0.1 * (seed % 5))):
        n = 1000
        grid = linear_quadratic_grid(n, threshold, linear, dtype=DOUBLE)
        assert grid.shape == (n + 1,) and abs(grid[0]) < 1e-12 and grid[-1] == 1, "Rising from 0 to 1."
        assert (grid.diff() > 0).all(), "Every step towards noise adds noise."
        u = torch.linspace(1, 0, n + 1, dtype=DOUBLE)
        straight = u <= linear
        close(
            grid[straight],
            1 - threshold * u[straight] / linear,
            "Near noise: a line of slope threshold / linear.",
        )
        curvature = grid.diff().diff()[u[1:-1] > linear + 2 / n]
        close(curvature, curvature[:1].expand_as(curvature), "Beyond the joint: a parabola.", 1e-9)
        jump = grid.diff().diff()[(u[1:-1] - linear).abs() < 2 / n].abs().max()
        assert jump < 2 * curvature.abs().max() + 1e-12, "At the joint the slope must not jump."
    refuses(lambda: linear_quadratic_grid(10, 0.1, 1.0), "A linear part of everything must be refused.")
    refuses(lambda: linear_quadratic_grid(10, 0.0, 0.5), "A threshold of 0 must be refused.")
    refuses(lambda: linear_quadratic_grid(10, 0.9, 0.5), "A grid that would fall below 0 must be refused.")
    for n in (1, 7, 40, 333):
        single = linear_quadratic_grid(n, 0.1, 0.3)
        assert single[0] == 0 and single[-1] == 1, "Both ends must be exact in float32, too."


def check_phase_edges(phase_edges=phased.phase_edges, seed: int = 0) -> None:
    """Every (n / m)-th level, from 0 to 1; other numbers of phases are refused."""
    for n, phases in ((50, 5), (40, 8), (10, 2), (50, 1), (50, 50), (12, 3 + seed % 2)):
        grid = shift(torch.linspace(0, 1, n + 1, dtype=DOUBLE), 3.0)
        edges = phase_edges(grid, phases)
        assert edges.shape == (phases + 1,), f"{phases} phases have {phases + 1} edges."
        close(
            edges,
            grid[:: n // phases],
            "Edges are levels of the grid, every (n / phases)-th, with both ends.",
        )
    grid = torch.linspace(0, 1, 51, dtype=DOUBLE)
    for phases in (0, 3, 4, 8, 100, -5):
        refuses(lambda: phase_edges(grid, phases), f"{phases} phases do not divide 50 steps: refuse.")
    refuses(lambda: phase_edges(grid.flip(0), 5), "A grid that falls must be refused.")
    refuses(lambda: phase_edges(grid[1:], 5), "A grid that does not start at 0 must be refused.")


def check_phase_end(phase_end=phased.phase_end, seed: int = 0) -> None:
    """The largest edge strictly below, for every level; phases tile the way."""
    grid = shift(torch.linspace(0, 1, 13, dtype=DOUBLE), 3.0)
    for phases in (1, 2, 3, 4, 6, 12):
        edges = grid[:: 12 // phases]
        t = grid[1:][torch.randperm(12, generator=torch.Generator().manual_seed(seed))]
        expected = torch.stack([edges[edges < u].max() for u in t])
        hint = "The largest edge strictly below t: an edge itself belongs to the phase below it."
        close(phase_end(t, edges), expected, hint)
    between = exact(0.1, 0.49, 0.51, 0.99)
    close(phase_end(between, exact(0.0, 0.5, 1.0)), exact(0.0, 0.0, 0.5, 0.5), "Between the levels as well.")
    refuses(lambda: phase_end(exact(0.0), exact(0.0, 0.5, 1.0)), "At t = 0 no edge lies below: refuse.")
    refuses(
        lambda: phase_end(exact(1.1), exact(0.0, 0.5, 1.0)), "Above the last edge there is no phase: refuse."
    )


def check_grid_stops(grid_stops=phased.grid_stops, seed: int = 0) -> None:
    """Edges when they divide; rounding towards noise when not."""
    grid = torch.linspace(0, 1, 51, dtype=DOUBLE)
    close(grid_stops(grid, 5), exact(1.0, 0.8, 0.6, 0.4, 0.2, 0.0), "From 1, where the noise is, to 0.")
    close(grid_stops(grid, 4), exact(1.0, 0.76, 0.5, 0.26, 0.0), "n - floor(k n / steps), as PCM rounds.")
    close(grid_stops(grid, 50), grid.flip(0), "All steps: the whole grid.")
    refuses(lambda: grid_stops(grid, 0), "No steps must be refused.")
    refuses(lambda: grid_stops(grid, 51), "More steps than the grid has must be refused.")


def check_flow_matching_loss(flow_matching_loss=phased.flow_matching_loss, seed: int = 0) -> None:
    """By hand: where the network is asked, and the velocity eps - x."""
    x, eps = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    t, asked = exact(0.1, 0.4, 0.7, 1.0), []
    loss = flow_matching_loss(lambda z, t: asked.append((z, t)) or torch.sin(z), x, eps, t)
    z = (1 - column(t, x)) * x + column(t, x) * eps
    close(asked[0][0], z, "z = (1 - t) x + t eps.")
    close(asked[0][1], t, "The network is asked at t.")
    close(
        loss, (torch.sin(z) - (eps - x)).square().mean((1, 2, 3)), "The velocity is eps - x; mean per sample."
    )
    refuses(
        lambda: flow_matching_loss(lambda z, t: z[:1], x, eps, t),
        "A velocity of another shape than z must be refused.",
    )


def check_jump(jump=phased.jump, seed: int = 0) -> None:
    """The sign of the step, and the jump of length zero."""
    v, z = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    t, s = exact(1.0, 0.7, 0.5, 0.2), exact(0.5, 0.0, 0.4, 0.2)
    close(
        jump(v, z, t, s),
        z + column(s - t, z) * v,
        "z + (s - t) velocity, sample by sample: s - t is negative.",
    )
    assert torch.equal(jump(v, z, t, t), z), "A jump of length zero changes nothing."


def student(z, t):
    """The first of three networks that have nothing in common."""
    return torch.tanh(z) * (1 + column(t, z)) + 0.3 * torch.sin(3 * z)


def target(z, t):
    """The second."""
    return torch.cos(z) - column(t, z) * z


def teacher(z, t):
    """The third."""
    return torch.sin(2 * z) + column(t, z).square()


def check_phased_loss(phased_loss=phased.phased_loss, seed: int = 0) -> None:
    """Who is asked where, both jumps to one edge, no gradient to the target, zero on straight flows."""
    g = torch.Generator().manual_seed(seed)
    n = 8
    grid = shift(torch.linspace(0, 1, n + 1, dtype=DOUBLE), 3.0)
    x, eps = torch.randn(2, 8, 8, 8, 8, generator=g, dtype=DOUBLE)
    index = 1 + torch.randperm(8, generator=g)
    t, s = grid[index], grid[index - 1]
    z = (1 - column(t, x)) * x + column(t, x) * eps
    asked = {}

    def recorded(name, net):
        return lambda z, t: asked.setdefault(name, []).append((z, t)) or net(z, t)

    for phases in (1, 2, 4, 8):
        edges = grid[:: n // phases]
        end = torch.stack([edges[edges < u].max() for u in t])
        asked.clear()
        nets = (recorded("student", student), recorded("target", target), recorded("teacher", teacher))
        loss = phased_loss(*nets, x, eps, index, grid, edges)
        assert loss.shape == (8,), "A loss returns one number per sample, (b,)."
        assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
        where = f"(Phases: {phases}, grid of {n}.) "
        assert all(len(asked.get(name, [])) == 1 for name in ("student", "target", "teacher")), (
            "Student, target and teacher are asked once each."
        )
        close(asked["student"][0][0], z, where + "The student is asked at z_t = (1 - t) x + t eps.")
        close(asked["student"][0][1], t, where + "The student is asked at t = grid[index].")
        close(asked["teacher"][0][0], z, where + "The teacher steps from z_t.")
        close(asked["teacher"][0][1], t, where + "The teacher is asked at t.")
        z_s = z + column(s - t, x) * teacher(z, t)
        close(
            asked["target"][0][0],
            z_s,
            where + "The target is asked where the teacher's one small step lands.",
        )
        inside = s > end
        close(asked["target"][0][1][inside], s[inside], where + "The target is asked at s = grid[index - 1].")
        assert (asked["target"][0][1] > 0).all(), (
            "Where s = 0 the target's jump has length zero: ask it at t. At time 0 some networks divide by 0."
        )
        if phases == 1:  # a student that misses by -t v, while target and teacher stand still
            still, miss = lambda z, t: 0 * z, column(t, x) * student(z, t)
            for c in (1e-3, 0.7):
                loss_of_miss = phased_loss(student, still, still, x, eps, index, grid, edges, c)
                hint = (
                    "One phase ends at 0. With target and teacher that answer 0, d = -t v, each sample with "
                    "its own t. Then Huber: sqrt(d^2 + c^2) - c for each number of d, and the mean."
                )
                close(loss_of_miss, ((miss**2 + c**2).sqrt() - c).mean((1, 2, 3)), hint, 1e-9)
        landed = z + column(end - t, x) * student(z, t)
        wanted = z_s + column(end - s, x) * target(z_s, torch.where(s > 0, s, t))
        difference = landed - wanted
        hint = where + (
            "Both jump to the same edge, that of the phase of t: the student from t, the target from s. At "
            "an edge the target's jump has length zero."
        )
        by_hand = ((difference**2 + 1e-6).sqrt() - 1e-3).mean((1, 2, 3))
        close(loss, by_hand, hint, 1e-9)

    # straight flow: one data point, so that velocity, chord and teacher's step are one line
    point = torch.randn(8, 8, 8, generator=g, dtype=DOUBLE)
    straight = lambda z, t: (z - point) / column(t, z)
    for phases in (1, 2, 4, 8):
        loss = phased_loss(
            straight, straight, straight, point.expand_as(x), eps, index, grid, grid[:: n // phases]
        )
        close(loss, 0 * loss, "On a straight flow there is nothing to learn: the loss is 0.", 1e-9)

    # curved flow: with an exact teacher step the perfect student has no loss
    thing = mixture(2, 3, seed)
    points = thing.sample(8, g)
    noise = torch.randn(8, 2, generator=g, dtype=DOUBLE)
    for phases in (1, 2, 4):
        edges = grid[:: n // phases]
        perfect = phased.exact_student(thing.flow_map, edges)
        step = phased.exact_student(thing.flow_map, grid)
        loss = phased_loss(perfect, perfect, step, points, noise, index, grid, edges)
        close(loss, 0 * loss, "A perfect student of an exact teacher has no loss.", 1e-9)

    # gradients
    edges = grid[::4]
    knobs = [torch.ones((), dtype=DOUBLE, requires_grad=True) for _ in range(3)]
    nets = [lambda z, t, k=k, net=net: net(k * z, t) for k, net in zip(knobs, (student, target, teacher))]
    loss = phased_loss(*nets, x, eps, index, grid, edges)
    assert loss.requires_grad, (
        "The gradient must flow through the student's jump: no_grad for the target alone."
    )
    grads = torch.autograd.grad(loss.sum(), knobs, allow_unused=True)
    assert grads[0] is not None, "The gradient must flow through the student's jump."
    assert grads[1] is None and grads[2] is None, "No gradient may reach target or teacher: torch.no_grad()."
    landed = lambda k: z + column(phased.phase_end(t, edges) - t, x) * student(k * z, t)
    with torch.no_grad():
        z_s, end = z + column(s - t, x) * teacher(z, t), phased.phase_end(t, edges)
        wanted = z_s + column(end - s, x) * target(z_s, torch.where(s > 0, s, t))
    distance = ((landed(knobs[0]) - wanted) ** 2 + 0.09).sqrt() - 0.3
    right = torch.autograd.grad(distance.mean((1, 2, 3)).sum(), knobs[0])[0]
    found = torch.autograd.grad(phased_loss(*nets, x, eps, index, grid, edges, 0.3).sum(), knobs[0])[0]
    close(found, right, "The gradient is that of the Huber distance: d / sqrt(d^2 + c^2), per number.", 1e-9)
    same = [lambda z, t: student(knobs[0] * z, t)] * 2
    frozen = lambda z, t: student(z, t)
    both = torch.autograd.grad(phased_loss(*same, teacher, x, eps, index, grid, edges).sum(), knobs[0])[0]
    one = torch.autograd.grad(
        phased_loss(same[0], frozen, teacher, x, eps, index, grid, edges).sum(), knobs[0]
    )[0]
    close(both, one, "The student as its own target: its gradient must stop there.")

    alone = phased_loss(student, target, teacher, x[1:2], eps[1:2], index[1:2], grid, edges)
    whole = phased_loss(student, target, teacher, x, eps, index, grid, edges)
    close(alone, whole[1:2], "A loss must not depend on its neighbours.")
    at_zero = lambda z, t: target(z, t) / column(t, z)  # some networks divide by the time
    assert phased_loss(student, at_zero, teacher, x, eps, index, grid, edges).isfinite().all(), (
        "Not finite: from s = 0 the jump has length zero, and the target's answer is not needed."
    )
    low = [a.float() for a in (x, eps)]
    assert phased_loss(student, target, teacher, *low, index, grid, edges).dtype == torch.float32, (
        "The loss has the dtype of x."
    )
    for bad, what in ((0 * index, "0: it is clean, nothing starts there, and it"), (index + 1, "n + 1: it")):
        refuses(
            lambda: phased_loss(student, target, teacher, x, eps, bad, grid, edges),
            f"Index {what} must be refused.",
        )
    refuses(
        lambda: phased_loss(student, target, teacher, x, eps, index[:1], grid, edges),
        "One index for eight samples must be refused.",
    )
    refuses(
        lambda: phased_loss(lambda z, t: z[:, :1], target, teacher, x, eps, index, grid, edges),
        "A student that returns another shape must be refused: it would be broadcast.",
    )
    for wrong in ((student, lambda z, t: z[:, :1], teacher), (student, target, lambda z, t: z[:, :1])):
        refuses(
            lambda: phased_loss(*wrong, x, eps, index, grid, edges),
            "A target or teacher that returns another shape must be refused: it would be broadcast.",
        )
    refuses(
        lambda: phased_loss(student, target, teacher, x, eps, index, grid, edges, -1.0),
        "A negative huber_c must be refused.",
    )


def consistency_velocity(std: float):
    """The chord slope of the perfect one-phase student of N(0, std^2), written out."""

    def velocity(z, t):
        t = column(t, z)
        return z * (1 - std / ((1 - t) ** 2 * std**2 + t**2).sqrt()) / t

    return velocity


def check_phased_sample(phased_sample=phased.phased_sample, seed: int = 0) -> None:
    """One formula from Euler to fresh noise; its limits, its randomness, and what each is exact for."""
    g = torch.Generator().manual_seed(seed)
    z, point = torch.randn(2, 4, 4, 4, 4, generator=g, dtype=DOUBLE)
    stops = exact(1.0, 0.8, 0.3, 0.0)
    asked = []
    recorded = lambda z, t: asked.append(t) or student(z, t)
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    found = phased_sample(recorded, z, stops, 0.0, generator)
    assert torch.equal(state, generator.get_state()), "Euler draws no random numbers."
    expected = z
    for t, s in zip(stops, stops[1:]):
        expected = expected + (s - t) * student(expected, t.expand(4))
    close(found, expected, "fresh = 0 is Euler: z + (s - t) v, from stop to stop, down to the last.", 1e-9)
    close(torch.stack(asked), stops[:-1, None].expand(3, 4), "Ask at t, the noisier end of each step, (b,).")

    for fresh in (1.0, 0.6, exact(0.2, 1.0, 0.9)):
        shares = torch.as_tensor(fresh, dtype=DOUBLE).expand(3)
        found = phased_sample(student, z, stops, fresh, torch.Generator().manual_seed(3))
        drawn, expected = torch.Generator().manual_seed(3), z
        for t, s, share in zip(stops, stops[1:], shares):
            v = student(expected, t.expand(4))
            x_hat, eps_hat = expected - t * v, expected + (1 - t) * v
            if s > 0:
                new = torch.randn(z.shape, generator=drawn, dtype=DOUBLE)
                eps_hat = (1 - share**2).sqrt() * eps_hat + share * new
            expected = (1 - s) * x_hat + s * eps_hat
        hint = (
            "(1 - s) x_hat + s eps', x_hat = z - t v, eps_hat = z + (1 - t) v, "
            "eps' = sqrt(1 - fresh^2) eps_hat + fresh noise of z's dtype, drawn once per stop above 0."
        )
        if (found - expected).abs().max() < 1e-6:
            hint = "Right, but for its digits: torch.as_tensor(0.6) is float32; keep fresh in float64."
        close(found, expected, hint, 1e-9)
        straight = lambda z, t: (z - point) / column(t, z)
        end = phased_sample(straight, z, stops, fresh, generator)
        close(end, point, "When all data is one point, every sampler ends there, without noise.", 1e-9)
    above = exact(0.9, 0.5, 0.2)  # a last stop above 0 keeps its noise
    expected, drawn_2 = 100 * z, torch.Generator().manual_seed(3)
    for t, s in zip(above, above[1:]):
        v = student(expected, t.expand(4))
        new = torch.randn(z.shape, generator=drawn_2, dtype=DOUBLE)
        expected = (1 - s) * (expected - t * v) + s * new
    found = phased_sample(student, 100 * z, above, 1.0, torch.Generator().manual_seed(3))
    close(
        found, expected, "At a last stop above 0 the state has noise of size s; x_hat is not clipped.", 1e-8
    )
    after = torch.randn(3, generator=drawn)
    left = torch.Generator().manual_seed(3)
    phased_sample(student, z, stops, 1.0, left)
    close(torch.randn(3, generator=left), after, "No noise is drawn for a stop at 0.", 0.0, 0.0)

    # a perfect one-phase student: Euler makes the data too wide by a known factor, fresh noise keeps it
    std, noise = 0.7, torch.randn(40_000, 1, generator=g, dtype=DOUBLE)
    velocity, r = consistency_velocity(std), 0.6
    gain = ((1 - r) * std + r) / math.hypot((1 - r) * std, r)
    two = phased_sample(velocity, noise, exact(1.0, r, 0.0))
    close(
        two,
        gain * std * noise,
        "Without `fresh` it is Euler: two steps on a consistency function have a known gain.",
        1e-9,
    )
    width = phased_sample(velocity, noise, exact(1.0, 0.9, 0.7, 0.4, 0.2, 0.0), 1.0, g).std() / std
    assert abs(width - 1) < 0.02, (
        f"Fresh noise must keep a perfect consistency function's data as wide as it is: {width:.3f} times. "
        "Is the noise of size s, and x_hat scaled by 1 - s?"
    )
    # a perfect phased student from edge to edge is the flow itself
    thing = mixture(2, 3, seed)
    start = torch.randn(50, 2, generator=g, dtype=DOUBLE)
    edges = exact(0.0, 0.3, 0.7, 1.0)
    found = phased_sample(phased.exact_student(thing.flow_map, edges), start, edges.flip(0))
    one = torch.ones(50, dtype=DOUBLE)
    truth = thing.flow_map(start, one, 0 * one, rectified_flow)
    close(found, truth, "Euler from edge to edge on a perfect phased student is exact.", 1e-8)

    single = phased_sample(student, z.float(), stops, 0.5)
    assert single.dtype == torch.float32, "The sample has the dtype of z."
    close(
        phased_sample(student, z[1:2], stops),
        phased_sample(student, z, stops)[1:2],
        "A sample must not depend on its neighbours.",
    )
    refuses(lambda: phased_sample(student, z, stops.flip(0)), "Stops that rise must be refused.")
    refuses(lambda: phased_sample(student, z, stops[:1]), "A single stop must be refused.")
    refuses(lambda: phased_sample(student, z, 2 * stops), "Stops above 1 must be refused.")
    refuses(lambda: phased_sample(student, z, stops - 0.1), "Stops below 0 must be refused.")
    refuses(lambda: phased_sample(lambda z, t: z[:, :1], z, stops), "Another shape must be refused.")
    refuses(lambda: phased_sample(student, z, stops, exact(0.1, 0.2)), "Two shares for three stops: refuse.")
    refuses(lambda: phased_sample(student, z, stops, 1.5), "fresh above 1 must be refused.")
    refuses(lambda: phased_sample(student, z, stops, -0.1), "fresh below 0 must be refused.")


def check_tcd_fresh(tcd_fresh=phased.tcd_fresh, seed: int = 0) -> None:
    """Its limits, and TCD's own step: down to (1 - gamma) s, then up to s."""
    s = exact(0.9, 0.5, 0.2, 0.01)
    close(tcd_fresh(s, 0.0), 0 * s, "gamma = 0 is Euler: no fresh noise.", 1e-7)
    close(tcd_fresh(s, 1.0), torch.ones_like(s), "gamma = 1 is re-noising: all noise fresh.")
    for gamma in (0.3, 0.05 + 0.1 * (seed % 9)):
        u = (1 - gamma) * s
        k = (1 - s) / (1 - u)  # x_hat and eps_hat at u, scaled until the signal is that of s
        lifted = (s**2 - (k * u) ** 2).sqrt()
        hint = "(1 - u) x_hat + u eps_hat, u = (1 - gamma) s; then (1 - s) / (1 - u) of it, and noise to s."
        close(s * tcd_fresh(s, gamma), lifted, hint)
    refuses(lambda: tcd_fresh(s, 1.1), "gamma above 1 must be refused.")


def check_exact_student(exact_student=phased.exact_student, seed: int = 0) -> None:
    """Its jump is the flow map to the edge."""
    thing = mixture(2, 3, seed)
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    edges = exact(0.0, 0.25, 0.6, 1.0)
    t = exact(0.25, 0.3, 0.6, 0.9, 1.0).repeat(8)
    end = exact(0.0, 0.25, 0.25, 0.6, 0.6).repeat(8)
    landed = z + column(end - t, z) * exact_student(thing.flow_map, edges)(z, t)
    close(
        landed,
        thing.flow_map(z, t, end, rectified_flow),
        "The slope from z to where the ODE meets the edge.",
        1e-9,
    )


def check_aged_student(aged_student=phased.aged_student, seed: int = 0) -> None:
    """Age 0 is the teacher, each age is one sweep of the loss without error, the last one is finished."""
    z = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    grid = shift(torch.linspace(0, 1, 13, dtype=DOUBLE), 2.0)
    t, s = grid[1:], grid[:-1]
    for phases in (1, 3):
        edges = grid[:: 12 // phases]
        end = phased.phase_end(t, edges)
        close(aged_student(teacher, grid, edges, 0)(z, t), teacher(z, t), "Age 0 is the teacher.", 1e-9)
        for age in (1, 2, 5):
            older, younger = (aged_student(teacher, grid, edges, a) for a in (age, age - 1))
            z_s = z + column(s - t, z) * teacher(z, t)
            wanted = z_s + column(end - s, z) * younger(z_s, torch.where(s > end, s, t))
            landed = z + column(end - t, z) * older(z, t)
            hint = (
                "One sweep: the jump from t must land where the younger student lands after one teacher step."
            )
            close(landed, wanted, hint, 1e-9)
        finished = aged_student(teacher, grid, edges, 12 // phases)
        close(
            finished(z, t),
            aged_student(teacher, grid, edges, 40)(z, t),
            "After n / phases sweeps nothing changes: it stops at the edge of its phase.",
            1e-9,
        )
    refuses(lambda: aged_student(teacher, grid, edges, -1), "A negative age must be refused.")
    refuses(
        lambda: aged_student(teacher, grid, edges, 1)(z[:1], exact(0.123)),
        "A time off the grid must be refused.",
    )
