"""Trains flow maps and generators in the plane and writes what the lessons on them read.

    python notebooks/tables.py mixture         # 15 minutes on one core: every method from one network
    python notebooks/tables.py checkerboard    # an hour: a table that somebody else published, repeated
    python notebooks/tables.py generators      # 20 minutes: distribution matching, what it needs to converge

Each run appends its rows to a file in notebooks/checkpoints and is skipped when they are there.
"""

import argparse
import copy
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minidistill.asking import mean_square
from minidistill.checkpoints import save_atomically
from minidistill.dit import MLP
from minidistill.flowmap import (
    as_mean_velocity,
    diagonal,
    draw_times,
    flow_map_sample,
    improved_mean_flow_loss,
    lagrangian_loss,
    mean_flow_loss,
    shortcut_loss,
)
from minidistill.matching import alternate, fake_loss, generate, matching_loss
from minidistill.metrics import energy_distance, flow_map_error
from minidistill.oracle import ProductMixture
from minidistill.parameterization import Denoiser, as_denoiser
from minidistill.phased import flow_matching_loss, jump
from minidistill.progressive import diffusion_loss
from minidistill.schedules import mix, randn_like, rectified_flow, time_grid
from minidistill.train import train

HERE = Path(__file__).parent / "checkpoints"


def append(path: Path, row: dict) -> None:
    """Adds a row to a csv file, which is made if there is none."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def rows(path: Path) -> list[dict]:
    """The rows that are there already."""
    return list(csv.DictReader(path.open())) if path.exists() else []


# the checkerboard of github.com/NathanVanier/flow-map-self-distillation, notebooks/flowmap.ipynb


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """n points, uniform on the black fields of 4 x 4 unit fields on [-2, 2]^2."""
    field = torch.randint(8, (n,), generator=generator)
    row, column = field // 2, 2 * (field % 2) + field // 2 % 2
    return torch.stack([column, row], dim=1) + torch.rand(n, 2, generator=generator) - 2


def shortcut_without_stop(u: Callable, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Shortcut's loss with a target that is put into no_grad after it was computed: nothing is stopped."""
    z, m = mix(x, eps, t, rectified_flow), (t + s) / 2
    middle = jump(u(z, t, m), z, t, m)
    target = jump(u(middle, m, s), middle, m, s)
    landed = jump(u(z, t, s), z, t, s)
    return mean_square(landed, target)


