"""Checks of the pyramid in time: which frames are seen and how large, who looks at whom, and the roll-out.

Two models are known exactly. One is a plain function of everything that it is shown, so that a roll-out can
be written down by hand. The other is certain that the next frame is the newest of its history: whatever the
noise, the cuts and the number of steps, each frame that it makes must be a copy of the last one given.

An answer that is wrong is compared with likely mistakes, and the hint is the sentence of the one it agrees
with. Heights and widths differ, and the smallest frames have a side of 1 or 3 pixels.
"""

from collections.abc import Callable, Iterable
from itertools import groupby, product

import torch

from minidistill import pyramid, video
from minidistill.checks import accepts, close, close_in_float32, column, exact, one_bad, recorded, refuses
from minidistill.checks.pyramid import CUTS, DOUBLE, doubled, halved, images


def agrees(found, other, tol: float = 1e-9) -> bool:
    """Whether two answers are the same: tensors to rounding, lists entry by entry, numbers."""
    if isinstance(other, torch.Tensor):
        tol = tol if getattr(found, "dtype", DOUBLE) == DOUBLE else 1e-5
        same = isinstance(found, torch.Tensor) and found.shape == other.shape
        return same and torch.allclose(found.double(), other.double(), atol=tol, rtol=tol)
    if isinstance(other, (list, tuple)):
        alike = isinstance(found, (list, tuple)) and len(found) == len(other)
        return alike and all(agrees(a, b, tol) for a, b in zip(found, other))
    return found == other


def named(found, likely: Iterable[tuple], otherwise: str, right=None) -> str:
    """The sentence of the likely mistake that `found` agrees with."""
    if right is not None and agrees(found, right, 1e-5):
        return "It is nearly right: where are digits lost, as in float32?"
    return next((sentence for wrong, sentence in likely if agrees(found, wrong)), otherwise)


def seeded(seed: int) -> torch.Generator:
    """A generator that starts there."""
    return torch.Generator().manual_seed(seed)


def instead(clips: list, past: torch.Tensor, i: int, k: int, *likely: tuple) -> str:
    """What the clips are in the place of history(past, i, k); the likely mistakes given come first."""
    small = lambda some, i=i: video.history(some, i, k)
    wanted = small(past)
    likely = (
        ([], "It is empty: the network is told the past."),
        *likely,
        (small(past.flip(1)), "It is newest first: it must be oldest first."),
        ([c.flip(1) for c in wanted[::-1]], "It is newest first: it must be oldest first."),
        (small(past[:, :-1]), "The newest frame of the past is missing."),
        (small(past[:, 1:]), "The oldest frame is missing."),
        (small(past[:, -1:]), "All frames before are seen, not the newest alone."),
        (small(past, k - 1), "This is what the last stage sees: each stage sees its own."),
        (small(past, 0), "This is what the first stage sees: each stage sees its own."),
        ([past], "It has full size: history(past, i, K) makes it small."),
        ([c[:, :, :1] for c in wanted], "It has the first channel alone."),
        ([0 * c for c in wanted], "It is black."),
    )
    sizes, found = [tuple(c.shape[1:]) for c in wanted], [tuple(c.shape[1:]) for c in clips]
    otherwise = f"It is history(the frames before, {i}, {k}), clips of {sizes}, not {found}."
    if sizes == found:
        otherwise = "Its sizes are right, its numbers are not: the frames before, clean, each video's own."
    if not wanted:
        otherwise = "An image has no past: its history is an empty list."
    return named(clips, likely, otherwise, wanted)


# the past, and what it costs


def check_history_layout(history_layout=video.history_layout, seed: int = 0) -> None:
    """The size of every frame, how they are grouped, and refusals."""
    some = 9 + torch.randint(21, (1,), generator=seeded(seed)).item()
    cases = [(n, stage, k) for k in (1, 2, 3, 4) for stage in range(k) for n in (1, 2, 3, 4, 8, 31, some)]
    grouped = []
    for frames, stage, k in [(8, 2, 3), *cases]:  # first the one that tells the mistakes apart
        where = f"{frames} frame{'s' * (frames > 1)}, stage {stage} of {k}"
        layout = accepts(lambda: history_layout(frames, stage, k), where)
        assert isinstance(layout, (list, tuple)) and all(
            isinstance(group, (list, tuple)) and len(group) == 2 for group in layout
        ), f"{where}: a list of pairs (count, level), not {layout}."
        found = [level for count, level in layout for _ in range(count)]
        past = [max(stage - age, 0) for age in range(frames - 1)][::-1]
        right = [*past, stage]
        counts = [1] * min(frames, max(stage, 1) + 2)
        counts[0] = frames - len(counts) + 1
        exchanged = [n for n, i in zip(counts, right[counts[0] - 1 :]) for _ in range(i)]
        likely = (
            (exchanged, "A pair is (count, level), not (level, count)."),
            ([stage, *past[::-1]], "Newest first: the list begins with the oldest frame."),
            ([*past[::-1], stage], "The past is newest first: the list begins with the oldest frame."),
            ([k - 1 - i for i in right], "Levels count from the smallest size, 0, to full size, K - 1."),
            ([stage] * frames, "All have the stage's level: each older one must be a level lower."),
            (right[1:], "The oldest frame is left out."),
            (right[-k - 1 :], "The oldest are left out: all that are older still have level 0."),
            (past, "The frame that is made is missing: it comes last."),
            ([0, *right], "One frame too many: `frames` counts the one that is made."),
            ([*(max(i - 1, 0) for i in past), stage], "The newest before it has the stage's level, too."),
            ([*right[1:], stage], "Only the newest frame of the past has the stage's level."),
            ([*range(stage - frames + 2, stage + 1), stage], "No level is below 0."),
        )
        hint = "Oldest first: each frame of the past is a level lower than the next, and never below 0."
        assert found == right, f"{where}: levels {found}, not {right}. {named(found, likely, hint)}"
        grouped.append((where, [count for count, _ in layout], counts, right))
    for where, found, counts, levels in grouped:  # after all levels: with one stage every order looks right
        likely = (
            ([1] * len(levels), "Those at level 0, but for the newest and the one that is made, share one."),
            ([len([*same]) for _, same in groupby(levels)], "Level by level: the last two are groups alone."),
            ([*counts[:-2], 2], "The frame that is made and the newest before it are a group each."),
        )
        hint = "There are no empty groups." if 0 in found else "Only the oldest, at level 0, share a group."
        assert found == counts, f"{where}: groups of {found}, not {counts}. {named(found, likely, hint)}"
    for frames, stage in ((0, 0), (-1, 1), (3, 2), (3, -1), (1, 2), (1, -1)):
        hint = f"{frames} frames at stage {stage} of 2 must be refused."
        refuses(lambda: history_layout(frames, stage, 2), hint)


def small(past: torch.Tensor, layout: list, k: int, halve: Callable = halved, order: int = 1) -> list:
    """The past as clips, halved K - 1 - level times. order -1: level times."""
    clips = past.split([count for count, _ in layout], dim=1)
    for j, (_, level) in enumerate(layout):
        for _ in range(k - 1 - level if order > 0 else level):
            clips = [halve(c) if i == j else c for i, c in enumerate(clips)]
    return list(clips)


