"""Checks of distribution matching: who is asked where, values, gradients, which sign lowers KL, whose turn.

The denoisers are functions of (z, t) that have nothing in common. Samples are as in the checks of flow maps:
axes that are all alike, and points, images and videos whose axes are not. Their times lie on several
schedules. What drifts is compared with sums over pairs, and on rings, where symmetry knows the answer.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidistill import matching
from minidistill.checks import Likely, accepts, close, close_in_float32, column, exact, explained, refuses
from minidistill.checks.flowmap import (
    Net,
    answer_of,
    as_given,
    check_places,
    check_shapes,
    gradient,
    likely_distances,
    loss_of,
    misread,
    square,
)
from minidistill.checks.phased import DIMS, anywhere, float32_numbers, other_shapes
from minidistill.checks.phased import student as fake_score
from minidistill.checks.phased import target as unlabelled
from minidistill.checks.phased import teacher as real_score
from minidistill.checks.progressive import BOUNDS, FORMULAS, at, likely_losses
from minidistill.schedules import Schedule, cosine, edm, rectified_flow

PLACES = (
    (rectified_flow, exact(0.9, 0.2, 0.55, 0.02)),
    (cosine, exact(0.5, 0.98, 0.1, 0.7)),
    (edm, exact(0.3, 80.0, 2.0, 0.05)),
    (rectified_flow, exact(0.02, 0.4, 0.98, 0.7)),
)
HALF_STEP = 1.01 * 2.0**-8  # bfloat16 has eight digits; rounded once, a number is off by half of the last one


# what all of them need


def cases(seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Schedule]]:
    """y, eps, t and a schedule, of samples whose axes are all alike, and of points, images and videos."""
    g = torch.Generator().manual_seed(seed)
    for dims, (schedule, t) in zip(DIMS, PLACES):
        yield *float32_numbers(2, 4, *dims, generator=g), t.clone(), schedule  # as somebody may change it


def noisy(y: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """alpha y + sigma eps, by hand."""
    ((alpha, sigma),) = at(schedule, y, t)
    return alpha * y + sigma * eps


def asked_once(who: str, net: Net, place: tuple[Tensor, ...], where: str, likely: dict) -> None:
    """At this place, once."""
    times = len(net.asked)
    assert times == 1, f"{who} is asked once, for the whole batch, not {times} times."
    check_places(who, net.asked, {f"{who} is asked at {where}.": place}, likely)


def each(*rows: tuple) -> Likely:
    """(sentence, result) of rows of a sentence and several results."""
    return ((hint, wrong) for hint, *results in rows for wrong in results)


def likely_places(y: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> dict:
    """What is found in the place of z, alpha y + sigma eps, and of t."""
    ((a, b),), T = at(schedule, y, t), column(t, y)
    z = a * y + b * eps
    quarter = T * math.pi / 2
    others = ((1 - T) * y + T * eps, y + T * eps, quarter.cos() * y + quarter.sin() * eps)
    elsewhere = (list(misread(c, y)) for c in schedule(t))
    places = each(
        ("y gets noise before a denoiser is asked: here it is y itself.", y),
        ("Noise and data are exchanged: alpha y + sigma eps.", a * eps + b * y),
        ("The time runs backwards: at t = 0 there is no noise.", T * y + (1 - T) * eps),
        ("The samples fade, too: alpha y, not y.", y + b * eps),
        ("The schedule that is given decides: here it is another one.", *others),
        ("Each sample has its own noise: here one is everybody's.", a * y + b * eps[:1]),
        (
            "Each sample has its own noise, and here it is another one's.",
            *(a * y + b * other for other in (eps.roll(1, 0), eps.roll(-1, 0), eps.flip(0))),
        ),
        ("Between data and pure noise: the samples y are in z, too.", b * eps, eps),
        (
            "alpha and sigma are no variances: no root and no square.",
            a.sqrt() * y + b.sqrt() * eps,
            a**2 * y + b**2 * eps,
        ),
        *((hint, one * y + two * eps) for (hint, one), (_, two) in zip(*elsewhere)),
        ("Nothing is clipped.", *(z.clamp(-c, c) for c in (1, 2, 3, 5))),
    )
    return likely_times(t) | {"z": list(places)}


def likely_times(t: Tensor) -> dict:
    """What is found in the place of t."""
    times = each(
        ("It is asked at t, where z is, not at 1, pure noise.", torch.ones_like(t)),
        ("It is asked at t, where z is, not at 0.", 0 * t),
        ("It is asked at t as it is, not at 1000 t.", 1000 * t),
        ("The time runs backwards: it is asked at t, not at 1 - t.", 1 - t),
        (
            "It is asked at t, where z is: no time of another sample.",
            *(t.roll(k) for k in (1, -1)),
            t.flip(0),
        ),
        ("Each sample has its own time: here one is everybody's.", t[:1].expand(4), t.mean().expand(4)),
    )
    return {"t": list(times)}


def left_alone(nets: tuple[Net, ...]) -> None:
    """The networks, which learn afterwards."""
    assert all(net.knob.requires_grad for net in nets), (
        "requires_grad_(False) stays behind, and the network would never learn again: torch.no_grad()."
    )


def is_constant(found: Tensor, what: str) -> None:
    """What the samples follow."""
    assert not found.requires_grad, (
        f"{what} is a constant, also of samples that get gradients: torch.no_grad()."
    )
    assert not found.is_inference(), "No loss can use a tensor of torch.inference_mode(): torch.no_grad()."


LOUD = "Right for numbers near 1, not for those of another size: nothing is clipped, rounded or added."


def refuses_times(call: Callable[[Tensor], object], t: Tensor, *bad: float, why: str) -> None:
    """call(t) refuses each bad time, also as one of many, nan, and all but one time for each sample."""
    for value, spoiled in anywhere(t, *bad):
        refuses(lambda: call(spoiled), f"t = {value:g} must be refused, also as one of many: {why}.")
    for wrong in (t[:1], t[:3], t[:, None]):
        size = tuple(wrong.shape)
        refuses(lambda: call(wrong), f"t of shape {size} for 4 samples must be refused: one for each.")


def rounded_once(
    found: Tensor, right: Tensor, what: str, atol: float = 1e-6, rtol: float = HALF_STEP
) -> None:
    """AssertionError unless found is bfloat16, and `right`, in float32 at least, rounded to it."""
    assert found.dtype == torch.bfloat16, (
        f"{what} has the dtype of the samples: here bfloat16, not {found.dtype}."
    )
    hint = f"{what} of bfloat16 samples is computed in float32, and rounded once, at its end."
    close(found.detach().double(), right.detach().double(), hint, atol, rtol)


def in_half(*tensors: Tensor) -> Iterator[Tensor]:
    """The tensors in bfloat16, which has half of float32's bits."""
    return (a.bfloat16() for a in tensors)


# the generator


