"""Checks of pyramidal flow matching: covariances by feeding unit vectors, and every step by hand.

Samples cannot tell a wrong jump from a right one: with the wrong correlations inside a block, the variance is
right, and small images even look cleaner. Every map here is linear in the noise, so its covariance is exact.
Cuts are never even: at a signal weight of 1/2, e and 1 - e are the same number.
"""

import math
from collections.abc import Callable, Iterator
from numbers import Real
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from minidistill import pyramid
from minidistill.checks import (
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    recorded,
    refuses,
)

DOUBLE = torch.float64
CUTS = ([0, 0.3, 1], [0, 0.25, 0.6, 1], [0, 1 / 3, 2 / 3, 1])
CASES = (  # cuts, gamma, steps of each stage, shares of a batch of 4; c, height, width of the coarsest size
    ([0, 0.15, 0.65, 1], 1 / 3, [3, 2, 1], (1, 2, 1), (2, 1, 3)),
    (CUTS[2], 0.1, [1, 2, 2], (2, 1, 1), (1, 3, 1)),
    (CUTS[0], 0.2, [3, 2], (1, 3), (4, 2, 2)),  # b = c = height = width in the second stage
    ([0, 0.65, 1], 1 / 3, [1, 2], None, (3, 1, 1)),
    ([0, 1], 1 / 3, [4], (1,), (3, 3, 5)),
)


def images(*shape: int, seed: int) -> Tensor:
    """Unit Gaussian images in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def spiked(x: Tensor) -> Tensor:
    """x with a large number of either sign in two corners of each sample: whatever is clamped shows."""
    x = x.clone()
    x[:, 0, 0, 0], x[:, -1, -1, -1] = 1000.0, -1000.0
    return x


def units(channels: int, height: int, width: int | None = None) -> Tensor:
    """Every unit vector of an image, as a batch."""
    width = height if width is None else width
    return torch.eye(channels * height * width, dtype=DOUBLE).reshape(-1, channels, height, width)


def halved(x: Tensor) -> Tensor:
    """2x2 means, by slices."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def doubled(x: Tensor) -> Tensor:
    """Each pixel 2x2 times, by repetition along both axes."""
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def bilinear(x: Tensor) -> Tensor:
    """A wrong Up, which many libraries do unless told otherwise."""
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def smaller(x: Tensor, times: int, gain: float = 1.0) -> Tensor:
    """x, halved so many times, each time times the gain."""
    for _ in range(times):
        x = gain * halved(x)
    return x


