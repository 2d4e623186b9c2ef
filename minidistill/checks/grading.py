"""Grade somebody's function with a check, whatever that function does.

    grade(checks.check_cosine, cosine)

An answer earns its points when the check passes and it does not reach the package's own version of the
function. One that never returns, takes all the memory, prints without end, changes its input or returns
another dtype fails with a sentence that says so, and stops nothing else.

The inputs come from a seed: 0, or $MINIDISTILL_SEED. With another seed, numbers learned by heart are wrong.
"""

import contextlib
import functools
import inspect
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def grade(check: Callable, answer: Callable, seconds: float = 20.0, gigabytes: float = 4.0) -> None:
    """Raises AssertionError with a hint unless `answer` passes `check`. Says nothing when all is well."""
    reference = next(iter(inspect.signature(check).parameters.values())).default
    assert callable(answer), f"Expected a function, got {type(answer).__name__}."
    assert answer is not reference, "This is the package's own function. Write yours."
    seed = int(os.environ.get("MINIDISTILL_SEED", 0))
    try:
        # gradients on, in case an earlier answer has switched them off for good
        with limits(seconds, gigabytes), silence(), out_of_reach(reference), torch.enable_grad():
            check(careful(answer), seed=seed)
    except AssertionError:
        raise
    except NotImplementedError as error:
        raise AssertionError(
            "Nothing here yet: replace `raise NotImplementedError()` by your code."
        ) from error
    except (TimeoutError, MemoryError) as error:
        raise AssertionError(str(error)) from error
    except (Exception, SystemExit) as error:
        raise AssertionError(f"Your function stops with {type(error).__name__}: {error}") from error


def attempt(draw: Callable) -> None:
    """Draw a picture of an answer, or print why there is none: a wrong answer must not stop the notebook."""
    from matplotlib import pyplot  # slow to import, and grading needs none

    try:
        with limits(seconds=20.0, gigabytes=4.0):
            draw()
    except (Exception, SystemExit) as error:
        pyplot.close("all")
        print(f"No picture yet. {type(error).__name__}: {error}")


def careful(answer: Callable) -> Callable:
    """The answer, which must leave its tensors as they are and return the dtype of its numbers, or bool."""

    @functools.wraps(answer)
    def wrapped(*args, **kwargs):
        lists = [a if isinstance(a, (list, tuple)) else [a] for a in (*args, *kwargs.values())]
        tensors = [a for items in lists for a in items if isinstance(a, Tensor)]
        before = [a.detach().clone() for a in tensors]
        result = answer(*args, **kwargs)
        for now, then in zip(tensors, before):
            same = now.shape == then.shape and torch.equal(now.detach().nan_to_num(), then.nan_to_num())
            assert same, "Your function changes its input. Make a new tensor: z = z + 1."
        for value in result if isinstance(result, tuple) else (result,):
            given = {a.dtype for a in tensors}
            if isinstance(value, Tensor) and any(dtype.is_floating_point for dtype in given):
                assert value.dtype in given | {torch.bool}, (
                    f"Your function returns {value.dtype}; it was given {given}."
                )
        return result

    return wrapped


@contextlib.contextmanager
def out_of_reach(reference: Callable) -> Iterator[None]:
    """Nobody can call `reference` meanwhile, by whatever name they imported it."""

    def refuse(*args, **kwargs):
        raise AssertionError("Your function calls the package's own. Write it yourself.")

    reference = inspect.unwrap(reference)  # past torch.no_grad() and other decorators
    code = reference.__code__
    reference.__code__ = inspect.unwrap(refuse).__code__
    try:
        yield
    finally:
        reference.__code__ = code


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What is printed meanwhile is dropped."""

    class Nowhere(io.TextIOBase):
        def write(self, text: str) -> int:
            return len(text)

    with contextlib.redirect_stdout(Nowhere()), contextlib.redirect_stderr(Nowhere()):
        yield


@contextlib.contextmanager
def limits(seconds: float, gigabytes: float) -> Iterator[None]:
    """TimeoutError after so many seconds, MemoryError past so much more memory.

    On Unix and in the main thread; elsewhere the grader's own limits must do. macOS has no limit of memory.
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource  # Unix only

    def stop(*_):
        raise TimeoutError(
            f"Your function still ran after {seconds:g} seconds. Is there a loop without an end?"
        )

    previous_handler = signal.signal(signal.SIGALRM, stop)
    previous_limit = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(OSError, ValueError):  # where it cannot be read or set, there is no limit
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 2**30), previous_limit[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except RuntimeError as error:  # torch's word for MemoryError
        if "memory" not in str(error):
            raise
        raise MemoryError(
            f"Your function needs more than {gigabytes:g} GB. Which axes are broadcast?"
        ) from error
    except MemoryError as error:
        raise MemoryError(f"Your function needs more than {gigabytes:g} GB.") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
        resource.setrlimit(resource.RLIMIT_AS, previous_limit)
