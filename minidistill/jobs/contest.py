"""What the methods share: images, a network and its teacher, a judge, and the table that compares them.

Everyone in the contest makes images from the same noise and labels. An independent judge, a small classifier
that was trained on the same data, measures what came out.
"""

import argparse
import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidistill import data, plots
from minidistill.checkpoints import archive, read
from minidistill.checkpoints import load as load_weights
from minidistill.dit import DiT
from minidistill.flowmap import as_mean_velocity, diagonal, draw_times, flow_map_sample, lagrangian_loss
from minidistill.metrics import Classifier, flow_map_error, frechet_distance, precision_recall_coverage
from minidistill.need import Number
from minidistill.parameterization import Denoiser, as_denoiser, as_velocity, guided
from minidistill.phased import Velocity, flow_matching_loss, phased_sample
from minidistill.progressive import Student, diffusion_loss, logit_normal_times
from minidistill.samplers import ddim
from minidistill.schedules import Schedule, cosine, randn_like, rectified_flow, time_grid
from minidistill.train import train

TEACHER_STEPS = 32  # DDIM steps of the teacher
GUIDANCE = 1.5  # of the second teacher in a table
JUDGE_UPDATES = 800
TOP = 16.0  # a flow map's highest frequency of time: losses differentiate the embedding, and 256 is steep
LAGRANGIAN = (lagrangian_loss, 0.0, 0.25)  # of a flow map: loss, share on the diagonal, and from pure noise
UPDATES = {"digits": 1600, "mnist": 12000, "fashion_mnist": 12000}


def options(add: Callable, students: str = "its students together take as many") -> None:
    """The options of every method on images."""
    add(
        "--data",
        choices=["digits", "mnist", "fashion_mnist"],
        default="digits",
        help="digits: 8x8, bundled; the others: 28x28, downloaded once (default: %(default)s)",
    )
    add("--folder", type=Path, help="where the MNIST files are; without it the cache, then a download")
    add(
        "--updates",
        type=int,
        help=f"training updates of the teacher; {students} (default: 1600 for digits, 12000 for the others)",
    )


def guidance_option(add: Callable) -> None:
    """For students that learn from a guided teacher."""
    add("--guidance", type=float, default=1.0, help="guidance scale of the teacher; 1, the default, is none")


def default_updates(name: str) -> int:
    """As many updates as the data needs."""
    return UPDATES[name]


def minutes(args: argparse.Namespace, digits: Number, others: Number) -> float:
    """How long a run takes on two processor cores, from what it takes with the default updates."""
    return (digits if args.data == "digits" else others) * args.updates / UPDATES[args.data]


def load(args: argparse.Namespace) -> list[Tensor]:
    """The images that the options ask for."""
    return images(args.data, args.folder)


def images(name: str, folder: str | Path | None = None) -> list[Tensor]:
    """Training images and labels, test images and labels, of "digits", "mnist" or "fashion_mnist"."""
    match name:
        case "digits":
            return [*data.digits("train"), *data.digits("test")]
        case "mnist":
            return [*data.mnist("train", folder), *data.mnist("test", folder)]
        case "fashion_mnist":
            return [*data.fashion_mnist("train", folder), *data.fashion_mnist("test", folder)]
    raise ValueError(f'data must be "digits", "mnist" or "fashion_mnist", got {name!r}')


def network(x: Tensor, **options) -> DiT:
    """A DiT for images of this size: 0.24M parameters for 8x8 digits, 0.54M for 28x28. options: DiT's own."""
    size = {"patch": 2, "dim": 64} if x.shape[-1] == 8 else {"patch": 4, "dim": 96}
    return DiT(**size, depth=3, classes=10, **options)


def batch(x: Tensor) -> int:
    """Images of an update. Of 28x28 ones few: many small updates learn more in a minute than few large."""
    return 128 if x.shape[-1] == 8 else 32


def train_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A diffusion model of x given its label; a tenth are dropped, for guidance. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        t = logit_normal_times(len(x), generator=generator)
        denoiser = as_denoiser(net, cosine, data_std, label=some_dropped(y, net, generator))
        return diffusion_loss(denoiser, x, cosine, generator=generator, t=t)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, **options)


def flow(net: DiT, data_std: float, label: Tensor) -> Velocity:
    """The network as a velocity of rectified flow."""
    return as_velocity(as_denoiser(net, rectified_flow, data_std, label=label))


def train_flow_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A flow-matching model of x given its label; a tenth are dropped, for guidance. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        t = logit_normal_times(len(x), generator=generator)
        velocity = flow(net, data_std, some_dropped(y, net, generator))
        return flow_matching_loss(velocity, x, randn_like(x, generator), t)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, **options)


