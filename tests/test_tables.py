"""The script of the lesson on flow maps: its data, its measure, and the tables it wrote."""

import importlib.util
from pathlib import Path

import pytest
import torch

from minidistill.flowmap import shortcut_loss

FOLDER = Path(__file__).parents[1] / "notebooks"
spec = importlib.util.spec_from_file_location("tables", FOLDER / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
T, S = torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0.1, 0.5, 0.0])


def test_the_checkerboard():
    """Uniform on the black fields: as many points in each, none in the white ones."""
    points = tables.checkerboard(80_000, torch.Generator().manual_seed(0))
    column, row = (points + 2).floor().long().unbind(1)
    assert ((column >= 0) & (column < 4) & (row >= 0) & (row < 4) & ((column + row) % 2 == 0)).all()
    counts = torch.bincount(4 * column + row)
    assert (counts[counts > 0] - 10_000).abs().max() < 500 and (counts > 0).sum() == 8
    inside = points - points.floor()
    assert (inside.mean(0) - 0.5).abs().max() < 0.01 and (inside.std(0) - 12**-0.5).abs().max() < 0.01


def test_the_divergence():
    g = torch.Generator().manual_seed(0)
    one, two = (tables.checkerboard(100_000, g) for _ in range(2))
    assert tables.divergence(one, one) == 0 < tables.divergence(two, one) < 0.02
    half = one[one[:, 0] > 0]  # twice the density on the right half, nothing on the left
    assert tables.divergence(one, half) == pytest.approx(torch.tensor(2.0).log().item(), abs=0.01)


def test_the_published_mistake_is_the_missing_stop_gradient():
    """The same value as Shortcut's loss of jumps, and another gradient."""
    x, eps = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    scale = torch.ones((), requires_grad=True)
    u = lambda z, t, s: scale * torch.tanh(z) * (1 + t - s)[:, None]
    stopped, free = (
        loss(u, x, eps, T, S) for loss in (tables.shortcut_of_jumps, tables.shortcut_without_stop)
    )
    torch.testing.assert_close(stopped, free)
    torch.testing.assert_close(stopped, (T - S) ** 2 * shortcut_loss(u, x, eps, T, S))
    slopes = [torch.autograd.grad(loss.sum(), scale)[0] for loss in (stopped, free)]
    assert (slopes[0] - slopes[1]).abs() > 0.01


def test_short_trainings():
    *_, u = tables.train_on_board(tables.lagrangian_loss, 3, seed=0)
    assert u(torch.zeros(4, 2), torch.ones(4), torch.zeros(4)).isfinite().all()


def test_the_committed_tables():
    """Every method of three seeds; a teacher's knowledge helps in one step, in each of them."""
    found = tables.rows(FOLDER / "checkpoints" / "flow_maps.csv")
    one = {(row["method"], row["seed"]): float(row["1"]) for row in found}
    for seed in "012":
        assert {method for method, k in one if k == seed} == {"flow matching", *tables.METHODS}
        own = min(one[name, seed] for name in tables.METHODS if "teacher" not in name)
        assert one["Lagrangian, teacher", seed] < own < one["flow matching, continued", seed] / 4
    board = {row["loss"]: row for row in tables.rows(FOLDER / "checkpoints" / "checkerboard.csv")}
    assert set(board) == set(tables.BOARD)
    assert all(float(row["16"]) < float(row["1"]) and float(row["floor"]) < 0.02 for row in board.values())
