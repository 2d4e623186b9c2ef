"""The pyramid in time: the checks on our code, on every mistake of the list, golden numbers, and the network.

The numbers are those of the list of mistakes, 30 to 38.
"""

import csv
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from planted import then
from torch.utils.flop_counter import FlopCounterMode

from minidistill.checks import video as checks
from minidistill.dit import DiT, sines
from minidistill.jobs import video as job
from minidistill.pyramid import (
    at_level,
    network_time,
    pyramid_loss,
    pyramid_sample,
    renoise_jump,
    split,
    stage_pair,
    stages,
)
from minidistill.schedules import like, randn_like
from minidistill.train import load
from minidistill.video import (
    block_causal_mask,
    corrupt,
    count_tokens,
    forward_flops,
    grid_positions,
    history,
    history_layout,
    rollout,
    video_flops,
    video_loss,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "video.json").read_text())
CHECKS = [getattr(checks, name) for name in dir(checks) if name.startswith("check_")]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_ours_passes(check, seed, unchecked_shapes):
    check(seed=seed)


# the mistakes, each one thing changed in code that is otherwise right


def layout_with(newest=0, drop=0, reverse=False, full=False, grouped=False, skip=0, floor=0):
    """newest: how many frames more than one keep the stage's size. drop: how many of the oldest are lost."""

    def wrong(frames, stage, n_stages):
        history_layout(frames, stage, n_stages)  # refuses what ought to be refused
        level = lambda age: stage if full else max(stage - max(age - newest, 0) - skip, floor)
        levels = [level(age) for age in range(frames - 1 - drop)][::-1]
        levels = levels[::-1] if reverse else levels
        past = [[1, a] for a in levels]
        merged = []
        for count, a in past[:-1]:  # the newest is a group of its own
            if merged and merged[-1][1] == a and (a == 0 or grouped):
                merged[-1][0] += count
            else:
                merged.append([count, a])
        return [tuple(g) for g in (*merged, *past[-1:], (1, stage))]

    return wrong


def history_with(shrink=lambda x, n: at_level(x, n), order=lambda x: x, level=lambda i, k: k - 1 - i):
    def wrong(past, stage, n_stages):
        history(past, stage, n_stages)  # refuses what ought to be refused
        clips, first = [], 0
        past = order(past)
        for count, i in history_layout(past.shape[1] + 1, stage, n_stages)[:-1]:
            frames = rearrange(past[:, first : first + count], "b k c h w -> (b k) c h w")
            clips.append(rearrange(shrink(frames, level(i, n_stages)), "(b k) c h w -> b k c h w", k=count))
            first += count
        return clips

    return wrong


def every_second(x, n):
    return x[..., :: 2**n, :: 2**n]


def corrupt_with(keep=lambda s: 1 - s, scale=lambda s: s, noise=randn_like, each=lambda s, j: s):
    def wrong(clips, sigma, generator=None):
        corrupt(clips, sigma, torch.Generator())  # refuses what ought to be refused
        found = []
        for j, clip in enumerate(clips):
            s = each(sigma, j)
            found.append(like(keep(s), clip) * clip + like(scale(s), clip) * noise(clip, generator))
        return found

    return wrong


def flops_with(layout=history_layout, first=0, stage=lambda i, k: i, last_only=False):
    def wrong(frames, steps, full, dim, depth=1, given=0):
        video_flops(frames, steps, full, dim, depth, given)  # refuses what ought to be refused
        k, total = len(steps), 0
        for f in range((frames - 1 if last_only else given) + 1, frames + 1):
            for i, n in enumerate(steps):
                seen = layout(f, stage(i, k), k)[first:]
                total += n * forward_flops(count_tokens(seen, k, full) if seen else 0, dim, depth)
        return total

    return wrong


def like_z(answer, z):
    """The answer of a network, which must have z's shape."""
    if answer.shape != z.shape:
        raise ValueError("an answer of another shape")
    return answer


def loss_with(
    predicted=lambda f: f - 1, before=lambda f: f - 1, blur=corrupt, past=history, always=None, ordered=True,
    image=lambda end, sigma, generator: end, reduce=torch.mean,
):  # fmt: skip
    def wrong(
        velocity, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more
    ):
        right = lambda z, t, history, **_: 0 * z
        video_loss(right, x, noise, u, frames, stages, sigma, torch.Generator(), shares, **more)  # refusals
        if packed:
            return video_loss(velocity, x, noise, u, frames, stages, sigma, generator, shares, True, **more)
        frames = [int(f) for f in frames]
        losses, order = [], []
        for i, part in enumerate(split(len(x), shares, len(stages))):
            mine = range(part.start, part.stop)
            for length in sorted({frames[j] for j in mine}):
                index = [j for j in mine if frames[j] == length]
                start, end = stage_pair(x[index, predicted(length)], noise[index], i, stages)
                w = like(u[index], end)
                z = (1 - w) * end + w * start
                clips = past(x[index, : before(length)], i, len(stages))
                if sigma is not None or always is not None:
                    s = always + 0 * u if sigma is None else sigma
                    clips = blur(clips, s[index], generator)
                    z = image(z, s[index], generator)
                given = {name: value[index] for name, value in more.items()}
                z, t = z.to(x.dtype), network_time(u[index], stages[i]).to(x.dtype)
                answer = like_z(velocity(z, t, history=clips, **given), z)
                losses.append(reduce((answer - (start - end)).square(), (1, 2, 3)))
                order += index
        losses = torch.cat(losses)
        return losses[torch.tensor(order).argsort()] if ordered else losses

    return wrong


def corrupted_first(velocity, x, noise, u, frames, stages, sigma=None, generator=None, *rest, **more):
    """Every frame is corrupted at full size, and the noise of the small ones is averaged away."""
    right = lambda z, t, history, **_: 0 * z
    if sigma is not None:
        video_loss(
            right, x, noise, u, frames, stages, sigma, torch.Generator(), *rest, **more | {"packed": False}
        )
        mixed = torch.cat([corrupt([one[None]], s[None], generator)[0] if f > 1 else one[None]
                           for one, s, f in zip(x, sigma, frames)])  # fmt: skip
        for j, f in enumerate(frames):
            mixed[j, f - 1] = x[j, f - 1]
        x = mixed
    return video_loss(velocity, x, noise, u, frames, stages, None, None, *rest, **more)


def rollout_with(
    past=history, scale=lambda first, k: k > 0, blur=None, append=True, same=False, remember=False, once=False,
    twice=False, keep=lambda frames, memory: frames[-(memory or 0):], sample=pyramid_sample, blind=False,
    early=lambda first, k, n: first, named=True, other=lambda clips: clips, short=True, own=lambda k, n: n,
    mixed=lambda a, b, w: b + w * (a - b), after=lambda frame: frame, jump=lambda jumps, k, n: jumps[k], seed=None,
):  # fmt: skip
    """scale: which of the two scales. remember: the history of the first frame made is used for all. early:
    which frames take first_steps. named: the history is given by its name. other: what the unconditional
    network sees. short: memory at all stages. own: which noise a frame starts from. after: the end of a frame.
    seed: of a generator for each frame."""

    def wrong(velocity, noise, stages, steps, given=None, first_steps=None, unconditional=None,
              guidance=(1.0, 1.0), memory=None, jumps=None, generator=None):  # fmt: skip
        right = lambda z, t, history: 0 * z
        with torch.random.fork_rng([]):  # refuses what ought to be refused
            rollout(
                right,
                noise,
                stages,
                steps,
                given,
                first_steps,
                unconditional and right,
                guidance,
                memory,
                jumps,
            )
        frames = [] if given is None else list(given.unbind(1))
        made, stale = noise.shape[1] - len(frames), {}
        for k in range(made):
            first = not frames
            kept = noise[:, :0] if first else torch.stack(keep(frames, memory), 1)
            if given is not None and not append:
                kept = given
            sees = {
                noise.shape[-1] // 2 ** (len(stages) - 1 - i): past(
                    kept if short or first or i == len(stages) - 1 else torch.stack(frames, 1), i, len(stages)
                )
                for i in range(len(stages))
            }
            if remember:  # the small sizes as they were
                sees = {
                    side: stale.get(side, clips) if side < noise.shape[-1] and not first else clips
                    for side, clips in sees.items()
                }
                stale = sees if not first else stale
            if blur:
                sees = {side: blur(clips) for side, clips in sees.items()}
            w = guidance[scale(first, len(frames))]
            bare = lambda z, t, velocity, sees=sees: (
                velocity(z, t, history=sees[z.shape[-1]]) if named else velocity(z, t, sees[z.shape[-1]])
            )

            def asked(z, t, w=w, sees=sees):
                if w == 1 and not twice:
                    return bare(z, t, velocity)
                if unconditional is None:
                    return bare(z, t, velocity)
                away = unconditional(z, t, history=[] if blind else other(sees[z.shape[-1]]))
                return mixed(bare(z, t, velocity), away, w)

            n = first_steps if (early(first, k, len(frames)) and first_steps is not None) else steps
            z = noise[:, 0 if same else own(k, len(frames))]
            fresh = (
                torch.Generator().manual_seed(generator.initial_seed()) if once and generator else generator
            )
            fresh = fresh if seed is None else torch.Generator().manual_seed(seed + k)
            given_jumps = None if jumps is None else jump(jumps, k, len(frames))
            frames.append(after(sample(asked, z, stages, n, given_jumps, fresh)))
        return torch.stack(frames, 1)

    return wrong