def teacher_velocity(net: DiT, data_std: float, label: Tensor, scale: Number) -> Velocity:
    """A network of one time as a velocity, guided, without the 1 / t of `as_velocity`. Scale 1 asks once."""

    def velocity(label: Tensor) -> Velocity:
        return diagonal(as_mean_velocity(lambda z, t, interval: net(z, t, label=label), data_std))

    if scale == 1:
        return velocity(label)
    return guided(velocity(label), velocity(torch.full_like(label, net.null)), scale)


def train_flow_map(
    net: DiT,
    ema: DiT,
    teacher: DiT,
    distance: Callable,
    share: float,
    from_noise: float,
    guidance: float,
    x: Tensor,
    y: Tensor,
    steps: int,
    **options,
) -> Iterator[tuple[int, Tensor]]:
    """A flow map of the guided teacher, from its weights, by the loss distance(u, x, eps, t, s, teacher).
    Of a batch, `share` is on the diagonal, and `from_noise` starts at t = 1. The student is `ema`."""
    data_std = x.std().item()
    for model in (net, ema):
        missing, _ = model.load_state_dict(teacher.state_dict(), strict=False)
        assert all(name.startswith("interval.") for name in missing)  # whose last layer is 0

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        eps, (t, s) = randn_like(x, generator), draw_times(len(x), share, generator)
        t = torch.where(torch.arange(len(x), device=x.device) < (1 - from_noise) * len(x), t, 1.0)  # the last
        velocity = teacher_velocity(teacher, data_std, y, guidance)
        return distance(as_mean_velocity(net, data_std, label=y), x, eps, t, s, velocity)

    return train(net, loss, (x, y), steps, batch(x), ema=ema, warmup=0, **options)


def some_dropped(label: Tensor, net: DiT, generator: torch.Generator) -> Tensor:
    """The labels, a tenth of them replaced by the one that means none: what guidance asks for later."""
    dropped = torch.rand(len(label), generator=generator, device=label.device) < 0.1
    return torch.where(dropped, net.null, label)


def guided_denoiser(net: DiT, schedule: Schedule, data_std: float, label: Tensor, scale: Number) -> Denoiser:
    """The network's denoiser, guided away from that without a label. Scale 1 asks once."""
    denoiser = as_denoiser(net, schedule, data_std, label=label)
    if scale == 1:
        return denoiser
    unlabelled = as_denoiser(net, schedule, data_std, label=torch.full_like(label, net.null))
    return guided(denoiser, unlabelled, scale)


