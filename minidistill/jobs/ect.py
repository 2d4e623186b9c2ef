"""Tunes the teacher into a consistency model: one jump to the data.

    minidistill ect --data mnist

It is compared in 1, 2 and 4 jumps, with fresh noise between them. The network sees the angle of the noise and
not the schedule, so that a teacher of the cosine schedule is a start for a student in EDM's time.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill.consistency import ect_loss, ect_stage, lognormal_times
from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    Contestant,
    batch,
    by_ddim,
    fresh_generator,
    network,
    train_judge,
    train_teacher,
)
from minidistill.metrics import Classifier
from minidistill.parameterization import as_denoiser
from minidistill.samplers import renoise
from minidistill.schedules import edm, randn_like
from minidistill.train import train

options, load, default_updates = contest.options, contest.load, contest.default_updates


# each stage halves the gap between the two times that are compared: at high noise, 1/2 to 1/256 of t
STAGES = 8
# EDM times of consistency sampling, in which the network is asked at all but the last
TIMES = {1: [80.0, 0.0], 2: [80.0, 0.8, 0.0], 4: [80.0, 5.0, 1.0, 0.4, 0.0]}


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    return contest.minutes(args, digits=3, others=20)


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge, teacher, and the student, which takes as many updates as the teacher."""
    return {"judge": contest.JUDGE_UPDATES, "teacher": args.updates, "ect": args.updates}


def train_ect(
    net: DiT, ema: DiT, teacher: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A consistency model, from the teacher's weights, by Easy Consistency Tuning. The student is `ema`."""
    data_std = x.std().item()
    for model in (net, ema):
        model.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        stage = min(ect_stage(step, max(1, steps // STAGES)), STAGES)
        t = lognormal_times(len(x), generator=generator, device=x.device)
        f = as_denoiser(net, edm, data_std, label=y)
        return ect_loss(f, x, randn_like(x, generator), t, stage)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, warmup=0, **options)


def by_renoise(model: str, net: DiT, data_std: float, steps: int, seed: int) -> Contestant:
    """A consistency function in 1, 2 or 4 jumps, with fresh noise between them."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        f = as_denoiser(net, edm, data_std, label=labels)
        times = torch.tensor(TIMES[steps])
        generator = fresh_generator(noise, seed)
        return renoise(f, times[0] * noise, times, edm, generator=generator)

    return Contestant(model, steps, sample, paired=steps == 1)


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """The student in 1, 2 and 4 jumps, beside the teacher in as many steps and in 8."""
    x, y, *_ = data
    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(x.device)
    net = network(x).to(x.device)
    teacher, student = copy.deepcopy(net), copy.deepcopy(net)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_teacher, net, teacher, x, y)
    stage("ect", train_ect, net, student, teacher, x, y)
    data_std = x.std().item()
    contestants = contest.teachers(teacher, data_std)
    for n in (8, 4, 2, 1):
        contestants.append(by_ddim("undistilled", teacher, data_std, n))
        if n in TIMES:
            contestants.append(by_renoise("ect", student, data_std, n, args.seed))
    return partial(contest.result, contestants, judge, data, args, {"teacher": teacher, "ect": student})
