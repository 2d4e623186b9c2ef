"""python -m minidistill: train a many-step teacher on real digits, distill it to one step, and compare."""

import argparse
import copy
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from minidistill import (
    plots,
    pyramid,
    quickstart,
    quickstart_ect,
    quickstart_phased,
    quickstart_pyramid,
    quickstart_video,
)
from minidistill.metrics import Classifier
from minidistill.phased import parse_plan, phase_edges, phase_grid
from minidistill.progressive import halvings
from minidistill.train import save_atomically

JUDGE_UPDATES = 800


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the job and return the exit status: 130 after Ctrl-C, as in shells."""
    parser = argparse.ArgumentParser(
        prog="python -m minidistill",
        description="Train a many-step teacher on real digits, distill it to few steps, and compare. With "
        "--method video, train a model that makes videos frame by frame.",
    )
    add = parser.add_argument
    add(
        "--method",
        choices=["progressive", "ect", "phased", "pyramid", "video"],
        default="progressive",
        help="how the teacher becomes a few-step student: progressive halves its steps; ect tunes it into a "
        "consistency model; phased teaches it to jump to phase edges; pyramid starts small and "
        "halves the steps of each size. video makes videos frame by frame, with a small past "
        "(default: %(default)s)",
    )
    add(
        "--data",
        choices=["digits", "mnist", "fashion_mnist", "ball", "moving_digits"],
        help="digits are bundled, 8x8; ball and moving_digits are for video "
        "(default: digits, and ball for video)",
    )
    add("--folder", type=Path, help="where the MNIST files are; without it the cache, then a download")
    add(
        "--updates",
        type=int,
        help="training updates of the teacher; its students together take as many (default: 1600); "
        "for video, of the pyramid, and the model at full size gets as many FLOPs "
        f"(default: {quickstart_video.UPDATES})",
    )
    add(
        "--plan",
        nargs="+",
        help='phased: how many phases up to which update, "200-8,400-4"; several plans, several students, '
        "which share the updates (default: 1, 2 and 4 phases)",
    )
    add(
        "--guidance",
        type=float,
        default=1.0,
        help="phased: guidance scale of the teacher; 1, the default, is none",
    )
    add("--out", type=Path, help="where table, picture and checkpoints go (default: runs/DATA-METHOD)")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--seed", type=int, default=0, help="all randomness: weights, batches, noise (default: %(default)s)")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, mps, ... (default: %(default)s)",
    )
    add("--compile", action="store_true", help="torch.compile: a slow first step, faster ones after it")
    add(
        "--bf16",
        action="store_true",
        help="bfloat16 autocast: faster where the processor has it, slower elsewhere",
    )
    args = parser.parse_args(arguments)
    video = args.method == "video"
    args.data = args.data or ("ball" if video else "digits")
    if args.updates is None:
        args.updates = quickstart_video.UPDATES if video else 1600
    if video != (args.data in ("ball", "moving_digits")):
        parser.error(
            f"--method {args.method} and --data {args.data} do not go together: ball and moving_digits are "
            "for --method video, and it for them"
        )
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # before anything is written
        parser.error(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}")
    args.out = args.out or Path("runs") / f"{args.data}-{args.method}"
    if args.method != "phased" and (args.plan or args.guidance != 1):
        parser.error("--plan and --guidance belong to --method phased")
    if args.plan and len(set(args.plan)) < len(args.plan):
        parser.error("each --plan makes one student: the same plan was given twice")
    if args.updates < 20:
        parser.error("--updates must be at least 20, or some students would not be trained at all")

    if "RANK" in os.environ:  # started by torchrun
        if args.device.startswith("cuda"):
            args.device = f"cuda:{os.environ['LOCAL_RANK']}"
        dist.init_process_group("nccl" if args.device.startswith("cuda") else "gloo")
    try:
        run(args)
    except KeyboardInterrupt:
        print(
            f"\nStopped. What was trained is in {args.out}: the same command with --resume continues it.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, FileNotFoundError) as error:
        print(f"minidistill: {error}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def stages(args: argparse.Namespace) -> dict[str, int]:
    """Every training stage of the job, in order, and its number of updates."""
    if args.method == "video":
        full = quickstart_video.equal_updates(quickstart_video.network(), args.updates)
        judge = {"judge": JUDGE_UPDATES} if args.data == "moving_digits" else {}
        return judge | {"pyramid": args.updates, "full size": full}
    updates = {"judge": JUDGE_UPDATES, "teacher": args.updates}
    match args.method:
        case "progressive":
            return updates | {f"student {n}": u for n, u in quickstart.student_updates(args.updates).items()}
        case "ect":
            return updates | {"ect": args.updates}
        case "pyramid":
            side = 16 if args.data == "digits" else 32
            found, net = pyramid.stages(quickstart_pyramid.CUTS), quickstart_pyramid.network(side)
            flops = quickstart_pyramid.forward_flops(net, side, found)
            # as many training FLOPs for one stage as for all
            updates["plain"] = max(1, round(args.updates * sum(flops) / len(flops) / flops[-1]))
            students = halvings(quickstart_pyramid.STEPS)
            return updates | {f"student {n}": args.updates // len(students) for n in students}
    plans = args.plan or [f"{args.updates // 3}-{phases}" for phases in (1, 2, 4)]
    return updates | {f"plan {text}": args.updates // len(plans) for text in plans}


def check_plan(text: str, updates: int) -> list[tuple[int, int]]:
    """The plan. Raises ValueError when it does not fit the grid, or its last entry would never be reached."""
    plan = parse_plan(text)
    for _, phases in plan:
        phase_edges(phase_grid(quickstart_phased.GRID), phases)  # refuses what does not divide the grid
    if len(plan) > 1 and plan[-2][0] >= updates:
        raise ValueError(
            f"plan {text}: its last entry starts after update {plan[-2][0]}, and this student has {updates}"
        )
    return plan


@contextmanager
def training(args: argparse.Namespace, updates: dict[str, int], first: bool) -> Iterator[Callable]:
    """stage(name, train, *models_and_data) runs one stage to its end, on the bar of the whole job."""
    bar = tqdm(
        total=sum(updates.values()),
        unit=" updates",
        smoothing=0,
        file=sys.stderr if first else io.StringIO(),  # one bar, however many processes
    )

    def stage(name: str, train: Callable, *models_and_data) -> None:
        bar.set_description(name)
        start = bar.n
        options = {"seed": args.seed, "compile": args.compile, "bf16": args.bf16}
        checkpoint = args.out / f"{name.replace(' ', '-')}.pt"
        for step, _ in train(*models_and_data, updates[name], checkpoint=checkpoint, **options):
            skipped = start + step - 1 - bar.n  # steps that a checkpoint already held
            bar.initial, bar.n = bar.initial + skipped, bar.n + skipped
            bar.update()
        bar.initial, bar.n = bar.initial + start + updates[name] - bar.n, start + updates[name]

    with bar:
        yield stage


def run(args: argparse.Namespace) -> None:
    """Judge, teacher, students, then the comparison. Every stage that is finished in --out is only loaded."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    updates = stages(args)
    plans = {
        name: check_plan(name.removeprefix("plan "), steps)
        for name, steps in updates.items()
        if name.startswith("plan ")
    }
    begin(args, first)
    if args.method == "video":
        return run_video(args, updates, first)
    x, y, x_test, y_test = (a.to(args.device) for a in quickstart.load(args.data, args.folder))
    if args.method == "pyramid":
        x, x_test = quickstart_pyramid.images(x), quickstart_pyramid.images(x_test)
    data_std = x.std().item()

    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(args.device)
    net = quickstart_pyramid.network(x.shape[-1]) if args.method == "pyramid" else quickstart.network(x)
    net = net.to(args.device)
    teacher = copy.deepcopy(net)

    with training(args, updates, first) as stage:
        stage("judge", quickstart.train_judge, judge, x, y)
        match args.method:
            case "progressive":
                stage("teacher", quickstart.train_teacher, net, teacher, x, y)
                contestants = [quickstart.by_ddim("teacher", teacher, data_std, quickstart.TEACHER_STEPS)]
                parent = teacher
                for n in quickstart.student_updates(args.updates):
                    student = copy.deepcopy(net)
                    stage(f"student {n}", quickstart.train_student, student, parent, n, x, y)
                    contestants.append(quickstart.by_ddim("undistilled", teacher, data_std, n))
                    contestants.append(quickstart.by_ddim("student", student, data_std, n))
                    parent = student
            case "ect":
                stage("teacher", quickstart.train_teacher, net, teacher, x, y)
                student = copy.deepcopy(net)
                stage("ect", quickstart_ect.train_ect, net, student, teacher, x, y)
                contestants = [quickstart.by_ddim("teacher", teacher, data_std, quickstart.TEACHER_STEPS)]
                for n in (8, 4, 2, 1):
                    contestants.append(quickstart.by_ddim("undistilled", teacher, data_std, n))
                    if n in quickstart_ect.TIMES:
                        contestants.append(quickstart_ect.by_renoise("ect", student, data_std, n, args.seed))
            case "phased":
                stage("teacher", quickstart_phased.train_flow_teacher, net, teacher, x, y)
                by_flow, scale = quickstart_phased.by_flow, args.guidance
                contestants = [by_flow("teacher", teacher, data_std, quickstart_phased.GRID, scale)]
                contestants += [by_flow("undistilled", teacher, data_std, n, scale) for n in (8, 4, 2, 1)]
                for name, plan in plans.items():
                    student = copy.deepcopy(net)
                    stage(name, quickstart_phased.train_phased, net, student, teacher, plan, scale, x, y)
                    for n in (8, 4, 2, 1):
                        contestants.append(by_flow(f"{name}, Euler", student, data_std, n))
                        if n > 1:  # one jump needs no noise
                            noisy = by_flow(f"{name}, noise", student, data_std, n, fresh=1.0, seed=args.seed)
                            contestants.append(noisy)

            case "pyramid":
                job = quickstart_pyramid
                by_pyramid, most = job.by_pyramid, job.STEPS
                found, single = pyramid.stages(job.CUTS), pyramid.stages([0, 1])
                flops = job.forward_flops(net, x.shape[-1], found)
                plain, blank = copy.deepcopy(net), copy.deepcopy(net)
                stage("teacher", job.train_pyramid, net, teacher, found, x, y)
                stage("plain", job.train_pyramid, blank, plain, single, x, y)
                contestants = [
                    by_pyramid("teacher", teacher, found, most, flops, args.seed),
                    by_pyramid("one size", plain, single, most * len(found), flops[-1:], args.seed),
                ]
                parent = teacher
                for n in halvings(most):
                    student = copy.deepcopy(net)
                    stage(f"student {n}", job.train_pyramid_student, student, parent, found, n, x, y)
                    one_size = by_pyramid("one size", plain, single, n * len(found), flops[-1:], args.seed)
                    undistilled = by_pyramid("undistilled", teacher, found, n, flops, args.seed)
                    distilled = by_pyramid("student", student, found, n, flops, args.seed)
                    contestants += [one_size, undistilled, distilled]
                    parent = student

    if first:
        table, samples = quickstart.compare(contestants, judge, x, x_test, y_test, seed=args.seed)
        report(table, samples, args.out)


