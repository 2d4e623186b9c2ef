"""Flow maps: one network that jumps from any time to any cleaner one, in one step or in many.

    z_t ----> z_m ----> z_s        u(z, t, s) = (z_t - z_s) / (t - s)     a chord: the mean velocity
       `---------------'           u(z, t, t) = dz/dt                     the tangent: the velocity

jump(u, z, t, s) = z + (s - t) u. Three identities hold for the exact u along a trajectory; each is a loss.

    two jumps are one    (t - s) u(z_t, t, s) = (t - m) u(z_t, t, m) + (m - s) u(z_m, m, s)    Shortcut
    the start moves      u + (t - s) du/dt = dz/dt: z moves with t, and s stands               MeanFlow
    the end moves        d jump / ds = the velocity where the jump lands                       Lagrangian

The first and the last hold for any ODE: flow matching on the diagonal, s = t, or a teacher, says which.
Progressive distillation is the first on a fixed grid, a consistency model the second at s = 0. Frans et al.
(2025); Geng et al. (2025), twice; Boffi et al. (2024). t = 1 is noise. ValueError unless 0 <= s <= t <= 1.

>>> still = lambda z, t, s: 0 * z  # a mean velocity of 0: nothing moves
>>> flow_map_sample(still, torch.ones(1, 2), torch.tensor([1.0, 0.3, 0.0]))
tensor([[1., 1.]])
"""

from collections.abc import Callable
from contextlib import nullcontext
from inspect import signature
from itertools import pairwise

import torch
from torch import Tensor

from minidistill import need
from minidistill.asking import Batch, Generator, Number, Time, Whole, ask, mean_square, same_dropout
from minidistill.phased import Velocity, jump
from minidistill.samplers import Times
from minidistill.schedules import like, mix, rectified_flow

MeanVelocity = Callable[[Batch, Time, Time], Batch]  # (z, t, s) -> (z_t - z_s) / (t - s)


def look(z: Batch, t: Time, s: Time) -> None:
    """Raises ValueError unless there are times 0 <= s <= t <= 1 for each sample."""
    need.each("t", t, z, 0, 1)
    need.each("s", s, z, 0, 1)
    need.each("t - s", t - s, z, least=0, why=": s is the cleaner time")


def as_mean_velocity(net: Callable[..., Tensor], data_std: Number = 1.0, **conditioning) -> MeanVelocity:
    """The network F(z / r, phi_t, phi_t - phi_s) as a mean velocity, without a division by t - s.

    r = hypot((1 - t) sd, t) and phi = atan2(t, (1 - t) sd), as in `as_denoiser`. With d = phi_t - phi_s the
    jump is r_s (cos(d) z / r - sin(d) F), for every schedule; on rectified flow t - s divides out. The
    diagonal is the velocity of `as_denoiser(net)`, finite at both ends with its derivatives."""
    data_std = need.number("data_std", data_std, above=0, why=", the standard deviation of the data")

    def u(z: Batch, t: Time, s: Time) -> Batch:
        look(z, t, s)
        now, angle = like(t, z), lambda c: torch.atan2(c, (1 - c) * data_std).flatten()
        r, phi, phi_s = torch.hypot((1 - now) * data_std, now), angle(now), angle(like(s, z))
        tangent = ask(net, (z / r).to(z.dtype), phi, "tangent", phi - phi_s, **conditioning)
        return (((now - (1 - now) * data_std**2) * (z / r) + data_std * tangent) / r).to(z.dtype)

    u.predicts = "mean velocity"
    return u


def diagonal(u: MeanVelocity) -> Velocity:
    """The velocity u(z, t, t): for `flow_matching_loss`, and for Euler's method."""
    velocity = lambda z, t: ask(u, z, t, "mean velocity", t)
    velocity.predicts = "velocity"
    return velocity


def exact_mean_velocity(flow_map: Callable[..., Tensor], velocity: Velocity) -> MeanVelocity:
    """Of a known flow map, (z, t, s) -> z_s or an oracle's: a quotient, and where that is 0 / 0, velocity."""
    takes = callable(flow_map) and "schedule" in signature(flow_map).parameters  # as an oracle's does
    carry = (lambda z, t, s: flow_map(z, t, s, schedule=rectified_flow)) if takes else flow_map

    def u(z: Batch, t: Time, s: Time) -> Batch:
        look(z, t, s)
        gap = like(t, z) - like(s, z)
        chord = (z - ask(carry, z, t, "z_s", s)) / torch.where(gap == 0, 1, gap)
        return torch.where(gap == 0, ask(velocity, z, t, "velocity"), chord).to(z.dtype)

    u.predicts = "mean velocity"
    return u


def draw_times(b: Whole, diagonal: Number = 0.75, generator: Generator = None) -> tuple[Time, Time]:
    """t >= s, (b,): one uniform time in (0, 1] for the first round(diagonal b) pairs, and two for the others.
    On the generator's device. Raises ValueError for b < 1, and for a share outside [0, 1]."""
    b, diagonal = need.whole("b", b), need.number("diagonal", diagonal, 0, 1)
    # rand can be 0, where some velocities are 0 / 0, but never 1
    one, two = 1 - torch.rand(2, b, generator=generator, device=getattr(generator, "device", None))
    two = torch.where(torch.arange(b, device=one.device) < round(diagonal * b), one, two)
    return one.maximum(two), one.minimum(two)


@torch.no_grad()  # a target is a constant
def halves_target(u: MeanVelocity, z: Batch, t: Time, s: Time) -> Batch:
    """The mean of u over the two halves of the interval, the second from where the first lands."""
    look(z, t, s)
    m = (t + s) / 2
    with same_dropout(z):
        first = ask(u, z, t, "mean velocity", m)
    with same_dropout(z):
        second = ask(u, jump(first, z, t, m), m, "mean velocity", s)
    return (first + second) / 2


