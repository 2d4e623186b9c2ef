import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_ten_lines_run(capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    torch.manual_seed(0)
    exec(code, {})
    assert float(re.search(r"tensor\((.*?)\)", capsys.readouterr().out).group(1)) < 1e-4


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert target.startswith("http") or (ROOT / target).exists(), target
