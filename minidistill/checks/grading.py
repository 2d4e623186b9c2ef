"""Grade somebody's function with a check, whatever that function does.

    grade(checks.check_cosine, cosine)

An answer earns its points when the check passes and it is neither the package's own version of the function,
nor a copy of its source, nor a call of it. One that runs for too long, takes all the memory, prints without
end, changes its input or returns another dtype fails with a sentence that says so, and stops nothing else.
These limits are Python's, and an answer that catches every exception escapes them; apart.py has harder ones.

The inputs come from a seed: 0, or $MINIDISTILL_SEED. With another seed, numbers learned by heart are wrong.
The time is 20 seconds, or $MINIDISTILL_SECONDS.
"""

import ast
import contextlib
import functools
import gc
import inspect
import io
import os
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

import torch
from torch import Tensor

from minidistill.checks import is_ours


class Wrong(AssertionError):
    """What is wrong with an answer, in a sentence: a notebook shows it in the place of the traceback."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


def grade(check: Callable, answer: Callable, seconds: float | None = None, gigabytes: float = 4.0) -> None:
    """Raises Wrong, an AssertionError, unless `answer` passes `check`. Says nothing when all is well."""
    reference = next(iter(inspect.signature(check).parameters.values())).default
    if not callable(answer):
        raise Wrong(f"Expected a function, got {type(answer).__name__}.")
    if answer is reference:
        raise Wrong("This is the package's own function. Write yours.")
    if is_copy(answer, reference):
        raise Wrong("This is the package's source, with other names at most. Write your own.")
    seed = int(os.environ.get("MINIDISTILL_SEED", 0))
    try:
        # gradients on, in case an earlier answer has switched them off for good
        with (
            limits(seconds or seconds_for_an_answer(), gigabytes),
            silence(),
            out_of_reach(reference),
            torch.enable_grad(),
        ):
            check(careful(answer), seed=seed)
    except AssertionError as error:
        raise Wrong(str(error) if is_ours(error) else f"An assert in your function fails. {error}") from error
    except (TimeoutError, MemoryError) as error:
        raise Wrong(str(error)) from error
    except NotImplementedError as error:
        raise Wrong("Nothing here yet: replace `raise NotImplementedError()` by your code.") from error
    except (Exception, SystemExit) as error:
        raise Wrong(why_it_stops(error)) from error


def attempt(draw: Callable) -> None:
    """Draw a picture of an answer, or print why there is none: a wrong answer must not stop the notebook."""
    from matplotlib import pyplot  # slow to import, and grading needs none

    try:
        with limits(seconds=20.0, gigabytes=4.0):
            draw()
    except (Exception, SystemExit) as error:
        pyplot.close("all")
        print(f"No picture yet. {type(error).__name__}: {error}")


# what an answer may not be


def is_copy(answer: Callable, reference: Callable) -> bool:
    """Whether the answer, or a function written beside it, has the reference's syntax tree."""
    answer = inspect.unwrap(answer)
    near = [f for f in getattr(answer, "__globals__", {}).values() if isinstance(f, FunctionType)]
    own = {f for f in near if f.__module__ == answer.__module__} | {answer}
    tree = syntax(reference)
    return tree is not None and any(syntax(f) == tree for f in own)


def syntax(function: Callable) -> str | None:
    """The syntax tree without names of variables, annotations and docstring, as text."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):  # no source, or a piece of a line, as for a lambda
        return None
    if not isinstance(tree, ast.FunctionDef):
        return None
    if len(tree.body) - (ast.get_docstring(tree) is not None) + len(tree.decorator_list) < 2:
        return None  # a single formula, which everybody writes in this way
    numbers = {}  # of the names, in the order in which they come
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.name, node.returns = "", None
            node.body = node.body[ast.get_docstring(node) is not None :]
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = str(numbers.setdefault(node.arg, len(numbers))), None
        elif isinstance(node, ast.Name):
            node.id = str(numbers.setdefault(node.id, len(numbers)))
    return ast.dump(tree)


@contextlib.contextmanager
def out_of_reach(reference: Callable) -> Iterator[None]:
    """Nobody can call `reference` meanwhile, by whatever name, nor a function made of the same code."""

    def refuse(*args, **kwargs):
        raise AssertionError("Your function calls the package's own. Write it yourself.")

    def marks(function: FunctionType) -> tuple:  # what a copy keeps: its docstring is one of the constants
        code = function.__code__
        return code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType)]

    original = inspect.unwrap(reference)  # past torch.no_grad() and other decorators
    functions = [f for f in gc.get_objects() if type(f) is FunctionType and not f.__closure__]
    before = [(f, f.__code__) for f in functions if f.__doc__ and marks(f) == marks(original)]
    for f, _ in before:
        f.__code__ = inspect.unwrap(refuse).__code__
    try:
        yield
    finally:
        for f, own in before:
            f.__code__ = own


def careful(answer: Callable) -> Callable:
    """The answer, which must leave its tensors as they are and return the dtype of its numbers, or bool."""

    @functools.wraps(answer)
    def wrapped(*args, **kwargs):
        lists = [a if isinstance(a, (list, tuple)) else [a] for a in (*args, *kwargs.values())]
        tensors = [a for items in lists for a in items if isinstance(a, Tensor)]
        before = [a.detach().clone() for a in tensors]
        try:
            result = answer(*args, **kwargs)
        except Exception as error:
            error.given = described(answer, args, kwargs)
            raise
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


def described(answer: Callable, args: tuple, kwargs: dict) -> str:
    """The arguments in words: short tensors and numbers as they are, long tensors by shape and dtype."""

    def word(value) -> str:
        if isinstance(value, Tensor) and value.numel() > 8:
            return f"{tuple(value.shape)} of {value.dtype}"
        if isinstance(value, Tensor):
            return f"{value.tolist()}"
        return getattr(value, "__name__", f"{value!r:.60}")

    try:
        named = inspect.signature(answer).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # the answer does not take what it must: its own error says so
        return ""
    return ", ".join(f"{name} = {word(value)}" for name, value in named.items())


def why_it_stops(error: BaseException) -> str:
    """A sentence about an exception that is not the check's own."""
    if "single memory location" in str(error):
        return (
            "Your function writes into a tensor whose entries share their memory, as those of `expand` do: "
            "write a = a - b in the place of a -= b."
        )
    given = getattr(error, "given", "")
    sentence = f"Your function stops with {type(error).__name__}: {error}"
    if not given:
        return sentence
    valid = "This input is valid" if isinstance(error, ValueError) else "It was given"
    return f"{sentence}\n{valid}: {given}."


# what an answer may use


def seconds_for_an_answer() -> float:
    """$MINIDISTILL_SECONDS, or 20."""
    return float(os.environ.get("MINIDISTILL_SECONDS", 20))


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
        resource.setrlimit(resource.RLIMIT_AS, (memory_in_use() + int(gigabytes * 2**30), previous_limit[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except RuntimeError as error:  # torch's word for MemoryError
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
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


def memory_in_use() -> int:
    """Bytes of address space of this process. Linux; OSError elsewhere."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
