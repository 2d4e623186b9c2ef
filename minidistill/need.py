"""What a function needs of what it is given, looked at before any work is done: need.whole("steps", steps).

Counts, numbers, samples, and tensors of one number per sample. Each function here raises ValueError with a
sentence that says what is wrong and what would be right. What a schedule or a network answers is looked at in
asking.py.

>>> whole("steps", torch.tensor(4))  # numpy's and torch's integers count; 4.0 is a float
4
"""

import math
import operator
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

Whole = SupportsIndex  # int, and the integers of numpy and torch
Number = SupportsFloat | SupportsIndex  # int and float, and those of numpy and torch
Bound = int | float
SEEDS = 2**32 - 1  # the largest seed, as in numpy and scikit-learn


def whole(name: str, value: Whole, least: int = 1, most: Bound = math.inf, why: str = "") -> int:
    """The value as an int, from least to most."""
    try:
        n = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {name} = {value!r:.60}") from None
    if not least <= n <= most:
        raise ValueError(f"{name} must be {in_words(least, most)}{why}, got {name} = {n}")
    return n


def number(
    name: str,
    value: Number,
    least: Bound = -math.inf,
    most: Bound = math.inf,
    above: Bound = -math.inf,
    below: Bound = math.inf,
    why: str = "",
) -> float:
    """The value as a finite float: at least `least`, above `above`, at most `most`, below `below`."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{name} is a plain number here and gets no gradient: use its .item()")
    try:
        x = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: several numbers in a tensor
        x = math.nan
    if not (math.isfinite(x) and least <= x <= most and above < x < below):
        range_ = in_words(least, most, above, below)
        finite = "" if math.isfinite(x) or "finite" in range_ else ", and finite"
        raise ValueError(f"{name} must be {range_}{finite}{why}, got {value!r:.60}")
    return x


def in_words(least: Bound, most: Bound = math.inf, above: Bound = -math.inf, below: Bound = math.inf) -> str:
    """The range in words."""
    if math.isfinite(least) and math.isfinite(most):
        return f"from {least:.10g} to {most:.10g}"
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    words = [f"{word} {limit:.10g}" for word, limit in limits.items() if math.isfinite(limit)]
    return " and ".join(words) or "a finite number"


def extremes(c: Tensor) -> tuple[float, float]:
    """The smallest and the largest value, both nan if one is. Looking at values makes an accelerator wait."""
    low, high = c.detach().aminmax()
    return float(low), float(high)


def within(
    c: Tensor,
    least: Bound = -math.inf,
    most: Bound = math.inf,
    above: Bound = -math.inf,
    below: Bound = math.inf,
) -> bool:
    """Whether all values are finite and in range; True where nobody can look: vmap, compile, CUDA graphs."""
    if torch.compiler.is_compiling() or (c.is_cuda and torch.cuda.is_current_stream_capturing()):
        return True
    try:
        low, high = extremes(c)
    except RuntimeError:
        return True
    return least <= low and above < low and high <= most and high < below and math.isfinite(high - low)


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, and float32 and float64 themselves: what formulas are computed in."""
    return torch.promote_types(dtype, torch.float32)


def rounding(dtype: torch.dtype) -> float:
    """How far a time that was computed in float32 or in this dtype may be off: a time of -1e-8 means 0."""
    return 1e-6 + 2 * torch.finfo(dtype).eps


def described(value) -> str:
    """The dtype and shape of a tensor, and anything else as it is."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"


def samples(**tensors: Tensor) -> None:
    """Raises ValueError unless all are float tensors (b, *dims) of one shape, with b > 0."""
    for name, z in tensors.items():
        if not (isinstance(z, Tensor) and z.is_floating_point() and z.ndim and z.numel()):
            got = described(z)
            raise ValueError(f"{name} must be a float tensor (b, *dims) of at least one sample, got {got}")
    if len({z.shape for z in tensors.values()}) > 1:
        shapes = " and ".join(str(tuple(z.shape)) for z in tensors.values())
        raise ValueError(f"{' and '.join(tensors)} must have one shape, got {shapes}")


def each(
    name: str,
    value: Tensor,
    z: Tensor,
    least: Bound = -math.inf,
    most: Bound = math.inf,
    above: Bound = -math.inf,
    below: Bound = math.inf,
    counts: bool = False,
    why: str = "",
) -> None:
    """Raises ValueError unless value, (b,), has a number in range for each of the samples z.

    counts: the numbers are integers. With value itself in the place of z it is any 1-D tensor.
    """
    if z is not value:
        samples(samples=z)
    b = len(z) if isinstance(z, Tensor) and z.ndim else 0
    good = isinstance(value, Tensor) and value.shape == (b,) and b > 0 and not value.is_complex()
    if not good or value.is_floating_point() == counts or value.dtype == torch.bool:
        kind = "an integer" if counts else "a float"
        size = "(n,)" if z is value else f"({b},), one for each sample"
        raise ValueError(f"{name} must be {kind} tensor {size}, got {described(value)}")
    if within(value, least, most, above, below):
        return
    slack = 0 if counts else rounding(value.dtype)
    if not within(value, least - slack, most + slack, above, below):
        low, high = extremes(value)
        where = "" if z is value else " for each sample"
        limits = in_words(least, most, above, below)
        raise ValueError(f"{name} must be {limits}{where}{why}, got {low:.9g} to {high:.9g}")


def conditioning(z: Tensor, **conditioning: Tensor) -> None:
    """Raises ValueError unless each, such as labels, is a tensor with an entry for each sample of z."""
    for name, value in conditioning.items():
        if not (isinstance(value, Tensor) and value.ndim and len(value) == len(z)):
            raise ValueError(
                f"{name} must have an entry for each of {len(z)} samples, got {described(value)}"
            )


def images(x: Tensor, side: int) -> None:
    """Raises ValueError unless x are float images whose sides can be divided by `side`."""
    samples(images=x)
    if x.ndim != 4 or x.shape[2] % side or x.shape[3] % side:
        raise ValueError(
            f"need images (b, c, height, width) with sides divisible by {side}, got {tuple(x.shape)}"
        )


def ordered(name: str, levels: Tensor, most: Bound = math.inf, falls: bool = True) -> None:
    """Raises ValueError unless levels are two or more, falling or rising, from 0 to `most`: (n,)."""
    up = levels.flip(0) if isinstance(levels, Tensor) and levels.ndim and falls else levels
    each(name, up, up, 0, most)
    if len(up) < 2 or not within(up.diff(), above=0):
        word = "fall" if falls else "rise"
        raise ValueError(
            f"{name} must {word} from one to the next, at least two, got {levels.tolist()!s:.60}"
        )


def finite(**tensors: Tensor) -> None:
    """Raises ValueError unless all are float tensors of finite numbers."""
    for name, values in tensors.items():
        samples(**{name: values})
        if not within(values):
            raise ValueError(f"{name} must be finite numbers, and some are nan or infinite")


def as_many(name: str, values, n: int, of: str) -> None:
    """Raises ValueError unless values is None or has n entries."""
    if values is not None and len(values) != n:
        raise ValueError(f"{name}: {n} are needed, one for each {of}, got {len(values)}")