def check_history(history=video.history, seed: int = 0) -> None:
    """Each frame of the past at its size, oldest first."""
    videos = [images(*shape, seed=seed) for shape in ((2, 5, 2, 8, 12), (4, 4, 4, 4, 4))]
    stages = [(stage, k) for k in (3, 1, 2) for stage in range(k)[::-1]]
    for x, (stage, k), frames in product(videos, stages, (4, 0, 1, 2)):
        past, layout = x[:, :frames].clone(), video.history_layout(frames + 1, stage, k)[:-1]
        where = f"{frames} frames {tuple(x.shape[2:])} before stage {stage} of {k}"
        clips = accepts(lambda: history(past, stage, k), where)
        assert isinstance(clips, (list, tuple)), f"A list of clips, not {type(clips).__name__}."
        right, alike = small(past, layout, k), small(past, [(1, stage)] * frames, k)
        likely = (
            (small(past.flip(1), layout, k), "The past is turned round: oldest first."),
            (small(past, layout, k, order=-1), "Level i is K - 1 - i times halved: 0 is the smallest size."),
            (small(past, layout, k, lambda c: c[..., ::2, ::2]), "One pixel of four is kept: take means."),
            (small(past, layout, k, lambda c: 2 * halved(c)), "Twice the mean is for noise: these are data."),
            (alike, "All have the stage's size: older frames are smaller."),
            ([torch.cat(alike, 1)] if frames else [], "All have the stage's size: older frames are smaller."),
            ([past], "All have full size: make them smaller, level by level."),
        )
        sizes, given = ([tuple(c.shape[1:]) for c in some] for some in (right, clips))
        otherwise = "Each halving is by 2x2 means." if sizes == given else f"Clips of {sizes}, not {given}."
        hint = named(clips, likely, otherwise, right)
        assert torch.equal(past, x[:, :frames]), "The past stays as it is."
        assert agrees(clips, right), f"{where}: {hint}"
        assert all(c.dtype == DOUBLE for c in clips), "A clip has the dtype of the past: here float64."
        low = history(past.float(), stage, k)
        for a, b in zip(low, right):
            close_in_float32(a, b, "The history")
        if frames:
            past.requires_grad_()
            grads = [
                torch.autograd.grad(sum(c.square().sum() for c in made), past, allow_unused=True)[0]
                for made in (history(past, stage, k), small(past, layout, k))
                if all(c.requires_grad for c in made)
            ]
            assert len(grads) == 2, "The clips have a gradient with respect to the past."
            close(*grads, "The gradient with respect to the past is that of means.")
    past = videos[0]
    for call, what in (
        (lambda: history(past[..., :6, :], 0, 3), "Heights that cannot be halved twice"),
        (lambda: history(past[..., :6], 0, 3), "Widths that cannot be halved twice"),
        (lambda: history(past[:, 0], 0, 3), "One image (b, c, h, w) in the place of frames"),
        (lambda: history(past, 3, 3), "Stage 3 of 3 (0, 1, 2)"),
        (lambda: history(past, -1, 3), "Stage -1"),
    ):
        refuses(call, f"{what} must be refused.")


def check_corrupt(corrupt=video.corrupt, seed: int = 0) -> None:
    """A mixture of each clip with noise, drawn clip by clip, one sigma per sample."""
    sigma = exact(0.3, 0.0, 0.1, 0.7)
    kept = [images(4, *shape, seed=seed) for shape in ((4, 4, 4, 4), (1, 2, 2, 6), (2, 1, 3, 1))]
    clips, s = [c.clone() for c in kept], seed + 2  # another seed: noise and clips are not the same numbers

    def drawn(among=lambda c: c, draw=torch.randn, order=1) -> list[torch.Tensor]:
        """The noise by hand; `among` is what has one number for all that is broadcast from it."""
        g = seeded(s)
        noise = [draw(among(c).shape, generator=g, dtype=DOUBLE).expand_as(c) for c in clips[::order]]
        return noise[::order]

    def mixed(keep: torch.Tensor, add: torch.Tensor, noise: list[torch.Tensor]) -> list[torch.Tensor]:
        return [column(keep, c) * c + column(add, c) * n for c, n in zip(clips, noise)]

    handed, g = [*clips], seeded(s)
    found = corrupt(handed, sigma, g)
    same = len(handed) == 3 and all(a is b for a, b in zip(handed, clips))
    assert same, "The list of clips stays as it is. Make a new one."
    assert agrees(clips, kept), "The clips stay as they are: they are the true frames. Make new tensors."
    assert isinstance(found, (list, tuple)), f"A list of clips, not {type(found).__name__}."
    wanted, shapes = ([tuple(c.shape) for c in some] for some in (clips, found))
    hint = f"As many clips as there were, in their order and shapes: {wanted}, not {shapes}."
    assert shapes == wanted, hint
    for j, (a, b) in enumerate(zip(found, clips)):
        assert a.dtype == b.dtype, f"The result has the dtype of the clips, {b.dtype}, not {a.dtype}."
        hint = f"Clip {j} of 3, oldest first, came back as it was: every clip is corrupted, the newest too."
        assert not torch.equal(a, b), hint
    noise, keep, one = drawn(), 1 - sigma, torch.ones_like(sigma)
    right, again = mixed(keep, sigma, noise), corrupt(clips, sigma, seeded(s))
    hint = "The generator decides the noise: twice the same seed, and two results. Is it handed on?"
    assert agrees(found, again), hint
    uniform = lambda shape, **more: torch.rand(shape, **more) - 0.5
    likely = (
        (mixed(one, sigma, noise), "The clip is scaled by 1 - sigma, not by 1."),
        (mixed((1 - sigma**2).sqrt(), sigma, noise), "The clip is scaled by 1 - sigma, no root."),
        (mixed(keep.sqrt(), sigma.sqrt(), noise), "sigma itself, not roots: (1 - sigma) clip + sigma noise."),
        (mixed(sigma, keep, noise), "sigma is the share of the noise, not of the clip."),
        (mixed(keep, one, noise), "The noise is scaled by sigma, not by 1."),
        (mixed(keep, sigma.sqrt(), noise), "The noise is scaled by sigma, not by its root."),
        (mixed(keep, sigma**2, noise), "The noise is scaled by sigma, not by its square."),
        (mixed(keep, sigma * keep, noise), "The noise is scaled by sigma, once: not by 1 - sigma as well."),
        (mixed(keep, -sigma, noise), "Plus sigma noise, not minus."),
        (mixed(keep.flip(0), sigma.flip(0), noise), "Each sample has its own sigma, in their order."),
        (mixed(keep.mean().expand(4), sigma.mean().expand(4), noise), "Each sample has its own sigma."),
        (mixed(keep.min().expand(4), sigma.max().expand(4), noise), "Each sample has its own sigma."),
        (mixed(keep, sigma, drawn(order=-1)), "The noise is drawn from the newest clip to the oldest."),
        (mixed(keep, sigma, [torch.randn(c.shape, generator=seeded(s), dtype=DOUBLE) for c in clips]),
         "Every clip has noise of its own: is the generator seeded anew for each?"),
        (mixed(keep, sigma, drawn(lambda c: c[:, :1])), "All frames of a clip have one noise."),
        (mixed(keep, sigma, drawn(lambda c: c[:1])), "All samples have one noise."),
        (mixed(keep, sigma, drawn(lambda c: c[:, :, :1])), "All channels have one noise."),
        (mixed(keep, sigma, drawn(lambda c: c[..., :1, :1])), "All pixels have one noise."),
        (mixed(keep, sigma, drawn(draw=torch.rand)), "The noise is uniform: it must be Gaussian."),
        (mixed(keep, sigma * 12**0.5, drawn(draw=uniform)), "The noise is uniform: it must be Gaussian."),
    )  # fmt: skip
    hint = "(1 - sigma) clip + sigma noise, of randn_like(clip, generator), once for each clip, oldest first."
    assert agrees(found, right), named(found, likely, hint, right)
    by_hand = seeded(s)
    for c in clips:
        torch.randn(c.shape, generator=by_hand, dtype=DOUBLE)
    hint = "The generator is left where one draw for each clip leaves it."
    assert torch.equal(g.get_state(), by_hand.get_state()), hint
    with torch.random.fork_rng([]):
        torch.manual_seed(s)
        default, other = corrupt(clips, sigma), corrupt(clips, sigma)
    assert agrees(default, right), "Without a generator the noise is torch's own, after torch.manual_seed."
    assert not agrees(default, other), "The noise is drawn anew in each call."
    assert agrees(accepts(lambda: corrupt([], sigma), "No clips"), []), "No clips, none to return."
    low = corrupt([c.float() for c in clips], sigma, seeded(s))
    g = seeded(s)
    single = [torch.randn(c.shape, generator=g) for c in clips]
    for a, b in zip(low, mixed(keep, sigma, single)):
        close_in_float32(a, b, "A corrupted clip")
    low = corrupt(clips, sigma.float(), seeded(s))
    assert all(c.dtype == DOUBLE for c in low), "The result has the dtype of the clips, not sigma's float32."
    x = clips[1].clone().requires_grad_()
    made = corrupt([x], sigma, seeded(s))[0]
    assert made.requires_grad, "The result has a gradient with respect to the clips."
    close(torch.autograd.grad(made.sum(), x)[0], column(keep, x).expand_as(x), "The gradient is 1 - sigma.")
    for bad in one_bad(sigma, -0.1, 1.0, 1.5):
        refuses(lambda: corrupt(clips, bad, seeded(s)), f"sigma = {bad[-1]:g} of one sample must be refused.")
    for bad in (sigma[:1], sigma[:, None], sigma[:3], sigma[0]):
        hint = f"sigma of shape {tuple(bad.shape)} for 4 samples must be refused."
        refuses(lambda: corrupt(clips, bad, seeded(s)), hint)
    hint = "A clip of 1 sample, after one of 4, must be refused."
    refuses(lambda: corrupt([clips[0], clips[1][:1]], sigma, seeded(s)), hint)


