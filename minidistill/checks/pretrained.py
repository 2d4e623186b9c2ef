"""Checks of pretrained networks: what they are asked, what their answer means, and on which schedule.

The network is a formula of z and its clock, i: 0.5 z + 0.3 sin(3 z) cos(i / w) + 0.1 cos(2 z + i / w). It is
not linear, and small mistakes of the clock show. Samples are as in the checks of phased consistency: axes
that are all alike, and points, images and videos whose axes are not. Schedulers are played: a name, a config
and a table. At the end there is a Gaussian, whose eps, v, velocity and F are known, and must come back as
its denoiser.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidistill import pretrained
from minidistill.checks import (
    Likely,
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    refuses,
)
from minidistill.checks.flowmap import answer_of, as_given, check_shapes
from minidistill.checks.oracle import mixture
from minidistill.checks.phased import DIMS, DOUBLE, anywhere, float32_numbers, student
from minidistill.oracle import Gaussian
from minidistill.schedules import (
    Schedule,
    beta_table,
    cosine,
    edm,
    linear_beta,
    rectified_flow,
    shifted,
    tabulated,
    zero_terminal_snr,
)

Size = int | float
HALVES = torch.bfloat16, torch.float16
LINEAR, SCALED = (
    torch.cumprod(1 - beta_table(kind), 0).float().double() for kind in ("linear", "scaled_linear")
)
SQUARED = torch.cumprod(1 - beta_table("squaredcos"), 0)
SHORT = torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50, dtype=DOUBLE), 0)  # a table of 50


# the network


class Stranger:
    """The network, with a knob to be trained. It is as strict as a layer, and keeps what it is asked."""

    def __init__(self, w: float = 300.0, packed: Callable[[Tensor], object] = lambda said: said):
        self.w, self.packed, self.asked, self.heard = w, packed, [], []
        self.knob = torch.ones((), dtype=DOUBLE, requires_grad=True)

    def by_hand(self, z: Tensor, i: Tensor) -> Tensor:
        turn, z = column(i, z) / self.w, self.knob.to(z) * z
        return 0.5 * z + 0.3 * torch.sin(3 * z) * torch.cos(turn) + 0.1 * torch.cos(2 * z + turn)

    def __call__(self, z: Tensor, i: Tensor, **conditioning) -> object:
        assert isinstance(i, Tensor) and i.shape == z.shape[:1], (
            f"A network is told one time for each sample: shape (b,), {tuple(z.shape[:1])}, not "
            f"{tuple(i.shape) if isinstance(i, Tensor) else repr(i)}."
        )
        assert i.dtype == z.dtype, (
            f"A network is told the time in z's dtype, for no layer takes two: z is {z.dtype}, it {i.dtype}."
        )
        self.asked.append((z.detach().clone(), i.detach().clone()))
        self.heard.append(conditioning)
        return self.packed(self.by_hand(z, i))


class Packed:
    """What networks of other libraries answer with."""

    def __init__(self, sample: Tensor):
        self.sample = sample


class Half(Stranger):
    """The same with weights in half precision, and a `dtype` that says so. Its clock is in float32."""

    def __init__(self, w: float, dtype: torch.dtype):
        super().__init__(w)
        self.dtype = dtype

    def __call__(self, z: Tensor, i: Tensor) -> Tensor:
        assert z.dtype == self.dtype, (
            f"A network that has a dtype is given z in it: here {self.dtype}, and z is {z.dtype}."
        )
        assert i.dtype == torch.float32, (
            f"Half precision cannot tell 1000 times apart: the clock stays float32, and here it is {i.dtype}."
        )
        self.asked.append((z.detach().clone(), i.detach().clone()))
        return self.by_hand(z.float(), i).to(z.dtype)


# what a reader makes of it


class Family(NamedTuple):
    """What is right: functions of (z, t), written by hand, and what people write for them."""

    what: str
    w: float  # the network's
    schedule: Schedule
    times: tuple[Tensor, ...]  # of four samples
    bad: tuple[float, ...]
    clock: Callable[[Tensor], Tensor]
    given: Callable[[Tensor, Tensor], Tensor]
    x_hat: Callable[[Tensor, Tensor, Tensor], Tensor]  # of (said, z, t)
    likely_schedules: Callable[[Tensor], Likely]
    likely_clocks: Callable[[Tensor], Likely]
    likely_given: Callable[[Tensor, Tensor], Likely]
    likely_x_hats: Callable[[Tensor, Tensor, Tensor], Likely]


def lazily(likely: Callable[..., Likely], *args: Tensor) -> Likely:
    """likely(*args), computed where it is looked at."""
    yield from likely(*args)


def each(*rows: tuple) -> list[tuple[str, Tensor]]:
    """(sentence, result) of rows of a sentence and several results."""
    return [(hint, wrong) for hint, *results in rows for wrong in results]


def likely_others(t: Tensor, clock: Callable[[Tensor], Tensor]) -> list[tuple[str, Tensor]]:
    """What is found in the place of any clock."""
    return each(
        ("The network is told the time of another sample.", *(clock(t.roll(k)) for k in (1, -1, 2))),
        ("Each sample has its own time: here one is everybody's.", clock(t[:1]).expand(4)),
        ("A shift belongs to the grid of times, never to the clock.", *(clock(late(t, a)) for a in SHIFTS)),
    )


SHIFTS = 3.0, 1 / 3, 7.0, 17.0


def late(t: Tensor, a: float) -> Tensor:
    """The shifted time."""
    return a * t / (1 + (a - 1) * t)


def clipped(right: Tensor) -> list[tuple[str, Tensor]]:
    """The likely results of clipping what is right."""
    hint = "Nothing is clipped unless clip is given."
    return each((hint, *(right.clamp(-a, a) for a in (1, 2, 3, 5, 10, 100))))


def scaled(z: Tensor) -> list[tuple[str, Tensor]]:
    """What a network may be given in the place of z as it is."""
    hint = "The network is given z as it is: that nothing is divided is the difference to EDM."
    return each((hint, 2 * z, z / 2), *((hint, other) for _, other in clipped(z)))


def pair_of(found: object, what: str) -> tuple[Callable, Callable]:
    """The denoiser and its schedule, looked at."""
    assert isinstance(found, tuple | list) and len(found) == 2 and all(map(callable, found)), (
        f"{what}: a reader returns (denoiser, schedule), two functions which belong together."
    )
    denoiser, schedule = found
    try:
        schedule(exact(0.5))
    except TypeError:
        hint = f"{what}: first comes the denoiser, of z and t, and then the schedule, of t."
        raise AssertionError(hint) from None
    assert getattr(denoiser, "predicts", "x") == "x", (
        f"The denoiser predicts x, and says {denoiser.predicts!r}."
    )
    return denoiser, schedule


def check_schedule_of(schedule: Schedule, family: Family) -> None:
    """alpha and sigma at its times, and exact ends."""
    for t in family.times:
        found = schedule(t)
        assert isinstance(found, tuple | list) and len(found) == 2, (
            f"{family.what}: the second is a schedule, t -> (alpha, sigma). First comes the denoiser."
        )
        for k, name in enumerate(("alpha", "sigma")):
            hint = f"{family.what}: {name} of the schedule is not that of the network's at t = {t.tolist()}."
            pick = lambda t: ((words, pair[k]) for words, pair in family.likely_schedules(t))
            explained(found[k], family.schedule(t)[k], hint, lazily(pick, t), 1e-9)


def asked_once(net: Stranger) -> None:
    """The network, for the whole batch."""
    assert net.asked, "The network must be asked, and it is not."
    times = len(net.asked)
    assert times == 1, f"The network is asked once, for the whole batch, not {times} times."


def check_questions(asked: list, family: Family, z: Tensor, t: Tensor, tol: float = 1e-10) -> None:
    """The network was asked once: first its clock, then z."""
    ((given, clock),) = asked
    hint = f"{family.what}: at t = {t.tolist()} the network is told {family.clock(t).tolist()}."
    likely = itertools.chain(lazily(family.likely_clocks, t), lazily(likely_others, t, family.clock))
    explained(clock.double(), family.clock(t), hint, likely, tol)
    hint = f"{family.what}: the network is given another z."
    explained(given, family.given(z, t), hint, lazily(family.likely_given, z, t), tol)


def check_values(make: Callable, family: Family, seed: int, shapes: tuple = DIMS) -> None:
    """Schedule, clock, z, x_hat and gradients, on samples of these shapes."""
    g = torch.Generator().manual_seed(seed)
    for dims, t in itertools.product(shapes, family.times):
        if t is family.times[0]:
            net = Stranger(family.w)
            denoiser, schedule = pair_of(accepts(lambda: make(net), family.what), family.what)
            make(lambda z, i, **_: 0 * z)  # another one, which changes nothing
        if dims == shapes[0] and t is family.times[0]:
            check_schedule_of(schedule, family)
        z = 1.5 * float32_numbers(4, *dims, generator=g)
        z.view(4, -1)[:, 0] = exact(1000, -1000, 1000, -1000)
        net.asked.clear()
        free = z.clone().requires_grad_()
        x_hat = answer_of(lambda: denoiser(free, t), (free, t), (), f"{family.what}, t = {t.tolist()},")
        asked_once(net)
        check_questions(net.asked, family, z, t)
        as_given(x_hat, [free], [z])
        follow = z.clone().requires_grad_()
        said = net.by_hand(family.given(follow, t), family.clock(t))
        right = family.x_hat(said, follow, t)
        hint = f"{family.what}: x_hat is not what the answer says, at t = {t.tolist()}."
        likely = itertools.chain(
            lazily(family.likely_x_hats, said.detach(), z, t), lazily(clipped, right.detach())
        )
        explained(x_hat.detach(), right.detach(), hint, likely, 1e-9)
        assert x_hat.requires_grad, (
            "The gradient must reach the network, which is trained: no detach, no no_grad."
        )
        for who, a, b in (("the network", net.knob, net.knob), ("z", free, follow)):
            slopes = (
                torch.autograd.grad(y.sum(), x, retain_graph=True, allow_unused=True)[0]
                for y, x in ((x_hat, a), (right, b))
            )
            found, wanted = slopes
            hint = f"The gradient must reach {who}: what is detached?"
            close(torch.zeros_like(wanted) if found is None else found, wanted, hint, 1e-7, 1e-7)


def some(k: int) -> tuple:
    """Every shape in the first case, and one in each of the others."""
    return DIMS if k == 0 else DIMS[k % len(DIMS) :][:1]


def check_precision(make: Callable, family: Family, seed: int) -> None:
    """float32 data with float64 times, the reverse, and networks in half precision."""
    g = torch.Generator().manual_seed(seed)
    net = Stranger(family.w)
    denoiser, _ = make(net)
    for t in family.times[:2]:
        z = float32_numbers(4, 2, 3, generator=g)
        said = net.by_hand(family.given(z, t), family.clock(t))
        right = family.x_hat(said, z, t).detach()
        size = max(1.0, right.abs().max().item())
        low = denoiser(z.float(), t).detach()
        assert low.dtype == torch.float32, (
            f"x_hat has the dtype of z, also where times are float64: here float32, not {low.dtype}."
        )
        close_in_float32(low / size, right / size, "x_hat", 2e-5)
        high = denoiser(z, t.float()).detach()
        assert high.dtype == DOUBLE, (
            f"x_hat has the dtype of z, also where times are float32: here float64, not {high.dtype}."
        )
        close(
            high / size, right / size, "Times of float32 with z of float64 lose more than their digits.", 1e-4
        )
        for dtype in HALVES if t is family.times[0] else ():
            half = Half(family.w, dtype)
            found = make(half)[0](z.float(), t).detach()
            hint = "x_hat has the dtype of z, also of a network in half precision: here float32, not {}."
            assert found.dtype == torch.float32, hint.format(found.dtype)
            ((given, clock),) = half.asked
            hint = "Also a network in half precision is told the time with all digits of float32."
            close(clock.double(), family.clock(t), hint, 1e-4, 1e-6)
            said = half.by_hand(given.float(), clock).to(dtype).double()
            wanted = family.x_hat(said, z, t).detach()
            hint = f"What a network in {dtype} says is converted in float32, with z as it was."
            close(found.double() / size, wanted / size, hint, 2e-5, 2e-5)


def check_manners(make: Callable, family: Family, seed: int) -> None:
    """Conditioning, answers that are packed, and what is refused."""
    z, t = float32_numbers(4, 1, 3, 2, generator=torch.Generator().manual_seed(seed)), family.times[0]
    net, labels, state = Stranger(family.w), torch.arange(4), torch.ones(4, 5)
    before = z.clone()
    right = make(net)[0](z, t).detach()
    assert torch.equal(z, before), "z is the caller's and must stay as it is: change nothing in place."
    found = accepts(lambda: make(net, labels=labels, state=state)[0](z, t), "Conditioning of any name")
    assert net.heard[-1].keys() == {"labels", "state"}, (
        f"Conditioning goes to the network by its names: labels and state, and it got {list(net.heard[-1])}."
    )
    assert net.heard[-1]["labels"] is labels and net.heard[-1]["state"] is state, (
        "Conditioning goes to the network as it is: nothing is copied, cast or detached."
    )
    close(found.detach(), right, "Conditioning is for the network alone, which does not use it here.")
    for name, packed in (
        ("an object with .sample", Packed),
        ("a tuple, whose first is the answer", lambda said: (said,)),
        ("a tuple of two, whose first is the answer", lambda said: (said, None)),
    ):
        found = accepts(
            lambda: make(Stranger(family.w, packed))[0](z, t), f"A network that answers with {name}"
        )
        close(found.detach(), right, f"A network may answer with {name}.")

    class Transformer(torch.nn.Module):
        """Its second argument is the text."""

        def forward(self, hidden_states, encoder_hidden_states=None, timestep=None):
            assert encoder_hidden_states is None and timestep is not None, (
                "A network whose forward has a `timestep` is told it by that name: the second is the text."
            )
            return Packed(net(hidden_states, timestep))

    found = accepts(lambda: make(Transformer())[0](z, t), "A network with a `timestep`")
    close(found.detach(), right, "A network with a `timestep` is told the same.")
    kept = float32_numbers(4, 1, 3, 2, generator=torch.Generator().manual_seed(seed + 1))
    before = kept.clone()
    make(lambda z, i: kept)[0](z, t)
    assert torch.equal(kept, before), "What the network answers must stay as it is: change nothing in place."

    denoiser, _ = make(Stranger(family.w))
    for value, spoiled in anywhere(t, *family.bad):
        hint = f"t = {value:g} must be refused, also as one of many: it is no time of this schedule."
        refuses(lambda: denoiser(z, spoiled), hint)
    for wrong in (t[:1], t[:3], t[:, None]):
        size = tuple(wrong.shape)
        refuses(lambda: denoiser(z, wrong), f"t of shape {size} for 4 samples must be refused: one for each.")
    answers = []
    says = make(lambda z, i: answers[-1])[0]
    tells = lambda answer: answers.append(answer) or says(z, t)
    for twice in (torch.cat([z, z], 1), torch.cat([z, -z], -1)):
        for answer in (twice, Packed(twice), (twice,)):
            hint = "An answer with twice the channels has a learned variance, and must be refused: "
            refuses(lambda: tells(answer), f"{hint}it would be broadcast where z has one channel.")
    check_shapes("An answer", tells, z)
    for name, bad in (("None", None), ("a list", [z]), ("integers", z.long()), ("an empty object", object())):
        refuses(lambda: tells(bad), f"An answer that is {name} must be refused: it is no float tensor.")
    for dtype in HALVES:
        hint = f"z in {dtype} must be refused: it cannot tell 1000 times apart. Only the network may be."
        refuses(lambda: denoiser(z.to(dtype), t), hint)
        refuses(lambda: denoiser(z.to(dtype), t.to(dtype)), hint)

    class Pipeline:
        """Holds a network, and a scheduler."""

        def __init__(self):
            self.scheduler, self.unet = object(), net

        def __call__(self, z, i):
            return net.by_hand(z, i)

    for name, bad in (("A pipeline", Pipeline()), ("None", None), ("A string", "unet")):
        hint = f"{name} in the network's place must be refused: needed is pipe.unet or pipe.transformer."
        refuses(lambda: make(bad)[0](z, t), hint)
    for embedding in (None, torch.nn.Identity()):
        net = Stranger(family.w)
        net.class_embedding = embedding
        call = lambda: make(net, class_labels=labels)[0](z, t)
        if embedding is None:
            refuses(call, "class_labels for a network made without classes must be refused: it ignores them.")
            accepts(lambda: make(net)[0](z, t), "A network without classes, without labels,")
        else:
            accepts(call, "class_labels of a network that has a class_embedding")
    accepts(
        lambda: make(Stranger(family.w), class_labels=labels)[0](z, t), "class_labels of a plain function"
    )


def check_gaussian(make: Callable, family: Family, seed: int, answers: Callable) -> None:
    """answers(denoiser, z, t): what a network says that knows the Gaussian. It comes back as its denoiser.

    The network is asked on family's clock, of which it knows the time.
    """
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(3, 3, generator=g, dtype=DOUBLE)
    oracle = Gaussian(torch.randn(3, generator=g, dtype=DOUBLE), root @ root.T + 0.1 * torch.eye(3))
    right, z = oracle.denoiser(family.schedule), float32_numbers(4, 3, generator=g)
    for t in family.times:
        hint = (
            f"{family.what}: a network that knows a Gaussian must become its denoiser, at t = {t.tolist()}."
        )
        found = make(lambda given, i: answers(right, z, t))[0](z, t)
        close(found, right(z, t), hint, 1e-8, 1e-8)


# a table


def on(schedule: Schedule, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma with z's axes."""
    return tuple(column(c, z) for c in schedule(t))