def shortcut_loss(
    u: MeanVelocity, x: Batch, eps: Batch, t: Time, s: Time, target: MeanVelocity | None = None
) -> Time:
    """The squared distance of u to the mean of its halves, (b,): 0 for the flow map of any ODE, and at s = t.

    The halves are constants, of target (u with averaged weights), or else of u. Tangents doubled k times are
    Euler's method in 2^k steps: progressive distillation without stages. Frans et al. (2025)."""
    z = mix(x, eps, t, rectified_flow)
    wanted = halves_target(u if target is None else target, z, t, s)
    return mean_square(ask(u, z, t, "mean velocity", s), wanted).to(x.dtype)


def along_path(u: MeanVelocity, z: Batch, t: Time, s: Time, slope: Batch) -> tuple[Batch, Batch]:
    """u and du/dt along a path of that slope: z moves with t. Forward mode, which fused attention has not."""
    look(z, t, s)
    need.samples(slope=slope, z=z)
    t = t.to(z.dtype).contiguous()  # expanded over the batch it cannot carry a tangent
    return torch.func.jvp(lambda z, t: ask(u, z, t, "mean velocity", s), (z, t), (slope, torch.ones_like(t)))


def mean_flow_loss(
    u: MeanVelocity, x: Batch, eps: Batch, t: Time, s: Time, teacher: Velocity | None = None,
    p: Number = 0.0, c: Number = 1e-3,
) -> Time:  # fmt: skip
    """MeanFlow: the squared distance of u to stopgrad(v - (t - s) du/dt), (b,). Geng et al. (2025).

    v is the slope of the path: eps - x, or the teacher's. The original's weight, a constant 1 / (e + c)^p of
    the sum of squares e, has p = 1: the value then says nothing, and in 2-D u ends near the mode of v."""
    p, c = need.number("p", p, least=0), need.number("c", c, above=0)
    z = mix(x, eps, t, rectified_flow)
    with torch.no_grad():
        v = eps - x if teacher is None else ask(teacher, z, t, "velocity")
    found, rate = along_path(u, z, t, s, v)
    square = mean_square(found, (v - like(t - s, z) * rate).detach())
    return (square / (square.detach() * x[0].numel() + c) ** p).to(x.dtype)


def improved_mean_flow_loss(
    u: MeanVelocity, x: Batch, eps: Batch, t: Time, s: Time, teacher: Velocity | None = None
) -> Time:
    """Improved MeanFlow: the squared distance of u + (t - s) stopgrad(du/dt) to v, (b,). Geng et al. (2025).

    The path has the slope u(z, t, t): all but v, eps - x or the teacher's, depends on z alone. So this is a
    regression of v, with flow matching's floor for eps - x, and right with and without the stop-gradient."""
    z = mix(x, eps, t, rectified_flow)
    with torch.no_grad(), same_dropout(x):
        slope = ask(u, z, t, "mean velocity", t)
        v = eps - x if teacher is None else ask(teacher, z, t, "velocity")
    found, rate = along_path(u, z, t, s, slope)
    return mean_square(found + like(t - s, z) * rate.detach(), v).to(x.dtype)


def lagrangian_loss(
    u: MeanVelocity, x: Batch, eps: Batch, t: Time, s: Time, teacher: Velocity | None = None
) -> Time:
    """The squared distance of d jump / ds to the velocity where the jump lands, (b,): the teacher's, and then
    no flow matching is needed (Boffi et al., 2024); or u's own diagonal, and then it is 0 at s = t."""
    z = mix(x, eps, t, rectified_flow)
    look(z, t, s)
    s = s.to(z.dtype).contiguous()
    end = lambda s: jump(ask(u, z, t, "mean velocity", s), z, t, s)
    with nullcontext() if teacher else same_dropout(x):  # what is asked next of u sees the same masks
        landed, speed = torch.func.jvp(end, (s,), (torch.ones_like(s),))
    with torch.no_grad():
        wanted = ask(diagonal(u) if teacher is None else teacher, landed, s, "velocity")
    return mean_square(speed, wanted).to(x.dtype)


def guided_slope(
    v: Batch, conditional: Batch, unconditional: Batch, scale: Number,
    kappa: Number = 0.0, dropped: Tensor | None = None,
) -> Batch:  # fmt: skip
    """scale v + (1 - scale - kappa) unconditional + kappa conditional: guidance inside the target.

    v is eps - x, the others the network's velocities. As the teacher's it leads u's diagonal to guidance of
    scale / (1 - kappa); scale 1, kappa = 1 - 1 / w are improved MeanFlow's. Dropped labels, (b,), keep v."""
    scale, kappa = need.number("scale", scale), need.number("kappa", kappa, least=0, below=1)
    need.samples(v=v, conditional=conditional, unconditional=unconditional)
    a, b, c = (x.to(need.wide(v.dtype)) for x in (v, conditional, unconditional))
    found = (scale * a + kappa * b + (1 - scale - kappa) * c).to(v.dtype)
    keep = v.new_zeros(len(v)) if dropped is None else dropped.to(v)
    need.each("dropped", keep, v)
    return torch.where(like(keep, v) > 0, v, found)


def flow_map_sample(u: MeanVelocity, z: Batch, times: Times, trajectory: bool = False) -> Tensor:
    """z at times[0], carried from each time to the next by one jump; any falling grid in [0, 1] is right."""
    need.ordered("times", times, 1)
    states = [z]
    for t, s in pairwise(times.to(z)[:, None].expand(-1, len(z))):
        states.append(jump(ask(u, states[-1], t, "mean velocity", s), states[-1], t, s))
    return torch.stack(states) if trajectory else states[-1]
