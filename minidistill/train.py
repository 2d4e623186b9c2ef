"""One training loop for every method: a generator that yields the number and the loss of each step.

    ema = copy.deepcopy(net)
    for step, loss in tqdm(train(net, loss_fn, (x, labels), steps=2000, ema=ema), total=2000):
        ...

`loss_fn(net, *batch, step, generator)` returns (b,); curricula read the step. The data stays on the device
and a batch is an index. Every random number of step k, those of dropout too, comes from (seed, k), so a run
that was stopped, by Ctrl-C or by a power cut, continues from its checkpoint to the same weights, bit for bit
on one CPU. Started by torchrun, every process takes its share of the batch, draws its own noise for it, and
the gradients are averaged: the same run again with as many processes, and another one with more or fewer.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minidistill import need
from minidistill.checkpoints import load, save_atomically
from minidistill.need import SEEDS, Number, Whole
from minidistill.stopping import whole_steps


def train(
    net: nn.Module,
    loss_fn: Callable[..., Tensor],
    data: Sequence[Tensor],
    steps: Whole,
    batch: Whole = 128,
    lr: Number = 1e-3,
    warmup: Whole = 100,
    clip: Number = 1.0,
    ema: nn.Module | None = None,
    ema_decay: Number = 0.999,
    seed: Whole = 0,
    checkpoint: str | Path | None = None,
    save_every: Whole = 500,
    compile: bool = False,
    bf16: bool = False,
    stage: str = "",
) -> Iterator[tuple[int, Tensor]]:
    """Yields (step, mean loss), steps counted from 1, and trains net in place while it is looped over.

    A checkpoint is loaded at once; without a loop nothing is trained. AdamW; the learning rate rises linearly
    over `warmup` steps and falls linearly to 0. `ema`, a copy of net, follows its parameters with decay
    min(ema_decay, (1 + step) / (10 + step)), and has its buffers. With `checkpoint`, the run is saved there
    every `save_every` steps, on Ctrl-C, SIGTERM and SIGHUP, and at the end, and an existing file is
    continued, if it is of this `stage` and has these settings. Raises ValueError for settings that make no
    sense, data that does not fit together and a checkpoint of another run, FloatingPointError instead of
    saving when the loss or its gradient was not finite.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    tensors = isinstance(data, Sequence) and all(isinstance(a, Tensor) for a in data)
    if not tensors or len({len(a) for a in data}) != 1 or not len(data[0]):
        raise ValueError(
            "data is a tuple of tensors of the same length, above 0: (x, labels), or (x,) for one"
        )
    if ema is not None and [p.shape for p in ema.parameters()] != [p.shape for p in net.parameters()]:
        raise ValueError(
            "ema must be a copy of net, and its parameters have other shapes: copy.deepcopy(net)"
        )
    steps, batch = need.whole("steps", steps), need.whole("batch", batch)
    save_every = need.whole("save_every", save_every)
    warmup, seed = need.whole("warmup", warmup, 0), need.whole("seed", seed, 0, SEEDS)
    lr = need.number("lr", lr, above=0)
    clip = clip if clip == math.inf else need.number("clip", clip, above=0)
    ema_decay = need.number("ema_decay", ema_decay, 0, 1)
    run = dict(stage=stage, steps=steps, batch=batch, lr=lr, warmup=warmup, clip=clip, ema_decay=ema_decay)
    run |= dict(seed=seed, bf16=bf16, processes=world)
    if batch % world:
        raise ValueError(f"a batch of {batch} cannot be shared equally by {world} processes")
    device = data[0].device
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    state = {"net": net, "optimizer": optimizer} | ({"ema": ema} if ema is not None else {})
    done = load(checkpoint, state, run) if checkpoint is not None and Path(checkpoint).exists() else 0

    objective = Objective(torch.compile(net) if compile else net, loss_fn)
    if world > 1:
        objective = nn.parallel.DistributedDataParallel(objective)
    generator = torch.Generator(device)

    def updates() -> Iterator[tuple[int, Tensor]]:
        finite = torch.ones((), dtype=torch.bool, device=device)

        def save() -> None:
            if not finite:
                raise FloatingPointError(
                    f"the loss or its gradient was not finite at step {step} or before: the loss is "
                    f"{loss.item()}, the norm of the gradient {norm.item()}; the last checkpoint was kept"
                )
            if checkpoint is not None and rank == 0:
                parts = {name: part.state_dict() for name, part in state.items()}
                save_atomically(parts | {"run": run, "step": step}, checkpoint)

        for step in range(done + 1, steps + 1):
            with whole_steps() as interrupted:
                # one batch, of which each process takes its share, and then its own noise
                generator.manual_seed((seed * 1_000_003 + step) * 1024)
                index = torch.randint(len(data[0]), (batch,), generator=generator, device=device)[rank::world]
                generator.manual_seed((seed * 1_000_003 + step) * 1024 + 1 + rank)

                for group in optimizer.param_groups:
                    group["lr"] = lr * min(1, step / max(warmup, 1)) * (1 - (step - 1) / steps)
                with own_randomness(generator), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = objective(*(a[index] for a in data), step=step, generator=generator)
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
                finite = finite & loss.isfinite() & norm.isfinite()  # looked at when it is time to save
                optimizer.step()
                if ema is not None:
                    follow(ema, net, min(ema_decay, (1 + step) / (10 + step)))

                if step % save_every == 0 or step == steps or interrupted:
                    save()
            while (yield step, loss.detach()) == "save":  # sent, so that two runs are saved together
                save()

    return updates()


@torch.no_grad()
def follow(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """decay ema + (1 - decay) net, for the parameters; buffers, such as BatchNorm's, are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
    for ours, theirs in zip(ema.buffers(), net.buffers()):
        ours.copy_(theirs)


class Objective(nn.Module):
    """The mean loss as a module: data parallelism hooks into its forward, so nothing may bypass it."""

    def __init__(self, net: nn.Module, loss_fn: Callable[..., Tensor]):
        super().__init__()
        self.net, self.loss_fn = net, loss_fn

    def forward(self, *batch: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return self.loss_fn(self.net, *batch, step=step, generator=generator).mean()


@contextmanager
def own_randomness(generator: torch.Generator) -> Iterator[None]:
    """Torch's global random state, which dropout draws from, starts from the generator's seed meanwhile."""
    device = generator.device
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        # torch.manual_seed prepares every kind of device, which takes time at each step
        reseed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
        reseed(generator.initial_seed() + 512)  # not the numbers that the generator itself draws
        yield


def join_processes(device: str) -> str:
    """Joins the processes that torchrun started, if it did, and returns the device of this one.

    Raises ValueError for a device that cannot be used.
    """
    if "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}" if device.startswith("cuda") else device
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device
