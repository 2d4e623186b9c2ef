"""Pyramidal flow matching: generate small first, and only the last part of the way at full resolution.

    signal 0 ---- e_0                4x4     each stage is a straight flow at its own size;
            s_1 ------ e_1           8x8     at a jump the image is enlarged, and the noise
                   s_2 ------- 1   16x16     level goes up a little: s_i < e_{i-1}

Early on, an image is so noisy that its details carry nothing: a low resolution is enough. One network sees
every resolution. Stage i flows from start_i = (1 - s_i) n_i + s_i Up(X_{i-1}) to end_i = (1 - e_i) n_i + e_i
X_i, where X_i is the data at that size (2x2 means), n_i the noise (twice the mean, which keeps variance 1), s
and e are signal weights, and Up repeats each pixel 2x2 times.

At a jump, Up turns the noise of a block into four equal numbers. The block's mean is right, and the rest is
missing: noise in the three detail directions of every block. It must be fresh,

    z  ->  alpha Up(z) + (1 - s) (noise - Up(Down(noise))),     alpha = s_i / e_{i-1},

and then z is distributed as the start of the next stage. s follows from e, since the noise-to-signal ratio of
the block mean stays what it is: sigma_start = shift(sigma_end, 2), with the shift of schedules.py.

Jin et al. (2024), "Pyramidal flow matching for efficient video generative modeling". Their paper and their
code differ in notation:

    here                           paper                      released code
    i = 0 the coarsest             k = K - 1 the coarsest     i = 0 the coarsest
    start, end: signal weights     s_k, e_k                   1 - start_sigmas[i], 1 - end_sigmas[i]
    gamma = 1/3                    gamma = -1/3               gamma = 1/3
    local time u, 1 to 0           0 to 1                     sigmas_per_stage, 1 to 0
    velocity start - end           end - start                start - end

The network's time falls from 1 (noise) to 0 (data) over all stages together, and tells it the stage. One
stage is plain flow matching. Images and noise have one dtype, and so have results, also where times are
float64: a network gets both in one dtype. Gradients pass through everything here but stage_target.

>>> [round(stage.start, 3) for stage in stages([0, 1 / 3, 2 / 3, 1])]
[0.0, 0.2, 0.5]
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.asking import Generator, Number, Whole, ask, mean_square
from minidistill.schedules import Batch, Time, like, randn_like

Images = Float[Tensor, "b c h w"]
Resized = Float[Tensor, "b c h2 w2"]  # the same images at another size
Velocity = Callable[..., Batch]  # (z, t, **conditioning) -> d z / d time, at any of the sizes


class Stage(NamedTuple):
    """start, end: signal weights. alpha, beta: of the jump to it. t_start, t_end: the network's time."""

    start: float
    end: float
    alpha: float
    beta: float
    gamma: float
    t_start: float
    t_end: float


def stages(cuts: Sequence[Number], gamma: Number = 1 / 3) -> list[Stage]:
    """A stage for each interval of `cuts`, the signal weights at which stages end: from 0 to 1.

    start_i = e / (c (1 - e) + e) with e = end_{i-1} and c = sqrt(1 + 1 / gamma); alpha = start_i / e, and
    beta = (1 - start_i) / sqrt(1 + gamma). Jin et al. (2024). -gamma is the correlation of the
    fresh noise inside a block: 1/3 is the largest that exists, leaves the block mean alone, and wastes the
    least.
    The network's time is shared in proportion to end - start, without gaps: each t_start is the t_end before
    it. A Stage holds numbers, not tensors. The released code rounds cuts to 1/1000. Raises ValueError unless
    cuts rise from 0 to 1 and 0 < gamma <= 1/3.
    """
    cuts = [need.number("a cut", cut, 0, 1) for cut in cuts]
    if len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != 1 or not all(a < b for a, b in zip(cuts, cuts[1:])):
        raise ValueError(f"cuts must rise from 0 to 1, such as [0, 1/3, 2/3, 1], got {cuts}")
    gamma = need.number("gamma", gamma, above=0, most=1 / 3, why=" (four numbers correlate by -1/3 at least)")
    ratio = math.sqrt(1 + 1 / gamma)
    starts = [0.0, *(e / (ratio * (1 - e) + e) for e in cuts[1:-1])]
    lengths = [end - start for start, end in zip(starts, cuts[1:])]
    found, done = [], 0.0
    for start, before, end, length in zip(starts, cuts, cuts[1:], lengths):
        alpha = start / before if before else 1.0
        beta = (1 - start) / math.sqrt(1 + gamma) if before else 0.0
        t_start, done = 1 - done, done + length / sum(lengths)
        found.append(Stage(start, float(end), alpha, beta, gamma, t_start, max(0.0, 1 - done)))
    return found