@torch.enable_grad()
def check_generate(generate=matching.generate, seed: int = 0) -> None:
    """Where the generator is asked, the ends of each schedule, the answer as it is, and its gradient."""
    g = torch.Generator().manual_seed(seed)
    for dims, (schedule, t) in itertools.product(
        DIMS, ((None, None), (rectified_flow, 0.7), (cosine, 1), (cosine, 0.3), (edm, 80.0), (edm, 2))
    ):
        noise, net = float32_numbers(4, *dims, generator=g), Net(fake_score)
        settings = () if schedule is None else (schedule, t)
        what = f"t = {t} of {schedule.__name__}" if schedule else "t = 1 on rectified flow, the default,"
        now = exact(1.0 if t is None else t).expand(4)
        (alpha, sigma), T = (column(c, noise) for c in (schedule or rectified_flow)(now)), column(now, noise)
        y = answer_of(lambda: generate(net, noise, *settings), (noise,), (), what)
        left_alone((net,))
        likely = {
            "t": each(
                ("The generator is asked at the noisy end: at 0 a denoiser returns what it gets.", 0 * now),
                ("The generator is asked at t, and here at sigma.", sigma.flatten()),
                ("t is an argument: it is not always 1.", torch.ones_like(now)),
                ("t is 1 by default; 80 is EDM's.", 80 * torch.ones_like(now)),
                *likely_times(now)["t"],
            ),
            "z": each(
                ("The generator is asked at noise, and here at 0: is it that of t = 0, or alpha?", 0 * noise),
                ("The noise has the size sigma of its time, and here it is unit noise.", noise),
                ("80 is the size of EDM's noise at its t = 80, not of other schedules'.", 80 * noise),
                ("The noise is multiplied by sigma once.", sigma**2 * noise),
                ("The noise is multiplied by sigma, not by alpha.", alpha * noise),
                ("There is no data in it: sigma noise, not (alpha + sigma) noise.", (alpha + sigma) * noise),
                ("The noise is multiplied by sigma, not by t, and not divided.", T * noise, noise / sigma),
                ("Nothing is clipped.", *((sigma * noise).clamp(-a, a) for a in (1, 2, 3))),
            ),
        }
        asked_once("The generator", net, (sigma * noise, now), f"(sigma_t noise, t), with {what}", likely)
        as_given(y, [noise], [noise])
        right = net.by_hand(sigma * noise, now)
        likely = each(
            (
                "The answer of a denoiser is the sample, and no velocity.",
                sigma * noise - right,
                noise - right,
            ),
            ("The sample is the answer as it is: nothing is divided by sigma.", right / sigma),
            ("Nothing is clipped.", *(right.clamp(-a, a) for a in (1, 2, 3))),
        )
        explained(y.detach(), right.detach(), "The sample is what the generator answers.", likely)
        assert y.requires_grad, "The gradient must reach the generator: no detach and no no_grad here."
        slopes = (gradient(a * right.detach(), net.knob) for a in (y, right))
        close(*slopes, "The gradient is that of the generator's answer.")
        low = generate(net, noise.float(), *settings)
        size = max(1.0, right.detach().abs().max().item())
        close_in_float32(low.detach() / size, right.detach() / size, "A sample")
        assert generate(net, noise.bfloat16(), *settings).dtype == torch.bfloat16, (
            "A sample has the dtype of the noise, also bfloat16."
        )
    net = Net(fake_score, 1000)
    close(generate(net, 1000 * noise), net.by_hand(1000 * noise, exact(1.0).expand(4)), LOUD)
    noise = float32_numbers(4, 3, 2, generator=g)
    hint = "t = {:g} must be refused: at 0 a denoiser returns what it gets, and a schedule has an end."
    for schedule, times in ((rectified_flow, (0, 0.0, -0.5, 1.1, math.nan)), (edm, (0.0, -1.0, math.inf))):
        for t in times:
            refuses(lambda: generate(fake_score, noise, schedule, t), hint.format(t))
    check_shapes("An answer", lambda bad: generate(lambda z, t: bad, noise), noise)


# the direction


RIGHT = "(D_fake - D_real) / mean |y - D_real|, each sample by its own mean."
KL = "A step against it must lower KL of the samples from the data, and here it raises it"


