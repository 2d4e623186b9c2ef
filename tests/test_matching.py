"""Distribution matching: the checks on our code, on every mistake of the list, golden numbers, behaviour.

The numbers in round brackets are those of the list of mistakes that people made or could make: 81 to 97 are the
generator's loss, 98 to 101 the fake score's, 102 and 103 the generator, 104 and 105 the loop, 106 and 107 drifting.
"""

import functools
import itertools
import json
import re
import signal
from pathlib import Path

import einops
import pytest
import torch
from planted import (
    along_the_last,
    asserting,
    forgets,
    four_axes,
    freeze,
    in_place,
    per_sample,
    refuses_too,
    same,
    stays,
    still,
    then,
)
from torch.distributions import Normal, kl_divergence

from minidistill import need
from minidistill.checks import column, exact
from minidistill.checks import matching as checks
from minidistill.matching import (
    alternate,
    drift,
    drifting_loss,
    fake_loss,
    generate,
    guidance_gradient,
    matching_gradient,
    matching_loss,
    renoised,
    surrogate_loss,
)
from minidistill.oracle import Gaussian, ProductMixture
from minidistill.parameterization import guided
from minidistill.progressive import weight
from minidistill.schedules import cosine, edm, log_snr, mix, rectified_flow
from minidistill.train import train

CASES = json.loads((Path(__file__).parent / "golden" / "flowmaps.json").read_text())
GOLDEN = {case["name"]: case for case in CASES}
CHECKS = [
    checks.check_generate,
    checks.check_matching_gradient,
    checks.check_guidance_gradient,
    checks.check_surrogate_loss,
    checks.check_matching_loss,
    checks.check_fake_loss,
    checks.check_alternate,
    checks.check_drift,
    checks.check_drifting_loss,
]
GENERATE, GRADIENT, GUIDANCE, SURROGATE, MATCHING, FAKE, ALTERNATE, DRIFT, DRIFTING = CHECKS


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the functions, with one thing changed


def another(z, t):
    """As still, for where two networks are needed."""
    return 0 * z


def wide(a):
    return a.to(need.wide(a.dtype))


def one_mean(a):
    """The mean over each sample, which can be broadcast over it."""
    return column(per_sample(a), a)


def generate_with(
    given=lambda noise, a, b, t: b * noise,
    at=lambda t, b: t,
    out=lambda y, z, b: y,
    t=1.0,
    grad=True,
    cast=True,
):
    def wrong(generator, noise, schedule=rectified_flow, t=t):
        generate(still, noise, schedule, t)  # refuses what ought to be refused
        now = torch.full((len(noise),), float(t), dtype=torch.float64)
        a, b = (column(c, noise) for c in schedule(now))
        with torch.set_grad_enabled(grad):
            z, time = given(noise, a, b, column(now, noise)).to(noise.dtype), at(now, b.flatten())
            return out(same(generator(z, time.to(z.dtype) if cast else time), z), z, b).to(z.dtype)

    return wrong


def direction_with(
    gap=lambda y, z, real, fake: fake - real,
    size=lambda y, z, real, fake: one_mean((y - real).abs()).clamp(min=1e-12),
    divide=torch.div,
    real_at=lambda y, z, t: (z, t),
    fake_at=lambda y, z, t: (z, t),
    grad=False,
    cast=True,
    wide=wide,
):
    def wrong(y, z, t, real, fake):
        matching_gradient(
            y, z, t, still, still if real is fake else another
        )  # refuses what ought to be refused
        with torch.set_grad_enabled(grad):
            places = (at(y, z, t) for at in (real_at, fake_at))
            answers = [
                wide(same(net(z, t.to(z) if cast else t), z)) for net, (z, t) in zip((real, fake), places)
            ]
            return divide(gap(wide(y), wide(z), *answers), size(wide(y), wide(z), *answers)).to(y.dtype)

    return wrong


def guidance_with(guide=lambda real, other, scale: other + scale * (real - other), direction=lambda y, guided, real, other: (real - guided) / one_mean((y - guided).abs()), place=lambda y, z, t: (z, t), grad=False):  # fmt: skip
    def wrong(y, z, t, real, unconditional, scale):
        guidance_gradient(y, z, t, still, another, scale)  # refuses what ought to be refused
        z, t = place(y, z, t)
        with torch.set_grad_enabled(grad):
            answers = [wide(same(net(z, t.to(z)), z)) for net in (real, unconditional)]
            return direction(wide(y), guide(*answers, scale), *answers).to(y.dtype)

    return wrong


def surrogate_with(target=lambda y, g: y.detach() - g.detach(), distance=lambda y, target, g: per_sample((y - target) ** 2) / 2, wide=wide):  # fmt: skip
    def wrong(y, gradient):
        surrogate_loss(y, gradient)  # refuses what ought to be refused
        return distance(wide(y), target(wide(y), wide(gradient)), wide(gradient)).to(y.dtype)

    return wrong


right_direction, right_surrogate = direction_with(), surrogate_with()


def matching_with(
    noisy=mix, direction=right_direction, surrogate=right_surrogate, detach=torch.Tensor.detach
):
    def wrong(y, eps, t, real, fake, schedule):
        matching_loss(
            y, eps, t, still, still if real is fake else another, schedule
        )  # refuses what ought to be refused
        return surrogate(y, direction(y, noisy(detach(y), eps, t, schedule).to(y.dtype), t, real, fake))

    return wrong


def fake_with(
    noisy=mix,
    detach=torch.Tensor.detach,
    at=lambda t: t,
    target=lambda y, eps, z: y.detach(),
    loss=lambda x_hat, target: per_sample((x_hat - target) ** 2),
    weigh=lambda kind, schedule, t: weight(kind, log_snr(schedule, t)),
    grad=True,
    cast=True,
    default="snr+1",
):
    def wrong(fake, y, eps, t, schedule, weighting=default):
        fake_loss(still, y, eps, t, schedule, weighting)  # refuses what ought to be refused
        z, time = noisy(detach(y), eps, t, schedule).to(y.dtype), at(t)
        with torch.set_grad_enabled(grad):
            x_hat = wide(same(fake(z, time.to(z) if cast else time), z))
            return (weigh(weighting, schedule, t) * loss(x_hat, target(wide(y), eps, z))).to(y.dtype)

    return wrong


def drift_with(
    distance=lambda d: d / d.mean().clamp(min=1e-6),
    itself=lambda temperature: 1e4,
    softmax=torch.softmax,
    near=lambda rows, columns: (rows * columns).clamp(min=1e-6).sqrt(),
    force=lambda push, pull, y, x: (
        push.sum(1, keepdim=True) * (pull @ x) - pull.sum(1, keepdim=True) * (push @ y)
    ),
    heat=lambda temperature: temperature,
    out=lambda found, y: found,
    grad=False,
    wide=wide,
    default=0.2,
):
    def wrong(y, x, temperature=default):
        drift(y, x, temperature)  # refuses what ought to be refused
        with torch.set_grad_enabled(grad):
            a, b = (wide(points).flatten(1) for points in (y, x))
            apart = distance(torch.sqrt(((a[:, None] - torch.cat([a, b])) ** 2).sum(2) + 1e-300 * grad))
            logits = -apart / heat(temperature) - itself(temperature) * torch.eye(*apart.shape).to(apart)
            w = near(softmax(logits, 1), softmax(logits, 0))
            found = out(force(w[:, : len(a)], w[:, len(a) :], a, b), a)
            return found.reshape(y.shape).to(y.dtype)

    return wrong


right_drift = drift_with()


def drifting_with(drift=right_drift, target=lambda y, way: (y + way).detach(), distance=lambda y, target, way: per_sample((y - target) ** 2)):  # fmt: skip
    def wrong(y, x, temperature=0.2):
        drifting_loss(y, x, temperature)  # refuses what ought to be refused
        way = wide(drift(wide(y), wide(x), temperature))
        return distance(wide(y), target(wide(y), way), way).to(y.dtype)

    return wrong


# the loop


def counted(ratio):
    return need.whole("ratio", ratio)


def as_generator(body):
    """The loop whose one round is body(fake_run, generator_run, ratio), a list of what it yields, or None at the end."""

    def wrong(fake_run, generator_run, ratio=5):
        ratio = counted(ratio)
        while (found := body(fake_run, generator_run, ratio)) is not None:
            yield from found

    return wrong


def one_round(fake_run, generator_run, ratio, fakes=lambda ratio: ratio, generators=lambda ratio: 1):
    ready = len(list(itertools.islice(fake_run, fakes(ratio))))
    updates = list(itertools.islice(generator_run, generators(ratio)))
    if updates and ready < fakes(ratio):
        raise ValueError("fake_run ended")
    return updates or None


def round_with(**change):
    return as_generator(functools.partial(one_round, **change))


def generator_first(fake_run, generator_run, ratio):
    updates = list(itertools.islice(generator_run, 1))
    if updates and len(list(itertools.islice(fake_run, ratio))) < ratio:
        raise ValueError("fake_run ended")
    return updates or None


def of_both(fake_run, generator_run, ratio):
    fakes = list(itertools.islice(fake_run, ratio))
    updates = list(itertools.islice(generator_run, 1))
    if updates and len(fakes) < ratio:
        raise ValueError("fake_run ended")
    return [*fakes, *updates] if updates else None


def with_a_flag(fake_run, generator_run, ratio=5):
    """Takes for its end what is not true."""
    ratio = counted(ratio)
    while True:
        ready, update = len(list(itertools.islice(fake_run, ratio))), next(generator_run, None)
        if not update:
            return
        if ready < ratio:
            raise ValueError("fake_run ended")
        yield update


def silent_end(fake_run, generator_run, ratio, least=lambda ratio: ratio):
    if len(list(itertools.islice(fake_run, ratio))) < least(ratio):
        return None
    return list(itertools.islice(generator_run, 1)) or None


def zipped(fake_run, generator_run, ratio=5):
    """Ends with the shorter run, and says nothing."""
    for *_, update in zip(*[fake_run] * counted(ratio), generator_run):
        yield update


def until_one_stops(fake_run, generator_run, ratio=5):
    """Takes the end of any run for its own."""
    try:
        yield from by_next(fake_run, generator_run, ratio)
    except RuntimeError:
        return


def checked_at_the_end(fake_run, generator_run, ratio=5):
    """Yields the update of a round that was not whole, and refuses then."""
    ratio = counted(ratio)
    for update in rounds_of(fake_run, generator_run, ratio):
        yield update[1]
        if update[0] < ratio:
            raise ValueError("fake_run ended")


def rounds_of(fake_run, generator_run, ratio):
    while True:
        ready = len(list(itertools.islice(fake_run, ratio)))
        update = next(generator_run, None)
        if update is None:
            return
        yield ready, update


def both_end_together(fake_run, generator_run, ratio=5):
    yield from alternate(fake_run, generator_run, ratio)
    if next(fake_run, None) is not None:
        raise ValueError("fake_run is longer")


def swallows(fake_run, generator_run, ratio=5):
    try:
        yield from alternate(fake_run, generator_run, ratio)
    except ArithmeticError:
        return


def by_next(fake_run, generator_run, ratio=5):
    ratio = counted(ratio)
    while True:
        for _ in range(ratio):
            next(fake_run)
        yield next(generator_run)


def one_ahead(fake_run, generator_run, ratio=5):
    """Makes the round after this one before it yields."""
    rounds = alternate(fake_run, generator_run, ratio)
    update = next(rounds, None)
    while update is not None:
        ahead = next(rounds, None)
        yield update
        update = ahead


def for_each_number(fake_run, generator_run, ratio=5):
    """Goes on when the generator has ended, with nothing."""
    for _ in itertools.count():
        for _ in range(ratio):
            next(fake_run, None)
        yield next(generator_run, None)


def any_shape(reference, k):
    """The reference, of a k-th network whose answers may have any shape that can be broadcast."""

    def wrong(*args, **kwargs):
        net = args[k]

        def answer(z, t):
            found = net(z, t)
            try:
                return found.expand_as(z)
            except RuntimeError:
                return found

        return reference(*args[:k], answer, *args[k + 1 :], **kwargs)

    return wrong


