"""Pretrained networks: the checks on our code, on every mistake of the list, golden numbers, diffusers, behaviour.

The numbers in round brackets are those of the list of twenty mistakes that people made. Three are not planted whole:

10: clipped x_hat with the old eps is a sampler's mistake, which no denoiser can make. Planted is a reader that
    follows clip_sample, and the golden case whose default clipping must not be matched.
11: linspace and 32 steps are a scheduler's. Planted are readers and times that accept them.
20: latents without shift or scale happen before a denoiser sees them, and a student on another grid is warned about
    by the samplers. Planted is the learned variance.
"""

import functools
import importlib
import inspect
import itertools
import json
import math
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from planted import asserting, forgets, refuses_too, then

from minidistill.asking import ask_stranger
from minidistill.checks import column, exact
from minidistill.checks import pretrained as checks
from minidistill.checks.parameterization import check_guided
from minidistill.checks.schedules import check_time_of
from minidistill.consistency import ect_loss
from minidistill.lcm import lcm_loss
from minidistill.oracle import ProductMixture
from minidistill.parameterization import as_velocity, convert, guided
from minidistill.phased import phase_grid, phased_loss, phased_sample
from minidistill.pretrained import (
    edm_denoiser,
    flow_denoiser,
    from_scheduler,
    rescheduled,
    table_denoiser,
    table_times,
    to_scheduler,
)
from minidistill.progressive import diffusion_loss, progressive_loss
from minidistill.samplers import ddim, renoise
from minidistill.scheduler_configs import read_config
from minidistill.schedules import (
    beta_table,
    coefficients,
    cosine,
    edm,
    karras_sigmas,
    linear_beta,
    rectified_flow,
    shifted,
    tabulated,
    time_grid,
    time_of,
    zero_terminal_snr,
)

os.environ["HF_HUB_OFFLINE"] = "1"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "pretrained.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
CHECKS = [
    checks.check_table_denoiser,
    checks.check_flow_denoiser,
    checks.check_edm_denoiser,
    checks.check_rescheduled,
    checks.check_from_scheduler,
    checks.check_table_times,
    check_time_of,
]
TABLE, FLOW, EDM, MOVED, FROM, TIMES, TIME = CHECKS


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the functions, with one thing changed


def silent(net):
    """A network in this one's place, which is asked for the refusals of settings alone."""
    return lambda z, i, **conditioning: 0 * z


def index_of(t, n):
    index = t.double() * n - 1
    return torch.where((index - index.round()).abs() < 1e-3, index.round(), index).clamp(min=0)


def read_as(said, z, a, s, kind):
    return {"eps": lambda: (z - s * said) / a, "v": lambda: a * z - s * said, "x": lambda: said}[kind]()


def table_with(
    index=index_of,
    schedule=tabulated,
    given=lambda z, a, s: z,
    read=read_as,
    clip=lambda x, c, said: x.clamp(-c, c),
    kind="eps",
    bound=None,
    pair=lambda denoiser, schedule: (denoiser, schedule),
    refuse=table_denoiser,
    ends=tabulated,
):
    def wrong(net, alpha_bar, kind=kind, clip_at=bound, clip=clip, **conditioning):
        clip_at, change = (clip_at, clip) if callable(clip) else (clip, clip_of)
        refuse(silent(net), alpha_bar, kind, clip_at)
        path, n = schedule(alpha_bar), len(alpha_bar)

        def denoiser(z, t):
            coefficients(ends(alpha_bar), t, z)
            a, s = (column(c, z).to(z.dtype) for c in path(t.double()))
            said = ask_stranger(net, given(z, a, s), t, index(t, n), **conditioning)
            found = read(said, z, a, s, kind)
            return change(found, math.inf if clip_at is None else float(clip_at), said).to(z.dtype)

        return pair(denoiser, path)

    clip_of = clip
    return wrong


def flow_with(
    clock=lambda t, scale: scale * t,
    given=lambda z, T: z,
    x_hat=lambda said, z, T: z - T * said,
    schedule=rectified_flow,
    scale=1000.0,
    refuse=flow_denoiser,
    pair=lambda denoiser, schedule: (denoiser, schedule),
):
    def wrong(net, scale=scale, **conditioning):
        refuse(silent(net), scale)

        def denoiser(z, t):
            coefficients(rectified_flow, t, z)
            T = column(t, z).to(z.dtype)
            return x_hat(ask_stranger(net, given(z, T), t, clock(t, float(scale)), **conditioning), z, T).to(
                z.dtype
            )

        return pair(denoiser, schedule)

    return wrong


def edm_with(
    clock=lambda t, scale: scale * t.log(),
    c_in=lambda T, r, sd, t_min: 1 / r,
    c_skip=lambda T, r, sd, t_min: sd**2 / ((T - t_min) ** 2 + sd**2),
    c_out=lambda T, r, sd, t_min: (T - t_min) * sd / r,
    read=lambda skip, out, sign, said, z: skip * z + sign * out * said,
    schedule=edm,
    data_std=0.5,
    sign=1,
    scale=0.25,
    t_min=0,
    refuse=edm_denoiser,
):
    def wrong(net, data_std=data_std, sign=sign, scale=scale, t_min=t_min, **conditioning):
        still, _ = refuse(silent(net), data_std, sign, scale, t_min)

        def denoiser(z, t):
            still(z, t)
            T, (sd, low) = column(t.double(), z), (float(data_std), float(t_min))
            r = (T**2 + sd**2).sqrt()
            skip, out, size = (c(T, r, sd, low).to(z.dtype) for c in (c_skip, c_out, c_in))
            return read(
                skip,
                out,
                sign,
                ask_stranger(net, (size * z).to(z.dtype), t, clock(t.double(), scale), **conditioning),
                z,
            ).to(z.dtype)

        return denoiser, schedule

    return wrong


def moved_with(
    time=lambda source, target, t, a, s, end: time_of(source, a, s, end),
    scale=lambda r, r_new, a, s, b, q: r / r_new,
    out=lambda x_hat, scale: x_hat,
    end=lambda source: 80 if source is edm else 1,
    constant=True,
    refuse=rescheduled,
):
    def wrong(denoiser, source, target, end_at=None, end=end):
        end_at = end_at if callable(end) else end
        at = default(source) if end_at is None else end_at
        refuse(lambda z, t: 0 * z, source, target, end_at)(torch.zeros(1, 1), torch.zeros(1))

        def moved(z, t):
            refuse(lambda z, t: 0 * z, source, target, end_at)(z, t)
            c, q = coefficients(target, t, z)
            a, s = (c.detach(), q.detach()) if constant else (c, q)
            u = time(source, target, t, a.flatten(), s.flatten(), at).to(a.dtype)
            b, d = coefficients(source, u, z)
            size = scale(torch.hypot(b, d), torch.hypot(a, s), a, s, b, d)
            given = (size * z).to(z.dtype)
            found = denoiser(given, u.to(z.dtype))
            if found.shape != z.shape or getattr(denoiser, "predicts", "x") != "x":
                raise ValueError("no denoiser")
            return out(found, size).to(z.dtype)

        return moved

    default = end
    return wrong


READERS = {"table": table_denoiser, "flow": flow_denoiser, "edm": edm_denoiser}


def from_with(change=lambda family, settings, config: (family, settings), **readers):
    """from_scheduler, which changes what was read in the config, or takes other readers."""

    def wrong(net, scheduler, clip=None, **conditioning):
        from_scheduler(net, scheduler, clip)  # refuses what ought to be refused
        family, settings = change(*read_config(scheduler, type(net).__name__), scheduler.config)
        settings = dict(settings) if clip is None or family != "table" else {**settings, "clip": clip}
        return (READERS | readers)[family](net, **settings, **conditioning)

    return wrong


def accepting(bad, default=("table", {"kind": "v"})):
    """from_scheduler, which refuses nothing of these: where `bad` holds it reads the rest of the config."""

    def wrong(net, scheduler, clip=None, **conditioning):
        try:
            return from_scheduler(net, scheduler, clip, **conditioning)
        except ValueError:
            if bad(net, scheduler, clip):
                return lambda z, t: z, edm
            raise

    return wrong


def config(scheduler, name):
    return getattr(scheduler, "config", {}).get(name)


def times_with(
    time=lambda i, n: (i + 1) / n,
    end=lambda e, n: [e],
    default=0.0,
    dtype=None,
    order=lambda t: t,
    refuse=table_times,
):
    def wrong(indices, table=1000, end_at=default, end=end):
        end_at, last = (end_at, end) if callable(end) else (end, last_of)
        refuse(indices, table, end_at)
        i = torch.as_tensor(indices, dtype=torch.float64)
        return order(torch.cat([time(i, table), torch.tensor(last(end_at, table), dtype=torch.float64)])).to(
            dtype or torch.get_default_dtype()
        )

    last_of = end
    return wrong


def seconds(reference, change=lambda alpha, sigma: (alpha, sigma), end=lambda end: end):
    """time_of, given something else."""
    return lambda schedule, alpha, sigma, at=1.0: reference(schedule, *change(alpha, sigma), end(at))


def by_bisection(
    schedule, alpha, sigma, end=1.0, steps=60, nearest=lambda low, high: high, keep=True, refuse=time_of
):
    refuse(schedule, alpha, sigma, end)
    a, s = (c.double() if keep else c for c in (alpha.detach(), sigma.detach()))
    low, high = torch.zeros_like(a), torch.full_like(a, float(end))
    for _ in range(steps):
        middle = (low + high) / 2
        b, d = schedule(middle)
        early = d * a <= s * b
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return nearest(low, high).to(alpha)


# readers around a network that is not the one that was given


def handed(net, z, i, conditioning):
    """The network, asked as it wants to be."""
    by_name = isinstance(net, torch.nn.Module) and "timestep" in inspect.signature(net.forward).parameters
    return net(z, timestep=i, **conditioning) if by_name else net(z, i, **conditioning)


def around(reference, call=handed, hides=()):
    """The reader, of a network around the one that is given: it asks as `call` does, and lacks what `hides` says."""

    class Around:
        def __init__(self, net):
            self.inner = net

        def __call__(self, z, i, **conditioning):
            return call(self.inner, z, i, conditioning)

        def __getattr__(self, name):
            if name in hides or name.startswith("__") or name in ("predicts", "inner"):
                raise AttributeError(name)
            return getattr(self.inner, name)

    def wrong(net, *args, **settings):
        if not callable(net):
            return reference(net, *args, **settings)
        return reference(type(type(net).__name__, (Around,), {})(net), *args, **settings)

    return wrong


def after(reference, change):
    """The reader, whose denoiser is change(denoiser, z, t)."""

    def wrong(net, *args, **settings):
        denoiser, schedule = reference(net, *args, **settings)
        return (lambda z, t: change(denoiser, z, t)), schedule

    return wrong


def lets(reference, when):
    """The reader, whose denoiser accepts what it ought to refuse where when(z, t) says so."""
    return after(reference, lambda denoiser, z, t: forgets(denoiser, when)(z, t))


def quiet(net, z, i, conditioning):
    with torch.no_grad():
        return handed(net, z, i, conditioning)


def unpacked(said):
    said = said[0] if isinstance(said, tuple) else said
    return getattr(said, "sample", said)


def first_half(net, z, i, conditioning):
    """A learned variance, cut off in silence."""
    said = unpacked(handed(net, z, i, conditioning))
    if isinstance(said, torch.Tensor) and said.numel() == 2 * z.numel():
        return said.reshape(-1)[: z.numel()].view_as(z)
    return said


def broadcast(net, z, i, conditioning):
    """Answers of other shapes, as torch broadcasts them, and a first half of what is larger."""
    said = unpacked(handed(net, z, i, conditioning))
    if not isinstance(said, torch.Tensor) or not said.is_floating_point():
        return said
    try:
        return said.expand_as(z)
    except RuntimeError:
        return said


def nobody(net, z, i, conditioning):
    return net(z, i, **conditioning)


def each_alone(net, z, i, conditioning):
    parts = [handed(net, z[k : k + 1], i[k : k + 1], conditioning) for k in range(len(z))]
    return torch.cat([unpacked(part) for part in parts])


def spoils(net, z, i, conditioning):
    """The answer, changed where it stands."""
    said = unpacked(handed(net, z, i, conditioning))
    return (
        said.mul_(1.0).add_(1.0).sub_(0.5)
        if isinstance(said, torch.Tensor) and not said.requires_grad
        else said
    )


def half_clock(net, z, i, conditioning):
    """The clock, in the dtype of a network in half precision."""
    return handed(net, z, i.to(getattr(net, "dtype", i.dtype)), conditioning)


def rounded_clock(net, z, i, conditioning):
    """The clock, which has been in half precision."""
    return handed(net, z, i.bfloat16().to(i) if hasattr(net, "dtype") else i, conditioning)


def last_made(reference):
    """Readers that share their network: the last one's is asked."""
    shared = {}

    def wrong(net, *args, **settings):
        shared["net"] = net
        return around(reference, lambda net, z, i, c: handed(shared["net"], z, i, c))(net, *args, **settings)

    return wrong


def moves_input(denoiser, z, t):
    found = denoiser(z, t)
    with torch.no_grad():
        z.mul_(1.5)
    return found


def two_answers(net, z, i, conditioning):
    handed(net, z, i, conditioning)
    return handed(net, z, i, conditioning)


MISTAKES = {}


def plant(check, **mistakes):
    MISTAKES.update({f"{check.__name__[6:]}: {name}": (check, *found) for name, found in mistakes.items()})


# a table

swap = lambda pair: tuple(reversed(pair))
squares = lambda alpha_bar: lambda t: tuple(c**2 for c in tabulated(alpha_bar)(t))
before = lambda alpha_bar: lambda t: tabulated(alpha_bar)((t - 1 / len(alpha_bar)).clamp(min=0))
after_it = lambda alpha_bar: lambda t: tabulated(alpha_bar)((t + 1 / len(alpha_bar)).clamp(max=1))
nearly = lambda alpha_bar: tabulated(alpha_bar.clamp(min=2.0**-24))
reading = lambda **kinds: lambda said, z, a, s, kind: read_as(said, z, a, s, kinds.get(kind, kind))


def of_any_table(net, alpha_bar, kind="eps", clip=None):
    return table_denoiser(net, torch.cumprod(1 - beta_table("linear"), 0), kind, clip)


