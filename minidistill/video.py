"""Video, frame by frame: a pyramid in time on top of the pyramid in space.

    8 frames    the past, oldest first                    the frame that is made
    stage 0     4x4  4x4  4x4  4x4  4x4  4x4   4x4      4x4
    stage 1     4x4  4x4  4x4  4x4  4x4  4x4   8x8      8x8
    stage 2     4x4  4x4  4x4  4x4  4x4  8x8  16x16    16x16

Each frame goes through the stages of pyramid.py, and the network looks at the frames before it. A past at
full size would cost far more than the frame itself, and is not needed: of the newest frame one wants the
details, of the older ones where things were and how they moved. So the newest frame is seen at the size of
the stage, and each older one a size smaller than the frame after it, until the smallest size.

A first frame has no past and is an image: the same network makes images and videos, and learns from both. A
video starts from a class label alone, from one given frame, a picture, or from several.

The network learns from true frames and is later shown its own, which are not perfect. So in training, and
only then, the past is mixed with a little noise. Inside the network (dit.py) a token may look at its own
frame and at older ones, so that what the network makes of the past does not depend on the frame that is being
made. The places of a small frame are interpolated onto the grid of the stage.

Jin et al. (2024), "Pyramidal flow matching for efficient video generative modeling". Stages are counted from
the coarsest, 0, and so are levels, the sizes of the frames of the past.

>>> history_layout(8, 2, 3)
[(5, 0), (1, 1), (1, 2), (1, 2)]
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from minidistill import need, pyramid
from minidistill.asking import Generator, Number, Whole, ask, mean_square
from minidistill.dit import Clip
from minidistill.dit import block_causal_mask as block_causal_mask  # the network's part of this idea
from minidistill.dit import grid_positions as grid_positions
from minidistill.parameterization import guided
from minidistill.pyramid import Images, Stage, at_level, pyramid_sample, stage_batches
from minidistill.schedules import Batch, Time, like, randn_like

Video = Float[Tensor, "b frames c h w"]
Given = Float[Tensor, "b given c h w"]
Velocity = Callable[..., Batch]  # (z, t, history=[...], **conditioning): clips of the past, oldest first

# the past, and what it costs


def history_layout(frames: Whole, stage: Whole, n_stages: Whole) -> list[tuple[int, int]]:
    """(count, level) of the frames that the network sees, oldest first; the last is the one that is made.

    frames counts that one too: 1 is an image. Level i is the size of stage i. Jin et al. (2024). Raises
    ValueError for less than one frame, and for a stage that does not exist.
    """
    frames, n_stages = need.whole("frames", frames), need.whole("n_stages", n_stages)
    stage = need.whole("stage", stage, 0, n_stages - 1)
    layout, past, level = [(1, stage)], frames - 1, stage
    while past:
        newest = len(layout) == 1
        count = past if level == 0 and not newest else 1
        layout.append((count, level))
        past, level = past - count, max(level - 1, 0)
    return layout[::-1]


def history(past: Video, stage: Whole, n_stages: Whole) -> list[Clip]:
    """The frames of the past as the network sees them at a stage: clips (b, count, c, height, width).

    Each halving is by 2x2 means. Raises ValueError for anything but frames that can be halved as often as the
    layout says, and for a stage that does not exist.
    """
    if not isinstance(past, Tensor) or past.ndim != 5:
        raise ValueError(f"need frames (b, count, c, height, width), got {need.described(past)}")
    layout = history_layout(past.shape[1] + 1, stage, n_stages)[:-1]
    clips = []
    for clip, (count, level) in zip(past.split([count for count, _ in layout], dim=1), layout):
        smaller = at_level(rearrange(clip, "b k c h w -> (b k) c h w"), n_stages - 1 - level)
        clips.append(rearrange(smaller, "(b k) c h w -> b k c h w", k=count))
    return clips


def corrupt(clips: Sequence[Clip], sigma: Time, generator: Generator = None) -> list[Clip]:
    """(1 - sigma) clip + sigma noise: one sigma for all frames of a sample, noise for each pixel.

    The noise is randn_like(clip, generator), drawn for one clip after the other, in their order, also where
    sigma is 0. The clips stay as they are. For training only, with sigma, (b,), uniform from 0 to 1/3 in the
    released code. The network is not told sigma. Raises ValueError unless each clip has as many samples as
    sigma numbers, all in [0, 1).
    """
    for clip in clips:
        need.each("sigma", sigma, clip, least=0, below=1, why=": how much of its past is noise")
    keep, add = 1 - sigma, sigma
    return [(like(keep, c) * c + like(add, c) * randn_like(c, generator)).to(c.dtype) for c in clips]


def count_tokens(layout: Sequence[tuple[Whole, Whole]], n_stages: Whole, full: Whole) -> int:
    """The tokens of a layout: `full` in a frame at full size, a quarter at each level below.

    Raises ValueError unless `full` is above 0 and can be quartered so often, and for a level that does not
    exist or a count below 1.
    """
    quarters = 4 ** (need.whole("n_stages", n_stages) - 1)
    if need.whole("full", full) % quarters:
        raise ValueError(f"{n_stages} stages need a multiple of {quarters} tokens at full size, got {full}")
    layout = [(need.whole("a count", k), need.whole("a level", i, 0, n_stages - 1)) for k, i in layout]
    return sum(count * full // 4 ** (n_stages - 1 - level) for count, level in layout)


def forward_flops(tokens: Whole, dim: Whole, depth: Whole = 1) -> int:
    """Floating-point operations of the blocks, exactly: 24 n d^2 in the linear layers, 4 n^2 d to attend."""
    tokens, dim, depth = need.whole("tokens", tokens), need.whole("dim", dim), need.whole("depth", depth)
    return depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)


def video_flops(
    frames: Whole, steps: Sequence[Whole], full: Whole, dim: Whole, depth: Whole = 1, given: Whole = 0
) -> int:
    """Floating-point operations of a video, frame by frame, in so many steps for each stage.

    The first `given` frames are not made. One stage means a past at full size. With guidance, double it.
    Raises ValueError for less than one frame, and unless given is from 0 to frames.
    """
    frames = need.whole("frames", frames)
    given = need.whole("given", given, 0, frames, why=", the number of frames")
    need.whole("the number of stages", len(steps))
    return sum(
        need.whole("steps", n, 0)
        * forward_flops(count_tokens(history_layout(frame, i, len(steps)), len(steps), full), dim, depth)
        for frame in range(given + 1, frames + 1)
        for i, n in enumerate(steps)
    )


def video_loss(
    velocity: Velocity,
    x: Video,
    noise: Images,
    u: Time,
    frames: Sequence[Whole] | Tensor,
    stages: Sequence[Stage],
    sigma: Time | None = None,
    generator: Generator = None,
    shares: Sequence[int] | None = None,
    packed: bool = False,
    **conditioning: Tensor,
) -> Time:
    """pyramid_loss of one frame of each video, given the true frames before it: (b,).

    frames: how many of each video's frames are used, such as [8] * b. The last of them is predicted; 1 makes
    an image of it, and then this is pyramid_loss. noise, (b, c, h, w), and the local times u are that
    frame's; sigma, (b,), corrupts the past, with noise from the generator. Samples of one stage and one
    length may share a forward pass. With packed=True all share one, to the same result, where attention costs
    the square of all tokens together. What is given, and what the network answers, stays as it is. Raises
    ValueError unless the videos have five axes, and each has noise for one frame, a length it can have, u in
    (0, 1], sigma in [0, 1), also for images, and conditioning; unless the shares, at least 1 each, one for
    each stage, divide the batch; and for an answer of another shape than z.
    """
    need.samples(x=x)
    frames = frames.tolist() if hasattr(frames, "tolist") else frames
    if x.ndim != 5 or not isinstance(frames, Sequence) or len(frames) != len(x):
        raise ValueError(
            "need videos (b, frames, c, height, width) and for each the number of frames to use, "
            f"got {tuple(x.shape)} and {frames}"
        )
    frames = [need.whole("frames", f, 1, x.shape[1], why=", the length of the videos") for f in frames]
    need.conditioning(x, **conditioning)
    need.each("u", u, x, above=0, most=1, why=": local times, 1 the start of a stage and 0 its end")
    if sigma is not None:
        need.each("sigma", sigma, x, least=0, below=1, why=": how much of its past is noise")
    need.samples(noise=noise)
    if noise.shape != (len(x), *x.shape[2:]):
        raise ValueError(f"videos {tuple(x.shape)} need noise for one frame each, got {tuple(noise.shape)}")
    last = x[range(len(x)), [f - 1 for f in frames]]
    batches, given = [], []
    for i, (part, z, t, target) in enumerate(stage_batches(last, noise, u, stages, shares)):
        for length in sorted(set(frames[part])):
            rows = [row for row, f in enumerate(frames[part]) if f == length]
            index = [part.start + row for row in rows]
            clips = history(x[index, : length - 1], i, len(stages))
            if sigma is not None:
                clips = corrupt(clips, sigma[index], generator)
            batches.append((index, z[rows], t[rows], target[rows]))
            given.append({name: value[index] for name, value in conditioning.items()} | {"history": clips})
    found = pyramid.answers(velocity, batches, packed, given)
    losses = torch.cat([mean_square(answer, target) for answer, (*_, target) in zip(found, batches)])
    order = torch.tensor([j for index, *_ in batches for j in index], device=x.device)
    return losses[order.argsort()].to(x.dtype)


def rollout(
    velocity: Velocity,
    noise: Video,
    stages: Sequence[Stage],
    steps: Whole | Sequence[Whole],
    given: Given | None = None,
    first_steps: Whole | Sequence[Whole] | None = None,
    unconditional: Velocity | None = None,
    guidance: tuple[Number, Number] = (1.0, 1.0),
    memory: Whole | None = None,
    jumps: Sequence[Sequence[Tensor]] | None = None,
    generator: Generator = None,
) -> Video:
    """A video, frame by frame: each is generated from its own noise and the clean frames before it.

    noise: for every frame, (b, frames, c, h, w). given: the first frames, none, one picture or several; their
    noise is not used. Without them the first frame has no past: it may take other steps, `first_steps`, and
    has its own guidance, the first of the two scales (scale 1 does not ask `unconditional`). memory: how many
    frames of the past are seen, such as the number in training; default all. jumps: for each frame that is
    made the noises of pyramid_sample; else drawn from the generator. Jin et al. (2024); as there the past is
    clean here. Raises ValueError for what does not fit together.
    """
    need.samples(noise=noise)
    if noise.ndim != 5:
        raise ValueError(f"need noise (b, frames, c, height, width), got {tuple(noise.shape)}")
    given = noise[:, :0] if given is None else given
    fits = given.shape[:1] + given.shape[2:] == noise.shape[:1] + noise.shape[2:]
    if not fits or given.shape[1] > noise.shape[1] or given.dtype != noise.dtype:
        found = f"given frames {need.described(given)} do not fit noise {need.described(noise)}"
        raise ValueError(f"{found}: the same sizes and dtype, and no more frames")
    if not isinstance(guidance, Sequence) or len(guidance) != 2:
        raise ValueError(f"guidance has two scales, of a first frame and of the others, got {guidance}")
    pyramid.need_stages(stages)
    guidance = [need.number("guidance", scale) for scale in guidance]
    if unconditional is None and guidance != [1, 1]:
        raise ValueError(f"guidance {guidance} needs the unconditional velocity")
    steps = pyramid.stage_steps(steps, stages)
    first_steps = steps if first_steps is None else pyramid.stage_steps(first_steps, stages)
    memory = noise.shape[1] if memory is None else need.whole("memory", memory)
    frames = list(given.unbind(1))
    made = noise.shape[1] - len(frames)
    need.as_many("lists of noises", jumps, made, "frame that is made")
    sides = [noise.shape[-1] // 2 ** (len(stages) - 1 - i) for i in range(len(stages))]
    for k in range(made):
        first = not frames
        past = given if first else torch.stack(frames[-memory:], dim=1)
        clips = {side: history(past, i, len(stages)) for i, side in enumerate(sides)}

        def shown(network: Velocity) -> Velocity:  # the size of z tells its stage
            return lambda z, t: ask(network, z, t, "velocity", history=clips[z.shape[-1]])

        scale = guidance[0] if first else guidance[1]
        v = shown(velocity) if scale == 1 else guided(shown(velocity), shown(unconditional), scale)
        fresh = None if jumps is None else jumps[k]
        z = noise[:, len(frames)]
        frames.append(pyramid_sample(v, z, stages, first_steps if first else steps, fresh, generator))
    return torch.stack(frames, dim=1)