def twice(reference, k):
    """The reference, which asks its k-th network once more."""

    def wrong(*args, **kwargs):
        net = args[k]
        return reference(*args[:k], lambda z, t: (net(z, t) + net(z, t)) / 2, *args[k + 1 :], **kwargs)

    return wrong


# the mistakes


GENERATES = {
    "asked at t = 0 (102) [end]": (generate_with(at=lambda t, b: 0 * t), "at 0 a denoiser returns what it gets"),
    "at t = 0, of no noise (102) [end]": (generate_with(lambda noise, a, b, t: 0 * noise, at=lambda t, b: 0 * t), "and here at 0"),
    "noise times 80 on every schedule (103) [formula]": (generate_with(lambda noise, a, b, t: 80 * noise), "80 is the size of EDM's noise"),
    "noise times 80, and t = 80 (103) [argument]": (generate_with(lambda noise, a, b, t: 80 * noise, at=lambda t, b: 80 + 0 * t), "80 is the size of EDM's noise"),
    "t = 80 by default (103) [argument]": (generate_with(t=80.0), "is valid and must not be refused"),
    "asked at 80 (103) [argument]": (generate_with(at=lambda t, b: 80 + 0 * t), "80 is EDM's"),
    "unit noise on every schedule [argument]": (generate_with(lambda noise, a, b, t: noise), "unit noise"),
    "alpha noise [formula]": (generate_with(lambda noise, a, b, t: a * noise), "not by alpha|here at 0"),
    "sigma twice [formula]": (generate_with(lambda noise, a, b, t: b**2 * noise), "by sigma once"),
    "t noise [formula]": (generate_with(lambda noise, a, b, t: t * noise), "not by t"),
    "noise for data, too [formula]": (generate_with(lambda noise, a, b, t: (a + b) * noise), "unit noise|There is no data in it"),
    "noise of its own [random]": (generate_with(lambda noise, a, b, t: b * torch.randn_like(noise)), "The generator is asked at"),
    "noise is added [random]": (generate_with(out=lambda y, z, b: y + 0.1 * torch.randn_like(y)), "what the generator answers"),
    "the noise clipped [formula]": (generate_with(lambda noise, a, b, t: (b * noise).clamp(-3, 3)), "Nothing is clipped|unit noise"),
    "asked at sigma [argument]": (generate_with(at=lambda t, b: b), "here at sigma"),
    "t is ignored [argument]": (generate_with(at=lambda t, b: 1 + 0 * t), "it is not always 1"),
    "asked at 1000 t [argument]": (generate_with(at=lambda t, b: 1000 * t), "not at 1000 t"),
    "asked at 1 - t [formula]": (generate_with(at=lambda t, b: 1 - t), "at 0 a denoiser returns|not at 1 - t"),
    "the times are float32's [precision]": (generate_with(at=lambda t, b: t.float()), "no further"),
    "the noise level is float32's [precision]": (generate_with(lambda noise, a, b, t: b.float() * noise), "no further"),
    "one time for all [shape]": (generate_with(at=lambda t, b: t[:1]), "one t for each sample"),
    "a column of times [shape]": (generate_with(at=lambda t, b: t[:, None]), "one t for each sample"),
    "times in float64 [precision]": (generate_with(cast=False), "in z's dtype"),
    "a velocity [formula]": (generate_with(out=lambda y, z, b: z - y), "and no velocity"),
    "divided by sigma [formula]": (generate_with(out=lambda y, z, b: y / b), "divided by sigma"),
    "clipped to 1 [formula]": (generate_with(out=lambda y, z, b: y.clamp(-1, 1)), "Nothing is clipped"),
    "rounded [precision]": (generate_with(out=lambda y, z, b: y.float()), "no further"),
    "one number for each sample [shape]": (generate_with(out=lambda y, z, b: per_sample(y)), "has the shape of the batch"),
    "detached [gradient]": (generate_with(out=lambda y, z, b: y.detach()), "The gradient must reach the generator"),
    "without gradients [gradient]": (generate_with(grad=False), "The gradient must reach the generator"),
    "half a gradient [gradient]": (generate_with(out=lambda y, z, b: (y + y.detach()) / 2), "The gradient is that of the generator"),
    "large noise clipped [formula]": (lambda generator, noise, *more: generate(generator, noise.clamp(-20, 20), *more), "asked at|another size"),
    "large samples clipped [formula]": (then(generate, lambda a: a.clamp(-300, 300)), "another size"),
    "asked twice [argument]": (twice(generate, 0), "once, for the whole batch"),
    "t = 0 is valid [refusal]": (forgets(generate, lambda g, noise, schedule=None, t=1.0: t == 0), "t = 0 must be refused"),
    "t below 0 is valid [refusal]": (forgets(generate, lambda g, noise, schedule=None, t=1.0: t < 0), "t = -0.5 must be refused"),
    "t beyond 1 is valid [refusal]": (forgets(generate, lambda g, noise, schedule=None, t=1.0: t > 1), "t = 1.1 must be refused"),
    "nan is a time [refusal]": (forgets(generate, lambda g, noise, schedule=None, t=1.0: t != t), "t = nan must be refused"),
    "infinity is a time [refusal]": (forgets(generate, lambda g, noise, schedule=None, t=1.0: t == float("inf")), "t = inf must be refused"),
    "t must be a float [argument]": (refuses_too(generate, lambda g, noise, schedule=None, t=1.0: isinstance(t, int)), "is valid and must not be refused"),
    "t above 1 refused on every schedule [end]": (refuses_too(generate, lambda g, noise, schedule=None, t=1.0: t > 1), "is valid and must not be refused"),
}  # fmt: skip

# of what is asked: (changes of direction_with, the sentence)
ASKED = {
    "fake at t = 1 (94) [formula]": (dict(fake_at=lambda y, z, t: (z, 1 + 0 * t)), "The fake one|not at 1, pure noise"),
    "both at t = 1 (94) [formula]": (dict.fromkeys(("real_at", "fake_at"), lambda y, z, t: (z, 1 + 0 * t)), "not at 1, pure noise"),
    "real at t = 0 [formula]": (dict(real_at=lambda y, z, t: (z, 0 * t)), "not at 0"),
    "at the clean sample (95) [formula]": (dict.fromkeys(("real_at", "fake_at"), lambda y, z, t: (y, t)), "not at y|here it is y itself"),
    "real at the clean sample (95) [formula]": (dict(real_at=lambda y, z, t: (y, t)), "not at y|here it is y itself"),
    "fake at the clean sample (95) [formula]": (dict(fake_at=lambda y, z, t: (y, t)), "not at y|here it is y itself"),
    "times reversed [formula]": (dict.fromkeys(("real_at", "fake_at"), lambda y, z, t: (z, 1 - t)), "not at 1 - t"),
    "asked at 1000 t [argument]": (dict(real_at=lambda y, z, t: (z, 1000 * t)), "not at 1000 t"),
    "one time for the batch [argument]": (dict(fake_at=lambda y, z, t: (z, t.mean().expand_as(t))), "here one is everybody's"),
    "the first time for the batch [argument]": (dict(real_at=lambda y, z, t: (z, t[:1].expand_as(t))), "here one is everybody's"),
    "another sample's time [argument]": (dict(fake_at=lambda y, z, t: (z, t.flip(0))), "no time of another sample"),
    "times as they come [precision]": (dict(cast=False), "in z's dtype"),
}  # fmt: skip

# of the direction: (changes of direction_with, the sentence)
SIZES = {
    "from fake (86) [formula]": (lambda y, z, real, fake: one_mean((y - fake).abs()), "not to D_fake"),
    "from z (87) [formula]": (lambda y, z, real, fake: one_mean((z - real).abs()), "not from the noisy z"),
    "of y and z [formula]": (lambda y, z, real, fake: one_mean((y - z).abs()), "not to z"),
    "of the gap [formula]": (lambda y, z, real, fake: one_mean((fake - real).abs()), "no distance of the two answers"),
    "of y [formula]": (lambda y, z, real, fake: one_mean(y.abs()), "and here it is that to 0"),
    "to another real sample [formula]": (lambda y, z, real, fake: one_mean((y.roll(1, 0) - real).abs()), "no other sample's"),
    "one for the batch (88) [formula]": (lambda y, z, real, fake: (y - real).abs().mean(), "not one for the batch"),
    "one for each number (89) [formula]": (lambda y, z, real, fake: (y - real).abs(), "here each number has its own|over the last alone"),
    "over the last axis [shape]": (lambda y, z, real, fake: (y - real).abs().mean(-1, keepdim=True), "over the last alone"),
    "over the last two axes [shape]": (lambda y, z, real, fake: (y - real).abs().mean((-1, -2), keepdim=True), "over all axes but the batch's|not one for the batch"),
    "over axes 1, 2 and 3 [shape]": (lambda y, z, real, fake: (y - real).abs().mean([k for k in (1, 2, 3) if k < y.ndim], keepdim=True), "over all axes but"),
    "over the batch [shape]": (lambda y, z, real, fake: (y - real).abs().mean(0, keepdim=True), "over all axes but the batch's"),
    "along another axis [shape]": (lambda y, z, real, fake: along_the_last(per_sample((y - real).abs()), y), "not along another axis"),
    "as they are, (b,) [shape]": (lambda y, z, real, fake: per_sample((y - real).abs()), "not along another axis"),
    "always with four axes [shape]": (lambda y, z, real, fake: four_axes(per_sample((y - real).abs()), y), "not always four|has the shape of the batch|one shape"),
    "a norm (90) [formula]": (lambda y, z, real, fake: column((y - real).flatten(1).norm(dim=1), y), "not a norm"),
    "a root mean square (90) [formula]": (lambda y, z, real, fake: one_mean((y - real) ** 2).sqrt(), "root of a mean square"),
    "a mean square [formula]": (lambda y, z, real, fake: one_mean((y - real) ** 2), "not of squares"),
    "a sum [formula]": (lambda y, z, real, fake: one_mean((y - real).abs()) * y[0].numel(), "not their sum"),
    "without absolute values [formula]": (lambda y, z, real, fake: one_mean(y - real), "none is taken"),
    "the absolute value of a mean [formula]": (lambda y, z, real, fake: one_mean(y - real).abs(), "or that of a mean"),
    "the largest [formula]": (lambda y, z, real, fake: column((y - real).abs().flatten(1).amax(1), y), "not the largest"),
    "the median [formula]": (lambda y, z, real, fake: column((y - real).abs().flatten(1).median(1).values, y), "not their median"),
    "missing (91) [formula]": (lambda y, z, real, fake: torch.ones_like(y), "and here by nothing"),
    "with 1e-3 added [precision]": (lambda y, z, real, fake: one_mean((y - real).abs()) + 1e-3, "Nothing is added"),
    "with 1e-6 added, as FastGen [precision]": (lambda y, z, real, fake: one_mean((y - real).abs()) + 1e-6, "Nothing is added"),
    "at least 1 [end]": (lambda y, z, real, fake: one_mean((y - real).abs()).clamp(min=1), "it is not clamped"),
}  # fmt: skip
DIRECTIONS = {
    "the sign (81) [formula]": (dict(gap=lambda y, z, real, fake: real - fake), "must lower KL"),
    "fake - y (92) [formula]": (dict(gap=lambda y, z, real, fake: fake - y), "here y stands for D_real"),
    "y - real (92) [formula]": (dict(gap=lambda y, z, real, fake: y - real), "here y stands for D_fake"),
    "the fake alone [formula]": (dict(gap=lambda y, z, real, fake: fake), "here is one alone"),
    "the real one alone [formula]": (dict(gap=lambda y, z, real, fake: -real), "here is one alone"),
    "multiplied by the size [formula]": (dict(divide=torch.mul), "not multiplied"),
    "real and fake exchanged (81, 86) [formula]": (dict(gap=lambda y, z, real, fake: real - fake, size=lambda y, z, real, fake: one_mean((y - fake).abs())), "must lower KL|not to D_fake"),
    "the sign, and no size (81, 91) [formula]": (dict(gap=lambda y, z, real, fake: real - fake, divide=lambda gap, size: gap), "must lower KL|by nothing"),
    "the gap clipped [formula]": (dict(gap=lambda y, z, real, fake: (fake - real).clamp(-1, 1)), "Nothing is clipped"),
    "clipped to 1 [formula]": (dict(divide=lambda gap, size: (gap / size).clamp(-1, 1)), "Nothing is clipped"),
    **{f"size {name}": (dict(size=size), says) for name, (size, says) in SIZES.items()},
}  # fmt: skip