def any_table_with(when, **change):
    """table_with, which refuses no table where `when` says so."""

    def refuse(net, alpha_bar, kind="eps", clip=None):
        return (
            of_any_table(net, alpha_bar, kind, clip)
            if when(alpha_bar)
            else table_denoiser(net, alpha_bar, kind, clip)
        )

    def free(alpha_bar):
        if not when(alpha_bar):
            return tabulated(alpha_bar)
        return lambda t: (alpha_bar.flatten()[(t * alpha_bar.numel() - 1).long().clamp(min=0)].to(t),) * 2

    return table_with(refuse=refuse, schedule=free, ends=free, **change)


for name, wrong in {
    "n t (1) [clock]": (table_with(lambda t, n: n * t), "index is 999, 499, 0: here it is n t, one too much"),
    "1000 t, whole (1) [clock]": (table_with(lambda t, n: (n * t).round()), "one too much"),
    "(n - 1) t (1) [clock]": (table_with(lambda t, n: (n - 1) * t), r"here it is \(n - 1\) t"),
    "999 t, whole (1) [clock]": (table_with(lambda t, n: ((n - 1) * t).round()), r"here it is \(n - 1\) t"),
    "t, unscaled (1) [clock]": (table_with(lambda t, n: t), "here it is t itself"),
    "long, off the table (2) [clock]": (table_with(lambda t, n: (t.double() * n - 1 + 1e-4).long().clamp(min=0).double()), "index 499.5: no .long"),
    "rounded off the table (2) [clock]": (table_with(lambda t, n: (n * t.double() - 1).round().clamp(min=0)), "index 499.5"),
    "ceil (2) [clock]": (table_with(lambda t, n: (n * t.double() - 1 - 1e-4).ceil().clamp(min=0)), "index 499.5"),
    "rounded where it is nearly whole [clock]": (table_with(lambda t, n: torch.where((n * t - 1).frac().sub(0.5).abs() > 0.2, (n * t - 1).round(), n * t - 1).clamp(min=0)), "at t = .* told|cut to a whole one"),
    "cut in float32 [clock]": (table_with(lambda t, n: torch.where(((n * t - 1) - (n * t - 1).round()).abs() < 1e-3, (n * t - 1).trunc(), n * t - 1).clamp(min=0)), "Is it cut, where it ought to be rounded"),
    "not rounded at all [clock]": (table_with(lambda t, n: (n * t - 1).clamp(min=0)), "On the table the index is whole|index is 999"),
    "backwards [clock]": (table_with(lambda t, n: n * (1 - t)), "time runs backwards"),
    "n is 1000 always [clock]": (table_with(lambda t, n: index_of(t, 1000)), "n is 1000, whatever"),
    "below 0 [clock]": (table_with(lambda t, n: n * t - 1 + 0 * (n * t - 1).round()), "On the table the index is whole|Before the table's first entry"),
    "below 0, whole [clock]": (table_with(lambda t, n: torch.where((n * t - 1 - (n * t - 1).round()).abs() < 1e-3, (n * t - 1).round(), n * t - 1)), "Before the table's first entry"),
    "alpha as the clock [clock]": (table_with(lambda t, n: linear_beta(t)[0]), "index is 999"),
    "a shifted clock (15) [clock]": (table_with(lambda t, n: index_of(checks.late(t, 3.0), n)), "index is 999|belongs to the grid"),
    "one index for all [clock]": (table_with(lambda t, n: index_of(t, n)[:1].expand(len(t))), "index is 999|one is everybody's"),
    "another's index [clock]": (table_with(lambda t, n: index_of(t, n).roll(1)), "index is 999|another sample"),
    "long tensors [dtype]": (around(table_denoiser, lambda net, z, i, c: handed(net, z, i.long(), c)), "in z's dtype"),
    "a number as the index [shape]": (around(table_denoiser, lambda net, z, i, c: handed(net, z, i[0], c)), "one time for each sample"),
    "eps read as v (3) [kind]": (table_with(read=reading(eps="v")), "The answer is eps, and here it is read as v"),
    "v read as eps (3) [kind]": (table_with(read=reading(v="eps"), refuse=table_denoiser), "The answer is v, and here it is read as eps|nan"),
    "x read as eps [kind]": (table_with(read=reading(x="eps")), "The answer is x, and here it is read as eps"),
    "v is the default [kind]": (table_with(kind="v"), "The answer is eps, and here it is read as v"),
    "x is the default [kind]": (table_with(kind="x"), "The answer is eps, and here it is read as x"),
    "v with another sign (4) [sign]": (table_with(read=lambda said, z, a, s, kind: a * z + s * said if kind == "v" else read_as(said, z, a, s, kind)), "v has another sign"),
    "v as sigma x - alpha eps (4) [sign]": (table_with(read=lambda said, z, a, s, kind: s * said - a * z if kind == "v" else read_as(said, z, a, s, kind)), "v has another sign"),
    "eps added [sign]": (table_with(read=lambda said, z, a, s, kind: (z + s * said) / a if kind == "eps" else read_as(said, z, a, s, kind)), "noise is subtracted"),
    "alpha_bar for alpha (5) [formula]": (table_with(schedule=squares), "alpha is the root of alpha_bar"),
    "alpha_bar for alpha, in x_hat alone (5) [formula]": (table_with(read=lambda said, z, a, s, kind: read_as(said, z, a**2, s**2, kind), pair=lambda denoiser, schedule: (denoiser, schedule)), "alpha is the root of alpha_bar"),
    "alpha and sigma exchanged [formula]": (table_with(read=lambda said, z, a, s, kind: read_as(said, z, s, a, kind)), "exchanged"),
    "no division by alpha [formula]": (table_with(read=lambda said, z, a, s, kind: z - s * said if kind == "eps" else read_as(said, z, a, s, kind)), "division by alpha is missing"),
    "alpha clamped [formula]": (table_with(read=lambda said, z, a, s, kind: read_as(said, z, a.clamp(min=0.1), s, kind)), "x_hat is not what the answer says"),
    "sigma clamped [formula]": (table_with(read=lambda said, z, a, s, kind: read_as(said, z, a, s.clamp(min=0.1), kind)), "x_hat is not what the answer says"),
    "1e-3 added to alpha [formula]": (table_with(read=lambda said, z, a, s, kind: read_as(said, z, a + 1e-3, s, kind)), "x_hat is not what the answer says"),
    "z is scaled [input]": (table_with(given=lambda z, a, s: (z / torch.hypot(a, s) / a.clamp(min=0.1)).to(z)), "given another z|given z as it is"),
    "z is clipped [input]": (table_with(given=lambda z, a, s: z.clamp(-5, 5)), "given z as it is"),
    "betas accepted (6) [refusal]": (any_table_with(lambda table: table.ndim == 1 and len(table) > 1 and bool((table.diff() > 0).all()) and bool(table[0] < 1)), "betas must be refused|alpha_bar backwards must be|1 - alpha_bar must be"),
    "alphas accepted (6) [refusal]": (any_table_with(lambda table: table.ndim == 1 and len(table) > 1 and bool(table[-1] > 0.5) and bool((table.diff() <= 0).all())), "alphas, 1 - beta, must be refused"),
    "a rise in the table accepted [refusal]": (any_table_with(lambda table: table.ndim == 1 and len(table) > 1 and bool(table.max() > 1)), "one entry of 1.1"),
    "nan in the table accepted [refusal]": (any_table_with(lambda table: bool(table.isnan().any())), "one entry of nan"),
    "a table with two axes [refusal]": (any_table_with(lambda table: table.ndim == 2), "two axes"),
    "the entry before [schedule]": (table_with(schedule=before, read=reading()), "here it is at the entry before"),
    "the entry after [schedule]": (table_with(schedule=after_it), "here it is at the entry after"),
    "always the linear table [schedule]": (table_with(schedule=lambda table: tabulated(checks.LINEAR)), "own table is needed"),
    "the VP-SDE for the table [schedule]": (table_with(schedule=lambda table: linear_beta), "own table is needed"),
    "a straight line [schedule]": (table_with(schedule=lambda table: rectified_flow), "a straight line"),
    "the right x_hat, another schedule [schedule]": (table_with(pair=lambda denoiser, schedule: (denoiser, cosine)), "own table is needed"),
    "zero SNR kept above 0 (7) [end]": (table_with(schedule=nearly), "alpha = 0 exactly|alpha of the schedule"),
    "eps at alpha = 0 accepted (8) [refusal]": (table_with(refuse=lambda net, table, kind="eps", clip=None: table_denoiser(net, table, "x" if kind == "eps" else kind, clip)), "eps on a table that ends at alpha = 0 must be refused"),
    "eps near alpha = 0 refused [end]": (refuses_too(table_denoiser, lambda net, table, kind="eps", clip=None, **c: kind == "eps" and table.ndim == 1 and len(table) > 0 and 0 < table[-1] < 1e-6), "eps on a table that nearly ends at 0 is valid"),
    "v at alpha = 0 refused [end]": (refuses_too(table_denoiser, lambda net, table, kind="eps", clip=None, **c: kind == "v" and table.ndim == 1 and len(table) > 0 and table[-1] == 0), "is valid and must not be refused"),
    "any kind is v [refusal]": (table_with(refuse=lambda net, table, kind="eps", clip=None: table_denoiser(net, table, kind if kind in ("eps", "v") else "x", clip), read=lambda said, z, a, s, kind: read_as(said, z, a, s, kind if kind in ("eps", "x") else "v")), "kind = 'velocity' must be refused"),
    "diffusers' names accepted [refusal]": (table_with(refuse=lambda net, table, kind="eps", clip=None: table_denoiser(net, table, {"epsilon": "eps"}.get(kind, kind), clip), read=reading(epsilon="eps")), "kind = 'epsilon' must be refused"),
    "velocity accepted [refusal]": (table_with(refuse=lambda net, table, kind="eps", clip=None: table_denoiser(net, table, "v" if kind == "velocity" else kind, clip), read=reading(velocity="v")), "kind = 'velocity' must be refused"),
    "clip ignored [clip]": (table_with(clip=lambda x, c, said: x), "clip is ignored"),
    "clip of 1 by default (10) [clip]": (table_with(clip=lambda x, c, said: x.clamp(-min(c, 1), min(c, 1))), "clip is ignored: here it is 1|Nothing is clipped"),
    "the answer clipped [clip]": (table_with(read=lambda said, z, a, s, kind: read_as(said.clamp(-1, 1), z, a, s, kind)), "Here the answer itself is clipped"),
    "clip on one side [clip]": (table_with(clip=lambda x, c, said: x.clamp(max=c)), "clip bounds both sides"),
    "squashed [clip]": (table_with(clip=lambda x, c, said: c * torch.tanh(x / c) if c < math.inf else x), "nothing is squashed"),
    "dynamic thresholding [clip]": (table_with(clip=lambda x, c, said: x if c == math.inf else x / x.abs().amax().clamp(min=1)), "x_hat is not what"),
    "clip = 0 accepted [refusal]": (table_with(refuse=lambda net, table, kind="eps", clip=None: table_denoiser(net, table, kind, clip or None), clip=lambda x, c, said: x), "clip"),
    "a gradient cut by clipping [gradient]": (table_with(clip=lambda x, c, said: x.detach() + 0 * said), "gradient"),
}.items():  # fmt: skip
    plant(TABLE, **{name: wrong})


# a flow

for name, wrong in {
    "t, not 1000 t (12) [clock]": (flow_with(lambda t, scale: t), "here it is t itself. Only Flux"),
    "scaled twice (12) [clock]": (flow_with(lambda t, scale: scale * scale * t), "scale counts twice"),
    "1000 t always (12) [clock]": (flow_with(lambda t, scale: 1000 * t), "scale = 1: x_hat|here it is 1000 t"),
    "the scale is 1 by default (12) [clock]": (flow_with(scale=1.0), "here it is t itself. Only Flux"),
    "time reversed (13) [clock]": (flow_with(lambda t, scale: scale * (1 - t)), "here time runs backwards"),
    "time reversed in x_hat (13) [formula]": (flow_with(x_hat=lambda said, z, T: z - (1 - T) * said), "x_hat = z - t velocity"),
    "the schedule reversed (13) [schedule]": (flow_with(schedule=lambda t: (t, 1 - t)), "Time runs backwards in the schedule"),
    "x - eps (14) [sign]": (flow_with(x_hat=lambda said, z, T: z + T * said), "here it is a plus"),
    "x - eps, and its noise (14) [sign]": (flow_with(x_hat=lambda said, z, T: z + (1 - T) * said), "x_hat = z - t velocity"),
    "a shift in the clock (15) [clock]": (flow_with(lambda t, scale: scale * checks.late(t, 3.0)), "belongs to the grid of times, never to the clock"),
    "the shift undone in the clock (15) [clock]": (flow_with(lambda t, scale: scale * checks.late(t, 1 / 3)), "belongs to the grid of times, never to the clock"),
    "a shift in x_hat (15) [formula]": (flow_with(x_hat=lambda said, z, T: z - checks.late(T, 3.0) * said), "x_hat = z - t velocity"),
    "a shifted schedule (15) [schedule]": (flow_with(schedule=shifted(rectified_flow, 3.0)), "never to the schedule"),
    "t is missing [formula]": (flow_with(x_hat=lambda said, z, T: z - said), "t is missing|z - t velocity"),
    "the velocity itself [formula]": (flow_with(x_hat=lambda said, z, T: said), "z - t velocity"),
    "read as v [formula]": (flow_with(x_hat=lambda said, z, T: (1 - T) * z - T * said), "z - t velocity"),
    "read as eps [formula]": (flow_with(x_hat=lambda said, z, T: (z - T * said) / (1 - T).clamp(min=1e-6)), "z - t velocity"),
    "read as x [formula]": (flow_with(x_hat=lambda said, z, T: said), "z - t velocity"),
    "a table's index [clock]": (flow_with(lambda t, scale: (scale * t - 1).clamp(min=0)), "a table's index|the clock is 1000"),
    "999 t [clock]": (flow_with(lambda t, scale: (scale - 1) * t), "the clock is 1000"),
    "a whole clock [clock]": (flow_with(lambda t, scale: (scale * t).round()), "a whole number|scale t"),
    "a cut clock [clock]": (flow_with(lambda t, scale: (scale * t + 1e-6).long().double()), "a whole number|scale t"),
    "t clamped at 0.001 [clock]": (flow_with(lambda t, scale: scale * t.clamp(min=1e-3)), "the network is told"),
    "t clamped at 0.01 in x_hat [formula]": (flow_with(x_hat=lambda said, z, T: z - T.clamp(min=0.01) * said), "At t = 0 x_hat is z|x_hat is not"),
    "the cosine's schedule [schedule]": (flow_with(schedule=cosine), "another one"),
    "EDM's schedule [schedule]": (flow_with(schedule=edm), "another one"),
    "z is scaled [input]": (flow_with(given=lambda z, T: z / torch.hypot(1 - T, T)), "given another z|given z as it is|z - t velocity"),
    "z is clipped [input]": (flow_with(given=lambda z, T: z.clamp(-3, 3)), "given z as it is"),
    "x_hat is clipped [formula]": (flow_with(x_hat=lambda said, z, T: (z - T * said).clamp(-10, 10)), "Nothing is clipped"),
    "along the last axis [shape]": (flow_with(x_hat=lambda said, z, T: z - (T.flatten() if z.shape[-1] == 4 else T) * said), "not along another axis"),
    "scale 0 accepted [refusal]": (flow_with(refuse=lambda net, scale: flow_denoiser(net, scale or 1)), "scale = 0 must be refused|scale = None"),
    "a negative scale accepted (13) [refusal]": (flow_with(refuse=lambda net, scale: flow_denoiser(net, abs(scale) if isinstance(scale, float) else scale)), "scale = -1000.0 must be refused"),
    "nan accepted [refusal]": (flow_with(refuse=lambda net, scale: flow_denoiser(net, 1 if scale != scale else scale)), "scale = nan must be refused"),
    "scale 1 refused [end]": (refuses_too(flow_denoiser, lambda net, scale=1000.0, **c: scale == 1), "is valid and must not be refused"),
    "scale 2.5 refused [end]": (refuses_too(flow_denoiser, lambda net, scale=1000.0, **c: scale == 2.5), "is valid and must not be refused"),
    "t = 1 refused [end]": (after(flow_denoiser, lambda denoiser, z, t: refuses_too(denoiser, lambda z, t: bool((t == 1).any()))(z, t)), "must not be refused|nobody asked"),
    "t = 0 refused [end]": (after(flow_denoiser, lambda denoiser, z, t: refuses_too(denoiser, lambda z, t: bool((t == 0).any()))(z, t)), "must not be refused|nobody asked"),
}.items():  # fmt: skip
    plant(FLOW, **{name: wrong})


