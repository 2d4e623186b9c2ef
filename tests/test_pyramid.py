"""The spatial pyramid: the checks on our code, on every mistake of the list, golden numbers, and packing.

The numbers are those of the list of mistakes. Not here: 30 to 38 belong to video. 13 and 14 (noise pyramid by
subsampling, or drawn anew for each size) are right in distribution; the check pins the convention.
"""

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from planted import copied, restarted

from minidistill import pyramid
from minidistill.checks import exact
from minidistill.checks import pyramid as checks
from minidistill.dit import DiT
from minidistill.parameterization import guided
from minidistill.phased import flow_matching_loss
from minidistill.pyramid import (
    Stage,
    at_level,
    down,
    network_time,
    pyramid_distillation_loss,
    pyramid_loss,
    pyramid_sample,
    renoise_jump,
    split,
    stage_pair,
    stage_target,
    stages,
    up,
)
from minidistill.schedules import rectified_flow, shifted

GOLDEN = json.loads((Path(__file__).parent / "golden" / "pyramid.json").read_text())
CHECKS = [getattr(checks, name) for name in dir(checks) if name.startswith("check_")]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the mistakes, each one thing changed in code that is otherwise right


def stages_with(
    start=None, alpha=None, beta=None, times=None, end=lambda e: e, first=(0.0, 1.0, 0.0), cast=float
):
    def wrong(cuts, gamma=1 / 3):
        right = stages(cuts, gamma)  # refuses what ought to be refused
        found = []
        for i, stage in enumerate(right):
            e, c = cuts[i], math.sqrt(1 + 1 / gamma)
            s, a, b = first
            if i:
                s = start(e, c, gamma) if start else stage.start
                a = alpha(s, e, c) if alpha else s / e
                b = beta(s, e, a, gamma) if beta else (1 - s) / math.sqrt(1 + gamma)
            window = times(i, right, cuts) if times else (stage.t_start, stage.t_end)
            found.append(Stage(*map(cast, (s, end(stage.end), a, b, gamma, *window))))
        return found

    return wrong


def in_float32(cuts, gamma=1 / 3):
    """The right formulas on tensors, in torch's usual dtype."""
    stages(cuts, gamma)
    e, c = torch.tensor(cuts[:-1], dtype=torch.float32), math.sqrt(1 + 1 / gamma)
    s, end = e / (c * (1 - e) + e), torch.tensor(cuts[1:], dtype=torch.float32)
    alpha, beta = (s / e).nan_to_num(1.0), (1 - s) / math.sqrt(1 + gamma) * (e > 0)
    t = 1 - torch.cat([torch.zeros(1), (end - s).cumsum(0) / (end - s).sum()])
    return [Stage(*row) for row in zip(s, end, alpha, beta, [gamma] * len(s), t, t[1:])]


def spoilt(right, change):
    """The right answer, changed afterwards."""
    return lambda *args, **kwargs: change(right(*args, **kwargs))


def each(change):
    """The change of every tensor of a pair or a list."""
    return lambda found: type(found)(map(change, found)) if isinstance(found, tuple | list) else change(found)


def without(right, *refused):
    """The right function, but for calls that `refused` recognises, which get an answer of some kind."""

    def wrong(*args, **kwargs):
        return 0.0 if any(these(*args, **kwargs) for these in refused) else right(*args, **kwargs)

    return wrong


def square_only(right, place=0):
    """Refuses images that are not square."""

    def wrong(*args, **kwargs):
        if args[place].shape[-1] != args[place].shape[-2]:
            raise ValueError("images must be square")
        return right(*args, **kwargs)

    return wrong


detached = lambda right: spoilt(right, each(lambda a: a.detach()))
widened = lambda right: spoilt(right, each(lambda a: a.double()))
rounded = lambda right: spoilt(right, each(lambda a: a.float().to(a.dtype)))
bilinear = checks.bilinear


def pair_with(
    shrink=down,
    grow=up,
    gain=2.0,
    noise_down=None,
    start_noise=lambda n: n,
    signal=None,
    last=lambda e: e,
    data_gain=1.0,
    level=lambda weight: 1 - weight,
    weight=lambda stage, before: stage.start,
    first=None,
):
    def wrong(x, noise, i, stages):
        stage_pair(x, noise, i, stages)  # refuses what ought to be refused
        data, n = x, noise
        for _ in range(len(stages) - 1 - i):
            data, n = data_gain * shrink(data), noise_down(n) if noise_down else gain * down(n)
        stage = stages[i]
        end = last(stage.end)
        blurred = (signal(data) if signal else grow(shrink(data))) if i else data
        s = weight(stage, stages[i - 1]) if i else 0.0
        start = s * blurred + level(stage.start) * start_noise(n) if i or first else start_noise(n)
        return start, end * data + level(end) * n

    return wrong


def jump_with(
    alpha=lambda stage: stage.alpha,
    noise=None,
    grow=up,
    weight=lambda stage: stage.beta,
    shared=False,
):
    """The jump from alpha, Up, and beta times block noise of correlation -gamma."""

    def wrong(z, fresh, stage):
        renoise_jump(z, fresh, stage)  # refuses what ought to be refused
        fresh = fresh[:, :1].expand_as(fresh) if shared else fresh
        block = noise(fresh, stage.gamma) if noise else block_noise(fresh, stage.gamma)
        return alpha(stage) * grow(z) + weight(stage) * block

    return wrong


def block_noise(z, gamma, details=lambda g: math.sqrt(1 + g), mean=lambda g: math.sqrt(1 - 3 * g)):
    """Unit variance, correlation -gamma inside each 2x2 block."""
    m = up(down(z))
    return details(gamma) * (z - m) + mean(gamma) * m


def along_a_row(z, gamma):
    """Four correlated values in a row instead of a block."""
    b, c, h, w = z.shape
    rows = z.reshape(b, c, -1, 4)
    mean = rows.mean(-1, keepdim=True)
    mixed = math.sqrt(1 + gamma) * (rows - mean) + math.sqrt(1 - 3 * gamma) * mean
    return mixed.reshape(z.shape)


def weights(details, mean):
    return jump_with(noise=lambda z, gamma: block_noise(z, gamma, details, mean))


def refusing(right, shape):
    """renoise_jump that compares `shape` of the noise only, and broadcasts what is left."""

    def wrong(z, noise, stage):
        if shape(noise) != shape(up(z)):
            raise ValueError("another shape")
        if noise.shape == up(z).shape:
            return right(z, noise, stage)
        return stage.alpha * up(z)

    return wrong


def loss_with(
    sign=1, local=lambda u: u, time=network_time, order=lambda parts: parts, after=lambda a: a.mean(1), scale=None,
    slope=lambda a: a, given_to=lambda given, i: given,
):  # fmt: skip
    def wrong(velocity, x, noise, u, stages, shares=None, packed=False, **conditioning):
        # refuses what ought to be refused
        pyramid_loss(lambda z, t, **_: 0 * z, x, noise, u, stages, shares, **conditioning)
        zs, ts, targets, given = [], [], [], []
        for i, part in enumerate(order(split(len(x), shares, len(stages)))):
            start, end = stage_pair(x[part], noise[part], i, stages)
            w = local(u[part]).to(x.dtype).reshape(-1, 1, 1, 1)
            zs.append((1 - w) * end + w * start)
            ts.append(time(u[part], stages[i]).to(x.dtype))
            targets.append(sign * (start - end) * (scale(stages[i]) if scale else 1))
            given.append(given_to({name: value[part] for name, value in conditioning.items()}, i))
        if packed:
            answers = velocity.packed(zs, ts, **{name: [g[name] for g in given] for name in conditioning})
        else:
            answers = [velocity(z, t, **g) for z, t, g in zip(zs, ts, given)]
        if [a.shape for a in answers] != [z.shape for z in zs]:
            raise ValueError("another shape")
        return torch.cat([after((slope(a) - b).square().flatten(1)) for a, b in zip(answers, targets)])

    return wrong


def sample_with(
    jump=renoise_jump,
    times=lambda n: [k / n for k in range(n, -1, -1)],
    time=network_time,
    first=2.0,
    between=lambda z: z,
    last=lambda z: z,
    again=False,
    draw=lambda z, generator: torch.randn(z.shape, generator=generator, dtype=z.dtype),
    step=lambda stage: 1,
    sign=1,
    early=False,
    old=False,
    inner=lambda z: z,
):
    def wrong(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
        # refuses what ought to be refused
        pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, jumps, torch.Generator())
        steps = [steps] * len(stages) if isinstance(steps, int) else steps
        z, ends = at_level(noise, len(stages) - 1, gain=first), []
        for i, (stage, n) in enumerate(zip(stages, steps)):
            if i > 0:
                drawn = draw(up(z), generator) if jumps is None else jumps[i - 1]
                drawn = at_level(noise, len(stages) - 1 - i, gain=2.0) if again else drawn
                z = between(jump(z, drawn, stage))
            if early:
                ends.append(z)
            grid, start = times(n), z
            for u, s in zip(grid, grid[1:]):
                v = velocity(start if old else z, time(torch.full((len(z),), u, dtype=z.dtype), stage))
                z = inner(z + sign * (s - u) * v * step(stage))
            if not early:
                ends.append(z)
        return ends if trajectory else last(z)

    return wrong


def wasted(n):
    """The released code's grid: its last step moves 0.001."""
    return [1.0] if n == 0 else [1 - k * 0.999 / max(n - 1, 1) for k in range(n)] + [0.0]


def local_time(u, stage):
    return u


