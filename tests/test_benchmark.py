"""The benchmark runs to its end, also where there is no GPU: what is captured must be what is run eagerly."""

import benchmark
import pytest
import torch

from minidistill import dit


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Every time that is measured is that of one call."""

    def seconds(call, *_, **__):
        call()
        return 1.0

    monkeypatch.setattr(benchmark, "median_seconds", seconds)


def test_the_other_networks_are_of_the_same_size():
    shape = {"patch": 2, "dim": 32, "depth": 2, "heads": 4}
    count = lambda net: sum(p.numel() for p in net.parameters() if p.requires_grad)
    ours, usual = dit.DiT(**shape, classes=10), benchmark.Usual(8, **shape)
    assert 0.8 < count(usual) / count(ours) < 1.25
    for net in (ours, usual):
        step, loss = benchmark.training_step(net, 8, 4)()
        assert step == 1 and loss.isfinite()


def test_sampling_prints_a_row_for_each(capsys):
    benchmark.sampling()
    printed = capsys.readouterr().out
    assert all(f"ours: {name}" in printed for name in ("ddim", "euler", "heun"))


def test_the_rows_of_a_gpu(monkeypatch, capsys):
    """On the processor, where a captured call is the call itself."""
    monkeypatch.setattr(torch, "compile", lambda net: net)
    benchmark.on_device("cpu", (4,), capture=lambda call: call)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["training step", "8 DDIM steps"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_call_is_the_call():
    x = torch.randn(4, 1, 8, 8, device="cuda")
    net, t = dit.DiT(classes=10).cuda(), torch.rand(4, device="cuda")
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    found = torch.empty_like(x)
    with torch.no_grad():
        replay = benchmark.capture(lambda: found.copy_(net(x, t)))
        x.normal_()
        replay()
        torch.testing.assert_close(found, net(x, t), atol=1e-5, rtol=1e-4)
