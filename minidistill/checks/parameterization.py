"""Checks of the predictions.

A round trip alone proves little: a sign error that is undone on the way back passes it.
"""

import itertools
import math

import torch

from minidistill import parameterization
from minidistill.checks import close, refuses
from minidistill.parameterization import KINDS
from minidistill.schedules import cosine, edm, linear_beta, mix, rates, rectified_flow, shifted, sigmoid

SCHEDULES = (cosine, linear_beta, sigmoid, edm, rectified_flow, shifted(rectified_flow, 3.0))
HINTS = {
    "v": "v is alpha eps - sigma x, with a minus; reading it divides by alpha^2 + sigma^2, not always 1. ",
    "velocity": "The velocity is alpha' x + sigma' eps: eps - x for rectified flow only. ",
    "score": "The score is -eps / sigma. ",
    "eps": "z = alpha x + sigma eps, with alpha and sigma, not their squares. ",
}


def known(seed: int, schedule, shape=(4, 4, 4, 4)):
    """Data, noise, times and z_t, and every prediction a perfect network would make, from the definitions."""
    g = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    t = 0.1 + 0.8 * torch.rand(shape[0], generator=g, dtype=torch.float64)
    alpha, sigma, d_alpha, d_sigma = (a.reshape(-1, 1, 1, 1) for a in (*schedule(t), *rates(schedule, t)))
    predictions = {
        "x": x,
        "eps": eps,
        "v": alpha * eps - sigma * x,
        "velocity": d_alpha * x + d_sigma * eps,
        "score": -eps / sigma,
    }
    return mix(x, eps, t, schedule), t, predictions


