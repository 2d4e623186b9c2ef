"""Zero-shot editing: what is known is kept, and a consistency model invents the rest. No training.

A measurement y = A x keeps some of the image: the pixels outside a hole, the means of 2x2 blocks, one colour.
Whatever f answers is corrected to agree with it,

    x  ->  x + A^+ (y - A x),        A A^+ y = y,

after every jump of the multistep sampler, which starts from the known part in noise instead of from noise
alone. Inpainting: A = A^+ = the mask. Super-resolution: A = mean over blocks, A^+ = repeat. Song et al.
(2023), appendix D, algorithm 4 (whose orthogonal matrix is one way to write A and A^+).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Generator, ask
from minidistill.parameterization import Denoiser
from minidistill.samplers import Times, intervals, renoise
from minidistill.schedules import Batch, Schedule, Time, like, mix, randn_like


def edit(
    f: Denoiser,
    y: Tensor,
    operator: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    times: Times,
    schedule: Schedule,
    noise: Sequence[Tensor] | None = None,
    generator: Generator = None,
) -> Tensor:
    """A sample of f that agrees with the measurement y = operator(x), in len(times) - 1 jumps.

    `inverse` turns a measurement into an image that has it. n steps use n noises, the first for the start:
    pass them, or a generator to draw them from. Song et al. clamp x to [-1, 1] before each correction; here
    that is f's to do.
    Raises ValueError unless operator(inverse(y)) is y, unless times fall from one to the next, and for
    another number or shape of noises.
    """
    need.samples(y=y)
    guess = inverse(y)
    measured = operator(guess.clone())
    if getattr(measured, "shape", None) != y.shape or not torch.allclose(measured, y, atol=1e-5):
        raise ValueError("operator(inverse(y)) must be y: inverse makes an image that has the measurement")
    need.as_many("noises", noise, len(times) - 1, "step")

    def agreeing(z: Batch, t: Time) -> Batch:
        x = ask(f, z, t, "x")
        return x + inverse(y - operator(x.clone()))

    first, later = (randn_like(guess, generator), None) if noise is None else (noise[0].to(guess), noise[1:])
    (t, _), *_ = intervals(f, guess, times)
    start = mix(guess, first, t, schedule)
    return renoise(agreeing, start, times, schedule, later, generator)


def slerp(a: Batch, b: Batch, weight: Float[Tensor, " b"]) -> Batch:
    """From noise a (weight 0) to noise b (weight 1) along a great circle, each sample by itself.

    A straight line would pass through points too near to 0 to be noise. Song et al. (2023), appendix D.
    Raises ValueError for unequal shapes, for weights outside [0, 1], and for opposite points.
    """
    need.samples(a=a, b=b)
    need.each("weight", weight, a, 0, 1)
    flat_a, flat_b = (noise.to(need.wide(a.dtype)).reshape(len(a), -1) for noise in (a, b))
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b)
    angle, weight = torch.acos(cosine.clamp(-1, 1)), weight.to(cosine.dtype)
    if not need.within(angle, most=torch.pi - 1e-4):
        raise ValueError("a and b are opposite: many great circles join them. Use other noise")
    # the shares sin((1 - weight) angle) / sin(angle) and sin(weight angle) / sin(angle), finite at angle 0
    share_a, share_b = (
        (u * torch.sinc(u * angle / torch.pi) / torch.sinc(angle / torch.pi)) for u in (1 - weight, weight)
    )
    return (like(share_a, a) * a + like(share_b, b) * b).to(a.dtype)