def run_video(args: argparse.Namespace, updates: dict[str, int], first: bool) -> None:
    """The video job: the pyramid, then one size with as many FLOPs, then the comparison."""
    x, y, x_test, y_test = (a.to(args.device) for a in quickstart_video.load(args.data))
    torch.manual_seed(args.seed)
    net = quickstart_video.network().to(args.device)
    judge = Classifier(side=x.shape[-1]).to(args.device) if "judge" in updates else None
    nets = {name: copy.deepcopy(net) for name in quickstart_video.SIZES}
    with training(args, updates, first) as stage:
        if judge is not None:
            stage("judge", quickstart.train_judge, judge, x[:, -1], y)
        for name, found in quickstart_video.SIZES.items():
            stage(name, quickstart_video.train_video, copy.deepcopy(net), nets[name], found, x, y)
    if not first:
        return
    print(
        "Trained; now each model makes videos from 4 frames, from 1 and from a label: half a minute or more.",
        file=sys.stderr,
    )
    for name, model in nets.items():  # without the optimizer: all that a video needs
        run = {"data": args.data, "model": name, "seed": args.seed}
        weights = {"ema": model.state_dict(), "run": run, "step": updates[name]}
        save_atomically(weights, args.out / f"{name.replace(' ', '-')}-weights.pt")
    table, samples = quickstart_video.compare(nets, x_test, y_test, judge, seed=args.seed)
    write(table, args.out)
    (args.out / "samples.gif").write_bytes(plots.animation(samples))
    still = {name: videos[0] for name, videos in samples.items()}
    figure = plots.image_rows(still, quickstart_video.FRAMES, title="one video, frame by frame")
    figure.savefig(args.out / "samples.png", dpi=150, bbox_inches="tight")
    print(f"\nTable, animation, picture and checkpoints are in {args.out}")


