"""The job `--method ect`: the teacher of quickstart.py becomes a consistency model.

The network sees the angle of the noise and not the schedule, so that a teacher of the cosine schedule is a
start for a student in EDM's time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from minidistill.consistency import ect_loss, ect_stage, lognormal_times
from minidistill.dit import DiT
from minidistill.parameterization import as_denoiser
from minidistill.quickstart import Contestant, fresh_generator
from minidistill.samplers import renoise
from minidistill.schedules import edm, randn_like
from minidistill.train import train

# each stage halves the gap between the two times that are compared: at high noise, 1/2 to 1/256 of t
STAGES = 8
# EDM times of consistency sampling, in which the network is asked at all but the last
TIMES = {1: [80.0, 0.0], 2: [80.0, 0.8, 0.0], 4: [80.0, 5.0, 1.0, 0.4, 0.0]}


def train_ect(
    net: DiT, ema: DiT, teacher: DiT, x: Tensor, y: Tensor, steps: int, **options
) -> Iterator[tuple[int, Tensor]]:
    """A consistency model, from the teacher's weights, by Easy Consistency Tuning. The student is `ema`."""
    data_std = x.std().item()
    for model in (net, ema):
        model.load_state_dict(teacher.state_dict())

    def loss(net: DiT, x: Tensor, y: Tensor, step: int, generator: torch.Generator) -> Tensor:
        stage = min(ect_stage(step, max(1, steps // STAGES)), STAGES)
        t = lognormal_times(len(x), generator=generator, device=x.device)
        f = as_denoiser(net, edm, data_std, label=y)
        return ect_loss(f, x, randn_like(x, generator), t, stage)

    return train(net, loss, (x, y), steps, ema=ema, warmup=0, **options)


def by_renoise(model: str, net: DiT, data_std: float, steps: int, seed: int) -> Contestant:
    """A consistency function in 1, 2 or 4 jumps, with fresh noise between them."""

    def sample(noise: Tensor, labels: Tensor) -> Tensor:
        f = as_denoiser(net, edm, data_std, label=labels)
        times = torch.tensor(TIMES[steps])
        generator = fresh_generator(noise, seed)
        return renoise(f, times[0] * noise, times, edm, generator=generator)

    return Contestant(model, steps, sample, paired=steps == 1)
