"""Distribution matching (DMD): a generator's samples move away from where they are denser than the data.

    y = generator(noise)                         one step
    z = alpha y + sigma eps                      noise again, at any time
    D_fake(z, t) - D_real(z, t)                  two denoisers: of the samples y, and of the data
      = sigma^2 / alpha (score_fake - score_real)

D_real is a teacher; D_fake learns the samples, all the time. A step against the gap lowers KL of the noisy
samples from noisy data. No trajectory is copied: which noise becomes which sample is left open, and the map
is not the teacher's. Yin et al. (2024): DMD, section 3.2, and DMD2, section 4.

>>> real, fake = (lambda z, t: 0 * z), (lambda z, t: 0 * z + 1)  # data at 0, samples at 1
>>> matching_gradient(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0.7]), real, fake)
tensor([[1., 1.]])
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import torch

from minidistill import need
from minidistill.asking import Batch, Number, Time, Whole, ask, mean_square, read
from minidistill.parameterization import Denoiser, guided
from minidistill.progressive import weighted_error
from minidistill.schedules import Schedule, coefficients, like, mix, rectified_flow
from minidistill.stopping import whole_steps


def generate(
    generator: Denoiser, noise: Batch, schedule: Schedule = rectified_flow, t: Number = 1.0
) -> Batch:
    """A denoiser's answer to sigma_t noise; EDM's t is 80. ValueError for t = 0: there it changes nothing."""
    need.samples(noise=noise)
    t = need.number("t", t, above=0, why=", the noisy end: at 0 a denoiser returns what it gets")
    time = torch.full((len(noise),), t, dtype=need.wide(noise.dtype), device=noise.device)
    return ask(generator, mix(torch.zeros_like(noise), noise, time, schedule), time, "x")


def renoised(y: Batch, eps: Batch, t: Time, schedule: Schedule) -> Batch:
    """y, a constant, with the noise of t. Raises ValueError where there is none."""
    need.each("sigma", coefficients(schedule, t, y)[1].flatten(), y, above=0, why=": t = 0 has no noise")
    return mix(y.detach(), eps, t, schedule)


@torch.no_grad()  # a direction is a constant
def matching_gradient(y: Batch, z: Batch, t: Time, real: Denoiser, fake: Denoiser) -> Batch:
    """(D_fake - D_real) / mean|y - D_real|, each sample by its own mean: comparable at all noise levels.
    z is y with the noise of t > 0; both are asked there. Raises ValueError if real is fake. DMD, eq. 8."""
    need.samples(y=y, z=z)
    need.each("t", t, z, above=0, why=": without noise both return what they get")
    if real is fake:
        raise ValueError("real is fake: their gap is 0. The fake score is a network of its own, a copy")
    x_real, x_fake = (ask(model, z, t, "x").to(need.wide(y.dtype)) for model in (real, fake))
    size = (y - x_real).abs().reshape(len(y), -1).mean(1).clamp(min=1e-12)  # y may be D_real
    return ((x_fake - x_real) / like(size, y)).to(y.dtype)


def guidance_gradient(
    y: Batch, z: Batch, t: Time, real: Denoiser, unconditional: Denoiser, scale: Number
) -> Batch:
    """The part without a fake score of matching_gradient(y, z, t, guided(real, unconditional, scale), fake).
    It pushes, however far samples are; the rest, matching's, holds. Liu et al. (2025), Decoupled DMD."""
    return matching_gradient(y, z, t, guided(real, unconditional, scale), real)


def surrogate_loss(y: Batch, gradient: Batch) -> Time:
    """Half the squared distance to y - gradient, a constant, (b,): the gradient in y is `gradient` / numel.
    The value, half the mean square of `gradient`, may rise while samples improve."""
    need.samples(y=y, gradient=gradient)
    target = y.detach().to(need.wide(y.dtype)) - gradient.detach()
    return (mean_square(y, target) / 2).to(y.dtype)


def matching_loss(y: Batch, eps: Batch, t: Time, real: Denoiser, fake: Denoiser, schedule: Schedule) -> Time:
    """The generator's loss, (b,): y gets the gradient, the scores get none. DMD's code: t from 2 to 98 %."""
    z = renoised(y, eps, t, schedule)
    need.each("alpha", read(schedule, t)[0], y, above=0, why=": at the last time z is noise alone")
    return surrogate_loss(y, matching_gradient(y, z, t, real, fake))


def fake_loss(
    fake: Denoiser, y: Batch, eps: Batch, t: Time, schedule: Schedule, weighting: str = "snr+1"
) -> Time:
    """The denoising loss of the fake score on the generator's samples, with a t and eps of its own: (b,).
    y gets no gradient. weighting: as in `progressive.weight`."""
    x_hat = ask(fake, renoised(y, eps, t, schedule), t, "x")
    return weighted_error(x_hat, y.detach(), t, schedule, weighting)


def alternate(fake_run: Iterator, generator_run: Iterator, ratio: Whole = 5) -> Iterator:
    """What generator_run yields, each after `ratio` updates of fake_run: two runs of `train`.
    With few, the fake score lags, and the generator circles around the data. ValueError where fake_run, which
    needs `ratio` times as many steps, ends first. Ctrl-C waits for the round, and has both runs saved."""
    ratio = need.whole("ratio", ratio, why=" updates of the fake score for one of the generator")

    def turn():
        with whole_steps() as interrupted:
            ready, update = len(list(islice(fake_run, ratio))), next(generator_run, None)
            for run in (fake_run, generator_run) if interrupted else ():
                with suppress(AttributeError, StopIteration):  # no run of `train`, or at its end
                    run.send("save")
        if update is not None and ready < ratio:
            raise ValueError(f"fake_run ended before generator_run: it needs {ratio} times as many steps")
        return update

    return iter(turn, None)


@torch.no_grad()
def drift(y: Batch, x: torch.Tensor, temperature: Number = 0.2) -> Batch:
    """How far samples y should move: data x, (m, *d), pulls, samples push. ValueError unless all is finite.
    An affinity is the geometric mean of two softmaxes, of distances over their mean, and at least 1e-3, as
    released: for hundreds of points, of thousands that outweighs the rest. Deng et al. (2026), Drifting."""
    need.finite(y=y, x=x)
    need.samples(y=y[:1], x=x[:1])
    a, b = (points.to(need.wide(y.dtype)).reshape(len(points), -1) for points in (y, x))
    apart = torch.cdist(a, torch.cat([a, b]))
    apart = apart / (apart.mean().clamp(min=1e-6) * need.number("temperature", temperature, above=0))
    logits = -apart - 1e4 * torch.eye(*apart.shape).to(a)  # a sample hardly pushes itself
    near = (logits.softmax(1) * logits.softmax(0)).clamp(min=1e-6).sqrt()
    push, pull = near.tensor_split([len(a)], 1)
    found = push.sum(1, keepdim=True) * (pull @ b) - pull.sum(1, keepdim=True) * (push @ a)
    return found.reshape(y.shape).to(y.dtype)


def drifting_loss(y: Batch, x: torch.Tensor, temperature: Number = 0.2) -> Time:
    """The squared distance of y to where it drifts, a constant: (b,)."""
    return 2 * surrogate_loss(y, -drift(y, x, temperature))