RIGHT_DIRECTION = r"\(D_fake - D_real\) / mean \|y - D_real\|, each sample by its own mean"

GRADIENTS = {
    **{name: (direction_with(**change), says) for part in (ASKED, DIRECTIONS) for name, (change, says) in part.items()},
    **{name: (direction_with(**change), "must lower KL") for name, (change, _) in DIRECTIONS.items() if "81" in name},
    "the sign, and a size of the batch (81, 88) [formula]": (direction_with(lambda y, z, real, fake: real - fake, lambda y, z, real, fake: (y - real).abs().mean()), "must lower KL"),
    "real at another noise than fake (93) [formula]": (direction_with(real_at=lambda y, z, t: (z.flip(0), t)), r"asked at \(z, t\)"),
    "right for linear networks [constant]": (lambda y, z, t, real, fake: matching_gradient(y, z, t, real if real is fake else lambda z, t: 2 * real(z / 2, t), fake), "asked at"),
    "size at least 1e-6 [end]": (direction_with(size=lambda y, z, real, fake: one_mean((y - real).abs()).clamp(min=1e-6)), "Where y is close to D_real"),
    "size 1e-11 added [precision]": (direction_with(size=lambda y, z, real, fake: one_mean((y - real).abs()) + 1e-11), "another size"),
    "size 0 [end]": (direction_with(size=lambda y, z, real, fake: one_mean((y - real).abs())), "nan or inf, where y is D_real"),
    "size 0, where others go wrong [end]": (
        direction_with(size=lambda y, z, real, fake: one_mean((y - real).abs()) + (one_mean((y - real).abs()) == 0).any()), "changes nothing for the others"
    ),
    "with gradients [gradient]": (direction_with(grad=True), "A direction is a constant"),
    "through the nets alone [gradient]": (lambda y, z, t, real, fake: direction_with(grad=True)(y.detach(), z.detach(), t, real, fake), "A direction is a constant"),
    "through y alone [gradient]": (
        direction_with(grad=True, gap=lambda y, z, real, fake: (fake - real).detach(), size=lambda y, z, real, fake: one_mean((y - real.detach()).abs()).clamp(min=1e-12)),
        "A direction is a constant",
    ),
    "in inference mode [gradient]": (torch.inference_mode()(matching_gradient), "torch.inference_mode"),
    "y clipped [formula]": (lambda y, z, t, *nets: matching_gradient(y.clamp(-10, 10), z, t, *nets), "not for those of another size"),
    "in bfloat16 all the way [precision]": (direction_with(wide=lambda a: a), "computed in float32"),
    "per number in float32 [precision]": (then(matching_gradient, lambda a: a.float().to(a)), "no further"),
    "large answers clipped [formula]": (direction_with(lambda y, z, real, fake: fake.clamp(-99, 99) - real.clamp(-99, 99), lambda y, z, real, fake: one_mean((y - real.clamp(-99, 99)).abs()).clamp(min=1e-12)), RIGHT_DIRECTION),
    "one network is enough [refusal]": (forgets(matching_gradient, lambda y, z, t, real, fake: real is fake), "real is fake must be refused"),
    "t above 1 refused [end]": (refuses_too(matching_gradient, lambda y, z, t, real, fake: (t > 1).any()), "is valid and must not be refused"),
}  # fmt: skip

GUIDANCES = {
    "scale for scale - 1 [formula]": (guidance_with(direction=lambda y, guided, real, other: (other - guided) / one_mean((y - guided).abs())), "here it is scale times"),
    "the difference once [formula]": (guidance_with(direction=lambda y, guided, real, other: (other - real) / one_mean((y - guided).abs())), "here it is once"),
    "scale + 1 [argument]": (guidance_with(lambda real, other, scale: real + scale * (real - other)), r"here scale \+ 1"),
    "scale - 1 [argument]": (guidance_with(lambda real, other, scale: other + (scale - 1) * (real - other)), "here scale - 1"),
    "scale ignored [argument]": (guidance_with(lambda real, other, scale: other + 3 * (real - other)), r"Scale 1\.5"),
    "exchanged [formula]": (guidance_with(lambda real, other, scale: real + scale * (other - real)), "are exchanged"),
    "both exchanged [formula]": (lambda y, z, t, real, other, scale: guidance_gradient(y, z, t, other, real, scale), "are exchanged"),
    "the sign [formula]": (guidance_with(direction=lambda y, guided, real, other: (guided - real) / one_mean((y - guided).abs())), "not the opposite"),
    "size from real [formula]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / one_mean((y - real).abs())), "not to D_real"),
    "size from unconditional [formula]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / one_mean((y - other).abs())), "not to D_unconditional"),
    "no size [formula]": (guidance_with(direction=lambda y, guided, real, other: real - guided), "by nothing"),
    "one size for the batch [formula]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / (y - guided).abs().mean()), "not one for the batch"),
    "sizes as they are, (b,) [shape]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / per_sample((y - guided).abs())), "not along another axis"),
    "sizes over the last axis [shape]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / (y - guided).abs().mean(-1, keepdim=True)), "over the last alone"),
    "with a fake score, the unconditional one [formula]": (lambda y, z, t, real, other, scale: matching_gradient(y, z, t, guided(real, other, scale), other), "here it is scale times|not against"),
    "unguided, with the unconditional one for a fake score [formula]": (guidance_with(direction=lambda y, guided, real, other: (other - real) / one_mean((y - real).abs())), "here nothing is guided"),
    "clipped [formula]": (guidance_with(direction=lambda y, guided, real, other: ((real - guided) / one_mean((y - guided).abs())).clamp(-1, 1)), "Nothing is clipped"),
    "asked at y [formula]": (guidance_with(place=lambda y, z, t: (y, t)), "not at y"),
    "asked at t = 1 [formula]": (guidance_with(place=lambda y, z, t: (z, 1 + 0 * t)), "not at 1"),
    "one time for the batch [argument]": (guidance_with(place=lambda y, z, t: (z, t.mean().expand_as(t))), "here one is everybody's"),
    "with gradients [gradient]": (guidance_with(grad=True), "A direction is a constant"),
    "in inference mode [gradient]": (torch.inference_mode()(guidance_gradient), "torch.inference_mode"),
    "y clipped [formula]": (lambda y, z, t, *nets: guidance_gradient(y.clamp(-10, 10), z, t, *nets), "not for those of another size"),
    "rounded [precision]": (then(guidance_gradient, lambda a: a.float().to(a)), "no further"),
    "the scale is at least 1 [end]": (refuses_too(guidance_gradient, lambda y, z, t, real, other, scale: scale < 1), "is valid and must not be refused"),
    "nan is a scale [refusal]": (forgets(guidance_gradient, lambda y, z, t, real, other, scale: scale != scale), "A scale of nan must be refused"),
    "infinity is a scale [refusal]": (forgets(guidance_gradient, lambda y, z, t, real, other, scale: scale == float("inf")), "A scale of inf must be refused"),
    "at scale 1 nothing is defined [end]": (guidance_with(direction=lambda y, guided, real, other: (real - guided) / one_mean((real - guided).abs())), "and no distance of the two answers"),
    "0 at scale 0 [end]": (guidance_with(lambda real, other, scale: real + ((scale or 1) - 1) * (real - other)), r"Scale 0"),
}  # fmt: skip

# of the loss that has a gradient: (surrogate, the sentence)
LOSSES = {
    "target not detached: no gradient (82) [gradient]": (surrogate_with(lambda y, g: y - g), "here y is in it|is a constant"),
    "the correction alone detached (83) [gradient]": (surrogate_with(lambda y, g: y - g.detach()), "here y is in it"),
    "all of it detached [gradient]": (surrogate_with(distance=lambda y, target, g: per_sample((y.detach() - target) ** 2) / 2), "The gradient must reach y"),
    "target y + gradient (81) [formula]": (surrogate_with(lambda y, g: (y + g).detach()), r"A sign is wrong|must lower KL"),
    "without the half [formula]": (surrogate_with(distance=lambda y, target, g: per_sample((y - target) ** 2)), "the half is missing"),
    "half a value, all of the gradient [formula]": (surrogate_with(distance=lambda y, target, g: (q := per_sample((y - target) ** 2)) - q.detach() / 2), "here it is twice that"),
    "the sum [formula]": (surrogate_with(distance=lambda y, target, g: ((y - target) ** 2).flatten(1).sum(1) / 2), "not the sum"),
    "the mean over the batch [formula]": (surrogate_with(distance=lambda y, target, g: ((y - target) ** 2).mean().expand(len(y)) / 2), "not over the batch"),
    "one number [shape]": (surrogate_with(distance=lambda y, target, g: ((y - target) ** 2).mean() / 2), r"one number for each sample, \(b,\)"),
    "a norm [formula]": (surrogate_with(distance=lambda y, target, g: (y - target).flatten(1).norm(dim=1)), "without a root"),
    "absolute values [formula]": (surrogate_with(distance=lambda y, target, g: per_sample((y - target).abs())), "not the absolute one"),
    "y times gradient (84) [formula]": (surrogate_with(distance=lambda y, target, g: per_sample(y * g.detach())), "no product of y and the gradient"),
    "y times gradient, summed (84) [formula]": (surrogate_with(distance=lambda y, target, g: (y * g.detach()).flatten(1).sum(1)), "no product of y and the gradient"),
    "y times gradient, with the value of the square [formula]": (
        surrogate_with(distance=lambda y, target, g: (found := (y * g.detach()).flatten(1).sum(1)) - found.detach() + per_sample(g.detach() ** 2) / 2), "not the sum"
    ),
    "divided by the batch, with the value of the mean [formula]": (
        surrogate_with(distance=lambda y, target, g: (found := per_sample(y * g.detach()) / len(y)) - found.detach() + per_sample(g.detach() ** 2) / 2), "divided by their number"
    ),
    "in bfloat16 all the way [precision]": (surrogate_with(wide=lambda a: a), "computed in float32"),
}  # fmt: skip

SURROGATES = {
    **{name: (wrong, says) for name, (wrong, says) in LOSSES.items()},
    "the gradient not detached [gradient]": (surrogate_with(lambda y, g: y.detach() - g), "The gradient that is given is a constant"),
    "distance to the gradient [formula]": (surrogate_with(lambda y, g: g.detach()), "not to the gradient"),
    "large samples clipped [formula]": (lambda y, g: surrogate_loss(y.clamp(-20, 20), g) if y.shape == g.shape else surrogate_loss(y, g), "in y is the one that is given"),
    "distance to 0 [formula]": (surrogate_with(lambda y, g: 0 * g.detach()), "not that of y to 0"),
    "gradients clipped [formula]": (surrogate_with(lambda y, g: y.detach() - g.detach().clamp(-2, 2)), "Nothing is clipped"),
    "1e-9 added [precision]": (then(surrogate_loss, lambda a: a + 1e-9), "no further|half of the mean square"),
    "gradients of another shape [shape]": (forgets(surrogate_loss, lambda y, g: y.shape != g.shape), "of shape .* must be refused"),
}  # fmt: skip


