"""Checks of the pyramid in time: which frames are seen and how large, who looks at whom, and the roll-out.

Two models are known exactly. One is a plain function of everything that it is shown, so that a roll-out can
be written down by hand. The other is certain that the next frame is the newest of its history: whatever the
noise, the cuts and the number of steps, each frame that it makes must be a copy of the last one given.

An answer that is wrong is compared with likely mistakes, and the hint is the sentence of the one it agrees
with. Heights and widths differ, and the smallest frames have a side of 1 or 3 pixels. Every frame has a large
number of either sign, so that a clamp shows; generators have been used, so that a new seed shows.
"""

from collections.abc import Callable, Iterable
from itertools import groupby, product
from numbers import Integral, Real

import torch

from minidistill import pyramid, video
from minidistill.checks import (
    accepts,
    alike,
    close,
    close_in_float32,
    column,
    exact,
    explained,
    one_bad,
    recorded,
    refuses,
)
from minidistill.checks.pyramid import (
    CUTS,
    DOUBLE,
    clamped,
    doubled,
    finite,
    halved,
    images,
    misshapen,
    spiked,
)


def videos(b: int, frames: int, *shape: int, seed: int) -> torch.Tensor:
    """Gaussian frames, each with a large number of either sign."""
    return spiked(images(b * frames, *shape, seed=seed)).unflatten(0, (b, frames))


def agrees(found, other, tol: float = 1e-9) -> bool:
    """alike, entry by entry where it is a list; what is no tensor must be equal."""
    if isinstance(other, (list, tuple)):
        same = isinstance(found, (list, tuple)) and len(found) == len(other)
        return same and all(agrees(a, b, tol) for a, b in zip(found, other))
    return alike(found, other, tol) if isinstance(other, torch.Tensor) else found == other


def named(found, likely: Iterable[tuple], otherwise: str, right=None) -> str:
    """explained for lists and numbers: the sentence of the likely mistake that `found` agrees with."""
    nearly = right is not None and agrees(found, right, 1e-5)
    otherwise = "It is nearly right: where are digits lost, as in float32?" if nearly else otherwise
    return next((sentence for sentence, wrong in likely if agrees(found, wrong)), otherwise)


def counted(found, right: int, where: str, likely: Iterable[tuple], otherwise: str) -> None:
    """AssertionError unless it is this whole number, of any library."""
    found = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found
    assert isinstance(found, Real), f"{where}: a whole number, not a {type(found).__name__}."
    if abs(found - right) <= 1e-5 * right:
        otherwise = "It is nearly right: whole numbers are exact, and floats are not."
    assert found == right, f"{where}: {right}, not {found}. {named(found, likely, otherwise)}"
    assert isinstance(found, Integral), f"{where}: a whole number, an int and not a {type(found).__name__}."


def seeded(seed: int) -> torch.Generator:
    """A generator that has been used."""
    generator = torch.Generator().manual_seed(seed + 12345)
    torch.rand(3, generator=generator)
    return generator


