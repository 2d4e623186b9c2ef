"""Checks of latent consistency models: the numbers of the released code, and the loss by hand."""

import math

import torch

from minidistill import lcm
from minidistill.checks import close, column, exact, refuses
from minidistill.checks.phased import student, target, teacher
from minidistill.samplers import ddim_step
from minidistill.schedules import beta_table, mix, tabulated

TABLE = tabulated((1 - beta_table("scaled_linear")).cumprod(0))


def check_lcm_timesteps(lcm_timesteps=lcm.lcm_timesteps, seed: int = 0) -> None:
    """The released code's steps."""
    for steps, expected in (
        (1, [999]),
        (2, [999, 499]),
        (4, [999, 759, 499, 259]),
        (8, [999, 879, 759, 639, 499, 379, 259, 139]),
    ):
        assert lcm_timesteps(steps) == expected, f"{steps} steps: {expected}, got {lcm_timesteps(steps)}."
    assert lcm_timesteps(50) == list(range(999, 0, -20)), "50 steps: every one of the 50, 999 down to 19."
    refuses(lambda: lcm_timesteps(51), "More steps than were trained must be refused.")
    refuses(lambda: lcm_timesteps(0), "No steps must be refused.")


def check_lcm_scalings(lcm_scalings=lcm.lcm_scalings, seed: int = 0) -> None:
    """The identity at index 0, and numbers of the released code."""
    index = exact(0, 1, 19, 39, 499)
    c_skip, c_out = lcm_scalings(index)
    skip = exact(1.0, 2.4937655860349127e-3, 6.92515979806234e-6, 1.6436527882104073e-6, 1.004012021999791e-8)
    out = exact(0.0, 0.9987523388778445, 0.9999965374141062, 0.9999991781732682, 0.99999999497994)
    close(c_skip, skip, "c_skip = 0.25 / ((10 i)^2 + 0.25): the index is multiplied by 10.", 1e-12, 1e-9)
    close(c_out, out, "c_out = 10 i / sqrt((10 i)^2 + 0.25), without EDM's factor data_std.", 1e-12, 1e-9)
    other = lcm_scalings(index, 2.0 + seed)
    u = (2.0 + seed) * index
    close(other[0], 0.25 / (u**2 + 0.25), "scaling multiplies the index.")
    close(other[0] + other[1] ** 2, torch.ones_like(u), "c_skip + c_out^2 = 1.")


def check_lcm_function(lcm_function=lcm.lcm_function, seed: int = 0) -> None:
    """The scalings by the index that the time stands for."""
    z = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        index = torch.tensor([0, 1, 19, 999])
        t = (index + 1).to(dtype) / 1000
        c_skip, c_out = (column(c, z) for c in lcm.lcm_scalings(index.to(dtype)))
        found = lcm_function(student)(z.to(dtype), t)
        expected = c_skip * z.to(dtype) + c_out * student(z.to(dtype), t)
        close(found, expected, "c_skip z + c_out x_hat, index = 1000 t - 1 by rounding.", 1e-6, 1e-6)
    assert torch.equal(lcm_function(student)(z, 0 * z[:, 0, 0, 0] + 0.001), z), "At index 0, f(z) = z."
    refuses(lambda: lcm_function(lambda z, t: z[:, :1])(z, t), "Another shape must be refused.")