def need_stages(found: Sequence[Stage]) -> None:
    """Raises ValueError unless these are the stages of some cuts."""
    if not all(isinstance(stage, Stage) for stage in found) or [stage.end for stage in found[-1:]] != [1]:
        raise ValueError(f"need the list that stages([0, ..., 1]) makes, got {found!r:.60}")


# images and noise at every size


def down(x: Images) -> Resized:
    """The mean of each 2x2 block. Raises ValueError for an odd height or width."""
    need.images(x, 2)
    return reduce(x, "b c (h p) (w q) -> b c h w", "mean", p=2, q=2)


def up(x: Images) -> Resized:
    """Each pixel, 2x2 times. down(up(x)) is x."""
    need.images(x, 1)
    return repeat(x, "b c h w -> b c (h p) (w q)", p=2, q=2)


def at_level(x: Images, halvings: Whole, gain: Number = 1.0) -> Resized:
    """x, halved so many times. gain = 2 is for noise: the mean of four has half the standard deviation."""
    gain = need.number("gain", gain)
    need.images(x, 2 ** need.whole("halvings", halvings, 0))
    for _ in range(halvings):
        x = gain * down(x)
    return x


def stage_pair(x: Images, noise: Images, i: Whole, stages: Sequence[Stage]) -> tuple[Resized, Resized]:
    """Where stage i starts and ends for data x and noise at full size: two images of its own size.

    The same noise at both ends makes the path straight: z_u = u start + (1 - u) end, velocity start - end.
    Raises ValueError unless x and noise have one shape whose sides can be halved so often, and for a stage
    that is not there, such as -1.
    """
    need.samples(x=x, noise=noise)
    need_stages(stages)
    i = need.whole("i", i, 0, len(stages) - 1, why=", the stages there are")
    halvings = len(stages) - 1 - i
    data, n = at_level(x, halvings), at_level(noise, halvings, gain=2.0)
    start = n if i == 0 else (1 - stages[i].start) * n + stages[i].start * up(down(data))
    return start, stages[i].end * data + (1 - stages[i].end) * n


def renoise_jump(z: Images, noise: Resized, stage: Stage) -> Resized:
    """From the end of the stage before, z, to the start of `stage`: twice the size, noise of that size.

    alpha Up(z) plus noise of covariance beta^2 in a block, -gamma beta^2 between its pixels. At gamma = 1/3
    this is (1 - start) times the details of `noise`, and its block means are not used.
    """
    need.images(z, 1)
    need.samples(noise=noise)
    if noise.shape != (*z.shape[:2], 2 * z.shape[2], 2 * z.shape[3]):
        raise ValueError(f"z of {tuple(z.shape)} needs noise of twice the size, got {tuple(noise.shape)}")
    mean = up(down(noise))
    return (
        stage.alpha * up(z)
        + (1 - stage.start) * (noise - mean)
        + stage.beta * math.sqrt(1 - 3 * stage.gamma) * mean
    )


def network_time(u: Time, stage: Stage) -> Time:
    """The time that the network sees at local time u, which falls from 1 to 0.

    Raises ValueError unless u is (b,), from 0 to 1.
    """
    need.each("u", u, u, 0, 1)
    return stage.t_end + (stage.t_start - stage.t_end) * u


