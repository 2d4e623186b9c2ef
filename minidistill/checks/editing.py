"""Checks of zero-shot editing: what is known is kept exactly, what is not comes from the model."""

import math

import torch
from torch import Tensor

from minidistill import editing
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
from minidistill.checks.consistency import finite, misshapen, numbers, peaked, same_gradient, seeded, spoilt
from minidistill.schedules import cosine, edm, rectified_flow


def f(z: Tensor, t: Tensor) -> Tensor:
    """A denoiser that is nobody's, with answers as large as z."""
    return z / 3 + torch.tanh(z) + column(t, z).sin()


def keep(x: Tensor) -> Tensor:
    """Inpainting: every third number of a row is known. Its inverse is y itself."""
    return x * (torch.arange(x.shape[-1]) % 3 == 0).to(x.dtype)


def shrink(x: Tensor) -> Tensor:
    """Super-resolution: the mean of each 2x2 block is known."""
    return torch.nn.functional.avg_pool2d(x, 2)


def grow(y: Tensor) -> Tensor:
    """Each pixel repeated 2x2 times: has y for its means."""
    return y.repeat_interleave(2, -1).repeat_interleave(2, -2)


def check_edit(edit=editing.edit, seed: int = 0) -> None:
    """By hand for two operators, with given noise: where f is asked, and that the measurement survives."""
    falls = exact(1.0, 0.6, 0.3, 0.1)
    for i, (shape, operator, inverse, times, schedule) in enumerate(
        (
            ((4, 4, 4, 4), shrink, grow, exact(80.0, 3.0, 0.5), edm),  # a large end, so that it shows
            ((3, 5), keep, lambda y: y, 0.9 * falls, cosine),
            ((4, 2, 2, 6), shrink, grow, falls, rectified_flow),
            ((2, 2, 1, 3, 4), keep, lambda y: y, exact(1.0, 0.0), rectified_flow),
        )
    ):
        x, noise = peaked(*shape, seed=seed + i), list(numbers(len(times) - 1, *shape, seed=seed + i + 50))
        y, (alpha, sigma) = operator(x), schedule(times)
        asked, given = [], list(noise)
        agree = lambda image: image + inverse(y - operator(image))
        found = edit(recorded(f, asked), y, operator, inverse, times, schedule, noise=given)
        assert len(given) == len(noise), "The caller's list of noises must stay as it was: no pop."
        assert len(asked) == len(noise), f"{len(noise)} steps ask f as often, not {len(asked)} times."
        guess, inverted = inverse(y), lambda image: inverse(operator(image))
        start = alpha[0] * guess + sigma[0] * noise[0]
        hint = "The start is alpha x + sigma eps at times[0], with x = inverse(y) and the first noise."
        likely = {
            "The start is the known part in noise, not noise alone.": sigma[0] * noise[0],
            "The start has the noise of times[0], not unit noise.": alpha[0] * guess + noise[0],
            "The start is EDM's: take the schedule that is given.": guess + times[0] * noise[0],
            "alpha of times[0] is missing at the start.": guess + sigma[0] * noise[0],
        }
        explained(asked[0][0], start, hint, likely)
        z = start
        for j, (t, eps) in enumerate(zip(times, [*noise[1:], None])):
            now = t.expand(len(x))
            close(asked[j][1], now, f"Jump {j + 1} starts at times[{j}]: f is asked at that time.")
            raw = f(z, now)
            jumped = agree(raw)
            if eps is None:
                break
            share = alpha[j + 1] / alpha[-1]
            lift = (sigma[j + 1] ** 2 - (share * sigma[-1]) ** 2).sqrt()
            z = share * jumped + lift * eps
            likely = {
                "What is known is replaced after each jump, not the last only.": share * raw + lift * eps,
                "What is known is replaced before the noise is added.": agree(share * raw + lift * eps),
                "The mask is inverted: what is known comes from y.": share * inverted(raw) + lift * eps,
                "Each step has its own noise: this is the first again.": share * jumped + lift * noise[0],
                "f's answer is clipped: it may be any number.": share * agree(raw.clamp(-3, 3)) + lift * eps,
                "The lift is sqrt(s^2 - t_min^2), not s: f ends at t_min.": share * jumped
                + sigma[j + 1] * eps,
                "On this schedule the signal is scaled by alpha_s as well.": jumped + lift * eps,
            }
            hint = "After a jump: replace the known part, then lift with fresh noise."
            explained(asked[j + 1][0], z, hint, likely)
        hint = "What is known must be in the result, exactly: replace it after the last jump, too."
        likely = {
            hint: raw,
            "The mask is inverted: what is known comes from y.": inverted(raw),
            "f's answer is clipped: it may be any number.": agree(raw.clamp(-3, 3)),
        }
        finite(found, f"times {times.tolist()}")
        explained(found, jumped, "The result is f's last answer, with the known part replaced.", likely)

    x, *noise = numbers(3, 4, 1, 4, 6, seed=seed)
    given = dict(f=f, y=shrink(x), operator=shrink, inverse=grow, times=falls[:3], schedule=cosine)
    call = lambda **other: edit(*(given | dict(noise=None, generator=None) | other).values())
    seeded(lambda g: call(generator=g), seed)
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(x.shape, generator=g, dtype=x.dtype) for _ in noise]
    found = call(generator=torch.Generator().manual_seed(seed))
    close(
        found,
        call(noise=drawn),
        "Without noises, one unit Gaussian is drawn for each step, from the generator.",
    )
    narrow = call(f=recorded(f, []), y=shrink(x).float(), noise=[n.float() for n in noise])
    wide = call(y=shrink(x).float().double(), noise=[n.float().double() for n in noise])
    close_in_float32(narrow, wide, "The sample")
    accepts(lambda: call(noise=tuple(noise)), "A tuple of noises")

    wrong = exact(1.0, 1.0, 1.0, 2.0)
    grown = grow(shrink(x))
    little = torch.zeros_like(grown)
    little[1, 0, 2, 3] = 0.04  # in one number of y 0.01, and none on the average
    little[2, 0, 0, 0] = -0.04
    for inverse, what in (
        (lambda y: 2 * grow(y), "An inverse whose image does not have the measurement"),
        (lambda y: grow(y) * column(wrong, y), "An inverse that is wrong in one sample"),
        (lambda y: grow(y.flip(0)), "An inverse that mixes up the samples"),
        (lambda y: grow(y).narrow(0, 0, 1), "An inverse with one image for all samples"),
        (lambda y: grow(y) + little, "An inverse that misses two numbers of y by 0.01"),
    ):
        refuses(lambda: call(inverse=inverse), f"{what} must be refused.")
    for bad, what in (
        ([], "An empty list of noises"),
        (noise[:1], "One noise for two steps"),
        ([*noise, noise[0]], "Three noises for two steps"),
        *(([noise[0], n], f"At a later step, {what}") for what, n in misshapen("a noise", noise[1]).items()),
        *(([n, noise[1]], f"At the start, {what}") for what, n in misshapen("a noise", noise[0]).items()),
    ):
        refuses(lambda: call(noise=bad), f"{what} must be refused.")
    for bad in (exact(0.1, 0.3, 0.6), exact(0.6, 0.3, 0.3), exact(0.6, 0.7, 0.1)):
        refuses(lambda: call(times=bad), f"Times {bad.tolist()} must be refused: they fall, each step.")


