"""How fast is it, as ratios on one machine and in one run?

    python tests/benchmark.py

Training steps of the tiny DiT, against the same step with three common choices (fused attention, tanh-GELU, a
DataLoader) and against the rate at which this machine multiplies matrices; samplers against diffusers'
schedulers; `import minidistill` against `import torch`. Absolute times depend on the machine; ratios less.
"""

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from einops import rearrange
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from minidistill import dit
from minidistill.parameterization import as_denoiser
from minidistill.progressive import diffusion_loss
from minidistill.samplers import ddim, euler, heun
from minidistill.schedules import beta_table, cosine, rectified_flow, tabulated, time_grid
from minidistill.train import train


def median_seconds(call: Callable, repeats: int, warmup: int = 3) -> float:
    """The median time of one call."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def flops(dim: int, depth: int, tokens: int, patch_values: int) -> float:
    """Floating-point operations of one forward pass for one image: matrix products only."""
    return (
        depth * (2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim + 12 * dim**2)
        + 4 * tokens * dim * patch_values
    )


def step_seconds(
    net: torch.nn.Module, side: int, batch: int, loader: bool = False, repeats: int = 25
) -> float:
    """The median time of one training step: batch, noise, forward, backward, AdamW, EMA."""
    x, y = torch.randn(2000, 1, side, side), torch.randint(10, (2000,))
    endless = iter(DataLoader(TensorDataset(x, y), batch, shuffle=True, drop_last=True))

    def loss(net, x, y, step, generator):
        if loader:
            nonlocal endless
            try:
                x, y = next(endless)
            except StopIteration:
                endless = iter(DataLoader(TensorDataset(x, y), batch, shuffle=True))
                x, y = next(endless)
        return diffusion_loss(as_denoiser(net, cosine, label=y), x, cosine, generator=generator)

    steps = train(net, loss, (x, y), 10**6, batch=batch, ema=copy.deepcopy(net))
    return median_seconds(lambda: next(steps), repeats)


class FusedAttention(dit.Attention):
    """The same attention by torch's fused kernel, through which forward-mode derivatives do not go."""

    def forward(self, x):
        q, k, v = rearrange(self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


def variants(**shape) -> dict[str, tuple[torch.nn.Module, bool]]:
    """Our network and the same one with other choices: name -> (network, with a DataLoader)."""
    nets = {name: dit.DiT(**shape, classes=10) for name in ("ours", "fused", "tanh", "loader", "all")}
    for name, net in nets.items():
        for block in net.blocks:
            if name in ("fused", "all"):
                block.attention.__class__ = FusedAttention
            if name in ("tanh", "all"):
                block.mlp[1] = torch.nn.GELU(approximate="tanh")
    return {name: (net, name in ("loader", "all")) for name, net in nets.items()}


def matrix_rate(dim: int, rows: int) -> float:
    """Floating-point operations per second of the network's largest matrix product."""
    a, b = torch.randn(rows, dim), torch.randn(dim, 4 * dim)
    return 2 * rows * dim * 4 * dim / median_seconds(lambda: a @ b, 50)


def training() -> None:
    """Steps per second, as ratios."""
    print(
        "training step                          ms   img/s   fused   tanh  loader  all three   of matrix rate"
    )
    for side, shape, batch in (
        (8, {"patch": 2, "dim": 64, "depth": 3}, 128),
        (8, {"patch": 2, "dim": 128, "depth": 4}, 128),
        (16, {"patch": 2, "dim": 192, "depth": 6, "heads": 6}, 32),
    ):
        nets = variants(**shape)
        # in turns, so that a change of the machine's speed hits all of them
        rounds = [
            {name: step_seconds(net, side, batch, loader, 8) for name, (net, loader) in nets.items()}
            for _ in range(3)
        ]
        seconds = {name: statistics.median(r[name] for r in rounds) for name in nets}
        tokens, ours = (side // 2) ** 2, seconds["ours"]
        rate = 3 * batch * flops(shape["dim"], shape["depth"], tokens, 4) / ours
        of_matrix = rate / matrix_rate(shape["dim"], batch * tokens)
        name = f"{tokens} tokens, dim {shape['dim']}, depth {shape['depth']}, batch {batch}"
        ratios = "  ".join(f"{seconds[k] / ours:5.2f}" for k in ("fused", "tanh", "loader", "all"))
        print(f"{name:36} {1000 * ours:5.0f} {batch / ours:7.0f}   {ratios}        {of_matrix:.0%}")
    print("(ratio above 1: ours is that many times faster)\n")


def sampling() -> None:
    """Time per step with a network that costs nothing, against diffusers' schedulers."""
    try:
        import diffusers
    except ImportError:
        print("samplers: diffusers is not installed\n")
        return
    table = tabulated((1 - beta_table("linear")).cumprod(0))
    print("sampler overhead per step, us      batch 1   batch 64")
    for name, run in {
        "ours: ddim": lambda z: ddim(lambda z, t: z, z, time_grid(10), table),
        "ours: euler": lambda z: euler(lambda z, t: z, z, time_grid(10), rectified_flow),
        "ours: heun": lambda z: heun(lambda z, t: z, z, time_grid(10), rectified_flow),
        "diffusers: DDIM": theirs(diffusers.DDIMScheduler()),
        "diffusers: FlowMatchEuler": theirs(diffusers.FlowMatchEulerDiscreteScheduler()),
        "diffusers: Heun": theirs(diffusers.HeunDiscreteScheduler()),
    }.items():
        per_step = [median_seconds(lambda: run(torch.randn(b, 1, 8, 8)), 20) / 10 * 1e6 for b in (1, 64)]
        print(f"{name:32} {per_step[0]:9.0f} {per_step[1]:10.0f}")
    net, z = dit.DiT(classes=10), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        forward = median_seconds(lambda: net(z, torch.rand(64)), 20) * 1e6
    print(f"{'one forward pass of the digits DiT':32} {'':9} {forward:10.0f}\n")


def theirs(scheduler) -> Callable:
    """Ten steps of a diffusers scheduler."""

    def run(z):
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps[:10]:
            z = scheduler.step(z, t, z).prev_sample

    return run


def importing() -> None:
    """Wall time of a fresh interpreter."""

    def seconds(line: str) -> float:
        return median_seconds(lambda: subprocess.run([sys.executable, "-c", line], check=True), 5, warmup=1)

    everything = (
        "from minidistill import dit, metrics, oracle, parameterization, progressive, samplers, train"
    )
    torch_alone = seconds("import torch")
    for line in ("import minidistill", everything):
        print(f"{line}: {seconds(line) / torch_alone:.2f} of import torch ({torch_alone:.2f} s)")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    training()
    sampling()
    importing()