def check_block_causal_mask(block_causal_mask=video.block_causal_mask, seed: int = 0) -> None:
    """Row looks at column: its own frame and older ones."""
    some = torch.randint(9, (12,), generator=seeded(seed)).tolist()
    for ids in ([0, 0, 1, 1, 1, 2], [0, 1, 2, 3], [5, 5], [7], [3, 3, 9], [2, 0, 1, 0], some):
        frame_ids, n = torch.tensor(ids), len(ids)
        mask = accepts(lambda: block_causal_mask(frame_ids), f"frame_ids {ids}")
        assert isinstance(mask, torch.Tensor), f"Expected a tensor, got {type(mask).__name__}."
        assert mask.shape == (n, n), f"A mask of {n} tokens is ({n}, {n}), not {tuple(mask.shape)}."
        assert mask.dtype == torch.bool, f"The mask is bool, True where a token may look, not {mask.dtype}."
        assert frame_ids.tolist() == ids, "frame_ids stays as it is."
        right = torch.tensor([[own >= theirs for theirs in ids] for own in ids])
        if torch.equal(mask, right):
            continue
        hint = (
            f"Frames {ids}: the mask is transposed. The row looks at the column, and at none that is newer."
        )
        assert not torch.equal(mask, right.T), hint
        assert not torch.equal(mask, ~right), f"Frames {ids}: True means may look, not that it is hidden."
        i, j = (mask != right).nonzero()[0].tolist()
        if i == j:
            answer = "Yes: a token looks at itself too. At least as new, not newer."
        elif ids[i] == ids[j]:
            answer = "Yes: a frame sees all of itself, also its later tokens. Causal by frame, not by token."
        elif ids[i] > ids[j]:
            answer = "Yes: all older frames are seen."
        else:
            answer = "No: it is of a newer frame."
        if sorted(ids) != ids and ids[i] != ids[j]:
            answer += " The numbers decide, not the places in the sequence."
        raise AssertionError(f"Frames {ids}: may token {i}, the row, look at token {j}, the column? {answer}")


