"""The main job, from real digits to a one-step student: data, teacher, students, and a table that compares
them.

`python -m minidistill` calls these in order; notebook 00 tells them in pictures. Teacher and students are one
small DiT, class-conditional, on the cosine schedule. Every student starts from the weights of its teacher.
"""

import time
from collections.abc import Iterator
from pathlib import Path

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

    def loss(net: Classifier, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(net(x), y, reduction="none")

    return train(net, loss, (x, y), steps, **options)


def train_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A diffusion model of x given its label. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return diffusion_loss(as_denoiser(net, cosine, data_std, label=y), x, cosine, generator=generator)

    return train(net, loss, (x, y), steps, ema=ema, **options)


def train_student(
    net: DiT, teacher: DiT, n: int, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps, from the teacher's weights; no EMA, since the learning rate falls to 0."""
    data_std = x.std().item()
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        student, fixed = (as_denoiser(model, cosine, data_std, label=y) for model in (net, teacher))
        return progressive_loss(student, fixed, x, n, cosine, generator=generator)

    return train(net, loss, (x, y), steps, warmup=0, **options)


def student_updates(teacher_updates: int) -> dict[int, int]:
    """Updates for each student: together as many as the teacher, and twice as many for the last two (5.2)."""
    share = teacher_updates * 3 // 20
    return {n: share * (2 if n <= 2 else 1) for n in halvings(TEACHER_STEPS)}


@torch.no_grad()
def compare(
    teacher: DiT,
    students: dict[int, DiT],
    judge: Classifier,
    x: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    n: int = 1000,
    seed: int = 0,
) -> tuple[list[dict], dict[tuple[str, int], Tensor]]:
    """The table, and the samples behind it by (model, steps): undistilled and student at every step count.

    All start from the same n noises and labels. Distance: to the teacher's own samples, RMS per pixel, with
    its standard error. Frechet: between the judge's 64 features of the samples and of the training data,
    without bias, with its standard error; the last row compares test data with training data, which is the
    floor.
    """
    noise = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    labels = torch.arange(n, device=x.device) % 10
    data_std = x.std().item()
    real = torch.cat([judge.features(part) for part in x.split(2000)])

    def judged(images: Tensor, labels: Tensor) -> dict:
        frechet, frechet_se = frechet_distance(judge.features(images), real)
        accuracy = (judge(images).argmax(1) == labels).double().mean().item()
        return {"frechet": frechet, "frechet_se": frechet_se, "accuracy": accuracy}

    denoisers = {("teacher", TEACHER_STEPS): as_denoiser(teacher, cosine, data_std, label=labels)}
    for steps, net in students.items():
        denoisers["undistilled", steps] = denoisers["teacher", TEACHER_STEPS]
        denoisers["student", steps] = Student(as_denoiser(net, cosine, data_std, label=labels), steps)

    table, samples = [], {}
    for (model, steps), denoiser in denoisers.items():
        start = time.perf_counter()
        images = samples[model, steps] = ddim(denoiser, noise, time_grid(steps), cosine).cpu().to(x)
        seconds = time.perf_counter() - start  # .cpu() above waits for the accelerator, if there is one
        distance, distance_se = flow_map_error(images, samples["teacher", TEACHER_STEPS])
        row = {"model": model, "steps": steps, "distance": distance, "distance_se": distance_se}
        table.append(row | judged(images, labels) | {"seconds": seconds})
    return [*table, {"model": "real test data"} | judged(x_test, y_test)], samples


def markdown(table: list[dict]) -> str:
    """The table as people read it, distances with their standard errors."""

    def cells(row: dict) -> Iterator[str]:
        yield row["model"]
        yield f"{row['steps']}" if "steps" in row else ""
        yield f"{row['distance']:.4f} ± {row['distance_se']:.4f}" if "distance" in row else ""
        yield f"{row['frechet']:.2f} ± {row['frechet_se']:.2f}"
        yield f"{row['accuracy']:.3f}"
        yield f"{row['seconds']:.2f}" if "seconds" in row else ""

    head = ["model", "steps", "distance to teacher", "Frechet distance", "class accuracy", "seconds"]
    lines = [head, ["---"] * len(head), *(list(cells(row)) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