# EDM

for name, wrong in {
    "no c_in (16) [input]": (edm_with(c_in=lambda T, r, sd, low: 0 * T + 1), "here c_in is missing"),
    "log sigma (16) [clock]": (edm_with(lambda t, scale: t.log()), r"here it is log\(sigma\)"),
    "1000 log sigma / 4 (16) [clock]": (edm_with(lambda t, scale: 1000 * scale * t.log()), "1000 times"),
    "1000 log sigma (16) [clock]": (edm_with(lambda t, scale: 1000 * t.log()), r"1000 log\(sigma\)"),
    "sigma itself (16) [clock]": (edm_with(lambda t, scale: t), "sigma itself"),
    "sigma / 4 [clock]": (edm_with(lambda t, scale: t / 4), "sigma itself"),
    "log sigma / 4 always [clock]": (edm_with(lambda t, scale: t.log() / 4), r"here it is log\(sigma\) / 4"),
    "log2 [clock]": (edm_with(lambda t, scale: scale * t.log2()), "another base|log.sigma. / 4, and here"),
    "log10 [clock]": (edm_with(lambda t, scale: scale * t.log10()), "another base|log.sigma. / 4, and here"),
    "log sigma^2 [clock]": (edm_with(lambda t, scale: 2 * scale * t.log()), "log.sigma. / 4, and here"),
    "1e-3 added [clock]": (edm_with(lambda t, scale: scale * (t + 1e-3).log()), "log.sigma. / 4, and here"),
    "1e-8 added [clock]": (edm_with(lambda t, scale: scale * (t + 1e-8).log()), "log.sigma. / 4|something is added"),
    "sigma clamped at 80 [clock]": (edm_with(lambda t, scale: scale * t.clamp(max=80).log()), "sigma is clamped"),
    "minus log sigma [clock]": (edm_with(lambda t, scale: -scale * t.log()), "log.sigma. / 4, and here"),
    "an angle [clock]": (edm_with(lambda t, scale: 2 / math.pi * torch.atan(t)), "log.sigma. / 4, and here"),
    "c_in without a root [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / r**2), "root is missing"),
    "c_in with data_std 1 [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / (T**2 + 1).sqrt()), "data_std is 1"),
    "c_in with data_std 0.5 [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / (T**2 + 0.25).sqrt()), "data_std is 0.5"),
    "c_in with sd for sd^2 [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / (T**2 + sd).sqrt()), "not squared"),
    "c_in from t_min [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / ((T - low) ** 2 + sd**2).sqrt()), "t_min is subtracted"),
    "c_in multiplies [input]": (edm_with(c_in=lambda T, r, sd, low: r), "multiplied"),
    "c_in 1 / sigma [input]": (edm_with(c_in=lambda T, r, sd, low: 1 / T), "divided by sigma"),
    "the sign is ignored [sign]": (edm_with(read=lambda skip, out, sign, said, z: skip * z + out * said), "the sign is another"),
    "the sign is reversed [sign]": (edm_with(read=lambda skip, out, sign, said, z: skip * z - sign * out * said), "the sign is another"),
    "-1 by default [sign]": (edm_with(sign=-1), "the sign is another"),
    "no c_skip [formula]": (edm_with(c_skip=lambda T, r, sd, low: 0 * T + 1), "c_skip is missing"),
    "the answer alone [formula]": (edm_with(c_skip=lambda T, r, sd, low: 0 * T), "c_skip is missing"),
    "no c_out [formula]": (edm_with(c_out=lambda T, r, sd, low: 0 * T + 1), "c_out is missing"),
    "c_out is sigma [formula]": (edm_with(c_out=lambda T, r, sd, low: T), "c_out is missing"),
    "c_out without data_std [formula]": (edm_with(c_out=lambda T, r, sd, low: (T - low) / r), "c_out has data_std"),
    "c_skip is a root [formula]": (edm_with(c_skip=lambda T, r, sd, low: sd / r), "c_skip's square|x_hat is not"),
    "c_skip of c_in z [formula]": (edm_with(c_skip=lambda T, r, sd, low: sd**2 / ((T - low) ** 2 + sd**2) / r), "has c_in in it"),
    "read as eps [kind]": (edm_with(read=lambda skip, out, sign, said, z: z - said), "x_hat"),
    "t_min ignored [boundary]": (edm_with(c_skip=lambda T, r, sd, low: sd**2 / r**2, c_out=lambda T, r, sd, low: T * sd / r), "t_min is ignored"),
    "t_min in c_skip alone [boundary]": (edm_with(c_out=lambda T, r, sd, low: T * sd / r), "in c_skip alone"),
    "t_min in c_out alone [boundary]": (edm_with(c_skip=lambda T, r, sd, low: sd**2 / r**2), "in c_out alone"),
    "t_min under the root [boundary]": (edm_with(c_out=lambda T, r, sd, low: (T - low) * sd / ((T - low) ** 2 + sd**2).sqrt()), "under the root"),
    "t_min 0.002 by default [boundary]": (edm_with(t_min=0.002), "x_hat is not|is valid"),
    "data_std 1 by default [argument]": (edm_with(data_std=1.0), "c_in z"),
    "a consistency model by default [argument]": (edm_with(scale=250), "1000 times that. A consistency model"),
    "VP's schedule [schedule]": (edm_with(schedule=lambda t: (1 / torch.hypot(t, t / t), t / torch.hypot(t, t / t))), "here it is scaled"),
    "a flow's schedule [schedule]": (edm_with(schedule=lambda t: (1 - t, t)), "a flow's"),
    "sigma = 0 accepted [refusal]": (lets(edm_denoiser, lambda z, t: bool((t == 0).any())), "t = 0 must be refused|below t_min|sigma = 0"),
    "sigma below t_min accepted [refusal]": (lets(edm_denoiser, lambda z, t: bool((t == 0.0015).any())), "below t_min = 0.002 must be refused"),
    "sigma above 80 refused [end]": (after(edm_denoiser, lambda denoiser, z, t: refuses_too(denoiser, lambda z, t: t.max() > 81)(z, t)), "must not be refused|nobody asked"),
    "sigma below 0.01 refused [end]": (after(edm_denoiser, lambda denoiser, z, t: refuses_too(denoiser, lambda z, t: t.min() < 0.01)(z, t)), "must not be refused|nobody asked"),
    "data_std 0 accepted [refusal]": (edm_with(refuse=lambda net, sd, *more: edm_denoiser(net, sd or 1, *more)), "data_std = 0 must be refused"),
    "scale below 0 accepted [refusal]": (edm_with(refuse=lambda net, sd, sign, scale, *more: edm_denoiser(net, sd, sign, abs(scale), *more)), "scale = -0.25 must be refused"),
    "sign nan accepted [refusal]": (edm_with(refuse=lambda net, sd, sign, *more: edm_denoiser(net, sd, 1, *more)), "sign = nan must be refused"),
    "t_min below 0 accepted [refusal]": (edm_with(refuse=lambda net, sd, sign, scale, low: edm_denoiser(net, sd, sign, scale, max(low, 0))), "t_min = -0.002 must be refused"),
}.items():  # fmt: skip
    plant(EDM, **{name: wrong})


# what is alike in all readers

ALIKE = {
    "table": (TABLE, table_denoiser, 1.01),
    "flow": (FLOW, flow_denoiser, 1.01),
    "edm": (EDM, edm_denoiser, -1.0),
    "scheduler": (FROM, from_scheduler, 1.01),
}
for who, (check, reference, beyond) in ALIKE.items():
    mistakes = {
        f"{who}: conditioning is dropped [argument]": (around(reference, lambda net, z, i, c: handed(net, z, i, {})), "Conditioning goes to the network by its names|told it by that name"),
        f"{who}: conditioning is copied [argument]": (around(reference, lambda net, z, i, c: handed(net, z, i, {k: v.clone() for k, v in c.items()})), "nothing is copied"),
        f"{who}: conditioning is cast [argument]": (around(reference, lambda net, z, i, c: handed(net, z, i, {k: v.to(z) for k, v in c.items()})), "nothing is copied, cast"),
        f"{who}: conditioning under another name [argument]": (around(reference, lambda net, z, i, c: handed(net, z, i, {"y" if k == "labels" else k: v for k, v in c.items()})), "by its names: labels and state"),
        f"{who}: the network is detached [gradient]": (around(reference, lambda net, z, i, c: said.detach() if isinstance(said := unpacked(handed(net, z, i, c)), torch.Tensor) else said), "gradient must reach"),
        f"{who}: the network under no_grad [gradient]": (around(reference, quiet), "gradient must reach"),
        f"{who}: x_hat is detached [gradient]": (after(reference, lambda denoiser, z, t: denoiser(z, t).detach()), "The gradient must reach the network"),
        f"{who}: z is detached [gradient]": (after(reference, lambda denoiser, z, t: denoiser(z.detach(), t)), "The gradient must reach z"),
        f"{who}: z is detached for the network [gradient]": (around(reference, lambda net, z, i, c: handed(net, z.detach(), i, c)), "The gradient must reach z"),
        f"{who}: gradients stay switched off [gradient]": (after(reference, lambda denoiser, z, t: (denoiser(z, t), torch._C._set_grad_enabled(False))[0]), "stays behind"),
        f"{who}: no .sample [answer]": (around(reference, lambda net, z, i, c: [said] if hasattr(said := handed(net, z, i, c), "sample") else said), "an object with .sample is valid"),
        f"{who}: no tuples [answer]": (around(reference, lambda net, z, i, c: [said] if isinstance(said := handed(net, z, i, c), tuple) else said), "a tuple, whose first is the answer is valid"),
        f"{who}: the last of a tuple [answer]": (around(reference, lambda net, z, i, c: said[-1] if isinstance(said := handed(net, z, i, c), tuple) else said), "a tuple of two"),
        f"{who}: asked twice [argument]": (around(reference, two_answers), "asked once, for the whole batch"),
        f"{who}: asked sample by sample [argument]": (around(reference, each_alone), "asked once, for the whole batch"),
        f"{who}: the last network is everybody's [closure]": (last_made(reference), "must be asked, and it is not"),
        f"{who}: a `timestep` by its place [argument]": (around(reference, nobody), "by that name: the second is the text"),
        f"{who}: float64 always [dtype]": (after(reference, lambda denoiser, z, t: denoiser(z, t).double()), "here float32, not torch.float64"),
        f"{who}: float32 always [dtype]": (after(reference, lambda denoiser, z, t: denoiser(z, t).float()), "dtype|five digits"),
        f"{who}: in float32 [dtype]": (after(reference, lambda denoiser, z, t: denoiser(z.float(), t).to(z)), "five digits|given another z|is not what|is told|scale t|log.sigma."),
        f"{who}: the clock in half precision [dtype]": (around(reference, half_clock), "the clock stays float32|in z's dtype"),
        f"{who}: the clock has been in half precision [dtype]": (around(reference, rounded_clock), "with all digits of float32"),
        f"{who}: the network's dtype is ignored [dtype]": (around(reference, hides=("dtype",)), "is given z in it"),
        f"{who}: a half network makes half x_hat [dtype]": (after(reference, lambda denoiser, z, t: found.bfloat16() if (found := denoiser(z, t)).dtype == torch.float32 else found), "float32, not torch.bfloat16"),
        f"{who}: pipelines accepted [refusal]": (around(reference, hides=("scheduler",)), "A pipeline in the network's place"),
        f"{who}: labels without classes accepted [refusal]": (around(reference, hides=("class_embedding",)), "class_labels for a network made without classes"),
        f"{who}: a learned variance, cut (20) [refusal]": (around(reference, first_half), "twice the channels has a learned variance"),
        f"{who}: answers are broadcast (20) [refusal]": (around(reference, broadcast), "An answer .* must be refused"),
        f"{who}: half precision accepted [refusal]": (lets(reference, lambda z, t: z.dtype in checks.HALVES), "must be refused: it cannot tell 1000"),
        f"{who}: half precision accepted where times are, too [refusal]": (lets(reference, lambda z, t: t.dtype in checks.HALVES), "must be refused: it cannot tell 1000"),
        f"{who}: times beyond the end accepted [refusal]": (lets(reference, lambda z, t, beyond=beyond: bool((t == beyond).any())), "must be refused, also as one of many"),
        f"{who}: nan accepted [refusal]": (lets(reference, lambda z, t: bool(t.isnan().any())), "t = nan must be refused"),
        f"{who}: one time for four samples [shape]": (lets(reference, lambda z, t: t.shape == (1,)), r"t of shape \(1,\)"),
        f"{who}: t (b, 1) [shape]": (lets(reference, lambda z, t: t.ndim == 2), r"t of shape \(4, 1\)"),
        f"{who}: an assert for a refusal [refusal]": (asserting(after(reference, lambda denoiser, z, t: asserting(denoiser)(z, t))), "With ValueError, not an assert"),
        f"{who}: z is changed in place [argument]": (after(reference, moves_input), "must stay as it is"),
        f"{who}: the answer is changed in place [argument]": (around(reference, spoils), "What the network answers must stay"),
        f"{who}: the denoiser alone [answer]": (then(reference, lambda found: found[0]), "a reader returns"),
        f"{who}: the schedule first [answer]": (then(reference, swap), "first comes the denoiser"),
        f"{who}: no schedule [answer]": (then(reference, lambda found: (found[0], None)), "a reader returns"),
    }  # fmt: skip
    if (
        who != "flow"
    ):  # the same questions: all of them are planted in the fastest check, and a third in the others
        mistakes = dict(itertools.islice(mistakes.items(), ["table", "edm", "scheduler"].index(who), None, 3))
    plant(check, **mistakes)


