"""Teaches a flow-matching model to jump to the edges of its phases.

    minidistill phased --plan "200-8,400-4" --guidance 1.5

Each student is compared in 1 to 8 steps, by Euler and with fresh noise.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill import need
from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    Contestant,
    batch,
    flow,
    fresh_generator,
    guided_denoiser,
    network,
    train_flow_teacher,
    train_judge,
)
from minidistill.metrics import Classifier
from minidistill.parameterization import as_velocity
from minidistill.phased import (
    Velocity,
    grid_stops,
    parse_plan,
    phase_edges,
    phase_grid,
    phased_loss,
    phased_sample,
    phases_at,
)
from minidistill.schedules import randn_like, rectified_flow
from minidistill.train import train

GRID = 40  # teacher steps that a phased student learns from: divided by 1, 2, 4 and 8 phases

load, default_updates = contest.load, contest.default_updates


def options(add: Callable) -> None:
    """Those of images, the plans, and guidance."""
    contest.options(add)
    add(
        "--plan",
        nargs="+",
        help='how many phases up to which update, "200-8,400-4"; several plans make several students, which '
        "share the updates (default: three students, of 1, 2 and 4 phases)",
    )
    contest.guidance_option(add)


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    return contest.minutes(args, digits=3, others=30)


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge, teacher, and a student for each plan. Raises ValueError for a plan that cannot be followed."""
    need.number("--guidance", args.guidance, -1000, 1000)
    texts = plans(args)
    updates = args.updates // len(texts)
    for text in texts:
        check_plan(text, updates)
    if len(set(texts)) < len(texts):
        raise ValueError("each --plan makes one student: the same plan was given twice")
    students = {f"plan {text}": updates for text in texts}
    return {"judge": contest.JUDGE_UPDATES, "teacher": args.updates} | students


def plans(args: argparse.Namespace) -> list[str]:
    """The plans that were asked for, or 1, 2 and 4 phases all the time."""
    return args.plan or [f"{args.updates // 3}-{phases}" for phases in (1, 2, 4)]


def check_plan(text: str, updates: int) -> None:
    """Raises ValueError when the plan does not fit the grid, or its last entry would never be reached."""
    plan = parse_plan(text)
    for _, phases in plan:
        phase_edges(phase_grid(GRID), phases)  # refuses what does not divide the grid
    if len(plan) > 1 and plan[-2][0] >= updates:
        raise ValueError(
            f"plan {text}: its last entry starts after update {plan[-2][0]}, and this student has {updates}"
        )


def guided_flow(net: DiT, data_std: float, label: Tensor, scale: float) -> Velocity:
    """The network's velocity, guided away from that without a label. Scale 1 asks once."""
    return as_velocity(guided_denoiser(net, rectified_flow, data_std, label, scale))


def train_phased(
    net: DiT,
    ema: DiT,
    teacher: DiT,
    plan: list[tuple[int, int]],
    guidance: float,
    x: Tensor,
    y: Tensor,
    steps: int,
    **options,
) -> Iterator[tuple[int, Tensor]]:
    """A phased student of the guided teacher, from its weights. `ema` is the target, and the student."""
    data_std, grid = x.std().item(), phase_grid(GRID)
    for model in (net, ema):
        model.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        edges = phase_edges(grid, phases_at(plan, step))
        index = torch.randint(1, len(grid), (len(x),), generator=generator, device=x.device)
        velocities = (
            flow(net, data_std, y),
            flow(ema, data_std, y),
            guided_flow(teacher, data_std, y, guidance),
        )
        return phased_loss(*velocities, x, randn_like(x, generator), index, grid, edges)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, ema_decay=0.95, warmup=0, **options)


def by_flow(
    model: str,
    net: DiT,
    data_std: float,
    steps: int,
    guidance: float = 1.0,
    fresh: float = 0.0,
    seed: int = 0,
) -> Contestant:
    """A velocity along `steps` stops of the training grid: Euler, or with fresh noise."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        velocity = guided_flow(net, data_std, labels, guidance)
        stops = grid_stops(phase_grid(GRID), steps)
        return phased_sample(velocity, noise, stops, fresh, fresh_generator(noise, seed))

    return Contestant(model, steps, sample, paired=fresh == 0)


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """Every student on every number of steps, also those that it was not made for."""
    x, y, *_ = data
    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(x.device)
    net = network(x).to(x.device)
    teacher = copy.deepcopy(net)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_flow_teacher, net, teacher, x, y)
    data_std, scale = x.std().item(), args.guidance
    contestants = [by_flow("teacher", teacher, data_std, GRID, scale)]
    contestants += [by_flow("undistilled", teacher, data_std, n, scale) for n in (8, 4, 2, 1)]
    for text in plans(args):
        name, student = f"plan {text}", copy.deepcopy(net)
        stage(name, train_phased, net, student, teacher, parse_plan(text), scale, x, y)
        for n in (8, 4, 2, 1):
            contestants.append(by_flow(f"{name}, Euler", student, data_std, n))
            if n > 1:  # one jump needs no noise
                noisy = by_flow(f"{name}, noise", student, data_std, n, fresh=1.0, seed=args.seed)
                contestants.append(noisy)
    return partial(contest.result, contestants, judge, data, args, {"teacher": teacher})
