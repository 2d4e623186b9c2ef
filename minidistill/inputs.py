"""What a function is given, looked at before any work is done.

Counts, numbers, samples, and tensors of one number per sample. Each function here raises ValueError with a
sentence that says what is wrong and what would be right. What a schedule says is looked at in schedules.py,
what a network answers in parameterization.py.

>>> whole("steps", torch.tensor(4))  # numpy's and torch's integers count; 4.0 is a float
4
"""

import math
import operator
from collections.abc import Sequence
from typing import SupportsFloat, SupportsIndex

import torch
from torch import Tensor

Whole = SupportsIndex  # int, and the integers of numpy and torch
Number = SupportsFloat | SupportsIndex  # int and float, and those of numpy and torch
SEEDS = 2**32 - 1  # the largest seed, as in numpy and scikit-learn


def whole(name: str, value: Whole, least: int = 1, most: int | float = math.inf, why: str = "") -> int:
    """The value as an int, from least to most."""
    try:
        n = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {name} = {value!r:.60}") from None
    if not least <= n <= most:
        raise ValueError(f"{name} must be {said(least, most)}{why}, got {name} = {n}")
    return n


def number(
    name: str,
    value: Number,
    least: int | float = -math.inf,
    most: int | float = math.inf,
    above: int | float = -math.inf,
    below: int | float = math.inf,
    why: str = "",
) -> float:
    """The value as a finite float: at least `least`, above `above`, at most `most`, below `below`."""
    try:
        x = math.nan if isinstance(value, str | bytes) else float(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ):  # torch refuses several numbers with the last but one
        x = math.nan
    if not (math.isfinite(x) and least <= x <= most and above < x < below):
        raise ValueError(f"{name} must be {said(least, most, above, below)}{why}, got {value!r:.60}")
    return x


def said(
    least: int | float,
    most: int | float = math.inf,
    above: int | float = -math.inf,
    below: int | float = math.inf,
) -> str:
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


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, and float32 and float64 themselves: what formulas are computed in."""
    return torch.promote_types(dtype, torch.float32)


def rounding(dtype: torch.dtype) -> float:
    """How far a time that was computed in float32 or in this dtype may be off: a time of -1e-8 means 0."""
    return 1e-6 + 2 * torch.finfo(dtype).eps


def need_samples(**tensors: Tensor) -> None:
    """Raises ValueError unless all are float tensors (b, *dims) of one shape, with b > 0."""
    for name, z in tensors.items():
        if not (isinstance(z, Tensor) and z.is_floating_point() and z.ndim and z.numel()):
            got = f"{z.dtype} of shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"{z!r:.60}"
            raise ValueError(f"{name} must be a float tensor (b, *dims) of at least one sample, got {got}")
    if len({z.shape for z in tensors.values()}) > 1:
        shapes = " and ".join(str(tuple(z.shape)) for z in tensors.values())
        raise ValueError(f"{' and '.join(tensors)} must have one shape, got {shapes}")


def need_each(
    name: str,
    value: Tensor,
    z: Tensor,
    least: int | float = -math.inf,
    most: int | float = math.inf,
    above: int | float = -math.inf,
    below: int | float = math.inf,
    counts: bool = False,
    why: str = "",
) -> None:
    """Raises ValueError unless value, (b,), has a number in range for each sample of z; counts: integers."""
    kind = "an integer" if counts else "a float"
    good = (
        isinstance(value, Tensor) and value.shape == z.shape[:1] and len(z) > 0 and value.dtype != torch.bool
    )
    if not good or value.is_complex() or value.is_floating_point() == counts:
        got = (
            f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        )
        raise ValueError(f"{name} must be {kind} tensor ({len(z)},), one for each sample, got {got}")
    low, high = extremes(value)
    if not (least <= low and above < low and high <= most and high < below):
        got = f"{low:g} to {high:g}"
        raise ValueError(f"{name} must be {said(least, most, above, below)} for each sample{why}, got {got}")


def need_conditioning(z: Tensor, **conditioning) -> None:
    """Raises ValueError unless conditioning, such as labels, has one entry for each sample of z."""
    for name, value in conditioning.items():
        if isinstance(value, Tensor | Sequence) and len(value) != len(z):
            raise ValueError(f"{name} has {len(value)} entries for {len(z)} samples: one for each is needed")
