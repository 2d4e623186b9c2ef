"""The job `--method phased`: a flow-matching teacher, and students that jump to the edges of phases."""

from collections.abc import Iterator

import torch
from torch import Tensor

from minidistill.dit import DiT
from minidistill.parameterization import as_denoiser, as_velocity, guided
from minidistill.phased import (
    Velocity,
    flow_matching_loss,
    grid_stops,
    phase_edges,
    phase_grid,
    phased_loss,
    phased_sample,
    phases_at,
)
from minidistill.quickstart import Contestant, fresh_generator
from minidistill.schedules import randn_like, rectified_flow
from minidistill.train import train

GRID = 40  # teacher steps that a phased student learns from: divided by 1, 2, 4 and 8 phases


def flow(net: DiT, data_std: float, label: Tensor) -> Velocity:
    """The network as a velocity of rectified flow."""
    return as_velocity(as_denoiser(net, rectified_flow, data_std, label=label))


def guided_flow(net: DiT, data_std: float, label: Tensor, scale: float) -> Velocity:
    """The network's velocity, guided away from that without a label. Scale 1 asks once."""
    if scale == 1:
        return flow(net, data_std, label)
    return guided(flow(net, data_std, label), flow(net, data_std, torch.full_like(label, net.null)), scale)


def train_flow_teacher(
    net: DiT, ema: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A flow-matching model of x given its label; a tenth are dropped, for guidance. The teacher is `ema`."""
    data_std = x.std().item()

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        t, dropped = torch.rand(2, len(x), generator=generator, device=x.device)
        label = torch.where(dropped < 0.1, net.null, y)
        # rand can be 0, where the velocity is 0 / 0, but never 1
        return flow_matching_loss(flow(net, data_std, label), x, randn_like(x, generator), 1 - t)

    return train(net, loss, (x, y), steps, ema=ema, **options)


def train_phased(
    net: DiT,
    ema: DiT,
    teacher: DiT,
    plan: list[tuple[int, int]],
    guidance: float,
    x: Tensor,
    y: Tensor,
    steps: int,
    **options,
) -> Iterator[tuple[int, Tensor]]:
    """A phased student of the guided teacher, from its weights. `ema` is the target, and the student."""
    data_std, grid = x.std().item(), phase_grid(GRID)
    for model in (net, ema):
        model.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        edges = phase_edges(grid, phases_at(plan, step))
        index = torch.randint(1, len(grid), (len(x),), generator=generator, device=x.device)
        velocities = (
            flow(net, data_std, y),
            flow(ema, data_std, y),
            guided_flow(teacher, data_std, y, guidance),
        )
        return phased_loss(*velocities, x, randn_like(x, generator), index, grid, edges)

    return train(net, loss, (x, y), steps, ema=ema, ema_decay=0.95, warmup=0, **options)


def by_flow(
    model: str,
    net: DiT,
    data_std: float,
    steps: int,
    guidance: float = 1.0,
    fresh: float = 0.0,
    seed: int = 0,
) -> Contestant:
    """A velocity along `steps` stops of the training grid: Euler, or with fresh noise."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        velocity = guided_flow(net, data_std, labels, guidance)
        stops = grid_stops(phase_grid(GRID), steps)
        return phased_sample(velocity, noise, stops, fresh, fresh_generator(noise, seed))

    return Contestant(model, steps, sample, paired=fresh == 0)
