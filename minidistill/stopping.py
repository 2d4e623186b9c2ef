"""Ctrl-C and its relatives: a training stops between two steps, never within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole_steps() -> Iterator[list]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the step is whole: half an update could not be resumed.

    Yields the list that they fill. What each does by itself, it does afterwards.
    """
    interrupted = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread receives signals
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is unknown to Windows
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    previous = {n: signal.getsignal(n) for n in numbers}
    # SIGHUP that is ignored, as under nohup, stays ignored; SIGINT is asked for also in the background
    for n in numbers:
        if previous[n] is None or (previous[n] is signal.SIG_IGN and n != signal.SIGINT):
            del previous[n]
    for n in previous:
        signal.signal(n, lambda n, _: interrupted.append(n))
    try:
        yield interrupted
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)
    if interrupted:
        if previous[interrupted[0]] is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(interrupted[0])


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a program as Ctrl-C does: KeyboardInterrupt(number)."""

    def stop(number: int, _) -> None:
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread receives signals
    # what was set otherwise, such as to ignore SIGHUP under nohup, stays
    previous = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)