def instead(clips: list, past: torch.Tensor, i: int, k: int, *likely: tuple) -> str:
    """What the clips are in the place of history(past, i, k); the likely mistakes given come first."""
    small = lambda some, i=i: video.history(some, i, k)
    wanted = small(past)
    likely = (
        ("It is empty: the network is told the past.", []),
        *likely,
        ("It is newest first: it must be oldest first.", small(past.flip(1))),
        ("It is newest first: it must be oldest first.", [c.flip(1) for c in wanted[::-1]]),
        ("The newest frame of the past is missing.", small(past[:, :-1])),
        ("The oldest frame is missing.", small(past[:, 1:])),
        ("All frames before are seen, not the newest alone.", small(past[:, -1:])),
        *(
            ("All frames before are seen, not the newest few.", small(past[:, -n:]))
            for n in range(2, past.shape[1] - 1)
        ),
        ("This is what the last stage sees: each stage sees its own.", small(past, k - 1)),
        ("This is what the first stage sees: each stage sees its own.", small(past, 0)),
        ("It has full size: history(past, i, K) makes it small.", [past]),
        ("It has the first channel alone.", [c[:, :, :1] for c in wanted]),
        ("It is black.", [0 * c for c in wanted]),
        ("Nothing is clamped.", [clamped(*pair) for pair in zip(wanted, clips)]),
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
        whole = all(hasattr(number, "__index__") for group in layout for number in group)
        assert whole, f"{where}: counts and levels are whole numbers, not {layout}."
        found = [level for count, level in layout for _ in range(count)]
        past = [max(stage - age, 0) for age in range(frames - 1)][::-1]
        right = [*past, stage]
        counts = [1] * min(frames, max(stage, 1) + 2)
        counts[0] = frames - len(counts) + 1
        exchanged = [n for n, i in zip(counts, right[counts[0] - 1 :]) for _ in range(i)]
        full = [max(k - 1 - age, 0) for age in range(frames - 1)][::-1]
        likely = (
            *([("The oldest frame is left out.", right[1:])] if frames > 1 else []),
            ("The frame that is made is missing: it comes last.", past),
            ("Newest first: the list begins with the oldest frame.", [stage, *past[::-1]]),
            ("The past is newest first: the list begins with the oldest frame.", [*past[::-1], stage]),
            ("The frame that is made has the stage's level, not that of full size.", [*past, k - 1]),
            ("The newest of the past has the stage's level, not that of full size.", [*full, stage]),
            ("The newest of the past has the stage's level, not that of full size.", [*full, k - 1]),
            ("Levels count from the smallest size, 0, to full size, K - 1.", [k - 1 - i for i in right]),
            ("All have the stage's level: each older one must be a level lower.", [stage] * frames),
            ("The oldest are left out: all that are older still have level 0.", right[-len(found) :]),
            ("One frame too many: `frames` counts the one that is made.", [0, *right]),
            ("The newest before it has the stage's level, too.", [*(max(i - 1, 0) for i in past), stage]),
            ("Only the newest frame of the past has the stage's level.", [*right[1:], stage]),
            ("A pair is (count, level), not (level, count).", exchanged),
            ("No level is below 0.", [*range(stage - frames + 2, stage + 1), stage]),
        )
        hint = "Oldest first: each frame of the past is a level lower than the next, and never below 0."
        assert found == right, f"{where}: levels {found}, not {right}. {named(found, likely, hint)}"
        grouped.append((where, [count for count, _ in layout], counts, right))
    for where, found, counts, levels in grouped:  # after all levels: with one stage every order looks right
        likely = (
            ("Those at level 0, but for the newest and the one that is made, share one.", [1] * len(levels)),
            ("Level by level: the last two are groups alone.", [len([*same]) for _, same in groupby(levels)]),
            ("The frame that is made and the newest before it are a group each.", [*counts[:-2], 2]),
        )
        hint = "There are no empty groups." if 0 in found else "Only the oldest, at level 0, share a group."
        assert found == counts, f"{where}: groups of {found}, not {counts}. {named(found, likely, hint)}"
    for frames, stage, k in (
        *((frames, stage, 2) for frames in (3, 1) for stage in (2, 3, 9, -1, -2)),
        *((frames, stage, 2) for frames in (0, -1, -5) for stage in (0, 1)),
        *((frames, 0, k) for frames in (3, 1) for k in (0, -1)),
    ):
        hint = f"{frames} frames at stage {stage} of {k} must be refused."
        refuses(lambda: history_layout(frames, stage, k), hint)


def small(past: torch.Tensor, layout: list, k: int, halve: Callable = halved, order: int = 1) -> list:
    """The past as clips, halved K - 1 - level times. order -1: level times."""
    clips = past.split([count for count, _ in layout], dim=1)
    for j, (_, level) in enumerate(layout):
        for _ in range(k - 1 - level if order > 0 else level):
            clips = [halve(c) if i == j else c for i, c in enumerate(clips)]
    return list(clips)


def check_history(history=video.history, seed: int = 0) -> None:
    """Each frame of the past at its size, oldest first."""
    pasts = [videos(*shape, seed=seed) for shape in ((2, 5, 2, 8, 12), (4, 5, 4, 4, 4))]
    stages = [(stage, k) for k in (3, 1, 2) for stage in range(k)[::-1]]
    for x, (stage, k), frames in product(pasts, stages, (4, 5, 0, 1, 2)):
        past, layout = x[:, :frames].clone(), video.history_layout(frames + 1, stage, k)[:-1]
        where = f"{frames} frames {tuple(x.shape[2:])} before stage {stage} of {k}"
        clips = accepts(lambda: history(past, stage, k), where)
        assert isinstance(clips, (list, tuple)), f"A list of clips, not {type(clips).__name__}."
        right, equal = small(past, layout, k), small(past, [(1, stage)] * frames, k)
        likely = (
            ("The past is turned round: oldest first.", small(past.flip(1), layout, k)),
            ("Level i is K - 1 - i times halved: 0 is the smallest size.", small(past, layout, k, order=-1)),
            ("One pixel of four is kept: take means.", small(past, layout, k, lambda c: c[..., ::2, ::2])),
            ("Twice the mean is for noise: these are data.", small(past, layout, k, lambda c: 2 * halved(c))),
            ("All have the stage's size: older frames are smaller.", equal),
            ("All have the stage's size: older frames are smaller.", [torch.cat(equal, 1)] if frames else []),
            ("All have full size: make them smaller, level by level.", [past]),
            ("Each video has a past of its own, not that of the first.", [c[:1].expand_as(c) for c in right]),
            ("Each video has a past of its own, in their order.", [c.flip(0) for c in right]),
            ("The frames of a clip are newest first: oldest first.", [c.flip(1) for c in right]),
            ("A clip is (b, count, ...): videos and frames have changed places.",
             [c.transpose(0, 1).reshape(c.shape) for c in right]),
            ("A clip is (b, count, ...): videos and frames have changed places.",
             [c.reshape(c.shape[1], c.shape[0], *c.shape[2:]).transpose(0, 1) for c in right]),
            ("Nothing is clamped.", [clamped(*pair) for pair in zip(right, clips)]),
        )  # fmt: skip
        sizes, given = ([tuple(c.shape[1:]) for c in some] for some in (right, clips))
        otherwise = "The older frames are wrong: by 2x2 means, and each video has its own frames."
        if sizes != given:
            otherwise = f"Clips of {sizes}, not {given}."
        elif stage == k - 1 and clips and not agrees(clips[-1], right[-1]):
            otherwise = "Even the newest frame, which is not halved here, is another: each video has its own."
        finite(*clips)
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
    past = pasts[0]
    for call, what in (
        (lambda: history(past[..., :6, :], 0, 3), "Heights that cannot be halved twice"),
        (lambda: history(past[..., :6], 0, 3), "Widths that cannot be halved twice"),
        (lambda: history(past[:, 0], 0, 3), "One image (b, c, h, w) in the place of frames"),
    ):
        refuses(call, f"{what} must be refused.")
    for stage, frames in product((3, 4, -1, -2), (5, 1, 0)):
        hint = f"Stage {stage} of 3 (0, 1, 2), with {frames} frames, must be refused."
        refuses(lambda: history(past[:, :frames], stage, 3), hint)


def check_corrupt(corrupt=video.corrupt, seed: int = 0) -> None:
    """A mixture of each clip with noise, drawn clip by clip, one sigma per sample."""
    sigma = exact(0.3, 0.0, 0.1, 0.7)
    kept = [videos(4, *shape, seed=seed) for shape in ((4, 4, 4, 4), (1, 2, 2, 6), (2, 1, 3, 1))]
    clips, s = [c.clone() for c in kept], seed + 2  # another seed: noise and clips are not the same numbers

    def drawn(among=lambda c: c, draw=torch.randn, order=1, first=None, each=False) -> list[torch.Tensor]:
        """The noise by hand. among: what has one number for all that is broadcast from it. first: another
        seed, `each`: for each clip."""
        anew = lambda: seeded(s) if first is None else torch.Generator().manual_seed(first)
        g, noise = anew(), []
        for c in clips[::order]:
            g = anew() if each else g
            noise.append(draw(among(c).shape, generator=g, dtype=DOUBLE).expand_as(c))
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
    finite(*found)
    noise, keep, one = drawn(), 1 - sigma, torch.ones_like(sigma)
    right, again = mixed(keep, sigma, noise), corrupt(clips, sigma, seeded(s))
    hint = "The generator decides the noise: twice the same seed, and two results. Is it handed on?"
    assert agrees(found, again), hint
    seeds = (None, seeded(s).initial_seed(), 0)
    uniform = lambda shape, **more: torch.rand(shape, **more) - 0.5
    likely = (
        ("Nothing is clamped.", [clamped(*pair) for pair in zip(right, found)]),
        ("The clip is scaled by 1 - sigma, not by 1.", mixed(one, sigma, noise)),
        ("The clip is scaled by 1 - sigma, no root.", mixed((1 - sigma**2).sqrt(), sigma, noise)),
        ("sigma itself, not roots: (1 - sigma) clip + sigma noise.", mixed(keep.sqrt(), sigma.sqrt(), noise)),
        ("sigma is the share of the noise, not of the clip.", mixed(sigma, keep, noise)),
        ("The noise is scaled by sigma, not by 1.", mixed(keep, one, noise)),
        ("The noise is scaled by sigma, not by its root.", mixed(keep, sigma.sqrt(), noise)),
        ("The noise is scaled by sigma, not by its square.", mixed(keep, sigma**2, noise)),
        ("The noise is scaled by sigma, once: not by 1 - sigma as well.", mixed(keep, sigma * keep, noise)),
        ("Plus sigma noise, not minus.", mixed(keep, -sigma, noise)),
        ("Each sample has its own sigma, in their order.", mixed(keep.flip(0), sigma.flip(0), noise)),
        ("Each sample has its own sigma.", mixed(keep.mean().expand(4), sigma.mean().expand(4), noise)),
        ("Each sample has its own sigma.", mixed(keep.min().expand(4), sigma.max().expand(4), noise)),
        ("The noise is drawn from the newest clip to the oldest.", mixed(keep, sigma, drawn(order=-1))),
        *(("Every clip has noise of its own: is the generator seeded anew for each?",
           mixed(keep, sigma, drawn(first=first, each=True))) for first in seeds),
        *(("The generator is used as it is: nothing is seeded anew.", mixed(keep, sigma, drawn(first=first)))
          for first in seeds),
        ("All frames of a clip have one noise.", mixed(keep, sigma, drawn(lambda c: c[:, :1]))),
        ("All samples have one noise.", mixed(keep, sigma, drawn(lambda c: c[:1]))),
        ("All channels have one noise.", mixed(keep, sigma, drawn(lambda c: c[:, :, :1]))),
        ("All pixels have one noise.", mixed(keep, sigma, drawn(lambda c: c[..., :1, :1]))),
        ("The noise is uniform: it must be Gaussian.", mixed(keep, sigma, drawn(draw=torch.rand))),
        ("The noise is uniform: it must be Gaussian.", mixed(keep, sigma * 12**0.5, drawn(draw=uniform))),
    )  # fmt: skip
    hint = "(1 - sigma) clip + sigma noise, of randn_like(clip, generator), once for each clip, oldest first."
    assert agrees(found, right), named(found, likely, hint, right)
    by_hand, unused = seeded(s), seeded(s)
    for c in clips:
        torch.randn(c.shape, generator=by_hand, dtype=DOUBLE)
    hint = "The generator is left where one draw for each clip leaves it."
    assert torch.equal(g.get_state(), by_hand.get_state()), hint
    same = agrees(corrupt(clips, 0 * sigma, unused), clips)
    assert same, "Where sigma is 0 for all samples the clips are as they were."
    hint = "The noise is drawn for every clip, also where sigma is 0 for all samples."
    assert torch.equal(g.get_state(), unused.get_state()), hint
    with torch.random.fork_rng([]):
        torch.set_rng_state(seeded(s).get_state())
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
    for c in clips:
        x = c.clone().requires_grad_()
        made = corrupt([x], sigma, seeded(s))
        n = torch.randn(x.shape, generator=seeded(s), dtype=DOUBLE)
        hint = "A single clip is the newest, and is corrupted too."
        assert agrees(made, [column(keep, x) * x + column(sigma, x) * n]), hint
        assert made[0].requires_grad, "The result has a gradient with respect to the clips."
        gradient = torch.autograd.grad(made[0].sum(), x)[0]
        close(gradient, column(keep, x).expand_as(x), "The gradient is 1 - sigma.")
    for value, bad in one_bad(sigma, -0.1, 1.0, 1.5):
        refuses(lambda: corrupt(clips, bad, seeded(s)), f"sigma = {value:g} of one sample must be refused.")
    for bad in (sigma[:1], sigma[:, None], sigma[None], sigma[:3], torch.cat([sigma, sigma[:1]]), sigma[0]):
        hint = f"sigma of shape {tuple(bad.shape)} for 4 samples must be refused."
        refuses(lambda: corrupt(clips, bad, seeded(s)), hint)
    for n, some in ((1, clips), (2, clips), (1, clips[:1]), (3, clips[:1])):
        hint = f"A clip of {n} sample{'s' * (n > 1)}, with sigma for 4, must be refused."
        refuses(lambda: corrupt([*some[:-1], some[-1][:n]], sigma, seeded(s)), hint)


def check_block_causal_mask(block_causal_mask=video.block_causal_mask, seed: int = 0) -> None:
    """Row looks at column: its own frame and older ones."""
    some = torch.randint(9, (12,), generator=seeded(seed)).tolist()
    rising = [[0, 0, 1, 1, 1, 2], [0, 1, 2, 3], [5, 5], [7], [3, 3, 9], sorted(4 * some), [*range(30)]]
    wide = [[-1000, -3, -3, 0, 200, 1000], [2**24, 2**24 + 1, 2**40], [2**60, 2**60 + 1]]
    for ids in (*rising, *wide, [2, 0, 1, 0], some, [1000, -3, 0, 1000, -1000]):
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
        if ids in wide:
            answer += " Numbers may be large or negative: they are compared, as whole numbers, as they are."
        elif sorted(ids) != ids and ids[i] != ids[j]:
            answer += " The numbers decide, not the places in the sequence."
        raise AssertionError(f"Frames {ids}: may token {i}, the row, look at token {j}, the column? {answer}")


def check_grid_positions(grid_positions=video.grid_positions, seed: int = 0) -> None:
    """The middles of cells, in the coordinates of another grid."""
    some = (1 + torch.randint(12, (4,), generator=seeded(seed))).tolist()
    for n, n_ref in (
        *((5, 12), (2, 8), (4, 8), (2, 3), (7, 3), (8, 4), (5, 5), (1, 4), (7, 1), (1, 1)),
        *(some[:2], some[2:]),
    ):
        where, width, j = f"{n} cells on a grid of {n_ref}", n_ref / n, torch.arange(n, dtype=DOUBLE)
        found = accepts(lambda: grid_positions(n, n_ref), where)
        assert isinstance(found, torch.Tensor), f"Expected a tensor, got {type(found).__name__}."
        assert found.shape == (n,), f"{where}: one number for each, ({n},), not {tuple(found.shape)}."
        assert found.is_floating_point(), f"{where}: a float tensor, not {found.dtype}."
        edges = torch.linspace(-0.5, n_ref - 0.5, n + 1, dtype=DOUBLE)
        right = (edges[1:] + edges[:-1]) / 2
        likely = (
            ("A cell is n_ref / n wide, not n_ref // n.", (j + 0.5) * (n_ref // n) - 0.5),
            ("A cell is n_ref / n wide, not n / n_ref.", (j + 0.5) / width - 0.5),
            ("These are the cells' own numbers: on the grid of n_ref they would lie in a corner.", j),
            ("Is it the first cell of the grid that each covers? Its place is their middle.", j * width),
            ("Is it the last cell of the grid that each covers? Take their middle.", (j + 1) * width - 1),
            ("These are the edges where the cells begin. Middles are half a cell on.", j * width - 0.5),
            ("These are the edges where the cells end. Take their middles.", (j + 1) * width - 0.5),
            ("Half too much: the middle of cell 0 of the grid is at 0, its edge at -1/2.", (j + 0.5) * width),
            ("Half is added where it is taken away: the extent begins at -1/2.", (j + 0.5) * width + 0.5),
            ("Half a cell is n_ref / n / 2, not 1/2, and the extent begins at -1/2.", j * width + 0.5),
            ("End to end? The outer edges agree, not the outer middles.", torch.linspace(0, n_ref - 1, n)),
            ("From edge to edge? The outer middles lie inside.", torch.linspace(-0.5, n_ref - 0.5, n)),
            ("In the coordinates of n_ref cells, not as shares of the extent.", (j + 0.5) / n),
            ("In the coordinates of n_ref cells, not from -1 to 1.", 2 * (j + 0.5) / n - 1),
            ("Clamped? Middles may be below 0 or above n_ref - 1.", right.clamp(0, n_ref - 1)),
            ("Clamped? Middles may be below 0 or above n_ref - 1.", right.clamp(min=0)),
            ("Rounded? A middle may lie between two cells of the grid.", right.round()),
            ("Rounded down? A middle may lie between two cells of the grid.", right.floor()),
            ("From the first cell to the last.", right.flip(0)),
        )
        hint = f"A cell covers {width:g} of the grid, which begins at -1/2, and its place is its middle."
        if alike(found, right, 0.03) and not alike(found, right, 1e-5):
            hint = "It is nearly right: is it rounded, or in half precision?"
        explained(found, right, hint, likely, 2e-6, f" {where}: {[round(w, 3) for w in right.tolist()]}.")


def check_count_tokens(count_tokens=video.count_tokens, seed: int = 0) -> None:
    """The paper's 15,360 tokens, layouts by hand, and refusals."""
    for layout, k, full, wanted in (
        ([(5, 0), (1, 1), (1, 2), (1, 2)], 3, 64, 5 * 4 + 16 + 64 + 64),
        ([(6, 0), (1, 1), (1, 1)], 3, 64, 6 * 4 + 16 + 16),
        ([(1, 0)], 1, 7, 7),
        ([(2, 0), (1, 0)], 1, 10, 30),
        ([(3, 0)], 3, 64, 3 * 4),
        ([(2, 1)], 3, 16, 2 * 4),
        ([(3, 0), (1, 1)], 4, 192, 3 * 3 + 12),
        (video.history_layout(31, 2, 3), 3, 3840, 15360),
        (video.history_layout(31, 0, 1), 1, 3840, 119040),
    ):
        where, handed = f"Layout {layout} of {k} stages, {full} tokens at full size", [*layout]
        found = accepts(lambda: count_tokens(handed, k, full), where)
        by = lambda factor, some=layout: sum(n * full / factor ** (k - 1 - i) for n, i in some)
        likely = (
            ("Both sides are halved at each level: a quarter of the tokens, not half.", by(2)),
            ("Each level below the highest has a quarter of the tokens: not all have full size.", by(1)),
            ("Level 0 is the smallest size, K - 1 full size.", sum(n * full / 4**i for n, i in layout)),
            ("The frame that is made is counted too.", by(4, layout[:-1])),
            ("The oldest frames are counted too.", by(4, layout[1:])),
            ("A pair (count, level) stands for `count` frames.", by(4, [(1, i) for _, i in layout])),
            ("Full size is level K - 1: there are K - 1 quarters down to level 0, not K.", by(4) / 4),
        )
        assert handed == layout, "The layout stays as it is."
        counted(found, wanted, where, likely, "Each level below the highest has a quarter of the tokens.")
    good = (1, 2)
    for layout, full, what in (
        *(([good], full, f"{full} tokens, which cannot be quartered twice,") for full in (0, -16, 15, 40, 4)),
        *((some, 64, f"A group (count, level) = {bad} of 3 stages")
          for bad in ((1, 3), (1, -1), (0, 1), (-2, 1)) for some in ([good, bad, good], [bad])),
    ):  # fmt: skip
        refuses(lambda: count_tokens(layout, 3, full), f"{what} must be refused.")


def block(n: int, d: int, own: int = 1) -> int:
    """What n tokens of width d cost in one block, where `own` of them are of the frame that is made."""
    return 24 * n * d**2 + 4 * n**2 * d


WRONG_BLOCKS = (
    ("A multiply-add is two operations.", lambda n, d, own: 12 * n * d**2 + 2 * n**2 * d),
    ("A multiply-add is two operations, also in the matrices. Or: the MLP is four times as wide.",
     lambda n, d, own: block(n, d) - 12 * n * d**2),
    ("Attention is missing: 4 n^2 d in each block.", lambda n, d, own: 24 * n * d**2),
    ("Attention is two products, of 2 n^2 d each: the scores, and the mixture of the values.",
     lambda n, d, own: block(n, d) - 2 * n**2 * d),
    ("The matrices are missing: 24 n d^2.", lambda n, d, own: 4 * n**2 * d),
    ("8 n d^2 are missing: q, k, v and output together, or one of the two matrices of the MLP.",
     lambda n, d, own: block(n, d) - 8 * n * d**2),
    ("The MLP is missing: 16 n d^2.", lambda n, d, own: block(n, d) - 16 * n * d**2),
    ("One matrix of four is missing: q, k, v and output.", lambda n, d, own: block(n, d) - 2 * n * d**2),
    ("One of q, k, v and output is counted: there are four.", lambda n, d, own: block(n, d) - 6 * n * d**2),
    ("A matrix has d^2 numbers, not d.", lambda n, d, own: 24 * n * d + 4 * n**2 * d),
    ("To attend costs 4 n^2 d, not n d.", lambda n, d, own: 24 * n * d**2 + 4 * n * d),
    ("To attend costs 4 n^2 d, not n^2 d^2.", lambda n, d, own: 24 * n * d**2 + 4 * n**2 * d**2),
    ("To attend costs 4 n^2 d: each pair costs d multiplications, in each product.",
     lambda n, d, own: 24 * n * d**2 + 4 * n**2),
    ("To attend costs n d^2? It is 4 n^2 d: each token with each token.", lambda n, d, own: 28 * n * d**2),
    ("Each token with each token, n^2 pairs: not half of them.",
     lambda n, d, own: 24 * n * d**2 + 2 * n * (n + 1) * d),
    ("Each token with each token: not those of the frame that is made alone.",
     lambda n, d, own: 24 * n * d**2 + 4 * n * own * d),
    ("Each token with each token: not those of the frame that is made alone.",
     lambda n, d, own: 24 * n * d**2 + 4 * own**2 * d),
    ("All tokens go through the matrices: not those of the frame that is made alone.",
     lambda n, d, own: 24 * own * d**2 + 4 * n**2 * d),
)  # fmt: skip


def check_forward_flops(forward_flops=video.forward_flops, seed: int = 0) -> None:
    """24 n d^2 + 4 n^2 d for each block."""
    hint = "Each block: 24 n d^2 for its matrices (q, k, v 6, output 2, MLP 16), 4 n^2 d for attention."
    for n, d, depth in ((300, 8, 5), (1, 1, 1), (16, 64, 3), (15360, 1920, 1), (10**6 + 1, 1920, 1)):
        linear, attention = block(n, d) - 4 * n**2 * d, 4 * n**2 * d
        likely = (
            ("As many blocks, as many times the cost: depth is not used.", linear + attention),
            ("Each block has attention, not the first alone.", depth * linear + attention),
            ("Each block has matrices, not the first alone.", linear + depth * attention),
            *((sentence, depth * wrong(n, d, 1)) for sentence, wrong in WRONG_BLOCKS),
        )
        where = f"{n} tokens, d = {d}, depth {depth}"
        counted(forward_flops(n, d, depth), depth * block(n, d), where, likely, hint)
    counted(forward_flops(5, 4), block(5, 4), "Without depth", (), "One block by default.")


def bill(frames, steps, full, dim, depth, given, *, made=None, seen=None, block=block, together=False) -> int:
    """What a video costs, by hand: `made` are frames, `seen(frame, stage, K)` the levels of a pass."""
    k, total = len(steps), 0
    past = lambda frame, i: [max(i - age, 0) for age in range(frame - 1)]
    levels = seen or (lambda frame, i, k: [*past(frame, i), i])
    size = lambda level: full >> 2 * (k - 1 - level)
    for i, n in enumerate(steps):
        made = range(given + 1, frames + 1) if made is None else made
        passes = [sum(map(size, levels(frame, i, k))) for frame in made]
        passes = [sum(passes)] if together else passes
        total += n * sum(block(tokens, dim, size(i)) for tokens in passes)
    return depth * total


def check_video_flops(video_flops=video.video_flops, seed: int = 0) -> None:
    """Sums by hand: frames, steps, stages, blocks and given frames of every kind."""
    usual, width = [3, 5, 2], 8 + 4 * (seed % 5)
    past = lambda frame, i: [max(i - age, 0) for age in range(frame - 1)]
    for frames, steps, full, dim, depth, given in (
        (5, usual, 64, width, 1, 0),
        *((5, usual, 64, width, depth, 0) for depth in (3, 7)),
        *((5, usual, 64, width, depth, given) for depth in (1, 3) for given in (1, 2, 4, 5)),
        *((1, some, 64, width, 3, given) for some in (usual, [3], [1, 2, 1, 4]) for given in (0, 1)),
        *((5, some, 64, width, 1, 1) for some in ([0, 0, 3], [4, 0, 1])),
        *((7, [2, 1, 3, 2][:k], 64, width, 3, given) for k in (4, 2, 1) for given in (0, 3)),
        *((n, [1] * k, 3840, 1920, 1, 0) for n, k in ((16, 3), (31, 3), (31, 2), (31, 1))),
    ):
        args, handed = (frames, steps, full, dim, depth, given), [*steps]
        single = (*args[:4], 1, given)
        where = f"{frames} frames, steps {steps}, depth {depth}, {given} of them given"
        found = accepts(lambda: video_flops(frames, handed, full, dim, depth, given=given), where)
        assert handed == steps, "steps stays as it is."
        first = (
            "The frame after the given ones" if given else "The first frame, in passes that hold it alone,"
        )
        likely = (
            ("Given frames are not made, and cost nothing of their own.", {"made": range(1, frames + 1)}),
            ("Given frames are looked at: they are in the past of all others.",
             {"made": range(1, frames + 1 - given)}),
            ("One given frame too few is left out.", {"made": range(given, frames + 1)}),
            (f"{first} is made, too.", {"made": range(given + 2, frames + 1)}),
            ("The last frame is made, too.", {"made": range(given + 1, frames)}),
            ("A past too long: the first pass holds 1 frame, the one that is made.",
             {"made": range(given + 2, frames + 2)}),
            ("A frame too many is made.", {"made": range(given + 1, frames + 2)}),
            ("All frames are made, one after the other: not the last alone.", {"made": [frames]}),
            ("The past costs, too: every pass holds all that is seen.", {"seen": lambda f, i, k: [i]}),
            ("The frame that is made is in the pass, too.", {"seen": lambda f, i, k: past(f, i)}),
            ("Older frames are smaller: history_layout says how the past is seen.",
             {"seen": lambda f, i, k: [i] * f}),
            ("Frames are small in early stages, and so is the past.", {"seen": lambda f, i, k: [k - 1] * f}),
            ("The passes of early stages have fewer tokens than the last.",
             {"seen": lambda f, i, k: [*past(f, k - 1), k - 1]}),
            ("Passes of later stages have more tokens than the first.", {"seen": lambda f, i, k: [0] * f}),
            ("Every frame has a pass of its own: attention is within a pass.", {"together": True}),
            *((sentence, {"block": wrong}) for sentence, wrong in WRONG_BLOCKS),
        )  # fmt: skip
        likely = (
            *((sentence, bill(*args, **changes)) for sentence, changes in likely),
            ("`depth` is not used: as many blocks, as many times the cost.", bill(*single)),
            ("Each block has attention, not the first alone.",
             bill(*single, block=lambda n, d, own: depth * block(n, d) - (depth - 1) * 4 * n**2 * d)),
            ("Each block has matrices, not the first alone.",
             bill(*single, block=lambda n, d, own: block(n, d) + (depth - 1) * 4 * n**2 * d)),
            ("Stage 0 is the coarsest, and steps[0] are its steps.", bill(frames, steps[::-1], *args[2:])),
            ("Every step is a pass: steps are not used.", bill(frames, [1] * len(steps), *args[2:])),
            ("steps[i] are the steps of stage i: not all of them at every stage.",
             bill(frames, [sum(steps)] * len(steps), *args[2:])),
            ("A stage of 0 steps has no pass.", bill(frames, [max(n, 1) for n in steps], *args[2:])),
        )  # fmt: skip
        hint = "Frame by frame, stage by stage, so many steps, each a pass over all tokens of history_layout."
        counted(found, bill(*args), where, likely, hint)
    found = video_flops(5, [3, 5], 64, 8)
    hint = "By default there is one block, and no frame is given."
    counted(found, bill(5, [3, 5], 64, 8, 1, 0), "Without depth and given", (), hint)
    for frames, given in ((0, 0), (-1, 0), (-1, -1), (3, 4), (3, 9), (1, 2), (3, -1), (3, -2), (1, -1)):
        hint = f"{frames} frames, {given} of them given, must be refused."
        for some in ([3, 5], [1]):
            refuses(lambda: video_flops(frames, [*some], 16, 8, given=given), hint)


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
    """model, which keeps copies of what it is told and says, and is strict about the history."""

    def told(z, t, *rest, history=None, **more):
        hint = "A network is asked velocity(z, t, history=clips): the clips by this name, in a list."
        assert not rest and isinstance(history, (list, tuple)), hint
        good = all(isinstance(c, torch.Tensor) and c.dtype == z.dtype for c in history)
        assert good, f"The clips of the history are tensors in the dtype of z, {z.dtype}."
        answer = model(z, t, history, **more)
        clips = [c.detach().clone() for c in history]
        calls.append((z.detach().clone(), t.detach().clone(), clips, more, answer, answer.detach().clone()))
        return answer

    return recorded(told, [])


def check_video_loss(video_loss=video.video_loss, seed: int = 0) -> None:
    """By hand for several lengths, sizes and stages; gradient; packed; what corruption touches; refusals."""
    for cuts, shares, parts, shape, frames in (
        (CUTS[0], None, (2, 2), (4, 4, 4, 4, 4), [4, 3, 1, 2]),
        ([0, 1], None, (3,), (3, 2, 1, 2, 3), [1, 1, 1]),
        (CUTS[1], (2, 1, 1), (4, 2, 2), (8, 4, 2, 4, 12), [4, 1, 2, 4, 3, 2, 1, 4]),
    ):
        found, b, k = pyramid.stages(cuts), shape[0], len(cuts) - 1
        x, noise = 4 * images(*shape, seed=seed), 4 * images(b, *shape[2:], seed=seed + 1)
        if cuts is CUTS[0]:  # not everywhere: beside large numbers in a mean, float32 is no test of the small
            x, noise = videos(*shape, seed=seed), spiked(noise)
        u = 1 - torch.rand(b, generator=seeded(seed), dtype=DOUBLE)
        u[-1] = 1
        more = {"label": torch.arange(b), "tag": images(b, 3, seed=seed + 2)}
        stage = [i for i, n in enumerate(parts) for _ in range(n)]
        given = dict(x=x, noise=noise, u=u, frames=frames, stages=found, shares=shares, **more)
        kept = [x.clone(), noise.clone(), u.clone(), [*frames]]

        def both(velocity: Callable, calls: list, passes: list) -> Callable:
            """velocity, watched, with packed, which asks it for each entry."""
            network = watched(velocity, calls)

            def packed(zs, ts, history, label, tag):
                passes.append(len(zs))
                entries = zip(zs, ts, history, label, tag, strict=True)
                return [network(z, t, history=c, label=a, tag=b) for z, t, c, a, b in entries]

            network.packed = packed
            return network

        def told(velocity=net, packed=False, **changed) -> tuple[torch.Tensor, dict]:
            """The loss, and for each sample what the network was told, z, t, clips and tag, and answered."""
            calls, passes, seen = [], [], {}
            loss = video_loss(both(velocity, calls, passes), packed=packed, **(given | changed))
            hint = "With packed=True all share one pass: velocity.packed is asked once; else it is not asked."
            assert len(passes) == packed, hint
            dtype = changed.get("x", x).dtype
            assert isinstance(loss, torch.Tensor), f"Expected a tensor, got {type(loss).__name__}."
            assert loss.dtype == dtype, f"The loss has the dtype of the videos, {dtype}, not {loss.dtype}."
            finite(loss)
            for z, t, clips, tags, answer, said in calls:
                assert torch.equal(answer, said), "The network's answers stay as they are. Make new tensors."
                for n, j in enumerate(tags["label"].tolist()):
                    one = slice(n, n + 1)
                    assert j not in seen, f"Sample {j} is predicted twice: each once, with its label."
                    seen[j] = z[one], t[one], [c[one] for c in clips], tags["tag"][one], said[one]
            hint = f"Each sample is predicted once, with its label: not {[*seen]}."
            assert sorted(seen) == [*range(len(changed.get("x", x)))], hint
            return loss, seen

        def by_hand(j: int, frame: int, velocity=net, u=u) -> tuple:
            """Of sample j, if this frame is predicted: z, t, what the network answers, what is right."""
            one, i = slice(j, j + 1), stage[j]
            start, end = pyramid.stage_pair(x[one, frame], noise[one], i, found)
            z, t = u[j] * start + (1 - u[j]) * end, pyramid.network_time(u[one], found[i])
            clips = video.history(x[one, : frames[j] - 1], i, k)
            return z, t, velocity(z, t, clips, **{name: v[one] for name, v in more.items()}), start - end

        hands = [by_hand(j, frames[j] - 1) for j in range(b)]

        def error(sign=1, mean=torch.mean, hands=hands):
            return torch.stack([mean((a - sign * v) ** 2) for *_, a, v in hands])

        values = error()
        weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
        learned = lambda *args, weight=weight, **more: weight * net(*args, **more)
        low = {name: given[name].float() for name in ("x", "noise", "tag")}
        for packed in (False, True):
            how = f"{b} videos, {frames} of their frames in use{', packed' * packed},"
            loss, seen = accepts(lambda: told(packed=packed), how)
            same = agrees([x, noise, u, frames], kept)
            assert same, "The videos, their noise, times and lengths stay as they are."
            assert loss.shape == (b,), "A loss is one number per sample, (b,)."
            for j, (z, t, clips, tag, _) in sorted(seen.items()):
                where = (
                    f" Sample {j}, {frames[j]} frames in use, stage {stage[j]} of {k}{', packed' * packed}."
                )
                right, seen_of = hands[j], lambda n: (x[j : j + 1, :n], stage[j], k)
                close(
                    tag[0], more["tag"][j], f"Conditioning is handed on, all of it, sample by sample.{where}"
                )
                hint = f"{parts} samples are in the stages, the coarsest first: this is the size of another."
                assert z.shape == right[0].shape, hint + where
                likely = (
                    ("The predicted frame is in the history.", video.history(*seen_of(frames[j]))),
                    ("The history holds all frames, not those before.", video.history(*seen_of(shape[1]))),
                )
                wanted = seen_of(frames[j] - 1)
                same = agrees(clips, video.history(*wanted))
                assert same, f"The history. {instead(clips, *wanted, *likely)}{where}"
                likely = (
                    ("The first frame is predicted: it must be the last in use.", by_hand(j, 0)[0]),
                    ("The last frame of the video is predicted, not the last in use.", by_hand(j, -1)[0]),
                    (
                        "u = 1 is the start of the stage, and 0 its end.",
                        by_hand(j, frames[j] - 1, u=1 - u)[0],
                    ),
                    ("Nothing is clamped.", clamped(right[0], z)),
                )
                hint = "The network is asked at u start + (1 - u) end, of stage_pair of its frame and noise."
                explained(z, right[0], hint, likely, where=where)
                hint = "The network is told network_time(u, stage): it tells the stage."
                explained(
                    t, right[1], hint, [("This is u itself: network_time(u, stage).", u[[j]])], where=where
                )
            likely = (
                ("The losses are in the order of the passes, not of the batch.", values[[*seen]]),
                ("The loss is a mean over the sample's numbers, not their sum.", error(mean=torch.sum)),
                ("One loss for each sample, not their mean.", values.mean().expand(b)),
                ("The velocity is start - end, not end - start.", error(-1)),
                ("The mean square itself, not half of it.", values / 2),
                ("The mean square itself, no root of it.", values.sqrt()),
                ("Nothing is clamped.", values.clamp(max=loss.max())),
                ("The losses belong to other samples: they are in the order of the batch.",
                 values.sort().values[loss.detach().argsort().argsort()]),
            )  # fmt: skip
            hint = "The loss is the mean square of answer - (start - end), sample by sample."
            explained(loss, values, hint, likely, 1e-9)
            loss = told(learned, packed)[0]
            wanted = error(hands=[by_hand(j, frames[j] - 1, learned) for j in range(b)])
            assert loss.requires_grad, "The loss must have a gradient with respect to the network."
            grads = [torch.autograd.grad(a.sum(), weight)[0] for a in (loss, wanted)]
            close(*grads, "The gradient with respect to the network is not that of the loss.", 1e-9)
            close_in_float32(told(packed=packed, **low)[0], values, "The loss", 2e-5)
            told(packed=packed, **low, sigma=u / 2, generator=seeded(seed))  # strict about the past, too

    loss = accepts(lambda: told(frames=torch.tensor(frames))[0], "frames in a tensor")
    close(loss, values, "frames may be a tensor: the same loss as for a list.", 1e-9)

    # corruption; first where a single sample has a past, so that its noise can be drawn by hand
    few = {name: given[name][:3] for name in ("x", "noise", "u", *more)} | dict(frames=[1, 1, 4], shares=None)
    stays = "Corruption is for the past: the frame that is predicted stays as it is."
    three = exact(0.2, 0.5, 0.6)
    sigma, less = torch.linspace(0.1, 0.8, 8, dtype=DOUBLE), torch.linspace(0.7, 0.35, 8, dtype=DOUBLE)
    for packed in (False, True):
        g, hand = seeded(seed + 3), seeded(seed + 3)
        (_, seen), (_, before) = told(packed=packed, **few, sigma=three, generator=g), told(**few)
        for j in range(3):
            close(seen[j][0], before[j][0], stays)
        clips, clean = seen[2][2], before[2][2]
        right = video.corrupt(clean, three[2:], hand)

        def again(clips, share=three[2:], first=None, anew=None):
            """Corrupted, after another draw `first`, or with a generator of another seed."""
            g = seeded(seed + 3) if anew is None else torch.Generator().manual_seed(anew)
            if first is not None:
                torch.randn(first, generator=g, dtype=DOUBLE)
            return video.corrupt(clips, share, g)

        twice = told(packed=packed, **few, sigma=three, generator=seeded(seed + 3))[1][2][2]
        assert agrees(clips, twice), "The generator decides the noise: twice the same seed, and two results."
        draws = (x[:3], noise[:3], noise[:1], u[:3], u[:1], u[0])
        likely = (
            ("The history came clean: sigma corrupts it.", clean),
            ("The newest frame came clean: every clip is corrupted.", [*right[:-1], clean[-1]]),
            ("Halve first, then corrupt the small ones.", video.history(again([x[2:3, :3]])[0], 2, 3)),
            (
                "The noise is scaled by sigma, not by 2 sigma.",
                [2 * a - 0.4 * c for a, c in zip(right, clean)],
            ),
            ("The noise is drawn from the newest clip to the oldest.", again(clean[::-1])[::-1]),
            ("sigma is the share of the noise, not of the past.", again(clean, 1 - three[2:])),
            ("Nothing is clamped.", [clamped(*pair) for pair in zip(right, clips)]),
            *(("The past has the sigma of its own sample.", again(clean, some[None])) for some in three[:2]),
            *(
                ("The generator is used as it is: nothing is seeded anew.", again(clean, anew=anew))
                for anew in (g.initial_seed(), 0)
            ),
            *(
                ("Nothing else is drawn before the noise of the past.", again(clean, first=a.shape))
                for a in draws
            ),
        )
        hint = "The history is (1 - sigma) clip + sigma noise of `corrupt`: Gaussian, its own in each pixel."
        assert agrees(clips, right), named(clips, likely, hint, right)
        hint = "The generator is left where `corrupt` leaves it: it is handed on, and nothing else draws."
        assert torch.equal(g.get_state(), hand.get_state()), hint
        black = lambda sigma, s=seed: told(x=0 * x, packed=packed, sigma=sigma, generator=seeded(s))[1]
        corrupted, seen = told(packed=packed, sigma=sigma, generator=seeded(seed))
        versions = told()[1], seen, black(sigma), black(less), black(sigma, seed + 1)
        for j in range(8):
            close(seen[j][0], versions[0][j][0], stays)
            for c, a, noise_a, noise_b, noise_c in zip(*(version[j][2] for version in versions)):
                close(noise_a * less[j], noise_b * sigma[j], "The noise is scaled by its own sample's sigma.")
                close(
                    a - noise_a, (1 - sigma[j]) * c, "The past is scaled by 1 - the sigma of its own sample."
                )
                assert not torch.equal(noise_a, noise_c), "The generator draws the noise of the history."
        half = black(0 * sigma + 0.5)
        drawn = torch.cat([c.flatten() for j in range(8) for c in half[j][2]])
        hint = "Some noise of the past is used twice: each pixel of each frame of each sample has its own."
        assert len(drawn.unique()) == len(drawn), hint
        wanted = error(hands=[(seen[j][4], hands[j][3]) for j in range(8)])
        hint = "With sigma, too, the loss is the mean square of answer - (start - end), of the clean frame."
        close(corrupted, wanted, hint, 1e-9)
        loss = accepts(lambda: told(packed=packed, sigma=0 * u, generator=seeded(seed))[0], "sigma = 0")
        close(loss, values, "sigma = 0 leaves the past as it is.", 1e-9)

    eight = {"u": u, "sigma": u / 2, "label": more["label"]}
    for changed, what in (
        ({"x": x[:, 0]}, "Images in the place of videos"),
        ({"x": x[:, :, :1]}, "Videos of one channel, and noise of two"),
        ({"x": x[..., :4]}, "Videos of another width than the noise"),
        ({"noise": x}, "Noise for every frame"),
        *(({"noise": bad}, f"Noise {how}") for how, bad in misshapen(noise)),
        *(({name: a[:n]}, f"{n} in {name} for eight videos") for name, a in eight.items() for n in (1, 2, 7)),
        *(({name: torch.cat([a, a[:1]])}, f"9 in {name} for eight videos") for name, a in eight.items()),
        ({"u": u[:, None]}, "Local times of two axes"),
        ({"shares": (1, 1, 1)}, "A batch of 8 in three equal shares"),
        ({"shares": (1, 1)}, "Two shares for three stages"),
        ({"shares": (1, 1, 1, 1)}, "Four shares for three stages"),
        ({"frames": frames[:7]}, "Seven lengths for eight videos"),
        ({"frames": [*frames, 1]}, "Nine lengths for eight videos"),
        *(({"frames": [*frames[:7], n]}, f"{n} frames in use of a video of 4") for n in (5, 0, -1)),
        *(({"u": bad}, f"A local time {value:g}") for value, bad in one_bad(u, 0.0, -0.1, 1.5)),
        *(
            ({"sigma": bad, "frames": some}, f"sigma = {value:g} of a sample")
            for value, bad in one_bad(u / 2, 1.0, -0.1, 1.5)
            for some in (frames, [1] * 8)
        ),
    ):
        for packed in (False, True):
            hint = f"{what} must be refused{', also with packed=True' * packed}."
            refuses(lambda: video_loss(both(net, [], []), packed=packed, **(given | changed)), hint)
    for how, change in (
        ("of one channel", lambda a: a[:, :1]),
        ("of one sample too many", lambda a: torch.cat([a, a[:1]])),
        ("without a batch axis", lambda a: a[0]),
        ("of one number each", lambda a: a.mean((1, 2, 3))),
    ):
        bad = lambda *args, change=change, **more: change(net(*args, **more))
        for packed in (False, True):
            some = dict(x=x[:4, :3], noise=noise[:4], u=u[:4], frames=[3] * 4, stages=pyramid.stages([0, 1]))
            some |= {name: v[:4] for name, v in more.items()}
            hint = f"A network's answer {how} must be refused{', also with packed=True' * packed}."
            refuses(lambda: video_loss(both(bad, [], []), packed=packed, **some), hint)


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
    noise, given = videos(3, 5, 2, 4, 12, seed=seed), videos(3, 3, 2, 4, 12, seed=seed + 1)
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
        finite(made)
        return made

    def distinct(calls: list) -> list:
        """The questions, without those that repeat the one before: one may ask again to write a sum."""
        return [a for a, b in zip(calls, [None, *calls]) if b is None or not agrees(a[:3], b[:3], 0)]

    def beside(what, why, *likely, noise=noise, found=three, steps=1, given=None, **more):
        """Each question and each frame of the answer beside those by hand.

        Where they differ, `likely` are other arguments for which the roll-out by hand does the same, each
        with its sentence, and `why` is said otherwise.
        """
        before, k, memory = 0 if given is None else given.shape[1], len(found), more.get("memory")
        scales, first_steps = more.get("guidance", (1, 1)), more.get("first_steps")
        more["jumps"] = more.get("jumps") and more["jumps"][: noise.shape[1] - before]
        kept = [noise.clone(), given if given is None else given.clone()]
        asked, results, generators = [], [], []
        for roll in (lambda *args, **more: call(what, why, *args, **more), rolled):
            calls = {"velocity": [], "unconditional": []}
            a, b = watched(net, calls["velocity"]), watched(other, calls["unconditional"])
            handed = more | {"jumps": more["jumps"] and [[*fresh] for fresh in more["jumps"]]}
            handed |= {"generator": seeded(seed), "unconditional": None if scales == (1, 1) else b}
            counts = [[*n] if isinstance(n, list) else n for n in (steps, first_steps)]
            handed |= {"first_steps": counts[1]}
            results.append(roll(a, noise, found, counts[0], given, **handed))
            assert agrees(handed["jumps"], more["jumps"]), "The lists of jumps stay as they are."
            assert counts == [steps, first_steps], "The lists of steps stay as they are."
            assert agrees([noise, given], kept), "noise and given stay as they are. Make new tensors."
            same = all(torch.equal(answer, said) for some in calls.values() for *_, answer, said in some)
            assert same, "What the networks answer stays as it is. Make new tensors."
            asked.append({name: distinct(some) for name, some in calls.items()})
            generators.append(handed["generator"].get_state())
        made, hand = results

        def reason(f: int) -> str:
            """What frame f and those before it say about the mistake."""
            same = dict(noise=noise, found=found, steps=steps, given=given, unconditional=other) | more
            rolls = ((sentence, rolled(net, **same | changed)[:, : f + 1]) for sentence, changed in likely)
            return named(made[:, : f + 1], rolls, why, hand[:, : f + 1])

        if before:
            hint = "The given frames come first in the result, as they are."
            explained(
                made[:, :before], given, hint, [("Nothing is clamped.", clamped(given, made[:, :before]))]
            )
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
                (z, t, clips, *_), (wanted_z, wanted_t, wanted, *_) = next(pairs[name])
                where = f"{what} Frame {f}, stage {i}, step {step}: `{name}`"
                hint = f"{where} is asked at the wrong size: the stages take {counts} steps. {why}"
                assert z.shape == wanted_z.shape, hint
                if not agrees(clips, wanted):
                    small = lambda frames, i=i: video.history(frames, i, k)
                    recent = hand[:, before:f][:, -(memory or f) :]
                    instances = (
                        ("Given frames belong to the past, too.", small(recent)),
                        (
                            "`memory` is not used, or not for given frames: they count, too.",
                            small(hand[:, :f]),
                        ),
                        ("`memory` are the newest frames, not the oldest.", small(hand[:, :memory])),
                        ("Frames that have been made belong to the past, too.", small(hand[:, :before])),
                    )
                    past = hand[:, max(f - (memory or f), 0) : f]
                    raise AssertionError(f"{where} and its history. {instead(clips, past, i, k, *instances)}")
                if i == step == 0:
                    noises = ((n, pyramid.at_level(noise[:, n], k - 1, 2.0)) for n in {0, f - before, f - 1})
                    start = f"{where}: frame {f} starts from its own noise, noise[:, {f}], not from"
                    assert agrees(z, wanted_z), f"{start} {named(z, noises, 'another z')}."
                assert agrees(z, wanted_z), f"{where} is asked at another z. {reason(f)}"
                close(t, wanted_t, f"{where} is asked at another time: pyramid_sample hands it on.")
            limits = [("Nothing is clamped.", clamped(hand[:, f], made[:, f]))]
            same = agrees(made[:, f], hand[:, f])
            assert same, f"{what} Frame {f} itself. {named(made[:, f], limits, reason(f))}"
        hint = f"{what} The generator is where it was if jumps are given; else where their noise leaves it."
        assert torch.equal(*generators), hint

    own = "It is what pyramid_sample makes of noise[:, f] and jumps[k], for the k-th that is made."
    single = ("Every frame has jumps of its own, not jumps[0].", {"jumps": jumps[:1] * 5})
    last = ("jumps[0] is for the first frame that is made, not for the last.", {"jumps": jumps[1::-1]})
    turned = ("steps are those of each stage, the coarsest first.", {"steps": [3, 1, 2]})
    beside(
        "Three frames given, two to make.",
        own,
        single,
        last,
        turned,
        steps=[2, 1, 3],
        given=given,
        jumps=jumps,
    )
    beside("No frame given.", own, single, jumps=jumps)
    first = "first_steps are for a frame without a past, steps for all others."
    beside("No frame given, and first_steps.", first, first_steps=[2, 1, 1], jumps=jumps)
    for n in (2, 1):
        beside(f"{n} given, and first_steps.", first, given=given[:, :n], first_steps=2, jumps=jumps)
    what, why = "0 frames given, and first_steps.", "Frame 0 has no past, as if given were None."
    beside(what, why, steps=(1, 2, 1), given=given[:, :0], first_steps=2, jumps=jumps)
    for n, a, b in ((0, 7.5, 1.001), (0, 1, 2.0), (0, 0.0, 1), (1, 3.0, -1.5), (2, 2, 1), (2, 1, 7.5)):
        likely = (
            ("A frame without a past takes the first scale, not the second.", {"guidance": (b, b)}),
            ("A frame with a past takes the second scale, not the first.", {"guidance": (a, a)}),
            ("The first scale is for a frame without a past, the second for others.", {"guidance": (b, a)}),
            ("It begins at unconditional, not at conditional.", {"guidance": (1 + a, 1 + b)}),
            ("conditional and unconditional have changed places.", {"guidance": (1 - a, 1 - b)}),
        )
        why = "unconditional + scale (conditional - unconditional), whatever the scale."
        what = f"guidance {a, b}, {n} frames given."
        beside(what, why, *likely, given=given[:, :n], guidance=(a, b), jumps=jumps)
    for memory in (1, 4, 9):
        what = f"memory={memory}: the newest {memory} of the past are seen, or all while there are fewer."
        beside(what, own, given=given, memory=memory, jumps=jumps)
    fresh = "The noise of each jump is drawn from the generator as it is handed on, frame after frame."
    beside("A generator, and no jumps.", fresh, steps=2, given=given)
    beside("A generator, no jumps and no frame given.", fresh)
    everything = dict(steps=[1, 2, 1], first_steps=2, guidance=(3.0, 1.5), memory=2)
    for n in (0, 1, 3):
        beside(f"All arguments, {n} frames given.", own, given=given[:, :n], jumps=jumps, **everything)
        beside(f"All arguments but jumps, {n} frames given.", fresh, given=given[:, :n], **everything)
    four, long = pyramid.stages([0, 0.2, 0.5, 0.75, 1]), videos(2, 8, 1, 8, 24, seed=seed + 4)
    many = [[images(2, 1, s, 3 * s, seed=seed + 20 * f + s) for s in (2, 4, 8)] for f in range(8)]
    beside("Eight frames, four stages.", own, noise=long, found=four, given=long[:, 1:3].cos(), jumps=many)
    equal, two, one = videos(4, 4, 4, 4, 4, seed=seed + 3), pyramid.stages(CUTS[0]), pyramid.stages([0, 1])
    beside("Two stages; all sizes are 4.", fresh, noise=equal, found=two, given=equal[:, 1:2].cos())
    beside("One stage.", own, found=one, steps=2, given=given, jumps=[[]] * 5)
    beside("All frames given, none to make.", own, noise=noise[:, :3], given=given, jumps=[])
    with torch.random.fork_rng([]):
        torch.set_rng_state(seeded(seed).get_state())
        made = call("No jumps and no generator.", "", net, noise, three, 1, given)
    hand = rolled(net, noise, three, 1, given, generator=seeded(seed))
    close(made, hand, "Without jumps and generator the noise is torch's own: torch.manual_seed.", 1e-9)
    for cuts in (*CUTS, [0, 1]):
        found = pyramid.stages(cuts)
        what, g = f"{len(found)} stages.", seeded(seed)
        made = call(what, "", copying(found), noise, found, 2, given, generator=g)
        hint = "A model that copies the newest frame of its history must make copies of the last one given."
        close(made, torch.cat([given, given[:, 2:].expand(-1, 2, -1, -1, -1)], 1), hint, 1e-8)
    noise, given = images(*noise.shape, seed=seed), images(*given.shape, seed=seed + 1)
    low, nets = [[a.float() for a in fresh] for fresh in jumps[:2]], (watched(net, []), watched(other, []))
    single = nets[0], noise.float(), three, 2, given.float(), None, nets[1], (1, 1.5)
    hand = rolled(net, noise, three, 2, given, None, other, (1, 1.5), jumps=jumps)
    close_in_float32(call("All in float32.", "", *single, jumps=low), hand, "The video")

    full = torch.cat([given, given], 1)
    for start, n in ((None, 5), (given[:, :0], 5), (given, 2), (full[:, :5], 0)):
        where = f", with {5 - n} frames given, must be refused."
        for changed, what in (
            *(({"guidance": pair}, f"guidance {pair} without unconditional")
              for pair in ((1, 2.0), (2.0, 1), (0, 1), (1, 0), (2, 0), (3.0, 3.0))),
            ({"memory": 0}, "A memory of no frame"),
            ({"memory": -1}, "A memory of -1 frames"),
            *(({"jumps": (jumps * 2)[:some]}, f"Noises for {some} frames when {n} are made")
              for some in (0, 1, n - 1, n + 1, 6) if some not in (n, -1)),
        ):  # fmt: skip
            refuses(lambda: rollout(net, noise, three, 1, start, **changed), what + where)
    for how, bad in misshapen(given[:, 0]):
        for n in (1, 5):
            start = torch.stack([bad] * n, 1)
            hint = f"{n} given frame{'s' * (n > 1)} {how}, for five noises, must be refused."
            refuses(lambda: rollout(net, noise, three, 1, start), hint)
    refuses(lambda: rollout(net, noise, three, 1, full), "Six given frames for five noises must be refused.")
    refuses(lambda: rollout(net, noise[:, 0], three, 1), "Noise of one image must be refused.")
    refuses(lambda: rollout(net, noise[None], three, 1), "Noise of six axes must be refused.")
