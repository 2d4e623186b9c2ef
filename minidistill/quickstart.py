"""The main job, from real digits to a one-step student: data, teacher, students, and a table that compares
them.

`python -m minidistill` calls these in order; notebook 00 tells them in pictures. Teacher and students are one
small DiT, class-conditional. The other methods have files of their own, quickstart_*.py, and share the table.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidistill import data
from minidistill.dit import DiT
from minidistill.metrics import Classifier, flow_map_error, frechet_distance
from minidistill.parameterization import as_denoiser
from minidistill.progressive import Student, diffusion_loss, halvings, progressive_loss
from minidistill.samplers import ddim
from minidistill.schedules import cosine, time_grid
from minidistill.train import train

TEACHER_STEPS = 32  # sampling steps of the teacher


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
        accuracy = (judge(images).argmax(1) == labels).cpu().to(torch.float64).mean().item()
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
        "error of the last frame": ("last", lambda row: f"{row['last']:.2f}"),
        "squared error": ("square", lambda row: f"{row['square']:.4f}"),
        "share that shows its label": ("label", lambda row: f"{row['label']:.2f}"),
        "seconds": ("seconds", lambda row: f"{row['seconds']:.2f}"),
    }
    shown = {title: rule for title, rule in columns.items() if any(rule[0] in row for row in table)}
    lines = [list(shown), ["---"] * len(shown)]
    lines += [[write(row) if key in row else "" for key, write in shown.values()] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
