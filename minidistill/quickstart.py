"""The main job, from real digits to a one-step student: data, teacher, students, and a table that compares
them.

`python -m minidistill` calls these in order; notebook 00 tells them in pictures. Teacher and students are one
small DiT, class-conditional. The network sees the angle of the noise and not the schedule, so that a teacher
of the cosine schedule is a start for students in EDM's time. Phased students have a flow-matching teacher.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidistill import data
from minidistill.consistency import ect_loss, ect_stage, lognormal_times
from minidistill.dit import DiT
from minidistill.metrics import Classifier, flow_map_error, frechet_distance
from minidistill.parameterization import as_denoiser, as_velocity, guided
from minidistill.phased import (
    Velocity,
    flow_matching_loss,
    grid_stops,
    phase_edges,
    phase_grid,
    phased_loss,
    phased_sample,
    phases_at,
)
from minidistill.progressive import Student, diffusion_loss, halvings, progressive_loss
from minidistill.pyramid import (
    Stage,
    at_level,
    pyramid_distillation_loss,
    pyramid_loss,
    pyramid_sample,
)
from minidistill.samplers import ddim, renoise
from minidistill.schedules import cosine, edm, randn_like, rectified_flow, time_grid
from minidistill.train import train

TEACHER_STEPS = 32  # sampling steps of the teacher
PYRAMID_CUTS = [0, 1 / 3, 2 / 3, 1]  # three sizes: 4x4, 8x8 and 16x16 for digits
PYRAMID_STEPS = 8  # sampling steps of the pyramidal teacher in each stage
PYRAMID_BATCH = 96  # shared equally by the stages
# each stage halves the gap between the two times that are compared: at high noise, 1/2 to 1/256 of t
ECT_STAGES = 8
PHASED_GRID = 40  # teacher steps that a phased student learns from: divided by 1, 2, 4 and 8 phases
# EDM times of consistency sampling, in which the network is asked at all but the last
ECT_TIMES = {1: [80.0, 0.0], 2: [80.0, 0.8, 0.0], 4: [80.0, 5.0, 1.0, 0.4, 0.0]}


def load(name: str, folder: str | Path | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels, of "digits", "mnist" or "fashion_mnist"."""
    match name:
        case "digits":
            return *data.digits("train"), *data.digits("test")
        case "mnist":
            return *data.mnist("train", folder), *data.mnist("test", folder)
        case "fashion_mnist":
            return *data.fashion_mnist("train", folder), *data.fashion_mnist("test", folder)
    raise ValueError(f'data must be "digits", "mnist" or "fashion_mnist", got {name!r}')


def network(x: Tensor) -> DiT:
    """A DiT for images of this size: 0.24M parameters for 8x8 digits, 0.94M for 28x28."""
    return (
        DiT(patch=2, dim=64, depth=3, classes=10)
        if x.shape[-1] == 8
        else DiT(patch=4, dim=128, depth=3, classes=10)
    )


