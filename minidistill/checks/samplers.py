"""Checks of the samplers: on denoisers whose exact answer, or whose exact error, is known."""

import math

import torch

from minidistill import samplers
from minidistill.checks import close, refuses
from minidistill.checks.oracle import mixture
from minidistill.oracle import Gaussian
from minidistill.schedules import cosine, edm, linear_beta, mix, rectified_flow, sigmoid, time_grid


def gaussian_denoiser(schedule, std: float):
    """E[x | z_t] for x ~ N(0, std^2), written out."""

    def denoiser(z, t):
        alpha, sigma = (a.reshape(-1, *[1] * (z.ndim - 1)) for a in schedule(t))
        return alpha * std**2 / (alpha**2 * std**2 + sigma**2) * z

    return denoiser


def check_ddim_step(ddim_step=samplers.ddim_step, seed: int = 0) -> None:
    """If x_hat is the data, the step only changes the proportion of data and noise; DDIM is Euler in rho."""
    g = torch.Generator().manual_seed(seed)
    x, eps, other = torch.randn(3, 4, 4, 4, 4, generator=g, dtype=torch.float64)
    t = 0.3 + 0.6 * torch.rand(4, generator=g, dtype=torch.float64)
    s = t * torch.rand(4, generator=g, dtype=torch.float64)
    for schedule in (cosine, linear_beta, sigmoid, rectified_flow, edm):
        z = mix(x, eps, t, schedule)
        close(
            ddim_step(x, z, t, s, schedule),
            mix(x, eps, s, schedule),
            "With the true x, z_s = alpha_s x + sigma_s eps, sample by sample. Do alpha and sigma have "
            "z's number of axes? Is the noise z's own, without the data's share?",
        )
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            [a.reshape(-1, 1, 1, 1) for a in schedule(u)] for u in (t, s)
        )
        chord = z / sigma_t + (alpha_s / sigma_s - alpha_t / sigma_t) * other
        close(
            ddim_step(other, z, t, s, schedule) / sigma_s,
            chord,
            "DDIM is Euler in (rho, z / sigma), slope x_hat.",
        )
        close(ddim_step(other, z, t, 0 * s, schedule), other, "A step to t = 0 lands on x_hat.")
    z, mixed = mix(x, eps, t, cosine), s * torch.tensor([0.0, 1.0, 1.0, 0.0])
    close(
        ddim_step(x, z, t, mixed, cosine), mix(x, eps, mixed, cosine), "Each sample has its own s, 0 or not."
    )
    low = torch.full((4,), 0.002, dtype=torch.float64)
    found = ddim_step(x, mix(x, eps, low, edm), low, low / 2, edm)
    close(found, mix(x, eps, low / 2, edm), "Small noise is noise, too: nothing may be added to sigma.")
    assert ddim_step(x.float(), z.float(), t.float(), s.float(), cosine).dtype == torch.float32, (
        "float32 stays."
    )
    ones = torch.ones(4, dtype=torch.float64)
    assert ddim_step(other, x, ones, s, cosine).isfinite().all(), (
        "At t = 1, alpha is 0: do not divide by alpha."
    )
    refuses(lambda: ddim_step(other[:, :1], z, t, s, edm), "An x_hat of another shape must be refused.")
    refuses(lambda: ddim_step(other, z, t[:1], s, edm), "One time for four samples must be refused.")


def check_sampler(sampler, seed: int = 0) -> None:
    """What every sampler must be: on its grid, batch-independent, exact when the data is one point."""
    g = torch.Generator().manual_seed(seed)
    z, x = torch.randn(2, 3, 1, 2, 2, generator=g, dtype=torch.float64)
    asked = []

    def one_point(z, t):
        asked.append(t)
        return x.expand_as(z)

    states = sampler(one_point, z, time_grid(4), rectified_flow, trajectory=True)
    assert isinstance(states, torch.Tensor), "trajectory=True returns one tensor: torch.stack."
    assert states.shape == (5, 3, 1, 2, 2), (
        "trajectory=True returns all n + 1 states, stacked: (n + 1, b, *dims)."
    )
    close(states[0], z, "The first state is the start.")
    close(
        states[-1],
        x,
        "When all data is one point, every sampler ends there. Is the last time reached, x_hat left alone?",
    )
    assert all(t.shape == (3,) and t.dtype == z.dtype for t in asked), (
        "The denoiser gets t of shape (b,), z's dtype."
    )
    assert min(t.min() for t in asked) > 0, (
        "Ask at t, the noisier end of each step: at t = 0 the denoiser is never needed."
    )
    assert {round(t[0].item(), 9) for t in asked} == {1.0, 0.75, 0.5, 0.25}, (
        "n steps ask at the n times before the end, and nowhere between."
    )

    denoiser = gaussian_denoiser(cosine, 0.7)
    few = torch.tensor([1.0, 0.6, 0.5, 0.1], dtype=torch.float64)
    together = sampler(denoiser, z, few, cosine)
    close(
        sampler(denoiser, z[1:2], few, cosine), together[1:2], "A sample must not depend on its neighbours."
    )
    refuses(lambda: sampler(denoiser, z, few.flip(0), cosine), "Times that rise must be refused.")
    refuses(lambda: sampler(denoiser, z, few[:1], cosine), "A single time must be refused.")
    refuses(lambda: sampler(denoiser, z, few - 0.2, cosine), "Times below 0 must be refused.")
    refuses(
        lambda: sampler(denoiser, z, torch.tensor([1.0, 0.5, 0.5, 0.0]), cosine),
        "Equal times must be refused.",
    )