def split(b: Whole, shares: Sequence[Whole] | None, n_stages: Whole) -> list[slice]:
    """Which samples of a batch train which stage, coarsest first, in proportion to the shares."""
    b, n_stages = need.whole("b", b), need.whole("n_stages", n_stages)
    need.as_many("shares", shares, n_stages, "stage")
    shares = [1] * n_stages if shares is None else [need.whole("a share", share) for share in shares]
    if b % sum(shares):
        raise ValueError(
            f"a batch of {b} does not divide into shares of {list(shares)}: take a multiple of {sum(shares)}"
        )
    unit = b // sum(shares)
    ends = [unit * sum(shares[: i + 1]) for i in range(n_stages)]
    return [slice(end - unit * share, end) for end, share in zip(ends, shares)]


def stage_batches(
    x: Images, noise: Images, u: Time, stages: Sequence[Stage], shares: Sequence[int] | None
) -> list[tuple[slice, Tensor, Tensor, Tensor]]:
    """For each stage its part of the batch, z_u, the network's time, and the velocity start - end."""
    need.samples(x=x, noise=noise)
    batches = []
    for i, part in enumerate(split(len(x), shares, len(stages))):
        start, end = stage_pair(x[part], noise[part], i, stages)
        z = (like(1 - u[part], end) * end + like(u[part], start) * start).to(x.dtype)
        batches.append((part, z, network_time(u[part], stages[i]), start - end))
    return batches


def answers(velocity: Velocity, batches: list, packed: bool, given: list[dict]) -> list[Tensor]:
    """The network's answer to every batch: a forward pass for each, or one for all with `velocity.packed`.

    given: for each batch its conditioning, by name.
    """
    if not packed:
        return [ask(velocity, z, t, "velocity", **one) for (_, z, t, _), one in zip(batches, given)]
    together = velocity.packed(
        [z for _, z, _, _ in batches],
        [t.to(z.dtype) for _, z, t, _ in batches],
        **{name: [one[name] for one in given] for name in given[0]},
    )
    # looked at like any answer
    return [ask(lambda *_: a, z, t, "velocity") for a, (_, z, t, _) in zip(together, batches, strict=True)]


def shared_out(conditioning: dict[str, Tensor], batches: list, x: Tensor) -> list[dict]:
    """For each stage the conditioning of its samples, of which x is the whole batch."""
    need.conditioning(x, **conditioning)
    return [{name: value[part] for name, value in conditioning.items()} for part, *_ in batches]


def pyramid_loss(
    velocity: Velocity,
    x: Images,
    noise: Images,
    u: Time,
    stages: Sequence[Stage],
    shares: Sequence[int] | None = None,
    packed: bool = False,
    **conditioning: Tensor,
) -> Time:
    """Flow matching in all stages, each sample of the batch in one of them: (b,).

    u: local times in (0, 1]. shares: how many samples of sum(shares) go to each stage; the batch must divide.
    conditioning, (b, ...), is shared out with the samples, by name. packed=True asks `velocity.packed` once
    for all sizes, with the same result: packed([z, ...], [t, ...], label=[label, ...]), an entry for each
    stage. Losses of different cuts are not comparable: their velocities differ in size. Raises ValueError
    unless x and noise have one shape, with a local time and conditioning for each sample, and shares, at
    least 1 each, for each stage; and for a network, packed or not, that returns another shape.
    """
    need.each("u", u, x, above=0, most=1, why=": local times, 1 the start of a stage and 0 its end")

    batches = stage_batches(x, noise, u, stages, shares)
    found = answers(velocity, batches, packed, shared_out(conditioning, batches, x))
    losses = [mean_square(answer, target) for answer, (*_, target) in zip(found, batches)]
    return torch.cat(losses).to(x.dtype)