def misshapen(a: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What a is not, in words, and as a tensor: each axis too short in turn, and other shapes."""
    yield "of one sample", a[:1]
    yield "of two samples", a[:2]
    yield "of one sample too many", torch.cat([a, a[:1]])
    yield "of one channel", a[:, :1]
    yield "of height 1", a[..., :1, :]
    yield "of width 1", a[..., :1]
    yield "of half the size", halved(a)
    yield "of twice the size", doubled(a)
    yield "with height and width exchanged", a.mT
    yield "without a batch axis", a[0]


def clamped(right: Tensor, found: Tensor) -> Tensor:
    """What `found` is where it is right but for a clamp."""
    varies = isinstance(found, Tensor) and found.numel() and found.max() - found.min() > 1e-6
    return right.clamp(found.min(), found.max()) if varies else right


def finite(*tensors: Tensor) -> None:
    """AssertionError for nan and inf, which no comparison explains."""
    for a in tensors:
        assert not isinstance(a, Tensor) or a.isfinite().all(), (
            "nan or inf comes out: is there 0 / 0, a logarithm or a root of a number below 0?"
        )


def close_gradients(found: Tensor, right: Tensor, inputs: dict[str, Tensor], what: str) -> None:
    """AssertionError unless gradients reach all the inputs, and are those of the right answer."""
    assert found.requires_grad, f"No gradient passes through {what}: is there a detach, or a no_grad?"
    weights = torch.linspace(1, 2, found.numel(), dtype=found.dtype).reshape(found.shape)
    both = (
        torch.autograd.grad((y * weights).sum(), list(inputs.values()), retain_graph=True, allow_unused=True)
        for y in (found, right)
    )
    for name, ours, theirs in zip(inputs, *both):
        hint = f"{what}: a part of the gradient for {name} is missing, or is wrong: what is detached?"
        assert ours is not None, hint
        close(ours, theirs, hint, 1e-9)


def cases(seed: int) -> Iterator[tuple]:
    """stages, steps and shares of every case, and data and noise at full size, both with large numbers."""
    for cuts, gamma, steps, shares, (c, h, w) in CASES:
        found = pyramid.stages(cuts, gamma)
        scale = 2 ** (len(found) - 1)
        x, noise = (spiked(a) for a in images(2, 4, c, h * scale, w * scale, seed=seed))
        yield found, list(steps), shares, x, 2 * noise


def check_stages(stages=pyramid.stages, seed: int = 0) -> None:
    """Closed forms at given and at drawn cuts, the windows of time, and refusals."""
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).sort().values.tolist()
    many = [0, 0.1, 0.104, 0.3, 0.55, 0.9, 0.996, 1]
    for cuts in (*CUTS[1:], CUTS[0], [0, 1], [0, *drawn, 1], many):
        for gamma in (1 / 3, 0.2, 1e-4):
            where = f"cuts {[round(cut, 3) for cut in cuts]}, gamma {gamma:.4f}"
            given = list(cuts)
            found = accepts(lambda: stages(given, gamma), where)
            assert given == cuts, "Your function changes the caller's list of cuts."
            assert isinstance(found, list | tuple) and all(isinstance(s, pyramid.Stage) for s in found), (
                "Return a list of Stage(start, end, alpha, beta, gamma, t_start, t_end)."
            )
            k = len(cuts) - 1
            assert len(found) == k, f"One stage for each interval of cuts: {k} here, not {len(found)}."
            c, root = math.sqrt(1 + 1 / gamma), math.sqrt(1 + gamma)
            corrected = lambda e, c: e / (c * (1 - e) + e)
            starts = [corrected(e, c) for e in cuts[:-1]]
            for i, (stage, e, end, s) in enumerate(zip(found, cuts, cuts[1:], starts)):
                alpha, beta = (s / e, (1 - s) / root) if i else (1.0, 0.0)
                first = "The first stage has no jump: start 0, which is pure noise, alpha 1 and beta 0."
                for name, right, hint, likely in (
                    ("gamma", gamma, "A stage keeps the gamma that is given.", {
                        "gamma is ignored: a stage keeps the one that is given.": 1 / 3,
                        "gamma is positive here: -gamma is the correlation.": -gamma,
                    }),
                    ("end", end, "The last stage ends on clean data, end = 1." if i == k - 1 else
                        "A stage ends at its upper cut, e_i = cuts[i + 1], unrounded.", {
                        "end is the upper cut of a stage, cuts[i + 1], not the lower.": e,
                        "end is the weight of the signal, not the noise level 1 - e.": 1 - end,
                    }),
                    ("start", s, first if i == 0 else
                        "start = e / (c (1 - e) + e), c = sqrt(1 + 1 / gamma), e = cuts[i].", {
                        "start is not corrected: a jump raises the noise level, so s_i is below e_{i-1}.": e,
                        "e is where the stage before ends, cuts[i], not this one's end.": corrected(end, c),
                        "e and 1 - e are exchanged in start: e is the signal's weight.": corrected(1 - e, c),
                        "c is sqrt(1 + 1 / gamma): here the 1 is missing.": corrected(e, gamma**-0.5),
                        "c is sqrt(1 + 1 / gamma): here the root is missing.": corrected(e, c * c),
                        "gamma is ignored: c = 2 belongs to 1/3 alone.": corrected(e, 2),
                        "start goes the wrong way: a jump raises the noise level.": corrected(e, 1 / c),
                        "start is e over c (1 - e) + e, not over 1 + (c - 1) e.": e / (1 + (c - 1) * e),
                        "start is the weight of the signal, not the noise level 1 - s.": 1 - s,
                    }),
                    ("alpha", alpha, first if i == 0 else "alpha = s / e: alpha e is the signal left.", {
                        "alpha and beta are exchanged.": beta,
                        "alpha = 1 leaves the signal at e: it must fall to s.": 1.0,
                        "alpha is upside down: alpha e = s, so it is s / e.": e / s if i else 0.0,
                        "alpha is not s itself: alpha e = s, so it is s / e.": s,
                        "alpha = s / e, not s / (1 - e): e is the weight of the signal.": s / (1 - e),
                        "e is where the stage before ends, cuts[i], not this one's end, in alpha.": s / end,
                    }),
                    ("beta", beta, first if i == 0 else "beta = (1 - s) / sqrt(1 + gamma).", {
                        "beta lacks 1 / sqrt(gamma): alpha^2 (1 - e)^2 = gamma beta^2.": alpha * (1 - e),
                        "beta has gamma where it needs its root.": alpha * (1 - e) / gamma,
                        "beta is a standard deviation: this is its square.": beta**2,
                        "beta lacks 1 / sqrt(1 + gamma): it is not all the noise there is.": 1 - s,
                        "The sign of gamma in beta: it is 1 + gamma.": (1 - s) / math.sqrt(1 - gamma),
                        "beta has e where it needs the noise level 1 - e.": alpha * e / math.sqrt(gamma),
                        "beta has the level 1 - e of the stage before, not 1 - s.": (1 - e) / root,
                        "gamma is ignored in beta.": (1 - s) / math.sqrt(4 / 3),
                    }),
                ):  # fmt: skip
                    value = getattr(stage, name)
                    assert isinstance(value, Real), (
                        f"A Stage holds numbers: {name} is of type {type(value).__name__}. Use float(...)."
                    )
                    value = float(value)
                    finite(exact(value))
                    likely = {} if hint == first else {why: exact(wrong) for why, wrong in likely.items()}
                    place = f" {where}, stage {i}: {name} {value:.6f}."
                    explained(exact(value), exact(right), hint, likely, 1e-9, place)

            times = [time for stage in found for time in (stage.t_start, stage.t_end)]
            assert all(isinstance(time, Real) for time in times), (
                "A Stage holds numbers: t_start and t_end, too. Use float(...)."
            )
            lengths = exact(*cuts[1:]) - exact(*starts)
            windows = lambda share: torch.stack([1 - (share.cumsum(0) - share), 1 - share.cumsum(0)], 1)
            right = windows(lengths / lengths.sum())
            likely = {
                "The network's time falls from 1, noise, to 0, data: yours rises.": 1 - right,
                "t_start and t_end are exchanged: the network's time falls.": right.flip(1),
                "Windows have equal widths, and need widths in proportion to e_i - s_i.": windows(
                    torch.full((k,), 1 / k, dtype=DOUBLE)
                ),
                "Windows must be as wide as e_i - s_i, not as the cuts are apart.": windows(
                    exact(*cuts).diff()
                ),
                "Windows are the noise levels, which overlap: the network's time does not.": torch.stack(
                    [1 - exact(*starts), 1 - exact(*cuts[1:])], 1
                ),
                "Windows are not divided by the sum of all e_i - s_i.": windows(lengths),
            }
            hint = "Windows of time share 1 to 0 in proportion to e_i - s_i, in the order of the stages."
            found_windows = exact(*map(float, times)).reshape(k, 2)
            finite(found_windows)
            explained(found_windows, right, hint, likely, 1e-9, f" {where}.")
            assert times[0] == 1, f"The first t_start is exactly 1, not {times[0]!r}."
            assert all(a.t_end == b.t_start for a, b in zip(found, found[1:])), (
                "Windows have no gaps: each t_start is exactly the t_end before it, without rounding."
            )
    assert stages(list(CUTS[1])) == stages(list(CUTS[1]), 1 / 3), "gamma is 1/3 unless given."

    nan, inf = math.nan, math.inf
    for what, wrong in (
        ("Less than two cuts", ([], [0], [1])),
        ("A first cut other than 0", ([0.1, 0.5, 1], [1e-6, 0.5, 1], [-0.1, 0.5, 1], [nan, 0.5, 1])),
        ("A last cut other than 1", ([0, 0.5, 0.9], [0, 0.5, 1 - 1e-6], [0, 0.5, 1.1], [0, 0.5, nan])),
        ("Equal cuts", ([0, 0.5, 0.5, 1], [0, 0, 0.5, 1], [0, 0.3, 1, 1])),
        ("A cut that falls", ([0, 0.6, 0.5, 1], [0, 0.2, 0.6, 0.5, 1], [0, -0.1, 0.5, 1], [0, 0.5, 1.2, 1])),
        ("A cut that is nan", ([0, nan, 1], [0, 0.3, nan, 1])),
    ):
        for cuts in wrong:
            refuses(lambda: stages(cuts), f"{what} must be refused: {cuts}.")
    for gamma, what in (
        (0.34, "gamma above 1/3: no such covariance exists, it"),
        (1 / 3 + 1e-6, "gamma a little above 1/3"),
        (inf, "An infinite gamma"),
        (0.0, "gamma = 0"),
        (-1 / 3, "A negative gamma (the paper's sign)"),
        (nan, "A gamma that is nan"),
    ):
        refuses(lambda: stages(list(CUTS[1]), gamma), f"{what} must be refused.")
        refuses(lambda: stages([0, 1], gamma), f"{what} must be refused, for one stage as well.")


def check_down(down=pyramid.down, seed: int = 0) -> None:
    """The mean of each block, and odd sides."""
    for shape in ((3, 2, 4, 8), (2, 1, 2, 6), (2, 2, 2, 2)):
        x = spiked(images(*shape, seed=seed)).requires_grad_()
        found = accepts(lambda: down(x), f"an image of {shape[2]}x{shape[3]}")
        finite(found)
        likely = {
            "This is one pixel of each block: take the mean of all four.": x[..., ::2, ::2],
            "This is the sum of each block: take the mean.": 4 * halved(x),
            "This is the largest pixel of each block: take the mean.": torch.nn.functional.max_pool2d(x, 2),
            "It is clamped: nothing is clamped here.": clamped(halved(x), found),
        }
        hint = "The mean of each 2x2 block of neighbours, without any other filter."
        explained(found, halved(x), hint, likely)
        close_gradients(found, halved(x), {"x": x}, "down")
    close_in_float32(down(x.detach().float()), halved(x.detach()), "The result of down")
    for shape, what in (((3, 2, 5, 8), "An odd height"), ((3, 2, 4, 7), "An odd width")):
        refuses(lambda: down(images(*shape, seed=seed)), f"{what} must be refused, not cut off.")


def check_up(up=pyramid.up, seed: int = 0) -> None:
    """Each pixel, four times."""
    for shape in ((3, 2, 4, 8), (2, 1, 1, 3), (2, 2, 2, 2)):
        x = spiked(images(*shape, seed=seed)).requires_grad_()
        found = accepts(lambda: up(x), f"an image of {shape[2]}x{shape[3]}")
        finite(found)
        likely = {
            "This is bilinear: each pixel becomes four equal ones.": bilinear(x),
            "The image is tiled: the four copies of a pixel are neighbours.": x.repeat(1, 1, 2, 2),
            "A pixel keeps its value: it is not shared out among the four.": doubled(x) / 4,
            "It is clamped: nothing is clamped here.": clamped(doubled(x), found),
        }
        hint = "Each pixel becomes a 2x2 block of its own value."
        explained(found, doubled(x), hint, likely)
        close_gradients(found, doubled(x), {"x": x}, "up")
    close_in_float32(up(x.detach().float()), doubled(x.detach()), "The result of up")


def check_stage_pair(stage_pair=pyramid.stage_pair, seed: int = 0) -> None:
    """Signal and noise of both ends by themselves, then both together."""
    for found, _, _, x, noise in cases(seed):
        k = len(found)
        zero = torch.zeros_like(x)
        for i, stage in enumerate(found):
            halvings, s, e = k - 1 - i, stage.start, stage.end
            data, n = smaller(x, halvings), smaller(noise, halvings, 2.0)
            where = f"Stage {i} of {k}: "
            once = x.clone(), noise.clone()
            pair = accepts(lambda: stage_pair(x, noise, i, found), f"stage {i} of {k}, x {tuple(x.shape)},")
            assert torch.equal(x, once[0]) and torch.equal(noise, once[1]), "Your function changes its input."
            assert isinstance(pair, tuple | list) and len(pair) == 2, "Return two tensors, (start, end)."
            finite(*pair)
            for image in pair:
                assert isinstance(image, Tensor) and image.shape == data.shape, (
                    f"{where}both ends have its size, {tuple(data.shape)}, for x {tuple(x.shape)}."
                )
            for one, other in zip(pair, stage_pair(x, noise, i, found)):
                assert torch.equal(one, other), "Nothing is drawn here: two calls give the same."
            blurred = doubled(halved(data)) if i else 0 * data
            right = s * blurred + (1 - s) * n, e * data + (1 - e) * n
            both = torch.stack([*pair]), torch.stack([*right])
            assert torch.allclose(*both) or not torch.allclose(both[0], both[1].flip(0)), (
                "Start and end are exchanged: return (start, end)."
            )

            pixel, limit = 2**halvings, "It is clamped: nothing is clamped here."
            noises = lambda level, signal: {
                "Each halving must multiply the mean, or noise loses variance.": level
                * smaller(noise, halvings),
                "Each halving needs the factor 2, not sqrt(2), and not 2 once for both.": level
                * smaller(noise, halvings, 2**0.5),
                "The factor of a halving is not 4: variance 1.": level * smaller(noise, halvings, 4.0),
                "Noise is a pixel of each block, not a multiple of Down.": level
                * noise[..., ::pixel, ::pixel],
                "The noise level is 1 minus the signal's weight, without roots.": (1 - signal**2) ** 0.5 * n,
                "The noise needs 1 minus the signal's weight, not that weight.": signal * n,
                "The noise needs a weight: 1 minus the signal's.": n,
            }

            start, end = stage_pair(x, zero, i, found)
            finite(start, end)
            hint = f"{where}without noise, the end is the data of its size, times e_i."
            hint = "The last stage ends on the data, x itself." if i == k - 1 else hint
            likely = {
                f"The end has no data: it needs X_i times e_i{', not s_i' if i == 0 else ''}.": 0 * data,
                "The end needs the weight e_i, not the start's s_i.": s * data,
                "The data of the end need the weight e_i, not 1 - e_i.": (1 - e) * data,
                "Only noise is multiplied when it is halved: data keep their mean.": e * 2**halvings * data,
                "The data are one pixel of each block: Down is the mean.": e * x[..., ::pixel, ::pixel],
                "The data of the end need a weight, e_i.": data,
                "An end has all the details of its size: here they are blurred.": e * blurred,
            } | {limit: clamped(e * data, end)}
            explained(end, e * data, hint, likely)
            hint = (
                f"{where}without noise, the start is what the stage before knows, enlarged by Up, times s_i."
            )
            hint = "The first stage starts from noise alone." if i == 0 else hint

            likely = {limit: clamped(s * blurred, start)} if i == 0 else {
                "The start knows details which the stage before cannot see: Up makes none.": s * data,
                "The start needs alpha times the weight of the end before.": found[i - 1].end * blurred,
                "The start needs the weight s_i, not the end's e_i.": e * blurred,
                "The data of the start need the weight s_i, not 1 - s_i.": (1 - s) * blurred,
                "The start is enlarged bilinearly: Up repeats each pixel.": s * bilinear(halved(data)),
                "The start is one pixel of each block: Down is the mean.": s * doubled(data[..., ::2, ::2]),
                "The start has no data: what the stage before knows must go on.": 0 * data,
            } | {limit: clamped(s * blurred, start)}  # fmt: skip
            explained(start, s * blurred, hint, likely)
            start, end = stage_pair(zero, noise, i, found)
            finite(start, end)
            hint = f"{where}without data, the end is the noise of its size, of variance 1, times 1 - e_i."
            explained(end, (1 - e) * n, hint, noises(1 - e, e) | {limit: clamped((1 - e) * n, end)})
            hint = f"{where}start and end need the same noise of variance 1, or the way is not straight."
            likely = noises(1 - s, s)
            if i:
                likely["The start's noise comes from the stage before, enlarged: it is not white."] = (
                    1 - s
                ) * doubled(2 * halved(n))
                likely["The start has the noise level of the end: 1 - e_i stands for 1 - s_i."] = (1 - e) * n
            explained(start, (1 - s) * n, hint, likely | {limit: clamped((1 - s) * n, start)})
            for image, expected in zip(pair, right):
                close(
                    image, expected, f"{where}weights times data and noise, and nothing else: is it clamped?"
                )

            for image, expected in zip(stage_pair(x.float(), noise.float(), i, found), right):
                close_in_float32(image, expected, "A start or an end")
            a, b = x.clone().requires_grad_(), noise.clone().requires_grad_()
            blurred = doubled(halved(smaller(a, halvings))) if i else 0 * smaller(a, halvings)
            expected = s * blurred + (1 - s) * smaller(b, halvings, 2.0)
            expected = expected + 3 * (e * smaller(a, halvings) + (1 - e) * smaller(b, halvings, 2.0))
            start, end = stage_pair(a, b, i, found)
            close_gradients(start + 3 * end, expected, {"x": a, "noise": b}, "stage_pair")

    found, x, noise = pyramid.stages(CUTS[1]), *images(2, 3, 2, 32, 64, seed=seed)
    for h, w, side in ((6, 12, "A height"), (8, 10, "A width")):
        refuses(
            lambda: stage_pair(x[..., :h, :w], noise[..., :h, :w], 0, found),
            f"{side} that cannot be halved twice must be refused: {h}x{w} for stage 0 of 3.",
        )
    for i in range(3):
        for what, bad in misshapen(noise):
            hint = f"Noise {what} must be refused, in stage {i}: x and noise have one shape."
            refuses(lambda: stage_pair(x, bad, i, found), hint)
            hint = f"An x {what} must be refused, in stage {i}: x and noise have one shape."
            refuses(lambda: stage_pair(bad, noise, i, found), hint)
    for i in (3, 4, -1, -3):  # and the sides can be halved five times
        refuses(lambda: stage_pair(x, noise, i, found), f"Stage {i} of 3 must be refused: there are 0, 1, 2.")


def check_renoise_jump(renoise_jump=pyramid.renoise_jump, seed: int = 0) -> None:
    """The mean, and the covariance: what arrives must be what the next stage starts from."""
    for cuts, gamma, shape in (
        (CUTS[1], 0.1, (2, 2, 2)),
        (CUTS[1], 1 / 3, (1, 3, 1)),
        (CUTS[0], 0.25, (2, 1, 2)),
        (CUTS[2], 0.3, (3, 1, 1)),
        (CUTS[0], 0.32, (1, 1, 1)),
        (CUTS[0], 0.02, (1, 1, 2)),
    ):
        for stage in pyramid.stages(cuts, gamma)[1:]:
            c, h, w = shape
            where = f" (cuts {[round(cut, 3) for cut in cuts]}, gamma {gamma:.3f}, z of {h}x{w})"
            low, high = units(c, h, w), units(c, 2 * h, 2 * w)

            def jump(z: Tensor, noise: Tensor) -> Tensor:
                before, given = (z.clone(), noise.clone()), f"z {tuple(z.shape)}, noise {tuple(noise.shape)}"
                made = accepts(lambda: renoise_jump(z, noise, stage), given + where)
                finite(made)
                assert torch.equal(z, before[0]), "Your function changes z: it must stay as it is."
                assert torch.equal(noise, before[1]), (
                    "Your function changes the noise: it must stay as it is."
                )
                return made

            found = jump(low, torch.zeros(len(low), *high.shape[1:], dtype=DOUBLE))
            assert isinstance(found, Tensor) and found.shape == (len(low), *high.shape[1:]), (
                "A jump doubles height and width: (b, c, 2 h, 2 w)."
            )
            hint = "Without noise the jump is alpha Up(z), and nothing is drawn." + where
            likely = {
                "z is not multiplied by alpha.": doubled(low),
                "z is divided by alpha: the signal falls to s = alpha e.": doubled(low) / stage.alpha,
                "z is multiplied by beta: alpha and beta are exchanged.": stage.beta * doubled(low),
                "z is multiplied by this stage's end: the factor is alpha.": stage.end * doubled(low),
                "z is multiplied by s: alpha e = s, so the factor is alpha.": stage.start * doubled(low),
                "z is enlarged bilinearly: Up repeats each pixel.": stage.alpha * bilinear(low),
                "z is tiled: copies of a pixel are neighbours.": stage.alpha * low.repeat(1, 1, 2, 2),
                "Height and width are exchanged.": stage.alpha * doubled(low).mT,
                "z does not enter the jump.": 0 * found,
            }
            explained(found, stage.alpha * doubled(low), hint, likely)

            fresh = jump(torch.zeros(len(high), c, h, w, dtype=DOUBLE), high)
            turned = jump(torch.zeros(len(high), c, h, w, dtype=DOUBLE), high.flip(0)).flip(0)
            close(turned, fresh, "Each sample has its own noise: is one used for all?" + where)
            covariance = fresh.flatten(1).T @ fresh.flatten(1) / stage.beta**2
            pixel = torch.arange(len(high)).reshape(c, 2 * h, 2 * w)
            channel = pixel // (4 * h * w)
            corner = pixel - pixel % 2 - (pixel // (2 * w) % 2) * 2 * w  # the first pixel of its block
            alike = lambda of: of.flatten()[:, None] == of.flatten()
            one, block = torch.eye(len(high), dtype=torch.bool), alike(corner)
            variance, inside = covariance[one].mean().item(), covariance[block & ~one].mean().item()
            assert covariance.abs().max() > 1e-9, "There is no fresh noise in the jump." + where
            assert covariance[~alike(channel)].abs().sum() < 1e-9, (
                "Channels share their fresh noise: each has its own." + where
            )
            assert covariance[~block].abs().sum() < 1e-9, (
                "Fresh noise is correlated across blocks: a block is 2x2 pixels, not four in a row." + where
            )
            numbers = (
                f" Over beta^2: variance {variance:.3f}, to be 1; neighbour {inside:.3f}, to be {-gamma:.3f}"
            )
            a, b, beta = 1 + gamma, 1 - 3 * gamma, stage.beta  # the squared weights of details and mean
            known = {
                "Fresh noise is white: its variance is right, but neighbours need -gamma beta^2.": (1, 1),
                "The sign of gamma: neighbours in a block are correlated by -gamma.": (
                    1 - gamma,
                    1 + 3 * gamma,
                ),
                "gamma is ignored: neighbours in a block are correlated by -gamma, not -1/3.": (4 / 3, 0),
                "The details have no weight: their variance is 3/4 and must be more.": (1, 0),
                "The details have no weight, only their mean has.": (1, b),
                "The mean m is missing, and needs a weight unless gamma is 1/3.": (a, 0),
                "The mean m has no weight, and needs one.": (a, 1),
                "The weights lack their roots.": (a * a, b * b),
                "The weights of details and mean are exchanged.": (b, a),
                "beta must enter once, not twice.": (a * beta**2, b * beta**2),
                "beta is missing: the fresh noise has variance beta^2.": (a / beta**2, b / beta**2),
                "Fresh noise needs beta, not 1 - s: some noise is there already.": (a * a, a * b),
                "beta stands for a variance here: beta^2 is the variance.": (a / beta, b / beta),
                "The four pixels of a block get one number, which cannot undo what Up does.": (
                    0,
                    4 * variance,
                ),
            }
            hint = "Fresh noise has variance beta^2, and covariance -gamma beta^2 inside each block."
            likely = {why: exact(3 * a + b, b - a) / 4 for why, (a, b) in known.items()}
            explained(exact(variance, inside), exact(1, -gamma), hint, likely, 1e-9, numbers + where)
            wanted = one.to(DOUBLE) - gamma * (block & ~one).to(DOUBLE)
            close(covariance, wanted, hint + numbers + where, 1e-9)

            z, noise = (spiked(images(2, *a.shape[1:], seed=seed)) for a in (low, high))
            result = jump(z, noise)
            assert torch.equal(result, jump(z, noise)), "Nothing is drawn here: two calls give the same."
            linear = lambda z, noise: z.flatten(1) @ found.flatten(1) + noise.flatten(1) @ fresh.flatten(1)
            hint = "alpha Up(z) plus fresh noise, and nothing else: is it clamped, or normalised?" + where
            close(result.flatten(1), linear(z, noise), hint, 1e-9)
            if gamma == 1 / 3:
                hint = (
                    "At gamma = 1/3 a constant added to the noise changes nothing: only its details are used."
                )
                close(jump(z, noise + 5.0), result, hint, 1e-6)
            small = jump(z.float() / 100, noise.float() / 100)  # large numbers that cancel leave no digits
            close_in_float32(small, result / 100, "The result of a jump")
            a, b = z.clone().requires_grad_(), noise.clone().requires_grad_()
            close_gradients(jump(a, b).flatten(1), linear(a, b), {"z": a, "noise": b}, "renoise_jump")

    stage = pyramid.stages(CUTS[1])[1]
    z, noise = images(3, 2, 2, 4, seed=seed), images(3, 2, 4, 8, seed=seed + 1)
    for what, bad in misshapen(noise):
        refuses(lambda: renoise_jump(z, bad, stage), f"Noise {what} must be refused: it has twice z's size.")
    for what, bad in misshapen(z):
        refuses(
            lambda: renoise_jump(bad, noise, stage), f"A z {what} must be refused: noise has twice its size."
        )
    for bad, what in (
        (noise[..., :6], "Noise of another width"),
        (noise[..., :2, :], "Noise of another height"),
    ):
        refuses(lambda: renoise_jump(z, bad, stage), f"{what} must be refused: it has twice z's size.")


def check_network_time(network_time=pyramid.network_time, seed: int = 0) -> None:
    """Local time 1 is the start of a stage, 0 its end."""
    drawn = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    u = torch.cat([exact(1.0, 0.0), drawn]).requires_grad_()
    for stage in (*pyramid.stages(CUTS[1]), *pyramid.stages(CUTS[0], 0.1)):
        found, width = accepts(lambda: network_time(u, stage), "u from 0 to 1"), stage.t_start - stage.t_end
        finite(found)
        right = stage.t_end + width * u
        likely = {
            "This is local time itself: it needs the window of the stage, t_start to t_end.": u,
            "t_start and t_end are exchanged: local time 1 is the start of a stage.": stage.t_start
            - width * u,
            "The window starts at t_end: that is missing.": width * u,
            "This is the noise level, which the network is not told.": u * (1 - stage.start)
            + (1 - u) * (1 - stage.end),
        }
        hint = "From t_start at local time 1 to t_end at 0, along a straight line."
        explained(found, right, hint, likely)
        close_gradients(found, right, {"u": u}, "network_time")
        close_in_float32(network_time(u.detach().float(), stage), right.detach(), "The network's time")
    u = u.detach()
    for value, bad in one_bad(u, 1.001, -0.001):
        hint = f"A local time outside 0 to 1 must be refused: {value:.3f}."
        refuses(lambda: network_time(bad, stage), hint)
    for bad, shape in ((u[:, None], "(b, 1)"), (u[0], "()")):
        refuses(lambda: network_time(bad, stage), f"Local times of shape {shape} must be refused: (b,).")


def net(z: Tensor, t: Tensor, **given: Tensor) -> Tensor:
    """A function of everything it is given, at any size, as large as z is."""
    values = (given[name].double().reshape(len(z), -1).mean(1) for name in sorted(given))
    extra = sum(0.1 * i * column(value, z) for i, value in enumerate(values, 1))
    return (torch.tanh(z) * (1 + column(t, z)) - 0.3 * z + extra + 0.01 * z.shape[-1]).to(z.dtype)


def conditions(seed: int) -> dict[str, Tensor]:
    """Conditioning of four samples, of which the labels number them."""
    return {"label": torch.arange(4), "style": images(4, 2, seed=seed + 3), "any": images(4, seed=seed + 4)}


def labelled(velocity: Callable, who: str, asked: list) -> Callable:
    """velocity, as strict as `recorded`, which needs all conditioning by name, and keeps the labels."""

    def strict(z, t, **given):
        assert given.keys() == conditions(0).keys(), (
            f"The {who} gets all conditioning by name, label, style and any, each time: not {list(given)}."
        )
        assert all(len(value) == len(z) for value in given.values()), (
            f"The {who} gets the conditioning of the samples that it is asked for."
        )
        places = []
        answer = recorded(velocity, places)(z, t, **given)
        asked.append((*places[0], given["label"].clone()))
        return answer

    return strict


def by_size(asked: list, found: list, x: Tensor) -> Iterator[tuple]:
    """For each stage what was asked at its size: z, t and labels, samples one after another."""
    for i in range(len(found)):
        scale = 2 ** (len(found) - 1 - i)
        size = (x.shape[2] // scale, x.shape[3] // scale)
        here = [one for one in asked if one[0].shape[2:] == size]
        assert here, f"Stage {i} of {len(found)} asks at its own size, {size[0]}x{size[1]}: nobody did."
        yield tuple(torch.cat(part) for part in zip(*here))


def parts(shares: tuple | None, found: list, b: int = 4) -> list[slice]:
    """The samples of each stage, coarsest first."""
    counts = [b * share // sum(shares) for share in shares or ()] or [b // len(found)] * len(found)
    return [slice(sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(found))]


def point(x: Tensor, noise: Tensor, u: Tensor, i: int, found: list) -> tuple[Tensor, Tensor, Tensor]:
    """z at local time u, the network's time there, and the velocity."""
    start, end = pyramid.stage_pair(x, noise, i, found)
    w = column(u, start)
    return w * start + (1 - w) * end, found[i].t_end + (found[i].t_start - found[i].t_end) * u, start - end


def asked_where(asked: list, found: list, shares: tuple | None, x: Tensor, noise: Tensor, u: Tensor) -> None:
    """Where a loss has asked its network: which samples, labels, z and times in each stage."""
    for i, ((z, t, tags), part) in enumerate(zip(by_size(asked, found, x), parts(shares, found))):
        where = f" (stage {i} of {len(found)})"
        label = torch.arange(4)[part]
        assert len(z) == len(label), (
            f"Shares {shares} of 4 samples, coarsest stage first: {len(label)} in stage {i}, not {len(z)}."
        )
        assert torch.equal(tags, label), (
            f"Samples go to stages in the order of the batch, coarsest first: {label.tolist()} to stage {i}, "
            f"not {tags.tolist()}."
        )
        right, time, slope = point(x[part], noise[part], u[part], i, found)
        likely = {
            "Local time is reversed: z = u start + (1 - u) end.": point(x, noise, 1 - u, i, found)[0][part],
            "z is the start itself, not z_u.": right + column(1 - u[part], right) * slope,
            "z is clamped: nothing is clamped here.": clamped(right, z),
        }  # fmt: skip
        explained(z, right, "The network is asked at z = u start + (1 - u) end.", likely, where=where)
        likely = {
            "The network is told local time: it needs network_time, which tells it the stage.": u[part],
            "Local time is reversed in the network's time.": point(x, noise, 1 - u, i, found)[1][part],
        }
        explained(t, time, "The network is told network_time(u, stage).", likely, where=where)


def forbidden(sentence: str) -> None:
    """A call that must not be made."""
    raise AssertionError(sentence)


def partial(asked: list) -> Iterator[tuple[str, Callable]]:
    """Networks that answer for a part of z only; for one sample only where several were asked at once."""
    for axis, what in ((0, "sample"), (1, "channel"), (3, "column")):
        if axis or any(len(z) > 1 for z, *_ in asked):
            yield what, lambda z, t, axis=axis: z.narrow(axis, 0, 1)


def refuses_batches(ask: Callable, x: Tensor) -> None:
    """What a loss of eight samples in three stages refuses of shares, images, noise and labels."""
    for shares, what in (
        ((1, 1), "Two shares for three stages"),
        ((1, 1, 1, 1), "Four shares for three stages"),
        ((1, 1, 1), "8 samples in shares of 1, 1, 1"),
        (None, "8 samples for three stages alike"),
        ((0, 3, 1), "A share of 0"),
        ((2, 3, -1), "A negative share"),
    ):
        refuses(lambda: ask(shares=shares), f"{what} must be refused.")
    for n, what in ((1, "One label"), (4, "Four labels")):
        refuses(lambda: ask(label=torch.arange(n)), f"{what} for eight samples must be refused.")
    for what, bad in misshapen(x):
        refuses(lambda: ask(noise=bad), f"Noise {what} must be refused: x and noise have one shape.")
        refuses(lambda: ask(x=bad), f"An x {what} must be refused: x and noise have one shape.")


def check_pyramid_loss(pyramid_loss=pyramid.pyramid_loss, seed: int = 0) -> None:
    """Where and when the network is asked, the target, gradients, packing, and refusals."""
    given = conditions(seed)
    for found, _, shares, x, noise in cases(seed):
        u = 1 - torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        u[0], u[-1] = 1.0, 1e-6
        leaves = {"x": x.requires_grad_(), "noise": noise.requires_grad_(), "u": u.requires_grad_()}
        asked, weight = [], torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
        velocity = lambda z, t, **given: weight.to(z.dtype) * net(z, t, **given)
        leaves["the network's weights"] = weight
        alone = labelled(velocity, "network", asked)
        alone.packed = lambda *_, **__: forbidden(
            "Without packed=True velocity itself is asked, size by size."
        )
        loss = accepts(
            lambda: pyramid_loss(alone, x, noise, u, found, shares, **given),
            f"x {tuple(x.shape)}, {len(found)} stages, shares {shares},",
        )
        asked_where(asked, found, shares, x, noise, u)
        assert isinstance(loss, Tensor) and loss.shape == (4,), "A loss returns one number per sample, (b,)."
        finite(loss)

        def total(target: Callable, reduce: Callable) -> Tensor:
            losses = []
            for i, part in enumerate(parts(shares, found)):
                z, t, slope = point(x[part], noise[part], u[part], i, found)
                answer = velocity(z, t, **{name: value[part] for name, value in given.items()})
                losses.append(reduce((answer - target(slope, found[i])).square().flatten(1)))
            return torch.cat(losses)

        mean = lambda a: a.mean(1)
        right = total(lambda slope, stage: slope, mean)
        likely = {
            "The sign of the velocity: it is start - end.": total(lambda slope, stage: -slope, mean),
            "The velocity is in local time: it is not divided by the window of the stage.": total(
                lambda slope, stage: slope / (stage.t_start - stage.t_end), mean
            ),
            "The velocity is in local time: it is not multiplied by the window of the stage.": total(
                lambda slope, stage: slope * (stage.t_start - stage.t_end), mean
            ),
            "Take the mean over a sample, not the sum.": total(lambda slope, _: slope, lambda a: a.sum(1)),
            "Take the square, not its root.": right.sqrt(),
            "This is half the squared distance.": right / 2,
            "Take the mean for each sample, not over the batch.": right.mean().expand(4),
            "The loss is clamped.": right.clamp(max=loss.max()),
        }  # fmt: skip
        hint = "The loss is the mean square of answer - (start - end), for each sample."
        explained(loss, right, hint, likely, 1e-9)
        close_gradients(loss, right, leaves, "pyramid_loss")

        single = x.float(), noise.float(), u, found, shares
        short = pyramid_loss(labelled(velocity, "network", asked), *single, **given)
        close_in_float32(short, right.detach(), "The loss")

        class Packed:
            calls = 0

            def __call__(self, z, t, **given):
                forbidden("packed=True asks velocity.packed, once for all sizes, and nothing else.")

            def packed(self, zs, ts, **given):
                self.calls += 1
                assert {len(zs), len(ts), *map(len, given.values())} == {len(found)}, (
                    "velocity.packed gets lists, with one entry for each stage."
                )
                strict = labelled(velocity, "packed network", [])
                each = [{name: values[i] for name, values in given.items()} for i in range(len(found))]
                return [strict(z, t, **one) for z, t, one in zip(zs, ts, each)]

        packed = Packed()
        together = pyramid_loss(packed, x, noise, u, found, shares, packed=True, **given)
        assert packed.calls == 1, f"packed=True asks velocity.packed once, not {packed.calls} times."
        close(together, right, "packed=True gives the same losses.", 1e-9)
        close_gradients(together, right, leaves, "pyramid_loss with packed=True")
        short = pyramid_loss(packed, *single, packed=True, **given)
        close_in_float32(short, right.detach(), "The packed loss")

    found, x, noise = pyramid.stages(CUTS[1]), *images(2, 8, 2, 4, 8, seed=seed)
    u = 1 - torch.rand(8, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    ask = lambda x=x, noise=noise, u=u, shares=(1, 2, 1), velocity=net, **given: pyramid_loss(
        velocity, x, noise, u, found, shares, **given
    )
    for value, bad in one_bad(u, 0.0, -0.001, 1.001):
        refuses(lambda: ask(u=bad), f"One local time of {value:.3f} must be refused: above 0, at most 1.")
    for bad, what in ((u[:1], "One local time"), (u[:7], "Seven local times"), (u[:, None], "Times (8, 1)")):
        refuses(lambda: ask(u=bad), f"{what} for eight samples must be refused.")
    refuses_batches(ask, x)
    for what, part in partial(asked):
        refuses(lambda: ask(velocity=part), f"A network that answers for one {what} only must be refused.")
        together = SimpleNamespace(packed=lambda zs, ts: [part(z, t) for z, t in zip(zs, ts)])
        hint = f"A packed network that answers for one {what} only must be refused."
        refuses(lambda: ask(velocity=together, packed=True), hint)


def field(side: int, correlation: float = 0.9) -> Tensor:
    """The covariance of a Gaussian image whose neighbours are alike."""
    row = correlation ** (torch.arange(side)[:, None] - torch.arange(side)).abs().double()
    return torch.kron(row, row)


def exact_velocity(covariance: Tensor, found: list, side: int):
    """The optimal velocity for Gaussian images, integrated so finely that one step of it ends a stage."""
    k, unit = len(found), units(1, side)
    zero = torch.zeros_like(unit)
    maps = []
    for i in range(k):
        signal, noise = (
            [a.flatten(1).T for a in pyramid.stage_pair(*pair, i, found)]
            for pair in ((unit, zero), (zero, unit))
        )
        maps.append((signal, noise))

    def matrix(i: int, u: float) -> Tensor:
        (s0, s1), (n0, n1) = maps[i]
        x, n = u * s0 + (1 - u) * s1, u * n0 + (1 - u) * n1
        cross = (s0 - s1) @ covariance @ x.T + (n0 - n1) @ n.T
        return cross @ torch.linalg.inv(
            x @ covariance @ x.T + n @ n.T + 1e-13 * torch.eye(len(x), dtype=DOUBLE)
        )

    def flow(i: int) -> Tensor:
        """The matrix that carries a start to its end: Runge-Kutta, times crowd at the clean end."""
        whole, n = torch.eye(len(maps[i][0][0]), dtype=DOUBLE), 40
        for j in range(n, 0, -1):
            u, s = (j / n) ** 2, ((j - 1) / n) ** 2
            h = s - u
            at_u, at_m, at_s = (matrix(i, w) for w in (u, (u + s) / 2, s))
            k1 = at_u @ whole
            k2 = at_m @ (whole + h / 2 * k1)
            k3 = at_m @ (whole + h / 2 * k2)
            whole = whole + h / 6 * (k1 + 2 * k2 + 2 * k3 + at_s @ (whole + h * k3))
        return whole

    flows = {side // 2 ** (k - 1 - i): flow(i) for i in range(k)}
    return lambda z, t: z - (z.flatten(1) @ flows[z.shape[-1]].T).reshape(z.shape)


def walk(
    velocity: Callable, noise: Tensor, found: list, steps: list[int], jumps: list[Tensor]
) -> list[Tensor]:
    """The end of every stage: Euler steps in local time, and a jump before every stage but the first."""
    z, ends = smaller(noise, len(found) - 1, 2.0), []
    for i, (stage, n) in enumerate(zip(found, steps)):
        z = pyramid.renoise_jump(z, jumps[i - 1], stage) if i else z
        for j in range(n, 0, -1):
            t = stage.t_end + (stage.t_start - stage.t_end) * j / n
            z = z - velocity(z, z.new_full((len(z),), t)) / n
        ends.append(z)
    return ends


def check_pyramid_sample(pyramid_sample=pyramid.pyramid_sample, seed: int = 0) -> None:
    """Every point and time by hand, every entry of the trajectory, its randomness, gradients and refusals."""
    for found, steps, _, _, noise in cases(seed):
        k, pixel = len(found), 2 ** (len(found) - 1)
        shapes = [smaller(noise, k - 1 - i).shape for i in range(1, k)]
        jumps = [spiked(images(*shape, seed=seed + 1 + i)) for i, shape in enumerate(shapes)]
        asked, wanted = [], []
        once, lists = noise.clone(), {"steps": steps, "jumps": jumps, "stages": found}
        before = {name: list(given) for name, given in lists.items()}
        result = accepts(
            lambda: pyramid_sample(recorded(net, asked), noise, found, steps, jumps),
            f"noise {tuple(noise.shape)}, {k} stages, steps {steps}, {k - 1} jumps",
        )
        assert torch.equal(noise, once), "The noise must stay as it is: is z changed in place?"
        finite(result)
        for name, given in lists.items():
            same = len(given) == len(before[name]) and all(a is b for a, b in zip(given, before[name]))
            assert same, f"Your function changes the caller's list of {name}."
        ends = walk(recorded(net, wanted), noise, found, steps, jumps)

        # where and when the network is asked
        counts = [sum(z.shape == end.shape for z, _ in asked) for end in ends]
        assert counts == steps and len(asked) == sum(steps), (
            f"Steps {steps}, coarsest stage first: the network is asked so often, not {counts} of "
            f"{len(asked)} times. Is a step missing, or one too many?"
        )
        places = [(i, j) for i, n in enumerate(steps) for j in range(n, 0, -1)]
        for place, ((z, t), (right, time)) in enumerate(zip(asked, wanted)):
            (i, j), n, stage = places[place], steps[places[place][0]], found[places[place][0]]
            where = f" (stage {i} of {k}, step {n - j + 1} of {n})"
            if place == 0:
                hint = "The first stage starts from the noise, halved to its size."
                likely = {
                    "A halving of the noise is twice the mean, not the mean.": smaller(noise, k - 1),
                    "A halving of the noise is twice the mean, not sqrt(2) times.": smaller(
                        noise, k - 1, 2**0.5
                    ),
                    "The noise is one pixel of a block, not twice the mean.": noise[..., ::pixel, ::pixel],
                }
            elif j == n:
                last, fresh = ends[i - 1], jumps[i - 1]
                hint = "Before a stage comes renoise_jump(z, jumps[i - 1], stage), z where the last one ends."
                jump = pyramid.renoise_jump
                likely = {
                    "There is no fresh noise at the jump.": stage.alpha * doubled(last),
                    "There is no jump: z is enlarged, and nothing else.": doubled(last),
                    "The jump takes the stage it leaves, not the one it leads to.": jump(
                        last, fresh, found[i - 1]
                    ),
                    "The noise of the beginning comes again at the jump: it must be fresh.": jump(
                        last, smaller(noise, k - 1 - i, 2.0), stage
                    ),
                    "The jump comes too early: finish the stage before.": jump(
                        asked[place - 1][0], fresh, stage
                    ),
                }
            else:
                before, slope = asked[place - 1][0], net(*asked[place - 1])
                hint = "A step of Euler's is z - velocity / n, from the newest z."
                length = ((before - z) * slope).sum() / slope.square().sum()
                likely = {
                    "The sign of a step: z - velocity / n, for it is start - end.": before + slope / n,
                    "A step is 1 / n in local time, not a difference of network times.": before
                    - (stage.t_start - stage.t_end) * slope / n,
                    "The network is asked at an old z: it must be the newest.": before,
                    f"A step is {length:.3f} long, not 1 / n: all are equal, and none wasted.": before
                    - length * slope,
                    "The network's answer is clamped: nothing is clamped here.": before
                    - clamped(slope, (before - z) * n) / n,
                }
            likely["z is clamped: nothing is clamped here."] = clamped(right, z)
            explained(z, right, hint, likely, 1e-9, where)
            if not alike(t, time, 1e-10):  # the sentence is about all times of the stage
                told, due = (
                    torch.stack([t for (_, t), (m, _) in zip(a, places) if m == i]) for a in (asked, wanted)
                )
                at = lambda u, s=stage: s.t_end + (s.t_start - s.t_end) * u + 0 * told
                left = torch.arange(n, 0, -1, dtype=DOUBLE)[:, None]
                likely = {
                    "The network is told local time: it needs network_time(u, stage).": 0 * told + left / n,
                    "The network is told the time of a step's cleaner end.": at((left - 1) / n),
                    "Local time falls from 1 to 1 / n: yours rises.": at((n - left + 1) / n),
                    "Local time rises from 0 here: it falls from 1 to 1 / n.": at((n - left) / n),
                    "One step is wasted: u is not linspace(1, 0, n).": at((left - 1) / max(1, n - 1)),
                    "The network is told the middle of a step, not its noisier end.": at((left - 0.5) / n),
                }  # fmt: skip
                for m, other in enumerate(found):
                    if m != i:
                        likely[f"The network is told the time of stage {m} in stage {i}."] = at(
                            left / n, other
                        )
                explained(
                    told,
                    due,
                    "The network is told network_time(u, stage), u = 1, ..., 1 / n.",
                    likely,
                    where=where,
                )

        # what comes back
        assert isinstance(result, Tensor), "Without trajectory=True the last image is returned, not a list."
        assert result.shape == noise.shape, f"The result has the noise's shape, not {tuple(result.shape)}."
        likely = {"The result is clamped: nothing is clamped here.": clamped(ends[-1], result)}
        hint = "The result is z after the last step, z - velocity / n."
        likely["The last step is not taken."] = wanted[-1][0]
        explained(result, ends[-1], hint, likely, 1e-9)
        again = lambda z, t: z
        hint = "The network's answer is changed in place: it may be z itself, or be used again."
        kept = pyramid_sample(again, noise, found, steps, jumps)
        close(kept, walk(again, noise, found, steps, jumps)[-1], hint, 1e-9)
        told, short = [], (noise.float(), found, steps, [jump.float() for jump in jumps])
        close_in_float32(pyramid_sample(recorded(net, told), *short), ends[-1], "The result")
        assert all(z.dtype == torch.float32 for z, _ in told), (
            "The network gets z in the dtype of the noise: here float32, not float64."
        )
        for i, (z, end) in enumerate(zip(pyramid_sample(net, *short, trajectory=True), ends)):
            if z.shape == end.shape:  # else there is a sentence below
                assert z.dtype == torch.float32, (
                    f"Entry {i} of the trajectory has the noise's dtype, float32."
                )

        # drawn by hand from the same seed
        seeded = lambda: torch.Generator().manual_seed(seed + 10**6)  # nobody's own seed
        sample = lambda generator: pyramid_sample(net, noise, found, steps, generator=generator)
        by = lambda jumps: walk(net, noise, found, steps, jumps)[-1]
        mine, hand, other = seeded(), seeded(), seeded()
        drawn = sample(mine)
        if k > 1:
            assert torch.equal(drawn, sample(seeded())), "The noise of a jump comes from the generator."
        some = not torch.equal(mine.get_state(), other.get_state())
        likely = {
            "The noise of a jump is drawn, but it is 0, or alike in each block: draw it at the new size."
            if some
            else "The noise of a jump must be drawn unless given: here it is 0.": by(
                [0 * jump for jump in jumps]
            )
        }
        for sentence, draw in (
            ("is uniform: it must be Gaussian.", lambda s: torch.rand(s, generator=other, dtype=DOUBLE)),
            ("is drawn in float32: it has z's dtype.", lambda s: torch.randn(s, generator=other).double()),
            ("is one for all samples: each has its own.",
                lambda s: torch.randn(1, *s[1:], generator=other, dtype=DOUBLE).expand(s)),
        ):  # fmt: skip
            other.manual_seed(other.initial_seed())
            likely[f"The noise of a jump {sentence}"] = by([draw(shape) for shape in shapes])
        other.manual_seed(other.initial_seed())
        ahead = [torch.randn(shape, generator=other, dtype=DOUBLE) for shape in shapes[::-1]]
        likely["The noise of the last jump is drawn first: the coarsest comes first."] = by(ahead[::-1])
        right = by([torch.randn(shape, generator=hand, dtype=DOUBLE) for shape in shapes])
        hint = "Noise is drawn once for each jump, when it comes, with randn_like(up(z), generator)."
        explained(drawn, right, hint, likely, 1e-9)
        assert k == 1 or not torch.equal(mine.get_state(), seeded().get_state()), (
            "The caller's generator does not move on: draw from it, and not from a copy."
        )
        assert torch.equal(mine.get_state(), hand.get_state()), (
            "Noise is drawn once for each jump, and nothing else is drawn."
        )
        assert k == 1 or not torch.equal(sample(mine), drawn), (
            "Two calls with one generator must differ: it is seeded again."
        )
        hand.set_state(mine.get_state())
        other.manual_seed(other.initial_seed())
        right = walk(net, noise.float(), found, steps, [torch.randn(s, generator=other) for s in shapes])
        short = pyramid_sample(net, noise.float(), found, steps, generator=seeded())
        close(
            short,
            right[-1],
            "For float32 noise that of the jumps is drawn in float32, by randn_like, and not changed.",
            1e-3,
            1e-3,
        )
        pyramid_sample(net, noise, found, steps, jumps, mine)
        assert torch.equal(mine.get_state(), hand.get_state()), "With jumps given, nothing is drawn."
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 10**6)
            right = by([torch.randn(shape, dtype=DOUBLE) for shape in shapes])
            torch.manual_seed(seed + 10**6)
            hint = "Without a generator the noise comes from torch's own random numbers."
            close(sample(None), right, hint, 1e-9)

        # every entry of the trajectory, and its gradient: steps listed or an int, jumps drawn or given
        weight = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
        affine = lambda z, t: 0.3 * z + weight * column(t.clone(), z)  # its gradient needs no z, and no old t
        leaf, given = noise.clone().requires_grad_(), [jump.clone().requires_grad_() for jump in jumps]
        for counts, drawn in ((steps, False), (steps, True), (2, False), (2, True), ([2] * k, False)):
            mine, hand, inputs = seeded(), seeded(), {"the network's weights": weight, "the noise": leaf}
            if drawn:
                fresh = [torch.randn(shape, generator=hand, dtype=DOUBLE) for shape in shapes]
            else:
                fresh, inputs = given, inputs | {f"jumps[{i}]": jump for i, jump in enumerate(given)}
            where, starts = f" (steps = {counts}, jumps {'drawn' if drawn else 'given'})", []
            listed = [2] * k if counts == 2 else counts
            right = walk(recorded(affine, starts), leaf, found, listed, fresh)
            ask = lambda generator, **more: accepts(
                lambda: pyramid_sample(
                    affine, leaf, found, counts, None if drawn else given, generator=generator, **more
                ),
                f"steps = {counts}",
            )
            hint = (
                "An int is meant for every stage."
                if counts == 2
                else "The result is the end of the last stage."
            )
            made = ask(seeded())
            close(made, right[-1], hint + where, 1e-9)
            close_gradients(made, right[-1], inputs, "pyramid_sample" + where)
            path = ask(mine, trajectory=True)
            assert isinstance(path, list | tuple) and len(path) == k, (
                f"trajectory=True returns the list of z at the end of every stage: {k} here."
            )
            for i, (z, end) in enumerate(zip(path, right)):
                likely = {
                    "The trajectory holds where a stage starts: it must be where it ends.": starts[
                        sum(listed[:i])
                    ][0],
                    "The trajectory holds every stage's end clamped: nothing is clamped.": clamped(end, z),
                }
                hint = f"Entry {i} of the trajectory is z at the end of stage {i}, at its size."
                last = path[-1]
                if isinstance(last, Tensor) and last.shape == made.shape and not alike(last, made):
                    hint = "trajectory=True changes the result: are steps and generator the same?"
                explained(z, end, hint, likely, 1e-9, where)
            assert torch.equal(mine.get_state(), hand.get_state()), (
                f"With trajectory=True the same is drawn, from the same generator{where}."
            )
            both = (torch.cat([z.flatten() for z in ends]) for ends in (path, right))
            close_gradients(*both, inputs, "the trajectory" + where)

    found, noise = pyramid.stages(CUTS[1]), images(3, 2, 4, 8, seed=seed)
    jumps = [images(3, 2, 2, 4, seed=seed + 1), images(3, 2, 4, 8, seed=seed + 2)]
    for steps, what in (
        ([2, 2], "Two numbers of steps for three stages"),
        ([2, 2, 2, 2], "Four numbers of steps for three stages"),
        ([2], "One number of steps in a list, for three stages,"),
        ([2, 0, 2], "A stage without steps"),
        ([2, 2, 0], "A last stage without steps"),
        ([2, -1, 2], "A negative number of steps"),
        (0, "steps = 0"),
        (-1, "steps = -1"),
    ):
        refuses(lambda: pyramid_sample(net, noise, found, steps), f"{what} must be refused.")
        refuses(lambda: pyramid_sample(net, noise, found, steps, jumps), f"{what} must be refused.")
    for wrong, what in (
        (jumps[:1], "One noise"),
        ([], "An empty list of noises"),
        (jumps + jumps[1:], "Three noises"),
    ):
        refuses(lambda: pyramid_sample(net, noise, found, 2, wrong), f"{what} for two jumps must be refused.")
    refuses(
        lambda: pyramid_sample(net, noise, pyramid.stages([0, 1]), 2, jumps[1:]),
        "One noise for no jump must be refused: one stage has none.",
    )
    for h, w, side in ((4, 6, "A width"), (2, 8, "A height")):
        refuses(
            lambda: pyramid_sample(net, noise[..., :h, :w], found, 2),
            f"{side} that cannot be halved twice must be refused: {h}x{w} for three stages.",
        )


def check_stage_target(stage_target=pyramid.stage_target, seed: int = 0) -> None:
    """One student step lands where two teacher steps land, at the right times, without a gradient."""
    given = conditions(seed)
    for found, _, _, _, noise in cases(seed):
        for i, stage in enumerate(found):
            z = smaller(noise, len(found) - 1 - i, 2.0)
            for n in (1, 4):
                u = torch.arange(n, 0, -1, dtype=DOUBLE).repeat(4)[:4] / n
                u[-1] = 0.5 / n  # the last time from which two half steps can start
                time = lambda w: stage.t_end + (stage.t_start - stage.t_end) * w
                first = net(z, time(u), **given)
                middle = z - first / (2 * n)
                second = net(middle, time(u - 0.5 / n), **given)
                right = (first + second) / 2
                asked = []
                target = accepts(
                    lambda: stage_target(labelled(net, "teacher", asked), z, u, n, stage, **given),
                    f"z {tuple(z.shape)}, n = {n}, u {u.tolist()}",
                )
                finite(target)
                if len(asked) == 2:  # and not a sample at a time
                    likely = {
                        "The teacher is told local times: it needs network_time(u, stage).": u,
                        "The teacher takes its first step a step too late.": time(u - 0.5 / n),
                    }
                    close(asked[0][0], z, "The teacher is asked at z first.")
                    hint = "The teacher's first step starts at network_time(u, stage)."
                    explained(asked[0][1], time(u), hint, likely)
                    likely = {
                        "The teacher's second step starts from the middle, not from z again.": z,
                        "The teacher takes whole steps 1 / n: two of 0.5 / n make one of the student's.": z
                        - first / n,
                        "The teacher's steps are too short: 0.5 / n.": z - first / (4 * n),
                        "The sign of the teacher's step: z - velocity 0.5 / n.": z + first / (2 * n),
                        "A step is 0.5 / n in local time, not a difference of network times.": z
                        - (stage.t_start - stage.t_end) * first / (2 * n),
                    }
                    hint = "The teacher's second step starts at z - velocity 0.5 / n."
                    explained(asked[1][0], middle, hint, likely)
                    likely = {
                        "The teacher's second step starts half a step later, not at u again.": time(u),
                        "The teacher is asked where its second step ends, not where it starts.": time(
                            u - 1 / n
                        ),
                        "The teacher is told local times: it needs network_time(u, stage).": u - 0.5 / n,
                    }
                    hint = "The teacher's second step starts at network_time(u - 0.5 / n, stage)."
                    explained(asked[1][1], time(u - 0.5 / n), hint, likely)
                likely = {
                    "This is the teacher's first answer: the target is the mean of both.": first,
                    "This is the teacher's second answer: the target is the mean of both.": second,
                    "This is the sum of both answers: the target is their mean.": 2 * right,
                    "The sign: the velocity is start - end, as the teacher's.": -right,
                    "This is where the student must land, not the velocity of its step.": z - right / n,
                    "The target is clamped: nothing is clamped here.": clamped(right, target),
                }
                hint = f"z - target / n is where two teacher steps of 0.5 / n land (n = {n})."
                explained(target, right, hint, likely)
                short = stage_target(labelled(net, "teacher", []), z.float(), u, n, stage, **given)
                close_in_float32(short, right, "The target")
    weight, leaf = torch.ones((), dtype=DOUBLE, requires_grad=True), z.clone().requires_grad_()
    with torch.enable_grad():
        learned = stage_target(lambda z, t: weight * net(z, t), leaf, u, n, stage)
    assert not learned.requires_grad, "A target is a constant: no gradient may reach the teacher, nor z."
    for value, bad in one_bad(u, 0.499 / n, -0.001, 1.001):
        refuses(
            lambda: stage_target(net, z, bad, n, stage),
            f"A local time of {value:.4f} must be refused: from 0.5 / n, n = {n}, to 1.",
        )
    for bad, what in ((u[:1], "One local time"), (u[:3], "Three local times"), (u[:, None], "Times (4, 1)")):
        refuses(lambda: stage_target(net, z, bad, n, stage), f"{what} for four samples must be refused.")
    for bad in (0, -4, 2.5):
        refuses(lambda: stage_target(net, z, 0 * u + 0.5, bad, stage), f"n = {bad} must be refused.")
    for what, part in partial(asked):
        hint = f"A teacher that answers for one {what} only must be refused."
        refuses(lambda: stage_target(part, z, u, n, stage), hint)


def check_pyramid_distillation_loss(
    pyramid_distillation_loss=pyramid.pyramid_distillation_loss, seed: int = 0
) -> None:
    """Who is asked where in every stage, the distance to stage_target, gradients, and refusals."""
    given = conditions(seed)
    for n, (found, _, shares, x, noise) in zip((4, 1, 3, 2), cases(seed)):
        index = 1 + torch.randint(n, (4,), generator=torch.Generator().manual_seed(seed))
        index[-1] = 1  # two half steps from here end at local time 0
        u = index.double() / n
        mine, taught = (torch.tensor(w, dtype=DOUBLE, requires_grad=True) for w in (1.3, 0.9))
        student = lambda z, t, **given: mine.to(z.dtype) * net(0.5 * z, t, **given)
        teacher = lambda z, t, **given: taught.to(z.dtype) * net(z, t, **given)
        leaves = {"the student's weights": mine, "x": x.requires_grad_(), "noise": noise.requires_grad_()}
        asked, told = [], []
        loss = accepts(
            lambda: pyramid_distillation_loss(
                labelled(student, "student", asked),
                labelled(teacher, "teacher", told), x, noise, index, found, n, shares, **given,
            ),
            f"x {tuple(x.shape)}, n = {n}, index {index.tolist()}, shares {shares},",
        )  # fmt: skip
        assert len(asked) != 2 * len(told), (
            "Student and teacher are exchanged: the teacher takes two steps, and the student is asked once."
        )
        asked_where(asked, found, shares, x, noise, u)
        assert isinstance(loss, Tensor) and loss.shape == (4,), "A loss returns one number per sample, (b,)."
        finite(loss)

        def total(target: Callable) -> Tensor:
            losses = []
            for i, part in enumerate(parts(shares, found)):
                z, t, slope = point(x[part], noise[part], u[part], i, found)
                more = {name: value[part] for name, value in given.items()}
                wanted = target(z, t, slope, u[part], found[i], **more)
                losses.append((student(z, t, **more) - wanted).square().flatten(1).mean(1))
            return torch.cat(losses)

        of = lambda n: (
            lambda z, t, slope, u, stage, **more: pyramid.stage_target(teacher, z, u, n, stage, **more)
        )
        right = total(of(n))
        likely = {
            "The target is the data's velocity: it must be what two teacher steps do.": total(
                lambda z, t, slope, *_, **more: slope
            ),
            "The target is the teacher's one answer: it must be the mean over two steps.": total(
                lambda z, t, slope, u, stage, **more: teacher(z, t, **more)
            ),
            "The teacher's steps are half as long as they ought to be: 0.5 / n.": total(of(2 * n)),
            "This is half the squared distance.": right / 2,
            "Take the square, not its root.": right.sqrt(),
            "Take the mean for each sample, not over the batch.": right.mean().expand(4),
            "The loss is clamped.": right.clamp(max=loss.max()),
        }  # fmt: skip
        hint = (
            "The loss is the mean squared distance to stage_target at local time index / n, for each sample."
        )
        explained(loss, right, hint, likely, 1e-9)
        if loss.requires_grad:
            (leak,) = torch.autograd.grad(loss.sum(), [taught], retain_graph=True, allow_unused=True)
            assert leak is None or leak == 0, "No gradient may reach the teacher: its target is a constant."
        close_gradients(loss, right, leaves, "pyramid_distillation_loss")
        short = pyramid_distillation_loss(
            labelled(student, "student", []), labelled(teacher, "teacher", []),
            x.detach().float(), noise.detach().float(), index, found, n, shares, **given,
        )  # fmt: skip
        close_in_float32(short, right.detach(), "The loss")

    found, x, noise = pyramid.stages(CUTS[1]), *images(2, 8, 2, 4, 8, seed=seed)
    index = 1 + torch.arange(8) % 4
    ask = lambda student=net, teacher=net, x=x, noise=noise, index=index, n=4, shares=(1, 2, 1), **given: (
        pyramid_distillation_loss(student, teacher, x, noise, index, found, n, shares, **given)
    )
    for bad in (0, -1, 5):
        wrong = torch.cat([index[:-1], torch.tensor([bad])])
        refuses(lambda: ask(index=wrong), f"One index of {bad} must be refused: from 1 to n = 4.")
    for wrong, what in (
        (index[:1], "One index"),
        (index[:7], "Seven indices"),
        (index[:, None], "Indices (8, 1)"),
        (index.double() - 0.5, "Fractions"),
    ):
        refuses(lambda: ask(index=wrong), f"{what} for eight samples must be refused.")
    for n in (0, -4, 2.5):
        refuses(lambda: ask(n=n, index=torch.ones_like(index)), f"n = {n} must be refused.")
    refuses_batches(ask, x)
    for who, calls in (("student", asked), ("teacher", told)):
        for what, part in partial(calls):
            hint = f"A {who} that answers for one {what} only must be refused."
            refuses(lambda: ask(**{who: part}), hint)
