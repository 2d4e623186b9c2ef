"""Makes videos frame by frame, with a small past.

    minidistill video --data moving_digits --updates 20000

The same network is trained twice, with as many FLOPs, or as many updates: with the pyramid in space and time,
and at one size, with every frame of the past in full. They are compared from a class label alone, from one
given frame and from several; the ball's label is its direction at first.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidistill import data, plots
from minidistill.dit import DiT
from minidistill.jobs import contest
from minidistill.jobs.contest import some_dropped, train_judge
from minidistill.metrics import Classifier, centre_of_brightness
from minidistill.pyramid import Stage
from minidistill.pyramid import stages as make_stages
from minidistill.schedules import randn_like
from minidistill.train import train
from minidistill.video import rollout, video_flops, video_loss

TRAINING_VIDEOS = 20000
SIDE, FRAMES, GIVEN = 16, 8, 4
SIZES = {"pyramid": make_stages([0, 0.5, 1]), "full size": make_stages([0, 1])}
STEPS = {"pyramid": [8, 8], "full size": [16]}
CORRUPTION = 0.1  # the most noise that is mixed into the past in training


def options(add: Callable) -> None:
    """What videos, and how long."""
    add(
        "--data",
        choices=["ball", "moving_digits"],
        default="ball",
        help="a bouncing ball, or digits that move (default: %(default)s)",
    )
    add(
        "--updates",
        type=int,
        default=8000,
        help="training updates of the pyramid (default: %(default)s)",
    )
    add(
        "--equal",
        choices=["flops", "updates"],
        default="flops",
        help="what the model at full size gets as much of: training FLOPs, or updates, for 2.8 times as many "
        "FLOPs (default: %(default)s)",
    )


def minutes(args: argparse.Namespace) -> float:
    """On two processor cores."""
    return (5 if args.equal == "flops" else 10) * args.updates / 8000


def stages(args: argparse.Namespace) -> dict[str, int]:
    """The pyramid, then full size; a judge first, for digits."""
    judge = {"judge": contest.JUDGE_UPDATES} if args.data == "moving_digits" else {}
    full = args.updates if args.equal == "updates" else equal_updates(network(), args.updates)
    return judge | {"pyramid": args.updates, "full size": full}


def load(args: argparse.Namespace) -> list[Tensor]:
    """The videos that the options ask for."""
    return videos(args.data)


def videos(name: str, n: int = TRAINING_VIDEOS, n_test: int = 128) -> list[Tensor]:
    """Training videos and labels, test videos and labels, of the "ball" or of "moving_digits"."""
    match name:
        case "ball":
            return [*data.bouncing_ball(n, FRAMES, SIDE), *data.bouncing_ball(n_test, FRAMES, SIDE, seed=1)]
        case "moving_digits":
            test = data.moving_digits(n_test, FRAMES, SIDE, split="test", seed=1)
            return [*data.moving_digits(n, FRAMES, SIDE, split="train"), *test]
    raise ValueError(f'data must be "ball" or "moving_digits", got {name!r}')


def network() -> DiT:
    """A DiT for images and videos: 0.25M parameters."""
    return DiT(patch=4, dim=64, depth=3, classes=10)


def made_flops(net: DiT, name: str, frames: int = FRAMES, given: int = 0) -> int:
    """Floating-point operations to make a video from so many given frames."""
    return video_flops(frames, STEPS[name], (SIDE // net.patch) ** 2, net.dim, len(net.blocks), given)


def equal_updates(net: DiT, updates: int) -> int:
    """How many updates at full size cost as much as these of the pyramid, whose stages share a batch."""
    full = (SIDE // net.patch) ** 2
    cost = {
        n: video_flops(FRAMES, [1] * len(found), full, net.dim) / len(found) for n, found in SIZES.items()
    }
    return max(1, round(updates * cost["pyramid"] / cost["full size"]))


def train_video(
    net: DiT, ema: DiT, found: Sequence[Stage], x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """Videos given their label, of which a tenth are dropped, for guidance. The model is `ema`.

    An update uses the first 1, 2, ..., or all frames of its videos, at random; with 1 it trains an image
    model. One number for all videos of a batch makes one sequence length for each stage.
    """

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        rand = lambda: torch.rand(len(x), generator=generator, device=x.device)
        u = 1 - rand()
        frames = torch.randint(1, FRAMES + 1, (), generator=generator, device=x.device).item()
        sigma = CORRUPTION * rand()
        label = some_dropped(y, net, generator)
        noise = randn_like(x[:, 0], generator)
        return video_loss(net, x, noise, u, [frames] * len(x), found, sigma, generator, label=label)

    return train(net, loss, (x, y), steps, batch=32, lr=2e-3, ema=ema, **options)


@torch.no_grad()
def sample(
    net: DiT, name: str, labels: Tensor, given: Tensor | None = None, frames: int = FRAMES, seed: int = 0
) -> Tensor:
    """Videos with these labels that continue the given frames, if any, with the memory of the training."""
    generator = torch.Generator(labels.device).manual_seed(seed)
    videos = []
    for i in range(0, len(labels), 64):  # in parts that stay in the processor's cache
        label, start = labels[i : i + 64], None if given is None else given[i : i + 64]
        shape = len(label), frames, net.channels, SIDE, SIDE
        noise = torch.randn(shape, generator=generator, device=label.device)
        velocity = lambda z, t, history, label=label: net(z, t, label=label, history=history)
        videos.append(
            rollout(velocity, noise, SIZES[name], STEPS[name], start, memory=FRAMES - 1, generator=generator)
        )
    return torch.cat(videos)


def directions(videos: Tensor) -> Tensor:
    """The ball's label as the first two frames show it."""
    down, right = (centre_of_brightness(videos[:, 1, 0]) - centre_of_brightness(videos[:, 0, 0])).T
    return (torch.atan2(down, right) / (math.pi / 4)).round().long() % 8


