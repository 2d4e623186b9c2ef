"""Starts small and doubles the size, then halves the steps of each.

    minidistill pyramid --data mnist

Compared with one size at as many training FLOPs: digits at 16x16, 28x28 images in a frame of 2.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidistill import data
from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import Contestant, fresh_generator, some_dropped, train_judge
from minidistill.metrics import Classifier
from minidistill.progressive import halvings
from minidistill.pyramid import (
    Stage,
    at_level,
    pyramid_distillation_loss,
    pyramid_loss,
    pyramid_sample,
)
from minidistill.pyramid import stages as make_stages
from minidistill.schedules import randn_like
from minidistill.train import train

CUTS = [0, 1 / 3, 2 / 3, 1]  # three sizes: 4x4, 8x8 and 16x16 for digits
STEPS = 8  # sampling steps of the pyramidal teacher in each stage
BATCH = 96  # shared equally by the stages

options, default_updates = contest.options, contest.default_updates


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    return contest.minutes(args, digits=5, others=40)


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge, the pyramid, one size with as many training FLOPs as all its stages, then the students."""
    side = 16 if args.data == "digits" else 32
    sizes = make_stages(CUTS)
    flops = forward_flops(network(side), side, sizes)
    plain = max(1, round(args.updates * sum(flops) / len(flops) / flops[-1]))
    students = halvings(STEPS)
    return {"judge": contest.JUDGE_UPDATES, "teacher": args.updates, "plain": plain} | {
        f"student {n}": args.updates // len(students) for n in students
    }


def load(args: argparse.Namespace) -> list[Tensor]:
    """The images that the options ask for, at a size that can be halved twice."""
    x, y, x_test, y_test = contest.load(args)
    return [images(x), y, images(x_test), y_test]


def images(x: Tensor) -> Tensor:
    """Images whose size can be halved twice: 8x8 digits at 16x16, 28x28 images in a frame of 2."""
    return data.enlarge(x) if x.shape[-1] == 8 else nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)


def network(side: int) -> DiT:
    """A DiT for all sizes of the pyramid, up to 16 or 32; its answer is the velocity itself."""
    return (
        DiT(patch=2, dim=64, depth=4, classes=10) if side == 16 else DiT(patch=4, dim=80, depth=3, classes=10)
    )


def forward_flops(net: DiT, side: int, sizes: Sequence[Stage]) -> list[int]:
    """Floating-point operations of one forward pass for one sample, at the size of each stage.

    Without fused attention, of which torch does not count them on every device.
    """
    counts = []
    for i in range(len(sizes)):
        z = next(net.parameters()).new_zeros(1, net.channels, side, side)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            net(at_level(z, len(sizes) - 1 - i), z.new_ones(1))
        counts.append(counter.get_total_flops())
    return counts


def train_pyramid(
    net: DiT, ema: DiT, sizes: Sequence[Stage], x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """Pyramidal flow matching given the label, of which a tenth are dropped, for guidance.

    With one stage, plain flow matching. The teacher is `ema`.
    """

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        u = 1 - torch.rand(len(x), generator=generator, device=x.device)
        label = some_dropped(y, net, generator)
        return pyramid_loss(net, x, randn_like(x, generator), u, sizes, label=label)

    return train(net, loss, (x, y), steps, batch=BATCH, lr=2e-3, ema=ema, **options)


def train_pyramid_student(
    net: DiT, teacher: DiT, sizes: Sequence[Stage], n: int, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps in each stage, from the weights of a teacher of 2 n."""
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(1, n + 1, (len(x),), generator=generator, device=x.device)
        noise = randn_like(x, generator)
        return pyramid_distillation_loss(net, teacher, x, noise, index, sizes, n, label=y)

    return train(net, loss, (x, y), steps, batch=BATCH, warmup=0, **options)


def by_pyramid(
    model: str, net: DiT, sizes: Sequence[Stage], steps: int, flops: Sequence[int], seed: int = 0
) -> Contestant:
    """`steps` in each stage, with the same noise in the jumps for all. A single stage is paired with none."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        generator, images = fresh_generator(noise, seed), []
        # in parts that stay in the processor's cache, where large ones cost twice the time
        for part, label in zip(noise.split(50), labels.split(50)):
            velocity = lambda z, t, label=label: net(z, t, label=label)
            images.append(pyramid_sample(velocity, part, sizes, steps, generator=generator))
        return torch.cat(images)

    return Contestant(model, steps * len(sizes), sample, len(sizes) > 1, steps * sum(flops) / 1e6)


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """Pyramid and one size with as many evaluations, then student after student, each beside them."""
    x, y, *_ = data
    side, sizes, single = x.shape[-1], make_stages(CUTS), make_stages([0, 1])
    torch.manual_seed(args.seed)
    judge = Classifier(side=side).to(x.device)
    net = network(side).to(x.device)
    parent = teacher = copy.deepcopy(net)
    blank, plain = copy.deepcopy(net), copy.deepcopy(net)
    flops = forward_flops(net, side, sizes)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_pyramid, net, teacher, sizes, x, y)
    stage("plain", train_pyramid, blank, plain, single, x, y)
    one_size = lambda n: by_pyramid("one size", plain, single, n * len(sizes), flops[-1:], args.seed)
    contestants = [by_pyramid("teacher", teacher, sizes, STEPS, flops, args.seed), one_size(STEPS)]
    for n in halvings(STEPS):
        student = copy.deepcopy(net)
        stage(f"student {n}", train_pyramid_student, student, parent, sizes, n, x, y)
        contestants.append(one_size(n))
        contestants.append(by_pyramid("undistilled", teacher, sizes, n, flops, args.seed))
        contestants.append(by_pyramid("student", student, sizes, n, flops, args.seed))
        parent = student
    return partial(contest.result, contestants, judge, data, args, {"teacher": teacher})
