"""Teaches a generator to make a teacher's images in one step.

    minidistill matching --start flow_map

Distribution matching, from two starts side by side: the teacher's weights, which know one blurred answer to
pure noise, and a flow map, which jumps as the teacher goes. The start decides which noise makes which image:
see the distance to the teacher.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minidistill import need
from minidistill.checkpoints import read
from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import (
    LAGRANGIAN,
    TEACHER_STEPS,
    TOP,
    Contestant,
    batch,
    by_euler,
    by_jumps,
    guided_denoiser,
    network,
    train_flow_map,
    train_flow_teacher,
    train_judge,
)
from minidistill.matching import alternate, fake_loss, generate, matching_loss
from minidistill.metrics import Classifier
from minidistill.parameterization import Denoiser, as_denoiser
from minidistill.progressive import logit_normal_times
from minidistill.schedules import randn_like, rectified_flow
from minidistill.train import train

RATIO = 5  # updates of the fake score for one of the generator
# what a generator starts from: its learning rate, and its share of the teacher's updates
STARTS = {"teacher": (2e-4, 1 / 4), "flow_map": (1e-4, 1 / 16)}
FLOW_MAP_SHARE = 5 / 8
SAVE_EVERY = 100  # updates of a generator

load, default_updates = contest.load, contest.default_updates


def options(add: Callable) -> None:
    """Those of images, the starts, and guidance."""
    contest.options(add, "the others take shares of it")
    add(
        "--start",
        nargs="+",
        choices=list(STARTS),
        default=list(STARTS),
        help="where a generator starts; each makes one of its own (default: both)",
    )
    contest.guidance_option(add)


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    others = {"teacher": (1.5, 20), "flow_map": (2, 30)}
    return sum(contest.minutes(args, *cost) for cost in [(1, 10), *(others[start] for start in args.start)])


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Judge, teacher, the flow map where one is asked for, and a generator for each start. Raises ValueError
    for a start that is given twice."""
    need.number("--guidance", args.guidance, -1000, 1000)
    if len(set(args.start)) < len(args.start):
        raise ValueError("each --start makes one generator: the same start was given twice")
    found = {"judge": contest.JUDGE_UPDATES, "teacher": args.updates}
    if "flow_map" in args.start:
        found["flow map"] = round(FLOW_MAP_SHARE * args.updates)
    shares = {f"from {start.replace('_', ' ')}": STARTS[start][1] for start in args.start}
    return found | {name: max(1, round(share * args.updates)) for name, share in shares.items()}


def one_step(net: DiT, data_std: float, label: Tensor) -> Denoiser:
    """The generator: a denoiser, or a flow map's jump to the data, which is its network with s = 0."""
    jump = (lambda z, t, label: net(z, t, t, label=label)) if len(net.interval) else net
    return as_denoiser(jump, rectified_flow, data_std, label=label)


def train_generator(
    net: DiT,
    ema: DiT,
    teacher: DiT,
    lr: float,
    guidance: float,
    x: Tensor,
    y: Tensor,
    steps: int,
    checkpoint: Path,
    seed: int,
    **options,
) -> Iterator[tuple[int, Tensor]]:
    """Distribution matching from the weights of net; x lends its shape. The generator is `ema`.

    The fake score has a checkpoint of its own, saved just before. ValueError when they are of two moments."""
    data_std, fake = x.std().item(), copy.deepcopy(teacher)
    score = partial(as_denoiser, schedule=rectified_flow, data_std=data_std)

    def matching(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        samples = generate(one_step(net, data_std, y), randn_like(x, generator))
        t = 0.02 + 0.96 * torch.rand(len(x), generator=generator, device=x.device)
        real = guided_denoiser(teacher, rectified_flow, data_std, y, guidance)
        eps = randn_like(x, generator)
        return matching_loss(samples, eps, t, real, score(fake, label=y), rectified_flow)

    def denoising(fake: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            samples = generate(one_step(net, data_std, y), randn_like(x, generator))
        eps, t = randn_like(x, generator), logit_normal_times(len(x), generator=generator)
        return fake_loss(score(fake, label=y), samples, eps, t, rectified_flow)

    files = [checkpoint.with_name(f"{checkpoint.stem}-fake{checkpoint.suffix}"), checkpoint]
    there = {file: read(file)["step"] for file in files if file.exists()}
    if there.get(files[0], 0) != RATIO * there.get(files[1], 0):
        found = " and ".join(f"{file}, of step {step}," for file, step in there.items())
        raise ValueError(f"{found} go on from two moments: delete what is there to train this part anew")
    common = {"data": (x, y), "batch": batch(x), "warmup": 0} | options
    fake_run = train(
        fake,
        denoising,
        steps=RATIO * steps,
        lr=5e-4,
        seed=(seed + 1) % need.SEEDS,
        checkpoint=files[0],
        save_every=RATIO * SAVE_EVERY,
        **common,
    )
    run = train(
        net,
        matching,
        steps=steps,
        lr=lr,
        ema=ema,
        ema_decay=0.99,
        seed=seed,
        checkpoint=checkpoint,
        save_every=SAVE_EVERY,
        **common,
    )
    return alternate(fake_run, run, RATIO)


def generated(model: str, net: DiT, data_std: float) -> Contestant:
    """A generator, asked once."""
    return Contestant(model, 1, lambda noise, labels: generate(one_step(net, data_std, labels), noise))


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """The generators in one step, beside the teacher and what they start from."""
    x, y, *_ = data
    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(x.device)
    net = network(x, top=TOP).to(x.device)
    teacher, flow_map = copy.deepcopy(net), network(x, top=TOP, interval=True).to(x.device)

    stage("judge", train_judge, judge, x, y)
    stage("teacher", train_flow_teacher, net, teacher, x, y)
    data_std, scale = x.std().item(), args.guidance
    contestants = [by_euler("teacher", teacher, data_std, TEACHER_STEPS, scale)]
    contestants.append(by_euler("undistilled", teacher, data_std, 1, scale))
    models = {"teacher": teacher}
    if "flow_map" in args.start:
        learner = copy.deepcopy(flow_map)
        stage("flow map", train_flow_map, learner, flow_map, teacher, *LAGRANGIAN, scale, x, y)
        contestants.append(by_jumps("flow map", flow_map, data_std, 1))
        models["flow map"] = flow_map
    for start in args.start:
        first, name = {"teacher": teacher, "flow_map": flow_map}[start], f"from {start.replace('_', ' ')}"
        models[name] = generator = copy.deepcopy(first)
        stage(name, train_generator, copy.deepcopy(first), generator, teacher, STARTS[start][0], scale, x, y)
        contestants.append(generated(name, generator, data_std))
    return partial(contest.result, contestants, judge, data, args, models, entropy=True)