def check_lcm_loss(lcm_loss=lcm.lcm_loss, seed: int = 0) -> None:
    """By hand: one DDIM step over k levels, f at both ends, no gradient to the target."""
    g = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, 4, 4, 4, 4, generator=g, dtype=torch.float64)
    index = torch.tensor([999, 499, 19, 5])[torch.randperm(4, generator=g)]
    asked = {}
    recorded = lambda name, net: lambda z, t: asked.update({name: (z, t)}) or net(z, t)
    for k, c in ((20, 1e-3), (50, 0.5)):
        earlier = (index - k).clamp(min=0)
        t, s = (index + 1).double() / 1000, (earlier + 1).double() / 1000
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ([column(a, x) for a in TABLE(u)] for u in (t, s))
        z = alpha_t * x + sigma_t * eps
        nets = (recorded("student", student), recorded("target", target), recorded("teacher", teacher))
        loss = lcm_loss(*nets, x, eps, index, TABLE, k, huber_c=c)
        close(asked["student"][0], z, "The student is asked at z_t, t = (index + 1) / 1000.")
        close(asked["student"][1], t, "The student is asked at t = (index + 1) / 1000.")
        x_hat = teacher(z, t)
        z_s = alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t
        close(
            asked["target"][0],
            z_s,
            f"The target is asked where one DDIM step over {k} levels lands, at least at index 0.",
        )
        close(asked["target"][1], s, "The target is asked at the earlier time.")

        def f(net, z, t, i):
            u = 10 * column(i.double(), z)
            return 0.25 / (u**2 + 0.25) * z + u / (u**2 + 0.25).sqrt() * net(z, t)

        difference = f(student, z, t, index) - f(target, z_s, s, earlier)
        by_hand = ((difference**2 + c**2).sqrt() - c).mean((1, 2, 3))
        hint = "f = c_skip z + c_out x_hat at both ends, by index; Huber for each number, then the mean."
        close(loss, by_hand, hint, 1e-9)
    short = lcm_loss(student, target, teacher, x, eps, index % 99 + 1, TABLE, 20, 100)
    fine = lcm_loss(student, target, teacher, x, eps, index % 99 + 1, TABLE, 20, 200)
    assert not torch.allclose(short, fine), "table is the number of levels: t = (index + 1) / table."
    knobs = [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(3)]
    nets = [lambda z, t, k=k, net=net: net(k * z, t) for k, net in zip(knobs, (student, target, teacher))]
    grads = torch.autograd.grad(lcm_loss(*nets, x, eps, index, TABLE).sum(), knobs, allow_unused=True)
    assert grads[0] is not None and grads[1] is None and grads[2] is None, (
        "The gradient flows through the student, not through target or teacher."
    )
    found = torch.autograd.grad(lcm_loss(*nets, x, eps, index, TABLE, huber_c=0.5).sum(), knobs[0])[0]
    t, earlier = (index + 1).double() / 1000, (index - 20).clamp(min=0)
    s = (earlier + 1).double() / 1000
    z = mix(x, eps, t, TABLE)
    with torch.no_grad():
        wanted = f(target, ddim_step(teacher(z, t), z, t, s, TABLE), s, earlier)
    difference = f(lambda z, t: student(knobs[0] * z, t), z, t, index) - wanted
    right = torch.autograd.grad(((difference**2 + 0.25).sqrt() - 0.5).mean((1, 2, 3)).sum(), knobs[0])[0]
    close(found, right, "The gradient is that of the Huber distance.", 1e-9)
    refuses(lambda: lcm_loss(student, target, teacher, x, eps, index, TABLE, 0), "k = 0 must be refused.")
    refuses(lambda: lcm_loss(*nets, x, eps, index, TABLE, huber_c=-1.0), "A negative huber_c: refuse.")
    for bad in (0 * index, index + 1000, index[:1]):
        refuses(
            lambda: lcm_loss(student, target, teacher, x, eps, bad, TABLE), "Index outside 1 to 999: refuse."
        )
    refuses(
        lambda: lcm_loss(lambda z, t: z[:, :1], target, teacher, x, eps, index, TABLE),
        "A student that returns another shape must be refused.",
    )


def check_guidance_embedding(guidance_embedding=lcm.guidance_embedding, seed: int = 0) -> None:
    """A vector of the released code, and the formula."""
    released = exact(-0.044785, 0.110189, 0.991123, 0.605186, -0.998997, 0.993911, 0.132946, 0.796084)
    hint = "sin and cos of 1000 w at frequencies exp(-ln(10000) i / (h - 1)), i = 0 ... h - 1, h = dim / 2; "
    close(guidance_embedding(exact(6.5), 8)[0], released, hint + "all sines, then all cosines.", 1e-4)
    w = exact(0.0, 1.0, 7.5, 2.0 + seed)
    found = guidance_embedding(w, 10)
    assert found.shape == (4, 10), "(b, dim)."
    frequency = [math.exp(-math.log(10_000) * i / 4) for i in range(5)]
    angles = 1000 * w[:, None] * exact(*frequency)
    if (found[:, :5] - angles.sin()).abs().max() < 1e-3:
        hint = "Right, but for its digits: compute the frequencies in w's dtype. "
    close(found[:, :5], angles.sin(), hint + "Sines first.", 1e-8)
    close(found[:, 5:], angles.cos(), hint + "cosines last.", 1e-8)
    refuses(lambda: guidance_embedding(w, 7), "An odd dim must be refused.")
    refuses(lambda: guidance_embedding(w, 2), "dim 2 has one frequency, and no factor: refuse.")
