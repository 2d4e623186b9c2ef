"""pytest --impl=FILE: every check whose function the file defines, each in a process of its own."""

import pytest

from minidistill.checks import apart


def pytest_generate_tests(metafunc):
    answers = metafunc.config.answers
    metafunc.parametrize("name, test", answers.items(), ids=answers)


def test_answer(name, test, pytestconfig):
    if sentence := apart.judge(pytestconfig.cells, name, test):
        pytest.fail(sentence, pytrace=False)  # the sentence, without the path that led to it