# another schedule


def stops_at(low, high):
    return lambda source, target, t, a, s, end: time_of(source, a, s, end).clamp(low, high)


def of_table(table):
    """The inverse of one table, whatever the source is."""
    return lambda source, target, t, a, s, end: (
        checks.in_table(table, (s / a).double())
        if source not in (edm, rectified_flow, cosine)
        else time_of(source, a, s, end)
    )


for name, wrong in {
    "z is not rescaled (17) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: 0 * r + 1), "here it is not rescaled"),
    "rescaled the other way (17) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: r_new / r), "and not the inverse"),
    "the source's size is missing (17) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: 1 / r_new), "that of the source is missing|not rescaled"),
    "the target's size is missing (17) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: r), "that of the target is missing|not rescaled|given another z"),
    "squares (17) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: (r / r_new) ** 2), "the squares of both"),
    "scaled by 1 / (1 + sigma) [input]": (moved_with(scale=lambda r, r_new, a, s, b, q: 1 / (a + s)), "given another z"),
    "linear's inverse for every table (18) [time]": (moved_with(of_table(checks.LINEAR)), "the inverse of another table"),
    "the VP-SDE's inverse for every table (18) [time]": (moved_with(lambda source, target, t, a, s, end: time_of(linear_beta, a, s, 1) if source not in (edm, rectified_flow, cosine) else time_of(source, a, s, end)), "at another time"),
    "the target's time [time]": (moved_with(lambda source, target, t, a, s, end: t.to(a).clamp(0, end)), "and here at the target's time|at another time"),
    "the ratio as the time [time]": (moved_with(lambda source, target, t, a, s, end: (s / a).clamp(max=end)), "the ratio itself|at another time"),
    "the same sigma [time]": (moved_with(lambda source, target, t, a, s, end: time_of(source, (1 - s**2).clamp(min=0).sqrt() + 1e-12, s, end)), "at another time|same sigma"),
    "the inverse ratio [time]": (moved_with(lambda source, target, t, a, s, end: time_of(source, s, a, end)), "not the inverse of it|at another time"),
    "clamped at 1 [time]": (moved_with(lambda source, target, t, a, s, end: time_of(source, a, s, end).clamp(max=1)), "clamped at 1|is asked at 80"),
    "clamped at 0.001 [time]": (moved_with(stops_at(0.01, math.inf)), "at another time"),
    "the nearest entry [time]": (moved_with(lambda source, target, t, a, s, end: (1000 * time_of(source, a, s, end)).round() / 1000), "at another time"),
    "the entry before [time]": (moved_with(lambda source, target, t, a, s, end: (time_of(source, a, s, end) - 1e-3).clamp(min=0)), "at another time|in the middle of"),
    "half an entry off [time]": (moved_with(lambda source, target, t, a, s, end: (time_of(source, a, s, end) - 5e-4).clamp(min=0)), "at another time|in the middle of"),
    "few halvings [time]": (moved_with(lambda source, target, t, a, s, end: by_bisection(source, a, s, end, 14)), "at another time|five digits"),
    "another sample's time [time]": (moved_with(lambda source, target, t, a, s, end: time_of(source, a, s, end).roll(1)), "another sample|at another time"),
    "searched in float32 [dtype]": (moved_with(lambda source, target, t, a, s, end: time_of(source, a.float(), s.float(), end).to(a)), "five digits|at another time"),
    "x_hat scaled back [formula]": (moved_with(out=lambda x_hat, scale: x_hat / scale), "nothing is scaled back"),
    "x_hat scaled [formula]": (moved_with(out=lambda x_hat, scale: x_hat * scale), "x_hat is what the denoiser answers"),
    "x_hat clipped [formula]": (moved_with(out=lambda x_hat, scale: x_hat.clamp(-1, 1)), "x_hat is what the denoiser answers"),
    "x_hat detached [gradient]": (moved_with(out=lambda x_hat, scale: x_hat.detach()), "gradient must reach the denoiser"),
    "half a gradient passes to t [gradient]": (moved_with(constant=False), "No gradient passes to t"),
    "z detached [gradient]": (lambda denoiser, source, target, end=None: (lambda z, t: rescheduled(denoiser, source, target, end)(z.detach(), t)), "gradient must reach z"),
    "EDM ends at 1 [end]": (moved_with(end=lambda source: 1), "at another time|ends at 80|clamped at 1"),
    "everything ends at 80 [end]": (moved_with(end=lambda source: 80, refuse=lambda *args: rescheduled(*args[:3], args[3])), "is valid"),
    "end ignored [end]": (lambda denoiser, source, target, end=None: rescheduled(denoiser, source, target, None if end in (40.0, 500, 0.9) else end), "end ="),
    "EDM ends at 1000 [end]": (moved_with(end=lambda source: 1000 if source is edm else 1), "ends at 80"),
    "more noise refused [end]": (lambda denoiser, source, target, end=None: (lambda z, t: refuses_too(rescheduled(denoiser, source, target, end), lambda z, t: bool((target(t)[0] == 0).any()))(z, t)), "is valid and must not be refused"),
    "no noise refused [end]": (lambda denoiser, source, target, end=None: (lambda z, t: refuses_too(rescheduled(denoiser, source, target, end), lambda z, t: len(t) != 1 and bool((t == 0).any()))(z, t)), "is valid and must not be refused"),
    "source and target exchanged [argument]": (lambda denoiser, source, target, end=None: rescheduled(denoiser, target, source), "is valid|at another time|refuse"),
    "the source only [argument]": (lambda denoiser, source, target, end=None: denoiser, "at another time|and here at the target's time"),
    "asked twice [argument]": (lambda denoiser, source, target, end=None: rescheduled(lambda z, t: (denoiser(z, t), denoiser(z, t))[0], source, target, end), "asked once"),
    "the last one is everybody's [closure]": (lambda denoiser, source, target, end=None, kept=[]: (kept.append(denoiser), lambda z, t: rescheduled(kept[-1], source, target, end)(z, t))[1], "must be asked, and it is not"),
    "float64 always [dtype]": (lambda *args, **more: then(rescheduled(*args, **more), torch.Tensor.double), "float32, not torch.float64"),
    "float32 for half precision [dtype]": (lambda *args, **more: (lambda z, t: found.float() if (found := rescheduled(*args, **more)(z, t)).dtype in checks.HALVES else found), "not torch.float32"),
    "z in place [argument]": (lambda *args, **more: (lambda z, t: moves_input(rescheduled(*args, **more), z, t)), "must stay as it is"),
    "end = 0 accepted [refusal]": (moved_with(refuse=lambda d, source, target, end: rescheduled(d, source, target, None if end == 0 else end), time=lambda source, target, t, a, s, end: time_of(source, a, s, end or 1)), "end = 0 must be refused"),
    "end beyond the source accepted [refusal]": (lambda denoiser, source, target, end=None: rescheduled(denoiser, source, target, None if end == 2.0 else end), "end = 2 must be refused"),
    "times beyond the target accepted [refusal]": (lambda *args, **more: forgets(rescheduled(*args, **more), lambda z, t: bool((t == 1.01).any())), "t = 1.01 must be refused"),
    "one time for four [shape]": (lambda *args, **more: forgets(rescheduled(*args, **more), lambda z, t: t.shape == (1,)), r"t of shape \(1,\)"),
    "answers of any shape [shape]": (lambda denoiser, *args, **more: rescheduled(lambda z, t: said.expand_as(z) if (said := denoiser(z, t)).ndim == z.ndim and said.shape != z.shape and all(p in (1, q) for p, q in zip(said.shape, z.shape)) else said, *args), "would be broadcast"),
    "a velocity accepted [refusal]": (lambda denoiser, *args, **more: rescheduled(lambda z, t: denoiser(z, t), *args, **more), "A velocity in the denoiser's place"),
    "an assert [refusal]": (asserting(lambda *args, **more: asserting(rescheduled(*args, **more))), "With ValueError, not an assert"),
}.items():  # fmt: skip
    plant(MOVED, **{name: wrong})


# by a scheduler


def kinds(**change):
    """from_scheduler, which reads these kinds of a table as others."""
    return from_with(
        lambda family, settings, config: (
            (family, settings | {"kind": change.get(settings["kind"], settings["kind"])})
            if family == "table"
            else (family, settings)
        )
    )


def forgetting(name):
    """Of one setting, the reader's default."""
    return from_with(
        lambda family, settings, config: (family, {k: v for k, v in settings.items() if k != name})
    )


def kept_table(net, scheduler, clip=None, **conditioning):
    """The table as it is, where zero SNR says that it ends at 0."""
    from_scheduler(net, scheduler, clip)
    config = checks.Config(scheduler.config) | {"rescale_betas_zero_snr": False}
    return from_scheduler(
        net,
        types.SimpleNamespace(config=config, alphas_cumprod=getattr(scheduler, "alphas_cumprod", None)),
        clip,
        **conditioning,
    )


def unlike(net, scheduler, clip=None, **conditioning):
    """A flow, only where there is no table."""
    from_scheduler(net, scheduler, clip)
    if config(scheduler, "prediction_type") == "flow_prediction":
        return table_denoiser(net, scheduler.alphas_cumprod, "v", **conditioning)
    return from_scheduler(net, scheduler, clip, **conditioning)


def zeroing(net, scheduler, clip=None, **conditioning):
    """The scheduler's own table is changed."""
    found = from_scheduler(net, scheduler, clip, **conditioning)
    if config(scheduler, "rescale_betas_zero_snr"):
        scheduler.alphas_cumprod[-1] = 0
    return found


def shifts_the_clock(net, scheduler, clip=None, **conditioning):
    found = from_scheduler(net, scheduler, clip)
    a = config(scheduler, "shift") or config(scheduler, "flow_shift")
    if found[1] is not rectified_flow or not a:
        return from_scheduler(net, scheduler, clip, **conditioning)
    return flow_with(lambda t, scale: scale * checks.late(t, a))(
        net, scheduler.config["num_train_timesteps"], **conditioning
    )


def shifts_the_schedule(net, scheduler, clip=None, **conditioning):
    denoiser, schedule = from_scheduler(net, scheduler, clip, **conditioning)
    a = config(scheduler, "shift") or config(scheduler, "flow_shift")
    return denoiser, shifted(schedule, a) if schedule is rectified_flow and a else schedule