def by_rule(table: Tensor) -> Schedule:
    """A table as a schedule, by hand: between its entries along the chord, pushed out to the circle."""
    n, padded = len(table), torch.cat([exact(1), table])

    def schedule(t):
        place = (t * n).clamp(0, n)
        left = (place + 1e-9).long().clamp(max=n - 1)
        before, after, share = padded[left], padded[left + 1], place - left
        alpha, sigma = (
            torch.lerp(a.sqrt(), b.sqrt(), share) for a, b in ((before, after), (1 - before, 1 - after))
        )
        return alpha / torch.hypot(alpha, sigma), sigma / torch.hypot(alpha, sigma)

    return schedule


def read_as(kind: str, said: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_hat of an answer of this kind."""
    if kind == "eps":
        return (z - sigma * said) / alpha
    return alpha * z - sigma * said if kind == "v" else said


def table_family(table: Tensor, kind: str, w: float = 300.0, clip: Size = math.inf) -> Family:
    """What is right for a network of a table."""
    n, what = len(table), f'A table of {len(table)}, kind "{kind}"'
    schedule = by_rule(table)
    times = (
        exact(1.0, 0.5, 1 / n, 0.5 + 0.5 / n),
        exact(0.3, 0.0, 0.4 / n, 0.123),
        exact(0.29, 0.57, 0.58, 0.07) if n == 1000 else exact(0.3, 0.58, 0.14, 0.9),
    )

    def likely_schedules(t):
        own, (alpha, sigma) = "At t = (i + 1) / n the schedule is at entry i of the table: ", schedule(t)
        return [
            ("alpha is the root of alpha_bar, and here it is alpha_bar itself.", (alpha**2, sigma**2)),
            ("alpha and sigma are exchanged.", (sigma, alpha)),
            (f"{own}here it is at the entry before.", schedule((t - 1 / n).clamp(min=0))),
            (f"{own}here it is at the entry after.", schedule((t + 1 / n).clamp(max=1))),
            (f"{own}here the table is read backwards.", schedule(1 - t)),
            ("The network's own table is needed, and here it is another one.", linear_beta(t)),
            ("The network's own table is needed, and here it is another one.", cosine(t)),
            ("The network's own table is needed, and here it is a straight line.", rectified_flow(t)),
            *(
                ("The network's own table is needed, and here it is another one.", tabulated(other)(t))
                for other in (LINEAR, SCALED, SQUARED, zero_terminal_snr(LINEAR))
            ),
        ]

    def likely_clocks(t):
        at = "It is asked at index n t - 1: "
        index = n * t - 1
        return each(
            (f"{at}here it is n t, one too much. Time 1 / n is index 0.", n * t, (n * t).round(), index + 1),
            (f"{at}here it is (n - 1) t. Time 1 / n is index 0.", (n - 1) * t, ((n - 1) * t).round()),
            (f"{at}here it is t itself.", t),
            (f"{at}here time runs backwards.", n * (1 - t), (n - 1) * (1 - t), n - 1 - index.clamp(min=0)),
            (f"{at}here n is 1000, whatever the table is.", (1000 * t - 1).clamp(min=0)),
            (f"{at}here 1000 t.", 1000 * t),
            (
                "The index is whole on the table alone. Between two entries it is in between, and here it is "
                "cut to a whole one.",
                *(whole(index.clamp(min=0)) for whole in (torch.trunc, torch.round, torch.ceil, torch.floor)),
                torch.trunc(index),
            ),
            ("Before the table's first entry the index is 0, and here it is below.", index, index.round()),
            (f"{at}here it is alpha, sigma or their logarithm.", *schedule(t)),
        )

    def x_hat(said, z, t):
        return read_as(kind, said, z, *on(schedule, z, t)).clamp(-clip, clip)

    def likely_x_hats(said, z, t):
        alpha, sigma = on(schedule, z, t)
        others = [other for other in ("eps", "v", "x") if other != kind]
        v_sign = "v has another sign: v = alpha eps - sigma x, and x_hat = alpha z - sigma v."
        eps_sign = "The noise is subtracted: x_hat = (z - sigma eps) / alpha."
        return each(
            *(
                (
                    f"The answer is {kind}, and here it is read as {other}.",
                    read_as(other, said, z, alpha, sigma),
                )
                for other in others
            ),
            (v_sign, alpha * z + sigma * said, sigma * said - alpha * z, -said),
            (eps_sign, (z + sigma * said) / alpha),
            (
                "alpha is the root of alpha_bar, and here it is alpha_bar itself.",
                read_as(kind, said, z, alpha**2, sigma**2),
                read_as(kind, said, z, alpha**2, sigma),
            ),
            ("alpha and sigma are exchanged.", read_as(kind, said, z, sigma, alpha)),
            ("The division by alpha is missing.", z - sigma * said),
            ("The answer is read as a velocity, eps - x, and here is a table.", z - column(t, z) * said),
            (
                "Here the answer itself is clipped: clip is for x_hat.",
                *(read_as(kind, said.clamp(-a, a), z, alpha, sigma) for a in (1, 2, clip)),
            ),
            ("clip is ignored.", read_as(kind, said, z, alpha, sigma)),
            ("clip is ignored: here it is 1.", read_as(kind, said, z, alpha, sigma).clamp(-1, 1)),
            ("clip bounds both sides.", read_as(kind, said, z, alpha, sigma).clamp(max=clip)),
            ("clip bounds both sides.", read_as(kind, said, z, alpha, sigma).clamp(min=-clip)),
            (
                "clip clamps: nothing is squashed.",
                clip * torch.tanh(read_as(kind, said, z, alpha, sigma) / clip),
            ),
        )

    return Family(
        what if clip == math.inf else f"{what}, clip = {clip:g}",
        w,
        schedule,
        times,
        (1.01, -0.01, 999.0, math.inf),
        lambda t: (n * t - 1).clamp(min=0),
        lambda z, t: z,
        x_hat,
        likely_schedules,
        likely_clocks,
        lambda z, t: [
            *scaled(z),
            *each(("The network is given z as it is.", *(z * c for c in on(schedule, z, t)))),
        ],
        likely_x_hats,
    )


TABLES = (
    (LINEAR, "eps"),
    (zero_terminal_snr(SQUARED), "v"),
    (SCALED, "x"),
    (SCALED, "v"),
    (SHORT, "eps"),
    (zero_terminal_snr(SHORT), "x"),
)


@torch.enable_grad()
def check_table_denoiser(table_denoiser=pretrained.table_denoiser, seed: int = 0) -> None:
    """The index at every entry of the table and between, x_hat of every kind, clipping, and refusals."""
    for times, indices in ((exact(1.0, 0.5, 0.001), exact(999, 499, 0)), (exact(0.5005), exact(499.5))):
        net = Stranger()
        denoiser, _ = pair_of(
            accepts(lambda: table_denoiser(net, LINEAR), "A table of 1000"), "A table of 1000"
        )
        z = float32_numbers(len(times), 2, generator=torch.Generator().manual_seed(seed))
        accepts(lambda: denoiser(z, times), f"t = {times.tolist()}")
        asked_once(net)
        check_indices(net.asked, times, indices)
    default = lambda net, **more: table_denoiser(net, LINEAR, **more)
    check_values(default, table_family(LINEAR, "eps"), seed, some(2))
    grid = torch.arange(1, 1001, dtype=DOUBLE)
    for dtype in (DOUBLE, torch.float32):
        for times in ((grid / 1000).to(dtype), torch.linspace(0, 1, 1001, dtype=dtype)[1:]):
            net = Stranger()
            table_denoiser(net, LINEAR)[0](torch.zeros(1000, 1, dtype=dtype), times)
            found = net.asked[0][1].double()
            hint = (
                f"On the table the index is whole, also where {dtype} rounds: of 1000 times "
                f"{int((found != grid - 1).sum())} are not. Is it cut, where it ought to be rounded?"
            )
            close(found, grid - 1, hint, 0.0, 0.0)
    check_manners(
        lambda net, **more: table_denoiser(net, SCALED, "v", **more), table_family(SCALED, "v"), seed
    )
    check_table_refusals(table_denoiser, seed)
    for k, (table, kind) in enumerate(TABLES):
        make = lambda net, **more: table_denoiser(net, table.clone(), kind, **more)
        family = table_family(table, kind)
        check_values(make, family, seed, some(k))
        if k % 2 == 0:
            check_precision(make, family, seed)
        if k < 3:
            check_gaussian(make, family, seed, functools.partial(said_of, table, kind))
    for k, (kind, clip) in enumerate((("v", 0.7), ("eps", 1), ("x", 0.4))):
        make = lambda net, **more: table_denoiser(net, LINEAR, kind, clip=clip, **more)
        check_values(make, table_family(LINEAR, kind, clip=clip), seed, some(k + 1))
    for table in (LINEAR, SCALED, zero_terminal_snr(LINEAR)):
        alpha, _ = table_denoiser(Stranger(), table, "v")[1](torch.ones(1))
        close(
            alpha.double(),
            table[-1:].sqrt(),
            "At t = 1 alpha is the root of the table's last entry.",
            1e-8,
            1e-6,
        )
    assert alpha == 0, f"A table of zero SNR ends at alpha = 0 exactly, not {alpha.item():.3g}."


def check_indices(asked: list, times: Tensor, indices: Tensor) -> None:
    """A first look: three entries of the table, and one place between."""
    found, where = asked[0][1].double(), "At table_times([999, 499, 0]) the index is 999, 499, 0"
    if len(times) == 1:
        where = "Time 0.5005 lies between two entries, at index 499.5: no .long() off the table"
    between = f"{where}, and no rounding: here it is whole."
    likely = each(
        *([(between, indices.trunc(), indices.round(), indices.ceil())] if len(times) == 1 else []),
        (f"{where}: here it is n t, one too much.", 1000 * times, (1000 * times).round()),
        (f"{where}: here it is (n - 1) t.", 999 * times, (999 * times).round(), (999 * times).trunc()),
        (f"{where}: here it is t itself.", times),
        (f"{where}: here time runs backwards.", 999 - indices, 1000 * (1 - times), 999 * (1 - times)),
    )
    explained(found, indices, f"{where}, and here {found.tolist()}.", likely, 1e-9)


def said_of(table: Tensor, kind: str, denoiser: Callable, z: Tensor, t: Tensor) -> Tensor:
    """What a network of this kind answers, of the denoiser that it knows."""
    (alpha, sigma), x = on(by_rule(table), z, t), denoiser(z, t)
    eps = torch.where(sigma > 0, (z - alpha * x) / sigma.clamp(min=1e-300), 0 * z)
    return {"x": x, "eps": eps, "v": alpha * eps - sigma * x}[kind]


def check_table_refusals(table_denoiser: Callable, seed: int) -> None:
    """Kinds, tables, and clip."""
    z, t = torch.zeros(4, 2, dtype=DOUBLE), exact(1.0, 0.5, 0.3, 0.1)
    asks = lambda *args, **more: table_denoiser(Stranger(), *args, **more)[0](z, t)
    for kind in ("velocity", "score", "epsilon", "v_prediction", "sample", "flow", "V", "", None, 1):
        hint = f'kind = {kind!r} must be refused, as no table\'s network has it: "eps", "v" or "x".'
        refuses(lambda: asks(LINEAR, kind), hint)
    beta = beta_table("linear")
    for what, bad in (
        ("betas", beta),
        ("alphas, 1 - beta,", 1 - beta),
        ("roots of alphas", (1 - beta).sqrt()),
        ("alpha_bar backwards", LINEAR.flip(0)),
        ("1 - alpha_bar", 1 - LINEAR),
        ("a table with two axes", LINEAR[None]),
        ("an empty table", LINEAR[:0]),
    ):
        for kind in ("eps", "v"):
            hint = f"{what} must be refused in alpha_bar's place: it is cumprod(1 - beta), near 0 at the end."
            refuses(lambda: asks(bad, kind), hint)
    for value, bad in anywhere(LINEAR, -0.1, 1.1):
        refuses(lambda: asks(bad, "v"), f"A table with one entry of {value:g} must be refused.")
    hint = "eps on a table that ends at alpha = 0 must be refused: there it says nothing about the data."
    for table in (LINEAR, SQUARED, SHORT):
        refuses(lambda: table_denoiser(Stranger(), zero_terminal_snr(table), "eps"), hint)
        for kind in ("v", "x"):
            accepts(lambda: asks(zero_terminal_snr(table), kind), f"{kind} on a table that ends at alpha = 0")
    accepts(lambda: asks(SQUARED), "eps on a table that nearly ends at 0")
    for clip in (0, 0.0, -1, math.nan, math.inf, "1"):
        refuses(
            lambda: asks(LINEAR, clip=clip), f"clip = {clip!r} must be refused: a number above 0, or None."
        )
    accepts(lambda: asks(LINEAR, clip=None), "clip = None")


# a flow


def flow_family(scale: Size, w: float | None = None) -> Family:
    """What is right for a network of a flow."""
    times = exact(1.0, 0.5, 0.001, 0.35), exact(0.0, 0.9, 0.123, 0.7)

    def likely_clocks(t):
        at = f"The network is asked at scale t, here {scale:g} t: "
        return each(
            (f"{at}here time runs backwards.", scale * (1 - t)),
            (f"{at}here it is t itself.", t),
            (f"{at}here it is 1000 t.", 1000 * t),
            (f"{at}here scale counts twice.", scale**2 * t),
            (
                f"{at}here it is a table's index.",
                scale * t - 1,
                (scale * t - 1).clamp(min=0),
                (scale - 1) * t,
            ),
            (
                f"{at}here it is a whole number.",
                *(f(scale * t) for f in (torch.trunc, torch.round, torch.ceil)),
            ),
            (f"{at}here it is divided.", t / scale),
        )

    def likely_x_hats(said, z, t):
        T = column(t, z)
        return each(
            (
                "The velocity is eps - x, towards the noise: x_hat = z - t velocity, and here a plus.",
                z + T * said,
            ),
            ("Here this is the noise that the velocity implies: x_hat = z - t velocity.", z + (1 - T) * said),
            ("Time runs backwards in x_hat = z - t velocity.", z - (1 - T) * said),
            ("x_hat = z - t velocity: t is missing.", z - said),
            ("x_hat = z - t velocity, with t, and here with the clock.", z - scale * T * said),
            ("This is the answer itself, a velocity: x_hat = z - t velocity.", said, -said),
            ("The answer is read as v of a table.", (1 - T) * z - T * said),
            ("The answer is read as eps of a table.", (z - T * said) / (1 - T)),
            (
                "A shift belongs to the grid of times, never to x_hat.",
                *(z - late(T, a) * said for a in SHIFTS),
            ),
            (
                "One number for each sample, not along another axis.",
                *([z - t * said] if z.shape[-1] == 4 else []),
            ),
        )

    return Family(
        f"A flow, scale = {scale:g}",
        w or 0.3 * scale,
        lambda t: (1 - t, t),
        times,
        (1.01, -0.01, 1000.0, math.inf),
        lambda t: scale * t,
        lambda z, t: z,
        lambda said, z, t: z - column(t, z) * said,
        lambda t: [
            ("Time runs backwards in the schedule: t = 0 is data.", (t, 1 - t)),
            ("A flow's schedule is a straight line, 1 - t and t, and here it is another one.", cosine(t)),
            ("A flow's schedule is a straight line, 1 - t and t, and here it is another one.", edm(t)),
            *(
                ("A shift belongs to the grid of times, never to the schedule.", (1 - late(t, a), late(t, a)))
                for a in SHIFTS
            ),
        ],
        likely_clocks,
        lambda z, t: [
            *scaled(z),
            *each(("The network is given z as it is.", column(1 - t, z) * z, column(t, z) * z)),
        ],
        likely_x_hats,
    )


@torch.enable_grad()
def check_flow_denoiser(flow_denoiser=pretrained.flow_denoiser, seed: int = 0) -> None:
    """The clock, the sign of the velocity, both ends, and refusals."""
    z = float32_numbers(3, 2, generator=torch.Generator().manual_seed(seed))
    net, t = Stranger(), exact(1.0, 0.5, 0.25)
    denoiser, _ = pair_of(accepts(lambda: flow_denoiser(net), "A flow"), "A flow")
    x_hat = accepts(lambda: denoiser(z.clone(), t), f"t = {t.tolist()}")
    asked_once(net)
    found, where = net.asked[0][1], "At t = 1, 0.5, 0.25 the clock is 1000, 500, 250"
    likely = each(
        (f"{where}: here it is t itself. Only Flux and Qwen-Image are told t, with scale = 1.", t),
        (f"{where}: here scale counts twice.", 1e6 * t),
        (f"{where}: here time runs backwards.", 1000 * (1 - t), 1 - t),
        (
            f"{where}: a shift belongs to the grid of times, never to the clock.",
            *(1000 * late(t, a) for a in SHIFTS),
        ),
    )
    explained(found, 1000 * t, f"{where}, and here {found.tolist()}.", likely)
    hint = "The velocity is eps - x, towards the noise: x_hat = z - t velocity, and here it is a plus."
    said = net.by_hand(z, 1000 * t)
    explained(x_hat, z - column(t, z) * said, "x_hat = z - t velocity.", {hint: z + column(t, z) * said})
    hint = "At t = 0 x_hat is z, whatever the network says."
    close(accepts(lambda: denoiser(z.clone(), 0 * t), "t = 0"), z, hint)
    check_manners(flow_denoiser, flow_family(1000.0), seed)
    for k, scale in enumerate((1000.0, 1, 500, 2.5)):
        make = lambda net, **more: flow_denoiser(net, scale, **more)
        family = flow_family(scale)
        check_values(make, family, seed, some(k))
        check_precision(make, family, seed)
    check_values(flow_denoiser, flow_family(1000.0), seed, some(2))
    for scale in (0, 0.0, -1000.0, math.nan, math.inf, "1000", None):
        hint = (
            f"scale = {scale!r} must be refused: a number above 0. Where time is reversed, wrap the network."
        )
        refuses(lambda: flow_denoiser(Stranger(), scale)[0](z, t), hint)
    velocity = lambda right, z, t: torch.where(
        column(t, z) > 0, (z - right(z, t)) / column(t, z).clamp(min=1e-9), z
    )
    check_gaussian(flow_denoiser, flow_family(1000.0), seed, velocity)


# EDM


def edm_family(
    data_std: Size = 0.5, sign: Size = 1, scale: Size = 0.25, t_min: Size = 0.0, w: float | None = None
) -> Family:
    """What is right for EDM's network, and a consistency model's."""
    sd = data_std
    times = exact(80.0, 0.5, 0.002, 2.3), exact(0.01, 300.0, 1.0, 20.0), exact(0.004, 0.1, 5.0, 79.0)

    def parts(z, t):
        T = column(t, z)
        r, above = torch.sqrt(T**2 + sd**2), T - t_min
        return T, r, above, sd**2 / (above**2 + sd**2), above * sd / r

    def likely_clocks(t):
        at = f"The network is told scale log(sigma), here {scale:g} log(sigma): "
        log = t.log()
        return each(
            (f"{at}here it is sigma itself.", t, scale * t),
            (f"{at}here it is log(sigma).", log),
            (f"{at}here it is log(sigma) / 4.", log / 4),
            (f"{at}here it is 1000 times too much.", 1000 * scale * log, 250 * log, 1000 * log),
            (f"{at}here the logarithm has another base.", scale * t.log2(), scale * t.log10()),
            (
                f"{at}here it is the logarithm of sigma^2, or of sigma / data_std.",
                2 * scale * log,
                scale * (t / sd).log(),
            ),
            (f"{at}here something is added to sigma.", *(scale * (t + 10.0**-k).log() for k in range(1, 13))),
            (f"{at}here sigma is clamped.", scale * t.clamp(0.002, 80).log(), scale * t.clamp(max=80).log()),
            (f"{at}here the sign is wrong.", -scale * log),
            (
                f"{at}here it is the angle of sigma.",
                torch.atan(t),
                torch.atan(t / sd),
                2 / math.pi * torch.atan(t),
            ),
        )

    def likely_given(z, t):
        T, r, *_ = parts(z, t)
        given = "The network is given c_in z = z / sqrt(sigma^2 + data_std^2): "
        return each(
            (f"{given}here c_in is missing.", z),
            (f"{given}here the root is missing.", z / r**2),
            (f"{given}here data_std is 1.", z / torch.sqrt(T**2 + 1)),
            (f"{given}here data_std is 0.5.", z / torch.sqrt(T**2 + 0.25)),
            (f"{given}here data_std is not squared.", z / torch.sqrt(T**2 + sd)),
            (f"{given}here it is sigma + data_std.", z / (T + sd)),
            (f"{given}here it is multiplied.", z * r),
            (f"{given}here it is divided by sigma.", z / T),
            (f"{given}here t_min is subtracted.", z / torch.sqrt((T - t_min) ** 2 + sd**2)),
            (f"{given}here c_in counts twice.", z / r / r),
        )

    def likely_x_hats(said, z, t):
        T, r, above, skip, out = parts(z, t)
        out = sign * out
        form = "x_hat = c_skip z + sign c_out F: "
        plain = sd**2 / r**2
        return each(
            (f"{form}here the sign is another.", skip * z - out * said),
            (f"{form}here c_skip is missing.", z + out * said, out * said),
            (f"{form}here c_skip z has c_in in it, too.", skip * z / r + out * said),
            (
                f"{form}here c_out is missing, or sigma alone.",
                skip * z + sign * said,
                skip * z + sign * T * said,
            ),
            (
                f"{form}here t_min is ignored, so that the boundary is at 0.",
                plain * z + sign * T * sd / r * said,
            ),
            (f"{form}here t_min is in c_skip alone.", skip * z + sign * T * sd / r * said),
            (f"{form}here t_min is in c_out alone.", plain * z + out * said),
            (
                f"{form}here t_min is under the root, too.",
                skip * z + sign * above * sd / torch.sqrt(above**2 + sd**2) * said,
            ),
            (f"{form}here c_skip's square is missing.", sd / r * z + out * said),
            (f"{form}c_out has data_std in it.", skip * z + out / sd * said),
            ("This is the answer itself.", said, -said),
            ("The answer is read as eps.", z - T * said),
            ("The answer is read as v of a table.", (z - T * r * said) / r**2),
        )

    return Family(
        f"EDM, data_std = {data_std:g}, sign = {sign:g}, scale = {scale:g}, t_min = {t_min:g}",
        w or max(4 * scale, 0.5),
        lambda t: (torch.ones_like(t), t),
        tuple(t for t in times if t.min() >= t_min),
        (0.0, -1.0, math.inf),
        lambda t: scale * t.log(),
        lambda z, t: z / parts(z, t)[1],
        lambda said, z, t: parts(z, t)[3] * z + sign * parts(z, t)[4] * said,
        lambda t: [
            (
                "EDM's schedule leaves the signal alone, 1 and sigma: here it is scaled.",
                (1 / torch.hypot(t, t / t), t / torch.hypot(t, t / t)),
            ),
            ("EDM's schedule leaves the signal alone, 1 and sigma: here it is a flow's.", (1 - t, t)),
        ],
        likely_clocks,
        likely_given,
        likely_x_hats,
    )


EDMS = (
    {},
    {"data_std": 1.0, "sign": -1},
    {"data_std": 0.7, "sign": 1.0, "scale": 1.0},
    {"scale": 250, "t_min": 0.002},
    {"data_std": 2, "scale": 250.0, "t_min": 0.003, "sign": -1.0},
)


@torch.enable_grad()
def check_edm_denoiser(edm_denoiser=pretrained.edm_denoiser, seed: int = 0) -> None:
    """The clock, c_in, the sign, the boundary of consistency models, and refusals."""
    z = float32_numbers(3, 2, generator=torch.Generator().manual_seed(seed))
    net, t = Stranger(1.0), exact(80.0, 1.0, 0.002)
    denoiser, _ = pair_of(accepts(lambda: edm_denoiser(net), "EDM"), "EDM")
    accepts(lambda: denoiser(z.clone(), t), f"sigma = {t.tolist()}")
    asked_once(net)
    where = "At sigma = 80, 1, 0.002 the clock is log(sigma) / 4"
    likely = each(
        (f"{where}: here it is log(sigma).", t.log()),
        (
            f"{where}: here it is 1000 times that. A consistency model has it, with scale = 250.",
            250 * t.log(),
        ),
        (f"{where}: here it is 1000 log(sigma).", 1000 * t.log()),
        (f"{where}: here it is sigma itself.", t, t / 4),
    )
    explained(net.asked[0][1], t.log() / 4, f"{where}, and here {net.asked[0][1].tolist()}.", likely)
    check_manners(edm_denoiser, edm_family(), seed)
    for k, settings in enumerate(EDMS):
        make = lambda net, **more: edm_denoiser(net, **settings, **more)
        family = edm_family(**settings)
        check_values(make, family, seed, some(k))
        check_precision(make, family, seed)
    denoiser, _ = edm_denoiser(Stranger(300.0), scale=250, t_min=0.002)
    for dtype in (DOUBLE, torch.float32):
        edge = torch.full((3,), 0.002, dtype=dtype)
        found = accepts(lambda: denoiser(z.to(dtype), edge), "sigma = t_min")
        close(found.double(), z, "At t_min x_hat is z, whatever the network says: the boundary.", 1e-6, 1e-6)
    for value, bad in anywhere(t, 0.0015, 0.0):
        hint = f"sigma = {value:g} below t_min = 0.002 must be refused, also as one of many."
        refuses(lambda: denoiser(z, bad), hint)
    hint = "sigma = 0 must be refused, also as one of many: the network is told its logarithm."
    refuses(lambda: edm_denoiser(Stranger())[0](z, exact(1.0, 0.0, 2.0)), hint)
    for name, *values in (
        ("data_std", 0, -0.5, math.nan, math.inf),
        ("scale", 0.0, -0.25, math.nan, math.inf),
        ("sign", math.nan, math.inf, "v"),
        ("t_min", -0.002, math.nan),
    ):
        for value in values:
            refuses(
                lambda: edm_denoiser(Stranger(), **{name: value})[0](z, t),
                f"{name} = {value!r} must be refused.",
            )

    def says(sd, sign, right, z, t):
        T = column(t, z)
        r = torch.sqrt(T**2 + sd**2)
        return sign * (right(z, t) - sd**2 / r**2 * z) / (T * sd / r)

    for sd, sign in ((0.5, 1), (1.0, -1)):
        make = lambda net, **more: edm_denoiser(net, sd, sign, **more)
        check_gaussian(make, edm_family(sd, sign), seed, functools.partial(says, sd, sign))


# another schedule


def ratio(t: Tensor, schedule: Schedule) -> Tensor:
    """sigma / alpha."""
    alpha, sigma = schedule(t)
    return sigma / alpha


def in_table(table: Tensor, level: Tensor) -> Tensor:
    """When a table has this sigma / alpha, by the chord between two entries: a linear equation."""
    corners = torch.stack([torch.cat([exact(1), table]).sqrt(), torch.cat([exact(0), 1 - table]).sqrt()])
    levels = corners[1] / corners[0]
    left = (torch.searchsorted(levels, level.contiguous()) - 1).clamp(0, len(table) - 1)
    (a, s), (a_next, s_next) = corners[:, left], corners[:, left + 1]
    share = (level * a - s) / (s_next - s - level * (a_next - a))
    return ((left + share) / len(table)).clamp(0, 1)


class Move(NamedTuple):
    """Two schedules, times of the target, and when the source has the noise that the target has then."""

    what: str
    source: Schedule
    target: Schedule
    times: Tensor
    inverse: Callable[[Tensor], Tensor]  # of sigma / alpha


def moves() -> Iterator[Move]:
    """Between all the families; more noise than the source has is looked at elsewhere."""
    sigmas, inside = exact(0.02, 1.3, 9.0, 0.3), exact(0.9, 0.05, 0.5, 0.6)
    flow = lambda level: level / (1 + level)
    circle = lambda level: 2 / math.pi * torch.atan(level)
    ends = exact(0.001, 1.0, 0.5, 0.25)
    for name, table in (("linear", LINEAR), ("scaled_linear", SCALED), ("short", SHORT)):
        inverse, schedule = functools.partial(in_table, table), tabulated(table)
        early = (
            torch.where(ends == 1, 0.9, ends) if name == "linear" else ends
        )  # its sigma ends at 157, not 80
        levels = ((1 - table) / table).sqrt()[[len(table) - 1, 0, len(table) // 2 - 1, len(table) // 5]]
        yield Move(f"The {name} table at its own entries, on EDM's times", schedule, edm, levels, inverse)
        yield Move(f"The {name} table, on EDM's times", schedule, edm, sigmas, inverse)
        yield Move(f"The {name} table, on a flow's times", schedule, rectified_flow, inside, inverse)
        yield Move(f"EDM, on the times of the {name} table", edm, schedule, early, lambda level: level)
        yield Move(f"A flow, on the times of the {name} table", rectified_flow, schedule, ends, flow)
    yield Move(
        "The linear table, on the scaled one's",
        tabulated(LINEAR),
        tabulated(SCALED),
        ends,
        functools.partial(in_table, LINEAR),
    )
    yield Move("A flow, on EDM's times", rectified_flow, edm, sigmas, flow)
    yield Move("EDM, on a flow's times", edm, rectified_flow, inside, lambda level: level)
    yield Move("The cosine, on EDM's times", cosine, edm, sigmas, circle)
    yield Move("The cosine, on a flow's times", cosine, rectified_flow, exact(1.0, 0.05, 0.5, 0.6), circle)
    yield Move(
        "A flow, on a flow that is shifted by 3", rectified_flow, shifted(rectified_flow, 3.0), inside, flow
    )
    yield Move(
        "A flow that is shifted by 3, on a flow",
        shifted(rectified_flow, 3.0),
        rectified_flow,
        inside,
        lambda level: level / (3 + level),
    )


def length(schedule: Schedule, z: Tensor, t: Tensor) -> Tensor:
    """The root of alpha^2 + sigma^2."""
    return torch.hypot(*on(schedule, z, t))


def likely_times(move: Move, z: Tensor, t: Tensor, u: Tensor) -> Likely:
    """What is found in the place of the source's time."""
    when = f"{move.what}: the denoiser is asked where its own schedule has the same sigma / alpha"
    level = ratio(t, move.target)
    linear = in_table(LINEAR, level)
    return each(
        (f"{when}, and here at the target's time.", t),
        (f"{when}: here this is the inverse of another table.", linear, in_table(SCALED, level)),
        (f"{when}: here it is asked at the ratio itself.", level),
        (
            f"{when}: here it is that of the same sigma.",
            *([move.inverse(t)] if move.target is not edm else []),
        ),
        (f"{when}, and not the inverse of it.", move.inverse(1 / level)),
        (f"{when}: here it is clamped at 1.", u.clamp(max=1)),
        (
            f"{when}: here it is in the middle of a table's entry.",
            u + 0.5 / 1000,
            u - 0.5 / 1000,
            u - 1 / 1000,
            u + 1 / 1000,
        ),
        (f"{when}: the time of another sample.", u.roll(1), u.roll(-1)),
    )


def likely_places(move: Move, z: Tensor, t: Tensor, u: Tensor) -> Likely:
    """What is found in the place of z."""
    r, r_new = length(move.source, z, u), length(move.target, z, t)
    size = f"{move.what}: z gets the size that it has on the denoiser's schedule, r_source / r_target"
    return each(
        (f"{size}, r^2 = alpha^2 + sigma^2: here it is not rescaled.", z),
        (f"{size}, and not the inverse.", r_new / r * z),
        (f"{size}: here that of the source is missing.", z / r_new),
        (f"{size}: here that of the target is missing.", r * z),
        (f"{size}: here the squares of both.", (r / r_new) ** 2 * z),
        (f"{size}: here it is multiplied by alpha.", *(c * z for c in on(move.source, z, u))),
        (f"{size}: here it is divided by alpha.", *(z / c for c in on(move.target, z, t))),
        (
            f"{size}: here along another axis.",
            *([r.flatten() / r_new.flatten() * z] if z.shape[-1] == 4 else []),
        ),
        *((f"{size}. Nothing is clipped.", other) for _, other in clipped(r / r_new * z)),
    )


class Denoising(Stranger):
    """A denoiser, which says what it predicts, and is asked as strictly."""

    predicts = "x"

    def by_hand(self, z: Tensor, t: Tensor) -> Tensor:
        return student(self.knob.to(z) * z, t)


@torch.enable_grad()
def check_rescheduled(rescheduled=pretrained.rescheduled, seed: int = 0) -> None:
    """When the denoiser is asked, at z of which size, its answer, gradients, ends, and exact denoisers."""
    g = torch.Generator().manual_seed(seed)
    for k, (move, dims) in enumerate((move, dims) for n, move in enumerate(moves()) for dims in some(n)):
        if k == 2:
            check_move_refusals(rescheduled, seed)
        z, denoiser, t = float32_numbers(4, *dims, generator=g), Denoising(), move.times
        z.view(4, -1)[:, 0] = exact(1000, -1000, 1000, -1000)
        u = move.inverse(ratio(t, move.target))
        moved = accepts(lambda: rescheduled(denoiser, move.source, move.target), move.what)
        assert callable(moved), f"rescheduled returns a denoiser, and no {type(moved).__name__}."
        assert getattr(moved, "predicts", "x") == "x", f"It predicts x, and says {moved.predicts!r}."
        rescheduled(lambda z, t: 0 * z, move.target, move.source)  # changes nothing
        free, moving = z.clone().requires_grad_(), t.clone().requires_grad_()
        found = answer_of(lambda: moved(free, moving), (free, moving), (), move.what)
        asked_once(denoiser)
        ((given, time),) = denoiser.asked
        times, places = (lazily(likely, move, z, t, u) for likely in (likely_times, likely_places))
        scale = length(move.source, z, u) / length(move.target, z, t)
        hint = f"{move.what}: the denoiser is asked at another time, at {time.tolist()}."
        explained(time, u, hint, times, 1e-9)
        explained(given, scale * z, f"{move.what}: the denoiser is given another z.", places, 1e-9)
        as_given(found, [free], [z])
        follow = z.clone().requires_grad_()
        right = denoiser.by_hand(scale * follow, u)
        likely = each(("x_hat is x_hat, on every schedule: nothing is scaled back.", right.detach() / scale))
        explained(found.detach(), right.detach(), "x_hat is what the denoiser answers.", likely, 1e-7)
        assert found.requires_grad, "The gradient must reach the denoiser: what is detached?"
        slopes = torch.autograd.grad(found.sum(), (denoiser.knob, free, moving), allow_unused=True)
        wanted = torch.autograd.grad(right.sum(), (denoiser.knob, follow))
        for who, slope, other in zip(("the denoiser", "z"), slopes, wanted):
            hint = f"The gradient must reach {who}: what is detached?"
            assert slope is not None, hint
            close(slope, other, hint, 1e-6, 1e-6)
        assert slopes[2] is None or not slopes[2].any(), (
            "No gradient passes to t: the time is searched for, and half a gradient is worse than none."
        )
        if k % 3 == 0:
            small = z.clamp(-3, 3).float() / scale.float()
            right = denoiser.by_hand(scale * small, u).detach()
            close_in_float32(moved(small, t).detach(), right, "x_hat", 3e-5)
            wide = moved(z, t.float())
            assert wide.dtype == DOUBLE, (
                f"x_hat has the dtype of z, also where t is float32, not {wide.dtype}."
            )
            for dtype in HALVES:
                low = rescheduled(lambda z, t: z, move.source, move.target)(small.to(dtype), t)
                assert low.dtype == dtype, f"x_hat has the dtype of z: {dtype}, not {low.dtype}."
    check_ends(rescheduled, seed)
    check_exact(rescheduled, seed)


def check_move_refusals(rescheduled: Callable, seed: int) -> None:
    """Answers, times, ends, and what is no denoiser."""
    z = float32_numbers(4, 1, 3, 2, generator=torch.Generator().manual_seed(seed))
    t = exact(0.3, 0.9, 0.5, 0.7)
    check_shapes("An answer", lambda bad: rescheduled(lambda z, t: bad, cosine, rectified_flow)(z, t), z)
    for value, bad in anywhere(t, 1.01, -0.01):
        hint = f"t = {value:g} must be refused, also as one of many: it is no time of the target."
        refuses(lambda: rescheduled(Denoising(), edm, rectified_flow)(z, bad), hint)
    for wrong in (t[:1], t[:3], t[:, None]):
        hint = f"t of shape {tuple(wrong.shape)} for 4 samples must be refused: one for each."
        refuses(lambda: rescheduled(Denoising(), cosine, rectified_flow)(z, wrong), hint)
    for end in (0, 0.0, -1.0, math.nan, math.inf, "1"):
        hint = f"end = {end!r} must be refused: it is a time of the source, above 0."
        refuses(lambda: rescheduled(Denoising(), cosine, edm, end)(z, t), hint)
    hint = "end = 2 must be refused where the source's last time is 1."
    refuses(lambda: rescheduled(Denoising(), cosine, edm, 2.0)(z, t), hint)
    velocity = Denoising()
    velocity.predicts = "velocity"
    hint = "A velocity in the denoiser's place must be refused: it predicts another kind, and says so."
    refuses(lambda: rescheduled(velocity, rectified_flow, edm)(z, t), hint)


def check_ends(rescheduled: Callable, seed: int) -> None:
    """More noise than the source has, none at all, and `end`."""
    z, zero = float32_numbers(3, 2, generator=torch.Generator().manual_seed(seed)), zero_terminal_snr(LINEAR)
    last = ((1 - LINEAR[-1]) / LINEAR[-1]).sqrt().item()
    for what, source, target, t, end, wanted in (
        ("EDM ends at 80, on a flow's time 1", edm, rectified_flow, 1.0, None, 80.0),
        ("EDM ends at 80, at sigma = 200", edm, edm, 200.0, None, 80.0),
        ("EDM with end = 40", edm, edm, 80.0, 40.0, 40.0),
        ("EDM with end = 500", edm, edm, 200.0, 500, 200.0),
        ("A table ends at 1, at a sigma beyond its last", tabulated(LINEAR), edm, 1.01 * last, None, 1.0),
        ("A table ends at 1, at a sigma far beyond its last", tabulated(SCALED), edm, 80.0, None, 1.0),
        ("A table ends at 1, on a flow's time 1", tabulated(LINEAR), rectified_flow, 1.0, None, 1.0),
        ("A table of zero SNR, on a flow's time 1", tabulated(zero), rectified_flow, 1.0, None, 1.0),
        ("A flow with end = 0.9, at more noise", rectified_flow, edm, 20.0, 0.9, 0.9),
        ("A flow's time 1, on the cosine's", rectified_flow, cosine, 1.0, None, 1.0),
        ("A table without noise", tabulated(LINEAR), edm, 0.0, None, 0.0),
        ("A flow without noise", rectified_flow, tabulated(SCALED), 0.0, None, 0.0),
        ("EDM without noise", edm, rectified_flow, 0.0, None, 0.0),
    ):
        denoiser, times = Denoising(), exact(t).expand(3)
        more = {} if end is None else {"end": end}
        moved = accepts(lambda: rescheduled(denoiser, source, target, **more), what)
        found = accepts(lambda: moved(z, times), what)
        given, time = denoiser.asked[-1]
        hint = f"{what}: the denoiser is asked at {wanted:g}, and here at {time[0].item():g}."
        close(time, exact(wanted).expand(3), hint, 1e-9)
        scale = length(source, z, exact(wanted).expand(3)) / length(target, z, times)
        close(
            given, scale * z, f"{what}: z gets the size that it has there on the denoiser's schedule.", 1e-8
        )
        assert found.isfinite().all(), f"{what}: nan or inf comes out. Is something divided by alpha = 0?"


def check_exact(rescheduled: Callable, seed: int) -> None:
    """The exact denoiser of one schedule is that of the other, and there and back is the identity."""
    g, oracle = torch.Generator().manual_seed(seed), mixture(2, 3, seed)
    z = float32_numbers(4, 2, generator=g)
    for move in moves():
        z_t = z * length(move.target, z, move.times)
        right = oracle.denoiser(move.target)(z_t, move.times)
        moved = rescheduled(oracle.denoiser(move.source), move.source, move.target)
        hint = f"{move.what}: the exact denoiser of one schedule must be that of the other."
        close(moved(z_t, move.times), right, hint, 1e-7, 1e-7)
        end = {"end": 500.0} if move.target is edm else {}  # no noise here counts as the end
        there = rescheduled(student, move.target, move.source, **end)
        back = rescheduled(there, move.source, move.target)
        hint = f"{move.what}: there and back must be the identity."
        close(back(z_t, move.times), student(z_t, move.times), hint, 1e-7, 1e-7)


# by a scheduler


class Config(dict):
    """A config as diffusers has it: by names, and as attributes."""

    def __getattr__(self, name: str):
        if name not in self:
            raise AttributeError(name)
        return self[name]


def played(name: str, alphas_cumprod: Tensor | None = None, **config) -> object:
    """A scheduler: what a reader looks at, and nothing else."""
    scheduler = type(name, (), {})()
    scheduler.config = Config(config)
    if alphas_cumprod is not None:
        scheduler.alphas_cumprod = alphas_cumprod
    return scheduler


BASE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
DDIM = BASE | {"clip_sample": True, "clip_sample_range": 1.0, "set_alpha_to_one": True, "thresholding": False}
DDIM |= {"timestep_spacing": "leading", "steps_offset": 0, "rescale_betas_zero_snr": False}
DDIM |= {"prediction_type": "epsilon", "trained_betas": None, "dynamic_thresholding_ratio": 0.995}
DDPM = BASE | {"variance_type": "fixed_small", "clip_sample": True, "prediction_type": "epsilon"}
DDPM |= {"thresholding": False, "timestep_spacing": "leading", "rescale_betas_zero_snr": False}
EULER = BASE | {"prediction_type": "epsilon", "timestep_spacing": "linspace", "timestep_type": "discrete"}
EULER |= {"rescale_betas_zero_snr": False, "final_sigmas_type": "zero", "use_karras_sigmas": False}
UNIPC = BASE | {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
UNIPC |= {"solver_order": 2, "thresholding": False, "timestep_spacing": "linspace"}
FLOW = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": False, "invert_sigmas": False}
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "num_train_timesteps": 1000, "rho": 7.0}
EDM |= {"prediction_type": "epsilon", "sigma_schedule": "karras", "final_sigmas_type": "zero"}
CM = {"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "s_noise": 1.0}
CM |= {"rho": 7.0, "clip_denoised": True}


def readings() -> Iterator[tuple[object, Family]]:
    """Schedulers, and what is right for the networks that belong to them."""
    low, zero = LINEAR.float(), zero_terminal_snr(LINEAR).float()
    short = {"num_train_timesteps": 50}
    v, x = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
    yield played("DDIMScheduler", low, **DDIM), table_family(low.double(), "eps")
    yield played("DDPMScheduler", SCALED.float(), **DDPM | v), table_family(SCALED.float().double(), "v")
    yield (
        played("DDIMScheduler", SHORT.float(), **DDIM | x | short),
        table_family(SHORT.float().double(), "x"),
    )
    trailing = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    yield played("DDIMScheduler", zero, **DDIM | v | trailing), table_family(zero.double(), "v")
    zero = zero_terminal_snr(SCALED).float()
    nearly = torch.cat([zero[:-1], zero.new_tensor([2.0**-24])])
    yield played("EulerDiscreteScheduler", nearly, **EULER | v | trailing), table_family(zero.double(), "v")
    yield played("EulerDiscreteScheduler", low, **EULER), table_family(low.double(), "eps")
    solver = UNIPC | v | {"use_flow_sigmas": False, "flow_shift": 1.0}
    yield played("UniPCMultistepScheduler", low, **solver), table_family(low.double(), "v")
    yield played("UniPCMultistepScheduler", low, **UNIPC), flow_family(1000, 300.0)
    yield played("DPMSolverMultistepScheduler", low, **UNIPC | {"flow_shift": 7.0}), flow_family(1000, 300.0)
    yield played("FlowMatchEulerDiscreteScheduler", **FLOW), flow_family(1000, 300.0)
    moving = FLOW | {"shift": 1.0, "use_dynamic_shifting": True}
    yield played("FlowMatchEulerDiscreteScheduler", **moving), flow_family(1000, 300.0)
    yield (
        played("FlowMatchHeunDiscreteScheduler", num_train_timesteps=500, shift=7.0),
        flow_family(500, 150.0),
    )
    yield played("EDMEulerScheduler", **EDM), edm_family(w=1.0)
    yield (
        played("EDMDPMSolverMultistepScheduler", **EDM | v | {"sigma_data": 1.0}),
        edm_family(1.0, -1, w=1.0),
    )
    yield played("CMStochasticIterativeScheduler", **CM), edm_family(scale=250, t_min=0.002, w=300.0)
    wide = CM | {"sigma_data": 0.7, "sigma_min": 0.003}
    yield played("CMStochasticIterativeScheduler", **wide), edm_family(0.7, 1, 250, 0.003, 300.0)
    video = EULER | v | {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.002}
    yield played("EulerDiscreteScheduler", SCALED.float(), **video), edm_family(1.0, -1, w=1.0)


def strangers() -> Iterator[tuple[str, object]]:
    """Schedulers that no reader can follow: what is wrong, and the scheduler."""
    low, beta = LINEAR.float(), beta_table("linear").float()
    ddim = lambda **more: played("DDIMScheduler", low, **DDIM | more)
    for kind in ("velocity", "eps", "v", "flow", "x0", "", None):
        yield f"prediction_type = {kind!r}, which DDIMScheduler takes,", ddim(prediction_type=kind)
    yield "thresholding, which clamps each sample by its own numbers,", ddim(thresholding=True)
    yield "linspace of DDIM, which steps past its own timesteps,", ddim(timestep_spacing="linspace")
    for kind in ("learned", "learned_range"):
        scheduler = played("DDPMScheduler", low, **DDPM | {"variance_type": kind})
        yield f"variance_type = {kind!r}, with twice the channels,", scheduler
    yield (
        "invert_sigmas, whose time 0 is noise,",
        played("FlowMatchEulerDiscreteScheduler", **FLOW | {"invert_sigmas": True}),
    )
    yield "betas in alpha_bar's place", played("DDIMScheduler", beta, **DDIM)
    yield "alphas in alpha_bar's place", played("DDIMScheduler", 1 - beta, **DDIM)
    yield "eps where alpha ends at 0", ddim(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    yield "a scheduler without a table", played("DDIMScheduler", **DDIM)
    yield "ScoreSdeVe", played("ScoreSdeVeScheduler", num_train_timesteps=2000, snr=0.15, sigma_min=0.01)
    yield (
        "a trigflow",
        played("SCMScheduler", num_train_timesteps=1000, prediction_type="trigflow", sigma_data=0.5),
    )
    yield "EDM's x", played("EDMEulerScheduler", **EDM | {"prediction_type": "sample"})
    angle = EDM | {"sigma_data": 1.0, "prediction_type": "v_prediction"}
    yield "another clock, atan(sigma)", played("CosineDPMSolverMultistepScheduler", **angle)
    yield "a decoder", played("ConsistencyDecoderScheduler", num_train_timesteps=1024, sigma_data=0.5)
    yield (
        "continuous times of eps",
        played("EulerDiscreteScheduler", low, **EULER | {"timestep_type": "continuous"}),
    )
    yield "a flow without num_train_timesteps", played("MiniMaxH3Scheduler", shift=5.0)
    yield "an empty config", played("Scheduler", low)
    yield "no scheduler at all", object()


@torch.enable_grad()
def check_from_scheduler(from_scheduler=pretrained.from_scheduler, seed: int = 0) -> None:
    """Which reader, with which settings, by the names in a config; what no denoiser can follow."""
    cases, known = [], list(readings())
    for scheduler, family in known:
        kind = scheduler.config.get("prediction_type", "without a kind")
        family = family._replace(what=f"{type(scheduler).__name__}, {kind}: {family.what}")
        cases.append(
            (lambda net, scheduler=scheduler, **more: from_scheduler(net, scheduler, **more), family)
        )
        before, table = dict(scheduler.config), getattr(scheduler, "alphas_cumprod", exact(0)).clone()
        check_reading(cases[-1][0], family, scheduler, seed)
        same = torch.equal(table, getattr(scheduler, "alphas_cumprod", exact(0)))
        assert before == scheduler.config and same, (
            f"{family.what}: the scheduler is the caller's, and stays as it is: copy its table to change it."
        )
    check_unreadable(from_scheduler, known, seed)
    for k, (make, family) in enumerate(cases):
        check_values(make, family, seed, some(k + 1))
    for scheduler, _ in known[:3]:
        kind = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}[scheduler.config["prediction_type"]]
        make = lambda net, **more: from_scheduler(net, scheduler, clip=0.8, **more)
        check_values(make, table_family(scheduler.alphas_cumprod.double(), kind, clip=0.8), seed, some(3))
    for make, family in cases[1::8]:  # one of each family
        check_manners(make, family, seed)
        check_precision(make, family, seed)


def check_unreadable(from_scheduler: Callable, known: list, seed: int) -> None:
    """What is refused: schedulers, clip where there is no table, networks with a clock of their own."""
    for what, scheduler in strangers():
        hint = f"{what} must be refused: no denoiser follows it, or nobody knows what its network says."
        refuses(lambda: from_scheduler(Stranger(), scheduler), hint)
    for scheduler, family in known:
        if family.what.startswith("A table"):
            continue
        refuses(
            lambda: from_scheduler(Stranger(), scheduler, clip=1.0),
            f"clip must be refused for {type(scheduler).__name__}: it is for the x_hat of a table.",
        )
    table = played("DDIMScheduler", LINEAR.float(), **DDIM)
    for name in ("FluxTransformer2DModel", "QwenImageTransformer2DModel", "ZImageTransformer2DModel"):
        net = type(name, (Stranger,), {})()
        hint = f"{name} must be refused with a flow: its clock is its own, and 1000 t would be scaled twice."
        refuses(lambda: from_scheduler(net, played("FlowMatchEulerDiscreteScheduler", **FLOW)), hint)
        accepts(lambda: from_scheduler(net, table), f"{name}, on a table,")
    for clip in (0, -1.0, math.nan):
        hint = f"clip = {clip!r} must be refused: a number above 0."
        refuses(lambda: from_scheduler(Stranger(), table, clip=clip), hint)
    denoiser, _ = from_scheduler(Stranger(), table)
    z = float32_numbers(4, 2, generator=torch.Generator().manual_seed(seed))
    hint = "Times 999, 499, 0 must be refused: a DDPM's step i of n is t = (i + 1) / n."
    refuses(lambda: denoiser(z, exact(999.0, 499.0, 0.0, 1.0)), hint)


def check_reading(make: Callable, family: Family, scheduler: object, seed: int) -> None:
    """The likely mistakes of reading a config, before the values of the family."""
    z, t = float32_numbers(4, 2, generator=torch.Generator().manual_seed(seed)), family.times[0]
    net, config = Stranger(family.w), scheduler.config
    denoiser, schedule = pair_of(accepts(lambda: make(net), family.what), family.what)
    alpha, _ = accepts(lambda: schedule(t), f"{family.what}: t = {t.tolist()}")
    if config.get("rescale_betas_zero_snr"):
        assert alpha[0] == 0, (
            f"{family.what}: rescale_betas_zero_snr ends the table at alpha = 0 exactly, not {alpha[0]:.3g}. "
            "EulerDiscreteScheduler has 2^-24 there."
        )
    found = denoiser(z.clone(), t)
    asked_once(net)
    if config.get("clip_sample"):
        right = family.x_hat(net.by_hand(family.given(z, t), family.clock(t)), z, t)
        assert alike(found, right) or not alike(found, right.clamp(-1, 1)), (
            f"{family.what}: clip_sample is not followed: it clamps x_hat and keeps the old eps, as no "
            "denoiser's DDIM does."
        )


# the times of a scheduler


def check_table_times(table_times=pretrained.table_times, seed: int = 0) -> None:
    """(index + 1) / table, then the end; dtypes; what is refused."""
    spaced = torch.arange(900, -1, -100).tolist()
    drawn = (
        torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:6].sort(descending=True).values
    )
    for indices, more in (
        ([999, 499, 0], {}),
        ([999], {}),
        (spaced, {}),
        ([751, 501, 251, 1], {"end": 0.001}),
        ([49, 24, 9], {"table": 50}),
        ([49, 24, 9], {"table": 50, "end": 0.02}),
        ([1, 0], {"table": 2}),
        ([1], {"table": 2, "end": 0.5}),
        ([999.0, 749.0, 249.0], {}),
        (drawn, {}),
        (drawn.double().tolist(), {}),
        (tuple(drawn.tolist()), {"end": drawn[-1].item() / 2000}),
        (drawn.float().numpy(), {}),
    ):
        table, end = more.get("table", 1000), more.get("end", 0.0)
        what = f"table_times({indices!r:.60}{''.join(f', {k}={v}' for k, v in more.items())})"
        before = indices.clone() if isinstance(indices, Tensor) else indices
        found = accepts(lambda: table_times(indices, **more), what)
        assert isinstance(found, Tensor), f"Times are a tensor, and no {type(found).__name__}."
        i = exact(*(float(index) for index in indices))
        right = torch.cat([(i + 1) / table, exact(end)])
        with_end = lambda times, last=end: torch.cat([times, exact(last)])
        at = "Index i stands at time (i + 1) / table: "
        likely = each(
            (f"{at}here it is i / table.", with_end(i / table)),
            (f"{at}here it is i / (table - 1).", with_end(i / max(table - 1, 1))),
            (f"{at}here these are the indices.", with_end(i), i),
            (f"{at}here the table has 1000.", with_end((i + 1) / 1000)),
            (f"{at}here time runs backwards.", with_end(1 - i / table), with_end(1 - (i + 1) / table)),
            ("The end is missing: after the last index the scheduler steps to it.", right[:-1]),
            ("The end is 0 unless it is given: set_alpha_to_one = True.", with_end(right[:-1], 1 / table)),
            (
                "The end that is given is ignored: with set_alpha_to_one = False it is that of index 0, "
                "time 1 / table.",
                with_end(right[:-1], 0.0),
            ),
            ("Times fall, from noise to data, and here they rise.", right.flip(0)),
        )
        explained(found.double(), right, f"{what}: (index + 1) / table of each, then the end.", likely, 1e-7)
        same = torch.equal(before, indices) if isinstance(before, Tensor) else True
        assert same, "The indices that are given must stay as they are."
    before = torch.get_default_dtype()
    for default in (torch.float32, DOUBLE):
        torch.set_default_dtype(default)
        try:
            times = table_times(drawn)
        finally:
            torch.set_default_dtype(before)
        assert times.dtype == default, f"Times have torch's default dtype, here {default}: not {times.dtype}."
        hint = "Times are right to their last digit: (index + 1) / table, rounded once."
        assert torch.equal(times[:-1], ((drawn.double() + 1) / 1000).to(default)), hint
    for bad, why in (
        ([999, 499.5, 0], "an index between two entries, as of steps that do not divide the table,"),
        ([968.75, 937.5, 906.25], "indices of 32 steps, which do not divide 1000,"),
        ([999, 1000.0], "an index that rises"),
        ([1000, 499], "an index past the end, as with steps_offset = 1,"),
        ([999, -1], "an index below 0"),
        ([999, 499, 499], "an index that stays"),
        ([0, 0], "an index that stays"),
        ([0, 499, 999], "indices that rise"),
        ([999, 499, 600], "indices that rise once"),
        ([], "no index"),
        ([[999, 499]], "two axes"),
        ([999, math.nan, 0], "nan"),
    ):
        refuses(lambda: table_times(bad), f"{why} must be refused: {bad}.")
    for end in (-0.001, math.nan, 0.001, 0.5):
        hint = (
            f"end = {end:g} must be refused with [999, 0]: times fall to above the end, which is at least 0."
        )
        refuses(lambda: table_times([999, 0], end=end), hint)
    for table in (0, -1, 2.5, math.nan):
        refuses(lambda: table_times([0], table=table), f"table = {table} must be refused: a whole number.")
    refuses(lambda: table_times([999], table=500), "Index 999 of a table of 500 must be refused.")
    accepts(lambda: table_times([0]), "Index 0 alone")
