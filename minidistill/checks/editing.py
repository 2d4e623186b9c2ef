"""Checks of zero-shot editing: what is known is kept exactly, what is not comes from the model."""

import torch

from minidistill import editing
from minidistill.checks import close, refuses
from minidistill.schedules import edm, rectified_flow

MASK = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def keep(x: torch.Tensor) -> torch.Tensor:
    """Inpainting: the pixels on the diagonal are known."""
    return MASK * x


def shrink(x: torch.Tensor) -> torch.Tensor:
    """Super-resolution: the mean of each 2x2 block is known."""
    return torch.nn.functional.avg_pool2d(x, 2)


def grow(y: torch.Tensor) -> torch.Tensor:
    """Each pixel repeated 2x2 times."""
    return y.repeat_interleave(2, -1).repeat_interleave(2, -2)


def check_edit(edit=editing.edit, seed: int = 0) -> None:
    """By hand for two operators, with given noise; the measurement survives."""
    g = torch.Generator().manual_seed(seed)
    x, n1, n2 = torch.randn(3, 4, 1, 2, 2, generator=g, dtype=torch.float64)
    times = torch.tensor([80.0, 3.0, 0.5], dtype=torch.float64)  # a large t_min, so that it shows
    f = lambda z, t: torch.tanh(z) + t.reshape(-1, 1, 1, 1).sin()
    full = lambda t: torch.full((4,), t, dtype=torch.float64)
    for operator, inverse in ((keep, lambda y: y), (shrink, grow)):
        y = operator(x)
        agree = lambda image: image + inverse(y - operator(image))
        found = edit(f, y, operator, inverse, times, edm, noise=[n1, n2])
        hint = "What is known must be in the result, exactly: replace it after the last jump, too."
        close(operator(found), y, hint)
        first = agree(f(inverse(y) + 80.0 * n1, full(80.0)))
        expected = agree(f(first + (3.0**2 - 0.5**2) ** 0.5 * n2, full(3.0)))
        hint = (
            "Start from the known part plus times[0] noise; after each jump replace the known part, then add "
            "sqrt(s^2 - t_min^2) fresh noise. Is the known part replaced before the noise, and the mask not "
            "inverted?"
        )
        close(found, expected, hint)
    flow = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    y = shrink(x)
    agree = lambda image: image + grow(y - shrink(image))
    expected = agree(f(0.5 * agree(f(n1, full(1.0))) + 0.5 * n2, full(0.5)))
    found = edit(f, y, shrink, grow, flow, rectified_flow, noise=[n1, n2])
    close(found, expected, "On every schedule: alpha and sigma of this schedule, at the start as well.")
    inputs = []
    recorded = lambda z, t: inputs.append(z) or 0 * z
    edit(recorded, 0 * y, shrink, grow, torch.tensor([80.0, 3.0, 0.0], dtype=torch.float64), edm, generator=g)
    assert (inputs[0] / 80 - inputs[1] / 3).abs().max() > 0.1, "Each step draws its own noise."
    once, again = (
        edit(f, shrink(x), shrink, grow, times, edm, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    close(once, again, "The generator must decide all randomness.", 0.0, 0.0)
    refuses(
        lambda: edit(f, shrink(x), shrink, lambda y: 2 * grow(y), times, edm),
        "An inverse whose image does not have the measurement must be refused.",
    )
    refuses(
        lambda: edit(f, keep(x), keep, lambda y: y, times, edm, noise=[n1]),
        "Two steps need two noises: one must be refused.",
    )


def check_slerp(slerp=editing.slerp, seed: int = 0) -> None:
    """Ends, constant angle, norm, each sample by itself."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 4, 1, 4, 4, generator=g, dtype=torch.float64)
    zero, one = torch.zeros(4).double(), torch.ones(4).double()
    close(slerp(a, b, zero), a, "Weight 0 is a. Are the two shares swapped?")
    close(slerp(a, b, one), b, "Weight 1 is b.")
    flat = lambda z: torch.nn.functional.normalize(z.flatten(1), dim=1)
    between = lambda p, q: (flat(p) * flat(q)).sum(1).clamp(-1, 1).acos()
    unit_a, unit_b = (z / z.flatten(1).norm(dim=1).reshape(4, 1, 1, 1) for z in (a, b))
    weight = 0.1 + 0.8 * torch.rand(4, generator=g, dtype=torch.float64)
    middle = slerp(unit_a, unit_b, weight)
    hint = "On a great circle the angle from a is weight times the whole angle, for each sample by itself."
    close(between(unit_a, middle), weight * between(unit_a, unit_b), hint, 1e-7)
    close(middle.flatten(1).norm(dim=1), one, "Between two points of a sphere it stays on the sphere.", 1e-7)
    close(
        slerp(a[1:2], b[1:2], weight[1:2]),
        slerp(a, b, weight)[1:2],
        "A sample must not depend on the others.",
    )
    close(slerp(a, a, weight), a, "From a noise to itself nothing changes: sin(angle) is 0 there.", 1e-7)
    refuses(lambda: slerp(a, b[:, :, :2], weight), "Another shape must be refused.")
    refuses(lambda: slerp(a, -a, weight), "Opposite noises have no one great circle: they must be refused.")
