"""The job `--method pyramid`: three sizes with one network, one size beside them, and their students."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidistill import data
from minidistill.dit import DiT
from minidistill.pyramid import Stage, at_level, pyramid_distillation_loss, pyramid_loss, pyramid_sample
from minidistill.quickstart import Contestant, fresh_generator
from minidistill.schedules import randn_like
from minidistill.train import train

CUTS = [0, 1 / 3, 2 / 3, 1]  # three sizes: 4x4, 8x8 and 16x16 for digits
STEPS = 8  # sampling steps of the pyramidal teacher in each stage
BATCH = 96  # shared equally by the stages


def images(x: Tensor) -> Tensor:
    """Images whose size can be halved twice: 8x8 digits at 16x16, 28x28 images in a frame of 2."""
    return data.enlarge(x) if x.shape[-1] == 8 else nn.functional.pad(x, (2, 2, 2, 2), value=-1.0)


def network(side: int) -> DiT:
    """A DiT for all sizes of the pyramid, up to 16 or 32; its answer is the velocity itself."""
    return (
        DiT(patch=2, dim=64, depth=4, classes=10)
        if side == 16
        else DiT(patch=4, dim=128, depth=3, classes=10)
    )


def forward_flops(net: DiT, side: int, found: Sequence[Stage]) -> list[int]:
    """Floating-point operations of one forward pass for one sample, at the size of each stage."""
    counts = []
    for i in range(len(found)):
        z = next(net.parameters()).new_zeros(1, net.channels, side, side)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(at_level(z, len(found) - 1 - i), z.new_ones(1))
        counts.append(counter.get_total_flops())
    return counts


def train_pyramid(
    net: DiT, ema: DiT, found: Sequence[Stage], x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """Pyramidal flow matching given the label; with one stage, plain flow matching. The teacher is `ema`."""

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        u = 1 - torch.rand(len(x), generator=generator, device=x.device)
        return pyramid_loss(net, x, randn_like(x, generator), u, found, label=y)

    return train(net, loss, (x, y), steps, batch=BATCH, lr=2e-3, ema=ema, **options)


def train_pyramid_student(
    net: DiT, teacher: DiT, found: Sequence[Stage], n: int, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A student of n steps in each stage, from the weights of a teacher of 2 n."""
    net.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(1, n + 1, (len(x),), generator=generator, device=x.device)
        noise = randn_like(x, generator)
        return pyramid_distillation_loss(net, teacher, x, noise, index, found, n, label=y)

    return train(net, loss, (x, y), steps, batch=BATCH, warmup=0, **options)


def by_pyramid(
    model: str, net: DiT, found: Sequence[Stage], steps: int, flops: Sequence[int], seed: int = 0
) -> Contestant:
    """`steps` in each stage, with the same noise in the jumps for all. A single stage is paired with none."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        generator, images = fresh_generator(noise, seed), []
        # in parts that stay in the processor's cache, where large ones cost twice the time
        for part, label in zip(noise.split(50), labels.split(50)):
            velocity = lambda z, t, label=label: net(z, t, label)
            images.append(pyramid_sample(velocity, part, found, steps, generator=generator))
        return torch.cat(images)

    return Contestant(model, steps * len(found), sample, len(found) > 1, steps * sum(flops) / 1e6)