def changed(function, **how):
    """The function, some of whose arguments are changed before."""
    signature = inspect.signature(function)

    def wrong(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, change in how.items():
            bound.arguments[name] = change(bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return wrong


def seeing(function, **how):
    """The same, where a change is also told all arguments."""
    parameters = inspect.signature(function).parameters
    names = [*parameters]

    def wrong(*args, **kwargs):
        given = {name: parameters[name].default for name in names} | dict(zip(names, args)) | kwargs
        return function(**given | {name: change(given[name], given) for name, change in how.items()})

    return wrong


def blocks_with(a=24, b=4):
    """forward_flops with other numbers of matrices (a) and of products with other tokens (b)."""
    return lambda n, d, depth=1: depth * (a * n * d**2 + b * n**2 * d)


def bill_with(
    cost=forward_flops,
    seen=lambda layout, i, k: layout,
    of=lambda n, i: n,
    frames=lambda frames, given: range(given + 1, frames + 1),
):
    """video_flops with other blocks, layouts, steps, or frames."""

    def wrong(frames_, steps, full, dim, depth=1, given=0):
        video_flops(frames_, steps, full, dim, depth, given)  # refuses what ought to be refused
        k = len(steps)
        passes = [
            (of(n, steps), seen(history_layout(f, i, k), i, k))
            for f in frames(frames_, given)
            for i, n in enumerate(steps)
        ]
        return sum(n * cost(count_tokens(layout, k, full), dim, depth) for n, layout in passes if layout)

    return wrong


def all_at_once(frames, steps, full, dim, depth=1, given=0):
    """The tokens of all frames in one pass."""
    k = len(steps)
    video_flops(frames, steps, full, dim, depth, given)
    held = [
        sum(count_tokens(history_layout(f, i, k), k, full) for f in range(given + 1, frames + 1))
        for i in range(k)
    ]
    return sum(n * (forward_flops(a, dim, depth) if a else 0) for n, a in zip(steps, held))


def drawn_with(noise):
    """corrupt with noise(clips, generator), a list."""

    def wrong(clips, sigma, generator=None):
        corrupt(clips, sigma, torch.Generator())  # refuses what ought to be refused
        return [(c + like(sigma, c) * (n - c)).to(c) for c, n in zip(clips, noise(clips, generator))]

    return wrong


def anew(g):
    """Another generator, with the seed of this one."""
    return torch.Generator().manual_seed(g.initial_seed()) if g else None


def in_place(clips, sigma, generator=None):
    """Into the tensors that are given."""
    for clip, new in zip(clips, corrupt(clips, sigma, generator)):
        clip.copy_(new)
    return clips


def into_the_list(clips, sigma, generator=None):
    clips[:] = corrupt(clips, sigma, generator)
    return clips


def told_otherwise(
    loss,
    z=lambda z: z,
    t=lambda t, z: t,
    clips=lambda clips: clips,
    more=lambda more: more,
    answer=lambda a: a,
):
    """A loss whose network is told something else, or whose answer is changed."""

    def wrong(velocity, *args, **kwargs):
        def net(z_, t_, history, **more_):
            return answer(velocity(z(z_), t(t_, z_), history=clips(history), **more(more_)))

        net.packed = getattr(velocity, "packed", None)
        return loss(net, *args, **kwargs)

    return wrong


def asked_otherwise(z=lambda z: z, t=lambda t: t, twice=False):
    """rollout, whose networks are asked elsewhere."""

    def wrong(velocity, *args, **kwargs):
        def net(z_, t_, history):
            if twice:
                velocity(z_, t_, history=history)
            return velocity(z(z_), t(t_), history=history)

        return rollout(net, *args, **kwargs)

    return wrong


def popped(*args, **kwargs):
    """Takes the noises of the jumps out of the caller's lists."""
    made = rollout(*args, **kwargs)
    for fresh in kwargs.get("jumps") or ():
        del fresh[:]
    return made


def fit(a, shape, axis):
    """a, repeated or cut along one axis."""
    fits = isinstance(a, torch.Tensor) and a.ndim == len(shape)
    return a.index_select(axis, torch.arange(shape[axis]) % a.shape[axis]) if fits else a


def given_as(change):
    """rollout, with change(given, noise) for given."""
    return lambda v, noise, st, n, given=None, *a, **k: rollout(
        v, noise, st, n, given if given is None else change(given, noise), *a, **k
    )


def none_given(w, a):
    """Guidance: 1 for what cannot be guided."""
    return (1, 1) if a["unconditional"] is None else w


def forgetful(*args, **kwargs):
    """Takes the steps out of the caller's list."""
    made = rollout(*args, **kwargs)
    if isinstance(args[3], list):
        args[3].clear()
    return made


def over_again(velocity):
    """A guided velocity may be written as a sum that asks again."""
    return lambda z, t, history: velocity(z, t, history=history) + 0 * velocity(z, t, history=history)


nan_is_fine = lambda value: value.nan_to_num(0.5) if value is not None else None
at_most = lambda top: lambda value: value.clamp(max=top) if value is not None else None
at_least = lambda low: lambda value: torch.where(value < low, low, value) if value is not None else None
for_all = lambda n: (
    lambda value: value.expand(n, *value.shape[1:]) if value is not None and len(value) == 1 else value
)

LAYOUT, HISTORY, CORRUPT = checks.check_history_layout, checks.check_history, checks.check_corrupt
MASK, GRID, TOKENS = checks.check_block_causal_mask, checks.check_grid_positions, checks.check_count_tokens
FLOPS, BILL, LOSS = checks.check_forward_flops, checks.check_video_flops, checks.check_video_loss
ROLLOUT = checks.check_rollout
CELLS = torch.arange

MISTAKES = {
    # the layout
    "M30: newest first [formula]": (LAYOUT, layout_with(reverse=True), "The past is newest first"),
    "layout: turned round as a whole [formula]": (LAYOUT, lambda *a: history_layout(*a)[::-1], "Newest first"),
    "M31: all at the stage's resolution [formula]": (LAYOUT, layout_with(full=True), "All have the stage's level"),
    "M32: two frames at full resolution [formula]": (LAYOUT, layout_with(newest=1), "Only the newest frame of the past"),
    "M33: the oldest is dropped [end]": (LAYOUT, layout_with(drop=1), "The oldest frame is left out"),
    "M33: only as many as there are sizes [end]": (
        LAYOUT, lambda f, i, k: history_layout(f, i, k)[-k - 1 :] if f > 1 else history_layout(f, i, k), "The oldest (are|frame is) left out"
    ),
    "layout: K frames are enough [end]": (LAYOUT, lambda f, i, k: [(1, a) for a in [max(i - age, 0) for age in range(min(f - 1, k))][::-1]] + [(1, i)], "The oldest are left out"),
    "the newest a size smaller [formula]": (LAYOUT, layout_with(skip=1), "The newest before it has the stage's level, too"),
    "without the frame that is made [end]": (LAYOUT, lambda f, i, k: history_layout(f, i, k)[:-1], "The frame that is made is missing"),
    "levels below 0 [end]": (LAYOUT, layout_with(floor=-5), "No level is below 0"),
    "layout: levels from the finest [formula]": (LAYOUT, lambda f, i, k: [(n, k - 1 - a) for n, a in history_layout(f, i, k)], "Levels count from the smallest size"),
    "the last two in one group [formula]": (
        LAYOUT, lambda f, i, k: history_layout(f, i, k) if f == 1 else [*history_layout(f, i, k)[:-2], (2, i)], "the last two are groups alone"
    ),
    "layout: a group for each level [formula]": (
        LAYOUT, lambda f, i, k: [(sum(n for n, b in history_layout(f, i, k) if a == b), a) for a in sorted({a for _, a in history_layout(f, i, k)})], "the last two are groups alone"
    ),
    "every frame a group [formula]": (LAYOUT, lambda f, i, k: [(1, a) for n, a in history_layout(f, i, k) for _ in range(n)], "share one"),
    "layout: an empty group of the oldest [end]": (LAYOUT, lambda f, i, k: [*([] if history_layout(f, i, k)[0][1] == 0 and f > 1 else [(0, 0)]), *history_layout(f, i, k)], "no empty groups"),
    "layout: the newest in the group of the oldest [end]": (
        LAYOUT, lambda f, i, k: [(f - 1, 0), (1, 0)] if i == 0 and f > 1 else history_layout(f, i, k), "a group|Only the oldest, at level 0, share"
    ),
    "frames before it, not counting itself [formula]": (LAYOUT, lambda f, i, k: (history_layout(f, i, k), history_layout(f + 1, i, k))[1], "`frames` counts the one that is made"),
    "layout: an image has a past [end]": (LAYOUT, lambda f, i, k: [(1, i), (1, i)] if f == 1 else history_layout(f, i, k), "`frames` counts the one|All have the stage's level"),
    "layout: (level, count) [shape]": (LAYOUT, lambda *a: [(i, n) for n, i in history_layout(*a)], "not .level, count."),
    "layout: can be read once [shape]": (LAYOUT, lambda *a: (pair for pair in history_layout(*a)), "a list of pairs"),
    "layout: levels alone [shape]": (LAYOUT, lambda *a: [i for n, i in history_layout(*a) for _ in range(n)], "a list of pairs"),
    "a stage that does not exist [refusal]": (LAYOUT, lambda f, i, k: history_layout(max(f, 1), min(max(i, 0), k - 1), k), "3 frames at stage 2 of 2 must be refused"),
    "layout: a stage too large [refusal]": (LAYOUT, changed(history_layout, n_stages=lambda k: k + 5), "3 frames at stage 2 of 2 must be refused"),
    "layout: a stage below 0 [refusal]": (LAYOUT, changed(history_layout, stage=lambda i: max(i, 0)), "3 frames at stage -1 of 2 must be refused"),
    "layout: no frames, no past [refusal]": (LAYOUT, lambda f, i, k: [(1, i)] if f == 0 else history_layout(f, i, k), "0 frames at stage 0 of 2 must be refused"),
    "layout: fewer than no frames [refusal]": (LAYOUT, lambda f, i, k: [] if f < 0 else history_layout(f, i, k), "-1 frames at stage 0 of 2 must be refused"),
    "layout: any stage of an image [refusal]": (LAYOUT, lambda f, i, k: [(1, i)] if f == 1 else history_layout(f, i, k), "1 frames at stage 2 of 2 must be refused"),
    "layout: refused by IndexError [refusal]": (LAYOUT, lambda f, i, k: history_layout(f, [*range(k)][i], k), "With ValueError, not IndexError"),
    "layout: one stage is none [refusal]": (LAYOUT, lambda f, i, k: history_layout(f, i, k if k > 1 else 0), "is valid and must not be refused"),
    "layout: a stage far too large [refusal]": (LAYOUT, lambda f, i, k: history_layout(f, min(i, k - 1) if i != k else i, k), "stage 3 of 2 must be refused"),
    "layout: a stage far below 0 [refusal]": (LAYOUT, lambda f, i, k: history_layout(f, max(i, 0) if i != -1 else i, k), "stage -2 of 2 must be refused"),
    "layout: no stages [refusal]": (LAYOUT, changed(history_layout, n_stages=lambda k: max(k, 1)), "stage 0 of 0 must be refused"),
    "layout: counts that are no whole numbers [precision]": (LAYOUT, then(history_layout, lambda groups: [(float(n), i) for n, i in groups]), "whole numbers"),
    "layout: nothing for an image [end]": (LAYOUT, lambda f, i, k: history_layout(f, i, k) if f > 1 else history_layout(f, i, k)[:-1], "The frame that is made is missing"),
    "layout: the past from full size on [formula]": (LAYOUT, lambda f, i, k: (history_layout(f, i, k), [*history_layout(f, k - 1, k)[:-1], (1, i)])[1], "The newest of the past has the stage's level, not"),
    "layout: always the last stage [argument]": (LAYOUT, lambda f, i, k: (history_layout(f, i, k), history_layout(f, k - 1, k))[1], "stage's level, not that of full size"),
    "layout: the frame that is made at full size [formula]": (LAYOUT, lambda f, i, k: [*history_layout(f, i, k)[:-1], (1, k - 1)], "The frame that is made has the stage's level"),
    "layout: the oldest is dropped from long ones [end]": (LAYOUT, lambda f, i, k: history_layout(f - (f > k + 1), i, k), "The oldest frame is left out"),
    # the clips
    "M30: newest first, in the clips [formula]": (HISTORY, history_with(order=lambda x: x.flip(1)), "turned round"),
    "M31: all at the stage's resolution, in the clips [formula]": (
        HISTORY, lambda past, i, k: history(past, i, k) and [at_level(past.flatten(0, 1), k - 1 - i).unflatten(0, past.shape[:2])], "All have the stage's size"
    ),
    "clips: all at full size [formula]": (HISTORY, lambda past, i, k: history(past, i, k) and [past], "All have (the stage's|full) size"),
    "clips by subsampling [formula]": (HISTORY, history_with(shrink=every_second), "One pixel of four is kept"),
    "clips with the noise's factor [formula]": (HISTORY, history_with(shrink=lambda x, n: at_level(x, n, 2.0)), "Twice the mean is for noise"),
    "levels counted from the finest [formula]": (HISTORY, history_with(level=lambda i, k: i), "0 is the smallest size"),
    "clips: bilinear in one go [formula]": (
        HISTORY, history_with(shrink=lambda x, n: torch.nn.functional.interpolate(x, scale_factor=2.0**-n, mode="bilinear")), "The older frames are wrong: by 2x2 means"
    ),
    "clips that can be read once [shape]": (HISTORY, lambda past, i, k: (c.flip(1) + 1 for c in history(past, i, k)), "A list of clips"),
    "clips: frames without their axis [shape]": (HISTORY, lambda *a: [c.flatten(0, 1) for c in history(*a)], "Clips of"),
    "clips: square images [shape]": (HISTORY, then(history, lambda clips: [c[..., : c.shape[-2]] for c in clips]), "Clips of"),
    "clips: with the past in place [argument]": (HISTORY, lambda past, i, k: (history(past, i, k), past.mul_(2))[0], "The past stays as it is"),
    "clips: always float64 [precision]": (HISTORY, changed(history, past=lambda x: x.double()), "has the dtype of the data"),
    "clips: float32 inside [precision]": (HISTORY, lambda past, i, k: [c.to(past) for c in history(past.float(), i, k)], "where are digits lost"),
    "clips: detached [gradient]": (HISTORY, torch.no_grad()(history), "have a gradient"),
    "clips: the small ones detached [gradient]": (
        HISTORY, lambda past, i, k: [c.detach() if c.shape[-1] < past.shape[-1] else c for c in history(past, i, k)], "gradient"
    ),
    "odd heights lose a row [refusal]": (
        HISTORY, lambda past, i, k: history(past[..., : past.shape[3] // 2 ** (k - 1) * 2 ** (k - 1), :], i, k), "Heights that cannot be halved twice"
    ),
    "clips: odd widths lose a column [refusal]": (
        HISTORY, lambda past, i, k: history(past[..., : past.shape[-1] // 2 ** (k - 1) * 2 ** (k - 1)], i, k), "Widths that cannot be halved twice"
    ),
    "clips: an image for frames [refusal]": (HISTORY, lambda past, i, k: history(past[:, None] if past.ndim == 4 else past, i, k), "One image"),
    "clips: stages from the end [refusal]": (HISTORY, lambda past, i, k: history(past, i % k, k), "Stage (3 of 3|-1)"),
    "clips: no past refused [end]": (HISTORY, lambda past, i, k: history(past if past.shape[1] else past[0], i, k), "is valid and must not be refused"),
    "clips: always float32 [precision]": (HISTORY, changed(history, past=lambda x: x.float()), "dtype of the past|digits"),
    "clips: clamped [trajectory]": (HISTORY, then(history, lambda clips: [c.clamp(-5, 5) for c in clips]), "Nothing is clamped"),
    "clips: clamped below [trajectory]": (HISTORY, then(history, lambda clips: [c.clamp(min=-10) for c in clips]), "Nothing is clamped"),
    "clips: of other frames [formula]": (HISTORY, history_with(order=lambda x: x.roll(1, 1)), "Even the newest frame"),
    "clips: older ones brighter [formula]": (HISTORY, lambda past, i, k: (lambda clips: [*(1.1 * c for c in clips[:-1]), *clips[-1:]])(history(past, i, k)), "The older frames are wrong"),
    "clips: videos and frames exchanged [shape]": (
        HISTORY, then(history, lambda clips: [c.reshape(c.shape[1], c.shape[0], *c.shape[2:]).transpose(0, 1) for c in clips]), "videos and frames have changed places"
    ),
    "clips: frames exchanged with videos [shape]": (HISTORY, then(history, lambda clips: [c.transpose(0, 1).reshape(c.shape) for c in clips]), "videos and frames have changed places"),
    "clips: the first video's for all [shape]": (HISTORY, history_with(order=lambda x: x[:1].expand_as(x)), "a past of its own, not that of the first"),
    "clips: another video's [shape]": (HISTORY, history_with(order=lambda x: x.flip(0)), "in their order"),
    "clips: any stage without a past [refusal]": (HISTORY, lambda past, i, k: history(past, i, k) if past.shape[1] else [], "with 0 frames, must be refused"),
    "clips: a stage far too large [refusal]": (HISTORY, lambda past, i, k: history(past, min(i, k - 1) if i != k else i, k), "Stage 4 of 3"),
    "clips: the last stage for larger ones [refusal]": (HISTORY, lambda past, i, k: history(past, i if i < k or past.shape[1] > 1 else k - 1, k), "with 1 frames, must be refused"),
    "clips: nan [formula]": (HISTORY, then(history, lambda clips: [c * torch.nan for c in clips]), "nan or inf"),
    # corruption
    "the clip keeps its size [formula]": (CORRUPT, corrupt_with(keep=lambda s: torch.ones_like(s)), "scaled by 1 - sigma, not by 1"),
    "variance preserving [formula]": (CORRUPT, corrupt_with(keep=lambda s: (1 - s**2).sqrt()), "scaled by 1 - sigma, no root"),
    "the noise in full [formula]": (CORRUPT, corrupt_with(scale=lambda s: torch.ones_like(s)), "scaled by sigma, not by 1"),
    "the root of sigma [formula]": (CORRUPT, corrupt_with(scale=lambda s: s.sqrt()), "not by its root"),
    "corrupt: roots of both [formula]": (CORRUPT, corrupt_with(lambda s: (1 - s).sqrt(), lambda s: s.sqrt()), "sigma itself, not roots"),
    "corrupt: the square of sigma [formula]": (CORRUPT, corrupt_with(scale=lambda s: s**2), "not by its square"),
    "corrupt: scaled twice [formula]": (CORRUPT, corrupt_with(scale=lambda s: s * (1 - s)), "once: not by 1 - sigma as well"),
    "corrupt: sigma for 1 - sigma [formula]": (CORRUPT, corrupt_with(lambda s: s, lambda s: 1 - s), "the share of the noise, not of the clip"),
    "corrupt: minus the noise [formula]": (CORRUPT, corrupt_with(scale=lambda s: -s), "Plus sigma noise"),
    "a tenth more noise [formula]": (CORRUPT, corrupt_with(scale=lambda s: 1.1 * s), "sigma noise, of randn_like"),
    "one noise for all frames [random]": (CORRUPT, corrupt_with(noise=lambda c, g: randn_like(c[:, :1], g).expand_as(c)), "All frames of a clip"),
    "one noise for all samples [random]": (CORRUPT, corrupt_with(noise=lambda c, g: randn_like(c[:1], g).expand_as(c)), "All samples"),
    "one noise for all channels [random]": (CORRUPT, corrupt_with(noise=lambda c, g: randn_like(c[:, :, :1], g).expand_as(c)), "All channels"),
    "a number per frame [random]": (CORRUPT, corrupt_with(noise=lambda c, g: randn_like(c[..., :1, :1], g).expand_as(c)), "All pixels"),
    "uniform noise [random]": (CORRUPT, corrupt_with(noise=lambda c, g: torch.rand(c.shape, generator=g, dtype=c.dtype)), "uniform"),
    "uniform noise of variance 1 [random]": (
        CORRUPT, corrupt_with(noise=lambda c, g: 12**0.5 * (torch.rand(c.shape, generator=g, dtype=c.dtype) - 0.5)), "uniform"
    ),
    "noise that is smooth [random]": (
        CORRUPT, corrupt_with(noise=lambda c, g: (lambda n: (n + n.roll(1, -1)) / 2**0.5)(randn_like(c, g))), "of randn_like"
    ),
    "corrupt: from the newest to the oldest [random]": (CORRUPT, lambda clips, s, g=None: corrupt(clips[::-1], s, g)[::-1], "from the newest clip to the oldest"),
    "corrupt: seeded anew for each clip [random]": (CORRUPT, drawn_with(lambda clips, g: [randn_like(c, anew(g)) for c in clips]), "noise of its own: is the generator seeded anew"),
    "corrupt: seeded anew in each call [random]": (CORRUPT, changed(corrupt, generator=anew), "nothing is seeded anew"),
    "corrupt: always the same noise without a generator [random]": (
        CORRUPT, changed(corrupt, generator=lambda g: g or torch.Generator().manual_seed(0)), "torch's own"
    ),
    "corrupt: one draw too many [random]": (CORRUPT, lambda clips, s, g=None: (corrupt(clips, s, g), randn_like(clips[-1], g) if clips else 0)[0], "left where one draw for each clip"),
    "corrupt: normalised noise [random]": (CORRUPT, corrupt_with(noise=lambda c, g: (lambda n: n / n.std())(randn_like(c, g))), "of randn_like"),
    "the generator ignored [argument]": (CORRUPT, corrupt_with(noise=lambda c, g: torch.randn_like(c)), "twice the same seed, and two results"),
    "the newest clip stays clean [end]": (CORRUPT, corrupt_with(each=lambda s, j: s * (j == 0)), "came back as it was"),
    "corrupt: only the newest clip [end]": (CORRUPT, lambda clips, s, g=None: [*clips[:-1], *corrupt(clips[-1:], s, g)], "Clip 0 of 3, oldest first, came back"),
    "the first clip only [end]": (CORRUPT, lambda clips, s, g=None: corrupt(clips[:1], s, g), "As many clips as there were"),
    "corrupt: an empty past refused [end]": (CORRUPT, lambda clips, s, g=None: corrupt(clips, s, g) if clips else corrupt([clips], s, g), "No clips"),
    "corrupt: the mean sigma [argument]": (CORRUPT, changed(corrupt, sigma=lambda s: s.mean().expand_as(s) if len(s) == 4 and s.ndim == 1 and s.max() < 1 and s.min() >= 0 else s), "Each sample has its own sigma"),
    "corrupt: the samples' sigmas turned round [argument]": (CORRUPT, changed(corrupt, sigma=lambda s: s.flip(0)), "own sigma, in their order"),
    "corrupt: the list is emptied [argument]": (CORRUPT, lambda clips, s, g=None: [corrupt([clips.pop(0)], s, g)[0] for _ in range(len(clips))], "The list of clips stays"),
    "corrupt: into the list that is given [argument]": (CORRUPT, into_the_list, "The list of clips stays"),
    "corrupt: into the tensors that are given [argument]": (CORRUPT, in_place, "The clips stay as they are"),
    "corrupt: a generator of clips [shape]": (CORRUPT, then(corrupt, iter), "A list of clips"),
    "corrupt: stacked frames [shape]": (CORRUPT, then(corrupt, lambda clips: [c.flatten(0, 1) for c in clips]), "in their order and shapes"),
    "sigma's dtype [precision]": (
        CORRUPT, lambda clips, s, g=None: [c.to(s.dtype) for c in corrupt([c.to(s.dtype) for c in clips], s, g)], "has the dtype of the data"
    ),
    "corrupt: always float64 [precision]": (CORRUPT, then(corrupt, lambda clips: [c.double() for c in clips]), "has the dtype of the data"),
    "corrupt: always float32 [precision]": (CORRUPT, changed(corrupt, clips=lambda clips: [c.float() for c in clips]), "dtype of the clips"),
    "corrupt: sigma in float32 [precision]": (CORRUPT, corrupt_with(each=lambda s, j: s.float().double()), "where are digits lost"),
    "corrupt: sigma in half precision for float32 [precision]": (CORRUPT, lambda clips, s, g=None: corrupt(clips, s if (clips and clips[0].dtype == torch.float64) or not clips else s.half(), g), "where are digits lost"),
    "corrupt: the wider dtype [precision]": (
        CORRUPT, lambda clips, s, g=None: [c.to(torch.promote_types(c.dtype, s.dtype)) for c in corrupt(clips, s, g)], "has the dtype of the data"
    ),
    "corrupt: without a gradient [gradient]": (CORRUPT, torch.no_grad()(corrupt), "has a gradient"),
    "corrupt: the gradient of 1 [gradient]": (CORRUPT, lambda clips, s, g=None: [m.detach() + c - c.detach() for m, c in zip(corrupt(clips, s, g), clips)], "The gradient is 1 - sigma"),
    "corrupt: nan accepted [refusal]": (CORRUPT, changed(corrupt, sigma=nan_is_fine), "sigma = nan of one sample must be refused"),
    "corrupt: a negative sigma accepted [refusal]": (CORRUPT, changed(corrupt, sigma=at_least(0.0)), "sigma = -0.1 of one sample must be refused"),
    "corrupt: sigma of 1 accepted [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: torch.where(s == 1, 0.99, s)), "sigma = 1 of one sample must be refused"),
    "corrupt: sigma above 1 accepted [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: torch.where(s > 1, 0.99, s)), "sigma = 1.5 of one sample must be refused"),
    "corrupt: refused by the mean [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s.nan_to_num(0.5).clamp(0, 0.99) if 0 <= s.nan_to_num(0.5).mean() < 1 else s), "of one sample must be refused"),
    "corrupt: one sigma for all samples [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s.expand(4) if s.shape == (1,) else s), r"shape \(1,\) for 4 samples"),
    "corrupt: a number for sigma [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s.expand(4) if s.ndim == 0 else s), r"shape \(\) for 4 samples"),
    "corrupt: sigma with more axes [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s.flatten() if s.ndim else s), r"shape \(4, 1\) for 4 samples"),
    "corrupt: only the first clip is looked at [refusal]": (
        CORRUPT, lambda clips, s, g=None: corrupt([c.expand(4, *c.shape[1:]) if c.shape[:1] == (1,) else c for c in clips], s, g), "A clip of 1 sample"
    ),
    "corrupt: clamped [trajectory]": (CORRUPT, then(corrupt, lambda clips: [c.clamp(-5, 5) for c in clips]), "Nothing is clamped"),
    "corrupt: clamped above [trajectory]": (CORRUPT, then(corrupt, lambda clips: [c.clamp(max=100) for c in clips]), "Nothing is clamped"),
    "corrupt: nothing drawn for sigma 0 [random]": (CORRUPT, lambda clips, s, g=None: [*clips] if len(clips) and s.shape == (4,) and (s == 0).all() else corrupt(clips, s, g), "drawn for every clip, also where"),
    "corrupt: one clip is left alone [end]": (CORRUPT, lambda clips, s, g=None: corrupt(clips, s, g) if len(clips) != 1 or s.shape != clips[0].shape[:1] else [1 * c for c in clips], "A single clip is the newest"),
    "corrupt: seed 0 [random]": (CORRUPT, changed(corrupt, generator=lambda g: g and torch.Generator().manual_seed(0)), "nothing is seeded anew"),
    "corrupt: seed 0 for each clip [random]": (CORRUPT, drawn_with(lambda clips, g: [randn_like(c, torch.Generator().manual_seed(0)) for c in clips]), "noise of its own: is the generator seeded anew"),
    "corrupt: the generator is set back [random]": (CORRUPT, lambda clips, s, g=None: corrupt(clips, s, g.manual_seed(g.initial_seed()) if g else None), "nothing is seeded anew"),
    "corrupt: a sigma too many [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s[:4] if len(s.shape) == 1 else s), r"shape \(5,\) for 4 samples"),
    "corrupt: sigma with an axis before [refusal]": (CORRUPT, changed(corrupt, sigma=lambda s: s[0] if s.ndim and len(s) == 1 and s.ndim == 2 else s), r"shape \(1, 4\) for 4 samples"),
    "corrupt: a clip of fewer samples [refusal]": (CORRUPT, lambda clips, s, g=None: corrupt([fit(c, (4, *c.shape[1:]), 0) if s.shape == (4,) and len(c) > 1 else c for c in clips], s, g), "A clip of (2|3) samples"),
    "corrupt: nan [formula]": (CORRUPT, corrupt_with(scale=lambda s: s * torch.nan), "nan or inf"),
    # the mask
    "M34: causal by token [formula]": (MASK, lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool).tril(), "Causal by frame, not by token"),
    "M35: a frame blind to itself [formula]": (MASK, lambda ids: ids[:, None] > ids[None, :], "a token looks at itself too"),
    "M35: a token sees itself and older frames [formula]": (
        MASK, lambda ids: (ids[:, None] > ids[None, :]) | torch.eye(len(ids), dtype=torch.bool), "a frame sees all of itself"
    ),
    "M36: transposed [formula]": (MASK, lambda ids: ids[:, None] <= ids[None, :], "transposed"),
    "a mask of what is hidden [formula]": (MASK, lambda ids: ids[:, None] < ids[None, :], "True means may look"),
    "everyone sees everyone [formula]": (MASK, lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool), "No: it is of a newer frame"),
    "mask: its own frame only [formula]": (MASK, lambda ids: ids[:, None] == ids, "Yes: all older frames are seen"),
    "mask: the frame before only [formula]": (MASK, lambda ids: (ids[:, None] - ids >= 0) & (ids[:, None] - ids <= 1), "Yes: all older frames are seen"),
    "mask: frames and the diagonal below [formula]": (MASK, lambda ids: (ids[:, None] >= ids).tril(), "a frame sees all of itself"),
    "mask: places in the sequence [argument]": (MASK, lambda ids: (ids[:, None] == ids) | torch.ones(len(ids), len(ids), dtype=torch.bool).tril(), "The numbers decide"),
    "mask: frames sorted first [argument]": (MASK, lambda ids: ids.sort().values[:, None] >= ids.sort().values, "The numbers decide|Causal by frame|transposed"),
    "mask: frames in the order of their first token [argument]": (
        MASK, lambda ids: (lambda r: r[:, None] >= r)(torch.tensor([list(dict.fromkeys(ids.tolist())).index(i) for i in ids.tolist()])), "The numbers decide"
    ),
    "a mask to be added [shape]": (MASK, lambda ids: torch.where(block_causal_mask(ids), 0.0, -torch.inf), "The mask is bool"),
    "mask: of ints [shape]": (MASK, lambda ids: block_causal_mask(ids).long(), "The mask is bool"),
    "mask: with an axis for heads [shape]": (MASK, lambda ids: block_causal_mask(ids)[None], "A mask of 6 tokens is"),
    "mask: a list [shape]": (MASK, lambda ids: block_causal_mask(ids).tolist(), "Expected a tensor"),
    "mask: by frame [shape]": (MASK, lambda ids: block_causal_mask(ids.unique()), "A mask of 6 tokens is"),
    "mask: the numbers changed in place [argument]": (MASK, lambda ids: (block_causal_mask(ids), ids.sub_(1))[0], "frame_ids stays"),
    "mask: one token refused [end]": (MASK, lambda ids: block_causal_mask(ids if len(ids) > 1 else ids.float()), "is valid and must not be refused"),
    "mask: ten frames back [formula]": (MASK, lambda ids: block_causal_mask(ids) & (ids[:, None] - ids <= 10), "Yes: all older frames are seen"),
    "mask: a hundred frames back [formula]": (MASK, lambda ids: block_causal_mask(ids) & (ids[:, None] - ids <= 100), "Yes: all older frames are seen.*large or negative"),
    "mask: in int8 [precision]": (MASK, lambda ids: block_causal_mask(ids.to(torch.int8)), "compared, as whole numbers"),
    "mask: in uint8 [precision]": (MASK, lambda ids: block_causal_mask(ids.to(torch.uint8).long()), "compared, as whole numbers"),
    "mask: in half precision [precision]": (MASK, lambda ids: ids.half()[:, None] >= ids.half(), "compared, as whole numbers"),
    "mask: in float32 [precision]": (MASK, lambda ids: ids.float()[:, None] >= ids.float(), "compared, as whole numbers"),
    "mask: in float64 [precision]": (MASK, lambda ids: ids.double()[:, None] >= ids.double(), "compared, as whole numbers"),
    "mask: in int32 [precision]": (MASK, lambda ids: block_causal_mask(ids.int()), "compared, as whole numbers"),
    "mask: no negative numbers [formula]": (MASK, lambda ids: block_causal_mask(ids.clamp(min=0)), "compared, as whole numbers"),
    "mask: eight tokens [shape]": (MASK, lambda ids: block_causal_mask(ids) & ((torch.arange(len(ids)) < 8)[:, None] & (torch.arange(len(ids)) < 8)), "Yes"),
    # positions
    "M37: the first of each [formula]": (GRID, lambda n, n_ref: CELLS(n) * n_ref / n, "the first cell of the grid"),
    "M38: its own numbers [formula]": (GRID, lambda n, n_ref: CELLS(n).float(), "the cells' own numbers"),
    "from end to end [formula]": (GRID, lambda n, n_ref: torch.linspace(0, n_ref - 1, n), "End to end"),
    "half a cell off [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 0.5) * n_ref / n, "Half too much"),
    "grid: the last of each [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 1) * n_ref / n - 1, "the last cell of the grid"),
    "grid: left edges [formula]": (GRID, lambda n, n_ref: CELLS(n) * n_ref / n - 0.5, "the edges where the cells begin"),
    "grid: right edges [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 1) * n_ref / n - 0.5, "the edges where the cells end"),
    "grid: from edge to edge [formula]": (GRID, lambda n, n_ref: torch.linspace(-0.5, n_ref - 0.5, n), "From edge to edge|the edges"),
    "grid: half added twice [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 0.5) * n_ref / n + 0.5, "Half is added where it is taken away"),
    "grid: half a cell of the wrong grid [formula]": (GRID, lambda n, n_ref: CELLS(n) * n_ref / n + 0.5, "Half a cell is n_ref / n / 2"),
    "grid: shares of the extent [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 0.5) / n, "not as shares"),
    "grid: from -1 to 1 [formula]": (GRID, lambda n, n_ref: (CELLS(n) * 2 + 1) / n - 1, "not from -1 to 1"),
    "grid: the width upside down [formula]": (GRID, lambda n, n_ref: (CELLS(n) + 0.5) * n / n_ref - 0.5, "n_ref / n wide, not n / n_ref"),
    "grid: backwards [formula]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).flip(0), "From the first cell to the last"),
    "grid: whole widths [precision]": (GRID, lambda n, n_ref: (CELLS(n) + 0.5) * (n_ref // n) - 0.5, "not n_ref // n"),
    "grid: rounded [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).round(), "Rounded"),
    "grid: whole numbers [precision]": (GRID, lambda n, n_ref: (CELLS(n) * 2 + 1) * n_ref // (2 * n), "a float tensor"),
    "grid: clamped [end]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).clamp(0, n_ref - 1), "Clamped"),
    "grid: a larger grid refused [end]": (GRID, lambda n, n_ref: grid_positions(n if n <= n_ref else 0, n_ref), "7 cells on a grid of 3 is valid"),
    "grid: only where n divides n_ref [refusal]": (GRID, lambda n, n_ref: grid_positions(n if n_ref % n == 0 else 0, n_ref), "5 cells on a grid of 12 is valid"),
    "grid: a list [shape]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).tolist(), "Expected a tensor"),
    "grid: of the large grid [shape]": (GRID, lambda n, n_ref: grid_positions(n_ref, n), "one number for each"),
    "grid: with an axis [shape]": (GRID, lambda n, n_ref: grid_positions(n, n_ref)[:, None], "one number for each"),
    "grid: n_ref is 8 [argument]": (GRID, lambda n, n_ref: grid_positions(n, 8), "5 cells on a grid of 12"),
    "grid: rounded to 2 digits [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).round(decimals=2), "is it rounded"),
    "grid: rounded to 4 digits [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).round(decimals=4), "rounded"),
    "grid: rounded to 5 digits [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).round(decimals=5), "Right to five digits"),
    "grid: half precision [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).half(), "half precision"),
    "grid: bfloat16 [precision]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).bfloat16(), "half precision"),
    "grid: clamped below [end]": (GRID, lambda n, n_ref: grid_positions(n, n_ref).clamp(min=0), "Clamped"),
    "grid: nothing on one cell [end]": (GRID, lambda n, n_ref: grid_positions(n, n_ref) if n_ref > 1 else torch.zeros(n), "End to end"),
    # tokens
    "a side's half per level [formula]": (TOKENS, lambda layout, k, full: (count_tokens(layout, k, full), sum(n * full // 2 ** (k - 1 - i) for n, i in layout))[1], "a quarter of the tokens, not half"),
    "levels of the tokens from the finest [formula]": (
        TOKENS, lambda layout, k, full: (count_tokens(layout, k, full), sum(n * full // 4**i for n, i in layout))[1], "Level 0 is the smallest size"
    ),
    "tokens: all at full size [formula]": (TOKENS, lambda layout, k, full: (count_tokens(layout, k, full), sum(n for n, _ in layout) * full)[1], "not all have full size"),
    "tokens: K quarters [formula]": (TOKENS, lambda layout, k, full: count_tokens(layout, k, full) / 4, "not K"),
    "the frame that is made not counted [end]": (TOKENS, lambda layout, k, full: count_tokens(layout[:-1], k, full), "The frame that is made is counted"),
    "tokens: the oldest not counted [end]": (TOKENS, lambda layout, k, full: count_tokens(layout[1:] or layout, k, full), "The oldest frames are counted"),
    "tokens: counts not used [argument]": (TOKENS, lambda layout, k, full: count_tokens([(1, i) for n, i in layout if n > 0 or 1 / 0], k, full), "stands for `count` frames"),
    "tokens: three stages always [argument]": (TOKENS, lambda layout, k, full: count_tokens(layout, 3, full if full % 16 == 0 or k == 3 else 16 * full), "of 4 stages"),
    "tokens: a float [precision]": (TOKENS, then(count_tokens, float), "an int"),
    "quarters that are no whole tokens [refusal]": (TOKENS, lambda layout, k, full: sum(n * full // 4 ** (k - 1 - i) for n, i in layout), "which cannot be quartered twice"),
    "tokens: multiples of K [refusal]": (TOKENS, changed(count_tokens, full=lambda full: 64 if full in (15, 40) else full), "15 tokens, which"),
    "tokens: multiples of 4 [refusal]": (TOKENS, changed(count_tokens, full=lambda full: full * 4 if full % 4 == 0 and 0 < full < 64 and full % 16 else full), "40 tokens, which"),
    "tokens: too few [refusal]": (TOKENS, changed(count_tokens, full=lambda full: 64 if full == 4 else full), "4 tokens, which"),
    "tokens: none in a frame [refusal]": (TOKENS, lambda layout, k, full: 0 if full == 0 else count_tokens(layout, k, full), "0 tokens, which"),
    "tokens: fewer than none [refusal]": (TOKENS, lambda layout, k, full: full if full < 0 else count_tokens(layout, k, full), "-16 tokens, which"),
    "tokens: a level too high [refusal]": (TOKENS, changed(count_tokens, layout=lambda groups: [(n, min(i, 2)) for n, i in groups]), r"\(1, 3\) of 3 stages"),
    "tokens: a level below 0 [refusal]": (TOKENS, changed(count_tokens, layout=lambda groups: [(n, max(i, 0)) for n, i in groups]), r"\(1, -1\) of 3 stages"),
    "tokens: an empty group [refusal]": (TOKENS, changed(count_tokens, layout=lambda groups: [(n or 1, i) for n, i in groups]), r"\(0, 1\) of 3 stages"),
    "tokens: negative counts [refusal]": (TOKENS, changed(count_tokens, layout=lambda groups: [(abs(n), i) for n, i in groups]), r"\(-2, 1\) of 3 stages"),
    "tokens: only the first group is looked at [refusal]": (
        TOKENS, lambda layout, k, full: (count_tokens(layout[:1], k, full), sum(n * full * 4**i // 4 ** (k - 1) for n, i in layout if i >= 0))[1], "A group"
    ),
    "tokens: one stage refused [end]": (TOKENS, changed(count_tokens, n_stages=lambda k: k if k > 1 else 0), "is valid and must not be refused"),
    "tokens: the caller's layout emptied [argument]": (TOKENS, lambda layout, k, full: sum(count_tokens([layout.pop()], k, full) for _ in range(len(layout))), "The layout stays"),
    "tokens: a single group is the image [end]": (TOKENS, lambda layout, k, full: count_tokens(layout if len(layout) > 1 else [(n, k - 1) if 0 <= i < k else (n, i) for n, i in layout], k, full), "not all have full size"),
    "tokens: in a list [shape]": (TOKENS, then(count_tokens, lambda n: [n]), "a whole number, not a list"),
    "tokens: a tensor of floats [precision]": (TOKENS, then(count_tokens, lambda n: torch.tensor(float(n))), "a whole number, an int"),
    "tokens: one group is not looked at [refusal]": (TOKENS, lambda layout, k, full: count_tokens(layout if len(layout) > 1 or full != 64 else [(1, 0)], k, full), "must be refused|Layout"),
    # operations
    "multiply-adds for operations [formula]": (FLOPS, blocks_with(12, 2), "A multiply-add is two operations"),
    "no attention [formula]": (FLOPS, blocks_with(24, 0), "Attention is missing"),
    "the MLP's matrices only [formula]": (FLOPS, blocks_with(16, 4), "q, k, v and output together, or"),
    "flops: no MLP [formula]": (FLOPS, blocks_with(8, 4), "The MLP is missing"),
    "flops: the scores only [formula]": (FLOPS, blocks_with(24, 2), "Attention is two products"),
    "flops: without the output [formula]": (FLOPS, blocks_with(22, 4), "One matrix of four is missing"),
    "flops: d for d^2 [formula]": (FLOPS, lambda n, d, depth=1: depth * (24 * n * d + 4 * n**2 * d), "A matrix has d"),
    "flops: n^2 d^2 to attend [formula]": (FLOPS, lambda n, d, depth=1: depth * (24 * n * d**2 + 4 * n**2 * d**2), "To attend costs"),
    "flops: depth ignored [argument]": (FLOPS, lambda n, d, depth=1: forward_flops(n, d), "depth is not used"),
    "flops: attention in the first block [argument]": (FLOPS, lambda n, d, depth=1: depth * 24 * n * d**2 + 4 * n**2 * d, "Each block has attention"),
    "flops: matrices in the first block [argument]": (FLOPS, lambda n, d, depth=1: 24 * n * d**2 + depth * 4 * n**2 * d, "Each block has matrices"),
    "flops: three blocks by default [argument]": (FLOPS, lambda n, d, depth=3: forward_flops(n, d, depth), "One block by default"),
    "flops: a float [precision]": (FLOPS, then(forward_flops, float), "an int"),
    "the past costs nothing [formula]": (BILL, flops_with(first=-1), "The past costs, too"),
    "bill: the frame that is made costs nothing [formula]": (BILL, bill_with(seen=lambda layout, i, k: layout[:-1]), "is in the pass, too"),
    "every stage as dear as the last [formula]": (BILL, flops_with(stage=lambda i, k: k - 1), "early stages have fewer tokens"),
    "every stage as cheap as the first [formula]": (BILL, flops_with(stage=lambda i, k: 0), "later stages have more tokens"),
    "bill: the past at the stage's size [formula]": (BILL, bill_with(seen=lambda layout, i, k: [(sum(n for n, _ in layout), i)]), "Older frames are smaller"),
    "bill: all at full size [formula]": (BILL, bill_with(seen=lambda layout, i, k: [(sum(n for n, _ in layout), k - 1)]), "Frames are small in early stages"),
    "the last frame only [formula]": (BILL, flops_with(last_only=True), "not the last alone"),
    "bill: all frames in one pass [formula]": (BILL, all_at_once, "a pass of its own"),
    "bill: multiply-adds [formula]": (BILL, bill_with(blocks_with(12, 2)), "A multiply-add is two operations"),
    "bill: no attention [formula]": (BILL, bill_with(blocks_with(24, 0)), "Attention is missing"),
    "bill: the scores only [formula]": (BILL, bill_with(blocks_with(24, 2)), "Attention is two products"),
    "bill: no MLP [formula]": (BILL, bill_with(blocks_with(8, 4)), "The MLP is missing"),
    "bill: the MLP only [formula]": (BILL, bill_with(blocks_with(16, 4)), "q, k, v and output together, or"),
    "bill: three matrices of four [formula]": (BILL, bill_with(blocks_with(22, 4)), "One matrix of four is missing"),
    "bill: the last frame is not made [end]": (BILL, bill_with(frames=lambda n, given: range(given + 1, n)), "The last frame is made|Nothing|last frame"),
    "bill: the first frame is an image, for nothing [end]": (BILL, bill_with(frames=lambda n, given: range(max(given, 1) + 1, n + 1)), "The first frame, in passes that hold it alone, is made, too"),
    "bill: a frame too many [end]": (BILL, bill_with(frames=lambda n, given: range(given + 1, n + 2)), "A frame too many"),
    "bill: a past too long [end]": (BILL, bill_with(frames=lambda n, given: range(given + 2, n + 2)), "A past too long"),
    "bill: steps not used [argument]": (BILL, bill_with(of=lambda n, steps: 1), "steps are not used"),
    "bill: all steps at every stage [argument]": (BILL, bill_with(of=lambda n, steps: sum(steps)), "the steps of stage i"),
    "bill: stages in the wrong order [argument]": (BILL, changed(video_flops, steps=lambda steps: steps[::-1]), "5 frames, steps|Stage 0 is the coarsest"),
    "bill: depth ignored [argument]": (BILL, changed(video_flops, depth=lambda depth: 1), "`depth` is not used"),
    "bill: depth of the matrices alone [argument]": (BILL, bill_with(lambda n, d, depth: depth * 24 * n * d**2 + 4 * n**2 * d), "Each block has attention"),
    "given frames are made [argument]": (BILL, changed(video_flops, given=lambda given: 0), "Given frames are not made"),
    "given frames are not seen [argument]": (
        BILL, lambda f, steps, full, d, depth=1, given=0: video_flops(f - given, steps, full, d, depth) if 0 <= given < f else video_flops(f, steps, full, d, depth, given), "Given frames are looked at"
    ),
    "bill: the first after the given is not made [end]": (BILL, bill_with(frames=lambda n, given: range(given + 1 + (given > 0), n + 1)), "The frame after the given ones is made"),
    "bill: the last given frame is made [end]": (BILL, bill_with(frames=lambda n, given: range(given + (given == 0), n + 1)), "One given frame too few|Given frames are not made"),
    "bill: all given is refused [end]": (BILL, changed(video_flops, given=lambda given: given if given < 5 else -1), "is valid and must not be refused"),
    "bill: a step at least [end]": (BILL, changed(video_flops, steps=lambda steps: [max(n, 1) for n in steps]), "A stage of 0 steps has no pass"),
    "bill: more given than frames [refusal]": (BILL, seeing(video_flops, given=lambda n, a: min(n, max(a["frames"], 0))), "3 frames, 4 of them given"),
    "bill: more given than frames, for nothing [refusal]": (BILL, lambda f, *a, given=0: 0 if given > f > 0 else video_flops(f, *a, given=given), "3 frames, 4 of them given"),
    "bill: fewer given than none [refusal]": (BILL, changed(video_flops, given=lambda given: max(given, 0)), "3 frames, -1 of them given"),
    "bill: no frames, no cost [refusal]": (BILL, lambda f, *a, **more: video_flops(f, *a, **more) if f else 0, "0 frames, 0 of them given"),
    "bill: fewer frames than none [refusal]": (BILL, changed(video_flops, frames=lambda f: abs(f)), "-1 frames, 0 of them given"),
    "flops: a float32 [precision]": (FLOPS, lambda n, d, depth=1: int(np.float32(forward_flops(n, d, depth))), "whole numbers are exact"),
    "flops: numpy's float64 [precision]": (FLOPS, then(forward_flops, np.float64), "a whole number, an int"),
    "flops: no matrices [formula]": (FLOPS, blocks_with(0, 4), "The matrices are missing"),
    "flops: half of the pairs [formula]": (FLOPS, lambda n, d, depth=1: depth * (24 * n * d**2 + 2 * n * (n + 1) * d), "not half of them"),
    "flops: a token attends once [formula]": (FLOPS, lambda n, d, depth=1: depth * (24 * n * d**2 + 4 * n * d), "not n d"),
    "bill: multiply-adds of the matrices [formula]": (BILL, bill_with(blocks_with(12, 4)), "A multiply-add is two operations, also"),
    "bill: no matrices [formula]": (BILL, bill_with(blocks_with(0, 4)), "The matrices are missing"),
    "bill: a token attends once [formula]": (BILL, bill_with(lambda n, d, depth: depth * (24 * n * d**2 + 4 * n * d)), "not n d"),
    "bill: n^2 d^2 to attend [formula]": (BILL, bill_with(lambda n, d, depth: depth * (24 * n * d**2 + 4 * n**2 * d**2)), "not n.2 d.2"),
    "bill: d for d^2 [formula]": (BILL, bill_with(lambda n, d, depth: depth * (24 * n * d + 4 * n**2 * d)), "A matrix has d.2 numbers"),
    "bill: half of the pairs [formula]": (BILL, bill_with(lambda n, d, depth: depth * (24 * n * d**2 + 2 * n * (n + 1) * d)), "not half of them"),
    "bill: only the image attends [formula]": (
        BILL, lambda f, steps, full, d, depth=1, given=0: (video_flops(f, steps, full, d, depth, given), depth * sum(
            s * checks.block(n, d) - s * 4 * n * (n - full // 4 ** (len(steps) - 1 - i)) * d for g in range(given + 1, f + 1) for i, s in enumerate(steps) for n in [count_tokens(history_layout(g, i, len(steps)), len(steps), full)]
        ))[1], "not those of the frame that is made alone"
    ),
    "bill: an image takes one pass [end]": (BILL, lambda f, steps, *a, **k: video_flops(f, [1] * len(steps) if f == 1 else steps, *a, **k), "Every step is a pass"),
    "bill: an image that is given is made [end]": (BILL, seeing(video_flops, given=lambda n, a: 0 if n == a["frames"] == 1 else n), "Given frames are not made"),
    "bill: a float [precision]": (BILL, then(video_flops, float), "a whole number, an int"),
    "bill: numpy's float64 [precision]": (BILL, then(video_flops, np.float64), "a whole number, an int"),
    "bill: a tensor of floats [precision]": (BILL, then(video_flops, lambda n: torch.tensor(n, dtype=torch.float64)), "a whole number, an int"),
    "bill: float32 inside [precision]": (BILL, then(video_flops, lambda n: int(np.float32(n))), "whole numbers are exact"),
    "bill: off by a billionth [precision]": (BILL, then(video_flops, lambda n: n + n // 10**9), "whole numbers are exact"),
    "bill: in a list [shape]": (BILL, then(video_flops, lambda n: [n]), "a whole number, not a list"),
    "bill: depth ignored where frames are given [argument]": (BILL, seeing(video_flops, depth=lambda n, a: 1 if a["given"] else n), "`depth` is not used"),
    "bill: given ignored with one stage [argument]": (BILL, seeing(video_flops, given=lambda n, a: 0 if len(a["steps"]) == 1 and n <= a["frames"] and n >= 0 else n), "Given frames are not made"),
    "bill: three stages at most [argument]": (BILL, changed(video_flops, steps=lambda steps: steps[-3:]), "7 frames, steps .2, 1, 3, 2.|1, 2, 1, 4"),
    "bill: two blocks by default [argument]": (BILL, lambda f, steps, full, d, depth=2, given=0: video_flops(f, steps, full, d, depth, given), "By default"),
    "bill: a given frame by default [argument]": (BILL, lambda f, steps, full, d, depth=1, given=1: video_flops(f, steps, full, d, depth, given), "By default"),
    "bill: the caller's steps emptied [argument]": (BILL, lambda f, steps, *a, **k: (video_flops(f, steps, *a, **k), steps.clear())[0], "steps stays"),
    # the loss
    "the first frame is predicted [formula]": (LOSS, loss_with(predicted=lambda f: 0), "The first frame is predicted"),
    "the last frame of all is predicted [formula]": (LOSS, loss_with(predicted=lambda f: -1), "The last frame of the video is predicted"),
    "the predicted frame is in the history [formula]": (LOSS, loss_with(before=lambda f: f), "The predicted frame is in the history"),
    "the newest frame is not [formula]": (LOSS, loss_with(before=lambda f: max(f - 2, 0)), "The newest frame of the past is missing"),
    "loss: the whole video is the history [formula]": (LOSS, loss_with(before=lambda f: 4), "The history holds all frames|The predicted frame is in"),
    "loss: newest first [formula]": (LOSS, loss_with(past=lambda x, i, k: history(x.flip(1), i, k)), "newest first"),
    "loss: all at full size [formula]": (LOSS, loss_with(past=lambda x, i, k: [x] if x.shape[1] else []), "full size"),
    "a history for images [end]": (LOSS, loss_with(past=lambda x, i, k: history(x, i, k) or [0 * x.new_ones(len(x), 1, 1, 2, 2)]), "An image has no past"),
    "the past of the last stage for all [formula]": (LOSS, loss_with(past=lambda x, i, k: history(x, k - 1, k)), "what the last stage sees"),
    "loss: end - start [formula]": (LOSS, told_otherwise(video_loss, answer=lambda a: -a), "end - start|velocity is start - end"),
    "loss: the time of the stage [formula]": (LOSS, told_otherwise(loss_with(), t=lambda t, z: t * 0.9), "network_time"),
    "loss: the point of the end [formula]": (LOSS, told_otherwise(loss_with(), z=lambda z: 0.9 * z), "u start"),
    "loss: summed over pixels [formula]": (LOSS, loss_with(reduce=torch.sum), "not their sum"),
    "loss: the mean of the batch [shape]": (LOSS, lambda *a, **k: video_loss(*a, **k).mean(), "one number per sample"),
    "loss: the mean of the batch for each [shape]": (LOSS, lambda *a, **k: (lambda f: f.mean().expand_as(f))(video_loss(*a, **k)), "not their mean"),
    "loss: of every pixel [shape]": (LOSS, lambda *a, **k: video_loss(*a, **k)[:, None], "one number per sample"),
    "losses in the order of the passes [shape]": (LOSS, loss_with(ordered=False), "in the order of the passes"),
    "the first channel of the past [shape]": (LOSS, loss_with(past=lambda x, i, k: [c[:, :, :1] for c in history(x, i, k)]), "the first channel alone"),
    "loss: everything twice [shape]": (LOSS, lambda v, *a, **k: (video_loss(v, *a, **k) + video_loss(v, *a, **k)) / 2, "predicted (once|twice)"),
    "corruption without being asked [argument]": (LOSS, loss_with(always=0.1), "its numbers are not: the frames before, clean"),
    "sigma not used [argument]": (LOSS, loss_with(blur=lambda clips, s, g: clips), "The history came clean"),
    "the newest frame is not corrupted [formula]": (LOSS, loss_with(blur=lambda clips, s, g: [*corrupt(clips[:-1], s, g), *clips[-1:]]), "The newest frame came clean"),
    "the predicted frame is corrupted too [formula]": (
        LOSS, loss_with(image=lambda z, s, g: like(1 - s, z) * z + like(s, z) * randn_like(z, g)), "Corruption is for the past"
    ),
    "the largest sigma for all [formula]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt(clips, s.max().expand_as(s), g)), "its own sample's sigma"),
    "another sample's sigma [formula]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt(clips, s.flip(0), g)), "its own sample's sigma"),
    "loss: the share of the past [formula]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt(clips, (1 - s).clamp(max=0.999), g)), "not of the past"),
    "twice the noise [formula]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt_with(scale=lambda s: 2 * s)(clips, s, g)), "not by 2 sigma"),
    "uniform noise in the past [random]": (
        LOSS, loss_with(blur=corrupt_with(noise=lambda c, g: torch.rand(c.shape, generator=g, dtype=c.dtype))), "Gaussian, its own in each pixel"
    ),
    "a number for each frame of the past [random]": (
        LOSS, loss_with(blur=corrupt_with(noise=lambda c, g: randn_like(c[..., :1, :1], g).expand_as(c))), "its own in each pixel"
    ),
    "one noise for the samples of a pass [random]": (
        LOSS, loss_with(blur=corrupt_with(noise=lambda c, g: randn_like(c[:1], g).expand_as(c))), "Some noise of the past is used twice"
    ),
    "the same noise in every pass [random]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt(clips, s, anew(g))), "nothing is seeded anew"),
    "loss: torch's own noise [random]": (LOSS, changed(video_loss, generator=lambda g: None), "The generator decides the noise"),
    "loss: newest clip drawn first [random]": (LOSS, loss_with(blur=lambda clips, s, g: corrupt(clips[::-1], s, g)[::-1]), "from the newest clip to the oldest"),
    "corrupted first, then halved [formula]": (LOSS, corrupted_first, "Halve first, then corrupt"),
    "without a gradient [gradient]": (LOSS, torch.no_grad()(video_loss), "must have a gradient"),
    "loss: detached [gradient]": (LOSS, then(video_loss, lambda loss: loss.detach()), "must have a gradient"),
    "loss: half a gradient [gradient]": (LOSS, then(video_loss, lambda loss: (loss + loss.detach()) / 2), "is not that of the loss"),
    "loss: some answers detached [gradient]": (LOSS, told_otherwise(video_loss, answer=lambda a: torch.where(a > 0, a, a.detach())), "is not that of the loss"),
    "loss: the time in float64 [precision]": (LOSS, told_otherwise(loss_with(), t=lambda t, z: t.double()), "in the dtype of z"),
    "loss: z in float64 [precision]": (LOSS, told_otherwise(video_loss, z=lambda z: z.double()), "in the dtype of z"),
    "loss: the past in float64 [precision]": (LOSS, told_otherwise(video_loss, clips=lambda clips: [c.double() for c in clips]), "The clips of the history are tensors in the dtype of z"),
    "loss: the corrupted past in float64 [precision]": (
        LOSS, loss_with(blur=lambda clips, s, g: corrupt([c.double() for c in clips], s, g)), "The clips of the history are tensors in the dtype of z"
    ),
    "loss: a float64 result [precision]": (LOSS, then(video_loss, lambda loss: loss.double()), "The loss has the dtype of the videos"),
    "loss: half precision inside [precision]": (LOSS, told_otherwise(video_loss, answer=lambda a: a if a.dtype == torch.float64 else a.half().float()), "where are digits lost"),
    "loss: one time for all samples [shape]": (LOSS, told_otherwise(loss_with(), t=lambda t, z: t[:1]), "one time for each sample"),
    "loss: the history without its name [argument]": (
        LOSS, lambda v, *a, **k: video_loss((lambda z, t, history, **more: v(z, t, history, **more)), *a, **k), "by this name"
    ),
    "loss: conditioning not handed on [argument]": (LOSS, told_otherwise(video_loss, more=lambda more: more | {"tag": 0 * more["tag"]}), "Conditioning is handed on"),
    "loss: the shares turned round [argument]": (LOSS, changed(video_loss, shares=lambda shares: shares and shares[::-1]), "the coarsest first"),
    "loss: packed is ignored [argument]": (LOSS, changed(video_loss, packed=lambda packed: False), "packed=True"),
    "loss: packed passes one by one [argument]": (
        LOSS, lambda v, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more: (
            video_loss(v, x, noise, u, frames, stages, sigma, generator, shares, packed, **more) + (video_loss(v, x, noise, u, frames, stages, sigma, generator, shares, True, **more) if packed else 0)
        ) / (1 + packed), "asked once"
    ),
    "loss: a tensor of lengths refused [argument]": (LOSS, changed(video_loss, frames=lambda f: f if isinstance(f, list) else None), "frames in a tensor is valid"),
    "loss: images refused [end]": (LOSS, changed(video_loss, frames=lambda f: f if max(f) > 1 else [0] * len(f)), "is valid and must not be refused"),
    "loss: nan of a local time [refusal]": (LOSS, changed(video_loss, u=nan_is_fine), "A local time nan"),
    "loss: local time 0 [refusal]": (LOSS, changed(video_loss, u=lambda u: torch.where(u == 0, 0.5, u)), "A local time 0 "),
    "loss: a negative local time [refusal]": (LOSS, changed(video_loss, u=lambda u: torch.where(u < 0, 0.5, u)), "A local time -0.1"),
    "loss: a local time above 1 [refusal]": (LOSS, changed(video_loss, u=at_most(1.0)), "A local time 1.5"),
    "loss: local times by their mean [refusal]": (LOSS, changed(video_loss, u=lambda u: torch.where(u > 0, u.clamp(max=1), 0.5)), "A local time 0 "),
    "loss: one local time [refusal]": (LOSS, changed(video_loss, u=for_all(8)), "1 in u for eight"),
    "loss: one sigma [refusal]": (LOSS, changed(video_loss, sigma=for_all(8)), "1 in sigma for eight"),
    "loss: sigma 1 [refusal]": (LOSS, changed(video_loss, sigma=lambda s: s if s is None else torch.where(s == 1, 0.5, s)), "sigma = 1 of a sample"),
    "loss: a negative sigma [refusal]": (LOSS, changed(video_loss, sigma=at_least(0.0)), "sigma = -0.1 of a sample"),
    "loss: sigma above 1 [refusal]": (LOSS, changed(video_loss, sigma=lambda s: s if s is None else torch.where(s > 1, 0.5, s)), "sigma = 1.5 of a sample"),
    "loss: nan of a sigma [refusal]": (LOSS, changed(video_loss, sigma=nan_is_fine), "sigma = nan of a sample"),
    "loss: a length too long [refusal]": (LOSS, changed(video_loss, frames=lambda f: [min(n, 4) for n in f] if isinstance(f, list) else f), "5 frames in use of a video of 4"),
    "loss: a length of 0 [refusal]": (LOSS, changed(video_loss, frames=lambda f: [n or 1 for n in f] if isinstance(f, list) else f), "0 frames in use of a video of 4"),
    "loss: a negative length [refusal]": (LOSS, changed(video_loss, frames=lambda f: [abs(n) for n in f] if isinstance(f, list) else f), "-1 frames in use of a video of 4"),
    "loss: too few lengths [refusal]": (LOSS, changed(video_loss, frames=lambda f: [*f, 1] if len(f) == 7 else f), "Seven lengths for eight"),
    "loss: too many lengths [refusal]": (LOSS, changed(video_loss, frames=lambda f: f[:8]), "Nine lengths for eight"),
    "loss: one noise for all [refusal]": (LOSS, changed(video_loss, noise=for_all(8)), "Noise of one sample"),
    "loss: noise for every frame [refusal]": (LOSS, changed(video_loss, noise=lambda n: n[:, 0] if n.ndim == 5 else n), "Noise for every frame"),
    "loss: images for videos [refusal]": (LOSS, changed(video_loss, x=lambda x: x[:, None].expand(-1, 4, -1, -1, -1) if x.ndim == 4 else x), "Images in the place of videos"),
    "loss: one label [refusal]": (LOSS, lambda *a, label, **k: video_loss(*a, label=label.expand(8) if len(label) == 1 else label, **k), "1 in label for eight"),
    "loss: shares that leave a sample out [refusal]": (LOSS, changed(video_loss, shares=lambda shares: (2, 1, 1) if shares == (1, 1, 1) else shares), "in three equal shares"),
    "loss: fewer shares than stages [refusal]": (LOSS, changed(video_loss, shares=lambda shares: (2, 1, 1) if shares == (1, 1) else shares), "Two shares for three stages"),
    "loss: always float32 [precision]": (LOSS, then(video_loss, lambda loss: loss.float()), "The loss has the dtype of the videos"),
    "loss: noise scaled in place [argument]": (LOSS, lambda v, x, noise, *a, **k: (video_loss(v, x, noise, *a, **k), noise.mul_(2))[0], "their noise, times and lengths stay"),
    "loss: lengths taken out of the list [argument]": (LOSS, lambda v, x, noise, u, frames, *a, **k: (video_loss(v, x, noise, u, frames, *a, **k), frames.reverse() if isinstance(frames, list) else 0)[0], "their noise, times and lengths stay"),
    "loss: local time 1 refused [end]": (LOSS, changed(video_loss, u=lambda u: torch.where(u == 1, 2, u)), "is valid and must not be refused"),
    "loss: sigma 0 refused [end]": (LOSS, changed(video_loss, sigma=lambda s: s if s is None else torch.where(s == 0, 2, s)), "sigma = 0 is valid"),
    **{
        f"loss: noise of another size, axis {axis} [refusal]": (LOSS, lambda v, x, noise, *a, axis=axis, **k: video_loss(v, x, fit(noise, x[:, 0].shape, axis) if x.ndim == 5 else noise, *a, **k), f"Noise of (one|two|height|width|half|twice)|Videos of|{what}")
        for axis, what in enumerate(("sample", "channel", "height", "width"))
    },
    **{
        f"loss: too many or too few in {name} [refusal]": (LOSS, lambda v, x, *a, name=name, **k: video_loss(v, x, *a, **k | {name: fit(k[name], (len(x),), 0)} if k.get(name) is not None else k), f"in {name} for eight")
        for name in ("u", "sigma", "label")
    },
    **{
        f"loss: two for eight in {name} [refusal]": (LOSS, lambda v, x, *a, name=name, **k: video_loss(v, x, *a, **k | {name: k[name].repeat(4)} if k.get(name) is not None and len(k[name]) == 2 and len(x) == 8 else k), f"2 in {name} for eight")
        for name in ("u", "sigma", "label")
    },
    "loss: local times with an axis [refusal]": (LOSS, changed(video_loss, u=lambda u: u.flatten()), "two axes"),
    "loss: sigma not looked at without a past [refusal]": (LOSS, lambda *a, frames, sigma=None, **k: video_loss(*a, frames=frames, sigma=None if sigma is not None and max(frames) == 1 else sigma, **k), "sigma = "),
    "loss: more shares than stages [refusal]": (LOSS, changed(video_loss, shares=lambda shares: (2, 1, 1) if shares == (1, 1, 1, 1) else shares), "Four shares"),
    "loss: shares sorted [argument]": (LOSS, changed(video_loss, shares=lambda shares: shares and sorted(shares)), "this is the size of another"),
    "loss: an answer of another shape [refusal]": (LOSS, told_otherwise(loss_with(), answer=lambda a: a.expand(4, 2, 4, 12) if a.shape == (4, 1, 4, 12) else a), "answer of one channel must be refused"),
    "loss: an answer for more samples [refusal]": (LOSS, told_otherwise(video_loss, answer=lambda a: a[:4] if len(a) == 5 else a), "answer of one sample too many must be refused"),
    "loss: packed without corruption [argument]": (LOSS, lambda *a, sigma=None, packed=False, **k: video_loss(*a, sigma=None if packed else sigma, packed=packed, **k), "The history came clean"),
    "loss: packed conditioning forgotten [argument]": (LOSS, lambda *a, packed=False, **k: video_loss(*a, packed=packed, **(k | {"tag": 0 * k["tag"]} if packed else k)), "Conditioning is handed on"),
    "loss: packed without a gradient [gradient]": (LOSS, lambda *a, packed=False, **k: (lambda loss: loss.detach() if packed else loss)(video_loss(*a, packed=packed, **k)), "must have a gradient"),
    "loss: clamped [trajectory]": (LOSS, then(video_loss, lambda loss: loss.clamp(max=10)), "Nothing is clamped"),
    "loss: half of it [formula]": (LOSS, then(video_loss, lambda loss: loss / 2), "not half of it"),
    "loss: a root [formula]": (LOSS, then(video_loss, lambda loss: loss.sqrt()), "no root"),
    "loss: z clamped [trajectory]": (LOSS, told_otherwise(loss_with(), z=lambda z: z.clamp(-3, 3)), "Nothing is clamped"),
    "loss: the past clamped [trajectory]": (LOSS, loss_with(past=lambda x, i, k: [c.clamp(-3, 3) for c in history(x, i, k)]), "Nothing is clamped"),
    "loss: the losses of others [shape]": (LOSS, then(video_loss, lambda loss: loss.flip(0)), "belong to other samples"),
    "loss: sorted [shape]": (LOSS, then(video_loss, lambda loss: loss.sort().values), "belong to other samples|in the order of the passes"),
    "loss: local times in float32 [precision]": (LOSS, lambda v, x, noise, u, *a, **k: video_loss(v, x, noise, u.float(), *a, **k), "Right to five digits"),
    "loss: u turned round [formula]": (LOSS, told_otherwise(lambda v, x, noise, u, *a, **k: video_loss(v, x, noise, (1 - u).clamp(min=1e-9) if (u > 0).all() and (u <= 1).all() else u, *a, **k)), "u = 1 is the start"),
    "loss: u for the network's time [formula]": (LOSS, told_otherwise(loss_with(), t=lambda t, z: t**1.1), "network_time"),
    "loss: one draw before [random]": (LOSS, lambda v, x, noise, *a, generator=None, **k: (randn_like(noise, generator), video_loss(v, x, noise, *a, generator=generator, **k))[1], "Nothing else is drawn before|left where `corrupt`"),
    "loss: one draw after [random]": (LOSS, lambda v, x, noise, *a, generator=None, **k: (video_loss(v, x, noise, *a, generator=generator, **k), randn_like(noise, generator))[0], "left where `corrupt` leaves it"),
    "loss: seed 0 [random]": (LOSS, changed(video_loss, generator=lambda g: g and torch.Generator().manual_seed(0)), "nothing is seeded anew"),
    "loss: the answer written over [argument]": (LOSS, told_otherwise(loss_with(), answer=lambda a: (a.detach().mul_(1), a.data.add_(0.1), a)[2]), "answers stay as they are"),
    "loss: nan [formula]": (LOSS, then(video_loss, lambda loss: loss * torch.nan), "nan or inf"),
    # the roll-out
    "M30: newest first, in the roll-out [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x.flip(1), i, k)), "newest first"),
    "M31: all at full resolution, in the roll-out [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: [x] if x.shape[1] else []), "full size"),
    "M33: the oldest is dropped, in the roll-out [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x[:, 1:], i, k)), "The oldest frame is missing"),
    "rollout: the newest is dropped [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x[:, :-1], i, k)), "The newest frame of the past is missing"),
    "rollout: the past of the last stage [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x, k - 1, k)), "what the last stage sees"),
    "rollout: the past of the first stage [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x, 0, k)), "what the first stage sees"),
    "rollout: stages from the finest [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x, k - 1 - i, k)), "what the last stage sees"),
    "corruption at inference [formula]": (ROLLOUT, rollout_with(blur=lambda clips: [c + 0.05 * torch.randn_like(c) for c in clips]), "clean, each video's own"),
    "rollout: the past of another video [formula]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x.flip(0), i, k)), "each video's own"),
    "the frames that are made are not appended [formula]": (ROLLOUT, rollout_with(append=False), "Frames that have been made belong to the past"),
    "small sizes of the history not made again [formula]": (ROLLOUT, rollout_with(remember=True), "Frames that have been made belong to the past"),
    "only the newest frame [formula]": (ROLLOUT, rollout_with(keep=lambda frames, memory: frames[-1:]), "not the newest alone"),
    "the first channel of the history [shape]": (ROLLOUT, rollout_with(past=lambda x, i, k: [c[:, :, :1] for c in history(x, i, k)]), "the first channel alone"),
    "the history without its name [argument]": (ROLLOUT, rollout_with(named=False), "by this name"),
    "rollout: the history is a tensor [shape]": (ROLLOUT, rollout_with(past=lambda x, i, k: x), "in a list"),
    "rollout: black for no past [end]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x, i, k) or [torch.zeros(len(x), 1, 2, 1, 3, dtype=x.dtype)]), "An image has no past"),
    "one noise for all frames of the video [formula]": (ROLLOUT, rollout_with(same=True), r"noise\[:, 3\], not from 0"),
    "rollout: noises counted from the first that is made [formula]": (ROLLOUT, rollout_with(own=lambda k, n: k), r"noise\[:, 3\], not from 0"),
    "rollout: the noise of the frame before [formula]": (ROLLOUT, rollout_with(own=lambda k, n: max(n - 1, 0)), r"noise\[:, 3\], not from 2"),
    "the frame of the past as the start [formula]": (
        ROLLOUT, rollout_with(sample=lambda v, z, *rest: pyramid_sample(v, 0.9 * z, *rest)), "starts from its own noise"
    ),
    "rollout: the jumps of the first frame for all [formula]": (ROLLOUT, rollout_with(jump=lambda jumps, k, n: jumps[0]), r"not jumps\[0\]"),
    "rollout: jumps counted from frame 0 [formula]": (ROLLOUT, rollout_with(jump=lambda jumps, k, n: jumps[n]), r"stops with IndexError.*for the k-th that is made"),
    "rollout: jumps not used [argument]": (ROLLOUT, rollout_with(jump=lambda jumps, k, n: None), r"jumps\[k\], for the k-th"),
    "clamped frames [trajectory]": (ROLLOUT, rollout_with(after=lambda frame: frame.clamp(-1, 1)), "Nothing is clamped"),
    "rollout: frames a little darker [trajectory]": (ROLLOUT, rollout_with(after=lambda frame: 0.99 * frame), "Frame 3 itself"),
    "rollout: the frame of another video [trajectory]": (ROLLOUT, rollout_with(after=lambda frame: frame.flip(0)), "Frame 3 itself"),
    "rollout: always float32 [precision]": (ROLLOUT, then(rollout, lambda x: x.float()), "The video has the dtype of the noise"),
    "rollout: given frames written into the noise [argument]": (
        ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: (noise[:, : given.shape[1]].copy_(given) if given is not None and given.shape[1] <= noise.shape[1] else 0, rollout(v, noise, st, n, given, *a, **k))[1], "noise and given stay as they are"
    ),
    "rollout: given frames clamped in place [argument]": (
        ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: (rollout(v, noise, st, n, given, *a, **k), given is not None and given.clamp_(-1, 1))[0], "noise and given stay as they are"
    ),
    "rollout: clamped at the end [trajectory]": (ROLLOUT, then(rollout, lambda x: torch.cat([x[:, :1], x[:, 1:].clamp(-1, 1)], 1)), "Nothing is clamped|as they are"),
    "rollout: the given frames are not in the result [shape]": (ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: rollout(v, noise, st, n, given, *a, **k)[:, 0 if given is None else given.shape[1] :], "the given ones included"),
    "rollout: the given frames clamped [trajectory]": (ROLLOUT, changed(rollout, given=lambda x: x if x is None else x.clamp(-1, 1)), "Nothing is clamped"),
    "rollout: the given frames are averaged [trajectory]": (ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: torch.cat([rollout(v, noise, st, n, given, *a, **k)[:, :1] * 0.5, rollout(v, noise, st, n, given, *a, **k)[:, 1:]], 1), "questions|The given frames come first"),
    "rollout: another time [formula]": (ROLLOUT, asked_otherwise(t=lambda t: 0.9 * t), "at another time"),
    "rollout: the time in float64 [precision]": (ROLLOUT, asked_otherwise(t=lambda t: t.double()), "in the dtype of z"),
    "rollout: z in float64 [precision]": (ROLLOUT, changed(rollout, noise=lambda x: x.double(), given=lambda x: x if x is None else x.double()), "has the dtype of the noise|in the dtype of z"),
    "rollout: a float64 result [precision]": (ROLLOUT, then(rollout, lambda x: x.double()), "The video has the dtype of the noise"),
    "rollout: the past in float64 [precision]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x.double(), i, k)), "tensors in the dtype of z"),
    "rollout: half precision inside [precision]": (ROLLOUT, rollout_with(after=lambda frame: frame if frame.dtype == torch.float64 else frame.half().float()), "where are digits lost"),
    "rollout: float32 inside [precision]": (ROLLOUT, rollout_with(after=lambda frame: frame.float().to(frame)), "where are digits lost"),
    "the first frame's guidance for all [formula]": (ROLLOUT, rollout_with(scale=lambda first, k: 0), "A frame with a past takes the second scale"),
    "the others' guidance for the first [formula]": (ROLLOUT, rollout_with(scale=lambda first, k: 1), "A frame without a past takes the first scale"),
    "rollout: the scales exchanged [formula]": (ROLLOUT, rollout_with(scale=lambda first, k: k == 0), "A frame without a past takes the first|The first scale is for"),
    "one given frame is not a past [end]": (ROLLOUT, rollout_with(scale=lambda first, k: k > 1), "A frame with a past takes the second scale"),
    "rollout: the first that is made takes the first scale [end]": (ROLLOUT, rollout_with(scale=lambda first, k: k > 2), "takes the second scale"),
    "rollout: one scale for all, where frames are given [end]": (
        ROLLOUT, seeing(rollout, guidance=lambda w, a: w if a["given"] is None or not a["given"].shape[1] else (w[0], w[0])), "takes the second scale|questions to `unconditional`"
    ),
    "rollout: guidance from the conditional [formula]": (ROLLOUT, rollout_with(mixed=lambda a, b, w: a + w * (a - b)), "It begins at unconditional"),
    "rollout: conditional and unconditional exchanged [formula]": (ROLLOUT, rollout_with(mixed=lambda a, b, w: a + w * (b - a)), "have changed places"),
    "rollout: guidance without a difference [formula]": (ROLLOUT, rollout_with(mixed=lambda a, b, w: b + w * a), r"unconditional \+ scale \(conditional"),
    "guidance at scale 1 [argument]": (ROLLOUT, rollout_with(twice=True), "Scale 1 does not ask it"),
    "rollout: guidance not used [argument]": (ROLLOUT, seeing(rollout, guidance=lambda w, a: w if a["unconditional"] is None else (1, 1)), "questions to `unconditional`"),
    "rollout: scale 0 is no guidance [end]": (ROLLOUT, changed(rollout, guidance=lambda w: tuple(a or 1 for a in w)), "questions to `unconditional`"),
    "unconditional without the history [argument]": (ROLLOUT, rollout_with(blind=True), "`unconditional` and its history. It is empty"),
    "the unconditional sees black [argument]": (ROLLOUT, rollout_with(other=lambda clips: [0 * c for c in clips]), "It is black"),
    "the unconditional sees the past backwards [argument]": (
        ROLLOUT, rollout_with(other=lambda clips: [c.flip(1) for c in clips][::-1]), "newest first"
    ),
    "rollout: first_steps not used [argument]": (ROLLOUT, changed(rollout, first_steps=lambda n: None), "first_steps are for a frame without a past"),
    "first_steps after given frames [argument]": (ROLLOUT, rollout_with(early=lambda first, k, n: k == 0), "first_steps are for a frame without a past"),
    "first_steps after one given frame [end]": (ROLLOUT, rollout_with(early=lambda first, k, n: n < 2), "first_steps are for a frame without a past"),
    "rollout: the same steps at every stage [argument]": (ROLLOUT, changed(rollout, steps=lambda n: n if isinstance(n, int) else n[0]), r"the stages take \[2, 1, 3\] steps"),
    "rollout: the stages' steps turned round [argument]": (ROLLOUT, changed(rollout, steps=lambda n: n if isinstance(n, int) else n[::-1]), "coarsest first"),
    "memory from the wrong end [argument]": (ROLLOUT, rollout_with(keep=lambda frames, memory: frames[: memory or len(frames)]), "the newest frames, not the oldest"),
    "memory beyond the beginning [end]": (
        ROLLOUT, rollout_with(keep=lambda frames, memory: frames[len(frames) - (memory or len(frames)) :]), "or all while there are fewer"
    ),
    "memory ignored [argument]": (ROLLOUT, rollout_with(keep=lambda frames, memory: frames), "`memory` is not used"),
    "memory at the last stage only [argument]": (ROLLOUT, rollout_with(short=False), "`memory` is not used"),
    "rollout: memory without the given frames [argument]": (ROLLOUT, rollout_with(keep=lambda frames, memory: frames if memory is None else frames[-memory - 1 :]), "memory=1"),
    "rollout: an empty given is a past [end]": (ROLLOUT, seeing(rollout, first_steps=lambda n, a: n if a["given"] is None or a["given"].shape[1] else None), "as if given were None"),
    "rollout: an empty given is refused [end]": (ROLLOUT, changed(rollout, given=lambda x: x if x is None or x.shape[1] else x[:, :, :1]), "0 frames given.*stops with ValueError"),
    "rollout: all given is refused [end]": (ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: rollout(v, noise[:, 0] if given is not None and given.shape[1] == noise.shape[1] else noise, st, n, given, *a, **k), "All frames given.*stops with ValueError"),
    "the same jumps in every frame [random]": (ROLLOUT, rollout_with(once=True), "frame after frame"),
    "rollout: a generator for each frame [random]": (ROLLOUT, rollout_with(seed=0), "generator"),
    "rollout: the generator for the first frame only [random]": (
        ROLLOUT, rollout_with(sample=lambda v, z, st, n, fresh, g, seen=[]: pyramid_sample(v, z, st, n, fresh, g if not seen or seen[-1] is not g else None) if not seen.append(g) else None), "generator|drawn"
    ),
    "rollout: the generator ignored [argument]": (ROLLOUT, changed(rollout, generator=lambda g: None), "drawn from the generator as it is handed on"),
    "rollout: seeded without a generator [random]": (ROLLOUT, changed(rollout, generator=lambda g: g or torch.Generator().manual_seed(5)), "torch's own"),
    "rollout: noise drawn for frames that are given [random]": (ROLLOUT, lambda v, noise, *a, **k: (randn_like(noise, k.get("generator")), rollout(v, noise, *a, **k))[1], "The generator is where it was"),
    "rollout: fresh noise for each frame [random]": (ROLLOUT, lambda v, noise, *a, **k: rollout(v, randn_like(noise), *a, **k), "starts from its own noise"),
    "rollout: the jumps are taken out of the list [argument]": (ROLLOUT, popped, "The lists of jumps stay"),
    "rollout: square images [shape]": (ROLLOUT, lambda v, noise, *a, **k: rollout(v, noise[..., : noise.shape[-2]], *a, **k), "stops with ValueError|As many frames"),
    "rollout: transposed [shape]": (ROLLOUT, then(rollout, lambda x: x.transpose(0, 1)), "As many frames as noises|given frames come first"),
    "rollout: a list of frames [shape]": (ROLLOUT, then(rollout, lambda x: list(x.unbind(1))), "Expected a tensor"),
    "rollout: one noise without frames [refusal]": (ROLLOUT, changed(rollout, noise=lambda x: x[:, None] if x.ndim == 4 else x), "Noise of one image"),
    "rollout: more given frames than noises [refusal]": (ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: rollout(v, noise, st, n, given if given is None else given[:, : noise.shape[1]], *a, **k), "Six given frames for five noises"),
    "rollout: one given video for all [refusal]": (ROLLOUT, changed(rollout, given=for_all(3)), "1 given frame of one sample"),
    "rollout: only the second scale is looked at [refusal]": (
        ROLLOUT, seeing(rollout, guidance=lambda w, a: (1, 1) if a["unconditional"] is None and w[1] == 1 else w), r"guidance \(2.0, 1\) without"
    ),
    "rollout: only the first scale is looked at [refusal]": (
        ROLLOUT, seeing(rollout, guidance=lambda w, a: (1, 1) if a["unconditional"] is None and w[0] == 1 else w), r"guidance \(1, 2.0\) without"
    ),
    "rollout: guidance refused by TypeError [refusal]": (
        ROLLOUT, seeing(rollout, guidance=lambda w, a: w if a["unconditional"] or w == (1, 1) else w()), "With ValueError, not TypeError"
    ),
    "rollout: a memory of 0 is all [refusal]": (ROLLOUT, changed(rollout, memory=lambda m: m or None), "A memory of no frame"),
    "rollout: a negative memory [refusal]": (ROLLOUT, changed(rollout, memory=lambda m: m if m is None else abs(m)), "A memory of -1"),
    "rollout: too many jumps [refusal]": (ROLLOUT, seeing(rollout, jumps=lambda jumps, a: jumps[: 5 - (0 if a["given"] is None else a["given"].shape[1])] if a["noise"].shape[1] == 5 and jumps else jumps), "Noises for 6 frames when 5 are made"),
    "rollout: too few jumps [refusal]": (ROLLOUT, changed(rollout, jumps=lambda jumps: jumps * 2 if jumps and len(jumps) == 1 else jumps), "Noises for 1 frames when 2 are made"),
    "rollout: no jumps are drawn ones [refusal]": (ROLLOUT, changed(rollout, jumps=lambda jumps: jumps or None), "Noises for 0 frames when 5 are made"),
    **{
        f"rollout: given of another size, axis {axis} [refusal]": (ROLLOUT, given_as(lambda given, noise, axis=axis: fit(given, noise.shape, axis)), f"given frames? .*{what}.*must be refused")
        for axis, what in ((0, "sample"), (2, "channel"), (3, "height"), (4, "width"))
    },
    "rollout: only numbers of pixels are compared [refusal]": (
        ROLLOUT, given_as(lambda given, noise: given.reshape(noise.shape[0], -1, *noise.shape[2:]) if given.ndim == 5 and len(given) == len(noise) and given.numel() == noise[:, : given.shape[1]].numel() else given), "height and width exchanged"
    ),
    "rollout: all given, of any size [refusal]": (ROLLOUT, lambda v, noise, st, n, given=None, *a, **k: given if given is not None and given.ndim == 5 and given.shape[1] == noise.shape[1] == 5 and given.shape[2:] != noise.shape[2:] else rollout(v, noise, st, n, given, *a, **k), "5 given frames"),
    **{
        f"rollout: guidance {pair} without unconditional [refusal]": (ROLLOUT, seeing(rollout, guidance=lambda w, a, pair=pair: none_given(w, a) if tuple(w) == pair else w), re.escape(f"guidance {pair} without"))
        for pair in ((0, 1), (1, 0), (2, 0), (3.0, 3.0))
    },
    "rollout: guidance is not looked at where all are given [refusal]": (ROLLOUT, seeing(rollout, guidance=lambda w, a: none_given(w, a) if a["given"] is not None and a["given"].shape[1] == 5 else w), "with 5 frames given, must be refused"),
    "rollout: memory is not looked at where none is given [refusal]": (ROLLOUT, seeing(rollout, memory=lambda m, a: None if m is not None and m < 1 and a["given"] is None else m), "A memory of no frame, with 0"),
    "rollout: memory is not looked at where all are given [refusal]": (ROLLOUT, seeing(rollout, memory=lambda m, a: None if m is not None and m < 1 and a["given"] is not None and a["given"].shape[1] == 5 else m), "A memory of no frame, with 5"),
    "rollout: jumps that nobody needs [refusal]": (ROLLOUT, seeing(rollout, jumps=lambda jumps, a: [] if jumps is not None and a["given"] is not None and a["given"].shape[1] == a["noise"].shape[1] else jumps), "Noises for 1 frames when 0 are made"),
    "rollout: noise of more axes [refusal]": (ROLLOUT, changed(rollout, noise=lambda x: x[0] if x.ndim == 6 else x), "six axes"),
    "rollout: a scale near 1 is 1 [argument]": (ROLLOUT, changed(rollout, guidance=lambda w: tuple(1 if abs(a - 1) < 0.01 else a for a in w)), "questions to `unconditional`"),
    "rollout: scales clipped [argument]": (ROLLOUT, changed(rollout, guidance=lambda w: tuple(min(a, 5) for a in w)), "guidance"),
    "rollout: scales clipped below [argument]": (ROLLOUT, changed(rollout, guidance=lambda w: tuple(max(a, 0) for a in w)), "guidance"),
    "rollout: seed 0 [random]": (ROLLOUT, changed(rollout, generator=lambda g: g and torch.Generator().manual_seed(0)), "as it is handed on"),
    "rollout: the generator set to seed 0 [random]": (ROLLOUT, changed(rollout, generator=lambda g: g and g.manual_seed(0)), "The generator is where it was if jumps are given"),
    "rollout: the generator set back [random]": (ROLLOUT, changed(rollout, generator=lambda g: g and g.manual_seed(g.initial_seed())), "The generator is where it was if jumps are given"),
    "rollout: all clamped [trajectory]": (ROLLOUT, then(rollout, lambda x: x.clamp(-1, 1)), "Nothing is clamped"),
    "rollout: all clamped at 5 [trajectory]": (ROLLOUT, then(rollout, lambda x: x.clamp(-5, 5)), "Nothing is clamped"),
    "rollout: frames clamped at 5 [trajectory]": (ROLLOUT, rollout_with(after=lambda frame: frame.clamp(-5, 5)), "Nothing is clamped"),
    "rollout: float32 throughout [precision]": (ROLLOUT, then(rollout, lambda x: x.float().to(x)), "Right to five digits|where are digits lost"),
    "rollout: five frames of the past [end]": (ROLLOUT, rollout_with(keep=lambda frames, memory: frames[-(memory or 5) :]), "not the newest few|The oldest frame is missing"),
    "rollout: memory is that of the frames made [argument]": (
        ROLLOUT, seeing(rollout, memory=lambda m, a: m and m + (0 if a["given"] is None else a["given"].shape[1]) if m is None or m > 0 else m), "not for given frames"
    ),
    "rollout: three stages at most [argument]": (ROLLOUT, rollout_with(past=lambda x, i, k: history(x, min(i, 2), k)), "Eight frames, four stages"),
    "rollout: the caller's steps emptied [argument]": (ROLLOUT, forgetful, "The lists of steps stay"),
    "rollout: jumps from the last to the first [argument]": (ROLLOUT, changed(rollout, jumps=lambda jumps: jumps and jumps[::-1]), "not for the last"),
    "rollout: answers written over [argument]": (ROLLOUT, rollout_with(mixed=lambda a, b, w: a.sub_(b).mul_(w).add_(b)), "What the networks answer stays"),
    "rollout: nan [formula]": (ROLLOUT, rollout_with(after=lambda frame: frame * torch.nan), "nan or inf"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught_and_named(mistake, unchecked_shapes):
    check, wrong, says = MISTAKES[mistake]
    with pytest.raises(AssertionError) as caught:
        check(wrong)
    assert re.search(says, str(caught.value).splitlines()[0])


# right answers, written in other ways


def numpy_layout(frames, stage, n_stages):
    """By arrays, with the integers of torch."""
    if not (frames >= 1 and n_stages > stage >= 0):
        raise ValueError("no such frame or stage")
    levels = (stage - torch.arange(frames - 1)).clamp(min=0).flip(0)
    older = levels[:-1]
    groups = [((older == 0).sum(), 0)] if (older == 0).any() else []
    groups += [[1, level] for level in older[older > 0]]
    return [*groups, *((1, level) for level in levels[-1:]), (1, stage)]


def recursive_layout(frames, stage, n_stages):
    """From the newest to the oldest, one call for each frame, merged in the end."""
    if frames < 1 or stage not in range(n_stages):
        raise ValueError
    past = lambda n, level: [] if n == 0 else [*past(n - 1, max(level - 1, 0)), (1, level)]
    found = past(frames - 1, stage)
    zeros = len([1 for _, level in found[:-1] if level == 0])
    return tuple(
        [(zeros, 0)] * (zeros > 0) + [pair for pair in found[:-1] if pair[1]] + found[-1:] + [(1, stage)]
    )


def by_slices(past, stage, n_stages):
    """2x2 means by slices, each frame on its own."""
    if past.ndim != 5 or past.shape[3] % 2 ** (n_stages - 1) or past.shape[4] % 2 ** (n_stages - 1):
        raise ValueError("frames that can be halved")
    clips, frames = [], iter(past.unbind(1))
    for count, level in history_layout(past.shape[1] + 1, stage, n_stages)[:-1]:
        clip = torch.stack([next(frames) for _ in range(count)], 1)
        for _ in range(n_stages - 1 - level):
            rows = 0.5 * clip[..., ::2, :] + 0.5 * clip[..., 1::2, :]
            clip = 0.5 * rows[..., ::2] + 0.5 * rows[..., 1::2]
        clips.append(clip)
    return tuple(clips)


def in_one_go(past, stage, n_stages):
    """Means over larger blocks, in float64."""
    history(past, stage, n_stages)  # refuses what ought to be refused
    clips, first = [], 0
    for count, level in history_layout(past.shape[1] + 1, stage, n_stages)[:-1]:
        n = 2 ** (n_stages - 1 - level)
        blocks = rearrange(
            past[:, first : first + count].double(), "b k c (h p) (w q) -> b k c h w (p q)", p=n, q=n
        )
        clips.append(blocks.mean(-1).to(past))
        first += count
    return clips


def corrupt_by_rows(clips, sigma, generator=None):
    """Sample by sample, with noise that is drawn for the clip, in float64."""
    corrupted = []
    for clip in clips:
        if sigma.shape != clip.shape[:1] or not ((0 <= sigma) & (sigma < 1)).all():
            raise ValueError("sigma")
        noise = torch.randn(clip.shape, generator=generator, dtype=clip.dtype)
        rows = [
            torch.lerp(c.double(), n.double(), s.item()).to(clip.dtype) for c, n, s in zip(clip, noise, sigma)
        ]
        corrupted.append(torch.stack(rows))
    return tuple(corrupted)


def corrupt_by_einsum(clips, sigma, generator=None):
    corrupt(clips, sigma, torch.Generator())  # refuses what ought to be refused
    noises = [torch.randn(c.shape, generator=generator, dtype=c.dtype) for c in clips]
    return [
        torch.einsum("b,b...->b...", (1 - sigma).to(c), c) + torch.einsum("b,b...->b...", sigma.to(c), n)
        for c, n in zip(clips, noises)
    ]


def mask_by_loops(ids):
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for i in range(len(ids)):
        for j in range(len(ids)):
            mask[i, j] = bool(ids[j] <= ids[i])
    return mask


def bill_by_hand(frames, steps, full, dim, depth=1, given=0):
    """Without the package's functions, in floating point."""
    if not 1 <= frames or not 0 <= given <= frames:
        raise ValueError("frames")
    total, k = 0.0, len(steps)
    for f in range(given, frames):
        for stage, n in enumerate(steps):
            sizes = [stage, *[max(stage - age, 0) for age in range(f)]]
            tokens = sum(full * 0.25 ** (k - 1 - level) for level in sizes)
            total += n * depth * tokens * dim * (24 * dim + 4 * tokens)
    return int(total)


def bill_from_the_end(frames, steps, full, dim, depth=1, given=0):
    """What all frames cost, less what the given ones would."""
    if given > frames or given < 0:
        raise ValueError("given")
    return video_flops(frames, tuple(steps), full, dim, depth) - (
        video_flops(given, steps, full, dim, depth) if given else 0
    )


def loss_by_sample(
    velocity, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more
):
    """A pass for each sample."""
    right = lambda z, t, history, **_: 0 * z
    video_loss(right, x, noise, u, frames, stages, sigma, torch.Generator(), shares, **more)  # refusals
    if packed:
        return video_loss(velocity, x, noise, u, frames, stages, sigma, generator, shares, packed, **more)
    losses = []
    for i, part in enumerate(split(len(x), shares, len(stages))):
        for j in range(len(x))[part]:
            one, f = slice(j, j + 1), int(frames[j])
            clips = history(x[one, : f - 1], i, len(stages))
            if sigma is not None:
                clips = corrupt(clips, sigma[one], generator)
            start, end = stage_pair(x[one, f - 1], noise[one], i, stages)
            z = torch.lerp(end, start, u[one].to(x.dtype).reshape(-1, 1, 1, 1))
            t = network_time(u[one], stages[i]).to(x.dtype)
            given = {name: value[one] for name, value in more.items()}
            answer = like_z(velocity(z, t, history=tuple(clips), **given), z)
            losses.append((answer - start + end).pow(2).flatten(1).mean(1))
    return torch.cat(losses)


def loss_from_the_end(
    velocity, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more
):
    """The last stage first, one buffer of t for all passes, z overwritten after it was asked."""
    right = lambda z, t, history, **_: 0 * z
    video_loss(right, x, noise, u, frames, stages, sigma, torch.Generator(), shares, **more)  # refusals
    if packed:
        return video_loss(velocity, x, noise, u, frames, stages, sigma, generator, shares, packed, **more)
    loss, buffer = [None] * len(x), torch.empty(1, dtype=x.dtype)
    for i, part in reversed([*enumerate(split(len(x), shares, len(stages)))]):
        for j in range(len(x))[part]:
            one, f = slice(j, j + 1), int(frames[j])
            clips = history(x[one, : f - 1], i, len(stages))
            clips = clips if sigma is None else corrupt(clips, sigma[one], generator)
            start, end = stage_pair(x[one, f - 1], noise[one], i, stages)
            w = u[one].to(x.dtype)[:, None, None, None]
            z = (w * start + (1 - w) * end).clone()
            buffer.copy_(network_time(u[one], stages[i]))
            given = {name: value[one] for name, value in more.items()}
            answer = like_z(velocity(z, buffer, history=clips, **given), z)
            z.detach().zero_()
            loss[j] = (answer - (start - end)).square().mean()
    return torch.stack(loss)


def rollout_by_hand(
    velocity,
    noise,
    stages,
    steps,
    given=None,
    first_steps=None,
    unconditional=None,
    guidance=(1.0, 1.0),
    memory=None,
    jumps=None,
    generator=None,
):
    """Without pyramid_sample: Euler steps and jumps, one buffer of t, z moved in place, unconditional last."""
    right = lambda z, t, history: 0 * z
    with torch.random.fork_rng([]):  # refuses what ought to be refused
        rollout(
            right, noise, stages, steps, given, first_steps, unconditional and right, guidance, memory, jumps
        )
    made, k = noise.clone(), len(stages)
    first = 0 if given is None else given.shape[1]
    if first:
        made[:, :first] = given
    buffer = torch.empty(len(noise), dtype=noise.dtype)
    for f in range(first, noise.shape[1]):
        counts = first_steps if f == 0 and first_steps is not None else steps
        counts = [counts] * k if isinstance(counts, int) else counts
        z = at_level(noise[:, f], k - 1, 2.0).clone()
        for i, n in enumerate(counts):
            if i:
                fresh = (
                    randn_like(z.repeat(1, 1, 2, 2), generator) if jumps is None else jumps[f - first][i - 1]
                )
                z = renoise_jump(z, fresh, stages[i])
            begin = 0 if memory is None else max(0, f - memory)
            clips = history(made[:, begin:f], i, k)
            for step in range(n):
                buffer.fill_(stages[i].t_end + (stages[i].t_start - stages[i].t_end) * (1 - step / n))
                scale = guidance[0 if f == 0 else 1]
                v = velocity(z, buffer, history=clips)
                if scale != 1:
                    v = scale * v + (1 - scale) * unconditional(z, buffer, history=clips)
                z -= v / n
        made[:, f] = z
    return made


RIGHT = {
    "layout": (LAYOUT, layout_with()),
    "layout: arrays": (LAYOUT, numpy_layout),
    "layout: recursion": (LAYOUT, recursive_layout),
    "layout: lists for pairs": (LAYOUT, lambda *a: [[*pair] for pair in history_layout(*a)]),
    "history": (HISTORY, history_with()),
    "history: slices": (HISTORY, by_slices),
    "history: larger blocks in float64": (HISTORY, in_one_go),
    "history: area interpolation": (
        HISTORY, history_with(shrink=lambda x, n: torch.nn.functional.interpolate(x, size=(x.shape[2] >> n, x.shape[3] >> n), mode="area"))
    ),
    "corrupt": (CORRUPT, corrupt_with(noise=lambda c, g: torch.randn(c.shape, generator=g, dtype=c.dtype))),
    "corrupt: rows": (CORRUPT, corrupt_by_rows),
    "corrupt: einsum": (CORRUPT, corrupt_by_einsum),
    "corrupt: clip + sigma (noise - clip)": (CORRUPT, drawn_with(lambda clips, g: [randn_like(c, g) for c in clips])),
    "mask: loops": (MASK, mask_by_loops),
    "mask: not younger": (MASK, lambda ids: ~(ids[:, None] < ids[None, :])),
    "mask: einops": (MASK, lambda ids: rearrange(ids, "i -> i 1") >= rearrange(ids, "j -> 1 j")),
    "mask: torch.where": (MASK, lambda ids: torch.where(torch.sub(*torch.meshgrid(ids, ids, indexing="ij")) < 0, False, True)),
    "grid: edges": (GRID, lambda n, n_ref: torch.linspace(-0.5, n_ref - 0.5, n + 1).unfold(0, 2, 1).mean(1)),
    "grid: from middle to middle": (GRID, lambda n, n_ref: torch.linspace(n_ref / n / 2 - 0.5, n_ref - n_ref / n / 2 - 0.5, n)),
    "grid: a list": (GRID, lambda n, n_ref: torch.tensor([(2 * j + 1) * n_ref / n / 2 - 1 / 2 for j in range(n)], dtype=torch.float64)),
    "tokens: shifts": (TOKENS, lambda layout, k, full: (count_tokens(layout, k, full), sum(n * (full >> 2 * (k - 1 - i)) for n, i in layout))[1]),
    "flops": (FLOPS, lambda n, d, depth=1: 4 * depth * n * d * (6 * d + n)),
    "bill": (BILL, flops_with()),
    "bill: other blocks": (BILL, bill_with()),
    "bill: by hand": (BILL, bill_by_hand),
    "bill: a difference": (BILL, bill_from_the_end),
    "loss": (LOSS, loss_with()),
    "loss: sample by sample": (LOSS, loss_by_sample),
    "loss: the last stage first": (LOSS, loss_from_the_end),
    "rollout": (ROLLOUT, rollout_with()),
    "rollout: by hand": (ROLLOUT, rollout_by_hand),
    "rollout: every question twice": (ROLLOUT, asked_otherwise(twice=True)),
    "rollout: unconditional twice": (ROLLOUT, seeing(rollout, unconditional=lambda net, a: net and over_again(net))),
    "bill: numpy's integer": (BILL, then(video_flops, np.int64)),
    "tokens: torch's integer": (TOKENS, then(count_tokens, torch.tensor)),
    "rollout: torch's lerp": (ROLLOUT, rollout_with(mixed=lambda a, b, w: torch.lerp(b, a, w))),
    "rollout: clips in a tuple": (ROLLOUT, rollout_with(past=lambda x, i, k: tuple(history(x, i, k)))),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name, unchecked_shapes):
    check, right = RIGHT[name]
    check(right)


# numbers of the released code


@pytest.mark.parametrize("frames", GOLDEN["history_layout"])
def test_golden_layouts(frames):
    for stage, theirs in enumerate(GOLDEN["history_layout"][frames]):
        ours = [[count, 4 * 2**level] for count, level in history_layout(int(frames), stage, 3)]
        assert ours == theirs


def test_golden_tokens_and_positions():
    golden = GOLDEN["tokens"]
    for k, wanted in ((3, golden["pyramid"]), (1, golden["full_sequence"])):
        layout = history_layout(golden["frames"], k - 1, k)
        assert count_tokens(layout, k, golden["full"]) == wanted
    for name, wanted in GOLDEN["positions"].items():
        n_ref, n = map(int, name.split(" to "))
        assert grid_positions(n, n_ref).tolist() == wanted


@pytest.mark.parametrize("frames, k, spatial, plain, temporal, both", GOLDEN["cost"])
def test_golden_costs(frames, k, spatial, plain, temporal, both):
    """Of one step in each stage, relative to all frames in one sequence."""
    full, dim = 3840, 1920
    whole = forward_flops(frames * full, dim)
    assert sum(forward_flops(frames * full // 4**j, dim) for j in range(k)) / k / whole == pytest.approx(
        spatial, rel=4e-3
    )
    assert video_flops(frames, [1], full, dim) / whole == pytest.approx(plain, rel=4e-3)
    last = [0] * (k - 1) + [1]
    assert video_flops(frames, last, full, dim) / whole == pytest.approx(temporal, rel=4e-3)
    assert video_flops(frames, [1] * k, full, dim) / k / whole == pytest.approx(both, rel=4e-3)


# the network


def network(dim=16, depth=2):
    """A DiT whose gates are open: a fresh one returns 0."""
    torch.manual_seed(0)
    net = DiT(patch=2, dim=dim, depth=depth, heads=2, classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net.double()


VIDEO = checks.images(4, 5, 1, 8, 8, seed=3)
T = torch.tensor([0.9, 0.5, 0.3, 0.1], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2, 3])


def test_tokens_by_hand():
    """Patches, places on the image's grid, and ages, for frames that are not square."""
    net = network()
    z, past = checks.images(2, 1, 8, 12, seed=4), checks.images(2, 4, 1, 8, 12, seed=5)
    seen = history(past, 1, 2)
    frames = [frame for clip in (*seen, z[:, None]) for frame in clip.unbind(1)]
    rows = []
    for age, frame in zip(range(len(frames) - 1, -1, -1), frames):
        width = z.shape[-1] / frame.shape[-1]
        code = sines(torch.tensor(age / 64, dtype=torch.float64), 16, top=64.0) if age else 0
        for i in range(frame.shape[2] // 2):
            for j in range(frame.shape[3] // 2):
                pixels = net.patches(frame[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1))
                middle = (torch.tensor([i, j], dtype=torch.float64) + 0.5) * width - 0.5
                rows.append(pixels + sines(middle / 64, 8, top=64.0).flatten() + code)
    torch.testing.assert_close(net.sequence(z, seen)[0], torch.stack(rows, 1), rtol=1e-12, atol=1e-12)


def test_the_answer_is_that_of_the_image():
    net, seen = network(depth=0), history(VIDEO[:, :4], 1, 2)  # without blocks no frame knows of another
    z = VIDEO[:, 4]
    torch.testing.assert_close(
        net(z, T, label=LABEL, history=seen), net(z, T, label=LABEL), rtol=1e-12, atol=0
    )


def test_every_frame_of_the_history_counts():
    net, seen = network(), history(VIDEO[:, :4], 1, 2)
    plain = net(VIDEO[:, 4], T, label=LABEL, history=seen)
    for j, clip in enumerate(seen):
        for k in range(clip.shape[1]):
            changed = [c.clone() for c in seen]
            changed[j][:, k] += 0.1
            assert (net(VIDEO[:, 4], T, label=LABEL, history=changed) - plain).abs().max() > 1e-6


def test_no_token_depends_on_a_newer_frame():
    net, seen = network(), history(VIDEO[:, :4], 1, 2)
    x, ids = net.sequence(VIDEO[:, 4], seen)
    c, mask = net.condition(T, LABEL), block_causal_mask(ids)
    assert ids.tolist() == [i for i, n in enumerate((4, 4, 4, 16, 16)) for _ in range(n)]
    before = net.body(x, c, mask)[0]
    for frame in range(5):
        changed = torch.where((ids == frame)[:, None], x + x.sin(), x)
        moved = (net.body(changed, c, mask)[0] - before).abs().amax((0, 2)) > 1e-9
        assert torch.equal(moved, ids >= frame)


def test_videos_and_images_packed():
    """Images and videos of several lengths and sizes, in one sequence or apart."""
    net, found = network(), stages([0, 0.5, 1])
    noise = checks.images(8, 1, 8, 8, seed=1)
    x = torch.cat([VIDEO, VIDEO.flip(0)])
    u = torch.linspace(0.1, 1, 8, dtype=torch.float64)
    frames, label = [1, 3, 1, 5, 5, 1, 2, 3], torch.arange(8) % 4
    sigma = torch.linspace(0, 0.3, 8, dtype=torch.float64)
    draw = lambda packed, s: video_loss(
        net, x, noise, u, frames, found, s, torch.Generator().manual_seed(0), packed=packed, label=label
    )
    for s in (None, sigma):
        apart, together = draw(False, s), draw(True, s)
        torch.testing.assert_close(apart, together, rtol=1e-10, atol=1e-12)
    bare = [video_loss(net, x, noise, u, frames, found, packed=packed) for packed in (False, True)]
    torch.testing.assert_close(*bare, rtol=1e-10, atol=1e-12)
    grads = []
    for packed in (False, True):
        net.zero_grad()
        draw(packed, sigma).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)


def test_images_alone_are_the_loss_of_the_pyramid():
    net, found, u = network(), stages([0, 0.5, 1]), T
    noise = checks.images(4, 1, 8, 8, seed=1)
    ours = video_loss(net, VIDEO, noise, u, [1] * 4, found, label=LABEL)
    torch.testing.assert_close(
        ours, pyramid_loss(net, VIDEO[:, 0], noise, u, found, label=LABEL), rtol=1e-12, atol=0
    )


def test_rollout_of_the_network():
    net, found = network(), stages([0, 0.5, 1])
    noise = checks.images(4, 5, 1, 8, 8, seed=8)
    made = rollout(lambda z, t, history: net(z, t, label=LABEL, history=history), noise, found, 2, VIDEO[:, :2],
                   generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert made.shape == VIDEO.shape and made.dtype == torch.float64 and made.isfinite().all()
    assert torch.equal(made[:, :2], VIDEO[:, :2])


@pytest.mark.parametrize("frames", [1, 4])
def test_the_flops_are_those_of_the_network(frames):
    """Measured, less what is not in the blocks: patches in and out, time, modulation of one vector."""
    dim, depth = 16, 3
    net = network(dim, depth).float()
    past = history(VIDEO[:1, : frames - 1].float(), 1, 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(VIDEO[:1, 4].float(), T[:1].float(), history=past)
    tokens = count_tokens(history_layout(frames, 1, 2), 2, 16)
    outside = 2 * 4 * dim * (tokens + 16) + 2 * (2 * dim**2 + 6 * depth * dim**2 + 2 * dim**2)
    assert counter.get_total_flops() - outside == forward_flops(tokens, dim, depth)


def test_lengths_may_be_a_tensor():
    net, found, noise = network(), stages([0, 0.5, 1]), checks.images(4, 1, 8, 8, seed=1)
    lists, tensor = (
        video_loss(net, VIDEO, noise, T, f, found) for f in ([2, 3, 3, 3], torch.tensor([2, 3, 3, 3]))
    )
    assert torch.equal(lists, tensor)


FOUND = stages([0, 0.5, 1])
still = lambda z, t, history: 0 * z
BAD = {
    "a stage of none": (lambda: history_layout(2, 0, 0), "n_stages must be at least 1"),
    "a level that does not exist": (lambda: count_tokens([(1, 5)], 3, 64), "a level must be from 0 to 2"),
    "an empty group": (lambda: count_tokens([(0, 1)], 3, 64), "a count must be at least 1"),
    "more given than frames": (lambda: video_flops(3, [1], 16, 8, given=4), "given must be from 0 to 3, the number of frames"),
    "no frames to make": (lambda: video_flops(0, [1], 16, 8), "frames must be at least 1"),
    "sigma of 1": (lambda: corrupt([VIDEO], torch.ones(4)), "sigma must be at least 0 and below 1"),
    "one sigma for four": (lambda: corrupt([VIDEO], torch.zeros(1)), "sigma must be a float tensor .4,., one for each sample"),
    "frames of three channels": (lambda: network()(VIDEO[:, 0], T, label=LABEL, history=[VIDEO[:, :1].repeat(1, 1, 3, 1, 1)]), "1 channels"),
    "frames of odd width": (lambda: network()(VIDEO[:, 0], T, label=LABEL, history=[VIDEO[:, :1, :, :, :7]]), "divisible by 2"),
    "a frame for a clip": (lambda: network()(VIDEO[:, 0], T, label=LABEL, history=[VIDEO[:, 0]]), "history of clips"),
    "a clip for a history": (lambda: network()(VIDEO[:, 0], T, label=LABEL, history=VIDEO), "history of clips"),
    "another's history": (lambda: network()(VIDEO[:, 0], T, label=LABEL, history=[VIDEO[:2]]), "history of clips"),
    "lengths that are no numbers": (lambda: video_loss(still, VIDEO, VIDEO[:, 0], T, [1.5] * 4, FOUND), "frames must be a whole number"),
    "one length": (lambda: video_loss(still, VIDEO, VIDEO[:, 0], T, 3, FOUND), "number of frames to use"),
    "noise for more videos": (lambda: video_loss(still, VIDEO, torch.cat([VIDEO[:, 0]] * 2), T, [1] * 4, FOUND), "noise for one frame each"),
    "noise for more images": (lambda: pyramid_loss(still, VIDEO[:, 0], torch.cat([VIDEO[:, 0]] * 2), T, FOUND), "one shape"),
    "no frames": (lambda: rollout(still, VIDEO[:, :0], FOUND, 1), "at least one sample"),
    "given of another dtype": (lambda: rollout(still, VIDEO, FOUND, 1, VIDEO[:, :1].float()), "dtype"),
    "given images": (lambda: rollout(still, VIDEO, FOUND, 1, VIDEO[:, 0]), "do not fit"),
    "three scales": (lambda: rollout(still, VIDEO, FOUND, 1, guidance=(1, 1, 1)), "two scales"),
    "one scale": (lambda: rollout(still, VIDEO, FOUND, 1, guidance=2.0), "two scales"),
    "steps for three stages": (lambda: rollout(still, VIDEO, FOUND, [1, 1, 1], VIDEO), "numbers of steps: 2 are needed"),
    "first steps for one stage": (lambda: rollout(still, VIDEO, FOUND, 1, VIDEO[:, :1], [1]), "numbers of steps: 2 are needed"),
    "lists of unequal length": (lambda: network().packed([VIDEO[:, 0]], [T, T]), "longer"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, unchecked_shapes):
    call, sentence = BAD[name]
    with pytest.raises(ValueError, match=sentence):
        call()


# the trained models that the lesson uses

CHECKPOINTS = Path(__file__).parents[1] / "notebooks" / "checkpoints"


def reported(data, model, given):
    """A row of the table that the command printed."""
    with open(CHECKPOINTS / f"{data}.csv", newline="") as file:
        return next(r for r in csv.DictReader(file) if (r["model"], r["given"]) == (model, str(given)))


def again(data, model, given):
    """The errors of the same videos, made anew."""
    _, _, x, y = job.videos(data, n=1)
    net = job.network()
    load(CHECKPOINTS / f"{data}-{model.replace(' ', '-')}.pt", {"ema": net})
    videos = job.sample(net, model, y, x[:, :given])
    error = job.centre_errors(videos, x).mean(0)
    return error[given].item(), error[-1].item(), (videos[:, given] - x[:, given]).square().mean().item()


def check_reported(data, model, given):
    row = reported(data, model, given)
    found = again(data, model, given)
    assert found == pytest.approx([float(row[name]) for name in ("next", "last", "square")], rel=0.02)
    return float(row["next"]), float(reported(data, "copy of the last", given)["next"])


def test_the_ball_is_where_the_table_says():
    error, copy = check_reported("ball", "pyramid", 4)
    assert error < 0.6 and error < copy / 2
    full = reported("ball", "full size", 4)
    assert error <= float(full["next"])  # after as many training FLOPs
    assert float(full["mflop"]) > 3 * float(reported("ball", "pyramid", 4)["mflop"])


def test_after_as_many_updates_full_size_is_better():
    """What README and lesson say from the two tables: equal FLOPs are the pyramid's case, equal updates are not."""
    pyramid, full = (reported("ball-equal-updates", model, 4) for model in ("pyramid", "full size"))
    assert float(full["next"]) < float(pyramid["next"]) - 3 * float(pyramid["next_se"])
    assert float(reported("ball", "full size", 4)["next"]) > float(reported("ball", "pyramid", 4)["next"])


def test_moving_digits_are_where_the_table_says():
    error, copy = check_reported("moving_digits", "pyramid", 4)
    assert error < copy
    row, still = reported("moving_digits", "pyramid", 4), reported("moving_digits", "copy of the last", 4)
    assert float(row["square"]) < float(still["square"])


@pytest.mark.slow
def test_the_rest_of_the_table():
    for model, given in (("pyramid", 1), ("full size", 4), ("full size", 1)):
        check_reported("ball", model, given)


def test_checkpoints_are_small():
    assert all(path.stat().st_size < 3e6 for path in CHECKPOINTS.iterdir())