def check_order(sampler, order: int, seed: int = 0) -> None:
    """Twice the steps, 2^order times less error against the exact flow map of a mixture."""
    thing = mixture(2, 3, seed)
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t, s = torch.full((200,), 0.9).double(), torch.full((200,), 0.2).double()
    exact = thing.flow_map(z, t, s, rectified_flow)
    errors = []
    for n in (128, 256):
        grid = time_grid(n, 0.9, 0.2, dtype=torch.float64)
        found = sampler(thing.denoiser(rectified_flow), z, grid, rectified_flow)
        errors.append((found - exact).square().mean().sqrt().item())
    measured = math.log2(errors[0] / errors[1])
    hint = f"Twice the steps must divide the error by {2**order}: order {order}, measured {measured:.2f}."
    if order == 2:
        hint += " Heun takes the mean of the slopes at both ends, the second at the new point and time."
    assert abs(measured - order) < 0.25, hint


def check_trajectory(sampler, seed: int = 0) -> None:
    """Every state in between is what the sampler returns when it stops there."""
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    denoiser, grid = lambda z, t: torch.tanh(z) * t[:, None], time_grid(4)
    states = sampler(denoiser, z, grid, cosine, trajectory=True)
    for k in range(1, 4):
        stopped = sampler(denoiser, z, grid[: k + 1], cosine)
        close(states[k], stopped, f"The trajectory holds z at every time: state {k} is another one.", 1e-7)


def check_ddim(ddim=samplers.ddim, seed: int = 0) -> None:
    """Known factors on Gaussian data, first order on a mixture."""
    check_sampler(ddim, seed)
    check_trajectory(ddim, seed)
    # Gaussian data: every step is a known factor. The data is wide, so that clipping x_hat shows
    std, z = 2.0, 3 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    grid = torch.tensor([1.0, 0.8, 0.35, 0.0], dtype=torch.float64)
    factor = 1.0
    angles = (math.pi / 2 * grid).tolist()
    for phi, psi in zip(angles, angles[1:]):
        share = math.cos(phi) * std**2 / (math.cos(phi) ** 2 * std**2 + math.sin(phi) ** 2)
        factor *= math.cos(psi) * share + math.sin(psi) * (1 - math.cos(phi) * share) / math.sin(phi)
    found = ddim(gaussian_denoiser(cosine, std), z, grid, cosine)
    close(
        found,
        factor * z,
        "On Gaussian data each step is a known factor. Is the denoiser asked at the newest z?",
    )
    check_order(ddim, 1, seed)


def check_euler(euler=samplers.euler, seed: int = 0) -> None:
    """DDIM on rectified flow, one step by hand on another schedule, first order on a mixture."""
    check_sampler(euler, seed)
    check_trajectory(euler, seed)
    thing = mixture(2, 3, seed)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    denoiser, grid = thing.denoiser(rectified_flow), time_grid(5)
    same = samplers.ddim(denoiser, z, grid, rectified_flow)
    close(euler(denoiser, z, grid, rectified_flow), same, "For rectified flow, Euler is DDIM.", 1e-9)
    # and for the cosine schedule it is not: one step from 0.5 to 0.4, by hand
    x_hat, c = 0.3 * torch.ones_like(z), math.sqrt(0.5)
    slope = math.pi / 2 * (-c * x_hat + c * (z - c * x_hat) / c)
    step = euler(lambda z, t: x_hat, z, torch.tensor([0.5, 0.4]).double(), cosine)
    close(step, z - 0.1 * slope, "dz/dt = alpha' x_hat + sigma' eps_hat; t falls, so dt is negative.", 1e-7)
    check_order(euler, 1, seed)