def check_slerp(slerp=editing.slerp, seed: int = 0) -> None:
    """By hand for noises of several shapes and lengths; ends; equal and opposite points."""
    for i, shape in enumerate(((4, 4, 4, 4), (4, 3), (4, 1, 2, 5), (4, 2, 3, 1, 2))):
        a, b = numbers(2, *shape, seed=seed + i)
        for k, angle in ((1, 0.03), (2, math.pi - 0.05)) if i else ():  # nearly alike, and nearly opposite
            across = b[k] - (a[k] * b[k]).sum() / a[k].square().sum() * a[k]
            b[k] = math.cos(angle) * a[k] + math.sin(angle) * across * (a[k].norm() / across.norm())
        weight = (
            0.1 + 0.8 * torch.rand(4, generator=torch.Generator().manual_seed(seed + i)).double()
        ).requires_grad_()
        unit = lambda z, axes: z / z.square().sum(axes, keepdim=True).sqrt()

        def path(w, axes, a=a, b=b):
            angle = torch.acos((unit(a, axes) * unit(b, axes)).sum(axes, keepdim=True))
            return (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)

        each, w = tuple(range(1, a.ndim)), column(weight, a)
        right = path(w, each)
        likely = {
            "Weight 0 is a. Are the two shares swapped?": path(1 - w, each),
            "A great circle, no straight line: the shares are sines of angles.": (1 - w) * a + w * b,
            "For a small angle, too, the shares are sines: no straight line there.": torch.where(
                column(exact(0.0, 1.0, 0.0, 0.0), a) > 0, (1 - w) * a + w * b, right
            ),
            "A straight line pushed out to the sphere is not at constant speed: sines of angles.": (
                unit((1 - w) * a + w * b, each)
            ),
            "The angle is that of each sample by itself, not of the batch.": path(w, tuple(range(a.ndim))),
            "The angle is that of the whole sample, not of its last axis.": path(w, (-1,)),
            "The angle is that of the whole sample, not of each channel.": path(
                w, (*range(2, a.ndim),) or (1,)
            ),
            "The noises keep their lengths: do not normalise them.": path(
                w, each, unit(a, each), unit(b, each)
            ),
        }
        hint = "(sin((1 - weight) angle) a + sin(weight angle) b) / sin(angle), angle between a and b."
        found = accepts(lambda: slerp(a, b, weight), "An angle of pi - 0.05, like any other below pi,")
        finite(found, f"samples of shape {shape}")
        explained(found, right, f"Samples of shape {shape}: {hint}", likely)
        same_gradient(found, right, [weight], "for weight")
        close(slerp(a, b, 0 * weight), a, "Weight 0 is a.")
        close(slerp(a, b, 0 * weight + 1), b, "Weight 1 is b.")
    weight = weight.detach()
    one = torch.zeros_like(a)
    one[:, 0, 0, 0, 0] = 3.0  # its angle to itself is 0 to the last bit
    for start, end in ((one, one), (a, torch.cat([a[:1], b[1:]])), (a, a * (1 + 1e-9))):
        hint = "From a noise to itself nothing changes, whatever the others do: sin(angle) is 0 there."
        found = slerp(start, end, weight)
        finite(found, "a and b are equal in one sample")
        close(found[0], start[0], hint, 1e-7)
        close(
            found[3], slerp(start[3:], end[3:], weight[3:])[0], "Each sample by itself, whatever others do."
        )
    near, far = numbers(2, 4, 3, 4, 5, seed=seed).float()
    wide = slerp(near.double(), far.double(), weight)
    close_in_float32(slerp(near, far, weight), wide, "The noise")
    opposite = torch.cat([b[:2], -2 * a[2:3], b[3:]])
    for bad in ((a, opposite), (a.flip(0), opposite.flip(0))):
        hint = "One pair of opposite noises, which no one great circle joins, must be refused."
        refuses(lambda: slerp(*bad, weight), hint)
    for what, other in misshapen("b", b).items():
        refuses(lambda: slerp(a, other, weight), f"{what} must be refused.")
    for what, other in misshapen("a", a).items():
        refuses(lambda: slerp(other, b, weight), f"{what} must be refused.")
    for what, w in (misshapen("weight", weight) | spoilt("weight", weight, -0.01, 1.01)).items():
        refuses(lambda: slerp(a, b, w), f"{what} must be refused.")
