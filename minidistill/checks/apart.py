"""Grade each answer of a file in a process of its own, which nothing that it does can outlive.

    cells = read(Path("mine.py"))
    for name, test in tests(cells).items():
        print(name, judge(cells, name, test) or "is right")

The process reads the file's imports, definitions and constants; then it puts back what they have replaced in
other modules, imports the checks anew, and runs the test of one answer. An answer that catches every
exception in an endless loop, loops in C, ends the process or starts others costs its own points and half a
minute: a watchdog in C ends the process, and whatever it has started ends with it.

This stops mistakes and shortcuts. It is no sandbox: what you can read and delete, an answer can.
"""

import ast
import contextlib
import faulthandler
import importlib
import json
import linecache
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from minidistill import checks
from minidistill.checks.grading import limits, memory_in_use, seconds_for_an_answer

SLACK = 3.0  # seconds from the limit that is an exception to the one that ends the process
START = 120.0  # seconds within which torch must have been imported
Namespace = dict[str, object]


class Cell(NamedTuple):
    """A piece of source, and whose it is: an answer's name, "" for what all need, None for the rest."""

    name: str | None
    source: str


# the file


def read(path: Path) -> list[Cell]:
    """The cells of a notebook, or the statements of a .py file. ValueError where it is neither."""
    try:
        if path.suffix == ".ipynb":
            import nbformat

            return notebook_cells(nbformat.read(path, as_version=4))
        source = path.read_text(encoding="utf-8")
        ast.parse(source)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except Exception as error:  # of nbformat, and RecursionError of nested brackets
        raise ValueError(f"it is no notebook or Python file: {error!s:.100}") from error
    return pieces(source)


def notebook_cells(notebook) -> list[Cell]:
    """The code of a notebook, without that of the tests and pictures."""
    from IPython.core.inputtransformer2 import TransformerManager

    cells = []
    for cell in notebook.cells:
        note = cell.metadata.get("nbgrader", {})
        name = note.get("grade_id", "")
        if cell.cell_type != "code" or note.get("grade") or name.endswith("_picture"):
            continue
        source = TransformerManager().transform_cell(cell.source)  # without magics
        shared = "" if note.get("locked") else None
        cells.append(Cell(name if note.get("solution") else shared, source))
    if not any(cell.name for cell in cells):  # no holes: whatever it defines is an answer
        return [piece for cell in cells for piece in pieces(cell.source)]
    return cells


def pieces(source: str) -> list[Cell]:
    """A cell for each statement; none where this is no Python."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    lines, cells = source.splitlines(keepends=True), []
    for statement in statements:
        start = min([statement, *getattr(statement, "decorator_list", [])], key=lambda s: s.lineno).lineno - 1
        # empty lines in front, so that errors name the right line
        cells.append(Cell(defined(statement), "\n" * start + "".join(lines[start : statement.end_lineno])))
    return cells


def defined(statement: ast.stmt) -> str | None:
    """The name that a statement defines, "" for an import, None for anything else."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return ""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return targets[0].id if isinstance(targets[0], ast.Name) else None


def modules_of_checks() -> dict[str, ModuleType]:
    """The modules of checks by name, which bring the whole package with them."""
    names = [name for _, name, _ in pkgutil.iter_modules(checks.__path__)]
    return {name: importlib.import_module(f"minidistill.checks.{name}") for name in names}


def tests(cells: list[Cell]) -> dict[str, str]:
    """The code that tests each answer which has a check, by the answer's name. ValueError where none has."""
    files = modules_of_checks()
    found = {
        name: f"from minidistill.checks import {file} as checks\n"
        f"from minidistill.checks.grading import grade\n\ngrade(checks.check_{name}, {name})"
        for name in filter(None, (cell.name for cell in cells))
        for file, module in files.items()
        if hasattr(module, f"check_{name}")
    }
    if not found:
        raise ValueError("no function in this file has a check")
    return found


# the process that asks


