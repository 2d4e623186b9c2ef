"""minidistill METHOD: train a model of many steps and one of few, compare them, save table and pictures.

This file reads the command line, resumes and reports. What a method is stands in its own file in jobs/.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from minidistill import jobs, need
from minidistill.checkpoints import alone, refuse_another_run, write_atomically
from minidistill.stopping import like_ctrl_c
from minidistill.train import join_processes

HELP = """minidistill {default}

is a good start: three minutes on a laptop. A method prints a table and saves it with pictures in runs/:

{methods}

An example and all options: minidistill METHOD --help
"""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the method and return the exit status, as in shells: 130 after Ctrl-C."""
    out = "--out"
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        out = args.out
        with like_ctrl_c():
            run(args)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt as stop:
        print(f"\nStopped. The same command with --resume continues it, from {out}", file=sys.stderr)
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


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the method that is named first, or of the default. Exits as argparse does."""
    methods = jobs.methods()
    lines = [f"  {name:12} {(job.__doc__ or name).splitlines()[0]}" for name, job in methods.items()]
    parser = argparse.ArgumentParser(prog="minidistill")
    parser.format_help = lambda: HELP.format(default=jobs.DEFAULT, methods="\n".join(lines))
    commands = parser.add_subparsers(dest="method", metavar="METHOD")
    for name, job in methods.items():
        layout = {"description": job.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
        add = commands.add_parser(name, **layout).add_argument
        job.options(add)
        options(add)
    if any(text.split("=")[0] == "--method" for text in arguments):  # the spelling of before
        old = argparse.ArgumentParser(prog="minidistill", add_help=False)
        old.add_argument("--method")
        known, arguments = old.parse_known_args(arguments)
        arguments = [known.method, *arguments]
        print(f"Note: --method {known.method} is now: minidistill {shlex.join(arguments)}", file=sys.stderr)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = [jobs.DEFAULT, *arguments]
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = "the method comes first" if unknown[0] in methods else f"minidistill {args.method} --help"
        parser.error(f"unrecognized arguments: {' '.join(unknown)} ({hint})")
    if args.updates is None:
        args.updates = methods[args.method].default_updates(args.data)
    args.out = args.out or Path("runs") / f"{args.data}-{args.method}"
    return args


def options(add: Callable) -> None:
    """The options of every method."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    add("--device", default=device, help="cpu, cuda, cuda:1, mps, ... (default: %(default)s)")
    add("--seed", type=int, default=0, help="all randomness: weights, batches, noise (default: %(default)s)")
    add("--out", type=Path, help="where table, pictures and checkpoints go (default: runs/DATA-METHOD)")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--compile", action="store_true", help="torch.compile: a slow first step, faster ones after it")
    add("--bf16", action="store_true", help="bfloat16 autocast: faster where the processor has it")


def run(args: argparse.Namespace) -> None:
    """Look at everything, train every stage, report. What is finished in --out is only loaded."""
    job = jobs.methods()[args.method]
    need.whole("--updates", args.updates, 20, why=", or some stages would not be trained at all")
    need.whole("--seed", args.seed, 0, need.SEEDS)
    updates = job.stages(args)
    args.device = join_processes(args.device)
    first = not dist.is_initialized() or dist.get_rank() == 0
    refuse_another_run(args.out, settings(args), args.resume or not first)
    data = [part.to(args.device) for part in job.load(args)]

    if first:
        minutes = max(1, round(job.minutes(args)))
        hint = "Ctrl-C saves, and the same command with --resume goes on"
        print(f"About {minutes} min on two processor cores. {hint}.", file=sys.stderr)
    with alone(args.out) if first else contextlib.nullcontext():
        if first and not (args.out / "settings.json").exists():  # now nothing can be refused any more
            write_atomically(f"{json.dumps(settings(args), indent=2)}\n".encode(), args.out / "settings.json")
        comparison = job.run(args, training(args, updates, first), data)
        if first:
            print(
                "Trained. Now the comparison, which takes a minute or a few.",
                file=sys.stderr,
            )
            text, files = comparison()
            for name, content in files.items():
                write_atomically(content, args.out / name)
            print(f"{text}\n\nTable, pictures and checkpoints are in {args.out}")  # last: nobody may read it


def training(args: argparse.Namespace, updates: dict[str, int], first: bool) -> Callable:
    """stage(name, train, *models_and_data) runs one stage to its end, on a bar of its own.

    Stages differ in speed: one bar for all would promise from the fast ones what the slow ones cannot keep.
    """

    def stage(name: str, train: Callable, *models_and_data) -> None:
        common = {"seed": args.seed, "compile": args.compile, "bf16": args.bf16, "stage": name}
        checkpoint = args.out / f"{name.replace(' ', '-')}.pt"
        steps = train(*models_and_data, updates[name], checkpoint=checkpoint, **common)
        title = f"{name} ({list(updates).index(name) + 1} of {len(updates)})"
        # smoothing: the last seconds count, since with --compile the first step takes half a minute
        with tqdm(desc=title, total=updates[name], unit=" updates", smoothing=0.05, disable=not first) as bar:
            # the first step is not step 1 when a checkpoint is continued, and there is none when it is whole
            bar.initial = bar.n = bar.last_print_n = next(steps, (updates[name], None))[0]
            for _ in steps:
                bar.update()

    return stage


def settings(args: argparse.Namespace) -> dict:
    """What decides the numbers of a run: not where it runs, and not where files are."""
    free = [name for name, value in vars(args).items() if isinstance(value, Path)] + ["device", "resume"]
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return {name: value for name, value in vars(args).items() if name not in free} | {"processes": processes}


if __name__ == "__main__":
    sys.exit(main())