# of z: (noisy, the sentence)
NOISES = {
    "time reversed (96) [formula]": (lambda y, eps, t, schedule: mix(y, eps, 1 - t if schedule is not edm else t, schedule), "Noise and data are exchanged|runs backwards"),
    "noise and data exchanged (96) [formula]": (lambda y, eps, t, schedule: mix(eps, y, t, schedule), "Noise and data are exchanged"),
    "clean samples (95) [formula]": (lambda y, eps, t, schedule: y, "here it is y itself"),
    "pure noise [formula]": (lambda y, eps, t, schedule: eps, "the samples y are in z, too"),
    "the samples do not fade [formula]": (lambda y, eps, t, schedule: y + column(schedule(t)[1], y) * eps, "The samples fade, too"),
    "always rectified flow [argument]": (lambda y, eps, t, schedule: (1 - column(t, y)) * y + column(t, y) * eps, "here it is another one"),
    "always cosine [argument]": (lambda y, eps, t, schedule: mix(y, eps, t.clamp(max=1), cosine), "here it is another one"),
    "always EDM [argument]": (lambda y, eps, t, schedule: y + column(t, y) * eps, "here it is another one|The samples fade"),
    "one noise for all [shape]": (lambda y, eps, t, schedule: mix(y, eps[:1].expand_as(y), t, schedule), "here one is everybody's"),
    "another sample's noise [argument]": (lambda y, eps, t, schedule: mix(y, eps.flip(0), t, schedule), "here it is another one's"),
    "variances for alpha and sigma [formula]": (lambda y, eps, t, schedule: sum(column(c, y) ** 0.5 * a for c, a in zip(schedule(t), (y, eps))), "no variances"),
    "alpha and sigma along another axis [shape]": (lambda y, eps, t, schedule: sum(along_the_last(c, y) * a for c, a in zip(schedule(t), (y, eps))), "not along another axis"),
    "alpha and sigma as they are, (b,) [shape]": (lambda y, eps, t, schedule: sum(c * a for c, a in zip(schedule(t), (y, eps))), "not along another axis"),
    "alpha and sigma always with four axes [shape]": (lambda y, eps, t, schedule: sum(four_axes(c, y) * a for c, a in zip(schedule(t), (y, eps))), "not always four|one shape"),
    "z clipped [formula]": (lambda y, eps, t, schedule: mix(y, eps, t, schedule).clamp(-1, 1), "Nothing is clipped"),
    "noise of its own [random]": (lambda y, eps, t, schedule: mix(y, torch.randn_like(y), t, schedule), "z = alpha y"),
    "noise of its own, from one seed [random]": (
        lambda y, eps, t, schedule: mix(y, torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y), t, schedule), "z = alpha y"
    ),
    "the level is float32's [precision]": (lambda y, eps, t, schedule: mix(y, eps, t.float(), schedule), "no further"),
}  # fmt: skip


def through_y(part):
    """For matching_with: the direction, where y has gradients in a part of it."""

    def direction(y, z, t, real, fake):
        with torch.no_grad():
            answers = [net(z, t.to(z)) for net in (real, fake)]
        return part(y, *answers)

    return direction


def through_z(schedule_of_z):
    """For matching_with: the denoisers, which are asked at a z in which y is, though they learn nothing."""

    def wrong(y, eps, t, real, fake, schedule):
        matching_loss(y, eps, t, still, still if real is fake else another, schedule)
        knobs = [p for net in (real, fake) if isinstance(net, torch.nn.Module) for p in net.parameters()]
        for p in knobs:
            p.requires_grad_(False)
        z = mix(y, eps, t, schedule)
        found = schedule_of_z(y, direction_with(grad=True)(y.detach(), z, t, real, fake))
        for p in knobs:
            p.requires_grad_(True)
        return found

    return wrong


LIVE = surrogate_with(lambda y, g: y.detach() - g)  # the gradient is not detached

MATCHINGS = {
    **{name: (matching_with(direction=direction_with(**change)), says) for part in (ASKED, DIRECTIONS) for name, (change, says) in part.items()},
    **{name: (matching_with(surrogate=wrong), says) for name, (wrong, says) in LOSSES.items()},
    **{name: (matching_with(noisy=wrong), says) for name, (wrong, says) in NOISES.items()},
    "real at another noise than fake (93) [formula]": (
        matching_with(direction=direction_with(real_at=lambda y, z, t: (z.flip(0), t))), "The real denoiser is asked at|here it is another one's|alpha y"
    ),
    "fake at another noise than real (93) [formula]": (
        lambda y, eps, t, real, fake, schedule: matching_loss(y, eps, t, real, lambda z, t: fake(mix(y.detach(), eps.flip(0), t, schedule) if schedule is not edm else z, t), schedule),
        "here it is another one's",
    ),
    "the size not detached (84) [gradient]": (
        matching_with(direction=through_y(lambda y, real, fake: (fake - real) / one_mean((y - real).abs())), surrogate=LIVE), "detach y in it"
    ),
    "neither the size nor y detached (82, 84) [gradient]": (
        matching_with(direction=through_y(lambda y, real, fake: (fake - real) / one_mean((y - real).abs())), surrogate=surrogate_with(lambda y, g: y - g)), "here y is in it"
    ),
    "gradient through z into both denoisers (85) [gradient]": (matching_with(direction=direction_with(grad=True), surrogate=LIVE, detach=lambda y: y), "No gradient may reach real"),
    "gradient through z into frozen denoisers (85) [gradient]": (through_z(LIVE), "flows through z into the denoisers"),
    "gradient through z, and y in the target (82, 85) [gradient]": (through_z(surrogate_with(lambda y, g: y - g)), "flows through z into the denoisers"),
    "nothing detached (82) [gradient]": (
        matching_with(direction=direction_with(grad=True), surrogate=surrogate_with(lambda y, g: y - g), detach=lambda y: y), "No gradient may reach real"
    ),
    "fake not frozen (97) [gradient]": (
        lambda y, eps, t, real, fake, schedule: matching_with(direction=direction_with(grad=True), surrogate=LIVE)(y, eps, t, lambda z, t: real(z, t).detach(), fake, schedule)
        if real is not fake else matching_loss(y, eps, t, real, fake, schedule),
        "No gradient may reach fake",
    ),
    "real not frozen (97) [gradient]": (
        lambda y, eps, t, real, fake, schedule: matching_with(direction=direction_with(grad=True), surrogate=LIVE)(y, eps, t, real, lambda z, t: fake(z, t).detach(), schedule)
        if real is not fake else matching_loss(y, eps, t, real, fake, schedule),
        "No gradient may reach real",
    ),
    "rectified flow, also in what is refused [argument]": (
        lambda y, eps, t, real, fake, schedule: matching_loss(y, eps, t, real, fake, rectified_flow), "The schedule that is given decides"
    ),
    "D_real for the target [formula]": (matching_with(direction=through_y(lambda y, real, fake: (y - real).detach())), "No denoiser's answer is the target"),
    "large samples clipped in the size [formula]": (
        matching_with(direction=direction_with(size=lambda y, z, real, fake: one_mean((y.clamp(-20, 20) - real).abs()).clamp(min=1e-12))), "another size"
    ),
    "the value alone [gradient]": (then(matching_loss, torch.Tensor.detach), "The gradient must reach y"),
    "one network is enough [refusal]": (forgets(matching_loss, lambda y, eps, t, real, fake, schedule: real is fake), "real is fake must be refused"),
}  # fmt: skip

REAL_DATA = torch.randn(64, generator=torch.Generator().manual_seed(7)).double()


