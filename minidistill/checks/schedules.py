"""Checks of schedules: ends, identities with closed forms, derivatives, tables and grids."""

import functools
import itertools
import math

import torch
from torch import Tensor

from minidistill import schedules
from minidistill.checks import (
    Likely,
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    refuses,
)

HALF = torch.pi / 2
NEAR = exact(0, 1e-5, 1e-4, 1e-3, 1 - 1e-3, 1 - 1e-4, 1 - 1e-5, 1)  # where thresholds and clamps show


def times(seed: int, n: int = 7) -> Tensor:
    """n random times strictly inside (0, 1), float64."""
    return 0.02 + 0.96 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keeps_float32(found: Tensor, expected: Tensor, what: str) -> None:
    """AssertionError unless `found`, made from float32, is float32 and agrees with the float64 result."""
    assert found.dtype == torch.float32, f"{what} has the dtype that is given: float32, not {found.dtype}."
    hint = f"{what} is right in float64, and loses its digits in float32."
    close(found.double(), expected, hint, 1e-5, 1e-5)


def has_its_dtype(make, what: str) -> None:
    """AssertionError unless make(dtype=...) has that dtype, and without one torch's default."""
    double, single, before = torch.float64, torch.float32, torch.get_default_dtype()
    for default in (single, double):
        torch.set_default_dtype(default)
        try:
            given = ({"dtype": double}, {"dtype": single}, {"dtype": None}, {})
            dtypes = [make(**dtype).dtype for dtype in given]
        finally:
            torch.set_default_dtype(before)
        assert dtypes == [double, single, default, default], (
            f"{what} the dtype that is given, and torch's default without one, here {default}: not {dtypes}."
        )


def along(t: Tensor, found: Tensor, expected: Tensor, hint: str, likely: Likely = ()) -> None:
    """explained, at the times inside, and then, with a sentence of its own, close to the ends as well."""
    inside = (t > 0.01) & (t < 0.99)
    pairs = likely.items() if isinstance(likely, dict) else likely
    explained(found[inside], expected[inside], hint, [(words, other[inside]) for words, other in pairs])
    close(found, expected, f"{hint} Also close to the ends, as at t = 1e-5 or 1 - 1e-5: nothing is cut off.")


# schedules