has = lambda name, *values: lambda net, scheduler, clip: config(scheduler, name) in values
for name, wrong in {
    "epsilon read as v (3) [kind]": (kinds(eps="v"), "read as v"),
    "v_prediction read as eps (3) [kind]": (from_with(lambda family, settings, config: (family, settings | {"kind": "eps"}) if family == "table" and settings["kind"] == "v" and settings["alpha_bar"][-1] > 0 else (family, settings)), "read as eps"),
    "sample read as eps [kind]": (kinds(x="eps"), "read as eps"),
    "the zero-SNR flag ignored (7) [end]": (kept_table, "ends the table at alpha = 0 exactly"),
    "the scheduler's table changed [argument]": (zeroing, "stays as it is: copy its table"),
    "clip_sample followed (10) [clip]": (from_with(lambda family, settings, config: (family, settings | {"clip": 1.0}) if family == "table" and config.get("clip_sample") else (family, settings), table=lambda net, **settings: table_denoiser(net, **settings)), "clip_sample is not followed"),
    "clip ignored [clip]": (lambda net, scheduler, clip=None, **c: (from_scheduler(net, scheduler, clip), from_scheduler(net, scheduler, **c))[1], "clip is ignored"),
    "clip accepted for a flow [refusal]": (lambda net, scheduler, clip=None, **c: from_scheduler(net, scheduler, None if config(scheduler, "shift") else clip, **c), "clip must be refused for FlowMatch"),
    "clip accepted for EDM [refusal]": (lambda net, scheduler, clip=None, **c: from_scheduler(net, scheduler, None if config(scheduler, "sigma_data") else clip, **c), "clip must be refused for EDM"),
    "linspace of DDIM accepted (11) [refusal]": (accepting(has("timestep_spacing", "linspace")), "linspace of DDIM"),
    "linspace refused everywhere [end]": (refuses_too(from_scheduler, lambda net, scheduler, *a, **c: config(scheduler, "timestep_spacing") == "linspace"), "is valid and must not be refused"),
    "trailing refused [end]": (refuses_too(from_scheduler, lambda net, scheduler, *a, **c: config(scheduler, "timestep_spacing") == "trailing"), "is valid and must not be refused"),
    "clip_sample refused [end]": (refuses_too(from_scheduler, lambda net, scheduler, *a, **c: config(scheduler, "clip_sample")), "is valid and must not be refused"),
    "thresholding accepted [refusal]": (accepting(has("thresholding", True)), "thresholding, which"),
    "a learned variance accepted (20) [refusal]": (accepting(has("variance_type", "learned")), "variance_type = 'learned'"),
    "a learned range accepted (20) [refusal]": (accepting(has("variance_type", "learned_range")), "variance_type = 'learned_range'"),
    "invert_sigmas accepted (13) [refusal]": (accepting(has("invert_sigmas", True)), "invert_sigmas, whose time 0 is noise"),
    "any prediction_type is eps [refusal]": (accepting(has("prediction_type", "velocity")), "prediction_type = 'velocity'"),
    "None is eps [refusal]": (accepting(lambda net, s, clip: config(s, "thresholding") is False and config(s, "prediction_type") is None), "prediction_type = None"),
    "no table accepted [refusal]": (accepting(lambda net, s, clip: config(s, "prediction_type") == "epsilon" and not hasattr(s, "alphas_cumprod")), "without a table"),
    "ScoreSdeVe accepted [refusal]": (accepting(has("snr", 0.15)), "ScoreSdeVe"),
    "trigflow accepted [refusal]": (accepting(has("prediction_type", "trigflow")), "trigflow"),
    "EDM's x accepted [refusal]": (accepting(lambda net, s, clip: config(s, "sigma_data") and config(s, "prediction_type") == "sample"), "EDM's x"),
    "another clock accepted (16) [refusal]": (accepting(lambda net, s, clip: type(s).__name__.startswith("Cosine")), "another clock, atan"),
    "a decoder accepted [refusal]": (accepting(lambda net, s, clip: config(s, "num_train_timesteps") == 1024), "a decoder"),
    "continuous eps accepted [refusal]": (accepting(lambda net, s, clip: config(s, "timestep_type") == "continuous"), "continuous times of eps"),
    "an empty config accepted [refusal]": (accepting(lambda net, s, clip: hasattr(s, "config") and not s.config), "an empty config"),
    "no scheduler accepted [refusal]": (accepting(lambda net, s, clip: not hasattr(s, "config")), "no scheduler at all"),
    "a KeyError [refusal]": (lambda net, s, clip=None, **c: (from_scheduler(net, s, clip, **c), s.config["num_train_timesteps"])[0] if config(s, "num_train_timesteps") or not config(s, "shift") else s.config["num_train_timesteps"], "With ValueError, not KeyError"),
    "betas accepted (6) [refusal]": (accepting(lambda net, s, clip: getattr(s, "alphas_cumprod", exact(1))[0] < 0.01), "betas in alpha_bar's place"),
    "alphas accepted (6) [refusal]": (accepting(lambda net, s, clip: getattr(s, "alphas_cumprod", exact(0))[-1] > 0.5), "alphas in alpha_bar's place"),
    "eps at alpha = 0 accepted (8) [refusal]": (accepting(lambda net, s, clip: config(s, "rescale_betas_zero_snr") and config(s, "prediction_type") == "epsilon"), "eps where alpha ends at 0"),
    "Flux at 1000 t (12) [refusal]": (accepting(lambda net, s, clip: type(net).__name__.startswith("Flux")), "FluxTransformer2DModel must be refused"),
    "Qwen at 1000 t (12) [refusal]": (accepting(lambda net, s, clip: type(net).__name__.startswith("Qwen")), "QwenImageTransformer2DModel must be refused"),
    "Z-Image forwards (13) [refusal]": (accepting(lambda net, s, clip: type(net).__name__.startswith("ZImage")), "ZImageTransformer2DModel must be refused"),
    "Flux refused on every scheduler [end]": (refuses_too(from_scheduler, lambda net, *a, **c: type(net).__name__.startswith("Flux")), "on a table, is valid"),
    "a flow is what has no table [family]": (unlike, "A flow|scale t|belongs to"),
    "a flow asked at t (12) [clock]": (forgetting("scale"), "scale|1000 times|told"),
    "a flow's scale is 1000 always [clock]": (from_with(lambda family, settings, config: (family, {}) if family == "flow" else (family, settings)), "here 500 t: here it is 1000 t"),
    "a flow's scale is 1 (12) [clock]": (from_with(lambda family, settings, config: (family, {"scale": 1}) if family == "flow" else (family, settings)), "here it is t itself"),
    "the shift is in the clock (15) [clock]": (shifts_the_clock, "A shift belongs to the grid of times, never to the clock"),
    "the shift is in the schedule (15) [schedule]": (shifts_the_schedule, "never to the schedule"),
    "EDM's sign ignored [sign]": (forgetting("sign"), "the sign is another"),
    "EDM's data_std ignored [argument]": (from_with(lambda family, settings, config: (family, {k: v for k, v in settings.items() if k != "data_std"}) if family == "edm" else (family, settings)), "data_std is 0.5|c_in z"),
    "a consistency model's clock is EDM's (16) [clock]": (from_with(lambda family, settings, config: (family, {k: v for k, v in settings.items() if k != "scale"}) if family == "edm" else (family, settings)), r"here it is log\(sigma\) / 4"),
    "a consistency model's boundary is at 0 [boundary]": (forgetting("t_min"), "t_min is ignored"),
    "a consistency model's boundary is 0.002 always [boundary]": (from_with(lambda family, settings, config: (family, settings | {"t_min": 0.002}) if "t_min" in settings else (family, settings)), "x_hat is not|below"),
    "continuous v has data_std 0.5 [argument]": (from_with(lambda family, settings, config: (family, settings | {"data_std": 0.5}) if config.get("timestep_type") == "continuous" else (family, settings)), "data_std is 0.5"),
    "continuous v is a table's [family]": (lambda net, s, clip=None, **c: (from_scheduler(net, s, clip), table_denoiser(net, s.alphas_cumprod, "v", clip, **c) if config(s, "timestep_type") == "continuous" else from_scheduler(net, s, clip, **c))[1], "EDM"),
    "dynamic shifting refused [end]": (refuses_too(from_scheduler, lambda net, s, *a, **c: config(s, "use_dynamic_shifting")), "is valid and must not be refused"),
    "the linear table always (18) [schedule]": (from_with(lambda family, settings, config: (family, settings | {"alpha_bar": checks.LINEAR}) if family == "table" else (family, settings)), "alpha = 0 exactly|own table is needed"),
}.items():  # fmt: skip
    plant(FROM, **{name: wrong})


# times

for name, wrong in {
    "index / table [formula]": (times_with(lambda i, n: i / n), "here it is i / table"),
    "index / (table - 1) [formula]": (times_with(lambda i, n: i / max(n - 1, 1)), r"here it is i / \(table - 1\)"),
    "the indices themselves [formula]": (times_with(lambda i, n: i), "these are the indices"),
    "1000 always [argument]": (times_with(lambda i, n: (i + 1) / 1000), "the table has 1000"),
    "reversed [order]": (times_with(lambda i, n: 1 - i / n), "time runs backwards"),
    "rising [order]": (times_with(order=lambda t: t.flip(0)), "Times fall"),
    "no end [end]": (times_with(end=lambda e, n: []), "The end is missing"),
    "the end ignored (9) [end]": (times_with(end=lambda e, n: [0.0]), "The end that is given is ignored: with set_alpha_to_one = False"),
    "1 / table by default (9) [end]": (lambda indices, table=1000, end=None: table_times(indices, table, 1 / table if end is None else end), "end is 0 unless|is valid"),
    "float64 always [dtype]": (times_with(dtype=torch.float64), "torch's default dtype"),
    "float32 always [dtype]": (times_with(dtype=torch.float32), "torch's default dtype"),
    "rounded on the way [dtype]": (times_with(lambda i, n: ((i.float() + 1) * (1 / n)).float().double()), "to their last digit"),
    "a list [answer]": (then(table_times, torch.Tensor.tolist), "a tensor, and no list"),
    "fractions accepted (11) [refusal]": (forgets(table_times, lambda indices, *a: any(float(i) % 1 for i in indices if isinstance(i, float) and i == i)), "between two entries"),
    "rounded (11) [refusal]": (lambda indices, table=1000, end=0.0: table_times([i if isinstance(i, list) or i != i else round(float(i)) for i in indices], table, end), "between two entries"),
    "32 steps accepted (11) [refusal]": (forgets(table_times, lambda indices, *a: len(indices) == 3 and indices[0] == 968.75), "32 steps, which do not divide 1000"),
    "past the end accepted [refusal]": (forgets(table_times, lambda indices, *a: list(indices)[:1] == [1000]), "past the end"),
    "below 0 accepted [refusal]": (forgets(table_times, lambda indices, *a: -1 in list(indices)), "below 0"),
    "repeats accepted [refusal]": (forgets(table_times, lambda indices, *a: list(indices) == [999, 499, 499]), "that stays"),
    "rising accepted [refusal]": (forgets(table_times, lambda indices, *a: list(indices) == [0, 499, 999]), "indices that rise"),
    "sorted [refusal]": (lambda indices, table=1000, end=0.0: table_times(sorted(indices, reverse=True) if isinstance(indices, list) and indices and not isinstance(indices[0], list) and not any(i != i for i in indices) else indices, table, end), "rise"),
    "no index accepted [refusal]": (forgets(table_times, lambda indices, *a: len(indices) == 0), "no index"),
    "nan accepted [refusal]": (forgets(table_times, lambda indices, *a: isinstance(indices, list) and any(i != i for i in indices)), "nan must be refused"),
    "an end above the last accepted [refusal]": (lambda indices, table=1000, end=0.0: table_times(indices, table, 0.0 if end in (0.5, 0.001) and list(indices) == [999, 0] else end), "end = 0.001 must be refused"),
    "an end below 0 accepted [refusal]": (lambda indices, table=1000, end=0.0: table_times(indices, table, max(end, 0.0)), "end = -0.001 must be refused"),
    "index 0 refused [end]": (refuses_too(table_times, lambda indices, *a, **c: not isinstance(indices, torch.Tensor) and 0 in list(indices)), "is valid and must not be refused"),
    "tensors refused [end]": (refuses_too(table_times, lambda indices, *a, **c: isinstance(indices, torch.Tensor)), "is valid and must not be refused"),
    "floats refused [end]": (refuses_too(table_times, lambda indices, *a, **c: isinstance(indices, list) and isinstance(indices[0], float) and indices[0] == 999.0), "is valid and must not be refused"),
    "table 0 accepted [refusal]": (lambda indices, table=1000, end=0.0: table_times(indices, table or 1000, end), "table = 0 must be refused"),
}.items():  # fmt: skip
    plant(TIMES, **{name: wrong})

for name, wrong in {
    "alpha and sigma exchanged [formula]": (seconds(time_of, lambda a, s: (s, a)), "time runs backwards|this sigma / alpha"),
    "sigma alone [formula]": (seconds(time_of, lambda a, s: ((1 - s**2).clamp(min=0).sqrt(), s)), "this sigma / alpha"),
    "alpha alone [formula]": (seconds(time_of, lambda a, s: (a, (1 - a**2).clamp(min=0).sqrt())), "this sigma / alpha"),
    "squares [formula]": (seconds(time_of, lambda a, s: (a**2, s**2)), "this sigma / alpha"),
    "roots [formula]": (seconds(time_of, lambda a, s: (a.sqrt(), s.sqrt())), "this sigma / alpha"),
    "the ratio itself [formula]": (lambda schedule, a, s, end=1.0: (time_of(schedule, a, s, end), (s / a).clamp(max=end))[1], "here it is the ratio itself"),
    "the cosine's [argument]": (lambda schedule, a, s, end=1.0: (time_of(schedule, a, s, end), time_of(cosine, a, s))[1], "this is|here it is that of the cosine"),
    "a straight line's [argument]": (lambda schedule, a, s, end=1.0: (time_of(schedule, a, s, end), time_of(rectified_flow, a, s))[1], "that of a straight line"),
    "20 halvings [precision]": (functools.partial(by_bisection, steps=20), "five digits|this sigma / alpha"),
    "in float32 [precision]": (seconds(time_of, lambda a, s: (a.float().to(a), s.float().to(s))), "five digits|this sigma / alpha"),
    "float64 always [dtype]": (then(time_of, torch.Tensor.double), "float32, not torch.float64"),
    "float32 always [dtype]": (then(time_of, torch.Tensor.float), "this sigma / alpha|digits"),
    "end is 80 by default [end]": (lambda schedule, a, s, end=None: time_of(schedule, a, s, end if end is not None else 80.0 if schedule is edm else 1.0), "here it is 80|counts as the end"),
    "end ignored [end]": (lambda schedule, a, s, end=1.0: (time_of(schedule, a, s, end), time_of(schedule, a, s, end if end > 100 else 80.0 if schedule is edm else 1.0))[1], "counts as the end|here it is 80"),
    "never the end [end]": (functools.partial(by_bisection, nearest=lambda low, high: low * (1 - 1e-6)), "five digits|counts as the end|this sigma / alpha"),
    "not 0 [end]": (then(time_of, lambda t: t.clamp(min=1e-5)), "Without noise|this sigma"),
    "division by alpha [end]": (lambda schedule, a, s, end=1.0: time_of(schedule, torch.where(a == 0, math.nan, a), s, end) if not bool((a == 0).any()) else a * math.nan, "no division by 0|the end"),
    "an entry of the table [time]": (then(time_of, lambda t: (50 * t).round() / 50), "this sigma / alpha|nearest entry"),
    "in place [argument]": (lambda schedule, a, s, end=1.0: (time_of(schedule, a, s, end), a.requires_grad or a.mul_(2))[0], "must stay"),
    "with a gradient [gradient]": (lambda schedule, a, s, end=1.0: time_of(schedule, a, s, end) + 0 * a, "constant"),
    "end = 0 accepted [refusal]": (lambda schedule, a, s, end=1.0: time_of(schedule, a, s, end or 1.0), "end = 0 must be refused"),
    "end below 0 accepted [refusal]": (lambda schedule, a, s, end=1.0: time_of(schedule, a, s, abs(end)), "end = -1.0 must be refused"),
    "end beyond the schedule accepted [refusal]": (lambda schedule, a, s, end=1.0: time_of(schedule, a, s, 1.0 if end == 2.0 else end), "end = 2 must be refused"),
    "end beyond the schedule accepted without noise [refusal]": (forgets(time_of, lambda schedule, a, s, end=1.0: end == 2.0 and not s.any()), "end = 2 must be refused, .* whatever alpha"),
}.items():  # fmt: skip
    plant(TIME, **{name: wrong})