def real_data(y):
    """Other samples of y's shape."""
    return REAL_DATA.repeat(y.numel() // 64 + 1)[: y.numel()].view_as(y).to(y)


FAKES = {
    **{name: (fake_with(noisy=wrong), says) for name, (wrong, says) in NOISES.items()},
    "trained on real data (98) [formula]": (
        fake_with(noisy=lambda y, eps, t, schedule: mix(real_data(y), eps, t, schedule), target=lambda y, eps, z: real_data(y)), "z = alpha y"
    ),
    "noisy samples, real data for a target (99) [formula]": (fake_with(target=lambda y, eps, z: real_data(y)), r"\(D_fake - y\)\^2"),
    "the real denoiser for a target (99) [formula]": (
        lambda fake, y, eps, t, schedule, weighting="snr+1": fake_with(target=lambda y, eps, z: checks.real_score(z, t.to(z)))(fake, y, eps, t, schedule, weighting), "that of the real denoiser"
    ),
    "the generator not detached (100) [gradient]": (fake_with(detach=lambda y: y, target=lambda y, eps, z: y), "No gradient may reach the generator"),
    "the generator not detached in z (100) [gradient]": (fake_with(detach=lambda y: y), "No gradient may reach the generator"),
    "the generator not detached in the target (100) [gradient]": (fake_with(target=lambda y, eps, z: y), "No gradient may reach the generator"),
    "asked at t = 1 (101) [formula]": (fake_with(at=lambda t: 1 + 0 * t), "not at 1"),
    "asked at 1 - t (101) [formula]": (fake_with(at=lambda t: 1 - t), "not at 1 - t"),
    "asked at a shifted time (101) [formula]": (fake_with(at=lambda t: 3 * t / (1 + 2 * t)), r"asked at \(z, t\)"),
    "asked at another sample's time (101) [argument]": (fake_with(at=lambda t: t.flip(0)), "no time of another sample"),
    "asked at one time (101) [argument]": (fake_with(at=lambda t: t.mean().expand_as(t)), "here one is everybody's"),
    "times as they come [precision]": (fake_with(cast=False), "in z's dtype"),
    "the noise for a target [formula]": (fake_with(target=lambda y, eps, z: eps), "The target is eps"),
    "z for a target [formula]": (fake_with(target=lambda y, eps, z: z), "The target is z"),
    "another sample for a target [formula]": (fake_with(target=lambda y, eps, z: y.detach().roll(1, 0)), "another sample"),
    "one sample for a target [shape]": (fake_with(target=lambda y, eps, z: y.detach()[:1]), "that of the first sample"),
    "clipped target [formula]": (fake_with(target=lambda y, eps, z: y.detach().clamp(-1, 1)), "clipped"),
    "large samples clipped in the target [formula]": (fake_with(target=lambda y, eps, z: y.detach().clamp(-20, 20)), "another size"),
    "clipped answers [formula]": (fake_with(loss=lambda x_hat, y: per_sample((x_hat.clamp(-1, 1) - y) ** 2)), "clipped"),
    "the sum [formula]": (fake_with(loss=lambda x_hat, y: ((x_hat - y) ** 2).flatten(1).sum(1)), "sum"),
    "half of it [formula]": (fake_with(loss=lambda x_hat, y: per_sample((x_hat - y) ** 2) / 2), "half"),
    "a root [formula]": (fake_with(loss=lambda x_hat, y: per_sample((x_hat - y) ** 2).sqrt()), "root"),
    "absolute values [formula]": (fake_with(loss=lambda x_hat, y: per_sample((x_hat - y).abs())), "absolute"),
    "the mean over the batch [formula]": (fake_with(loss=lambda x_hat, y: ((x_hat - y) ** 2).mean().expand(len(y))), "averaged over the batch"),
    "one number [shape]": (then(fake_loss, torch.mean), r"one number for each sample, \(b,\)"),
    "weighting is ignored [argument]": (fake_with(weigh=lambda kind, schedule, t: weight("snr+1", log_snr(schedule, t))), '"constant" has the weight of|The weight is wrong'),
    "no weight [argument]": (fake_with(weigh=lambda kind, schedule, t: torch.ones_like(t)), "The weight is missing"),
    "constant by default [argument]": (fake_with(default="constant"), "The weight is missing"),
    "snr by default [argument]": (fake_with(default="snr"), "The weight is wrong"),
    "alpha / sigma for SNR [formula]": (fake_with(weigh=lambda kind, schedule, t: weight(kind, log_snr(schedule, t) / 2)), "The weight is wrong"),
    "the weight of another sample [argument]": (fake_with(weigh=lambda kind, schedule, t: weight(kind, log_snr(schedule, t).flip(0))), "another sample's time"),
    "the mean weight [formula]": (fake_with(weigh=lambda kind, schedule, t: weight(kind, log_snr(schedule, t)).mean()), "The weight is averaged"),
    "1 / sigma^2 [formula]": (fake_with(weigh=lambda kind, schedule, t: schedule(t)[1] ** -2 if kind == "snr+1" else weight(kind, log_snr(schedule, t))), "1 / sigma"),
    "rectified flow, also in what is refused [argument]": (
        lambda fake, y, eps, t, schedule, *more: fake_loss(fake, y, eps, t, rectified_flow, *more), "The schedule that is given decides"
    ),
    "detached [gradient]": (then(fake_loss, torch.Tensor.detach), "The gradient must reach the fake score"),
    "without gradients [gradient]": (fake_with(grad=False), "The gradient must reach the fake score"),
    "half a gradient [gradient]": (fake_with(loss=lambda x_hat, y: per_sample((x_hat - y) * (x_hat - y).detach())), "The gradient is that of the loss"),
    "any weighting [refusal]": (forgets(fake_loss, lambda fake, y, eps, t, schedule, weighting="snr+1": weighting == "SNR"), "An unknown weighting"),
    "no weighting [refusal]": (forgets(fake_loss, lambda fake, y, eps, t, schedule, weighting="snr+1": weighting == ""), "An unknown weighting"),
    "asked twice [argument]": (twice(fake_loss, 0), "once, for the whole batch"),
}  # fmt: skip

ALTERNATES = {
    "one update each (104) [argument]": (round_with(fakes=lambda ratio: 1), "each is updated once"),
    "five of the generator for one (105) [formula]": (round_with(fakes=lambda ratio: 1, generators=lambda ratio: ratio), "not the generator"),
    "the ratio is always 5 (104) [argument]": (lambda f, g, ratio=5: alternate(f, g, counted(ratio) and 5), "it is not always 5"),
    "the ratio is 1 by default (104) [argument]": (lambda f, g, ratio=1: alternate(f, g, ratio), "each is updated once"),
    "one too few [argument]": (round_with(fakes=lambda ratio: ratio - 1), "one update of the fake score is missing"),
    "one too many [argument]": (round_with(fakes=lambda ratio: ratio + 1), "one update of the fake score too many"),
    "the generator first [trajectory]": (as_generator(generator_first), "the fake score comes first"),
    "the fake score is never updated [argument]": (lambda f, g, ratio=5: counted(ratio) and (update for update in g), "the fake score is never updated"),
    "runs are exchanged [argument]": (lambda f, g, ratio=5: alternate(g, f, ratio), "is valid and must not be refused"),
    "both are yielded [trajectory]": (as_generator(of_both), "What generator_run yields is yielded"),
    "pairs are yielded [trajectory]": (lambda f, g, ratio=5: (((), update) for update in alternate(f, g, ratio)), "What generator_run yields"),
    "nothing is yielded but None [trajectory]": (lambda f, g, ratio=5: (None for update in alternate(f, g, ratio)), "What generator_run yields"),
    "a list [trajectory]": (lambda f, g, ratio=5: list(alternate(f, g, ratio)), "Nothing may happen before"),
    "the first round at once [trajectory]": (lambda f, g, ratio=5: itertools.chain([next(rounds := alternate(f, g, ratio), 0)], rounds), "Nothing may happen before"),
    "one round ahead [trajectory]": (one_ahead, "one round for each update that is asked for"),
    "the last update is left out [end]": (lambda f, g, ratio=5: (a for a, _ in itertools.pairwise(alternate(f, g, ratio))), "It ends after|one round for each"),
    "the end is what is not true [end]": (with_a_flag, "An update that is 0, or empty"),
    "next raises at the end [end]": (by_next, "the end of a run is no error"),
    "goes on with nothing [end]": (for_each_number, "nothing more is yielded"),
    "a fake_run that is longer is refused [refusal]": (both_end_together, "is valid and must not be refused"),
    "a silent end [refusal]": (as_generator(silent_end), "A fake_run that ends before generator_run must be refused"),
    "a silent end where nothing is left [refusal]": (as_generator(functools.partial(silent_end, least=lambda ratio: 1)), "A fake_run that ends before generator_run must be refused"),
    "a silent end by zip [refusal]": (zipped, "A fake_run that ends before generator_run must be refused"),
    "a silent end by StopIteration [refusal]": (until_one_stops, "A fake_run that ends before generator_run must be refused"),
    "goes on with an old score [refusal]": (as_generator(lambda f, g, ratio: (list(itertools.islice(f, ratio)), list(itertools.islice(g, 1)) or None)[1]), "A fake_run that ends before"),
    "refuses when it is too late [refusal]": (checked_at_the_end, "ahead of each update"),
    "an error ends it [end]": (swallows, "its error goes on to the caller"),
    "ratio = 0 [refusal]": (forgets(alternate, lambda f, g, ratio=5: ratio == 0), "ratio = 0 must be refused"),
    "ratio = -1 [refusal]": (forgets(alternate, lambda f, g, ratio=5: ratio == -1), "ratio = -1 must be refused"),
    "ratio = 1.5 [refusal]": (lambda f, g, ratio=5: alternate(f, g, int(ratio)), r"ratio = 1\.5 must be refused"),
    "an assert for a refusal [refusal]": (asserting(alternate), "With ValueError, not an assert"),
}  # fmt: skip

split = checks.split_softmax
VALUE = "push pull|must not shrink|must move|must not move|The mean square of the drift"
FORCES = {
    "the sign (106) [formula]": (dict(out=lambda v, y: -v), "must move towards it|The sign"),
    "no repulsion (107) [formula]": (dict(force=lambda push, pull, y, x: pull @ x - pull.sum(1, keepdim=True) * y), "must not shrink|here data pulls alone"),
    "no repulsion, towards a mean (107) [formula]": (dict(force=lambda push, pull, y, x: pull @ x / pull.sum(1, keepdim=True) - y), "must not shrink|here data pulls alone"),
    "attraction by both (107) [formula]": (dict(force=lambda push, pull, y, x: pull @ x + push @ y), "with a minus"),
    "weights by their own kind [formula]": (dict(force=lambda push, pull, y, x: pull.sum(1, keepdim=True) * (pull @ x) - push.sum(1, keepdim=True) * (push @ y)), "weighed by all that pushes"),
    "without the sums [formula]": (dict(force=lambda push, pull, y, x: pull @ x - push @ y), "weighed by all that pushes|must not shrink|must move"),
    "made to sum to 1 [formula]": (dict(force=lambda push, pull, y, x: pull @ x / pull.sum(1, keepdim=True) - push @ y / push.sum(1, keepdim=True)), "weighed by all that pushes"),
    "a sample pushes itself [formula]": (dict(itself=lambda T: 0.0), "A sample does not push itself"),
    "a sample pushes itself a little [formula]": (dict(itself=lambda T: 1.0), VALUE),
    "the mask is divided by the temperature [argument]": (dict(itself=lambda T: 100 / T), "not divided by the temperature"),
    "a small mask is divided by the temperature [argument]": (dict(itself=lambda T: 1 / T), "not divided by the temperature"),
    "not even 1e-3 of itself [formula]": (dict(near=lambda r, c: (r * c).clamp(min=1e-6).sqrt() * (1 - torch.eye(*r.shape).to(r))), "also that of a sample to itself"),
    "one softmax over points [formula]": (dict(near=lambda r, c: r), "here it is the one over points"),
    "one softmax over samples [formula]": (dict(near=lambda r, c: c), "here it is the one over samples"),
    "the product without its root [formula]": (dict(near=lambda r, c: (r * c).clamp(min=1e-6)), "their root is missing"),
    "the arithmetic mean [formula]": (dict(near=lambda r, c: (r + c) / 2), "not the arithmetic one"),
    "nothing is at least 1e-3 [precision]": (dict(near=lambda r, c: (r * c).sqrt()), "An affinity is at least 1e-3"),
    "at least 1e-6 [precision]": (dict(near=lambda r, c: (r * c).clamp(min=1e-12).sqrt()), "An affinity is at least 1e-3"),
    "each softmax at least 1e-3 [precision]": (dict(near=lambda r, c: (r.clamp(min=1e-3) * c.clamp(min=1e-3)).sqrt()), "An affinity is at least 1e-3"),
    "softmaxes of each kind [formula]": (dict(softmax=split), "Both softmaxes are over samples and data"),
    "distances as they are [formula]": (dict(distance=lambda d: d), "here they are as they are"),
    "distances in units of the largest [formula]": (dict(distance=lambda d: d / d.max()), "not of their largest"),
    "distances without the zeros [formula]": (dict(distance=lambda d: d / (d.sum() / (d.numel() - len(d)))), "also of the zeros"),
    "distances in units of those to data [formula]": (dict(distance=lambda d: d / d[:, len(d) :].mean()), "not to the data alone"),
    "distances in units of each sample [formula]": (dict(distance=lambda d: d / d.mean(1, keepdim=True)), "here each sample has its own"),
    "squares of distances [formula]": (dict(distance=lambda d: d**2 / (d**2).mean()), "and are no squares"),
    "the temperature is ignored [argument]": (dict(heat=lambda T: 0.2), "temperature divides the distances"),
    "the temperature multiplies [argument]": (dict(heat=lambda T: 1 / T), "temperature divides the distances"),
    "the temperature squared [argument]": (dict(heat=lambda T: T**2), "temperature divides the distances"),
    "temperature 1 by default [argument]": (dict(default=1.0), "temperature divides the distances"),
    "a mean over samples [formula]": (dict(out=lambda v, y: v / len(v)), "no number of points divides it"),
    "times the number of samples [formula]": (dict(out=lambda v, y: v * len(v)), "no number of points divides it"),
    "divided by its size [formula]": (dict(out=lambda v, y: v / v.square().mean().sqrt()), "not divided by its size"),
    "where it leads [formula]": (dict(out=lambda v, y: y + v), "must not move on the whole|not where it leads|must move"),
    "clipped [formula]": (dict(out=lambda v, y: v.clamp(-0.1, 0.1)), "Nothing is clipped"),
}  # fmt: skip

DRIFTS = {
    **{name: (drift_with(**change), says) for name, (change, says) in FORCES.items()},
    "in inference mode [gradient]": (torch.inference_mode()(drift), "torch.inference_mode"),
    "a little added to the mean distance [precision]": (drift_with(distance=lambda d: d / (d.mean() + 1e-9)), "push pull|another size"),
    "0 / 0 where all points coincide [end]": (drift_with(lambda d: d / d.mean()), "nan or inf, where all points coincide"),
    "large points clipped [formula]": (lambda y, x, *T: drift(y.clamp(-100, 100), x.clamp(-100, 100), *T), "another size"),
    "with gradients [gradient]": (drift_with(grad=True), "A drift is a constant"),
    "in bfloat16 all the way [precision]": (drift_with(wide=lambda a: a), "computed in float32"),
    "rounded [precision]": (then(drift, lambda a: a.float().to(a)), "no further|push pull"),
    "flat points [shape]": (then(drift, lambda a: a.reshape(len(a), -1)), "has the shape of the batch"),
    "as many data as samples [shape]": (refuses_too(drift, lambda y, x, T=0.2: len(y) != len(x)), "is valid and must not be refused"),
    "a sample alone is refused [end]": (refuses_too(drift, lambda y, x, T=0.2: len(y) == 1), "is valid and must not be refused"),
    "nan for a sample alone [end]": (
        drift_with(itself=lambda T: 0.0, distance=lambda d: (d / d.mean().clamp(min=1e-6)).masked_fill(torch.eye(*d.shape).bool(), float("inf"))), "nan or inf comes out"
    ),
}  # fmt: skip

DRIFTINGS = {
    **{name: (drifting_with(drift_with(**change)), says) for name, (change, says) in FORCES.items() if "106" not in name and "default" not in name},
    "the sign (106) [formula]": (drifting_with(target=lambda y, way: (y - way).detach()), "leads to where y drifts"),
    "the target not detached [gradient]": (drifting_with(target=lambda y, way: y + way), "here y is in it"),
    "gradient through the drift [gradient]": (drifting_with(drift_with(grad=True), lambda y, way: y.detach() + way), "no gradient may reach the data|no gradient flows through it"),
    "gradient through the drift of y [gradient]": (
        lambda y, x, T=0.2: drifting_with(drift_with(grad=True), lambda y, way: y.detach() + way)(y, x.detach(), T), "no gradient flows through it"
    ),
    "gradient through the drift alone [gradient]": (
        lambda y, x, T=0.2: drifting_with(drift_with(grad=True), lambda y, way: y + way)(y, x.detach(), T), "no gradient flows through it"
    ),
    "large losses clipped [formula]": (then(drifting_loss, lambda a: a.clamp(max=100)), "another size"),
    "half of it [formula]": (then(drifting_loss, lambda a: a / 2), "not half of it"),
    "half a gradient [gradient]": (then(drifting_loss, lambda a: (a + a.detach()) / 2), "here it is once"),
    "the sum [formula]": (drifting_with(distance=lambda y, target, way: ((y - target) ** 2).flatten(1).sum(1)), "not the sum"),
    "the mean over the batch [formula]": (drifting_with(distance=lambda y, target, way: ((y - target) ** 2).mean().expand(len(y))), "not over the batch"),
    "one number [shape]": (then(drifting_loss, torch.mean), r"one number for each sample, \(b,\)"),
    "absolute values [formula]": (drifting_with(distance=lambda y, target, way: per_sample((y - target).abs())), "not the absolute one"),
    "a root [formula]": (drifting_with(distance=lambda y, target, way: per_sample((y - target) ** 2).sqrt()), "without a root"),
    "y times drift [formula]": (drifting_with(distance=lambda y, target, way: -per_sample(y * way)), "no product of y and the drift"),
    "the target is the drift [formula]": (drifting_with(target=lambda y, way: way.detach()), "not drift itself"),
    "the temperature is not handed on [argument]": (lambda y, x, T=0.2: drifting_loss(y, x, T and 0.2) if T > 0 else drifting_loss(y, x, T), "temperature divides the distances"),
    "temperature 1 by default [argument]": (lambda y, x, T=1.0: drifting_loss(y, x, T), "temperature divides the distances"),
    "0 / 0 where all points coincide [end]": (drifting_with(drift_with(lambda d: d / d.mean())), "nowhere to go"),
    "detached [gradient]": (then(drifting_loss, torch.Tensor.detach), "The gradient must reach y"),
}  # fmt: skip

ALL = {
    "generate": (GENERATE, generate, GENERATES),
    "gradient": (GRADIENT, matching_gradient, GRADIENTS),
    "guidance": (GUIDANCE, guidance_gradient, GUIDANCES),
    "surrogate": (SURROGATE, surrogate_loss, SURROGATES),
    "matching": (MATCHING, matching_loss, MATCHINGS),
    "fake": (FAKE, fake_loss, FAKES),
    "alternate": (ALTERNATE, alternate, ALTERNATES),
    "drift": (DRIFT, drift, DRIFTS),
    "drifting": (DRIFTING, drifting_loss, DRIFTINGS),
}
MISTAKES = {
    f"{name}: {mistake}": (check, *rest)
    for name, (check, _, part) in ALL.items()
    for mistake, rest in part.items()
}

# the same mistake, made in any of them: where the tensors are, the networks, and t

LOSS_LIKE = ("surrogate", "matching", "fake", "drifting")
TENSORS = {"generate": [1], "gradient": [0, 1, 2], "guidance": [0, 1, 2], "surrogate": [0, 1], "matching": [0, 1, 2], "fake": [1, 2, 3], "drift": [0, 1], "drifting": [0, 1]}  # fmt: skip
NETS = {"generate": [0], "gradient": [3, 4], "guidance": [3, 4], "matching": [3, 4], "fake": [0]}
TIME = {"gradient": 2, "guidance": 2, "matching": 2, "fake": 3}

for name, (check, reference, _) in ALL.items():
    if name == "alternate":
        continue
    what = "The loss" if name in LOSS_LIKE else "The (direction|drift)|A sample|The result"
    MISTAKES |= {
        f"{name}: float64 always [precision]": (check, then(reference, torch.Tensor.double), f"({what}) has the dtype of the"),
        f"{name}: float32 always [precision]": (check, then(reference, torch.Tensor.float), f"({what}) has the dtype of the"),
        f"{name}: gradients stay switched off [gradient]": (check, stays(reference, lambda *args: torch._C._set_grad_enabled(False)), "stays behind: use torch"),
        f"{name}: an assert for a refusal [refusal]": (check, asserting(reference), "With ValueError, not an assert"),
    }  # fmt: skip
    for k in TENSORS[name]:
        MISTAKES[f"{name}: tensor {k} is changed in place [argument]"] = (
            check,
            in_place(reference, k),
            "must stay as it is|here it is another|asked at",
        )
    for k in NETS.get(name, []):
        MISTAKES |= {
            f"{name}: answers of network {k} of any shape [shape]": (check, any_shape(reference, k), r"n answer( of \w+)? of shape"),
            f"{name}: network {k} stays frozen [gradient]": (check, stays(reference, lambda *args, k=k: freeze(args[k])), "requires_grad_\\(False\\) stays behind"),
        }  # fmt: skip
    if name in ("gradient", "matching"):
        for k in NETS[name]:
            MISTAKES[f"{name}: network {k} is asked twice [argument]"] = (
                check,
                twice(reference, k),
                "once, for the whole batch",
            )
    if name in LOSS_LIKE:
        MISTAKES[f"{name}: rounded to float32 [precision]"] = (
            check,
            then(reference, lambda a: a.float().to(a)),
            "no further|half of the mean square|The mean square",
        )
    if name in TIME:
        k = TIME[name]
        shape = lambda *args, k=k: args[k].shape == args[k - 1].shape[:1]
        some = lambda condition, k=k: (
            lambda *args: args[k].ndim == 1 and len(args[k]) == 4 and bool(condition(args[k]))
        )
        MISTAKES |= {
            f"{name}: t = 0 in one row [refusal]": (check, forgets(reference, some(lambda t: (t == 0).any())), "t = 0 must be refused, also as one of many"),
            f"{name}: refused only where t is 0 everywhere [refusal]": (check, forgets(reference, some(lambda t: (t > 0).any() and not t.isnan().any())), "t = 0 must be refused, also as one of many"),
            f"{name}: t below 0 [refusal]": (check, forgets(reference, some(lambda t: (t < 0).any())), "t = -0.1 must be refused"),
            f"{name}: t is nan [refusal]": (check, forgets(reference, some(lambda t: t.isnan().any())), "t = nan must be refused"),
            f"{name}: the first row alone is looked at [refusal]": (check, forgets(reference, some(lambda t: 0 < t[0] < 1)), "also as one of many"),
            f"{name}: one t for four samples [shape]": (check, forgets(reference, lambda *args, k=k: args[k].shape == (1,)), r"t of shape \(1,\) for 4 samples"),
            f"{name}: t (b, 1) [shape]": (check, forgets(reference, lambda *args, k=k: args[k].ndim == 2), r"t of shape \(4, 1\) for 4 samples"),
            f"{name}: shapes of samples [shape]": (check, forgets(reference, lambda *args, k=k: args[k - 2].shape != args[k - 1].shape), "of shape .* must be refused"),
        }  # fmt: skip
        if name in ("matching", "fake"):
            ends = functools.partial(refuses_too, reference)
            MISTAKES |= {
                f"{name}: t = 1 in one row [refusal]": (check, forgets(reference, some(lambda t: (t == 1).any())), "t = 1 must be refused, also as one of many")
                if name == "matching"
                else (check, ends(some(lambda t: (t == 1).any())), "is valid and must not be refused"),
                f"{name}: t above 1 [refusal]": (check, forgets(reference, some(lambda t: (t > 1.001).any())), "t = 1.1 must be refused"),
                f"{name}: t a little above 1 [refusal]": (check, forgets(reference, some(lambda t: 1 < t.max() < 1.001)), "t = 1.0001 must be refused"),
                f"{name}: t near 1 refused [end]": (check, ends(some(lambda t: (t > 0.99).any() and (t <= 1).all())), "is valid and must not be refused"),
                f"{name}: t near 0 refused [end]": (check, ends(some(lambda t: ((t > 0) & (t < 0.01)).any())), "is valid and must not be refused"),
                f"{name}: t above 1 refused on every schedule [end]": (check, ends(some(lambda t: (t > 2).any())), "is valid and must not be refused"),
            }  # fmt: skip
    if name in ("drift", "drifting"):
        MISTAKES |= {
            f"{name}: temperature 0 [refusal]": (check, forgets(reference, lambda y, x, T=0.2: T == 0), "A temperature of 0 must be refused"),
            f"{name}: temperature below 0 [refusal]": (check, forgets(reference, lambda y, x, T=0.2: T < 0), r"A temperature of -0\.2 must be refused"),
            f"{name}: temperature nan [refusal]": (check, forgets(reference, lambda y, x, T=0.2: T != T), "A temperature of nan must be refused"),
            f"{name}: data of another shape [shape]": (check, forgets(reference, lambda y, x, T=0.2: x.shape[1:] != y.shape[1:]), "Data of shape"),
            f"{name}: nan in data [refusal]": (check, forgets(reference, lambda y, x, T=0.2: x.isnan().any()), "nan in the data must be refused"),
            f"{name}: infinite samples [refusal]": (check, forgets(reference, lambda y, x, T=0.2: y.isinf().any()), "inf in a sample must be refused"),
            f"{name}: no data [end]": (check, forgets(reference, lambda y, x, T=0.2: not len(x)), "No samples, or no data"),
            f"{name}: no samples [end]": (check, forgets(reference, lambda y, x, T=0.2: not len(y)), "No samples, or no data"),
        }  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught, torch.enable_grad():
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, as different people write them


def generate_scaled(generator, noise, schedule=rectified_flow, t=1.0):
    """For each schedule by its own name, with torch's own functions for the time."""
    generate(still, noise, schedule, t)
    now = noise.new_full((noise.shape[0],), t)
    sigma = (
        schedule(now.double())[1].to(need.wide(noise.dtype))
        if noise.dtype != torch.float64
        else schedule(now)[1]
    )
    z = (sigma.reshape(-1, *[1] * (noise.ndim - 1)) * noise).to(noise.dtype)
    return same(generator(z, now), z)


def generate_expanded(generator, noise, schedule=rectified_flow, t=1):
    """A time expanded over the batch; the answer looked at."""
    generate(still, noise, schedule, t)
    time = torch.as_tensor(float(t), dtype=torch.float64).expand(len(noise))
    z = einops.einsum(schedule(time)[1].to(wide(noise)), wide(noise), "b, b ... -> b ...").to(noise)
    return same(generator(z, time.to(z)), z)


def direction_with_einops(y, z, t, real, fake):
    matching_gradient(y, z, t, still, still if real is fake else another)
    t, z = t.to(z), z.detach()
    fakes, reals = (
        same(net(z.clone(), t.clone()), z).detach().to(need.wide(y.dtype)) for net in (fake, real)
    )
    size = einops.reduce(torch.abs(y.detach() - reals), "b ... -> b", "mean")
    size = torch.maximum(size, torch.full_like(size, 1e-10))
    return einops.einsum(fakes - reals, 1 / size, "b ..., b -> b ...").to(y.dtype)


def direction_with_nan_to_num(y, z, t, real, fake):
    """As it was released."""
    matching_gradient(y, z, t, still, still if real is fake else another)
    with torch.no_grad():
        p_real, p_fake = (y.to(need.wide(y.dtype)) - same(net(z, t.to(z)), z) for net in (real, fake))
        weight = torch.abs(p_real).mean(dim=tuple(range(1, y.ndim)), keepdim=True)
        return torch.nan_to_num((p_real - p_fake) / weight).to(y.dtype)


def direction_by_rows(y, z, t, real, fake):
    matching_gradient(y, z, t, still, still if real is fake else another)
    with torch.no_grad():
        a, b = (same(net(z, t.to(z)), z) for net in (real, fake))
        rows = [
            (wide(f) - wide(r)) / max((wide(s) - wide(r)).abs().mean().item(), 1e-9)
            for s, r, f in zip(y, a, b)
        ]
        return torch.stack(rows).to(y.dtype)


def guidance_as_a_difference(y, z, t, real, unconditional, scale):
    guidance_gradient(y, z, t, still, another, scale)
    with torch.no_grad():
        a, b = (wide(same(net(z, t.to(z)), z)) for net in (real, unconditional))
        more = (float(scale) - 1) * (a - b)
        return -(more / one_mean((wide(y) - a - more).abs())).to(y.dtype)


def guidance_by_matching(y, z, t, real, unconditional, scale):
    """Of a guided denoiser of one's own, which asks the real one a second time."""
    need.number("scale", scale)

    def by_hand(z, t):
        a, b = (same(net(z, t), z) for net in (real, unconditional))
        return b + float(scale) * (a - b)

    return matching_gradient(y, z, t, by_hand, real)


def surrogate_by_torch(y, gradient):
    """As it was released: torch's own loss, halved."""
    need.samples(y=y, gradient=gradient)
    y_wide = wide(y)
    target = (y_wide - wide(gradient)).detach()
    return (0.5 * torch.nn.functional.mse_loss(y_wide, target, reduction="none").flatten(1).mean(1)).to(
        y.dtype
    )


def surrogate_by_a_product(y, gradient):
    """The gradient by a product, whose value is taken away; the value by its square."""
    need.samples(y=y, gradient=gradient)
    g = wide(gradient).detach()
    product = einops.reduce(wide(y) * g, "b ... -> b", "mean")
    return (product - product.detach() + per_sample(g * g) / 2).to(y.dtype)


class Pushed(torch.autograd.Function):
    """A value with a gradient of its own."""

    @staticmethod
    def forward(ctx, y, gradient):
        ctx.save_for_backward(gradient)
        return per_sample(wide(gradient) ** 2).div(2).to(y.dtype)

    @staticmethod
    def backward(ctx, weight):
        (gradient,) = ctx.saved_tensors
        return column(weight, gradient) * gradient / gradient[0].numel(), None


def surrogate_by_function(y, gradient):
    need.samples(y=y, gradient=gradient)
    return Pushed.apply(y, gradient.detach())


def fake_by_torch(fake, y, eps, t, schedule, weighting="snr+1"):
    fake_loss(still, y, eps, t, schedule, weighting)
    with torch.no_grad():
        data = y.clone()
        alpha, sigma = (c.reshape(-1, *[1] * (y.ndim - 1)).to(need.wide(y.dtype)) for c in schedule(t))
        z = (alpha * data + sigma * eps).to(y.dtype)
    error = torch.nn.functional.mse_loss(wide(same(fake(z, t.to(z)), z)), wide(data), reduction="none")
    snr = (alpha / sigma).square().flatten()
    w = {"constant": 1 + 0 * snr, "snr": snr, "truncated_snr": snr.clamp(min=1), "snr+1": snr + 1, "min_snr": snr.clamp(max=5)}[weighting]  # fmt: skip
    return (w * error.mean(dim=tuple(range(1, y.ndim)))).to(y.dtype)


def alternate_with_for(fake_run, generator_run, ratio=5):
    """A plain generator, which looks at its ratio before it is asked for anything."""
    ratio = counted(ratio)

    def rounds():
        while True:
            ready = sum(1 for _ in itertools.islice(fake_run, ratio))
            for update in generator_run:
                break
            else:
                return
            if ready < ratio:
                raise ValueError("fake_run ended first")
            yield update

    return rounds()


def alternate_with_next(fake_run, generator_run, ratio=5):
    if not isinstance(ratio, int) or ratio < 1:
        raise ValueError("ratio")
    end = object()
    while True:
        ended = [next(fake_run, end) is end for _ in range(ratio)]
        if (update := next(generator_run, end)) is end:
            return
        if any(ended):
            raise ValueError("fake_run ended first")
        yield update


class Alternating:
    """An iterator by hand, which has an end, and stops at once where the fake score is not ready."""

    def __init__(self, fake_run, generator_run, ratio=5):
        self.runs, self.ratio = (fake_run, generator_run), counted(ratio)

    def __iter__(self):
        return self

    def __next__(self):
        fakes, generators = self.runs
        missing = self.ratio - len([*itertools.islice(fakes, self.ratio)])
        update = next(generators)
        if missing:
            raise ValueError(f"fake_run lacks {missing} updates")
        return update


def drift_by_loops(y, x, temperature=0.2):
    """Pair by pair, in Python."""
    drift(y, x, temperature)
    a, b = wide(y.detach()).flatten(1), wide(x.detach()).to(wide(y).dtype).flatten(1)
    points = torch.cat([a, b])
    apart = torch.stack([torch.stack([torch.linalg.vector_norm(p - q) for q in points]) for p in a])
    scaled = apart / max(apart.mean().item(), 1e-12) / temperature
    scaled[range(len(a)), range(len(a))] = 1e4
    rows = [torch.exp(-line - torch.logsumexp(-line, 0)) for line in scaled]
    columns = [torch.exp(-line - torch.logsumexp(-line, 0)) for line in scaled.T]
    found = torch.zeros_like(a)
    for i in range(len(a)):
        weights = [max(rows[i][k] * columns[k][i], 1e-6) ** 0.5 for k in range(len(points))]
        for j, k in itertools.product(range(len(a)), range(len(a), len(points))):
            found[i] += weights[j] * weights[k] * (points[k] - points[j])
    return found.view_as(y).to(y)


def drift_by_logits(y, x, temperature=0.2):
    """The mean of the logarithms of both softmaxes, and one product with all points, as it was released."""
    drift(y, x, temperature)
    with torch.no_grad():
        n, (a, b) = len(y), (wide(points).reshape(len(points), -1) for points in (y, x))
        points = torch.cat([a, b])
        apart = (a.unsqueeze(1) - points.unsqueeze(0)).pow(2).sum(-1).sqrt()
        logits = -apart.div(apart.mean() + 1e-20).fill_diagonal_(1e5) / temperature
        w = ((logits.log_softmax(1) + logits.log_softmax(0)) / 2).exp().clamp(min=1e-3)
        signed = torch.cat([-w[:, :n] * w[:, n:].sum(1, True), w[:, n:] * w[:, :n].sum(1, True)], 1)
        return (signed @ points).view(y.shape).type_as(y)


def drifting_by_torch(y, x, temperature=0.2):
    target = wide(y).detach() + drift(wide(y), wide(x), temperature)
    return torch.nn.functional.mse_loss(wide(y), target, reduction="none").flatten(1).mean(1).to(y.dtype)


DIRECTIONS_RIGHT = {
    "by hooks": direction_with(),
    "with einops": direction_with_einops,
    "by rows": direction_by_rows,
    "in float64": lambda y, z, t, *nets: direction_with(wide=torch.Tensor.double)(y, z, t, *nets),
}
RIGHT = {
    "generate": (GENERATE, generate_with()),
    "generate scaled": (GENERATE, generate_scaled),
    "generate expanded": (GENERATE, generate_expanded),
    **{f"direction {name}": (GRADIENT, right) for name, right in DIRECTIONS_RIGHT.items()},
    "direction as released": (GRADIENT, direction_with_nan_to_num),
    "guidance": (GUIDANCE, guidance_with()),
    "guidance as a difference": (GUIDANCE, guidance_as_a_difference),
    "guidance by matching": (GUIDANCE, guidance_by_matching),
    "surrogate": (SURROGATE, surrogate_with()),
    "surrogate by torch's own loss": (SURROGATE, surrogate_by_torch),
    "surrogate by a product": (SURROGATE, surrogate_by_a_product),
    "surrogate by a function": (SURROGATE, surrogate_by_function),
    "surrogate in float64": (SURROGATE, surrogate_with(wide=torch.Tensor.double)),
    "surrogate under no_grad": (SURROGATE, surrogate_with(lambda y, g: torch.sub(y, g).detach())),
    **{
        f"matching {name}, {how.__name__}": (MATCHING, matching_with(direction=right, surrogate=how))
        for name, right in DIRECTIONS_RIGHT.items()
        for how in (surrogate_by_torch, surrogate_by_a_product, surrogate_by_function)
    },
    "matching, z with gradients that nobody uses": (MATCHING, matching_with(detach=lambda y: y)),
    "fake": (FAKE, fake_with()),
    "fake by torch's own loss": (FAKE, fake_by_torch),
    "alternate with for": (ALTERNATE, alternate_with_for),
    "alternate with next": (ALTERNATE, alternate_with_next),
    "alternate as a class": (ALTERNATE, Alternating),
    "alternate by rounds": (ALTERNATE, round_with()),
    "drift": (DRIFT, drift_with()),
    "drift by loops": (DRIFT, drift_by_loops),
    "drift by logits": (DRIFT, drift_by_logits),
    "drift by pairs": (DRIFT, drift_with(force=lambda push, pull, y, x: torch.einsum("ij,ik,kjd->id", push, pull, x[:, None] - y))),
    "drifting": (DRIFTING, drifting_with()),
    "drifting by torch's own loss": (DRIFTING, drifting_by_torch),
    "drifting by loops": (DRIFTING, drifting_with(drift_by_loops)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answer_passes(name, unchecked_shapes):
    check, right = RIGHT[name]
    with torch.enable_grad():
        check(right)


# numbers of the original code


def agree(found, expected, tol=1e-12):
    torch.testing.assert_close(found, expected, atol=tol, rtol=tol)


def golden(name):
    """What was given to the original code, and what it answered."""
    case = GOLDEN[name]
    return (
        {key: torch.tensor(value, dtype=torch.float64) for key, value in case[part].items()}
        for part in ("inputs", "outputs")
    )


def denoiser_of(mean, variance):
    """EDM's, of N(mean, variance)."""
    return Gaussian(exact(mean, mean), exact(variance, variance).diag()).denoiser(edm)


def test_golden_generator():
    """Of DMD2: its loss is a mean over the batch, too."""
    given, wanted = golden("DMD2 generator")
    y, z, t = given["y"].requires_grad_(), given["z"], given["sigma"]
    real, fake = denoiser_of(0.1, 0.25), denoiser_of(-0.2, 0.5)
    agree(real(z, t), wanted["d_real"])
    agree(fake(z, t), wanted["d_fake"])
    agree(matching_gradient(y, z, t, real, fake), wanted["grad"])
    loss = matching_loss(y, (z - y.detach()) / column(t, y), t, real, fake, edm).mean()
    agree(loss.detach(), wanted["loss"])
    agree(torch.autograd.grad(loss, y)[0], wanted["dloss_dy"])


def test_golden_fake_score():
    """Of DMD2: its weight 1 / sigma^2 + 1 / .5^2 is SNR + 1 of data that is divided by .5."""
    given, wanted = golden("DMD2 fake score")
    y, z, t = given["y"], given["z"], given["sigma"]
    eps, fake = (z - y) / column(t, y), denoiser_of(-0.2, 0.5)
    agree(fake(z, t), wanted["x_hat"])
    agree(fake_loss(lambda z, t: 2 * fake(z / 2, t / 2), 2 * y, eps, 2 * t, edm).mean(), wanted["loss"])


@pytest.mark.parametrize("temperatures", [(0.2,), (0.02, 0.05, 0.2)])
def test_golden_drifting(temperatures):
    """Released, the drift of each temperature is divided by its root mean square, and data by its mean distance.

    With one temperature the loss is therefore 1, whatever the points are. It was run in float32.
    """
    given, wanted = golden(f"drifting R={temperatures}")
    y, x = given["generated"], given["real"]
    ways = (drift(y, x, temperature) for temperature in temperatures)
    way = sum(v / v.square().mean().sqrt() for v in ways)
    agree(way.square().mean(), wanted["loss"], 1e-5)
    agree(torch.cdist(y, torch.cat([y, x])).mean(), wanted["scale"], 2e-5)  # 0 is 1e-4 there
    agree(-2 * way / way.numel() / (wanted["scale"] / 2**0.5), wanted["dloss_dgenerated"], 1e-5)


# behaviour


def normal(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).double()


def gap(y, z, t, real, fake):
    """The gradient, times the size that it was divided by."""
    return matching_gradient(y, z, t, real, fake) * one_mean((y - real(z, t)).abs())


def score(oracle, z, t, schedule):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(oracle.log_prob(z, t, schedule).sum(), z)[0]


SCHEDULES = {rectified_flow: (0.02, 0.6, 0.98), cosine: (0.02, 0.6, 0.98), edm: (0.02, 2.0, 80.0)}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_gap_is_that_of_the_scores(schedule):
    parts = exact(0.3, 0.7, 0.5, 0.5, -1.0, 1.0, 0.0, 2.0, 0.3, 0.5, 0.4, 0.2).reshape(3, 2, 2)
    real, fake = ProductMixture(*parts), Gaussian(exact(0.4, -1.0), exact(0.3, 1.5).diag())
    y, eps, t = normal(3, 2), normal(3, 2, seed=1), exact(*SCHEDULES[schedule])
    z, (alpha, sigma) = mix(y, eps, t, schedule), (column(c, y) for c in schedule(t))
    scores = (score(oracle, z, t, schedule) for oracle in (fake, real))
    expected = sigma**2 / alpha * torch.sub(*scores)
    found = gap(y, z, t, real.denoiser(schedule), fake.denoiser(schedule))
    agree(found, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_its_mean_is_the_slope_of_kl(schedule):
    """Samples N(a, v), and each with its mirror image, whose mean is exactly a; data N(m, w)."""
    a, v = exact(1.5, -1.0).requires_grad_(), exact(0.4, 1.3)
    m, w = exact(-0.5, 0.7), exact(1.1, 0.2)
    u, eps = (torch.cat([half, -half]) for half in (normal(8, 2), normal(8, 2, seed=1)))
    real, fake = (Gaussian(mean.detach(), var.diag()).denoiser(schedule) for mean, var in ((m, w), (a, v)))
    y = a.detach() + v.sqrt() * u
    for level in SCHEDULES[schedule]:
        t = exact(level).expand(len(y))
        alpha, sigma = (c[0] for c in schedule(t))

        def kl(a):
            ours, theirs = (
                (alpha * mean, (alpha**2 * var + sigma**2).sqrt()) for mean, var in ((a, v), (m, w))
            )
            return kl_divergence(Normal(*ours), Normal(*theirs)).sum()

        slope = torch.autograd.grad(kl(a), a)[0]
        found = gap(y, mix(y, eps, t, schedule), t, real, fake).mean(0)
        agree(found, sigma**2 / alpha**2 * slope)
        assert kl(a - 0.01 * found) < kl(a)


def test_guidance_is_what_is_added():
    """DMD with guidance is the gap of the distributions, plus what guidance adds: all over one size."""
    y, z, t = normal(4, 3), normal(4, 3, seed=1), exact(0.9, 0.2, 0.5, 0.7)
    real, other, fake = checks.real_score, checks.unlabelled, checks.fake_score
    towards = guided(real, other, 3.0)
    both = matching_gradient(y, z, t, towards, fake)
    matching = (fake(z, t) - real(z, t)) / one_mean((y - towards(z, t)).abs())
    agree(both, matching + guidance_gradient(y, z, t, real, other, 3.0))


def test_the_value_may_rise_while_samples_improve():
    """Half of the mean square of the gradient: samples that get close to D_real have a small size."""
    real, fake = denoiser_of(0.0, 0.25), denoiser_of(2.0, 0.25)
    eps, t = normal(16, 2), exact(1.0).expand(16)
    losses = [matching_loss(y + 0 * eps, eps, t, real, fake, edm).mean() for y in (2.0, 1.0)]
    assert losses[1] > losses[0]


def overshoot(ratio):
    """How far the generator's mean goes beyond the data, at 0: it follows its fake score, which follows it."""
    mean, score, lowest = 1.0, 1.0, 1.0

    def fake_run():
        nonlocal score
        while True:
            score += 0.1 * (mean - score)
            yield

    def generator_run():
        nonlocal mean
        for _ in range(60):
            mean -= 0.3 * score
            yield mean

    for mean_now in alternate(fake_run(), generator_run(), ratio):
        lowest = min(lowest, mean_now)
    return lowest


def test_two_time_scales():
    """a' = -k f, f' = r (a - f): a pair that circles, unless r is at least 4 k."""
    found = [overshoot(ratio) for ratio in (1, 2, 5, 20)]
    assert found == pytest.approx([-0.95, -0.48, -0.10, 0.0], abs=0.006)
    for r, circles in ((1.0, True), (3.9, True), (4.1, False), (5.0, False)):
        values = torch.linalg.eigvals(exact(0.0, -1.0, r, -r).reshape(2, 2))
        assert bool((values.imag.abs() > 0).any()) == circles and (values.real < 0).all()


def test_drift_has_the_units_of_the_points():
    y, x = normal(5, 2, 3), normal(7, 2, 3, seed=1)
    for c in (1e-3, 10.0):
        agree(drift(c * y, c * x), c * drift(y, x))
    agree(drift(y + 3, x + 3), drift(y, x), 1e-11)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    agree(drift(y[order], x.flip(0)), drift(y, x)[order])


def test_repulsion_keeps_the_width_of_a_mode():
    """Of data in two blobs. Without it, samples collapse to the middle of each."""
    middle = exact(1.0, 0.0)
    x = torch.cat([middle + 0.3 * normal(16, 2), -middle + 0.3 * normal(16, 2, seed=1)])
    collapsing = drift_with(**FORCES["no repulsion (107) [formula]"][0])
    width, missed = {}, {}
    for way in (drift, collapsing):
        y = 0.5 * normal(32, 2, seed=3)
        for _ in range(100):
            y = y + 0.3 * way(y, x)
        width[way], missed[way] = y[:, 1].std() / x[:, 1].std(), torch.cdist(x, y).amin(1).max()
    assert 1 < width[drift] < 2 and width[collapsing] < 0.2
    assert missed[drift] < 0.4 and missed[collapsing] > 0.7


# interruptions


def noting(who, n, events, interrupts=None):
    """A run, which notes its updates, and when it is told to save. One of them is interrupted."""
    for k in range(n):
        events.append(who)
        if k == interrupts:
            signal.raise_signal(signal.SIGINT)
        while (yield k) == "save":
            events.append(f"{who} is saved")


@pytest.mark.parametrize("fake,generator", [(6, None), (9, None), (None, 1)])
def test_an_interruption_waits_for_both(fake, generator):
    events = []
    runs = noting("f", 15, events, fake), noting("g", 3, events, generator)
    found = []
    with pytest.raises(KeyboardInterrupt):
        for update in alternate(*runs):
            found.append(update)
    assert "".join(events[:12]) == "fffffgfffffg" and events[12:] == ["f is saved", "g is saved"]
    assert found == [0]  # the update of the second round is in the checkpoint, and is not shown


def test_an_interruption_in_the_last_round():
    """Neither run has ended, for nobody has asked it for more."""
    events = []
    with pytest.raises(KeyboardInterrupt):
        list(alternate(noting("f", 5, events, 4), noting("g", 1, events)))
    assert events == [*"fffffg", "f is saved", "g is saved"]


def test_a_signal_that_stops_nothing():
    """Where a handler only takes note, both are saved and go on; and so does what is no run of train."""
    seen, events = [], []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        fake_run = (k if k != 7 else signal.raise_signal(signal.SIGTERM) for k in range(15))
        assert list(alternate(map(lambda k: k, fake_run), noting("g", 3, events))) == [0, 1, 2]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [1] and events == ["g", "g", "g is saved", "g"]


def pair(folder, interrupts=False):
    """Two tiny runs that learn from each other, as DMD's do, and the generator's weight after all of it."""
    generator, fake = (torch.nn.Linear(1, 1).double() for _ in range(2))
    for k, p in enumerate((*generator.parameters(), *fake.parameters())):
        torch.nn.init.constant_(p, 0.3 - 0.2 * k)
    x = normal(32, 1)

    def fake_step(net, x, step, **_):
        if interrupts and step == 23:
            signal.raise_signal(signal.SIGINT)
        with torch.no_grad():
            y = generator(x)
        return (net(x) - y).square().mean(1)

    def generator_step(net, x, step, **_):
        with torch.no_grad():
            way = fake(x) - 1
        return surrogate_loss(net(x), way)

    runs = [
        train(net, loss, (x,), steps, batch=8, warmup=0, lr=0.05, checkpoint=folder / name)
        for net, loss, steps, name in (
            (fake, fake_step, 50, "fake"),
            (generator, generator_step, 10, "generator"),
        )
    ]
    steps = [step for step, _ in alternate(*runs)]
    return steps, [p.detach().clone() for net in (generator, fake) for p in net.parameters()]


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a pair that was interrupted in its fifth round."""
    with pytest.raises(KeyboardInterrupt):
        pair(tmp_path, interrupts=True)
    return tmp_path


def test_a_pair_that_was_interrupted_continues(interrupted):
    """Both from the end of one round; and once more, where both are finished and are only loaded."""
    saved = [torch.load(interrupted / name, weights_only=True)["step"] for name in ("fake", "generator")]
    assert saved == [25, 5]
    steps, found = pair(interrupted)
    assert steps == list(range(6, 11))
    steps, loaded = pair(interrupted)
    assert steps == [] and all(map(torch.equal, found, loaded))


def test_an_interruption_changes_nothing(interrupted):
    """In the weights at the end."""
    (interrupted / "another").mkdir()
    (_, found), (_, whole) = pair(interrupted), pair(interrupted / "another")
    assert all(map(torch.equal, found, whole))


# what is refused, and how


def test_bad_input(unchecked_shapes):
    x, t = torch.randn(2, 3), torch.tensor([0.5, 0.5])
    one, two = (lambda z, t: z), (lambda z, t: 0 * z)
    for call, sentence in (
        (lambda: generate(one, x, t=0), "t must be above 0, the noisy end: at 0 a denoiser returns what it gets"),
        (lambda: generate(one, x, t=80), "this schedule runs from"),
        (lambda: matching_gradient(x, x, t, one, one), "real is fake: their gap is 0"),
        (lambda: matching_gradient(x, x, 0 * t, one, two), "t must be above 0 .*: without noise both return"),
        (lambda: matching_gradient(x, x[:1], t, one, two), "y and z must have one shape"),
        (lambda: guidance_gradient(x, x, t, one, two, float("nan")), "scale must be a finite number"),
        (lambda: surrogate_loss(x, x[:1]), "y and gradient must have one shape"),
        (lambda: matching_loss(x, x, 2 * t, one, two, rectified_flow), "alpha must be above 0 .*: at the last time z is noise alone"),
        (lambda: matching_loss(x, x, 0 * t, one, two, rectified_flow), "sigma must be above 0 .*: t = 0 has no noise"),
        (lambda: fake_loss(one, x, x, 0 * t, cosine), "sigma must be above 0"),
        (lambda: fake_loss(one, x, x, t, cosine, "SNR"), "kind must be"),
        (lambda: renoised(x, x[:1], t, cosine), "one shape"),
        (lambda: alternate(iter([]), iter([]), 0), "ratio must be at least 1 updates of the fake score"),
        (lambda: list(alternate(iter([1]), iter([1]), 2)), "fake_run ended before generator_run: it needs 2 times"),
        (lambda: drift(x, x, 0), "temperature must be above 0"),
        (lambda: drift(x, x[:, :2]), "y and x must have one shape"),
        (lambda: drifting_loss(x, x[:0]), "at least one sample"),
        (lambda: drift(x, x / 0), "x must be finite numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            call()