def calls(right=pyramid_sample, **change):
    """pyramid_sample called with other arguments: each change is a function of the one that was given."""

    def wrong(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
        given = {"velocity": velocity, "noise": noise, "stages": stages, "steps": steps, "jumps": jumps}
        given |= {"generator": generator, "trajectory": trajectory}
        return right(
            **{name: change[name](value) if name in change else value for name, value in given.items()}
        )

    return wrong


def drawn_at_every_step(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """The noise of the jumps is drawn at every step, and the last one is used."""
    pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, jumps, torch.Generator())
    steps = [steps] * len(stages) if isinstance(steps, int) else steps
    z, ends = at_level(noise, len(stages) - 1, gain=2.0), []
    for i, (stage, n) in enumerate(zip(stages, steps)):
        for j in range(n, 0, -1):
            z = z - velocity(z, network_time(z.new_full((len(z),), j / n), stage)) / n
            fresh = torch.randn(up(z).shape, generator=generator, dtype=z.dtype) if jumps is None else None
        ends.append(z)
        if i + 1 < len(stages):
            z = renoise_jump(z, fresh if jumps is None else jumps[i], stages[i + 1])
    return ends if trajectory else z


def drawn_ahead(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """All noise is drawn at first, the largest first."""
    if jumps is None:
        sizes = [at_level(noise, k) for k in range(len(stages) - 1)]
        jumps = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for z in sizes][::-1]
    return pyramid_sample(velocity, noise, stages, steps, jumps, None, trajectory)


def empties(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    found = pyramid_sample(velocity, noise, stages, steps, jumps, generator, trajectory)
    if jumps:
        jumps.clear()
    return found


def pads(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    found = pyramid_sample(velocity, noise, stages, steps, jumps, generator, trajectory)
    if isinstance(steps, list):
        steps[0] += 1
    return found


def in_place(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """Right, but that with one stage z is the noise itself."""
    found = pyramid_sample(velocity, noise, stages, steps, jumps, generator, trajectory)
    if len(stages) == 1 and not noise.requires_grad:
        noise.copy_(found[-1] if trajectory else found)
    return found


def target_with(
    mix=lambda a, b: (a + b) / 2, first=0.5, back=0.5, time=network_time, more=lambda given, k: given, leave=False,
    middle=None, sign=1,
):  # fmt: skip
    """Two steps of the teacher, with what may be changed."""

    def wrong(teacher, z, u, n, stage, **given):
        stage_target(lambda z, t: 0 * z, z, u, n, stage)  # refuses what ought to be refused
        at = lambda u: time(u, stage).to(z.dtype)
        a = teacher(z, at(u), **more(given, 0))
        m = middle(z, a, n, stage) if middle else z - sign * first / n * a
        b = teacher(m, at(u - back / n), **more(given, 1))
        if not a.shape == b.shape == z.shape:
            raise ValueError("another shape")
        return mix(a, b) if leave else mix(a, b).detach()

    return wrong


def distil_with(
    target=stage_target,
    local=lambda index, n: index / n,
    after=lambda a: a.mean(1),
    constant=True,
    time=network_time,
):
    """The loss from any target."""

    def wrong(student, teacher, x, noise, index, stages, n, shares=None, **conditioning):
        silent = lambda z, t, **_: 0 * z
        pyramid_distillation_loss(
            silent, silent, x, noise, index, stages, n, shares, **conditioning
        )  # refuses
        losses = []
        for i, part in enumerate(split(len(x), shares, len(stages))):
            start, end = stage_pair(x[part], noise[part], i, stages)
            u = local(index[part].double(), n)
            w = u.to(x.dtype).reshape(-1, 1, 1, 1)
            z, given = (1 - w) * end + w * start, {name: value[part] for name, value in conditioning.items()}
            answer = student(z, time(u, stages[i]).to(x.dtype), **given)
            wanted = target(teacher, z, u, n, stages[i], **given)
            if not answer.shape == wanted.shape == z.shape:
                raise ValueError("another shape")
            losses.append(after((answer - (wanted.detach() if constant else wanted)).square().flatten(1)))
        return torch.cat(losses).to(x.dtype)

    return wrong


def calls_then(change, last=None):
    """pyramid_sample with a changed trajectory, or with another entry of it as its result."""

    def wrong(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
        path = pyramid_sample(velocity, noise, stages, steps, jumps, generator, trajectory=True)
        return change(path) if trajectory else (last(path) if last else path[-1])

    return wrong


def sample_without_jumps(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """What is given for the jumps is not used."""
    pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, jumps, torch.Generator())
    return pyramid_sample(velocity, noise, stages, steps, None, generator, trajectory)


def told_double(velocity):
    """velocity.packed, which is told float64 times."""

    class Told:
        def packed(self, zs, ts, **given):
            return velocity.packed(zs, [t.double() for t in ts], **given)

    return Told()


def elsewhere(loss, change):
    """The loss with a changed network, where it is not asked for all sizes at once."""

    def wrong(velocity, *args, packed=False, **more):
        return loss(velocity if packed else change(velocity), *args, packed=packed, **more)

    return wrong


expanding = lambda f: lambda z, t, **given: f(z, t, **given).expand_as(z)
wide_times = lambda f: lambda z, t, **given: f(z, t.double(), **given)


def packed_expanding(velocity):
    """velocity.packed, whose answers are broadcast."""
    packed = lambda zs, ts, **given: [a.expand_as(z) for a, z in zip(velocity.packed(zs, ts, **given), zs)]
    return type("Packed", (), {"packed": staticmethod(packed)})


def divides_the_answer(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """What the network has answered is divided in place."""
    pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, jumps, torch.Generator())
    steps = [steps] * len(stages) if isinstance(steps, int) else steps
    z, ends = at_level(noise.clone(), len(stages) - 1, gain=2.0), []
    for i, (stage, n) in enumerate(zip(stages, steps)):
        if i > 0:
            drawn = (
                torch.randn(up(z).shape, generator=generator, dtype=z.dtype)
                if jumps is None
                else jumps[i - 1]
            )
            z = renoise_jump(z, drawn, stage)
        for j in range(n, 0, -1):
            v = velocity(z, network_time(z.new_full((len(z),), j / n), stage))
            v /= n
            z = z - v
        ends.append(z)
    return ends if trajectory else z


C, F = checks, math.sqrt
has_nan = lambda a: bool(a.isnan().any())

MISTAKES = {
    "M01: alpha = 1 [formula]": (C.check_stages, stages_with(alpha=lambda s, e, c: 1.0), "alpha = 1 leaves"),
    "M02: alpha = e / s [formula]": (C.check_stages, stages_with(alpha=lambda s, e, c: e / s), "upside down"),
    "M05: beta without 1 / sqrt(gamma) [formula]": (
        C.check_stages, stages_with(beta=lambda s, e, a, gamma: a * (1 - e)), r"beta lacks 1 / sqrt\(gamma\)"),
    "M07: 1 - e for e [formula]": (
        C.check_stages, stages_with(alpha=lambda s, e, c: s / (1 - e), beta=lambda s, e, a, gamma: a * e / F(gamma)), r"not s / \(1 - e\)"),
    "M08: no correction, s = e [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: e), "not corrected"),
    "M09: sqrt(1 / gamma) [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: e / (gamma**-0.5 * (1 - e) + e)), "the 1 is missing"),
    "M10: the inverse map [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: c * e / (1 + (c - 1) * e)), "start goes the wrong way"),
    "M24: the last end is not clean [end]": (C.check_stages, stages_with(end=lambda e: min(e, 0.99)), "ends on clean data"),
    "M25: the first start is not pure noise [end]": (C.check_stages, stages_with(first=(0.01, 1.0, 0.0)), "The first stage has no jump"),
    "M27: equal windows [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (1 - i / len(all), 1 - (i + 1) / len(all))), "equal widths"),
    "M27: windows of noise, which overlap [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (1 - all[i].start, 1 - all[i].end)), "noise levels, which overlap"),
    "M39: gamma ignored [argument]": (C.check_stages, lambda cuts, gamma=1 / 3: (stages(cuts, gamma), stages(cuts))[1], "gamma is ignored"),
    "M40: the web article's form [formula]": (
        C.check_stages, stages_with(start=lambda e, c, gamma: e / (1 + (c - 1) * e), alpha=lambda s, e, c: e / s), r"not over 1 \+ \(c - 1\) e"),
    "stages: e is this stage's own end [formula]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [a._replace(start=b.start if i else 0.0) for i, (a, b) in enumerate(zip(stages(cuts, gamma), [*stages(cuts, gamma)[1:], stages(cuts, gamma)[0]._replace(start=1.0)]))],
        "not this one's end"),
    "stages: e is a noise level [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: (1 - e) / (c * e + 1 - e)), "e and 1 - e are exchanged"),
    "stages: start is a noise level [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: 1 - e / (c * (1 - e) + e)), "not the noise level 1 - s"),
    "stages: end is a noise level [formula]": (C.check_stages, stages_with(end=lambda e: 1 - e), "not the noise level 1 - e"),
    "stages: end is the lower cut [formula]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [a._replace(end=float(e)) for a, e in zip(stages(cuts, gamma), cuts)], "not the lower"),
    "stages: c without its root [formula]": (C.check_stages, stages_with(start=lambda e, c, gamma: e / (c**2 * (1 - e) + e)), "here the root is missing"),
    "stages: c = 2 for every gamma [argument]": (C.check_stages, stages_with(start=lambda e, c, gamma: e / (2 * (1 - e) + e)), "c = 2 belongs to 1/3"),
    "stages: beta is a variance [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: (1 - s) ** 2 / (1 + gamma)), "this is its square"),
    "stages: beta = 1 - s [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: 1 - s), r"lacks 1 / sqrt\(1 \+ gamma\)"),
    "stages: beta with 1 - gamma [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: (1 - s) / F(1 - gamma)), "sign of gamma in beta"),
    "stages: beta from e [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: a * e / F(gamma)), "needs the noise level 1 - e"),
    "stages: beta with 1 - e [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: (1 - e) / F(1 + gamma)), "1 - e of the stage before"),
    "stages: beta divided by gamma [formula]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: a * (1 - e) / gamma), "needs its root"),
    "stages: gamma ignored in beta [argument]": (C.check_stages, stages_with(beta=lambda s, e, a, gamma: (1 - s) * F(0.75)), "gamma is ignored in beta"),
    "stages: alpha and beta exchanged [formula]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [s._replace(alpha=s.beta, beta=s.alpha) if s.start else s for s in stages(cuts, gamma)], "alpha and beta are exchanged"),
    "stages: the paper's sign of gamma kept [formula]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [s._replace(gamma=-gamma) for s in stages(cuts, gamma)], "gamma is positive here"),
    "stages: another default of gamma [argument]": (C.check_stages, lambda cuts, gamma=0.25: stages(cuts, gamma), "1/3 unless given"),
    "stages: first alpha 0, beta 1 [end]": (C.check_stages, stages_with(first=(0.0, 0.0, 1.0)), "The first stage has no jump"),
    "stages: first beta from the formula [end]": (C.check_stages, stages_with(first=(0.0, 1.0, F(0.75))), "The first stage has no jump"),
    "stages: first alpha from the formula [end]": (C.check_stages, stages_with(first=(0.0, 0.5, 0.0)), "The first stage has no jump"),
    "stages: windows like the cuts [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (1 - cuts[i], 1 - cuts[i + 1])), "not as the cuts"),
    "stages: time rises [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (1 - all[i].t_start, 1 - all[i].t_end)), "yours rises"),
    "stages: t_start and t_end exchanged [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (all[i].t_end, all[i].t_start)), "t_start and t_end are exchanged"),
    "stages: windows not divided by the sum [formula]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (1 - sum(s.end - s.start for s in all[:i]), 1 - sum(s.end - s.start for s in all[: i + 1]))),
        "not divided by the sum"),
    "stages: gaps of 1e-10 between windows [end]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (all[i].t_start, all[i].t_end + 1e-10)), "Windows have no gaps"),
    "stages: the first time is 0.9999999999 [end]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: (min(all[i].t_start, 1 - 1e-10), all[i].t_end)), "first t_start is exactly 1"),
    "stages: tensors [precision]": (C.check_stages, in_float32, "A Stage holds numbers"),
    "stages: times are tensors [precision]": (
        C.check_stages, stages_with(times=lambda i, all, cuts: map(torch.tensor, (all[i].t_start, all[i].t_end)), cast=lambda a: a), "A Stage holds numbers"),
    "stages: float32 [precision]": (C.check_stages, lambda cuts, gamma=1 / 3: [Stage(*map(float, row)) for row in in_float32(cuts, gamma)], "no further"),
    "stages: cuts rounded to 1/1000 [precision]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages([round(cut, 3) for cut in cuts], gamma), "unrounded"),
    "stages: empties the caller's list [argument]": (C.check_stages, lambda cuts, gamma=1 / 3: (stages(cuts, gamma), cuts.pop(0))[0], "caller's list of cuts"),
    "stages: a stage too few [shape]": (C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts, gamma)[:-1], "One stage for each interval"),
    "stages: plain tuples [shape]": (C.check_stages, lambda cuts, gamma=1 / 3: [tuple(s) for s in stages(cuts, gamma)], "Return a list of Stage"),
    "stages: an empty list [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: not cuts), "Less than two cuts"),
    "stages: a single cut [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) == 1), "Less than two cuts"),
    "stages: any first cut [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) > 1 and cuts[0] != 0), "first cut other than 0"),
    "stages: a first cut below 0 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: cuts and cuts[0] < 0), "first cut other than 0"),
    "stages: any last cut [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) > 2 and cuts[-1] != 1), "last cut other than 1"),
    "stages: a last cut above 1 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: cuts and cuts[-1] > 1), "last cut other than 1"),
    "stages: equal cuts [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(set(cuts)) < len(cuts)), "Equal cuts"),
    "stages: cuts fall after the first three [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) > 3 and cuts[0] < cuts[1] < cuts[2] and cuts != sorted(cuts)), "A cut that falls"),
    "stages: only neighbours of the ends compared [refusal]": (
        C.check_stages, without(stages, lambda cuts, gamma=1 / 3: cuts != sorted(cuts) and cuts[0] < cuts[1] and cuts[-2] < cuts[-1]), "A cut that falls"),
    "stages: nan among the cuts [refusal]": (
        C.check_stages, without(stages, lambda cuts, gamma=1 / 3: any(c != c for c in cuts[1:-1])), "A cut that is nan"),
    "stages: nan for the first cut [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: cuts and cuts[0] != cuts[0]), "first cut other than 0"),
    "stages: gamma above 1/3 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: 1 / 3 < gamma < 9), "gamma above 1/3"),
    "stages: gamma a little above 1/3 [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts, 1 / 3 if 1 / 3 < gamma < 0.334 else gamma), "a little above 1/3"),
    "stages: gamma = 0 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: gamma == 0), "gamma = 0"),
    "stages: gamma = 0 divides by 0 [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [1 / gamma, stages(cuts, gamma)][1], "not ZeroDivisionError"),
    "stages: a negative gamma [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: gamma < 0), "A negative gamma"),
    "stages: gamma nan [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: gamma != gamma), "gamma that is nan"),
    "stages: any gamma for one stage [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) == 2), "list of Stage"),
    "stages: gamma not looked at for one stage [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts) if len(cuts) == 2 and not 0 < gamma <= 1 / 3 else stages(cuts, gamma), "for one stage as well"),
    "stages: gamma = 1/3 refused [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts, gamma if gamma < 1 / 3 else 9), "gamma 0.3333 is valid"),
    "stages: one stage refused [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts if len(cuts) > 2 else [], gamma), r"cuts \[0, 1\], gamma 0.3333 is valid"),
    # down and up
    "M15: down by subsampling [formula]": (C.check_down, lambda x: x[..., ::2, ::2], "one pixel of each block"),
    "down: sums [formula]": (C.check_down, lambda x: 4 * down(x), "the sum of each block"),
    "down: the largest [formula]": (C.check_down, lambda x: torch.nn.functional.max_pool2d(x, 2), "largest pixel"),
    "down: a smoother filter [formula]": (C.check_down, lambda x: down((x + x.roll(1, -1)) / 2), "without any other filter"),
    "down: odd sides cut off [refusal]": (C.check_down, lambda x: torch.nn.functional.avg_pool2d(x, 2), "An odd height"),
    "down: odd widths cut off [refusal]": (
        C.check_down, lambda x: down(x) if x.shape[2] % 2 else torch.nn.functional.avg_pool2d(x, 2), "An odd width"),
    "down: square images [shape]": (C.check_down, square_only(down), "an image of 4x8 is valid"),
    "down: detached [gradient]": (C.check_down, detached(down), "No gradient passes through down"),
    "down: float64 always [precision]": (C.check_down, widened(down), "has the dtype of the data"),
    "down: float32 inside [precision]": (C.check_down, rounded(down), "no further"),
    "M19: bilinear Up [formula]": (C.check_up, bilinear, "This is bilinear"),
    "up: tiled [formula]": (C.check_up, lambda x: x.repeat(1, 1, 2, 2), "The image is tiled"),
    "up: shared out [formula]": (C.check_up, lambda x: up(x) / 4, "not shared out"),
    "up: zeros between [formula]": (C.check_up, lambda x: up(x) * torch.eye(2, dtype=x.dtype).repeat(x.shape[-2:]), "block of its own value"),
    "up: square images [shape]": (C.check_up, square_only(up), "an image of 4x8 is valid"),
    "up: not a single pixel high [shape]": (C.check_up, lambda x: up(x if x.shape[2] > 1 else x[:0]), "an image of 1x3 is valid"),
    "up: detached [gradient]": (C.check_up, detached(up), "No gradient passes through up"),
    "up: float64 always [precision]": (C.check_up, widened(up), "has the dtype of the data"),
    "up: float32 inside [precision]": (C.check_up, rounded(up), "no further"),
    # both ends of a stage
    "M11: noise without the factor 2 [formula]": (C.check_stage_pair, pair_with(gain=1.0), "Each halving must multiply the mean"),
    "M12: noise with sqrt 2 [formula]": (C.check_stage_pair, pair_with(gain=2**0.5), r"not sqrt\(2\)"),
    "M13: noise by subsampling [formula]": (C.check_stage_pair, pair_with(noise_down=lambda n: n[..., ::2, ::2]), "a pixel of each block, not a multiple"),
    "M14: fresh noise for each size [random]": (
        C.check_stage_pair, pair_with(noise_down=lambda n: torch.randn(down(n).shape, dtype=n.dtype)), "Nothing is drawn"),
    "M15: images by subsampling [formula]": (C.check_stage_pair, pair_with(shrink=lambda x: x[..., ::2, ::2]), "one pixel of each block"),
    "M16: the start knows the details [formula]": (C.check_stage_pair, pair_with(signal=lambda x: x), "The start knows details"),
    "M17: other noise at the start than at the end [formula]": (C.check_stage_pair, pair_with(start_noise=lambda n: n.flip(0)), "same noise"),
    "M19: bilinear Up, in the pair [formula]": (C.check_stage_pair, pair_with(grow=bilinear), "enlarged bilinearly"),
    "M24: the last end is not clean, in the pair [end]": (C.check_stage_pair, pair_with(last=lambda e: min(e, 0.99)), "The last stage ends on the data"),
    "stage_pair: noise with gain 4 [formula]": (C.check_stage_pair, pair_with(gain=4.0), "is not 4"),
    "stage_pair: the factor 2 once for all halvings [formula]": (
        C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise / 2 ** max(len(found) - 2 - i, 0) if 0 <= i < len(found) else noise, i, found), "Each halving needs the factor"),
    "stage_pair: data with gain 2 [formula]": (C.check_stage_pair, pair_with(data_gain=2.0), "Only noise is multiplied"),
    "stage_pair: variance preserving levels [formula]": (C.check_stage_pair, pair_with(level=lambda a: F(1 - a * a)), "without roots"),
    "stage_pair: signal weights at the noise [formula]": (C.check_stage_pair, pair_with(level=lambda a: a, first=True), "not that weight"),
    "stage_pair: noise without a weight [formula]": (C.check_stage_pair, pair_with(level=lambda a: 1.0), "The noise needs a weight"),
    "stage_pair: the start with weight e [formula]": (C.check_stage_pair, pair_with(weight=lambda stage, before: stage.end), "not the end's e_i"),
    "stage_pair: the start with the end before's weight [formula]": (C.check_stage_pair, pair_with(weight=lambda stage, before: before.end), "alpha times the weight"),
    "stage_pair: the start without data [formula]": (C.check_stage_pair, pair_with(weight=lambda stage, before: 0.0), "The start has no data"),
    "stage_pair: the end with weight s [formula]": (
        C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise, i, [s._replace(end=s.start) for s in found[:-1]] + found[-1:])[::1], "not s_i"),
    "stage_pair: the end is blurred [formula]": (
        C.check_stage_pair, lambda x, noise, i, found: (stage_pair(x, noise, i, found)[0], stage_pair(up(down(x)) if i + 1 == len(found) > 1 else x, noise, i, found)[1]), "The last stage ends on the data|here they are blurred"),
    "stage_pair: the end without weights [formula]": (
        C.check_stage_pair, lambda x, noise, i, found: (stage_pair(x, noise, i, found)[0], stage_pair(x / found[i].end, noise, i, found)[1]), "need a weight, e_i"),
    "stage_pair: start and end exchanged [formula]": (C.check_stage_pair, spoilt(stage_pair, lambda pair: pair[::-1]), "are exchanged"),
    "stage_pair: stages counted from the finest [formula]": (
        C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise, len(found) - 1 - i if 0 <= i < len(found) else i, found), "both ends have its size"),
    "stage_pair: always full size [shape]": (
        C.check_stage_pair, lambda x, noise, i, found: (stage_pair(x, noise, i, found), (noise, x))[1], "both ends have its size"),
    "stage_pair: the start's noise from the stage before [formula]": (
        C.check_stage_pair, pair_with(start_noise=lambda n: up(2 * down(n)) if n.shape[2] % 2 == n.shape[3] % 2 == 0 else n), "comes from the stage before"),
    "stage_pair: the first start has data [end]": (
        C.check_stage_pair, lambda x, noise, i, found: (lambda a, b: (a + 0.01 * at_level(x, len(found) - 1) if i == 0 else a, b))(*stage_pair(x, noise, i, found)),
        "starts from noise alone"),
    "stage_pair: clamped [formula]": (C.check_stage_pair, spoilt(stage_pair, each(lambda a: a.clamp(-1, 1))), "clamped|Without|without"),
    "stage_pair: noise clamped [formula]": (C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise.clamp(-1, 1), i, found), "of variance 1"),
    "stage_pair: velocity for the end [formula]": (C.check_stage_pair, spoilt(stage_pair, lambda pair: (pair[0], pair[0] - pair[1])), "without noise, the end"),
    "stage_pair: changes the noise [argument]": (
        C.check_stage_pair, lambda x, noise, i, found: (stage_pair(x, noise, i, found), noise.requires_grad or noise.mul_(2))[0], "changes its input"),
    "stage_pair: one tensor [shape]": (C.check_stage_pair, spoilt(stage_pair, lambda pair: pair[0]), "Return two tensors"),
    "stage_pair: square images [shape]": (C.check_stage_pair, square_only(stage_pair), "is valid"),
    "stage_pair: height and width exchanged [shape]": (C.check_stage_pair, spoilt(stage_pair, each(lambda a: a.mT)), "both ends have its size"),
    "stage_pair: not to a single pixel [shape]": (
        C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise, i if min(x.shape[2:]) >> (len(found) - 1 - i) > 1 else -1, found), "is valid"),
    "stage_pair: one channel only [shape]": (C.check_stage_pair, lambda x, noise, i, found: stage_pair(x[:, :1], noise[:, :1], i, found), "both ends have its size"),
    "stage_pair: one stage refused [refusal]": (
        C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise, i if len(found) > 1 else -1, found), "stage 0 of 1"),
    "stage_pair: float64 inside, never cast back [precision]": (C.check_stage_pair, lambda x, noise, i, found: stage_pair(x.double(), noise.double(), i, found), "has the dtype of the data"),
    "stage_pair: float32 inside [precision]": (C.check_stage_pair, rounded(stage_pair), "no further"),
    "stage_pair: detached [gradient]": (C.check_stage_pair, detached(stage_pair), "No gradient passes"),
    "stage_pair: the noise detached [gradient]": (C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise.detach(), i, found), "part of the gradient"),
    "stage_pair: i = K refused, i = -1 not [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, noise, i, found: i < 0), "Stage -1 of 3"),
    "stage_pair: i = K not refused [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, noise, i, found: i == len(found)), "Stage 3 of 3"),
    "stage_pair: IndexError for i = K [refusal]": (
        C.check_stage_pair, lambda x, noise, i, found: (found[i], stage_pair(x, noise, i, found))[1], "not IndexError"),
    "stage_pair: one noise for all [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: len(n) == 1 < len(x)), "Noise of one sample"),
    "stage_pair: channels of the noise not compared [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: n.ndim == 4 and n.shape[1] < x.shape[1]), "Noise of one channel"),
    "stage_pair: axes of the noise not counted [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: n.ndim < 4), "Noise without a batch axis"),
    "stage_pair: only batch and channels compared [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: n.ndim == 4 and n.shape[:2] == x.shape[:2] and n.shape != x.shape), "Noise of (height|width) 1"),
    "stage_pair: only the width compared [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: n.ndim == 4 and n.shape[-2] == 1), "Noise of height 1"),
    "stage_pair: only the number of entries compared [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: n.numel() == x.numel() and n.shape != x.shape), "height and width exchanged"),
    "stage_pair: shapes not compared in the last stage [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: i == len(found) - 1 and n.shape != x.shape), "in stage 2"),
    "stage_pair: odd heights [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: x.shape[2] == 6), "A height that cannot"),
    "stage_pair: odd widths [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: x.shape[3] == 10), "A width that cannot"),
    # the jump
    "M01: alpha = 1, in the jump [formula]": (C.check_renoise_jump, jump_with(alpha=lambda stage: 1.0), "not multiplied by alpha"),
    "M02: alpha inverted, in the jump [formula]": (C.check_renoise_jump, jump_with(alpha=lambda stage: 1 / stage.alpha), "divided by alpha"),
    "M03: no fresh noise [formula]": (C.check_renoise_jump, jump_with(weight=lambda stage: 0.0), "no fresh noise"),
    "M04: independent noise [formula]": (C.check_renoise_jump, jump_with(noise=lambda z, gamma: z), "Fresh noise is white"),
    "M06: the sign of gamma [formula]": (C.check_renoise_jump, weights(lambda g: F(1 - g), lambda g: F(1 + 3 * g)), "The sign of gamma"),
    "M19: bilinear Up, in the jump [formula]": (C.check_renoise_jump, jump_with(grow=bilinear), "enlarged bilinearly"),
    "M20: four correlated values in a row [formula]": (C.check_renoise_jump, jump_with(noise=along_a_row), "not four in a row"),
    "M21: one block noise for all channels [formula]": (C.check_renoise_jump, jump_with(shared=True), "Channels share"),
    "M22: details not rescaled [formula]": (C.check_renoise_jump, jump_with(noise=lambda z, gamma: z - up(down(z))), "The details have no weight"),
    "M39: gamma ignored, in the jump [argument]": (
        C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), stage.alpha * up(z) + stage.beta * F(4 / 3) * (noise - up(down(noise))))[1], "gamma is ignored"),
    "renoise before Up [formula]": (
        C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), up(stage.alpha * z + stage.beta * down(noise)))[1], "get one number"),
    "renoise_jump: 1 - start for the details, no mean [formula]": (
        C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), stage.alpha * up(z) + (1 - stage.start) * (noise - up(down(noise))))[1], "The mean m is missing"),
    "renoise_jump: the mean without a weight [formula]": (C.check_renoise_jump, weights(lambda g: F(1 + g), lambda g: 1.0), "The mean m has no weight"),
    "renoise_jump: weights without roots [formula]": (C.check_renoise_jump, weights(lambda g: 1 + g, lambda g: 1 - 3 * g), "lack their roots"),
    "renoise_jump: weights exchanged [formula]": (C.check_renoise_jump, weights(lambda g: F(1 - 3 * g), lambda g: F(1 + g)), "are exchanged"),
    "renoise_jump: only the mean weighted [formula]": (C.check_renoise_jump, weights(lambda g: 1.0, lambda g: F(1 - 3 * g)), "only their mean has"),
    "renoise_jump: beta twice [formula]": (C.check_renoise_jump, jump_with(weight=lambda stage: stage.beta**2), "not twice"),
    "renoise_jump: without beta [formula]": (C.check_renoise_jump, jump_with(weight=lambda stage: 1.0), "beta is missing"),
    "renoise_jump: 1 - start for beta [formula]": (C.check_renoise_jump, jump_with(weight=lambda stage: 1 - stage.start), "not 1 - s"),
    "renoise_jump: sqrt(beta) [formula]": (C.check_renoise_jump, jump_with(weight=lambda stage: F(stage.beta)), "beta stands for a variance"),
    "renoise_jump: start for alpha [formula]": (C.check_renoise_jump, jump_with(alpha=lambda stage: stage.start), "z is multiplied by s"),
    "renoise_jump: tiled [formula]": (C.check_renoise_jump, jump_with(grow=lambda z: z.repeat(1, 1, 2, 2)), "z is tiled"),
    "renoise_jump: z left out [formula]": (C.check_renoise_jump, jump_with(alpha=lambda stage: 0.0), "z does not enter"),
    "renoise_jump: the noise of the block mean only [formula]": (
        C.check_renoise_jump, weights(lambda g: 0.0, lambda g: 1.0), "get one number"),
    "renoise_jump: too small [shape]": (C.check_renoise_jump, spoilt(renoise_jump, down), "doubles height and width"),
    "renoise_jump: height and width exchanged [shape]": (C.check_renoise_jump, spoilt(renoise_jump, lambda a: a.mT), "Height and width are exchanged"),
    "renoise_jump: square images [shape]": (C.check_renoise_jump, square_only(renoise_jump), "is valid"),
    "renoise_jump: not from a single pixel [shape]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z if z.shape[2] * z.shape[3] > 1 else z[:0], noise, stage), "is valid"),
    "renoise_jump: one channel refused [shape]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z if z.shape[1] > 1 else z[:0], noise, stage), "is valid"),
    "renoise_jump: gamma = 1/3 refused [refusal]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z if stage.gamma < 0.33 else z[:0], noise, stage), "gamma 0.333.* is valid"),
    "renoise_jump: draws its own noise [random]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise + 0 * renoise_jump(z, noise, stage) + torch.randn_like(noise), stage), "nothing is drawn"),
    "renoise_jump: clamped [formula]": (C.check_renoise_jump, spoilt(renoise_jump, lambda a: a.clamp(-3, 3)), "is it clamped"),
    "renoise_jump: z clamped [formula]": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z.clamp(-1, 1), noise, stage), "is it clamped"),
    "renoise_jump: normalised noise [formula]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise if noise.square().sum((1, 2, 3)).max() < 1.1 else noise / noise.std(), stage), "is it clamped|nothing else"),
    "renoise_jump: a constant in the noise stays [formula]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise, stage) + 0.3 * noise.mean(), "alpha Up|covariance|correlated|share"),
    "renoise_jump: changes z [argument]": (
        C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), z.requires_grad or z.mul_(1.1))[0], "changes z"),
    "renoise_jump: float64 always [precision]": (C.check_renoise_jump, widened(renoise_jump), "has the dtype of the data"),
    "renoise_jump: float32 inside [precision]": (C.check_renoise_jump, rounded(renoise_jump), "no further"),
    "renoise_jump: detached [gradient]": (C.check_renoise_jump, detached(renoise_jump), "No gradient passes"),
    "renoise_jump: z detached [gradient]": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z.detach(), noise, stage), "part of the gradient"),
    "renoise_jump: no shape compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: ()), "Noise of one sample"),
    "renoise_jump: only the size compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: a.shape[-2:]), "Noise of one sample"),
    "renoise_jump: channels not compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: (a.shape[:-3], a.shape[-2:])), "Noise of one channel"),
    "renoise_jump: axes not counted [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: a.shape[-3:]), "Noise of one sample"),
    "renoise_jump: only batch and channels compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: a.shape[:2]), "Noise of height 1"),
    "renoise_jump: width not compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: a.shape[:3]), "Noise of width 1"),
    "renoise_jump: height not compared [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: (*a.shape[:2], a.shape[-1])), "Noise of height 1"),
    "renoise_jump: entries counted [refusal]": (C.check_renoise_jump, refusing(renoise_jump, lambda a: a.numel()), "height and width exchanged"),
    # the network's time
    "M26: local time, as the network's [formula]": (C.check_network_time, local_time, "local time itself"),
    "network_time: exchanged [formula]": (C.check_network_time, lambda u, s: s.t_start + (s.t_end - s.t_start) * u + 0 * network_time(u, s), "t_start and t_end are exchanged"),
    "network_time: no offset [formula]": (C.check_network_time, lambda u, s: network_time(u, s) - s.t_end, "starts at t_end"),
    "network_time: the noise level [formula]": (C.check_network_time, lambda u, s: u * (1 - s.start) + (1 - u) * (1 - s.end) + 0 * network_time(u, s), "the noise level"),
    "network_time: curved [formula]": (C.check_network_time, lambda u, s: network_time(u**2, s), "along a straight line"),
    "network_time: float64 always [precision]": (C.check_network_time, lambda u, s: network_time(u.double(), s), "dtype of the data"),
    "network_time: float32 inside [precision]": (C.check_network_time, rounded(network_time), "no further"),
    "network_time: detached [gradient]": (C.check_network_time, detached(network_time), "No gradient passes"),
    "network_time: above 1 [refusal]": (C.check_network_time, without(network_time, lambda u, s: u.ndim == 1 and u.max() > 1), "refused: 1.001"),
    "network_time: below 0 [refusal]": (C.check_network_time, without(network_time, lambda u, s: u.ndim == 1 and u.min() < 0), "refused: -0.001"),
    "network_time: refused only if all are [refusal]": (
        C.check_network_time, without(network_time, lambda u, s: u.ndim == 1 and 0 < ((u > 1) | (u < 0)).sum() < len(u)), "refused: 1.001"),
    "network_time: nan [refusal]": (C.check_network_time, without(network_time, lambda u, s: has_nan(u)), "refused: nan"),
    "network_time: clamped [refusal]": (C.check_network_time, lambda u, s: network_time(u.clamp(0, 1), s), "refused: 1.001"),
    "network_time: any shape [refusal]": (C.check_network_time, without(network_time, lambda u, s: u.ndim != 1), r"must be refused: \(b,\)"),
    # the loss
    "M18: the velocity's sign [formula]": (C.check_pyramid_loss, loss_with(sign=-1), "The sign of the velocity"),
    "M23: local time reversed [formula]": (C.check_pyramid_loss, loss_with(local=lambda u: 1 - u), "Local time is reversed: z"),
    "M26: local time for all stages [formula]": (C.check_pyramid_loss, loss_with(time=local_time), "told local time"),
    "stages in the wrong order in the batch [formula]": (C.check_pyramid_loss, loss_with(order=lambda parts: parts[::-1]), "Samples go to stages|coarsest"),
    "pyramid_loss: time reversed [formula]": (C.check_pyramid_loss, loss_with(time=lambda u, s: network_time(1 - u, s)), "reversed in the network's time"),
    "pyramid_loss: at the start always [formula]": (C.check_pyramid_loss, loss_with(local=lambda u: 0 * u + 1), "z is the start itself"),
    "pyramid_loss: velocity in the network's time [formula]": (C.check_pyramid_loss, loss_with(scale=lambda s: 1 / (s.t_start - s.t_end)), "it is not divided by the window"),
    "pyramid_loss: velocity times the window [formula]": (C.check_pyramid_loss, loss_with(scale=lambda s: s.t_start - s.t_end), "not multiplied by the window"),
    "pyramid_loss: the sum [formula]": (C.check_pyramid_loss, loss_with(after=lambda a: a.sum(1)), "not the sum"),
    "pyramid_loss: the root [formula]": (C.check_pyramid_loss, loss_with(after=lambda a: a.mean(1).sqrt()), "not its root"),
    "pyramid_loss: half [formula]": (C.check_pyramid_loss, loss_with(after=lambda a: a.mean(1) / 2), "half the squared distance"),
    "pyramid_loss: the mean of the batch [shape]": (C.check_pyramid_loss, spoilt(pyramid_loss, lambda a: a.mean()), "one number per sample"),
    "pyramid_loss: the mean of the batch for each [formula]": (C.check_pyramid_loss, spoilt(pyramid_loss, lambda a: a.mean().expand(len(a))), "not over the batch"),
    "pyramid_loss: shares ignored where equal ones divide [argument]": (
        C.check_pyramid_loss, lambda v, x, noise, u, found, shares=None, packed=False, **more: pyramid_loss(v, x, noise, u, found, shares if len(x) % len(found) or len(x) > 4 else None, packed, **more), r"Shares \(1, 3\)"),
    "pyramid_loss: without shares all samples in the last stage [argument]": (
        C.check_pyramid_loss, lambda v, x, noise, u, found, shares=None, packed=False, **more: pyramid_loss(
            v, x, noise, u, found[-1:] if shares is None and len(x) % len(found) == 0 else found, shares, packed, **more), "asks at its own size"),
    "pyramid_loss: packed wherever it can be [argument]": (
        C.check_pyramid_loss, lambda v, *args, packed=False, **more: pyramid_loss(v, *args, packed=packed or hasattr(v, "packed"), **more), "Without packed=True"),
    "pyramid_loss: packed ignored [argument]": (
        C.check_pyramid_loss, lambda v, x, noise, u, found, shares=None, packed=False, **more: pyramid_loss(v, x, noise, u, found, shares, **more), "packed=True asks velocity.packed"),
    "pyramid_loss: packed stage by stage [argument]": (
        C.check_pyramid_loss,
        lambda v, x, noise, u, found, shares=None, packed=False, **more: pyramid_loss(
            v if not packed else lambda z, t, **one: v.packed([z] * len(found), [t] * len(found), **{k: [a] * len(found) for k, a in one.items()})[0], x, noise, u, found, shares, **more),
        "velocity.packed once, not"),
    "pyramid_loss: packed without labels [argument]": (
        C.check_pyramid_loss,
        lambda v, x, noise, u, found, shares=None, packed=False, **more: pyramid_loss(
            v, x, noise, u, found, shares, packed, **(more | {"style": 0 * more["style"]} if packed else more)), "packed=True gives the same"),
    "pyramid_loss: packed with float64 times [precision]": (
        C.check_pyramid_loss, lambda v, *args, packed=False, **more: pyramid_loss(told_double(v) if packed else v, *args, packed=packed, **more), "t in the dtype of z"),
    "pyramid_loss: conditioning not handed on [argument]": (C.check_pyramid_loss, loss_with(given_to=lambda given, i: {}), "gets all conditioning by name"),
    "pyramid_loss: the label alone [argument]": (C.check_pyramid_loss, loss_with(given_to=lambda given, i: {k: a for k, a in given.items() if k == "label"}), "gets all conditioning by name"),
    "pyramid_loss: conditioning not in the last stage [argument]": (C.check_pyramid_loss, loss_with(given_to=lambda given, i: given if i < 2 else {}), "gets all conditioning by name"),
    "pyramid_loss: labels in another order [argument]": (C.check_pyramid_loss, loss_with(given_to=lambda given, i: {k: a.flip(0) for k, a in given.items()}), "in the order of the batch"),
    "pyramid_loss: float64 times to the network [precision]": (C.check_pyramid_loss, elsewhere(pyramid_loss, wide_times), "t in the dtype of z"),
    "pyramid_loss: float64 always [precision]": (C.check_pyramid_loss, widened(pyramid_loss), "dtype of the data"),
    "pyramid_loss: float32 inside [precision]": (C.check_pyramid_loss, rounded(pyramid_loss), "no further"),
    "pyramid_loss: detached [gradient]": (C.check_pyramid_loss, detached(pyramid_loss), "No gradient passes"),
    "pyramid_loss: half the gradient [gradient]": (C.check_pyramid_loss, loss_with(slope=lambda a: (a + a.detach()) / 2), "part of the gradient"),
    "pyramid_loss: the coarsest stage has no gradient [gradient]": (
        C.check_pyramid_loss, spoilt(pyramid_loss, lambda a: torch.cat([a[:1].detach(), a[1:]])), "part of the gradient"),
    "pyramid_loss: only the mean of an answer [constant]": (
        C.check_pyramid_loss, elsewhere(pyramid_loss, lambda v: lambda z, t, **given: v(z, t, **given).mean() + 0 * z), "The loss is the mean square"),
    "pyramid_loss: square images [shape]": (C.check_pyramid_loss, square_only(pyramid_loss, 1), "is valid"),
    "pyramid_loss: noise of one sample broadcast [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, noise, *a, **k: len(noise) < len(x)), "Noise of one sample"),
    "pyramid_loss: noise of one channel broadcast [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, noise, *a, **k: noise.shape[1] < x.shape[1]), "Noise of one channel"),
    "pyramid_loss: noise of one column broadcast [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, noise, *a, **k: noise.shape[3] < x.shape[3]), "Noise of (height|width) 1"),
    "pyramid_loss: u above 1 [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: u.ndim == 1 and u.max() > 1), "local time of 1.001"),
    "pyramid_loss: u = 0 [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: u.ndim == 1 and u.min() == 0), "local time of 0.0"),
    "pyramid_loss: u below 0 [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: u.ndim == 1 and u.min() < 0), "local time of -0.001"),
    "pyramid_loss: u nan [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: has_nan(u)), "local time of nan"),
    "pyramid_loss: u > 1 refused only if all [refusal]": (
        C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: (u > 1).any() and not (u > 1).all()), "local time of 1.001"),
    "pyramid_loss: one time for all [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: u.shape == (1,)), "One local time"),
    "pyramid_loss: times of two axes [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: u.ndim == 2), r"Times \(8, 1\)"),
    "pyramid_loss: too few times [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, *a, **k: 1 < len(u) < len(x)), "Seven local times"),
    "pyramid_loss: too few shares [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares and len(shares) < len(found)), "Two shares"),
    "pyramid_loss: too many shares [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares and len(shares) > len(found)), "Four shares"),
    "pyramid_loss: shares that do not divide [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares == (1, 1, 1)), "shares of 1, 1, 1"),
    "pyramid_loss: equal shares that do not divide [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares is None and len(x) % len(found)), "three stages alike"),
    "pyramid_loss: a share of 0 [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares and 0 in shares), "A share of 0"),
    "pyramid_loss: a negative share [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, n, u, found, shares=None, *a, **k: shares and min(shares) < 0), "A negative share"),
    "pyramid_loss: one label for all [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, *a, **k: len(k.get("label", x)) == 1), "One label"),
    "pyramid_loss: too few labels [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, *a, **k: len(k.get("label", x)) == 4 < len(x)), "Four labels"),
    "pyramid_loss: answers broadcast [refusal]": (C.check_pyramid_loss, elsewhere(pyramid_loss, expanding), "answers for one sample only"),
    # the sampler
    "M11: noise without the factor 2, in the sampler [formula]": (C.check_pyramid_sample, sample_with(first=1.0), "twice the mean, not the mean"),
    "M26: local time, in the sampler [formula]": (C.check_pyramid_sample, sample_with(time=local_time), "told local time"),
    "M28: a wasted last step [formula]": (C.check_pyramid_sample, sample_with(times=wasted), "none wasted"),
    "M29: the last step missing [end]": (C.check_pyramid_sample, sample_with(times=lambda n: [k / n for k in range(n, 0, -1)]), "Is a step missing"),
    "clamped between stages [formula]": (C.check_pyramid_sample, sample_with(between=lambda z: z.clamp(-1, 1)), "nothing is clamped"),
    "the first noise again at the jump [random]": (C.check_pyramid_sample, sample_with(again=True), "noise of the beginning comes again"),
    "no jump noise, in the sampler [formula]": (C.check_pyramid_sample, sample_with(jump=lambda z, noise, stage: stage.alpha * up(z)), "no fresh noise at the jump"),
    "pyramid_sample: noise with sqrt 2 [formula]": (C.check_pyramid_sample, sample_with(first=2**0.5), r"not sqrt\(2\) times"),
    "pyramid_sample: only enlarged [formula]": (C.check_pyramid_sample, sample_with(jump=lambda z, noise, stage: up(z)), "There is no jump"),
    "pyramid_sample: plus the velocity [formula]": (C.check_pyramid_sample, sample_with(sign=-1), "The sign of a step"),
    "pyramid_sample: steps in the network's time [formula]": (C.check_pyramid_sample, sample_with(step=lambda s: s.t_start - s.t_end), "not a difference of network times"),
    "pyramid_sample: asked at an old z [formula]": (C.check_pyramid_sample, sample_with(old=True), "Is the|newest|A step of Euler"),
    "pyramid_sample: time of the cleaner end [formula]": (C.check_pyramid_sample, sample_with(time=lambda u, s: network_time((u - 0.5).clamp(min=0), s)), "middle of a step|cleaner end|network_time"),
    "pyramid_sample: time rises [formula]": (C.check_pyramid_sample, sample_with(time=lambda u, s: network_time(1 - u, s)), "Local time rises"),
    "pyramid_sample: steps clamped [formula]": (C.check_pyramid_sample, sample_with(inner=lambda z: z.clamp(-2, 2)), "z is clamped"),
    "pyramid_sample: clamped to [-3, 3] at the end [end]": (C.check_pyramid_sample, sample_with(last=lambda z: z.clamp(-3, 3)), "The result is clamped"),
    "pyramid_sample: clamped to [0, 1] at the end [end]": (C.check_pyramid_sample, sample_with(last=lambda z: z.clamp(0, 1)), "The result is clamped"),
    "pyramid_sample: the jump of the stage that it leaves [formula]": (
        C.check_pyramid_sample,
        lambda velocity, noise, found, *args, **more: sample_with(jump=lambda z, n, stage: renoise_jump(z, n, found[found.index(stage) - 1]))(velocity, noise, found, *args, **more),
        "The jump takes the stage it leaves"),
    "pyramid_sample: the trajectory where stages start [trajectory]": (C.check_pyramid_sample, sample_with(early=True), "The trajectory holds where a stage starts"),
    "pyramid_sample: the trajectory clamped [trajectory]": (
        C.check_pyramid_sample, calls_then(lambda path: [z.clamp(-2, 2) for z in path]), "end clamped"),
    "pyramid_sample: the trajectory's middle repeated [trajectory]": (
        C.check_pyramid_sample, calls_then(lambda path: path if len(path) < 3 else [path[0], up(path[0]), *path[2:]]), "Entry 1 of the trajectory"),
    "pyramid_sample: the trajectory with the noise in front [trajectory]": (C.check_pyramid_sample, calls_then(lambda path: [path[0], *path]), "the list of z at the end of every stage"),
    "pyramid_sample: the trajectory backwards [trajectory]": (C.check_pyramid_sample, calls_then(lambda path: path[::-1]), "Entry 0 of the trajectory"),
    "pyramid_sample: the trajectory at full size [trajectory]": (
        C.check_pyramid_sample, calls_then(lambda path: [up(path[0]) if len(path) == 2 else path[0], *path[1:]]), "Entry 0 of the trajectory"),
    "pyramid_sample: always the trajectory [trajectory]": (C.check_pyramid_sample, calls(trajectory=lambda _: True), "Without trajectory=True"),
    "pyramid_sample: never the trajectory [argument]": (C.check_pyramid_sample, calls(trajectory=lambda _: False), "trajectory=True returns the list"),
    "pyramid_sample: drawn at every step, last one used [random]": (C.check_pyramid_sample, drawn_at_every_step, "drawn once for each jump"),
    "pyramid_sample: all drawn at first, the largest first [random]": (C.check_pyramid_sample, drawn_ahead, "the coarsest comes first"),
    "pyramid_sample: uniform noise [random]": (C.check_pyramid_sample, sample_with(draw=lambda z, g: torch.rand(z.shape, generator=g, dtype=z.dtype)), "noise of a jump is uniform"),
    "pyramid_sample: noise of another scale [random]": (C.check_pyramid_sample, sample_with(draw=lambda z, g: 2 * torch.randn(z.shape, generator=g, dtype=z.dtype)), "drawn once for each jump"),
    "pyramid_sample: noise drawn in float32 [random]": (C.check_pyramid_sample, sample_with(draw=lambda z, g: torch.randn(z.shape, generator=g).to(z.dtype)), "drawn in float32"),
    "pyramid_sample: noise drawn in float64 [random]": (
        C.check_pyramid_sample, sample_with(draw=lambda z, g: torch.randn(z.shape, generator=g, dtype=torch.float64).to(z.dtype)), "For float32 noise"),
    "pyramid_sample: no noise unless given [random]": (C.check_pyramid_sample, sample_with(draw=lambda z, g: 0 * z), "here it is 0"),
    "pyramid_sample: the generator ignored [random]": (C.check_pyramid_sample, calls(generator=lambda g: None), "comes from the generator"),
    "pyramid_sample: another generator with its seed [random]": (C.check_pyramid_sample, calls(generator=restarted), "does not move on"),
    "pyramid_sample: a copy of the generator [random]": (C.check_pyramid_sample, calls(generator=copied), "does not move on"),
    "pyramid_sample: the generator seeded again [random]": (
        C.check_pyramid_sample, calls(generator=lambda g: g and g.manual_seed(g.initial_seed())), "it is seeded again"),
    "pyramid_sample: a seed of its own [random]": (
        C.check_pyramid_sample, calls(generator=lambda g: g or torch.Generator().manual_seed(0)), "torch's own random numbers"),
    "pyramid_sample: draws although jumps are given [random]": (
        C.check_pyramid_sample, lambda velocity, noise, found, steps, jumps=None, generator=None, trajectory=False: (
            pyramid_sample(velocity, noise, found, steps, jumps, generator, trajectory), jumps and torch.randn(1, generator=generator))[0],
        "With jumps given, nothing is drawn"),
    "pyramid_sample: one number too many is drawn [random]": (
        C.check_pyramid_sample, lambda velocity, noise, found, steps, jumps=None, generator=None, trajectory=False: (
            pyramid_sample(velocity, noise, found, steps, jumps, generator, trajectory), jumps is None and torch.randn(1, generator=generator))[0],
        "nothing else is drawn"),
    "pyramid_sample: jumps ignored [argument]": (C.check_pyramid_sample, sample_without_jumps, "comes renoise_jump"),
    "pyramid_sample: one noise for all samples [random]": (
        C.check_pyramid_sample, sample_with(draw=lambda z, g: torch.randn(z[:1].shape, generator=g, dtype=z.dtype).expand_as(z)), "one for all samples"),
    "pyramid_sample: empties the list of jumps [argument]": (C.check_pyramid_sample, empties, "caller's list of jumps"),
    "pyramid_sample: changes the list of steps [argument]": (C.check_pyramid_sample, pads, "caller's list of steps"),
    "pyramid_sample: empties the list of stages [argument]": (
        C.check_pyramid_sample, lambda v, n, found, *args, **more: (pyramid_sample(v, n, found, *args, **more), found.pop())[0], "caller's list of stages"),
    "pyramid_sample: changes the noise [argument]": (C.check_pyramid_sample, in_place, "The noise must stay"),
    "pyramid_sample: steps of the first stage for all [argument]": (
        C.check_pyramid_sample, calls(steps=lambda n: [n[0]] * len(n) if isinstance(n, list) and min(n) > 0 else n), r"Steps \[3, 2, 1\]"),
    "pyramid_sample: int refused [refusal]": (C.check_pyramid_sample, calls(steps=lambda n: n if isinstance(n, list) else []), "steps = 2 is valid"),
    "pyramid_sample: int for the last stage alone [argument]": (
        C.check_pyramid_sample, lambda velocity, noise, found, steps, *args, **more: pyramid_sample(
            velocity, noise, found, steps if isinstance(steps, list) or steps < 1 else [1] * (len(found) - 1) + [steps], *args, **more), "An int is meant for every stage"),
    "pyramid_sample: one stage refused [refusal]": (C.check_pyramid_sample, calls(stages=lambda found: found if len(found) > 1 else []), "1 stages"),
    "pyramid_sample: no jumps refused with one stage [refusal]": (
        C.check_pyramid_sample, lambda velocity, noise, found, steps, jumps=None, *args, **more: pyramid_sample(
            velocity, noise, found if jumps != [] else [], steps, jumps, *args, **more), "1 stages"),
    "pyramid_sample: square images [shape]": (C.check_pyramid_sample, square_only(pyramid_sample, 1), "is valid"),
    "pyramid_sample: coarsest size [end]": (C.check_pyramid_sample, calls_then(lambda path: path, last=lambda path: path[0]), "noise's shape|result has"),
    "pyramid_sample: times of shape () [shape]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z, t[0])), "one time for each sample"),
    "pyramid_sample: float32 times [precision]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z, t.float())), "t in the dtype of z"),
    "pyramid_sample: float64 times [precision]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z, t.double())), "t in the dtype of z"),
    "pyramid_sample: float64 always [precision]": (C.check_pyramid_sample, widened(pyramid_sample), "dtype of the data"),
    "pyramid_sample: float32 inside [precision]": (C.check_pyramid_sample, rounded(pyramid_sample), "no further"),
    "pyramid_sample: detached [gradient]": (C.check_pyramid_sample, detached(pyramid_sample), "No gradient passes"),
    "pyramid_sample: detached between stages [gradient]": (C.check_pyramid_sample, sample_with(jump=lambda z, noise, stage: renoise_jump(z.detach(), noise, stage)), "part of the gradient"),
    "pyramid_sample: detached steps [gradient]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z.detach(), t)), "part of the gradient"),
    "pyramid_sample: a network of the time alone [constant]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z, t).mean() + 0 * z), "A step of Euler|sample mean|The result"),
    "pyramid_sample: too few steps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, list) and len(steps) == 2 < len(f)), "Two numbers of steps"),
    "pyramid_sample: too many steps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, list) and len(steps) > len(f)), "Four numbers of steps"),
    "pyramid_sample: a list of one for all [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, list) and len(steps) == 1 < len(f)), "One number of steps"),
    "pyramid_sample: a stage without steps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: steps == [2, 0, 2]), "A stage without steps"),
    "pyramid_sample: only the first number of steps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, list) and len(steps) == len(f) and steps[0] > 0 >= min(steps)), "A stage without steps"),
    "pyramid_sample: no steps in the last stage [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: steps == [2, 2, 0]), "A last stage without steps"),
    "pyramid_sample: negative steps in a list [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, list) and min(steps) < 0), "A negative number of steps"),
    "pyramid_sample: steps = 0 [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: steps == 0), "steps = 0"),
    "pyramid_sample: steps = -1 [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, steps, *a, **k: isinstance(steps, int) and steps < 0), "steps = -1"),
    "pyramid_sample: too few jumps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, s, jumps=None, *a, **k: jumps and len(jumps) < len(f) - 1), "One noise for two jumps"),
    "pyramid_sample: an empty list of jumps draws [refusal]": (
        C.check_pyramid_sample, lambda v, n, f, s, jumps=None, *args, **more: pyramid_sample(v, n, f, s, jumps or None, *args, **more), "An empty list of noises"),
    "pyramid_sample: too many jumps [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, s, jumps=None, *a, **k: jumps and len(jumps) > len(f) - 1 > 0), "Three noises"),
    "pyramid_sample: jumps for one stage [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, f, s, jumps=None, *a, **k: jumps and len(f) == 1), "One noise for no jump"),
    "pyramid_sample: odd widths [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, *a, **k: n.shape[3] == 6), "A width that cannot"),
    "pyramid_sample: odd heights [refusal]": (C.check_pyramid_sample, without(pyramid_sample, lambda v, n, *a, **k: n.shape[2] == 2 and n.shape[3] == 8), "A height that cannot"),
    # distillation
    "distillation: the second answer only [formula]": (C.check_stage_target, target_with(mix=lambda a, b: b), "the teacher's second answer"),
    "distillation: quarter steps [formula]": (C.check_stage_target, target_with(first=0.25, back=0.25), "steps are too short"),
    "distillation: local times [formula]": (C.check_stage_target, target_with(time=local_time), "told local times"),
    "distillation: a gradient to the teacher [gradient]": (C.check_stage_target, target_with(leave=True), "A target is a constant"),
    "stage_target: the first answer only [formula]": (C.check_stage_target, target_with(mix=lambda a, b: a), "the teacher's first answer"),
    "stage_target: the sum [formula]": (C.check_stage_target, target_with(mix=lambda a, b: a + b), "sum of both answers"),
    "stage_target: the other sign [formula]": (C.check_stage_target, target_with(mix=lambda a, b: -(a + b) / 2), "The sign: the velocity"),
    "stage_target: unequal weights [formula]": (C.check_stage_target, target_with(mix=lambda a, b: 0.4 * a + 0.6 * b), "is where two teacher steps"),
    "stage_target: the landing point [formula]": (
        C.check_stage_target, lambda teacher, z, u, n, stage, **given: z - stage_target(teacher, z, u, n, stage, **given) / n, "where the student must land"),
    "stage_target: teacher steps of 1 / n [formula]": (C.check_stage_target, target_with(first=1.0), "takes whole steps"),
    "stage_target: the teacher walks backwards [formula]": (C.check_stage_target, target_with(sign=-1), "The sign of the teacher's step"),
    "stage_target: the second step from z [formula]": (C.check_stage_target, target_with(first=0.0), "not from z again"),
    "stage_target: the second step at u [formula]": (C.check_stage_target, target_with(back=0.0), "not at u again"),
    "stage_target: steps in the network's time [formula]": (
        C.check_stage_target, target_with(middle=lambda z, a, n, s: z - (s.t_start - s.t_end) * a / (2 * n)), "not a difference of network times"),
    "stage_target: the second step clamped [formula]": (C.check_stage_target, target_with(middle=lambda z, a, n, s: (z - a / (2 * n)).clamp(-1, 1)), "second step starts at z"),
    "stage_target: conditioning not handed on at all [argument]": (C.check_stage_target, target_with(more=lambda given, k: {}), "gets all conditioning by name"),
    "stage_target: conditioning not handed to the second [argument]": (C.check_stage_target, target_with(more=lambda given, k: {} if k else given), "gets all conditioning by name"),
    "stage_target: one label for both [argument]": (C.check_stage_target, target_with(more=lambda given, k: given | {"label": given["label"] * 0} if k and given else given), "two teacher steps"),
    "stage_target: float64 always [precision]": (C.check_stage_target, widened(stage_target), "dtype of the data"),
    "stage_target: float32 inside [precision]": (C.check_stage_target, rounded(stage_target), "no further"),
    "stage_target: float64 times [precision]": (
        C.check_stage_target, lambda teacher, *args, **given: stage_target(wide_times(teacher), *args, **given), "t in the dtype of z"),
    "stage_target: a gradient to z [gradient]": (
        C.check_stage_target, lambda teacher, z, u, n, stage, **given: stage_target(teacher, z, u, n, stage, **given) + 0 * z, "A target is a constant"),
    "stage_target: n = 0 [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: n == 0), "n = 0"),
    "stage_target: a negative n [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: n < 0), "n = -4"),
    "stage_target: u below half a step [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: u.ndim == 1 and 0 < u.min() < 0.5 / n), "local time of 0.12"),
    "stage_target: u below 0 [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: u.ndim == 1 and u.min() < 0), "local time of -0.001"),
    "stage_target: u above 1 [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: u.ndim == 1 and u.max() > 1), "local time of 1.001"),
    "stage_target: u nan [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: has_nan(u)), "local time of nan"),
    "stage_target: one u for all [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: u.shape == (1,)), "One local time"),
    "stage_target: u of two axes [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: u.ndim == 2), "Times"),
    "stage_target: the teacher's answers broadcast [refusal]": (
        C.check_stage_target, lambda teacher, *args, **given: stage_target(expanding(teacher), *args, **given), "A teacher that answers for one sample"),
    "stage_target: square images [shape]": (C.check_stage_target, square_only(stage_target, 1), "is valid"),
    "distillation: the teacher's own velocity [formula]": (C.check_pyramid_distillation_loss, distil_with(
        lambda teacher, z, u, n, stage, **given: (stage_target(teacher, z, u, n, stage, **given), teacher(z, network_time(u, stage).to(z.dtype), **given))[1]), "teacher's one answer"),
    "pyramid_distillation_loss: teacher steps too short [formula]": (
        C.check_pyramid_distillation_loss, distil_with(lambda teacher, z, u, n, stage, **given: stage_target(teacher, z, u, 2 * n, stage, **given)), "half as long"),
    "pyramid_distillation_loss: local time (index - 1) / n [formula]": (
        C.check_pyramid_distillation_loss, distil_with(local=lambda index, n: (index - 1).clamp(min=0.5) / n), "is asked at z"),
    "pyramid_distillation_loss: index for local time [formula]": (
        C.check_pyramid_distillation_loss, distil_with(local=lambda index, n: 1 + (index - 1) / n * 0), "z is the start itself"),
    "pyramid_distillation_loss: local times to the student [formula]": (C.check_pyramid_distillation_loss, distil_with(time=local_time), "told local time"),
    "pyramid_distillation_loss: the sum [formula]": (C.check_pyramid_distillation_loss, distil_with(after=lambda a: a.sum(1)), "mean squared distance"),
    "pyramid_distillation_loss: half [formula]": (C.check_pyramid_distillation_loss, distil_with(after=lambda a: a.mean(1) / 2), "half the squared distance"),
    "pyramid_distillation_loss: the root [formula]": (C.check_pyramid_distillation_loss, distil_with(after=lambda a: a.mean(1).sqrt()), "not its root"),
    "pyramid_distillation_loss: the mean of the batch [shape]": (C.check_pyramid_distillation_loss, spoilt(pyramid_distillation_loss, lambda a: a.mean()), "one number per sample"),
    "pyramid_distillation_loss: the mean of the batch for each [formula]": (
        C.check_pyramid_distillation_loss, spoilt(pyramid_distillation_loss, lambda a: a.mean().expand(len(a))), "not over the batch"),
    "pyramid_distillation_loss: detached [gradient]": (C.check_pyramid_distillation_loss, detached(pyramid_distillation_loss), "No gradient passes"),
    "pyramid_distillation_loss: a gradient to the teacher [gradient]": (C.check_pyramid_distillation_loss, distil_with(target_with(leave=True), constant=False), "No gradient may reach the teacher"),
    "pyramid_distillation_loss: student and teacher exchanged [argument]": (
        C.check_pyramid_distillation_loss, lambda student, teacher, *args, **more: pyramid_distillation_loss(teacher, student, *args, **more), "Student and teacher are exchanged"),
    "pyramid_distillation_loss: the teacher without conditioning [argument]": (
        C.check_pyramid_distillation_loss, distil_with(lambda teacher, z, u, n, stage, **given: stage_target(teacher, z, u, n, stage)), "The teacher gets all conditioning"),
    "pyramid_distillation_loss: shares ignored [argument]": (
        C.check_pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, shares=None, **more: pyramid_distillation_loss(
            s, t, x, noise, index, found, n, shares[::-1] if shares else None, **more), "Shares"),
    "pyramid_distillation_loss: float64 always [precision]": (C.check_pyramid_distillation_loss, widened(pyramid_distillation_loss), "dtype of the data"),
    "pyramid_distillation_loss: float32 inside [precision]": (C.check_pyramid_distillation_loss, rounded(pyramid_distillation_loss), "no further"),
    "pyramid_distillation_loss: float64 times [precision]": (
        C.check_pyramid_distillation_loss, lambda s, t, *args, **more: pyramid_distillation_loss(wide_times(s), t, *args, **more), "t in the dtype of z"),
    "pyramid_distillation_loss: square images [shape]": (C.check_pyramid_distillation_loss, square_only(pyramid_distillation_loss, 2), "is valid"),
    "pyramid_distillation_loss: n = 0 [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, *a, **k: n == 0), "n = 0"),
    "pyramid_distillation_loss: a negative n [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, *a, **k: n < 0), "n = -4"),
    "pyramid_distillation_loss: fractional n [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, *a, **k: n == 2.5), "n = 2.5"),
    "pyramid_distillation_loss: index 0 [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, *a, **k: index.min() == 0), "One index of 0"),
    "pyramid_distillation_loss: a negative index [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, *a, **k: index.min() < 0), "One index of -1"),
    "pyramid_distillation_loss: index above n [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, *a, **k: index.max() > n), "One index of 5"),
    "pyramid_distillation_loss: one index for all [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, *a, **k: index.shape == (1,)), "One index for eight"),
    "pyramid_distillation_loss: fractions [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, *a, **k: index.is_floating_point()), "Fractions"),
    "pyramid_distillation_loss: noise broadcast [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, *a, **k: len(noise) < len(x)), "Noise of one sample"),
    "pyramid_distillation_loss: a share of 0 [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, index, found, n, shares=None, **k: shares and 0 in shares), "A share of 0"),
    "pyramid_distillation_loss: one label for all [refusal]": (C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, *a, **k: len(k.get("label", x)) == 1), "One label"),
    "pyramid_distillation_loss: the student's answers broadcast [refusal]": (
        C.check_pyramid_distillation_loss, lambda s, t, *args, **more: pyramid_distillation_loss(expanding(s), t, *args, **more), "A student that answers for one sample"),
    "pyramid_distillation_loss: the teacher's answers broadcast [refusal]": (
        C.check_pyramid_distillation_loss, lambda s, t, *args, **more: pyramid_distillation_loss(s, expanding(t), *args, **more), "A teacher that answers for one sample"),
    # clamps, which large numbers show, and what is not finite
    "stages: small gammas refused [refusal]": (C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts, gamma if gamma > 1e-3 else 0), "gamma 0.0001 is valid"),
    "stages: gamma up to 1/3 + 1e-5 [refusal]": (C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts, 1 / 3 if 1 / 3 < gamma < 1 / 3 + 1e-5 else gamma), "a little above 1/3"),
    "stages: the first cut nearly 0 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) > 1 and 0 < cuts[0] < 2e-3), "first cut other than 0"),
    "stages: the last cut nearly 1 [refusal]": (C.check_stages, without(stages, lambda cuts, gamma=1 / 3: len(cuts) > 1 and 0.99 < cuts[-1] < 1), "last cut other than 1"),
    "stages: more than four refused [refusal]": (C.check_stages, lambda cuts, gamma=1 / 3: stages(cuts if len(cuts) < 6 else [], gamma), "is valid"),
    "stages: near neighbours refused [refusal]": (
        C.check_stages, lambda cuts, gamma=1 / 3: stages([] if any(0 < b - a < 0.01 for a, b in zip(cuts, cuts[1:])) and cuts == sorted(cuts) else cuts, gamma), "is valid"),
    "stages: alpha = s [formula]": (C.check_stages, stages_with(alpha=lambda s, e, c: s), "alpha is not s itself"),
    "stages: alpha from this stage's end [formula]": (
        C.check_stages, lambda cuts, gamma=1 / 3: [a._replace(alpha=a.start / a.end) if a.start else a for a in stages(cuts, gamma)], "end, in alpha"),
    "stages: nan in the first stage [end]": (C.check_stages, stages_with(first=(0.0, math.nan, 0.0)), "nan or inf"),
    "down: clamped [formula]": (C.check_down, spoilt(down, lambda a: a.clamp(-3, 3)), "It is clamped"),
    "up: clamped from above [formula]": (C.check_up, spoilt(up, lambda a: a.clamp(max=100)), "It is clamped"),
    "stage_pair: clamped from above at 50 [formula]": (C.check_stage_pair, spoilt(stage_pair, each(lambda a: a.clamp(max=50))), "clamped"),
    "stage_pair: the end clamped from below [formula]": (C.check_stage_pair, spoilt(stage_pair, lambda pair: (pair[0], pair[1].clamp(min=-20))), "clamped"),
    "stage_pair: the last end without data [end]": (
        C.check_stage_pair, lambda x, noise, i, found: (lambda a, b: (a, b if i + 1 < len(found) or len(found) == 1 else 0 * b))(*stage_pair(x, noise, i, found)), "The end has no data"),
    "stage_pair: nan in the first start [end]": (
        C.check_stage_pair, lambda x, noise, i, found: (lambda a, b: (a * (math.nan if i == 0 else 1), b))(*stage_pair(x, noise, i, found)), "nan or inf"),
    "stage_pair: noise normalised [formula]": (C.check_stage_pair, lambda x, noise, i, found: stage_pair(x, noise / noise.std(), i, found), "nan or inf"),
    "stage_pair: one noise for all in stage 0 [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: i == 0 and len(n) == 1 < len(x)), "Noise of one sample must be refused, in stage 0"),
    "stage_pair: one image for all noise [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: len(x) == 1 < len(n)), "An x of one sample"),
    "stage_pair: one channel of x for all [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: x.ndim == 4 and x.shape[1] == 1 < n.shape[1]), "An x of one channel"),
    "stage_pair: noise for two of three [refusal]": (C.check_stage_pair, without(stage_pair, lambda x, n, i, found: len(n) == 2 and n.ndim == 4), "Noise of two samples"),
    "stage_pair: RuntimeError for noise of two of three [refusal]": (
        C.check_stage_pair, lambda x, n, i, found: (n.ndim == 4 and x.ndim == 4 and len(n) == 2 and x + n, stage_pair(x, n, i, found))[1], "Noise of two samples.*not RuntimeError"),
    "stage_pair: negative i where sides can be halved [refusal]": (
        C.check_stage_pair, without(stage_pair, lambda x, n, i, found: i < 0 and x.shape[2] % 2 ** (len(found) - 1 - i) == 0), "Stage -1 of 3"),
    "renoise_jump: z clamped at 7 [formula]": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z.clamp(-7, 7), noise, stage), "is it clamped"),
    "renoise_jump: noise clamped from above [formula]": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise.clamp(max=50), stage), "is it clamped"),
    "renoise_jump: one z for all noise [refusal]": (C.check_renoise_jump, without(renoise_jump, lambda z, n, stage: len(z) == 1 < len(n)), "A z of one sample"),
    "renoise_jump: one channel of z for all [refusal]": (C.check_renoise_jump, without(renoise_jump, lambda z, n, stage: z.ndim == 4 and z.shape[1] == 1 < n.shape[1]), "A z of one channel"),
    "renoise_jump: noise for two of three [refusal]": (C.check_renoise_jump, without(renoise_jump, lambda z, n, stage: len(n) == 2 < len(z)), "Noise of two samples"),
    "renoise_jump: noise for four of three [refusal]": (C.check_renoise_jump, without(renoise_jump, lambda z, n, stage: len(n) == 4 > len(z)), "Noise of one sample too many"),
    "renoise_jump: one noise for all [random]": (C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), renoise_jump(z, noise[:1].expand_as(noise), stage))[1], "Each sample has its own noise"),
    "renoise_jump: twice the weight of the mean [formula]": (C.check_renoise_jump, weights(lambda g: F(1 + g), lambda g: 2 * F(1 - 3 * g)), "Fresh noise has variance"),
    "renoise_jump: end for alpha [formula]": (C.check_renoise_jump, jump_with(alpha=lambda stage: stage.end), "this stage's end"),
    "renoise_jump: alpha and beta exchanged [formula]": (
        C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise, stage._replace(alpha=stage.beta, beta=stage.alpha)), "alpha and beta are exchanged"),
    "renoise_jump: gammas below 0.05 taken for 0.05 [argument]": (C.check_renoise_jump, lambda z, noise, stage: (renoise_jump(z, noise, stage), jump_with()(z, noise, stage._replace(gamma=max(stage.gamma, 0.05))))[1], "Fresh noise has variance"),
    "renoise_jump: gammas above 0.28 taken for 1/3 [argument]": (C.check_renoise_jump, lambda z, noise, stage: jump_with()(z, noise, stage._replace(gamma=stage.gamma if stage.gamma < 0.28 else 1 / 3)), "gamma is ignored|Fresh noise has variance"),
    "renoise_jump: nan [end]": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z, noise, stage) * math.nan, "nan or inf"),
    "network_time: a tolerance of 0.05 [refusal]": (C.check_network_time, without(network_time, lambda u, s: u.ndim == 1 and -0.05 < u.min() and u.max() < 1.05 and not 0 <= u.min() <= u.max() <= 1), "refused: 1.001"),
    "network_time: u = 1 refused [refusal]": (C.check_network_time, lambda u, s: network_time(u if u.ndim != 1 or u.max() < 1 else u[:, None], s), "is valid"),
    "pyramid_loss: x detached [gradient]": (C.check_pyramid_loss, lambda v, x, *args, **more: pyramid_loss(v, x.detach(), *args, **more), "gradient for x"),
    "pyramid_loss: noise detached [gradient]": (C.check_pyramid_loss, lambda v, x, noise, *args, **more: pyramid_loss(v, x, noise.detach(), *args, **more), "gradient for noise"),
    "pyramid_loss: u detached [gradient]": (C.check_pyramid_loss, lambda v, x, noise, u, *args, **more: pyramid_loss(v, x, noise, u.detach(), *args, **more), "gradient for u"),
    "pyramid_loss: z detached [gradient]": (C.check_pyramid_loss, elsewhere(pyramid_loss, lambda v: lambda z, t, **given: v(z.detach(), t, **given)), "gradient for x"),
    "pyramid_loss: u clamped at 1e-3 [formula]": (C.check_pyramid_loss, lambda v, x, noise, u, *args, **more: pyramid_loss(v, x, noise, u if u.ndim != 1 or u.min() <= 0 else torch.where(u < 1e-3, 1e-3, u), *args, **more), "is asked at z"),
    "pyramid_loss: clamped at 100 [formula]": (C.check_pyramid_loss, spoilt(pyramid_loss, lambda a: a.clamp(max=100)), "The loss is clamped"),
    "pyramid_loss: z clamped at 4 [formula]": (C.check_pyramid_loss, elsewhere(pyramid_loss, lambda v: lambda z, t, **given: v(z.clamp(-4, 4), t, **given)), "z is clamped"),
    "pyramid_loss: label and style alone [argument]": (C.check_pyramid_loss, loss_with(given_to=lambda given, i: {k: a for k, a in given.items() if k in ("label", "style")}), "gets all conditioning by name"),
    "pyramid_loss: packed answers broadcast [refusal]": (
        C.check_pyramid_loss, lambda v, *args, packed=False, **more: pyramid_loss(packed_expanding(v) if packed else v, *args, packed=packed, **more), "A packed network that answers"),
    "pyramid_loss: one channel of x for all [refusal]": (C.check_pyramid_loss, without(pyramid_loss, lambda v, x, noise, *a, **k: x.ndim == 4 and x.shape[1] == 1 < noise.shape[1]), "An x of one channel"),
    "pyramid_sample: the trajectory detached [trajectory]": (C.check_pyramid_sample, calls_then(lambda path: [*(z.detach() for z in path[:-1]), path[-1]]), "the trajectory.*part of the gradient"),
    "pyramid_sample: the trajectory in float64 [trajectory]": (C.check_pyramid_sample, calls_then(lambda path: [z.double() for z in path]), "of the trajectory has the noise's dtype"),
    "pyramid_sample: all in float64 [precision]": (
        C.check_pyramid_sample, lambda v, noise, found, steps, jumps=None, generator=None, trajectory=False: each(lambda z: z.to(noise.dtype))(pyramid_sample(
            v, noise.double(), found, steps, jumps and [a.double() for a in jumps], generator, trajectory)), "z in the dtype of the noise|For float32 noise"),
    "pyramid_sample: no generator for a drawn trajectory [trajectory]": (
        C.check_pyramid_sample, lambda v, noise, found, steps, jumps=None, generator=None, trajectory=False: pyramid_sample(
            v, noise, found, steps, jumps, None if trajectory and jumps is None else generator, trajectory), "trajectory=True changes the result"),
    "pyramid_sample: a seed of its own for a trajectory [trajectory]": (
        C.check_pyramid_sample, lambda v, noise, found, steps, jumps=None, generator=None, trajectory=False: pyramid_sample(
            v, noise, found, steps, jumps, torch.Generator().manual_seed(0) if trajectory else generator, trajectory), "trajectory=True changes the result"),
    "pyramid_sample: one step each for a trajectory with an int [trajectory]": (
        C.check_pyramid_sample, lambda v, noise, found, steps, jumps=None, generator=None, trajectory=False: pyramid_sample(
            v, noise, found, min(1, steps) if trajectory and isinstance(steps, int) else steps, jumps, generator, trajectory), "trajectory=True changes the result"),
    "pyramid_sample: one step each for an int without jumps [argument]": (
        C.check_pyramid_sample, lambda v, noise, found, steps, jumps=None, generator=None, trajectory=False: pyramid_sample(
            v, noise, found, min(1, steps) if jumps is None and isinstance(steps, int) else steps, jumps, generator, trajectory), "An int is meant"),
    "pyramid_sample: the answer divided in place [argument]": (C.check_pyramid_sample, divides_the_answer, "answer is changed in place"),
    "pyramid_sample: z clamped from below [formula]": (C.check_pyramid_sample, sample_with(inner=lambda z: z.clamp(min=-5)), "z is clamped|The result is clamped"),
    "pyramid_sample: z clamped at 50 [formula]": (C.check_pyramid_sample, sample_with(inner=lambda z: z.clamp(-50, 50)), "z is clamped"),
    "pyramid_sample: noise clamped from below [formula]": (C.check_pyramid_sample, calls(noise=lambda a: a.clamp(min=-6)), "starts from the noise|z is clamped"),
    "pyramid_sample: velocity clamped at 20 [formula]": (C.check_pyramid_sample, calls(velocity=lambda v: lambda z, t: v(z, t).clamp(-20, 20)), "answer is clamped"),
    "pyramid_sample: u rises from 1 / n [formula]": (C.check_pyramid_sample, sample_with(times=lambda n: [k / n for k in range(1, n + 2)], sign=-1), "1 to 1 / n: yours rises"),
    "pyramid_sample: the window of the first stage [formula]": (
        C.check_pyramid_sample, lambda v, noise, found, *args, **more: sample_with(time=lambda u, s: network_time(u, found[0]))(v, noise, found, *args, **more), "time of stage 0 in stage 1"),
    "pyramid_sample: the window of the next stage [formula]": (
        C.check_pyramid_sample, lambda v, noise, found, *args, **more: sample_with(time=lambda u, s: network_time(u, found[min(found.index(s) + 1, len(found) - 1)]))(v, noise, found, *args, **more), "time of stage 1 in stage 0"),
    "pyramid_sample: noise of the old size, enlarged [random]": (
        C.check_pyramid_sample, sample_with(draw=lambda z, g: up(torch.randn(down(z).shape, generator=g, dtype=z.dtype))), "alike in each block"),
    "stage_target: a negative n for valid times [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: n == -4 and bool((u == 0.5).all())), "n = -4"),
    "stage_target: a fractional n [refusal]": (C.check_stage_target, without(stage_target, lambda t, z, u, n, s, **k: n == 2.5), "n = 2.5"),
    "stage_target: clamped at 5 [formula]": (C.check_stage_target, spoilt(stage_target, lambda a: a.clamp(-5, 5)), "The target is clamped"),
    "stage_target: label and style alone [argument]": (C.check_stage_target, target_with(more=lambda given, k: {n: a for n, a in given.items() if n != "any"}), "gets all conditioning by name"),
    "pyramid_distillation_loss: x detached [gradient]": (C.check_pyramid_distillation_loss, lambda s, t, x, *args, **more: pyramid_distillation_loss(s, t, x.detach(), *args, **more), "gradient for x"),
    "pyramid_distillation_loss: noise detached [gradient]": (
        C.check_pyramid_distillation_loss, lambda s, t, x, noise, *args, **more: pyramid_distillation_loss(s, t, x, noise.detach(), *args, **more), "gradient for noise"),
    "pyramid_distillation_loss: z detached [gradient]": (
        C.check_pyramid_distillation_loss, lambda s, t, *args, **more: pyramid_distillation_loss(lambda z, time, **given: s(z.detach(), time, **given), t, *args, **more), "gradient for x"),
    "pyramid_distillation_loss: z clamped at 4 [formula]": (
        C.check_pyramid_distillation_loss, lambda s, t, *args, **more: pyramid_distillation_loss(lambda z, time, **given: s(z.clamp(-4, 4), time, **given), t, *args, **more), "z is clamped"),
    "pyramid_distillation_loss: one channel of x for all [refusal]": (
        C.check_pyramid_distillation_loss, without(pyramid_distillation_loss, lambda s, t, x, noise, *a, **k: x.ndim == 4 and x.shape[1] == 1 < noise.shape[1]), "An x of one channel"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


def sliced(x):
    return sum(x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4


def in_numpy(cuts, gamma=1 / 3):
    """Arrays, and numpy's numbers."""
    stages(cuts, gamma)
    e, ends, c = np.array(cuts[:-1], dtype=float), np.array(cuts[1:], dtype=float), np.sqrt(1 + 1 / gamma)
    alpha = 1 / (c * (1 - e) + e)
    starts = alpha * e
    alpha[0] = 1.0
    beta = np.where(e > 0, (1 - starts) / np.sqrt(1 + gamma), 0.0)
    t = 1 - np.concatenate([[0.0], np.cumsum(ends - starts) / np.sum(ends - starts)])
    return [Stage(*row) for row in zip(starts, ends, alpha, beta, [gamma] * len(e), t, t[1:])]


def from_the_shift(cuts, gamma=1 / 3):
    """SD3's shift of the noise level, float64 tensors, and tuples."""
    stages(cuts, gamma)
    c, found, t = math.sqrt(1 + 1 / gamma), [], 1
    levels = [1.0] + [shifted(rectified_flow, c)(exact(1 - e))[1].item() for e in cuts[1:-1]]
    total = math.fsum(level - (1 - e) for level, e in zip(levels, cuts[1:]))
    for i, (level, e) in enumerate(zip(levels, cuts[1:])):
        before, t_end = cuts[i], t - (level - 1 + e) / total
        alpha, beta = (
            ((1 - level) / before, (1 - level) / before * (1 - before) / math.sqrt(gamma)) if i else (1, 0)
        )
        found.append(Stage(1 - level, e, alpha, beta, gamma, t, t_end))
        t = t_end
    return tuple(found)


def pair_of_one_mean(x, noise, i, stages):
    """One mean over large blocks; times 2^k for the noise."""
    stage_pair(x, noise, i, stages)
    k = 2 ** (len(stages) - 1 - i)
    block = lambda a: a.reshape(*a.shape[:2], a.shape[2] // k, k, a.shape[3] // k, k).mean((3, 5))
    data, n, stage = block(x), k * block(noise), stages[i]
    if i == 0:
        return [n, n + stage.end * (data - n)]
    coarse = sliced(data).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return [n + stage.start * (coarse - n), n + stage.end * (data - n)]


def pair_a_sample_at_a_time(x, noise, i, stages):
    if x.shape != noise.shape:
        raise ValueError("shapes")
    pairs = [stage_pair(a[None], b[None], i, stages) for a, b in zip(x, noise)]
    return tuple(torch.cat(ends) for ends in zip(*pairs))


def pair_of_the_library(x, noise, i, stages):
    """avg_pool2d and nearest interpolation, in float64 and cast back."""
    stage_pair(x, noise, i, stages)
    data, n, stage = x.double(), noise.double(), stages[i]
    for _ in range(len(stages) - 1 - i):
        data, n = torch.nn.functional.avg_pool2d(data, 2), torch.nn.functional.avg_pool2d(n, 2) * 2
    signal = torch.zeros_like(data)
    if i > 0:
        signal = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(data, 2), scale_factor=2)
    start, end = torch.lerp(n, signal, stage.start), torch.lerp(n, data, stage.end)
    return start.to(x.dtype), end.to(x.dtype)


def jump_with_haar(z, noise, stage):
    """The four numbers of each block times a 4x4 matrix, with the other sign of the details."""
    renoise_jump(z, noise, stage)
    g = stage.gamma
    mean = torch.full((4, 4), 0.25, dtype=z.dtype)
    matrix = math.sqrt(1 - 3 * g) * mean - math.sqrt(1 + g) * (torch.eye(4, dtype=z.dtype) - mean)
    blocks = rearrange(noise, "b c (h p) (w q) -> b c h w (p q)", p=2, q=2) @ matrix
    fresh = rearrange(blocks, "b c h w (p q) -> b c (h p) (w q)", p=2, q=2)
    return stage.alpha * z.repeat_interleave(2, -1).repeat_interleave(2, -2) + stage.beta * fresh


def jump_a_pixel_at_a_time(z, noise, stage):
    renoise_jump(z, noise, stage)
    rows = []
    for h in range(z.shape[2]):
        row = [renoise_jump(z[:, :, h : h + 1, w : w + 1], noise[:, :, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2], stage)
               for w in range(z.shape[3])]  # fmt: skip
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def loss_a_sample_at_a_time(velocity, x, noise, u, stages, shares=None, packed=False, **conditioning):
    if packed:
        return pyramid_loss(velocity, x, noise, u, stages, shares, packed, **conditioning)
    pyramid.need.each("u", u, x, above=0, most=1)
    pyramid.need.conditioning(x, **conditioning)
    pyramid.need.samples(x=x, noise=noise)
    losses = []
    for i, part in enumerate(split(len(x), shares, len(stages))):
        for k in range(part.start, part.stop):
            start, end = stage_pair(x[k : k + 1], noise[k : k + 1], i, stages)
            z = torch.lerp(end, start, u[k].to(x.dtype))
            t = network_time(u[k : k + 1], stages[i]).to(x.dtype)
            answer = velocity(z, t, **{name: value[k : k + 1] for name, value in conditioning.items()})
            if answer.shape != z.shape:
                raise ValueError("another shape")
            losses.append((answer - start + end).pow(2).mean())
    return torch.stack(losses)


def sample_in_place(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """One buffer of times, filled anew; z is moved on after it was asked; tuples; jumps are popped from a copy."""
    pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, jumps, torch.Generator())
    steps = (steps,) * len(stages) if isinstance(steps, int) else tuple(steps)
    z = noise.clone()
    for _ in stages[1:]:
        z = 2 * sliced(z)
    t, ends, left = torch.empty(len(z), dtype=z.dtype), [], None if jumps is None else list(jumps)
    for i, stage in enumerate(stages):
        if i:
            fresh = torch.empty(z.shape[0], z.shape[1], 2 * z.shape[2], 2 * z.shape[3], dtype=z.dtype)
            z = renoise_jump(z, fresh.normal_(generator=generator) if left is None else left.pop(0), stage)
        for j in range(steps[i]):
            t.fill_(stage.t_start + (stage.t_end - stage.t_start) * j / steps[i])
            change = velocity(z, t) / steps[i]
            z = z - change if change.requires_grad else z.sub_(change)
        ends.append(z.clone())
    return tuple(ends) if trajectory else z


def drawn_in_order(velocity, noise, stages, steps, jumps=None, generator=None, trajectory=False):
    """All noise is drawn at first, the smallest first, as a right answer may."""
    if jumps is None:
        sizes = [at_level(noise, len(stages) - 1 - i) for i in range(1, len(stages))]
        pyramid_sample(lambda z, t: 0 * z, noise, stages, steps, sizes)  # refuses before anything is drawn
        jumps = [torch.randn(z.shape, generator=generator, dtype=z.dtype) for z in sizes]
    return pyramid_sample(velocity, noise, stages, steps, jumps, None, trajectory)


def from_the_finest(velocity, x, noise, u, stages, shares=None, packed=False, **conditioning):
    """Stages in another order, and the samples back in theirs."""
    pyramid_loss(lambda z, t, **_: 0 * z, x, noise, u, stages, shares, **conditioning)
    if packed:
        return pyramid_loss(velocity, x, noise, u, stages, shares, packed, **conditioning)
    losses = {}
    for i, part in reversed([*enumerate(split(len(x), shares, len(stages)))]):
        start, end = stage_pair(x[part], noise[part], i, stages)
        w = u[part].to(x.dtype)[:, None, None, None]
        given = {name: value[part] for name, value in conditioning.items()}
        answer = velocity(end + w * (start - end), network_time(u[part], stages[i]).to(x.dtype), **given)
        if answer.shape != end.shape:
            raise ValueError("another shape")
        losses[i] = rearrange((start - end - answer) ** 2, "b c h w -> b (c h w)").mean(dim=-1)
    return torch.cat([losses[i] for i in range(len(stages))])


def target_a_sample_at_a_time(teacher, z, u, n, stage, **given):
    pyramid.need.each("u", u, z, least=0.5 / pyramid.need.whole("n", n), most=1)
    one = lambda k: {name: value[k : k + 1] for name, value in given.items()}
    return torch.cat(
        [stage_target(teacher, z[k : k + 1], u[k : k + 1], n, stage, **one(k)) for k in range(len(z))]
    )


def target_from_the_landing(teacher, z, u, n, stage, **given):
    """One time buffer; the slope from z to where two steps land."""
    stage_target(lambda z, t: 0 * z, z, u, n, stage)  # refuses what ought to be refused
    with torch.no_grad():
        t, w = network_time(u, stage).to(z.dtype), z.clone()
        first = teacher(w, t, **given)
        if first.shape != z.shape:
            raise ValueError("another shape")
        w -= 0.5 / n * first
        t.copy_(network_time(u - 0.5 / n, stage))
        w -= 0.5 / n * teacher(w, t, **given)
        return (z - w) * n


RIGHT = {
    "stages: from the equations": (C.check_stages, stages_with()),
    "stages: numpy": (C.check_stages, in_numpy),
    "stages: the shift, tuples, ints": (C.check_stages, from_the_shift),
    "stages: fractions": (C.check_stages, lambda cuts, gamma=1 / 3: [Stage(*map(Fraction, s)) for s in stages(cuts, gamma)]),
    "stages: float64 tensors": (C.check_stages, lambda cuts, gamma=1 / 3: [Stage(*exact(*s).tolist()) for s in stages(cuts, gamma)]),
    "down: slices": (C.check_down, lambda x: (down(x), sliced(x))[1]),
    "down: avg_pool2d": (C.check_down, lambda x: (down(x), torch.nn.functional.avg_pool2d(x, 2))[1]),
    "down: reshape": (C.check_down, lambda x: (down(x), x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).mean((3, 5)))[1]),
    "down: bilinear at half the size": (C.check_down, lambda x: (down(x), torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear"))[1]),
    "up: nearest": (C.check_up, lambda x: torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")),
    "up: repeat_interleave": (C.check_up, lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)),
    "up: kron": (C.check_up, lambda x: torch.kron(x, torch.ones(2, 2, dtype=x.dtype))),
    "up: stacked": (C.check_up, lambda x: torch.stack([torch.stack([x, x], -1).flatten(-2)] * 2, -2).flatten(-3, -2)),
    "stage_pair: step by step": (C.check_stage_pair, pair_with()),
    "stage_pair: one mean, a list": (C.check_stage_pair, pair_of_one_mean),
    "stage_pair: a sample at a time": (C.check_stage_pair, pair_a_sample_at_a_time),
    "stage_pair: pooling, float64 inside": (C.check_stage_pair, pair_of_the_library),
    "renoise_jump: beta and gamma": (C.check_renoise_jump, jump_with()),
    "renoise_jump: a 4x4 matrix": (C.check_renoise_jump, jump_with_haar),
    "renoise_jump: a pixel at a time": (C.check_renoise_jump, jump_a_pixel_at_a_time),
    "renoise_jump: float64 inside": (C.check_renoise_jump, lambda z, noise, stage: renoise_jump(z.double(), noise.double(), stage).to(z.dtype)),
    "renoise_jump: a root of 0 that is 1e-8": (
        C.check_renoise_jump, jump_with(noise=lambda z, gamma: block_noise(z, gamma, mean=lambda g: F(1 - 3 * g + 1e-16)))),
    "network_time: both ends weighted": (C.check_network_time, lambda u, s: (network_time(u, s), (1 - u) * s.t_end + u * s.t_start)[1]),
    "network_time: from the start": (C.check_network_time, lambda u, s: (network_time(u, s), s.t_start - (1 - u) * (s.t_start - s.t_end))[1]),
    "network_time: lerp": (C.check_network_time, lambda u, s: (network_time(u, s), torch.lerp(*(u.new_tensor(e) for e in (s.t_end, s.t_start)), u))[1]),
    "network_time: float64 inside": (C.check_network_time, lambda u, s: network_time(u.double(), s).to(u.dtype)),
    "pyramid_loss: step by step": (C.check_pyramid_loss, loss_with()),
    "pyramid_loss: a sample at a time": (C.check_pyramid_loss, loss_a_sample_at_a_time),
    "pyramid_loss: from the finest": (C.check_pyramid_loss, from_the_finest),
    "pyramid_loss: float64 inside": (
        C.check_pyramid_loss, lambda v, x, noise, u, *args, **more: pyramid_loss(v, x.to(u.dtype), noise.to(u.dtype), u, *args, **more).to(x.dtype)),
    "pyramid_sample: step by step": (C.check_pyramid_sample, sample_with()),
    "pyramid_sample: in place": (C.check_pyramid_sample, sample_in_place),
    "pyramid_sample: the trajectory's last": (C.check_pyramid_sample, calls_then(tuple)),
    "pyramid_sample: drawn ahead, the smallest first": (C.check_pyramid_sample, drawn_in_order),
    "stage_target: step by step": (C.check_stage_target, target_with()),
    "stage_target: a sample at a time": (C.check_stage_target, target_a_sample_at_a_time),
    "stage_target: from where it lands": (C.check_stage_target, target_from_the_landing),
    "stage_target: float64 times": (
        C.check_stage_target, lambda teacher, z, u, *args, **given: stage_target(teacher, z, u.double(), *args, **given)),
    "pyramid_distillation_loss: step by step": (C.check_pyramid_distillation_loss, distil_with()),
    "pyramid_distillation_loss: a sample at a time": (C.check_pyramid_distillation_loss, distil_with(target_a_sample_at_a_time)),
    "pyramid_distillation_loss: from where it lands": (C.check_pyramid_distillation_loss, distil_with(target_from_the_landing)),
    "pyramid_distillation_loss: index in int32": (
        C.check_pyramid_distillation_loss, lambda s, t, x, noise, index, *args, **more: pyramid_distillation_loss(
            s, t, x, noise, index if index.is_floating_point() else index.int(), *args, **more)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, unchecked_shapes):
    check, right = RIGHT[name]
    for seed in (0, 1):
        check(right, seed=seed)


# numbers of the released code


@pytest.mark.parametrize(
    "table",
    GOLDEN["tables"],
    ids=lambda t: f"{t['stages']} {t['gamma']:.2f} {t['shift']:g} {t['stage_range'][1]:.2f}",
)
def test_golden_tables(table):
    """Cuts from its own end points: the original cuts a table of 1000 levels, at 333 and not at 1/3."""
    cuts = [0.0, *(1 - stage["end_sigma"] for stage in table["stage"][:-1]), 1.0]
    for ours, theirs in zip(stages(cuts, table["gamma"]), table["stage"], strict=True):
        assert 1 - ours.start == pytest.approx(theirs["start_sigma"], abs=1e-9)
        assert 1 - ours.end == pytest.approx(theirs["end_sigma"], abs=1e-9)
        if theirs["alpha"] is not None:
            assert [ours.alpha, ours.beta] == pytest.approx([theirs["alpha"], theirs["beta"]], abs=1e-7)
        assert [1 - ours.t_start, 1 - ours.t_end] == pytest.approx(theirs["ratio"], abs=1e-7)
        if table["shift"] == 1:  # their times are those of the nearest of 1000 levels
            assert 1000 * ours.t_start == pytest.approx(theirs["T_first"], abs=1.01)
            assert 1000 * ours.t_end == pytest.approx(theirs["T_last"], abs=2.01)


def test_golden_pairs():
    """x = arange / size - 1/2, noise = cos(arange), local time 0.75: z and velocity of both stages."""
    found = stages([0, 0.5, 1])
    x = (torch.arange(16, dtype=torch.float64) / 16 - 0.5).reshape(1, 1, 4, 4)
    noise = torch.arange(16, dtype=torch.float64).cos().reshape(1, 1, 4, 4)
    for i, theirs in enumerate(GOLDEN["add_pyramid_noise"]["K2_4x4_u0.25"]):
        start, end = stage_pair(x, noise, i, found)
        z, velocity = theirs["ratio"] * start + (1 - theirs["ratio"]) * end, start - end
        torch.testing.assert_close(z.flatten(), exact(*theirs["x_t"]), atol=2e-7, rtol=0)
        torch.testing.assert_close(velocity.flatten(), exact(*theirs["target"]), atol=2e-7, rtol=0)
        time = network_time(exact(theirs["ratio"]), found[i]).item()
        assert 1000 * time == pytest.approx(theirs["T"], abs=1.01)


def test_golden_pairs_of_three_stages():
    """Their cuts, 0.333 and 0.666; mean, sum of squares, first and last value at every size."""
    found = stages([0, 0.333, 0.666, 1])
    x = (torch.arange(64, dtype=torch.float64) / 64 - 0.5).reshape(1, 1, 8, 8)
    noise = torch.arange(64, dtype=torch.float64).cos().reshape(1, 1, 8, 8)
    for i, theirs in enumerate(GOLDEN["add_pyramid_noise"]["K3_8x8_u0.25"]):
        start, end = stage_pair(x, noise, i, found)
        for ours, numbers in ((0.75 * start + 0.25 * end, theirs["x_t"]), (start - end, theirs["target"])):
            summary = [ours.mean(), ours.square().sum(), ours.flatten()[0], ours.flatten()[-1]]
            assert [v.item() for v in summary] == pytest.approx(numbers, abs=2e-6)


# identities across the house


@pytest.mark.parametrize(
    ("cuts", "gamma"), [([0, 0.3, 1], 1 / 3), ([0, 0.25, 0.6, 1], 1 / 3), ([0, 0.3, 1], 0.2)]
)
def test_a_gaussian_field_from_end_to_end(cuts, gamma):
    """Samples have the covariance of the data: every map is linear, so unit vectors are enough."""
    found = stages(cuts, gamma)
    k, side = len(found), 2 ** len(found)
    covariance = checks.field(side)
    velocity = checks.exact_velocity(covariance, found, side)
    sizes = [side] + [side // 2 ** (k - 1 - i) for i in range(1, k)]  # of the noise and of the jumps
    total = 0
    for j, size in enumerate(sizes):
        heard = [torch.zeros(size**2, 1, s, s, dtype=torch.float64) for s in sizes]
        heard[j] = checks.units(1, size)
        part = pyramid_sample(velocity, heard[0], found, 1, heard[1:]).flatten(1)
        total = total + part.T @ part
    assert (total - covariance).norm() / covariance.norm() < 1e-4


def test_the_shift_is_the_shift_of_the_schedules():
    """sigma_start = shift(sigma_end, sqrt(1 + 1 / gamma)), by schedules.shifted."""
    for gamma in (1 / 3, 0.2):
        found = stages([0, 0.25, 0.6, 1], gamma)
        for before, stage in zip(found, found[1:]):
            sigma = shifted(rectified_flow, math.sqrt(1 + 1 / gamma))(exact(1 - before.end))[1]
            assert 1 - stage.start == pytest.approx(sigma.item(), abs=1e-12)


def test_one_stage_is_flow_matching_bit_for_bit():
    x, noise = torch.randn(2, 6, 1, 8, 8)
    u = 1 - torch.rand(6)
    assert torch.equal(
        pyramid_loss(checks.net, x, noise, u, stages([0, 1])), flow_matching_loss(checks.net, x, noise, u)
    )


@pytest.mark.parametrize("shares", [(1, 1, 1), (1, 2, 1), (2, 1, 3)])
def test_packed_is_the_same(shares):
    """All sizes in one pass with a block-diagonal mask: equal losses and gradients."""
    torch.manual_seed(0)
    net = DiT(dim=16, depth=2, heads=2, classes=10).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    b, found = 2 * sum(shares), stages([0, 0.3, 0.6, 1])
    x, noise = torch.randn(2, b, 1, 16, 16, dtype=torch.float64)
    u, label = 1 - torch.rand(b).double(), torch.randint(0, 10, (b,))
    losses = [pyramid_loss(net, x, noise, u, found, shares, packed, label=label) for packed in (False, True)]
    torch.testing.assert_close(*losses)
    grads = [torch.autograd.grad(loss.sum(), list(net.parameters())) for loss in losses]
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other)


def test_guidance_and_seeds():
    found, noise = stages([0, 0.5, 1]), torch.randn(2, 1, 8, 8)
    conditional, unconditional = (lambda z, t: checks.net(z, t)), (lambda z, t: 0.5 * z)
    draw = lambda velocity, seed: pyramid_sample(
        velocity, noise, found, 2, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(draw(guided(conditional, unconditional, 1.0), 0), draw(conditional, 0))
    assert not torch.equal(draw(guided(conditional, unconditional, 2.0), 0), draw(conditional, 0))
    assert not torch.equal(draw(conditional, 0), draw(conditional, 1))


def test_wrong_jumps_show_on_the_exact_field():
    """Six wrong jumps, from end to end on a Gaussian field: every covariance is wrong, the right one is not."""
    for name, jump, least in (
        ("right", renoise_jump, 0.0),
        ("none", lambda z, noise, stage: up(z), 0.3),
        ("rescaled only", lambda z, noise, stage: stage.alpha * up(z), 0.01),
        ("independent", jump_with(noise=lambda z, gamma: z), 0.05),
        ("no rescaling", jump_with(alpha=lambda stage: 1.0), 0.3),
        ("bilinear", jump_with(grow=bilinear), 0.02),
    ):
        error = field_error(jump)
        assert (error < 1e-4) if name == "right" else (error > least), (name, error)


def field_error(jump, cuts=(0, 0.3, 1), side=4):
    """The relative error of the samples' covariance on an exact Gaussian field."""
    found, covariance, unit = stages(list(cuts)), checks.field(side), checks.units(1, side)
    velocity = checks.exact_velocity(covariance, found, side)
    sample = sample_with(jump=jump)
    zero = torch.zeros_like(unit)
    maps = [sample(velocity, unit, found, 1, [zero]), sample(velocity, zero, found, 1, [unit])]
    total = sum(m.flatten(1).T @ m.flatten(1) for m in maps)
    return ((total - covariance).norm() / covariance.norm()).item()


def test_bad_input(unchecked_shapes):
    found, x = stages([0, 0.5, 1]), torch.randn(4, 1, 8, 8)
    net, u = checks.net, torch.full((4,), 0.5)
    for call, sentence in (
        (lambda: stages([0.5, 1]), "cuts must rise from 0 to 1"),
        (lambda: stages([0, 0.5, 1], 0.4), "gamma must be above 0 and at most 0.333"),
        (lambda: stages([0, 0.5, 1], -1 / 3), "gamma must be above 0"),
        (lambda: stage_pair(x[..., :7], x[..., :7], 0, found), "divisible by 2"),
        (lambda: stage_pair(x, x[:1], 0, found), "one shape"),
        (lambda: stage_pair(x, x, 2, found), "i must be from 0 to 1, the stages there are"),
        (lambda: renoise_jump(x, x, found[1]), "noise of twice the size"),
        (lambda: pyramid_loss(net, x, x, u, found, (1, 2)), "does not divide into shares"),
        (lambda: pyramid_loss(net, x, x, u, found, (1,)), "shares: 2 are needed"),
        (lambda: pyramid_loss(net, x, x, 0 * u, found), "local times, 1 the start"),
        (lambda: pyramid_loss(lambda z, t: z[:1], x, x, u, found), "returned shape"),
        (lambda: pyramid_sample(net, x, found, [2]), "numbers of steps: 2 are needed"),
        (lambda: pyramid_sample(net, x, found, 2, []), "noises: 1 are needed, one for each jump, got 0"),
        (
            lambda: pyramid_distillation_loss(net, net, x, x, torch.tensor([0, 1, 2, 3]), found, 4),
            "index must be from 1 to 4",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
    assert pyramid.split(4, None, 2) == [slice(0, 2), slice(2, 4)]