def begin(args: argparse.Namespace, first: bool) -> None:
    """Write the settings to --out, or compare them with those of the run that is already there.

    Raises ValueError when a run is there and --resume is not given, or was made with other settings.
    """
    names = ["method", "data", "updates", "seed", "compile", "bf16"]
    names += ["plan", "guidance"] if args.method == "phased" else []
    settings = {name: getattr(args, name) for name in names}
    path = args.out / "settings.json"
    if path.exists() and args.resume:
        try:
            saved = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); choose another --out") from error
        changed = [
            f"--{name} {saved.get(name)}, now {settings[name]}"
            for name in names
            if saved.get(name) != settings[name]
        ]
        if changed:
            raise ValueError(
                f"{args.out} holds a run with {'; '.join(changed)}: use its settings, or another --out"
            )
    elif path.exists() and first:
        raise ValueError(
            f"{args.out} already holds a run: add --resume to continue it, or choose another --out"
        )
    if first:
        args.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n")


def write(table: list[dict], out: Path) -> None:
    """Print the table, and save it."""
    columns = {name: None for row in table for name in row}  # in the order in which they come up
    with open(out / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
    print(quickstart.markdown(table))


def report(table: list[dict], samples: dict[tuple[str, int], Tensor], out: Path) -> None:
    """Print the table; save it, and a picture of the samples."""
    write(table, out)

    # the reference, then every model in few steps
    few = sorted({steps for _, steps in samples})[:3][-1]
    shown = [
        next(iter(samples)),
        *sorted((k for k in samples if k[1] <= few), key=lambda k: (k[0] != "undistilled", k)),
    ]
    figure = plots.image_rows({f"{model}, {n}": samples[model, n] for model, n in shown})
    figure.savefig(out / "samples.png", dpi=150, bbox_inches="tight")
    print(f"\nTable, picture and checkpoints are in {out}")


if __name__ == "__main__":
    sys.exit(main())