def check_heun(heun=samplers.heun, seed: int = 0) -> None:
    """One step by hand, second order on a mixture, and how often it asks."""
    check_sampler(heun, seed)
    check_trajectory(heun, seed)
    check_order(heun, 2, seed)
    # on the cosine schedule, one step from 0.5 to 0.4 by hand, with a denoiser that depends on z and t
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    denoiser = lambda z, t: torch.tanh(z) * t[:, None]

    def slope(z, t):
        t = torch.full((4,), t, dtype=torch.float64)
        alpha, sigma = (a[:, None] for a in cosine(t))
        x_hat = denoiser(z, t)
        return math.pi / 2 * (-sigma * x_hat + alpha * (z - alpha * x_hat) / sigma)

    first = slope(z, 0.5)
    expected = z - 0.1 * (first + slope(z - 0.1 * first, 0.4)) / 2
    found = heun(denoiser, z, torch.tensor([0.5, 0.4], dtype=torch.float64), cosine)
    hint = "dz/dt = alpha' x_hat + sigma' eps_hat. A last step that ends above t = 0 is a Heun step, too."
    close(found, expected, hint, 1e-9)
    calls = []
    heun(lambda z, t: calls.append(t) or 0 * z, torch.ones(1, 2), time_grid(3), cosine)
    assert len(calls) == 5, (
        "Heun asks twice per step, but once on the step that ends at t = 0, where it stays Euler."
    )


def check_renoise(renoise=samplers.renoise, seed: int = 0) -> None:
    """Exact lifts with given noise, exact marginals with a perfect consistency function."""

    def without_noise(f, z, times, schedule, trajectory=False):
        return renoise(f, z, times, schedule, noise=[0 * z] * (len(times) - 2), trajectory=trajectory)

    check_sampler(without_noise, seed)
    g = torch.Generator().manual_seed(seed)
    z, n1, n2 = torch.randn(3, 4, 2, generator=g, dtype=torch.float64)
    f = lambda z, t: torch.tanh(z) + t[:, None]

    grid = torch.tensor([80.0, 5.0, 2.0, 0.5], dtype=torch.float64)  # a large t_min, so that it shows
    x = f(z, torch.full((4,), 80.0).double())
    x = f(x + (5.0**2 - 0.5**2) ** 0.5 * n1, torch.full((4,), 5.0).double())
    x = f(x + (2.0**2 - 0.5**2) ** 0.5 * n2, torch.full((4,), 2.0).double())
    hint = "f lands at e = times[-1], here 0.5, not at 0: lift with sqrt(s^2 - e^2) fresh noise. Is f last?"
    close(renoise(f, z, grid, edm, noise=[n1, n2]), x, hint)

    grid = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    x = f(z, torch.ones(4).double())
    x = f(math.sqrt(0.5) * x + math.sqrt(0.5) * n1, torch.full((4,), 0.5).double())
    close(
        renoise(f, z, grid, cosine, noise=[n1]),
        x,
        "On the cosine schedule the sample is scaled by alpha, too.",
    )

    grid = torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)  # f lands at 0.5, where alpha is not 1
    (alpha_s, alpha_e), (sigma_s, sigma_e) = (a.tolist() for a in cosine(grid[1:]))
    keep = alpha_s / alpha_e
    x = keep * f(z, torch.ones(4).double()) + (sigma_s**2 - keep**2 * sigma_e**2) ** 0.5 * n1
    x = f(x, torch.full((4,), 0.8, dtype=torch.float64))
    hint = "From where f lands, at e, signal and sigma_e are scaled by alpha_s / alpha_e."
    close(renoise(f, z, grid, cosine, noise=[n1]), x, hint)

    # a perfect consistency function keeps the data distribution, at any number of steps
    gaussian = Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double())
    grid = torch.tensor([0.99, 0.7, 0.4, 0.1], dtype=torch.float64)
    end = torch.full((100_000,), 0.1).double()
    perfect = lambda z, t: gaussian.flow_map(z, t, end[: len(z)], cosine)
    alpha, sigma = (a.item() for a in cosine(grid[:1]))
    z = (alpha**2 * 0.25 + sigma**2) ** 0.5 * torch.randn(100_000, 1, generator=g, dtype=torch.float64)
    alpha, sigma = (a.item() for a in cosine(grid[-1:]))
    std = renoise(perfect, z, grid, cosine, generator=g).std()
    truth = torch.tensor((alpha**2 * 0.25 + sigma**2) ** 0.5).double()
    close(
        std,
        truth,
        "A perfect consistency function and fresh noise must keep the marginals exact.",
        0.0,
        0.012,
    )

    once = renoise(f, z[:4], grid, cosine, generator=torch.Generator().manual_seed(1))
    again = renoise(f, z[:4], grid, cosine, generator=torch.Generator().manual_seed(1))
    close(once, again, "The generator must decide all randomness.", 0.0, 0.0)
    one = z[:1]
    refuses(
        lambda: renoise(f, z[:4], grid, cosine, noise=[one, one]), "Noise of another shape must be refused."
    )
    refuses(
        lambda: renoise(f, z[:4], grid, cosine, noise=[z[:4]]),
        "Three steps need two noises: one must be refused.",
    )
