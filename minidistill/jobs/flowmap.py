"""Teaches a flow-matching model to jump between any two times.

    minidistill flowmap --loss lagrangian mean_flow

One student in 1, 2, 4 and 8 steps. It starts from the teacher's weights, as Euler's method. Several losses
make several students. (--compile does nothing for those that are differentiated forwards, all but shortcut.)
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill import need
from minidistill.asking import mean_square
from minidistill.dit import DiT
from minidistill.flowmap import (
    MeanVelocity,
    as_mean_velocity,
    diagonal,
    draw_times,
    flow_map_sample,
    halves_target,
    lagrangian_loss,
    mean_flow_loss,
)
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    TEACHER_STEPS,
    Contestant,
    batch,
    network,
    train_flow_teacher,
    train_judge,
)
from minidistill.metrics import Classifier
from minidistill.parameterization import guided
from minidistill.phased import Velocity, phased_sample
from minidistill.schedules import like, mix, randn_like, rectified_flow, time_grid
from minidistill.train import train

TOP = 16.0  # the highest frequency of time: MeanFlow differentiates the embedding, and 256 is steep


def anchored_shortcut(
    u: MeanVelocity, x: Tensor, eps: Tensor, t: Tensor, s: Tensor, teacher: Velocity
) -> Tensor:
    """`shortcut_loss`, and on the diagonal the distance to the teacher's velocity, the anchor: (b,)."""
    z = mix(x, eps, t, rectified_flow)
    with torch.no_grad():
        wanted = torch.where(like(t - s, z) > 0, halves_target(u, z, t, s), teacher(z, t))
    return mean_square(u(z, t, s), wanted)


# what a student learns by: a loss (u, x, eps, t, s, teacher), the share of a batch on the diagonal, its
# anchor, and the share of jumps that start at pure noise, as samplers do. Lagrangian asks the teacher where
# it lands, and needs no anchor; MeanFlow runs away without one, and with many long jumps
LOSSES = {
    "lagrangian": (lagrangian_loss, 0.0, 0.25),
    "mean_flow": (mean_flow_loss, 0.5, 0.0),
    "shortcut": (anchored_shortcut, 0.5, 0.25),
}

load, default_updates = contest.load, contest.default_updates


def options(add: Callable) -> None:
    """Those of images, the losses, and guidance."""
    contest.options(add, "each of its students takes as many")
    add(
        "--loss",
        nargs="+",
        choices=list(LOSSES),
        default=["lagrangian"],
        help="what the student learns by; several make several students (default: lagrangian)",
    )
    contest.guidance_option(add)


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores: a teacher, and students that take longer."""
    return contest.minutes(args, digits=1, others=10) + len(args.loss) * contest.minutes(args, 4, 40)


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge, teacher, and a student for each loss. Raises ValueError for a loss that is given twice."""
    need.number("--guidance", args.guidance, -1000, 1000)
    if len(set(args.loss)) < len(args.loss):
        raise ValueError("each --loss makes one student: the same loss was given twice")
    students = {loss: args.updates for loss in args.loss}
    return {"judge": contest.JUDGE_UPDATES, "teacher": args.updates} | students


def teacher_velocity(net: DiT, data_std: float, label: Tensor, scale: float) -> Velocity:
    """A network of one time, guided, without the 1 / t of `as_velocity`. Scale 1 asks once."""

    def velocity(label: Tensor) -> Velocity:
        return diagonal(as_mean_velocity(lambda z, t, interval: net(z, t, label=label), data_std))

    if scale == 1:
        return velocity(label)
    return guided(velocity(label), velocity(torch.full_like(label, net.null)), scale)


def train_flow_map(
    net: DiT, ema: DiT, teacher: DiT, name: str, guidance: float, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A flow map of the guided teacher, from its weights. The student is `ema`."""
    data_std, (distance, share, noise) = x.std().item(), LOSSES[name]
    for model in (net, ema):
        missing, _ = model.load_state_dict(teacher.state_dict(), strict=False)
        assert all(name.startswith("interval.") for name in missing)  # whose last layer is 0

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        eps, (t, s) = randn_like(x, generator), draw_times(len(x), share, generator)
        t = torch.where(torch.arange(len(x), device=x.device) < (1 - noise) * len(x), t, 1.0)  # the last ones
        velocity = teacher_velocity(teacher, data_std, y, guidance)
        return distance(as_mean_velocity(net, data_std, label=y), x, eps, t, s, velocity)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, warmup=0, **options)


def by_euler(model: str, net: DiT, data_std: float, steps: int, guidance: float) -> Contestant:
    """The teacher, step by step."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        return phased_sample(teacher_velocity(net, data_std, labels, guidance), noise, time_grid(steps))

    return Contestant(model, steps, sample)


def by_jumps(model: str, net: DiT, data_std: float, steps: int) -> Contestant:
    """A flow map, which is told where to land."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        return flow_map_sample(as_mean_velocity(net, data_std, label=labels), noise, time_grid(steps))

    return Contestant(model, steps, sample)


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """Every student in 1, 2, 4 and 8 steps, beside the teacher in as many."""
    x, y, *_ = data
    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(x.device)
    net = network(x, top=TOP).to(x.device)
    teacher = copy.deepcopy(net)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_flow_teacher, net, teacher, x, y)
    data_std, scale = x.std().item(), args.guidance
    contestants = [by_euler("teacher", teacher, data_std, TEACHER_STEPS, scale)]
    contestants += [by_euler("undistilled", teacher, data_std, n, scale) for n in (8, 4, 2, 1)]
    models, flow_map = {"teacher": teacher}, network(x, top=TOP, interval=True).to(x.device)
    for loss in args.loss:
        models[loss] = student = copy.deepcopy(flow_map)
        stage(loss, train_flow_map, copy.deepcopy(flow_map), student, teacher, loss, scale, x, y)
        contestants += [by_jumps(loss, student, data_std, n) for n in (8, 4, 2, 1)]
    return partial(contest.result, contestants, judge, data, args, models)