def train_judge(net: Classifier, x: Tensor, y: Tensor, steps: int, **options) -> Iterator[tuple[int, Tensor]]:
    """The independent judge, trained with cross entropy."""

    def loss(net: Classifier, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(net(x), y, reduction="none")

    return train(net, loss, (x, y), steps, **options)


def train_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A diffusion model of x given its label. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return diffusion_loss(as_denoiser(net, cosine, data_std, label=y), x, cosine, generator=generator)

    return train(net, loss, (x, y), steps, ema=ema, **options)


def train_student(
    net: DiT, teacher: DiT, n: int, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps, from the teacher's weights; no EMA, since the learning rate falls to 0."""
    data_std = x.std().item()
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        student, fixed = (as_denoiser(model, cosine, data_std, label=y) for model in (net, teacher))
        return progressive_loss(student, fixed, x, n, cosine, generator=generator)

    return train(net, loss, (x, y), steps, warmup=0, **options)


def student_updates(teacher_updates: int) -> dict[int, int]:
    """Updates for each student: together as many as the teacher, and twice as many for the last two (5.2)."""
    share = teacher_updates * 3 // 20
    return {n: share * (2 if n <= 2 else 1) for n in halvings(TEACHER_STEPS)}


def train_ect(
    net: DiT, ema: DiT, teacher: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A consistency model, from the teacher's weights, by Easy Consistency Tuning. The student is `ema`."""
    data_std = x.std().item()
    for model in (net, ema):
        model.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        stage = min(ect_stage(step, max(1, steps // ECT_STAGES)), ECT_STAGES)
        t = lognormal_times(len(x), generator=generator, device=x.device)
        f = as_denoiser(net, edm, data_std, label=y)
        return ect_loss(f, x, randn_like(x, generator), t, stage)

    return train(net, loss, (x, y), steps, ema=ema, warmup=0, **options)


def flow(net: DiT, data_std: float, label: Tensor) -> Velocity:
    """The network as a velocity of rectified flow."""
    return as_velocity(as_denoiser(net, rectified_flow, data_std, label=label))


def guided_flow(net: DiT, data_std: float, label: Tensor, scale: float) -> Velocity:
    """The network's velocity, guided away from that without a label. Scale 1 asks once."""
    if scale == 1:
        return flow(net, data_std, label)
    return guided(flow(net, data_std, label), flow(net, data_std, torch.full_like(label, net.null)), scale)


def train_flow_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A flow-matching model of x given its label; a tenth are dropped, for guidance. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        t, dropped = torch.rand(2, len(x), generator=generator, device=x.device)
        label = torch.where(dropped < 0.1, net.null, y)
        # rand can be 0, where the velocity is 0 / 0, but never 1
        return flow_matching_loss(flow(net, data_std, label), x, randn_like(x, generator), 1 - t)

    return train(net, loss, (x, y), steps, ema=ema, **options)


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
    data_std, grid = x.std().item(), phase_grid(PHASED_GRID)
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

    return train(net, loss, (x, y), steps, ema=ema, ema_decay=0.95, warmup=0, **options)


def pyramid_images(x: Tensor) -> Tensor:
    """Images whose size can be halved twice: 8x8 digits at 16x16, 28x28 images in a frame of 2."""
    return data.enlarge(x) if x.shape[-1] == 8 else nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)


def pyramid_network(side: int) -> DiT:
    """A DiT for all sizes of the pyramid, up to 16 or 32; its answer is the velocity itself."""
    return (
        DiT(patch=2, dim=64, depth=4, classes=10)
        if side == 16
        else DiT(patch=4, dim=128, depth=3, classes=10)
    )


def forward_flops(net: DiT, side: int, found: Sequence[Stage]) -> list[int]:
    """Floating-point operations of one forward pass for one sample, at the size of each stage."""
    counts = []
    for i in range(len(found)):
        z = next(net.parameters()).new_zeros(1, net.channels, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(at_level(z, len(found) - 1 - i), z.new_ones(1))
        counts.append(counter.get_total_flops())
    return counts


def train_pyramid(
    net: DiT, ema: DiT, found: Sequence[Stage], x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """Pyramidal flow matching given the label; with one stage, plain flow matching. The teacher is `ema`."""

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        u = 1 - torch.rand(len(x), generator=generator, device=x.device)
        return pyramid_loss(net, x, randn_like(x, generator), u, found, label=y)

    return train(net, loss, (x, y), steps, batch=PYRAMID_BATCH, lr=2e-3, ema=ema, **options)


def train_pyramid_student(
    net: DiT, teacher: DiT, found: Sequence[Stage], n: int, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps in each stage, from the weights of a teacher of 2 n."""
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(1, n + 1, (len(x),), generator=generator, device=x.device)
        noise = randn_like(x, generator)
        return pyramid_distillation_loss(net, teacher, x, noise, index, found, n, label=y)

    return train(net, loss, (x, y), steps, batch=PYRAMID_BATCH, warmup=0, **options)


class Contestant(NamedTuple):
    """A row of the table. sample(noise, labels) -> images; paired when noise alone decides the images."""

    model: str
    steps: int
    sample: Callable[[Tensor, Tensor], Tensor]
    paired: bool = True
    mflop: float | None = None  # of a sample


def fresh_generator(noise: Tensor, seed: int) -> torch.Generator:
    """For noise added on the way. Not `seed` itself: `compare` draws the start from that, and the first noise
    of its shape would be the start once more."""
    return torch.Generator(noise.device).manual_seed(seed + 1_000_003)


def by_ddim(model: str, net: DiT, data_std: float, steps: int) -> Contestant:
    """A denoiser in `steps` DDIM steps. A student knows its own number of steps."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        denoiser = as_denoiser(net, cosine, data_std, label=labels)
        denoiser = Student(denoiser, steps) if model == "student" else denoiser
        return ddim(denoiser, noise, time_grid(steps), cosine)

    return Contestant(model, steps, sample)


def by_renoise(model: str, net: DiT, data_std: float, steps: int, seed: int) -> Contestant:
    """A consistency function in 1, 2 or 4 jumps, with fresh noise between them."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        f = as_denoiser(net, edm, data_std, label=labels)
        times = torch.tensor(ECT_TIMES[steps])
        generator = fresh_generator(noise, seed)
        return renoise(f, times[0] * noise, times, edm, generator=generator)

    return Contestant(model, steps, sample, paired=steps == 1)


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
        stops = grid_stops(phase_grid(PHASED_GRID), steps)
        return phased_sample(velocity, noise, stops, fresh, fresh_generator(noise, seed))

    return Contestant(model, steps, sample, paired=fresh == 0)


def by_pyramid(
    model: str, net: DiT, found: Sequence[Stage], steps: int, flops: Sequence[int], seed: int = 0
) -> Contestant:
    """`steps` in each stage, with the same noise in the jumps for all. A single stage is paired with none."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        generator, images = fresh_generator(noise, seed), []
        # in parts that stay in the processor's cache, where large ones cost twice the time
        for part, label in zip(noise.split(50), labels.split(50)):
            velocity = lambda z, t, label=label: net(z, t, label)
            images.append(pyramid_sample(velocity, part, found, steps, generator=generator))
        return torch.cat(images)

    return Contestant(model, steps * len(found), sample, len(found) > 1, steps * sum(flops) / 1e6)


@torch.no_grad()
def compare(
    contestants: Sequence[Contestant],
    judge: Classifier,
    x: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    n: int = 1000,
    seed: int = 0,
) -> tuple[list[dict], dict[tuple[str, int], Tensor]]:
    """The table, and the samples behind it by (model, steps). The first contestant is the reference.

    All start from the same n noises and labels. Distance: to the reference's samples, RMS per pixel, with its
    standard error, for those that add no noise of their own. Frechet: between the judge's 64 features of the
    samples and of the training data, without bias, with its standard error; the last row compares test data
    with training data, which is the floor.
    """
    noise = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    labels = torch.arange(n, device=x.device) % 10
    real = torch.cat([judge.features(part) for part in x.split(2000)])

    def judged(images: Tensor, labels: Tensor) -> dict:
        frechet, frechet_se = frechet_distance(judge.features(images), real)
        accuracy = (judge(images).argmax(1) == labels).double().mean().item()
        return {"frechet": frechet, "frechet_se": frechet_se, "accuracy": accuracy}

    table, samples = [], {}
    for model, steps, sample, paired, mflop in contestants:
        start = time.perf_counter()
        images = samples[model, steps] = sample(noise, labels).cpu().to(x)
        seconds = time.perf_counter() - start  # .cpu() above waits for the accelerator, if there is one
        row = {"model": model, "steps": steps} | ({"mflop": mflop} if mflop is not None else {})
        if paired:
            reference = samples[contestants[0].model, contestants[0].steps]
            row["distance"], row["distance_se"] = flow_map_error(images, reference)
        table.append(row | judged(images, labels) | {"seconds": seconds})
    return [*table, {"model": "real test data"} | judged(x_test, y_test)], samples


def markdown(table: list[dict]) -> str:
    """The table as people read it, distances with their standard errors. Steps are network evaluations."""
    columns = {  # title: the key that a row needs, and how it is written
        "model": ("model", lambda row: row["model"]),
        "steps": ("steps", lambda row: f"{row['steps']}"),
        "given frames": ("given", lambda row: f"{row['given']}"),
        "MFLOP": ("mflop", lambda row: f"{row['mflop']:.0f}"),
        "distance to teacher": ("distance", lambda row: f"{row['distance']:.4f} ± {row['distance_se']:.4f}"),
        "Frechet distance": ("frechet", lambda row: f"{row['frechet']:.2f} ± {row['frechet_se']:.2f}"),
        "class accuracy": ("accuracy", lambda row: f"{row['accuracy']:.3f}"),
        "error of the next frame, pixels": ("next", lambda row: f"{row['next']:.2f} ± {row['next_se']:.2f}"),
        "of the last": ("last", lambda row: f"{row['last']:.2f}"),
        "squared error": ("square", lambda row: f"{row['square']:.4f}"),
        "shows its label": ("label", lambda row: f"{row['label']:.2f}"),
        "seconds": ("seconds", lambda row: f"{row['seconds']:.2f}"),
    }
    shown = {title: rule for title, rule in columns.items() if any(rule[0] in row for row in table)}
    lines = [list(shown), ["---"] * len(shown)]
    lines += [[write(row) if key in row else "" for key, write in shown.values()] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