def judge(cells: list[Cell], name: str, test: str) -> str:
    """What is wrong with the answer of this name, in a sentence; "" when it passes the test.

    Where the other cells do not even let themselves be read, it is read and tested without them.
    """
    said = talk([cell.source for cell in cells], test)
    if "graded" not in said and "grading" not in said:
        said = talk([cell.source for cell in cells if cell.name in ("", name)], test)
    if "graded" in said:
        return said["graded"]
    what = "Your function" if "grading" in said else "Your file, while it is read,"
    if "Timeout" in said:
        return (
            f"{what} still ran after the time limit, and did not stop for an exception. "
            "A loop without an end that catches all of them, or one in C?"
        )
    if "late" in said:
        return f"{what} was ended after too long a time."
    status = int(said["ended"])
    how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    return f"{what} ended the process that grades it, with {how}."


def talk(sources: list[str], test: str) -> dict[str, str]:
    """What a new process says while it reads the sources and runs the test: word -> the rest of its line."""
    command = [sys.executable, "-m", "minidistill.checks.apart"]
    patience = START + 2 * (seconds_for_an_answer() + SLACK)  # to read, and to answer
    said = {}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:

        def end(late: bool = True):
            if late:
                said["late"] = ""
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()

        timer = threading.Timer(patience, end)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(json.dumps([sources, test]).encode())
            for line in process.stdout:
                word, _, rest = line.decode(errors="replace").partition(" ")
                said[word] = json.loads(rest) if word == "graded" else rest.strip()
                if word in ("graded", "ended"):
                    break
            else:
                said["ended"] = str(process.wait())
        finally:
            timer.cancel()
            end(late=False)
    return said


# the process that answers


def main() -> None:
    """Read a task from stdin, and say on stdout how far it came."""
    sources, test = json.load(sys.stdin.buffer)
    wire = os.dup(1)
    say = lambda word, rest="": os.write(wire, f"{word} {rest}\n".encode())
    # what an answer could do to its parent process must not reach the one that asks
    if hasattr(os, "fork") and (child := os.fork()):
        say("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    modules_of_checks()
    hard_limits()
    torch.set_num_threads(1)
    seconds = seconds_for_an_answer()
    faulthandler.dump_traceback_later(seconds + SLACK, exit=True, file=wire)
    before = {
        place: {**vars(place)}
        for place in (*sys.modules.values(), torch.Tensor)
        if hasattr(place, "__dict__")
    }
    namespace, broken = run(sources)
    put_back(before)
    for name in [name for name in sys.modules if name.startswith("minidistill.checks")]:
        del sys.modules[name]
    say("grading")
    faulthandler.dump_traceback_later(seconds + SLACK, exit=True, file=wire)
    say("graded", json.dumps(examine(test, namespace, broken)))
    os._exit(0)  # without waiting for threads


def hard_limits() -> None:
    """Of memory and of files, which an answer cannot lift. Unix."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**27, 2**27))
        most = memory_in_use() + 5 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(sources: list[str]) -> tuple[Namespace, list[str]]:
    """The names that the sources define, and what went wrong; a statement that fails is left out.

    Statements that are nothing but an expression, such as a call of print, are left out as well.
    """
    namespace, broken, end = {"__name__": "answers"}, [], time.monotonic() + seconds_for_an_answer()
    for i, source in enumerate(sources):
        file = f"<cell {i + 1}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        try:
            statements = ast.parse(source, file).body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            broken.append(f"{type(error).__name__}: {error}")
            continue
        for statement in statements:
            if isinstance(statement, ast.Expr):
                continue
            try:
                with limits(max(end - time.monotonic(), 0.1), gigabytes=4.0):
                    exec(compile(ast.Module([statement], []), file, "exec"), namespace)
            except BaseException as error:
                broken.append(f"{type(error).__name__}: {error}")
    return namespace, broken


def put_back(before: dict[object, Namespace]) -> None:
    """Functions and classes that were replaced in a module, or in torch.Tensor, are there again."""
    for place, names in before.items():
        for name, value in names.items():
            if callable(value) and vars(place).get(name) is not value:
                setattr(place, name, value)


def examine(test: str, namespace: Namespace, broken: list[str]) -> str:
    """The sentence of a failing test, "" for one that passes."""
    names = {name: value for name, value in namespace.items() if not name.startswith("__")}
    try:
        exec(compile(test, "<test>", "exec"), names)
    except AssertionError as error:
        return str(error) or "A test fails, without a word."
    except NameError as error:
        why = " ".join(["Something in the file fails:", *broken[:1]]) if broken else "Is it spelled as asked?"
        return f"There is no {error.name}. {why}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    main()