def shortcut_of_jumps(u: Callable, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Shortcut's loss on where the jumps land, as theirs is: (t - s)^2 times ours."""
    return (t - s) ** 2 * shortcut_loss(u, x, eps, t, s)


BOARD = {  # the published numbers stand in the lesson
    "Lagrangian": lagrangian_loss,
    "Shortcut": shortcut_of_jumps,
    "Shortcut, nothing stopped": shortcut_without_stop,
    "Shortcut on u": shortcut_loss,
}


def train_on_board(loss: Callable, steps: int, seed: int, batch: int = 2048) -> Iterator[nn.Module]:
    """Three quarters of the batch flow matching, one quarter the loss; AdamW at a constant rate."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = [4, 256, 256, 256, 256]
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
    net = nn.Sequential(*layers, nn.Linear(256, 2))
    u = lambda z, t, s: net(torch.cat([z, t[:, None], s[:, None]], dim=1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=1e-4)
    k = 3 * batch // 4
    for _ in range(steps):
        x = checkerboard(batch, generator)
        eps, (t, s) = randn_like(x, generator), draw_times(batch, 0.75, generator)
        anchor = flow_matching_loss(diagonal(u), x[:k], eps[:k], t[:k]).mean()
        objective = anchor + loss(u, x[k:], eps[k:], t[k:], s[k:]).mean()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        yield u


def divergence(samples: Tensor, real: Tensor) -> float:
    """KL(real || samples) of histograms of 60 x 60 bins on [-2.5, 2.5]^2, with 1e-8 in every bin: theirs."""
    edges = torch.linspace(-2.5, 2.5, 61)
    p, q = (torch.histogramdd(x.double(), [edges.double()] * 2).hist for x in (real, samples))
    p, q = p / p.sum() + 1e-8, q / q.sum() + 1e-8
    return (p * (p / q).log()).sum().item()


def board(steps: int = 20_000, seeds: int = 1) -> None:
    """KL in 1, 2, 4, 8 and 16 steps for each loss."""
    path = HERE / "checkerboard.csv"
    for seed in range(seeds):
        for name, loss in BOARD.items():
            if any(row["loss"] == name and row["seed"] == str(seed) for row in rows(path)):
                continue
            start = time.process_time()
            for u in tqdm(train_on_board(loss, steps, seed), total=steps, desc=name):
                pass
            row = {"loss": name, "seed": seed, "seconds": round(time.process_time() - start)}
            generator = torch.Generator().manual_seed(1000 + seed)
            real, z = checkerboard(100_000, generator), torch.randn(100_000, 2, generator=generator)
            row["floor"] = divergence(checkerboard(100_000, generator), real)
            with torch.no_grad():
                for n in (1, 2, 4, 8, 16):
                    row[n] = divergence(flow_map_sample(u, z, time_grid(n)), real)
            append(path, row)


# every method from one flow-matching network, at equal cost, on six modes whose flow map is known

UNITS = 30_000  # forward 1, forward-mode derivative 1, backward 2, and 2 more through the derivative
METHODS = {  # loss, share of the batch that is flow matching on the diagonal, units of an update
    "flow matching, continued": (None, 1.0, 3.0),
    "Shortcut": (shortcut_loss, 0.75, 3.5),
    "MeanFlow": (mean_flow_loss, 0.75, 3.25),
    "improved MeanFlow": (improved_mean_flow_loss, 0.75, 3.5),
    "Lagrangian, own diagonal": (lagrangian_loss, 0.75, 4.0),
    "MeanFlow, teacher": (mean_flow_loss, 0.0, 5.0),
    "Lagrangian, teacher": (lagrangian_loss, 0.0, 7.0),
}


def six_modes() -> ProductMixture:
    """The oracle of lesson 09."""
    turn = torch.tensor([[0.88, -0.48], [0.48, 0.88]]) / (0.88**2 + 0.48**2) ** 0.5
    return ProductMixture(
        weights=torch.tensor([[0.3, 0.4, 0.3], [0.5, 0.5, 0.0]]),
        means=torch.tensor([[-0.85, 0.0, 0.85], [-0.5, 0.5, 0.0]]),
        stds=torch.full((2, 3), 0.1),
        rotation=turn,
    )


def mean_velocity(net: MLP, std: float) -> Callable:
    """Of a flow map, or of a network of one time, which is its own at every interval."""
    return as_mean_velocity(net if len(net.interval) else lambda z, t, interval: net(z, t), std)


def learn(net: MLP, name: str, x: Tensor, std: float, teacher: Callable, **options) -> MLP:
    """Trains net by a method, and returns the average of its weights."""
    loss, share, units = METHODS[name]
    ema = copy.deepcopy(net)

    def objective(net: MLP, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
        u, eps = mean_velocity(net, std), randn_like(x, generator)
        t, s = draw_times(len(x), share, generator)
        k = round(share * len(x))
        parts = [flow_matching_loss(diagonal(u), x[:k], eps[:k], t[:k])] if k else []
        if k < len(x):
            off = u, x[k:], eps[k:], t[k:], s[k:]
            parts.append(loss(*off, teacher=teacher) if name.endswith("teacher") else loss(*off))
        return torch.cat(parts)

    updates = round(UNITS / units)
    for _ in tqdm(train(net, objective, (x,), updates, 256, ema=ema, **options), total=updates, desc=name):
        pass
    return ema


def mixture(seeds: int = 3) -> None:
    """The paired error in 1, 2, 4, 8 steps, and by Euler's method in 128 on the network's own diagonal."""
    path, data = HERE / "flow_maps.csv", six_modes()
    x = data.sample(100_000, torch.Generator().manual_seed(7))
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
    ones, std = torch.ones(4000, dtype=torch.float64), x.std().item()
    ends = data.flow_map(z.double(), ones, 0 * ones, rectified_flow)

    @torch.no_grad()
    def errors(net: MLP) -> dict:
        u = mean_velocity(net, std)
        tangent = lambda z, t, s: u(z, t, t)
        many = flow_map_error(flow_map_sample(tangent, z, time_grid(128)).double(), ends)[0]
        few = {n: flow_map_error(flow_map_sample(u, z, time_grid(n)).double(), ends)[0] for n in (1, 2, 4, 8)}
        return few | {"Euler, 128": many}

    for seed in range(seeds):
        names = [row["method"] for row in rows(path) if row["seed"] == str(seed)]
        if {"flow matching", *METHODS} <= set(names):
            continue
        torch.manual_seed(seed)
        first = learn(MLP(top=4.0), "flow matching, continued", x, std, None, lr=3e-3, seed=seed)
        frozen = diagonal(mean_velocity(first, std))
        if "flow matching" not in names:
            append(
                path, {"method": "flow matching", "seed": seed, "updates": 0, "seconds": 0} | errors(first)
            )
        for name, (_, _, units) in METHODS.items():
            if name not in names:
                start, net = time.process_time(), MLP(top=4.0, interval=True)
                net.load_state_dict(first.state_dict(), strict=False)  # all but the interval's layer, 0
                student = learn(net, name, x, std, frozen, seed=100 + seed)
                spent = {"updates": round(UNITS / units), "seconds": round(time.process_time() - start, 1)}
                append(path, {"method": name, "seed": seed} | spent | errors(student))


# distribution matching on nine modes

TEACHER, FEW = 30_000, 6_000  # updates of a teacher that is good, and of one that is not yet
JUMPS = 3_000  # of a flow map
SHARP = 64.0  # the highest frequency of time: with 16 more seeds need more updates
GENERATORS = {  # the fake score at first, the start, fake updates for one, updates, learning rate, real score
    "from the flow map": (TEACHER, ("flow map", TEACHER), 5, 1000, 3e-4, "exact"),
    "the teacher as the real score": (TEACHER, ("flow map", TEACHER), 5, 1000, 3e-4, "teacher"),
    "one fake update": (TEACHER, ("flow map", TEACHER), 1, 1000, 3e-4, "exact"),
    "poor fake score": (FEW, ("flow map", TEACHER), 5, 1000, 3e-4, "exact"),
    "poor flow map": (TEACHER, ("flow map", FEW), 5, 1000, 3e-4, "exact"),
    "poor flow map and fake score": (FEW, ("flow map", FEW), 5, 1000, 3e-4, "exact"),
    "from the teacher": (TEACHER, ("teacher", TEACHER), 5, 2000, 1e-3, "exact"),
    "from the teacher, six times longer": (TEACHER, ("teacher", TEACHER), 5, 12_000, 1e-3, "exact"),
}


def nine_modes() -> ProductMixture:
    """Three times three Gaussians, turned: modes eight standard deviations apart."""
    angle = torch.tensor(0.5)
    weights, modes = [[0.3, 0.4, 0.3], [0.25, 0.35, 0.4]], [[-1.2, 0.0, 1.2]] * 2
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    return ProductMixture(torch.tensor(weights), torch.tensor(modes), torch.full((2, 3), 0.15), turn)


def run_to_the_end(run: Iterator, total: int, title: str) -> None:
    """Trains, with a bar."""
    for _ in tqdm(run, total=total, desc=title):
        pass


def one_step(net: MLP, std: float) -> Denoiser:
    """A generator: a network of one time, or a flow map's jump to the data."""
    return as_denoiser(lambda z, t: net(z, t, t) if len(net.interval) else net(z, t), rectified_flow, std)


def learn_score(x: Tensor, std: float, steps: int, seed: int) -> MLP:
    """The teacher: a denoiser."""
    torch.manual_seed(seed)
    net = MLP(top=SHARP)
    ema = copy.deepcopy(net)

    def loss(net: MLP, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return diffusion_loss(one_step(net, std), x, rectified_flow, generator=generator)

    run_to_the_end(train(net, loss, (x,), steps, 256, ema=ema, seed=seed), steps, "teacher")
    return ema


def learn_jumps(teacher: MLP, x: Tensor, std: float, seed: int, steps: int = JUMPS) -> MLP:
    """The teacher's flow map, a quarter of the jumps from pure noise."""
    net = MLP(top=SHARP, interval=True)
    net.load_state_dict(teacher.state_dict(), strict=False)
    ema, velocity = copy.deepcopy(net), diagonal(mean_velocity(teacher, std))

    def loss(net: MLP, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
        t, s = draw_times(len(x), 0.0, generator)
        t = torch.where(torch.arange(len(x)) < 0.75 * len(x), t, 1.0)
        return lagrangian_loss(mean_velocity(net, std), x, randn_like(x, generator), t, s, velocity)

    run_to_the_end(train(net, loss, (x,), steps, 256, ema=ema, seed=seed, warmup=0), steps, "flow map")
    return ema


def match(
    first: MLP,
    teacher: MLP,
    real: Denoiser,
    x: Tensor,
    std: float,
    steps: int,
    ratio: int,
    lr: float,
    seed: int,
) -> MLP:
    """A generator by distribution matching, from the weights of first."""
    net, ema, fake = copy.deepcopy(first), copy.deepcopy(first), copy.deepcopy(teacher)

    def matching(net: MLP, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
        y = generate(one_step(net, std), randn_like(x, generator))
        t = 0.02 + 0.96 * torch.rand(len(x), generator=generator)
        return matching_loss(y, randn_like(x, generator), t, real, one_step(fake, std), rectified_flow)

    def denoising(fake: MLP, x: Tensor, step: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            y = generate(one_step(net, std), randn_like(x, generator))
        t = 0.005 + 0.99 * torch.rand(len(x), generator=generator)
        return fake_loss(one_step(fake, std), y, randn_like(x, generator), t, rectified_flow)

    fake_run = train(fake, denoising, (x,), ratio * steps, 256, seed=seed + 1, warmup=0)
    own = {"lr": lr, "seed": seed, "warmup": 0, "ema": ema, "ema_decay": 0.99}
    run_to_the_end(
        alternate(fake_run, train(net, matching, (x,), steps, 256, **own), ratio), steps, "generator"
    )
    return ema


def generators(seeds: int = 3) -> None:
    """The energy distance to the data, with that of the data itself, and the paired error to the flow map."""
    path, data = HERE / "generators.csv", nine_modes()
    x = data.sample(100_000, torch.Generator().manual_seed(123))
    std, exact = x.std().item(), data.denoiser(rectified_flow)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(9))
    sets = [data.sample(4000, torch.Generator().manual_seed(7 + i)) for i in range(20)]
    energy = lambda y: sum(energy_distance(y, other) for other in sets[10:]) / 10
    floor = torch.tensor([energy(y) for y in sets[:10]])
    ends = data.flow_map(
        noise.double(), torch.ones(4000).double(), torch.zeros(4000).double(), rectified_flow
    )

    for seed in range(seeds):
        done = [row["generator"] for row in rows(path) if row["seed"] == str(seed)]
        if set(GENERATORS) <= set(done):
            continue
        teachers = {n: learn_score(x, std, n, seed) for n in (TEACHER, FEW)}
        maps = {n: learn_jumps(teacher, x, std, seed) for n, teacher in teachers.items()}
        if seed == 0:
            for name, net, n in (("teacher", teachers[TEACHER], TEACHER), ("flow-map", maps[TEACHER], JUMPS)):
                weights = {key: value.half() for key, value in net.state_dict().items()}
                run = {"data": "nine modes", "model": name, "seed": seed, "data_std": std}
                save_atomically({"ema": weights, "step": n, "run": run}, HERE / f"nine-{name}.pt")
        for name, (updates, (kind, known), ratio, steps, lr, real) in GENERATORS.items():
            if name in done:
                continue
            began, teacher = time.process_time(), teachers[updates]
            score = one_step(teacher, std) if real == "teacher" else exact
            first = teachers[known] if kind == "teacher" else maps[known]
            net = match(first, teacher, score, x, std, steps, ratio, lr, seed)
            row = {"generator": name, "seed": seed, "updates": steps}
            for when, model in (("start", first), ("energy", net)):
                with torch.no_grad():
                    y = generate(one_step(model, std), noise)
                row[when] = energy(y)
            row |= {"rmse": flow_map_error(y.double(), ends)[0], "floor_mean": floor.mean().item()}
            row |= {"floor_std": floor.std().item(), "seconds": round(time.process_time() - began)}
            append(path, row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["mixture", "checkerboard", "generators"])
    torch.set_num_threads(1)  # tiny networks: a second thread costs more than it brings
    {"mixture": mixture, "checkerboard": board, "generators": generators}[parser.parse_args().table]()
