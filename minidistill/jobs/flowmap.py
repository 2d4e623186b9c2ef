"""Teaches a flow-matching model to jump between any two times.

    minidistill flowmap --loss lagrangian mean_flow

One student in 1, 2, 4 and 8 steps. It starts from the teacher's weights, as Euler's method. Several losses
make several students. (--compile does nothing for those that are differentiated forwards, all but shortcut.)
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill import need
from minidistill.asking import mean_square
from minidistill.flowmap import MeanVelocity, halves_target, mean_flow_loss
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    LAGRANGIAN,
    TEACHER_STEPS,
    TOP,
    by_euler,
    by_jumps,
    network,
    train_flow_map,
    train_flow_teacher,
    train_judge,
)
from minidistill.metrics import Classifier
from minidistill.phased import Velocity
from minidistill.schedules import like, mix, rectified_flow


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
    "lagrangian": LAGRANGIAN,
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
        stage(loss, train_flow_map, copy.deepcopy(flow_map), student, teacher, *LOSSES[loss], scale, x, y)
        contestants += [by_jumps(loss, student, data_std, n) for n in (8, 4, 2, 1)]
    return partial(contest.result, contestants, judge, data, args, models)