def direction(y: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The right one, of two answers."""
    return (fake - real) / column((y - real).abs().flatten(1).mean(1), y)


def likely_directions(
    y: Tensor, z: Tensor, real: Tensor, fake: Tensor, to: str = "D_real", off: str = "D_fake"
) -> Likely:
    """What is found in the place of (fake - real) / mean|y - real|, of two answers and their names."""
    per = lambda d: column(d.flatten(1).mean(1), y)
    gap, far = fake - real, (y - real).abs()
    size, number, first = per(far), y[0].numel(), far.flatten(2).mean(2) if y.ndim > 2 else far
    sign = f"{KL}: {off} - {to}, not the opposite."
    two = f"The gap is that of two denoisers, {off} - {to}: "
    distance = f"The size is mean |y - {to}|, the distance to this answer, "
    own, mean = "Each sample has a size of its own, ", "The size is the mean of absolute values, "
    yield from each(
        (sign, -gap / size),
        (f"Each sample is divided by its mean |y - {to}|, and here by nothing.", gap),
        ("The gap is divided by its size, not multiplied.", gap * size),
        (f"{two}here y stands for {to}.", (fake - y) / size),
        (f"{two}here y stands for {off}.", (y - real) / size),
        (f"{two}here is one alone.", fake / size, -real / size, real / size),
        (f"{distance}not to {off}.", gap / per((y - fake).abs())),
        (f"{distance}from y, not from the noisy z.", gap / per((z - real).abs())),
        (f"{distance}not to z.", gap / per((y - z).abs())),
        (f"{distance}and no distance of the two answers.", gap / per(gap.abs())),
        (f"{distance}and here it is that to 0.", gap / per(y.abs()), gap / per(real.abs())),
        (
            f"{distance}from its own y, and no other sample's.",
            *(gap / per((other - real).abs()) for other in (y.roll(1, 0), y.roll(-1, 0), y.flip(0))),
        ),
        (f"{own}not one for the batch.", gap / far.mean(), gap / size.sum()),
        (f"{own}one for all its numbers: here each number has its own.", gap / far),
        (f"{own}over all its axes, and here over the last alone.", gap / far.mean(-1, keepdim=True)),
        (
            f"{own}over all axes but the batch's, and here over others.",
            gap / first.reshape(*first.shape, *[1] * (y.ndim - 2)),
            *(gap / far.mean(axis, keepdim=True) for axis in range(y.ndim)),
            *(gap / far.mean([*range(1, axis)], keepdim=True) for axis in range(3, y.ndim)),
        ),
        *((hint, gap / wrong) for hint, wrong in misread(size.flatten(), y)),
        (f"{mean}not a norm.", gap / (square(y - real) * number).sqrt().view_as(size)),
        (f"{mean}not the root of a mean square.", gap / square(y - real).sqrt().view_as(size)),
        (f"{mean}not of squares.", gap / square(y - real).view_as(size)),
        (f"{mean}not their sum.", gap / size / number),
        (f"{mean}and here none is taken, or that of a mean.", gap / per(y - real), gap / per(y - real).abs()),
        (
            f"{mean}not their median, and not the largest.",
            gap / far.flatten(1).median(1).values.view_as(size),
            gap / far.flatten(1).amax(1).view_as(size),
        ),
        (f"{mean}without a root.", gap / size.sqrt()),
        (
            "Nothing is added to the size, and it is not clamped.",
            *(gap / (size + 10.0**-k) for k in range(9)),
            *(gap / size.clamp(min=10.0**-k) for k in range(9)),
        ),
        (
            "Nothing is clipped.",
            *((gap / size).clamp(-a, a) for a in BOUNDS),
            *(gap.clamp(-a, a) / size for a in BOUNDS),
            *(direction(y, real.clamp(-a, a), fake.clamp(-a, a)) for a in BOUNDS),
        ),
    )


def opposite(found: Tensor, right: Tensor) -> bool:
    """Whether every sample goes the other way, however far."""
    return bool((torch.cosine_similarity(found.flatten(1), right.flatten(1)) < 1e-6 - 1).all())


@torch.enable_grad()
def check_matching_gradient(matching_gradient=matching.matching_gradient, seed: int = 0) -> None:
    """Who is asked where, which sign lowers KL, each sample's size, no gradient, and y that is D_real."""
    for y, eps, t, schedule in cases(seed):
        z, nets = noisy(y, eps, t, schedule), (Net(real_score), Net(fake_score))
        what = f"t = {t.tolist()}, all above 0,"
        found = answer_of(lambda: matching_gradient(y, z, t, *nets), (y, z, t), (), what)
        left_alone(nets)
        likely = likely_times(t) | {"z": [("Denoisers are asked at the noisy z, not at y.", y)]}
        for who, net in zip(("The real denoiser", "The fake one"), nets):
            asked_once(who, net, (z, t), "(z, t), as it is given", likely)
        as_given(found, [y], [y])
        is_constant(found, "A direction")
        real, fake = real_score(z, t), fake_score(z, t)
        right = direction(y, real, fake)
        hint = f"{KL}: D_fake - D_real, not the opposite." if opposite(found, right) else RIGHT
        explained(found, right, hint, likely_directions(y, z, real, fake))

        free = [a.clone().requires_grad_() for a in (y, z)]
        is_constant(matching_gradient(*free, t, *nets), "A direction")
        low = matching_gradient(y.float(), z.float(), t, *nets)
        close_in_float32(low, right, "The direction", 1e-4 if schedule is edm else 1e-5)
        y_16, z_16, t_16 = in_half(y, z, t)
        wide = direction(*(a.double() for a in (y_16, real_score(z_16, t_16), fake_score(z_16, t_16))))
        rounded_once(matching_gradient(y_16, z_16, t_16, *nets), wide, "The direction")

    # numbers of other sizes, y close to D_real, and y that is D_real
    for size in (1000, 1e-5):
        nets = Net(real_score, size), Net(fake_score, size)
        close(matching_gradient(size * y, z, t, *nets), right, LOUD, 1e-9, 1e-9)
    near = real + 1e-7 * y
    hint = "Where y is close to D_real the size is small, and divides as it is: nothing is added to it."
    found = matching_gradient(near, z, t, real_score, fake_score) * 1e-7
    explained(found, direction(near, real, fake) * 1e-7, hint, tol=1e-6)
    here = y.clone()
    here[1] = real[1]
    found = matching_gradient(here, z, t, real_score, fake_score)
    assert found.isfinite().all(), "nan or inf, where y is D_real and the size 0: keep it above 0, by a hair."
    others = torch.arange(4) != 1
    close(found[others], right[others], "One sample that is D_real changes nothing for the others.")
    same = matching_gradient(y, z, t, real_score, lambda z, t: real_score(z, t))
    close(same, 0 * y, "Where both denoisers answer alike, the direction is 0.")

    refuses_directions(matching_gradient, y[:, :, 0, 0], z[:, :, 0, 0], "real", "fake")
    hint = "real is fake must be refused: their gap is 0. The fake score is a network of its own."
    refuses(lambda: matching_gradient(y, z, t, real_score, real_score), hint)


def refuses_directions(call: Callable, y: Tensor, z: Tensor, *names: str) -> None:
    """call(y, z, t, two networks) refuses times and shapes."""
    t, nets = exact(0.3, 1.0, 1e-3, 80.0), (real_score, fake_score)  # all are valid: no schedule is known
    accepts(lambda: call(y, z, t, *nets), f"t = {t.tolist()}, all above 0,")
    why = "without noise both return what they get"
    refuses_times(lambda t: call(y, z, t, *nets), t, 0.0, -0.1, -1e-4, why=why)
    check_shapes("z", lambda z: call(y, z, t, *nets), y)
    check_shapes("y", lambda y: call(y, z, t, *nets), z)
    for k, name in enumerate(names):
        answers = lambda bad: (*nets[:k], lambda z, t: bad, *nets[k + 1 :])
        check_shapes(f"An answer of {name}", lambda bad: call(y, z, t, *answers(bad)), y)


@torch.enable_grad()
def check_guidance_gradient(guidance_gradient=matching.guidance_gradient, seed: int = 0) -> None:
    """Who is asked where, what guidance adds at many scales, whose size divides, and no gradient."""
    for y, eps, t, schedule in cases(seed):
        z = noisy(y, eps, t, schedule)
        real, other = real_score(z, t), unlabelled(z, t)
        for scale in (3.0, 1.5, 7, 0.5, 0, -1.0):
            nets = Net(real_score), Net(unlabelled)
            call = lambda: guidance_gradient(y, z, t, *nets, scale)
            found = answer_of(call, (y, z, t), (), f"Scale {scale}")
            left_alone(nets)
            likely = likely_times(t) | {"z": [("Denoisers are asked at the noisy z, not at y.", y)]}
            for who, net in zip(("The real denoiser", "The unconditional one"), nets):
                check_places(who, net.asked, {f"{who} is asked at (z, t), as it is given.": (z, t)}, likely)
            as_given(found, [y], [y])
            is_constant(found, "A direction")
            guided = other + scale * (real - other)
            explained(
                found,
                direction(y, guided, real),
                f"Scale {scale}: (D_real - D_guided) / mean |y - D_guided|, "
                "D_guided = D_unconditional + scale (D_real - D_unconditional).",
                likely_guidance(y, z, real, other, scale),
            )
        right = direction(y, other + 3 * (real - other), real)
        low = guidance_gradient(y.float(), z.float(), t, real_score, unlabelled, 3.0)
        close_in_float32(low, right, "The direction", 1e-4 if schedule is edm else 1e-5)
        y_16, z_16, t_16 = in_half(y, z, t)
        at_y, one, two = (a.double() for a in (y_16, real_score(z_16, t_16), unlabelled(z_16, t_16)))
        wide = direction(at_y, 3 * one - 2 * two, one)  # some round what is guided before its gap is known
        found = guidance_gradient(y_16, z_16, t_16, *nets, 3.0)
        rounded_once(found, wide, "The direction", 0.02 * wide.abs().max().item())
        free = [a.clone().requires_grad_() for a in (y, z)]
        is_constant(guidance_gradient(*free, t, *nets, 3.0), "A direction")
        close(guidance_gradient(y, z, t, *nets, 1.0), 0 * y, "At scale 1 guidance adds nothing: 0.")

    for size in (1000, 1e-5):
        nets = Net(real_score, size), Net(unlabelled, size)
        close(guidance_gradient(size * y, z, t, *nets, 3.0), right, LOUD, 1e-9, 1e-9)
    call = lambda *given: guidance_gradient(*given, 3.0)
    refuses_directions(call, y[:, :, 0, 0], z[:, :, 0, 0], "real", "unconditional")
    for scale in (math.nan, math.inf):
        hint = f"A scale of {scale} must be refused: it is a finite number."
        refuses(lambda: guidance_gradient(y, z, t, *nets, scale), hint)


def likely_guidance(y: Tensor, z: Tensor, real: Tensor, other: Tensor, scale: float) -> Likely:
    """What is found in the place of the direction of guidance. All but y and z: answers."""
    towards = lambda w: other + w * (real - other)
    guided, swapped = towards(scale), towards(1 - scale)
    gap, apart, per = real - guided, real - other, lambda d: column(d.abs().flatten(1).mean(1), y)
    size = per(y - guided)
    what = f"Scale {scale}: guidance adds scale - 1 times the difference, for scale 1 is no guidance: "
    exchanged = "real and unconditional are exchanged: unconditional + scale (real - unconditional)."
    fake = "The real denoiser stands where `matching_gradient` has the fake score, and no other: "
    sign = "A step against it must go where guidance leads: D_real - D_guided, not the opposite."
    distance = "The size is the distance of y to D_guided, where it goes, "
    yield from each(
        (f"{what}here it is scale times.", -scale * apart / size, -scale * apart / per(y - real)),
        (f"{what}here it is once.", -apart / size),
        (f"{what}here scale + 1 is in the place of scale.", direction(y, towards(scale + 1), real)),
        (f"{what}here scale - 1 is in the place of scale.", direction(y, towards(scale - 1), real)),
        (exchanged, direction(y, swapped, real), direction(y, swapped, other)),
        (f"{fake}here it is the unconditional one.", direction(y, guided, other)),
        (f"{fake}here nothing is guided.", direction(y, other, real), direction(y, real, other)),
        (sign, -gap / size, -gap / per(y - real), -gap),
        (f"{distance}not to D_real.", gap / per(y - real)),
        (f"{distance}not to D_unconditional.", gap / per(y - other)),
        *likely_directions(y, z, guided, real, "D_guided", "D_real"),
    )


# the losses


CONSTANT = "The target y - gradient is a constant: here y is in it, and moves with y."
NO_PRODUCT = "The value is half of the mean square, and no product of y and the gradient."


def likely_slopes(right: Tensor, n: int) -> Likely:
    """What is found in the place of the gradient in y, right / n."""
    return each(
        ("A sign is wrong: the target is y - gradient.", -right / n),
        (
            "The gradient in y is the direction, per number: here it is twice that, or half.",
            *(a * right / n for a in (2, 0.5)),
        ),
        ("The mean over the numbers of a sample, not the sum.", right),
        ("One loss for each sample: here it is divided by their number, too.", right / n / len(right)),
    )


@torch.enable_grad()
def check_surrogate_loss(surrogate_loss=matching.surrogate_loss, seed: int = 0) -> None:
    """The value, the gradient in y, which is the one that is given, and none in that."""
    for y, grad, _, _ in cases(seed):
        for given, size in ((y, 1), (y, 1000), (y, 1e-4), (1000 * y, 1)):
            move = size * grad
            free, slope = given.clone().requires_grad_(), move.clone().requires_grad_()
            loss = loss_of(lambda: surrogate_loss(free, slope), (free, slope), (), "A gradient of y's shape")
            n, right = y[0].numel(), square(move) / 2
            likely = each(
                ("Half of the mean square: the half is missing.", 2 * right),
                (NO_PRODUCT, *((given * move).flatten(1).sum(1) / a for a in (1, n, -1, -n))),
                ("The distance of y to y - gradient, not to the gradient.", square(given - move) / 2),
                ("The distance of y to y - gradient, not that of y to 0.", square(given) / 2),
                ("Nothing is clipped.", *(square(move.clamp(-a, a)) / 2 for a in BOUNDS)),
                *((hint, wrong / 2, wrong) for hint, wrong in likely_distances(move)),
            )
            # the largest is 1: differences of large numbers have fewer digits
            hint = "The value is half of the mean square of the gradient."
            top = right.max()
            explained((loss / top).detach(), right / top, hint, [(a, b / top) for a, b in likely], 1e-8)
            assert loss.requires_grad, "The gradient must reach y: only its target is a constant."
            found, leak = torch.autograd.grad(loss.sum(), (free, slope), allow_unused=True)
            assert leak is None, "The gradient that is given is a constant: detach it."
            assert found is not None, CONSTANT
            likely = each((CONSTANT, 0 * move), *likely_slopes(move, n))
            hint = "The gradient in y is the one that is given, divided by the numbers of a sample."
            likely = [(hint, wrong / size) for hint, wrong in likely]
            explained(found / size, move / n / size, hint, likely, 1e-8)
        low = surrogate_loss(y.float(), grad.float())
        close_in_float32(low, square(grad) / 2, "The loss")
        y_16, grad_16 = in_half(64 + y, grad / 100)  # in bfloat16 such a y would not move
        rounded_once(surrogate_loss(y_16, grad_16), square(grad_16.double()) / 2, "The loss", 1e-7, 0.02)
    y, grad = y[:, :, 0, 0], grad[:, :, 0, 0]
    check_shapes("A gradient", lambda bad: surrogate_loss(y, bad), y)
    check_shapes("y", lambda bad: surrogate_loss(bad, grad), y)


def refuses_noise(loss: Callable, y: Tensor, eps: Tensor, last: float, why: str) -> None:
    """loss(y, eps, t, schedule) takes times up to `last`, and refuses 0, times beyond, and other shapes."""
    end = () if last == 1 else (1.0,)
    for schedule, t, *bad in (
        (rectified_flow, exact(last, 0.5, 1e-6, 0.3), 0.0, *end, -0.1, 1.1, -1e-4, 1 + 1e-4),
        (cosine, exact(last, 0.5, 0.001, 0.3), 0.0, *end),
        (edm, exact(80.0, 0.5, 0.002, 1.0), 0.0, -0.1),
    ):
        accepts(lambda: loss(y, eps, t, schedule), f"t = {t.tolist()} of {schedule.__name__}")
        refuses_times(lambda t: loss(y, eps, t, schedule), t, *bad, why=why)
    check_shapes("eps", lambda eps: loss(y, eps, t, edm), y)
    check_shapes("y", lambda y: loss(y, eps, t, edm), eps)


@torch.enable_grad()
def check_matching_loss(matching_loss=matching.matching_loss, seed: int = 0) -> None:
    """Where both are asked, the value, and gradients: in y, in a generator, and none in the two networks."""
    for y, eps, t, schedule in cases(seed):
        nets, knob = (Net(real_score), Net(fake_score)), torch.ones(4, dtype=y.dtype, requires_grad=True)
        made = column(knob, y) * y  # by a generator
        what = f"t = {t.tolist()} of {schedule.__name__}"
        given = (made, eps, t)
        loss = loss_of(lambda: matching_loss(*given, *nets, schedule), given, (), what)
        left_alone(nets)
        z, places = noisy(y, eps, t, schedule), likely_places(y, eps, t, schedule)
        for who, net in zip(("The real denoiser", "The fake one"), nets):
            asked_once(who, net, (z, t), "(z, t), z = alpha y + sigma eps", places)

        real, fake = real_score(z, t), fake_score(z, t)
        right, n = direction(y, real, fake), y[0].numel()
        likely = each(
            ("Half of the mean square: the half is missing.", square(right)),
            (NO_PRODUCT, *((y * right).flatten(1).sum(1) / a for a in (1, n, -1, -n))),
            ("No denoiser's answer is the target: y - gradient.", square(y - real) / 2, square(y - real)),
            *((hint, square(wrong) / 2) for hint, wrong in likely_directions(y, z, real, fake)),
            *((hint, wrong / 2, wrong) for hint, wrong in likely_distances(right)),
        )
        hint = "Half of the mean square of (D_fake - D_real) / mean |y - D_real|."
        explained(loss.detach(), square(right) / 2, hint, likely)

        assert loss.requires_grad, "The gradient must reach y: only its target is a constant."
        wanted = (made, knob, *(net.knob for net in nets))
        found, made_by, *leaks = torch.autograd.grad(loss.sum(), wanted, allow_unused=True)
        for who, leak in zip(("real", "fake"), leaks):
            assert leak is None, (
                f"No gradient may reach {who}: it is asked for a direction, a constant. torch.no_grad()."
            )
        assert found is not None, CONSTANT

        def slopes(y=y, eps=eps, t=t, schedule=schedule):
            """In y, where more depends on it than ought to."""
            free = y.clone().requires_grad_()
            moved = noisy(free, eps, t, schedule)
            live = real_score(moved, t), fake_score(moved, t)
            size = "The size mean |y - D_real| is a part of the direction, a constant: detach y in it."
            through = "The target y - gradient is a constant: no gradient flows through z into the denoisers."
            by_size, by_both = direction(free, real, fake), direction(free, *live)
            by_z = (live[1] - live[0]) / column((y - real).abs().flatten(1).mean(1), y)
            for hint, target in each(
                (size, y - by_size),
                (through, *(a - b for a in (y, free) for b in (by_z, direction(y, *live), by_both))),
                (CONSTANT, free - right, free - by_size),
            ):
                yield hint, gradient(square(free - target) / 2, free)
            yield f"{KL}: is the gap D_real - D_fake, or the target y + gradient?", -right / n
            yield from likely_slopes(right, n)

        hint = "The gradient in y is the direction, divided by the numbers of a sample, and nothing else."
        explained(found, right / n, hint, slopes())
        by_hand = (right / n * y).flatten(1).sum(1)
        close(made_by, by_hand, "The gradient must reach the generator that made y.")
        low = matching_loss(y.float(), eps.float(), t, *nets, schedule)
        close_in_float32(low.detach(), square(right) / 2, "The loss", 1e-4 if schedule is edm else 1e-5)
    for size in (1000, 1e-4):
        nets, a, e = (Net(real_score, size), Net(fake_score, size)), size * y, size * eps
        z = noisy(a, e, t, schedule)
        right = square(direction(a, *(net.by_hand(z, t).detach() for net in nets))) / 2
        explained(matching_loss(a, e, t, *nets, schedule), right, LOUD, tol=1e-9)
    low = [*in_half(64 + y, eps)]  # in bfloat16 such a y would not move
    z = noisy(*(a.double() for a in low), t, schedule).bfloat16()
    answers = (net(z, t.bfloat16()).double() for net in (real_score, fake_score))
    half = square(direction(low[0].double(), *answers)) / 2
    rounded_once(matching_loss(*low, t, real_score, fake_score, schedule), half, "The loss", 1e-7, 0.05)

    y, eps, t = y[:, :, 0, 0], eps[:, :, 0, 0], exact(0.9, 0.3, 0.5, 0.1)
    call = lambda *nets: lambda y, eps, t, schedule: matching_loss(y, eps, t, *nets, schedule)
    why = "t lies between data and pure noise"
    refuses_noise(call(real_score, fake_score), y, eps, 1 - 1e-6, why)
    for who, nets in (
        ("real", lambda bad: (lambda z, t: bad, fake_score)),
        ("fake", lambda bad: (real_score, lambda z, t: bad)),
    ):
        check_shapes(f"An answer of {who}", lambda bad: call(*nets(bad))(y, eps, t, edm), y)
    hint = "real is fake must be refused: their gap is 0. The fake score is a network of its own."
    refuses(lambda: call(real_score, real_score)(y, eps, t, edm), hint)


@torch.enable_grad()
def check_fake_loss(fake_loss=matching.fake_loss, seed: int = 0) -> None:
    """Where the fake score is asked, each weighting, its target, and the gradient: its own alone."""
    for (y, eps, t, schedule), kinds in zip(
        cases(seed), (("snr+1", None), ("constant", "snr"), ("truncated_snr", None), ("min_snr", "snr+1"))
    ):
        for kind in kinds:
            fake, knob = Net(fake_score), torch.ones(4, dtype=y.dtype, requires_grad=True)
            made = column(knob, y) * y  # by a generator
            given, others = (made, eps, t), () if kind is None else (kind,)
            call = functools.partial(fake_loss, fake)
            what = f'"{kind}", t = {t.tolist()} of {schedule.__name__}'
            loss = loss_of(lambda: call(*given, schedule, *others), given, (), what)
            left_alone((fake,))
            z, level = noisy(y, eps, t, schedule), schedule(t)
            places = likely_places(y, eps, t, schedule)
            asked_once("The fake score", fake, (z, t), "(z, t), z = alpha y + sigma eps", places)

            kind = kind or "snr+1"
            answer = fake_score(z, t)
            error = square(fake.by_hand(z, t) - y)
            right = FORMULAS[kind]((level[0] / level[1]) ** 2) * error
            targets = {
                "eps, and must be y: a denoiser answers with the sample": eps,
                "z, and must be y, the sample without noise": z,
                "that of another sample: each has its own": y.roll(1, 0),
                "that of the first sample: each has its own": y[:1].expand_as(y),
                "that of the real denoiser, and must be y": real_score(z, t),
                "0, and must be y": 0 * y,
            }
            flipped = {"another sample's time": tuple(c.flip(0) for c in level)}
            likely = each(
                (
                    "The weight is missing: weighting decides it.",
                    *(() if kind == "constant" else (error.detach(),)),
                ),
                *likely_losses(answer, y, targets, kind, level, flipped),
                *likely_distances(answer - y),
            )
            top = right.detach().max()
            hint = f'"{kind}": the weight at t times the mean over each sample of (D_fake - y)^2.'
            likely = ((hint, wrong / top) for hint, wrong in likely)
            explained(loss.detach() / top, right.detach() / top, hint, likely)

            assert loss.requires_grad, "The gradient must reach the fake score: is its answer detached?"
            found, *leaks = torch.autograd.grad(loss.sum(), (fake.knob, made, knob), allow_unused=True)
            assert all(leak is None for leak in leaks), (
                "No gradient may reach the generator: detach y, in z and in the target."
            )
            assert found is not None, "The gradient must reach the fake score: is its answer detached?"
            wanted = gradient(right, fake.knob)
            size = wanted.abs().max()
            close(
                found / size, wanted / size, "The gradient is that of the loss: is a part of D_fake detached?"
            )
            low = call(y.float(), eps.float(), t, schedule, kind)
            close_in_float32(low.detach() / top.float(), right.detach() / top, "The loss")
            low = call(*in_half(y, eps), t, schedule, kind)
            rounded_once(low / top.bfloat16(), right / top, "The loss", 0.05, 0.05)
    for size in (1000, 1e-4):
        fake, z = Net(fake_score, size), size * noisy(y, eps, t, schedule)
        found = fake_loss(fake, size * y, size * eps, t, schedule, "constant")
        close(found / size**2, square(fake.by_hand(z, t) - size * y) / size**2, LOUD, 1e-9, 1e-9)
    y, eps, t = y[:, :, 0, 0], eps[:, :, 0, 0], exact(0.9, 0.3, 0.5, 0.1)
    why = "at 0 there is no noise, and time ends at 1"
    refuses_noise(functools.partial(fake_loss, fake_score), y, eps, 1, why)
    check_shapes("An answer", lambda bad: fake_loss(lambda z, t: bad, y, eps, t, edm), y)
    for kind in ("SNR", "snr + 1", ""):
        hint = f'An unknown weighting, here "{kind}", must be refused.'
        refuses(lambda: fake_loss(fake_score, y, eps, t, edm, kind), hint)


# whose turn it is


def run(who: str, n: int, events: list[str]) -> Iterator[tuple[str, int]]:
    """A run of n updates, which notes each of them."""
    for k in range(n):
        events.append(who)
        yield who, k


def listed(call: Callable[[], Iterator], what: str, most: int = 99) -> list:
    """What call() yields for valid runs, which end, or the first of it."""
    try:
        return accepts(lambda: list(itertools.islice(call(), most)), what)
    except (RuntimeError, StopIteration) as error:
        if StopIteration not in (type(error), type(error.__cause__)):
            raise
        raise AssertionError(
            f"{what}: the end of a run is no error. next(run) raises StopIteration there: next(run, None)."
        ) from error


def check_alternate(alternate=matching.alternate, seed: int = 0) -> None:
    """The order of updates, what is yielded and when, both ends, and a fake_run that is too short."""
    n = 2 + seed % 3
    for ratio, spare in ((None, 0), (5, 0), (2, 40), (1, 0), (3, 1), (4, 3)):
        events, settings, ratio = [], () if ratio is None else (ratio,), ratio or 5
        runs = run("f", ratio * n + spare, events), run("g", n, events)
        what = f"ratio = {ratio}, with a fake_run of {ratio * n + spare} updates and a generator_run of {n}"
        found = accepts(lambda: iter(alternate(*runs, *settings)), what)
        assert not events, "Nothing may happen before the first update is asked for: yield, and make no list."
        turn = ratio * "f" + "g"
        sentences = {
            "g" + ratio * "f": "the fake score comes first, then the generator.",
            "fg": "each is updated once, and `ratio` says how often the fake score is.",
            "f" + ratio * "g": "the fake score is updated `ratio` times, not the generator.",
            ratio * "g" + "f": "the fake score is updated `ratio` times, not the generator.",
            5 * "f" + "g": "`ratio` is ignored: it is not always 5.",
            "f": "the fake score's updates are not yielded: run all of them, then yield the generator's.",
            "g": "the fake score is never updated.",
            (ratio - 1) * "f" + "g": "one update of the fake score is missing.",
            (ratio + 1) * "f" + "g": "one update of the fake score too many.",
        }
        for k in range(n):
            before = len(events)
            update = listed(lambda: found, what, 1)
            seen = "".join(events[before:])
            assert update, f"It ends after {k} of {n} updates of the generator: {what}."
            hint = sentences.get(seen, "one round for each update that is asked for, no more and no less.")
            if seen.startswith("fgg"):
                hint = sentences["f" + ratio * "g"]
            assert seen == turn, (
                f'For one update of the generator {ratio} of the fake score, "{turn}", not "{seen}": {hint}'
            )
            assert update == [("g", k)], (
                f"What generator_run yields is yielded, as it is: {('g', k)}, and no {update[0]!r:.60}."
            )
        rest = listed(lambda: found, what)
        assert rest == [], f"It ends where generator_run ends: nothing more is yielded, and no {rest!r:.60}."

    given = [0, (), False, 0.0]
    found = listed(lambda: alternate(iter(range(20)), iter(given)), "Iterators of lists, as runs,")
    assert found == given, "An update that is 0, or empty, is an update, too: it is not the end."

    hint = "A fake_run that ends before generator_run must be refused: no generator learns from an old score."
    for ratio, length in itertools.product((1, 2, 5), (0, 1, 2)):
        for short in range(length * ratio, (length + 1) * ratio):
            got = []
            pair = run("f", short, []), run("g", length + 1, [])
            refuses(
                lambda: got.extend(itertools.islice(alternate(*pair, ratio), 99)),
                f"{hint} Here after {short} of {ratio * (length + 1)}.",
            )
            assert len(got) <= length, f"{hint} It has to be `ratio` updates ahead of each update."
            assert got == [("g", k) for k in range(length)], (
                "What was whole before the end of fake_run is yielded."
            )
    for ratio in (0, -1, 1.5, math.nan):
        pair = run("f", 9, []), run("g", 2, [])
        hint = f"ratio = {ratio} must be refused: it counts updates."
        refuses(lambda: list(itertools.islice(alternate(*pair, ratio), 99)), hint)

    def broken():
        yield 1
        raise FloatingPointError("the loss is nan")

    for pair in ((broken(), run("g", 2, [])), (run("f", 9, []), broken())):
        try:
            list(itertools.islice(alternate(*pair, 2), 99))
        except FloatingPointError:
            continue
        raise AssertionError("What goes wrong in a run is not swallowed: its error goes on to the caller.")


# without a second network


def floor(rows: Tensor, columns: Tensor, low: float = 1e-6) -> Tensor:
    """The affinity of two softmaxes."""
    return (rows * columns).clamp(min=low).sqrt()


def drifted(
    y: Tensor,
    x: Tensor,
    temperature: float,
    distance: Callable[[Tensor], Tensor] = lambda d: d / d.mean(),
    itself: float = 1e4,
    near: Callable[[Tensor, Tensor], Tensor] = floor,
    softmax: Callable[[Tensor, int], Tensor] = torch.softmax,
    force: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda push, pull, way: torch.einsum(
        "ij,ik,jkd->id", push, pull, way
    ),
) -> Tensor:
    """The sum over samples j and data k of push_ij pull_ik (x_k - y_j), with all that people change in it."""
    a, b = y.flatten(1), x.flatten(1)
    apart = distance((a[:, None] - torch.cat([a, b])).norm(dim=2))
    logits = -apart / temperature - itself * torch.eye(*apart.shape, dtype=y.dtype)
    push, pull = near(*(softmax(logits, k) for k in (1, 0))).split([len(a), len(b)], 1)
    return force(push, pull, b - a[:, None]).reshape(y.shape)


def split_softmax(logits: Tensor, axis: int) -> Tensor:
    """Over samples and data, each by themselves."""
    n = len(logits)
    return torch.cat([logits[:, :n].softmax(axis), logits[:, n:].softmax(axis)], 1)


def likely_drifts(y: Tensor, x: Tensor, temperature: float) -> Likely:
    """What is found in the place of the drift."""
    change = functools.partial(drifted, y, x, temperature)
    a, b, n, m, d = y.flatten(1), x.flatten(1), len(y), len(x), y[0].numel() ** 0.5
    right, others, unity = (
        change(),
        1 - torch.eye(n, n + m, dtype=y.dtype),
        lambda w: w / w.sum(1, keepdim=True),
    )
    means = "The affinity is the geometric mean of two softmaxes, "
    units = "Distances are in units of their mean, "
    forces = (
        (
            "Other samples push: the drift is pull minus push, and here data pulls alone.",
            lambda push, pull, way: pull @ b - pull.sum(1, keepdim=True) * a,
            lambda push, pull, way: unity(pull) @ b - a,
            lambda push, pull, way: pull @ b,
        ),
        (
            "Other samples push, with a minus: only data pulls.",
            lambda push, pull, way: pull @ b + push @ a,
            lambda push, pull, way: (
                push.sum(1, keepdim=True) * (pull @ b) + pull.sum(1, keepdim=True) * (push @ a)
            ),
        ),
        (
            "Each pull is weighed by all that pushes, and each push by all that pulls.",
            lambda push, pull, way: pull @ b - push @ a,
            lambda push, pull, way: unity(pull) @ b - unity(push) @ a,
            lambda push, pull, way: (
                pull.sum(1, keepdim=True) * (pull @ b) - push.sum(1, keepdim=True) * (push @ a)
            ),
        ),
    )
    affinities = (
        (f"{means}and here it is the one over points.", lambda r, c: r, lambda r, c: r.clamp(min=1e-3)),
        (f"{means}and here it is the one over samples.", lambda r, c: c, lambda r, c: c.clamp(min=1e-3)),
        (f"{means}and here their root is missing.", lambda r, c: r * c, lambda r, c: (r * c).clamp(min=1e-6)),
        (f"{means}and here their root is missing.", lambda r, c: (r * c).clamp(min=1e-3)),
        (
            f"{means}not the arithmetic one.",
            lambda r, c: (r + c) / 2,
            lambda r, c: ((r + c) / 2).clamp(min=1e-3),
        ),
        (
            "An affinity is at least 1e-3, as released, also that of a sample to itself.",
            lambda r, c: (r * c).sqrt(),
            lambda r, c: floor(r, c) * others,
            *(lambda r, c, low=low: floor(r, c, low) for low in (1e-12, 1e-9, 1e-8, 1e-5, 1e-4, 1e-3, 1e-2)),
            lambda r, c: (r.clamp(min=1e-3) * c.clamp(min=1e-3)).sqrt(),
        ),
    )
    distances = (
        ("and here they are as they are.", lambda u: u),
        ("not of their largest.", lambda u: u / u.max()),
        ("not of their median.", lambda u: u / u.median()),
        ("not of the root of their mean square.", lambda u: u / u.square().mean().sqrt()),
        ("also of the zeros, of each sample to itself.", lambda u: u / (u.sum() / (n * (n + m) - n))),
        ("of all of them, not to the data alone.", lambda u: u / u[:, n:].mean()),
        ("of all of them, not to samples alone.", lambda u: u / u[:, :n].mean()),
        ("one for all, and here each sample has its own.", lambda u: u / u.mean(1, keepdim=True)),
        ("and are no squares.", lambda u: u**2 / u.square().mean(), lambda u: u**2 / u.mean()),
        ("and are no squares.", lambda u: (u / u.mean()) ** 2, lambda u: u**2),
        ("not of the root of the number of axes.", lambda u: u / d, lambda u: u / u.mean() / d),
        ("not of the root of the number of axes.", lambda u: u / u.mean() * d),
    )
    halves = "Both softmaxes are over samples and data together, not of each by itself."
    unit = torch.cat([a, b]).sub(a[:, None]).norm(dim=2).mean()
    size = "The drift is that of the points as they are: it is not divided by its size, or the mean distance."
    yield from each(
        ("The sign: data pulls, and other samples push.", -right),
        ("The drift is the way, and not where it leads.", y + right),
        *((hint, change(force=force)) for hint, force in each(*forces)),
        ("A sample does not push itself: leave it out of both softmaxes.", change(itself=0)),
        (
            "A sample does not push itself, at any temperature: it is left out by a large number, which is "
            "not divided by the temperature.",
            *(change(itself=a / temperature) for a in (1, 10, 20, 50, 100)),
        ),
        *((hint, change(near=near)) for hint, near in each(*affinities)),
        (halves, change(softmax=split_softmax)),
        (halves, change(softmax=lambda u, k: split_softmax(u, k) if k == 1 else u.softmax(k))),
        *((units + hint, change(distance=distance)) for hint, distance in each(*distances)),
        (
            "temperature divides the distances, as it is given.",
            *(drifted(y, x, T) for T in (0.2, 0.05, 1, 1 / temperature, temperature**2)),
            *(drifted(y, x, a * temperature) for a in (2, 0.5)),
        ),
        (
            "The drift is a sum, with affinities for weights: no number of points divides it.",
            *(right * factor for factor in (1 / n, 1 / m, 1 / (n * m), 1 / (n + m), n, m, n * m)),
        ),
        (size, *(right / other for other in (right.square().mean().sqrt(), right.norm(), unit, 1 / unit))),
        ("Nothing is clipped.", *(right.clamp(-a, a) for a in (0.01, 0.1, 0.5, 1))),
    )


ONE_PLACE = "Samples and data that are all in one place"


def rings(seed: int) -> tuple[Tensor, Tensor]:
    """Samples and data, evenly on one circle, each in the middle between two of the other kind."""
    turn = exact(0.3 + seed) + math.pi / 8 * torch.arange(16).double()
    points = torch.stack([turn.cos(), turn.sin()], 1)
    return points[::2], points[1::2]


@torch.enable_grad()
def check_drift(drift=matching.drift, seed: int = 0) -> None:
    """Far data, one circle, one point; by pairs, at all temperatures; constant; and what is refused."""
    g = torch.Generator().manual_seed(seed)
    y, x = float32_numbers(2, 5, 3, generator=g)
    far = exact(30.0, -30.0, 30.0)
    found = answer_of(lambda: drift(y, x + far), (y, x), (), "Data that is far away")
    as_given(found, [y], [y])
    hint = "Data pulls: samples that are far away from it must move towards it."
    if not ((found @ far) > 0).all():
        explained(found, drifted(y, x + far, 0.2), hint, likely_drifts(y, x + far, 0.2))
    y, x = rings(seed)
    found = accepts(lambda: drift(y, x), "Samples and data on one circle")
    right, likely = drifted(y, x, 0.2), likely_drifts(y, x, 0.2)
    hint = (
        "Samples that lie as the data does must not shrink towards its middle: data pulls inwards, and the "
        "other samples have to push outwards."
    )
    if not ((found * y).sum(1) > 0).all():
        explained(found, right, hint, likely)
    if found.mean(0).norm() > 1e-9:
        explained(found, right, "Samples that lie as the data does must not move on the whole.", likely)

    sizes = ((4, 6), (5, 3), (4, 4), (3, 7), (1, 4), (4, 1), (1, 1))
    for k, (dims, (n, m)) in enumerate(itertools.product(DIMS, sizes)):
        y, x = (2 * float32_numbers(b, *dims, generator=g) for b in (n, m))
        x = x + 0.5
        temperature = (None, 0.05, 1, 0.5, 20)[k % 5]
        settings, temperature = () if temperature is None else (temperature,), temperature or 0.2
        what = f"{n} samples, {m} of data, each of shape {dims}, at temperature {temperature}"
        found = answer_of(lambda: drift(y, x, *settings), (y, x), (), what)
        as_given(found, [y], [y])
        assert found.isfinite().all(), (
            f"nan or inf comes out, for {what}: leave a sample out of its softmax by a large number, not an "
            "infinite one, for a softmax over one sample alone has nothing else."
        )
        hint = f"The sum over samples and data of push pull (x - y), for {what}."
        explained(found, drifted(y, x, temperature), hint, likely_drifts(y, x, temperature), 1e-9)
        if not settings:
            free = (a.clone().requires_grad_() for a in (y, x))
            is_constant(drift(*free), "A drift")
            for size in (1000, 1e-3):
                close(drift(size * y, size * x) / size, drifted(y, x, 0.2), LOUD, 1e-9, 1e-9)
            close_in_float32(drift(y.float(), x.float()), drifted(y, x, 0.2), "The drift")
            low = [*in_half(y, x)]
            rounded_once(drift(*low), drifted(*(a.double() for a in low), 0.2), "The drift", 1e-5)
    here = torch.ones(3, 2).double()
    found = accepts(lambda: drift(here, here[:2]), ONE_PLACE)
    assert found.isfinite().all(), (
        "nan or inf, where all points coincide: their mean distance is 0, and divides. Keep it above 0."
    )
    close(found, 0 * here, f"{ONE_PLACE} have nowhere to go: the drift is 0.")
    for temperature in (0, -0.2, math.nan, math.inf):
        refuses(lambda: drift(y, x, temperature), f"A temperature of {temperature} must be refused.")
    refuses_data(drift, g)


def refuses_data(call: Callable[[Tensor, Tensor], object], g: torch.Generator) -> None:
    """call(y, x) refuses data whose points have another shape, none at all, and what is not finite."""
    y, x = float32_numbers(2, 4, 2, 3, generator=g)
    wrong = [other for other in other_shapes(x) if other.shape[1:] != x.shape[1:]]
    for other in (*wrong, x.flatten(1), x.reshape(4, 3, 2)):
        size = f"{tuple(other.shape)} for samples of {tuple(y.shape)}"
        refuses(lambda: call(y, other), f"Data of shape {size} must be refused: points of another shape.")
    for pair in ((y[:0], x), (y, x[:0])):
        refuses(lambda: call(*pair), "No samples, or no data, must be refused.")
    for bad, k in itertools.product((math.nan, math.inf), (0, 1)):
        pair = [y.clone(), x.clone()]
        pair[k][2, 0, 1] = bad
        what = ("a sample", "the data")[k]
        refuses(lambda: call(*pair), f"{bad} in {what} must be refused, also one among many numbers.")


@torch.enable_grad()
def check_drifting_loss(drifting_loss=matching.drifting_loss, seed: int = 0) -> None:
    """The square of the drift, each temperature, and the gradient in y, through nothing but the distance."""
    g = torch.Generator().manual_seed(seed)
    for dims, m, temperature in zip(DIMS, (6, 3, 9, 1), (None, 20, 0.05, 1)):
        y, x = (2 * float32_numbers(b, *dims, generator=g) for b in (4, m))
        free, data = y.clone().requires_grad_(), (x + 0.5).requires_grad_()
        settings, temperature = () if temperature is None else (temperature,), temperature or 0.2
        what = f"4 samples and {m} of data, each of shape {dims}, at temperature {temperature},"
        loss = loss_of(lambda: drifting_loss(free, data, *settings), (free, data), (), what)
        x = data.detach()
        way, n = drifted(y, x, temperature), y[0].numel()
        product = (y * way).flatten(1).mean(1)
        likely = each(
            ("The squared distance to where y drifts: y + drift, not drift itself.", square(y - way)),
            ("The squared distance, and no product of y and the drift.", product, -product),
            *likely_distances(way),
            *((hint, square(wrong)) for hint, wrong in likely_drifts(y, x, temperature)),
        )
        hint = f"The mean square of the drift of each sample, for {what}"
        explained(loss.detach(), square(way), hint, likely, 1e-9)
        assert loss.requires_grad, "The gradient must reach y: only where it drifts is a constant."
        found, leak = torch.autograd.grad(loss.sum(), (free, data), allow_unused=True)
        constant = "Where y drifts, y + drift, is a constant: here y is in it, and moves with y."
        assert found is not None, constant
        assert leak is None, "The drift is a constant: no gradient may reach the data."
        moved = drifted(free, x, temperature)
        through = "The drift is a constant: no gradient flows through it."
        likely = each(
            (constant, 0 * way),
            (through, *(gradient(square(a), free) for a in (moved, free - y - moved))),
            ("The sign: a step against the gradient leads to where y drifts.", 2 * way / n),
            ("The gradient is that of the square: twice the way, and here it is once.", -way / n),
            ("The mean over the numbers of a sample, not the sum.", -2 * way),
            ("One loss for each sample: here it is divided by their number, too.", -2 * way / n / len(y)),
        )
        hint = "The gradient in y is that of the squared distance to where it drifts, a constant."
        explained(found, -2 * way / n, hint, likely, 1e-9)
        for size in (1000, 1e-3):
            close(drifting_loss(size * y, size * x, temperature) / size**2, square(way), LOUD, 1e-9, 1e-9)
        low = drifting_loss(y.float(), x.float(), temperature)
        close_in_float32(low, square(way), "The loss")
    here = torch.ones(4, 2).double()
    found = accepts(lambda: drifting_loss(here, here), ONE_PLACE)
    close(found, 0 * here[:, 0], f"{ONE_PLACE} have nowhere to go: the loss is 0.")
    low = [*in_half(y + 64, x + 64)]  # in bfloat16 such a y would not move
    right = square(drifted(*(a.double() for a in low), 0.2))
    rounded_once(drifting_loss(*low), right, "The loss", 1e-5, 0.05)
    for temperature in (0, -0.2, math.nan, math.inf):
        refuses(lambda: drifting_loss(y, x, temperature), f"A temperature of {temperature} must be refused.")
    refuses_data(drifting_loss, g)