# guidance is another file's check, and one of the twenty
MISTAKES |= {
    "guided: w = scale - 1 (19) [formula]": (check_guided, lambda one, other, scale: (lambda z, t: (1 + column(scale, z) if isinstance(scale, torch.Tensor) else 1 + scale) * (one(z, t) - other(z, t)) + other(z, t)), "one too much"),
    "guided: exchanged (19) [formula]": (check_guided, lambda one, other, scale: (lambda z, t: one(z, t) + (column(scale, z) if isinstance(scale, torch.Tensor) else scale) * (other(z, t) - one(z, t))), "the two are swapped"),
}  # fmt: skip


def some_of(cases, of=4):
    """The cases, of which the first of four, and those of the list, are run always, and the others nightly."""
    for k, name in enumerate(cases):
        fast = k % of == 0 or re.search(r"\(\d+\)", name)
        yield name if fast else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("mistake", some_of(MISTAKES))
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


def test_all_twenty_are_planted():
    """But for what the docstring names."""
    numbers = {int(number) for name in MISTAKES for number in re.findall(r"\((\d+)\)", name)}
    assert numbers == set(range(1, 21))


# right answers, as different people write them


def table_by_hand(net, alpha_bar, kind="eps", clip=None, **conditioning):
    """In float64 throughout; the index from a list; x_hat by a dictionary."""
    table_denoiser(silent(net), alpha_bar, kind, clip)
    padded = torch.cat([torch.ones(1).double(), alpha_bar.double()])

    def schedule(t):
        tabulated(alpha_bar)(t)
        place = t.double() * len(alpha_bar)
        low = torch.clamp(place.floor(), max=len(alpha_bar) - 1).long()
        chord = [torch.lerp(c[low], c[low + 1], place - low) for c in (padded.sqrt(), (1 - padded).sqrt())]
        norm = sum(c**2 for c in chord) ** 0.5
        return tuple((c / norm).to(t.dtype) for c in chord)

    def denoiser(z, t):
        coefficients(schedule, t, z)
        index = [
            max(round(i) if abs(i - round(i)) < 1e-4 * len(alpha_bar) / 1000 + 5e-5 else i, 0)
            for i in (t.double() * len(alpha_bar) - 1).tolist()
        ]
        said = ask_stranger(net, z, t, torch.tensor(index, dtype=torch.float64), **conditioning)
        a, s = (column(c, z) for c in schedule(t.double()))
        x = read_as(said.double(), z.double(), a, s, kind)
        return (
            x if clip is None else torch.maximum(torch.minimum(x, exact(float(clip))), exact(-float(clip)))
        ).to(z.dtype)

    return denoiser, schedule


def table_by_convert(net, alpha_bar, kind="eps", clip=None, **conditioning):
    """A pair as a list; clamps only where clip is given."""
    ours, schedule = table_denoiser(silent(net), alpha_bar, kind, clip)

    def denoiser(z, t):
        ours(z, t)
        x = convert(
            ask_stranger(net, z, t, index_of(t, len(alpha_bar)), **conditioning), z, t, schedule, kind, "x"
        )
        return x if clip is None else torch.clip(x, -float(clip), float(clip))

    return [denoiser, schedule]


def asked_by_hand(net, z, t, clock, **conditioning):
    """ask_stranger, as somebody else writes it."""
    if not callable(net) or hasattr(net, "scheduler") or z.dtype not in (torch.float32, torch.float64):
        raise ValueError("a network, and z in float32")
    if "class_labels" in conditioning and getattr(net, "class_embedding", 1) is None:
        raise ValueError("no classes")
    given, told = z.clone().to(getattr(net, "dtype", z.dtype)), clock.to(z.dtype)
    if isinstance(net, torch.nn.Module) and "timestep" in inspect.signature(net.forward).parameters:
        said = net(given, timestep=told, **conditioning)
    else:
        said = net(given, told, **conditioning)
    if hasattr(said, "sample"):
        said = said.sample
    elif isinstance(said, tuple):
        said, *_ = said
    if not isinstance(said, torch.Tensor) or not said.is_floating_point() or said.shape != z.shape:
        raise ValueError("another answer")
    return said.to(z.dtype)


def flow_by_hand(net, scale=1000.0, **conditioning):
    """By lerp, on a schedule of its own."""
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError("scale is above 0")

    def denoiser(z, t):
        coefficients(rectified_flow, t, z)
        said = asked_by_hand(net, z, t, t * scale, **conditioning)
        return torch.addcmul(z, column(t, z).to(z.dtype), said, value=-1)

    return denoiser, lambda t: (rectified_flow(t)[0], t.clone())


def flow_by_velocity(net, scale=1000, **conditioning):
    """By x = z - t v as `convert` reads a velocity, which needs t below 1 and above 0."""
    flow_denoiser(silent(net), scale)

    def denoiser(z, t):
        said = ask_stranger(net, z, t, t.double() * float(scale), **conditioning)
        return convert(said, z, t.double(), rectified_flow, "velocity", "x")

    return denoiser, rectified_flow


def edm_by_hand(net, data_std=0.5, sign=1, scale=0.25, t_min=0.0, **conditioning):
    """As the papers write it, in float64, and by the angle."""
    still, _ = edm_denoiser(silent(net), data_std, sign, scale, t_min)

    def denoiser(z, t):
        still(z, t)
        T, sd = column(t.double(), z), float(data_std)
        r = (T**2 + sd**2).sqrt()
        said = asked_by_hand(net, (z / r).to(z.dtype), t, scale * torch.log(t.double()), **conditioning)
        far = T - torch.tensor(t_min, dtype=t.dtype).item()
        return (z / (1 + far.square() / sd**2) + sign * said * far * sd / r).to(z.dtype)

    return denoiser, lambda t: (torch.ones_like(t), t)


def moved_by_bisection(denoiser, source, target, end=None):
    """60 halvings, in float64."""
    end = end if end is not None else 80.0 if source is edm else 1.0
    return moved_with(lambda source, target, t, a, s, end: by_bisection(source, a, s, end))(
        denoiser, source, target, end
    )


def moved_by_formulas(denoiser, source, target, end=None):
    """Closed forms where there are some."""

    def time(source, target, t, a, s, end):
        found = {rectified_flow: s / (a + s), cosine: 2 / math.pi * torch.atan2(s, a), edm: s / a}.get(source)
        return time_of(source, a, s, end) if found is None else found.clamp(max=end)

    return moved_with(time)(denoiser, source, target, end)


def times_by_a_list(indices, table=1000, end=0.0):
    table_times(indices, table, end)
    return torch.tensor([*((float(i) + 1) / int(table) for i in indices), float(end)])


def by_names(net, scheduler, clip=None, **conditioning):
    """By the class, and by attributes of its config."""
    from_scheduler(silent(net), scheduler, clip)
    read_config(scheduler, type(net).__name__)
    config, name = scheduler.config, type(scheduler).__name__
    if name.startswith("CM"):
        return edm_by_hand(net, config.sigma_data, 1, 250.0, config.sigma_min, **conditioning)
    if name.startswith("EDM"):
        return edm_by_hand(
            net, config.sigma_data, {"epsilon": 1, "v_prediction": -1}[config.prediction_type], **conditioning
        )
    if getattr(config, "timestep_type", "") == "continuous":
        return edm_by_hand(net, 1.0, -1, **conditioning)
    if name.startswith("FlowMatch") or config.prediction_type == "flow_prediction":
        return flow_by_hand(net, float(config.num_train_timesteps), **conditioning)
    table = scheduler.alphas_cumprod.double().clone()
    if getattr(config, "rescale_betas_zero_snr", False):
        table[-1] = 0
    kind = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}[config.prediction_type]
    return table_by_convert(net, table, kind, clip, **conditioning)


RIGHT = {
    "table with": (TABLE, table_with()),
    "table by hand": (TABLE, table_by_hand),
    "table by convert": (TABLE, table_by_convert),
    "flow with": (FLOW, flow_with()),
    "flow by hand": (FLOW, flow_by_hand),
    "flow by convert": (FLOW, flow_by_velocity),
    "EDM with": (EDM, edm_with()),
    "EDM by hand": (EDM, edm_by_hand),
    "moved by formulas": (MOVED, moved_by_formulas),
    "moved by bisection": (MOVED, moved_by_bisection),
    "from with": (FROM, from_with()),
    "from, by hand": (FROM, from_with(flow=flow_by_hand, edm=edm_by_hand, table=table_by_convert)),
    "from, by names": (FROM, by_names),
    "times with": (TIMES, times_with()),
    "times by a list": (TIMES, times_by_a_list),
    "time by bisection": (TIME, by_bisection),
    "time by its middle": (TIME, functools.partial(by_bisection, nearest=lambda low, high: torch.where(high - low < 1e-9 * high, high, (low + high) / 2))),
    "from, around": (FROM, around(from_scheduler)),
}  # fmt: skip


@pytest.mark.parametrize("name", some_of(RIGHT, 2))
def test_right_answer_passes(name, unchecked_shapes):
    check, right = RIGHT[name]
    with torch.enable_grad():
        check(right)


# numbers of diffusers, which were computed once


def agree(found, expected, tol=1e-5):
    """To tol of the largest number."""
    size = max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(found.double() / size, expected.double() / size, atol=tol, rtol=0)


def network(w):
    """The formula of the file."""
    return lambda z, i: checks.Stranger(w).by_hand(z, i).detach()


DEFAULTS = {
    "DDIMScheduler": checks.DDIM,
    "EulerDiscreteScheduler": checks.EULER,
    "LCMScheduler": checks.DDIM,
    "EDMEulerScheduler": checks.EDM,
    "CMStochasticIterativeScheduler": checks.CM,
    "FlowMatchEulerDiscreteScheduler": checks.FLOW,
    "FlowMatchLCMScheduler": checks.FLOW,
}
BETAS = {
    "linear": lambda start, end: torch.linspace(start, end, 1000),
    "scaled_linear": lambda start, end: torch.linspace(start**0.5, end**0.5, 1000) ** 2,
    "squaredcos_cap_v2": lambda start, end: beta_table("squaredcos").float(),
}


def played(case):
    """The scheduler of a case, with the table that diffusers makes, in float32."""
    config = DEFAULTS[case["scheduler"]] | case["config"]
    if "beta_schedule" not in config:
        return checks.played(case["scheduler"], **config)
    beta = BETAS[config["beta_schedule"]](config["beta_start"], config["beta_end"])
    table = (1 - beta).cumprod(0)
    table = zero_terminal_snr(table) if config["rescale_betas_zero_snr"] else table
    return checks.played(case["scheduler"], table, **config)


def sampled(case, **settings):
    """What the package makes of a case."""
    scheduler, name, timesteps = played(case), case["scheduler"], exact(*case["timesteps"])
    denoiser, schedule = from_scheduler(network(case["w"]), scheduler, **settings)
    if name.startswith("FlowMatch"):
        times = torch.cat([timesteps / 1000, exact(0)])
    elif name.startswith("EDM"):
        times = torch.cat([(4 * timesteps).exp(), exact(0)])
    elif name.startswith("CM"):
        times = torch.cat([(timesteps / 250).exp(), exact(0.002)])
    else:
        end = 0.0 if scheduler.config.get("set_alpha_to_one", True) else 0.001
        times = torch.cat([(timesteps + 1) / 1000, exact(end)])
        torch.testing.assert_close(table_times(case["timesteps"], end=end).double(), times, atol=1e-7, rtol=0)
    if name == "EulerDiscreteScheduler":
        alpha, sigma = schedule(times)
        denoiser, schedule, times = rescheduled(denoiser, schedule, edm), edm, sigma / alpha
    z, noises = (torch.tensor(GOLDEN[key], dtype=torch.float64) for key in ("z0", "noises"))
    if case["noises"] or name.startswith("FlowMatchLCM"):
        return renoise(denoiser, case["start_scale"] * z, times, schedule, list(noises[: len(times) - 2]))
    return ddim(denoiser, case["start_scale"] * z, times, schedule)


def expected(case):
    return torch.tensor(case["expected"], dtype=torch.float64).view(2, 1, 2, 2)


UNMATCHED = [name for name, case in CASES.items() if "must NOT be matched" in case["note"]]


def test_all_golden_cases_are_here():
    assert len(CASES) == 23
    assert UNMATCHED == ["v_clip_default_4", "eps_linear_trailing_32", "v_linspace_4"]


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNMATCHED])
def test_golden(name):
    """clip_sample is a clamp of x_hat only with use_clipped_model_output."""
    case = CASES[name]
    agree(sampled(case, **({"clip": 1.0} if case.get("step") else {})), expected(case))


@pytest.mark.parametrize("name", UNMATCHED)
def test_golden_that_must_not_be_matched(name):
    case = CASES[name]
    if name == "v_linspace_4":
        with pytest.raises(ValueError, match="linspace"):
            sampled(case)
        case = case | {"config": case["config"] | {"timestep_spacing": "leading"}}
    found = sampled(case, **({"clip": 1.0} if "clip" in name else {}))
    assert (found - expected(case)).abs().max() > 1e-4 * expected(case).abs().max()


# diffusers' own loops, on a tiny network


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def tiny(diffusers, seed=0, **settings):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32)}
    return diffusers.UNet2DModel(**sizes | settings, **blocks, layers_per_block=1, norm_num_groups=8).eval()


@pytest.fixture(scope="module")
def unet(diffusers):
    return tiny(diffusers)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded():
    return torch.Generator().manual_seed(5)


START = noise(2, 1, 8, 8)
KINDS = ("epsilon", "v_prediction", "sample")


@torch.no_grad()
def loop(net, scheduler, z=START, generator=None):
    """A pipeline's loop."""
    more = {} if generator is None else {"generator": generator}
    for t in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda z, t: z)
        z = scheduler.step(net(scale(z, t), t).sample, t, z, **more).prev_sample
    return z


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("betas", BETAS)
def test_ddim_is_diffusers(diffusers, unet, kind, betas):
    ranges = {"beta_start": 0.00085, "beta_end": 0.012} if betas == "scaled_linear" else {}
    for zero, spacing in itertools.product((False, True), ("leading", "trailing")):
        if (kind, zero) == ("epsilon", True):
            continue
        scheduler = diffusers.DDIMScheduler(
            prediction_type=kind,
            beta_schedule=betas,
            rescale_betas_zero_snr=zero,
            timestep_spacing=spacing,
            clip_sample=False,
            **ranges,
        )
        denoiser, schedule = from_scheduler(unet, scheduler)
        for steps in (1, 4, 10) if betas == "linear" else (4,):
            scheduler.set_timesteps(steps)
            with torch.no_grad():
                found = ddim(denoiser, START, table_times(scheduler.timesteps), schedule)
            agree(found, loop(unet, scheduler))