def check_convert(convert=parameterization.convert, seed: int = 0) -> None:
    """Every pair of kinds against the definitions, on schedules that do and do not preserve variance."""
    for schedule in SCHEDULES:
        z, t, predictions = known(seed, schedule)
        for source, target in itertools.product(KINDS, KINDS):
            on = getattr(schedule, "__name__", "a shifted schedule")
            hint = f"{source} -> {target} on {on} is wrong. " + HINTS.get(source, "") + HINTS.get(target, "")
            found = convert(predictions[source], z, t, schedule, source, target)
            close(found, predictions[target], hint, 1e-8, 1e-8)
    z, t, predictions = known(seed, cosine)

    # v is the derivative of z along the circle, here by finite differences in the angle
    x, eps, h = predictions["x"], predictions["eps"], 1e-6
    along = (mix(x, eps, t + h, cosine) - mix(x, eps, t - h, cosine)) / (2 * h * math.pi / 2)
    close(convert(x, z, t, cosine, "x", "v"), along, "v = dz / d(angle): check its sign.", 1e-7, 1e-7)

    # close to the ends, in float32, and with a gradient
    for time in (1e-3, 1 - 1e-3):
        near = torch.full((4,), time, dtype=torch.float64)
        found = convert(eps, mix(x, eps, near, cosine), near, cosine, "eps", "x")
        close(found, x, "Close to an end the conversion still exists: do not refuse it.", 1e-8)
    single = convert(eps.float(), z.float(), t.float(), cosine, "eps", "v")
    assert single.dtype == torch.float32, "float32 in, float32 out."
    learned = eps.clone().requires_grad_()
    assert convert(learned, z, t, cosine, "eps", "v").requires_grad, (
        "The gradient must pass: losses convert, too."
    )
    one_singular = torch.tensor([1.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    refuses(
        lambda: convert(eps, z, one_singular, cosine, "eps", "x"), "One singular time is enough to refuse."
    )

    # the ends: all of v and velocity, one side of x and eps
    ones, zeros = torch.ones(4).double(), torch.zeros(4).double()
    v = predictions["v"]
    close(convert(v, z, ones, cosine, "v", "x"), -v, "At t = 1, v = -x.")
    close(convert(v, z, zeros, cosine, "v", "eps"), v, "At t = 0, v = eps.")
    close(convert(x, z, ones, cosine, "x", "eps"), z, "At t = 1, z is the noise.")
    close(convert(eps, z, zeros, cosine, "eps", "x"), z, "At t = 0, z is the data.")
    close(convert(eps, z, ones, cosine, "eps", "score"), -eps, "At t = 1, the score is -eps.")
    refuses(
        lambda: convert(eps, z, ones, cosine, "eps", "x"),
        "At t = 1, eps says nothing about x: refuse, no inf.",
    )
    refuses(
        lambda: convert(eps, z, ones, cosine, "eps", "v"),
        "At t = 1, eps says nothing about v: refuse, no inf.",
    )
    refuses(
        lambda: convert(x, z, zeros, cosine, "x", "eps"),
        "At t = 0, x says nothing about eps: refuse, no nan.",
    )
    refuses(lambda: convert(v, z, zeros, cosine, "v", "score"), "At t = 0 there is no score: refuse, no inf.")
    refuses(
        lambda: convert(v, z, zeros, sigmoid, "v", "velocity"),
        "The sigmoid's rate at t = 0 is infinite: refuse.",
    )
    refuses(lambda: convert(v, z, t, cosine, "v", "noise"), "An unknown kind must be refused.")
    refuses(
        lambda: convert(v[:, :1], z, t, cosine, "v", "x"), "A prediction of another shape must be refused."
    )
    refuses(lambda: convert(v, z, t[:1], cosine, "v", "x"), "One time for four samples must be refused.")


def check_as_denoiser(as_denoiser=parameterization.as_denoiser, seed: int = 0) -> None:
    """What the network sees, what its answer means, and that the schedule is invisible to it."""
    sd = 0.5
    for schedule in SCHEDULES:
        z, t, predictions = known(seed, schedule)
        alpha, sigma = (a.reshape(-1, 1, 1, 1) for a in schedule(t))
        seen = {}

        def perfect(u, phi, seen=seen, x=predictions["x"], eps=predictions["eps"]):
            seen.update(u=u, phi=phi)
            angle = phi.reshape(-1, 1, 1, 1)
            return angle.cos() * eps - angle.sin() * x / sd  # the tangent: v of x / sd

        x_hat = as_denoiser(perfect, schedule, sd)(z, t)
        close(
            seen["phi"],
            torch.atan2(sigma, alpha * sd).flatten(),
            "The network sees the angle atan2(sigma, alpha sd), of shape (b,): flatten().",
        )
        close(
            seen["u"],
            z / (alpha**2 * sd**2 + sigma**2).sqrt(),
            "The network sees z / r with r^2 = (alpha sd)^2 + sigma^2.",
        )
        close(
            x_hat,
            predictions["x"],
            "x_hat = sd (cos(phi) z / r - sin(phi) F): minus, as EDM's network is -F. Is sd in front?",
            1e-9,
        )

        anything = as_denoiser(lambda u, phi: torch.tanh(u) + 7, schedule, sd)
        clean = torch.zeros(4, dtype=torch.float64)
        alpha_0 = schedule(clean)[0].reshape(-1, 1, 1, 1)
        close(anything(z, clean), z / alpha_0, "At sigma = 0, x_hat = z / alpha whatever the network says.")

    # the same angle on two schedules: the same answer in the same units
    z, t, _ = known(seed, rectified_flow)
    net = lambda u, phi: torch.sin(3 * u) * phi.reshape(-1, 1, 1, 1)
    sigma = t / (1 - t)
    close(
        as_denoiser(net, rectified_flow, sd)(z, t),
        as_denoiser(net, edm, sd)(z / (1 - t).reshape(-1, 1, 1, 1), sigma),
        "Rectified flow and EDM at the same signal-to-noise ratio must give the same x_hat.",
    )
    labels = torch.arange(4)
    heard = {}
    as_denoiser(lambda u, phi, label=None: heard.update(label=label) or u, cosine, label=labels)(z, t)
    assert heard["label"] is labels, "Pass **conditioning on to the network, as it is."
    refuses(lambda: as_denoiser(net, cosine, 0.0), "data_std = 0 must be refused.")


def check_guided(guided=parameterization.guided, seed: int = 0) -> None:
    """Scales 0, 1 and 3, by hand."""
    z, t, predictions = known(seed, cosine)
    conditional, unconditional = (lambda z, t: predictions["x"]), (lambda z, t: predictions["eps"])
    for scale, expected in (
        (0.0, predictions["eps"]),
        (1.0, predictions["x"]),
        (3.0, 3 * predictions["x"] - 2 * predictions["eps"]),
    ):
        x_hat = guided(conditional, unconditional, scale)(z, t)
        close(x_hat, expected, "unconditional + scale (conditional - unconditional): scale 1 is conditional.")


def check_as_velocity(as_velocity=parameterization.as_velocity, seed: int = 0) -> None:
    """eps - x when x_hat is the data, and the conversion of any other answer."""
    x, eps = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor([1.0, 0.7, 0.3, 0.01], dtype=torch.float64)
    z = (1 - t.reshape(-1, 1, 1, 1)) * x + t.reshape(-1, 1, 1, 1) * eps
    found = as_velocity(lambda z, t: x)(z, t)
    close(found, eps - x, "When x_hat is the data, the velocity is eps - x: (z - x_hat) / t.", 1e-9)
    denoiser = lambda z, t: torch.sin(z) * t.reshape(-1, 1, 1, 1)
    velocity = parameterization.convert(denoiser(z, t), z, t, rectified_flow, "x", "velocity")
    close(as_velocity(denoiser)(z, t), velocity, "(z - x_hat) / t, asked at (z, t).", 1e-9)
