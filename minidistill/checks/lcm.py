"""Checks of latent consistency models: the numbers of the released code, and the loss by hand."""

import itertools
import math

import torch

from minidistill import lcm
from minidistill.checks import (
    accepts,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    recorded,
    refuses,
)
from minidistill.checks.phased import (
    DIMS,
    DOUBLE,
    NETS,
    Net,
    anywhere,
    float32_numbers,
    huber,
    likely_distances,
    other_shapes,
    student,
    target,
    teacher,
)
from minidistill.schedules import beta_table, cosine, tabulated

TABLE = tabulated((1 - beta_table("scaled_linear")).cumprod(0))


def check_lcm_timesteps(lcm_timesteps=lcm.lcm_timesteps, seed: int = 0) -> None:
    """The released code's steps, and the rule for other grids."""
    released = {1: [999], 2: [999, 499], 4: [999, 759, 499, 259], 8: [999, 879, 759, 639, 499, 379, 259, 139]}
    for steps, expected in released.items():
        found = accepts(lambda: list(lcm_timesteps(steps)), f"{steps} steps")
        for wrong, hint in (
            (expected[::-1], "The indices fall, from the noisiest."),
            ([999 - 1000 * i // steps for i in range(steps)], "Only every 20th index was trained."),
            ([i + 1 for i in expected], "Indices count from 0: the noisiest of 1000 is 999."),
            ([round(999 * (1 - i / steps)) for i in range(steps)], "Only every 20th index was trained."),
        ):
            assert found != wrong or found == expected, f"{hint} {steps} steps: {expected}, got {found}."
        assert found == expected, f"{steps} steps: {expected}, got {found}."
        assert all(type(i) is int for i in found), f"Indices are ints, got {found!r}."
    for steps, origin, table in (
        (50, 50, 1000),
        (7, 50, 1000),
        (4, 30, 1000),
        (8, 100, 1000),
        (4, 50, 500),
        (3 + seed % 30, 40, 4000),
        (22, 30, 1000),  # floor(i (30 / 22)) is one too low: whole numbers
        (50, 58, 1000),
        (1, 1, 1),
    ):

        def formula(origin=origin, table=table):
            trained = [table // origin * (j + 1) - 1 for j in range(origin)]
            return [trained[::-1][i * origin // steps] for i in range(steps)]

        call = f"{steps} steps, origin = {origin}, table = {table}"
        found = accepts(lambda: list(lcm_timesteps(steps, origin, table)), call)
        hint = "Trained is every k-th, k = table // origin; take number floor(i origin / steps) from the top."
        if found == formula(table=1000):
            hint = "table is ignored."
        elif found == formula(origin=50):
            hint = "origin is ignored."
        elif found == formula(50, 1000):
            hint = "origin and table are ignored."
        elif found == [table // origin * (origin - int(i * (origin / steps))) - 1 for i in range(steps)]:
            hint = "Whole numbers, i * origin // steps: i * (origin / steps) may lie just below one."
        assert found == formula(), f"{hint} {call}: {formula()}, got {found}."
    for bad in (51, 0, -1, 2.5, math.nan):
        refuses(lambda: lcm_timesteps(bad), f"{bad} steps of 50 that were trained must be refused.")
    for bad in (1001, 3, 0, 30.5):
        refuses(lambda: lcm_timesteps(4, bad), f"origin = {bad} for 4 steps of 1000 must be refused.")
    for bad in (49, 1000.5, 0, math.nan):
        refuses(
            lambda: lcm_timesteps(4, 50, bad), f"A table of {bad} levels with 50 trained must be refused."
        )


def check_lcm_scalings(lcm_scalings=lcm.lcm_scalings, seed: int = 0) -> None:
    """The identity at index 0, and numbers of the released code."""
    index = exact(0, 1, 19, 39, 499)
    skip = exact(1.0, 2.4937655860349127e-3, 6.92515979806234e-6, 1.6436527882104073e-6, 1.004012021999791e-8)
    out = exact(0.0, 0.9987523388778445, 0.9999965374141062, 0.9999991781732682, 0.99999999497994)
    for scaling in (None, 2.0 + seed, 0.1):
        given = [index] if scaling is None else [index, scaling]
        c_skip, c_out = accepts(lambda: lcm_scalings(*given), f"index = {index.tolist()}")
        f = 10.0 if scaling is None else scaling
        form = lambda u: (0.25 / (u**2 + 0.25), u / (u**2 + 0.25).sqrt())
        right = (skip, out) if scaling is None else form(f * index)
        likely = [
            ("The index is multiplied by scaling, not divided.", form(index / f)),
            ("By index, from 0 to 999, not by a time from 0 to 1.", form(f * index / 1000)),
            ("Index 0 is the boundary: no + 1.", form(f * (index + 1))),
            ("scaling is ignored.", form(10 * index)),
            ("First c_skip, which is 1 at index 0, then c_out.", form(f * index)[::-1]),
            ("c_out has no factor 0.5, which is EDM's data_std.", (right[0], 0.5 * right[1])),
            ("c_out has the root, u / sqrt(u^2 + 0.25): c_skip + c_out^2 = 1.", (right[0], right[1] ** 2)),
            ("c_skip + c_out^2 = 1, not c_skip + c_out.", (right[0], 1 - right[0])),
            ("c_skip has no root: 0.25 / (u^2 + 0.25).", (right[0] ** 0.5, right[1])),
            ("c_skip is 1 at index 0: 0.25 above, too.", (right[0] * 4, right[1])),
            (
                "data_std^2 is 0.25, not 1.",
                (1 / ((f * index) ** 2 + 1), f * index / ((f * index) ** 2 + 1).sqrt()),
            ),
        ]
        hint = "c_skip = 0.25 / (u^2 + 0.25) and c_out = u / sqrt(u^2 + 0.25), u = scaling index."
        both = torch.stack([c_skip, c_out])
        explained(both, torch.stack(right), hint, [(why, torch.stack(w)) for why, w in likely], 1e-9)
        close(c_skip, right[0], "c_skip is small, but not nothing: more digits.", 0.0, 1e-9)
        low = lcm_scalings(index.float(), f)
        for c, wanted, name in zip(low, right, ("c_skip", "c_out")):
            assert c.dtype == torch.float32, f"{name} has the dtype of index, torch.float32, not {c.dtype}."
            close_in_float32(c, wanted, name)
    for value, bad in anywhere(index, -1.0):
        refuses(lambda: lcm_scalings(bad), f"An index of {value:g} must be refused, also one of many.")
    for scaling in (0.0, -10.0, math.nan):
        refuses(lambda: lcm_scalings(index, scaling), f"scaling = {scaling} must be refused.")


def f_by_hand(net, z, t, index):
    """c_skip z + c_out x_hat at the table index, as it is written in the paper."""
    u = 10 * column(index.to(z.dtype), z)
    return 0.25 / (u**2 + 0.25) * z + u / (u**2 + 0.25).sqrt() * net(z, t)


def check_lcm_function(lcm_function=lcm.lcm_function, seed: int = 0) -> None:
    """The scalings by the index that the time stands for, in both dtypes; and the gradient."""
    g = torch.Generator().manual_seed(seed)
    for dims, table in itertools.product(DIMS, (1000, 200)):
        index = torch.tensor([0, 1, 19, table - 1])
        z, t = float32_numbers(4, *dims, generator=g), (index + 1).double() / table
        right, asked = f_by_hand(student, z, t, index), []
        f = lcm_function(recorded(student, asked), table)
        found = accepts(lambda: f(z, t), f"t = {t.tolist()} with table = {table}")
        close(asked[0][0], z, "The network is asked at z itself.")
        explained(
            asked[0][1], t, "The network is asked at t.", [("At the time t, not the index.", index.double())]
        )
        likely = (
            ("Without the scalings: f is not x_hat, at index 0 it is z.", student(z, t)),
            (
                "Round 1000 t to the nearest: floor loses one.",
                f_by_hand(student, z, t, (table * t).floor() - 1),
            ),
            ("table is ignored: the index is table t - 1.", f_by_hand(student, z, t, 1000 * t - 1)),
            ("The index is table t - 1, for indices count from 0.", f_by_hand(student, z, t, table * t)),
            ("The scalings want the index, table t - 1, not the time.", f_by_hand(student, z, t, t)),
        )
        explained(found, right, "f = c_skip z + c_out x_hat, by the index table t - 1, rounded.", likely)
        assert torch.equal(found[:1], z[:1]), "At index 0, f(z) = z."
        # float32 and float64 times stand for one index; the identity is exact in both
        low = f(z.float(), t)
        close_in_float32(low, right, "f")
        close_in_float32(f(z.float(), t.float()), right, "f")
        knob = torch.ones((), dtype=DOUBLE, requires_grad=True)
        found = lcm_function(lambda z, t: student(knob * z, t), table)(z, t)
        assert found.requires_grad, "The gradient reaches the network: no detach and no no_grad here."
        wished = torch.autograd.grad(f_by_hand(lambda z, t: student(knob * z, t), z, t, index).sum(), knob)[0]
        close(torch.autograd.grad(found.sum(), knob)[0], wished, "The gradient is that of c_out x_hat.")
        for value, bad in anywhere(t, 0.0, -0.1, 1.1):
            refuses(lambda: f(z, bad), f"t = {value:g} stands for no index: refuse, also one of many.")
        for other in other_shapes(z):
            refuses(lambda: lcm_function(lambda z, t: other, table)(z, t), "Another shape must be refused.")
        loud = lambda z, t: 1000 * student(z, t)
        hint = "Right for small numbers, not for large ones: nothing is clipped."
        close(lcm_function(loud, table)(1000 * z, t), f_by_hand(loud, 1000 * z, t, index), hint, 1e-9)
    every = (torch.arange(1000) + 1) / 1000  # float32: 1000 t is often just below a whole number
    z = torch.ones(1000, 1, dtype=DOUBLE)
    right = f_by_hand(lambda z, t: 0 * z, z, every, torch.arange(1000))
    found = lcm_function(lambda z, t: 0 * z)(z.float(), every)
    close(found.double(), right, "Round 1000 t to the nearest whole number: floor loses one.", 0.0, 1e-4)
    f = accepts(lambda: lcm_function(student, 1)(z, torch.ones_like(z[:, 0])), "A table of one level")
    close(f, z, "In a table of one level t = 1 is index 0, where f is z.")
    for table in (0, -1, 2.5):
        refuses(lambda: lcm_function(student, table), f"A table of {table} levels must be refused.")


def check_lcm_loss(lcm_loss=lcm.lcm_loss, seed: int = 0) -> None:
    """By hand: one DDIM step over k levels, f at both ends, no gradient to the target."""
    g = torch.Generator().manual_seed(seed)
    for dims, schedule, k, table, c in (
        (DIMS[0], TABLE, 20, 1000, 1e-3),
        (DIMS[1], TABLE, 50, 1000, 0.5),
        (DIMS[2], cosine, 7, 200, 0.1),
        (DIMS[3], TABLE, 1, 1000, 0.0),
    ):
        x, eps = float32_numbers(2, 4, *dims, generator=g)
        index = torch.tensor([table - 1 - (schedule is cosine), table // 2, 19, 1])
        index = index[torch.randperm(4, generator=g)]
        earlier = (index - k).clamp(min=0)
        t, s = (index + 1).double() / table, (earlier + 1).double() / table
        (A, B), (a, b) = ([column(c, x) for c in schedule(u)] for u in (t, s))
        z, nets = A * x + B * eps, [Net(net) for net in NETS.values()]
        asked, knobs = {name: net.asked for name, net in zip(NETS, nets)}, [net.knob for net in nets]
        call = lambda *nets, x=x, eps=eps, i=index, k=k, c=c: lcm_loss(
            *nets, x, eps, i, schedule, k, table, c
        )
        loss = accepts(
            lambda: call(*nets), f"k = {k}, table = {table}, huber_c = {c}, index = {index.tolist()}"
        )

        # who is asked where
        assert loss.shape == (4,), "A loss returns one number per sample, (b,)."
        assert loss.isfinite().all(), "nan or inf comes out: what is divided by 0?"
        assert torch.is_grad_enabled(), "torch.set_grad_enabled(False) stays behind: use torch.no_grad()."
        assert all(knob.requires_grad for knob in knobs), (
            "requires_grad_(False) stays behind: a student that is its own target would never learn. "
            "Use torch.no_grad()."
        )
        for name in NETS:
            times = len(asked[name])
            assert times == 1, f"Each network is asked once, for the whole batch; the {name} {times} times."
        for name in ("student", "teacher"):
            likely = (
                (f"The {name} is asked at t, not at s.", s),
                ("Asked at the time (index + 1) / table, not at the index.", index.double()),
                ("Index i is the time (i + 1) / table: + 1 is missing.", index / table),
                ("table is ignored: t = (index + 1) / table.", (index + 1).double() / 1000),
            )
            explained(asked[name][0][1], t, f"The {name} is asked at t = (index + 1) / table.", likely)
            likely = (
                ("Noise and data are exchanged: z_t = alpha x + sigma eps.", B * x + A * eps),
                (f"The {name} is asked at z_t, not at z_s.", a * x + b * eps),
            )
            explained(asked[name][0][0], z, f"The {name} is asked at z_t = alpha x + sigma eps.", likely)
        x_hat = teacher(z, t)
        step = lambda x_hat, a, b: a * x_hat + b * (z - A * x_hat) / B
        z_s = step(x_hat, a, b)
        one = [column(c, x) for c in schedule(((index - 1).clamp(min=0) + 1).double() / table)]
        likely = (
            ("The target is asked at z_s, after the teacher's step, not at z_t.", z),
            ("z_s comes from the teacher's step, not from the data and the noise.", a * x + b * eps),
            (f"The teacher's step goes over k = {k} levels, not over one.", step(x_hat, *one)),
            ("The small step is the teacher's, not the student's.", step(student(z, t), a, b)),
            ("DDIM keeps the noise that x_hat implies, not eps.", a * x_hat + b * eps),
        )
        hint = f"The target is asked where the teacher's DDIM step over {k} levels lands, or at index 0."
        explained(asked["target"][0][0], z_s, hint, likely, 1e-9)
        likely = (("The target is asked at s, where z_s is, not at t.", t),)
        explained(asked["target"][0][1], s, "The target is asked at s = (index - k + 1) / table.", likely)

        wanted = f_by_hand(target, z_s, s, earlier)
        d = f_by_hand(student, z, t, index) - wanted
        half = lambda net, z, t, i: f_by_hand(lambda z, t: 0.5 * net(z, t), z, t, i)
        likely = [
            (sentence, huber(other, c))
            for sentence, other in (
                ("At both ends f = c_skip z + c_out x_hat: no scalings?", student(z, t) - target(z_s, s)),
                (
                    "f = c_skip z + c_out x_hat at every index, not at index 0 alone: c_out is not quite 1.",
                    student(z, t) - torch.where(column(earlier, x) > 0, target(z_s, s), z_s),
                ),
                ("At the student's end f = c_skip z + c_out x_hat: no scalings?", student(z, t) - wanted),
                ("f at the target's end, too: at index 0 it is z_s.", d + wanted - target(z_s, s)),
                ("The target's scalings belong to index - k.", d + wanted - f_by_hand(target, z_s, s, index)),
                ("The target is f(z_s), not z_s.", d + wanted - z_s),
                ("c_out has no factor 0.5.", half(student, z, t, index) - half(target, z_s, s, earlier)),
            )
        ]  # fmt: skip
        likely += likely_distances(d, c)
        explained(loss, huber(d, c), "f(student, z_t) - f(target, z_s), then Huber's distance.", likely, 1e-9)

        loud = [lambda z, t, net=net: 1000 * net(z, t) for net in NETS.values()]
        far = step(1000 * x_hat, a, b)
        large = f_by_hand(loud[0], z, t, index) - f_by_hand(loud[1], far, s, earlier)
        hint = "Right for small numbers, not for large ones: nothing is clipped."
        close(call(*loud), huber(large, c), hint, 1e-8)

        assert loss.requires_grad, "The gradient must flow through the student: no_grad for the target alone."
        grads = dict(zip(NETS, torch.autograd.grad(loss.sum(), knobs, allow_unused=True)))
        assert grads["student"] is not None, "The gradient must flow through the student."
        for name in ("target", "teacher"):
            assert grads[name] is None, f"No gradient may reach the {name}: torch.no_grad()."
        moving = f_by_hand(lambda z, t: student(knobs[0] * z, t), z, t, index)
        wished = torch.autograd.grad(huber(moving - wanted, c).sum(), knobs[0])[0]
        close(grads["student"], wished, "The gradient is that of Huber's distance.", 1e-9)
        own_target, frozen = call(nets[0], nets[0], nets[2]), call(nets[0], student, nets[2])
        both, one = (torch.autograd.grad(a.sum(), knobs[0])[0] for a in (own_target, frozen))
        close(both, one, "The student as its own target: as a target it gets no gradient.")
        low = call(*nets, x=x.float(), eps=eps.float())
        close_in_float32(low.detach(), huber(d, c), "The loss", 1e-4)

        nets = (student, target, teacher)
        for bad in (0, -1, table):
            for place in range(4):
                i = torch.where(torch.arange(4) == place, bad, index)
                refuses(lambda: call(*nets, i=i), f"Index {bad}, also one of many: 1 to {table - 1}, refuse.")
        for i in (index[:1], index[:3], index[:, None]):
            refuses(lambda: call(*nets, i=i), f"Indices {tuple(i.shape)} for 4 samples must be refused.")
        for noise in other_shapes(eps):
            refuses(lambda: call(*nets, eps=noise), "eps of another shape than x must be refused.")
        for bad in (0, -1, 2.5):
            refuses(lambda: call(*nets, k=bad), f"k = {bad} must be refused.")
        for bad in (-1.0, math.nan):
            refuses(lambda: call(*nets, c=bad), f"huber_c = {bad} must be refused.")
        for j, name in enumerate(NETS):
            for other in other_shapes(x):
                refuses(
                    lambda: call(*nets[:j], lambda z, t: other, *nets[j + 1 :]),
                    f"A {name} that answers in another shape must be refused: it would be broadcast.",
                )
    what = f"By default table = 1000, and index = {index.tolist()}"
    defaults = accepts(lambda: lcm_loss(student, target, teacher, x, eps, index, TABLE), what)
    close(
        defaults,
        lcm_loss(student, target, teacher, x, eps, index, TABLE, 20, 1000, 1e-3),
        "By default k = 20, table = 1000 and huber_c = 1e-3.",
    )


def check_guidance_embedding(guidance_embedding=lcm.guidance_embedding, seed: int = 0) -> None:
    """A vector of the released code, and the formula."""
    released = exact(-0.044785, 0.110189, 0.991123, 0.605186, -0.998997, 0.993911, 0.132946, 0.796084)
    w = exact(0.0, -1.5, 30.3, 2.1 + seed % 10, 6.5)
    for dim in (10, 8, 4):
        h = dim // 2
        i = torch.arange(h, dtype=DOUBLE)

        def form(w, exponent, a=1000.0, base=10_000.0):
            angles = a * w[:, None] * base**-exponent
            return torch.cat([angles.sin(), angles.cos()], 1)

        e = i / (h - 1)
        right, angles = form(w, e), 1000 * w[:, None] * 10_000**-e
        likely = (
            ("The factor 1000 is missing: sin and cos of 1000 w.", form(w, e, 1.0)),
            ("The factor 1000 belongs inside: sin(1000 w), not 1000 sin(w).", 1000 * form(w, e, 1.0)),
            ("w is told as it is, not the scale, w + 1.", form(w + 1, e)),
            ("w is told as it is: no - 1.", form(w - 1, e)),
            ("w is told as it is: not clipped.", form(w.clamp(max=10), e)),
            ("w is told as it is: not clipped.", form(w.clamp(min=0), e)),
            ("i / (h - 1): the last frequency is 1 / 10000, which i / h does not reach.", form(w, i / h)),
            ("The first frequency is 1: i = 0.", form(w, (i + 1) / h)),
            ("The frequencies fall, from 1 to 1 / 10000.", form(w, e.flip(0))),
            ("The frequencies fall, from 1 to 1 / 10000: a minus sign.", form(w, -e)),
            ("The last frequency is 1 / 10000, not 1 / 1000.", form(w, e, base=1000.0)),
            ("ln is the natural logarithm, not log10.", form(w, e, base=10_000 ** (1 / math.log(10)))),
            ("ln is the natural logarithm, not log2.", form(w, e, base=10_000 ** (1 / math.log(2)))),
            ("1000 w are radians: no 2 pi.", form(w, e, 2000 * math.pi)),
            ("The frequencies fall by one factor.", form(w, -torch.log(1 - 0.9999 * e) / math.log(10_000))),
            ("All sines first, then all cosines.", right.roll(h, 1)),
            (
                "All sines, then all cosines: not in turns.",
                torch.stack([angles.sin(), angles.cos()], 2).flatten(1),
            ),
            ("The second half are cosines.", torch.cat([angles.sin(), angles.sin()], 1)),
        )  # fmt: skip
        found = accepts(lambda: guidance_embedding(w, dim), f"dim = {dim} with w = {w.tolist()}")
        assert found.shape == (5, dim), (
            f"One row of dim numbers for each w: (5, {dim}), not {tuple(found.shape)}."
        )
        hint = "sin and cos of 1000 w exp(-ln(10000) i / (h - 1)), i = 0 ... h - 1, h = dim / 2."
        if (found - right).abs().max() < 1e-2:  # 1000 w magnifies rounding
            hint = "Right, but for its digits: compute the frequencies in float64."
        explained(found, right, hint, likely, 1e-8)
        low = guidance_embedding(w.float(), dim)
        assert low.dtype == torch.float32, (
            f"The embedding has the dtype of w, torch.float32, not {low.dtype}."
        )
        close_in_float32(low, right, "The embedding", 1e-2)
        if dim == 8:
            close(found[4], released, "At w = 6.5 and dim = 8 the released code has other numbers.", 1e-4)
    for dim, what in ((7, "odd"), (2, "one frequency, and no factor"), (0, "nothing"), (-4, "negative")):
        refuses(lambda: guidance_embedding(w, dim), f"dim = {dim} must be refused: {what}.")
    for value, bad in anywhere(w, math.inf):
        refuses(lambda: guidance_embedding(bad, 8), f"w = {value} must be refused, also one of many.")