def test_ddim_that_ends_at_its_first_entry(diffusers, unet):
    settings = {"beta_schedule": "scaled_linear", "steps_offset": 1, "clip_sample": False}
    scheduler = diffusers.DDIMScheduler(set_alpha_to_one=False, **settings)
    scheduler.set_timesteps(4)
    denoiser, schedule = from_scheduler(unet, scheduler)
    with torch.no_grad():
        ends = (table_times(scheduler.timesteps, end=end) for end in (0.001, 0.0))
        found, to_0 = (ddim(denoiser, START, times, schedule) for times in ends)
    agree(found, loop(unet, scheduler))
    assert (to_0 - found).abs().max() > 1e-5 * found.abs().max()


QUARTERS = [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    "settings,call,shift",
    [
        ({"shift": 1.0}, {"num_inference_steps": 4}, None),
        ({"shift": 3.0}, {"num_inference_steps": 4}, None),
        ({"shift": 7.0}, {"sigmas": QUARTERS}, 7.0),
        ({"use_dynamic_shifting": True}, {"sigmas": QUARTERS, "mu": 1.15}, math.exp(1.15)),
    ],
)
def test_flow_is_diffusers(diffusers, unet, settings, call, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(**call)
    denoiser, schedule = from_scheduler(unet, scheduler)
    times = scheduler.sigmas.clone()
    with torch.no_grad():
        found = ddim(denoiser, START, times, schedule)
        agree(phased_sample(as_velocity(denoiser), START, times), found)
    agree(found, loop(unet, scheduler))
    assert schedule is rectified_flow
    if shift:
        agree(times, phase_grid(4, shift).flip(0))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_edm_is_diffusers(diffusers, unet, kind):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=kind)
    scheduler.set_timesteps(6)
    denoiser, schedule = from_scheduler(unet, scheduler)
    z = scheduler.init_noise_sigma * START
    with torch.no_grad():
        agree(ddim(denoiser, z, scheduler.sigmas.clone(), schedule), loop(unet, scheduler, z))
    agree(scheduler.sigmas[:-1], karras_sigmas(6))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_euler_is_rescheduled(diffusers, unet, kind, spacing):
    """linspace, its default, is accepted: it is asked between two entries of its table."""
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=kind, timestep_spacing=spacing)
    scheduler.set_timesteps(5)
    denoiser, schedule = from_scheduler(unet, scheduler)
    z = scheduler.init_noise_sigma * START
    with torch.no_grad():
        found = ddim(rescheduled(denoiser, schedule, edm), z, scheduler.sigmas.clone(), edm)
    agree(found, loop(unet, scheduler, z), 1e-5 if spacing == "trailing" else 1e-3)


def test_lcm_is_diffusers(diffusers, unet):
    scheduler = diffusers.LCMScheduler(prediction_type="v_prediction", clip_sample=False)
    denoiser, schedule = from_scheduler(unet, scheduler)
    for timesteps in ([999], [999, 499], [999, 759, 499, 259]):
        scheduler.set_timesteps(timesteps=timesteps, original_inference_steps=1000)
        with torch.no_grad():
            found = renoise(denoiser, START, table_times(timesteps), schedule, generator=seeded())
        agree(found, loop(unet, scheduler, generator=seeded()))


def test_lcm_of_a_flow_is_diffusers(diffusers, unet):
    scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0)
    denoiser, schedule = from_scheduler(unet, scheduler)
    for sigmas in ([1.0], [1.0, 0.5], QUARTERS):
        scheduler.set_timesteps(sigmas=sigmas)
        with torch.no_grad():
            found = renoise(denoiser, START, scheduler.sigmas.clone(), schedule, generator=seeded())
            fresh = phased_sample(as_velocity(denoiser), START, scheduler.sigmas.clone(), 1.0, seeded())
        agree(found, loop(unet, scheduler, generator=seeded()))
        agree(fresh, found)


def test_a_consistency_model_is_diffusers(diffusers, unet):
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    denoiser, schedule = from_scheduler(unet, scheduler)
    for timesteps in ([0], [22, 0]):
        scheduler.set_timesteps(timesteps=timesteps)
        with torch.no_grad():
            found = renoise(denoiser, 80 * START, scheduler.sigmas.clone(), schedule, generator=seeded())
        agree(found, loop(unet, scheduler, 80 * START, seeded()))


def test_a_pipeline_that_was_saved(diffusers, tmp_path):
    """The student is the network, trained in place: its own library saves it, and reads it back."""
    net = tiny(diffusers, 1)
    teacher = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    denoiser, schedule = from_scheduler(net, teacher)
    scheduler, settings = to_scheduler("progressive", teacher, time_grid(4))
    diffusers.DDIMPipeline(net, scheduler).save_pretrained(tmp_path)
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(batch_size=2, generator=seeded(), output_type="np", **settings).images
    z = torch.randn((2, 1, 8, 8), generator=seeded())
    with torch.no_grad():
        found = (ddim(denoiser, z, time_grid(4), schedule) / 2 + 0.5).clamp(0, 1)
    agree(found.permute(0, 2, 3, 1), torch.from_numpy(images))
    with pytest.raises(ValueError, match=r"a network, as pipe\.unet or pipe\.transformer, got DDIMPipeline"):
        from_scheduler(pipe, scheduler)[0](z, torch.ones(2))


# the way back


def both(net, student, teacher, times, z=START):
    """What the package's sampler makes of a student, and what its scheduler does."""
    denoiser, schedule = from_scheduler(net, teacher)
    scheduler, settings = to_scheduler(student, teacher, times)
    scheduler.set_timesteps(**settings)
    fresh = student == "consistency"
    with torch.no_grad():
        if student == "phased":
            found = phased_sample(as_velocity(denoiser), z, times)
        elif fresh:
            found = renoise(denoiser, z, times, schedule, generator=seeded())
        else:
            found = ddim(denoiser, z, times, schedule)
    return found, loop(net, scheduler, z, seeded() if fresh else None)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_student_of_a_table_goes_back(diffusers, unet, kind):
    for teacher in (
        diffusers.DDIMScheduler(
            prediction_type=kind, rescale_betas_zero_snr=True, set_alpha_to_one=False, steps_offset=1
        ),
        diffusers.DDPMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2"),
        diffusers.EulerDiscreteScheduler(prediction_type=kind, beta_schedule="scaled_linear"),
        diffusers.UniPCMultistepScheduler(prediction_type=kind, trained_betas=beta_table("linear").tolist()),
        diffusers.EulerDiscreteScheduler(prediction_type=kind, rescale_betas_zero_snr=True),
    ):
        for steps in (1, 4):
            agree(*both(unet, "progressive", teacher, time_grid(steps)))
        for timesteps in ([999], [999, 549]):
            agree(*both(unet, "consistency", teacher, table_times(timesteps)))


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": 3.0},
        {"shift": 7.0, "use_karras_sigmas": True},
        {"use_dynamic_shifting": True},
        {"shift": 3.0, "stochastic_sampling": True},
        {"shift": 3.0, "shift_terminal": 0.1},
    ],
    ids=str,
)
def test_a_student_of_a_flow_goes_back(diffusers, unet, settings):
    teacher = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    for student in ("progressive", "phased", "consistency"):
        for times in (time_grid(2), phase_grid(4, 3.0).flip(0)):
            agree(*both(unet, student, teacher, times))


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_a_student_of_a_flow_solver_goes_back(diffusers, unet, name):
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    for student in ("progressive", "phased", "consistency"):
        agree(*both(unet, student, getattr(diffusers, name)(**settings), phase_grid(4, 3.0).flip(0)))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_student_of_edm_goes_back(diffusers, unet, kind):
    teacher, times = diffusers.EDMEulerScheduler(prediction_type=kind), 80 * time_grid(4) ** 7
    found, theirs = both(unet, "progressive", teacher, times, 80 * START)
    agree(found, theirs)


def test_a_solver_of_flows_leaves_no_switch_behind(diffusers):
    """Some pipelines drop the sigmas that they are given where the config says use_flow_sigmas."""
    teacher = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler, settings = to_scheduler("phased", teacher, phase_grid(2, 3.0).flip(0))
    assert "use_flow_sigmas" not in scheduler.config and settings["sigmas"] == pytest.approx([1.0, 0.5])


def test_compiled_networks(diffusers, unet):
    """A wrapper hides the names of the network's arguments, and its class."""
    scheduler, t = diffusers.DDIMScheduler(prediction_type="v_prediction"), torch.tensor([0.5, 0.9])
    compiled = torch.compile(unet, backend="eager")
    with torch.no_grad():
        agree(*(from_scheduler(net, scheduler)[0](START, t) for net in (compiled, unet)))


def test_a_consistency_model_goes_back(diffusers, unet):
    teacher = diffusers.CMStochasticIterativeScheduler()
    sigmas = torch.tensor([80.0, karras_sigmas(40)[22], 0.002])
    for times in (sigmas, sigmas[[0, 2]].clone()):
        agree(*both(unet, "consistency", teacher, times, 80 * START))


def test_what_does_not_go_back(diffusers):
    table = diffusers.DDIMScheduler(prediction_type="v_prediction")
    flow, model = diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.CMStochasticIterativeScheduler()
    elucidated, other = diffusers.EDMEulerScheduler(), diffusers.CogVideoXDDIMScheduler()
    half, to_0, to_end = torch.tensor([1.0, 0.5]), torch.tensor([80.0, 0.0]), torch.tensor([80.0, 0.002])
    for student, scheduler, times, sentence in (
        ("progressive", table, time_grid(32), "entries of its table"),
        ("progressive", table, table_times([999, 549]), "steps that divide 1000"),
        ("progressive", table, time_grid(3), "entries of its table"),
        ("progressive", table, half, "ends at time 0, and these times at 0.5"),
        ("progressive", table, time_grid(4).flip(0), "times must fall"),
        ("consistency", table, torch.tensor([1.0, 0.50051, 0.0]), "entries of its table"),
        ("consistency", table, table_times([999], end=0.001), "ends at time 0"),
        ("phased", table, time_grid(4), "no scheduler is known here for a phased student of DDIMScheduler"),
        ("phased", flow, half, "ends at time 0"),
        ("consistency", flow, half, "ends at time 0"),
        ("consistency", model, to_0, "ends at time 0.002"),
        ("consistency", model, torch.tensor([80.0, 1.0, 0.002]), "entries of its table"),
        ("progressive", model, to_end, "no scheduler is known here for a progressive student"),
        ("phased", model, to_end, "no scheduler is known here for a phased student"),
        (
            "consistency",
            model,
            torch.tensor([38.3, 1.0, 0.002]),
            "sampling starts at sigma_max, 80, not at 38.3",
        ),
        (
            "progressive",
            elucidated,
            torch.tensor([1.0, 0.5, 0.0]),
            "sampling starts at sigma_max, 80, not at 1",
        ),
        ("phased", elucidated, to_0, "no scheduler is known here for a phased student"),
        ("consistency", elucidated, to_0, "no scheduler is known here for a consistency student of EDMEuler"),
        ("phased", flow, torch.tensor([1.2, 0.5, 0.0]), "times must be"),
        ("consistency", table, torch.tensor([1.2, 0.5, 0.0]), "times must be"),
        ("pcm", flow, time_grid(4), 'student must be "progressive", "consistency" or "phased"'),
        ("progressive", other, time_grid(4), "makes another table of this config"),
        ("consistency", other, time_grid(4), "makes another table of this config"),
    ):
        with pytest.raises(ValueError, match=sentence):
            to_scheduler(student, scheduler, times)


# real schedulers and networks, and what is refused of them


def test_real_schedulers_are_read(diffusers):
    """The reader, and what it is given."""
    v, flow = (
        {"prediction_type": "v_prediction"},
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    )
    for name, settings, family, wanted in (
        ("DDPMScheduler", {}, "table", {"kind": "eps"}),
        ("EulerDiscreteScheduler", {}, "table", {"kind": "eps"}),
        ("EulerDiscreteScheduler", v | {"timestep_type": "continuous"}, "edm", {"data_std": 1, "sign": -1}),
        ("PNDMScheduler", v, "table", {"kind": "v"}),
        ("HeunDiscreteScheduler", {"prediction_type": "sample"}, "table", {"kind": "x"}),
        ("UniPCMultistepScheduler", flow, "flow", {"scale": 1000}),
        ("DPMSolverMultistepScheduler", flow, "flow", {"scale": 1000}),
        ("FlowMatchHeunDiscreteScheduler", {"num_train_timesteps": 500}, "flow", {"scale": 500}),
        ("EDMDPMSolverMultistepScheduler", v, "edm", {"data_std": 0.5, "sign": -1}),
        (
            "CMStochasticIterativeScheduler",
            {"sigma_data": 0.7},
            "edm",
            {"data_std": 0.7, "scale": 250, "t_min": 0.002},
        ),
    ):
        found, given = read_config(getattr(diffusers, name)(**settings))
        assert found == family
        assert {key: value for key, value in given.items() if key != "alpha_bar"} == wanted
    zero = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True, **v)
    _, schedule = from_scheduler(network(300.0), zero)
    assert zero.alphas_cumprod[-1] > 0 and schedule(torch.ones(1))[0] == 0


