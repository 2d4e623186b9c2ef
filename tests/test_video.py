"""The pyramid in time: the checks on our code, on every mistake of the list, golden numbers, and the network.

The numbers are those of the list of mistakes, 30 to 38.
"""

import csv
import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.utils.flop_counter import FlopCounterMode

from minidistill.checks import video as checks
from minidistill.dit import DiT, sines
from minidistill.jobs import video as job
from minidistill.pyramid import (
    at_level,
    network_time,
    pyramid_loss,
    pyramid_sample,
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
        found = []
        for j, clip in enumerate(clips):
            s = each(sigma, j)
            found.append(like(keep(s), clip) * clip + like(scale(s), clip) * noise(clip, generator))
        return found

    return wrong


def flops_with(layout=history_layout, first=0, stage=lambda i, k: i, last_only=False):
    def wrong(frames, steps, full, dim, depth=1, given=0):
        k, total = len(steps), 0
        for f in range((frames - 1 if last_only else given) + 1, frames + 1):
            for i, n in enumerate(steps):
                seen = layout(f, stage(i, k), k)[first:]
                total += n * forward_flops(count_tokens(seen, k, full) if seen else 0, dim, depth)
        return total

    return wrong


def loss_with(
    predicted=lambda f: f - 1, before=lambda f: f - 1, blur=corrupt, past=history, always=None, ordered=True,
    image=lambda end, sigma, generator: end,
):  # fmt: skip
    def wrong(
        velocity, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more
    ):
        right = lambda z, t, history, **_: 0 * z
        video_loss(right, x, noise, u, frames, stages, sigma, torch.Generator(), shares, **more)  # refusals
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
                answer = velocity(z, network_time(u[index], stages[i]), history=clips, **given)
                losses.append((answer - (start - end)).square().mean((1, 2, 3)))
                order += index
        losses = torch.cat(losses)
        return losses[torch.tensor(order).argsort()] if ordered else losses

    return wrong


def corrupted_first(
    velocity, x, noise, u, frames, stages, sigma=None, generator=None, shares=None, packed=False, **more
):
    """Every frame is corrupted at full size, and the noise of the small ones is averaged away."""
    if sigma is not None:
        video_loss(
            lambda z, t, history, **_: 0 * z,
            x,
            noise,
            u,
            frames,
            stages,
            sigma,
            torch.Generator(),
            shares,
            **more,
        )
        mixed = corrupt([x], sigma, generator)[0]
        for j, f in enumerate(frames):
            mixed[j, f - 1] = x[j, f - 1]
        x = mixed
    return video_loss(velocity, x, noise, u, frames, stages, None, None, shares, **more)


def rollout_with(
    past=history, scale=lambda first, k: k > 0, blur=None, append=True, same=False, remember=False, once=False,
    twice=False, keep=lambda frames, memory: frames[-(memory or 0):], sample=pyramid_sample, blind=False,
    early=lambda first, k, n: first, named=True, other=lambda clips: clips, short=True,
):  # fmt: skip
    """scale: which of the two scales. remember: the history of the first frame made is used for all. early:
    which frames take first_steps. named: the history is given by its name. other: what the unconditional
    network sees. short: memory at all stages."""

    def wrong(velocity, noise, stages, steps, given=None, first_steps=None, unconditional=None,
              guidance=(1.0, 1.0), memory=None, jumps=None, generator=None):  # fmt: skip
        right = lambda z, t, history: 0 * z
        rollout(
            right, noise, stages, steps, given, first_steps, unconditional and right, guidance, memory, jumps
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
            bare = lambda z, t, velocity: (
                velocity(z, t, history=sees[z.shape[-1]]) if named else velocity(z, t, sees[z.shape[-1]])
            )

            def asked(z, t, w=w, sees=sees):
                if w == 1 and not twice:
                    return bare(z, t, velocity)
                if unconditional is None:
                    return bare(z, t, velocity)
                away = unconditional(z, t, history=[] if blind else other(sees[z.shape[-1]]))
                return away + w * (bare(z, t, velocity) - away)

            n = first_steps if (early(first, k, len(frames)) and first_steps is not None) else steps
            z = noise[:, 0 if same else len(frames)]
            fresh = (
                torch.Generator().manual_seed(generator.initial_seed()) if once and generator else generator
            )
            frames.append(sample(asked, z, stages, n, None if jumps is None else jumps[k], fresh))
        return torch.stack(frames, 1)

    return wrong


MISTAKES = {
    "M30: newest first": (checks.check_history_layout, layout_with(reverse=True)),
    "M30: newest first, in the clips": (checks.check_history, history_with(order=lambda x: x.flip(1))),
    "M30: newest first, in the roll-out": (
        checks.check_rollout, rollout_with(past=lambda x, i, k: history(x.flip(1), i, k))
    ),
    "M31: all at the stage's resolution": (checks.check_history_layout, layout_with(full=True)),
    "M31: all at the stage's resolution, in the clips": (
        checks.check_history, lambda past, i, k: history(past, i, k) and [at_level(past.flatten(0, 1), k - 1 - i).unflatten(0, past.shape[:2])]
    ),
    "M31: all at full resolution, in the roll-out": (
        checks.check_rollout, rollout_with(past=lambda x, i, k: [x] if x.shape[1] else [])
    ),
    "M32: two frames at full resolution": (checks.check_history_layout, layout_with(newest=1)),
    "M33: the oldest is dropped": (checks.check_history_layout, layout_with(drop=1)),
    "M33: the oldest is dropped, in the roll-out": (
        checks.check_rollout, rollout_with(past=lambda x, i, k: history(x[:, 1:], i, k))
    ),
    "M33: only as many as there are sizes": (
        checks.check_history_layout, lambda f, i, k: history_layout(f, i, k)[-k - 1 :] if f > 1 else history_layout(f, i, k)
    ),
    "the newest a size smaller": (checks.check_history_layout, layout_with(skip=1)),
    "without the frame that is made": (
        checks.check_history_layout, lambda frames, i, k: history_layout(frames, i, k)[:-1]
    ),
    "levels below 0": (checks.check_history_layout, layout_with(floor=-5)),
    "the last two in one group": (
        checks.check_history_layout, lambda f, i, k: history_layout(f, i, k) if f == 1 else [*history_layout(f, i, k)[:-2], (2, i)]
    ),
    "every frame a group": (
        checks.check_history_layout, lambda f, i, k: [(1, a) for n, a in history_layout(f, i, k) for _ in range(n)]
    ),
    "frames before it, not counting itself": (
        checks.check_history_layout, lambda f, i, k: (history_layout(f, i, k), history_layout(f + 1, i, k))[1]
    ),
    "a stage that does not exist": (
        checks.check_history_layout, lambda f, i, k: history_layout(max(f, 1), min(max(i, 0), k - 1), k)
    ),
    "clips by subsampling": (checks.check_history, history_with(shrink=every_second)),
    "clips with the noise's factor": (checks.check_history, history_with(shrink=lambda x, n: at_level(x, n, 2.0))),
    "clips that can be read once": (checks.check_history, lambda past, i, k: (c.flip(1) + 1 for c in history(past, i, k))),
    "odd heights lose a row": (
        checks.check_history, lambda past, i, k: history(past[..., : past.shape[3] // 2 ** (k - 1) * 2 ** (k - 1), :], i, k)
    ),
    "levels counted from the finest": (checks.check_history, history_with(level=lambda i, k: i)),
    "M34: causal by token": (
        checks.check_block_causal_mask, lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    ),
    "M35: a frame blind to itself": (
        checks.check_block_causal_mask, lambda ids: ids[:, None] > ids[None, :]
    ),
    "M35: a token sees itself and older frames": (
        checks.check_block_causal_mask, lambda ids: (ids[:, None] > ids[None, :]) | torch.eye(len(ids), dtype=torch.bool)
    ),
    "M36: transposed": (checks.check_block_causal_mask, lambda ids: ids[:, None] <= ids[None, :]),
    "a mask of what is hidden": (checks.check_block_causal_mask, lambda ids: ids[:, None] < ids[None, :]),
    "a mask to be added": (
        checks.check_block_causal_mask, lambda ids: torch.where(block_causal_mask(ids), 0.0, -torch.inf)
    ),
    "everyone sees everyone": (
        checks.check_block_causal_mask, lambda ids: torch.ones(len(ids), len(ids), dtype=torch.bool)
    ),
    "M37: the first of each": (checks.check_grid_positions, lambda n, n_ref: torch.arange(n) * n_ref / n),
    "M38: its own numbers": (checks.check_grid_positions, lambda n, n_ref: torch.arange(n).float()),
    "from end to end": (checks.check_grid_positions, lambda n, n_ref: torch.linspace(0, n_ref - 1, n)),
    "half a cell off": (checks.check_grid_positions, lambda n, n_ref: (torch.arange(n) + 0.5) * n_ref / n),
    "a side's half per level": (
        checks.check_count_tokens, lambda layout, k, full: (count_tokens(layout, k, full), sum(n * full // 2 ** (k - 1 - i) for n, i in layout))[1]
    ),
    "levels of the tokens from the finest": (
        checks.check_count_tokens, lambda layout, k, full: (count_tokens(layout, k, full), sum(n * full // 4**i for n, i in layout))[1]
    ),
    "the frame that is made not counted": (
        checks.check_count_tokens, lambda layout, k, full: count_tokens(layout[:-1], k, full)
    ),
    "quarters that are no whole tokens": (
        checks.check_count_tokens, lambda layout, k, full: sum(n * full // 4 ** (k - 1 - i) for n, i in layout)
    ),
    "multiply-adds for operations": (
        checks.check_forward_flops, lambda n, d, depth=1: depth * (12 * n * d**2 + 2 * n**2 * d)
    ),
    "no attention": (checks.check_forward_flops, lambda n, d, depth=1: depth * 24 * n * d**2),
    "the MLP's matrices only": (
        checks.check_forward_flops, lambda n, d, depth=1: depth * (16 * n * d**2 + 4 * n**2 * d)
    ),
    "the past costs nothing": (checks.check_video_flops, flops_with(first=-1)),
    "every stage as dear as the last": (checks.check_video_flops, flops_with(stage=lambda i, k: k - 1)),
    "every stage as cheap as the first": (checks.check_video_flops, flops_with(stage=lambda i, k: 0)),
    "the last frame only": (checks.check_video_flops, flops_with(last_only=True)),
    "given frames are made": (
        checks.check_video_flops, lambda f, steps, full, d, depth=1, given=0: video_flops(f, steps, full, d, depth)
    ),
    "given frames are not seen": (
        checks.check_video_flops, lambda f, steps, full, d, depth=1, given=0: video_flops(f - given, steps, full, d, depth)
    ),
    "the clip keeps its size": (checks.check_corrupt, corrupt_with(keep=lambda s: torch.ones_like(s))),
    "variance preserving": (checks.check_corrupt, corrupt_with(keep=lambda s: (1 - s**2).sqrt())),
    "the noise in full": (checks.check_corrupt, corrupt_with(scale=lambda s: torch.ones_like(s))),
    "the root of sigma": (checks.check_corrupt, corrupt_with(scale=lambda s: s.sqrt())),
    "one noise for all frames": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: randn_like(c[:, :1], g).expand_as(c))
    ),
    "one noise for all samples": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: randn_like(c[:1], g).expand_as(c))
    ),
    "uniform noise": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: torch.rand(c.shape, generator=g, dtype=c.dtype))
    ),
    "a number per frame": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: randn_like(c[..., :1, :1], g).expand_as(c))
    ),
    "the newest clip stays clean": (
        checks.check_corrupt, corrupt_with(each=lambda s, j: s * (j == 0))
    ),
    "uniform noise of variance 1": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: 12**0.5 * (torch.rand(c.shape, generator=g, dtype=c.dtype) - 0.5))
    ),
    "the first clip only": (checks.check_corrupt, lambda clips, s, g=None: corrupt(clips[:1], s, g)),
    "one noise for all channels": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: randn_like(c[:, :, :1], g).expand_as(c))
    ),
    "a tenth more noise": (checks.check_corrupt, corrupt_with(scale=lambda s: 1.1 * s)),
    "noise that is smooth": (
        checks.check_corrupt, corrupt_with(noise=lambda c, g: (lambda n: (n + n.roll(1, -1)) / 2**0.5)(randn_like(c, g)))
    ),
    "sigma's dtype": (
        checks.check_corrupt, lambda clips, s, g=None: [c.to(s.dtype) for c in corrupt([c.to(s.dtype) for c in clips], s, g)]
    ),
    "the generator ignored": (checks.check_corrupt, corrupt_with(noise=lambda c, g: torch.randn_like(c))),
    "the first frame is predicted": (checks.check_video_loss, loss_with(predicted=lambda f: 0)),
    "the last frame of all is predicted": (checks.check_video_loss, loss_with(predicted=lambda f: -1)),
    "the predicted frame is in the history": (checks.check_video_loss, loss_with(before=lambda f: f)),
    "the newest frame is not": (checks.check_video_loss, loss_with(before=lambda f: max(f - 2, 0))),
    "a history for images": (
        checks.check_video_loss, loss_with(past=lambda x, i, k: history(x, i, k) or [0 * x.new_ones(len(x), 1, 1, 2, 2)])
    ),
    "the past of the last stage for all": (
        checks.check_video_loss, loss_with(past=lambda x, i, k: history(x, k - 1, k))
    ),
    "corruption without being asked": (checks.check_video_loss, loss_with(always=0.1)),
    "sigma not used": (checks.check_video_loss, loss_with(blur=lambda clips, s, g: clips)),
    "the newest frame is not corrupted": (
        checks.check_video_loss, loss_with(blur=lambda clips, s, g: [*corrupt(clips[:-1], s, g), *clips[-1:]])
    ),
    "the predicted frame is corrupted too": (
        checks.check_video_loss, loss_with(image=lambda z, s, g: like(1 - s, z) * z + like(s, z) * randn_like(z, g))
    ),
    "the largest sigma for all": (
        checks.check_video_loss, loss_with(blur=lambda clips, s, g: corrupt(clips, s.max().expand_as(s), g))
    ),
    "another sample's sigma": (checks.check_video_loss, loss_with(blur=lambda clips, s, g: corrupt(clips, s.flip(0), g))),
    "twice the noise": (
        checks.check_video_loss, loss_with(blur=lambda clips, s, g: corrupt_with(scale=lambda s: 2 * s)(clips, s, g))
    ),
    "uniform noise in the past": (
        checks.check_video_loss,
        loss_with(blur=corrupt_with(noise=lambda c, g: torch.rand(c.shape, generator=g, dtype=c.dtype))),
    ),
    "a number for each frame of the past": (
        checks.check_video_loss, loss_with(blur=corrupt_with(noise=lambda c, g: randn_like(c[..., :1, :1], g).expand_as(c)))
    ),
    "one noise for the samples of a pass": (
        checks.check_video_loss, loss_with(blur=corrupt_with(noise=lambda c, g: randn_like(c[:1], g).expand_as(c)))
    ),
    "the same noise in every pass": (
        checks.check_video_loss,
        loss_with(blur=lambda clips, s, g: corrupt(clips, s, torch.Generator().manual_seed(g.initial_seed()) if g else None)),
    ),
    "corrupted first, then halved": (checks.check_video_loss, corrupted_first),
    "without a gradient": (checks.check_video_loss, torch.no_grad()(video_loss)),
    "the first channel of the past": (
        checks.check_video_loss, loss_with(past=lambda x, i, k: [c[:, :, :1] for c in history(x, i, k)])
    ),
    "losses in the order of the passes": (checks.check_video_loss, loss_with(ordered=False)),
    "corruption at inference": (
        checks.check_rollout, rollout_with(blur=lambda clips: [c + 0.05 * torch.randn_like(c) for c in clips])
    ),
    "the first frame's guidance for all": (checks.check_rollout, rollout_with(scale=lambda first, k: 0)),
    "the others' guidance for the first": (checks.check_rollout, rollout_with(scale=lambda first, k: 1)),
    "guidance at scale 1": (checks.check_rollout, rollout_with(twice=True)),
    "unconditional without the history": (checks.check_rollout, rollout_with(blind=True)),
    "the frames that are made are not appended": (checks.check_rollout, rollout_with(append=False)),
    "small sizes of the history not made again": (checks.check_rollout, rollout_with(remember=True)),
    "one noise for all frames of the video": (checks.check_rollout, rollout_with(same=True)),
    "the same jumps in every frame": (checks.check_rollout, rollout_with(once=True)),
    "memory from the wrong end": (
        checks.check_rollout, rollout_with(keep=lambda frames, memory: frames[: memory or len(frames)])
    ),
    "memory beyond the beginning": (
        checks.check_rollout, rollout_with(keep=lambda frames, memory: frames[len(frames) - (memory or len(frames)) :])
    ),
    "first_steps after given frames": (checks.check_rollout, rollout_with(early=lambda first, k, n: k == 0)),
    "the history without its name": (checks.check_rollout, rollout_with(named=False)),
    "memory ignored": (checks.check_rollout, rollout_with(keep=lambda frames, memory: frames)),
    "only the newest frame": (checks.check_rollout, rollout_with(keep=lambda frames, memory: frames[-1:])),
    "one given frame is not a past": (
        checks.check_rollout, rollout_with(scale=lambda first, k: k > 1)
    ),
    "first_steps after one given frame": (
        checks.check_rollout, rollout_with(early=lambda first, k, n: n < 2)
    ),
    "the unconditional sees black": (checks.check_rollout, rollout_with(other=lambda clips: [0 * c for c in clips])),
    "the unconditional sees the past backwards": (
        checks.check_rollout, rollout_with(other=lambda clips: [c.flip(1) for c in clips][::-1])
    ),
    "memory at the last stage only": (checks.check_rollout, rollout_with(short=False)),
    "the first channel of the history": (
        checks.check_rollout, rollout_with(past=lambda x, i, k: [c[:, :, :1] for c in history(x, i, k)])
    ),
    "the frame of the past as the start": (
        checks.check_rollout, rollout_with(sample=lambda v, z, *rest: pyramid_sample(v, 0.9 * z, *rest))
    ),
    "clamped frames": (
        checks.check_rollout, rollout_with(sample=lambda *all: pyramid_sample(*all).clamp(-1, 1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_caught(mistake, unchecked_shapes):
    check, wrong = MISTAKES[mistake]
    with pytest.raises(AssertionError):
        check(wrong)


CONTROLS = {
    "layout": (checks.check_history_layout, layout_with()),
    "history": (checks.check_history, history_with()),
    "corrupt": (checks.check_corrupt, corrupt_with()),
    "flops": (checks.check_video_flops, flops_with()),
    "loss": (checks.check_video_loss, loss_with()),
    "rollout": (checks.check_rollout, rollout_with()),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_harness_is_not_what_is_caught(name, unchecked_shapes):
    check, right = CONTROLS[name]
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
    torch.testing.assert_close(net(z, T, LABEL, seen), net(z, T, LABEL), rtol=1e-12, atol=0)


def test_every_frame_of_the_history_counts():
    net, seen = network(), history(VIDEO[:, :4], 1, 2)
    plain = net(VIDEO[:, 4], T, LABEL, seen)
    for j, clip in enumerate(seen):
        for k in range(clip.shape[1]):
            changed = [c.clone() for c in seen]
            changed[j][:, k] += 0.1
            assert (net(VIDEO[:, 4], T, LABEL, changed) - plain).abs().max() > 1e-6


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
    made = rollout(lambda z, t, history: net(z, t, LABEL, history), noise, found, 2, VIDEO[:, :2],
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
        net(VIDEO[:1, 4].float(), T[:1].float(), None, past)
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
    "frames of three channels": (lambda: network()(VIDEO[:, 0], T, LABEL, [VIDEO[:, :1].repeat(1, 1, 3, 1, 1)]), "1 channels"),
    "frames of odd width": (lambda: network()(VIDEO[:, 0], T, LABEL, [VIDEO[:, :1, :, :, :7]]), "divisible by 2"),
    "a frame for a clip": (lambda: network()(VIDEO[:, 0], T, LABEL, [VIDEO[:, 0]]), "history of clips"),
    "a clip for a history": (lambda: network()(VIDEO[:, 0], T, LABEL, VIDEO), "history of clips"),
    "another's history": (lambda: network()(VIDEO[:, 0], T, LABEL, [VIDEO[:2]]), "history of clips"),
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
