"""What the network predicts: x, eps, v, velocity or score, and how to read any of them as any other.

Every prediction is a fixed mixture of data and noise, u = a x + b eps. Together with the noisy sample

    z = alpha x + sigma eps
    u =     a x +     b eps

it determines x and eps, as long as the determinant alpha b - sigma a is not 0: two equations, two unknowns.

    kind       a        b         determinant                   cannot be read where
    x          1        0         -sigma                        sigma = 0: z is already the data
    eps        0        1         alpha                         alpha = 0: eps says nothing about x
    v          -sigma   alpha     alpha^2 + sigma^2             never
    velocity   alpha'   sigma'    alpha sigma' - sigma alpha'   the SNR stands still or jumps
    score      0        -1/sigma  -alpha / sigma                alpha = 0; and sigma = 0, where it is infinite

v is from Salimans & Ho (2022), section 4 and appendix D; the velocity dz/dt of rectified flow is eps - x.

>>> from minidistill.schedules import cosine
>>> z, v, t = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([1.0])
>>> convert(v, z, t, cosine, "v", "x")  # at t = 1, v = -x
tensor([[-2.]])
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Number, Schedule, Time, ask, read
from minidistill.schedules import coefficients, like, rates

Denoiser = Callable[[Batch, Time], Batch]  # (z, t) -> x_hat

KINDS = ("x", "eps", "v", "velocity", "score")


def basis(kind: str, schedule: Schedule, t: Time) -> tuple[Time, Time]:
    """a and b of the prediction a x + b eps, each (b,)."""
    alpha, sigma = read(schedule, t)
    match kind:
        case "x":
            return torch.ones_like(alpha), torch.zeros_like(alpha)
        case "eps":
            return torch.zeros_like(alpha), torch.ones_like(alpha)
        case "v":
            return -sigma, alpha
        case "velocity":
            return rates(schedule, t)
    raise ValueError(f"kind must be one of x, eps, v and velocity (the score is -eps / sigma), got {kind!r}")


def convert(pred: Batch, z: Batch, t: Time, schedule: Schedule, source: str, target: str) -> Batch:
    """The prediction `pred` at (z, t), of kind `source`, as one of kind `target`.

    It has the dtype of `pred`, and gradients pass to pred, z and t. Raises ValueError for an unknown kind,
    unless pred and z have one shape and t is (b,), one for each sample, and, with the reason, where at one of
    the times source does not determine target.
    """
    for kind in (source, target):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    need.samples(prediction=pred, z=z)
    alpha, sigma = coefficients(schedule, t, z)
    if source == target:
        return pred

    # the score is eps in other units: -eps / sigma
    if "score" in (source, target) and (sigma == 0).any():
        raise ValueError("the score is infinite at sigma = 0: use times above the clean end of the schedule")
    if source == "score":
        return convert(-sigma * pred, z, t, schedule, "eps", target).to(pred.dtype)
    if target == "score":
        return (-convert(pred, z, t, schedule, source, "eps") / sigma).to(pred.dtype)

    (a, b), (a_new, b_new) = ([like(c, z) for c in basis(kind, schedule, t)] for kind in (source, target))
    determinant = alpha * b - sigma * a
    reason = {
        "x": "at sigma = 0, z is the data and x says nothing about the noise",
        "eps": "at alpha = 0, z is the noise and eps says nothing about the data; predict x or v instead",
        "v": "alpha and sigma are both 0",
        "velocity": "the signal-to-noise ratio stands still, or changes infinitely fast, at one of the times",
    }
    if not (determinant.isfinite() & (determinant != 0)).all():
        raise ValueError(f"{source} does not determine {target} here: {reason[source]}")
    if not (a_new.isfinite() & b_new.isfinite()).all():
        raise ValueError(f"{target} does not exist here: {reason[target]}")
    # Cramer's rule: write (a_new, b_new) in terms of (alpha, sigma) and (a, b)
    found = ((alpha * b_new - sigma * a_new) * pred + (a_new * b - b_new * a) * z) / determinant
    return found.to(pred.dtype)


def as_denoiser(
    net: Callable[..., Tensor], schedule: Schedule, data_std: Number = 1.0, **conditioning: Tensor
) -> Denoiser:
    """The network as a denoiser: it sees a point of unit variance and its angle, and predicts the tangent.

    With r^2 = (alpha sd)^2 + sigma^2, cos(phi) = alpha sd / r and sin(phi) = sigma / r,

        x_hat = sd (cos(phi) z / r - sin(phi) F(z / r, phi)).

    Every schedule is this same quarter circle, phi from 0 (data) to pi/2 (noise), walked at another speed, so
    the network never learns which one is in use. F is v for x / sd (Salimans & Ho, 2022), minus EDM's network
    (Karras et al., 2022, eq. 7), and TrigFlow's (Lu & Song, 2024). At sigma = 0, x_hat = z / alpha whatever F
    says. `conditioning` goes to the network as it is. Gradients pass to the network, z and t. Raises
    ValueError unless data_std > 0.
    """
    data_std = need.number("data_std", data_std, above=0, why=", the standard deviation of the data")

    def denoiser(z: Batch, t: Time) -> Batch:
        alpha, sigma = coefficients(schedule, t, z)
        r = torch.hypot(alpha * data_std, sigma)
        phi = torch.atan2(sigma, alpha * data_std).flatten()
        tangent = ask(net, (z / r).to(z.dtype), phi, "tangent", **conditioning)
        return (data_std * (alpha * data_std / r * (z / r) - sigma / r * tangent)).to(z.dtype)

    denoiser.predicts = "x"
    return denoiser


def as_velocity(denoiser: Denoiser) -> Callable[[Batch, Time], Batch]:
    """The velocity eps_hat - x_hat = (z - x_hat) / t of a denoiser on rectified flow.

    Rounding errors grow with 1 / t. It has the dtype of z. Raises ValueError unless all times are above 0,
    where it is 0 / 0, and at most 1.
    """

    def velocity(z: Batch, t: Time) -> Batch:
        need.each("t", t, z, above=0, most=1, why=": at 0 the velocity is 0 / 0")
        return ((z - ask(denoiser, z, t, "x")) / like(t, z)).to(z.dtype)

    velocity.predicts = "velocity"
    return velocity


def guided(conditional: Denoiser, unconditional: Denoiser, scale: Number | Time) -> Denoiser:
    """unconditional + scale (conditional - unconditional): scale 1 is conditional, more pushes further.

    Both are denoisers, or both are velocities. The scale is a finite number, or (b,), one for each sample:
    ValueError for any other. Ho & Salimans (2021), eq. 6, with scale = 1 + w.
    """
    kind = getattr(conditional, "predicts", None) or getattr(unconditional, "predicts", None)
    per_sample = isinstance(scale, Tensor) and scale.ndim > 0
    scale = scale if per_sample else need.number("scale", scale)

    def denoiser(z: Batch, t: Time) -> Batch:
        if per_sample:
            need.each("scale", scale, z)
        weight = like(scale, z).to(z.dtype) if per_sample else scale
        return torch.lerp(ask(unconditional, z, t, kind), ask(conditional, z, t, kind), weight)

    denoiser.predicts = kind
    return denoiser