def centre_errors(videos: Tensor, truth: Tensor) -> Tensor:
    """How far the centre is from the true one, in pixels: (n, frames)."""
    return (centre_of_brightness(videos[:, :, 0]) - centre_of_brightness(truth[:, :, 0])).norm(dim=-1)


@torch.no_grad()
def compare(
    nets: dict[str, DiT], x: Tensor, y: Tensor, judge: Classifier | None = None, seed: int = 0
) -> tuple[list[dict], dict[str, Tensor]]:
    """The table, and the videos behind it: each model from several frames, from one, and from a label alone.

    next: distance of the centre to the true one in the first frame that is made, in pixels, with its standard
    error; last: in the last frame; square: mean squared error of the first. They are for videos whose future
    is known: one frame of a digit does not say where it goes, and the ball's label does. label: how many
    videos show theirs, by the ball's first direction or, of digits, to the judge. The first rows repeat the
    last given frame.
    """
    known = (GIVEN, 1) if judge is None else (GIVEN,)
    shows = directions if judge is None else lambda videos: judge(videos[:, -1]).argmax(1)
    shown = lambda videos: (shows(videos) == y).cpu().to(torch.float64).mean().item()

    def judged(videos: Tensor, given: int) -> dict:
        error = centre_errors(videos, x)
        return {
            "next": error[:, given].mean().item(),
            "next_se": error[:, given].std().item() / len(x) ** 0.5,
            "last": error[:, -1].mean().item(),
            "square": (videos[:, given] - x[:, given]).square().mean().item(),
        }

    table, samples = [], {"truth": x}
    for given in known:
        still = torch.cat([x[:, :given], x[:, [given - 1]].expand(-1, FRAMES - given, -1, -1, -1)], dim=1)
        table.append({"model": "copy of the last", "given": given} | judged(still, given))
    for name, net in nets.items():
        sample(net, name, y[:1])  # the first call is slower than those that are timed
        for given in (GIVEN, 1, 0):
            start = time.perf_counter()
            videos = sample(net, name, y, x[:, :given] if given else None, seed=seed).cpu().to(x)
            seconds = time.perf_counter() - start  # .cpu() above waits for the accelerator, if there is one
            row = {"model": name, "given": given} | (judged(videos, given) if given in known else {})
            row |= {"label": shown(videos)} if judge is not None or given < 2 else {}
            table.append(row | {"mflop": made_flops(net, name, given=given) / 1e6, "seconds": seconds})
            samples[f"{name}, {given} given"] = videos
    return [*table, {"model": "truth", "label": shown(x)}], samples


COLUMNS = {
    "model": ("model", lambda row: row["model"]),
    "given": ("given frames", lambda row: f"{row['given']}"),
    "mflop": ("MFLOP", lambda row: f"{row['mflop']:.0f}"),
    "next": ("error of the next frame, pixels", lambda row: f"{row['next']:.2f} ± {row['next_se']:.2f}"),
    "last": ("error of the last frame", lambda row: f"{row['last']:.2f}"),
    "square": ("squared error", lambda row: f"{row['square']:.4f}"),
    "label": ("share that shows its label", lambda row: f"{row['label']:.2f}"),
    "seconds": ("seconds", lambda row: f"{row['seconds']:.2f}"),
}


def run(args: argparse.Namespace, stage: Callable, data: Sequence[Tensor]) -> Callable:
    """The pyramid, then one size with as many FLOPs."""
    x, y, *_ = data
    updates = stages(args)
    torch.manual_seed(args.seed)
    net, judge = network().to(x.device), None
    nets = {name: copy.deepcopy(net) for name in SIZES}

    if "judge" in updates:
        judge = Classifier(side=SIDE).to(x.device)
        stage("judge", train_judge, judge, x[:, -1], y)
    for name, found in SIZES.items():
        stage(name, train_video, copy.deepcopy(net), nets[name], found, x, y)
    return partial(result, args, updates, nets, judge, data)


def result(
    args: argparse.Namespace,
    updates: dict[str, int],
    nets: dict[str, DiT],
    judge: Classifier | None,
    data: Sequence[Tensor],
) -> tuple[str, dict[str, bytes]]:
    """The table to print, and the files: the videos as an animation, and the weights."""
    table, samples = compare(nets, *data[2:], judge, seed=args.seed)
    still = {name: videos[0] for name, videos in samples.items()}
    picture = plots.image_rows(still, FRAMES, title="one video, frame by frame")
    files = {"samples.gif": plots.animation(samples), "samples.png": plots.png(picture)}
    for name, model in nets.items():
        run = {"data": args.data, "model": name, "seed": args.seed}
        files[f"{name.replace(' ', '-')}-weights.pt"] = contest.weights(model, updates[name], run)
    return contest.markdown(table, COLUMNS), files | {"table.csv": contest.as_csv(table)}
