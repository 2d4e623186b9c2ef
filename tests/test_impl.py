"""pytest --impl=FILE: every check whose function the file defines."""

import importlib
import pkgutil

import pytest

from conftest import answers
from minidistill import checks
from minidistill.checks.grading import grade

MODULES = [
    importlib.import_module(f"minidistill.checks.{module.name}")
    for module in pkgutil.iter_modules(checks.__path__)
]


def pytest_generate_tests(metafunc):
    found = answers(metafunc.config.option.impl)
    cases = {
        name: (getattr(m, f"check_{name}"), f)
        for name, f in found.items()
        for m in MODULES
        if hasattr(m, f"check_{name}")
    }
    if not cases:
        raise pytest.UsageError("--impl: no function in this file has a check")
    metafunc.parametrize("check, answer", cases.values(), ids=cases)


def test_answer(check, answer):
    __tracebackhide__ = True
    try:
        grade(check, answer)
    except AssertionError as error:
        sentence = str(error)  # the hint, without the path that led to it
    else:
        return
    pytest.fail(sentence, pytrace=False)