def test_real_schedulers_that_are_refused(diffusers):
    table, flow, betas = (
        diffusers.DDIMScheduler,
        diffusers.FlowMatchEulerDiscreteScheduler,
        diffusers.DDIMScheduler(),
    )
    betas.alphas_cumprod = betas.betas
    for scheduler, sentence in (
        (table(prediction_type="velocity"), "DDIMScheduler with prediction_type 'velocity' is not known here"),
        (table(timestep_spacing="linspace"), "linspace.*Take trailing or leading"),
        (table(thresholding=True), "clamps each sample by its own numbers"),
        (table(rescale_betas_zero_snr=True), "ends at alpha = 0.*is it v"),
        (betas, "are these betas"),
        (diffusers.DDPMScheduler(variance_type="learned_range"), "give its first half"),
        (diffusers.DDPMScheduler(variance_type="learned"), "give its first half"),
        (flow(invert_sigmas=True), "its time 0 is noise"),
        (diffusers.ScoreSdeVeScheduler(), "ScoreSdeVeScheduler with prediction_type None is not known"),
        (diffusers.EDMEulerScheduler(prediction_type="sample"), "'sample' is not known"),
        (diffusers.IPNDMScheduler(), "not known"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "prediction_type 'epsilon' is not known"),
        (types.SimpleNamespace(scheduler=flow(), config={}), "needed: a scheduler of diffusers, as pipe.scheduler"),
        (flow, "as pipe.scheduler, got type"),
        (flow().config, "as pipe.scheduler, got FrozenDict"),
        (importlib.import_module("diffusers.schedulers.scheduling_consistency_decoder").ConsistencyDecoderScheduler(), "not known"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            from_scheduler(network(300.0), scheduler)
    with pytest.raises(ValueError, match="clip is for the x_hat of a table"):
        from_scheduler(network(300.0), flow(), clip=1.0)
    for name, sentence in (
        ("FluxTransformer2DModel", r"multiplies the time itself: flow_denoiser\(net, scale=1\)"),
        ("QwenImageTransformer2DModel", "multiplies the time itself"),
        ("ZImageTransformer2DModel", "has another clock or sign: wrap it"),
        ("Lumina2Transformer2DModel", "has another clock or sign: wrap it"),
    ):
        net = type(name, (torch.nn.Module,), {})()
        wrapped = [functools.partial(net) for _ in range(2)]
        wrapped[0]._orig_mod, wrapped[1].module = net, net  # compiled, data parallel
        for one in (net, *wrapped):
            with pytest.raises(ValueError, match=f"{name} {sentence}"):
                from_scheduler(one, flow())


def test_real_networks(diffusers, unet):
    labelled, labels, t = tiny(diffusers, num_class_embeds=3), torch.tensor([0, 2]), torch.tensor([0.5, 1.0])
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
    with torch.no_grad():
        denoiser, schedule = from_scheduler(labelled, scheduler, class_labels=labels)
        alpha, sigma = (column(c, START) for c in schedule(t))
        said = labelled(START, torch.tensor([499.0, 999.0]), class_labels=labels).sample
        agree(denoiser(START, t), alpha * START - sigma * said)
    denoiser, _ = from_scheduler(unet, scheduler)
    for call, sentence in (
        (lambda: from_scheduler(unet, scheduler, class_labels=labels)[0](START, t), "this network was made without classes"),
        (lambda: from_scheduler(tiny(diffusers, out_channels=2), scheduler)[0](START, t), "a learned variance"),
        (lambda: denoiser(START, torch.tensor([999.0, 499.0])), r"A DDPM's step i of n is t = \(i \+ 1\) / n"),
        (lambda: denoiser(START, torch.tensor([0.0, 999.0])), r"A DDPM's step i of n is t = \(i \+ 1\) / n"),
        (lambda: denoiser(START.half(), t), "z must be float32 or float64"),
        (lambda: denoiser(START.bfloat16(), t.bfloat16()), "z must be float32 or float64"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(diffusers, dtype):
    scheduler, t = diffusers.DDIMScheduler(prediction_type="v_prediction"), torch.tensor([0.5, 0.9])
    with torch.no_grad():
        right, found = (
            from_scheduler(net, scheduler)[0](START, t)
            for net in (tiny(diffusers), tiny(diffusers).to(dtype))
        )
    assert found.dtype == torch.float32
    agree(found, right, 0.02)


def test_guidance_with_embeddings(diffusers):
    """As StableDiffusionPipeline does it: [negative, positive] in one batch, then the sum with guidance_scale."""
    torch.manual_seed(0)
    net = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )
    scheduler.set_timesteps(4)
    z = start = noise(2, 4, 8, 8)
    text, nothing = noise(2, 5, 8, seed=1), noise(2, 5, 8, seed=2)
    with torch.no_grad():
        for index in scheduler.timesteps:
            without, with_text = net(
                torch.cat([z, z]), index, encoder_hidden_states=torch.cat([nothing, text])
            ).sample.chunk(2)
            z = scheduler.step(without + 7.5 * (with_text - without), index, z).prev_sample
        (one, schedule), (other, _) = (
            from_scheduler(net, scheduler, encoder_hidden_states=c) for c in (text, nothing)
        )
        found = ddim(guided(one, other, 7.5), start, table_times(scheduler.timesteps, end=0.001), schedule)
    agree(found, z)


# what is committed

LESSONS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("kind,level", [("v", math.inf), ("eps", 157)])
def test_the_strangers_of_the_lesson(diffusers, kind, level):
    folder = LESSONS / "checkpoints" / f"stranger-{kind}"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 750_000
    pipe = diffusers.DDIMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    denoiser, schedule = from_scheduler(pipe.unet.eval(), pipe.scheduler)
    alpha, sigma = schedule(torch.ones(1))
    assert (sigma / alpha).item() == pytest.approx(level, rel=0.01)
    trailing = diffusers.DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    trailing.set_timesteps(10)
    with torch.no_grad():
        found = ddim(denoiser, START, time_grid(10), schedule)
    agree(found, loop(pipe.unet, trailing))
    assert found.abs().max() < 1.6  # digits in [-1, 1]


def test_the_script_that_made_them(diffusers, tmp_path):
    command = [sys.executable, str(LESSONS / "stranger.py"), "v", "--updates", "2", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    ours, theirs = (
        sorted(f.relative_to(root) for f in root.rglob("*.*"))
        for root in (LESSONS / "checkpoints/stranger-v", tmp_path / "stranger-v")
    )
    assert ours == theirs


def test_the_costs_in_the_docstring_are_those_of_the_lesson():
    cells = json.loads((LESSONS / "15_your_model.ipynb").read_text())["cells"]
    printed = "".join("".join(o.get("text", [])) for cell in cells for o in cell.get("outputs", []))
    rows = re.findall(r"^ {8}(\S.*?) {3,}(\d\.\d\d) +(\d\.\d\d) +(\d\.\d\d)$", to_scheduler.__doc__, re.M)
    assert len(rows) == 6
    for name, *costs in rows:
        measured = re.search(rf"^{re.escape(name)} +([\d.]+) +([\d.]+) +([\d.]+)$", printed, re.M).groups()
        assert [float(cost) for cost in costs] == pytest.approx([float(m) for m in measured], abs=0.0051), (
            name
        )


def test_diffusers_is_an_extra():
    code = "import sys, minidistill.pretrained; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# the package's losses


class Pixels(torch.nn.Module):
    """A network that is told an index, and answers as others' do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))

    def forward(self, z, i):
        return types.SimpleNamespace(sample=self.layers(torch.cat([z, i[:, None] / 1000], 1)))


X, EPS = noise(8, 2, seed=1), noise(8, 2, seed=2)
ZERO = zero_terminal_snr((1 - beta_table("squaredcos")).cumprod(0))


def phased_of(student, teacher, schedule):
    velocities = (as_velocity(rescheduled(f, schedule, rectified_flow)) for f in (student, student, teacher))
    grid = phase_grid(8, 3.0)
    return phased_loss(*velocities, X, EPS, torch.arange(1, 9), grid, grid[::4].clone())


LOSSES = {
    "diffusion": lambda student, teacher, schedule: diffusion_loss(student, X, schedule),
    "progressive": lambda student, teacher, schedule: progressive_loss(student, teacher, X, 4, schedule),
    "ect": lambda student, teacher, schedule: ect_loss(rescheduled(student, schedule, edm), X, EPS, torch.linspace(0.1, 3, 8), 2),
    "phased": phased_of,
    "lcm": lambda student, teacher, schedule: lcm_loss(student, student, teacher, X, EPS, 100 * torch.arange(1, 9), schedule),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_reach_a_stranger(name):
    net = Pixels()
    student, schedule = table_denoiser(net, ZERO, "v")
    loss = LOSSES[name](student, table_denoiser(Pixels(), ZERO, "v")[0], schedule)
    assert loss.shape == (8,) and loss.isfinite().all()
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


PLANE = ProductMixture(
    *(exact(*part).view(2, 2) for part in ((0.3, 0.7, 0.5, 0.5), (-1, 1, 0, 2), (0.3, 0.5, 0.4, 0.2)))
)


@pytest.mark.parametrize(
    "schedule", [tabulated(checks.LINEAR), tabulated(checks.SCALED), rectified_flow, cosine]
)
def test_ect_through_another_schedule_is_ect(schedule):
    sigmas = torch.linspace(0.05, 14, 8).double()
    moved = rescheduled(PLANE.denoiser(schedule), schedule, edm)
    found, right = (ect_loss(f, X.double(), EPS.double(), sigmas, 4) for f in (moved, PLANE.denoiser(edm)))
    torch.testing.assert_close(found, right, atol=1e-9, rtol=1e-6)


def test_progressive_on_edm():
    """Its times run to 1, and EDM's to 80: a schedule that warps them."""
    warped = lambda t: edm(80 * t**7)
    exactly, moved = PLANE.denoiser(warped), rescheduled(PLANE.denoiser(edm), edm, warped)
    z, t = 80 * EPS.double(), torch.linspace(0.05, 1, 8).double()
    torch.testing.assert_close(moved(z, t), exactly(z, t), atol=1e-9, rtol=1e-9)
    losses = (
        progressive_loss(lambda z, t: torch.tanh(z), f, X.double(), 8, warped, "constant", seeded())
        for f in (moved, exactly)
    )
    torch.testing.assert_close(*losses, atol=1e-9, rtol=1e-9)


def test_edm_is_refused_where_times_end_at_1():
    with pytest.raises(ValueError, match=r"i / n ends at 1: take lambda t: edm\(80 \* t\*\*7\)"):
        progressive_loss(silent(None), silent(None), X, 4, edm)
    with pytest.raises(ValueError, match="edm's time is sigma, beyond 1, too: pass t"):
        diffusion_loss(silent(None), X, edm)
    assert diffusion_loss(silent(None), X[:4], edm, t=torch.tensor([0.1, 1.0, 20.0, 80.0])).shape == (4,)


# what else is refused, and how


def test_half_precision():
    """A stranger refuses z in half precision, and through `rescheduled` it is asked in float32."""
    z, t = noise(2, 3).bfloat16(), torch.tensor([0.5, 0.9])
    denoiser, schedule = table_denoiser(network(300.0), checks.LINEAR, "v")
    assert rescheduled(denoiser, schedule, rectified_flow)(z, t).dtype == torch.bfloat16
    for denoiser, _ in (edm_denoiser(network(1.0)), flow_denoiser(network(300.0))):
        with pytest.raises(ValueError, match="z must be float32 or float64"):
            denoiser(z, t)


def test_bad_input(unchecked_shapes):
    z, t, net = noise(2, 3), torch.tensor([0.5, 0.9]), network(300.0)
    table, beta = checks.LINEAR, beta_table("linear")
    for call, sentence in (
        (lambda: table_denoiser(net, table, "epsilon"), "kind must be \"eps\", \"v\" or \"x\", got 'epsilon'"),
        (lambda: table_denoiser(net, beta), "are these betas"),
        (lambda: table_denoiser(net, 1 - beta), r"alpha_bar is cumprod\(1 - beta\), near 0 at the end, and not 0\.98"),
        (lambda: table_denoiser(net, zero_terminal_snr(table)), "eps says nothing about the data: is it v"),
        (lambda: table_denoiser(net, table, clip=0), "clip must be above 0"),
        (lambda: table_denoiser(net, table)[0](z, 1000 * t), "A DDPM's step i of n"),
        (lambda: table_denoiser(net, table)[0](z, t[:1]), r"t must be a float tensor \(2,\)"),
        (lambda: table_denoiser(net, table)[0](z.half(), t), "z must be float32 or float64, got torch.float16: only the network"),
        (lambda: table_denoiser(None, table)[0](z, t), "needed: a network, as pipe.unet or pipe.transformer, got NoneType"),
        (lambda: table_denoiser(lambda z, i: z[:, :1], table)[0](z, t), "the network returned shape"),
        (lambda: table_denoiser(lambda z, i: torch.cat([z, z], 1), table)[0](z, t), "a learned variance: wrap the network"),
        (lambda: table_denoiser(lambda z, i: None, table)[0](z, t), "the network returned NoneType"),
        (lambda: flow_denoiser(lambda z, i: z.mul_(2))[0](z.clone(), t), "the model changed its input in place"),
        (lambda: flow_denoiser(net, 0), "scale must be above 0"),
        (lambda: flow_denoiser(net, -1000), "scale must be above 0"),
        (lambda: flow_denoiser(net)[0](z, 1.5 * t), "this schedule runs from t = 0"),
        (lambda: edm_denoiser(net)[0](z, 0 * t), "sigma must be above 0 for each sample: the network is told its logarithm"),
        (lambda: edm_denoiser(net, t_min=0.6)[0](z, t), "t must be at least 0.6"),
        (lambda: edm_denoiser(net, 0)[0](z, t), "data_std must be above 0"),
        (lambda: edm_denoiser(net, sign=math.nan), "sign must be a finite number"),
        (lambda: rescheduled(net, cosine, edm, 0), "end must be above 0"),
        (lambda: rescheduled(net, cosine, edm, 2)(z, t), "this schedule runs from t = 0"),
        (lambda: rescheduled(as_velocity(net), cosine, edm)(z, t), "needed: a model that predicts x"),
        (lambda: from_scheduler(net, object()), "needed: a scheduler of diffusers, as pipe.scheduler, got object"),
        (lambda: table_times([1000]), "indices must be from 0 to 999"),
        (lambda: table_times([968.75, 937.5]), "do the steps divide 1000"),
        (lambda: table_times([0, 999]), "times must fall"),
        (lambda: table_times([999, 0], end=0.001), "times must fall"),
        (lambda: table_times([0], end=-1), "end must be at least 0"),
        (lambda: table_times([0], 0), "table must be at least 1"),
        (lambda: time_of(cosine, t, t, -1.0), "end must be above 0"),
        (lambda: time_of(cosine, t, t, 2.0), "this schedule runs from t = 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            call()
