"""The script of the lessons on flow maps and matching: its data, its measures, and the tables it wrote."""

import importlib.util
from pathlib import Path

import pytest
import torch

from minidistill.checkpoints import load
from minidistill.dit import MLP
from minidistill.flowmap import shortcut_loss
from minidistill.matching import generate
from minidistill.metrics import energy_distance

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


def test_nine_modes():
    """Eight standard deviations apart, with the weights of the table."""
    data = tables.nine_modes()
    points = data.sample(50_000, torch.Generator().manual_seed(0)) @ data.rotation
    index = (points / 1.2).round().clamp(-1, 1).long() + 1
    assert ((points - 1.2 * (index - 1)).std(0) - 0.15).abs().max() < 0.002
    share = torch.bincount(3 * index[:, 0] + index[:, 1], minlength=9).reshape(3, 3) / 50_000
    assert (share - data.weights[0][:, None] * data.weights[1]).abs().max() < 0.01


def test_a_short_match_starts_where_it_is_told():
    x, first = torch.randn(64, 2), MLP(interval=True)
    net = tables.match(first, MLP(), tables.one_step(MLP(), 1.0), x, 1.0, steps=2, ratio=3, lr=1e-9, seed=0)
    torch.testing.assert_close(net.state_dict(), first.state_dict(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_committed_generators():
    """With good networks one start reaches the floor and keeps the flow map; the other comes near, elsewhere."""
    found = tables.rows(FOLDER / "checkpoints" / "generators.csv")
    rows = {
        (r["generator"], r["seed"]): {k: float(v) for k, v in r.items() if k != "generator"} for r in found
    }
    for seed in "012":
        assert {name for name, k in rows if k == seed} == set(tables.GENERATORS)
        near, far = rows["from the flow map", seed], rows["from the teacher, six times longer", seed]
        floor = near["floor_mean"] + 2 * near["floor_std"]
        assert near["energy"] < floor and far["energy"] < min(
            0.0005, rows["from the teacher", seed]["energy"]
        )
        assert near["rmse"] < 0.2 < 0.5 < far["rmse"]
        assert rows["one fake update", seed]["energy"] > 2 * near["start"]
        # a poor start is not mended, by whatever score, and a poor score spoils a good start
        assert all(
            rows[f"poor flow map{more}", seed]["energy"] > 10 * floor for more in ("", " and fake score")
        )
        assert rows["poor fake score", seed]["energy"] > 2 * floor


@torch.no_grad()
def test_the_committed_networks_of_the_plane():
    """In half precision, too, the flow map's samples are as near as the table says."""
    net, data = MLP(top=tables.SHARP, interval=True), tables.nine_modes()
    load(FOLDER / "checkpoints" / "nine-flow-map.pt", {"ema": net})
    std = data.sample(100_000, torch.Generator().manual_seed(123)).std().item()
    y = generate(tables.one_step(net, std), torch.randn(4000, 2, generator=torch.Generator().manual_seed(9)))
    assert energy_distance(y, data.sample(4000, torch.Generator().manual_seed(17))) < 2e-3