def train_judge(net: Classifier, x: Tensor, y: Tensor, steps: int, **options) -> Iterator[tuple[int, Tensor]]:
    """The independent judge, trained with cross entropy."""

    def loss(net: Classifier, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(net(x), y, reduction="none")

    return train(net, loss, (x, y), steps, **options)


class Contestant(NamedTuple):
    """A row of the table. sample(noise, labels) -> images; paired when noise alone decides the images."""

    model: str
    steps: int
    sample: Callable[[Tensor, Tensor], Tensor]
    paired: bool = True
    mflop: float | None = None  # of a sample


def by_ddim(model: str, net: DiT, data_std: float, steps: int, guidance: Number = 1.0) -> Contestant:
    """A denoiser in `steps` DDIM steps. A student knows its own number of steps."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        images = []
        for part, label in zip(noise.split(250), labels.split(250)):  # in the processor's cache
            denoiser = guided_denoiser(net, cosine, data_std, label, guidance)
            denoiser = Student(denoiser, steps) if model == "student" else denoiser
            images.append(ddim(denoiser, part, time_grid(steps), cosine))
        return torch.cat(images)

    return Contestant(model, steps, sample)


def by_euler(model: str, net: DiT, data_std: float, steps: int, guidance: float) -> Contestant:
    """A flow-matching teacher, step by step."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        return phased_sample(teacher_velocity(net, data_std, labels, guidance), noise, time_grid(steps))

    return Contestant(model, steps, sample)


def by_jumps(model: str, net: DiT, data_std: float, steps: int) -> Contestant:
    """A flow map, which is told where to land."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        return flow_map_sample(as_mean_velocity(net, data_std, label=labels), noise, time_grid(steps))

    return Contestant(model, steps, sample)


def teachers(net: DiT, data_std: float, guidance: Number = 1.0) -> list[Contestant]:
    """The reference, as its students learn from it; and the other, since guidance trades the distance to the
    data for digits that are easy to read."""
    other, name = (GUIDANCE, f"guided {GUIDANCE}") if guidance == 1 else (1.0, "unguided")
    return [
        by_ddim("teacher", net, data_std, TEACHER_STEPS, guidance),
        by_ddim(f"teacher {name}", net, data_std, TEACHER_STEPS, other),
    ]


def fresh_generator(noise: Tensor, seed: int) -> torch.Generator:
    """For noise added on the way. Not `seed` itself: `compare` draws the start from that, and the first noise
    of its shape would be the start once more."""
    return torch.Generator(noise.device).manual_seed(seed + 1_000_003)


@torch.no_grad()
def compare(
    contestants: Sequence[Contestant],
    judge: Classifier,
    x: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    n: int = 1000,
    seed: int = 0,
    entropy: bool = False,
) -> tuple[list[dict], dict[tuple[str, int], Tensor]]:
    """The table, and the samples behind it by (model, steps). The first contestant is the reference.

    All start from the same n noises and labels. Distance: to the reference's samples, RMS per pixel, with its
    standard error, for those that add no noise of their own. Frechet: between the judge's 64 features of the
    samples and of the training data, without bias, with its standard error. Recall: the share of the first
    2000 training images that lie near the samples, in the same features; it falls with the number of samples.
    With entropy, that of the judge's labels, in units of that of even ones: below 1 when classes are missing.
    The last row compares test data with training data: the floor of the Frechet distance.
    """
    # drawn on the processor, so that every device starts from the same
    noise = torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(seed), device="cpu").to(x)
    labels = torch.arange(n, device=x.device) % 10
    real = torch.cat([judge.features(part) for part in x.split(2000)])

    def judged(images: Tensor, labels: Tensor) -> dict:
        features = judge.features(images)
        frechet, frechet_se = frechet_distance(features, real)
        _, recall, _ = precision_recall_coverage(real[:2000], features[:n])
        found = judge(images).argmax(1).cpu()
        accuracy = (found == labels.cpu()).to(torch.float64).mean().item()
        row = {"frechet": frechet, "frechet_se": frechet_se, "recall": recall, "accuracy": accuracy}
        share = found.bincount(minlength=10) / len(found)
        return row | ({"entropy": torch.special.entr(share).sum().item() / math.log(10)} if entropy else {})

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


# the key that a row needs for a column: the column's title, and how it is written
COLUMNS = {
    "model": ("model", lambda row: row["model"]),
    "steps": ("steps", lambda row: f"{row['steps']}"),
    "mflop": ("MFLOP", lambda row: f"{row['mflop']:.0f}"),
    "distance": ("distance to teacher", lambda row: f"{row['distance']:.4f} ± {row['distance_se']:.4f}"),
    "frechet": ("Frechet distance", lambda row: f"{row['frechet']:.2f} ± {row['frechet_se']:.2f}"),
    "recall": ("recall", lambda row: f"{row['recall']:.3f}"),
    "accuracy": ("class accuracy", lambda row: f"{row['accuracy']:.3f}"),
    "entropy": ("class entropy", lambda row: f"{row['entropy']:.3f}"),
    "seconds": ("seconds", lambda row: f"{row['seconds']:.2f}"),
}


def markdown(table: Sequence[dict], columns: dict = COLUMNS) -> str:
    """The table as people read it, with the columns of which some row has the key. Steps are network
    evaluations."""
    shown = {key: column for key, column in columns.items() if any(key in row for row in table)}
    lines = [[title for title, _ in shown.values()], ["---"] * len(shown)]
    lines += [[write(row) if key in row else "" for key, (_, write) in shown.items()] for row in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(table: Sequence[dict]) -> bytes:
    """The table as a file, with all its keys in the order in which they come up."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, {name: None for row in table for name in row})
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode()


def result(
    contestants: Sequence[Contestant],
    judge: Classifier,
    data: Sequence[Tensor],
    args: argparse.Namespace,
    models: dict[str, nn.Module],
    entropy: bool = False,
) -> tuple[str, dict[str, bytes]]:
    """The comparison of a run on images: the table to print, and the files: samples as a picture, weights."""
    x, _, x_test, y_test = data
    table, samples = compare(contestants, judge, x, x_test, y_test, seed=args.seed, entropy=entropy)
    # the reference, then every model in few steps
    few = sorted({steps for _, steps in samples})[:3][-1]
    shown = sorted((k for k in samples if k[1] <= few), key=lambda k: (k[0] != "undistilled", k))
    rows = {f"{model}, {n}": samples[model, n] for model, n in (next(iter(samples)), *shown)}
    picture = plots.png(plots.image_rows(rows))
    files = {"samples.png": picture, "table.csv": as_csv(table)}
    for name, net in models.items():
        run = {"data": args.data, "model": name, "seed": args.seed, "data_std": x.std().item()}
        files[f"{name.replace(' ', '-')}-weights.pt"] = weights(net, args.updates, run)
    return markdown(table), files


def weights(net: nn.Module, step: int, run: dict) -> bytes:
    """What a sampler needs of a trained model, in half precision: no optimizer."""
    half = {key: value.half().cpu() for key, value in net.state_dict().items()}
    return archive({"ema": half, "step": step, "run": run})


def trained(path: str | Path, net: DiT) -> float:
    """Puts the weights of a run into net. Returns the standard deviation of the data it was trained on."""
    load_weights(path, {"ema": net})
    return read(path)["run"]["data_std"]
