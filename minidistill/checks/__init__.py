"""The unit tests, as functions of the thing they test.

    from minidistill.checks import progressive as checks
    checks.check_two_step_target(my_target)

A check says nothing when all is well and raises AssertionError, with a hint that names the likely mistake,
when it is not. pytest runs the checks on this package, a notebook runs them on yours, and a grader grades
with them; another `seed` means other inputs.

The narrow questions come first: what was asked, at which time, in which dtype. Each has a sentence of its
own. The value of the whole comes after them.
"""

import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

Likely = Iterable[tuple[str, Tensor]] | dict[str, Tensor]  # sentences, and the results that deserve them


def exact(*values: int | float) -> Tensor:
    """The numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


def column(c: Tensor, z: Tensor) -> Tensor:
    """One number per sample, with as many axes as z."""
    return c.reshape(-1, *[1] * (z.ndim - 1))


def close(actual: Tensor, expected: Tensor, hint: str, atol: float = 1e-10, rtol: float = 1e-10) -> None:
    """AssertionError, with the hint, unless the tensors have one shape and agree in every entry."""
    assert isinstance(actual, Tensor), f"{hint}\nExpected a tensor, got {type(actual).__name__}."
    try:
        assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)
    except AssertionError as error:
        raise AssertionError(f"{hint}\n{error}") from None  # without torch's part of the traceback


def alike(found, other: Tensor, tol: float = 1e-6) -> bool:
    """Whether `found` is a tensor of the same shape, with the same numbers up to rounding."""
    return (
        isinstance(found, Tensor)
        and found.shape == other.shape
        and torch.allclose(found.double(), other.double(), tol, tol, equal_nan=True)
    )


def explained(
    actual: Tensor, expected: Tensor, hint: str, likely: Likely = (), tol: float = 1e-10, where: str = ""
) -> None:
    """close, with the sentence of the likely wrong result that this is, where it is one.

    likely: pairs (sentence, result), or a dict, looked at only where the result is wrong.
    """

    if not alike(actual, expected, tol):
        nearly = alike(actual, expected, 1e-5)
        if nearly:
            hint = (
                f"Right to five digits, and no further: is it float32, rounded, or is something added? {hint}"
            )
        elif isinstance(actual, Tensor) and actual.shape != expected.shape:
            hint = f"The shape must be {tuple(expected.shape)}, and is {tuple(actual.shape)}. {hint}"
        pairs = likely.items() if isinstance(likely, dict) else likely
        near = tol if nearly else 1e-6
        hint = next((sentence for sentence, wrong in pairs if alike(actual, wrong, near)), hint)
    close(actual, expected, hint + where, tol, tol)


def close_in_float32(actual: Tensor, expected: Tensor, what: str, tol: float = 1e-5) -> None:
    """AssertionError unless `actual`, made from float32 data, is float32 and agrees with the float64 result.

    The times, grids and edges of such a call are float64, as a careful caller's are.
    """
    assert isinstance(actual, Tensor), f"{what}: expected a tensor, got {type(actual).__name__}."
    assert actual.dtype == torch.float32, (
        f"{what} has the dtype of the data, also where times are float64: here float32, not {actual.dtype}."
    )
    hint = f"{what} is right in float64, but not for float32 data with float64 times: where are digits lost?"
    close(actual.double(), expected, hint, tol, tol)


def recorded(net: Callable, asked: list[tuple[Tensor, Tensor]]) -> Callable:
    """net, which keeps copies of the z and t that it is asked at, and is as strict as a Linear layer."""

    def strict(z, t, *args, **kwargs):
        assert isinstance(t, Tensor) and t.shape == z.shape[:1], (
            "A network gets one time for each sample: t of shape (b,), "
            f"{tuple(z.shape[:1])}, not {tuple(t.shape) if isinstance(t, Tensor) else repr(t)}."
        )
        assert t.dtype == z.dtype, (
            "A network gets t in the dtype of z, t.to(z.dtype), for no layer takes two dtypes: "
            f"z is {z.dtype}, t {t.dtype}."
        )
        asked.append((z.detach().clone(), t.detach().clone()))
        return net(z, t, *args, **kwargs)

    return strict


def one_bad(good: Tensor, *bad: float) -> Iterator[tuple[float, Tensor]]:
    """Each bad value in the middle of good, and nan in the middle and at both ends: (value, tensor)."""
    n = len(good)
    for value, place in (*((value, n // 2) for value in bad), *((math.nan, k) for k in {0, n // 2, n - 1})):
        spoiled = good.clone()
        spoiled[place] = value
        yield value, spoiled


def is_ours(error: AssertionError) -> bool:
    """Whether the assert that failed is one of these files, and none of the answer."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Path(last.filename).parent == Path(__file__).parent


def accepts(call: Callable, what: str):
    """What call() returns; AssertionError where it raises ValueError: this input is valid."""
    try:
        return call()
    except ValueError as error:
        raise AssertionError(f"{what} is valid and must not be refused. You say: {error}") from error


def refuses(call: Callable, hint: str) -> None:
    """AssertionError, with the hint, unless call() raises ValueError."""
    try:
        call()
    except ValueError:
        return
    except (NotImplementedError, TimeoutError, MemoryError):  # no answer yet, or none at all
        raise
    except AssertionError as error:
        if is_ours(error):
            raise
        raise AssertionError(f"{hint} With ValueError, not an assert.") from error
    except Exception as error:
        raise AssertionError(f"{hint} With ValueError, not {type(error).__name__}.") from error
    raise AssertionError(hint)
