"""Halves the steps of a teacher, again and again: from 32 to 1.

    minidistill progressive --data mnist

Teacher and students are one small DiT, class-conditional. Notebook 00 tells this in pictures.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    TEACHER_STEPS,
    batch,
    by_ddim,
    guided_denoiser,
    network,
    train_judge,
    train_teacher,
)
from minidistill.metrics import Classifier
from minidistill.need import Number
from minidistill.parameterization import as_denoiser
from minidistill.progressive import halvings, progressive_loss
from minidistill.schedules import cosine
from minidistill.train import train

load, default_updates = contest.load, contest.default_updates


def options(add: Callable) -> None:
    """Those of images, and guidance."""
    contest.options(add)
    contest.guidance_option(add)


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    return contest.minutes(args, digits=2, others=25)


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge and teacher, then 16, 8, 4, 2 and 1 steps."""
    students = {f"student {n}": updates for n, updates in student_updates(args.updates).items()}
    return {"judge": contest.JUDGE_UPDATES, "teacher": args.updates} | students


def student_updates(teacher_updates: int) -> dict[int, int]:
    """Updates for each student: together as many as the teacher, and twice as many for the last two (5.2)."""
    share = teacher_updates * 3 // 20
    return {n: share * (2 if n <= 2 else 1) for n in halvings(TEACHER_STEPS)}


def train_student(
    net: DiT, teacher: DiT, n: int, guidance: Number, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps, from the teacher's weights; no EMA, since the learning rate falls to 0."""
    data_std = x.std().item()
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        student = as_denoiser(net, cosine, data_std, label=y)
        fixed = guided_denoiser(teacher, cosine, data_std, y, guidance)
        return progressive_loss(student, fixed, x, n, cosine, generator=generator)

    return train(net, loss, (x, y), steps, batch(x), warmup=0, **options)


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """Each student learns from the one before it, and is compared with the teacher in as many steps."""
    x, y, *_ = data
    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(x.device)
    net = network(x).to(x.device)
    parent = teacher = copy.deepcopy(net)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_teacher, net, teacher, x, y)
    data_std, scale = x.std().item(), args.guidance
    contestants = contest.teachers(teacher, data_std, scale)
    for n in halvings(TEACHER_STEPS):
        student = copy.deepcopy(net)
        # only the teacher has to be guided: its first student has learned it
        stage(f"student {n}", train_student, student, parent, n, scale if parent is teacher else 1.0, x, y)
        contestants.append(by_ddim("undistilled", teacher, data_std, n, scale))
        contestants.append(by_ddim("student", student, data_std, n))
        parent = student
    models = {"teacher": teacher, "student 1": student}
    return partial(contest.result, contestants, judge, data, args, models)