def pair(schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, looked at."""
    found, what = schedule(t), "A schedule returns (alpha, sigma)"
    assert found is not None, f"{what}, and here it returns nothing. Is `return` missing?"
    assert isinstance(found, tuple | list | Tensor) and len(found) == 2, f"{what}, two of them."
    for c in found:
        assert isinstance(c, Tensor) and c.shape == t.shape, (
            f"{what}, each of t's shape, one for each time: here {tuple(t.shape)}."
        )
    return tuple(found)


def check_schedule(schedule, t: Tensor, variance_preserving: bool, reaches_noise: bool = True) -> None:
    """What every schedule on [0, 1] must be: exact at both ends in float32, more noise at later times."""
    ends = torch.tensor([0.0, 1.0])  # float32
    alpha, sigma = pair(schedule, ends)
    for c in (alpha, sigma):
        assert c.dtype == ends.dtype, f"alpha and sigma have t's dtype: here float32, not {c.dtype}."
    at_the_ends = f"alpha is {alpha.tolist()} and sigma {sigma.tolist()} at the two ends: "
    assert alpha.isfinite().all() and sigma.isfinite().all(), (
        f"{at_the_ends}no inf or nan there. Is there a logarithm, a tangent, a division by 0?"
    )
    low = min(alpha.min(), sigma.min())
    assert low > -1e-3, f"{at_the_ends}neither may be negative. How far does the angle run?"
    hint = "t = 0 is data: alpha(0) = 1. Are alpha and sigma swapped, or does time run backwards?"
    assert alpha[0] > 0.1 or sigma[0] < 0.9, hint
    assert alpha[0] > 0.1, f"t = 0 is data: alpha(0) = 1, not {alpha[0]:.3g}. How far does the angle run?"
    why = "Does it run from end to end, once, and is nothing clamped or added?"
    noisy = [(alpha[1], "t = 1 is pure noise: alpha(1)")] if reaches_noise else []
    for c, what in ((sigma[0], "t = 0 is data: sigma(0)"), *noisy):
        assert c >= 0, (
            f"{at_the_ends}neither may be negative, "
            "not even by float32 rounding, as cos(pi/2) is. Which function is exactly 0 at 0?"
        )
        close(c, torch.tensor(0.0), f"{what} must be exactly 0, not {c:.3g}. {why}", atol=0.0)
    close(alpha[0], torch.tensor(1.0), f"t = 0 is data: alpha(0) = 1, not {alpha[0]:.6g}.", atol=1e-6)
    if reaches_noise:
        hint = f"t = 1 is pure noise: sigma(1) = 1, not {sigma[1]:.6g}."
        close(sigma[1], torch.tensor(1.0), hint, atol=1e-6)

    t = t.sort().values
    both, alone = pair(schedule, t), [pair(schedule, one) for one in t.split(1)]
    hint = "A time that is asked alone gets another answer than among others. Each is by itself."
    for c, each in zip(both, zip(*alone)):
        close(torch.cat(each), c, hint)
    alpha, sigma = both
    steps = torch.atan2(sigma, alpha).diff()
    hint = "The signal-to-noise ratio must fall at every time"
    assert (steps != 0).all(), f"{hint}, and stands still: is something clamped or cut off close to an end?"
    assert (steps > 0).all(), f"{hint}."
    if variance_preserving:
        hint = "alpha^2 + sigma^2 must be 1 at every time."
        if torch.allclose(alpha.double() + sigma, torch.ones_like(t)):
            hint += " Here alpha + sigma is: are they the squares, or a straight line?"
        explained(alpha**2 + sigma**2, torch.ones_like(t), hint)


def check_inside(schedule, t: Tensor) -> None:
    """Strictly inside: with derivatives, in t's dtype."""
    h, follows, single = 1e-5, t.clone().requires_grad_(), schedule(t.float())
    found, before, after = schedule(follows), schedule(t - h), schedule(t + h)
    for k, name in enumerate(("alpha", "sigma")):
        slope = None
        if found[k].requires_grad:
            slope = torch.autograd.grad(found[k].sum(), follows, retain_graph=True, allow_unused=True)[0]
        # what does not depend on t, such as EDM's alpha, has no gradient: that is 0
        slope = torch.zeros_like(t) if slope is None else slope
        hint = f"backward() does not find d {name} / dt. Is t, or a part of the formula, detached?"
        close(slope, (after[k] - before[k]) / (2 * h), hint, 1e-5, 1e-5)
        assert found[k].dtype == t.dtype, f"{name} has t's dtype: here {t.dtype}, not {found[k].dtype}."
        keeps_float32(single[k], schedule(t.float().double())[k], name)


def check_cosine(cosine=schedules.cosine, seed: int = 0) -> None:
    """The quarter circle at constant speed."""
    t = torch.cat([times(seed), NEAR])
    check_schedule(cosine, t, variance_preserving=True)
    alpha, sigma = cosine(t)
    speed = "The angle of (alpha, sigma) must grow at constant speed, pi / 2 t"
    offset = torch.cos(HALF * (t + 0.008) / 1.008) / math.cos(HALF * 0.008 / 1.008)
    likely = {
        f"{speed}: here alpha falls evenly.": torch.acos(1 - t),
        f"{speed}: here sigma grows evenly.": torch.asin(t),
        f"{speed}: here alpha^2 falls evenly.": torch.acos((1 - t).sqrt()),
        f"{speed}: this is a straight line, scaled to length 1.": torch.atan2(t, 1 - t),
        f"{speed}: here it is pi / 2 t^2.": HALF * t**2,
        f"{speed}: here it slows down at both ends.": HALF * torch.sin(HALF * t) ** 2,
        f"{speed}, without the offset 0.008 of DDPM's tables.": torch.acos(offset),
    }
    along(t, torch.atan2(sigma, alpha), HALF * t, f"{speed}.", likely)
    check_inside(cosine, t[:7])


def check_linear_beta(linear_beta=schedules.linear_beta, seed: int = 0) -> None:
    """alpha^2 against the integral of beta, and the digits of small noise."""
    t = torch.cat([times(seed), NEAR])
    check_schedule(linear_beta, t, variance_preserving=True, reaches_noise=False)
    integral = 0.1 * t + 19.9 * t**2 / 2
    what = "alpha^2 is exp(-integral of beta), beta = 0.1 + 19.9 t"
    likely = {
        "alpha^2, not alpha, is exp(-integral of beta).": torch.exp(-2 * integral),
        f"{what}: here alpha^4 is.": torch.exp(-integral / 2),
        f"{what}: the half is missing in 19.9 t^2 / 2.": torch.exp(-0.1 * t - 19.9 * t**2),
        f"{what}: the square is missing in 19.9 t^2 / 2.": torch.exp(-0.1 * t - 19.9 * t / 2),
        f"{what}: the slope is 20 - 0.1, not 20.": torch.exp(-0.1 * t - 10 * t**2),
        f"{what}: beta starts at 0.1, not at 0.": torch.exp(-19.9 * t**2 / 2),
    }
    along(t, linear_beta(t)[0] ** 2, torch.exp(-integral), f"{what}.", likely)
    early = torch.tensor([1e-5, 1e-4, 1e-3])
    noise = torch.sqrt(-torch.expm1(-(0.1 * early.double() + 19.9 * early.double() ** 2 / 2)))
    hint = "In float32, 1 - alpha^2 loses the digits of small noise: use expm1, and clamp nothing."
    close(linear_beta(early)[1].double(), noise, hint, 0.0, 1e-4)
    check_inside(linear_beta, t[:7])


def check_sigmoid(sigmoid=schedules.sigmoid, seed: int = 0) -> None:
    """alpha^2 against the logistic function."""
    t = torch.cat([times(seed), NEAR])
    check_schedule(sigmoid, t, variance_preserving=True)

    def rescaled(start: float, end: float) -> Tensor:
        first, last, now = (torch.sigmoid(-u) for u in (exact(start), exact(end), start + (end - start) * t))
        return (now - last) / (first - last)

    what = "alpha^2 is the logistic function from -3 to 3, rescaled to go from 1 to 0"
    likely = {
        f"{what}: here alpha is.": rescaled(-3, 3) ** 2,
        f"{what}: here alpha^4 is.": rescaled(-3, 3) ** 0.5,
        f"{what}: here it runs from 0 to 3.": rescaled(0, 3),
        f"{what}: here it runs from -6 to 6.": rescaled(-6, 6),
        f"{what}: here it runs from -1 to 1.": rescaled(-1, 1),
        f"{what}: here it is no logistic function, but falls evenly.": 1 - t,
    }
    along(t, sigmoid(t)[0] ** 2, rescaled(-3, 3), f"{what}. It is not about betas.", likely)
    check_inside(sigmoid, t[:7])


def check_rectified_flow(rectified_flow=schedules.rectified_flow, seed: int = 0) -> None:
    """A straight line in (alpha, sigma)."""
    t = torch.cat([times(seed), NEAR])
    check_schedule(rectified_flow, t, variance_preserving=False)
    alpha, sigma = rectified_flow(t)
    explained(alpha + sigma, torch.ones_like(t), "alpha + sigma must be 1: a straight line, not a circle.")
    along(t, sigma, t, "sigma is t itself: the line is walked at constant speed.")
    check_inside(rectified_flow, t[:7])


def check_edm(edm=schedules.edm, seed: int = 0) -> None:
    """The signal is left alone."""
    t = torch.cat([80 * times(seed), exact(0, 1e-6, 1e-4, 0.5, 200, 1e5)])
    alpha, sigma = pair(edm, t)
    hint = "EDM never scales the signal: alpha is 1, one for each time."
    explained(alpha, torch.ones_like(t), hint)
    likely = {
        "EDM's time is sigma itself, also below 0.002 and above 80: here it is clamped.": t.clamp(0.002, 80),
        "EDM's time is sigma itself, also below 0.002: here it is clamped.": t.clamp(min=0.002),
        "EDM's time is sigma itself, also above 80: here it is clamped.": t.clamp(max=80),
        "EDM's time is sigma itself: here what is below 1e-5 is 0.": t * (t > 1e-5),
        "EDM's time is sigma itself: here what is below 1e-3 is 0.": t * (t > 1e-3),
        "EDM's time is sigma itself, not its logarithm.": t.exp(),
        "EDM's time is sigma itself, not sigma^2.": t.sqrt(),
        "EDM's time is sigma itself: here it is squared.": t**2,
        "EDM's time is sigma itself, not its share of 80.": 80 * t,
    }
    explained(sigma, t, "EDM's time is sigma itself.", likely)
    check_inside(edm, t[:7])


def check_shifted(shifted=schedules.shifted, seed: int = 0) -> None:
    """The time that the schedule is asked at, what is done with its answer, and the ends."""
    t, asked = torch.cat([times(seed), NEAR]).sort().values, []

    def itself(u):
        asked.append(u.detach().clone())
        return u, u

    def fraction(u: Tensor, shift: float | Tensor) -> Tensor:
        return shift * u / (1 + (shift - 1) * u)

    shifts = (0.03, 0.3, 1, 1.1, 3, 17.0, 0.001, 1000)
    what = "The schedule is asked at shift t / (1 + (shift - 1) t)"
    # all are made before the first is asked: each keeps its own shift
    made = [accepts(lambda: shifted(itself, shift), f"shift = {shift}") for shift in shifts]
    for shift, schedule in zip(shifts, made):
        assert callable(schedule), (
            "shifted returns a new schedule, a function of t that returns (alpha, sigma), "
            f"and no {type(schedule).__name__}."
        )
        asked.clear()
        given = t.clone()
        schedule(given)
        assert torch.equal(given, t), (
            "The times that are given must stay as they are: no t *= 2, but t = t * 2."
        )
        assert asked, f"{what}: here it is not asked at all."
        likely = {
            f"{what}: here it is asked at t.": t,
            f"{what}: this is the shift by 1 / shift, its inverse.": fraction(t, 1 / shift),
            f"{what}: here the shift counts twice. Shifts multiply.": fraction(t, shift**2),
            f"{what}: it is shift - 1 in the denominator, not shift.": shift * t / (1 + shift * t),
            f"{what}: here the denominator is missing.": shift * t,
            f"{what}: here the denominator is missing, and the time is clamped.": (shift * t).clamp(max=1),
            f"{what}: here it is the root of the shift.": fraction(t, shift**0.5),
            f"{what}: here it is the exponential of the shift.": fraction(t, exact(shift).exp()),
            f"{what}: here it is a power of t.": t**shift,
            **{
                f"{what}: here the shift is {s}, not {shift}.": fraction(t, s)
                for s in (*shifts, 0.01, 20, 100)
            },
        }
        # a loop asks one by one, and who takes alpha first and then sigma asks twice
        seen = torch.cat([u.reshape(-1) for u in asked]).sort().values
        seen = seen[:: max(len(seen) // len(t), 1)]
        assert seen.shape == t.shape, f"{what}, at all the times, {len(t)} here, and not at {len(seen)}."
        along(t, seen, fraction(t, shift), f"{what}.", likely)
        asked.clear()
        schedule(t.float())
        assert {u.dtype for u in asked} == {torch.float32}, "The schedule is asked in the dtype of t."

    one = torch.ones(1)  # float32
    for shift in torch.logspace(-3, 3, 60).tolist():
        asked.clear()
        shifted(itself, shift)(one)
        hint = (
            f"At t = 1 the shifted time must be exactly 1 in float32, and at shift = {shift:.3g} it is not:"
        )
        close(asked[-1], one, f"{hint} divide by t + (1 - t) / shift.", 0.0, 0.0)

    bases = schedules.cosine, schedules.edm
    made = {(base, shift): shifted(base, shift) for base, shift in itertools.product(bases, shifts)}
    for (base, shift), schedule in made.items():
        expected, *others = (torch.stack(f(fraction(t, shift))) for f in (base, *bases))
        hint = (
            "It is the time that changes, before the schedule sees it. alpha and sigma stay as it says them."
        )
        last = "Each shifted schedule keeps its own: here the one that was shifted last is asked for all."
        explained(torch.stack(pair(schedule, t)), expected, hint, [(last, others[-1])])
    inside = times(seed)
    for shift in shifts:
        check_schedule(shifted(schedules.rectified_flow, shift), inside, variance_preserving=False)
        check_inside(shifted(schedules.cosine, shift), inside)

    for bad in (0.0, -1.0, math.nan):
        hint = f"A shift of {bad:g} must be refused: only shift > 0 is valid, and nan is not above 0."
        refuses(lambda: shifted(itself, bad)(t), hint)


def check_tabulated(tabulated=schedules.tabulated, seed: int = 0) -> None:
    """The table's own entries, what lies between them, and the slope."""
    n = 50
    beta = torch.linspace(1e-3, 0.2, n, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    one_rise, zero = alpha_bar.clone(), alpha_bar.clone()
    one_rise[20], zero[-1] = alpha_bar[19] + 1e-4, 0
    for bad, what in (
        (beta, "A table that rises holds betas, not alpha_bar: it"),
        (one_rise, "A table that rises once, in the middle,"),
        (torch.cat([alpha_bar, exact(-0.1)]), "A table that ends below 0"),
        (torch.cat([exact(1.1), alpha_bar]), "A table that begins above 1"),
        *((bad, f"A table with {value}") for value, bad in one_bad(alpha_bar)),
        (alpha_bar[None], "A table with two axes"),
        (alpha_bar[:0], "A table without entries"),
    ):
        refuses(lambda: tabulated(bad), f"{what} must be refused.")

    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    padded = torch.cat([exact(1), alpha_bar, alpha_bar[-1:]])
    entry = "At t = (i + 1) / n, alpha = sqrt(alpha_bar[i])"
    likely = {
        f"{entry}: these are alpha_bar, not its roots.": alpha_bar,
        f"{entry}: these are roots of roots.": alpha_bar**0.25,
        f"{entry}: here it is the entry before.": padded[:-2].sqrt(),
        f"{entry}: here it is the entry after.": padded[2:].sqrt(),
        f"{entry}: here the table is read backwards.": padded[1:-1].flip(0).sqrt(),
        f"{entry}: here the table is read backwards, at 1 - t.": padded[:-2].flip(0).sqrt(),
    }
    explained(tabulated(alpha_bar)(t)[0], alpha_bar.sqrt(), f"{entry}.", likely)
    explained(
        tabulated(alpha_bar)(t)[1], (1 - alpha_bar).sqrt(), "sigma = sqrt(1 - alpha_bar[i]), also there."
    )
    for valid, what in (
        (exact(0.9, 0.5, 0.5, 0.1), "A table with equal neighbours"),
        (exact(1, 0.7, 0.2), "A table that begins with 1"),
    ):
        corners = exact(*range(1, len(valid) + 1)) / len(valid)
        found = accepts(lambda: tabulated(valid)(corners), what)[0]
        close(found, valid.sqrt(), f"{what} is valid. {entry}.")

    g = torch.Generator().manual_seed(seed)
    for table in (alpha_bar, zero, alpha_bar[9:10]):
        # not too near the entries, where the slope jumps; the last interval is among them
        left = torch.cat([torch.randint(len(table), (6,), generator=g), torch.tensor([len(table) - 1])])
        share = 0.1 + 0.8 * torch.rand(7, generator=g, dtype=torch.float64)
        t = (left + share) / len(table)
        between = torch.cat([exact(1), table])
        before, after = between[left], between[left + 1]
        chord = torch.stack(
            [torch.lerp(a.sqrt(), b.sqrt(), share) for a, b in ((before, after), (1 - before, 1 - after))]
        )
        angle = torch.lerp(torch.acos(before.sqrt()), torch.acos(after.sqrt()), share)
        what = (
            f"n = {len(table)}: between two entries, (alpha, sigma) is on the chord, pushed out to the circle"
        )
        likely = {
            f"{what}: here it is the entry before.": before.sqrt(),
            f"{what}: here it is the entry after.": after.sqrt(),
            f"{what}: here it is the nearest entry.": torch.where(share < 0.5, before, after).sqrt(),
            f"{what}: here alpha_bar is interpolated.": torch.lerp(before, after, share).sqrt(),
            f"{what}: here alpha is not pushed out.": chord[0],
            f"{what}: here the angle is interpolated.": angle.cos(),
        }
        alpha, sigma = chord / torch.hypot(*chord)
        explained(tabulated(table)(t)[0], alpha, f"{what}.", likely)
        explained(tabulated(table)(t)[1], sigma, f"{what}, and sigma with it.")
        check_schedule(tabulated(table), times(seed), True, reaches_noise=table[-1] == 0)
        check_inside(tabulated(table), t)
    hint = "alpha and sigma have t's dtype, not the table's."
    assert tabulated(alpha_bar.float())(t)[0].dtype == torch.float64, hint


# what is made of a schedule


def bent(t: Tensor) -> tuple[Tensor, Tensor]:
    """A schedule that no code can know."""
    return 1 - t**3, 2 * t**2 - t**4


def check_rates(rates=schedules.rates, seed: int = 0) -> None:
    """Against derivatives by hand."""
    t = times(seed)
    zeros, ones, asked = torch.zeros_like(t), torch.ones_like(t), t.clone()
    for schedule, d_alpha, d_sigma in (
        (bent, -3 * t**2, 4 * t - 4 * t**3),
        (schedules.cosine, -HALF * torch.sin(HALF * t), HALF * torch.cos(HALF * t)),
        (schedules.edm, zeros, ones),
        (schedules.rectified_flow, -ones, ones),
    ):
        found, (alpha, sigma) = rates(schedule, asked), schedule(t)
        assert isinstance(found, tuple | list) and len(found) == 2, (
            "The rates are two: (d alpha / dt, d sigma / dt)."
        )
        assert all(isinstance(rate, Tensor) and rate.shape == t.shape for rate in found), (
            "Each rate has t's shape, one for each time."
        )
        what = f"The rates of {schedule.__name__} are d alpha / dt and d sigma / dt"
        likely = {
            f"{what}: here the sign is wrong.": (-d_alpha, -d_sigma),
            f"{what}: here they are swapped.": (d_sigma, d_alpha),
            f"{what}: here alpha^2 and sigma^2 are differentiated.": (
                2 * alpha * d_alpha,
                2 * sigma * d_sigma,
            ),
            f"{what}: here their logarithms are differentiated.": (d_alpha / alpha, d_sigma / sigma),
            f"{what}: these are alpha and sigma.": (alpha, sigma),
            f"{what}: here they are 0. Is t detached?": (zeros, zeros),
            f"{what}: these are those of rectified_flow.": (-ones, ones),
            f"{what}: here both are added up.": (d_alpha + d_sigma, d_alpha + d_sigma),
            f"{what}: sigma^2 is not 1 - alpha^2 on every schedule.": (d_alpha, -alpha * d_alpha / sigma),
            f"{what}: here they are multiplied by t. Is t the tangent, and not 1?": (
                t * d_alpha,
                t * d_sigma,
            ),
        }
        expected = torch.stack([d_alpha, d_sigma])
        likely = {sentence: torch.stack(pair) for sentence, pair in likely.items()}
        exactly = ", exactly: no finite differences." if alike(torch.stack([*found]), expected, 1e-2) else "."
        explained(torch.stack([*found]), expected, what + exactly, likely)
        hint = "The rates are exact. Finite differences lose digits: let torch differentiate."
        close(torch.stack([*found]), expected, hint, 1e-13, 1e-13)
        for rate, wanted in zip(rates(schedule, t.float()), expected):
            keeps_float32(rate, wanted, "A rate")
    assert not asked.requires_grad and asked.grad is None, "t must stay as it is, without requires_grad."
    ends = rates(lambda t: ((1 - t).sqrt(), t.sqrt()), torch.tensor([0.0, 1.0]))
    assert ends[0][1] == -math.inf and ends[1][0] == math.inf, (
        "Where a schedule is too steep, as sqrt(t) is at 0, its rate is infinite: not cut off, not nan."
    )


def check_log_snr(log_snr=schedules.log_snr, seed: int = 0) -> None:
    """The definition, both ends, and small noise."""
    t = times(seed)
    for schedule in (schedules.rectified_flow, schedules.cosine, schedules.edm, bent):
        alpha, sigma = schedule(t)
        expected = 2 * (alpha / sigma).log()
        what = "log SNR = log(alpha^2 / sigma^2)"
        likely = {
            f"{what}: the factor 2 is missing.": expected / 2,
            f"{what}: twice the factor 2?": 2 * expected,
            f"{what}: the sign is wrong. It is large for data.": -expected,
            f"{what}: the sign is wrong, and the factor 2 is missing.": -expected / 2,
            f"{what}: the logarithm is missing.": (alpha / sigma) ** 2,
            f"{what}: here it is that of rectified_flow on any schedule.": 2 * ((1 - t) / t).log(),
            f"{what}: sigma^2 is not 1 - alpha^2 on every schedule.": (alpha**2 / (1 - alpha**2)).log(),
            f"{what}: here the logarithm has the base 10.": expected / math.log(10),
            f"{what}: here the logarithm has the base 2.": expected / math.log(2),
        }
        explained(log_snr(schedule, t), expected, f"{what}.", likely)
        keeps_float32(log_snr(schedule, t.float()), expected, "log SNR")
    ends = log_snr(schedules.cosine, torch.tensor([0.0, 1.0])).tolist()
    assert ends == [math.inf, -math.inf], (
        f"log SNR is +inf at data and -inf at noise, never nan, never cut off: yours is {ends}."
    )
    tiny = log_snr(schedules.edm, torch.tensor([1e-30]))
    hint = "Between the ends log SNR is finite: sigma^2 is 0 in float32 below 1e-23, so form no squares."
    close(tiny, torch.tensor([60 * math.log(10)]), hint, 1e-3)
    follows = t.clone().requires_grad_()
    found = log_snr(schedules.rectified_flow, follows)
    slope = torch.autograd.grad(found.sum(), follows)[0] if found.requires_grad else torch.zeros_like(t)
    close(slope, -2 / (t * (1 - t)), "backward() must find d log SNR / dt: nothing is detached.")


def check_time_of(time_of=schedules.time_of, seed: int = 0) -> None:
    """Closed forms, tables by their chords, more noise than there is, no noise, and dtypes."""
    t = times(seed)
    table = (1 - torch.linspace(1e-3, 0.2, 50, dtype=torch.float64)).cumprod(0)
    bent = schedules.tabulated(table)
    for schedule, at, inverse in (
        (schedules.edm, 0.9 * t, lambda level: level),
        (schedules.rectified_flow, t, lambda level: level / (1 + level)),
        (schedules.cosine, t, lambda level: torch.atan(level) / HALF),
        (schedules.linear_beta, t, None),
        (schedules.sigmoid, t, None),
        (schedules.shifted(schedules.rectified_flow, 3.0), t, lambda level: level / (3 + level)),
        (bent, t, None),
        (bent, exact(*range(1, 51)) / 50, None),
    ):
        alpha, sigma = schedule(at)
        right, level = at if inverse is None else inverse(sigma / alpha), sigma / alpha
        for size in (1.0, 3.0, 0.2):  # the ratio alone matters
            a, s = size * alpha, size * sigma
            before = a.clone(), s.clone()
            found = accepts(lambda: time_of(schedule, a, s), f"Every ratio of {schedule.__name__}")
            assert torch.equal(a, before[0]) and torch.equal(s, before[1]), "alpha and sigma must stay."
            what = "It is the time at which the schedule has this sigma / alpha"
            likely = {
                f"{what}: here it is alpha / sigma, time runs backwards.": 1 - right,
                f"{what}: here it is the ratio itself.": level.clamp(max=1),
                f"{what}, whatever their size is: here it looks at sigma alone.": s,
                f"{what} on this schedule: here it is that of a straight line.": level / (1 + level),
                f"{what} on this schedule: here it is that of the cosine.": torch.atan(level) / HALF,
                f"{what}: here it is the next entry of the table.": (50 * right - 1e-9).ceil() / 50,
                f"{what}: here it is the entry of the table before.": (50 * right + 1e-9).floor() / 50,
                f"{what}: here it is the nearest entry of the table.": (50 * right).round() / 50,
                f"{what}: here it is the time of another ratio.": right.flip(0),
                "Of two halves the wrong one is kept: it always ends at time 0.": 0 * right,
                "Of two halves the wrong one is kept: it always ends at the end.": 0 * right + 1,
            }
            # some cut what lies beyond the end
            likely = [(sentence, c) for sentence, t in likely.items() for c in (t, t.clamp(0, 1))]
            explained(found, right, f"{what}.", likely, 1e-9)
            assert not found.requires_grad, "The time is a constant."
    ones = torch.ones(3, dtype=torch.float64)
    for schedule, end, levels, wanted in (
        (schedules.edm, 80, exact(79.0, 80.0, 200.0), exact(79, 80, 80)),
        (schedules.edm, 0.5, exact(0.4, 0.5, 3.0), exact(0.4, 0.5, 0.5)),
        (schedules.edm, 500.0, exact(80.0, 499.0, 1e6), exact(80, 499, 500)),
        (schedules.edm, None, exact(0.5, 2.0, 80.0), exact(0.5, 1, 1)),
        (schedules.rectified_flow, None, exact(3.0, 1e12, 1.0), exact(0.75, 1, 0.5)),
        (schedules.rectified_flow, 0.5, exact(3.0, 1e12, 0.25), exact(0.5, 0.5, 0.2)),
        (schedules.linear_beta, None, exact(160.0, 1e6, 200.0), exact(1, 1, 1)),
        (bent, None, exact(300.0, 1e6, 1e3), exact(1, 1, 1)),
    ):
        more = {} if end is None else {"end": end}
        found = accepts(lambda: time_of(schedule, ones, levels, **more), f"More noise than at end = {end}")
        likely = {
            "end is 1 unless it is given, and here it is 80.": levels.clamp(max=80.0),
            "end is ignored.": time_of(schedule, ones, levels) if end != 1 else found,
        }
        hint = f"end = {end}: more noise than there is at the end counts as the end, exactly."
        explained(found, wanted, hint, likely, 1e-9)
    for schedule in (schedules.cosine, schedules.rectified_flow, schedules.edm, bent):
        found = time_of(schedule, ones, 0 * ones)
        close(found, 0 * ones, "Without noise it is time 0.", 1e-12)
        assert (found >= 0).all(), "Without noise it is time 0, never below."
    for schedule in (schedules.cosine, schedules.rectified_flow):
        found = time_of(schedule, 0 * ones, ones)
        close(found, ones, "Without signal it is the end: alpha = 0 is no division by 0.", 0.0, 0.0)
    follows = ones.clone().requires_grad_()
    found = time_of(schedules.cosine, follows, ones)
    assert not found.requires_grad, "The time is a constant, also where alpha has a gradient."
    alpha, sigma = schedules.cosine(t)
    keeps_float32(time_of(schedules.cosine, alpha.float(), sigma.float()), t, "The time")
    for bad in (0, 0.0, -1.0, math.nan, math.inf):
        refuses(lambda: time_of(schedules.cosine, ones, ones, bad), f"end = {bad} must be refused: above 0.")
    hint = "end = 2 must be refused, where the schedule ends at 1, whatever alpha and sigma are."
    for level in (ones, 0 * ones, 1e6 * ones):
        refuses(lambda: time_of(schedules.cosine, ones, level, 2.0), hint)


def check_mix(mix=schedules.mix, seed: int = 0) -> None:
    """Sample by sample, in shapes that hide no broadcast."""
    g, t = torch.Generator().manual_seed(seed), torch.cat([times(seed, 2), exact(0, 1)])
    for dims, schedule in itertools.product(
        # in the first, all axes are 4: a time along the wrong one would not be noticed by torch
        ((4, 4, 4), (2, 3, 5), (2,), (3, 1, 2, 5)),
        (schedules.cosine, schedules.edm, bent),
    ):
        x, eps = torch.randn(2, 4, *dims, generator=g, dtype=torch.float64)
        x.view(-1)[0], eps.view(-1)[0] = 1000, -1000  # nothing is clipped
        alpha, sigma = (column(c, x) for c in schedule(t))
        cosine_x, cosine_eps = (column(c, x) for c in schedules.cosine(t))
        what = "z_t = alpha x + sigma eps"
        likely = {
            f"{what}: here x and eps are swapped.": alpha * eps + sigma * x,
            f"{what}: here alpha and sigma are squared.": alpha**2 * x + sigma**2 * eps,
            f"{what}: here it is the roots of alpha and sigma.": alpha.sqrt() * x + sigma.sqrt() * eps,
            f"{what}: here the noise is subtracted.": alpha * x - sigma * eps,
            f"{what}: sigma is not the root of 1 - alpha^2 on every schedule.": alpha * x
            + (1 - alpha**2).clamp(min=0).sqrt() * eps,
            f"{what}: here all samples have the first one's time.": alpha[0] * x + sigma[0] * eps,
            f"{what}: here all samples have the mean time.": alpha.mean() * x + sigma.mean() * eps,
            f"{what}: here the schedule is cosine, whichever is given.": cosine_x * x + cosine_eps * eps,
        }
        if dims == (4, 4, 4):
            a, s = schedule(t)
            likely[f"{what}: here the times are broadcast along the width."] = a * x + s * eps
            a, s = (c[:, None, None] for c in (a, s))
            likely[f"{what}: here the times are broadcast along the channels."] = a * x + s * eps
        found, expected = mix(x, eps, t, schedule), alpha * x + sigma * eps
        for c in (1, 3, 5, 20, 100):
            likely[f"{what}: here it is clipped at {c}."] = expected.clamp(-c, c)
        ends = ", also at t = 0 and t = 1" if alike(found[:2], expected[:2]) else ""
        explained(found, expected, f"{what}{ends}, for samples {dims}.", likely)
        single = mix(x.float(), eps.float(), t, schedule)
        close_in_float32(single, alpha * x + sigma * eps, "z_t")
        wide = mix(x, eps, t.float(), schedule).dtype
        assert wide == torch.float64, f"z_t has the dtype of x, also where t is float32: float64, not {wide}."

    follows = [a.clone().requires_grad_() for a in (x, eps, t)]
    z = mix(*follows, schedule)
    d_alpha, d_sigma = (column(c, x) for c in schedules.rates(schedule, t))
    hint = "The gradient must pass to x, eps and t: is one detached?"
    assert z.requires_grad, hint
    slopes = torch.autograd.grad(z.sum(), follows, allow_unused=True)
    per_time = (d_alpha * x + d_sigma * eps).flatten(1).sum(1)
    for slope, wanted in zip(slopes, (alpha.expand_as(x), sigma.expand_as(x), per_time)):
        close(slope, wanted, hint)

    x, eps = torch.randn(2, 4, 4, 4, 4, generator=g, dtype=torch.float64)
    for bad in (t[:1], t[:3], t.tile(2), t[0], t[:, None]):
        hint = f"Times of shape {tuple(bad.shape)} for four samples must be refused: one for each, (4,)."
        refuses(lambda: mix(x, eps, bad, schedules.cosine), hint)
    for bad in (eps[:1], eps[:3], eps[:, :1], eps[..., :1], eps[0], eps.flatten(1), eps.reshape(4, 2, 8, 4)):
        hint = "must be refused: x and eps have one shape."
        for pair in ((x, bad), (bad, eps)):
            shapes = " and eps ".join(str(tuple(a.shape)) for a in pair)
            refuses(lambda: mix(*pair, t, schedules.cosine), f"x of shape {shapes} {hint}")


# tables and grids


def check_beta_table(beta_table=schedules.beta_table, seed: int = 0) -> None:
    """Every number of each table, by hand."""
    for bad in ("quadratic", "", None):
        refuses(lambda: beta_table(bad), f"The unknown kind {bad!r} must be refused.")
    for bad, kind in itertools.product((0, -3, 2.5, math.nan), ("linear", "scaled_linear", "squaredcos")):
        refuses(lambda: beta_table(kind, bad), f"n = {bad} must be refused: n is a whole number, 1 at least.")

    def evenly(start: float, end: float) -> Tensor:
        return exact(*[start + (end - start) * i / max(n - 1, 1) for i in range(n)])

    def cosines(offset: float = 0.008, power: int = 2, cap: float = 0.999) -> Tensor:
        alpha_bar = [math.cos((i / n + offset) / (1 + offset) * math.pi / 2) ** power for i in range(n + 1)]
        return exact(*[min(1 - b / a, cap) for a, b in itertools.pairwise(alpha_bar)])

    of_1000 = {}
    for n in (1000, 40, 1):
        roots = evenly(0.00085**0.5, 0.012**0.5)
        tables = {"linear": evenly(1e-4, 0.02), "scaled_linear": roots**2, "squaredcos": cosines()}
        of_1000 = of_1000 or tables
        what = {
            "linear": "evenly from 1e-4 to 0.02, for every n",
            "scaled_linear": "from 0.00085 to 0.012, for every n, and even in the square root of beta",
            "squaredcos": "1 - alpha_bar[i + 1] / alpha_bar[i] in float64, alpha_bar = cos^2, at most 0.999",
        }
        mistakes = {
            "linear": {"here both ends change with n.": tables["linear"] * 1000 / n},
            "scaled_linear": {
                "here it is even in beta.": evenly(0.00085, 0.012),
                "here the roots are not squared again.": roots,
                "here both ends change with n.": roots**2 * 1000 / n,
            },
            "squaredcos": {
                "here it is not capped.": cosines(cap=1.0),
                "here it is capped at 0.99.": cosines(cap=0.99),
                "here the offset 0.008 is missing.": cosines(offset=0.0),
                "here alpha_bar is the cosine, without its square.": cosines(power=1),
            },
        }
        for kind, table in tables.items():
            beta = beta_table(kind, n)
            assert isinstance(beta, Tensor) and beta.shape == (n,), f"n = {n} needs n betas, of shape ({n},)."
            assert beta.dtype == torch.float64, "The betas are float64, for the long product."
            likely = mistakes[kind] | {
                "here the betas fall, and the noise must come last.": table.flip(0),
                "these are alpha_bar, not betas.": (1 - table).cumprod(0),
                "these are 1 - beta.": 1 - table,
                f"these are the first {n} of 1000.": of_1000[kind][:n],
                **{f"this is the table of {other}.": tables[other] for other in tables},
            }
            hint = f"{kind}, n = {n}: {what[kind]}"
            likely = {f"{hint}: {sentence}": other for sentence, other in likely.items()}
            explained(beta, table, f"{hint}.", likely)
    close(beta_table("linear"), beta_table("linear", 1000), "Without n, there are 1000 betas.")


def check_zero_terminal_snr(zero_terminal_snr=schedules.zero_terminal_snr, seed: int = 0) -> None:
    """The ends, and the same proportions in sqrt(alpha_bar)."""
    g = torch.Generator().manual_seed(seed)
    beta = 1e-3 + 0.05 * torch.rand(60, generator=g, dtype=torch.float64).sort().values
    alpha_bar, nan = (1 - beta).cumprod(0), exact(math.nan)
    many = torch.linspace(1, 0.1, 2000, dtype=torch.float64)
    for table, name in (
        (alpha_bar, "A table that falls"),
        (alpha_bar[30:], "A table that starts far below 1"),
        (alpha_bar[[5, 20]], "A table of two values"),
        (exact(0.9, 0.3, 1e-3, 1e-5, 0), "A table that ends at 0 already"),
        (exact(0.5, 0.4999), "A table that falls by little"),
        (many, "A table of 2000 values that starts at 1"),
    ):
        a, (first, last) = table.sqrt(), table[[0, -1]]
        shift, scale = a - a[-1], a[0] / (a[0] - a[-1])
        expected = (shift * scale) ** 2
        what = "Shift and scale a = sqrt(alpha_bar), and square it"
        likely = {
            f"{what}: here it is alpha_bar that is shifted and scaled.": (table - last)
            * first
            / (first - last),
            f"{what}: here it is not scaled, and the first value changes.": shift**2,
            f"{what}: here it is not shifted, and does not end at 0.": (a * scale) ** 2,
            f"{what}: here it is not squared.": shift * scale,
            f"{what}: here it starts at 1, and must start where it did.": (shift / shift[0]) ** 2,
            f"{what}: here nothing has changed.": table,
            f"{what}: here the last value alone has changed.": torch.cat([table[:-1], exact(0)]),
            f"{what}: here the factor is upside down.": (shift / scale) ** 2,
            f"{what}: here the factor is outside of the square.": shift**2 * scale,
            f"{what}: here the factor has alpha_bar[0] for a[0].": (shift * first / (a[0] - a[-1])) ** 2,
            f"{what}: here what is small is 0.": expected * (expected > 1e-4),
            f"{what}: here it is squared twice.": expected**2,
        }
        rescaled = accepts(lambda: zero_terminal_snr(table), name)
        single = zero_terminal_snr(table.float())
        explained(rescaled, expected, f"{what}: it ends at 0, and starts where it did.", likely)
        assert rescaled.dtype == table.dtype, (
            f"The table keeps its dtype: here float64, not {rescaled.dtype}."
        )
        keeps_float32(single, expected, "The table")
        for end in (rescaled[-1], single[-1]):
            assert end == 0, f"The last alpha_bar must be exactly 0, not {end:.2g}: shift before you scale."

    for bad, what in (
        (alpha_bar.flip(0), "A table that rises"),
        (exact(0.5, 0.5, 0.5), "A table that does not fall"),
        (alpha_bar[:1], "A table of one value"),
        (torch.cat([alpha_bar[:-1], nan]), "A table that ends with nan"),
        (torch.cat([nan, alpha_bar[1:]]), "A table that begins with nan"),
    ):
        hint = f"{what} must be refused: its first value is not larger than its last one."
        refuses(lambda: zero_terminal_snr(bad), hint)


def check_time_grid(time_grid=schedules.time_grid, seed: int = 0) -> None:
    """n + 1 even times, nested when the steps double."""
    for bad in (0, -2, 2.5, math.nan):
        refuses(lambda: time_grid(bad), f"steps = {bad} must be refused: a whole number, 1 at least.")
    for pair in ((0.0, 1.0), (0.5, 0.5), (1.0, -0.1), (math.nan, 0.0), (1.0, math.nan)):
        hint = "must be refused: start > end >= 0, for time runs from noise to data."
        refuses(lambda: time_grid(4, *pair), f"start and end = {pair} {hint}")

    double = torch.float64
    for steps, start, end in ((4, 1.0, 0.0), (1, 1, 0), (10, 1.0, 0.0), (2, 0.9, 0.1), (7, 80.0, 0.002)):
        what = f"{steps} steps from {start} to {end}"
        grid = accepts(lambda: time_grid(steps, start, end, dtype=double), what)
        assert isinstance(grid, Tensor), f"A grid is a tensor, and no {type(grid).__name__}."
        assert grid.shape == (steps + 1,), f"{steps} steps need {steps + 1} times: {tuple(grid.shape)}."
        has_its_dtype(functools.partial(time_grid, steps, start, end), "The grid has")
        i = torch.arange(steps + 1, dtype=double)
        expected = start + (end - start) * i / steps
        likely = {
            f"{what}: the times must fall.": expected.flip(0),
            f"{what}: here the last time is not the end.": start - (start - end) * i / (steps + 1),
            f"{what}: here the first time is not the start.": end + (start - end) * (steps - i) / (steps + 1),
            f"{what}: here start and end are ignored.": 1 - i / steps,
            f"{what}: here end is ignored.": start * (1 - i / steps),
            f"{what}: here start is ignored.": 1 + (end - 1) * i / steps,
        }
        explained(grid, expected, f"{what}: evenly spaced, both included.", likely)
    close(time_grid(5, dtype=double), 1 - exact(*range(6)) / 5, "Without start and end, from 1 to 0.")
    hint = "Every time of 4 steps must be one of 8 steps, to the last bit."
    close(time_grid(8)[::2], time_grid(4), hint, 0.0, 0.0)


def check_karras_sigmas(karras_sigmas=schedules.karras_sigmas, seed: int = 0) -> None:
    """Every level, for several arguments."""
    for bad in (1, 0, -2, 2.5, math.nan):
        refuses(lambda: karras_sigmas(bad), f"n = {bad} must be refused: n is a whole number, 2 at least.")
    for name, bad in (
        *(("sigma_min", bad) for bad in (0.0, -1.0, 80.0, 90.0, math.nan)),
        *(("sigma_max", bad) for bad in (0.001, 0.002, -80.0, math.nan)),
        *(("rho", bad) for bad in (0.0, -7.0, math.nan)),
    ):
        hint = f"{name} = {bad} must be refused: sigma_max > sigma_min > 0 and rho > 0."
        refuses(lambda: karras_sigmas(5, **{name: bad}), hint)

    double = torch.float64
    for n, low, high, rho in (
        (18, 0.002, 80.0, 7.0),
        (5, 0.002, 80.0, 3),
        (2, 0.01, 40.0, 7),
        (6, 0.1, 5, 1.5),
        (9, 1.0, 500.0, 0.5),
    ):
        what = f"n = {n}, from {high} to {low}, rho = {rho}"
        levels = lambda low, high, rho: (
            torch.lerp(exact(high) ** (1 / rho), exact(low) ** (1 / rho), share) ** rho
        )
        call = lambda: karras_sigmas(n, sigma_min=low, sigma_max=high, rho=rho, dtype=double)
        found = accepts(call, what)
        has_its_dtype(functools.partial(karras_sigmas, n, low, high, rho), "Levels have")
        share = torch.arange(n, dtype=double) / max(n - 2, 1)
        with_zero = torch.cat([levels(low, high, rho)[:-1], exact(0)])
        share = torch.arange(n, dtype=double) / (n - 1)
        expected = levels(low, high, rho)
        likely = {
            f"{what}: the levels must fall.": expected.flip(0),
            f"{what}: here a 0 is the last of the n levels.": with_zero,
            f"{what}: here rho is 7.": levels(low, high, 7),
            f"{what}: here rho is ignored: sigma falls evenly.": levels(low, high, 1),
            f"{what}: evenly in sigma^(1/rho), not in sigma^rho.": levels(low, high, 1 / rho),
            f"{what}: here sigma falls evenly in its logarithm.": high * (low / high) ** share,
            f"{what}: here the power rho is missing at the end.": expected ** (1 / rho),
            f"{what}: here sigma_max is ignored.": levels(low, 80, rho),
            f"{what}: here sigma_min is ignored.": levels(0.002, high, rho),
            f"{what}: here sigma_min and sigma_max are ignored.": levels(0.002, 80, rho),
        }
        explained(found, expected, f"{what}: evenly spaced in sigma^(1/rho), both ends included.", likely)
    n, share = 18, torch.arange(18, dtype=double) / 17
    hint = "Without arguments sigma falls from 80 to 0.002 with rho = 7, in float32, too."
    close(karras_sigmas(n).double(), levels(0.002, 80.0, 7), hint, 1e-7, 1e-5)
