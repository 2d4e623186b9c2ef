import re
import shlex
from pathlib import Path

import torch

from minidistill.__main__ import parse

ROOT = Path(__file__).parents[1]


def test_the_ten_lines_run(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    torch.manual_seed(0)
    exec(code, {})
    assert float(re.search(r"tensor\((.*?)\)", capsys.readouterr().out).group(1)) < 1e-4


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_every_command_can_be_run():
    """What README and checkpoints say to type is understood, with the options that it names."""
    for path in (ROOT / "README.md", ROOT / "notebooks" / "checkpoints" / "README.md"):
        commands = re.findall(r"`(minidistill [^`]*)`", path.read_text())
        assert commands
        for command in commands:
            if "METHOD" not in command:
                arguments = shlex.split(command)[1:]
                assert parse(arguments).method == arguments[0]


def test_what_is_said_about_the_package_is_in_one_place():
    """The version and the license of pyproject.toml, CITATION.cff and LICENSE."""
    project, citation = ((ROOT / name).read_text() for name in ("pyproject.toml", "CITATION.cff"))
    version = re.search(r'^version = "(.*)"$', project, re.M).group(1)
    assert f"\nversion: {version}\n" in citation
    assert '\nlicense = "MIT"\n' in project and "\nlicense: MIT\n" in citation
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
