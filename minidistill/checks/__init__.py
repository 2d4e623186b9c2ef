"""The unit tests, as functions of the thing they test.

    from minidistill.checks import progressive as checks
    checks.check_two_step_target(my_target)

A check says nothing when all is well and raises AssertionError, with a hint that names the likely mistake,
when it is not. pytest runs the checks on this package, a notebook runs them on yours, and a grader grades
with them; another `seed` means other inputs.
"""

import torch
from torch import Tensor
from torch.testing import assert_close


def exact(*values: int | float) -> Tensor:
    """The numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


def column(c: Tensor, z: Tensor) -> Tensor:
    """One number per sample, with as many axes as z."""
    return c.reshape(-1, *[1] * (z.ndim - 1))


def close(actual: Tensor, expected: Tensor, hint: str, atol: float = 1e-10, rtol: float = 1e-10) -> None:
    """AssertionError, with the hint, unless the tensors have one shape and agree in every entry."""
    assert isinstance(actual, Tensor), f"{hint}\nExpected a tensor, got {type(actual).__name__}."
    assert_close(
        actual, expected, atol=atol, rtol=rtol, check_dtype=False, msg=lambda text: f"{hint}\n{text}"
    )


def refuses(call, hint: str) -> None:
    """AssertionError, with the hint, unless call() raises ValueError."""
    try:
        call()
    except ValueError:
        return
    except NotImplementedError:  # a RuntimeError, but no answer yet
        raise
    except AssertionError as error:  # an assert of the answer, without a word, or a sentence of the grader
        raise AssertionError(str(error) or f"{hint} With ValueError, not an assert.") from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise AssertionError(f"{hint} With ValueError, not {type(error).__name__}.") from error
    raise AssertionError(hint)
