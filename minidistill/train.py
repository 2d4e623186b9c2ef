"""One training loop for every method: a generator that yields the number and the loss of each step.

    ema = copy.deepcopy(net)
    for step, loss in tqdm(train(net, loss_fn, (x, labels), steps=2000, ema=ema), total=2000):
        ...

`loss_fn(net, *batch, step, generator)` returns (b,); curricula read the step. The data stays on the device
and a batch is an index. Every random number of step k, those of dropout too, comes from (seed, k), so a run
that was stopped, by Ctrl-C or by a power cut, continues from its checkpoint to the same weights, bit for bit
on one CPU. Started by torchrun, every process takes its share of the batch and the gradients are averaged.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


def train(
    net: nn.Module,
    loss_fn: Callable[..., Tensor],
    data: Sequence[Tensor],
    steps: int,
    batch: int = 128,
    lr: float = 1e-3,
    warmup: int = 100,
    clip: float = 1.0,
    ema: nn.Module | None = None,
    ema_decay: float = 0.999,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 500,
    compile: bool = False,
    bf16: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Train net in place with AdamW and yield (step, mean loss), steps counted from 1.

    The learning rate rises linearly over `warmup` steps and falls linearly to 0. `ema`, a copy of net,
    follows it with decay min(ema_decay, (1 + step) / (10 + step)). With `checkpoint`, the run is saved there
    every `save_every` steps, on Ctrl-C and at the end, and an existing file is continued. Raises ValueError
    for data that does not fit together and for a checkpoint of another run, FloatingPointError instead
    of saving when the loss is not finite.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if len({len(a) for a in data}) != 1:
        raise ValueError(f"all data must have the same length, got {[len(a) for a in data]}")
    if batch % world:
        raise ValueError(f"a batch of {batch} cannot be shared equally by {world} processes")
    device = data[0].device
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    run = dict(steps=steps, batch=batch, lr=lr, warmup=warmup, clip=clip, ema_decay=ema_decay, seed=seed)
    state = {"net": net, "optimizer": optimizer} | ({"ema": ema} if ema is not None else {})
    done = load(checkpoint, state, run) if checkpoint is not None and Path(checkpoint).exists() else 0

    def save() -> None:
        if checkpoint is not None and rank == 0:
            save_atomically(
                {name: part.state_dict() for name, part in state.items()} | {"run": run, "step": step},
                checkpoint,
            )

    objective = Objective(torch.compile(net) if compile else net, loss_fn)
    if world > 1:
        objective = nn.parallel.DistributedDataParallel(objective)
    generator = torch.Generator(device)

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
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            if ema is not None:
                decay = min(ema_decay, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)

            if step % save_every == 0 or step == steps or interrupted:
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {step}; the last checkpoint was kept"
                    )
                save()
        yield step, loss.detach()


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


@contextmanager
def whole_steps() -> Iterator[list]:
    """Ctrl-C waits until the step is whole: half an update could not be resumed. Yields what it fills."""
    interrupted = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread receives signals
        return
    previous = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted:
        raise KeyboardInterrupt


def save_atomically(content: dict, path: str | Path) -> None:
    """torch.save, such that path always holds either the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: str | Path, state: dict, run: dict | None = None) -> int:
    """Fill the parts of `state` (modules, optimizers) from a checkpoint and return the step it was saved at.

    Raises ValueError for a file that is not a whole checkpoint, that lacks a part, or that belongs to a run
    with other settings than `run`.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        parts = {name: saved[name] for name in state}
        saved_run, step = saved["run"], saved["step"]
    except Exception as error:  # a broken file fails in many ways: zip, pickle, missing keys
        raise ValueError(
            f"{path} is not a whole checkpoint of this program ({error}); delete it to start anew"
        ) from error
    if run is not None and saved_run != run:
        changed = ", ".join(
            f"{k} {saved_run.get(k)} (now {v})" for k, v in run.items() if saved_run.get(k) != v
        )
        raise ValueError(
            f"{path} belongs to a run with other settings: {changed}. Use those, or another file"
        )
    try:
        for name, part in state.items():
            part.load_state_dict(parts[name])
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this network: {error}") from error
    return step
