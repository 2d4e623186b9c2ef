"""How fast is it, as ratios on one machine and in one run?

    python tests/benchmark.py                  # about four minutes on two cores
    python tests/benchmark.py --device cuda    # about four minutes: eager, compiled, and as one CUDA graph

On the processor: training steps of the tiny DiT beside the same step with other people's networks of the same
size, and beside the rate at which this machine multiplies matrices; samplers beside diffusers' schedulers;
`import minidistill` beside `import torch`. Absolute times depend on the machine; ratios less.
"""

import argparse
import copy
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from minidistill import dit
from minidistill.data import digits
from minidistill.parameterization import as_denoiser
from minidistill.progressive import diffusion_loss
from minidistill.samplers import ddim, euler, heun
from minidistill.schedules import beta_table, cosine, rectified_flow, tabulated, time_grid
from minidistill.train import follow, train


def median_seconds(call: Callable, repeats: int, warmup: int = 3, wait: Callable = lambda: None) -> float:
    """The median time of one call, and of `wait`, which lets an accelerator finish."""
    for _ in range(warmup):
        call()
    wait()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# training, beside other networks


class Usual(nn.Module):
    """A DiT as facebookresearch/DiT builds it: patches by a convolution, attention always fused, tanh-GELU, 256
    frequencies of time, learned-table positions, a tenth of the labels dropped."""

    def __init__(self, side: int, patch: int, dim: int, depth: int, heads: int):
        super().__init__()
        self.patch, self.patches = patch, nn.Conv2d(1, dim, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2, dim), requires_grad=False)
        self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(11, dim)
        self.blocks = nn.ModuleList(UsualBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.out = nn.Linear(dim, patch**2)

    def forward(self, z, t, label):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=t.device) / 128)
        angles = t[:, None] * frequencies
        label = torch.where(torch.rand(len(z), device=z.device) < 0.1, 10, label)
        c = self.time(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.label(label)
        x = self.patches(z).flatten(2).mT + self.positions
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        x = self.out(self.norm(x) * (1 + scale[:, None]) + shift[:, None])
        h = z.shape[-1] // self.patch
        return rearrange(x, "b (h w) (p q) -> b 1 (h p) (w q)", h=h, p=self.patch)


class UsualBlock(nn.Module):
    """adaLN-zero with fused attention and tanh-GELU."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.to_qkv, self.out = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        gelu = nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), gelu, nn.Dropout(0.0), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x, c):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(c)[:, None].chunk(6, dim=2)
        u = self.norms[0](x) * (1 + scale_1) + shift_1
        q, k, v = self.to_qkv(u).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + gate_1 * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + gate_2 * self.mlp(self.norms[1](x) * (1 + scale_2) + shift_2)


def smalldiffusion(side: int, patch: int, dim: int, depth: int, heads: int) -> nn.Module | None:
    """smalldiffusion's DiT with labels, if it is installed."""
    try:
        from smalldiffusion.model import CondEmbedderLabel
        from smalldiffusion.model_dit import DiT
    except ImportError:
        return None

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            label = CondEmbedderLabel(dim, 10)
            self.net = DiT(side, 1, patch, depth, dim // heads, heads, cond_embed=label)

        def forward(self, z, t, label):
            return self.net(z, t.reshape(-1, 1, 1, 1), label)

    return Theirs()


def training_step(net: nn.Module, side: int, batch: int) -> Callable:
    """One training step: batch, noise, forward, backward, AdamW, EMA."""
    x, y = torch.randn(2000, 1, side, side), torch.randint(10, (2000,))

    def loss(net, x, y, step, generator):
        return diffusion_loss(as_denoiser(net, cosine, label=y), x, cosine, generator=generator)

    steps = train(net, loss, (x, y), 10**6, batch=batch, ema=copy.deepcopy(net))
    return lambda: next(steps)


def flops(dim: int, depth: int, tokens: int, patch_values: int) -> float:
    """Floating-point operations of one forward pass for one image: matrix products only."""
    block = 2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim + 12 * dim**2
    return depth * block + 4 * tokens * dim * patch_values


def matrix_rate(dim: int, rows: int) -> float:
    """Floating-point operations per second of the network's largest matrix product."""
    a, b = torch.randn(rows, dim), torch.randn(dim, 4 * dim)
    return 2 * rows * dim * 4 * dim / median_seconds(lambda: a @ b, 50)


def training() -> None:
    """Steps per second, as ratios."""
    print("training step                                  ms   img/s   DiT  smalldiffusion   of matrix rate")
    for side, dim, depth, heads, batch in (
        (8, 64, 3, 4, 128),
        (8, 128, 4, 4, 128),
        (16, 192, 6, 6, 32),
        (28, 64, 3, 4, 128),
        (28, 192, 6, 6, 16),
    ):
        shape = {"patch": 2, "dim": dim, "depth": depth, "heads": heads}
        nets = {"ours": dit.DiT(**shape, classes=10), "DiT": Usual(side, **shape)}
        nets["smalldiffusion"] = smalldiffusion(side, **shape)
        steps = {name: training_step(net, side, batch) for name, net in nets.items() if net is not None}
        # in turns, so that a change of the machine's speed hits all of them
        rounds = [{name: median_seconds(step, 5, 1) for name, step in steps.items()} for _ in range(5)]
        seconds = {name: statistics.median(r[name] for r in rounds) for name in steps}
        tokens, ours = (side // 2) ** 2, seconds["ours"]
        rate = 3 * batch * flops(dim, depth, tokens, 4) / ours
        of_matrix = rate / matrix_rate(dim, batch * tokens)
        name = f"{tokens} tokens, dim {dim}, depth {depth}, batch {batch}"
        ratios = [f"{seconds[k] / ours:.2f}" if k in seconds else "" for k in ("DiT", "smalldiffusion")]
        print(
            f"{name:42} {1000 * ours:6.0f} {batch / ours:7.0f}  {ratios[0]:>4}  {ratios[1]:>14} {of_matrix:12.0%}"
        )
    print("(ratio above 1: ours is that many times faster)\n")


# samplers


def sampling() -> None:
    """Time per step with a network that costs nothing, against diffusers' schedulers."""
    table = tabulated((1 - beta_table("linear")).cumprod(0))
    samplers = {
        "ours: ddim": lambda z: ddim(lambda z, t: z, z, time_grid(10), table),
        "ours: euler": lambda z: euler(lambda z, t: z, z, time_grid(10), rectified_flow),
        "ours: heun": lambda z: heun(lambda z, t: z, z, time_grid(10), rectified_flow),
    }
    try:
        import diffusers

        samplers["diffusers: DDIM"] = theirs(diffusers.DDIMScheduler())
        samplers["diffusers: FlowMatchEuler"] = theirs(diffusers.FlowMatchEulerDiscreteScheduler())
        samplers["diffusers: Heun"] = theirs(diffusers.HeunDiscreteScheduler())
    except ImportError:
        print("(diffusers is not installed)")
    print("sampler overhead per step, us      batch 1   batch 64")
    for name, run in samplers.items():
        per_step = []
        for b in (1, 64):
            z = torch.randn(b, 1, 8, 8)
            per_step.append(median_seconds(lambda: run(z), 100) / 10 * 1e6)
        print(f"{name:32} {per_step[0]:9.0f} {per_step[1]:10.0f}")
    net, z = dit.DiT(classes=10), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        forward = median_seconds(lambda: net(z, torch.rand(64)), 20) * 1e6
    print(f"{'one forward pass of the digits DiT':32} {'':7} {forward:10.0f}\n")


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


# on an accelerator, where a small network waits for Python


def capture(call: Callable[[], object]) -> Callable[[], None]:
    """The call as one CUDA graph: its kernels in their order, without Python between them.

    It must wait for nothing and make nothing on the processor. Its tensors stay where they are, and random
    numbers go on from torch's own generator.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is allocated only once must be there before
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def plain_step(net: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int) -> Callable[[], object]:
    """The training step of train.py as one function, with torch's own random numbers: batch, noise, forward,
    backward, clipping, AdamW, EMA."""
    ema = copy.deepcopy(net)
    capturable = {"capturable": True} if x.is_cuda else {}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, **capturable)
    parameters = list(net.parameters())

    def step():
        index = torch.randint(len(x), (batch,), device=x.device)
        loss = diffusion_loss(as_denoiser(net, cosine, label=y[index]), x[index], cosine).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        follow(ema, net, 0.999)

    return step


def on_device(device: str, batches: tuple[int, ...] = (128, 1024), capture: Callable = capture) -> None:
    """Training steps and sampling of the digits' network: eager, compiled, and captured."""
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    x, y = (a.to(device) for a in digits())
    print(f"{name}, torch {torch.__version__}\n")
    print("| digits, us | batch | eager | `--compile` | CUDA graph | graph times faster than eager |")
    print("|---|---|---|---|---|---|")

    def row(what: str, batch: int, eager: Callable, compiled: Callable, captured: Callable) -> None:
        seconds = [median_seconds(call, 50, 10, wait) for call in (eager, compiled, captured)]
        cells = " | ".join(f"{1e6 * s:.0f}" for s in seconds)
        print(f"| {what} | {batch} | {cells} | {seconds[0] / seconds[2]:.1f} |", flush=True)

    for batch in batches:
        nets = [dit.DiT(classes=10).to(device) for _ in range(3)]
        compiled = torch.compile(nets[1])
        steps = [plain_step(net, x, y, batch) for net in (nets[0], compiled, nets[2])]
        row("training step", batch, steps[0], steps[1], capture(steps[2]))
    for batch in batches:
        net, z = dit.DiT(classes=10).to(device), torch.randn(batch, 1, 8, 8, device=device)
        times, label = time_grid(8).to(device), torch.zeros(batch, dtype=torch.long, device=device)
        runs = [
            lambda net=net: ddim(as_denoiser(net, cosine, label=label), z, times, cosine)
            for net in (net, torch.compile(net), net)
        ]
        with torch.no_grad():
            row("8 DDIM steps", batch, runs[0], runs[1], capture(runs[2]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed, as ratios on one machine and in one run.")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (default: %(default)s)")
    device = parser.parse_args().device
    if device == "cpu":
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        training()
        sampling()
        importing()
    elif torch.cuda.is_available():
        on_device(device)
    else:
        parser.error(f"--device {device}: there is no CUDA here")