def pyramid_sample(
    velocity: Callable[[Batch, Time], Batch],
    noise: Images,
    stages: Sequence[Stage],
    steps: Whole | Sequence[Whole],
    jumps: Sequence[Tensor] | None = None,
    generator: Generator = None,
    trajectory: bool = False,
) -> Images | list[Images]:
    """From noise at full size to images, by Euler steps in each stage and a jump between stages.

    steps: of each stage, or one number for all. jumps: noise for each jump, at the size it leads to; else
    randn_like is drawn from the generator, once for each jump, and nothing else is drawn. Nothing is clamped.
    Guidance: pass `guided(conditional, unconditional, scale)`. trajectory=True returns every stage's end.
    The steps of a stage are equal; in the released code the last of n ends at local time 1/1000 and hardly
    moves, which is worse. Raises ValueError unless each stage has its steps, at least 1, and each jump, where
    they are given, its noise; and for sides that cannot be halved so often.
    """
    need_stages(stages)
    steps = stage_steps(steps, stages)
    need.as_many("noises", jumps, len(stages) - 1, "jump")
    z, ends = at_level(noise, len(stages) - 1, gain=2.0), []
    for i, (stage, n) in enumerate(zip(stages, steps)):
        if i > 0:
            fresh = jumps[i - 1].to(z) if jumps is not None else randn_like(up(z), generator)
            z = renoise_jump(z, fresh, stage)
        for t in network_time(torch.arange(n, 0, -1, dtype=z.dtype, device=z.device) / n, stage):
            z = z - ask(velocity, z, t.expand(len(z)), "velocity") / n
        ends.append(z)
    return ends if trajectory else z


def stage_steps(steps: Whole | Sequence[Whole], stages: Sequence[Stage]) -> list[int]:
    """The number of steps in each stage. Raises ValueError unless there is one, at least 1, for each."""
    listed = steps if isinstance(steps, Sequence) or getattr(steps, "ndim", 0) else [steps] * len(stages)
    need.as_many("numbers of steps", listed, len(stages), "stage")
    return [need.whole("steps", n) for n in listed]


# distillation: inside a stage the flow is an ordinary straight flow


@torch.no_grad()  # a target is a constant
def stage_target(
    teacher: Velocity, z: Images, u: Time, n: Whole, stage: Stage, **conditioning: Tensor
) -> Images:
    """The velocity of a step 1 / n that lands where two teacher steps 0.5 / n land: the mean of their two.

    The teacher gets the conditioning both times. Raises ValueError unless n is a whole number, at least
    1, and u, (b,), from 0.5 / n to 1, and for a teacher that returns another shape.
    """
    half = 0.5 / need.whole("n", n)
    need.each("u", u, z, least=half, most=1)
    first = ask(teacher, z, network_time(u, stage), "velocity", **conditioning)
    second = ask(teacher, z - half * first, network_time(u - half, stage), "velocity", **conditioning)
    return (first + second) / 2


def pyramid_distillation_loss(
    student: Velocity,
    teacher: Velocity,
    x: Images,
    noise: Images,
    index: Tensor,
    stages: Sequence[Stage],
    n: Whole,
    shares: Sequence[int] | None = None,
    **conditioning: Tensor,
) -> Time:
    """Progressive distillation inside each stage, from 2 n steps to n: (b,). Salimans & Ho (2022).

    index: integers, 1 ... n for each sample; its local time is index / n. One student serves all stages.
    shares and conditioning as in pyramid_loss; student and teacher get the same. Raises ValueError unless
    n is a whole number, at least 1, for an index outside 1 to n, and where pyramid_loss does.
    """
    n = need.whole("n", n)
    need.each("index", index, x, 1, n, counts=True)
    u = index.to(need.wide(x.dtype)) / n  # half precision cannot count to 1024
    batches = stage_batches(x, noise, u, stages, shares)
    given = shared_out(conditioning, batches, x)
    losses = []
    found = answers(student, batches, False, given)
    for (part, z, *_), stage, answer, one in zip(batches, stages, found, given):
        losses.append(mean_square(answer, stage_target(teacher, z, u[part], n, stage, **one)))
    return torch.cat(losses).to(x.dtype)