def check_grid_positions(grid_positions=video.grid_positions, seed: int = 0) -> None:
    """The middles of cells, in the coordinates of another grid."""
    m, m_ref = (1 + torch.randint(12, (2,), generator=seeded(seed))).sort()[0].tolist()
    edges = torch.linspace(-0.5, m_ref - 0.5, m + 1, dtype=DOUBLE)
    for n, n_ref, wanted in (
        (5, 12, [0.7, 3.1, 5.5, 7.9, 10.3]),
        (2, 8, [1.5, 5.5]),
        (4, 8, [0.5, 2.5, 4.5, 6.5]),
        (1, 4, [1.5]),
        (2, 3, [0.25, 1.75]),
        (5, 5, [0.0, 1.0, 2.0, 3.0, 4.0]),
        (8, 4, [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]),
        (m, m_ref, ((edges[1:] + edges[:-1]) / 2).tolist()),
    ):
        where, width, j = f"{n} cells on a grid of {n_ref}", n_ref / n, torch.arange(n, dtype=DOUBLE)
        found, right = accepts(lambda: grid_positions(n, n_ref), where), exact(*wanted)
        assert isinstance(found, torch.Tensor), f"Expected a tensor, got {type(found).__name__}."
        assert found.shape == (n,), f"{where}: one number for each, ({n},), not {tuple(found.shape)}."
        assert found.is_floating_point(), f"{where}: a float tensor, not {found.dtype}."
        likely = (
            ((j + 0.5) * (n_ref // n) - 0.5, "A cell is n_ref / n wide, not n_ref // n."),
            ((j + 0.5) / width - 0.5, "A cell is n_ref / n wide, not n / n_ref."),
            (j, "These are the cells' own numbers: on the grid of n_ref they would lie in a corner."),
            (j * width, "Is it the first cell of the grid that each covers? Its place is their middle."),
            ((j + 1) * width - 1, "Is it the last cell of the grid that each covers? Take their middle."),
            (j * width - 0.5, "These are the edges where the cells begin. Their middles are half a cell on."),
            ((j + 1) * width - 0.5, "These are the edges where the cells end. Take their middles."),
            ((j + 0.5) * width, "Half too much: the middle of cell 0 of the grid is at 0, its edge at -1/2."),
            ((j + 0.5) * width + 0.5, "Half is added where it is taken away: the extent begins at -1/2."),
            (j * width + 0.5, "Half a cell is n_ref / n / 2, not 1/2, and the extent begins at -1/2."),
            (torch.linspace(0, n_ref - 1, n), "End to end? The outer edges agree, not the outer middles."),
            (torch.linspace(-0.5, n_ref - 0.5, n), "These go from edge to edge: the outer middles do not."),
            ((j + 0.5) / n, "In the coordinates of n_ref cells, not as shares of the extent."),
            (2 * (j + 0.5) / n - 1, "In the coordinates of n_ref cells, not from -1 to 1."),
            (right.clamp(0, n_ref - 1), "Clamped? Middles may be below 0 or above n_ref - 1."),
            (right.round(), "Rounded? A middle may lie between two cells of the grid."),
            (right.floor(), "Rounded down? A middle may lie between two cells of the grid."),
            (right.flip(0), "From the first cell to the last."),
        )
        otherwise = f"A cell covers {width:g} of the grid, which begins at -1/2, and its place is its middle."
        numbers = [round(w, 3) for w in wanted]
        close(found, right, f"{where}: {numbers}. {named(found, likely, otherwise)}", 1e-5)


def check_count_tokens(count_tokens=video.count_tokens, seed: int = 0) -> None:
    """The paper's 15,360 tokens, layouts by hand, and refusals."""
    for layout, k, full, wanted in (
        ([(5, 0), (1, 1), (1, 2), (1, 2)], 3, 64, 5 * 4 + 16 + 64 + 64),
        ([(6, 0), (1, 1), (1, 1)], 3, 64, 6 * 4 + 16 + 16),
        ([(1, 0)], 1, 7, 7),
        ([(2, 0), (1, 0)], 1, 10, 30),
        ([(3, 0), (1, 1)], 4, 192, 3 * 3 + 12),
        (video.history_layout(31, 2, 3), 3, 3840, 15360),
        (video.history_layout(31, 0, 1), 1, 3840, 119040),
    ):
        where = f"Layout {layout} of {k} stages, {full} tokens at full size"
        found = accepts(lambda: count_tokens(layout, k, full), where)
        by = lambda factor, some=layout: sum(n * full / factor ** (k - 1 - i) for n, i in some)
        likely = (
            (by(2), "Both sides are halved at each level: a quarter of the tokens, not half."),
            (by(1), "Each level below the highest has a quarter of the tokens: not all have full size."),
            (sum(n * full / 4**i for n, i in layout), "Level 0 is the smallest size, K - 1 full size."),
            (by(4, layout[:-1]), "The frame that is made is counted too."),
            (by(4, layout[1:]), "The oldest frames are counted too."),
            (by(4, [(1, i) for _, i in layout]), "A pair (count, level) stands for `count` frames."),
            (by(4) / 4, "Full size is level K - 1: there are K - 1 quarters down to level 0, not K."),
        )
        hint = named(found, likely, "Each level below the highest has a quarter of the tokens.")
        assert found == wanted, f"{where}: {wanted} tokens, not {found}. {hint}"
        assert isinstance(found, int), f"A number of tokens is an int, not {type(found).__name__}."
    good = (1, 2)
    for layout, full, what in (
        *(([good], full, f"{full} tokens, which cannot be quartered twice,") for full in (0, -16, 15, 40, 4)),
        *(([good, bad, good], 64, f"A group (count, level) = {bad} of 3 stages")
          for bad in ((1, 3), (1, -1), (0, 1), (-2, 1))),
    ):  # fmt: skip
        refuses(lambda: count_tokens(layout, 3, full), f"{what} must be refused.")


def check_forward_flops(forward_flops=video.forward_flops, seed: int = 0) -> None:
    """24 n d^2 + 4 n^2 d for each block."""
    for n, d, depth in ((300, 8, 5), (1, 1, 1), (16, 64, 3), (15360, 1920, 1)):
        found = forward_flops(n, d, depth)
        cost = lambda a, b, one=depth, two=depth: one * a * n * d**2 + two * b * n**2 * d
        likely = (
            (cost(12, 2), "A multiply-add is two operations."),
            (cost(24, 0), "Attention is missing: 4 n^2 d."),
            (cost(24, 2), "Attention is two products, of 2 n^2 d each: the scores, and the mixture."),
            (cost(16, 4), "The matrices q, k, v and output are missing: 8 n d^2."),
            (cost(8, 4), "The MLP is missing: 16 n d^2."),
            (cost(22, 4), "One matrix of four is missing: q, k, v and output."),
            (cost(24, 4, 1, 1), "As many blocks, as many times the cost: depth is not used."),
            (cost(24, 4, depth, 1), "Each block has attention, not the first alone."),
            (cost(24, 4, 1, depth), "Each block has matrices, not the first alone."),
            (cost(24 / d, 4), "A matrix has d^2 numbers, not d."),
            (cost(24, 4 * d), "To attend costs 4 n^2 d, not n^2 d^2."),
        )
        hint = "Each block: 24 n d^2 for its matrices (q, k, v 6, output 2, MLP 16), 4 n^2 d for attention."
        assert found == cost(24, 4), f"{n} tokens, d = {d}, depth {depth}: {named(found, likely, hint)}"
        assert isinstance(found, int), f"A number of operations is an int, not {type(found).__name__}."
    assert forward_flops(5, 4) == forward_flops(5, 4, 1), "One block by default."


def check_video_flops(video_flops=video.video_flops, seed: int = 0) -> None:
    """Sums by hand, and the cost of the paper's 768p video."""
    steps, dim = [3, 5, 2], 8 + 4 * (seed % 5)
    sizes = ((4, 8, 12, 16, 20, 24), (16, 32, 36, 40, 44, 48), (64, 128, 144, 148, 152, 156))  # by frames

    def cost(made=slice(0, 5), sizes=sizes, steps=steps, a=24, b=4):
        tokens = [(n, k) for n, counts in zip(steps, sizes) for k in counts[made]]
        return sum(n * (a * k * dim**2 + b * k**2 * dim) for n, k in tokens)

    def bill(depth=1, given=0):
        call = lambda: video_flops(5, steps, 64, dim, depth, given=given)
        return accepts(call, f"5 frames, {given} of them given,")

    alone = [[counts[0]] * 6 for counts in sizes]
    alike = [[counts[0] * f for f in range(1, 7)] for counts in sizes]
    together = [[sum(counts[:5])] for counts in sizes]
    likely = (
        (cost(sizes=alone), "The past costs, too: every pass holds the frames that are seen."),
        (cost(sizes=[[b - a for a, b in zip(one, seen)] for one, seen in zip(alone, sizes)]),
         "The frame that is made is in the pass, too."),
        (cost(sizes=alike), "Older frames are smaller: history_layout says how the past is seen."),
        (cost(sizes=[alike[2]] * 3), "Frames are small in early stages, and so is the past."),
        (cost(sizes=[sizes[2]] * 3), "The passes of early stages have fewer tokens than the last."),
        (cost(sizes=[sizes[0]] * 3), "The passes of later stages have more tokens than the first."),
        (cost(sizes=sizes[::-1]), "Stage 0 is the coarsest, and steps[0] are its steps."),
        (cost(slice(4, 5)), "All frames are made, one after the other: not the last alone."),
        (cost(slice(0, 4)), "The last frame is made, too."),
        (cost(slice(1, 5)), "The first frame is made, too, in passes that hold it alone."),
        (cost(slice(1, 6)), "A past too long: the first pass holds 1 frame, the one that is made."),
        (cost(slice(0, 6)), "A frame too many is made."),
        (cost(sizes=together), "Every frame has a pass of its own: attention is within a pass."),
        (cost(steps=[1, 1, 1]), "Every step is a pass: steps are not used."),
        (cost(steps=[10, 10, 10]), "steps[i] are the steps of stage i: not all of them at every stage."),
        (cost(a=12, b=2), "A multiply-add is two operations."),
        (cost(b=0), "Attention is missing: 4 n^2 d in each block."),
        (cost(b=2), "Attention is two products: the scores, and the mixture of the values."),
        (cost(a=16), "The matrices for q, k, v and the output are missing."),
        (cost(a=8), "The MLP is missing."),
        (cost(a=22), "Four matrices d x d: one each for q, k, v and the output."),
    )  # fmt: skip
    hint = "frame by frame, stage by stage, so many steps, each a pass over all tokens of history_layout."
    found = bill()
    assert found == cost(), f"5 frames, steps {steps}: {named(found, likely, hint)}"
    deep = ((cost(), "`depth` is not used: as many blocks, as many times the cost."),)
    hint = "As many blocks, as many times the cost, of the matrices and of attention."
    for depth in (2, 7):
        found = bill(depth)
        assert found == depth * cost(), f"depth {depth}: {named(found, deep, hint)}"
    for given in (1, 2, 4, 5):
        found = bill(given=given)
        likely = (
            (cost(), "Given frames are not made, and cost nothing of their own."),
            (cost(slice(0, 5 - given)), "Given frames are looked at: they are in the past of all others."),
            (cost(slice(given - 1, 5)), "One given frame too few is left out."),
            (cost(slice(given + 1, 5)), "The frame after the given ones is made."),
        )
        hint = "Given frames are not made, and are looked at all the same."
        assert found == cost(slice(given, 5)), f"{given} of 5 frames given: {named(found, likely, hint)}"
    for some in ((0, 0, 3), (4, 0, 1)):
        found = video_flops(5, some, 64, dim)
        assert found == cost(steps=some), f"steps {some}: a stage of 0 steps has no pass, and the others do."
    for frames, k, wanted in ((16, 3, 0.3441), (31, 3, 0.2866), (31, 2, 1.2443), (31, 1, 11.2941)):
        whole = 24 * frames * 3840 * 1920**2 + 4 * (frames * 3840) ** 2 * 1920
        ratio = video_flops(frames, [1] * k, 3840, 1920) / k / whole
        hint = f"{frames} frames, {k} stages: {wanted} of the cost of one sequence of all, not {ratio:.4f}."
        assert abs(ratio - wanted) < 1e-4, hint
    for frames, given in ((0, 0), (-1, 0), (3, 4), (3, -1)):
        hint = f"{frames} frames, {given} of them given, must be refused."
        refuses(lambda: video_flops(frames, [3, 5], 16, 8, given=given), hint)


# a network that is told the past


def net(z, t, history=(), label=None, tag=None):
    """A function of everything it is given: the clips, their order, their frames and their pixels."""
    seen = torch.zeros_like(t)
    for j, c in enumerate(history):
        weight = torch.linspace(0.5, 1.5, c[0].numel(), dtype=c.dtype).sin()
        seen = seen + (j + 1) * torch.tanh(c.flatten(1)) @ weight / len(weight)
    shift = (0 if label is None else 0.1 * label) + (0 if tag is None else tag[:, 1])
    return torch.tanh(z) * column(1 + t, z) + 0.3 * torch.sin(3 * z) + column(seen + shift, z).to(z.dtype)


def watched(model: Callable, calls: list) -> Callable:
    """model, which keeps copies of what it is told and is strict: the history by its name, in z's dtype."""

    def told(z, t, *rest, history=None, **more):
        hint = "A network is asked velocity(z, t, history=clips): the clips by this name, in a list."
        assert not rest and isinstance(history, (list, tuple)), hint
        good = all(isinstance(c, torch.Tensor) and c.dtype == z.dtype for c in history)
        assert good, f"The clips of the history are tensors in the dtype of z, {z.dtype}."
        calls.append((z.detach().clone(), t.detach().clone(), [c.detach().clone() for c in history], more))
        return model(z, t, history, **more)

    return recorded(told, [])


def check_video_loss(video_loss=video.video_loss, seed: int = 0) -> None:
    """By hand for several lengths, sizes and stages; gradient; packed; what corruption touches; refusals."""
    for cuts, shares, parts, shape, frames in (
        (CUTS[0], None, (2, 2), (4, 4, 4, 4, 4), [4, 3, 1, 2]),
        ([0, 1], None, (3,), (3, 2, 1, 2, 3), [1, 1, 1]),
        (CUTS[1], (1, 2, 1), (2, 4, 2), (8, 4, 2, 4, 12), [4, 1, 2, 4, 3, 2, 1, 4]),
    ):
        found, b, k = pyramid.stages(cuts), shape[0], len(cuts) - 1
        x, noise = images(*shape, seed=seed), images(b, *shape[2:], seed=seed + 1)
        u = 1 - torch.rand(b, generator=seeded(seed), dtype=DOUBLE)
        u[-1] = 1
        more = {"label": torch.arange(b), "tag": images(b, 3, seed=seed + 2)}
        stage = [i for i, n in enumerate(parts) for _ in range(n)]
        given = dict(x=x, noise=noise, u=u, frames=frames, stages=found, shares=shares, **more)
        kept = [x.clone(), noise.clone(), u.clone(), [*frames]]

        def told(velocity=net, **changed) -> tuple[torch.Tensor, dict]:
            """The loss, and for each sample what the network was told of it: z, t, its clips and its tag."""
            calls, seen = [], {}
            loss = video_loss(watched(velocity, calls), **(given | changed))
            dtype = changed.get("x", x).dtype
            assert isinstance(loss, torch.Tensor), f"Expected a tensor, got {type(loss).__name__}."
            assert loss.dtype == dtype, f"The loss has the dtype of the videos, {dtype}, not {loss.dtype}."
            for z, t, clips, tags in calls:
                for n, j in enumerate(tags["label"].tolist()):
                    one = slice(n, n + 1)
                    assert j not in seen, f"Sample {j} is predicted twice: each once, with its label."
                    seen[j] = z[one], t[one], [c[one] for c in clips], tags["tag"][one]
            hint = f"Each sample is predicted once, with its label: not {[*seen]}."
            assert sorted(seen) == [*range(len(changed.get("x", x)))], hint
            return loss, seen

        def by_hand(j: int, frame: int, velocity=net) -> tuple:
            """Of sample j, if this frame is predicted: z, t, what the network answers, what is right."""
            one, i = slice(j, j + 1), stage[j]
            start, end = pyramid.stage_pair(x[one, frame], noise[one], i, found)
            z, t = u[j] * start + (1 - u[j]) * end, pyramid.network_time(u[one], found[i])
            clips = video.history(x[one, : frames[j] - 1], i, k)
            return z, t, velocity(z, t, clips, **{name: v[one] for name, v in more.items()}), start - end

        loss, seen = accepts(told, f"{b} videos, {frames} of their frames in use,")
        assert agrees([x, noise, u, frames], kept), (
            "The videos, their noise, times and lengths stay as they are."
        )
        assert loss.shape == (b,), "A loss is one number per sample, (b,)."
        hands = [by_hand(j, frames[j] - 1) for j in range(b)]
        for j, (z, t, clips, tag) in sorted(seen.items()):
            where = f"Sample {j}, {frames[j]} frames in use, stage {stage[j]} of {k}: "
            seen_of = lambda n, j=j, k=k, stage=stage[j]: (x[j : j + 1, :n], stage, k)
            right = seen_of(frames[j] - 1)
            likely = (
                (video.history(*seen_of(frames[j])), "The predicted frame is in the history."),
                (video.history(*seen_of(shape[1])), "The history holds all frames, not those before it."),
            )
            same = agrees(clips, video.history(*right))
            assert same, f"{where}the history. {instead(clips, *right, *likely)}"
            likely = (
                (by_hand(j, 0)[0], "The first frame is predicted: it must be the last that is in use."),
                (by_hand(j, -1)[0], "The last frame of the video is predicted, not the last in use."),
            )
            hint = "The network is asked at u start + (1 - u) end, of stage_pair of its frame and noise."
            close(z, hands[j][0], where + named(z, likely, hint))
            close(t, hands[j][1], where + "The network is told network_time(u, stage): it tells the stage.")
            close(tag[0], more["tag"][j], where + "Conditioning is handed on, all of it, sample by sample.")

        def error(sign=1, mean=torch.mean, hands=hands):
            return torch.stack([mean((a - sign * v) ** 2) for *_, a, v in hands])

        values = error()
        likely = (
            (values[[*seen]], "The losses are in the order of the passes, not of the batch."),
            (error(mean=torch.sum), "The loss is a mean over the sample's numbers, not their sum."),
            (values.mean().expand(b), "One loss for each sample, not their mean."),
            (error(-1), "The velocity is start - end, not end - start."),
        )
        hint = "The loss is the mean square of answer - (start - end), sample by sample."
        close(loss, values, named(loss, likely, hint), 1e-9)
        weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
        learned = lambda *args, weight=weight, **more: weight * net(*args, **more)
        loss, wanted = told(learned)[0], error(hands=[by_hand(j, frames[j] - 1, learned) for j in range(b)])
        assert loss.requires_grad, "The loss must have a gradient with respect to the network."
        grads = [torch.autograd.grad(a.sum(), weight)[0] for a in (loss, wanted)]
        close(*grads, "The gradient with respect to the network is not that of the loss.", 1e-9)
        low = {name: given[name].float() for name in ("x", "noise", "tag")}
        close_in_float32(told(**low)[0], values, "The loss", 2e-5)
        told(**low, sigma=u / 2, generator=seeded(seed))  # the network is strict about the past, too

    loss = accepts(lambda: told(frames=torch.tensor(frames))[0], "frames in a tensor")
    close(loss, values, "frames may be a tensor: the same loss as for a list.", 1e-9)
    passes = []

    def packed(zs, ts, history, label, tag):
        passes.append(len(zs))
        return [net(*one) for one in zip(zs, ts, history, label, tag)]

    apart = lambda *args, **more: net(*args, **more)
    apart.packed = packed
    loss = video_loss(apart, **given, packed=True)
    assert len(passes) == 1, "With packed=True all share one pass: velocity.packed is asked once."
    close(loss, values, "With packed=True the result is the same.", 1e-9)

    # corruption; first where a single sample has a past, so that its noise can be drawn by hand
    few = {name: given[name][:3] for name in ("x", "noise", "u", *more)} | dict(frames=[1, 1, 4], shares=None)
    sigma, g, hand = exact(0.2, 0.5, 0.6), seeded(seed + 3), seeded(seed + 3)
    (_, seen), (_, before) = told(**few, sigma=sigma, generator=g), told(**few)
    stays = "Corruption is for the past: the frame that is predicted stays as it is."
    for j in range(3):
        close(seen[j][0], before[j][0], stays)
    clips, clean = seen[2][2], before[2][2]
    right = video.corrupt(clean, sigma[2:], hand)
    again = lambda clips, share: video.corrupt(clips, share, seeded(seed + 3))
    twice = told(**few, sigma=sigma, generator=seeded(seed + 3))[1][2][2]
    assert agrees(clips, twice), "The generator decides the noise: twice the same seed, and two results."
    likely = (
        (clean, "The history came clean: sigma corrupts it."),
        ([*right[:-1], clean[-1]], "The newest frame came clean: every clip is corrupted."),
        (video.history(again([x[2:3, :3]], sigma[2:])[0], 2, 3), "Halve first, then corrupt the small ones."),
        ([2 * a - 0.4 * c for a, c in zip(right, clean)], "The noise is scaled by sigma, not by 2 sigma."),
        (again(clean[::-1], sigma[2:])[::-1], "The noise is drawn from the newest clip to the oldest."),
        (again(clean, 1 - sigma[2:]), "sigma is the share of the noise, not of the past."),
        *((again(clean, some[None]), "The past has the sigma of its own sample.") for some in sigma[:2]),
    )
    hint = "The history is (1 - sigma) clip + sigma noise of `corrupt`: Gaussian, its own in each pixel."
    assert agrees(clips, right), named(clips, likely, hint)
    hint = "The generator is left where `corrupt` leaves it: it is handed on, and nothing else draws."
    assert torch.equal(g.get_state(), hand.get_state()), hint
    sigma, less = torch.linspace(0.1, 0.8, 8, dtype=DOUBLE), torch.linspace(0.7, 0.35, 8, dtype=DOUBLE)
    black = lambda sigma, s=seed: told(x=0 * x, sigma=sigma, generator=seeded(s))[1]
    corrupted, seen = told(sigma=sigma, generator=seeded(seed))
    versions = told()[1], seen, black(sigma), black(less), black(sigma, seed + 1)
    for j in range(8):
        close(seen[j][0], versions[0][j][0], stays)
        for c, a, noise_a, noise_b, noise_c in zip(*(version[j][2] for version in versions)):
            close(noise_a * less[j], noise_b * sigma[j], "The noise is scaled by its own sample's sigma.")
            close(a - noise_a, (1 - sigma[j]) * c, "The past is scaled by 1 - the sigma of its own sample.")
            assert not torch.equal(noise_a, noise_c), "The generator draws the noise of the history."
    half = black(0 * sigma + 0.5)
    drawn = torch.cat([c.flatten() for j in range(8) for c in half[j][2]])
    hint = "Some noise of the past is used twice: each pixel of each frame of each sample has its own."
    assert len(drawn.unique()) == len(drawn), hint
    loss = accepts(lambda: told(sigma=0 * u, generator=seeded(seed))[0], "sigma = 0")
    close(loss, values, "sigma = 0 leaves the past as it is.", 1e-9)
    alone = [j for j in range(8) if frames[j] == 1]
    close(
        corrupted[alone],
        values[alone],
        "The loss of an image does not depend on sigma: it has no past.",
        1e-9,
    )

    for changed, what in (
        ({"x": x[:, 0]}, "Images in the place of videos"),
        ({"noise": x}, "Noise for every frame"),
        ({"noise": noise[:1]}, "One noise for eight videos"),
        ({"noise": noise[:, :1]}, "Noise of one channel for two"),
        ({"noise": noise[..., :4]}, "Noise of another width"),
        ({"u": u[:1]}, "One local time for eight videos"),
        ({"sigma": u[:1] / 2}, "One sigma for eight videos"),
        ({"label": more["label"][:1]}, "One label for eight videos"),
        ({"shares": (1, 1, 1)}, "A batch of 8 in three equal shares"),
        ({"shares": (1, 1)}, "Two shares for three stages"),
        ({"frames": frames[:7]}, "Seven lengths for eight videos"),
        ({"frames": [*frames, 1]}, "Nine lengths for eight videos"),
        *(({"frames": [*frames[:7], n]}, f"{n} frames in use of a video of 4") for n in (5, 0, -1)),
        *(({"u": bad}, f"A local time {bad[-1]:g}") for bad in one_bad(u, 0.0, -0.1, 1.5)),
        *(({"sigma": bad}, f"sigma = {bad[-1]:g} of a sample") for bad in one_bad(u / 2, 1.0, -0.1, 1.5)),
    ):
        refuses(lambda: video_loss(net, **(given | changed)), f"{what} must be refused.")


def copying(found: list[pyramid.Stage]):
    """The velocity of a model that is certain: the next frame is the newest of its history."""

    def velocity(z: torch.Tensor, t: torch.Tensor, history: list[torch.Tensor]) -> torch.Tensor:
        x = history[-1][:, -1]
        stage = next(s for s in found if s.t_end < t[0] <= s.t_start)
        blurred = doubled(halved(x)) if stage.start else 0 * x
        u = column((t - stage.t_end) / (stage.t_start - stage.t_end), z)
        signal = u * stage.start * blurred + (1 - u) * stage.end * x
        level = u * (1 - stage.start) + (1 - u) * (1 - stage.end)
        return stage.start * blurred - stage.end * x + (stage.end - stage.start) * (z - signal) / level

    return velocity


def rolled(
    velocity, noise, found, steps, given=None, first_steps=None, unconditional=None, guidance=(1, 1),
    memory=None, jumps=None, generator=None,
):  # fmt: skip
    """The roll-out by hand."""
    frames = [] if given is None else [*given.unbind(1)]
    widths, before = [noise.shape[-1] // 2**i for i in range(len(found))][::-1], len(frames)
    for f in range(before, noise.shape[1]):
        past = torch.stack(frames[max(f - (memory or f), 0) :], 1) if f else noise[:, :0]
        scale, n = (guidance[1], steps) if f else (guidance[0], first_steps or steps)

        def asked(z, t, past=past, scale=scale):
            clips = video.history(past, widths.index(z.shape[-1]), len(found))
            answer = velocity(z, t, history=clips)
            if scale == 1:
                return answer
            bare = unconditional(z, t, history=clips)
            return bare + scale * (answer - bare)

        fresh = None if jumps is None else jumps[f - before]
        frames.append(pyramid.pyramid_sample(asked, noise[:, f], found, n, fresh, generator))
    return torch.stack(frames, 1)


def check_rollout(rollout=video.rollout, seed: int = 0) -> None:
    """Who is asked where and told what, step by step, beside a roll-out by hand; a model that copies."""
    noise, given = images(3, 5, 2, 4, 12, seed=seed), images(3, 3, 2, 4, 12, seed=seed + 1)
    jumps = [[images(3, 2, s, 3 * s, seed=seed + 10 * f + s) for s in (2, 4)] for f in range(5)]
    other = lambda z, t, history: 0.5 * torch.cos(z) + 0.1 * net(z, t, history)
    three = pyramid.stages(CUTS[1])

    def call(what: str, why: str, *args, **kwargs) -> torch.Tensor:
        """The answer's video. The arguments are valid: it may not stop."""
        try:
            made = rollout(*args, **kwargs)
        except NotImplementedError:  # a RuntimeError, but no answer yet
            raise
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            hint = (
                f"{what} This is valid, and your function stops with {type(error).__name__}: {error}. {why}"
            )
            raise AssertionError(hint) from error
        assert isinstance(made, torch.Tensor), f"Expected a tensor, got {type(made).__name__}."
        wanted, found = tuple(args[1].shape), tuple(made.shape)
        hint = f"{what} As many frames as noises, the given ones included: (b, frames, c, h, w) = {wanted}"
        assert found == wanted, f"{hint}, not {found}."
        dtype = args[1].dtype
        assert made.dtype == dtype, f"The video has the dtype of the noise, {dtype}, not {made.dtype}."
        return made

    def beside(what, why, *likely, noise=noise, found=three, steps=1, given=None, **more):
        """Each question and each frame of the answer beside those by hand.

        Where they differ, `likely` are other arguments for which the roll-out by hand does the same, each
        with its sentence, and `why` is said otherwise.
        """
        before, k, memory = 0 if given is None else given.shape[1], len(found), more.get("memory")
        scales, first_steps = more.get("guidance", (1, 1)), more.get("first_steps")
        more["jumps"] = more.get("jumps") and more["jumps"][: noise.shape[1] - before]
        kept = [noise.clone(), given if given is None else given.clone()]
        asked, videos, generators = [], [], []
        for roll in (lambda *args, **more: call(what, why, *args, **more), rolled):
            calls = {"velocity": [], "unconditional": []}
            a, b = watched(net, calls["velocity"]), watched(other, calls["unconditional"])
            handed = more | {"jumps": more["jumps"] and [[*fresh] for fresh in more["jumps"]]}
            handed |= {"generator": seeded(seed), "unconditional": None if scales == (1, 1) else b}
            videos.append(roll(a, noise, found, steps, given, **handed))
            assert agrees(handed["jumps"], more["jumps"]), "The lists of jumps stay as they are."
            assert agrees([noise, given], kept), "noise and given stay as they are. Make new tensors."
            asked.append(calls)
            generators.append(handed["generator"].get_state())
        made, hand = videos

        def reason(f: int) -> str:
            """What frame f and those before it say about the mistake."""
            same = dict(noise=noise, found=found, steps=steps, given=given, unconditional=other) | more
            rolls = ((rolled(net, **same | changed)[:, : f + 1], sentence) for changed, sentence in likely)
            return named(made[:, : f + 1], rolls, why, hand[:, : f + 1])

        if before:
            close(made[:, :before], given, "The given frames come first in the result, as they are.")
        for name in calls:
            n, wanted = (len(calls[name]) for calls in asked)
            hint = "Scale 1 does not ask it, any other scale asks it at each step." if name[0] == "u" else why
            assert n == wanted, f"{what} {wanted} questions to `{name}`, not {n}. {hint}"
        pairs = {name: zip(*(calls[name] for calls in asked)) for name in calls}
        for f in range(before, noise.shape[1]):
            counts = steps if f or not first_steps else first_steps
            counts = [counts] * k if isinstance(counts, int) else counts
            names = ("velocity", "unconditional")[: 1 + (scales[f > 0] != 1)]
            plan = [(i, step, name) for i, n in enumerate(counts) for step in range(n) for name in names]
            for i, step, name in plan:
                (z, t, clips, _), (wanted_z, wanted_t, wanted, _) = next(pairs[name])
                where = f"{what} Frame {f}, stage {i}, step {step}: `{name}`"
                hint = f"{where} is asked at the wrong size: the stages take {counts} steps. {why}"
                assert z.shape == wanted_z.shape, hint
                if not agrees(clips, wanted):
                    small = lambda frames, i=i: video.history(frames, i, k)
                    instances = (
                        (small(hand[:, :f]), "`memory` is not used."),
                        (small(hand[:, :memory]), "`memory` are the newest frames, not the oldest."),
                        (small(hand[:, :before]), "Frames that have been made belong to the past, too."),
                    )
                    past = hand[:, max(f - (memory or f), 0) : f]
                    raise AssertionError(f"{where} and its history. {instead(clips, past, i, k, *instances)}")
                if i == step == 0:
                    noises = ((pyramid.at_level(noise[:, n], k - 1, 2.0), n) for n in {0, f - before, f - 1})
                    start = f"{where}: frame {f} starts from its own noise, noise[:, {f}], not from"
                    assert agrees(z, wanted_z), f"{start} {named(z, noises, 'another z')}."
                assert agrees(z, wanted_z), f"{where} is asked at another z. {reason(f)}"
                close(t, wanted_t, f"{where} is asked at another time: pyramid_sample hands it on.")
            clamped = ((hand[:, f].clamp(-c, c), "Nothing is clamped.") for c in (1, 2, 3))
            same = agrees(made[:, f], hand[:, f])
            assert same, f"{what} Frame {f} itself. {named(made[:, f], clamped, reason(f))}"
        hint = f"{what} The generator is where it was if jumps are given; else where their noise leaves it."
        assert torch.equal(*generators), hint

    own = "It is what pyramid_sample makes of noise[:, f] and jumps[k], for the k-th that is made."
    single = ({"jumps": jumps[:1] * 5}, "Every frame has jumps of its own, not jumps[0].")
    turned = ({"steps": [3, 1, 2]}, "steps are those of each stage, the coarsest first.")
    beside("Three frames given, two to make.", own, single, turned, steps=[2, 1, 3], given=given, jumps=jumps)
    beside("No frame given.", own, single, jumps=jumps)
    first = "first_steps are for a frame without a past, steps for all others."
    beside("No frame given, and first_steps.", first, first_steps=[2, 1, 1], jumps=jumps)
    for n in (2, 1):
        beside(f"{n} given, and first_steps.", first, given=given[:, :n], first_steps=2, jumps=jumps)
    what, why = "0 frames given, and first_steps.", "Frame 0 has no past, as if given were None."
    beside(what, why, steps=(1, 2, 1), given=given[:, :0], first_steps=2, jumps=jumps)
    for n, a, b in ((0, 3.0, 1.5), (0, 1, 2.0), (0, 0.0, 1), (1, 3.0, 1.5), (2, 2, 1)):
        likely = (
            ({"guidance": (b, b)}, "A frame without a past takes the first scale, not the second."),
            ({"guidance": (a, a)}, "A frame with a past takes the second scale, not the first."),
            ({"guidance": (b, a)}, "The first scale is for a frame without a past, the second for others."),
            ({"guidance": (1 + a, 1 + b)}, "It begins at unconditional, not at conditional."),
            ({"guidance": (1 - a, 1 - b)}, "conditional and unconditional have changed places."),
        )
        why = "unconditional + scale (conditional - unconditional)."
        what = f"guidance {a, b}, {n} frames given."
        beside(what, why, *likely, given=given[:, :n], guidance=(a, b), jumps=jumps)
    for memory in (1, 4, 9):
        what = f"memory={memory}: the newest {memory} of the past are seen, or all while there are fewer."
        beside(what, own, given=given, memory=memory, jumps=jumps)
    fresh = "The noise of each jump is drawn from the generator as it is handed on, frame after frame."
    beside("A generator, and no jumps.", fresh, steps=2, given=given)
    beside("A generator, no jumps and no frame given.", fresh)
    alike, two, one = images(4, 4, 4, 4, 4, seed=seed + 3), pyramid.stages(CUTS[0]), pyramid.stages([0, 1])
    beside("Two stages; all sizes are 4.", fresh, noise=alike, found=two, given=alike[:, 1:2].cos())
    beside("One stage.", own, found=one, steps=2, given=given, jumps=[[]] * 5)
    beside("All frames given, none to make.", own, noise=noise[:, :3], given=given, jumps=[])
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = call("No jumps and no generator.", "", net, noise, three, 1, given)
    hand = rolled(net, noise, three, 1, given, generator=seeded(seed))
    close(made, hand, "Without jumps and generator the noise is torch's own: torch.manual_seed.", 1e-9)
    for cuts in (*CUTS, [0, 1]):
        found = pyramid.stages(cuts)
        what, g = f"{len(found)} stages.", seeded(seed)
        made = call(what, "", copying(found), noise, found, 2, given, generator=g)
        hint = "A model that copies the newest frame of its history must make copies of the last one given."
        close(made, torch.cat([given, given[:, 2:].expand(-1, 2, -1, -1, -1)], 1), hint, 1e-8)
    nets, low = (watched(net, []), watched(other, [])), [[a.float() for a in fresh] for fresh in jumps[:2]]
    single = nets[0], noise.float(), three, 2, given.float(), None, nets[1], (1, 1.5)
    hand = rolled(net, noise, three, 2, given, None, other, (1, 1.5), jumps=jumps)
    close_in_float32(call("All in float32.", "", *single, jumps=low), hand, "The video")

    for start, kwargs, what in (
        (given[:1], {}, "One given video for three noises"),
        (given[:, :, :1], {}, "Given frames of one channel for two"),
        (given[..., :4], {}, "Given frames of another width"),
        (given[..., :1, :], {}, "Given frames of another height"),
        (torch.cat([given] * 2, 1), {}, "Six given frames for five noises"),
        (given, {"guidance": (1.0, 2.0)}, "guidance (1, 2) without unconditional"),
        (None, {"guidance": (2.0, 1.0)}, "guidance (2, 1) without unconditional"),
        (given, {"memory": 0}, "A memory of no frame"),
        (given, {"memory": -1}, "A memory of -1 frames"),
        (given, {"jumps": jumps}, "Noises for five frames when two are made"),
        (given, {"jumps": jumps[:1]}, "Noises for one frame when two are made"),
        (given, {"jumps": []}, "An empty list of noises when two frames are made"),
    ):
        refuses(lambda: rollout(net, noise, three, 1, start, **kwargs), f"{what} must be refused.")
    refuses(lambda: rollout(net, noise[:, 0], three, 1), "Noise of one image must be refused.")
