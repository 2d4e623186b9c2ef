"""python -m minidistill: train a many-step teacher on real digits, distill it to one step, and compare."""

import argparse
import contextlib
import copy
import csv
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from minidistill import (
    need,
    plots,
    pyramid,
    quickstart,
    quickstart_ect,
    quickstart_phased,
    quickstart_pyramid,
    quickstart_video,
)
from minidistill.checkpoints import save_atomically, write_atomically
from minidistill.metrics import Classifier
from minidistill.need import SEEDS
from minidistill.phased import parse_plan, phase_edges, phase_grid
from minidistill.progressive import halvings

JUDGE_UPDATES = 800


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the job and return the exit status, as in shells: 130 after Ctrl-C."""
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
    # everything is looked at before anything is written
    try:
        torch.zeros(1, device=args.device).item()
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device} cannot be used: {str(error).splitlines()[0]}")
    try:
        need.number("--guidance", args.guidance, -1000, 1000)
        need.whole("--seed", args.seed, 0, SEEDS)
    except ValueError as error:
        parser.error(str(error))
    args.out = args.out or Path("runs") / f"{args.data}-{args.method}"
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is a file: choose a folder")
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
        with like_ctrl_c():
            run(args)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(
            f"\nStopped. What was trained is in {args.out}: the same command with --resume continues it.",
            file=sys.stderr,
        )
        return 128 + (stop.args or [signal.SIGINT])[0]
    except BrokenPipeError:  # whoever reads the table has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a program that SIGPIPE stops
    except (ValueError, OSError, FloatingPointError) as error:
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
def like_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP stop the program as Ctrl-C does."""

    def stop(number: int, _) -> None:
        raise KeyboardInterrupt(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread receives signals
    # what was set otherwise, such as to ignore SIGHUP under nohup, stays
    previous = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for n, handler in previous.items():
            signal.signal(n, handler)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """No other run can write to `out` meanwhile. Raises ValueError when one does."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "running.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run is writing to {out}: wait for it, or choose another --out") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held: nobody waits for it
        lock.release()


def training(args: argparse.Namespace, updates: dict[str, int], first: bool) -> Callable:
    """stage(name, train, *models_and_data) runs one stage to its end, on a bar of its own.

    Stages differ in speed: one bar for all would promise from the fast ones what the slow ones cannot keep.
    """

    def stage(name: str, train: Callable, *models_and_data) -> None:
        options = {"seed": args.seed, "compile": args.compile, "bf16": args.bf16, "stage": name}
        checkpoint = args.out / f"{name.replace(' ', '-')}.pt"
        bar = tqdm(
            desc=f"{name} ({list(updates).index(name) + 1} of {len(updates)})",
            total=updates[name],
            unit=" updates",
            smoothing=0.05,  # the last seconds count: with --compile the first step takes half a minute
            disable=not first,  # one bar, however many processes
        )
        with bar:
            step = None
            for step, _ in train(*models_and_data, updates[name], checkpoint=checkpoint, **options):
                if step > bar.n + 1:  # steps that a checkpoint already held
                    bar.initial = bar.n = bar.last_print_n = step - 1
                bar.update()
            if step is None:  # it held them all
                bar.initial = bar.n = updates[name]

    return stage


def run(args: argparse.Namespace) -> None:
    """Judge, teacher, students, then the comparison. Every stage that is finished in --out is only loaded."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    updates = stages(args)
    plans = {
        name: check_plan(name.removeprefix("plan "), steps)
        for name, steps in updates.items()
        if name.startswith("plan ")
    }
    now, path = settings(args), args.out / "settings.json"
    refuse_another_run(args, now, path, first)
    video = args.method == "video"
    loaded = quickstart_video.load(args.data) if video else quickstart.load(args.data, args.folder)
    loaded = [a.to(args.device) for a in loaded]
    with alone(args.out) if first else contextlib.nullcontext():
        if first and not path.exists():  # last, when nothing can be refused any more
            write_atomically((json.dumps(now, indent=2) + "\n").encode(), path)
        if video:
            run_video(args, updates, first, loaded)
        else:
            run_images(args, updates, plans, first, loaded)


def run_images(
    args: argparse.Namespace, updates: dict[str, int], plans: dict[str, list], first: bool, data: list[Tensor]
) -> None:
    """The jobs on images. data: training images and labels, test images and labels."""
    x, y, x_test, y_test = data
    if args.method == "pyramid":
        x, x_test = quickstart_pyramid.images(x), quickstart_pyramid.images(x_test)
    data_std = x.std().item()

    torch.manual_seed(args.seed)
    judge = Classifier(side=x.shape[-1]).to(args.device)
    net = quickstart_pyramid.network(x.shape[-1]) if args.method == "pyramid" else quickstart.network(x)
    net = net.to(args.device)
    teacher = copy.deepcopy(net)

    stage = training(args, updates, first)
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


def run_video(args: argparse.Namespace, updates: dict[str, int], first: bool, data: list[Tensor]) -> None:
    """The video job: the pyramid, then one size with as many FLOPs, then the comparison."""
    x, y, x_test, y_test = data
    torch.manual_seed(args.seed)
    net = quickstart_video.network().to(args.device)
    judge = Classifier(side=x.shape[-1]).to(args.device) if "judge" in updates else None
    nets = {name: copy.deepcopy(net) for name in quickstart_video.SIZES}
    stage = training(args, updates, first)
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
    write_atomically(plots.animation(samples), args.out / "samples.gif")
    still = {name: videos[0] for name, videos in samples.items()}
    figure = plots.image_rows(still, quickstart_video.FRAMES, title="one video, frame by frame")
    finish(table, figure, args.out)


def settings(args: argparse.Namespace) -> dict:
    """What decides the numbers of a run."""
    names = ["method", "data", "updates", "seed", "compile", "bf16"]
    names += ["plan", "guidance"] if args.method == "phased" else []
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return {name: getattr(args, name) for name in names} | {"processes": processes}


def refuse_another_run(args: argparse.Namespace, now: dict, path: Path, first: bool) -> None:
    """Raises ValueError when a run is in --out, and --resume is not given or its settings are others."""
    if not path.exists():
        return
    if first and not args.resume:
        raise ValueError(
            f"{args.out} already holds a run: add --resume to continue it, or choose another --out"
        )
    try:
        saved = dict(json.loads(path.read_text()).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --out") from error
    option = {name: f"--{name}" for name in now} | {"processes": "processes"}
    changed = [f"{option[k]} {saved.get(k)}, now {now[k]}" for k in now if saved.get(k) != now[k]]
    if changed:
        raise ValueError(
            f"{args.out} holds a run with {'; '.join(changed)}: use its settings, or another --out"
        )


def finish(table: list[dict], figure: Figure, out: Path) -> None:
    """Save picture and table, then print the table: whoever reads it may stop after a line."""
    picture, text = io.BytesIO(), io.StringIO(newline="")
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    plots.plt.close(figure)
    columns = {name: None for row in table for name in row}  # in the order in which they come up
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(table)
    write_atomically(picture.getvalue(), out / "samples.png")
    write_atomically(text.getvalue().encode(), out / "table.csv")
    print(f"{quickstart.markdown(table)}\n\nTable, pictures and checkpoints are in {out}")


def report(table: list[dict], samples: dict[tuple[str, int], Tensor], out: Path) -> None:
    """The table, and a picture of the samples."""
    # the reference, then every model in few steps
    few = sorted({steps for _, steps in samples})[:3][-1]
    shown = [
        next(iter(samples)),
        *sorted((k for k in samples if k[1] <= few), key=lambda k: (k[0] != "undistilled", k)),
    ]
    finish(table, plots.image_rows({f"{model}, {n}": samples[model, n] for model, n in shown}), out)


if __name__ == "__main__":
    sys.exit(main())
